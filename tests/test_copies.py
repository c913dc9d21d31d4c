"""Copies of rows, which stay together where rows are held out."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.metrics import log_loss

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV
from sksmooth._batches import TensorRows, hold_out
from sksmooth._copies import Copies, hold_out_whole


def table(X, y=None):
    y = np.zeros(len(X), dtype=int) if y is None else y
    return TensorRows(torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y))


def drawn_again(n, seed=0):
    return np.random.default_rng(seed).integers(n, size=n)


@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
def test_rows_of_a_bootstrap_are_copies(load):
    X, y = load(return_X_y=True)
    index = drawn_again(len(X))
    copies = Copies.among(table(X[index], y[index]))
    _, kinds = np.unique(X[index], axis=0, return_inverse=True)
    assert len(copies.first) == kinds.max() + 1
    same = copies.kind[:, None] == copies.kind
    assert_array_equal(same, kinds.ravel()[:, None] == kinds.ravel())


@pytest.mark.parametrize(
    "X",
    [
        np.random.default_rng(0).normal(size=(500, 5)),
        np.random.default_rng(0).integers(2, size=(500, 6)),
        np.random.default_rng(0).integers([80, 10], size=(500, 2)),
        np.random.default_rng(0).normal(size=(500, 1))[drawn_again(500)],
    ],
)
def test_rows_that_are_alike_by_nature_are_no_copies(X):
    assert Copies.among(table(X)) is None


def test_rows_of_several_labels_are_no_copies():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5))[rng.integers(100, size=500)]
    assert Copies.among(table(X)) is not None
    assert Copies.among(table(X, rng.integers(2, size=500))) is None


def test_rows_without_copies_are_held_out_as_ever():
    y = np.arange(100) % 3
    rows = table(np.random.default_rng(0).normal(size=(100, 4)), y)
    for one, other in zip(hold_out_whole(rows, y, 0.2, 1), hold_out(100, y, 0.2, 1), strict=True):
        assert_array_equal(one, other)


def oversampled(n_rows):
    """Give rows whose rare class was drawn again until it was as frequent, and others."""
    X, y = make_classification(
        2000 + n_rows,
        15,
        n_informative=6,
        weights=[0.9],
        flip_y=0.05,
        class_sep=0.7,
        random_state=0,
    )
    given, labels = X[:n_rows], y[:n_rows]
    rare, frequent = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    index = np.concatenate([frequent, np.random.default_rng(0).choice(rare, len(frequent))])
    return given[index], labels[index], X[n_rows:], y[n_rows:]


@pytest.mark.parametrize(
    ("make", "n_rows"),
    [
        (lambda **params: LabelSmoothingClassifier(**params), 600),
        (lambda **params: LabelSmoothingClassifier(**params), 1500),
        (lambda **params: LabelSmoothingClassifier(**params, train_split=0.2), 1200),
        (lambda **params: LabelSmoothingClassifierCV(cv=3, encodings=(None,), **params), 600),
    ],
    ids=["in folds", "of many, a fifth", "a fifth", "CV"],
)
def test_probabilities_of_oversampled_rows_are_not_far_too_sure(make, n_rows):
    X, y, new, labels = oversampled(n_rows)
    model = make(random_state=0).fit(X, y)
    weight = np.where(labels == 1, (labels == 0).sum() / (labels == 1).sum(), 1.0)
    # It was twice as much.
    assert log_loss(labels, model.predict_proba(new), sample_weight=weight) < 0.69
