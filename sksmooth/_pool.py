"""The mean logits of fitted SimpleNets: of many rows in stacks, of few by NumPy.

A net this small takes longer to be called through torch than to be computed, where rows are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter, getitem, is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit

from sksmooth._predict import (
    PREDICTION_ROWS,
    clip_infinite,
    fill_up,
    in_one_array,
    rows_that_pay,
    whole_blocks,
)
from sksmooth._private import GLOBAL_HOOKS, has_hooks, own_hooks
from sksmooth.engine.by_hand import HandNets
from sksmooth.engine.threads import threads_for
from sksmooth.modules import SimpleNet, input_dtype, is_plain

# So many rows go by NumPy, in float64, at most: more cost less in torch's float32.
FEW_ROWS = 24
# OpenBLAS deals products of a matrix of more numbers out to threads, which wait for each other.
_WEIGHTS_OF_A_PART = 9216
# Layers of more weights take longer than the calls of torch, which reads them as float32.
FEW_WEIGHTS = 4 * _WEIGHTS_OF_A_PART
# Beyond, float32 is near its bounds: torch says what is infinite and what is NaN.
_FAR = 1e30


class _Layer(NamedTuple):
    """A layer of M nets, in parts of its outputs.

    Of one net they are views of its parameters, so that whoever writes to them, by a kernel that
    torch's versions do not count too, changes what is predicted. Of several they are copies.
    """

    parts: list[NDArray]  # of the weights, (M, in, some of out)
    bias: NDArray  # (M, 1, out)

    @classmethod
    def of(cls, layers: Sequence[Any]) -> _Layer:
        weights = [layer.weight.detach().numpy().T[np.newaxis] for layer in layers]
        biases = [layer.bias.detach().numpy()[np.newaxis, np.newaxis] for layer in layers]
        n_parts = -(-weights[0].size // _WEIGHTS_OF_A_PART)
        if len(layers) == 1:
            return cls(np.array_split(weights[0], n_parts, axis=2), biases[0])
        joined = np.concatenate(weights, dtype=np.float64)
        parts = [np.ascontiguousarray(part) for part in np.array_split(joined, n_parts, axis=2)]
        return cls(parts, np.concatenate(biases, dtype=np.float64))

    def __call__(self, h: NDArray) -> NDArray:
        """Give the outputs, (M, n, out), for inputs (M, n, in), or (n, in) of all nets."""
        outputs = [np.matmul(h, part.astype(np.float64, copy=False)) for part in self.parts]
        z = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=2)
        z += self.bias
        return z


# SimpleNet's activations, in place where they can be.
_ACTIVATIONS: dict[str, Callable[[NDArray], NDArray]] = {
    "relu": lambda z: np.maximum(z, 0, out=z),
    "tanh": lambda z: np.tanh(z, out=z),
    "sigmoid": lambda z: expit(z, out=z),
    "silu": lambda z: z * expit(z),
    "gelu": lambda z: z * (0.5 + 0.5 * erf(z * np.sqrt(0.5))),
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * _expm1(z)),
    "elu": lambda z: np.where(z > 0, z, _expm1(z)),
    "leaky_relu": lambda z: np.maximum(z, 0.01 * z),
    "identity": lambda z: z,
}


def _expm1(z: NDArray) -> NDArray:
    return np.expm1(np.minimum(z, 0))


class _Structure:
    """The parts and parameters of SimpleNets, and whether they are still the same objects."""

    def __init__(self, modules: Sequence[SimpleNet]) -> None:
        self.modules = modules
        parts = [part for module in modules for part in module.modules()]
        self.is_usable = not any(map(has_hooks, parts)) and all(
            is_plain(module) and input_dtype(module) == torch.float32 for module in modules
        )
        namespaces: list[dict[str, Any]] = [
            names for part in parts for names in (part._modules, part._parameters, part._buffers)
        ]
        held = [(names, name) for names in namespaces for name in names]
        self._places = [names for names, _ in held], [name for _, name in held]
        self._held = [names[name] for names, name in held]
        self._sized = [*(vars(part) for part in parts), *(own for own in namespaces if own)]
        self._sizes = list(map(len, self._sized))
        self._hooks = [*GLOBAL_HOOKS, *(hooks for part in parts for hooks in own_hooks(part))]
        self._is_hooked = any(self._hooks)
        self._tensors = [own for own in self._held if isinstance(own, torch.Tensor)]
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]

    def is_as_it_was(self, modules: Sequence[Any]) -> bool:
        """Tell whether modules are those that this was made of, and nothing was put in their place.

        By maps over lists and not by torch's iterators, as it is asked at every prediction.
        """
        try:
            return (
                len(modules) == len(self.modules)
                and all(map(is_, modules, self.modules))
                and all(map(is_, map(getitem, *self._places), self._held))
                and list(map(len, self._sized)) == self._sizes
                and any(self._hooks) == self._is_hooked
            )
        except KeyError:  # a part is gone
            return False

    def version(self) -> list[int]:
        """Give other numbers where a tensor was written to, or has other memory."""
        counts = map(attrgetter("_version"), self._counted)
        return [*counts, *map(torch.Tensor.data_ptr, self._tensors)]


class Pool:
    """Fitted SimpleNets whose logits are pooled: what is made of their parameters of a version."""

    def __init__(self, structure: _Structure, version: list[int]) -> None:
        self.structure = structure
        self.version = version
        self.modules = structure.modules

    @cached_property
    def _alike(self) -> list[list[SimpleNet]]:
        """The modules, those of one encoding together."""
        alike = groupby(self.modules, key=lambda module: repr(module.encoding))
        return [list(own) for _, own in alike]

    def logits(self, rows: torch.Tensor) -> NDArray[np.float64]:
        """Give the mean logits of rows."""
        few = self.logits_of_few(rows) if len(rows) <= FEW_ROWS else None
        return self.logits_of_many(rows) if few is None else few

    # -- many rows ----------------------------------------------------------------------------

    @cached_property
    def _stacks(self) -> list[tuple[SimpleNet, HandNets]]:
        """The nets of each encoding as a stack, and the first of them."""
        return [(own[0], HandNets.of(own)) for own in self._alike]

    def logits_of_many(self, rows: torch.Tensor) -> NDArray[np.float64]:
        """Give the mean logits, in chunks of rows, by torch."""
        n_nets = len(self.modules)
        if rows[0].numel() != self.modules[0].n_features:
            self.modules[0](rows)  # which says so
        at_once, _ = whole_blocks(rows_that_pay(rows[0].numel(), PREDICTION_ROWS // n_nets))
        with threads_for(self._stacks[-1][0], min(len(rows), at_once) * n_nets):
            return in_one_array(map(self._logits_of_chunk, rows.split(at_once)), len(rows))

    def _logits_of_chunk(self, chunk: torch.Tensor) -> NDArray[np.float64]:
        rows = fill_up(chunk.flatten(1).to(self._stacks[0][1].weights[0].device))
        outputs = torch.cat([_logits_of(stack, net, rows) for net, stack in self._stacks])
        logits = outputs[:, : len(chunk)].cpu().numpy().astype(np.float64)
        return (logits if np.isfinite(logits).all() else clip_infinite(logits)).mean(axis=0)

    # -- few rows -----------------------------------------------------------------------------

    @cached_property
    def _layers(self) -> tuple[list[tuple[Any, _Layer]], list[_Layer]] | None:
        """The first layers, each with its encoding, and the others; None where torch is quicker."""
        layers: list[Any] = list(zip(*(module.layers for module in self.modules), strict=True))
        weights = [layer.weight for layers_of_nets in layers for layer in layers_of_nets]
        if not all(own.is_cpu and own.numel() <= FEW_WEIGHTS for own in weights):
            return None
        first = []
        for nets in self._alike:
            encoding = nets[0].encoding
            encode = None if encoding is None else encoding.in_numpy()
            first.append((encode, _Layer.of([net.layers[0] for net in nets])))
        return first, [_Layer.of(layers_of_nets) for layers_of_nets in layers[1:]]

    def logits_of_few(self, rows: torch.Tensor) -> NDArray[np.float64] | None:
        """Give the mean logits of few rows, by NumPy; None where torch is to be asked.

        They are rounded to float32, so that they are the same whatever rows are beside them.
        """
        if (
            type(rows) is not torch.Tensor
            or rows.dtype != torch.float32
            or rows[0].numel() != self.modules[0].n_features
            or torch.is_autocast_enabled("cpu")
            or self._layers is None
        ):
            return None
        x = rows.flatten(1).numpy().astype(np.float64)
        first, others = self._layers
        activate = _ACTIVATIONS[self.modules[0].activation]
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = [layer(x if encode is None else encode(x)) for encode, layer in first]
            h = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
            for layer in others:
                h = layer(activate(h))
        logits = h.sum(axis=0) / len(h)
        if not np.abs(logits).max() < _FAR:
            return None
        return logits.astype(np.float32).astype(np.float64)


# Of estimators that predict: no part of their state, and in no pickle.
_POOLS: WeakKeyDictionary[Any, Pool] = WeakKeyDictionary()


def pool_of(owner: Any, modules: Sequence[Any]) -> Pool | None:
    """Give the pool of an estimator's modules; None where they are no SimpleNets of float32."""
    pool = _POOLS.get(owner)
    structure = None if pool is None else pool.structure
    if structure is None or not structure.is_as_it_was(modules):
        if not all(type(module) is SimpleNet for module in modules):
            return None
        structure = _Structure(modules)
    version = structure.version()
    if pool is None or pool.structure is not structure or pool.version != version:
        pool = _POOLS[owner] = Pool(structure, version)
    return pool if structure.is_usable else None


def few_logits(owner: Any, modules: Sequence[Any], rows: torch.Tensor) -> NDArray | None:
    """Give the mean logits of few rows; None where they are many, or torch is to be asked."""
    if not 0 < len(rows) <= FEW_ROWS:
        return None
    pool = pool_of(owner, modules)
    return None if pool is None else pool.logits_of_few(rows)


def _logits_of(stack: HandNets, net: SimpleNet, rows: torch.Tensor) -> torch.Tensor:
    """Run rows through each net of a stack, of which `net` is one."""
    encoded = rows if net.encoding is None else net.encoding(rows)
    return stack.logits(encoded.expand(len(stack.weights[0]), *encoded.shape)).float()
