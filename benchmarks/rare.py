"""Probabilities of a rare class: tables of two classes, thinned to 1 % of positives.

Of the training rows of ``quality.py``'s splits, all negatives are kept and as many positives as
make up 1 % (at least ten). All rows of the test part are kept, weighed so that the positives are
1 % of them, too: the log-loss is that of the thinned population, with less noise than a thinned
test part would have. Contestants, preprocessing and threads are those of ``quality.py``.

Run it as ``python benchmarks/rare.py --data FOLDER [--splits N] [--json FILE]``; of the tables in
that folder, those of two classes with at least 1,000 rows of each are taken.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from quality import CONTESTANTS, OURS, Split, Table, load_tables, make_preprocessing
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from sksmooth import LabelSmoothingClassifier

SHARE, FEWEST_POSITIVES, FEWEST_OF_A_CLASS = 0.01, 10, 1000
BALANCED = "LabelSmoothingClassifier, balanced, calibrated to rows as they come"
PEERS = (
    "LogisticRegression",
    "CalibratedClassifierCV(MLPClassifier)",
    "HistGradientBoostingClassifier",
    "CatBoost",
)
WHO = (OURS, f"{OURS}, ε=0", "LabelSmoothingClassifier", BALANCED, *PEERS)


def thin(table: Table, number: int) -> tuple[Split, np.ndarray]:
    """Give a split whose training rows are thinned, and the weights of its test rows."""
    split = Split.of(table, number, flipped=False)
    rng = np.random.default_rng(number)
    positive = np.flatnonzero(split.y_train == 1)
    negative = np.flatnonzero(split.y_train == 0)
    n_positive = max(FEWEST_POSITIVES, round(SHARE / (1 - SHARE) * len(negative)))
    kept = np.sort(np.concatenate([negative, rng.permutation(positive)[:n_positive]]))
    share = split.y_test.mean()
    weight = np.where(split.y_test == 1, SHARE / share, (1 - SHARE) / (1 - share))
    thinned = Split(split.X_train.iloc[kept], split.X_test, split.y_train[kept], split.y_test)
    return thinned, weight


def make(who: str, split: Split, seed: int) -> Any:
    if who == BALANCED:
        return LabelSmoothingClassifier(
            class_weight="balanced", calibration_weight="unweighted", random_state=seed
        )
    return CONTESTANTS[who](split, seed)


def measure(table: Table, number: int) -> Iterator[dict[str, Any]]:
    """Give a line for each contestant."""
    split, weight = thin(table, number)
    for who in WHO:
        start = time.perf_counter()
        model = make_pipeline(make_preprocessing(who), make(who, split, number))
        proba = model.fit(split.X_train, split.y_train).predict_proba(split.X_test)[:, 1]
        yield {
            "data": table.name,
            "split": number,
            "who": who,
            "positives": int(split.y_train.sum()),
            "log_loss": log_loss(split.y_test, proba, sample_weight=weight),
            "roc_auc": roc_auc_score(split.y_test, proba),
            "mean_probability": np.average(proba, weights=weight),
            "seconds": time.perf_counter() - start,
        }


def report(results: pd.DataFrame) -> dict[str, Any]:
    """Print means, mean ranks and ratios; give them."""
    summary: dict[str, Any] = {}
    for metric, ascending in (("log_loss", True), ("roc_auc", False)):
        wide = results.pivot_table(index=["data", "split"], columns="who", values=metric)
        means = wide.groupby("data").mean()[list(WHO)]
        ranks = wide.rank(axis=1, ascending=ascending).groupby("data").mean().mean()[list(WHO)]
        print(
            f"\n{metric}\n{means.T.round(4).to_string()}\n\nmean rank\n{ranks.round(2).to_string()}"
        )
        summary[metric] = {"means": means.T.to_dict(), "mean_rank": ranks.to_dict()}
    means = results.groupby("who")["mean_probability"].mean()[list(WHO)]
    print(f"\nmean probability, of which {SHARE} would be right\n{means.round(4).to_string()}")
    return {**summary, "mean_probability": means.to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of CSV files")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    lines = []
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all that count are the figures
        for table in load_tables(options.data):
            counts = np.bincount(table.y)
            if len(counts) != 2 or counts.min() < FEWEST_OF_A_CLASS:
                continue
            for number in range(options.splits):
                for line in measure(table, number):
                    lines.append(line)
                    print(json.dumps(line), flush=True)
    summary = report(pd.DataFrame(lines))
    if options.json:
        options.json.write_text(json.dumps({"lines": lines, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
