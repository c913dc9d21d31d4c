"""Which version of sksmooth stored an estimator, and a warning of one that is newer than this."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sksmooth._checks import warn_user


def own_version() -> str:
    """Give the version of this package, which its ``__init__`` alone holds."""
    from sksmooth import __version__

    return __version__


def warn_if_newer(version: str) -> None:
    """Warn of what a newer sksmooth has stored, which may mean what this one does not know."""
    own = own_version()
    if _numbers(version) > _numbers(own):
        warn_user(
            f"This was stored by sksmooth {version}, but sksmooth {own} is to read it, which may "
            f"fail or give wrong results; use sksmooth {version}."
        )


def _numbers(version: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", version)))


class Stamped:
    """An estimator whose pickle says, before all else, which version made it.

    scikit-learn's says so in its state, which is read too late: where that names a class that this
    version does not have, nothing of it is read.
    """

    def __reduce_ex__(self, protocol: Any) -> tuple:
        reduced: Any = super().__reduce_ex__(protocol)
        make, arguments, *others = reduced
        return STAMP, (make, *arguments), *others


class _Stamp:
    """Calls what makes an empty estimator; is pickled as the version of this package."""

    def __call__(self, make: Callable, *arguments: Any) -> Any:
        return make(*arguments)

    def __reduce__(self) -> tuple:
        return stamp_of, (own_version(),)


STAMP = _Stamp()  # one, which a pickle of many estimators holds once


def stamp_of(version: str) -> _Stamp:
    """Give the stamp that a pickle of that version holds. Pickles have this function's name."""
    warn_if_newer(version)
    return STAMP
