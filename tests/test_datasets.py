"""make_tabular and load_fashion_mnist."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import datasets
from sksmooth.datasets import FASHION_MNIST_CLASSES, load_fashion_mnist, make_tabular


def test_default_table_has_the_documented_shapes_and_dtypes():
    X, y = make_tabular(random_state=0)
    assert X.shape == (1000, 10)
    assert X.dtype == np.float64
    assert y.shape == (1000,)
    assert y.dtype == np.int64
    assert np.isfinite(X).all()
    assert np.bincount(y).min() >= 330


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sensible_size_works_and_holds_every_class(data):
    n_features = data.draw(st.integers(1, 40), label="n_features")
    n_classes = data.draw(st.integers(2, min(2**n_features, 30)), label="n_classes")
    n_samples = data.draw(st.integers(n_classes, 100), label="n_samples")
    X, y = make_tabular(n_samples, n_features, n_classes, random_state=0)
    assert X.shape == (n_samples, n_features)
    assert set(y) == set(range(n_classes))


def test_same_seed_same_table_and_other_seed_another():
    X, y = make_tabular(random_state=1)
    X_again, y_again = make_tabular(random_state=1)
    X_other, _ = make_tabular(random_state=2)
    np.testing.assert_array_equal(X, X_again)
    np.testing.assert_array_equal(y, y_again)
    assert not np.array_equal(X, X_other)


@pytest.mark.parametrize("label_noise", [0.0, 0.25, 1.0])
def test_label_noise_replaces_that_fraction_and_leaves_the_features(label_noise):
    X, clean = make_tabular(400, n_classes=5, random_state=0)
    X_noisy, noisy = make_tabular(400, n_classes=5, label_noise=label_noise, random_state=0)
    np.testing.assert_array_equal(X, X_noisy)
    assert np.count_nonzero(noisy != clean) == 400 * label_noise
    assert set(noisy) == set(range(5))


def test_noisy_labels_are_uniform_over_the_other_classes():
    _, clean = make_tabular(6000, n_classes=4, random_state=0)
    _, noisy = make_tabular(6000, n_classes=4, label_noise=1.0, random_state=0)
    shift_counts = np.bincount((noisy - clean) % 4, minlength=4)
    assert shift_counts[0] == 0
    # Each of the other three has 2000 expected; the standard deviation is 37.
    assert np.abs(shift_counts[1:] - 2000).max() < 5 * 37


def test_as_frame_holds_the_same_values_under_names():
    X, y = make_tabular(50, 4, random_state=0)
    frame, series = make_tabular(50, 4, as_frame=True, random_state=0)
    pd.testing.assert_frame_equal(
        frame, pd.DataFrame(X, columns=["feature_0", "feature_1", "feature_2", "feature_3"])
    )
    pd.testing.assert_series_equal(series, pd.Series(y, name="target"))


@pytest.mark.parametrize("random_state", [0, 1, 2])
def test_a_small_net_learns_it_and_a_linear_model_less(random_state):
    X, y = make_tabular(random_state=random_state)
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    net = make_pipeline(
        StandardScaler(), MLPClassifier((64, 32), early_stopping=True, random_state=0)
    )
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    net_accuracy = net.fit(X_train, y_train).score(X_test, y_test)
    assert 0.80 <= net_accuracy <= 0.95
    assert net_accuracy > linear.fit(X_train, y_train).score(X_test, y_test)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_features": 1}, ValueError, "n_features=1 .* n_classes=3.* use n_features >= 2"),
        ({"n_features": 3, "n_classes": 9}, ValueError, "use n_features >= 4"),
        ({"n_samples": 2}, ValueError, "n_samples=2 .* n_classes=3"),
        ({"n_classes": 1}, ValueError, "n_classes == 1, must be >= 2"),
        ({"n_features": 0}, ValueError, "n_features must be a positive integer, got 0"),
        ({"n_samples": 10.0}, TypeError, "n_samples must be a positive integer, got 10.0"),
        ({"n_samples": True}, TypeError, "n_samples must be a positive integer, got True"),
        ({"label_noise": -0.1}, ValueError, "label_noise=-0.1"),
        ({"label_noise": 1.1}, ValueError, "label_noise=1.1"),
        ({"label_noise": float("nan")}, ValueError, "label_noise=nan"),
        ({"label_noise": "0.1"}, TypeError, "label_noise must be an instance of float"),
    ],
)
def test_bad_parameters_are_named(parameters, error, message):
    with pytest.raises(error, match=message):
        make_tabular(**parameters)


def _idx(array: np.ndarray) -> bytes:
    """Encode an array of bytes in the IDX format."""
    array = np.asarray(array, dtype=np.uint8)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    return header + array.tobytes()


def _write(folder: Path, name: str, content: bytes, *, compress: bool = False) -> Path:
    path = folder / (f"{name}.gz" if compress else name)
    path.write_bytes(gzip.compress(content) if compress else content)
    return path


@pytest.fixture
def small_parts():
    rng = np.random.default_rng(0)
    return {
        part: (rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n))
        for part, n in {"train": 5, "t10k": 3}.items()
    }


@pytest.fixture
def small_folder(tmp_path, small_parts):
    for part, (images, labels) in small_parts.items():
        _write(tmp_path, f"{part}-images-idx3-ubyte", _idx(images))
        _write(tmp_path, f"{part}-labels-idx1-ubyte", _idx(labels))
    return tmp_path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("folder_type", [str, Path])
def test_folder_of_idx_files_is_read_plain_or_gzipped(tmp_path, small_parts, compress, folder_type):
    for part, (images, labels) in small_parts.items():
        _write(tmp_path, f"{part}-images-idx3-ubyte", _idx(images), compress=compress)
        _write(tmp_path, f"{part}-labels-idx1-ubyte", _idx(labels), compress=compress)
    X_train, y_train, X_test, y_test = load_fashion_mnist(folder_type(tmp_path))
    for (images, labels), X, y in [
        (small_parts["train"], X_train, y_train),
        (small_parts["t10k"], X_test, y_test),
    ]:
        assert X.dtype == np.uint8
        assert y.dtype == np.int64
        assert X.flags.writeable
        np.testing.assert_array_equal(X, images.reshape(len(images), 784))
        np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", _idx(np.zeros(5)), r"0x00000801, expected 0x00000803"),
        ("train-images-idx3-ubyte", b"\x89PNG", r"not an IDX file .* 0x89504e47"),
        ("train-images-idx3-ubyte", b"", r"not an IDX file"),
        ("train-images-idx3-ubyte", _idx(np.zeros((5, 28, 28)))[:9], r"truncated: .* 9 of 16 B"),
        ("train-images-idx3-ubyte", _idx(np.zeros((5, 28, 28)))[:-1], r"truncated: .* got 3919"),
        ("train-images-idx3-ubyte", _idx(np.zeros((5, 28, 28))) + b"\0", r"longer than its header"),
        ("train-images-idx3-ubyte", _idx(np.zeros((5, 32, 32))), r"shape \(32, 32\), expected"),
        ("train-labels-idx1-ubyte", _idx(np.zeros(4)), r"holds 5 images, but .* 4 labels"),
    ],
)
def test_damaged_file_is_named_with_what_is_wrong(small_folder, name, content, message):
    _write(small_folder, name, content)
    with pytest.raises(ValueError, match=message) as raised:
        load_fashion_mnist(small_folder)
    assert name in str(raised.value)


def test_truncated_or_false_gzip_file_is_named(small_folder, small_parts):
    name = "t10k-labels-idx1-ubyte"
    (small_folder / name).unlink()
    path = _write(small_folder, name, _idx(small_parts["t10k"][1]), compress=True)
    for content in (path.read_bytes()[:-10], b"not gzip at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.gz is truncated or not a gzip file"):
            load_fashion_mnist(small_folder)


def test_missing_file_is_named_and_nothing_else_is_tried(small_folder, monkeypatch):
    monkeypatch.setattr(
        "sklearn.datasets.fetch_openml", lambda *args, **kwargs: pytest.fail("called")
    )
    (small_folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="neither t10k-images-idx3-ubyte nor"):
        load_fashion_mnist(small_folder)


def test_debian_folder_comes_before_openml(small_folder, small_parts, monkeypatch):
    monkeypatch.setattr(datasets, "_DEBIAN_FOLDER", small_folder)
    monkeypatch.setattr(
        "sklearn.datasets.fetch_openml", lambda *args, **kwargs: pytest.fail("called")
    )
    np.testing.assert_array_equal(load_fashion_mnist()[1], small_parts["train"][1])


def test_openml_comes_last_and_its_first_60000_rows_are_the_training_part(tmp_path, monkeypatch):
    X = np.zeros((70_000, 784), dtype=np.int16)
    X[:, 0] = np.arange(70_000) % 251
    y = (np.arange(70_000) % 10).astype(str).astype(object)
    calls = []

    def fetch(*args, **kwargs):
        calls.append((args, kwargs))
        return X, y

    monkeypatch.setattr(datasets, "_DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    X_train, y_train, X_test, y_test = load_fashion_mnist()
    assert calls == [(("Fashion-MNIST",), {"version": 1, "return_X_y": True, "as_frame": False})]
    assert (X_train.shape, X_test.shape) == ((60_000, 784), (10_000, 784))
    assert (X_train.dtype, y_train.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(X_train[:, 0], np.arange(60_000) % 251)
    np.testing.assert_array_equal(X_test[:, 0], np.arange(60_000, 70_000) % 251)
    np.testing.assert_array_equal(y_train, np.arange(60_000) % 10)
    np.testing.assert_array_equal(y_test, np.arange(60_000, 70_000) % 10)


@pytest.mark.parametrize("cause", [OSError("no network"), ValueError("md5 checksum")])
def test_error_names_both_ways_when_nothing_can_be_had(tmp_path, monkeypatch, cause):
    def fetch(*args, **kwargs):
        raise cause

    monkeypatch.setattr(datasets, "_DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    with pytest.raises(OSError, match=r"(?s)dataset-fashion-mnist.*folder=") as raised:
        load_fashion_mnist()
    assert raised.value.__cause__ is cause
    assert str(cause) in str(raised.value)


def test_openml_data_of_another_shape_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(
        "sklearn.datasets.fetch_openml", lambda *args, **kwargs: (np.zeros((9, 784)), np.zeros(9))
    )
    with pytest.raises(ValueError, match=r"shape \(9, 784\), expected \(70000, 784\)"):
        load_fashion_mnist()


@pytest.mark.skipif(
    not datasets._DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_real_files_have_the_known_sizes_and_balance():
    X_train, y_train, X_test, y_test = load_fashion_mnist()
    assert (X_train.shape, X_test.shape) == ((60_000, 784), (10_000, 784))
    assert np.bincount(y_train).tolist() == [6000] * 10
    assert np.bincount(y_test).tolist() == [1000] * 10
    assert (X_train.min(), X_train.max()) == (0, 255)
    assert FASHION_MNIST_CLASSES[y_train[0]] == "Ankle boot"
