"""Label smoothing chosen by cross-validation, against CalibratedClassifierCV
==========================================================================

LabelSmoothingClassifierCV trains a net for every ε and every fold, all at once, and calibrates by
the rows that each net did not see. CalibratedClassifierCV does the latter for any classifier, by
one fit after the other. Both meet on two tables of scikit-learn, beside an MLPClassifier as it
is; plots show the choice of ε, and what the probabilities are worth on new rows.

Run it (under a minute; needs the extra ``plot``)::

    python examples/calibrated_cv.py
"""

import argparse
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import LabelSmoothingClassifier, ReliabilityDisplay
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.metrics import expected_calibration_error
from sksmooth.plotting import SmoothingCurveDisplay

TABLES = {"digits": load_digits, "breast cancer": load_breast_cancer}

HIDDEN_LAYER_SIZES = (64, 32)  # of all nets
N_BINS = 10  # of the plots


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plots")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    scores, choices, pictures = {}, {}, {}
    for number, (name, load) in enumerate(TABLES.items(), start=1):
        X, y = load(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.3, stratify=y, random_state=options.seed
        )
        title(f"{number}. {name.capitalize()}: {len(X_train)} training rows, {len(X_test)} others")
        pipelines = make_pipelines(options)
        seconds = fit_all(pipelines, X_train, y_train)
        scores[name] = score_all(pipelines, seconds, X_test, y_test)
        print(scores[name].to_string(float_format="{:.4f}".format))
        choices[name] = describe_choice(pipelines["LabelSmoothingClassifierCV"][-1])
        pictures[name] = draw(name, pipelines, X_test, y_test, options.output)
        print(f"Saved {pictures[name]}")
    return {"scores": scores, "choices": choices, "pictures": pictures}


def title(text):
    print(f"\n== {text} ==\n")


def make_pipelines(options):
    mlp = MLPClassifier(
        HIDDEN_LAYER_SIZES, batch_size=64, max_iter=options.epochs, random_state=options.seed
    )
    net = LabelSmoothingClassifier(
        module__hidden_layer_sizes=HIDDEN_LAYER_SIZES,
        batch_size=64,
        lr=0.003,
        max_epochs=options.epochs,
        patience=20,
    )
    classifiers = {
        "MLPClassifier": mlp,
        "CalibratedClassifierCV": CalibratedClassifierCV(
            mlp, method="temperature", cv=options.folds
        ),
        "LabelSmoothingClassifierCV": LabelSmoothingClassifierCV(
            net, cv=options.folds, random_state=options.seed
        ),
    }
    return {name: make_pipeline(StandardScaler(), own) for name, own in classifiers.items()}


def fit_all(pipelines, X, y):
    """Fit each pipeline; give the seconds that each took."""
    seconds = {}
    for name, pipe in pipelines.items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            # MLPClassifier says so where all epochs are used up before its loss stands still.
            warnings.simplefilter("ignore", ConvergenceWarning)
            pipe.fit(X, y)
        seconds[name] = time.perf_counter() - start
    return seconds


def score_all(pipelines, seconds, X, y):
    """Score each pipeline on rows that it has not seen."""
    rows = {}
    for name, pipe in pipelines.items():
        proba = pipe.predict_proba(X)
        rows[name] = {
            "accuracy": accuracy_score(y, pipe.classes_[proba.argmax(axis=1)]),
            "log-loss": log_loss(y, proba),
            "ECE": expected_calibration_error(y, proba),
            "seconds": seconds[name],
        }
    return pd.DataFrame(rows).T


def describe_choice(model):
    """Tell which ε was chosen, and how near each of them came."""
    results = pd.DataFrame(model.cv_results_)
    lowest = results.loc[results.groupby("label_smoothing")["refined_loss"].idxmin()]
    columns = ["label_smoothing", "epoch", "refined_loss", "accuracy"]
    print("\nThe best epoch of each ε, out of fold:")
    print(lowest[columns].to_string(index=False, float_format="{:.4f}".format))
    choice = {
        "label_smoothing": model.label_smoothing_,
        "epoch": model.best_epoch_,
        "temperature": model.temperature_,
        "oof_log_loss": model.oof_log_loss_,
    }
    print(
        f"Chosen: ε={choice['label_smoothing']:g}, epoch {choice['epoch']}, temperature "
        f"{choice['temperature']:.3f}; out-of-fold log-loss {choice['oof_log_loss']:.4f}\n"
    )
    return choice


def draw(name, pipelines, X, y, folder):
    """Draw the choice of ε on the left, the reliability of all pipelines on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 7), layout="constrained")
    SmoothingCurveDisplay.from_estimator(pipelines["LabelSmoothingClassifierCV"], ax=left)
    ax = right
    for classifier, pipe in pipelines.items():
        display = ReliabilityDisplay.from_estimator(
            pipe, X, y, n_bins=N_BINS, name=classifier, ax=ax
        )
        ax = display.ax_  # the next curve joins the picture
    figure.suptitle(name.capitalize())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"calibrated_cv_{name.replace(' ', '_')}.png"
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
