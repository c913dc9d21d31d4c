"""The monitor keeps the best epoch of each set, whatever becomes of the others."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sksmooth.engine import monitor as monitor_room
from sksmooth.engine.monitor import BAD_LOGITS, Monitor
from sksmooth.engine.stack import Losses, Scored

N_ROWS, N_CLASSES = 30, 3
Y = np.arange(N_ROWS) % N_CLASSES


class Played:
    """A stack whose epochs are given: the share of rows that each member has right.

    Its state is the number of the epoch, in every member. NaN stands for logits that are NaN.
    """

    def __init__(self, *epochs, n_members=1, losses=None):
        self.epochs, self.losses = epochs, losses
        self.n_members = n_members
        self.number = 0
        shape = (n_members, 2) if n_members > 1 else (2,)
        self.values = [torch.zeros(shape), torch.zeros(shape).double()]
        self.written = {}

    def run_epoch(self):
        self.number += 1
        for value in self.values:
            value.fill_(self.number)
        loss = np.ones(self.n_members) if self.losses is None else self.losses[self.number - 1]
        loss = np.asarray(loss, dtype=float)[:, None]
        return Losses(loss, np.ones_like(loss), [[1]] * self.n_members)

    def score(self):
        return scored(self.epochs[self.number - 1])

    def state(self):
        return self.values

    def write_back(self, m, state):
        own = [value if self.n_members == 1 else value[m] for value in state]
        assert_close(own[0], own[1].float())
        (self.written[m],) = own[0].unique().tolist()


def scored(shares):
    """Make logits of one set a share: so many rows right."""
    shares = np.atleast_1d(np.asarray(shares, dtype=float))
    logits = np.zeros((len(shares), N_ROWS, N_CLASSES), dtype=np.float32)
    for own, share in zip(logits, shares, strict=True):
        right = np.arange(N_ROWS) < np.nan_to_num(share) * N_ROWS
        own[np.arange(N_ROWS), np.where(right, Y, (Y + 1) % N_CLASSES)] = 2
        if np.isnan(share):
            own[0, 0] = np.nan
    return Scored(logits, np.tile(Y, (len(shares), 1)), None, [N_ROWS] * len(shares))


def look(monitor, n_epochs=1):
    for _ in range(n_epochs):
        outcome = monitor.look([stack.run_epoch() for stack in monitor.stacks])
    return outcome


def test_the_best_epoch_is_the_one_of_the_lowest_refined_loss():
    stack = Played(0.5, 0.8, 0.9, 0.7, 0.8)
    monitor = Monitor([stack], patience=10)
    _, scores = look(monitor, 5)
    assert monitor.best.epoch.tolist() == [3]
    assert scores.accuracy == pytest.approx(0.8)
    np.testing.assert_array_equal(monitor.best.scored.logits, scored(0.9).logits)
    assert monitor.best.loss < scores.refined_loss
    monitor.restore()
    assert stack.written == {0: 3}


def test_a_cost_of_its_own_decides_and_of_equal_ones_the_refined_loss():
    costs = iter([np.nan, 2.0, 1.0, 1.0, 1.0])
    monitor = Monitor(
        [Played(0.9, 0.9, 0.5, 0.8, 0.7)], patience=10, cost=lambda logits, beta: next(costs)
    )
    look(monitor, 5)
    assert monitor.best.epoch.tolist() == [4]
    assert monitor.best.cost.tolist() == [1.0]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_set_is_done_after_its_patience(patience):
    monitor = Monitor([Played(0.5, 0.9, 0.8, 0.7, 0.6, 0.5)], patience=patience)
    look(monitor, 1 + patience)
    assert not monitor.is_over
    look(monitor)
    assert monitor.is_over
    assert (monitor.n_epochs, monitor.best.epoch.item()) == (2 + patience, 2)


def test_without_patience_the_last_epoch_is_the_best():
    stack = Played(0.9, 0.8, 0.3)
    monitor = Monitor([stack])
    look(monitor, 3)
    assert not monitor.is_over
    assert monitor.best.epoch.tolist() == [3]
    monitor.restore()
    assert stack.written == {0: 3}


def test_each_set_has_an_epoch_of_its_own():
    stack = Played([0.9, 0.4, 0.5], [0.5, 0.6, 0.8], [0.4, 0.9, 0.6], [0.4, 0.5, 0.6], n_members=3)
    monitor = Monitor([stack], patience=2)
    look(monitor, 3)
    assert monitor.active.tolist() == [False, True, True]
    _, scores = look(monitor)
    assert np.isnan(scores.refined_loss).tolist() == [True, False, False]
    assert monitor.active.tolist() == [False, True, False]
    assert monitor.best.epoch.tolist() == [1, 3, 2]
    np.testing.assert_array_equal(monitor.best.scored.logits, scored([0.9, 0.9, 0.8]).logits)
    monitor.restore([0, 2])
    assert stack.written == {0: 1, 2: 2}
    monitor.restore()
    assert stack.written == {0: 1, 1: 3, 2: 2}


@pytest.mark.parametrize("n_members", [1, 2])
def test_several_stacks_share_a_set(n_members):
    outcomes = iter([[0.9, 0.4], [0.5, 0.6], [0.4, 0.5]])
    stacks = [Played(n_members=n_members, losses=[[m] * n_members] * 3) for m in (1, 2, 3, 6)]
    sets = [np.full(n_members, number) for number in (0, 1, 0, 1)]
    monitor = Monitor(stacks, sets, 5, lambda own: scored(next(outcomes)))
    train_loss, _ = look(monitor, 3)
    assert train_loss.tolist() == [2, 4]
    assert monitor.best.epoch.tolist() == [1, 2]
    monitor.restore()
    written = [set(stack.written.values()) for stack in stacks]
    assert written == [{1}, {2}, {1}, {2}]
    for stack in stacks:
        stack.written.clear()
    monitor.restore([1])
    assert [bool(stack.written) for stack in stacks] == [False, True, False, True]


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_set_whose_loss_is_no_number_is_given_up_and_others_go_on(loss):
    stack = Played(*[[0.5, 0.6]] * 2, [0.9, 0.9], n_members=2, losses=[[1, 1], [1, loss], [1, 1]])
    monitor = Monitor([stack], patience=9)
    look(monitor, 3)
    assert monitor.failed == {1: f"The training loss turned {loss}"}
    assert monitor.active.tolist() == [True, False]
    assert monitor.best.epoch.tolist() == [3, 1]


def test_a_set_whose_logits_are_no_numbers_is_given_up_and_others_go_on():
    stack = Played([np.nan, 0.6], [0.9, 0.9], n_members=2)
    monitor = Monitor([stack], patience=9)
    look(monitor, 2)
    assert monitor.failed == {0: BAD_LOGITS}
    assert monitor.best.epoch.tolist() == [0, 2]
    stack = Played(np.nan)
    monitor = Monitor([stack], patience=9)
    look(monitor)
    assert monitor.is_over
    assert monitor.failed == {0: BAD_LOGITS}


def test_an_interrupt_while_copying_leaves_the_best_whole(monkeypatch):
    stack = Played(0.5, 0.7, 0.9, 0.95)
    monitor = Monitor([stack], patience=9)
    look(monitor, 2)
    copy, before = monitor_room.copy_all, monitor.best

    def interrupted(kept, now):
        copy(kept[:1], now[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor_room, "copy_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(monitor)
    monkeypatch.undo()
    assert monitor.best is before
    monitor.restore()  # which compares what it is given
    assert stack.written == {0: 2}
    assert monitor.best.scored.logits.tolist() == scored(0.7).logits.tolist()
    look(monitor)
    monitor.restore()
    assert stack.written == {0: 4}


def test_an_interrupt_while_some_sets_are_copied_leaves_the_best_whole(monkeypatch):
    stack = Played([0.5, 0.5], [0.6, 0.6], [0.9, 0.5], n_members=2)
    monitor = Monitor([stack], patience=9)
    look(monitor, 2)
    where, calls = torch.where, []

    def interrupted(*args, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(where(*args, **kwargs))

    monkeypatch.setattr(torch, "where", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(monitor)
    monitor.restore()
    assert stack.written == {0: 2, 1: 2}


def test_without_held_out_rows_the_state_as_it_is_is_restored():
    stack = Played()
    monitor = Monitor([stack], patience=1, collect=lambda stacks: None)
    for _ in range(3):
        train_loss, scores = look(monitor)
    assert (monitor.best, scores, monitor.is_over) == (None, None, False)
    assert monitor.start_of(0) is monitor.held_out_of(0) is None
    assert monitor.epochs_since_best(0) == 0
    assert train_loss.tolist() == [1]
    monitor.restore()
    assert stack.written == {0: 3}


def test_the_temperature_is_remembered_for_each_set():
    monitor = Monitor([Played([0.9, 0.4], [0.9, 0.4], n_members=2)])
    look(monitor)
    starts = [monitor.start_of(0), monitor.start_of(1)]
    assert starts[0] > starts[1] > 0
    assert starts == monitor.inverse_temperature.tolist()


def test_weights_of_rows_count_in_the_accuracy():
    weight = np.where(np.arange(N_ROWS) < 15, 3.0, 1.0)[None]
    outcome = scored(0.5)._replace(weight=weight, is_weighted=True)
    _, scores = look(Monitor([Played()], collect=lambda stacks: outcome))
    assert scores.accuracy == pytest.approx(0.75)
    assert list(scores.named()) == ["valid_acc", "refined_loss"]
