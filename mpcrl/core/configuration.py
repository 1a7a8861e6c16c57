"""Configurations, which are frozen dataclasses, as JSON can hold them, and back."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput

LARGEST_INTEGER = 10**7
"""That `rebuilt` takes: a count beyond it is no count, but would take all memory."""


def configuration(value: Any) -> Any:
    """A configuration as JSON can hold it: dataclasses become mappings that name their `type`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: configuration(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): configuration(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [configuration(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return configuration(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, str | int | None) else repr(value)


def rebuilt(written: Any, kinds: Mapping[str, type], where: str = "configuration") -> Any:
    """The dataclass that `configuration` wrote; every field must be there and be of its annotated type.

    Parameters
    ----------
    written : mapping
        From JSON.
    kinds : mapping of str to type
        The dataclasses that there may be, by their names; what is inside of one must satisfy the annotation of its
        field, or be of the module in which an annotated protocol is defined.
    where : str
        What errors call it.

    Raises
    ------
    InvalidInput
        Also for a value that the dataclass itself refuses.
    """
    return _rebuilt(written, kinds, kinds, where)


@functools.cache
def annotations_of(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, evaluated."""
    return typing.get_type_hints(kind)


def short(value: Any) -> str:
    """What errors show of a value that may be of any size."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- parts -------------------------------------------------------------------------------------------------------
def _rebuilt(written: Any, kinds: Mapping[str, type], allowed: Mapping[str, type], where: str) -> Any:
    """A dataclass out of `allowed`, whose own parts are out of `kinds`."""
    if not (isinstance(written, dict) and isinstance(written.get("type"), str)):
        raise InvalidInput(f"{where} must be a mapping with a type, got {short(written)}")
    kind = allowed.get(written["type"])
    if kind is None:
        known = ", ".join(sorted(allowed)) or "a plain value"
        raise InvalidInput(f"{where} must be {known}, got {short(written['type'])}")
    fields = {field.name: field.init for field in dataclasses.fields(kind)}
    if written.keys() - {"type"} != fields.keys():
        raise InvalidInput(f"{where}: a {kind.__name__} has the fields {', '.join(fields)}; got {short(list(written))}")
    hints = annotations_of(kind)
    values = {name: _field(written[name], hints[name], kinds, f"{where}.{name}") for name in fields}
    try:
        whole = kind(**{name: value for name, value in values.items() if fields[name]})
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error
    for name, given in fields.items():
        if not given and getattr(whole, name) != values[name]:
            raise InvalidInput(f"{where}.{name} must be {getattr(whole, name)!r}, got {short(values[name])}")
    return whole


def _field(value: Any, hint: Any, kinds: Mapping[str, type], where: str) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, dict):
        allowed = {name: kind for name, kind in kinds.items() if any(_fits(kind, choice) for choice in choices)}
        return _rebuilt(value, kinds, allowed, where)
    for choice in choices:
        if choice in (bool, str, types.NoneType) and type(value) is choice:
            return value
        if choice in (int, float) and type(value) is int and abs(value) <= LARGEST_INTEGER:
            return value
        if choice is float and type(value) is float and math.isfinite(value):
            return value
    names = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise InvalidInput(f"{where} must be {names}, got {short(value)}")


def _fits(kind: type, annotated: Any) -> bool:
    """Whether a dataclass may stand where the annotation asks for a class, or for a protocol of the same module."""
    if getattr(annotated, "_is_protocol", False):
        return bool(kind.__module__ == annotated.__module__)
    return isinstance(annotated, type) and issubclass(kind, annotated)
