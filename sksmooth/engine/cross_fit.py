"""Nets trained beside others of their kind, each on all rows but a fold, which it scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset

from sksmooth._batches import TensorBatches, TensorRows, rows_in_folds
from sksmooth._copies import Copies
from sksmooth._private import copy_all
from sksmooth.engine.adam import Updates
from sksmooth.engine.randomness import shared_generators
from sksmooth.engine.stack import InMemoryStack, Losses, Member, Scored, Selection, Stack


def draw_folds(y: NDArray[np.int64], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Draw disjoint folds of one size, in which classes are as frequent as in all rows.

    Gives the rows of each, of shape (n_folds, size). So that all are of one size, fewer rows than
    there are folds may be in none; nor is the only row of a class, which a net that did not see it
    cannot know.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(62) % 3
    >>> folds = draw_folds(y, n_folds=5, seed=0)
    >>> folds.shape, np.bincount(y[folds[0]])
    ((5, 12), array([5, 4, 3]))
    """
    order = np.random.RandomState(seed).permutation(len(y))
    order = order[(np.bincount(y) > 1)[y[order]]]
    kept = order[: len(order) - len(order) % n_folds]
    by_class = kept[np.argsort(y[kept], kind="stable")]
    return by_class.reshape(-1, n_folds).T


class Folds(NamedTuple):
    """The rows of one net, in folds."""

    seeds: list[int]  # of the nets that leave out a fold: of the order of rows, and of dropout
    batches: list[TensorBatches]  # that each of them is trained on
    held_out: Tensor  # of shape (n_folds, size), int64: the rows that each leaves out
    rows: TensorRows  # all of them

    @classmethod
    def of(cls, net: Any, rows: TensorRows, n_folds: int) -> Folds:
        """Draw the folds of a net, of skorch's kind."""
        seed, rows = net.draw_seed(), rows_in_folds(rows)
        copies = Copies.among(rows)
        y = rows.y.cpu().numpy()
        held_out = draw_folds(y if copies is None else y[copies.first], n_folds, seed)
        trains = [np.delete(np.arange(len(rows)), fold) for fold in held_out]
        if copies is not None:
            trains = copies.as_many_of_others(held_out, seed)
        parts: Any = [Subset(rows, train.tolist()) for train in trains]
        batches: Any = [net.get_iterator(part, training=True) for part in parts]
        if copies is not None:
            held_out, rows = copies.first[held_out], copies.weigh(rows)
        seeds = np.random.RandomState(seed).randint(2**31 - 1, size=n_folds).tolist()
        return cls(seeds, batches, torch.from_numpy(held_out).to(rows.X.device), rows)

    @property
    def kind(self) -> tuple:
        """What is the same for nets that can be trained in one stack."""
        return self.held_out.shape, *(own.division for own in self.batches)

    def members(self, net: Any, generator: Callable[[int, int], torch.Generator]) -> list[Member]:
        """Give the members of a stack, which begin as `net`, with its parts, does.

        `generator` gives that of all that draw the same, by seed and number of rows.
        """
        members = []
        for seed, batches, fold in zip(self.seeds, self.batches, self.held_out, strict=True):
            train = Selection.of_batches(batches)
            held_out = Selection(self.rows, fold)
            own = generator(seed, len(train.chosen))
            members.append(Member(net.module_, net.criterion_, train, held_out, own))
        return members


class CrossFitted:
    """A stack whose rows are scored by nets that did not see them.

    Beside each net, others of its kind are trained, which begin as it does and take the same kind
    of steps, each on all rows but a fold. Only their logits of that fold are of use.

    Parameters
    ----------
    stack : Stack
        M nets, each trained on all of its rows.
    nets : sequence of M skorch nets
        The same, with their parts.
    folds : sequence of M Folds
        Of their rows, all of one kind.
    by_hand : bool
        Whether the steps of the others are those written out by hand, or autograd's.
    """

    def __init__(
        self, stack: Stack, nets: Sequence[Any], folds: Sequence[Folds], *, by_hand: bool
    ) -> None:
        self.stack = stack
        self.n_members = stack.n_members
        self.state, self.write_back = stack.state, stack.write_back
        generator = shared_generators(folds[0].rows.X.device)
        members = [
            member
            for net, own in zip(nets, folds, strict=True)
            for member in own.members(net, generator)
        ]
        batches = [own for each in folds for own in each.batches]
        self.others = InMemoryStack.of(nets[0], members, batches, by_hand=by_hand)

    def progress(self) -> dict[str, Any]:
        """Give what the others' next epochs depend on."""
        return {
            "parameters": [own.detach().clone() for own in self.others.nets.parameters],
            "optimizer": copy.deepcopy(self.others.optimizer.state_dict()),
            "generators": [own.get_state() for own in dict.fromkeys(self.others.generators)],
        }

    @torch.no_grad()
    def go_on(self, progress: Mapping[str, Any]) -> None:
        """Bring the others to where they were."""
        others = self.others
        copy_all(others.nets.parameters, progress["parameters"])
        others.optimizer.load_state_dict(progress["optimizer"])
        others.updates = Updates(others.optimizer)
        generators = dict.fromkeys(others.generators)
        for generator, state in zip(generators, progress["generators"], strict=True):
            generator.set_state(state.cpu())

    def run_epoch(self) -> Losses:
        """Train every net by one pass over its rows; give the losses of those that are kept."""
        self.others.run_epoch()
        return self.stack.run_epoch()

    def score(self) -> Scored:
        """Give the logits of all rows in folds, a set for each net that is kept."""
        scored = self.others.score()
        assert scored is not None
        assert scored.losses is not None
        n_nets = self.n_members
        n_rows = scored.y.size // n_nets
        losses, weight, of_folds = scored.losses.reshape(n_nets, -1), scored.weight, None
        if weight is not None:
            of_folds = weight.sum(1).reshape(losses.shape)
            weight = weight.reshape(n_nets, n_rows)
        return Scored(
            scored.logits.reshape(n_nets, n_rows, -1),
            scored.y.reshape(n_nets, n_rows),
            weight,
            [n_rows] * n_nets,
            scored.is_weighted,
            np.average(losses, axis=1, weights=of_folds),
        )
