"""Watches held-out rows after each epoch: the only early stopping."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sksmooth._private import copy_all
from sksmooth._refine import refine
from sksmooth.engine.stack import Losses, Scored, Stack
from sksmooth.engine.threads import limit_threads

# The temperature's prior weighs as much as this many rows: enough to keep held-out rows that are
# all classified correctly from promising certainty.
PRIOR_STRENGTH = 1.0

# How far the temperature is solved for the refined loss of an epoch: to a relative error of this
# number's square.
REFINING_TOLERANCE = 0.01

BAD_LOSS = "The training loss turned {}"
BAD_LOGITS = "The logits of held-out rows turned infinite or NaN"


class Scores(NamedTuple):
    """The scores of S sets of held-out rows after an epoch; NaN for sets that are done."""

    refined_loss: NDArray[np.float64]  # all of shape (S,)
    accuracy: NDArray[np.float64]
    losses: NDArray | None  # of training, on these rows
    cost: NDArray[np.float64]  # what is lowest at the best epoch; mostly the refined loss

    def named(self) -> dict[str, NDArray]:
        """Give the scores by their names in skorch's history."""
        loss = {} if self.losses is None else {"valid_loss": self.losses}
        return {**loss, "valid_acc": self.accuracy, "refined_loss": self.refined_loss}


class Best(NamedTuple):
    """The best epoch of each of S sets, and what was then; only replaced as a whole."""

    epoch: NDArray[np.int64]  # from 1; 0 where there is none yet
    cost: NDArray[np.float64]  # what was lowest
    loss: NDArray[np.float64]  # the refined one
    scored: Scored  # the held-out rows
    state: list[Tensor]  # copies of the stacks' states, one stack's after the other's


class Monitor:
    """Remembers the best epoch so far, and tells when there is none to be hoped for.

    It watches S sets of held-out rows: one for a fit, one for each net of a search, or one for each
    ε over all its folds.

    Parameters
    ----------
    stacks : sequence of Stacks
        Whose nets are trained.
    sets : sequence of ndarrays of int, default=None
        For each stack, which set each of its members belongs to. None: a set for each member of the
        only stack.
    patience : int or None, default=None
        Epochs without a lower refined loss after which a set is done. None: never, and the last
        epoch is the best.
    collect : callable, default=None
        Takes the stacks, gives the Scored of all sets. None: what the only stack scores.
    cost : callable, default=None
        Takes the logits of a set's rows and the inverse temperature that refines them; gives what
        is to be lowest at the best epoch, and of equal ones the refined loss decides. None: the
        refined loss. NaN is the highest.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        sets: Sequence[NDArray[np.intp]] | None = None,
        patience: int | None = None,
        collect: Callable[[Sequence[Stack]], Scored | None] | None = None,
        cost: Callable[[NDArray, float], float] | None = None,
    ) -> None:
        self.stacks = stacks
        self.sets = [np.arange(stacks[0].n_members)] if sets is None else sets
        self.patience = patience
        self.collect = collect or (lambda stacks: stacks[0].score())
        self.cost = cost
        n_sets = 1 + max(int(own.max()) for own in self.sets)
        self.n_epochs = 0  # that it has looked at
        self.active = np.ones(n_sets, dtype=bool)  # the sets that are not done
        self.failed: dict[int, str] = {}  # what went wrong with a set
        self.best: Best | None = None  # before the first epoch, and where no rows are held out
        self.inverse_temperature: NDArray | None = None  # of each set, at the last epoch
        self._spare: list[Tensor] | None = None
        self._written: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether no set is left to train for."""
        return not self.active.any()

    def is_done(self, stack: int) -> bool:
        """Tell whether no set of the stack with that number is left to train for."""
        return not self.active[self.sets[stack]].any()

    def look(self, losses: Sequence[Losses]) -> tuple[NDArray[np.float64], Scores | None]:
        """Look at the epoch that has just ended, by the losses of each stack.

        Gives the mean training loss of each set's nets, of shape (S,), and the scores; None where
        no rows are held out.
        """
        train_loss = self._train_loss(losses)
        self._give_up(~np.isfinite(train_loss), [BAD_LOSS.format(loss) for loss in train_loss])
        scored = self.collect(self.stacks)
        scores = None if scored is None else self._score(scored)
        self.n_epochs += 1
        if scored is not None and scores is not None:
            self._look_for_best(scored, scores)
        return train_loss, scores

    def _train_loss(self, losses: Sequence[Losses]) -> NDArray[np.float64]:
        n_sets = len(self.active)
        means = np.concatenate([own.means() for own in losses])
        if len(means) == n_sets:  # a net for each set, in order
            return means
        sets = np.concatenate(self.sets)
        return np.bincount(sets, means, n_sets) / np.bincount(sets, None, n_sets)

    def _give_up(self, failed: NDArray[np.bool_], what: Sequence[str]) -> None:
        for number in np.flatnonzero(self.active & failed).tolist():
            self.failed[number] = what[number]
        self.active &= ~failed

    def _score(self, scored: Scored) -> Scores:
        n_sets = len(self.active)
        self._give_up(~np.isfinite(scored.logits).all(axis=(1, 2)), [BAD_LOGITS] * n_sets)
        active = np.flatnonzero(self.active)
        refined_loss, accuracy, cost = (np.full(n_sets, np.nan) for _ in range(3))
        if len(active):
            own = slice(None) if len(active) == n_sets else active
            logits, y = scored.logits[own], scored.y[own]
            weight = None if scored.weight is None else scored.weight[own]
            before = self.inverse_temperature
            refined = refine(
                logits,
                y,
                weight,
                prior_strength=PRIOR_STRENGTH,
                start=None if before is None else before[active],
                tolerance=REFINING_TOLERANCE,
            )
            known = np.ones(n_sets) if before is None else before.copy()
            known[active] = refined.inverse_temperature
            self.inverse_temperature = known
            refined_loss[active] = refined.log_loss
            accuracy[active] = np.average(logits.argmax(-1) == y, axis=1, weights=weight)
            cost[active] = refined.log_loss
            if self.cost is not None:
                costs = list(map(self.cost, logits, refined.inverse_temperature))
                cost[active] = np.nan_to_num(costs, nan=np.inf, posinf=np.inf, neginf=-np.inf)
        return Scores(refined_loss, accuracy, scored.losses, cost)

    def _look_for_best(self, scored: Scored, scores: Scores) -> None:
        before = self.best
        epoch, cost, loss = (0, np.inf, np.inf) if before is None else before[:3]
        improved = self.active.copy()
        if before is not None and self.patience is not None:
            is_lower, is_equal = scores.cost < cost, scores.cost == cost
            improved &= is_lower | is_equal & (scores.refined_loss < loss)
        if improved.any() or before is None:
            self.best = Best(
                np.where(improved, self.n_epochs, epoch),
                np.where(improved, scores.cost, cost),
                np.where(improved, scores.refined_loss, loss),
                scored if before is None else _merge(before.scored, scored, improved),
                self._copy_state(improved),
            )
            self._spare = None if before is None else before.state
        if self.patience is not None and self.best is not None:
            self.active &= self.n_epochs - self.best.epoch < self.patience

    @limit_threads(0.0)  # to copy is too little work for more
    @torch.no_grad()
    def _copy_state(self, improved: NDArray[np.bool_]) -> list[Tensor]:
        """Copy the state of the nets of some sets; of the others, what was kept before."""
        states = [stack.state() for stack in self.stacks]
        now = [tensor for state in states for tensor in state]
        kept = self._spare
        if kept is None or len(kept) != len(now):
            kept = [torch.empty_like(tensor) for tensor in now]
        if self.best is None or improved.all():
            copy_all(kept, now)
            return kept
        before, copies = iter(self.best.state), iter(kept)
        for state, sets in zip(states, self.sets, strict=True):
            is_new = torch.from_numpy(improved[sets])
            for tensor in state:
                _choose(is_new, tensor, next(before), next(copies))
        return kept

    def start_of(self, number: int) -> float | None:
        """Give where to begin to look for the temperature of a set."""
        known = self.inverse_temperature
        return None if known is None else float(known[number])

    def epochs_since_best(self, number: int) -> int:
        """Give how many epochs ago the best one of a set was; 0 where no rows are held out."""
        return 0 if self.best is None else self.n_epochs - int(self.best.epoch[number])

    def held_out_of(self, number: int) -> tuple | None:
        """Give what the calibrator of a set is fitted to: all of its best epoch.

        That is logits, class indices and weights of the held-out rows, and where to begin to look
        for the temperature; None where no rows are held out.
        """
        return self.best and (*self.best.scored.of(number), self.start_of(number))

    @limit_threads(0.0)
    def restore(self, numbers: Collection[int] | None = None) -> None:
        """Give the modules of some sets the state of their best epoch; None: of all.

        Where nothing was kept, since no rows are held out, they get the state as it is now.
        """
        chosen = set(range(len(self.active)) if numbers is None else numbers) - self._written
        kept = None if self.best is None else iter(self.best.state)
        for stack, sets in zip(self.stacks, self.sets, strict=True):
            state = stack.state()
            if kept is not None:
                state = [next(kept) for _ in state]
            for m, number in enumerate(sets):
                if number in chosen:
                    stack.write_back(m, state)

    @contextmanager
    def restored(self, number: int) -> Iterator[None]:
        """Let the modules of a set have the state of its best epoch while the block lasts."""
        in_place = [stack for stack in self.stacks if stack.n_members == 1]
        states = [[tensor.detach().clone() for tensor in stack.state()] for stack in in_place]
        self.restore([number])
        try:
            yield
        finally:
            for stack, state in zip(in_place, states, strict=True):
                stack.write_back(0, state)

    def stop(self, numbers: Collection[int] | None = None) -> None:
        """Let some sets be done with the epoch that it has looked at; None: all."""
        chosen = range(len(self.active)) if numbers is None else numbers
        if self.best is None:  # their nets may be trained further beside others
            self.restore(chosen)
            self._written.update(chosen)
        self.active[list(chosen)] = False


def _choose(is_new: Tensor, now: Tensor, before: Tensor, out: Tensor) -> None:
    """Write to `out` the members of `now` that are new, and else those of `before`."""
    if len(is_new) == 1:
        out.copy_(now if bool(is_new) else before)
    else:
        where = is_new.to(now.device).view(-1, *[1] * (now.ndim - 1))
        torch.where(where, now, before, out=out)


def _merge(before: Scored, now: Scored, improved: NDArray[np.bool_]) -> Scored:
    """Give the sets of `now` that improved, and else those of `before`."""
    if improved.all():
        return now
    logits = np.where(improved[:, None, None], now.logits, before.logits)
    return now._replace(logits=logits)
