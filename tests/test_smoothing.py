import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sksmooth.smoothing import (
    check_label_smoothing,
    check_smoothing,
    smooth_labels,
    smoothing_matrix,
)

reproducible = settings(max_examples=30, deadline=None, derandomize=True)
epsilons = st.floats(0, 1, exclude_max=True)
class_counts = st.integers(2, 8)


@st.composite
def settings_of_smoothing(draw):
    """A number of classes, and a `smoothing` with its `class_prior`, of any kind."""
    n_classes = draw(class_counts)
    kind = draw(st.sampled_from(["uniform", "off_target", "prior", "matrix"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if kind == "matrix":
        return n_classes, rng.dirichlet(np.ones(n_classes), size=n_classes), None
    return n_classes, kind, rng.dirichlet(np.ones(n_classes))


@given(settings_of_smoothing(), epsilons)
@reproducible
def test_rows_are_distributions(case, epsilon):
    n_classes, smoothing, prior = case
    T = smoothing_matrix(epsilon, n_classes, smoothing, prior)
    assert T.shape == (n_classes, n_classes)
    assert T.dtype == np.float64
    assert (T >= 0).all()
    assert_allclose(T.sum(axis=1), 1, rtol=1e-12)


@given(settings_of_smoothing(), epsilons)
@reproducible
def test_matrix_mixes_identity_and_destination(case, epsilon):
    n_classes, smoothing, prior = case
    everything = smoothing_matrix(0.5, n_classes, smoothing, prior) * 2 - np.eye(n_classes)
    T = smoothing_matrix(epsilon, n_classes, smoothing, prior)
    assert_allclose(T, (1 - epsilon) * np.eye(n_classes) + epsilon * everything, atol=1e-12)


@given(settings_of_smoothing())
@reproducible
def test_no_smoothing_is_the_identity(case):
    n_classes, smoothing, prior = case
    assert_array_equal(smoothing_matrix(0, n_classes, smoothing, prior), np.eye(n_classes))


@given(class_counts, epsilons)
@reproducible
def test_uniform_is_off_target_with_a_smaller_epsilon(n_classes, epsilon):
    uniform = smoothing_matrix(epsilon, n_classes, "uniform")
    off_target = smoothing_matrix(epsilon * (n_classes - 1) / n_classes, n_classes, "off_target")
    assert_allclose(uniform, off_target, atol=1e-14)


@pytest.mark.parametrize(
    ("n_classes", "on", "off"),
    [pytest.param(3, 0.9, 0.05, id="3 classes"), pytest.param(5, 0.9, 0.025, id="5 classes")],
)
def test_off_target_shares_epsilon_among_the_others(n_classes, on, off):
    row = smooth_labels([1], 0.1, n_classes, "off_target")[0]
    assert_allclose(row, [off, on, *[off] * (n_classes - 2)], rtol=1e-15)


def test_prior_sends_the_mass_to_the_frequencies():
    T = smoothing_matrix(0.4, 2, "prior", class_prior=[0.25, 0.75])
    assert_allclose(T, [[0.7, 0.3], [0.1, 0.9]])


def test_own_matrix_is_the_destination():
    ordinal = np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    T = smoothing_matrix(0.2, 3, ordinal)
    assert_allclose(T, [[0.8, 0.2, 0], [0.1, 0.8, 0.1], [0, 0.2, 0.8]])


def test_one_class_keeps_its_mass_or_has_no_other():
    assert_allclose(smoothing_matrix(0.3, 1), [[1.0]])
    with pytest.raises(ValueError, match=r"'off_target' needs another class .* n_classes=1"):
        smoothing_matrix(0.3, 1, "off_target")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_matrix_is_a_tensor_like_the_one_given(dtype):
    eye = torch.eye(3, dtype=dtype)
    for T in (
        smoothing_matrix(0.3, 3, eye),
        smoothing_matrix(0.3, 3, "prior", class_prior=eye[0]),
    ):
        assert isinstance(T, torch.Tensor)
        assert T.dtype == dtype
        assert T.device == eye.device


def test_integer_tensor_gives_a_floating_matrix():
    swap = torch.tensor([[0, 1], [1, 0]])
    torch.testing.assert_close(
        smoothing_matrix(0.25, 2, swap), torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    )


@given(settings_of_smoothing(), epsilons, st.data())
@reproducible
def test_smooth_labels_are_rows_of_the_matrix(case, epsilon, data):
    n_classes, smoothing, prior = case
    y = np.array(data.draw(st.lists(st.integers(0, n_classes - 1), max_size=9)), dtype=int)
    T = smoothing_matrix(epsilon, n_classes, smoothing, prior)
    q = smooth_labels(y, epsilon, n_classes, smoothing, prior)
    assert q.shape == (len(y), n_classes)
    assert_array_equal(q, T[y])
    of_tensor = smooth_labels(torch.tensor(y), epsilon, n_classes, smoothing, prior)
    assert of_tensor.dtype == torch.get_default_dtype()
    assert_allclose(of_tensor, T[y], atol=1e-7)


def test_number_of_classes_is_inferred():
    assert smooth_labels([0, 3], 0.1).shape == (2, 4)
    assert smooth_labels([0, 0], 0.1, smoothing=np.eye(5)).shape == (2, 5)
    assert smooth_labels([0], 0.1, smoothing="prior", class_prior=[0.5, 0.3, 0.2]).shape == (1, 3)


def test_prior_defaults_to_the_frequencies_in_y():
    y = np.array([0, 0, 0, 1])
    assert_allclose(smooth_labels(y, 0.4, smoothing="prior")[3], [0.3, 0.7])
    assert_allclose(smooth_labels(torch.tensor(y), 0.4, smoothing="prior")[3], [0.3, 0.7])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "int64", "uint64"])
def test_any_integer_dtype_is_a_label(dtype):
    assert_allclose(smooth_labels(np.array([0, 1], dtype), 0.2), [[0.9, 0.1], [0.1, 0.9]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_stay_on_their_device():
    y = torch.tensor([0, 1], device="cuda")
    assert smooth_labels(y, 0.1).device == y.device
    assert smoothing_matrix(0.1, 2, torch.eye(2, device="cuda")).device == y.device


@pytest.mark.parametrize("value", [0, 0.0, 0.999, np.float32(0.25), np.int64(0)])
def test_valid_label_smoothing_becomes_a_float(value):
    checked = check_label_smoothing(value)
    assert type(checked) is float
    assert checked == value


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, 2, float("nan"), float("inf"), np.float64(-1)])
def test_label_smoothing_out_of_range(value):
    with pytest.raises(ValueError, match=rf"label_smoothing must be in \[0, 1\), got {value}"):
        check_label_smoothing(value)


@pytest.mark.parametrize("value", ["0.1", None, True, np.True_, [0.1], np.array([0.1]), 0.1j])
def test_label_smoothing_of_wrong_type(value):
    with pytest.raises(TypeError, match=r"label_smoothing must be a real number in \[0, 1\), got"):
        smoothing_matrix(value, 3)


@pytest.mark.parametrize(
    ("smoothing", "error", "message"),
    [
        ("unifrom", ValueError, r"'uniform', 'off_target', 'prior'; .* Did you mean 'uniform'\?"),
        ("off-target", ValueError, r"got 'off-target'\. Did you mean 'off_target'\?"),
        ("Prior", ValueError, r"Did you mean 'prior'\?"),
        ("xyz", ValueError, r"got 'xyz'\.$"),
        (None, TypeError, r"'prior' or an array of shape \(2, 2\), got None"),
        (0.5, ValueError, r"'prior' or an array of shape \(2, 2\), got an array of shape \(\)"),
        ([[1, 0], [1]], ValueError, r"an array of shape \(2, 2\), got \[\[1, 0\], \[1\]\]"),
        ([["a", "b"]] * 2, TypeError, r"an array of shape \(2, 2\), got \[\['a'"),
        (np.eye(3), ValueError, r"an array of shape \(2, 2\), got an array of shape \(3, 3\)"),
        ([[1, 0], [1.5, -0.5]], ValueError, r"non-negative, but smoothing\[1, 1\] is -0\.5"),
        ([[1, 0], [np.nan, 0]], ValueError, r"finite .* but smoothing\[1, 0\] is nan"),
        ([[1, 0], [0.5, 0.6]], ValueError, r"sum to 1, but row 1 sums to 1\.1"),
        (torch.ones(2, 2), ValueError, r"sum to 1, but row 0 sums to 2"),
    ],
)
def test_bad_smoothing_is_named(smoothing, error, message):
    with pytest.raises(error, match=message):
        check_smoothing(smoothing, 2)
    with pytest.raises(error, match=message):
        smoothing_matrix(0.1, 2, smoothing)


def test_rows_may_miss_one_by_rounding_only():
    assert_array_equal(check_smoothing([[1, 5e-7], [0, 1]], 2), [[1, 5e-7], [0, 1]])
    with pytest.raises(ValueError, match=r"row 0 sums to 1\.000002"):
        check_smoothing([[1, 2e-6], [0, 1]], 2)


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        (None, ValueError, r"needs class_prior, the class frequencies: an array of shape \(2,\)"),
        ([1.0], ValueError, r"class_prior must be an array of shape \(2,\).* got .* shape \(1,\)"),
        ([1.5, -0.5], ValueError, r"class_prior\[1\] is -0\.5"),
        ([0.5, 0.4], ValueError, r"class_prior must sum to 1, but it sums to 0\.9"),
        ("balanced", TypeError, r"class_prior must be an array .* got 'balanced'"),
    ],
)
def test_bad_class_prior_is_named(prior, error, message):
    with pytest.raises(error, match=message):
        smoothing_matrix(0.1, 2, "prior", prior)


@pytest.mark.parametrize("as_container", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([[0], [1]], ValueError, r"shape \(n_samples,\), got \(2, 1\): squeeze it, .* y\.ravel"),
        ([[0, 1]], ValueError, r"shape \(n_samples,\), got \(1, 2\)"),
        (1, ValueError, r"shape \(n_samples,\), got \(\)"),
        ([0.0, 1.0], TypeError, r"integers from 0, got dtype float\d+ and y\[0\]="),
        ([0, -1], ValueError, r"from 0 to 2, but y\[1\] is -1"),
        ([0, 1, 3], ValueError, r"from 0 to 2, but y\[2\] is 3"),
    ],
)
def test_bad_labels_are_named(as_container, y, error, message):
    with pytest.raises(error, match=message):
        smooth_labels(as_container(y), 0.1, n_classes=3)


def test_labels_that_are_not_numbers_are_named():
    with pytest.raises(TypeError, match=r"class indices, integers from 0, got dtype <U3"):
        smooth_labels(["cat", "dog"], 0.1)
    with pytest.raises(TypeError, match="class indices"):
        smooth_labels(torch.tensor([0.0], dtype=torch.bfloat16), 0.1)


def test_negative_label_is_named_when_classes_are_inferred():
    with pytest.raises(ValueError, match=r"y\[0\] is -1"):
        smooth_labels([-1, -1], 0.1)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_number_of_classes_is_named(value, error):
    with pytest.raises(error, match=f"n_classes must be a positive integer, got {value}"):
        smoothing_matrix(0.1, value)


def test_empty_labels_need_what_cannot_be_inferred():
    assert smooth_labels([], 0.1, n_classes=3).shape == (0, 3)
    with pytest.raises(ValueError, match="y is empty, so n_classes must be given"):
        smooth_labels([], 0.1)
    with pytest.raises(ValueError, match="y is empty, so class_prior must be given"):
        smooth_labels([], 0.1, n_classes=3, smoothing="prior")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_proportions_of_half_precision_sum_to_one_within_it(dtype):
    given = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=dtype)
    expected = smoothing_matrix(0.1, 4, "prior", class_prior=[0.1, 0.2, 0.3, 0.4])
    found = smoothing_matrix(0.1, 4, "prior", class_prior=given)
    assert_allclose(found.double(), expected, atol=0.01)
    thirds = torch.full((3, 3), 1 / 3, dtype=dtype)
    assert_allclose(smoothing_matrix(0.1, 3, thirds).double(), smoothing_matrix(0.1, 3), atol=0.01)
    with pytest.raises(ValueError, match="must sum to 1"):
        smoothing_matrix(0.1, 3, thirds * 0.97)


def test_labels_of_a_vocabulary_make_no_matrix():
    n_classes = 1_000_000
    rows = smooth_labels([5], 0.1, n_classes, "off_target")
    assert rows[0, 5] == 0.9
    assert_allclose(np.delete(rows[0], 5), 0.1 / (n_classes - 1))
