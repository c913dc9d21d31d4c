"""What a newer version has stored says so before it is read."""

import copy
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.base import clone

import sksmooth
from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    load,
    make_tabular,
    save,
)
from sksmooth._versions import warn_if_newer
from sksmooth.calibration import TemperatureScaling

X, Y = make_tabular(150, random_state=0)
NET = LabelSmoothingClassifier(
    max_epochs=5, lr=0.05, random_state=0, module__hidden_layer_sizes=(8,)
)
ESTIMATORS = [
    NET,
    LabelSmoothingClassifierCV(NET, cv=2, label_smoothings=(0.1,), random_state=0),
    BatchedGridSearchCV(NET, {"lr": [0.05, 0.1]}, cv=2),
]
NEWER = r"stored by sksmooth 7\.1\.0, but sksmooth .* is to read it, .*; use sksmooth 7\.1\.0"


def newer(store, monkeypatch):
    """Store something as a newer version would."""
    with monkeypatch.context() as context:
        context.setattr(sksmooth, "__version__", "7.1.0")
        return store()


@pytest.mark.parametrize("version", ["7.1.0", "0.10.0", "7.0.dev1"])
def test_a_newer_version_is_warned_of(version):
    with pytest.warns(UserWarning, match=f"stored by sksmooth {version}.*use sksmooth {version}"):
        warn_if_newer(version)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0.dev0", "0.2.1rc1"])
def test_an_older_version_is_not_warned_of(version, monkeypatch):
    monkeypatch.setattr(sksmooth, "__version__", "0.2.1")
    warn_if_newer(version)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, TemperatureScaling()])
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_of_a_newer_version_is_warned_of_once(estimator, protocol, monkeypatch):
    pickled = newer(lambda: pickle.dumps([estimator, clone(estimator)], protocol), monkeypatch)
    with pytest.warns(UserWarning, match=NEWER) as told:
        loaded, _ = pickle.loads(pickled)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert repr(loaded) == repr(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pickles_and_copies_of_this_version_are_not_warned_of(estimator, tmp_path):
    estimator.fit(X, Y)
    joblib.dump(estimator, tmp_path / "file")
    for own in (
        pickle.loads(pickle.dumps(estimator)),
        joblib.load(tmp_path / "file"),
        copy.copy(estimator),
        copy.deepcopy(estimator),
    ):
        np.testing.assert_array_equal(own.predict_proba(X), estimator.predict_proba(X))


def test_a_pickle_that_names_what_there_is_not_is_warned_of_first():
    code = """
import pickle, sys, sksmooth
from sksmooth import LabelSmoothingClassifierCV
sksmooth.__version__ = "7.1.0"
class Replaced(LabelSmoothingClassifierCV): pass
Replaced.__module__, Replaced.__qualname__ = "sksmooth.classifier_cv", "Replaced"
sksmooth.classifier_cv.Replaced = Replaced
sys.stdout.buffer.write(pickle.dumps(Replaced()))
"""
    pickled = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    with (
        pytest.warns(UserWarning, match=NEWER),
        pytest.raises(AttributeError, match="Replaced"),
    ):
        pickle.loads(pickled)


@pytest.mark.parametrize("estimator", ESTIMATORS[:2])
def test_a_file_of_a_newer_version_is_warned_of(estimator, monkeypatch, tmp_path):
    estimator.fit(X, Y)
    newer(lambda: save(estimator, tmp_path / "net"), monkeypatch)
    with pytest.warns(UserWarning, match=NEWER) as told:
        loaded = load(tmp_path / "net")
    assert told[0].filename == __file__
    np.testing.assert_array_equal(loaded.predict_proba(X), estimator.predict_proba(X))


@pytest.mark.parametrize("estimator", ESTIMATORS[:2])
def test_a_file_of_skops_of_a_newer_version_is_warned_of(estimator, monkeypatch):
    skops_io = pytest.importorskip("skops.io")
    dumped = newer(lambda: skops_io.dumps(estimator.fit(X, Y)), monkeypatch)
    with pytest.warns(UserWarning, match=NEWER):
        loaded = skops_io.loads(dumped, trusted=sksmooth.trusted_types())
    np.testing.assert_array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
