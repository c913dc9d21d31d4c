"""The skorch side: module, criterion and batches, and the rows held out."""

import copy

import numpy as np
import pytest
import torch
from helpers import (
    HELD_OUT,
    ORDINAL,
    SPECIES,
    Listener,
    Named,
    WithMembers,
    hold_out_the_last_50,
    make_cv,
    quick,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from skorch.callbacks import Callback
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import TensorDataset

from sksmooth import LabelSmoothingClassifier, LabelSmoothingLoss, SimpleNet, smoothing_matrix


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


# -- module and batches -------------------------------------------------------------------------


def test_batch_size_of_minus_one_takes_all_rows_at_once(iris):
    X, y = iris
    whole = quick(batch_size=-1).fit(X, y)
    assert len(whole.history[0, "batches"]) == 2  # one in training, one on the held-out rows
    counted = quick(batch_size=120).fit(X, y)
    assert_allclose(whole.predict_proba(X), counted.predict_proba(X), rtol=1e-6)


def test_module_whose_output_has_the_wrong_width_is_refused(iris):
    net = quick(module=WideOutput)
    with pytest.raises(ValueError, match=r"module=WideOutput .*\(32, 5\), but y has 3 classes"):
        net.fit(*iris)
    net.set_params(module=SimpleNet).fit(*iris)


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


# -- the loss -----------------------------------------------------------------------------------


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
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert not torch.equal(value, net.module_.state_dict()[name])


# -- rows held out ------------------------------------------------------------------------------


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


# -- parts --------------------------------------------------------------------------------------


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


def test_net_is_initialized_before_it_is_fitted():
    net = quick(module__n_features=4).initialize()
    assert net.initialized_
    assert net.module_.layers[0].in_features == 4
    assert net.forward(torch.zeros(2, 4)).shape == (2, 3)


def test_a_batch_of_equal_rows_needs_no_weights_of_a_criterion_of_ones_own():
    class Plain(torch.nn.Module):
        def forward(self, logits, target):
            return torch.nn.functional.cross_entropy(logits, target)

    X, y = np.repeat(np.eye(3), 5, axis=0), np.repeat([0, 1, 2], 5)
    net = LabelSmoothingClassifier(
        criterion=Plain, label_smoothing=0, train_split=None, max_epochs=30, random_state=0
    )
    assert net.fit(X, y).score(X, y) == 1


class TestMembers:
    """Modules whose output is of shape (n, members, n_classes)."""

    @pytest.mark.parametrize("weights", [None, "random"])
    def test_is_trained_alike_by_autograd_and_by_skorch(self, iris, weights):
        X, y = iris
        weights = weights and np.random.default_rng(0).uniform(0.5, 2, len(X))

        net, heard = quick(module=WithMembers), quick(module=WithMembers, callbacks=[Listener()])
        net.fit(X, y, sample_weight=weights)
        heard.fit(X, y, sample_weight=weights)
        assert (net.trained_by_, heard.trained_by_) == ("by autograd", "by skorch")
        assert_allclose(net.predict_proba(X), heard.predict_proba(X), atol=1e-6)
        for name in ("train_loss", "valid_loss", "refined_loss"):
            assert_allclose(net.history[:, name], heard.history[:, name], rtol=1e-5)

    def test_predicts_the_mean_of_their_probabilities(self, iris):
        X, y = iris
        net = quick(module=WithMembers, calibration=None).fit(X, y)
        with torch.no_grad():
            members = net.module_(torch.from_numpy(X).float()).double()
        expected = members.softmax(-1).mean(1)
        assert_allclose(net.predict_proba(X), expected, atol=1e-6)
        assert_allclose(net.as_module()(torch.from_numpy(X)), expected, atol=1e-6)

    def test_in_cross_validation_they_are_trained_in_lockstep(self, iris):
        model = make_cv(quick(module=WithMembers)).fit(*iris)
        assert model.alone_because_ is None
        logits = np.mean([net.logits(iris[0]) for net in model.estimators_], axis=0)
        proba = model.calibrator_.predict_proba(logits)
        assert_allclose(model.predict_proba(iris[0]), proba, atol=1e-6)

    def test_of_another_number_of_classes_is_refused(self, iris):
        with pytest.raises(ValueError, match=r"shape \(32, 5, 2\), but y has 3"):
            quick(module=WithMembers, module__n_classes=2).fit(*iris)


class TestWeightsOfClasses:
    """Whether they skew smoothed labels: those of rows do not, the criterion's do, as torch's."""

    WEIGHTS = (3.0, 1.0, 0.5)

    def first_loss(self, iris, **params):
        """Give the first epoch's training loss, and the logits and class indices it is of."""
        X, y = iris
        still = {"optimizer": torch.optim.SGD, "lr": 1e-9, "batch_size": -1, "train_split": None}
        net = quick(label_smoothing=0.3, max_epochs=1, calibration=None, **still, **params)
        net.fit(X, y)
        codes = torch.from_numpy(np.searchsorted(net.classes_, y))
        return net.history[0, "train_loss"], torch.from_numpy(net.logits(X)), codes

    def test_class_weight_weighs_whole_rows(self, iris):
        by_label = dict(zip(SPECIES, self.WEIGHTS, strict=True))
        loss, logits, codes = self.first_loss(iris, class_weight=by_label)
        each = nn.functional.cross_entropy(logits, codes, label_smoothing=0.3, reduction="none")
        weight = torch.tensor(self.WEIGHTS, dtype=torch.float64)[codes]
        assert loss == pytest.approx(float((weight * each).sum() / weight.sum()), rel=1e-5)

    def test_the_criterions_weight_weighs_the_smoothed_mass(self, iris):
        loss, logits, codes = self.first_loss(iris, criterion__weight=torch.tensor(self.WEIGHTS))
        weight = torch.tensor(self.WEIGHTS, dtype=torch.float64)
        expected = nn.functional.cross_entropy(logits, codes, weight, label_smoothing=0.3)
        assert loss == pytest.approx(float(expected), rel=1e-5)
