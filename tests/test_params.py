"""Parameters: unknown names, values that are refused, how they are set and shown."""

import re

import numpy as np
import pytest
import torch
from helpers import ORDINAL, SPECIES, needs_sklearn, quick
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import LabelSmoothingClassifier, TemperatureScaling, make_tabular

# -- parameters ---------------------------------------------------------------------------------


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
    "batch_size": "auto",
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
        ("solver", "optimizer"),
        ("iterations", "max_epochs"),
        ("l2_leaf_reg", "optimizer__weight_decay"),
        ("od_wait", "patience"),
    ],
)
def test_other_misspelt_names_get_a_suggestion(name, nearest, iris):
    with pytest.raises(TypeError, match=f"no parameter '{name}'.*did you mean {nearest}"):
        quick(**{name: 1}).fit(*iris)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("module__hidden_sizes", "hidden_layer_sizes"),
        ("module__drop_out", "dropout"),
        ("optimizer__weight_decy", "weight_decay"),
    ],
)
def test_misspelt_parameters_of_parts_get_a_suggestion(name, nearest, iris):
    with pytest.raises(TypeError, match=f"{name}=1.*: .*Did you mean '{nearest}'"):
        quick(**{name: 1}).fit(*iris)


@pytest.mark.parametrize("name", ["module", "criterion", "optimizer"])
def test_names_of_parts_are_refused_with_a_class_that_may_be_given(name, iris):
    with pytest.raises(ValueError, match=f"{name}='adam' is a string; .*, such as {name}="):
        quick(**{name: "adam"}).fit(*iris)


def test_name_like_no_parameter_gets_no_suggestion(iris):
    with pytest.raises(TypeError, match=r"no parameter 'qqq' \(got qqq=1\)\.$"):
        quick(qqq=1).fit(*iris)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_device_that_is_not_there_is_named_at_fit(device, iris):
    net = quick(device=device)
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used here.*CUDA device"):
        net.fit(*iris)
    net.set_params(device="cpu").fit(*iris)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_an_error_that_says_so(iris):
    with pytest.raises(ValueError, match=r"device='cuda' .*no CUDA device.*device='cpu'"):
        quick(device="cuda").fit(*iris)


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


@pytest.mark.parametrize("name", ["label_smoothing", "smoothing"])
def test_the_criterion_takes_no_smoothing_of_its_own(name):
    value = {"label_smoothing": 0.3, "smoothing": "off_target"}[name]
    net = LabelSmoothingClassifier(max_epochs=1, **{f"criterion__{name}": value})
    with pytest.raises(ValueError, match=f"criterion__{name}={value!r} would override {name}="):
        net.fit(*make_tabular(60, random_state=0))


# -- as shown in a notebook ---------------------------------------------------------------------

CHANGED = {"label_smoothing": "0.2", "module__dropout": "0.1"}
PARAMETER = re.compile(
    r'<tr class="(user-set|default)">(?:(?!</tr>).)*?'
    r'<td class="param">(\w+)(?:&nbsp;)?</td>\s*<td class="value">(.*?)</td>',
    re.DOTALL,
)
FITTED = re.compile(r'<a class="param-doc-link" [^>]*>(\w+_)</a>')


def _parameters(html, kind):
    html = html[html.rindex("<div>LabelSmoothingClassifier</div>") :]  # its own, in a Pipeline
    return {name: value for row, name, value in PARAMETER.findall(html) if row == kind}


@pytest.fixture
def net():
    return LabelSmoothingClassifier(label_smoothing=0.2, module__dropout=0.1)


@needs_sklearn("1.7", "the table of parameters")
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_parameters_that_were_set_are_highlighted_and_no_others(net, in_pipeline, fitted):
    estimator = make_pipeline(StandardScaler(), net) if in_pipeline else net
    if fitted:
        estimator.fit(*make_tabular(60, random_state=0))
    html = estimator._repr_html_()
    assert _parameters(html, "user-set") == CHANGED
    others = set(net.get_params(deep=False)) - set(CHANGED)
    assert set(_parameters(html, "default")) == others


@needs_sklearn("1.7", "the table of parameters")
def test_a_callbacks_parameter_is_shown_once_it_is_set():
    net = LabelSmoothingClassifier(callbacks__print_log__floatfmt=".2f")
    assert _parameters(net._repr_html_(), "user-set") == {
        "callbacks__print_log__floatfmt": "&#x27;.2f&#x27;"
    }


@needs_sklearn("1.7", "the table of parameters")
@pytest.mark.parametrize("as_array", [list, np.array, torch.tensor])
def test_a_smoothing_matrix_is_highlighted(as_array):
    net = LabelSmoothingClassifier(smoothing=as_array([[0.0, 1.0], [1.0, 0.0]]))
    assert set(_parameters(net._repr_html_(), "user-set")) == {"smoothing"}


@needs_sklearn("1.9", "the table of fitted attributes")
def test_fitted_attributes_are_those_of_the_documentation(net):
    assert "Fitted attributes" not in net._repr_html_()
    net.set_params(max_epochs=2).fit(*make_tabular(60, random_state=0))
    html = net._repr_html_()
    assert f"{net.temperature_:.4g}" in html
    assert set(FITTED.findall(html)) == {
        *("best_epoch_", "calibrator_", "class_prior_", "class_weight_", "classes_"),
        *("history_", "n_features_in_", "temperature_"),
        *("callbacks_", "criterion_", "module_", "optimizer_", "trained_by_", "trained_by_reason_"),
    }
    assert "Fitted attributes" not in clone(net)._repr_html_()


@pytest.mark.parametrize("name", ["lr", "max_epochs", "max_time", "batch_size"])
def test_integers_beyond_every_float_are_refused(name, iris):
    with pytest.raises(ValueError, match=f"^{name} of .* is an integer larger"):
        quick(**{name: 10**400}).fit(*iris)


def test_shares_beyond_every_float_are_refused(iris):
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        quick(label_smoothing=10**400).fit(*iris)
