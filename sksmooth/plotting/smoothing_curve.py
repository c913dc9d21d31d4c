"""The loss of each label smoothing, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from sksmooth.plotting._shared import (
    GREY,
    add_grid,
    add_legend,
    axes_for,
    draw_epochs,
    import_pyplot,
    label_epochs,
    last_step,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from typing_extensions import Self


class SmoothingCurveDisplay:
    """Refined out-of-fold loss of each label smoothing, epoch by epoch, and the choice.

    Make it by :meth:`from_estimator`. The epoch chosen is the lowest of its curve, but the ε chosen
    need not have the lowest curve: it is the one whose calibrated probabilities are best. Where
    `scoring` chose, the curves are its scores, of which the highest are best.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    cv_results : mapping of str to array-like of shape (n,)
        A row for each ε and epoch: `label_smoothing`, `epoch`, and `score` or `refined_loss`.
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
        ax = axes_for(self, ax, (6.4, 4.8))
        from matplotlib.ticker import LogLocator

        by_score = "score" in self.cv_results
        names = ("label_smoothing", "epoch", "score" if by_score else "refined_loss")
        smoothing, epoch, loss = (np.asarray(self.cv_results[name]) for name in names)
        self.ax_, self.figure_, self.lines_, self.choice_ = ax, ax.figure, [], None
        for nth, value in enumerate(dict.fromkeys(smoothing.tolist())):
            own = smoothing == value
            self.lines_.append(draw_epochs(ax, epoch[own], loss[own], nth, f"ε = {value:g}"))
        if self.label_smoothing is not None:
            best = (smoothing == self.label_smoothing) & (epoch == self.best_epoch)
            label = f"choice: ε = {self.label_smoothing:g}, epoch {self.best_epoch}"
            ring: dict[str, Any] = {"fillstyle": "none", "markersize": 13, "color": GREY}
            (self.choice_,) = ax.plot(epoch[best], loss[best], "o", label=label, zorder=3, **ring)
        label_epochs(ax)
        ax.set_ylabel("Out-of-fold score" if by_score else "Refined out-of-fold loss")
        if not by_score:
            # The losses of the first epochs are many times the others, whose order is what counts.
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
        add_grid(ax, which="both")
        add_legend(ax)
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
        import_pyplot(cls.__name__)
        model = last_step(estimator)
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
