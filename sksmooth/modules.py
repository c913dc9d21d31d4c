"""The default net, and how any net's output is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Integral
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sksmooth._checks import check_choice, check_share, check_whole
from sksmooth.encoding import ENCODINGS, Encoding, check_encoding

__all__ = [
    "ACTIVATIONS",
    "SimpleNet",
    "input_dtype",
    "is_plain",
    "read_logits",
    "suited",
    "suited_copy",
    "telling",
]


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "identity": nn.Identity,
}


class SimpleNet(nn.Module):
    """A multilayer perceptron that returns logits.

    Each hidden layer is linear, then the activation, then dropout; the last layer is linear.

    .. versionadded:: 0.2.0

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
    dropout : float in [0, 1), default=0.1
        Share of each hidden layer's activations set to zero while training.
    encoding : Encoding or None, default=None
        What the first layer is given of each number beside itself, such as
        :class:`~sksmooth.encoding.PiecewiseLinear`, after its ``learn``. Where the classifier
        builds the net it lets it learn, and takes "piecewise_linear" and "periodic" too.

    Attributes
    ----------
    layers : torch.nn.ModuleList of torch.nn.Linear
        The linear layers, input first, with torch's default initialisation. They hold all
        parameters.
    activations : torch.nn.ModuleList
        The activation of each hidden layer, a module of its own, for tools that hook modules.
    dropouts : torch.nn.ModuleList of torch.nn.Dropout
        The dropout of each hidden layer.

    Notes
    -----
    `activation` and `dropout` may be set later. ``torch.jit.script`` takes the net, which then
    gives its logits only.

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

    __jit_unused_properties__ = ("activation", "dropout")

    def __init__(
        self,
        n_features: int = 10,
        n_classes: int = 3,
        hidden_layer_sizes: int | Sequence[int] = (128, 128),
        activation: str = "relu",
        dropout: float = 0.1,
        encoding: Encoding | str | None = None,
    ) -> None:
        super().__init__()
        self.n_features = check_whole("n_features", n_features)
        self.n_classes = check_whole("n_classes", n_classes)
        self.hidden_layer_sizes = _check_hidden_layer_sizes(hidden_layer_sizes)
        learned = check_encoding(encoding)
        if learned is not None and learned.n_features != self.n_features:
            raise ValueError(
                f"encoding={encoding!r} must have learned from rows of n_features="
                f"{self.n_features} values, but has from {learned.n_features}: "
                "encoding=PiecewiseLinear().learn(X), for instance. fit does so by itself."
            )
        self.encoding = learned
        n_inputs = self.n_features if learned is None else learned.n_outputs
        widths = (n_inputs, *self.hidden_layer_sizes, self.n_classes)
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.activation = activation
        self.dropout = dropout

    def __setattr__(self, name: str, value: Any) -> None:
        own = getattr(SimpleNet, name, None)
        if isinstance(own, property) and isinstance(value, nn.Module):
            own.__set__(self, value)  # torch would add it as a part, past the property
        super().__setattr__(name, value)

    @property
    def activation(self) -> str:
        """Name of the activation."""
        return self._activation

    @activation.setter
    def activation(self, name: str) -> None:
        self._activation = check_choice("activation", name, ACTIVATIONS)
        self.activations = self._one_per_hidden_layer(ACTIVATIONS[name])

    @property
    def dropout(self) -> float:
        """Share of each hidden layer's activations set to zero while training."""
        return self._dropout

    @dropout.setter
    def dropout(self, share: float) -> None:
        self._dropout = check_share("dropout", share)
        self.dropouts = self._one_per_hidden_layer(lambda: nn.Dropout(self._dropout))

    def _one_per_hidden_layer(self, make: Callable[[], nn.Module]) -> nn.ModuleList:
        return nn.ModuleList(make() for _ in self.hidden_layer_sizes).train(self.training)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "encoding" not in self._modules:
            self.__dict__.setdefault("encoding", None)  # as nets from before there were any
        for name in ("activation", "dropout"):  # as nets that kept them as plain values have them
            if name in self.__dict__:
                setattr(self, name, self.__dict__.pop(name))

    def forward(self, x: Tensor, return_activations: bool = False) -> Tensor:
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
        TypeError
            If it is no tensor.
        """
        if not torch.jit.is_scripting():
            self._check_rows(x)
        h = x.flatten(1) if x.ndim > 2 else x
        if self.encoding is not None:
            h = self.encoding(h)
        layers = self.layers
        activations: list[Tensor] = []
        for layer, activation, dropout in zip(layers, self.activations, self.dropouts):  # noqa: B905
            h = activation(layer(h))
            activations.append(h)
            if dropout.training:  # asked here, as a call that changes nothing costs too
                h = dropout(h)
        logits = layers[-1](h)
        if return_activations:
            if torch.jit.is_scripting():
                raise ValueError("a scripted SimpleNet gives its logits only")
            else:
                return (*activations, logits)  # type: ignore[return-value]
        return logits

    def _check_rows(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"SimpleNet takes rows as one tensor, got a {type(x).__name__}: the rows of a "
                "Dataset must be arrays or tensors, not lists of numbers or several inputs."
            )
        if x.ndim < 2:
            raise ValueError(
                f"SimpleNet takes rows of n_features={self.n_features} values, in a tensor of "
                f"shape (n, {self.n_features}), but got one of shape {tuple(x.shape)}."
            )
        n_values = math.prod(x.shape[1:])
        if n_values != self.n_features:
            raise ValueError(
                f"SimpleNet takes rows of n_features={self.n_features} values, but those of an "
                f"input of shape {tuple(x.shape)} have {n_values}."
            )


def is_plain(net: object) -> bool:
    """Tell whether a net is a SimpleNet whose parts are still such as it was built of.

    It then computes what its layers, `activation` and `dropout` say. False for a subclass, and
    where a part was replaced by one of another kind or with other settings, added, or is used
    twice. Hooks are not looked for.

    Examples
    --------
    >>> import torch
    >>> from sksmooth.modules import SimpleNet, is_plain
    >>> net = SimpleNet()
    >>> is_plain(net)
    True
    >>> net.layers[0] = torch.nn.Sequential(net.layers[0])
    >>> is_plain(net)
    False
    """
    if type(net) is not SimpleNet:
        return False
    layers, activations, dropouts = net.layers, net.activations, net.dropouts
    encoding = [] if net.encoding is None else [net.encoding]
    parts = [net, *encoding, layers, *layers, activations, *activations, dropouts, *dropouts]
    # Settings such as the slope of a LeakyReLU are what a module's repr shows.
    activation, dropout = repr(ACTIVATIONS[net.activation]()), repr(nn.Dropout(net.dropout))
    return (
        list(net.modules()) == parts  # which names each module once
        and len(layers) - 1 == len(activations) == len(dropouts)
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in layers)
        and len(list(net.parameters())) == 2 * len(layers)
        and (net.encoding is None or type(net.encoding) in ENCODINGS.values())
        and all(type(part) is ACTIVATIONS[net.activation] for part in activations)
        and all(type(part) is nn.Dropout for part in dropouts)
        and all(repr(part) == activation for part in activations)
        and all(repr(part) == dropout for part in dropouts)
    )


def read_logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the logits in a module's output: all of it, or the last item of a tuple.

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
    if isinstance(sizes, str | bytes | Mapping) or not isinstance(sizes, Iterable):
        raise TypeError(
            f"hidden_layer_sizes must be a positive integer or a sequence of them, got {sizes!r}."
        )
    widths: tuple[object, ...] = tuple(sizes)
    return tuple(check_whole(f"hidden_layer_sizes[{i}]", w) for i, w in enumerate(widths))


# What torch says of a module's forward, and what is to be said.
_HELP = {
    "Expected more than 1 value per channel when training": "BatchNorm cannot train on a batch of "
    "one row. Set iterator_train__drop_last=True, or another batch_size",
    "Expected tensor for argument #1 'indices' to have one of": "An Embedding of the module takes "
    "integers, but got the floats that its other layers take. Register it before them, or give it "
    "x.long() in forward",
    "index out of range in self": "An Embedding of the module has no row for some integer in X: "
    "they must be from 0 to its num_embeddings - 1",
    "device-side assert triggered": "The GPU met an index out of range, perhaps an Embedding's. "
    "Until this process ends it cannot use the GPU; with device='cpu' the error says more",
    "does not require grad and does not have a grad_fn": "Nothing of the module can be trained: "
    "its parameters are frozen, or its output is detached",
    "stack expects each tensor to be equal size": "The rows of the Dataset are of different sizes. "
    "Pad them in its __getitem__, or by iterator_train__collate_fn and iterator_valid__collate_fn",
    "shapes cannot be multiplied": "A layer of the module takes another number of inputs than it "
    "gets. A constructor with an argument n_features is told the columns of X",
    "required positional argument": "The module's forward takes more inputs than X has. Give X as "
    "a dict of several inputs, by the names of forward's arguments",
    "got an unexpected keyword argument": "A dict X holds the inputs of the module, by the names "
    "of forward's arguments; a table of named columns is pandas.DataFrame(X)",
    "default_collate: batch must contain": "The rows of the Dataset are no numbers, arrays or "
    "tensors. Make them so in its __getitem__, or by iterator_train__collate_fn and "
    "iterator_valid__collate_fn",
}


@contextmanager
def telling() -> Iterator[None]:
    """Let torch's bare errors of a module's forward say what helps.

    Examples
    --------
    >>> import torch
    >>> with telling():
    ...     torch.nn.Embedding(4, 2)(torch.tensor([4]))
    Traceback (most recent call last):
    ...
    ValueError: An Embedding of the module has no row for some integer in X: they must be from 0 ...
    """
    try:
        yield
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        is_told = error.__cause__ is not None
        for said, what_helps in _HELP.items():
            if said in str(error) and not is_told and _is_of_a_module(error):
                raise ValueError(f"{what_helps}: {error}") from error
        raise


def _is_of_a_module(error: Exception) -> bool:
    """Tell whether an error comes from a module's forward or from torch, and not from a callback.

    Nor from a scorer, a collate_fn or a loss of the user's.
    """
    rooms = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    last = rooms[-1].partition(".")[0]
    return "torch.nn.modules.module" in rooms or last in ("torch", "skorch", "sksmooth")


def input_dtype(module: nn.Module) -> torch.dtype:
    """Give the dtype that a module's first layer with parameters takes.

    int64 for an Embedding, else that of the parameters; float32 where there are none. A module of
    layers is none itself, though it may have parameters of its own.

    Examples
    --------
    >>> import torch
    >>> input_dtype(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3).double()))
    torch.float64
    >>> input_dtype(torch.nn.Sequential(torch.nn.Embedding(9, 2), torch.nn.Flatten()))
    torch.int64
    """
    parts = [part for part in module.modules() if part._parameters]
    first = next((part for part in parts if _is_layer(part)), None)
    if isinstance(first, nn.Embedding | nn.EmbeddingBag):
        return torch.int64
    parameters = () if first is None else first._parameters.values()
    return next(
        (own.dtype for own in parameters if own is not None and own.is_floating_point()),
        torch.float32,
    )


def _is_layer(part: nn.Module) -> bool:
    inner = [] if is_parametrized(part) else [own for own in part.modules() if own is not part]
    return not any(own._parameters for own in inner)


def suited(x: Any, dtype: torch.dtype) -> Any:
    """Give inputs in the dtype that a module takes; of several, integers stay what they are.

    Refused are complex numbers and text; and fractions, or numbers too large to be exact, where
    integers are taken.
    """
    if isinstance(x, torch.Tensor):
        if x.is_complex():
            raise ValueError(f"Complex data not supported: X has rows of {x.dtype}.")
        if not dtype.is_floating_point and x.is_floating_point():
            _refuse_inexact(x)
        return x.to(dtype=dtype)
    if isinstance(x, np.ndarray):
        return suited(torch.as_tensor(x), dtype)
    if isinstance(x, Mapping):
        return {name: _suited_part(own, dtype) for name, own in x.items()}
    if isinstance(x, tuple | list):
        return type(x)(_suited_part(own, dtype) for own in x)
    return x


def suited_copy(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Give rows in the dtype that a module takes, and such as it may write to.

    Examples
    --------
    >>> import torch
    >>> rows = torch.zeros(2, 3)
    >>> _ = torch.nn.ELU(inplace=True)(suited_copy(rows, torch.float32).sub_(1))
    >>> rows.any()
    tensor(False)
    """
    own = suited(rows, dtype)
    return own.clone() if own is rows else own


def _refuse_inexact(x: Tensor) -> None:
    """Refuse floats that are no integers, or that integers may have been rounded to."""
    if (x != x.round()).any():
        raise ValueError("X must hold integers, as the module begins with an Embedding.")
    bound = 2 / torch.finfo(x.dtype).eps
    if (x.abs() >= bound).any():
        raise ValueError(
            f"X holds integers of {bound:.0f} or more, which rows of {x.dtype} do not tell apart, "
            "for a module that begins with an Embedding: number the ids anew, as by OrdinalEncoder."
        )


def _suited_part(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, str):
        raise TypeError(f"X holds text such as {x!r}, but a module takes numbers.")
    if isinstance(x, tuple | list):
        return type(x)(_suited_part(own, dtype) for own in x)
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return x
    return x.to(dtype=dtype if dtype.is_floating_point else torch.float32)
