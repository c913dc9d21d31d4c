import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from sksmooth.modules import ACTIVATIONS, SimpleNet, is_plain, read_logits, telling

reproducible = settings(max_examples=30, deadline=None, derandomize=True)
torch_layers = {
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "selu": nn.SELU(),
    "elu": nn.ELU(),
    "leaky_relu": nn.LeakyReLU(),
    "identity": nn.Identity(),
}


@pytest.fixture
def x():
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_net_is_linear_layers_with_the_activation_between(activation, x):
    net = SimpleNet(activation=activation, dropout=0.0)
    first, second, last = net.layers
    reference = nn.Sequential(
        first, torch_layers[activation], second, torch_layers[activation], last
    )
    torch.testing.assert_close(net(x), reference(x))


@given(
    n_features=st.integers(1, 6),
    n_classes=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 7), max_size=3),
    n=st.integers(0, 4),
)
@reproducible
def test_widths_of_every_layer(n_features, n_classes, sizes, n):
    net = SimpleNet(n_features, n_classes, sizes, dropout=0.0)
    widths = [*sizes, n_classes]
    activations = net(torch.zeros(n, n_features), return_activations=True)
    assert isinstance(activations, tuple)
    assert [tuple(a.shape) for a in activations] == [(n, width) for width in widths]
    assert [layer.in_features for layer in net.layers] == [n_features, *sizes]


def test_last_activation_is_the_logits(x):
    net = SimpleNet(dropout=0.0)
    activations = net(x, return_activations=True)
    torch.testing.assert_close(activations[-1], net(x))
    assert (activations[0] >= 0).all()
    torch.testing.assert_close(activations[0], torch.relu(net.layers[0](x)))


def test_no_hidden_layer_is_logistic_regression(x):
    net = SimpleNet(hidden_layer_sizes=())
    (layer,) = net.layers
    torch.testing.assert_close(net(x), layer(x))
    assert len(net(x, return_activations=True)) == 1


@pytest.mark.parametrize("sizes", [16, (16,), [16], np.array([16]), np.int64(16)])
def test_one_hidden_layer_in_any_notation(sizes):
    assert SimpleNet(hidden_layer_sizes=sizes).hidden_layer_sizes == (16,)


def test_more_dimensions_are_flattened(x):
    net = SimpleNet(dropout=0.0)
    torch.testing.assert_close(net(x.view(6, 2, 5)), net(x))
    torch.testing.assert_close(net(x.view(6, 1, 5, 2)), net(x))


def test_initialisation_is_that_of_torch(x):
    torch.manual_seed(0)
    net = SimpleNet(hidden_layer_sizes=(4,), dropout=0.0)
    torch.manual_seed(0)
    reference = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 3))
    torch.testing.assert_close(net(x), reference(x), rtol=0, atol=0)


def test_dropout_acts_in_training_only(x):
    net = SimpleNet(dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(net(x), net(x))
    net.eval()
    torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)
    plain = SimpleNet(dropout=0.0)
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0)


def test_dropout_leaves_the_expected_share_of_the_next_input():
    net = SimpleNet(1, 1, (2000,), activation="identity", dropout=0.25)
    with torch.no_grad():
        for layer, weight, bias in zip(net.layers, (0, 1 / 2000), (1, 0), strict=True):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
        torch.manual_seed(0)
        hidden, mean = net(torch.zeros(1, 1), return_activations=True)
    assert (hidden == 1).all()  # what the layer computed, before dropout
    assert mean.item() != 1
    assert abs(mean.item() - 1) < 0.05


def test_copies_give_the_same_logits(x):
    net = SimpleNet(activation="identity", dropout=0.0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)


def test_nets_stack_under_vmap(x):
    nets = [SimpleNet(dropout=0.0) for _ in range(3)]
    params, buffers = stack_module_state(nets)
    stacked = vmap(lambda p, b, rows: functional_call(nets[0], (p, b), (rows,)), (0, 0, None))
    expected = torch.stack([net(x) for net in nets])
    torch.testing.assert_close(stacked(params, buffers, x), expected)


class Failing(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_what_ends_the_use_of_a_gpu_is_told(x):
    with pytest.raises(ValueError, match=r"an index out of range.*: CUDA error"), telling():
        Failing()(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_runs_on_cuda(x):
    net = SimpleNet(dropout=0.0)
    torch.testing.assert_close(copy.deepcopy(net).cuda()(x.cuda()).cpu(), net(x))


def test_double_precision(x):
    assert SimpleNet().double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 7), r"n_features=10 values, .* shape \(6, 7\) have 7"),
        ((6, 2, 7), r"n_features=10 values, .* shape \(6, 2, 7\) have 14"),
        ((10,), r"n_features=10 values, in a tensor of shape \(n, 10\), .* shape \(10,\)"),
        ((), r"n_features=10 values, .* shape \(\)"),
    ],
)
def test_wrong_input_width_names_both(shape, message):
    with pytest.raises(ValueError, match=message):
        SimpleNet()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_features": 0}, ValueError, "n_features must be a positive integer, got 0"),
        ({"n_features": 2.5}, TypeError, "n_features must be a positive integer, got 2.5"),
        ({"n_classes": -1}, ValueError, "n_classes must be a positive integer, got -1"),
        ({"n_classes": True}, TypeError, "n_classes must be a positive integer, got True"),
        ({"hidden_layer_sizes": 0}, ValueError, "hidden_layer_sizes must be .* got 0"),
        ({"hidden_layer_sizes": (8, 0)}, ValueError, r"hidden_layer_sizes\[1\] must be .* got 0"),
        ({"hidden_layer_sizes": "64"}, TypeError, "or a sequence of them, got '64'"),
        ({"hidden_layer_sizes": None}, TypeError, "or a sequence of them, got None"),
        ({"hidden_layer_sizes": 8.0}, TypeError, "or a sequence of them, got 8.0"),
        ({"activation": "rleu"}, ValueError, r"got 'rleu'\. Did you mean 'relu'\?"),
        ({"activation": "leakyrelu"}, ValueError, r"Did you mean 'leaky_relu'\?"),
        ({"activation": torch.relu}, TypeError, "activation must be one of 'relu', 'tanh'"),
        ({"activation": torch.nn.ReLU()}, TypeError, r"'identity'; got ReLU\(\)"),
        ({"dropout": torch.nn.Dropout(0.2)}, TypeError, r"in \[0, 1\), got Dropout\("),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, ValueError, r"dropout must be in \[0, 1\), got -0.1"),
        ({"dropout": float("nan")}, ValueError, "got nan"),
        ({"dropout": "0.5"}, TypeError, r"dropout must be a real number in \[0, 1\), got '0.5'"),
    ],
)
def test_bad_parameter_is_named(parameters, error, message):
    with pytest.raises(error, match=message):
        SimpleNet(**parameters)


def test_only_the_linear_layers_have_state():
    net = SimpleNet(hidden_layer_sizes=(4, 5))
    names = [f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]
    assert list(net.state_dict()) == names
    assert [name for name, _ in net.named_parameters()] == names
    assert [type(layer) for layer in net.layers] == [nn.Linear] * 3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tools_that_hook_modules_see_each_activation_and_dropout_once(activation, x):
    net = SimpleNet(activation=activation, dropout=0.5)
    called = []
    for part in net.modules():
        part.register_forward_hook(lambda part, inputs, output: called.append(part))
    net(x)
    (first, second, last), (a, b), (d, e) = net.layers, net.activations, net.dropouts
    assert called == [first, a, d, second, b, e, last, net]
    assert type(a) is type(b) is ACTIVATIONS[activation]
    assert a is not b


def test_activation_and_dropout_may_be_set(x):
    net = SimpleNet(activation="relu", dropout=0.1).eval()
    net.activation, net.dropout = "tanh", 0.25
    assert (net.activation, net.dropout) == ("tanh", 0.25)
    assert [part.p for part in net.dropouts] == [0.25, 0.25]
    assert not any(part.training for part in net.modules())
    assert is_plain(net)
    other = SimpleNet(activation="tanh").eval()
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x), other(x), rtol=0, atol=0)
    for name, value in (("activation", "tahn"), ("dropout", 1.0)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            setattr(net, name, value)
    assert (net.activation, net.dropout) == ("tanh", 0.25)


def test_dropout_of_one_part_may_stay_on_for_prediction(x):
    net = SimpleNet(dropout=0.5).eval()
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.train()
    assert not torch.equal(net(x), net(x))


def test_no_dropout_draws_no_random_numbers(x):
    net = SimpleNet(dropout=0.0).train()
    state = torch.get_rng_state()
    net(x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("sizes", [(), (4, 5)])
def test_nets_pickled_when_activation_and_dropout_were_plain_values_load(sizes, x):
    net = SimpleNet(hidden_layer_sizes=sizes, activation="tanh", dropout=0.25).eval()
    state = {k: v for k, v in net.__dict__.items() if k not in ("_activation", "_dropout")}
    state |= {"activation": "tanh", "dropout": 0.25, "_modules": {"layers": net.layers}}
    old = SimpleNet.__new__(SimpleNet)
    old.__setstate__(state)
    torch.testing.assert_close(old(x), net(x), rtol=0, atol=0)
    assert (old.activation, old.dropout) == ("tanh", 0.25)
    assert is_plain(old)
    assert is_plain(pickle.loads(pickle.dumps(old)))


def replace(net, name, i, part):
    getattr(net, name)[i] = part


CHANGES = {
    "layer of another kind": lambda n: replace(n, "layers", 0, nn.Sequential(n.layers[0])),
    "layer without a bias": lambda n: replace(n, "layers", 1, nn.Linear(4, 4, bias=False)),
    "layer used twice": lambda n: replace(n, "layers", 1, n.layers[0]),
    "weights shared": lambda n: setattr(n.layers[1], "weight", n.layers[0].weight),
    "layer added": lambda n: n.layers.append(nn.Linear(3, 3)),
    "part added": lambda n: setattr(n, "norm", nn.LayerNorm(4)),
    "parameter added": lambda n: setattr(n, "scale", nn.Parameter(torch.ones(1))),
    "activation of another kind": lambda n: replace(n, "activations", 0, nn.Tanh()),
    "activation with another slope": lambda n: setattr(n.activations[0], "negative_slope", 0.2),
    "activation used twice": lambda n: replace(n, "activations", 1, n.activations[0]),
    "activation less": lambda n: setattr(n, "activations", n.activations[:1]),
    "dropout of another kind": lambda n: replace(n, "dropouts", 0, nn.AlphaDropout(0.1)),
    "dropout of another share": lambda n: setattr(n.dropouts[1], "p", 0.5),
    "subclass": lambda n: setattr(n, "__class__", type("Net", (SimpleNet,), {})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_net_with_a_changed_part_is_not_plain(change):
    net = SimpleNet(4, 3, (4, 4), activation="leaky_relu")
    assert is_plain(net)
    CHANGES[change](net)
    assert not is_plain(net)


@pytest.mark.parametrize("net", [None, nn.Linear(2, 2), SimpleNet])
def test_what_is_no_net_of_this_kind_is_not_plain(net):
    assert not is_plain(net)


@pytest.mark.parametrize("sizes", [(), (4,), (4, 5)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_net_can_be_scripted(sizes, activation, x, tmp_path):
    net = SimpleNet(hidden_layer_sizes=sizes, activation=activation).eval()
    scripted = torch.jit.script(net)
    torch.testing.assert_close(scripted(x), net(x))
    torch.testing.assert_close(scripted(x.view(6, 2, 5)), net(x))
    with pytest.raises(torch.jit.Error, match="gives its logits only"):
        scripted(x, return_activations=True)
    torch.jit.save(scripted, tmp_path / "net.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "net.pt")(x), net(x))


def test_logits_are_the_output_or_the_last_of_a_tuple():
    logits = torch.ones(2, 3)
    assert read_logits(logits) is logits
    assert read_logits((torch.zeros(2, 5), logits)) is logits
