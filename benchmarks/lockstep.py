"""Speed of BatchedGridSearchCV and LabelSmoothingClassifierCV beside those who do the same work.

Timed as ``timing.py`` says. All train the same net on the same float32 rows for
the same number of epochs in 5 folds. Searches refit their best candidate, as they do by default.

Run it as ``python benchmarks/lockstep.py [--quick] [--json FILE]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV
from speed import N_CLASSES, N_FEATURES, PlainNet, Schedule, make_mlp, make_ours, make_skorch
from timing import (
    DEFAULT_THREADS,
    PEER_THREADS,
    Case,
    Contestant,
    make_parser,
    print_results,
    reporting,
)

from sksmooth import BatchedGridSearchCV, LabelSmoothingClassifierCV, make_tabular

FOLDS = 5
GRID = [0.0, 0.05, 0.1, 0.15, 0.2]  # ε of the searches
CHOICE = [0.0, 0.05, 0.1, 0.2]  # ε of LabelSmoothingClassifierCV
ALPHAS = [0.0, 1e-5, 1e-4, 1e-3, 1e-2]  # MLPClassifier has no ε: as many candidates of another kind

# A case takes its rounds for this long, but two of them at least.
SECONDS = {"quick": 0.0, "full": 15.0}
WARM_UP_ROWS = 500


@dataclass(frozen=True)
class Work(Schedule):
    """A schedule for rows of any shape."""

    n_features: int = N_FEATURES
    n_classes: int = N_CLASSES

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Make the rows and their labels."""
        X, y = make_tabular(self.n_rows, self.n_features, self.n_classes, random_state=0)
        return X.astype(np.float32), y

    def __str__(self) -> str:
        shape = f"{self.n_rows:,} × {self.n_features} × {self.n_classes}"
        return f"{shape}, batch {self.batch_size}, {self.epochs} epochs"


SMALL = Work(n_rows=1000, batch_size=128, epochs=20)
LETTERS = Work(n_rows=20_000, batch_size=256, epochs=2, n_features=16, n_classes=26)


# -- contestants --------------------------------------------------------------------------------


def contestant(
    name: str,
    make: Callable[[int], Any],
    work: Work,
    limit: float | None = None,
    is_ours: bool = False,
) -> Contestant:
    """Fit what `make` gives for a number of epochs; warm up with one epoch of a few rows."""
    X, y = work.rows()

    def fit(epochs: int, n_rows: int) -> None:
        make(epochs).fit(X[:n_rows], y[:n_rows])

    return Contestant(
        name,
        run=partial(fit, work.epochs, work.n_rows),
        warm_up=partial(fit, 1, WARM_UP_ROWS),
        threads=(DEFAULT_THREADS,) if is_ours else PEER_THREADS,
        limit=limit,
    )


def make_net(work: Work, epochs: int, **params: Any) -> Any:
    """Make our classifier; it trains for all epochs and keeps the last."""
    return make_ours(work, epochs, **{"early_stopping": False, **params})


def search_batched(work: Work, **params: Any) -> Contestant:
    def make(epochs: int) -> BatchedGridSearchCV:
        net = make_net(work, epochs, **params)
        return BatchedGridSearchCV(net, {"label_smoothing": GRID}, cv=FOLDS)

    return contestant("BatchedGridSearchCV", make, work, is_ours=True)


def search_ours(work: Work, limit: float | None = None, **params: Any) -> Contestant:
    def make(epochs: int) -> GridSearchCV:
        net = make_net(work, epochs, **params)
        return GridSearchCV(net, {"label_smoothing": GRID}, cv=FOLDS, n_jobs=1)

    return contestant("GridSearchCV(LabelSmoothingClassifier)", make, work, limit)


def search_mlp(work: Work, n_jobs: int, limit: float | None = None) -> Contestant:
    def make(epochs: int) -> GridSearchCV:
        return GridSearchCV(make_mlp(work, epochs), {"alpha": ALPHAS}, cv=FOLDS, n_jobs=n_jobs)

    return contestant(f"GridSearchCV(MLPClassifier), n_jobs={n_jobs}", make, work, limit)


def search_skorch(work: Work, limit: float | None = None) -> Contestant:
    def make(epochs: int) -> GridSearchCV:
        grid = {"criterion__label_smoothing": GRID}
        return GridSearchCV(make_skorch(work, epochs), grid, cv=FOLDS, n_jobs=1)

    return contestant("GridSearchCV(skorch)", make, work, limit)


def choose(work: Work, label_smoothings: list[float], **params: Any) -> Contestant:
    def make(epochs: int) -> LabelSmoothingClassifierCV:
        return LabelSmoothingClassifierCV(
            make_net(work, epochs, calibration="temperature", **params),
            label_smoothings=label_smoothings,
            encodings=(None,),
            cv=FOLDS,
            random_state=0,
        )

    return contestant("LabelSmoothingClassifierCV", make, work, is_ours=True)


def calibrate_mlp(work: Work, limit: float | None = None) -> Contestant:
    def make(epochs: int) -> CalibratedClassifierCV:
        return CalibratedClassifierCV(make_mlp(work, epochs), method="temperature", cv=FOLDS)

    return contestant("CalibratedClassifierCV(MLPClassifier)", make, work, limit)


def fit_once(name: str, work: Work, limit: float | None = None, **params: Any) -> Contestant:
    return contestant(name, lambda epochs: make_net(work, epochs, **params), work, limit)


# -- the table ----------------------------------------------------------------------------------


def search_cases() -> Iterator[Case]:
    # Each peer has a case of its own, so that the slow do not cost the others their rounds.
    # The better of MLPClassifier's two n_jobs is the one with the higher ratio.
    work = f"BatchedGridSearchCV, 5 ε; {SMALL}"
    for peer in (
        search_ours(SMALL, limit=0.25),
        search_mlp(SMALL, n_jobs=1, limit=0.35),
        search_mlp(SMALL, n_jobs=2, limit=0.35),
        search_skorch(SMALL, limit=0.05),
    ):
        yield Case(work, search_batched(SMALL), [peer])


def choice_cases() -> Iterator[Case]:
    yield Case(
        f"LabelSmoothingClassifierCV, 4 ε × 5 folds; {SMALL}",
        choose(SMALL, CHOICE),
        [calibrate_mlp(SMALL, limit=1.0)],
    )
    yield Case(
        "the same, choosing the epoch",
        choose(SMALL, CHOICE, early_stopping=True, patience=SMALL.epochs + 1),
        [calibrate_mlp(SMALL, limit=1.0)],
    )
    held_out = {"train_split": 0.2, "calibration": "temperature"}
    yield Case(
        f"LabelSmoothingClassifierCV, 1 ε × 5 folds; {SMALL}",
        choose(SMALL, [0.1]),
        [
            fit_once("LabelSmoothingClassifier, 200 rows held out", SMALL, limit=2.5, **held_out),
            fit_once("LabelSmoothingClassifier on all rows, uncalibrated", SMALL, limit=2.5),
        ],
        calls=5,
    )


def predict_cases() -> Iterator[Case]:
    X, y = SMALL.rows()
    ours = LabelSmoothingClassifierCV(random_state=0).fit(X, y)
    mlp = make_mlp(SMALL, SMALL.epochs).fit(X, y)
    million = np.tile(X, (1000, 1))
    for rows, work, calls in ((X[:1], "1 row", 200), (million, "1,000,000 × 10", 1)):
        yield Case(
            f"predict_proba of LabelSmoothingClassifierCV as it comes, {work}",
            Contestant("ours", partial(ours.predict_proba, rows), threads=(DEFAULT_THREADS,)),
            [Contestant("MLPClassifier", partial(mlp.predict_proba, rows), limit=2.0)],
            calls=calls,
        )


def further_cases() -> Iterator[Case]:
    """Compare on more rows and classes, and with a module that sksmooth does not know."""
    work = f"BatchedGridSearchCV, 5 ε; {LETTERS}"
    peers = [search_ours(LETTERS), search_mlp(LETTERS, n_jobs=2)]
    yield Case(work, search_batched(LETTERS), peers)
    work = f"LabelSmoothingClassifierCV, 4 ε × 5 folds; {LETTERS}"
    yield Case(work, choose(LETTERS, CHOICE), [calibrate_mlp(LETTERS)])

    module = {"module": PlainNet}
    work = f"BatchedGridSearchCV, 5 ε; custom module, {SMALL}"
    yield Case(work, search_batched(SMALL, **module), [search_ours(SMALL, **module)])
    work = f"LabelSmoothingClassifierCV, 4 ε × 5 folds; custom module, {SMALL}"
    yield Case(work, choose(SMALL, CHOICE, **module), [calibrate_mlp(SMALL)])


def all_cases(quick: bool) -> Iterator[Case]:
    yield from search_cases()
    yield from choice_cases()
    yield from predict_cases()
    if not quick:
        yield from further_cases()


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    budget = SECONDS["quick" if arguments.quick else "full"]
    remark = f"All nets have layers of 64 and 32 units; {FOLDS} folds.\n"
    with reporting(arguments, remark) as report:
        report["results"] = print_results(all_cases(arguments.quick), budget)


if __name__ == "__main__":
    main()
