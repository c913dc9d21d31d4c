"""The steps written out by hand do what autograd, torch's optimizers and skorch's loop do."""

import copy
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import make_classification
from skorch.callbacks import Callback, Freezer, LRScheduler, Unfreezer
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from sksmooth import LabelSmoothingClassifier, LabelSmoothingLoss, SimpleNet
from sksmooth.batches import TensorBatches
from sksmooth.engine.threads import threads_for
from sksmooth.lockstep import (
    ELEMENTWISE_OPTIMIZERS,
    FusedAdam,
    FusedTraining,
    StackedNets,
    Targets,
)
from sksmooth.losses import mean_loss
from sksmooth.modules import ACTIVATIONS

SMOOTHINGS = ("uniform", "off_target", "prior", "matrix")


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# -- the loss and its gradients -----------------------------------------------------------------


def make_criterion(
    n_classes, smoothing="uniform", *, epsilon=0.2, weighted=False, form="cross_entropy"
):
    """Make a LabelSmoothingLoss with a smoothing matrix, a prior and weights for K classes."""
    generator = torch.Generator().manual_seed(n_classes)
    matrix = torch.rand(n_classes, n_classes, generator=generator, dtype=torch.float64)
    prior = torch.rand(n_classes, generator=generator, dtype=torch.float64) + 0.1
    weight = torch.rand(n_classes, generator=generator, dtype=torch.float64) + 0.5
    return LabelSmoothingLoss(
        epsilon,
        matrix / matrix.sum(1, keepdim=True) if smoothing == "matrix" else smoothing,
        weight if weighted else None,
        form=form,
        class_prior=prior / prior.sum(),
    )


def make_rows(net, n_rows, shape=None, seed=0):
    """Draw rows in float64, their class indices, and weights of which one is zero."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n_rows, *(shape or (net.n_features,)), generator=generator).double()
    y = torch.randint(net.n_classes, (n_rows,), generator=generator)
    weight = torch.rand(n_rows, generator=generator).double() + 0.1
    if n_rows > 1:
        weight[0] = 0
    return X, y, weight


def by_autograd(net, criterion, X, y, sample_weight=None):
    """Give the loss and the parameters' gradients, as autograd computes them."""
    net = copy.deepcopy(net).train()
    torch.manual_seed(7)  # for dropout
    logits = net(X)
    if sample_weight is None:
        loss = criterion(logits, y)
    else:
        loss = mean_loss(criterion, logits, y, sample_weight)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in net.parameters()]


def by_hand(net, criterion, X, y, sample_weight=None):
    """Give the loss and the parameters' gradients, as StackedNets computes them."""
    net = copy.deepcopy(net)
    stack = StackedNets.around(net)
    targets = Targets.of([criterion], net.n_classes, like=stack.weights[0])
    torch.manual_seed(7)
    with torch.no_grad():
        weight = None if sample_weight is None else sample_weight[None]
        loss = stack.loss_and_gradients(X.flatten(1)[None], y[None], targets, weight)
    return loss[0], [parameter.grad for parameter in net.parameters()]


def assert_step_is_autograds(*case):
    assert_close(by_hand(*case), by_autograd(*case), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_autograds_for_every_activation(activation, dropout):
    net = SimpleNet(5, 4, (7, 6), activation, dropout).double()
    X, y, weight = make_rows(net, 9)
    assert_step_is_autograds(net, make_criterion(4), X, y)
    assert_step_is_autograds(net, make_criterion(4, weighted=True), X, y, weight)


@pytest.mark.parametrize("has_sample_weight", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["cross_entropy", "kl"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_gradients_are_autograds_for_every_loss(
    epsilon, smoothing, form, weighted, has_sample_weight
):
    net = SimpleNet(3, 4, 6, "tanh", 0.0).double()
    X, y, weight = make_rows(net, 8)
    criterion = make_criterion(4, smoothing, epsilon=epsilon, weighted=weighted, form=form)
    assert_step_is_autograds(net, criterion, X, y, weight if has_sample_weight else None)


@pytest.mark.parametrize("has_sample_weight", [False, True])
@pytest.mark.parametrize("weight", [None, [0.5, 1.0, 3.0], [2.0, 2.0, 2.0], [1.0, 0.0, 1.0]])
def test_gradients_of_torchs_cross_entropy_are_autograds(weight, has_sample_weight):
    net = SimpleNet(3, 3, 6, dropout=0.0).double()
    X, y, sample_weight = make_rows(net, 8)
    weight = None if weight is None else torch.tensor(weight).double()
    criterion = nn.CrossEntropyLoss(weight, label_smoothing=0.2)
    assert_step_is_autograds(net, criterion, X, y, sample_weight if has_sample_weight else None)


@given(
    n_rows=st.integers(1, 6),
    widths=st.lists(st.integers(1, 6), max_size=3),
    n_features=st.integers(1, 5),
    n_classes=st.integers(2, 5),
    activation=st.sampled_from(list(ACTIVATIONS)),
    dropout=st.sampled_from([0.0, 0.5]),
    smoothing=st.sampled_from(SMOOTHINGS),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gradients_are_autograds_for_every_shape(
    n_rows, widths, n_features, n_classes, activation, dropout, smoothing, weighted, seed
):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SimpleNet(n_features, n_classes, widths, activation, dropout).double()
        X, y, weight = make_rows(net, n_rows, seed=seed)
        criterion = make_criterion(n_classes, smoothing, weighted=weighted)
        assert_step_is_autograds(net, criterion, X, y, weight if weighted else None)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3)])
def test_inputs_of_more_than_two_dimensions_are_flattened(shape):
    net = SimpleNet(6, 3, 4, dropout=0.0).double()
    X, y, weight = make_rows(net, 5, shape)
    assert_step_is_autograds(net, make_criterion(3), X, y, weight)
    fused, optimizer = copy.deepcopy(net), torch.optim.SGD
    training = FusedTraining(fused, make_criterion(3), optimizer(fused.parameters(), lr=0.1))
    with torch.no_grad():
        loss = training.step(X, y, weight)
    assert_close(loss, by_autograd(net, make_criterion(3), X, y, weight)[0])


# -- many nets ----------------------------------------------------------------------------------


def stack_of(nets, generators=None):
    """Stack the parameters of nets of one architecture."""
    layers = list(zip(*(net.layers for net in nets), strict=True))
    return StackedNets(
        [torch.stack([layer.weight.detach() for layer in row]) for row in layers],
        [torch.stack([layer.bias.detach()[None] for layer in row]) for row in layers],
        nets[0].activation,
        nets[0].dropout,
        generators,
    )


def gradients_of(stack, member):
    """Give a member's gradients, in the order of a SimpleNet's parameters."""
    pairs = zip(stack.weight_gradients, stack.bias_gradients, strict=True)
    return [grad for weight, bias in pairs for grad in (weight[member], bias[member, 0])]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["cross_entropy", "kl"])
def test_stack_of_nets_is_as_many_single_nets(form, weighted):
    nets = [SimpleNet(4, 3, (6, 5), "silu", 0.0).double() for _ in range(4)]
    criteria = [
        make_criterion(3, smoothing, epsilon=epsilon, weighted=weighted, form=form)
        for smoothing, epsilon in zip(SMOOTHINGS, (0.0, 0.1, 0.2, 0.4), strict=True)
    ]
    if weighted:
        criteria[2].weight = None  # some members may have weights and others none
    batches = [make_rows(net, 7, seed=seed) for seed, net in enumerate(nets)]
    X, y, weight = map(torch.stack, zip(*batches, strict=True))
    stack = stack_of(nets)
    targets = Targets.of(criteria, 3, like=stack.weights[0])
    for given_weight in (None, weight):
        with torch.no_grad():
            losses = stack.loss_and_gradients(X, y, targets, given_weight)
        for m, net in enumerate(nets):
            own = None if given_weight is None else weight[m]
            loss, gradients = by_autograd(net, criteria[m], X[m], y[m], own)
            assert_close(losses[m], loss, rtol=1e-6, atol=1e-9)
            assert_close(gradients_of(stack, m), gradients, rtol=1e-6, atol=1e-9)


def test_logits_of_a_stack_are_those_of_the_nets():
    nets = [SimpleNet(4, 3, (6, 5), "gelu", dropout=0.5).double().eval() for _ in range(3)]
    X = torch.randn(3, 5, 4).double()
    with torch.no_grad():
        expected = torch.stack([net(rows) for net, rows in zip(nets, X, strict=True)])
        assert_close(stack_of(nets).logits(X), expected)


def test_padding_rows_of_weight_zero_do_not_count():
    nets = [SimpleNet(4, 3, 6, dropout=0.0).double() for _ in range(2)]
    criteria = [make_criterion(3, epsilon=epsilon, form="kl") for epsilon in (0.1, 0.3)]
    X, y, weight = torch.full((2, 6, 4), 9.0).double(), torch.zeros(2, 6).long(), torch.zeros(2, 6)
    weight = weight.double()
    singles = [make_rows(net, n_rows) for net, n_rows in zip(nets, (6, 4), strict=True)]
    for m, (own_X, own_y, own_weight) in enumerate(singles):
        X[m, : len(own_X)], y[m, : len(own_y)] = own_X, own_y
        weight[m, : len(own_y)] = own_weight
    stack = stack_of(nets)
    targets = Targets.of(criteria, 3, like=stack.weights[0])
    with torch.no_grad():
        losses = stack.loss_and_gradients(X, y, targets, weight)
    for m, net in enumerate(nets):
        loss, gradients = by_autograd(net, criteria[m], *singles[m])
        assert_close(losses[m], loss, rtol=1e-6, atol=1e-9)
        assert_close(gradients_of(stack, m), gradients, rtol=1e-6, atol=1e-9)


def test_every_net_of_a_stack_draws_dropout_from_its_own_generator():
    nets = [SimpleNet(4, 3, (8, 7), dropout=0.5) for _ in range(3)]
    batches = [make_rows(net, 5, seed=seed) for seed, net in enumerate(nets)]
    X, y, _ = map(torch.stack, zip(*batches, strict=True))
    X = X.float()
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    stack = stack_of(nets, generators)
    targets = Targets.of([LabelSmoothingLoss()] * 3, 3, like=X)
    with torch.no_grad():
        losses = stack.loss_and_gradients(X, y, targets)
    for m, net in enumerate(nets):
        torch.manual_seed(m)
        loss = LabelSmoothingLoss()(net.train()(X[m]), y[m])
        loss.backward()
        assert_close(losses[m], loss.detach())
        assert_close(gradients_of(stack, m), [p.grad for p in net.parameters()])


# -- FusedAdam ----------------------------------------------------------------------------------


def draw_gradients(nets, seed):
    """Give nets of one architecture the same random gradients, in the tensors they have."""
    generator = torch.Generator().manual_seed(seed)
    for parameters in zip(*(net.parameters() for net in nets), strict=True):
        gradient = torch.randn(parameters[0].shape, generator=generator)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(gradient)


def assert_same_parameters(one, other, **tolerance):
    assert_close(list(one.parameters()), list(other.parameters()), **tolerance)


ADAM_PARAMETERS = [
    {},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"maximize": True, "weight_decay": 0.01},
    {"betas": (0.5, 0.9), "eps": 1e-3},
    {"amsgrad": True, "maximize": True, "weight_decay": 0.1},
]


@pytest.mark.parametrize("parameters", ADAM_PARAMETERS, ids=str)
@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
def test_fused_adam_steps_as_the_optimizer_does(optimizer_class, parameters):
    ours, theirs = SimpleNet(4, 3, 5, dropout=0.0), SimpleNet(4, 3, 5, dropout=0.0)
    theirs.load_state_dict(ours.state_dict())
    own = optimizer_class(ours.parameters(), lr=0.01, fused=True, **parameters)
    reference = optimizer_class(theirs.parameters(), lr=0.01, foreach=False, **parameters)
    draw_gradients([ours, theirs], 0)
    assert FusedAdam.serves(own)
    fused = FusedAdam(own)
    for step in range(30):
        draw_gradients([ours, theirs], step)
        for optimizer in (own, reference):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
            if step == 20:
                optimizer.param_groups[0]["betas"] = (0.8, 0.95)
        with torch.no_grad():
            fused.step()
        reference.step()
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)

    fused.finish()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert set(own.state[one]) == set(reference.state[other])
        assert_close(own.state[one], reference.state[other], rtol=1e-5, atol=1e-6)
    for step in range(5):  # the optimizer goes on by itself
        draw_gradients([ours, theirs], 100 + step)
        own.step()
        reference.step()
    assert_same_parameters(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", [{}, {"amsgrad": True}], ids=str)
def test_fused_adam_goes_on_from_a_saved_state(parameters):
    straight = SimpleNet(4, 3, 5, dropout=0.0)
    optimizer = torch.optim.AdamW(straight.parameters(), lr=0.01, fused=True, **parameters)
    draw_gradients([straight], 0)
    fused = FusedAdam(optimizer)

    def take_steps(net, fused, seeds):
        for seed in seeds:
            draw_gradients([net], seed)
            with torch.no_grad():
                fused.step()

    take_steps(straight, fused, range(5))
    fused.finish()
    resumed = copy.deepcopy(straight)
    restored = torch.optim.AdamW(resumed.parameters(), lr=0.5, fused=True)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    draw_gradients([resumed], 0)
    take_steps(resumed, FusedAdam(restored), range(5, 9))
    take_steps(straight, fused, range(5, 9))
    assert_same_parameters(resumed, straight)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
        lambda net: torch.optim.Adam(net.parameters(), foreach=True),
        lambda net: torch.optim.Adam([{"params": [p]} for p in net.parameters()], fused=True),
        lambda net: type("Own", (torch.optim.Adam,), {})(net.parameters(), fused=True),
    ],
)
def test_fused_adam_leaves_other_optimizers_alone(make_optimizer):
    assert not FusedAdam.serves(make_optimizer(SimpleNet()))


def test_hooks_of_the_optimizer_are_called():
    calls = []
    registrations = [
        lambda net, optimizer: optimizer.register_step_pre_hook(lambda *_: calls.append("own")),
        lambda net, optimizer: register_optimizer_step_post_hook(lambda *_: calls.append("global")),
    ]
    for register in registrations:
        net = SimpleNet(4, 3, 5, dropout=0.0)
        optimizer = torch.optim.Adam(net.parameters(), fused=True)
        handle = register(net, optimizer)
        try:
            training = FusedTraining(net, LabelSmoothingLoss(), optimizer)
            with torch.no_grad():
                training.step(torch.randn(6, 4), torch.zeros(6).long())
        finally:
            handle.remove()
    assert calls == ["own", "global"]


# -- the classifier: the fast path against skorch's loop ----------------------------------------


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(
        200, 6, n_informative=5, n_redundant=0, n_classes=3, flip_y=0.1, random_state=0
    )
    return X.astype(np.float32), y


@pytest.fixture
def fused_steps(monkeypatch):
    """Give a list that grows by one with every step written out by hand."""
    steps, original = [], StackedNets.loss_and_gradients

    def counted(self, *args, **kwargs):
        steps.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StackedNets, "loss_and_gradients", counted)
    return steps


class Listener(Callback):
    """Listens to the batches and does nothing, so that skorch's own loop runs."""

    def on_batch_end(self, net, **kwargs):
        pass


PLAIN = {"module__hidden_layer_sizes": (64, 32), "module__dropout": 0.0}


def make_net(**parameters):
    small = {"max_epochs": 5, "batch_size": 32, "random_state": 0, "early_stopping": False}
    split = {"train_split": 0.15, "lr": 0.003}  # the 30 rows held out are one batch
    module = {} if "module" in parameters else PLAIN
    return LabelSmoothingClassifier(**{**small, **split, **module, **parameters})


def listening(parameters):
    """Add the Listener to an estimator's callbacks."""
    return {**parameters, "callbacks": [*parameters.get("callbacks", []), Listener()]}


def same_module(one, other, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-4}
    assert_same_parameters(one.module_, other.module_, **tolerance)


def make_instance():
    """Make a net with the same initial values whenever this file is imported."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SimpleNet(6, 3, 8, dropout=0.0)


WEIGHTS = np.random.default_rng(0).uniform(0, 2, size=200)

FAST = {
    "defaults": {},
    "early stopping": {"early_stopping": True, "patience": 2, "max_epochs": 8, "lr": 0.05},
    "no held-out rows": {"train_split": None},
    "class_weight": {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}},
    "balanced": {"class_weight": "balanced"},
    "dropout": {"module__dropout": 0.3},
    "dropout, no held-out rows": {"module__dropout": 0.3, "train_split": None},
    "no smoothing": {"label_smoothing": 0},
    "off_target": {"smoothing": "off_target"},
    "prior": {"smoothing": "prior", "label_smoothing": 0.3},
    "matrix": {"smoothing": np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])},
    "kl": {"criterion__form": "kl"},
    "cross-entropy": {"criterion": nn.CrossEntropyLoss},
    "weighted cross-entropy": {
        "criterion": nn.CrossEntropyLoss,
        "criterion__weight": torch.tensor([1.0, 2.0, 0.5]),
    },
    "logistic regression": {"module__hidden_layer_sizes": ()},
    "gelu": {"module__activation": "gelu"},
    "module instance": {"module": make_instance()},
    "one batch": {"batch_size": -1},
    "drop_last": {"iterator_train__drop_last": True},
    "unshuffled": {"iterator_train__shuffle": False},
    "weight decay": {"optimizer__weight_decay": 0.3},
    "not fused": {"optimizer": torch.optim.Adam, "optimizer__foreach": True},
    "param_groups": {"optimizer__param_groups": [("layers.0.*", {"lr": 0.1})]},
}


@pytest.mark.parametrize("has_sample_weight", [False, True])
@pytest.mark.parametrize("parameters", FAST.values(), ids=FAST)
def test_fast_path_ends_where_skorchs_loop_does(parameters, has_sample_weight, data, fused_steps):
    weight = {"sample_weight": WEIGHTS} if has_sample_weight else {}
    fast = make_net(**parameters).fit(*data, **weight)
    n_steps = len(fused_steps)
    slow = make_net(**listening(parameters)).fit(*data, **weight)
    assert n_steps == len(fast.history[:, "batches", :, "train_loss"]) * (
        len(fast.history[0, "batches", :, "train_loss"])
    )
    assert len(fused_steps) == n_steps
    same_module(fast, slow)
    assert_same_records(fast, slow)
    np.testing.assert_allclose(
        fast.predict_proba(data[0]), slow.predict_proba(data[0]), rtol=1e-3, atol=1e-4
    )


def assert_same_records(fast, slow):
    """Compare two histories: the same keys, in batches as in epochs, and close values."""
    assert len(fast.history) == len(slow.history)
    assert fast.best_epoch_ == slow.best_epoch_
    for ours, theirs in zip(fast.history, slow.history, strict=True):
        ours, theirs = dict(ours), dict(theirs)
        own_batches, batches = ours.pop("batches"), theirs.pop("batches")
        assert list(map(list, own_batches)) == list(map(list, batches))
        for own_batch, batch in zip(own_batches, batches, strict=True):
            assert own_batch == pytest.approx(batch, rel=1e-4)
        for row in (ours, theirs):
            del row["dur"]
        assert set(ours) == set(theirs)
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("optimizer", ELEMENTWISE_OPTIMIZERS)
def test_every_elementwise_optimizer_is_fast_and_agrees(optimizer, data, fused_steps):
    parameters = {"optimizer": optimizer, "train_split": None, "lr": 0.01}
    fast = make_net(**parameters).fit(*data)
    assert len(fused_steps) == 5 * 7
    slow = make_net(**listening(parameters)).fit(*data)
    assert len(fused_steps) == 5 * 7
    same_module(fast, slow)


def test_momentum_agrees(data, fused_steps):
    parameters = {
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "optimizer__nesterov": True,
        "optimizer__weight_decay": 0.01,
    }
    fast = make_net(**parameters).fit(*data)
    assert fused_steps
    same_module(fast, make_net(**listening(parameters)).fit(*data))


def test_training_further_takes_up_the_optimizers_state(data, fused_steps):
    fast, slow = make_net(), make_net(callbacks=[Listener()])
    for net in (fast, slow):
        for _ in range(3):
            net.partial_fit(*data, classes=[0, 1, 2])
    assert len(fused_steps) == 3 * 6
    same_module(fast, slow)
    steps = [next(iter(net.optimizer_.state.values()))["step"] for net in (fast, slow)]
    assert [int(step) for step in steps] == [18, 18]


def test_skorchs_loop_takes_over_from_the_fast_path_and_back(data):
    changing, slow = make_net(), make_net(callbacks=[Listener()])
    for round_ in range(4):
        for net in (changing, slow):
            net.partial_fit(*data, classes=[0, 1, 2])
        if round_ % 2 == 0:
            changing.callbacks_.append(("listener", Listener()))
        else:
            changing.callbacks_.pop()
    same_module(changing, slow)


def test_interrupted_epoch_leaves_the_optimizers_count_right(data):
    net = make_net(train_split=None).fit(*data)
    with pytest.MonkeyPatch.context() as patch:
        plain = TensorBatches.__iter__

        def three_batches(self):
            for index, batch in enumerate(plain(self)):
                if index == 3:
                    raise KeyboardInterrupt
                yield batch

        patch.setattr(TensorBatches, "__iter__", three_batches)
        net.partial_fit(*data)
    counts = {int(state["step"]) for state in net.optimizer_.state.values()}
    assert counts == {5 * 7 + 3}


def test_prediction_and_copies_after_the_fast_path(data):
    net = make_net().fit(*data)
    twin = copy.deepcopy(net)
    twin.partial_fit(*data)
    assert not np.array_equal(twin.predict_proba(data[0]), net.predict_proba(data[0]))
    assert all(parameter.requires_grad for parameter in net.module_.parameters())
    same_module(net, make_net().fit(*data), rtol=0, atol=0)


# -- what goes skorch's way ---------------------------------------------------------------------


class OwnLoss(LabelSmoothingLoss):
    """Another loss: twice the smoothed one."""

    def forward(self, logits, target, sample_weight=None):
        return 2 * super().forward(logits, target, sample_weight)


class OwnNet(SimpleNet):
    """A subclass, whose forward does more."""

    def forward(self, x):
        return super().forward(x) * 0.5


class OtherNet(nn.Module):
    """A module that is not a SimpleNet, with the same layers and initial values."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.net = SimpleNet(n_features, n_classes, (64, 32), dropout=0.0)

    def forward(self, x):
        return self.net(x)


class OwnAdam(torch.optim.AdamW):
    """A subclass, whose step does more."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.9)
        return loss


class Probabilities(OwnNet):
    """Gives probabilities, as skorch's NLLLoss wants them."""

    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class Dtype(Callback):
    """Cast the module before training, once its optimizer is there."""

    def on_train_begin(self, net, **kwargs):
        net.module_.register_forward_pre_hook(lambda module, args: (args[0].double(),))
        net.module_.double()


class At(Callback):
    """Do something to the net when training begins."""

    def __init__(self, act):
        self.act = act

    def on_train_begin(self, net, **kwargs):
        self.act(net)


def double_logits(module, args, output):
    return 2 * output


def replace_first_layer(net):
    net.module_.layers[0] = nn.Sequential(net.module_.layers[0], nn.Tanh())


def share_layer(net):
    net.module_.layers[1] = net.module_.layers[0]


def replace_forward(net):
    forward = net.module_.forward
    net.module_.forward = lambda x: 2 * forward(x)


def hook_parameter(net):
    net.module_.layers[0].weight.register_hook(lambda gradient: 0 * gradient)


def hook_accumulation(net):
    def forget(parameter):
        parameter.grad.zero_()

    net.module_.layers[0].weight.register_post_accumulate_grad_hook(forget)


def weight_normalized():
    net = make_instance()
    parametrizations.weight_norm(net.layers[0])
    return net


def without_bias():
    net = make_instance()
    layer = nn.Linear(6, 8, bias=False)
    layer.weight = net.layers[0].weight  # which are the same in every run
    net.layers[0] = layer
    return net


# Where the fast path must not be taken. Plain gradient descent, since Adam does not see the scale
# of a gradient.
SLOW = {
    "subclass of LabelSmoothingLoss": {"criterion": OwnLoss},
    "sum": {"criterion__reduction": "sum", "lr": 1e-3},
    "another criterion": {"criterion": nn.MultiMarginLoss, "label_smoothing": 0},
    "NLLLoss": {"criterion": nn.NLLLoss, "label_smoothing": 0, "module": Probabilities},
    "sum of torch's": {
        "criterion": nn.CrossEntropyLoss,
        "criterion__reduction": "sum",
        "lr": 1e-3,
    },
    "ignore_index": {"criterion": nn.CrossEntropyLoss, "criterion__ignore_index": 1},
    "module": {"module": OtherNet},
    "subclass of SimpleNet": {"module": OwnNet},
    "parametrized layer": {"module": weight_normalized()},
    "layer without bias": {"module": without_bias()},
    "replaced layer": {"callbacks": [At(replace_first_layer)]},
    "shared layer": {"module__hidden_layer_sizes": (6, 6), "callbacks": [At(share_layer)]},
    "replaced forward": {"callbacks": [At(replace_forward)]},
    "forward hook": {
        "callbacks": [At(lambda net: net.module_.register_forward_hook(double_logits))]
    },
    "forward hook of a layer": {
        "callbacks": [At(lambda net: net.module_.layers[0].register_forward_hook(double_logits))]
    },
    "forward pre-hook": {
        "callbacks": [
            At(
                lambda net: net.module_.register_forward_pre_hook(
                    lambda module, args: (2 * args[0],)
                )
            )
        ]
    },
    "backward hook": {
        "callbacks": [
            At(
                lambda net: net.module_.layers[1].register_full_backward_hook(
                    lambda module, inputs, outputs: (2 * inputs[0],)
                )
            )
        ]
    },
    "hook of the criterion": {
        "callbacks": [At(lambda net: net.criterion_.register_forward_hook(double_logits))]
    },
    "hook of a parameter": {"callbacks": [At(hook_parameter)]},
    "post-accumulation hook": {"callbacks": [At(hook_accumulation)]},
    "frozen parameters": {"callbacks": [Freezer("layers.0.*")]},
    "double": {"callbacks": [Dtype()]},
    "LBFGS": {"optimizer": torch.optim.LBFGS, "lr": 0.01, "batch_size": -1},
    "subclass of an optimizer": {"optimizer": OwnAdam},
    "some parameters": {
        "callbacks": [At(lambda net: net.optimizer_.param_groups[0]["params"].pop())]
    },
    "DataLoader": {"iterator_train": DataLoader, "iterator_train__shuffle": True},
    "parameter of DataLoader": {"iterator_train__num_workers": 0},
    "LRScheduler of batches": {
        "callbacks": [LRScheduler(lr_scheduler.StepLR, step_size=2, step_every="batch")]
    },
}


SAME_AS_DEFAULTS = {"module", "double"}


@pytest.mark.parametrize("name", SLOW)
def test_what_the_fast_path_cannot_take_trains_as_by_skorchs_loop(name, data, fused_steps):
    descent = {"optimizer": torch.optim.SGD, "lr": 0.05}
    parameters = {**descent, **SLOW[name]}
    quiet = make_net(**parameters).fit(*data)
    assert not fused_steps
    by_skorch = make_net(**listening(parameters)).fit(*data)
    same_module(quiet, by_skorch)
    assert_same_records(quiet, by_skorch)

    by_defaults = make_net(**descent).fit(*data)
    assert fused_steps
    probabilities = [net.predict_proba(data[0]) for net in (quiet, by_defaults)]
    assert np.allclose(*probabilities, rtol=1e-3) == (name in SAME_AS_DEFAULTS)


def test_a_schedule_of_epochs_keeps_the_fast_path(data, fused_steps):
    parameters = {"callbacks": [LRScheduler(lr_scheduler.StepLR, step_size=2, gamma=0.1)]}
    quiet = make_net(**parameters).fit(*data)
    assert fused_steps
    same_module(quiet, make_net(**listening(parameters)).fit(*data))
    constant = make_net().fit(*data)
    assert not np.allclose(quiet.predict_proba(data[0]), constant.predict_proba(data[0]), 1e-3)


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
def test_overridden_hooks_are_called_for_every_batch(hook, data, fused_steps):
    plain = make_net()
    net = spying_on(hook)(**plain.get_params()).fit(*data)
    assert not fused_steps
    assert len(net.calls) >= 5 * 6
    same_module(net, plain.fit(*data))


def test_step_function_of_ones_own_is_used(data, fused_steps):
    steps = []

    class OwnStep(LabelSmoothingClassifier):
        def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
            def own(batch, **params):
                steps.append(prefix)
                return step_fn(batch, **params)

            super().run_single_epoch(iterator, training, prefix, own, **fit_params)

    plain = make_net()
    net = OwnStep(**plain.get_params()).fit(*data)
    assert not fused_steps
    assert (steps.count("train"), steps.count("valid")) == (5 * 6, 5)
    same_module(net, plain.fit(*data))


def test_replaced_step_of_one_net_is_used(data, fused_steps):
    net, calls = make_net(warm_start=True).fit(*data), []
    assert fused_steps
    fused_steps.clear()
    original = net.train_step_single
    object.__setattr__(
        net, "train_step_single", lambda *args, **kwargs: calls.append(1) or original(*args)
    )
    net.fit(*data)
    assert not fused_steps
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
def test_listeners_hear_skorchs_events_in_skorchs_order(heard, data, fused_steps):
    one = type("One", (Callback,), {heard: getattr(Recorder, heard), "__init__": Recorder.__init__})
    recorder, listener = Recorder(), one()
    net = make_net(callbacks=[("all", recorder)], max_epochs=1).fit(*data)
    alone = make_net(callbacks=[("one", listener)], max_epochs=1).fit(*data)
    assert not fused_steps
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
    same_module(net, alone, rtol=0, atol=0)


def test_torch_dataset_trains_as_by_skorchs_loop(data, fused_steps):
    dataset = TensorDataset(torch.from_numpy(data[0]), torch.from_numpy(data[1]))
    quiet = make_net().fit(dataset)
    assert not fused_steps
    same_module(quiet, make_net(callbacks=[Listener()]).fit(dataset))
    assert (quiet.predict(data[0]) == data[1]).mean() > 0.5


def test_fit_parameters_reach_the_module(data, fused_steps):
    net = make_net(train_split=None)
    with pytest.raises(TypeError, match="scale"):
        net.fit(*data, scale=2)
    net.fit(*data, return_activations=True)
    assert not fused_steps
    same_module(net, make_net(train_split=None).fit(*data))


class Autocast(LabelSmoothingClassifier):
    """Mixed precision as skorch users do it: in `infer`."""

    def infer(self, x, **fit_params):
        with torch.autocast("cpu", torch.bfloat16):
            return super().infer(x, **fit_params)


def test_autocast_goes_skorchs_way(data, fused_steps):
    own = Autocast(**make_net().get_params()).fit(*data)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        around = make_net().fit(*data)
        around.predict_proba(data[0])
    assert not fused_steps
    same_module(own, around)
    exact = make_net().fit(*data)
    assert fused_steps
    proba = [net.predict_proba(data[0]) for net in (own, exact)]
    assert not np.allclose(*proba, rtol=1e-3)
    np.testing.assert_allclose(*proba, atol=0.1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by the compiler
def test_compiled_module_trains_by_itself(data, fused_steps):
    parameters = {"compile": True, "compile__backend": "eager", "train_split": None}
    net = make_net(max_epochs=1, **parameters).fit(*data)
    assert not fused_steps
    compiled, plain = net.module_._orig_mod, make_net(max_epochs=1, train_split=None).fit(*data)
    assert_same_parameters(compiled, plain.module_, rtol=1e-4, atol=1e-4)


def test_global_hooks_of_modules_are_called(data, fused_steps):
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        make_net(train_split=None).fit(*data)
    finally:
        handle.remove()
    assert not fused_steps
    assert len(calls) > 5 * 7


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"criterion__form": "cross-entropy"}, "form"),
        ({"criterion__reduction": "median"}, "reduction"),
        ({"criterion__weight": torch.ones(1)}, "weight"),
        ({"criterion__weight": torch.ones(4)}, "weight"),
        ({"criterion__label_smoothing": 1.5}, "label_smoothing"),
        ({"criterion__smoothing": "unifrom"}, "uniform"),
        ({"module__n_features": 5}, "n_features"),
        ({"module__n_classes": 5}, "classes"),
    ],
)
def test_what_the_criterion_or_the_module_refuses_is_refused(parameters, message, data):
    with pytest.raises(ValueError, match=message):
        make_net(**parameters).fit(*data)


def test_parameters_that_thaw_are_updated_as_by_skorchs_loop(data, fused_steps):
    callbacks = [Freezer("layers.0.*"), Unfreezer("layers.0.*", at=3)]
    quiet = make_net(callbacks=callbacks).fit(*data)
    assert fused_steps
    slow = make_net(callbacks=[*callbacks, Listener()]).fit(*data)
    same_module(quiet, slow)
    counts = [
        [int(state["step"]) for state in net.optimizer_.state.values()] for net in (quiet, slow)
    ]
    assert sorted(counts[0]) == sorted(counts[1])
    assert len(set(counts[0])) == 2


class Halving(Callback):
    """Steps one of torch's schedulers after every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.scheduler = lr_scheduler.StepLR(net.optimizer_, step_size=1, gamma=0.5)

    def on_epoch_end(self, net, **kwargs):
        self.scheduler.step()


def test_scheduler_of_torchs_sets_the_learning_rate_of_the_fast_path(data, fused_steps):
    fast = make_net(callbacks=[Halving()]).fit(*data)
    assert len(fused_steps) == 5 * 6
    same_module(fast, make_net(callbacks=[Halving(), Listener()]).fit(*data))
    assert fast.optimizer_.param_groups[0]["lr"] == pytest.approx(0.003 / 2**5)


def test_epoch_hook_of_a_subclass_may_change_the_parts(data, fused_steps):
    class Annealed(LabelSmoothingClassifier):
        def on_epoch_begin(self, net, **kwargs):
            super().on_epoch_begin(net, **kwargs)
            self.criterion_.label_smoothing = 0.1 * (len(self.history) - 1)

    parameters = make_net().get_params()
    fast = Annealed(**parameters).fit(*data)
    assert len(fused_steps) == 5 * 6
    slow = Annealed(**listening({**parameters, "callbacks": []})).fit(*data)
    same_module(fast, slow)
    assert_same_records(fast, slow)


# -- threads ------------------------------------------------------------------------------------


@contextmanager
def threads_allowed(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Threads(Callback):
    """Note the number of threads after every epoch."""

    def __init__(self):
        self.seen = set()

    def on_epoch_end(self, net, **kwargs):
        self.seen.add(torch.get_num_threads())


@pytest.mark.parametrize(
    ("allowed", "parameters", "used"),
    [
        (1, {}, 1),
        (2, {}, 1),
        (2, {"module__hidden_layer_sizes": (900, 900), "batch_size": -1}, 2),
        (1, {"module__hidden_layer_sizes": (900, 900), "batch_size": -1}, 1),
        (2, {"module": OtherNet, "batch_size": -1}, 1),
    ],
)
def test_fit_uses_as_many_threads_as_pay(allowed, parameters, used, data):
    threads = Threads()
    with threads_allowed(allowed):
        net = make_net(callbacks=[("threads", threads)], max_epochs=2, **parameters).fit(*data)
        assert torch.get_num_threads() == allowed
        net.partial_fit(*data)
        assert torch.get_num_threads() == allowed
    assert threads.seen == {used}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_threads_are_given_back_when_training_fails(error, data):
    class Failing(Callback):
        def on_epoch_end(self, net, **kwargs):
            assert torch.get_num_threads() == 1
            raise error

    with threads_allowed(2):
        with suppress(RuntimeError):
            make_net(callbacks=[Failing()]).fit(*data)
        assert torch.get_num_threads() == 2


def test_more_threads_than_allowed_are_never_asked_for():
    wide = SimpleNet(n_features=2000, hidden_layer_sizes=2000)
    with threads_allowed(2):
        with threads_for(wide, batch_size=10_000):
            assert torch.get_num_threads() == 2
        with threads_for(nn.Conv1d(1, 1, 1), batch_size=1):  # whose work its size does not tell
            assert torch.get_num_threads() == 2
        with suppress(ZeroDivisionError), threads_for(SimpleNet(), batch_size=1):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("n_nets", "used"), [(1, 1), (5, 1), (25, 2)])
def test_a_stack_uses_more_threads_than_one_net(n_nets, used):
    net = SimpleNet(10, 3, hidden_layer_sizes=(64, 32))
    with threads_allowed(2), threads_for(net, batch_size=128, n_nets=n_nets):
        assert torch.get_num_threads() == used
