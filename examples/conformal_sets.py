"""Conformal sets, before and after smoothing and calibration
==========================================================

A conformal classifier, here MAPIE's, gives each row a set of labels; whatever the probabilities are
worth, a promised share of the sets holds the true one. What they are worth shows in the size of the
sets. By the score "lac", the probability that a label lacks to one, only the order of the rows
counts, and nets differ little. By "aps", the sum of the probabilities down to the label's, a set is
as large as the probabilities ask: smoothing alone spreads them, and the sets grow with labels that
nobody doubts; calibration takes nearly half of that back. The net without smoothing is too sure of
itself, which makes its sets small, and covers the less for it.

Run it (a minute; needs the extras ``plot`` and ``ecosystem``)::

    python examples/conformal_sets.py
"""

# Without MAPIE, which the gallery is built without:
# sphinx_gallery_thumbnail_path = "_static/conformal_sets.png"

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, make_tabular

N_FEATURES, N_CLASSES = 10, 6
N_TRAIN, N_CONFORMAL, N_TEST = 500, 500, 2000  # rows
N_ROWS = N_TRAIN + N_CONFORMAL + N_TEST
SCORES = ("lac", "aps")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--promise", type=float, default=0.9, help="share of rows to be covered")
    parser.add_argument("--epochs", type=int, default=150, help="at most")
    parser.add_argument("--repeats", type=int, default=5, help="tables")
    parser.add_argument("--seed", type=int, default=0, help="of the first table")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plot")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    lines = []
    for seed in range(options.seed, options.seed + options.repeats):
        X, y = make_tabular(N_ROWS, N_FEATURES, N_CLASSES, random_state=seed)
        for name, model in make_models(options.epochs, seed).items():
            model.fit(X[:N_TRAIN], y[:N_TRAIN])
            for score in SCORES:
                sets = make_sets(model, score, options.promise, X[N_TRAIN:], y[N_TRAIN:])
                lines.append({"model": name, "score": score, **describe(sets, y[-N_TEST:])})
    table = pd.DataFrame(lines).groupby(["score", "model"], sort=False).mean()
    print(table.to_string(float_format="{:.3f}".format))
    picture = draw_sizes(table, options.output)
    print(f"\nSaved {picture}")
    return {"table": table, "picture": picture}


def make_models(epochs, seed):
    common = {"max_epochs": epochs, "random_state": seed}
    return {
        "ε=0": LabelSmoothingClassifier(label_smoothing=0.0, calibration=None, **common),
        "ε=0.2": LabelSmoothingClassifier(label_smoothing=0.2, calibration=None, **common),
        "ε=0.2, calibrated": LabelSmoothingClassifier(label_smoothing=0.2, **common),
        "ensemble": LabelSmoothingClassifierCV(
            LabelSmoothingClassifier(max_epochs=epochs), random_state=seed
        ),
    }


def make_sets(model, score, promise, X, y):
    """Give which labels are in the set of each of the last rows, by what the first ones say."""
    from mapie.classification import SplitConformalClassifier

    conformal = SplitConformalClassifier(
        model, promise, conformity_score=score, prefit=True, random_state=0
    )
    conformal.conformalize(X[:N_CONFORMAL], y[:N_CONFORMAL])
    _, sets = conformal.predict_set(X[N_CONFORMAL:])
    return sets[:, :, 0]


def describe(sets, y):
    size = sets.sum(axis=1)
    shares = np.bincount(size, minlength=N_CLASSES + 1) / len(size)
    return {
        "covered": sets[np.arange(len(y)), y].mean(),
        "mean size": size.mean(),
        **{f"{n} labels": share for n, share in enumerate(shares)},
    }


def draw_sizes(table, folder):
    sizes = table.filter(like=" labels")
    fig, axes = plt.subplots(1, len(SCORES), figsize=(9, 3.2), sharey=True, layout="constrained")
    for ax, score in zip(axes, SCORES, strict=True):
        sizes.loc[score].plot.barh(stacked=True, ax=ax, colormap="viridis", legend=False)
        ax.set(xlabel="share of the sets, by their size", ylabel="", title=score)
    axes[0].invert_yaxis()
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "conformal_sets.png"
    fig.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
