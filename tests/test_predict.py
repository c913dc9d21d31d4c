"""Labels, scores and confidence; a row's are its own, whatever its company."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import SPECIES, quick
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from torch import nn
from torch.utils.data import TensorDataset

from sksmooth import (
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    SimpleNet,
    make_tabular,
)


def test_every_prediction_needs_fit(iris):
    X, y = iris
    methods = ("predict", "predict_proba", "predict_log_proba", "decision_function", "confidence")
    for method in methods:
        with pytest.raises(NotFittedError):
            getattr(quick(), method)(X)
    with pytest.raises(NotFittedError):
        quick().score(X, y)


# -- prediction ---------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", ["temperature", None])
def test_probabilities_are_probabilities_in_the_order_of_the_classes(calibration, iris):
    X, y = iris
    net = quick(calibration=calibration, max_epochs=20).fit(X, y)
    proba = net.predict_proba(X)
    assert proba.shape == (150, 3)
    assert np.isfinite(proba).all()
    assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert_array_equal(net.classes_, SPECIES)
    assert_array_equal(net.predict(X), SPECIES[proba.argmax(axis=1)])
    assert accuracy_score(y, net.predict(X)) > 0.9
    assert_allclose(np.exp(net.predict_log_proba(X)), proba, rtol=1e-9)
    assert_allclose(net.decision_function(X).shape, (150, 3))


def test_decision_function_of_two_classes_is_the_log_odds_of_the_second(iris):
    X, y = iris
    two = y != "setosa"
    net = quick(max_epochs=10).fit(X[two], y[two])
    decision = net.decision_function(X)
    assert decision.shape == (150,)
    proba = net.predict_proba(X)
    assert_allclose(decision, np.log(proba[:, 1] / proba[:, 0]), rtol=1e-6)
    assert_array_equal(net.predict(X), net.classes_[(decision > 0).astype(int)])


@pytest.mark.parametrize("calibration", ["temperature", None, LogisticRegression()])
def test_log_probabilities_are_finite_where_probabilities_underflow(calibration, iris):
    X, y = iris
    net = quick(calibration=calibration, max_epochs=10).fit(X, y)
    far_away = X * 1e5
    assert (net.predict_proba(far_away) == 0).any()
    log_proba = net.predict_log_proba(far_away)
    assert np.isfinite(log_proba).all()
    assert_array_equal(log_proba.argmax(axis=1), net.predict_proba(far_away).argmax(axis=1))
    assert np.isfinite(net.decision_function(far_away)).all()


class CertainFarAway(nn.Module):
    """Gives infinity for the first class where a row's first feature is large; NaN where small."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.net = SimpleNet(n_features, n_classes)

    def forward(self, x):
        logits = self.net(x)
        logits[x[:, 0] > 10, 0] = torch.inf
        logits[x[:, 0] < -10] = torch.nan
        return logits


@pytest.mark.parametrize("calibration", ["temperature", None])
def test_infinite_logit_is_certainty_and_nan_an_error(calibration, iris):
    X, y = iris
    net = quick(calibration=calibration, module=CertainFarAway).fit(X, y)
    far_away = X + np.array([100.0, 0, 0, 0], np.float32)
    assert_array_equal(net.predict_proba(far_away), np.tile([1.0, 0.0, 0.0], (150, 1)))
    assert np.isfinite(net.predict_log_proba(far_away)).all()
    with pytest.raises(ValueError, match="output is NaN for 150 of 150 rows"):
        net.predict_proba(X - np.array([100.0, 0, 0, 0], np.float32))


def test_rows_of_which_several_nets_make_nan_are_counted_once():
    X, y = make_tabular(100, random_state=0)
    ensemble = LabelSmoothingClassifierCV(quick(), cv=2, label_smoothings=(0.1,), random_state=0)
    far_away = np.where(np.arange(4)[:, np.newaxis] == 0, np.tile([3e38, -3e38], 5), 0)
    with pytest.raises(ValueError, match="output is NaN for 1 of 4 rows"):
        ensemble.fit(X, y).predict_proba(far_away)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_parts", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("widths", [(64, 32), (256, 100), (37, 20)])
def test_logits_of_a_row_do_not_depend_on_its_company(widths, n_parts, n_threads):
    X = np.random.default_rng(0).normal(size=(199, 10))  # parts of more than FEW_ROWS
    y = np.argmax(X[:, :3], axis=1)
    net = quick(module__hidden_layer_sizes=widths, predict_nonlinearity=None).fit(X, y)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        parts = [net.predict_proba(part) for part in np.array_split(X, n_parts)]
        assert_array_equal(np.vstack(parts), net.predict_proba(X))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_rows", "width", "n_threads"), [(1, 64, 1), (150, 64, 1), (1, 900, 1), (1500, 900, 2)]
)
def test_small_products_are_no_work_for_a_second_thread(n_rows, width, n_threads, iris):
    net = quick(module__hidden_layer_sizes=(width, width), max_epochs=1).fit(*iris)
    seen = []
    net.module_.register_forward_hook(lambda *args: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        net.predict_proba(np.tile(iris[0], (10, 1))[:n_rows])
        assert (seen, torch.get_num_threads()) == ([n_threads], 2)
    finally:
        torch.set_num_threads(before)


def test_score_is_the_weighted_accuracy(iris):
    X, y = iris
    net = quick().fit(X, y)
    weight = np.random.default_rng(0).uniform(size=150)
    assert net.score(X, y, weight) == accuracy_score(y, net.predict(X), sample_weight=weight)
    assert net.score(X, y) == accuracy_score(y, net.predict(X))


# -- confidence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", ["temperature", "norm_temperature", None])
def test_confidence_is_the_margin_between_the_two_most_probable(calibration, iris):
    X, y = iris
    net = quick(max_epochs=10, calibration=calibration).fit(X, y)
    confidence = net.confidence(X)
    assert confidence.dtype == np.float64
    proba = np.sort(net.predict_proba(X), axis=1)
    assert_array_equal(confidence, proba[:, 2] - proba[:, 1])


def test_confidence_of_two_classes_orders_as_the_largest_probability(iris):
    X, y = iris
    two = y != "setosa"
    net = quick(max_epochs=10).fit(X[two], y[two])
    assert_allclose(net.confidence(X), 2 * net.predict_proba(X).max(axis=1) - 1)


def test_confidence_takes_what_predict_takes(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    net = quick().fit(frame, y)
    confidence = net.confidence(frame)
    codes = torch.zeros(len(X), dtype=torch.int64)
    assert_allclose(net.confidence(TensorDataset(torch.from_numpy(X), codes)), confidence)
    with pytest.raises(ValueError, match="feature names"):
        net.confidence(frame[["b", "a", "c", "d"]])
    with pytest.raises(ValueError, match=r"X has 3 features, but .* expecting 4 features"):
        quick().fit(X, y).confidence(X[:, :3])


def test_few_of_wide_rows_are_predicted_at_once():
    X = np.random.default_rng(0).normal(size=(1501, 6000)).astype(np.float32)
    net = LabelSmoothingClassifier(
        max_epochs=1, train_split=None, module__hidden_layer_sizes=2, batch_size=500
    )
    net.fit(X[:20], np.arange(20) % 2)
    seen = []
    net.module_.register_forward_pre_hook(lambda _, rows: seen.append(rows[0].numel()))
    assert net.predict(X).shape == (1501,)
    assert max(seen) < X.size / 2


@pytest.mark.parametrize("calibration", ["temperature", "norm_temperature", None])
def test_logarithms_take_the_memory_of_probabilities(calibration):
    X, y = make_tabular(600, n_classes=50, random_state=0)
    net = quick(calibration=calibration, early_stopping=False, max_epochs=1).fit(X, y)
    rows = np.tile(X, (50, 1)).astype(np.float32)
    tracemalloc.start()
    size = net.predict_log_proba(rows).nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * size
