"""Mini-batches of tensors that are already in memory.

A :class:`~torch.utils.data.DataLoader` fetches rows one by one and collates them, which costs a
small net far more time than its training step. Rows that are in memory need neither: a batch is
one indexing of a tensor.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import skorch.dataset
import torch
from numpy.typing import NDArray
from skorch.dataset import get_len
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset

from sksmooth._checks import without_tensor
from sksmooth._labels import are_codes

# Gathering the rows of many batches at once and slicing them is faster than gathering each batch,
# and bounds the memory that the shuffled copy takes.
BATCHES_AT_ONCE = 64
INDICES_AT_ONCE = 2**14

# Rows whose labels tell whether an attribute holds those of all.
LABELS_TO_LOOK_AT = 20

# Of so few rows, an epoch would be a step.
FEW_ROWS = 64

# Rows of a mini-batch unless told otherwise; and in smaller tables, so that an epoch is more than a
# step or two: a batch size, and up to how many rows it is for.
USUAL_BATCH_SIZE = 64
SMALLER_BATCH_SIZES = {8: FEW_ROWS, 16: 128, 32: 256}

# Fewer held-out rows than this cannot settle a temperature.
FEWEST_HELD_OUT = 10

# By so many rows a table is known again.
ROWS_TO_KNOW_BY = 1000

# Of fewer rows, those that repeat are one row of more weight when folds are drawn.
FEWEST_WITH_COPIES = 50


class Batch(tuple[torch.Tensor, torch.Tensor]):
    """A pair (X, y), as skorch passes it around, that carries the rows' weights or None."""

    sample_weight: torch.Tensor | None

    def __new__(
        cls, X: torch.Tensor, y: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> Batch:
        """Make the pair."""
        batch = super().__new__(cls, (X, y))
        batch.sample_weight = sample_weight
        return batch

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Give the arguments that pickle and copy make the pair of again."""
        return (*self, self.sample_weight)

    def split(self, lengths: list[int]) -> Iterator[Batch]:
        """Give batches of so many rows one after the other."""
        X, y = self
        weights: Any = repeat(None)
        if self.sample_weight is not None:
            weights = self.sample_weight.split(lengths)
        return map(Batch, X.split(lengths), y.split(lengths), weights)


class TensorRows(skorch.dataset.Dataset):
    """Rows of a table as tensors: inputs, class indices and, if given, weights.

    A skorch dataset, so that callbacks find its ``X`` and ``y``.

    Parameters
    ----------
    X : tensor of shape (n_samples, ...)
        Inputs.
    y : tensor of shape (n_samples,), int64
        Class indices.
    sample_weight : tensor of shape (n_samples,) or None
        Weights of the rows.

    Examples
    --------
    >>> import torch
    >>> rows = TensorRows(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    >>> len(rows), len(rows.take([0, 2]))
    (4, 2)
    """

    def __init__(
        self, X: torch.Tensor, y: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> None:
        super().__init__(X, y, length=len(X))
        self.sample_weight = sample_weight

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.X[index], self.y[index]

    def batch(self, index: torch.Tensor | slice) -> Batch:
        """Give the rows at `index` as one batch."""
        weight = None if self.sample_weight is None else _at(self.sample_weight, index)
        return Batch(_at(self.X, index), _at(self.y, index), weight)

    def take(self, index: Sequence[int] | torch.Tensor) -> TensorRows:
        """Give the rows at `index` as rows of their own."""
        batch = self.batch(torch.as_tensor(index, device=self.X.device))
        return TensorRows(*batch, batch.sample_weight)


def _at(tensor: torch.Tensor, index: torch.Tensor | slice) -> torch.Tensor:
    """Copy ``tensor[index]``: a module may write to its input, and the rows may be the user's."""
    return tensor[index].clone() if isinstance(index, slice) else tensor.index_select(0, index)


class TensorBatches:
    """Iterate over mini-batches of :class:`TensorRows`.

    Parameters
    ----------
    rows : TensorRows
        The rows.
    batch_size : int
        Rows per batch; the last batch holds what is left. -1 takes all rows at once.
    shuffle : bool, default=False
        Draw a new order at the start of every pass, from torch's global generator.
    drop_last : bool, default=False
        Leave out a last batch that is not full.
    chosen : tensor of int64, default=None
        Indices of the rows to iterate over; None takes all.

    Attributes
    ----------
    merges_single : bool
        Whether a last batch of one row joins the batch before it.
    is_merged : bool
        Whether every distinct row is there once.

    Examples
    --------
    >>> import torch
    >>> rows = TensorRows(torch.arange(5.0)[:, None], torch.tensor([0, 1, 0, 1, 0]))
    >>> [len(X) for X, y in TensorBatches(rows, batch_size=2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        rows: TensorRows,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        chosen: torch.Tensor | None = None,
    ) -> None:
        self.rows = rows
        self.chosen = chosen
        self.batch_size = self.n_rows if batch_size == -1 else int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.merges_single = False
        self.is_merged = False

    @property
    def n_rows(self) -> int:
        """Number of rows that a pass goes over."""
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def __len__(self) -> int:
        return len(self._lengths())

    def _lengths(self) -> list[int]:
        return lengths_of_batches(
            self.n_rows, self.batch_size, drop_last=self.drop_last, merge_single=self.merges_single
        )

    @property
    def division(self) -> tuple[int, int | None]:
        """What rows that are trained on in the same steps have in common: number, size of batches.

        Where there is one batch, its size does not matter.
        """
        return len(self), self.batch_size if len(self) > 1 else None

    def __iter__(self) -> Iterator[Batch]:
        if self.chosen is None and 0 < self.n_rows <= self.batch_size and not self.drop_last:
            yield Batch(self.rows.X, self.rows.y, self.rows.sample_weight)
            return
        order = self.chosen
        if self.shuffle and self.n_rows > self.batch_size:  # within one batch, order means nothing
            order = torch.randperm(self.n_rows).to(self.rows.X.device)
            order = order if self.chosen is None else self.chosen[order]
        lengths, start = self._lengths(), 0
        for first in range(0, len(lengths), BATCHES_AT_ONCE):
            own = lengths[first : first + BATCHES_AT_ONCE]
            here = slice(start, start + sum(own))
            gathered = self.rows.batch(here if order is None else order[here])
            yield from gathered.split(own)
            start = here.stop

    @property
    def index(self) -> torch.Tensor:
        """Indices of the rows that a pass goes over."""
        if self.chosen is None:
            return torch.arange(len(self.rows), device=self.rows.X.device)
        return self.chosen

    def merge_repeated(self) -> None:
        """Go over every distinct row once, with the weight of its repetitions."""
        rows = self.rows if self.chosen is None else self.rows.take(self.chosen)
        self.rows, self.chosen, self.is_merged = merge_repeated(rows), None, True


def lengths_of_batches(
    n_rows: int, batch_size: int, *, drop_last: bool = False, merge_single: bool = False
) -> list[int]:
    """Give how many rows each batch has.

    `merge_single` lets a last batch of one row join the one before it, as BatchNorm needs it.

    Examples
    --------
    >>> lengths_of_batches(7, 3), lengths_of_batches(7, 3, merge_single=True)
    ([3, 3, 1], [3, 4])
    """
    n_full, rest = divmod(n_rows, batch_size)
    lengths = [batch_size] * n_full
    if merge_single and rest == 1 and n_full and not drop_last:
        lengths[-1] += 1
    elif rest and not drop_last:
        lengths.append(rest)
    return lengths


def choose_batch_size(batch_size: int | str, dataset: Any, training: bool = True) -> int:
    """Choose how many rows of a dataset a mini-batch has where that is asked for by "auto".

    Of a Subset, by how many rows there are in all.

    Examples
    --------
    >>> [choose_batch_size("auto", range(n_rows)) for n_rows in (50, 100, 200, 1000)]
    [8, 16, 32, 64]
    >>> choose_batch_size(128, range(50)), choose_batch_size(-1, range(50))
    (128, 50)
    """
    if batch_size != "auto":
        return len(dataset) if batch_size == -1 else batch_size  # type: ignore[return-value]
    if not training or isinstance(dataset, IterableDataset):
        return USUAL_BATCH_SIZE
    while isinstance(dataset, Subset):  # nets of folds are to take the steps of those of all rows
        dataset = dataset.dataset
    n_rows = get_len(dataset)
    fitting = (size for size, most in SMALLER_BATCH_SIZES.items() if n_rows <= most)
    return next(fitting, USUAL_BATCH_SIZE)


class ShuffledIndices(Sampler):
    """The indices of a dataset's rows in a new random order for every pass.

    torch's RandomSampler makes a list of them, which takes as much memory as four numbers of every
    row.

    Examples
    --------
    >>> sorted(ShuffledIndices(4))
    [0, 1, 2, 3]
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[int]:
        for part in torch.randperm(self.n_rows).split(INDICES_AT_ONCE):
            yield from part.tolist()


class EncodedDataset(Dataset):
    """A torch Dataset of pairs (X, label) whose labels are replaced by their class indices."""

    def __init__(self, dataset: Dataset, classes: Sequence[Any]) -> None:
        self.dataset = dataset
        self.codes = {label: code for code, label in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        X, label = self.dataset[index]
        label = label.item() if hasattr(label, "item") else label
        if label not in self.codes:
            raise ValueError(
                f"The dataset's row {index} has the label {label!r}, which is none of the classes "
                f"{list(self.codes)}."
            )
        return X, self.codes[label]


def encoded(dataset: Dataset, classes: NDArray, label: Any) -> Dataset:
    """Let a torch Dataset give class indices for labels, of which `label` is one.

    It is the same Dataset, if they are class indices already.
    """
    own = np.asarray(without_tensor(label))
    has_codes = are_codes(classes) and own.ndim == 0 and own.dtype.kind in "iu"
    return dataset if has_codes else EncodedDataset(dataset, classes.tolist())


def make_batches(
    dataset: Dataset,
    batch_size: int,
    shuffle: bool = False,
    drop_last: bool = False,
    **dataloader_params: Any,
) -> TensorBatches | DataLoader:
    """Choose the iterator over mini-batches that fits a dataset.

    Parameters
    ----------
    dataset : torch Dataset
        :class:`TensorRows`, or a Subset of them, are indexed in memory; anything else goes
        through a :class:`~torch.utils.data.DataLoader`.
    batch_size : int
        Rows per batch; -1 takes all rows at once.
    shuffle : bool, default=False
        Draw a new order for every pass.
    drop_last : bool, default=False
        Leave out a last batch that is not full.
    **dataloader_params
        Further parameters of DataLoader; giving any (`num_workers`, `sampler`, ...) asks for one.

    Returns
    -------
    TensorBatches or DataLoader
        Gives pairs (X, y).

    Examples
    --------
    >>> import torch
    >>> rows = TensorRows(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    >>> type(make_batches(rows, batch_size=2)).__name__
    'TensorBatches'
    """
    rows, chosen = rows_in_memory(dataset)
    if rows is not None and not dataloader_params:
        return TensorBatches(rows, batch_size, shuffle, drop_last, chosen)
    n_rows = 0 if isinstance(dataset, IterableDataset) else get_len(dataset)
    if shuffle and n_rows and not {"sampler", "batch_sampler"} & set(dataloader_params):
        dataloader_params["sampler"] = ShuffledIndices(n_rows)
    if batch_size == -1:
        batch_size = n_rows
    if rows is not None:  # which a GPU gives neither one by one, nor to forked workers, nor pinned
        dataset = on_host(rows, chosen)
    return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, **dataloader_params)


def rows_in_memory(dataset: Any) -> tuple[TensorRows | None, torch.Tensor | None]:
    """Give the rows of a dataset and the indices of those that it chooses; None for all.

    The rows are None where they are not in memory: for all but :class:`TensorRows` and a Subset (of
    a Subset ...) of them. A Subset of another class may give other rows, augmented ones, say.
    """
    if isinstance(dataset, TensorRows):
        return dataset, None
    if type(dataset) is not Subset:
        return None, None
    rows, outer = rows_in_memory(dataset.dataset)
    chosen = torch.as_tensor(dataset.indices, dtype=torch.int64)
    if rows is not None:
        n_rows = len(rows) if outer is None else len(outer)
        chosen = torch.where(chosen < 0, chosen + n_rows, chosen)  # counted from the end
        chosen = chosen.to(rows.X.device)
    return rows, chosen if outer is None else outer[chosen]


def has_weights(dataset: Any) -> bool:
    """Tell whether rows have weights, also those that datasets of others' classes wrap."""
    if isinstance(dataset, TensorRows):
        return dataset.sample_weight is not None
    within = getattr(dataset, "__dict__", {}).values()
    return any(has_weights(own) for own in within if isinstance(own, Dataset))


def on_host(rows: TensorRows, chosen: torch.Tensor | None) -> Dataset:
    """Give rows in the memory of the host: all, or those chosen. There they are not copied."""
    weight = None if rows.sample_weight is None else rows.sample_weight.cpu()
    here = TensorRows(rows.X.cpu(), rows.y.cpu(), weight)
    return here if chosen is None else Subset(here, chosen.cpu().tolist())


def merge_repeated(rows: TensorRows) -> TensorRows:
    """Put rows in a canonical order, each once, weighing as much as it and its repetitions did.

    A row of weight two is two rows, and neither batches nor rounding see a difference then:
    weighted and repeated rows train the same net. Rows that all weigh alike have no weights.

    Examples
    --------
    >>> import torch
    >>> rows = TensorRows(torch.tensor([[2.0], [1.0], [2.0]]), torch.tensor([0, 1, 0]))
    >>> merged = merge_repeated(rows)
    >>> merged.X.ravel(), merged.y, merged.sample_weight
    (tensor([1., 2.]), tensor([1, 0]), tensor([1., 2.]))
    """
    y = rows.y.cpu().numpy()
    table = np.column_stack([rows.X.flatten(1).cpu().numpy(), y])
    weight = np.ones(len(y)) if rows.sample_weight is None else rows.sample_weight.cpu().numpy()
    _, first, group = np.unique(table, axis=0, return_index=True, return_inverse=True)
    distinct = rows.take(torch.from_numpy(first))
    total = np.bincount(group.ravel(), weights=weight)
    distinct.sample_weight = None
    if (total != total[0]).any():
        distinct.sample_weight = torch.as_tensor(total, dtype=torch.float32, device=rows.X.device)
    return distinct


def rows_in_folds(rows: TensorRows) -> TensorRows:
    """Give the rows that folds are drawn of: of a few dozen, each once, weighing as its copies do.

    Then a row of weight two is the row twice there, too.
    """
    return rows if len(rows) >= FEWEST_WITH_COPIES else merge_repeated(rows)


def fingerprint(rows: Any) -> int:
    """Give a number that is the same for the same rows in the same order.

    Of rows that are not in memory, which may be others each time, it is their number.

    Examples
    --------
    >>> rows = TensorRows(torch.eye(2), torch.arange(2))
    >>> fingerprint(rows) == fingerprint(TensorRows(torch.eye(2), torch.ones(2)))
    True
    """
    if not isinstance(rows, TensorRows):
        return get_len(rows)
    some = rows.X.detach()[:: max(1, len(rows) // ROWS_TO_KNOW_BY)].cpu().contiguous()
    return zlib.crc32(some.flatten().view(torch.uint8).numpy()) + len(rows)


def hold_out(
    n_rows: int, y: NDArray[np.int64] | None, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Draw the rows to train on, and those held out: None where they would be fewer than 10.

    The draw is stratified by the class indices `y`, if there are any, and every class keeps a row
    to train on. scikit-learn's StratifiedShuffleSplit does the same with three times the memory,
    which shows where there are millions of rows.

    Examples
    --------
    >>> import numpy as np
    >>> train, held_out = hold_out(100, np.arange(100) % 4, fraction=0.2, seed=0)
    >>> len(train), np.bincount(held_out % 4)
    (80, array([5, 5, 5, 5]))
    """
    n_held_out = int(fraction * n_rows + 1e-9)
    if n_held_out < FEWEST_HELD_OUT:
        return np.arange(n_rows), None
    generator = np.random.RandomState(seed)
    order = generator.permutation(n_rows)
    if y is None:
        return order[n_held_out:], order[:n_held_out]
    counts = np.bincount(y)
    quotas = _share_out(n_held_out, counts, generator)
    if quotas.sum() < FEWEST_HELD_OUT:
        return np.arange(n_rows), None
    # Numbers of few bytes, since with millions of rows this is where the most memory is taken.
    order = order.astype(np.min_scalar_type(n_rows))
    labels = y.astype(np.min_scalar_type(len(counts)))[order]
    order = order[np.argsort(labels, kind="stable")]
    classes = list(zip(np.split(order, np.cumsum(counts)[:-1]), quotas, strict=True))
    train = np.concatenate([rows[quota:] for rows, quota in classes], dtype=np.int64)
    held_out = np.concatenate([rows[:quota] for rows, quota in classes], dtype=np.int64)
    return train, held_out


def _share_out(
    n_held_out: int, counts: NDArray[np.int64], generator: np.random.RandomState
) -> NDArray[np.int64]:
    """Give how many rows of each class to hold out: by largest remainder, but never all."""
    shares = counts * (n_held_out / counts.sum()) + 1e-6 * generator.uniform(size=len(counts))
    most = np.maximum(counts - 1, 0)
    quotas = np.minimum(shares.astype(np.int64), most)
    for _ in range(min(n_held_out, most.sum()) - quotas.sum()):
        quotas[np.argmax(np.where(quotas < most, shares - quotas, -np.inf))] += 1
    return quotas


def read_labels(dataset: Any) -> Any:
    """Read the labels of a torch Dataset of pairs (X, label), by the shortest way there is.

    An attribute `y` or `targets`, the second tensor of a TensorDataset, and a Subset's indices are
    made use of, if some rows have these labels; else all rows are read once.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> read_labels(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 0])))
    tensor([0, 1, 0])
    """
    if isinstance(dataset, Subset):
        return np.asarray(read_labels(dataset.dataset))[np.asarray(dataset.indices)]
    for name in ("y", "targets"):
        labels = getattr(dataset, name, None)
        if labels is not None and row_of_other_label(dataset, labels) is None:
            return labels
    if hasattr(dataset, "tensors"):
        return dataset.tensors[1]
    # Not every map-style dataset ends its iteration with an IndexError, so count the rows.
    streamed = isinstance(dataset, IterableDataset)
    pairs = dataset if streamed else map(dataset.__getitem__, range(len(dataset)))
    return np.array([label for _, label in pairs])


def row_of_other_label(dataset: Any, labels: Any) -> int | None:
    """Give the first of some rows, from all over a torch Dataset, whose label is not as is said.

    None where none has, or where rows cannot be asked for by number. A ``target_transform`` may
    have changed what is said.
    """
    if isinstance(dataset, IterableDataset | TensorRows) or len(labels) != len(dataset):
        return None
    labels = np.asarray(without_tensor(labels))
    step = -(-len(dataset) // LABELS_TO_LOOK_AT)
    for row in range(0, len(dataset), step):
        own = without_tensor(dataset[row][1])
        if not np.array_equal(np.ravel(own), np.ravel(labels[row])):
            return row
    return None
