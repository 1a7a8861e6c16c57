"""Controls over time: what has been answered, what is planned, and so what the actuator does until a plan begins.

Times are seconds on the caller's clock, and say when the *actuator* acts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.planners.space import ControlSpace

_ROUNDING = 1e-12  # of half ranges
_EPSILON = 1e-6  # s; below it two times are one. A float64 of the seconds since 1970 resolves 2.4e-7 s, and one of a
# machine's uptime no more than 1e-9 s after 194 days.


class Piece(NamedTuple):
    """A plan with its place in time.

    Attributes
    ----------
    stamp : float
        Of the state that it was made for.
    begin : float
        When the actuator is to take its first control.
    dt : float
        How long each control holds.
    controls : ndarray [H, nu]
    until : float
        After which it is not followed any more, whether it is over or not.
    """

    stamp: float
    begin: float
    dt: float
    controls: np.ndarray
    until: float = math.inf

    def step_at(self, at: float) -> int:
        """Of the control that holds at a time; H or more once the plan is over."""
        return int((at - self.begin + _EPSILON) / self.dt)

    def lasts(self, at: float) -> bool:
        """Whether it says what to do at a time."""
        return at <= self.until and self.step_at(at) < len(self.controls)


Timeline = tuple[Piece, ...]
"""Plans in the order of their beginnings. Each serves until the next one begins. A tuple is replaced, never changed:
who holds one needs no lock."""


def serving(timeline: Timeline, at: float) -> Piece | None:
    """The plan that serves at a time; None before the first begins."""
    for piece in reversed(timeline):
        if at >= piece.begin - _EPSILON:
            return piece
    return None


def extended(timeline: Timeline, piece: Piece) -> Timeline:
    """With a new plan, without those that it replaces whole and those that are over when its state was measured."""
    before = [old for old in timeline if old.begin < piece.begin - _EPSILON]
    first = 0
    while first + 1 < len(before) and before[first + 1].begin <= piece.stamp:
        first += 1
    return (*before[first:], piece)


class Held(NamedTuple):
    """The control that the actuator holds, and what the limits of the next one count from.

    A planned control holds for a whole period and then jumps to the next one, by no more than the limits admit in a
    period: so the planner predicted it, and so it is answered, however often one asks within the period. What no plan
    foresaw, the safe control say or a plan that began elsewhere, is brought within what they admit in the time for
    which the control before was held, a period at most (or the time since the last answer, if nobody asked for longer).
    So between two answers T apart no control changes by more than `rate` (T + dt).

    Attributes
    ----------
    space : ControlSpace
    control : ndarray [nu]
    since : float
        When it began.
    velocity : ndarray [nu]
        Rate of the change to it.
    at : float
        When it was answered last.
    """

    space: ControlSpace
    control: np.ndarray
    since: float = -math.inf
    velocity: np.ndarray | float = 0.0
    at: float = -math.inf

    def moved(self, wanted: np.ndarray, begins: float, at: float) -> Held:
        """The control nearest to `wanted`, which holds from `begins` on, that may act at a time."""
        if not self.space.rate_limited and self.space.acceleration is None:
            return Held(self.space, self.space.admit(wanted, wanted, 0.0), at, 0.0, at)
        dt, new, before = self.space.dt, begins > self.at + _EPSILON, self.control.tolist()
        if not new and wanted.tolist() == before:
            return self._replace(at=at)
        moment = min(begins, at) if new else at
        unasked = at - self.at if self.at > -math.inf else 0.0
        elapsed = min(moment - self.since, max(dt, unasked))
        if abs(elapsed - dt) < 2 * _EPSILON:
            elapsed = dt
        velocity = self.velocity if moment - self.since < 1.5 * dt else 0.0  # for a period nothing moved
        control = self.space.admit(wanted, self.control, elapsed, np.asarray(velocity))
        met = np.abs(control - wanted) <= _ROUNDING * self.space.half_range
        control = np.where(met, wanted, control)  # else the next answer would be a movement of its own
        if control.tolist() == before:
            return self._replace(at=at, velocity=0.0)
        if elapsed > 0:
            velocity = (control - self.control) / elapsed
        return Held(self.space, control, moment, velocity, at)


class History:
    """The last controls that were answered. One thread writes, others may read.

    Parameters
    ----------
    nu : int
    size : int
        Answers that are kept: those of a few seconds.
    """

    def __init__(self, nu: int, size: int = 4096) -> None:
        self._times, self._controls, self._count = np.full(size, -np.inf), np.zeros((size, nu)), 0

    def add(self, at: float, control: np.ndarray) -> None:
        """A control that the actuator takes at a time, no earlier than the last one."""
        slot = self._count % len(self._times)
        self._times[slot], self._controls[slot] = at, control
        self._count += 1

    def since(self, start: float) -> tuple[np.ndarray, np.ndarray]:
        """Times [E] and controls [E, nu] in order, from the one that holds at `start` on."""
        count = self._count
        kept = np.arange(max(0, count - len(self._times) // 2), count) % len(self._times)  # half: who reads is slower
        times = self._times[kept]
        first = max(0, int(np.searchsorted(times, start, side="right")) - 1)
        return times[first:], self._controls[kept[first:]]


def acting(
    history: History,
    timeline: Timeline,
    held: Held,
    otherwise: np.ndarray,
    start: float,
    dt: float,
    steps: int,
    known: float,
) -> tuple[np.ndarray, np.ndarray]:
    """What the actuator does from `start` on: the mean control [steps, nu] of each period, and the last control [nu].

    First what has been answered, whose last holds at least until `known`; then what will be answered after `held`: the
    plans while they last, and `otherwise` where there is none. A mean is exact for a system that is linear in its
    controls over a period.
    """
    end = start + steps * dt
    times, controls = history.since(start)
    moments, values = list(np.maximum(times, start)), list(controls)
    if moments and moments[0] > start:  # before the first answer
        moments.insert(0, start)
        values.insert(0, otherwise)
    at = max(moments[-1], known) if moments else start
    while at < end - _EPSILON:
        piece = serving(timeline, at)
        following = (each.begin for each in timeline if each.begin > at + _EPSILON)
        until = min(following, default=math.inf)
        if piece is not None and piece.lasts(at):
            held = held.moved(piece.controls[piece.step_at(at)], piece.begin + piece.step_at(at) * piece.dt, at)
            until = min(until, piece.until, piece.begin + (piece.step_at(at) + 1) * piece.dt)
        else:
            held = held.moved(otherwise, at, at)
            until = min(until, at + dt)  # on the way there, where limits are
        moments.append(at)
        values.append(held.control)
        at = until if until > at else math.nextafter(at, math.inf)  # a clock too coarse to tell both apart
    spans = np.minimum([*moments, end], end)
    total = np.zeros((len(spans), otherwise.size))
    np.cumsum(np.array(values) * np.diff(spans)[:, None], axis=0, out=total[1:])
    edges = start + dt * np.arange(steps + 1)
    means = np.stack([np.diff(np.interp(edges, spans, column)) for column in total.T], axis=1) / dt
    return means, values[-1]
