"""The loop over epochs: the only one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sksmooth.engine.monitor import Monitor, Scores
from sksmooth.engine.stack import Losses, Stack
from sksmooth.modules import telling


class Epoch(NamedTuple):
    """What an epoch leaves behind."""

    number: int  # from 1
    losses: list[Losses]  # of each stack
    train_loss: NDArray[np.float64]  # the mean of each set's nets
    scores: Scores | None  # of each set; None where no rows are held out
    active: NDArray[np.bool_]  # the sets that were still in training, and have not failed
    failed: dict[int, str]  # what went wrong in it, by the number of the set
    seconds: float  # what it took
    # Seconds that those to come take at most, at the pace of those before; None: not known.
    left: float | None = None


def train(
    stacks: Sequence[Stack],
    monitor: Monitor,
    max_epochs: int,
    on_epoch_begin: Callable[[], Any],
    record: Callable[[Epoch], Any],
    on_epoch_end: Callable[[Epoch], Any],
    max_time: float | None = None,
) -> bool:
    """Train stacks until their monitor says so, or for a number of epochs or seconds.

    Whoever interrupts, as Ctrl-C does, after the first epoch ends the training: the monitor has
    kept the best one of those that were recorded. Before, there is nothing to keep, and the
    interrupt goes on. Gives whether it was interrupted.

    Parameters
    ----------
    stacks : sequence of Stacks
        Whose nets are trained.
    monitor : Monitor
        Watches them, and may have done so before.
    max_epochs : int
        The most epochs, those before included.
    on_epoch_begin, record, on_epoch_end : callables
        Called around each epoch, the latter two with the Epoch. One that is not recorded when it is
        interrupted is as if it had never begun. All may interrupt, too.
    max_time : float or None, default=None
        Seconds after which no further epoch begins; None: no bound.
    """
    start = time.perf_counter()
    recorded = monitor.n_epochs, monitor.best
    n_before = monitor.n_epochs
    losses: list[Losses] = []
    try:
        for number in range(n_before + 1, max_epochs + 1):
            if monitor.is_over:
                break
            on_epoch_begin()
            begin = time.perf_counter()
            with telling():
                losses = [
                    losses[own] if monitor.is_done(own) else stack.run_epoch()
                    for own, stack in enumerate(stacks)
                ]
                active = monitor.active.copy()
                train_loss, scores = monitor.look(losses)
            failed = {own: what for own, what in monitor.failed.items() if active[own]}
            active[list(failed)] = False
            now = time.perf_counter()
            left = (now - start) / (number - n_before) * (max_epochs - number)
            if max_time is not None:
                left = min(left, max(max_time - (now - start), 0.0))
            epoch = Epoch(number, losses, train_loss, scores, active, failed, now - begin, left)
            record(epoch)
            recorded = monitor.n_epochs, monitor.best
            on_epoch_end(epoch)
            is_late = max_time is not None and time.perf_counter() - start >= max_time
            if is_late:
                break
    except KeyboardInterrupt:
        if recorded[0] == 0:
            raise
        monitor.n_epochs, monitor.best = recorded
        return True
    return False
