"""Checks rows, encodes their labels, weighs them: once, for all nets that are trained on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import skorch.dataset
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from skorch.dataset import unpack_data
from skorch.helper import SliceDataset
from skorch.utils import is_dataset
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sksmooth._batches import TensorRows, encoded, read_labels, row_of_other_label
from sksmooth._checks import in_short, one_hot_hint, scale_to_unit, warn_user, without_tensor
from sksmooth._labels import distinct, encode, refuse_missing, refuse_no_classes
from sksmooth.calibration import weights_of_rows
from sksmooth.encoding import Encoding, check_encoding
from sksmooth.modules import input_dtype

# How scikit-learn is to check X.
_FLOAT32_ROWS = {"dtype": np.float32, "order": "C", "allow_nd": True}

# Of the ranges of two columns of numbers: scaled columns, also those with a long tail, are far
# closer together, and so are pixels, some of which are dark in most images.
LARGEST_RATIO = 300.0
# Of the largest range of a column, and of the distance of its middle from zero in such ranges:
# beyond, the log-loss of the default net on scaled tables was a tenth higher or more.
SMALLEST_RANGE, LARGEST_RANGE = 0.05, 1000.0
LARGEST_DISTANCE = 7.0
ROWS_TO_LOOK_AT = 10_000
ROWS_OF_A_DATASET = 256  # each of which may have to be read from a file

# Between which the largest weight may be, so that float32 holds sums of weights and shares of them.
FLOAT32_WEIGHTS = 1e-30, 1e30


@dataclass(frozen=True)
class Table:
    """Rows that were checked: shared by all nets that are trained on them, never copied."""

    rows: Dataset  # TensorRows with those of a weight above 0; or what is read batch by batch
    codes: NDArray[np.int64] | None  # their class indices, where they are known beforehand
    all_codes: NDArray[np.int64] | None  # those of all rows that were given
    kept: NDArray[np.intp] | None  # which of these are in `rows`; None: all
    classes: NDArray  # the labels
    class_prior: NDArray[np.float64]  # the weighted frequencies of the classes
    class_weight: NDArray[np.float64] | None  # the weights of the classes
    n_inputs: int  # numbers of a row
    n_features_in: int | None  # of a row; None where a Dataset's has more than one dimension
    feature_names_in: NDArray | None
    encodings: dict[str, Encoding] = field(default_factory=dict, repr=False)  # learned already
    remarks: list[str] = field(default_factory=list, repr=False)  # to be warned of, once

    def encode(self, encoding: Encoding) -> Encoding:
        """Let an encoding learn from the rows, once for all that are alike."""
        if encoding.n_features is not None:
            return encoding
        if not isinstance(self.rows, TensorRows):
            raise ValueError(
                f"module__encoding={encoding!r} learns from rows in memory, got a "
                f"{type(self.rows).__name__}: give an encoding that has learned already."
            )
        if repr(encoding) not in self.encodings:
            rows = self.rows
            self.encodings[repr(encoding)] = encoding.learn(rows.X, rows.sample_weight)
        return self.encodings[repr(encoding)]

    def warn_who_takes_numbers(self, module: torch.nn.Module | None) -> None:
        """Say what is to be said of the rows, but of ids, which an Embedding takes, nothing."""
        while self.remarks and (module is None or input_dtype(module).is_floating_point):
            warn_user(self.remarks.pop())

    def introduce_to(self, estimator: Any) -> None:
        """Set what an estimator learns of its rows before training begins."""
        estimator.classes_inferred_ = self.classes
        estimator.class_prior_ = self.class_prior
        estimator.class_weight_ = self.class_weight
        estimator.n_inputs_ = self.n_inputs
        encoding = check_encoding(estimator.get_params_for("module").get("encoding"))
        estimator.learned_ = {"encoding": self.encode(encoding)} if encoding else {}
        for name in ("n_features_in", "feature_names_in"):
            value = getattr(self, name)
            if value is None:  # there may be one of rows fitted before
                estimator.__dict__.pop(f"{name}_", None)
            else:
                setattr(estimator, f"{name}_", value)


def check_rows(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    classes: Any,
    *,
    reset: bool,
    owner: Any = None,
) -> Table:
    """Check training rows, labels and weights, as ``fit`` is given them.

    With `reset` the `owner`, or the estimator where that is None, learns the number of features and
    their names, and the classes have the frequencies of these rows; else all that must be as the
    estimator knows it. The owner is who messages name. `classes` of None are those of `y`.
    """
    X, y = as_array(X), as_array(y)
    if is_several_inputs(X) or is_dataset(X):
        _refuse_weights(estimator, X, sample_weight)
        dataset = skorch.dataset.Dataset(check_inputs(X), y) if is_several_inputs(X) else X
        return _check_dataset(estimator, dataset, y, classes, reset=reset)
    refuse_missing(y, "y")
    owner = estimator if owner is None else owner
    name = type(owner).__name__
    _refuse_one_hot(np.asarray(y).shape)
    given = X
    X, y = _checked(owner, X, y, reset=reset)
    remarks = _remarks_on_rounding(owner, given, X)
    labels = distinct(owner, *((y, "y") if classes is None else (classes, "classes")))
    # Of those kinds they are classes for sure, unless scikit-learn warns that they are too many.
    if y.dtype.kind not in "biuU" or 2 * len(labels) > len(y):
        refuse_no_classes(y)
    all_codes = codes = encode(y, labels)
    weight, class_weight = _weigh_rows(estimator, X, codes, sample_weight, labels)
    kept = None
    if weight is not None and not weight.all():
        kept = np.flatnonzero(weight)
        X, codes, weight = X[kept], codes[kept], weight[kept]
    counts = np.bincount(codes, weights=weight, minlength=len(labels))
    if classes is None and np.count_nonzero(counts) < 2:
        raise ValueError(
            f"{name} needs rows of at least two classes, but those of a weight "
            f"above 0 are of one class, {labels.tolist()[counts.argmax()]!r}."
        )
    if weight is not None and estimator.dataset is not TensorRows:
        raise ValueError("sample_weight and class_weight need the default dataset.")
    if estimator.dataset is TensorRows:
        device = estimator.device
        weights = None if weight is None else as_tensor(weight).to(device)
        rows: Dataset = TensorRows(as_tensor(X).to(device), as_tensor(codes).to(device), weights)
    else:
        rows = estimator.get_dataset(X, codes)
    return Table(
        rows,
        codes,
        all_codes,
        kept,
        labels,
        counts / counts.sum() if reset else estimator.class_prior_,
        class_weight,
        int(np.prod(X.shape[1:])),
        owner.n_features_in_,
        getattr(owner, "feature_names_in_", None),
        remarks=remarks or _remarks_on_scales(name, X),
    )


def _refuse_one_hot(shape: tuple[int, ...]) -> None:
    if hint := one_hot_hint("y", shape):
        raise ValueError(f"y should be a 1d array, got an array of shape {shape} instead.{hint}")


def _refuse_weights(estimator: Any, X: Any, sample_weight: Any) -> None:
    given = {"sample_weight": sample_weight, "class_weight": estimator.class_weight}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} needs X as an array; X is a {type(X).__name__}.")


def _check_dataset(estimator: Any, dataset: Any, y: Any, classes: Any, *, reset: bool) -> Table:
    """Check a torch Dataset of pairs (X, label); its rows are read batch by batch."""
    kind = type(dataset).__name__
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"X is a {kind} without any rows.")
    inputs, label = unpack_data(first if isinstance(first, tuple | list) else (first,))
    _refuse_one_hot((1, np.size(without_tensor(label))))
    given_labels = None
    if y is not None or classes is None or isinstance(dataset, TensorRows):
        given_labels = np.asarray(as_array(read_labels(dataset) if y is None else y))
        refuse_missing(given_labels, "y")
        refuse_no_classes(given_labels)
    of_y = classes is None
    labels = distinct(estimator, *((given_labels, "y") if of_y else (classes, "classes")))
    rows = encoded(dataset, labels, label)
    has_codes = rows is dataset
    _check_labels_of(dataset, given_labels, labels, estimator.train_split, has_codes=has_codes)
    row = None if y is None else row_of_other_label(dataset, y)
    if row is not None:
        raise ValueError(
            f"y says otherwise than row {row} of the {kind}, whose label {dataset[row][1]!r} "
            "would be trained on; leave out y."
        )
    codes = None if given_labels is None else encode(given_labels, labels)
    n_classes = len(labels)
    counts = np.ones(n_classes) if codes is None else np.bincount(codes, None, n_classes)
    is_one = not isinstance(inputs, Mapping | tuple | list)
    parts = [inputs] if is_one else inputs.values() if isinstance(inputs, Mapping) else inputs
    is_table = is_one and np.ndim(inputs) == 1
    return Table(
        rows,
        codes,
        codes,
        None,
        labels,
        counts / counts.sum() if reset else estimator.class_prior_,
        None,
        sum(math.prod(np.shape(part)) for part in parts),
        len(inputs) if is_table else None,
        None,
        remarks=_remarks_on_dataset(type(estimator).__name__, dataset) if is_table else [],
    )


def _remarks_on_dataset(name: str, dataset: Any) -> list[str]:
    """Give what to say of the columns of a Dataset, by rows from all over it.

    The first rows of a stream would not do: they may be in an order.
    """
    if isinstance(dataset, IterableDataset):
        return []
    step = -(-len(dataset) // ROWS_OF_A_DATASET)
    rows = [without_tensor(dataset[index][0]) for index in range(0, len(dataset), step)]
    if len({np.shape(row) for row in rows}) > 1:  # which a collate_fn may pad
        return []
    some = check_array(np.stack(rows), dtype=np.float64, input_name="X")
    return _remarks_on_scales(name, some)


def _check_labels_of(
    dataset: Any, y: NDArray | None, labels: NDArray, train_split: Any, *, has_codes: bool
) -> None:
    """Refuse labels that do not belong to a Dataset's rows, or rows that cannot be numbered."""
    kind = type(dataset).__name__
    if not isinstance(dataset, IterableDataset):
        if y is not None and len(y) != len(dataset):
            raise ValueError(f"y has {len(y)} labels, but X is a {kind} of {len(dataset)} rows.")
        return
    if isinstance(train_split, Real | str):
        raise ValueError(
            f"train_split={train_split!r} holds out rows by their numbers, which those of a "
            f"{kind}, an IterableDataset, do not have; set train_split=None, or to "
            "skorch.helper.predefined_split(dataset)."
        )
    if not has_codes:
        raise ValueError(
            f"The labels of a {kind}, an IterableDataset, must be the integers 0, 1, ..., as "
            f"numbers of an integer type, but the classes are {in_short(labels)}."
        )


def check_new_rows(estimator: Any, X: Any) -> torch.Tensor:
    """Check rows that are to be predicted: of the features trained on, and finite."""
    X = as_array(X)
    if _is_plain(estimator, X):  # whose check costs more than one row's way through the net
        rows = np.ascontiguousarray(X)
        if rows.dtype != np.float32:
            with np.errstate(over="ignore"):
                rows = rows.astype(np.float32)
        if math.isfinite(rows.sum(dtype=np.float64)):
            return as_tensor(rows)
    refuse_dataset(X, f"{type(estimator).__name__} predicts rows in memory")
    if hasattr(estimator, "n_features_in_"):
        X = _checked(estimator, X, reset=False)
    return as_tensor(np.asarray(X, dtype=np.float32))


def _is_plain(estimator: Any, X: Any) -> bool:
    """Tell whether X is an array of numbers of the shape that was trained on, without names."""
    known = estimator.__dict__
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in (np.float32, np.float64)
        and len(X) > 0
        and X.shape[1] == known.get("n_features_in_")
        and "feature_names_in_" not in known
    )


def _checked(owner: Any, X: Any, *y: Any, reset: bool) -> Any:
    """Check rows as scikit-learn does; name the columns that are no numbers."""
    name = type(owner).__name__
    frame = _frame(X)
    dates = {
        column: "durations" if dtype.kind == "m" else "dates"
        for column, dtype in zip(frame.columns, frame.dtypes, strict=True)
        if dtype.kind in "mM" or str(dtype).startswith("period")
    }
    if dates:  # which would pass for numbers, if they are alone
        raise _other_columns(name, {**_columns_without_numbers(frame), **dates})
    try:
        return validate_data(owner, X, *y, reset=reset, **_FLOAT32_ROWS)
    except (TypeError, ValueError) as error:
        if any(isinstance(dtype, pd.SparseDtype) for dtype in frame.dtypes):
            raise TypeError(
                "X is a frame of sparse columns, but dense ones are required: X.sparse.to_dense()."
            ) from error
        first = X[0] if isinstance(X, list) and X else None
        if isinstance(first, tuple) and any(map(np.ndim, first)):  # a Dataset that was indexed
            raise ValueError(f"X must hold rows, but it holds pairs. {_SLICE_DATASET}") from error
        n_labels = np.shape(y[0])[:1] if y else ()
        if n_labels and _holds_inputs(X, n_labels[0]):
            raise ValueError(
                f"X must hold rows, but it is a {type(X).__name__} of {len(X)} arrays of "
                f"{n_labels[0]} rows each. Give several inputs of a module as a dict, by the names "
                "of forward's arguments, and columns as one array, numpy.column_stack(X)."
            ) from error
        if getattr(getattr(X, "dtype", None), "names", None):
            raise TypeError(
                "X must be a table, but it is a structured array, of one dimension; give "
                "pandas.DataFrame(X)."
            ) from error
        is_column = isinstance(X, np.ndarray | pd.Series) and X.ndim == 1 and len(X) > 0
        if is_column and all(map(np.ndim, X)):
            raise ValueError(
                "X must be a table, but it is a column of arrays or lists, each the numbers of a "
                "row; give numpy.stack(list(X))."
            ) from error
        columns = _columns_without_numbers(_frame(X, of_any=isinstance(error, ValueError)))
        if columns:
            raise _other_columns(name, columns) from error
        raise


def _holds_inputs(X: Any, n_rows: int) -> bool:
    """Tell whether X is no list of rows but of several inputs, of `n_rows` each."""
    parts = X if isinstance(X, list | tuple) else []
    return len(parts) not in (0, n_rows) and all(
        hasattr(own, "__array__") and np.shape(own)[:1] == (n_rows,) for own in parts
    )


def _frame(X: Any, *, of_any: bool = False) -> pd.DataFrame:
    """Give rows as a pandas frame; an empty one where nothing can be said of their columns.

    Rows that are no frame have numbers for columns. Whether a list of them holds text is found out
    only where `of_any` says so, as that takes a copy.
    """
    if isinstance(X, pd.DataFrame):
        return X if X.columns.is_unique else pd.DataFrame()
    if hasattr(X, "columns") and hasattr(X, "__getitem__"):  # such as polars'
        return pd.DataFrame({column: np.asarray(X[column]) for column in X.columns}, copy=False)
    if of_any and isinstance(X, Sequence) and not isinstance(X, str):
        with suppress(ValueError):  # rows of unequal length
            X = np.asarray(X, dtype=object)
    is_table = isinstance(X, np.ndarray) and X.ndim == 2
    return pd.DataFrame(X) if is_table and (of_any or X.dtype.kind in "mM") else pd.DataFrame()


def _columns_without_numbers(frame: pd.DataFrame) -> dict[Any, str]:
    """Give the columns of a pandas frame that hold text, gaps or infinities, and what they hold."""
    found: dict[Any, str] = {}
    for column, dtype in zip(frame.columns, frame.dtypes, strict=True):
        values = frame[column]
        if dtype.kind not in "mM" and not pd.api.types.is_numeric_dtype(dtype):
            numbers = pd.to_numeric(values.dropna(), errors="coerce")
            if numbers.isna().any():
                example = values.dropna()[numbers.isna()].iloc[0]
                kind = "text" if isinstance(example, str) else "objects"
                found[column] = f"{kind} such as {example!r}"
                continue
        if values.isna().any():
            found[column] = f"{int(values.isna().sum())} missing values"
        elif dtype.kind == "f" and np.isinf(floats := values.to_numpy(np.float64)).any():
            found[column] = f"{int(np.isinf(floats).sum())} infinite values"
    return found


def _other_columns(name: str, columns: dict[Any, str]) -> ValueError:
    """Make the error for columns that are no numbers, with what helps."""
    told = "; ".join(
        f"column {column!r} holds {held}" for column, held in list(columns.items())[:5]
    )
    more = f"; and {len(columns) - 5} more" if len(columns) > 5 else ""
    names = {"missing values": "NaN", "infinite values": "infinity"}
    kinds = {names.get(held.partition(" ")[2], "what is no number") for held in columns.values()}
    what = " and ".join(sorted(kinds))
    return ValueError(
        f"Input X contains {what}: {told}{more}. {name} takes finite numbers. "
        f"skrub.tabular_pipeline({name}()) encodes mixed columns and fills in missing numbers; so "
        "does a sklearn.compose.ColumnTransformer before it."
    )


def _some_rows(X: Any) -> NDArray[np.float64]:
    return X[:: max(1, len(X) // ROWS_TO_LOOK_AT)].astype(np.float64)


def _scale_first(name: str) -> str:
    return f"put a StandardScaler before it: make_pipeline(StandardScaler(), {name}())."


def _remarks_on_rounding(owner: Any, given: Any, X: NDArray) -> list[str]:
    """Give what to say of columns whose numbers are told apart as they were given, but not in X."""
    if X.ndim != 2 or len(X) < 2:
        return []
    some = _some_rows(X)
    is_one = some.min(0) == some.max(0)
    if not is_one.any():
        return []
    before = _some_rows(np.asarray(given))
    columns = np.flatnonzero(is_one & (before.min(0) < before.max(0)))
    if not len(columns):
        return []
    names = getattr(owner, "feature_names_in_", np.arange(X.shape[1]))[columns].tolist()
    advice = _scale_first(type(owner).__name__)
    return [
        f"The net takes float32, which rounds the numbers of columns {in_short(names)} of X to "
        f"one: {advice}"
    ]


def _remarks_on_scales(name: str, X: NDArray) -> list[str]:
    """Give what to say of columns that a net learns badly from, as it would not of scaled ones."""
    if X.ndim != 2 or len(X) < 2:
        return []
    some = _some_rows(X)
    low, high = some.min(0), some.max(0)
    is_number = ((some != low) & (some != high)).any(0)  # more than two values
    if not is_number.any():
        return []
    is_pair = ~is_number & (low < high)
    pairs = np.column_stack([np.abs(low + high) / 2, high - low])[is_pair]
    low, high = low[is_number], high[is_number]
    ranges = high - low
    smallest, largest = ranges.min(), ranges.max()
    offset = (pairs[:, 0] / np.maximum(pairs[:, 1], largest)).max(initial=0)
    furthest = (np.abs(low + high) / 2 / ranges).max()
    remarks = {
        f"The columns of X differ in scale: the largest range, {largest:.3g}, is "
        f"{largest / smallest:.0f} times the smallest": largest > LARGEST_RATIO * smallest,
        f"The numbers of X are far from a scale of one: the largest range of a column is "
        f"{largest:.3g}": not SMALLEST_RANGE < largest < LARGEST_RANGE,
        f"The numbers of X are far from zero: the middle of a column's range is {furthest:.3g} "
        "times that range away": furthest > LARGEST_DISTANCE,
        f"The two numbers of a column of X are {offset:.3g} times as far from zero as the largest "
        "range of another": offset > LARGEST_DISTANCE,
    }
    advice = f"A net learns badly from that; {_scale_first(name)}"
    return [f"{remark}. {advice}" for remark, holds in remarks.items() if holds][:1]


def _weigh_rows(
    estimator: Any,
    X: NDArray,
    codes: NDArray,
    sample_weight: Any,
    classes: NDArray,
) -> tuple[NDArray[np.float32] | None, NDArray[np.float64] | None]:
    """Multiply `sample_weight` by the rows' class weights; give both, None where all are alike."""
    if sample_weight is None and estimator.class_weight is None:
        return None, None
    weight = weights_of_rows(as_array(sample_weight), X)
    class_weight = None
    if estimator.class_weight is not None:
        with np.errstate(over="ignore"):
            class_weight = _class_weights(estimator.class_weight, codes, weight, classes)
            weight = weight * class_weight[codes]
        if not np.isfinite(weight).all():
            raise ValueError(
                f"class_weight={in_short(estimator.class_weight)} times sample_weight is more than "
                "a float can be; give weights of about one."
            )
        if not weight.any():
            raise ValueError(
                f"class_weight={in_short(estimator.class_weight)} gives every row a weight of "
                "zero; give some a weight above 0."
            )
    largest = weight.max()
    weight = weight * (np.clip(largest, *FLOAT32_WEIGHTS) / largest)
    return weight.astype(np.float32), class_weight


def _class_weights(
    class_weight: Any, codes: NDArray, sample_weight: NDArray, classes: NDArray
) -> NDArray[np.float64]:
    if isinstance(class_weight, dict):
        unknown = [label for label in class_weight if label not in classes.tolist()]
        if unknown:
            raise ValueError(
                f"class_weight={in_short(class_weight)} names {in_short(unknown)}, which are none "
                f"of the classes {in_short(classes)}."
            )
        given = class_weight.values()
        if not all(isinstance(own, Real) and 0 <= float(own) < np.inf for own in given):
            raise ValueError(
                f"class_weight={in_short(class_weight)} must hold finite, non-negative weights."
            )
        return np.array([class_weight.get(label, 1.0) for label in classes.tolist()])
    of_class = np.bincount(codes, scale_to_unit(sample_weight)[0], minlength=len(classes))
    is_present = of_class > 0
    weights = np.ones(len(classes))
    weights[is_present] = of_class.sum() / (is_present.sum() * of_class[is_present])
    return weights


def is_several_inputs(X: Any) -> bool:
    """Tell whether X is a dict of inputs, by the names of the arguments of `forward`."""
    return isinstance(X, Mapping) and not issparse(X)


def check_inputs(X: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Check several inputs of a module: finite numbers, of the dtypes that they have."""
    kinds = {"dtype": "numeric", "ensure_2d": False, "allow_nd": True}
    return {
        name: as_tensor(check_array(as_array(own), input_name=name, **kinds))
        for name, own in X.items()
    }


def refuse_dataset(X: Any, why: str) -> None:
    """Refuse a torch Dataset, or a sparse tensor, where rows are to be indexed.

    `why` says what is done with them. One of skorch's SliceDatasets will do.
    """
    if isinstance(X, torch.Tensor) and X.layout != torch.strided:
        raise TypeError(f"{why}, but X is a tensor of {X.layout}. Give X.to_dense().")
    if is_dataset(X) and not isinstance(X, SliceDataset):
        raise ValueError(f"{why}, but X is a {type(X).__name__}. {_SLICE_DATASET}")


_SLICE_DATASET = (
    "Give a torch Dataset as X=SliceDataset(dataset, idx=0), y=SliceDataset(dataset, idx=1) "
    "(skorch.helper), or as arrays."
)


def as_array(data: Any) -> Any:
    """Give a tensor or one of skorch's SliceDatasets as an array, and anything else as it is."""
    if isinstance(data, SliceDataset):
        return np.asarray([without_tensor(own) for own in data])
    if hasattr(type(data), "collect"):
        raise TypeError(f"A {type(data).__name__} holds no rows yet; give what collect() gives.")
    if isinstance(data, DataLoader):
        raise TypeError(
            "A DataLoader is no data; give its dataset, and what it was made with as parameters, "
            "such as batch_size and iterator_train__num_workers."
        )
    return without_tensor(data)


class _Writeable:
    """The memory of an array, with leave to write; whoever takes it does not."""

    def __init__(self, array: NDArray) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self.array = array  # lives as long as what shares its memory


def as_tensor(array: NDArray) -> torch.Tensor:
    """Give an array as a tensor that shares its memory, which may be there for reading only.

    torch knows no such tensors, and warns of them.
    """
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writeable(array)))
