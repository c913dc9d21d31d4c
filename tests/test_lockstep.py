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
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from sksmooth import LabelSmoothingClassifier, LabelSmoothingLoss, SimpleNet
from sksmooth.batches import TensorBatches
from sksmooth.lockstep import (
    ELEMENTWISE_OPTIMIZERS,
    FusedAdam,
    FusedTraining,
    StackedNets,
    Targets,
    threads_for,
)
from sksmooth.losses import mean_loss
from sksmooth.modules import ACTIVATIONS

SMOOTHINGS = ("uniform", "off_target", "prior", "matrix")


# -- the loss and its gradients -----------------------------------------------------------------


def make_criterion(n_classes, smoothing="uniform", *, epsilon=0.2, weighted=False, form="cross_entropy"):
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
    net = SimpleNet(3, 4, 6, "tanh").double()
    X, y, weight = make_rows(net, 8)
    criterion = make_criterion(4, smoothing, epsilon=epsilon, weighted=weighted, form=form)
    assert_step_is_autograds(net, criterion, X, y, weight if has_sample_weight else None)


@pytest.mark.parametrize("has_sample_weight", [False, True])
@pytest.mark.parametrize("weight", [None, [0.5, 1.0, 3.0], [2.0, 2.0, 2.0], [1.0, 0.0, 1.0]])
def test_gradients_of_torchs_cross_entropy_are_autograds(weight, has_sample_weight):
    net = SimpleNet(3, 3, 6).double()
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
    net = SimpleNet(6, 3, 4).double()
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
    nets = [SimpleNet(4, 3, (6, 5), "silu").double() for _ in range(4)]
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
    rows = y + 3 * torch.arange(4)[:, None]
    for given_weight in (None, weight):
        with torch.no_grad():
            losses = stack.loss_and_gradients(X, rows, targets, given_weight)
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
    nets = [SimpleNet(4, 3, 6).double() for _ in range(2)]
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
        losses = stack.loss_and_gradients(X, y + 3 * torch.arange(2)[:, None], targets, weight)
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
        losses = stack.loss_and_gradients(X, y + 3 * torch.arange(3)[:, None], targets)
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
    ours, theirs = SimpleNet(4, 3, 5), SimpleNet(4, 3, 5)
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
    straight = SimpleNet(4, 3, 5)
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
    remove = [
        lambda net, optimizer: optimizer.register_step_pre_hook(lambda *_: calls.append("own")),
        lambda net, optimizer: torch.optim.optimizer.register_optimizer_step_post_hook(
            lambda *_: calls.append("global")
        ),
    ]
    for register in remove:
        net = SimpleNet(4, 3, 5)
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


def make_net(**parameters):
    small = {"max_epochs": 5, "batch_size": 32, "random_state": 0, "early_stopping": False}
    split = {"train_split": 0.15}  # the 30 rows held out are one batch
    return LabelSmoothingClassifier(**{**small, **split, **parameters})


def listening(parameters):
    """Add the Listener to an estimator's callbacks."""
    return {**parameters, "callbacks": [*parameters.get("callbacks", []), Listener()]}


def same_module(one, other, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-4}
    assert_same_parameters(one.module_, other.module_, **tolerance)


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
    "module instance": {"module": SimpleNet(6, 3, 8)},
    "one batch": {"batch_size": -1},
    "drop_last": {"iterator_train__drop_last": True},
    "unshuffled": {"iterator_train__shuffle": False},
    "weight decay": {"optimizer__weight_decay": 0.3},
    "not fused": {"optimizer": torch.optim.Adam, "optimizer__foreach": True},
    "param_groups": {"optimizer__param_groups": [("layers.0.*", {"lr": 0.1})]},
    "schedule": {"callbacks": [("lr", LRScheduler(lr_scheduler.StepLR, step_size=2))]},
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
    assert len(fused_steps) == 3 * 5
    same_module(fast, slow)
    steps = [next(iter(net.optimizer_.state.values()))["step"] for net in (fast, slow)]
    assert [int(step) for step in steps] == [15, 15]


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
