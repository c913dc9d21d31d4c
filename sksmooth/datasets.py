"""Data to try label smoothing on: a made-up table of any shape, and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state, check_scalar

from sksmooth._checks import check_whole

__all__ = ["FASHION_MNIST_CLASSES", "load_fashion_mnist", "make_tabular"]

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_IMAGE_SHAPE = (28, 28)
_N_TRAIN, _N_TEST = 60_000, 10_000
_IDX_UINT8 = 0x08

FashionMNIST = tuple[
    NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]
]  # X_train, y_train, X_test, y_test


def make_tabular(
    n_samples: int = 1000,
    n_features: int = 10,
    n_classes: int = 3,
    label_noise: float = 0.0,
    as_frame: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Any, Any]:
    """Make a table of numbers with balanced classes that a small net can learn.

    Half of the features carry the classes, a quarter are linear combinations of those, the
    rest is noise. Each class lies in two clusters where there are features enough, so a net
    does better than a linear model. The samples are drawn by
    :func:`sklearn.datasets.make_classification`. The same int `random_state` gives the same `X`,
    and the same labels before the noise, whatever `label_noise` is.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows, at least `n_classes`.
    n_features : int, default=10
        Number of columns. ``2 ** n_features`` must be at least `n_classes`.
    n_classes : int, default=3
        Number of classes, at least 2.
    label_noise : float, default=0.0
        Fraction of the labels, in [0, 1], that are replaced by another class, drawn uniformly.
    as_frame : bool, default=False
        If True, return a DataFrame with columns ``feature_0``, ``feature_1``, ... and a Series
        named ``target``.
    random_state : int, RandomState instance or None, default=None
        Seeds the samples and the noise.

    Returns
    -------
    X : ndarray or DataFrame of shape (n_samples, n_features), float64
        The features.
    y : ndarray or Series of shape (n_samples,), int64
        The labels, 0 to ``n_classes - 1``.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or is out of its range, or if there are too few
        features or samples for `n_classes`.

    Examples
    --------
    >>> from sksmooth.datasets import make_tabular
    >>> X, y = make_tabular(n_samples=6, n_features=4, n_classes=3, random_state=0)
    >>> X.shape
    (6, 4)
    >>> y.tolist()
    [2, 1, 1, 2, 0, 0]
    >>> _, noisy = make_tabular(
    ...     n_samples=6, n_features=4, n_classes=3, label_noise=0.5, random_state=0
    ... )
    >>> int((noisy != y).sum())
    3
    """
    check_scalar(n_classes, "n_classes", Integral, min_val=2)
    check_whole("n_samples", n_samples)
    check_whole("n_features", n_features)
    check_scalar(label_noise, "label_noise", Real)
    if not 0 <= label_noise <= 1:  # check_scalar lets nan through
        raise ValueError(f"label_noise={label_noise} must be in [0, 1].")
    if n_samples < n_classes:
        raise ValueError(
            f"n_samples={n_samples} is too few for n_classes={n_classes}: "
            "every class needs at least one sample."
        )
    # make_classification puts each cluster on a corner of a hypercube of the informative features.
    min_informative = math.ceil(math.log2(n_classes))
    if n_features < min_informative:
        raise ValueError(
            f"n_features={n_features} is too few for n_classes={n_classes}: "
            f"2 ** n_features must be at least n_classes, so use n_features >= {min_informative}."
        )
    from sklearn.datasets import make_classification  # loads much that predict_proba needs not

    n_informative = max(min_informative, min(min_informative + 1, n_features), n_features // 2)
    rng = check_random_state(random_state)
    X, y = make_classification(
        n_samples=n_samples,
        n_features=n_features,
        n_informative=n_informative,
        n_redundant=min(n_features // 4, n_features - n_informative),
        n_classes=n_classes,
        n_clusters_per_class=2 if n_informative > min_informative else 1,
        class_sep=1.2,
        flip_y=0.0,
        random_state=rng,
    )
    y = _replace_labels(y.astype(np.int64), n_classes, label_noise, rng)
    if not as_frame:
        return X, y
    columns = [f"feature_{i}" for i in range(n_features)]
    return pd.DataFrame(X, columns=columns), pd.Series(y, name="target")


def _replace_labels(
    y: NDArray[np.int64], n_classes: int, fraction: float, rng: np.random.RandomState
) -> NDArray[np.int64]:
    """Replace a fraction of the labels, each by one of the other classes."""
    rows = rng.permutation(len(y))[: round(fraction * len(y))]
    noisy = y.copy()
    noisy[rows] = (y[rows] + rng.randint(1, n_classes, size=len(rows))) % n_classes
    return noisy


def load_fashion_mnist(folder: str | PathLike[str] | None = None) -> FashionMNIST:
    """Load Fashion-MNIST: 70,000 grey images of clothes, 28 × 28 pixels, ten classes.

    Without a `folder`, the files of Debian's package ``dataset-fashion-mnist`` are read where
    it is installed; otherwise :func:`sklearn.datasets.fetch_openml` downloads the data once and
    keeps it in scikit-learn's cache.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    folder : path-like, default=None
        Folder of the four IDX files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, as they are or with ``.gz``.
        If given, nothing else is tried.

    Returns
    -------
    X_train : ndarray of shape (60000, 784), uint8
        Pixels of the training images, row by row, 0 (background) to 255.
    y_train : ndarray of shape (60000,), int64
        Training labels, 0 to 9, named by ``FASHION_MNIST_CLASSES``.
    X_test : ndarray of shape (10000, 784), uint8
        Pixels of the test images.
    y_test : ndarray of shape (10000,), int64
        Test labels.

    Raises
    ------
    FileNotFoundError
        If `folder` lacks one of the files.
    ValueError
        If a file is not IDX, is truncated, or does not hold such images or labels.
    OSError
        If the data are neither on this machine nor to be downloaded.

    References
    ----------
    Xiao, Rasul and Vollgraf 2017, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms, arXiv 1708.07747.

    Examples
    --------
    >>> from sksmooth.datasets import FASHION_MNIST_CLASSES, load_fashion_mnist
    >>> X_train, y_train, X_test, y_test = load_fashion_mnist()  # doctest: +SKIP
    >>> X_train.shape  # doctest: +SKIP
    (60000, 784)
    >>> FASHION_MNIST_CLASSES[9]
    'Ankle boot'
    """
    if folder is not None:
        return _load_folder(Path(folder))
    if _DEBIAN_FOLDER.is_dir():
        return _load_folder(_DEBIAN_FOLDER)
    return _load_openml()


def _load_folder(folder: Path) -> FashionMNIST:
    return *_load_part(folder, "train"), *_load_part(folder, "t10k")


def _load_part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images_path = _find_file(folder, f"{part}-images-idx3-ubyte")
    labels_path = _find_file(folder, f"{part}-labels-idx1-ubyte")
    images, labels = _read_idx(images_path, ndim=3), _read_idx(labels_path, ndim=1)
    if images.shape[1:] != _IMAGE_SHAPE:
        raise ValueError(
            f"{images_path} holds images of shape {images.shape[1:]}, expected {_IMAGE_SHAPE}."
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels."
        )
    return images.reshape(len(images), -1), labels.astype(np.int64)


def _find_file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"folder={str(folder)!r} holds neither {name} nor {name}.gz.")


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: magic number, the sizes as big-endian uint32, the values."""
    content = _read_bytes(path)
    magic = bytes([0, 0, _IDX_UINT8, ndim])
    if content[:4] != magic:
        raise ValueError(
            f"{path} is not an IDX file of {ndim}-dimensional bytes: it starts with "
            f"0x{content[:4].hex()}, expected 0x{magic.hex()}."
        )
    header_size = 4 + 4 * ndim
    if len(content) < header_size:
        raise ValueError(f"{path} is truncated: its header has {len(content)} of {header_size} B.")
    shape = tuple(np.frombuffer(content, dtype=">u4", count=ndim, offset=4).tolist())
    n_values = len(content) - header_size
    if n_values != math.prod(shape):
        state = "truncated" if n_values < math.prod(shape) else "longer than its header says"
        raise ValueError(
            f"{path} is {state}: shape {shape} needs {math.prod(shape)} values, got {n_values}."
        )
    # A copy, because an array over bytes is read-only.
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape).copy()


def _read_bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or not a gzip file: {error}") from error


def _load_openml() -> FashionMNIST:
    from sklearn.datasets import fetch_openml  # as above

    try:
        X, y = fetch_openml("Fashion-MNIST", version=1, return_X_y=True, as_frame=False)
    except (OSError, ValueError) as error:
        raise OSError(
            "Fashion-MNIST is not on this machine, and OpenML could not be reached "
            f"({type(error).__name__}: {error}). Either install Debian's package "
            "dataset-fashion-mnist, or pass folder= with the four IDX files of "
            "https://github.com/zalandoresearch/fashion-mnist."
        ) from error
    expected_shape = (_N_TRAIN + _N_TEST, math.prod(_IMAGE_SHAPE))
    if X.shape != expected_shape:
        raise ValueError(f"OpenML's Fashion-MNIST has shape {X.shape}, expected {expected_shape}.")
    X, y = X.astype(np.uint8), y.astype(np.int64)
    return X[:_N_TRAIN], y[:_N_TRAIN], X[_N_TRAIN:], y[_N_TRAIN:]
