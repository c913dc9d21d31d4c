"""Settings that all tests share."""

import random

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
torch.set_num_threads(1)  # so that parallel test processes do not fight for the cores
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed the global generators, from which nets with random_state=None draw their seed.

    A hook and not a fixture, so that it comes before the fixtures of a module.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
