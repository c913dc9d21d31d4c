"""Encodings of numbers: their formulas, what they learn, and how nets use them."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import SplineTransformer

from sksmooth import (
    BatchedGridSearchCV,
    LabelSmoothingClassifier,
    LabelSmoothingClassifierCV,
    SimpleNet,
    make_tabular,
)
from sksmooth.encoding import ENCODINGS, Periodic, PiecewiseLinear
from sksmooth.engine import stack as stack_room

X, Y = make_tabular(300, random_state=0)
ROWS = torch.from_numpy(X)


def quick(**parameters):
    return LabelSmoothingClassifier(
        **{
            "max_epochs": 4,
            "lr": 0.01,
            "random_state": 0,
            "module__hidden_layer_sizes": (16,),
            "module__encoding": "piecewise_linear",
            **parameters,
        }
    )


# -- formulas ----------------------------------------------------------------------------------


def test_hats_are_the_linear_splines_of_scikit_learn():
    encoding = PiecewiseLinear(n_knots=5).learn(X)
    knots = encoding.knot.view(10, 5).T.numpy()
    spline = SplineTransformer(degree=1, knots=knots, extrapolation="constant").fit(X)
    new = 2 * X[::-1] - 0.3  # some beyond the outer knots
    expected = spline.transform(new)
    assert_allclose(encoding(torch.from_numpy(new.copy()))[:, 10:], expected, atol=2e-5)


def test_numbers_come_first_as_they_are():
    for name in ENCODINGS:
        encoded = ENCODINGS[name]().learn(X)(ROWS)
        assert_array_equal(encoded[:, :10], X)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40), st.integers(3, 8))
def test_hats_of_a_number_sum_to_one(values, n_knots):
    rows = torch.tensor(values, dtype=torch.float32)[:, None]
    encoding = PiecewiseLinear(n_knots).learn(rows)
    new = torch.linspace(-7, 7, 29)[:, None]
    functions = encoding(new)[:, 1:]
    if len(set(values)) <= 2:
        assert functions.shape[1] == 0
    else:
        assert 2 <= functions.shape[1] <= n_knots
        torch.testing.assert_close(functions.sum(1), torch.ones(29))


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0]), min_size=8, max_size=40))
def test_a_column_with_few_values_has_a_hat_for_each(values):
    rows = torch.tensor(values)[:, None]
    distinct = torch.tensor(values).unique()
    if len(distinct) > 2:
        encoding = PiecewiseLinear(n_knots=9).learn(rows)
        torch.testing.assert_close(encoding(distinct[:, None])[:, 1:], torch.eye(len(distinct)))


def test_sines_and_cosines_are_of_the_standardised_number():
    encoding = Periodic(n_frequencies=3, scale=1.5).learn(X)
    assert encoding.n_outputs == 10 * (1 + 2 * 3)
    standardised = (X[:, 0] - X[:, 0].mean()) / X[:, 0].std()
    frequency = encoding.frequency[2].item() * X[:, 0].std()
    encoded = encoding(ROWS).numpy()
    assert_allclose(encoded[:, 12], np.sin(frequency * standardised), atol=1e-5)
    assert_allclose(encoded[:, 13], np.cos(frequency * standardised), atol=1e-5)


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [PiecewiseLinear(7), Periodic()], ids=str)
@given(st.data())
def test_weight_two_is_the_row_twice(encoding, data):
    weight = np.array(data.draw(st.lists(st.integers(1, 3), min_size=30, max_size=30)))
    rows = X[:30, :3].round(1)
    once, twice = encoding.learn(rows, weight), encoding.learn(rows.repeat(weight, 0))
    for name, value in once.named_buffers():
        torch.testing.assert_close(value, dict(twice.named_buffers())[name])
    scaled = encoding.learn(rows, 1e-20 * weight)
    for name, value in once.named_buffers():
        torch.testing.assert_close(value, dict(scaled.named_buffers())[name])


def test_learning_leaves_the_encoding_as_it_was():
    encoding = PiecewiseLinear()
    encoding.learn(X)
    assert encoding.n_features is None
    assert len(encoding.column) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PiecewiseLinear(2), r"n_knots must be 3 or more, got 2"),
        (lambda: Periodic(0), r"n_frequencies.*got 0"),
        (lambda: Periodic(scale=-1.0), r"scale must be above 0, got -1.0"),
        (lambda: PiecewiseLinear().learn(np.where(X > 2, np.nan, X)), "Input X contains NaN"),
        (lambda: PiecewiseLinear().learn(X * 1e300), "X contains infinity or a value too large"),
        (lambda: PiecewiseLinear().learn(X[:, 0]), "Expected 2D array, got 1D"),
        (lambda: PiecewiseLinear().learn(X[:0]), "0 sample"),
        (lambda: Periodic().learn(X, np.ones(3)), r"sample_weight must have shape \(\d+,\), got"),
        (lambda: Periodic().learn(X, np.zeros(len(X))), "sample_weight must not be zero for all"),
        (lambda: Periodic()(torch.zeros(1, 2)), r"must learn from rows before .*: learn\(X\)"),
        (lambda: Periodic().learn(X)(torch.zeros(1, 2)), "from rows of 10 numbers, .* x have 2"),
        (lambda: SimpleNet(encoding=PiecewiseLinear()), r"must have learned from rows of n_fea"),
        (lambda: SimpleNet(encoding=PiecewiseLinear().learn(X[:, :4])), r"=10 values.*from 4"),
        (lambda: SimpleNet(encoding="periodc"), r"got 'periodc'. Did you mean 'periodic'"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("scale", ["2", None, True])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(TypeError, match="scale must be a number above 0, got"):
        Periodic(scale=scale)


@pytest.mark.parametrize("encoding", [PiecewiseLinear(), Periodic()], ids=str)
@pytest.mark.parametrize(
    "kind",
    [pd.DataFrame, np.ndarray.tolist, torch.tensor, lambda x: torch.tensor(x).requires_grad_()],
)
def test_learns_from_rows_of_any_kind(encoding, kind):
    expected, found = encoding.learn(X), encoding.learn(kind(X))
    for name, value in expected.named_buffers():
        assert torch.equal(value, dict(found.named_buffers())[name])


@pytest.mark.parametrize("encoding", [PiecewiseLinear(), Periodic()], ids=str)
def test_a_row_of_weight_zero_is_a_missing_row(encoding):
    weight = np.arange(len(X)) % 3 > 0
    expected, found = encoding.learn(X[weight]), encoding.learn(X, weight)
    for name, value in expected.named_buffers():
        torch.testing.assert_close(value, dict(found.named_buffers())[name])


@pytest.mark.parametrize("encoding", [PiecewiseLinear(), Periodic()], ids=str)
@pytest.mark.parametrize("values", [[0.0, 1e-42, 1.0, 2.0], [0.0, 1e-40, 2e-40, 3e-40]])
def test_numbers_closer_than_float32_can_divide_by_are_encoded_finitely(encoding, values):
    column = torch.tensor(values)[:, None]
    assert encoding.learn(column)(column).isfinite().all()


def test_an_unknown_encoding_is_refused_in_fit():
    net = quick(module__encoding="splines")
    with pytest.raises(ValueError, match=r"encoding must be None.*got 'splines'"):
        net.fit(X, Y)
    assert not hasattr(net, "module_")


# -- nets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["piecewise_linear", "periodic", PiecewiseLinear(9)], ids=str)
def test_by_hand_by_autograd_and_encoded_beforehand_are_one(encoding):
    class Derived(SimpleNet):
        pass

    net = quick(module__encoding=encoding, module__dropout=0.0).fit(X, Y)
    assert net.trained_by_ == "by hand"
    derived = clone(net).set_params(module=Derived).fit(X, Y)
    assert derived.trained_by_ == "by autograd"
    assert_allclose(net.predict_proba(X), derived.predict_proba(X), atol=2e-6)
    learned = net.module_.encoding
    held = learned(ROWS).numpy()
    plain = clone(net).set_params(module__encoding=None)
    plain.set_params(module=SimpleNet, module__n_features=held.shape[1])
    assert_allclose(net.predict_proba(X), plain.fit(held, Y).predict_proba(held), atol=1e-5)


def test_rows_encoded_batch_by_batch_give_the_same(monkeypatch):
    at_once = quick().fit(X, Y).predict_proba(X)
    monkeypatch.setattr(stack_room, "ENCODED_ENTRIES", 0)
    assert_array_equal(quick().fit(X, Y).predict_proba(X), at_once)


def test_a_net_of_an_encoding_learns_what_a_linear_one_cannot():
    x = np.random.default_rng(0).uniform(-1, 1, (600, 1))
    y = (np.abs(x[:, 0]) > 0.5).astype(int)
    linear = {"module__hidden_layer_sizes": (), "max_epochs": 60, "lr": 0.05}
    assert quick(module__encoding=None, **linear).fit(x, y).score(x, y) < 0.8
    assert quick(**linear).fit(x, y).score(x, y) > 0.95


def test_the_knots_travel_with_the_net(tmp_path):
    net = quick().fit(X, Y)
    expected = net.predict_proba(X)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_array_equal(other.predict_proba(X), expected)
    assert "encoding.knot" in net.module_.state_dict()
    net.save_params(f_params=tmp_path / "net.pt")
    other = quick(random_state=1).fit(X, Y)
    with pytest.warns(UserWarning, match="calibrator"):
        other.load_params(f_params=tmp_path / "net.pt")
    assert_array_equal(other.predict_proba(X).argmax(1), expected.argmax(1))


def test_nets_of_a_search_learn_from_their_own_rows():
    grid = {
        "module__encoding": [None, "piecewise_linear", PiecewiseLinear(3)],
        "label_smoothing": [0.0, 0.1],
    }
    searches = [kind(quick(), grid, cv=3).fit(X, Y) for kind in (GridSearchCV, BatchedGridSearchCV)]
    one, other = (search.cv_results_["mean_test_score"] for search in searches)
    assert_array_equal(one, other)
    assert len(set(one)) > 1


def test_a_later_fit_without_an_encoding_has_none():
    net = quick().fit(X, Y).set_params(module__encoding=None).fit(X, Y)
    assert net.module_.encoding is None


def test_partial_fit_learns_from_the_first_rows():
    net = quick().partial_fit(X[:100], Y[:100], classes=np.unique(Y))
    knots = net.module_.encoding.knot.clone()
    net.partial_fit(X[100:], Y[100:])
    assert_array_equal(net.module_.encoding.knot, knots)
    assert_array_equal(knots, PiecewiseLinear().learn(X[:100]).knot)


def test_rows_in_a_dataset_are_refused_unless_the_encoding_has_learned():
    dataset = torch.utils.data.TensorDataset(ROWS, torch.from_numpy(Y))
    with pytest.raises(ValueError, match=r"learns from rows in memory, got a TensorDataset"):
        quick().fit(dataset)
    learned = PiecewiseLinear().learn(X)
    net = quick(module__encoding=learned, module__n_features=10).fit(dataset)
    assert net.predict_proba(X).shape == (300, 3)


def test_nets_of_a_subclass_are_stacked_with_their_encoding():
    class Derived(SimpleNet):
        pass

    parameters = {"module__dropout": 0.0, "module__encoding": None}
    proba = {}
    for module in (SimpleNet, Derived):
        model = LabelSmoothingClassifierCV(
            quick(**parameters).set_params(module=module),
            encodings=(None, "piecewise_linear"),
            cv=3,
            random_state=0,
        ).fit(X, Y)
        assert model.alone_because_ is None
        assert model.trained_by_ == ("by hand" if module is SimpleNet else "by autograd")
        proba[module] = model.predict_proba(X)
    assert_allclose(proba[SimpleNet], proba[Derived], atol=1e-5)
