"""Label smoothing for scikit-learn, with probabilities you can trust."""

from sksmooth._onnx import to_onnx
from sksmooth._save import load, save
from sksmooth._skops import trusted_types
from sksmooth.calibration import NormTemperatureScaling, TemperatureScaling
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.datasets import load_fashion_mnist, make_tabular
from sksmooth.encoding import Periodic, PiecewiseLinear
from sksmooth.losses import LabelSmoothingLoss
from sksmooth.metrics import (
    area_under_risk_coverage,
    classwise_calibration_error,
    expected_calibration_error,
    overconfidence,
    risk_coverage_curve,
)
from sksmooth.modules import SimpleNet
from sksmooth.plotting import (
    LiveTrainingDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    SelectiveConfusionMatrixDisplay,
    SmoothingCurveDisplay,
    TrainingDisplay,
)
from sksmooth.search import BatchedGridSearchCV
from sksmooth.smoothing import smooth_labels, smoothing_matrix

__all__ = [
    "BatchedGridSearchCV",
    "LabelSmoothingClassifier",
    "LabelSmoothingClassifierCV",
    "LabelSmoothingLoss",
    "LiveTrainingDisplay",
    "NormTemperatureScaling",
    "Periodic",
    "PiecewiseLinear",
    "ReliabilityDisplay",
    "RiskCoverageDisplay",
    "SelectiveConfusionMatrixDisplay",
    "SimpleNet",
    "SmoothingCurveDisplay",
    "TemperatureScaling",
    "TrainingDisplay",
    "area_under_risk_coverage",
    "classwise_calibration_error",
    "expected_calibration_error",
    "load",
    "load_fashion_mnist",
    "make_tabular",
    "overconfidence",
    "risk_coverage_curve",
    "save",
    "smooth_labels",
    "smoothing_matrix",
    "to_onnx",
    "trusted_types",
]
__version__ = "0.2.0"
