"""How much label smoothing? Ask scikit-learn's grid search
========================================================

The classifier is a step of a pipeline like any other, so GridSearchCV tries each amount by
cross-validation. The log-loss picks the best one, since it judges the probabilities; the accuracy
is reported beside it. The data are two of scikit-learn's own: breast cancer and digits. Plots show
how the winner was trained, and how often it is wrong where the rows of which it is least sure go to
somebody else.

Run it (under a minute; needs the extra ``plot``)::

    python examples/grid_search.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import LabelSmoothingClassifier, RiskCoverageDisplay, TrainingDisplay

DATA = {"breast cancer": load_breast_cancer, "digits": load_digits}
PARAMETER = "labelsmoothingclassifier__label_smoothing"  # make_pipeline names a step by its class
SCORING = ["neg_log_loss", "accuracy"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--label-smoothing", type=float, nargs="+", default=[0, 0.05, 0.1, 0.2])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plots")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    tables, pictures = {}, {}
    for name, load in DATA.items():
        X, y = load(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.25, stratify=y, random_state=options.seed
        )
        search = make_search(options).fit(X_train, y_train)
        tables[name] = make_table(search)

        print(f"\n== {name}: {len(X)} rows, {X.shape[1]} features, {len(set(y))} classes ==\n")
        print(tables[name].to_string(index=False, float_format="{:.4f}".format))
        # `refit` has trained the winner on all training rows. Its score is the negative log-loss.
        accuracy = (search.predict(X_test) == y_test).mean()
        print(
            f"\nbest label_smoothing: {search.best_params_[PARAMETER]:g}; on the test rows: "
            f"log-loss {-search.score(X_test, y_test):.4f}, accuracy {accuracy:.4f}"
        )
        pictures[name] = draw(name, search.best_estimator_, X_test, y_test, options.output)
        print(f"Saved {pictures[name]}")
    return {"tables": tables, "pictures": pictures}


def make_search(options):
    # A net needs its features on one scale. Within the pipeline, the scaler learns it from the
    # training folds only.
    pipe = make_pipeline(
        StandardScaler(),
        LabelSmoothingClassifier(
            module__hidden_layer_sizes=(64, 32),
            module__dropout=0.0,
            lr=0.003,
            max_epochs=options.epochs,
            random_state=options.seed,
        ),
    )
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=options.seed)
    return GridSearchCV(
        pipe,
        {PARAMETER: options.label_smoothing},
        scoring=SCORING,
        refit="neg_log_loss",
        cv=folds,
    )


def make_table(search):
    """Read the scores out of `cv_results_`, one row for each amount of smoothing."""
    results = pd.DataFrame(search.cv_results_)
    return pd.DataFrame(
        {
            "label_smoothing": results[f"param_{PARAMETER}"].astype(float),
            "log-loss": -results["mean_test_neg_log_loss"],
            "± log-loss": results["std_test_neg_log_loss"],
            "accuracy": results["mean_test_accuracy"],
            "± accuracy": results["std_test_accuracy"],
            "seconds a fit": results["mean_fit_time"],
        }
    )


def draw(name, pipe, X, y, folder):
    """Draw the winner's training on the left, on the right its errors among the surest rows."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6), layout="constrained")
    TrainingDisplay.from_estimator(pipe, ax=left)
    for order_by in ("proba", "confidence"):
        RiskCoverageDisplay.from_estimator(
            pipe, X, y, order_by=order_by, name=f"by {order_by}", ax=right
        )
    figure.suptitle(f"{name.capitalize()}: the best candidate")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"grid_search_{name.replace(' ', '_')}.png"
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
