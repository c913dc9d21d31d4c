"""A stack of one that skorch's own steps train: for all that listens to them or replaces them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.dataset import unpack_data
from torch import Tensor
from torch.autograd.graph import increment_version

from sksmooth._private import complete_copy, copy_all
from sksmooth.engine.randomness import OwnRandomness, lent
from sksmooth.engine.stack import Losses, Scored, uncached_autocast
from sksmooth.engine.threads import threads_for


class SkorchStack:
    """Trains a net by its ``run_single_epoch``, and whatever that calls.

    Parameters
    ----------
    net : skorch net
        With a context manager ``weighing(weight, relative_weight)``, in which its loss weighs the
        rows of a batch, and the batch beside others, and ``read_logits(output)``.
    train, held_out : iterables
        The batches to train on, and those to score, or None.
    randomness : OwnRandomness
        From which batches, or whatever draws, are drawn.
    draws_anywhere : bool
        Whether it is to act on whole steps, which slows them. Otherwise it acts on the batches
        here, and the net's own ``infer`` and ``notify`` see to the rest.
    fit_params : dict
        Arguments of the module's forward.
    """

    n_members = 1

    def __init__(
        self,
        net: Any,
        train: Iterable,
        held_out: Iterable | None,
        randomness: OwnRandomness,
        draws_anywhere: bool,
        fit_params: Mapping[str, Any],
    ) -> None:
        for name in net._optimizers:
            complete_copy(getattr(net, f"{name}_"))
        self.net = net
        self.train = train
        self.mean_weight = _mean_weight(train)
        self.held_out = held_out
        self.device = torch.device(net.device or "cpu")
        self.fit_params = fit_params
        self.randomness = randomness
        self.draws_anywhere = draws_anywhere

    def run_epoch(self) -> Losses:
        """Train by one pass over the batches."""
        passed = _Pass(self.net)
        self._run(self.train, True, "train", self.net.train_step, passed)
        increment_version(self.state())  # torch's fused optimizers do not
        return passed.losses()

    def score(self) -> Scored | None:
        """Score the held-out rows, as skorch does."""
        if self.held_out is None:
            return None
        passed = _Pass(self.net, keeps_logits=True)
        self._run(self.held_out, False, "valid", self.net.validation_step, passed)
        return passed.scored()

    def _run(self, batches: Any, training: bool, prefix: str, step_fn: Any, passed: _Pass) -> None:
        def step(batch: Any, **params: Any) -> dict[str, Any]:
            weight = getattr(batch, "sample_weight", None)
            relative = None
            if training and weight is not None and self.mean_weight is not None:
                relative = (weight.mean() / self.mean_weight).clamp_max(1)
            with self.net.weighing(weight, relative):
                outcome = step_fn(batch, **params)
            passed.add(batch, outcome)
            return outcome

        if not self.draws_anywhere:
            batches = self._drawn(batches)
        with self._seeded(), uncached_autocast(), self._threads():
            self.net.run_single_epoch(batches, training, prefix, step, **self.fit_params)

    def _seeded(self) -> AbstractContextManager:
        if not self.net.compile:
            return self.randomness if self.draws_anywhere else nullcontext()
        # The compiler knows no modes.
        devices = dict.fromkeys((torch.device("cpu"), self.device))
        return lent(*map(self.randomness.generator, devices))

    def _drawn(self, batches: Iterable) -> Iterator[Any]:
        """Draw the batches one by one."""
        with self.randomness:
            iterator = iter(batches)
        while True:
            with self.randomness:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except IndexError as error:
                    split = getattr(self.net, "train_split", None)
                    who = "cross-validation" if split is None else f"train_split={split!r}"
                    raise ValueError(
                        "The batches name rows that are not among those to train on, perhaps by a "
                        f"sampler made for all rows, of which {who} holds some out: {error}. Make "
                        "the sampler for the rows that are left, or set train_split=None or to "
                        "skorch.helper.predefined_split(dataset)."
                    ) from error
            yield batch

    def _threads(self) -> AbstractContextManager:
        module = getattr(self.net, "module_", None)  # a subclass may name it otherwise
        n_rows = getattr(self.train, "batch_size", None)
        if n_rows is None:
            return nullcontext()
        rows = getattr(self.train, "rows", None)  # where they are in memory
        n_numbers = getattr(self.net, "n_inputs_", None) if rows is None else rows.X[0].numel()
        return threads_for(module, 3 * n_rows, n_numbers)

    def state(self) -> list[Tensor]:
        """Give the parameters and buffers of all modules."""
        modules = [getattr(self.net, f"{name}_") for name in self.net._modules]
        return [value for module in modules for value in (*module.parameters(), *module.buffers())]

    @torch.no_grad()
    def write_back(self, m: int, state: Sequence[Tensor]) -> None:
        """Give the modules what a copy of their state holds."""
        copy_all(self.state(), list(state))


def _mean_weight(batches: Any) -> Tensor | None:
    """Give the mean weight of the rows that batches are made of; None where it is not known."""
    rows = getattr(batches, "rows", None)
    weight = getattr(rows, "sample_weight", None)
    return None if weight is None else weight[batches.index].mean()


class _Pass:
    """What one pass over the batches leaves behind."""

    def __init__(self, net: Any, keeps_logits: bool = False) -> None:
        self.net = net
        self.keeps_logits = keeps_logits
        # Tensors stay where they are until the end: to read one, the host waits for the device.
        self.values: list[Tensor] = []
        self.totals: list[float | Tensor] = []
        self.sizes: list[int] = []
        self.logits: list[NDArray] = []
        self.labels: list[NDArray] = []
        self.weights: list[NDArray] = []

    def add(self, batch: Any, outcome: dict[str, Any]) -> None:
        """Take in a batch and the outcome of its step."""
        _, y = unpack_data(batch)
        weight = getattr(batch, "sample_weight", None)
        self.values.append(outcome["loss"].detach())
        self.sizes.append(len(y))
        # In training, what a batch weighs beside others is in its loss.
        self.totals.append(len(y) if weight is None or not self.keeps_logits else weight.sum())
        if self.keeps_logits:
            self.logits.append(self.net.read_logits(outcome["y_pred"]).detach().cpu().numpy())
            self.labels.append(torch.as_tensor(y).cpu().numpy())
            if weight is not None:
                self.weights.append(weight.cpu().numpy())

    def losses(self) -> Losses:
        """Give the losses of the batches."""
        if not self.values:
            raise ValueError(
                "There is no batch: there are no rows, or fewer than batch_size, and drop_last "
                "leaves out a batch that is not full."
            )
        values = torch.stack(self.values).reshape(1, -1).cpu().numpy()
        return Losses(values, np.array([list(map(float, self.totals))]), [self.sizes])

    def scored(self) -> Scored:
        """Give the logits of all rows."""
        loss = self.losses().means()
        logits = np.concatenate(self.logits)[None]
        y = np.concatenate(self.labels)[None].astype(np.int64)
        weight = np.concatenate(self.weights)[None] if self.weights else None
        is_weighted = weight is not None
        return Scored(logits, y, weight, [y.shape[1]], is_weighted, loss)
