"""Probabilities pinned as numbers: a changed default or order of draws is seen here.

``python tests/test_golden.py`` writes the numbers anew; the commit that does so says why.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TwoLayers

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    SimpleNet,
    make_tabular,
)

GOLDEN = Path(__file__).with_name("golden.json")
N_ROWS = 12  # that are predicted


def table():
    """Give 240 rows to fit, labels of three classes, weights, and rows to predict."""
    X, y = make_tabular(240 + N_ROWS, random_state=0)
    weight = np.random.default_rng(0).integers(0, 3, size=240).astype(float)
    return X[:240], y[:240], weight, X[240:]


def single(weighted=False, **params):
    """Predict by one net."""
    X, y, weight, rows = table()
    net = LabelSmoothingClassifier(**{"max_epochs": 6, "random_state": 0, **params})
    return net.fit(X, y, sample_weight=weight if weighted else None).predict_proba(rows)


def chosen(module=SimpleNet, **params):
    """Predict by the nets of cross-validation."""
    X, y, _, rows = table()
    widths = {"module__hidden_layer_sizes": (16,)} if module is SimpleNet else {}
    net = LabelSmoothingClassifier(module, max_epochs=6, lr=0.01, **widths, **params)
    return LabelSmoothingClassifierCV(net, cv=3, random_state=0).fit(X, y).predict_proba(rows)


def searched(**grid):
    """Give the scores of a search, and the probabilities of what it found, as one table."""
    X, y, _, rows = table()
    net = LabelSmoothingClassifier(max_epochs=5, random_state=0, lr=0.003)
    search = BatchedGridSearchCV(net, grid, cv=3, scoring="neg_log_loss").fit(X, y)
    proba = search.best_estimator_.predict_proba(rows)
    return np.vstack([proba, np.resize(search.cv_results_["mean_test_score"], (1, 3))])


def continued():
    """Predict by a net that was trained in two portions."""
    X, y, _, rows = table()
    net = LabelSmoothingClassifier(random_state=0)
    net.partial_fit(X[:120], y[:120], classes=[0, 1, 2]).partial_fit(X[120:], y[120:], epochs=2)
    return net.predict_proba(rows)


SETTINGS = {
    "defaults": single,
    "weights": lambda: single(weighted=True),
    "no dropout, balanced": lambda: single(module__dropout=0.0, class_weight="balanced"),
    "prior, temperature": lambda: single(smoothing="prior", calibration="temperature"),
    "all rows": lambda: single(train_split=None, batch_size=-1, lr=0.02),
    "no early stopping, tanh": lambda: single(early_stopping=False, module__activation="tanh"),
    "SGD": lambda: single(optimizer=torch.optim.SGD, optimizer__momentum=0.9, lr=0.05),
    "a fifth held out": lambda: single(train_split=0.2),
    "module of one's own": lambda: single(module=TwoLayers, lr=0.02),
    "partial_fit": continued,
    "CV": chosen,
    "CV, uncalibrated, dropout": lambda: chosen(calibration=None, module__dropout=0.3),
    "CV, module of one's own": lambda: chosen(TwoLayers),
    "search of ε": lambda: searched(label_smoothing=[0.0, 0.2]),
    "search of widths": lambda: searched(module__hidden_layer_sizes=[(8,), (16, 16)]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_probabilities_are_what_they_were(name):
    expected = json.loads(GOLDEN.read_text())[name]
    np.testing.assert_allclose(SETTINGS[name](), expected, rtol=0, atol=1e-6)


def write_anew():
    """Write the numbers of today."""
    numbers = {name: predict().round(8).tolist() for name, predict in SETTINGS.items()}
    GOLDEN.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(write_anew())
