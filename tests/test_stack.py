"""A stack of nets is as many stacks of one, whatever rows and weights its members have."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from sksmooth import LabelSmoothingLoss, SimpleNet
from sksmooth._batches import TensorRows
from sksmooth.engine import stack as room
from sksmooth.engine.stack import InMemoryStack, Losses, Member, Remade, Scored, Selection
from sksmooth.losses import mean_loss

N_FEATURES, N_CLASSES = 4, 3


def make_rows(n_rows, seed=0, weighted=False):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n_rows, N_FEATURES, generator=generator)
    y = torch.randint(N_CLASSES, (n_rows,), generator=generator)
    weight = torch.rand(n_rows, generator=generator) + 0.2 if weighted else None
    return TensorRows(X, y, weight)


def make_net(by_hand=True, dropout=0.0):
    if by_hand:
        return SimpleNet(N_FEATURES, N_CLASSES, (6, 5), "tanh", dropout)
    return nn.Sequential(nn.Linear(N_FEATURES, 6), nn.Tanh(), nn.Linear(6, N_CLASSES))


def make_members(sizes, by_hand=True, dropout=0.0, weighted=False, class_weights=False):
    """Make members that differ in everything that they may differ in."""
    members = []
    for m, n_rows in enumerate(sizes):
        rows = make_rows(n_rows + 10, seed=m, weighted=weighted and m != 1)
        order = torch.randperm(len(rows))
        weight = torch.tensor([0.5, 1.0, 2.0]) if class_weights and m != 1 else None
        criterion = LabelSmoothingLoss(0.1 * m, weight=weight)
        held_out = Selection(rows, order[n_rows : n_rows + 10 - m])
        generator = torch.Generator().manual_seed(m)
        net = make_net(by_hand, dropout)
        members.append(Member(net, criterion, Selection(rows, order[:n_rows]), held_out, generator))
    return members


def alone(member):
    """Copy a member, so that it can be trained once more."""
    generator = torch.Generator()
    generator.set_state(member.generator.get_state())
    return member._replace(module=copy.deepcopy(member.module), generator=generator)


def make_stack(members, optimizer=torch.optim.AdamW, by_hand=True, **params):
    given = {"lr": 0.01, "fused": True} if optimizer is torch.optim.AdamW else {"lr": 0.1}
    own = optimizer(members[0].module.parameters(), **given)
    params = {"batch_size": 8, "n_classes": N_CLASSES, **params}
    return InMemoryStack(members, own, by_hand=by_hand, **params)


def assert_same_nets(one, other):
    assert_close(list(one.parameters()), list(other.parameters()), rtol=1e-4, atol=1e-5)


def assert_stack_is_singles(members, n_epochs=3, **params):
    singles = [make_stack([alone(member)], **params) for member in members]
    stack = make_stack(members, **params)
    for _ in range(n_epochs):
        losses = stack.run_epoch()
        each = [single.run_epoch() for single in singles]
    scored = stack.score()
    for m, (single, own) in enumerate(zip(singles, each, strict=True)):
        assert losses.means()[m] == pytest.approx(own.means()[0], rel=1e-4)
        for batch, expected in zip(losses.batches(m), own.batches(0), strict=True):
            assert batch == pytest.approx(expected, rel=1e-4)
        stack.write_back(m, stack.state())
        assert_same_nets(stack.members[m].module, single.members[0].module)
        theirs = single.score()
        assert scored.losses[m] == pytest.approx(theirs.losses[0], rel=1e-4)
        for value, expected in zip(scored.of(m)[:2], theirs.of(0)[:2], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)
        if theirs.is_weighted:
            np.testing.assert_allclose(scored.of(m)[2], theirs.of(0)[2])


# Members take the same number of steps: the last batches are of 5, 8 and 1 rows.
UNEQUAL = (21, 24, 17)


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize(
    ("sizes", "data", "params"),
    [
        ((21, 21, 21), {}, {}),
        (UNEQUAL, {}, {}),
        (UNEQUAL, {"weighted": True}, {}),
        (UNEQUAL, {"class_weights": True}, {}),
        (UNEQUAL, {"weighted": True, "class_weights": True}, {"shuffle": False}),
        ((21, 23, 17), {}, {"drop_last": True}),
        ((8, 5, 7), {"weighted": True}, {}),
        (UNEQUAL, {}, {"rows_at_once": 3}),
        (UNEQUAL, {}, {"optimizer": torch.optim.SGD}),
    ],
    ids=str,
)
def test_a_stack_is_as_many_stacks_of_one(sizes, data, params, by_hand):
    assert_stack_is_singles(make_members(sizes, by_hand, **data), by_hand=by_hand, **params)


@pytest.mark.parametrize("weighted", [False, True])
def test_dropout_of_a_stack_is_that_of_stacks_of_one(weighted):
    members = make_members(UNEQUAL, dropout=0.5, weighted=weighted)
    assert_stack_is_singles(members)


def test_members_that_share_a_generator_draw_the_same():
    first, *_ = make_members([20], dropout=0.5)
    second = first._replace(module=copy.deepcopy(first.module))
    stack = make_stack([first, second])
    for _ in range(2):
        losses = stack.run_epoch()
    np.testing.assert_allclose(*losses.values, rtol=1e-5)
    drawn = make_stack([alone(make_members([20], dropout=0.5)[0])])
    assert drawn.run_epoch().values.shape == (1, 3)


@pytest.mark.parametrize("params", [{}, {"weighted": True, "class_weights": True}], ids=str)
@pytest.mark.parametrize("sizes", [(20,), UNEQUAL])
def test_steps_by_hand_are_those_of_autograd(sizes, params):
    members = make_members(sizes, **params)
    copies = [alone(member) for member in members]
    own, theirs = make_stack(members), make_stack(copies, by_hand=False)
    for _ in range(3):
        np.testing.assert_allclose(own.run_epoch().values, theirs.run_epoch().values, rtol=1e-4)
    assert_close(
        [tensor.flatten() for tensor in own.state()],
        [tensor.flatten() for tensor in theirs.state()],
        rtol=1e-3,
        atol=1e-5,
    )
    np.testing.assert_allclose(own.score().losses, theirs.score().losses, rtol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_epoch_is_a_plain_loop_over_shuffled_batches(weighted):
    (member,) = make_members([21], weighted=weighted, class_weights=True)
    net, rows = copy.deepcopy(member.module), member.train.table
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    mean_weight = rows.sample_weight[member.train.chosen].mean() if weighted else 1
    expected = []
    for chosen in member.train.chosen[order].split(8):
        X, y = rows[chosen]
        weight = torch.ones(len(y)) if rows.sample_weight is None else rows.sample_weight[chosen]
        # Rows that weigh less than others count less also in a batch of their own.
        relative = min(1, weight.mean() / mean_weight)
        loss = mean_loss(member.criterion, net(X), y, weight) * relative
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append((loss.item(), len(y), len(y)))
    losses = make_stack([member], torch.optim.SGD).run_epoch()
    found = zip(losses.values[0], losses.sizes[0], losses.weights[0], strict=True)
    np.testing.assert_allclose(list(found), expected, rtol=1e-5)
    assert_same_nets(member.module, net)


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_is_in_one_batch_of_an_epoch(shuffle):
    stack = make_stack(make_members(UNEQUAL), shuffle=shuffle)
    seen, _, weights = (torch.cat(parts, 1) for parts in zip(*stack._batches(), strict=True))
    for m, member in enumerate(stack.members):
        own = seen[m][weights[m] > 0]
        rows = member.train.table.X[member.train.chosen]
        assert_close(own.sort(0).values, rows.sort(0).values)
        assert torch.equal(own, rows) == (not shuffle)


@pytest.mark.parametrize("limit", [1, 200])
def test_memory_bounds_change_nothing(limit, monkeypatch):
    members = make_members(UNEQUAL, weighted=True)
    copies = [alone(member) for member in members]
    plain = make_stack(members)
    monkeypatch.setattr(room, "GATHERED_ENTRIES", limit)
    bounded = make_stack(copies)
    assert bounded.rows_at_once < plain.rows_at_once
    for _ in range(2):
        np.testing.assert_allclose(plain.run_epoch().values, bounded.run_epoch().values, rtol=1e-5)
    np.testing.assert_allclose(plain.score().logits, bounded.score().logits, rtol=1e-3, atol=1e-5)


def test_a_single_net_is_trained_in_place_and_several_until_written_back():
    (single,) = make_members([20])
    before = copy.deepcopy(single.module)
    make_stack([single]).run_epoch()
    with pytest.raises(AssertionError):
        assert_same_nets(single.module, before)

    members = make_members([20, 20])
    before = [copy.deepcopy(member.module) for member in members]
    stack = make_stack(members)
    stack.run_epoch()
    stack.write_back(1, stack.state())
    assert_same_nets(members[0].module, before[0])
    with pytest.raises(AssertionError):
        assert_same_nets(members[1].module, before[1])


def test_interrupted_epochs_leave_the_optimizer_with_the_steps_taken(monkeypatch):
    (member,) = make_members([40])
    stack = make_stack([member])
    step, taken = stack.updates.step, []

    def interrupted():
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(step())

    monkeypatch.setattr(stack.updates, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stack.run_epoch()
    states = stack.updates.adam.steps
    assert {int(count) for count in states} == {2}


def test_no_rows_held_out_give_no_scores():
    (member,) = make_members([20])
    for held_out in (None, member.train.none()):
        assert make_stack([member._replace(held_out=held_out)]).score() is None


def test_buffers_of_a_single_module_are_part_of_its_state():
    net = nn.Sequential(nn.Linear(N_FEATURES, N_CLASSES), nn.BatchNorm1d(N_CLASSES))
    (member,) = make_members([20])
    stack = make_stack([member._replace(module=net)], by_hand=False)
    before = [tensor.detach().clone() for tensor in stack.state()]
    stack.run_epoch()
    assert not torch.equal(net[1].running_mean, torch.zeros(N_CLASSES))
    stack.write_back(0, before)
    assert torch.equal(net[1].running_mean, torch.zeros(N_CLASSES))
    assert_close(list(net.parameters()), before[: len(list(net.parameters()))])


def test_tables_that_members_share_are_kept_once():
    rows = make_rows(30)
    selections = [Selection.of(rows), Selection(rows, torch.arange(5, 25))]
    members = [
        Member(make_net(), LabelSmoothingLoss(), own, own, torch.Generator()) for own in selections
    ]
    stack = make_stack(members, batch_size=15)
    assert stack.X is rows.X
    others = [member._replace(held_out=Selection.of(make_rows(7, seed=5))) for member in members]
    assert len(make_stack(others, batch_size=15).X) == 30 + 2 * 7


def test_a_remade_stack_is_made_before_each_epoch():
    made = []

    def make():
        made.append(make_stack(make_members([20])))
        return made[-1]

    remade = Remade(make)
    assert made == []
    for number in (1, 2):
        assert remade.run_epoch().values.shape == (1, 3)
        assert len(made) == number
        assert remade.state() is made[-1].state()
        np.testing.assert_array_equal(remade.score().logits, made[-1].score().logits)
    zeros = [torch.zeros_like(tensor) for tensor in remade.state()]
    remade.write_back(0, zeros)
    assert all(not parameter.any() for parameter in made[-1].members[0].module.parameters())


def test_losses_are_weighted_means_and_empty_batches_are_left_out():
    losses = Losses(
        np.array([[1.0, 3.0], [2.0, 0.0]]), np.array([[3.0, 1.0], [4.0, 0.0]]), [[3, 1], [4, 0]]
    )
    np.testing.assert_allclose(losses.means(), [1.5, 2.0])
    assert losses.batches(1) == [{"train_loss": 2.0, "train_batch_size": 4}]
    assert len(losses.batches(0)) == 2


def test_a_set_is_scored_without_what_fills_it_up():
    logits, y = np.arange(12.0).reshape(2, 3, 2), np.zeros((2, 3), int)
    weight = np.array([[1.0, 1, 1], [1, 1, 0]])
    own = Scored(logits, y, weight, [3, 2]).of(1)
    np.testing.assert_array_equal(own[0], logits[1, :2])
    assert own[2] is None
    weighted = Scored(logits, y, weight, [3, 2], is_weighted=True).of(1)
    np.testing.assert_array_equal(weighted[2], [1, 1])
