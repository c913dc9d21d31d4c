"""How a net is trained, and why: the only chooser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import torch
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EpochTimer,
    LoadInitState,
    LRScheduler,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
    TrainEndCheckpoint,
)
from skorch.dataset import get_len
from torch import Tensor
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.data import IterableDataset

from sksmooth._batches import (
    FEW_ROWS,
    FEWEST_HELD_OUT,
    TensorBatches,
    TensorRows,
    make_batches,
    rows_in_folds,
)
from sksmooth._private import Operations, has_hooks, has_step_hooks, lacks_batching_rule
from sksmooth.encoding import Encoding
from sksmooth.engine.adam import ELEMENTWISE_OPTIMIZERS
from sksmooth.engine.by_autograd import StackedModules
from sksmooth.engine.randomness import OwnRandomness
from sksmooth.engine.targets import float_logits, is_known, pooled
from sksmooth.modules import SimpleNet, input_dtype, is_plain, suited_copy

BY_HAND = "by hand"
BY_AUTOGRAD = "by autograd"
BY_SKORCH = "by skorch"

# Layers that torch.func's vmap has no rule for: it loops over the nets, and warns of that.
_ONE_BY_ONE = (
    torch.nn.Bilinear,
    torch.nn.EmbeddingBag,
    torch.nn.MultiheadAttention,
    torch.nn.RNNCellBase,
)

_TAKES_ONE_BY_ONE = (
    "torch takes one net after the other through a stack's recurrent cells, attention, "
    "EmbeddingBag, Bilinear, parametrizations or functions of their kind"
)

# Where hooks are defined that are no user's.
_OWN_ROOMS = (
    *("sksmooth._net", "sksmooth._predict", "sksmooth.classifier", "sksmooth.classifier_cv"),
    *("skorch.classifier", "skorch.net"),
)

# Callbacks that look at a training and leave it as it is, as those of this package do.
_OBSERVERS = (Checkpoint, EpochTimer, LoadInitState, PrintLog, ProgressBar, TrainEndCheckpoint)

# Unless told otherwise, rows are scored in folds, in so many, where that pays: the most rows, since
# many can spare some, and the most numbers of a module, since others take long.
N_FOLDS = 5
MOST_ROWS_IN_FOLDS = 2_000
MOST_NUMBERS = 100_000

# By so many rows modules are compared: of columns that are mostly zero, two might not tell.
ROWS_TO_TRY = 16

# Epochs without a lower refined loss after which a net is done unless told otherwise. Those of few
# rows are few steps, in which the loss may well not fall before it does.
PATIENCE, PATIENCE_WITH_FEW_ROWS = 25, 100

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed")
_STEP_HOOKS = (
    "_step_optimizer",
    "_zero_grad_optimizer",
    "get_loss",
    "get_train_step_accumulator",
    "infer",
    "notify",
    "run_single_epoch",
    "train_step",
    "train_step_single",
    "validation_step",
)


class Plan(NamedTuple):
    """How a net is trained, and why."""

    kind: str  # BY_HAND, BY_AUTOGRAD or BY_SKORCH
    because: str


def plan(net: Any, train: Any, held_out: Any, fit_params: Mapping[str, Any]) -> Plan:
    """Choose how one net is trained, once its parts are built.

    `train` are its training batches, and `held_out` those scored after each epoch, or None;
    `fit_params` are arguments of the module's forward.
    """
    batches = [own for own in (train, held_out) if own is not None]
    reasons = {
        "a callback listens to the batches": _listens_to_batches(net),
        "the rows are not in memory": not all(isinstance(own, TensorBatches) for own in batches),
    }
    reason = _first(reasons) or _against_parts(net, fit_params)
    return Plan(BY_SKORCH, reason) if reason else plan_stack(net, train.rows.X)


def plan_stack(net: Any, X: Tensor) -> Plan:
    """Choose how nets are trained that nothing keeps from being trained in a stack.

    `net` is the first of them, with its parts, and `X` its training rows.
    """
    reason = _against_by_hand(net.module_, net.optimizer_)
    if reason is None and not _fits(net, X):
        reason = "SimpleNet is not of the data's sizes"
    return Plan(BY_AUTOGRAD, reason) if reason else Plan(BY_HAND, "SimpleNet's gradients are known")


def _first(reasons: Mapping[str, bool]) -> str | None:
    """Give the first of some reasons that holds, if any does."""
    return next((reason for reason, holds in reasons.items() if holds), None)


def _fits(net: Any, X: Tensor) -> bool:
    """Tell whether a SimpleNet is of the data's sizes."""
    module = net.module_
    return (module.n_features, module.n_classes) == (X[0].numel(), _n_classes(net))


def _n_classes(net: Any) -> int:
    return len(getattr(net, "classes_inferred_", ()))  # unknown to a bare fit_loop


def _against_parts(net: Any, fit_params: Mapping[str, Any]) -> str | None:
    """Tell what in the net's parts and parameters needs skorch's own steps."""
    parts = (net._modules, net._criteria, net._optimizers)
    if parts != (["module"], ["criterion"], ["optimizer"]):
        return "there are other parts than module, criterion and optimizer"
    reasons = {
        "a hook of skorch is overridden": replaces_steps(net),
        "arguments of forward are given": bool(fit_params),
        "compile is set": bool(net.compile),
        "the criterion is not known": not is_known(net.criterion_),
        "the optimizer may need a closure": type(net.optimizer_) not in ELEMENTWISE_OPTIMIZERS,
        "the module has lazy parameters": any(map(is_lazy, net.module_.parameters())),
        "the number of classes is not known": _n_classes(net) == 0,
        "the criterion's weight does not fit": not _weight_fits(net),
    }
    return _first(reasons)


def choose_folds(
    net: Any, rows: Any, fit_params: Mapping[str, Any], method: str, *, was_loaded: bool = False
) -> int:
    """Choose in how many folds the rows are scored, once the parts of a net are built; 0: in none.

    Parameters
    ----------
    net : LabelSmoothingClassifier
        Whose `train_split` is "auto", a number of folds, or else something.
    rows : torch Dataset
        All rows.
    fit_params : dict
        Arguments of the module's forward.
    method : {"fit", "partial_fit"}
        What is called.
    was_loaded : bool, default=False
        Whether the net has loaded parameters.

    Raises
    ------
    ValueError
        If `train_split` asks for folds that there cannot be.
    """
    split: Any = net.train_split
    is_auto = isinstance(split, str)
    if method == "partial_fit" or not (is_auto or isinstance(split, Integral)):
        return 0
    if is_auto and not (_pays(net, rows) and _uses_held_out_rows(net)):
        return 0
    n_folds = N_FOLDS if is_auto else int(split)
    seen = "its parameters were loaded, and may have seen all rows" if was_loaded else None
    reason = seen or _against_folds(net, rows, fit_params)
    if reason is None:
        counts = rows_in_folds(rows).y.bincount()  # the only row of a class is in no fold
        return n_folds if int(counts[counts > 1].sum()) >= max(n_folds, FEWEST_HELD_OUT) else 0
    if is_auto:
        return 0
    raise ValueError(
        f"train_split={split} trains {split} nets more beside this one, each on all rows but a "
        f"fold, but {reason}. Give a fraction of the rows, such as train_split={1 / split:.2g}."
    )


def _pays(net: Any, rows: Any) -> bool:
    """Tell whether nets of folds are worth their time: of few rows, in memory, and small."""
    if not isinstance(rows, TensorRows) or len(rows) > MOST_ROWS_IN_FOLDS:
        return False
    parameters = list(net.module_.parameters())
    return not any(map(is_lazy, parameters)) and sum(p.numel() for p in parameters) <= MOST_NUMBERS


def _uses_held_out_rows(net: Any) -> bool:
    return net.early_stopping or net.calibration is not None


def _against_folds(net: Any, rows: Any, fit_params: Mapping[str, Any]) -> str | None:
    """Tell what keeps nets of folds from being trained beside a net as it is trained."""
    reason = _against_parts(net, fit_params)
    if reason is not None:
        return reason
    reasons = {
        "a hook of skorch is overridden": overrides(net, "get_split_datasets", "get_iterator"),
        "a callback may change the net": any(map(_may_change_nets, net.callbacks_)),
        "warm_start is set": bool(net.warm_start),
        "the rows are not in memory": not isinstance(rows, TensorRows),
    }
    reason = _first(reasons)
    if reason is not None:
        return reason
    batches = net.get_iterator(rows, training=True)
    if not isinstance(batches, TensorBatches):
        return "an iterator of one's own is set"
    return against_stacking(net, rows_to_try(net, batches))


def choose_patience(net: Any, rows: Any) -> int | None:
    """Choose after how many epochs without a lower refined loss a net is done; None: never.

    `rows` is the dataset of all rows.
    """
    if not net.early_stopping:
        return None
    if net.patience != "auto":
        return net.patience
    is_sized = not isinstance(rows, IterableDataset)
    return PATIENCE_WITH_FEW_ROWS if is_sized and get_len(rows) <= FEW_ROWS else PATIENCE


def rows_to_try(net: Any, batches: TensorBatches) -> Tensor:
    """Give training rows that tell how a module works; fewer, if it is to see no more at once."""
    in_training = ROWS_TO_TRY if net.batch_size == "auto" else batches.batch_size
    most = min(ROWS_TO_TRY, in_training, net.rows_at_once() or ROWS_TO_TRY)
    return batches.rows.X[batches.index[:most]]


def _may_change_nets(named: tuple[str, Callback]) -> bool:
    kind = type(named[1])
    if getattr(named[1], "load_best", False):
        return True
    return kind not in _OBSERVERS and not kind.__module__.startswith("sksmooth.")


def _weight_fits(net: Any) -> bool:
    weight = getattr(net.criterion_, "weight", None)
    return weight is None or weight.shape == (_n_classes(net),)


def _listens_to_batches(net: Any) -> bool:
    """Tell whether a callback takes part in the single batches, or reads what they recorded."""
    return any(
        type(callback) is PassthroughScoring
        or getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook)
        for _, callback in net.callbacks_
        if not (type(callback) is LRScheduler and callback.step_every == "epoch")
        for hook in _BATCH_HOOKS
    )


def overrides(net: Any, *hooks: str) -> bool:
    """Tell whether a net's class, or the net itself, replaces one of skorch's hooks."""
    kind = type(net)
    return any(
        hook in net.__dict__ or getattr(kind, hook).__module__ not in _OWN_ROOMS for hook in hooks
    )


def replaces_steps(net: Any) -> bool:
    """Tell whether any of skorch's hooks around a training step is the user's own."""
    return overrides(net, *_BATCH_HOOKS, *_STEP_HOOKS)


def may_change_parts(net: Any) -> bool:
    """Tell whether callbacks or hooks of the user's may change a net's parts between epochs."""
    is_own = type(net)._default_callbacks.fget.__module__ in _OWN_ROOMS
    return bool(net.callbacks) or not is_own or overrides(net, "on_epoch_begin", "on_epoch_end")


def _against_by_hand(module: Any, optimizer: Any) -> str | None:
    """Tell what keeps a net from being trained by the steps written out here."""
    if not is_plain(module):
        return "the module is not SimpleNet as it was built"
    parameters = list(module.parameters())
    reasons = {
        "the module has hooks": any(has_hooks(part) for part in [*module.modules(), *parameters]),
        "some parameters are frozen": not all(p.requires_grad for p in parameters),
        "some parameters are not float32": any(p.dtype != torch.float32 for p in parameters),
        "the optimizer has other parameters than the module": _optimized(optimizer)
        != {id(p) for p in parameters},
        "autocast is on": torch.is_autocast_enabled(parameters[0].device.type),
    }
    return _first(reasons)


def against_company(net: Any, fit_params: Mapping[str, Any]) -> str | None:
    """Tell what in a classifier's parameters keeps it from sharing a stack with others.

    It need not be initialized; `fit_params` are arguments of its ``fit``.
    """
    if type(net).__module__ not in _OWN_ROOMS:
        return f"{type(net).__name__} is not LabelSmoothingClassifier itself"
    names = net.get_params(deep=False)
    reasons = {
        "callbacks are set": bool(net.callbacks)
        or any(name.startswith("callbacks__") for name in names),
        "compile is set": bool(net.compile),
        "warm_start is set": bool(net.warm_start),
        "a dataset is set": net.dataset is not TensorRows,
        "an iterator is set": net.iterator_train is not make_batches
        or net.iterator_valid is not make_batches
        or any(name.startswith("iterator_train__") for name in names),
        "arguments of forward are given": bool(set(fit_params) - {"sample_weight"}),
    }
    return _first(reasons)


def against_stacking(net: Any, X: Tensor) -> str | None:
    """Tell what keeps a net from being trained in a stack with others of its kind.

    `X` are some of its training rows.
    """
    module, optimizer = net.module_, net.optimizer_
    parameters = list(module.parameters())
    reasons = {
        "the module has lazy parameters": any(map(is_lazy, parameters)),
        "the criterion is not known": not is_known(net.criterion_),
        "the criterion's weight does not fit": not _weight_fits(net),
        "the optimizer may mix parameters": type(optimizer) not in ELEMENTWISE_OPTIMIZERS,
        "the optimizer has several groups of parameters": len(optimizer.param_groups) > 1,
        "the optimizer has hooks": has_step_hooks(optimizer),
        "the optimizer has other parameters than the module": _optimized(optimizer)
        != {id(p) for p in parameters},
        "some parameters are frozen": not all(p.requires_grad for p in parameters),
        "the module has buffers, such as statistics of batches": any(
            part._buffers for part in module.modules() if not isinstance(part, Encoding)
        ),
        "the module has hooks": any(has_hooks(p) for p in [*module.modules(), *parameters]),
        _TAKES_ONE_BY_ONE: any(
            isinstance(p, _ONE_BY_ONE) or is_parametrized(p) for p in module.modules()
        ),
        "torch forgets settings of an Embedding such as padding_idx in a stack": any(
            isinstance(p, torch.nn.Embedding) and "=" in p.extra_repr() for p in module.modules()
        ),
    }
    reason = _first(reasons)
    if reason is not None or (is_plain(module) and _fits(net, X)):
        return reason
    return _against_vmap(module, X, _n_classes(net))


def _against_vmap(module: torch.nn.Module, X: Tensor, n_classes: int) -> str | None:
    """Try whether two copies of a module, stacked, give what one gives: logits of each class.

    And whether they can be trained; twice, since what a step leaves behind may hinder the next.
    """
    try:
        nets = StackedModules([module, module], OwnRandomness(seed=0))
        rows = torch.stack([X, X])
        one, dtype = copy.deepcopy(module).eval(), input_dtype(module)
        with Operations() as operations, torch.enable_grad():
            logits = float_logits(one(suited_copy(X, dtype)))
            slopes = torch.autograd.grad(logits.sum(), list(one.parameters()))
        if any(map(lacks_batching_rule, operations.seen)):
            return _TAKES_ONE_BY_ONE
        with torch.no_grad():
            alone, beside_itself = pooled(logits), _logits(one, X[:1].expand_as(X), dtype)
        stacked = nets.logits(rows)
        nets.differentiate(rows, torch.sum)
        # Of the second, since torch does right by the first even where it forgets padding_idx.
        own_slopes = [gradient[1].clone() for gradient in nets.gradients]
        nets.begin_epoch()
        for _ in range(2):
            nets.differentiate(rows, torch.sum)
        after = nets.logits(rows)
    except Exception as error:  # whatever a module's forward may raise under vmap
        return f"the module cannot be stacked: {error}"
    if alone.shape != (len(X), n_classes) or not alone.is_floating_point():
        return "the module does not give a number for each class"
    if not torch.allclose(after, stacked, atol=1e-5, equal_nan=True):
        return "the module's forward changes the module"
    if not _is_same(beside_itself[0], alone[0]):  # in a stack, some rows fill up batches
        return "a row's logits depend on the rows beside it"
    if not _is_same(stacked[0], alone):
        return "the module gives something else when it is stacked"
    is_alike = all(map(_is_nearly, own_slopes, slopes))
    return None if is_alike else "the module has other gradients when it is stacked"


def against_differences(modules: Sequence[torch.nn.Module], X: Tensor) -> str | None:
    """Tell whether modules differ in more than their parameters, which is all that a stack takes.

    As where each has drawn the columns that it looks at. It calls the forward of the first. `X` are
    some training rows.
    """
    if all(map(is_plain, modules)):
        return None
    first, *others = map(copy.deepcopy, dict.fromkeys(modules))
    try:
        is_alike = all(_stands_for(first, other, X) for other in others)
    except Exception as error:  # whatever a module's forward may raise
        return f"the modules cannot be stacked: {error}"
    return None if is_alike else "the modules differ in more than their parameters"


def _stands_for(first: torch.nn.Module, other: torch.nn.Module, X: Tensor) -> bool:
    """Tell whether a module gives what another does, once it has the parameters of that one."""
    parameters = {name: own.detach() for name, own in other.named_parameters()}
    shapes = {name: own.shape for name, own in first.named_parameters()}
    if shapes != {name: own.shape for name, own in parameters.items()}:
        return False
    as_other = partial(functional_call, first, parameters)
    for is_training in (False, True):  # they may differ in how many units they drop
        first.train(is_training)
        other.train(is_training)
        given = []
        for forward in (other, as_other):
            with torch.no_grad(), OwnRandomness(seed=0):
                given.append(_logits(forward, X, input_dtype(other)))
        if not _is_same(*given):
            return False
    return True


def _is_nearly(stacked: Tensor, alone: Tensor) -> bool:
    """Tell whether gradients, sums over rows that may cancel out, are about the same."""
    if not alone.numel():
        return True
    scale = alone.abs().max().clamp(min=1)
    return torch.allclose(stacked / scale, alone / scale, rtol=0.0, atol=0.02, equal_nan=True)


def _logits(forward: Callable[[Tensor], Any], X: Tensor, dtype: torch.dtype) -> Tensor:
    return pooled(float_logits(forward(suited_copy(X, dtype))))


def _is_same(stacked: Tensor, alone: Tensor) -> bool:
    # A GPU's products, and those of autocast, are of factors with few digits.
    is_exact = alone.is_cpu and not torch.is_autocast_enabled("cpu")
    rounding = 1e-5 if is_exact else 0.02
    return stacked.shape == alone.shape and torch.allclose(
        stacked, alone, rtol=rounding, atol=rounding, equal_nan=True
    )


def draws_random_numbers(module: torch.nn.Module, X: Tensor) -> bool:
    """Tell whether a module's training draws random numbers by itself, as dropout does.

    In a stack its numbers would not be those that it draws alone. SimpleNet's dropout is drawn
    from each member's own generator. `X` are some of its training rows.
    """
    if type(module) is SimpleNet:
        return False
    with OwnRandomness(seed=0) as randomness, torch.no_grad():
        module.train()
        module(suited_copy(X, input_dtype(module)))
    return randomness.has_drawn


def _optimized(optimizer: Any) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
