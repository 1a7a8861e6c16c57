"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mpcrl.core.errors import InvalidInput


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` if all goes well and is deleted if not.

    It lies in the same folder and has the same ending, from which writers tell the format.
    """
    scratch = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """As `atomic`, with an error that a user understands where the disk is full or cannot be written to."""
    try:
        with atomic(path) as scratch:
            yield scratch
    except OSError as error:
        raise InvalidInput(
            f"cannot write {str(path)!r}: {error.strerror}; what is there already is whole, and the same command goes "
            "on when that is mended"
        ) from error


def writable_folder(folder: Path) -> Path:
    """The folder, made if need be; an error now is better than one after the work.

    Raises
    ------
    InvalidInput
        It cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot make the folder {str(folder)!r}: {error.strerror}; choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInput(f"the folder {str(folder)!r} is not writable; choose another")
    return folder
