"""A classifier as a torch module gives the classifier's probabilities."""

import numpy as np
import pytest
import torch
from helpers import Equal
from sklearn.exceptions import NotFittedError

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, make_tabular

X, Y = make_tabular(200, random_state=0)


@pytest.mark.parametrize("calibration", ["norm_temperature", "temperature", None])
@pytest.mark.parametrize("kind", ["net", "CV", "one of CV"])
def test_gives_the_probabilities_of_the_classifier(kind, calibration):
    net = LabelSmoothingClassifier(max_epochs=5, lr=0.02, random_state=0, calibration=calibration)
    ensemble = LabelSmoothingClassifierCV(net, cv=3, ensemble=kind == "CV", random_state=0)
    estimator = (net if kind == "net" else ensemble).fit(X, Y)
    module = estimator.as_module()
    for rows in (X, X[:1], 100 * X):
        found = module(torch.from_numpy(rows))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, estimator.predict_proba(rows), atol=2e-6)
    exported = torch.export.export(
        module, (torch.zeros(4, X.shape[1]),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    some = torch.from_numpy(X[:7]).float()
    np.testing.assert_allclose(exported.module()(some), module(some), atol=1e-6)


def test_a_module_with_batch_norm_and_probabilities_for_an_output():
    layers = (torch.nn.Linear(10, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
    net = LabelSmoothingClassifier(
        torch.nn.Sequential(*layers, torch.nn.Softmax(-1)),
        criterion=torch.nn.NLLLoss,
        label_smoothing=0,
        max_epochs=5,
        lr=0.02,
        random_state=0,
    ).fit(X, Y)
    found = net.as_module()(torch.from_numpy(X))
    np.testing.assert_allclose(found, net.predict_proba(X), atol=2e-6)


@pytest.mark.parametrize("calibration", ["norm_temperature", "temperature"])
def test_undoes_the_weights_of_classes(calibration):
    weight = {"class_weight": {0: 1.0, 1: 9.0, 2: 0.1}, "calibration_weight": "unweighted"}
    net = LabelSmoothingClassifier(max_epochs=5, lr=0.02, random_state=0, **weight)
    net.set_params(calibration=calibration).fit(X, Y)
    found = net.as_module()(torch.from_numpy(X))
    np.testing.assert_allclose(found, net.predict_proba(X), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weight", [{}, {"class_weight": "balanced"}])
def test_takes_rows_of_any_dtype_in_a_precision_of_its_own(dtype, weight):
    net = LabelSmoothingClassifier(
        max_epochs=5, lr=0.02, random_state=0, calibration_weight="unweighted", **weight
    ).fit(X, Y)
    module = net.as_module().to(dtype)
    for rows in (torch.from_numpy(X), torch.from_numpy(X).double()):
        found = module(rows)
        assert found.dtype == torch.float32
        tolerance = 1e-6 if dtype == torch.float64 else 0.05
        np.testing.assert_allclose(found, net.predict_proba(X), atol=tolerance)


@pytest.mark.parametrize("rows", [X, X.tolist()])
def test_rows_that_are_no_tensor_are_refused(rows):
    module = LabelSmoothingClassifier(max_epochs=2, lr=0.02, random_state=0).fit(X, Y).as_module()
    with pytest.raises(TypeError, match=rf"X must be a tensor, got {type(rows).__name__}: torch"):
        module(rows)


def test_is_a_copy():
    net = LabelSmoothingClassifier(max_epochs=5, lr=0.02, random_state=0).fit(X, Y)
    module = net.as_module()
    before = module(torch.from_numpy(X))
    net.partial_fit(X, Y)
    assert torch.equal(module(torch.from_numpy(X)), before)
    assert all(own.requires_grad for own in net.module_.parameters())


@pytest.mark.parametrize("calibration", ["norm_temperature", "temperature", None])
def test_its_state_holds_the_calibrator(calibration):
    nets = [
        LabelSmoothingClassifier(max_epochs=5, lr=0.02, random_state=seed, calibration=own)
        for seed, own in enumerate((calibration, "norm_temperature"))
    ]
    module, other = (net.fit(X, Y).as_module() for net in nets)
    rows = torch.from_numpy(X)
    assert not torch.equal(other(rows), module(rows))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(rows), module(rows))


def test_refuses_what_torch_cannot_run():
    net = LabelSmoothingClassifier(max_epochs=2, calibration=Equal()).fit(X, Y)
    with pytest.raises(TypeError, match="calibrator is a Equal"):
        net.as_module()
    net = LabelSmoothingClassifier(max_epochs=2, predict_nonlinearity=None).fit(X, Y)
    with pytest.raises(TypeError, match="predict_nonlinearity=None is no calibrator"):
        net.as_module()
    with pytest.raises(NotFittedError):
        LabelSmoothingClassifierCV().as_module()


class Sharper(LabelSmoothingClassifier):
    def predict_proba(self, X):
        return super().predict_proba(X).round()


class Halving(LabelSmoothingClassifier):
    def infer(self, x, **fit_params):
        return super().infer(x / 2, **fit_params)


class SharperCV(LabelSmoothingClassifierCV):
    def predict_proba(self, X):
        return super().predict_proba(X).round()


class SharperModule(Sharper):
    def as_module(self):
        return torch.nn.Sequential(super().as_module(), Rounding())


class Rounding(torch.nn.Module):
    def forward(self, proba):
        return proba.round()


@pytest.mark.parametrize(
    ("estimator", "what"),
    [
        (Sharper(max_epochs=2), "predict_proba of Sharper would be left out"),
        (Halving(max_epochs=2), "infer of Halving would be left out"),
        (
            SharperCV(LabelSmoothingClassifier(max_epochs=2)),
            "predict_proba of SharperCV would",
        ),
        (LabelSmoothingClassifierCV(Halving(max_epochs=2)), "infer of Halving would be left out"),
    ],
)
def test_no_prediction_of_a_subclass_is_left_out(estimator, what):
    with pytest.raises(TypeError, match=what):
        estimator.set_params(random_state=0).fit(X, Y).as_module()


def test_a_subclass_may_have_a_module_of_its_own():
    net = SharperModule(max_epochs=2, lr=0.02, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(net.as_module()(torch.from_numpy(X)), net.predict_proba(X))
