"""The default net, and how any net's output is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sksmooth._checks import check_choice, check_share, check_whole

__all__ = ["ACTIVATIONS", "SimpleNet", "read_logits"]


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "selu": F.selu,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "identity": _identity,
}


class SimpleNet(nn.Module):
    """A multilayer perceptron that returns logits.

    Each hidden layer is linear, then the activation, then dropout; the last layer is linear.

    Parameters
    ----------
    n_features : int, default=10
        Width of the input, after flattening.
    n_classes : int, default=3
        Width of the output.
    hidden_layer_sizes : int or sequence of int, default=(128, 128)
        Width of each hidden layer. An int is one layer; an empty sequence is logistic regression.
    activation : str, default="relu"
        A name in `ACTIVATIONS`: "relu", "tanh", "sigmoid", "silu", "gelu", "selu", "elu",
        "leaky_relu" or "identity".
    dropout : float in [0, 1), default=0.0
        Share of each hidden layer's activations set to zero while training.

    Attributes
    ----------
    layers : torch.nn.ModuleList of torch.nn.Linear
        The linear layers, input first, with torch's default initialisation.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter has a value it cannot have; the message names it.

    Examples
    --------
    >>> import torch
    >>> from sksmooth.modules import SimpleNet
    >>> net = SimpleNet(n_features=784, n_classes=10, hidden_layer_sizes=(512, 256))
    >>> images = torch.zeros(5, 28, 28)
    >>> net(images).shape
    torch.Size([5, 10])
    >>> [tuple(a.shape) for a in net(images, return_activations=True)]
    [(5, 512), (5, 256), (5, 10)]
    """

    def __init__(
        self,
        n_features: int = 10,
        n_classes: int = 3,
        hidden_layer_sizes: int | Sequence[int] = (128, 128),
        activation: str = "relu",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_features = check_whole("n_features", n_features)
        self.n_classes = check_whole("n_classes", n_classes)
        self.hidden_layer_sizes = _check_hidden_layer_sizes(hidden_layer_sizes)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.dropout = check_share("dropout", dropout)
        widths = (self.n_features, *self.hidden_layer_sizes, self.n_classes)
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))

    def forward(self, x: Tensor, return_activations: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Compute the logits.

        Parameters
        ----------
        x : tensor of shape (n, n_features) or (n, ...), floating
            The rows. More than two dimensions are flattened to two.
        return_activations : bool, default=False
            Whether to return what the hidden layers computed as well.

        Returns
        -------
        tensor of shape (n, n_classes), or tuple of tensors
            The logits, or the activations of each hidden layer (before dropout), with the logits
            last.

        Raises
        ------
        ValueError
            If `x` has fewer than two dimensions or rows of another width than `n_features`.
        """
        h = self._flatten(x)
        activate = ACTIVATIONS[self.activation]
        *hidden_layers, output_layer = self.layers
        activations = []
        for layer in hidden_layers:
            h = activate(layer(h))
            activations.append(h)
            if self.training and self.dropout:
                h = F.dropout(h, self.dropout)
        logits = output_layer(h)
        return (*activations, logits) if return_activations else logits

    def _flatten(self, x: Tensor) -> Tensor:
        if x.ndim < 2:
            raise ValueError(
                f"SimpleNet takes rows of n_features={self.n_features} values, in a tensor of "
                f"shape (n, {self.n_features}), but got one of shape {tuple(x.shape)}."
            )
        rows = x.flatten(1) if x.ndim > 2 else x
        if rows.shape[1] != self.n_features:
            raise ValueError(
                f"SimpleNet takes rows of n_features={self.n_features} values, but those of an "
                f"input of shape {tuple(x.shape)} have {rows.shape[1]}."
            )
        return rows


def read_logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the logits in a module's output: all of it, or the last item of a tuple.

    Parameters
    ----------
    output : tensor or tuple of tensors
        What the module's forward returned.

    Returns
    -------
    tensor
        The logits.

    Examples
    --------
    >>> import torch
    >>> from sksmooth.modules import SimpleNet, read_logits
    >>> read_logits(SimpleNet()(torch.zeros(1, 10), return_activations=True)).shape
    torch.Size([1, 3])
    """
    return output[-1] if isinstance(output, tuple) else output


def _check_hidden_layer_sizes(sizes: object) -> tuple[int, ...]:
    if isinstance(sizes, Integral) and not isinstance(sizes, bool):
        return (check_whole("hidden_layer_sizes", sizes),)
    try:
        widths: tuple[object, ...] = tuple(sizes)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"hidden_layer_sizes must be a positive integer or a sequence of them, got {sizes!r}."
        ) from None
    return tuple(check_whole(f"hidden_layer_sizes[{i}]", w) for i, w in enumerate(widths))
