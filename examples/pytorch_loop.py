"""Label smoothing in a plain PyTorch loop
=======================================

No skorch, no scikit-learn estimator: trains the same net twice, against the cross-entropy and
against the KL divergence from the smoothed labels. They differ by the entropy of those labels,
which no weight of the net can change: so the gradients are equal, and so are the nets. Then a
temperature is fitted to held-out logits, and a plot shows what that does to the probabilities of
new rows.

Run it (seconds; needs the extra ``plot``)::

    python examples/pytorch_loop.py
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, log_loss

from sksmooth import (
    LabelSmoothingLoss,
    ReliabilityDisplay,
    SimpleNet,
    TemperatureScaling,
    expected_calibration_error,
    make_tabular,
    smoothing_matrix,
)

LABEL_SMOOTHING = 0.1
N_FEATURES, N_CLASSES = 10, 3
N_BINS = 10  # of the ECE and the plot


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plot")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    X, y = make_tabular(1500, N_FEATURES, N_CLASSES, random_state=options.seed)
    X, y = torch.from_numpy(X).float(), torch.from_numpy(y)
    # Rows to train on, rows for the temperature, rows to test both.
    X_train, X_held_out, X_test = X.split([900, 300, 300])
    y_train, y_held_out, y_test = y.split([900, 300, 300])

    nets, losses = {}, {}
    for form in ("cross_entropy", "kl"):
        criterion = LabelSmoothingLoss(LABEL_SMOOTHING, smoothing="uniform", form=form)
        nets[form], losses[form] = train(criterion, X_train, y_train, options)
    epochs = print_losses(losses)
    difference = largest_difference(*nets.values())
    print(f"Largest difference between the two nets' weights: {difference:.1e}")

    with torch.no_grad():
        logits_held_out, logits_test = (nets["kl"](rows) for rows in (X_held_out, X_test))
    scaling = TemperatureScaling().fit(logits_held_out, y_held_out)
    print(f"\nTemperature fitted to {len(y_held_out)} held-out rows: {scaling.temperature_:.3f}\n")
    probabilities = {
        "softmax": logits_test.double().softmax(dim=1).numpy(),
        "calibrated": scaling.predict_proba(logits_test),
    }
    scores = print_scores(y_test, probabilities)
    picture = draw_reliability(y_test, probabilities, options.output)
    print(f"\nSaved {picture}")
    return {
        "epochs": epochs,
        "largest_difference": difference,
        "scores": scores,
        "picture": picture,
    }


def train(criterion, X, y, options):
    """Train a net by mini-batches, and return it with the mean loss of each epoch."""
    torch.manual_seed(options.seed)  # both forms start from the same weights and draw equal batches
    net = SimpleNet(N_FEATURES, N_CLASSES, hidden_layer_sizes=(64, 32), dropout=0.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(options.epochs):
        total = 0.0
        for batch in torch.randperm(len(X)).split(50):
            # The target holds class indices in one dimension, (n,); a column (n, 1) is refused.
            loss = criterion(net(X[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(X))
    return net, losses


def print_losses(losses):
    """Print both losses of each epoch, and what lies between them."""
    table = pd.DataFrame(losses)
    table.insert(0, "epoch", table.index + 1)
    table["difference"] = table["cross_entropy"] - table["kl"]
    print(table.to_string(index=False, float_format="{:.4f}".format))
    target = smoothing_matrix(LABEL_SMOOTHING, N_CLASSES)[0]
    print(f"\nEntropy of the smoothed labels: {entropy(target):.4f}")
    return table


def largest_difference(net, other):
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max().detach()) for a, b in pairs)


def print_scores(y_true, probabilities):
    scores = pd.DataFrame(
        {
            name: {
                "accuracy": accuracy_score(y_true, proba.argmax(axis=1)),
                "log-loss": log_loss(y_true, proba),
                "ECE": expected_calibration_error(y_true, proba, n_bins=N_BINS),
            }
            for name, proba in probabilities.items()
        }
    ).T
    print(scores.to_string(float_format="{:.3f}".format))
    return scores


def draw_reliability(y_true, probabilities, folder):
    ax = None
    for name, proba in probabilities.items():
        display = ReliabilityDisplay.from_predictions(
            y_true, proba, n_bins=N_BINS, name=name, ax=ax
        )
        ax = display.ax_  # the next curve joins the picture
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pytorch_loop_reliability.png"
    display.figure_.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
