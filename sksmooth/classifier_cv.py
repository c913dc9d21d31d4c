"""LabelSmoothingClassifierCV: ε, epoch and calibration chosen on out-of-fold logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce, wraps
from inspect import signature
from numbers import Integral
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, get_tags, metadata_routing
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted
from skorch.history import History

from sksmooth._batches import TensorRows
from sksmooth._callbacks import heard, is_heard
from sksmooth._checks import naming, nearest, warn_user
from sksmooth._copies import Copies
from sksmooth._fit import MAX_MEMBERS
from sksmooth._folds import (
    FoldsTraining,
    RowScorer,
    Split,
    check_splits,
    warn_of_unseen_classes,
)
from sksmooth._params import SYNONYMS, check_constraints
from sksmooth._pool import pool_of
from sksmooth._predict import (
    PredictsByProbability,
    finite_log,
    log_probabilities,
    mend_overflow,
    probabilities,
    warn_of_probabilities,
)
from sksmooth._private import (
    CallbackSupportMixin,
    Interval,
    InvalidParameterError,
    StrOptions,
    index_method_params,
    routing_enabled,
)
from sksmooth._rows import (
    Table,
    as_array,
    check_new_rows,
    check_rows,
    is_several_inputs,
    refuse_dataset,
)
from sksmooth._versions import Stamped
from sksmooth.calibration import weights_of_rows
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.encoding import Encoding, PiecewiseLinear, check_encoding
from sksmooth.engine.plan import overrides
from sksmooth.engine.randomness import fits_anywhere, works_anywhere
from sksmooth.metrics import point_to_scorers
from sksmooth.modules import SimpleNet
from sksmooth.smoothing import check_label_smoothing

# What tells the nets from LabelSmoothingClassifier's, where no estimator does. One net needs width
# and small steps; several that are averaged do as well with less of both, and many are trained.
RECIPE: dict[str, Any] = {
    "module__hidden_layer_sizes": (64, 64),
    "lr": 0.003,
    "patience": 20,
    "max_epochs": 100,
}

# Two more views of the numbers, whose nets err elsewhere than those of the numbers as they are, and
# the most numbers of a row that they may make of it.
ENCODINGS_OF_RECIPE = (PiecewiseLinear(n_knots=3), PiecewiseLinear(n_knots=9))
MOST_INPUTS = 1000


# What other libraries call a parameter of ours.
_SYNONYMS = {"epsilons": "label_smoothings", "folds": "cv", "n_folds": "cv", "n_splits": "cv"}

P = ParamSpec("P")
R = TypeVar("R")


def _check_all_different(name: str, values: Any, check: Callable[[Any], Any]) -> None:
    """Check each of a parameter's values, of which there is one at least, and none twice."""
    with naming(name):
        checked = [repr(check(value)) for value in values]
        if not checked or len(set(checked)) < len(checked):
            raise ValueError(f"{name} must hold at least one, and none twice, got {values!r}.")


def _explaining_unknown(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method say where arguments belong that it does not have."""
    own = list(signature(method).parameters)[1:]

    @wraps(method)
    def explaining(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs.keys() - set(own):
            raise TypeError(_where_it_belongs(method.__name__, name, kwargs[name], own))
        return method(*args, **kwargs)

    return explaining


def _where_it_belongs(method: str, name: str, value: Any, own: list[str]) -> str:
    """Give the message for an argument that the class, or its ``fit``, does not have."""
    message = f"LabelSmoothingClassifierCV has no parameter {name!r} (got {name}={value!r})"
    if method == "fit":
        message = f"LabelSmoothingClassifierCV.fit has no argument {name!r}"
    of_net = SYNONYMS.get(name, name)
    if name in signature(LabelSmoothingClassifierCV).parameters:
        return f"{message}; it is the constructor's: LabelSmoothingClassifierCV({name}={value!r})."
    if of_net == "label_smoothing":
        return f"{message}; give the values to try, label_smoothings=({value!r},)."
    if of_net == "train_split":  # of nets alone
        return f"{message}. Did you mean 'cv'?"
    if of_net in LabelSmoothingClassifier().get_params(deep=False) or "__" in of_net:
        return (
            f"{message}; it is one of its nets: "
            f"estimator=LabelSmoothingClassifier({of_net}={value!r})."
        )
    near = f" Did you mean {_SYNONYMS[name]!r}?" if name in _SYNONYMS else nearest(name, own)
    return f"{message}.{near}"


class LabelSmoothingClassifierCV(
    Stamped, PredictsByProbability, CallbackSupportMixin, ClassifierMixin, BaseEstimator
):
    """A neural classifier that chooses its label smoothing by cross-validation.

    For every ε, encoding of the numbers and fold a net is trained, all of them in lockstep. After
    each epoch, the mean of the logits that each row gets from the nets that did not see it tells
    the refined loss of each ε. At the epoch where that is lowest a calibrator is fitted to those
    logits, and the ε whose calibrated probabilities are then best is chosen. No row is lost to a
    validation set.

    .. versionadded:: 0.2.0

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
    encodings : "auto" or sequence, default="auto"
        How nets see the numbers, as SimpleNet's `encoding`: None, "piecewise_linear", "periodic",
        a :class:`~sksmooth.PiecewiseLinear` or a :class:`~sksmooth.Periodic`. Nets of all of them
        are trained, and pooled. "auto": the numbers as they are, beside 3 and beside 9 hat
        functions of each (PiecewiseLinear); only as they are where that would give more than 1,000
        numbers a row, and where `estimator` has another module, or an encoding of its own.
    cv : int, splitter, iterable of splits or None, default=5
        The folds. An int, or None for 5: a stratified KFold, shuffled by `random_state`. Anything
        else as in scikit-learn. Where a row is left out several times, as by a repeated splitter,
        its logits are averaged; rows never left out have no part in the choice.
    scoring : str, callable or None, default=None
        What ε and epoch are chosen by, of the calibrated out-of-fold probabilities: a scorer of
        scikit-learn's or one of its kind, such as "roc_auc_ovr"; the higher, the better. It is
        given the rows, and `sample_weight` if it takes that, but no `class_weight`. After an epoch,
        the temperature of the refined loss calibrates them; among epochs that score alike, that
        loss decides. None: the log-loss.
    ensemble : bool, default=True
        Keep the nets of the folds. With False, keep one net of each encoding, trained on all rows
        for the chosen number of epochs: it is trained beside the others.
    random_state : int, RandomState instance or None, default=None
        Seeds the folds and the nets. Nets of one fold have one seed whatever their ε, so that
        nothing but ε tells them apart. torch's global generator is left as it was. None draws a
        seed from numpy's global generator.
    verbose : int, default=0
        Print a line for each epoch, with the time (h:mm:ss) that those up to `max_epochs` and
        `max_time` take at most, and first of all why the nets are trained one by one, should they
        not be trained in lockstep.
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
        `refined_loss` and `accuracy` (out-of-fold), `train_loss` (mean over the folds), and with
        `scoring` `score`, which the epoch is chosen by.
    history : skorch.history.History
        The epochs of the chosen ε: `epoch`, `train_loss`, `refined_loss`, `valid_acc`.
    estimators_ : list of LabelSmoothingClassifier
        The fitted nets: of each fold, or the one of all rows; those of each encoding come one after
        the other. ``estimators_[0].module_.encoding`` is that of the first.
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
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where X had names that are all strings.

    See Also
    --------
    LabelSmoothingClassifier : One net, calibrated on rows that it holds out.
    sksmooth.SmoothingCurveDisplay : Draws `cv_results_`.

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
        "encodings": ["array-like", StrOptions({"auto"})],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "ensemble": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "max_members": [Interval(Integral, 1, None, closed="left")],
    }
    # The splitter may want them; the nets do not.
    __metadata_request__fit: ClassVar[dict] = {"groups": metadata_routing.UNUSED}

    @_explaining_unknown
    def __init__(
        self,
        estimator: LabelSmoothingClassifier | None = None,
        *,
        label_smoothings: Sequence[float] = (0.0, 0.1, 0.4),
        encodings: str | Sequence[str | Encoding | None] = "auto",
        cv: Any = 5,
        scoring: str | Callable | None = None,
        ensemble: bool = True,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        max_members: int = MAX_MEMBERS,
    ) -> None:
        self.estimator = estimator
        self.label_smoothings = label_smoothings
        self.encodings = encodings
        self.cv = cv
        self.scoring = scoring
        self.ensemble = ensemble
        self.random_state = random_state
        self.verbose = verbose
        self.max_members = max_members

    def set_params(self, **params: Any) -> LabelSmoothingClassifierCV:
        """Set parameters of this estimator and of its nets.

        Parameters
        ----------
        **params : dict
            Parameters by name; the nets' as ``estimator__lr=0.01``, with the default estimator too.

        Returns
        -------
        LabelSmoothingClassifierCV
            Itself.
        """
        is_nested = any(name.startswith("estimator__") for name in params)
        if is_nested and params.get("estimator", self.estimator) is None:
            params["estimator"] = LabelSmoothingClassifier(**RECIPE)
        return super().set_params(**params)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self._unfitted()).input_tags
        return tags

    def get_metadata_routing(self) -> MetadataRouter:
        """Tell scikit-learn who gets what is passed to ``fit``.

        Returns
        -------
        MetadataRouter
            `sample_weight` is for this estimator and the scorer, `groups` for the splitter.
        """
        calls = {"splitter": (self.cv, "split")}
        if self.scoring is not None:
            calls["scorer"] = (check_scoring(self, self.scoring), "score")
        router = MetadataRouter(owner=self).add_self_request(self)
        for name, (called, method) in calls.items():
            mapping = MethodMapping().add(caller="fit", callee=method)
            router.add(method_mapping=mapping, **{name: called})
        return router

    # -- training -----------------------------------------------------------------------------

    @fits_anywhere
    @_explaining_unknown
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
            Weights of the rows, in training, choice and calibration. A row of weight zero counts
            as missing, but for a splitter given as `cv`, which gets all rows.
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
        before = self.__dict__.copy()
        try:
            self._fit(self._unfitted(), X, y, sample_weight, groups)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _fit(
        self, net: LabelSmoothingClassifier, X: Any, y: Any, sample_weight: Any, groups: Any
    ) -> None:
        table = _check_rows(self, net, X, y, sample_weight)
        encodings = self._choose_encodings(net, table)
        codes: Any = table.all_codes
        kept = np.arange(len(codes)) if table.kept is None else table.kept
        random_state = check_random_state(self.random_state)
        number = np.full(len(codes), -1)  # among the rows that are kept
        number[kept] = np.arange(len(kept))
        with naming("cv"):
            pairs = self._split(X, y, table, kept, groups, random_state)
            splits = [Split.of(pair, number) for pair in pairs]
        check_splits(splits)
        if not isinstance(self.cv, Integral | None):
            warn_of_unseen_classes(splits, codes[kept], table.classes)
        if not self.ensemble:
            splits.append(Split(np.arange(len(kept)), np.arange(0)))
        scorer = None if self.scoring is None else self._scorer_of(X, sample_weight)
        training = FoldsTraining(
            net, self.label_smoothings, encodings, table, splits, random_state, scorer
        )
        with heard(self, X, y, sample_weight, net.max_epochs) as task:
            learned = partial(self._learned, training, is_over=False)
            training.run(self.max_members, self.verbose, task, learned)
            self.__dict__.update(self._learned(training))
            task.end()

    def _check_parameters(self) -> None:
        params = self.get_params(deep=False)
        point_to_scorers(self.scoring)
        if isinstance(self.estimator, Pipeline):
            raise InvalidParameterError(
                f"estimator={self.estimator!r} must be a net alone, without steps before it; put "
                "them around all: make_pipeline(StandardScaler(), LabelSmoothingClassifierCV())."
            )
        check_constraints(self._parameter_constraints, params, type(self).__name__)
        _check_all_different("label_smoothings", self.label_smoothings, check_label_smoothing)
        if not isinstance(self.encodings, str):
            _check_all_different("encodings", self.encodings, check_encoding)
        net = self._unfitted()
        net.check_parameters()
        if is_heard(net):
            raise TypeError(
                "The estimator has scikit-learn's callbacks, which its nets, trained side by side, "
                f"have no fits of their own for; call set_callbacks of {type(self).__name__}."
            )
        if net.predict_nonlinearity != "auto":
            raise ValueError(
                f"The estimator's predict_nonlinearity={net.predict_nonlinearity!r} is not used "
                "here; leave it at 'auto' and set calibration."
            )
        hooks = ("fit", "fit_loop", "predict", "predict_proba")
        own = [name for name in hooks if overrides(net, name)]
        if own:
            warn_user(
                f"{type(self).__name__} does not call {' and '.join(own)} of {type(net).__name__}: "
                "it trains its nets side by side, and pools their logits."
            )

    def _unfitted(self) -> LabelSmoothingClassifier:
        """Give a net of the kind that is to be trained."""
        if self.estimator is None:
            return LabelSmoothingClassifier(**RECIPE, train_split=None)
        return clone(self.estimator).set_params(train_split=None)

    def _split(
        self,
        X: Any,
        y: Any,
        table: Table,
        kept: NDArray[np.intp],
        groups: Any,
        random_state: np.random.RandomState,
    ) -> Iterator[tuple[NDArray, NDArray]]:
        """Give the rows to train on and those to leave out, of each fold."""
        seed = random_state.randint(2**31 - 1)
        if self.cv is None or isinstance(self.cv, Integral):
            n_folds = 5 if self.cv is None else int(self.cv)
            stratified = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
            copies = Copies.among(cast(TensorRows, table.rows))
            y_kept: Any = table.codes
            if copies is not None and np.bincount(y_kept[copies.first]).max() < n_folds:
                copies = None
            drawn = np.arange(len(kept)) if copies is None else copies.first
            given = index_method_params(table.all_codes, {"groups": groups}, kept[drawn])
            folds = stratified.split(drawn, y_kept[drawn], **given)
            if copies is not None:
                folds = (map(copies.rows_of, pair) for pair in folds)
            return ((kept[train], kept[left_out]) for train, left_out in folds)
        params = {} if groups is None else {"groups": groups}
        if routing_enabled():
            params = process_routing(self, "fit", **params)["splitter"]["split"]
        if not hasattr(self.cv, "split"):  # the splits themselves
            return iter(self.cv)
        return self.cv.split(X, y, **params)

    def _scorer_of(self, X: Any, sample_weight: Any) -> RowScorer:
        """Give the scorer with its rows, and their weights if it takes any."""
        scorer = check_scoring(self, self.scoring)
        params = {}
        if sample_weight is not None:
            params = {"sample_weight": weights_of_rows(as_array(sample_weight), X)}
        if routing_enabled():
            params = process_routing(self, "fit", **params)["scorer"]["score"]
        elif "sample_weight" not in signature(scorer).parameters:
            params = {}
        return RowScorer(scorer, as_array(X), params)

    def _choose_encodings(
        self, net: LabelSmoothingClassifier, table: Table
    ) -> list[Encoding | None]:
        """Let the encodings learn from the rows; leave out those that are none on them."""
        if not isinstance(self.encodings, str):
            given = self.encodings
        elif net.module is not SimpleNet or hasattr(net, "module__encoding"):
            given = [getattr(net, "module__encoding", None)]
        else:
            learned = [table.encode(encoding) for encoding in ENCODINGS_OF_RECIPE]
            wider = range(table.n_inputs + 1, MOST_INPUTS + 1)
            return [None, *(own for own in learned if own.n_outputs in wider)]
        checked = [check_encoding(encoding) for encoding in given]
        return [encoding and table.encode(encoding) for encoding in checked]

    def _learned(self, training: FoldsTraining, *, is_over: bool = True) -> dict[str, Any]:
        """Give the attributes of the fitted estimator, or what they would be if it were over."""
        best = training.choose()
        nets = training.trained_nets(best) if is_over else training.nets_so_far(best)
        if not self.ensemble:  # the last split of each encoding holds all rows
            n_splits = len(nets) // len(set(map(id, training.encodings)))
            nets = nets[n_splits - 1 :: n_splits]
        logits = training.best.scored.logits[best]
        calibrator = training.calibrate(best, warn=is_over)
        if is_over:
            warn_of_probabilities(nets[0], logits, training.rows.X)
        for net in nets:
            net.calibrator_ = calibrator
        proba = probabilities(logits.astype(np.float64), calibrator)
        codes: Any = training.table.all_codes
        kept = training.table.kept
        oof_proba = np.full((len(codes), proba.shape[1]), np.nan)
        oof_proba[training.left_out if kept is None else kept[training.left_out]] = proba
        results = training.results()
        return {
            "label_smoothing_": float(training.label_smoothings[best]),
            "best_epoch_": int(training.best.epoch[best]),
            "calibrator_": calibrator,
            "temperature_": getattr(calibrator, "temperature_", None),
            "oof_proba_": oof_proba,
            "oof_log_loss_": float(training.log_loss(proba)),
            "cv_results_": results,
            "estimators_": nets,
            "alone_because_": training.alone_because,
            "trained_by_": nets[0].trained_by_,
            "trained_by_reason_": nets[0].trained_by_reason_,
            "classes_": nets[0].classes_,
        }

    @property
    def history(self) -> History:
        """The epochs of the chosen ε."""
        if "cv_results_" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no history before fit.")
        return _history(self.cv_results_, self.label_smoothing_)

    # -- prediction ---------------------------------------------------------------------------

    @works_anywhere
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give the calibrated probabilities of the mean of the nets' logits.

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
        return probabilities(self._mean_logits(X), self.calibrator_)

    @works_anywhere
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
        if overrides(self, "predict_proba"):
            return finite_log(self.predict_proba(X))
        return log_probabilities(self._mean_logits(X), self.calibrator_)

    def _mean_logits(self, X: Any) -> NDArray[np.float64]:
        """Run rows through each net; give the mean of their logits."""
        if "estimators_" not in self.__dict__:  # scikit-learn's check costs as much as a net
            check_is_fitted(self)
        rows = check_new_rows(self, X)
        modules = [net.module_ for net in self.estimators_]
        pool = pool_of(self, modules)
        if pool is None:
            return reduce(np.add, (net.logits_of(rows) for net in self.estimators_)) / len(modules)
        logits = pool.logits(rows)
        return logits if np.isfinite(logits).all() else mend_overflow(logits)


def _check_rows(
    owner: LabelSmoothingClassifierCV,
    net: LabelSmoothingClassifier,
    X: Any,
    y: Any,
    sample_weight: Any,
) -> Table:
    """Check the training rows, which must be in memory."""
    refuse_dataset(X, "X must be one array, of which folds are taken")
    X = as_array(X)
    if is_several_inputs(X) or net.dataset is not TensorRows:
        kind = type(X).__name__ if net.dataset is TensorRows else net.dataset.__name__
        raise ValueError(f"X must be one array, held in the default dataset, got a {kind}.")
    return check_rows(net, X, y, sample_weight, net.classes, reset=True, owner=owner)


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
