"""Rows are shared with whoever gave them, and never written to."""

import tracemalloc

import numpy as np
import pytest
import torch

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, make_tabular
from sksmooth._rows import as_tensor

X, Y = make_tabular(160, random_state=0)
X = np.ascontiguousarray(X, dtype=np.float32)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("kind", [LabelSmoothingClassifier, LabelSmoothingClassifierCV])
def test_a_memory_map_is_not_copied(kind, mode, tmp_path):
    rows = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (100_000, 100))
    rows[:] = np.random.default_rng(0).standard_normal((100_000, 100))
    net = LabelSmoothingClassifier(
        max_epochs=1,
        random_state=0,
        module__hidden_layer_sizes=(4,),
        batch_size=4096,
        calibration=None,
    )
    estimator = (
        net if kind is LabelSmoothingClassifier else kind(net, cv=2, label_smoothings=(0.1,))
    )
    rows = np.load(tmp_path / "X.npy", mmap_mode=mode)
    y = np.arange(100_000) % 2
    estimator.fit(rows[:500], y[:500])  # imports, too
    tracemalloc.start()
    try:
        estimator.fit(rows, y).predict_proba(rows)
        assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 2
    finally:
        tracemalloc.stop()


class InPlace(torch.nn.Module):
    """A module that writes to its input."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = torch.nn.Linear(n_features, n_classes)

    def forward(self, X):
        with torch.no_grad():
            X.mul_(2)
        return self.layer(X)


@pytest.mark.parametrize("is_writable", [True, False])
@pytest.mark.parametrize("predicting", ["predict_proba", "forward"])
def test_a_module_that_writes_to_its_input_does_not_write_to_the_rows(predicting, is_writable):
    rows = X.copy()
    rows.flags.writeable = is_writable
    net = LabelSmoothingClassifier(
        InPlace,
        max_epochs=2,
        train_split=None,
        iterator_train__shuffle=False,
        batch_size=-1,
        random_state=0,
    )
    net.fit(rows, Y)
    given = rows if predicting == "predict_proba" else as_tensor(rows)
    first, second = (getattr(net, predicting)(given) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(rows, X)


@pytest.mark.parametrize(
    ("scale", "alike"), [(1e-300, 1e-20), (1e-45, 1e-20), (1e300, 1e25), (1e39, 1e25)]
)
def test_weights_that_float32_does_not_hold_are_scaled(scale, alike):
    weight = np.random.default_rng(0).uniform(0.5, 2, len(Y))
    weight[:5] = 0
    net = LabelSmoothingClassifier(max_epochs=5, lr=0.02, random_state=0)
    found, expected = (
        net.fit(X, Y, sample_weight=weight * own).predict_proba(X) for own in (scale, alike)
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
