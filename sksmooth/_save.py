"""Saves fitted classifiers in one file, and loads them without running any code from it."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from skorch.history import History

from sksmooth._batches import TensorRows, make_batches
from sksmooth.calibration import CALIBRATORS
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.losses import LabelSmoothingLoss
from sksmooth.modules import SimpleNet

# A file begins with a line of MAGIC, the format's number, and the SHA-256 and the length of what
# follows: numpy's archive of arrays, of which one holds the rest as JSON.
MAGIC, FORMAT = b"sksmooth", 1
TREE = "tree"

ESTIMATORS = {
    kind.__name__: kind for kind in (LabelSmoothingClassifier, LabelSmoothingClassifierCV)
}
SCALINGS = {kind.__name__: kind for kind in CALIBRATORS.values()}
NAMED: dict[str, Any] = {
    own.__name__: own  # type: ignore[attr-defined]
    for own in (SimpleNet, LabelSmoothingLoss, TensorRows, make_batches, *SCALINGS.values())
}
LIBRARIES = {"torch.nn": torch.nn, "torch.optim": torch.optim}

# What a fitted estimator has learned, its nets' parts excepted.
LEARNED = {
    "LabelSmoothingClassifier": (
        *("best_epoch_", "calibrator_", "class_prior_", "classes_inferred_", "feature_names_in_"),
        *("history_", "n_features_in_", "n_inputs_", "trained_by_", "trained_by_reason_"),
        *("_random_state", "_trains_on"),
    ),
    "LabelSmoothingClassifierCV": (
        *("alone_because_", "best_epoch_", "calibrator_", "classes_", "cv_results_", "estimators_"),
        *("feature_names_in_", "history_", "label_smoothing_", "n_features_in_", "oof_log_loss_"),
        *("oof_proba_", "temperature_", "trained_by_", "trained_by_reason_"),
    ),
}


def save(estimator: Any, path: str | os.PathLike) -> None:
    """Save a fitted classifier in one file.

    The file holds numbers and text, no code: parameters, calibrator, labels, names of features,
    history, and where training goes on (``warm_start``, ``partial_fit``) the optimizer's state. It
    gets its name when it is whole and on the disk; whatever happens before, a file of that name
    stays as it was.

    Parameters
    ----------
    estimator : LabelSmoothingClassifier or LabelSmoothingClassifierCV
        Fitted.
    path : str or path-like
        The file, such as "net.sksmooth".

    Raises
    ------
    TypeError
        For another kind of estimator, a subclass too, or a calibrator that is not sksmooth's.
    NotFittedError
        If it is not fitted.

    See Also
    --------
    load : Loads it.

    Notes
    -----
    Parameters that are code, such as a module class of one's own or callbacks, are not in the file:
    they are given to :func:`load`.

    Examples
    --------
    >>> import tempfile
    >>> from sksmooth import LabelSmoothingClassifier, load, make_tabular, save
    >>> X, y = make_tabular(200, random_state=0)
    >>> net = LabelSmoothingClassifier(max_epochs=5, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(net, f"{folder}/net.sksmooth")
    ...     loaded = load(f"{folder}/net.sksmooth")
    >>> bool((loaded.predict_proba(X) == net.predict_proba(X)).all())
    True
    """
    if type(estimator) not in ESTIMATORS.values():
        raise TypeError(
            f"estimator is of {type(estimator).__name__}, but save takes {' or '.join(ESTIMATORS)} "
            "themselves; pickle others, or save the last step of a pipeline."
        )
    check_is_fitted(estimator)
    packing = _Packing()
    tree = {
        "sksmooth": version("sksmooth"),
        "torch": version("torch"),
        "estimator": packing.pack(estimator),
    }
    arrays: dict[str, Any] = {
        TREE: np.frombuffer(json.dumps(tree).encode(), dtype=np.uint8),
        **packing.arrays,
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    body = content.getvalue()
    line = b"%b %d %b %d\n" % (MAGIC, FORMAT, sha256(body).hexdigest().encode(), len(body))
    _write(Path(path), line + body)


def _write(path: Path, content: bytes) -> None:
    """Write a file that has its name only when it is whole."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the new name is on the disk with its folder
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path: str | os.PathLike, **parameters: Any) -> Any:
    """Load a classifier that :func:`save` has saved, without running any code from the file.

    Parameters
    ----------
    path : str or path-like
        The file.
    **parameters
        Parameters of the nets, instead of those in the file: ``device="cpu"``, say. Those that are
        code must be given, ``module=MyModule``.

    Returns
    -------
    LabelSmoothingClassifier or LabelSmoothingClassifierCV
        As it was saved. Where the file names a CUDA device and there is none, on the CPU.

    Raises
    ------
    ValueError
        If the file is none of sksmooth's, is damaged or cut off, or of a newer format.
    TypeError
        If parameters are missing, or unknown.

    Examples
    --------
    See :func:`save`.
    """
    body = _read(Path(path))
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    tree = json.loads(arrays.pop(TREE).tobytes())
    unpacking = _Unpacking(arrays, parameters)
    estimator = unpacking.unpack(tree["estimator"])
    unused = parameters.keys() - unpacking.used
    if unused:
        raise TypeError(f"load has no parameter {sorted(unused)[0]!r}, nor has what is in {path}.")
    return estimator


def _read(path: Path) -> bytes:
    """Read a file's content, which is what was written."""
    line, _, body = path.read_bytes().partition(b"\n")
    words = line.split(b" ")
    if words[0] != MAGIC or len(words) < 2 or not words[1].isdigit():
        raise ValueError(f"{path} is no file that sksmooth.save has written.")
    if int(words[1]) > FORMAT:
        raise ValueError(
            f"{path} is of format {int(words[1])}, but sksmooth {version('sksmooth')} reads "
            f"formats up to {FORMAT}; a newer sksmooth reads it."
        )
    if len(words) != 4 or not words[3].isdigit():
        raise ValueError(f"{path} is damaged: its first line is {line[:200]!r}.")
    if len(body) < int(words[3]):
        raise ValueError(f"{path} is cut off: {len(body)} of {int(words[3])} bytes are there.")
    if len(body) > int(words[3]) or sha256(body).hexdigest().encode() != words[2]:
        raise ValueError(f"{path} is damaged: its checksum is not that of its content.")
    return body


class _Packing:
    """Makes of an estimator what JSON can hold, and of its arrays a list."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def pack(self, value: Any) -> Any:
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
        if type(value) in ESTIMATORS.values():
            return "estimator", self._packed_estimator(value)
        return "named", _name(value)

    def _store(self, array: Any) -> str:
        name = f"a{len(self.arrays)}"
        self.arrays[name] = np.asarray(array)
        return name

    def _packed_estimator(self, estimator: Any) -> dict[str, Any]:
        kind = type(estimator).__name__
        packed: dict[str, Any] = {"kind": kind, "parameters": {}, "missing": {}}
        for name, value in estimator.get_params(deep=False).items():
            try:
                packed["parameters"][name] = self.pack(value)
            except TypeError:
                packed["missing"][name] = getattr(value, "__name__", type(value).__name__)
        state = (
            estimator.lasting_state() if hasattr(estimator, "lasting_state") else vars(estimator)
        )
        learned = {name: state[name] for name in LEARNED[kind] if name in state}
        packed["learned"] = {
            name: self._pack_learned(kind, name, own) for name, own in learned.items()
        }
        packed["parts"] = {
            name: self.pack(state[f"{name}_"].state_dict())
            for name in getattr(estimator, "prefixes_", ())
            if hasattr(state.get(f"{name}_"), "state_dict")
        }
        return packed

    def _pack_learned(self, kind: str, name: str, value: Any) -> Any:
        try:
            return self.pack(value)
        except TypeError as error:
            raise TypeError(f"{name} of {kind} cannot be saved: {error}. Pickle it.") from error


class _Unpacking:
    """Makes an estimator of what :class:`_Packing` made of one.

    Parameters
    ----------
    arrays : dict of str to ndarray
        What it refers to.
    given : dict of str to object
        Parameters, instead of those that were packed.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> None:
        self.arrays = arrays
        self.given = given
        self.used: set[str] = set()

    def unpack(self, packed: Any) -> Any:
        if isinstance(packed, list):
            return [self.unpack(own) for own in packed]
        if not isinstance(packed, dict):
            return packed
        ((kind, own),) = packed.items()
        if kind == "estimator":
            return self._estimator(own)
        if kind == "array":
            return self.arrays[own]
        if kind == "scalar":
            return self.arrays[own][()]
        if kind == "tensor":
            return torch.from_numpy(self.arrays[own[0]]).to(getattr(torch, own[1]))
        if kind == "dtype":
            return getattr(torch, own)
        if kind == "device":
            return torch.device(own)
        if kind == "named":
            return _named(own)
        if kind == "calibrator":
            calibrator = SCALINGS[own[0]]()
            calibrator.__dict__.update(self.unpack(own[1]))
            return calibrator
        content = self.unpack(own)
        if kind == "random_state":
            random_state = np.random.RandomState()
            random_state.set_state(content)
            return random_state
        if kind == "objects":
            array = np.empty(len(content), dtype=object)
            array[:] = content
            return array
        return {"tuple": tuple, "dict": dict, "history": History}[kind](content)

    def _estimator(self, packed: dict[str, Any]) -> Any:
        kind = ESTIMATORS[packed["kind"]]
        known = kind().get_params(deep=False)
        is_net = kind is LabelSmoothingClassifier
        given = {k: v for k, v in self.given.items() if k in known or (is_net and "__" in k)}
        self.used |= given.keys()
        for name, was in packed["missing"].items():
            if name not in given:
                raise TypeError(
                    f"{name} of {kind.__name__} was {was}, which the file cannot hold: give it, "
                    f"load(path, {name}=...)."
                )
        parameters = {name: self.unpack(own) for name, own in packed["parameters"].items()}
        estimator = kind(**_on_this_machine({**parameters, **given}))
        learned = {name: self.unpack(own) for name, own in packed["learned"].items()}
        estimator.__dict__.update(learned)
        if packed["parts"]:
            self._fill_parts(estimator, packed["parts"])
            estimator.__dict__.update(learned)
        return estimator

    def _fill_parts(self, net: Any, parts: Mapping[str, Any]) -> None:
        """Build a net's parts, whose state is known."""
        seed = net.random_state
        net.__dict__["random_state"] = 0
        net.initialize()
        net.__dict__["random_state"] = seed
        for name, state in parts.items():
            try:
                getattr(net, f"{name}_").load_state_dict(self.unpack(state))
            except RuntimeError as error:
                raise ValueError(f"What was saved does not fit {name}: {error}") from error


def _on_this_machine(parameters: dict[str, Any]) -> dict[str, Any]:
    """Replace a CUDA device that is not there."""
    device = parameters.get("device")
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        warn(f"device={device!r} is not there; the classifier is on the CPU.", stacklevel=5)
        return {**parameters, "device": "cpu"}
    return parameters


def _name(value: Any) -> str:
    """Give the name by which a class or function is found again."""
    name = getattr(value, "__name__", "")
    if value in NAMED.values():
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
    found = getattr(LIBRARIES[library], own)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module | torch.optim.Optimizer)):
        raise ValueError(f"The file names {name}, which is no part of a net.")
    return found
