"""Rows, labels and weights as they come in, and what is refused of them."""

import operator
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import SPECIES, Named, quick
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.utils.class_weight import compute_sample_weight
from torch.utils.data import Dataset, IterableDataset, TensorDataset

# -- rows and labels ----------------------------------------------------------------------------


def test_missing_class_is_named(iris):
    with pytest.raises(ValueError, match="Input classes contains NaN or None"):
        quick(classes=["setosa", "versicolor", None]).fit(*iris)


def bad_data():
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    with_nan, with_inf = X.copy(), X.copy()
    with_nan[3, 1], with_inf[3, 1] = np.nan, np.inf
    missing = y.astype(object)
    missing[5] = None
    ones = np.ones(60)
    return {
        "NaN in X": (with_nan, y, {}, "Input X contains NaN"),
        "inf in X": (with_inf, y, {}, "Input X contains infinity"),
        "text in X": (np.full((60, 4), "a"), y, {}, "holds text such as 'a'"),
        "complex X": (X + 1j, y, {}, "Complex data not supported"),
        "one-dimensional X": (X[:, 0], y, {}, "Expected 2D array, got 1D array"),
        "no rows": (X[:0], y[:0], {}, r"0 sample\(s\)"),
        "lengths that differ": (X, y[:50], {}, r"inconsistent numbers of samples: \[60, 50\]"),
        "no y": (X, None, {}, "requires y to be passed"),
        "continuous y": (X, y + 0.5, {}, "Unknown label type: continuous"),
        "2-D y": (X, np.eye(3)[y], {}, r"y should be a 1d array, got .* shape \(60, 3\)"),
        "None in y": (X, missing, {}, "Input y contains NaN or None"),
        "NaN in y": (X, np.where(y == 0, np.nan, y), {}, "Input y contains NaN or None"),
        "one class": (X, np.full(60, "only"), {}, "at least two classes.* 'only'"),
        "negative weight": (X, y, {"sample_weight": -ones}, "Negative values .*`sample_weight`"),
        "too few weights": (
            X,
            y,
            {"sample_weight": ones[:10]},
            r"sample_weight.shape == \(10,\), expected \(60,\)",
        ),
        "NaN weight": (X, y, {"sample_weight": ones * np.nan}, "sample_weight contains NaN"),
        "zero weights": (X, y, {"sample_weight": 0 * ones}, "[Ss]ample.?weight"),
        "one class of weight": (X, y, {"sample_weight": 1.0 * (y == 1)}, "one class, 1"),
    }


@pytest.mark.parametrize("case", bad_data())
@pytest.mark.parametrize("fitted", [False, True])
def test_bad_data_are_refused_and_leave_the_estimator_as_it_was(case, fitted, iris):
    X, y = iris
    net = quick()
    if fitted:
        net.fit(X, y)
        before = net.predict_proba(X)
    state = set(vars(net))
    bad_X, bad_y, fit_params, message = bad_data()[case]
    with pytest.raises(ValueError, match=message):
        net.fit(bad_X, bad_y, **fit_params)
    assert set(vars(net)) == state
    if fitted:
        assert_array_equal(net.predict_proba(X), before)
    assert_array_equal(net.fit(X, y).predict_proba(X), quick().fit(X, y).predict_proba(X))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, before the error
def test_numbers_too_large_for_float32_are_refused(iris):
    X, y = iris
    with pytest.raises(ValueError, match="Input X contains infinity or a value too large"):
        quick().fit(X.astype(float) * 1e300, y)


def test_other_columns_than_at_fit_are_refused(iris):
    X, y = iris
    net = quick().fit(X, y)
    with pytest.raises(ValueError, match=r"X has 3 features, but .* expecting 4 features"):
        net.predict_proba(X[:, :3])
    with pytest.raises(ValueError, match=r"X has 3 features, but .* expecting 4 features"):
        net.partial_fit(X[:, :3], y)


def test_nan_is_refused_at_prediction(iris):
    X, y = iris
    net = quick().fit(X, y)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        net.predict(np.full_like(X, np.nan))


def test_more_than_two_dimensions_are_flattened_by_the_default_net(iris):
    X, y = iris
    flat = quick().fit(X, y)
    images = X.reshape(-1, 2, 1, 2)
    assert_array_equal(quick().fit(images, y).predict_proba(images), flat.predict_proba(X))


# -- weights ------------------------------------------------------------------------------------


@pytest.fixture
def integer_weights():
    return np.random.default_rng(1).integers(0, 4, size=150)


def test_integer_weights_are_repeated_rows(iris, integer_weights):
    X, y = iris
    params = {"batch_size": -1, "train_split": None, "max_epochs": 10}
    weighted = quick(**params).fit(X, y, sample_weight=integer_weights)
    repeated = quick(**params)
    repeated.fit(np.repeat(X, integer_weights, axis=0), np.repeat(y, integer_weights))
    assert_allclose(weighted.history[:, "train_loss"], repeated.history[:, "train_loss"], rtol=1e-6)
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6)


def test_zero_weight_is_a_missing_row(iris, integer_weights):
    X, y = iris
    keep = integer_weights > 0
    weighted = quick().fit(X, y, sample_weight=keep.astype(float))
    missing = quick().fit(X[keep], y[keep])
    assert_array_equal(weighted.predict_proba(X), missing.predict_proba(X))


def test_scale_of_the_weights_does_not_matter_to_training(iris, integer_weights):
    X, y = iris
    params = {"calibration": None, "early_stopping": False}
    one = quick(**params).fit(X, y, sample_weight=integer_weights)
    tenfold = quick(**params).fit(X, y, sample_weight=10 * integer_weights)
    assert_allclose(one.predict_proba(X), tenfold.predict_proba(X), rtol=1e-4)


@pytest.mark.parametrize(
    "class_weight", ["balanced", {"setosa": 1.0, "versicolor": 3.0, "virginica": 0.5}]
)
def test_class_weight_is_what_scikit_learn_computes(class_weight, iris):
    X, y = iris
    rows = np.flatnonzero((y != "setosa") | (np.arange(150) % 3 == 0))
    X, y = X[rows], y[rows]
    by_class = quick(class_weight=class_weight).fit(X, y)
    by_row = quick().fit(X, y, sample_weight=compute_sample_weight(class_weight, y))
    assert_allclose(by_class.predict_proba(X), by_row.predict_proba(X), rtol=1e-5)


def test_class_weight_multiplies_sample_weight(iris, integer_weights):
    X, y = iris
    class_weight = {"setosa": 2.0, "virginica": 0.5}
    both = quick(class_weight=class_weight).fit(X, y, sample_weight=integer_weights)
    product = integer_weights * compute_sample_weight({**class_weight, "versicolor": 1.0}, y)
    by_row = quick().fit(X, y, sample_weight=product)
    assert_allclose(both.predict_proba(X), by_row.predict_proba(X), rtol=1e-5)


def test_balanced_weights_count_the_sample_weights(iris):
    X, y = iris
    weight = np.where(y == "setosa", 5.0, 1.0)
    params = {"calibration": None, "early_stopping": False}
    balanced = quick(**params, class_weight="balanced").fit(X, y, sample_weight=weight)
    assert_allclose(balanced.class_prior_, [1 / 3, 1 / 3, 1 / 3])
    plain = quick(**params).fit(X, y)
    assert_allclose(balanced.predict_proba(X), plain.predict_proba(X), rtol=1e-4)


def test_weights_too_far_apart_or_too_large_are_refused_by_their_names(iris):
    X, y = iris
    with pytest.raises(ValueError, match=r"class_weight=.*times sample_weight is more than"):
        quick(class_weight={"setosa": 1e200}).fit(X, y, sample_weight=np.full(len(y), 1e200))
    far_apart = np.where(y == "setosa", 1e300, 1e-300)
    with pytest.raises(ValueError, match="those of a weight above 0 are of one class"):
        quick(class_weight="balanced").fit(X, y, sample_weight=far_apart)
    largest = quick(class_weight="balanced").fit(X, y, sample_weight=np.full(len(y), 1e308))
    assert_allclose(largest.class_weight_, 1)


# -- torch datasets -----------------------------------------------------------------------------


class Streamed(IterableDataset):
    """Rows one after the other, nobody knows how many."""

    def __init__(self, X):
        self.X = X

    def __iter__(self):
        return ((row, 0) for row in torch.from_numpy(self.X))


def test_dataset_of_class_indices(iris):
    X, y = iris
    codes = np.searchsorted(SPECIES, y)
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(codes))
    net = quick(max_epochs=15, lr=0.01).fit(dataset)
    assert_array_equal(net.classes_, [0, 1, 2])
    assert np.mean(net.predict(dataset) == codes) > 0.9
    assert_allclose(net.predict_proba(dataset), net.predict_proba(X), rtol=1e-5)
    assert net.n_features_in_ == 4


@pytest.mark.parametrize("classes", [None, SPECIES])
def test_dataset_of_strings(classes, iris):
    X, y = iris
    dataset = Named(X, y)
    net = quick(max_epochs=15, lr=0.01, classes=classes).fit(dataset)
    assert_array_equal(net.classes_, SPECIES)
    assert net.score(X, y) > 0.9
    assert net.calibrator_ is not None


class MappedRows(Dataset):
    """Rows of a file, read one at a time; knows how many of those it gave are still in memory."""

    def __init__(self, path, n_rows, n_features):
        self.X = np.memmap(path, np.float32, "r", shape=(n_rows, n_features))
        self.alive = weakref.WeakSet()
        self.most_alive = 0

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        row = torch.tensor(self.X[operator.index(index)])
        self.alive.add(row)
        self.most_alive = max(self.most_alive, len(self.alive))
        return row, int(row[0] > 0)


def test_rows_of_a_memory_map_are_read_batch_by_batch(tmp_path):
    X = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    X.tofile(tmp_path / "rows.bin")
    rows = MappedRows(tmp_path / "rows.bin", *X.shape)
    net = quick(iterator_train__shuffle=False, train_split=None, batch_size=32)
    in_memory = clone(net).fit(X, X[:, 0] > 0)
    net.fit(rows)
    assert_array_equal(net.classes_, [0, 1])
    assert_allclose(net.predict_proba(rows), in_memory.predict_proba(X), rtol=1e-4)
    assert_allclose(net.predict_proba(X), in_memory.predict_proba(X), rtol=1e-4)
    assert 32 <= rows.most_alive <= 2 * 32


def test_held_out_rows_of_a_memory_map_calibrate(tmp_path):
    X = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    X.tofile(tmp_path / "rows.bin")
    rows = MappedRows(tmp_path / "rows.bin", *X.shape)
    net = quick(batch_size=32, classes=[0, 1], max_epochs=8).fit(rows)
    assert net.calibrator_ is not None
    assert net.score(rows, X[:, 0] > 0) > 0.85
    assert rows.most_alive <= 2 * 32


def test_dataset_is_predicted_batch_by_batch_whether_its_length_is_known_or_not(iris):
    X, y = iris
    net = quick(batch_size=32).fit(X, y)
    for rows in (Named(X, y), Streamed(X)):
        assert_allclose(net.predict_proba(rows), net.predict_proba(X), rtol=1e-5)


def test_dataset_with_a_label_that_is_none_of_the_classes_is_an_error(iris):
    with pytest.raises(ValueError, match="label 'virginica', which is none of the classes"):
        quick(classes=SPECIES[:2]).fit(Named(*iris))


def test_dataset_and_weights_do_not_go_together(iris):
    with pytest.raises(ValueError, match="sample_weight needs X as an array; X is a Named"):
        quick().fit(Named(*iris), sample_weight=np.ones(150))


def test_classes_may_name_some_that_y_lacks(iris):
    X, y = iris
    net = quick(classes=[*SPECIES, "tulip"]).fit(X, y)
    assert_array_equal(net.classes_, ["setosa", "tulip", "versicolor", "virginica"])
    assert net.predict_proba(X).shape == (150, 4)
    assert set(net.predict(X)) <= set(SPECIES)


def test_a_frame_of_sparse_columns_is_told_what_helps(iris):
    frame = pd.DataFrame(iris[0]).astype(pd.SparseDtype(np.float32, 0.0))
    with pytest.raises(TypeError, match=r"dense ones are required: X\.sparse\.to_dense\(\)"):
        quick().fit(frame, iris[1])
