"""The loss and the accuracy of each epoch of a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
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
    split_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from typing_extensions import Self

_LOSSES = {
    "train_loss": "training",
    "valid_loss": "held out",
    "refined_loss": "held out, refined",
}
_ACCURACIES = {"valid_acc": "held out"}


class TrainingDisplay:
    """Loss and accuracy of each epoch, and the epoch whose weights were kept.

    Make it by :meth:`from_estimator`.

    .. versionadded:: 0.2.0

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
        ax = axes_for(self, ax, (6.4, 5.6))
        self.ax_, self.ax_accuracy_, self.figure_ = ax, None, ax.figure
        panels = [(ax, "Loss", self.losses)]
        if self.accuracies:
            self.ax_accuracy_ = split_axes(ax, 0.7)
            panels.append((self.ax_accuracy_, "Accuracy", self.accuracies))
        names = list(dict.fromkeys(name for *_, curves in panels for name in curves))
        self.lines_ = []
        for axes, ylabel, curves in panels:
            self.lines_ += [
                draw_epochs(axes, self.epochs, values, names.index(name), name)
                for name, values in curves.items()
            ]
            if self.best_epoch is not None:
                label = f"epoch kept: {self.best_epoch}" if axes is ax else None
                axes.axvline(self.best_epoch, color=GREY, linestyle=":", label=label)
            axes.set_ylabel(ylabel)
            add_grid(axes)
            add_legend(axes)
        axes.set_xlim(np.min(self.epochs) - 0.5, np.max(self.epochs) + 0.5)
        label_epochs(axes)
        return self

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
        import_pyplot(cls.__name__)
        net = last_step(estimator)
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
        return display_of(history, getattr(net, "best_epoch_", None)).plot(ax=ax)


def display_of(history: Iterable[Mapping[str, Any]], best_epoch: int | None) -> TrainingDisplay:
    """Make the display of a history of skorch's, not drawn yet."""
    return TrainingDisplay(
        [row["epoch"] for row in history],
        _recorded(history, _LOSSES),
        _recorded(history, _ACCURACIES),
        best_epoch=best_epoch,
    )


def _recorded(
    history: Iterable[Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, NDArray[np.float64]]:
    """Read the named columns of a skorch history, nan where an epoch lacks one."""
    columns = {
        name: np.array([row.get(key, np.nan) for row in history]) for key, name in names.items()
    }
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}
