"""Many classifiers at once: which go together, and what ends them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from sksmooth import LabelSmoothingClassifier, make_tabular
from sksmooth._fit import Job, divide, fit_together, params_key

X, Y = make_tabular(n_samples=180, random_state=0)
NET = LabelSmoothingClassifier(
    max_epochs=5, lr=0.02, batch_size=32, module__hidden_layer_sizes=(8,), random_state=0
)


class TestDivide:
    jobs = [Job(clone(NET).set_params(lr=lr), X, Y) for lr in [0.1] * 6 + [0.2] * 3]  # noqa: RUF012

    @pytest.mark.parametrize("n_tasks", [2, 3, 20])
    def test_every_job_is_in_one_group_of_its_kind(self, n_tasks):
        groups = divide(self.jobs, n_tasks)
        assert sorted(np.concatenate(groups)) == list(range(9))
        assert len(groups) >= min(n_tasks, 9)
        assert all(len({self.jobs[k].estimator.lr for k in group}) == 1 for group in groups)

    def test_one_task_is_one_group(self):
        assert [group.tolist() for group in divide(self.jobs, 1)] == [list(range(9))]

    def test_of_no_jobs_is_no_group(self):
        assert divide([], 2) == []

    def test_keys_tell_equal_parameters_from_others(self):
        assert params_key({"a": [1, 2]}) == params_key({"a": [1, 2]})
        assert params_key({"a": 1}) != params_key({"a": True})
        func = lambda X: X  # noqa: E731
        assert params_key({"a": func, "b": 1}) == params_key({"b": 1, "a": func})
        assert params_key({"a": func, "b": 1}) != params_key({"a": func, "b": 2})


def test_interrupt_ends_the_training_of_all():
    epochs = []

    def interrupt(n_nets):
        epochs.append(n_nets)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    jobs = [Job(clone(NET).set_params(random_state=seed), X, Y) for seed in range(2)]
    with pytest.raises(KeyboardInterrupt):
        fit_together(jobs, on_epoch=interrupt)
    assert len(epochs) == 2
