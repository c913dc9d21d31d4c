"""A net's parameters: unknown names and their nearest, and how parameters are shown."""

from __future__ import annotations

import fnmatch
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.utils import to_device
from torch.utils.data import DataLoader

from sksmooth._checks import nearest, warn_user
from sksmooth._private import (
    SETTINGS,
    HasMethods,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    routing_enabled,
    validate_parameter_constraints,
)
from sksmooth.calibration import CALIBRATORS
from sksmooth.engine.plan import overrides
from sksmooth.smoothing import check_label_smoothing

if TYPE_CHECKING:
    from typing_extensions import Self

# What other libraries call a parameter of ours.
SYNONYMS = {
    "alpha": "optimizer__weight_decay",
    "activation": "module__activation",
    "dropout": "module__dropout",
    "eps": "label_smoothing",
    "epsilon": "label_smoothing",
    "eval_set": "train_split",
    "epochs": "max_epochs",
    "hidden_layer_sizes": "module__hidden_layer_sizes",
    "iterations": "max_epochs",
    "l2_leaf_reg": "optimizer__weight_decay",
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "ls_eps": "label_smoothing",
    "max_iter": "max_epochs",
    "n_epochs": "max_epochs",
    "n_iter_no_change": "patience",
    "od_wait": "patience",
    "seed": "random_state",
    "smoothing_eps": "label_smoothing",
    "solver": "optimizer",
    "validation_data": "train_split",
    "validation_fraction": "train_split",
    "validation_split": "train_split",
    "weight_decay": "optimizer__weight_decay",
}

# The parts of a net, whose parameters begin with their names and two underscores.
PARTS = ("callbacks", "criterion", "iterator_train", "iterator_valid", "module", "optimizer")

# Parts that some libraries know by names, and classes that may be given here.
CLASSES = {
    "module": "sksmooth.SimpleNet",
    "criterion": "torch.nn.CrossEntropyLoss",
    "optimizer": "torch.optim.Adam",
}

BATCHES_BY = ("iterator_train", "iterator_valid")
BATCH_SIZE: list = [
    Interval(Integral, 1, None, closed="left"),
    Options(Integral, {-1}),
    StrOptions({"auto"}),
]

# What skorch keeps for itself under names of fitted attributes.
BOOKKEEPING = {
    "classes_inferred_",
    "cuda_dependent_attributes_",
    "init_context_",
    "initialized_",
    "learned_",
    "n_inputs_",
    "prefixes_",
    "virtual_params_",
}


def check_constraints(
    constraints: Mapping[str, Sequence[Any]], params: Mapping[str, Any], owner: str
) -> None:
    """Refuse parameters of an estimator, as scikit-learn does; for numbers, True and False, too.

    `owner` is the name of its class.

    Examples
    --------
    >>> check_constraints({"warm": ["boolean"]}, {"warm": True}, "Net")
    >>> check_constraints({"size": ["random_state"]}, {"size": True}, "Net")
    Traceback (most recent call last):
    sklearn.utils._param_validation.InvalidParameterError: size=True of Net must not be a bool.
    """
    for name, allowed in constraints.items():
        is_bool = isinstance(params.get(name), bool)
        if is_bool and "boolean" not in allowed and "verbose" not in allowed:
            raise InvalidParameterError(f"{name}={params[name]} of {owner} must not be a bool.")
        if isinstance(params.get(name), Fraction):
            raise InvalidParameterError(f"{name}={params[name]} of {owner} must not be a Fraction.")
        if isinstance(params.get(name), int) and abs(params[name]) > sys.float_info.max:
            raise InvalidParameterError(f"{name} of {owner} is an integer larger than any float.")
    validate_parameter_constraints(constraints, params, owner)


class NamedParams(NeuralNetClassifier):
    """A skorch net that knows the names of its parameters and of its parts', and their types."""

    _parameter_constraints: dict[str, list] = {  # noqa: RUF012
        **{name: [callable] for name in ("module", "criterion", "optimizer", "dataset")},
        **{name: [callable] for name in BATCHES_BY},
        "smoothing": [str, "array-like", torch.Tensor],
        "calibration": [None, StrOptions(set(CALIBRATORS)), HasMethods(["fit", "predict_proba"])],
        "class_weight": [None, StrOptions({"balanced"}), dict],
        "calibration_weight": [StrOptions({"weighted", "unweighted"})],
        "random_state": ["random_state"],
        "early_stopping": ["boolean"],
        "patience": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "max_time": [None, Interval(Real, 0, None, closed="neither")],
        "batch_size": BATCH_SIZE,
        **{f"{name}__batch_size": [None, *BATCH_SIZE] for name in BATCHES_BY},
        **{f"iterator_train__{name}": ["boolean"] for name in ("shuffle", "drop_last")},
        "train_split": [
            None,
            StrOptions({"auto"}),
            Interval(Real, 0, 1, closed="neither"),
            Interval(Integral, 2, None, closed="left"),
            callable,
        ],
        "callbacks": [None, StrOptions({"disable"}), list],
        "predict_nonlinearity": [None, StrOptions({"auto"}), callable],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "compile": ["boolean"],
        "use_caching": ["boolean", StrOptions({"auto"})],
        "torch_load_kwargs": [None, dict],
        "classes": [None, "array-like"],
    }

    # Names of public attributes that are no parameters: a subclass set them.
    _own_attributes: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        is_new = "__" not in name and name[0] != "_" and name[-1] != "_" and name not in vars(self)
        if is_new and "max_epochs" in vars(self) and self._is_attribute(name):
            self.__dict__["_own_attributes"] = self._own_attributes | {name}
        # skorch takes a torch module for one of the net's parts; before `initialize`, one without
        # an underscore at its end is a parameter.
        if self.initialized_ or self.init_context_ is not None or name.endswith("_"):
            super().__setattr__(name, value)
        else:
            object.__setattr__(self, name, value)

    def _is_attribute(self, name: str) -> bool:
        """Tell whether what is set is no parameter: in a hook, or no misspelt one by its name."""
        own_class: Any = type(self)
        if hasattr(own_class, name):
            return False
        if self.init_context_ is not None or "_training" in vars(self):
            return True
        known = {*_named_params(own_class), *SYNONYMS}
        return not get_close_matches(name, known, n=1, cutoff=0.85)

    def _refuse_unknown(self, params: Mapping[str, Any]) -> None:
        """Refuse names that neither a parameter nor a part's parameter has; suggest the nearest."""
        own_class: Any = type(self)
        known = _named_params(own_class)
        for name, value in params.items():
            if "__" not in name and name not in known:
                near = SYNONYMS.get(name) or self._of_part(name)
                near = near or _nearest_name(name, sorted(known))
                raise InvalidParameterError(
                    f"{type(self).__name__} has no parameter {name!r} (got {name}={value!r})"
                    + (f"; did you mean {near}?" if near else ".")
                )

    def _of_part(self, name: str) -> str | None:
        """Give the name of the first part's parameter that has the name, if there is one."""
        for part in ("module", "criterion", "optimizer"):
            own = getattr(self, part)
            if isinstance(own, type) and name in signature(own).parameters:
                return f"{part}__{name}"
        return None

    def _get_param_names(self) -> list[str]:
        return sorted(
            name
            for name in self.__dict__
            if not name.startswith("_") and not name.endswith("_") and not hasattr(type(self), name)
            if name not in self._own_attributes
        )

    @property
    def _params_to_validate(self) -> set[str]:
        own_class: Any = type(self)
        return set(self._get_param_names()) - _named_params(own_class)

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator and of its parts.

        On a trained net, `lr`, `optimizer`, ``optimizer__...`` and ``criterion__...`` take effect
        at once, and so do `device`, to which it moves, and `compile` and a module's dropout, which
        leave its weights as they are. `module` and other ``module__...`` leave it unfitted. All
        else holds from the next call of ``fit`` or ``partial_fit`` on.

        Parameters
        ----------
        **params : dict
            Parameters by name, parts' parameters by prefix, such as ``module__dropout=0.1``.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        InvalidParameterError
            For an unknown name; a ValueError and a TypeError at once, as scikit-learn has it.
        """
        known = self._get_param_names()
        self._refuse_unknown({name: own for name, own in params.items() if name not in known})
        if self.initialized_:
            self._refuse_unknown_callbacks(params)
        own = {}
        for name, value in params.items():
            part, _, rest = name.partition("__")
            nested = None if part in self.prefixes_ or not rest else getattr(self, part, None)
            if nested is not None and hasattr(nested, "set_params"):
                nested.set_params(**{rest: value})
            else:
                own[name] = value
        of_module = [name for name in own if name.partition("__")[0] in ("module", "compile")]
        keeps_weights = all("dropout" in name or name == "compile" for name in of_module)
        if self.initialized_ and (keeps_weights or not self.history):
            if "device" in own:
                _check_device(own["device"])
            made_anew = self._modules if of_module and keeps_weights else []
            states = [list(getattr(self, f"{name}_").state_dict().values()) for name in made_anew]
            for name in [name for name in own if _is_set_only(name)]:
                setattr(self, name, own.pop(name))
            super().set_params(**own)
            if "device" in own:
                self._move()
            if "optimizer" in params:
                self._initialize_optimizer()
            for name, state in zip(made_anew, states, strict=True):
                module = getattr(self, f"{name}_")  # torch.compile changes its weights' names
                module.load_state_dict(dict(zip(module.state_dict(), state, strict=True)))
            return self
        if self.initialized_:  # what was learned is of another module
            kept = {*self.get_params(deep=False), *SETTINGS, *self._own_attributes}
            for name in set(vars(self)) - kept - {"_own_attributes"}:
                del self.__dict__[name]
        for name, value in own.items():
            setattr(self, name, value)
        return self

    def _move(self) -> None:
        """Bring the parts to `device`; the optimizers are made anew, of the parameters there."""
        for name in [f"{name}_" for name in self._modules + self._criteria]:
            part = getattr(self, name)
            if part is not None:  # as a criterion is where the net was trimmed for prediction
                setattr(self, name, to_device(part, self.device))
        optimizers = {f"{name}_": getattr(self, f"{name}_") for name in self._optimizers}
        if None not in optimizers.values():
            self._initialize_optimizer()
            for name, before in optimizers.items():
                getattr(self, name).load_state_dict(before.state_dict())

    def passes_on(self, name: str) -> bool:
        """Tell whether the module's ``forward`` takes an argument, or a hook of the user's does."""
        hooks = ("infer", "train_step", "train_step_single", "validation_step")
        if not hasattr(self, "module_") or overrides(self, *hooks):
            return True
        taken = signature(self.module_.forward).parameters
        return name in taken or any(own.kind is own.VAR_KEYWORD for own in taken.values())

    def refuse_fit_params(self, fit_params: Mapping[str, Any], method: str) -> None:
        """Refuse arguments of `method` that neither ``forward`` nor `train_split` takes.

        The message says where the first of them belongs.
        """
        if routing_enabled():
            return
        params = self.get_params(deep=False)
        for name, value in fit_params.items():
            if self.passes_on(name):
                continue
            if name in SYNONYMS:
                where = f" Did you mean {SYNONYMS[name]!r} of the constructor?"
            elif name in params:
                where = f" Give it to the constructor: {type(self).__name__}({name}={value!r})."
            elif callable(self.train_split):
                where = (
                    " So does train_split, which has it alone where it is routed: by "
                    "sklearn.set_config(enable_metadata_routing=True). Or give it the rows, "
                    "ValidSplit([(indices_to_train_on, indices_held_out)])."
                )
            else:
                own = ["sample_weight", *signature(self.module_.forward).parameters]
                where = nearest(name, own) or nearest(name, params)
            module = type(self.module_).__name__
            raise TypeError(
                f"{method} has no argument {name!r}, nor has {module}.forward, which gets what "
                f"{method} does not know.{where}"
            )

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return BaseEstimator.__repr__(self, N_CHAR_MAX=N_CHAR_MAX)

    def _get_params_html(self, deep: bool = True, *doc_link: str, **options: Any) -> Any:
        # Deep parameters are those of skorch's default callbacks, which would all be shown as if
        # the user had set them; those that are set are the estimator's own.
        return super()._get_params_html(False, *doc_link, **options)

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        table = super()._get_fitted_attr_html(doc_link)
        for name in BOOKKEEPING & table.keys():
            del table[name]
        return table

    def _refuse_unknown_callbacks(self, params: Mapping[str, Any]) -> None:
        """Refuse parameters of callbacks that there are not, which skorch would leave unused."""
        for name in (own for own in params if own.startswith("callbacks__")):
            known = dict(self._uniquely_named_callbacks())
            sought, _, own = name.split("__", 1)[1].partition("__")
            if sought not in known:
                raise InvalidParameterError(
                    f"{name}={params[name]!r} is of no callback; there are {', '.join(known)}."
                    + nearest(sought, known)
                )
            callback = params.get(f"callbacks__{sought}", known[sought])
            given = callback.get_params() if isinstance(callback, Callback) else {own: None}
            if own and own not in given:
                raise InvalidParameterError(
                    f"{name}={params[name]!r}: {sought}, a {type(callback).__name__}, has no "
                    f"parameter {own!r} but {', '.join(given)}.{nearest(own, given)}"
                )

    def check_parameters(self) -> None:
        """Refuse parameters that cannot be trained with."""
        params = self.get_params(deep=False)
        self._refuse_unknown(params)
        check_label_smoothing(self.label_smoothing)
        for name in ("calibration", "predict_nonlinearity"):
            if isinstance(params[name], type):
                kind = params[name].__name__
                raise InvalidParameterError(
                    f"{name}={kind} is a class; give an object of it, {name}={kind}()."
                )
        for name, example in CLASSES.items():
            if isinstance(params[name], str):
                raise InvalidParameterError(
                    f"{name}={params[name]!r} is a string; give the class itself, such as "
                    f"{name}={example}."
                )
        if isinstance(self.optimizer, torch.optim.Optimizer):
            own = type(self.optimizer).__name__
            raise InvalidParameterError(
                f"optimizer={self.optimizer!r} is an object; give its class, optimizer={own}, lr "
                "and other arguments as optimizer__...: it is made once the module is."
            )
        if hasattr(self.train_split, "get_n_splits"):
            raise InvalidParameterError(
                f"train_split={self.train_split!r} is no function of a dataset; give "
                "skorch.dataset.ValidSplit(splitter), which takes its first split."
            )
        check_constraints(self._parameter_constraints, params, type(self).__name__)
        _check_numbers("optimizer", self.optimizer, self.get_params_for("optimizer"))
        for name in BATCHES_BY:
            _check_numbers(name, DataLoader, self.get_params_for(name))
        for callback in () if self.callbacks in (None, "disable") else self.callbacks:
            _check_callback(callback)
        self._refuse_unknown_callbacks(params)
        is_object = isinstance(self.criterion, torch.nn.Module)
        kind = type(self.criterion) if is_object else self.criterion
        is_told = "label_smoothing" in signature(kind).parameters  # else it calls others so
        for name in ("label_smoothing", "smoothing"):
            if is_told and hasattr(self, f"criterion__{name}"):
                raise InvalidParameterError(
                    f"criterion__{name}={getattr(self, f'criterion__{name}')!r} would override "
                    f"{name}={getattr(self, name)!r}; set {name} itself."
                )
        _check_device(self.device)


def _check_numbers(part: str, make: Any, given: Mapping[str, Any]) -> None:
    """Refuse a bool, NaN or infinity where what makes a part has a number for its default.

    torch takes them, and trains with no number that anyone meant.
    """
    if not (isinstance(make, type) and issubclass(make, torch.optim.Optimizer | DataLoader)):
        return  # one's own may take anything
    taken = signature(make).parameters
    for name, value in given.items():
        default = taken[name].default if name in taken else None
        if isinstance(default, bool) or not isinstance(default, Real):
            continue
        is_bool = isinstance(value, bool | np.bool_)
        if is_bool or (isinstance(value, Real) and not math.isfinite(value)):
            raise InvalidParameterError(f"{part}__{name}={value!r} must be a finite number.")


def refuse_another_smoothing(net: Any, criterion: Any) -> None:
    """Refuse a criterion that smooths by values of its own, which a net's are about to replace."""
    arguments = signature(type(criterion)).parameters
    for name in ("label_smoothing", "smoothing"):
        value, own = getattr(criterion, name, None), getattr(net, name)
        if name not in arguments or not hasattr(criterion, "label_smoothing"):
            continue
        if not any(_is_same(value, other) for other in (own, arguments[name].default)):
            raise ValueError(
                f"it has {name}={value!r} of its own, which {name}={own!r} of "
                f"{type(net).__name__} would override; set {name} there alone."
            )


def _is_same(value: Any, other: Any) -> bool:
    """Tell whether two are one, or equal names or numbers; arrays have no cheap equality."""
    is_plain = isinstance(value, str | Real) and isinstance(other, str | Real)
    return value is other or (is_plain and value == other)


def warn_of_unused_groups(net: Any, part: str, names: Sequence[str]) -> None:
    """Warn of patterns in an optimizer's groups of parameters that fit none of their names."""
    for pattern, _ in net.get_params_for(part).get("param_groups", ()):
        if not fnmatch.filter(names, pattern):
            warn_user(
                f"{part}__param_groups: {pattern!r} fits no parameter of the net; there are "
                f"{', '.join(names)}."
            )


def _is_set_only(name: str) -> bool:
    """Tell whether a parameter of a built net makes no part anew, at which skorch raises."""
    return name == "optimizer" or name.partition("__")[0] in ("dataset", *BATCHES_BY)


@contextmanager
def naming_part(net: Any, part: str) -> Iterator[None]:
    """Let what goes wrong when a part is made say which part, and with which parameters.

    `part` is the parameter that gives it, such as "optimizer".
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        own = getattr(net, part)
        params = net.get_params_for(part)
        given = [f"{part}__{name}={value!r}" for name, value in params.items()]
        told = error if isinstance(error, TypeError | ValueError) else repr(error)
        hint = _nearest_arguments(own, params) if "unexpected keyword" in str(error) else ""
        raise (TypeError if isinstance(error, TypeError) else ValueError)(
            f"{part}={getattr(own, '__name__', own)} cannot be made"
            f"{' with ' * bool(given)}{', '.join(given)}: {told}{hint}"
        ) from error


def _nearest_arguments(make: Any, given: Mapping[str, Any]) -> str:
    """Give the end of a message that names the arguments most like those that there are not."""
    known = signature(make).parameters
    hints = "".join(nearest(name, known) for name in given if name not in known)
    return f".{hints}" if hints else ""


def _check_callback(given: Any) -> None:
    """Refuse what is no callback, nor a class of them, nor a pair of a name and one."""
    is_named = isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str)
    own = given[1] if is_named else given
    is_left_out = is_named and own is None
    if not is_left_out and not all(hasattr(own, name) for name in ("initialize", "set_params")):
        raise InvalidParameterError(
            f"callbacks must hold skorch callbacks, or pairs (name, callback), got {given!r}."
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


def device_here(device: Any) -> Any:
    """Give a device that was stored, if this machine has it; else, with a warning, the CPU.

    Examples
    --------
    >>> device_here("cpu")
    'cpu'
    """
    try:
        _check_device(device)
    except ValueError:
        warn_user(f"device={str(device)!r} is not there; the classifier is on the CPU.")
        return "cpu"
    return device


def _check_device(device: Any) -> None:
    """Refuse a device that is not there, before torch does so in the middle of a fit."""
    if device is None:
        return
    try:
        torch.empty(0, device=device).cpu()  # which tensors without numbers refuse
    except (RuntimeError, AssertionError, TypeError, OverflowError, ValueError) as error:
        has_cuda = torch.cuda.is_available()
        there = f"{torch.cuda.device_count()} CUDA device(s)" if has_cuda else "no CUDA device"
        raise ValueError(
            f"device={device!r} cannot be used here: {error}. PyTorch sees {there} on this "
            "machine; device='cpu' always works."
        ) from error
