"""How far a training has come: saved beside a net's parameters, and gone on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from skorch.history import History

from sksmooth._batches import fingerprint
from sksmooth.engine.monitor import Best, Monitor
from sksmooth.engine.randomness import OwnRandomness
from sksmooth.engine.stack import Scored

# So many tables are known again, the last ones that were trained on.
MOST_TABLES = 2000


def parts_of(net: Any) -> dict[str, Any]:
    """Give a net's modules, criteria and optimizers, as far as they are built, by their names."""
    names = (f"{name}_" for name in net._modules + net._criteria + net._optimizers)
    return {name: vars(net)[name] for name in names if name in vars(net)}


class Progress:
    """What skorch saves of a training as ``f_training``, and loads again; `training` may be None.

    It holds all that the next epochs depend on, in one file: a training that was killed between two
    files would else go on from parts of different epochs.
    """

    def __init__(self, net: Any, training: Any) -> None:
        self.net = net
        self.training = training

    def state_dict(self) -> dict[str, Any]:
        """Give what is to be saved: numbers, text and tensors."""
        training = self.training
        if training is None or training.session is None:
            raise ValueError(
                "f_training= saves a training that is going on, as skorch's Checkpoint does at the "
                "end of an epoch; there is none."
            )
        return training.last or state_of(self.net, training)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the net's parts and history what was saved; its next training goes on from there."""
        net = self.net
        if net.initialized_ and state["parts"].keys() != parts_of(net).keys():
            raise ValueError(
                f"The training saved is one of {sorted(state['parts'])}, but the net has "
                f"{sorted(parts_of(net))}."
            )
        load_parts(net, state)
        net.history_ = History(json.loads(state["history"]))
        net.progress = state


def state_of(net: Any, training: Any) -> dict[str, Any]:
    """Give all that the epochs to come depend on, and do not change: numbers, text and tensors.

    The net is in training, at the end of an epoch.
    """
    session, monitor = training.session, training.monitor
    best = monitor.best
    return {
        "parts": {name: _copied(part.state_dict()) for name, part in parts_of(net).items()},
        "history": json.dumps(net.history.to_list()),
        "callbacks": {name: _learned_by(callback) for name, callback in net.callbacks_},
        "random_state": _copied(training.drawn_from),
        "generators": {
            ":".join(map(str, device)): generator.get_state()
            for device, generator in session.randomness.generators.items()
        },
        "held_out_by": _copied(list(net._held_out_by.items())),
        "n_folds": session.n_folds,
        "folds": session.stack.progress() if session.n_folds else None,
        "n_epochs": monitor.n_epochs,
        "active": _copied(monitor.active),
        "inverse_temperature": _copied(monitor.inverse_temperature),
        "best": best and _copied([best.epoch, best.loss, list(best.scored), best.state]),
    }


def seed_of_split(net: Any, rows: Any, seed: int | None) -> int | None:
    """Give the seed by which rows are held out of a table; None: all of it was trained on.

    That is `seed` the first time it is trained on, and the same then in each further pass, or the
    calibrator would be fitted to rows that were trained on.
    """
    key = fingerprint(rows)
    known = net._held_out_by
    if key not in known:
        kept = list(known.items())[-MOST_TABLES + 1 :]
        net._held_out_by = known = dict([*kept, (key, seed)])
    return known[key]


def load_parts(net: Any, state: Mapping[str, Any]) -> None:
    """Give a net's module, criterion and optimizer what was saved of them."""
    for name, own in state["parts"].items():
        getattr(net, name).load_state_dict(own)


def random_state_of(state: Mapping[str, Any]) -> np.random.RandomState:
    """Give the generator that the seeds of a saved training were drawn from."""
    random_state = np.random.RandomState()
    kind, key, *others = state["random_state"]
    random_state.set_state((kind, _as_array(key), *others))
    return random_state


def go_on(net: Any, randomness: OwnRandomness, monitor: Monitor, state: Mapping[str, Any]) -> None:
    """Bring what watches a net, and what it draws from, to where a saved training was.

    That is before the monitor's first epoch, the net's parts and history having been loaded.
    """
    for device, own in state["generators"].items():
        _generator_of(net, randomness, device).set_state(own.cpu())
    if state["n_folds"]:
        folds: Any = monitor.stacks[0]
        folds.go_on(state["folds"])
    monitor.n_epochs = state["n_epochs"]
    monitor.active = _as_array(state["active"])
    monitor.inverse_temperature = _as_array(state["inverse_temperature"])
    if state["best"] is not None:
        epoch, loss, scored, kept = state["best"]
        cost = loss = _as_array(loss)
        monitor.best = Best(_as_array(epoch), cost, loss, Scored(*map(_as_array, scored)), kept)
    for name, callback in net.callbacks_:
        for attribute, own in state["callbacks"].get(name, {}).items():
            before: Any = getattr(callback, attribute, None)
            if hasattr(before, "load_state_dict"):
                before.load_state_dict(own)
            else:
                setattr(callback, attribute, own)


def _generator_of(net: Any, randomness: OwnRandomness, device: str) -> torch.Generator:
    """Give what goes on for a generator of `device`, "cuda:0", say: that of the net's own GPU."""
    own, kind = torch.device(net.device or "cpu"), device.partition(":")[0]
    if kind not in ("cpu", own.type):
        raise ValueError(
            f"The training saved has drawn its random numbers on device={kind!r}, and cannot go on "
            f"with device={net.device!r}. Its parameters are loaded without it, by f_params."
        )
    return randomness.generator(own if kind == own.type else kind)


def _learned_by(callback: Any) -> dict[str, Any]:
    """Give what a callback has come to know: numbers, text, the states of what has one."""
    learned: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if not name.endswith("_"):
            continue
        if hasattr(value, "state_dict") and not isinstance(value, type):
            learned[name] = _copied(value.state_dict())
        elif isinstance(value, np.generic):
            learned[name] = value.item()
        elif value is None or type(value) in (bool, int, float, str):
            learned[name] = value
    return learned


def _copied(value: Any) -> Any:
    """Copy tensors, and arrays as tensors, in whatever containers."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, Mapping):
        return {key: _copied(own) for key, own in value.items()}
    return [_copied(own) for own in value] if isinstance(value, list | tuple) else value


def _as_array(value: Any) -> Any:
    # Loading has brought all tensors to the net's device.
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
