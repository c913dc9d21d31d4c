"""The checks that all rooms share."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    NormTemperatureScaling,
    TemperatureScaling,
    _checks,
    make_tabular,
    smoothing,
)
from sksmooth._checks import (
    as_numpy,
    check_choice,
    check_class_indices,
    check_proportions,
    check_range,
    check_share,
    check_sums,
    check_whole,
    grain_of,
    nearest,
)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("maen", " Did you mean 'mean'?"),
        ("MEAN", " Did you mean 'mean'?"),
        ("xyz", ""),
        (3, ""),
        (None, ""),
    ],
)
def test_nearest_name_is_a_hint(word, hint):
    assert nearest(word, ["mean", "sum", 2]) == hint


@pytest.mark.parametrize(
    ("value", "choices"), [("a", ("a", "b")), (1, [1, "max"]), (None, {None: 0, "a": 1})]
)
def test_choice_is_returned(value, choices):
    assert check_choice("form", value, choices) is value


@pytest.mark.parametrize(
    ("value", "choices", "error", "message"),
    [
        (["a"], ("a", "b"), TypeError, "form must be one of 'a', 'b'; got ['a']."),
        (None, ("a", "b"), TypeError, "form must be one of 'a', 'b'; got None."),
        ([1], [1, "max"], ValueError, "form must be one of 1, 'max'; got [1]."),
        ("mux", [1, "max"], ValueError, "1, 'max'; got 'mux'. Did you mean 'max'?"),
    ],
)
def test_other_choice_is_named(value, choices, error, message):
    with pytest.raises(error, match=re.escape(message) + "$"):
        check_choice("form", value, choices)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_tensors_of_any_dtype_are_arrays(dtype):
    tensor = torch.tensor([[1, 0]], dtype=dtype)
    if dtype.is_floating_point:
        tensor.requires_grad_()
    array = as_numpy(tensor)
    assert array.tolist() == [[1, 0]]
    if dtype != torch.bfloat16:
        assert array.dtype.name == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("values", "grain"),
    [
        (torch.ones(1, dtype=torch.bfloat16), 2**-7),
        (np.ones(1, np.float16), 2**-10),
        (np.ones(1, np.float32), 2**-23),
        (torch.ones(1, dtype=int), 2**-52),
        (np.ones(1, int), 2**-52),
        ([1.0], 2**-52),
        (pl.Series([1.0]), 2**-52),
    ],
)
def test_grain_is_that_of_the_type_given(values, grain):
    assert grain_of(values) == grain


def test_views_that_are_only_marked_as_negative_are_arrays():
    assert as_numpy(torch.tensor([1 + 2j]).conj().imag).tolist() == [-2]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, pl.Series])
def test_class_indices_of_any_kind(kind):
    codes = check_class_indices("y", kind([0, 2]), 3)
    assert codes.dtype == np.int64
    assert codes.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([[0], [1]], ValueError, "labels must have shape (n_samples,), got (2, 1): squeeze it"),
        (0, ValueError, "labels must have shape (n_samples,), got ()."),
        ([0.0], TypeError, "labels must hold class indices, integers from 0, got dtype float64"),
        ([0, -1], ValueError, "labels must hold class indices from 0 to 1, but labels[1] is -1."),
    ],
)
def test_other_class_indices_are_named(y, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_class_indices("labels", y, 2)


def test_index_out_of_range_is_named_in_any_shape():
    check_range("target", torch.zeros(0, dtype=int), 1)
    with pytest.raises(ValueError, match=r"from 0 to 1, as said, but target\[0, 1\] is 2\."):
        check_range("target", np.array([[0, 2]]), 2, ", as said")
    with pytest.raises(ValueError, match=r"but target is 2\."):
        check_range("target", torch.tensor(2), 2)


def test_proportions_are_float64():
    assert check_proportions("p", torch.tensor([1, 0]), (2,), "two").dtype == np.float64


def test_sums_are_of_rows_or_of_a_vector():
    check_sums("p", np.array([0.5, 0.51]), 0.02)
    with pytest.raises(ValueError, match=r"^p must sum to 1, but it sums to 1\.01\.$"):
        check_sums("p", np.array([0.5, 0.51]), 1e-3)
    with pytest.raises(ValueError, match=r"^each row of p must sum to 1, but row 0 sums to 2\.$"):
        check_sums("p", np.ones((1, 2), np.float16), 1e-3)


def test_numbers_are_pythons():
    assert type(check_whole("n", np.int64(3))) is int
    assert type(check_share("p", np.float32(0.5))) is float


def test_old_place_still_has_the_name():
    assert smoothing.check_choice is check_choice


def test_checks_import_nothing_of_the_package():
    with open(_checks.__file__) as source:
        assert not re.search(r"^\s*(from|import) sksmooth", source.read(), re.MULTILINE)


def test_warnings_point_at_the_line_of_the_user():
    X, y = make_tabular(60, random_state=0)
    wide = X * np.logspace(0, 4, 10)
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(10)])
    net = LabelSmoothingClassifier(max_epochs=1, random_state=0)
    crossed = LabelSmoothingClassifierCV(net, label_smoothings=(0.1,), cv=2, random_state=0)
    unlearnt = np.tile([[0.0, 1.0], [0.0, 1.0]], (4, 1))
    calls = [
        lambda: clone(net).fit(wide, y),
        lambda: clone(net).partial_fit(wide, y),
        lambda: clone(net).fit(X[:9], y[:9]),
        lambda: make_pipeline(FunctionTransformer(), clone(net)).fit(wide, y),
        lambda: clone(crossed).fit(wide, y),
        lambda: GridSearchCV(net, {"lr": [0.1]}, cv=2).fit(wide, y),
        lambda: BatchedGridSearchCV(net, {"lr": [0.1]}, cv=2).fit(wide, y),
        lambda: TemperatureScaling().fit(unlearnt, [1, 1] * 4),
        lambda: NormTemperatureScaling().fit(unlearnt, [1, 1] * 4),
        lambda: clone(net).set_params(classes=[0, 1, 2]).initialize().predict_proba(frame),
    ]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert caught
        assert {Path(own.filename).name for own in caught} == {Path(__file__).name}
