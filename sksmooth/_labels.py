"""Labels: which there are, their class indices, and the columns of probabilities they name."""

from __future__ import annotations

from collections.abc import Set
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets

from sksmooth._checks import (
    FLOATS,
    as_numpy,
    check_sums,
    check_unit_interval,
    grain_of,
    in_short,
    naming,
    one_hot_hint,
    without_tensor,
)


def sorted_labels(parameter: str, labels: ArrayLike) -> NDArray[Any]:
    """Give the distinct labels, in their order; refuse those of several types, which have none.

    Examples
    --------
    >>> sorted_labels("y", ["b", "a", "b"])
    array(['a', 'b'], dtype='<U1')
    """
    try:
        return LabelEncoder().fit(np.asarray(labels)).classes_
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in np.ravel(np.asarray(labels))})
        if len(kinds) == 1:  # such as bytes
            raise
        raise TypeError(
            f"{parameter} holds labels of several types, {', '.join(kinds)}, which have no common "
            "order; make all of them text, for instance."
        ) from error


def distinct(estimator: Any, labels: Any, name: str) -> NDArray:
    """Give the distinct labels, sorted; refuse fewer than two.

    `name` is the argument as which they came.
    """
    labels = list(labels) if isinstance(labels, Set) else labels
    if np.ndim(labels) == 0:
        raise ValueError(f"{name} must be an array of labels, got {labels!r}.")
    refuse_missing(labels, name)
    if len(labels) == 0:
        raise ValueError("classes is empty; give all labels, or None to take those of y.")
    classes = sorted_labels(name, labels)
    if len(classes) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs rows of at least two classes, but {name} holds one "
            f"class, {classes.tolist()[0]!r}."
        )
    return classes


def refuse_missing(labels: Any, name: str) -> None:
    """Refuse labels of which some are NaN or None."""
    if labels is not None and pd.isna(np.asarray(labels)).any():
        raise ValueError(f"Input {name} contains NaN or None; remove those rows.")


def refuse_no_classes(y: NDArray) -> None:
    """Refuse labels that scikit-learn does not take for classes; tell how objects become such.

    Examples
    --------
    >>> refuse_no_classes(np.array([1, 2], dtype=object))
    Traceback (most recent call last):
    ...
    ValueError: Unknown label type: y holds objects of type int, which are no classes to
    scikit-learn. Give y.astype('int64').
    """
    try:
        check_classification_targets(y)
    except ValueError as error:
        if y.dtype != object:
            raise
        kinds = ", ".join(sorted({type(label).__name__ for label in y.tolist()}))
        inferred = pd.Series(y).infer_objects().dtype
        own = inferred.name if inferred.kind in "biuf" else "str"
        raise ValueError(
            f"Unknown label type: y holds objects of type {kinds}, which are no classes to "
            f"scikit-learn. Give y.astype({own!r})."
        ) from error


def encode(y: NDArray, classes: NDArray) -> NDArray[np.int64]:
    """Give the class indices of labels: the labels themselves, without a copy, if they can."""
    is_code = y.dtype.kind in "iu" and y.ndim == 1 and are_codes(classes)
    if is_code and y.min() >= 0 and y.max() < len(classes):
        return np.ascontiguousarray(y, dtype=np.int64)
    encoder = LabelEncoder()
    encoder.classes_ = classes
    try:
        return encoder.transform(y).astype(np.int64, copy=False)
    except ValueError as error:
        raise ValueError(
            f"y has labels that are none of the classes {in_short(classes)}: "
            f"{shorten(str(error), 200)}. Where labels come in parts, name all of them at first: "
            "as the parameter classes, or by partial_fit(X, y, classes=labels)."
        ) from error


def are_codes(classes: NDArray) -> bool:
    """Tell whether classes are the integers 0, 1, ..., so that each is its own class index.

    Examples
    --------
    >>> are_codes(np.array([0, 1])), are_codes(np.array([0.0, 1.0]))
    (True, False)
    """
    return classes.dtype.kind in "iu" and np.array_equal(classes, np.arange(len(classes)))


def check_probabilities(
    y_true: ArrayLike, y_proba: ArrayLike, labels: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the column that each true label names, and the probabilities of all classes.

    The arguments are those of :func:`sksmooth.metrics.expected_calibration_error`.

    Examples
    --------
    >>> codes, proba = check_probabilities(["cat", "dog"], [0.25, 0.5], None)
    >>> codes
    array([0, 1])
    >>> proba
    array([[0.75, 0.25],
           [0.5 , 0.5 ]])
    """
    with naming("y_proba"):
        proba = check_array(
            without_tensor(y_proba),
            dtype=FLOATS,
            ensure_2d=False,
            allow_nd=True,
            input_name="y_proba",
        )
    grain = grain_of(y_proba)
    proba = check_unit_interval("y_proba", proba, grain)
    if proba.ndim == 1:
        proba = np.column_stack((1 - proba, proba))
    if proba.ndim == 2 and proba.shape[1] == 1 and (proba != 1).any():
        raise ValueError(
            "y_proba has one column; give the probability of the greater of two labels as a "
            f"vector, y_proba.ravel(), and not with shape {proba.shape}."
        )
    if proba.ndim != 2:
        raise ValueError(f"y_proba must have shape (n_samples, n_classes), got {proba.shape}.")
    # float32 and float64 pass by the 1e-4; half precision needs the grain of its own numbers on
    # top, twice where the softmax was computed in it.
    check_sums("y_proba", proba, 1e-4 + 2 * grain)

    y = as_numpy(y_true)
    if y.shape != (len(proba),):
        hint = one_hot_hint("y_true", y.shape)
        raise ValueError(f"y_true must have shape ({len(proba)},), got {y.shape}.{hint}")
    if pd.isna(y).any():
        raise ValueError("y_true must not have missing values.")
    return _columns_of(y, _labels_of(y_proba, y, labels), proba.shape[1]), proba


def _labels_of(y_proba: Any, y: NDArray[Any], labels: ArrayLike | None) -> ArrayLike | None:
    """Give the names of a frame's columns for `labels` where they are labels.

    Names may be the text of labels, which is all that polars and files have. Numbers that count the
    columns name nothing.
    """
    names = getattr(y_proba, "columns", None)
    if names is None or isinstance(names, pd.RangeIndex):
        return labels
    named = list(names)
    if labels is None:
        if set(pd.unique(y)) <= set(named):
            return named
        of_text = {str(label): label for label in pd.unique(y).tolist()}
        counted = [str(k) for k in range(len(named))]
        if named == counted or not of_text.keys() <= set(map(str, named)):
            return None
        return np.array([of_text.get(str(name), name) for name in named], dtype=object)
    given = as_numpy(labels).tolist()
    told, known = list(map(str, given)), list(map(str, named))
    if told != known and set(told) == set(known):
        raise ValueError(f"labels={given}, but the columns of y_proba are named {named}.")
    return labels


def _columns_of(y: NDArray[Any], labels: ArrayLike | None, n_classes: int) -> NDArray[Any]:
    if isinstance(labels, Set):
        raise ValueError(f"labels={labels!r} has no order; give a list, a label for each column.")
    classes = sorted_labels("y_true", y) if labels is None else as_numpy(labels)
    if classes.shape != (n_classes,) or n_classes < 2:
        hint = " Name the label of each column by labels=." if labels is None else ""
        raise ValueError(
            f"y_proba must have one column for each of two or more labels: it has {n_classes}, "
            f"and the labels {'in y_true' if labels is None else 'given'} are "
            f"{np.array2string(classes, threshold=10)}.{hint}"
        )
    index = pd.Index(classes)
    if not index.is_unique:
        raise ValueError(f"labels must not repeat, got {classes}.")
    codes = index.get_indexer(y)
    if (codes < 0).any():
        unknown = pd.unique(y[codes < 0])[:5].tolist()
        raise ValueError(f"y_true has labels that labels={in_short(classes)} lacks: {unknown}.")
    return codes
