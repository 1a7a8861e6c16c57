"""The benchmarks' control problems, each stated once: what every side of a comparison simulates and minimises.

The functions are plain Python on tuples of floats, in the form that `mpcrl` compiles:

    step(x, u, p) -> x        cost(x, u, t, p) -> float        terminal(x, p) -> float

`systems_torch` and `systems_jax` hold the same formulas on batches; the driver checks in every run that all of them
give the same costs on the same controls. The peers add the state's cost *after* each step, we add it before each
step and at the end; so every terminal cost here is the state's part of the stage cost, and the two sums differ by
the cost of the start, a constant that no planner can see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

HOLD = 20
"""Steps on end for which a problem must be solved."""


class Pendulum(NamedTuple):
    """Gymnasium's Pendulum: angle (0 upright, rad) and speed (rad/s); the control is a torque (N m)."""

    dt: float = 0.05
    gravity: float = 10.0
    length: float = 1.0
    mass: float = 1.0
    max_speed: float = 8.0


def pendulum_step(x, u, p):
    angle, speed = x
    acceleration = 1.5 * p.gravity / p.length * math.sin(angle) + 3.0 / (p.mass * p.length**2) * u[0]
    speed = min(max(speed + acceleration * p.dt, -p.max_speed), p.max_speed)
    return angle + speed * p.dt, speed


def pendulum_terminal(x, p):
    angle, speed = x
    angle = (angle + math.pi) % (2 * math.pi) - math.pi
    return angle**2 + 0.1 * speed**2


def pendulum_cost(x, u, t, p):
    return pendulum_terminal(x, p) + 0.001 * u[0] ** 2


def pendulum_solved(x, p):
    return pendulum_terminal(x, p) < 0.02


class Quadrotor(NamedTuple):
    """A quadrotor that flies to a goal between two upright cylinders.

    States: position (m), velocity (m/s), attitude quaternion (w, x, y, z), body rates (rad/s).
    Controls: thrust per mass along the body's z beyond hovering (m/s2) and angular accelerations (rad/s2).
    """

    obstacles: np.ndarray  # [2, 3]: x, y, radius (m)
    goal: np.ndarray  # [3]: x, y, z (m)
    dt: float = 0.02
    gravity: float = 9.81
    drag: float = 0.1  # 1/s
    gyration: float = 0.3  # (Iy - Iz) / Ix, and minus (Iz - Ix) / Iy


def quadrotor_step(x, u, p):
    px, py, pz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = x
    thrust, ax, ay, az = u[0] + p.gravity, u[1], u[2], u[3]
    # The body's z axis in the world.
    bx = 2.0 * (qx * qz + qw * qy)
    by = 2.0 * (qy * qz - qw * qx)
    bz = 1.0 - 2.0 * (qx * qx + qy * qy)
    # One Euler step of dq/dt = q * (0, w) / 2, back on the unit sphere.
    h = 0.5 * p.dt
    rw = qw - h * (qx * wx + qy * wy + qz * wz)
    rx = qx + h * (qw * wx + qy * wz - qz * wy)
    ry = qy + h * (qw * wy + qz * wx - qx * wz)
    rz = qz + h * (qw * wz + qx * wy - qy * wx)
    scale = 1.0 / math.sqrt(rw * rw + rx * rx + ry * ry + rz * rz)
    return (
        px + p.dt * vx,
        py + p.dt * vy,
        pz + p.dt * vz,
        vx + p.dt * (thrust * bx - p.drag * vx),
        vy + p.dt * (thrust * by - p.drag * vy),
        vz + p.dt * (thrust * bz - p.drag * vz - p.gravity),
        rw * scale,
        rx * scale,
        ry * scale,
        rz * scale,
        wx + p.dt * (ax + p.gyration * wy * wz),
        wy + p.dt * (ay - p.gyration * wx * wz),
        wz + p.dt * az,
    )


def quadrotor_terminal(x, p):
    px, py, pz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = x
    total = (
        2.0 * ((px - p.goal[0]) ** 2 + (py - p.goal[1]) ** 2 + (pz - p.goal[2]) ** 2)
        + 0.5 * (vx**2 + vy**2 + vz**2)
        + 2.0 * (qx**2 + qy**2 + qz**2)
        + 0.05 * (wx**2 + wy**2 + wz**2)
    )
    for k in range(2):
        distance = math.sqrt((px - p.obstacles[k, 0]) ** 2 + (py - p.obstacles[k, 1]) ** 2)
        if distance < p.obstacles[k, 2]:
            total += 20.0 + 100.0 * (p.obstacles[k, 2] - distance)
    return total


def quadrotor_cost(x, u, t, p):
    return quadrotor_terminal(x, p) + 0.002 * u[0] ** 2 + 0.0005 * (u[1] ** 2 + u[2] ** 2 + u[3] ** 2)


def quadrotor_solved(x, p):
    return math.dist(x[:3], p.goal) < 0.2


class DiffDrive(NamedTuple):
    """A robot with differential drive on a costmap.

    States: x, y (m), heading (rad). Controls: speed (m/s), turning rate (rad/s).
    """

    costmap: np.ndarray  # [rows, columns]: 0 free, 1 lethal; row i is y, column j is x
    goal: np.ndarray  # [2]: x, y (m)
    resolution: float = 0.05  # m per cell
    last: float = 199.0  # index of the last row and column
    dt: float = 0.05


def diffdrive_step(x, u, p):
    px, py, heading = x
    return (
        px + p.dt * u[0] * math.cos(heading),
        py + p.dt * u[0] * math.sin(heading),
        heading + p.dt * u[1],
    )


def diffdrive_terminal(x, p):
    px, py, heading = x
    row = min(max(math.floor(py / p.resolution), 0.0), p.last)
    column = min(max(math.floor(px / p.resolution), 0.0), p.last)
    occupied = p.costmap[int(row), int(column)]
    return math.sqrt((px - p.goal[0]) ** 2 + (py - p.goal[1]) ** 2 + 1e-4) + 2.0 * occupied


def diffdrive_cost(x, u, t, p):
    return diffdrive_terminal(x, p) + 0.02 * u[0] ** 2 + 0.01 * u[1] ** 2


def diffdrive_solved(x, p):
    return math.dist(x[:2], p.goal) < 0.25


def costmap(cells: int = 200, resolution: float = 0.05) -> np.ndarray:
    """A room with round pillars, each with an exponential margin as a robot's planner inflates it."""
    centre = (np.arange(cells) + 0.5) * resolution
    x, y = np.meshgrid(centre, centre)
    clearance = np.minimum.reduce([x, y, cells * resolution - x, cells * resolution - y])
    for px, py, radius in ((3.1, 1.7, 0.35), (3.7, 3.9, 0.35), (2.0, 4.6, 0.4), (6.5, 5.5, 0.6), (6.0, 2.5, 0.5)):
        clearance = np.minimum(clearance, np.hypot(x - px, y - py) - radius)
    return np.where(clearance <= 0.2, 1.0, np.exp(-5.0 * (clearance - 0.2))).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class System:
    """One problem with what a planner needs beside its formulas.

    `width` is the standard deviation of the control noise in half ranges, `temperature` MPPI's lambda, `steps` the time
    in which the problem is to be solved. Plans start from zero controls, the middle of the bounds.
    """

    name: str
    state_names: tuple[str, ...]
    control_names: tuple[str, ...]
    step: Callable[..., tuple[float, ...]]
    cost: Callable[..., float]
    terminal: Callable[..., float]
    solved: Callable[..., bool]
    params: Any
    start: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    width: float
    temperature: float
    steps: int

    @property
    def sigma(self) -> tuple[float, ...]:
        """Standard deviation [nu] of the control noise."""
        return tuple(self.width * (high - low) / 2 for low, high in zip(self.low, self.high, strict=True))

    def cost_of(self, controls: np.ndarray) -> np.ndarray:
        """Cost [N] of controls [N, H, nu] from the start, in float64, one plain call after the other.

        Counted as the peers count: the state's cost after each step, not at the start.
        """
        costs = np.empty(len(controls))
        for n, sequence in enumerate(controls.tolist()):
            x, total = self.start, -self.terminal(self.start, self.params)
            for t, u in enumerate(sequence):
                total += self.cost(x, u, t, self.params)
                x = self.step(x, u, self.params)
            costs[n] = total + self.terminal(x, self.params)
        return costs

    def episode(self, plan: Callable[[tuple[float, ...]], Any]) -> dict[str, Any]:
        """Control the plain functions by `plan(state) -> control [nu]`: the proof that a planner does its work.

        It ends when the problem has been solved for 20 steps on end, or after `steps`.
        """
        x, total, held = self.start, 0.0, 0
        for t in range(self.steps):
            u = [float(value) for value in plan(x)]
            total += self.cost(x, u, t, self.params)
            x = self.step(x, u, self.params)
            held = held + 1 if self.solved(x, self.params) else 0
            if held == HOLD or not all(map(math.isfinite, x)):
                break
        return {"solved": held == HOLD, "at": t + 1 - HOLD, "cost": float(total)}


def system(name: str) -> System:
    """The problem called `name`: pendulum, quadrotor or diffdrive."""
    return {"pendulum": pendulum, "quadrotor": quadrotor, "diffdrive": diffdrive}[name]()


def pendulum() -> System:
    return System(
        name="pendulum", state_names=("angle", "speed"), control_names=("torque",),
        step=pendulum_step, cost=pendulum_cost, terminal=pendulum_terminal, solved=pendulum_solved,
        params=Pendulum(), start=(math.pi, 0.0), low=(-2.0,), high=(2.0,), width=0.5,
        temperature=1.0, steps=200,
    )  # fmt: skip


def quadrotor() -> System:
    return System(
        name="quadrotor",
        state_names=("x", "y", "z", "vx", "vy", "vz", "qw", "qx", "qy", "qz", "wx", "wy", "wz"),
        control_names=("thrust", "roll", "pitch", "yaw"),
        step=quadrotor_step, cost=quadrotor_cost, terminal=quadrotor_terminal, solved=quadrotor_solved,
        params=Quadrotor(
            obstacles=np.array([[0.9, 0.15, 0.35], [1.7, -0.45, 0.3]], np.float32),
            goal=np.array([2.5, 0.0, 1.2], np.float32),
        ),
        start=(0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        low=(-9.81, -20.0, -20.0, -5.0), high=(9.81, 20.0, 20.0, 5.0), width=0.2,
        temperature=5.0, steps=250,
    )  # fmt: skip


def diffdrive() -> System:
    return System(
        name="diffdrive", state_names=("x", "y", "heading"), control_names=("speed", "turn"),
        step=diffdrive_step, cost=diffdrive_cost, terminal=diffdrive_terminal, solved=diffdrive_solved,
        params=DiffDrive(costmap=costmap(), goal=np.array([3.7, 2.9], np.float32)),
        start=(1.2, 1.5, 0.5), low=(-0.5, -1.0), high=(0.5, 1.0), width=0.4,
        temperature=0.1, steps=700,
    )  # fmt: skip
