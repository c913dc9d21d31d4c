"""scikit-learn's own checks of an estimator; none is expected to fail."""

import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from sksmooth import LabelSmoothingClassifier


class NetWithDefaults(nn.Module):
    """Is told the numbers of features and classes."""

    def __init__(self, n_features=2, n_classes=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, 32), nn.ReLU(), nn.Linear(32, n_classes))

    def forward(self, x):
        return self.layers(x)


class NetWithoutDefaults(nn.Module):
    """Cannot be built before the data are seen."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.hidden = nn.Linear(n_features, 32)
        self.out = nn.Linear(32, n_classes)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))


ESTIMATORS = [
    LabelSmoothingClassifier(),
    LabelSmoothingClassifier(label_smoothing=0.0, max_epochs=15),
    LabelSmoothingClassifier(calibration=None, max_epochs=15),
    LabelSmoothingClassifier(module=NetWithDefaults, lr=0.003, max_epochs=15),
    LabelSmoothingClassifier(module=NetWithoutDefaults, lr=0.003, max_epochs=15),
]


# Some of the checks fit a handful of rows, or rows whose labels are noise.
@pytest.mark.filterwarnings("ignore:Too few rows:UserWarning")
@pytest.mark.filterwarnings("ignore:No temperature minimizes the log-loss:UserWarning")
@parametrize_with_checks(ESTIMATORS)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)
