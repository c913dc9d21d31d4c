"""Confusion matrices of the predictions that are accepted and of those that are rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.utils.multiclass import unique_labels

from sksmooth._checks import as_numpy, check_vector, check_weight, in_short
from sksmooth.plotting._shared import (
    OrderBy,
    axes_for,
    check_predictions,
    confidence_of,
    import_pyplot,
    split_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from typing_extensions import Self


class SelectiveConfusionMatrixDisplay:
    """Confusion matrices of a classifier that may reject rows, side by side.

    On the left are the rows that it accepts, whose confidence reaches a threshold; on the right
    are those that it rejects, which somebody else would have to decide. A good confidence leaves
    errors on the right only, and few right predictions with them. Each matrix has its own scale
    of colours. Make it by :meth:`from_estimator` or :meth:`from_predictions`.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    accepted, rejected : array-like of shape (n_classes, n_classes)
        Numbers of rows, or sums of their weights; true labels down, predicted ones across.
    threshold : float
        Lowest confidence that is accepted.
    display_labels : array-like of shape (n_classes,), default=None
        Names of the classes; None numbers them.

    Attributes
    ----------
    coverage : float
        Share of the rows that are accepted.
    risk : float
        Error rate among them; nan if there are none.
    display_accepted_, display_rejected_ : ConfusionMatrixDisplay
        scikit-learn's displays of the two, with texts and images.
    ax_ : matplotlib Axes
        The axes of the accepted rows.
    ax_rejected_ : matplotlib Axes
        The axes of the rejected rows, to the right.
    figure_ : matplotlib Figure
        The figure that holds both.

    See Also
    --------
    RiskCoverageDisplay : Coverage and risk of all thresholds.
    sklearn.metrics.ConfusionMatrixDisplay : All rows in one matrix.

    References
    ----------
    .. [1] Chow (1970), On Optimum Recognition Error and Reject Tradeoff.
    .. [2] Condessa, Bioucas-Dias and Kovačević (2017), Performance Measures for Classification
       Systems with Rejection.

    Examples
    --------
    >>> from sksmooth.plotting import SelectiveConfusionMatrixDisplay
    >>> matrices = [[8, 0], [1, 9]], [[1, 1], [0, 0]]
    >>> display = SelectiveConfusionMatrixDisplay(*matrices, threshold=0.8).plot()
    >>> display.coverage
    0.9
    >>> print(display.ax_.get_title())
    Accepted: 90.0 %
    confidence ≥ 0.8
    error rate 5.6 %
    """

    display_accepted_: ConfusionMatrixDisplay
    display_rejected_: ConfusionMatrixDisplay
    ax_: Axes
    ax_rejected_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        accepted: ArrayLike,
        rejected: ArrayLike,
        *,
        threshold: float,
        display_labels: ArrayLike | None = None,
    ) -> None:
        self.accepted = accepted
        self.rejected = rejected
        self.threshold = threshold
        self.display_labels = display_labels

    @property
    def coverage(self) -> float:
        """Share of the rows that are accepted."""
        accepted = np.sum(self.accepted)
        return float(accepted / (accepted + np.sum(self.rejected)))

    @property
    def risk(self) -> float:
        """Error rate among the accepted rows."""
        return _error_rate(self.accepted)

    def plot(self, *, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw both matrices.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into; its right half is given to the rejected rows. None makes a new
            figure.
        **kwargs : dict
            Handed to :meth:`sklearn.metrics.ConfusionMatrixDisplay.plot` for both, for instance
            ``cmap``, ``values_format`` or ``colorbar=True``.

        Returns
        -------
        SelectiveConfusionMatrixDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_for(self, ax, (9, 5.2))
        self.ax_, self.ax_rejected_ = ax, split_axes(ax, 1, sideways=True)
        self.figure_ = ax.figure
        share = 100 * self.coverage
        title = f"Accepted: {share:.1f} %\nconfidence ≥ {self.threshold:g}"
        self.display_accepted_ = self._draw(self.ax_, self.accepted, title, kwargs)
        title = f"Rejected: {100 - share:.1f} %\nconfidence < {self.threshold:g}"
        self.display_rejected_ = self._draw(self.ax_rejected_, self.rejected, title, kwargs)
        self.ax_rejected_.set_ylabel("")
        return self

    def _draw(
        self, ax: Axes, matrix: ArrayLike, title: str, kwargs: dict[str, Any]
    ) -> ConfusionMatrixDisplay:
        matrix = np.asarray(matrix)
        if matrix.any():
            title += f"\nerror rate {100 * _error_rate(matrix):.1f} %"
        ax.set_title(title, fontsize="medium")
        style: dict[str, Any] = {"cmap": "Blues", "colorbar": False}
        if matrix.dtype.kind == "f":  # no exponents, no more digits than have room
            style["values_format"] = ".0f" if matrix.max() >= 99.5 else ".2g"
        if not matrix.any():  # white, which is otherwise the lowest number's
            style["im_kw"] = {"vmin": 0, "vmax": 1}
        display = ConfusionMatrixDisplay(matrix, display_labels=self.display_labels)
        return display.plot(ax=ax, **(style | kwargs))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        threshold: float,
        order_by: OrderBy = "proba",
        sample_weight: ArrayLike | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> SelectiveConfusionMatrixDisplay:
        """Draw the confusion matrices of a fitted classifier on data it was not fitted on.

        Parameters
        ----------
        estimator : classifier
            Fitted, with ``classes_``; or a Pipeline that ends in one.
        X : array-like of shape (n_samples, n_features)
            Input rows.
        y : array-like of shape (n_samples,)
            Their true labels.
        threshold : float
            Lowest confidence that is accepted.
        order_by : {"proba", "confidence"}, default="proba"
            What is held against the threshold: the largest probability, or the estimator's method
            ``confidence``, in a Pipeline that of the last step.
        sample_weight : array-like of float, shape (n_samples,), default=None
            Non-negative weights; None counts rows.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.
        **kwargs : dict
            Handed to :meth:`sklearn.metrics.ConfusionMatrixDisplay.plot`.

        Returns
        -------
        SelectiveConfusionMatrixDisplay
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
        >>> from sksmooth.plotting import SelectiveConfusionMatrixDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> bayes = GaussianNB().fit(X[::2], y[::2])
        >>> display = SelectiveConfusionMatrixDisplay.from_estimator(
        ...     bayes, X[1::2], y[1::2], threshold=0.9
        ... )
        >>> display.rejected
        array([[0, 0, 0],
               [0, 1, 1],
               [0, 1, 2]])
        """
        import_pyplot(cls.__name__)
        confidence = confidence_of(estimator, X, order_by)
        return cls.from_predictions(
            y,
            estimator.predict(X),
            confidence,
            threshold=threshold,
            labels=estimator.classes_,
            sample_weight=sample_weight,
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
        threshold: float,
        labels: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> SelectiveConfusionMatrixDisplay:
        """Draw the confusion matrices of predicted labels.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels of any kind: str, int, bool.
        y_pred : array-like of shape (n_samples,)
            Predicted labels.
        confidence : array-like of float, shape (n_samples,)
            Any finite score, higher for surer.
        threshold : float
            Lowest confidence that is accepted.
        labels : array-like of shape (n_classes,), default=None
            The classes, in the order in which they are shown. None means the sorted labels of
            `y_true` and `y_pred`.
        sample_weight : array-like of float, shape (n_samples,), default=None
            Non-negative weights; None counts rows.
        ax : matplotlib Axes, default=None
            Axes to draw into; see :meth:`plot`.
        **kwargs : dict
            Handed to :meth:`sklearn.metrics.ConfusionMatrixDisplay.plot`.

        Returns
        -------
        SelectiveConfusionMatrixDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If an argument is out of its range or does not fit the others.

        Examples
        --------
        >>> from sksmooth.plotting import SelectiveConfusionMatrixDisplay
        >>> y_true, y_pred = ["cat", "cat", "dog", "owl"], ["cat", "dog", "dog", "owl"]
        >>> display = SelectiveConfusionMatrixDisplay.from_predictions(
        ...     y_true, y_pred, [0.8, 0.3, 0.9, 0.6], threshold=0.5
        ... )
        >>> display.coverage, display.risk
        (0.75, 0.0)
        """
        import_pyplot(cls.__name__)
        y_true, y_pred = check_predictions(y_true, y_pred)
        confidence = check_vector("confidence", confidence, len(y_true))
        threshold = float(check_vector("threshold", [threshold])[0])
        seen = unique_labels(y_true, y_pred)
        index = pd.Index(seen if labels is None else as_numpy(labels))
        if not index.is_unique:
            raise ValueError(f"labels must not repeat, got {in_short(index.to_numpy())}.")
        unknown = seen[index.get_indexer(seen) < 0]
        if len(unknown):
            raise ValueError(
                f"y_true and y_pred have labels that labels={in_short(index.to_numpy())} lacks: "
                f"{unknown[:5].tolist()}."
            )
        weight = check_weight(sample_weight, len(y_true))
        if sample_weight is None:
            weight = weight.astype(np.int64)
        # In the confidence's own precision, so that float32's 0.7 reaches a threshold of 0.7.
        is_rejected = (confidence < threshold).astype(np.intp)
        matrices = np.zeros((2, len(index), len(index)), weight.dtype)
        cells = (is_rejected, index.get_indexer(y_true), index.get_indexer(y_pred))
        np.add.at(matrices, cells, weight)
        return cls(*matrices, threshold=threshold, display_labels=index.to_numpy()).plot(
            ax=ax, **kwargs
        )


def _error_rate(matrix: ArrayLike) -> float:
    total = np.sum(matrix)
    return float(1 - np.trace(matrix) / total) if total else float("nan")
