"""The reliability diagram, with a confidence band and counts."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sksmooth._checks import as_numpy, check_choice, check_share
from sksmooth._labels import check_probabilities
from sksmooth.metrics import CalibrationBins, Strategy, calibration_bins, gap_of, top_label
from sksmooth.plotting._shared import (
    GREY,
    add_grid,
    add_legend,
    axes_for,
    draw_line,
    import_pyplot,
    name_of,
    split_axes,
    with_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from typing_extensions import Self

_COUNTS = "<sksmooth counts>"  # how a later display finds the axes to join
_COUNTS_HEIGHT = 0.25  # of the curve's height


class ReliabilityDisplay:
    """Reliability diagram: how often the predictions come true, against their probability.

    The curve shows one point a bin of predictions, over the diagonal of perfect calibration:
    above it the predictions are not sure enough, below it too sure. The band around the curve is
    the confidence interval of each point [2]_: where it holds the diagonal, the distance may be
    chance. The bars under it show how many samples each bin holds; bins of unequal width have a
    line under their point instead, so that the lines lie close where the samples do. Make it by
    :meth:`from_estimator` or :meth:`from_predictions`.

    .. versionadded:: 0.2.0

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
    band_ : matplotlib PolyCollection or None
        The confidence band.
    ax_ : matplotlib Axes
        The axes of the curve. Hand it to another display as `ax` to draw both in one picture.
    ax_counts_ : matplotlib Axes
        The axes of the bars below.
    figure_ : matplotlib Figure
        The figure that holds both.

    See Also
    --------
    sksmooth.expected_calibration_error : The number in the legend.
    sklearn.calibration.CalibrationDisplay : The same curve for two classes, without counts.

    References
    ----------
    .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks.
    .. [2] Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.
    .. [3] Okabe and Ito (2008), Color Universal Design.

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
    band_: PolyCollection | None
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
        return gap_of(self.bins)

    def prob_true_interval(self, confidence_level: float = 0.95) -> NDArray[np.float64]:
        """Tell between which frequencies the true one of each bin may lie.

        This is Wilson's score interval of a proportion [1]_, which stays within [0, 1] and is close
        to its level with few samples too [2]_. It takes the samples of a bin as independent; those
        of unequal weights count as fewer, by the ``effective_size`` of
        :class:`~sksmooth.metrics.CalibrationBins`. It holds for each bin alone, not for all.

        Parameters
        ----------
        confidence_level : float, default=0.95
            How often such an interval holds the true frequency, in [0, 1).

        Returns
        -------
        ndarray of shape (2, n_bins)
            Lower and upper ends; nan where the bin is empty.

        References
        ----------
        .. [1] Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.
        .. [2] Brown, Cai and DasGupta (2001), Interval Estimation for a Binomial Proportion.

        Examples
        --------
        >>> from sksmooth.metrics import calibration_bins
        >>> from sksmooth.plotting import ReliabilityDisplay
        >>> bins = calibration_bins([0.6, 0.7, 0.9, 0.9], [0, 1, 1, 1], n_bins=2)
        >>> ReliabilityDisplay(bins).prob_true_interval().round(3)
        array([[ nan, 0.301],
               [ nan, 0.954]])
        """
        level = check_share("confidence_level", confidence_level)
        z = NormalDist().inv_cdf((1 + level) / 2)
        n, p = self.bins.effective_size, self.prob_true
        half = z * np.sqrt(n * p * (1 - p) + z**2 / 4)
        ends = (n * p + z**2 / 2 + np.stack([-half, half])) / (n + z**2)
        return np.clip(ends, 0, 1)  # rounding may leave the interval

    def plot(
        self,
        *,
        ax: Axes | None = None,
        name: str | None = None,
        confidence_level: float | None = 0.95,
        **kwargs: Any,
    ) -> Self:
        """Draw the curve, its confidence band and the counts.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None makes a new figure. Its lower part is given to the counts,
            unless it is the `ax_` of another display, whose picture this one then joins.
        name : str, default=None
            Name in the legend instead of `self.name`.
        confidence_level : float, default=0.95
            Of the band, see :meth:`prob_true_interval`. None draws none.
        **kwargs : dict
            Handed to :meth:`matplotlib.axes.Axes.plot` for the curve, for instance ``color``; band
            and counts take the curve's colour.

        Returns
        -------
        ReliabilityDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If `confidence_level` is no number in [0, 1).
        """
        band = None if confidence_level is None else self.prob_true_interval(confidence_level)
        ax = axes_for(self, ax, (5.8, 7))
        from matplotlib.colors import to_rgba

        ax_counts = _counts_axes(ax) or self._prepare_axes(ax)
        filled = self.bins.weight > 0
        self.line_ = draw_line(
            ax,
            self.prob_pred[filled],
            self.prob_true[filled],
            len(ax_counts.patches) + len(ax_counts.collections),  # one artist a display
            with_number(
                self.name if name is None else name, f"ECE {100 * self.calibration_error:.1f} %"
            ),
            kwargs,
            clip_on=False,  # markers on the frame stay whole
            zorder=3,
        )
        self._draw_counts(ax_counts, self.line_.get_color())
        self.band_ = title = None
        if band is not None and confidence_level is not None:
            color = self.line_.get_color()
            style: dict[str, Any] = {"fc": to_rgba(color, 0.15), "ec": to_rgba(color, 0.4)}
            self.band_ = ax.fill_between(self.prob_pred[filled], *band[:, filled], **style)
            title = f"bands: {100 * confidence_level:g} % intervals"
        add_legend(ax, title)
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

    def _prepare_axes(self, ax: Axes) -> Axes:
        from matplotlib.ticker import MaxNLocator

        ax_counts = split_axes(ax, _COUNTS_HEIGHT)
        ax_counts.set_label(_COUNTS)
        # Boxes of one width, the upper one square, however wide their place is.
        ax.set_box_aspect(1)
        ax.set_anchor("S")
        ax_counts.set_box_aspect(_COUNTS_HEIGHT)
        ax_counts.set_anchor("N")
        ax.plot(
            [0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="Perfectly calibrated"
        )
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
            add_grid(axes)
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
        confidence_level: float | None = 0.95,
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
        confidence_level : float, default=0.95
            Of the band, see :meth:`prob_true_interval`. None draws none.
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
        import_pyplot(cls.__name__)
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            labels=estimator.classes_,
            n_bins=n_bins,
            strategy=strategy,
            pos_label=pos_label,
            sample_weight=sample_weight,
            name=name_of(estimator) if name is None else name,
            confidence_level=confidence_level,
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
        confidence_level: float | None = 0.95,
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
            The label of each column. None means the names of the columns where they are labels,
            else the sorted labels of `y_true`.
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
        confidence_level : float, default=0.95
            Of the band, see :meth:`prob_true_interval`. None draws none.
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
        import_pyplot(cls.__name__)
        codes, proba = check_probabilities(y_true, y_proba, labels)
        if pos_label is None:
            probability, correct = top_label(codes, proba)
        else:
            classes = (np.unique(as_numpy(y_true)) if labels is None else as_numpy(labels)).tolist()
            check_choice("pos_label", pos_label, classes)
            column = classes.index(pos_label)
            probability, correct = proba[:, column], codes == column
        bins = calibration_bins(
            probability, correct, n_bins=n_bins, strategy=strategy, sample_weight=sample_weight
        )
        display = cls(bins, name=name, pos_label=pos_label, weighted=sample_weight is not None)
        return display.plot(ax=ax, confidence_level=confidence_level, **kwargs)


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
