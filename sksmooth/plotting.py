"""Pictures of how far the probabilities can be trusted and of how a net was trained.

The displays follow scikit-learn's: make them by ``from_estimator`` or ``from_predictions``, and
find the axes, the lines and the numbers in their attributes. matplotlib is imported when
something is drawn, not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted

from sksmooth._checks import check_choice, check_probabilities
from sksmooth.metrics import (
    CalibrationBins,
    RiskCoverageCurve,
    Strategy,
    calibration_bins,
    risk_coverage_curve,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

__all__ = ["ReliabilityDisplay", "RiskCoverageDisplay", "SmoothingCurveDisplay", "TrainingDisplay"]

# Okabe and Ito's colours, which the colour-blind can tell apart; the markers serve print in grey.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "0.45"
_COUNTS = "<sksmooth counts>"  # how a later display finds the axes to join
_DIAGONAL = "Perfectly calibrated"
_COUNTS_HEIGHT = 0.25  # of the curve's height
_MOST_MARKERS = 20  # more of them on one curve would touch

_LOSSES = {
    "train_loss": "training",
    "valid_loss": "held out",
    "refined_loss": "held out, refined",
}
_ACCURACIES = {"valid_acc": "held out"}


class ReliabilityDisplay:
    """Reliability diagram: how often the predictions come true, against their probability.

    The curve shows one point a bin of predictions, over the diagonal of perfect calibration:
    above it the predictions are not sure enough, below it too sure. The bars under it show how
    many samples each bin holds; bins of unequal width have a line under their point instead, so
    that the lines lie close where the samples do. Make it by :meth:`from_estimator` or
    :meth:`from_predictions`.

    Parameters
    ----------
    bins : CalibrationBins
        The points, from :func:`sksmooth.metrics.calibration_bins`.
    name : str, default=None
        Name in the legend.
    pos_label : int, float, bool or str, default=None
        The class whose probability the bins hold. None means the top label: the confidence of
        the predicted class, whichever it is.
    weighted : bool, default=False
        Whether ``bins.weight`` holds sums of sample weights instead of numbers of samples.

    Attributes
    ----------
    prob_true : ndarray of shape (n_bins,)
        Accuracy, or frequency of the class, in each bin; nan where the bin is empty.
    prob_pred : ndarray of shape (n_bins,)
        Mean probability in each bin; nan where the bin is empty.
    calibration_error : float
        Mean distance of the points from the diagonal, weighted by their bins: the expected
        calibration error (ECE), of the top label or of the one class.
    line_ : matplotlib Line2D
        The curve.
    ax_ : matplotlib Axes
        The axes of the curve. Hand it to another display as `ax` to draw both in one picture.
    ax_counts_ : matplotlib Axes
        The axes of the bars below.
    figure_ : matplotlib Figure
        The figure that holds both.

    See Also
    --------
    sksmooth.metrics.expected_calibration_error : The number in the legend.
    sklearn.calibration.CalibrationDisplay : The same curve for two classes, without counts.

    References
    ----------
    .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks.
    .. [2] Okabe and Ito (2008), Color Universal Design.

    Examples
    --------
    >>> from sksmooth.metrics import calibration_bins
    >>> from sksmooth.plotting import ReliabilityDisplay
    >>> bins = calibration_bins([0.6, 0.7, 0.9, 0.9], [0, 1, 1, 1], n_bins=2)
    >>> display = ReliabilityDisplay(bins, name="mine").plot()
    >>> display.line_.get_label()
    'mine (ECE 2.5 %)'
    """

    line_: Line2D
    ax_: Axes
    ax_counts_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        bins: CalibrationBins,
        *,
        name: str | None = None,
        pos_label: Any = None,
        weighted: bool = False,
    ) -> None:
        self.bins = bins
        self.name = name
        self.pos_label = pos_label
        self.weighted = weighted

    @property
    def prob_true(self) -> NDArray[np.float64]:
        """Accuracy, or frequency of the class, in each bin."""
        return self.bins.accuracy

    @property
    def prob_pred(self) -> NDArray[np.float64]:
        """Mean probability in each bin."""
        return self.bins.confidence

    @property
    def calibration_error(self) -> float:
        """Mean distance of the points from the diagonal, weighted by their bins."""
        filled = self.bins.weight > 0
        gap = np.abs(self.prob_true - self.prob_pred)[filled]
        return float(np.average(gap, weights=self.bins.weight[filled]))

    def plot(self, *, ax: Axes | None = None, name: str | None = None, **kwargs: Any) -> Self:
        """Draw the curve and the counts.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None makes a new figure. Its lower part is given to the counts,
            unless it is the `ax_` of another display, whose picture this one then joins.
        name : str, default=None
            Name in the legend instead of `self.name`.
        **kwargs : dict
            Handed to :meth:`matplotlib.axes.Axes.plot` for the curve, for instance ``color``; the
            counts take the curve's colour.

        Returns
        -------
        ReliabilityDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = _import_pyplot(type(self).__name__)
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D

        if ax is None:
            _, ax = plt.subplots(figsize=(5.8, 7), layout="constrained")
        ax_counts = _counts_axes(ax) or self._prepare_axes(ax)
        nth = len(ax_counts.patches) + len(ax_counts.collections)  # one artist a display
        style: dict[str, Any] = {
            "color": _COLORS[nth % len(_COLORS)],
            "marker": _MARKERS[nth % len(_MARKERS)],
            "label": self._label(name),
            "clip_on": False,  # markers on the frame stay whole
            "zorder": 3,
        }
        filled = self.bins.weight > 0
        (self.line_,) = ax.plot(
            self.prob_pred[filled],
            self.prob_true[filled],
            **(style | normalize_kwargs(kwargs, Line2D)),
        )
        self._draw_counts(ax_counts, self.line_.get_color())
        ax.legend(loc="best", fontsize="small")
        self.ax_, self.ax_counts_, self.figure_ = ax, ax_counts, ax.figure
        return self

    def _draw_counts(self, ax: Axes, color: Any) -> None:
        from matplotlib.colors import to_rgba

        weight, edges = self.bins.weight, self.bins.edges
        if np.allclose(np.diff(edges), 1 / len(weight)):
            fill = {"facecolor": to_rgba(color, 0.2), "edgecolor": color}
            ax.stairs(weight, edges, fill=True, linewidth=1.2, **fill)
        else:
            # Bars of equal weight would make one flat block; lines lie close where samples do.
            filled = weight > 0
            lines = ax.vlines(self.prob_pred[filled], 0, weight[filled], color=color, clip_on=False)
            lines.sticky_edges.y.append(0)  # no margin below zero

    def _label(self, name: str | None) -> str:
        error = f"ECE {100 * self.calibration_error:.1f} %"
        name = self.name if name is None else name
        return error if name is None else f"{name} ({error})"

    def _prepare_axes(self, ax: Axes) -> Axes:
        from matplotlib.ticker import MaxNLocator

        ax_counts = _split_axes(ax, _COUNTS_HEIGHT)
        ax_counts.set_label(_COUNTS)
        # Boxes of one width, the upper one square, however wide their place is.
        ax.set_box_aspect(1)
        ax.set_anchor("S")
        ax_counts.set_box_aspect(_COUNTS_HEIGHT)
        ax_counts.set_anchor("N")
        ax.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label=_DIAGONAL)
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax_counts.yaxis.set_major_locator(MaxNLocator(3, integer=not self.weighted))
        ax_counts.set_ylabel("Weight" if self.weighted else "Samples")
        if self.pos_label is None:
            ax.set_ylabel("Accuracy")
            ax_counts.set_xlabel("Confidence")
        else:
            ax.set_ylabel(f"Frequency of class {self.pos_label}")
            ax_counts.set_xlabel(f"Probability of class {self.pos_label}")
        for axes in (ax, ax_counts):
            axes.grid(color="0.9", linewidth=0.8)
            axes.set_axisbelow(True)
        return ax_counts

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_bins: int = 15,
        strategy: Strategy = "uniform",
        pos_label: Any = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> ReliabilityDisplay:
        """Draw the reliability of a fitted classifier on data it was not fitted on.

        Parameters
        ----------
        estimator : classifier
            Fitted, with ``predict_proba`` and ``classes_``; or a Pipeline that ends in one.
        X : array-like of shape (n_samples, n_features)
            Input rows.
        y : array-like of shape (n_samples,)
            Their true labels.
        n_bins : int, default=15
            Number of bins, at least 1.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or of equal weight.
        pos_label : int, float, bool or str, default=None
            One of ``estimator.classes_``, to see the probability of this class against its
            frequency. None shows the confidence of the predicted class against its accuracy.
        sample_weight : array-like of float, shape (n_samples,), default=None
            Non-negative weights; None weighs all rows alike.
        name : str, default=None
            Name in the legend; None takes the class name of the estimator, in a Pipeline that of
            the last step.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.
        **kwargs : dict
            Handed to :meth:`matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        ReliabilityDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If an argument is out of its range, misspelt, or does not fit the others.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.naive_bayes import GaussianNB
        >>> from sksmooth.plotting import ReliabilityDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> first = ReliabilityDisplay.from_estimator(GaussianNB().fit(X[::2], y[::2]), X, y)
        >>> linear = LogisticRegression().fit(X[::2], y[::2])
        >>> second = ReliabilityDisplay.from_estimator(linear, X, y, name="linear", ax=first.ax_)
        >>> second.ax_counts_ is first.ax_counts_
        True
        """
        _import_pyplot(cls.__name__)
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            labels=estimator.classes_,
            n_bins=n_bins,
            strategy=strategy,
            pos_label=pos_label,
            sample_weight=sample_weight,
            name=type(_last_step(estimator)).__name__ if name is None else name,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_proba: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        n_bins: int = 15,
        strategy: Strategy = "uniform",
        pos_label: Any = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> ReliabilityDisplay:
        """Draw the reliability of predicted probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels of any kind: str, int, bool.
        y_proba : array-like of float, shape (n_samples, n_classes) or (n_samples,)
            Predicted probabilities, columns in the order of `labels`. For two classes also the
            probability of the second label alone.
        labels : array-like of shape (n_classes,), default=None
            The label of each column. None means the sorted labels of `y_true`.
        n_bins : int, default=15
            Number of bins, at least 1.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or of equal weight.
        pos_label : int, float, bool or str, default=None
            One of the labels, to see the probability of this class against its frequency. None
            shows the confidence of the predicted class against its accuracy.
        sample_weight : array-like of float, shape (n_samples,), default=None
            Non-negative weights; None weighs all rows alike.
        name : str, default=None
            Name in the legend.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.
        **kwargs : dict
            Handed to :meth:`matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        ReliabilityDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If an argument is out of its range, misspelt, or does not fit the others.

        Examples
        --------
        >>> from sksmooth.plotting import ReliabilityDisplay
        >>> y_true = ["cat", "cat", "dog", "owl"]
        >>> y_proba = [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]
        >>> display = ReliabilityDisplay.from_predictions(y_true, y_proba, n_bins=5)
        >>> display.prob_true
        array([nan, nan, nan, 0.5, 1. ])
        >>> display.line_.get_label()
        'ECE 15.0 %'
        """
        _import_pyplot(cls.__name__)
        codes, proba = check_probabilities(y_true, y_proba, labels)
        if pos_label is None:
            probability, correct = proba.max(axis=1), proba.argmax(axis=1) == codes
        else:
            classes = (np.unique(y_true) if labels is None else np.asarray(labels)).tolist()
            check_choice("pos_label", pos_label, classes)
            column = classes.index(pos_label)
            probability, correct = proba[:, column], codes == column
        bins = calibration_bins(
            probability, correct, n_bins=n_bins, strategy=strategy, sample_weight=sample_weight
        )
        display = cls(bins, name=name, pos_label=pos_label, weighted=sample_weight is not None)
        return display.plot(ax=ax, **kwargs)


class RiskCoverageDisplay:
    """Risk-coverage curve: the error rate among the rows kept, against the share of rows kept.

    Rows are kept in the order of their confidence, so a curve that starts low and rises late is
    one of a classifier that knows where it errs. Make it by :meth:`from_estimator` or
    :meth:`from_predictions`.

    Parameters
    ----------
    curve : RiskCoverageCurve
        The steps, from :func:`sksmooth.metrics.risk_coverage_curve`.
    name : str, default=None
        Name in the legend.

    Attributes
    ----------
    coverage, risk : ndarrays of shape (n_steps,)
        Share of the rows kept, and error rate among them.
    area : float
        The area under the curve (AURC).
    line_ : matplotlib Line2D
        The curve.
    ax_ : matplotlib Axes
        Its axes. Hand it to another display as `ax` to draw both in one picture.
    figure_ : matplotlib Figure
        The figure that holds it.

    See Also
    --------
    sksmooth.metrics.area_under_risk_coverage : The number in the legend.

    References
    ----------
    .. [1] Geifman and El-Yaniv (2017), Selective Classification for Deep Neural Networks.

    Examples
    --------
    >>> from sksmooth.metrics import risk_coverage_curve
    >>> from sksmooth.plotting import RiskCoverageDisplay
    >>> curve = risk_coverage_curve([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0])
    >>> RiskCoverageDisplay(curve, name="mine").plot().line_.get_label()
    'mine (AURC 0.0625)'
    """

    line_: Line2D
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(self, curve: RiskCoverageCurve, *, name: str | None = None) -> None:
        self.curve = curve
        self.name = name

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Share of the rows kept."""
        return self.curve.coverage

    @property
    def risk(self) -> NDArray[np.float64]:
        """Error rate among the rows kept."""
        return self.curve.risk

    @property
    def area(self) -> float:
        """The area under the curve (AURC)."""
        return self.curve.area

    def plot(self, *, ax: Axes | None = None, name: str | None = None, **kwargs: Any) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None makes a new figure.
        name : str, default=None
            Name in the legend instead of `self.name`.
        **kwargs : dict
            Handed to :meth:`matplotlib.axes.Axes.plot` for the curve, for instance ``color``.

        Returns
        -------
        RiskCoverageDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = _import_pyplot(type(self).__name__)
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        area = f"AURC {self.area:.3g}"
        name = self.name if name is None else name
        style: dict[str, Any] = {
            "color": _COLORS[len(ax.lines) % len(_COLORS)],
            "drawstyle": "steps-pre",  # so that the area drawn is the area told
            "label": area if name is None else f"{name} ({area})",
        }
        (self.line_,) = ax.plot(
            np.append(0.0, self.coverage),
            np.append(self.risk[0], self.risk),
            **(style | normalize_kwargs(kwargs, Line2D)),
        )
        ax.set(xlabel="Coverage", ylabel="Risk", xlim=(0, 1))
        ax.set_ylim(bottom=0, auto=None)  # the top still makes room for the next curve
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.legend(loc="best", fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        order_by: Literal["proba", "confidence"] = "proba",
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> RiskCoverageDisplay:
        """Draw the risk-coverage curve of a fitted classifier on data it was not fitted on.

        Parameters
        ----------
        estimator : classifier
            Fitted, or a Pipeline that ends in one.
        X : array-like of shape (n_samples, n_features)
            Input rows.
        y : array-like of shape (n_samples,)
            Their true labels.
        order_by : {"proba", "confidence"}, default="proba"
            What orders the rows: the largest probability, or the estimator's method ``confidence``,
            in a Pipeline that of the last step.
        sample_weight : array-like of float, shape (n_samples,), default=None
            Non-negative weights; None weighs all rows alike.
        name : str, default=None
            Name in the legend; None takes the class name of the estimator, in a Pipeline that of
            the last step.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.
        **kwargs : dict
            Handed to :meth:`matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        RiskCoverageDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If an argument is out of its range, misspelt, or does not fit the others.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.naive_bayes import GaussianNB
        >>> from sksmooth.plotting import RiskCoverageDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> bayes = GaussianNB().fit(X[::2], y[::2])
        >>> display = RiskCoverageDisplay.from_estimator(bayes, X[1::2], y[1::2])
        >>> round(float(display.risk[-1]), 2)
        0.04
        """
        _import_pyplot(cls.__name__)
        check_choice("order_by", order_by, ("proba", "confidence"))
        by_proba = order_by == "proba"
        return cls.from_predictions(
            y,
            estimator.predict(X),
            estimator.predict_proba(X).max(axis=1) if by_proba else _own_confidence(estimator, X),
            sample_weight=sample_weight,
            name=type(_last_step(estimator)).__name__ if name is None else name,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        confidence: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> RiskCoverageDisplay:
        """Draw the risk-coverage curve of predicted labels.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels of any kind: str, int, bool.
        y_pred : array-like of shape (n_samples,)
            Predicted labels.
        confidence : array-like of float, shape (n_samples,)
            Any finite score that ranks the rows, higher for surer.
        sample_weight : array-like of float, shape (n_samples,), default=None
            Non-negative weights; None weighs all rows alike.
        name : str, default=None
            Name in the legend.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.
        **kwargs : dict
            Handed to :meth:`matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        RiskCoverageDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If an argument is out of its range or does not fit the others.

        Examples
        --------
        >>> from sksmooth.plotting import RiskCoverageDisplay
        >>> y_true, y_pred = ["cat", "cat", "dog", "owl"], ["cat", "dog", "dog", "owl"]
        >>> display = RiskCoverageDisplay.from_predictions(y_true, y_pred, [0.8, 0.3, 0.9, 0.6])
        >>> display.line_.get_label()
        'AURC 0.0625'
        """
        _import_pyplot(cls.__name__)
        check_consistent_length(y_true, y_pred)
        unique_labels(y_true, y_pred)  # refuses labels of two kinds, which are never equal
        correct = column_or_1d(y_true) == column_or_1d(y_pred)
        curve = risk_coverage_curve(confidence, correct, sample_weight=sample_weight)
        return cls(curve, name=name).plot(ax=ax, **kwargs)


class TrainingDisplay:
    """Loss and accuracy of each epoch, and the epoch whose weights were kept.

    Make it by :meth:`from_estimator`.

    Parameters
    ----------
    epochs : array-like of shape (n_epochs,)
        The epochs' numbers, from 1.
    losses : mapping of str to array-like of shape (n_epochs,)
        Each curve of the upper axes, by its name in the legend; nan where it was not recorded.
    accuracies : mapping of str to array-like of shape (n_epochs,), default=None
        Each curve of the lower axes, in [0, 1], likewise; a name that is in `losses` too has the
        same colour. Without any curve there is no lower axes.
    best_epoch : int, default=None
        The epoch whose weights were kept. None marks no epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the losses.
    ax_accuracy_ : matplotlib Axes or None
        The axes of the accuracies, below.
    lines_ : list of matplotlib Line2D
        The curves, losses first.
    figure_ : matplotlib Figure
        The figure that holds them.

    Examples
    --------
    >>> from sksmooth.plotting import TrainingDisplay
    >>> display = TrainingDisplay([1, 2, 3], {"training": [1.1, 0.8, 0.7]}, best_epoch=3).plot()
    >>> [line.get_label() for line in display.lines_]
    ['training']
    """

    ax_: Axes
    ax_accuracy_: Axes | None
    lines_: list[Line2D]
    figure_: Figure | SubFigure

    def __init__(
        self,
        epochs: ArrayLike,
        losses: Mapping[str, ArrayLike],
        accuracies: Mapping[str, ArrayLike] | None = None,
        *,
        best_epoch: int | None = None,
    ) -> None:
        self.epochs = epochs
        self.losses = losses
        self.accuracies = accuracies
        self.best_epoch = best_epoch

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into; its lower part is given to the accuracy. None makes a new figure.

        Returns
        -------
        TrainingDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = _import_pyplot(type(self).__name__)
        from matplotlib.ticker import MaxNLocator

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
        self.ax_, self.ax_accuracy_, self.figure_ = ax, None, ax.figure
        self.lines_ = self._draw(ax, self.losses, "Loss")
        lowest = ax
        if self.accuracies:
            lowest = self.ax_accuracy_ = _split_axes(ax, 0.7)
            self.lines_ += self._draw(lowest, self.accuracies, "Accuracy")
        if self.best_epoch is not None:
            label = f"epoch kept: {self.best_epoch}"
            for axes in {ax, lowest}:
                axes.axvline(self.best_epoch, color=_GREY, linestyle=":", label=label)
        ax.legend(loc="best", fontsize="small")
        lowest.set(xlabel="Epoch", xlim=(np.min(self.epochs) - 0.5, np.max(self.epochs) + 0.5))
        lowest.xaxis.set_major_locator(
            MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
        return self

    def _draw(self, ax: Axes, curves: Mapping[str, ArrayLike], ylabel: str) -> list[Line2D]:
        names = list(dict.fromkeys([*self.losses, *(self.accuracies or ())]))
        lines = []
        for name, values in curves.items():
            nth = names.index(name)
            style: dict[str, Any] = {
                "color": _COLORS[nth % len(_COLORS)],
                "marker": _MARKERS[nth % len(_MARKERS)],
                "markevery": max(1, np.size(self.epochs) // _MOST_MARKERS),
            }
            lines += ax.plot(self.epochs, values, label=name, markersize=3.5, **style)
        ax.set_ylabel(ylabel)
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.legend(loc="best", fontsize="small")
        return lines

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes | None = None) -> TrainingDisplay:
        """Draw the training of a fitted net.

        The losses in training and on the held-out rows are the criterion's, against smoothed
        labels. The refined loss of :class:`~sksmooth.classifier.LabelSmoothingClassifier` is the
        log-loss against the true ones, after the best temperature, so it may lie far below.

        Parameters
        ----------
        estimator : LabelSmoothingClassifier or any skorch net
            Fitted, with a ``history``, and a ``best_epoch_`` if an epoch is to be marked; or a
            Pipeline that ends in one.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.

        Returns
        -------
        TrainingDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it records no history.

        Examples
        --------
        >>> from skorch import NeuralNetClassifier
        >>> from torch.nn import CrossEntropyLoss
        >>> from sksmooth.datasets import make_tabular
        >>> from sksmooth.modules import SimpleNet
        >>> from sksmooth.plotting import TrainingDisplay
        >>> X, y = make_tabular(100, random_state=0)
        >>> net = NeuralNetClassifier(SimpleNet, criterion=CrossEntropyLoss, verbose=0)
        >>> display = TrainingDisplay.from_estimator(net.fit(X.astype("float32"), y))
        >>> [line.get_label() for line in display.lines_]
        ['training', 'held out', 'held out']
        """
        _import_pyplot(cls.__name__)
        net = _last_step(estimator)
        history = getattr(net, "history", None)
        if history is None:
            check_is_fitted(net)
            raise TypeError(
                f"{type(net).__name__} has no history of its epochs; {cls.__name__} draws "
                "LabelSmoothingClassifier and other skorch nets."
            )
        if not history:
            raise NotFittedError(
                f"This {type(net).__name__} has trained no epoch yet: call fit before "
                f"{cls.__name__}.from_estimator."
            )
        display = cls(
            [row["epoch"] for row in history],
            _recorded(history, _LOSSES),
            _recorded(history, _ACCURACIES),
            best_epoch=getattr(net, "best_epoch_", None),
        )
        return display.plot(ax=ax)


class SmoothingCurveDisplay:
    """Refined out-of-fold loss of each label smoothing, epoch by epoch, and the choice.

    Make it by :meth:`from_estimator`. The epoch chosen is the lowest of its curve, but the ε chosen
    need not have the lowest curve: it is the one whose calibrated probabilities are best.

    Parameters
    ----------
    cv_results : mapping of str to array-like of shape (n,)
        A row for each ε and epoch: `label_smoothing`, `epoch`, `refined_loss`.
    label_smoothing : float, default=None
        The ε chosen. None marks no choice.
    best_epoch : int, default=None
        The epoch chosen.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    lines_ : list of matplotlib Line2D
        The curves, in the order of the rows.
    choice_ : matplotlib Line2D or None
        The mark of the choice.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> from sksmooth.plotting import SmoothingCurveDisplay
    >>> results = {
    ...     "label_smoothing": [0.0, 0.0, 0.1, 0.1],
    ...     "epoch": [1, 2, 1, 2],
    ...     "refined_loss": [0.9, 0.6, 0.8, 0.5],
    ... }
    >>> display = SmoothingCurveDisplay(results, label_smoothing=0.1, best_epoch=2).plot()
    >>> [line.get_label() for line in display.lines_]
    ['ε = 0', 'ε = 0.1']
    >>> display.choice_.get_label()
    'choice: ε = 0.1, epoch 2'
    """

    ax_: Axes
    lines_: list[Line2D]
    choice_: Line2D | None
    figure_: Figure | SubFigure

    def __init__(
        self,
        cv_results: Mapping[str, ArrayLike],
        *,
        label_smoothing: float | None = None,
        best_epoch: int | None = None,
    ) -> None:
        self.cv_results = cv_results
        self.label_smoothing = label_smoothing
        self.best_epoch = best_epoch

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None makes a new figure.

        Returns
        -------
        SmoothingCurveDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = _import_pyplot(type(self).__name__)
        from matplotlib.ticker import LogLocator, MaxNLocator

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
        names = ("label_smoothing", "epoch", "refined_loss")
        smoothing, epoch, loss = (np.asarray(self.cv_results[name]) for name in names)
        self.ax_, self.figure_, self.lines_, self.choice_ = ax, ax.figure, [], None
        for nth, value in enumerate(dict.fromkeys(smoothing.tolist())):
            own = smoothing == value
            style: dict[str, Any] = {
                "color": _COLORS[nth % len(_COLORS)],
                "marker": _MARKERS[nth % len(_MARKERS)],
                "markevery": max(1, int(own.sum()) // _MOST_MARKERS),
            }
            label = f"ε = {value:g}"
            self.lines_ += ax.plot(epoch[own], loss[own], label=label, markersize=3.5, **style)
        if self.label_smoothing is not None:
            best = (smoothing == self.label_smoothing) & (epoch == self.best_epoch)
            label = f"choice: ε = {self.label_smoothing:g}, epoch {self.best_epoch}"
            ring: dict[str, Any] = {"fillstyle": "none", "markersize": 13, "color": _GREY}
            (self.choice_,) = ax.plot(epoch[best], loss[best], "o", label=label, zorder=3, **ring)
        ax.set(xlabel="Epoch", ylabel="Refined out-of-fold loss")
        ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        # The losses of the first epochs are many times the others, whose order is what counts.
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
        ax.grid(color="0.9", linewidth=0.8, which="both")
        ax.set_axisbelow(True)
        ax.legend(loc="best", fontsize="small")
        return self

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes | None = None) -> SmoothingCurveDisplay:
        """Draw how a fitted classifier chose its label smoothing.

        Parameters
        ----------
        estimator : LabelSmoothingClassifierCV
            Fitted; or a Pipeline that ends in one.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.

        Returns
        -------
        SmoothingCurveDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it does not choose a label smoothing.

        Examples
        --------
        >>> from sksmooth import LabelSmoothingClassifier, make_tabular
        >>> from sksmooth.classifier_cv import LabelSmoothingClassifierCV
        >>> from sksmooth.plotting import SmoothingCurveDisplay
        >>> X, y = make_tabular(200, random_state=0)
        >>> net = LabelSmoothingClassifier(max_epochs=5)
        >>> model = LabelSmoothingClassifierCV(net, random_state=0).fit(X, y)
        >>> display = SmoothingCurveDisplay.from_estimator(model)
        >>> [line.get_label() for line in display.lines_]
        ['ε = 0', 'ε = 0.1', 'ε = 0.4']
        """
        _import_pyplot(cls.__name__)
        model = _last_step(estimator)
        if not hasattr(model, "label_smoothings"):
            raise TypeError(
                f"{type(model).__name__} does not choose its label smoothing; {cls.__name__} draws "
                "LabelSmoothingClassifierCV."
            )
        check_is_fitted(model)
        display = cls(
            model.cv_results_,
            label_smoothing=model.label_smoothing_,
            best_epoch=model.best_epoch_,
        )
        return display.plot(ax=ax)


def _recorded(
    history: Iterable[Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, NDArray[np.float64]]:
    """Read the named columns of a skorch history, nan where an epoch lacks one."""
    columns = {
        name: np.array([row.get(key, np.nan) for row in history]) for key, name in names.items()
    }
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def _last_step(estimator: Any) -> Any:
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def _own_confidence(estimator: Any, X: Any) -> Any:
    """Call the method ``confidence`` of a classifier behind a pipeline's steps."""
    last = _last_step(estimator)
    if not hasattr(last, "confidence"):
        raise ValueError(
            f"order_by='confidence' needs an estimator with a method confidence, but "
            f"{type(last).__name__} has none; use order_by='proba'."
        )
    if last is not estimator and len(estimator) > 1:
        X = estimator[:-1].transform(X)
    return last.confidence(X)


def _import_pyplot(caller: str) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f'{caller} needs matplotlib: pip install "sksmooth[plot]"') from error
    return plt


def _split_axes(ax: Axes, height: float) -> Axes:
    """Give the lower part of an axes to a new one, of `height` relative to what remains."""
    from matplotlib.gridspec import GridSpec

    place = ax.get_subplotspec()
    if place is None:
        box = ax.get_position()
        place = GridSpec(1, 1, left=box.x0, right=box.x1, bottom=box.y0, top=box.y1)[0]
    rows = place.subgridspec(2, 1, height_ratios=(1, height), hspace=0.08)
    ax.set_subplotspec(rows[0])
    ax.tick_params(labelbottom=False)
    return ax.figure.add_subplot(rows[1], sharex=ax)


def _counts_axes(ax: Axes) -> Axes | None:
    """Find the axes that was split off from this one for the counts."""
    place = ax.get_subplotspec()
    for other in ax.figure.axes:
        other_place = other.get_subplotspec()
        if (
            other.get_label() == _COUNTS
            and place is not None
            and other_place is not None
            and other_place.get_gridspec() is place.get_gridspec()
        ):
            return other
    return None
