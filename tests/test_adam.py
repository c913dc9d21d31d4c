"""FusedAdam steps as torch's optimizers do."""

import copy

import pytest
import torch
from helpers import assert_same_parameters
from torch.testing import assert_close

from sksmooth import SimpleNet
from sksmooth.engine.adam import FusedAdam, gather_state


def draw_gradients(nets, seed):
    """Give nets of one architecture the same random gradients, in the tensors they have."""
    generator = torch.Generator().manual_seed(seed)
    for parameters in zip(*(net.parameters() for net in nets), strict=True):
        gradient = torch.randn(parameters[0].shape, generator=generator)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(gradient)


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


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_state_of_adam_is_that_which_it_steps_by(kind):
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    optimizer = kind([parameter], fused=True)
    parameters, gradients, means, squares, largest, steps = gather_state(optimizer)
    assert parameters[0] is parameter
    assert gradients[0] is parameter.grad
    assert largest == []
    optimizer.step()
    assert means[0] is optimizer.state[parameter]["exp_avg"]
    torch.testing.assert_close(means[0], torch.full((3,), 0.2))
    assert squares[0] is optimizer.state[parameter]["exp_avg_sq"]
    assert float(steps[0]) == 1
