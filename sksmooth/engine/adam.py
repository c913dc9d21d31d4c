"""Optimizers whose step is the same wherever the gradients come from; Adam's without overhead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any

import torch
from torch.autograd.graph import increment_version

from sksmooth._private import fused_adam, fused_adamw, has_step_hooks, in_inference_mode

# They treat every number by itself and need no closure.
ELEMENTWISE_OPTIMIZERS = (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.Adamax,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.SGD,
)


class FusedAdam:
    """The step of an Adam or AdamW optimizer, without the overhead around it.

    ``Optimizer.step`` spends more time on its bookkeeping than on parameters as few as
    SimpleNet's. The optimizer stays in charge: its state is what is updated, and its learning rate
    is read at every step. Its gradients must stay the same tensors.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self.group,) = optimizer.param_groups
        *self.tensors, self.steps = gather_state(optimizer)
        # One count for all parameters, since counting costs more than the update itself.
        self.count = self.steps[0].clone()
        self.counts = [self.count] * len(self.steps)
        # torch 2.6 has no such setting: what is decoupled there is AdamW.
        is_adamw = isinstance(optimizer, torch.optim.AdamW)
        is_decoupled = self.group.get("decoupled_weight_decay", is_adamw)
        self.update: Any = fused_adamw if is_decoupled else fused_adam

    @staticmethod
    def serves(optimizer: Any) -> bool:
        """Tell whether an optimizer is one that this steps just as it steps itself.

        That is torch's own Adam and AdamW with one group of parameters, fused, without hooks or a
        replaced ``step``, that updated all parameters equally often, and whose state has the
        parameters' shapes: the kernel does not look.
        """
        return (
            type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
            and len(optimizer.param_groups) == 1
            and bool(optimizer.param_groups[0]["fused"])
            and "step" not in vars(optimizer)  # torch's schedulers watch it
            and not has_step_hooks(optimizer)
            and len({float(state["step"]) for state in optimizer.state.values()}) <= 1
            and len(optimizer.state) in (0, len(optimizer.param_groups[0]["params"]))
            and misfit(optimizer) is None
        )

    def step(self) -> None:
        """Update the parameters by their gradients. To be called under ``torch.no_grad``."""
        group = self.group
        beta1, beta2 = group["betas"]
        self.count += 1
        self.update(
            *self.tensors,
            self.counts,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )

    def finish(self) -> None:
        """Tell the optimizer how many steps were taken; to be called before it steps itself."""
        for steps in self.steps:
            steps.copy_(self.count)
        increment_version(self.tensors[0])  # which the kernel does not do


class Updates:
    """The steps of an optimizer that needs no closure, by :class:`FusedAdam` where that serves.

    `fused` says whether the gradients stay the same tensors, as FusedAdam needs it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, fused: bool = True) -> None:
        self.adam = FusedAdam(optimizer) if fused and FusedAdam.serves(optimizer) else None
        self.step: Callable[[], Any] = optimizer.step if self.adam is None else self.adam.step

    def quickest_mode(self) -> AbstractContextManager:
        """Give torch's mode in which steps cost least.

        The state of an optimizer other than FusedAdam comes to be at its first step, which must not
        be in inference mode: autograd could not go on from there.
        """
        return torch.no_grad() if self.adam is None else in_inference_mode(True)

    def finish(self) -> None:
        """Leave the optimizer as if it had taken the steps itself."""
        if self.adam is not None:
            self.adam.finish()


def gather_state(optimizer: torch.optim.Optimizer) -> tuple[list[torch.Tensor], ...]:
    """Give what a fused Adam keeps for its one group of parameters; make it before the first step.

    That is parameters, gradients, means, mean squares, largest mean squares (with amsgrad), steps.
    """
    (group,) = optimizer.param_groups
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    largest = ("max_exp_avg_sq",) if group["amsgrad"] else ()
    for parameter in parameters:
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in ("exp_avg", "exp_avg_sq", *largest):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    kept = [optimizer.state[parameter] for parameter in parameters]
    return (
        parameters,
        [parameter.grad for parameter in parameters],
        [state["exp_avg"] for state in kept],
        [state["exp_avg_sq"] for state in kept],
        [state[name] for name in largest for state in kept],
        [state["step"] for state in kept],
    )


def restacked(
    optimizer: torch.optim.Optimizer, values: list[torch.Tensor], gradients: list[torch.Tensor]
) -> torch.optim.Optimizer:
    """Make an optimizer of the same kind and settings over other parameters, without a state yet.

    The one given has one group of parameters. `gradients` are where those of `values` are written.
    """
    (group,) = optimizer.param_groups
    kind: Any = type(optimizer)
    taken = signature(kind).parameters  # AdamW's decoupled_weight_decay is none
    settings = {name: value for name, value in group.items() if name in taken}
    del settings["params"]
    parameters = [torch.nn.Parameter(value) for value in values]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return kind(parameters, **settings)


def misfit(optimizer: Any) -> str | None:
    """Tell what of an elementwise optimizer's state has not its parameter's shape, if anything.

    Others, such as LBFGS, keep tensors of other shapes.
    """
    if type(optimizer) not in ELEMENTWISE_OPTIMIZERS:
        return None
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            is_moment = isinstance(value, torch.Tensor) and value.ndim > 0  # not a count of steps
            if is_moment and value.shape != parameter.shape:
                return (
                    f"{name} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
                )
    return None
