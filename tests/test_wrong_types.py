"""Parameters of wrong types are refused by their names, before any training."""

import numpy as np
import pytest
import torch

from sksmooth import LabelSmoothingClassifier, LabelSmoothingClassifierCV, make_tabular

X, Y = make_tabular(120, random_state=0)
NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("module", "criterion", "optimizer")
            for value in (3, "", None)
        ),
        *((name, value) for name in ("dataset", "iterator_train") for value in (3, "", None)),
        ("module", dict),
        ("dataset", list),
        ("optimizer", torch.optim.SGD([torch.zeros(1, requires_grad=True)])),
        ("optimizer__betas", 0.5),
        ("optimizer__eps", None),
        ("optimizer__weight_decay", "a"),
        ("optimizer__unknown", 1),
        ("module__dropout", 2),
        ("criterion__unknown", 1),
        ("iterator_train__unknown", 1),
        *((name, True) for name in ("max_epochs", "lr", "batch_size", "patience", "random_state")),
        *(
            (f"iterator_train__{name}", value)
            for name in ("shuffle", "drop_last")
            for value in (NAN, 2)
        ),
        *(
            (f"iterator_{name}__batch_size", value)
            for name in ("train", "valid")
            for value in (0, NAN)
        ),
        *(("compile", value) for value in (float("inf"), None, "no")),
        ("torch_load_kwargs", 3),
        ("class_weight", {0: "a"}),
    ],
)
def test_wrong_type_is_refused_by_its_name(name, value):
    net = LabelSmoothingClassifier(**{name: value})
    with pytest.raises((TypeError, ValueError), match=name) as refused:
        net.fit(X, Y)
    assert repr(value) in str(refused.value) or getattr(value, "__name__", "?") in str(
        refused.value
    )
    assert not hasattr(net, "module_")


@pytest.mark.parametrize("given", [None, 3, list, ("name", 3), ("name",)])
def test_what_is_no_callback_is_refused(given):
    with pytest.raises(ValueError, match="callbacks must hold") as refused:
        LabelSmoothingClassifier(callbacks=[given]).fit(X, Y)
    assert repr(given) in str(refused.value)


@pytest.mark.parametrize(
    "cv",
    [[None], {"a": 1}, [(1,)], [(1, 2)], [([0, 1], [NAN])], [(np.arange(9), [9999])]],
)
def test_what_are_no_splits_is_refused(cv):
    with pytest.raises(ValueError, match=r"cv must give pairs \(train, test\)"):
        LabelSmoothingClassifierCV(cv=cv).fit(X, Y)


def test_error_of_a_module_of_ones_own_says_what_it_was_made_with():
    class Mine(torch.nn.Module):
        def __init__(self, n_classes, depth):
            raise ValueError(f"depth {depth} is too small")

    with pytest.raises(
        ValueError, match=r"module=Mine cannot be made with module__depth=1: depth 1"
    ):
        LabelSmoothingClassifier(Mine, module__depth=1).fit(X, Y)
