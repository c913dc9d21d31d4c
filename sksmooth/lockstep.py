"""Training steps written out by hand, for one SimpleNet or a stack of them.

A training step of a net as small as SimpleNet is overhead, not arithmetic: autograd's bookkeeping
costs several times what the products do. Here forward pass, smoothed cross-entropy and gradients
are a fixed list of tensor operations. Each works on a stack of M nets as well as on one, since the
parameters of M nets of one architecture are stacked along a first axis.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sksmooth.batches import TensorRows, rows_in_memory
from sksmooth.losses import FORMS, LabelSmoothingLoss
from sksmooth.modules import SimpleNet, is_plain, read_logits
from sksmooth.smoothing import smoothing_matrix

_aten = torch.ops.aten

# SELU is a scaled ELU.
_SELU = (1.6732632423543772, 1.0507009873554805, 1)

# SimpleNet's activations, from the input z to the output h, which is written to `out`.
_FORWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda z, out: torch.clamp_min(z, 0, out=out),
    "tanh": lambda z, out: torch.tanh(z, out=out),
    "sigmoid": lambda z, out: torch.sigmoid(z, out=out),
    "silu": lambda z, out: _aten.silu.out(z, out=out),
    "gelu": lambda z, out: _aten.gelu.out(z, out=out),
    "selu": lambda z, out: _aten.elu.out(z, *_SELU, out=out),
    "elu": lambda z, out: _aten.elu.out(z, out=out),
    "leaky_relu": lambda z, out: _aten.leaky_relu.out(z, 0.01, out=out),
    "identity": lambda z, out: z,
}

# From the gradient g of the output h to that of the input z, which takes its place.
_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "relu": lambda g, z, h: _aten.threshold_backward.grad_input(g, h, 0, grad_input=g),
    "tanh": lambda g, z, h: _aten.tanh_backward.grad_input(g, h, grad_input=g),
    "sigmoid": lambda g, z, h: _aten.sigmoid_backward.grad_input(g, h, grad_input=g),
    "silu": lambda g, z, h: _aten.silu_backward.grad_input(g, z, grad_input=g),
    "gelu": lambda g, z, h: _aten.gelu_backward.grad_input(g, z, grad_input=g),
    "selu": lambda g, z, h: _aten.elu_backward.grad_input(g, *_SELU, False, z, grad_input=g),
    "elu": lambda g, z, h: _aten.elu_backward.grad_input(g, 1, 1, 1, False, z, grad_input=g),
    "leaky_relu": lambda g, z, h: _aten.leaky_relu_backward.grad_input(
        g, z, 0.01, False, grad_input=g
    ),
    "identity": lambda g, z, h: g,
}

# Those whose gradient needs their output only, so that it may take the place of the input.
_IN_PLACE = ("relu", "tanh", "sigmoid", "identity")


class Targets(NamedTuple):
    """What the smoothed cross-entropy of M nets with K classes needs to know of a label.

    Parameters
    ----------
    mass : tensor of shape (M, K, K)
        The target distributions, times the class weights: column y is that of class y.
    total : tensor of shape (M, K) or None
        The sums of those columns; None where all are one.
    constant : tensor of shape (M, K) or None
        What the loss has beyond the cross-entropy, for the KL form; None for 0.
    weight : tensor of shape (M, K) or None
        The class weights, by which the mean divides; None for 1.
    """

    mass: Tensor
    total: Tensor | None
    constant: Tensor | None
    weight: Tensor | None

    @classmethod
    def of(cls, criteria: Sequence[torch.nn.Module], n_classes: int, like: Tensor) -> Targets:
        """Read the tables from the nets' criteria, each of a kind that :func:`is_known` knows.

        Parameters
        ----------
        criteria : sequence of M criteria
            :class:`~sksmooth.losses.LabelSmoothingLoss` or ``torch.nn.CrossEntropyLoss``.
        n_classes : int
            K.
        like : tensor
            Gives dtype and device.

        Returns
        -------
        Targets
            The tables.
        """
        matrices, constants, weights = [], [], []
        for criterion in criteria:
            loss: Any = criterion
            matrix = torch.as_tensor(
                smoothing_matrix(
                    loss.label_smoothing,
                    n_classes,
                    getattr(loss, "smoothing", "uniform"),
                    getattr(loss, "class_prior", None),
                )
            ).to(like)
            weight = torch.ones(n_classes).to(like) if loss.weight is None else loss.weight.to(like)
            is_kl = getattr(loss, "form", "cross_entropy") == "kl"
            constants.append((weight * torch.xlogy(matrix, matrix)).sum(1) * is_kl)
            matrices.append((matrix * weight).T)
            weights.append(weight)
        mass, constant, weight = map(torch.stack, (matrices, constants, weights))
        is_weighted = bool((weight != 1).any())
        return cls(
            mass,
            mass.sum(1) if is_weighted else None,
            constant if constant.any() else None,
            weight if is_weighted else None,
        )

    def mass_of(self, y: Tensor) -> Tensor:
        """Give the target distributions of rows.

        Parameters
        ----------
        y : tensor of shape (M, n), int64
            Class indices.

        Returns
        -------
        tensor of shape (M, K, n)
            The distributions, times the class weights.
        """
        return self.mass.gather(2, y.unsqueeze(1).expand(-1, self.mass.shape[1], -1))


def is_known(criterion: Any) -> bool:
    """Tell whether a criterion's gradient is written out here.

    Parameters
    ----------
    criterion : torch criterion
        Any.

    Returns
    -------
    bool
        True for the mean LabelSmoothingLoss and CrossEntropyLoss themselves, not for subclasses.

    Examples
    --------
    >>> import torch
    >>> is_known(torch.nn.CrossEntropyLoss()), is_known(torch.nn.NLLLoss())
    (True, False)
    """
    if type(criterion) is torch.nn.CrossEntropyLoss:
        is_plain = criterion.ignore_index < 0 and criterion.label_smoothing < 1
    else:
        is_plain = type(criterion) is LabelSmoothingLoss and criterion.form in FORMS
    return is_plain and criterion.reduction == "mean"


class _Memory(NamedTuple):
    """Where to write what is computed of a batch: of each hidden layer, unless said.

    Memory asked for anew at every step takes as long as the products themselves, and what small
    tensors between leave of it is soon too small.

    Parameters
    ----------
    inputs : list of tensors of shape (M, n, width)
        Of the activation.
    outputs : list of tensors of that shape
        Of the activation; the same as the inputs where those are not needed any more.
    masks, kept : lists of tensors of that shape
        What dropout multiplies by, and what that gives; empty without dropout.
    logits : tensor of shape (M, K, n)
        The logits.
    gradients : list of tensors of shape (M, n, width)
        Of each layer's input, the first one's left out.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    masks: list[Tensor]
    kept: list[Tensor]
    logits: Tensor
    gradients: list[Tensor]


# A product whose rows are shorter than a vector register leaves much of it idle: the float32s of
# the longest.
VECTOR_LENGTH = 16


class StackedNets:
    """The parameters of M SimpleNets of one architecture, and their gradients.

    Parameters
    ----------
    weights : sequence of tensors of shape (M, out, in)
        Each layer's weights.
    biases : sequence of tensors of shape (M, 1, out)
        Each layer's biases.
    activation : str
        One of SimpleNet's.
    dropout : float, default=0.0
        The share of hidden activations set to zero in training.
    generators : sequence of M torch.Generator, default=None
        From which each net's dropout is drawn; nets that share one get the same. None: torch's
        global one, for a single net.

    Attributes
    ----------
    parameters, gradients : lists of tensors
        Weights and biases in the order of ``SimpleNet.parameters()``, and what
        :meth:`loss_and_gradients` writes.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: str,
        dropout: float = 0.0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> None:
        self.weights = list(weights)
        self.biases = list(biases)
        transposed = [weight.transpose(1, 2) for weight in weights]
        self.layers = list(zip(transposed, self.biases, strict=True))
        self.weight_gradients = [torch.zeros_like(weight) for weight in weights]
        self.bias_gradients = [torch.zeros_like(bias) for bias in biases]
        self.parameters = _interleave(self.weights, self.biases)
        self.gradients = _interleave(self.weight_gradients, self.bias_gradients)
        self.activation = activation
        self.dropout = dropout
        self.generators = generators
        self._memories: dict[int, _Memory] = {}  # of training steps, by their number of rows
        self._scored: dict[int, list[Tensor]] = {}  # of `logits`, likewise

    @classmethod
    def around(cls, net: SimpleNet) -> StackedNets:
        """Make a stack of one net, which shares its memory: parameters and gradients are views.

        Parameters
        ----------
        net : SimpleNet
            The net. Its parameters' ``grad`` is replaced.

        Returns
        -------
        StackedNets
            The net as a stack with M = 1.
        """
        layers: list[Any] = list(net.layers)
        stack = cls(
            [layer.weight.detach().unsqueeze(0) for layer in layers],
            [layer.bias.detach().view(1, 1, -1) for layer in layers],
            net.activation,
            net.dropout,
        )
        gradients = zip(stack.weight_gradients, stack.bias_gradients, strict=True)
        for layer, (weight, bias) in zip(layers, gradients, strict=True):
            layer.weight.grad, layer.bias.grad = weight[0], bias[0, 0]
        return stack

    @classmethod
    def of(
        cls, nets: Sequence[SimpleNet], generators: Sequence[torch.Generator] | None = None
    ) -> StackedNets:
        """Stack copies of the parameters of several nets of one architecture.

        Parameters
        ----------
        nets : sequence of M SimpleNets
            The nets.
        generators : sequence of M torch.Generator, default=None
            From which each net's dropout is drawn.

        Returns
        -------
        StackedNets
            The stack.
        """
        layers: list[Any] = list(zip(*(net.layers for net in nets), strict=True))
        return cls(
            [torch.stack([layer.weight.detach() for layer in same]) for same in layers],
            [torch.stack([layer.bias.detach()[None] for layer in same]) for same in layers],
            nets[0].activation,
            nets[0].dropout,
            generators,
        )

    def logits(self, X: Tensor) -> Tensor:
        """Compute the logits, without dropout.

        Parameters
        ----------
        X : tensor of shape (M, n, n_features)
            Each net's rows.

        Returns
        -------
        tensor of shape (M, n, n_classes)
            Each net's logits.
        """
        activate = _FORWARD[self.activation]
        n_rows = X.shape[1]
        if n_rows not in self._scored:
            self._scored[n_rows] = self._hidden_layers(n_rows, like=X)
        for (weight, bias), out in zip(self.layers[:-1], self._scored[n_rows], strict=True):
            z = torch.baddbmm(bias, X, weight, out=out)
            X = activate(z, z)
        return self._output_layer(X).transpose(1, 2)

    def _output_layer(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """Give the logits in the shape (M, K, n).

        A softmax over the last axis takes ten times as long where classes are few.
        """
        weight, bias = self.weights[-1], self.biases[-1]
        return torch.baddbmm(bias.transpose(1, 2), weight, h.transpose(1, 2), out=out)

    def loss_and_gradients(
        self,
        X: Tensor,
        y: Tensor,
        targets: Targets,
        sample_weight: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """Compute each net's loss on its batch, and write its gradients.

        Parameters
        ----------
        X : tensor of shape (M, n, n_features)
            Each net's rows.
        y : tensor of shape (M, n), int64
            Class indices.
        targets : Targets
            The smoothed labels.
        sample_weight : tensor of shape (M, n), default=None
            Weights of the rows; 0 for padding.
        sizes : tensor of shape (M,), int64, default=None
            How many of its rows, which come first, are a net's own; the others, padding, are left
            out of its draws. None: all of them.

        Returns
        -------
        tensor of shape (M,)
            The mean losses.

        Notes
        -----
        With p = softmax(logits), mass q and its sum t, the gradient of a row's loss by its logits
        is t p - q. To be called under ``torch.no_grad``.
        """
        activate, backward = _FORWARD[self.activation], _BACKWARD[self.activation]
        memory = self._memory(y.shape[1], like=X)
        inputs = [X]
        for number, (weight, bias) in enumerate(self.layers[:-1]):
            z = torch.baddbmm(bias, inputs[-1], weight, out=memory.inputs[number])
            h = activate(z, memory.outputs[number])
            if self.dropout:
                mask = self._draw_mask(memory.masks[number], sizes)
                h = torch.mul(h, mask, out=memory.kept[number])
            inputs.append(h)
        log_p = torch.log_softmax(self._output_layer(inputs[-1], memory.logits), dim=1)

        mass = targets.mass_of(y)
        share = _shares(y, targets, sample_weight)
        loss = _mean_loss(log_p, mass, y, targets, share)

        gradient = log_p.exp_()
        if targets.total is not None:
            gradient *= targets.total.gather(1, y).unsqueeze(1)
        gradient -= mass
        gradient *= 1 / y.shape[1] if share is None else share.unsqueeze(1)
        gradient = gradient.transpose(1, 2)
        for layer in reversed(range(len(self.weights))):
            self._write_gradients(layer, inputs[layer], gradient)
            if layer:
                hidden = layer - 1
                gradient = torch.bmm(gradient, self.weights[layer], out=memory.gradients[hidden])
                if self.dropout:
                    gradient *= memory.masks[hidden]
                gradient = backward(gradient, memory.inputs[hidden], memory.outputs[hidden])
        return loss

    def _write_gradients(self, layer: int, h: Tensor, gradient: Tensor) -> None:
        """Write a layer's gradients, from its input and the gradient of its output."""
        weight_gradient = self.weight_gradients[layer]
        _, n_out, n_in = weight_gradient.shape
        if n_in < min(n_out, VECTOR_LENGTH):
            weight_gradient.copy_(torch.bmm(h.transpose(1, 2), gradient).transpose(1, 2))
        else:
            torch.bmm(gradient.transpose(1, 2), h, out=weight_gradient)
        torch.sum(gradient, 1, keepdim=True, out=self.bias_gradients[layer])

    def _memory(self, n_rows: int, like: Tensor) -> _Memory:
        """Give the memory for batches of some number of rows."""
        if n_rows not in self._memories:
            hidden = partial(self._hidden_layers, n_rows, like)
            inputs = hidden()
            n_nets, n_classes, _ = self.weights[-1].shape
            with torch.inference_mode(False):
                logits = like.new_empty(n_nets, n_classes, n_rows)
            self._memories[n_rows] = _Memory(
                inputs,
                outputs=inputs if self.activation in _IN_PLACE else hidden(),
                masks=hidden() if self.dropout else [],
                kept=hidden() if self.dropout else [],
                logits=logits,
                gradients=hidden(),
            )
        return self._memories[n_rows]

    def _hidden_layers(self, n_rows: int, like: Tensor) -> list[Tensor]:
        """Make tensors of the shapes of the hidden layers' outputs."""
        with torch.inference_mode(False):  # so that they serve in every mode
            return [like.new_empty(len(w), n_rows, w.shape[1]) for w in self.weights[:-1]]

    def _draw_mask(self, mask: Tensor, sizes: Tensor | None) -> Tensor:
        """Draw which activations stay, scaled so that their mean stays, as F.dropout does."""
        keep = 1 - self.dropout
        if self.generators is None:
            return mask.bernoulli_(keep).div_(keep)
        n_rows = [mask.shape[1]] * len(mask) if sizes is None else sizes.tolist()
        drawn: dict[torch.Generator, Tensor] = {}
        for own, generator, n_own in zip(mask, self.generators, n_rows, strict=True):
            if generator in drawn:
                own[:n_own] = drawn[generator]
            else:
                drawn[generator] = own[:n_own].bernoulli_(keep, generator=generator)
            if n_own < len(own):
                own[n_own:] = 0
        return mask.div_(keep)


def stacked_loss(
    logits: Tensor, y: Tensor, targets: Targets, sample_weight: Tensor | None = None
) -> Tensor:
    """Compute the mean smoothed loss of each net of a stack.

    Parameters
    ----------
    logits : tensor of shape (M, n, K)
        The nets' logits.
    y : tensor of shape (M, n), int64
        Class indices.
    targets : Targets
        The smoothed labels.
    sample_weight : tensor of shape (M, n), default=None
        Weights of the rows; 0 for padding.

    Returns
    -------
    tensor of shape (M,)
        The losses.
    """
    log_p = torch.log_softmax(logits.transpose(1, 2), dim=1)
    share = _shares(y, targets, sample_weight)
    return _mean_loss(log_p, targets.mass_of(y), y, targets, share)


def _mean_loss(
    log_p: Tensor, mass: Tensor, y: Tensor, targets: Targets, share: Tensor | None
) -> Tensor:
    if share is None and targets.constant is None:
        return (mass * log_p).sum((1, 2)) * (-1 / y.shape[1])
    losses = -(mass * log_p).sum(1)
    if targets.constant is not None:
        losses = losses + targets.constant.gather(1, y)
    return losses.mean(-1) if share is None else (losses * share).sum(-1)


def _interleave(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for layer in zip(weights, biases, strict=True) for tensor in layer]


def _shares(y: Tensor, targets: Targets, sample_weight: Tensor | None) -> Tensor | None:
    """Give each row's share in its net's mean loss; None where all have the same."""
    if targets.weight is None and sample_weight is None:
        return None
    divisor = sample_weight
    if targets.weight is not None:
        weight = targets.weight.gather(1, y)
        divisor = weight if sample_weight is None else weight * sample_weight
    assert divisor is not None
    total = divisor.sum(-1, keepdim=True)
    return (torch.ones_like(divisor) if sample_weight is None else sample_weight) / total


class FusedAdam:
    """The step of an Adam or AdamW optimizer, without the overhead around it.

    ``Optimizer.step`` spends more time on its bookkeeping than on parameters as few as
    SimpleNet's. The optimizer stays in charge: its state is what is updated, and its learning rate
    is read at every step.

    Parameters
    ----------
    optimizer : torch.optim.Adam or torch.optim.AdamW
        With one group of parameters, ``fused=True``, and gradients that stay the same tensors.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self.group,) = optimizer.param_groups
        gathered: Any = ([], [], [], [], [], [])  # parameters, gradients, their moments, steps
        optimizer._init_group(self.group, *gathered)  # type: ignore[attr-defined]
        *self.tensors, self.steps = gathered
        # One count for all parameters, since counting costs more than the update itself.
        self.count = self.steps[0].clone()
        self.counts = [self.count] * len(self.steps)
        is_decoupled = self.group["decoupled_weight_decay"]
        self.update: Any = torch._fused_adamw_ if is_decoupled else torch._fused_adam_

    @staticmethod
    def serves(optimizer: Any) -> bool:
        """Tell whether an optimizer is one that this steps just as it steps itself.

        Parameters
        ----------
        optimizer : torch optimizer
            Any.

        Returns
        -------
        bool
            True for torch's own Adam and AdamW with one group of parameters, fused, without hooks
            or a replaced ``step``, that updated all parameters equally often.
        """
        return (
            type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
            and len(optimizer.param_groups) == 1
            and bool(optimizer.param_groups[0]["fused"])
            and "step" not in vars(optimizer)  # torch's schedulers watch it
            and not _has_step_hooks(optimizer)
            and len({float(state["step"]) for state in optimizer.state.values()}) <= 1
            and len(optimizer.state) in (0, len(optimizer.param_groups[0]["params"]))
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


def quickest_mode(adam: FusedAdam | None) -> AbstractContextManager:
    """Give torch's mode in which steps cost least.

    Parameters
    ----------
    adam : FusedAdam or None
        Its state is there already. That of another optimizer comes to be at its first step, which
        must not be in inference mode: autograd could not go on from there.

    Returns
    -------
    context manager
        ``torch.inference_mode()`` or ``torch.no_grad()``.
    """
    return torch.no_grad() if adam is None else torch.inference_mode()


# Optimizers that treat every parameter by itself and need no closure: their step is the same
# whether the gradients come from autograd or from here.
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


class FusedTraining:
    """Trains one SimpleNet by the gradients written out here.

    Parameters
    ----------
    net : SimpleNet
        The net; its parameters are updated in place.
    criterion : torch criterion
        One that :func:`is_known` knows.
    optimizer : torch optimizer
        Over the net's parameters, one of ELEMENTWISE_OPTIMIZERS.

    Examples
    --------
    >>> import torch
    >>> from sksmooth import LabelSmoothingLoss, SimpleNet
    >>> X, y = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
    >>> net = SimpleNet(n_features=3, n_classes=3)
    >>> optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
    >>> training = FusedTraining(net, LabelSmoothingLoss(), optimizer)
    >>> with torch.no_grad():
    ...     losses = [float(training.step(X, y)) for _ in range(50)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self, net: SimpleNet, criterion: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self.parameters: list[Tensor] = list(net.parameters())
        self.stack = StackedNets.around(net)
        self.targets = Targets.of([criterion], net.n_classes, like=self.stack.weights[0])
        self.adam = FusedAdam(optimizer) if FusedAdam.serves(optimizer) else None
        self.update: Callable = optimizer.step if self.adam is None else self.adam.step

    @staticmethod
    def serves(net: Any, criterion: Any, optimizer: Any) -> bool:
        """Tell whether these three can be trained so, with the same result as by autograd.

        Parameters
        ----------
        net, criterion, optimizer : objects
            Any.

        Returns
        -------
        bool
            False for any other module than SimpleNet itself with its own layers, for modules and
            parameters with hooks, frozen parameters, criteria and optimizers that are not known,
            and in autocast.
        """
        if not is_plain(net) or not is_known(criterion):
            return False
        if criterion.weight is not None and criterion.weight.shape != (net.n_classes,):
            return False  # the criterion says what is wrong
        parameters = list(net.parameters())
        optimized = [p for group in optimizer.param_groups for p in group["params"]]
        return (
            type(optimizer) in ELEMENTWISE_OPTIMIZERS
            and {id(p) for p in optimized} == {id(p) for p in parameters}
            and all(p.requires_grad and p.dtype == torch.float32 for p in parameters)
            and not any(_has_hooks(part) for part in [*net.modules(), *parameters, criterion])
            and not torch.is_autocast_enabled(parameters[0].device.type)
        )

    def step(self, X: Tensor, y: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Train on one batch. To be called under ``torch.no_grad``.

        Parameters
        ----------
        X : tensor of shape (n, n_features) or (n, ...)
            Inputs.
        y : tensor of shape (n,), int64
            Class indices.
        sample_weight : tensor of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        tensor of shape ()
            The mean loss, before the step.
        """
        n_rows = len(y)
        weight = None if sample_weight is None else sample_weight.view(1, n_rows)
        loss = self.stack.loss_and_gradients(
            X.view(1, n_rows, -1), y.view(1, n_rows), self.targets, weight
        )
        self.update()
        return loss.view(())

    def score(
        self, X: Tensor, y: Tensor, sample_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute logits and loss, without training. To be called under ``torch.no_grad``.

        Parameters
        ----------
        X : tensor of shape (n, n_features) or (n, ...)
            Inputs.
        y : tensor of shape (n,), int64
            Class indices.
        sample_weight : tensor of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        logits : tensor of shape (n, n_classes)
            The net's logits.
        loss : tensor of shape ()
            The mean loss.
        """
        logits = self.stack.logits(X.flatten(1).unsqueeze(0))
        weight = None if sample_weight is None else sample_weight.unsqueeze(0)
        loss = stacked_loss(logits, y.unsqueeze(0), self.targets, weight)
        return logits[0], loss[0]

    def finish(self) -> None:
        """Leave the optimizer as if it had taken the steps itself."""
        if self.adam is not None:
            self.adam.finish()


def _has_hooks(part: Any) -> bool:
    """Tell whether a module or a parameter calls anything else in its forward or backward pass."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        any(getattr(part, name, None) for name in (*names, "_post_accumulate_grad_hooks"))
        or "forward" in vars(part)
        or bool(torch.nn.modules.module._has_any_global_hook())
    )


def _has_step_hooks(optimizer: Any) -> bool:
    """Tell whether an optimizer's step, or every optimizer's, calls anything else."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


class StackedModules:
    """The parameters of M torch modules of one architecture, and their gradients by autograd.

    Parameters
    ----------
    modules : sequence of M torch modules
        Alike but for the values of their parameters, and without buffers.

    Attributes
    ----------
    parameters, gradients : lists of tensors
        The parameters, stacked, in the order of ``module.parameters()``, and what
        :meth:`loss_and_gradients` writes.
    """

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        named = [dict(module.named_parameters()) for module in modules]
        self.names = list(named[0])
        self.parameters = [
            torch.stack([own[name].detach() for own in named]) for name in self.names
        ]
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.skeleton = copy.deepcopy(modules[0]).to("meta")

    def logits(self, X: Tensor) -> Tensor:
        """Compute the logits, without dropout.

        Parameters
        ----------
        X : tensor of shape (M, n, ...)
            Each net's rows.

        Returns
        -------
        tensor of shape (M, n, n_classes)
            Each net's logits.
        """
        self.skeleton.eval()
        with torch.no_grad():
            return self._forward(self.parameters, X)

    def loss_and_gradients(
        self,
        X: Tensor,
        y: Tensor,
        targets: Targets,
        sample_weight: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """Compute each net's loss on its batch, and write its gradients.

        Parameters
        ----------
        X : tensor of shape (M, n, ...)
            Each net's rows.
        y : tensor of shape (M, n), int64
            Class indices.
        targets : Targets
            The smoothed labels.
        sample_weight : tensor of shape (M, n), default=None
            Weights of the rows; 0 for padding.
        sizes : tensor of shape (M,), int64, default=None
            How many rows are a net's own; not used.

        Returns
        -------
        tensor of shape (M,)
            The mean losses.
        """
        self.skeleton.train()
        with torch.enable_grad():
            parameters = [parameter.requires_grad_() for parameter in self.parameters]
            loss = stacked_loss(self._forward(parameters, X), y, targets, sample_weight)
            gradients = torch.autograd.grad(loss.sum(), parameters)
        for parameter, own, gradient in zip(
            self.parameters, self.gradients, gradients, strict=True
        ):
            parameter.requires_grad_(False)
            own.copy_(gradient)
        return loss.detach()

    def _forward(self, parameters: Sequence[Tensor], X: Tensor) -> Tensor:
        def forward(values: tuple[Tensor, ...], rows: Tensor) -> Tensor:
            named = dict(zip(self.names, values, strict=True))
            return read_logits(functional_call(self.skeleton, named, (rows,)))

        return vmap(forward, randomness="different")(tuple(parameters), X)


class Part(NamedTuple):
    """Some of the rows of a table.

    Parameters
    ----------
    rows : TensorRows
        The table; several parts may share it.
    chosen : tensor of int64
        Which rows.
    """

    rows: TensorRows
    chosen: Tensor

    @classmethod
    def of(cls, dataset: Any) -> Part:
        """See a dataset as part of a table.

        Parameters
        ----------
        dataset : TensorRows, or Subset (of a Subset ...) of such
            The dataset.

        Returns
        -------
        Part
            The same rows.
        """
        rows, chosen = rows_in_memory(dataset)
        if rows is None:
            raise TypeError(f"dataset must be TensorRows or a Subset of such, got {dataset!r}.")
        if chosen is None:
            chosen = torch.arange(len(rows), device=rows.X.device)
        return cls(rows, chosen)


class Member(NamedTuple):
    """One net of those that are trained in lockstep.

    Parameters
    ----------
    module : torch module
        The net, with its initial parameters.
    criterion : torch criterion
        One that :func:`is_known` knows.
    train : Part
        The rows to train on.
    held_out : Part or None
        The rows held out.
    generator : torch.Generator
        Draws the order of the rows and the dropout.
    """

    module: torch.nn.Module
    criterion: torch.nn.Module
    train: Part
    held_out: Part | None
    generator: torch.Generator

    @classmethod
    def of(
        cls,
        module: torch.nn.Module,
        criterion: torch.nn.Module,
        train: Any,
        held_out: Any,
        generator: torch.Generator,
    ) -> Member:
        """Make a member from datasets: TensorRows, or Subsets of such."""
        held_out = None if held_out is None else Part.of(held_out)
        return cls(module, criterion, Part.of(train), held_out, generator)


class Epoch(NamedTuple):
    """What an epoch of training in lockstep leaves behind.

    Parameters
    ----------
    losses : tensor of shape (M, n_batches)
        The mean loss of each batch.
    weights : tensor of shape (M, n_batches)
        What each batch weighs.
    sizes : tensor of shape (M, n_batches), int64
        The rows of each batch.
    """

    losses: Tensor
    weights: Tensor
    sizes: Tensor

    def mean_losses(self) -> Tensor:
        """Give each member's mean loss, float64 of shape (M,)."""
        weights = self.weights.double()
        return (self.losses.double() * weights).sum(1) / weights.sum(1)


def reason_against_stacking(module: Any, criterion: Any, optimizer: Any, train: Part) -> str | None:
    """Tell what keeps a net from being trained in a stack with others of its kind.

    Parameters
    ----------
    module, criterion, optimizer : objects
        Its parts.
    train : Part
        Its training rows.

    Returns
    -------
    str or None
        The reason; None where there is none.

    Examples
    --------
    >>> import torch
    >>> from sksmooth import LabelSmoothingLoss
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    >>> optimizer = torch.optim.AdamW(net.parameters())
    >>> rows = TensorRows(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    >>> reason_against_stacking(net, LabelSmoothingLoss(), optimizer, Part.of(rows))
    'the module has buffers, such as statistics of batches'
    """
    parameters = list(module.parameters())
    optimized = [p for group in optimizer.param_groups for p in group["params"]]
    reasons = {
        "the criterion is not known": not is_known(criterion),
        "the optimizer may mix parameters": type(optimizer) not in ELEMENTWISE_OPTIMIZERS,
        "the optimizer has several groups of parameters": len(optimizer.param_groups) > 1,
        "the optimizer has hooks": _has_step_hooks(optimizer),
        "the optimizer has other parameters than the module": {id(p) for p in optimized}
        != {id(p) for p in parameters},
        "some parameters are frozen": not all(p.requires_grad for p in parameters),
        "the module has buffers, such as statistics of batches": any(
            True for _ in module.buffers()
        ),
        "the module has hooks": any(_has_hooks(p) for p in [*module.modules(), *parameters]),
        "the module is not on the CPU": any(p.device.type != "cpu" for p in parameters),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is None and type(module) is not SimpleNet:
        reason = _reason_against_vmap(module, train)
    return reason


def _reason_against_vmap(module: torch.nn.Module, train: Part) -> str | None:
    """Try whether two copies of a module, stacked, give what one gives."""
    X = train.rows.X[train.chosen[:2]]
    try:
        stacked = StackedModules([module, module]).logits(torch.stack([X, X]))
        module.eval()
        with torch.no_grad():
            alone = read_logits(module(X))
    except Exception as error:  # whatever a module's forward may raise under vmap
        return f"the module cannot be stacked: {error}"
    same = stacked.shape[1:] == alone.shape and torch.allclose(stacked[0], alone, atol=1e-5)
    return None if same else "the module gives something else when it is stacked"


class Lockstep:
    """Trains M nets of one architecture at once.

    Each member has its own rows, its own smoothing and its own randomness, and becomes what it
    would have become alone. They have in common: the architecture, the optimizer, the size of the
    batches and, since one step is taken for all, the number of batches in an epoch.

    Parameters
    ----------
    members : sequence of M Members
        The nets.
    optimizer : torch optimizer
        One of ELEMENTWISE_OPTIMIZERS with one group of parameters, whose settings all members use.
    batch_size : int
        Rows of a batch.
    n_classes : int
        K.

    Attributes
    ----------
    stack : StackedNets or StackedModules
        The parameters.
    """

    def __init__(
        self,
        members: Sequence[Member],
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        n_classes: int,
    ) -> None:
        self.members = members
        self.batch_size = batch_size
        self.n_classes = n_classes
        train = [member.train for member in members]
        held_out = [member.held_out for member in members if member.held_out is not None]
        table = _Table([part.rows for part in train + held_out])
        self.X, self.y, self.weight = table.X, table.y, table.weight
        self.train, self.is_row = _pad([table.index(part) for part in train])
        self.n_rows = [len(part.chosen) for part in train]
        self.sizes = self._sizes_of_batches()
        self.held_out: Tensor | None = None
        self.held_out_weight: Tensor | None = None
        if held_out:
            self.held_out, is_row = _pad([table.index(part) for part in held_out])
            self.held_out_weight = self._weight_of(self.held_out, is_row)
        self.generators = _one_of_each(members)
        self.stack: Any
        if all(type(member.module) is SimpleNet for member in members):
            self.X = self.X.flatten(1)
            nets: list[Any] = [member.module for member in members]
            self.stack = StackedNets.of(nets, self.generators)
        else:
            self.stack = StackedModules([member.module for member in members])
        criteria = [member.criterion for member in members]
        self.targets = Targets.of(criteria, n_classes, like=self.stack.parameters[0])
        self.optimizer = self._stack_optimizer(optimizer)
        self.adam = FusedAdam(self.optimizer) if FusedAdam.serves(self.optimizer) else None
        self.update: Callable = self.optimizer.step if self.adam is None else self.adam.step

    def _stack_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Make an optimizer of the same kind and settings over the stacked parameters."""
        (group,) = optimizer.param_groups
        settings = {name: value for name, value in group.items() if name in optimizer.defaults}
        parameters = [torch.nn.Parameter(parameter) for parameter in self.stack.parameters]
        for parameter, gradient in zip(parameters, self.stack.gradients, strict=True):
            parameter.grad = gradient
        kind: Any = type(optimizer)
        settings.pop("decoupled_weight_decay", None)
        return kind(parameters, **settings)

    def _sizes_of_batches(self) -> Tensor:
        """Give how many of each member's rows are in each batch, (M, n_batches)."""
        starts = torch.arange(0, max(self.n_rows), self.batch_size)
        return (torch.tensor(self.n_rows)[:, None] - starts).clamp(0, self.batch_size)

    def _weight_of(self, index: Tensor, is_row: Tensor | None) -> Tensor | None:
        """Give the weights of rows, 0 for padding; None where all weigh alike."""
        if self.weight is None:
            return None if is_row is None else is_row.to(self.X.dtype)
        weight = _take(self.weight, index)
        return weight if is_row is None else weight * is_row

    def run_epoch(self) -> Epoch:
        """Train every net by one pass over its rows.

        Returns
        -------
        Epoch
            The losses.
        """
        with quickest_mode(self.adam if isinstance(self.stack, StackedNets) else None):
            return self._run_epoch()

    def _run_epoch(self) -> Epoch:
        order = self._shuffled()
        losses, weights = [], []
        at_once = self._batches_at_once() * self.batch_size
        sizes = iter(self.sizes.unbind(1))
        for start in range(0, order.shape[1], at_once):
            index = order[:, start : start + at_once]
            is_row = None if self.is_row is None else self.is_row[:, start : start + at_once]
            weight = self._weight_of(index, None if is_row is None or is_row.all() else is_row)
            batches = zip(
                _take(self.X, index).split(self.batch_size, 1),
                _take(self.y, index).split(self.batch_size, 1),
                repeat(None) if weight is None else weight.split(self.batch_size, 1),
                sizes,
                strict=False,
            )
            for X, y, batch_weight, size in batches:
                losses.append(self.stack.loss_and_gradients(X, y, self.targets, batch_weight, size))
                self.update()
                weights.append(size if batch_weight is None else batch_weight.sum(1))
        return Epoch(torch.stack(losses, 1), torch.stack(weights, 1), self.sizes)

    def _shuffled(self) -> Tensor:
        """Give each member's rows in the order of its next epoch; padding stays at the end."""
        longest = self.train.shape[1]
        if longest <= self.batch_size:
            return self.train
        n_rows_of = dict(zip(self.generators, self.n_rows, strict=True))
        orders = {}
        for generator, n_rows in n_rows_of.items():
            order = torch.randperm(n_rows, generator=generator)
            if n_rows < longest:
                order = torch.cat([order, torch.arange(n_rows, longest)])
            orders[generator] = order
        stacked = torch.stack([orders[generator] for generator in self.generators])
        return self.train.gather(1, stacked.to(self.train.device))

    def _batches_at_once(self) -> int:
        """Give how many batches of all members are gathered at a time."""
        entries = len(self.members) * self.batch_size * self.X[0].numel()
        return max(1, GATHERED_ENTRIES // entries)

    @torch.no_grad()
    def score_held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute logits and loss on the held-out rows.

        Returns
        -------
        logits : tensor of shape (M, n, K)
            Of rows padded to the longest; see `held_out_weight`.
        y : tensor of shape (M, n), int64
            Class indices.
        loss : tensor of shape (M,)
            The mean losses.
        """
        assert self.held_out is not None
        logits = self.stack.logits(_take(self.X, self.held_out))
        y = _take(self.y, self.held_out)
        loss = stacked_loss(logits, y, self.targets, self.held_out_weight)
        return logits, y, loss

    def write_back(self, m: int, parameters: Sequence[Tensor]) -> None:
        """Copy stacked parameters into the member's own module.

        Parameters
        ----------
        m : int
            The member's number.
        parameters : sequence of tensors
            The stack's parameters, or a copy made after an earlier epoch.
        """
        own: list[Tensor] = list(self.members[m].module.parameters())
        values = [stacked[m].view_as(value) for stacked, value in zip(parameters, own, strict=True)]
        with torch.no_grad():
            torch._foreach_copy_(own, values)


# Numbers of X that are gathered for the coming batches of all members at a time.
GATHERED_ENTRIES = 2**22


def _one_of_each(members: Sequence[Member]) -> list[torch.Generator]:
    """Give the members' generators; those that would draw the same are replaced by one of them.

    Nets that differ in ε only draw the same shuffles and the same dropout, and to draw costs more
    than to copy.
    """
    known: dict[tuple[bytes, int], torch.Generator] = {}
    keys = [
        (member.generator.get_state().numpy().tobytes(), len(member.train.chosen))
        for member in members
    ]
    return [known.setdefault(key, own.generator) for key, own in zip(keys, members, strict=True)]


class _Table:
    """Several tables of rows, one after the other, each distinct one once."""

    def __init__(self, tables: Sequence[TensorRows]) -> None:
        distinct = list({id(rows): rows for rows in tables}.values())
        starts = np.cumsum([0, *map(len, distinct)]).tolist()
        self.starts = dict(zip(map(id, distinct), starts, strict=False))
        self.X = _cat([rows.X for rows in distinct])
        self.y = _cat([rows.y for rows in distinct])
        self.weight: Tensor | None = None
        if any(rows.sample_weight is not None for rows in distinct):
            self.weight = _cat([_weights(rows) for rows in distinct])

    def index(self, part: Part) -> Tensor:
        """Give where the rows of a part are."""
        return part.chosen + self.starts[id(part.rows)]


def _take(table: Tensor, index: Tensor) -> Tensor:
    """Give ``table[index]``, several times sooner."""
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


def _weights(rows: TensorRows) -> Tensor:
    if rows.sample_weight is None:
        return torch.ones(len(rows), dtype=rows.X.dtype, device=rows.X.device)
    return rows.sample_weight


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Put tensors one after the other, without a copy where there is one only."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _pad(indices: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack index vectors, filled up with their first entry; tell which entries are their own."""
    lengths = [len(index) for index in indices]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(list(indices)), None
    padded = [torch.cat([index, index[:1].expand(longest - len(index))]) for index in indices]
    columns = torch.arange(longest, device=indices[0].device)
    is_row = columns < torch.tensor(lengths, device=columns.device)[:, None]
    return torch.stack(padded), is_row
