"""LabelSmoothingClassifier: randomness, early stopping, calibration, training further."""

import copy
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from helpers import HELD_OUT, SPECIES, hold_out_the_last_50, quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch.utils.data import Subset

from sksmooth import (
    LabelSmoothingClassifier,
    LabelSmoothingLoss,
    NormTemperatureScaling,
    TemperatureScaling,
    make_tabular,
)

# -- fits that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("warm_start", [False, True])
def test_loss_that_turns_nan_leaves_a_fitted_net_as_it_was(warm_start, iris):
    X, y = iris
    net = quick(warm_start=warm_start).fit(X, y)
    before = net.predict_proba(X)
    with pytest.raises(ValueError, match="loss turned nan in epoch"):
        net.set_params(lr=1e30).fit(X, y)
    assert_array_equal(net.predict_proba(X), before)
    assert np.isfinite(net.set_params(lr=0.003).fit(X, y).predict_proba(X)).all()


@pytest.mark.filterwarnings("ignore:The numbers of X are far from a scale of one")
def test_features_too_large_for_the_loss_are_said_to_need_scaling(iris):
    X, y = iris
    net = quick(optimizer=torch.optim.SGD)
    with pytest.raises(ValueError, match=r"loss turned (nan|inf) in epoch 1.*StandardScaler"):
        net.fit(X * 1e20, y)


@pytest.mark.filterwarnings("ignore:The numbers of X are far from a scale of one")
def test_last_step_that_ruins_the_net_is_found_out_though_no_loss_follows_it(iris):
    X, y = iris
    net = quick(train_split=None, batch_size=-1, max_epochs=1, lr=1e38)
    with pytest.raises(ValueError, match=r"parameters turned infinite or NaN in epoch 1.* lr=1e"):
        net.set_params(optimizer=torch.optim.SGD).fit(1e8 * X, y)
    assert not hasattr(net, "module_")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_net_fitted_on_cuda_predicts_on_the_cpu_after_pickling(iris):
    X, y = iris
    net = quick(device="cuda").fit(X, y)
    moved = copy.deepcopy(net)
    moved.set_params(device="cpu")
    moved = pickle.loads(pickle.dumps(moved))
    assert_allclose(moved.predict_proba(X), net.predict_proba(X), atol=1e-5)


# -- random_state -------------------------------------------------------------------------------


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


def test_predict_nonlinearity_of_skorch_replaces_the_calibrator(iris):
    X, y = iris
    net = quick().fit(X, y)
    logits = net.forward(X).numpy()
    net.set_params(predict_nonlinearity=None)
    assert_allclose(net.predict_proba(X), logits, rtol=1e-6)
    net.set_params(predict_nonlinearity=lambda z: torch.softmax(2 * z, dim=1))
    assert_allclose(net.predict_proba(X), softmax(2 * logits.astype(float), axis=1), rtol=1e-5)


# -- calibration and early stopping -------------------------------------------------------------


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


# -- weights ------------------------------------------------------------------------------------


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


class Zeros(Subset):
    """A user's Subset that changes its rows."""

    def __getitems__(self, indices):
        return [(0 * X, y) for X, y in super().__getitems__(indices)]


def split_with_zeros(dataset, y=None, **_):
    return Zeros(dataset, range(100)), Subset(dataset, range(100, 150))


def test_a_users_subset_gives_the_rows_that_are_trained_on(iris):
    X, y = iris
    ours = quick(train_split=split_with_zeros, calibration=None).fit(X, y)
    zeros = X.copy()
    zeros[:100] = 0
    loader = {"iterator_train__num_workers": 0, "calibration": None}
    theirs = quick(train_split=hold_out_the_last_50, **loader).fit(zeros, y)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_weights_that_a_users_subset_would_lose_are_refused(iris):
    X, y = iris
    with pytest.raises(ValueError, match=r"sample_weight .* rows as they are .* got .* a Zeros"):
        quick(train_split=split_with_zeros).fit(X, y, sample_weight=np.ones(150))


def test_calibrator_of_scikit_learn_gets_the_weights(iris):
    X, y = iris
    weight = np.random.default_rng(2).uniform(0.1, 5, size=150)
    net = quick(calibration=LogisticRegression(), train_split=hold_out_the_last_50)
    net.fit(X, y, sample_weight=weight)
    logits, codes = last_logits(net, X), np.searchsorted(SPECIES, y)
    by_hand = LogisticRegression().fit(logits[HELD_OUT], codes[HELD_OUT], weight[HELD_OUT])
    assert_allclose(net.predict_proba(X), by_hand.predict_proba(logits), atol=1e-5)


# -- training further ---------------------------------------------------------------------------


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


def held_out_of(net, X, y):
    """Give the rows that a further pass over a table would hold out."""
    _, held_out = net.get_split_datasets(X, np.unique(y, return_inverse=True)[1])
    return held_out and set(held_out.indices.tolist())


@pytest.mark.parametrize("further", [lambda net: net.partial_fit, lambda net: net.fit])
@pytest.mark.parametrize("copied", [lambda net: net, lambda net: pickle.loads(pickle.dumps(net))])
def test_further_passes_hold_out_the_same_rows(further, copied, iris):
    X, y = iris
    net = quick(max_epochs=1, warm_start=True, random_state=0)
    further(net)(X, y)
    first = held_out_of(net, X, y)
    net = copied(net)
    further(net)(X, y)
    assert held_out_of(net, X, y) == first
    assert held_out_of(net, X + 1, y) != first
    assert held_out_of(net.initialize(), X, y) != first


def test_further_passes_over_rows_that_were_all_trained_on_keep_the_calibrator(iris):
    X, y = iris
    net = quick(train_split="auto", random_state=0).fit(X, y)
    calibrator = net.calibrator_
    assert held_out_of(net, X, y) is None
    assert net.partial_fit(X, y).calibrator_ is calibrator
    assert net.partial_fit(X + 1, y).calibrator_ is not calibrator


def test_passes_over_a_table_are_not_calibrated_to_what_was_trained_on():
    X, y = make_classification(200, 10, n_informative=6, n_classes=3, random_state=0)
    net = LabelSmoothingClassifier(calibration="temperature", random_state=0)
    for _ in range(30):
        net.partial_fit(X, y)
    assert net.temperature_ > 0.8  # it was half as much


def test_fit_starts_anew_and_warm_start_goes_on(iris):
    X, y = iris
    net = quick(lr=0.01)
    first = net.fit(X, y).predict_proba(X)
    assert len(net.fit(X, y).history) == 3
    assert_array_equal(net.predict_proba(X), first)
    module = net.module_
    net.set_params(warm_start=True, max_epochs=5).fit(X, y)
    assert net.module_ is module
    assert len(net.history) == 8
    assert net.best_epoch_ > 3
    assert net.history[-1, "train_loss"] < net.history[2, "train_loss"]


def test_more_epochs_on_a_fitted_net(iris):
    X, y = iris
    net = quick().fit(X, y).partial_fit(X, y, epochs=4)
    assert len(net.history) == 7
    assert net.history[-1, "train_loss"] < net.history[2, "train_loss"]


# -- copies and warnings ------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copy_predicts_as_the_original_and_is_independent_of_it(copied, iris):
    X, y = iris
    net = quick().fit(X, y)
    before = net.predict_proba(X)
    twin = copied(net)
    assert_array_equal(twin.predict_proba(X), before)
    assert twin.history[:, "train_loss"] == net.history[:, "train_loss"]
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


@pytest.mark.parametrize(("lr", "n_features"), [(130350.0, 5), (147324.0, 1)])
def test_a_last_step_after_which_the_rows_overflow_is_refused(lr, n_features):
    rows = [[12.57, 13.21, 64.06, 10.49, 53.56], [36.16, 130.4, 94.7, 70.4, 126.56]]
    X = np.array(rows, dtype=np.float16)[:, :n_features]
    net = LabelSmoothingClassifier(max_epochs=3, random_state=0, lr=lr, train_split=None)
    with pytest.raises(ValueError, match=r"turned infinite or NaN.*lower learning rate"):
        net.fit(X, [0, 1])
    assert not hasattr(net, "module_")


@pytest.mark.parametrize("labels", [["x", "y", "z"], [5, 6, 7], [0, 1, 3]])
def test_warm_start_refuses_labels_that_are_none_of_its_classes(labels):
    X, y = make_tabular(90, random_state=0)
    net = LabelSmoothingClassifier(max_epochs=2, warm_start=True, random_state=0).fit(X, y)
    before = net.predict_proba(X)
    with pytest.raises(ValueError, match=r"none of the classes \[0, 1, 2\].*partial_fit.*classes="):
        net.fit(X, np.array(labels)[y])
    np.testing.assert_array_equal(net.predict_proba(X), before)
    some = y > 0  # rows of some of the classes keep their places
    net.set_params(max_epochs=40, lr=0.02, train_split=None, calibration=None)
    assert net.fit(X[some], y[some]).score(X[some], y[some]) > 0.8
