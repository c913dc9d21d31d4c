"""What a search on a Dask cluster costs beside its training, and would cost on a large one.

Runs three searches on worker processes of this machine, which differ in the number of their fits
and of their groups of nets, and solves for what the whole, each fit and each group take beyond
training. From these it estimates a search of a thousand candidates on a hundred workers; it does
not run one.

Run it as ``python benchmarks/cluster.py [--workers N] [--epochs N]``; it takes a few minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from dask.distributed import Client, LocalCluster
from joblib import parallel_config
from threadpoolctl import threadpool_limits

from sksmooth import BatchedGridSearchCV, LabelSmoothingClassifier, make_tabular

FOLDS = 5
ROUNDS = 3
# Candidates, and settings of the learning rate, each of which is a group of nets at least.
SEARCHES = [(12, 1), (48, 1), (48, 24)]


class Cost(NamedTuple):
    """Seconds beyond training: of a search, of each of its fits, of each of its groups."""

    search: float
    fit: float
    group: float

    def of(self, n_fits: int, n_groups: int) -> float:
        """Give the seconds beyond training of a search."""
        return self.search + self.fit * n_fits + self.group * n_groups


class Timing(NamedTuple):
    """A search: its fits and groups, what it took, and what its nets took to train."""

    n_fits: int
    n_groups: int
    seconds: float
    training: float


def run(n_candidates: int, n_rates: int, epochs: int, n_workers: int) -> Timing:
    """Search once, inside the active backend."""
    X, y = make_tabular(1000, random_state=0)
    net = LabelSmoothingClassifier(max_epochs=epochs, train_split=0.2, random_state=0)
    grid = {
        "label_smoothing": np.linspace(0, 0.3, n_candidates // n_rates).tolist(),
        "lr": np.geomspace(0.001, 0.01, n_rates).tolist(),
    }
    search = BatchedGridSearchCV(net, grid, cv=FOLDS, refit=False)
    begin = time.perf_counter()
    search.fit(X, y)
    seconds = time.perf_counter() - begin
    training = float(search.cv_results_["mean_fit_time"].sum() * FOLDS)
    n_groups = n_rates * -(-n_workers // n_rates)
    return Timing(n_candidates * FOLDS, n_groups, seconds, training)


def solve(timings: Sequence[Timing], n_workers: int) -> Cost:
    """Find the costs that explain what searches took beyond training."""
    facts = np.array([[1, timing.n_fits, timing.n_groups] for timing in timings])
    beyond = [timing.seconds - timing.training / n_workers for timing in timings]
    return Cost(*np.linalg.lstsq(facts, np.array(beyond))[0].clip(0).tolist())


def estimate(cost: Cost, seconds_per_fit: float, n_candidates: int, n_workers: int) -> str:
    """Tell what a search would take where each worker has one group."""
    n_fits = n_candidates * FOLDS
    training, beyond = n_fits * seconds_per_fit / n_workers, cost.of(n_fits, n_workers)
    return (
        f"estimate, {n_candidates:,} candidates, {FOLDS} folds, {n_workers} workers: "
        f"{training + beyond:.1f} s, {training:.1f} s of it training and {beyond:.1f} s the rest; "
        f"one worker would train for {n_fits * seconds_per_fit:.0f} s"
    )


def main(argv: Sequence[str] | None = None) -> Cost:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="processes to start here")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args(argv)
    with (
        threadpool_limits(1),
        LocalCluster(
            n_workers=options.workers, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
        parallel_config("dask"),
    ):
        run(*SEARCHES[0], options.epochs, options.workers)  # workers import what they need
        rounds = [
            [run(*search, options.epochs, options.workers) for search in SEARCHES]
            for _ in range(ROUNDS)
        ]
    timings = [Timing(*map(median, zip(*own, strict=True))) for own in zip(*rounds, strict=True)]
    for timing in timings:
        print(
            f"{timing.n_fits} fits, {timing.n_groups} groups, {options.workers} workers: "
            f"{timing.seconds:.2f} s, {timing.training:.2f} s of training in all"
        )
    cost = solve(timings, options.workers)
    print(
        f"beyond training: {cost.search:.2f} s a search, {1000 * cost.fit:.1f} ms a fit, "
        f"{1000 * cost.group:.1f} ms a group"
    )
    print(estimate(cost, timings[1].training / timings[1].n_fits, 1000, 100))
    return cost


if __name__ == "__main__":  # workers are new processes, which import this file
    main()
