"""The steps by autograd are torch's, of one module or a stack of them."""

import copy

import pytest
import torch
from helpers import WithMembers
from torch import nn
from torch.testing import assert_close

from sksmooth import LabelSmoothingLoss, SimpleNet
from sksmooth.engine.by_autograd import OneModule, StackedModules
from sksmooth.engine.randomness import OwnRandomness
from sksmooth.engine.targets import Targets
from sksmooth.losses import mean_loss


class Tupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.rand(3))

    def forward(self, X):
        h = self.layer(X)
        return h, (h * self.scale).double()


MODULES = {
    "SimpleNet": lambda: SimpleNet(4, 3, (5,), dropout=0.0),
    "LayerNorm": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)
    ),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 3)
    ),
    "tuple of another dtype": Tupled,
    "members": WithMembers,
}


def make_batch(n_nets, n_rows=6):
    X, y = torch.randn(n_nets, n_rows, 4), torch.randint(3, (n_nets, n_rows))
    return X, y, torch.rand(n_nets, n_rows) + 0.1


def expected_step(module, criterion, X, y, weight=None):
    """Give the loss and the gradients of a copy of a module."""
    module = copy.deepcopy(module).train()
    output = module(X)
    logits = (output[-1] if isinstance(output, tuple) else output).float()
    if logits.ndim == 3:
        logits, n_members = logits.flatten(0, 1), logits.shape[1]
        y, weight = (
            None if own is None else own.repeat_interleave(n_members) for own in (y, weight)
        )
    loss = criterion(logits, y) if weight is None else mean_loss(criterion, logits, y, weight)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in module.parameters()]


def around(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return OneModule(module, optimizer, OwnRandomness(0))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_one_module_steps_as_it_does_by_itself(name, weighted):
    module, criterion = MODULES[name](), LabelSmoothingLoss(0.2)
    net, (X, y, weight) = around(module), make_batch(1)
    weight = weight if weighted else None
    targets = Targets.of([criterion], 3, like=X)
    for _ in range(2):  # the second time, gradients are there already
        net.begin_epoch()
        loss = net.loss_and_gradients(X, y, targets, weight)
        own = None if weight is None else weight[0]
        expected = expected_step(module, criterion, X[0], y[0], own)
        assert_close((loss[0], [p.grad for p in module.parameters()]), expected)
    assert not loss.requires_grad


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_a_stack_steps_as_its_modules_do_by_themselves(name, weighted):
    modules = [MODULES[name]() for _ in range(3)]
    criteria = [LabelSmoothingLoss(epsilon) for epsilon in (0.0, 0.1, 0.3)]
    X, y, weight = make_batch(3)
    weight = weight if weighted else None
    stack = StackedModules(modules, OwnRandomness(0))
    stack.begin_epoch()
    losses = stack.loss_and_gradients(X, y, Targets.of(criteria, 3, like=X), weight)
    for m, (module, criterion) in enumerate(zip(modules, criteria, strict=True)):
        own = None if weight is None else weight[m]
        loss, gradients = expected_step(module, criterion, X[m], y[m], own)
        assert_close(losses[m], loss)
        assert_close([gradient[m] for gradient in stack.gradients], gradients)
    assert not any(parameter.requires_grad for parameter in stack.parameters)
    before = [tensor.data_ptr() for tensor in stack.gradients]
    stack.loss_and_gradients(X, y, Targets.of(criteria, 3, like=X), weight)
    assert [tensor.data_ptr() for tensor in stack.gradients] == before


@pytest.mark.parametrize("name", MODULES)
def test_logits_are_those_of_the_modules(name):
    modules = [MODULES[name]() for _ in range(2)]
    X, *_ = make_batch(2)
    alone = torch.cat([around(module).logits(X[[m]]) for m, module in enumerate(modules)])
    for m, module in enumerate(modules):
        output = module(X[m])
        expected = (output[-1] if isinstance(output, tuple) else output).float()
        if name == "members":
            expected = expected.softmax(-1).mean(1)
            assert_close(alone[m].softmax(-1), expected)
        else:
            assert_close(alone[m], expected)
    stacked = StackedModules(modules, OwnRandomness(0)).logits(X)
    assert_close(stacked, alone)
    assert alone.dtype == stacked.dtype == torch.float32
    assert not alone.requires_grad
    assert not stacked.requires_grad


def test_dropout_is_drawn_in_training_only_and_from_ones_own_generator():
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    X, y, _ = make_batch(1)
    targets = Targets.of([LabelSmoothingLoss()], 3, like=X)
    before, net = torch.get_rng_state(), around(module)
    net.begin_epoch()
    found = [net.loss_and_gradients(X, y, targets)[0] for _ in range(3)]
    assert_close(net.logits(X)[0], module[1](X[0]))
    assert not module.training
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = [expected_step(module, LabelSmoothingLoss(), X[0], y[0])[0] for _ in range(3)]
    assert_close(found, expected)


def test_members_of_a_stack_draw_dropout_apart():
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    stack = StackedModules([module, module], OwnRandomness(0))
    (X, y, _), before = make_batch(1), torch.get_rng_state()
    X, y = X.expand(2, -1, -1), y.expand(2, -1)
    stack.begin_epoch()
    losses = stack.loss_and_gradients(X, y, Targets.of([LabelSmoothingLoss()] * 2, 3, like=X))
    assert losses[0] != losses[1]
    assert_close(*stack.logits(X))
    assert torch.equal(before, torch.get_rng_state())


def test_the_modules_of_a_stack_stay_as_they_are():
    modules = [nn.Linear(4, 3) for _ in range(2)]
    before = copy.deepcopy([list(module.parameters()) for module in modules])
    stack = StackedModules(modules, OwnRandomness(0))
    for parameter in stack.parameters:
        parameter.zero_()
    stack.begin_epoch()
    assert_close([list(module.parameters()) for module in modules], before)
    assert all(parameter.requires_grad for module in modules for parameter in module.parameters())


def test_logits_of_another_width_are_refused():
    net, (X, y, _) = around(nn.Linear(4, 2)), make_batch(1)
    with pytest.raises(ValueError, match="but y has 3 classes"):
        net.loss_and_gradients(X, y, Targets.of([LabelSmoothingLoss()], 3, like=X))
