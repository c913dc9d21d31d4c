"""The calling thread uses the threads that pay, and nobody else is concerned."""

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    SimpleNet,
    make_tabular,
)
from sksmooth.engine.threads import flops_of, limit_threads, threads_for


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def seen_by_another_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


@pytest.mark.usefixtures("two_threads")
def test_another_thread_keeps_its_number():
    with limit_threads(1.0):
        assert torch.get_num_threads() == 1
        assert seen_by_another_thread() == 2
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_one_row_predictions_from_many_threads_leave_the_number_as_it_was():
    X, y = make_tabular(200, random_state=0)
    net = LabelSmoothingClassifier(max_epochs=2, random_state=0).fit(X, y)
    expected = net.predict_proba(X[:1]).tolist()
    found = []

    def predict():
        found.extend(net.predict_proba(X[:1]).tolist() == expected for _ in range(50))

    threads = [threading.Thread(target=predict) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 400
    assert torch.get_num_threads() == seen_by_another_thread() == 2


def test_work_that_parameters_do_not_tell_is_unknown():
    assert flops_of(torch.nn.Conv1d(1, 1, 1)) is None


def test_a_convolution_works_at_most_once_a_parameter_and_number():
    images, layer = torch.zeros(2, 1, 8, 8), torch.nn.Conv2d(1, 4, 3, bias=False)
    with FlopCounterMode(display=False) as counter:
        layer(images)
    assert counter.get_total_flops() / 2 <= flops_of(layer, images[0].numel()) == 2 * 36 * 64


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_uses_one_thread_however_much_there_is_to_do():
    code = """
import os, torch
from sksmooth.engine.threads import limit_threads
torch.set_num_threads(2)
child = os.fork()
with limit_threads(1e12):
    n_threads = torch.get_num_threads()
if child == 0:
    os._exit(n_threads)
assert n_threads == 2
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_answer_after_their_parent_has_used_threads(record_property):
    code = """
import os, torch
from sksmooth import *
torch.set_num_threads(2)
torch.randn(1000, 1000) @ torch.randn(1000, 1000)
torch.zeros(10_000_000).add_(1)
X, y = make_tabular(1000, random_state=0)
net = LabelSmoothingClassifier(max_epochs=2).fit(X, y)
module = torch.nn.Sequential(
    torch.nn.Unflatten(1, (1, 10)), torch.nn.Conv1d(1, 64, 3),
    torch.nn.Flatten(), torch.nn.Linear(512, 3))
other = LabelSmoothingClassifier(module, max_epochs=1).fit(X, y)
cv = LabelSmoothingClassifierCV(net, label_smoothings=(0.1,), cv=2).fit(X, y)
for work in (
    lambda: LabelSmoothingClassifier(max_epochs=2).fit(X, y),
    lambda: net.predict_proba(X),
    lambda: net.predict_log_proba(X),
    lambda: net.confidence(X),
    lambda: net.partial_fit(X, y),
    lambda: other.predict_proba(X),
    lambda: cv.predict_proba(X[:1]),
    lambda: cv.confidence(X),
    lambda: LabelSmoothingClassifierCV(net, label_smoothings=(0.1,), cv=2).fit(X, y),
    lambda: BatchedGridSearchCV(net, {'lr': [0.01, 0.1]}, cv=2).fit(X, y),
):
    child = os.fork()
    if child == 0:
        work()
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
"""
    record_property("injected", code.count("lambda"))
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        try:
            assert process.wait(timeout=200) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its child, which waits forever
            raise


@contextmanager
def threads_allowed(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Threads(Callback):
    """Note the number of threads in every forward and backward pass."""

    def on_train_begin(self, net, **kwargs):
        self.seen = set()
        net.module_.register_forward_hook(self.note)
        next(net.module_.parameters()).register_hook(self.note)

    def note(self, *_):
        self.seen.add(torch.get_num_threads())


@pytest.mark.parametrize(
    ("allowed", "parameters", "used"),
    [
        (1, {}, 1),
        (2, {}, 1),
        (2, {"module__hidden_layer_sizes": (1200, 1200), "batch_size": -1}, 2),
        (1, {"module__hidden_layer_sizes": (1200, 1200), "batch_size": -1}, 1),
    ],
)
def test_fit_uses_as_many_threads_as_pay(allowed, parameters, used):
    X, y = make_tabular(200, random_state=0)
    threads = Threads()
    with threads_allowed(allowed):
        net = LabelSmoothingClassifier(
            callbacks=[("threads", threads)], max_epochs=2, train_split=None, **parameters
        )
        net.fit(X, y)
        assert torch.get_num_threads() == allowed
        net.partial_fit(X, y)
        assert torch.get_num_threads() == allowed
    assert threads.seen == {used}


class Twofold(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.ids, self.numbers = nn.Embedding(3, 2), nn.Linear(n_features + 2, n_classes)

    def forward(self, numbers, ids):
        return self.numbers(torch.cat([numbers, self.ids(ids)], 1))


def convolution(n_features, n_classes):
    layers = nn.Unflatten(1, (1, n_features)), nn.Conv1d(1, 4, n_features), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, n_classes))


@pytest.mark.parametrize("kind", ["dict", "Dataset"])
def test_rows_that_are_no_array_use_no_more_threads_than_pay(kind):
    X, y = make_tabular(200, random_state=0)
    is_dict = kind == "dict"
    rows = {"numbers": X, "ids": y % 3} if is_dict else TensorDataset(*map(torch.tensor, (X, y)))
    module = partial(Twofold, X.shape[1]) if is_dict else convolution
    threads = Threads()
    with threads_allowed(2):
        net = LabelSmoothingClassifier(module, callbacks=[threads], max_epochs=2, calibration=None)
        net.fit(rows, y if is_dict else None).predict(rows)
    assert threads.seen == {1}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_threads_are_given_back_when_training_fails(error):
    def fail(*args):
        assert torch.get_num_threads() == 1
        raise error

    class Failing(Callback):
        def on_train_begin(self, net, **kwargs):
            net.module_.register_forward_hook(fail)

    with threads_allowed(2):
        with pytest.raises(error):
            LabelSmoothingClassifier(callbacks=[Failing()]).fit(*make_tabular(200, random_state=0))
        assert torch.get_num_threads() == 2


# torch starts the threads of its pool where something first uses them.
FEW_ROWS = """
import os, torch
from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, make_tabular

def n_threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
X, y = make_tabular(2005, n_features=10, n_classes=10, random_state=0)
before = n_threads()
net = LabelSmoothingClassifier(max_epochs=2, random_state=0, module__hidden_layer_sizes=8)
for calibration in ("temperature", "norm_temperature", None):
    net.set_params(calibration=calibration).fit(X, y).predict_proba(X)
    assert n_threads() == before, calibration
LabelSmoothingClassifierCV(net, cv=2, random_state=0).fit(X, y).predict_proba(X)
assert n_threads() == before, "CV"
torch.ones(1000, 1000).softmax(1)
assert n_threads() > before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_few_rows_never_wake_torchs_other_threads():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FEW_ROWS], check=True)


def test_more_threads_than_allowed_are_never_asked_for():
    wide = SimpleNet(n_features=2000, hidden_layer_sizes=2000)
    with threads_allowed(2):
        with threads_for(wide, 30_000):
            assert torch.get_num_threads() == 2
        with threads_for(nn.Conv1d(1, 1, 1), 3):  # whose work its size does not tell
            assert torch.get_num_threads() == 2
        with threads_for(nn.Conv1d(1, 1, 1), 3, n_numbers=10):
            assert torch.get_num_threads() == 1
        with suppress(ZeroDivisionError), threads_for(SimpleNet(), 3):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("n_rows", "used"), [(128, 1), (25 * 128, 1), (100_000, 2)])
def test_only_large_products_are_dealt_out(n_rows, used):
    net = SimpleNet(10, 3, hidden_layer_sizes=(64, 32))
    with threads_allowed(2), threads_for(net, 3 * n_rows):
        assert torch.get_num_threads() == used


# -- fits in threads ----------------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws random numbers in every way that torch has: a layer's, a function's, and by hand."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.hidden = nn.Linear(n_features, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(8, n_classes)

    def forward(self, x):
        h = self.dropout(torch.relu(self.norm(self.hidden(x))))
        if self.training:
            h = h + 0.1 * torch.randn_like(h) + 0.1 * torch.rand(h.shape)
        return self.out(nn.functional.dropout(h, 0.1, self.training))


def single(seed, **parameters):
    return LabelSmoothingClassifier(max_epochs=4, lr=0.02, random_state=seed, **parameters)


MAKERS = {
    "by hand": single,
    "by autograd": lambda seed: single(seed, module=Noisy),
    "by skorch": lambda seed: single(seed, module=Noisy, iterator_train__num_workers=0),
    "CV": lambda seed: LabelSmoothingClassifierCV(single(None), cv=3, random_state=seed),
    "CV of a module": lambda seed: LabelSmoothingClassifierCV(
        single(None, module=Noisy), label_smoothings=(0, 0.2), cv=2, random_state=seed
    ),
    "search": lambda seed: BatchedGridSearchCV(single(seed), {"label_smoothing": [0, 0.2]}, cv=3),
}


def state_of_torch():
    return (
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("kind", MAKERS)
def test_fits_in_threads_are_those_alone_and_leave_torch_as_it_was(kind):
    X, y = make_tabular(120, random_state=0)

    def fit(seed):
        return MAKERS[kind](seed).fit(X, y).predict_proba(X)

    alone = [fit(seed) for seed in range(8)]
    seen, is_over = set(), threading.Event()

    def watch():
        while not is_over.is_set():
            seen.add(state_of_torch())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(fit, range(8)))
    finally:
        is_over.set()
        watcher.join()
    assert seen == {state_of_torch()}
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", MAKERS)
def test_torchs_generators_have_no_part_in_a_fit(kind):
    X, y = make_tabular(120, random_state=0)
    results = []
    with torch.random.fork_rng():
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            results.append(MAKERS[kind](0).fit(X, y).predict_proba(X))
            assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("kind", MAKERS)
def test_default_dtype_has_no_part_in_a_fit(kind):
    X, y = make_tabular(120, random_state=0)
    expected = MAKERS[kind](0).fit(X, y).predict_proba(X)
    torch.set_default_dtype(torch.float64)
    try:
        found = MAKERS[kind](0).fit(X, y).predict_proba(X)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# -- predictions in threads ----------------------------------------------------------------------

N_THREADS, N_ROWS = 16, 50


def ask(estimator, rows):
    return [estimator.predict_proba(row).tobytes() for row in rows]


@pytest.fixture(params=["by hand", "CV"])
def served(request):
    """Give a fitted estimator, rows, and what it predicts for each when it is asked alone."""
    X, y = make_tabular(120, random_state=0)
    estimator = MAKERS[request.param](0).fit(X, y)
    rows = [X[i : i + 1] for i in range(N_ROWS)]
    return estimator, rows, ask(estimator, rows)


def memory_in_use():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_asked_from_many_threads_are_as_alone_and_memory_stays(served):
    estimator, rows, expected = served
    calls, growth = 32 * N_ROWS, []
    with ThreadPoolExecutor(N_THREADS) as pool:
        for _ in range(4):
            before = memory_in_use()
            for found in pool.map(lambda _: ask(estimator, rows), range(calls // N_ROWS)):
                assert found == expected
            growth.append(memory_in_use() - before)
    assert min(growth) < 100 * calls  # an array that stays is larger, at every call


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
def test_copies_are_made_beside_threads_that_predict(served, copied):
    estimator, rows, expected = served
    is_over = threading.Event()

    def serve(_):
        while not is_over.is_set():
            assert ask(estimator, rows) == expected

    with ThreadPoolExecutor(N_THREADS) as pool:
        answers = pool.map(serve, range(N_THREADS))
        try:
            for _ in range(5):
                assert ask(copied(estimator), rows[:5]) == expected[:5]
        finally:
            is_over.set()
        list(answers)
