"""However a net is trained, it becomes what skorch's own loop makes of it; and it tells how."""

import copy
from inspect import signature

import numpy as np
import pytest
import torch
from helpers import Listener, assert_same_module, make_net
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, Freezer, LRScheduler, Unfreezer
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from sksmooth import BatchedGridSearchCV, LabelSmoothingClassifier, LabelSmoothingLoss, SimpleNet
from sksmooth.engine.adam import ELEMENTWISE_OPTIMIZERS
from sksmooth.engine.by_hand import HandNets
from sksmooth.engine.plan import against_stacking


def listening(parameters):
    """Add the Listener to an estimator's callbacks."""
    return {**parameters, "callbacks": [*parameters.get("callbacks", []), Listener()]}


def make_instance():
    """Make a net with the same initial values whenever this file is imported."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SimpleNet(6, 3, 8, dropout=0.0)


WEIGHTS = np.random.default_rng(0).uniform(0, 2, size=200)


FAST = {
    "defaults": {},
    "early stopping": {"early_stopping": True, "patience": 2, "max_epochs": 8, "lr": 0.05},
    "no held-out rows": {"train_split": None},
    "class_weight": {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}},
    "balanced": {"class_weight": "balanced"},
    "no smoothing": {"label_smoothing": 0},
    "off_target": {"smoothing": "off_target"},
    "prior": {"smoothing": "prior", "label_smoothing": 0.3},
    "matrix": {"smoothing": np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])},
    "kl": {"criterion__form": "kl"},
    "cross-entropy": {"criterion": nn.CrossEntropyLoss},
    "weighted cross-entropy": {
        "criterion": nn.CrossEntropyLoss,
        "criterion__weight": torch.tensor([1.0, 2.0, 0.5]),
    },
    "logistic regression": {"module__hidden_layer_sizes": ()},
    "gelu": {"module__activation": "gelu"},
    "module instance": {"module": make_instance()},
    "one batch": {"batch_size": -1},
    "drop_last": {"iterator_train__drop_last": True},
    "unshuffled": {"iterator_train__shuffle": False},
    "weight decay": {"optimizer__weight_decay": 0.3},
    "not fused": {"optimizer": torch.optim.Adam, "optimizer__foreach": True},
    "param_groups": {"optimizer__param_groups": [("layers.0.*", {"lr": 0.1})]},
}


@pytest.mark.parametrize("has_sample_weight", [False, True])
@pytest.mark.parametrize("parameters", FAST.values(), ids=FAST)
def test_fast_path_ends_where_skorchs_loop_does(parameters, has_sample_weight, data):
    weight = {"sample_weight": WEIGHTS} if has_sample_weight else {}
    fast = make_net(**parameters).fit(*data, **weight)
    slow = make_net(**listening(parameters)).fit(*data, **weight)
    assert fast.trained_by_ == "by hand", fast.trained_by_reason_
    assert slow.trained_by_ == "by skorch"
    assert slow.trained_by_reason_ == "a callback listens to the batches"
    assert_same_module(fast, slow)
    assert_same_records(fast, slow)
    np.testing.assert_allclose(
        fast.predict_proba(data[0]), slow.predict_proba(data[0]), rtol=1e-3, atol=1e-4
    )


def assert_same_records(fast, slow):
    """Compare two histories: the same keys, in batches as in epochs, and close values."""
    assert len(fast.history) == len(slow.history)
    assert fast.best_epoch_ == slow.best_epoch_
    for ours, theirs in zip(fast.history, slow.history, strict=True):
        ours, theirs = dict(ours), dict(theirs)
        own_batches, batches = ours.pop("batches"), theirs.pop("batches")
        assert list(map(list, own_batches)) == list(map(list, batches))
        for own_batch, batch in zip(own_batches, batches, strict=True):
            assert own_batch == pytest.approx(batch, rel=1e-4)
        for row in (ours, theirs):
            del row["dur"]
        assert set(ours) == set(theirs)
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("optimizer", ELEMENTWISE_OPTIMIZERS)
def test_every_elementwise_optimizer_is_fast_and_agrees(optimizer, data):
    parameters = {"optimizer": optimizer, "train_split": None, "lr": 0.01}
    fast = make_net(**parameters).fit(*data)
    assert fast.trained_by_ == "by hand"
    slow = make_net(**listening(parameters)).fit(*data)
    assert slow.trained_by_ == "by skorch"
    assert_same_module(fast, slow)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam])
def test_decoupled_weight_decay_is_so_in_company(optimizer, data):
    if "decoupled_weight_decay" not in signature(optimizer).parameters:
        pytest.skip("torch 2.6 has it for NAdam and RAdam only")
    own = {"optimizer__weight_decay": 0.5, "optimizer__decoupled_weight_decay": True}
    net = make_net(optimizer=optimizer, lr=0.02, **own)
    grid, other = {"label_smoothing": [0.0, 0.2]}, {"cv": 2, "scoring": "neg_log_loss"}
    search = BatchedGridSearchCV(net, grid, **other).fit(*data)
    assert search.alone_because_ == [None, None]
    found, expected = (
        own.cv_results_["mean_test_score"]
        for own in (search, GridSearchCV(net, grid, **other).fit(*data))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_momentum_agrees(data):
    parameters = {
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "optimizer__nesterov": True,
        "optimizer__weight_decay": 0.01,
    }
    fast = make_net(**parameters).fit(*data)
    assert fast.trained_by_ == "by hand"
    assert_same_module(fast, make_net(**listening(parameters)).fit(*data))


def test_training_further_takes_up_the_optimizers_state(data):
    fast, slow = make_net(), make_net(callbacks=[Listener()])
    for net in (fast, slow):
        for _ in range(3):
            net.partial_fit(*data, classes=[0, 1, 2])
    assert fast.trained_by_ == "by hand"
    assert_same_module(fast, slow)
    steps = [next(iter(net.optimizer_.state.values()))["step"] for net in (fast, slow)]
    assert [int(step) for step in steps] == [18, 18]


def test_skorchs_loop_takes_over_from_the_fast_path_and_back(data):
    changing, slow = make_net(), make_net(callbacks=[Listener()])
    for round_ in range(4):
        for net in (changing, slow):
            net.partial_fit(*data, classes=[0, 1, 2])
        if round_ % 2 == 0:
            changing.callbacks_.append(("listener", Listener()))
        else:
            changing.callbacks_.pop()
    assert_same_module(changing, slow)


def test_interrupted_epoch_leaves_the_optimizers_count_right(data, monkeypatch):
    net = make_net(train_split=None).fit(*data)
    original, calls = HandNets.loss_and_gradients, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 7 + 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(HandNets, "loss_and_gradients", interrupted)
    net.partial_fit(*data, epochs=2)
    counts = {int(state["step"]) for state in net.optimizer_.state.values()}
    assert counts == {5 * 7 + 7 + 3}
    assert len(net.history) == 5 + 1


def test_prediction_and_copies_after_the_fast_path(data):
    net = make_net().fit(*data)
    twin = copy.deepcopy(net)
    twin.partial_fit(*data)
    assert not np.array_equal(twin.predict_proba(data[0]), net.predict_proba(data[0]))
    assert all(parameter.requires_grad for parameter in net.module_.parameters())
    assert_same_module(net, make_net().fit(*data), rtol=0, atol=0)


# -- what goes skorch's way ---------------------------------------------------------------------


class OwnLoss(LabelSmoothingLoss):
    """Another loss: twice the smoothed one."""

    def forward(self, logits, target, sample_weight=None):
        return 2 * super().forward(logits, target, sample_weight)


class OwnNet(SimpleNet):
    """A subclass, whose forward does more."""

    def forward(self, x):
        return super().forward(x) * 0.5


class OtherNet(nn.Module):
    """A module that is not a SimpleNet, with the same layers and initial values."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.net = SimpleNet(n_features, n_classes, (64, 32), dropout=0.0)

    def forward(self, x):
        return self.net(x)


class OwnAdam(torch.optim.AdamW):
    """A subclass, whose step does more."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.9)
        return loss


class Probabilities(OwnNet):
    """Gives probabilities, as skorch's NLLLoss wants them."""

    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class Dtype(Callback):
    """Cast the module before training, once its optimizer is there."""

    def on_train_begin(self, net, **kwargs):
        net.module_.register_forward_pre_hook(lambda module, args: (args[0].double(),))
        net.module_.double()


class At(Callback):
    """Do something to the net when training begins."""

    def __init__(self, act):
        self.act = act

    def on_train_begin(self, net, **kwargs):
        self.act(net)


def double_logits(module, args, output):
    return 2 * output


def replace_first_layer(net):
    net.module_.layers[0] = nn.Sequential(net.module_.layers[0], nn.Tanh())


def share_layer(net):
    net.module_.layers[1] = net.module_.layers[0]


def replace_forward(net):
    forward = net.module_.forward
    net.module_.forward = lambda x: 2 * forward(x)


def hook_parameter(net):
    net.module_.layers[0].weight.register_hook(lambda gradient: 0 * gradient)


def hook_accumulation(net):
    def forget(parameter):
        parameter.grad.zero_()

    net.module_.layers[0].weight.register_post_accumulate_grad_hook(forget)


def weight_normalized():
    net = make_instance()
    parametrizations.weight_norm(net.layers[0])
    return net


def without_bias():
    net = make_instance()
    layer = nn.Linear(6, 8, bias=False)
    layer.weight = net.layers[0].weight  # which are the same in every run
    net.layers[0] = layer
    return net


# Where the fast path must not be taken. Plain gradient descent, since Adam does not see the scale
# of a gradient.
SLOW = {
    "subclass of LabelSmoothingLoss": {"criterion": OwnLoss},
    "sum": {"criterion__reduction": "sum", "lr": 1e-3},
    "another criterion": {"criterion": nn.MultiMarginLoss, "label_smoothing": 0},
    "NLLLoss": {"criterion": nn.NLLLoss, "label_smoothing": 0, "module": Probabilities},
    "sum of torch's": {
        "criterion": nn.CrossEntropyLoss,
        "criterion__reduction": "sum",
        "lr": 1e-3,
    },
    "ignore_index": {"criterion": nn.CrossEntropyLoss, "criterion__ignore_index": 1},
    "module": {"module": OtherNet},
    "subclass of SimpleNet": {"module": OwnNet},
    "parametrized layer": {"module": weight_normalized()},
    "layer without bias": {"module": without_bias()},
    "replaced layer": {"callbacks": [At(replace_first_layer)]},
    "shared layer": {"module__hidden_layer_sizes": (6, 6), "callbacks": [At(share_layer)]},
    "replaced forward": {"callbacks": [At(replace_forward)]},
    "forward hook": {
        "callbacks": [At(lambda net: net.module_.register_forward_hook(double_logits))]
    },
    "forward hook of a layer": {
        "callbacks": [At(lambda net: net.module_.layers[0].register_forward_hook(double_logits))]
    },
    "forward pre-hook": {
        "callbacks": [
            At(
                lambda net: net.module_.register_forward_pre_hook(
                    lambda module, args: (2 * args[0],)
                )
            )
        ]
    },
    "backward hook": {
        "callbacks": [
            At(
                lambda net: net.module_.layers[1].register_full_backward_hook(
                    lambda module, inputs, outputs: (2 * inputs[0],)
                )
            )
        ]
    },
    "hook of the criterion": {
        "callbacks": [At(lambda net: net.criterion_.register_forward_hook(double_logits))]
    },
    "hook of a parameter": {"callbacks": [At(hook_parameter)]},
    "post-accumulation hook": {"callbacks": [At(hook_accumulation)]},
    "frozen parameters": {"callbacks": [Freezer("layers.0.*")]},
    "double": {"callbacks": [Dtype()]},
    "LBFGS": {"optimizer": torch.optim.LBFGS, "lr": 0.01, "batch_size": -1},
    "subclass of an optimizer": {"optimizer": OwnAdam},
    "some parameters": {
        "callbacks": [At(lambda net: net.optimizer_.param_groups[0]["params"].pop())]
    },
    "DataLoader": {"iterator_train": DataLoader, "iterator_train__shuffle": True},
    "parameter of DataLoader": {"iterator_train__num_workers": 0},
    "LRScheduler of batches": {
        "callbacks": [LRScheduler(lr_scheduler.StepLR, step_size=2, step_every="batch")]
    },
}


SAME_AS_DEFAULTS = {"module", "double"}


@pytest.mark.parametrize("name", SLOW)
def test_what_the_fast_path_cannot_take_trains_as_by_skorchs_loop(name, data):
    descent = {"optimizer": torch.optim.SGD, "lr": 0.05}
    parameters = {**descent, **SLOW[name]}
    quiet = make_net(**parameters).fit(*data)
    assert quiet.trained_by_ != "by hand"
    by_skorch = make_net(**listening(parameters)).fit(*data)
    assert_same_module(quiet, by_skorch)
    assert_same_records(quiet, by_skorch)

    by_defaults = make_net(**descent).fit(*data)
    assert by_defaults.trained_by_ == "by hand"
    probabilities = [net.predict_proba(data[0]) for net in (quiet, by_defaults)]
    assert np.allclose(*probabilities, rtol=1e-3) == (name in SAME_AS_DEFAULTS)


def test_a_schedule_of_epochs_keeps_the_fast_path(data):
    parameters = {"callbacks": [LRScheduler(lr_scheduler.StepLR, step_size=2, gamma=0.1)]}
    quiet = make_net(**parameters).fit(*data)
    assert quiet.trained_by_ == "by hand"
    assert_same_module(quiet, make_net(**listening(parameters)).fit(*data))
    constant = make_net().fit(*data)
    assert not np.allclose(quiet.predict_proba(data[0]), constant.predict_proba(data[0]), 1e-3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"criterion__form": "cross-entropy"}, "form"),
        ({"criterion__reduction": "median"}, "reduction"),
        ({"criterion__weight": torch.ones(1)}, "weight"),
        ({"criterion__weight": torch.ones(4)}, "weight"),
        ({"criterion__label_smoothing": 1.5}, "label_smoothing"),
        ({"criterion__smoothing": "unifrom"}, "uniform"),
        ({"module__n_features": 5}, "n_features"),
        ({"module__n_classes": 5}, "classes"),
    ],
)
def test_what_the_criterion_or_the_module_refuses_is_refused(parameters, message, data):
    with pytest.raises(ValueError, match=message):
        make_net(**parameters).fit(*data)


def test_parameters_that_thaw_are_updated_as_by_skorchs_loop(data):
    callbacks = [Freezer("layers.0.*"), Unfreezer("layers.0.*", at=3)]
    quiet = make_net(callbacks=callbacks).fit(*data)
    assert quiet.trained_by_ == "by hand"
    slow = make_net(callbacks=[*callbacks, Listener()]).fit(*data)
    assert_same_module(quiet, slow)
    counts = [
        [int(state["step"]) for state in net.optimizer_.state.values()] for net in (quiet, slow)
    ]
    assert sorted(counts[0]) == sorted(counts[1])
    assert len(set(counts[0])) == 2


class Halving(Callback):
    """Steps one of torch's schedulers after every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.scheduler = lr_scheduler.StepLR(net.optimizer_, step_size=1, gamma=0.5)

    def on_epoch_end(self, net, **kwargs):
        self.scheduler.step()


def test_scheduler_of_torchs_sets_the_learning_rate_of_the_fast_path(data):
    fast = make_net(callbacks=[Halving()]).fit(*data)
    assert fast.trained_by_ == "by hand"
    assert_same_module(fast, make_net(callbacks=[Halving(), Listener()]).fit(*data))
    assert fast.optimizer_.param_groups[0]["lr"] == pytest.approx(0.003 / 2**5)


def test_epoch_hook_of_a_subclass_may_change_the_parts(data):
    class Annealed(LabelSmoothingClassifier):
        def on_epoch_begin(self, net, **kwargs):
            super().on_epoch_begin(net, **kwargs)
            self.criterion_.label_smoothing = 0.1 * (len(self.history) - 1)

    parameters = make_net().get_params()
    fast = Annealed(**parameters).fit(*data)
    assert fast.trained_by_ == "by hand"
    slow = Annealed(**listening({**parameters, "callbacks": []})).fit(*data)
    assert_same_module(fast, slow)
    assert_same_records(fast, slow)


class Scaled(nn.Linear):
    factor = 1.0

    def forward(self, X):
        return self.factor * super().forward(X)


def test_a_module_that_gives_nan_is_not_said_to_change_itself(data):
    layer = {"module__in_features": 6, "module__out_features": 3}
    net = make_net(module=Scaled, **layer).fit(*data)
    net.module_.factor = float("nan")
    assert against_stacking(net, torch.from_numpy(data[0][:4])) is None
