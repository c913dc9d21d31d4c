"""How many of torch's threads the calling thread uses, and nobody else's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, wraps
from itertools import pairwise
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch.nn.parameter import is_lazy

from sksmooth._private import torch_library
from sksmooth.modules import SimpleNet

P = ParamSpec("P")
R = TypeVar("R")

# What one more thread must have to do in one go to pay for being woken, in floating-point
# operations: some 20 ms. On a machine that is busy, it may have to wait that long for a processor,
# and the others for it (benchmarks/as_it_comes.py).
FLOPS_PER_THREAD = 1e9

DENSE_LAYERS = (torch.nn.Linear, torch.nn.BatchNorm1d, torch.nn.LayerNorm)


class _Controls(NamedTuple):
    """Set the number of threads that the calling thread's OpenMP regions and MKL calls use."""

    openmp: Callable[[int], Any]
    mkl: Callable[[int], int] | None  # gives the number before; 0 means as many as OpenMP


@cache
def _controls() -> _Controls | None:
    """Find the functions in the libraries that torch is linked with; None where they are not.

    ``torch.set_num_threads`` is no choice: what it sets also holds for threads that start later.
    """
    library = ctypes.PyDLL(torch_library())
    openmp = getattr(library, "omp_set_num_threads", None)
    if openmp is None:
        return None
    return _Controls(openmp, getattr(library, "MKL_Set_Num_Threads_Local", None))


# torch's pool of threads is not in a process that was forked off after this import.
_IMPORTING_PROCESS = os.getpid()


@contextmanager
def limit_threads(flops: float | None) -> Iterator[None]:
    """Let the calling thread use as many of torch's threads as some work keeps busy.

    `flops` is the work between two waits, in floating-point operations; None: not known, so that
    all threads may be used. Work on a small net is too short to be dealt out: waking the threads
    takes longer, on a busy machine very much longer. Other threads are not concerned, and
    afterwards all is as before. The number that torch allows stays the upper bound; a forked
    process has one thread.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with limit_threads(1e6):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    allowed = torch.get_num_threads()
    needed = allowed
    if os.getpid() != _IMPORTING_PROCESS:
        needed = 1
    elif flops is not None:
        needed = min(allowed, 1 + int(flops / FLOPS_PER_THREAD))
    controls = None if needed == allowed else _controls()
    if controls is None:
        yield
        return
    before = 0
    try:
        controls.openmp(needed)
        before = 0 if controls.mkl is None else controls.mkl(needed)
        yield
    finally:
        controls.openmp(allowed)
        if controls.mkl is not None:
            controls.mkl(before)


def outlives_fork(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method use one thread in a forked process, which torch's other threads are not in.

    It would wait for them forever where it calls torch outside of :func:`limit_threads`.
    """

    @wraps(method)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        if os.getpid() == _IMPORTING_PROCESS:
            return method(*args, **kwargs)
        with limit_threads(None):
            return method(*args, **kwargs)

    return alone


def threads_for(module: Any, n_rows: int, n_numbers: int | None = None) -> AbstractContextManager:
    """Let the calling thread use as many of torch's threads as a forward pass can keep busy.

    `n_rows` of `n_numbers` each go through the module, or through several of its kind in one stack;
    a training step is the work of three passes. A module whose work is not known is left alone.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with threads_for(torch.nn.Linear(10, 3), n_rows=1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    flops = flops_of(module, n_numbers)
    return limit_threads(None if flops is None else flops * n_rows)


def flops_of(module: Any, n_numbers: int | None = None) -> float | None:
    """Give the work of a module's forward pass on a row, a third of that of a training step.

    In floating-point operations; None where it is not known, or some layer has no size yet. In
    other than dense layers a parameter may meet each of the `n_numbers` of a row, as in a
    convolution, and rarely more: where they are given, that is the work at most.

    Examples
    --------
    >>> import torch
    >>> flops_of(torch.nn.Linear(10, 5, bias=False))
    100.0
    """
    if type(module) is SimpleNet and type(module.layers) is torch.nn.ModuleList:
        encoding = module.encoding
        n_inputs = module.n_features if encoding is None else encoding.n_outputs
        widths = (n_inputs, *module.hidden_layer_sizes, module.n_classes)
        return 2.0 * sum((1 + n_in) * n_out for n_in, n_out in pairwise(widths))
    if not isinstance(module, torch.nn.Module) or any(map(is_lazy, module.parameters())):
        return None
    owners = [part for part in module.modules() if part._parameters]
    times = 1 if all(isinstance(part, DENSE_LAYERS) for part in owners) else n_numbers
    return None if times is None else 2.0 * times * sum(p.numel() for p in module.parameters())
