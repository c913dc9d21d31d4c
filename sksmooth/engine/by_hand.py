"""SimpleNet's training step written out by hand, for one net or a stack of them.

A training step of a net as small as SimpleNet is overhead, not arithmetic: autograd's bookkeeping
costs several times what the products do. Here forward pass, smoothed cross-entropy and gradients
are a fixed list of tensor operations. Each works on a stack of M nets as well as on one, since the
parameters of M nets of one architecture are stacked along a first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sksmooth._private import in_inference_mode
from sksmooth.engine.targets import Targets, mean_losses, shares_of_mean
from sksmooth.modules import SimpleNet

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


class _Memory(NamedTuple):
    """Where to write what is computed of a batch.

    Memory asked for anew at every step takes as long as the products themselves, and what small
    tensors between leave of it is soon too small.
    """

    # Of shape (M, n, width), one of each hidden layer.
    inputs: list[Tensor]  # of the activation
    outputs: list[Tensor]  # of it; the same tensors where the inputs are not needed any more
    kept: list[Tensor]  # what dropout keeps of the outputs; empty without dropout
    gradients: list[Tensor]  # by the inputs of the layer that follows
    logits: Tensor  # of shape (M, K, n)


# Of each word that is drawn for dropout, four units get 16 bits each: a draw for each unit would
# take as long as the products.
_UNITS_PER_WORD = 4


class _Dropout(NamedTuple):
    """Memory for the masks of a batch."""

    words: Tensor  # of shape (M, n_words), int64: what is drawn
    bits: Tensor  # (M, n, n_units), int16: a view of it, a number for each hidden unit
    scale: Tensor  # of that shape: what the units that stay are multiplied by
    mask: Tensor  # likewise: what all are multiplied by
    parts: Sequence[Tensor]  # (M, n, width): views of it, one for each hidden layer


# A product whose rows are shorter than a vector register leaves much of it idle: the float32s of
# the longest.
VECTOR_LENGTH = 16


class HandNets:
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
    generators : sequence of M torch.Generator, default=()
        From which each net's dropout is drawn; nets that share one get the same. Needed for
        training with dropout.

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
        generators: Sequence[torch.Generator] = (),
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
        self._dropouts: dict[int, _Dropout] = {}  # likewise
        self._scored: dict[int, list[Tensor]] = {}  # of `logits`, likewise

    @classmethod
    def around(cls, net: SimpleNet, generators: Sequence[torch.Generator] = ()) -> HandNets:
        """Make a stack of one net, which shares its memory: parameters and gradients are views.

        The ``grad`` of the net's parameters is replaced.
        """
        layers: list[Any] = list(net.layers)
        stack = cls(
            [layer.weight.detach().unsqueeze(0) for layer in layers],
            [layer.bias.detach().view(1, 1, -1) for layer in layers],
            net.activation,
            net.dropout,
            generators,
        )
        gradients = zip(stack.weight_gradients, stack.bias_gradients, strict=True)
        for layer, (weight, bias) in zip(layers, gradients, strict=True):
            layer.weight.grad, layer.bias.grad = weight[0], bias[0, 0]
        return stack

    @classmethod
    def of(cls, nets: Sequence[SimpleNet], generators: Sequence[torch.Generator] = ()) -> HandNets:
        """Stack copies of the parameters of several nets of one architecture."""
        layers: list[Any] = list(zip(*(net.layers for net in nets), strict=True))
        return cls(
            [torch.stack([layer.weight.detach() for layer in same]) for same in layers],
            [torch.stack([layer.bias.detach()[None] for layer in same]) for same in layers],
            nets[0].activation,
            nets[0].dropout,
            generators,
        )

    def begin_epoch(self) -> None:
        """Do what comes before the steps of an epoch: nothing."""

    def logits(self, X: Tensor) -> Tensor:
        """Compute each net's logits, (M, n, K), of its rows, (M, n, ...), without dropout.

        Safe in several threads at once.
        """
        return self._forward(X, [None] * (len(self.weights) - 1))

    def score(self, X: Tensor) -> Tensor:
        """Compute the logits during training, in memory that is kept for the next time."""
        n_rows = X.shape[1]
        if n_rows not in self._scored:
            self._scored[n_rows] = self._hidden_layers(n_rows, like=X)
        return self._forward(X, self._scored[n_rows])

    @torch.no_grad()
    def _forward(self, X: Tensor, hidden: Sequence[Tensor | None]) -> Tensor:
        activate = _FORWARD[self.activation]
        h = X.flatten(2)
        for (weight, bias), out in zip(self.layers[:-1], hidden, strict=True):
            z = torch.baddbmm(bias, h, weight, out=out)
            h = activate(z, z)
        return self._output_layer(h).transpose(1, 2)

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
        sizes: Sequence[int] | None = None,
        relative_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute each net's mean loss on its batch, of shape (M,), and write its gradients.

        With p = softmax(logits), mass q and its sum t, the gradient of a row's loss by its logits
        is t p - q. To be called under ``torch.no_grad``.

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
        sizes : sequence of M ints, default=None
            How many of its rows, which come first, are a net's own; the others, padding, are left
            out of its draws. None: all of them.
        relative_weight : tensor of shape (M,), default=None
            What the batch weighs beside others; see :func:`sksmooth.engine.targets.stacked_loss`.
        """
        activate, backward = _FORWARD[self.activation], _BACKWARD[self.activation]
        memory = self._memory(y.shape[1], like=X)
        inputs = [X.flatten(2)]
        masks = self.draw_masks(y.shape[1], sizes) if self.dropout else []
        for number, (weight, bias) in enumerate(self.layers[:-1]):
            z = torch.baddbmm(bias, inputs[-1], weight, out=memory.inputs[number])
            h = activate(z, memory.outputs[number])
            if self.dropout:
                h = torch.mul(h, masks[number], out=memory.kept[number])
            inputs.append(h)
        log_p = torch.log_softmax(self._output_layer(inputs[-1], memory.logits), dim=1)

        mass = targets.mass_of(y)
        share = shares_of_mean(y, targets, sample_weight, relative_weight)
        loss = mean_losses(log_p, mass, y, targets, share)

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
                    gradient *= masks[hidden]
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
            with in_inference_mode(False):
                logits = like.new_empty(n_nets, n_classes, n_rows)
            self._memories[n_rows] = _Memory(
                inputs,
                outputs=inputs if self.activation in _IN_PLACE else hidden(),
                kept=hidden() if self.dropout else [],
                logits=logits,
                gradients=hidden(),
            )
        return self._memories[n_rows]

    def _hidden_layers(self, n_rows: int, like: Tensor) -> list[Tensor]:
        """Make tensors of the shapes of the hidden layers' outputs."""
        with in_inference_mode(False):  # so that they serve in every mode
            return [like.new_empty(len(w), n_rows, w.shape[1]) for w in self.weights[:-1]]

    def draw_masks(self, n_rows: int, sizes: Sequence[int] | None = None) -> Sequence[Tensor]:
        """Draw which activations stay, scaled so that their mean stays, as F.dropout does.

        Drawn are only those of the `sizes` first rows of each net (None: of all). Gives what each
        hidden layer's outputs, (M, n_rows, width), are multiplied by, until the next draw.
        """
        if n_rows not in self._dropouts:
            self._dropouts[n_rows] = self._make_dropout(n_rows)
        words, bits, scale, mask, parts = self._dropouts[n_rows]
        drawn: dict[torch.Generator, Tensor] = {}
        for m, generator in enumerate(self.generators):
            own = words[m]
            if sizes is not None:
                own = own[: -(-sizes[m] * mask.shape[2] // _UNITS_PER_WORD)]
            if generator in drawn:
                own.copy_(drawn[generator])
            else:
                drawn[generator] = own.random_(-(2**63), None, generator=generator)
        largest_dropped = round(self.dropout * 2**16) - 2**15 - 1
        _aten.threshold_backward.grad_input(scale, bits, largest_dropped, grad_input=mask)
        return parts

    def _make_dropout(self, n_rows: int) -> _Dropout:
        """Make the memory for the masks of batches of some number of rows."""
        widths = [weight.shape[1] for weight in self.weights[:-1]]
        n_nets, n_units = len(self.weights[0]), sum(widths)
        n_words = -(-n_rows * n_units // _UNITS_PER_WORD)
        with in_inference_mode(False):
            words = self.weights[0].new_zeros(n_nets, n_words, dtype=torch.int64)
            mask = self.weights[0].new_empty(n_nets, n_rows, n_units)
            bits = words.view(torch.int16)[:, : n_rows * n_units].view_as(mask)
            scale = mask.new_tensor(1 / (1 - self.dropout)).expand_as(mask)
        return _Dropout(words, bits, scale, mask, mask.split(widths, 2))


def _interleave(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for layer in zip(weights, biases, strict=True) for tensor in layer]
