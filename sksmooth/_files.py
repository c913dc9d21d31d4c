"""Files that have their name only when they are whole."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Of a name in that of its unfinished file: systems take 255 bytes, of which a letter has up to 4.
MOST_LETTERS = 50


@contextmanager
def whole_file(path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Give a file to write another name until it is whole.

    Whatever happens meanwhile, `path` names what it named before, or the whole new file: with
    `sync` after a failure of the machine, too, and not only of the process. What is no file, such
    as a device or a pipe, is written to as it is.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # a link stays one
    unfinished = path.with_name(f".{path.name[:MOST_LETTERS]}.{secrets.token_hex(8)}")
    try:
        if path.exists():  # who may read it stays as it is
            unfinished.touch(0o600)
            unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
        yield unfinished
        if sync:
            _sync(unfinished, os.O_RDWR)
        os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):  # of a folder in which there can be no file
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(unfinished):
            error.filename = str(path)  # which is what was asked for
        raise
    if sync and hasattr(os, "O_DIRECTORY"):  # the new name is on the disk with its folder
        _sync(path.parent, os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
