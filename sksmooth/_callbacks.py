"""scikit-learn's callbacks: a fit and its epochs are the tasks that they are told of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sksmooth._private import CALLBACKS, managed_callbacks


def is_heard(estimator: Any) -> bool:
    """Tell whether callbacks were set on an estimator, or are propagated to it."""
    return hasattr(estimator, CALLBACKS)


class FitTask:
    """A fit that no callback is told of."""

    def begin_epoch(self) -> None:
        """Tell that an epoch begins."""

    def end_epoch(self, learned: Callable[[], dict[str, Any]]) -> bool:
        """Tell that an epoch has ended; give whether the fit is to end now.

        `learned` gives the attributes that the estimator would have then.
        """
        return False

    def end(self) -> None:
        """Tell that the fit has ended, and that the estimator is fitted."""


class HeardTask(FitTask):
    """A fit, of `n_epochs` at most, that an estimator's callbacks are told of.

    The estimator derives from scikit-learn's CallbackSupportMixin.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, n_epochs: int) -> None:
        self.told = _told(estimator, X, y, sample_weight)
        self.fit = estimator._init_callback_context(max_subtasks=n_epochs)
        self.fit.call_on_fit_task_begin(**self.told)

    def begin_epoch(self) -> None:
        self.epoch = self.fit.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(**self.told)

    def end_epoch(self, learned: Callable[[], dict[str, Any]]) -> bool:
        return self.epoch.call_on_fit_task_end(**self.told, reconstruction_attributes=learned)

    def end(self) -> None:
        self.fit.call_on_fit_task_end(**self.told, reconstruction_attributes={})


@contextmanager
def heard(estimator: Any, X: Any, y: Any, sample_weight: Any, n_epochs: int) -> Iterator[FitTask]:
    """Begin a fit, and let go of the callbacks, if there are any, whatever happens."""
    if not is_heard(estimator):
        yield FitTask()
        return
    with managed_callbacks(estimator):
        yield HeardTask(estimator, X, y, sample_weight, n_epochs)


class Evaluation(NamedTuple):
    """The fit of a candidate on the training rows of a fold, as a task of a search."""

    search: Any
    context: Any

    @contextmanager
    def of(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> Iterator[None]:
        """Let the fit of an estimator be this task, which :meth:`ending` ends."""
        with self.context.propagate_callback_context(estimator):
            self.context.call_on_fit_task_begin(**_told(self.search, X, y, sample_weight))
            yield

    @contextmanager
    def ending(self, X: Any, y: Any, sample_weight: Any) -> Iterator[None]:
        """End this task after the block. What a callback raises then is no failure of the fit."""
        try:
            yield
        finally:
            self.context.call_on_fit_task_end(**_told(self.search, X, y, sample_weight))


def _told(estimator: Any, X: Any, y: Any, sample_weight: Any) -> dict[str, Any]:
    """Give what callbacks are told of every task."""
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    return {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
