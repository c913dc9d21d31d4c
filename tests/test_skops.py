"""skops reads our estimators with none but sksmooth's own types to trust, and runs no code."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    make_tabular,
    trusted_types,
)
from sksmooth.metrics import (
    make_probability_scorer,
    neg_area_under_risk_coverage_scorer,
    neg_classwise_calibration_error_scorer,
    neg_expected_calibration_error_scorer,
    overconfidence,
)

skops_io = pytest.importorskip("skops.io")

X, Y = make_tabular(200, random_state=0)
NET = LabelSmoothingClassifier(max_epochs=4, lr=0.02, random_state=0)
UNWEIGHTED = LabelSmoothingClassifier(
    max_epochs=4,
    lr=0.02,
    random_state=0,
    class_weight="balanced",
    calibration="temperature",
    calibration_weight="unweighted",
)
# scikit-learn's own, which skops asks to trust after any search.
OF_A_SEARCH = [
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.utils._metadata_requests.MetadataRequest",  # before 1.7
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
]
CALIBRATION = {
    "ece": neg_expected_calibration_error_scorer,
    "classwise": neg_classwise_calibration_error_scorer,
    "area": neg_area_under_risk_coverage_scorer,
    "overconfidence": make_probability_scorer(overconfidence),
}
ESTIMATORS = [
    NET,
    LabelSmoothingClassifierCV(NET, cv=3, random_state=0),
    UNWEIGHTED,
    LabelSmoothingClassifierCV(UNWEIGHTED, cv=3, random_state=0),
    make_pipeline(StandardScaler(), NET),
    make_pipeline(StandardScaler(), LabelSmoothingClassifierCV(NET, cv=3, random_state=0)),
    BatchedGridSearchCV(NET, {"lr": [0.01, 0.1]}, cv=2),
    BatchedGridSearchCV(NET, {"lr": [0.01, 0.1]}, cv=2, scoring=CALIBRATION, refit="ece"),
    BatchedGridSearchCV(
        make_pipeline(StandardScaler(), NET),
        {"labelsmoothingclassifier__lr": [0.01, 0.1]},
        cv=2,
    ),
]


class Mine(torch.nn.Linear):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_types_but_ours_are_to_be_trusted(estimator):
    before = skops_io.dumps(estimator)
    fitted = estimator.fit(X, Y)
    for dumped in (before, skops_io.dumps(fitted)):
        loaded = skops_io.loads(dumped, trusted=[*trusted_types(), *OF_A_SEARCH])
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(
        loaded.fit(X, Y).predict_proba(X), fitted.fit(X, Y).predict_proba(X)
    )


def test_all_that_are_trusted_are_asked_for():
    asked = {
        name
        for estimator in ESTIMATORS
        for name in skops_io.get_untrusted_types(data=skops_io.dumps(estimator.fit(X, Y)))
    }
    assert asked - set(OF_A_SEARCH) == set(trusted_types())


def test_code_of_ones_own_is_asked_for_and_nothing_is_pickled():
    net = LabelSmoothingClassifier(Mine, max_epochs=3, random_state=0).fit(X, Y)
    dumped = skops_io.dumps(net)
    (own,) = (name for name in skops_io.get_untrusted_types(data=dumped) if "Mine" in name)
    with pytest.raises(TypeError, match="Mine"):
        skops_io.loads(dumped, trusted=trusted_types())
    loaded = skops_io.loads(dumped, trusted=[*trusted_types(), own])
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    schema = zipfile.ZipFile(io.BytesIO(dumped)).read("schema.json")
    assert b"__cuda_dependent_attributes__" not in schema  # in which skorch has a pickle


class Runs:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


def test_a_pickle_that_was_put_into_a_file_is_not_read(monkeypatch):
    # As skorch stores a net, with what its own `__setstate__` would unpickle.
    code = "raise AssertionError('was run')"
    state = {"device": "cpu", "__cuda_dependent_attributes__": pickle.dumps(Runs(code))}
    with monkeypatch.context() as forged:
        forged.setattr(LabelSmoothingClassifier, "__getstate__", lambda _: state)
        dumped = skops_io.dumps(NET)
    with pytest.raises(ValueError, match="state of LabelSmoothingClassifier is not what"):
        skops_io.loads(dumped, trusted=trusted_types())


def test_a_file_names_no_function_that_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = LabelSmoothingClassifier(max_epochs=1).fit(X, Y).__getstate__()
    packed = json.loads(state["packed"])
    packed["parameters"] |= {"module": {"dtype": "save"}, "module__obj": 1, "module__f": "written"}
    forged_state = {**state, "packed": json.dumps(packed)}
    with monkeypatch.context() as forged:
        forged.setattr(LabelSmoothingClassifier, "__getstate__", lambda _: forged_state)
        dumped = skops_io.dumps(NET)
    with pytest.raises(ValueError, match=r"The file names torch.save, which is no dtype"):
        skops_io.loads(dumped, trusted=trusted_types())
    assert not list(tmp_path.iterdir())


def test_a_module_that_was_given_as_an_object_is_told_to_be_given_as_its_class():
    net = LabelSmoothingClassifier(torch.nn.Linear(10, 3), max_epochs=1, random_state=0)
    with pytest.raises(TypeError, match="Give its class, module=Linear"):
        skops_io.dumps(net.fit(X, Y))
    assert pickle.loads(pickle.dumps(net)).module.out_features == 3
