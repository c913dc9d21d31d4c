"""LabelSmoothingClassifier: a skorch net with smoothed labels and calibrated probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from skorch.dataset import get_len
from skorch.utils import is_dataset, to_numpy
from torch.utils.data import IterableDataset

from sksmooth._adapters import WithoutClassWeight, fit_given
from sksmooth._batches import TensorRows, make_batches
from sksmooth._callbacks import FitTask, heard
from sksmooth._checks import check_whole, in_short, warn_user
from sksmooth._net import SmoothedNet
from sksmooth._pool import few_logits
from sksmooth._predict import (
    LARGE_PARAMETER,
    ROWS_THAT_TELL,
    PredictsByProbability,
    fill_up,
    finite_log,
    in_one_array,
    largest_parameter,
    log_probabilities,
    mend_overflow,
    probabilities,
    rows_that_pay,
    warn_of_probabilities,
    whole_blocks,
)
from sksmooth._private import CallbackSupportMixin
from sksmooth._rows import (
    Table,
    as_array,
    check_inputs,
    check_new_rows,
    check_rows,
    is_several_inputs,
)
from sksmooth._session import loaded_epoch
from sksmooth.calibration import CALIBRATORS
from sksmooth.engine.monitor import BAD_LOGITS, PRIOR_STRENGTH
from sksmooth.engine.plan import choose_patience, overrides
from sksmooth.engine.randomness import fits_anywhere, single_precision, works_anywhere
from sksmooth.engine.stack import uncached_autocast
from sksmooth.engine.threads import threads_for
from sksmooth.losses import LabelSmoothingLoss
from sksmooth.modules import SimpleNet, input_dtype, suited, suited_copy, telling
from sksmooth.smoothing import check_smoothing


class LabelSmoothingClassifier(PredictsByProbability, CallbackSupportMixin, SmoothedNet):
    """A neural classifier with smoothed labels and calibrated probabilities.

    Smoothing the labels often makes a net more accurate and always makes its confidence wrong.
    This classifier stops training where the refined loss on rows that were not trained on is best,
    and fits a temperature to them, so that ``predict_proba`` can be trusted.

    It is a :class:`skorch.NeuralNetClassifier`: all of skorch's parameters, callbacks and methods
    work. It is a scikit-learn classifier too: it goes into pipelines, searches and ensembles.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    module : torch module (class or instance), default=SimpleNet
        Returns logits of shape (n, n_classes), or a tuple whose last item is the logits. Of shape
        (n, members, n_classes), as TabM gives them: each member's loss counts in training, and the
        mean of their probabilities in prediction. Where its constructor takes `n_features` or
        `n_classes`, they are filled in from the data. An instance is copied before it is trained.
    label_smoothing : float, default=0.1
        The mass ε taken from the true class, in [0, 1).
    smoothing : {"uniform", "off_target", "prior"} or array-like of shape (K, K), default="uniform"
        Where that mass goes, see :func:`sksmooth.smoothing_matrix`.
    calibration : {"norm_temperature", "temperature"}, object or None, default="norm_temperature"
        How logits become probabilities, learnt from the held-out rows: by
        :class:`~sksmooth.calibration.NormTemperatureScaling`, by
        :class:`~sksmooth.calibration.TemperatureScaling`, by any object with ``fit(logits, y)`` and
        ``predict_proba(logits)``, by one of probmetrics such as ``get_calibrator("svs")``, or not
        at all. One that takes probabilities goes behind a softmax:
        ``make_pipeline(FunctionTransformer(scipy.special.softmax, kw_args={"axis": 1}), ...)``.
    class_weight : "balanced", dict or None, default=None
        Weights of the classes, as in scikit-learn; they multiply the rows' weights, so that the
        probabilities are those of rows so weighed: with "balanced" a rare class has a higher one
        than its frequency, see `calibration_weight`. Smoothing is not skewed by it, as it is by
        ``criterion__weight``, which weighs the smoothed mass by the class that it goes to, as
        torch's ``CrossEntropyLoss`` does.
    calibration_weight : {"weighted", "unweighted"}, default="weighted"
        Whether the probabilities are those of rows that `class_weight` weighs, or of rows as they
        come, for which they are divided by the weights of their classes. `sample_weight` counts
        for both. Without calibration it has no effect.
    random_state : int, RandomState instance or None, default=None
        Seeds the initial weights, the held-out rows, shuffling and dropout. torch's global
        generator is left as it was. As everywhere in scikit-learn, None draws a seed from numpy's
        global generator.
    early_stopping : bool, default=True
        Stop when the refined loss on the held-out rows has not fallen for `patience` epochs, and
        go back to the epoch where it was lowest.
    patience : int or "auto", default="auto"
        See `early_stopping`. "auto": 25, but 100 of up to 64 rows, whose epochs are few steps.
    criterion : torch criterion (class or instance), default=LabelSmoothingLoss
        Gets the logits, the class indices and, in its attributes `label_smoothing` and `smoothing`,
        the values given here. ``torch.nn.CrossEntropyLoss`` serves for uniform smoothing, and any
        criterion for ``label_smoothing=0``.
    optimizer : torch optimizer (class), default=torch.optim.AdamW
        The update rule.
    lr : float, default=0.002
        The learning rate.
    max_epochs : int, default=150
        The most epochs of a fit.
    max_time : float or None, default=None
        Seconds after which no further epoch of a call begins. In a search in lockstep, of which
        each net has as many; in LabelSmoothingClassifierCV, of all nets together.
    batch_size : int or "auto", default="auto"
        Rows per mini-batch; -1 takes all at once. "auto": 64, but 8 in a table of up to 64 rows,
        16 of up to 128 and 32 of up to 256, so that an epoch is more than a step or two.
    iterator_train, iterator_valid : callable, default=make_batches
        Make the iterator over a dataset's mini-batches: called with the dataset and `batch_size`.
        Training rows are shuffled unless ``iterator_train__shuffle=False``.
    dataset : torch Dataset (class), default=TensorRows
        Holds the rows.
    train_split : "auto", int, float, callable or None, default="auto"
        What early stopping and calibration look at. An int, of folds: all rows, each scored by
        another net that did not see it; for every fold such a net is trained beside this one. A
        float: that fraction of the rows, which are then not trained on. Both are drawn by
        `random_state`, stratified by class. A callable such as :class:`skorch.dataset.ValidSplit`:
        the rows that it holds out. None: nothing. "auto": 5 folds of up to 2,000 rows, for a module
        of up to 100,000 numbers; else, or where rows are not in memory, nets of its kind cannot be
        stacked, ``warm_start`` is set, a callback may change it (all but ``ProgressBar``,
        ``Checkpoint`` and the like) or nothing is stopped nor calibrated, a fifth of the rows.
        ``partial_fit`` holds out a fraction, for k folds one in k. Copies of a row stay together.
    callbacks : list of skorch callbacks, "disable" or None, default=None
        See skorch. scikit-learn's, from its version 1.9 on, are set by ``set_callbacks``.
    predict_nonlinearity : "auto", callable or None, default="auto"
        "auto" applies the calibrator, or the softmax where there is none. A callable replaces
        both, and None gives the module's output as it is.
    warm_start : bool, default=False
        Let ``fit`` train the fitted net further instead of starting anew.
    verbose : int, default=0
        Print a table of the epochs, with the time (h:mm:ss) that those up to `max_epochs` and
        `max_time` take at most: early stopping may come sooner.
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
    temperature_ : float or None
        The calibrator's temperature, with the default calibration that of a row whose logits have
        the mean norm; None where it has none.
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
    class_weight_ : ndarray of shape (n_classes,) or None
        The weights that `class_weight` gave the classes.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
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

    def __init__(
        self,
        module: Any = SimpleNet,
        *,
        label_smoothing: float = 0.1,
        smoothing: str | ArrayLike | torch.Tensor = "uniform",
        calibration: Any = "norm_temperature",
        class_weight: str | dict | None = None,
        calibration_weight: str = "weighted",
        random_state: int | np.random.RandomState | None = None,
        early_stopping: bool = True,
        patience: int | str = "auto",
        criterion: Any = LabelSmoothingLoss,
        optimizer: Any = torch.optim.AdamW,
        lr: float = 0.002,
        max_epochs: int = 150,
        max_time: float | None = None,
        batch_size: int | str = "auto",
        iterator_train: Callable = make_batches,
        iterator_valid: Callable = make_batches,
        dataset: Any = TensorRows,
        train_split: str | float | Callable | None = "auto",
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
        self.calibration_weight = calibration_weight
        self.random_state = random_state
        self.early_stopping = early_stopping
        self.patience = patience
        self.optimizer = optimizer
        self.lr = lr
        self.max_epochs = max_epochs
        self.max_time = max_time
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

    # -- training -----------------------------------------------------------------------------

    @fits_anywhere
    def fit(
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> LabelSmoothingClassifier:
        """Train the net and calibrate it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions, or torch Dataset
            Training rows. Any real dtype, taken to float32, which is exact for integers to 2**24,
            such as an Embedding's; numbers scaled to a similar range, as by StandardScaler. A
            Dataset gives pairs (X, label) and is read batch by batch.
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
        goes_on = self.initialized_ and self.warm_start
        with self.unchanged_on_error(in_place=goes_on):
            self.check_parameters()
            knows_rows = goes_on and hasattr(self, "classes_inferred_")
            known = self.classes_inferred_ if knows_rows else self.classes
            table = check_rows(self, X, y, sample_weight, known, reset=not knows_rows)
            if goes_on:
                check_smoothing(self.smoothing, len(table.classes))
                if not knows_rows:
                    table.introduce_to(self)
            else:
                self.prepare(table)
            with heard(self, X, y, sample_weight, self.max_epochs) as task:
                self._train(table, self.max_epochs, task, fit_params, "fit")
        return self

    def prepare(self, table: Table) -> None:
        """Build the parts, whose parameters were checked, for rows that were checked.

        Parameters
        ----------
        table : Table
            The rows.
        """
        table.introduce_to(self)
        check_smoothing(self.smoothing, len(table.classes))
        with self.building():  # a mixin may initialize in an order of its own
            self.initialize()
        table.warn_who_takes_numbers(getattr(self, "module_", None))

    @fits_anywhere
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

        Some rows are held out, as in ``fit``, to calibrate the net anew: the same where they come
        again in the same order. The calibrator stays where they are too few, or were trained on.

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
        check_whole("epochs", epochs)
        first = not hasattr(self, "classes_inferred_")
        with self.unchanged_on_error(in_place=self.initialized_):
            self.check_parameters()
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
                    f"classes={in_short(classes)} is not the same as on the first call of "
                    f"partial_fit, {in_short(known)}."
                )
            table = check_rows(self, X, y, sample_weight, known, reset=first)
            if first:
                table.introduce_to(self)
            check_smoothing(self.smoothing, len(table.classes))
            if not self.initialized_:
                with self.building():
                    self.initialize()
            with heard(self, X, y, sample_weight, epochs) as task:
                self._train(table, epochs, task, fit_params, "partial_fit")
        return self

    def _train(
        self, table: Table, epochs: int, task: FitTask, fit_params: dict, method: str
    ) -> None:
        """Run the epochs, go back to the best one, calibrate."""
        if hasattr(self, "criterion_"):
            self.set_smoothing()
        self.class_weight_ = table.class_weight
        table.warn_who_takes_numbers(getattr(self, "module_", None))
        rows, y = table.rows, table.codes
        X = rows.X if isinstance(rows, TensorRows) else rows
        self.refuse_fit_params(fit_params, method)
        patience = choose_patience(self, rows) if method == "fit" else None
        with self.in_training(patience, task) as training, single_precision():
            self.notify("on_train_begin", X=X, y=y)
            self.fit_loop(rows, y, epochs=epochs, _routing_method=method, **fit_params)
            monitor = training.monitor
            since_best = 0 if monitor is None else monitor.epochs_since_best(0)
            self.conclude(len(self.history) - since_best, training.held_out_logits, X, y)
            is_simple = type(vars(self).get("module_")) in (type(None), SimpleNet)
            has_held_out = monitor is not None and monitor.best is not None
            is_told = is_simple or fit_params or has_held_out
            if isinstance(X, torch.Tensor) and not is_told:
                some = X[:ROWS_THAT_TELL]
                warn_of_probabilities(self, self._all_logits(some), some)
        self._trains_on = method == "partial_fit"
        task.end()

    def conclude(
        self,
        best_epoch: int,
        held_out: Callable[[], tuple | None],
        X: Any,
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
        X, y : array-like
            The rows that were trained on.

        Raises
        ------
        ValueError
            If the net's parameters or its logits are not finite numbers.
        """
        self.best_epoch_ = best_epoch
        self.refuse_overflow(X)
        self.notify("on_train_end", X=X, y=y)
        self.best_epoch_ = loaded_epoch(self, best_epoch)
        scored = held_out()
        self._calibrate(scored)
        if scored is not None:
            warn_of_probabilities(self, scored[0], X)

    def refuse_overflow(self, X: Any) -> None:
        """Refuse what the last step of all made infinite or NaN, after which there is no loss.

        Parameters
        ----------
        X : array-like
            Rows that were trained on; a tensor's are run through a net of large parameters.

        Raises
        ------
        ValueError
            If the net's parameters, or its logits of these rows, are not finite numbers.
        """
        largest = largest_parameter(getattr(self, f"{name}_") for name in self._modules)
        what = None if largest < np.inf else "parameters"
        if LARGE_PARAMETER < largest < np.inf and isinstance(X, torch.Tensor):
            what = None if np.isfinite(self._all_logits(X)).all() else "logits"
        if what is not None:
            raise self.diverged(f"The net's {what} turned infinite or NaN", self.best_epoch_)

    def _calibrate(self, held_out: tuple | None) -> None:
        """Fit the calibrator to the logits of held-out rows."""
        if self.calibration is None:
            self.calibrator_ = None
        elif held_out is not None:
            self.calibrator_ = self.fit_calibrator(*held_out)
        elif not hasattr(self, "calibrator_"):
            self.calibrator_ = None
            if self.train_split is not None:
                warn_user(
                    f"Too few rows to hold any out by train_split={self.train_split!r}: trained on "
                    "all of them, without calibration"
                    + (" and early stopping." if self.early_stopping else "."),
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
        object or None
            The calibrator; None where `calibration` is.

        Raises
        ------
        ValueError
            If logits are not finite, or the calibrator gives probabilities of another shape.
        """
        if self.calibration is None:
            return None
        if not np.isfinite(logits).all():
            raise self.diverged(BAD_LOGITS, self.best_epoch_)
        if isinstance(self.calibration, str):
            kind = CALIBRATORS[self.calibration]
            calibrator: Any = kind(prior_strength=PRIOR_STRENGTH)
            calibrator.solve(logits, y, sample_weight, start=start, warn=warn)
        else:
            calibrator = fit_given(self.calibration, logits, y, sample_weight)
        if self.calibration_weight == "unweighted" and self.class_weight_ is not None:
            return WithoutClassWeight(calibrator, self.class_weight_)
        return calibrator

    # -- prediction ---------------------------------------------------------------------------

    def _labels(self, codes: NDArray) -> NDArray:
        # In training, callbacks compare with the class indices that the batches have. A bare
        # fit_loop knows no labels.
        if self._training is not None or not hasattr(self, "classes_"):
            return codes
        return self.classes_[codes]

    @works_anywhere
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
        if self.predict_nonlinearity == "auto":
            return probabilities(self.logits(X), self._calibrator())
        nonlinearity = self._get_predict_nonlinearity()  # refuses a wrong one
        return to_numpy(nonlinearity(torch.from_numpy(self.logits(X))))

    @property
    def temperature_(self) -> float | None:
        """The calibrator's temperature."""
        return getattr(self.calibrator_, "temperature_", None)

    def _calibrator(self) -> Any:
        calibrator = getattr(self, "calibrator_", None)
        if calibrator is None:
            self.warn_if_never_calibrated()
        return calibrator

    def warn_if_never_calibrated(self) -> None:
        """Warn if the net is built but was never fitted, so that it has no calibrator yet."""
        is_known = "calibrator_" in self.__dict__ or self._training is not None
        if self.initialized_ and self.calibration is not None and not is_known:
            warn_user(
                f"This {type(self).__name__} was initialized, but never fitted: probabilities are "
                "not calibrated. Fit it, or set calibrator_ to that of the net whose parameters "
                "were loaded.",
            )

    @works_anywhere
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
        if self.predict_nonlinearity == "auto" and not overrides(self, "predict_proba"):
            return log_probabilities(self.logits(X), self._calibrator())
        return finite_log(self.predict_proba(X))

    @works_anywhere
    def logits(self, X: Any) -> NDArray[np.float64]:
        """Check rows and run them through the net."""
        if "module_" not in self.__dict__:  # scikit-learn's check costs as much as a layer
            self.check_is_fitted()
        X = as_array(X)
        if is_several_inputs(X):
            X = check_inputs(X)
        elif not (is_dataset(X) or self._training is not None):
            X = check_new_rows(self, X)
        return self.logits_of(X)

    def logits_of(self, X: Any) -> NDArray[np.float64]:
        """Run rows that were checked through the net.

        Parameters
        ----------
        X : tensor, torch Dataset or dict of inputs
            The rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            The logits, all finite.
        """
        with telling():
            logits = self._all_logits(X)
        return logits if np.isfinite(logits).all() else mend_overflow(logits)

    def _all_logits(self, X: Any) -> NDArray[np.float64]:
        """Run rows through the net; where nothing stands in for skorch's hooks, without them."""
        hooks = ("forward_iter", "evaluation_step", "infer")
        if not isinstance(X, torch.Tensor) or overrides(self, *hooks) or len(self._modules) > 1:
            chunks = (to_numpy(self.read_logits(output)) for output in self.forward_iter(X))
            n_rows = None if isinstance(X, IterableDataset) else get_len(X)
            logits = in_one_array(chunks, n_rows)
            if logits.ndim < 2:
                raise ValueError(f"X is a {type(X).__name__} without any rows.")
            return logits
        few = few_logits(self, [self.module_], X)
        if few is not None:
            return few
        if self.module_.training:
            self._set_training(False)
        with torch.no_grad(), single_precision(), uncached_autocast():
            n_numbers = X[0].numel()
            at_once, block = whole_blocks(self.rows_at_once() or rows_that_pay(n_numbers))
            with threads_for(self.module_, min(X.shape[0], at_once), n_numbers):
                if X.shape[0] <= at_once:
                    return self._forward(X, block).astype(np.float64)
                chunks = (self._forward(rows, block) for rows in X.split(at_once))
                return in_one_array(chunks, len(X))

    def _forward(self, X: torch.Tensor, block: int) -> NDArray[np.float32]:
        rows = fill_up(X, block)
        if self.device != "cpu":
            rows = rows.to(self.device)
        suit = suited if type(self.module_) is SimpleNet else suited_copy
        rows = suit(rows, input_dtype(self.module_))
        return self.read_logits(self.module_(rows)).cpu().numpy()[: X.shape[0]]
