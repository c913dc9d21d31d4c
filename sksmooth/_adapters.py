"""Calibrators around others: those that want no logits, those of rows that classes weighed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from sksmooth._checks import check_class_indices
from sksmooth.calibration import finite_logits


class DistributionCalibrator(BaseEstimator):
    """A calibrator of probmetrics, for logits.

    Those calibrators want probabilities in ``fit``, but their ``fit_torch`` takes a distribution
    that each asks for its logits or its probabilities, whichever it works on.

    Parameters
    ----------
    calibrator : probmetrics.calibrators.Calibrator
        Such as ``get_calibrator("svs")`` gives.

    Attributes
    ----------
    calibrator_ : probmetrics.calibrators.Calibrator
        The fitted one.
    classes_ : ndarray of shape (n_classes,)
        The class indices 0 ... n_classes - 1.

    Examples
    --------
    >>> import numpy as np
    >>> from probmetrics.calibrators import get_calibrator  # doctest: +SKIP
    >>> logits, y = np.eye(3)[[0, 1, 2] * 9], np.array([0, 1, 2] * 9)
    >>> scaling = DistributionCalibrator(get_calibrator("svs"))  # doctest: +SKIP
    >>> scaling.fit(logits, y).predict_proba(logits).shape  # doctest: +SKIP
    (27, 3)
    """

    def __init__(self, calibrator: Any) -> None:
        self.calibrator = calibrator

    def fit(self, logits: ArrayLike, y: ArrayLike) -> DistributionCalibrator:
        """Fit the calibrator to logits and class indices."""
        logits = finite_logits(logits)
        codes = check_class_indices("y", y, logits.shape[1], ValueError)
        self.calibrator_ = clone(self.calibrator)
        self.calibrator_.fit_torch(_distribution(logits), torch.from_numpy(codes))
        self.classes_ = np.arange(logits.shape[1])
        return self

    def predict_proba(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give calibrated probabilities, of shape (n_samples, n_classes)."""
        check_is_fitted(self)
        given = self.calibrator_.predict_proba_torch(_distribution(finite_logits(logits)))
        proba = given.get_probs().numpy().astype(np.float64)
        return proba / proba.sum(axis=1, keepdims=True)


def _distribution(logits: NDArray[np.float64]) -> Any:
    from probmetrics.distributions import CategoricalLogits

    return CategoricalLogits(torch.from_numpy(logits))


class WithoutClassWeight(BaseEstimator):
    """Probabilities of rows as they come, from a calibrator of rows that `class_weight` weighed.

    The weight of a class multiplies its odds; they are divided by it.

    Parameters
    ----------
    calibrator : object
        Fitted to rows with the weights of their classes.
    class_weight : ndarray of shape (n_classes,)
        These weights. A class of weight zero, which has no rows, counts as of the largest.

    Examples
    --------
    >>> import numpy as np
    >>> from sksmooth.calibration import TemperatureScaling
    >>> logits, y = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), [0, 1, 1, 1]
    >>> scaling = TemperatureScaling().fit(logits, y)
    >>> WithoutClassWeight(scaling, np.array([1.0, 3.0])).predict_proba([[0.0, 0.0]])
    array([[0.75, 0.25]])
    """

    def __init__(self, calibrator: Any, class_weight: NDArray[np.float64]) -> None:
        self.calibrator = calibrator
        self.class_weight = class_weight

    @property
    def relative_weight(self) -> NDArray[np.float64]:
        """The weights, the largest of them 1."""
        return np.where(self.class_weight > 0, self.class_weight / self.class_weight.max(), 1.0)

    def predict_proba(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give the probabilities, of shape (n_samples, n_classes)."""
        proba = self.calibrator.predict_proba(logits) / self.relative_weight
        return proba / proba.sum(axis=1, keepdims=True)


def fit_given(
    calibration: Any, logits: NDArray, y: NDArray, sample_weight: NDArray | None = None
) -> Any:
    """Fit a copy of a calibrator that the user gave, with weights if it takes them.

    It is refused if it refuses logits, or gives probabilities of another shape.
    """
    calibrator: Any = clone(calibration, safe=False)
    if hasattr(calibrator, "fit_torch") and hasattr(calibrator, "predict_proba_torch"):
        calibrator = DistributionCalibrator(calibrator)
    weights = {}
    if sample_weight is not None and has_fit_parameter(calibrator, "sample_weight"):
        weights = {"sample_weight": sample_weight}
    try:
        calibrator.fit(logits, y, **weights)
    except ValueError as error:
        raise ValueError(
            f"calibration={calibration!r} could not be fitted to logits: {error} One that takes "
            "probabilities goes behind a softmax: make_pipeline(FunctionTransformer("
            'scipy.special.softmax, kw_args={"axis": 1}), calibrator).'
        ) from error
    shape = np.shape(calibrator.predict_proba(logits))
    if shape != logits.shape:
        raise ValueError(
            f"calibration={calibration!r} gave probabilities of shape {shape} for logits of shape "
            f"{logits.shape}; perhaps a class is missing from the held-out rows. Use "
            "calibration='temperature', or hold out more rows by train_split."
        )
    return calibrator
