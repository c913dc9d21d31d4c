"""LabelSmoothingClassifierCV: ε, epoch and temperature from out-of-fold logits."""

import copy
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import LRScheduler
from torch import nn

from sksmooth import LabelSmoothingClassifier, TrainingDisplay, make_tabular
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.plotting import SmoothingCurveDisplay

X, Y = make_tabular(300, random_state=0)


def short(**params):
    """Give a net that is trained for a few epochs only."""
    small = {"max_epochs": 8, "lr": 0.003, "module__hidden_layer_sizes": 16}
    return LabelSmoothingClassifier(**{**small, **params})


def make(estimator=None, **params):
    defaults = {"label_smoothings": (0.0, 0.2), "cv": 3, "random_state": 0}
    return LabelSmoothingClassifierCV(estimator or short(), **{**defaults, **params})


def fit_alone(net, rows, labels):
    """Fit a net like one that was trained in lockstep."""
    return clone(net).set_params(max_epochs=net.best_epoch_, early_stopping=False).fit(rows, labels)


@pytest.fixture(scope="module")
def fitted():
    return make(short(max_epochs=40, patience=5)).fit(X, Y)


class WithDropout(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, n_classes)
        )

    def forward(self, x):
        return self.layers(x)


class WithBatchNorm(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, n_classes)
        )

    def forward(self, x):
        return self.layers(x)


CHECKED = [
    LabelSmoothingClassifierCV(),
    LabelSmoothingClassifierCV(ensemble=False),
    LabelSmoothingClassifierCV(short(module=WithDropout, module__hidden_layer_sizes=None)),
]
del CHECKED[2].estimator.module__hidden_layer_sizes


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
@pytest.mark.filterwarnings("ignore:No temperature minimizes the log-loss:UserWarning")
@parametrize_with_checks(CHECKED)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


class TestChoice:
    def test_of_the_epoch_is_where_the_refined_loss_is_lowest(self, fitted):
        results = pd.DataFrame(fitted.cv_results_)
        own = results[results["label_smoothing"] == fitted.label_smoothing_]
        assert fitted.best_epoch_ == own.loc[own["refined_loss"].idxmin(), "epoch"]

    @pytest.mark.parametrize("early_stopping", [True, False])
    def test_of_the_smoothing_is_where_the_calibrated_loss_is_lowest(self, early_stopping):
        net = short(max_epochs=20, early_stopping=early_stopping)
        values = [0.0, 0.2, 0.9]
        alone = [make(net, label_smoothings=[value]).fit(X, Y).oof_log_loss_ for value in values]
        assert max(alone) - min(alone) > 1e-3
        model = make(net, label_smoothings=values).fit(X, Y)
        assert model.label_smoothing_ == values[np.argmin(alone)]
        assert model.oof_log_loss_ == pytest.approx(min(alone), abs=1e-4)

    def test_without_calibration_is_where_the_refined_loss_is_lowest(self):
        model = make(short(calibration=None)).fit(X, Y)
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
        model = make(short(early_stopping=False)).fit(X, Y)
        results = pd.DataFrame(model.cv_results_)
        assert model.best_epoch_ == 8
        assert len(results) == 16

    def test_scores_every_row_by_the_net_that_did_not_see_it(self):
        splits = list(KFold(3, shuffle=True, random_state=1).split(X))
        model = make(cv=splits).fit(X, Y)
        for net, (_, held_out) in zip(model.estimators_, splits, strict=True):
            np.testing.assert_allclose(
                model.oof_proba_[held_out], net.predict_proba(X[held_out]), atol=1e-6
            )

    def test_loss_and_accuracy_are_those_of_the_out_of_fold_probabilities(self):
        net = short(max_epochs=40, patience=5, calibration="temperature")
        fitted = make(net).fit(X, Y)
        assert fitted.oof_log_loss_ == pytest.approx(log_loss(Y, fitted.oof_proba_))
        best = pd.DataFrame(fitted.history).set_index("epoch").loc[fitted.best_epoch_]
        assert best["refined_loss"] == pytest.approx(fitted.oof_log_loss_, abs=1e-3)
        assert best["valid_acc"] == np.mean(fitted.oof_proba_.argmax(1) == Y)

    def test_temperature_is_that_of_the_best_logits(self, fitted):
        assert fitted.temperature_ == fitted.calibrator_.temperature_
        assert all(net.calibrator_ is fitted.calibrator_ for net in fitted.estimators_)

    def test_every_net_is_what_a_fit_of_its_own_gives(self, fitted):
        folds = StratifiedKFold(3, shuffle=True, random_state=5)
        model = make(short(max_epochs=15, patience=3), cv=folds).fit(X, Y)
        for net, (train, _) in zip(model.estimators_, folds.split(X, Y), strict=True):
            alone = fit_alone(net, X[train], Y[train])
            assert net.label_smoothing == model.label_smoothing_
            assert net.best_epoch_ == model.best_epoch_
            np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)

    def test_net_of_all_rows_is_what_a_fit_of_its_own_gives(self):
        model = make(ensemble=False).fit(X, Y)
        (net,) = model.estimators_
        alone = fit_alone(net, X, Y)
        np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)
        np.testing.assert_allclose(model.predict_proba(X), net.predict_proba(X), atol=1e-6)

    def test_does_not_depend_on_whether_the_net_of_all_rows_is_trained(self):
        ensemble, single = (make(ensemble=value).fit(X, Y) for value in (True, False))
        np.testing.assert_array_equal(ensemble.oof_proba_, single.oof_proba_)

    def test_trains_folds_of_unequal_numbers_of_batches(self):
        n_rows = 65 * 3 + 64  # two folds of 129 and 130 rows to train on: 3 batches; one of 128: 2
        fold = np.repeat([0, 1, 2], [65, 64, 64 + 1])[:n_rows]
        rows = slice(len(fold))
        splits = PredefinedSplit(fold)
        model = make(short(batch_size=64), cv=splits).fit(X[rows], Y[rows])
        for net, (train, _) in zip(model.estimators_, splits.split(), strict=True):
            alone = fit_alone(net, X[train], Y[train])
            np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)

    @pytest.mark.parametrize("max_members", [1, 4])
    def test_is_the_same_in_several_stacks(self, max_members):
        together, apart = make().fit(X, Y), make(max_members=max_members).fit(X, Y)
        assert apart.label_smoothing_ == together.label_smoothing_
        np.testing.assert_allclose(apart.predict_proba(X), together.predict_proba(X), atol=1e-4)

    def test_batch_size_of_all_rows(self):
        model = make(short(batch_size=-1), cv=KFold(7)).fit(X, Y)
        assert model.alone_because_ is None
        (train, _), *_ = KFold(7).split(X)
        net = model.estimators_[0]
        alone = fit_alone(net, X[train], Y[train])
        np.testing.assert_allclose(net.logits(X), alone.logits(X), atol=1e-4)


class TestPrediction:
    def test_averages_the_calibrated_probabilities_of_the_folds(self, fitted):
        mean = np.mean([net.predict_proba(X) for net in fitted.estimators_], axis=0)
        np.testing.assert_allclose(fitted.predict_proba(X), mean, atol=1e-6)
        np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), mean, atol=1e-6)
        np.testing.assert_array_equal(fitted.predict(X), mean.argmax(1))

    def test_does_not_depend_on_the_other_rows(self, fitted):
        for n_rows in (1, 15, 17, 40):
            proba = fitted.predict_proba(X[:n_rows])
            np.testing.assert_allclose(proba, fitted.predict_proba(X)[:n_rows], rtol=1e-6)

    def test_of_many_rows_is_that_of_chunks(self, fitted):
        many = np.tile(X, (20, 1))
        proba = fitted.predict_proba(many).reshape(20, len(X), -1)
        np.testing.assert_allclose(proba, np.tile(proba[:1], (20, 1, 1)), rtol=1e-5)

    def test_generalizes(self):
        rows, labels = make_tabular(1000, random_state=1)
        model = LabelSmoothingClassifierCV(random_state=0).fit(rows[:500], labels[:500])
        proba = model.predict_proba(rows[500:])
        assert log_loss(labels[500:], proba) < 1.25 * model.oof_log_loss_
        assert model.score(rows[500:], labels[500:]) > 0.85

    def test_log_probabilities_are_finite_far_away(self, fitted):
        far = 1e30 * X[:5]
        assert np.isfinite(fitted.predict_log_proba(far)).all()
        assert np.isfinite(fitted.decision_function(far)).all()

    @pytest.mark.parametrize("calibration", [None, "temperature", "vector"])
    def test_log_probabilities_fit_the_probabilities(self, calibration):
        if calibration == "vector":
            calibration = LogisticRegression()
        model = make(short(calibration=calibration)).fit(X, Y)
        np.testing.assert_allclose(
            np.log(model.predict_proba(X)), model.predict_log_proba(X), atol=1e-6
        )

    def test_words_as_labels_and_names_of_features(self):
        words = np.array(["ash", "birch", "cedar"])[Y]
        frame = pd.DataFrame(X).rename(columns=lambda number: f"x{number}")
        model = make().fit(frame, words)
        assert model.classes_.tolist() == ["ash", "birch", "cedar"]
        assert model.feature_names_in_.tolist() == list(frame)
        assert set(model.predict(frame)) <= set(words)
        assert model.score(frame, words) > 0.7
        with pytest.raises(ValueError, match="feature names"):
            model.predict(frame[frame.columns[::-1]])

    def test_two_classes_have_one_decision(self):
        model = make().fit(X, Y == 1)
        assert model.decision_function(X).shape == (len(X),)
        np.testing.assert_array_equal(model.decision_function(X) > 0, model.predict(X))

    def test_images(self):
        images = X.reshape(len(X), 2, -1)
        model, flat = make().fit(images, Y), make().fit(X, Y)
        np.testing.assert_array_equal(model.predict_proba(images), flat.predict_proba(X))


class TestCalibration:
    def test_none_gives_the_softmax(self):
        model = make(short(calibration=None)).fit(X, Y)
        assert model.calibrator_ is None
        assert model.temperature_ is None
        np.testing.assert_allclose(model.oof_proba_.sum(1), 1)

    def test_any_object_is_fitted_to_the_out_of_fold_logits(self):
        model = make(short(calibration=LogisticRegression(C=0.1))).fit(X, Y)
        assert isinstance(model.calibrator_, LogisticRegression)
        assert model.temperature_ is None
        assert model.calibrator_.n_features_in_ == 3


class TestRandomness:
    def test_one_seed_gives_one_result(self):
        first, second = make().fit(X, Y), make().fit(X, Y)
        np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
        other = make(random_state=1).fit(X, Y)
        assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))

    def test_leaves_the_global_generators_alone(self):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        make().fit(X, Y)
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002

    def test_none_draws_from_numpy(self):
        probabilities = []
        for _ in range(2):
            np.random.seed(3)  # noqa: NPY002
            probabilities.append(make(random_state=None).fit(X, Y).predict_proba(X))
        np.testing.assert_array_equal(*probabilities)

    def test_nets_of_one_fold_start_alike_whatever_the_smoothing(self):
        twins = make(short(calibration=None, max_epochs=1, lr=1e-12)).fit(X, Y)
        results = pd.DataFrame(twins.cv_results_)
        np.testing.assert_allclose(*results["refined_loss"], rtol=1e-6)


class TestFolds:
    def test_groups_stay_together(self):
        groups = np.arange(len(X)) // 10
        model = make(cv=GroupKFold(3)).fit(X, Y, groups=groups)
        splits = GroupKFold(3).split(X, Y, groups)
        for net, (_, held_out) in zip(model.estimators_, splits, strict=True):
            np.testing.assert_allclose(
                model.oof_proba_[held_out], net.predict_proba(X[held_out]), atol=1e-6
            )

    def test_rows_left_out_several_times_have_the_mean_of_their_logits(self):
        cv = RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
        model = make(short(calibration=None), cv=cv).fit(X, Y)
        logits = np.zeros_like(model.oof_proba_)
        for net, (_, held_out) in zip(model.estimators_, cv.split(X, Y), strict=True):
            logits[held_out] += net.logits(X[held_out]) / 2
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(model.oof_proba_, expected, atol=1e-5)

    def test_rows_never_left_out_have_no_part_in_the_choice(self):
        cv = ShuffleSplit(2, test_size=0.1, random_state=0)
        model = make(cv=cv).fit(X, Y)
        left_out = np.unique(np.concatenate([held_out for _, held_out in cv.split(X)]))
        missing = np.isnan(model.oof_proba_).all(1)
        np.testing.assert_array_equal(np.flatnonzero(~missing), left_out)
        proba = model.oof_proba_[left_out]
        assert model.oof_log_loss_ == pytest.approx(log_loss(Y[left_out], proba, labels=[0, 1, 2]))

    def test_splits_may_come_from_a_generator(self):
        model = make(cv=(split for split in KFold(3).split(X))).fit(X, Y)
        assert len(model.estimators_) == 3

    def test_a_class_rarer_than_the_folds(self):
        rare = np.where(np.arange(len(X)) < 2, 3, Y)
        with pytest.warns(UserWarning, match="The least populated class"):
            model = make().fit(X, rare)
        assert model.predict_proba(X).shape == (len(X), 4)
        assert all(net.module_.n_classes == 4 for net in model.estimators_)

    @pytest.mark.parametrize(("n_rows", "n_classes"), [(20, 2), (20, 3), (500, 100)])
    def test_few_rows_and_many_classes(self, n_rows, n_classes):
        labels = np.arange(n_rows) % n_classes
        centres = np.random.default_rng(0).normal(size=(n_classes, 8))
        rows = centres[labels] + np.random.default_rng(1).normal(scale=0.3, size=(n_rows, 8))
        model = make(short(max_epochs=20), cv=5).fit(rows, labels)
        np.testing.assert_allclose(model.predict_proba(rows).sum(1), 1)

    def test_too_few_rows_are_refused(self):
        with pytest.raises(ValueError, match="n_splits=3 cannot be greater"):
            make().fit(X[:4], [0, 1, 2, 3])

    def test_a_fold_without_rows_is_refused(self):
        weight = np.repeat([0.0, 1.0], 150)
        splits = [(np.arange(150), np.arange(150, 300))]
        with pytest.raises(ValueError, match=r"Fold 0 of cv has no rows .* to train on"):
            make(cv=splits).fit(X, Y, sample_weight=weight)
        with pytest.raises(ValueError, match="leaves out no row"):
            make(cv=[split[::-1] for split in splits]).fit(X, Y, sample_weight=weight)


class TestWeights:
    def test_rows_without_weight_are_neither_trained_on_nor_scored(self):
        weight = np.tile([1.0, 1.0, 0.0], 100)
        strange = np.where(weight[:, None] > 0, X, 1e6)
        splits = list(KFold(3).split(X))
        model = make(cv=splits).fit(strange, Y, sample_weight=weight)
        usual = make(cv=splits).fit(X, Y, sample_weight=weight)
        np.testing.assert_array_equal(model.oof_proba_, usual.oof_proba_)
        np.testing.assert_array_equal(np.isnan(model.oof_proba_).all(1), weight == 0)

    def test_weigh_in_the_choice(self):
        weight = np.random.default_rng(0).uniform(0.5, 2, len(X))
        model = make().fit(X, Y, sample_weight=weight)
        assert model.oof_log_loss_ == pytest.approx(
            log_loss(Y, model.oof_proba_, sample_weight=weight), rel=1e-6
        )

    def test_a_weight_of_two_is_two_rows(self):
        weight = np.random.default_rng(0).integers(1, 4, 20)
        rows, labels = X[:20], Y[:20]
        numbers = np.repeat(np.arange(20), weight)
        fold = np.arange(20) % 2
        weighted = make(cv=PredefinedSplit(fold)).fit(rows, labels, sample_weight=weight)
        repeated = make(cv=PredefinedSplit(fold[numbers])).fit(rows[numbers], labels[numbers])
        np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-10)

    def test_balanced_classes(self):
        rare = (np.arange(300) % 10 == 0) & (X[:, 0] > 0)
        plain = make().fit(X, rare)
        balanced = make(short(class_weight="balanced")).fit(X, rare)
        assert balanced.predict_proba(X)[:, 1].mean() > 2 * plain.predict_proba(X)[:, 1].mean()


class TestAlone:
    @pytest.mark.parametrize("ensemble", [True, False])
    def test_batch_normalization(self, ensemble):
        net = LabelSmoothingClassifier(WithBatchNorm, lr=0.003, max_epochs=20)
        model = make(net, ensemble=ensemble).fit(X, Y)
        assert model.alone_because_ == "the module has buffers, such as statistics of batches"
        assert model.score(X, Y) > 0.8
        splits = StratifiedKFold(3).split(X, Y)
        model = make(net, cv=StratifiedKFold(3)).fit(X, Y)
        for own, (_, held_out) in zip(model.estimators_, splits, strict=True):
            np.testing.assert_allclose(
                model.oof_proba_[held_out], own.predict_proba(X[held_out]), atol=1e-6
            )

    def test_callbacks_are_heard(self):
        schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        model = make(short(callbacks=[schedule], early_stopping=False, max_epochs=3)).fit(X, Y)
        assert model.alone_because_ == "callbacks are set"
        for net in model.estimators_:
            assert net.history[:, "event_lr"] == [0.003, 0.0015, 0.00075]

    def test_nothing_of_the_training_is_left_on_the_nets(self):
        model = make(short(callbacks=[("none", None)])).fit(X, Y)
        for net in pickle.loads(pickle.dumps(model)).estimators_:
            assert net.train_split is None
            assert not {"_speaks_codes", "_held_out", "_refined"} & set(vars(net))

    def test_a_subclass(self):
        class Own(LabelSmoothingClassifier):
            pass

        model = make(Own(max_epochs=3)).fit(X, Y)
        assert model.alone_because_ == "Own is not LabelSmoothingClassifier itself"
        assert model.predict_proba(X).shape == (300, 3)

    def test_is_told_to_those_who_want_to_know(self, capsys):
        make(LabelSmoothingClassifier(WithBatchNorm, max_epochs=2), verbose=1).fit(X, Y)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith("Not trained in lockstep: the module has buffers")
        assert printed[1].startswith("epoch   1, refined loss:  ε=0 ")
        assert len(printed) == 3

    def test_other_modules_train_in_lockstep(self):
        model = make(LabelSmoothingClassifier(WithDropout, max_epochs=8)).fit(X, Y)
        assert model.alone_because_ is None
        mean = np.mean([net.predict_proba(X) for net in model.estimators_], axis=0)
        np.testing.assert_allclose(model.predict_proba(X), mean, atol=1e-6)


class TestErrors:
    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"label_smoothings": ()}, "at least one"),
            ({"label_smoothings": (0.1, 0.1)}, "none twice"),
            ({"label_smoothings": (0.1, 1.0)}, r"label_smoothing .*1\.0"),
            ({"label_smoothings": 0.1}, "'label_smoothings' parameter"),
            ({"estimator": LogisticRegression()}, "'estimator' parameter"),
            ({"ensemble": "yes"}, "'ensemble' parameter"),
            ({"max_members": 0}, "'max_members' parameter"),
            ({"cv": "five"}, "'cv' parameter"),
            ({"cv": 1}, r"\[2, inf\)"),
            ({"random_state": "luck"}, "'random_state' parameter"),
            ({"estimator": short(patience=0)}, "'patience' parameter"),
            ({"estimator": short(predict_nonlinearity=None)}, "predict_nonlinearity=None"),
        ],
    )
    def test_parameters_are_checked_in_fit(self, params, message):
        with pytest.raises(ValueError, match=message):
            make().set_params(**params).fit(X, Y)

    def test_a_dataset_is_refused(self):
        dataset = torch.utils.data.TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
        with pytest.raises(ValueError, match=r"X is a TensorDataset.*SliceDataset"):
            make().fit(dataset, None)

    def test_one_class_is_refused(self):
        with pytest.raises(ValueError, match="at least two classes"):
            make().fit(X, np.zeros(len(X)))

    def test_divergence_is_told(self):
        with pytest.raises(ValueError, match=r"turned NaN or infinite in epoch \d.*lr=1e\+30"):
            make(short(lr=1e30, optimizer=torch.optim.SGD)).fit(X, Y)

    def test_a_failing_fit_changes_nothing(self, fitted):
        model = copy.deepcopy(fitted)
        before = model.predict_proba(X)
        with pytest.raises(ValueError, match="NaN"):
            model.fit(np.full((30, 3), np.nan), Y[:30])
        np.testing.assert_array_equal(model.predict_proba(X), before)
        fresh = make()
        with pytest.raises(ValueError, match="NaN"):
            fresh.fit(np.full((30, 3), np.nan), Y[:30])
        assert vars(fresh).keys() == vars(make()).keys()

    def test_history_before_fit(self):
        with pytest.raises(AttributeError, match="before fit"):
            _ = make().history


class TestCompany:
    def test_copies_predict_alike(self, fitted):
        for copied in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
            np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
        assert not hasattr(clone(fitted), "classes_")

    def test_leaves_the_estimator_untouched(self):
        net = short(label_smoothing=0.3, random_state=7)
        make(net).fit(X, Y)
        assert net.get_params()["label_smoothing"] == 0.3
        assert not net.initialized_

    def test_pipelines_searches_and_stacking(self):
        pipe = make_pipeline(StandardScaler(), make())
        grid = {"labelsmoothingclassifiercv__estimator__lr": [1e-5, 1e-2]}
        search = GridSearchCV(pipe, grid, cv=2, scoring="neg_log_loss").fit(X, Y)
        assert search.best_params_["labelsmoothingclassifiercv__estimator__lr"] == 1e-2
        stacking = StackingClassifier([("net", make(short(lr=0.02)))], cv=2).fit(X, Y)
        assert stacking.score(X, Y) > 0.7

    def test_routed_weights_and_groups(self):
        groups = np.arange(len(X)) // 10
        with sklearn.config_context(enable_metadata_routing=True):
            model = make(cv=GroupKFold(3)).set_fit_request(sample_weight=True)
            model = model.set_score_request(sample_weight=False)
            scores = cross_validate(
                model,
                X,
                Y,
                cv=GroupKFold(2),
                params={"sample_weight": np.ones(len(X)), "groups": groups},
                return_estimator=True,
            )
            (train, _), _ = GroupKFold(2).split(X, Y, groups)
            own = make(cv=GroupKFold(3)).fit(
                X[train], Y[train], np.ones(len(train)), groups=groups[train]
            )
        np.testing.assert_array_equal(scores["estimator"][0].predict_proba(X), own.predict_proba(X))

    def test_training_display(self, fitted):
        display = TrainingDisplay.from_estimator(fitted)
        assert display.best_epoch == fitted.best_epoch_
        assert len(display.lines_) == 3
        plt.close(display.figure_)


class TestSmoothingCurveDisplay:
    def test_draws_the_losses_of_each_smoothing(self, fitted):
        pipe = make_pipeline(StandardScaler(), fitted)  # the last step is what counts
        display = SmoothingCurveDisplay.from_estimator(pipe)
        assert [line.get_label() for line in display.lines_] == ["ε = 0", "ε = 0.2"]
        results = pd.DataFrame(fitted.cv_results_)
        for line, (_, own) in zip(display.lines_, results.groupby("label_smoothing"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), own["epoch"])
            np.testing.assert_array_equal(line.get_ydata(), own["refined_loss"])
        assert display.figure_ is display.ax_.figure
        plt.close(display.figure_)

    def test_marks_the_choice(self, fitted):
        _, ax = plt.subplots()
        display = SmoothingCurveDisplay.from_estimator(fitted, ax=ax)
        assert display.ax_ is ax
        assert display.choice_.get_xdata() == [fitted.best_epoch_]
        assert display.choice_.get_ydata() == [fitted.cv_results_["refined_loss"].min()]
        assert f"epoch {fitted.best_epoch_}" in display.choice_.get_label()
        plt.close(ax.figure)

    def test_refuses_what_makes_no_choice(self):
        with pytest.raises(TypeError, match="LogisticRegression does not choose"):
            SmoothingCurveDisplay.from_estimator(LogisticRegression())
        with pytest.raises(NotFittedError):
            SmoothingCurveDisplay.from_estimator(make())


class TestConfidence:
    @pytest.mark.parametrize("module", [None, WithDropout])
    def test_is_the_mean_of_the_nets_at_the_class_that_all_predict(self, module, fitted):
        if module is not None:
            estimator = LabelSmoothingClassifier(module=module, max_epochs=4)
            fitted = make(estimator).fit(X, Y)
        z = np.stack([net.predict_log_proba(X) for net in fitted.estimators_])
        z -= z.mean(axis=2, keepdims=True)
        z /= np.linalg.norm(z, axis=2, keepdims=True)
        confidence = fitted.confidence(X)
        assert confidence.dtype == np.float64
        expected = z.mean(axis=0)[np.arange(len(X)), fitted.predict(X)]
        np.testing.assert_allclose(confidence, expected, rtol=1e-4, atol=1e-5)

    def test_of_two_classes_is_the_probability_of_the_predicted_one(self):
        model = make().fit(X, Y == 1)
        np.testing.assert_array_equal(model.confidence(X), model.predict_proba(X).max(axis=1))

    def test_of_one_net_is_its_own(self):
        model = make(ensemble=False).fit(X, Y)
        (net,) = model.estimators_
        np.testing.assert_allclose(model.confidence(X), net.confidence(X), rtol=1e-4, atol=1e-5)

    def test_needs_fit_and_the_columns_of_fit(self, fitted):
        with pytest.raises(NotFittedError):
            make().confidence(X)
        with pytest.raises(ValueError, match="features, but"):
            fitted.confidence(X[:, :2])

    def test_orders_rows_by_how_often_they_are_right(self):
        rows, labels = make_tabular(1000, random_state=1)
        model = make(short(max_epochs=40)).fit(rows[:300], labels[:300])
        confidence = model.confidence(rows[300:])
        correct = model.predict(rows[300:]) == labels[300:]
        sure = confidence >= np.median(confidence)
        assert correct[sure].mean() > correct.mean() + 0.02
