"""A stack: M ≥ 1 nets of one architecture that take the same steps, each on rows of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sksmooth._batches import TensorBatches, TensorRows, lengths_of_batches
from sksmooth._private import copy_all
from sksmooth.engine.adam import Updates, restacked
from sksmooth.engine.by_autograd import OneModule, StackedModules
from sksmooth.engine.by_hand import HandNets
from sksmooth.engine.randomness import OwnRandomness
from sksmooth.engine.targets import Targets, stacked_loss
from sksmooth.engine.threads import flops_of, limit_threads
from sksmooth.modules import SimpleNet, input_dtype, suited

# Numbers of X, or of a layer's output, that are gathered for all members at a time.
GATHERED_ENTRIES = 2**22

# Numbers of encoded rows that are kept for all epochs; more are encoded batch by batch.
ENCODED_ENTRIES = 2**25

# Parameters of a stack on the CPU. A step goes over them, their gradients and moments: more of them
# leave the processor's cache, and nets take longer in company than alone.
PARAMETERS_OF_A_STACK = 2**18
# On a GPU: with gradients, Adam's two moments and the best epoch's copy twice, 3 GB of float32.
PARAMETERS_ON_A_GPU = 2**27

# Rows of one forward pass of SimpleNet: enough to make its overhead small, few enough that the
# activations stay in the processor's cache.
ROWS_AT_ONCE = 2048


class Losses(NamedTuple):
    """The losses of the batches of an epoch."""

    values: NDArray  # of shape (M, n_batches): the mean loss of each
    weights: NDArray  # likewise: what each weighs
    sizes: list[list[int]]  # of each member, the rows of each batch

    def means(self) -> NDArray[np.float64]:
        """Give each member's mean loss, of shape (M,)."""
        weights = self.weights.astype(np.float64)
        return (self.values * weights).sum(1) / weights.sum(1)

    def batches(self, m: int) -> list[dict[str, float]]:
        """Give a member's batches as skorch's history records them."""
        return [
            {"train_loss": loss, "train_batch_size": size}
            for loss, size in zip(self.values[m].tolist(), self.sizes[m], strict=True)
            if size
        ]


class Scored(NamedTuple):
    """The logits of S sets of held-out rows, filled up to the longest set."""

    logits: NDArray  # of shape (S, n, K), float32
    y: NDArray  # of shape (S, n), int64: class indices
    weight: NDArray | None  # likewise, 0 for what fills up; None where all rows weigh alike
    lengths: list[int]  # how many rows, which come first, are a set's own
    is_weighted: bool = False  # whether the rows themselves have weights
    losses: NDArray | None = None  # of shape (S,): each set's mean training loss

    def of(self, number: int) -> tuple[NDArray, NDArray, NDArray | None]:
        """Give logits, class indices and weights of one set."""
        own = slice(self.lengths[number])
        weight = self.weight[number, own] if self.is_weighted and self.weight is not None else None
        return self.logits[number, own], self.y[number, own], weight


class Stack(Protocol):
    """What the loop over epochs trains."""

    n_members: int

    def run_epoch(self) -> Losses:
        """Train every net by one pass over its rows."""

    def score(self) -> Scored | None:
        """Give the logits of the held-out rows, a set for each net; None where there are none."""

    def state(self) -> list[Tensor]:
        """Give what training changes, the members along the first axis if there are several."""

    def write_back(self, m: int, state: Sequence[Tensor]) -> None:
        """Give a member's module what a state holds of it."""


class Selection(NamedTuple):
    """Some of the rows of a table, which several selections may share."""

    table: TensorRows
    chosen: Tensor  # int64: which rows

    @classmethod
    def of(cls, rows: TensorRows) -> Selection:
        """Select all rows of a table."""
        return cls(rows, torch.arange(len(rows), device=rows.X.device))

    @classmethod
    def of_batches(cls, batches: TensorBatches) -> Selection:
        """Select the rows that batches are made of."""
        return cls(batches.rows, batches.index)

    def none(self) -> Selection:
        """Select no rows of the same table."""
        return Selection(self.table, self.chosen[:0])


class Member(NamedTuple):
    """One net of a stack."""

    module: torch.nn.Module  # with its initial parameters
    criterion: torch.nn.Module  # one that targets.is_known knows
    train: Selection
    held_out: Selection | None  # the rows to score after each epoch
    # On the rows' device. The order of the rows and dropout are drawn from it. Members that share
    # one draw the same: nets that differ in ε only, for instance, since to draw costs more than to
    # copy. They must have equally many rows.
    generator: torch.Generator


class InMemoryStack:
    """Trains M nets on rows in memory.

    Each member has its own rows, its own smoothing and its own randomness, and becomes what it
    would have become alone. They have in common: the architecture, the optimizer, the size of the
    batches and, since one step is taken for all, the number of batches in an epoch.

    Parameters
    ----------
    members : sequence of M Members
        The nets. A single one is trained in place, several are copied until :meth:`write_back`.
    optimizer : torch optimizer
        Of a single net; or one whose kind and settings all members use.
    batch_size, n_classes : int
        Rows of a batch; K.
    by_hand : bool
        Whether the steps are those written out by hand, or autograd's.
    shuffle, drop_last : bool
        Whether each epoch has an order of its own, and leaves out a last batch that is not full.
    merge_single : bool, default=False
        Let a last batch of one row join the one before it.
    rows_at_once : int or None, default=None
        The most rows of a net in one forward pass of scoring. None: as many as pay.

    Examples
    --------
    >>> import torch
    >>> from sksmooth import LabelSmoothingLoss, SimpleNet
    >>> rows = TensorRows(torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20))
    >>> net = SimpleNet(n_features=3, n_classes=3)
    >>> generator = torch.Generator().manual_seed(0)
    >>> member = Member(net, LabelSmoothingLoss(), Selection.of(rows), None, generator)
    >>> optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
    >>> stack = InMemoryStack([member], optimizer, batch_size=16, n_classes=3, by_hand=True)
    >>> first, *_, last = [stack.run_epoch().means().item() for _ in range(10)]
    >>> last < first
    True
    """

    def __init__(
        self,
        members: Sequence[Member],
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        n_classes: int,
        *,
        by_hand: bool,
        shuffle: bool = True,
        drop_last: bool = False,
        merge_single: bool = False,
        rows_at_once: int | None = None,
    ) -> None:
        self.members = members
        self.n_members = len(members)
        self.batch_size = batch_size
        self.by_hand = by_hand
        self.parameters_of_one: list[Tensor] = list(members[0].module.parameters())
        train = [member.train for member in members]
        held_out = [member.held_out or member.train.none() for member in members]
        rows = _Concatenated([selection.table for selection in train + held_out])
        self.X, self.y, self.weight = rows.X, rows.y, rows.weight
        self.device = self.X.device
        dtype = input_dtype(members[0].module)
        if not dtype.is_floating_point:  # as an Embedding's, of which else every batch is looked at
            self.X = suited(self.X, dtype)
        # Those of SimpleNets; the members' are equal. Other modules encode by themselves.
        self.encoding: Any = getattr(members[0].module, "encoding", None) if by_hand else None
        self.n_inputs = self.encoding.n_outputs if self.encoding else self.X[0].numel()
        if self.encoding and len(self.X) * self.n_inputs <= ENCODED_ENTRIES:
            with limit_threads(100.0 * self.X.numel()):  # ten operations for each of ten outputs
                self.X, self.encoding = self.encoding(self.X.flatten(1)), None
        self.train, self.is_row = _fill_up([rows.index(selection) for selection in train])
        self.n_rows = [len(selection.chosen) for selection in train]
        self.lengths = lengths_of_batches(
            max(self.n_rows), batch_size, drop_last=drop_last, merge_single=merge_single
        )
        starts = np.cumsum([0, *self.lengths])[:-1]
        sizes = np.clip(np.subtract.outer(self.n_rows, starts), 0, self.lengths)
        self.sizes_of_members, self.sizes = sizes.tolist(), sizes.T.tolist()  # of each batch
        self.is_shuffled = shuffle and self.train.shape[1] > batch_size
        self.usual_weights = self._usual_weights() if len(self.lengths) > 1 else None
        self.gathered: list[tuple] | None = None
        self.held_out = (
            _HeldOut(rows, held_out) if any(len(own.chosen) for own in held_out) else None
        )
        self.generators = [member.generator for member in members]
        self.nets, self.updates = self._make_nets(optimizer)
        criteria = [member.criterion for member in members]
        device = next(members[0].module.parameters()).device
        like = torch.empty(0, dtype=torch.float32, device=device)
        self.targets = Targets.of(criteria, n_classes, like)
        self.rows_at_once = rows_at_once or self._rows_that_pay()
        self.flops_of_a_row = flops_of(members[0].module, self.X[0].numel())

    # -- building -----------------------------------------------------------------------------

    @classmethod
    def of(
        cls, net: Any, members: Sequence[Member], batches: Sequence[TensorBatches], *, by_hand: bool
    ) -> InMemoryStack:
        """Make the stack of nets of skorch's kind, `net` the first of them, from their batches."""
        first = batches[0]
        return cls(
            members,
            net.optimizer_,
            # All rows at once are of different numbers, in folds of unequal size.
            max(own.batch_size for own in batches),
            len(net.classes_inferred_),
            by_hand=by_hand,
            shuffle=first.shuffle,
            drop_last=first.drop_last,
            merge_single=first.merges_single,
            rows_at_once=net.rows_at_once(),
        )

    def _make_nets(self, optimizer: torch.optim.Optimizer) -> tuple[Any, Updates]:
        modules: list[Any] = [member.module for member in self.members]
        randomness = OwnRandomness.of(self.generators[0])
        nets: Any
        self.optimizer = optimizer
        if self.n_members == 1:
            if self.by_hand:
                nets = HandNets.around(modules[0], self.generators)
            else:
                nets = OneModule(modules[0], optimizer, randomness)
            return nets, Updates(optimizer, fused=self.by_hand)
        if self.by_hand:
            nets = HandNets.of(modules, self.generators)
        else:
            nets = StackedModules(modules, randomness)
        self.optimizer = restacked(optimizer, nets.parameters, nets.gradients)
        return nets, Updates(self.optimizer)

    def _rows_that_pay(self) -> int:
        """Give how many rows of each net go through it at once where nobody set a number."""
        module: Any = self.members[0].module
        widths = module.hidden_layer_sizes if isinstance(module, SimpleNet) else ()
        widest = max([self.n_inputs, *widths])
        return max(1, min(ROWS_AT_ONCE, GATHERED_ENTRIES // (self.n_members * widest)))

    # -- training -----------------------------------------------------------------------------

    def run_epoch(self) -> Losses:
        """Train every net by one pass over its rows."""
        mode = self.updates.quickest_mode() if self.by_hand else torch.no_grad()
        self.nets.begin_epoch()
        with self._threads(3 * self.batch_size), uncached_autocast(), mode:
            # In a table made beforehand: a number kept from each step lies between what the steps
            # take and give back, and may keep malloc from using that again.
            # Of float32, for some devices have no other floats, such as Apple's.
            shape = self.n_members, len(self.lengths)
            losses = torch.empty(shape, dtype=torch.float32, device=self.device)
            try:
                batches = zip(self._batches(), self.sizes, strict=True)
                for number, ((X, y, weight), sizes) in enumerate(batches):
                    own = None if weight is None else sizes
                    relative = None
                    if weight is not None and self.usual_weights is not None:
                        relative = (weight.sum(1) / self.usual_weights[:, number]).clamp_max(1)
                    loss = self.nets.loss_and_gradients(X, y, self.targets, weight, own, relative)
                    losses[:, number] = loss
                    self.updates.step()
            finally:  # also after Ctrl-C
                self.updates.finish()
            sizes_of_members = self.sizes_of_members
            return Losses(losses.cpu().numpy(), np.array(sizes_of_members), sizes_of_members)

    def _usual_weights(self) -> Tensor | None:
        """Give what each batch would weigh of rows that all weigh what they do in the mean.

        Of shape (M, n_batches), and at least a row each; None where all rows weigh alike.
        """
        if self.weight is None:
            return None
        weight: Any = weights_of(self.weight, self.train, self.is_row)
        mean = weight.sum(1) / torch.tensor(self.n_rows).to(weight)
        return mean[:, None] * torch.tensor(self.sizes_of_members).clamp_min(1).to(weight)

    def _threads(self, n_rows: int) -> AbstractContextManager:
        """Use as many threads as that many rows of every net keep busy in a forward pass."""
        n_rows *= self.n_members
        flops = None if self.flops_of_a_row is None else self.flops_of_a_row * n_rows
        return limit_threads(flops)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Give the batches of an epoch: inputs, class indices and weights of all members."""
        if len(self.sizes) > 1 or self.is_shuffled:
            return self._gather(self._shuffled() if self.is_shuffled else self.train)
        if self.gathered is None:  # the only batch there is
            self.gathered = list(self._gather(self.train))
        return iter(self.gathered)

    def _gather(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        at_once, shortest, start = self._batches_at_once(), min(self.n_rows), 0
        for first in range(0, len(self.lengths), at_once):
            lengths = self.lengths[first : first + at_once]
            end = start + sum(lengths)
            index = order[:, start:end]
            is_row = None if self.is_row is None or end <= shortest else self.is_row[:, start:end]
            weight = weights_of(self.weight, index, is_row)
            yield from zip(
                self._take(index).split(lengths, 1),
                take(self.y, index).split(lengths, 1),
                repeat(None) if weight is None else weight.split(lengths, 1),
                strict=False,
            )
            start = end

    def _shuffled(self) -> Tensor:
        """Give each member's rows in the order of its next epoch; what fills up stays last."""
        longest = self.train.shape[1]
        n_rows_of = dict(zip(self.generators, self.n_rows, strict=True))
        orders = {}
        for generator, n_rows in n_rows_of.items():
            order = torch.randperm(n_rows, generator=generator, device=self.device)
            if n_rows < longest:
                rest = torch.arange(n_rows, longest, device=self.device)
                order = torch.cat([order, rest])
            orders[generator] = order
        stacked = torch.stack([orders[generator] for generator in self.generators])
        return self.train.gather(1, stacked)

    def _batches_at_once(self) -> int:
        """Give how many batches of all members are gathered at a time."""
        entries = self.n_members * self.batch_size * self.n_inputs
        return max(1, GATHERED_ENTRIES // entries)

    def _take(self, index: Tensor) -> Tensor:
        """Give rows of the tables, encoded."""
        rows = take(self.X, index)
        return self.encoding(rows.flatten(2)) if self.encoding else rows

    # -- scoring ------------------------------------------------------------------------------

    def logits(self, index: Tensor) -> Tensor:
        """Compute each net's logits, (M, n, K), of rows of the tables.

        `index`, (M, n), counts over the members' tables one after the other.
        """
        rows = (self._take(chunk) for chunk in index.split(self.rows_at_once, 1))
        return self._score(rows, min(self.rows_at_once, index.shape[1]))

    def _score(self, chunks: Iterable[Tensor], n_rows: int) -> Tensor:
        """Compute the logits of chunks of so many rows."""
        with self._threads(n_rows), uncached_autocast(), torch.no_grad():
            logits = [self.nets.score(rows) for rows in chunks]
            return logits[0] if len(logits) == 1 else torch.cat(logits, 1)

    def score(self) -> Scored | None:
        """Score the held-out rows, a set for each member; None where there are none."""
        held_out = self.held_out
        if held_out is None:
            return None
        n_rows = min(self.rows_at_once, held_out.index.shape[1])
        with self._threads(n_rows):
            if held_out.index.numel() * self.n_inputs > GATHERED_ENTRIES:
                logits = self.logits(held_out.index)
            else:
                if held_out.gathered is None:  # few enough to have them twice
                    held_out.gathered = self._take(held_out.index)
                logits = self._score(held_out.gathered.split(self.rows_at_once, 1), n_rows)
            losses = stacked_loss(logits, held_out.y, self.targets, held_out.weight)
            return held_out.scored(logits.cpu().numpy(), losses.cpu().numpy())

    # -- states -------------------------------------------------------------------------------

    def state(self) -> list[Tensor]:
        """Give the stacked parameters, or those of a single module and its buffers."""
        if self.n_members > 1:
            return self.nets.parameters
        if self.by_hand:  # whose parts do not change
            return self.parameters_of_one
        module = self.members[0].module
        return [*module.parameters(), *module.buffers()]

    @torch.no_grad()
    def write_back(self, m: int, state: Sequence[Tensor]) -> None:
        """Give a member's module what a state, or a copy of one, holds of it."""
        module = self.members[m].module
        if self.n_members == 1:
            copy_all(self.state(), list(state))
            return
        own: list[Tensor] = list(module.parameters())
        values = [stacked[m].view_as(value) for stacked, value in zip(state, own, strict=True)]
        copy_all(own, values)


def members_that_pay(module: torch.nn.Module, most: int) -> int:
    """Give how many nets of a module's kind one stack is to have: 1 or more.

    Examples
    --------
    >>> members_that_pay(torch.nn.Linear(1000, 100), most=64)
    2
    """
    parameters = list(module.parameters())
    is_here = all(own.is_cpu for own in parameters)
    most_parameters = PARAMETERS_OF_A_STACK if is_here else PARAMETERS_ON_A_GPU
    return max(1, min(most, most_parameters // sum(own.numel() for own in parameters)))


class Remade:
    """A stack of one, made anew for each epoch, since something else may change the parts."""

    n_members = 1

    def __init__(self, make: Callable[[], Stack]) -> None:
        self.make = make
        self.stack: Any = None  # until the first epoch, before which there may be changes, too

    def run_epoch(self) -> Losses:
        """Train by one pass over the rows."""
        self.stack = self.make()
        return self.stack.run_epoch()

    def score(self) -> Scored | None:
        """Score the held-out rows."""
        return self.stack.score()

    def state(self) -> list[Tensor]:
        """Give what training changes."""
        if self.stack is None:  # the epochs were all trained before
            self.stack = self.make()
        return self.stack.state()

    def write_back(self, m: int, state: Sequence[Tensor]) -> None:
        """Give the module what a state holds."""
        self.stack.write_back(m, state)


class _HeldOut:
    """The held-out rows of a stack's members."""

    def __init__(self, rows: _Concatenated, selections: Sequence[Selection]) -> None:
        self.index, is_row = _fill_up([rows.index(selection) for selection in selections])
        self.y = take(rows.y, self.index)
        self.weight = weights_of(rows.weight, self.index, is_row)
        self.lengths = [len(selection.chosen) for selection in selections]
        self.is_weighted = rows.weight is not None
        self.gathered: Tensor | None = None
        self.labels: NDArray | None = None
        self.weights: NDArray | None = None

    def scored(self, logits: NDArray, losses: NDArray) -> Scored:
        if self.labels is None:
            self.labels = self.y.cpu().numpy()
            self.weights = None if self.weight is None else self.weight.cpu().numpy()
        return Scored(logits, self.labels, self.weights, self.lengths, self.is_weighted, losses)


class _Concatenated:
    """Several tables of rows, one after the other, each distinct one once."""

    def __init__(self, tables: Sequence[TensorRows]) -> None:
        distinct = list({id(rows): rows for rows in tables}.values())
        starts = np.cumsum([0, *map(len, distinct)]).tolist()
        self.starts = dict(zip(map(id, distinct), starts, strict=False))
        self.X = _cat([rows.X for rows in distinct])
        self.y = _cat([rows.y for rows in distinct])
        self.weight: Tensor | None = None
        if any(rows.sample_weight is not None for rows in distinct):
            self.weight = _cat([_weights(rows) for rows in distinct])

    def index(self, selection: Selection) -> Tensor:
        """Give where the rows of a selection are."""
        start = self.starts[id(selection.table)]
        return selection.chosen + start if start else selection.chosen


def take(table: Tensor, index: Tensor) -> Tensor:
    """Give ``table[index]``, for an index of any shape, several times sooner."""
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


def weights_of(weight: Tensor | None, index: Tensor, is_row: Tensor | None) -> Tensor | None:
    """Give the weights of some rows, 0 for what fills up; None where all weigh alike.

    `weight`, of shape (n,), are those of a table; `index`, (M, n), says which of its rows, and
    `is_row`, likewise, is false for what only fills up.
    """
    if weight is None:
        return None if is_row is None else is_row.float()
    own = take(weight, index)
    return own if is_row is None else own * is_row


@contextmanager
def uncached_autocast() -> Iterator[None]:
    """Keep torch's autocast, where it is on, from remembering weights that training changes."""
    was_cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(was_cached)


def _weights(rows: TensorRows) -> Tensor:
    if rows.sample_weight is None:
        return torch.ones(len(rows), dtype=rows.X.dtype, device=rows.X.device)
    return rows.sample_weight


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Put tensors one after the other, without a copy where there is one only."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _fill_up(indices: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack index vectors, filled up with their first entry; tell which entries are their own."""
    lengths = [len(index) for index in indices]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(list(indices)), None
    first = [index[:1] if len(index) else index.new_zeros(1) for index in indices]
    filled = [
        torch.cat([index, pad.expand(longest - len(index))])
        for index, pad in zip(indices, first, strict=True)
    ]
    columns = torch.arange(longest, device=indices[0].device)
    is_row = columns < torch.tensor(lengths, device=columns.device)[:, None]
    return torch.stack(filled), is_row
