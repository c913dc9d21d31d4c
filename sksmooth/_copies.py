"""Copies of rows, as oversampling and the bootstrap make them, which stay together in a split."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.dataset import get_len

from sksmooth._batches import FEWEST_WITH_COPIES, TensorRows, hold_out

# Shares. Fewer rows alike may be so by nature, as they are in several tables of measurements.
FEWEST_COPIES = 0.1
# Of the kinds of rows that half of the columns tell apart where no two would be alike by nature.
TOLD_APART = 0.75
# Of the kinds that have rows of several labels.
MOST_OF_SEVERAL_LABELS = 0.02
ROWS_AT_ONCE = 2**14
_FACTOR = 0x9E3779B97F4A7C15  # that spreads small numbers over all 64 bits


class Copies(NamedTuple):
    """Which rows are copies of each other: of one kind."""

    first: NDArray[np.intp]  # of each kind, a row
    kind: NDArray[np.intp]  # of each row

    @classmethod
    def among(cls, rows: TensorRows) -> Copies | None:
        """Find the copies among rows; None where there are hardly any, or rows are alike by nature.

        Rows of a table of a few categories are alike by nature, and new rows will be like them.
        Where half of the columns tell kinds apart, as one column of measurements does, and
        rows that are alike have one label, they are one row that was drawn several times.

        Examples
        --------
        >>> X = torch.arange(120.0).reshape(60, 2)
        >>> rows = TensorRows(X.repeat(2, 1), torch.zeros(120, dtype=torch.int64))
        >>> copies = Copies.among(rows)
        >>> len(copies.first), copies.rows_of(copies.kind[3])
        (60, array([ 3, 63]))
        >>> Copies.among(TensorRows(X % 2, rows.y[:60])) is None
        True
        """
        X = rows.X.detach().flatten(1)
        if len(X) < FEWEST_WITH_COPIES or X.shape[1] < 2:
            return None
        number = _numbers(X, slice(None))
        n_kinds = _count(number)
        if not FEWEST_WITH_COPIES <= n_kinds <= (1 - FEWEST_COPIES) * len(X):
            return None
        of_label = rows.y.cpu().numpy().astype(np.uint64) * np.uint64(_FACTOR)
        _, first, kind = np.unique(number + of_label, return_index=True, return_inverse=True)
        if len(first) > (1 + MOST_OF_SEVERAL_LABELS) * n_kinds:
            return None
        left = _numbers(X[torch.from_numpy(first)], slice(X.shape[1] // 2))
        told_apart = max(_count(left), _count(number[first] - left))
        return cls(first, kind.ravel()) if told_apart >= TOLD_APART * n_kinds else None

    def rows_of(self, kinds: NDArray[np.intp]) -> NDArray[np.intp]:
        """Give all rows of some kinds."""
        return np.flatnonzero(np.isin(self.kind, kinds))

    def as_many_of_others(self, folds: NDArray[np.intp], seed: int) -> list[NDArray[np.intp]]:
        """Give, for each fold of kinds, rows of all others: as many for each, some copies fewer."""
        order = np.random.RandomState(seed).permutation(len(self.kind))
        is_copy = np.isin(order, self.first, invert=True)
        order = order[np.argsort(is_copy, kind="stable")]  # so that none lacks a kind
        found = [order[np.isin(self.kind[order], fold, invert=True)] for fold in folds]
        n_rows = min(map(len, found))
        return [np.sort(rows[:n_rows]) for rows in found]

    def weigh(self, rows: TensorRows) -> TensorRows:
        """Let each row weigh as much as all of its kind do."""
        given = rows.sample_weight
        weight = np.bincount(self.kind, weights=None if given is None else given.cpu().numpy())
        total = torch.as_tensor(weight[self.kind], dtype=torch.float32, device=rows.X.device)
        return TensorRows(rows.X, rows.y, total)


def hold_out_whole(
    rows: Any, y: NDArray[np.int64] | None, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Draw rows to train on and to hold out as :func:`hold_out` does, but no copies on both sides.

    Rows that are no TensorRows are taken for different ones.

    Examples
    --------
    >>> X = torch.arange(120.0).reshape(60, 2)
    >>> rows = TensorRows(X.repeat(2, 1), torch.zeros(120, dtype=torch.int64))
    >>> train, held_out = hold_out_whole(rows, rows.y.numpy(), 0.2, seed=0)
    >>> len(held_out), len(set(train % 60) & set(held_out % 60))
    (24, 0)
    """
    copies = Copies.among(rows) if isinstance(rows, TensorRows) else None
    if copies is None or y is None:
        return hold_out(get_len(rows), y, fraction, seed)
    train, held_out = hold_out(len(copies.first), y[copies.first], fraction, seed)
    if held_out is None:
        return np.arange(len(rows)), None
    return copies.rows_of(train), copies.rows_of(held_out)


def _numbers(X: torch.Tensor, columns: slice) -> NDArray[np.uint64]:
    """Give a number of each row, the same for rows alike in some columns; those of parts add up."""
    factors = np.random.default_rng(_FACTOR).integers(2**64, size=X.shape[1], dtype=np.uint64) | 1
    numbers = []
    for part in X.split(ROWS_AT_ONCE):
        floats = part[:, columns].float().contiguous().cpu().numpy()
        numbers.append((floats.view(np.uint32) * factors[columns]).sum(1))
    return np.concatenate(numbers)


def _count(numbers: NDArray[np.uint64]) -> int:
    """Count the different ones."""
    return len(numbers) - np.count_nonzero(np.diff(np.sort(numbers)) == 0)
