"""The refined loss: log-loss after fitting the temperature on those same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sksmooth._checks import scale_to_unit

# How far the inverse temperature may go from one over the logits' own scale where the log-loss has
# no minimum. At the upper bound a row of average margin has a probability of one to the last bit;
# at the lower all are equal.
LARGEST_FACTOR = 1e4
MOST_STEPS = 200
STEP_TOLERANCE = 1e-10
SMALLEST_DIVISOR = 1e-300  # keeps quotients finite
SMALLEST_SCALE = np.finfo(np.float64).tiny

# Of which a prior of one is less than the rounding of a probability near one.
MOST_ROWS = 2.0**53


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
    weight, n_rows = shares_of_weight(sample_weight, shape)
    row_of_class = np.ravel(y).astype(np.intp, copy=False) * weight.size
    own = z.take(row_of_class + np.arange(weight.size)).reshape(shape)
    mean, own_mean = np.vecdot(weight, z.sum(axis=0)) / n_classes, np.vecdot(weight, own)
    unit = 1 / (-mean + (-mean <= SMALLEST_SCALE))
    smoothed = prior_strength / (n_rows + prior_strength)
    z *= unit[..., None]
    return _LogLoss(z, own_mean * unit, mean * unit, weight, smoothed), unit


def shares_of_weight(
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
