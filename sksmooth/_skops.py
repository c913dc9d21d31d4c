"""What a file of skops may be trusted with."""

from __future__ import annotations

from sksmooth import metrics
from sksmooth._adapters import WithoutClassWeight
from sksmooth.calibration import NormTemperatureScaling, TemperatureScaling
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.search import BatchedGridSearchCV

TRUSTED = (
    *(LabelSmoothingClassifier, LabelSmoothingClassifierCV, BatchedGridSearchCV),
    *(NormTemperatureScaling, TemperatureScaling, WithoutClassWeight),
    type(metrics.neg_expected_calibration_error_scorer),
    metrics.area_under_risk_coverage,
    metrics.classwise_calibration_error,
    metrics.expected_calibration_error,
    metrics.overconfidence,
)


def trusted_types() -> list[str]:
    """Give the names of sksmooth's types that files of skops hold, and that are safe to read.

    skops reads no type but scikit-learn's and NumPy's without being told to trust it. Those named
    here run no code from the file: their state is numbers and text. They are what a fitted
    classifier needs, alone or in a Pipeline. A search holds scorers of scikit-learn's, too, which
    skops does not trust by itself, and a module or callback of one's own is asked for by its name.

    .. versionadded:: 0.2.0

    Returns
    -------
    list of str
        Names with their modules, for ``skops.io.load(file, trusted=...)`` and
        ``mlflow.sklearn.log_model(estimator, skops_trusted_types=...)``.

    See Also
    --------
    save : One classifier in one file, with no package beside sksmooth.

    Examples
    --------
    >>> import skops.io
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sksmooth import LabelSmoothingClassifier, make_tabular, trusted_types
    >>> X, y = make_tabular(200, random_state=0)
    >>> net = LabelSmoothingClassifier(max_epochs=5, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), net).fit(X, y)
    >>> loaded = skops.io.loads(skops.io.dumps(pipe), trusted=trusted_types())
    >>> bool((loaded.predict_proba(X) == pipe.predict_proba(X)).all())
    True
    """
    return sorted(f"{own.__module__}.{own.__qualname__}" for own in TRUSTED)
