"""The same grid search, sooner: all candidates and folds train at once
====================================================================

GridSearchCV fits one net after the other. BatchedGridSearchCV takes the same arguments and gives
the same table, but trains the nets in lockstep: one step of the stack is one step of each net.
Here both search the amount of label smoothing and where it goes, on scikit-learn's digits; a plot
lays one table over the other.

Run it (under a minute; needs the extra ``plot``)::

    python examples/batched_grid_search.py
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import LabelSmoothingClassifier
from sksmooth.search import BatchedGridSearchCV

NET = "labelsmoothingclassifier__"  # make_pipeline names a step by its class
SEARCHES = {"GridSearchCV": GridSearchCV, "BatchedGridSearchCV": BatchedGridSearchCV}
SCORES = ["mean_test_neg_log_loss", "mean_test_accuracy"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--label-smoothing", type=float, nargs="+", default=[0, 0.05, 0.1, 0.2])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plot")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    X, y = load_digits(return_X_y=True)
    tables, seconds = {}, {}
    for name, kind in SEARCHES.items():
        search = make_search(kind, options)
        begin = time.perf_counter()
        search.fit(X, y)
        seconds[name] = time.perf_counter() - begin
        tables[name] = make_table(search)
        print(f"\n== {name}: {seconds[name]:.2f} s ==\n")
        print(tables[name].to_string(index=False, float_format="{:.4f}".format))

    first, second = tables.values()
    difference = float((first[SCORES] - second[SCORES]).abs().max(axis=None))
    ratio = seconds["GridSearchCV"] / seconds["BatchedGridSearchCV"]
    print(f"\nlargest difference between the scores: {difference:.1e}")
    print(f"BatchedGridSearchCV was {ratio:.1f} times as fast.")
    picture = draw(tables, seconds, options.output)
    print(f"\nSaved {picture}")
    return {
        "tables": tables,
        "seconds": seconds,
        "largest_difference": difference,
        "picture": picture,
    }


def make_search(kind, options):
    # A net needs its features on one scale. Within the pipeline, the scaler learns it from the
    # training folds only; BatchedGridSearchCV fits it once per fold.
    # The search has folds of its own; a fifth of their rows is enough for a net to stop by.
    settings = {"train_split": 0.2, "max_epochs": options.epochs, "random_state": options.seed}
    pipe = make_pipeline(StandardScaler(), LabelSmoothingClassifier(lr=0.003, **settings))
    grid = {
        f"{NET}label_smoothing": options.label_smoothing,
        f"{NET}smoothing": ["uniform", "prior"],
    }
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=options.seed)
    scoring = ["neg_log_loss", "accuracy"]
    return kind(pipe, grid, scoring=scoring, refit="neg_log_loss", cv=folds)


def make_table(search):
    """Read the scores out of `cv_results_`, one row for each candidate."""
    results = pd.DataFrame(search.cv_results_)
    params = [f"param_{NET}label_smoothing", f"param_{NET}smoothing"]
    return results[[*params, *SCORES, "rank_test_neg_log_loss"]].rename(
        columns=lambda name: name.removeprefix(f"param_{NET}")
    )


def draw(tables, seconds, folder):
    """Draw the log-losses of both searches: those of one lie in the rings of the other."""
    figure, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    for (name, table), marker in zip(tables.items(), ("o", "."), strict=True):
        for smoothing, color in (("uniform", "C0"), ("prior", "C1")):
            own = table[table["smoothing"] == smoothing]
            ax.plot(
                own["label_smoothing"],
                -own["mean_test_neg_log_loss"],
                marker,
                color=color,
                fillstyle="none" if marker == "o" else "full",
                markersize=14 if marker == "o" else 8,
                label=f"{name}, {smoothing}: {seconds[name]:.1f} s in all",
            )
    ax.set(xlabel="label_smoothing", ylabel="Log-loss, mean of the folds")
    ax.grid(color="0.9")
    ax.legend()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "batched_grid_search.png"
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
