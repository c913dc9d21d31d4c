"""Which version of sksmooth stored an estimator, and a warning of one that is newer than this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.torch_version import TorchVersion

from sksmooth._checks import warn_user


def own_version() -> str:
    """Give the version of this package, which its ``__init__`` alone holds."""
    from sksmooth import __version__

    return __version__


def warn_if_newer(version: str) -> None:
    """Warn of what a newer sksmooth has stored, which may mean what this one does not know."""
    own = own_version()
    if TorchVersion(version) > own:  # not of torch only: it compares as PEP 440 has it
        warn_user(
            f"This was stored by sksmooth {version}, but sksmooth {own} is to read it, which may "
            f"fail or give wrong results; use sksmooth {version}."
        )


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
    """Calls what makes an empty estimator. Pickles have its name, and the version first."""

    def __call__(self, make: Callable, *arguments: Any) -> Any:
        return make(*arguments)

    def __getstate__(self) -> dict[str, str]:
        return {"version": own_version()}

    def __setstate__(self, state: dict[str, str]) -> None:
        warn_if_newer(state["version"])


STAMP = _Stamp()  # one, which a pickle of many estimators holds once
