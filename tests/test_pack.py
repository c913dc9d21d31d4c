"""What versions before have stored is read."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import InconsistentVersionWarning

from sksmooth import (
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    load,
    make_tabular,
)

DATA = Path(__file__).parent / "data"
X, Y = make_tabular(200, random_state=0)


@pytest.mark.parametrize("name", ["net", "cv"])
@pytest.mark.parametrize("kind", ["pickle", "sksmooth"])
@pytest.mark.filterwarnings(
    f"ignore::{InconsistentVersionWarning.__module__}.InconsistentVersionWarning"
)
def test_files_of_version_0_2_0_are_read(name, kind):
    path = DATA / f"{name}-0.2.0.{kind}"
    loaded = load(path) if kind == "sksmooth" else pickle.loads(path.read_bytes())
    expected = np.load(DATA / f"{name}-0.2.0.npy")
    np.testing.assert_allclose(loaded.predict_proba(X[:20]), expected, atol=1e-6)
    net = loaded if name == "net" else loaded.estimators_[0]
    net.partial_fit(X, Y)
    loaded.fit(X, Y)


def write_files(version):
    """Write the files that the test above reads; to be run once for each release."""
    from sksmooth import save

    nets = {"module__hidden_layer_sizes": (4,), "max_epochs": 3, "lr": 0.02, "random_state": 0}
    net = LabelSmoothingClassifier(**nets)
    cv = LabelSmoothingClassifierCV(net, cv=2, label_smoothings=(0.1,), random_state=0)
    for name, estimator in {"net": net, "cv": cv}.items():
        estimator.fit(X, Y)
        save(estimator, DATA / f"{name}-{version}.sksmooth")
        (DATA / f"{name}-{version}.pickle").write_bytes(pickle.dumps(estimator))
        np.save(DATA / f"{name}-{version}.npy", estimator.predict_proba(X[:20]))
