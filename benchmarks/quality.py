"""Quality of the probabilities of sksmooth, side by side with those of other classifiers.

Every contestant comes from its own package, with the defaults that its documentation recommends,
behind one and the same preprocessing (but those named "by skrub" and "raw"), and gets the same
rows: 70 % of each data set for training, the rest for testing, in several random splits; then once
more with 20 % of the training labels flipped to another class at random. All run in one thread.

A data set is one of scikit-learn's four or any CSV file of a folder, with the class in its column
`target`. What is measured is written to a file line by line, and a run that was cut off goes on
from there. Ranks are taken among all contestants on a split and averaged. The paired tests are
Wilcoxon's signed-rank test over data sets (Demšar 2006), each the mean of its splits.

Run it as ``python benchmarks/quality.py [--data FOLDER] [--splits N] [--n-jobs N]``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.stats import wilcoxon
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, OneHotEncoder, StandardScaler
from skorch import NeuralNetClassifier
from skrub import tabular_pipeline
from threadpoolctl import threadpool_limits

from sksmooth import (
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    SimpleNet,
    area_under_risk_coverage,
    classwise_calibration_error,
    expected_calibration_error,
    risk_coverage_curve,
)
from sksmooth.classifier_cv import RECIPE

TEST_SHARE, FLIPPED_SHARE, MOST_TRAINING_ROWS = 0.3, 0.2, 6000
METRICS = ["accuracy", "log_loss", "brier", "ece", "classwise_ece", "aurc"]
OWN_METRICS = ["aurc_of_confidence"]  # of those contestants only that have a method `confidence`
HIGHER_IS_BETTER = {"accuracy"}
OURS = "LabelSmoothingClassifierCV"


# -- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A data set; labels are 0 ... K-1."""

    name: str
    X: pd.DataFrame
    y: np.ndarray


def load_tables(folder: Path | None) -> Iterator[Table]:
    """Give the tables of a folder, if any, and scikit-learn's."""
    paths = [] if folder is None else sorted(folder.glob("*.csv*"))
    for path in paths:
        frame = pd.read_csv(path)
        y = LabelEncoder().fit_transform(frame.pop("target"))
        frame = frame.astype(dict.fromkeys(frame.select_dtypes("bool"), int))
        yield Table(path.name.split(".")[0], frame, y)
    for load in (load_digits, load_wine, load_breast_cancer, load_iris):
        bunch = load(as_frame=True)
        yield Table(load.__name__.removeprefix("load_"), bunch.data, bunch.target.to_numpy())


@dataclass(frozen=True)
class Split:
    """Rows to train on, as they are or with flipped labels, and rows to test with."""

    X_train: pd.DataFrame
    X_test: pd.DataFrame
    y_train: np.ndarray
    y_test: np.ndarray

    @classmethod
    def of(cls, table: Table, number: int, flipped: bool) -> Split:
        """Draw the split of that number."""
        parts = train_test_split(
            table.X, table.y, test_size=TEST_SHARE, stratify=table.y, random_state=number
        )
        X_train, X_test, y_train, y_test = parts
        rng = np.random.default_rng(number)
        if len(y_train) > MOST_TRAINING_ROWS:
            chosen = rng.permutation(len(y_train))[:MOST_TRAINING_ROWS]
            X_train, y_train = X_train.iloc[chosen], y_train[chosen]
        if flipped:
            y_train = flip(y_train, rng)
        return cls(X_train, X_test, y_train, y_test)


def flip(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn a share of the labels into another class, any with equal chance."""
    n_classes = y.max() + 1
    chosen = rng.permutation(len(y))[: round(FLIPPED_SHARE * len(y))]
    y = y.copy()
    y[chosen] = (y[chosen] + rng.integers(1, n_classes, len(chosen))) % n_classes
    return y


def make_preprocessing(who: str = "") -> Any:
    """Impute; encode categories one-hot, standardize numbers; or as its name says."""
    if who.endswith(", by skrub"):
        return tabular_pipeline(LabelSmoothingClassifier())[:-1]
    if who.endswith(", raw"):
        return FunctionTransformer(name_gaps)
    categories = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer(
        (categories, make_column_selector(dtype_exclude="number")), remainder=numbers
    )


def name_gaps(X: pd.DataFrame) -> pd.DataFrame:
    """Let a missing category be one, without which CatBoost takes no column of categories."""
    words = X.select_dtypes(exclude="number")
    return X.assign(**words.astype("string").fillna("missing").astype(object))


# -- contestants --------------------------------------------------------------------------------


def make_calibrated_mlp(split: Split, seed: int) -> ClassifierMixin:
    """Make MLPClassifier with a temperature; fewer folds where a class has too few rows."""
    folds = min(5, int(np.bincount(split.y_train).min()))
    mlp = MLPClassifier(random_state=seed)
    return CalibratedClassifierCV(mlp, method="temperature", cv=folds)


class SkorchNet(NeuralNetClassifier):
    """skorch's net, seeded, told the number of its inputs, and fed with float32."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> SkorchNet:
        """Fit a net of the right width."""
        torch.manual_seed(0)
        self.set_params(module__n_features=X.shape[1])
        return super().fit(X.astype(np.float32), y)

    def infer(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        return super().infer(x.float())


def make_skorch(split: Split, seed: int) -> ClassifierMixin:
    return SkorchNet(
        SimpleNet,
        module__n_classes=int(split.y_train.max()) + 1,
        criterion=torch.nn.CrossEntropyLoss,
        criterion__label_smoothing=0.1,
        optimizer=torch.optim.Adam,
        verbose=0,
    )


def make_real_mlp(split: Split, seed: int, **params: Any) -> ClassifierMixin:
    from pytabkit import RealMLP_TD_Classifier

    return RealMLP_TD_Classifier(device="cpu", random_state=seed, n_threads=1, **params)


def make_tabm_d(split: Split, seed: int) -> ClassifierMixin:
    from pytabkit import TabM_D_Classifier

    return TabM_D_Classifier(device="cpu", random_state=seed, n_threads=1)


def make_svs(seed: int) -> ClassifierMixin:
    from probmetrics.calibrators import get_calibrator

    return make_calibrated_otherwise(get_calibrator("svs"), seed)


def make_catboost(split: Split, seed: int, **params: Any) -> ClassifierMixin:
    from catboost import CatBoostClassifier

    return CatBoostClassifier(
        random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False, **params
    )


def make_raw_catboost(split: Split, seed: int) -> ClassifierMixin:
    words = make_column_selector(dtype_exclude="number")(split.X_train)
    return make_catboost(split, seed, cat_features=words)


def make_calibrated_otherwise(calibration: Any, seed: int) -> LabelSmoothingClassifierCV:
    net = LabelSmoothingClassifier(calibration=calibration, **RECIPE)
    return LabelSmoothingClassifierCV(net, random_state=seed)


def make_tabm(n_features: int, n_classes: int) -> torch.nn.Module:
    from tabm import TabM

    return TabM.make(n_num_features=n_features, d_out=n_classes)


CONTESTANTS: dict[str, Callable[[Split, int], ClassifierMixin]] = {
    OURS: lambda split, seed: LabelSmoothingClassifierCV(random_state=seed),
    f"{OURS}, ε=0": lambda split, seed: LabelSmoothingClassifierCV(
        label_smoothings=(0.0,), random_state=seed
    ),
    "LabelSmoothingClassifier": lambda split, seed: LabelSmoothingClassifier(random_state=seed),
    "LabelSmoothingClassifier, ε=0": lambda split, seed: LabelSmoothingClassifier(
        label_smoothing=0.0, random_state=seed
    ),
    "MLPClassifier": lambda split, seed: MLPClassifier(random_state=seed),
    "CalibratedClassifierCV(MLPClassifier)": make_calibrated_mlp,
    "skorch, ε=0.1": make_skorch,
    "LogisticRegression": lambda split, seed: LogisticRegression(max_iter=1000),
    "HistGradientBoostingClassifier": lambda split, seed: HistGradientBoostingClassifier(
        random_state=seed
    ),
    "CatBoost": make_catboost,
    "RealMLP-TD": make_real_mlp,
    "RealMLP-TD, ε=0": lambda split, seed: make_real_mlp(split, seed, use_ls=False),
}

# Other calibrators than the default one, other modules, recipes and preprocessing, to be named by
# --only.
VARIANTS: dict[str, Callable[[Split, int], ClassifierMixin]] = {
    f"{OURS}, temperature": lambda split, seed: make_calibrated_otherwise("temperature", seed),
    f"{OURS}, SVS": lambda split, seed: make_svs(seed),
    f"{OURS}, numbers as they are": lambda split, seed: LabelSmoothingClassifierCV(
        encodings=(None,), random_state=seed
    ),
    f"{OURS}, by skrub": lambda split, seed: LabelSmoothingClassifierCV(random_state=seed),
    "CatBoost, raw": make_raw_catboost,
    "RealMLP-TD, five folds": lambda split, seed: make_real_mlp(
        split, seed, n_cv=5, val_metric_name="cross_entropy"
    ),
    "TabM_D": make_tabm_d,
    "LabelSmoothingClassifier, a fifth held out": lambda split, seed: LabelSmoothingClassifier(
        train_split=0.2, random_state=seed
    ),
    "LabelSmoothingClassifier, TabM": lambda split, seed: LabelSmoothingClassifier(
        make_tabm, lr=0.002, random_state=seed
    ),
}


# -- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One contestant on one split."""

    data: str
    flipped: bool
    split: int
    who: str


def measure(task: Task, table: Table) -> dict[str, Any]:
    """Fit and score; give a line of the results."""
    split = Split.of(table, task.split, task.flipped)
    net = {**CONTESTANTS, **VARIANTS}[task.who](split, task.split)
    model = make_pipeline(make_preprocessing(task.who), net)
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all that count are the figures
        warm_up(task.who)
        start = time.perf_counter()
        try:
            model.fit(split.X_train, split.y_train)
        except ValueError as error:  # it takes no part here, and the report says so
            return {**vars(task), "error": str(error)}
        fitted = time.perf_counter()
        proba = model.predict_proba(split.X_test)
        end = time.perf_counter()
    seconds = {"fit_seconds": fitted - start, "predict_seconds": end - fitted}
    line = {**vars(task), "n_train": len(split.y_train), "n_test": len(split.y_test)}
    line |= {**score(split, model, proba), **seconds}
    if hasattr(net, "label_smoothing_"):
        line["chosen"] = net.label_smoothing_
    if hasattr(net, "confidence"):
        rows = model[:-1].transform(split.X_test)
        is_right = net.predict(rows) == split.y_test
        line["aurc_of_confidence"] = risk_coverage_curve(net.confidence(rows), is_right).area
    return line


@cache
def warm_up(who: str) -> None:
    """Fit a contestant to a few rows, so that what is loaded at first use is not timed."""
    iris = next(table for table in load_tables(None) if table.name == "iris")
    split = Split.of(iris, 0, flipped=False)
    net = {**CONTESTANTS, **VARIANTS}[who](split, 0)
    make_pipeline(make_preprocessing(who), net).fit(split.X_train, split.y_train)


def score(split: Split, model: Pipeline, proba: np.ndarray) -> dict[str, float]:
    """Score the probabilities; a class without training rows has probability zero."""
    labels = np.arange(max(split.y_train.max(), split.y_test.max()) + 1)
    full = np.zeros((len(proba), len(labels)))
    full[:, model.classes_] = np.asarray(proba, dtype=np.float64)
    full /= full.sum(axis=1, keepdims=True)
    y = split.y_test
    return {
        "accuracy": accuracy_score(y, full.argmax(axis=1)),
        "log_loss": log_loss(y, full, labels=labels),
        "brier": brier_score_loss(y, full, labels=labels, scale_by_half=False),
        "ece": expected_calibration_error(y, full, labels=labels),
        "classwise_ece": classwise_calibration_error(y, full, labels=labels),
        "aurc": area_under_risk_coverage(y, full, labels=labels),
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(tables: dict[str, Table], tasks: list[Task], path: Path, n_jobs: int) -> None:
    """Measure what is not in the file yet, and add it there."""
    done = {tuple(line[name] for name in Task.__annotations__) for line in read_results(path)}
    open_tasks = [task for task in tasks if tuple(vars(task).values()) not in done]
    parallel = Parallel(n_jobs, return_as="generator_unordered")
    lines = parallel(delayed(measure)(task, tables[task.data]) for task in open_tasks)
    for number, line in enumerate(lines, start=1):
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        where = f"{line['data']}{'*' * line['flipped']} {line['split']} {line['who']}"
        what = line.get("error") or f"{line['log_loss']:.4f}, {line['fit_seconds']:.1f} s"
        print(f"{number:>4}/{len(open_tasks)} {where}: {what}", flush=True)


# -- report -------------------------------------------------------------------------------------


def name_data(results: pd.DataFrame) -> pd.Series:
    return results["data"] + np.where(results["flipped"], ", flipped", "")


def rank(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Give the ranks, (data sets, contestants), each the mean over the splits."""
    per_split = results.pivot_table(index=["set", "split"], columns="who", values=metric)
    ranks = per_split.rank(axis=1, ascending=metric not in HIGHER_IS_BETTER)
    return ranks.groupby("set").mean()


def compare(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Compare ours with each contestant, data set by data set."""
    means = results.pivot_table(index="set", columns="who", values=metric)
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    rows = {}
    for who in means.columns.drop(OURS):
        both = means[[OURS, who]].dropna()
        lead = sign * (both[who] - both[OURS])
        rows[who] = {
            "wins": int((lead > 0).sum()),
            "losses": int((lead < 0).sum()),
            "p": float(wilcoxon(lead).pvalue) if lead.any() else 1.0,
        }
    return pd.DataFrame(rows).T


def show_smoothing(results: pd.DataFrame) -> pd.DataFrame:
    """Tell what smoothing changes: points of accuracy, and ratios of log-loss and fit time.

    Each is of a data set's mean over its splits; minimum, median and maximum over the data sets.
    """
    rows = {}
    for who in (OURS, "LabelSmoothingClassifier"):
        means = results[results["who"].isin([who, f"{who}, ε=0"])].pivot_table(
            index=["flipped", "set"], columns="who", values=["accuracy", "log_loss", "fit_seconds"]
        )
        change = pd.DataFrame(
            {
                "accuracy, points": 100 * means["accuracy"][who]
                - 100 * means["accuracy"][f"{who}, ε=0"],
                "log_loss, ratio": means["log_loss"][who] / means["log_loss"][f"{who}, ε=0"],
                "fit_seconds, ratio": means["fit_seconds"][who]
                / means["fit_seconds"][f"{who}, ε=0"],
            }
        )
        for flipped, own in change.groupby("flipped"):
            spread = own.agg(["min", "median", "max"]).T
            rows[who, "flipped" if flipped else "as they are"] = spread.stack()
    return pd.DataFrame(rows).T


def report(results: pd.DataFrame) -> dict[str, Any]:
    """Print the tables; give what they say."""
    order = [who for who in [*CONTESTANTS, *VARIANTS] if who in set(results["who"])]
    summary: dict[str, Any] = {}
    if "error" in results:
        failed = results[results["error"].notna()]
        print(failed[["set", "split", "who", "error"]].to_string())
        summary["failed"] = failed[["set", "split", "who", "error"]].to_dict("records")
    for metric in [*METRICS, *OWN_METRICS, "fit_seconds", "predict_seconds"]:
        if metric not in results:
            continue
        means = results.pivot_table(index="set", columns="who", values=metric)
        means = means.reindex(columns=order).dropna(axis="columns", how="all")
        summary[metric] = means.T.to_dict()
        print(f"\n{metric}, mean of the splits\n{shorten(means).round(4).to_string()}")
    every = results["set"].notna()
    parts = {"all": every, "as they are": ~results["flipped"], "flipped": results["flipped"]}
    for part, chosen in parts.items():
        if not chosen.any() or (part != "all" and chosen.all()):
            continue
        ranks = {metric: rank(results[chosen], metric)[order] for metric in METRICS}
        table = pd.DataFrame({metric: r.mean() for metric, r in ranks.items()}).loc[order]
        spread = pd.DataFrame({metric: r.std() for metric, r in ranks.items()}).loc[order]
        both = table.round(2).astype(str) + " ± " + spread.round(1).astype(str)
        print(f"\nmean rank ± its standard deviation over data sets: {part}\n{both.to_string()}")
        summary[f"mean rank, {part}"] = table.to_dict()
    if {f"{OURS}, ε=0", "LabelSmoothingClassifier, ε=0"} <= set(order):
        print(f"\nwhat smoothing changes\n{show_smoothing(results).round(3).T.to_string()}")
    for metric in ("log_loss", "brier", "accuracy") if OURS in order else ():
        pairs = compare(results, metric).loc[[who for who in order if who != OURS]]
        print(f"\n{OURS} against each, {metric}\n{pairs.to_string()}")
        summary[f"pairs, {metric}"] = pairs.T.to_dict()
    return summary


def shorten(means: pd.DataFrame) -> pd.DataFrame:
    """Make the names of the columns short enough to stand side by side."""
    shorter = {
        "LabelSmoothingClassifier": "LSC",
        "CalibratedClassifierCV(MLPClassifier)": "MLP cal.",
        "MLPClassifier": "MLP",
        "LogisticRegression": "LogReg",
        "HistGradientBoostingClassifier": "HistGB",
    }
    names = {}
    for who in means.columns:
        names[who] = who
        for long, short in shorter.items():
            names[who] = names[who].replace(long, short)
    return means.rename(columns=names)


def draw(results: pd.DataFrame, path: Path) -> None:
    """Draw the ranks, each data set a dot and their mean a bar."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 5), sharey=True, layout="constrained")
    order = rank(results, "log_loss").mean().sort_values(ascending=False).index
    for ax, metric in zip(axes, ("log_loss", "brier", "accuracy"), strict=True):
        ranks = rank(results, metric)[order]
        ours = ["LabelSmoothing" in who for who in order]
        colors = np.where(ours, "tab:blue", "lightgray")
        ax.barh(order, ranks.mean(), color=colors)
        for place, who in enumerate(order):
            ax.plot(ranks[who], np.full(len(ranks), place), ".", color="black", alpha=0.4)
        ax.set(xlabel="mean rank (1 is best)", title=metric.replace("_", "-"))
    figure.savefig(path, dpi=100)


# -- the run ------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of CSV files with a column `target`")
    parser.add_argument("--tables", nargs="+", metavar="NAME", help="data sets; default: all")
    parser.add_argument("--splits", type=int, default=5, help="splits of each data set")
    parser.add_argument("--first-split", type=int, default=0, help="number of the first of them")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants; default: all")
    parser.add_argument("--no-flipped", action="store_true", help="leave out flipped labels")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes, each with one thread")
    parser.add_argument(
        "--out", type=Path, default=Path("output/quality"), help="folder of the results"
    )
    args = parser.parse_args()

    tables = {table.name: table for table in load_tables(args.data)}
    tasks = [
        Task(name, flipped, number, who)
        for number in range(args.first_split, args.first_split + args.splits)
        for name in args.tables or tables
        for flipped in ((False,) if args.no_flipped else (False, True))
        for who in args.only or CONTESTANTS
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    run(tables, tasks, args.out / "results.jsonl", args.n_jobs)

    measured = pd.DataFrame(read_results(args.out / "results.jsonl"))
    results = measured.merge(pd.DataFrame(tasks))  # those asked for
    results["set"] = name_data(results)
    packages = ("sksmooth", "scikit-learn", "skorch", "torch", "numpy", "pytabkit", "catboost")
    installed = {str(found.metadata["Name"]).lower() for found in distributions()}
    versions = {name: version(name) for name in packages if name in installed}
    print(f"Python {platform.python_version()}, {versions}")
    summary = {"versions": versions, **report(results)}
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False))
    draw(results, args.out / "ranks.png")


if __name__ == "__main__":
    import quality  # itself: the workers of --n-jobs find what they run by that name

    quality.main()
