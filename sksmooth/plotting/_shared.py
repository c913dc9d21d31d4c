"""What the displays share: axes, lines and legends, and what they ask of an estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import unique_labels

from sksmooth._checks import check_choice, without_tensor
from sksmooth._labels import refuse_missing, sorted_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Okabe and Ito's colours, which the colour-blind can tell apart; the markers serve print in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.45"

OrderBy = Literal["proba", "confidence"]

_MOST_MARKERS = 20  # more of them on one curve would touch


def import_pyplot(caller: str) -> Any:
    """Import matplotlib, or say how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f'{caller} needs matplotlib: pip install "sksmooth[plot]"') from error
    return plt


def axes_for(display: object, ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Give the axes to draw into, of a new figure if there are none."""
    plt = import_pyplot(type(display).__name__)
    from matplotlib.axes import Axes

    if ax is None:
        return plt.subplots(figsize=figsize, layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax must be one matplotlib Axes, got {ax!r} of type {type(ax).__name__}; "
            "plt.subplots() gives a figure and its axes."
        )
    return ax


def split_axes(ax: Axes, size: float, *, sideways: bool = False) -> Axes:
    """Give the lower or right part of an axes, `size` times the rest, to a new one beside it.

    The new one shares the axis along which they touch, whose ticks have their labels once.
    """
    from matplotlib.gridspec import GridSpec

    place = ax.get_subplotspec()
    if place is None:
        box = ax.get_position()
        place = GridSpec(1, 1, left=box.x0, right=box.x1, bottom=box.y0, top=box.y1)[0]
    if sideways:
        parts = place.subgridspec(1, 2, width_ratios=(1, size), wspace=0.08)
        other = ax.figure.add_subplot(parts[1], sharey=ax)
        other.tick_params(labelleft=False)
    else:
        parts = place.subgridspec(2, 1, height_ratios=(1, size), hspace=0.08)
        other = ax.figure.add_subplot(parts[1], sharex=ax)
        ax.tick_params(labelbottom=False)
    ax.set_subplotspec(parts[0])
    return other


def draw_line(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    nth: int,
    label: str,
    given: dict[str, Any],
    **style: Any,
) -> Line2D:
    """Draw a line with a colour and marker of its own where `given` and `style` have none."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    own = {"color": COLORS[nth % len(COLORS)], "marker": MARKERS[nth % len(MARKERS)]}
    (line,) = ax.plot(x, y, **(own | {"label": label} | style | normalize_kwargs(given, Line2D)))
    return line


def draw_epochs(ax: Axes, epochs: ArrayLike, values: ArrayLike, nth: int, label: str) -> Line2D:
    """Draw a value of each epoch, markers with room between them."""
    every = max(1, np.size(epochs) // _MOST_MARKERS)
    return draw_line(ax, epochs, values, nth, label, {}, markersize=3.5, markevery=every)


def label_epochs(ax: Axes) -> None:
    """Name the x-axis, and put its ticks on round whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("Epoch")
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def add_grid(ax: Axes, which: Literal["major", "both"] = "major") -> None:
    """Draw a pale grid below all else."""
    ax.grid(color=GREY, alpha=0.18, linewidth=0.8, which=which)  # on a dark ground, too
    ax.set_axisbelow(True)


def add_legend(ax: Axes, title: str | None = None) -> None:
    """Write the legend anew, with the lines that are there now; None keeps the title it has."""
    old = ax.get_legend()
    if title is None and old is not None:
        title = old.get_title().get_text()
    ax.legend(loc="best", fontsize="small", title=title, title_fontsize="small")


def with_number(name: str | None, number: str) -> str:
    """Write a name in the legend, and the curve's number behind it."""
    return number if name is None else f"{name} ({number})"


def last_step(estimator: Any) -> Any:
    """Give the last step of a Pipeline, of a search's best one too, and anything else as it is."""
    estimator = best_of(estimator)
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def best_of(estimator: Any) -> Any:
    """Give the best estimator of a fitted search, and anything else as it is."""
    return getattr(estimator, "best_estimator_", estimator)


def name_of(estimator: Any) -> str:
    """Name a classifier by its class, in a Pipeline that of the last step."""
    return type(last_step(estimator)).__name__


def confidence_of(estimator: Any, X: Any, order_by: OrderBy) -> NDArray[Any]:
    """Ask a fitted classifier how sure it is of each row."""
    check_choice("order_by", order_by, ("proba", "confidence"))
    if order_by == "proba":
        return estimator.predict_proba(X).max(axis=1)
    estimator, last = best_of(estimator), last_step(estimator)
    if not hasattr(last, "confidence"):
        raise ValueError(
            f"order_by='confidence' needs an estimator with a method confidence, but "
            f"{type(last).__name__} has none; use order_by='proba'."
        )
    if last is not estimator and len(estimator) > 1:
        X = estimator[:-1].transform(X)
    return last.confidence(X)


def check_predictions(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return true and predicted labels that can be compared, as arrays."""
    y_true, y_pred = without_tensor(y_true), without_tensor(y_pred)
    check_consistent_length(y_true, y_pred)
    for name, labels in (("y_true", y_true), ("y_pred", y_pred)):
        refuse_missing(labels, name)
        sorted_labels(name, labels)
    unique_labels(y_true, y_pred)  # refuses labels of two kinds, which are never equal
    return column_or_1d(y_true), column_or_1d(y_pred)
