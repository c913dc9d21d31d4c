"""The loss of a stack is torch's, and LabelSmoothingLoss's, of each of its nets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from sksmooth import LabelSmoothingLoss
from sksmooth.engine.targets import (
    Targets,
    check_logits,
    float_logits,
    is_known,
    shares_of_mean,
    stacked_loss,
)
from sksmooth.losses import mean_loss


class Case:
    """Random logits, labels and weights of a stack."""

    def __init__(self, n_nets, n_rows, n_classes, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.logits = 3 * self.draw(torch.randn, n_nets, n_rows, n_classes)
        shape = (n_nets, n_rows)
        self.y = torch.randint(n_classes, shape, generator=self.generator)
        self.weight = self.draw(torch.rand, *shape) + 0.1
        self.class_weight = self.draw(torch.rand, n_nets, n_classes) + 0.1
        self.prior = self.draw(torch.rand, n_classes) + 0.1
        self.matrix = self.draw(torch.rand, n_classes, n_classes) + 0.1

    def draw(self, draw, *shape):
        return draw(*shape, generator=self.generator, dtype=torch.float64)

    def loss(self, criteria, weight=None):
        targets = Targets.of(criteria, self.logits.shape[2], like=self.logits)
        return stacked_loss(self.logits, self.y, targets, weight)

    def expected(self, criteria, weight=None):
        losses = []
        for m, criterion in enumerate(criteria):
            rows = self.logits[m], self.y[m]
            losses.append(
                criterion(*rows) if weight is None else mean_loss(criterion, *rows, weight[m])
            )
        return torch.stack(losses)


CASES = {
    "n_nets": st.integers(1, 4),
    "n_rows": st.integers(1, 7),
    "n_classes": st.integers(2, 6),
    "seed": st.integers(0, 999),
}


@given(
    **CASES,
    epsilon=st.floats(0, 0.99),
    smoothing=st.sampled_from(["uniform", "off_target", "prior", "matrix"]),
    form=st.sampled_from(["cross_entropy", "kl"]),
    weighted=st.booleans(),
    class_weighted=st.booleans(),
)
def test_the_loss_is_that_of_label_smoothing_loss(
    n_nets, n_rows, n_classes, seed, epsilon, smoothing, form, weighted, class_weighted
):
    case = Case(n_nets, n_rows, n_classes, seed)
    criteria = [
        LabelSmoothingLoss(
            epsilon / (1 + m),
            case.matrix / case.matrix.sum(1, keepdim=True) if smoothing == "matrix" else smoothing,
            case.class_weight[m] if class_weighted and m != 1 else None,
            form=form,
            class_prior=case.prior / case.prior.sum(),
        )
        for m in range(n_nets)
    ]
    weight = case.weight if weighted else None
    assert_close(case.loss(criteria, weight), case.expected(criteria, weight))


@given(**CASES, epsilon=st.floats(0, 0.99), weighted=st.booleans(), class_weighted=st.booleans())
def test_the_loss_is_torchs_cross_entropy(
    n_nets, n_rows, n_classes, seed, epsilon, weighted, class_weighted
):
    case = Case(n_nets, n_rows, n_classes, seed)
    criteria = [
        nn.CrossEntropyLoss(own if class_weighted else None, label_smoothing=epsilon)
        for own in case.class_weight
    ]
    weight = case.weight if weighted else None
    assert_close(case.loss(criteria, weight), case.expected(criteria, weight))


@given(**CASES, class_weighted=st.booleans(), n_padding=st.integers(0, 3))
def test_rows_of_weight_zero_are_as_if_they_were_not_there(
    n_nets, n_rows, n_classes, seed, class_weighted, n_padding
):
    case = Case(n_nets, n_rows + n_padding, n_classes, seed)
    criteria = [
        LabelSmoothingLoss(0.2, weight=own if class_weighted else None) for own in case.class_weight
    ]
    weight = torch.cat([torch.ones(n_nets, n_rows), torch.zeros(n_nets, n_padding)], 1).double()
    found = case.loss(criteria, weight)
    case.logits, case.y = case.logits[:, :n_rows], case.y[:, :n_rows]
    assert_close(found, case.loss(criteria))


@given(**CASES, class_weighted=st.booleans(), weighted=st.booleans())
def test_shares_weigh_the_mean(n_nets, n_rows, n_classes, seed, class_weighted, weighted):
    case = Case(n_nets, n_rows, n_classes, seed)
    criteria = [nn.CrossEntropyLoss(own if class_weighted else None) for own in case.class_weight]
    targets = Targets.of(criteria, n_classes, like=case.logits)
    own = shares_of_mean(case.y, targets, case.weight if weighted else None)
    if not class_weighted and not weighted:
        assert own is None
        return
    weight = case.class_weight.gather(1, case.y) if class_weighted else torch.ones(case.y.shape)
    assert_close((weight * own).sum(1), torch.ones(n_nets).double())


@given(**CASES)
def test_weighed_batches_add_up_to_the_mean_over_all_rows(n_nets, n_rows, n_classes, seed):
    case = Case(n_nets, n_rows, n_classes, seed)
    targets = Targets.of([LabelSmoothingLoss(0.2)] * n_nets, n_classes, like=case.logits)
    whole = stacked_loss(case.logits, case.y, targets, case.weight)
    mean = case.weight.mean(1)
    parts = zip(case.logits.split(2, 1), case.y.split(2, 1), case.weight.split(2, 1), strict=True)
    sums = [
        stacked_loss(logits, y, targets, weight, weight.mean(1) / mean) * y.shape[1]
        for logits, y, weight in parts
    ]
    assert_close(sum(sums) / n_rows, whole)


def test_a_net_without_rows_in_a_batch_has_no_loss_there():
    case = Case(2, 3, 3, seed=0)
    targets = Targets.of([LabelSmoothingLoss(0.2)] * 2, 3, like=case.logits)
    weight = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).double()
    first, second = stacked_loss(case.logits, case.y, targets, weight).tolist()
    assert first > 0 == second


def test_only_what_is_needed_is_in_the_tables():
    like = torch.zeros(1)
    plain = Targets.of([LabelSmoothingLoss(0.2)] * 2, 3, like)
    assert plain[1:] == (None, None, None)
    assert_close(plain.mass.sum(1), torch.ones(2, 3))
    assert Targets.of([LabelSmoothingLoss(0.2, form="kl")], 3, like).constant is not None
    assert Targets.of([nn.CrossEntropyLoss(torch.ones(3))], 3, like).weight is None
    weighted = Targets.of([nn.CrossEntropyLoss(), nn.CrossEntropyLoss(torch.rand(3))], 3, like)
    assert weighted.weight.shape == weighted.total.shape == (2, 3)
    double = Targets.of([LabelSmoothingLoss(0.2, form="kl")], 3, like.double())
    assert double.mass.dtype == double.constant.dtype == torch.float64


class OwnLoss(LabelSmoothingLoss):
    pass


@pytest.mark.parametrize(
    ("criterion", "known"),
    [
        (LabelSmoothingLoss(), True),
        (LabelSmoothingLoss(form="kl"), True),
        (LabelSmoothingLoss(reduction="sum"), False),
        (LabelSmoothingLoss(ignore_index=0), False),
        (OwnLoss(), False),
        (nn.CrossEntropyLoss(), True),
        (nn.CrossEntropyLoss(label_smoothing=0.3), True),
        (nn.CrossEntropyLoss(label_smoothing=1.0), False),
        (nn.CrossEntropyLoss(ignore_index=0), False),
        (nn.CrossEntropyLoss(reduction="none"), False),
        (nn.NLLLoss(), False),
        (nn.functional.cross_entropy, False),
    ],
)
def test_known_are_the_criteria_whose_loss_is_written_here(criterion, known):
    assert is_known(criterion) == known


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_of_all_floats_become_single(dtype):
    assert float_logits(torch.zeros(2, 3, dtype=dtype)).dtype == torch.float32
    assert float_logits(torch.zeros(2, 3, dtype=torch.int64)).dtype == torch.int64


@pytest.mark.parametrize(
    ("shape", "n_classes", "fits"),
    [
        ((5, 3), 3, True),
        ((5, 3), None, True),
        ((5, 2), 3, False),
        ((5,), None, False),
        ((5, 3, 1), 3, False),
    ],
)
def test_logits_of_another_width_are_refused(shape, n_classes, fits):
    if fits:
        check_logits(nn.Linear(1, 1), torch.zeros(shape), n_classes)
        return
    with pytest.raises(ValueError, match="Linear gives logits of shape"):
        check_logits(nn.Linear(1, 1), torch.zeros(shape), n_classes)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_members_is_the_mean_of_theirs(weighted):
    logits = torch.randn(2, 6, 4, 3)  # of two nets, four members each
    y, weight = torch.randint(3, (2, 6)), torch.rand(2, 6) + 0.1 if weighted else None
    targets = Targets.of([LabelSmoothingLoss(0.2)] * 2, 3, like=logits)
    each = [stacked_loss(logits[:, :, own], y, targets, weight) for own in range(4)]
    assert_close(stacked_loss(logits, y, targets, weight), torch.stack(each).mean(0))
