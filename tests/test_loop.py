"""The loop over epochs: when it ends, and what an interrupt makes of it."""

import time

import numpy as np
import pytest
from sklearn.base import clone

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    make_tabular,
)
from sksmooth.engine.loop import train
from sksmooth.engine.stack import Losses


class Counted:
    n_members = 1

    def __init__(self, interrupted_in=None):
        self.n_epochs, self.interrupted_in = 0, interrupted_in

    def run_epoch(self):
        self.n_epochs += 1
        if self.n_epochs == self.interrupted_in:
            raise KeyboardInterrupt
        return Losses(np.ones((1, 1)), np.ones((1, 1)), [[1]])


class Watching:
    """A monitor that gives up sets in given epochs, and is over when none is left."""

    def __init__(self, n_sets=1, failing=None, done=None):
        self.active = np.ones(n_sets, dtype=bool)
        self.failing, self.done = failing or {}, done or {}
        self.failed, self.n_epochs, self.best = {}, 0, None

    @property
    def is_over(self):
        return not self.active.any()

    def is_done(self, stack):
        return not self.active[stack % len(self.active)]

    def look(self, losses):
        self.n_epochs += 1
        for number, epoch in self.failing.items():
            if epoch == self.n_epochs:
                self.failed[number] = f"failed in {epoch}"
                self.active[number] = False
        for number, epoch in self.done.items():
            self.active[number] &= epoch != self.n_epochs
        return np.ones(len(self.active)), None


def ignore(epoch):
    """Do nothing."""


def run(stacks, monitor, max_epochs, on_begin=lambda: None, max_time=None):
    epochs = []
    interrupted = train(stacks, monitor, max_epochs, on_begin, epochs.append, ignore, max_time)
    return interrupted, epochs


@pytest.mark.parametrize(("max_time", "n_epochs"), [(1e-9, 1), (0.05, 3), (100.0, 4), (None, 4)])
def test_no_epoch_begins_after_the_time_is_over(max_time, n_epochs):
    interrupted, epochs = run([Counted()], Watching(), 4, lambda: time.sleep(0.02), max_time)
    assert not interrupted
    assert len(epochs) <= n_epochs if max_time == 0.05 else len(epochs) == n_epochs


@pytest.mark.parametrize(
    ("n_before", "max_time", "left"),
    [(0, None, [6.0, 4.0, 2.0, 0.0]), (0, 5.0, [3.0, 1.0, 0.0]), (2, None, [2.0, 0.0])],
)
def test_the_time_left_is_at_most_that_of_the_epochs_to_come(monkeypatch, n_before, max_time, left):
    seconds = [0.0]  # each epoch takes two
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    monitor = Watching()
    monitor.n_epochs = n_before
    begin = lambda: seconds.__setitem__(0, seconds[0] + 2.0)  # noqa: E731
    _, epochs = run([Counted()], monitor, 4, begin, max_time)
    assert [epoch.left for epoch in epochs] == left


@pytest.mark.parametrize("max_epochs", [0, 1, 4])
def test_every_stack_is_trained_for_the_number_of_epochs(max_epochs):
    stacks, begun = [Counted(), Counted()], []
    interrupted, epochs = run(stacks, Watching(), max_epochs, lambda: begun.append(1))
    assert not interrupted
    assert [epoch.number for epoch in epochs] == list(range(1, max_epochs + 1))
    assert [stack.n_epochs for stack in stacks] == [max_epochs] * 2
    assert len(begun) == max_epochs
    assert all(len(epoch.losses) == 2 and epoch.seconds >= 0 for epoch in epochs)


def test_it_ends_when_the_monitor_says_so():
    _, epochs = run([Counted()], Watching(n_sets=2, done={0: 2, 1: 3}), 10)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    # In the epoch in which a set is done, it was still in training.
    assert [epoch.active.tolist() for epoch in epochs] == [[1, 1], [1, 1], [0, 1]]


def test_a_stack_whose_nets_are_done_is_trained_no_further():
    stacks = [Counted(), Counted()]
    _, epochs = run(stacks, Watching(n_sets=2, done={0: 2}), 5)
    assert [stack.n_epochs for stack in stacks] == [2, 5]
    assert all(len(epoch.losses) == 2 for epoch in epochs)


def test_a_failure_is_told_in_its_epoch_only():
    _, epochs = run([Counted()], Watching(n_sets=3, failing={1: 2}), 3)
    assert [epoch.failed for epoch in epochs] == [{}, {1: "failed in 2"}, {}]
    assert [epoch.active.tolist() for epoch in epochs] == [[1, 1, 1], [1, 0, 1], [1, 0, 1]]


def test_an_interrupt_before_an_epoch_is_finished_goes_on():
    with pytest.raises(KeyboardInterrupt):
        run([Counted(interrupted_in=1)], Watching(), 5)


@pytest.mark.parametrize("where", [0, 1])
def test_an_interrupt_later_ends_the_training(where):
    stacks = [Counted(), Counted()]
    stacks[where].interrupted_in = 3
    interrupted, epochs = run(stacks, Watching(), 5)
    assert interrupted
    assert [epoch.number for epoch in epochs] == [1, 2]


def test_an_interrupt_from_whoever_is_told_ends_the_training():
    def interrupt(epoch):
        raise KeyboardInterrupt

    monitor = Watching()
    assert train([Counted()], monitor, 5, lambda: None, ignore, interrupt)
    assert monitor.n_epochs == 1


def test_an_epoch_that_is_not_recorded_is_as_if_it_had_never_begun():
    def record(epoch):
        if epoch.number == 3:
            raise KeyboardInterrupt

    monitor = Watching()
    assert train([Counted()], monitor, 5, lambda: None, record, ignore)
    assert monitor.n_epochs == 2


def test_other_errors_go_on():
    def fail(epoch):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train([Counted()], Watching(), 5, lambda: None, ignore, fail)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_time_that_is_over_ends_every_kind_of_fit_with_the_best_so_far(early_stopping):
    X, y = make_tabular(200, random_state=0)
    settings = {"early_stopping": early_stopping, "random_state": 0, "calibration": None}
    short, late = (
        LabelSmoothingClassifier(**bound, **settings)
        for bound in ({"max_epochs": 1}, {"max_time": 1e-9})
    )
    for make in (
        lambda net: net,
        lambda net: LabelSmoothingClassifierCV(net, cv=3, random_state=0),
        lambda net: BatchedGridSearchCV(net, {"lr": [0.01, 0.1]}, cv=2),
    ):
        expected, found = (make(clone(net)).fit(X, y).predict_proba(X) for net in (short, late))
        np.testing.assert_array_equal(found, expected)
