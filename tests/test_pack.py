"""skops reads our estimators with none but sksmooth's own types to trust."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    load,
    make_tabular,
)

DATA = Path(__file__).parent / "data"
X, Y = make_tabular(200, random_state=0)
NET = LabelSmoothingClassifier(max_epochs=4, lr=0.02, random_state=0)
# scikit-learn's own, which skops asks to trust after any search.
OF_A_SEARCH = {"sklearn.metrics._scorer._PassthroughScorer"}


class Mine(torch.nn.Linear):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)


@pytest.mark.parametrize(
    "estimator",
    [
        NET,
        LabelSmoothingClassifierCV(NET, cv=3, random_state=0),
        make_pipeline(StandardScaler(), NET),
        make_pipeline(StandardScaler(), LabelSmoothingClassifierCV(NET, cv=3, random_state=0)),
        BatchedGridSearchCV(NET, {"lr": [0.01, 0.1]}, cv=2),
        BatchedGridSearchCV(
            make_pipeline(StandardScaler(), NET),
            {"labelsmoothingclassifier__lr": [0.01, 0.1]},
            cv=2,
        ),
    ],
)
def test_skops_trusts_our_types_only(estimator):
    skops_io = pytest.importorskip("skops.io")
    before = skops_io.dumps(estimator)
    fitted = estimator.fit(X, Y)
    for dumped in (before, skops_io.dumps(fitted)):
        asked = set(skops_io.get_untrusted_types(data=dumped)) - OF_A_SEARCH
        assert all(name.startswith("sksmooth.") for name in asked)
        loaded = skops_io.loads(dumped, trusted=[*asked, *OF_A_SEARCH])
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(
        loaded.fit(X, Y).predict_proba(X), fitted.fit(X, Y).predict_proba(X)
    )


def test_skops_asks_for_code_of_ones_own_and_reads_nothing_pickled():
    skops_io = pytest.importorskip("skops.io")
    net = LabelSmoothingClassifier(Mine, max_epochs=3, random_state=0).fit(X, Y)
    dumped = skops_io.dumps(net)
    (own,) = (name for name in skops_io.get_untrusted_types(data=dumped) if "Mine" in name)
    with pytest.raises(TypeError, match="Mine"):
        skops_io.loads(dumped, trusted=["sksmooth.classifier.LabelSmoothingClassifier"])
    loaded = skops_io.loads(dumped, trusted=["sksmooth.classifier.LabelSmoothingClassifier", own])
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    schema = zipfile.ZipFile(io.BytesIO(dumped)).read("schema.json")
    assert b"__cuda_dependent_attributes__" not in schema  # in which skorch has a pickle


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
