"""What the tests of several rooms need."""

import numpy as np
import pytest
import sklearn
import torch
from sklearn.utils.fixes import parse_version
from skorch.callbacks import Callback
from torch import nn
from torch.testing import assert_close
from torch.utils.data import Dataset, Subset

from sksmooth import LabelSmoothingClassifier
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.metrics import (
    area_under_risk_coverage,
    classwise_calibration_error,
    expected_calibration_error,
    overconfidence,
)

# -- single nets, on the rows of iris -----------------------------------------------------------

SPECIES = np.array(["setosa", "versicolor", "virginica"])
ORDINAL = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
HELD_OUT = slice(100, 150)


def needs_sklearn(version, what):
    """Skip a test on scikit-learn older than `version`, which lacks `what`."""
    is_older = parse_version(sklearn.__version__) < parse_version(version)
    return pytest.mark.skipif(is_older, reason=f"before {version} scikit-learn lacks {what}")


def quick(**params):
    """Make a classifier that is trained in a moment, reproducibly."""
    module = {} if "module" in params else {"module__dropout": 0.0}
    small = {"max_epochs": 3, "lr": 0.003, "train_split": 0.2, "random_state": 0, **module}
    return LabelSmoothingClassifier(**{**small, **params})


def hold_out_the_last_50(dataset, y=None):
    return Subset(dataset, range(100)), Subset(dataset, range(100, 150))


class Named(Dataset):
    """Pairs of a tensor and a label."""

    def __init__(self, X, y):
        self.rows = list(zip(torch.from_numpy(X), y.tolist(), strict=True))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


# -- cross-validated nets -----------------------------------------------------------------------


def short(**params):
    """Give a net that is trained for a few epochs only."""
    small = {"max_epochs": 8, "lr": 0.003, "module__hidden_layer_sizes": 16}
    return LabelSmoothingClassifier(**{**small, **params})


def make_cv(estimator=None, **params):
    """Make a cross-validation of two ε and three folds, by default of the numbers as they are."""
    defaults = {
        "label_smoothings": (0.0, 0.2),
        "encodings": (None,),
        "cv": 3,
        "random_state": 0,
    }
    return LabelSmoothingClassifierCV(estimator or short(), **{**defaults, **params})


class WithMembers(nn.Module):
    """Gives logits of several members, as TabM does."""

    def __init__(self, n_features=4, n_classes=3, n_members=5):
        super().__init__()
        self.inner = nn.Linear(n_features, 16)
        self.scale = nn.Parameter(torch.randn(n_members, 16))
        self.outer = nn.Linear(16, n_classes)

    def forward(self, X):
        return self.outer(torch.relu(self.inner(X))[:, None] * self.scale)


class TwoLayers(nn.Module):
    """A module that is not SimpleNet."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, 8), nn.Tanh(), nn.Linear(8, n_classes))

    def forward(self, x):
        return self.layers(x)


class WithBatchNorm(nn.Module):
    def __init__(self, n_features, n_classes, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, n_classes),
        )

    def forward(self, x):
        return self.layers(x)


class WithDropout(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, n_classes)
        )

    def forward(self, x):
        return self.layers(x)


# -- metrics and logits -------------------------------------------------------------------------

METRICS = [
    expected_calibration_error,
    classwise_calibration_error,
    overconfidence,
    area_under_risk_coverage,
]


def draw_logits(seed, n=40, n_classes=3, scale=1.0, sharpness=1.0, dtype=np.float64):
    """Logits, and labels drawn from softmax(sharpness * logits / scale), one of them wrong."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, n_classes))
    y = (sharpness * logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    y[0] = logits[0].argmin()
    return (scale * logits).astype(dtype), y


class Equal:
    """A calibrator of one's own, whose probabilities are all the same."""

    def fit(self, logits, y):
        return self

    def predict_proba(self, logits):
        return np.full(logits.shape, 1 / logits.shape[1])


# -- nets that are trained by hand, or by skorch's steps ----------------------------------------


def assert_same_parameters(one, other, **tolerance):
    assert_close(list(one.parameters()), list(other.parameters()), **tolerance)


class Listener(Callback):
    """Listens to the batches and does nothing, so that skorch's own loop runs."""

    def on_batch_end(self, net, **kwargs):
        pass


PLAIN = {"module__hidden_layer_sizes": (64, 32), "module__dropout": 0.0}


def make_net(**parameters):
    """Make a net that is trained by hand, unless its parameters keep it from that."""
    small = {"max_epochs": 5, "batch_size": 32, "random_state": 0, "early_stopping": False}
    split = {"train_split": 0.15, "lr": 0.003}  # the 30 rows held out are one batch
    module = {} if "module" in parameters else PLAIN
    return LabelSmoothingClassifier(**{**small, **split, **module, **parameters})


def assert_same_module(one, other, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-4}
    assert_same_parameters(one.module_, other.module_, **tolerance)
