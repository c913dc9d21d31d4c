"""Calibrators: from logits to probabilities.

A calibrator is any object with ``fit(logits, y)`` and ``predict_proba(logits)``, fitted on logits
of rows that the net did not train on.
"""

from __future__ import annotations

from contextlib import nullcontext
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from sksmooth._checks import (
    as_numpy,
    check_class_indices,
    naming,
    refuse_dates,
    warn_user,
    without_tensor,
)
from sksmooth._private import Interval, check_sample_weight
from sksmooth._refine import MOST_STEPS, STEP_TOLERANCE, refine, shares_of_weight
from sksmooth._versions import Stamped
from sksmooth.engine.threads import limit_threads

# Rows of a softmax at once: few enough to stay in the processor's cache.
ROWS_AT_ONCE = 2**14

# The normal prior of NormTemperatureScaling's power: mean 0, standard deviation 1/2.
POWER_PRECISION = 4.0
# Norms further than this factor from the typical one count as that far, so that a row unlike all
# that were seen is not scaled without end.
LARGEST_NORM_RATIO = 20.0
SMALLEST_CURVATURE = 1e-12  # of the loss where all rows are certain
LONGEST_STEP = 2.0
# Of the loss, relative to it, by one step. Rounding hides a smaller one; after that step the error
# is about the square of the one before, far below what is asked for.
SMALLEST_GAIN = 1e-13


class TemperatureScaling(Stamped, BaseEstimator):
    r"""Temperature scaling: probabilities softmax(logits / T).

    One number for all classes, found by minimizing the log-loss of rows that the net did not train
    on. It never changes the predicted class.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    prior_strength : float, default=0.0
        With 0, the temperature of maximum likelihood. With κ > 0, the labels are smoothed by
        κ/(n + κ) before the fit, as Platt did, so that n rows which are all classified correctly do
        not give a certainty that n rows cannot support. With weights, n is their sum or the number
        of rows that have one, whichever is larger.

    Attributes
    ----------
    temperature_ : float
        T. Above one it softens the probabilities, below one it sharpens them.
    classes_ : ndarray of shape (n_classes,)
        The class indices 0 ... n_classes - 1.

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks. Platt 1999, Probabilistic Outputs
    for Support Vector Machines and Comparisons to Regularized Likelihood Methods.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> scaling = TemperatureScaling().fit(logits, [0, 0, 1, 1])
    >>> print(f"{scaling.temperature_:.4f}")
    1.8205
    >>> scaling.predict_proba(logits[:1]).round(4)
    array([[0.75, 0.25]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "prior_strength": [Interval(Real, 0, None, closed="left")]
    }

    def __init__(self, prior_strength: float = 0.0) -> None:
        self.prior_strength = prior_strength

    def fit(
        self, logits: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> TemperatureScaling:
        """Find the temperature.

        Parameters
        ----------
        logits : array-like of shape (n_samples, n_classes)
            The net's raw output, of any floating dtype and scale.
        y : array-like of shape (n_samples,), int
            Class indices, 0 to n_classes - 1.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, of any scale. Without a prior only their ratios count; a prior is
            weighed against integers as against repeated rows, and against weights of a mean below
            one as against rows without weights.

        Returns
        -------
        TemperatureScaling
            Itself.

        Raises
        ------
        ValueError
            Where logits, labels, weights or `prior_strength` are not of that form.

        Warns
        -----
        ConvergenceWarning
            Where the log-loss has no minimum within the bounds: it falls for ever as T goes to 0
            (every row classified correctly) or to infinity (logits that say nothing of y).
        UserWarning
            Where the logits look like probabilities.
        """
        self._validate_params()
        logits = finite_logits(logits)
        y = as_numpy(y)
        y = y.ravel() if y.shape[1:] == (1,) else y
        y = check_class_indices("y", y, logits.shape[1], ValueError)
        check_consistent_length(logits, y)
        weight = weights_of_rows(without_tensor(sample_weight), logits)
        if are_probabilities(logits) and (logits != logits.round()).any():
            warn_user("The logits look like probabilities; give their logarithms.")
        return self.solve(logits, y, weight)

    def solve(
        self,
        logits: NDArray,
        y: NDArray,
        sample_weight: NDArray | None = None,
        start: NDArray | float | None = None,
        *,
        warn: bool = True,
    ) -> TemperatureScaling:
        """Find what `fit` finds, for arrays that are known to be as it wants them.

        Parameters
        ----------
        logits : ndarray of shape (n_samples, n_classes)
            Finite logits.
        y : ndarray of shape (n_samples,), int
            Class indices.
        sample_weight : ndarray of shape (n_samples,), default=None
            Weights of the rows, not all zero.
        start : float, default=None
            An inverse temperature to start from, as in :func:`refine`.
        warn : bool, default=True
            Whether to warn, as `fit` does, where the log-loss has no minimum. Without, for many
            fits of which one is kept: Python's filters of warnings are not for threads.

        Returns
        -------
        TemperatureScaling
            Itself.
        """
        refined = refine(logits, y, sample_weight, prior_strength=self.prior_strength, start=start)
        self.temperature_ = float(1 / refined.inverse_temperature)
        self.classes_ = np.arange(logits.shape[1])
        if refined.bound and warn:
            reason = {
                1: "every row is classified correctly",
                -1: "the logits say too little of the labels",
            }[int(refined.bound)]
            remedy = "More rows help."
            if self.prior_strength == 0:
                remedy = "More rows, or prior_strength=1, help."
            warn_user(
                f"No temperature minimizes the log-loss, since {reason}. Stopped at the bound, "
                f"temperature_={self.temperature_:.3g}. {remedy}",
                ConvergenceWarning,
            )
        self._solve_others(logits, y, sample_weight, has_minimum=not refined.bound)
        return self

    def _solve_others(
        self, logits: NDArray, y: NDArray, sample_weight: NDArray | None, *, has_minimum: bool
    ) -> None:
        """Find what depends on the temperature, which may have no minimum: here, nothing."""

    def predict_proba(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give calibrated probabilities.

        Parameters
        ----------
        logits : array-like of shape (n_samples, n_classes)
            The net's raw output.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            softmax(logits / T).

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return softmax_in_place(self._scaled(logits))

    def predict_log_proba(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give the logarithm of the calibrated probabilities, finite where those underflow.

        Parameters
        ----------
        logits : array-like of shape (n_samples, n_classes)
            The net's raw output.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            log softmax(logits / T).

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return softmax_in_place(self._scaled(logits), log=True)

    def _scaled(self, logits: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        logits = finite_logits(logits)
        if logits.shape[1] != len(self.classes_):
            raise ValueError(
                f"logits must have {len(self.classes_)} columns, as many as at fit, "
                f"got {logits.shape[1]}."
            )
        return logits / self._temperature_of(logits)

    def apply_in_place(
        self, logits: NDArray[np.float64], *, log: bool = False
    ) -> NDArray[np.float64]:
        """Turn logits that are known to be as `predict_proba` wants them into probabilities.

        Parameters
        ----------
        logits : ndarray of shape (n_samples, n_classes), float64
            Overwritten.
        log : bool, default=False
            Whether to give the logarithms of the probabilities.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            The same array.
        """
        for start in range(0, len(logits), ROWS_AT_ONCE):
            part = logits[start : start + ROWS_AT_ONCE]
            part /= self._temperature_of(part)
            softmax_in_place(part, log=log)
        return logits

    def _temperature_of(self, logits: NDArray[np.float64]) -> float | NDArray[np.float64]:
        """Give the temperature of each row, of shape (n_samples, 1), or one for all."""
        return self.temperature_


class NormTemperatureScaling(TemperatureScaling):
    r"""Temperature scaling whose temperature depends on the norm of the logits.

    With z the logits of a row less their mean, its probabilities are

    .. math::
        \mathrm{softmax}\!\left(\frac{z \, r^\gamma}{T}\right),
        \qquad r = \min\!\left(\max\!\left(\frac{\lVert z \rVert}{m}, 1/20\right), 20\right),

    where m is the mean norm of the rows of the fit. A row whose norm is further from it than that
    factor counts as that far, so that none is scaled without end. A power γ of 0 is plain
    temperature scaling, and -1 divides all logits by their norm. Between them lies a net whose
    large logits say less than their size: one that met few rows like this one, or wrong labels. T
    and γ minimize the log-loss of rows that the net did not train on, with a normal prior on γ.
    Like temperature scaling it never changes the predicted class.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    prior_strength : float, default=0.0
        As in :class:`TemperatureScaling`. The prior of γ is always there.

    Attributes
    ----------
    temperature_ : float
        T, the temperature of a row whose norm is the mean one.
    power_ : float
        γ.
    norm_ : float
        m.
    classes_ : ndarray of shape (n_classes,)
        The class indices 0 ... n_classes - 1.

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks (temperature scaling). Xia et al.
    2025, Towards Understanding Why Label Smoothing Degrades Selective Classification and How to
    Fix It (logits divided by their norm).

    Examples
    --------
    Logits of ten times the size that are no more often right:

    >>> import numpy as np
    >>> logits = np.array([[1.0, -1.0]] * 40 + [[10.0, -10.0]] * 40)
    >>> y = np.tile([0, 0, 0, 1], 20)
    >>> TemperatureScaling().fit(logits, y).predict_proba(logits[[0, 40]]).round(2)
    array([[0.53, 0.47],
           [0.77, 0.23]])
    >>> NormTemperatureScaling().fit(logits, y).predict_proba(logits[[0, 40]]).round(2)
    array([[0.71, 0.29],
           [0.78, 0.22]])
    """

    def _solve_others(
        self, logits: NDArray, y: NDArray, sample_weight: NDArray | None, *, has_minimum: bool
    ) -> None:
        """Find the power, and the temperature with it."""
        norm = _norm_of(logits)
        self.norm_ = float(np.average(norm, weights=shares_of_weight(sample_weight, norm.shape)[0]))
        self.power_ = 0.0
        if has_minimum and self.norm_:
            log_ratio = self._log_ratio(norm)
            loss = _NormLogLoss(logits, log_ratio, y, sample_weight, self.prior_strength)
            solved = _damped_newton(loss, np.array([-np.log(self.temperature_), 0.0]))
            self.temperature_, self.power_ = float(np.exp(-solved[0])), float(solved[1])

    def _log_ratio(self, norm: NDArray) -> NDArray:
        """Give the logarithm of norms over the typical one, within bounds."""
        ratio = norm / self.norm_ if self.norm_ else np.ones_like(norm)
        return np.log(ratio.clip(1 / LARGEST_NORM_RATIO, LARGEST_NORM_RATIO))

    def _temperature_of(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        log_ratio = self._log_ratio(_norm_of(logits))
        return self.temperature_ * np.exp(-self.power_ * log_ratio)[:, None]


# By the names that classifiers take.
CALIBRATORS = {"norm_temperature": NormTemperatureScaling, "temperature": TemperatureScaling}


class _NormLogLoss:
    """The mean log-loss as a function of -log T and γ, with the priors of both.

    With L a row's scaled logits and u its log norm, both derivatives of L are multiples of it: by 1
    and by u. So all that a row contributes are its slope and its curvature along L. Classes come
    first and logits are below the largest of their row, as in the refined loss.
    """

    def __init__(
        self,
        logits: NDArray,
        log_ratio: NDArray,
        y: NDArray,
        sample_weight: NDArray | None,
        prior_strength: float,
    ) -> None:
        self.z = np.array(logits.T, np.float64, order="C")
        self.z -= self.z.max(axis=0)
        self.log_ratio = log_ratio
        self.weight, n_rows = shares_of_weight(sample_weight, (len(logits),))
        self.precision = POWER_PRECISION / n_rows
        smoothed = prior_strength / (n_rows + prior_strength)
        own = np.take_along_axis(self.z, np.asarray(y)[None], axis=0)[0]
        self.target = (1 - smoothed) * own + smoothed * self.z.mean(axis=0)

    def __call__(self, x: NDArray) -> tuple[float, NDArray, NDArray]:
        """Give the loss, its gradient, and its Hessian or, where the loss is not convex, a bound.

        The bound leaves out how the logits themselves bend, as the Gauss-Newton method does.
        """
        value, slope, curvature = self.precision * x[1] ** 2 / 2, np.zeros(3), np.zeros(3)
        for start in range(0, len(self.weight), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            u, weight = self.log_ratio[rows], self.weight[rows]
            scale = np.exp(x[0] + x[1] * u)
            logits, target = self.z[:, rows] * scale, self.target[rows] * scale
            p = np.exp(logits)
            norm = p.sum(axis=0)
            p *= logits
            first = p.sum(axis=0) / norm
            p *= logits
            second = p.sum(axis=0) / norm
            value += weight @ (np.log(norm) - target)
            powers = np.stack([np.ones_like(u), u, u**2])
            slope += powers @ (weight * (first - target))
            curvature += powers @ (weight * (second - first**2))
        gradient = slope[:2] + np.array([0.0, self.precision * x[1]])
        hessian = self._hessian(curvature + slope)
        if hessian[0, 0] <= 0 or np.linalg.det(hessian) <= 0:
            hessian = self._hessian(curvature)
        return float(value), gradient, hessian

    def _hessian(self, sums: NDArray) -> NDArray:
        constant, mixed, square = sums
        return np.array([[constant + SMALLEST_CURVATURE, mixed], [mixed, square + self.precision]])


def _damped_newton(loss: _NormLogLoss, x: NDArray) -> NDArray:
    """Find the minimum by Newton's method, with steps halved until the loss falls."""
    value, gradient, hessian = loss(x)
    for _ in range(MOST_STEPS):
        step = -np.linalg.solve(hessian, gradient)
        step *= min(1.0, LONGEST_STEP / np.abs(step).max()) if step.any() else 1.0
        expected = gradient @ step
        if -expected <= SMALLEST_GAIN * value:
            return x + step
        length, (new_value, new_gradient, new_hessian) = 1.0, loss(x + step)
        while new_value > value + 1e-4 * length * expected and length > STEP_TOLERANCE:
            length /= 2
            new_value, new_gradient, new_hessian = loss(x + length * step)
        x = x + length * step
        value, gradient, hessian = new_value, new_gradient, new_hessian
    return x


def _norm_of(logits: NDArray) -> NDArray[np.float64]:
    """Give the norm of each row's logits less their mean."""
    norms = []
    for start in range(0, len(logits), ROWS_AT_ONCE):
        z = np.array(logits[start : start + ROWS_AT_ONCE], np.float64)
        z -= z.sum(axis=1, keepdims=True) / z.shape[1]
        largest = np.abs(z).max(axis=1, keepdims=True)  # lest squares overflow or underflow
        z /= np.where(largest > 0, largest, 1.0)
        norms.append(largest[:, 0] * np.sqrt(np.square(z).sum(axis=1)))
    return np.concatenate(norms)


def softmax_in_place(logits: NDArray[np.float64], *, log: bool = False) -> NDArray[np.float64]:
    """Turn logits into probabilities, or their logarithms, in the memory they are in.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_in_place(np.array([[0.0, np.log(3.0)]]))
    array([[0.25, 0.75]])
    """
    # Or torch wakes its threads for a few hundred rows; for one it never does.
    function = torch.log_softmax if log else torch.softmax
    with nullcontext() if len(logits) == 1 else limit_threads(0.0):
        for rows in torch.from_numpy(logits).split(ROWS_AT_ONCE):
            function(rows, dim=1, out=rows)
    return logits


def finite_logits(logits: Any) -> NDArray[np.float64]:
    """Check finite logits of two classes at least, and give them as float64."""
    logits = without_tensor(logits)
    try:
        return check_array(logits, dtype=np.float64, input_name="logits", ensure_min_features=2)
    except ValueError as error:
        shape = np.shape(logits)
        if len(shape) > 2:
            raise ValueError(
                f"{error} Logits have a column for each class: of shape (n, n_classes, d1, ...), "
                "give np.moveaxis(logits, 1, -1).reshape(-1, n_classes), and y.ravel()."
            ) from error
        if len(shape) != 1 and shape[1:] != (1,):
            raise
        raise ValueError(
            f"{error} Logits have a column for each class: of one number a row, d, as "
            "decision_function gives of two classes, np.column_stack([np.zeros_like(d), d])."
        ) from error


def are_probabilities(logits: NDArray) -> bool:
    """Tell whether the rows of what should be logits are such as a softmax gives."""
    tolerance = 0.02  # of a softmax in bfloat16
    return bool((logits >= 0).all() and np.allclose(logits.sum(1), 1, atol=tolerance))


def weights_of_rows(sample_weight: Any, X: Any) -> NDArray[np.float64]:
    """Check the weights of rows, none of which may be below 0, nor all 0; a number is that of each.

    Examples
    --------
    >>> weights_of_rows(2, [[1], [1]])
    array([2., 2.])
    >>> weights_of_rows(["a", "b"], [[1], [1]])
    Traceback (most recent call last):
    ...
    ValueError: sample_weight: could not convert string to float: 'a'
    """
    refuse_dates("sample_weight", sample_weight)
    with naming("sample_weight"):
        weight = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not np.isfinite(weight).all():
        raise ValueError(f"sample_weight must be finite, got {sample_weight!r}.")
    if not weight.any():
        raise ValueError("sample_weight is zero for every row; give some a weight above 0.")
    return weight
