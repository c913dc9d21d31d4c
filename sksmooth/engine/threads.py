"""How many of torch's threads the calling thread uses, and nobody else's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch

# What one more thread must have to do in one go to pay for being woken, in floating-point
# operations: products of one net have to be cut in pieces, those of a stack are dealt out net by
# net.
FLOPS_PER_THREAD = 100e6
FLOPS_PER_THREAD_IN_A_STACK = 25e6

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
    library = ctypes.PyDLL(torch._C.__file__)
    openmp = getattr(library, "omp_set_num_threads", None)
    if openmp is None:
        return None
    return _Controls(openmp, getattr(library, "MKL_Set_Num_Threads_Local", None))


class _Process:
    """Whether this process was forked off: torch's pool of threads is not in it, then."""

    is_forked = False

    @classmethod
    def note_fork(cls) -> None:
        cls.is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.note_fork)


@contextmanager
def threads_for(flops: float | None, n_nets: int = 1) -> Iterator[None]:
    """Let the calling thread use as many of torch's threads as some work keeps busy.

    Work on a small net is too short to be dealt out: waking the threads takes longer, on a busy
    machine very much longer. Other threads are not concerned, and afterwards all is as before. The
    number that torch allows stays the upper bound; a forked process has one thread.

    Parameters
    ----------
    flops : float or None
        Floating-point operations between two waits. None: not known, so that all threads may be
        used.
    n_nets : int, default=1
        How many nets of a stack share them.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with threads_for(1e6):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    allowed = torch.get_num_threads()
    needed = allowed
    if _Process.is_forked:
        needed = 1
    elif flops is not None:
        per_thread = FLOPS_PER_THREAD if n_nets == 1 else FLOPS_PER_THREAD_IN_A_STACK
        needed = min(allowed, 1 + int(flops / per_thread))
    controls = None if needed == allowed else _controls()
    if controls is None:
        yield
        return
    controls.openmp(needed)
    before = 0 if controls.mkl is None else controls.mkl(needed)
    try:
        yield
    finally:
        controls.openmp(allowed)
        if controls.mkl is not None:
            controls.mkl(before)


def flops_of(module: Any) -> float | None:
    """Give the work of a module's forward pass on a row, a third of that of a training step.

    Parameters
    ----------
    module : torch module
        The net.

    Returns
    -------
    float or None
        Floating-point operations; None where some layer is not a dense one.

    Examples
    --------
    >>> import torch
    >>> flops_of(torch.nn.Linear(10, 5, bias=False))
    100.0
    """
    owners = [part for part in module.modules() if part._parameters]
    if not all(isinstance(part, DENSE_LAYERS) for part in owners):
        return None
    return 2.0 * sum(part.numel() for part in module.parameters())
