"""A training to look at while it runs
===================================

In a notebook, LiveTrainingDisplay draws the losses and the accuracy below the cell, and draws them
anew while the net trains, by the same steps as without it. A script has no cell to draw below; this
one shows as stills what a notebook shows on the way and at the end, when the kept epoch is known.

Run it (seconds; needs the extra ``plot``)::

    python examples/live_training.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from sksmooth import LabelSmoothingClassifier, LiveTrainingDisplay, TrainingDisplay, make_tabular

LOSSES = {"train_loss": "training", "valid_loss": "held out", "refined_loss": "held out, refined"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plot")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    X, y = make_tabular(1000, random_state=options.seed)
    net = LabelSmoothingClassifier(
        train_split=0.2,
        max_epochs=options.epochs,
        callbacks=[LiveTrainingDisplay()],  # all that a notebook needs
        random_state=options.seed,
    ).fit(X, y)
    print(f"{len(net.history)} epochs; kept are the parameters of epoch {net.best_epoch_}.")
    picture = draw_stills(net, options.output)
    print(f"\nSaved {picture}")
    return {"net": net, "picture": picture}


def draw_stills(net, folder):
    """Draw the training as it stood after a tenth and a half of its epochs, and at its end."""
    last = len(net.history)
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.6), layout="constrained")
    for ax, n_epochs in zip(axes, (max(last // 10, 1), max(last // 2, 1)), strict=False):
        still = TrainingDisplay(
            net.history[:n_epochs, "epoch"],
            {name: net.history[:n_epochs, key] for key, name in LOSSES.items()},
            {"held out": net.history[:n_epochs, "valid_acc"]},
        )
        still.plot(ax=ax)
    TrainingDisplay.from_estimator(net, ax=axes[-1])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "live_training.png"
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
