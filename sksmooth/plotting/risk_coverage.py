"""The risk-coverage curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sksmooth.metrics import RiskCoverageCurve, risk_coverage_curve
from sksmooth.plotting._shared import (
    OrderBy,
    add_grid,
    add_legend,
    axes_for,
    check_predictions,
    confidence_of,
    draw_line,
    import_pyplot,
    name_of,
    with_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from typing_extensions import Self


class RiskCoverageDisplay:
    """Risk-coverage curve: the error rate among the rows kept, against the share of rows kept.

    Rows are kept in the order of their confidence, so a curve that starts low and rises late is
    one of a classifier that knows where it errs. Make it by :meth:`from_estimator` or
    :meth:`from_predictions`.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    curve : RiskCoverageCurve
        The steps, from :func:`~sksmooth.risk_coverage_curve`.
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
    sksmooth.area_under_risk_coverage : The number in the legend.

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
        ax = axes_for(self, ax, (6.4, 4.8))
        self.line_ = draw_line(
            ax,
            np.append(0.0, self.coverage),
            np.append(self.risk[0], self.risk),
            len(ax.lines),
            with_number(self.name if name is None else name, f"AURC {self.area:.3g}"),
            kwargs,
            drawstyle="steps-pre",  # so that the area drawn is the area told
            marker="",
        )
        ax.set(xlabel="Coverage", ylabel="Risk", xlim=(0, 1))
        ax.set_ylim(bottom=0, auto=None)  # the top still makes room for the next curve
        add_grid(ax)
        add_legend(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        order_by: OrderBy = "proba",
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
        import_pyplot(cls.__name__)
        confidence = confidence_of(estimator, X, order_by)
        return cls.from_predictions(
            y,
            estimator.predict(X),
            confidence,
            sample_weight=sample_weight,
            name=name_of(estimator) if name is None else name,
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
        import_pyplot(cls.__name__)
        y_true, y_pred = check_predictions(y_true, y_pred)
        curve = risk_coverage_curve(confidence, y_true == y_pred, sample_weight=sample_weight)
        return cls(curve, name=name).plot(ax=ax, **kwargs)
