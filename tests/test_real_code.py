"""What people's code does to the package: situations of public bug reports and questions."""

import pickle
import warnings
from fractions import Fraction
from functools import partial

import numpy as np
import pandas as pd
import pytest
import skorch
import torch
from helpers import Listener, needs_sklearn
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import BatchScoring, Callback, EpochScoring, PassthroughScoring
from skorch.dataset import ValidSplit
from skorch.helper import SliceDataset, predefined_split
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    LabelSmoothingLoss,
    SimpleNet,
    TemperatureScaling,
    load,
    make_tabular,
    save,
)
from sksmooth.metrics import neg_expected_calibration_error_scorer

X, Y = make_tabular(200, random_state=0)
X = X.astype(np.float64)
NAMES = np.array(["cat", "dog", "eel"])


class Net(nn.Module):
    """Two layers; may give logits of another width or dtype, or probabilities."""

    def __init__(self, n_features=10, n_classes=3, width=None, last=None):
        super().__init__()
        self.hidden = nn.Linear(n_features, 16)
        self.out = nn.Linear(16, width or n_classes)
        self.last = last

    def forward(self, x):
        logits = self.out(torch.tanh(self.hidden(x)))
        return logits if self.last is None else self.last(logits)


class Rows(Dataset):
    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i], self.y[i]


def single(**parameters):
    return LabelSmoothingClassifier(
        **{"max_epochs": 4, "lr": 0.01, "random_state": 0, **parameters}
    )


def crossed(**parameters):
    return LabelSmoothingClassifierCV(
        single(**parameters), label_smoothings=(0, 0.1), cv=2, random_state=0
    )


def searched(**parameters):
    grid = {"label_smoothing": [0, 0.1]}
    return BatchedGridSearchCV(single(**parameters), grid, cv=2, error_score="raise")


ALL = pytest.mark.parametrize("make", [single, crossed, searched])


# -- datasets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("module", [{}, {"module": Net}], ids=["SimpleNet", "own"])
def test_datasets_of_any_real_dtype_are_as_arrays(dtype, module):
    rows = torch.from_numpy(X).to(dtype)
    exact = rows.float().numpy()
    fixed = {"train_split": None, "iterator_train__shuffle": False}
    if not module:  # whose dropout is drawn in another order by skorch's steps
        fixed["module__dropout"] = 0.0
    net = single(**module, **fixed).fit(Rows(rows, torch.from_numpy(Y)))
    expected = single(**module, **fixed).fit(exact, Y).predict_proba(exact)
    np.testing.assert_allclose(net.predict_proba(exact), expected, rtol=1e-3)
    found = net.predict_proba(Rows(rows, torch.from_numpy(Y)))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(Y.astype(float), [0.0, 1.0, 2.0]), (Y > 0, [False, True]), (NAMES[Y], list(NAMES))],
)
def test_datasets_of_any_labels_are_as_arrays(labels, classes):
    net = single().fit(Rows(X.astype(np.float32), labels))
    assert net.classes_.tolist() == classes
    assert (net.predict(X) == labels).mean() > 0.5


@pytest.mark.parametrize("labels", [Y.astype(float), Y > 0, Y[:, None].astype(np.int8)])
def test_labels_of_a_dataset_may_be_of_any_type_beside_classes(labels):
    net = single(classes=[0, 1, 2]).fit(Rows(X.astype(np.float32), labels))
    expected = single(classes=[0, 1, 2]).fit(Rows(X.astype(np.float32), labels.ravel().astype(int)))
    np.testing.assert_array_equal(net.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("classes", [None, [0, 1, 2]])
def test_rows_of_a_dataset_with_a_one_for_their_class_are_told_of_argmax(method, classes):
    rows = Rows(X.astype(np.float32), np.eye(3)[Y])
    with pytest.raises(ValueError, match=r"y\.argmax\(axis=1\)"):
        getattr(single(classes=classes), method)(rows)


@pytest.mark.parametrize("names", [NAMES, np.arange(3)])
def test_rows_to_be_held_out_are_read_as_rows_to_be_trained_on(names):
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(10)])
    labels = names[Y]

    def fit(held_out, y):
        split = predefined_split(skorch.dataset.Dataset(held_out, y))
        return single(train_split=split).fit(frame, labels).predict_proba(frame)

    expected = fit(X.astype(np.float32), labels)
    series = pd.Series(labels, index=range(5, 205))
    np.testing.assert_array_equal(fit(frame, series), expected)
    with pytest.raises(ValueError, match="same order"):
        fit(frame[frame.columns[::-1]], labels)
    with pytest.raises(ValueError, match=r"'x3' holds 200 missing values"):
        fit(frame.assign(x3=np.nan), labels)
    with pytest.raises(ValueError, match="label 'unknown', which is none of the classes"):
        fit(X, np.full(200, "unknown"))
    with pytest.raises(ValueError, match="no rows"):
        fit(X[:0], labels[:0])


def test_dataset_without_rows_is_an_error():
    with pytest.raises(ValueError, match="without any rows"):
        single().fit(Rows(torch.zeros(0, 10), torch.zeros(0)))


@pytest.mark.parametrize("labels", [Y, NAMES[Y]])
@ALL
def test_slice_datasets_are_as_arrays(make, labels):
    rows = Rows(X.astype(np.float32), labels)
    rows_X, rows_y = SliceDataset(rows, idx=0), SliceDataset(rows, idx=1)
    model = make().fit(rows_X, np.asarray(list(rows_y)))
    np.testing.assert_array_equal(model.predict(rows_X), make().fit(X, labels).predict(X))
    scores = [cross_val_score(make(), own, labels, cv=2) for own in (rows_X, X)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("make", [crossed, searched])
def test_bare_dataset_in_a_search_is_told_of_slice_dataset(make):
    with pytest.raises(ValueError, match="SliceDataset"):
        make().fit(Rows(X, Y), Y)


@pytest.mark.parametrize(
    "search",
    [
        lambda: GridSearchCV(single(), {"lr": [0.1]}, cv=2, error_score="raise").fit(Rows(X, Y), Y),
        lambda: cross_val_score(single(), Rows(X, Y), Y, cv=2, error_score="raise"),
        lambda: crossed().fit(X, Y).predict(Rows(X, Y)),
        lambda: crossed().fit(X, Y).confidence(Rows(X, Y)),
    ],
)
def test_bare_dataset_where_rows_are_wanted_is_told_of_slice_dataset(search):
    with pytest.raises(ValueError, match="SliceDataset"):
        search()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
@ALL
def test_tensors_of_low_precision_are_as_arrays(make, dtype):
    rows, weight = torch.from_numpy(X).to(dtype), torch.ones(200, dtype=torch.bfloat16)
    exact = rows.float().numpy()
    fit_params = {} if make is searched else {"sample_weight": weight}  # scikit-learn's cannot
    model = make().fit(rows, Y, **fit_params)
    np.testing.assert_array_equal(
        model.predict_proba(rows), make().fit(exact, Y).predict_proba(exact)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_real_dtype_are_as_arrays_in_searches(dtype):
    rows, y = torch.from_numpy(X).to(dtype), torch.from_numpy(Y)
    for own, arrays in ((y, Y), (Y, Y)):
        found = cross_val_score(single(), rows, own, cv=2, error_score="raise")
        expected = cross_val_score(single(), rows.double().numpy(), arrays, cv=2)
        np.testing.assert_array_equal(found, expected)
    search = GridSearchCV(single(), {"lr": [0.1]}, cv=2, error_score="raise").fit(rows, Y)
    assert search.score(rows, Y) > 0.5


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # torch's own
@pytest.mark.parametrize("turn", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
@ALL
def test_sparse_tensors_are_told_to_be_made_dense(make, turn):
    rows = turn(torch.from_numpy(X))
    with pytest.raises(TypeError, match="to_dense"):
        make().fit(rows, Y)
    with pytest.raises(TypeError, match="to_dense"):
        make().fit(X, Y).predict(rows)


class Streamed(IterableDataset):
    def __init__(self, labels):
        self.labels = labels

    def __iter__(self):
        return zip(torch.from_numpy(X).float(), self.labels, strict=True)


@pytest.mark.parametrize(
    ("parameters", "arguments", "error", "message"),
    [
        ({}, (Rows(X, Y), Y[:100]), ValueError, "y has 100 labels, but X is a Rows of 200 rows"),
        ({}, (Rows(X.astype(complex), Y),), ValueError, "Complex data"),
        ({}, (DataLoader(Rows(X, Y)),), TypeError, "give its dataset"),
        ({}, (Streamed(Y.tolist()),), ValueError, "train_split=None"),
        ({"train_split": None}, (Streamed(NAMES[Y].tolist()),), ValueError, "integers 0, 1"),
    ],
)
def test_datasets_that_cannot_be_trained_on_are_told_why(parameters, arguments, error, message):
    with pytest.raises(error, match=message):
        single(**parameters).fit(*arguments)


def test_labels_that_a_dataset_changes_are_those_that_are_trained_on():
    class Changed(Rows):
        """As torchvision's with a target_transform: `targets` are not what rows have."""

        def __init__(self):
            super().__init__(X.astype(np.float32), Y)
            self.targets, self.y = Y, None

        def __getitem__(self, index):
            return self.X[index], int(self.targets[index] > 0)

    net = single().fit(Changed())
    assert net.classes_.tolist() == [0, 1]
    assert net.score(X, Y > 0) > 0.7


def test_y_that_is_not_the_datasets_is_refused():
    rows = Rows(X.astype(np.float32), Y)
    single().fit(rows, Y.astype(float))
    with pytest.raises(ValueError, match="y says otherwise than row 0 of the Rows"):
        single().fit(rows, Y[::-1].copy())


def test_streamed_rows_train():
    net = single(train_split=None).fit(Streamed(Y.tolist()))
    np.testing.assert_array_equal(net.predict(Streamed(Y.tolist())), net.predict(X))
    with pytest.raises(ValueError, match="without any rows"):
        net.predict(Rows(X[:0], Y[:0]))


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")  # as of arrays
def test_labels_of_a_dataset_may_be_a_column():
    net = single().fit(Rows(X, Y[:, None]))
    np.testing.assert_array_equal(net.predict(X), single().fit(Rows(X, Y)).predict(X))


PAIR = (X[0].astype(np.float32), 0)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("a", ValueError, "returns 1 value"),
        (X[0], ValueError, "returns 1 value"),
        (PAIR[:1], ValueError, "returns 1 value"),
        ((*PAIR, 1.0), ValueError, "returns 3 values"),
        ({"x": X[0], "y": 0}, ValueError, "returns 1 value"),
        (("text", 0), TypeError, "text such as 'text'"),
        ((["a", "b"], 0), TypeError, "text such as 'a'"),
        ((X[0].tolist(), 0), TypeError, "SimpleNet takes rows as one tensor, got a list"),
        ((None, 0), ValueError, "no numbers, arrays or tensors.*__getitem__"),
        ((pd.Series(X[0]), 0), ValueError, "no numbers, arrays or tensors.*__getitem__"),
        ((np.full(10, np.nan), 0), ValueError, "X contains NaN"),
    ],
)
def test_rows_of_a_dataset_that_are_none_are_told_of(item, error, message):
    class Items(Dataset):
        def __len__(self):
            return 200

        def __getitem__(self, index):
            is_pair = isinstance(item, tuple) and len(item) == 2
            return (item[0], Y[index]) if is_pair else item

    with pytest.raises(error, match=message):
        single().fit(Items(), Y)


def test_rows_of_a_dataset_of_different_sizes_are_told_to_be_padded():
    rows = Rows([X[i, : 5 + i % 3] for i in range(200)], Y)
    with pytest.raises(ValueError, match=r"different sizes\. Pad them"):
        single().fit(rows)
    with pytest.raises(ValueError, match=r"different sizes\. Pad them"):
        single().fit(X, Y).predict(rows)


class TwoInputs(Net):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features + 2, n_classes)
        self.embedding = nn.Embedding(4, 3)

    def forward(self, numbers, kind):
        return super().forward(torch.cat([numbers, self.embedding(kind)], 1))


class EmbeddingFirst(TwoInputs):
    def __init__(self, n_features, n_classes):
        nn.Module.__init__(self)
        self.embedding = nn.Embedding(4, 3)
        self.hidden, self.out = nn.Linear(n_features + 2, 16), nn.Linear(16, n_classes)
        self.last = None


@pytest.mark.parametrize("module", [TwoInputs, EmbeddingFirst])
@pytest.mark.parametrize("container", [np.asarray, torch.as_tensor, pd.DataFrame, list])
def test_several_inputs_may_be_in_any_container(module, container):
    kinds = np.digitize(X[:, 0], [-1, 0, 1])
    series = pd.Series if container is pd.DataFrame else container
    rows = {"numbers": container(X), "kind": series(kinds)}
    net = single(module=module).fit(rows, NAMES[Y])
    assert net.module_.hidden.in_features == 10 + 1 + 2
    plain = {"numbers": X.astype(np.float32), "kind": kinds}
    np.testing.assert_array_equal(net.predict(rows), net.predict(plain))
    with pytest.raises(ValueError, match="numbers contains NaN"):
        single(module=module).fit({**plain, "numbers": np.where(X > 2, np.nan, X)}, Y)
    with pytest.raises(ValueError, match="numbers contains NaN"):
        net.predict({**plain, "numbers": np.where(X > 2, np.nan, X)})
    with pytest.raises(ValueError, match="X is a dict"):
        net.fit(plain, Y, sample_weight=np.ones(200))


def test_sampler_for_rows_that_are_held_out_is_an_error_that_names_train_split():
    sampler = WeightedRandomSampler(np.ones(200), 200)
    with pytest.raises(ValueError, match="train_split='auto'"):
        single(iterator_train__sampler=sampler).fit(X, Y)
    with pytest.raises(ValueError, match="cross-validation holds some out"):
        crossed(iterator_train__sampler=sampler).fit(X, Y)
    net = single(iterator_train__sampler=sampler, train_split=None).fit(X, Y)
    assert net.score(X, Y) > 0.5


# -- modules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"module": Net, "module__width": 1}, r"logits of shape \(\d+, 1\), but y has 3 classes"),
        ({"module": Net, "module__n_classes": 5}, "but y has 3 classes"),
        ({"module__n_classes": 5}, "but y has 3 classes"),
        ({"module__n_features": 7}, "n_features=7"),
        ({"criterion__weight": torch.ones(2)}, r"weight must have shape \(3,\)"),
    ],
)
@ALL
def test_module_or_criterion_of_another_size_is_named(make, parameters, message):
    with pytest.raises(ValueError, match=message):
        make(**parameters).fit(X, Y)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (lambda x: [x], "returned a list"),
        (lambda x: {"logits": x}, "returned a dict"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: x.detach().numpy(), "returned a ndarray"),
        (torch.Tensor.long, "module=Net gives logits of torch.int64"),
        (lambda x: x + 0j, "module=Net gives logits of torch.complex64"),
    ],
)
@ALL
def test_outputs_that_are_no_logits_are_refused(make, last, message):
    with pytest.raises(TypeError, match=message):
        make(module=Net, module__last=last).fit(X, Y)


@pytest.mark.parametrize("module", [Net().requires_grad_(False), Net(last=torch.detach)])
@ALL
def test_modules_of_which_nothing_can_be_trained_are_told_of(make, module):
    with pytest.raises(ValueError, match="Nothing of the module can be trained"):
        make(module=module).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"criterion": nn.MSELoss}, "criterion=MSELoss cannot compare logits of shape"),
        ({"criterion": nn.BCEWithLogitsLoss}, "criterion=BCEWithLogitsLoss cannot compare"),
        ({"criterion": nn.CrossEntropyLoss(torch.ones(5))}, r"CrossEntropyLoss.*weight.*\[5\]"),
        ({"criterion__reduction": "none"}, "criterion__reduction='mean'"),
        ({"criterion": nn.NLLLoss}, "NLLLoss takes probabilities"),
        ({"criterion": nn.NLLLoss, "module": nn.LogSoftmax(1)}, "NLLLoss takes probabilities"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")  # torch's own
@ALL
def test_criteria_that_do_not_fit_are_named(make, parameters, message):
    rows = X[:, :3]  # of which LogSoftmax makes its outputs
    if "module" in parameters:
        parameters = {**parameters, "module": nn.Sequential(nn.Linear(3, 3), parameters["module"])}
    model = make(label_smoothing=0.0, **parameters)
    if make is crossed:
        model.set_params(label_smoothings=(0.0,))
    if make is searched:
        model.set_params(param_grid={"label_smoothing": [0.0]})
    with pytest.raises(ValueError, match=message):
        model.fit(rows, Y)


def in_bfloat16(x):
    with torch.autocast("cpu", torch.bfloat16):
        return x @ torch.eye(3)


@pytest.mark.parametrize("last", [torch.Tensor.double, in_bfloat16, torch.Tensor.half])
@ALL
def test_logits_of_any_float_dtype_are_read(make, last):
    model = make(module=Net, module__last=last).fit(X, Y)
    assert model.score(X, Y) > 0.5
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)


@ALL
def test_lazy_modules_train(make):
    module = nn.Sequential(nn.LazyLinear(16), nn.Tanh(), nn.LazyLinear(3))
    assert make(module=module).fit(X, Y).score(X, Y) > 0.5


@ALL
def test_batchnorms_without_a_size_train_and_are_left_as_they_were(make):
    lazy = nn.LazyBatchNorm1d()
    model = make(module=nn.Sequential(nn.Linear(10, 16), lazy, nn.Tanh(), nn.LazyLinear(3)))
    assert clone(model.fit(X, Y)).fit(X, Y).score(X, Y) > 0.4
    assert lazy.has_uninitialized_params()


class Recurrent(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.cell, self.out = nn.GRUCell(10, 8), nn.Linear(8, n_classes)

    def forward(self, x):
        return self.out(self.cell(x))


class Attentive(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(10, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(10, n_classes)

    def forward(self, x):
        return self.out(self.layer(x[:, None])[:, 0])


@pytest.mark.parametrize("module", [Recurrent, Attentive])
@pytest.mark.parametrize("make", [crossed, searched])
def test_layers_that_torch_cannot_stack_are_trained_one_by_one_and_torch_does_not_warn(
    make, module
):
    model = make(module=module).fit(X, Y)
    assert "one net after the other" in str(model.alone_because_)
    assert model.score(X, Y) > 0.4


@ALL
def test_integers_stay_integers_for_an_embedding(make):
    module = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(30, 3))
    codes = np.digitize(X, [-1, 0, 1])
    assert make(module=module, lr=0.05, max_epochs=10).fit(codes, Y).score(codes, Y) > 0.5


@ALL
def test_ids_that_an_embedding_does_not_have_are_told_of(make):
    module = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(30, 3))
    codes = np.digitize(X, [-1, 0, 1])
    model = make(module=module).fit(codes, Y)
    has_no_row = "Embedding of the module has no row"
    for own, message in (codes + 1, has_no_row), (codes - 1, has_no_row), (codes / 2, "integers"):
        with pytest.raises(ValueError, match=message):
            make(module=module).fit(own, Y)
        with pytest.raises(ValueError, match=message):
            model.predict(own)


class Hashed(nn.Module):
    def __init__(self, seen=None):
        super().__init__()
        self.embedding, self.out = nn.Embedding(8, 4), nn.Linear(8, 3)
        self.seen = seen

    def forward(self, ids):
        assert ids.dtype == torch.int64
        if self.seen is not None:
            self.seen.update(ids.flatten().tolist())
        return self.out(self.embedding(ids % 8).flatten(1))


@pytest.mark.parametrize("container", [np.asarray, torch.as_tensor, pd.DataFrame])
def test_ids_of_an_embedding_are_exact(container):
    seen = set()
    ids = np.random.default_rng(0).integers(2**24 - 1000, 2**24, (200, 2))
    net = single(module=Hashed, module__seen=seen, train_split=None)
    net.fit(container(ids), Y).predict(container(ids))
    assert set(ids.flat) <= seen <= {*ids.flat, 0}


@ALL
def test_ids_that_are_too_large_to_be_exact_are_refused(make):
    ids = np.random.default_rng(0).integers(0, 1000, (200, 2))
    model = make(module=Hashed, calibration=None).fit(ids, Y)
    message = "integers of 16777216 or more.*OrdinalEncoder"
    for large in (ids + 2**24, -ids - 2**24):
        with pytest.raises(ValueError, match=message):
            make(module=Hashed).fit(large, Y)
        with pytest.raises(ValueError, match=message):
            model.predict(large)


def test_ids_of_a_dataset_of_integers_are_exact():
    seen, ids = set(), np.arange(2**24, 2**24 + 400).reshape(200, 2)
    net = single(module=Hashed, module__seen=seen, train_split=None).fit(Rows(ids, Y))
    net.predict(Rows(ids, Y))
    assert seen == set(ids.flat)


@ALL
def test_modules_in_double_precision_train(make):
    model = make(module=Net().double()).fit(X, Y)
    assert model.score(X, Y) > 0.5


@ALL
def test_simple_nets_in_double_precision_train(make):
    assert make(module=SimpleNet(10, 3).double()).fit(X, Y).score(X, Y) > 0.5


class Padding(Net):
    """Makes a tensor of torch's default dtype in its forward."""

    def forward(self, x):
        return super().forward(torch.cat([x, torch.zeros(len(x), 4)], 1)[:, :10])


@ALL
def test_tensors_that_a_module_makes_are_single_whatever_torchs_default_is(make):
    expected = make(module=Padding).fit(X, Y).predict_proba(X)
    rows = SliceDataset(Rows(X, Y))
    torch.set_default_dtype(torch.float64)
    try:
        model = make(module=Padding).fit(X, Y)
        np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-5)
        np.testing.assert_allclose(model.predict_proba(rows), expected, rtol=1e-5)
        assert len(single(module=Padding).fit(Rows(X, Y)).predict(Rows(X, Y))) == 200
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("module", [{}, {"module": Padding}], ids=["SimpleNet", "own"])
@ALL
def test_torchs_default_device_has_no_part_in_nets_on_the_cpu(make, module):
    expected = make(**module).fit(X, Y).predict_proba(X)
    torch.set_default_device("meta")  # which holds no numbers
    try:
        model = make(**module).fit(X, Y)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
        np.testing.assert_allclose(model.predict_log_proba(X), np.log(expected), atol=1e-6)
        assert torch.zeros(1).is_meta
    finally:
        torch.set_default_device(None)


def test_torchs_default_device_has_no_part_in_loading_nor_in_datasets(tmp_path):
    net = single().fit(X, Y)
    rows = Rows(torch.from_numpy(X), torch.from_numpy(Y))
    expected = single().fit(rows).predict_proba(rows)
    save(net, tmp_path / "net.sksmooth")
    with torch.device("meta"):
        np.testing.assert_array_equal(single().fit(rows).predict_proba(rows), expected)
        found = load(tmp_path / "net.sksmooth").predict_proba(X)
        assert single(module__n_features=10).initialize().module_.layers[0].weight.is_cpu
    np.testing.assert_array_equal(found, net.predict_proba(X))


@ALL
def test_models_that_are_loaded_in_inference_mode_predict(make):
    model = make().fit(X, Y)
    stored = pickle.dumps(model)
    with torch.inference_mode():
        found = pickle.loads(stored).predict_proba(X)
    np.testing.assert_array_equal(found, model.predict_proba(X))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("module", [{}, {"module": Net}], ids=["SimpleNet", "own"])
@ALL
def test_fit_where_gradients_are_off_is_as_anywhere(make, mode, module):
    expected = make(**module).fit(X, Y).predict_proba(X)
    with mode():
        model = make(**module).fit(torch.from_numpy(X) * 1, torch.from_numpy(Y) * 1)
        assert not torch.is_grad_enabled()
        np.testing.assert_array_equal(model.predict_proba(X), expected)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_nets_go_on_where_gradients_are_off(mode):
    expected = single(module=Net).partial_fit(X, Y).partial_fit(X, Y).predict_proba(X)
    with mode():
        net = single(module=Net, classes=[0, 1, 2], module__n_features=10).initialize()
        net.partial_fit(X, Y)
    np.testing.assert_array_equal(net.partial_fit(X, Y).predict_proba(X), expected)


@ALL
def test_modules_made_in_inference_mode_train(make):
    with torch.inference_mode():
        module = Net()
    assert make(module=module).fit(X, Y).score(X, Y) > 0.5


@ALL
def test_prediction_under_autocast_gives_probabilities(make):
    model = make().fit(X, Y)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.predict_proba(X)
    np.testing.assert_allclose(found, model.predict_proba(X), atol=0.05)


@ALL
def test_fit_under_autocast_learns_as_well(make):
    parameters = {"max_epochs": 20, "module__dropout": 0.0}  # or the masks are others
    expected = make(**parameters).fit(X, Y).score(X, Y)
    with torch.autocast("cpu", torch.bfloat16):
        model = make(**parameters).fit(X, Y)
    assert model.score(X, Y) > expected - 0.05


@pytest.mark.parametrize("module", [Net, SimpleNet])
@ALL
def test_predictions_under_the_autocast_of_the_fit_are_those_outside_it(make, module):
    with torch.autocast("cpu", torch.bfloat16):
        model = make(module=module).fit(X, Y)
        found = model.predict_proba(X)
    np.testing.assert_allclose(found, model.predict_proba(X), atol=0.03)


@pytest.mark.parametrize("module", [Net, SimpleNet])
def test_predictions_between_fits_under_one_autocast_are_those_of_the_last(module):
    rows = X.astype(np.float32)
    with torch.autocast("cpu", torch.bfloat16):
        net = single(module=module).fit(X, Y)
        net.predict_proba(X)
        net.forward(rows)
        net.partial_fit(X, Y, epochs=5)
        found = net.predict_proba(X), net.forward(rows).float()
    np.testing.assert_allclose(found[0], net.predict_proba(X), atol=0.03)
    np.testing.assert_allclose(found[1], net.forward(rows), atol=0.1)


@ALL
def test_layer_of_another_width_is_told_of_n_features(make):
    with pytest.raises(ValueError, match=r"argument n_features .*\(\d+x10 and 9x3\)"):
        make(module=nn.Linear, module__in_features=9, module__out_features=3).fit(X, Y)


class Unused(Net):
    """Has a part for another task."""

    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        self.other = nn.Linear(16, 1)


class Backbone(Net):
    """Trains its last layer only."""

    def forward(self, x):
        with torch.no_grad():
            hidden = torch.tanh(self.hidden(x))
        return self.out(hidden)


class Checkpointed(Net):
    def forward(self, x):
        return self.out(checkpoint(self.hidden, x, use_reentrant=False))


class Annealed(Net):
    n_steps = 0

    def forward(self, x):
        self.n_steps += self.training
        return super().forward(x) * (1 + self.n_steps / 10)


class Remembering(Net):
    memory = 0.0

    def forward(self, x):
        hidden = self.hidden(x) + self.memory
        if self.training:
            self.memory = hidden.mean().detach() / 10
        return self.out(hidden)


@pytest.mark.parametrize("module", [Unused, Backbone, Checkpointed, Annealed, Remembering])
def test_modules_that_cannot_be_stacked_are_trained_alone(module):
    net = single(module=module)
    assert net.fit(X, Y).trained_by_ == "by autograd"
    crossed(module=module).fit(X, Y)
    grid = {"param_grid": {"label_smoothing": [0, 0.2]}, "cv": 2, "scoring": "neg_log_loss"}
    found, expected = (kind(net, **grid).fit(X, Y) for kind in (BatchedGridSearchCV, GridSearchCV))
    np.testing.assert_allclose(
        *(search.cv_results_["mean_test_score"] for search in (found, expected)), rtol=1e-6
    )


class Writing(Net):
    """Doubles its input where that lies."""

    def forward(self, x):
        return super().forward(x.mul_(2))


class NotWriting(Net):
    def forward(self, x):
        return super().forward(x * 2)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"train_split": 0.2},
        {"train_split": 0.2, "batch_size": -1},
        {"train_split": None, "batch_size": -1, "iterator_train__shuffle": False},
    ],
)
@ALL
def test_modules_that_write_to_their_input_learn_as_others(make, parameters):
    rows = X.astype(np.float32)
    found = make(module=Writing, **parameters).fit(rows, Y).predict_proba(rows)
    np.testing.assert_array_equal(rows, X.astype(np.float32))
    expected = make(module=NotWriting, **parameters).fit(rows, Y).predict_proba(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Normed(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_classes)
        )
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(len(x))
        return self.net(x)


def test_last_batch_of_one_row_joins_the_one_before_it_under_batchnorm():
    net = single(module=Normed, train_split=None, batch_size=33, max_epochs=1).fit(X[:199], Y[:199])
    assert net.module_.seen == [33, 33, 33, 33, 33, 34]

    heard = single(
        module=Normed, train_split=None, batch_size=33, max_epochs=1, callbacks=[Listener()]
    ).fit(X[:199], Y[:199])
    assert heard.module_.seen == net.module_.seen
    loading = single(module=Normed, train_split=None, batch_size=33, iterator_train=DataLoader)
    with pytest.raises(ValueError, match="iterator_train__drop_last"):
        loading.fit(X[:199], Y[:199])


@ALL
def test_batches_of_one_row_under_batchnorm_are_told_what_helps(make):
    with pytest.raises(ValueError, match="iterator_train__drop_last"):
        make(module=Normed, batch_size=1).fit(X, Y)


def test_one_image_may_be_a_batch_under_batchnorm():
    layers = nn.Unflatten(1, (1, 10)), nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten()
    module = nn.Sequential(*layers, nn.Linear(16, 3))
    net = single(module=module, batch_size=33, train_split=None, iterator_train=DataLoader)
    assert net.fit(X[:199], Y[:199]).score(X, Y) > 0.4


def test_dataloader_that_drops_all_batches_is_told_of():
    with pytest.raises(ValueError, match="drop_last"):
        single(batch_size=500, iterator_train=DataLoader, iterator_train__drop_last=True).fit(X, Y)


@pytest.mark.parametrize(
    ("train_batch", "valid_batch"), [(64, 32), (16, 32), (64, 20), (64, 5), (64, 1)]
)
@ALL
def test_own_module_never_sees_more_rows_than_the_users_batches(make, train_batch, valid_batch):
    seen = []

    class Watched(Net):
        def forward(self, x):
            if not self.training and not torch._C._functorch.is_batchedtensor(x):
                seen.append(len(x))
            return super().forward(x)

    model = make(module=Watched, batch_size=train_batch, iterator_valid__batch_size=valid_batch)
    many = model.fit(X, Y).predict_proba(np.tile(X, (5, 1)))
    np.testing.assert_array_equal(model.predict_proba(X[:3]), many[:3])
    assert 0 < max(seen) <= valid_batch


@pytest.mark.parametrize(
    ("last", "what"),
    [(nn.Softmax(1), "look like probabilities"), (nn.LogSoftmax(1), "logarithms of prob")],
)
@ALL
def test_outputs_that_look_like_probabilities_are_warned_of(make, last, what):
    with pytest.warns(UserWarning, match=what):
        make(module=Net, module__last=last).fit(X, Y)


@pytest.mark.parametrize(
    "parameters",
    [
        {"calibration": None},
        {"train_split": None},
        {"module__last": lambda x: torch.softmax(x, 1).bfloat16()},
        {"module__last": lambda x: torch.log_softmax(x, 1).half()},
    ],
)
@ALL
def test_probabilities_are_warned_of_without_calibration_and_in_half_precision(make, parameters):
    module = {"module": Net, "module__last": nn.Softmax(1)}
    with pytest.warns(UserWarning, match="logits are expected"):
        make(**{**module, **parameters}).fit(X, Y)
    make(module=Net, **parameters | {"module__last": None}).fit(X, Y)  # logits are not


@pytest.mark.parametrize("last", [nn.Sigmoid(), torch.special.expit, lambda x: (x, x.sigmoid())])
@pytest.mark.parametrize("train_split", [0.2, None])
@ALL
def test_outputs_of_a_sigmoid_are_warned_of(make, last, train_split):
    with pytest.warns(UserWarning, match="come from a sigmoid, but logits are expected"):
        make(module=Net, module__last=last, train_split=train_split).fit(X, Y)


def test_outputs_of_a_sigmoid_are_warned_of_from_a_dataset():
    with pytest.warns(UserWarning, match="come from a sigmoid, but logits are expected"):
        single(module=Net, module__last=nn.Sigmoid()).fit(Rows(X, Y))


@ALL
def test_logits_between_zero_and_one_are_no_probabilities(make):
    def between(x):
        return 0.3 + 0.1 * torch.tanh(x) + 0.1 * torch.sigmoid(x)

    model = make(module=Net, module__last=between, calibration=None).fit(X, Y)
    net = getattr(model, "estimators_", [getattr(model, "best_estimator_", model)])[0]
    with torch.no_grad():
        logits = net.module_(torch.from_numpy(X).float())
    assert 0 < logits.min() < logits.max() < 1


# -- parameters ---------------------------------------------------------------------------------


def test_arguments_of_fit_that_are_none_are_told_where_they_belong():
    with pytest.raises(TypeError, match=r"LabelSmoothingClassifier\(class_weight='balanced'\)"):
        single().fit(X, Y, class_weight="balanced")
    with pytest.raises(TypeError, match="sample_weight"):
        single().fit(X, Y, sample_weights=np.ones(200))


@pytest.mark.parametrize(
    ("argument", "message", "of_ensemble"),
    [
        ({"class_weight": "balanced"}, r"Classifier\(class_weight='balanced'\)", None),
        ({"sample_weights": np.ones(200)}, "Did you mean 'sample_weight'", None),
        ({"weights": np.ones(200)}, "Did you mean 'sample_weight'", "Did you mean 'sample_weight'"),
        ({"epochs": 3}, "Did you mean 'max_epochs'", r"Classifier\(max_epochs=3\)"),
        ({"early_stopping": False}, r"Classifier\(early_stopping=False\)", None),
        ({"eval_set": (X, Y)}, "Did you mean 'train_split'", "Did you mean 'cv'"),
        ({"verbose": 1}, r"Classifier\(verbose=1\)", r"ClassifierCV\(verbose=1\)"),
        ({"label_smoothing": 0.2}, r"Classifier\(label_smoothing=0.2\)", r"gs=\(0.2,\)"),
    ],
)
def test_arguments_of_every_fit_are_told_where_they_belong(argument, message, of_ensemble):
    for fit in (single().fit, searched().fit, single().partial_fit):
        if fit.__name__ != "partial_fit" or "epochs" not in argument:
            with pytest.raises(TypeError, match=f"^{fit.__name__} has no argument.*{message}"):
                fit(X, Y, **argument)
    with pytest.raises(TypeError, match=f"CV.fit has no argument.*{of_ensemble or message}"):
        crossed().fit(X, Y, **argument)


def test_groups_of_a_held_out_part_are_told_to_be_split_by():
    groups = np.arange(200) // 10
    with pytest.raises(TypeError, match=r"no argument 'groups'.*routing.*ValidSplit\(\[\(indices"):
        single(train_split=ValidSplit(GroupKFold(4))).fit(X, Y, groups=groups)
    split = next(GroupKFold(4).split(X, Y, groups))
    assert single(train_split=ValidSplit([split])).fit(X, Y).score(X, Y) > 0.5


def test_arguments_of_fit_that_a_hook_takes_reach_it():
    class Teaching(LabelSmoothingClassifier):
        def infer(self, x, scale=1.0, **fit_params):
            return super().infer(x, **fit_params) * scale

    net = Teaching(max_epochs=2, random_state=0).fit(X, Y, scale=0.0)
    np.testing.assert_allclose(net.history[:, "train_loss"], np.log(3), rtol=1e-6)


def test_warm_start_knows_the_labels_that_it_was_started_with():
    net = single(warm_start=True, max_epochs=20).fit(X, NAMES[Y])
    some = Y > 0
    net.fit(X[some], NAMES[Y[some]])
    assert net.classes_.tolist() == list(NAMES)
    assert net.score(X[some], NAMES[Y[some]]) > 0.9
    expected = net.predict_proba(X)
    with pytest.raises(ValueError, match="none of the classes"):
        net.fit(X, Y)
    np.testing.assert_array_equal(net.predict_proba(X), expected)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "2", True, None])
def test_epochs_of_partial_fit_are_a_positive_integer(epochs):
    with pytest.raises((TypeError, ValueError), match="epochs must be a positive integer"):
        single().partial_fit(X, Y, epochs=epochs)


def test_folds_that_train_on_rows_that_they_leave_out_are_refused():
    half = np.arange(100)
    with pytest.raises(ValueError, match="Fold 1 of cv trains on 50 of the rows"):
        crossed().set_params(cv=[(half, half + 100), (half, half + 50)]).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"module": object}, TypeError, "module=object cannot be made: it gives no torch module"),
        ({"module": LogisticRegression}, TypeError, "it gives no torch module"),
        ({"predict_nonlinearity": nn.Softmax}, ValueError, r"predict_nonlinearity=Softmax\(\)"),
        ({"callbacks__print_lg__sink": print}, ValueError, "Did you mean 'print_log'"),
        ({"callbacks__print_lg": None}, ValueError, "Did you mean 'print_log'"),
        ({"criterion__ignore_index": None}, TypeError, "ignore_index must be an integer"),
        ({"lr": Fraction(1, 100)}, ValueError, "lr=1/100 of .* must not be a Fraction"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, "gives every row a weight of zero"),
        (
            {"smoothing": pd.DataFrame(np.eye(3), index=[2, 1, 0])},
            ValueError,
            r"names \[2, 1, 0\], which are not in the order",
        ),
        (
            {"smoothing": pd.DataFrame(np.eye(3), columns=["low", "mid", "high"])},
            ValueError,
            r"names \['low', 'mid', 'high'\].*smoothing\.to_numpy\(\)",
        ),
    ],
)
@ALL
def test_parameters_that_would_be_misread_are_refused(make, parameters, error, message):
    with pytest.raises(error, match=message):
        make(**parameters).fit(X, Y)


def test_sets_are_labels():
    found = single(classes={0, 1, 2}).fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(found, single().fit(X, Y).predict_proba(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript
@ALL
def test_scripted_modules_are_told_to_come_from_a_function(make):
    with pytest.raises(ValueError, match="give a function that makes one"):
        make(module=torch.jit.script(nn.Linear(10, 3))).fit(X, Y)


def test_dropout_may_be_set_on_a_trained_net_and_other_parameters_of_the_module_unfit_it():
    net = single().fit(X, Y)
    expected = net.predict_proba(X)
    net.set_params(module__dropout=0.2)
    assert net.module_.dropout == 0.2
    np.testing.assert_array_equal(net.predict_proba(X), expected)
    net.set_params(module__hidden_layer_sizes=(7,))
    with pytest.raises(NotFittedError):
        net.predict(X)
    assert net.fit(X, Y).module_.hidden_layer_sizes == (7,)


@pytest.mark.parametrize("module", [Net, nn.LazyLinear(3)])
def test_compile_may_be_set_on_a_trained_net(module):
    net = single(module=module, compile__backend="eager").fit(X, Y)  # needs no C compiler
    expected = net.predict_proba(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what the compiler is made of
        net.set_params(compile=True)
        np.testing.assert_allclose(net.predict_proba(X), expected, atol=1e-5)
    net.set_params(compile=False)
    np.testing.assert_allclose(net.predict_proba(X), expected, atol=1e-5)


def test_weights_that_were_loaded_stay_when_dropout_is_set(tmp_path):
    single().fit(X, Y).save_params(f_params=tmp_path / "net.pt")
    net = single(module__n_features=10, classes=[0, 1, 2], calibration=None).initialize()
    net.load_params(f_params=tmp_path / "net.pt")
    expected = net.predict_proba(X)
    np.testing.assert_array_equal(net.set_params(module__dropout=0.3).predict_proba(X), expected)


@pytest.mark.parametrize(
    "parameters",
    [
        {"iterator_train": DataLoader, "iterator_valid": DataLoader},
        {"iterator_train__shuffle": False, "iterator_valid__batch_size": 16},
        {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9, "lr": 0.1},
        {"optimizer": torch.optim.SGD, "criterion": nn.CrossEntropyLoss},
    ],
)
def test_parts_around_the_module_may_be_set_on_a_trained_net(parameters):
    net = single().fit(X, Y)
    expected = net.predict_proba(X)
    net.set_params(**parameters)
    np.testing.assert_array_equal(net.predict_proba(X), expected)
    assert type(net.optimizer_) is net.optimizer
    assert net.optimizer_.param_groups[0]["params"][0] is next(net.module_.parameters())
    net.partial_fit(X, Y)
    assert (net.predict_proba(X) != expected).any()


def test_search_over_the_default_nets_parameters_works():
    model = LabelSmoothingClassifierCV(label_smoothings=(0.1,), cv=2, random_state=0)
    search = GridSearchCV(model, {"estimator__max_epochs": [2, 3]}, cv=2).fit(X, Y)
    assert search.best_estimator_.estimator.max_epochs in (2, 3)


def test_arguments_of_the_nets_are_told_where_they_belong():
    with pytest.raises(TypeError, match=r"estimator=LabelSmoothingClassifier\(max_epochs=5\)"):
        LabelSmoothingClassifierCV(max_epochs=5)
    with pytest.raises(TypeError, match=r"label_smoothings=\(0\.1,\)"):
        LabelSmoothingClassifierCV(label_smoothing=0.1)
    with pytest.raises(TypeError, match="ensemble"):
        LabelSmoothingClassifierCV(ensembel=False)
    with pytest.raises(TypeError, match=r"Classifier\(optimizer__weight_decay=0\.1\)"):
        LabelSmoothingClassifierCV(alpha=0.1)
    with pytest.raises(TypeError, match="Did you mean 'cv'"):
        LabelSmoothingClassifierCV(n_folds=3)


@pytest.mark.parametrize("make", [single, crossed])
def test_class_of_a_calibrator_is_refused_before_training(make):
    with pytest.raises(ValueError, match=r"calibration=TemperatureScaling\(\)"):
        make(calibration=TemperatureScaling).fit(X, Y)


def test_net_that_is_initialized_only_gives_labels_and_says_that_it_is_not_calibrated(tmp_path):
    trained = single(classes=list(NAMES)).fit(X, NAMES[Y])
    trained.save_params(f_params=tmp_path / "net.pt")
    net = single(classes=list(NAMES), module__n_features=10).initialize()
    net.load_params(f_params=tmp_path / "net.pt")
    assert net.classes_.tolist() == list(NAMES)
    with pytest.warns(UserWarning, match="not calibrated"):
        assert set(net.predict(X)) <= set(NAMES)
    for method in (net.predict_log_proba, net.decision_function, net.score):
        with pytest.warns(UserWarning, match="not calibrated"):
            method(*(X, NAMES[Y])[: 1 + (method == net.score)])
    with pytest.warns(UserWarning, match="not calibrated"):
        net.as_module()
    net.calibrator_ = trained.calibrator_
    np.testing.assert_array_equal(net.predict_proba(X), trained.predict_proba(X))


def test_net_that_is_initialized_anew_has_no_calibrator_of_parameters_that_are_no_more():
    net = single().fit(X, Y).initialize()
    with pytest.warns(UserWarning, match="not calibrated"):
        proba = net.predict_proba(X)
    np.testing.assert_allclose(proba, softmax(net.logits(X), axis=1))


@pytest.mark.parametrize("make", [crossed, searched])
def test_groups_that_a_splitter_does_not_heed_are_warned_of(make):
    with pytest.warns(UserWarning, match="groups parameter is ignored by StratifiedKFold"):
        make().fit(X, Y, groups=np.arange(200) // 10)


@pytest.mark.parametrize("answer", [None, "high", np.ones(2)])
def test_scores_that_are_no_numbers_are_told_to_come_from_scoring(answer):
    model = crossed().set_params(scoring=lambda estimator, X, y: answer)
    with pytest.raises((TypeError, ValueError), match=r"^scoring: "):
        model.fit(X, Y)


# -- tables -------------------------------------------------------------------------------------


@ALL
def test_columns_that_are_no_numbers_are_named_with_what_helps(make):
    frame = pd.DataFrame({"x": X[:, 0], "city": ["Bern", "Basel"] * 100})
    with pytest.raises(ValueError, match=r"'city' holds text such as 'Bern'.*skrub"):
        make().fit(frame, Y)
    frame = pd.DataFrame({"x": X[:, 0], "kind": pd.Categorical(["a", "b"] * 100)})
    with pytest.raises(ValueError, match=r"'kind' holds text"):
        make().fit(frame, Y)
    frame = pd.DataFrame({"x": X[:, 0], "gap": np.where(np.arange(200) < 3, np.nan, X[:, 1])})
    with pytest.raises(ValueError, match=r"NaN.*'gap' holds 3 missing values"):
        make().fit(frame, Y)
    frame = pd.DataFrame({"when": pd.date_range("2020", periods=200)})
    with pytest.raises(ValueError, match=r"'when' holds dates"):
        make().fit(frame, Y)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([["Bern", 1]] * 200, dtype=object), "column 0 holds text such as 'Bern'"),
        (np.array([["1", "Bern"]] * 200), "column 1 holds text such as 'Bern'"),
        ([["Bern", 1]] * 200, "column 0 holds text such as 'Bern'"),
        (np.where(X > 3, np.inf, X), r"infinity: column \d holds \d+ infinite values"),
        (np.where(X > 3, np.nan, X), r"NaN: column \d holds \d+ missing values"),
        (np.arange(200).astype("M8[D]")[:, None], "column 0 holds dates"),
        (np.arange(200).astype("m8[s]")[:, None], "column 0 holds durations"),
        (pd.DataFrame({"p": pd.period_range("2020", periods=200)}), "column 'p' holds dates"),
        (pd.DataFrame({"a": [[1, 2]] * 200}), r"column 'a' holds objects such as \[1, 2\]"),
    ],
)
@ALL
def test_columns_of_arrays_and_lists_that_are_no_numbers_are_named_too(make, rows, message):
    with pytest.raises(ValueError, match=message):
        make().fit(rows, Y)


@ALL
def test_columns_of_polars_that_are_no_numbers_are_named_too(make):
    polars = pytest.importorskip("polars")
    numbers = {"x": X[:, 0], "z": X[:, 1]}
    model = make().fit(polars.DataFrame(numbers), Y)
    for column, message in [
        (["Bern", "Basel"] * 100, "column 'x' holds text such as 'Bern'"),
        (pd.date_range("2020", periods=200).to_numpy(), "column 'x' holds dates"),
        ([np.inf, *X[1:, 0].tolist()], "infinity: column 'x' holds 1 infinite values"),
        ([None, *X[1:, 0].tolist()], "NaN: column 'x' holds 1 missing values"),
    ]:
        frame = polars.DataFrame({**numbers, "x": column})
        with pytest.raises(ValueError, match=message):
            make().fit(frame, Y)
        with pytest.raises(ValueError, match=message):
            model.predict(frame)


@ALL
def test_masked_values_are_refused(make):
    masked = np.ma.array(X, mask=X > 2)
    for rows, y in ((masked, Y), (X, np.ma.array(Y, mask=Y == 0))):
        with pytest.raises((ValueError, TypeError), match=r"masked|MaskedConstant"):
            make().fit(rows, y)
    with pytest.raises(ValueError, match=r"values of an array of shape \(200, 10\) are masked"):
        make().fit(X, Y).predict(masked)
    model = make().fit(np.ma.array(X), Y)
    np.testing.assert_array_equal(model.predict(X), make().fit(X, Y).predict(X))


@ALL
def test_rows_with_a_one_for_their_class_are_told_of_argmax(make):
    for y in (np.eye(3)[Y], torch.eye(3)[torch.from_numpy(Y)], pd.get_dummies(NAMES[Y])):
        with pytest.raises(ValueError, match=r"y\.argmax\(axis=1\)"):
            make().fit(X, y)


def test_a_table_in_a_dict_is_told_to_be_a_frame():
    with pytest.raises(ValueError, match=r"pandas\.DataFrame"):
        single().fit({f"x{i}": X[:, i] for i in range(10)}, Y)


@ALL
def test_columns_may_have_any_name(make):
    names = ["collect", "_mask", "columns", "shape", "dtype", "T", "y", "values", "index", "fit"]
    frame = pd.DataFrame(X, columns=names).astype({"_mask": bool})
    expected = make().fit(frame.to_numpy(dtype=float), Y).predict_proba(frame.to_numpy(dtype=float))
    np.testing.assert_array_equal(make().fit(frame, Y).predict_proba(frame), expected)


@pytest.mark.filterwarnings("ignore:Determining the column names of a LazyFrame")
@pytest.mark.parametrize("make", [single, crossed])
def test_lazy_frames_are_told_to_be_collected(make):
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match="LazyFrame holds no rows yet"):
        make().fit(polars.DataFrame(X).lazy(), Y)


def test_numbers_in_columns_of_objects_or_categories_are_numbers():
    frame = pd.DataFrame({f"x{i}": X[:, i] for i in range(10)}).round().astype(int)
    expected = single().fit(frame, Y).predict_proba(frame)
    for dtype in ("object", "category", "Int64"):
        found = single().fit(frame.astype(dtype), Y).predict_proba(frame)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [single, crossed])
def test_columns_of_different_scale_are_warned_of(make):
    with pytest.warns(UserWarning, match=r"\d{5} times the smallest.*StandardScaler"):
        make().fit(X * np.logspace(0, 4, 10), Y)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda X: 1e-3 * X, r"far from a scale of one: .* 0\.01"),
        (lambda X: 1e4 * X, r"far from a scale of one: .*e\+05"),
        (lambda X: X + 1000, r"far from zero: .* \d+ times that range"),
        (lambda X: np.c_[X, 2020 + np.arange(len(X)) % 2], r"two numbers of a column .* \d+ times"),
    ],
)
@pytest.mark.parametrize("make", [single, crossed])
def test_columns_of_one_scale_that_is_none_to_learn_from(make, turn, message):
    with pytest.warns(UserWarning, match=message):
        make().fit(turn(X), Y)


def test_columns_of_a_dataset_of_different_scale_are_warned_of():
    unscaled = X * np.logspace(0, 4, 10)
    with pytest.warns(UserWarning, match=r"\d{5} times the smallest.*StandardScaler"):
        single().fit(Rows(unscaled, Y))
    with pytest.warns(UserWarning, match=r"StandardScaler"):
        single().partial_fit(Rows(torch.from_numpy(unscaled), Y))


def test_rows_of_a_large_dataset_are_looked_at_all_over_it_and_no_more_than_pay():
    read = []

    class Watched(Rows):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    with pytest.raises(ValueError, match="max_epochs"):
        single(max_epochs=-1).fit(Watched(rows, np.arange(20_000) % 2))
    assert not read
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single(max_epochs=1, train_split=None).fit(Watched(rows, np.arange(20_000) % 2))
    before = read[: len(read) - 20_000]
    assert len(before) < 300
    assert max(before) > 19_000


def test_scaled_one_hot_and_constant_columns_are_not_warned_of():
    rare = (np.arange(200) == 7).astype(float)
    wide = StandardScaler().fit_transform(np.exp(3 * X))
    dark = np.where(np.arange(200) < 5, np.linspace(0.2, 1, 200), 0)  # a pixel at the border
    rows = np.column_stack([X, wide, rare, 1000 * rare, np.full(200, 1e6), dark])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single().fit(rows, Y)


class Ids(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.embedding, self.out = nn.EmbeddingBag(80_000, 4), nn.Linear(4, n_classes)

    def forward(self, ids):
        return self.out(self.embedding(ids))


@pytest.mark.parametrize("make", [single, crossed])
def test_ids_have_no_scale(make):
    ids = np.column_stack([np.arange(200) % 3, 400 * np.arange(200)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(module=Ids).fit(ids, Y)
    assert not any("StandardScaler" in str(warning.message) for warning in caught)


def test_the_ensemble_speaks_by_its_own_name():
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(10)])
    model = crossed().fit(frame, Y)
    with pytest.warns(
        UserWarning, match="LabelSmoothingClassifierCV was fitted with feature names"
    ):
        model.predict(X)
    with pytest.raises(ValueError, match="LabelSmoothingClassifierCV"):
        crossed().fit(np.where(X > 2, np.nan, X), Y)


# -- callbacks ----------------------------------------------------------------------------------


def test_callbacks_meet_the_users_labels():
    class Watch(Callback):
        def on_epoch_end(self, net, **kwargs):
            self.classes_ = net.classes_.tolist()

    watch = Watch()
    scoring = EpochScoring("accuracy", lower_is_better=False, name="own_accuracy")
    net = single(callbacks=[("watch", watch), scoring]).fit(X, NAMES[Y])
    assert dict(net.callbacks_)["watch"].classes_ == list(NAMES)
    np.testing.assert_allclose(net.history[:, "own_accuracy"], net.history[:, "valid_acc"])


@pytest.mark.parametrize("labels", [NAMES[Y], Y + 5])
@pytest.mark.parametrize("scoring", [EpochScoring, BatchScoring])
def test_scorers_of_this_package_know_the_labels_of_the_batches(scoring, labels):
    scorer = neg_expected_calibration_error_scorer
    parameters = {"callbacks": [scoring(scorer, name="ece")], "train_split": 0.2}
    net, expected = single(**parameters).fit(X, labels), single(**parameters).fit(X, Y)
    np.testing.assert_array_equal(net.history[:, "ece"], expected.history[:, "ece"])
    assert scorer(net, X, labels) == scorer(expected, X, Y)


def test_scores_of_the_batches_may_be_passed_through():
    net = single(callbacks=[PassthroughScoring("train_loss", on_train=True)]).fit(X, Y)
    assert net.trained_by_ == "by skorch"
    assert net.history[:, "train_loss_best"][0]


@pytest.mark.parametrize("criterion", [LabelSmoothingLoss, nn.CrossEntropyLoss])
@ALL
def test_ignore_index_of_the_criterion_counts(make, criterion):
    parameters = {"criterion": criterion, "criterion__ignore_index": 0, "max_epochs": 10}
    model = make(**parameters, calibration=None, early_stopping=False).fit(X, Y)
    assert model.predict_proba(X)[:, 0].max() < 0.5


# -- calibrators --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["svs", "temp-scaling", "isotonic"])
@ALL
def test_calibrators_of_probmetrics_are_given_what_they_take(make, method):
    calibrators = pytest.importorskip("probmetrics.calibrators")
    model = make(calibration=calibrators.get_calibrator(method)).fit(X, Y)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    assert model.score(X, Y) > 0.5
    fitted = pickle.loads(pickle.dumps(model)).predict_log_proba(X)
    np.testing.assert_allclose(np.exp(fitted), model.predict_proba(X), atol=1e-6)


class OfProbabilities(LogisticRegression):
    """Takes probabilities only."""

    def fit(self, proba, y):
        if proba.min() < 0:
            raise ValueError("no probabilities.")
        return super().fit(np.log(proba + 1e-9), y)

    def predict_proba(self, proba):
        return super().predict_proba(np.log(proba + 1e-9))


@pytest.mark.parametrize("make", [single, crossed])
def test_calibrators_of_probabilities_are_told_to_go_behind_a_softmax(make):
    with pytest.raises(ValueError, match="goes behind a softmax"):
        make(calibration=OfProbabilities()).fit(X, Y)
    behind = make_pipeline(FunctionTransformer(softmax, kw_args={"axis": 1}), OfProbabilities())
    assert make(calibration=behind).fit(X, Y).score(X, Y) > 0.5


@pytest.mark.parametrize("make", [single, crossed])
@pytest.mark.parametrize("calibration", ["norm_temperature", LogisticRegression(C=1.0)])
def test_class_weights_move_probabilities_and_calibration_weight_moves_them_back(make, calibration):
    rows, y = make_classification(
        2000, 10, n_informative=4, weights=[0.9], class_sep=0.7, random_state=0
    )
    parameters = {"class_weight": "balanced", "max_epochs": 10, "calibration": calibration}
    train, test = slice(0, 1000), slice(1000, None)
    weighted = make(**parameters).fit(rows[train], y[train])
    back = make(**parameters, calibration_weight="unweighted").fit(rows[train], y[train])
    frequency, above = y[test].mean(), weighted.predict_proba(rows[test])
    proba = back.predict_proba(rows[test])
    gap = above[:, 1].mean() - frequency
    assert gap > 0.08
    assert abs(proba[:, 1].mean() - frequency) < 0.3 * gap
    assert log_loss(y[test], proba) < log_loss(y[test], above) - 0.05
    np.testing.assert_allclose(np.exp(back.predict_log_proba(rows[test])), proba)


def test_calibration_weight_without_class_weight_has_no_effect_and_leaves_sample_weight():
    weight = np.where(Y == 0, 5.0, 1.0)
    fits = [
        single(calibration_weight=own).fit(X, Y, sample_weight=weight).predict_proba(X)
        for own in ("weighted", "unweighted")
    ]
    np.testing.assert_array_equal(*fits)
    with pytest.raises(ValueError, match="calibration_weight"):
        single(calibration_weight="balanced").fit(X, Y)


def test_smoothed_part_is_skewed_by_the_criterions_weight_as_torch_does_it():
    logits = torch.zeros(2, 3)
    logits[:, 0] = 3.0
    y, weight = torch.tensor([1, 2]), torch.tensor([5.0, 1.0, 1.0])
    smoothed = LabelSmoothingLoss(0.3)(logits, y)  # rows of classes that weigh one
    skewed = LabelSmoothingLoss(0.3, weight=weight)(logits, y)
    expected = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.3)(logits, y)
    assert abs(skewed - smoothed) > 0.01
    torch.testing.assert_close(skewed, expected)


def test_batch_whose_rows_are_all_ignored_is_passed_over():
    settings = {"criterion__ignore_index": 0, "train_split": None, "calibration": None}
    net = single(batch_size=2, max_epochs=3, **settings).fit(X, Y)
    assert min(net.history[-1, "batches", :, "train_loss"]) == 0  # there was such a batch
    assert np.isfinite(net.predict_proba(X)).all()


class WithDecoder(nn.Module):
    """Gives the rows it decodes behind the logits, as skorch's users do with an autoencoder."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.out, self.decoder = nn.Linear(n_features, n_classes), nn.Linear(n_classes, n_features)

    def forward(self, x):
        logits = self.out(x)
        return logits, self.decoder(logits)


class OfFirst(LabelSmoothingClassifier):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        logits, decoded = y_pred
        loss = super().get_loss(logits, y_true, X, training)
        return loss + nn.functional.mse_loss(decoded, X)


@pytest.mark.parametrize("split", [0.2, None])
def test_logits_that_are_not_the_last_of_a_tuple_are_told_of(split):
    net = OfFirst(WithDecoder, max_epochs=2, random_state=0, train_split=split, calibration=None)
    with pytest.raises(ValueError, match=r"of a tuple the last item.*\(n_samples, 3\)"):
        net.fit(X, Y).predict(X)


@pytest.mark.parametrize("container", [list, tuple])
@pytest.mark.parametrize("inputs", [(X, Y), (X, X), (X.astype(np.float32), X[:, :3], Y[:, None])])
@pytest.mark.parametrize("make", [single, crossed])
def test_several_inputs_in_a_list_are_told_to_be_a_dict(make, inputs, container):
    message = f"{container.__name__} of {len(inputs)} arrays of 200 rows.* as a dict"
    with pytest.raises(ValueError, match=message):
        make().fit(container(inputs), Y)
    assert make().fit(container(X), Y).score(X, Y) > 0.4


@pytest.mark.parametrize("rows", [X, {"numbers": X}])
def test_inputs_that_forward_misses_are_told_of(rows):
    with pytest.raises(ValueError, match=r"more inputs than X has\. Give X as a dict.*'kind'"):
        single(module=TwoInputs).fit(rows, Y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"optimizer": torch.optim.SGD(Net().parameters())},
            "is an object; give its class, optimizer=SGD",
        ),
        ({"train_split": GroupKFold(3)}, r"train_split=GroupKFold.*ValidSplit\(splitter\)"),
        ({"encoding": "periodic"}, "did you mean module__encoding"),
        ({"nesterov": True, "optimizer": torch.optim.SGD}, "did you mean optimizer__nesterov"),
        ({"ignore_index": 1}, "did you mean criterion__ignore_index"),
        ({"callbacks__valid_acc__use_caching": False}, "valid_acc.*has no parameter 'use_caching'"),
        ({"callbacks__print_log__sinks": print}, "Did you mean 'sink'"),
    ],
)
def test_parameters_in_the_form_of_other_libraries_are_told_of(parameters, message):
    with pytest.raises(ValueError, match=message):
        single(**parameters).fit(X, Y)


class Complex(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(6, n_classes, dtype=torch.complex64))

    def forward(self, x):
        return (torch.fft.rfft(x) @ self.weight).abs()


@ALL
def test_complex_parameters_train(make):
    assert make(module=Complex, max_epochs=20).fit(X, Y).score(X, Y) > 0.4


def test_groups_of_parameters_that_fit_none_are_warned_of():
    groups = [("layers.0.*", {"lr": 0.001}), ("layer1.*", {"lr": 0.1})]
    with pytest.warns(UserWarning, match=r"'layer1\.\*' fits no parameter.* layers\.0\.weight"):
        net = single(optimizer__param_groups=groups).fit(X, Y)
    assert {group["lr"] for group in net.optimizer_.param_groups} >= {0.001, 0.01}


def test_labels_that_are_missing_are_told_of():
    for rows in (X, X.tolist(), list(X)):
        with pytest.raises(ValueError, match=r"y cannot be None|requires y"):
            single().fit(rows)


class OfTimm(nn.Module):
    """Calls a number what we call by a name."""

    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing, self.confidence = smoothing, 1 - smoothing

    def forward(self, logits, target):
        log_proba = logits.log_softmax(-1)
        own = -log_proba.gather(1, target[:, None]).mean()
        return self.confidence * own - self.smoothing * log_proba.mean()


def test_a_criterion_of_timm_smooths_by_its_own_number():
    alike = {"module": Net, "train_split": 0.2}
    net = single(criterion=OfTimm, criterion__smoothing=0.3, label_smoothing=0.0, **alike).fit(X, Y)
    ours = single(label_smoothing=0.3, **alike).fit(X, Y)
    assert net.criterion_.smoothing == 0.3
    assert_allclose(net.predict_proba(X), ours.predict_proba(X), atol=1e-4)
    with pytest.raises(ValueError, match=r"criterion=OfTimm cannot smooth.*label_smoothing=0\.1"):
        single(criterion=OfTimm).fit(X, Y)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.3), "label_smoothing=0.3 of its own"),
        (partial(nn.CrossEntropyLoss, label_smoothing=0.3), "label_smoothing=0.3 of its own"),
        (LabelSmoothingLoss(0.3), "label_smoothing=0.3 of its own"),
        (LabelSmoothingLoss(smoothing="prior"), "smoothing='prior' of its own"),
        (LabelSmoothingLoss(smoothing=np.full((3, 3), 1 / 3)), "(?s)smoothing=array.* of its own"),
    ],
)
@ALL
def test_a_criterion_that_smooths_otherwise_is_refused(make, criterion, message):
    with pytest.raises(ValueError, match=f"{message}, which.* would override"):
        make(criterion=criterion).fit(X, Y)


@pytest.mark.parametrize("label_smoothing", [0.1, 0.3])
def test_a_criterion_that_smooths_as_the_net_or_as_by_default_is_taken(label_smoothing):
    given = {"label_smoothing": label_smoothing, "smoothing": "off_target"}
    ours = single(**given).fit(X, Y).predict_proba(X)
    for criterion in (LabelSmoothingLoss(), LabelSmoothingLoss(**given)):
        net = single(criterion=criterion, **given).fit(X, Y)
        assert_allclose(net.predict_proba(X), ours)


@pytest.mark.parametrize("make_loss", [lambda loss: {"loss": loss}, lambda loss: (loss, 0.0)])
def test_losses_that_are_no_tensor_are_told_of(make_loss):
    class Several(nn.CrossEntropyLoss):
        def forward(self, *args):
            return make_loss(super().forward(*args))

    with pytest.raises(ValueError, match=r"criterion=Several gives a (dict|tuple), which must be"):
        single(criterion=Several).fit(X, Y)


def test_a_criterion_of_more_arguments_is_named_and_not_the_module():
    message = "^criterion=GaussianNLLLoss cannot compare.*missing 1 required positional argument"
    with pytest.raises(ValueError, match=message):
        single(criterion=nn.GaussianNLLLoss, label_smoothing=0.0).fit(X, Y)


def with_own(kind):
    class Own(kind):
        def fit(self, X, y, **arguments):
            return super().fit(X * 2, y, **arguments)

        def predict_proba(self, X):
            return np.full((len(X), 3), [0.2, 0.5, 0.3])

    return Own


@pytest.mark.parametrize("make", [single, crossed])
def test_probabilities_of_ones_own_are_those_of_every_method(make):
    given = make().get_params(deep=False)
    model = with_own(type(make()))(**given).fit(X, Y)
    assert_allclose(np.exp(model.predict_log_proba(X[:2])), model.predict_proba(X[:2]))
    assert_allclose(model.decision_function(X[:2]), np.log(model.predict_proba(X[:2])))
    assert (model.predict(X) == 1).all()


def test_methods_of_a_net_that_the_ensemble_does_not_call_are_warned_of():
    net = with_own(LabelSmoothingClassifier)(max_epochs=2, random_state=0)
    with pytest.warns(UserWarning, match="does not call fit and predict_proba of Own"):
        LabelSmoothingClassifierCV(net, label_smoothings=(0, 0.1), cv=2).fit(X, Y)


class Counting(LabelSmoothingClassifier):
    """Sets attributes that are no parameters wherever a subclass of skorch's nets may."""

    def __init__(self, *, extra=2, **kwargs):
        super().__init__(**kwargs)
        self.extra = extra
        self.tag = "mine"

    def fit(self, X, y, **arguments):
        self.scaler = StandardScaler().fit(X)
        return super().fit(self.scaler.transform(X), y, **arguments)

    def initialize_module(self):
        self.n_epochs = 0
        return super().initialize_module()

    def on_epoch_end(self, net, **given):
        super().on_epoch_end(net, **given)
        self.n_epochs += 1


def test_attributes_of_ones_own_are_no_parameters():
    net = Counting(max_epochs=3, extra=5, random_state=0).fit(X, Y)
    copy = pickle.loads(pickle.dumps(clone(net).fit(X, Y)))
    assert (copy.n_epochs, copy.tag, copy.extra, type(copy.scaler)) == (
        3,
        "mine",
        5,
        StandardScaler,
    )
    assert_allclose(copy.predict_proba(X), net.predict_proba(X))
    net.set_params(module__hidden_layer_sizes=(8,))
    assert net.tag == "mine"
    assert net.fit(X, Y).n_epochs == 3
    assert net.get_params().keys() - LabelSmoothingClassifier().get_params().keys() == {
        "extra",
        "module__hidden_layer_sizes",
    }


def test_an_attribute_like_a_parameter_is_a_misspelt_one():
    net = single()
    net.label_smooting = 0.3
    with pytest.raises(ValueError, match="did you mean label_smoothing"):
        net.fit(X, Y)


# -- modules that no stack can take ---------------------------------------------------------------


class SomeColumns(nn.Module):
    """Looks at two columns of its own, and holds its layer where torch does not see it change."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.columns = np.random.default_rng().permutation(n_features)[:5]
        self.layer = nn.Linear(5, n_classes)

    def forward(self, x):
        return self.layer(x[:, self.columns])


class LessTheMean(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(n_features, n_classes)

    def forward(self, x):
        return self.layer(x - x.mean(0))


class WeightNormed(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(n_features, n_classes))

    def forward(self, x):
        return self.layer(x)


class Attentive(nn.Linear):
    """Calls attention as a function, which no list of layers can tell of."""

    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)

    def forward(self, x):
        heads = x[:, None, :, None]
        attended = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return super().forward(attended.flatten(1))


class Padded(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.words = nn.Embedding(5, 3, padding_idx=0)
        self.layer = nn.Linear(3 * n_features, n_classes)

    def forward(self, x):
        return self.layer(self.words(x).flatten(1))


class PaddedByFunction(Padded):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        del self.words
        self.words_ = nn.Parameter(torch.randn(5, 3))

    def words(self, x):
        return nn.functional.embedding(x.long(), self.words_, padding_idx=0)


@pytest.mark.filterwarnings("ignore:No temperature minimizes")
@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (SomeColumns, "the modules differ in more than their parameters"),
        (LessTheMean, "a row's logits depend on the rows beside it"),
        (WeightNormed, "parametrizations"),
        (Padded, "padding_idx"),
        (PaddedByFunction, "other gradients"),
        (Attentive, "torch takes one net after the other"),
    ],
)
@pytest.mark.parametrize("make", [crossed, searched])
def test_modules_that_are_not_alike_are_trained_one_by_one(make, module, reason):
    rows = np.abs(X).clip(0, 4).round() if issubclass(module, Padded) else X
    model = make(module=module).fit(rows, Y)
    assert reason in str(model.alone_because_)


class SomeRareColumns(nn.Linear):
    """Looks at all columns but some of its own, which few rows tell of."""

    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        self.is_seen = torch.rand(n_features) < 0.5

    def forward(self, x):
        return super().forward(x * self.is_seen)


class SomeDropout(nn.Sequential):
    def __init__(self, n_features, n_classes):
        share = float(torch.rand(()))
        super().__init__(nn.Dropout(share), nn.Linear(n_features, n_classes))


@pytest.mark.filterwarnings("ignore:No temperature minimizes")
@pytest.mark.parametrize("module", [SomeRareColumns, SomeDropout])
def test_modules_that_two_rows_or_prediction_show_alike_are_not_stacked(module):
    rows = np.zeros_like(X)
    rows[np.arange(4, len(X)), np.arange(4, len(X)) % X.shape[1]] = 1
    model = crossed(module=module).fit(rows, Y)
    assert model.alone_because_ == "the modules differ in more than their parameters"


class Encoded(nn.Linear):
    def __init__(self, encoding, n_features, n_classes):
        super().__init__(encoding.n_outputs, n_classes)
        self.encoding = encoding

    def forward(self, x):
        return super().forward(self.encoding(x))


def test_modules_around_encodings_are_stacked_with_those_around_the_same():
    net = LabelSmoothingClassifier(Encoded, max_epochs=2, random_state=0)
    encodings = ["piecewise_linear", "periodic"]
    model = LabelSmoothingClassifierCV(net, encodings=encodings, cv=2, random_state=0).fit(X, Y)
    assert model.alone_because_ is None


def test_an_ensemble_of_modules_of_columns_of_their_own_pools_what_each_gives():
    model = crossed(module=SomeColumns).fit(X, Y)
    logits = np.mean([net.logits(X) for net in model.estimators_], axis=0)
    np.testing.assert_allclose(
        model.predict_proba(X), model.calibrator_.predict_proba(logits), rtol=1e-6
    )
    assert len({tuple(net.module_.columns) for net in model.estimators_}) > 1


class Scaled(nn.Module):
    """Has parameters of its own before those of its layers."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.words = nn.Embedding(5, 3)
        self.layer = nn.Linear(3 * n_features, n_classes)

    def forward(self, x):
        return self.scale * self.layer(self.words(x).flatten(1))


class WordsLast(Scaled):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        words = self.words
        del self.words
        self.words = words


@pytest.mark.filterwarnings("ignore:No temperature minimizes")
@ALL
def test_an_embedding_behind_a_parameter_of_the_module_gets_integers(make):
    rows = np.abs(X).clip(0, 4).round()
    assert make(module=Scaled).fit(rows, Y).predict_proba(rows).shape == (len(Y), 3)


def test_an_embedding_that_gets_floats_says_what_helps():
    with pytest.raises(ValueError, match=r"Register it before them, or give it x\.long"):
        LabelSmoothingClassifier(WordsLast, max_epochs=1).fit(X, Y)


# -- numbers that float32 does not tell apart -----------------------------------------------------


@pytest.mark.filterwarnings("ignore:No temperature minimizes")
@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame, torch.from_numpy])
@pytest.mark.parametrize("change", [lambda x: x + 1e9, lambda x: x * 1e-60])
@ALL
def test_columns_that_float32_rounds_to_one_number_are_named(make, change, container):
    rows = X.astype(np.float64)
    rows[:, 3] = change(rows[:, 3])
    with pytest.warns(UserWarning, match=r"rounds the numbers of columns \[3\] of X to one"):
        make(module=SimpleNet).fit(container(rows), Y)


# -- what searches are given -----------------------------------------------------------------------

HALVES = (range(100), range(100, 200))


@pytest.mark.parametrize("make_part", [list, lambda rows: rows, lambda rows: torch.tensor(rows)])
def test_splits_of_any_container(make_part):
    first, second = map(make_part, HALVES)
    search = searched().set_params(cv=[(first, second), (second, first)]).fit(X, Y)
    by_arrays = searched().set_params(
        cv=[(np.arange(100), np.arange(100, 200)), (np.arange(100, 200), np.arange(100))]
    )
    expected = by_arrays.fit(X, Y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], expected)


@pytest.mark.parametrize(
    "change", [lambda own: own.bfloat16(), lambda own: own.float().requires_grad_()]
)
def test_tensors_of_labels_and_weights_of_any_dtype_in_a_search(change):
    weight = torch.ones(len(Y))
    expected = searched().fit(X, Y, sample_weight=weight.numpy()).cv_results_["mean_test_score"]
    search = searched().fit(X, change(torch.from_numpy(Y)), sample_weight=change(weight))
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], expected)


@pytest.mark.parametrize("missing", [np.nan, None])
def test_missing_labels_in_a_search_are_told_as_by_a_net(missing):
    labels = Y.astype(object)
    labels[3] = missing
    with pytest.raises(ValueError, match="Input y contains NaN or None; remove those rows"):
        searched().fit(X, labels)


def test_several_inputs_in_a_search_name_what_can_be_indexed():
    with pytest.raises(ValueError, match=r"SliceDict\(\*\*X\)"):
        searched().fit({"x": X}, Y)


def test_a_predefined_split_of_nothing_holds_out_nothing():
    net = single(train_split=predefined_split(None))
    with pytest.warns(UserWarning, match="without calibration"):
        net.fit(X, Y)


# -- whose error it is -----------------------------------------------------------------------------

TORCHS = "index out of range in self"  # of which a module's forward gets an explanation


def fail(*args, **kwargs):
    raise RuntimeError(TORCHS)


class OwnLoss(LabelSmoothingClassifier):
    get_loss = fail


@pytest.mark.parametrize(
    "model",
    [
        OwnLoss(max_epochs=1),
        single(iterator_train__collate_fn=fail),
        crossed().set_params(scoring=fail),
        searched().set_params(scoring=fail),
    ],
    ids=["loss", "collate_fn", "scorer of an ensemble", "scorer of a search"],
)
def test_errors_of_others_are_not_told_as_those_of_the_modules_forward(model):
    with pytest.raises(RuntimeError) as caught:
        model.fit(X, Y)
    assert str(caught.value) == TORCHS


@ALL
@pytest.mark.parametrize(
    ("labels", "given"),
    [
        (Y.astype(object), "int64"),
        ((Y > 0).astype(object), "bool"),
        ([int(label) + 2**70 for label in Y], "str"),
        (pd.Series(pd.period_range("2020", periods=3, freq="Y")[Y]), "str"),
    ],
)
def test_labels_that_are_objects_are_told_how_they_become_classes(make, labels, given):
    with pytest.raises(ValueError, match=rf"Unknown label type.*objects.*y.astype\('{given}'\)"):
        make().fit(X, labels)


SORTED = np.argsort(Y, kind="stable")


@pytest.mark.filterwarnings("ignore:No temperature minimizes")
def test_folds_of_rows_in_the_order_of_their_labels_are_warned_of():
    model = crossed().set_params(cv=KFold(3))
    with pytest.warns(UserWarning, match="cv: .* of a class that their nets do not train on"):
        model.fit(X[SORTED], NAMES[Y[SORTED]])
    model.set_params(cv=KFold(3, shuffle=True, random_state=0)).fit(X[SORTED], Y[SORTED])


def test_held_out_rows_of_one_class_are_warned_of():
    net = single(train_split=ValidSplit(5))
    with pytest.warns(UserWarning, match="train_split holds out are all of one class"):
        net.fit(X[SORTED], Y[SORTED])
    net.set_params(train_split=ValidSplit(5, stratified=True)).fit(X[SORTED], Y[SORTED])


@needs_sklearn("1.7", "the warning")
@pytest.mark.filterwarnings("ignore:Too few rows to hold any out")
def test_numbers_that_may_be_no_classes_are_warned_of():
    with pytest.warns(UserWarning, match="could represent a regression problem"):
        single().fit(X, np.arange(len(X)))


@ALL
def test_structured_arrays_are_told_to_be_frames(make):
    with pytest.raises(TypeError, match=r"structured array.*pandas.DataFrame\(X\)"):
        make().fit(np.rec.fromarrays(X.T), Y)


@pytest.mark.parametrize("make", [single, crossed])
def test_rows_of_another_shape_are_told_of(make):
    model = make().fit(X.reshape(-1, 5, 2), Y)
    with pytest.raises(ValueError, match="n_features=10"):
        model.predict(np.zeros((4, 5, 3)))


@pytest.mark.parametrize("container", [np.asarray, pd.Series])
@pytest.mark.parametrize("kind", [np.asarray, list])
@ALL
def test_a_column_of_arrays_is_told_how_it_becomes_a_table(make, kind, container):
    column = np.empty(len(X), dtype=object)
    column[:] = [kind(row) for row in X]
    with pytest.raises(ValueError, match=r"column of arrays or lists.*numpy\.stack\(list\(X\)\)"):
        make(module=SimpleNet).fit(container(column), Y)
