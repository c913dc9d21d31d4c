"""Where skorch takes a net, the classifier is one: callbacks, hooks, datasets, saving, copying."""

import copy
import pickle
from unittest.mock import Mock

import numpy as np
import pytest
import sklearn
import torch
from helpers import needs_sklearn
from sklearn.datasets import make_classification
from sklearn.model_selection import GroupKFold
from skorch import NeuralNetClassifier
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LRScheduler,
    ProgressBar,
)
from skorch.dataset import Dataset, ValidSplit
from skorch.exceptions import SkorchAttributeError
from skorch.helper import predefined_split
from skorch.history import History
from skorch.utils import noop
from torch import nn
from torch.utils.data import DataLoader

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, SimpleNet

N_ROWS, N_FEATURES = 200, 6


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(
        N_ROWS, N_FEATURES, n_informative=4, class_sep=2.0, flip_y=0.0, random_state=0
    )
    return X.astype(np.float32), y


def make_net(**parameters):
    settings = {"max_epochs": 5, "train_split": 0.2, "random_state": 0}
    return LabelSmoothingClassifier(**{**settings, **parameters})


def same_parameters(one, other):
    """Tell whether two modules have equal parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


class Recorder(Callback):
    """Remember which events came, and with which arguments."""

    def __init__(self):
        self.events = []
        self.arguments = {}

    def remember(self, event, kwargs):
        self.events.append(event)
        self.arguments.setdefault(event, set(kwargs))

    def on_train_begin(self, net, **kwargs):
        self.remember("on_train_begin", kwargs)

    def on_train_end(self, net, **kwargs):
        self.remember("on_train_end", kwargs)

    def on_epoch_begin(self, net, **kwargs):
        self.remember("on_epoch_begin", kwargs)

    def on_epoch_end(self, net, **kwargs):
        self.remember("on_epoch_end", kwargs)

    def on_batch_begin(self, net, **kwargs):
        self.remember("on_batch_begin", kwargs)

    def on_batch_end(self, net, **kwargs):
        self.remember("on_batch_end", kwargs)

    def on_grad_computed(self, net, **kwargs):
        self.remember("on_grad_computed", kwargs)


class TwoInputs(nn.Module):
    """Takes its inputs by name."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(N_FEATURES, 2)

    def forward(self, left, right):
        return self.out(torch.cat([left, right], dim=1))


class Scaled(SimpleNet):
    """Takes a fit parameter, and remembers what it got."""

    got: list = []  # noqa: RUF012

    def forward(self, x, scale=None):
        self.got.append(scale)
        return super().forward(x)


# -- callbacks ----------------------------------------------------------------------------------


def test_callbacks_hear_the_events_that_skorch_sends(data):
    split = ValidSplit(5, stratified=True)
    common = {"max_epochs": 2, "train_split": split, "batch_size": 50, "lr": 0.01}
    ours = make_net(callbacks=[Recorder()], early_stopping=False, **common)
    skorchs = NeuralNetClassifier(
        SimpleNet,
        criterion=nn.CrossEntropyLoss,
        module__n_features=N_FEATURES,
        module__n_classes=2,
        callbacks=[Recorder()],
        verbose=0,
        **common,
    )
    heard = {
        name: dict(net.fit(*data).callbacks_)["Recorder"]
        for name, net in (("ours", ours), ("skorch's", skorchs))
    }
    assert heard["ours"].events == heard["skorch's"].events
    assert heard["ours"].arguments == heard["skorch's"].arguments


def test_listening_to_the_batches_does_not_change_the_training(data):
    quiet = make_net(module__dropout=0.0).fit(*data)  # whose masks each way draws in its own way
    heard = make_net(module__dropout=0.0, callbacks=[Recorder()]).fit(*data)
    np.testing.assert_allclose(quiet.predict_proba(data[0]), heard.predict_proba(data[0]), 1e-4)
    losses = [net.history[:, "batches", :, "train_loss"] for net in (quiet, heard)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_history_has_the_batches(data):
    net = make_net(batch_size=50, max_epochs=2, early_stopping=False).fit(*data)
    assert net.history[:, "train_batch_count"] == [4, 4]
    assert net.history[-1, "batches", :, "train_batch_size"] == [50, 50, 50, 10]
    assert len(net.history[-1, "batches", :, "valid_loss"]) == 1


def test_epoch_scoring_scores_string_labels(data):
    X, y = data
    scoring = EpochScoring("balanced_accuracy", lower_is_better=False, name="balanced")
    net = make_net(callbacks=[scoring]).fit(X, np.array(["no", "yes"])[y])
    assert all(0 <= score <= 1 for score in net.history[:, "balanced"])
    assert net.history[-1, "balanced"] > 0.8


def test_batch_scoring_with_a_callable(data):
    def largest(net, X, y):
        return float(np.abs(net.forward(X).numpy()).max())

    net = make_net(callbacks=[BatchScoring(largest, name="largest")]).fit(*data)
    assert all(score > 0 for score in net.history[:, "largest"])


def test_early_stopping_of_skorch_ends_the_training(data):
    stopping = EarlyStopping(monitor="train_loss", patience=1, threshold=10.0, sink=lambda _: None)
    net = make_net(callbacks=[stopping], max_epochs=30).fit(*data)
    assert len(net.history) < 5
    assert net.calibrator_ is not None


def test_lr_scheduler_changes_the_learning_rate(data):
    scheduler = LRScheduler(policy="StepLR", step_size=1, gamma=0.5, event_name="event_lr")
    net = make_net(callbacks=[scheduler], lr=0.01, max_epochs=3, early_stopping=False).fit(*data)
    np.testing.assert_allclose(net.history[:, "event_lr"], [0.01, 0.005, 0.0025])
    assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(0.00125)


@pytest.mark.filterwarnings("ignore:calibrator_ was fitted to the parameters before")
@pytest.mark.parametrize("monitor", ["valid_loss_best", "refined_loss_best"])
def test_checkpoint_brings_back_the_best_epoch(data, tmp_path, monitor):
    checkpoint = Checkpoint(monitor=monitor, dirname=str(tmp_path), load_best=True)
    net = make_net(callbacks=[checkpoint], early_stopping=False).fit(*data)
    fresh = make_net().fit(*data)
    fresh.load_params(checkpoint=checkpoint)
    assert any(net.history[:, "event_cp"])
    assert same_parameters(net.module_, fresh.module_)


def test_progress_bar_shows_the_batches(data, capsys):
    net = make_net(callbacks=[ProgressBar(detect_notebook=False)], max_epochs=2).fit(*data)
    bar = dict(net.callbacks_)["ProgressBar"].pbar_
    assert bar.n == bar.total == len(net.history[-1]["batches"])
    assert f"0/{bar.total}" in capsys.readouterr().err


def test_gradient_norm_clipping_acts(data):
    plain = make_net(optimizer=torch.optim.SGD, lr=0.1).fit(*data)
    clipping = GradientNormClipping(gradient_clip_value=1e-9)
    clipped = make_net(optimizer=torch.optim.SGD, lr=0.1, callbacks=[clipping]).fit(*data)
    losses = clipped.history[:, "valid_loss"]
    assert np.ptp(losses) < 1e-6 < np.ptp(plain.history[:, "valid_loss"])


def test_freezer_keeps_parameters_as_they_were(data):
    class Watch(Callback):
        def on_train_begin(self, net, **kwargs):
            self.before_ = copy.deepcopy(net.module_)

    net = make_net(callbacks=[Freezer("layers.0.*"), ("watch", Watch())]).fit(*data)
    before = dict(net.callbacks_)["watch"].before_
    assert same_parameters(net.module_.layers[0], before.layers[0])
    assert not same_parameters(net.module_.layers[1], before.layers[1])


def test_mock_callbacks_are_called(data):
    callback = Mock()
    net = make_net(callbacks=[("mock", callback)]).fit(*data)
    assert callback.on_epoch_end.call_count == 5
    assert callback.on_batch_end.call_count == sum(len(epoch["batches"]) for epoch in net.history)


# -- parameters ---------------------------------------------------------------------------------


def test_lr_of_a_fitted_net_takes_effect_at_once(data):
    net = make_net().fit(*data)
    trained = copy.deepcopy(net.module_)
    net.set_params(lr=0.5)
    assert net.optimizer_.param_groups[0]["lr"] == 0.5
    assert same_parameters(net.module_, trained)


def test_optimizer_parameter_of_a_fitted_net_takes_effect_at_once(data):
    net = make_net().fit(*data).set_params(optimizer__weight_decay=0.25)
    assert net.optimizer_.param_groups[0]["weight_decay"] == 0.25


def test_callback_parameter_of_a_fitted_net_reaches_the_callback(data):
    said = []
    net = make_net(verbose=1, callbacks__print_log__sink=lambda line: None).fit(*data)
    net.set_params(callbacks__print_log__sink=said.append)
    assert dict(net.callbacks_)["print_log"].sink == said.append
    net.partial_fit(*data)
    assert any("refined_loss" in str(line) for line in said)


def test_parameters_for_a_callback_that_was_removed_are_refused(data):
    net = make_net(callbacks__print_log=None).set_params(callbacks__print_log__sink=print)
    with pytest.raises(ValueError, match="callback print_log which does not exist"):
        net.fit(*data)


def test_history_of_a_class_of_ones_own(data):
    class MyHistory(History):
        pass

    given = MyHistory()
    net = make_net(history=given).fit(*data).fit(*data)
    assert isinstance(net.history, MyHistory)
    assert len(net.history) == 5
    assert len(given) == 0


def test_module_set_outside_initialize_is_refused():
    class MyNet(LabelSmoothingClassifier):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.extra_ = nn.Linear(1, 1)

    with pytest.raises(SkorchAttributeError, match="'extra_' outside of an initialize method"):
        MyNet()


def test_no_classes_are_refused(data):
    with pytest.raises(ValueError, match="classes is empty"):
        make_net(classes=[]).fit(*data)


# -- saving and copying -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:calibrator_ was fitted to the parameters before")
def test_saved_parameters_come_back(data, tmp_path):
    files = {
        f"f_{part}": str(tmp_path / part)
        for part in ("params", "optimizer", "criterion", "history")
    }
    net = make_net(random_state=0).fit(*data)
    net.save_params(**files)
    other = make_net(random_state=1).fit(*data)
    assert not same_parameters(net.module_, other.module_)
    other.load_params(**files)
    assert same_parameters(net.module_, other.module_)
    assert other.history == net.history


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("fit", ["warm start", "partial fit"])
def test_copies_predict_and_train_alike(data, fit, make_copy):
    net = make_net(warm_start=fit == "warm start").fit(*data)
    if fit == "partial fit":
        net.partial_fit(*data)
    twin = make_copy(net)
    np.testing.assert_array_equal(twin.predict_proba(data[0]), net.predict_proba(data[0]))
    for each in (net, twin):
        each.partial_fit(*data)
    np.testing.assert_array_equal(twin.predict_proba(data[0]), net.predict_proba(data[0]))


def test_pickle_of_a_finished_fit_holds_little_but_parameters(data):
    n_bytes = {}
    for batch_size in (4, 64):
        net = make_net(max_epochs=20, batch_size=batch_size, module__hidden_layer_sizes=(256,))
        twin = pickle.loads(pickle.dumps(net.fit(*data)))
        assert twin.history[:, "train_loss"] == net.history[:, "train_loss"]
        assert len(net.history[-1, "batches"]) > len(twin.history[-1, "batches"])
        n_bytes[batch_size] = len(pickle.dumps(net))
        own = sum(own.numel() * own.element_size() for own in net.module_.parameters())
        assert n_bytes[batch_size] < own + 25_000
        assert net.optimizer_.state  # the net itself is as it was
        twin.partial_fit(*data)
    assert n_bytes[4] == pytest.approx(n_bytes[64], rel=0.02)


@pytest.mark.parametrize(
    "make_callback",
    [
        lambda folder: Checkpoint(monitor="train_loss_best", load_best=True, dirname=str(folder)),
        lambda folder: EarlyStopping("valid_loss", patience=3, load_best=True, sink=noop),
    ],
    ids=["Checkpoint", "EarlyStopping"],
)
def test_best_epoch_is_that_whose_parameters_a_callback_loaded(data, make_callback, tmp_path):
    settings = {"lr": 0.05, "early_stopping": False}
    net = make_net(max_epochs=12, callbacks=[make_callback(tmp_path)], **settings).fit(*data)
    stopped = make_net(max_epochs=net.best_epoch_, **settings).fit(*data)
    assert same_parameters(net.module_, stopped.module_)
    np.testing.assert_array_equal(net.predict_proba(data[0]), stopped.predict_proba(data[0]))


@pytest.mark.parametrize("file", ["/dev/full", "/no/such/folder/net.pt"])
def test_a_checkpoint_that_cannot_be_saved_is_warned_of(data, file):
    checkpoint = Checkpoint(f_params=file, f_optimizer=None, f_criterion=None, f_history=None)
    with pytest.warns(UserWarning, match=f"f_module='{file}' could not be saved"):
        net = make_net(callbacks=[checkpoint]).fit(*data)
    assert net.predict_proba(data[0]).shape == (len(data[0]), 2)


ONLY_PARAMS = {"f_optimizer": None, "f_criterion": None, "f_history": None}


def test_a_checkpoint_that_cannot_be_loaded_again_says_that_it_could_not_be_saved(data):
    checkpoint = Checkpoint(f_params="no folder/p.pt", load_best=True, **ONLY_PARAMS)
    with (
        pytest.warns(UserWarning, match="f_module='no folder/p.pt' could not be saved"),
        pytest.raises(FileNotFoundError),
    ):
        make_net(callbacks=[checkpoint]).fit(*data)


def test_a_checkpoint_that_cannot_be_saved_in_a_cross_validation_is_warned_of(data):
    checkpoint = Checkpoint(f_params="no folder/p.pt", **ONLY_PARAMS)
    net = make_net(callbacks=[checkpoint], max_epochs=1)
    with pytest.warns(UserWarning, match="f_module='no folder/p.pt' could not be saved"):
        LabelSmoothingClassifierCV(net, cv=2, label_smoothings=(0.0,)).fit(*data)


# -- hooks --------------------------------------------------------------------------------------


def test_overridden_loss_is_used_and_may_record_in_the_batch(data):
    class MyNet(LabelSmoothingClassifier):
        def get_loss(self, y_pred, y_true, X=None, training=False):
            loss = super().get_loss(y_pred, y_true, X, training)
            penalty = 0.01 * y_pred.square().mean()
            if training:
                self.history.record_batch("penalty", float(penalty.detach()))
                self.history.record_batch("plain", float(loss.detach()))
            return loss + penalty

    net = MyNet(max_epochs=2, random_state=0).fit(*data)
    batches = net.history[-1, "batches", :, ("train_loss", "plain", "penalty")]
    sums = [plain + penalty for _, plain, penalty in batches]
    np.testing.assert_allclose([loss for loss, _, _ in batches], sums, rtol=1e-6)


def test_criterion_under_another_name(data):
    class MyNet(LabelSmoothingClassifier):
        def initialize_criterion(self):
            self.mine_ = nn.CrossEntropyLoss()
            return self

        def get_loss(self, y_pred, y_true, *args, **kwargs):
            return self.mine_(y_pred, y_true)

    assert MyNet(max_epochs=20, random_state=0).fit(*data).score(*data) > 0.8


def test_lbfgs_trains(data):
    net = make_net(optimizer=torch.optim.LBFGS, lr=0.5, batch_size=-1, max_epochs=10).fit(*data)
    assert net.history[-1, "train_loss"] < net.history[0, "train_loss"]
    assert net.score(*data) > 0.9


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_a_wrong_nonlinearity_is_told_before_the_rows_are_looked_at(data, method):
    net = make_net().fit(*data).set_params(predict_nonlinearity=123)
    with pytest.raises(TypeError, match="predict_nonlinearity has to be a callable"):
        getattr(net, method)(np.zeros((3, N_FEATURES + 1)))


# -- datasets and splits ------------------------------------------------------------------------


def test_dataloader_trains_like_batches_in_memory(data):
    common = {"iterator_train__shuffle": False, "batch_size": 32, "module__dropout": 0.0}
    in_memory = make_net(**common).fit(*data)
    loaded = make_net(
        iterator_train=DataLoader,
        iterator_valid=DataLoader,
        iterator_train__num_workers=0,
        **common,
    ).fit(*data)
    np.testing.assert_allclose(
        in_memory.predict_proba(data[0]), loaded.predict_proba(data[0]), rtol=1e-4
    )


@pytest.mark.parametrize("batch_size", [16, N_ROWS])
@pytest.mark.parametrize("n_drawn", [20, N_ROWS, 2 * N_ROWS, 2 * N_ROWS + 50])
def test_held_out_rows_are_those_that_a_sampler_draws(n_drawn, batch_size, data):
    X, y = data
    drawn = np.random.default_rng(0).integers(150, N_ROWS, size=n_drawn)
    net = make_net(
        train_split=predefined_split(Dataset(X, y)),
        iterator_valid=DataLoader,
        iterator_valid__sampler=drawn.tolist(),
        early_stopping=False,
        batch_size=batch_size,
    ).fit(X[:150], y[:150])
    logits = torch.as_tensor(net.forward(X[drawn])).numpy()
    assert net.history[-1, "valid_acc"] == pytest.approx(np.mean(logits.argmax(1) == y[drawn]))
    kind = type(net.calibrator_)
    by_hand = kind(prior_strength=net.calibrator_.prior_strength).fit(logits, y[drawn])
    assert net.calibrator_.temperature_ == pytest.approx(by_hand.temperature_, rel=1e-4)


@pytest.mark.parametrize("n_held_out", [20, 40])
def test_valid_split_parts_the_rows(data, n_held_out):
    net = make_net(train_split=ValidSplit(N_ROWS // n_held_out, stratified=True)).fit(*data)
    assert net.history[-1]["batches"][-1]["valid_batch_size"] == n_held_out


def test_predefined_split_holds_out_its_rows(data):
    X, y = data
    held_out = Dataset(X[150:], y[150:])
    net = make_net(train_split=predefined_split(held_out)).fit(X[:150], y[:150])
    logits = torch.as_tensor(net.forward(X[150:])).numpy()
    accuracy = np.mean(logits.argmax(1) == y[150:])
    assert net.history[net.best_epoch_ - 1, "valid_acc"] == pytest.approx(accuracy)


@pytest.mark.parametrize("classes", [[0, 1], ["no", "yes"]])
def test_stratified_split_of_a_dataset_reads_its_labels(data, classes):
    X, y = data

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, i):
            return X[i], classes[y[i]]

    seen = []

    def split(dataset, y):
        seen.append(y)
        return ValidSplit(5, stratified=True)(dataset, y)

    net = make_net(train_split=split).fit(Rows(), None)
    np.testing.assert_array_equal(seen[0], y)
    assert net.score(X, np.array(classes)[y]) > 0.8


def test_skorch_dataset_class_with_a_stratified_split(data):
    net = make_net(dataset=Dataset, train_split=ValidSplit(5, stratified=True)).fit(*data)
    in_memory = make_net(train_split=ValidSplit(5, stratified=True)).fit(*data)
    assert net.score(*data) == pytest.approx(in_memory.score(*data), abs=0.05)


def test_partial_fit_on_a_dataset_with_a_stratified_split(data):
    X, y = data
    rows = Dataset(X, y)
    net = make_net(train_split=ValidSplit(5, stratified=True)).partial_fit(rows, y)
    net.partial_fit(rows, y)
    assert len(net.history) == 2


@pytest.mark.parametrize(
    ("item", "message"), [((0.0,), "1 value"), (0.0, "1 value"), ((0.0, 0.0, 0), "3 values")]
)
def test_datasets_that_do_not_give_pairs_are_refused(item, message):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 50

        def __getitem__(self, i):
            return item

    with pytest.raises(ValueError, match=message):
        make_net().fit(Rows(), None)


def test_dict_inputs_go_to_the_arguments_of_forward(data):
    X, y = data
    inputs = {"left": X[:, :2], "right": X[:, 2:]}
    net = make_net(module=TwoInputs, max_epochs=30, lr=0.02).fit(inputs, y)
    assert net.predict_proba(inputs).shape == (N_ROWS, 2)
    assert net.score(inputs, y) > 0.8


# -- fit parameters and metadata routing --------------------------------------------------------


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_fit_parameters_reach_the_module_and_the_split(data, method):
    seen = []

    def split(dataset, y, **fit_params):
        seen.append(fit_params)
        return dataset, dataset

    Scaled.got.clear()
    net = make_net(module=Scaled, train_split=split, max_epochs=1, calibration=None)
    getattr(net, method)(*data, scale=3)
    assert seen == [{"scale": 3}]
    assert set(Scaled.got) == {3}


@needs_sklearn("1.8", "routing of what no signature names")
@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_routed_parameters_reach_the_module_but_not_the_split(data, method):
    Scaled.got.clear()
    net = make_net(module=Scaled, train_split=ValidSplit(5, stratified=True), max_epochs=1)
    getattr(net, f"set_{method}_request")(scale=True)
    getattr(net, method)(*data, scale=3)
    assert 3 in Scaled.got


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("name", ["groups", "patients"])
@pytest.mark.parametrize("takes_them", [False, True])
def test_groups_are_routed_to_the_split(data, takes_them, name):
    class TakesAnything(SimpleNet):
        def forward(self, x, **fit_params):
            assert set(fit_params) == {name} or not self.training
            return super().forward(x)

    groups = np.arange(N_ROWS) % 4
    held_out = []

    class Watch(Callback):
        def on_epoch_begin(self, net, dataset_valid, **kwargs):
            held_out.append(set(groups[dataset_valid.indices]))

    split = ValidSplit(GroupKFold(4).set_split_request(groups=name))
    module = TakesAnything if takes_them else SimpleNet
    net = make_net(module=module, train_split=split, callbacks=[Watch()])
    net.fit(*data, **{name: groups})
    assert len(held_out[0]) == 1


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_parameters_that_nobody_requested_are_refused(data, method):
    with pytest.raises(TypeError, match="unexpected argument"):
        getattr(make_net(), method)(*data, unknown=1)


def test_accelerate_mixin_before_the_class_trains_reproducibly(data):
    accelerate = pytest.importorskip("accelerate")
    from skorch.hf import AccelerateMixin

    class Net(AccelerateMixin, LabelSmoothingClassifier):
        pass

    def fit():
        return Net(
            accelerator=accelerate.Accelerator(cpu=True),
            callbacks__print_log__sink=lambda text: None,
            lr=0.01,
            max_epochs=10,
            random_state=0,
        ).fit(*data)

    before = torch.get_rng_state()
    net = fit()
    assert torch.equal(torch.get_rng_state(), before)
    assert net.trained_by_ == "by skorch"
    assert net.score(*data) > 0.8
    assert net.calibrator_ is not None
    np.testing.assert_array_equal(fit().predict_proba(data[0]), net.predict_proba(data[0]))
    assert net.partial_fit(*data).score(*data) > 0.8
