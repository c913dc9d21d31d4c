"""What an estimator is made of, as numbers and text, and an estimator made of them again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from skorch.history import History

from sksmooth._adapters import WithoutClassWeight
from sksmooth._batches import TensorRows, make_batches
from sksmooth._params import device_here
from sksmooth._versions import own_version
from sksmooth.calibration import CALIBRATORS
from sksmooth.encoding import ENCODINGS
from sksmooth.losses import LabelSmoothingLoss
from sksmooth.modules import SimpleNet

SCALINGS: dict[str, Any] = {
    kind.__name__: kind for kind in (*CALIBRATORS.values(), WithoutClassWeight)
}
NAMED: dict[str, Any] = {
    own.__name__: own  # type: ignore[attr-defined]
    for own in (SimpleNet, LabelSmoothingLoss, TensorRows, make_batches, *CALIBRATORS.values())
}
LIBRARIES = {"torch.nn": torch.nn, "torch.optim": torch.optim}

# What a fitted estimator has learned, its nets' parts excepted.
LEARNED = (
    *("alone_because_", "best_epoch_", "calibrator_", "class_prior_", "classes_", "cv_results_"),
    *("classes_inferred_", "estimators_", "feature_names_in_", "history_", "label_smoothing_"),
    *("class_weight_", "learned_"),
    *("n_features_in_", "n_inputs_", "oof_log_loss_", "oof_proba_", "temperature_"),
    *("trained_by_", "trained_by_reason_", "_random_state", "_trains_on", "_held_out_by"),
)


class NotGivenError(TypeError):
    """What no file can hold must be given."""


class Packing:
    """Makes of an estimator what JSON can hold, beside its arrays.

    Attributes
    ----------
    kinds : dict of str to type
        Classes of estimators that may be among the values.
    arrays : dict of str to ndarray
        The arrays, by the names that stand for them.
    missing : dict of str to str
        What is neither numbers nor text, of all estimators, and what it is.
    """

    def __init__(self, kinds: Mapping[str, type]) -> None:
        self.kinds = kinds
        self.arrays: dict[str, np.ndarray] = {}
        self.missing: dict[str, str] = {}

    def pack(self, value: Any) -> Any:
        """Give a value as JSON has it."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is list:
            return [self.pack(own) for own in value]
        return dict([self._tagged(value)])

    def _tagged(self, value: Any) -> tuple[str, Any]:
        if type(value) is tuple:
            return "tuple", [self.pack(own) for own in value]
        if isinstance(value, Mapping):
            return "dict", [[self.pack(key), self.pack(own)] for key, own in value.items()]
        if isinstance(value, History):
            return "history", [self.pack(dict(row)) for row in value]
        if isinstance(value, np.ndarray) and value.dtype == object:
            return "objects", self.pack(value.tolist())
        if isinstance(value, np.ndarray | np.generic):
            return "array" if isinstance(value, np.ndarray) else "scalar", self._store(value)
        if isinstance(value, torch.Tensor):
            own = value.detach().cpu()
            numbers = own.float() if own.dtype == torch.bfloat16 else own
            return "tensor", [self._store(numbers.numpy()), str(own.dtype).removeprefix("torch.")]
        if isinstance(value, torch.device | torch.dtype):
            return type(value).__name__, str(value).removeprefix("torch.")
        if isinstance(value, np.random.RandomState):
            return "random_state", self.pack(value.get_state())
        if type(value) in SCALINGS.values():
            return "calibrator", [type(value).__name__, self.pack(vars(value))]
        if type(value) in ENCODINGS.values():
            name = next(name for name, own in ENCODINGS.items() if own is type(value))
            settings = {k: own for k, own in vars(value).items() if k[0] != "_" and k != "training"}
            return "encoding", [name, self.pack(settings), self.pack(dict(value.named_buffers()))]
        if type(value) in self.kinds.values():
            return "estimator", self.pack_estimator(value)
        return "named", _name(value)

    def _store(self, array: Any) -> str:
        name = f"a{len(self.arrays)}"
        self.arrays[name] = np.asarray(array)
        return name

    def pack_estimator(self, estimator: Any) -> dict[str, Any]:
        """Pack parameters and what was learned; name under "missing" what is neither."""
        missing: dict[str, str] = {}
        is_net = hasattr(estimator, "lasting_state")
        state = estimator.lasting_state() if is_net else vars(estimator)
        parameters = self._pack_all(estimator.get_params(deep=False), missing)
        learned = self._pack_all({k: state[k] for k in LEARNED if k in state}, missing)
        self.missing |= missing
        return {
            "kind": type(estimator).__name__,
            "parameters": parameters,
            "learned": learned,
            "parts": {
                name: self.pack(state[f"{name}_"].state_dict())
                for name in getattr(estimator, "prefixes_", ())
                if hasattr(state.get(f"{name}_"), "state_dict")
            },
            "missing": missing,
        }

    def _pack_all(self, values: Mapping[str, Any], missing: dict[str, str]) -> dict[str, Any]:
        packed = {}
        for name, value in values.items():
            try:
                packed[name] = self.pack(value)
            except TypeError:
                missing[name] = getattr(value, "__name__", type(value).__name__)
        return packed


class Unpacking:
    """Makes an estimator of what :class:`Packing` made of one.

    Parameters
    ----------
    arrays : dict of str to ndarray
        What it refers to.
    given : dict of str to object
        What was missing, or is to be otherwise.
    kinds : dict of str to type
        Classes of estimators.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        given: Mapping[str, Any],
        kinds: Mapping[str, type],
    ) -> None:
        self.arrays = arrays
        self.given = given
        self.kinds = kinds
        self.used: set[str] = set()

    def unpack(self, packed: Any) -> Any:
        """Make a value of what was made of it."""
        if isinstance(packed, list):
            return [self.unpack(own) for own in packed]
        if not isinstance(packed, dict):
            return packed
        ((kind, own),) = packed.items()
        if kind == "estimator":
            estimator: Any = object.__new__(_known(self.kinds, own["kind"]))
            self.fill(estimator, own)
            return estimator
        if kind == "array":
            return self.arrays[own]
        if kind == "scalar":
            return self.arrays[own][()]
        if kind == "tensor":
            return torch.from_numpy(self.arrays[own[0]]).to(_dtype(own[1]))
        if kind == "dtype":
            return _dtype(own)
        if kind == "device":
            with suppress(RuntimeError):  # of a kind that this torch does not know
                return torch.device(own)
            return own
        if kind == "named":
            return _named(own)
        if kind == "calibrator":
            calibrator = object.__new__(_known(SCALINGS, own[0]))
            calibrator.__dict__.update(self.unpack(own[1]))
            _refuse_numbers(calibrator)
            return calibrator
        if kind == "encoding":
            encoding = _known(ENCODINGS, own[0])()
            encoding.__dict__.update(self.unpack(own[1]))
            for name, buffer in self.unpack(own[2]).items():
                setattr(encoding, name, buffer)
            return encoding
        content = self.unpack(own)
        if kind == "random_state":
            random_state = np.random.RandomState()
            random_state.set_state(content)
            return random_state
        if kind == "objects":
            array = np.empty(len(content), dtype=object)
            array[:] = content
            return array
        return _known({"tuple": tuple, "dict": dict, "history": History}, kind)(content)

    def fill(self, estimator: Any, packed: Mapping[str, Any]) -> None:
        """Give an empty estimator what was packed."""
        kind: Any = type(estimator)
        known = {*kind().get_params(deep=False), *packed["missing"]}
        is_net = hasattr(kind, "lasting_state")
        given = {k: v for k, v in self.given.items() if k in known or (is_net and "__" in k)}
        self.used |= given.keys()
        for name, was in packed["missing"].items():
            if name not in given:
                raise NotGivenError(
                    f"{name} of {kind.__name__} was {was}, which the file cannot hold: give it, "
                    f"load(path, {name}=...)."
                )
        learned = {name: self.unpack(packed["learned"][name]) for name in packed["learned"]}
        learned |= {name: given.pop(name) for name in packed["missing"] if name in LEARNED}
        unknown = learned.keys() - set(LEARNED)
        if unknown:
            raise ValueError(f"The file names {sorted(unknown)}, which no estimator learns.")
        parameters = {name: self.unpack(own) for name, own in packed["parameters"].items()}
        parameters |= given
        if "device" in parameters:
            parameters["device"] = device_here(parameters["device"])
        estimator.__init__(**parameters)
        estimator.__dict__.update(learned)
        if packed["parts"]:
            self._fill_parts(estimator, packed["parts"])
            estimator.__dict__.update(learned)

    def _fill_parts(self, net: Any, parts: Mapping[str, Any]) -> None:
        """Build a net's parts, whose state is known."""
        given = {name: getattr(net, name) for name in ("random_state", "criterion", "optimizer")}
        is_trimmed = given["criterion"] is None  # by skorch's trim_for_prediction
        defaults = type(net)().get_params(deep=False) if is_trimmed else given
        net.__dict__.update({**{name: defaults[name] for name in given}, "random_state": 0})
        net.initialize()
        net.__dict__.update(given)
        if is_trimmed:
            net.trim_for_prediction()
        for name, state in parts.items():
            part = getattr(net, f"{name}_")
            try:
                part.load_state_dict(self.unpack(state))
            except RuntimeError as error:
                raise ValueError(f"What was saved does not fit {name}: {error}") from error
            if isinstance(part, torch.nn.Module):
                refuse_not_finite(part)


def _name(value: Any) -> str:
    """Give the name by which a class or function is found again."""
    name = getattr(value, "__name__", "")
    if any(value is own for own in NAMED.values()):
        return name
    for library, module in LIBRARIES.items():
        if name and getattr(module, name, None) is value:
            return f"{library}.{name}"
    raise TypeError(f"{value!r} is no number, text, array or class of torch's or sksmooth's")


def _named(name: str) -> Any:
    """Find what has that name: nothing but torch's and sksmooth's own parts."""
    if name in NAMED:
        return NAMED[name]
    library, _, own = name.rpartition(".")
    found = getattr(_known(LIBRARIES, library), own, None)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module | torch.optim.Optimizer)):
        raise ValueError(f"The file names {name}, which is no part of a net.")
    return found


def _dtype(name: str) -> torch.dtype:
    """Find the dtype of that name: no other of torch's names, some of which write files."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"The file names torch.{name}, which is no dtype.")
    return found


def _known(kinds: Mapping[str, Any], name: str) -> Any:
    """Find what has that name among the only ones that a file may name."""
    if name not in kinds:
        raise ValueError(f"The file names {name!r}, which sksmooth {own_version()} does not know.")
    return kinds[name]


def refuse_not_finite(part: torch.nn.Module) -> None:
    """Refuse what was loaded into a part: NaN, or infinity in what was trained."""
    trained = {name for name, _ in part.named_parameters()}
    for name, value in part.state_dict().items():
        if not isinstance(value, torch.Tensor):
            continue
        if value.isnan().any() or (name in trained and value.isinf().any()):
            raise ValueError(f"The loaded {name} of {type(part).__name__} is not finite.")


def _refuse_numbers(calibrator: Any) -> None:
    """Refuse a calibrator that was loaded, if it would make every probability NaN."""
    for name, value in vars(calibrator).items():
        if isinstance(value, float | np.ndarray) and not np.isfinite(value).all():
            raise ValueError(f"The loaded {name} of {type(calibrator).__name__} is not finite.")
