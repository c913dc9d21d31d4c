"""What is saved is loaded as it was, or refused by what is wrong with it; nothing else runs."""

import io
import json
import os
import pickle
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Equal, WithBatchNorm
from skorch.callbacks import EpochScoring
from skorch.exceptions import SkorchTrainingImpossibleError

from sksmooth import (
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    SimpleNet,
    load,
    make_tabular,
    save,
)
from sksmooth.encoding import PiecewiseLinear

X, Y = make_tabular(150, random_state=0)


def make(**parameters):
    return LabelSmoothingClassifier(
        **{"max_epochs": 4, "lr": 0.02, "random_state": 0, "module__hidden_layer_sizes": (8,)}
        | parameters
    )


def make_cv(estimator=None, **parameters):
    return LabelSmoothingClassifierCV(
        make() if estimator is None else estimator, cv=3, random_state=0, **parameters
    )


@pytest.mark.parametrize(
    ("estimator", "given"),
    [
        (make(), {}),
        (make(calibration="temperature", smoothing="prior", class_weight={"a": 2.0}), {}),
        (make(calibration=None, train_split=None, optimizer=torch.optim.SGD), {}),
        (make(smoothing=np.full((3, 3), 1 / 3), module__activation="tanh", verbose=0), {}),
        (make(class_weight={"a": 2.0}, calibration_weight="unweighted"), {}),
        (make(smoothing=pd.DataFrame(np.full((3, 3), 1 / 3))), {"smoothing": "uniform"}),
        (make_cv(make(class_weight="balanced", calibration_weight="unweighted")), {}),
        (make(random_state=np.random.RandomState(3), device=torch.device("cpu")), {}),
        (
            LabelSmoothingClassifier(WithBatchNorm, module__width=7, max_epochs=9, lr=0.02),
            {"module": WithBatchNorm},
        ),
        (make(module__encoding="periodic"), {}),
        (make(module__encoding=PiecewiseLinear(n_knots=4)), {}),
        (make_cv(LabelSmoothingClassifier(max_epochs=3), encodings=[None, "periodic"]), {}),
        (make(callbacks=[EpochScoring("accuracy")]), {"callbacks": None}),
        (make_cv(), {}),
        (make_cv(ensemble=False, label_smoothings=[0.1]), {}),
        (make_cv(LabelSmoothingClassifier(WithBatchNorm, max_epochs=2)), {"module": WithBatchNorm}),
        (LabelSmoothingClassifierCV(cv=3, random_state=1), {}),
    ],
)
def test_what_is_loaded_is_what_was_saved(estimator, given, tmp_path):
    rows = pd.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])
    estimator.fit(rows, np.array(["a", "b", "c"], dtype=object)[Y])
    save(estimator, tmp_path / "net")
    loaded = load(tmp_path / "net", **given)
    for method in ("predict", "predict_proba", "predict_log_proba", "confidence"):
        expected = getattr(estimator, method)(rows)
        np.testing.assert_array_equal(getattr(loaded, method)(rows), expected)
    assert repr(loaded.best_epoch_) == repr(estimator.best_epoch_)
    assert loaded.history[:, "train_loss"] == estimator.history[:, "train_loss"]
    np.testing.assert_array_equal(loaded.feature_names_in_, estimator.feature_names_in_)
    assert loaded.classes_.dtype == estimator.classes_.dtype
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(rows.rename(columns={"column 0": "other"}))
    assert os.listdir(tmp_path) == ["net"]


def test_a_net_that_was_trimmed_for_prediction_is_loaded_as_one(tmp_path):
    net = make(optimizer__weight_decay=0.1).fit(X, Y)
    expected = net.predict_proba(X)
    net.trim_for_prediction()
    save(net, tmp_path / "net")
    loaded = load(tmp_path / "net")
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)
    assert loaded.criterion_ is loaded.optimizer_ is None
    with pytest.raises(SkorchTrainingImpossibleError, match="trimmed for prediction"):
        loaded.fit(X, Y)


def test_training_goes_on_as_if_it_had_not_been_saved(tmp_path):
    net = make().fit(X, Y).partial_fit(X, Y)
    save(net, tmp_path / "net")
    loaded = load(tmp_path / "net")
    for own in (net, loaded):
        own.partial_fit(X, Y, epochs=3)
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    again = make().fit(X, Y)
    np.testing.assert_array_equal(
        load(tmp_path / "net").fit(X, Y).predict_proba(X), again.predict_proba(X)
    )


def test_loading_draws_from_nobodys_generator(tmp_path):
    save(make(random_state=None).fit(X, Y), tmp_path / "net")
    generator = np.random.mtrand._rand
    states = generator.get_state()[1].copy(), torch.get_rng_state()
    load(tmp_path / "net")
    np.testing.assert_array_equal(generator.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])


def test_every_damage_is_refused(tmp_path, record_property):
    path = tmp_path / "net"
    save(make(module__hidden_layer_sizes=(2,), calibration=None).fit(X, Y), path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    places = np.concatenate([np.arange(120), generator.integers(len(whole), size=200)])
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"is damaged|cut off|is no file|of format"):
            load(path)
    lengths = (0, 1, 30, len(whole) // 2, len(whole) - 1)
    record_property("injected", len(places) + len(lengths))
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is damaged|cut off|is no file"):
            load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1]), "is no file that sksmooth.save has written"),
        (b"", "is no file that sksmooth.save has written"),
        (b"sksmooth 0 abc 3\nabc", "is no file that sksmooth.save has written"),
        (b"PK\x03\x04 of another program", "is no file that sksmooth.save has written"),
        (b"sksmooth 7 abc 3\nabc", "is of format 7, but sksmooth .* reads formats up to 1"),
        (b"sksmooth 1\nabc", "is damaged: its first line"),
        (b"sksmooth 1 abc 30\nabc", "is cut off: 3 of 30 bytes"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "net").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "net")


def forge(path, parameters=(), learned=(), write=np.savez, change=lambda tree: tree):
    """Change what a file says of its net, as whoever knows the format can: its checksum fits."""
    body = path.read_bytes().partition(b"\n")[2]
    with np.load(io.BytesIO(body)) as archive:
        arrays = dict(archive)
    tree = json.loads(arrays["tree"].tobytes())
    tree["estimator"]["estimator"]["parameters"] |= dict(parameters)
    tree["estimator"]["estimator"]["learned"] |= dict(learned)
    arrays["tree"] = np.frombuffer(json.dumps(change(tree)).encode(), dtype=np.uint8)
    content = io.BytesIO()
    write(content, **arrays)
    body = content.getvalue()
    line = f"sksmooth 1 {sha256(body).hexdigest()} {len(body)}\n"
    path.write_bytes(line.encode() + body)


@pytest.mark.parametrize(
    "parameters",
    [
        {"module": {"dtype": "save"}, "module__obj": "text", "module__f": "written"},
        {"module": {"dtype": "load"}, "module__f": "written", "module__weights_only": False},
        {"module": {"named": "torch.save"}},
        {"module": {"named": "os.system"}},
        {"module": {"named": "torch.nn.functional"}},
        {"module": {"pickle": "text"}},
        {"lr": {"tensor": ["a0", "save"]}},
        {"lr": {"calibrator": ["Other", {"dict": []}]}},
    ],
)
def test_a_file_names_no_function_that_is_called(parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(make(calibration=None).fit(X, Y), "net")
    forge(tmp_path / "net", parameters)
    with pytest.raises(ValueError, match="The file names"):
        load("net")
    assert os.listdir(tmp_path) == ["net"]


def without(mapping, key):
    return {name: own for name, own in mapping.items() if name != key}


FORGERIES = [
    (lambda tree: without(tree, "estimator"), "KeyError"),
    (lambda tree: without(tree, "sksmooth"), "KeyError"),
    (lambda tree: {**tree, "estimator": 3}, "int"),
    (lambda tree: {**tree, "estimator": {"estimator": {"kind": "LabelSmoothingClassifier"}}}, ""),
    (lambda tree: {**tree, "estimator": {"estimator": []}}, "TypeError"),
    (lambda tree: {**tree, "estimator": {"array": "a999"}}, "a999"),
    (lambda tree: {**tree, "estimator": {"scalar": ["a0"]}}, "TypeError"),
    (lambda tree: {**tree, "estimator": {"calibrator": []}}, "IndexError"),
    (lambda tree: {**tree, "estimator": {"named": 1}}, "AttributeError"),
    (lambda tree: [tree], "TypeError"),
    (lambda tree: {**tree, "estimator": {"random_state": {"tuple": []}}}, ""),
]


@pytest.mark.parametrize(("forgery", "message"), FORGERIES)
def test_a_file_of_another_form_is_refused_by_name(forgery, message, tmp_path):
    save(make().fit(X, Y), tmp_path / "net")
    forge(tmp_path / "net", change=forgery)
    with pytest.raises(ValueError, match=f"net cannot be loaded: .*{message}"):
        load(tmp_path / "net")


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path):
    save(make().fit(X, Y), tmp_path / "net")
    forge(tmp_path / "net", write=np.savez_compressed)
    with pytest.raises(ValueError, match="is no file that sksmooth"):
        load(tmp_path / "net")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value, tmp_path):
    path, net = tmp_path / "net", make(calibration="temperature").fit(X, Y)
    save(net, path)
    calibrator = {"calibrator": ["TemperatureScaling", {"dict": [["temperature_", value]]}]}
    forge(path, learned={"calibrator_": calibrator})
    with pytest.raises(ValueError, match="loaded temperature_ of TemperatureScaling is not finite"):
        load(path)
    with torch.no_grad():
        net.module_.layers[0].bias[1] = value
    save(net, path)
    with pytest.raises(ValueError, match=r"loaded layers.0.bias of SimpleNet is not finite"):
        load(path)


@pytest.mark.parametrize("kind", ["TemperatureScaling", "NormTemperatureScaling"])
def test_a_calibrator_without_what_it_needs_is_refused(kind, tmp_path):
    save(make().fit(X, Y), tmp_path / "net")
    calibrator = {"calibrator": [kind, {"dict": [["prior_strength", 1.0]]}]}
    forge(tmp_path / "net", learned={"calibrator_": calibrator})
    with pytest.raises(ValueError, match=r"net cannot be loaded: .*(temperature|norm)_"):
        load(tmp_path / "net")


@pytest.mark.parametrize(
    ("learned", "message"),
    [
        ({"estimators_": []}, "an ensemble, but no nets"),
        ({"estimators_": [None]}, "an ensemble, but no nets"),
        ({"cv_results_": {"dict": [["epoch", [1, 2]], ["score", [1.0]]]}}, "different lengths"),
    ],
)
def test_an_ensemble_without_what_it_needs_is_refused(learned, message, tmp_path):
    model = LabelSmoothingClassifierCV(make(), cv=2, label_smoothings=(0.1,), random_state=0)
    save(model.fit(X, Y), tmp_path / "net")
    forge(tmp_path / "net", learned=learned)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "net")


def test_a_device_of_a_kind_that_torch_does_not_know(tmp_path):
    net = make().fit(X, Y)
    save(net, tmp_path / "net")
    forge(tmp_path / "net", {"device": {"device": "elsewhere:0"}})
    with pytest.warns(UserWarning, match="device='elsewhere:0' is not there"):
        loaded = load(tmp_path / "net")
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    load(tmp_path / "net", device="cpu")  # without a warning


def test_what_the_file_cannot_hold_must_be_given(tmp_path):
    net = LabelSmoothingClassifier(WithBatchNorm, max_epochs=2, calibration=None, random_state=0)
    save(net.fit(X, Y), tmp_path / "net")
    with pytest.raises(
        TypeError, match=r"module of LabelSmoothingClassifier was WithBatchNorm.*module=\.\.\."
    ):
        load(tmp_path / "net")
    with pytest.raises(ValueError, match="does not fit module"):
        load(tmp_path / "net", module=SimpleNet)
    with pytest.raises(TypeError, match="load has no parameter 'modul'"):
        load(tmp_path / "net", module=WithBatchNorm, modul=WithBatchNorm)


def test_what_cannot_be_saved_is_refused(tmp_path):
    class Own(LabelSmoothingClassifier):
        pass

    with pytest.raises(TypeError, match="of Own, but save takes"):
        save(Own(max_epochs=1).fit(X, Y), tmp_path / "net")
    with pytest.raises(TypeError, match="calibrator_ is of Equal, which is none"):
        save(make(calibration=Equal()).fit(X, Y), tmp_path / "net")
    with pytest.raises(ValueError, match=r"not fitted|not initialized"):
        save(make(), tmp_path / "net")
    assert not os.listdir(tmp_path)


def test_a_file_stays_whole_when_its_successor_cannot_be_written(tmp_path, monkeypatch):
    save(make().fit(X, Y), tmp_path / "net")
    before = (tmp_path / "net").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(make(lr=0.5).fit(X, Y), tmp_path / "net")
    assert (tmp_path / "net").read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    code = """
import sys
from sksmooth import *
X, y = make_tabular(150, random_state=0)
nets = [LabelSmoothingClassifier(max_epochs=1, random_state=i).fit(X, y) for i in range(2)]
save(nets[0], sys.argv[1])
print("ready", flush=True)
while True:
    for net in nets:
        save(net, sys.argv[1])
"""
    path = tmp_path / "net"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    ) as process:
        try:
            process.stdout.readline()
            for _ in range(20):
                assert load(path).predict_proba(X).shape == (len(X), 3)
        finally:
            process.kill()
    assert load(path).predict_proba(X).shape == (len(X), 3)


def test_all_that_was_learned_is_in_the_file(tmp_path):
    for estimator in (make(class_weight="balanced"), make_cv()):
        save(estimator.fit(X, Y), tmp_path / "net")
        assert set(vars(load(tmp_path / "net"))) == set(vars(estimator))


def test_a_file_stays_whole_on_a_disk_that_fills_up(tmp_path):
    code = """
import resource, signal, sys
from sksmooth import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
X, y = make_tabular(150, random_state=0)
net = LabelSmoothingClassifier(max_epochs=1, random_state=0).fit(X, y)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for write in (save, lambda net, path: net.save_params(f_params=path)):
    try:
        write(net, sys.argv[1])
    except (OSError, RuntimeError) as error:  # torch's is RuntimeError
        print(type(error).__name__)
"""
    path = tmp_path / "net"
    save(make().fit(X, Y), path)
    before = path.read_bytes()
    command = [sys.executable, "-c", code, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert len(told.stdout.split()) == 2
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]
