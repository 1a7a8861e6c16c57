"""`mountain-car`: Gymnasium's MountainCarContinuous-v0, a car too weak to climb a hill without a run-up.

State: position (gymnasium's unit of length), velocity (the same per control step). Control: push, -1 to 1
(gymnasium/envs/classic_control/continuous_mountain_car.py, after Moore 1990):

    velocity' = velocity + power push - gravity cos(3 position), held within +-max_speed
    position' = position + velocity', held within [-1.2, 0.6]; the left wall stops the car

Time is counted in control steps there; `dt` is Gymnasium's frame time. Of Gymnasium's reward only the effort is kept:
its 100 at the goal say nothing on the way, so the cost has the energy and the distance that the car lacks instead.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.tasks.canvas import BLUE, GREEN, INK, PALE, Canvas
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.task import AnalyticTask


class MountainCarParams(NamedTuple):
    """Gymnasium's numbers; energies are per unit of mass, in its units."""

    power: float = 0.0015
    gravity: float = 0.0025
    max_speed: float = 0.07
    left_wall: float = -1.2
    right_wall: float = 0.6
    goal: float = 0.45
    energy_weight: float = 2.0
    distance_weight: float = 0.2
    push_weight: float = 0.1


class MountainCarCost(NamedTuple):
    """Terms of the stage cost."""

    energy: float
    distance: float
    push: float


def step(x: tuple[float, ...], u: tuple[float, ...], p: MountainCarParams) -> tuple[float, ...]:
    """The state after one control step."""
    position, velocity = x
    velocity = velocity + p.power * u[0] - p.gravity * math.cos(3.0 * position)
    velocity = min(max(velocity, -p.max_speed), p.max_speed)
    position = min(max(position + velocity, p.left_wall), p.right_wall)
    return position, (0.0 if position <= p.left_wall and velocity < 0.0 else velocity)


def energy(x: tuple[float, ...], p: MountainCarParams) -> float:
    """Kinetic and potential energy, 0 at rest in the valley and 1 at rest on the hilltop."""
    position, velocity = x
    return 0.5 + (0.5 * velocity**2 + p.gravity / 3.0 * math.sin(3.0 * position)) / (p.gravity * 2.0 / 3.0)


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: MountainCarParams) -> MountainCarCost:
    """Energy lacking for the hill, distance to the goal, and effort."""
    return MountainCarCost(
        p.energy_weight * max(1.05 - energy(x, p), 0.0),
        p.distance_weight * max(p.goal - x[0], 0.0),
        p.push_weight * u[0] ** 2,
    )


def solved(x: tuple[float, ...], p: MountainCarParams) -> bool:
    """At the goal or beyond, not rolling back."""
    return x[0] >= p.goal and x[1] >= 0.0


def reset(rng: np.random.Generator) -> np.ndarray:
    """At rest in the valley."""
    return np.array([rng.uniform(-0.6, -0.4), 0.0])


def _height(position: float) -> float:
    return 0.45 * math.sin(3.0 * position) + 0.55


def draw(canvas: Canvas, x: tuple[float, ...], p: MountainCarParams) -> None:
    """The hills, the flag, and the car."""
    canvas.view(-1.25, 0.65, -0.02, 1.25)
    hills = [(s, _height(s)) for s in np.linspace(-1.5, 1.0, 101).tolist()]
    canvas.polygon([*hills, (1.0, -1.0), (-1.5, -1.0)], PALE)
    canvas.line(hills, 0.008, INK)
    foot = _height(p.goal)
    canvas.line([(p.goal, foot), (p.goal, foot + 0.2)], 0.008, INK)
    canvas.polygon([(p.goal, foot + 0.2), (p.goal + 0.09, foot + 0.17), (p.goal, foot + 0.14)], GREEN)
    angle = math.atan(1.35 * math.cos(3.0 * x[0]))
    c, s = math.cos(angle), math.sin(angle)
    ground = _height(x[0])
    canvas.box((x[0] - 0.055 * s, ground + 0.055 * c), 0.14, 0.05, angle, BLUE)
    canvas.box((x[0] - 0.09 * s, ground + 0.09 * c), 0.07, 0.04, angle, BLUE)
    for side in (-0.045, 0.045):
        canvas.circle((x[0] + side * c - 0.025 * s, ground + side * s + 0.025 * c), 0.025, INK)


def mountain_car() -> AnalyticTask:
    """Drive out of a valley by swinging back and forth."""
    return AnalyticTask(
        name="mountain-car",
        dt=1.0 / 30.0,
        control_low=np.array([-1.0]),
        control_high=np.array([1.0]),
        params=MountainCarParams(),
        cost=cost,
        terminated=solved,
        episode_steps=300,
        preset={"planner": "icem", "budget": 128, "horizon": 40, "beta": 3.0},
        state_names=("position", "velocity"),
        control_names=("push",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
        goal=Goal(terms=({"position": 1.0},), target=(math.pi / 6.0,), width=0.3),  # the hilltop, beyond the flag
    )
