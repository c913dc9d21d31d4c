"""The HTML that a notebook shows of LabelSmoothingClassifier, as scikit-learn writes it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sksmooth import LabelSmoothingClassifier, make_tabular

CHANGED = {"label_smoothing": "0.2", "module__dropout": "0.1"}
PARAMETER = re.compile(
    r'<tr class="(user-set|default)">(?:(?!</tr>).)*?'
    r'<td class="param">(\w+)</td>\s*<td class="value">(.*?)</td>',
    re.DOTALL,
)
FITTED = re.compile(r'<a class="param-doc-link" [^>]*>(\w+_)</a>')


def _parameters(html, kind):
    return {name: value for row, name, value in PARAMETER.findall(html) if row == kind}


@pytest.fixture
def net():
    return LabelSmoothingClassifier(label_smoothing=0.2, module__dropout=0.1)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_parameters_that_were_set_are_highlighted_and_no_others(net, in_pipeline, fitted):
    estimator = make_pipeline(StandardScaler(), net) if in_pipeline else net
    if fitted:
        estimator.fit(*make_tabular(60, random_state=0))
    html = estimator._repr_html_()
    assert _parameters(html, "user-set") == CHANGED
    others = set(net.get_params(deep=False)) - set(CHANGED)
    assert set(_parameters(html, "default")) == others


def test_a_callbacks_parameter_is_shown_once_it_is_set():
    net = LabelSmoothingClassifier(callbacks__print_log__floatfmt=".2f")
    assert _parameters(net._repr_html_(), "user-set") == {
        "callbacks__print_log__floatfmt": "&#x27;.2f&#x27;"
    }


@pytest.mark.parametrize("as_array", [list, np.array, torch.tensor])
def test_a_smoothing_matrix_is_highlighted(as_array):
    net = LabelSmoothingClassifier(smoothing=as_array([[0.0, 1.0], [1.0, 0.0]]))
    assert set(_parameters(net._repr_html_(), "user-set")) == {"smoothing"}


def test_fitted_attributes_are_those_of_the_documentation(net):
    assert "Fitted attributes" not in net._repr_html_()
    net.set_params(max_epochs=2).fit(*make_tabular(60, random_state=0))
    assert set(FITTED.findall(net._repr_html_())) == {
        *("best_epoch_", "calibrator_", "class_prior_", "classes_", "history_", "n_features_in_"),
        *("callbacks_", "criterion_", "module_", "optimizer_", "trained_by_", "trained_by_reason_"),
    }
    assert "Fitted attributes" not in clone(net)._repr_html_()
