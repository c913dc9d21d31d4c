"""The frame of the speed benchmarks: contestants in turns, ratios, tables, JSON.

Every comparison is interleaved in one process, after a warm-up. A round times each contestant once,
so a ratio compares neighbours in time. Peers get whichever of 1 or 2 threads their warm-up finds
faster; sksmooth runs as it comes.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import sklearn
import skorch
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

import sksmooth

DEFAULT_THREADS = torch.get_num_threads()
PEER_THREADS = range(1, min(DEFAULT_THREADS, 2) + 1)
POOLS = ThreadpoolController()

# A comparison takes its rounds for so many seconds, but within these bounds.
FEWEST_ROUNDS, MOST_ROUNDS = 2, 50


@dataclass(frozen=True)
class Contestant:
    """Somebody who does the work; `warm_up` is a short piece of it, the work itself if None."""

    name: str
    run: Callable[[], Any]
    warm_up: Callable[[], Any] | None = None
    threads: Sequence[int] = PEER_THREADS
    limit: float | None = None


@dataclass(frozen=True)
class Case:
    """Some work, ours and the others', done `calls` times a round, beside other work perhaps."""

    work: str
    ours: Contestant
    peers: Sequence[Contestant]
    calls: int = 1
    beside: Callable[[], AbstractContextManager] = nullcontext


@dataclass(frozen=True)
class Result:
    """A row of the table; times are of one call, `ratio` is that of the medians."""

    work: str
    against: str
    limit: float | None
    ratio: float
    lowest: float
    middle: float
    highest: float
    ours_ms: float
    theirs_ms: float
    their_threads: int
    rounds: int


# -- timing -------------------------------------------------------------------------------------


@contextmanager
def limit_threads(n_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    with POOLS.limit(limits=n_threads, user_api="blas"):
        yield
    torch.set_num_threads(before)


def measure(run: Callable[[], Any], calls: int = 1) -> float:
    """Give the seconds of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def warm_up(contestant: Contestant, calls: int) -> int:
    """Warm a contestant up; give the number of threads with which it was fastest."""
    seconds = {}
    tries = 1 if len(contestant.threads) == 1 else 3
    for n_threads in contestant.threads:
        with limit_threads(n_threads):
            run = contestant.warm_up or contestant.run
            seconds[n_threads] = median(measure(run, calls) for _ in range(tries))
    return min(seconds, key=lambda n_threads: seconds[n_threads])


def compare(
    contestants: Sequence[Contestant], budget: float, calls: int = 1
) -> tuple[list[int], np.ndarray]:
    """Time contestants in turns; give their threads and the seconds, (rounds, contestants)."""
    threads = [warm_up(contestant, calls) for contestant in contestants]
    rounds: list[list[float]] = []
    end = time.perf_counter() + budget
    while len(rounds) < FEWEST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.perf_counter() < end):
        seconds = [0.0] * len(contestants)
        order = list(range(len(contestants)))
        for i in reversed(order) if len(rounds) % 2 else order:
            gc.collect()  # nobody pays for another's garbage
            with limit_threads(threads[i]):
                seconds[i] = measure(contestants[i].run, calls)
        rounds.append(seconds)
    return threads, np.array(rounds)


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep so many other processes busy."""
    processes = [multiprocessing.get_context("spawn").Process(target=_spin) for _ in range(number)]
    for process in processes:
        process.daemon = True
        process.start()
    time.sleep(1)  # until they spin
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        pass


def run_case(case: Case, budget: float) -> list[Result]:
    with case.beside():
        threads, seconds = compare([case.ours, *case.peers], budget, case.calls)
    return [
        summarise(case.work, peer, threads[i], seconds[:, 0], seconds[:, i])
        for i, peer in enumerate(case.peers, start=1)
    ]


def summarise(
    work: str, peer: Contestant, n_threads: int, ours: np.ndarray, theirs: np.ndarray
) -> Result:
    ratios = (ours / theirs).tolist()
    return Result(
        work,
        peer.name,
        peer.limit,
        ratio=float(np.median(ours) / np.median(theirs)),
        lowest=min(ratios),
        middle=median(ratios),
        highest=max(ratios),
        ours_ms=1e3 * float(np.median(ours)),
        theirs_ms=1e3 * float(np.median(theirs)),
        their_threads=n_threads,
        rounds=len(ratios),
    )


# -- report ---------------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    packages = (sksmooth, torch, skorch, sklearn, np)
    return {
        "versions": {
            "python": platform.python_version(),
            **{package.__name__: package.__version__ for package in packages},
        },
        "cores": os.cpu_count(),
        "torch_threads": DEFAULT_THREADS,
        "blas_threads": {pool["internal_api"]: pool["num_threads"] for pool in POOLS.info()},
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


HEADER = (
    "| work | against (threads) | at most | ratio | min | median | max | ours, ms | theirs, ms |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def format_row(result: Result) -> str:
    limit = "" if result.limit is None else f"{result.limit:.2f}"
    return (
        f"| {result.work} | {result.against} ({result.their_threads}) | {limit} "
        f"| {result.ratio:.2f} | {result.lowest:.2f} | {result.middle:.2f} | {result.highest:.2f} "
        f"| {result.ours_ms:.4g} | {result.theirs_ms:.4g} |"
    )


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="less of it, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser


@contextmanager
def reporting(arguments: argparse.Namespace, remark: str = "") -> Iterator[dict[str, Any]]:
    """Print what goes before and after the tables; write to a file what they are made of."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # MLPClassifier at its last epoch
    start = time.perf_counter()
    report: dict[str, Any] = {"machine": describe_machine(), "quick": arguments.quick}
    versions = ", ".join(f"{k} {v}" for k, v in report["machine"]["versions"].items())
    print(f"{versions}; {os.cpu_count()} cores, torch with {DEFAULT_THREADS} threads\n")
    if remark:
        print(f"{remark}\n")
    yield report
    report["seconds"] = time.perf_counter() - start
    print(f"\nMeasured in {report['seconds']:.0f} s.")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def print_results(cases: Iterable[Case], budget: float) -> list[dict[str, Any]]:
    """Measure and print a row for each comparison; give them."""
    print("ratio: ours to theirs, of the medians; min, median and max are over the rounds.\n")
    print(HEADER)
    results = []
    for case in cases:
        for result in run_case(case, budget):
            print(format_row(result), flush=True)
            results.append(asdict(result))
    return results
