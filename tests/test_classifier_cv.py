"""LabelSmoothingClassifierCV: ε, epoch and temperature from out-of-fold logits."""

import copy
import pickle
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from helpers import TwoLayers, WithDropout, make_cv, short
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sksmooth import LabelSmoothingClassifier, TrainingDisplay, make_tabular
from sksmooth._predict import KnownProbabilities
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.encoding import Periodic, PiecewiseLinear

X, Y = make_tabular(300, random_state=0)


CHECKED = [
    LabelSmoothingClassifierCV(),
    make_cv(short(max_epochs=20, lr=0.02), ensemble=False, random_state=None),
    LabelSmoothingClassifierCV(short(module=WithDropout, module__hidden_layer_sizes=None)),
]
del CHECKED[2].estimator.module__hidden_layer_sizes


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
@pytest.mark.filterwarnings("ignore:No temperature minimizes the log-loss:UserWarning")
@parametrize_with_checks(CHECKED)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


class TestPrediction:
    def test_calibrates_the_mean_of_the_nets_logits(self, fitted):
        logits = np.mean([net.logits(X) for net in fitted.estimators_], axis=0)
        proba = fitted.calibrator_.predict_proba(logits)
        np.testing.assert_allclose(fitted.predict_proba(X), proba, atol=1e-6)
        np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), proba, atol=1e-6)
        np.testing.assert_array_equal(fitted.predict(X), proba.argmax(1))

    def test_of_many_rows_is_that_of_chunks(self, fitted):
        many = np.tile(X, (20, 1))
        proba = fitted.predict_proba(many).reshape(20, len(X), -1)
        np.testing.assert_allclose(proba, np.tile(proba[:1], (20, 1, 1)), rtol=1e-5)

    @pytest.mark.parametrize("module", [{}, {"module": TwoLayers}], ids=["stacked", "one by one"])
    def test_of_many_rows_takes_no_memory_for_each_net(self, module):
        many = np.tile(X, (100, 1)).astype(np.float32)
        model = make_cv(LabelSmoothingClassifier(max_epochs=1, **module), cv=10).fit(X, Y)
        tracemalloc.start()
        proba = model.predict_proba(many)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 6 * proba.nbytes  # of 10 nets

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
        model = make_cv(short(calibration=calibration)).fit(X, Y)
        np.testing.assert_allclose(
            np.log(model.predict_proba(X)), model.predict_log_proba(X), atol=1e-6
        )

    def test_words_as_labels_and_names_of_features(self):
        words = np.array(["ash", "birch", "cedar"])[Y]
        frame = pd.DataFrame(X).rename(columns=lambda number: f"x{number}")
        model = make_cv().fit(frame, words)
        assert model.classes_.tolist() == ["ash", "birch", "cedar"]
        assert model.feature_names_in_.tolist() == list(frame)
        assert set(model.predict(frame)) <= set(words)
        assert model.score(frame, words) > 0.7
        with pytest.raises(ValueError, match="feature names"):
            model.predict(frame[frame.columns[::-1]])

    def test_two_classes_have_one_decision(self):
        model = make_cv().fit(X, Y == 1)
        assert model.decision_function(X).shape == (len(X),)
        np.testing.assert_array_equal(model.decision_function(X) > 0, model.predict(X))

    def test_images(self):
        images = X.reshape(len(X), 2, -1)
        model, flat = make_cv().fit(images, Y), make_cv().fit(X, Y)
        np.testing.assert_array_equal(model.predict_proba(images), flat.predict_proba(X))


class TestEncodings:
    def test_the_nets_of_all_encodings_are_pooled(self):
        model = make_cv(encodings=(None, "piecewise_linear", Periodic(2))).fit(X, Y)
        kinds = [type(net.module_.encoding) for net in model.estimators_]
        assert kinds == 3 * [type(None)] + 3 * [PiecewiseLinear] + 3 * [Periodic]
        assert model.trained_by_ == "by hand"
        logits = np.mean([net.logits(X) for net in model.estimators_], axis=0)
        np.testing.assert_allclose(
            model.predict_proba(X), model.calibrator_.predict_proba(logits), atol=1e-6
        )

    def test_out_of_fold_logits_are_the_mean_over_the_encodings(self):
        splits = list(StratifiedKFold(3).split(X, Y))
        model = make_cv(
            encodings=(None, "periodic"), cv=splits, label_smoothings=(0.1,), random_state=3
        ).fit(X, Y)
        for k, (_, held_out) in enumerate(splits):
            own = (model.estimators_[k], model.estimators_[3 + k])
            logits = np.mean([net.logits(X[held_out]) for net in own], axis=0)
            np.testing.assert_allclose(
                model.oof_proba_[held_out], model.calibrator_.predict_proba(logits), atol=1e-5
            )

    def test_all_learn_from_all_rows(self):
        model = make_cv(encodings=("piecewise_linear",)).fit(X, Y)
        knots = PiecewiseLinear().learn(X).knot
        for net in model.estimators_:
            assert torch.equal(net.module_.encoding.knot, knots)

    def test_without_an_ensemble_one_net_of_each_is_kept(self):
        model = make_cv(encodings=(None, "periodic"), ensemble=False).fit(X, Y)
        first, second = model.estimators_
        assert first.module_.encoding is None
        assert isinstance(second.module_.encoding, Periodic)

    @pytest.mark.parametrize(
        ("estimator", "rows", "n_encodings"),
        [
            (short(), X, 3),
            (short(), (X > 0).astype(float), 1),  # of which every function is linear
            (short(), np.tile(X, (1, 12)), 2),  # 9 functions of each of 120 numbers are too many
            (short(module__encoding="periodic"), X, 1),
            (LabelSmoothingClassifier(WithDropout, max_epochs=8), X, 1),
        ],
    )
    def test_auto(self, estimator, rows, n_encodings):
        model = make_cv(estimator, encodings="auto", label_smoothings=(0.1,)).fit(rows, Y)
        assert len(model.estimators_) == 3 * n_encodings

    def test_given_ones_stand_before_the_estimators_own(self):
        estimator = short(module__encoding="periodic")
        model = make_cv(estimator, encodings=(None, "piecewise_linear")).fit(X, Y)
        kinds = [type(net.module_.encoding) for net in model.estimators_]
        assert kinds == 3 * [type(None)] + 3 * [PiecewiseLinear]

    @pytest.mark.parametrize(
        ("encodings", "message"),
        [
            ((), "encodings must hold at least one"),
            ((None, None), "none twice"),
            (("piecewise_linear", PiecewiseLinear(5)), "none twice"),
            (("hats",), "got 'hats'"),
            ("piecewise_linear", "encodings"),
        ],
    )
    def test_wrong_ones_are_refused(self, encodings, message):
        with pytest.raises(ValueError, match=message):
            make_cv(encodings=encodings).fit(X, Y)


def test_logits_of_a_row_do_not_depend_on_how_many_come_with_it(fitted):
    many = np.tile(X, (12, 1))  # more than go through the nets at once
    expected = np.tile(fitted.predict_proba(X), (12, 1))
    np.testing.assert_array_equal(fitted.predict_proba(many), expected)
    for n_rows in (25, 31, 40):  # fewer go by NumPy
        np.testing.assert_array_equal(fitted.predict_proba(X[:n_rows]), expected[:n_rows])


class TestScoring:
    SMOOTHINGS = (0.0, 0.1, 0.9)

    @pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy", "roc_auc_ovr", "f1_macro"])
    def test_the_choice_is_that_of_the_scores_of_each_alone(self, scoring):
        weight = np.random.default_rng(0).integers(1, 3, len(Y)).astype(float)
        labels = np.array(["a", "b", "c"])[Y]
        scores = []
        for label_smoothing in self.SMOOTHINGS:
            alone = make_cv(label_smoothings=(label_smoothing,)).fit(X, labels, weight)
            known = KnownProbabilities(alone.classes_, alone.oof_proba_, X)
            scores.append(get_scorer(scoring)(known, X, labels, sample_weight=weight))
        model = make_cv(label_smoothings=self.SMOOTHINGS, scoring=scoring).fit(X, labels, weight)
        assert model.label_smoothing_ == self.SMOOTHINGS[int(np.argmax(scores))]

    def test_a_function_chooses(self):
        def least_sure(model, rows, labels):
            return -model.predict_proba(rows).max(axis=1).mean()

        chosen = make_cv(
            short(calibration=None), label_smoothings=self.SMOOTHINGS, scoring=least_sure
        ).fit(X, Y)
        assert chosen.label_smoothing_ == 0.9

    @pytest.mark.parametrize("scoring", ["accuracy", "roc_auc_ovr", "roc_auc_ovo"])
    def test_the_epoch_of_each_smoothing_is_the_one_that_scores_best(self, scoring):
        estimator = short(max_epochs=12, patience=12, calibration="temperature")
        model = make_cv(estimator, label_smoothings=self.SMOOTHINGS, scoring=scoring).fit(X, Y)
        results = pd.DataFrame(model.cv_results_)
        own = results[results["label_smoothing"] == model.label_smoothing_]
        ranked = own.sort_values(["score", "refined_loss"], ascending=[False, True])
        assert model.best_epoch_ == ranked["epoch"].iloc[0]
        if scoring == "accuracy":  # which no temperature changes
            np.testing.assert_allclose(results["score"], results["accuracy"], atol=1e-12)
        known = KnownProbabilities(model.classes_, model.oof_proba_, X)
        score = get_scorer(scoring)(known, X, Y)
        assert score == pytest.approx(ranked["score"].iloc[0], abs=1e-3)

    def test_the_log_loss_as_a_scorer_chooses_what_it_does_unasked(self):
        plain, asked = (
            make_cv(short(calibration="temperature"), scoring=scoring).fit(X, Y)
            for scoring in (None, "neg_log_loss")
        )
        assert "score" not in plain.cv_results_
        assert (asked.best_epoch_, asked.label_smoothing_) == (
            plain.best_epoch_,
            plain.label_smoothing_,
        )
        score, loss = asked.cv_results_["score"], asked.cv_results_["refined_loss"]
        np.testing.assert_allclose(-score, loss, rtol=1e-6)

    def test_an_epoch_whose_score_is_nan_is_not_the_best(self):
        n_calls = 0

        def undefined_at_first(model, rows, labels):
            nonlocal n_calls
            n_calls += 1
            return np.nan if n_calls == 1 else -n_calls

        model = make_cv(short(), label_smoothings=(0.1,), scoring=undefined_at_first).fit(X, Y)
        assert model.best_epoch_ == 2

    @pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, np.ndarray.tolist, torch.tensor])
    def test_a_scorer_is_given_the_rows_that_are_left_out(self, kind):
        cv = [(np.arange(60), np.arange(100, 130)), (np.arange(60, 100), np.arange(120, 150))]
        weight = np.ones(len(X))
        weight[110:115] = 0.0
        expected = np.setdiff1d(np.arange(100, 150), np.arange(110, 115))
        seen = []

        def looking(model, rows, labels):
            seen.append((np.asarray(rows), labels))
            return model.score(rows, labels)

        make_cv(short(), cv=cv, scoring=looking).fit(kind(X), Y, weight)
        for rows, labels in seen:
            np.testing.assert_array_equal(rows, X[expected])
            np.testing.assert_array_equal(labels, Y[expected])

    def test_a_scorer_may_ask_for_some_of_the_rows_but_for_no_others(self):
        def of_some(model, rows, labels):
            few = rows[labels == 1]
            everything = model.predict_proba(rows)[labels == 1]
            np.testing.assert_array_equal(model.predict_proba(few), everything)
            return everything[:, 1].mean()

        make_cv(short(), scoring=of_some).fit(X, Y)
        elsewhere = make_cv(short(), scoring=lambda model, rows, labels: model.predict(rows + 1))
        with pytest.raises(ValueError, match="ask for the probabilities of the rows that it is gi"):
            elsewhere.fit(X, Y)

    @pytest.mark.parametrize("weight", [None, 2.0, np.linspace(1, 2, len(X))])
    def test_a_scorer_is_given_the_weights_of_rows_without_those_of_classes(self, weight):
        seen = []

        def looking(model, rows, labels, sample_weight=None):
            seen.append(sample_weight)
            return 0.0

        make_cv(short(class_weight="balanced"), scoring=looking).fit(X, Y, weight)
        for given in seen:
            if weight is None:
                assert given is None
            else:
                np.testing.assert_array_equal(given, np.broadcast_to(weight, len(X)))

    def test_with_routing_a_scorer_is_given_the_weights_that_it_requests(self):
        def weighted_mean(y_true, y_pred, sample_weight=None):
            asked.append(sample_weight is not None)
            return 0.0

        scorer = make_scorer(weighted_mean)
        weight = np.ones(len(X))
        for requested in (True, False):
            asked = []
            with sklearn.config_context(enable_metadata_routing=True):
                scoring = scorer.set_score_request(sample_weight=requested)
                make_cv(short(), scoring=scoring).fit(X, Y, weight)
            assert set(asked) == {requested}

    @pytest.mark.skipif(
        "sample_weight" not in get_scorer("accuracy").get_metadata_routing().score.requests,
        reason="scikit-learn's scorers said nothing of weights yet",
    )
    def test_with_routing_a_scorer_must_say_whether_it_wants_the_weights(self):
        with (
            sklearn.config_context(enable_metadata_routing=True),
            pytest.raises(UnsetMetadataPassedError, match="sample_weight"),
        ):
            make_cv(short(), scoring="accuracy").fit(X, Y, np.ones(len(X)))

    def test_an_unknown_name_is_refused_before_training(self):
        with pytest.raises(ValueError, match=r"names 'accuracee'.*Did you mean 'accuracy'"):
            make_cv(scoring="accuracee").fit(X, Y)

    @pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
    def test_no_number_for_any_is_an_error(self, score):
        model = make_cv(scoring=lambda model, rows, labels: score)
        with pytest.raises(ValueError, match="gave no finite number for any ε"):
            model.fit(X, Y)


class TestCalibration:
    def test_none_gives_the_softmax(self):
        model = make_cv(short(calibration=None)).fit(X, Y)
        assert model.calibrator_ is None
        assert model.temperature_ is None
        np.testing.assert_allclose(model.oof_proba_.sum(1), 1)

    def test_any_object_is_fitted_to_the_out_of_fold_logits(self):
        model = make_cv(short(calibration=LogisticRegression(C=0.1))).fit(X, Y)
        assert isinstance(model.calibrator_, LogisticRegression)
        assert model.temperature_ is None
        assert model.calibrator_.n_features_in_ == 3


class TestRandomness:
    def test_one_seed_gives_one_result(self):
        first, second = make_cv().fit(X, Y), make_cv().fit(X, Y)
        np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
        other = make_cv(random_state=1).fit(X, Y)
        assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))

    def test_leaves_the_global_generators_alone(self):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        make_cv().fit(X, Y)
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002

    def test_none_draws_from_numpy(self):
        probabilities = []
        for _ in range(2):
            np.random.seed(3)  # noqa: NPY002
            probabilities.append(make_cv(random_state=None).fit(X, Y).predict_proba(X))
        np.testing.assert_array_equal(*probabilities)

    def test_nets_of_one_fold_start_alike_whatever_the_smoothing(self):
        twins = make_cv(short(calibration=None, max_epochs=1, lr=1e-12)).fit(X, Y)
        results = pd.DataFrame(twins.cv_results_)
        np.testing.assert_allclose(*results["refined_loss"], rtol=1e-6)


class TestWeights:
    def test_rows_without_weight_are_neither_trained_on_nor_scored(self):
        weight = np.tile([1.0, 1.0, 0.0], 100)
        strange = np.where(weight[:, None] > 0, X, 1e6)
        splits = list(KFold(3).split(X))
        model = make_cv(cv=splits).fit(strange, Y, sample_weight=weight)
        usual = make_cv(cv=splits).fit(X, Y, sample_weight=weight)
        np.testing.assert_array_equal(model.oof_proba_, usual.oof_proba_)
        np.testing.assert_array_equal(np.isnan(model.oof_proba_).all(1), weight == 0)

    def test_rows_without_weight_have_no_part_in_the_folds(self):
        weight = np.tile([1.0, 1.0, 0.0], 100)
        kept = weight > 0
        model = make_cv().fit(X, Y, sample_weight=weight)
        without = make_cv().fit(X[kept], Y[kept])
        np.testing.assert_array_equal(model.oof_proba_[kept], without.oof_proba_)
        np.testing.assert_array_equal(model.predict_proba(X), without.predict_proba(X))

    def test_groups_of_rows_without_weight_are_ignored_as_all_groups_are(self):
        weight = np.tile([1.0, 1.0, 0.0], 100)
        with pytest.warns(UserWarning, match="groups parameter is ignored"):
            model = make_cv().fit(X, Y, sample_weight=weight, groups=np.arange(300) % 7)
        plain = make_cv().fit(X, Y, sample_weight=weight)
        np.testing.assert_array_equal(model.oof_proba_, plain.oof_proba_)

    def test_weigh_in_the_choice(self):
        weight = np.random.default_rng(0).uniform(0.5, 2, len(X))
        model = make_cv().fit(X, Y, sample_weight=weight)
        assert model.oof_log_loss_ == pytest.approx(
            log_loss(Y, model.oof_proba_, sample_weight=weight), rel=1e-6
        )

    def test_a_weight_of_two_is_two_rows(self):
        weight = np.random.default_rng(0).integers(1, 4, 20)
        rows, labels = X[:20], Y[:20]
        numbers = np.repeat(np.arange(20), weight)
        fold = np.arange(20) % 2
        weighted = make_cv(cv=PredefinedSplit(fold)).fit(rows, labels, sample_weight=weight)
        repeated = make_cv(cv=PredefinedSplit(fold[numbers])).fit(rows[numbers], labels[numbers])
        np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-10)

    def test_balanced_classes(self):
        rare = (np.arange(300) % 10 == 0) & (X[:, 0] > 0)
        plain = make_cv().fit(X, rare)
        balanced = make_cv(short(class_weight="balanced")).fit(X, rare)
        assert balanced.predict_proba(X)[:, 1].mean() > 2 * plain.predict_proba(X)[:, 1].mean()


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
            make_cv().set_params(**params).fit(X, Y)

    def test_a_dataset_is_refused(self):
        dataset = torch.utils.data.TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
        with pytest.raises(ValueError, match=r"X is a TensorDataset.*SliceDataset"):
            make_cv().fit(dataset, None)

    def test_one_class_is_refused(self):
        with pytest.raises(ValueError, match="at least two classes"):
            make_cv().fit(X, np.zeros(len(X)))

    def test_divergence_is_told(self):
        with pytest.raises(ValueError, match=r"turned NaN or infinite in epoch \d.*lr=1e\+30"):
            make_cv(short(lr=1e30, optimizer=torch.optim.SGD)).fit(X, Y)

    def test_a_failing_fit_changes_nothing(self, fitted):
        model = copy.deepcopy(fitted)
        before = model.predict_proba(X)
        with pytest.raises(ValueError, match="NaN"):
            model.fit(np.full((30, 3), np.nan), Y[:30])
        np.testing.assert_array_equal(model.predict_proba(X), before)
        fresh = make_cv()
        with pytest.raises(ValueError, match="NaN"):
            fresh.fit(np.full((30, 3), np.nan), Y[:30])
        assert vars(fresh).keys() == vars(make_cv()).keys()

    def test_history_before_fit(self):
        with pytest.raises(AttributeError, match="before fit"):
            _ = make_cv().history


class TestCompany:
    def test_copies_predict_alike(self, fitted):
        for copied in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
            np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
        assert not hasattr(clone(fitted), "classes_")

    def test_leaves_the_estimator_untouched(self):
        net = short(label_smoothing=0.3, random_state=7)
        make_cv(net).fit(X, Y)
        assert net.get_params()["label_smoothing"] == 0.3
        assert not net.initialized_

    def test_pipelines_searches_and_stacking(self):
        pipe = make_pipeline(StandardScaler(), make_cv())
        grid = {"labelsmoothingclassifiercv__estimator__lr": [1e-5, 1e-2]}
        search = GridSearchCV(pipe, grid, cv=2, scoring="neg_log_loss").fit(X, Y)
        assert search.best_params_["labelsmoothingclassifiercv__estimator__lr"] == 1e-2
        stacking = StackingClassifier([("net", make_cv(short(lr=0.02)))], cv=2).fit(X, Y)
        assert stacking.score(X, Y) > 0.7

    def test_routed_weights_and_groups(self):
        groups = np.arange(len(X)) // 10
        with sklearn.config_context(enable_metadata_routing=True):
            model = make_cv(cv=GroupKFold(3)).set_fit_request(sample_weight=True)
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
            own = make_cv(cv=GroupKFold(3)).fit(
                X[train], Y[train], np.ones(len(train)), groups=groups[train]
            )
        np.testing.assert_array_equal(scores["estimator"][0].predict_proba(X), own.predict_proba(X))

    def test_training_display(self, fitted):
        display = TrainingDisplay.from_estimator(fitted)
        assert display.best_epoch == fitted.best_epoch_
        assert len(display.lines_) == 3
        plt.close(display.figure_)


class TestConfidence:
    def test_is_the_margin_of_the_pooled_probabilities(self, fitted):
        proba = np.sort(fitted.predict_proba(X), axis=1)
        np.testing.assert_array_equal(fitted.confidence(X), proba[:, 2] - proba[:, 1])

    def test_of_one_net_is_its_own(self):
        model = make_cv(ensemble=False).fit(X, Y)
        (net,) = model.estimators_
        np.testing.assert_allclose(model.confidence(X), net.confidence(X), rtol=1e-4, atol=1e-5)

    def test_needs_fit_and_the_columns_of_fit(self, fitted):
        with pytest.raises(NotFittedError):
            make_cv().confidence(X)
        with pytest.raises(ValueError, match="features, but"):
            fitted.confidence(X[:, :2])

    def test_orders_rows_by_how_often_they_are_right(self):
        rows, labels = make_tabular(1000, random_state=1)
        model = make_cv(short(max_epochs=40)).fit(rows[:300], labels[:300])
        confidence = model.confidence(rows[300:])
        correct = model.predict(rows[300:]) == labels[300:]
        sure = confidence >= np.median(confidence)
        assert correct[sure].mean() > correct.mean() + 0.02


def _hook_last_layer(module):
    module.layers[-1].register_forward_hook(lambda layer, given, output: 0 * output)


def _set_activation(module):
    module.activation = "sigmoid"


def _add_hook(module):
    module.register_forward_hook(lambda net, given, output: 0 * output)


def _add_hook_to_activation(module):
    module.activations[0].register_forward_pre_hook(lambda part, given: 0 * given[0])


@pytest.mark.parametrize(
    "change", [_hook_last_layer, _add_hook, _add_hook_to_activation, _set_activation]
)
def test_what_is_changed_at_the_nets_changes_predictions(fitted, change):
    model = copy.deepcopy(fitted)
    model.predict_proba(X)  # by a stack that is kept
    for net in model.estimators_:
        change(net.module_)
    logits = np.mean([net.logits(X) for net in model.estimators_], axis=0)
    proba = model.calibrator_.predict_proba(logits)
    np.testing.assert_allclose(model.predict_proba(X), proba, atol=1e-6)
    assert np.abs(proba - fitted.predict_proba(X)).max() > 0.01


def test_scorer_of_this_package_that_is_named_is_told_where_it_is():
    model = make_cv(scoring="neg_expected_calibration_error")
    with pytest.raises(ValueError, match=r"metrics import neg_expected_calibration_error_scorer"):
        model.fit(*make_tabular(60, random_state=0))
