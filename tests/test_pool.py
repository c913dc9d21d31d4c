"""Few rows through fitted SimpleNets by NumPy: the logits of many, and of the nets as they are."""

import copy

import numpy as np
import pytest
import torch
from helpers import quick
from numpy.testing import assert_allclose, assert_array_equal
from skorch.callbacks import Callback
from torch import nn

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, SimpleNet, make_tabular
from sksmooth._pool import FEW_ROWS, FEW_WEIGHTS, few_logits, pool_of
from sksmooth.encoding import Periodic, PiecewiseLinear
from sksmooth.modules import ACTIVATIONS

X, Y = make_tabular(150, random_state=0)


def make_cv(net=None, **params):
    return LabelSmoothingClassifierCV(
        net or quick(max_epochs=2), cv=2, label_smoothings=(0.1,), random_state=0, **params
    )


def logits_of_many(model, rows):
    """Give the logits of few rows among so many that they go by torch."""
    filled = np.vstack([rows, X[: FEW_ROWS + 1]])
    return logits_of(model, filled)[: len(rows)]


def logits_of(model, rows):
    if isinstance(model, LabelSmoothingClassifier):
        return model.logits(rows)
    return model._mean_logits(rows)


def assert_few_are_as_many(model, rows=X[:FEW_ROWS]):
    assert_allclose(logits_of(model, rows), logits_of_many(model, rows), rtol=1e-5, atol=1e-5)


def goes_by_numpy(model, rows=X[:1]):
    nets = getattr(model, "estimators_", [model])
    tensor = torch.from_numpy(np.asarray(rows, np.float32))
    return few_logits(model, [net.module_ for net in nets], tensor) is not None


@pytest.mark.parametrize("encoding", [None, PiecewiseLinear(3), Periodic(2)])
@pytest.mark.parametrize("widths", [(), (8,), (16, 12), (200, 100)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_few_rows_have_the_logits_of_many(activation, widths, encoding):
    own = None if encoding is None else encoding.learn(X)
    torch.manual_seed(0)
    nets = [SimpleNet(10, 3, widths, activation, encoding=own) for _ in range(3)]
    rows = torch.from_numpy(5 * X[:FEW_ROWS].astype(np.float32))
    pool = pool_of(LabelSmoothingClassifier(), nets)
    of_few = pool.logits_of_few(rows)
    with torch.no_grad():
        alone = torch.stack([net.eval()(rows) for net in nets]).double().mean(0)
    assert_allclose(of_few, alone, rtol=1e-5, atol=1e-5)
    assert_allclose(pool.logits_of_many(rows), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model", [quick(max_epochs=2), make_cv(), make_cv(quick(), encodings=[None, "periodic"])]
)
def test_a_row_is_the_same_among_few_and_near_to_it_among_many(model):
    model = copy.deepcopy(model).fit(X, Y)
    assert goes_by_numpy(model)
    together = model.predict_proba(X[:FEW_ROWS])
    for n_rows in (1, 2, 6):
        chunks = [model.predict_proba(X[i : i + n_rows]) for i in range(0, FEW_ROWS, n_rows)]
        assert_array_equal(np.vstack(chunks), together)
    assert_allclose(together, model.predict_proba(X)[:FEW_ROWS], rtol=1e-5, atol=1e-6)


def write_in_place(net):
    with torch.no_grad():
        net.module_.layers[0].weight.mul_(3)


def write_by_optimizer(net):
    net.partial_fit(X, Y)


def write_by_a_fused_kernel(net):
    optimizer = torch.optim.Adam(net.module_.parameters(), lr=0.1, fused=True)
    net.module_(torch.ones(1, 10)).sum().backward()
    optimizer.step()


def load_parameters(net):
    net.module_.load_state_dict(SimpleNet(10, 3, hidden_layer_sizes=(16,)).state_dict())


def assign_parameters(net):
    state = SimpleNet(10, 3, hidden_layer_sizes=(16,)).state_dict()
    net.module_.load_state_dict(state, assign=True)


def give_other_memory(net):
    net.module_.layers[0].bias.data = torch.ones(16)


def replace_a_layer(net):
    net.module_.layers[1] = nn.Linear(16, 3)


def wrap_a_layer(net):
    net.module_.layers[1] = nn.Sequential(net.module_.layers[1], nn.Softsign())


def change_the_activation(net):
    net.module_.activation = "tanh"


def replace_an_activation(net):
    net.module_.activations[0] = nn.Hardtanh()


def add_an_encoding(net):
    net.module_.encoding = PiecewiseLinear(3).learn(X)
    net.module_.layers[0] = nn.Linear(net.module_.encoding.n_outputs, 16)


def hook_the_net(net):
    net.module_.register_forward_hook(lambda module, args, output: 2 * output)


def hook_a_layer(net):
    net.module_.layers[0].register_forward_pre_hook(lambda module, args: (-args[0],))


def replace_forward(net):
    forward = net.module_.forward
    net.module_.forward = lambda x: -forward(x)


def replace_the_module(net):
    net.module_ = SimpleNet(10, 3, hidden_layer_sizes=(4,))


CHANGES = [
    write_in_place,
    write_by_optimizer,
    load_parameters,
    assign_parameters,
    give_other_memory,
    replace_a_layer,
    wrap_a_layer,
    change_the_activation,
    replace_an_activation,
    add_an_encoding,
    hook_the_net,
    hook_a_layer,
    replace_forward,
    replace_the_module,
]


@pytest.mark.parametrize("change", [*CHANGES, write_by_a_fused_kernel])
def test_a_net_that_changed_is_seen(change):
    net = quick(module__hidden_layer_sizes=(16,), max_epochs=2).fit(X, Y)
    assert_few_are_as_many(net)
    before = net.logits(X[:5])
    change(net)
    assert_few_are_as_many(net)
    assert np.abs(net.logits(X[:5]) - before).max() > 1e-4


@pytest.mark.parametrize("change", [c for c in CHANGES if c is not replace_the_module])
def test_a_changed_net_of_an_ensemble_is_seen(change):
    net = quick(module__hidden_layer_sizes=(16,), max_epochs=2)
    model = make_cv(net, encodings=[None]).fit(X, Y)
    assert_few_are_as_many(model)
    before = logits_of(model, X[:5])
    for own in model.estimators_:
        change(own)
    assert_few_are_as_many(model)
    assert np.abs(logits_of(model, X[:5]) - before).max() > 1e-4


def test_a_hook_of_every_module_is_called(monkeypatch):
    net = quick(max_epochs=2).fit(X, Y)
    assert goes_by_numpy(net)
    called = []
    handle = nn.modules.module.register_module_forward_hook(lambda *args: called.append(1))
    try:
        net.predict_proba(X[:1])
    finally:
        handle.remove()
    assert called
    assert goes_by_numpy(net)


class ComparesFewWithMany(Callback):
    def __init__(self):
        self.n_compared = 0

    def on_epoch_end(self, net, **kwargs):
        assert_few_are_as_many(net)
        self.n_compared += 1


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"module__dropout": 0.2},
        {"optimizer": torch.optim.SGD, "lr": 0.1},
        {"optimizer__fused": False},
        {"iterator_train__drop_last": True, "calibration": None},
    ],
)
def test_a_training_net_is_as_it_is_now(params):
    callback = ComparesFewWithMany()
    net = quick(max_epochs=3, callbacks=[callback], **params).fit(X, Y)
    assert callback.n_compared == 3
    assert_few_are_as_many(net)


def test_wide_layers_go_by_torch():
    too_wide = quick(module__hidden_layer_sizes=(FEW_WEIGHTS // 10 + 1,), max_epochs=1).fit(X, Y)
    assert not goes_by_numpy(too_wide)
    assert_few_are_as_many(too_wide)


def test_autocast_is_as_with_many_rows():
    net = quick(max_epochs=2).fit(X, Y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        in_bfloat16 = net.logits(X[:2])
        assert_array_equal(in_bfloat16, net.logits(X)[:2])
    assert np.abs(in_bfloat16 - net.logits(X[:2])).max() > 1e-4


def test_few_rows_of_more_dimensions():
    images = X[:, :8].reshape(-1, 2, 4)
    net = quick(max_epochs=2).fit(images, Y)
    assert goes_by_numpy(net, images[:1])
    assert_allclose(net.logits(images[:3]), net.logits(images)[:3], rtol=1e-5, atol=1e-5)


def test_parameters_of_inference_mode():
    net = quick(module__hidden_layer_sizes=(16,), max_epochs=2).fit(X, Y)
    with torch.inference_mode():
        net.module_.layers[0].weight = nn.Parameter(torch.ones(16, 10), requires_grad=False)
    before = net.predict_proba(X[:1])
    assert_allclose(before, net.predict_proba(X)[:1], rtol=1e-5)


def test_no_thread_of_torch_is_asked(monkeypatch):
    """So that a forked process answers, whatever its parent did."""
    models = [quick(max_epochs=2).fit(X, Y), make_cv().fit(X, Y)]
    asked = []
    monkeypatch.setattr("sksmooth.classifier.threads_for", lambda *args: asked.append(1))
    monkeypatch.setattr("sksmooth._pool.threads_for", lambda *args: asked.append(1))
    for model in models:
        model.predict_proba(X[:1])
    assert not asked
