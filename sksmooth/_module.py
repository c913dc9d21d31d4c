"""A fitted classifier as a torch module: from rows to calibrated probabilities."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sksmooth._adapters import WithoutClassWeight
from sksmooth.calibration import LARGEST_NORM_RATIO, NormTemperatureScaling, TemperatureScaling
from sksmooth.engine.plan import overrides
from sksmooth.engine.targets import logits_of, pooled
from sksmooth.modules import input_dtype

# Calibrators that torch can run.
IN_TORCH = (type(None), TemperatureScaling, NormTemperatureScaling)
# What stands between the rows and the module of a net, or between that and the logits.
_NET_HOOKS = ("logits", "logits_of", "forward_iter", "evaluation_step", "infer", "read_logits")


def refuse_own_prediction(classifier: Any, nets: Sequence[Any]) -> None:
    """Refuse methods of the user's own that give other probabilities than modules and calibrator.

    Whoever replaces ``as_module`` too has made a module of them.
    """
    if overrides(classifier, "as_module"):
        return
    owners = {"predict_proba": classifier, **dict.fromkeys(_NET_HOOKS, nets[0])}
    own = [name for name, owner in owners.items() if overrides(owner, name)]
    if own:
        raise TypeError(
            f"{' and '.join(own)} of {type(owners[own[0]]).__name__} would be left out: as_module "
            "and to_onnx know only the module and the calibrator. Give the class an as_module of "
            "its own, too, or fit the class that it derives from."
        )


class LogitModule(nn.Module):
    """The mean of some nets' logits, in float32; the nets are fitted, and their modules are copied.

    Another way from logits to probabilities than a calibrator is a TypeError.
    """

    def __init__(self, nets: Sequence[Any]) -> None:
        super().__init__()
        if nets[0].predict_nonlinearity != "auto":
            raise TypeError(
                f"predict_nonlinearity={nets[0].predict_nonlinearity!r} is no calibrator; leave it "
                "at 'auto'."
            )
        self.nets = nn.ModuleList(copy.deepcopy(net.module_) for net in nets)
        self.gives_probabilities = isinstance(nets[0].criterion_, nn.NLLLoss)
        self.requires_grad_(False).eval()

    def forward(self, X: Tensor) -> Tensor:
        """Give the logits, of shape (n, n_classes), of rows of shape (n, n_features)."""
        if not isinstance(X, Tensor):
            raise TypeError(
                f"X must be a tensor, got {type(X).__name__}: torch.as_tensor(X), or predict_proba "
                "of the classifier."
            )
        X = X.to(input_dtype(self.nets[0]))  # which whoever has the module may change
        logits = [pooled(logits_of(net(X), self.gives_probabilities)) for net in self.nets]
        return torch.stack(logits).mean(0)


class ProbabilityModule(LogitModule):
    """The calibrated probabilities of the mean of some nets' logits, in float32.

    The calibrator is one that torch can run, or a WithoutClassWeight around one; another is a
    TypeError.
    """

    temperature: Tensor
    power: Tensor
    norm: Tensor
    log_weight: Tensor

    def __init__(self, nets: Sequence[Any], calibrator: Any) -> None:
        super().__init__(nets)
        weight, calibrator = parted(calibrator)
        if type(calibrator) not in IN_TORCH:
            raise TypeError(
                f"The calibrator is a {type(calibrator).__name__}, which torch cannot run; use "
                "calibration='temperature', 'norm_temperature' or None."
            )
        numbers = {
            "temperature": getattr(calibrator, "temperature_", 1.0),
            "power": getattr(calibrator, "power_", 0.0),
            "norm": getattr(calibrator, "norm_", 0.0) or 1.0,  # 0 where all logits are
            "log_weight": np.log(weight),
        }
        for name, value in numbers.items():  # in state_dict, beside the parameters that they fit
            own = torch.tensor(value, dtype=torch.float32, device=nets[0].device)
            self.register_buffer(name, own)

    def forward(self, X: Tensor) -> Tensor:
        """Give the probabilities, of shape (n, n_classes), of rows of shape (n, n_features)."""
        logits = super().forward(X)
        logits = logits - logits.mean(-1, keepdim=True)
        numbers = (self.temperature, self.power, self.norm, self.log_weight)
        temperature, power, norm, log_weight = (own.to(logits.dtype) for own in numbers)
        ratio = torch.linalg.vector_norm(logits, dim=-1, keepdim=True) / norm
        ratio = ratio.clamp(1 / LARGEST_NORM_RATIO, LARGEST_NORM_RATIO)
        return torch.softmax(logits * ratio**power / temperature - log_weight, -1)


def parted(calibrator: Any) -> tuple[float | NDArray[np.float64], Any]:
    """Part a calibrator from the weights of classes that it divides by, 1 where there are none."""
    if isinstance(calibrator, WithoutClassWeight):
        return calibrator.relative_weight, calibrator.calibrator
    return 1.0, calibrator
