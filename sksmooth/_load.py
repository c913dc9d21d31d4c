"""How a net is pickled; how its parameters are saved, and loaded whole or not at all."""

from __future__ import annotations

import copy
import copyreg
import json
import os
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import Parameter, signature
from typing import Any

import torch
from skorch.history import History
from torch.nn.parameter import UninitializedBuffer, is_lazy

from sksmooth._checks import warn_user
from sksmooth._files import whole_file
from sksmooth._pack import Packing, Unpacking, refuse_not_finite
from sksmooth._params import NamedParams, device_here
from sksmooth._progress import Progress, parts_of
from sksmooth._versions import STAMP, own_version, warn_if_newer
from sksmooth.engine.adam import misfit


class StoredNet(NamedParams):
    """A skorch net whose pickle is small, and whose parameters are loaded whole or not at all."""

    # What skorch pickles so that it is read on machines without the net's device: attributes whose
    # names begin so, beside those of the parts. Schedulers keep the optimizer.
    cuda_dependent_attributes_ = ["callbacks", "learned_", "progress", "smoothing"]  # noqa: RUF012
    _training: Any = None  # what is known of one that is going on
    _trains_on = False  # whether the last training was by partial_fit
    progress: Any = None  # how far the training had come whose state was loaded

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # Pickles have all that skorch keeps, itself in part a pickle. `set_pickled` reads it, not
        # `__setstate__`, which skops calls with what a file says and which must run no code.
        lasting = object.__new__(type(self))
        lasting.__dict__.update(self.lasting_state())
        # That pickle is for machines without the device. It knows no classes of a notebook, which
        # cloudpickle, and so joblib's processes, do.
        is_on_cpu = str(self.device).partition(":")[0] == "cpu"
        state = vars(lasting) if is_on_cpu else super(StoredNet, lasting).__getstate__()
        make = copyreg.__newobj__  # type: ignore[attr-defined]
        return STAMP, (make, type(self)), state, None, None, set_pickled

    def __copy__(self) -> Any:
        # As by a pickle, it has parts of its own, and what grows and changes with them.
        twin = object.__new__(type(self))
        twin.__dict__.update(self.lasting_state())
        own = {k: v for k, v in vars(twin).items() if k in ("history_", "_random_state")}
        twin.__dict__.update(copy.deepcopy({**parts_of(twin), **own}))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __sklearn_clone__(self) -> Any:
        if not _sizeless(self.module):
            return super().__sklearn_clone__()
        bare = object.__new__(type(self))
        bare.__dict__.update(self.__dict__, module=None)
        twin = super(StoredNet, bare).__sklearn_clone__()
        twin.module = copy_part(self.module)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # Who asks for the state alone, as skops does, gets numbers and text where that can be.
        packing = Packing({})
        packed = packing.pack_estimator(self)
        others = {name: getattr(self, name) for name in packed["missing"]}
        for name, own in others.items():
            if isinstance(own, torch.nn.Module):
                raise TypeError(
                    f"{name} of {type(self).__name__} is an object of {type(own).__name__}, which "
                    f"is no numbers and text. Give its class, {name}={type(own).__name__}, with "
                    f"{name}__... for its arguments; or use sksmooth.save, and load(path, "
                    f"{name}=...)."
                )
        stamp = {"sksmooth": own_version()}
        return {**stamp, "packed": json.dumps(packed), "arrays": packing.arrays, "others": others}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not {"sksmooth", "packed"} <= state.keys():
            raise ValueError(f"The state of {type(self).__name__} is not what __getstate__ gives.")
        warn_if_newer(state["sksmooth"])
        Unpacking(state["arrays"], state["others"], {}).fill(self, json.loads(state["packed"]))

    def lasting_state(self) -> dict[str, Any]:
        """Give the attributes as they are to be stored, without a share in a training going on.

        Of one that is over, prediction and further training need neither the optimizer's state nor
        the losses of each batch.
        """
        state = {name: value for name, value in self.__dict__.items() if name != "_training"}
        if self._training is not None or self._trains_on or self.warm_start:
            return state
        return {name: _slim(value) for name, value in state.items()}

    @contextmanager
    def _naming_training(self) -> Iterator[None]:
        """Let skorch find what it is to save as ``f_training`` as it finds the parts."""
        self.__dict__["training_"] = Progress(self, self._training)
        try:
            yield
        finally:
            del self.__dict__["training_"]

    @contextmanager
    def unchanged_on_error(self, *, in_place: bool) -> Iterator[None]:
        """Put every attribute back if the block fails, so that nothing half-fitted is left.

        Where the block trains the parts `in_place`, they are copied beforehand.
        """
        before = self.__dict__.copy()
        if in_place:
            before.update(copy.deepcopy(parts_of(self)))
        history = before.get("history_")
        n_epochs = len(history) if history else 0
        try:
            yield
        except BaseException:
            if history:  # which grows by rows only, and may be long
                del history[n_epochs:]
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def save_params(
        self,
        f_params: Any = None,
        f_optimizer: Any = None,
        f_criterion: Any = None,
        f_history: Any = None,
        use_safetensors: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save parameters as skorch does, each file whole or not at all. See skorch.

        Parameters
        ----------
        f_params, f_optimizer, f_criterion, f_history : path, file or None, default=None
            Where to save the parts.
        use_safetensors : bool, default=False
            Whether to use the format of ``safetensors``.
        **kwargs
            Further parts; ``f_training="training.pt"``, in training: all that its epochs to come
            depend on.
        """
        parts = {"f_params": f_params, "f_optimizer": f_optimizer, "f_criterion": f_criterion}
        given = {**parts, "f_history": f_history, **kwargs}
        try:
            with ExitStack() as files:
                written = {
                    name: str(files.enter_context(whole_file(file, sync=False)))
                    if isinstance(file, str | os.PathLike)
                    else file
                    for name, file in given.items()
                }
                files.enter_context(self._naming_training())
                super().save_params(use_safetensors=use_safetensors, **written)
        except Exception as error:  # which Checkpoint keeps to itself
            if self._training is not None:
                names = [f"{name}={file!r}" for name, file in given.items() if file is not None]
                self._training.unsaved.update(dict.fromkeys(names, error))
            raise

    def load_params(
        self,
        f_params: Any = None,
        f_optimizer: Any = None,
        f_criterion: Any = None,
        f_history: Any = None,
        checkpoint: Any = None,
        use_safetensors: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load parameters as skorch does, but whole or not at all. See skorch.

        Parameters
        ----------
        f_params, f_optimizer, f_criterion, f_history : path, file or None, default=None
            Where the parts are saved.
        checkpoint : skorch Checkpoint or None, default=None
            Says where they are instead.
        use_safetensors : bool, default=False
            Whether they are in the format of ``safetensors``.
        **kwargs
            Further parts, such as ``f_training="training.pt"``.

        Raises
        ------
        ValueError
            If a file is damaged or none of torch's, what is loaded is not finite, or the
            optimizer's state is of another module or optimizer.
        """
        parts = {"f_params": f_params, "f_optimizer": f_optimizer, "f_criterion": f_criterion}
        given = {**parts, "f_history": f_history, **kwargs}
        _refuse_damaged(*given.values())
        with whole_or_not_at_all(self), self._naming_training():
            try:
                super().load_params(**given, checkpoint=checkpoint, use_safetensors=use_safetensors)
                if checkpoint is not None:  # which names them by the history
                    _refuse_damaged(*checkpoint.get_formatted_files(self).values())
            except (EOFError, LookupError, pickle.UnpicklingError) as error:
                raise ValueError(
                    f"What is to be loaded is no file of save_params, or one of another kind of "
                    f"part: {error!r}."
                ) from error
        has_module = f_params or checkpoint
        is_calibrated = getattr(self, "calibrator_", None) is not None
        if self._training is not None:
            self._training.was_loaded = True
        elif has_module and is_calibrated:
            warn_user(
                "calibrator_ was fitted to the parameters before; set it to that of the net whose "
                "parameters were loaded, or to None."
            )


def copy_part(part: Any) -> Any:
    """Copy a part given as a module, so that training leaves the parameter as it was.

    Anything else is given as it is; a scripted module is refused.
    """
    if isinstance(part, torch.jit.ScriptModule):
        raise ValueError(
            "a copy of a scripted module cannot be trained; give a function that makes one, "
            "lambda: torch.jit.script(...)."
        )
    return copy.deepcopy(part, _sizeless(part)) if isinstance(part, torch.nn.Module) else part


def _sizeless(part: Any) -> dict[int, torch.Tensor]:
    """Give new ones, by id, for the buffers without a size yet, which torch cannot copy."""
    buffers = part.buffers() if isinstance(part, torch.nn.Module) else ()
    lazy = [own for own in buffers if is_lazy(own)]
    kind: Any = UninitializedBuffer  # whose stub takes no arguments
    return {id(own): kind(device=own.device, dtype=own.dtype) for own in lazy}


def set_pickled(net: StoredNet, state: dict[str, Any]) -> None:
    """Give an empty net, made without ``__init__``, the state that a pickle has of one."""
    state["device"] = device_here(state["device"])
    if "__cuda_dependent_attributes__" in state:
        super(StoredNet, net).__setstate__(state)
    else:
        net.__dict__.update(state)
    own = signature(type(net)).parameters
    for name in own.keys() - state.keys():  # of a version that had fewer parameters
        if own[name].default is not Parameter.empty:
            net.__dict__[name] = own[name].default


@contextmanager
def whole_or_not_at_all(net: Any) -> Iterator[None]:
    """Put a net's parts back if what the block loads into them does not fit, or is not finite."""
    parts = parts_of(net).values()
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    history, progress = net.history_, net.progress
    try:
        yield
        for part, state in zip(parts, before, strict=True):
            _refuse(part, state)
        if not all(isinstance(row, dict) for row in net.history_ or ()):
            raise ValueError("The loaded history has rows that are no epochs.")
    except BaseException:
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        net.history_, net.progress = history, progress
        raise


def _refuse_damaged(*files: Any) -> None:
    """Refuse files of torch that do not fit their checksums, which torch leaves unread."""
    for file in files:
        if not (isinstance(file, str | os.PathLike) and zipfile.is_zipfile(file)):
            continue
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except Exception as error:  # of many kinds, by where the damage is
            raise ValueError(f"{os.fspath(file)!r} is damaged: {error}.") from error
        if damaged is not None:
            what = f"{damaged} does not fit its checksum"
            raise ValueError(f"{os.fspath(file)!r} is damaged: {what}.")


def _refuse(part: Any, before: dict[str, Any]) -> None:
    """Refuse what was loaded into a part whose state was `before`."""
    if isinstance(part, torch.optim.Optimizer):
        _refuse_optimizer(part, before["param_groups"])
    else:
        refuse_not_finite(part)


def _refuse_optimizer(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    kind = type(optimizer).__name__
    what = misfit(optimizer)
    if what is not None:
        raise ValueError(f"The loaded state of {kind} is of another module: {what}.")
    for group, before in zip(optimizer.param_groups, groups, strict=True):
        lacking = before.keys() - group.keys()
        if lacking:
            raise ValueError(
                f"The loaded state is of another optimizer than {kind}: it has no "
                f"{', '.join(sorted(lacking))}."
            )
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and not value.isfinite().all():
                raise ValueError(f"The loaded {name} of {kind} is not finite.")


def _slim(value: Any) -> Any:
    """Give a History with the last batch of each epoch, an optimizer with no state, or the same."""
    if isinstance(value, History):
        return History({**row, "batches": row["batches"][-1:]} for row in value)
    if isinstance(value, torch.optim.Optimizer):
        value = copy.copy(value)
        value.state = defaultdict(dict)
    return value
