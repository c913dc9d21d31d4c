"""Training steps of any torch module by autograd, for one net or a stack of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from sksmooth.engine.randomness import ForwardRandomness, OwnRandomness
from sksmooth.engine.targets import Targets, check_logits, float_logits, pooled, stacked_loss
from sksmooth.modules import input_dtype, suited_copy


class OneModule:
    """A torch module as a stack of one: called as it is, so that it may be any.

    It has the methods of :class:`StackedModules`; the optimizer is over the module's parameters.
    """

    def __init__(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, randomness: OwnRandomness
    ) -> None:
        self.module = module
        self.dtype = input_dtype(module)
        self.optimizer = optimizer
        self.randomness = ForwardRandomness(randomness)

    def begin_epoch(self) -> None:
        """Do what comes before the steps of an epoch."""
        self.randomness.begin_epoch()
        self.module.train()

    def logits(self, X: Tensor) -> Tensor:
        """Compute the logits."""
        if self.module.training:
            self.module.eval()
        with torch.no_grad():
            return pooled(float_logits(self.module(suited_copy(X[0], self.dtype))))[None]

    score = logits

    def loss_and_gradients(
        self,
        X: Tensor,
        y: Tensor,
        targets: Targets,
        sample_weight: Tensor | None = None,
        sizes: Sequence[int] | None = None,
        relative_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss on a batch, and its gradients, as skorch does."""
        self.optimizer.zero_grad()
        with torch.enable_grad():
            with self.randomness.around_forward():
                logits = float_logits(self.module(suited_copy(X[0], self.dtype)))
            check_logits(self.module, logits, targets.mass.shape[1])
            loss = stacked_loss(logits[None], y, targets, sample_weight, relative_weight)
            loss.sum().backward()
        return loss.detach()


class StackedModules:
    """The parameters of M torch modules of one architecture, and their gradients by autograd.

    Parameters
    ----------
    modules : sequence of M torch modules
        Alike but for the values of their parameters.
    randomness : OwnRandomness
        What the modules' forward draws from in training.

    Attributes
    ----------
    parameters, gradients : lists of tensors
        The parameters, stacked, in the order of ``module.parameters()``, and what
        :meth:`loss_and_gradients` writes.
    """

    def __init__(self, modules: Sequence[torch.nn.Module], randomness: OwnRandomness) -> None:
        self.dtype = input_dtype(modules[0])
        named = [dict(module.named_parameters()) for module in modules]
        self.names = list(named[0])
        self.parameters = [
            torch.stack([own[name].detach() for own in named]) for name in self.names
        ]
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.randomness = ForwardRandomness(randomness)
        # Whoever trains and whoever predicts has one of their own: its mode is a state.
        self.skeleton = copy.deepcopy(modules[0]).eval()

    def begin_epoch(self) -> None:
        """Do what comes before the steps of an epoch."""
        self.randomness.begin_epoch()
        self.skeleton.train()

    def logits(self, X: Tensor) -> Tensor:
        """Compute each net's logits, (M, n, K), of its rows, (M, n, ...)."""
        if self.skeleton.training:
            self.skeleton.eval()
        with torch.no_grad():
            return vmap(pooled)(self._forward(self.parameters, X))

    score = logits

    def loss_and_gradients(
        self,
        X: Tensor,
        y: Tensor,
        targets: Targets,
        sample_weight: Tensor | None = None,
        sizes: Sequence[int] | None = None,
        relative_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute each net's mean loss on its batch, of shape (M,), and write its gradients.

        X is of shape (M, n, ...), y and weights (M, n), the weights 0 for padding. How many rows
        are a net's own, `sizes`, matters to :class:`~sksmooth.engine.by_hand.HandNets` only.
        """
        weights = sample_weight, relative_weight
        return self.differentiate(X, lambda logits: stacked_loss(logits, y, targets, *weights))

    def differentiate(self, X: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute a loss of the logits of X, and write its gradients."""
        with torch.enable_grad():
            parameters = [parameter.requires_grad_() for parameter in self.parameters]
            with self.randomness.around_forward():
                logits = self._forward(parameters, X)
            loss = loss_of(logits)
            gradients = torch.autograd.grad(loss.sum(), parameters)
        for parameter, own, gradient in zip(
            self.parameters, self.gradients, gradients, strict=True
        ):
            parameter.requires_grad_(False)
            own.copy_(gradient)
        return loss.detach()

    def _forward(self, parameters: Sequence[Tensor], X: Tensor) -> Tensor:
        def forward(values: tuple[Tensor, ...], rows: Tensor) -> Any:
            named = dict(zip(self.names, values, strict=True))
            return float_logits(functional_call(self.skeleton, named, (rows,)))

        return vmap(forward, randomness="different")(tuple(parameters), suited_copy(X, self.dtype))
