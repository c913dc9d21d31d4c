"""Fitted classifiers and pipelines as one ONNX graph: from rows to labels and probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted

from sksmooth._checks import warn_user
from sksmooth._module import IN_TORCH, LogitModule, parted, refuse_own_prediction
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.classifier_cv import LabelSmoothingClassifierCV
from sksmooth.engine.plan import overrides

if TYPE_CHECKING:
    import onnx

KINDS = (LabelSmoothingClassifier, LabelSmoothingClassifierCV)
OUTPUTS = ("label", "probabilities")
# The first that torch's exporter writes without translating it.
LOWEST_OPSET = 18
# scikit-learn subtracts and divides in double precision, whatever the rows are: of numbers far
# from zero the difference of floats leaves little.
IN_DOUBLE = {kind: {"div": "div_cast"} for kind in (StandardScaler, RobustScaler, MaxAbsScaler)}


def to_onnx(
    estimator: Any,
    X: Any,
    *,
    target_opset: int = LOWEST_OPSET,
    options: dict[Any, dict] | None = None,
) -> onnx.ModelProto:
    """Turn a fitted classifier, or a pipeline that ends in one, into one ONNX graph.

    Everything is inside: the steps of the pipeline, as far as skl2onnx knows them, the encoding of
    the numbers, all nets, the mean of their logits, the calibrator, the labels. The graph needs no
    Python to run, and takes any number of rows.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    estimator : estimator
        A fitted LabelSmoothingClassifier or LabelSmoothingClassifierCV, a Pipeline whose last step
        is one, or a search whose best estimator is one of these.
    X : ndarray of shape (n_samples, n_features), or of more dimensions, or pandas DataFrame
        Rows, one at least, whose types are those of the graph's inputs: one input ``X`` for an
        array; for a DataFrame one of shape (n, 1) for each column, by its name. Integers are int64,
        floats float32 or float64. All numbers of a DataFrame with floats have one type, float64 if
        a column has.
    target_opset : int, default=18
        The version of ONNX's operators, 18 or more.
    options : dict, default=None
        Options of skl2onnx's converters of the steps, by the steps' types.

    Returns
    -------
    onnx.ModelProto
        With two outputs: ``label`` of shape (n,), strings or int64, and ``probabilities`` of shape
        (n, n_classes), float32, in the order of `classes_`.

    Raises
    ------
    ImportError
        Without onnx, onnxscript or skl2onnx.
    NotFittedError
        If the estimator is not fitted.
    TypeError
        For another estimator, for a calibrator of one's own that skl2onnx does not know, for a
        subclass with a ``predict_proba`` of its own, or for labels other than strings and integers.
    ValueError
        For a module that torch cannot turn into a graph, or columns without usable names.

    See Also
    --------
    save : Keeps a classifier for Python.

    Notes
    -----
    The nets compute in float32, as they do in ``predict_proba``, whose probabilities the graph
    gives but for rounding. What comes before the nets computes in the type of X. Rows of float64
    give a graph that takes float64, not all of whose operators every runtime has; for one that
    takes float32, give ``X.astype("float32")``. Numbers that differ only beyond float32's seven
    digits are then equal, as they are in ``predict_proba`` of float32 rows. StandardScaler,
    RobustScaler and MaxAbsScaler compute in double precision all the same.

    A row with NaN is no error in the graph: its probabilities are NaN, and its label is of no use.
    Infinite numbers are not refused either.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sksmooth import LabelSmoothingClassifier, make_tabular, to_onnx
    >>> X, y = make_tabular(200, random_state=0)
    >>> net = LabelSmoothingClassifier(max_epochs=5, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), net).fit(X, y)
    >>> model = to_onnx(pipe, X.astype("float32"))
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    """
    compose, skl2onnx = _import("onnx.compose"), _import("skl2onnx")
    check_is_fitted(estimator)
    if not isinstance(target_opset, Integral):
        raise TypeError(f"target_opset must be an integer, got {target_opset!r}.")
    if target_opset < LOWEST_OPSET:
        raise ValueError(f"target_opset must be {LOWEST_OPSET} or more, got {target_opset!r}.")
    *steps, classifier = _steps(estimator)
    if not isinstance(classifier, KINDS):
        raise TypeError(
            f"to_onnx takes {' or '.join(kind.__name__ for kind in KINDS)}, a Pipeline that ends "
            f"in one, or a search for one, got {type(classifier).__name__}."
        )
    if overrides(classifier, "predict"):
        warn_user(
            f"The graph's label is the class of the highest probability: predict of "
            f"{type(classifier).__name__} is left out."
        )
    X = _of_known_types(X)
    n_features = getattr(estimator, "n_features_in_", None)
    takes_by_name = steps and isinstance(X, DataFrame)  # of which there may be more
    is_wrong = X.ndim == 2 and n_features not in (None, X.shape[1]) and not takes_by_name
    if X.ndim < 2 or is_wrong:
        raise ValueError(
            "X must be rows such as fit was given, of shape "
            f"(n_samples, {n_features or 'n_features'}), got {X.shape}."
        )
    rows = skl2onnx.to_onnx(
        make_pipeline(*steps, *_to_float(X, steps)),
        X,
        target_opset=target_opset,
        options={**IN_DOUBLE, **(options or {})},
    )
    if isinstance(X, DataFrame):
        _name_inputs(rows.graph, X.columns)
    shape = np.shape(X)[1:]
    if np.ndim(X) == 2:  # of which the steps may make another number; a loaded net knows none
        shape = (getattr(classifier, "n_features_in_", shape[0]),)
    net = _classifier_graph(classifier, shape, target_opset)
    net.ir_version = rows.ir_version
    net = compose.add_prefix(net, "sksmooth_", rename_outputs=False)
    ends = (rows.graph.output[0].name, net.graph.input[0].name)
    model = compose.merge_models(rows, net, [ends], name=type(classifier).__name__)
    versions = {own.domain: own for own in model.opset_import}  # both graphs' are there
    del model.opset_import[:]
    model.opset_import.extend(versions.values())
    return model


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f'to_onnx needs {name}: pip install "sksmooth[onnx]"') from error


def _steps(estimator: Any) -> list:
    """Give the steps of a pipeline, of those inside it too; a search counts as what it found."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if not isinstance(estimator, Pipeline):
        return [estimator]
    *before, last = (step for _, step in estimator.steps)
    return [step for step in before if step not in (None, "passthrough")] + _steps(last)


def _of_one_type(X: DataFrame) -> DataFrame:
    """Give the numbers of a frame one type; skl2onnx takes all to that of the first column.

    Floats beside integers would then be cut off.
    """
    for name in X:
        if not isinstance(name, str) or name in OUTPUTS:
            raise ValueError(
                f"The columns of X are the graph's inputs, by names that are strings and not "
                f"{' or '.join(map(repr, OUTPUTS))}, got {name!r}; rename it, or give X.to_numpy()."
            )
    numbers = X.select_dtypes(["number", "bool"])
    floats = numbers.select_dtypes("floating").dtypes
    return X.astype(dict.fromkeys(numbers, np.result_type(*floats))) if len(floats) else X


def _of_known_types(X: Any) -> Any:
    """Give numbers the nearest type of those that skl2onnx has for its steps."""
    if isinstance(X, DataFrame):
        return _of_one_type(X.astype({name: _known_type(own) for name, own in X.dtypes.items()}))
    X = np.asarray(X)
    return X.astype(_known_type(X.dtype), copy=False)


def _known_type(dtype: Any) -> Any:
    own = getattr(dtype, "numpy_dtype", dtype)  # of pandas' own, which may have gaps
    kind = getattr(own, "kind", "O")
    return np.int64 if kind in "iu" else own.newbyteorder("=") if kind == "f" else dtype


def _name_inputs(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Give the inputs the names of a frame's columns; skl2onnx replaces spaces and the like."""
    named = dict(zip((given.name for given in graph.input), names, strict=True))
    for given in graph.input:
        given.name = named[given.name]
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = named.get(name, name)


def _to_float(X: Any, steps: Sequence[Any]) -> list:
    """Give the step that makes what the net is given float32."""
    from sklearn.compose import make_column_transformer  # loads much that predict_proba needs not

    cast = _import("skl2onnx.sklapi").CastTransformer(dtype=np.float32)
    if isinstance(X, DataFrame) and not steps:
        return [make_column_transformer(*((cast, [name]) for name in X)).fit(X)]
    return [cast]


def _classifier_graph(classifier: Any, shape: Sequence[int], opset: int) -> onnx.ModelProto:
    """Give the graph of a classifier, from rows of float32."""
    helper, numpy_helper = _import("onnx.helper"), _import("onnx.numpy_helper")
    labels = _labels(classifier)
    model = _probability_graph(classifier, shape, opset)
    graph = model.graph
    classes = numpy_helper.from_array(labels, "label/classes")
    graph.initializer.append(classes)
    nodes = (
        helper.make_node("ArgMax", ["probabilities"], ["label/index"], axis=1, keepdims=0),
        helper.make_node("Gather", ["label/classes", "label/index"], ["label"]),
    )
    graph.node.extend(nodes)
    for node in graph.node:  # where in whose files each comes from
        node.ClearField("metadata_props")
    number = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.output.insert(0, helper.make_tensor_value_info("label", classes.data_type, [number]))
    return model


def _probability_graph(classifier: Any, shape: Sequence[int], opset: int) -> onnx.ModelProto:
    """Give the graph from rows of float32 to probabilities."""
    weight, calibrator = parted(getattr(classifier, "calibrator_", None))
    if type(calibrator) in IN_TORCH:
        return _module_graph(classifier.as_module(), shape, opset, "probabilities")
    nets = getattr(classifier, "estimators_", [classifier])
    refuse_own_prediction(classifier, nets)
    logits = _module_graph(LogitModule(nets), shape, opset, "logits")
    calibrated = _calibrator_graph(calibrator, weight, len(classifier.classes_), opset)
    calibrated.ir_version = logits.ir_version
    ends = ("logits", calibrated.graph.input[0].name)
    return _import("onnx.compose").merge_models(logits, calibrated, [ends])


def _calibrator_graph(
    calibrator: Any, weight: float | NDArray, n_classes: int, opset: int
) -> onnx.ModelProto:
    """Let skl2onnx make the graph of a calibrator of the user's own, without weights of classes."""
    helper, numpy_helper = _import("onnx.helper"), _import("onnx.numpy_helper")
    try:
        model = _import("skl2onnx").to_onnx(
            calibrator,
            np.zeros((1, n_classes), np.float32),
            target_opset=opset,
            options={"zipmap": False},
        )
    except Exception as error:  # of many kinds
        raise TypeError(
            f"The calibrator is a {type(calibrator).__name__}, which skl2onnx cannot turn into "
            "ONNX; the error above says why. Use calibration='temperature', 'norm_temperature', "
            "None, or a classifier or pipeline of scikit-learn that skl2onnx knows, such as "
            "LogisticRegression()."
        ) from error
    model = _import("onnx.compose").add_prefix(model, "calibrator_")
    graph = model.graph
    weighted = graph.output[-1].name  # the labels before it are class indices
    constants = {"class_weight": np.asarray(weight, np.float32), "class_axis": np.array([1])}
    graph.initializer.extend(numpy_helper.from_array(own, name) for name, own in constants.items())
    nodes = (
        helper.make_node("Div", [weighted, "class_weight"], ["odds"]),
        helper.make_node("ReduceSum", ["odds", "class_axis"], ["odds_sum"]),
        helper.make_node("Div", ["odds", "odds_sum"], ["probabilities"]),
    )
    graph.node.extend(nodes)
    del graph.output[:]
    shape = [graph.input[0].type.tensor_type.shape.dim[0].dim_param, n_classes]
    graph.output.append(
        helper.make_tensor_value_info("probabilities", _import("onnx").TensorProto.FLOAT, shape)
    )
    return model


def _labels(classifier: Any) -> NDArray:
    """Give the labels as ONNX can have them."""
    classes = classifier.classes_
    if all(isinstance(label, str) for label in classes):
        return classes.astype(object)
    if classes.dtype.kind in "biuf" and (classes == classes.astype(np.int64)).all():
        return classes.astype(np.int64)
    raise TypeError(
        "Labels in ONNX are strings or integers, but classes_ are "
        f"{classes[:3].tolist()} ...; encode y before fit."
    )


def _module_graph(module: Any, shape: Sequence[int], opset: int, output: str) -> onnx.ModelProto:
    """Let torch make the graph of a classifier's module."""
    _import("onnxscript")
    module = module.cpu()
    # The number of 0 or 1 row would be taken for a constant.
    example = torch.zeros(3, *shape, device="cpu")
    try:
        program: Any = torch.onnx.export(
            torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},)),
            dynamo=True,
            input_names=["rows"],
            output_names=[output],
            opset_version=opset,
            verbose=False,
        )
    except Exception as error:  # of many kinds, the module's own among them
        raise ValueError(
            f"torch cannot turn module={type(module.nets[0]).__name__} into ONNX; the error above "
            "says why."
        ) from error
    return program.model_proto
