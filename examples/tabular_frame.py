"""A mixed table from raw DataFrame to trusted probabilities
=========================================================

In scikit-learn's own terms: columns of numbers and of words, holes in both, labels that are words;
a ColumnTransformer turns the table into numbers, the classifier takes it from there.
Cross-validation compares the calibrated classifier with the same one uncalibrated, and plots show
on new rows what their probabilities are worth, and which errors are left where a person decides
about the rows of which the classifier is less sure.

Run it (under a minute; needs the extra ``plot``)::

    python examples/tabular_frame.py
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold, cross_validate, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sksmooth import (
    LabelSmoothingClassifier,
    ReliabilityDisplay,
    SelectiveConfusionMatrixDisplay,
)
from sksmooth.metrics import neg_expected_calibration_error_scorer

REGIONS = ["coast", "city", "hills", "plain"]
DEVICES = ["phone", "laptop", "tablet"]
PLANS = np.array(["basic", "family", "business"])

LABEL_SMOOTHING = 0.2
N_BINS = 10  # of the reliability plot
THRESHOLD = 0.7  # probability below which a person decides

# scikit-learn's scorers by their names, ours as objects. Greater is better, so losses are negative.
SCORING = {
    "accuracy": "accuracy",
    "log-loss": "neg_log_loss",
    "ECE": neg_expected_calibration_error_scorer,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plots")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    title("1. The table")
    X, y = make_customers(options.rows, options.seed)
    print(pd.concat([X, y], axis=1).head().to_string(float_format="{:.1f}".format))
    print_columns(X)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.5, stratify=y, random_state=options.seed
    )

    title(f"2. Cross-validation on {len(X_train)} rows, {options.folds} folds")
    pipelines = {
        "uncalibrated": make_classifier(None, options),
        "calibrated": make_classifier("temperature", options),
    }
    scores = cross_validate_all(pipelines, X_train, y_train, options)
    print(scores.to_string(float_format="{:.4f}".format))

    title(f"3. The other {len(X_test)} rows")
    for pipe in pipelines.values():
        pipe.fit(X_train, y_train)
    predictions = follow_rows(pipelines, X_test[:5], y_test[:5])
    picture = draw_reliability(pipelines, X_test, y_test, options.output)
    rejection = draw_rejection(pipelines["calibrated"], X_test, y_test, options.output)
    print(f"\nSaved {picture}\nSaved {rejection}")
    return {
        "X": X,
        "scores": scores,
        "predictions": predictions,
        "picture": picture,
        "rejection": rejection,
    }


def title(text):
    print(f"\n== {text} ==\n")


def make_customers(n_rows, seed):
    """Invent customers, and the plan that each of them chose; a tenth of the cells gets lost."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, n_rows).astype(float),
            "income": rng.lognormal(mean=10.4, sigma=0.5, size=n_rows),
            "household": rng.integers(1, 6, n_rows).astype(float),
            "region": rng.choice(REGIONS, n_rows, p=[0.2, 0.4, 0.1, 0.3]),
            "device": rng.choice(DEVICES, n_rows),
        }
    )
    utility = np.column_stack(
        [
            1.0 - (X["income"] / 30_000 - 1) + 0.04 * (X["age"] - 50),
            1.5 * (X["household"] - 3) + (X["region"] == "hills"),
            2.0 * (X["income"] / 30_000 - 1) + 2.0 * (X["device"] == "laptop"),
        ]
    )
    plan = [rng.choice(PLANS, p=p) for p in softmax(2 * utility, axis=1)]
    lost = rng.random(X.shape) < 0.1
    # "region" comes as pandas' own type for categories, "device" as plain strings.
    X = X.mask(lost).astype({"region": pd.CategoricalDtype(REGIONS)})
    return X, pd.Series(plan, name="plan")


def print_columns(X):
    columns = pd.DataFrame(
        {"dtype": X.dtypes.astype(str), "missing": X.isna().mean(), "distinct": X.nunique()}
    )
    print(f"\n{columns.to_string(formatters={'missing': '{:.1%}'.format})}")


def make_classifier(calibration, options):
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    words = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),  # the net wants dense rows
    )
    preprocessing = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (words, make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(
        preprocessing,
        LabelSmoothingClassifier(
            label_smoothing=LABEL_SMOOTHING,
            calibration=calibration,
            lr=0.003,
            max_epochs=options.epochs,
            random_state=options.seed,
        ),
    )


def cross_validate_all(pipelines, X, y, options):
    """Score each pipeline on the same folds: mean and standard deviation over them."""
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=options.seed)
    rows = {}
    for name, pipe in pipelines.items():
        results = cross_validate(pipe, X, y, scoring=SCORING, cv=folds)
        rows[name] = {}
        for score in SCORING:
            per_fold = np.abs(results[f"test_{score}"])
            rows[name] |= {score: per_fold.mean(), f"± {score}": per_fold.std()}
    return pd.DataFrame(rows).T


def follow_rows(pipelines, X, y):
    """Show the plan chosen, the plan predicted, and how sure either classifier is of it."""
    table = pd.DataFrame({"plan": y, "predicted": pipelines["calibrated"].predict(X)})
    for name, pipe in pipelines.items():
        table[name] = pipe.predict_proba(X).max(axis=1)
    print(table.to_string(float_format="{:.3f}".format))
    return table


def draw_reliability(pipelines, X, y, folder):
    ax = None
    for name, pipe in pipelines.items():
        display = ReliabilityDisplay.from_estimator(pipe, X, y, n_bins=N_BINS, name=name, ax=ax)
        ax = display.ax_  # the next curve joins the picture
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tabular_frame_reliability.png"
    display.figure_.savefig(path, dpi=150)
    return path


def draw_rejection(pipe, X, y, folder):
    display = SelectiveConfusionMatrixDisplay.from_estimator(pipe, X, y, threshold=THRESHOLD)
    path = folder / "tabular_frame_rejection.png"
    display.figure_.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
