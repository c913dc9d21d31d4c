"""Calibrators: from logits to probabilities.

A calibrator is any object with ``fit(logits, y)`` and ``predict_proba(logits)``, fitted on logits
of rows that the net did not train on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from sksmooth._checks import check_class_indices, scale_to_unit, without_tensor

# How far the inverse temperature may go from one over the logits' own scale where the log-loss has
# no minimum. At the upper bound a row of average margin has a probability of one to the last bit;
# at the lower all are equal.
LARGEST_FACTOR = 1e4
MOST_STEPS = 200
STEP_TOLERANCE = 1e-10
ROWS_AT_ONCE = 2**14  # of a softmax: few enough to stay in the processor's cache
SMALLEST_DIVISOR = 1e-300  # keeps quotients finite
SMALLEST_SCALE = np.finfo(np.float64).tiny

# Of which a prior of one is less than the rounding of a probability near one.
MOST_ROWS = 2.0**53

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


class Refinement(NamedTuple):
    """The outcome of :func:`refine`.

    Parameters
    ----------
    inverse_temperature : ndarray of shape (...)
        The β that minimizes the log-loss of softmax(β · logits).
    log_loss : ndarray of shape (...)
        That log-loss: the refined loss.
    bound : ndarray of shape (...), int
        0 where that is a minimum; 1 where the log-loss falls for ever as β grows (every row is
        classified correctly) and -1 where it falls as β shrinks (the logits say nothing of y).
    """

    inverse_temperature: NDArray
    log_loss: NDArray
    bound: NDArray


def refine(
    logits: NDArray,
    y: NDArray,
    sample_weight: NDArray | None = None,
    *,
    prior_strength: float = 0.0,
    start: NDArray | float | None = None,
    tolerance: float = STEP_TOLERANCE,
) -> Refinement:
    r"""Minimize the log-loss over the temperature, for one set of rows or a stack of sets.

    Solves :math:`\min_\beta \sum_i w_i \, [\log \sum_k e^{\beta z_{ik}} - \beta \sum_k q_{ik}
    z_{ik}]` by Newton's method within a bracket. The function is convex in β, so what is found
    is the minimum. The targets q are the classes, or with a `prior_strength` of κ those
    smoothed by κ/(n + κ), as Platt does for two classes: the minimum is then finite for separable
    logits, too.

    Parameters
    ----------
    logits : ndarray of shape (..., n_samples, n_classes)
        Logits z, one set of rows or a stack of sets.
    y : ndarray of shape (..., n_samples), int
        Class indices.
    sample_weight : ndarray of shape (..., n_samples), default=None
        Weights w; a weight of zero leaves the row out.
    prior_strength : float, default=0.0
        κ, the number of rows that the prior weighs as much as. The n above is the sum of the
        weights, or the number of rows that have one, whichever is larger: integer weights are
        repeated rows, and weights below one on average count only relative to each other.
    start : ndarray of shape (...) or float, default=None
        Where to start, such as the answer of the epoch before. None starts from the logits' scale.
    tolerance : float, default=1e-10
        The relative size of the last step in β. The error of β is about its square, and that of the
        log-loss, which is flat at its minimum, again the square of that.

    Returns
    -------
    Refinement
        Inverse temperature, refined loss (of the labels themselves, without the prior) and which
        bound was hit, if any.

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks. Platt 1999, Probabilistic Outputs
    for Support Vector Machines (the smoothed targets). Berta et al. 2025, Rethinking Early
    Stopping: Refine, Then Calibrate (the refined loss).

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> refined = refine(logits, np.array([0, 0, 1, 1]))
    >>> round(float(refined.inverse_temperature), 6)  # three of four right: log(3) / 2
    0.549306
    """
    loss, unit = _log_loss_in_own_unit(logits, y, sample_weight, prior_strength)
    low, high = loss.bracket()
    bound = loss.bound(low)
    begin = np.ones_like(low) if start is None else np.asarray(start, np.float64) / unit
    begin = np.maximum(low, np.minimum(high, begin))
    solved = loss.constant | (bound != 0)
    if solved.any():
        begin = np.where(bound > 0, high, np.where(bound < 0, low, begin))
        begin = np.where(loss.constant, 1.0, begin)
    beta = _newton(loss.slope_and_curvature, begin, low, high, solved, tolerance)
    return Refinement(beta * unit, loss.value(beta), bound)


class _LogLoss:
    """The log-loss of a stack of sets of rows as a function of the inverse temperature β.

    Classes come first, since sums over a long last axis are fast. Logits are below the largest of
    their row (so at most 0) and of order one.
    """

    def __init__(
        self,
        z: NDArray,
        own_mean: NDArray,
        mean: NDArray,
        weight: NDArray,
        smoothed: NDArray | float,
    ) -> None:
        self.z = z
        self.weight = weight
        self.own_mean = own_mean  # of the labels' logits
        self.mean = mean  # of all logits
        self.target = (1 - smoothed) * own_mean + smoothed * mean
        self.constant = mean == 0  # any β will do

    def value(self, beta: NDArray) -> NDArray:
        """Give the log-loss of the labels themselves."""
        log_norm = self._terms(beta).sum(axis=0)
        np.log(log_norm, out=log_norm)
        return np.vecdot(self.weight, log_norm) - beta * self.own_mean

    def _terms(self, beta: NDArray) -> NDArray:
        """Give exp(β z), of which the probabilities are shares."""
        terms = beta[..., None] * self.z
        return np.exp(terms, out=terms)

    def slope_and_curvature(self, beta: NDArray) -> tuple[NDArray, NDArray]:
        """Give the first two derivatives, those of the smoothed labels."""
        p = self._terms(beta)
        norm = p.sum(axis=0)
        p *= self.z
        first = p.sum(axis=0)
        first /= norm
        p *= self.z
        second = p.sum(axis=0)
        second /= norm
        slope = np.vecdot(self.weight, first) - self.target
        second -= np.square(first, out=first)
        return slope, np.vecdot(self.weight, second)

    def bracket(self) -> tuple[NDArray, NDArray]:
        """Give bounds of β; the slope is positive at the upper one, unless the target is zero.

        Since t exp(βt) >= -1/(eβ), the slope is at least -(n_classes - 1)/(eβ) - target.
        """
        reach = (len(self.z) - 1) / np.e / np.maximum(-self.target, SMALLEST_DIVISOR)
        high = np.where(self.target < 0, reach, LARGEST_FACTOR)
        return np.full_like(high, 1 / LARGEST_FACTOR), high

    def bound(self, low: NDArray) -> NDArray:
        """Give 1 or -1 where the log-loss falls for ever as β grows or shrinks, 0 elsewhere."""
        # The slope rises from that at 0 by at most the largest z² per unit of β.
        largest_slope = self.mean - self.target + low * self.z.min() ** 2
        if ((largest_slope < 0) & (self.target < 0)).all():
            return np.zeros_like(low, dtype=int)
        separable = self.target == 0
        uninformative = ~separable & (self.slope_and_curvature(low)[0] >= 0)
        return np.where(self.constant, 0, separable.astype(int) - uninformative)


def _log_loss_in_own_unit(
    logits: NDArray, y: NDArray, sample_weight: NDArray | None, prior_strength: float
) -> tuple[_LogLoss, NDArray]:
    """Give the log-loss over β in units of one over the logits' own scale, and that unit."""
    classes_first = logits.transpose(-1, *range(logits.ndim - 1))
    z = np.array(classes_first, dtype=np.float64, order="C")
    z -= z.max(axis=0)
    n_classes, *shape = z.shape
    weight, n_rows = _shares(sample_weight, shape)
    row_of_class = np.ravel(y).astype(np.intp, copy=False) * weight.size
    own = z.take(row_of_class + np.arange(weight.size)).reshape(shape)
    mean, own_mean = np.vecdot(weight, z.sum(axis=0)) / n_classes, np.vecdot(weight, own)
    unit = 1 / (-mean + (-mean <= SMALLEST_SCALE))
    smoothed = prior_strength / (n_rows + prior_strength)
    z *= unit[..., None]
    return _LogLoss(z, own_mean * unit, mean * unit, weight, smoothed), unit


def _shares(
    sample_weight: NDArray | None, shape: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give each row's share of the weight, and the number of rows that a prior is weighed against.

    That number is the total weight, since a weight of 2 is the row twice, but no less than there
    are rows: weights of a mean below one, such as those that sum to one, are shares themselves.
    """
    if sample_weight is None:
        return np.full(shape, 1 / shape[-1]), np.array(float(shape[-1]))
    weight, exponent = scale_to_unit(np.asarray(sample_weight, np.float64))
    total = weight.sum(axis=-1, keepdims=True)
    n_rows = np.ldexp(total, np.minimum(exponent, 54))[..., 0]
    return weight / total, np.clip(n_rows, np.count_nonzero(sample_weight, axis=-1), MOST_ROWS)


def _newton(
    slope_and_curvature: Callable[[NDArray], tuple[NDArray, NDArray]],
    beta: NDArray,
    low: NDArray,
    high: NDArray,
    solved: NDArray,
    tolerance: float,
) -> NDArray:
    """Find where the slope is zero, by Newton's method, or bisection where that leaves the bracket.

    The bracket, from `low` to `high`, is narrowed in place. Newton's error is about the square of
    the last step.
    """
    for _ in range(MOST_STEPS):
        if solved.all():
            break
        slope, curvature = slope_and_curvature(beta)
        np.copyto(low, beta, where=slope < 0)
        np.copyto(high, beta, where=slope > 0)
        proposed = beta - slope / np.maximum(curvature, SMALLEST_DIVISOR)
        outside = (proposed <= low) | (proposed >= high)
        if outside.any():
            proposed = np.where(outside, np.sqrt(low * high), proposed)
        step = (proposed - beta) * ~solved
        beta = beta + step
        solved = np.abs(step) <= tolerance * beta
    return beta


class TemperatureScaling(BaseEstimator):
    r"""Temperature scaling: probabilities softmax(logits / T).

    One number for all classes, found by minimizing the log-loss of rows that the net did not train
    on. It never changes the predicted class.

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
        """
        self._validate_params()
        logits = check_logits(logits)
        y = check_class_indices("y", column_or_1d(without_tensor(y)), logits.shape[1], ValueError)
        check_consistent_length(logits, y)
        weight = _check_sample_weight(
            without_tensor(sample_weight), logits, dtype=np.float64, ensure_non_negative=True
        )
        if not weight.any():
            raise ValueError("sample_weight is zero for every row; give some a weight above 0.")
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
        """Find the temperature for arrays that are known to be as `fit` wants them.

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
        self._solve_temperature(logits, y, sample_weight, start, warn)
        return self

    def _solve_temperature(
        self,
        logits: NDArray,
        y: NDArray,
        sample_weight: NDArray | None,
        start: NDArray | float | None,
        warn: bool,
    ) -> bool:
        """Find the temperature; tell whether it is a minimum, not a bound."""
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
            warnings.warn(
                f"No temperature minimizes the log-loss, since {reason}. Stopped at the bound, "
                f"temperature_={self.temperature_:.3g}. {remedy}",
                ConvergenceWarning,
                stacklevel=4,
            )
        return not refined.bound

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
        return log_softmax(self._scaled(logits), axis=1)

    def _scaled(self, logits: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        logits = check_logits(logits)
        if logits.shape[1] != len(self.classes_):
            raise ValueError(
                f"logits must have {len(self.classes_)} columns, as many as at fit, "
                f"got {logits.shape[1]}."
            )
        return logits / self._temperature_of(logits)

    def apply_in_place(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn logits that are known to be as `predict_proba` wants them into probabilities.

        Parameters
        ----------
        logits : ndarray of shape (n_samples, n_classes), float64
            Overwritten.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            The same array.
        """
        for start in range(0, len(logits), ROWS_AT_ONCE):
            part = logits[start : start + ROWS_AT_ONCE]
            part /= self._temperature_of(part)
            softmax_in_place(part)
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

    def solve(
        self,
        logits: NDArray,
        y: NDArray,
        sample_weight: NDArray | None = None,
        start: NDArray | float | None = None,
        *,
        warn: bool = True,
    ) -> NormTemperatureScaling:
        """Find temperature and power for arrays that are known to be as `fit` wants them.

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
        NormTemperatureScaling
            Itself.
        """
        has_minimum = self._solve_temperature(logits, y, sample_weight, start, warn)
        norm = _norm_of(logits)
        self.norm_ = float(np.average(norm, weights=_shares(sample_weight, norm.shape)[0]))
        self.power_ = 0.0
        if has_minimum and self.norm_:
            log_ratio = self._log_ratio(norm)
            loss = _NormLogLoss(logits, log_ratio, y, sample_weight, self.prior_strength)
            solved = _damped_newton(loss, np.array([-np.log(self.temperature_), 0.0]))
            self.temperature_, self.power_ = float(np.exp(-solved[0])), float(solved[1])
        return self

    def _log_ratio(self, norm: NDArray) -> NDArray:
        """Give the logarithm of norms over the typical one, within bounds."""
        ratio = norm / self.norm_ if self.norm_ else np.ones_like(norm)
        return np.log(np.clip(ratio, 1 / LARGEST_NORM_RATIO, LARGEST_NORM_RATIO))

    def _temperature_of(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        log_ratio = self._log_ratio(_norm_of(logits))
        return self.temperature_ * np.exp(-self.power_ * log_ratio)[:, None]


class _NormLogLoss:
    """The mean log-loss as a function of -log T and γ, with the priors of both.

    With L a row's scaled logits and u its log norm, both derivatives of L are multiples of it: by 1
    and by u. So all that a row contributes are its slope and its curvature along L. Classes come
    first and logits are below the largest of their row, as in :class:`_LogLoss`.
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
        self.weight, n_rows = _shares(sample_weight, (len(logits),))
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
        z -= z.mean(axis=1, keepdims=True)
        largest = np.abs(z).max(axis=1, keepdims=True)  # lest squares overflow or underflow
        z /= np.where(largest > 0, largest, 1.0)
        norms.append(largest[:, 0] * np.linalg.norm(z, axis=1))
    return np.concatenate(norms)


def normalized_confidence(
    logits: NDArray[np.float64], proba: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rank rows by their logits without the norm, which smoothed labels leave misleading.

    Centred logits are divided by their Euclidean norm; what they then give the predicted class is
    averaged over the nets. Of two classes nothing but the sign would be left, so there the
    confidence is the probability of the predicted class.

    Parameters
    ----------
    logits : ndarray of shape (n_nets, n_samples, n_classes), float64
        Finite logits of the nets.
    proba : ndarray of shape (n_samples, n_classes), float64
        Their probabilities, the largest of which names the predicted class.

    Returns
    -------
    ndarray of shape (n_samples,), float64
        For ordering rows; with three classes and more, 0 where all logits of a row are equal.

    References
    ----------
    Xia et al. 2025, Towards Understanding Why Label Smoothing Degrades Selective Classification
    and How to Fix It.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[4.0, 0.0, 0.0], [9.0, 8.0, 0.0]])
    >>> normalized_confidence(logits[None], softmax_in_place(logits.copy())).round(3)
    array([0.816, 0.478])
    """
    if proba.shape[1] == 2:
        return proba.max(axis=1)
    predicted = proba.argmax(axis=1)
    rows = np.arange(len(predicted))
    confidence = np.zeros(len(predicted))
    for own in logits:
        # Equal logits are centred to zeros without rounding where the largest goes first.
        z = own - own.max(axis=1, keepdims=True)
        norm = _norm_of(z)
        z -= z.mean(axis=1, keepdims=True)
        confidence += z[rows, predicted] / np.where(norm > 0, norm, 1.0)
    return confidence / len(logits)


def softmax_in_place(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn logits into probabilities in the memory they are in.

    Parameters
    ----------
    logits : ndarray of shape (n_samples, n_classes), float64
        Overwritten.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), float64
        The same array, now of rows that sum to one.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_in_place(np.array([[0.0, np.log(3.0)]]))
    array([[0.25, 0.75]])
    """
    for start in range(0, len(logits), ROWS_AT_ONCE):
        rows = torch.from_numpy(logits[start : start + ROWS_AT_ONCE])
        torch.softmax(rows, dim=1, out=rows)
    return logits


def check_logits(logits: Any) -> NDArray[np.float64]:
    """Check logits and give them as float64.

    Parameters
    ----------
    logits : array-like or tensor of shape (n_samples, n_classes)
        The net's raw output.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), float64
        The same numbers.

    Raises
    ------
    ValueError
        Unless they are finite and of two dimensions, with two classes at least.
    """
    return check_array(
        without_tensor(logits), dtype=np.float64, input_name="logits", ensure_min_features=2
    )
