"""Calibration metrics, and scorers that hand them to scikit-learn's model selection.

All metrics take ``(y_true, y_proba)`` as :func:`sklearn.metrics.log_loss` does. The Brier score of
several classes is scikit-learn's own :func:`sklearn.metrics.brier_score_loss`.

The scorers ``neg_expected_calibration_error_scorer``, ``neg_classwise_calibration_error_scorer``
and ``neg_area_under_risk_coverage_scorer`` are objects of this module, and so are those that
:func:`make_probability_scorer` makes. They are given to ``scoring=`` themselves, not by name:
scikit-learn has no public way to add a name to its own. In a dict they have the name of the key.

>>> from sklearn.datasets import load_iris
>>> from sklearn.model_selection import cross_validate
>>> from sklearn.naive_bayes import GaussianNB
>>> from sksmooth.metrics import neg_expected_calibration_error_scorer
>>> scoring = {"log_loss": "neg_log_loss", "ece": neg_expected_calibration_error_scorer}
>>> scores = cross_validate(GaussianNB(), *load_iris(return_X_y=True), scoring=scoring)
>>> print(f"{scores['test_ece'].mean():.2f}")
-0.05
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import FunctionType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import get_scorer_names

from sksmooth._checks import (
    check_choice,
    check_unit_interval,
    check_vector,
    check_weight,
    check_whole,
    grain_of,
    nearest,
    scale_to_unit,
)
from sksmooth._labels import check_probabilities
from sksmooth._private import InvalidParameterError, Scorer

__all__ = [
    "CalibrationBins",
    "RiskCoverageCurve",
    "area_under_risk_coverage",
    "calibration_bins",
    "classwise_calibration_error",
    "expected_calibration_error",
    "make_probability_scorer",
    "neg_area_under_risk_coverage_scorer",
    "neg_classwise_calibration_error_scorer",
    "neg_expected_calibration_error_scorer",
    "overconfidence",
    "risk_coverage_curve",
]

Strategy = Literal["uniform", "quantile"]
Norm = Literal[1, 2, "max"]
Vector = NDArray[Any]


class CalibrationBins(NamedTuple):
    r"""The points of a reliability curve, as `calibration_bins` computes them.

    .. versionadded:: 0.2.0

    Attributes
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Non-decreasing, from 0 to 1. Bin b holds ``edges[b] <= confidence < edges[b + 1]``, and
        the last bin holds 1 as well.
    confidence : ndarray of shape (n_bins,)
        Weighted mean confidence of each bin, nan where the bin is empty.
    accuracy : ndarray of shape (n_bins,)
        Weighted fraction of correct rows in each bin, nan where the bin is empty.
    weight : ndarray of shape (n_bins,)
        Sum of the sample weights in each bin: the number of rows if there are no weights.
    effective_size : ndarray of shape (n_bins,)
        How many rows of equal weight would tell as much as those of each bin:
        :math:`(\sum w)^2 / \sum w^2` [1]_, the number of rows if their weights are equal.

    References
    ----------
    .. [1] Kish (1965), Survey Sampling.

    Examples
    --------
    >>> from sksmooth.metrics import calibration_bins
    >>> bins = calibration_bins([0.1, 0.8, 0.9], [0, 1, 1], n_bins=4, sample_weight=[1, 1, 3])
    >>> bins.accuracy
    array([ 0., nan, nan,  1.])
    >>> bins.effective_size
    array([1. , 0. , 0. , 1.6])
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    weight: NDArray[np.float64]
    effective_size: NDArray[np.float64]


def calibration_bins(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: Strategy = "uniform",
    sample_weight: ArrayLike | None = None,
) -> CalibrationBins:
    """Group rows by confidence and compare each group's confidence with its accuracy.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    confidence : array-like of float, shape (n_samples,)
        Probability given to the event, in [0, 1]: that of the predicted class, or of one class.
    correct : array-like of bool, shape (n_samples,)
        Whether the event came: the prediction was right, or the row is of that class.
    n_bins : int, default=15
        Number of bins, at least 1.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width, or bins of equal weight. Rows of equal confidence always share a bin,
        so with "quantile" many ties can leave some bins empty.
    sample_weight : array-like of float, shape (n_samples,), default=None
        Non-negative weights; None weighs all rows alike.

    Returns
    -------
    CalibrationBins
        Edges, mean confidence, accuracy, weight and effective size of the bins.

    Raises
    ------
    ValueError
        If an argument is out of its range, misspelt, or of another length.
    TypeError
        If ``n_bins`` is not an integer, or ``strategy`` not a string.

    References
    ----------
    .. [1] Naeini et al. (2015), Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    .. [2] Nixon et al. (2019), Measuring Calibration in Deep Learning.

    Examples
    --------
    >>> from sksmooth.metrics import calibration_bins
    >>> bins = calibration_bins([0.2, 0.3, 0.7, 0.9], [0, 1, 1, 1], n_bins=2)
    >>> bins.confidence
    array([0.25, 0.8 ])
    >>> bins.accuracy
    array([0.5, 1. ])
    >>> bins.weight
    array([2., 2.])
    """
    n_bins = check_whole("n_bins", n_bins)
    check_choice("strategy", strategy, _EDGES)
    grain = grain_of(confidence)
    confidence = check_unit_interval("confidence", check_vector("confidence", confidence), grain)
    correct = _check_correct(correct, len(confidence))
    sample_weight, exponent = scale_to_unit(check_weight(sample_weight, len(confidence)))

    edges = _EDGES[strategy](confidence, sample_weight, n_bins)
    # Comparing in the confidence's own precision puts float32's 0.7 on the edge 0.7, not below.
    index = np.searchsorted(edges.astype(confidence.dtype), confidence, side="right") - 1
    index = np.minimum(index, n_bins - 1)

    def bin_sums(values: Vector) -> Vector:
        return np.bincount(index, weights=values, minlength=n_bins)

    weight = bin_sums(sample_weight)
    filled = np.where(weight > 0, weight, np.nan)
    squares = bin_sums(sample_weight**2)
    return CalibrationBins(
        edges=edges,
        confidence=bin_sums(sample_weight * confidence) / filled,
        accuracy=bin_sums(sample_weight * correct) / filled,
        weight=np.ldexp(weight, exponent),
        effective_size=np.divide(weight**2, squares, out=np.zeros(n_bins), where=squares > 0),
    )


def expected_calibration_error(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: Strategy = "uniform",
    norm: Norm = 1,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Top-label calibration error: how far confidence and accuracy lie apart, over bins.

    With :math:`w_b` the share of bin b in the total weight, and :math:`g_b` the gap between its
    mean confidence and its accuracy, the error is :math:`\sum_b w_b g_b` (``norm=1``, ECE [1]_),
    :math:`\sqrt{\sum_b w_b g_b^2}` (``norm=2``) or :math:`\max_b g_b` (``norm="max"``, MCE [1]_).
    ``strategy="quantile"`` gives the adaptive calibration error of the top label [2]_.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any kind: str, int, bool.
    y_proba : array-like of float, shape (n_samples, n_classes) or (n_samples,)
        Predicted probabilities, columns in the order of ``labels``. For two classes also the
        probability of the second label alone.
    n_bins : int, default=15
        Number of bins, at least 1.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width, or of equal weight; see :func:`~sksmooth.metrics.calibration_bins`.
    norm : {1, 2, "max"}, default=1
        How the bins' gaps are put together.
    labels : array-like of shape (n_classes,), default=None
        The label of each column, in any order. None means the names of the columns where they are
        labels, else the sorted labels of ``y_true``.
    sample_weight : array-like of float, shape (n_samples,), default=None
        Non-negative weights; None weighs all rows alike.

    Returns
    -------
    float
        The error, in [0, 1]; lower is better.

    Raises
    ------
    ValueError
        If an argument is out of its range, misspelt, or does not fit the others.
    TypeError
        If ``n_bins`` is not an integer, or ``strategy`` not a string.

    Notes
    -----
    The bins are closed on the left, as in torchmetrics, except that a confidence of exactly 1
    belongs to the last bin here.

    References
    ----------
    .. [1] Naeini et al. (2015), Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    .. [2] Nixon et al. (2019), Measuring Calibration in Deep Learning.

    Examples
    --------
    >>> from sksmooth.metrics import expected_calibration_error
    >>> y_true = ["cat", "cat", "dog", "owl"]
    >>> y_proba = [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]
    >>> round(expected_calibration_error(y_true, y_proba), 3)
    0.15
    """
    check_choice("norm", norm, _NORMS)
    codes, y_proba = check_probabilities(y_true, y_proba, labels)
    confidence, correct = top_label(codes, y_proba)
    return _calibration_error(
        confidence, correct, norm, n_bins=n_bins, strategy=strategy, sample_weight=sample_weight
    )


def classwise_calibration_error(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: Strategy = "uniform",
    norm: Norm = 1,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean over the classes of the calibration error of each class's own probability.

    It looks at all of ``y_proba``, where :func:`expected_calibration_error` looks at the largest
    probability of each row. The error of a class compares, over bins of its column, the mean
    probability with the fraction of rows that are of that class.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any kind: str, int, bool.
    y_proba : array-like of float, shape (n_samples, n_classes) or (n_samples,)
        Predicted probabilities, columns in the order of ``labels``. For two classes also the
        probability of the second label alone.
    n_bins : int, default=15
        Number of bins, at least 1.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width, or of equal weight; see :func:`~sksmooth.metrics.calibration_bins`.
    norm : {1, 2, "max"}, default=1
        How the bins' gaps are put together, as in :func:`expected_calibration_error`.
    labels : array-like of shape (n_classes,), default=None
        The label of each column, in any order. None means the names of the columns where they are
        labels, else the sorted labels of ``y_true``.
    sample_weight : array-like of float, shape (n_samples,), default=None
        Non-negative weights; None weighs all rows alike.

    Returns
    -------
    float
        The error, in [0, 1]; lower is better.

    Raises
    ------
    ValueError
        If an argument is out of its range, misspelt, or does not fit the others.
    TypeError
        If ``n_bins`` is not an integer, or ``strategy`` not a string.

    References
    ----------
    .. [1] Nixon et al. (2019), Measuring Calibration in Deep Learning.
    .. [2] Kull et al. (2019), Beyond temperature scaling: Obtaining well-calibrated multiclass
       probabilities with Dirichlet calibration.

    Examples
    --------
    >>> from sksmooth.metrics import classwise_calibration_error
    >>> y_true = ["cat", "cat", "dog", "owl"]
    >>> y_proba = [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]
    >>> round(classwise_calibration_error(y_true, y_proba), 3)
    0.25
    """
    check_choice("norm", norm, _NORMS)
    codes, y_proba = check_probabilities(y_true, y_proba, labels)
    errors = [
        _calibration_error(
            column, codes == k, norm, n_bins=n_bins, strategy=strategy, sample_weight=sample_weight
        )
        for k, column in enumerate(y_proba.T)
    ]
    return float(np.mean(errors))


def overconfidence(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean confidence minus accuracy: the sign that the calibration error leaves out.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any kind: str, int, bool.
    y_proba : array-like of float, shape (n_samples, n_classes) or (n_samples,)
        Predicted probabilities, columns in the order of ``labels``. For two classes also the
        probability of the second label alone.
    labels : array-like of shape (n_classes,), default=None
        The label of each column, in any order. None means the names of the columns where they are
        labels, else the sorted labels of ``y_true``.
    sample_weight : array-like of float, shape (n_samples,), default=None
        Non-negative weights; None weighs all rows alike.

    Returns
    -------
    float
        In [-1, 1]: positive if the predictions are too sure of themselves, negative if they are
        not sure enough, as label smoothing tends to leave them.

    Raises
    ------
    ValueError
        If an argument is out of its range or does not fit the others.

    Examples
    --------
    >>> from sksmooth.metrics import overconfidence
    >>> round(overconfidence([0, 1, 1, 0], [0.4, 0.6, 0.6, 0.4]), 3)
    -0.4
    """
    codes, y_proba = check_probabilities(y_true, y_proba, labels)
    confidence, correct = top_label(codes, y_proba)
    sample_weight, _ = scale_to_unit(check_weight(sample_weight, len(codes)))
    # In float64, so that the mean of many float16 confidences does not overflow.
    return float(np.average(confidence.astype(np.float64) - correct, weights=sample_weight))


class RiskCoverageCurve(NamedTuple):
    """The steps of a risk-coverage curve, as `risk_coverage_curve` computes them.

    .. versionadded:: 0.2.0

    Attributes
    ----------
    coverage : ndarray of shape (n_steps,)
        Share of the rows that are kept, increasing to 1.
    risk : ndarray of shape (n_steps,)
        Error rate among those rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sksmooth.metrics import RiskCoverageCurve
    >>> RiskCoverageCurve(coverage=np.array([0.5, 1.0]), risk=np.array([0.0, 0.25])).area
    0.125
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area under the steps, each as wide as the share of rows that it adds."""
        return float(np.diff(self.coverage, prepend=0.0) @ self.risk)


def risk_coverage_curve(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> RiskCoverageCurve:
    """Tell the error rate among the most confident rows, for each number of them.

    Rows of equal confidence are one step, as no threshold can part them.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    confidence : array-like of float, shape (n_samples,)
        Any finite score that ranks the rows, higher for surer.
    correct : array-like of bool, shape (n_samples,)
        Whether the prediction was right.
    sample_weight : array-like of float, shape (n_samples,), default=None
        Non-negative weights, in coverage and risk alike; None weighs all rows alike.

    Returns
    -------
    RiskCoverageCurve
        Coverage and risk of each step, the surest rows first, and the area under them.

    Raises
    ------
    ValueError
        If an argument is out of its range or of another length.

    See Also
    --------
    area_under_risk_coverage : The area, from labels and probabilities.
    sksmooth.RiskCoverageDisplay : Draws the curve.

    References
    ----------
    .. [1] Geifman and El-Yaniv (2017), Selective Classification for Deep Neural Networks.

    Examples
    --------
    >>> from sksmooth.metrics import risk_coverage_curve
    >>> curve = risk_coverage_curve([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0])
    >>> curve.coverage
    array([0.25, 0.5 , 0.75, 1.  ])
    >>> curve.risk
    array([0.  , 0.  , 0.  , 0.25])
    >>> curve.area
    0.0625
    """
    confidence = check_vector("confidence", confidence)
    correct = _check_correct(correct, len(confidence))
    sample_weight, _ = scale_to_unit(check_weight(sample_weight, len(confidence)))

    # The surest first; rows of equal confidence are one step.
    _, step = np.unique(-confidence, return_inverse=True)
    weight = np.bincount(step, weights=sample_weight)
    errors = np.bincount(step, weights=sample_weight * (1 - correct))
    taken = weight > 0
    covered = np.cumsum(weight[taken])
    return RiskCoverageCurve(
        coverage=covered / covered[-1], risk=np.cumsum(errors[taken]) / covered
    )


def area_under_risk_coverage(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    confidence: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """AURC: the error rate among the most confident rows, averaged over how many are taken.

    Coverage is the share of the rows that are predicted at all, those of highest confidence; risk
    is their error rate. A row joins where its confidence reaches the threshold, so the area is the
    mean over the rows i of the error rate among the rows at least as confident as row i. Rows of
    equal confidence join together, as no threshold can part them; so the order of the rows does
    not matter. Without ties and weights this is the mean of the n selective risks of [1]_.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any kind: str, int, bool.
    y_proba : array-like of float, shape (n_samples, n_classes) or (n_samples,)
        Predicted probabilities, columns in the order of ``labels``. For two classes also the
        probability of the second label alone. The largest of a row gives the predicted class.
    confidence : array-like of float, shape (n_samples,), default=None
        Any finite score that ranks the rows, higher for surer; None takes the largest probability
        of each row.
    labels : array-like of shape (n_classes,), default=None
        The label of each column, in any order. None means the names of the columns where they are
        labels, else the sorted labels of ``y_true``.
    sample_weight : array-like of float, shape (n_samples,), default=None
        Non-negative weights, in coverage and risk alike; None weighs all rows alike.

    Returns
    -------
    float
        The area, in [0, 1]; lower is better. A confidence that says nothing gives about the error
        rate.

    Raises
    ------
    ValueError
        If an argument is out of its range or does not fit the others.

    References
    ----------
    .. [1] Geifman and El-Yaniv (2017), Selective Classification for Deep Neural Networks.
    .. [2] Xia et al. (2025), Towards Understanding Why Label Smoothing Degrades Selective
       Classification and How to Fix It.

    Examples
    --------
    >>> from sksmooth.metrics import area_under_risk_coverage
    >>> y_true = [1, 1, 0, 1]
    >>> y_proba = [0.9, 0.8, 0.3, 0.4]
    >>> area_under_risk_coverage(y_true, y_proba)
    0.0625
    >>> area_under_risk_coverage(y_true, y_proba, confidence=[1, 2, 3, 4])
    0.5208...
    """
    codes, y_proba = check_probabilities(y_true, y_proba, labels)
    top_probability, correct = top_label(codes, y_proba)
    if confidence is None:
        confidence = top_probability
    confidence = check_vector("confidence", confidence, len(codes))
    return risk_coverage_curve(confidence, correct, sample_weight=sample_weight).area


class _ProbabilityScorer(Scorer):
    """scikit-learn's own scorer, which also tells the metric which class each column is."""

    def _score(
        self, method_caller: Callable[..., Any], estimator: Any, X: Any, y_true: Any, **kwargs: Any
    ) -> float:
        # An estimator without classes_ is left to scikit-learn's own message. A net in training is
        # scored by class indices, which are what its batches have.
        classes = getattr(estimator, "classes_", None)
        labels = getattr(estimator, "labels_of_columns", classes)
        return super()._score(method_caller, estimator, X, y_true, **{"labels": labels, **kwargs})


def make_probability_scorer(
    score_func: Callable[..., float], *, greater_is_better: bool = False, **kwargs: Any
) -> Any:
    """Make a scorer of a metric of probabilities that may meet test folds without some class.

    :func:`sklearn.metrics.make_scorer` leaves it to the metric to guess the classes from the labels
    of the test fold, which fails when one is missing; this scorer passes ``estimator.classes_`` as
    ``labels``. Otherwise it is the same object: use it as ``scoring=``, alone or in a dict, and
    route weights to it with ``set_score_request(sample_weight=True)``, which changes the scorer it
    is called on; so call it on one made here, and leave this module's ready-made ones as they are.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    score_func : callable
        ``score_func(y_true, y_proba, *, labels, ...)``, for instance a metric of this module or
        :func:`sklearn.metrics.log_loss`.
    greater_is_better : bool, default=False
        Whether a high value is good. If not, the scorer returns its negative.
    **kwargs
        Further arguments of ``score_func``, for instance ``n_bins=10``.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)`` gives a float; greater is better.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sksmooth.metrics import expected_calibration_error, make_probability_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> scorer = make_probability_scorer(expected_calibration_error, n_bins=10)
    >>> round(scorer(GaussianNB().fit(X, y), X[y > 0], y[y > 0]), 2)
    -0.04
    """
    return _ProbabilityScorer(score_func, 1 if greater_is_better else -1, kwargs, "predict_proba")


neg_expected_calibration_error_scorer = make_probability_scorer(expected_calibration_error)
neg_classwise_calibration_error_scorer = make_probability_scorer(classwise_calibration_error)
neg_area_under_risk_coverage_scorer = make_probability_scorer(area_under_risk_coverage)


def _calibration_error(
    confidence: Vector,
    correct: Vector,
    norm: Norm,
    sample_weight: ArrayLike | None,
    **bin_options: Any,
) -> float:
    weight, _ = scale_to_unit(check_weight(sample_weight, len(confidence)))
    return gap_of(calibration_bins(confidence, correct, sample_weight=weight, **bin_options), norm)


def gap_of(bins: CalibrationBins, norm: Norm = 1) -> float:
    """Put together how far confidence and accuracy of the bins lie apart."""
    filled = bins.weight > 0
    gap = np.abs(bins.confidence[filled] - bins.accuracy[filled])
    return float(_NORMS[norm](gap, bins.weight[filled]))


_NORMS: dict[Norm, Callable[[Vector, Vector], float]] = {
    1: lambda gap, weight: np.average(gap, weights=weight),
    2: lambda gap, weight: np.sqrt(np.average(gap**2, weights=weight)),
    "max": lambda gap, weight: gap.max(),
}


def top_label(codes: Vector, y_proba: Vector) -> tuple[Vector, Vector]:
    """Give the confidence of each row's predicted class, and whether that is right."""
    return y_proba.max(axis=1), y_proba.argmax(axis=1) == codes


def _uniform_edges(confidence: Vector, sample_weight: Vector, n_bins: int) -> Vector:
    return np.arange(n_bins + 1) / n_bins


def _quantile_edges(confidence: Vector, sample_weight: Vector, n_bins: int) -> Vector:
    """Let each distinct confidence fall where the middle of its weight falls."""
    weighted = sample_weight > 0
    distinct, group = np.unique(confidence[weighted].astype(np.float64), return_inverse=True)
    weight = np.bincount(group, weights=sample_weight[weighted])
    cumulated = np.cumsum(weight)
    shares = np.arange(1, n_bins) / n_bins * cumulated[-1]
    rounding = len(weight) * np.finfo(np.float64).eps * cumulated[-1]
    first_of_bin = np.searchsorted(cumulated - weight / 2, shares - rounding)
    return np.r_[0.0, np.append(distinct, 1.0)[first_of_bin], 1.0]


_EDGES: dict[Strategy, Callable[[Vector, Vector, int], Vector]] = {
    "uniform": _uniform_edges,
    "quantile": _quantile_edges,
}


def point_to_scorers(scoring: Any) -> None:
    """Say where the scorers are that scikit-learn has no names for, and which name is nearest."""
    given = scoring.values() if isinstance(scoring, Mapping) else scoring
    own = {name.removesuffix("_scorer") for name in __all__ if name.startswith("neg_")}
    for name in [given] if isinstance(given, str) or not isinstance(given, Iterable) else given:
        if isinstance(name, FunctionType):
            _refuse_metric(scoring, name)
        if not isinstance(name, str) or name in get_scorer_names():
            continue
        near = get_close_matches(name.removesuffix("_scorer"), own, n=1, cutoff=0.7)
        if near:
            raise ValueError(
                f"scoring={scoring!r} names {name!r}, which scikit-learn does not know by name; "
                f"give the object: from sksmooth.metrics import {near[0]}_scorer."
            )
        raise InvalidParameterError(
            f"scoring={scoring!r} names {name!r}, which is none of sklearn.metrics."
            f"get_scorer_names().{nearest(name, get_scorer_names())}"
        )


def _refuse_metric(scoring: Any, function: FunctionType) -> None:
    room, name = function.__module__, function.__name__
    if room == __name__:
        right = f"make_probability_scorer({name}), of sksmooth.metrics"
    elif room.startswith("sklearn.metrics.") and "scorer" not in room:
        right = f"a name of sklearn.metrics.get_scorer_names(), or its make_scorer({name})"
    else:
        return
    raise ValueError(
        f"scoring={scoring!r} has a metric, {name}, where a scorer belongs; give {right}."
    )


def _check_correct(correct: ArrayLike, n_samples: int) -> Vector:
    correct = check_vector("correct", correct, n_samples).astype(np.float64)
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct must hold booleans (or 0 and 1), got other values.")
    return correct
