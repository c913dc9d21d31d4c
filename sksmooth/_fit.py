"""Fits many classifiers at once: in lockstep where they can be, else one by one."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType
from typing import Any, cast

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parameter import is_lazy

from sksmooth._batches import TensorBatches, TensorRows
from sksmooth._callbacks import Evaluation, FitTask, heard
from sksmooth._progress import seed_of_split
from sksmooth._rows import Table, check_rows
from sksmooth._session import BestFlag, EpochTable, learned_so_far, tell_time_left
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.engine.cross_fit import CrossFitted, Folds
from sksmooth.engine.loop import Epoch, train
from sksmooth.engine.monitor import Monitor
from sksmooth.engine.plan import (
    BY_HAND,
    against_company,
    against_differences,
    against_stacking,
    choose_folds,
    choose_patience,
    draws_random_numbers,
    plan_stack,
    rows_to_try,
)
from sksmooth.engine.randomness import (
    OwnRandomness,
    fits_anywhere,
    shared_generators,
    single_precision,
)
from sksmooth.engine.stack import InMemoryStack, Member, Selection, members_that_pay

# What classifiers may differ in and still be trained in one stack.
MAY_DIFFER = ("class_weight", "label_smoothing", "random_state", "smoothing")

# The most nets in one stack: beyond, a step takes as long for each net more.
MAX_MEMBERS = 64


@dataclass
class Job:
    """A classifier that is to be fitted, and what became of it.

    Jobs that are given the same objects as `X` and `y` share one checked copy.
    """

    estimator: LabelSmoothingClassifier  # fitted in place
    X: Any
    y: Any
    fit_params: dict[str, Any] = field(default_factory=dict)  # further arguments of its ``fit``
    evaluation: Evaluation | None = None  # the task of a search, if a callback is told of it
    seconds: float = 0.0  # its share of the time taken
    error: Exception | None = None  # what its ``fit`` raised
    alone_because: str | None = None  # why it was fitted by itself, if not in lockstep

    @property
    def sample_weight(self) -> Any:
        """The weights of the rows, or None."""
        return self.fit_params.get("sample_weight")

    def of_rows(self, change: Callable[[Any], Any]) -> Job:
        """Give the same job of other rows: what a function makes of `X`, `y` and `fit_params`."""
        params = {name: change(value) for name, value in self.fit_params.items()}
        return replace(self, X=change(self.X), y=change(self.y), fit_params=params)

    def as_task(self) -> AbstractContextManager:
        """Let the fit be the task of a search that it is."""
        if self.evaluation is None:
            return nullcontext()
        return self.evaluation.of(self.estimator, self.X, self.y, self.sample_weight)

    def ending_task(self) -> AbstractContextManager:
        """End that task after the block."""
        if self.evaluation is None:
            return nullcontext()
        return self.evaluation.ending(self.X, self.y, self.sample_weight)


@fits_anywhere
def fit_together(
    jobs: Sequence[Job],
    *,
    max_members: int = MAX_MEMBERS,
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Fit classifiers, with the results of fitting each by itself.

    One that cannot be fitted has its `error` set; the others go on. `on_epoch` is called after
    every epoch of a stack, with the number of nets in it.

    Examples
    --------
    >>> from sksmooth import LabelSmoothingClassifier, make_tabular
    >>> X, y = make_tabular(random_state=0)
    >>> jobs = [Job(LabelSmoothingClassifier(random_state=seed), X, y) for seed in range(3)]
    >>> fit_together(jobs)
    >>> [job.alone_because for job in jobs]
    [None, None, None]
    >>> bool(jobs[2].estimator.score(X, y) > 0.9)
    True
    """
    checked: dict[tuple[int, int], Table] = {}
    reasons: dict[Hashable, str | None] = {}
    runners: dict[Hashable, list[_Runner]] = {}
    for job in jobs:
        job.alone_because = against_company(job.estimator, job.fit_params)
        if job.alone_because is None:
            with _timed([job]), _errors_kept(job):
                runner = _Runner(job, checked)
                kind = runner.kind()
                if kind not in reasons:
                    reasons[kind] = runner.reason_to_go_alone()
                job.alone_because = reasons[kind]
                runners.setdefault(kind, []).append(runner)
    for kind, alike in runners.items():
        if reasons[kind] is not None:
            continue
        modules = [runner.estimator.module_ for runner in alike]
        reason = against_differences(modules, rows_to_try(alike[0].estimator, alike[0].batches))
        if reason is None:
            _run_stacks(alike, max_members, on_epoch)
        for runner in alike:
            runner.job.alone_because = runner.job.alone_because or reason
    for job in jobs:
        if job.alone_because is not None and job.error is None:
            with job.ending_task(), _timed([job]), _errors_kept(job), job.as_task():
                job.estimator.fit(job.X, job.y, **job.fit_params)


def divide(jobs: Sequence[Job], n_tasks: int) -> list[NDArray[np.int64]]:
    """Part jobs into groups that can be fitted at the same time, each by :func:`fit_together`.

    Classifiers that might be trained in one stack stay together, where there are other groups
    enough: no fewer than `n_tasks`, if there are as many jobs. Where neighbours have rows in
    common, so do groups. A group is the positions of its members in `jobs`.

    Examples
    --------
    >>> from sksmooth import LabelSmoothingClassifier
    >>> jobs = [Job(LabelSmoothingClassifier(lr=lr), [], []) for lr in (0.1, 0.2, 0.1, 0.1)]
    >>> [group.tolist() for group in divide(jobs, n_tasks=2)]
    [[0, 2], [3], [1]]
    >>> [group.tolist() for group in divide(jobs, n_tasks=1)]
    [[0, 1, 2, 3]]
    """
    if n_tasks == 1:
        return [np.arange(len(jobs))]
    kinds: dict[Hashable, list[int]] = {}
    for number, job in enumerate(jobs):
        alone = against_company(job.estimator, job.fit_params) is not None
        kinds.setdefault(number if alone else _common_params(job.estimator), []).append(number)
    groups = []
    for alike in kinds.values():
        n_groups = -(-len(alike) * n_tasks // len(jobs))
        groups.extend(np.array_split(np.asarray(alike), min(n_groups, len(alike))))
    return groups


def params_key(params: Mapping[str, Any]) -> Hashable:
    """Give a key that parameters have in common where they are equal.

    What cannot be pickled equals itself only.

    Examples
    --------
    >>> params_key({"lr": 0.1}) == params_key({"lr": 0.1}) != params_key({"lr": 0.2})
    True
    """
    return tuple((name, _value_key(params[name])) for name in sorted(params))


def _value_key(value: Any) -> Hashable:
    if isinstance(value, _ATOMS):  # most are, and a hash of its pickle takes much longer
        return type(value), value
    try:
        return joblib.hash(value)
    except (pickle.PicklingError, TypeError):
        return id(value)


_ATOMS = (type(None), bool, int, float, str, type, FunctionType)


def _common_params(estimator: LabelSmoothingClassifier) -> Hashable:
    """Give a key to the parameters that all classifiers of one stack have in common."""
    params = estimator.get_params(deep=False)
    return params_key({name: value for name, value in params.items() if name not in MAY_DIFFER})


class _Runner:
    """A classifier on its way through the phases of ``fit``, between which it waits for others."""

    def __init__(self, job: Job, checked: dict[tuple[int, int], Table]) -> None:
        self.job = job
        self.estimator = estimator = job.estimator
        self.task = FitTask()
        estimator.check_parameters()
        given = (job.sample_weight, estimator.classes)
        is_shared = all(own is None for own in (*given, estimator.class_weight))
        key = (id(job.X), id(job.y))
        table = checked.get(key) if is_shared else None
        if table is None:
            table = check_rows(estimator, job.X, job.y, *given, reset=True)
        if is_shared:
            checked[key] = table
        estimator.prepare(table)
        self.patience = choose_patience(estimator, table.rows)
        self.seed = estimator.draw_seed()
        rows = cast(TensorRows, table.rows)
        n_folds = choose_folds(estimator, rows, {}, "fit")
        with OwnRandomness(self.seed):
            whole: Any = (rows, None)
            train, held_out = whole if n_folds else estimator.get_split_datasets(rows, table.codes)
            self.batches: Any = estimator.get_iterator(train, training=True)
            self.held_out: Any = held_out and estimator.get_iterator(held_out)
            self.folds = Folds.of(estimator, rows, n_folds) if n_folds else None
        if n_folds:
            seed_of_split(estimator, rows, None)

    def reason_to_go_alone(self) -> str | None:
        """Tell what in the classifier's parts keeps its kind from being trained in a stack."""
        if not all(isinstance(own, TensorBatches) for own in (self.batches, self.held_out) if own):
            return "the rows, or those that train_split holds out, are not in memory"
        estimator = self.estimator
        some_rows = rows_to_try(estimator, self.batches)
        reason = against_stacking(estimator, some_rows)
        if reason is None and draws_random_numbers(estimator.module_, some_rows):
            reason = "the module draws random numbers by itself, as dropout does"
        return reason

    def kind(self) -> Hashable:
        """Give what is the same for all that can be trained in one stack."""
        parameters = list(self.estimator.module_.parameters())
        shapes = None if any(map(is_lazy, parameters)) else tuple(p.shape for p in parameters)
        n_classes = len(self.estimator.classes_inferred_)
        in_memory = isinstance(self.batches, TensorBatches)
        others = (
            shapes,
            n_classes,
            in_memory and self.batches.division,
            self.patience,
            self.held_out is None,
            self.folds and self.folds.kind,
            id(self.estimator.learned_.get("encoding")),
        )
        return _common_params(self.estimator), others

    def member(self, generator: Callable[[int, int], torch.Generator]) -> Member:
        """Give the member of a stack, with the generator of all that draw the same."""
        train = Selection.of_batches(self.batches)
        held_out = self.held_out and Selection.of_batches(self.held_out)
        module, criterion = self.estimator.module_, self.estimator.criterion_
        own = generator(self.seed, len(train.chosen))
        return Member(module, criterion, train, held_out, own)

    def record(self, row: dict[str, Any]) -> None:
        """Record an epoch in the history, flag its best scores, print it where that was asked."""
        self.estimator.history.append(row)
        for _, callback in self.estimator.callbacks_:
            if isinstance(callback, BestFlag | EpochTable):
                callback.on_epoch_end(self.estimator)

    def tell(self, contexts: ExitStack) -> None:
        """Tell callbacks that the fit begins; they are let go at the end of the contexts."""
        job, n_epochs = self.job, self.estimator.max_epochs
        contexts.enter_context(job.as_task())
        fit = heard(job.estimator, job.X, job.y, job.sample_weight, n_epochs)
        self.task = contexts.enter_context(fit)

    def begin_epoch(self) -> bool:
        """Tell callbacks that an epoch begins; give whether training is to go on."""
        with _errors_kept(self.job):
            self.task.begin_epoch()
        return self.job.error is None

    def end_epoch(self, monitor: Monitor, m: int) -> bool:
        """Tell callbacks that an epoch has ended; give whether training is to go on."""
        is_over = True  # also by what a callback raises
        with _errors_kept(self.job):
            is_over = self.task.end_epoch(partial(learned_so_far, self.estimator, monitor, m))
        return not is_over


def _run_stacks(
    runners: list[_Runner], max_members: int, on_epoch: Callable[[int], None] | None
) -> None:
    """Train nets of one kind, in as few stacks as hold them."""
    first = runners[0]
    n_nets = 1 + len(first.folds.seeds) if first.folds else 1
    at_once = max(1, members_that_pay(first.estimator.module_, max_members) // n_nets)
    n_stacks = -(-len(runners) // at_once)
    for stack in np.array_split(np.arange(len(runners)), n_stacks):
        members = [runners[number] for number in stack]
        with ExitStack() as tasks, _timed([own.job for own in members]), single_precision():
            for runner in members:
                tasks.enter_context(runner.job.ending_task())
            try:
                with ExitStack() as contexts:
                    for runner in members:
                        with _errors_kept(runner.job):
                            runner.tell(contexts)
                    _run([own for own in members if own.job.error is None], on_epoch)
            except Exception as error:  # of one member's module, for instance
                for runner in members:
                    runner.job.alone_because = f"training in a stack failed: {error}"


def _run(runners: list[_Runner], on_epoch: Callable[[int], None] | None) -> None:
    """Train a stack: the epochs, early stopping, calibration."""
    if not runners:
        return
    first = runners[0].estimator
    for runner in runners:
        rows = runner.batches.rows
        runner.estimator.notify("on_train_begin", X=rows.X, y=rows.y)
    generator = shared_generators(runners[0].batches.rows.X.device)
    members = [runner.member(generator) for runner in runners]
    chosen = plan_stack(first, members[0].train.table.X)
    by_hand = chosen.kind == BY_HAND
    batches = [runner.batches for runner in runners]
    stack: Any = InMemoryStack.of(first, members, batches, by_hand=by_hand)
    folds = [runner.folds for runner in runners if runner.folds is not None]
    if folds:
        nets = [runner.estimator for runner in runners]
        stack = CrossFitted(stack, nets, folds, by_hand=by_hand)
    monitor = Monitor([stack], patience=runners[0].patience)

    def begin_epoch() -> None:
        active = np.flatnonzero(monitor.active).tolist()
        monitor.stop([m for m in active if not runners[m].begin_epoch()])

    def end_epoch(epoch: Epoch) -> None:
        if on_epoch is not None:
            on_epoch(len(runners))
        active = np.flatnonzero(epoch.active).tolist()
        monitor.stop([m for m in active if not runners[m].end_epoch(monitor, m)])

    seconds = None if first.max_time is None else first.max_time * len(runners)
    around = begin_epoch, partial(_record, runners), end_epoch
    if train([stack], monitor, first.max_epochs, *around, seconds):
        raise KeyboardInterrupt  # half of a search is none
    monitor.restore([m for m, runner in enumerate(runners) if runner.job.error is None])
    for m, runner in enumerate(runners):
        if runner.job.error is None:
            with _errors_kept(runner.job):
                runner.estimator.trained_by_, runner.estimator.trained_by_reason_ = chosen
                _conclude(runner, monitor, m)


def _conclude(runner: _Runner, monitor: Monitor, m: int) -> None:
    estimator, best = runner.estimator, monitor.best
    best_epoch = len(estimator.history) if best is None else int(best.epoch[m])
    estimator.conclude(best_epoch, partial(monitor.held_out_of, m), runner.batches.rows.X)
    runner.task.end()


def _record(runners: list[_Runner], epoch: Epoch) -> None:
    """Write an epoch of a stack into its classifiers' histories."""
    for m, what in epoch.failed.items():
        job = runners[m].job
        job.error = job.estimator.diverged(what, epoch.number)
    (losses,) = epoch.losses
    scores = {"train_loss": epoch.train_loss}
    if epoch.scores is not None:
        scores.update(epoch.scores.named())
    columns = {name: values.tolist() for name, values in scores.items()}
    seconds = epoch.seconds / len(runners)
    for m in np.flatnonzero(epoch.active).tolist():
        batches = losses.batches(m)
        own = {name: values[m] for name, values in columns.items()}
        row = {"batches": batches, "epoch": epoch.number, "train_batch_count": len(batches)}
        tell_time_left(runners[m].estimator, epoch)
        runners[m].record({**row, **own, "dur": seconds})


@contextmanager
def _timed(jobs: Sequence[Job]) -> Iterator[None]:
    """Divide the time that the block takes among jobs."""
    begin = time.perf_counter()
    yield
    share = (time.perf_counter() - begin) / len(jobs)
    for job in jobs:
        job.seconds += share


@contextmanager
def _errors_kept(job: Job) -> Iterator[None]:
    """Keep what the block raises as the job's error, for whoever asked for the fit to raise."""
    try:
        yield
    except Exception as error:
        job.error = error
