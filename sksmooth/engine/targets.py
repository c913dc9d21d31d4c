"""Smoothed cross-entropy of a stack of nets, and what it needs to know of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sksmooth._private import has_hooks
from sksmooth.losses import FORMS, LabelSmoothingLoss
from sksmooth.modules import read_logits
from sksmooth.smoothing import smoothing_matrix


class Targets(NamedTuple):
    """What the smoothed cross-entropy of M nets with K classes needs to know of a label."""

    # Of shape (M, K, K), the target distributions times the class weights: column y is of class y.
    mass: Tensor
    # All of shape (M, K).
    total: Tensor | None  # the sums of those columns; None where all are one
    constant: Tensor | None  # what the KL form has beyond the cross-entropy; None for 0
    weight: Tensor | None  # the class weights, by which the mean divides; None for 1

    @classmethod
    def of(cls, criteria: Sequence[torch.nn.Module], n_classes: int, like: Tensor) -> Targets:
        """Read the tables from the nets' criteria, each of a kind that :func:`is_known` knows.

        `like` gives dtype and device.
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
        """Give rows' target distributions times class weights, (M, K, n), from `y`, (M, n)."""
        return self.mass.gather(2, y.unsqueeze(1).expand(-1, self.mass.shape[1], -1))


def is_known(criterion: Any) -> bool:
    """Tell whether a criterion's gradient is written out here.

    It is for the mean LabelSmoothingLoss and CrossEntropyLoss themselves, without hooks, not for
    subclasses.

    Examples
    --------
    >>> import torch
    >>> is_known(torch.nn.CrossEntropyLoss()), is_known(torch.nn.NLLLoss())
    (True, False)
    """
    if type(criterion) is torch.nn.CrossEntropyLoss:
        is_plain = criterion.label_smoothing < 1
    else:
        is_plain = type(criterion) is LabelSmoothingLoss and criterion.form in FORMS
    if not is_plain or criterion.reduction != "mean" or has_hooks(criterion):
        return False
    return isinstance(criterion.ignore_index, int) and criterion.ignore_index < 0


def stacked_loss(
    logits: Tensor,
    y: Tensor,
    targets: Targets,
    sample_weight: Tensor | None = None,
    relative_weight: Tensor | None = None,
) -> Tensor:
    """Compute the mean smoothed loss of each net of a stack, of shape (M,).

    Parameters
    ----------
    logits : tensor of shape (M, n, K), or (M, n, members, K)
        The nets' logits; of modules with members, of each member, which are so many rows more.
    y : tensor of shape (M, n), int64
        Class indices.
    targets : Targets
        The smoothed labels.
    sample_weight : tensor of shape (M, n), default=None
        Weights of the rows; 0 for padding.
    relative_weight : tensor of shape (M,), default=None
        By which the means are multiplied. Of a batch, it is what its rows weigh in the mean, that
        of all rows being one: else rows that weigh next to nothing would count in full where they
        are by themselves. It is one at most, so that no batch of a few heavy rows rules the step.
    """
    if logits.ndim == 4:
        logits, y, sample_weight = members_as_rows(logits, y, sample_weight)
    log_p = torch.log_softmax(logits.transpose(1, 2), dim=1)
    share = shares_of_mean(y, targets, sample_weight, relative_weight)
    return mean_losses(log_p, targets.mass_of(y), y, targets, share)


def members_as_rows(
    logits: Tensor, y: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give each member's logits of a row as a row of its own, with the row's class and weight.

    The logits are of shape (..., n, members, K), and become (..., n * members, K).
    """
    n_members = logits.shape[-2]
    if sample_weight is not None:
        sample_weight = sample_weight.repeat_interleave(n_members, -1)
    return logits.flatten(-3, -2), y.repeat_interleave(n_members, -1), sample_weight


def mean_losses(
    log_p: Tensor, mass: Tensor, y: Tensor, targets: Targets, share: Tensor | None
) -> Tensor:
    """Compute the mean losses, of shape (M,), from logarithms of probabilities and what is known.

    Parameters
    ----------
    log_p, mass : tensors of shape (M, K, n)
        Logarithms of the probabilities, and the target distributions times the class weights.
    y : tensor of shape (M, n), int64
        Class indices.
    targets : Targets
        The smoothed labels.
    share : tensor of shape (M, n) or None
        Each row's share in the mean; None where all have the same.
    """
    if share is None and targets.constant is None:
        return (mass * log_p).sum((1, 2)) * (-1 / y.shape[1])
    losses = -(mass * log_p).sum(1)
    if targets.constant is not None:
        losses = losses + targets.constant.gather(1, y)
    return losses.mean(-1) if share is None else (losses * share).sum(-1)


def shares_of_mean(
    y: Tensor,
    targets: Targets,
    sample_weight: Tensor | None,
    relative_weight: Tensor | None = None,
) -> Tensor | None:
    """Give each row's share in its net's mean loss, (M, n); None where all have the same.

    A net that has no rows in the batch, where others do, has no shares. For `relative_weight` see
    :func:`stacked_loss`.
    """
    if targets.weight is None:
        if sample_weight is None:
            return None
        share = weight = sample_weight
    else:
        weight = targets.weight.gather(1, y)
        share = torch.ones_like(weight) if sample_weight is None else sample_weight
        weight = share * weight
    total = weight.sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return share / total if relative_weight is None else share * (relative_weight[:, None] / total)


def float_logits(output: Any) -> Tensor:
    """Read the logits from a module's output, as float32 whatever floats they are.

    The logits are of shape (n, K), or (n, members, K).

    Examples
    --------
    >>> import torch
    >>> float_logits((torch.zeros(1, 4), torch.zeros(1, 3, dtype=torch.bfloat16))).dtype
    torch.float32
    """
    logits = read_logits(output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            "The module's forward must return a tensor of logits, or a tuple whose last item is "
            f"one, but it returned a {type(output).__name__}."
        )
    return logits.float() if logits.is_floating_point() else logits


def logits_of(output: Any, is_probability: bool = False) -> Tensor:
    """Read the logits from an output that may be of probabilities, as NLLLoss needs them."""
    logits = float_logits(output)
    return torch.log(logits + torch.finfo(logits.dtype).eps) if is_probability else logits


def pooled(logits: Tensor) -> Tensor:
    """Give one vector of logits a row: of members, the logarithm of their mean probabilities.

    Logits of shape (n, K) are given back; (n, members, K) become (n, K), of mean zero.

    Examples
    --------
    >>> import torch
    >>> members = torch.tensor([[[0.2, 0.8], [0.4, 0.6]]]).log()
    >>> torch.softmax(pooled(members), -1)
    tensor([[0.3000, 0.7000]])
    """
    if logits.ndim != 3:
        return logits
    together = torch.log_softmax(logits, -1).logsumexp(1)
    return together - together.mean(-1, keepdim=True)


def check_logits(module: Any, logits: Tensor, n_classes: int | None) -> None:
    """Refuse logits that are not one number a row and class, or a row, member and class.

    `module`, or what makes one, is for the message; `n_classes` may be None, not known.
    """
    name = getattr(module, "__name__", type(module).__name__)
    if not logits.is_floating_point():
        raise TypeError(f"module={name} gives logits of {logits.dtype}, which must be floating.")
    if logits.ndim not in (2, 3) or n_classes not in (None, logits.shape[-1]):
        raise ValueError(
            f"module={name} gives logits of shape {tuple(logits.shape)}, but y has {n_classes} "
            f"classes: its output, of a tuple the last item, must have shape "
            f"(n_samples, {n_classes})."
        )
