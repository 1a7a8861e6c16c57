"""A folder of files that is read whole or not at all.

`manifest.json` has the size and the SHA-256 of every other file, and its own. That finds whatever disks, copies and
editors do to a folder; it is no signature: who can write the folder can write a manifest that fits. So nothing that is
read here is ever executed, and whoever reads it checks each value.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core.configuration import short
from mpcrl.core.errors import DamagedExport, InvalidInput

MANIFEST = "manifest.json"
_MOST_JSON, _MOST_LEVELS, _MOST_BYTES, _MOST_FILES = 2**20, 20, 2**28, 1000
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?",
}  # fmt: skip
_PART = re.compile(r"[^/\\:*?\"<>|\x00-\x1f\x7f]{1,150}")
_DIGEST = re.compile("[0-9a-f]{64}")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


# ---- a folder ----------------------------------------------------------------------------------------------------
def write_bundle(folder: Path, files: Mapping[str, bytes], head: Mapping[str, Any]) -> None:
    """Write files and their manifest in place of an older bundle, or to a folder that is empty or not there.

    Parameters
    ----------
    folder : path
    files : mapping of str to bytes
        By names with "/" between folders.
    head : mapping
        What the manifest says beside that; "format" and "version" first of all.

    Raises
    ------
    InvalidInput
        There is something else in the folder, or it cannot be written.
    """
    if len(files) > _MOST_FILES or sum(map(len, files.values())) > _MOST_BYTES:
        raise InvalidInput(f"a bundle has at most {_MOST_FILES} files of {_MOST_BYTES} bytes together")
    for name in files:
        if not _is_name(name):
            raise InvalidInput(f"a file that is called {name!r} cannot be part of a bundle; rename it")
    if folder.exists() and not (folder.is_dir() and (_is_bundle(folder, head) or not any(folder.iterdir()))):
        raise InvalidInput(f"{str(folder)!r} is there already and no older export; choose another folder")
    manifest = {**head, "files": {name: {"bytes": len(data), "sha256": digest(data)} for name, data in files.items()}}
    sealed = {**manifest, "sha256": digest(_canonical(manifest))}
    scratch, older = (folder.with_name(f".{folder.name}-{os.getpid()}{end}") for end in ("", "-older"))
    try:
        for name, data in {**files, MANIFEST: to_json(sealed)}.items():
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            if folder.exists():
                os.replace(folder, older)
            os.replace(scratch, folder)
        except BaseException:  # an interrupt too, right after either of them
            if older.exists() and not folder.exists():
                os.replace(older, folder)
            raise
    except OSError as error:
        raise InvalidInput(f"cannot write {str(folder)!r}: {error.strerror}; choose another folder") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)


def read_bundle(folder: Path, head: Mapping[str, Any]) -> dict[str, bytes]:
    """All files of a folder by name, each of which is what was written.

    Files that the manifest does not name are not looked at.

    Parameters
    ----------
    folder : path
    head : mapping
        What the manifest must say: "format" and "version".

    Raises
    ------
    DamagedExport
        And no other error, whatever lies in the folder.
    """
    if not folder.is_dir():
        raise DamagedExport(f"there is no folder {str(folder)!r}")
    manifest = from_json(_read(folder, MANIFEST, _MOST_JSON), MANIFEST)
    for key, value in head.items():
        found = manifest.get(key)
        if type(found) is not type(value) or found != value:
            raise DamagedExport(f"{MANIFEST}: {key} must be {value!r}, got {short(found)}; export it with this version")
    sealed = manifest.pop("sha256", None)
    if sealed != digest(_canonical(manifest)):
        raise DamagedExport(f"{MANIFEST} is not what was written: its SHA-256 is another")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or len(listed) > _MOST_FILES:
        raise DamagedExport(f"{MANIFEST}: files must be a mapping of at most {_MOST_FILES}, got {short(listed)}")
    files, left = {}, _MOST_BYTES
    for name, entry in listed.items():
        if not _is_name(name):
            raise DamagedExport(f"{MANIFEST}: {short(name)} is no name of a file within the folder")
        if not (isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"}):
            raise DamagedExport(f"{MANIFEST}: {short(name)} must have bytes and sha256, got {short(entry)}")
        size, expected = entry["bytes"], entry["sha256"]
        if type(size) is not int or not 0 <= size <= left:
            raise DamagedExport(
                f"{MANIFEST}: bytes of {short(name)} must be a count of at most {left}, got {short(size)}"
            )
        if not (isinstance(expected, str) and _DIGEST.fullmatch(expected)):
            raise DamagedExport(f"{MANIFEST}: sha256 of {short(name)} must be 64 digits, got {short(expected)}")
        data = _read(folder, name, size)
        if len(data) != size or digest(data) != expected:
            raise DamagedExport(f"{short(name)} is not what was written: its SHA-256 is another; export it again")
        files[name], left = data, left - size
    return files


# ---- its files ---------------------------------------------------------------------------------------------------
def to_json(value: Mapping[str, Any]) -> bytes:
    """JSON for people to read; numbers that are not finite are refused."""
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=True) + "\n").encode()


def from_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object of finite numbers in which no key stands twice.

    Raises
    ------
    DamagedExport
    """
    if len(data) > _MOST_JSON:  # read, it takes fifty times its size
        raise DamagedExport(f"{name} has {len(data)} bytes, more than the {_MOST_JSON} that it may have")
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_pairs, parse_constant=_refused, parse_float=_finite, parse_int=_integer
        )
    except (ValueError, RecursionError) as error:
        raise DamagedExport(f"{name} is no JSON that can be read: {short(str(error))}") from error
    if not isinstance(value, dict):
        raise DamagedExport(f"{name} must be a JSON object, got a {type(value).__name__}")
    level: list[Any] = [value]
    for _ in range(_MOST_LEVELS):
        level = [inner for outer in level for inner in _items(outer)]
    if level:
        raise DamagedExport(f"{name} has more than {_MOST_LEVELS} levels")
    return value


def to_safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays of numbers by name."""
    from safetensors.numpy import save

    return save({name: np.array(array, order="C") for name, array in arrays.items()})


def from_safetensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays that `to_safetensors` wrote.

    Raises
    ------
    DamagedExport
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(data)
    except (SafetensorError, ValueError) as error:
        raise DamagedExport(f"{name} is no safetensors file: {short(str(error))}") from error
    arrays = {}
    for key, entry in entries:
        if entry["dtype"] not in _DTYPES or len(entry["shape"]) > 8:
            raise DamagedExport(f"{name}: {short(key)} has the type {entry['dtype']} and shape {short(entry['shape'])}")
        array = np.frombuffer(entry["data"], np.uint8 if entry["dtype"] == "BOOL" else _DTYPES[entry["dtype"]])
        if entry["dtype"] == "BOOL" and array.max(initial=0) > 1:
            raise DamagedExport(f"{name}: {short(key)} has truth values other than 0 and 1")
        arrays[key] = array.astype(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


# ---- parts -------------------------------------------------------------------------------------------------------
def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _is_bundle(folder: Path, head: Mapping[str, Any]) -> bool:
    """Whether a folder is a bundle of the same format, of whatever version."""
    try:
        return from_json(_read(folder, MANIFEST, _MOST_JSON), MANIFEST).get("format") == head["format"]
    except DamagedExport:
        return False


def _is_name(name: str) -> bool:
    """Whether a name stays within its folder on every system."""
    parts = name.split("/")
    return len(parts) <= 8 and all(_PART.fullmatch(p) and not p.startswith("..") and p[-1] not in ". " for p in parts)


def _read(folder: Path, name: str, most: int) -> bytes:
    """A regular file of at most `most` bytes within the folder, through no link."""
    path = folder
    try:
        for part in name.split("/"):
            path = path / part
            if path.is_symlink():
                raise DamagedExport(f"{short(name)} is a link; files are copied into an export, not linked")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DamagedExport(f"{short(name)} is no file")
            if status.st_size > most:
                raise DamagedExport(f"{short(name)} has {status.st_size} bytes, more than the {most} that it may have")
            return file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DamagedExport(f"cannot read {short(name)} of {str(folder)!r}: {reason}") from error


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refused(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not np.isfinite(number):
        raise ValueError(f"{text[:30]} is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"{text[:30]} is too large")
    return int(text)
