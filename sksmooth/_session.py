"""The epochs of one net: what is known of a training that goes on, what is recorded and told."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, PassthroughScoring, PrintLog
from torch import nn
from torch.utils.data import Dataset

from sksmooth._batches import TensorBatches
from sksmooth._callbacks import FitTask
from sksmooth._checks import warn_user
from sksmooth._progress import seed_of_split
from sksmooth.engine.by_skorch import SkorchStack
from sksmooth.engine.cross_fit import CrossFitted, Folds
from sksmooth.engine.loop import Epoch
from sksmooth.engine.monitor import Monitor
from sksmooth.engine.plan import (
    BY_HAND,
    BY_SKORCH,
    may_change_parts,
    plan,
    plan_stack,
    replaces_steps,
)
from sksmooth.engine.randomness import ForwardRandomness, OwnRandomness
from sksmooth.engine.stack import InMemoryStack, Member, Remade, Selection


class BestFlag(PassthroughScoring):
    """Record beside a score of the epoch whether it is the best so far.

    skorch's ``PrintLog`` colours by that flag, and ``Checkpoint`` saves by it. The score itself is
    recorded by the net.

    Parameters
    ----------
    name : str
        The score's key in the history.
    lower_is_better : bool, default=True
        Whether lower scores are better.
    """

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Record the flag."""
        row = net.history[-1]
        score = row.get(self.name)
        if score is None:
            return
        is_best = self._is_best_score(score)
        if is_best:
            self.best_score_ = score
        row[f"{self.name}_best"] = bool(is_best)


def show(text: str) -> None:
    """Print text, with whatever the output's encoding lacks as a question mark.

    A function that a pickle can name when another took the name of ``print``.

    Examples
    --------
    >>> show("epoch")
    epoch
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def as_clock(seconds: float) -> str:
    """Write seconds as hours, minutes and whole seconds, rounded up.

    Examples
    --------
    >>> as_clock(75.2)
    '0:01:16'
    """
    return str(timedelta(seconds=math.ceil(seconds)))


class EpochTable(PrintLog):
    """skorch's table of the epochs, with the time left: seconds that those to come take at most.

    It is not laid out where ``verbose=0`` leaves it unprinted.
    """

    left_: float | None = None

    def table(self, row: Mapping[str, Any]) -> str:
        """Lay out the epoch's row."""
        if self.left_ is not None:
            # An event, for skorch puts these behind the scores. History keeps none of it.
            row = {**row, "event_left_at_most": as_clock(self.left_)}
        return super().table(row)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Print the epoch's row."""
        if net.verbose or self.sink not in (show, print):
            super().on_epoch_end(net, **kwargs)


def tell_time_left(net: Any, epoch: Epoch) -> None:
    """Tell a net's table of an epoch how long the epochs to come take at most."""
    for _, callback in net.callbacks_:
        if isinstance(callback, EpochTable):
            callback.left_ = epoch.left


@dataclass(eq=False)
class Training:
    """What a training that is going on knows."""

    patience: int | None  # epochs without a lower refined loss after which it stops; None: never
    task: FitTask  # tells scikit-learn's callbacks of it
    batch_weight: torch.Tensor | None = None  # of the rows of the batch at hand
    relative_weight: torch.Tensor | None = None  # by which the loss of that batch counts
    drawn_from: Any = None  # the state of the RandomState before its seeds were drawn
    randomness: OwnRandomness | None = None  # from which callbacks draw
    forward: ForwardRandomness | None = None  # from which the module's forward draws
    session: Session | None = None  # before fit_loop there is neither this nor the monitor
    monitor: Monitor | None = None
    last: dict[str, Any] | None = None  # its state after the last epoch, where a callback saves it
    was_loaded: bool = False  # whether parameters were loaded since it began
    unsaved: dict[str, Exception] = field(default_factory=dict)  # what could not be saved, and why

    @contextmanager
    def weighing(
        self, weight: torch.Tensor | None, relative_weight: torch.Tensor | None
    ) -> Iterator[None]:
        """Set the weights of the rows of a batch, and what it weighs beside others."""
        self.batch_weight, self.relative_weight = weight, relative_weight
        try:
            yield
        finally:
            self.batch_weight = self.relative_weight = None

    def held_out_logits(self) -> tuple | None:
        """Give what the calibrator is fitted to: logits of held-out rows as the net is now."""
        if self.session is None or self.monitor is None or self.monitor.best is None:
            return None
        kept, stack = self.monitor.best.state, self.session.stack
        state = stack.state()
        if len(state) == len(kept) and all(map(torch.equal, state, kept)):
            return self.monitor.held_out_of(0)
        # A callback has loaded another epoch's parameters.
        return (*stack.score().of(0), self.monitor.start_of(0))

    def warn_of_unsaved(self) -> None:
        """Warn of what a callback could not save, such as on a full disk."""
        for name, error in self.unsaved.items():
            warn_user(f"{name} could not be saved: {error!r}")


class Session:
    """The epochs of one net: its `stack`, and what is recorded and told around each epoch.

    Parameters
    ----------
    net : LabelSmoothingClassifier
        Initialized.
    dataset_train, dataset_valid : torch Datasets
        The second may be None.
    randomness : OwnRandomness
        From which all is drawn.
    fit_params : dict
        Arguments of the module's forward.
    n_folds : int, default=0
        In how many folds the rows are scored; 0: in none.
    """

    def __init__(
        self,
        net: Any,
        dataset_train: Dataset,
        dataset_valid: Dataset | None,
        randomness: OwnRandomness,
        fit_params: Mapping[str, Any],
        n_folds: int = 0,
    ) -> None:
        self.net = net
        self.datasets = {"dataset_train": dataset_train, "dataset_valid": dataset_valid}
        self.randomness = randomness
        self.fit_params = fit_params
        net.draw_from(None if replaces_steps(net) else randomness)
        self.n_folds = n_folds
        with randomness:
            self.train: Any = net.get_iterator(dataset_train, training=True)
            self.held_out: Any = None if dataset_valid is None else net.get_iterator(dataset_valid)
        _refuse_no_batches(self.train)
        _part_from_single_rows(net, self.train)
        if callable(net.train_split):  # else all classes are held out alike
            _warn_of_one_class(self.held_out)
        self.stack: Any = Remade(self._stack) if may_change_parts(net) else self._stack()
        if n_folds:
            rows: Any = dataset_train
            with randomness:
                folds = Folds.of(net, rows, n_folds)
            seed_of_split(net, rows, None)
            by_hand = plan_stack(net, rows.X).kind == BY_HAND
            self.stack = CrossFitted(self.stack, [net], [folds], by_hand=by_hand)

    def _stack(self) -> InMemoryStack | SkorchStack:
        """Make the stack that the net's parts and batches call for."""
        net, train, held_out = self.net, self.train, self.held_out
        chosen = plan(net, train, held_out, self.fit_params)
        net.trained_by_, net.trained_by_reason_ = chosen
        if chosen.kind == BY_SKORCH:
            return SkorchStack(
                net, train, held_out, self.randomness, replaces_steps(net), self.fit_params
            )
        member = Member(
            net.module_,
            net.criterion_,
            Selection.of_batches(train),
            None if held_out is None else Selection.of_batches(held_out),
            self.randomness.generator(train.rows.X.device),
        )
        return InMemoryStack.of(net, [member], [train], by_hand=chosen.kind == BY_HAND)

    def begin_epoch(self) -> None:
        """Tell callbacks that an epoch begins."""
        self.net.notify("on_epoch_begin", **self.datasets)

    def record_epoch(self, epoch: Epoch) -> None:
        """Record an epoch in the history, or refuse what it came to."""
        net = self.net
        for failure in epoch.failed.values():
            raise net.diverged(failure, len(net.history))
        history, (losses,) = net.history, epoch.losses
        if net.trained_by_ != BY_SKORCH:  # which has recorded the batches itself
            history[-1]["batches"].extend(losses.batches(0))
            history.record("train_batch_count", len(losses.sizes[0]))
        history.record("train_loss", float(epoch.train_loss[0]))
        if epoch.scores is not None:
            scores = {name: float(own[0]) for name, own in epoch.scores.named().items()}
            if net.trained_by_ != BY_SKORCH and self.held_out is not None:
                batch = {"valid_loss": scores["valid_loss"]}
                batch["valid_batch_size"] = self.held_out.n_rows
                history[-1]["batches"].append(batch)
                history.record("valid_batch_count", 1)
            for name, score in scores.items():
                history.record(name, score)
        tell_time_left(net, epoch)

    def end_epoch(self) -> None:
        """Tell callbacks that an epoch has ended."""
        self.net.notify("on_epoch_end", **self.datasets)


def learned_so_far(net: Any, monitor: Monitor, number: int) -> dict[str, Any]:
    """Give what a net would have learned if its training ended with the epoch that has ended.

    `number` is that of its set in the monitor. None of the attributes will the training change.
    """
    with monitor.restored(number):
        learned = copy.deepcopy({f"{name}_": getattr(net, f"{name}_") for name in net._modules})
    learned["history_"] = copy.copy(net.history)
    learned["best_epoch_"] = len(net.history) - monitor.epochs_since_best(number)
    learned["calibrator_"] = getattr(net, "calibrator_", None)
    held_out = monitor.held_out_of(number)
    if held_out is not None:
        learned["calibrator_"] = net.fit_calibrator(*held_out, warn=False)
    return learned


def arranged(net: Any) -> list[tuple[str, Callback]]:
    """Give a net's callbacks in the order in which they are to be told.

    One that saves the training comes after those that may still change it, such as LRScheduler.
    skorch's ProgressBar counts the batches of an epoch where no batch_size tells how many there
    are; the user's own stays as it is.
    """
    is_auto = "auto" in (net.batch_size, getattr(net, "iterator_train__batch_size", None))
    callbacks = []
    for name, callback in net.callbacks_:
        if is_auto and getattr(callback, "batches_per_epoch", None) == "auto":
            callback = copy.copy(callback)
            callback.batches_per_epoch = "count"
        callbacks.append((name, callback))
    return sorted(
        callbacks, key=lambda own: (isinstance(own[1], PrintLog), hasattr(own[1], "f_training"))
    )


def loaded_epoch(net: Any, default: int) -> int:
    """Give the epoch whose parameters skorch's callbacks have loaded; `default` if none has."""
    for _, callback in net.callbacks_:
        if not getattr(callback, "load_best", False):
            continue
        if isinstance(callback, Checkpoint) and callback.monitor is not None:
            saved = [bool(row.get(callback.event_name)) for row in net.history]
            default = max((n for n, is_saved in enumerate(saved, 1) if is_saved), default=default)
        elif isinstance(callback, EarlyStopping) and callback.best_epoch_ != len(net.history):
            default = callback.best_epoch_
    return default


def _refuse_no_batches(batches: Any) -> None:
    if isinstance(batches, TensorBatches) and len(batches) == 0:
        raise ValueError(
            f"The {batches.n_rows} rows to train on are fewer than batch_size="
            f"{batches.batch_size}, and drop_last leaves out a batch that is not full."
        )


def _warn_of_one_class(held_out: Any) -> None:
    if not isinstance(held_out, TensorBatches):
        return
    y = held_out.rows.y[held_out.index]
    if (y == y[0]).all():
        warn_user(
            f"The {len(y)} rows that train_split holds out are all of one class, by which nothing "
            "can be stopped or calibrated well. Where rows are in the order of their labels, "
            "stratify: train_split=0.2, or ValidSplit(5, stratified=True)."
        )


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _part_from_single_rows(net: Any, batches: Any) -> None:
    """Let no batch have one row only, if the module has a BatchNorm, which cannot train on that."""
    modules = [part for name in net._modules for part in getattr(net, f"{name}_").modules()]
    if isinstance(batches, TensorBatches):
        batches.merges_single = any(isinstance(part, _BATCH_NORMS) for part in modules)
