import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import draw_logits, needs_sklearn
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

from sksmooth._refine import refine
from sksmooth.calibration import (
    CALIBRATORS,
    POWER_PRECISION,
    NormTemperatureScaling,
    TemperatureScaling,
)

seeds = st.integers(0, 10_000)
class_counts = st.integers(2, 20)
scales = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
dtypes = st.sampled_from([np.float32, np.float64])


def slope(inverse_temperature, logits, y, weight=None, prior_strength=0.0):
    """The derivative of the log-loss, summed without rounding errors."""
    z = np.asarray(logits, np.float64)
    weight = np.ones(len(z)) if weight is None else weight
    smoothed = prior_strength / (sum(weight) + prior_strength)
    target = (1 - smoothed) * np.eye(z.shape[1])[y] + smoothed / z.shape[1]
    from_own = z - z[np.arange(len(z)), y][:, None]
    error = softmax(inverse_temperature * z, axis=1) - target
    return math.fsum((np.asarray(weight)[:, None] * error * from_own).ravel())


def best_temperature(logits, y, weight=None, prior_strength=0.0):
    """The temperature where the derivative changes its sign, or None if it never does."""
    scale = np.ptp(np.asarray(logits, np.float64), axis=1).mean()

    def slope_at(log_beta):
        return slope(math.exp(log_beta) / scale, logits, y, weight, prior_strength)

    low, high = math.log(1e-3), math.log(1e3)
    if slope_at(low) >= 0 or slope_at(high) <= 0:
        return None
    return scale / math.exp(brentq(slope_at, low, high, xtol=1e-14, rtol=1e-15))


# The optimum


@given(seeds, class_counts, scales, st.floats(0.2, 4), dtypes)
def test_temperature_is_the_optimum_to_1e_8(seed, n_classes, scale, sharpness, dtype):
    logits, y = draw_logits(seed, 40, n_classes, scale, sharpness, dtype)
    expected = best_temperature(logits, y)
    assume(expected is not None)
    fitted = TemperatureScaling().fit(logits, y).temperature_
    assert fitted == pytest.approx(expected, rel=1e-8)


@given(seeds, st.floats(0.2, 4))
def test_temperature_is_the_optimum_of_weighted_rows(seed, sharpness):
    logits, y = draw_logits(seed, sharpness=sharpness)
    weight = np.random.default_rng(seed).exponential(size=len(y))
    expected = best_temperature(logits, y, weight)
    assume(expected is not None)
    fitted = TemperatureScaling().fit(logits, y, sample_weight=weight).temperature_
    assert fitted == pytest.approx(expected, rel=1e-8)


@given(seeds, class_counts)
def test_gradient_vanishes_at_the_optimum(seed, n_classes):
    logits, y = draw_logits(seed, n_classes=n_classes)
    assume(best_temperature(logits, y) is not None)
    beta = 1 / TemperatureScaling().fit(logits, y).temperature_
    at_zero = abs(slope(0.0, logits, y))
    assert abs(slope(beta, logits, y)) < 1e-10 * at_zero
    assert slope(0.999 * beta, logits, y) < 0 < slope(1.001 * beta, logits, y)


def test_no_other_temperature_has_a_lower_log_loss():
    logits, y = draw_logits(0)

    def loss(log_beta):
        return log_loss(y, softmax(math.exp(log_beta) * logits, axis=1))

    searched = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-10})
    scaling = TemperatureScaling().fit(logits, y)
    assert log_loss(y, scaling.predict_proba(logits)) <= searched.fun + 1e-15
    assert scaling.temperature_ == pytest.approx(math.exp(-searched.x), rel=1e-6)


def test_one_row_that_dwarfs_the_others_leaves_the_optimum_theirs():
    logits, y = draw_logits(0)
    huge = np.array([[1e7, 0.0, 0.0]])
    alone = TemperatureScaling().fit(logits, y)
    with_huge = TemperatureScaling().fit(np.vstack([logits, huge]), [*y, 0])
    assert with_huge.temperature_ == pytest.approx(alone.temperature_, rel=1e-8)


@pytest.mark.parametrize("margin", [1e-3, 1e-6, 1e-12])
def test_a_single_error_of_small_margin_still_gives_an_optimum(margin):
    # n rows right by 1, one wrong by the margin m: n / (1 + e^β) = m / (1 + e^(-mβ)).
    logits = np.array([[1.0, 0.0]] * 9 + [[margin, 0.0]])
    beta = brentq(
        lambda b: 9 / (1 + math.exp(b)) - margin / (1 + math.exp(-margin * b)), 1, 100, xtol=1e-13
    )
    fitted = TemperatureScaling().fit(logits, [0] * 9 + [1])
    assert fitted.temperature_ == pytest.approx(1 / beta, rel=1e-8)


@given(seeds, st.integers(-20, 20))
def test_temperature_scales_with_the_logits(seed, exponent):
    logits, y = draw_logits(seed)
    assume(best_temperature(logits, y) is not None)
    one = TemperatureScaling().fit(logits, y)
    other = TemperatureScaling().fit(logits * 2.0**exponent, y)
    assert other.temperature_ == pytest.approx(one.temperature_ * 2.0**exponent, rel=1e-12)
    np.testing.assert_allclose(
        other.predict_proba(logits * 2.0**exponent), one.predict_proba(logits), rtol=1e-10
    )


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_extreme_scales_are_solved_too(scale):
    logits, y = draw_logits(3)
    one = TemperatureScaling().fit(logits, y)
    other = TemperatureScaling().fit(logits * scale, y)
    assert other.temperature_ / scale == pytest.approx(one.temperature_, rel=1e-8)


@given(seeds, st.floats(-1e3, 1e3))
def test_a_constant_added_to_a_row_changes_nothing(seed, shift):
    logits, y = draw_logits(seed)
    assume(best_temperature(logits, y) is not None)
    shifted = logits + shift * np.arange(len(y))[:, None] / len(y)
    one = TemperatureScaling().fit(logits, y)
    other = TemperatureScaling().fit(shifted, y)
    assert other.temperature_ == pytest.approx(one.temperature_, rel=1e-8)


def test_float32_logits_are_computed_in_float64():
    logits, y = draw_logits(1, dtype=np.float32)
    single = TemperatureScaling().fit(logits, y)
    double = TemperatureScaling().fit(logits.astype(np.float64), y)
    assert single.temperature_ == double.temperature_
    assert single.predict_proba(logits).dtype == np.float64


def test_tensors_lists_and_arrays_give_the_same():
    logits, y = draw_logits(2)
    expected = TemperatureScaling().fit(logits, y)
    for convert in (np.ndarray.tolist, torch.from_numpy, np.asfortranarray):
        fitted = TemperatureScaling().fit(convert(logits), convert(y))
        assert fitted.temperature_ == expected.temperature_
        np.testing.assert_array_equal(
            fitted.predict_proba(convert(logits)), expected.predict_proba(logits)
        )


def test_inputs_are_left_as_they_were():
    logits, y = draw_logits(2)
    weight = np.ones(len(y))
    for array in (logits, y, weight):
        array.flags.writeable = False
    scaling = TemperatureScaling().fit(logits, y, weight)
    assert scaling.predict_proba(logits).flags.writeable


# Where there is no optimum


@pytest.mark.parametrize("n_classes", [2, 7])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separable_logits_stop_at_a_bound_with_a_warning(n_classes, scale, dtype):
    logits, _ = draw_logits(0, n_classes=n_classes, scale=scale, dtype=dtype)
    with pytest.warns(ConvergenceWarning, match="every row is classified correctly"):
        scaling = TemperatureScaling().fit(logits, logits.argmax(axis=1))
    assert 1e-5 * scale < scaling.temperature_ < 1e-2 * scale
    assert np.isfinite(scaling.predict_log_proba(logits)).all()
    assert log_loss(logits.argmax(axis=1), scaling.predict_proba(logits)) < 1e-6


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_misleading_logits_stop_at_a_bound_with_a_warning(scale):
    logits, _ = draw_logits(0, scale=scale)
    with pytest.warns(ConvergenceWarning, match="too little of the labels"):
        scaling = TemperatureScaling().fit(logits, logits.argmin(axis=1))
    assert 1e2 * scale < scaling.temperature_ < 1e5 * scale
    np.testing.assert_allclose(scaling.predict_proba(logits), 1 / 3, atol=1e-3)


def test_logits_that_say_nothing_of_the_labels_give_equal_probabilities():
    logits = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    with pytest.warns(ConvergenceWarning, match="too little of the labels"):
        scaling = TemperatureScaling().fit(logits, [0, 1, 0, 1])
    assert math.isfinite(scaling.temperature_)
    np.testing.assert_allclose(scaling.predict_proba(logits), 0.5, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e8])
@pytest.mark.parametrize("prior_strength", [0.0, 1.0])
def test_constant_logits_leave_the_temperature_at_one(value, prior_strength):
    logits = np.full((4, 3), value)
    scaling = TemperatureScaling(prior_strength).fit(logits, [0, 1, 2, 0])
    assert scaling.temperature_ == 1.0
    np.testing.assert_allclose(scaling.predict_proba(logits), 1 / 3)


def test_the_warning_points_at_the_caller():
    with pytest.warns(ConvergenceWarning) as caught:
        TemperatureScaling().fit([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("kind", [TemperatureScaling, NormTemperatureScaling])
def test_solving_quietly_gives_the_same_without_a_warning(kind):
    logits, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    with pytest.warns(ConvergenceWarning, match="classified correctly"):
        expected = kind().solve(logits, y)
    assert vars(kind().solve(logits, y, warn=False)).keys() == vars(expected).keys()
    assert kind().solve(logits, y, warn=False).temperature_ == expected.temperature_


# The prior


@pytest.mark.parametrize("n", [1, 10, 1000])
@pytest.mark.parametrize("prior_strength", [0.5, 1, 5.0])
def test_prior_gives_separable_rows_a_certainty_that_grows_with_their_number(n, prior_strength):
    logits = np.array([[1.5, 0.0]] * n)
    scaling = TemperatureScaling(prior_strength).fit(logits, [0] * n)
    confidence = 1 - prior_strength / (n + prior_strength) / 2
    np.testing.assert_allclose(scaling.predict_proba(logits)[:, 0], confidence, rtol=1e-9)


@given(seeds, class_counts, scales, st.floats(0.01, 100), st.booleans())
def test_prior_equals_brute_force(seed, n_classes, scale, prior_strength, separable):
    logits, y = draw_logits(seed, 30, n_classes, scale)
    y = logits.argmax(axis=1) if separable else y
    expected = best_temperature(logits, y, prior_strength=prior_strength)
    assume(expected is not None)
    fitted = TemperatureScaling(prior_strength).fit(logits, y).temperature_
    assert fitted == pytest.approx(expected, rel=1e-8)


def test_prior_draws_towards_equal_probabilities():
    logits, y = draw_logits(0)
    temperatures = [TemperatureScaling(k).fit(logits, y).temperature_ for k in (0, 1, 10, 100)]
    assert temperatures == sorted(temperatures)
    assert temperatures[-1] > 2 * temperatures[0]


# scikit-learn's


@needs_sklearn("1.8", "temperature scaling")
@pytest.mark.filterwarnings("ignore:Since FrozenEstimator does not appear to accept sample_weight")
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_scikit_learn(load, weighted):
    X, y = load(return_X_y=True)
    n_train = 150  # so few that the estimator is overconfident
    estimator = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01).fit(
        X[:n_train], y[:n_train]
    )
    X, y = X[n_train:], y[n_train:]
    weight = np.random.default_rng(0).exponential(size=len(y)) if weighted else None
    theirs = CalibratedClassifierCV(FrozenEstimator(estimator), method="temperature")
    theirs.fit(X, y, sample_weight=weight)

    logits = estimator.decision_function(X)
    if logits.ndim == 1:
        logits = np.column_stack([-logits, logits])
    ours = TemperatureScaling().fit(logits, y, sample_weight=weight)
    beta = theirs.calibrated_classifiers_[0].calibrators[0].beta_
    assert ours.temperature_ == pytest.approx(1 / beta, rel=1e-4)
    assert abs(ours.temperature_ - 1) > 0.05  # it had something to do
    np.testing.assert_allclose(ours.predict_proba(logits), theirs.predict_proba(X), atol=1e-4)


# Weights


@given(seeds, st.sampled_from([0.0, 1.0]))
def test_integer_weights_equal_repeated_rows(seed, prior_strength):
    logits, y = draw_logits(seed)
    assume(best_temperature(logits, y) is not None)
    weight = np.random.default_rng(seed).integers(1, 5, size=len(y))
    weighted = TemperatureScaling(prior_strength).fit(logits, y, sample_weight=weight)
    repeated = TemperatureScaling(prior_strength).fit(logits.repeat(weight, 0), y.repeat(weight))
    assert weighted.temperature_ == pytest.approx(repeated.temperature_, rel=1e-8)


@given(seeds, st.sampled_from([0.0, 1.0]))
def test_zero_weight_equals_a_missing_row(seed, prior_strength):
    logits, y = draw_logits(seed)
    kept = np.arange(len(y)) % 3 < 2
    logits[~kept] *= 100
    assume(best_temperature(logits[kept], y[kept]) is not None)
    weighted = TemperatureScaling(prior_strength).fit(logits, y, sample_weight=kept.astype(float))
    without = TemperatureScaling(prior_strength).fit(logits[kept], y[kept])
    assert weighted.temperature_ == pytest.approx(without.temperature_, rel=1e-8)


def test_rows_of_zero_weight_do_not_hide_that_the_others_are_separable_or_constant():
    with pytest.warns(ConvergenceWarning, match="classified correctly"):
        TemperatureScaling().fit([[1.0, 0.0], [0.0, 1.0], [9.0, 0.0]], [0, 1, 1], [1, 1, 0])
    constant = TemperatureScaling().fit([[1.0, 1.0], [2.0, 2.0], [9.0, 0.0]], [0, 1, 1], [1, 1, 0])
    assert constant.temperature_ == 1.0


# Of all weights: from the smallest to the largest that anyone means, and beyond float32.
weight_scales = st.floats(-30, 30).map(lambda exponent: 10.0**exponent) | st.sampled_from(
    [1e-300, 1e-39, 1e39, 1e300]
)


def draw_weights(seed, n=60):
    """Logits of many norms, labels, and weights, some of them zero, of a mean of at most one."""
    rng = np.random.default_rng(seed)
    logits, y = draw_logits(seed, n=n)
    weight = rng.exponential(size=n) * (rng.random(n) < 0.8)
    weight[0] = 1.0
    return logits, y, weight / weight[weight > 0].mean()


@given(seeds, weight_scales)
def test_only_the_weights_ratios_count_without_a_prior(seed, factor):
    logits, y, weight = draw_weights(seed)
    assume(best_temperature(logits, y, weight) is not None)
    one, other = (TemperatureScaling().fit(logits, y, w) for w in (weight, factor * weight))
    assert other.temperature_ == pytest.approx(one.temperature_, rel=1e-8)
    for a, b in zip(refine(logits, y, weight), refine(logits, y, factor * weight), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-8)


@pytest.mark.parametrize("kind", [TemperatureScaling, NormTemperatureScaling])
@given(seeds, weight_scales.filter(lambda factor: factor <= 1))
def test_only_the_weights_ratios_count_where_their_mean_is_one_at_most(kind, seed, factor):
    logits, y, weight = draw_weights(seed)
    one, other = (kind(1.0).fit(logits, y, w) for w in (weight, factor * weight))
    np.testing.assert_allclose(other.predict_proba(logits), one.predict_proba(logits), rtol=1e-6)


@pytest.mark.parametrize("kind", [TemperatureScaling, NormTemperatureScaling])
@pytest.mark.parametrize("total", [1.0, 1e-30, 1e-300])
def test_equal_weights_of_any_small_total_are_no_weights(kind, total):
    logits, y = draw_logits(0, n=200)
    expected = kind(1.0).fit(logits, y)
    scaling = kind(1.0).fit(logits, y, np.full(200, total / 200))
    assert scaling.temperature_ == pytest.approx(expected.temperature_, rel=1e-9)


@pytest.mark.parametrize("kind", [TemperatureScaling, NormTemperatureScaling])
@pytest.mark.parametrize("separable", [False, True])
@given(seeds, st.sampled_from([1, 2, 3, 10, 1000]))
@settings(max_examples=20)
def test_a_weight_for_all_rows_repeats_them(kind, separable, seed, times):
    logits, y = draw_logits(seed, n=20)
    y = logits.argmax(axis=1) if separable else y
    weighted = kind(1.0).fit(logits, y, np.full(20, float(times)))
    repeated = kind(1.0).fit(np.tile(logits, (times, 1)), np.tile(y, times))
    proba = repeated.predict_proba(logits)
    np.testing.assert_allclose(weighted.predict_proba(logits), proba, rtol=1e-5)


@pytest.mark.parametrize("kind", [TemperatureScaling, NormTemperatureScaling])
@given(seeds, st.floats(16, 30).map(lambda exponent: 10.0**exponent))
def test_beyond_all_counting_scales_make_no_difference(kind, seed, factor):
    logits, y, weight = draw_weights(seed)
    one, other = (kind(1.0).fit(logits, y, w * weight) for w in (1e16, factor))
    np.testing.assert_allclose(other.predict_proba(logits), one.predict_proba(logits), rtol=1e-6)


@pytest.mark.parametrize("factor", [1e16, 1e30, 1e39, 1e300])
def test_huge_weights_leave_nothing_of_the_prior_of_the_temperature(factor):
    logits, y, weight = draw_weights(3)
    expected = TemperatureScaling().fit(logits, y, weight).temperature_
    got = TemperatureScaling(1.0).fit(logits, y, factor * weight).temperature_
    assert got == pytest.approx(expected, rel=1e-12)


# Prediction


@given(seeds, class_counts, scales, dtypes)
def test_the_predicted_class_never_changes(seed, n_classes, scale, dtype):
    logits, _ = draw_logits(seed, 30, n_classes, scale, dtype=dtype)
    scaling = TemperatureScaling(prior_strength=1.0).fit(logits, logits.argmax(axis=1))
    np.testing.assert_array_equal(scaling.predict_proba(logits).argmax(1), logits.argmax(1))
    np.testing.assert_array_equal(scaling.predict_log_proba(logits).argmax(1), logits.argmax(1))


def test_probabilities_are_the_softmax_of_the_scaled_logits():
    logits, y = draw_logits(4)
    scaling = TemperatureScaling().fit(logits, y)
    expected = np.exp(logits / scaling.temperature_)
    expected /= expected.sum(axis=1, keepdims=True)
    proba = scaling.predict_proba(logits)
    np.testing.assert_allclose(proba, expected, rtol=1e-12)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(scaling.predict_log_proba(logits), np.log(expected), atol=1e-12)
    assert scaling.classes_.tolist() == [0, 1, 2]


def test_log_probabilities_are_finite_where_probabilities_underflow():
    scaling = TemperatureScaling().fit(*draw_logits(4))
    far = np.array([[0.0, 1e4, 1e6]])
    assert scaling.predict_proba(far)[0, 0] == 0.0
    np.testing.assert_allclose(
        scaling.predict_log_proba(far)[0], [-1e6, -0.99e6, 0] / np.array(scaling.temperature_)
    )


# Errors


@pytest.mark.parametrize(
    ("logits", "y", "weight", "message"),
    [
        ([[1.0, np.nan], [0.0, 1.0]], [0, 1], None, "logits contains NaN"),
        ([[1.0, np.inf], [0.0, 1.0]], [0, 1], None, "logits contains infinity"),
        ([1.0, 2.0], [0, 1], None, "Expected 2D array"),
        ([[1.0], [2.0]], [0, 0], None, "minimum of 2 is required"),
        ([1.0, 2.0], [0, 1], None, r"of one number a row, d, .* np.column_stack\(\[np.zeros_like"),
        ([[1.0], [2.0]], [0, 1], None, "as decision_function gives of two classes, np.column_sta"),
        ([[1.0, 0.0]] * 2, [0, 2], None, r"from 0 to 1, but y\[1\] is 2"),
        ([[1.0, 0.0]] * 2, [-1, 0], None, r"but y\[0\] is -1"),
        ([[1.0, 0.0]] * 2, [0.0, 1.0], None, "class indices, integers from 0, got dtype float64"),
        ([[1.0, 0.0]] * 2, ["a", "b"], None, "class indices, integers from 0, got dtype <U1"),
        ([[1.0, 0.0]] * 2, [0, 1, 1], None, "inconsistent numbers of samples"),
        (
            [[1.0, 0.0]] * 2,
            [[0, 1], [1, 0]],
            None,
            r"y must have shape \(n_samples,\), got \(2, 2\)",
        ),
        ([[1.0, 0.0]] * 2, [0, 1], [1.0, -1.0], "Negative values in data passed to"),
        ([[1.0, 0.0]] * 2, [0, 1], [1.0, np.nan], "sample_weight contains NaN"),
        ([[1.0, 0.0]] * 2, [0, 1], [1.0], "sample_weight.shape == "),
        ([[1.0, 0.0]] * 2, [0, 1], [0.0, 0.0], "zero for every row|one non-zero number"),
    ],
)
def test_bad_input_is_named(logits, y, weight, message):
    with pytest.raises(ValueError, match=message):
        TemperatureScaling().fit(logits, y, weight)


def test_a_column_of_zeros_makes_logits_of_a_decision_function():
    rng = np.random.default_rng(0)
    d = rng.normal(size=200) * 3
    y = rng.random(200) < expit(d / 2)
    scaling = TemperatureScaling().fit(np.column_stack([np.zeros_like(d), d]), y)
    proba = scaling.predict_proba(np.column_stack([np.zeros_like(d), d]))[:, 1]
    np.testing.assert_allclose(proba, expit(d / scaling.temperature_))


@pytest.mark.parametrize("kind", [TemperatureScaling, NormTemperatureScaling])
def test_probabilities_instead_of_logits_are_warned_of(kind):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 3))
    y = [rng.choice(3, p=own) for own in softmax(logits, axis=1)]
    with pytest.warns(UserWarning, match="look like probabilities; give their logarithms"):
        kind().fit(softmax(logits.astype(np.float16), axis=1), y)
    of_logarithms = kind().fit(np.log(softmax(logits, axis=1)), y)
    assert of_logarithms.temperature_ == pytest.approx(kind().fit(logits, y).temperature_)


@pytest.mark.parametrize("value", [-1, -0.5, np.nan, np.inf, "1", None])
def test_bad_prior_strength_is_named_at_fit(value):
    scaling = TemperatureScaling(prior_strength=value)
    with pytest.raises(ValueError, match=f"'prior_strength' parameter .* Got {value!r}"):
        scaling.fit(*draw_logits(0))
    assert scaling.set_params(prior_strength=1.0).fit(*draw_logits(0)).temperature_ > 0


@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba"])
def test_prediction_before_fit_is_an_error(method):
    with pytest.raises(NotFittedError, match="TemperatureScaling"):
        getattr(TemperatureScaling(), method)([[1.0, 0.0]])


def test_logits_of_another_width_are_an_error():
    scaling = TemperatureScaling().fit(*draw_logits(0))
    with pytest.raises(ValueError, match="must have 3 columns, as many as at fit, got 2"):
        scaling.predict_proba([[1.0, 0.0]])


# scikit-learn's protocol


_LABELS = "its labels are not the indices of its columns"
_WIDTH = (
    "classes_, not n_features_in_, tells the width of logits, and the message speaks of columns"
)
# Those of scikit-learn's checks that take logits for features of any kind, and why they fail.
NO_FEATURES = {
    "check_estimators_overwrite_params": _LABELS,
    "check_estimators_fit_returns_self": _LABELS,
    "check_readonly_memmap_input": _LABELS,
    "check_sample_weights_pandas_series": _LABELS,
    "check_sample_weights_not_an_array": _LABELS,
    "check_sample_weights_shape": _LABELS,
    "check_sample_weights_not_overwritten": _LABELS,
    "check_dtype_object": _LABELS,
    "check_estimators_nan_inf": "its labels are floats",
    "check_n_features_in": _WIDTH,
    "check_n_features_in_after_fitting": _WIDTH,
}


@pytest.mark.filterwarnings("ignore:No temperature minimizes the log-loss:UserWarning")
@parametrize_with_checks(
    [TemperatureScaling(), NormTemperatureScaling(prior_strength=1.0)],
    expected_failed_checks=lambda estimator: NO_FEATURES,
)
def test_passes_the_checks_of_scikit_learn_that_know_no_features(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", [TemperatureScaling, NormTemperatureScaling])
def test_what_the_checks_ask_of_features_holds_for_logits(kind):
    """The expected failures above, asked anew of labels that fit the logits."""
    logits, y = draw_logits(0)
    for array in (logits, y):
        array.flags.writeable = False  # as a memory map is
    weight = np.random.default_rng(0).integers(1, 3, size=len(y)).astype(float)
    scaling = kind(1.0)
    assert scaling.fit(logits, y, weight) is scaling
    assert scaling.get_params() == {"prior_strength": 1.0}
    for other in (weight.tolist(), pd.Series(weight)):
        assert kind(1.0).fit(logits, y, other).temperature_ == scaling.temperature_
    assert kind(1.0).fit(logits.astype(object), y).temperature_ > 0
    with pytest.raises(ValueError, match=r"sample_weight\.ndim|[Ss]ample weights must be 1D"):
        kind().fit(logits, y, weight[:, None])
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="logits contains"):
            kind().fit(np.where(logits == logits[0, 0], value, logits), y)
    with pytest.raises(ValueError, match="must have 3 columns, as many as at fit, got 2"):
        scaling.predict_proba(logits[:, :2])


def test_clone_keeps_parameters_and_forgets_the_fit():
    scaling = TemperatureScaling(prior_strength=2.0).fit(*draw_logits(0))
    fresh = clone(scaling)
    assert fresh.get_params() == {"prior_strength": 2.0}
    assert not hasattr(fresh, "temperature_")


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_copies_and_pickles_predict_the_same(copied):
    logits, y = draw_logits(0)
    scaling = TemperatureScaling().fit(logits, y)
    np.testing.assert_array_equal(
        copied(scaling).predict_proba(logits), scaling.predict_proba(logits)
    )


def test_fitting_again_forgets_the_first_fit():
    scaling = TemperatureScaling().fit(*draw_logits(0))
    first = scaling.temperature_
    assert scaling.fit(*draw_logits(1, n_classes=5)) is scaling
    assert scaling.temperature_ != first
    assert scaling.classes_.tolist() == [0, 1, 2, 3, 4]


# -- temperature by norm -------------------------------------------------------------------------


def draw_by_norm(seed, power, n=400, n_classes=3):
    """Give logits, and labels drawn from what they say once their norms have that power."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_classes)) * rng.lognormal(1, 0.7, size=(n, 1))
    proba = softmax(by_norm(logits, 1.0, power), axis=1)
    return logits, (proba.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)


def by_norm(logits, inverse_temperature, power, typical=None):
    z = logits - logits.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    ratio = np.clip(norm / (typical or norm.mean()), 1 / 20, 20)
    return inverse_temperature * z * ratio**power


def penalized_loss(x, logits, y, prior_strength, weight=None):
    """Give what is minimized, written out: the total log-loss and the prior of the power."""
    n_classes = logits.shape[1]
    weight = np.ones(len(y)) if weight is None else weight
    typical = np.average(np.linalg.norm(logits - logits.mean(1)[:, None], axis=1), weights=weight)
    share = prior_strength / (weight.sum() + prior_strength)
    target = (1 - share) * np.eye(n_classes)[y] + share / n_classes
    log_proba = log_softmax(by_norm(logits, np.exp(x[0]), x[1], typical), axis=1)
    return -(weight @ (target * log_proba).sum(axis=1)) + POWER_PRECISION * x[1] ** 2 / 2


@given(seeds, st.sampled_from([-0.8, 0.0, 0.6]), st.sampled_from([0.0, 1.0]), st.booleans())
def test_temperature_and_power_are_the_optimum(seed, power, prior_strength, weighted):
    logits, y = draw_by_norm(seed, power, n=60)
    weight = np.random.default_rng(seed).uniform(0.1, 3, size=60) if weighted else None
    scaling = NormTemperatureScaling(prior_strength).fit(logits, y, weight)
    found = np.array([-np.log(scaling.temperature_), scaling.power_])
    args = (logits, y, prior_strength, weight)
    best = minimize(penalized_loss, found + 0.1, args, method="BFGS", options={"gtol": 1e-7})
    assert penalized_loss(found, *args) <= best.fun + 1e-9
    np.testing.assert_allclose(found, best.x, atol=1e-4)


@pytest.mark.parametrize("power", [-1.0, -0.5, 0.0, 0.5])
def test_power_of_the_logits_is_found(power):
    logits, y = draw_by_norm(0, power, n=20_000)
    scaling = NormTemperatureScaling().fit(logits, y)
    assert scaling.power_ == pytest.approx(power, abs=0.1)
    assert scaling.temperature_ == pytest.approx(1.0, abs=0.05)


def test_power_improves_on_the_temperature_for_new_rows():
    logits, y = draw_by_norm(0, -0.8)
    new_logits, new_y = draw_by_norm(1, -0.8)
    losses = [
        log_loss(new_y, kind().fit(logits, y).predict_proba(new_logits))
        for kind in (NormTemperatureScaling, TemperatureScaling)
    ]
    assert losses[0] < losses[1] - 0.01


def test_norms_that_are_all_equal_leave_the_temperature_alone():
    logits, y = draw_by_norm(0, 0.0)
    logits /= np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=1, keepdims=True)
    one, other = NormTemperatureScaling().fit(logits, y), TemperatureScaling().fit(logits, y)
    assert one.power_ == pytest.approx(0, abs=1e-6)
    assert one.temperature_ == pytest.approx(other.temperature_)


@given(seeds, st.integers(-20, 20), st.floats(-100, 100))
def test_scale_of_all_logits_and_shifts_of_a_row_change_no_probability(seed, exponent, shift):
    logits, y = draw_by_norm(seed, -0.5, n=60)
    proba = NormTemperatureScaling(1.0).fit(logits, y).predict_proba(logits)
    scaled = 2.0**exponent * logits
    again = NormTemperatureScaling(1.0).fit(scaled, y).predict_proba(scaled)
    np.testing.assert_allclose(again, proba, rtol=1e-7)
    shifted = logits + shift * np.random.default_rng(seed).normal(size=(60, 1))
    np.testing.assert_allclose(
        NormTemperatureScaling(1.0).fit(shifted, y).predict_proba(shifted), proba, rtol=1e-7
    )


@given(seeds, class_counts)
def test_power_never_changes_the_predicted_class(seed, n_classes):
    logits, y = draw_by_norm(seed, -0.5, n=60, n_classes=n_classes)
    assume(len(np.unique(y)) > 1)
    proba = NormTemperatureScaling(1.0).fit(logits, y).predict_proba(logits)
    assert (proba.argmax(axis=1) == logits.argmax(axis=1)).all()


@given(seeds)
def test_integer_weights_equal_repeated_rows_for_the_power_too(seed):
    logits, y = draw_by_norm(seed, -0.5, n=40)
    weight = np.random.default_rng(seed).integers(0, 4, size=40)
    weighted = NormTemperatureScaling(1.0).fit(logits, y, weight)
    repeated = NormTemperatureScaling(1.0).fit(logits.repeat(weight, axis=0), y.repeat(weight))
    assert weighted.power_ == pytest.approx(repeated.power_, abs=1e-7)
    assert weighted.temperature_ == pytest.approx(repeated.temperature_, rel=1e-7)


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e30, 1e250])
@pytest.mark.parametrize("prior_strength", [0.0, 1.0])
def test_power_is_found_at_any_scale(scale, prior_strength):
    logits, y = draw_by_norm(0, -0.5)
    scaling = NormTemperatureScaling(prior_strength).fit(scale * logits, y)
    reference = NormTemperatureScaling(prior_strength).fit(logits, y)
    assert scaling.power_ == pytest.approx(reference.power_, abs=1e-6)
    assert scaling.temperature_ == pytest.approx(scale * reference.temperature_, rel=1e-6)


def test_a_row_of_a_norm_never_seen_is_scaled_as_the_furthest_that_counts():
    logits, y = draw_by_norm(0, -0.9)
    scaling = NormTemperatureScaling().fit(logits, y)
    direction = np.array([[1.0, 0.0, -1.0]]) * scaling.norm_
    near, far = (
        scaling.predict_log_proba(factor * direction)[0, [0, 2]] @ [1, -1] for factor in (100, 200)
    )
    assert far == pytest.approx(2 * near)


@pytest.mark.parametrize("power", [-1.0, -0.5, 0.5])
def test_probabilities_are_those_of_the_formula_in_the_docstring(power):
    logits, y = draw_by_norm(0, power)
    weight = np.random.default_rng(0).uniform(size=len(y))
    scaling = NormTemperatureScaling(1.0).fit(logits, y, weight)
    rows = [scale * row for row in logits[:5] for scale in (1e-9, 1 / 50, 1 / 3, 1, 3, 50, 1e9)]
    for row in [*rows, np.full(3, 2.0)]:
        z = [float(value) - math.fsum(row) / 3 for value in row]
        r = min(max(math.hypot(*z) / scaling.norm_, 1 / 20), 20)
        terms = [value * r**scaling.power_ / scaling.temperature_ for value in z]
        expected = [math.exp(term - max(terms)) for term in terms]
        proba = scaling.predict_proba([row])[0]
        np.testing.assert_allclose(
            proba, np.divide(expected, sum(expected)), rtol=1e-9, atol=1e-300
        )
    norms = np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=1)
    assert scaling.norm_ == pytest.approx(weight @ norms / weight.sum())
    assert "1/20" in NormTemperatureScaling.__doc__


@pytest.mark.parametrize("prior_strength", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["separable", "constant", "misleading"])
@pytest.mark.filterwarnings("ignore:No temperature minimizes:UserWarning")
def test_without_an_optimum_there_is_no_power_but_a_probability(kind, prior_strength):
    y = np.arange(30) % 3
    size = np.random.default_rng(0).uniform(1, 9, size=(30, 1))
    logits = {
        "separable": size * np.eye(3)[y],
        "constant": np.full((30, 3), 2.0),
        "misleading": -size * np.eye(3)[y],
    }[kind]
    scaling = NormTemperatureScaling(prior_strength).fit(logits, y)
    proba = scaling.predict_proba(logits)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    if prior_strength == 0 or kind != "separable":
        assert scaling.power_ == 0


def test_probabilities_in_place_are_those_of_the_checked_way():
    logits, y = draw_by_norm(0, -0.5)
    for kind in (TemperatureScaling, NormTemperatureScaling):
        scaling = kind().fit(logits, y)
        expected = scaling.predict_proba(logits)
        own = logits.copy()
        assert scaling.apply_in_place(own) is own
        np.testing.assert_allclose(own, expected, rtol=1e-12)
        logs = scaling.apply_in_place(logits.copy(), log=True)
        np.testing.assert_allclose(logs, np.log(expected), rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(logs, scaling.predict_log_proba(logits))


@pytest.mark.parametrize("kind", CALIBRATORS.values())
def test_labels_and_logits_of_other_shapes_are_told_how_to_be_given(kind):
    logits, y = draw_logits(0)
    with pytest.raises(ValueError, match=r"y\.argmax\(axis=1\)"):
        kind().fit(logits, np.eye(3)[y])
    image = np.zeros((2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"np\.moveaxis\(logits, 1, -1\)"):
        kind().fit(image, np.zeros((2, 4, 4), int))
    column = kind().fit(logits, y[:, None]).predict_proba(logits)
    np.testing.assert_array_equal(column, kind().fit(logits, y).predict_proba(logits))
