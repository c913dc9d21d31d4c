"""The loss against smoothed labels, for any PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from numbers import Integral
from operator import is_
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sksmooth._checks import check_choice, check_range
from sksmooth._private import is_traced, outside_transforms
from sksmooth.smoothing import smoothing_masses

__all__ = ["LabelSmoothingLoss", "mean_loss"]

FORMS = ("cross_entropy", "kl")
REDUCTIONS = ("mean", "sum", "none")


class LabelSmoothingLoss(nn.Module):
    r"""Cross-entropy, or KL divergence, between smoothed labels and the softmax of the logits.

    The label y of a row becomes the distribution q = T[y], with T = (1 - ε) I + ε S (see
    :func:`sksmooth.smoothing_matrix`); a row of target probabilities t becomes q = t T.
    With p = softmax(logits), class weights w and sample weights s, the loss of row i is

    .. math::
        \ell_i = -s_i \sum_c w_c \, q_{ic} \log p_{ic}
        \qquad \text{or} \qquad
        \ell_i = s_i \sum_c w_c \, q_{ic} \log \frac{q_{ic}}{p_{ic}}

    for ``form="cross_entropy"`` and ``form="kl"``. The two differ by the entropy of q, which the
    logits do not enter, so they have the same gradient; the second reaches 0 at p = q.

    With ``smoothing="uniform"`` the value and the gradient are those of
    ``torch.nn.CrossEntropyLoss(label_smoothing=ε)``, whatever the weights and the reduction.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    label_smoothing : float in [0, 1), default=0.1
        The mass ε taken from the true class.
    smoothing : {"uniform", "off_target", "prior"} or array-like of shape (K, K), default="uniform"
        Where the mass goes.
    weight : tensor of shape (K,), default=None
        A weight for each class, a buffer of the module. None: 1 for each.
    reduction : {"mean", "sum", "none"}, default="mean"
        "none" gives the loss of each row, "sum" their sum, and "mean" that sum divided by the total
        weight of the rows, which is :math:`\sum_i s_i w_{y_i}` for class indices and
        :math:`\sum_i s_i` for target probabilities.
    form : {"cross_entropy", "kl"}, default="cross_entropy"
        Which of the two losses above.
    class_prior : array-like of shape (K,), default=None
        The class frequencies, needed for ``smoothing="prior"``.
    ignore_index : int, default=-100
        A class index that marks rows to be left out: every value and gradient is that of the
        batch without them, and the loss of such a row alone is 0.

    Notes
    -----
    Every parameter is an attribute that may be set between two calls. They are checked when they
    are used. To change a matrix given as `smoothing`, set a new one: an edit in place goes unseen.

    Half-precision logits are taken to float32 first, as `torch.autocast` does, and so is the loss.

    Shapes: logits (n, K), floating; target (n,), integer, or (n, K), floating; sample_weight (n,);
    the loss () or, with ``reduction="none"``, (n,). As in ``torch.nn.CrossEntropyLoss`` logits may
    also be those of one row, (K,), with a target (), or of rows with a class in many places,
    (n, K, d1, ...), with a target (n, d1, ...); target probabilities always have the logits' shape.

    Class weights with smoothing skew the target, as torch's do (its issue 104776): `weight`
    multiplies each term of the sum, so that a rare class of great weight also draws the mass that
    other rows give it. Where a weight for the rows of a class is meant, use `sample_weight`, or
    `class_weight` of :class:`sksmooth.LabelSmoothingClassifier`, which weigh whole rows.

    A row whose label is `ignore_index` never counts. In torch it did in part, with smoothing or
    with class weights (its issues 73205 and 69339).

    References
    ----------
    Szegedy et al. (2016), Rethinking the Inception Architecture for Computer Vision, section 7.

    Examples
    --------
    >>> import torch
    >>> from sksmooth.losses import LabelSmoothingLoss
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    >>> target = torch.tensor([0, 2])
    >>> loss = LabelSmoothingLoss(label_smoothing=0.1)(logits, target)
    >>> loss.backward()
    >>> torch.testing.assert_close(
    ...     loss, torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, target)
    ... )
    >>> LabelSmoothingLoss(0.1, "off_target", form="kl", reduction="none")(logits, target)
    tensor([0.0451, 1.1070], grad_fn=<...>)
    """

    weight: Tensor | None
    ignore_index = -100  # of losses that were pickled before there was one

    def __init__(
        self,
        label_smoothing: float = 0.1,
        smoothing: str | ArrayLike | Tensor = "uniform",
        weight: Tensor | None = None,
        reduction: str = "mean",
        form: str = "cross_entropy",
        class_prior: ArrayLike | Tensor | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.smoothing = smoothing
        if weight is not None and not isinstance(weight, Tensor):
            raise TypeError(f"weight must be a torch.Tensor, one weight a class, got {weight!r}.")
        self.register_buffer("weight", weight)
        self.reduction = reduction
        self.form = form
        self.class_prior = class_prior
        self.ignore_index = ignore_index
        self._cache: tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]] | None = None

    def forward(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        logits : tensor of shape (n, K), (K,) or (n, K, d1, ...), floating
            The net's raw output.
        target : tensor of shape (n,), () or (n, d1, ...), integer, or of the logits', floating
            Class indices, or one distribution over the classes a row.
        sample_weight : tensor of shape (n,), () or (n, d1, ...), default=None
            A weight for each row; an integer weight counts as that many copies of the row. The
            mean over rows that all have weight 0 is NaN, like that over no rows.

        Returns
        -------
        tensor of shape (), or with ``reduction="none"`` of the shape of class indices
            The loss, reduced as `reduction` says.

        Raises
        ------
        TypeError
            If an argument has the wrong type or dtype.
        ValueError
            If shapes do not match, a label is out of range, or a parameter of the loss has a value
            it cannot have.
        """
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_choice("form", self.form, FORMS)
        if not isinstance(self.ignore_index, Integral) or isinstance(self.ignore_index, bool):
            raise TypeError(f"ignore_index must be an integer, got {self.ignore_index!r}.")
        shape = _check_shapes(logits, target, self.weight, sample_weight)
        if logits.ndim != 2:
            logits, target, sample_weight = _as_rows(logits, target, sample_weight)
        if not self._must_look_for_ignored(logits, target):
            with suppress(IndexError):  # of a label out of range, perhaps one to be ignored
                losses = self._loss_of_rows(logits, target, sample_weight)
                return losses.view(shape) if self.reduction == "none" else losses
        return self._loss_without_ignored(logits, target, sample_weight, shape)

    def _must_look_for_ignored(self, logits: Tensor, target: Tensor) -> bool:
        """Tell whether no label out of range would betray a row that is to be ignored."""
        if target.is_floating_point():
            return False
        n_classes = logits.shape[1]
        if 0 <= self.ignore_index < n_classes or is_traced(target):
            return True
        if target.is_cpu:
            return False
        # An index error on an accelerator ends the process's use of it.
        return bool(((target < 0) | (target >= n_classes)).any())

    def _loss_without_ignored(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None, shape: torch.Size
    ) -> Tensor:
        target = target.long()
        kept = target != self.ignore_index
        target = target.where(kept, 0)
        if not is_traced(target):
            n_classes = logits.shape[1]
            hint = f", the logits having {n_classes} columns"
            check_range("target", target.view(shape), n_classes, hint)
        # Rows are masked and not left out, as their number is unknown where the call is traced.
        logits = logits.where(kept[:, None], 0)
        weight = kept if sample_weight is None else sample_weight.where(kept, 0)
        losses = self._loss_of_rows(logits, target, weight)
        return losses.view(shape) if self.reduction == "none" else losses

    def _loss_of_rows(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        masses, own = self._masses(logits)
        if target.is_floating_point():
            distribution = _smoothed(target.to(logits.dtype), masses, own)
            row_weight = None
        else:
            target = target.long()
            distribution = _smoothed_labels(target, masses, own)
            row_weight = None if weight is None else weight.index_select(0, target)

        losses = _divergence(logits, distribution, weight, self.form)
        if sample_weight is not None:
            sample_weight = sample_weight.to(losses.dtype)
            losses = losses * sample_weight
            row_weight = sample_weight if row_weight is None else sample_weight * row_weight
        if self.reduction == "none":
            return losses
        if self.reduction == "sum":
            return losses.sum()
        return losses.mean() if row_weight is None else losses.sum() / row_weight.sum()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}  # so that no CUDA tensor travels unasked

    def extra_repr(self) -> str:
        """Show the parameters in the module's repr."""
        smoothing = self.smoothing if isinstance(self.smoothing, str) else "matrix"
        return (
            f"label_smoothing={self.label_smoothing}, smoothing={smoothing!r}, "
            f"reduction={self.reduction!r}, form={self.form!r}, ignore_index={self.ignore_index}"
        )

    def _masses(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what tells T for these logits, made anew when a parameter or their kind changed.

        Parameters are compared by identity, since arrays have no cheap equality.
        """
        parameters = (self.label_smoothing, self.smoothing, self.class_prior)
        kind = (logits.shape[1], logits.dtype, logits.device)
        if self._cache is not None:
            cached_parameters, cached_kind, tables = self._cache
            if kind == cached_kind and all(map(is_, parameters, cached_parameters)):
                return tables
        # A tensor made in inference mode, or in a transform, could not serve a later step.
        with torch.inference_mode(False), outside_transforms():
            arrays = smoothing_masses(
                self.label_smoothing, logits.shape[1], self.smoothing, self.class_prior
            )
            tables = tuple(
                own if own is None else torch.from_numpy(own).to(logits) for own in arrays
            )
        self._cache = (parameters, kind, tables)
        return tables


def mean_loss(
    criterion: nn.Module,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    relative_weight: Tensor | None = None,
) -> Tensor:
    """Compute a criterion's loss of a batch; zero where it ignores all rows of it.

    Parameters
    ----------
    criterion : nn.Module
        A :class:`LabelSmoothingLoss`, or a criterion of torch's with the attribute `reduction`.
    logits : tensor of shape (n, K), floating
        The net's raw output.
    target : tensor of shape (n,), integer
        Class indices.
    sample_weight : tensor of shape (n,) or None
        Weights of the rows; an integer weight counts as that many copies of the row.
    relative_weight : tensor of shape (), default=None
        What the batch's rows weigh in the mean, that of all rows being one, or one if that is more:
        multiplies the mean.

    Returns
    -------
    tensor of shape ()
        The mean of the rows' losses, or their sum where the criterion gives that.

    Raises
    ------
    ValueError
        If the criterion gives no losses of single rows.

    Examples
    --------
    >>> import torch
    >>> logits, target = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
    >>> mean_loss(torch.nn.CrossEntropyLoss(), logits, target, torch.tensor([1.0, 0.0]))
    tensor(0.3133)
    """
    ignored = getattr(criterion, "ignore_index", -1)
    if isinstance(ignored, int) and ignored >= 0 and bool((target == ignored).all()):
        return logits.sum() * 0
    if sample_weight is None:
        return criterion(logits, target)
    if relative_weight is not None and getattr(criterion, "reduction", None) == "mean":
        return relative_weight * mean_loss(criterion, logits, target, sample_weight)
    if isinstance(criterion, LabelSmoothingLoss):
        return criterion(logits, target, sample_weight)
    plain: Any = criterion
    reduction = getattr(plain, "reduction", None)
    if reduction is None:
        raise ValueError(
            f"sample_weight and class_weight need a criterion with a reduction attribute; "
            f"{type(criterion).__name__} has none."
        )
    plain.reduction = "none"
    try:
        losses = plain(logits, target)
    finally:
        plain.reduction = reduction
    sample_weight = sample_weight * (target != ignored)
    summed = (losses * sample_weight).sum()
    if reduction == "sum":
        return summed
    weight = getattr(plain, "weight", None)
    total = sample_weight if weight is None else sample_weight * weight[target]
    return summed / total.sum()


@contextmanager
def telling_of_criterion(criterion: Any, logits: Tensor, target: Tensor) -> Iterator[None]:
    """Let what goes wrong in another library's criterion say which it is, and of what shapes."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(criterion, LabelSmoothingLoss) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"criterion={type(criterion).__name__} cannot compare logits of shape "
            f"{tuple(logits.shape)} with class indices of shape {tuple(target.shape)}: {error}"
        ) from error


def _smoothed_labels(target: Tensor, masses: Tensor, own: Tensor | None) -> Tensor:
    """Give the rows T[y], of shape (n, K)."""
    if own is None:
        return masses.index_select(0, target)
    of_label = own.index_select(0, target)  # first: its error of a label out of range is known
    return masses.expand(len(target), -1).scatter(1, target[:, None], of_label[:, None])


def _smoothed(target: Tensor, masses: Tensor, own: Tensor | None) -> Tensor:
    """Give the rows t T, of shape (n, K); as torch has it where those of t do not sum to one."""
    if own is not None:
        return target * own + (1 - target) * masses
    with torch.autocast(target.device.type, enabled=False):  # it would round T to half
        return target @ masses


def _divergence(logits: Tensor, distribution: Tensor, weight: Tensor | None, form: str) -> Tensor:
    """Compute each row's cross-entropy or KL divergence, of shape (n,)."""
    log_proba = F.log_softmax(logits, dim=1)
    # A class without mass costs nothing, even where its logit is masked with -inf.
    log_proba = log_proba.masked_fill((distribution == 0) & log_proba.isneginf(), 0.0)
    terms = -distribution * log_proba
    if form == "kl":
        terms = terms + torch.xlogy(distribution, distribution)
    return (terms if weight is None else terms * weight).sum(dim=1)


def _as_rows(
    logits: Tensor, target: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Make rows of one sample alone, or of samples that have a class in many places."""

    def rows(values: Tensor) -> Tensor:
        return values[None] if values.ndim == 1 else values.movedim(1, -1).flatten(0, -2)

    weight = None if sample_weight is None else sample_weight.flatten()
    return rows(logits), rows(target) if target.is_floating_point() else target.flatten(), weight


def _check_shapes(
    logits: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None
) -> torch.Size:
    """Return the shape of the losses: that of the logits without their classes."""
    for name, value in (("logits", logits), ("target", target), ("sample_weight", sample_weight)):
        if not isinstance(value, Tensor) and not (name == "sample_weight" and value is None):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if not logits.is_floating_point():
        raise TypeError(f"logits must have a floating dtype, got {logits.dtype}.")
    if not logits.ndim or (logits.ndim == 1 and target.ndim and not target.is_floating_point()):
        raise ValueError(
            f"logits must have shape (n_samples, n_classes) for a target of shape "
            f"{tuple(target.shape)}, got {tuple(logits.shape)}."
        )
    is_one = logits.ndim == 1
    n_classes = logits.shape[0 if is_one else 1]
    shape = torch.Size() if is_one else logits.shape[:1] + logits.shape[2:]
    if target.is_floating_point():
        _check_probability_target(logits, target, shape)
    else:
        _check_index_target(logits, target, shape)
    if weight is not None and weight.shape != (n_classes,):
        raise ValueError(
            f"weight must have shape ({n_classes},), one weight a class, got {tuple(weight.shape)}."
        )
    if sample_weight is not None and sample_weight.shape != shape:
        raise ValueError(
            f"sample_weight must have shape {tuple(shape)}, one weight a row, "
            f"got {tuple(sample_weight.shape)}."
        )
    return shape


def _check_probability_target(logits: Tensor, target: Tensor, shape: torch.Size) -> None:
    if target.shape == logits.shape:
        return
    if target.ndim == 1 or target.shape == shape:
        raise TypeError(
            f"target of shape {tuple(target.shape)} must hold class indices of an integer dtype, "
            f"got {target.dtype}: convert it, for example target.long()."
        )
    _check_not_a_column(logits, target)
    raise ValueError(
        f"target of probabilities must have the logits' shape {tuple(logits.shape)}, "
        f"got {tuple(target.shape)}."
    )


def _check_index_target(logits: Tensor, target: Tensor, shape: torch.Size) -> None:
    if target.is_complex():
        raise TypeError(f"target must have an integer or floating dtype, got {target.dtype}.")
    if target.shape == shape:
        return
    _check_not_a_column(logits, target)
    if target.shape == logits.shape:
        raise TypeError(
            f"target of shape {tuple(target.shape)} must hold probabilities of a floating dtype, "
            f"got {target.dtype}: convert it, for example target.float()."
        )
    classes_last = target.shape == logits.shape[:-1]
    raise ValueError(
        f"target of class indices must have shape {tuple(shape)} like the logits' rows, "
        f"got {tuple(target.shape)}."
        + (" Classes stand in axis 1: give logits.movedim(-1, 1)." if classes_last else "")
    )


def _check_not_a_column(logits: Tensor, target: Tensor) -> None:
    if logits.ndim == 2 and target.ndim == 2 and target.shape[1] == 1:
        raise ValueError(
            f"target must have shape (n_samples,), got {tuple(target.shape)}: squeeze it, "
            "for example target.squeeze(1), and give class indices of an integer dtype."
        )
