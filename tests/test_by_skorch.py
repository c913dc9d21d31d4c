"""Nets that skorch's own steps train: hooks, listeners and modes that ask for them."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import Listener, assert_same_module, assert_same_parameters, make_net
from skorch.callbacks import Callback
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import TensorDataset

from sksmooth import LabelSmoothingClassifier


def spying_on(hook):
    """Make a subclass that notes the calls of one of skorch's hooks."""

    def noted(self, *args, **kwargs):
        self.calls.append(hook)
        return getattr(LabelSmoothingClassifier, hook)(self, *args, **kwargs)

    return type("Spying", (LabelSmoothingClassifier,), {hook: noted, "calls": []})


@pytest.mark.parametrize(
    "hook",
    [
        "get_loss",
        "infer",
        "train_step",
        "train_step_single",
        "get_train_step_accumulator",
        "_step_optimizer",
        "_zero_grad_optimizer",
        "on_batch_begin",
        "on_batch_end",
        "on_grad_computed",
        "notify",
    ],
)
def test_overridden_hooks_are_called_for_every_batch(hook, data):
    plain = make_net()
    net = spying_on(hook)(**plain.get_params()).fit(*data)
    assert net.trained_by_ != "by hand"
    assert len(net.calls) >= 5 * 6
    assert_same_module(net, plain.fit(*data))


def test_step_function_of_ones_own_is_used(data):
    steps = []

    class OwnStep(LabelSmoothingClassifier):
        def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
            def own(batch, **params):
                steps.append(prefix)
                return step_fn(batch, **params)

            super().run_single_epoch(iterator, training, prefix, own, **fit_params)

    plain = make_net()
    net = OwnStep(**plain.get_params()).fit(*data)
    assert net.trained_by_ != "by hand"
    assert (steps.count("train"), steps.count("valid")) == (5 * 6, 5)
    assert_same_module(net, plain.fit(*data))


def test_replaced_step_of_one_net_is_used(data):
    net, calls = make_net(warm_start=True).fit(*data), []
    assert net.trained_by_ == "by hand"
    original = net.train_step_single
    object.__setattr__(
        net, "train_step_single", lambda *args, **kwargs: calls.append(1) or original(*args)
    )
    net.fit(*data)
    assert net.trained_by_ != "by hand"
    assert len(calls) == 5 * 6


class Recorder(Callback):
    """Remember the events that one batch sends, with their arguments."""

    def __init__(self):
        self.events = []

    def on_batch_begin(self, net, batch, training):
        self.events.append(("begin", training, len(batch[0])))

    def on_grad_computed(self, net, named_parameters, batch, training):
        gradients = {name: parameter.grad for name, parameter in named_parameters}
        assert all(gradient is not None for gradient in gradients.values())
        self.events.append(("grad", training, len(batch[0]), tuple(gradients)))

    def on_batch_end(self, net, batch, training, loss, y_pred):
        assert y_pred.shape == (len(batch[0]), 3)
        self.events.append(("end", training, len(batch[0]), loss.ndim))


@pytest.mark.parametrize("heard", ["on_batch_begin", "on_grad_computed", "on_batch_end"])
def test_listeners_hear_skorchs_events_in_skorchs_order(heard, data):
    one = type("One", (Callback,), {heard: getattr(Recorder, heard), "__init__": Recorder.__init__})
    recorder, listener = Recorder(), one()
    net = make_net(callbacks=[("all", recorder)], max_epochs=1).fit(*data)
    alone = make_net(callbacks=[("one", listener)], max_epochs=1).fit(*data)
    assert alone.trained_by_ != "by hand"
    names = tuple(name for name, _ in make_net().fit(*data).get_all_learnable_params())
    train = [
        event
        for size in (32, 32, 32, 32, 32, 10)
        for event in (("begin", True, size), ("grad", True, size, names), ("end", True, size, 0))
    ]
    expected = [*train, ("begin", False, 30), ("end", False, 30, 0)]
    assert recorder.events == expected
    kind = {"on_batch_begin": "begin", "on_grad_computed": "grad", "on_batch_end": "end"}[heard]
    assert listener.events == [event for event in expected if event[0] == kind]
    assert_same_module(net, alone, rtol=0, atol=0)


def test_torch_dataset_trains_as_by_skorchs_loop(data):
    dataset = TensorDataset(torch.from_numpy(data[0]), torch.from_numpy(data[1]))
    quiet = make_net().fit(dataset)
    assert quiet.trained_by_ != "by hand"
    assert_same_module(quiet, make_net(callbacks=[Listener()]).fit(dataset))
    assert (quiet.predict(data[0]) == data[1]).mean() > 0.5


def test_fit_parameters_reach_the_module(data):
    net = make_net(train_split=None)
    with pytest.raises(TypeError, match="scale"):
        net.fit(*data, scale=2)
    net.fit(*data, return_activations=True)
    assert net.trained_by_ != "by hand"
    assert_same_module(net, make_net(train_split=None).fit(*data))


class Autocast(LabelSmoothingClassifier):
    """Mixed precision as skorch users do it: in `infer`."""

    def infer(self, x, **fit_params):
        with torch.autocast("cpu", torch.bfloat16):
            return super().infer(x, **fit_params)


def test_autocast_goes_skorchs_way(data):
    own = Autocast(**make_net().get_params()).fit(*data)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        around = make_net().fit(*data)
        around.predict_proba(data[0])
    assert own.trained_by_ != "by hand"
    assert_same_module(own, around)
    exact = make_net().fit(*data)
    assert exact.trained_by_ == "by hand"
    proba = [net.predict_proba(data[0]) for net in (own, exact)]
    assert not np.allclose(*proba, rtol=1e-3)
    np.testing.assert_allclose(*proba, atol=0.1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by the compiler
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")  # likewise
def test_compiled_module_trains_by_itself(data):
    parameters = {"compile": True, "compile__backend": "eager", "train_split": None}
    net = make_net(max_epochs=1, **parameters).fit(*data)
    assert net.trained_by_ != "by hand"
    compiled, plain = net.module_._orig_mod, make_net(max_epochs=1, train_split=None).fit(*data)
    assert_same_parameters(compiled, plain.module_, rtol=1e-4, atol=1e-4)


def test_hooks_of_the_optimizer_are_called(data):
    calls = []

    class Own(Callback):
        def on_train_begin(self, net, **kwargs):
            net.optimizer_.register_step_pre_hook(lambda *_: calls.append("own"))

    handle = register_optimizer_step_post_hook(lambda *_: calls.append("any"))
    try:
        make_net(callbacks=[Own()], max_epochs=1).fit(*data)
    finally:
        handle.remove()
    assert calls == ["own", "any"] * 6


def test_global_hooks_of_modules_are_called(data):
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        net = make_net(train_split=None).fit(*data)
    finally:
        handle.remove()
    assert net.trained_by_ != "by hand"
    assert len(calls) > 5 * 7


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_of_lbfgs_go_on_like_the_one_they_are_copies_of(copied, data):
    params = {"optimizer": torch.optim.LBFGS, "batch_size": -1, "lr": 0.1, "warm_start": True}
    net = make_net(**params, max_epochs=2).fit(*data)
    twin = copied(net).fit(*data)
    assert_same_module(twin, net.fit(*data), rtol=0, atol=0)


def test_lbfgs_goes_on_after_a_fit_that_failed(data):
    X, y = data
    params = {"optimizer": torch.optim.LBFGS, "batch_size": -1, "lr": 0.1}
    net, twin = (make_net(**params).partial_fit(X, y) for _ in range(2))
    with pytest.raises(TypeError, match="unknown"):
        net.partial_fit(X, y, unknown=1)
    assert_same_module(net.partial_fit(X, y), twin.partial_fit(X, y), rtol=0, atol=0)


def test_losses_are_read_when_the_epoch_is_over(data, monkeypatch):
    reads, read = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: reads.append(1) or read(self))
    counts = []
    for batch_size in (32, 8):
        net = make_net(
            callbacks=[Listener()], train_split=None, batch_size=batch_size, max_epochs=2
        )
        before = len(reads)
        net.fit(*data)
        counts.append(len(reads) - before)
    assert counts[0] == counts[1] > 0


class Listed(LabelSmoothingClassifier):
    """Gives a list of batches, of whose rows nothing more is known."""

    def get_iterator(self, dataset, training=False):
        return list(super().get_iterator(dataset, training=training))


def test_weighted_batches_of_ones_own_iterator_are_trained_on(data):
    X, y = data
    weight = np.linspace(0.5, 2, len(y))
    net = make_net(train_split=None, calibration=None)
    listed = Listed(**net.get_params()).fit(X, y, sample_weight=weight)
    assert listed.trained_by_ == "by skorch"
    assert listed.score(X, y) == pytest.approx(
        net.fit(X, y, sample_weight=weight).score(X, y), abs=0.1
    )
