"""Calibration metrics: against torchmetrics and brute force, their laws, their scorers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import METRICS, draw_logits, needs_sklearn
from hypothesis import given
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torchmetrics.functional.classification import multiclass_calibration_error

from sksmooth.metrics import (
    area_under_risk_coverage,
    calibration_bins,
    classwise_calibration_error,
    expected_calibration_error,
    make_probability_scorer,
    neg_area_under_risk_coverage_scorer,
    neg_classwise_calibration_error_scorer,
    neg_expected_calibration_error_scorer,
    overconfidence,
    risk_coverage_curve,
)

BINNED_METRICS = METRICS[:2]
SCORERS = {
    "ece": neg_expected_calibration_error_scorer,
    "classwise": neg_classwise_calibration_error_scorer,
    "aurc": neg_area_under_risk_coverage_scorer,
}
TORCHMETRICS_NORM = {1: "l1", 2: "l2", "max": "max"}

every_metric = pytest.mark.parametrize("metric", METRICS)
every_binned_metric = pytest.mark.parametrize("metric", BINNED_METRICS)
every_strategy = pytest.mark.parametrize("strategy", ["uniform", "quantile"])
every_norm = pytest.mark.parametrize("norm", [1, 2, "max"])


def random_predictions(n_samples=500, n_classes=4, seed=0, grain=None):
    """Draw labels and probabilities; ``grain`` rounds these to multiples of 1/grain, for ties."""
    rng = np.random.default_rng(seed)
    if grain is None:
        y_proba = rng.dirichlet(np.full(n_classes, 0.5), n_samples)
    else:
        y_proba = rng.multinomial(grain, np.full(n_classes, 1 / n_classes), n_samples) / grain
    return rng.integers(n_classes, size=n_samples), y_proba


@st.composite
def predictions(draw):
    """Small or tied predictions with every class a label: (y_true, y_proba, labels)."""
    n_classes = draw(st.integers(2, 5))
    y_true, y_proba = random_predictions(
        n_samples=draw(st.integers(1, 60)),
        n_classes=n_classes,
        seed=draw(st.integers(0, 2**32 - 1)),
        grain=draw(st.sampled_from([None, 1, 4, 10])),
    )
    return y_true, y_proba, np.arange(n_classes)


def brute_force_aurc(correct, confidence, weight):
    """Average, over the rows, the error rate among the rows at least as confident."""
    risks = []
    for threshold in confidence:
        covered = confidence >= threshold
        risks.append(np.sum((weight * ~correct)[covered]) / np.sum(weight[covered]))
    return np.sum(weight * risks) / np.sum(weight)


class TestCalibrationBins:
    def test_bins_are_closed_on_the_left_and_hold_both_ends_of_the_interval(self):
        bins = calibration_bins([0.0, 0.25, 0.5, 0.75, 1.0], [0, 0, 1, 1, 1], n_bins=2)
        np.testing.assert_array_equal(bins.edges, [0, 0.5, 1])
        np.testing.assert_array_equal(bins.weight, [2, 3])
        np.testing.assert_array_equal(bins.confidence, [0.125, 0.75])
        np.testing.assert_array_equal(bins.accuracy, [0, 1])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_a_confidence_on_an_edge_opens_its_bin_in_every_precision(self, dtype):
        confidence = (np.arange(10) / 10).astype(dtype)
        bins = calibration_bins(confidence, np.ones(10), n_bins=10)
        np.testing.assert_array_equal(bins.weight, np.ones(10))

    def test_an_empty_bin_has_no_weight_and_nan_elsewhere(self):
        bins = calibration_bins([0.1, 0.9], [True, False], n_bins=3)
        np.testing.assert_array_equal(bins.weight, [1, 0, 1])
        np.testing.assert_array_equal(bins.confidence, [0.1, np.nan, 0.9])
        np.testing.assert_array_equal(bins.accuracy, [1, np.nan, 0])

    @pytest.mark.parametrize(("n_samples", "n_bins"), [(150, 15), (157, 15), (3, 2), (4, 2)])
    def test_quantile_bins_of_distinct_confidences_differ_by_one_row_at_most(
        self, n_samples, n_bins
    ):
        confidence = np.random.default_rng(0).random(n_samples)
        bins = calibration_bins(confidence, np.ones(n_samples), n_bins=n_bins, strategy="quantile")
        assert bins.weight.sum() == n_samples
        assert np.ptp(bins.weight) <= (n_samples % n_bins > 0)

    def test_quantile_bins_split_weight_not_rows(self):
        confidence = [0.1, 0.2, 0.3, 0.9]
        bins = calibration_bins(
            confidence, np.ones(4), n_bins=2, strategy="quantile", sample_weight=[1, 1, 1, 3]
        )
        np.testing.assert_array_equal(bins.weight, [3, 3])

    @pytest.mark.parametrize("scale", [1e-300, 1e-30, 0.1, 3.0, 1e39, 1e300])
    def test_weight_is_given_back_at_its_own_scale(self, scale):
        bins = calibration_bins([0.1, 0.9], [0, 1], n_bins=2, sample_weight=[scale, 3 * scale])
        np.testing.assert_array_equal(bins.weight, [scale, 3 * scale])
        np.testing.assert_allclose(bins.confidence, [0.1, 0.9], rtol=1e-15)

    def test_ties_share_a_quantile_bin(self):
        bins = calibration_bins([0.6] * 7 + [1.0] * 3, [1] * 10, n_bins=5, strategy="quantile")
        np.testing.assert_array_equal(np.sort(bins.weight), [0, 0, 0, 3, 7])

    @every_strategy
    @given(data=predictions(), n_bins=st.integers(1, 20))
    def test_edges_describe_the_bins(self, strategy, data, n_bins):
        confidence = data[1].max(axis=1)
        bins = calibration_bins(
            confidence, np.ones(len(confidence)), n_bins=n_bins, strategy=strategy
        )
        assert bins.edges.shape == (n_bins + 1,)
        assert bins.edges[0] == 0
        assert bins.edges[-1] == 1
        assert (np.diff(bins.edges) >= 0).all()
        assert bins.weight.sum() == len(confidence)
        filled = bins.weight > 0
        rounding = 1e-12
        assert (bins.confidence >= bins.edges[:-1] - rounding)[filled].all()
        assert (bins.confidence <= bins.edges[1:] + rounding)[filled].all()

    @pytest.mark.parametrize(
        ("confidence", "correct", "options", "message"),
        [
            ([0.5, 1.5], [0, 1], {}, r"confidence must hold probabilities in \[0, 1\], got 1.5"),
            ([0.5, np.nan], [0, 1], {}, "confidence contains NaN"),
            ([[0.5]], [0], {}, r"confidence must have shape \(n_samples,\), got \(1, 1\)"),
            ([0.5], [0, 1], {}, r"correct must have shape \(1,\), got \(2,\)"),
            ([0.5, 0.5], [0, 2], {}, "correct must hold booleans"),
            ([0.5], [1], {"n_bins": 0}, "n_bins must be a positive integer, got 0"),
            ([0.5], [1], {"strategy": "quantiles"}, "'quantiles'. Did you mean 'quantile'?"),
        ],
    )
    def test_a_bad_argument_is_named(self, confidence, correct, options, message):
        with pytest.raises(ValueError, match=message):
            calibration_bins(confidence, correct, **options)

    @every_strategy
    @pytest.mark.parametrize("scale", [None, 1, 3.7, 1e-200, 1e200])
    def test_effective_size_is_the_number_of_rows_where_they_weigh_alike(self, strategy, scale):
        confidence = np.random.default_rng(0).uniform(size=100)
        weight = None if scale is None else np.full(100, scale)
        options = {"n_bins": 7, "strategy": strategy}
        bins = calibration_bins(confidence, np.ones(100), sample_weight=weight, **options)
        count = calibration_bins(confidence, np.ones(100), **options).weight
        np.testing.assert_allclose(bins.effective_size, count, rtol=1e-12)

    def test_effective_size_of_unequal_weights_by_hand(self):
        weight = [1, 2, 0, 0, 5]
        bins = calibration_bins(
            [0.1, 0.2, 0.3, 0.6, 0.9], np.ones(5), n_bins=3, sample_weight=weight
        )
        np.testing.assert_allclose(bins.effective_size, [9 / 5, 0, 1], rtol=1e-15)

    @pytest.mark.parametrize("n_bins", [2.5, True, "2"])
    def test_what_is_no_number_of_bins_is_a_type_error(self, n_bins):
        with pytest.raises(TypeError, match=f"n_bins must be a positive integer, got {n_bins!r}"):
            calibration_bins([0.5], [1], n_bins=n_bins)


class TestCalibrationErrors:
    @every_norm
    @pytest.mark.parametrize("n_bins", [1, 10, 15])
    @pytest.mark.parametrize("n_classes", [2, 3, 10])
    def test_agrees_with_torchmetrics(self, norm, n_bins, n_classes):
        y_true, y_proba = random_predictions(2000, n_classes)
        expected = multiclass_calibration_error(
            torch.from_numpy(y_proba),
            torch.from_numpy(y_true),
            num_classes=n_classes,
            n_bins=n_bins,
            norm=TORCHMETRICS_NORM[norm],
        )
        ours = expected_calibration_error(y_true, y_proba, n_bins=n_bins, norm=norm)
        assert ours == pytest.approx(expected.item(), abs=1e-6)

    def test_quantile_error_of_distinct_confidences_is_that_of_equally_many_sorted_rows(self):
        y_true, y_proba = random_predictions(600, 3)
        order = np.argsort(y_proba.max(axis=1))
        gap = y_proba.max(axis=1) - (y_proba.argmax(axis=1) == y_true)
        expected = np.abs(gap[order].reshape(15, 40).mean(axis=1)).mean()
        ours = expected_calibration_error(y_true, y_proba, strategy="quantile")
        assert ours == pytest.approx(expected, abs=1e-12)

    @every_strategy
    @every_norm
    def test_classwise_error_is_the_mean_of_one_versus_rest_errors(self, strategy, norm):
        y_true, y_proba = random_predictions(300, 3)
        errors = []
        for k in range(3):
            bins = calibration_bins(y_proba[:, k], y_true == k, n_bins=7, strategy=strategy)
            gap = np.abs(bins.confidence - bins.accuracy)
            share = bins.weight / bins.weight.sum()
            by_norm = {
                1: np.nansum(share * gap),
                2: np.sqrt(np.nansum(share * gap**2)),
                "max": np.nanmax(gap),
            }
            errors.append(by_norm[norm])
        ours = classwise_calibration_error(y_true, y_proba, n_bins=7, strategy=strategy, norm=norm)
        assert ours == pytest.approx(np.mean(errors), abs=1e-12)

    @every_binned_metric
    @every_strategy
    @every_norm
    @given(n_right=st.integers(1, 9), n_repeats=st.integers(1, 5))
    def test_zero_where_confidence_equals_accuracy(
        self, metric, strategy, norm, n_right, n_repeats
    ):
        n_right = max(n_right, 10 - n_right)
        share = n_right / 10
        y_true = np.tile([0] * n_right + [1] * (10 - n_right), n_repeats)
        y_proba = np.tile([share, 1 - share], (len(y_true), 1))
        error = metric(y_true, y_proba, labels=[0, 1], strategy=strategy, norm=norm)
        assert error == pytest.approx(0, abs=1e-12)

    @every_binned_metric
    @every_strategy
    @given(data=predictions(), n_bins=st.integers(1, 20))
    def test_norms_are_ordered_and_within_the_unit_interval(self, metric, strategy, data, n_bins):
        y_true, y_proba, labels = data
        l1, l2, largest = (
            metric(y_true, y_proba, labels=labels, n_bins=n_bins, strategy=strategy, norm=norm)
            for norm in (1, 2, "max")
        )
        rounding = 1e-12
        assert 0 <= l1 <= l2 + rounding
        assert l2 <= largest + rounding
        assert largest <= 1 + rounding

    def test_one_bin_leaves_the_size_of_the_overconfidence(self):
        y_true, y_proba = random_predictions(100, 3)
        error = expected_calibration_error(y_true, y_proba, n_bins=1)
        assert error == pytest.approx(abs(overconfidence(y_true, y_proba)), abs=1e-12)

    def test_always_sure_and_always_wrong_is_the_largest_error(self):
        y_proba = np.eye(2)[[0, 1]]
        for metric in METRICS:
            assert metric([1, 0], y_proba) == 1

    @every_binned_metric
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"norm": "l1"}, r"norm must be one of 1, 2, 'max'; got 'l1'"),
            ({"norm": "maximum"}, "Did you mean 'max'"),
            ({"norm": [1]}, r"norm must be one of .* got \[1\]"),
            ({"strategy": "unifrom"}, "strategy must .* Did you mean 'uniform'"),
            ({"n_bins": -3}, "n_bins must be a positive integer, got -3"),
        ],
    )
    def test_a_bad_option_is_named(self, metric, options, message):
        with pytest.raises(ValueError, match=message):
            metric([0, 1], [0.2, 0.7], **options)


class TestOverconfidence:
    def test_is_mean_confidence_minus_accuracy(self):
        y_true = ["a", "b", "b", "a"]
        y_proba = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]
        assert overconfidence(y_true, y_proba) == pytest.approx(0.75 - 0.75)
        assert overconfidence(y_true, y_proba, sample_weight=[0, 1, 0, 0]) == pytest.approx(0.8)

    def test_many_half_precision_rows_do_not_overflow(self):
        y_proba = np.tile(np.float16([0.25, 0.75]), (200_000, 1))
        y_true = np.tile([0, 1], 100_000)
        assert overconfidence(y_true, y_proba) == 0.25


class TestAreaUnderRiskCoverage:
    @given(data=predictions(), seed=st.integers(0, 2**32 - 1), weighted=st.booleans())
    def test_agrees_with_its_definition(self, data, seed, weighted):
        y_true, y_proba, labels = data
        weight = np.ones(len(y_true))
        if weighted:
            weight = np.random.default_rng(seed).uniform(0.1, 3, len(y_true))
        correct = y_proba.argmax(axis=1) == y_true
        expected = brute_force_aurc(correct, y_proba.max(axis=1), weight)
        ours = area_under_risk_coverage(y_true, y_proba, labels=labels, sample_weight=weight)
        assert ours == pytest.approx(expected, abs=1e-12)

    def test_without_ties_it_is_the_mean_selective_risk_over_the_number_of_rows_taken(self):
        y_true, y_proba = random_predictions(300, 3)
        wrong = (y_proba.argmax(axis=1) != y_true)[np.argsort(-y_proba.max(axis=1))]
        expected = np.mean(np.cumsum(wrong) / np.arange(1, 301))
        assert area_under_risk_coverage(y_true, y_proba) == pytest.approx(expected, abs=1e-12)

    @given(data=predictions())
    def test_a_constant_confidence_gives_the_error_rate(self, data):
        y_true, y_proba, labels = data
        area = area_under_risk_coverage(
            y_true, y_proba, labels=labels, confidence=np.zeros(len(y_true))
        )
        assert area == pytest.approx(np.mean(y_proba.argmax(axis=1) != y_true), abs=1e-12)

    def test_perfect_ranking_beats_a_random_one_and_that_beats_the_worst(self):
        y_true, y_proba = random_predictions(400, 3)
        correct = (y_proba.argmax(axis=1) == y_true).astype(float)
        noise = np.random.default_rng(1).random(400)
        perfect, random, worst = (
            area_under_risk_coverage(y_true, y_proba, confidence=confidence)
            for confidence in (correct + noise / 2, noise, -correct + noise / 2)
        )
        assert perfect < random < worst

    @given(data=predictions())
    def test_only_the_order_of_the_confidence_counts(self, data):
        y_true, y_proba, labels = data
        _, rank = np.unique(y_proba.max(axis=1), return_inverse=True)
        area = area_under_risk_coverage(y_true, y_proba, labels=labels)
        ranked = area_under_risk_coverage(y_true, y_proba, labels=labels, confidence=rank - 7)
        assert ranked == pytest.approx(area, abs=1e-12)

    @pytest.mark.parametrize(
        ("confidence", "message"),
        [
            ([0.1, 0.2, 0.3], r"confidence must have shape \(2,\), got \(3,\)"),
            ([0.1, np.inf], "confidence contains infinity"),
        ],
    )
    def test_a_bad_confidence_is_named(self, confidence, message):
        with pytest.raises(ValueError, match=message):
            area_under_risk_coverage([0, 1], [0.2, 0.7], confidence=confidence)


class TestRiskCoverageCurve:
    def test_small_case_by_hand(self):
        # The surest is wrong; two rows of equal confidence join together; the last is right.
        curve = risk_coverage_curve([0.5, 0.9, 0.5, 0.1], [True, False, False, True])
        np.testing.assert_allclose(curve.coverage, [1 / 4, 3 / 4, 1])
        np.testing.assert_allclose(curve.risk, [1, 2 / 3, 1 / 2])
        assert curve.area == pytest.approx(1 / 4 + 2 / 3 / 2 + 1 / 2 / 4)

    @given(data=predictions(), seed=st.integers(0, 2**32 - 1))
    def test_its_area_is_the_metric(self, data, seed):
        y_true, y_proba, labels = data
        weight = np.random.default_rng(seed).random(len(y_true))
        curve = risk_coverage_curve(
            y_proba.max(axis=1), y_proba.argmax(axis=1) == y_true, sample_weight=weight
        )
        area = area_under_risk_coverage(y_true, y_proba, labels=labels, sample_weight=weight)
        assert curve.area == area

    @given(data=predictions(), seed=st.integers(0, 2**32 - 1))
    def test_integer_weights_equal_repeated_rows(self, data, seed):
        y_true, y_proba, _ = data
        weight = np.random.default_rng(seed).integers(0, 4, len(y_true))
        weight[0] = 1
        confidence, correct = y_proba.max(axis=1), y_proba.argmax(axis=1) == y_true
        weighted = risk_coverage_curve(confidence, correct, sample_weight=weight)
        repeated = risk_coverage_curve(confidence.repeat(weight), correct.repeat(weight))
        np.testing.assert_allclose(weighted.coverage, repeated.coverage, rtol=1e-12)
        np.testing.assert_allclose(weighted.risk, repeated.risk, rtol=1e-12)

    @given(data=predictions())
    def test_coverage_grows_to_one_where_the_risk_is_the_error_rate(self, data):
        y_true, y_proba, _ = data
        correct = y_proba.argmax(axis=1) == y_true
        curve = risk_coverage_curve(y_proba.max(axis=1), correct)
        assert (np.diff(curve.coverage, prepend=0) > 0).all()
        assert curve.coverage[-1] == 1
        assert curve.risk[-1] == pytest.approx(1 - correct.mean())
        assert (curve.risk >= 0).all()
        assert (curve.risk <= 1).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([0.1, np.nan], [0, 1]), "confidence contains NaN"),
            (([0.1, 0.2], [0, 1, 1]), r"correct must have shape \(2,\), got \(3,\)"),
            (([0.1, 0.2], [0, 2]), "correct must hold booleans"),
            (([0.1, 0.2], [0, 1], [1, -1]), "sample_weight must not be negative"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, message):
        confidence, correct, *weight = arguments
        with pytest.raises(ValueError, match=message):
            risk_coverage_curve(confidence, correct, sample_weight=weight[0] if weight else None)


@every_metric
class TestLaws:
    @given(data=predictions(), seed=st.integers(0, 2**32 - 1))
    def test_the_order_of_rows_does_not_matter(self, metric, data, seed):
        y_true, y_proba, labels = data
        shuffled = np.random.default_rng(seed).permutation(len(y_true))
        assert metric(y_true[shuffled], y_proba[shuffled], labels=labels) == pytest.approx(
            metric(y_true, y_proba, labels=labels), abs=1e-12
        )

    @given(data=predictions(), seed=st.integers(0, 2**32 - 1), quantile=st.booleans())
    def test_integer_weights_equal_repeated_rows(self, metric, data, seed, quantile):
        y_true, y_proba, labels = data
        weight = np.random.default_rng(seed).integers(0, 4, len(y_true))
        weight[0] = 1
        options = {"strategy": "quantile"} if quantile and metric in BINNED_METRICS else {}
        weighted = metric(y_true, y_proba, labels=labels, sample_weight=weight, **options)
        repeated = metric(
            y_true.repeat(weight), y_proba.repeat(weight, axis=0), labels=labels, **options
        )
        assert weighted == pytest.approx(repeated, abs=1e-12)

    @given(
        data=predictions(),
        seed=st.integers(0, 2**32 - 1),
        exponent=st.floats(-30, 30) | st.sampled_from([-300, -39, 39, 300]),
        whole=st.booleans(),
        quantile=st.booleans(),
    )
    def test_the_scale_of_the_weights_does_not_matter(
        self, metric, data, seed, exponent, whole, quantile
    ):
        y_true, y_proba, labels = data
        rng = np.random.default_rng(seed)
        n = len(y_true)
        # Whole ones put the middle of a group on the border of two bins of equal weight.
        weight = rng.integers(0, 4, n).astype(float) if whole else rng.exponential(size=n)
        weight[0] = 1
        options = {"strategy": "quantile"} if quantile and metric in BINNED_METRICS else {}
        expected = metric(y_true, y_proba, labels=labels, sample_weight=weight, **options)
        scaled = 10.0**exponent * weight
        got = metric(y_true, y_proba, labels=labels, sample_weight=scaled, **options)
        assert got == pytest.approx(expected, abs=1e-12)


@every_metric
class TestInputs:
    @pytest.mark.parametrize(
        "names",
        [
            np.array(["ant", "bee", "cat", "dog"]),
            np.array(["ant", "bee", "cat", "dog"], dtype=object),
            np.array([-3, 0, 5, 70]),
            np.array([0.0, 1.0, 2.0, 3.0]),
        ],
    )
    def test_labels_of_any_kind(self, metric, names):
        y_true, y_proba = random_predictions()
        assert metric(names[y_true], y_proba) == metric(y_true, y_proba)
        assert metric(names[y_true], y_proba, labels=names) == metric(y_true, y_proba)

    def test_boolean_labels_and_the_probability_of_the_greater_one(self, metric):
        y_true, y_proba = random_predictions(n_classes=2)
        expected = metric(y_true, y_proba)
        assert metric(y_true == 1, y_proba) == expected
        assert metric(y_true == 1, y_proba[:, 1]) == pytest.approx(expected, abs=1e-12)
        assert metric(np.array(["no", "yes"])[y_true], y_proba[:, 1]) == pytest.approx(
            expected, abs=1e-12
        )

    def test_columns_are_in_the_order_of_labels(self, metric):
        y_true, y_proba = random_predictions(n_classes=3)
        names = np.array(["a", "b", "c"])
        order = [2, 0, 1]
        assert metric(names[y_true], y_proba[:, order], labels=names[order]) == pytest.approx(
            metric(names[y_true], y_proba), abs=1e-12
        )

    def test_pandas_input(self, metric):
        y_true, y_proba = random_predictions(n_classes=3)
        names = pd.Series(np.array(["a", "b", "c"])[y_true], index=np.arange(500) * 7)
        frame = pd.DataFrame(y_proba, columns=["a", "b", "c"], index=names.index)
        weight = pd.Series(np.arange(1, 501), index=names.index)
        expected = metric(y_true, y_proba, sample_weight=weight.to_numpy())
        assert metric(names, frame, sample_weight=weight) == expected
        assert metric(names.astype("category"), frame, sample_weight=weight) == expected

    def test_polars_and_torch_input(self, metric):
        y_true, y_proba = random_predictions(n_classes=3)
        names = np.array(["a", "b", "c"])[y_true]
        expected = metric(y_true, y_proba)
        assert metric(pl.Series(names), pl.DataFrame(y_proba, schema=["a", "b", "c"])) == expected
        assert metric(torch.from_numpy(y_true), torch.from_numpy(y_proba)) == expected

    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float16, 1e-2)])
    def test_low_precision_softmax_passes(self, metric, dtype, tolerance):
        rng = np.random.default_rng(0)
        logits = torch.from_numpy(3 * rng.normal(size=(2000, 100)))
        y_true = rng.integers(100, size=2000)
        exact = logits.softmax(dim=1).numpy()
        # One bin, so that no row is rounded into another bin.
        options = {"n_bins": 1} if metric in BINNED_METRICS else {}
        low = metric(y_true, exact.astype(dtype), labels=range(100), **options)
        assert low == pytest.approx(
            metric(y_true, exact, labels=range(100), **options), abs=tolerance
        )

    def test_a_class_may_be_missing_if_labels_name_it(self, metric):
        y_true, y_proba = random_predictions(n_classes=3)
        rows = y_true != 1
        assert 0 <= abs(metric(y_true[rows], y_proba[rows], labels=[0, 1, 2])) <= 1
        with pytest.raises(ValueError, match="Name the label of each column by labels="):
            metric(y_true[rows], y_proba[rows])

    @pytest.mark.parametrize(
        ("y_true", "y_proba", "options", "message"),
        [
            ([0, 1], [[0.5, 0.6], [0.5, 0.5]], {}, "each row of y_proba must sum to 1, but row 0"),
            ([0, 1], [[1.5, -0.5], [1, 0]], {}, r"y_proba must hold .* got -0.5; logits"),
            ([0, 1], [[np.nan, 1], [1, 0]], {}, "y_proba contains NaN"),
            ([0, 1], [[[1.0]], [[1.0]]], {}, r"y_proba must have shape \(n_samples, n_classes\)"),
            ([0, 1], [0.1, 0.2, 0.3], {}, r"y_true must have shape \(3,\), got \(2,\)"),
            ([[0, 1]], [0.1], {}, r"y_true must have shape \(1,\), got \(1, 2\)"),
            ([0, np.nan], [0.1, 0.2], {}, "y_true must not have missing values"),
            (["a", None], [0.1, 0.2], {}, "y_true must not have missing values"),
            ([0, 0], [[1.0], [1.0]], {}, "one column for each of two or more labels: it has 1"),
            ([0, 1], [[0.2, 0.3, 0.5]] * 2, {}, "it has 3, and the labels in y_true are"),
            ([0, 1], [0.1, 0.2], {"labels": [0, 1, 2]}, "it has 2, and the labels given are"),
            ([0, 7], [0.1, 0.2], {"labels": [0, 1]}, r"labels=\[0, 1\] lacks: \[7\]"),
            ([0, 1], [0.1, 0.2], {"labels": [1, 1]}, "labels must not repeat"),
            ([0, 1], [0.1, 0.2], {"labels": {0, 1}}, r"labels=\{0, 1\} has no order; give a list"),
            ([0, 1], [0.1, 1 + 1e-5], {}, r"probabilities in \[0, 1\], got 1.00001"),
            ([0, 1], [0.1, 0.2], {"sample_weight": [1, -1]}, "sample_weight must not be negative"),
            ([0, 1], [0.1, 0.2], {"sample_weight": [0, 0]}, "sample_weight must not be zero"),
            ([0, 1], [0.1, 0.2], {"sample_weight": [1, np.inf]}, "sample_weight contains infinity"),
            ([0, 1], [0.1, 0.2], {"sample_weight": [1]}, r"sample_weight must have shape \(2,\)"),
        ],
    )
    def test_bad_input_is_named(self, metric, y_true, y_proba, options, message):
        with pytest.raises(ValueError, match=message):
            metric(y_true, y_proba, **options)


def iris_without_a_class_in_the_last_fold():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    virginica = np.arange(100, 150)
    others = np.arange(100)
    train, test = np.r_[virginica, others[::2]], others[1::2]
    return X, names, [(train, test)]


@pytest.mark.parametrize("metric", [expected_calibration_error, classwise_calibration_error])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_sums_miss_the_unit_interval_by_is_none_of_the_probabilities(metric, dtype):
    above = dtype(1) + 2 * np.finfo(dtype).eps
    proba = np.array([[above, 1 - above], [0.25, 0.75]], dtype)
    exact = np.array([[1.0, 0.0], [0.25, 0.75]])
    assert metric([0, 1], proba) == pytest.approx(metric([0, 1], exact), abs=1e-12)
    vector = metric([0, 1], proba[:, 1])
    assert vector == pytest.approx(metric([0, 1], exact[:, 1]), abs=1e-12)


class TestScorers:
    @pytest.mark.parametrize(
        ("scorer", "metric"),
        [
            (neg_expected_calibration_error_scorer, expected_calibration_error),
            (neg_classwise_calibration_error_scorer, classwise_calibration_error),
            (neg_area_under_risk_coverage_scorer, area_under_risk_coverage),
        ],
    )
    @pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
    def test_is_the_negative_of_the_metric(self, scorer, metric, load):
        X, y = load(return_X_y=True)
        y = np.array(["c", "a", "b"])[y]
        model = GaussianNB().fit(X, y)
        proba = model.predict_proba(X)
        # Of two columns scikit-learn hands on the second alone; 1 minus it is rounded anew.
        proba = proba[:, 1] if proba.shape[1] == 2 else proba
        assert scorer(model, X, y) == -metric(y, proba)

    def test_cross_validate_where_a_test_fold_lacks_a_class(self):
        X, y, folds = iris_without_a_class_in_the_last_fold()
        model = make_pipeline(StandardScaler(), GaussianNB())
        scores = cross_validate(model, X, y, cv=folds, scoring=SCORERS, error_score="raise")
        ((train, test),) = folds
        model.fit(X[train], y[train])
        proba = model.predict_proba(X[test])
        expected = -expected_calibration_error(y[test], proba, labels=model.classes_)
        assert scores["test_ece"][0] == expected
        assert all(-1 <= scores[f"test_{name}"][0] <= 0 for name in SCORERS)

    def test_grid_search_of_a_pipeline_picks_the_best_calibrated(self):
        X, y = load_breast_cancer(return_X_y=True)
        y = np.array(["malignant", "benign"])[y]
        pipe = make_pipeline(StandardScaler(), LogisticRegression())
        grid = {"logisticregression__C": [1e-4, 1.0]}
        search = GridSearchCV(pipe, grid, scoring=SCORERS["ece"], error_score="raise").fit(X, y)
        assert search.best_params_ == {"logisticregression__C": 1.0}
        assert search.score(X, y) == SCORERS["ece"](search, X, y)

    def test_works_in_other_processes(self):
        X, y = load_iris(return_X_y=True)
        scorer = SCORERS["ece"]
        assert pickle.loads(pickle.dumps(scorer))(GaussianNB().fit(X, y), X, y) == scorer(
            GaussianNB().fit(X, y), X, y
        )

    def test_sample_weight_is_routed_where_it_is_requested(self):
        X, y = load_iris(return_X_y=True)
        weight = np.random.default_rng(0).integers(1, 5, len(y)).astype(float)
        folds = [(np.arange(0, 150, 2), np.arange(1, 150, 2))]
        ((train, test),) = folds
        model = GaussianNB().fit(X[train], y[train])
        with config_context(enable_metadata_routing=True):
            scoring = {
                "weighted": copy.deepcopy(SCORERS["ece"]).set_score_request(sample_weight=True),
                "plain": copy.deepcopy(SCORERS["ece"]).set_score_request(sample_weight=False),
            }
            scores = cross_validate(
                GaussianNB().set_fit_request(sample_weight=False),
                X,
                y,
                cv=folds,
                scoring=scoring,
                params={"sample_weight": weight},
                error_score="raise",
            )
        proba = model.predict_proba(X[test])
        weighted = expected_calibration_error(y[test], proba, sample_weight=weight[test])
        plain = expected_calibration_error(y[test], proba)
        assert scores["test_weighted"][0] == -weighted
        assert scores["test_plain"][0] == -plain
        assert weighted != plain

    def test_made_scorer_takes_options_and_metrics_of_scikit_learn(self):
        X, y, ((train, test),) = iris_without_a_class_in_the_last_fold()
        model = GaussianNB().fit(X[train], y[train])
        proba = model.predict_proba(X[test])
        maximum = make_probability_scorer(expected_calibration_error, n_bins=5, norm="max")
        assert maximum(model, X[test], y[test]) == -expected_calibration_error(
            y[test], proba, labels=model.classes_, n_bins=5, norm="max"
        )
        likelihood = make_probability_scorer(log_loss)
        assert likelihood(model, X[test], y[test]) == -log_loss(
            y[test], proba, labels=model.classes_
        )

    def test_greater_is_better_keeps_the_sign(self):
        X, y = load_iris(return_X_y=True)
        model = GaussianNB().fit(X, y)
        scorer = make_probability_scorer(overconfidence, greater_is_better=True)
        assert scorer(model, X, y) == overconfidence(y, model.predict_proba(X))

    def test_an_estimator_without_probabilities_is_refused_by_name(self):
        X, y = load_iris(return_X_y=True)
        with pytest.raises(AttributeError, match=r"LinearSVC.*predict_proba"):
            SCORERS["ece"](LinearSVC(dual=False).fit(X, y), X, y)

    def test_a_label_unknown_to_the_estimator_is_named(self):
        X, y = load_iris(return_X_y=True)
        model = GaussianNB().fit(X[:100], y[:100])
        with pytest.raises(ValueError, match=r"lacks: \[2\]"):
            SCORERS["ece"](model, X, y)


@needs_sklearn("1.7", "the Brier score of several classes")
def test_scikit_learns_brier_score_serves_several_classes_and_weights():
    y_true, y_proba = random_predictions(100, 3)
    weight = np.arange(1, 101)
    squares = ((np.eye(3)[y_true] - y_proba) ** 2).sum(axis=1)
    for scale_by_half, scale in {True: 0.5, False: 1.0}.items():
        score = brier_score_loss(
            y_true,
            y_proba,
            labels=[0, 1, 2],
            sample_weight=weight,
            scale_by_half=scale_by_half,
        )
        assert score == pytest.approx(scale * np.average(squares, weights=weight))


@pytest.mark.parametrize("value", [3.7, "nonsense", {"a": 1}, [None] * 4, np.ones((4, 2)) * 1j])
@pytest.mark.parametrize("name", ["y_proba", "sample_weight"])
def test_what_is_no_numbers_is_refused_by_its_name(name, value):
    given = {"y_true": [0, 1, 0, 1], "y_proba": [0.1, 0.9, 0.2, 0.7], name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        expected_calibration_error(**given)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_with_a_one_for_their_class_are_told_of_argmax(metric):
    logits, y = draw_logits(0)
    with pytest.raises(ValueError, match=r"y_true\.argmax\(axis=1\)"):
        metric(np.eye(3)[y], np.full(logits.shape, 1 / 3))
