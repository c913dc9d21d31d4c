"""The engine makes every tensor where its rows are; and what a GPU trains is a classifier.

Most of it is shown without a GPU, on torch's device "meta", whose tensors have no numbers.
"""

import operator
import pickle
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import (
    Checkpoint,
    GradientNormClipping,
    LoadInitState,
    LRScheduler,
)
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Subset

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    LabelSmoothingLoss,
    SimpleNet,
    _net,
    _params,
    load,
    make_tabular,
    save,
    trusted_types,
)
from sksmooth._batches import TensorRows, make_batches, merge_repeated
from sksmooth._progress import go_on
from sksmooth.engine import randomness
from sksmooth.engine.cross_fit import CrossFitted, Folds
from sksmooth.engine.monitor import Monitor
from sksmooth.engine.plan import against_stacking, draws_random_numbers
from sksmooth.engine.randomness import OwnRandomness
from sksmooth.engine.stack import (
    InMemoryStack,
    Member,
    Scored,
    Selection,
    members_that_pay,
    take,
)

# -- without a GPU ------------------------------------------------------------------------------

ELSEWHERE = torch.device("meta")

COPIES = ("copy_", "_copy_from", "_to_copy", "_foreach_copy_")


class OneDevice(TorchDispatchMode):
    """Refuse what devices do, and "meta" does not: tensors of two of them in one operation.

    Tensors of float64 are refused, too, which Apple's GPUs do not have.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        devices = {
            value.device.type
            for value in tree_leaves((args, kwargs))
            if isinstance(value, torch.Tensor) and (value.ndim or not value.is_cpu)
        }
        if func.overloadpacket.__name__ not in COPIES and len(devices) > 1:
            raise RuntimeError(f"{func} got tensors of {devices}")
        made = func(*args, **kwargs)
        for value in tree_leaves(made):
            is_tensor = isinstance(value, torch.Tensor)
            if is_tensor and value.device == ELSEWHERE and value.dtype == torch.float64:
                raise TypeError(f"{func} made a tensor of float64")
        return made


class NoNumbers(TorchFunctionMode):
    """Let numbers that "meta" does not have be asked for: 1, 2, 3, ...

    Parameters
    ----------
    answer : bool
        Whether some class weights are not 1, and some constants of the loss not 0.
    """

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            return 1 + torch.arange(args[0].numel()).view(args[0].shape).to(args[0].dtype)
        if func is torch.Tensor.__bool__ and args[0].device == ELSEWHERE:
            return self.answer
        if func is torch.allclose:
            assert args[0].device == args[1].device
            return True
        return func(*args, **(kwargs or {}))


class Reads(NoNumbers):
    """Count how often the host asks for numbers, for each of which it waits for the device."""

    NAMES = ("__bool__", "__float__", "__int__", "cpu", "equal", "item", "nonzero", "tolist")

    def __init__(self):
        super().__init__(answer=False)
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") in self.NAMES
        return super().__torch_function__(func, types, args, kwargs)


@pytest.fixture
def elsewhere(monkeypatch):
    """Let "meta" pass where torch knows it to be no device to train on."""
    adam = sys.modules[torch.optim.Adam.__module__]  # which torch.optim hides
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    # It has no generators; nothing is drawn from those of the CPU.
    monkeypatch.setattr(randomness, "make_generator", lambda seed, device: torch.Generator())


def make_net(dropout=0.0, own=False):
    if own:
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 4))
    return SimpleNet(3, 4, (8, 5), dropout=dropout)


def make_rows(n_rows, weighted=False):
    X, y = torch.empty(n_rows, 3), torch.zeros(n_rows, dtype=torch.int64)
    weight = torch.ones(n_rows).to(ELSEWHERE) if weighted else None
    return TensorRows(X.to(ELSEWHERE), y.to(ELSEWHERE), weight)


def make_member(net, n_rows, n_held_out, weighted):
    rows = make_rows(n_rows + n_held_out, weighted)
    everything = Selection.of(rows)
    held_out = Selection(rows, everything.chosen[n_rows:]) if n_held_out else None
    weight = torch.ones(4).to(ELSEWHERE) if weighted else None
    return Member(
        net,
        LabelSmoothingLoss(weight=weight, form="kl" if weighted else "cross_entropy"),
        Selection(rows, everything.chosen[:n_rows]),
        held_out,
        torch.Generator(),
    )


def make_stack(sizes, by_hand, dropout=0.0, n_held_out=0, weighted=False, batch_size=16, net=None):
    nets = [net or make_net(dropout, own=not by_hand).to(ELSEWHERE) for _ in sizes]
    members = [
        make_member(net, n_rows, n_held_out, weighted)
        for net, n_rows in zip(nets, sizes, strict=True)
    ]
    optimizer = torch.optim.AdamW(nets[0].parameters(), fused=True)
    return InMemoryStack(members, optimizer, batch_size, 4, by_hand=by_hand)


def are_elsewhere(tensors):
    return {tensor.device for tensor in tensors if tensor is not None} == {ELSEWHERE}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("dropout", "n_held_out", "weighted"), [(0.0, 0, False), (0.5, 7, False), (0.5, 7, True)]
)
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("sizes", [[40], [8], [40, 40, 40], [37, 40, 35]])
def test_an_epoch_needs_nothing_of_another_device(sizes, by_hand, dropout, n_held_out, weighted):
    n_members = len(sizes)
    with OneDevice(), NoNumbers(answer=weighted):
        stack = make_stack(sizes, by_hand, dropout, n_held_out, weighted)
        losses = stack.run_epoch()
        scored = stack.score()
        index = torch.zeros(n_members, 6, dtype=torch.int64).to(ELSEWHERE)
        logits = stack.logits(index), stack.nets.logits(take(stack.X, index))
        stack.write_back(0, stack.state())
    assert losses.values.shape == (n_members, -(-max(sizes) // 16))
    assert are_elsewhere([*stack.state(), *stack.targets, *logits])
    assert {own.shape for own in logits} == {(n_members, 6, 4)}
    assert (scored is None) == (n_held_out == 0)
    if scored is not None:
        assert scored.logits.shape == (n_members, n_held_out, 4)


EMBEDDING = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(6, 4))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("kind", ["by hand", "by autograd", "Embedding"])
@pytest.mark.parametrize("sizes", [[40], [37, 40]])
def test_no_step_waits_for_the_device(sizes, kind):
    net = EMBEDDING.to(ELSEWHERE) if kind == "Embedding" else None
    counts = []
    for batch_size in (20, 4):
        with OneDevice(), NoNumbers(answer=False):
            stack = make_stack(sizes, kind == "by hand", 0.1, batch_size=batch_size, net=net)
        with OneDevice(), Reads() as reads:
            stack.run_epoch()
        counts.append(reads.count)
    assert counts == [1, 1]  # the losses


def test_reads_are_counted():
    with Reads() as reads:
        number = torch.ones(1)
        [bool(number), number.item(), number.cpu()]
    assert reads.count == 3


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("by_hand", [True, False])
def test_nets_of_folds_need_nothing_of_another_device(by_hand, weighted):
    with OneDevice(), NoNumbers(answer=weighted):
        stack = make_stack([40], by_hand, weighted=weighted)
        (member,) = stack.members
        held_out = torch.arange(40).view(4, 10)
        train = [list({*range(40)} - {*fold.tolist()}) for fold in held_out]
        rows = member.train.table
        batches = [make_batches(Subset(rows, own), 16, shuffle=True) for own in train]
        folds = Folds([1, 2, 3, 4], batches, held_out.to(ELSEWHERE), rows)
        net = SimpleNamespace(
            module_=member.module,
            criterion_=member.criterion,
            optimizer_=torch.optim.AdamW(member.module.parameters(), fused=True),
            classes_inferred_=range(4),
            rows_at_once=lambda: None,
        )
        fitted = CrossFitted(stack, [net], [folds], by_hand=by_hand)
        losses, scored = fitted.run_epoch(), fitted.score()
    assert losses.values.shape == (1, 3)
    assert scored.logits.shape == (1, 40, 4)
    assert are_elsewhere([*fitted.state(), *fitted.others.state(), fitted.others.X])


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("sizes", [[20], [20, 20]])
def test_the_best_epoch_is_kept_where_the_nets_are(sizes):
    n_sets = len(sizes)
    y = np.tile([0, 1, 2, 3], (n_sets, 5))
    logits = np.eye(4, dtype=np.float32)[y]
    wrong = logits.copy()
    wrong[-1] *= -1  # the last set's second epoch is worse than its first
    outcomes = [Scored(own, y, None, [20] * n_sets) for own in (logits, wrong)]
    with OneDevice(), NoNumbers(answer=False):
        stack = make_stack(sizes, by_hand=True)
        monitor = Monitor([stack], patience=5, collect=lambda _: outcomes[monitor.n_epochs])
        for _ in outcomes:
            monitor.look([stack.run_epoch()])
        monitor.restore()
    assert are_elsewhere(monitor.best.state)
    assert monitor.best.epoch[-1] == 1


@pytest.mark.usefixtures("elsewhere")
def test_rows_are_chosen_where_they_are():
    with OneDevice(), NoNumbers(answer=False):
        rows = make_rows(10, weighted=True)
        parts = Subset(Subset(rows, [1, 2, -1, 4, 7]), [0, 2, 3])
        batches = make_batches(parts, 2, shuffle=True)
        everything = [
            *rows.take([0, 3]).batch(slice(0, 2)),
            *(part for batch in batches for part in (*batch, batch.sample_weight)),
            *merge_repeated(rows).batch(slice(0, 1)),
            merge_repeated(rows).sample_weight,
            batches.index,
            Selection.of(rows).none().chosen,
        ]
    assert are_elsewhere(everything)
    assert len(batches) == 2


@pytest.mark.usefixtures("elsewhere")
def test_a_module_is_tried_where_its_rows_are():
    with OneDevice(), NoNumbers(answer=True):
        X, module = make_rows(2).X, make_net(0.5, own=True).to(ELSEWHERE)
        net = SimpleNamespace(module_=module, criterion_=LabelSmoothingLoss())
        net.optimizer_ = torch.optim.AdamW(module.parameters())
        net.classes_inferred_ = range(4)
        assert against_stacking(net, X) is None
        assert draws_random_numbers(module, X)


def test_a_loader_is_given_rows_of_the_host():
    rows = make_rows(10)
    with NoNumbers(answer=False):
        for own in (rows, Subset(rows, [1, 2, -1])):
            for X, y in make_batches(own, 2, shuffle=True, num_workers=0):
                assert X.is_cpu
                assert y.is_cpu


def test_a_stack_beside_the_processors_cache_may_be_large():
    assert members_that_pay(nn.Linear(1000, 100).to(ELSEWHERE), most=64) == 64
    assert members_that_pay(nn.Linear(10_000, 10_000).to(ELSEWHERE), most=64) == 1


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_fitted_net_moves_to_another_device(optimizer, monkeypatch):
    X, y = make_tabular(90, random_state=0)
    given = {"optimizer": optimizer, "calibration": None, "random_state": 0}
    net = LabelSmoothingClassifier(max_epochs=2, criterion__weight=torch.ones(3), **given)
    net.partial_fit(X, y)
    with pytest.raises(ValueError, match="device='meta' cannot be used"):
        net.set_params(device="meta")
    net.partial_fit(X, y)  # where it was
    monkeypatch.setattr(_params, "_check_device", lambda device: None)
    n_states, lr = len(net.optimizer_.state), net.optimizer_.param_groups[0]["lr"]
    net.set_params(device="meta")
    parameters = list(net.module_.parameters())
    assert are_elsewhere([*parameters, net.criterion_.weight])
    (group,) = net.optimizer_.param_groups
    assert all(map(operator.is_, group["params"], parameters))
    assert group["lr"] == lr
    assert len(net.optimizer_.state) == n_states
    moments = [own for state in net.optimizer_.state.values() for own in state.values()]
    assert not moments or are_elsewhere([own for own in moments if own is not None])


def test_a_trimmed_net_moves_to_another_device(monkeypatch):
    X, y = make_tabular(90, random_state=0)
    net = LabelSmoothingClassifier(max_epochs=1, random_state=0).fit(X, y)
    net.trim_for_prediction()
    monkeypatch.setattr(_params, "_check_device", lambda device: None)
    net.set_params(device="meta")
    assert are_elsewhere(net.module_.parameters())


class Remote(TorchFunctionMode):
    """Refuse to give tensors as arrays that were not brought to the host, wherever they are."""

    def __init__(self):
        super().__init__()
        self.here = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.numpy and not any(args[0] is own for own in self.here):
            raise TypeError("the tensor is on a GPU")
        made = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            self.here.append(made)
        return made


def remotely(function):
    def called(*args):
        with Remote():
            return function(*args)

    return called


def test_a_training_that_was_loaded_on_a_device_goes_on(monkeypatch, tmp_path):
    X, y = make_tabular(90, random_state=0)
    checkpoint = Checkpoint(monitor=None, dirname=str(tmp_path), f_training="training.pt")

    def make(max_epochs):
        callbacks = [checkpoint, LoadInitState(checkpoint)]
        return LabelSmoothingClassifier(max_epochs=max_epochs, callbacks=callbacks, random_state=0)

    make(2).fit(X, y)
    for name in ("go_on", "random_state_of"):
        monkeypatch.setattr(_net, name, remotely(getattr(_net, name)))
    assert len(make(4).fit(X, y).history) == 4


@pytest.mark.parametrize(
    ("saved", "own"), [("cuda:0", "cuda:1"), ("cuda:1", "cuda"), ("cpu:0", None)]
)
def test_a_training_goes_on_on_another_gpu_of_the_kind(saved, own):
    state = {"generators": {saved: torch.Generator().get_state()}, "n_folds": 0, "n_epochs": 1}
    state |= {"active": torch.ones(1), "inverse_temperature": None, "best": None, "callbacks": {}}
    asked = []
    drawn_from = SimpleNamespace(generator=lambda device: asked.append(device) or torch.Generator())
    net = SimpleNamespace(device=own, callbacks_=[])
    go_on(net, drawn_from, SimpleNamespace(), state)
    assert asked == [torch.device(own or "cpu")]


def test_a_training_on_a_gpu_does_not_go_on_on_the_cpu():
    state = {"generators": {"cuda:0": torch.Generator().get_state()}}
    with pytest.raises(ValueError, match="on device='cuda', and cannot go on with device='cpu'"):
        go_on(SimpleNamespace(device="cpu"), OwnRandomness(0), SimpleNamespace(), state)


def test_a_device_without_a_number_is_the_current_one(monkeypatch):
    here = SimpleNamespace(device=torch.device("cuda", 1))
    monkeypatch.setattr(torch, "empty", lambda *_, device: here)
    monkeypatch.setattr(randomness, "make_generator", lambda seed, device: torch.Generator())
    own = OwnRandomness(0)
    assert own.generator("cuda") is own.generator("cuda:1") is not own.generator("cuda:0")


def test_tensors_of_two_devices_are_refused():
    with pytest.raises(RuntimeError, match="got tensors of"), OneDevice():
        torch.zeros(2) + torch.zeros(2, device=ELSEWHERE)
    with pytest.raises(TypeError, match="float64"), OneDevice():
        torch.zeros(2, dtype=torch.float64, device=ELSEWHERE)


# -- on a GPU -----------------------------------------------------------------------------------


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Own(nn.Module):
    """A module that is not SimpleNet, and draws random numbers."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, n_classes)
        )

    def forward(self, X):
        return self.layers(X)


def on_gpu(**params):
    given = {"device": "cuda", "max_epochs": 20, "lr": 0.003, "random_state": 0}
    return LabelSmoothingClassifier(**{**given, **params})


ON_GPU = {
    "SimpleNet": on_gpu(),
    "a fifth held out": on_gpu(train_split=0.2),
    "weighted": on_gpu(class_weight="balanced", smoothing="prior"),
    "all rows in one batch": on_gpu(batch_size=-1, max_epochs=60),
    "unshuffled": on_gpu(iterator_train__shuffle=False, train_split=None),
    "own module": on_gpu(module=Own),
    "BatchNorm": on_gpu(module=nn.Sequential(nn.BatchNorm1d(10), nn.Linear(10, 3)), lr=0.03),
    "by skorch": on_gpu(callbacks=[GradientNormClipping(1.0)]),
    "CV": LabelSmoothingClassifierCV(on_gpu(), cv=3, random_state=0),
    "CV, one net": LabelSmoothingClassifierCV(on_gpu(), cv=3, ensemble=False, random_state=0),
    "CV, own module": LabelSmoothingClassifierCV(on_gpu(module=Own), cv=3, random_state=0),
    "search": BatchedGridSearchCV(on_gpu(), {"label_smoothing": [0.0, 0.2], "lr": [0.003]}, cv=3),
}


@pytest.fixture(scope="module")
def data():
    return make_tabular(400, random_state=0)


@needs_gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_what_a_gpu_trains_is_a_classifier(name, data):
    X, y = data
    before = torch.cuda.get_rng_state()
    estimator = clone(ON_GPU[name]).fit(X, y)
    proba = estimator.predict_proba(X)
    again = clone(ON_GPU[name]).fit(X, y)
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(again.predict_proba(X), proba, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(estimator)).predict_proba(X), proba)

    on_cpu = clone(ON_GPU[name])
    device = "device" if "device" in on_cpu.get_params() else "estimator__device"
    on_cpu.set_params(**{device: "cpu"}).fit(X, y)
    assert estimator.score(X, y) == pytest.approx(on_cpu.score(X, y), abs=0.05)


@needs_gpu
def test_own_randomness_reaches_a_gpu():
    X, before = torch.ones(50, 20, device="cuda"), torch.cuda.get_rng_state()
    drawn = []
    for seed in (3, 3, 4):
        with OwnRandomness(seed):
            drawn.append(nn.functional.dropout(X, 0.4) + torch.randn(50, 20, device="cuda"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.fixture
def tagged_cuda(monkeypatch):
    """Let files and pickles say of their tensors that they were on CUDA, as those of a GPU do."""

    @contextmanager
    def tagging(net, device="cuda"):
        nets = getattr(net, "estimators_", [net])
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: f"{device}:0")
            for own in nets:
                patch.setattr(own, "device", device)
            yield

    return tagging


@pytest.mark.skipif(torch.cuda.is_available(), reason="is of machines without a GPU")
@pytest.mark.filterwarnings("ignore:.*device=.* is not there|.*CUDA")
class TestWithoutTheGPUOfTheNet:
    # Of a kind of device that torch knows, and one of a package that is not installed.
    @pytest.mark.parametrize("device", ["cuda", "mps", "elsewhere"])
    @pytest.mark.parametrize("kind", [LabelSmoothingClassifier, LabelSmoothingClassifierCV])
    @pytest.mark.parametrize("way", ["save", "pickle", "skops"])
    def test_a_file_is_loaded(self, kind, way, device, tagged_cuda, tmp_path):
        X, y = make_tabular(90, random_state=0)
        encoding = {"module__encoding": "piecewise_linear"}
        net = LabelSmoothingClassifier(max_epochs=2, random_state=0, **encoding)
        if kind is LabelSmoothingClassifierCV:
            net = kind(net, cv=2, label_smoothings=[0.1], random_state=0)
        expected = net.fit(X, y).predict_proba(X)
        skops = pytest.importorskip("skops.io") if way == "skops" else None
        with tagged_cuda(net, device):
            if way == "save":
                save(net, tmp_path / "net")
            written = pickle.dumps(net) if skops is None else skops.dumps(net)
        if way == "save":
            loaded = load(tmp_path / "net")
        elif way == "pickle":
            assert f"{device}:0".encode() in written
            loaded = pickle.loads(written)
        else:
            loaded = skops.loads(written, trusted=trusted_types())
        nets = getattr(loaded, "estimators_", [loaded])
        assert {torch.device(own.device).type for own in nets} == {"cpu"}
        np.testing.assert_array_equal(loaded.predict_proba(X), expected)
        np.testing.assert_array_equal(loaded.fit(X, y).predict_proba(X), expected)

    @pytest.mark.parametrize(
        "params",
        [{"smoothing": torch.full((3, 3), 1 / 3)}, {"callbacks": [LRScheduler()]}],
    )
    def test_a_pickle_is_read_whatever_keeps_tensors(self, params, tagged_cuda):
        X, y = make_tabular(90, random_state=0)
        net = LabelSmoothingClassifier(max_epochs=3, random_state=0, **params).fit(X, y)
        with tagged_cuda(net):
            written = pickle.dumps(net)
        assert b"cuda:0" in written
        loaded = pickle.loads(written)
        np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))

    def test_parameters_are_loaded(self, tagged_cuda, tmp_path):
        X, y = make_tabular(90, random_state=0)
        net = LabelSmoothingClassifier(max_epochs=2, calibration=None, random_state=0).fit(X, y)
        with tagged_cuda(net):
            net.save_params(f_params=tmp_path / "net.pt", f_optimizer=tmp_path / "optimizer.pt")
        other = LabelSmoothingClassifier(max_epochs=1, calibration=None, random_state=1).fit(X, y)
        other.load_params(f_params=tmp_path / "net.pt", f_optimizer=tmp_path / "optimizer.pt")
        np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))
