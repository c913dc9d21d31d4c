"""The steps written out by hand compute what autograd computes."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from sksmooth import LabelSmoothingLoss, SimpleNet
from sksmooth.engine.by_hand import HandNets
from sksmooth.engine.targets import Targets
from sksmooth.losses import mean_loss
from sksmooth.modules import ACTIVATIONS

SMOOTHINGS = ("uniform", "off_target", "prior", "matrix")


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


class Masked(nn.Module):
    """Dropout of which it is known what it drops."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, h):
        return h * self.mask


def masks_of(net, n_rows, seed):
    """Give the masks that HandNets draws for a net."""
    stack = HandNets.around(copy.deepcopy(net), [torch.Generator().manual_seed(seed)])
    return [mask[0] for mask in stack.draw_masks(n_rows)] if net.dropout else []


def by_autograd(net, criterion, X, y, sample_weight=None, seed=7):
    """Give the loss and the parameters' gradients, as autograd computes them."""
    net = copy.deepcopy(net).train()
    if net.dropout:
        net.dropouts = nn.ModuleList(map(Masked, masks_of(net, len(X), seed)))
    logits = net(X)
    if sample_weight is None:
        loss = criterion(logits, y)
    else:
        loss = mean_loss(criterion, logits, y, sample_weight)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in net.parameters()]


def by_hand(net, criterion, X, y, sample_weight=None):
    """Give the loss and the parameters' gradients, as HandNets computes them."""
    net = copy.deepcopy(net)
    stack = HandNets.around(net, [torch.Generator().manual_seed(7)])
    targets = Targets.of([criterion], net.n_classes, like=stack.weights[0])
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


# -- many nets ----------------------------------------------------------------------------------


def stack_of(nets, generators=()):
    """Stack the parameters of nets of one architecture."""
    layers = list(zip(*(net.layers for net in nets), strict=True))
    return HandNets(
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
        loss, gradients = by_autograd(net, LabelSmoothingLoss(), X[m], y[m], seed=m)
        assert_close(losses[m], loss)
        assert_close(gradients_of(stack, m), gradients)


def draw_masks(dropout, n_rows=200, sizes=None, seeds=(0, 1), widths=(50, 30)):
    """Draw masks twice, one draw after the other."""
    nets = [SimpleNet(4, 3, widths, dropout=dropout) for _ in seeds]
    stack = stack_of(nets, [torch.Generator().manual_seed(seed) for seed in seeds])
    return [[part.clone() for part in stack.draw_masks(n_rows, sizes)] for _ in range(2)]


@pytest.mark.parametrize("dropout", [0.001, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(dropout):
    masks = torch.cat([mask.flatten() for masks in draw_masks(dropout) for mask in masks])
    kept = masks[masks != 0]
    assert_close(kept, torch.full_like(kept, 1 / (1 - dropout)))
    deviation = (dropout / (1 - dropout) / len(masks)) ** 0.5  # of the mean
    assert abs(masks.mean() - 1) < 4 * deviation
    assert abs(masks.var() - dropout / (1 - dropout)) < 0.03 * max(1, dropout / (1 - dropout))


def test_dropout_is_independent_of_everything_else():
    n_rows, dropout = 2000, 0.3
    (one, two), _ = draw = draw_masks(dropout, n_rows, widths=(7, 6))
    rows = torch.cat([m for masks in draw for part in masks for m in part], 1).double()
    # Units of both layers, nets and draws, beside each other; then each beside the rows before.
    columns = torch.cat([rows[2:], rows[1:-1], rows[:-2]], 1)
    assert columns.shape[1] == 3 * 2 * 2 * (one.shape[2] + two.shape[2])
    correlation = torch.corrcoef(columns.T) - torch.eye(columns.shape[1])
    assert correlation.abs().max() < 5.5 / n_rows**0.5


@pytest.mark.parametrize("n_rows", [1, 5, 7])
def test_a_net_that_is_filled_up_draws_what_it_draws_alone(n_rows):
    (together, after), (alone, later) = (
        draw_masks(0.5, n, sizes, seeds, widths=(5, 4))
        for n, sizes, seeds in ((8, [8, n_rows], (0, 1)), (n_rows, None, (1,)))
    )
    assert_close([part[1, :n_rows] for part in together], [part[0] for part in alone])
    assert_close([part[1, :n_rows] for part in after], [part[0] for part in later])
