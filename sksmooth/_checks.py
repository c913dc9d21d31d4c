"""Checks of what users give, each written once: names, class indices, probabilities.

What they have for `parameter` is the name by which messages call the value.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral, Real
from reprlib import Repr
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

FLOATS = [np.float64, np.float32, np.float16]

# Through whose code a user's call may come here; the rest of the stack is the user's.
_LIBRARIES = ("sksmooth.", "sklearn.", "skorch.", "torch.", "joblib.", "contextlib")


_SHORT = Repr()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxtuple = 10
_SHORT.maxstring = _SHORT.maxother = 100


def in_short(values: Any) -> str:
    """Write values for a message: of many, the first ten.

    Examples
    --------
    >>> in_short(np.arange(2000))
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...]'
    """
    return _SHORT.repr(values.tolist() if isinstance(values, np.ndarray) else values)


def nearest(word: object, known: Collection[object]) -> str:
    """Give the end of a message that names the known word most like `word`; empty if none is near.

    Examples
    --------
    >>> nearest("Maen", ["mean", "sum"])
    " Did you mean 'mean'?"
    """
    words = [name for name in known if isinstance(name, str)]
    found = get_close_matches(str(word).lower(), words, n=1, cutoff=0.5)
    return "".join(f" Did you mean {name!r}?" for name in found)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's own code, through however many libraries it called."""
    depth = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_LIBRARIES):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, category, stacklevel=depth + 1)


def check_choice(parameter: str, value: Any, choices: Collection[Any]) -> Any:
    """Return `value` if it is one of `choices`; otherwise say which were allowed.

    What is no string is a TypeError where all choices are strings.

    Examples
    --------
    >>> check_choice("reduction", "maen", ["mean", "sum", "none"])
    Traceback (most recent call last):
    ...
    ValueError: reduction must be one of 'mean', 'sum', 'none'; got 'maen'. Did you mean 'mean'?
    """
    if isinstance(value, str) and value in choices:
        return value
    message = f"{parameter} must be one of {', '.join(map(repr, choices))}; got {value!r}."
    if not isinstance(value, str):
        if all(isinstance(choice, str) for choice in choices):
            raise TypeError(message)
        if value in list(choices):  # a list, since what the user gave may have no hash
            return value
    raise ValueError(message + nearest(value, choices))


def as_numpy(values: Any) -> NDArray[Any]:
    """Give the numbers of a tensor, of any dtype and on any device, or of anything else, as array.

    Those of bfloat16 and float8, which NumPy lacks, are then float32.
    """
    return np.asarray(without_tensor(values))


def without_tensor(values: Any) -> Any:
    """Give the numbers of a tensor as an array, and anything else as it is.

    So that scikit-learn's checks see no tensor: with ``array_api_dispatch`` they want torch's
    dtypes, and without it they fail on a gradient, another device or bfloat16. Masked values, whose
    mask scikit-learn would drop, are refused.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"{np.ma.count_masked(values)} values of an array of shape {np.shape(values)} are "
            "masked; leave out their rows, or fill them."
        )
    if isinstance(values, np.ndarray) and values.dtype.kind == "T":
        return values.astype(object)  # NumPy's text of any length, which scikit-learn does not know
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu().resolve_conj().resolve_neg()
    is_numpys = values.dtype in (torch.float16, torch.float32, torch.float64)
    return (values if is_numpys or not values.is_floating_point() else values.float()).numpy()


def grain_of(values: Any) -> float:
    """Give the relative distance of neighbouring numbers in the type in which they were given.

    It is that of float64 for what has no floating type.

    Examples
    --------
    >>> grain_of(torch.ones(2, dtype=torch.bfloat16))
    0.0078125
    """
    if isinstance(values, torch.Tensor) and values.is_floating_point():
        return torch.finfo(values.dtype).eps
    dtype = getattr(values, "dtype", None)
    is_float = isinstance(dtype, np.dtype) and dtype.kind == "f"
    return float(np.finfo(dtype if is_float else np.float64).eps)


def check_class_indices(
    parameter: str, y: Any, n_classes: int | None = None, error: type[Exception] = TypeError
) -> NDArray[np.int64]:
    """Return class indices as a vector of int64, all below `n_classes` where that is given.

    Anything but integers raises `error`.

    Examples
    --------
    >>> check_class_indices("y", [0, 3], n_classes=2)
    Traceback (most recent call last):
    ...
    ValueError: y must hold class indices from 0 to 1, but y[1] is 3.
    """
    array = as_numpy(y)
    if array.ndim != 1:
        is_column = array.ndim == 2 and array.shape[1] == 1
        hint = f": squeeze it, for example {parameter}.ravel()" if is_column else ""
        raise ValueError(
            f"{parameter} must have shape (n_samples,), got {array.shape}{hint}."
            + one_hot_hint(parameter, array.shape)
        )
    if array.size and array.dtype.kind not in "biu":
        raise error(
            f"{parameter} must hold class indices, integers from 0, got dtype {array.dtype} "
            f"and {parameter}[0]={array[0]!r}."
        )
    codes = array.astype(np.int64)
    if n_classes is not None:
        check_range(parameter, codes, n_classes)
    return codes


def one_hot_hint(parameter: str, shape: tuple[int, ...]) -> str:
    """Say how class indices come of what may be rows with a one for their class.

    Examples
    --------
    >>> one_hot_hint("y", (5, 3))
    ' Of rows with a one for their class, y.argmax(axis=1) gives class indices.'
    """
    if len(shape) != 2 or shape[1] < 2:
        return ""
    return f" Of rows with a one for their class, {parameter}.argmax(axis=1) gives class indices."


def check_range(parameter: str, codes: Any, n_classes: int, note: str = "") -> None:
    """Name the first class index that is out of range; `note` says where `n_classes` is from.

    Examples
    --------
    >>> check_range("target", torch.tensor([[0, 1], [-1, 0]]), 2)
    Traceback (most recent call last):
    ...
    ValueError: target must hold class indices from 0 to 1, but target[1, 0] is -1.
    """
    outside = np.argwhere(as_numpy((codes < 0) | (codes >= n_classes)))
    if len(outside):
        index = tuple(outside[0].tolist())
        raise ValueError(
            f"{parameter} must hold class indices from 0 to {n_classes - 1}{note}, "
            f"but {parameter}{list(index) or ''} is {int(codes[index])}."
        ) from None


def check_proportions(
    parameter: str, value: Any, shape: tuple[int, ...], expected: str
) -> NDArray[np.float64]:
    """Return numbers that are not negative and sum to one along the last axis.

    `expected` says in words what is wanted.

    Examples
    --------
    >>> check_proportions("class_prior", [0.5, 0.4], (2,), "two numbers")
    Traceback (most recent call last):
    ...
    ValueError: class_prior must sum to 1, but it sums to 0.9.
    """
    for names in value.axes if isinstance(value, pd.DataFrame | pd.Series) else ():
        if not names.is_monotonic_increasing:
            raise ValueError(
                f"{parameter} has the names {in_short(names.to_numpy())}, which are not in the "
                f"order of the classes, who are sorted; sort them, or give {parameter}.to_numpy()."
            )
    try:
        array = as_numpy(value)
    except ValueError as error:  # rows of unequal length
        raise ValueError(f"{parameter} must be {expected}, got {value!r}.") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{parameter} must be {expected}, got {value!r}.")
    if array.shape != shape:
        raise ValueError(f"{parameter} must be {expected}, got an array of shape {array.shape}.")
    array = array.astype(np.float64)
    invalid = np.argwhere(~((array >= 0) & np.isfinite(array)))
    if len(invalid):
        index = tuple(invalid[0].tolist())
        raise ValueError(
            f"{parameter} must be finite and non-negative, but {parameter}{list(index)} "
            f"is {array[index]}."
        )
    check_sums(parameter, array, max(1e-6, grain_of(value)))
    return array


def check_sums(parameter: str, array: NDArray[Any], tolerance: float) -> None:
    """Name the first row of finite numbers, or the vector, that does not sum to one.

    Examples
    --------
    >>> check_sums("y_proba", np.array([[0.5, 0.5], [0.5, 0.4]]), 1e-6)
    Traceback (most recent call last):
    ...
    ValueError: each row of y_proba must sum to 1, but row 1 sums to 0.9.
    """
    sums = np.atleast_1d(array.sum(axis=-1, dtype=np.float64))
    wrong = np.flatnonzero(np.abs(sums - 1) > tolerance)
    if wrong.size:
        row = wrong[0]
        what, which = (f"each row of {parameter}", f"row {row}")
        if array.ndim == 1:
            what, which = parameter, "it"
        raise ValueError(f"{what} must sum to 1, but {which} sums to {sums[row]:.7g}.")


def check_whole(parameter: str, value: Any) -> int:
    """Return a positive integer as a Python int; NumPy's are integers too, bool is not.

    Examples
    --------
    >>> check_whole("n_classes", 0)
    Traceback (most recent call last):
    ...
    ValueError: n_classes must be a positive integer, got 0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{parameter} must be a positive integer, got {value!r}.")
    if value < 1:
        raise ValueError(f"{parameter} must be a positive integer, got {value}.")
    return int(value)


def check_share(parameter: str, value: Any) -> float:
    """Return a real number in [0, 1) as a Python float; NumPy's scalars are numbers, bool is not.

    Examples
    --------
    >>> check_share("dropout", 1.0)
    Traceback (most recent call last):
    ...
    ValueError: dropout must be in [0, 1), got 1.0.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{parameter} must be a real number in [0, 1), "
            f"got {value!r} of type {type(value).__name__}."
        )
    try:
        share = float(value)
    except OverflowError:  # an integer may be larger than any float
        share = np.inf
    if not 0 <= share < 1:  # false for NaN as well
        raise ValueError(f"{parameter} must be in [0, 1), got {value}.")
    return share


def scale_to_unit(weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Scale weights by a power of two, so without rounding, that brings the largest to about one.

    Sums and products of weights then neither overflow nor underflow, whatever their scale. Of a
    stack of sets, of shape (..., n_samples), each is scaled by itself: its largest weight is then
    in [1/2, 1), or 0. ``np.ldexp(weight, exponent)`` is what was given.

    Examples
    --------
    >>> scale_to_unit(np.array([3.0, 12.0]))
    (array([0.1875, 0.75  ]), array([4]...))
    """
    _, exponent = np.frexp(weight.max(axis=-1, keepdims=True))
    return np.ldexp(weight, -exponent), exponent


@contextmanager
def naming(parameter: str) -> Iterator[None]:
    """Let what others say of a parameter begin with its name, unless it is in it.

    Examples
    --------
    >>> with naming("lr"):
    ...     float("high")
    Traceback (most recent call last):
    ...
    ValueError: lr: could not convert string to float: 'high'
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if parameter in str(error):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{parameter}: {error}") from error


def check_vector(parameter: str, values: ArrayLike, n_samples: int | None = None) -> NDArray[Any]:
    """Return finite numbers as a vector, in their own precision where they have one.

    There must be `n_samples` of them, or any number but zero.

    Examples
    --------
    >>> check_vector("sample_weight", [1, 2], 3)
    Traceback (most recent call last):
    ...
    ValueError: sample_weight must have shape (3,), got (2,).
    """
    refuse_dates(parameter, values)
    with naming(parameter):
        vector = check_array(
            without_tensor(values), dtype=FLOATS, ensure_2d=False, input_name=parameter
        )
    if vector.ndim != 1 or n_samples not in (None, len(vector)):
        expected = "(n_samples,)" if n_samples is None else f"({n_samples},)"
        raise ValueError(f"{parameter} must have shape {expected}, got {vector.shape}.")
    return vector


def refuse_dates(parameter: str, values: Any) -> None:
    """Refuse dates and durations, which scikit-learn takes for numbers.

    Examples
    --------
    >>> refuse_dates("sample_weight", np.array(["2020"], dtype="datetime64[Y]"))
    Traceback (most recent call last):
    ...
    TypeError: sample_weight must hold numbers, got datetime64[Y].
    """
    dtype = getattr(values, "dtype", None)
    if getattr(dtype, "kind", "") in ("m", "M"):
        raise TypeError(f"{parameter} must hold numbers, got {dtype}.")


def check_unit_interval(parameter: str, values: NDArray[Any], grain: float) -> NDArray[Any]:
    """Return probabilities, of any shape but an empty one, that all lie in [0, 1].

    What sums and means of numbers of that `grain`, or of float32, miss it by is clipped.

    Examples
    --------
    >>> check_unit_interval("y_proba", np.array([0.5, 1.5]), 1e-16)
    Traceback (most recent call last):
    ...
    ValueError: y_proba must hold probabilities in [0, 1], got 1.5; logits need a softmax first.
    """
    extremes, rounding = (values.min(), values.max()), 1e-6 + 2 * grain
    for extreme in extremes:
        if not -rounding <= extreme <= 1 + rounding:
            raise ValueError(
                f"{parameter} must hold probabilities in [0, 1], got {extreme}; "
                "logits need a softmax first."
            )
    is_within = extremes[0] >= 0 and extremes[1] <= 1
    return values if is_within else values.clip(0, 1)


def check_weight(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[Any]:
    """Return the rows' weights, none below 0 and one above it; ones where there are none."""
    if sample_weight is None:
        return np.ones(n_samples)
    weight = check_vector("sample_weight", sample_weight, n_samples).astype(np.float64)
    if weight.min() < 0:
        raise ValueError(f"sample_weight must not be negative, got {weight.min()}.")
    if weight.max() == 0:
        raise ValueError("sample_weight must not be zero for all rows.")
    return weight
