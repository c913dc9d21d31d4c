"""The nets of all ε and folds: each as a fit of its own, and the choice among them."""

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TwoLayers, WithBatchNorm, WithDropout, WithMembers, make_cv, short
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
)
from skorch.callbacks import Callback, Checkpoint, LRScheduler
from torch import nn

from sksmooth import LabelSmoothingClassifier, make_tabular
from sksmooth._folds import FoldsTraining

X, Y = make_tabular(300, random_state=0)


def fit_alone(net, rows, labels):
    """Fit a net like one that was trained in lockstep."""
    return clone(net).set_params(max_epochs=net.best_epoch_, early_stopping=False).fit(rows, labels)


def test_torchs_default_device_is_not_that_of_the_logits(monkeypatch):
    net = short(max_epochs=2)
    expected = make_cv(net).fit(X, Y).oof_proba_
    collect = FoldsTraining._collect

    def collect_elsewhere(self):
        with torch.device("meta"):
            return collect(self)

    monkeypatch.setattr(FoldsTraining, "_collect", collect_elsewhere)
    np.testing.assert_array_equal(make_cv(net).fit(X, Y).oof_proba_, expected)


@pytest.mark.parametrize("module", [TwoLayers, WithMembers])
def test_autocast_keeps_no_net_from_company(module):
    sizes = {"module__n_features": X.shape[1]} if module is WithMembers else {}
    net = LabelSmoothingClassifier(module, max_epochs=2, **sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make_cv(net).fit(X, Y).alone_because_ is None


class NotAlone(nn.Module):
    """Gives something else where it is stacked."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(n_features, n_classes)

    def forward(self, X):
        is_stacked = torch._C._functorch.is_functorch_wrapped_tensor(X)
        return self.layer(X) + 0.1 * torch.arange(3) * is_stacked


@pytest.mark.parametrize("autocast", [False, True])
def test_a_module_that_gives_something_else_in_a_stack_goes_alone(autocast):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        model = make_cv(LabelSmoothingClassifier(NotAlone, max_epochs=1)).fit(X, Y)
    assert model.alone_because_ == "the module gives something else when it is stacked"


def _always_one(epoch):
    return 1.0


class TestChoice:
    def test_of_the_epoch_is_where_the_refined_loss_is_lowest(self, fitted):
        results = pd.DataFrame(fitted.cv_results_)
        own = results[results["label_smoothing"] == fitted.label_smoothing_]
        assert fitted.best_epoch_ == own.loc[own["refined_loss"].idxmin(), "epoch"]

    @pytest.mark.parametrize("early_stopping", [True, False])
    def test_of_the_smoothing_is_where_the_calibrated_loss_is_lowest(self, early_stopping):
        net = short(max_epochs=20, early_stopping=early_stopping)
        values = [0.0, 0.2, 0.9]
        alone = [make_cv(net, label_smoothings=[value]).fit(X, Y).oof_log_loss_ for value in values]
        assert max(alone) - min(alone) > 1e-3
        model = make_cv(net, label_smoothings=values).fit(X, Y)
        assert model.label_smoothing_ == values[np.argmin(alone)]
        assert model.oof_log_loss_ == pytest.approx(min(alone), abs=1e-4)

    def test_without_calibration_is_where_the_refined_loss_is_lowest(self):
        model = make_cv(short(calibration=None)).fit(X, Y)
        results = pd.DataFrame(model.cv_results_)
        best = results.loc[results["refined_loss"].idxmin()]
        assert model.label_smoothing_ == best["label_smoothing"]
        assert model.best_epoch_ == best["epoch"]

    def test_ends_each_smoothing_when_its_patience_does(self, fitted):
        results = pd.DataFrame(fitted.cv_results_)
        assert list(results.columns) == [
            *("label_smoothing", "epoch", "refined_loss", "accuracy", "train_loss")
        ]
        for _, own in results.groupby("label_smoothing"):
            assert own["epoch"].tolist() == list(range(1, len(own) + 1))
            best_epoch = own.loc[own["refined_loss"].idxmin(), "epoch"]
            assert len(own) == min(40, best_epoch + 5)

    def test_is_of_the_last_epoch_without_early_stopping(self):
        model = make_cv(short(early_stopping=False)).fit(X, Y)
        results = pd.DataFrame(model.cv_results_)
        assert model.best_epoch_ == 8
        assert len(results) == 16

    def test_scores_every_row_by_the_net_that_did_not_see_it(self):
        splits = list(KFold(3, shuffle=True, random_state=1).split(X))
        model = make_cv(cv=splits).fit(X, Y)
        for net, (_, held_out) in zip(model.estimators_, splits, strict=True):
            np.testing.assert_allclose(
                model.oof_proba_[held_out], net.predict_proba(X[held_out]), atol=1e-6
            )

    def test_loss_and_accuracy_are_those_of_the_out_of_fold_probabilities(self):
        net = short(max_epochs=40, patience=5, calibration="temperature")
        fitted = make_cv(net).fit(X, Y)
        assert fitted.oof_log_loss_ == pytest.approx(log_loss(Y, fitted.oof_proba_))
        best = pd.DataFrame(fitted.history).set_index("epoch").loc[fitted.best_epoch_]
        assert best["refined_loss"] == pytest.approx(fitted.oof_log_loss_, abs=1e-3)
        assert best["valid_acc"] == np.mean(fitted.oof_proba_.argmax(1) == Y)

    def test_temperature_is_that_of_the_best_logits(self, fitted):
        assert fitted.temperature_ == fitted.calibrator_.temperature_
        assert all(net.calibrator_ is fitted.calibrator_ for net in fitted.estimators_)

    def test_every_net_is_what_a_fit_of_its_own_gives(self, fitted):
        folds = StratifiedKFold(3, shuffle=True, random_state=5)
        model = make_cv(short(max_epochs=15, patience=3, batch_size=64), cv=folds).fit(X, Y)
        for net, (train, _) in zip(model.estimators_, folds.split(X, Y), strict=True):
            alone = fit_alone(net, X[train], Y[train])
            assert net.label_smoothing == model.label_smoothing_
            assert net.best_epoch_ == model.best_epoch_
            np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)

    def test_net_of_all_rows_is_what_a_fit_of_its_own_gives(self):
        model = make_cv(ensemble=False).fit(X, Y)
        (net,) = model.estimators_
        alone = fit_alone(net, X, Y)
        np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)
        np.testing.assert_allclose(model.predict_proba(X), net.predict_proba(X), atol=1e-6)

    def test_does_not_depend_on_whether_the_net_of_all_rows_is_trained(self):
        ensemble, single = (make_cv(ensemble=value).fit(X, Y) for value in (True, False))
        np.testing.assert_array_equal(ensemble.oof_proba_, single.oof_proba_)

    def test_trains_folds_of_unequal_numbers_of_batches(self):
        n_rows = 65 * 3 + 64  # two folds of 129 and 130 rows to train on: 3 batches; one of 128: 2
        fold = np.repeat([0, 1, 2], [65, 64, 64 + 1])[:n_rows]
        rows = slice(len(fold))
        splits = PredefinedSplit(fold)
        model = make_cv(short(batch_size=64), cv=splits).fit(X[rows], Y[rows])
        for net, (train, _) in zip(model.estimators_, splits.split(), strict=True):
            alone = fit_alone(net, X[train], Y[train])
            np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)

    @pytest.mark.parametrize("max_members", [1, 4])
    def test_is_the_same_in_several_stacks(self, max_members):
        together, apart = make_cv().fit(X, Y), make_cv(max_members=max_members).fit(X, Y)
        assert apart.label_smoothing_ == together.label_smoothing_
        np.testing.assert_allclose(apart.predict_proba(X), together.predict_proba(X), atol=1e-4)

    def test_batch_size_of_all_rows(self):
        model = make_cv(short(batch_size=-1), cv=KFold(7)).fit(X, Y)
        assert model.alone_because_ is None
        (train, _), *_ = KFold(7).split(X)
        net = model.estimators_[0]
        alone = fit_alone(net, X[train], Y[train])
        np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)


class TestFolds:
    def test_groups_stay_together(self):
        groups = np.arange(len(X)) // 10
        model = make_cv(cv=GroupKFold(3)).fit(X, Y, groups=groups)
        splits = GroupKFold(3).split(X, Y, groups)
        for net, (_, held_out) in zip(model.estimators_, splits, strict=True):
            np.testing.assert_allclose(
                model.oof_proba_[held_out], net.predict_proba(X[held_out]), atol=1e-6
            )

    def test_rows_left_out_several_times_have_the_mean_of_their_logits(self):
        cv = RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
        model = make_cv(short(calibration=None), cv=cv).fit(X, Y)
        logits = np.zeros_like(model.oof_proba_)
        for net, (_, held_out) in zip(model.estimators_, cv.split(X, Y), strict=True):
            logits[held_out] += net.logits(X[held_out]) / 2
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(model.oof_proba_, expected, atol=1e-5)

    def test_rows_never_left_out_have_no_part_in_the_choice(self):
        cv = ShuffleSplit(2, test_size=0.1, random_state=0)
        model = make_cv(cv=cv).fit(X, Y)
        left_out = np.unique(np.concatenate([held_out for _, held_out in cv.split(X)]))
        missing = np.isnan(model.oof_proba_).all(1)
        np.testing.assert_array_equal(np.flatnonzero(~missing), left_out)
        proba = model.oof_proba_[left_out]
        assert model.oof_log_loss_ == pytest.approx(log_loss(Y[left_out], proba, labels=[0, 1, 2]))

    def test_splits_may_come_from_a_generator(self):
        model = make_cv(cv=(split for split in KFold(3).split(X))).fit(X, Y)
        assert len(model.estimators_) == 3

    def test_a_class_rarer_than_the_folds(self):
        rare = np.where(np.arange(len(X)) < 2, 3, Y)
        with pytest.warns(UserWarning, match="The least populated class"):
            model = make_cv().fit(X, rare)
        assert model.predict_proba(X).shape == (len(X), 4)
        assert all(net.module_.n_classes == 4 for net in model.estimators_)

    @pytest.mark.parametrize(("n_rows", "n_classes"), [(20, 2), (20, 3), (500, 100)])
    def test_few_rows_and_many_classes(self, n_rows, n_classes):
        labels = np.arange(n_rows) % n_classes
        centres = np.random.default_rng(0).normal(size=(n_classes, 8))
        rows = centres[labels] + np.random.default_rng(1).normal(scale=0.3, size=(n_rows, 8))
        model = make_cv(short(max_epochs=20), cv=5).fit(rows, labels)
        np.testing.assert_allclose(model.predict_proba(rows).sum(1), 1)

    def test_too_few_rows_are_refused(self):
        with pytest.raises(ValueError, match="n_splits=3 cannot be greater"):
            make_cv().fit(X[:4], [0, 1, 2, 3])

    def test_a_fold_without_rows_is_refused(self):
        weight = np.repeat([0.0, 1.0], 150)
        splits = [(np.arange(150), np.arange(150, 300))]
        with pytest.raises(ValueError, match=r"Fold 0 of cv has no rows .* to train on"):
            make_cv(cv=splits).fit(X, Y, sample_weight=weight)
        with pytest.raises(ValueError, match="leaves out no row"):
            make_cv(cv=[split[::-1] for split in splits]).fit(X, Y, sample_weight=weight)


class TestAlone:
    @pytest.mark.parametrize("ensemble", [True, False])
    def test_batch_normalization(self, ensemble):
        net = LabelSmoothingClassifier(WithBatchNorm, lr=0.003, max_epochs=20)
        model = make_cv(net, ensemble=ensemble).fit(X, Y)
        assert model.alone_because_ == "the module has buffers, such as statistics of batches"
        assert model.score(X, Y) > 0.8
        splits = StratifiedKFold(3).split(X, Y)
        model = make_cv(net, cv=StratifiedKFold(3)).fit(X, Y)
        for own, (_, held_out) in zip(model.estimators_, splits, strict=True):
            np.testing.assert_allclose(
                model.oof_proba_[held_out], own.predict_proba(X[held_out]), atol=1e-6
            )

    def test_callbacks_are_heard(self):
        schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        model = make_cv(short(callbacks=[schedule], early_stopping=False, max_epochs=3)).fit(X, Y)
        assert model.alone_because_ == "callbacks are set"
        for net in model.estimators_:
            assert net.history[:, "event_lr"] == [0.003, 0.0015, 0.00075]

    def test_a_schedule_that_changes_nothing_changes_nothing(self):
        schedule = LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=_always_one)
        net = short(max_epochs=4)
        plain, scheduled = (
            make_cv(own).fit(X, Y) for own in (net, clone(net).set_params(callbacks=[schedule]))
        )
        assert scheduled.best_epoch_ == plain.best_epoch_
        np.testing.assert_allclose(scheduled.oof_proba_, plain.oof_proba_, atol=1e-5)

    def test_a_schedule_acts_on_each_net_as_on_one_alone(self):
        class ByHand(Callback):
            def on_epoch_begin(self, net, **kwargs):
                rate = net.lr * 0.1 ** (len(net.history) - 1)
                net.optimizer_.param_groups[0]["lr"] = rate

        schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
        scheduled, by_hand = (
            make_cv(short(callbacks=[callback], max_epochs=4)).fit(X, Y)
            for callback in (schedule, ByHand())
        )
        np.testing.assert_allclose(scheduled.oof_proba_, by_hand.oof_proba_, atol=1e-6)

    def test_the_first_net_that_stops_ends_the_training_of_all(self):
        class StopOne(Callback):
            def on_train_begin(self, net, **kwargs):
                self.is_chosen = next(numbers) == 1

            def on_epoch_end(self, net, **kwargs):
                if self.is_chosen and len(net.history) == 2:
                    raise KeyboardInterrupt  # as EarlyStopping does

        numbers = itertools.count()
        model = make_cv(short(callbacks=[StopOne()], max_epochs=5)).fit(X, Y)
        assert next(numbers) > 2
        assert {len(net.history) for net in model.estimators_} == {2}
        assert model.best_epoch_ <= 2

    def test_a_checkpoint_that_loads_its_best_leaves_the_nets_their_own_parameters(self, tmp_path):
        net = short(max_epochs=4)
        checkpoint = Checkpoint(monitor="train_loss_best", load_best=True, dirname=str(tmp_path))
        plain, saved = (
            make_cv(own).fit(X, Y) for own in (net, clone(net).set_params(callbacks=[checkpoint]))
        )
        np.testing.assert_allclose(saved.predict_proba(X), plain.predict_proba(X), atol=1e-5)

    def test_nothing_of_the_training_is_left_on_the_nets(self):
        model = make_cv(short(callbacks=[("none", None)])).fit(X, Y)
        for net in pickle.loads(pickle.dumps(model)).estimators_:
            assert net.train_split is None
            assert not {"_speaks_codes", "_held_out", "_refined"} & set(vars(net))

    def test_a_subclass(self):
        class Own(LabelSmoothingClassifier):
            pass

        model = make_cv(Own(max_epochs=3)).fit(X, Y)
        assert model.alone_because_ == "Own is not LabelSmoothingClassifier itself"
        assert model.predict_proba(X).shape == (300, 3)

    def test_is_told_to_those_who_want_to_know(self, capsys):
        make_cv(LabelSmoothingClassifier(WithBatchNorm, max_epochs=2), verbose=1).fit(X, Y)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith("Not trained in lockstep: the module has buffers")
        assert printed[1].startswith("epoch   1, refined loss:  ε=0 ")
        assert printed[1].endswith(" left")
        assert printed[2].endswith(", at most 0:00:00 left")
        assert len(printed) == 3

    def test_other_modules_train_in_lockstep(self):
        model = make_cv(LabelSmoothingClassifier(WithDropout, max_epochs=8)).fit(X, Y)
        assert model.alone_because_ is None
        logits = np.mean([net.logits(X) for net in model.estimators_], axis=0)
        proba = model.calibrator_.predict_proba(logits)
        np.testing.assert_allclose(model.predict_proba(X), proba, atol=1e-6)
