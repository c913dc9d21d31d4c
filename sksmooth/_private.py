"""Private names of scikit-learn and torch that are used, each with what it is needed for.

A new version of either may take them away: then this is the only room to mend. What this package's
classes redefine of the classes that they derive from, such as ``GridSearchCV._run_search``, stays
there.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from sklearn.metrics._scorer import _Scorer as Scorer  # a scorer that can be derived from
from sklearn.utils._param_validation import (  # scikit-learn's messages of wrong parameters
    HasMethods,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metadata_routing import _routing_enabled as routing_enabled
from sklearn.utils.metaestimators import _safe_split as split_rows  # pairwise kernels, too
from sklearn.utils.validation import _check_method_params as index_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as count_rows  # of lists and sparse rows, too
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils._python_dispatch import TorchDispatchMode  # random numbers of one's own

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback._callback_support import callback_management_context as managed_callbacks
except ImportError:  # scikit-learn 1.8 has none, and no estimator with callbacks
    managed_callbacks = nullcontext

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing."""


__all__ = [
    "CALLBACKS",
    "GLOBAL_HOOKS",
    "SETTINGS",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "Operations",
    "Options",
    "Scorer",
    "StrOptions",
    "TorchDispatchMode",
    "check_sample_weight",
    "complete_copy",
    "copy_all",
    "count_rows",
    "fused_adam",
    "fused_adamw",
    "has_hooks",
    "has_step_hooks",
    "in_inference_mode",
    "index_method_params",
    "is_traced",
    "lacks_batching_rule",
    "managed_callbacks",
    "n_function_modes",
    "outside_transforms",
    "own_hooks",
    "routing_enabled",
    "split_rows",
    "torch_library",
    "validate_parameter_constraints",
]

# Where scikit-learn keeps what was set on an estimator beside its parameters: callbacks first.
CALLBACKS = "_skl_callbacks"
SETTINGS = (CALLBACKS, "_metadata_request", "_sklearn_output_config")

# The kernels that torch.optim's fused Adam and AdamW call.
fused_adam: Any = torch._fused_adam_
fused_adamw: Any = torch._fused_adamw_
copy_all: Any = torch._foreach_copy_  # tensors into tensors, in one call
# torch.inference_mode, but left in C: before Python's is left Ctrl-C can come, after which the
# caller's mode would depend on when garbage is collected.
in_inference_mode: Any = torch._C._InferenceMode
n_function_modes: Any = torch._C._len_torch_function_stack  # a default device is one


def complete_copy(optimizer: Any) -> None:
    """Give a copy of LBFGS what torch leaves out of copies, without which it takes no step."""
    if isinstance(optimizer, torch.optim.LBFGS) and "_params" not in vars(optimizer):
        optimizer._params = optimizer.param_groups[0]["params"]
        optimizer._numel_cache = None


def has_step_hooks(optimizer: Any) -> bool:
    """Tell whether an optimizer's step, or every optimizer's, calls anything else."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def has_hooks(part: Any) -> bool:
    """Tell whether a module or a parameter calls anything else in its forward or backward pass.

    That is hooks, of its own or of every module, or a replaced ``forward``.
    """
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        any(getattr(part, name, None) for name in (*names, "_post_accumulate_grad_hooks"))
        or "forward" in vars(part)
        or any((_global_forward_hooks, _global_forward_pre_hooks))
        or any((_global_backward_hooks, _global_backward_pre_hooks))
    )


GLOBAL_HOOKS = [_global_forward_hooks, _global_forward_pre_hooks]


def own_hooks(part: Any) -> list[Any]:
    """Give the dicts of what a module calls before and after its forward pass."""
    return [part._forward_hooks, part._forward_pre_hooks]


class Operations(TorchDispatchMode):
    """Sees which of torch's operations are called with tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(own, torch.Tensor) for own in args):
            self.seen.add(func)
        return func(*args, **(kwargs or {}))


def lacks_batching_rule(operation: Any) -> bool:
    """Tell whether torch.func's vmap calls an operation for one net after the other, and warns."""
    keys = ("FuncTorchBatched", "CompositeImplicitAutograd")
    name, has_kernel = operation.name(), torch._C._dispatch_has_kernel_for_dispatch_key
    is_constant = name == "aten::lift_fresh"  # as an index written into forward
    return not (is_constant or any(has_kernel(name, key) for key in keys))


def is_traced(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor's values are unknown while Python runs.

    As in compiling, in a transform of ``torch.func``, and on the meta device.
    """
    if torch.compiler.is_compiling() or tensor.is_meta:
        return True
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def outside_transforms() -> Any:
    """Make a context whose tensors belong to no transform of ``torch.func``, and outlive it."""
    return nullcontext() if torch.compiler.is_compiling() else torch._C._DisableFuncTorch()


def torch_library() -> str:
    """Give the path of the library that torch's Python names come from."""
    return torch._C.__file__
