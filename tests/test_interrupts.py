"""Ctrl-C, or memory that runs out, leaves an estimator as it was, or fitted; all else as it was.

Of the lines some are drawn at random; ``pytest --every-line tests/test_interrupts.py`` tries all.
"""

import ast
import copy
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sksmooth
from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    make_tabular,
)

ROOT = Path(sksmooth.__file__).parent
X, Y = make_tabular(90, random_state=0)
N_LINES = 12


def spared_lines(path):
    """Give the lines of a file at which Python lets no signal in before a context is left.

    Tracing does: at the end of a ``with``, and at the beginning of a ``finally``.
    """
    lines = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.With):
            lines |= {node.lineno, *(item.context_expr.lineno for item in node.items)}
        elif isinstance(node, ast.Try):
            lines |= {own.lineno for own in node.finalbody[:1]}
    return lines


SPARED = {str(path): spared_lines(path) for path in ROOT.rglob("*.py")}


class Interrupting:
    """Note our lines as they are run for the first time; raise KeyboardInterrupt at one of them."""

    def __init__(self, at=None):
        self.at = at
        self.lines = {}

    def __enter__(self):
        sys.settrace(self._trace_calls)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _trace_calls(self, frame, event, arg):
        return self._trace_lines if frame.f_code.co_filename in SPARED else None

    def _trace_lines(self, frame, event, arg):
        path, number = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and number not in SPARED[path]:
            self.lines[path, number] = None
            if (path, number) == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace_lines


def net(**parameters):
    small = {"module__hidden_layer_sizes": (4,), "max_epochs": 3, "lr": 0.02, "train_split": 0.3}
    return LabelSmoothingClassifier(**{**small, "random_state": 0, **parameters})


def cv():
    return LabelSmoothingClassifierCV(net(), cv=2, label_smoothings=(0.0, 0.1), random_state=0)


def fit(estimator):
    return estimator.fit(X, Y)


OPERATIONS = {
    "fit": (net, fit),
    "partial_fit": (lambda: fit(net()), lambda own: own.partial_fit(X, Y)),
    "warm start": (lambda: fit(net(warm_start=True)), fit),
    "CV": (cv, fit),
    "search": (lambda: BatchedGridSearchCV(net(), {"lr": [0.1, 0.01]}, cv=2), fit),
    "predict": (lambda: fit(net()), lambda own: own.predict_proba(X)),
    "predict by CV": (lambda: fit(cv()), lambda own: own.predict_proba(X)),
}


def around():
    """Give the settings of torch that nobody may change for anyone else."""
    return (
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
    )


def test_no_interrupt_comes_between_a_step_and_the_end_of_its_inference_mode(monkeypatch):
    leave = torch.inference_mode.__exit__

    def interrupted(self, *args):
        if torch.is_inference_mode_enabled():
            raise KeyboardInterrupt
        leave(self, *args)

    monkeypatch.setattr(torch.inference_mode, "__exit__", interrupted)
    before = around()
    fit(net(module__dropout=0.1))
    assert around() == before


def is_fitted(estimator):
    return hasattr(estimator, "classes_")


@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupt_at_any_line_leaves_all_as_it_was_or_fitted(name, request, record_property):
    make, act = OPERATIONS[name]
    estimator = make()
    with Interrupting() as noting:
        act(estimator)
    finished = estimator.predict_proba(X)
    lines = list(noting.lines)
    if not request.config.getoption("--every-line"):
        lines = random.Random(0).sample(lines, N_LINES)
    record_property("injected", len(lines))
    given = make()
    for line in lines:
        estimator, before = copy.deepcopy(given), around()
        is_interrupted = False
        try:
            with Interrupting(line):
                act(estimator)
        except KeyboardInterrupt:
            is_interrupted = True
        assert around() == before, line
        if is_interrupted and not is_fitted(given) and is_fitted(estimator):
            np.testing.assert_array_equal(estimator.predict_proba(X), finished)  # at its last line
        elif is_interrupted and is_fitted(given):
            proba = estimator.predict_proba(X)
            unchanged = given.predict_proba(X)
            assert np.array_equal(proba, unchanged) or np.array_equal(proba, finished), line
        elif not is_interrupted:
            assert np.isfinite(estimator.predict_proba(X)).all(), line
        if is_fitted(estimator) and hasattr(estimator, "history"):
            assert estimator.best_epoch_ <= len(estimator.history), line
            assert all("refined_loss" in epoch for epoch in estimator.history), line
        if act is fit and name != "warm start":
            np.testing.assert_array_equal(estimator.fit(X, Y).predict_proba(X), finished, str(line))


OUT_OF_MEMORY = """
import copy, resource
import numpy as np, torch
from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, BatchedGridSearchCV

torch.set_num_threads(1)
X = np.random.default_rng(0).normal(size=(60_000, 60))
y = (X[:, 0] > 0).astype(int)
net = LabelSmoothingClassifier(module__hidden_layer_sizes=(256,), max_epochs=1, random_state=0)
cv = LabelSmoothingClassifierCV(net, cv=2, label_smoothings=(0.0,), random_state=0)
search = BatchedGridSearchCV(net, {"lr": [0.1, 0.01]}, cv=2)
pooled = copy.deepcopy(cv).fit(X[:500], y[:500])
fitted = copy.deepcopy(net).set_params(warm_start=True).fit(X[:500], y[:500])
state = torch.get_rng_state()
acts = [(fitted, "fit"), (fitted, "partial_fit"), (cv, "fit"), (search, "fit")]
acts += [(fitted, "predict_proba"), (pooled, "predict_proba")]
for n_bytes in (1 << 20, 20 << 20):
    for estimator, act in acts:
        tried = copy.deepcopy(estimator)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, -1))
        try:
            getattr(tried, act)(X, *[y] * (act != "predict_proba"))
        except (MemoryError, RuntimeError) as error:
            assert "allocate" in str(error), error
            print("injected")
        else:
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == 1
        assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
        if hasattr(estimator, "classes_"):
            assert (tried.predict_proba(X[:100]) == estimator.predict_proba(X[:100])).all()
        else:
            assert not hasattr(tried, "classes_") and not hasattr(tried, "best_estimator_")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_memory_that_runs_out_leaves_all_as_it_was(record_property):
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is not there for later
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("injected") >= 6
    record_property("injected", done.stdout.count("injected"))
