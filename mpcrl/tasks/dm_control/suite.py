"""What the domains share: how a task is made, and the suite's soft indicators.

An indicator is a function of how far a quantity is `outside` of where it should be: 1 inside, and at the margin
`value`. Scalar Python, for costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mpcrl.tasks.mujoco_task import MujocoTask, mujoco_task

_EPISODE_STEPS = 1000  # of every task in the suite's benchmark

COARSE: Mapping[str, Any] = {"planner": "icem", "model": "mujoco-coarse", "controls_per_plan": 2}
"""What most presets begin with, Gymnasium's too: two controls of each plan, and physics that are cheap enough to plan
in time, or that do not take most of it for Runge-Kutta."""


def suite_task(
    name: str,
    *,
    fields: tuple[str, ...],
    cost: Callable[..., float],
    params: Any,
    planning_cost: Callable[..., float] | None = None,
    preset: Mapping[str, Any],
    unseen: tuple[str, ...] = (),
) -> MujocoTask:
    """The task `domain-task` of the suite; see `mujoco_task`."""
    return mujoco_task(
        f"dm_control/{name}-v0",
        fields=fields,
        cost=cost,
        params=params,
        planning_cost=planning_cost,
        current=True,
        episode_steps=_EPISODE_STEPS,
        preset=preset,
        unseen=unseen,
    )


def outside(x: float, low: float, high: float) -> float:
    """Distance from x to the interval [low, high]; 0 inside."""
    return max(low - x, x - high, 0.0)


def below(x: float, low: float) -> float:
    """How far x is below `low`; 0 from there on."""
    return max(low - x, 0.0)


def inside(x: float, low: float, high: float) -> float:
    """1 in the interval [low, high], 0 elsewhere."""
    return 1.0 if low <= x <= high else 0.0


def gaussian(distance: float, margin: float, value: float = 0.1) -> float:
    """Falls like a bell, and never to 0."""
    return math.exp(math.log(value) * (distance / margin) ** 2)


def linear(distance: float, margin: float, value: float) -> float:
    """Falls evenly, to 0 at the end."""
    return max(0.0, 1.0 - (1.0 - value) * abs(distance) / margin)


def quadratic(distance: float, margin: float, value: float) -> float:
    """Falls like a parabola, to 0 at the end."""
    return max(0.0, 1.0 - (1.0 - value) * (distance / margin) ** 2)


def long_tail(distance: float, margin: float, value: float = 0.1) -> float:
    """Falls with the inverse square: a slope even far away."""
    return 1.0 / ((1.0 / value - 1.0) * (distance / margin) ** 2 + 1.0)


def small_control(u: Any) -> float:
    """From 1 for no control down to 0.8: how rewards charge controls."""
    total = 0.0
    for i in range(u.shape[0]):
        total += quadratic(u[i], 1.0, 0.0)
    return (4.0 + total / u.shape[0]) / 5.0
