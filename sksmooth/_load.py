"""Loads parameters into a net whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sksmooth.engine.adam import misfit


@contextmanager
def whole_or_not_at_all(net: Any) -> Iterator[None]:
    """Put a net's parts back if what the block loads into them does not fit, or is not finite.

    Parameters
    ----------
    net : skorch net
        Into whose modules, criteria and optimizers something is loaded.

    Raises
    ------
    ValueError
        If loaded parameters are not finite, or the optimizer's state is of other shapes.
    """
    names = [f"{name}_" for name in net._modules + net._criteria + net._optimizers]
    parts = [getattr(net, name) for name in names if hasattr(net, name)]
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    try:
        yield
        for part in parts:
            _refuse(part)
    except BaseException:
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        raise


def _refuse(part: Any) -> None:
    if isinstance(part, torch.optim.Optimizer):
        what = misfit(part)
        if what is not None:
            raise ValueError(
                f"The loaded state of {type(part).__name__} is of another module: {what}."
            )
        return
    for name, value in part.state_dict().items():
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            raise ValueError(f"The loaded {name} of {type(part).__name__} is not finite.")
