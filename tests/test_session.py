"""The epochs of one net: what is recorded, told and printed."""

import builtins
import io
import pickle
import re
import sys
import time

import pytest
import torch
from helpers import quick
from numpy.testing import assert_allclose
from skorch.callbacks import Callback, LRScheduler, ProgressBar

from sksmooth import LabelSmoothingClassifierCV, make_tabular
from sksmooth._fit import Job, fit_together


class InterruptAfter(Callback):
    """Press Ctrl-C in the middle of an epoch."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_batch_end(self, net, training=False, **kwargs):
        if training and len(net.history) > self.epochs:
            raise KeyboardInterrupt


def test_no_full_batch_to_train_on_is_an_error(iris):
    net = quick(iterator_train__drop_last=True, batch_size=128)
    with pytest.raises(ValueError, match="120 rows to train on are fewer than batch_size=128"):
        net.fit(*iris)


def test_interrupt_keeps_the_net_trained_so_far_and_calibrates_it(iris):
    X, y = iris
    net = quick(max_epochs=50, callbacks=[InterruptAfter(10)]).fit(X, y)
    assert len(net.history) == 10  # what was interrupted is not recorded
    assert net.best_epoch_ <= 10
    assert net.calibrator_.temperature_ > 0
    finished = quick(max_epochs=10).fit(X, y)
    assert_allclose(net.predict_proba(X), finished.predict_proba(X), rtol=1e-5)


def test_verbose_prints_the_table_of_epochs(iris, capsys):
    quick(verbose=1).fit(*iris)
    header, rule, *rows = capsys.readouterr().out.strip().splitlines()
    assert set(header.split()) == {
        "epoch",
        "train_loss",
        "valid_loss",
        "refined_loss",
        "valid_acc",
        "left_at_most",
        "dur",
    }
    assert set(rule) <= {"-", " "}
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize("alone", [True, False])
def test_verbose_tells_the_time_left(iris, capsys, alone):
    net = quick(verbose=1)
    if alone:
        net.fit(*iris)
    else:
        fit_together([Job(net, *iris)])
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    column = header.split().index("left_at_most")
    assert [re.sub(r"\d", "0", row.split()[column]) for row in rows] == ["0:00:00"] * 3
    assert rows[-1].split()[column] == "0:00:00"
    assert not any("left" in name for name in [*net.history[-1], *net.get_params()])


def test_the_table_leaves_out_columns_as_skorchs_does(iris, capsys):
    keys = ["event_left_at_most", "dur"]
    quick(verbose=1, callbacks__print_log__keys_ignored=keys).fit(*iris)
    assert not {"left_at_most", "dur"} & set(capsys.readouterr().out.split())


def test_silent_by_default(iris, capsys):
    quick().fit(*iris).predict(iris[0])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


class Wait(Callback):
    """Take so long over a batch that the progress bar is drawn anew."""

    def on_batch_end(self, net, **kwargs):
        time.sleep(0.11)


def test_who_takes_the_name_of_print_changes_nothing(iris, capsys, monkeypatch):
    monkeypatch.setattr(builtins, "print", lambda *text: sys.stdout.write("taken\n"))  # as Ray does
    net = pickle.loads(pickle.dumps(quick(max_epochs=1).fit(*iris)))
    net.partial_fit(*iris)
    assert capsys.readouterr().out == ""
    net.set_params(verbose=1).fit(*iris)
    assert "taken" in capsys.readouterr().out


def test_progress_bar_shows(iris, capsys):
    quick(callbacks=[Wait(), ProgressBar()], max_epochs=1, batch_size=64).fit(*iris)
    assert "2/3 [" in capsys.readouterr().err  # two batches in training, one on held-out rows


def test_callbacks_of_skorch_run(iris):
    schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    net = quick(callbacks=[schedule], lr=0.01).fit(*iris)
    assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**3)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_progress_of_an_ensemble_needs_no_greek(encoding, monkeypatch):
    X, y = make_tabular(60, random_state=0)
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", output)
    LabelSmoothingClassifierCV(quick(max_epochs=1), cv=2, verbose=1, random_state=0).fit(X, y)
    output.flush()
    assert b"refined loss:  ?=0 " in output.buffer.getvalue()
