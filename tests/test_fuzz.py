"""Random data and parameters: a right answer or a documented error, nothing else."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from sksmooth import LabelSmoothingClassifier

LABELS = {
    "int": np.arange(5),
    "negative int": np.arange(5) - 2,
    "float": np.arange(5.0),
    "str": np.array(["ant", "bee", "cat", "dog", "emu"]),
    "object": np.array(["ant", "bee", "cat", "dog", "emu"], dtype=object),
    "bool": np.array([False, True, False, True, False]),
}
DTYPES = [np.float16, np.float32, np.float64, np.int64, np.uint8, bool]
CONTAINERS = {
    "C order": np.asarray,
    "Fortran order": np.asfortranarray,
    "frame": lambda X: pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]),
    "list": lambda X: X.tolist(),
    "tensor": torch.from_numpy,
}
# What a message may speak of when it refuses the data.
DATA_WORDS = (
    "2D array",
    "class",
    "Sample weights",
    "drop",
    "feature(s)",
    "sample(s)",
    "sample_weight",
    "turned",
)


@st.composite
def tables(draw):
    """Draw rows, labels and weights, of which some may be of a kind that cannot be learnt."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_rows, n_features = draw(st.integers(0, 70)), draw(st.integers(1, 6))
    scale = draw(st.sampled_from([0.0, 1.0, 100.0]))
    X = np.abs(scale * rng.normal(size=(n_rows, n_features))).astype(draw(st.sampled_from(DTYPES)))
    labels = LABELS[draw(st.sampled_from(list(LABELS)))]
    y = labels[rng.integers(0, draw(st.integers(1, 5)), size=n_rows)]
    weight = {
        "none": None,
        "ones": np.ones(n_rows),
        "integer": rng.integers(0, 3, size=n_rows),
        "uniform": rng.uniform(size=n_rows),
        "tiny": np.full(n_rows, 1e-12),
        "zero": np.zeros(n_rows),
    }[draw(st.sampled_from(["none", "ones", "integer", "uniform", "tiny", "zero"]))]
    return X, y, weight


valid_parameters = st.fixed_dictionaries(
    {"max_epochs": st.integers(1, 3), "random_state": st.integers(0, 2**32 - 1)},
    optional={
        "label_smoothing": st.floats(0, 1, exclude_max=True),
        "smoothing": st.sampled_from(["uniform", "off_target", "prior"]),
        "calibration": st.sampled_from([None, "temperature"]),
        "class_weight": st.sampled_from([None, "balanced"]),
        "batch_size": st.sampled_from([-1, 1, 7, 64, 1000]),
        "lr": st.floats(1e-6, 1e6),
        "early_stopping": st.booleans(),
        "patience": st.integers(1, 3),
        "train_split": st.sampled_from([None, 0.01, 0.2, 0.5, 0.99]),
        "optimizer": st.sampled_from([torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam]),
        "module__hidden_layer_sizes": st.sampled_from([(), (1,), (8, 4)]),
        "module__dropout": st.floats(0, 0.9),
        "iterator_train__drop_last": st.booleans(),
    },
)


def quietly(fit, *args, **fit_params):
    """Fit, and let pass the two warnings that are documented."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Too few rows to hold any out", UserWarning)
        warnings.filterwarnings("ignore", "No temperature", ConvergenceWarning)
        return fit(*args, **fit_params)


def refusal(fit, *args, **fit_params):
    """Fit, and give the error of a kind that is documented, or None."""
    try:
        quietly(fit, *args, **fit_params)
    except (ValueError, TypeError) as error:
        return error


def assert_right_answer(net, X, y):
    n_rows, classes = len(X), np.unique(y)
    np.testing.assert_array_equal(net.classes_, classes)
    proba = net.predict_proba(X)
    assert proba.shape == (n_rows, len(classes))
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert (proba >= 0).all()
    log_proba = net.predict_log_proba(X)
    assert np.isfinite(log_proba).all()
    np.testing.assert_allclose(np.exp(log_proba), proba, atol=1e-6)
    decision = net.decision_function(X)
    assert decision.shape == ((n_rows,) if len(classes) == 2 else proba.shape)
    predicted = net.predict(X)
    assert predicted.dtype == y.dtype
    np.testing.assert_array_equal(predicted, classes[proba.argmax(axis=1)])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), valid_parameters, st.sampled_from(list(CONTAINERS)))
def test_fit_gives_a_right_answer_or_says_what_is_wrong_with_the_data(table, parameters, container):
    X, y, weight = table
    net = LabelSmoothingClassifier(**parameters)
    rows = CONTAINERS[container](X)
    error = refusal(net.fit, rows, y, sample_weight=weight)
    if error is None:
        assert_right_answer(net, rows, y)
    else:
        assert any(word in str(error) for word in DATA_WORDS), error
        assert not hasattr(net, "module_")


NUMBERS = st.one_of(st.integers(-3, 3), st.floats(-2, 2), st.just(float("nan")))
ODD_VALUES = st.one_of(
    NUMBERS, st.text(max_size=5), st.none(), st.booleans(), st.lists(NUMBERS, max_size=3)
)


@settings(max_examples=100)
@given(
    name=st.sampled_from(
        [
            "label_smoothing",
            "smoothing",
            "calibration",
            "class_weight",
            "batch_size",
            "max_epochs",
            "patience",
            "lr",
            "train_split",
            "random_state",
            "early_stopping",
            "warm_start",
            "verbose",
            "device",
            "classes",
            "module__dropout",
            "module__activation",
            "module__hidden_layer_sizes",
        ]
    ),
    value=ODD_VALUES,
)
def test_any_value_of_a_parameter_works_or_is_refused_by_name(name, value):
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = np.arange(60) % 2
    net = LabelSmoothingClassifier(**{"max_epochs": 2, "random_state": 0, name: value})
    error = refusal(net.fit, X, y)
    if error is None:
        assert_right_answer(net, X, y)
    else:
        assert name.removeprefix("module__") in str(error)
        assert not hasattr(net, "module_")


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["fit", "partial_fit", "warm fit", "bad fit"]), max_size=5),
    st.integers(2, 4),
)
def test_any_order_of_fits_leaves_a_classifier_that_predicts(calls, n_classes):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % n_classes
    net = LabelSmoothingClassifier(max_epochs=1, random_state=0)
    for call in calls:
        if call == "bad fit":
            with pytest.raises(ValueError, match="Input X contains NaN"):
                net.fit(np.full_like(X, np.nan), y)
        elif call == "partial_fit":
            quietly(net.partial_fit, X, y, classes=np.arange(n_classes))
        else:
            quietly(net.set_params(warm_start=call == "warm fit").fit, X, y)
    fitted = any(call != "bad fit" for call in calls)
    assert hasattr(net, "module_") == fitted
    if fitted:
        assert_right_answer(net, X, y)
