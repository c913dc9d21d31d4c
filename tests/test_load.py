"""Parameters are loaded whole or not at all."""

import copy
import pickle

import joblib
import numpy as np
import pytest
import torch
from helpers import quick
from skorch.callbacks import Callback, Checkpoint, EpochScoring

from sksmooth import LabelSmoothingClassifier, make_tabular

X, Y = make_tabular(120, random_state=0)


def make(width=8, **parameters):
    net = LabelSmoothingClassifier(
        max_epochs=2, lr=0.02, module__hidden_layer_sizes=(width, 4), random_state=0, **parameters
    )
    return net.fit(X, Y)


def test_parameters_of_another_architecture_leave_the_net_as_it_was(tmp_path):
    make(16).save_params(f_params=tmp_path / "net.pt")
    net = make()
    expected = net.predict_proba(X)
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_params(f_params=tmp_path / "net.pt")
    np.testing.assert_array_equal(net.predict_proba(X), expected)


def test_state_of_an_optimizer_of_another_architecture_is_refused(tmp_path):
    make(16).save_params(f_optimizer=tmp_path / "optimizer.pt")
    net, twin = make(), make()
    with pytest.raises(ValueError, match=r"state of AdamW.*shape \(16, 10\).*\(8, 10\)"):
        net.load_params(f_optimizer=tmp_path / "optimizer.pt")
    for own in (net, twin):
        own.partial_fit(X, Y)
    np.testing.assert_array_equal(net.predict_proba(X), twin.predict_proba(X))


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.Adafactor])
def test_state_of_an_optimizer_whose_tensors_have_shapes_of_their_own_is_loaded(
    optimizer, tmp_path
):
    net = make(optimizer=optimizer, batch_size=-1, calibration=None)
    net.save_params(f_optimizer=tmp_path / "optimizer.pt")
    net.load_params(f_optimizer=tmp_path / "optimizer.pt")
    assert net.optimizer_.state


def test_state_of_another_optimizer_is_refused(tmp_path):
    make().partial_fit(X, Y).save_params(f_optimizer=tmp_path / "adamw.pt")
    net, twin = (make(optimizer=torch.optim.SGD, calibration=None) for _ in range(2))
    net.save_params(f_optimizer=tmp_path / "sgd.pt")
    with pytest.raises(ValueError, match=r"of another optimizer than SGD: it has no .*momentum"):
        net.load_params(f_optimizer=tmp_path / "adamw.pt")
    for own in (net, twin):
        own.partial_fit(X, Y)
    np.testing.assert_array_equal(net.predict_proba(X), twin.predict_proba(X))
    with pytest.raises(ValueError, match=r"of another kind of part|another optimizer than AdamW"):
        make().load_params(f_optimizer=tmp_path / "sgd.pt")


def test_state_of_an_optimizer_that_is_not_finite_is_refused(tmp_path):
    broken = make().partial_fit(X, Y)
    next(iter(broken.optimizer_.state.values()))["exp_avg"][0] = torch.nan
    broken.save_params(f_optimizer=tmp_path / "optimizer.pt")
    net = make()
    with pytest.raises(ValueError, match="loaded exp_avg of AdamW is not finite"):
        net.load_params(f_optimizer=tmp_path / "optimizer.pt")
    assert np.isfinite(net.partial_fit(X, Y).predict_proba(X)).all()


def test_a_history_that_is_none_is_refused(tmp_path):
    (tmp_path / "history.json").write_text('{"epoch": 1}')
    net = make()
    with pytest.raises(ValueError, match="history has rows that are no epochs"):
        net.load_params(f_history=tmp_path / "history.json")
    assert len(net.history) == 2


def test_parameters_that_are_not_finite_are_refused(tmp_path):
    broken = make()
    with torch.no_grad():
        broken.module_.layers[1].weight[0, 0] = torch.nan
    broken.save_params(f_params=tmp_path / "net.pt")
    net = make()
    expected = net.predict_proba(X)
    with pytest.raises(ValueError, match=r"layers\.1\.weight.*not finite"):
        net.load_params(f_params=tmp_path / "net.pt")
    np.testing.assert_array_equal(net.predict_proba(X), expected)


def test_calibrator_of_other_parameters_is_warned_of(tmp_path):
    trained = make()
    trained.save_params(f_params=tmp_path / "net.pt")
    net = make(calibration="temperature")
    with pytest.warns(UserWarning, match="calibrator_ was fitted to the parameters before"):
        net.load_params(f_params=tmp_path / "net.pt")
    net.calibrator_ = trained.calibrator_
    np.testing.assert_array_equal(net.predict_proba(X), trained.predict_proba(X))


@pytest.mark.filterwarnings("ignore:calibrator_ was fitted to the parameters before")
def test_parameters_are_saved_and_loaded(iris, tmp_path):
    X, y = iris
    net = quick().fit(X, y)
    net.save_params(f_params=tmp_path / "net.pt")
    other = quick(random_state=1).fit(X, y)
    assert not np.allclose(other.forward(X), net.forward(X))
    other.load_params(f_params=tmp_path / "net.pt")
    assert torch.equal(other.forward(X), net.forward(X))


def test_a_damaged_file_of_parameters_is_refused_or_changes_nothing(tmp_path, record_property):
    path = tmp_path / "net.pt"
    net = make(calibration=None)
    net.save_params(f_params=path)
    whole, expected = path.read_bytes(), net.predict_proba(X)
    generator = np.random.default_rng(0)
    places = generator.integers(len(whole), size=60)
    lengths = (1, len(whole) // 2, len(whole) - 1)
    record_property("injected", len(places) + len(lengths))
    n_refused = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        try:
            net.load_params(f_params=path)
        except (ValueError, RuntimeError):
            n_refused += 1
        np.testing.assert_array_equal(net.predict_proba(X), expected)
    assert n_refused > 20  # the others are in what fills up the file
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises((ValueError, RuntimeError)):
            net.load_params(f_params=path)
    np.testing.assert_array_equal(net.predict_proba(X), expected)


@pytest.mark.parametrize("by_position", [True, False])
def test_a_damaged_file_that_a_checkpoint_names_is_refused(by_position, tmp_path):
    checkpoint = Checkpoint(monitor=None, dirname=str(tmp_path), event_name=None)
    net = make(callbacks=[checkpoint], calibration=None)
    path = tmp_path / "params.pt"
    parameter = net.module_.state_dict()["layers.0.weight"].numpy().tobytes()
    whole = path.read_bytes()
    place = whole.index(parameter)
    path.write_bytes(bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
    expected = net.predict_proba(X)
    positions = (None, None, None, None, checkpoint) if by_position else ()
    names = {} if by_position else {"checkpoint": checkpoint}
    with pytest.raises(ValueError, match="does not fit its checksum"):
        net.load_params(*positions, **names)
    np.testing.assert_array_equal(net.predict_proba(X), expected)


@pytest.mark.parametrize(
    "content", [b"", b"hello", pickle.dumps({"a": object}, 2), b"sksmooth 1 abc 3\nabc"]
)
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "net.pt").write_bytes(content)
    net = make()
    expected = net.predict_proba(X)
    with pytest.raises(ValueError, match="is no file of save_params"):
        net.load_params(f_params=tmp_path / "net.pt")
    np.testing.assert_array_equal(net.predict_proba(X), expected)


class Masked(torch.nn.Module):
    """A module with a buffer that is infinite on purpose, as masks of attention are."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = torch.nn.Linear(n_features, n_classes)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, X):
        return self.layer(X)


def test_infinity_in_a_buffer_is_loaded(tmp_path):
    net = LabelSmoothingClassifier(Masked, max_epochs=1, calibration=None, random_state=0)
    net.fit(X, Y).save_params(f_params=tmp_path / "net.pt")
    net.load_params(f_params=tmp_path / "net.pt")
    assert net.predict_proba(X).shape == (120, 3)


def test_a_net_in_training_is_pickled(tmp_path):
    files = dict.fromkeys(["f_params", "f_optimizer", "f_criterion", "f_history"])
    checkpoint = Checkpoint(monitor=None, f_pickle="net.pkl", dirname=str(tmp_path), **files)
    params = {"calibration": None, "early_stopping": False, "train_split": None}
    net = make(callbacks=[checkpoint], **params)
    loaded = pickle.loads((tmp_path / "net.pkl").read_bytes())
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    assert len(loaded.partial_fit(X, Y).history) == len(net.history) + 1


def test_classes_of_a_notebook_are_sent_to_other_processes():
    class Mine(torch.nn.Linear):
        def __init__(self, n_features, n_classes):
            super().__init__(n_features, n_classes)

    class Loss(torch.nn.CrossEntropyLoss):
        pass

    class Watches(Callback):
        pass

    scores = EpochScoring(lambda net, X, y: 1.0, name="one")
    net = LabelSmoothingClassifier(
        Mine,
        criterion=Loss,
        callbacks=[Watches(), scores],
        calibration=None,
        max_epochs=2,
        random_state=0,
    )
    fit = joblib.delayed(LabelSmoothingClassifier.fit)
    (back, _) = joblib.Parallel(n_jobs=2)([fit(net, X, Y), fit(net, X, Y)])
    np.testing.assert_array_equal(back.predict_proba(X), net.fit(X, Y).predict_proba(X))


def test_a_shallow_copy_trains_on_its_own():
    net = LabelSmoothingClassifier(max_epochs=2, random_state=0).partial_fit(X, Y)
    twin, other = copy.copy(net), copy.copy(net)
    for own in (twin, other):
        own.partial_fit(X, Y)
    assert len(net.history) == 1
    np.testing.assert_array_equal(twin.predict_proba(X), other.predict_proba(X))
