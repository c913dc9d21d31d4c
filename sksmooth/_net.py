"""The skorch side of the classifier: its parts, its batches, its hooks, its epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import skorch.dataset
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import process_routing
from skorch.callbacks import Callback, EpochTimer
from skorch.dataset import get_len
from skorch.history import History
from skorch.utils import is_dataset, to_device, to_numpy, to_tensor
from torch.utils.data import Dataset, Subset

from sksmooth._batches import (
    FEW_ROWS,
    USUAL_BATCH_SIZE,
    TensorBatches,
    TensorRows,
    choose_batch_size,
    encoded,
    has_weights,
    make_batches,
)
from sksmooth._callbacks import FitTask
from sksmooth._checks import naming
from sksmooth._copies import hold_out_whole
from sksmooth._labels import distinct
from sksmooth._load import StoredNet, copy_part
from sksmooth._params import naming_part, refuse_another_smoothing, warn_of_unused_groups
from sksmooth._predict import PREDICTION_ROWS
from sksmooth._private import routing_enabled
from sksmooth._progress import go_on, load_parts, random_state_of, seed_of_split, state_of
from sksmooth._rows import check_new_rows
from sksmooth._session import (
    BestFlag,
    EpochTable,
    Session,
    Training,
    arranged,
    learned_so_far,
    show,
)
from sksmooth.engine.loop import Epoch, train
from sksmooth.engine.monitor import Monitor
from sksmooth.engine.plan import N_FOLDS, choose_folds, overrides
from sksmooth.engine.randomness import (
    ForwardRandomness,
    OwnRandomness,
    fits_anywhere,
    single_precision,
)
from sksmooth.engine.stack import uncached_autocast
from sksmooth.engine.targets import (
    check_logits,
    float_logits,
    logits_of,
    members_as_rows,
    pooled,
)
from sksmooth.engine.threads import threads_for
from sksmooth.losses import mean_loss, telling_of_criterion
from sksmooth.modules import SimpleNet, input_dtype, suited

if TYPE_CHECKING:
    from typing_extensions import Self


class SmoothedNet(StoredNet):
    """A skorch net whose parts know of smoothed labels, and whose epochs are the engine's.

    :class:`~sksmooth.LabelSmoothingClassifier` makes a scikit-learn classifier of it.
    """

    # skorch sets these on the instance, in __init__ and while it initializes. On the class they
    # leave __init__ with nothing to do but store parameters.
    initialized_ = False
    history_ = None
    virtual_params_: dict[str, Callable] = {}  # noqa: RUF012

    # What a training that is going on knows, and skorch's hooks have no argument for.
    _training: Training | None = None

    # By which seeds rows were held out of tables that were trained on, by their fingerprints.
    _held_out_by: dict[int, int | None] = {}  # noqa: RUF012

    # Parameters of the classifier.
    label_smoothing: Any
    smoothing: Any
    random_state: Any
    max_epochs: Any
    max_time: Any
    classes: Any

    # -- data ---------------------------------------------------------------------------------

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
            with naming_part(self, "dataset"):
                dataset = super().get_dataset(X, y)
                if not hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
                    raise TypeError(f"it gives no torch Dataset, but {dataset!r}.")
                return dataset
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
            with naming("train_split"):
                dataset_train, dataset_valid = self.train_split(dataset, *labels, **fit_params)
            return dataset_train, self._encode_given(dataset_valid)
        if self.train_split is None:
            return dataset, None
        split = 1 / N_FOLDS if self.train_split == "auto" else self.train_split
        share = split if split < 1 else 1 / split  # of k folds, one
        seed = seed_of_split(self, dataset, self.draw_seed())
        if seed is None:
            return dataset, None
        train, held_out = hold_out_whole(dataset, y, share, seed)
        if held_out is None:
            return dataset, None
        indices: list[Any] = [train, held_out]
        dataset_train, dataset_valid = (Subset(dataset, index) for index in indices)
        return dataset_train, dataset_valid

    def _encode_given(self, held_out: Any) -> Dataset | None:
        """Encode the labels of held-out rows that skorch's ``predefined_split`` was made with.

        Rows that a split makes of those it gets have class indices.
        """
        given = getattr(self.train_split, "keywords", {}).values()
        classes = getattr(self, "classes_inferred_", np.arange(0))  # unknown to a bare fit_loop
        if held_out is None or not (len(classes) and any(held_out is rows for rows in given)):
            return held_out
        if hasattr(getattr(held_out, "X", None), "columns"):  # no table to skorch
            held_out = skorch.dataset.Dataset(check_new_rows(self, held_out.X), held_out.y)
        first = next(iter(held_out), None)
        if first is None:
            return held_out
        return encoded(held_out, classes, skorch.dataset.unpack_data(first)[1])

    def _route(self, method: str, fit_params: dict[str, Any]) -> tuple[dict, dict]:
        """Give what `train_split` gets of `method`'s parameters, and what ``forward`` does."""
        if not routing_enabled():
            return fit_params, fit_params
        routed = process_routing(self, method, **fit_params)
        of_split = routed.get("splitter", {"split": {}})["split"]
        taken = set(map(id, of_split.values()))  # by the splitter, which may name them otherwise
        own = {k: v for k, v in fit_params.items() if self.passes_on(k) or id(v) not in taken}
        return of_split, own

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
        iterator = getattr(self, name)
        given: dict[str, Any] = {"shuffle": True} if training and iterator is make_batches else {}
        given |= self.get_params_for(name)
        asked: Any = given.get("batch_size", self.batch_size)
        with naming_part(self, name):
            given["batch_size"] = choose_batch_size(asked, dataset, training)
            batches: Any = iterator(dataset, **given)
            if not hasattr(batches, "__iter__"):
                raise TypeError(f"it gives no batches, but {batches!r}.")
        if not isinstance(batches, TensorBatches):
            if has_weights(dataset):
                raise ValueError(
                    f"sample_weight and class_weight need the default {name}, without parameters "
                    f"of DataLoader, and rows as they are or in a Subset; got "
                    f"{name}={_name(iterator)} with {self.get_params_for(name)} for a "
                    f"{type(dataset).__name__}."
                )
        elif training and self._merges_repeated(batches, asked):
            batches.merge_repeated()
        return batches

    def _merges_repeated(self, batches: TensorBatches, asked: int | str) -> bool:
        """Tell whether rows that repeat are to be weighted: so few of them, by a loss that can."""
        return (
            batches.n_rows <= (FEW_ROWS if asked == "auto" else batches.batch_size)
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
            ("print_log", EpochTable(sink=show)),
        ]

    def initialize_callbacks(self) -> Self:
        """Build the callbacks, in the order in which they are to be told. A hook of skorch's."""
        super().initialize_callbacks()
        self.callbacks_: list[tuple[str, Callback]] = arranged(self)
        return self

    def draw_seed(self) -> int:
        """Draw a seed: first for the parts, then for training, then for the held-out rows."""
        return self._drawing_from().randint(2**31 - 1)

    def _drawing_from(self) -> np.random.RandomState:
        if "_random_state" not in self.__dict__:  # a mixin may initialize in an order of its own
            self._random_state = check_random_state(self.random_state)
        return self._random_state

    @fits_anywhere
    def initialize(self) -> Self:
        """Build module, criterion, optimizer and callbacks, untrained.

        ``fit`` does this by itself. Before ``fit``, a module is built for the `n_features` and
        `n_classes` of its own defaults, or those given as ``module__n_features``.

        Returns
        -------
        Self
            Itself.
        """
        for name in ("progress", "calibrator_", "_held_out_by"):  # of parameters that are no more
            self.__dict__.pop(name, None)
        with self.building():
            return super().initialize()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Begin to draw from `random_state`, first of all what parts that are built draw."""
        self._random_state = check_random_state(self.random_state)
        with OwnRandomness(self.draw_seed()), single_precision():
            yield

    def initialize_history(self) -> Self:
        """Start a new history, of the kind given as `history`. A hook of skorch's."""
        self.history_ = copy.copy(vars(self).get("history", History()))
        self.history_.clear()
        return self

    def initialize_module(self) -> Self:
        """Build the module, for the data's numbers of features and classes. A hook of skorch's."""
        with naming_part(self, "module"):
            given = self.get_params_for("module")
            given.update(copy.deepcopy(getattr(self, "learned_", {})))
            sizes = {}
            if not isinstance(self.module, torch.nn.Module):
                if hasattr(self, "n_inputs_"):
                    sizes = {"n_features": self.n_inputs_, "n_classes": len(self.classes_inferred_)}
                elif self.classes is not None:
                    sizes = {"n_classes": len(distinct(self, self.classes, "classes"))}
                if self.module is not SimpleNet:  # which takes both
                    taken = signature(self.module).parameters
                    sizes = {name: size for name, size in sizes.items() if name in taken}
            self.module_ = self.initialized_instance(copy_part(self.module), {**sizes, **given})
            if not isinstance(self.module_, torch.nn.Module):
                raise TypeError(f"it gives no torch module, but {self.module_!r}.")
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
        parameters = list(named_parameters)
        warn_of_unused_groups(self, prefix, [name for name, _ in parameters])
        args, kwargs = super().get_params_for_optimizer(prefix, parameters)
        others = {"foreach", "fused", "capturable", "differentiable"} & set(kwargs)
        if self.optimizer in (torch.optim.Adam, torch.optim.AdamW) and not others:
            is_real = not any(p.is_complex() for group in args[0] for p in group["params"])
            is_fast = torch.device(self.device or "cpu").type in ("cpu", "cuda")
            kwargs["fused"] = is_real and is_fast
        return args, kwargs

    def initialize_optimizer(self) -> Self:
        """Build the optimizer. A hook of skorch's."""
        with naming_part(self, "optimizer"):
            super().initialize_optimizer()
            if not hasattr(self.optimizer_, "step"):
                raise TypeError(f"it gives no optimizer, but {self.optimizer_!r}.")
        return self

    def initialize_criterion(self) -> Self:
        """Build the criterion and tell it how to smooth. A hook of skorch's."""
        given = self.get_params_for("criterion")
        with naming_part(self, "criterion"):
            self.criterion_ = self.initialized_instance(copy_part(self.criterion), given)
            refuse_another_smoothing(self, self.criterion_)
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
        is_uniform = isinstance(self.smoothing, str) and self.smoothing == "uniform"
        smooths_unevenly = self.label_smoothing > 0 and not is_uniform
        if not hasattr(criterion, "smoothing") and smooths_unevenly:
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
        if not hasattr(criterion, "label_smoothing"):  # what it calls smoothing may be a number
            return
        for name, value in values.items():
            if hasattr(criterion, name) and not hasattr(self, f"criterion__{name}"):
                setattr(criterion, name, value)

    # -- training -----------------------------------------------------------------------------

    @contextmanager
    def in_training(
        self, patience: int | None = None, task: FitTask | None = None
    ) -> Iterator[Training]:
        """Be in training: callbacks meet class indices, and the batches' weights count.

        After `patience` epochs without a lower refined loss :meth:`fit_loop` stops; None: never.
        The `task` tells scikit-learn's callbacks of it.
        """
        if self._training is not None:
            yield self._training
            return
        self._training = training = Training(patience, task or FitTask())
        try:
            yield training
        finally:
            del self._training
            training.warn_of_unsaved()

    def draw_from(self, randomness: OwnRandomness | None) -> None:
        """Let the module's forward and callbacks draw from one's own generators, while in training.

        None: from torch's global ones, or from whatever holds around.
        """
        training = self._training
        if training is not None:
            training.randomness = randomness
            training.forward = None if randomness is None else ForwardRandomness(randomness)

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
        with training.randomness, threads_for(module, n_rows):
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
        if module is not None:
            x = suited(x, input_dtype(module))
        forward = None if self._training is None else self._training.forward
        n_rows = get_len(x)
        is_one = isinstance(x, torch.Tensor)
        n_numbers = x.numel() // max(n_rows, 1) if is_one else getattr(self, "n_inputs_", None)
        with threads_for(module, n_rows, n_numbers), single_precision(), uncached_autocast():
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
    ) -> Self:
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
        Self
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
        progress = self.__dict__.pop("progress", None)
        if _routing_method == "partial_fit":  # whose epochs are further ones
            progress = None
        if progress is not None:
            load_parts(self, progress)  # which callbacks may have changed when training began
            self._random_state = random_state_of(progress)
            self._held_out_by = dict(progress.get("held_out_by", ()))
        drawn_from = self._drawing_from().get_state()
        randomness = OwnRandomness(self.draw_seed())
        if progress is not None:
            n_folds = progress["n_folds"]
        else:
            was_loaded = self._training is not None and self._training.was_loaded
            n_folds = choose_folds(self, X, fit_params, _routing_method, was_loaded=was_loaded)
        with randomness:
            of_split, fit_params = self._route(_routing_method, fit_params)
            rows, held_out = (X, None) if n_folds else self.get_split_datasets(X, y, **of_split)
        with self.in_training() as training:
            session = Session(self, rows, held_out, randomness, fit_params, n_folds)
            monitor = Monitor([session.stack], patience=training.patience)
            if progress is not None:
                go_on(self, randomness, monitor, progress)
            training.monitor, training.session = monitor, session
            training.drawn_from = drawn_from
            n_epochs = self.max_epochs if epochs is None else epochs
            n_before = len(self.history) - monitor.n_epochs

            def begin_epoch() -> None:
                session.begin_epoch()
                training.task.begin_epoch()

            def end_epoch(epoch: Epoch) -> None:
                try:
                    session.end_epoch()
                finally:  # skorch's EarlyStopping interrupts
                    if training.task.end_epoch(partial(learned_so_far, self, monitor, 0)):
                        monitor.stop()

            around = begin_epoch, session.record_epoch, end_epoch
            is_interrupted = train([session.stack], monitor, n_epochs, *around, self.max_time)
            if is_interrupted:
                del self.history[n_before + monitor.n_epochs :]
            if any(hasattr(callback, "f_training") for _, callback in self.callbacks_):
                training.last = state_of(self, training)
            if is_interrupted or training.patience is not None:
                monitor.restore()
        return self

    def rows_at_once(self) -> int | None:
        """Give how many rows the module is to see at once in evaluation.

        None: as many as pay, since nobody set a number and the module is SimpleNet.
        """
        size = getattr(self, "iterator_valid__batch_size", None)
        if size is None:
            is_simple = type(getattr(self, "module_", None)) is SimpleNet
            size = -1 if is_simple else self.batch_size
        return {"auto": USUAL_BATCH_SIZE, -1: None}.get(size, size)

    def weighing(self, *weights: torch.Tensor | None) -> AbstractContextManager:
        """Let :meth:`get_loss` weigh rows and their batch, as it has no argument for that."""
        training = self._training
        return nullcontext() if training is None else training.weighing(*weights)

    def diverged(self, what: str, epoch: int) -> ValueError:
        """Make the error for numbers that are no longer finite in an epoch, with advice."""
        return ValueError(
            f"{what} in epoch {epoch}. A lower learning rate than lr={self.lr} or features scaled "
            "to a similar range, as by StandardScaler, may help."
        )

    def get_loss(
        self, y_pred: Any, y_true: Any, X: Any = None, training: bool = False
    ) -> torch.Tensor:
        """Compute the loss of a batch. A hook of skorch's.

        Parameters
        ----------
        y_pred : tensor of shape (n, n_classes), or a tuple that ends in one
            The module's output; of shape (n, members, n_classes) if it has members.
        y_true : tensor of shape (n,), int64
            Class indices.
        X : tensor
            Inputs; not used.
        training : bool
            Whether the batch is trained on.

        Returns
        -------
        tensor of shape ()
            The mean loss of the weighted rows, in training times what they weigh beside others.

        Raises
        ------
        ValueError
            If the logits have another width than the number of classes, or the criterion cannot
            compare them with class indices.
        """
        logits = self._logits_of_members(y_pred)
        check_logits(self.module, logits, self._n_classes())
        y_true = to_tensor(y_true, device=self.device)
        weight = getattr(self._training, "batch_weight", None)
        if not training:
            logits = pooled(logits)
        elif logits.ndim == 3:  # each member's loss counts
            logits, y_true, weight = members_as_rows(logits, y_true, weight)
        with telling_of_criterion(self.criterion_, logits, y_true):
            relative = getattr(self._training, "relative_weight", None)
            loss = mean_loss(self.criterion_, logits, y_true, weight, relative)
        shape = getattr(loss, "shape", None)
        if shape != ():
            what = type(loss).__name__ if shape is None else f"loss of shape {tuple(shape)}"
            hint = "" if shape is None else ": criterion__reduction='mean'"
            raise ValueError(
                f"criterion={type(self.criterion_).__name__} gives a {what}, which must be a "
                f"tensor of one number{hint}."
            )
        return loss

    def read_logits(self, output: Any) -> torch.Tensor:
        """Read the logits from the module's output.

        Parameters
        ----------
        output : tensor or tuple of tensors
            What ``forward`` returned; of shape (n, members, n_classes) if it has members.

        Returns
        -------
        tensor of shape (n, n_classes), float32
            The logits; of members, those of their mean probabilities.
        """
        logits = self._logits_of_members(output)
        if self.predict_nonlinearity == "auto":  # which makes no probabilities of other shapes
            check_logits(self.module, logits, self._n_classes())
        return pooled(logits)

    def _n_classes(self) -> int | None:
        return len(self.classes_inferred_) if hasattr(self, "classes_inferred_") else None

    def _logits_of_members(self, output: Any) -> torch.Tensor:
        criterion = getattr(self, "criterion_", None)  # a subclass may name it otherwise
        is_proba = isinstance(criterion, torch.nn.NLLLoss)
        if is_proba and (float_logits(output) < 0).any():
            raise ValueError(
                "criterion=NLLLoss takes probabilities, whose logarithms are taken here, but the "
                "module gives negative numbers: end it with Softmax(dim=1), or leave out its "
                "LogSoftmax and use the default criterion."
            )
        return logits_of(output, is_proba)

    @property
    def classes_(self) -> NDArray:
        """The labels, in the order of the columns of ``predict_proba``."""
        if "classes_inferred_" in self.__dict__:
            return self.classes_inferred_
        if self.initialized_ and self.classes is not None:  # parameters were loaded, perhaps
            return distinct(self, self.classes, "classes")
        raise AttributeError(f"{type(self).__name__} has no classes_ before fit.")

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
            output = self.evaluation_step((chunk.clone(), None), training=training)
            yield to_device(output, device)


def _name(module: Any) -> str:
    return getattr(module, "__name__", type(module).__name__)
