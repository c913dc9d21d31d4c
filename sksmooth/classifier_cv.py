"""LabelSmoothingClassifierCV: ε, epoch and calibration chosen on out-of-fold logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.utils import check_random_state, column_or_1d, get_tags, metadata_routing
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.validation import _num_samples, check_is_fitted
from skorch.history import History
from skorch.utils import is_dataset, to_numpy
from torch import Tensor
from torch.utils.data import Subset

from sksmooth._batches import TensorBatches, TensorRows
from sksmooth._fit import MAX_MEMBERS
from sksmooth.classifier import (
    PREDICTION_ROWS,
    LabelSmoothingClassifier,
    PredictsByProbability,
    Session,
    _as_array,
    _is_several_inputs,
    _mend_overflow,
    fill_up,
)
from sksmooth.engine.by_hand import HandNets
from sksmooth.engine.loop import Epoch, train
from sksmooth.engine.monitor import Best, Monitor
from sksmooth.engine.plan import BY_HAND, against_company, against_stacking, plan_stack
from sksmooth.engine.randomness import OwnRandomness, make_generator, single_precision
from sksmooth.engine.stack import InMemoryStack, Losses, Member, Scored, Selection
from sksmooth.engine.threads import threads_for_rows
from sksmooth.modules import SimpleNet, is_plain
from sksmooth.smoothing import check_label_smoothing

# What tells the nets from LabelSmoothingClassifier's, where no estimator does. One net needs width
# and small steps; several that are averaged do as well with less of both, and many are trained.
RECIPE: dict[str, Any] = {
    "module__hidden_layer_sizes": (64, 64),
    "lr": 0.003,
    "patience": 20,
    "max_epochs": 100,
}


class LabelSmoothingClassifierCV(PredictsByProbability, ClassifierMixin, BaseEstimator):
    """A neural classifier that chooses its label smoothing by cross-validation.

    For every ε and every fold a net is trained, all of them in lockstep. After each epoch, the
    logits that each row gets from the nets that did not see it tell the refined loss of each ε.
    At the epoch where that is lowest a calibrator is fitted to those logits, and the ε whose
    calibrated probabilities are then best is chosen. No row is lost to a validation set.

    Parameters
    ----------
    estimator : LabelSmoothingClassifier or None, default=None
        Says what the nets are and how they are trained; None: one with its defaults, but smaller
        nets that learn faster: ``module__hidden_layer_sizes=(64, 64)``, ``lr=0.003``,
        ``max_epochs=100``, ``patience=20``. Of its parameters `label_smoothing`, `random_state`
        and `train_split` are not used. `patience` and `early_stopping` hold for each ε: training
        ends when all are past their patience, and without early stopping the last epoch is taken
        for all.
    label_smoothings : sequence of float, default=(0.0, 0.1, 0.4)
        The values of ε to try, each in [0, 1), all different.
    cv : int, splitter, iterable of splits or None, default=5
        The folds. An int, or None for 5: a stratified KFold, shuffled by `random_state`. Anything
        else as in scikit-learn. Where a row is left out several times, as by a repeated splitter,
        its logits are averaged; rows never left out have no part in the choice.
    ensemble : bool, default=True
        Keep the nets of the folds and average their calibrated probabilities. With False, keep one
        net trained on all rows for the chosen number of epochs: it is trained beside the others.
    random_state : int, RandomState instance or None, default=None
        Seeds the folds and the nets. Nets of one fold have one seed whatever their ε, so that
        nothing but ε tells them apart. torch's global generator is left as it was. None draws a
        seed from numpy's global generator.
    verbose : int, default=0
        Print a line for each epoch, and first of all why the nets are trained one by one, should
        they not be trained in lockstep.
    max_members : int, default=64
        The most nets in one stack; more are split into several, which bounds the memory.

    Attributes
    ----------
    label_smoothing_ : float
        The ε chosen.
    best_epoch_ : int
        The epoch chosen, from 1.
    temperature_ : float or None
        The temperature, with the default calibration that of a row whose logits have the mean norm;
        None where `calibration` is something else.
    calibrator_ : object or None
        The calibrator, fitted to the out-of-fold logits; None without calibration.
    oof_proba_ : ndarray of shape (n_samples, n_classes), float64
        The calibrated probabilities of each row from the nets that did not see it; NaN for rows
        that were never left out, or have no weight.
    oof_log_loss_ : float
        Their log-loss.
    cv_results_ : dict of ndarrays of shape (n,)
        For each ε and epoch a row, as ``pandas.DataFrame`` reads it: `label_smoothing`, `epoch`,
        `refined_loss` and `accuracy` (out-of-fold), `train_loss` (mean over the folds).
    history : skorch.history.History
        The epochs of the chosen ε: `epoch`, `train_loss`, `refined_loss`, `valid_acc`.
    estimators_ : list of LabelSmoothingClassifier
        The fitted nets: of each fold, or the one of all rows.
    trained_by_ : {"by hand", "by autograd", "by skorch"}
        Whose training steps were taken, see LabelSmoothingClassifier.
    trained_by_reason_ : str
        Why.
    alone_because_ : str or None
        Why the nets were trained one by one; None where they were trained in lockstep.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names that are all strings.

    See Also
    --------
    LabelSmoothingClassifier : One net, calibrated on rows that it holds out.
    sksmooth.plotting.SmoothingCurveDisplay : Draws `cv_results_`.

    Notes
    -----
    The nets of a fold that lacks a class still know all classes. Frequencies of classes, for
    ``class_weight="balanced"`` and ``smoothing="prior"``, are those of all rows.

    References
    ----------
    Berta et al. 2025, Rethinking Early Stopping: Refine, Then Calibrate (the refined loss).
    Guo et al. 2017, On Calibration of Modern Neural Networks (temperature scaling).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sksmooth.classifier_cv import LabelSmoothingClassifierCV
    >>> X, y = load_iris(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), LabelSmoothingClassifierCV(random_state=0))
    >>> pipe.fit(X_train, y_train).predict_proba(X_test).shape
    (38, 3)
    >>> bool(pipe.score(X_test, y_test) > 0.9)
    True
    >>> chosen = pipe[-1]
    >>> chosen.label_smoothing_ in chosen.label_smoothings, chosen.oof_proba_.shape
    (True, (112, 3))
    """

    _parameter_constraints: ClassVar[dict] = {
        "estimator": [LabelSmoothingClassifier, None],
        "label_smoothings": ["array-like"],
        "cv": ["cv_object"],
        "ensemble": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "max_members": [Interval(Integral, 1, None, closed="left")],
    }
    # The splitter may want them; the nets do not.
    __metadata_request__fit: ClassVar[dict] = {"groups": metadata_routing.UNUSED}

    def __init__(
        self,
        estimator: LabelSmoothingClassifier | None = None,
        *,
        label_smoothings: Sequence[float] = (0.0, 0.1, 0.4),
        cv: Any = 5,
        ensemble: bool = True,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        max_members: int = MAX_MEMBERS,
    ) -> None:
        self.estimator = estimator
        self.label_smoothings = label_smoothings
        self.cv = cv
        self.ensemble = ensemble
        self.random_state = random_state
        self.verbose = verbose
        self.max_members = max_members

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self._unfitted()).input_tags
        return tags

    def get_metadata_routing(self) -> MetadataRouter:
        """Tell scikit-learn who gets what is passed to ``fit``.

        Returns
        -------
        MetadataRouter
            `sample_weight` is for this estimator, `groups` for the splitter.
        """
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        )

    # -- training -----------------------------------------------------------------------------

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> LabelSmoothingClassifierCV:
        """Train the nets, choose ε and epoch, calibrate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Training rows. Any real dtype; taken to float32.
        y : array-like of shape (n_samples,)
            Labels of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, in training, choice and calibration. A row of weight zero is
            neither trained on nor scored.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows, for a splitter such as ``GroupKFold``.

        Returns
        -------
        LabelSmoothingClassifierCV
            Itself.

        Raises
        ------
        ValueError
            For parameters or data that cannot be trained on, or a loss that turns NaN. The
            estimator is then as it was before the call.
        """
        self._check_parameters()
        net = self._unfitted()
        rows, kept, codes = _check_rows(net, X, y, sample_weight)
        random_state = check_random_state(self.random_state)
        number = np.full(len(codes), -1)  # among the rows that are kept
        number[kept] = np.arange(len(kept))
        splits = [
            _Split.of(train, held_out, number)
            for train, held_out in self._split(X, y, codes, groups, random_state)
        ]
        _check_splits(splits)
        if not self.ensemble:
            splits.append(_Split(np.arange(len(rows)), np.arange(0)))
        training = _Training(net, self.label_smoothings, rows, splits, random_state)
        training.run(self.max_members, self.verbose)
        self._keep(training, kept, len(codes))
        return self

    def _check_parameters(self) -> None:
        validate_parameter_constraints(
            self._parameter_constraints, self.get_params(deep=False), type(self).__name__
        )
        values = list(self.label_smoothings)
        for value in values:
            check_label_smoothing(value)
        if not values or len(set(values)) < len(values):
            raise ValueError(
                "label_smoothings must hold at least one value, and none twice, got "
                f"{self.label_smoothings!r}."
            )
        net = self._unfitted()
        net._check_parameters()
        if net.predict_nonlinearity != "auto":
            raise ValueError(
                f"The estimator's predict_nonlinearity={net.predict_nonlinearity!r} is not used "
                "here; leave it at 'auto' and set calibration."
            )

    def _unfitted(self) -> LabelSmoothingClassifier:
        """Give a net of the kind that is to be trained."""
        if self.estimator is None:
            return LabelSmoothingClassifier(**RECIPE, train_split=None)
        return clone(self.estimator).set_params(train_split=None)

    def _split(
        self, X: Any, y: Any, codes: NDArray, groups: Any, random_state: np.random.RandomState
    ) -> Iterator[tuple[NDArray, NDArray]]:
        """Give the rows to train on and those to leave out, of each fold."""
        seed = random_state.randint(2**31 - 1)
        if self.cv is None or isinstance(self.cv, Integral):
            n_folds = 5 if self.cv is None else int(self.cv)
            stratified = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
            return stratified.split(codes, codes)
        params = {} if groups is None else {"groups": groups}
        if _routing_enabled():
            params = process_routing(self, "fit", **params)["splitter"]["split"]
        return check_cv(self.cv, y, classifier=True).split(X, y, **params)

    def _keep(self, training: _Training, kept: NDArray[np.intp], n_rows: int) -> None:
        """Set the attributes of the fitted estimator."""
        best = training.choose()
        nets = training.trained_nets(best)
        if not self.ensemble:
            nets = nets[-1:]
        logits = training.best.scored.logits[best]
        calibrator = training.calibrate(best)
        for net in nets:
            net.calibrator_ = calibrator
        proba = softmax(logits, 1) if calibrator is None else calibrator.predict_proba(logits)
        oof_proba = np.full((n_rows, proba.shape[1]), np.nan)
        oof_proba[kept[training.left_out]] = proba
        results = training.results()
        fitted = {
            "label_smoothing_": float(training.label_smoothings[best]),
            "best_epoch_": int(training.best.epoch[best]),
            "calibrator_": calibrator,
            "temperature_": getattr(calibrator, "temperature_", None),
            "oof_proba_": oof_proba,
            "oof_log_loss_": float(training.log_loss(proba)),
            "cv_results_": results,
            "history_": _history(results, training.label_smoothings[best]),
            "estimators_": nets,
            "alone_because_": training.alone_because,
            "trained_by_": nets[0].trained_by_,
            "trained_by_reason_": nets[0].trained_by_reason_,
            "classes_": nets[0].classes_,
            "n_features_in_": nets[0].n_features_in_,
        }
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(nets[0], "feature_names_in_"):
            fitted["feature_names_in_"] = nets[0].feature_names_in_
        self.__dict__.update(fitted)

    @property
    def history(self) -> History:
        """The epochs of the chosen ε."""
        if "history_" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no history before fit.")
        return self.history_

    # -- prediction ---------------------------------------------------------------------------

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give calibrated probabilities, the mean of those of the nets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Probabilities, in the order of `classes_`.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        return self._probabilities(self._logits(X))

    def _probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average the nets' probabilities."""
        if self.calibrator_ is None:
            return softmax(logits, axis=-1).mean(axis=0)
        return _of_each(self.calibrator_.predict_proba, logits).mean(axis=0)

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give the logarithm of the calibrated probabilities, finite where those underflow.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Logarithms of the probabilities, in the order of `classes_`.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        logits = self._logits(X)
        if self.calibrator_ is None:
            log_proba = log_softmax(logits, axis=-1)
        elif hasattr(self.calibrator_, "predict_log_proba"):
            with np.errstate(divide="ignore"):  # what underflows is mended below
                log_proba = _of_each(self.calibrator_.predict_log_proba, logits)
        else:
            proba = _of_each(self.calibrator_.predict_proba, logits)
            log_proba = np.log(np.maximum(proba, np.finfo(np.float64).tiny))
        mean = logsumexp(log_proba, axis=0) - np.log(len(logits))
        return np.maximum(mean, np.finfo(np.float64).min)

    def _logits_and_probabilities(self, X: Any) -> tuple[NDArray, NDArray]:
        logits = self._logits(X)
        return logits, self._probabilities(logits)

    def _logits(self, X: Any) -> NDArray[np.float64]:
        """Run rows through each net; of shape (n_nets, n_samples, n_classes)."""
        check_is_fitted(self)
        nets = self.estimators_
        stack = self._stack()
        if stack is None:
            return np.stack([net._logits(X) for net in nets])
        rows = fill_up(nets[0]._check_rows(X).flatten(1))
        at_once = max(1, PREDICTION_ROWS // len(nets))
        outputs = []
        for chunk in rows.split(at_once):
            with threads_for_rows(nets[0].module_, len(chunk), len(nets)):
                on_device = chunk.to(stack.weights[0].device)
                outputs.append(stack.logits(on_device.expand(len(nets), *chunk.shape)))
        logits = to_numpy(torch.cat(outputs, 1)[:, : _num_samples(X)]).astype(np.float64)
        return logits if np.isfinite(logits).all() else _mend_overflow(logits)

    def _stack(self) -> HandNets | None:
        """Give the nets as one stack, where they are SimpleNets; made anew where they changed."""
        modules: list[Any] = [net.module_ for net in self.estimators_]
        if not all(type(module) is SimpleNet for module in modules):
            return None
        version = [
            (id(own), own.data_ptr(), own._version)
            for module in modules
            for layer in module.layers
            for own in layer._parameters.values()
            if own is not None
        ]
        kept, stack = _STACKS.get(self, (None, None))
        if kept != version:
            stack = HandNets.of(modules) if all(map(is_plain, modules)) else None
            _STACKS[self] = version, stack
        return stack


# Of estimators that predict: no part of their state, and in no pickle.
_STACKS: WeakKeyDictionary[LabelSmoothingClassifierCV, tuple[list, HandNets | None]] = (
    WeakKeyDictionary()
)


def _of_each(function: Callable[[NDArray], NDArray], logits: NDArray) -> NDArray[np.float64]:
    """Apply a calibrator's function to the logits of several nets at once."""
    return np.asarray(function(logits.reshape(-1, logits.shape[-1]))).reshape(logits.shape)


def _check_rows(
    net: LabelSmoothingClassifier, X: Any, y: Any, sample_weight: Any
) -> tuple[TensorRows, NDArray[np.intp], NDArray[np.int64]]:
    """Check the training rows.

    Gives those of a weight above 0, their numbers among all rows, and the class indices of all.
    """
    if is_dataset(X) or _is_several_inputs(X) or net.dataset is not TensorRows:
        kind = type(X).__name__ if net.dataset is TensorRows else net.dataset.__name__
        raise ValueError(f"X must be one array, held in the default dataset, got a {kind}.")
    y = _as_array(y)
    rows: Any = net._check_training_data(X, y, sample_weight, net.classes, reset=True)[0]
    labels = column_or_1d(y)
    kept = np.arange(_num_samples(X))
    if len(rows) < len(kept):
        weight: Any = net._weigh_rows(np.empty((len(kept), 1)), labels, sample_weight)
        kept = np.flatnonzero(weight > 0)
    return rows, kept, net._encode(labels)


class _Split(NamedTuple):
    """The rows that the nets of a fold are trained on, and those that they do not see."""

    train: NDArray[np.intp]
    held_out: NDArray[np.intp]

    @classmethod
    def of(cls, train: NDArray, held_out: NDArray, number: NDArray[np.intp]) -> _Split:
        """Make a split of all rows, by their new numbers; those numbered -1 are dropped."""
        train, held_out = (number[part][number[part] >= 0] for part in (train, held_out))
        return cls(train, held_out)


def _check_splits(splits: Sequence[_Split]) -> None:
    if not splits:
        raise ValueError("cv gives no splits.")
    for number, split in enumerate(splits):
        if len(split.train) == 0:
            raise ValueError(f"Fold {number} of cv has no rows of a weight above 0 to train on.")
    if not any(len(split.held_out) for split in splits):
        raise ValueError("cv leaves out no row of a weight above 0, so that ε cannot be chosen.")


class _Training:
    """The nets of all ε and folds, from the first epoch to the choice.

    Parameters
    ----------
    estimator : LabelSmoothingClassifier
        Says what the nets are.
    label_smoothings : sequence of E floats
        The values of ε.
    rows : TensorRows
        The rows, checked.
    splits : sequence of _Splits
        The folds.
    random_state : RandomState
        Draws a seed for each fold.

    Attributes
    ----------
    left_out : ndarray of int
        The rows that at least one fold leaves out: those that are scored.
    y, weight : ndarrays, the second may be None
        Their class indices and weights.
    monitor : Monitor
        Its sets are the ε, each over all folds.
    alone_because : str or None
        Why the nets are not trained in lockstep.
    """

    def __init__(
        self,
        estimator: LabelSmoothingClassifier,
        label_smoothings: Sequence[float],
        rows: TensorRows,
        splits: Sequence[_Split],
        random_state: np.random.RandomState,
    ) -> None:
        self.estimator = estimator
        self.label_smoothings = list(label_smoothings)
        self.rows = rows
        self.splits = splits
        self.seeds = random_state.randint(2**31 - 1, size=len(splits)).tolist()
        self.n_classes = len(rows.learned["classes_inferred_"])
        times = np.bincount(np.concatenate([split.held_out for split in splits]), None, len(rows))
        self.left_out = np.flatnonzero(times)
        self.times = torch.from_numpy(times[self.left_out]).to(torch.float32)[:, None]
        self.y = to_numpy(rows.y)[self.left_out]
        self.weight: NDArray | None = None
        if rows.sample_weight is not None:
            self.weight = to_numpy(rows.sample_weight)[self.left_out].astype(np.float64)
        self.recorded: list[tuple] = []

    def make_net(self, label_smoothing: float, fold: int) -> LabelSmoothingClassifier:
        """Make an untrained net."""
        params: dict[str, Any] = {"random_state": self.seeds[fold]}
        net = clone(self.estimator).set_params(label_smoothing=label_smoothing, **params)
        net.prepare(self.rows, None, None)
        return net

    def run(self, max_members: int, verbose: int) -> None:
        """Train the nets until every ε is past its patience."""
        self.stacks = self._make_stacks(max_members)
        if verbose and self.alone_because is not None:
            print(f"Not trained in lockstep: {self.alone_because}.")
        estimator = self.estimator
        self.monitor = Monitor(
            self.stacks,
            [np.asarray(stack.values) for stack in self.stacks],
            estimator.patience if estimator.early_stopping else None,
            self._collect,
        )

        def begin_epoch() -> None:
            for stack in self.stacks:
                stack.begin_epoch()

        def end_epoch(epoch: Epoch) -> None:
            self._record(epoch)
            if verbose:
                self._print_epoch(epoch.number)
            for stack, losses in zip(self.stacks, epoch.losses, strict=True):
                stack.end_epoch(epoch.number, losses)

        with ExitStack() as contexts, single_precision():
            for stack in self.stacks:
                contexts.enter_context(stack.in_training())
            train(self.stacks, self.monitor, estimator.max_epochs, begin_epoch, end_epoch)

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
        self.alone_because = folds[0].reason_against_stacking(self.n_classes)
        if self.alone_because is not None:
            return [_Alone(self, pair, folds[pair[1]]) for pair in pairs]
        stacks: list[Any] = []
        for n_batches in sorted({fold.n_batches for fold in folds}):
            alike = [(value, k) for value, k in pairs if folds[k].n_batches == n_batches]
            for chosen in np.array_split(alike, -(-len(alike) // max_members)):
                if len(chosen) == 1:
                    (pair,) = chosen.tolist()
                    stacks.append(_Alone(self, pair, folds[pair[1]]))
                else:
                    stacks.append(_Together(self, chosen.tolist(), folds))
        return stacks

    def _collect(self, stacks: Sequence[Any]) -> Scored:
        """Give the out-of-fold logits of each ε."""
        n_values, n_left_out = len(self.label_smoothings), len(self.left_out)
        logits = torch.zeros(n_values * n_left_out, self.n_classes)
        for stack in stacks:
            scored = stack.score()
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
        columns = (epoch.scores.refined_loss, epoch.scores.accuracy, epoch.train_loss)
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
        if self.estimator.calibration is None:
            return None
        self.first.best_epoch_ = int(self.best.epoch[value])
        logits = self.best.scored.logits[value]
        return self.first.fit_calibrator(logits, self.y, self.weight, warn=warn)

    def choose(self) -> int:
        """Give the number of the ε whose calibrated out-of-fold probabilities are best."""
        if self.estimator.calibration is None or len(self.best.loss) == 1:
            return int(np.argmin(self.best.loss))
        losses = [
            # A warning is for the ε that is chosen.
            self.log_loss(self.calibrate(value, warn=False).predict_proba(logits))
            for value, logits in enumerate(self.best.scored.logits)
        ]
        return int(np.argmin(losses))

    def log_loss(self, proba: NDArray) -> float:
        """Give the log-loss of out-of-fold probabilities."""
        labels = np.arange(self.n_classes)
        return log_loss(self.y, proba, sample_weight=self.weight, labels=labels)

    def _print_epoch(self, number: int) -> None:
        losses = [
            f"ε={self.label_smoothings[value]:g} {loss:.4f}"
            for value, epoch, loss, *_ in self.recorded
            if epoch == number
        ]
        print(f"epoch {number:>3}, refined loss:  " + "  ".join(losses))

    def results(self) -> dict[str, NDArray]:
        """Give the scores of each ε and epoch, one row after the other."""
        names = ("label_smoothing", "epoch", "refined_loss", "accuracy", "train_loss")
        columns: list[Any] = list(zip(*sorted(self.recorded), strict=True))
        columns[0] = [self.label_smoothings[value] for value in columns[0]]
        return {name: np.array(column) for name, column in zip(names, columns, strict=True)}

    def trained_nets(self, value: int) -> list[LabelSmoothingClassifier]:
        """Give the nets of the ε with that number, of each fold, as at its best epoch."""
        self.monitor.restore([value])
        by_fold = {
            fold: net
            for stack in self.stacks
            for (own, fold), net in zip(stack.pairs, stack.nets, strict=True)
            if own == value
        }
        nets = [by_fold[fold] for fold in sorted(by_fold)]
        for net in nets:
            net.label_smoothing = self.label_smoothings[value]
            net.set_smoothing()
            net.best_epoch_ = int(self.best.epoch[value])
            net.refuse_infinite_parameters()
        return nets


class _Fold(NamedTuple):
    """A split, ready for training.

    Parameters
    ----------
    net : LabelSmoothingClassifier
        Untrained.
    seed : int
        Seeds the order of the rows, and dropout.
    batches : iterable
        The batches to train on.
    held_out : ndarray of int
        The rows left out.
    scored : tensor of int64
        Those of them that are run through the net: all, or each of several equal ones once.
    place : tensor of int64
        Where among these each row left out is.
    """

    net: LabelSmoothingClassifier
    seed: int
    batches: Any
    held_out: NDArray[np.intp]
    scored: Tensor
    place: Tensor

    @classmethod
    def of(cls, net: LabelSmoothingClassifier, split: _Split, rows: TensorRows) -> _Fold:
        """Make the rows of a split ready."""
        seed = net.draw_seed()
        with OwnRandomness(seed):
            batches = net.get_iterator(_subset(rows, split.train), training=True)
        held_out = split.held_out
        scored, place = held_out, np.arange(len(held_out))
        if isinstance(batches, TensorBatches) and len(batches) == 1:
            # Rows that repeat were merged, so that rounding sees no difference between a row of
            # weight two and two rows. So they are scored once, too.
            X = to_numpy(rows.X.flatten(1))[held_out]
            _, first, group = np.unique(X, axis=0, return_index=True, return_inverse=True)
            scored, place = held_out[first], group.ravel()
        return cls(net, seed, batches, held_out, torch.from_numpy(scored), torch.from_numpy(place))

    @property
    def n_batches(self) -> int:
        return len(self.batches)

    def reason_against_stacking(self, n_classes: int) -> str | None:
        """Tell what keeps the net from being trained in a stack with those of other folds."""
        net = self.net
        reason = against_company(net, {})
        if reason is None and not isinstance(self.batches, TensorBatches):
            reason = "the rows are not in memory"
        if reason is None:
            some_rows = self.batches.rows.X[self.batches.index[:2]]
            parts = (net.module_, net.criterion_, net.optimizer_)
            reason = against_stacking(*parts, some_rows, n_classes)
        return reason


class _Together:
    """A stack of nets of several ε and folds.

    Parameters
    ----------
    training : _Training
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
        self, training: _Training, pairs: list[tuple[int, int]], folds: list[_Fold]
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
        seeds = {(fold.seed, len(fold.batches.index)): fold.seed for fold in own}
        generators = {key: make_generator(seed, device) for key, seed in seeds.items()}
        members = [
            Member(
                fold.net.module_,
                criteria[value],
                Selection(fold.batches.rows, fold.batches.index),
                Selection(training.rows, fold.scored.to(device)) if len(fold.scored) else None,
                generators[fold.seed, len(fold.batches.index)],
            )
            for value, fold in zip(self.values, own, strict=True)
        ]
        self.plan = plan_stack(net, members[0].train)
        self.stack = InMemoryStack(
            members,
            net.optimizer_,
            max(fold.batches.batch_size for fold in own),
            training.n_classes,
            by_hand=self.plan.kind == BY_HAND,
            rows_at_once=net.rows_at_once(),
        )
        for net in self.nets:
            net.trained_by_, net.trained_by_reason_ = self.plan
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

    def __init__(self, training: _Training, pair: tuple[int, int], fold: _Fold) -> None:
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
        self.session.end_epoch(epoch)


def _subset(rows: TensorRows, index: NDArray) -> Subset:
    return Subset(rows, index.tolist())


def _places(
    training: _Training, pairs: Sequence[tuple[int, int]], folds: Sequence[_Fold], n_scored: int
) -> tuple[Tensor, Tensor]:
    """Tell which logits of the rows scored belong to which out-of-fold logits."""
    position = np.zeros(len(training.rows), dtype=np.int64)
    n_left_out = len(training.left_out)
    position[training.left_out] = np.arange(n_left_out)
    source = [m * n_scored + folds[k].place for m, (_, k) in enumerate(pairs)]
    target = [value * n_left_out + position[folds[k].held_out] for value, k in pairs]
    return torch.cat(source), torch.from_numpy(np.concatenate(target))


def _history(results: dict[str, NDArray], label_smoothing: float) -> History:
    """Give the epochs of one ε as a net's history."""
    history = History()
    chosen = results["label_smoothing"] == label_smoothing
    names = {"epoch": "epoch", "train_loss": "train_loss", "refined_loss": "refined_loss"}
    names["valid_acc"] = "accuracy"
    columns = [results[name][chosen].tolist() for name in names.values()]
    for row in zip(*columns, strict=True):
        history.new_epoch()
        for name, value in zip(names, row, strict=True):
            history.record(name, value)
    return history
