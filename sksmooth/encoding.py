"""Encodings of numbers: fixed views of a table's columns, learned from their quantiles."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import halfnorm
from sklearn.utils import check_array
from torch import Tensor, nn

from sksmooth._checks import check_weight, check_whole, nearest, without_tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ENCODINGS", "Encoding", "Periodic", "PiecewiseLinear", "check_encoding"]

# How much rounding may add to a share of the rows.
_TINY = 1e-9
# Distance of two numbers, such that one over it is a number of float32, too.
_SMALLEST = 1e-37


class Encoding(nn.Module):
    """Gives, beside each number of a row, functions of it that are learned from other rows.

    A subclass says what these are. Columns of at most two values, as one-hot encoding makes them,
    stay as they are: every function of them is linear.

    Attributes
    ----------
    n_features : int or None
        Numbers of a row; None before :meth:`learn`.
    column : tensor of shape (n_functions,), int64
        Of which column each function is.
    """

    n_features: int | None
    column: Tensor
    buffers_of_functions: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.n_features = None
        self.register_buffer("column", torch.empty(0, dtype=torch.int64))
        for name in self.buffers_of_functions:
            self.register_buffer(name, torch.empty(0))

    @property
    def n_outputs(self) -> int:
        """Numbers of an encoded row."""
        return (self.n_features or 0) + len(self.column)

    def learn(self, X: ArrayLike | Tensor, sample_weight: ArrayLike | Tensor | None = None) -> Self:
        """Learn the functions from rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            The rows, in memory.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights; a row of weight zero is left out.

        Returns
        -------
        Encoding
            A copy that has learned them, on the device of X.
        """
        device = X.device if isinstance(X, Tensor) else None
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused
            rows = check_array(without_tensor(X), dtype=np.float32, allow_nd=True, input_name="X")
        rows = rows.reshape(len(rows), -1)
        weight = None
        if sample_weight is not None:
            weight = check_weight(without_tensor(sample_weight), len(rows))
            rows, weight = rows[weight > 0], weight[weight > 0]
        columns: list[int] = []
        functions: list[tuple[float, ...]] = []
        for number in range(rows.shape[1]):
            values, place = np.unique(rows[:, number], return_inverse=True)
            if len(values) > 2:
                share = np.bincount(place.ravel(), weight, len(values))
                own = list(self._functions(values.astype(np.float64), share / share.sum()))
                columns += [number] * len(own)
                functions += own
        learned = copy.deepcopy(self)
        learned.n_features = rows.shape[1]
        learned.column = torch.tensor(columns, dtype=torch.int64, device=device)
        settings = np.reshape(functions, (len(columns), len(self.buffers_of_functions)))
        for name, setting in zip(self.buffers_of_functions, settings.T, strict=True):
            setattr(learned, name, torch.tensor(setting, dtype=torch.float32, device=device))
        return learned

    def _functions(self, values: NDArray, share: NDArray) -> Iterator[tuple[float, ...]]:
        """Give what the buffers hold of each function of a column.

        Parameters
        ----------
        values : ndarray of shape (n_values,), float64
            The column's distinct values, in order.
        share : ndarray of shape (n_values,)
            The share of the rows that have each.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Encode rows.

        Parameters
        ----------
        x : tensor of shape (..., n_features)
            The rows.

        Returns
        -------
        tensor of shape (..., n_outputs)
            The numbers, and their functions.

        Raises
        ------
        ValueError
            If `x` has rows of another width than those learned from, or there were none.
        """
        if self.n_features is None:
            raise ValueError("An encoding must learn from rows before it encodes some: learn(X).")
        if x.shape[-1] != self.n_features:
            raise ValueError(
                f"The encoding has learned from rows of {self.n_features} numbers, but those of x "
                f"have {x.shape[-1]}."
            )
        settings = [getattr(self, name) for name in self.buffers_of_functions]
        return torch.cat([x, self._encode(x.index_select(-1, self.column), *settings)], dim=-1)

    def in_numpy(self) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        """Give what encodes rows of shape (n, n_features) that are NumPy's, and nothing to train.

        Returns
        -------
        callable
            From a float64 array of rows to one of encoded rows. Safe in several threads at once.

        Examples
        --------
        >>> import numpy as np
        >>> encode = PiecewiseLinear(n_knots=3).learn([[0.0], [1.0], [3.0]]).in_numpy()
        >>> encode(np.array([[2.0]]))
        array([[2. , 0. , 0.5, 0.5]])
        """
        column = self.column.numpy(force=True).copy()
        settings = [
            getattr(self, name).numpy(force=True).astype(np.float64)
            for name in self.buffers_of_functions
        ]
        return lambda x: np.concatenate([x, self._encode(x[:, column], *settings)], axis=1)

    @staticmethod
    def _encode(x: Any, *settings: Any) -> Any:
        """Compute each function of its number in x, of shape (..., n_functions).

        `settings` are what the buffers hold; all are torch's or all are NumPy's.
        """
        raise NotImplementedError


class PiecewiseLinear(Encoding):
    r"""Hat functions over the quantiles of each number.

    With knots :math:`t_1 < \ldots < t_k` at evenly spaced quantiles of a column, the function of
    the i-th is 1 at :math:`t_i`, 0 at the other knots, linear between, and constant beyond the
    outer ones. A linear layer makes any piecewise-linear function of the number of them: of a
    column with no more values than knots, any function at all.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    n_knots : int, default=5
        The most knots of a column, 3 or more. Where many rows have one value there are fewer.

    References
    ----------
    Gorishniy et al. 2022, On Embeddings for Numerical Features in Tabular Deep Learning.

    Examples
    --------
    >>> import torch
    >>> from sksmooth.encoding import PiecewiseLinear
    >>> X = torch.tensor([[0.0], [1.0], [3.0]])
    >>> encoding = PiecewiseLinear(n_knots=3).learn(X)
    >>> encoding(torch.tensor([[1.0], [2.0], [9.0]]))
    tensor([[1.0000, 0.0000, 1.0000, 0.0000],
            [2.0000, 0.0000, 0.5000, 0.5000],
            [9.0000, 0.0000, 0.0000, 1.0000]])
    """

    buffers_of_functions = ("knot", "rise", "fall")
    knot: Tensor
    rise: Tensor
    fall: Tensor

    def __init__(self, n_knots: int = 5) -> None:
        super().__init__()
        self.n_knots = check_whole("n_knots", n_knots)
        if self.n_knots < 3:
            raise ValueError(f"n_knots must be 3 or more, got {n_knots!r}.")

    def extra_repr(self) -> str:
        """Give what torch prints of the parameters."""
        return f"n_knots={self.n_knots}"

    def _functions(self, values: NDArray, share: NDArray) -> Iterator[tuple[float, ...]]:
        knots = values
        if len(values) > self.n_knots:
            levels = np.linspace(0, 1, self.n_knots) - _TINY
            knots = np.unique(values[np.searchsorted(share.cumsum(), levels)])
        slopes = 1 / np.maximum(np.diff(knots), _SMALLEST)
        return zip(knots, [0.0, *slopes], [*slopes, 0.0], strict=True)

    @staticmethod
    def _encode(x: Any, *settings: Any) -> Any:
        knot, rise, fall = settings
        beyond = x - knot
        return (1 + beyond.clip(max=0) * rise - beyond.clip(min=0) * fall).clip(min=0)


class Periodic(Encoding):
    r"""Sines and cosines of each number.

    With mean m and standard deviation s of a column, they are :math:`\sin(f (x - m) / s)` and
    :math:`\cos(f (x - m) / s)`. The frequencies f lie where those of a half-normal distribution of
    the standard deviation `scale` would.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    n_frequencies : int, default=4
        Of each number.
    scale : float, default=2.0
        How fast they swing, in radians to a standard deviation of the column.

    References
    ----------
    Gorishniy et al. 2022, On Embeddings for Numerical Features in Tabular Deep Learning (whose
    frequencies are random and trained).

    Examples
    --------
    >>> import torch
    >>> from sksmooth.encoding import Periodic
    >>> X = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> Periodic(n_frequencies=1).learn(X)(X[1:2])
    tensor([[0., 0., 1.]])
    """

    buffers_of_functions = ("mean", "frequency", "phase")
    mean: Tensor
    frequency: Tensor
    phase: Tensor

    def __init__(self, n_frequencies: int = 4, scale: float = 2.0) -> None:
        super().__init__()
        self.n_frequencies = check_whole("n_frequencies", n_frequencies)
        if isinstance(scale, bool) or not isinstance(scale, Real):
            raise TypeError(f"scale must be a number above 0, got {scale!r}.")
        if not 0 < scale < np.inf:
            raise ValueError(f"scale must be above 0, got {scale!r}.")
        self.scale: float = scale

    def extra_repr(self) -> str:
        """Give what torch prints of the parameters."""
        return f"n_frequencies={self.n_frequencies}, scale={self.scale}"

    def _functions(self, values: NDArray, share: NDArray) -> Iterator[tuple[float, ...]]:
        mean = values @ share
        deviation = np.sqrt((values - mean) ** 2 @ share)
        levels = (np.arange(self.n_frequencies) + 0.5) / self.n_frequencies
        for frequency in self.scale * halfnorm.ppf(levels) / max(deviation, _SMALLEST):
            yield mean, frequency, 0.0
            yield mean, frequency, np.pi / 2  # the sine of which is a cosine

    @staticmethod
    def _encode(x: Any, *settings: Any) -> Any:
        mean, frequency, phase = settings
        sin = torch.sin if isinstance(x, Tensor) else np.sin
        return sin((x - mean) * frequency + phase)


ENCODINGS: dict[str, type[Encoding]] = {
    "periodic": Periodic,
    "piecewise_linear": PiecewiseLinear,
}


def check_encoding(encoding: object) -> Encoding | None:
    """Give the encoding, learned or not, that a parameter names; None: the numbers as they are.

    Examples
    --------
    >>> check_encoding("piecewise_linear")
    PiecewiseLinear(n_knots=5)
    """
    if encoding is None or isinstance(encoding, Encoding):
        return encoding
    if isinstance(encoding, str) and encoding in ENCODINGS:
        return ENCODINGS[encoding]()
    raise ValueError(
        f"encoding must be None, one of {sorted(ENCODINGS)} or an Encoding such as "
        f"PiecewiseLinear(n_knots=9), got {encoding!r}.{nearest(encoding, ENCODINGS)}"
    )
