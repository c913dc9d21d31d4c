"""What comes after the logits: labels, scores and confidence; and rows in chunks, filled up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from sksmooth._checks import as_numpy, warn_user
from sksmooth._module import ProbabilityModule, refuse_own_prediction
from sksmooth.calibration import CALIBRATORS, are_probabilities, softmax_in_place
from sksmooth.modules import read_logits

# Rows of one forward pass in prediction: enough to make its overhead small, few enough that the
# activations stay in the processor's cache.
PREDICTION_ROWS = 8192
# And of their inputs: rows are copied to be filled up.
PREDICTION_NUMBERS = 2**22

# A matrix product rounds the rows of its kernel's blocks alike and those left over otherwise. This
# is a multiple of MKL's block. (Its results also depend on a row's alignment, where a layer has at
# most 10 outputs and the number of its inputs is no multiple of 4.)
ROWS_OF_A_BLOCK = 16

# So many tell whether a module gives probabilities.
ROWS_THAT_TELL = 64

# Products of parameters beyond this may overflow in a few layers.
LARGE_PARAMETER = 1e4


class PredictsByProbability:
    """Labels, scores and confidence, by the logits and probabilities that a class gives."""

    classes_: Any
    predict_proba: Callable[[Any], NDArray]
    predict_log_proba: Callable[[Any], NDArray]

    def warn_if_never_calibrated(self) -> None:
        """Do nothing, where what is fitted is calibrated."""

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Give scores whose largest names the predicted class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows; for LabelSmoothingClassifier also a torch Dataset.

        Returns
        -------
        ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes), float64
            The log-odds of the second class, or the logarithms of the probabilities.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        scores = self.predict_log_proba(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def confidence(self, X: Any) -> NDArray[np.float64]:
        """Give scores that order rows by how likely their predicted label is right.

        For rejecting the rows of lowest confidence, or handing them to someone: the margin between
        the two largest calibrated probabilities [1]_, which says how far the next best label is.
        With two classes it orders rows as the largest probability does; with more, rows whose
        other classes share what is left come before those that are torn between two.
        RiskCoverageDisplay compares the two orders.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows; for LabelSmoothingClassifier also a torch Dataset.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In [0, 1]; the higher, the surer.

        Raises
        ------
        NotFittedError
            Before ``fit``.

        See Also
        --------
        sksmooth.RiskCoverageDisplay : Draws the error rate among the rows kept.

        References
        ----------
        .. [1] Scheffer, Decomain & Wrobel (2001), Active Hidden Markov Models for Information
           Extraction (the margin).

        Examples
        --------
        >>> import numpy as np
        >>> from sksmooth import LabelSmoothingClassifier, make_tabular
        >>> X, y = make_tabular(600, random_state=0)
        >>> clf = LabelSmoothingClassifier(random_state=0).fit(X[:300], y[:300])
        >>> confidence = clf.confidence(X[300:])
        >>> correct = clf.predict(X[300:]) == y[300:]
        >>> sure = confidence >= np.median(confidence)
        >>> bool(correct[sure].mean() > correct[~sure].mean())
        True
        """
        second, first = np.partition(self.predict_proba(X), -2, axis=1)[:, -2:].T
        return first - second

    def predict(self, X: Any) -> NDArray:
        """Give the most probable label of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or of more dimensions
            Rows; for LabelSmoothingClassifier also a torch Dataset.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, of the kind that ``fit`` was given.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        return self._labels(self.predict_proba(X).argmax(axis=1))

    def as_module(self) -> ProbabilityModule:
        """Give a torch module that maps rows to calibrated probabilities, without scikit-learn.

        Returns
        -------
        torch module
            In evaluation mode, with a copy of the parameters. Takes a tensor of shape
            (n_samples, n_features), gives one of shape (n_samples, n_classes), float32, in the
            order of `classes_`: those of ``predict_proba`` but for float32's rounding.

        Raises
        ------
        TypeError
            For a calibrator of one's own, which torch cannot run, or a subclass with a
            ``predict_proba`` of its own.

        Examples
        --------
        >>> import torch
        >>> from sksmooth import LabelSmoothingClassifier, make_tabular
        >>> X, y = make_tabular(200, random_state=0)
        >>> module = LabelSmoothingClassifier(max_epochs=5, random_state=0).fit(X, y).as_module()
        >>> module(torch.from_numpy(X[:2])).shape
        torch.Size([2, 3])
        """
        check_is_fitted(self)
        self.warn_if_never_calibrated()
        nets = getattr(self, "estimators_", [self])
        refuse_own_prediction(self, nets)
        return ProbabilityModule(nets, getattr(self, "calibrator_", None))

    def _labels(self, codes: NDArray) -> NDArray:
        return self.classes_[codes]

    @property
    def labels_of_columns(self) -> NDArray:
        """What ``predict`` names the columns of probabilities; in training, their indices."""
        return self._labels(np.arange(len(self.classes_)))


class KnownProbabilities(PredictsByProbability, ClassifierMixin, BaseEstimator):
    """A fitted classifier, for scorers, that knows the probabilities of `rows`, and of no others.

    Of rows that are equal it tells them apart only where it is asked for all.
    """

    def __init__(self, classes_: NDArray, proba: NDArray, rows: Any) -> None:
        self.classes_ = classes_
        self.proba = proba
        self.rows = rows

    def fit(self, X: Any, y: Any) -> KnownProbabilities:
        """Do nothing: scikit-learn asks for it."""
        return self

    def predict_proba(self, X: NDArray) -> NDArray:
        """Give the probabilities of the rows, or of some."""
        if X is self.rows:
            return self.proba.copy()
        numbers = {row.tobytes(): number for number, row in enumerate(_plain(self.rows))}
        try:
            return self.proba[[numbers[row.tobytes()] for row in _plain(X)]]
        except KeyError:
            raise ValueError(
                "A scorer must ask for the probabilities of the rows that it is given."
            ) from None

    def predict_log_proba(self, X: NDArray) -> NDArray:
        """Give their logarithms."""
        return finite_log(self.predict_proba(X))


def _plain(X: Any) -> NDArray[np.float64]:
    return np.ascontiguousarray(as_numpy(X), np.float64)


def probabilities(logits: NDArray[np.float64], calibrator: Any) -> NDArray[np.float64]:
    """Give the probabilities that a calibrator makes of logits, which may be overwritten.

    Where there is none, they are those of a softmax.
    """
    if calibrator is None:
        return softmax_in_place(logits)
    if type(calibrator) in CALIBRATORS.values():
        return calibrator.apply_in_place(logits)
    return calibrator.predict_proba(logits)


def log_probabilities(logits: NDArray[np.float64], calibrator: Any) -> NDArray[np.float64]:
    """Give the logarithms of the probabilities, finite where those underflow.

    The logits may be overwritten.
    """
    if calibrator is None:
        return softmax_in_place(logits, log=True)
    if type(calibrator) in CALIBRATORS.values():
        return calibrator.apply_in_place(logits, log=True)
    if not hasattr(calibrator, "predict_log_proba"):
        return finite_log(probabilities(logits, calibrator))
    with np.errstate(divide="ignore"):  # what underflows is mended here
        log_proba = calibrator.predict_log_proba(logits)
    return np.maximum(log_proba, np.finfo(np.float64).min)


def finite_log(proba: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the logarithms of probabilities, finite where those are zero."""
    return np.log(np.maximum(proba, np.finfo(np.float64).tiny))


def fill_up(X: torch.Tensor, block: int = ROWS_OF_A_BLOCK) -> torch.Tensor:
    """Add copies of the first row, so that a row's logits do not depend on its company.

    The rows of a matrix product are rounded alike only where their number fills the blocks that
    the product is made of.
    """
    n_missing = -X.shape[0] % block
    if n_missing == 0:
        return X
    if X.shape[0] == 1:
        return X.expand(block, *X.shape[1:])
    return torch.cat([X, X[:1].expand(n_missing, *X.shape[1:])])


def rows_that_pay(n_numbers: int, most: int = PREDICTION_ROWS) -> int:
    """Give how many rows, each read as so many numbers, to predict at once where nobody set it.

    Examples
    --------
    >>> rows_that_pay(10), rows_that_pay(10_000)
    (8192, 419)
    """
    return max(ROWS_OF_A_BLOCK, min(most, PREDICTION_NUMBERS // max(n_numbers, 1)))


def whole_blocks(most: int) -> tuple[int, int]:
    """Give how many rows to predict at once, `most` at most, and of which blocks they are whole.

    Examples
    --------
    >>> whole_blocks(100), whole_blocks(3)
    ((96, 16), (3, 3))
    """
    block = min(ROWS_OF_A_BLOCK, most)
    return most - most % block, block


def in_one_array(chunks: Iterable[NDArray], n_rows: int | None) -> NDArray[np.float64]:
    """Join chunks of rows, in one array made beforehand, lest they break up the memory.

    Freed memory between small arrays that stay is too small for the next chunk's activations.
    `n_rows` is how many they have together, where that is known.
    """
    joined, end = np.empty(0), 0
    for chunk in chunks:
        begin, end = end, end + len(chunk)
        if begin == 0:
            joined = np.empty((n_rows or end, *chunk.shape[1:]))
        if end > len(joined):
            grown = np.empty((2 * end, *chunk.shape[1:]))
            grown[:begin] = joined[:begin]
            joined = grown
        joined[begin:end] = chunk
    return joined[:end]


def clip_infinite(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take infinite logits for float32's largest number."""
    largest = np.finfo(np.float32).max
    return np.clip(logits, -largest, largest)


def mend_overflow(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take infinite logits for float32's largest number; refuse NaN."""
    rows = np.isnan(logits).any(axis=1)
    if rows.any():
        raise ValueError(
            f"The module's output is NaN for {rows.sum()} of {len(logits)} rows. Their features "
            "may be NaN, or far larger than those of the rows trained on."
        )
    return clip_infinite(logits)


def largest_parameter(modules: Iterable[torch.nn.Module]) -> float:
    """Give the largest absolute value among modules' parameters: NaN if one is, 0 for none."""
    parameters = [own.detach() for module in modules for own in module.parameters() if own.numel()]
    return float(np.max([float(own.abs().max()) for own in parameters], initial=0.0))


def warn_of_probabilities(net: Any, logits: NDArray, X: Any) -> None:
    """Warn if what a net's module gives for logits are probabilities or their logarithms.

    `X` are rows that the module takes.
    """
    if isinstance(getattr(net, "criterion_", None), torch.nn.NLLLoss):  # which asks for them
        return
    kind = f"The outputs of module={type(getattr(net, 'module_', None)).__name__}"
    is_proba = are_probabilities(logits)
    if is_proba or ((logits <= 0).all() and are_probabilities(np.exp(logits))):
        what = "probabilities" if is_proba else "logarithms of probabilities"
        layer = "softmax" if is_proba else "log_softmax"
        warn_user(
            f"{kind} look like {what}, but logits are expected: leave out the {layer} at its end, "
            "or use criterion=torch.nn.NLLLoss, label_smoothing=0 with probabilities.",
        )
    elif (logits >= 0).all() and (logits <= 1).all() and _last_operation(net, X) == "Sigmoid":
        warn_user(
            f"{kind} come from a sigmoid, but logits are expected, one for each class: leave out "
            "the sigmoid at its end."
        )


def _last_operation(net: Any, X: Any) -> str:
    """Name what a net's module does last, as autograd sees it; numbers alone do not tell."""
    batch = next(iter(net.get_iterator(net.get_dataset(X))))
    net._set_training(False)
    with torch.enable_grad():
        output = read_logits(net.infer(batch[0]))
    return "" if output.grad_fn is None else output.grad_fn.name().removesuffix("Backward0")
