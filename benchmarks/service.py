"""Load test of the service in ``examples/serve.py``: requests a second, and how long one waits.

The same service runs around our classifiers and around MLPClassifier, each in a process of its own,
as they come. Threads of this process send requests, each over a connection that stays open and the
next when the last is answered. The services are asked in turns, one at a time.

Run it as ``python benchmarks/service.py [--quick] [--json FILE]``; needs the extra ``serve``.
"""

from __future__ import annotations

import json
import multiprocessing
import runpy
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from timing import make_parser, reporting

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, make_tabular

SERVE = Path(__file__).resolve().parents[1] / "examples" / "serve.py"
N_ROWS, N_THREADS = (1, 100), (1, 4)

# How often a service's turn comes, and how many seconds it takes.
ROUNDS = {"quick": (1, 0.5), "full": (4, 2.0)}


def make_classifiers() -> dict[str, Any]:
    """Fit whom the service is around, on the same rows."""
    X, y = make_tabular(1000, random_state=0)
    nets = (
        LabelSmoothingClassifier(random_state=0),
        LabelSmoothingClassifierCV(random_state=0),
        MLPClassifier((64, 32), random_state=0),
    )
    return {type(net).__name__: net.fit(X, y) for net in nets}


# -- the service ----------------------------------------------------------------------------------


def serve(classifier: Any, ports: Connection) -> None:
    """Serve a classifier at a port that is free; tell which."""
    import uvicorn

    app = runpy.run_path(str(SERVE))["make_app"](classifier)
    # asyncio sends small answers at once only where the socket names its protocol.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ports.send(listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        server.run(sockets=[listener])


@contextmanager
def serving(classifier: Any) -> Iterator[int]:
    """Have a classifier served in another process; give its port."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=serve, args=(classifier, sender), daemon=True)
    process.start()
    sender.close()  # the process has its own; if it ends, nothing is waited for
    try:
        yield receiver.recv()
    finally:
        process.kill()
        process.join()


# -- its clients ----------------------------------------------------------------------------------


def ask(port: int, body: bytes, seconds: float) -> list[float]:
    """Send requests for so many seconds; give how many seconds each took."""
    taken = []
    end = time.perf_counter() + seconds
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        while (begin := time.perf_counter()) < end:
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            taken.append(time.perf_counter() - begin)
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {content!r}")
    return taken


def load(port: int, body: bytes, n_threads: int, seconds: float) -> list[float]:
    """Send requests from several threads at once."""
    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(ask, port, body, seconds) for _ in range(n_threads)]
    return [taken for future in futures for taken in future.result()]


def measure(
    ports: dict[str, int], n_rows: int, n_threads: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Ask the services in turns; give a row of the table for each."""
    rows = make_tabular(max(N_ROWS), random_state=1)[0][:n_rows]
    body = json.dumps({"rows": rows.tolist()}).encode()
    taken: dict[str, list[float]] = {name: [] for name in ports}
    for port in ports.values():
        load(port, body, n_threads, seconds / 4)  # a warm-up
    for i in range(rounds):
        for name in reversed(ports) if i % 2 else ports:
            taken[name] += load(ports[name], body, n_threads, seconds)
    return [
        {
            "rows": n_rows,
            "threads": n_threads,
            "classifier": name,
            "requests_a_second": len(taken[name]) / (rounds * seconds),
            "median_ms": 1e3 * float(np.median(taken[name])),
            "percentile_99_ms": 1e3 * float(np.percentile(taken[name], 99)),
        }
        for name in ports
    ]


HEADER = (
    "| rows a request | client threads | classifier | requests a second | median, ms "
    "| 99th percentile, ms |\n| --- | --- | --- | --- | --- | --- |"
)


def format_row(row: dict[str, Any]) -> str:
    return (
        f"| {row['rows']} | {row['threads']} | {row['classifier']} "
        f"| {row['requests_a_second']:.0f} | {row['median_ms']:.2f} "
        f"| {row['percentile_99_ms']:.2f} |"
    )


def main() -> None:
    arguments = make_parser(__doc__.partition("\n")[0]).parse_args()
    rounds, seconds = ROUNDS["quick" if arguments.quick else "full"]
    with reporting(arguments) as report, ExitStack() as services:
        classifiers = make_classifiers()
        ports = {name: services.enter_context(serving(own)) for name, own in classifiers.items()}
        report["results"] = []
        print(HEADER)
        for n_rows in N_ROWS:
            for n_threads in N_THREADS:
                for row in measure(ports, n_rows, n_threads, rounds, seconds):
                    print(format_row(row), flush=True)
                    report["results"].append(row)


if __name__ == "__main__":
    main()
