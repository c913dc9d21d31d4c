"""A training to look at while it runs, in a notebook."""

from __future__ import annotations

import io
import sys
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from skorch.callbacks import Callback

from sksmooth.plotting._shared import import_pyplot
from sksmooth.plotting.smoothing_curve import SmoothingCurveDisplay
from sksmooth.plotting.training import TrainingDisplay, display_of

if TYPE_CHECKING:
    from typing_extensions import Self

_PAUSE = 10  # between two drawings, times what one took: it may be as long as many epochs


class LiveTrainingDisplay(Callback):
    """A picture below the cell of a notebook that grows while ``fit`` runs.

    As a callback of skorch it shows a :class:`~sksmooth.TrainingDisplay` of the net's epochs so
    far, and at last of the epoch that was kept:
    ``LabelSmoothingClassifier(callbacks=[LiveTrainingDisplay()])``. ``partial_fit`` goes on with
    the picture of the fit before it.

    As a callback of scikit-learn, from its version 1.9 on, it shows a
    :class:`~sksmooth.SmoothingCurveDisplay` of all ε:
    ``LabelSmoothingClassifierCV().set_callbacks(LiveTrainingDisplay())``.

    It changes no result, and the nets are trained by the same steps. After each drawing ten times
    as long passes without one, so that it costs about a tenth of the time; of a
    LabelSmoothingClassifierCV the choice so far is made after each epoch, which costs more. Outside
    of notebooks it shows nothing.

    .. versionadded:: 0.2.0

    Examples
    --------
    >>> from sksmooth import LabelSmoothingClassifier, LiveTrainingDisplay, make_tabular
    >>> X, y = make_tabular(100, random_state=0)
    >>> net = LabelSmoothingClassifier(max_epochs=3, callbacks=[LiveTrainingDisplay()])
    >>> net.fit(X, y).trained_by_
    'by hand'
    """

    def initialize(self) -> Self:
        """Begin a new picture. A hook of skorch's."""
        if _is_notebook():
            import_pyplot(type(self).__name__)
        self.picture_ = _Picture()
        return self

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Draw the epochs so far. A hook of skorch's."""
        self.picture_.redraw(lambda: display_of(net.history, None), is_over=False)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Draw all epochs. A hook of skorch's."""
        self.picture_.redraw(
            lambda: display_of(net.history, getattr(net, "best_epoch_", None)), is_over=True
        )

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin a new picture. A hook of scikit-learn's."""
        if not hasattr(estimator, "label_smoothings"):
            raise TypeError(
                f"{type(self).__name__} cannot be set by set_callbacks of "
                f"{type(estimator).__name__}, but of LabelSmoothingClassifierCV; to a net it is "
                "given as callbacks=[LiveTrainingDisplay()]."
            )
        self.initialize()

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing. A hook of scikit-learn's."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing. A hook of scikit-learn's."""

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None
    ) -> None:
        """Draw the choice so far. A hook of scikit-learn's."""

        def choice() -> SmoothingCurveDisplay:
            model = fitted_estimator
            return SmoothingCurveDisplay(
                model.cv_results_,
                label_smoothing=model.label_smoothing_,
                best_epoch=model.best_epoch_,
            )

        self.picture_.redraw(choice, is_over=context.task_name != "epoch")


class _Picture:
    """A picture below a cell."""

    def __init__(self) -> None:
        self.name: str | None = None  # by which IPython knows it, once it is shown
        self.next = -np.inf  # when to draw again

    def redraw(self, make: Callable[[], Any], *, is_over: bool) -> None:
        """Show a display in place of the one before it, if it is time to."""
        begin = time.monotonic()
        if not _is_notebook() or (begin < self.next and not is_over):
            return
        from IPython.display import Image, display

        is_shown = self.name is not None
        self.name = self.name or uuid.uuid4().hex
        display(Image(_draw(make())), display_id=self.name, update=is_shown)
        end = time.monotonic()
        self.next = end + _PAUSE * (end - begin)


def _is_notebook() -> bool:
    """Tell whether the code runs in a cell of a notebook, whose kernel shows pictures."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _draw(display: TrainingDisplay | SmoothingCurveDisplay) -> bytes:
    """Give a display as a PNG, and leave pyplot's figures alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    display.plot(ax=figure.add_subplot())
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png")
        return buffer.getvalue()
