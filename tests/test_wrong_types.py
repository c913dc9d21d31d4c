"""Parameters of wrong types are refused by their names, before any training."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    LabelSmoothingLoss,
    NormTemperatureScaling,
    SimpleNet,
    TemperatureScaling,
    make_tabular,
)

X, Y = make_tabular(120, random_state=0)
NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("module", "criterion", "optimizer")
            for value in (3, "", None)
        ),
        *((name, value) for name in ("dataset", "iterator_train") for value in (3, "", None)),
        ("module", dict),
        ("dataset", list),
        ("optimizer", torch.optim.SGD([torch.zeros(1, requires_grad=True)])),
        ("optimizer__betas", 0.5),
        *(("optimizer__betas", value) for value in ([], {}, np.float64(0.5))),
        ("optimizer__eps", None),
        *(
            (f"optimizer__{name}", value)
            for name in ("lr", "eps", "weight_decay")
            for value in (True, np.True_, NAN, float("inf"))
        ),
        ("iterator_train__num_workers", True),
        ("iterator_train__num_workers", NAN),
        ("device", 10**30),
        ("optimizer__weight_decay", "a"),
        ("optimizer__unknown", 1),
        ("module__dropout", 2),
        ("criterion__unknown", 1),
        ("iterator_train__unknown", 1),
        *((name, True) for name in ("max_epochs", "lr", "batch_size", "patience", "random_state")),
        *(
            (f"iterator_train__{name}", value)
            for name in ("shuffle", "drop_last")
            for value in (NAN, 2)
        ),
        *(
            (f"iterator_{name}__batch_size", value)
            for name in ("train", "valid")
            for value in (0, NAN)
        ),
        *(("compile", value) for value in (float("inf"), None, "no")),
        ("torch_load_kwargs", 3),
        ("class_weight", {0: "a"}),
        ("class_weight", {0: NAN}),
        ("class_weight", {0: -1.0}),
        ("class_weight", {7: 1.0}),
        ("class_weight", {0: 0, 1: 0, 2: 0}),
        ("classes", {"a": 1}),
        ("classes", torch.tensor(1.0)),
        ("warm_start", np.array([1, 2])),
        *(("module__hidden_layer_sizes", value) for value in (b"x", "8", {8: 4}, 2.5)),
    ],
)
def test_wrong_type_is_refused_by_its_name(name, value):
    net = LabelSmoothingClassifier(**{name: value})
    with pytest.raises((TypeError, ValueError), match=name) as refused:
        net.fit(X, Y)
    assert repr(value) in str(refused.value) or getattr(value, "__name__", "?") in str(
        refused.value
    )
    assert not hasattr(net, "module_")


@pytest.mark.parametrize("part", ["dataset", "iterator_train", "iterator_valid", "optimizer"])
def test_what_gives_no_part_is_named(part):
    net = LabelSmoothingClassifier(**{part: lambda *_, **__: 17}, train_split=0.2)
    with pytest.raises(TypeError, match=rf"{part}=.* cannot be made.* but 17"):
        net.fit(X, Y)
    assert not hasattr(net, "classes_")


@pytest.mark.parametrize("split", [dict, torch.nn.Linear, lambda *_: 17, lambda: None])
def test_what_gives_no_split_is_named(split):
    with pytest.raises(TypeError, match="train_split: "):
        LabelSmoothingClassifier(train_split=split).fit(X, Y)


def test_more_folds_than_an_integer_of_torch_can_be():
    with pytest.warns(UserWarning, match="Too few rows to hold any out"):
        LabelSmoothingClassifier(train_split=10**30, max_epochs=1).fit(X, Y)


@pytest.mark.parametrize("name", ["cv", "encodings", "label_smoothings"])
def test_arrays_without_a_dimension_are_refused_by_their_name(name):
    with pytest.raises(TypeError, match=f"{name}: "):
        LabelSmoothingClassifierCV(**{name: np.array(0.1)}).fit(X, Y)


@pytest.mark.parametrize(("name", "value"), [("cv", b"x"), ("cv", [3]), ("max_members", True)])
def test_parameters_of_a_search_of_wrong_types_are_refused_by_their_name(name, value):
    search = BatchedGridSearchCV(LabelSmoothingClassifier(), {"lr": [0.1]}, **{name: value})
    with pytest.raises((TypeError, ValueError), match=name):
        search.fit(X, Y)


@pytest.mark.parametrize("name", ["module_", "history_", "_training", "callbacks__print_logg"])
def test_what_is_no_parameter_is_not_set_on_a_fitted_net(name):
    net = LabelSmoothingClassifier(max_epochs=1).fit(X, Y)
    before = net.predict_proba(X)
    with pytest.raises(ValueError, match=f"{name}|no parameter"):
        net.set_params(**{name: 1})
    np.testing.assert_array_equal(net.predict_proba(X), before)


@pytest.mark.parametrize("given", [None, 3, list, ("name", 3), ("name",)])
def test_what_is_no_callback_is_refused(given):
    with pytest.raises(ValueError, match="callbacks must hold") as refused:
        LabelSmoothingClassifier(callbacks=[given]).fit(X, Y)
    assert repr(given) in str(refused.value)


@pytest.mark.parametrize(
    "cv",
    [[None], {"a": 1}, [(1,)], [(1, 2)], [([0, 1], [NAN])], [(np.arange(9), [9999])]],
)
def test_what_are_no_splits_is_refused(cv):
    with pytest.raises(ValueError, match=r"cv must give pairs \(train, test\)"):
        LabelSmoothingClassifierCV(cv=cv).fit(X, Y)


@pytest.mark.parametrize("cv", [[(1, 2)], [([0, 1], [NAN])], [(np.arange(9), [9999])]])
def test_what_are_no_splits_of_a_search_is_refused(cv):
    with pytest.raises(ValueError, match=r"cv must give pairs \(train, test\)"):
        BatchedGridSearchCV(LabelSmoothingClassifier(), {"lr": [0.1]}, cv=cv).fit(X, Y)


WRONG_WEIGHTS = [
    NAN,
    float("inf"),
    -1.0,
    0,
    "balanced",
    {0: 1.0},
    np.zeros(120),
    np.full(120, NAN),
    np.r_[float("inf"), np.ones(119)],
    np.r_[-1.0, np.ones(119)],
    np.ones(119),
    np.ones((120, 2)),
    np.full(120, "a"),
    np.full(120, None),
    np.full(120, 1j),
    np.full(120, 1, dtype="timedelta64[s]"),
    pd.Series(pd.to_datetime(["2020-01-01"] * 120)),
]


@pytest.mark.parametrize("weight", WRONG_WEIGHTS, ids=lambda weight: repr(weight)[:20])
def test_wrong_weights_are_refused_by_their_name(weight):
    ensemble = LabelSmoothingClassifierCV(LabelSmoothingClassifier(max_epochs=2))
    for estimator in (LabelSmoothingClassifier(max_epochs=2), ensemble):
        with pytest.raises((TypeError, ValueError), match=r"(?i)sample.weight"):
            estimator.fit(X, Y, sample_weight=weight)
        assert not hasattr(estimator, "classes_")
    with pytest.raises((TypeError, ValueError), match=r"(?i)sample.weight"):
        LabelSmoothingClassifier().partial_fit(X, Y, sample_weight=weight)
    for calibrator in (TemperatureScaling(), NormTemperatureScaling()):
        with pytest.raises((TypeError, ValueError), match=r"(?i)sample.weight"):
            calibrator.fit(X[:, :3], Y, sample_weight=weight)
        assert not hasattr(calibrator, "temperature_")


@pytest.mark.parametrize("value", [None, "a", 1.5, True, NAN, [0]])
def test_ignore_index_of_a_wrong_type(value):
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        LabelSmoothingLoss(ignore_index=value)(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_error_of_a_module_of_ones_own_says_what_it_was_made_with():
    class Mine(torch.nn.Module):
        def __init__(self, n_classes, depth):
            raise ValueError(f"depth {depth} is too small")

    with pytest.raises(
        ValueError, match=r"module=Mine cannot be made with module__depth=1: depth 1"
    ):
        LabelSmoothingClassifier(Mine, module__depth=1).fit(X, Y)


@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0], np.ones(3)])
def test_weight_of_the_loss_that_is_no_tensor(weight):
    with pytest.raises(TypeError, match=r"weight must be a torch.Tensor, one weight a class, got"):
        LabelSmoothingLoss(weight=weight)


def test_width_of_hidden_layers_that_is_text():
    with pytest.raises(TypeError, match=r"hidden_layer_sizes must be a positive .* got '64'"):
        SimpleNet(hidden_layer_sizes="64")


def test_a_pipeline_is_told_to_go_around_the_cross_validated_classifier():
    pipe = make_pipeline(StandardScaler(), LabelSmoothingClassifier())
    with pytest.raises(ValueError, match=r"without steps .*\(\), LabelSmoothingClassifierCV\(\)"):
        LabelSmoothingClassifierCV(pipe).fit(X, Y)


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ("acuracy", "names 'acuracy', .* Did you mean 'accuracy'"),
        ("log_loss", "names 'log_loss', .* Did you mean 'neg_log_loss'"),
        (log_loss, r"a metric, log_loss, where a scorer belongs.*make_scorer\(log_loss\)"),
    ],
)
def test_scoring_that_is_no_scorer(scoring, message):
    net = LabelSmoothingClassifier(max_epochs=1)
    search = BatchedGridSearchCV(net, {"lr": [0.1]}, scoring=scoring)
    for estimator in (search, LabelSmoothingClassifierCV(net, scoring=scoring)):
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, Y)
