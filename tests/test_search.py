"""BatchedGridSearchCV: GridSearchCV's table and attributes, from nets that train in lockstep."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import sklearn
import skorch.dataset
from helpers import TwoLayers, needs_sklearn
from joblib import parallel_config, register_parallel_backend
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib.parallel import ThreadingBackend, get_active_backend
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler, ProgressBar
from skorch.helper import predefined_split
from skorch.utils import noop

from sksmooth import LabelSmoothingClassifier, SimpleNet, make_tabular
from sksmooth.metrics import area_under_risk_coverage, expected_calibration_error
from sksmooth.search import BatchedGridSearchCV

X, Y = make_tabular(n_samples=180, random_state=0)
NET = LabelSmoothingClassifier(
    max_epochs=5, lr=0.02, batch_size=32, module__hidden_layer_sizes=(8,), random_state=0
)
EPS = {"label_smoothing": [0.0, 0.2]}
SCORERS = ["accuracy", "neg_log_loss", "roc_auc_ovr"]


def _pipe(*steps, **options):
    return Pipeline([*steps, ("net", NET)], **options)


def _both(estimator, grid, *data, max_members=64, fit_params=None, **options):
    """Run both searches; check that their tables are equal; give them."""
    fit_params = fit_params or {}
    data = data or (X, Y)
    options = {"cv": 3, **options}
    theirs = GridSearchCV(clone(estimator), grid, **options).fit(*data, **fit_params)
    ours = BatchedGridSearchCV(clone(estimator), grid, max_members=max_members, **options)
    ours.fit(*data, **fit_params)
    _assert_same_table(theirs, ours)
    return theirs, ours


def _assert_same_table(theirs, ours):
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    for name, expected in theirs.cv_results_.items():
        values = ours.cv_results_[name]
        if name == "params":
            continue
        assert values.dtype == expected.dtype, name
        assert values.shape == expected.shape, name
        if name.startswith("param_"):
            np.testing.assert_array_equal(values.mask, expected.mask)
            assert values.tolist() == expected.tolist()
        elif "time" in name:
            assert (values >= 0).all()
        elif "loss" in name or "roc" in name:
            np.testing.assert_allclose(values, expected, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(values, expected, err_msg=name)
    fitted = {name for name in vars(theirs) if name.endswith("_")}
    assert {name for name in vars(ours) if name.endswith("_")} == fitted | {"alone_because_"}
    if hasattr(theirs, "best_params_"):
        assert ours.best_params_ == theirs.best_params_
        assert ours.best_index_ == theirs.best_index_


class TestTable:
    def test_equals_that_of_grid_search_with_one_scorer(self):
        theirs, ours = _both(NET, {**EPS, "smoothing": ["uniform", "off_target"]})
        assert ours.best_score_ == theirs.best_score_
        assert ours.n_splits_ == 3
        assert not ours.multimetric_

    def test_equals_it_with_several_scorers_and_train_scores(self):
        theirs, ours = _both(
            NET, EPS, scoring=SCORERS, refit="neg_log_loss", return_train_score=True
        )
        assert ours.multimetric_
        assert list(ours.scorer_) == list(theirs.scorer_) == SCORERS

    @pytest.mark.parametrize(
        "grid",
        [
            {"label_smoothing": [0.1], "lr": [0.01, 0.03], "batch_size": [32, 64]},
            [{"random_state": [0, 1]}, {"class_weight": ["balanced", {0: 2.0}], "lr": [0.01]}],
            {"early_stopping": [True, False], "patience": [1]},
            {"calibration": [None, "temperature"], "train_split": [None, 0.3]},
            {},
        ],
        ids=["lr", "list", "stopping", "calibration", "empty"],
    )
    def test_equals_it_for_candidates_that_form_groups(self, grid):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Too few rows to hold any out", UserWarning)
            _, ours = _both(NET, grid, scoring=SCORERS[:2], refit=False)
        assert set(ours.alone_because_) == {None}

    @pytest.mark.parametrize(
        "cv",
        [
            KFold(4),
            StratifiedKFold(3, shuffle=True, random_state=0),
            ShuffleSplit(2, test_size=0.3, random_state=0),
            [(np.arange(100), np.arange(100, 180)), (np.arange(60, 180), np.arange(60))],
        ],
        ids=["kfold", "stratified", "shuffle", "unequal"],
    )
    def test_equals_it_with_any_splitter(self, cv):
        _both(NET, EPS, cv=cv, scoring=SCORERS[:2], refit="accuracy")

    def test_draws_the_splits_of_a_random_splitter_once(self):
        def search(kind):
            cv = ShuffleSplit(2, random_state=np.random.RandomState(0))
            return kind(NET, EPS, cv=cv).fit(X, Y)

        _assert_same_table(search(GridSearchCV), search(BatchedGridSearchCV))

    def test_draws_the_splits_of_a_generator_once(self):
        def search(kind):
            return kind(NET, EPS, cv=(split for split in KFold(3).split(X))).fit(X, Y)

        _assert_same_table(search(GridSearchCV), search(BatchedGridSearchCV))

    def test_equals_it_with_stacks_of_few_members(self):
        _both(NET, EPS, max_members=2, scoring=SCORERS[:2], refit="accuracy")

    def test_equals_it_for_a_module_of_ones_own(self):
        own = LabelSmoothingClassifier(TwoLayers, lr=0.02, max_epochs=5, random_state=0)
        _, ours = _both(own, EPS, scoring=SCORERS[:2], refit="accuracy")
        assert ours.alone_because_ == [None, None]

    def test_equals_it_for_a_module_that_cannot_be_pickled(self):
        class Local(SimpleNet):
            pass

        params = {"module__dropout": 0.0, "lr": 0.02, "max_epochs": 5, "random_state": 0}
        own = LabelSmoothingClassifier(Local, **params)
        _, ours = _both(own, EPS)
        assert ours.alone_because_ == [None, None]

    def test_speaks_the_labels_of_the_user(self):
        labels = np.array(["ant", "bee", "cow"])[Y]
        _, ours = _both(NET, EPS, X, labels, scoring=SCORERS, refit="accuracy")
        assert ours.classes_.tolist() == ["ant", "bee", "cow"]
        assert set(ours.predict(X)) <= {"ant", "bee", "cow"}

    def test_takes_data_frames(self):
        frame = pd.DataFrame(X, columns=[f"x{k}" for k in range(X.shape[1])])
        _, ours = _both(_pipe(("scale", StandardScaler())), {}, frame, pd.Series(Y))
        assert ours.feature_names_in_.tolist() == list(frame.columns)

    def test_equals_it_where_a_fold_lacks_a_class(self):
        order = np.argsort(Y, kind="stable")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Scoring failed", UserWarning)
            warnings.filterwarnings("ignore", ".* scores are non-finite", UserWarning)
            warnings.filterwarnings("ignore", "y_pred contains classes", UserWarning)
            _both(NET, EPS, X[order], Y[order], cv=KFold(3), scoring=SCORERS[:2], refit=False)

    def test_holds_times_that_add_up_to_no_more_than_the_search(self):
        search = BatchedGridSearchCV(_pipe(("scale", StandardScaler())), {}, cv=3, refit=False)
        seconds = _seconds(lambda: search.fit(X, Y))
        assert 0 < search.cv_results_["mean_fit_time"][0] * 3 < seconds


class TestRefit:
    def test_gives_the_estimator_itself(self):
        theirs, ours = _both(NET, EPS)
        assert type(ours.best_estimator_) is LabelSmoothingClassifier
        assert ours.best_estimator_.get_params(False) == theirs.best_estimator_.get_params(False)
        np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
        assert ours.score(X, Y) == theirs.score(X, Y)
        assert ours.refit_time_ > 0

    def test_gives_the_pipeline_itself(self):
        pipe = _pipe(("scale", StandardScaler()))
        _, ours = _both(pipe, {"net__label_smoothing": [0.0, 0.2]})
        assert type(ours.best_estimator_) is Pipeline
        assert ours.best_estimator_[-1].history
        clone(ours.best_estimator_).fit(X, Y)

    def test_survives_pickling_and_cloning(self):
        _, ours = _both(NET, EPS)
        again = pickle.loads(pickle.dumps(ours))
        np.testing.assert_array_equal(again.predict_proba(X), ours.predict_proba(X))
        assert clone(ours).get_params()["max_members"] == 64
        assert "max_members=5" in repr(BatchedGridSearchCV(NET, EPS, max_members=5))

    def test_false_leaves_no_estimator(self):
        _, ours = _both(NET, EPS, refit=False)
        assert not hasattr(ours, "best_estimator_")
        assert not hasattr(ours, "predict")

    def test_takes_a_callable(self):
        _, ours = _both(NET, EPS, refit=lambda results: 1)
        assert ours.best_params_ == {"label_smoothing": 0.2}

    def test_is_chosen_by_a_callable_that_sees_each_fits_share_of_the_time(self):
        seen = {}

        def choose(results):
            seen.update({name: results[name].copy() for name in ("mean_fit_time", "std_fit_time")})
            return 0

        search = BatchedGridSearchCV(NET, EPS, cv=3, refit=choose).fit(X, Y)
        for name, times in seen.items():
            np.testing.assert_array_equal(search.cv_results_[name], times)
        assert (seen["mean_fit_time"] > 1e-3).all()  # time of training, that is, not of a look-up

    def test_leaves_the_estimator_as_it_was(self):
        pipe = _pipe(("scale", StandardScaler()))
        before = pipe.get_params(deep=False)
        BatchedGridSearchCV(pipe, {"net__lr": [0.01]}, cv=3).fit(X, Y)
        assert pipe.get_params(deep=False) == before
        with pytest.raises(NotFittedError):
            pipe.predict(X)


class _Witness:
    """A scorer that keeps the estimators that it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, estimator, X, y):
        self.seen.append(estimator)
        return estimator.score(X, y)


class TestScorers:
    @pytest.mark.parametrize("as_dict", [False, True], ids=["callable", "dict"])
    def test_are_given_the_users_own_estimators(self, as_dict):
        witness = _Witness()
        search = BatchedGridSearchCV(
            _pipe(("scale", StandardScaler())),
            {"net__label_smoothing": [0.0, 0.2], "net__warm_start": [False, True]},
            scoring={"own": witness} if as_dict else witness,
            refit="own" if as_dict else True,
            cv=3,
        ).fit(X, Y)
        assert len({id(estimator) for estimator in witness.seen}) == 4 * 3
        for estimator in witness.seen:
            assert type(estimator) is Pipeline
            assert type(estimator[-1]) is LabelSmoothingClassifier
            assert len(estimator[-1].history) == 5
            assert set(vars(estimator)) == set(vars(search.best_estimator_))
            assert estimator.fit.__func__ is Pipeline.fit
        smoothings = [estimator[-1].label_smoothing for estimator in witness.seen]
        assert smoothings == [0.0] * 6 + [0.2] * 6
        search.score(X, Y)
        assert witness.seen[-1] is search.best_estimator_

    def test_may_fit_a_copy_of_what_they_are_given(self):
        def scorer(net, X, y):
            assert type(net) is LabelSmoothingClassifier
            return clone(net).fit(X, y).score(X, y) + net.fit(X, y).score(X, y)

        _both(NET, EPS, scoring=scorer)

    def test_of_all_searches_are_kept(self):
        scorer = _Witness()
        _, ours = _both(NET, {}, scoring={"own": scorer, "accuracy": "accuracy"}, refit="own")
        assert ours.scorer_["own"] is scorer
        _, ours = _both(NET, {})
        assert "LabelSmoothingClassifier" in repr(ours.scorer_)


class TestWhoWatches:
    """What MLflow's autolog does: it takes the place of ``GridSearchCV.fit``."""

    @pytest.fixture
    def watched(self, monkeypatch):
        fit, watched = GridSearchCV.fit, []

        def watch(search, *args, **kwargs):
            before = search.get_params(deep=False)
            fit(search, *args, **kwargs)
            watched.append((search, before, search.get_params(deep=False)))
            return search

        monkeypatch.setattr(GridSearchCV, "fit", watch)
        return watched

    def test_sees_one_search_with_the_users_class_and_arguments(self, watched):
        params = {"estimator": NET, "param_grid": EPS, "cv": 3, "verbose": 1, "n_jobs": 2}
        ours = BatchedGridSearchCV(**params)
        given = ours.get_params(deep=False)
        with parallel_config("threading"):  # processes would take seconds to start
            ours.fit(X, Y)
        ((search, before, after),) = watched
        assert type(search) is BatchedGridSearchCV
        for seen in (before, after, ours.get_params(deep=False)):
            assert all(seen[name] is value for name, value in given.items())
        for name in ("cv_results_", "best_estimator_", "scorer_", "n_splits_", "alone_because_"):
            assert getattr(search, name) is getattr(ours, name)
        assert type(search.best_estimator_) is LabelSmoothingClassifier


class _CountingScaler(StandardScaler):
    fits: list = []  # noqa: RUF012

    def fit(self, X, y=None, sample_weight=None):
        _CountingScaler.fits.append((len(X), self.with_mean))
        return super().fit(X, y, sample_weight)


class TestPipeline:
    def test_equals_grid_search_over_parameters_of_all_steps(self):
        pipe = _pipe(("scale", StandardScaler()), ("pca", PCA(random_state=0)))
        grid = {"pca__n_components": [3, 5], "net__label_smoothing": [0, 0.1], "net__lr": [0.01]}
        _, ours = _both(pipe, grid, scoring=SCORERS[:2], refit="accuracy", return_train_score=True)
        assert ours.alone_because_ == [None] * 4

    def test_fits_the_steps_once_per_fold_and_setting_on_training_rows_only(self):
        _CountingScaler.fits = []
        grid = {"scale__with_mean": [True, False], "net__label_smoothing": [0, 0.1, 0.2]}
        search = BatchedGridSearchCV(_pipe(("scale", _CountingScaler())), grid, cv=3, refit=False)
        search.fit(X, Y)
        expected = [(120, True)] * 3 + [(120, False)] * 3
        assert sorted(_CountingScaler.fits) == sorted(expected)

    def test_caches_steps_in_memory(self, tmp_path):
        pipe = _pipe(("scale", StandardScaler()), memory=str(tmp_path))
        _both(pipe, {"net__label_smoothing": [0, 0.1]})
        assert any(tmp_path.rglob("*.pkl"))

    @pytest.mark.parametrize(
        "grid",
        [
            {"scale": [StandardScaler(), "passthrough"], "net__label_smoothing": [0, 0.1]},
            {"net": [NET, clone(NET).set_params(random_state=1)]},
        ],
        ids=["step", "net"],
    )
    def test_equals_grid_search_where_candidates_replace_steps(self, grid):
        theirs = GridSearchCV(_pipe(("scale", StandardScaler())), grid, cv=3).fit(X, Y)
        ours = BatchedGridSearchCV(_pipe(("scale", StandardScaler())), grid, cv=3).fit(X, Y)
        for name in ("mean_test_score", "std_test_score", "rank_test_score"):
            np.testing.assert_array_equal(ours.cv_results_[name], theirs.cv_results_[name])
        assert set(ours.alone_because_) == {None}

    def test_fits_a_replaced_last_step_by_itself(self):
        grid = {"net": [NET, LogisticRegression()]}
        ours = BatchedGridSearchCV(_pipe(("scale", StandardScaler())), grid, cv=3).fit(X, Y)
        theirs = GridSearchCV(_pipe(("scale", StandardScaler())), grid, cv=3).fit(X, Y)
        np.testing.assert_array_equal(
            ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"]
        )
        assert ours.alone_because_[0] is None
        assert "is not LabelSmoothingClassifier itself" in ours.alone_because_[1]

    def test_takes_steps_that_cannot_be_pickled(self):
        pipe = _pipe(("take", FunctionTransformer()))
        grid = {"take__func": [lambda X: X[:, :3], lambda X: X], "net__label_smoothing": [0, 0.1]}
        theirs = GridSearchCV(pipe, grid, cv=3).fit(X, Y)
        ours = BatchedGridSearchCV(pipe, grid, cv=3).fit(X, Y)
        np.testing.assert_array_equal(
            ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"]
        )

    def test_works_with_samplers_of_imbalanced_learn(self):
        imblearn = pytest.importorskip("imblearn.pipeline")
        from imblearn.under_sampling import RandomUnderSampler

        pipe = imblearn.Pipeline([("sample", RandomUnderSampler(random_state=0)), ("net", NET)])
        _both(pipe, {"net__label_smoothing": [0, 0.1]}, scoring=SCORERS[:2], refit="accuracy")


class TestMetadata:
    def test_splits_by_groups(self):
        groups = np.arange(len(Y)) % 7
        _both(NET, EPS, cv=GroupKFold(3), fit_params={"groups": groups})

    def test_weighs_rows(self):
        weight = np.random.default_rng(0).uniform(0.1, 3, len(Y))
        _both(NET, EPS, scoring=SCORERS[:2], refit=False, fit_params={"sample_weight": weight})

    def test_weighs_rows_of_a_pipeline(self):
        weight = np.random.default_rng(0).uniform(0.1, 3, len(Y))
        pipe = _pipe(("scale", StandardScaler()))
        _both(pipe, {}, fit_params={"net__sample_weight": weight, "scale__sample_weight": weight})

    @needs_sklearn("1.8", "routing of weights through the score of a Pipeline")
    @pytest.mark.parametrize("with_steps", [False, True])
    def test_is_routed(self, with_steps):
        weight = np.random.default_rng(0).uniform(0.1, 3, len(Y))
        groups = np.arange(len(Y)) % 7
        with sklearn.config_context(enable_metadata_routing=True):
            net = clone(NET).set_fit_request(sample_weight=True)
            net.set_score_request(sample_weight=True)
            scale = StandardScaler().set_fit_request(sample_weight=True)
            estimator = make_pipeline(scale, net) if with_steps else net
            fit_params = {"sample_weight": weight, "groups": groups}
            _both(estimator, {}, cv=GroupKFold(3), fit_params=fit_params)

    def test_of_a_splitter_is_routed(self):
        with sklearn.config_context(enable_metadata_routing=True):
            _both(
                NET,
                EPS,
                cv=_ByDay().set_split_request(day=True),
                fit_params={"day": np.arange(len(Y)) % 2},
            )

    def test_that_nothing_asked_for_is_refused_by_name(self):
        with (
            sklearn.config_context(enable_metadata_routing=True),
            pytest.raises(TypeError, match=r"BatchedGridSearchCV\.fit got unexpected.*flavour"),
        ):
            BatchedGridSearchCV(NET, EPS, cv=3).fit(X, Y, flavour=1)


class _ByDay(GroupKFold):
    """Wants other metadata than scikit-learn's own splitters."""

    def __init__(self):
        super().__init__(2)

    def split(self, X, y=None, groups=None, day=None):
        return super().split(X, y, day)

    def get_n_splits(self, X=None, y=None, groups=None, day=None):
        return 2


class _RefusesNaN(TransformerMixin, BaseEstimator):
    def __init__(self, fails=False):
        self.fails = fails

    def fit(self, X, y=None):
        self.fitted_ = True
        if self.fails:
            raise ValueError("this step always fails")
        return self

    def transform(self, X):
        return X


class TestFailures:
    @pytest.mark.parametrize(
        ("estimator", "grid", "message"),
        [
            (NET, {"label_smoothing": [0.1, 1.5]}, "got 1.5"),
            (NET, {"lr": [0.01, 1e30]}, "in epoch"),
            (NET, {"max_epochs": [5, "5"]}, "max_epochs"),
            (_pipe(("step", _RefusesNaN())), {"step__fails": [False, True]}, "always fails"),
        ],
        ids=["parameter", "diverged", "type", "step"],
    )
    def test_of_a_candidate_give_it_the_error_score_and_a_warning(self, estimator, grid, message):
        def search(kind):
            with pytest.warns() as caught:
                fitted = kind(estimator, grid, cv=3).fit(X, Y)
            (failed,) = [w for w in caught if w.category is FitFailedWarning]
            return fitted, str(failed.message)

        theirs, expected = search(GridSearchCV)
        ours, told = search(BatchedGridSearchCV)
        _assert_same_table(theirs, ours)
        assert np.isnan(ours.cv_results_["mean_test_score"]).tolist() == [False, True]
        assert message in told
        assert told.splitlines()[1] == expected.splitlines()[1]
        assert told.count("fits failed with the following error") == expected.count(
            "fits failed with the following error"
        )

    def test_are_raised_where_asked_for(self):
        search = BatchedGridSearchCV(NET, {"label_smoothing": [1.5]}, cv=3, error_score="raise")
        with pytest.raises(ValueError, match=r"got 1\.5"):
            search.fit(X, Y)

    def test_of_all_fits_are_an_error(self):
        with pytest.raises(ValueError, match="All the 3 fits failed"):
            BatchedGridSearchCV(NET, {"label_smoothing": [1.5]}, cv=3).fit(X, Y)

    def test_of_a_name_are_raised_before_training(self):
        with pytest.raises(ValueError, match="did you mean label_smoothing"):
            BatchedGridSearchCV(NET, {"label_smothing": [0.1]}, cv=3).fit(X, Y)

    @pytest.mark.parametrize("max_members", [0, 2.5, "all"])
    def test_of_arguments_name_them(self, max_members):
        with pytest.raises(ValueError, match="'max_members' parameter of BatchedGridSearchCV"):
            BatchedGridSearchCV(NET, EPS, max_members=max_members).fit(X, Y)


class TestAlone:
    @pytest.mark.parametrize(
        "callback",
        [
            LRScheduler("StepLR", step_size=2),
            LRScheduler("CyclicLR", base_lr=0.001, max_lr=0.1, step_every="batch"),
            EarlyStopping("train_loss", patience=1, threshold=10.0, sink=noop),
            Checkpoint(monitor="train_loss_best", load_best=True),
            ProgressBar(detect_notebook=False),
        ],
        ids=lambda callback: type(callback).__name__,
    )
    def test_nets_with_callbacks_are_fitted_by_themselves(self, callback, tmp_path):
        net = clone(NET).set_params(callbacks=[("own", callback)])
        if isinstance(callback, Checkpoint):
            net.set_params(callbacks__own__dirname=str(tmp_path))
        _, ours = _both(net, EPS)
        assert ours.alone_because_ == ["callbacks are set"] * 2

    def test_subclasses_are_fitted_by_themselves(self):
        class Own(LabelSmoothingClassifier):
            pass

        _, ours = _both(Own(lr=0.02, max_epochs=5, random_state=0), EPS)
        assert ours.alone_because_ == ["Own is not LabelSmoothingClassifier itself"] * 2

    def test_only_the_candidates_that_have_to(self):
        _, ours = _both(NET, {"warm_start": [False, True]})
        assert ours.alone_because_ == [None, "warm_start is set"]

    def test_members_cost_four_forward_passes_to_compare_each_and_none_to_train(self):
        net = LabelSmoothingClassifier(
            _CountsPasses, max_epochs=2, train_split=None, calibration=None, random_state=0
        )
        counts = []
        for epsilons in ([0.1], [0.0, 0.1, 0.2]):
            _CountsPasses.n_passes = 0
            grid = {"label_smoothing": epsilons}
            options = {"cv": 3, "refit": False, "scoring": lambda *_: 0.0}
            search = BatchedGridSearchCV(net, grid, **options).fit(X, Y)
            assert set(search.alone_because_) == {None}
            counts.append(_CountsPasses.n_passes - 4 * 3 * len(epsilons))
        assert counts[0] == counts[1]

    def test_other_estimators_are_searched_as_ever(self):
        _, ours = _both(DummyClassifier(), {"strategy": ["prior", "most_frequent"]})
        assert ours.alone_because_ == ["DummyClassifier is not LabelSmoothingClassifier itself"] * 2


class _SeesFilters(SimpleNet):
    seen: ClassVar = set()

    def forward(self, x):
        if self.training:
            self.seen.add(id(warnings.filters))
        return super().forward(x)


def test_training_swaps_no_filters_of_warnings():
    net = clone(NET).set_params(module=_SeesFilters)
    _SeesFilters.seen.clear()
    BatchedGridSearchCV(net, {"label_smoothing": [0.0, 0.1]}, cv=2).fit(X, Y)
    assert _SeesFilters.seen == {id(warnings.filters)}


class TestVerbose:
    @pytest.mark.parametrize("verbose", [0, 1])
    def test_leaves_no_thread_behind(self, verbose):
        before = threading.active_count()
        BatchedGridSearchCV(NET, {"lr": [0.1]}, cv=2, verbose=verbose, refit=False).fit(X, Y)
        assert threading.active_count() == before

    def test_needs_no_standard_error(self, monkeypatch):
        monkeypatch.setattr("sys.stderr", None)  # as in a process without a console
        BatchedGridSearchCV(NET, {"lr": [0.1]}, cv=2, verbose=1, refit=False).fit(X, Y)

    def test_says_how_many_fits_and_which_go_alone(self, capsys):
        grid = {"warm_start": [False, True]}
        BatchedGridSearchCV(NET, grid, cv=3, verbose=1, refit=False).fit(X, Y)
        printed = capsys.readouterr()
        assert printed.out.splitlines() == [
            "Fitting 3 folds for each of 2 candidates, totalling 6 fits",
            "3 of 6 fits one by one: warm_start is set (3)",
        ]
        assert "30/30" in printed.err
        assert "at most 00:00 left" in printed.err

    def test_zero_is_silent(self, capsys):
        BatchedGridSearchCV(NET, EPS, cv=3).fit(X, Y)
        assert capsys.readouterr() == ("", "")


class _Interrupts(SimpleNet):
    """Is interrupted in its second epoch, as by Ctrl-C."""

    n_steps = 0

    def forward(self, X):
        self.n_steps += self.training
        if self.n_steps == 6:
            raise KeyboardInterrupt
        return super().forward(X)


class _InterruptedScaler(StandardScaler):
    def fit(self, X, y=None, sample_weight=None):
        raise KeyboardInterrupt


def _interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (LabelSmoothingClassifier(_Interrupts, batch_size=32, random_state=0), {}),
        (_pipe(("scale", _InterruptedScaler())), {}),
        (NET, {"scoring": _interrupt}),
        (NET, {"refit": _interrupt}),
    ],
    ids=["training", "step", "scoring", "refit"],
)
def test_interrupt_leaves_the_search_as_it_was(estimator, options):
    search = BatchedGridSearchCV(estimator, {}, cv=3, **options)
    before = dict(vars(search))
    with parallel_config("threading", n_jobs=1):
        active = get_active_backend()
        with pytest.raises(KeyboardInterrupt):
            search.fit(X, Y)
        assert get_active_backend() == active
    assert vars(search) == before


class _CountsPasses(TwoLayers):
    n_passes = 0

    def forward(self, X):
        type(self).n_passes += 1
        return super().forward(X)


class _CountsPickles(np.ndarray):
    n_pickles = 0

    def __reduce_ex__(self, protocol):
        _CountsPickles.n_pickles += 1
        return super().__reduce_ex__(protocol)


class _KillsOnce(SimpleNet):
    """Ends the first worker that builds it, or that trains it for so many steps."""

    def __init__(self, n_features, n_classes, parent=None, flag=None, after_steps=0):
        super().__init__(n_features, n_classes, hidden_layer_sizes=(8,), dropout=0.0)
        self.parent, self.flag, self.after_steps = parent, Path(flag), after_steps
        self.n_steps = 0
        self._kill()

    def forward(self, X):
        self.n_steps += self.training
        self._kill()
        return super().forward(X)

    def _kill(self):
        is_time = os.getpid() != self.parent and self.n_steps == self.after_steps
        if is_time and not self.flag.exists():
            self.flag.write_text(str(self.n_steps))
            os.kill(os.getpid(), signal.SIGKILL)


def _seconds(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


class TestParallel:
    def test_processes_give_the_same_table(self):
        grid = {"label_smoothing": [0.0, 0.2], "warm_start": [False, True]}
        alone = BatchedGridSearchCV(NET, grid, cv=3).fit(X, Y)
        spread = BatchedGridSearchCV(NET, grid, cv=3, n_jobs=2).fit(X, Y)
        _assert_same(alone, spread)
        np.testing.assert_array_equal(alone.predict_proba(X), spread.predict_proba(X))

    @pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
    def test_machines_of_a_cluster_give_the_same_table(self, cluster, capsys):
        pipe = _pipe(("scale", StandardScaler()))
        grid = {"net__label_smoothing": [0.0, 0.1, 1.5]}
        with pytest.warns(FitFailedWarning):
            alone = BatchedGridSearchCV(pipe, grid, cv=3).fit(X, Y)
        with parallel_config("dask"), pytest.warns(FitFailedWarning, match=r"got 1\.5"):
            spread = BatchedGridSearchCV(pipe, grid, cv=3, verbose=1).fit(X, Y)
        _assert_same(alone, spread)
        assert "45/45" in capsys.readouterr().err

    def test_rows_go_to_the_machines_of_a_cluster_once_and_not_with_each_group(
        self, cluster, monkeypatch
    ):
        rows = np.repeat(X, 5, axis=1).view(_CountsPickles)
        weight = np.linspace(0.5, 1.5, len(Y))
        monkeypatch.setattr(_CountsPickles, "n_pickles", 0)
        pickle.dumps(rows)
        assert _CountsPickles.n_pickles == 1
        grid = {"label_smoothing": [0.0, 0.2], "lr": [0.01, 0.02, 0.03, 0.04]}
        alone = BatchedGridSearchCV(NET, grid, cv=3).fit(rows, Y, sample_weight=weight)
        with parallel_config("dask"):
            spread = BatchedGridSearchCV(NET, grid, cv=3).fit(rows, Y, sample_weight=weight)
        _assert_same(alone, spread)
        # Dask sends arrays by themselves; what goes with a task is pickled.
        assert _CountsPickles.n_pickles == 1

    def test_tells_of_its_epochs_by_a_backend_that_gives_all_at_once(self, capsys):
        class AtOnce(ThreadingBackend):  # as Ray's, or multiprocessing's
            supports_return_generator = False

        register_parallel_backend("at_once", AtOnce)
        alone = BatchedGridSearchCV(NET, EPS, cv=3).fit(X, Y)
        with parallel_config("at_once", n_jobs=2):
            spread = BatchedGridSearchCV(NET, EPS, cv=3, verbose=1).fit(X, Y)
        _assert_same(alone, spread)
        n_epochs = 3 * len(alone.cv_results_["params"]) * NET.max_epochs
        assert f"{n_epochs}/{n_epochs}" in capsys.readouterr().err

    @pytest.mark.parametrize("after_steps", [0, 7], ids=["building", "training"])
    def test_a_worker_that_dies_changes_nothing(self, cluster, tmp_path, after_steps):
        flag = tmp_path / "died"
        net = LabelSmoothingClassifier(
            _KillsOnce, lr=0.02, max_epochs=5, batch_size=32, random_state=0
        )
        net.set_params(
            module__parent=os.getpid(), module__flag=str(flag), module__after_steps=after_steps
        )
        alone = BatchedGridSearchCV(net, EPS, cv=3).fit(X, Y)
        assert alone.alone_because_ == [None, None]
        assert not flag.exists()
        cluster.wait_for_workers(2, timeout=120)  # one may be on its way back from the test before
        with parallel_config("dask"):
            spread = BatchedGridSearchCV(net, EPS, cv=3).fit(X, Y)
        assert flag.read_text() == str(after_steps)  # in the middle of its training, then
        _assert_same(alone, spread)


def test_a_killed_process_of_joblib_leaves_the_search_as_it_was(tmp_path):
    net = LabelSmoothingClassifier(_KillsOnce, lr=0.02, max_epochs=5, batch_size=32, random_state=0)
    net.set_params(
        module__parent=os.getpid(), module__flag=str(tmp_path / "died"), module__after_steps=7
    )
    alone = BatchedGridSearchCV(net, EPS, cv=3).fit(X, Y)
    spread = BatchedGridSearchCV(net, EPS, cv=3, n_jobs=2)
    with pytest.raises(TerminatedWorkerError):
        spread.fit(X, Y)
    assert not hasattr(spread, "best_estimator_")
    _assert_same(alone, spread.fit(X, Y))


def _assert_same(alone, spread):
    assert spread.alone_because_ == alone.alone_because_
    for name in ("mean_test_score", "std_test_score", "rank_test_score"):
        np.testing.assert_array_equal(spread.cv_results_[name], alone.cv_results_[name])


def test_one_batch_of_all_rows_serves_folds_of_unequal_size():
    _both(clone(NET).set_params(batch_size=-1), EPS, X[:101], Y[:101], cv=KFold(7))


def test_a_predefined_split_goes_its_own_way():
    held_out = skorch.dataset.Dataset(X[:40].astype(np.float32), Y[:40])
    net = clone(NET).set_params(train_split=predefined_split(held_out))
    _, ours = _both(net, EPS)
    assert all("train_split" in reason for reason in ours.alone_because_)


def test_dropout_is_drawn_as_in_single_fits_in_folds_of_unequal_size():
    net = clone(NET).set_params(module__dropout=0.3, train_split=None, calibration=None)
    _both(net, EPS, X[:101], Y[:101], cv=KFold(3), scoring=["neg_log_loss"], refit=False)


@pytest.mark.parametrize(
    "scoring",
    [
        "neg_expected_calibration_error",
        "neg_expected_calibration_error_scorer",
        ["neg_log_loss", "neg_expected_calibration_eror"],
        {"own": "neg_expected_calibration_error"},
    ],
)
def test_names_of_own_scorers_are_told_where_they_are(scoring):
    X, y = make_tabular(60, random_state=0)
    net = LabelSmoothingClassifier(max_epochs=1)
    with pytest.raises(ValueError, match=r"metrics import neg_expected_calibration_error_scorer"):
        BatchedGridSearchCV(net, {"lr": [0.1]}, scoring=scoring, refit=False).fit(X, y)
    for own in (expected_calibration_error, {"own": area_under_risk_coverage}):
        with pytest.raises(ValueError, match=r"give make_probability_scorer\((exp|area)"):
            BatchedGridSearchCV(net, {"lr": [0.1]}, scoring=own, refit=False).fit(X, y)
    with pytest.raises(ValueError, match="neg_brier"):  # scikit-learn's own message
        BatchedGridSearchCV(net, {"lr": [0.1]}, scoring="neg_brier").fit(X, y)


def test_a_search_without_labels_says_that_they_are_missing():
    search = BatchedGridSearchCV(LabelSmoothingClassifier(), {"lr": [0.1, 0.2]}, cv=2)
    with pytest.raises(ValueError, match="requires y to be passed"):
        search.fit(np.zeros((60, 3)))
