import copy
import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import grad, jacrev, vmap
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from sksmooth.losses import LabelSmoothingLoss, mean_loss
from sksmooth.modules import SimpleNet
from sksmooth.smoothing import smooth_labels

reproducible = settings(max_examples=30, deadline=None, derandomize=True)
REDUCTIONS = ["mean", "sum", "none"]
FORMS = ["cross_entropy", "kl"]
SMOOTHINGS = ["uniform", "off_target", "prior", "matrix"]
seeds = st.integers(0, 999)
epsilons = st.floats(0, 0.999)


def make_case(seed, n=7, n_classes=4, dtype=torch.float64, scale=3.0):
    """Logits, class indices, target probabilities, class weights and sample weights."""
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, n_classes, generator=g) * scale).to(dtype).requires_grad_()
    y = torch.randint(n_classes, (n,), generator=g)
    proba = torch.randn(n, n_classes, generator=g).softmax(1).to(dtype)
    weight = torch.rand(n_classes, generator=g).to(dtype) + 0.1
    sample_weight = torch.rand(n, generator=g).to(dtype) + 0.1
    return logits, y, proba, weight, sample_weight


def make_loss(smoothing, n_classes=4, **parameters):
    prior = torch.arange(1.0, n_classes + 1).double()
    if smoothing == "matrix":
        shifted = torch.eye(n_classes).double().roll(1, 0)
        smoothing = (shifted + shifted.T) / 2
    return LabelSmoothingLoss(smoothing=smoothing, class_prior=prior / prior.sum(), **parameters)


def value_and_gradient(loss, logits, *args):
    value = loss(logits, *args)
    # A weighted sum, so that every row's gradient counts under reduction="none" too.
    total = (value * torch.arange(1, value.numel() + 1).to(value).view(value.shape)).sum()
    return value, *torch.autograd.grad(total, logits)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(seed=seeds, epsilon=epsilons, dtype=st.sampled_from([torch.float32, torch.float64]))
@reproducible
def test_uniform_equals_torch(weighted, target, reduction, seed, epsilon, dtype):
    logits, y, proba, weight, _ = make_case(seed, dtype=dtype)
    parameters = {
        "label_smoothing": epsilon,
        "weight": weight if weighted else None,
        "reduction": reduction,
    }
    t = y if target == "indices" else proba
    ours = value_and_gradient(LabelSmoothingLoss(**parameters), logits, t)
    theirs = value_and_gradient(nn.CrossEntropyLoss(**parameters), logits, t)
    for got, expected in zip(ours, theirs, strict=True):
        assert_close(got, expected, rtol=1e-6, atol=1e-6 * max(1, expected.abs().max().item()))


# Without a class dimension, with one alone, and with places: of a text, of an image, none at all.
SHAPES = [(4,), (1, 4), (3, 4, 5), (2, 4, 3, 2), (2, 4, 1, 2, 2), (2, 4, 0)]


def make_shaped_case(seed, shape, dtype=torch.float64):
    """Logits of a shape, class indices, target probabilities, class weights, sample weights."""
    g = torch.Generator().manual_seed(seed)
    places = shape[:1] + shape[2:] if len(shape) > 1 else ()
    logits = (3 * torch.randn(shape, generator=g)).to(dtype).requires_grad_()
    y = torch.randint(4, places, generator=g)
    proba = torch.randn(shape, generator=g).softmax(min(1, len(shape) - 1)).to(dtype)
    weight = torch.rand(4, generator=g).to(dtype) + 0.1
    return logits, y, proba, weight, torch.rand(places, generator=g).to(dtype) + 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(
    seed=seeds,
    epsilon=epsilons,
    weighted=st.booleans(),
    by_index=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@reproducible
def test_shapes_are_those_of_torch(shape, reduction, seed, epsilon, weighted, by_index, dtype):
    logits, y, proba, weight, _ = make_shaped_case(seed, shape, dtype)
    parameters = {
        "label_smoothing": epsilon,
        "weight": weight if weighted else None,
        "reduction": reduction,
    }
    t = y if by_index else proba
    ours = value_and_gradient(LabelSmoothingLoss(**parameters), logits, t)
    theirs = value_and_gradient(nn.CrossEntropyLoss(**parameters), logits, t)
    for got, expected in zip(ours, theirs, strict=True):
        assert got.shape == expected.shape
        largest = expected.abs().max().item() if expected.numel() else 0
        assert_close(got, expected, rtol=1e-5, atol=1e-6 * max(1, largest), equal_nan=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_targets_that_do_not_sum_to_one_and_their_gradient_are_those_of_torch(reduction):
    logits, _, proba, weight, _ = make_case(0)
    parts = []
    for kind in (LabelSmoothingLoss, nn.CrossEntropyLoss):
        target = (proba * torch.arange(len(proba))[:, None]).requires_grad_()
        loss = kind(label_smoothing=0.3, weight=weight, reduction=reduction)(logits, target)
        parts.append((loss, *torch.autograd.grad(loss.sum(), [logits, target])))
    assert_close(*parts)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_places_are_rows(shape, form, smoothing):
    logits, y, proba, weight, s = make_shaped_case(0, shape)
    rows = logits[None] if len(shape) == 1 else logits.movedim(1, -1).reshape(-1, 4)
    t = proba[None] if len(shape) == 1 else proba.movedim(1, -1).reshape(-1, 4)
    for reduction in REDUCTIONS:
        loss = make_loss(smoothing, form=form, weight=weight, reduction=reduction)
        for shaped, flat in ((y, y.flatten()), (proba, t)):
            got = loss(logits, shaped, s)
            expected = loss(rows, flat, s.flatten())
            assert_close(got.flatten(), expected.flatten(), rtol=0, atol=0, equal_nan=True)
            assert got.shape == (y.shape if reduction == "none" else ())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@given(
    seed=seeds,
    shape=st.sampled_from([*SHAPES[1:5], (7, 4)]),
    ignore_index=st.sampled_from([-100, -1, 0, 2, 255]),
    weighted=st.booleans(),
    by_sample=st.booleans(),
)
@settings(reproducible, max_examples=10)
def test_batch_with_ignored_rows_is_the_batch_without(
    reduction, form, smoothing, seed, shape, ignore_index, weighted, by_sample
):
    logits, y, _, weight, s = make_shaped_case(seed, shape)
    kept = torch.rand(y.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    kept &= y != ignore_index
    y = y.where(kept, ignore_index)
    # What an ignored row holds must not matter, not even where it would turn the sum into NaN.
    with torch.no_grad():
        logits.movedim(1, -1)[~kept] = math.nan
    parameters = {"reduction": reduction, "form": form, "weight": weight if weighted else None}
    loss = make_loss(smoothing, ignore_index=ignore_index, **parameters)
    weights = (s,) if by_sample else ()
    value = loss(logits, y, *weights)
    (gradient,) = torch.autograd.grad(value.sum(), logits)

    rows = logits.detach().movedim(1, -1)[kept].requires_grad_()
    without = make_loss(smoothing, **parameters)(rows, y[kept], *(w[kept] for w in weights))
    (expected,) = torch.autograd.grad(without.sum(), rows)
    if reduction == "none":
        assert value.shape == y.shape
        assert (value[~kept] == 0).all()
        value = value[kept]
    assert_close(value, without, equal_nan=True)
    assert_close(gradient.movedim(1, -1)[kept], expected, equal_nan=True)
    assert (gradient.movedim(1, -1)[~kept] == 0).all()


def test_ignored_rows_of_torch_where_it_counts_them_right():
    logits, y, *_ = make_case(0)
    y[[1, 4]] = -100
    for reduction in REDUCTIONS:
        ours = value_and_gradient(LabelSmoothingLoss(0.0, reduction=reduction), logits, y)
        theirs = value_and_gradient(nn.CrossEntropyLoss(reduction=reduction), logits, y)
        assert_close(ours, theirs)


def test_a_batch_that_is_all_ignored_means_nothing():
    logits, y, *_ = make_case(0)
    ignored = torch.full_like(y, -100)
    assert LabelSmoothingLoss()(logits, ignored).isnan()
    assert LabelSmoothingLoss(reduction="sum")(logits, ignored) == 0
    none = LabelSmoothingLoss(reduction="none")(logits, ignored)
    none.sum().backward()
    assert none.tolist() == [0] * 7
    assert (logits.grad == 0).all()
    assert LabelSmoothingLoss()(logits[0], torch.tensor(-100)).isnan()


def test_index_to_ignore_is_read_at_each_call_and_from_old_pickles():
    logits, y, *_ = make_case(0)
    loss = LabelSmoothingLoss()
    y[3] = 1
    loss.ignore_index = 1
    assert_close(loss(logits, y), LabelSmoothingLoss()(logits[y != 1], y[y != 1]))
    del loss.ignore_index
    assert loss.ignore_index == -100
    assert torch.isfinite(loss(logits, y))


@pytest.mark.parametrize("ignore_index", [156, -100])
def test_bytes_are_compared_as_they_are_read(ignore_index):
    logits, y, *_ = make_case(0)
    y[2] = 156  # -100 in eight bits
    loss = LabelSmoothingLoss(ignore_index=ignore_index)
    if ignore_index == 156:
        kept = y != 156
        assert_close(loss(logits, y.to(torch.uint8)), loss(logits[kept], y[kept]))
    else:
        with pytest.raises(ValueError, match=r"target\[2\] is 156"):
            loss(logits, y.to(torch.uint8))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@given(seed=seeds, epsilon=epsilons)
@reproducible
def test_loss_is_the_expected_surprise_under_the_smoothed_label(smoothing, seed, epsilon):
    logits, y, _, weight, _ = make_case(seed)
    loss = make_loss(smoothing, label_smoothing=epsilon, weight=weight, reduction="none")
    q = smooth_labels(y.numpy(), epsilon, 4, loss.smoothing, loss.class_prior)
    z = logits.detach().numpy()
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert_close(loss(logits, y).detach().numpy(), -(q * log_p) @ weight.numpy())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@given(seed=seeds, epsilon=epsilons)
@reproducible
def test_kl_is_cross_entropy_minus_entropy_with_equal_gradient(smoothing, seed, epsilon):
    logits, y, proba, _, sample_weight = make_case(seed)
    parameters = {"label_smoothing": epsilon, "reduction": "none"}
    cross_entropy = make_loss(smoothing, **parameters)
    kl = make_loss(smoothing, form="kl", **parameters)
    q = smooth_labels(y.numpy(), epsilon, 4, kl.smoothing, kl.class_prior)
    entropy = torch.special.entr(torch.from_numpy(q)).sum(1)

    ce_value, ce_gradient = value_and_gradient(cross_entropy, logits, y)
    kl_value, kl_gradient = value_and_gradient(kl, logits, y)
    assert_close(kl_value, ce_value - entropy)
    assert_close(kl_gradient, ce_gradient)
    assert (kl_value >= -1e-12).all()
    assert (kl(logits, proba) >= -1e-12).all()
    assert_close(kl(logits, y, sample_weight), kl_value * sample_weight)


def test_kl_equals_that_of_torch_and_is_zero_at_the_smoothed_label():
    logits, y, *_ = make_case(0)
    q = torch.from_numpy(smooth_labels(y.numpy(), 0.2, 4, "off_target"))
    loss = LabelSmoothingLoss(0.2, "off_target", form="kl")
    expected = nn.KLDivLoss(reduction="batchmean")(logits.log_softmax(1), q)
    assert_close(loss(logits, y), expected)
    assert_close(loss(q.log(), y), torch.tensor(0.0).double())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_match_finite_differences(smoothing, form, reduction):
    logits, y, proba, weight, sample_weight = make_case(1)
    loss = make_loss(smoothing, weight=weight, reduction=reduction, form=form)
    assert torch.autograd.gradcheck(lambda z: loss(z, y, sample_weight), (logits,))
    assert torch.autograd.gradcheck(
        lambda z, t: loss(z, t, sample_weight), (logits, proba.requires_grad_())
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@given(seed=seeds, counts=st.lists(st.integers(0, 3), min_size=7, max_size=7).filter(any))
@reproducible
def test_integer_weights_are_repeated_rows_and_zero_a_missing_one(
    form, target, reduction, seed, counts
):
    logits, y, proba, weight, _ = make_case(seed)
    loss = LabelSmoothingLoss(0.2, "off_target", weight, reduction, form)
    t = y if target == "indices" else proba
    repeats = torch.tensor(counts)

    def repeated(z, t):
        return loss(z.repeat_interleave(repeats, 0), t.repeat_interleave(repeats, 0))

    got = value_and_gradient(loss, logits, t, repeats)
    expected = value_and_gradient(repeated, logits, t)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b)


@given(seed=seeds)
@reproducible
def test_reductions_agree(seed):
    logits, y, proba, weight, s = make_case(seed)
    none, total, mean = (
        LabelSmoothingLoss(0.1, weight=weight, reduction=r) for r in ("none", "sum", "mean")
    )
    assert_close(none(logits, y, s), none(logits, y) * s)
    assert_close(total(logits, y, s), none(logits, y, s).sum())
    assert_close(mean(logits, y, s), total(logits, y, s) / (s * weight[y]).sum())
    assert_close(mean(logits, proba, s), total(logits, proba, s) / s.sum())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_one_hot_probabilities_are_class_indices(smoothing):
    logits, y, *_ = make_case(3)
    loss = make_loss(smoothing, label_smoothing=0.3)
    assert_close(loss(logits, nn.functional.one_hot(y, 4).double()), loss(logits, y))


def test_the_example_of_three_classes():
    p = torch.tensor([[0.7, 0.2, 0.1]])
    loss = LabelSmoothingLoss(0.1, "off_target")
    expected = -(0.9 * math.log(0.7) + 0.05 * math.log(0.2) + 0.05 * math.log(0.1))
    assert_close(loss(p.log(), torch.tensor([0])).item(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_class_masked_with_minus_infinity_costs_nothing_without_mass(form):
    logits = torch.tensor([[1.0, 0.0, -math.inf]], requires_grad=True)
    y = torch.tensor([0])
    loss = LabelSmoothingLoss(0.0, form=form)
    value, gradient = value_and_gradient(loss, logits, y)
    expected, expected_gradient = value_and_gradient(nn.CrossEntropyLoss(), logits, y)
    assert_close(value, expected)
    assert_close(gradient, expected_gradient)
    loss.label_smoothing = 0.1
    assert loss(logits, y) == math.inf


def test_attributes_take_effect_at_the_next_call():
    logits, y, _, weight, _ = make_case(4)
    loss = LabelSmoothingLoss(0.1)
    loss(logits, y)
    new = {
        "label_smoothing": 0.3,
        "smoothing": "prior",
        "class_prior": [0.4, 0.3, 0.2, 0.1],
        "weight": weight,
        "reduction": "sum",
        "form": "kl",
    }
    for name, value in new.items():
        if name == "class_prior":
            continue  # set together with the smoothing that reads it
        if name == "smoothing":
            loss.class_prior = new["class_prior"]
        setattr(loss, name, value)
        current = {key: getattr(loss, key) for key in new}
        assert_close(loss(logits, y), LabelSmoothingLoss(**current)(logits, y), rtol=0, atol=0)


def test_one_loss_serves_any_width_and_dtype():
    loss = LabelSmoothingLoss(0.1)
    for n_classes, dtype in [(3, torch.float32), (5, torch.float32), (5, torch.float64)]:
        logits, y, *_ = make_case(0, n_classes=n_classes, dtype=dtype)
        assert_close(loss(logits, y), nn.CrossEntropyLoss(label_smoothing=0.1)(logits, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, y, proba, weight, s = make_case(5, dtype=dtype)
    loss = LabelSmoothingLoss(0.1, weight=weight)
    for t in (y, proba):
        value, gradient = value_and_gradient(loss, logits, t, s)
        exact = loss(logits.double(), t, s)
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        assert_close(value, exact.float(), rtol=1e-6, atol=1e-6)


def test_autocast_does_not_round_the_targets():
    logits, y, proba, *_ = make_case(5, dtype=torch.float32)
    loss = LabelSmoothingLoss(0.1, "off_target")
    expected = [loss(logits, t) for t in (y, proba)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = [loss(logits, t) for t in (y, proba)]
    assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integer_dtypes_of_the_target(dtype):
    logits, y, *_ = make_case(6)
    loss = LabelSmoothingLoss()
    assert_close(loss(logits, y.to(dtype)), loss(logits, y))


def test_weight_is_a_buffer_and_the_only_state():
    loss = LabelSmoothingLoss(weight=torch.ones(4))
    logits, y, *_ = make_case(0)
    loss(logits, y)
    assert list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype == torch.float64
    assert not LabelSmoothingLoss().state_dict()
    assert not list(loss.parameters())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_copies_give_the_same_loss(smoothing):
    logits, y, _, weight, _ = make_case(0)
    loss = make_loss(smoothing, weight=weight)
    expected = loss(logits, y)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert_close(other(logits, y), expected, rtol=0, atol=0)


def test_call_in_inference_mode_does_not_spoil_training():
    logits, y, proba, *_ = make_case(0)
    loss = LabelSmoothingLoss()
    with torch.inference_mode():
        loss(logits, y)
    loss(logits, y).backward()
    loss(logits, proba.requires_grad_()).backward()  # saves T for the gradient of the target
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(proba.grad).all()


def test_function_transforms():
    logits, y, *_ = make_case(0, n=8)
    z = logits.detach().view(2, 4, 4)
    loss = LabelSmoothingLoss(0.1, "off_target")
    gradients = vmap(grad(loss))(z, y.view(2, 4))
    for i in range(2):
        _, expected = value_and_gradient(loss, z[i].clone().requires_grad_(), y.view(2, 4)[i])
        assert_close(gradients[i], expected)


@pytest.mark.parametrize("smoothing", ["uniform", torch.full((4, 4), 0.25)])
def test_nothing_of_a_transform_outlives_it(smoothing):
    logits, y, *_ = make_case(0, n=8)
    logits, loss = logits.detach(), LabelSmoothingLoss(0.1, smoothing)
    jacrev(loss)(logits, y)
    expected = jacrev(jacrev(partial(F.cross_entropy, label_smoothing=0.1)))(logits, y)
    assert_close(jacrev(jacrev(loss))(logits, y), expected)


@pytest.mark.parametrize("target", ["indices", "probabilities"])
@pytest.mark.parametrize("smoothing", ["uniform", "off_target", "prior"])
def test_a_vocabulary_makes_no_matrix(smoothing, target):
    n_classes = 1_000_000  # whose square is no memory's size
    logits = torch.zeros(2, n_classes, dtype=torch.float64).requires_grad_()
    y = torch.tensor([0, n_classes - 1])
    prior = np.full(n_classes, 1 / n_classes)
    given = y if target == "indices" else F.one_hot(y, n_classes).double()
    loss = LabelSmoothingLoss(0.1, smoothing, class_prior=prior)(logits, given)
    loss.backward()
    assert_close(loss.item(), math.log(n_classes))
    assert_close(logits.grad.sum().item(), 0.0, rtol=0, atol=1e-9)
    assert_close(logits.grad[0, 0].item(), -0.45, rtol=1e-5, atol=0)


def test_classes_that_stand_last_are_told_of_the_axis():
    with pytest.raises(ValueError, match=r"logits\.movedim\(-1, 1\)"):
        LabelSmoothingLoss()(torch.zeros(2, 6, 5), torch.zeros(2, 6, dtype=torch.long))


@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_where_values_are_unknown_while_python_runs(ignore_index, reduction):
    logits, y, *_ = make_case(0, n=8)
    logits, y = logits.detach(), y.where(y != 3, ignore_index)
    loss = LabelSmoothingLoss(0.1, ignore_index=ignore_index, reduction=reduction)
    torch.compiler.reset()  # it compiles the same code for a few settings only
    with warnings.catch_warnings():  # the compiler's own
        warnings.simplefilter("ignore")
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        assert_close(compiled(logits, y), loss(logits, y))

    def gradient(z, label):
        z = z.clone().requires_grad_()
        return torch.autograd.grad(loss(z, label).sum(), z)[0]

    assert_close(grad(lambda z: loss(z, y).sum())(logits), gradient(logits, y))
    of_rows = vmap(grad(lambda z, label: loss(z[None], label[None]).sum()))(logits, y)
    for own, z, label in zip(of_rows, logits, y, strict=True):
        assert_close(own[None], gradient(z[None], label[None]))
    assert loss(logits.to("meta"), y.to("meta")).shape == loss(logits, y).shape


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", [LabelSmoothingLoss, nn.CrossEntropyLoss])
def test_weights_of_rows_repeat_them_whatever_the_reduction_of_the_criterion(kind, reduction):
    logits, y, _, weight, _ = make_case(0)
    criterion = kind(label_smoothing=0.1, weight=weight, reduction=reduction)
    n_times = torch.arange(len(y)) % 3
    repeated = criterion(logits.repeat_interleave(n_times, 0), y.repeat_interleave(n_times))
    assert_close(mean_loss(criterion, logits, y, n_times.to(logits.dtype)), repeated)


@pytest.mark.parametrize("kind", [LabelSmoothingLoss, nn.CrossEntropyLoss])
def test_ignored_rows_weigh_nothing(kind):
    logits, y, _, _, sample_weight = make_case(0)
    kept = y != 1
    assert 0 < kept.sum() < len(y)
    criterion = kind(label_smoothing=0.1, ignore_index=1)
    expected = mean_loss(criterion, logits[kept], y[kept], sample_weight[kept])
    assert_close(mean_loss(criterion, logits, y, sample_weight), expected)


def test_a_plain_loop_learns():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 10, generator=g)
    y = x[:, :3].argmax(1)
    torch.manual_seed(0)
    net = SimpleNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    loss = LabelSmoothingLoss(0.1, form="kl")
    for _ in range(60):
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).float().mean() > 0.95
    assert 0 <= loss(net(x), y) < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_loss_of_the_cpu_and_names_bad_labels():
    logits, y, proba, weight, s = make_case(0)
    loss = LabelSmoothingLoss(weight=weight)
    expected = [loss(logits, t, s) for t in (y, proba)]
    loss.cuda()
    got = [loss(logits.cuda(), t.cuda(), s.cuda()).cpu() for t in (y, proba)]
    assert_close(got, expected)
    with pytest.raises(ValueError, match=r"target\[0\] is 4"):
        loss(logits.cuda(), torch.full_like(y, 4).cuda())


def test_weights_that_are_all_zero_mean_nothing():
    logits, y, *_ = make_case(0)
    assert LabelSmoothingLoss()(logits, y, torch.zeros(7)).isnan()
    assert LabelSmoothingLoss()(logits[:0], y[:0]).isnan()
    assert LabelSmoothingLoss(reduction="sum")(logits, y, torch.zeros(7)) == 0


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"label_smoothing": -0.1}, ValueError, r"label_smoothing must be in \[0, 1\), got -0.1"),
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": float("nan")}, ValueError, "got nan"),
        ({"label_smoothing": "0.1"}, TypeError, r"label_smoothing must .* got '0.1' of type str"),
        ({"smoothing": "unifrom"}, ValueError, r"Did you mean 'uniform'\?"),
        ({"smoothing": np.eye(3)}, ValueError, r"shape \(4, 4\), got an array of shape \(3, 3\)"),
        ({"smoothing": "prior"}, ValueError, "needs class_prior"),
        ({"reduction": "maen"}, ValueError, r"reduction .* got 'maen'\. Did you mean 'mean'\?"),
        ({"reduction": None}, TypeError, "reduction must be one of 'mean', 'sum', 'none'"),
        ({"ignore_index": None}, TypeError, "ignore_index must be an integer, got None"),
        ({"ignore_index": 1.0}, TypeError, r"ignore_index must be an integer, got 1\.0"),
        ({"form": "KL"}, ValueError, r"form must be .* got 'KL'\. Did you mean 'kl'\?"),
        ({"form": "crossentropy"}, ValueError, r"Did you mean 'cross_entropy'\?"),
        ({"weight": torch.ones(3)}, ValueError, r"weight must have shape \(4,\), .* got \(3,\)"),
    ],
)
def test_bad_parameter_is_named_at_the_first_call(parameters, error, message):
    logits, y, *_ = make_case(0)
    loss = LabelSmoothingLoss(**parameters)
    with pytest.raises(error, match=message):
        loss(logits, y)


@pytest.mark.parametrize("value", [-1, 4, -99, 10**6])
@pytest.mark.parametrize("weight", [None, torch.ones(4)])
def test_label_out_of_range_is_named(value, weight):
    logits, y, *_ = make_case(0)
    y[2] = value
    message = rf"class indices from 0 to 3, .* but target\[2\] is {value}\."
    with pytest.raises(ValueError, match=message):
        LabelSmoothingLoss(weight=weight)(logits, y)


indices = torch.zeros(7, dtype=torch.long)


@pytest.mark.parametrize(
    ("logits", "target", "sample_weight", "error", "message"),
    [
        (torch.ones(7, 4), indices[:, None], None, ValueError, r"\(7, 1\): squeeze it"),
        (torch.ones(7, 4), torch.ones(7, 1), None, ValueError, r"\(7, 1\): squeeze it"),
        (torch.ones(7, 4), indices[:5], None, ValueError, r"shape \(7,\) .* got \(5,\)"),
        (torch.ones(7, 4), torch.ones(7), None, TypeError, r"torch\.float32: .* target\.long\(\)"),
        (torch.ones(7, 4), torch.ones(7, 3), None, ValueError, r"shape \(7, 4\), got \(7, 3\)"),
        (torch.ones(7, 4), torch.ones(7, 4).long(), None, TypeError, r"target\.float\(\)"),
        (torch.ones(7, 4), indices.cfloat(), None, TypeError, "got torch.complex64"),
        (torch.ones(7, 4), indices.numpy(), None, TypeError, "target must be a torch.Tensor"),
        (np.ones((7, 4)), indices, None, TypeError, "logits must be a torch.Tensor, got ndarray"),
        (torch.ones(7, 4).long(), indices, None, TypeError, "logits must have a floating dtype"),
        (torch.ones(4), indices, None, ValueError, r"logits must have shape .* got \(4,\)"),
        (torch.ones(()), indices, None, ValueError, r"logits must have shape .* got \(\)"),
        (torch.ones(7, 4, 2), indices, None, ValueError, r"shape \(7, 2\) .* got \(7,\)"),
        (torch.ones(7, 4, 2), indices[:, None], None, ValueError, r"got \(7, 1\)"),
        (torch.ones(7, 4, 2), torch.ones(7, 2), None, TypeError, r"target\.long\(\)"),
        (
            torch.ones(7, 4),
            indices,
            torch.ones(7, 1),
            ValueError,
            r"shape \(7,\), one weight a row",
        ),
        (
            torch.ones(7, 4),
            indices,
            torch.ones(6),
            ValueError,
            r"sample_weight .* got \(6,\)",
        ),
        (torch.ones(7, 4), indices, [1] * 7, TypeError, "sample_weight must be a torch.Tensor"),
    ],
)
def test_bad_argument_is_named(logits, target, sample_weight, error, message):
    with pytest.raises(error, match=message):
        LabelSmoothingLoss()(logits, target, sample_weight)


def test_label_out_of_range_is_named_in_its_place_beside_ignored_ones():
    target = torch.tensor([[0, -100], [1, 7]])
    with pytest.raises(ValueError, match=r"target\[1, 1\] is 7\."):
        LabelSmoothingLoss()(torch.ones(2, 4, 2), target)
    with pytest.raises(ValueError, match=r"but target is 7\."):
        LabelSmoothingLoss()(torch.ones(4), torch.tensor(7))


def test_loss_works_again_after_an_error():
    logits, y, *_ = make_case(0)
    loss = LabelSmoothingLoss(1.5)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        loss(logits, y)
    loss.label_smoothing = 0.1
    assert torch.isfinite(loss(logits, y))


def test_repr_shows_the_parameters():
    shown = repr(LabelSmoothingLoss(0.2, np.eye(3), form="kl"))
    assert (
        "label_smoothing=0.2, smoothing='matrix', reduction='mean', form='kl', ignore_index=-100"
        in shown
    )
