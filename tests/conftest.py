"""Settings and fixtures that tests share."""

import random

import matplotlib
import numpy as np
import pytest
import torch
from helpers import SPECIES, make_cv, short
from hypothesis import settings
from sklearn.datasets import load_iris, make_classification

from sksmooth import make_tabular

matplotlib.use("Agg")
torch.set_num_threads(1)  # so that parallel test processes do not fight for the cores
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")


def pytest_addoption(parser):
    parser.addoption(
        "--every-line",
        action="store_true",
        help="interrupt at every line of our code in tests/test_interrupts.py; takes an hour",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed the global generators, from which nets with random_state=None draw their seed.

    A hook and not a fixture, so that it comes before the fixtures of a module.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture
def iris():
    """Give scaled, shuffled rows, no two of them equal, and labels that are strings."""
    X, codes = load_iris(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rng = np.random.default_rng(0)
    X += rng.normal(scale=1e-3, size=X.shape)
    order = rng.permutation(len(X))
    return X[order].astype(np.float32), SPECIES[codes[order]]


@pytest.fixture(scope="module")
def data():
    """Give 200 rows of six features and noisy class indices of three classes."""
    X, y = make_classification(
        200, 6, n_informative=5, n_redundant=0, n_classes=3, flip_y=0.1, random_state=0
    )
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def fitted():
    """Give a cross-validation of two ε, fitted to the rows of make_tabular."""
    return make_cv(short(max_epochs=40, patience=5)).fit(*make_tabular(300, random_state=0))
