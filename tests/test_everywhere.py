"""The classifier wherever scikit-learn and its neighbours take a classifier."""

import pickle
from dataclasses import dataclass

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
import torch
from helpers import needs_sklearn
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline as make_resampling_pipeline
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import DataConversionWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skrub import tabular_pipeline
from torch.utils.data import TensorDataset

from sksmooth import LabelSmoothingClassifier, SimpleNet

SPECIES = np.array(["setosa", "versicolor", "virginica"])
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]


@pytest.fixture
def iris():
    X, codes = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], SPECIES[codes[order]]


def quick(**params):
    """Make a classifier that learns the flowers in a moment, reproducibly."""
    return LabelSmoothingClassifier(
        **{"max_epochs": 5, "batch_size": 16, "lr": 0.02, "random_state": 0, **params}
    )


def scaled(**params):
    return make_pipeline(StandardScaler(), quick(**params))


def mixed_table(n_rows=200):
    """Give a table of numbers and words with gaps, and what it says of the label."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, size=n_rows)
    frame = pd.DataFrame(
        {
            "size": label + rng.normal(scale=0.4, size=n_rows),
            "noise": rng.normal(size=n_rows),
            "colour": np.array(["red", "green", "blue"], dtype=object)[label],
        }
    )
    frame.loc[rng.random(n_rows) < 0.1, "size"] = np.nan
    frame.loc[rng.random(n_rows) < 0.1, "colour"] = None
    return frame, np.array(["low", "middle", "high"])[label]


def is_right(estimator, X, y, at_least=0.9):
    """Tell whether probabilities are probabilities and predictions mostly the labels."""
    proba = estimator.predict_proba(X)
    assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert proba.shape == (len(y), len(np.unique(y)))
    assert_array_equal(estimator.classes_, np.unique(y))
    return accuracy_score(y, estimator.predict(X)) > at_least


# -- scikit-learn's own -----------------------------------------------------------------------


def test_pipeline(iris):
    X, y = iris
    pipeline = scaled().fit(X, y)
    assert is_right(pipeline, X, y)
    by_hand = quick().fit(StandardScaler().fit_transform(X), y)
    assert_array_equal(
        pipeline.predict_proba(X), by_hand.predict_proba(StandardScaler().fit_transform(X))
    )


def test_column_transformer_on_a_mixed_table_with_gaps():
    X, y = mixed_table()
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, ["size", "noise"]),
        (OneHotEncoder(sparse_output=False), ["colour"]),
    )
    pipeline = make_pipeline(columns, quick()).fit(X[:150], y[:150])
    assert is_right(pipeline, X[150:], y[150:], at_least=0.85)


def test_grid_search(iris):
    X, y = iris
    grid = {"labelsmoothingclassifier__label_smoothing": [0.0, 0.9]}
    search = GridSearchCV(scaled(calibration=None), grid, scoring="neg_log_loss", cv=3)
    search.fit(X, y)
    assert search.best_params_ == {"labelsmoothingclassifier__label_smoothing": 0.0}
    assert search.best_estimator_[-1].label_smoothing == 0.0
    assert search.cv_results_["mean_test_score"][0] > search.cv_results_["mean_test_score"][1]
    assert is_right(search, X, y)


def test_grid_search_over_parameters_of_the_parts(iris):
    X, y = iris
    grid = {"module__hidden_layer_sizes": [(4,), (32,)], "optimizer__weight_decay": [0.0, 0.1]}
    search = GridSearchCV(quick(), grid, cv=2).fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    width = search.best_params_["module__hidden_layer_sizes"][0]
    assert search.best_estimator_.module_.layers[0].out_features == width


def test_two_processes_give_the_same_search_as_one(iris):
    X, y = iris
    grid = {"labelsmoothingclassifier__label_smoothing": [0.0, 0.1]}
    tables = [
        GridSearchCV(scaled(), grid, cv=2, scoring="neg_log_loss", n_jobs=n_jobs)
        .fit(X, y)
        .cv_results_["mean_test_score"]
        for n_jobs in (1, 2)
    ]
    assert_allclose(*tables, rtol=1e-6)


def test_randomized_search(iris):
    X, y = iris
    values = {"labelsmoothingclassifier__label_smoothing": [0.0, 0.1, 0.2, 0.3]}
    search = RandomizedSearchCV(scaled(), values, n_iter=2, cv=2, random_state=0).fit(X, y)
    assert len(search.cv_results_["params"]) == 2
    assert search.best_score_ > 0.85


def test_halving_grid_search(iris):
    X, y = iris
    values = {"labelsmoothingclassifier__lr": [0.02, 2e-3, 1e-3]}
    search = HalvingGridSearchCV(
        scaled(), values, resource="labelsmoothingclassifier__max_epochs", max_resources=6, cv=2
    ).fit(X, y)
    assert search.n_iterations_ > 1
    assert search.best_params_["labelsmoothingclassifier__lr"] == 0.02


@needs_sklearn("1.7", "the Brier score of several classes")
def test_cross_validate_with_several_scorers(iris):
    X, y = iris
    scoring = ["accuracy", "neg_log_loss", "roc_auc_ovr", "neg_brier_score"]
    scores = cross_validate(scaled(), X, y, cv=3, scoring=scoring)
    assert scores["test_accuracy"].mean() > 0.9
    assert scores["test_roc_auc_ovr"].mean() > 0.97
    assert (scores["test_neg_log_loss"] > -0.5).all()
    assert (scores["test_neg_brier_score"] > -0.3).all()


def test_cross_val_predict_of_probabilities(iris):
    X, y = iris
    proba = cross_val_predict(scaled(), X, y, cv=3, method="predict_proba")
    assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert log_loss(y, proba) < 0.5


def test_learning_curve(iris):
    X, y = iris
    sizes, _, scores = learning_curve(scaled(), X, y, train_sizes=[0.8, 1.0], cv=2)
    assert_array_equal(sizes, [60, 75])
    assert scores.shape == (2, 2)
    assert scores[-1].mean() > 0.85


def test_calibrated_classifier_cv(iris):
    X, y = iris
    calibrated = CalibratedClassifierCV(scaled(), method="sigmoid", cv=2).fit(X, y)
    assert is_right(calibrated, X, y)
    assert calibrated.calibrated_classifiers_[0].estimator[-1].calibrator_ is not None


@needs_sklearn("1.8", "temperature scaling")
def test_frozen_estimator_is_calibrated_without_being_fitted_again(iris):
    X, y = iris
    X = StandardScaler().fit_transform(X)
    net = quick().fit(X[:100], y[:100])
    before = net.predict_proba(X)
    frozen = FrozenEstimator(net).fit(X[:0], y[:0])
    assert_array_equal(frozen.predict_proba(X), before)
    calibrated = CalibratedClassifierCV(FrozenEstimator(net), method="temperature", cv=2)
    assert is_right(calibrated.fit(X[100:], y[100:]), X, y)
    assert_array_equal(calibrated.predict(X), net.predict(X))
    assert_array_equal(net.predict_proba(X), before)


def test_stacking(iris):
    X, y = iris
    line = make_pipeline(StandardScaler(), LogisticRegression())
    stack = StackingClassifier([("net", scaled()), ("line", line)], cv=2)
    stack.fit(X, y)
    assert stack.transform(X).shape == (150, 6)  # the probabilities of both
    assert is_right(stack, X, y)


def test_soft_voting_is_the_mean_of_the_probabilities(iris):
    X, y = iris
    members = [("one", scaled()), ("two", scaled(random_state=1))]
    vote = VotingClassifier(members, voting="soft").fit(X, y)
    mean = np.mean([clone(net).fit(X, y).predict_proba(X) for _, net in members], axis=0)
    assert_allclose(vote.predict_proba(X), mean, rtol=1e-6)
    assert is_right(vote, X, y)


def test_bagging(iris):
    X, y = iris
    bag = BaggingClassifier(scaled(), n_estimators=3, max_samples=0.7, random_state=0).fit(X, y)
    assert is_right(bag, X, y)
    first, second = (member.predict_proba(X) for member in bag.estimators_[:2])
    assert not np.array_equal(first, second)


def test_ada_boost_weighs_the_rows(iris):
    X, y = iris
    X = StandardScaler().fit_transform(X)[:, :2]  # too little to tell them all apart
    boosted = AdaBoostClassifier(quick(), n_estimators=3, random_state=0).fit(X, y)
    assert len(boosted.estimators_) == 3
    assert is_right(boosted, X, y, at_least=0.6)
    assert not np.allclose(boosted.estimators_[0].class_prior_, boosted.estimators_[1].class_prior_)


def test_one_versus_rest(iris):
    X, y = iris
    rest = OneVsRestClassifier(scaled()).fit(X, y)
    assert len(rest.estimators_) == 3
    assert is_right(rest, X, y, at_least=0.85)


def test_tuned_threshold(iris):
    X, y = iris
    rare = np.where(y == "virginica", "rare", "common")
    tuned = TunedThresholdClassifierCV(scaled(), scoring="balanced_accuracy", cv=2).fit(X, rare)
    assert 0 <= tuned.best_threshold_ <= 1
    assert tuned.best_score_ > 0.85
    above = tuned.predict_proba(X)[:, 1] >= tuned.best_threshold_
    assert_array_equal(tuned.predict(X), np.where(above, "rare", "common"))


def test_permutation_importance_finds_the_column_that_matters():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = X[:, 1] > 0
    importance = permutation_importance(quick().fit(X, y), X, y, n_repeats=3, random_state=0)
    assert importance.importances_mean.argmax() == 1
    assert importance.importances_mean[1] > 0.3


def test_partial_dependence():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    net = quick().fit(X, X[:, 0] > 0)
    display = PartialDependenceDisplay.from_estimator(net, X, [0], grid_resolution=10)
    curve = display.pd_results[0]["average"][0]
    assert curve[-1] - curve[0] > 0.5  # the probability rises with the feature
    display.figure_.clear()


@needs_sklearn("1.8", "routing of weights through the score of a Pipeline")
def test_sample_weight_is_routed_as_metadata(iris):
    X, y = iris
    weight = np.random.default_rng(0).integers(0, 3, size=150).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        net = quick().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), net)
        routed = pipeline.fit(X, y, sample_weight=weight).predict_proba(X)
        scores = cross_validate(pipeline, X, y, cv=2, params={"sample_weight": weight})
    by_hand = quick().fit(StandardScaler().fit_transform(X), y, sample_weight=weight)
    assert_array_equal(routed, by_hand.predict_proba(StandardScaler().fit_transform(X)))
    assert not np.array_equal(routed, scaled().fit(X, y).predict_proba(X))
    assert (scores["test_score"] > 0.6).all()


def test_sample_weight_goes_through_a_pipeline_by_its_step(iris):
    X, y = iris
    weight = np.where(y == "setosa", 10.0, 1.0)
    pipeline = scaled().fit(X, y, labelsmoothingclassifier__sample_weight=weight)
    assert_allclose(pipeline[-1].class_prior_, [500 / 600, 50 / 600, 50 / 600])


def test_pickle_and_joblib_keep_the_predictions(iris, tmp_path):
    X, y = iris
    pipeline = scaled().fit(X, y)
    joblib.dump(pipeline, tmp_path / "net.joblib")
    for loaded in (pickle.loads(pickle.dumps(pipeline)), joblib.load(tmp_path / "net.joblib")):
        assert_array_equal(loaded.predict_proba(X), pipeline.predict_proba(X))
        assert_array_equal(loaded.predict(X), pipeline.predict(X))


def test_html_shows_the_parameters(iris):
    X, y = iris
    net = quick(label_smoothing=0.25)
    for estimator in (net, net.fit(X, y), scaled(label_smoothing=0.25)):
        html = estimator._repr_html_()
        assert "LabelSmoothingClassifier" in html
        assert "label_smoothing" in html
        assert "0.25" in html


def test_text_shows_what_differs_from_the_defaults():
    net = LabelSmoothingClassifier(label_smoothing=0.25, module__dropout=0.5)
    assert repr(net) == "LabelSmoothingClassifier(label_smoothing=0.25, module__dropout=0.5)"


# -- kinds of input ---------------------------------------------------------------------------


@pytest.mark.parametrize("make_frame", [pd.DataFrame, pl.DataFrame])
def test_frames_are_read_and_their_names_checked(make_frame, iris):
    X, y = iris
    frame = make_frame(dict(zip(NAMES, X.T, strict=True)))
    if not hasattr(StandardScaler().fit(frame), "feature_names_in_"):
        pytest.skip("this scikit-learn reads no names of this polars")  # 1.7 none of polars 2
    net = quick().fit(frame, y)
    assert_array_equal(net.feature_names_in_, NAMES)
    assert_array_equal(net.predict_proba(frame), quick().fit(X, y).predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        net.predict(make_frame(dict(zip(["a", "b", "c", "d"], X.T, strict=True))))
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        net.predict(frame[NAMES[::-1]])


@pytest.mark.parametrize("make_series", [pd.Series, pl.Series])
def test_labels_come_as_a_series(make_series, iris):
    X, y = iris
    net = quick().fit(X, make_series(y))
    assert_array_equal(net.predict_proba(X), quick().fit(X, y).predict_proba(X))
    assert_array_equal(net.classes_, SPECIES)


@pytest.mark.parametrize("dtype", ["Float64", "Float32"])
def test_nullable_dtypes_are_read(dtype, iris):
    X, y = iris
    frame = pd.DataFrame(X.astype(np.float32), columns=NAMES)
    nullable = frame.astype(dtype)
    net = quick().fit(nullable, pd.Series(y, dtype="string"))
    assert_array_equal(net.predict_proba(nullable), quick().fit(frame, y).predict_proba(frame))


def test_missing_value_of_a_nullable_dtype_is_refused(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=NAMES).astype("Float64")
    frame.iloc[0, 0] = pd.NA
    with pytest.raises(ValueError, match="Input X contains NaN"):
        quick().fit(frame, y)


@pytest.mark.parametrize("make_sparse", [sp.csr_array, sp.csc_matrix, sp.coo_array])
def test_sparse_rows_are_refused_as_scikit_learn_does(make_sparse, iris):
    X, y = iris
    with pytest.raises(TypeError, match=r"Sparse data was passed.*dense data is required"):
        quick().fit(make_sparse(X), y)
    with pytest.raises(TypeError, match=r"Sparse data was passed.*dense data is required"):
        quick().fit(X, y).predict(make_sparse(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_torch_tensors_are_read(dtype, iris):
    X, y = iris
    tensor = torch.from_numpy(X).to(dtype)
    codes = np.searchsorted(SPECIES, y)
    net = quick().fit(tensor, torch.from_numpy(codes))
    assert_array_equal(net.classes_, [0, 1, 2])
    expected = quick().fit(tensor.numpy(), codes).predict_proba(tensor.numpy())
    assert_array_equal(net.predict_proba(tensor), expected)


def test_tensor_that_requires_grad_is_read(iris):
    X, y = iris
    tensor = torch.from_numpy(X).requires_grad_()
    assert_array_equal(
        quick().fit(tensor, y).predict_proba(tensor), quick().fit(X, y).predict_proba(X)
    )
    assert tensor.grad is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, int, bool])
def test_every_real_dtype_is_read_as_the_same_numbers(dtype, iris):
    X, y = iris
    X = (X.mean(axis=0) < X).astype(dtype) if dtype is bool else X.round().astype(dtype)
    expected = quick().fit(X.astype(np.float32), y).predict_proba(X.astype(np.float32))
    proba = quick().fit(X, y).predict_proba(X)
    assert proba.dtype == np.float64
    assert_array_equal(proba, expected)


def test_lists_are_read(iris):
    X, y = iris
    net = quick().fit(X.tolist(), y.tolist())
    assert_array_equal(net.predict_proba(X.tolist()), quick().fit(X, y).predict_proba(X))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_layout_does_not_matter(dtype, iris, tmp_path):
    X, y = iris
    X = X.astype(dtype)
    expected = quick().fit(X, y).predict_proba(X)
    np.save(tmp_path / "X.npy", X)
    layouts = {
        "Fortran order": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=0)[::2],
        "reversed twice": np.ascontiguousarray(X[::-1])[::-1],
        "read-only memory map": np.load(tmp_path / "X.npy", mmap_mode="r"),
    }
    for rows in layouts.values():
        before = rows.copy()
        assert_array_equal(quick().fit(rows, y).predict_proba(rows), expected)
        assert_array_equal(rows, before)


def test_memory_layout_of_class_indices_does_not_matter(iris):
    X, species = iris
    codes = np.searchsorted(SPECIES, species)
    expected = quick().fit(X, species).predict_proba(X)
    read_only = codes.copy()
    read_only.flags.writeable = False
    layouts = [
        codes,
        read_only,
        np.repeat(codes, 2)[::2],
        np.ascontiguousarray(codes[::-1])[::-1],
        codes.astype(np.uint8),
        codes.astype(">i4"),
    ]
    for labels in layouts:
        before = labels.copy()
        assert_array_equal(quick().fit(X, labels).predict_proba(X), expected)
        assert_array_equal(labels, before)


LABELS = {
    "str": np.array(["no", "yes"]),
    "object": np.array(["no", "yes"], dtype=object),
    "bool": np.array([False, True]),
    "int64": np.array([-5, 7]),
    "uint8": np.array([3, 250], dtype=np.uint8),
    "float": np.array([0.0, 1.0]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind_come_back_as_they_were(kind, iris):
    X, species = iris
    labels = LABELS[kind]
    y = labels[(species == "setosa").astype(int)]
    net = scaled().fit(X, y)
    predicted = net.predict(X)
    assert predicted.dtype == labels.dtype
    assert_array_equal(net.classes_, labels)
    assert accuracy_score(y, predicted) > 0.95
    assert net.score(X, y) == accuracy_score(y, predicted)


@pytest.mark.parametrize("dtype", ["category", "string", "boolean", "Int64"])
def test_labels_of_pandas_dtypes(dtype, iris):
    X, species = iris
    is_setosa = pd.Series(species == "setosa")
    y = {
        "category": pd.Series(species, dtype="category"),
        "string": pd.Series(species, dtype="string"),
        "boolean": is_setosa.astype("boolean"),
        "Int64": is_setosa.astype("Int64"),
    }[dtype]
    net = scaled().fit(X, y)
    assert_array_equal(net.classes_, np.unique(y.to_numpy(dtype=None)))
    assert np.mean(net.predict(X) == y.to_numpy()) > 0.9


# -- neighbours -------------------------------------------------------------------------------


def test_tabular_pipeline_of_skrub_fits_a_raw_mixed_table():
    X, y = mixed_table()
    pipeline = tabular_pipeline(quick()).fit(X[:150], y[:150])
    assert is_right(pipeline, X[150:], y[150:], at_least=0.85)


def test_pipeline_of_imbalanced_learn_resamples_before_the_classifier(iris):
    X, y = iris
    rows = np.flatnonzero((y != "setosa") | (np.arange(150) % 5 == 0))
    resampled = make_resampling_pipeline(
        StandardScaler(), RandomOverSampler(random_state=0), quick()
    )
    resampled.fit(X[rows], y[rows])
    assert_allclose(resampled[-1].class_prior_, [1 / 3, 1 / 3, 1 / 3])
    assert is_right(resampled, X, y)


def test_labels_of_a_dataset_may_be_a_column(iris):
    X, species = iris
    codes = np.searchsorted(SPECIES, species)
    dataset = TensorDataset(torch.from_numpy(X).float(), torch.from_numpy(codes))
    expected = quick().fit(dataset, codes).predict_proba(X)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        net = quick().fit(dataset, codes[:, None])
    assert_array_equal(net.predict_proba(X), expected)


@dataclass
class MakeNet:
    """A factory that cannot be hashed."""

    width: int

    def __call__(self, n_features, n_classes):
        return SimpleNet(n_features, n_classes, self.width, dropout=0.0)


def test_a_factory_makes_the_module(iris):
    net = LabelSmoothingClassifier(MakeNet(8), max_epochs=3, random_state=0).fit(*iris)
    assert net.module_.hidden_layer_sizes == (8,)
    assert net.module_.n_features == 4
