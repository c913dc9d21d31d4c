"""The classifiers in the hands of other tools, each a row of the table in docs/ecosystem.rst.

Tools that are not installed are skipped; the extra `ecosystem` installs all of them.
"""

import os
import signal
import warnings
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn
import torch
from helpers import needs_sklearn
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.calibration import CalibrationDisplay
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import DecisionBoundaryDisplay, PartialDependenceDisplay
from sklearn.model_selection import (
    FixedThresholdClassifier,
    HalvingGridSearchCV,
    LearningCurveDisplay,
    TunedThresholdClassifierCV,
    ValidationCurveDisplay,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    SimpleNet,
    make_tabular,
    trusted_types,
)

# What other packages warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def table():
    return make_tabular(300, random_state=0)


@pytest.fixture(scope="module")
def binary():
    X, y = make_tabular(300, random_state=0)
    return X[y < 2], y[y < 2]


@pytest.fixture(scope="module")
def net(table):
    return quick().fit(*table)


@pytest.fixture(autouse=True)
def closes_figures():
    yield
    plt.close("all")


def quick(**params):
    return LabelSmoothingClassifier(**{"max_epochs": 10, "random_state": 0, **params})


# -- scikit-learn's own --------------------------------------------------------------------------


@needs_sklearn("1.7", "probabilities of several classes in that display")
def test_decision_boundary_display(table):
    X, y = table
    net = quick().fit(X[:, :2], y)
    for method in ("predict", "predict_proba"):
        display = DecisionBoundaryDisplay.from_estimator(
            net, X[:, :2], response_method=method, grid_resolution=8
        )
        assert display.response.shape[:2] == (8, 8)


def test_calibration_display(binary):
    X, y = binary
    display = CalibrationDisplay.from_estimator(quick().fit(X, y), X, y, n_bins=5)
    assert display.prob_true.max() > 0.8


def test_partial_dependence_display(net, table):
    display = PartialDependenceDisplay.from_estimator(
        net, table[0], [0, (0, 1)], target=0, grid_resolution=5
    )
    assert display.pd_results[0]["average"].shape == (3, 5)  # of all classes
    assert display.lines_[0, 0].get_ydata().shape == (5,)


def test_learning_and_validation_curves(table):
    display = LearningCurveDisplay.from_estimator(quick(), *table, train_sizes=[0.5, 1.0], cv=2)
    assert (display.test_scores > 0.4).all()
    display = ValidationCurveDisplay.from_estimator(
        quick(), *table, param_name="label_smoothing", param_range=[0.0, 0.2], cv=2
    )
    assert (display.test_scores > 0.4).all()


def test_halving_over_epochs(table):
    search = HalvingGridSearchCV(
        quick(),
        {"label_smoothing": [0.0, 0.1, 0.3]},
        resource="max_epochs",
        min_resources=2,
        max_resources=6,
        cv=2,
        random_state=0,
    ).fit(*table)
    assert search.n_resources_ == [2, 6]
    assert search.best_estimator_.max_epochs == 6


@pytest.mark.parametrize("cost_of_a_miss", [1, 20])
def test_thresholds(binary, cost_of_a_miss):
    def gain(y_true, y_pred):
        missed = ((y_true == 1) & (y_pred == 0)).sum()
        return -cost_of_a_miss * missed - ((y_true == 0) & (y_pred == 1)).sum()

    X, y = binary
    scorer = sklearn.metrics.make_scorer(gain)
    tuned = TunedThresholdClassifierCV(quick(), scoring=scorer, cv=3, random_state=0).fit(X, y)
    net = quick().fit(X, y)
    assert gain(y, tuned.predict(X)) >= gain(y, net.predict(X)) - 10
    fixed = FixedThresholdClassifier(FrozenEstimator(net), threshold=0.1).fit(X, y)
    assert_array_equal(fixed.predict(X), net.predict_proba(X)[:, 1] >= 0.1)


def test_set_output_of_the_steps_before(table):
    pipe = make_pipeline(StandardScaler(), quick()).set_output(transform="pandas")
    pipe.fit(*table)
    assert list(pipe[-1].feature_names_in_) == [f"x{k}" for k in range(10)]
    assert_array_equal(
        pipe.predict_proba(table[0]),
        make_pipeline(StandardScaler(), quick()).fit(*table).predict_proba(table[0]),
    )


def test_torch_tensors(net, table):
    X, y = table
    tensors = torch.as_tensor(X), torch.as_tensor(y)
    assert_array_equal(quick().fit(*tensors).predict_proba(tensors[0]), net.predict_proba(X))


# -- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["polars", "pyarrow"])
def test_frames(net, table, kind):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip(kind)
    frame = pandas.DataFrame(table[0], columns=[f"f{k}" for k in range(10)])
    if kind == "polars":
        import polars

        frame = polars.DataFrame({name: frame[name].to_numpy() for name in frame})
    else:
        frame = frame.convert_dtypes(dtype_backend="pyarrow")
    fitted = quick().fit(frame, table[1])
    assert list(fitted.feature_names_in_) == [f"f{k}" for k in range(10)]
    assert_array_equal(fitted.predict_proba(frame), net.predict_proba(table[0]))


def test_skrub_takes_a_table_as_it_comes():
    skrub = pytest.importorskip("skrub")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "green", "blue"], 200)
    size = np.where(rng.random(200) < 0.1, np.nan, rng.normal(size=200))
    day = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(rng.integers(0, 900, 200), "D")
    frame = pandas.DataFrame({"colour": colour, "size": size, "day": day})
    for classifier in (
        quick(max_epochs=30),
        LabelSmoothingClassifierCV(quick(max_epochs=30), cv=3),
    ):
        pipe = skrub.tabular_pipeline(classifier).fit(frame, colour == "red")
        assert pipe.score(frame, colour == "red") > 0.95


# -- searching -----------------------------------------------------------------------------------


def make_tabm(n_features, n_classes):
    from tabm import TabM

    return TabM.make(n_num_features=n_features, d_out=n_classes, n_blocks=2, d_block=64, k=16)


def test_tabm(table):
    pytest.importorskip("tabm")
    X, y = table
    net = LabelSmoothingClassifier(
        make_tabm, calibration=None, max_epochs=20, lr=0.005, random_state=0
    ).fit(X, y)
    assert net.score(X, y) > 0.8
    with torch.no_grad():
        members = net.module_(torch.as_tensor(X).float()).double()
    np.testing.assert_allclose(net.predict_proba(X), members.softmax(-1).mean(1), atol=1e-6)


def test_optuna_prunes_by_the_epoch(table):
    optuna = pytest.importorskip("optuna")
    from skorch.callbacks import Callback

    class Prune(Callback):
        def __init__(self, trial):
            self.trial = trial

        def on_epoch_end(self, net, **kwargs):
            self.trial.report(net.history[-1, "refined_loss"], len(net.history))
            if self.trial.should_prune():
                raise optuna.TrialPruned

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        net = quick(lr=lr, callbacks=[Prune(trial)]).fit(*table)
        return min(net.history[:, "refined_loss"])

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.MedianPruner(2)
    )
    study.optimize(objective, n_trials=8)
    states = [trial.state for trial in study.trials]
    assert optuna.trial.TrialState.PRUNED in states
    assert optuna.trial.TrialState.COMPLETE in states
    assert optuna.trial.TrialState.FAIL not in states


def test_optuna_search_cv(table):
    optuna = pytest.importorskip("optuna")
    integration = pytest.importorskip("optuna_integration")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {"label_smoothing": optuna.distributions.FloatDistribution(0, 0.4)}
    search = integration.OptunaSearchCV(
        quick(max_epochs=3), space, n_trials=3, cv=2, random_state=0
    )
    assert 0 <= search.fit(*table).best_params_["label_smoothing"] <= 0.4


@pytest.fixture(scope="module")
def dask_client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_four_threads_of_a_dask_worker_fit_bit_for_bit_what_one_fits_alone(dask_client, table):
    X, y = table

    def probabilities(seed, module__dropout):
        params = {"random_state": seed, "module__dropout": module__dropout}
        return quick(**params).fit(X, y).predict_proba(X)

    settings = [(seed, dropout) for seed in range(6) for dropout in (0.0, 0.3)]
    alone = [probabilities(*setting) for setting in settings]
    before = torch.get_rng_state()
    futures = [dask_client.submit(probabilities, *setting, pure=False) for setting in settings]
    for there, here in zip(dask_client.gather(futures), alone, strict=True):
        assert_array_equal(there, here)
    assert torch.equal(torch.get_rng_state(), before)


def test_dask_through_joblib(dask_client, table):
    here = cross_val_score(quick(), *table, cv=3)
    with parallel_config("dask"):
        assert_array_equal(cross_val_score(quick(), *table, cv=3, n_jobs=3), here)


@pytest.fixture(scope="module")
def ray_workers():
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    importing_this = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=importing_this)
    register_ray()
    yield
    ray.shutdown()


def process_id(estimator, X, y):
    return os.getpid()


@pytest.mark.usefixtures("ray_workers")
def test_ray_through_joblib(table):
    scoring = {"accuracy": "accuracy", "process": process_id}
    here = cross_validate(quick(), *table, cv=4, scoring=scoring)
    with parallel_config("ray", n_jobs=2):
        there = cross_validate(quick(), *table, cv=4, scoring=scoring)
    assert_array_equal(there["test_accuracy"], here["test_accuracy"])
    assert os.getpid() not in there["test_process"]


class KilledOnce(SimpleNet):
    """Kills the first worker that trains it for so many steps, as if it had no memory left."""

    def __init__(self, n_features, n_classes, parent, flag):
        super().__init__(n_features, n_classes)
        self.parent, self.flag, self.n_steps = parent, Path(flag), 0

    def forward(self, X):
        self.n_steps += self.training
        if self.n_steps == 7 and os.getpid() != self.parent and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(X)


@pytest.mark.usefixtures("ray_workers")
@pytest.mark.parametrize("is_killed", [False, True])
def test_ray_searches_as_one_does_alone_and_goes_on_without_a_worker(table, tmp_path, is_killed):
    flag = tmp_path / "killed"
    net = quick()
    if is_killed:
        net.set_params(module=KilledOnce, module__parent=os.getpid(), module__flag=str(flag))
    grid = {"label_smoothing": [0.0, 0.2], "lr": [0.01, 0.02]}
    alone = BatchedGridSearchCV(net, grid, cv=3).fit(*table)
    again = {"max_restarts": 3, "max_task_retries": 3}
    with parallel_config("ray", n_jobs=2, ray_remote_args=again):
        spread = BatchedGridSearchCV(net, grid, cv=3, verbose=1).fit(*table)
    assert flag.exists() == is_killed
    for name in ("mean_test_score", "std_test_score", "rank_test_score"):
        assert_array_equal(spread.cv_results_[name], alone.cv_results_[name])


@pytest.mark.usefixtures("ray_workers")
def test_a_search_sends_the_rows_of_a_fold_to_ray_once(table, monkeypatch):
    ray = pytest.importorskip("ray")
    put, sent = ray.put, []
    monkeypatch.setattr(ray, "put", lambda rows: sent.append(np.shape(rows)) or put(rows))
    X, y = table
    with parallel_config("ray", n_jobs=2):
        search = BatchedGridSearchCV(quick(max_epochs=2), {"lr": [0.01, 0.02, 0.03]}, cv=2)
        search.fit(X, y)
    assert sorted(sent) == sorted(2 * [(len(X) // 2, X.shape[1]), (len(X) // 2,)])


# -- rows and classes that are rare --------------------------------------------------------------


def test_imbalanced_learn(table):
    pytest.importorskip("imblearn")
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import make_pipeline as make_resampling_pipeline

    X, y = table
    kept = (y > 0) | (np.arange(len(y)) % 5 == 0)
    pipe = make_resampling_pipeline(SMOTE(random_state=0), quick()).fit(X[kept], y[kept])
    assert_allclose(pipe[-1].class_prior_, np.full(3, 1 / 3))


def test_fairlearn(binary):
    pytest.importorskip("fairlearn")
    from fairlearn.metrics import MetricFrame
    from fairlearn.postprocessing import ThresholdOptimizer

    X, y = binary
    group = X[:, 3] > 0
    net = quick().fit(X, y)
    frame = MetricFrame(
        metrics=sklearn.metrics.accuracy_score,
        y_true=y,
        y_pred=net.predict(X),
        sensitive_features=group,
    )
    assert len(frame.by_group) == 2
    fair = ThresholdOptimizer(estimator=net, prefit=True, predict_method="predict_proba")
    fair.fit(X, y, sensitive_features=group)
    predicted = fair.predict(X, sensitive_features=group, random_state=0)
    assert abs(predicted[group].mean() - predicted[~group].mean()) < 0.15


# -- what the probabilities are good for ---------------------------------------------------------


def test_mapie_covers_what_it_promises():
    pytest.importorskip("mapie")
    from mapie.classification import SplitConformalClassifier

    X, y = make_tabular(900, random_state=0)
    net = quick().fit(X[:300], y[:300])
    conformal = SplitConformalClassifier(net, confidence_level=0.9, prefit=True)
    conformal.conformalize(X[300:600], y[300:600])
    _, sets = conformal.predict_set(X[600:])
    covered = sets[np.arange(300), y[600:], 0]
    assert 0.84 < covered.mean() < 0.97


def test_venn_abers_calibrates(binary):
    venn_abers = pytest.importorskip("venn_abers")
    X, y = binary
    net = quick(calibration=None, train_split=None).fit(X[:100], y[:100])
    venn = venn_abers.VennAbers()
    venn.fit(net.predict_proba(X[100:]), y[100:])
    proba, _ = venn.predict_proba(net.predict_proba(X[100:]))
    assert_allclose(proba.sum(axis=1), 1)
    assert sklearn.metrics.log_loss(y[100:], proba) < 0.5


# -- explaining and reporting --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Permutation", "Kernel"])
def test_shap_values_add_up(net, table, kind):
    shap = pytest.importorskip("shap")
    X = table[0]
    if kind == "Permutation":
        explainer = shap.explainers.Permutation(net.predict_proba, X[:5], seed=0)
        values = explainer(X[:3], max_evals=21, silent=True)
        total = values.values.sum(axis=1) + values.base_values
    else:
        explainer = shap.KernelExplainer(net.predict_proba, X[:20])
        values = explainer.shap_values(X[:3], nsamples=100, silent=True)
        total = values.sum(axis=1) + explainer.expected_value
    assert_allclose(total, net.predict_proba(X[:3]), atol=1e-3)


@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
def test_shap_explains_the_module(net, table, kind):
    shap = pytest.importorskip("shap")
    rows = torch.as_tensor(table[0], dtype=torch.float32)
    module = net.module_.eval()
    values = getattr(shap, kind)(module, rows[:50]).shap_values(rows[:3])
    assert np.shape(values) == (3, 10, 3)
    if kind == "DeepExplainer":
        with torch.no_grad():
            logits = module(rows)
        assert_allclose(values.sum(axis=1), logits[:3] - logits[:50].mean(dim=0), atol=1e-3)


def test_dalex(binary):
    dalex = pytest.importorskip("dalex")
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(binary[0], columns=[f"f{k}" for k in range(10)])
    explainer = dalex.Explainer(quick().fit(X, binary[1]), X, binary[1], verbose=False)
    assert explainer.model_type == "classification"
    assert explainer.model_performance().result["accuracy"].iloc[0] > 0.8


def test_skore_reports(table):
    skore = pytest.importorskip("skore")
    X, y = table
    report = skore.EstimatorReport(
        quick(), X_train=X[:200], y_train=y[:200], X_test=X[200:], y_test=y[200:]
    )
    assert report.metrics.accuracy() > 0.5
    assert report.metrics.log_loss() < 1.1


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    mlflow = pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("tests", artifact_location=folder.as_uri())
    mlflow.set_experiment("tests")
    return mlflow


REQUIREMENTS = ["sksmooth", "torch", "skorch", "scikit-learn"]  # to find them out takes seconds


@pytest.mark.parametrize(
    ("estimator", "also"),
    [
        (quick(), []),
        (LabelSmoothingClassifierCV(quick(), cv=3), []),
        (make_pipeline(StandardScaler(), quick()), []),
        (
            BatchedGridSearchCV(quick(), {"lr": [0.01, 0.1]}, cv=2),
            ["sklearn.metrics._scorer._PassthroughScorer"],
        ),
    ],
)
def test_mlflow_keeps_the_probabilities(mlflow, table, tmp_path, estimator, also):
    estimator.fit(*table)
    for settings in (
        {"skops_trusted_types": [*trusted_types(), *also]},
        {"serialization_format": "cloudpickle"},
    ):
        folder = str(tmp_path / next(iter(settings)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.sklearn.save_model(estimator, folder, pip_requirements=REQUIREMENTS, **settings)
            loaded = mlflow.sklearn.load_model(folder)
        assert_array_equal(loaded.predict_proba(table[0]), estimator.predict_proba(table[0]))


def test_mlflow_logs_what_to_install(mlflow, net, table):
    pins = [f"{name}=={version(name)}" for name in ("torch", "skorch")]
    with mlflow.start_run():
        model = mlflow.sklearn.log_model(
            net,
            name="net",
            skops_trusted_types=trusted_types(),
            extra_pip_requirements=pins,
            pyfunc_predict_fn="predict_proba",
        )
    folder = Path(mlflow.artifacts.download_artifacts(model.model_uri))
    assert {f"sksmooth=={version('sksmooth')}", *pins} <= set(
        (folder / "requirements.txt").read_text().splitlines()
    )
    served = mlflow.pyfunc.load_model(model.model_uri)
    assert_array_equal(served.predict(table[0]), net.predict_proba(table[0]))


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (make_pipeline(quick()), "labelsmoothingclassifier__max_epochs"),
        (BatchedGridSearchCV(quick(), {"lr": [0.01, 0.1]}, cv=2), "best_lr"),
    ],
)
def test_mlflow_logs_pipelines_and_searches_by_itself(mlflow, table, estimator, name):
    mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
    try:
        with mlflow.start_run() as run:
            estimator.fit(*table)
    finally:
        mlflow.sklearn.autolog(disable=True, silent=True)
    logged = mlflow.get_run(run.info.run_id).data
    assert name in logged.params
    assert logged.metrics["training_accuracy_score"] == estimator.score(*table)


def test_mlflow_logs_the_epochs_and_parameters(mlflow, table):
    from skorch.callbacks import MlflowLogger

    logger = MlflowLogger(terminate_after_train=False, create_artifact=False)
    with mlflow.start_run() as run:
        net = quick(callbacks=[logger]).fit(*table)
        mlflow.log_params(net.get_params(deep=False))
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    logged = [metric.value for metric in client.get_metric_history(run_id, "refined_loss")]
    assert logged == net.history[:, "refined_loss"]
    assert client.get_run(run_id).data.params["label_smoothing"] == "0.1"
