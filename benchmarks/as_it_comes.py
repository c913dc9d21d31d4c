"""Speed as a user meets it: defaults, real tables, threads as they come, a machine at work.

Timed as ``timing.py`` says. The tables are scikit-learn's own of 178 to 1,797 rows and, with
``--data``, the CSV files of a folder that have up to 6,000 rows, as in ``quality.py``.

Run it as ``python benchmarks/as_it_comes.py [--data FOLDER] [--quick] [--json FILE]``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import Split, load_tables, make_calibrated_mlp, make_preprocessing
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from timing import (
    DEFAULT_THREADS,
    Case,
    Contestant,
    busy_processes,
    make_parser,
    print_results,
    reporting,
)

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV

SECONDS = {"quick": 0.0, "full": 5.0}
MOST_ROWS = 6000
DEFAULT = (DEFAULT_THREADS,)


def load(folder: Path | None) -> Iterator[tuple[str, Split, np.ndarray, np.ndarray]]:
    """Give the training rows of each table."""
    for table in load_tables(folder):
        split = Split.of(table, 0, flipped=False)
        rows = make_preprocessing().fit_transform(split.X_train)
        if len(table.y) <= MOST_ROWS:
            yield table.name, split, np.asarray(rows), split.y_train


def defaults_cases(folder: Path | None) -> Iterator[Case]:
    """Compare our classes with their peers, everything left at its default."""
    for name, split, X, y in load(folder):
        shape = f"{name}, {len(X):,} × {X.shape[1]}"
        yield Case(
            f"LabelSmoothingClassifier() on {shape}",
            Contestant("ours", partial(fit, LabelSmoothingClassifier, X, y), threads=DEFAULT),
            [
                Contestant(
                    "MLPClassifier()",
                    partial(fit, MLPClassifier, X, y),
                    threads=DEFAULT,
                    limit=1.5,
                )
            ],
        )
        yield Case(
            f"LabelSmoothingClassifierCV() on {shape}",
            Contestant("ours", partial(fit, LabelSmoothingClassifierCV, X, y), threads=DEFAULT),
            [
                Contestant(
                    "CalibratedClassifierCV(MLPClassifier())",
                    lambda split=split, X=X, y=y: make_calibrated_mlp(split, 0).fit(X, y),
                    threads=DEFAULT,
                    limit=1.0,
                )
            ],
        )


def fit(make: Callable[..., Any], X: np.ndarray, y: np.ndarray) -> Any:
    return make(random_state=0).fit(X, y)


class Convolution(torch.nn.Module):
    """Eight filters over the images of 8 × 8 pixels, and a dense layer."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.filters = torch.nn.Conv2d(1, 8, 3)
        self.output = torch.nn.Linear(8 * 6 * 6, n_classes)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        return self.output(self.filters(X.view(-1, 1, 8, 8)).relu().flatten(1))


def load_cases() -> Iterator[Case]:
    """Compare a fit beside busy processes with the same in one thread of torch's."""
    _, _, X, y = next(own for own in load(None) if own[0] == "digits")
    for name, make in {
        "LabelSmoothingClassifier()": LabelSmoothingClassifier,
        "LabelSmoothingClassifier(Convolution)": partial(LabelSmoothingClassifier, Convolution),
        "LabelSmoothingClassifierCV()": LabelSmoothingClassifierCV,
    }.items():
        run = partial(fit, make, X, y)
        yield Case(
            f"{name} on digits, beside {os.cpu_count()} busy processes",
            Contestant("as it comes", run, threads=DEFAULT),
            [Contestant("torch.set_num_threads(1)", run, threads=(1,), limit=1.3)],
            beside=partial(busy_processes, os.cpu_count() or 1),
        )


def side_by_side_cases() -> Iterator[Case]:
    """Compare two at once with one after the other."""
    _, _, X, y = next(own for own in load(None) if own[0] == "digits")
    grid = {"label_smoothing": [0.0, 0.1, 0.2, 0.4]}

    def search(n_jobs: int) -> None:
        GridSearchCV(LabelSmoothingClassifier(random_state=0), grid, cv=3, n_jobs=n_jobs).fit(X, y)

    def fit_two(n_threads: int) -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda seed: fit(LabelSmoothingClassifier, X, y), range(2)))

    for work, run in (
        ("GridSearchCV on digits, n_jobs=2", search),
        ("fits in two threads", fit_two),
    ):
        yield Case(
            work,
            Contestant("two at once", partial(run, 2), threads=DEFAULT),
            [Contestant("one after the other", partial(run, 1), threads=DEFAULT, limit=0.7)],
        )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of CSV files with a column `target`")
    arguments = parser.parse_args()
    budget = SECONDS["quick" if arguments.quick else "full"]
    cases = chain(defaults_cases(arguments.data), load_cases(), side_by_side_cases())
    with reporting(arguments) as report:
        report["results"] = print_results(cases, budget)


if __name__ == "__main__":
    main()
