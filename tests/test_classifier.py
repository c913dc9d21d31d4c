import copy
import operator
import pickle
import random
import time
import warnings
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.utils.class_weight import compute_sample_weight
from skorch.callbacks import Callback, LRScheduler, ProgressBar
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from sksmooth import (
    LabelSmoothingClassifier,
    LabelSmoothingLoss,
    NormTemperatureScaling,
    SimpleNet,
    TemperatureScaling,
    make_tabular,
    smoothing_matrix,
)

SPECIES = np.array(["setosa", "versicolor", "virginica"])
ORDINAL = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
HELD_OUT = slice(100, 150)


@pytest.fixture
def iris():
    """Give scaled, shuffled rows, no two of them equal, and labels that are strings."""
    X, codes = load_iris(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rng = np.random.default_rng(0)
    X += rng.normal(scale=1e-3, size=X.shape)
    order = rng.permutation(len(X))
    return X[order].astype(np.float32), SPECIES[codes[order]]


def quick(**params):
    """Make a classifier that is trained in a moment, reproducibly."""
    module = {} if "module" in params else {"module__dropout": 0.0}
    small = {"max_epochs": 3, "lr": 0.003, "random_state": 0, **module}
    return LabelSmoothingClassifier(**{**small, **params})


def hold_out_the_last_50(dataset, y=None):
    return Subset(dataset, range(100)), Subset(dataset, range(100, 150))


class TupleNet(nn.Module):
    """Returns its hidden layer beside the logits."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.net = SimpleNet(n_features, n_classes, dropout=0.0)

    def forward(self, x):
        return self.net(x, return_activations=True)


class WideOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        return self.out(x)


class FirstBatch(Callback):
    """Keep the first training batch and the logits that the untrained net gives for it."""

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training and not hasattr(self, "logits_"):
            X, self.y_ = batch
            self.logits_ = net.module_(X).detach().double().numpy()


class InterruptAfter(Callback):
    """Press Ctrl-C in the middle of an epoch."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_batch_end(self, net, training=False, **kwargs):
        if training and len(net.history) > self.epochs:
            raise KeyboardInterrupt


# -- parameters -------------------------------------------------------------------------------


def test_init_stores_the_parameters_and_nothing_else():
    calibrator = TemperatureScaling()
    net = LabelSmoothingClassifier(
        calibration=calibrator, label_smoothing=7, module__dropout=0.5, not_a_parameter=1
    )
    assert set(vars(net)) == set(net.get_params(deep=False))
    assert net.calibration is calibrator
    assert net.label_smoothing == 7


def test_clone_copies_every_parameter_and_nothing_learned(iris):
    net = quick(module__hidden_layer_sizes=(8,), smoothing=ORDINAL, lr=0.01).fit(*iris)
    cloned = clone(net)
    assert cloned.module__hidden_layer_sizes == (8,)
    assert_array_equal(cloned.smoothing, ORDINAL)
    assert not [name for name in vars(cloned) if name.endswith("_")]


BAD_PARAMETERS = [
    ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\), got -0.1"),
    ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
    ({"label_smoothing": "0.1"}, "label_smoothing must be a real number .* got '0.1'"),
    ({"label_smoothing": float("nan")}, "label_smoothing must be .* got nan"),
    ({"smoothing": "unifrom"}, "smoothing .* got 'unifrom'. Did you mean 'uniform'"),
    ({"smoothing": np.full((2, 2), 0.5)}, r"smoothing .* shape \(3, 3\), got .* \(2, 2\)"),
    ({"smoothing": np.eye(3) * 3 - 2 / 3}, r"smoothing .* non-negative, .* is -0.66"),
    ({"smoothing": np.ones((3, 3))}, "row of smoothing must sum to 1, but row 0 sums to 3"),
    ({"smoothing": 3}, "'smoothing' .* Got 3"),
    ({"calibration": "temprature"}, "'calibration' .*'temperature'.* Got 'temprature'"),
    ({"calibration": 3}, "'calibration' .* 'predict_proba'. Got 3"),
    ({"class_weight": "balancd"}, "'class_weight' .*'balanced'.* Got 'balancd'"),
    ({"class_weight": {"tulip": 2.0}}, "class_weight=.*names .*'tulip'.*none of the classes"),
    ({"class_weight": {"setosa": -1.0}}, "class_weight=.*-1.0.* non-negative"),
    ({"class_weight": {"setosa": float("nan")}}, "class_weight=.*nan.* finite"),
    ({"batch_size": 0}, r"'batch_size' .* Got 0"),
    ({"batch_size": -2}, r"'batch_size' .* Got -2"),
    ({"max_epochs": 0}, r"'max_epochs' .* Got 0"),
    ({"patience": 0}, r"'patience' .* Got 0"),
    ({"train_split": 1.5}, r"'train_split' .* Got 1.5"),
    ({"random_state": "zero"}, "'random_state' .* Got 'zero'"),
    ({"lr": 1e30}, r"loss turned nan in epoch \d+.* learning rate than lr=1e\+30 .*scaled"),
]
GOOD_PARAMETERS = {
    "label_smoothing": 0.1,
    "smoothing": "uniform",
    "calibration": "norm_temperature",
    "class_weight": None,
    "batch_size": 64,
    "max_epochs": 3,
    "patience": 40,
    "train_split": 0.2,
    "random_state": 0,
    "lr": 0.003,
}


@pytest.mark.parametrize(("bad", "message"), BAD_PARAMETERS)
def test_bad_parameter_is_refused_by_name_and_value_and_a_good_one_then_works(bad, message, iris):
    net = quick(**bad)
    parameters = set(vars(net))
    with pytest.raises((ValueError, TypeError), match=message):
        net.fit(*iris)
    assert set(vars(net)) == parameters
    with pytest.raises(NotFittedError):
        net.predict(iris[0])
    net.set_params(**{name: GOOD_PARAMETERS[name] for name in bad}).fit(*iris)
    assert_array_equal(net.predict_proba(iris[0]), quick().fit(*iris).predict_proba(iris[0]))


@pytest.mark.parametrize(("bad", "message"), BAD_PARAMETERS)
def test_failed_fit_leaves_a_fitted_net_as_it_was(bad, message, iris):
    X, y = iris
    net = quick().fit(X, y)
    before = net.predict_proba(X)
    n_epochs = len(net.history)
    net.set_params(**bad)
    with pytest.raises((ValueError, TypeError), match=message):
        net.fit(X, y)
    assert_array_equal(net.predict_proba(X), before)
    assert len(net.history) == n_epochs
    assert_array_equal(net.classes_, SPECIES)


@pytest.mark.parametrize("warm_start", [False, True])
def test_loss_that_turns_nan_leaves_a_fitted_net_as_it_was(warm_start, iris):
    X, y = iris
    net = quick(warm_start=warm_start).fit(X, y)
    before = net.predict_proba(X)
    with pytest.raises(ValueError, match="loss turned nan in epoch"):
        net.set_params(lr=1e30).fit(X, y)
    assert_array_equal(net.predict_proba(X), before)
    assert np.isfinite(net.set_params(lr=0.003).fit(X, y).predict_proba(X)).all()


def test_features_too_large_for_the_loss_are_said_to_need_scaling(iris):
    X, y = iris
    net = quick(optimizer=torch.optim.SGD)
    with pytest.raises(ValueError, match=r"loss turned (nan|inf) in epoch 1.*StandardScaler"):
        net.fit(X * 1e20, y)


def test_last_step_that_ruins_the_net_is_found_out_though_no_loss_follows_it(iris):
    X, y = iris
    net = quick(train_split=None, batch_size=-1, max_epochs=1, lr=1e38)
    with pytest.raises(ValueError, match=r"parameters turned infinite or NaN in epoch 1.* lr=1e"):
        net.set_params(optimizer=torch.optim.SGD).fit(1e8 * X, y)
    assert not hasattr(net, "module_")


def test_no_full_batch_to_train_on_is_an_error(iris):
    net = quick(iterator_train__drop_last=True, batch_size=128)
    with pytest.raises(ValueError, match="120 rows to train on are fewer than batch_size=128"):
        net.fit(*iris)


def test_missing_class_is_named(iris):
    with pytest.raises(ValueError, match="Input classes contains NaN or None"):
        quick(classes=["setosa", "versicolor", None]).fit(*iris)


@pytest.mark.parametrize("name", ["smooth_labels", "smoothing_eps", "label_smooth", "epsilon"])
def test_misspelt_label_smoothing_is_recognised(name, iris):
    message = f"'{name}' .got {name}=0.2.; did you mean label_smoothing?"
    with pytest.raises(TypeError, match=message):
        quick(**{name: 0.2}).fit(*iris)
    net = quick()
    with pytest.raises(ValueError, match=message):
        net.set_params(**{name: 0.2})
    assert name not in net.get_params()
    net.fit(*iris)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("learning_rate", "lr"),
        ("hidden_layer_sizes", "module__hidden_layer_sizes"),
        ("batchsize", "batch_size"),
        ("class_weights", "class_weight"),
    ],
)
def test_other_misspelt_names_get_a_suggestion(name, nearest, iris):
    with pytest.raises(TypeError, match=f"no parameter '{name}'.*did you mean {nearest}"):
        quick(**{name: 1}).fit(*iris)


def test_name_like_no_parameter_gets_no_suggestion(iris):
    with pytest.raises(TypeError, match=r"no parameter 'qqq' \(got qqq=1\)\.$"):
        quick(qqq=1).fit(*iris)


def test_batch_size_of_minus_one_takes_all_rows_at_once(iris):
    X, y = iris
    whole = quick(batch_size=-1).fit(X, y)
    assert len(whole.history[0, "batches"]) == 2  # one in training, one on the held-out rows
    counted = quick(batch_size=120).fit(X, y)
    assert_allclose(whole.predict_proba(X), counted.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_device_that_is_not_there_is_named_at_fit(device, iris):
    net = quick(device=device)
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used here.*CUDA device"):
        net.fit(*iris)
    net.set_params(device="cpu").fit(*iris)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_an_error_that_says_so(iris):
    with pytest.raises(ValueError, match=r"device='cuda' .*no CUDA device.*device='cpu'"):
        quick(device="cuda").fit(*iris)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_net_fitted_on_cuda_predicts_on_the_cpu_after_pickling(iris):
    X, y = iris
    net = quick(device="cuda").fit(X, y)
    moved = copy.deepcopy(net)
    moved.set_params(device="cpu")
    moved = pickle.loads(pickle.dumps(moved))
    assert_allclose(moved.predict_proba(X), net.predict_proba(X), atol=1e-5)


def test_module_whose_output_has_the_wrong_width_is_refused(iris):
    net = quick(module=WideOutput)
    with pytest.raises(ValueError, match=r"module=WideOutput .*\(64, 5\), but y has 3 classes"):
        net.fit(*iris)
    net.set_params(module=SimpleNet).fit(*iris)


# -- data -------------------------------------------------------------------------------------


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
        "text in X": (np.full((60, 4), "a"), y, {}, "could not convert string to float"),
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


def test_every_prediction_needs_fit(iris):
    X, y = iris
    methods = ("predict", "predict_proba", "predict_log_proba", "decision_function", "confidence")
    for method in methods:
        with pytest.raises(NotFittedError):
            getattr(quick(), method)(X)
    with pytest.raises(NotFittedError):
        quick().score(X, y)


def test_more_than_two_dimensions_are_flattened_by_the_default_net(iris):
    X, y = iris
    flat = quick().fit(X, y)
    images = X.reshape(-1, 2, 1, 2)
    assert_array_equal(quick().fit(images, y).predict_proba(images), flat.predict_proba(X))


def test_module_gets_more_than_two_dimensions_as_they_are():
    rng = np.random.default_rng(0)
    y = np.arange(150) % 2
    images = rng.normal(size=(150, 1, 6, 6)) + y[:, None, None, None]
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    net = quick(module=convolution, max_epochs=15, lr=0.01).fit(images, y)
    assert net.score(images, y) > 0.95


def test_too_few_rows_to_hold_any_out_warns_and_trains_uncalibrated(iris):
    X, y = iris
    net = quick()
    with pytest.warns(UserWarning, match=r"train_split=0.2: trained on all .*without calibration"):
        net.fit(X[:40], y[:40])
    assert net.calibrator_ is None
    assert net.best_epoch_ == 3
    assert "valid_loss" not in net.history[0]
    logits = net.forward(X).numpy()
    assert_allclose(net.predict_proba(X), softmax(logits.astype(float), axis=1), rtol=1e-6)


# -- the loss ---------------------------------------------------------------------------------


def first_loss(net, X, y):
    """Give the first batch's recorded loss, its untrained logits and its class indices."""
    net.set_params(batch_size=-1)
    unheard = clone(net).fit(X, y)  # without callbacks, other code may train the net
    net.set_params(callbacks=[("first", FirstBatch())]).fit(X, y)
    first = dict(net.callbacks_)["first"]
    loss = net.history[0, "batches", 0, "train_loss"]
    assert unheard.history[0, "train_loss"] == pytest.approx(loss, rel=1e-5)
    return loss, first.logits_, first.y_.numpy()


def loss_by_hand(logits, codes, T):
    return -(T[codes] * log_softmax(logits, axis=1)).sum(axis=1).mean()


@pytest.mark.parametrize("criterion", [LabelSmoothingLoss, nn.CrossEntropyLoss])
@pytest.mark.parametrize("label_smoothing", [0, 0.1, 0.4])
def test_label_smoothing_reaches_the_loss(criterion, label_smoothing, iris):
    net = quick(criterion=criterion, label_smoothing=label_smoothing)
    loss, logits, codes = first_loss(net, *iris)
    T = (1 - label_smoothing) * np.eye(3) + label_smoothing / 3
    assert loss == pytest.approx(loss_by_hand(logits, codes, T), rel=1e-5)


@pytest.mark.parametrize("smoothing", ["uniform", "off_target", "prior", ORDINAL])
def test_smoothing_reaches_the_loss(smoothing, iris):
    X, y = iris
    X, y = X[10:], y[10:]  # classes that are not equally frequent
    prior = (y[:, None] == SPECIES).mean(axis=0)
    net = quick(label_smoothing=0.3, smoothing=smoothing)
    loss, logits, codes = first_loss(net, X, y)
    assert_allclose(net.class_prior_, prior)
    T = smoothing_matrix(0.3, 3, smoothing, class_prior=prior)
    assert loss == pytest.approx(loss_by_hand(logits, codes, T), rel=1e-5)


def test_set_params_of_label_smoothing_holds_from_the_next_fit_on(iris):
    X, y = iris
    net = quick(label_smoothing=0.1).fit(X, y)
    for warm_start in (False, True):
        net.set_params(label_smoothing=0.4, warm_start=warm_start).fit(X, y)
        assert net.criterion_.label_smoothing == 0.4
    fresh = quick(label_smoothing=0.4).fit(X, y)
    net.set_params(warm_start=False).fit(X, y)
    assert_array_equal(net.predict_proba(X), fresh.predict_proba(X))


def test_parameter_of_the_criterion_reaches_it(iris):
    X, y = iris
    loss, logits, codes = first_loss(quick(criterion__form="kl"), X, y)
    T = smoothing_matrix(0.1, 3)
    entropy = -(T[0] * np.log(T[0])).sum()
    assert loss == pytest.approx(loss_by_hand(logits, codes, T) - entropy, rel=1e-5)


def test_criterion_that_cannot_smooth_serves_for_plain_labels_only(iris):
    class PlainLoss(nn.Module):
        def forward(self, logits, target):
            return nn.functional.cross_entropy(logits, target)

    with pytest.raises(ValueError, match=r"criterion=PlainLoss cannot smooth.*label_smoothing=0.1"):
        quick(criterion=PlainLoss).fit(*iris)
    plain = quick(criterion=PlainLoss, label_smoothing=0).fit(*iris)
    assert_allclose(
        plain.predict_proba(iris[0]),
        quick(label_smoothing=0).fit(*iris).predict_proba(iris[0]),
        rtol=1e-4,
    )


def test_torchs_cross_entropy_is_refused_for_smoothing_that_is_not_uniform(iris):
    net = quick(criterion=nn.CrossEntropyLoss, smoothing="off_target")
    with pytest.raises(ValueError, match="CrossEntropyLoss cannot smooth with smoothing='off_targ"):
        net.fit(*iris)


def test_tuple_is_read_by_its_last_item(iris):
    X, y = iris
    from_tuple = quick(module=TupleNet).fit(X, y).predict_proba(X)
    assert_allclose(from_tuple, quick().fit(X, y).predict_proba(X), rtol=1e-5)


def test_module_instance_is_left_untrained(iris):
    module = SimpleNet(4, 3)
    before = copy.deepcopy(module.state_dict())
    net = quick(module=module).fit(*iris)
    assert net.module_ is not module
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


# -- random_state -----------------------------------------------------------------------------


def generator_states():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_same_random_state_gives_bit_equal_predictions(dropout, iris):
    X, y = iris
    net = quick(module__dropout=dropout, random_state=7)
    first = net.fit(X, y).predict_proba(X)
    torch.manual_seed(99)  # the global generator has no say
    assert_array_equal(net.fit(X, y).predict_proba(X), first)
    assert_array_equal(clone(net).fit(X, y).predict_proba(X), first)
    assert not np.array_equal(net.set_params(random_state=8).fit(X, y).predict_proba(X), first)


@pytest.mark.parametrize("random_state", [0, None])
def test_fit_leaves_the_global_generators_as_they_were(random_state, iris):
    torch_before, python_before, numpy_before = generator_states()
    net = quick(random_state=random_state, module__dropout=0.5).fit(*iris)
    net.partial_fit(*iris).predict_proba(iris[0])
    torch_after, python_after, numpy_after = generator_states()
    assert torch_after == torch_before
    assert python_after == python_before
    if random_state is not None:
        assert numpy_after == numpy_before


def test_no_random_state_differs_from_fit_to_fit(iris):
    X, y = iris
    net = quick(random_state=None)
    assert not np.array_equal(net.fit(X, y).predict_proba(X), net.fit(X, y).predict_proba(X))


def test_random_state_instance_is_drawn_from(iris):
    X, y = iris
    shared = np.random.RandomState(0)
    net = quick(random_state=shared)
    first, second = net.fit(X, y).predict_proba(X), net.fit(X, y).predict_proba(X)
    assert not np.array_equal(first, second)
    again = quick(random_state=np.random.RandomState(0)).fit(X, y).predict_proba(X)
    assert_array_equal(again, first)


# -- prediction -------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", ["temperature", None])
def test_probabilities_are_probabilities_in_the_order_of_the_classes(calibration, iris):
    X, y = iris
    net = quick(calibration=calibration, max_epochs=20).fit(X, y)
    proba = net.predict_proba(X)
    assert proba.shape == (150, 3)
    assert np.isfinite(proba).all()
    assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert_array_equal(net.classes_, SPECIES)
    assert_array_equal(net.predict(X), SPECIES[proba.argmax(axis=1)])
    assert accuracy_score(y, net.predict(X)) > 0.9
    assert_allclose(np.exp(net.predict_log_proba(X)), proba, rtol=1e-9)
    assert_allclose(net.decision_function(X).shape, (150, 3))


def test_decision_function_of_two_classes_is_the_log_odds_of_the_second(iris):
    X, y = iris
    two = y != "setosa"
    net = quick(max_epochs=10).fit(X[two], y[two])
    decision = net.decision_function(X)
    assert decision.shape == (150,)
    proba = net.predict_proba(X)
    assert_allclose(decision, np.log(proba[:, 1] / proba[:, 0]), rtol=1e-6)
    assert_array_equal(net.predict(X), net.classes_[(decision > 0).astype(int)])


@pytest.mark.parametrize("calibration", ["temperature", None, LogisticRegression()])
def test_log_probabilities_are_finite_where_probabilities_underflow(calibration, iris):
    X, y = iris
    net = quick(calibration=calibration, max_epochs=10).fit(X, y)
    far_away = X * 1e5
    assert (net.predict_proba(far_away) == 0).any()
    log_proba = net.predict_log_proba(far_away)
    assert np.isfinite(log_proba).all()
    assert_array_equal(log_proba.argmax(axis=1), net.predict_proba(far_away).argmax(axis=1))
    assert np.isfinite(net.decision_function(far_away)).all()


class CertainFarAway(nn.Module):
    """Gives infinity for the first class where a row's first feature is large; NaN where small."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.net = SimpleNet(n_features, n_classes)

    def forward(self, x):
        logits = self.net(x)
        logits[x[:, 0] > 10, 0] = torch.inf
        logits[x[:, 0] < -10] = torch.nan
        return logits


@pytest.mark.parametrize("calibration", ["temperature", None])
def test_infinite_logit_is_certainty_and_nan_an_error(calibration, iris):
    X, y = iris
    net = quick(calibration=calibration, module=CertainFarAway).fit(X, y)
    far_away = X + np.array([100.0, 0, 0, 0], np.float32)
    assert_array_equal(net.predict_proba(far_away), np.tile([1.0, 0.0, 0.0], (150, 1)))
    assert np.isfinite(net.predict_log_proba(far_away)).all()
    with pytest.raises(ValueError, match="output is NaN for 150 of 150 rows"):
        net.predict_proba(X - np.array([100.0, 0, 0, 0], np.float32))


def test_one_row_is_predicted_as_among_others(iris):
    X, y = iris
    net = quick().fit(X, y)
    one_by_one = np.vstack([net.predict_proba(row[None]) for row in X[:20]])
    assert_allclose(one_by_one, net.predict_proba(X)[:20], rtol=1e-5)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 8, 9, 15, 33])
@pytest.mark.parametrize("widths", [(64, 32), (256, 100), (37, 20)])
def test_logits_of_a_row_do_not_depend_on_its_company(widths, n_rows, n_threads):
    X = np.random.default_rng(0).normal(size=(99, 10))
    y = np.argmax(X[:, :3], axis=1)
    net = quick(module__hidden_layer_sizes=widths, predict_nonlinearity=None).fit(X, y)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        parts = [net.predict_proba(X[i : i + n_rows]) for i in range(0, 99, n_rows)]
        assert_array_equal(np.vstack(parts), net.predict_proba(X))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_rows", "width", "n_threads"), [(1, 64, 1), (150, 64, 1), (1, 900, 1), (150, 900, 2)]
)
def test_small_products_are_no_work_for_a_second_thread(n_rows, width, n_threads, iris):
    net = quick(module__hidden_layer_sizes=(width, width), max_epochs=1).fit(*iris)
    seen = []
    net.module_.register_forward_hook(lambda *args: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        net.predict_proba(iris[0][:n_rows])
        assert (seen, torch.get_num_threads()) == ([n_threads], 2)
    finally:
        torch.set_num_threads(before)


def test_score_is_the_weighted_accuracy(iris):
    X, y = iris
    net = quick().fit(X, y)
    weight = np.random.default_rng(0).uniform(size=150)
    assert net.score(X, y, weight) == accuracy_score(y, net.predict(X), sample_weight=weight)
    assert net.score(X, y) == accuracy_score(y, net.predict(X))


def test_predict_nonlinearity_of_skorch_replaces_the_calibrator(iris):
    X, y = iris
    net = quick().fit(X, y)
    logits = net.forward(X).numpy()
    net.set_params(predict_nonlinearity=None)
    assert_allclose(net.predict_proba(X), logits, rtol=1e-6)
    net.set_params(predict_nonlinearity=lambda z: torch.softmax(2 * z, dim=1))
    assert_allclose(net.predict_proba(X), softmax(2 * logits.astype(float), axis=1), rtol=1e-5)


# -- calibration and early stopping -----------------------------------------------------------


def last_logits(net, X):
    return net.forward(X).numpy().astype(float)


@pytest.mark.parametrize(
    ("calibration", "kind"),
    [("temperature", TemperatureScaling), ("norm_temperature", NormTemperatureScaling)],
)
def test_calibrator_is_fitted_on_the_held_out_rows(iris, calibration, kind):
    X, y = iris
    net = quick(train_split=hold_out_the_last_50, calibration=calibration).fit(X, y)
    codes = np.searchsorted(SPECIES, y)
    by_hand = kind(prior_strength=1.0)
    by_hand.fit(last_logits(net, X[HELD_OUT]), codes[HELD_OUT])
    assert net.calibrator_.temperature_ == pytest.approx(by_hand.temperature_, rel=1e-6)
    assert_allclose(net.predict_proba(X), by_hand.predict_proba(last_logits(net, X)), rtol=1e-5)


def test_without_calibration_probabilities_are_the_softmax(iris):
    X, y = iris
    net = quick(calibration=None).fit(X, y)
    assert net.calibrator_ is None
    assert_allclose(net.predict_proba(X), softmax(last_logits(net, X), axis=1), rtol=1e-6)


def test_calibration_makes_the_probabilities_of_a_smoothed_net_better():
    X, y = make_tabular(1500, n_classes=3, random_state=0)
    params = {"label_smoothing": 0.3, "max_epochs": 15}
    calibrated = quick(**params).fit(X[:1000], y[:1000])
    raw = quick(**params, calibration=None).fit(X[:1000], y[:1000])
    X, y = X[1000:], y[1000:]
    assert_array_equal(calibrated.predict(X), raw.predict(X))
    assert log_loss(y, calibrated.predict_proba(X)) < log_loss(y, raw.predict_proba(X))


def test_any_classifier_of_logits_calibrates(iris):
    X, y = iris
    calibration = LogisticRegression(C=10.0)
    net = quick(calibration=calibration, train_split=hold_out_the_last_50).fit(X, y)
    assert not hasattr(calibration, "coef_")  # a clone was fitted
    codes = np.searchsorted(SPECIES, y)
    logits = last_logits(net, X)
    by_hand = clone(calibration).fit(logits[HELD_OUT], codes[HELD_OUT])
    assert_allclose(net.predict_proba(X), by_hand.predict_proba(logits), atol=1e-5)
    assert_array_equal(net.predict(X), SPECIES[by_hand.predict(logits)])


class Prior:
    """A calibrator that is no scikit-learn estimator and knows nothing of weights."""

    def fit(self, logits, y):
        self.prior_ = np.bincount(y, minlength=logits.shape[1]) / len(y)
        return self

    def predict_proba(self, logits):
        return np.tile(self.prior_, (len(logits), 1))


@pytest.mark.parametrize("sample_weight", [None, np.ones(150)])
def test_any_object_with_the_two_methods_calibrates(sample_weight, iris):
    X, y = iris
    net = quick(calibration=Prior(), train_split=hold_out_the_last_50)
    net.fit(X, y, sample_weight=sample_weight)
    frequencies = (y[HELD_OUT, None] == SPECIES).mean(axis=0)
    assert_allclose(net.predict_proba(X[:2]), [frequencies, frequencies])


def test_calibrator_that_loses_a_class_is_an_error(iris):
    X, y = iris
    order = np.argsort(y, kind="stable")  # the last 50 rows are all of one class
    rows = np.r_[0:10, 50:60, 100:150, 60:90, 10:50, 90:100]

    with pytest.raises(ValueError, match=r"calibration=LogisticRegression.*class is missing"):
        quick(calibration=LogisticRegression(), train_split=hold_out_the_last_50).fit(
            X[order][rows], y[order][rows]
        )


def test_early_stopping_goes_back_to_the_epoch_of_the_best_refined_loss():
    X, y = make_tabular(400, label_noise=0.4, random_state=0)
    net = quick(max_epochs=60, patience=5, lr=0.02).fit(X, y)
    refined = net.history[:, "refined_loss"]
    assert net.best_epoch_ == 1 + np.argmin(refined)
    assert len(net.history) == net.best_epoch_ + 5
    assert len(net.history) < 60
    stopped_there = quick(max_epochs=net.best_epoch_, lr=0.02).fit(X, y)
    assert_array_equal(net.predict_proba(X), stopped_there.predict_proba(X))


def test_without_early_stopping_the_last_epoch_is_kept():
    X, y = make_tabular(400, label_noise=0.4, random_state=0)
    net = quick(max_epochs=15, patience=2, lr=0.02, early_stopping=False).fit(X, y)
    assert net.best_epoch_ == len(net.history) == 15
    assert net.calibrator_ is not None


def test_no_train_split_trains_on_all_rows_and_does_not_warn(iris):
    X, y = iris
    net = quick(train_split=None, batch_size=50).fit(X, y)
    assert len(net.history[0, "batches"]) == 3
    assert net.calibrator_ is None
    assert "refined_loss" not in net.history[0]


class HeldOutLabels(Callback):
    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.n_train_ = len(dataset_train)
        self.labels_ = [int(dataset_valid[i][1]) for i in range(len(dataset_valid))]


def test_train_split_as_a_fraction_is_stratified(iris):
    net = quick(train_split=0.3, callbacks=[("seen", HeldOutLabels())]).fit(*iris)
    seen = dict(net.callbacks_)["seen"]
    assert seen.n_train_ == 105
    assert_array_equal(np.bincount(seen.labels_), [15, 15, 15])


def test_train_split_of_skorch_works(iris):
    net = quick(train_split=ValidSplit(3, stratified=True), callbacks=[("seen", HeldOutLabels())])
    net.fit(*iris)
    assert len(dict(net.callbacks_)["seen"].labels_) == 50
    assert net.calibrator_ is not None


@pytest.mark.parametrize("labels", [np.arange(3), np.array([1, 2, 3]), SPECIES])
def test_held_out_rows_may_be_given_beforehand(labels, iris):
    X, species = iris
    y = labels[np.searchsorted(SPECIES, species)]
    held_out = Named(X[HELD_OUT], y[HELD_OUT])
    given = quick(train_split=predefined_split(held_out), batch_size=100).fit(X[:100], y[:100])
    split = quick(train_split=hold_out_the_last_50, batch_size=100).fit(X, y)
    assert_allclose(given.predict_proba(X), split.predict_proba(X), rtol=1e-5)


def test_held_out_row_given_beforehand_with_a_label_that_is_none_of_the_classes_is_an_error(iris):
    X, y = iris
    held_out = TensorDataset(torch.from_numpy(X[HELD_OUT]), torch.zeros(50, dtype=torch.int64))
    with pytest.raises(ValueError, match="label 0, which is none of the classes"):
        quick(train_split=predefined_split(held_out)).fit(X[:100], y[:100])


def test_interrupt_keeps_the_net_trained_so_far_and_calibrates_it(iris):
    X, y = iris
    net = quick(max_epochs=50, callbacks=[InterruptAfter(10)]).fit(X, y)
    assert len(net.history) == 10  # what was interrupted is not recorded
    assert net.best_epoch_ <= 10
    assert net.calibrator_.temperature_ > 0
    finished = quick(max_epochs=10).fit(X, y)
    assert_allclose(net.predict_proba(X), finished.predict_proba(X), rtol=1e-5)


# -- weights ----------------------------------------------------------------------------------


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


def test_weights_reach_the_held_out_scores_and_the_temperature(iris):
    X, y = iris
    weight = np.random.default_rng(2).uniform(0.1, 5, size=150)
    params = {"early_stopping": False, "batch_size": 32, "calibration": "temperature"}
    net = quick(train_split=hold_out_the_last_50, **params)
    net.fit(X, y, sample_weight=weight)
    logits, codes = last_logits(net, X[HELD_OUT]), np.searchsorted(SPECIES, y)[HELD_OUT]
    weight = weight[HELD_OUT]
    losses = LabelSmoothingLoss(0.1, reduction="none")(
        torch.from_numpy(logits), torch.from_numpy(codes)
    )
    assert net.history[-1, "valid_loss"] == pytest.approx(np.average(losses, weights=weight))
    accuracy = np.average(logits.argmax(axis=1) == codes, weights=weight)
    assert net.history[-1, "valid_acc"] == pytest.approx(accuracy)
    by_hand = TemperatureScaling(prior_strength=1.0).fit(logits, codes, sample_weight=weight)
    assert net.calibrator_.temperature_ == pytest.approx(by_hand.temperature_, rel=1e-5)
    refined = log_loss(codes, by_hand.predict_proba(logits), sample_weight=weight)
    assert net.history[-1, "refined_loss"] == pytest.approx(refined, rel=1e-5)


def test_integer_weights_of_held_out_rows_are_repeated_rows(iris):
    X, y = iris
    weight = np.ones(150, dtype=int)
    weight[140:] = 3
    weighted = quick(train_split=hold_out_the_last_50).fit(X, y, sample_weight=weight)
    rows = np.r_[0:150, 140:150, 140:150]
    repeated = quick(
        train_split=lambda dataset, y: (
            Subset(dataset, range(100)),
            Subset(dataset, range(100, 170)),
        )
    ).fit(X[rows], y[rows])
    for score in ("valid_loss", "refined_loss", "valid_acc"):
        assert_allclose(weighted.history[:, score], repeated.history[:, score], rtol=1e-6)
    assert weighted.calibrator_.temperature_ == pytest.approx(repeated.calibrator_.temperature_)


def test_calibrator_of_scikit_learn_gets_the_weights(iris):
    X, y = iris
    weight = np.random.default_rng(2).uniform(0.1, 5, size=150)
    net = quick(calibration=LogisticRegression(), train_split=hold_out_the_last_50)
    net.fit(X, y, sample_weight=weight)
    logits, codes = last_logits(net, X), np.searchsorted(SPECIES, y)
    by_hand = LogisticRegression().fit(logits[HELD_OUT], codes[HELD_OUT], weight[HELD_OUT])
    assert_allclose(net.predict_proba(X), by_hand.predict_proba(logits), atol=1e-5)


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


# -- training further -------------------------------------------------------------------------


def test_partial_fit_learns_from_one_portion_after_the_other(iris):
    X, y = iris
    by_species = np.argsort(y, kind="stable")
    net = quick(lr=0.01)
    net.partial_fit(X[by_species[:60]], y[by_species[:60]], classes=SPECIES)
    assert_array_equal(net.classes_, SPECIES)
    assert net.predict_proba(X).shape == (150, 3)
    for _ in range(20):
        for portion in (slice(0, 75), slice(75, 150)):
            net.partial_fit(X[portion], y[portion])
    assert len(net.history) == 41
    assert net.score(X, y) > 0.9
    assert net.calibrator_ is not None


@pytest.mark.parametrize("label", [-1, 3])
def test_partial_fit_refuses_a_class_index_out_of_range(label, iris):
    X, species = iris
    codes = np.searchsorted(SPECIES, species)
    net = quick().partial_fit(X, codes)
    with pytest.raises(ValueError, match=rf"none of the classes \[0, 1, 2\].*{label}"):
        net.partial_fit(X, np.where(codes == 2, label, codes))


def test_partial_fit_refuses_what_contradicts_the_first_call(iris):
    X, y = iris
    net = quick().partial_fit(X, y)
    before = net.predict_proba(X)
    with pytest.raises(ValueError, match=r"classes=.* not the same as on the first call"):
        net.partial_fit(X, y, classes=SPECIES[:2])
    with pytest.raises(ValueError, match="none of the classes"):
        net.partial_fit(X, np.full(150, "tulip"))
    assert_array_equal(net.predict_proba(X), before)
    with pytest.raises(ValueError, match="class_weight='balanced' cannot be known"):
        quick(class_weight="balanced").partial_fit(X, y)


def test_partial_fit_keeps_the_calibrator_where_rows_are_too_few_for_a_new_one(iris):
    X, y = iris
    net = quick().fit(X, y)
    calibrator = net.calibrator_
    net.partial_fit(X[:5], y[:5])
    assert net.calibrator_ is calibrator


def test_fit_starts_anew_and_warm_start_goes_on(iris):
    X, y = iris
    net = quick(lr=0.01)
    first = net.fit(X, y).predict_proba(X)
    assert len(net.fit(X, y).history) == 3
    assert_array_equal(net.predict_proba(X), first)
    net.set_params(warm_start=True, max_epochs=5).fit(X, y)
    assert len(net.history) == 8
    assert net.best_epoch_ > 3
    assert net.history[-1, "train_loss"] < net.history[2, "train_loss"]


def test_more_epochs_on_a_fitted_net(iris):
    X, y = iris
    net = quick().fit(X, y).partial_fit(X, y, epochs=4)
    assert len(net.history) == 7
    assert net.history[-1, "train_loss"] < net.history[2, "train_loss"]


# -- torch datasets ---------------------------------------------------------------------------


class Named(Dataset):
    """Pairs of a tensor and a label."""

    def __init__(self, X, y):
        self.rows = list(zip(torch.from_numpy(X), y.tolist(), strict=True))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


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


# -- a net of skorch's ------------------------------------------------------------------------


def test_verbose_prints_the_table_of_epochs(iris, capsys):
    quick(verbose=1).fit(*iris)
    header, rule, *rows = capsys.readouterr().out.strip().splitlines()
    assert set(header.split()) == {
        "epoch",
        "train_loss",
        "valid_loss",
        "refined_loss",
        "valid_acc",
        "dur",
    }
    assert set(rule) <= {"-", " "}
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]


def test_silent_by_default(iris, capsys):
    quick().fit(*iris).predict(iris[0])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


class Wait(Callback):
    """Take so long over a batch that the progress bar is drawn anew."""

    def on_batch_end(self, net, **kwargs):
        time.sleep(0.11)


def test_progress_bar_shows(iris, capsys):
    quick(callbacks=[Wait(), ProgressBar()], max_epochs=1).fit(*iris)
    assert "2/3 [" in capsys.readouterr().err  # two batches in training, one on held-out rows


def test_callbacks_of_skorch_run(iris):
    schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    net = quick(callbacks=[schedule], lr=0.01).fit(*iris)
    assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**3)


def test_parameters_of_the_parts_reach_them(iris):
    net = quick(
        module__hidden_layer_sizes=(7,),
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.1,
        iterator_train__shuffle=False,
    ).fit(*iris)
    assert net.module_.layers[0].out_features == 7
    assert net.optimizer_.param_groups[0]["momentum"] == 0.9


def test_set_params_on_a_fitted_net_changes_its_parts(iris):
    net = quick().fit(*iris)
    net.set_params(lr=0.5)
    assert net.optimizer_.param_groups[0]["lr"] == 0.5
    net.set_params(criterion__form="kl")
    assert net.criterion_.form == "kl"


def test_set_params_on_an_initialized_net_builds_its_module_anew():
    net = quick(module__n_features=4).initialize()
    net.set_params(module__hidden_layer_sizes=(9,))
    assert net.module_.layers[0].out_features == 9


@pytest.mark.filterwarnings("ignore:calibrator_ was fitted to the parameters before")
def test_parameters_are_saved_and_loaded(iris, tmp_path):
    X, y = iris
    net = quick().fit(X, y)
    net.save_params(f_params=tmp_path / "net.pt")
    other = quick(random_state=1).fit(X, y)
    assert not np.allclose(other.forward(X), net.forward(X))
    other.load_params(f_params=tmp_path / "net.pt")
    assert torch.equal(other.forward(X), net.forward(X))


def test_net_is_initialized_before_it_is_fitted():
    net = quick(module__n_features=4).initialize()
    assert net.initialized_
    assert net.module_.layers[0].in_features == 4
    assert net.forward(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copy_predicts_as_the_original_and_is_independent_of_it(copied, iris):
    X, y = iris
    net = quick().fit(X, y)
    before = net.predict_proba(X)
    twin = copied(net)
    assert_array_equal(twin.predict_proba(X), before)
    assert twin.history == net.history
    twin.partial_fit(X, y, epochs=5)
    assert not np.array_equal(twin.predict_proba(X), before)
    assert_array_equal(net.predict_proba(X), before)
    unfitted = copied(quick(label_smoothing=0.3))
    assert unfitted.label_smoothing == 0.3
    assert_array_equal(copied(quick()).fit(X, y).predict_proba(X), before)


def test_fit_raises_no_warning(iris):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick().fit(*iris).predict_proba(iris[0])


@pytest.mark.parametrize("name", ["label_smoothing", "smoothing"])
def test_the_criterion_takes_no_smoothing_of_its_own(name):
    value = {"label_smoothing": 0.3, "smoothing": "off_target"}[name]
    net = LabelSmoothingClassifier(max_epochs=1, **{f"criterion__{name}": value})
    with pytest.raises(ValueError, match=f"criterion__{name}={value!r} would override {name}="):
        net.fit(*make_tabular(60, random_state=0))


def test_few_rows_have_the_logits_that_they_have_among_many():
    X, y = make_tabular(300, random_state=0)
    net = LabelSmoothingClassifier(max_epochs=2, random_state=0).fit(X, y)
    proba = net.predict_proba(X)
    for n_rows in (1, 2, 3, 7, 8, 9):
        np.testing.assert_array_equal(net.predict_proba(X[:n_rows]), proba[:n_rows])


def test_a_batch_of_equal_rows_needs_no_weights_of_a_criterion_of_ones_own():
    class Plain(torch.nn.Module):
        def forward(self, logits, target):
            return torch.nn.functional.cross_entropy(logits, target)

    X, y = np.repeat(np.eye(3), 5, axis=0), np.repeat([0, 1, 2], 5)
    net = LabelSmoothingClassifier(
        criterion=Plain, label_smoothing=0, train_split=None, max_epochs=30, random_state=0
    )
    assert net.fit(X, y).score(X, y) == 1


# -- confidence -------------------------------------------------------------------------------


def without_norm(log_proba):
    """Give logits less their mean, divided by their norm."""
    z = log_proba - log_proba.mean(axis=1, keepdims=True)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.mark.parametrize("calibration", ["temperature", "norm_temperature", None])
def test_confidence_is_the_largest_logit_without_the_norm(calibration, iris):
    X, y = iris
    net = quick(max_epochs=10, calibration=calibration).fit(X, y)
    confidence = net.confidence(X)
    assert confidence.shape == (150,)
    assert confidence.dtype == np.float64
    # No temperature changes the direction of the logits.
    expected = without_norm(net.predict_log_proba(X)).max(axis=1)
    assert_allclose(confidence, expected, rtol=1e-6)


class SecondClassAlways:
    def fit(self, logits, y):
        self.classes_ = np.arange(3)
        return self

    def predict_proba(self, logits):
        return np.tile([0.1, 0.8, 0.1], (len(logits), 1))


def test_confidence_is_that_of_the_class_predicted_whatever_the_calibrator_makes_of_it(iris):
    X, y = iris
    plain = quick(max_epochs=10).fit(X, y)
    turned = quick(max_epochs=10, calibration=SecondClassAlways()).fit(X, y)
    assert set(turned.predict(X)) == {"versicolor"}
    expected = without_norm(plain.predict_log_proba(X))[:, 1]
    assert_allclose(turned.confidence(X), expected, rtol=1e-6, atol=1e-9)


def test_confidence_does_not_depend_on_the_scale_of_the_last_layer(iris):
    X, y = iris
    net = quick(max_epochs=10).fit(X, y)
    confidence = net.confidence(X)
    with torch.no_grad():
        for parameter in list(net.module_.parameters())[-2:]:
            parameter *= 100
    assert_allclose(net.confidence(X), confidence, rtol=1e-5)


def test_confidence_of_two_classes_is_the_probability_of_the_predicted_one(iris):
    X, y = iris
    two = y != "setosa"
    net = quick(max_epochs=10).fit(X[two], y[two])
    assert_array_equal(net.confidence(X), net.predict_proba(X).max(axis=1))


def test_confidence_takes_what_predict_takes(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    net = quick().fit(frame, y)
    confidence = net.confidence(frame)
    codes = torch.zeros(len(X), dtype=torch.int64)
    assert_allclose(net.confidence(TensorDataset(torch.from_numpy(X), codes)), confidence)
    with pytest.raises(ValueError, match="feature names"):
        net.confidence(frame[["b", "a", "c", "d"]])
    with pytest.raises(ValueError, match=r"X has 3 features, but .* expecting 4 features"):
        quick().fit(X, y).confidence(X[:, :3])


@pytest.mark.parametrize(("lr", "n_features"), [(130350.0, 5), (147324.0, 1)])
def test_a_last_step_after_which_the_rows_overflow_is_refused(lr, n_features):
    rows = [[12.57, 13.21, 64.06, 10.49, 53.56], [36.16, 130.4, 94.7, 70.4, 126.56]]
    X = np.array(rows, dtype=np.float16)[:, :n_features]
    net = LabelSmoothingClassifier(max_epochs=3, random_state=0, lr=lr, train_split=None)
    with pytest.raises(ValueError, match=r"turned infinite or NaN.*lower learning rate"):
        net.fit(X, [0, 1])
    assert not hasattr(net, "module_")
