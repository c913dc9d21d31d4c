"""LabelSmoothingClassifierCV: ε, epoch and calibration chosen on out-of-fold logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
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

from sksmooth.batches import TensorRows, merge_repeated
from sksmooth.calibration import refine
from sksmooth.classifier import (
    PREDICTION_ROWS,
    PRIOR_STRENGTH,
    REFINING_TOLERANCE,
    BestEpoch,
    LabelSmoothingClassifier,
    PredictsByProbability,
    _as_array,
    _is_several_inputs,
    _mend_overflow,
)
from sksmooth.engine.threads import threads_for
from sksmooth.lockstep import (
    GATHERED_ENTRIES,
    Lockstep,
    Member,
    Part,
    StackedModules,
    StackedNets,
    _pad,
    _take,
    reason_against_stacking,
)
from sksmooth.modules import SimpleNet
from sksmooth.smoothing import check_label_smoothing
from sksmooth.together import MAX_MEMBERS, Job, reason_to_go_alone

# Matrix products of fewer rows are summed in another order: with that many at least, the
# probabilities of a row do not depend on the rows that are predicted with it.
FEWEST_ROWS = 16

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
        logits = training.best_logits[best]
        calibrator = training.calibrate(best)
        for net in nets:
            net.calibrator_ = calibrator
        proba = softmax(logits, 1) if calibrator is None else calibrator.predict_proba(logits)
        oof_proba = np.full((n_rows, proba.shape[1]), np.nan)
        oof_proba[kept[training.left_out]] = proba
        results = training.results()
        fitted = {
            "label_smoothing_": float(training.label_smoothings[best]),
            "best_epoch_": int(training.best_epoch[best]),
            "calibrator_": calibrator,
            "temperature_": getattr(calibrator, "temperature_", None),
            "oof_proba_": oof_proba,
            "oof_log_loss_": float(training.log_loss(proba)),
            "cv_results_": results,
            "history_": _history(results, training.label_smoothings[best]),
            "estimators_": nets,
            "alone_because_": training.alone_because,
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
        if self.alone_because_ is not None:
            return np.stack([net._logits(X) for net in nets])
        modules: list[Any] = [net.module_ for net in nets]
        rows = nets[0]._check_rows(X)
        if type(modules[0]) is SimpleNet:
            stack: Any = StackedNets.of(modules)
            rows = rows.flatten(1)
        else:
            stack = StackedModules(modules)
        missing = FEWEST_ROWS - len(rows)
        padded = (
            torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])]) if missing > 0 else rows
        )
        outputs = [
            stack.logits(chunk.expand(len(nets), *chunk.shape))
            for chunk in padded.split(max(FEWEST_ROWS, PREDICTION_ROWS // len(nets)))
        ]
        logits = to_numpy(torch.cat(outputs, 1)[:, : len(rows)]).astype(np.float64)
        return logits if np.isfinite(logits).all() else _mend_overflow(logits)


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
    n_epochs : int
        Epochs trained so far.
    best_epoch, best_loss : ndarrays of shape (E,)
        The epoch of each ε with the lowest refined loss, and that loss.
    best_logits : ndarray of shape (E, n_left_out, K)
        The out-of-fold logits of that epoch.
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
        self.weight = None
        if rows.sample_weight is not None:
            self.weight = to_numpy(rows.sample_weight)[self.left_out].astype(np.float64)
        n_values = len(self.label_smoothings)
        self.n_epochs = 0
        self.active = np.ones(n_values, dtype=bool)
        self.best_epoch = np.zeros(n_values, dtype=int)
        self.best_loss = np.full(n_values, np.inf)
        self.best_logits: NDArray = np.empty(0)
        self.inverse_temperature = np.ones(n_values)
        self.recorded: list[tuple] = []

    def make_net(self, label_smoothing: float, fold: int) -> LabelSmoothingClassifier:
        """Make an untrained net."""
        params: dict[str, Any] = {"random_state": self.seeds[fold]}
        net = clone(self.estimator).set_params(label_smoothing=label_smoothing, **params)
        net._prepare(self.rows, None, None)
        return net

    def run(self, max_members: int, verbose: int) -> None:
        """Train the nets until every ε is past its patience."""
        self.stacks = self._make_stacks(max_members)
        if verbose and self.alone_because is not None:
            print(f"Not trained in lockstep: {self.alone_because}.")
        with ExitStack() as contexts, suppress(KeyboardInterrupt):
            for stack in self.stacks:
                contexts.enter_context(stack.in_training())
            for _ in range(self.estimator.max_epochs):
                self._run_epoch()
                if verbose:
                    self._print_epoch()
                if not self.active.any():
                    break
        if self.n_epochs == 0:
            raise KeyboardInterrupt

    def _make_stacks(self, max_members: int) -> list[Any]:
        """Put the nets in stacks; one by one where they cannot be stacked."""
        first = self.label_smoothings[0]
        folds = [
            _Fold.of(self.make_net(first, number), split, self.rows)
            for number, split in enumerate(self.splits)
        ]
        pairs = [
            (value, k) for value in range(len(self.label_smoothings)) for k in range(len(folds))
        ]
        net = self.first = folds[0].net
        self.alone_because = _reason_against_stacking(net, folds[0].train)
        if self.alone_because is not None:
            return [_Alone(self, pair, folds[pair[1]]) for pair in pairs]
        criteria = []
        for label_smoothing in self.label_smoothings:
            net.label_smoothing = label_smoothing
            criteria.append(net.initialize_criterion().criterion_)
        stacks = []
        for n_batches in sorted({fold.n_batches for fold in folds}):
            alike = [(value, k) for value, k in pairs if folds[k].n_batches == n_batches]
            for chosen in np.array_split(alike, -(-len(alike) // max_members)):
                stacks.append(_Stack(self, chosen.tolist(), folds, criteria))
        return stacks

    def _run_epoch(self) -> None:
        """Train every net by one epoch; look whether that was the best one of its ε."""
        n_values = len(self.label_smoothings)
        train_loss = np.zeros(n_values)
        logits = torch.zeros(n_values * len(self.left_out), self.n_classes)
        for stack in self.stacks:
            train_loss += np.bincount(stack.values, stack.run_epoch(), n_values)
            scored = stack.score_held_out().index_select(0, stack.source)
            logits.index_add_(0, stack.target, scored)
        self.n_epochs += 1
        logits = logits.view(n_values, len(self.left_out), self.n_classes) / self.times
        self._look_for_best(train_loss / len(self.splits), logits.numpy())

    def _look_for_best(self, train_loss: NDArray, logits: NDArray) -> None:
        active = np.flatnonzero(self.active)
        own = logits[active]
        finite = np.isfinite(train_loss[active]) & np.isfinite(own).all((1, 2))
        if not finite.all():
            for _ in range(len(self.first.history), self.n_epochs):
                self.first.history.new_epoch()
            label_smoothing = self.label_smoothings[active[np.argmin(finite)]]
            raise self.first._diverged(f"The loss of {label_smoothing=} turned NaN or infinite")
        n_rows = (len(active), len(self.left_out))
        refined = refine(
            own,
            np.broadcast_to(self.y, n_rows),
            None if self.weight is None else np.broadcast_to(self.weight, n_rows),
            prior_strength=PRIOR_STRENGTH,
            start=None if self.n_epochs == 1 else self.inverse_temperature[active],
            tolerance=REFINING_TOLERANCE,
        )
        self.inverse_temperature[active] = refined.inverse_temperature
        accuracy = np.average(own.argmax(-1) == self.y, axis=1, weights=self.weight)
        scores = zip(active, refined.log_loss, accuracy, train_loss[active], strict=True)
        self.recorded += [(value, self.n_epochs, *scored) for value, *scored in scores]
        self._keep_best(active, refined.log_loss, logits)

    def _keep_best(self, active: NDArray, loss: NDArray, logits: NDArray) -> None:
        """Keep what belongs to the best epoch of each ε, or to the last one."""
        stops_early = self.estimator.early_stopping
        is_best = np.full(len(loss), True) if not stops_early else loss < self.best_loss[active]
        best = active[is_best]
        self.best_epoch[best] = self.n_epochs
        self.best_loss[best] = loss[is_best]
        if self.n_epochs == 1:
            self.best_logits = logits.copy()
        self.best_logits[best] = logits[best]
        if stops_early:
            for stack in self.stacks:
                stack.keep(best)
            self.active &= self.n_epochs - self.best_epoch < self.estimator.patience

    def calibrate(self, value: int) -> Any:
        """Give the calibrator of the out-of-fold logits of the ε with that number, or None."""
        if self.estimator.calibration is None:
            return None
        return self.first._fit_calibrator(self.best_logits[value], self.y, self.weight)

    def choose(self) -> int:
        """Give the number of the ε whose calibrated out-of-fold probabilities are best."""
        if self.estimator.calibration is None or len(self.best_loss) == 1:
            return int(np.argmin(self.best_loss))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is told of the ε chosen
            losses = [
                self.log_loss(self.calibrate(value).predict_proba(logits))
                for value, logits in enumerate(self.best_logits)
            ]
        return int(np.argmin(losses))

    def log_loss(self, proba: NDArray) -> float:
        """Give the log-loss of out-of-fold probabilities."""
        labels = np.arange(self.n_classes)
        return log_loss(self.y, proba, sample_weight=self.weight, labels=labels)

    def _print_epoch(self) -> None:
        losses = [
            f"ε={self.label_smoothings[value]:g} {loss:.4f}"
            for value, epoch, loss, *_ in self.recorded
            if epoch == self.n_epochs
        ]
        print(f"epoch {self.n_epochs:>3}, refined loss:  " + "  ".join(losses))

    def results(self) -> dict[str, NDArray]:
        """Give the scores of each ε and epoch, one row after the other."""
        names = ("label_smoothing", "epoch", "refined_loss", "accuracy", "train_loss")
        columns: list[Any] = list(zip(*sorted(self.recorded), strict=True))
        columns[0] = [self.label_smoothings[value] for value in columns[0]]
        return {name: np.array(column) for name, column in zip(names, columns, strict=True)}

    def trained_nets(self, value: int) -> list[LabelSmoothingClassifier]:
        """Give the nets of the ε with that number, of each fold, as at its best epoch."""
        by_fold = {fold: net for stack in self.stacks for fold, net in stack.trained_nets(value)}
        nets = [by_fold[fold] for fold in sorted(by_fold)]
        for net in nets:
            net.label_smoothing = self.label_smoothings[value]
            net._set_smoothing()
            net.best_epoch_ = int(self.best_epoch[value])
            net._refuse_infinite_parameters()
        return nets


def _reason_against_stacking(net: LabelSmoothingClassifier, train: Part) -> str | None:
    reason = reason_to_go_alone(Job(net, None, None))
    if reason is None:
        reason = reason_against_stacking(net.module_, net.criterion_, net.optimizer_, train)
    return reason


class _Fold(NamedTuple):
    """A split, ready for training.

    Parameters
    ----------
    net : LabelSmoothingClassifier
        Untrained.
    seed : int
        Seeds the order of the rows, and dropout.
    train : Part
        The rows to train on.
    batch_size, n_batches : int
        Rows of a batch, batches of an epoch.
    held_out : ndarray of int
        The rows left out.
    scored : tensor of int64
        Those of them that are run through the net: all, or each of several equal ones once.
    place : tensor of int64
        Where among these each row left out is.
    """

    net: LabelSmoothingClassifier
    seed: int
    train: Part
    batch_size: int
    n_batches: int
    held_out: NDArray[np.intp]
    scored: Tensor
    place: Tensor

    @classmethod
    def of(cls, net: LabelSmoothingClassifier, split: _Split, rows: TensorRows) -> _Fold:
        """Make the rows of a split ready."""
        n_rows = len(split.train)
        batch_size = n_rows if net.batch_size == -1 else net.batch_size
        chosen = torch.from_numpy(split.train).to(rows.X.device)
        train = Part(rows, chosen)
        scored = torch.from_numpy(split.held_out)
        place = torch.arange(len(scored))
        if n_rows <= batch_size:
            # As in LabelSmoothingClassifier: rounding is to see no difference between a row of
            # weight two and two rows. So they are scored once, too.
            train = Part.of(merge_repeated(rows.take(chosen)))
            X = to_numpy(rows.X.flatten(1))[split.held_out]
            _, first, group = np.unique(X, axis=0, return_index=True, return_inverse=True)
            scored, place = scored[first], torch.from_numpy(group.ravel())
        n_batches = -(-n_rows // batch_size)
        seed = net._draw_seed()
        return cls(net, seed, train, batch_size, n_batches, split.held_out, scored, place)


class _Stack:
    """Nets that are trained in lockstep.

    Parameters
    ----------
    training : _Training
        To which they belong.
    pairs : list of (int, int)
        The numbers of each net's ε and fold.
    folds : list of _Folds
        All folds.
    criteria : list of torch criteria
        Of each ε.

    Attributes
    ----------
    values : list of int
        The number of each net's ε.
    source, target : tensors of int64
        Which rows of :meth:`score_held_out` belong to which out-of-fold logits, those of all ε
        being one after the other.
    """

    def __init__(
        self,
        training: _Training,
        pairs: list[tuple[int, int]],
        folds: list[_Fold],
        criteria: list[torch.nn.Module],
    ) -> None:
        self.pairs = pairs
        self.values = [value for value, _ in pairs]
        own = [folds[k] for _, k in pairs]
        self.nets = [fold.net for fold in own]
        members = [
            Member(
                fold.net.module_,
                criteria[value],
                fold.train,
                None,
                torch.Generator().manual_seed(fold.seed),
            )
            for value, fold in zip(self.values, own, strict=True)
        ]
        batch_size = max(fold.batch_size for fold in own)
        optimizer = own[0].net.optimizer_
        self.lockstep = Lockstep(members, optimizer, batch_size, training.n_classes)
        self.is_simple = isinstance(self.lockstep.stack, StackedNets)
        self.X = training.rows.X.flatten(1) if self.is_simple else training.rows.X
        widths = self.nets[0].module_.hidden_layer_sizes if self.is_simple else ()
        self.widest = max([self.X[0].numel(), *widths])
        nowhere = torch.zeros(1, dtype=torch.int64)  # of the nets that see all rows
        self.scored, _ = _pad([fold.scored if len(fold.scored) else nowhere for fold in own])
        self.source, self.target = _places(training, pairs, folds, self.scored.shape[1])
        self.best: list[Tensor] | None = None

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Do what holds during training."""
        with threads_for(self.nets[0].module_, self.lockstep.batch_size, len(self.nets)):
            yield

    def run_epoch(self) -> NDArray[np.float64]:
        """Train every net by one pass over its rows; give the mean losses."""
        # The dropout of SimpleNets has generators of its own.
        with nullcontext() if self.is_simple else self.nets[0]._torch_seeded():
            return self.lockstep.run_epoch().mean_losses().numpy()

    @torch.no_grad()
    def score_held_out(self) -> Tensor:
        """Give the logits of the rows held out, those of one net after those of another."""
        at_once = max(1, GATHERED_ENTRIES // (len(self.nets) * self.widest))
        logits = self.lockstep.stack.logits
        parts = [logits(_take(self.X, index)) for index in self.scored.split(at_once, 1)]
        return torch.cat(parts, 1).flatten(0, 1)

    def keep(self, values: NDArray) -> None:
        """Keep the parameters that the nets of some ε have now."""
        parameters = self.lockstep.stack.parameters
        if self.best is None:
            self.best = [parameter.clone() for parameter in parameters]
        chosen = torch.from_numpy(np.flatnonzero(np.isin(self.values, values)))
        for best, parameter in zip(self.best, parameters, strict=True):
            best[chosen] = parameter[chosen]

    def trained_nets(self, value: int) -> Iterator[tuple[int, LabelSmoothingClassifier]]:
        """Give fold and net of one ε, with the parameters kept or else the last ones."""
        parameters = self.lockstep.stack.parameters if self.best is None else self.best
        for m, (own, fold) in enumerate(self.pairs):
            if own == value:
                self.lockstep.write_back(m, parameters)
                yield fold, self.nets[m]


class _Alone:
    """A net that cannot be stacked. It has the methods and attributes of :class:`_Stack`."""

    def __init__(self, training: _Training, pair: tuple[int, int], fold: _Fold) -> None:
        value, number = pair
        self.values, self.fold = [value], number
        self.net = training.make_net(training.label_smoothings[value], number)
        self.rows, self.n_classes = training.rows, training.n_classes
        self.scored = fold.scored
        self.source, self.target = _places(training, [(value, 0)], [fold], max(1, len(self.scored)))
        split = training.splits[number]
        parts: list[Any] = [Subset(self.rows, part.tolist()) for part in split]
        self.datasets = parts[0], parts[1] if len(split.held_out) else None
        self.best: BestEpoch | None = None

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Let the net find its rows, and its callbacks hear of the training."""
        net = self.net
        names = set(vars(net))
        net._speaks_codes = True
        net.train_split = lambda *_, **__: self.datasets
        try:
            net.notify("on_train_begin", X=self.rows.X, y=self.rows.y)
            yield
            net.notify("on_train_end", X=self.rows.X, y=self.rows.y)
        finally:
            net.train_split = None
            for name in set(vars(net)) - names:
                if name.startswith("_"):  # known in training only
                    delattr(net, name)

    def run_epoch(self) -> list[float]:
        """Train the net by one pass over its rows."""
        with self.net._torch_seeded():
            self.net.fit_loop(self.rows, epochs=1)
        return [self.net.history[-1]["train_loss"]]

    def score_held_out(self) -> Tensor:
        """Give the logits of the rows held out."""
        net = self.net
        outputs = [
            net._read_logits(net.evaluation_step((self.rows.X[index], None))).cpu().float()
            for index in self.scored.split(PREDICTION_ROWS)
            if len(index)
        ]
        return torch.cat(outputs) if outputs else torch.empty(0, self.n_classes)

    def keep(self, values: NDArray) -> None:
        """Keep the parameters that the net has now, if it is of one of these ε."""
        if self.values[0] in values:
            self.best = BestEpoch(patience=1)
            self.best.update(len(self.net.history), 0.0, self.net._trained_state())

    def trained_nets(self, value: int) -> Iterator[tuple[int, LabelSmoothingClassifier]]:
        """Give fold and net, with the parameters kept or else the last ones."""
        if self.values[0] == value:
            if self.best is not None:
                self.best.restore(self.net._trained_state())
            yield self.fold, self.net


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
