"""Label smoothing for scikit-learn, with probabilities you can trust."""

from sksmooth.calibration import TemperatureScaling
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.datasets import load_fashion_mnist, make_tabular
from sksmooth.losses import LabelSmoothingLoss
from sksmooth.metrics import (
    area_under_risk_coverage,
    classwise_calibration_error,
    expected_calibration_error,
    overconfidence,
)
from sksmooth.modules import SimpleNet
from sksmooth.plotting import ReliabilityDisplay, TrainingDisplay
from sksmooth.smoothing import smooth_labels, smoothing_matrix

__all__ = [
    "LabelSmoothingClassifier",
    "LabelSmoothingLoss",
    "ReliabilityDisplay",
    "SimpleNet",
    "TemperatureScaling",
    "TrainingDisplay",
    "area_under_risk_coverage",
    "classwise_calibration_error",
    "expected_calibration_error",
    "load_fashion_mnist",
    "make_tabular",
    "overconfidence",
    "smooth_labels",
    "smoothing_matrix",
]
__version__ = "0.1.0"
