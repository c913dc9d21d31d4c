"""ONNX Runtime gives the labels and the probabilities of the classifiers."""

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch
from helpers import Equal, WithMembers, needs_sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    RobustScaler,
    StandardScaler,
)

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    TemperatureScaling,
    make_tabular,
    to_onnx,
)

for name in ("onnx", "onnxscript", "skl2onnx"):
    pytest.importorskip(name)
onnxruntime = pytest.importorskip("onnxruntime")

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(string)": object,
}


def quick(*args, **params):
    return LabelSmoothingClassifier(
        *args, **{"max_epochs": 10, "lr": 0.02, "random_state": 0, **params}
    )


def run(model, X):
    """Give what a graph gives for rows, each column in the type that it takes."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {given.name: TYPES[given.type] for given in session.get_inputs()}
    is_frame = isinstance(X, pd.DataFrame)
    columns = {name: X[[name]].to_numpy() if is_frame else X for name in inputs}
    feed = {name: columns[name].astype(kind) for name, kind in inputs.items()}
    return session.run(["label", "probabilities"], feed)


def assert_gives_the_same(model, estimator, X):
    for rows in (X[:1], X[:7], X):
        label, probabilities = run(model, rows)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, estimator.predict_proba(rows), atol=1e-6, rtol=0)
        np.testing.assert_array_equal(label, estimator.predict(rows))


def tabular():
    X, y = make_tabular(300, random_state=0)
    return X.astype(np.float32), y


def bundled(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X).astype(np.float32), y


UNDONE = {"class_weight": {0: 1.0, 1: 5.0, 2: 0.2}, "calibration_weight": "unweighted"}


@pytest.mark.parametrize(
    ("load", "params"),
    [
        (load_iris, {"calibration": "norm_temperature"}),
        (load_breast_cancer, {"calibration": None}),
        (load_digits, {"calibration": TemperatureScaling(prior_strength=2.0)}),
        (load_wine, {"calibration": "norm_temperature", **UNDONE}),
    ],
)
def test_every_calibrator(load, params):
    X, y = bundled(load)
    net = quick(**params).fit(X, y)
    model = to_onnx(net, X[:1])
    assert [given.name for given in model.graph.input] == ["X"]
    assert [given.name for given in model.graph.output] == ["label", "probabilities"]
    assert_gives_the_same(model, net, X)


@pytest.mark.parametrize(
    "calibration",
    [LogisticRegression(), make_pipeline(StandardScaler(), CalibratedClassifierCV(GaussianNB()))],
)
@pytest.mark.parametrize("params", [{}, UNDONE], ids=["", "class_weight"])
def test_calibrators_of_scikit_learn(calibration, params):
    X, y = tabular()
    net = quick(calibration=calibration, **params).fit(X, y)
    assert_gives_the_same(to_onnx(net, X), net, X)


def test_a_calibrator_of_scikit_learn_for_pooled_nets():
    X, y = tabular()
    estimator = LabelSmoothingClassifierCV(
        quick(calibration=LogisticRegression()), cv=2, random_state=0
    ).fit(X, y)
    assert_gives_the_same(to_onnx(estimator, X), estimator, X)


def test_pooled_nets_of_several_encodings():
    X, y = tabular()
    encodings = [None, "piecewise_linear", "periodic"]
    estimator = LabelSmoothingClassifierCV(quick(), encodings=encodings, cv=2, random_state=0)
    estimator.fit(X, y)
    assert len(estimator.estimators_) == 6
    assert_gives_the_same(to_onnx(estimator, X), estimator, X)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (np.array(["x", "yy", "ü"], dtype=object), object),
        ([-3.0, 10.0, 2.0], np.int64),
        ([False, True, True], np.int64),
    ],
)
def test_labels(labels, kind):
    X, y = tabular()
    net = quick(max_epochs=3).fit(X, np.asarray(labels)[y])
    model = to_onnx(net, X)
    assert run(model, X)[0].dtype == kind
    assert_gives_the_same(model, net, X)


def test_searches():
    X, y = tabular()
    grid = {"label_smoothing": [0.0, 0.3]}
    inside = make_pipeline(StandardScaler(), BatchedGridSearchCV(quick(), grid, cv=2)).fit(X, y)
    assert_gives_the_same(to_onnx(inside, X), inside, X)
    nested = make_pipeline("passthrough", make_pipeline(StandardScaler(), quick()))
    grid = {"pipeline__labelsmoothingclassifier__label_smoothing": [0.0, 0.3]}
    around = BatchedGridSearchCV(nested, grid, cv=2).fit(X, y)
    assert_gives_the_same(to_onnx(around, X), around, X)


def mixed_frame():
    """Give a frame that begins with integers, has strings, and a column that is not used."""
    X, y = tabular()
    frame = pd.DataFrame(X[:, :4], columns=["a", "size (cm)", "size_(cm)", "unused"])
    frame.insert(0, "count", np.arange(len(X)) % 5)
    frame["kind"] = np.array(["u", "v", "w"], dtype=object)[(np.arange(len(X)) + y) % 3]
    return frame, np.array(["low", "mid", "top"])[y]


def test_frames_of_mixed_columns():
    X, y = mixed_frame()
    pipe = make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), ["count", "a"]),
            (MinMaxScaler(), ["size (cm)"]),
            (OneHotEncoder(handle_unknown="ignore"), ["kind", "count"]),
            ("passthrough", ["size_(cm)"]),
        ),
        LabelSmoothingClassifierCV(quick(), cv=2, random_state=0),
    ).fit(X, y)
    model = to_onnx(pipe, X[:1])
    assert [given.name for given in model.graph.input] == list(X)
    assert_gives_the_same(model, pipe, X)
    unseen = X[:1].assign(kind="x")
    np.testing.assert_allclose(run(model, unseen)[1], pipe.predict_proba(unseen), atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "dtype", "kind"), [([], np.float64, 11), ([RobustScaler()], np.float32, 1)]
)
def test_frames_without_a_column_transformer(steps, dtype, kind):
    X, y = mixed_frame()
    X = X[["count", "a", "size (cm)"]].astype({"a": dtype})
    estimator = make_pipeline(*steps, quick()).fit(X, y)
    model = to_onnx(estimator, X)
    assert_gives_the_same(model, estimator, X)
    assert model.graph.input[0].type.tensor_type.elem_type == kind


@pytest.mark.parametrize(
    ("dtype", "kind"), [("i4", 7), ("u1", 7), (">f4", 1), (">f8", 11), ("Int64", 7)]
)
@pytest.mark.parametrize("is_frame", [False, True])
def test_rows_of_any_type_of_numbers(dtype, kind, is_frame):
    X, y = tabular()
    rows = pd.DataFrame(np.abs(np.round(4 * X))).add_prefix("x").astype(dtype)
    rows = rows if is_frame else rows.to_numpy(dtype="i8" if dtype == "Int64" else dtype)
    pipe = make_pipeline(StandardScaler(), quick()).fit(rows, y)
    model = to_onnx(pipe, rows[:1])
    assert {given.type.tensor_type.elem_type for given in model.graph.input} == {kind}
    assert_gives_the_same(model, pipe, rows)


@needs_sklearn("1.9", "a StandardScaler that rounds rows of float32 as the graph does")
def test_columns_far_from_zero():
    X, y = tabular()
    rows = 1e4 + X.astype(np.float64)
    pipe = make_pipeline(StandardScaler(), quick()).fit(rows, y)
    for dtype in (np.float32, np.float64):
        some = rows.astype(dtype)
        assert_gives_the_same(to_onnx(pipe, some), pipe, some)


class Recurrent(torch.nn.Module):
    """Reads images by their lines."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(8)
        self.gru = torch.nn.GRU(8, 12, batch_first=True)
        self.last = torch.nn.Linear(12, 10)

    def forward(self, x):
        return self.last(self.gru(self.norm(x))[0][:, -1].clamp(max=0.9))


class Embedded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(40, 6)
        self.last = torch.nn.Linear(10 * 6, 3)

    def forward(self, x):
        return self.last(self.embedding(x).flatten(1))


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch.export's, of any GRU
def test_modules_of_ones_own():
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    net = quick(Recurrent, max_epochs=2).fit(images, digits.target)
    assert_gives_the_same(to_onnx(net, images[:2]), net, images)
    X, y = tabular()
    codes = np.clip(np.round(4 * X) + 20, 0, 39).astype(np.int64)
    net = quick(Embedded).fit(codes, y)
    assert_gives_the_same(to_onnx(net, codes), net, codes)
    net = quick(WithMembers, module__n_features=10).fit(X, y)
    assert_gives_the_same(to_onnx(net, X), net, X)
    layers = torch.nn.Sequential(torch.nn.Linear(10, 3), torch.nn.Softmax(-1))
    net = quick(layers, criterion=torch.nn.NLLLoss, label_smoothing=0).fit(X, y)
    assert_gives_the_same(to_onnx(net, X), net, X)


def test_a_net_that_was_initialized_and_loaded(tmp_path):
    X, y = tabular()
    trained = quick(max_epochs=2, calibration=None).fit(X, y)
    trained.save_params(tmp_path / "net.pt")
    net = quick(
        module__n_features=10, module__n_classes=3, classes=[0, 1, 2], calibration=None
    ).initialize()
    net.load_params(tmp_path / "net.pt")
    assert_gives_the_same(to_onnx(net, X), trained, X)


def test_rows_with_nan_have_probabilities_of_nan():
    X, y = tabular()
    net = quick().fit(X, y)
    rows = X[:3].copy()
    rows[1, 4] = np.nan
    probabilities = run(to_onnx(net, X), rows)[1]
    np.testing.assert_array_equal(np.isnan(probabilities).any(axis=1), [False, True, False])
    assert np.isnan(probabilities[1]).all()


def test_the_graph_names_no_files_and_each_operator_set_once():
    X, y = tabular()
    net = quick().fit(X, y)
    for opset in (18, 21):
        model = to_onnx(net, X, target_opset=opset)
        assert [(own.domain, own.version) for own in model.opset_import] == [("", opset)]
        assert b".py" not in model.SerializeToString()
        assert_gives_the_same(model, net, X)


class OneByOne(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(10, 3)

    def forward(self, x):
        return torch.cat([self.layer(x[i : i + 1]) for i in range(len(x))])


def test_torchs_default_device_is_not_that_of_the_graph():
    X, y = tabular()
    net = quick().fit(X, y)
    with torch.device("meta"):
        model = to_onnx(net, X)
    assert_gives_the_same(model, net, X)


def test_names_what_it_cannot_turn_into_a_graph():
    X, y = tabular()
    net = quick(max_epochs=2).fit(X, y)
    softmax = FunctionTransformer(scipy.special.softmax, kw_args={"axis": 1})
    for own in (Equal(), make_pipeline(softmax, LogisticRegression())):
        with pytest.raises(TypeError, match=rf"is a {type(own).__name__}, which skl2onnx"):
            to_onnx(quick(calibration=own, max_epochs=2).fit(X, y), X)
    with pytest.raises(ValueError, match="cannot turn module=OneByOne into ONNX"):
        to_onnx(quick(OneByOne, max_epochs=2).fit(X, y), X)
    with pytest.raises(TypeError, match="got CalibratedClassifierCV"):
        to_onnx(CalibratedClassifierCV(quick(max_epochs=2), cv=2).fit(X, y), X)
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], dtype="datetime64[D]")
    with pytest.raises(TypeError, match="Labels in ONNX are strings or integers"):
        to_onnx(quick(max_epochs=2).fit(X, days[y]), X)
    with pytest.raises(ValueError, match="target_opset must be 18 or more, got 12"):
        to_onnx(net, X, target_opset=12)
    for opset in ("18", 18.0, None, {"": 18}):
        with pytest.raises(TypeError, match="target_opset must be an integer"):
            to_onnx(net, X, target_opset=opset)
    scaled = make_pipeline(StandardScaler(), quick(max_epochs=2)).fit(X, y)
    for classifier in (net, scaled):
        for rows in (X[:, :3], X[0], None):
            with pytest.raises(ValueError, match=r"rows such as fit was given.*\(n_samples, 10\)"):
                to_onnx(classifier, rows)
    few = pd.DataFrame(X[:, :3], columns=list("abc"))
    with pytest.raises(ValueError, match=r"got \(300, 3\)"):
        to_onnx(net, few)
    named = pd.DataFrame(X).add_prefix("x")
    by_name = make_pipeline(make_column_transformer((StandardScaler(), ["x0", "x5"])), quick())
    by_name.fit(named[["x0", "x5"]], y)
    assert len(to_onnx(by_name, named).graph.input) == 10
    for name in ("label", 0):
        with pytest.raises(ValueError, match=f"got {name!r}; rename it"):
            to_onnx(
                net, pd.DataFrame(X).rename(columns=lambda k, name=name: name if k == 0 else f"{k}")
            )
    for unfitted in (quick(), make_pipeline(StandardScaler(), quick())):
        with pytest.raises(NotFittedError):
            to_onnx(unfitted, X)


@pytest.mark.parametrize("package", ["onnx.compose", "onnxscript", "skl2onnx"])
def test_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    X, y = tabular()
    with pytest.raises(ImportError, match=rf"to_onnx needs {package}.*sksmooth\[onnx\]"):
        to_onnx(quick(max_epochs=2).fit(X, y), X)


class Careful(LabelSmoothingClassifier):
    def predict(self, X):
        return self.classes_[(self.predict_proba(X)[:, 0] < 0.1).astype(int)]


class Sharper(LabelSmoothingClassifier):
    def predict_proba(self, X):
        return super().predict_proba(X).round()


@pytest.mark.parametrize("calibration", ["temperature", LogisticRegression()])
def test_says_which_methods_of_a_subclass_are_left_out(calibration):
    X, y = tabular()
    options = {"calibration": calibration, "max_epochs": 2}
    with pytest.raises(TypeError, match="predict_proba of Sharper would be left out"):
        to_onnx(Sharper(**options).fit(X, y), X)
    with pytest.warns(UserWarning, match="predict of Careful is left out"):
        to_onnx(Careful(**options).fit(X, y), X)
