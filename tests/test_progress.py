"""Trainings that were cut off, and go on as if they had not been."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import WithDropout
from skorch.callbacks import (
    Checkpoint,
    LoadInitState,
    LRScheduler,
    PrintLog,
    TrainEndCheckpoint,
)

from sksmooth import LabelSmoothingClassifier, _progress, make_tabular
from sksmooth._batches import TensorRows

X, Y = make_tabular(400, random_state=0)

KINDS = {
    "by hand": {},
    "by autograd": {"module": WithDropout},
    "by skorch": {"iterator_train": torch.utils.data.DataLoader, "iterator_train__batch_size": 64},
    "LBFGS": {"optimizer": torch.optim.LBFGS, "lr": 0.1, "batch_size": -1},
    "momentum": {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9},
    "weights": {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
    "no early stopping": {"early_stopping": False},
    "no held-out rows": {"train_split": None},
    "a fifth held out": {"train_split": 0.2},
}
SCHEDULERS = {
    "cosine": {"policy": "CosineAnnealingLR", "T_max": 20},
    "plateau": {"policy": "ReduceLROnPlateau", "monitor": "valid_loss", "patience": 1},
}


class CutOff:
    """Where skorch's PrintLog writes to: two lines of a header, then one after each epoch."""

    def __init__(self, epoch):
        self.epoch, self.n_lines = epoch, 0

    def __call__(self, line):
        self.n_lines += 1
        if self.epoch is not None and self.n_lines == self.epoch + 2:
            raise ConnectionAbortedError


def fit(folder, *callbacks, cut_off_after=None, scheduler=None, schedules_first=True, **params):
    """Fit a net that saves its training, and goes on from one that is in the folder."""
    checkpoint = Checkpoint(monitor=None, dirname=str(folder), f_training="training.pt")
    scheduling = [] if scheduler is None else [LRScheduler(**SCHEDULERS[scheduler])]
    cut_off = ("cut_off", PrintLog(sink=CutOff(cut_off_after)))
    loading = [checkpoint, LoadInitState(checkpoint)]
    every = [*scheduling, *loading] if schedules_first else [*loading, *scheduling]
    every += [cut_off, *callbacks]
    params = {"max_epochs": 12, "patience": 4, "random_state": 0, **params}
    return LabelSmoothingClassifier(callbacks=every, **params).fit(X, Y)


def rows_of(net):
    return [{k: v for k, v in row.items() if k not in ("batches", "dur")} for row in net.history]


def assert_same(net, expected):
    np.testing.assert_array_equal(net.predict_proba(X), expected.predict_proba(X))
    assert rows_of(net) == rows_of(expected)
    assert net.best_epoch_ == expected.best_epoch_


@pytest.mark.parametrize(
    ("kind", "epoch"), [("by hand", 1), ("no held-out rows", 1), *((kind, 5) for kind in KINDS)]
)
def test_goes_on_bit_for_bit(tmp_path, kind, epoch):
    params = KINDS[kind]
    expected = fit(tmp_path / "whole", **params)
    with pytest.raises(ConnectionAbortedError):
        fit(tmp_path / "cut", cut_off_after=epoch, **params)
    assert_same(fit(tmp_path / "cut", **params), expected)


def test_goes_on_with_the_seeds_that_were_drawn(tmp_path):
    expected = fit(tmp_path / "whole", random_state=np.random.RandomState(3))
    with pytest.raises(ConnectionAbortedError):
        fit(tmp_path / "cut", random_state=np.random.RandomState(3), cut_off_after=5)
    assert_same(fit(tmp_path / "cut", random_state=None), expected)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("schedules_first", [True, False])
def test_learning_rates_go_on(tmp_path, scheduler, schedules_first):
    params = {"scheduler": scheduler, "schedules_first": schedules_first}
    expected = fit(tmp_path / "whole", **params)
    with pytest.raises(ConnectionAbortedError):
        fit(tmp_path / "cut", cut_off_after=4, **params)
    assert_same(fit(tmp_path / "cut", **params), expected)


def test_a_damaged_file_is_refused_or_changes_nothing(tmp_path):
    expected = fit(tmp_path / "whole", max_epochs=13)
    fit(tmp_path)
    path = tmp_path / "training.pt"
    whole, n_refused = path.read_bytes(), 0
    for place in np.random.default_rng(0).integers(len(whole), size=20):
        path.write_bytes(bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
        try:
            net = fit(tmp_path, max_epochs=13)
        except (ValueError, RuntimeError):
            n_refused += 1
        else:  # what fills up the file was damaged
            assert_same(net, expected)
    assert n_refused > 10


def test_one_that_has_ended_stays_as_it_is(tmp_path):
    expected = fit(tmp_path)
    assert_same(fit(tmp_path), expected)


def test_more_epochs_after_the_end(tmp_path):
    def train(folder, max_epochs):
        at_end = TrainEndCheckpoint(dirname=str(folder), f_training="training.pt")
        net = LabelSmoothingClassifier(
            callbacks=[at_end, LoadInitState(at_end)], max_epochs=max_epochs, random_state=0
        )
        return net.fit(X, Y)

    train(tmp_path / "cut", 6)
    net, expected = train(tmp_path / "cut", 15), train(tmp_path / "whole", 15)
    np.testing.assert_array_equal(net.predict_proba(X), expected.predict_proba(X))


def test_load_params_and_warm_start(tmp_path):
    expected = fit(tmp_path / "whole")
    with pytest.raises(ConnectionAbortedError):
        fit(tmp_path / "cut", cut_off_after=5)
    net = LabelSmoothingClassifier(
        module__n_features=10, module__n_classes=3, max_epochs=12, patience=4, warm_start=True
    ).initialize()
    net.load_params(f_training=tmp_path / "cut" / "training.pt")
    np.testing.assert_array_equal(net.fit(X, Y).predict_proba(X), expected.predict_proba(X))


KILLED = """
import os, signal, sys
import torch
from skorch.callbacks import Checkpoint, LoadInitState
from sksmooth import LabelSmoothingClassifier, make_tabular

save, n_saved = torch.save, 0

def save_half(state, file):
    global n_saved
    n_saved += 1
    if n_saved == int(sys.argv[2]):
        with open(file, "wb") as half:
            half.write(b"half of it")
            half.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)

torch.save = save_half
checkpoint = Checkpoint(monitor=None, dirname=sys.argv[1], f_training="training.pt")
LabelSmoothingClassifier(
    callbacks=[checkpoint, LoadInitState(checkpoint)], max_epochs=12, patience=4, random_state=0
).fit(*make_tabular(400, random_state=0))
"""


# Four files are saved by torch.save after each epoch, the training last: killed in the sixth
# epoch's, and in the first's, before there is a training to go on from.
@pytest.mark.parametrize("at_file", [5 * 4 + 4, 2])
def test_goes_on_after_kill_9(tmp_path, at_file):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(at_file)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert_same(fit(tmp_path / "killed"), fit(tmp_path / "whole"))


def test_of_another_architecture_is_refused_whole(tmp_path):
    fit(tmp_path, max_epochs=2)
    net = LabelSmoothingClassifier(module__hidden_layer_sizes=(32,), max_epochs=2, random_state=0)
    before = net.fit(X, Y).predict_proba(X)
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_params(f_training=tmp_path / "training.pt")
    np.testing.assert_array_equal(net.predict_proba(X), before)
    assert len(net.history) == 2
    assert net.fit(X, Y).best_epoch_ <= 2


def test_a_training_with_other_parts_is_refused(tmp_path):
    state = {"parts": {"generator_": {}}, "history": "[]"}
    torch.save(state, tmp_path / "training.pt")
    net = LabelSmoothingClassifier(max_epochs=1).initialize()
    with pytest.raises(ValueError, match="generator_"):
        net.load_params(f_training=tmp_path / "training.pt")


def test_partial_fit_takes_the_parts_only(tmp_path):
    fitted = fit(tmp_path, max_epochs=2)
    net = LabelSmoothingClassifier(module__n_features=10, random_state=0).initialize()
    net.load_params(f_training=tmp_path / "training.pt")
    net.partial_fit(X, Y, epochs=3)
    assert len(net.history) == len(fitted.history) + 3


def test_there_is_none_to_save_outside_of_training(tmp_path):
    net = LabelSmoothingClassifier(max_epochs=2, random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match="f_training= saves a training that is going on"):
        net.save_params(f_training=tmp_path / "training.pt")
    assert not list(tmp_path.iterdir())


def test_tables_are_known_again_up_to_a_number(monkeypatch):
    monkeypatch.setattr(_progress, "MOST_TABLES", 3)
    net = SimpleNamespace(_held_out_by={})
    tables = [TensorRows(torch.full((2, 1), float(i)), torch.zeros(2)) for i in range(4)]
    for seed, rows in enumerate(tables[:3]):
        assert _progress.seed_of_split(net, rows, seed) == seed
    for again in range(2):
        for seed, rows in enumerate(tables[:3]):
            assert _progress.seed_of_split(net, rows, 10 + again) == seed
    assert _progress.seed_of_split(net, tables[3], 3) == 3
    assert _progress.seed_of_split(net, tables[0], 20) == 20  # the first is forgotten
