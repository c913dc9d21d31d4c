"""scikit-learn's own checks of an estimator; none is expected to fail."""

import pytest
import torch
from sklearn.utils.estimator_checks import (
    check_class_weight_classifiers,
    parametrize_with_checks,
)
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


class TinyNet(nn.Module):
    """Returns its activations beside the logits."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.hidden = nn.Linear(n_features, 16)
        self.out = nn.Linear(16, n_classes)

    def forward(self, x):
        h = torch.tanh(self.hidden(x))
        return (h,), self.out(h)


ESTIMATORS = [
    LabelSmoothingClassifier(),
    LabelSmoothingClassifier(label_smoothing=0.0, max_epochs=15),
    LabelSmoothingClassifier(calibration=None, max_epochs=15),
    LabelSmoothingClassifier(module=NetWithDefaults, lr=0.003, max_epochs=15),
    LabelSmoothingClassifier(module=NetWithoutDefaults, lr=0.003, max_epochs=15),
    LabelSmoothingClassifier(module=TinyNet),
]


# Some of the checks fit a handful of rows, or rows whose labels are noise.
@pytest.mark.filterwarnings("ignore:Too few rows:UserWarning")
@pytest.mark.filterwarnings("ignore:No temperature minimizes the log-loss:UserWarning")
@parametrize_with_checks(ESTIMATORS)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


SHAPES = [
    {"module": TinyNet},
    {"module__hidden_layer_sizes": ()},
    {"module__hidden_layer_sizes": (1,)},
    *({"module__activation": own} for own in ("relu", "tanh", "sigmoid", "silu", "gelu", "selu")),
    *({"module__activation": own} for own in ("elu", "leaky_relu", "identity")),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_class_weights_rule_few_rows_whatever_the_seed(shape, seed, monkeypatch):
    name = "sklearn.utils.estimator_checks.set_random_state"
    monkeypatch.setattr(name, lambda estimator: estimator.set_params(random_state=seed))
    check_class_weight_classifiers("net", LabelSmoothingClassifier(**shape))
