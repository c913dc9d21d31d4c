"""Settings and fixtures that tests share."""

import random

import matplotlib
import numpy as np
import pytest
import torch
from helpers import SPECIES
from hypothesis import settings
from sklearn.datasets import load_iris

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
