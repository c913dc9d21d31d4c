"""Pictures of how far the probabilities can be trusted and of how a net was trained.

The displays follow scikit-learn's: make them by ``from_estimator`` or ``from_predictions``, and
find the axes, the lines and the numbers in their attributes. matplotlib is imported when
something is drawn, not before.
"""

from sksmooth.plotting.live import LiveTrainingDisplay
from sksmooth.plotting.reliability import ReliabilityDisplay
from sksmooth.plotting.risk_coverage import RiskCoverageDisplay
from sksmooth.plotting.selective_confusion import SelectiveConfusionMatrixDisplay
from sksmooth.plotting.smoothing_curve import SmoothingCurveDisplay
from sksmooth.plotting.training import TrainingDisplay

__all__ = [
    "LiveTrainingDisplay",
    "ReliabilityDisplay",
    "RiskCoverageDisplay",
    "SelectiveConfusionMatrixDisplay",
    "SmoothingCurveDisplay",
    "TrainingDisplay",
]
