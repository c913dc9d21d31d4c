"""Random numbers from generators of one's own, whatever draws them.

torch's layers draw their initial weights, and dropout its masks, from torch's global generator,
which belongs to everybody in the process. Here a mode of torch, which holds for the calling thread
only, gives each of those draws a generator of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from sksmooth._private import TorchDispatchMode, n_function_modes
from sksmooth.engine.threads import outlives_fork

P = ParamSpec("P")
R = TypeVar("R")

_aten = torch.ops.aten


class OwnRandomness(TorchDispatchMode):
    """Let whatever draws random numbers inside of it draw from generators of its own.

    Each device has one, made of the seed, which gives the numbers that torch's own gives after
    ``torch.manual_seed(seed)``.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_rng_state()
    >>> with OwnRandomness(seed=0):
    ...     one = torch.nn.Linear(2, 2)
    >>> with OwnRandomness(seed=0):
    ...     other = torch.nn.Linear(2, 2)
    >>> torch.equal(one.weight, other.weight), torch.equal(before, torch.get_rng_state())
    (True, True)
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[tuple[str, int], torch.Generator] = {}
        self.has_drawn = False  # whether anything was drawn

    @classmethod
    def of(cls, generator: torch.Generator) -> OwnRandomness:
        """Draw from a generator that is there, on its device; on others, from one of its seed."""
        randomness = cls(generator.initial_seed())
        device = generator.device
        randomness.generators[device.type, device.index or 0] = generator
        return randomness

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        draw = _drawing(func)
        if draw is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        self.has_drawn = True
        tensor = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        device = kwargs.get("device") if tensor is None else tensor.device
        return draw(*args, **{**kwargs, "generator": self.generator(device)})

    def generator(self, device: Any = None) -> torch.Generator:
        """Give the generator of a device; None is the CPU's."""
        device = torch.device("cpu" if device is None else device)
        if device.type != "cpu" and device.index is None:
            device = torch.empty(0, device=device).device  # the current one of its kind
        key = (device.type, device.index or 0)
        if key not in self.generators:
            self.generators[key] = make_generator(self.seed, device)
        return self.generators[key]


class ForwardRandomness:
    """Lets a module's forward draw from one's own generators, at no cost where it draws nothing.

    A mode slows every operation. So it is on for the first training step of each epoch, and for all
    others only if anything was drawn in such a step.
    """

    def __init__(self, randomness: OwnRandomness) -> None:
        self.randomness = randomness
        self.is_due = True
        self.draws = False

    def begin_epoch(self) -> None:
        """Look again whether the forward draws anything."""
        self.is_due = True

    @contextmanager
    def around_forward(self, training: bool = True) -> Iterator[None]:
        """Do what is to be done around a forward pass, in training mode or not."""
        if not self.draws and not (self.is_due and training):
            yield
            return
        randomness = self.randomness
        had_drawn, randomness.has_drawn = randomness.has_drawn, False
        with randomness:
            yield
        self.draws |= randomness.has_drawn
        randomness.has_drawn |= had_drawn
        self.is_due &= not training


def make_generator(seed: int, device: Any = None) -> torch.Generator:
    """Make a seeded generator on a device; None is the CPU."""
    return torch.Generator("cpu" if device is None else device).manual_seed(seed)


def shared_generators(device: torch.device) -> Callable[[int, int], torch.Generator]:
    """Give what makes the generators of nets that are trained side by side, on their rows' device.

    It takes a seed and a number of rows: nets that have both in common draw the same, from the same
    generator.

    Examples
    --------
    >>> generator = shared_generators(torch.device("cpu"))
    >>> generator(0, 100) is generator(0, 100), generator(0, 100) is generator(0, 99)
    (True, False)
    """
    return cache(lambda seed, n_rows: make_generator(seed, device))


@cache
def _drawing(func: Any) -> Callable | None:
    """Give the operation that draws as `func` does, but from a generator; None if it draws none."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return None
    if func is _aten.native_dropout.default:
        return _native_dropout
    for name in (func._overloadname, f"{func._overloadname}_generator", "generator"):
        found = getattr(func.overloadpacket, name, None)
        if found is not None and _takes_generator_besides(found, func):
            return found
    return _by_the_global_generator(func)


def _takes_generator_besides(found: Any, func: Any) -> bool:
    """Tell whether an overload takes a generator, and all else as `func` does."""
    names = [arg.name for arg in found._schema.arguments]
    others = [arg.name for arg in func._schema.arguments if arg.name != "generator"]
    return "generator" in names and [name for name in names if name != "generator"] == others


def _native_dropout(
    x: torch.Tensor, p: float, train: bool | None, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones_like(x, dtype=torch.bool)
    if train is False:
        return x, mask
    mask.bernoulli_(1 - p, generator=generator)
    return x * mask * (0.0 if p == 1 else 1 / (1 - p)), mask


def _by_the_global_generator(func: Any) -> Callable:
    """Make an operation that takes no generator draw from the global one, put back at once."""

    def draw(*args: Any, generator: torch.Generator, **kwargs: Any) -> Any:
        with lent(generator):
            return func(*args, **kwargs)

    return draw


_LOCK = threading.RLock()


def _renew_lock() -> None:
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def lent(*generators: torch.Generator) -> Iterator[None]:
    """Let torch's global generators draw what the given ones, one a device, would; in one thread.

    For what no generator of one's own reaches, such as compiled modules. torch's are put back
    afterwards, and the given ones go on from there.
    """
    others = [own.device for own in generators if own.device.type != "cpu"]
    forked: dict[str, Any] = {"device_type": others[0].type} if others else {}
    with _LOCK, torch.random.fork_rng(devices=[own.index or 0 for own in others], **forked):
        for own in generators:
            _global_generator(own.device).set_state(own.get_state())
        try:
            yield
        finally:
            for own in generators:
                own.set_state(_global_generator(own.device).get_state())


def _global_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    return torch.get_device_module(device.type).default_generators[device.index or 0]


# What makes tensors of torch's default dtype where none is said.
_FACTORIES = (
    torch.empty,
    torch.eye,
    torch.linspace,
    torch.logspace,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.zeros,
)
# Of these, those made of Python's floats.
_FACTORIES_OF_VALUES = (torch.arange, torch.full, torch.scalar_tensor, torch.tensor)


class _SinglePrecision(TorchFunctionMode):
    """Make tensors of float32 where no dtype is said."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_free = kwargs.get("dtype") is None and kwargs.get("out") is None
        if is_free and (
            func in _FACTORIES or (func in _FACTORIES_OF_VALUES and any(map(_is_float, args)))
        ):
            kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)


def _is_float(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_float, value))
    return type(value) is float


def single_precision() -> AbstractContextManager:
    """Make tensors of float32 where no dtype is said, whatever torch's default dtype is.

    It holds for the calling thread only.

    Examples
    --------
    >>> import torch
    >>> with single_precision():
    ...     torch.nn.Linear(2, 2).weight.dtype
    torch.float32
    """
    is_needed = torch.get_default_dtype() != torch.float32
    return _SinglePrecision() if is_needed else nullcontext()


def works_anywhere(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method be the same in a forked process, and whatever torch's default device is.

    It is one of a net, or of a cross-validation of one, or a function of jobs to fit some. Of a net
    on another device than the CPU torch's default counts, on which its module may rely.
    """

    @wraps(method)
    def here(*args: P.args, **kwargs: P.kwargs) -> R:
        if not n_function_modes() or torch.get_default_device().type == "cpu":
            return method(*args, **kwargs)
        owner = next(iter(args[0]), None) if isinstance(args[0], Sequence) else args[0]
        net = getattr(owner, "estimator", None) or owner
        own = str(getattr(net, "device", None) or "cpu")
        with torch.device("cpu") if own.startswith("cpu") else nullcontext():
            return method(*args, **kwargs)

    return outlives_fork(here)


def fits_anywhere(method: Callable[P, R]) -> Callable[P, R]:
    """Let a fit be the same where gradients are off, too; else see :func:`works_anywhere`."""
    return torch.inference_mode(False)(works_anywhere(method))
