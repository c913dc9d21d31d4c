"""Metrics, scorers and calibrators on what is no array: tensors of any dtype, frames, lists."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import METRICS, needs_sklearn
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._array_api import get_namespace

from sksmooth import (
    NormTemperatureScaling,
    TemperatureScaling,
    expected_calibration_error,
    risk_coverage_curve,
)
from sksmooth.metrics import (
    calibration_bins,
    neg_area_under_risk_coverage_scorer,
    neg_classwise_calibration_error_scorer,
    neg_expected_calibration_error_scorer,
)

CURVES = [calibration_bins, risk_coverage_curve]
SCORERS = [
    neg_expected_calibration_error_scorer,
    neg_classwise_calibration_error_scorer,
    neg_area_under_risk_coverage_scorer,
]
CALIBRATORS = [TemperatureScaling, NormTemperatureScaling]

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
VECTORS = [list, tuple, np.array, torch.tensor, pd.Series, pl.Series]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))]

rng = np.random.default_rng(0)
LOGITS = rng.normal(scale=2, size=(400, 5))
Y = (0.7 * LOGITS + rng.gumbel(size=LOGITS.shape)).argmax(axis=1)
PROBA = softmax(LOGITS, axis=1)
WEIGHT = rng.integers(1, 4, size=400).astype(float)


def options(metric):
    """One bin, so that no row is rounded into another bin."""
    return {"n_bins": 1} if "calibration" in metric.__name__ else {}


def grain(dtype):
    return torch.finfo(dtype).eps


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_metric_of_tensors_of_any_dtype(metric, dtype, device):
    y_proba = torch.tensor(PROBA, dtype=dtype, device=device, requires_grad=True)
    weight = torch.tensor(WEIGHT, dtype=dtype, device=device, requires_grad=True)
    y_true, labels = torch.tensor(Y, device=device), torch.arange(5, device=device)
    got = metric(y_true, y_proba, sample_weight=weight, labels=labels, **options(metric))
    expected = metric(Y, PROBA, sample_weight=WEIGHT, **options(metric))
    assert isinstance(got, float)
    assert got == pytest.approx(expected, abs=2 * grain(dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("metric", METRICS)
def test_metric_of_arrays_of_low_precision(metric, dtype):
    got = metric(Y, PROBA.astype(dtype), **options(metric))
    assert got == pytest.approx(
        metric(Y, PROBA, **options(metric)), abs=2 * float(np.finfo(dtype).eps)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_metric_of_the_probability_of_the_second_class(metric, dtype):
    one = torch.tensor(PROBA[:, 0], dtype=dtype)
    got = metric(torch.tensor(Y == 0), one, **options(metric))
    expected = metric(Y == 0, PROBA[:, 0], **options(metric))
    assert got == pytest.approx(expected, abs=2 * grain(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [2, 10, 1000])
def test_softmax_of_any_precision_sums_to_one_and_a_wrong_one_does_not(dtype, n_classes):
    logits = torch.randn(300, n_classes, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = range(n_classes)
    y_true = np.arange(300) % n_classes
    terms = logits.sub(logits.amax(1, keepdim=True)).exp()
    for y_proba in (logits.softmax(1), terms / terms.sum(1, keepdim=True)):
        assert 0 <= expected_calibration_error(y_true, y_proba, labels=labels) <= 1
    wrong = logits.softmax(1) * (0.97 if dtype == torch.bfloat16 else 0.99)
    with pytest.raises(ValueError, match="each row of y_proba must sum to 1"):
        expected_calibration_error(y_true, wrong, labels=labels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("curve", CURVES)
def test_curves_of_tensors(curve, dtype):
    # Multiples of an eighth, which every type holds.
    confidence, correct = np.ceil(8 * PROBA.max(axis=1)) / 8, PROBA.argmax(axis=1) == Y
    tensor = torch.tensor(confidence, dtype=dtype, requires_grad=True)
    got = curve(tensor, torch.tensor(correct), sample_weight=torch.tensor(WEIGHT).to(dtype))
    for one, other in zip(got, curve(confidence, correct, sample_weight=WEIGHT), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("metric", METRICS)
def test_metric_of_labels_and_weights_in_any_container(metric, kind):
    got = metric(kind(Y.tolist()), PROBA.tolist(), sample_weight=kind(WEIGHT.tolist()))
    assert got == metric(Y, PROBA, sample_weight=WEIGHT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", CALIBRATORS)
def test_calibrator_of_tensors_of_any_dtype(kind, dtype, device):
    logits = torch.tensor(LOGITS, dtype=dtype, device=device, requires_grad=True)
    weight = torch.tensor(WEIGHT, dtype=dtype, device=device, requires_grad=True)
    fitted = kind().fit(logits, torch.tensor(Y, device=device), weight)
    exact = kind().fit(logits.detach().cpu().double().numpy(), Y, WEIGHT)
    assert vars(fitted).keys() == vars(exact).keys()
    assert fitted.temperature_ == exact.temperature_
    for predict in ("predict_proba", "predict_log_proba"):
        got = getattr(fitted, predict)(logits)
        assert got.dtype == np.float64
        expected = getattr(exact, predict)(logits.detach().cpu().double().numpy())
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", CALIBRATORS)
def test_calibrator_of_arrays_of_half_precision(kind):
    half = LOGITS.astype(np.float16)
    expected = kind().fit(half.astype(float), Y).predict_proba(half.astype(float))
    np.testing.assert_array_equal(kind().fit(half, Y).predict_proba(half), expected)


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("kind", CALIBRATORS)
def test_calibrator_of_labels_and_weights_in_any_container(kind, vector):
    expected = kind().fit(LOGITS, Y, WEIGHT)
    for table in (LOGITS.tolist(), pd.DataFrame(LOGITS), pl.DataFrame(LOGITS)):
        fitted = kind().fit(table, vector(Y.tolist()), vector(WEIGHT.tolist()))
        assert fitted.temperature_ == expected.temperature_
        np.testing.assert_array_equal(fitted.predict_proba(table), expected.predict_proba(LOGITS))


@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "boolean"])
@pytest.mark.parametrize("kind", CALIBRATORS)
def test_calibrator_of_labels_of_pandas_own_types(kind, dtype):
    logits, y = (LOGITS[:, :2], Y > 0) if dtype == "boolean" else (LOGITS, Y)
    expected = kind().fit(logits, y.astype(int)).temperature_
    assert kind().fit(logits, pd.Series(y, dtype=dtype)).temperature_ == expected
    with pytest.raises(ValueError, match="y must hold class indices"):
        kind().fit(logits, pd.Series(y, dtype=dtype).where(y > 0))


class Net(ClassifierMixin, BaseEstimator):
    """An estimator that answers in tensors."""

    def __init__(self, dtype=torch.float64, n_classes=5):
        self.dtype = dtype
        self.n_classes = n_classes

    def fit(self, X, y):
        self.classes_ = torch.arange(self.n_classes) if _on_tensors() else np.arange(self.n_classes)
        return self

    def predict_proba(self, X):
        logits = torch.as_tensor(X)[:, : self.n_classes]
        return logits.softmax(1).to(self.dtype).requires_grad_()


def _on_tensors():
    """Whether scikit-learn works on tensors as such."""
    return get_namespace(torch.ones(1))[1]


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scorer", SCORERS)
def test_scorer_of_an_estimator_that_answers_in_tensors(scorer, dtype, n_classes):
    y_proba = softmax(LOGITS[:, :n_classes], axis=1)
    y = np.minimum(Y, n_classes - 1)
    labels = range(n_classes)
    metric = scorer._score_func
    net = Net(dtype, n_classes).fit(LOGITS, Y)
    y_true = torch.tensor(y) if _on_tensors() else y
    got = scorer(net, torch.tensor(LOGITS), y_true, sample_weight=torch.tensor(WEIGHT))
    tensor = torch.tensor(y_proba).to(dtype)
    expected = -metric(y, tensor, labels=labels, sample_weight=WEIGHT)
    assert got == pytest.approx(expected, abs=2 * grain(dtype))


@needs_sklearn("1.8", "the array API without another package")
@pytest.mark.skipif(os.environ.get("SCIPY_ARRAY_API") == "1", reason="is on already")
def test_all_of_this_with_array_api_dispatch():
    """In a process of its own, since SciPy reads SCIPY_ARRAY_API when it is imported."""
    with (
        pytest.raises(RuntimeError, match="SCIPY_ARRAY_API=1"),
        config_context(array_api_dispatch=True),
    ):
        pass
    checks = "test_calibration.py::test_passes_the_checks_of_scikit_learn_that_know_no_features"
    files = [__file__, str(Path(__file__).with_name(checks))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, env={**os.environ, "SCIPY_ARRAY_API": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "SCIPY_ARRAY_API is not set" not in done.stdout


@pytest.fixture(autouse=True)
def _dispatch():
    with config_context(array_api_dispatch=os.environ.get("SCIPY_ARRAY_API") == "1"):
        yield
