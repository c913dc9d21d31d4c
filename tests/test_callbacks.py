"""scikit-learn's callbacks: what they are told, what they may do, and that nothing else changes."""

import copy
import pickle
import re

import numpy as np
import pytest
from helpers import Listener, WithDropout, assert_same_module, make_cv, quick, short
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sksmooth import BatchedGridSearchCV, LabelSmoothingClassifier, SimpleNet, make_tabular
from sksmooth.engine.plan import ROWS_TO_TRY

callback = pytest.importorskip("sklearn.callback")

X, Y = make_tabular(n_samples=180, random_state=0)
NET = LabelSmoothingClassifier(
    train_split=0.2,
    max_epochs=6,
    patience=2,
    lr=0.03,
    batch_size=32,
    module__hidden_layer_sizes=(8,),
    module__dropout=0.0,
    random_state=0,
)
GRID = {"label_smoothing": [0.0, 0.1], "lr": [0.01, 0.03]}
SINGLE = {
    "by hand": NET,
    "by skorch": clone(NET).set_params(callbacks=[Listener()]),
    "no early stopping": clone(NET).set_params(early_stopping=False),
    "no rows held out": clone(NET).set_params(train_split=None),
    "uncalibrated": clone(NET).set_params(calibration=None),
}
SINGLE["by autograd"] = LabelSmoothingClassifier(
    WithDropout, max_epochs=6, patience=2, lr=0.03, batch_size=32, random_state=0
)
CROSS_VALIDATED = {
    "lockstep": make_cv(short(max_epochs=4)),
    "one by one": make_cv(short(max_epochs=4, callbacks=[Listener()]), label_smoothings=(0.1,)),
    "one net": make_cv(short(max_epochs=4), ensemble=False),
    "scored": make_cv(short(max_epochs=4), scoring="accuracy"),
}
ALL = {**SINGLE, **CROSS_VALIDATED}


def path_of(context):
    """Give the tasks from the outermost one to this, each by its name and number."""
    above = () if context.parent is None else path_of(context.parent)
    return (*above, (context.task_name, context.task_id))


class Watch:
    """Keeps what it is told, and the estimators as if fitted; may stop a fit."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events = []
        self.fitted = {}

    def setup(self, estimator, context):
        self.events.append(("setup", path_of(context)))

    def teardown(self, estimator, context):
        self.events.append(("teardown", path_of(context)))

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", path_of(context)))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.events.append(("end", path_of(context)))
        self.fitted[path_of(context)] = fitted_estimator
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after

    @property
    def epochs(self):
        """The estimators as if fitted until each epoch of the only fit."""
        return [own for path, own in self.fitted.items() if path[-1][0] == "epoch"]


class Spread(Watch):
    """A Watch that a search or a pipeline propagates to what it fits."""

    max_propagation_depth = None


class Fails(Watch):
    """Raises in a hook, from a task on."""

    def __init__(self, hook, task=None, error=RuntimeError):
        super().__init__()
        self.hook, self.task, self.error = hook, task, error

    def _fail(self, hook, context):
        if hook == self.hook and self.task in (None, path_of(context)[-1]):
            raise self.error("on purpose")

    def setup(self, estimator, context):
        self._fail("setup", context)

    def teardown(self, estimator, context):
        self._fail("teardown", context)

    def on_fit_task_begin(self, estimator, context):
        self._fail("begin", context)

    def on_fit_task_end(self, estimator, context):
        self._fail("end", context)


def with_epochs(estimator, n):
    """Give an unfitted copy that is trained for n epochs at most, and has no callbacks."""
    fewer = clone(estimator).set_callbacks()
    name = "max_epochs" if isinstance(estimator, LabelSmoothingClassifier) else None
    return fewer.set_params(**{name or "estimator__max_epochs": n})


def assert_same_predictions(one, other):
    assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    assert one.best_epoch_ == other.best_epoch_


# -- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ALL.values(), ids=ALL)
def test_each_epoch_gives_the_estimator_as_if_training_had_ended_there(estimator):
    watch = Watch()
    whole = clone(estimator).set_callbacks(watch).fit(X, Y)
    unwatched = clone(estimator).fit(X, Y)
    assert_same_predictions(whole, unwatched)
    assert whole.history[:, "train_loss"] == unwatched.history[:, "train_loss"]
    assert not {"_callback_fit_ctx", "_skl_callbacks_to_teardown"} & set(vars(whole))
    for n, fitted in enumerate(watch.epochs, 1):  # looked at after the end: nothing was overwritten
        assert_same_predictions(fitted, with_epochs(estimator, n).fit(X, Y))
        assert_array_equal(
            fitted.predict(X[:3]), fitted.classes_[fitted.predict_proba(X[:3]).argmax(1)]
        )
    assert_same_predictions(watch.fitted[("fit", 0),], whole)


@pytest.mark.parametrize("estimator", ALL.values(), ids=ALL)
def test_a_callback_ends_the_training(estimator):
    stopped = clone(estimator).set_callbacks(Watch(stop_after=2)).fit(X, Y)
    assert_same_predictions(stopped, with_epochs(estimator, 2).fit(X, Y))
    assert len(stopped.history) == 2


def test_an_interrupt_in_a_callback_is_one_of_the_training():
    fails = Fails("end", ("epoch", 2), KeyboardInterrupt)
    assert_same_predictions(
        clone(NET).set_callbacks(fails).fit(X, Y), with_epochs(NET, 3).fit(X, Y)
    )


def test_warm_starts_and_partial_fits_are_watched():
    watch = Watch()
    net = clone(NET).set_params(warm_start=True, max_epochs=2).fit(X, Y).set_callbacks(watch)
    net.fit(X, Y)
    assert [own.best_epoch_ for own in watch.epochs] == [3, 4]
    watch = Watch()
    net = clone(NET).set_callbacks(watch).partial_fit(X, Y, epochs=2).partial_fit(X, Y)
    assert sum(kind == "setup" for kind, _ in watch.events) == 2
    assert_same_predictions(clone(NET).partial_fit(X, Y, epochs=2).partial_fit(X, Y), net)
    assert_array_equal(watch.fitted[("fit", 0),].predict_proba(X), net.predict_proba(X))


def test_weights_are_told():
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    weight = np.random.default_rng(0).uniform(size=len(X))
    net = clone(NET).set_callbacks(monitor).fit(X, Y, sample_weight=weight)
    last = monitor.get_logs().data[0]
    loss = -(weight * np.log(net.predict_proba(X)[np.arange(len(X)), Y])).sum() / weight.sum()
    assert last["task_name"] == "fit"
    assert last["neg_log_loss"] == pytest.approx(-loss)


def test_a_net_begun_on_too_few_rows_is_uncalibrated_without_a_warning():
    watch = Watch()
    clone(SINGLE["no rows held out"]).set_callbacks(watch).fit(X, Y)
    assert watch.epochs[0].calibrator_ is None


def test_a_module_that_cannot_be_pickled_is_watched():
    class Local(SimpleNet):
        pass

    watch = Watch()
    net = clone(NET).set_params(module=Local).set_callbacks(watch).fit(X, Y)
    assert_array_equal(watch.epochs[-1].predict_proba(X), net.predict_proba(X))


# -- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [NET, *CROSS_VALIDATED.values()])
def test_epochs_are_the_tasks_of_a_fit(estimator):
    watch = Watch()
    fitted = with_epochs(estimator, 2).set_callbacks(watch).fit(X, Y)
    assert len(fitted.history) == 2
    fit = ("fit", 0)
    assert watch.events == [
        ("setup", (fit,)),
        ("begin", (fit,)),
        ("begin", (fit, ("epoch", 0))),
        ("end", (fit, ("epoch", 0))),
        ("begin", (fit, ("epoch", 1))),
        ("end", (fit, ("epoch", 1))),
        ("end", (fit,)),
        ("teardown", (fit,)),
    ]


def search_with(kind, callback, estimator=NET, **params):
    search = kind(clone(estimator), GRID, cv=2, scoring="neg_log_loss", **params)
    return search.set_callbacks(callback).fit(X, Y)


def test_a_search_in_lockstep_tells_what_grid_search_tells():
    ours, theirs = Spread(), Spread()
    search = search_with(BatchedGridSearchCV, ours)
    assert search.alone_because_ == [None] * 4
    search_with(GridSearchCV, theirs)
    assert sorted(ours.events) == sorted(theirs.events)
    unwatched = BatchedGridSearchCV(clone(NET), GRID, cv=2, scoring="neg_log_loss").fit(X, Y)
    for name in ("split0_test_score", "split1_test_score"):
        assert_array_equal(search.cv_results_[name], unwatched.cv_results_[name])
    assert_same_predictions(search.best_estimator_, unwatched.best_estimator_)
    for path, expected in theirs.fitted.items():
        if path[-1][0] == "epoch":
            fitted = ours.fitted[path]
            assert fitted.best_epoch_ == expected.best_epoch_
            assert_allclose(fitted.predict_proba(X), expected.predict_proba(X), atol=1e-5)


def test_scores_of_the_epochs_of_a_search_in_two_processes():
    logs = []
    for kind, n_jobs in ((BatchedGridSearchCV, 2), (GridSearchCV, None)):
        monitor = callback.ScoringMonitor(scoring="neg_log_loss")
        kind(clone(NET).set_callbacks(monitor), GRID, cv=2, n_jobs=n_jobs).fit(X, Y)
        logs.append(monitor.get_logs().data)
    ours, theirs = logs
    assert [own["task_id_path"] for own in ours] == [own["task_id_path"] for own in theirs]
    assert_allclose(*([own["neg_log_loss"] for own in log] for log in logs), rtol=1e-4)
    assert {own["task_name"] for own in ours} == {"fit", "epoch"}


def test_a_callback_finds_the_users_arguments_in_a_search():
    class Looks(Watch):
        def on_fit_task_begin(self, estimator, context):
            if context.task_name == "candidate-split-evaluation":
                assert type(estimator.estimator) is LabelSmoothingClassifier
                assert estimator.cv == 2
                super().on_fit_task_begin(estimator, context)

    watch = Looks()
    search = search_with(BatchedGridSearchCV, watch, error_score="raise")
    assert sum(kind == "begin" for kind, _ in watch.events) == 8
    assert not [name for name in vars(search) if "callback" in name and name != "_skl_callbacks"]


# -- searches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"train_split": None}, {"early_stopping": False}])
def test_a_callback_ends_some_fits_of_a_search(params):
    class Stop(Spread):
        """Stops the first candidate on both folds after two epochs."""

        def on_fit_task_end(self, estimator, context):
            path = path_of(context)
            return path[:2] == (("fit", 0), ("search", 0)) and path[2:] in [
                (("fit", fold), ("epoch", 1)) for fold in range(2)
            ]

    net = clone(NET).set_params(**params)
    grid = {"label_smoothing": [0.0, 0.1]}
    common = {"cv": 2, "scoring": "neg_log_loss", "refit": False}
    search = BatchedGridSearchCV(net, grid, **common).set_callbacks(Stop()).fit(X, Y)
    assert search.alone_because_ == [None] * 2
    for candidate, n in enumerate((2, net.max_epochs)):
        ended = clone(net).set_params(max_epochs=n)
        expected = BatchedGridSearchCV(ended, grid, **common).fit(X, Y)
        for name in ("split0_test_score", "split1_test_score"):
            assert search.cv_results_[name][candidate] == expected.cv_results_[name][candidate]


@pytest.mark.parametrize(
    ("hook", "task"),
    [("begin", ("fit", 1)), ("begin", ("epoch", 1)), ("end", ("epoch", 1)), ("end", ("fit", 1))],
)
def test_a_callback_that_raises_fails_its_fits_only(hook, task):
    class FailsInFirst(Fails):
        max_propagation_depth = None

        def _fail(self, hook, context):
            path = path_of(context)
            if len(path) > 2 and path[1] == ("search", 0) and path[2] == ("fit", 1):
                super()._fail(hook, context)

    with (
        pytest.warns(FitFailedWarning, match="1 fits failed out of a total of 8"),
        pytest.warns(UserWarning, match="scores are non-finite"),
    ):
        search = search_with(BatchedGridSearchCV, FailsInFirst(hook, task))
    assert search.alone_because_ == [None] * 4
    unwatched = BatchedGridSearchCV(clone(NET), GRID, cv=2, scoring="neg_log_loss").fit(X, Y)
    expected = unwatched.cv_results_["split1_test_score"].copy()
    expected[0] = np.nan
    assert_array_equal(search.cv_results_["split1_test_score"], expected)
    name = "split0_test_score"
    assert_array_equal(search.cv_results_[name], unwatched.cv_results_[name])


@pytest.mark.parametrize("kind", [BatchedGridSearchCV, GridSearchCV])
@pytest.mark.parametrize("estimator", [NET, SINGLE["by skorch"]])
def test_what_a_callback_raises_after_a_fit_of_a_search_is_raised(kind, estimator, record_property):
    record_property("injected", int(kind is BatchedGridSearchCV))

    class FailsInCandidates(Fails):
        def _fail(self, hook, context):
            if context.task_name == "candidate-split-evaluation":
                super()._fail(hook, context)

    with pytest.raises(RuntimeError, match="on purpose"):
        search_with(kind, FailsInCandidates("end"), estimator)


def test_what_spreads_is_set_on_the_search_and_not_on_the_net():
    search = BatchedGridSearchCV(clone(NET).set_callbacks(Spread()), GRID, cv=2)
    with pytest.raises(ValueError, match="Register them directly on the meta-estimator"):
        search.fit(X, Y)


def test_nets_that_cannot_train_in_lockstep_are_watched_alone():
    watch = Spread()
    search = search_with(BatchedGridSearchCV, watch, SINGLE["by skorch"])
    assert search.alone_because_ == ["callbacks are set"] * 4
    evaluated = [own for own in watch.fitted if len(own) == 4]
    assert {path[2] for path in evaluated} == {("fit", number) for number in range(8)}


class FailsOnce(nn.Module):
    """Raises in its eighth forward pass in training, the first time that there is one."""

    n_passes = 0

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(n_features, n_classes)

    def forward(self, x):
        in_training = self.training and len(x) > ROWS_TO_TRY  # else it is only tried
        FailsOnce.n_passes += in_training
        if in_training and self.n_passes == 8:
            raise RuntimeError("out of memory")
        return self.layer(x)


def test_a_stack_that_fails_lets_go_of_its_callbacks():
    watch = Watch()
    net = clone(SINGLE["by autograd"]).set_params(module=FailsOnce).set_callbacks(watch)
    search = BatchedGridSearchCV(net, {"label_smoothing": [0.0, 0.1]}, cv=2, refit=False)
    search.fit(X, Y)
    assert search.alone_because_ == ["training in a stack failed: out of memory"] * 2
    kinds = [kind for kind, _ in watch.events]
    assert kinds.count("setup") == kinds.count("teardown") == 2 * 4
    assert sum(path[-1] == ("epoch", 5) for path in watch.fitted) > 0


def test_pipelines_train_in_lockstep_unless_other_steps_are_watched():
    pipeline = make_pipeline(StandardScaler(), clone(NET))
    grid = {"labelsmoothingclassifier__label_smoothing": [0.0, 0.1]}
    watch = Spread()
    search = BatchedGridSearchCV(pipeline, grid, cv=2).set_callbacks(watch).fit(X, Y)
    assert search.alone_because_ == [None] * 2
    assert (("fit", 0), ("search", 0), ("fit", 3), ("epoch", 0)) in watch.fitted
    watched = clone(pipeline).set_callbacks(Watch())
    search = BatchedGridSearchCV(watched, grid, cv=2).fit(X, Y)
    assert (
        search.alone_because_
        == ["callbacks are set on the pipeline, or on steps before the net"] * 2
    )


# -- what a callback raises ---------------------------------------------------------------------

PLACES = [
    ("setup", None),
    ("teardown", None),
    ("begin", ("fit", 0)),
    ("begin", ("epoch", 0)),
    ("begin", ("epoch", 1)),
    ("end", ("epoch", 1)),
    ("end", ("fit", 0)),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("estimator", [NET, CROSS_VALIDATED["lockstep"]])
def test_nothing_half_fitted_is_left(estimator, place):
    estimator = with_epochs(estimator, 2).set_callbacks(Fails(*place))
    before = dict(vars(estimator))
    with pytest.raises(RuntimeError, match="on purpose"):
        estimator.fit(X, Y)
    assert vars(estimator) == before
    estimator.set_callbacks().fit(X, Y)
    proba = estimator.predict_proba(X)
    estimator.set_callbacks(Fails(*place))
    with pytest.raises(RuntimeError, match="on purpose"):
        estimator.fit(X[:, :3], Y)
    assert_array_equal(estimator.predict_proba(X), proba)


def test_a_search_is_left_as_it_was():
    search = BatchedGridSearchCV(clone(NET), GRID, cv=2).set_callbacks(Fails("teardown"))
    before = dict(vars(search))
    with pytest.raises(RuntimeError, match="on purpose"):
        search.fit(X, Y)
    assert vars(search) == before


# -- copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [NET, CROSS_VALIDATED["lockstep"]])
@pytest.mark.parametrize("is_fitted", [False, True])
def test_copies_keep_their_callbacks(estimator, is_fitted):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    estimator = clone(estimator).set_callbacks(monitor)
    if is_fitted:
        estimator.fit(X, Y)
    assert clone(estimator)._skl_callbacks == [monitor]
    assert copy.copy(estimator)._skl_callbacks == [monitor]
    for make in (copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))):
        twin = make(estimator)
        assert type(twin._skl_callbacks[0]) is callback.ScoringMonitor
        if is_fitted:
            assert_same_predictions(twin, estimator)
        twin.fit(X, Y)
        n_runs = 1 + is_fitted
        assert len(twin._skl_callbacks[0].get_logs(select="all")) == n_runs


def test_a_shallow_copy_has_parts_of_its_own():
    net = clone(NET).fit(X, Y)
    proba = net.predict_proba(X)
    twin = copy.copy(net)
    assert_same_module(twin, net, rtol=0, atol=0)
    twin.partial_fit(X, Y)
    assert_array_equal(net.predict_proba(X), proba)
    assert "module_" not in vars(copy.copy(clone(NET)))


def test_another_module_leaves_the_net_its_callbacks():
    net = quick().set_callbacks(Watch()).fit(X, Y)
    net.set_params(module=WithDropout)
    assert not hasattr(net, "module_")
    assert len(net._skl_callbacks) == 1


def test_callbacks_on_the_estimator_of_a_cross_validation_are_refused():
    model = make_cv(short().set_callbacks(Watch()))
    with pytest.raises(TypeError, match="call set_callbacks of LabelSmoothingClassifierCV"):
        model.fit(X, Y)


# -- progress bars ------------------------------------------------------------------------------


@pytest.fixture
def bars(capsys, monkeypatch):
    """Fit an estimator with progress bars; give what they come to, by their names."""
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")

    def fit(estimator, depth=None):
        estimator.set_callbacks(callback.ProgressBar(max_propagation_depth=depth)).fit(X, Y)
        lines = capsys.readouterr().out.splitlines()
        found = [re.match(r"(\s*.*?)\s*[━╸╺]+\s+(\d+)%", line) for line in lines]
        return {own[1]: int(own[2]) for own in found if own}

    return fit


def test_bar_of_a_cross_validation(bars):
    assert bars(clone(CROSS_VALIDATED["lockstep"])) == {"LabelSmoothingClassifierCV - fit": 100}


def test_bars_of_a_pipeline(bars):
    assert bars(make_pipeline(StandardScaler(), clone(NET))) == {
        "Pipeline - fit": 100,
        "  Pipeline - fit-transform-standardscaler | StandardScaler - fit #0": 100,
        "  Pipeline - fit-final-estimator | LabelSmoothingClassifier - fit #1": 100,
    }


def test_bars_of_a_search(bars):
    name = "BatchedGridSearchCV"
    net = "LabelSmoothingClassifier - fit"
    search = BatchedGridSearchCV(clone(NET), {"label_smoothing": [0.0, 0.1]}, cv=2)
    assert bars(search, depth=1) == {
        f"{name} - fit": 100,
        f"  {name} - search #0": 100,
        **{f"    {name} - candidate-split-evaluation | {net} #{k}": 100 for k in range(4)},
        f"  {name} - refit-with-best-params | {net} #1": 100,
    }
