"""Fits many classifiers at once: in lockstep where they can be, else one by one."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import PrintLog
from skorch.utils import to_numpy

from sksmooth.batches import TensorRows, make_batches, rows_in_memory
from sksmooth.calibration import refine
from sksmooth.classifier import PRIOR_STRENGTH, REFINING_TOLERANCE, LabelSmoothingClassifier
from sksmooth.engine.threads import threads_for
from sksmooth.lockstep import Lockstep, Member, Part, reason_against_stacking
from sksmooth.modules import SimpleNet

# What classifiers may differ in and still be trained in one stack.
MAY_DIFFER = ("class_weight", "label_smoothing", "random_state", "smoothing")

# The most nets in one stack: beyond, a step takes as long for each net more.
MAX_MEMBERS = 64


@dataclass
class Job:
    """A classifier that is to be fitted, and what became of it.

    Parameters
    ----------
    estimator : LabelSmoothingClassifier
        Fitted in place.
    X, y : array-like
        Its training rows. Jobs that are given the same objects share one checked copy.
    fit_params : dict
        Further arguments of its ``fit``.

    Attributes
    ----------
    seconds : float
        Its share of the time taken.
    error : Exception or None
        What its ``fit`` raised.
    alone_because : str or None
        Why it was fitted by itself; None where it was trained in lockstep.
    """

    estimator: LabelSmoothingClassifier
    X: Any
    y: Any
    fit_params: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: Exception | None = None
    alone_because: str | None = None


def fit_together(
    jobs: Sequence[Job],
    *,
    max_members: int = MAX_MEMBERS,
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Fit classifiers, with the results of fitting each by itself.

    Parameters
    ----------
    jobs : sequence of Jobs
        The classifiers. One that cannot be fitted has its `error` set; the others go on.
    max_members : int, default=64
        The most nets in one stack.
    on_epoch : callable, default=None
        Called after every epoch of a stack, with the number of nets in it.

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
    checked: dict[tuple[int, int], TensorRows] = {}
    reasons: dict[Hashable, str | None] = {}
    runners: dict[Hashable, list[_Runner]] = {}
    for job in jobs:
        job.alone_because = reason_to_go_alone(job)
        if job.alone_because is None:
            with _timed([job]), _errors_kept(job):
                runner = _Runner(job, checked)
                kind = runner.kind()
                if kind not in reasons:
                    reasons[kind] = runner.reason_to_go_alone()
                job.alone_because = reasons[kind]
                runners.setdefault(kind, []).append(runner)
    for kind, alike in runners.items():
        if reasons[kind] is None:
            _run_stacks(alike, max_members, on_epoch)
    for job in jobs:
        if job.alone_because is not None and job.error is None:
            with _timed([job]), _errors_kept(job):
                job.estimator.fit(job.X, job.y, **job.fit_params)


def reason_to_go_alone(job: Job) -> str | None:
    """Tell what in a classifier's parameters keeps it from being trained in a stack.

    Parameters
    ----------
    job : Job
        The classifier and the arguments of its ``fit``.

    Returns
    -------
    str or None
        The reason; None where there is none.

    Examples
    --------
    >>> from sksmooth import LabelSmoothingClassifier
    >>> reason_to_go_alone(Job(LabelSmoothingClassifier(warm_start=True), [], []))
    'warm_start is set'
    """
    estimator = job.estimator
    if type(estimator) is not LabelSmoothingClassifier:
        return f"{type(estimator).__name__} is not LabelSmoothingClassifier itself"
    names = estimator.get_params(deep=False)
    reasons = {
        "callbacks are set": bool(estimator.callbacks)
        or any(name.startswith("callbacks__") for name in names),
        "compile is set": bool(estimator.compile),
        "warm_start is set": bool(estimator.warm_start),
        "a dataset is set": estimator.dataset is not TensorRows,
        "an iterator is set": estimator.iterator_train is not make_batches
        or estimator.iterator_valid is not make_batches
        or any(name.startswith("iterator_train__") for name in names),
        "arguments of forward are given": bool(set(job.fit_params) - {"sample_weight"}),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def divide(jobs: Sequence[Job], n_tasks: int) -> list[NDArray[np.int64]]:
    """Part jobs into groups that can be fitted at the same time, each by :func:`fit_together`.

    Classifiers that might be trained in one stack stay together, where there are other groups
    enough.

    Parameters
    ----------
    jobs : sequence of Jobs
        The classifiers. Where neighbours have rows in common, so do groups.
    n_tasks : int
        How many are fitted at the same time: no fewer groups are made, where there are jobs enough.

    Returns
    -------
    list of ndarrays of int64
        The positions in `jobs` of each group's members.

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
        alone = reason_to_go_alone(job) is not None
        kinds.setdefault(number if alone else _common_params(job.estimator), []).append(number)
    groups = []
    for alike in kinds.values():
        n_groups = -(-len(alike) * n_tasks // len(jobs))
        groups.extend(np.array_split(np.asarray(alike), min(n_groups, len(alike))))
    return groups


def params_key(params: Mapping[str, Any]) -> Hashable:
    """Give a key that parameters have in common where they are equal.

    Parameters
    ----------
    params : dict
        Parameters by name.

    Returns
    -------
    hashable
        The key. What cannot be pickled equals itself only.

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

    def __init__(self, job: Job, checked: dict[tuple[int, int], TensorRows]) -> None:
        self.job = job
        self.estimator = job.estimator
        sample_weight = job.fit_params.get("sample_weight")
        is_shared = all(
            value is None
            for value in (sample_weight, self.estimator.class_weight, self.estimator.classes)
        )
        key = (id(job.X), id(job.y))
        X = checked.get(key, job.X) if is_shared else job.X
        prepared: Any = self.estimator._prepare(X, job.y, sample_weight)
        rows, codes = prepared
        self.reason: str | None = None
        if not isinstance(rows, TensorRows):
            self.reason = "X is a torch Dataset"
            return
        if is_shared:
            checked[key] = rows
        generator = torch.Generator().manual_seed(self.estimator._draw_seed())
        train, held_out = self.estimator.get_split_datasets(rows, codes)
        if any(rows_in_memory(part)[0] is None for part in (train, held_out) if part is not None):
            self.reason = "train_split gives another torch Dataset"
            return
        self.datasets = {"dataset_train": train, "dataset_valid": held_out}
        batches: Any = self.estimator.get_iterator(train, training=True)
        self.batches = batches
        self.member = Member.of(
            self.estimator.module_,
            self.estimator.criterion_,
            # Where all rows are in one batch, those that repeat were merged.
            batches.rows if len(batches) == 1 else train,
            held_out,
            generator,
        )

    def reason_to_go_alone(self) -> str | None:
        """Tell what in the classifier's parts keeps its kind from being trained in a stack."""
        if self.reason is None:
            estimator = self.estimator
            parts = (estimator.module_, estimator.criterion_, estimator.optimizer_)
            self.reason = reason_against_stacking(*parts, self.member.train)
            if self.reason is None and _draws_random_numbers(estimator.module_, self.member.train):
                self.reason = "the module draws random numbers by itself, as dropout does"
        return self.reason

    def kind(self) -> Hashable:
        """Give what is the same for all that can be trained in one stack."""
        if self.reason is not None:
            return self.reason
        shapes = tuple(parameter.shape for parameter in self.estimator.module_.parameters())
        n_classes = len(self.estimator.classes_inferred_)
        others = (shapes, n_classes, len(self.batches), self.member.held_out is None)
        return _common_params(self.estimator), others

    def begin(self) -> None:
        """Do what comes before the first epoch."""
        estimator = self.estimator
        estimator.notify("on_train_begin", X=self.member.train.rows.X, y=self.member.train.rows.y)

    def record(self, row: dict[str, Any]) -> None:
        """Record an epoch in the history, and print it where that was asked for."""
        self.estimator.history.append(row)
        if self.estimator.verbose:
            for _, callback in self.estimator.callbacks_:
                if isinstance(callback, PrintLog):
                    callback.on_epoch_end(self.estimator)


def _draws_random_numbers(module: torch.nn.Module, train: Part) -> bool:
    """Tell whether a module's training draws on torch's global generator.

    In a stack its numbers would not be those that it draws alone. SimpleNet's dropout is drawn
    from each member's own generator.
    """
    if type(module) is SimpleNet:
        return False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        module.train()
        module(train.rows.X[train.chosen[:2]])
        return not torch.equal(before, torch.get_rng_state())


def _run_stacks(
    runners: list[_Runner], max_members: int, on_epoch: Callable[[int], None] | None
) -> None:
    """Train nets of one kind, in as few stacks as hold them."""
    n_stacks = -(-len(runners) // max_members)
    for stack in np.array_split(np.arange(len(runners)), n_stacks):
        members = [runners[number] for number in stack]
        with _timed([runner.job for runner in members]):
            _run(members, on_epoch)


def _run(runners: list[_Runner], on_epoch: Callable[[int], None] | None) -> None:
    """Train a stack: the epochs, early stopping, calibration."""
    first = runners[0].estimator
    for runner in runners:
        runner.begin()
    # All rows at once are of different numbers, in folds of unequal size.
    batch_size = max(runner.batches.batch_size for runner in runners)
    n_classes = len(first.classes_inferred_)
    with threads_for(first.module_, batch_size, n_nets=len(runners)):
        lockstep = Lockstep(
            [runner.member for runner in runners], first.optimizer_, batch_size, n_classes
        )
        training = _Training(lockstep, runners)
        with suppress(KeyboardInterrupt):
            for _ in range(first.max_epochs):
                training.run_epoch()
                if on_epoch is not None:
                    on_epoch(len(runners))
                if not training.active.any():
                    break
        training.finish()


class _Training:
    """The epochs of a stack, and which of its members are still in training."""

    def __init__(self, lockstep: Lockstep, runners: list[_Runner]) -> None:
        self.lockstep = lockstep
        self.runners = runners
        self.estimator = runners[0].estimator
        n_members = len(runners)
        self.active = np.ones(n_members, dtype=bool)
        self.n_epochs = 0
        self.best_epoch = np.zeros(n_members, dtype=int)
        self.best_loss = np.full(n_members, np.inf)
        self.best = [parameter.clone() for parameter in lockstep.stack.parameters]
        self.inverse_temperature: Any = None
        self.best_scores: dict[str, np.ndarray] = {}

    def run_epoch(self) -> None:
        """Train the members by one epoch; record what those still in training did."""
        begin = time.perf_counter()
        epoch = self.lockstep.run_epoch()
        self.n_epochs += 1
        scores = {"train_loss": epoch.mean_losses().numpy()}
        self._stop(~np.isfinite(scores["train_loss"]), "The training loss turned NaN or infinite")
        if self.lockstep.held_out is not None:
            scores.update(self._score_held_out())
        seconds = (time.perf_counter() - begin) / len(self.runners)
        columns = {name: values.tolist() for name, values in scores.items()}
        columns.update(self._flag_best(scores))
        losses, sizes = epoch.losses.tolist(), epoch.sizes.tolist()
        for m in np.flatnonzero(self.active):
            batches = [
                {"train_loss": loss, "train_batch_size": size}
                for loss, size in zip(losses[m], sizes[m], strict=True)
            ]
            own = {name: values[m] for name, values in columns.items()}
            row = {"batches": batches, "epoch": self.n_epochs, "train_batch_count": len(batches)}
            self.runners[m].record({**row, **own, "dur": seconds})
        if "refined_loss" in scores:
            self._look_for_best(scores["refined_loss"])

    def _flag_best(self, scores: dict[str, np.ndarray]) -> dict[str, list[bool]]:
        """Tell which scores are their member's best so far, as BestFlag does for one net."""
        flags = {}
        for name, values in scores.items():
            cost = -values if name == "valid_acc" else values
            best = self.best_scores.get(name, np.full(len(cost), np.inf))
            flags[f"{name}_best"] = (cost < best).tolist()
            self.best_scores[name] = np.fmin(cost, best)
        return flags

    def _score_held_out(self) -> dict[str, np.ndarray]:
        logits, y, loss = map(to_numpy, self.lockstep.score_held_out())
        is_finite = np.isfinite(logits).all(axis=(1, 2))
        self._stop(~is_finite, "The logits of held-out rows turned infinite or NaN")
        weight = self.lockstep.held_out_weight
        weight = None if weight is None else to_numpy(weight)
        refined = refine(
            np.where(is_finite[:, None, None], logits, 0.0),
            y,
            weight,
            prior_strength=PRIOR_STRENGTH,
            start=self.inverse_temperature,
            tolerance=REFINING_TOLERANCE,
        )
        self.inverse_temperature = refined.inverse_temperature
        accuracy = np.average(logits.argmax(-1) == y, axis=1, weights=weight)
        return {"valid_loss": loss, "valid_acc": accuracy, "refined_loss": refined.log_loss}

    def _look_for_best(self, refined_loss: np.ndarray) -> None:
        """Keep the parameters of members at their best epoch; stop those past their patience."""
        improved = self.active & (refined_loss < self.best_loss)
        self.best_loss[improved] = refined_loss[improved]
        self.best_epoch[improved] = self.n_epochs
        if not self.estimator.early_stopping:
            return
        chosen = torch.from_numpy(np.flatnonzero(improved))
        for best, parameter in zip(self.best, self.lockstep.stack.parameters, strict=True):
            best[chosen] = parameter[chosen]
        self.active &= self.n_epochs - self.best_epoch < self.estimator.patience

    def _stop(self, failed: np.ndarray, what: str) -> None:
        """Give up on members whose numbers are no longer finite."""
        for m in np.flatnonzero(self.active & failed):
            estimator = self.runners[m].estimator
            estimator.history.new_epoch()
            self.runners[m].job.error = estimator._diverged(what)
        self.active &= ~failed

    def finish(self) -> None:
        """Give every member the parameters of its best epoch, and calibrate it."""
        stops_early = self.estimator.early_stopping and self.lockstep.held_out is not None
        parameters = self.best if stops_early else self.lockstep.stack.parameters
        for m, runner in enumerate(self.runners):
            if runner.job.error is None:
                with _errors_kept(runner.job):
                    self.lockstep.write_back(m, parameters)
                    runner.estimator._finish(
                        runner.datasets["dataset_valid"],
                        int(self.best_epoch[m]) if stops_early else self.n_epochs,
                    )


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
