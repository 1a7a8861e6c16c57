"""Typed errors: each says what was got, what is expected, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MpcrlError(Exception):
    """Base of every error that mpcrl raises on purpose."""


class InvalidInput(MpcrlError, ValueError):
    """A value at the boundary is not what the call needs."""


class LaneError(InvalidInput):
    """A user's function cannot be compiled into SIMD lanes; the message names its file and line."""


class UnknownName(InvalidInput):
    """A task, planner or model of this name does not exist."""


class NoGoal(InvalidInput):
    """A task does not say where it wants its state, in a form whose expectation is known."""


class BadTelemetry(InvalidInput):
    """A file is no telemetry, is not whole, or is of another version of mpcrl."""


class MissingDependency(MpcrlError, ImportError):
    """An optional package is needed for this call."""


class DamagedExport(InvalidInput):
    """The folder of an exported controller is not what was written, or is of another version."""


class WrongSource(InvalidInput):
    """An exported controller needs its user's source, and this is not it."""


class ForkedProcess(MpcrlError, RuntimeError):
    """Parallel kernels cannot run in a process forked after they ran in its parent."""


class ConcurrentCall(MpcrlError, RuntimeError):
    """A controller was called while another thread's call to it was still at work."""


def unknown_name(kind: str, got: str, known: Iterable[str]) -> UnknownName:
    """An error for a bad name that offers the nearest good ones."""
    names = sorted(known)
    near = difflib.get_close_matches(got.lower(), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
    return UnknownName(f"unknown {kind} {got!r}; {hint} (`mpcrl list` shows all)")


def missing(package: str, extra: str) -> MissingDependency:
    """An error for an optional package that is not installed."""
    return MissingDependency(f"{package} is not installed; install it with: pip install 'mpcrl[{extra}]'")
