"""Nets of folds, trained beside the one that is kept, and when they are."""

import numpy as np
import pytest
import torch
from helpers import TwoLayers, quick
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold
from skorch.callbacks import (
    Callback,
    Checkpoint,
    LoadInitState,
    LRScheduler,
    PrintLog,
    ProgressBar,
)
from skorch.dataset import Dataset
from torch import nn

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LiveTrainingDisplay,
    make_tabular,
)
from sksmooth._rows import check_rows
from sksmooth.engine.cross_fit import Folds, draw_folds
from sksmooth.engine.randomness import OwnRandomness, make_generator
from sksmooth.engine.stack import InMemoryStack, Member, Selection

X, Y = make_tabular(203, random_state=0)
N_ROWS = len(Y)
WEIGHT = np.random.default_rng(0).uniform(0.5, 2, N_ROWS)


class WithStatistics(TwoLayers):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        self.norm = nn.BatchNorm1d(n_features)

    def forward(self, x):
        return self.layers(self.norm(x))


class Kept:
    """A calibrator that keeps what it was fitted to."""

    def fit(self, logits, y, sample_weight=None):
        self.logits_, self.y_, self.weight_ = logits, y, sample_weight
        return self

    def predict_proba(self, logits):
        return torch.from_numpy(logits).softmax(1).numpy()


class Plain(LabelSmoothingClassifier):
    """Overrides nothing."""


class Splits(LabelSmoothingClassifier):
    """Parts the rows in a way of its own."""

    def get_split_datasets(self, X, y=None, **fit_params):
        return super().get_split_datasets(X, y, **fit_params)


def in_folds(**params):
    return quick(**{"train_split": 3, "module__hidden_layer_sizes": (16,), **params})


def n_trained_on(net):
    return sum(net.history[0, "batches", :, "train_batch_size"])


class TestDrawFolds:
    @given(
        st.lists(st.integers(0, 3), min_size=12, max_size=60), st.integers(2, 6), st.integers(0, 9)
    )
    def test_folds_are_disjoint_of_one_size_and_stratified(self, y, n_folds, seed):
        y = np.array(y)
        folds = draw_folds(y, n_folds, seed)
        assert len(set(folds.ravel())) == folds.size
        counts = np.bincount(y)
        assert 0 <= counts[counts > 1].sum() - folds.size < n_folds
        of_folds = np.array([np.bincount(y[fold], minlength=len(counts)) for fold in folds])
        assert np.ptp(of_folds, axis=0).max() <= 1
        assert (of_folds[:, counts == 1] == 0).all()

    def test_another_seed_gives_other_folds(self):
        assert (draw_folds(Y, 5, seed=0) != draw_folds(Y, 5, seed=1)).any()


class TestScores:
    @pytest.mark.parametrize("weight", [None, WEIGHT])
    @pytest.mark.parametrize("module", [{}, {"module": TwoLayers}])
    def test_a_row_is_scored_by_a_net_that_did_not_see_it(self, weight, module):
        net = quick(train_split=3, early_stopping=False, calibration=Kept(), **module)
        kept = net.fit(X, Y, sample_weight=weight).calibrator_
        logits, y = map(np.concatenate, zip(*self.of_folds(net, weight), strict=True))
        assert_array_equal(kept.y_, y)
        assert_allclose(kept.logits_, logits, atol=1e-5)
        assert (kept.weight_ is None) == (weight is None)

    @staticmethod
    def of_folds(net, weight):
        """Train the nets of the folds one by one; give the logits and class indices of each."""
        table = check_rows(net, X, Y, weight, None, reset=True)
        net.prepare(table)
        with OwnRandomness(net.draw_seed()):
            folds = Folds.of(net, table.rows, 3)
        for seed, batches, fold in zip(folds.seeds, folds.batches, folds.held_out, strict=True):
            net.prepare(table)  # begins anew
            selections = Selection.of_batches(batches), Selection(table.rows, fold)
            member = Member(net.module_, net.criterion_, *selections, make_generator(seed))
            by_hand = net.trained_by_ == "by hand"
            size = batches.batch_size
            stack = InMemoryStack([member], net.optimizer_, size, 3, by_hand=by_hand)
            for _ in range(net.max_epochs):
                stack.run_epoch()
            yield stack.score().of(0)[:2]

    def test_they_are_recorded_as_those_of_held_out_rows_are(self):
        net = in_folds(calibration=Kept(), early_stopping=False).fit(X, Y)
        last = net.history[-1]
        kept = net.calibrator_
        assert last["valid_acc"] == np.mean(kept.logits_.argmax(1) == kept.y_)
        log_p = torch.from_numpy(kept.logits_).double().log_softmax(1).numpy()
        T = 0.9 * np.eye(3) + 0.1 / 3
        assert last["valid_loss"] == pytest.approx(-(T[kept.y_] * log_p).sum(1).mean(), rel=1e-5)
        assert {"refined_loss", "train_loss_best", "valid_loss_best"} <= last.keys()


class TestTheNetThatIsKept:
    @pytest.mark.parametrize("module", [{}, {"module": TwoLayers}])
    def test_is_that_of_a_training_on_all_rows(self, module):
        alone = quick(train_split=None, early_stopping=False, **module).fit(X, Y)
        net = quick(train_split=4, early_stopping=False, **module).fit(X, Y)
        assert n_trained_on(net) == N_ROWS
        assert net.history[:, "train_loss"] == alone.history[:, "train_loss"]
        assert_array_equal(net.logits(X), alone.logits(X))
        assert net.calibrator_ is not None
        assert alone.calibrator_ is None

    def test_has_the_parameters_of_the_best_epoch(self):
        net = in_folds(max_epochs=60, patience=3, lr=0.03).fit(X, Y)
        losses = net.history[:, "refined_loss"]
        assert net.best_epoch_ == np.argmin(losses) + 1 < len(losses)
        alone = in_folds(train_split=None, early_stopping=False, lr=0.03)
        alone.set_params(max_epochs=net.best_epoch_).fit(X, Y)
        assert_array_equal(net.logits(X), alone.logits(X))


class TestInSearches:
    GRID = {"label_smoothing": [0.0, 0.2], "batch_size": [32, 64]}  # noqa: RUF012

    @pytest.mark.parametrize("module", [{}, {"module": TwoLayers}])
    @pytest.mark.parametrize("max_members", [64, 7])
    def test_lockstep_gives_what_each_fit_gives_alone(self, module, max_members):
        net = quick(train_split="auto", **module)
        settings = {"cv": 3, "scoring": "neg_log_loss"}
        one_by_one = GridSearchCV(net, self.GRID, **settings).fit(X, Y)
        lockstep = BatchedGridSearchCV(net, self.GRID, max_members=max_members, **settings)
        lockstep.fit(X, Y)
        assert lockstep.alone_because_ == [None] * 4
        for name in ("split0_test_score", "split2_test_score", "mean_test_score"):
            expected = one_by_one.cv_results_[name]
            assert_allclose(lockstep.cv_results_[name], expected, rtol=1e-4)
        assert n_trained_on(lockstep.best_estimator_) == N_ROWS


class Listens(Callback):
    def on_epoch_end(self, net, **kwargs):
        pass


class TestAuto:
    @pytest.mark.parametrize(
        "params",
        [
            {},
            {"module": TwoLayers},
            {"early_stopping": False},
            {"calibration": None},
            {"batch_size": -1},
            {"class_weight": "balanced"},
            {"callbacks": [PrintLog(sink=lambda text: None), LiveTrainingDisplay()]},
        ],
    )
    def test_scores_in_folds(self, params):
        net = quick(train_split="auto", **params).fit(X, Y)
        assert n_trained_on(net) == N_ROWS
        assert "refined_loss" in net.history[-1]

    @pytest.mark.parametrize(
        "params",
        [
            {"callbacks": [Listens()]},
            {"callbacks": [LRScheduler("StepLR", step_size=1)]},
            {"warm_start": True},
            {"module": WithStatistics},
            {"module__hidden_layer_sizes": (400, 400)},
            {"early_stopping": False, "calibration": None},
            {"optimizer": torch.optim.LBFGS, "batch_size": -1},
        ],
    )
    def test_holds_out_a_fifth(self, params):
        net = quick(train_split="auto", **params).fit(X, Y)
        assert n_trained_on(net) == N_ROWS - N_ROWS // 5
        assert "refined_loss" in net.history[-1]

    def test_who_watches_changes_nothing(self, capsys):
        watched = quick(train_split="auto", callbacks=[ProgressBar()]).fit(X, Y)
        unwatched = quick(train_split="auto").fit(X, Y)
        assert watched.trained_by_ == "by skorch"
        assert_allclose(watched.predict_proba(X), unwatched.predict_proba(X), atol=1e-5)
        assert_allclose(watched.history[:, "valid_loss"], unwatched.history[:, "valid_loss"])

    def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(self, tmp_path):
        def train(max_epochs):
            checkpoint = Checkpoint(monitor=None, dirname=tmp_path, f_training="training.pt")
            callbacks = [checkpoint, LoadInitState(checkpoint)]
            params = {"max_epochs": max_epochs, "random_state": 0}
            return LabelSmoothingClassifier(callbacks=callbacks, **params).fit(X, Y)

        train(4)
        net, whole = train(9), LabelSmoothingClassifier(max_epochs=9, random_state=0).fit(X, Y)
        assert n_trained_on(net) == n_trained_on(whole) == N_ROWS
        assert net.history[:, "refined_loss"] == whole.history[:, "refined_loss"]
        assert_array_equal(net.predict_proba(X), whole.predict_proba(X))

    def test_who_begins_with_parameters_that_have_seen_the_rows_holds_some_out(self, tmp_path):
        checkpoint = Checkpoint(monitor=None, dirname=tmp_path)
        first = quick(train_split="auto", callbacks=[checkpoint]).fit(X, Y)
        assert n_trained_on(first) == N_ROWS
        net = quick(train_split="auto", callbacks=[LoadInitState(checkpoint)]).fit(X, Y)
        sizes = [sum(row) for row in net.history[:, "batches", :, "train_batch_size"]]
        assert sizes == [N_ROWS] * 3 + [N_ROWS - N_ROWS // 5] * 3

    def test_subclass_that_overrides_nothing_is_the_same(self):
        params = {"max_epochs": 2, "random_state": 0}
        own = Plain(**params).fit(X, Y)
        assert_array_equal(
            own.predict_proba(X), LabelSmoothingClassifier(**params).fit(X, Y).predict_proba(X)
        )
        assert n_trained_on(Splits(**params).fit(X, Y)) < N_ROWS

    def test_of_a_dataset_and_of_many_rows_a_fifth_is_held_out(self):
        dataset = Dataset(X.astype(np.float32), Y)
        assert n_trained_on(quick(train_split="auto").fit(dataset, None)) < N_ROWS
        many = quick(train_split="auto", max_epochs=1, batch_size=1000)
        rows = np.resize(X, (2_001, 10)) + np.random.default_rng(0).normal(0, 0.01, (2_001, 10))
        assert n_trained_on(many.fit(rows, np.resize(Y, 2_001))) == 1601

    def test_partial_fit_holds_out_one_row_in_as_many_as_there_are_folds(self):
        net = quick(train_split="auto").partial_fit(X, Y)
        assert n_trained_on(net) == N_ROWS - N_ROWS // 5
        net = quick(train_split=4).partial_fit(X, Y)
        assert n_trained_on(net) == N_ROWS - N_ROWS // 4

    def test_too_few_rows_for_folds_are_all_trained_on(self):
        with pytest.warns(UserWarning, match="Too few rows to hold any out by train_split='auto'"):
            net = quick(train_split="auto").fit(X[:9], Y[:9])
        assert net.calibrator_ is None

    @pytest.mark.parametrize("n_rows", [20, 30, 49])
    def test_folds_of_a_few_rows_keep_a_net_that_learns_nothing_from_certainty(self, n_rows):
        noise = np.random.default_rng(0).integers(0, 2, 2000)
        net = quick(train_split="auto", max_epochs=150).fit(X[:n_rows], noise[:n_rows])
        assert net.calibrator_ is not None
        assert log_loss(noise[n_rows : len(X)], net.predict_proba(X[n_rows:])) < 0.8

    def test_a_row_of_weight_two_is_the_row_twice_in_folds_of_a_few_rows(self):
        weight = np.arange(24) % 3 + 1
        rows = np.repeat(np.arange(24), weight)
        weighted = quick(train_split="auto").fit(X[:24], Y[:24], sample_weight=weight)
        repeated = quick(train_split="auto").fit(X[rows], Y[rows])
        assert weighted.calibrator_.temperature_ == repeated.calibrator_.temperature_
        assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6)

    @pytest.mark.filterwarnings("ignore:The number of unique classes is greater than 50%")
    @pytest.mark.parametrize("train_split", ["auto", 3])
    @pytest.mark.parametrize("n_alone", [N_ROWS, N_ROWS - 9])
    def test_rows_alone_in_their_class_are_in_no_fold(self, train_split, n_alone):
        y = np.arange(N_ROWS)
        y[n_alone:] = y[-1]
        net = quick(train_split=train_split)
        with pytest.warns(UserWarning, match="Too few rows to hold any out"):
            net.fit(X, y)
        assert net.predict_proba(X).shape == (N_ROWS, len(set(y)))
        search = BatchedGridSearchCV(net, {"lr": [0.01, 0.02]}, cv=KFold(2), refit=False)
        with pytest.warns(UserWarning, match="Too few rows to hold any out"):
            search.fit(X, y)


class TestAskedFor:
    @pytest.mark.parametrize(
        ("params", "reason"),
        [
            ({"callbacks": [Listens()]}, "a callback may change the net"),
            ({"warm_start": True}, "warm_start is set"),
            ({"module": WithStatistics}, "the module has buffers"),
            ({"optimizer": torch.optim.LBFGS, "batch_size": -1}, "may need a closure"),
        ],
    )
    def test_where_there_can_be_none_is_an_error_that_says_why(self, params, reason):
        with pytest.raises(ValueError, match=rf"train_split=4 .*{reason}.*train_split=0\.25"):
            quick(train_split=4, **params).fit(X, Y)

    def test_there_may_be_many_folds(self):
        net = quick(train_split=20, max_epochs=2, calibration=Kept()).fit(X[:150], Y[:150])
        assert n_trained_on(net) == 150
        assert len(net.calibrator_.y_) == 140  # all folds of one size

    def test_there_may_be_many_rows(self):
        net = quick(train_split=2, max_epochs=1, batch_size=1000)
        assert n_trained_on(net.fit(np.resize(X, (2_001, 10)), np.resize(Y, 2_001))) == 2_001

    @pytest.mark.parametrize("wrong", [1, 0, -3, "folds", 1.0, True])
    def test_what_is_no_number_of_folds_is_refused(self, wrong):
        with pytest.raises(ValueError, match="train_split"):
            quick(train_split=wrong).fit(X, Y)
