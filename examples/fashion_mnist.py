"""Fashion-MNIST: what smoothing does to the probabilities, and calibration mends
==============================================================================

Trains the net 784-512-256-128-10 twice on the 60,000 images of clothes, once on hard labels (ε=0)
and once with a fifth of each label's mass spread over all classes (ε=0.2). The smoothed net's
probabilities are too small, the other's too large. One temperature, fitted to held-out images,
mends most of either, and leaves every predicted class as it was.

Run it (some minutes; needs the extra ``plot``)::

    python examples/fashion_mnist.py
    python examples/fashion_mnist.py --epochs 2 --train-rows 6000      # a quick look

Where Fashion-MNIST is not on the machine, scikit-learn downloads it once (see ``--data``
otherwise).
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, log_loss

from sksmooth import (
    LabelSmoothingClassifier,
    ReliabilityDisplay,
    area_under_risk_coverage,
    expected_calibration_error,
    load_fashion_mnist,
)
from sksmooth.datasets import FASHION_MNIST_CLASSES

# sphinx_gallery_thumbnail_path = "_static/fashion_mnist.png"

LABEL_SMOOTHINGS = (0.0, 0.2)
HELD_OUT = 1 / 12  # 5,000 of 60,000 images: enough for a temperature, few enough not to be missed


def main(argv=None):
    options = read_options(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    X_train, y_train, X_test, y_test = load_images(options)
    print(f"{len(X_train):,} training images (of which {HELD_OUT:.1%} held out for calibration),")
    print(f"{len(X_test):,} test images, of 28 x 28 pixels in {len(FASHION_MNIST_CLASSES)} classes")

    probabilities, results = {}, []
    for label_smoothing in LABEL_SMOOTHINGS:
        print(f"\n== Training with label_smoothing={label_smoothing} ==\n")
        clf = make_classifier(label_smoothing, options)
        start = perf_counter()
        clf.fit(X_train, y_train)
        seconds = perf_counter() - start
        temperature = clf.calibrator_.temperature_
        print(f"\nTrained in {seconds:.0f} s; temperature {temperature:.3f}")

        # The same net read twice: the softmax it was trained with, and with the calibrator.
        logits = clf.forward(X_test).double()
        readings = {"raw": logits.softmax(dim=1).numpy(), "calibrated": clf.predict_proba(X_test)}
        probabilities |= {(label_smoothing, name): proba for name, proba in readings.items()}
        results.append(
            {
                "label_smoothing": label_smoothing,
                "temperature": temperature,
                "seconds": seconds,
                "held_out_accuracy_per_epoch": clf.history[:, "valid_acc"],
                "last_test_image": {name: proba[-1].tolist() for name, proba in readings.items()},
                "test_scores": {name: score(y_test, proba) for name, proba in readings.items()},
            }
        )

    print_last_image(probabilities, y_test[-1])
    print_scores(results)
    picture = options.output / "fashion_mnist_reliability.png"
    draw_reliability(y_test, probabilities, picture)
    print(f"\nSaved {picture}")
    report = {
        "epochs": options.epochs,
        "train_rows": len(X_train),
        "seed": options.seed,
        "last_test_label": FASHION_MNIST_CLASSES[y_test[-1]],
        "results": results,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
        print(f"Saved {options.json}")
    return report


def read_options(argv):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train-rows", type=int, help="train on a random part of the images only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, help="folder of the four IDX files of Fashion-MNIST")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder for the picture"
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(argv)


def load_images(options):
    X_train, y_train, X_test, y_test = load_fashion_mnist(options.data)
    if options.train_rows is not None:
        rows = np.random.default_rng(options.seed).permutation(len(X_train))[: options.train_rows]
        X_train, y_train = X_train[rows], y_train[rows]
    # Bytes become numbers from 0 to 1, in the dtype that the net computes in.
    return X_train.astype(np.float32) / 255, y_train, X_test.astype(np.float32) / 255, y_test


def make_classifier(label_smoothing, options):
    return LabelSmoothingClassifier(
        label_smoothing=label_smoothing,
        smoothing="uniform",
        module__hidden_layer_sizes=(512, 256, 128),
        module__dropout=0.0,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=64,
        max_epochs=options.epochs,
        # The schedule is the comparison, so every epoch is trained; the held-out rows serve
        # for the calibrator only.
        early_stopping=False,
        train_split=HELD_OUT,
        calibration="temperature",
        random_state=options.seed,
        verbose=1,
    )


def score(y_true, proba):
    classes = range(proba.shape[1])
    return {
        "accuracy": accuracy_score(y_true, proba.argmax(axis=1)),
        "log_loss": log_loss(y_true, proba, labels=classes),
        "ece": expected_calibration_error(y_true, proba, n_bins=15, labels=classes),
        "aurc": area_under_risk_coverage(y_true, proba, labels=classes),
    }


def print_last_image(probabilities, label):
    print(f"\n== Probabilities of the last test image ({FASHION_MNIST_CLASSES[label]}) ==\n")
    table = pd.DataFrame(
        {f"ε={eps}, {reading}": proba[-1] for (eps, reading), proba in probabilities.items()},
        index=FASHION_MNIST_CLASSES,
    )
    print(table.to_string(float_format="{:.4f}".format))


def print_scores(results):
    print("\n== Test scores ==\n")
    table = pd.DataFrame(
        {
            f"ε={result['label_smoothing']}, {reading}": scores
            for result in results
            for reading, scores in result["test_scores"].items()
        }
    ).T
    formats = {"accuracy": "{:.2%}", "log_loss": "{:.4f}", "ece": "{:.2%}", "aurc": "{:.4f}"}
    print(table.to_string(formatters={name: text.format for name, text in formats.items()}))


def draw_reliability(y_true, probabilities, path):
    figure, panels = plt.subplots(1, 2, figsize=(12, 7.2))
    for ax, reading in zip(panels, ("raw", "calibrated"), strict=True):
        ax.set_title(f"{reading} probabilities")
        for label_smoothing in LABEL_SMOOTHINGS:
            proba = probabilities[label_smoothing, reading]
            ReliabilityDisplay.from_predictions(
                y_true,
                proba,
                labels=range(proba.shape[1]),
                name=f"ε={label_smoothing}",
                ax=ax,
            )
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
