"""Speed and memory of LabelSmoothingClassifier, side by side with those who do the same work.

Timed as ``timing.py`` says: same net, rows, batch size and epochs. The peers get their best
settings: float32 rows, fused Adam, no DataLoader in the raw loop.

Run it as ``python benchmarks/speed.py [--quick] [--json FILE]``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNetClassifier
from timing import (
    DEFAULT_THREADS,
    PEER_THREADS,
    Case,
    Contestant,
    compare,
    make_parser,
    print_results,
    reporting,
)
from torch import nn

from sksmooth import LabelSmoothingClassifier, make_tabular

N_FEATURES, N_CLASSES = 10, 3
LEARNING_RATE = 0.001
EPSILON = 0.1
SMALL, LARGE = (64, 32), (512, 256, 128)

# For how long a comparison takes its rounds.
SECONDS = {"quick": 2.0, "full": 25.0}


@dataclass(frozen=True)
class Schedule:
    """What all contestants of a fit share."""

    n_rows: int
    batch_size: int
    epochs: int
    widths: tuple[int, ...] = SMALL
    dropout: float = 0.0

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Make the rows and their labels."""
        X, y = make_tabular(self.n_rows, N_FEATURES, N_CLASSES, random_state=0)
        return X.astype(np.float32), y


# -- contestants --------------------------------------------------------------------------------


class PlainNet(nn.Module):
    """A user's own module, unknown to sksmooth."""

    def __init__(self, widths: Sequence[int] = SMALL, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [N_FEATURES, *widths]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], N_CLASSES))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        return self.layers(X)


def make_ours(schedule: Schedule, epochs: int, **params: Any) -> LabelSmoothingClassifier:
    """Make our classifier, without held-out rows unless `params` say otherwise."""
    net: dict[str, Any] = {
        "module__hidden_layer_sizes": schedule.widths,
        "module__dropout": schedule.dropout,  # 0: the others' nets have none
    }
    return LabelSmoothingClassifier(
        **{
            "label_smoothing": EPSILON,
            "optimizer": torch.optim.Adam,
            "lr": LEARNING_RATE,
            "batch_size": schedule.batch_size,
            "max_epochs": epochs,
            "train_split": None,
            "calibration": None,
            "random_state": 0,
            **({} if "module" in params else net),
            **params,
        }
    )


def make_mlp(schedule: Schedule, epochs: int) -> MLPClassifier:
    return MLPClassifier(
        hidden_layer_sizes=schedule.widths,
        solver="adam",
        alpha=0.0,
        batch_size=schedule.batch_size,
        learning_rate_init=LEARNING_RATE,
        max_iter=epochs,
        n_iter_no_change=epochs + 1,
        tol=0.0,
        random_state=0,
    )


def make_skorch(schedule: Schedule, epochs: int) -> NeuralNetClassifier:
    return NeuralNetClassifier(
        PlainNet,
        module__widths=schedule.widths,
        criterion=nn.CrossEntropyLoss,
        criterion__label_smoothing=EPSILON,
        optimizer=torch.optim.Adam,
        lr=LEARNING_RATE,
        batch_size=schedule.batch_size,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
    )


def train_raw(X: np.ndarray, y: np.ndarray, schedule: Schedule, epochs: int) -> nn.Module:
    """Train by a loop as one writes it when it is to be fast."""
    torch.manual_seed(0)
    net = PlainNet(schedule.widths, schedule.dropout)
    criterion = nn.CrossEntropyLoss(label_smoothing=EPSILON)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        batches = (
            inputs[order].split(schedule.batch_size),
            labels[order].split(schedule.batch_size),
        )
        for batch, targets in zip(*batches, strict=True):
            optimizer.zero_grad()
            criterion(net(batch), targets).backward()
            optimizer.step()
    return net


def fits(schedule: Schedule, limits: dict[str, float], **params: Any) -> list[Contestant]:
    """Give the contestants of a fit: ours, then the peers that `limits` names."""
    X, y = schedule.rows()
    train: dict[str, Callable[[int], Any]] = {
        "sksmooth": lambda epochs: make_ours(schedule, epochs, **params).fit(X, y),
        "MLPClassifier": lambda epochs: make_mlp(schedule, epochs).fit(X, y),
        "raw torch loop": lambda epochs: train_raw(X, y, schedule, epochs),
        "skorch": lambda epochs: make_skorch(schedule, epochs).fit(X, y),
    }
    return [
        Contestant(
            name,
            run=partial(train[name], schedule.epochs),
            warm_up=partial(train[name], 1),
            threads=(DEFAULT_THREADS,) if name == "sksmooth" else PEER_THREADS,
            limit=limits.get(name),
        )
        for name in ("sksmooth", *limits)
    ]


def predict_raw(net: nn.Module, X: np.ndarray, chunk: int | None = None) -> np.ndarray:
    rows = torch.from_numpy(X)
    with torch.inference_mode():
        chunks = rows.split(chunk or len(rows))
        return torch.cat([torch.softmax(net(part), 1) for part in chunks]).numpy()


# -- the table ----------------------------------------------------------------------------------

SMALL_FIT = Schedule(n_rows=1000, batch_size=128, epochs=20)
LONG_FIT = Schedule(n_rows=100_000, batch_size=1024, epochs=5)
WIDE_FIT = Schedule(n_rows=10_000, batch_size=128, epochs=5, widths=LARGE)


def fit_cases() -> Iterator[Case]:
    limits = {"MLPClassifier": 0.60, "raw torch loop": 0.60, "skorch": 0.15}
    ours, *peers = fits(SMALL_FIT, limits)
    yield Case("fit 1,000 × 10, net 64-32, batch 128, 20 epochs", ours, peers)

    ours, *peers = fits(LONG_FIT, {"MLPClassifier": 0.60})
    yield Case("fit 100,000 × 10, net 64-32, batch 1024, 5 epochs", ours, peers)

    ours, *peers = fits(WIDE_FIT, {"raw torch loop": 0.90})
    work = "fit 10,000 × 10, net 512-256-128, batch 128, 5 epochs"
    yield Case(work, ours, peers)

    one_epoch = replace(WIDE_FIT, epochs=1)
    ours, *peers = fits(one_epoch, {"raw torch loop": 0.85, "MLPClassifier": 0.60})
    yield Case("fit 10,000 × 10, net 512-256-128, batch 128, 1 epoch", ours, peers)

    ours, *peers = fits(SMALL_FIT, {"raw torch loop": 1.20}, module=PlainNet)
    yield Case("fit 1,000 × 10 with a custom module", ours, peers)


def dropout_cases() -> Iterator[Case]:
    """Compare fits with dropout 0.1 to those without, and to a loop with the same dropout."""
    for schedule, work, limits in (
        (SMALL_FIT, "fit 1,000 × 10, net 64-32, dropout 0.1", (1.20, 0.45)),
        (WIDE_FIT, "fit 10,000 × 10, net 512-256-128, dropout 0.1", (1.15, 0.60)),
    ):
        (without,) = fits(schedule, {})
        ours, raw = fits(replace(schedule, dropout=0.1), {"raw torch loop": limits[1]})
        without = replace(without, name="the same without dropout", limit=limits[0])
        yield Case(work, ours, [without, replace(raw, name="raw torch loop with nn.Dropout")])


def partial_fit_case() -> Case:
    """Compare the last of 200 calls of partial_fit with the first."""
    X, y = SMALL_FIT.rows()
    new, old = (make_ours(SMALL_FIT, 1).partial_fit(X, y) for _ in range(2))
    for _ in range(200):
        old.partial_fit(X, y)

    def first() -> None:
        if len(new.history) > 10:
            new.initialize()
        new.partial_fit(X, y)

    default = (DEFAULT_THREADS,)
    peer = Contestant("the first ten calls", first, threads=default, limit=1.20)
    ours = Contestant("later", lambda: old.partial_fit(X, y), threads=default)
    return Case("partial_fit of 1,000 × 10 after 200 calls", ours, [peer], calls=10)


def predict_cases() -> Iterator[Case]:
    X, y = SMALL_FIT.rows()
    ours = make_ours(SMALL_FIT, 20, train_split=0.2, calibration="temperature").fit(X, y)
    mlp = make_mlp(SMALL_FIT, 20).fit(X, y)
    net = train_raw(X, y, SMALL_FIT, 20)
    default = (DEFAULT_THREADS,)

    row = X[:1]
    yield Case(
        "predict_proba, 1 row",
        Contestant("sksmooth", lambda: ours.predict_proba(row), threads=default),
        [Contestant("MLPClassifier", lambda: mlp.predict_proba(row), limit=0.80)],
        calls=200,
    )

    million = np.tile(X, (1000, 1))
    yield Case(
        "predict_proba, 1,000,000 × 10",
        Contestant("sksmooth", lambda: ours.predict_proba(million), threads=default),
        [
            Contestant(
                "raw torch forward + softmax", lambda: predict_raw(net, million), limit=1.10
            ),
            Contestant("the same in chunks of 8192", lambda: predict_raw(net, million, 8192)),
        ],
    )


def held_out_cases() -> Iterator[Case]:
    """Compare with the same call without held-out rows, and with what it trains on alone."""
    X, y = SMALL_FIT.rows()
    epochs, default = SMALL_FIT.epochs, (DEFAULT_THREADS,)
    held_out = {
        "train_split": 0.2,
        "calibration": "temperature",
        "early_stopping": True,
        "patience": epochs + 1,
    }
    n_trained = int(0.8 * len(X))
    yield Case(
        "fit 1,000 × 10 with held-out rows, early stopping, temperature",
        Contestant(
            "with", lambda: make_ours(SMALL_FIT, epochs, **held_out).fit(X, y), threads=default
        ),
        [
            Contestant(
                "the same fit without them",
                lambda: make_ours(SMALL_FIT, epochs).fit(X, y),
                threads=default,
                limit=1.30,
            ),
            Contestant(
                "a fit to the 800 other rows",
                lambda: make_ours(SMALL_FIT, epochs).fit(X[:n_trained], y[:n_trained]),
                threads=default,
            ),
        ],
    )


# -- threads, scale, memory, import ---------------------------------------------------------------


def compare_threads(budget: float) -> dict[str, float]:
    """Give the milliseconds of our small fit by torch's number of threads."""
    X, y = SMALL_FIT.rows()
    contestants = [
        Contestant(
            f"{n_threads} thread(s)",
            lambda: make_ours(SMALL_FIT, SMALL_FIT.epochs).fit(X, y),
            threads=(n_threads,),
        )
        for n_threads in (1, 2)
    ]
    _, seconds = compare(contestants, budget)
    milliseconds = 1e3 * np.median(seconds, axis=0)
    return {c.name: ms for c, ms in zip(contestants, milliseconds.tolist(), strict=True)}


def compare_scale(budget: float) -> dict[str, float]:
    """Give the microseconds per row and epoch of a fit of 5 epochs, by the number of rows."""
    sizes = (10_000, 100_000, 1_000_000, 2_000_000)
    repeats = [min(20, sizes[-1] // n_rows) for n_rows in sizes]
    X, y = Schedule(10_000, batch_size=1024, epochs=5).rows()
    X, y = np.tile(X, (sizes[-1] // len(X), 1)), np.tile(y, sizes[-1] // len(y))

    def fit_repeatedly(n_rows: int, n_fits: int) -> None:
        schedule = Schedule(n_rows, batch_size=1024, epochs=5)
        for _ in range(n_fits):
            make_ours(schedule, schedule.epochs).fit(X[:n_rows], y[:n_rows])

    contestants = [
        Contestant(
            f"{n_rows:,} rows",
            partial(fit_repeatedly, n_rows, n_fits),
            warm_up=lambda: make_ours(SMALL_FIT, 1).fit(X[:1000], y[:1000]),
            threads=(DEFAULT_THREADS,),
        )
        for n_rows, n_fits in zip(sizes, repeats, strict=True)
    ]
    _, seconds = compare(contestants, budget)
    per_row = 1e6 * np.median(seconds, axis=0) / np.multiply(sizes, repeats) / 5
    return {c.name: us for c, us in zip(contestants, per_row.tolist(), strict=True)}


def run_python(code: str) -> str:
    """Run code in a fresh interpreter; give what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


# The child's first act is to fork: getrusage counts what its parent, this process, had in memory
# when it started the child as the child's own peak, and the grandchild's parent had next to none.
MEASURE_PEAK = """
import os, resource, sys
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
{work}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

MAKE_MILLION = """
import numpy as np
from sksmooth import LabelSmoothingClassifier
X = np.random.default_rng(0).standard_normal((1_000_000, 10), dtype=np.float32)
y = (X[:, 0] > 0).astype(np.int64)
params = {"max_epochs": 1, "batch_size": 1024, "random_state": 0}
"""

MEMORY_ALLOWANCE_MB = 150  # beside the rows, where those are in memory

MEMORY_WORK = {
    "fit": "LabelSmoothingClassifier(train_split=None, calibration=None, **params).fit(X, y)",
    "fit with held-out rows": "LabelSmoothingClassifier(**params).fit(X, y)",
    "predict_proba": (
        "LabelSmoothingClassifier(**params).fit(X[:1000], y[:1000]).predict_proba(X)"
    ),
}


def measure_memory() -> dict[str, dict[str, float]]:
    """Give the peak memory of work on a million rows above that of an idle import, in MB."""

    def peak(work: str) -> float:
        return int(run_python(MEASURE_PEAK.format(work=work))) * 1024 / 1e6

    idle = peak("import sksmooth")
    limit = 1_000_000 * 10 * 4 / 1e6 + MEMORY_ALLOWANCE_MB
    return {
        name: {"peak_mb": peak(MAKE_MILLION + work) - idle, "limit_mb": limit}
        for name, work in MEMORY_WORK.items()
    }


# A torch Dataset reads its rows from a memory map. Only anonymous memory is counted, and that by a
# thread, since the pages of the map count as the process's own as long as the system has no other
# use for them.
MEASURE_ANONYMOUS_PEAK = """
import threading, sys
import numpy as np
from torch.utils.data import Dataset
from sksmooth import LabelSmoothingClassifier

class MappedRows(Dataset):
    def __init__(self, path, n_rows):
        self.X = np.memmap(path, np.float32, "r", shape=(n_rows, {n_features}))

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        row = np.array(self.X[index])
        return row, int(row[0] > 0)

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

def watch(done):
    while not done.wait(0.02):
        peaks.append(anonymous())

rows = MappedRows({path!r}, {n_rows})
net = LabelSmoothingClassifier(
    max_epochs=1, batch_size=1024, train_split=None, calibration=None, classes=[0, 1]
)
few = [rows[i] for i in range(1000)]
net.fit(np.array([X for X, _ in few]), np.array([y for _, y in few]))
idle, peaks, done = anonymous(), [], threading.Event()
watcher = threading.Thread(target=watch, args=(done,))
watcher.start()
{work}
done.set()
watcher.join()
print(max(peaks) - idle)
"""

MAPPED_ROWS = 5_000_000
MAPPED_WORK = {
    "fit": "net.fit(rows)",
    "fit with held-out rows": (
        "net.set_params(train_split=0.2, calibration='temperature').fit(rows)"
    ),
    "predict_proba": "net.predict_proba(rows)",
}


def measure_mapped(n_rows: int) -> dict[str, dict[str, float]]:
    """Give the peak of anonymous memory over that of a small fit, in MB, with rows in a file."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "rows.bin"))
        with open(path, "wb") as file:
            for start in range(0, n_rows, 100_000):
                shape = (min(100_000, n_rows - start), N_FEATURES)
                generator.standard_normal(shape, dtype=np.float32).tofile(file)

        def peak(work: str) -> float:
            code = MEASURE_ANONYMOUS_PEAK.format(
                path=path, n_rows=n_rows, n_features=N_FEATURES, work=work
            )
            return int(run_python(code)) * 1024 / 1e6

        return {
            name: {"peak_mb": peak(work), "limit_mb": MEMORY_ALLOWANCE_MB}
            for name, work in MAPPED_WORK.items()
        }


def import_case() -> Case:
    def contestant(modules: str, limit: float | None = None) -> Contestant:
        run = partial(run_python, f"import {modules}")
        return Contestant(
            f"import {modules}",
            run,
            warm_up=partial(run_python, "pass"),  # the files are cached: this process has them
            threads=(DEFAULT_THREADS,),
            limit=limit,
        )

    peers = [contestant("torch, skorch, sklearn.neural_network", limit=1.10)]
    return Case("import sksmooth", contestant("sksmooth"), peers)


# -- report ---------------------------------------------------------------------------------------


def print_memory(title: str, memory: dict[str, dict[str, float]]) -> None:
    print(f"\n| {title} | at most | MB |")
    print("| --- | --- | --- |")
    for name, own in memory.items():
        print(f"| {name} | {own['limit_mb']:.0f} | {own['peak_mb']:.0f} |")


def all_cases() -> Iterator[Case]:
    for cases in (fit_cases, dropout_cases, predict_cases, held_out_cases):
        yield from cases()
    yield partial_fit_case()
    yield import_case()


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    budget = SECONDS["quick" if arguments.quick else "full"]
    with reporting(arguments) as report:
        report["results"] = print_results(all_cases(), budget)
        if not arguments.quick:
            memory = report["memory"] = measure_memory()
            print_memory("peak memory over 1,000,000 × 10 rows, above an idle import", memory)
        if not arguments.quick and sys.platform == "linux":
            report["memory_mapped"] = measure_mapped(MAPPED_ROWS)
            size = MAPPED_ROWS * N_FEATURES * 4 / 1e6
            title = f"{size:.0f} MB of {MAPPED_ROWS:,} × 10 rows in a file"
            print_memory(title, report["memory_mapped"])
        by_threads = report["fit_ms_by_threads"] = compare_threads(budget)
        print("\nSmall fit: " + ", ".join(f"{k} {v:.1f} ms" for k, v in by_threads.items()))
        if not arguments.quick:
            scale = report["fit_us_per_row"] = compare_scale(budget)
            text = ", ".join(f"{k} {v:.3f} µs" for k, v in scale.items())
            print(f"Fit, per row and epoch: {text}")


if __name__ == "__main__":
    main()
