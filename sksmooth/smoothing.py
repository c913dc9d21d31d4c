"""Smoothed labels: how much mass leaves the true class, and where it goes.

Every form of label smoothing here is one matrix, T = (1 - ε) I + ε S, whose row y is the target
distribution of class y. S, the place the mass ε goes to, is what the parameter `smoothing` names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sksmooth._checks import (
    check_choice,
    check_class_indices,
    check_proportions,
    check_range,
    check_share,
    check_whole,
)

__all__ = [
    "SMOOTHINGS",
    "check_choice",
    "check_label_smoothing",
    "check_smoothing",
    "smooth_labels",
    "smoothing_masses",
    "smoothing_matrix",
]


def check_label_smoothing(label_smoothing: object) -> float:
    """Return `label_smoothing`, the mass ε taken from the true class, as a float in [0, 1).

    Examples
    --------
    >>> from sksmooth.smoothing import check_label_smoothing
    >>> check_label_smoothing(0)
    0.0
    >>> check_label_smoothing(1.0)
    Traceback (most recent call last):
    ...
    ValueError: label_smoothing must be in [0, 1), got 1.0.
    """
    return check_share("label_smoothing", label_smoothing)


def check_smoothing(smoothing: object, n_classes: int) -> str | NDArray[np.float64]:
    """Return `smoothing` as a known name, or as a checked matrix S of `n_classes` rows and columns.

    Examples
    --------
    >>> from sksmooth.smoothing import check_smoothing
    >>> check_smoothing("off_target", 3)
    'off_target'
    >>> check_smoothing([[0.5, 0.5], [0.5, 0.4]], 2)
    Traceback (most recent call last):
    ...
    ValueError: each row of smoothing must sum to 1, but row 1 sums to 0.9.
    """
    if isinstance(smoothing, str):
        return check_choice("smoothing", smoothing, SMOOTHINGS)
    names = ", ".join(map(repr, SMOOTHINGS))
    expected = f"one of {names} or an array of shape ({n_classes}, {n_classes})"
    return check_proportions("smoothing", smoothing, (n_classes, n_classes), expected)


def smoothing_matrix(
    label_smoothing: float,
    n_classes: int,
    smoothing: str | ArrayLike | torch.Tensor = "uniform",
    class_prior: ArrayLike | torch.Tensor | None = None,
) -> Any:
    r"""Compute the smoothing matrix T, whose row y is the target distribution of class y.

    .. math:: T = (1 - \varepsilon) I + \varepsilon S

    where the rows of S are, for K classes,

    - "uniform": 1/K everywhere, which is what `torch.nn.CrossEntropyLoss(label_smoothing=ε)` does;
    - "off_target": 1/(K-1) on the other classes and 0 on y itself;
    - "prior": the class frequencies `class_prior`, the same in every row;
    - or those of an array, for example one that sends the mass to neighbouring grades.

    "uniform" with ε is "off_target" with ε(K-1)/K.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    label_smoothing : float in [0, 1)
        The mass ε taken from the true class.
    n_classes : int
        The number of classes K.
    smoothing : {"uniform", "off_target", "prior"} or array-like of shape (K, K), default="uniform"
        Where the mass goes. An array is S itself: non-negative, each row summing to one.
    class_prior : array-like of shape (K,), default=None
        The class frequencies, needed for "prior" and not read otherwise. They sum to one.

    Returns
    -------
    ndarray of shape (K, K), float64
        T. If `smoothing` or `class_prior` is a torch tensor, a tensor of its dtype and device (of
        torch's default dtype if it holds integers).

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter has a value it cannot have; the message names it.

    References
    ----------
    Szegedy et al. (2016), Rethinking the Inception Architecture for Computer Vision, section 7.

    Examples
    --------
    >>> from sksmooth.smoothing import smoothing_matrix
    >>> smoothing_matrix(0.1, 3, "off_target")
    array([[0.9 , 0.05, 0.05],
           [0.05, 0.9 , 0.05],
           [0.05, 0.05, 0.9 ]])
    >>> smoothing_matrix(0.5, 2, "prior", class_prior=[0.75, 0.25])
    array([[0.875, 0.125],
           [0.375, 0.625]])
    """
    matrix, own = smoothing_masses(label_smoothing, n_classes, smoothing, class_prior)
    if own is not None:
        matrix = np.where(np.eye(len(own), dtype=bool), own, matrix)
    like = next((a for a in (smoothing, class_prior) if isinstance(a, torch.Tensor)), None)
    if like is None:
        return matrix
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.as_tensor(matrix, dtype=dtype, device=like.device)


def smoothing_masses(
    label_smoothing: float,
    n_classes: int,
    smoothing: str | ArrayLike | torch.Tensor = "uniform",
    class_prior: ArrayLike | torch.Tensor | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Give the smoothing matrix in as few numbers as tell it: of a vocabulary it has billions.

    For a name, each class's mass in the rows of others, (K,), and in its own, (K,); else the matrix
    and None.

    Examples
    --------
    >>> smoothing_masses(0.1, 3, "off_target")
    (array([0.05, 0.05, 0.05]), array([0.9, 0.9, 0.9]))
    """
    epsilon = check_label_smoothing(label_smoothing)
    n_classes = check_whole("n_classes", n_classes)
    destination = check_smoothing(smoothing, n_classes)
    if not isinstance(destination, str):
        return (1 - epsilon) * np.eye(n_classes) + epsilon * destination, None
    to_others, to_own = SMOOTHINGS[destination](n_classes, class_prior)
    return epsilon * to_others, (1 - epsilon) + epsilon * to_own


def smooth_labels(
    y: ArrayLike | torch.Tensor,
    label_smoothing: float,
    n_classes: int | None = None,
    smoothing: str | ArrayLike | torch.Tensor = "uniform",
    class_prior: ArrayLike | torch.Tensor | None = None,
) -> Any:
    """Turn class indices into smoothed target distributions: the rows T[y].

    .. versionadded:: 0.2.0

    Parameters
    ----------
    y : array-like or tensor of shape (n_samples,)
        Class indices, integers from 0 to K-1.
    label_smoothing : float in [0, 1)
        The mass ε taken from the true class.
    n_classes : int, default=None
        The number of classes K. None: the length of a matrix given as `smoothing`, else that of
        `class_prior`, else the largest label plus one.
    smoothing : {"uniform", "off_target", "prior"} or array-like of shape (K, K), default="uniform"
        Where the mass goes; see :func:`smoothing_matrix`.
    class_prior : array-like of shape (K,), default=None
        The class frequencies for "prior". None: the frequencies in `y`.

    Returns
    -------
    ndarray of shape (n_samples, K), float64
        The target distributions; for a torch `y` a tensor on the same device, of torch's default
        floating dtype.

    Raises
    ------
    TypeError
        If `y` does not hold integers.
    ValueError
        If `y` is not one-dimensional or holds a label outside 0 to K-1, or a parameter has a value
        it cannot have.

    Examples
    --------
    >>> from sksmooth.smoothing import smooth_labels
    >>> smooth_labels([0, 2], 0.1, n_classes=5, smoothing="off_target")
    array([[0.9  , 0.025, 0.025, 0.025, 0.025],
           [0.025, 0.025, 0.9  , 0.025, 0.025]])
    >>> import torch
    >>> smooth_labels(torch.tensor([1, 0]), 0.2)
    tensor([[0.1000, 0.9000],
            [0.9000, 0.1000]])
    """
    labels = check_class_indices("y", y)
    if n_classes is None:
        n_classes = _infer_n_classes(labels, smoothing, class_prior)
    check_range("y", labels, check_whole("n_classes", n_classes))
    if class_prior is None and isinstance(smoothing, str) and smoothing == "prior":
        if not labels.size:
            raise ValueError("y is empty, so class_prior must be given for smoothing='prior'.")
        class_prior = np.bincount(labels, minlength=n_classes) / labels.size
    masses, own = smoothing_masses(label_smoothing, n_classes, smoothing, class_prior)
    if own is None:
        rows = masses[labels]
    else:
        rows = np.where(labels[:, None] == np.arange(n_classes), own, masses)
    if isinstance(y, torch.Tensor):
        return torch.as_tensor(rows, dtype=torch.get_default_dtype(), device=y.device)
    return rows


def _uniform(n_classes: int, class_prior: object) -> Destination:
    share = np.full(n_classes, 1 / n_classes)
    return share, share


def _off_target(n_classes: int, class_prior: object) -> Destination:
    if n_classes < 2:
        raise ValueError(
            "smoothing='off_target' needs another class to give mass to, "
            f"got n_classes={n_classes}."
        )
    return np.full(n_classes, 1 / (n_classes - 1)), np.zeros(n_classes)


def _prior(n_classes: int, class_prior: object) -> Destination:
    if class_prior is None:
        raise ValueError(
            "smoothing='prior' needs class_prior, the class frequencies: an array of shape "
            f"({n_classes},) that sums to 1."
        )
    expected = f"an array of shape ({n_classes},), one frequency a class"
    prior = check_proportions("class_prior", class_prior, (n_classes,), expected)
    return prior, prior


# Of the mass that is taken: each class's share in the rows of others, and in its own.
Destination: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
SMOOTHINGS: dict[str, Callable[[int, object], Destination]] = {
    "uniform": _uniform,
    "off_target": _off_target,
    "prior": _prior,
}


def _infer_n_classes(labels: NDArray[np.int64], smoothing: object, class_prior: object) -> int:
    for given in (None if isinstance(smoothing, str) else smoothing, class_prior):
        if isinstance(given, torch.Tensor) or np.ndim(given):  # type: ignore[arg-type]
            return len(given)  # type: ignore[arg-type]
    if not labels.size:
        raise ValueError("y is empty, so n_classes must be given.")
    return max(int(labels.max()) + 1, 1)
