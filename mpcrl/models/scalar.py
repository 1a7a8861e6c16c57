"""Users' scalar functions compiled as they are, in float64, for a kernel that calls them once per sample and step.

Plain helper functions are compiled along. The fingerprint of all that they are made of goes into the kernel's text,
which its disk cache is keyed by: no edit, in whichever file, is missed.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from mpcrl.core import lanes
from mpcrl.core.errors import InvalidInput, LaneError

_STABLE = ("math", "cmath", "numpy", "numba", "typing", "collections")
"""Modules whose attributes need no look: the cache is keyed by their versions."""

_ADDRESS = " at 0x"
"""In the text of what has none of its own."""


def code_of(function: Callable[..., Any]) -> types.CodeType:
    """What a function, or the one inside a dispatcher or a decorator, runs."""
    return inspect.unwrap(getattr(function, "py_func", function)).__code__


def where(function: Callable[..., Any]) -> str:
    """File and line of a function."""
    code = code_of(function)
    return f"{code.co_filename}:{code.co_firstlineno} ({function.__name__})"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function and the plain functions that it calls as Numba dispatchers; they compile when a kernel does."""
    return _compiled(function, {})


def _compiled(function: Callable[..., Any], done: dict[Any, Any]) -> Callable[..., Any]:
    if isinstance(function, Dispatcher):
        return function
    if not isinstance(function, types.FunctionType):
        raise LaneError(f"a plain Python function is needed, got {function!r}; wrap it in one")
    if function in done:
        if done[function] is None:
            raise LaneError(f"{where(function)}: a recursive function cannot be compiled; write a loop")
        return done[function]
    done[function] = None

    def callee(value: Any) -> Any:
        return _compiled(value, done) if isinstance(value, types.FunctionType) else value

    namespace = dict(function.__globals__)
    namespace.update({name: callee(namespace[name]) for name in _names(function.__code__) if name in namespace})
    cells = tuple(types.CellType(callee(cell.cell_contents)) for cell in function.__closure__ or ())
    plain = types.FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, cells)
    done[function] = numba.njit(error_model="numpy")(plain)
    return done[function]


def fingerprint(*functions: Callable[..., Any] | None) -> str:
    """Hash of functions with all that they call and read: code, constants, globals, closures, defaults."""
    return hashlib.sha256("\0".join(part for f in functions for part in _parts(f, set())).encode()).hexdigest()


class ScalarParams:
    """A NamedTuple of numbers and arrays as scalar functions take it: float64, but for fields annotated `int`."""

    def __init__(self, params: Any) -> None:
        self.fields = lanes.fields_of(params)
        kinds = getattr(type(params), "__annotations__", {})  # as text in a ForwardRef, where they are put off
        named = [kinds.get(f.name) for f in self.fields]
        self.integers = tuple(getattr(kind, "__forward_arg__", kind) in (int, "int") for kind in named)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fields."""
        return tuple(f.name for f in self.fields)

    def coerce(self, params: Any) -> tuple[Any, ...]:
        """The values of params for the kernels; integers stay integers, so that they can index."""
        values = list(lanes.coerce(params, self.fields, np.dtype(np.float64)))
        for i, (field, integer) in enumerate(zip(self.fields, self.integers, strict=True)):
            if integer and field.shape is None:
                if not float(values[i]).is_integer():
                    raise InvalidInput(f"params.{field.name} is annotated int, got {params[i]!r}")
                values[i] = int(values[i])
        return tuple(values)


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    function = getattr(value, "py_func", value)  # a dispatcher's
    if isinstance(function, types.FunctionType):
        if id(function) in seen:
            return
        seen.add(id(function))
        yield from _code_parts(function.__code__)
        names = _names(function.__code__)
        read = {name: function.__globals__[name] for name in names if name in function.__globals__}
        read |= {f"cell {i}": cell.cell_contents for i, cell in enumerate(function.__closure__ or ())}
        read["defaults"] = function.__defaults__
        for name, found in sorted(read.items()):
            yield name
            if isinstance(found, types.ModuleType) and found.__name__.split(".")[0] not in _STABLE:
                for attribute in sorted(names & set(vars(found))):
                    yield from _parts(getattr(found, attribute), seen)
            else:
                yield from _parts(found, seen)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    elif isinstance(value, types.ModuleType):
        yield value.__name__
    elif isinstance(value, set | frozenset):  # whose order is another one in every process
        yield repr(sorted(map(repr, value)))
    elif _ADDRESS not in repr(value):
        yield repr(value)
    elif id(value) not in seen:
        seen.add(id(value))
        yield type(value).__qualname__
        for part in _inside(value):
            yield from _parts(part, seen)


def _inside(value: Any) -> Iterator[Any]:
    """What an object consists of whose text tells where it lies in memory."""
    if isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, Mapping):
        for key, found in value.items():
            yield from (key, found)
    elif isinstance(value, tuple | list):
        yield from value
    else:
        yield getattr(value, "__dict__", {})
        yield vars(type(value)).get("__call__")


def _code_parts(code: types.CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_parts(constant)
        else:
            yield from _parts(constant, set())


def _names(code: types.CodeType) -> set[str]:
    """Names that a function's code looks up, nested functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
