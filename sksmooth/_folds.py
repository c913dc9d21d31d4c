"""The nets of all ε, encodings and folds of a cross-validation, trained side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import log_loss
from skorch.utils import to_numpy
from torch import Tensor
from torch.utils.data import Subset

from sksmooth._batches import TensorBatches, TensorRows
from sksmooth._callbacks import FitTask
from sksmooth._checks import naming, warn_user
from sksmooth._predict import KnownProbabilities, probabilities
from sksmooth._private import index_method_params, split_rows
from sksmooth._rows import Table
from sksmooth._session import Session, as_clock, show
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.encoding import Encoding
from sksmooth.engine.loop import Epoch, train
from sksmooth.engine.monitor import Best, Monitor
from sksmooth.engine.plan import (
    BY_HAND,
    against_company,
    against_differences,
    against_stacking,
    choose_patience,
    plan_stack,
    rows_to_try,
)
from sksmooth.engine.randomness import OwnRandomness, shared_generators, single_precision
from sksmooth.engine.stack import (
    InMemoryStack,
    Losses,
    Member,
    Scored,
    Selection,
    members_that_pay,
)
from sksmooth.engine.threads import limit_threads


class Split(NamedTuple):
    """The rows that the nets of a fold are trained on, and those that they do not see."""

    train: NDArray[np.intp]
    held_out: NDArray[np.intp]

    @classmethod
    def of(cls, given: Any, number: NDArray[np.intp]) -> Split:
        """Make a split of all rows, by their new numbers; those numbered -1 are dropped."""
        try:
            train, held_out = (_renumbered(part, number) for part in given)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(
                "cv must give pairs (train, test) of 1-D arrays that number rows below "
                f"{len(number)}, got {given!r}: {error}."
            ) from error
        return cls(train, held_out)


def _renumbered(part: Any, number: NDArray[np.intp]) -> NDArray[np.intp]:
    chosen = number[np.asarray(part, dtype=None if len(part) else np.intp)]
    if chosen.ndim != 1:
        raise ValueError(f"there are {chosen.ndim} dimensions")
    return chosen[chosen >= 0]


class RowScorer(NamedTuple):
    """A scorer of scikit-learn's kind, and what ``fit`` was given for it."""

    scorer: Callable[..., Any]
    X: Any
    params: dict[str, Any]  # a value a row

    def take(self, estimator: Any, numbers: NDArray[np.intp]) -> RowScorer:
        """Give the scorer of some of the rows; of all, without a copy."""
        if len(numbers) == len(self.X):
            return self
        X, _ = split_rows(estimator, self.X, None, numbers)
        params = index_method_params(self.X, self.params, numbers)
        return self._replace(X=X, params=params)


def check_splits(splits: Sequence[Split]) -> None:
    if not splits:
        raise ValueError("cv gives no splits.")
    for number, split in enumerate(splits):
        if len(split.train) == 0:
            raise ValueError(f"Fold {number} of cv has no rows of a weight above 0 to train on.")
        both = np.intersect1d(split.train, split.held_out)
        if len(both):
            raise ValueError(
                f"Fold {number} of cv trains on {len(both)} of the rows that it leaves out; "
                "calibration needs rows that the net has not seen."
            )
    if not any(len(split.held_out) for split in splits):
        raise ValueError("cv leaves out no row of a weight above 0, so that ε cannot be chosen.")


# Of the rows that are left out, whose class their nets did not train on.
MOST_UNSEEN = 0.1


def warn_of_unseen_classes(splits: Sequence[Split], y: NDArray[np.int64], classes: NDArray) -> None:
    """Warn of splits that leave out whole classes, as those of rows in the order of labels do."""
    unseen = [
        y[own.held_out][np.isin(y[own.held_out], y[own.train], invert=True)] for own in splits
    ]
    codes = np.concatenate(unseen)
    n_rows = sum(len(own.held_out) for own in splits)
    if len(codes) > MOST_UNSEEN * n_rows:
        example = classes.tolist()[codes[0]]
        warn_user(
            f"cv: {len(codes)} of the {n_rows} rows left out are of a class that their nets do not "
            f"train on, such as {example!r}. Rows in the order of their labels are "
            "to be shuffled: cv=5, or StratifiedKFold(shuffle=True)."
        )


class FoldsTraining:
    """The nets of all ε, encodings and folds, from the first epoch to the choice.

    A row's out-of-fold logits are the mean of those of all nets that did not see it: of each
    encoding, and of each fold that leaves it out. "Fold" here is a fold of one encoding.

    Parameters
    ----------
    estimator : LabelSmoothingClassifier
        Says what the nets are.
    label_smoothings : sequence of float
        The values of ε.
    encodings : sequence of Encodings or None
        How the nets see the numbers.
    table : Table
        The rows, checked.
    splits : sequence of Splits
        The folds.
    random_state : RandomState
        Draws a seed for each fold.
    scorer : RowScorer, default=None
        Of which ε and epoch are the best; None: the log-loss.

    Attributes
    ----------
    left_out : ndarray of int
        The rows that at least one fold leaves out: those that are scored.
    y, weight : ndarrays, the second may be None
        Their class indices and weights.
    monitor : Monitor
        Its sets are the ε, each over all folds.
    running : list of stacks
        Those whose nets are trained in the epoch at hand.
    alone_because : str or None
        Why the nets are not trained in lockstep.
    """

    def __init__(
        self,
        estimator: LabelSmoothingClassifier,
        label_smoothings: Sequence[float],
        encodings: Sequence[Encoding | None],
        table: Table,
        splits: Sequence[Split],
        random_state: np.random.RandomState,
        scorer: RowScorer | None = None,
    ) -> None:
        self.estimator = estimator
        self.label_smoothings = list(label_smoothings)
        self.table = table
        self.rows = rows = cast(TensorRows, table.rows)
        folds = [(encoding, split) for encoding in encodings for split in splits]
        self.encodings, self.splits = zip(*folds, strict=True)
        splits = self.splits
        self.seeds = random_state.randint(2**31 - 1, size=len(splits)).tolist()
        self.n_classes = len(table.classes)
        times = np.bincount(np.concatenate([split.held_out for split in splits]), None, len(rows))
        self.left_out = np.flatnonzero(times)
        self.times = torch.from_numpy(times[self.left_out]).to(torch.float32)[:, None]
        self.y = to_numpy(rows.y)[self.left_out]
        self.weight: NDArray | None = None
        if rows.sample_weight is not None:
            self.weight = to_numpy(rows.sample_weight)[self.left_out].astype(np.float64)
        self.scorer: RowScorer | None = None
        if scorer is not None:
            kept = table.kept
            numbers = self.left_out if kept is None else kept[self.left_out]
            self.scorer = scorer.take(estimator, numbers)
        self.recorded: list[tuple] = []
        self.running: list[Any] = []

    def make_net(self, label_smoothing: float, fold: int) -> LabelSmoothingClassifier:
        """Make an untrained net."""
        params: dict[str, Any] = {"random_state": self.seeds[fold]}
        encoding = self.encodings[fold]
        if encoding is not None or hasattr(self.estimator, "module__encoding"):
            params["module__encoding"] = encoding
        net = clone(self.estimator).set_params(label_smoothing=label_smoothing, **params)
        net.prepare(self.table)
        return net

    def run(
        self, max_members: int, verbose: int, task: FitTask, learned: Callable[[], dict[str, Any]]
    ) -> None:
        """Train the nets until every ε is past its patience, or callbacks say so.

        `learned` gives the attributes that the ensemble would have if training ended now.
        """
        self.stacks = self._make_stacks(max_members)
        if verbose and self.alone_because is not None:
            show(f"Not trained in lockstep: {self.alone_because}.")
        estimator = self.estimator
        self.monitor = Monitor(
            self.stacks,
            [np.asarray(stack.values) for stack in self.stacks],
            choose_patience(estimator, self.rows),
            lambda stacks: self._collect(),
            None if self.scorer is None else self._cost_of_epoch,
        )

        def begin_epoch() -> None:
            numbers = range(len(self.stacks))
            self.running = [self.stacks[own] for own in numbers if not self.monitor.is_done(own)]
            for stack in self.running:
                stack.begin_epoch()
            task.begin_epoch()

        def end_epoch(epoch: Epoch) -> None:
            if verbose:
                self._print_epoch(epoch)
            for stack, losses in zip(self.stacks, epoch.losses, strict=True):
                if stack in self.running:
                    stack.end_epoch(epoch.number, losses)
            if task.end_epoch(learned):
                self.monitor.stop()

        with ExitStack() as contexts, single_precision():
            for stack in self.stacks:
                contexts.enter_context(stack.in_training())
            epochs, seconds = estimator.max_epochs, estimator.max_time
            train(self.stacks, self.monitor, epochs, begin_epoch, self._record, end_epoch, seconds)

    def _make_stacks(self, max_members: int) -> list[Any]:
        """Put the nets in stacks; one by one where they cannot be stacked."""
        n_values, n_folds = len(self.label_smoothings), len(self.splits)
        first = self.label_smoothings[0]
        folds = [
            _Fold.of(self.make_net(first, number), split, self.rows)
            for number, split in enumerate(self.splits)
        ]
        pairs = [(value, k) for value in range(n_values) for k in range(n_folds)]
        self.first = folds[0].net
        self.alone_because = _reason_against_stacking(folds)
        if self.alone_because is not None:
            return [_Alone(self, pair, folds[pair[1]]) for pair in pairs]
        stacks: list[Any] = []
        kinds = [(fold.batches.division, id(self.encodings[k])) for k, fold in enumerate(folds)]
        for kind in dict.fromkeys(kinds):
            alike = [(value, k) for value, k in pairs if kinds[k] == kind]
            at_once = members_that_pay(folds[alike[0][1]].net.module_, max_members)
            for chosen in np.array_split(alike, -(-len(alike) // at_once)):
                if len(chosen) == 1:
                    (pair,) = chosen.tolist()
                    stacks.append(_Alone(self, pair, folds[pair[1]]))
                else:
                    stacks.append(_Together(self, chosen.tolist(), folds))
        return stacks

    def _collect(self) -> Scored:
        """Give the out-of-fold logits of each ε that is still trained for."""
        n_values, n_left_out = len(self.label_smoothings), len(self.left_out)
        scores = [stack.score() for stack in self.running]
        with limit_threads(0.0):  # to copy is too little work for more
            logits = self.times.new_zeros(n_values * n_left_out, self.n_classes)
            for stack, scored in zip(self.running, scores, strict=True):
                if scored is not None:
                    own = torch.from_numpy(scored.logits).flatten(0, 1)
                    logits.index_add_(0, stack.target, own.index_select(0, stack.source))
            logits = logits.view(n_values, n_left_out, self.n_classes) / self.times
        everywhere = (n_values, n_left_out)
        weight = self.weight
        return Scored(
            logits.numpy(),
            np.broadcast_to(self.y, everywhere),
            None if weight is None else np.broadcast_to(weight, everywhere),
            [n_left_out] * n_values,
            weight is not None,
        )

    def _record(self, epoch: Epoch) -> None:
        for value in epoch.failed:
            label_smoothing = self.label_smoothings[value]
            what = f"The loss of {label_smoothing=} turned NaN or infinite"
            raise self.first.diverged(what, epoch.number)
        assert epoch.scores is not None
        scores = epoch.scores
        columns = (scores.refined_loss, scores.accuracy, epoch.train_loss, -scores.cost)
        self.recorded += [
            (int(value), epoch.number, *(column[value] for column in columns))
            for value in np.flatnonzero(epoch.active)
        ]

    @property
    def best(self) -> Best:
        """The best epoch of each ε."""
        assert self.monitor.best is not None
        return self.monitor.best

    def calibrate(self, value: int, *, warn: bool = True) -> Any:
        """Give the calibrator of the out-of-fold logits of the ε with that number, or None."""
        self.first.best_epoch_ = int(self.best.epoch[value])
        logits = self.best.scored.logits[value]
        return self.first.fit_calibrator(logits, self.y, self.weight, warn=warn)

    def choose(self) -> int:
        """Give the number of the first ε whose calibrated out-of-fold probabilities are best."""
        is_refined = self.scorer is None and self.estimator.calibration is None
        if len(self.best.loss) == 1 or is_refined:
            return int(np.argmin(self.best.loss))
        costs = []
        for value, logits in enumerate(self.best.scored.logits):
            # A warning is for the ε that is chosen.
            calibrator = self.calibrate(value, warn=False)
            proba = probabilities(logits.astype(np.float64), calibrator)
            costs.append(self.log_loss(proba) if self.scorer is None else self._cost(proba))
        if self.scorer is not None and not np.isfinite(costs).any():
            raise ValueError(f"scoring={self.scorer.scorer!r} gave no finite number for any ε.")
        return int(np.nanargmin(costs))

    def _cost_of_epoch(self, logits: NDArray, inverse_temperature: float) -> float:
        """Give the scorer's cost of out-of-fold logits, refined if they are to be calibrated."""
        beta = 1.0 if self.estimator.calibration is None else inverse_temperature
        return self._cost(probabilities(beta * logits.astype(np.float64), None))

    def _cost(self, proba: NDArray) -> float:
        """Give what the scorer says of out-of-fold probabilities, the lower the better."""
        assert self.scorer is not None
        labels, rows = self.table.classes, self.scorer.X
        known = KnownProbabilities(labels, proba, rows)
        score = self.scorer.scorer(known, rows, labels[self.y], **self.scorer.params)
        with naming("scoring"):
            return -float(score)

    def log_loss(self, proba: NDArray) -> float:
        """Give the log-loss of out-of-fold probabilities."""
        weight, class_weight = self.weight, self.table.class_weight
        if self.estimator.calibration_weight == "unweighted" and class_weight is not None:
            weight = weight / class_weight[self.y]
        return log_loss(self.y, proba, sample_weight=weight, labels=np.arange(self.n_classes))

    def _print_epoch(self, epoch: Epoch) -> None:
        losses = [
            f"ε={self.label_smoothings[value]:g} {loss:.4f}"
            for value, number, loss, *_ in self.recorded
            if number == epoch.number
        ]
        assert epoch.left is not None
        left = as_clock(epoch.left)
        show(f"epoch {epoch.number:>3}, refined loss:  {'  '.join(losses)}, at most {left} left")

    def results(self) -> dict[str, NDArray]:
        """Give the scores of each ε and epoch, one row after the other."""
        names = ["label_smoothing", "epoch", "refined_loss", "accuracy", "train_loss", "score"]
        columns: list[Any] = list(zip(*sorted(self.recorded), strict=True))
        columns[0] = [self.label_smoothings[value] for value in columns[0]]
        results = {name: np.array(column) for name, column in zip(names, columns, strict=True)}
        if self.scorer is None:  # it is the refined loss, negative
            del results["score"]
        return results

    def trained_nets(self, value: int) -> list[LabelSmoothingClassifier]:
        """Give the nets of the ε with that number, of each fold, as at its best epoch."""
        self.monitor.restore([value])
        return self._finished(value, self._nets_of(value))

    def nets_so_far(self, value: int) -> list[LabelSmoothingClassifier]:
        """Give copies of the nets of an ε as they would be if training ended now."""
        with self.monitor.restored(value):
            nets = [copy.copy(net) for net in self._nets_of(value)]
        return self._finished(value, nets)

    def _nets_of(self, value: int) -> list[LabelSmoothingClassifier]:
        by_fold = {
            fold: net
            for stack in self.stacks
            for (own, fold), net in zip(stack.pairs, stack.nets, strict=True)
            if own == value
        }
        return [by_fold[fold] for fold in sorted(by_fold)]

    def _finished(
        self, value: int, nets: list[LabelSmoothingClassifier]
    ) -> list[LabelSmoothingClassifier]:
        for net in nets:
            net.label_smoothing = self.label_smoothings[value]
            net.set_smoothing()
            net.best_epoch_ = int(self.best.epoch[value])
            net.refuse_overflow(self.rows.X)
        return nets


class _Fold(NamedTuple):
    """A split, ready for training."""

    net: LabelSmoothingClassifier  # untrained
    seed: int  # of the order of the rows, and of dropout
    batches: Any  # to train on
    held_out: NDArray[np.intp]  # the rows left out
    scored: Tensor  # those of them run through the net: all, or each of several equal ones once
    place: Tensor  # where among these each row left out is

    @classmethod
    def of(cls, net: LabelSmoothingClassifier, split: Split, rows: TensorRows) -> _Fold:
        """Make the rows of a split ready."""
        seed = net.draw_seed()
        with OwnRandomness(seed):
            batches = net.get_iterator(_subset(rows, split.train), training=True)
        held_out = split.held_out
        scored, place = held_out, np.arange(len(held_out))
        if isinstance(batches, TensorBatches) and batches.is_merged:  # so they are scored once, too
            X = to_numpy(rows.X.flatten(1))[held_out]
            _, first, group = np.unique(X, axis=0, return_index=True, return_inverse=True)
            scored, place = held_out[first], group.ravel()
        return cls(net, seed, batches, held_out, torch.from_numpy(scored), torch.from_numpy(place))


def _reason_against_stacking(folds: Sequence[_Fold]) -> str | None:
    """Tell what keeps the nets of folds from being trained in a stack."""
    net, batches = folds[0].net, folds[0].batches
    reason = against_company(net, {})
    if reason is not None:
        return reason
    if not isinstance(batches, TensorBatches):
        return "the rows are not in memory"
    rows = rows_to_try(net, batches)
    reason = against_stacking(net, rows)
    by_encoding: dict[int, list[torch.nn.Module]] = {}
    for fold in folds:
        encoding = fold.net.learned_.get("encoding")
        by_encoding.setdefault(id(encoding), []).append(fold.net.module_)
    for modules in by_encoding.values():
        reason = reason or against_differences(modules, rows)
    return reason


class _Together:
    """A stack of nets of several ε and folds.

    Parameters
    ----------
    training : FoldsTraining
        To which they belong.
    pairs : list of (int, int)
        The numbers of each net's ε and fold.
    folds : list of _Folds
        All folds.

    Attributes
    ----------
    values : list of int
        The number of each net's ε.
    nets : list of LabelSmoothingClassifier
        Of each pair; those of a fold are the same one, since they begin alike.
    source, target : tensors of int64
        Which of the logits scored belong to which out-of-fold logits, those of all ε being one
        after the other.
    """

    def __init__(
        self, training: FoldsTraining, pairs: list[tuple[int, int]], folds: list[_Fold]
    ) -> None:
        self.pairs = pairs
        self.values = [value for value, _ in pairs]
        own = [folds[k] for _, k in pairs]
        self.nets = [fold.net for fold in own]
        net = self.nets[0]
        criteria = {}
        for value in sorted(set(self.values)):
            net.label_smoothing = training.label_smoothings[value]
            criteria[value] = net.initialize_criterion().criterion_
        device = training.rows.X.device
        generator = shared_generators(device)
        members = [
            Member(
                fold.net.module_,
                criteria[value],
                Selection.of_batches(fold.batches),
                Selection(training.rows, fold.scored.to(device)) if len(fold.scored) else None,
                generator(fold.seed, len(fold.batches.index)),
            )
            for value, fold in zip(self.values, own, strict=True)
        ]
        chosen = plan_stack(net, training.rows.X)
        batches = [fold.batches for fold in own]
        self.stack = InMemoryStack.of(net, members, batches, by_hand=chosen.kind == BY_HAND)
        for net in self.nets:
            net.trained_by_, net.trained_by_reason_ = chosen
        self.n_members = len(pairs)
        self.run_epoch, self.score = self.stack.run_epoch, self.stack.score
        self.state, self.write_back = self.stack.state, self.stack.write_back
        n_scored = max(len(fold.scored) for fold in own)
        self.source, self.target = _places(training, pairs, folds, n_scored)

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Do nothing: no callback hears of these nets' training."""
        yield

    def begin_epoch(self) -> None:
        """Do nothing."""

    def end_epoch(self, number: int, losses: Losses) -> None:
        """Do nothing."""


class _Alone:
    """A net that is trained by itself. It has the methods and attributes of :class:`_Together`."""

    n_members = 1

    def __init__(self, training: FoldsTraining, pair: tuple[int, int], fold: _Fold) -> None:
        value, number = pair
        self.pairs, self.values = [pair], [value]
        self.rows = training.rows
        self.net = net = training.make_net(training.label_smoothings[value], number)
        self.nets = [net]
        self.randomness = OwnRandomness(net.draw_seed())
        train_rows = _subset(self.rows, training.splits[number].train)
        held_out = _subset(self.rows, fold.scored.numpy()) if len(fold.scored) else None
        self.datasets = train_rows, held_out
        self.scored: Scored | None = None
        self.source, self.target = _places(training, [(value, 0)], [fold], len(fold.scored))

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Let callbacks hear of the training."""
        with self.net.in_training():
            self.net.notify("on_train_begin", X=self.rows.X, y=self.rows.y)
            self.session = Session(self.net, *self.datasets, self.randomness, {})
            self.stack = self.session.stack
            self.run_epoch = self.stack.run_epoch
            self.state, self.write_back = self.stack.state, self.stack.write_back
            self.monitor = Monitor([self.stack], collect=lambda stacks: self.scored)
            yield
            self.net.notify("on_train_end", X=self.rows.X, y=self.rows.y)

    def begin_epoch(self) -> None:
        self.session.begin_epoch()

    def score(self) -> Scored | None:
        """Score the rows held out."""
        self.scored = self.stack.score()
        return self.scored

    def end_epoch(self, number: int, losses: Losses) -> None:
        """Record the epoch in the net's history."""
        train_loss, scores = self.monitor.look([losses])
        active = np.array([True])
        epoch = Epoch(number, [losses], train_loss, scores, active, self.monitor.failed, 0.0)
        self.session.record_epoch(epoch)
        self.session.end_epoch()


def _subset(rows: TensorRows, index: NDArray) -> Subset:
    return Subset(rows, index.tolist())


def _places(
    training: FoldsTraining, pairs: Sequence[tuple[int, int]], folds: Sequence[_Fold], n_scored: int
) -> tuple[Tensor, Tensor]:
    """Tell which logits of the rows scored belong to which out-of-fold logits."""
    position = np.zeros(len(training.rows), dtype=np.int64)
    n_left_out = len(training.left_out)
    position[training.left_out] = np.arange(n_left_out)
    source = [m * n_scored + folds[k].place for m, (_, k) in enumerate(pairs)]
    target = [value * n_left_out + position[folds[k].held_out] for value, k in pairs]
    return torch.cat(source), torch.from_numpy(np.concatenate(target))
