"""Quickstart: from a table of numbers to probabilities that can be trusted
========================================================================

Makes 1000 rows of 10 features in 3 classes, trains a small net on smoothed labels, follows one test
row through the net, and compares the probabilities before and after calibration.

Run it (seconds; needs the extra ``plot``)::

    python examples/quickstart.py
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import (
    LabelSmoothingClassifier,
    LabelSmoothingLoss,
    ReliabilityDisplay,
    expected_calibration_error,
    make_tabular,
    smooth_labels,
)

N_SAMPLES, N_FEATURES, N_CLASSES = 1000, 10, 3

# The true class keeps 0.9, the two others get 0.05 each. Mind the names: the amount is called
# `label_smoothing`, here as in torch; `smoothing` says where it goes.
SMOOTHING = {"label_smoothing": 0.1, "smoothing": "off_target"}

N_BINS = 8  # of the calibration error; 200 test rows do not fill many


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for the plot")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # steps this small cost more to share out than to compute

    title("1. The data")
    X, y = make_tabular(N_SAMPLES, N_FEATURES, N_CLASSES, random_state=options.seed)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.2, stratify=y, random_state=options.seed
    )
    for name, rows, labels in (
        ("all", X, y),
        ("training", X_train, y_train),
        ("test", X_test, y_test),
    ):
        print(f"{name:<10} X {rows.shape!s:<12} y {labels.shape}")

    title("2. Smoothed labels")
    print_conventions(y_train[0])

    title("3. Training")
    pipe = make_pipeline(
        StandardScaler(),
        LabelSmoothingClassifier(
            **SMOOTHING,
            module__hidden_layer_sizes=(64, 32),
            module__dropout=0.0,
            optimizer=torch.optim.Adam,
            lr=0.0015,
            batch_size=32,
            max_epochs=options.epochs,
            early_stopping=False,
            train_split=0.2,  # the rows held out: the net does not see them, the calibrator does
            calibration="temperature",
            random_state=options.seed,
        ),
    )
    pipe.fit(X_train, y_train)
    scaler, clf = pipe
    inputs, targets = as_tensor(scaler.transform(X_train)), torch.from_numpy(y_train)
    print_shapes(clf, inputs[: clf.batch_size], targets[: clf.batch_size])
    history = print_history(clf)
    print_losses(clf, inputs, targets)

    title("4. One test row on its way through the net")
    follow_row(pipe, X_test[:1], y_test[:1])

    title("5. All test rows, before and after calibration")
    logits = clf.forward(as_tensor(scaler.transform(X_test)))
    probabilities = {
        "softmax": logits.double().softmax(dim=1).numpy(),
        "calibrated": pipe.predict_proba(X_test),
    }
    scores = print_scores(y_test, probabilities)
    picture = draw_reliability(y_test, probabilities, options.output)
    print(f"\nSaved {picture}")
    return {"history": history, "scores": scores, "picture": picture}


def title(text):
    print(f"\n== {text} ==\n")


def as_tensor(X):
    return torch.from_numpy(X.astype(np.float32))


def print_conventions(label):
    """Show a label as one-hot and as the two kinds of smoothing that are in use."""
    rows = {
        "one-hot": smooth_labels([label], 0, N_CLASSES),
        "off_target": smooth_labels([label], 0.1, N_CLASSES, "off_target"),
        "uniform": smooth_labels([label], 0.1, N_CLASSES, "uniform"),
    }
    table = pd.DataFrame(
        np.concatenate(list(rows.values())),
        index=list(rows),
        columns=[f"class {k}" for k in range(N_CLASSES)],
    )
    print(f"The first training row is of class {label}. With label_smoothing=0.1 it becomes:\n")
    print(table.to_string(float_format="{:.4f}".format))
    print(
        "\noff_target gives the 0.1 to the other classes only, and is used here; uniform gives\n"
        "every class its share, as torch.nn.CrossEntropyLoss(label_smoothing=0.1) does."
    )


def print_shapes(clf, inputs, labels):
    """Send one mini-batch through the net and print what each stage makes of it."""
    *hidden, logits = clf.module_(inputs, return_activations=True)
    stages = {
        "input": inputs,
        **{f"hidden layer {i}": activation for i, activation in enumerate(hidden, start=1)},
        "logits": logits,
        "softmax": logits.softmax(dim=1),
        "labels": labels,
        "smoothed labels": smooth_labels(labels, n_classes=N_CLASSES, **SMOOTHING),
        "loss": LabelSmoothingLoss(**SMOOTHING)(logits, labels),
    }
    print("Shapes of one mini-batch:\n")
    for name, tensor in stages.items():
        print(f"{name:<17}{tuple(tensor.shape)}")


def print_history(clf):
    """Print loss and accuracy of each epoch, as skorch's history holds them."""
    history = pd.DataFrame(
        clf.history[:, ("epoch", "train_loss", "valid_acc")],
        columns=["epoch", "loss", "accuracy"],
    )
    print(
        f"\n{clf.train_split:.0%} of the training rows are held out. Epoch by epoch, the loss on"
        "\nthe others and the accuracy on the held-out ones:\n"
    )
    print(history.to_string(index=False, float_format="{:.2f}".format))
    return history


@torch.no_grad()
def print_losses(clf, inputs, labels):
    """Compare the losses of the trained net against smoothed and against hard labels."""
    logits = clf.module_(inputs)
    smoothed = LabelSmoothingLoss(**SMOOTHING)(logits, labels)
    hard = LabelSmoothingLoss(label_smoothing=0)(logits, labels)
    floor = entropy(smooth_labels([0], n_classes=N_CLASSES, **SMOOTHING)[0])
    print(
        "\nSmoothing raises the loss: the trained net has"
        f" {smoothed:.2f} against the smoothed labels"
        f"\nand {hard:.2f} against the hard ones. Its least possible value is not 0 but the entropy"
        f"\nof the smoothed labels, {floor:.2f}."
    )


@torch.no_grad()
def follow_row(pipe, x, y):
    """Print one row's input, activations, logits and probabilities, beside its smoothed label."""
    scaler, clf = pipe
    scaled = as_tensor(scaler.transform(x))
    *hidden, logits = clf.module_(scaled, return_activations=True)
    stages = {
        "input": x,
        "scaled input": scaled,
        **{f"hidden layer {i}": activation for i, activation in enumerate(hidden, start=1)},
        "logits": logits,
        "softmax": logits.softmax(dim=1),
        "calibrated": pipe.predict_proba(x),
        "smoothed label": smooth_labels(y, n_classes=N_CLASSES, **SMOOTHING),
    }
    for name, (values,) in stages.items():
        shown = " ".join(f"{value:6.3f}" for value in values[:8])
        print(f"{name:<16}({len(values):>2}) {shown}{' ...' if len(values) > 8 else ''}")
    temperature = clf.calibrator_.temperature_
    print(
        f"\nTrue class {y[0]}, predicted class {pipe.predict(x)[0]}."
        "\nTraining draws the softmax towards the smoothed label, which is less sure than the net"
        f"\nmay be. Calibration divides the logits by {temperature:.2f}, the temperature that suits"
        "\nthe held-out rows best."
    )


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
    path = folder / "quickstart_reliability.png"
    display.figure_.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
