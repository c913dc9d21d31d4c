"""The calling thread uses the threads that pay, and nobody else is concerned."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from sksmooth import LabelSmoothingClassifier, make_tabular
from sksmooth.engine.threads import flops_of, limit_threads


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
