"""LabelSmoothingClassifier: a skorch net with smoothed labels and calibrated probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from difflib import get_close_matches
from functools import cache
from inspect import signature
from numbers import Integral, Real
from typing import Any
from warnings import warn

import numpy as np
import skorch.dataset
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, clone
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metadata_routing import _routing_enabled, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, has_fit_parameter, validate_data
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EpochTimer, PassthroughScoring, PrintLog
from skorch.dataset import get_len, unpack_data
from skorch.history import History
from skorch.utils import is_dataset, to_numpy, to_tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from sksmooth._batches import (
    EncodedDataset,
    TensorBatches,
    TensorRows,
    hold_out,
    make_batches,
    read_labels,
    rows_in_memory,
)
from sksmooth.calibration import (
    NormTemperatureScaling,
    TemperatureScaling,
    normalized_confidence,
    softmax_in_place,
)
from sksmooth.engine.by_skorch import SkorchStack
from sksmooth.engine.loop import Epoch, train
from sksmooth.engine.monitor import BAD_LOGITS, PRIOR_STRENGTH, Monitor
from sksmooth.engine.plan import (
    BY_HAND,
    BY_SKORCH,
    may_change_parts,
    overrides,
    plan,
    replaces_steps,
)
from sksmooth.engine.randomness import ForwardRandomness, OwnRandomness, single_precision
from sksmooth.engine.stack import InMemoryStack, Member, Remade, Selection
from sksmooth.engine.targets import check_width, float_logits
from sksmooth.engine.threads import threads_for_rows
from sksmooth.losses import LabelSmoothingLoss, mean_loss
from sksmooth.modules import SimpleNet
from sksmooth.smoothing import check_label_smoothing, check_smoothing

# What other libraries call a parameter of ours.
SYNONYMS = {
    "alpha": "optimizer__weight_decay",
    "activation": "module__activation",
    "dropout": "module__dropout",
    "eps": "label_smoothing",
    "epsilon": "label_smoothing",
    "epochs": "max_epochs",
    "hidden_layer_sizes": "module__hidden_layer_sizes",
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "ls_eps": "label_smoothing",
    "max_iter": "max_epochs",
    "n_epochs": "max_epochs",
    "n_iter_no_change": "patience",
    "seed": "random_state",
    "smoothing_eps": "label_smoothing",
    "validation_fraction": "train_split",
    "weight_decay": "optimizer__weight_decay",
}

# The parts of a net, whose parameters begin with their names and two underscores.
PARTS = ("callbacks", "criterion", "iterator_train", "iterator_valid", "module", "optimizer")

# What skorch keeps for itself under names of fitted attributes.
BOOKKEEPING = {
    "classes_inferred_",
    "cuda_dependent_attributes_",
    "init_context_",
    "initialized_",
    "prefixes_",
    "virtual_params_",
}

# What is learned of the rows before training begins.
LEARNED = (
    "class_prior_",
    "classes_inferred_",
    "feature_names_in_",
    "n_features_in_",
    "_n_inputs",
)

CALIBRATORS = {"norm_temperature": NormTemperatureScaling, "temperature": TemperatureScaling}

# Rows of one forward pass in prediction: enough to make its overhead small, few enough that the
# activations stay in the processor's cache.
PREDICTION_ROWS = 8192

# A matrix product rounds the rows of its kernel's blocks alike and those left over otherwise. This
# is a multiple of MKL's block. (Its results also depend on a row's alignment, where a layer has at
# most 10 outputs and the number of its inputs is no multiple of 4.)
ROWS_OF_A_BLOCK = 16

# How scikit-learn is to check X.
_FLOAT32_ROWS = {"dtype": np.float32, "order": "C", "allow_nd": True}


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


class EpochTable(PrintLog):
    """skorch's table of the epochs, not laid out where ``verbose=0`` leaves it unprinted."""

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Print the epoch's row."""
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)


class PredictsByProbability:
    """Labels, scores and confidence, by the logits and probabilities that a class gives."""

    classes_: Any
    predict_proba: Callable[[Any], NDArray]
    predict_log_proba: Callable[[Any], NDArray]

    def _logits_and_probabilities(self, X: Any) -> tuple[NDArray, NDArray]:
        """Give the logits, of shape (n_nets, n_samples, n_classes), and the probabilities."""
        raise NotImplementedError

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Give scores whose largest names the predicted class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows; for LabelSmoothingClassifier also a torch Dataset.

        Returns
        -------
        ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes), float64
            The log-odds of the second class, or the logarithms of the probabilities.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        scores = self.predict_log_proba(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def confidence(self, X: Any) -> NDArray[np.float64]:
        """Give scores that order rows by how likely their predicted label is right.

        For rejecting the rows of lowest confidence, or handing them to someone: it is no
        probability, but the predicted class's share of the logits less their mean, divided by their
        norm and averaged over the nets, if there are several [1]_. Strong smoothing can spoil the
        order of the largest probabilities, and this mends it; on most tables of the quality
        benchmark those order rows better. RiskCoverageDisplay compares the two. With two classes a
        norm of one leaves nothing to order by: it is the probability of the predicted class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows; for LabelSmoothingClassifier also a torch Dataset.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            The higher, the surer. At most sqrt(1 - 1 / n_classes) with three classes and more,
            and 0 where the logits are all equal.

        Raises
        ------
        NotFittedError
            Before ``fit``.

        See Also
        --------
        sksmooth.plotting.RiskCoverageDisplay : Draws the error rate among the rows kept.

        References
        ----------
        .. [1] Xia et al. (2025), Towards Understanding Why Label Smoothing Degrades Selective
           Classification and How to Fix It.

        Examples
        --------
        >>> import numpy as np
        >>> from sksmooth import LabelSmoothingClassifier, make_tabular
        >>> X, y = make_tabular(600, random_state=0)
        >>> clf = LabelSmoothingClassifier(random_state=0).fit(X[:300], y[:300])
        >>> confidence = clf.confidence(X[300:])
        >>> correct = clf.predict(X[300:]) == y[300:]
        >>> sure = confidence >= np.median(confidence)
        >>> bool(correct[sure].mean() > correct[~sure].mean())
        True
        """
        return normalized_confidence(*self._logits_and_probabilities(X))

    def predict(self, X: Any) -> NDArray:
        """Give the most probable label of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows; for LabelSmoothingClassifier also a torch Dataset.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, of the kind that ``fit`` was given.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        return self._labels(self.predict_proba(X).argmax(axis=1))

    def _labels(self, codes: NDArray) -> NDArray:
        return self.classes_[codes]


class Training:
    """What a training that is going on knows.

    Parameters
    ----------
    patience : int or None
        Epochs without a lower refined loss after which it stops; None: never.

    Attributes
    ----------
    batch_weight : tensor or None
        The weights of the rows of the batch at hand.
    randomness : OwnRandomness or None
        From which callbacks draw.
    forward : ForwardRandomness or None
        From which the module's forward draws.
    stack, monitor : Stack and Monitor
        None before ``fit_loop``.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.batch_weight: torch.Tensor | None = None
        self.randomness: OwnRandomness | None = None
        self.forward: ForwardRandomness | None = None
        self.stack: Any = None
        self.monitor: Monitor | None = None

    @contextmanager
    def weighing(self, weight: torch.Tensor | None) -> Iterator[None]:
        """Set the weights of the rows of a batch."""
        self.batch_weight = weight
        try:
            yield
        finally:
            self.batch_weight = None

    def held_out_logits(self) -> tuple | None:
        """Give what the calibrator is fitted to: logits of held-out rows as the net is now."""
        if self.monitor is None or self.monitor.best is None:
            return None
        best, state = self.monitor.best, self.stack.state()
        is_as_kept = len(state) == len(best.state) and all(map(torch.equal, state, best.state))
        # A callback may have loaded another epoch's parameters.
        scored = best.scored if is_as_kept else self.stack.score()
        return (*scored.of(0), self.monitor.start_of(0))


class Session:
    """The epochs of one net: its stack, and what is recorded and told around each epoch.

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

    Attributes
    ----------
    stack : Stack
        Of this one net.
    n_before : int
        Epochs in the history before.
    """

    def __init__(
        self,
        net: LabelSmoothingClassifier,
        dataset_train: Dataset,
        dataset_valid: Dataset | None,
        randomness: OwnRandomness,
        fit_params: Mapping[str, Any],
    ) -> None:
        self.net = net
        self.datasets = {"dataset_train": dataset_train, "dataset_valid": dataset_valid}
        self.randomness = randomness
        self.fit_params = fit_params
        net.draw_from(None if replaces_steps(net) else randomness)
        self.n_before = len(net.history)
        with randomness:
            self.train: Any = net.get_iterator(dataset_train, training=True)
            self.held_out: Any = None if dataset_valid is None else net.get_iterator(dataset_valid)
        _refuse_no_batches(self.train)
        self.stack: Any = Remade(self._stack) if may_change_parts(net) else self._stack()

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
            Selection(train.rows, train.index),
            None if held_out is None else Selection(held_out.rows, held_out.index),
            self.randomness.generator(train.rows.X.device),
        )
        return InMemoryStack(
            [member],
            net.optimizer_,
            train.batch_size,
            len(net.classes_inferred_),
            by_hand=chosen.kind == BY_HAND,
            shuffle=train.shuffle,
            drop_last=train.drop_last,
            rows_at_once=net.rows_at_once(),
        )

    def begin_epoch(self) -> None:
        """Tell callbacks that an epoch begins."""
        self.net.notify("on_epoch_begin", **self.datasets)

    def end_epoch(self, epoch: Epoch) -> None:
        """Record an epoch in the history, and tell callbacks; or refuse what it came to."""
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
            if net.trained_by_ != BY_SKORCH:
                batch = {"valid_loss": scores["valid_loss"]}
                batch["valid_batch_size"] = self.held_out.n_rows
                history[-1]["batches"].append(batch)
                history.record("valid_batch_count", 1)
            for name, score in scores.items():
                history.record(name, score)
        net.notify("on_epoch_end", **self.datasets)


class LabelSmoothingClassifier(PredictsByProbability, NeuralNetClassifier):
    """A neural classifier with smoothed labels and calibrated probabilities.

    Smoothing the labels often makes a net more accurate and always makes its confidence wrong.
    This classifier holds out some rows, stops training where the refined loss on them is best,
    and fits a temperature to them, so that ``predict_proba`` can be trusted.

    It is a :class:`skorch.NeuralNetClassifier`: all of skorch's parameters, callbacks and methods
    work. It is a scikit-learn classifier too: it goes into pipelines, searches and ensembles.

    Parameters
    ----------
    module : torch module (class or instance), default=SimpleNet
        Returns logits of shape (n, n_classes), or a tuple whose last item is the logits. Where its
        constructor takes `n_features` or `n_classes`, they are filled in from the data. An instance
        is copied before it is trained.
    label_smoothing : float, default=0.1
        The mass ε taken from the true class, in [0, 1).
    smoothing : {"uniform", "off_target", "prior"} or array-like of shape (K, K), default="uniform"
        Where that mass goes, see :func:`sksmooth.smoothing.smoothing_matrix`.
    calibration : {"norm_temperature", "temperature"}, object or None, default="norm_temperature"
        How logits become probabilities, learnt from the held-out rows: by
        :class:`~sksmooth.calibration.NormTemperatureScaling`, by
        :class:`~sksmooth.calibration.TemperatureScaling`, by any object with ``fit(logits, y)`` and
        ``predict_proba(logits)``, or not at all.
    class_weight : "balanced", dict or None, default=None
        Weights of the classes, as in scikit-learn; they multiply the rows' weights.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the held-out rows, shuffling and dropout. torch's global
        generator is left as it was. As everywhere in scikit-learn, None draws a seed from numpy's
        global generator.
    early_stopping : bool, default=True
        Stop when the refined loss on the held-out rows has not fallen for `patience` epochs, and
        go back to the epoch where it was lowest.
    patience : int, default=40
        See `early_stopping`.
    criterion : torch criterion (class or instance), default=LabelSmoothingLoss
        Gets the logits, the class indices and, in its attributes `label_smoothing` and `smoothing`,
        the values given here. ``torch.nn.CrossEntropyLoss`` serves for uniform smoothing, and any
        criterion for ``label_smoothing=0``.
    optimizer : torch optimizer (class), default=torch.optim.AdamW
        The update rule.
    lr : float, default=0.001
        The learning rate.
    max_epochs : int, default=300
        The most epochs of a fit.
    batch_size : int, default=64
        Rows per mini-batch; -1 takes all rows at once.
    iterator_train, iterator_valid : callable, default=make_batches
        Make the iterator over a dataset's mini-batches: called with the dataset and `batch_size`.
        Training rows are shuffled unless ``iterator_train__shuffle=False``.
    dataset : torch Dataset (class), default=TensorRows
        Holds the rows.
    train_split : float, callable or None, default=0.2
        The rows held out for early stopping and calibration: a fraction of them, drawn by
        `random_state` and stratified by class; a callable such as
        :class:`skorch.dataset.ValidSplit`; or None to train on all rows.
    callbacks : list of skorch callbacks, "disable" or None, default=None
        See skorch.
    predict_nonlinearity : "auto", callable or None, default="auto"
        "auto" applies the calibrator, or the softmax where there is none. A callable replaces
        both, and None gives the module's output as it is.
    warm_start : bool, default=False
        Let ``fit`` train the fitted net further instead of starting anew.
    verbose : int, default=0
        Print a table of the epochs.
    device : str, torch.device or None, default="cpu"
        Where to train and predict.
    compile : bool, default=False
        Compile the module with ``torch.compile``.
    use_caching : bool or "auto", default="auto"
        See skorch.
    torch_load_kwargs : dict or None, default=None
        See skorch.
    classes : array-like or None, default=None
        The classes, where `y` may lack some or a Dataset's labels should not be read.
    **kwargs
        Parameters of the parts, by prefix: ``module__hidden_layer_sizes=(128,)``,
        ``optimizer__weight_decay=0.1``, ``criterion__form="kl"``, ``iterator_train__drop_last``,
        ``callbacks__print_log__...``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the columns of ``predict_proba``.
    calibrator_ : object or None
        The fitted calibrator; None where there is none.
    best_epoch_ : int
        The epoch, from 1, whose parameters are kept.
    trained_by_ : {"by hand", "by autograd", "by skorch"}
        Whose training steps were taken: those written out by hand for SimpleNet, autograd's without
        skorch's notifications, or skorch's own.
    trained_by_reason_ : str
        Why.
    history : skorch.history.History
        What was recorded per epoch: `train_loss`, `valid_loss`, `refined_loss`, `valid_acc`, `dur`.
    class_prior_ : ndarray of shape (n_classes,)
        The weighted frequencies of the classes in the training data.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names that are all strings.
    module_, criterion_, optimizer_, callbacks_ : objects
        skorch's parts.

    Notes
    -----
    Pickling keeps the whole classifier. ``save_params`` keeps, as in skorch, the parts that it is
    told to: not the calibrator and not the labels.

    References
    ----------
    Szegedy et al. 2016, Rethinking the Inception Architecture. Guo et al. 2017, On Calibration of
    Modern Neural Networks. Berta et al. 2025, Rethinking Early Stopping: Refine, Then Calibrate.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sksmooth import LabelSmoothingClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), LabelSmoothingClassifier(random_state=0))
    >>> pipe.fit(X_train, y_train).predict_proba(X_test).shape
    (38, 3)
    >>> bool(pipe.score(X_test, y_test) > 0.9)
    True
    """

    # skorch sets these on the instance, in __init__ and while it initializes. On the class they
    # leave __init__ with nothing to do but store parameters.
    initialized_ = False
    history_ = None
    virtual_params_: dict[str, Callable] = {}  # noqa: RUF012

    # What a training that is going on knows, and skorch's hooks have no argument for.
    _training: Training | None = None

    _parameter_constraints: dict[str, list] = {  # noqa: RUF012
        "smoothing": [str, "array-like", torch.Tensor],
        "calibration": [None, StrOptions(set(CALIBRATORS)), HasMethods(["fit", "predict_proba"])],
        "class_weight": [None, StrOptions({"balanced"}), dict],
        "random_state": ["random_state"],
        "early_stopping": ["boolean"],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), Options(Integral, {-1})],
        "train_split": [None, Interval(Real, 0, 1, closed="neither"), callable],
        "callbacks": [None, StrOptions({"disable"}), list],
        "predict_nonlinearity": [None, StrOptions({"auto"}), callable],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "classes": [None, "array-like"],
    }

    def __init__(
        self,
        module: Any = SimpleNet,
        *,
        label_smoothing: float = 0.1,
        smoothing: str | ArrayLike | torch.Tensor = "uniform",
        calibration: Any = "norm_temperature",
        class_weight: str | dict | None = None,
        random_state: int | np.random.RandomState | None = None,
        early_stopping: bool = True,
        patience: int = 40,
        criterion: Any = LabelSmoothingLoss,
        optimizer: Any = torch.optim.AdamW,
        lr: float = 0.001,
        max_epochs: int = 300,
        batch_size: int = 64,
        iterator_train: Callable = make_batches,
        iterator_valid: Callable = make_batches,
        dataset: Any = TensorRows,
        train_split: float | Callable | None = 0.2,
        callbacks: list | str | None = None,
        predict_nonlinearity: str | Callable | None = "auto",
        warm_start: bool = False,
        verbose: int = 0,
        device: Any = "cpu",
        compile: bool = False,
        use_caching: bool | str = "auto",
        torch_load_kwargs: dict | None = None,
        classes: Any = None,
        **kwargs: Any,
    ) -> None:
        self.module = module
        self.criterion = criterion
        self.label_smoothing = label_smoothing
        self.smoothing = smoothing
        self.calibration = calibration
        self.class_weight = class_weight
        self.random_state = random_state
        self.early_stopping = early_stopping
        self.patience = patience
        self.optimizer = optimizer
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.iterator_train = iterator_train
        self.iterator_valid = iterator_valid
        self.dataset = dataset
        self.train_split = train_split
        self.callbacks = callbacks
        self.predict_nonlinearity = predict_nonlinearity
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device
        self.compile = compile
        self.use_caching = use_caching
        self.torch_load_kwargs = torch_load_kwargs
        self.classes = classes
        self.__dict__.update(kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        # skorch takes a torch module for one of the net's parts; before `initialize`, one without
        # an underscore at its end is a parameter.
        if self.initialized_ or self.init_context_ is not None or name.endswith("_"):
            super().__setattr__(name, value)
        else:
            object.__setattr__(self, name, value)

    # -- parameters ---------------------------------------------------------------------------

    def _refuse_unknown(self, params: Mapping[str, Any]) -> None:
        """Refuse names that neither a parameter nor a part's parameter has; suggest the nearest."""
        own_class: Any = type(self)
        known = _named_params(own_class)
        for name, value in params.items():
            if "__" not in name and name not in known:
                nearest = SYNONYMS.get(name) or _nearest_name(name, sorted(known))
                raise InvalidParameterError(
                    f"{type(self).__name__} has no parameter {name!r} (got {name}={value!r})"
                    + (f"; did you mean {nearest}?" if nearest else ".")
                )

    def _get_param_names(self) -> list[str]:
        return sorted(
            name
            for name in self.__dict__
            if not name.startswith("_") and not name.endswith("_") and not hasattr(type(self), name)
        )

    @property
    def _params_to_validate(self) -> set[str]:
        own_class: Any = type(self)
        return set(self._get_param_names()) - _named_params(own_class)

    def set_params(self, **params: Any) -> LabelSmoothingClassifier:
        """Set parameters of this estimator and of its parts.

        On a fitted net, `lr` and ``optimizer__...`` take effect at once, ``module__...`` and
        ``criterion__...`` build those parts anew (untrained), and all else holds from the next
        call of ``fit`` or ``partial_fit`` on.

        Parameters
        ----------
        **params : dict
            Parameters by name, parts' parameters by prefix, such as ``module__dropout=0.1``.

        Returns
        -------
        LabelSmoothingClassifier
            Itself.

        Raises
        ------
        InvalidParameterError
            For an unknown name; a ValueError and a TypeError at once, as scikit-learn has it.
        """
        self._refuse_unknown({k: v for k, v in params.items() if k not in self.__dict__})
        own = {}
        for name, value in params.items():
            part, _, rest = name.partition("__")
            nested = None if part in self.prefixes_ or not rest else getattr(self, part, None)
            if nested is not None and hasattr(nested, "set_params"):
                nested.set_params(**{rest: value})
            else:
                own[name] = value
        if self.initialized_:
            return super().set_params(**own)
        for name, value in own.items():
            setattr(self, name, value)
        return self

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return BaseEstimator.__repr__(self, N_CHAR_MAX=N_CHAR_MAX)

    def _get_params_html(self, deep: bool = True, doc_link: str = "") -> Any:
        # Deep parameters are those of skorch's default callbacks, which would all be shown as if
        # the user had set them; those that are set are the estimator's own.
        return super()._get_params_html(deep=False, doc_link=doc_link)

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        table = super()._get_fitted_attr_html(doc_link)
        for name in BOOKKEEPING & table.keys():
            del table[name]
        return table

    def _check_parameters(self) -> None:
        params = self.get_params(deep=False)
        self._refuse_unknown(params)
        check_label_smoothing(self.label_smoothing)
        validate_parameter_constraints(self._parameter_constraints, params, type(self).__name__)
        for name in ("label_smoothing", "smoothing"):
            if hasattr(self, f"criterion__{name}"):
                raise InvalidParameterError(
                    f"criterion__{name}={getattr(self, f'criterion__{name}')!r} would override "
                    f"{name}={getattr(self, name)!r}; set {name} itself."
                )
        _check_device(self.device)

    # -- data ---------------------------------------------------------------------------------

    def _check_training_data(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, *, reset: bool
    ) -> tuple[Dataset, NDArray[np.int64] | None]:
        """Check the rows, encode their labels, weigh them.

        Sets `classes_`, `class_prior_`, `n_features_in_` if `reset`, else checks against them.
        Gives the rows, and their class indices where those are known beforehand.
        """
        if isinstance(X, TensorRows) and X.learned:  # checked for another estimator
            self.__dict__.update(X.learned)
            return X, to_numpy(X.y)
        if _is_several_inputs(X):
            X = skorch.dataset.Dataset(X, y)
        if is_dataset(X):
            return self._check_dataset(X, y, sample_weight, classes, reset=reset)
        y = _as_array(y)
        _refuse_missing(y, "y")
        X, y = validate_data(self, _as_array(X), y, reset=reset, **_FLOAT32_ROWS)
        if y.dtype.kind not in "biuU":  # which are classes for sure
            check_classification_targets(y)
        if reset:
            self._set_classes(*((y, "y") if classes is None else (classes, "classes")))
        codes = self._encode(y)
        weight = self._weigh_rows(X, y, sample_weight)
        if weight is not None:
            X, codes, weight = X[weight > 0], codes[weight > 0], weight[weight > 0]
        counts = np.bincount(codes, weights=weight, minlength=len(self.classes_inferred_))
        if classes is None and np.count_nonzero(counts) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least two classes, but those of a weight "
                f"above 0 are of one class, {self.classes_inferred_.tolist()[counts.argmax()]!r}."
            )
        if reset:
            self.class_prior_ = counts / counts.sum()
            self._n_inputs = int(np.prod(X.shape[1:]))
        if self.dataset is not TensorRows:
            if weight is not None:
                raise ValueError("sample_weight and class_weight need the default dataset.")
            return self.get_dataset(X, codes), codes
        rows = TensorRows(
            _as_tensor(X).to(self.device),
            _as_tensor(codes).to(self.device),
            None if weight is None else torch.from_numpy(weight).to(self.device),
        )
        rows.learned = {name: self.__dict__[name] for name in LEARNED if name in self.__dict__}
        return rows, codes

    def _check_dataset(
        self, dataset: Dataset, y: Any, sample_weight: Any, classes: Any, *, reset: bool
    ) -> tuple[Dataset, NDArray[np.int64] | None]:
        """Check a torch Dataset of pairs (X, label); its rows are read batch by batch."""
        for name, value in (("sample_weight", sample_weight), ("class_weight", self.class_weight)):
            if value is not None:
                raise ValueError(f"{name} needs X as an array; X is a {type(dataset).__name__}.")
        first = next(iter(dataset))
        inputs, _ = unpack_data(first if isinstance(first, tuple | list) else (first,))
        labels = None
        if y is not None or classes is None or isinstance(dataset, TensorRows):
            labels = np.asarray(_as_array(read_labels(dataset) if y is None else y))
            _refuse_missing(labels, "y")
            check_classification_targets(labels)
        if reset:
            self._set_classes(*((labels, "y") if classes is None else (classes, "classes")))
        codes = None if labels is None else self._encode(labels)
        if reset:
            for name in ("n_features_in_", "feature_names_in_"):  # of rows fitted before
                self.__dict__.pop(name, None)
            n_classes = len(self.classes_inferred_)
            counts = np.ones(n_classes) if codes is None else np.bincount(codes, None, n_classes)
            self.class_prior_ = counts / counts.sum()
            self._n_inputs = int(np.prod(np.shape(inputs)))
            if np.ndim(inputs) == 1:
                self.n_features_in_ = len(inputs)
        if _are_codes(self.classes_inferred_):
            return dataset, codes
        return EncodedDataset(dataset, self.classes_inferred_.tolist()), codes

    def _set_classes(self, labels: Any, name: str) -> None:
        """Set `classes_` to the distinct labels, which came as the argument `name`."""
        _refuse_missing(labels, name)
        if len(labels) == 0:
            raise ValueError("classes is empty; give all labels, or None to take those of y.")
        self.classes_inferred_ = LabelEncoder().fit(np.asarray(labels)).classes_
        if len(self.classes_inferred_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least two classes, but {name} holds one "
                f"class, {self.classes_inferred_.tolist()[0]!r}."
            )

    def _encode(self, y: NDArray) -> NDArray[np.int64]:
        """Give the class indices of labels: the labels themselves, without a copy, if they can."""
        is_code = y.dtype.kind in "iu" and y.ndim == 1 and _are_codes(self.classes_inferred_)
        if is_code and y.min() >= 0 and y.max() < len(self.classes_inferred_):
            return np.ascontiguousarray(y, dtype=np.int64)
        encoder = LabelEncoder()
        encoder.classes_ = self.classes_inferred_
        try:
            return encoder.transform(y).astype(np.int64, copy=False)
        except ValueError as error:
            raise ValueError(
                f"y has labels that are none of the classes {self.classes_inferred_.tolist()}: "
                f"{error}"
            ) from error

    def _weigh_rows(self, X: NDArray, y: NDArray, sample_weight: Any) -> NDArray[np.float32] | None:
        """Multiply `sample_weight` by the rows' class weights; None where all weigh alike."""
        if sample_weight is None and self.class_weight is None:
            return None
        weight = _check_sample_weight(
            _as_array(sample_weight), X, dtype=np.float64, ensure_non_negative=True
        )
        if not weight.any():
            raise ValueError("sample_weight is zero for every row; give some a weight above 0.")
        if self.class_weight is not None:
            weight = weight * self._class_weights(y, weight)[self._encode(y)]
        return weight.astype(np.float32)

    def _class_weights(self, y: NDArray, sample_weight: NDArray) -> NDArray[np.float64]:
        classes = self.classes_inferred_
        if isinstance(self.class_weight, dict):
            unknown = [label for label in self.class_weight if label not in classes.tolist()]
            if unknown:
                raise ValueError(
                    f"class_weight={self.class_weight!r} names {unknown}, which are none of the "
                    f"classes {classes.tolist()}."
                )
            weights = np.asarray(list(self.class_weight.values()), dtype=np.float64)
            if not (np.isfinite(weights) & (weights >= 0)).all():
                raise ValueError(
                    f"class_weight={self.class_weight!r} must hold finite, non-negative weights."
                )
        present = np.isin(classes, y[sample_weight > 0])
        weights = np.ones(len(classes))
        weights[present] = compute_class_weight(
            self.class_weight,
            classes=classes[present],
            y=y[sample_weight > 0],
            sample_weight=sample_weight[sample_weight > 0],
        )
        return weights

    def check_data(self, X: Any, y: Any = None) -> None:
        """Do nothing: the data were checked on the way in. A hook of skorch's."""

    def get_dataset(self, X: Any, y: Any = None) -> Dataset:
        """Give the dataset that holds the rows. A hook of skorch's.

        Parameters
        ----------
        X : array-like, tensor or torch Dataset
            Inputs; a Dataset is given back as it is.
        y : array-like of int or None
            Class indices.

        Returns
        -------
        torch Dataset
            The rows.
        """
        if is_dataset(X) or self.dataset is not TensorRows:
            return super().get_dataset(X, y)
        if not isinstance(X, torch.Tensor | np.ndarray):  # several inputs, perhaps
            return skorch.dataset.Dataset(X, y)
        X = to_tensor(X, device=self.device)
        codes = torch.zeros(len(X), dtype=torch.int64) if y is None else y
        return TensorRows(X, to_tensor(codes, device=self.device))

    def get_split_datasets(
        self, X: Any, y: Any = None, **fit_params: Any
    ) -> tuple[Dataset, Dataset | None]:
        """Part the rows into those to train on and those held out. A hook of skorch's.

        Parameters
        ----------
        X : array-like, tensor or torch Dataset
            Inputs.
        y : array-like of int or None
            Class indices.
        **fit_params : dict
            Passed to `train_split` where that is a callable.

        Returns
        -------
        dataset_train, dataset_valid : torch Datasets
            The second is None where no rows are held out.
        """
        dataset = self.get_dataset(X, y)
        if isinstance(dataset, TensorRows):
            y = to_numpy(dataset.y)
        if callable(self.train_split):
            labels = () if y is None else (y,)
            dataset_train, dataset_valid = self.train_split(dataset, *labels, **fit_params)
            return dataset_train, self._encode_given(dataset_valid)
        if self.train_split is None:
            return dataset, None
        train, held_out = hold_out(get_len(dataset), y, self.train_split, self.draw_seed())
        if held_out is None:
            return dataset, None
        indices: list[Any] = [train, held_out]
        dataset_train, dataset_valid = (Subset(dataset, index) for index in indices)
        return dataset_train, dataset_valid

    def _encode_given(self, held_out: Dataset | None) -> Dataset | None:
        """Encode the labels of held-out rows that skorch's ``predefined_split`` was made with.

        Rows that a split makes of those it gets have class indices.
        """
        given = getattr(self.train_split, "keywords", {}).values()
        classes = getattr(self, "classes_inferred_", np.arange(0))  # unknown to a bare fit_loop
        if held_out is None or _are_codes(classes) or not any(held_out is rows for rows in given):
            return held_out
        return EncodedDataset(held_out, classes.tolist())

    def _split_params(self, method: str, fit_params: dict[str, Any]) -> dict[str, Any]:
        """Choose those of `method`'s parameters that `train_split` is to get."""
        if not _routing_enabled():
            return fit_params
        routed = process_routing(self, method, **fit_params)
        return routed.get("splitter", {"split": {}})["split"]

    def get_iterator(self, dataset: Dataset, training: bool = False) -> Iterable:
        """Give the iterator over a dataset's mini-batches. A hook of skorch's.

        Parameters
        ----------
        dataset : torch Dataset
            The rows.
        training : bool, default=False
            Whether they are to be trained on: then they are shuffled.

        Returns
        -------
        iterable
            Gives pairs (X, y).
        """
        name = "iterator_train" if training else "iterator_valid"
        batches: Any
        if training and self.iterator_train is make_batches:
            parameters = {
                "batch_size": self.batch_size,
                "shuffle": True,
                **self.get_params_for("iterator_train"),
            }
            batches = make_batches(dataset, **parameters)
        else:
            batches = super().get_iterator(dataset, training=training)
        if not isinstance(batches, TensorBatches):
            if getattr(rows_in_memory(dataset)[0], "sample_weight", None) is not None:
                raise ValueError(
                    f"sample_weight and class_weight need the default {name}, without parameters "
                    f"of DataLoader; got {name}={_name(getattr(self, name))} with "
                    f"{self.get_params_for(name)}."
                )
        elif training and self._merges_repeated(batches):
            batches.merge_repeated()
        return batches

    def _merges_repeated(self, batches: TensorBatches) -> bool:
        """Tell whether rows that repeat are to be weighted: in one batch, by a loss that can."""
        return (
            batches.n_rows <= batches.batch_size
            and not batches.drop_last
            and hasattr(getattr(self, "criterion_", None), "reduction")
            and not overrides(self, "get_loss")
        )

    # -- parts --------------------------------------------------------------------------------

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        return [
            ("epoch_timer", EpochTimer()),
            ("train_loss", BestFlag("train_loss", on_train=True)),
            ("valid_loss", BestFlag("valid_loss")),
            ("refined_loss", BestFlag("refined_loss")),
            ("valid_acc", BestFlag("valid_acc", lower_is_better=False)),
            ("print_log", EpochTable()),
        ]

    def draw_seed(self) -> int:
        """Draw a seed: first for the parts, then for training, then for the held-out rows."""
        return self._random_state.randint(2**31 - 1)

    def initialize(self) -> LabelSmoothingClassifier:
        """Build module, criterion, optimizer and callbacks, untrained.

        ``fit`` does this by itself. Before ``fit``, a module is built for the `n_features` and
        `n_classes` of its own defaults, or those given as ``module__n_features``.

        Returns
        -------
        LabelSmoothingClassifier
            Itself.
        """
        self._random_state = check_random_state(self.random_state)
        with OwnRandomness(self.draw_seed()), single_precision():
            return super().initialize()

    def initialize_history(self) -> LabelSmoothingClassifier:
        """Start a new history, of the kind given as `history`. A hook of skorch's."""
        self.history_ = copy.copy(vars(self).get("history", History()))
        self.history_.clear()
        return self

    def initialize_module(self) -> LabelSmoothingClassifier:
        """Build the module, for the data's numbers of features and classes. A hook of skorch's."""
        given = self.get_params_for("module")
        sizes = {}
        if hasattr(self, "classes_inferred_") and not isinstance(self.module, torch.nn.Module):
            sizes = {"n_features": self._n_inputs, "n_classes": len(self.classes_inferred_)}
            if self.module is not SimpleNet:  # which takes both
                taken = signature(self.module).parameters
                sizes = {name: size for name, size in sizes.items() if name in taken}
        self.module_ = self.initialized_instance(_copy_instance(self.module), {**sizes, **given})
        return self

    def get_params_for_optimizer(self, prefix: str, named_parameters: Any) -> tuple[tuple, dict]:
        """Give the optimizer's arguments: fused, where torch can do that. A hook of skorch's.

        Parameters
        ----------
        prefix : str
            The optimizer's name.
        named_parameters : iterable of (str, Parameter)
            What it is to update.

        Returns
        -------
        args, kwargs : tuple, dict
            Arguments of the optimizer's constructor.
        """
        args, kwargs = super().get_params_for_optimizer(prefix, named_parameters)
        others = {"foreach", "fused", "capturable", "differentiable"} & set(kwargs)
        if self.optimizer in (torch.optim.Adam, torch.optim.AdamW) and not others:
            kwargs["fused"] = torch.device(self.device or "cpu").type in ("cpu", "cuda")
        return args, kwargs

    def initialize_criterion(self) -> LabelSmoothingClassifier:
        """Build the criterion and tell it how to smooth. A hook of skorch's."""
        given = self.get_params_for("criterion")
        self.criterion_ = self.initialized_instance(_copy_instance(self.criterion), given)
        self.set_smoothing()
        return self

    def set_smoothing(self) -> None:
        """Bring `label_smoothing` and `smoothing` to the criterion."""
        criterion = self.criterion_
        values = {
            "label_smoothing": float(self.label_smoothing),
            "smoothing": self.smoothing,
            "class_prior": getattr(self, "class_prior_", None),
        }
        if not hasattr(criterion, "smoothing") and self._smooths_unevenly():
            raise ValueError(
                f"criterion={type(criterion).__name__} cannot smooth with smoothing="
                f"{self.smoothing!r}; use the default criterion, LabelSmoothingLoss."
            )
        if not hasattr(criterion, "label_smoothing") and self.label_smoothing > 0:
            raise ValueError(
                f"criterion={type(criterion).__name__} cannot smooth, having no label_smoothing, "
                f"but label_smoothing={self.label_smoothing}; set it to 0, or use the default "
                "criterion, LabelSmoothingLoss."
            )
        for name, value in values.items():
            if hasattr(criterion, name) and not hasattr(self, f"criterion__{name}"):
                setattr(criterion, name, value)

    def _smooths_unevenly(self) -> bool:
        is_uniform = isinstance(self.smoothing, str) and self.smoothing == "uniform"
        return self.label_smoothing > 0 and not is_uniform

    # -- training -----------------------------------------------------------------------------

    def fit(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> LabelSmoothingClassifier:
        """Train the net and calibrate it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions, or torch Dataset
            Training rows. Any real dtype; taken to float32. A Dataset gives pairs (X, label) and
            is read batch by batch.
        y : array-like of shape (n_samples,)
            Labels of any kind. None where X is a Dataset.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, in training, calibration and the held-out losses. A row of weight
            zero counts as missing.
        **fit_params : dict
            Passed on to the module's ``forward``, as skorch does.

        Returns
        -------
        LabelSmoothingClassifier
            Itself.

        Raises
        ------
        ValueError
            For parameters or data that cannot be trained on, or a loss that turns NaN. The
            estimator is then as it was before the call.

        Warns
        -----
        UserWarning
            Where there are too few rows to hold any out: it trains on all of them, uncalibrated.
        """
        self.check_training_readiness()
        warm = self.warm_start and self.initialized_ and hasattr(self, "classes_inferred_")
        with self._unchanged_on_error(in_place=self.warm_start and self.initialized_):
            rows, y = self.prepare(X, y, sample_weight, warm=warm)
            self._train(rows, y, self.max_epochs, early_stopping=self.early_stopping, **fit_params)
        return self

    def prepare(
        self, X: Any, y: Any, sample_weight: Any, *, warm: bool = False
    ) -> tuple[Dataset, NDArray[np.int64] | None]:
        """Check parameters and rows, and build the parts unless they are to be trained further."""
        self._check_parameters()
        rows, codes = self._check_training_data(X, y, sample_weight, self.classes, reset=not warm)
        check_smoothing(self.smoothing, len(self.classes_inferred_))
        if not (self.warm_start and self.initialized_):
            self.__dict__.pop("calibrator_", None)
            self.initialize()
        return rows, codes

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        classes: Any = None,
        sample_weight: ArrayLike | None = None,
        *,
        epochs: int = 1,
        **fit_params: Any,
    ) -> LabelSmoothingClassifier:
        """Train the net further on some rows, by one pass over them.

        Some of the rows are held out, as in ``fit``, to calibrate the net anew; where they are too
        few, the calibrator of the call before stays.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions, or torch Dataset
            Training rows.
        y : array-like of shape (n_samples,)
            Their labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come. Needed at the first call unless `y` holds them all.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        epochs : int, default=1
            Passes over the rows.
        **fit_params : dict
            Passed on to the module's ``forward``, as skorch does.

        Returns
        -------
        LabelSmoothingClassifier
            Itself.

        Raises
        ------
        ValueError
            For parameters or data that cannot be trained on.
        """
        self.check_training_readiness()
        first = not hasattr(self, "classes_inferred_")
        with self._unchanged_on_error(in_place=self.initialized_):
            self._check_parameters()
            if self.class_weight == "balanced":
                raise ValueError(
                    "class_weight='balanced' cannot be known from the rows of one partial_fit; "
                    "give a dict of weights instead."
                )
            if classes is None and first:
                classes = self.classes
            known = classes if first else self.classes_inferred_
            if classes is not None and set(np.asarray(classes).tolist()) != set(
                np.asarray(known).tolist()
            ):
                raise ValueError(
                    f"classes={classes!r} is not the same as on the first call of partial_fit, "
                    f"{known.tolist()}."
                )
            rows, y = self._check_training_data(X, y, sample_weight, known, reset=first)
            check_smoothing(self.smoothing, len(self.classes_inferred_))
            if not self.initialized_:
                self.initialize()
            self._train(
                rows, y, epochs, early_stopping=False, _routing_method="partial_fit", **fit_params
            )
        return self

    @contextmanager
    def _unchanged_on_error(self, *, in_place: bool) -> Iterator[None]:
        """Put every attribute back if the block fails, so that nothing half-fitted is left.

        Parameters
        ----------
        in_place : bool
            Whether the block trains the parts that are there; they are copied beforehand, then.
        """
        before = self.__dict__.copy()
        parts = [f"{part}_" for part in self._modules + self._criteria + self._optimizers]
        trained = {name: before[name] for name in [*parts, "history_"]} if in_place else {}
        before.update(copy.deepcopy(trained))
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _train(
        self,
        rows: Dataset,
        y: NDArray | None,
        epochs: int,
        *,
        early_stopping: bool,
        **fit_params: Any,
    ) -> None:
        """Run the epochs, go back to the best one, calibrate."""
        if hasattr(self, "criterion_"):
            self.set_smoothing()
        X = rows.X if isinstance(rows, TensorRows) else rows
        n_before = len(self.history)
        patience = self.patience if early_stopping else None
        with self.in_training(patience) as training, single_precision():
            self.notify("on_train_begin", X=X, y=y)
            self.fit_loop(rows, y, epochs=epochs, **fit_params)
            monitor = training.monitor
            best = None if monitor is None else monitor.best
            best_epoch = len(self.history) if best is None else n_before + int(best.epoch[0])
            self.conclude(best_epoch, training.held_out_logits, X, y)

    @contextmanager
    def in_training(self, patience: int | None = None) -> Iterator[Training]:
        """Be in training: callbacks meet class indices, and the batches' weights count.

        Parameters
        ----------
        patience : int or None, default=None
            Epochs without a lower refined loss after which :meth:`fit_loop` stops; None: never.

        Yields
        ------
        Training
            What is known of it.
        """
        if self._training is not None:
            yield self._training
            return
        self._training = Training(patience)
        try:
            yield self._training
        finally:
            del self._training

    def draw_from(self, randomness: OwnRandomness | None) -> None:
        """Let the module's forward and callbacks draw from one's own generators, while in training.

        Parameters
        ----------
        randomness : OwnRandomness or None
            None: from torch's global ones, or from whatever holds around.
        """
        if self._training is not None:
            self._training.randomness = randomness
            forward = None if randomness is None else ForwardRandomness(randomness)
            self._training.forward = forward

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call a method of the callbacks, and of this net. A hook of skorch's.

        Parameters
        ----------
        method_name : str
            Such as "on_epoch_end".
        **cb_kwargs : dict
            Its arguments.
        """
        training = self._training
        if training is None or training.randomness is None:
            super().notify(method_name, **cb_kwargs)
            return
        if training.forward is not None and method_name == "on_epoch_begin":
            training.forward.begin_epoch()
        module = getattr(self, "module_", None)  # a subclass may name it otherwise
        n_rows = self.rows_at_once() or PREDICTION_ROWS
        with training.randomness, threads_for_rows(module, n_rows):
            super().notify(method_name, **cb_kwargs)

    def infer(self, x: Any, **fit_params: Any) -> Any:
        """Call the module. A hook of skorch's.

        Parameters
        ----------
        x : tensor, or tuple, list or dict of tensors
            Inputs.
        **fit_params : dict
            Arguments of the module's forward.

        Returns
        -------
        tensor or tuple of tensors
            What it returns.
        """
        module = getattr(self, "module_", None)
        forward = None if self._training is None else self._training.forward
        with threads_for_rows(module, get_len(x)):
            if forward is None or module is None:
                return super().infer(x, **fit_params)
            with forward.around_forward(module.training):
                return super().infer(x, **fit_params)

    def fit_loop(
        self,
        X: Any,
        y: Any = None,
        epochs: int | None = None,
        *,
        _routing_method: str = "fit",
        **fit_params: Any,
    ) -> LabelSmoothingClassifier:
        """Run the epochs: train, score on the held-out rows, notify. A hook of skorch's.

        Parameters
        ----------
        X : torch Dataset, array-like or tensor
            Training rows; arrays are taken as they are, with class indices for `y`.
        y : array-like of int or None
            Class indices.
        epochs : int or None
            Number of epochs; None takes `max_epochs`.
        **fit_params : dict
            Passed on to the module's ``forward`` and to a callable `train_split`.

        Returns
        -------
        LabelSmoothingClassifier
            Itself.

        Raises
        ------
        ValueError
            If the training loss or the logits of held-out rows are not finite numbers.
        KeyboardInterrupt
            If it comes before the first epoch has ended. Later, it ends the training.
        """
        self.check_data(X, y)
        self.check_training_readiness()
        randomness = OwnRandomness(self.draw_seed())
        with randomness:
            split_params = self._split_params(_routing_method, fit_params)
            datasets = self.get_split_datasets(X, y, **split_params)
        with self.in_training() as training:
            session = Session(self, *datasets, randomness, fit_params)
            monitor = Monitor([session.stack], patience=training.patience)
            training.monitor, training.stack = monitor, session.stack
            n_epochs = self.max_epochs if epochs is None else epochs
            is_interrupted = train(
                [session.stack], monitor, n_epochs, session.begin_epoch, session.end_epoch
            )
            if is_interrupted:
                del self.history[session.n_before + monitor.n_epochs :]
            if is_interrupted or training.patience is not None:
                monitor.restore()
        return self

    def rows_at_once(self) -> int | None:
        """Give how many rows the module is to see at once in evaluation.

        Returns
        -------
        int or None
            None: as many as pay, since nobody set a number and the module is SimpleNet.
        """
        given = getattr(self, "iterator_valid__batch_size", None)
        if given is None and type(getattr(self, "module_", None)) is SimpleNet:
            return None
        size = self.batch_size if given is None else given
        return None if size == -1 else int(size)

    def weighing(self, weight: torch.Tensor | None) -> AbstractContextManager:
        """Let :meth:`get_loss` weigh the rows of a batch, as it has no argument for that.

        Parameters
        ----------
        weight : tensor of shape (n,) or None
            The weights of the rows; None weighs all alike.

        Returns
        -------
        context manager
            In which they are weighed.
        """
        training = self._training
        return nullcontext() if training is None else training.weighing(weight)

    def diverged(self, what: str, epoch: int) -> ValueError:
        """Make the error for numbers that are no longer finite.

        Parameters
        ----------
        what : str
            Which numbers.
        epoch : int
            When, from 1.

        Returns
        -------
        ValueError
            With advice.
        """
        return ValueError(
            f"{what} in epoch {epoch}. A lower learning rate than lr={self.lr} or features scaled "
            "to a similar range, as by StandardScaler, may help."
        )

    def conclude(
        self,
        best_epoch: int,
        held_out: Callable[[], tuple | None],
        X: Any = None,
        y: Any = None,
    ) -> None:
        """Do what comes after the last epoch: notify, calibrate.

        Parameters
        ----------
        best_epoch : int
            The epoch, from 1, whose parameters the module has.
        held_out : callable
            Gives logits, class indices and weights of the held-out rows, and where to begin to
            look for the temperature; None where no rows were held out.
        X, y : array-like, default=None
            The rows, for callbacks.

        Raises
        ------
        ValueError
            If the net's parameters are not finite numbers.
        """
        self.best_epoch_ = best_epoch
        self.refuse_infinite_parameters()
        self.notify("on_train_end", X=X, y=y)
        self._calibrate(held_out())

    def refuse_infinite_parameters(self) -> None:
        """Refuse what the last step of all made infinite or NaN, after which there is no loss.

        Raises
        ------
        ValueError
            If the net's parameters are not finite numbers.
        """
        parameters = [
            value for name in self._modules for value in getattr(self, f"{name}_").parameters()
        ]
        if not all(parameter.isfinite().all() for parameter in parameters):
            raise self.diverged("The net's parameters turned infinite or NaN", self.best_epoch_)

    def _calibrate(self, held_out: tuple | None) -> None:
        """Fit the calibrator to the logits of held-out rows."""
        if self.calibration is None:
            self.calibrator_ = None
        elif held_out is not None:
            self.calibrator_ = self.fit_calibrator(*held_out)
        elif not hasattr(self, "calibrator_"):
            self.calibrator_ = None
            if self.train_split is not None:
                warn(
                    f"Too few rows to hold any out by train_split={self.train_split}: trained on "
                    "all of them, without calibration"
                    + (" and early stopping." if self.early_stopping else "."),
                    stacklevel=5,
                )

    def fit_calibrator(
        self,
        logits: NDArray,
        y: NDArray,
        sample_weight: NDArray | None,
        start: float | None = None,
        *,
        warn: bool = True,
    ) -> Any:
        """Fit a calibrator as `calibration` says.

        Parameters
        ----------
        logits : ndarray of shape (n_samples, n_classes)
            Logits of rows that were not trained on.
        y : ndarray of shape (n_samples,)
            Their class indices.
        sample_weight : ndarray of shape (n_samples,) or None
            Their weights.
        start : float or None, default=None
            The inverse temperature to begin with.
        warn : bool, default=True
            Whether to warn of a temperature that does not settle.

        Returns
        -------
        object
            The calibrator.

        Raises
        ------
        ValueError
            If logits are not finite, or the calibrator gives probabilities of another shape.
        """
        if not np.isfinite(logits).all():
            raise self.diverged(BAD_LOGITS, self.best_epoch_)
        if isinstance(self.calibration, str):
            kind = CALIBRATORS[self.calibration]
            scaling = kind(prior_strength=PRIOR_STRENGTH)
            return scaling.solve(logits, y, sample_weight, start=start, warn=warn)
        calibrator: Any = clone(self.calibration, safe=False)
        weights = {}
        if sample_weight is not None and has_fit_parameter(calibrator, "sample_weight"):
            weights = {"sample_weight": sample_weight}
        calibrator.fit(logits, y, **weights)
        shape = np.shape(calibrator.predict_proba(logits))
        if shape != logits.shape:
            raise ValueError(
                f"calibration={self.calibration!r} gave probabilities of shape {shape} for logits "
                f"of shape {logits.shape}; perhaps a class is missing from the held-out rows. Use "
                "calibration='temperature', or hold out more rows by train_split."
            )
        return calibrator

    def get_loss(
        self, y_pred: Any, y_true: Any, X: Any = None, training: bool = False
    ) -> torch.Tensor:
        """Compute the loss of a batch. A hook of skorch's.

        Parameters
        ----------
        y_pred : tensor of shape (n, n_classes), or a tuple that ends in one
            The module's output.
        y_true : tensor of shape (n,), int64
            Class indices.
        X : tensor
            Inputs; not used.
        training : bool
            Whether the batch is trained on; not used.

        Returns
        -------
        tensor of shape ()
            The mean loss, weighted by the batch's weights where it has any.

        Raises
        ------
        ValueError
            If the logits have another width than the number of classes.
        """
        logits = self.read_logits(y_pred)
        n_classes = len(self.classes_inferred_) if hasattr(self, "classes_inferred_") else None
        check_width(self.module, logits, n_classes)
        y_true = to_tensor(y_true, device=self.device)
        weight = None if self._training is None else self._training.batch_weight
        if weight is None:
            return self.criterion_(logits, y_true)
        return mean_loss(self.criterion_, logits, y_true, weight)

    def read_logits(self, output: Any) -> torch.Tensor:
        """Read the logits from the module's output.

        Parameters
        ----------
        output : tensor or tuple of tensors
            What ``forward`` returned.

        Returns
        -------
        tensor of shape (n, n_classes), float32
            The logits.
        """
        output = float_logits(output)
        criterion = getattr(self, "criterion_", None)  # a subclass may name it otherwise
        if isinstance(criterion, torch.nn.NLLLoss):  # with which skorch's modules give
            return torch.log(output + torch.finfo(output.dtype).eps)  # probabilities
        return output

    # -- prediction ---------------------------------------------------------------------------

    def _labels(self, codes: NDArray) -> NDArray:
        # In training, callbacks compare with the class indices that the batches have. A bare
        # fit_loop knows no labels.
        if self._training is not None or not hasattr(self, "classes_inferred_"):
            return codes
        return self.classes_[codes]

    @property
    def classes_(self) -> NDArray:
        """The labels, in the order of the columns of ``predict_proba``."""
        if "classes_inferred_" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no classes_ before fit.")
        return self.classes_inferred_

    def forward_iter(
        self, X: Any, training: bool = False, device: Any = "cpu"
    ) -> Iterator[torch.Tensor]:
        """Give the module's output, a chunk of rows at a time. A hook of skorch's.

        Parameters
        ----------
        X : array-like, tensor or torch Dataset
            Inputs.
        training : bool, default=False
            Whether the module is in training mode: dropout acts.
        device : str or torch.device, default="cpu"
            Where the output goes.

        Yields
        ------
        tensor, or tuple of tensors
            The module's output for the rows of a chunk.
        """
        if not isinstance(X, torch.Tensor | np.ndarray) or self.dataset is not TensorRows:
            yield from super().forward_iter(X, training=training, device=device)
            return
        rows = to_tensor(X, device="cpu")
        for chunk in rows.split(self.rows_at_once() or PREDICTION_ROWS):
            output = self.evaluation_step((chunk, None), training=training)
            yield _to(output, device)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Give calibrated probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions, or torch Dataset
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
        to_probabilities = self._to_probabilities()  # refuses a wrong predict_nonlinearity
        return to_probabilities(self._logits(X))

    def _to_probabilities(self) -> Callable[[NDArray], NDArray]:
        """Give what turns logits, which it may overwrite, into probabilities."""
        if self.predict_nonlinearity != "auto":
            nonlinearity = self._get_predict_nonlinearity()
            return lambda logits: to_numpy(nonlinearity(torch.from_numpy(logits)))
        calibrator = getattr(self, "calibrator_", None)
        if calibrator is None:
            return softmax_in_place
        if type(calibrator) in CALIBRATORS.values():
            return calibrator.apply_in_place
        return calibrator.predict_proba

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Give the logarithm of the calibrated probabilities, finite where those underflow.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions, or torch Dataset
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
        calibrator: Any = getattr(self, "calibrator_", None)
        if self.predict_nonlinearity == "auto" and calibrator is None:
            return log_softmax(self._logits(X), axis=1)
        if self.predict_nonlinearity == "auto" and hasattr(calibrator, "predict_log_proba"):
            with np.errstate(divide="ignore"):  # what underflows is mended below
                log_proba = calibrator.predict_log_proba(self._logits(X))
        else:
            log_proba = None
        if log_proba is None or not np.isfinite(log_proba).all():
            smallest = np.finfo(np.float64).tiny
            return np.log(np.maximum(self.predict_proba(X), smallest))
        return log_proba

    def _logits_and_probabilities(self, X: Any) -> tuple[NDArray, NDArray]:
        to_probabilities = self._to_probabilities()
        logits = self._logits(X)
        return logits[None], to_probabilities(logits.copy())

    def _logits(self, X: Any) -> NDArray[np.float64]:
        """Check rows and run them through the net."""
        if "module_" not in self.__dict__:  # scikit-learn's check costs as much as a layer
            self.check_is_fitted()
        if not (is_dataset(X) or _is_several_inputs(X) or self._training is not None):
            X = self._check_rows(X)
        logits = self._all_logits(X)
        return logits if math.isfinite(logits.sum()) else _mend_overflow(logits)

    def _all_logits(self, X: Any) -> NDArray[np.float64]:
        """Run rows through the net; where nothing stands in for skorch's hooks, without them."""
        hooks = ("forward_iter", "evaluation_step", "infer")
        if not isinstance(X, torch.Tensor) or overrides(self, *hooks) or len(self._modules) > 1:
            chunks = (to_numpy(self.read_logits(output)) for output in self.forward_iter(X))
            n_rows = None if isinstance(X, IterableDataset) else get_len(X)
            return _in_one_array(chunks, n_rows)
        if self.module_.training:
            self._set_training(False)
        with torch.no_grad():
            at_once = self.rows_at_once() or PREDICTION_ROWS
            with threads_for_rows(self.module_, min(X.shape[0], at_once)):
                if X.shape[0] <= at_once:
                    return self._forward(X).astype(np.float64)
                return _in_one_array(map(self._forward, X.split(at_once)), len(X))

    def _forward(self, X: torch.Tensor) -> NDArray[np.float32]:
        rows = fill_up(X)
        if self.device != "cpu":
            rows = _to(rows, self.device)
        return self.read_logits(self.module_(rows)).cpu().numpy()[: X.shape[0]]

    def _check_rows(self, X: Any) -> torch.Tensor:
        X = _as_array(X)
        if self._is_plain_table(X):  # whose check costs more than one row's way through the net
            rows = np.ascontiguousarray(X)
            if rows.dtype != np.float32:
                with np.errstate(over="ignore"):
                    rows = rows.astype(np.float32)
            if math.isfinite(rows.sum(dtype=np.float64)):
                return _as_tensor(rows)
        if hasattr(self, "n_features_in_"):
            X = validate_data(self, X, reset=False, **_FLOAT32_ROWS)
        return _as_tensor(np.asarray(X, dtype=np.float32))

    def _is_plain_table(self, X: Any) -> bool:
        """Tell whether X is an array of numbers of the shape that was trained on, without names."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in (np.float32, np.float64)
            and len(X) > 0
            and X.shape[1] == self.__dict__.get("n_features_in_")
            and "feature_names_in_" not in self.__dict__
        )


class _Joined:
    """Chunks of rows, joined in one array made beforehand, lest they break up the memory.

    Freed memory between small arrays that stay is too small for the next chunk's activations.

    Parameters
    ----------
    n_rows : int or None
        How many rows will come, if that is known.
    dtype : numpy dtype, default=None
        Of the array; None: that of the first chunk.
    """

    def __init__(self, n_rows: int | None, dtype: Any = None) -> None:
        self.n_rows = n_rows
        self.dtype = dtype
        self.array = np.empty(0)
        self.end = 0

    def add(self, chunk: NDArray) -> None:
        """Take in the next rows."""
        begin, self.end = self.end, self.end + len(chunk)
        if begin == 0 and len(chunk) == self.n_rows:
            self.array = chunk if self.dtype is None else chunk.astype(self.dtype)
            return
        if begin == 0:
            self.array = self._make(self.n_rows or len(chunk), chunk)
        if self.end > len(self.array):
            grown = self._make(2 * self.end, chunk)
            grown[:begin] = self.array[:begin]
            self.array = grown
        self.array[begin : self.end] = chunk

    def _make(self, n_rows: int, like: NDArray) -> NDArray:
        return np.empty((n_rows, *like.shape[1:]), self.dtype or like.dtype)

    def get(self) -> NDArray:
        """Give all rows."""
        return self.array[: self.end]


def _refuse_no_batches(batches: Any) -> None:
    if isinstance(batches, TensorBatches) and len(batches) == 0:
        raise ValueError(
            f"The {batches.n_rows} rows to train on are fewer than batch_size="
            f"{batches.batch_size}, and drop_last leaves out a batch that is not full."
        )


@cache
def _named_params(estimator: Any) -> frozenset[str]:
    """Give the names of the parameters that a class, or one it derives from, spells out."""
    return frozenset(
        name
        for parent in estimator.__mro__[:-1]
        for name, parameter in signature(parent).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    )


def fill_up(X: torch.Tensor) -> torch.Tensor:
    """Add copies of the first row, so that a row's logits do not depend on its company.

    The rows of a matrix product are rounded alike only where their number fills the blocks that
    the product is made of.

    Parameters
    ----------
    X : tensor of shape (n, ...)
        Rows.

    Returns
    -------
    tensor of shape (m, ...)
        The same rows, perhaps with copies of the first behind them, m being a multiple of 16.
    """
    n_missing = -X.shape[0] % ROWS_OF_A_BLOCK
    if n_missing == 0:
        return X
    if X.shape[0] == 1:
        return X.expand(ROWS_OF_A_BLOCK, *X.shape[1:])
    return torch.cat([X, X[:1].expand(n_missing, *X.shape[1:])])


def _nearest_name(name: str, known: Sequence[str]) -> str | None:
    """Find the known name nearest to `name`, whatever the order of its words."""
    for part in PARTS:
        if name.startswith(part):
            return f"{part}__{name.removeprefix(part).lstrip('_')}"
    in_order = {"_".join(sorted(candidate.split("_"))): candidate for candidate in known}
    sought = "_".join(sorted(name.split("_")))
    for candidates, word in ((in_order, sought), ({k: k for k in known}, name)):
        nearest = get_close_matches(word, candidates, n=1)
        if nearest:
            return candidates[nearest[0]]
    return None


def _check_device(device: Any) -> None:
    """Refuse a device that is not there, before torch does so in the middle of a fit."""
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        has_cuda = torch.cuda.is_available()
        there = f"{torch.cuda.device_count()} CUDA device(s)" if has_cuda else "no CUDA device"
        raise ValueError(
            f"device={device!r} cannot be used here: {error}. PyTorch sees {there} on this "
            "machine; device='cpu' always works."
        ) from error


def _are_codes(classes: NDArray) -> bool:
    """Tell whether classes are 0, 1, ..., so that each is its own class index."""
    return np.array_equal(classes, np.arange(len(classes)))


def _refuse_missing(labels: Any, name: str) -> None:
    import pandas as pd

    if labels is not None and pd.isna(np.asarray(labels)).any():
        raise ValueError(f"Input {name} contains NaN or None; remove those rows.")


def _is_several_inputs(X: Any) -> bool:
    """Tell whether X is a dict of inputs, by the names of the arguments of `forward`."""
    return isinstance(X, Mapping) and not issparse(X)


def _as_array(data: Any) -> Any:
    """Give a tensor as an array, and anything else as it is."""
    return to_numpy(data) if isinstance(data, torch.Tensor) else data


def _in_one_array(chunks: Iterable[NDArray], n_rows: int | None) -> NDArray[np.float64]:
    """Join chunks of rows, whose number may be known."""
    joined = _Joined(n_rows, np.float64)
    for chunk in chunks:
        joined.add(chunk)
    return joined.get()


def _as_tensor(X: NDArray) -> torch.Tensor:
    return torch.from_numpy(X if X.flags.writeable else X.copy())


def _to(output: Any, device: Any) -> Any:
    if device is None:
        return output
    if isinstance(output, tuple):
        return tuple(part.to(device) for part in output)
    return output.to(device)


def _mend_overflow(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take infinite logits for the largest number that float32 has; refuse NaN."""
    rows = np.isnan(logits).any(axis=-1)
    if rows.any():
        raise ValueError(
            f"The module's output is NaN for {rows.sum()} of {len(logits)} rows. Their features "
            "may be far larger than those of the rows trained on."
        )
    largest = np.finfo(np.float32).max
    return np.clip(logits, -largest, largest)


def _copy_instance(part: Any) -> Any:
    """Copy a part given as an instance, so that training leaves the parameter as it was."""
    return copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part


def _name(module: Any) -> str:
    return getattr(module, "__name__", type(module).__name__)
