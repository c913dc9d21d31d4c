"""Calibrators around others: what each is handed, and what comes of it."""

import numpy as np
import pytest
from scipy.special import softmax

from sksmooth import TemperatureScaling
from sksmooth._adapters import DistributionCalibrator, WithoutClassWeight


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", ["svs", "temp-scaling", "isotonic"])
def test_calibrators_of_probmetrics_do_for_logits_what_they_do_for_probabilities(method, n_classes):
    get_calibrator = pytest.importorskip("probmetrics.calibrators").get_calibrator
    rng = np.random.default_rng(0)
    logits, y = rng.normal(0, 2, (300, n_classes)), rng.integers(0, n_classes, 300)
    logits[np.arange(300), y] += 1.5
    found = DistributionCalibrator(get_calibrator(method)).fit(logits, y).predict_proba(logits)
    proba = softmax(logits, axis=1)
    expected = get_calibrator(method).fit(proba, y).predict_proba(proba)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_weights_of_classes_divide_their_odds_whatever_the_scale(scale):
    y = np.arange(60) % 3
    logits = np.random.default_rng(0).normal(size=(60, 3)) + np.eye(3)[y]
    calibrator, weight = TemperatureScaling(prior_strength=1).fit(logits, y), np.array([1, 4, 0])
    proba = calibrator.predict_proba(logits)
    found = WithoutClassWeight(calibrator, weight * scale).predict_proba(logits)
    np.testing.assert_allclose(found.sum(1), 1)
    odds = found[:, 1] / found[:, 0]
    np.testing.assert_allclose(odds, proba[:, 1] / proba[:, 0] / 4)
