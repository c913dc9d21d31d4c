"""Saves fitted classifiers in one file, and loads them without running any code from it."""

from __future__ import annotations

import io
import json
import os
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sksmooth._files import whole_file
from sksmooth._pack import LEARNED, SCALINGS, NotGivenError, Packing, Unpacking
from sksmooth._predict import probabilities
from sksmooth._versions import own_version, warn_if_newer
from sksmooth.classifier import LabelSmoothingClassifier
from sksmooth.classifier_cv import LabelSmoothingClassifierCV

# A file begins with a line of MAGIC, the format's number, and the SHA-256 and the length of what
# follows: numpy's archive of arrays, of which one holds the rest as JSON.
MAGIC, FORMAT = b"sksmooth", 1
TREE = "tree"

_FORGED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, BadZipFile)

KINDS = {kind.__name__: kind for kind in (LabelSmoothingClassifier, LabelSmoothingClassifierCV)}


def save(estimator: Any, path: str | os.PathLike) -> None:
    """Save a fitted classifier in one file.

    The file holds numbers and text, no code: parameters, calibrator, labels, names of features,
    history, and where training goes on (``warm_start``, ``partial_fit``) the optimizer's state. It
    gets its name when it is whole and on the disk; whatever happens before, a file of that name
    stays as it was.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    estimator : LabelSmoothingClassifier or LabelSmoothingClassifierCV
        Fitted.
    path : str or path-like
        The file, such as "net.sksmooth".

    Raises
    ------
    TypeError
        For another kind of estimator, a subclass too, or a calibrator that is not sksmooth's.
    NotFittedError
        If it is not fitted.

    See Also
    --------
    load : Loads it.

    Notes
    -----
    Parameters that are code, such as a module class of one's own or callbacks, are not in the file:
    they are given to :func:`load`.

    Examples
    --------
    >>> import tempfile
    >>> from sksmooth import LabelSmoothingClassifier, load, make_tabular, save
    >>> X, y = make_tabular(200, random_state=0)
    >>> net = LabelSmoothingClassifier(max_epochs=5, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(net, f"{folder}/net.sksmooth")
    ...     loaded = load(f"{folder}/net.sksmooth")
    >>> bool((loaded.predict_proba(X) == net.predict_proba(X)).all())
    True
    """
    if type(estimator) not in KINDS.values():
        raise TypeError(
            f"estimator is of {type(estimator).__name__}, but save takes {' or '.join(KINDS)} "
            "themselves; pickle others, or save the last step of a pipeline."
        )
    check_is_fitted(estimator)
    packing = Packing(KINDS)
    tree = {
        "sksmooth": own_version(),
        "torch": version("torch"),
        "estimator": packing.pack(estimator),
    }
    for name in packing.missing.keys() & set(LEARNED):
        raise TypeError(
            f"{name} is of {packing.missing[name]}, which is none of sksmooth's own kinds: it "
            "cannot be saved without code. Pickle the estimator."
        )
    arrays: dict[str, Any] = {
        TREE: np.frombuffer(json.dumps(tree).encode(), dtype=np.uint8),
        **packing.arrays,
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    body = content.getvalue()
    line = b"%b %d %b %d\n" % (MAGIC, FORMAT, sha256(body).hexdigest().encode(), len(body))
    with whole_file(path) as unfinished:
        unfinished.write_bytes(line + body)


def load(path: str | os.PathLike, **parameters: Any) -> Any:
    """Load a classifier that :func:`save` has saved, without running any code from the file.

    .. versionadded:: 0.2.0

    Parameters
    ----------
    path : str or path-like
        The file.
    **parameters
        Parameters of the nets, instead of those in the file: ``device="cpu"``, say. Those that are
        code must be given, ``module=MyModule``.

    Returns
    -------
    LabelSmoothingClassifier or LabelSmoothingClassifierCV
        As it was saved. Where the file names a device that is not there, on the CPU.

    Raises
    ------
    ValueError
        If the file is none of sksmooth's, is damaged or cut off, or of a newer format.
    TypeError
        If parameters are missing, or unknown.

    Examples
    --------
    See :func:`save`.
    """
    body = _read(Path(path))
    try:
        unpacking, tree = _unpacked(body, parameters)
        estimator = unpacking.unpack(tree)
        if type(estimator) not in KINDS.values():
            raise ValueError(f"what it holds is of {type(estimator).__name__}.")
        _refuse_incomplete(estimator)
    except NotGivenError:
        raise
    except _FORGED as error:  # whoever can write a checksum can write any form
        what = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{path} cannot be loaded: {what}") from error
    unused = parameters.keys() - unpacking.used
    if unused:
        raise TypeError(f"load has no parameter {sorted(unused)[0]!r}, nor has what is in {path}.")
    return estimator


def _refuse_incomplete(estimator: Any) -> None:
    """Refuse what would fail at the first prediction, or when its results are looked at."""
    nets = getattr(estimator, "estimators_", [estimator])
    if not nets or any(type(net) is not LabelSmoothingClassifier for net in nets):
        raise ValueError("It holds an ensemble, but no nets.")
    n_classes = len(estimator.classes_)
    for own in {id(own): own for own in (estimator, *nets)}.values():
        calibrator = own.calibrator_
        if type(calibrator) in SCALINGS.values():
            proba = probabilities(np.zeros((1, n_classes)), calibrator)
            if proba.shape != (1, n_classes) or not np.isfinite(proba).all():
                raise ValueError(f"Its {type(calibrator).__name__} gives no probabilities.")
    if len({len(column) for column in getattr(estimator, "cv_results_", {}).values()}) > 1:
        raise ValueError("The columns of its cv_results_ are of different lengths.")


def _unpacked(body: bytes, parameters: dict[str, Any]) -> tuple[Unpacking, Any]:
    """Give what makes an estimator of a file's content, and what is to be made."""
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        if any(own.compress_type for own in archive.zip.infolist()):  # which save never does
            raise ValueError("It is no file that sksmooth.save has written.")
        arrays = {name: archive[name] for name in archive.files}
    tree = json.loads(arrays.pop(TREE).tobytes())
    warn_if_newer(tree["sksmooth"])
    return Unpacking(arrays, parameters, KINDS), tree["estimator"]


def _read(path: Path) -> bytes:
    """Read a file's content, which is what was written."""
    line, _, body = path.read_bytes().partition(b"\n")
    words = line.split(b" ")
    if words[0] != MAGIC or len(words) < 2 or not words[1].isdigit() or int(words[1]) < 1:
        raise ValueError(f"{path} is no file that sksmooth.save has written.")
    if int(words[1]) > FORMAT:
        raise ValueError(
            f"{path} is of format {int(words[1])}, but sksmooth {own_version()} reads "
            f"formats up to {FORMAT}; a newer sksmooth reads it."
        )
    if len(words) != 4 or not words[3].isdigit():
        raise ValueError(f"{path} is damaged: its first line is {line[:200]!r}.")
    if len(body) < int(words[3]):
        raise ValueError(f"{path} is cut off: {len(body)} of {int(words[3])} bytes are there.")
    if len(body) > int(words[3]) or sha256(body).hexdigest().encode() != words[2]:
        raise ValueError(f"{path} is damaged: its checksum is not that of its content.")
    return body
