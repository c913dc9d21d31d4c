"""Labels: which there are, and the columns of probabilities they name."""

import numpy as np
import pandas as pd
import pytest
from helpers import METRICS
from numpy.testing import assert_array_equal
from sklearn.preprocessing import LabelEncoder

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV
from sksmooth._labels import check_probabilities, distinct, encode, sorted_labels
from sksmooth.metrics import (
    expected_calibration_error,
)

NAMES = np.array(["cat", "dog", "eel"])
RNG = np.random.default_rng(0)
PROBA = RNG.dirichlet([1, 1, 1], 50)
Y = NAMES[RNG.integers(3, size=50)]
TURNED = pd.DataFrame(PROBA[:, [2, 0, 1]], columns=["eel", "cat", "dog"])


@pytest.mark.parametrize("metric", METRICS)
def test_columns_of_a_frame_are_those_of_the_labels_that_they_are_named_by(metric):
    expected = metric(Y, PROBA)
    assert metric(Y, TURNED) == expected
    assert metric(Y, TURNED, labels=["eel", "cat", "dog"]) == expected
    with pytest.raises(ValueError, match=r"labels=\['cat'.*named \['eel', 'cat', 'dog'\]"):
        metric(Y, TURNED, labels=["cat", "dog", "eel"])


def test_columns_that_are_named_otherwise_or_not_at_all_are_in_the_order_of_the_labels():
    expected = check_probabilities(Y, PROBA, None)[0]
    for columns in (None, ["p0", "p1", "p2"], [3, 2, 1]):
        frame = pd.DataFrame(PROBA, columns=columns)
        assert_array_equal(check_probabilities(Y, frame, None)[0], expected)


def test_named_columns_tell_of_a_class_that_the_rows_lack():
    few = Y != "dog"
    expected = expected_calibration_error(Y[few], PROBA[few], labels=NAMES)
    assert expected_calibration_error(Y[few], TURNED[few]) == expected


@pytest.mark.parametrize("labels", [np.arange(3), np.array([True, False]), np.array([0.5, 2.5])])
def test_text_of_labels_names_columns(labels):
    proba = np.random.default_rng(0).dirichlet(np.ones(len(labels)), size=20)
    y = np.sort(labels)[np.arange(20) % len(labels)]
    frame = pd.DataFrame(proba, columns=np.sort(labels).astype(str))
    turned = frame[frame.columns[::-1]]
    for given in (frame, turned):
        assert_array_equal(
            check_probabilities(y, given, None)[0], given.columns.get_indexer(y.astype(str))
        )
    with pytest.raises(ValueError, match="but the columns of y_proba are named"):
        check_probabilities(y, turned, np.sort(labels))
    if len(labels) == 3:  # of which the rows lack one
        some = y != 1
        codes = check_probabilities(y[some], turned[some], None)[0]
        assert_array_equal(codes, 2 - y[some])


def test_numbers_that_count_the_columns_name_nothing_as_text_either():
    frame = pd.DataFrame(PROBA, columns=["0", "1", "2"])
    codes = check_probabilities(Y, PROBA, None)[0]
    assert_array_equal(check_probabilities(codes + 1, frame, None)[0], codes)
    with pytest.raises(ValueError, match="Name the label of each column"):
        check_probabilities(codes[codes < 2] + 1, frame[codes < 2], None)


def test_polars_columns_name_labels_too():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(TURNED.to_numpy(), schema=list(TURNED.columns))
    assert expected_calibration_error(Y, frame) == expected_calibration_error(Y, PROBA)


@pytest.mark.parametrize("labels", [None, ["a", "b"]])
def test_one_column_is_told_to_be_a_vector(labels):
    with pytest.raises(ValueError, match=r"one column.*y_proba\.ravel\(\)"):
        expected_calibration_error(["a", "b"], [[0.2], [0.7]], labels=labels)


def test_labels_of_several_types_are_told_of():
    with pytest.raises(TypeError, match="y_true holds labels of several types, int, str"):
        expected_calibration_error(np.array([1, "b"], dtype=object), [[0.2, 0.8]] * 2)
    net = LabelSmoothingClassifier()
    for method in (net.fit, net.partial_fit, LabelSmoothingClassifierCV().fit):
        with pytest.raises(TypeError, match="y holds labels of several types, int, str"):
            method(np.eye(4), np.array([1, "b", 1, "b"], dtype=object))
    with pytest.raises(TypeError, match="y holds labels of several types, int, str"):
        distinct(None, np.array([1, "b"], dtype=object), "y")


@pytest.mark.parametrize("labels", [[3, 1, 3], ["b", "a"], [True, False], [0.5, -1.0]])
def test_sorted_labels_are_those_of_scikit_learn(labels):
    expected = LabelEncoder().fit(labels).classes_
    assert_array_equal(sorted_labels("y", labels), expected)
    assert_array_equal(distinct(None, set(labels), "classes"), expected)
    assert_array_equal(encode(np.array(labels), expected), np.searchsorted(expected, labels))


@pytest.mark.parametrize("metric", METRICS)
def test_masked_values_are_refused(metric):
    mask = np.arange(50) < 3
    y = np.ma.array(np.searchsorted(NAMES, Y), mask=mask)
    for y_true, y_proba, weight in (
        (y, PROBA, None),
        (y.data, np.ma.array(PROBA, mask=PROBA > 0.5), None),
        (y.data, PROBA, np.ma.array(np.ones(50), mask=mask)),
    ):
        with pytest.raises(ValueError, match="masked; leave out their rows"):
            metric(y_true, y_proba, sample_weight=weight)
    assert metric(np.ma.array(y.data), PROBA) == metric(y.data, PROBA)


def test_labels_of_numpys_text_of_any_length():
    X = RNG.normal(size=(50, 4))
    labels = Y.astype(np.dtypes.StringDType())
    net = LabelSmoothingClassifier(max_epochs=1, random_state=0)
    expected = net.fit(X, Y).predict(X)
    assert_array_equal(net.fit(X, labels).predict(X), expected)


MANY = np.array([f"class number {i}" for i in range(2000)])


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize(
    "fail",
    [
        lambda X: LabelSmoothingClassifier(classes=MANY[1:], max_epochs=1).fit(X, MANY),
        lambda X: LabelSmoothingClassifier(class_weight=dict.fromkeys(range(2000), 1.0)).fit(
            X, MANY
        ),
        lambda X: METRICS[0](["none"], np.full((1, 2000), 1 / 2000), labels=MANY),
    ],
    ids=["classes", "class_weight", "labels"],
)
def test_messages_about_many_classes_are_short(fail):
    with pytest.raises(ValueError, match=r"none of the classes|lacks") as caught:
        fail(RNG.normal(size=(2000, 3)))
    assert len(str(caught.value)) < 600
