"""`racecar`: a 1:10 car laps a track as fast as its grip allows.

State, relative to the centre line: progress along it (m, not wrapped: it counts on from lap to lap), offset from it
(m, to the left), heading from its direction (rad), speed (m/s), steering angle (rad). Controls: acceleration (m/s^2)
and steering rate (rad/s). A kinematic bicycle about the centre of mass (Kong et al., "Kinematic and dynamic vehicle
models for autonomous driving control design", 2015) in the coordinates of the track (Kloeser et al., "NMPC for racing
using a singularity-free path-parametric model", 2020), kappa being the curvature of the centre line:

    slip      = atan(l_r tan(steering) / (l_f + l_r))
    progress' = speed cos(heading + slip) / (1 - kappa offset)
    offset'   = speed sin(heading + slip)
    heading'  = speed sin(slip) / l_r - kappa progress'

stepped by the midpoint method. Lengths and steering are those of an F1TENTH car. Each metre of progress on the track
earns a cost of -1; leaving it, and more sideways acceleration than the tyres hold, cost. Nothing of that ends the
episode: after an end nothing more is paid, so that an accident would look cheap to a planner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpcrl.core.errors import InvalidInput
from mpcrl.tasks.canvas import BLUE, GREY, INK, ORANGE, PALE, PAPER, RED, Canvas, Point
from mpcrl.tasks.task import AnalyticTask

CORNERS = (
    (-2.0, -3.1), (6.3, -3.1), (6.3, 3.1), (1.9, 3.1), (0.5, -0.7), (-1.7, -0.7), (-2.6, 3.1), (-6.3, 3.1), (-6.3, -3.1)
)  # fmt: skip
"""The polygon (m) that the default track rounds off; laps begin at its first corner."""


class RacecarParams(NamedTuple):
    """SI units. The centre line closes: its last point is its first."""

    curvature: np.ndarray
    """[K + 1] of the centre line at equal spacing, 1/m, left turns positive."""
    centre_x: np.ndarray
    """[K + 1] m"""
    centre_y: np.ndarray
    """[K + 1] m"""
    direction: np.ndarray
    """[K + 1] of the centre line, rad, continuous."""
    lap: float
    """Length of the centre line, m."""
    dt: float = 0.05
    half_width: float = 0.65
    front_length: float = 0.159
    rear_length: float = 0.171
    car_width: float = 0.3
    max_speed: float = 6.0
    max_steering: float = 0.4189
    grip: float = 7.0
    progress_weight: float = 1.0
    border_weight: float = 50.0
    grip_weight: float = 0.2
    effort_weight: float = 0.001


class RacecarCost(NamedTuple):
    """Terms of the stage cost."""

    progress: float
    border: float
    grip: float
    effort: float


def track(corners: Sequence[tuple[float, float]], smoothing: float = 1.1, points: int = 400) -> RacecarParams:
    """Parameters with a track that follows a closed polygon.

    Parameters
    ----------
    corners : sequence of (x, y)
        Counter-clockwise or clockwise, m.
    smoothing : float
        Standard deviation (m) of the Gaussian that rounds the corners off; the larger, the wider the bends.
    points : int
        Points K of the centre line.

    Raises
    ------
    InvalidInput
        Too few corners, or bends so tight that the border inside them folds.
    """
    if len(corners) < 3:
        raise InvalidInput(f"a track needs at least three corners, got {len(corners)}")
    polygon = np.array([complex(*corner) for corner in (*corners, corners[0])])
    distance = np.append(0.0, np.cumsum(np.abs(np.diff(polygon))))
    fine = 16 * points
    sample = np.arange(fine) * distance[-1] / fine
    outline = np.interp(sample, distance, polygon.real) + 1j * np.interp(sample, distance, polygon.imag)
    wave = 2.0 * np.pi / distance[-1] * np.fft.fftfreq(fine, 1.0 / fine)
    spectrum = np.fft.fft(outline) * np.exp(-0.5 * (wave * smoothing) ** 2)
    line, slope, bend = (np.fft.ifft((1j * wave) ** order * spectrum) for order in (0, 1, 2))
    curvature = (np.conj(slope) * bend).imag / np.abs(slope) ** 3

    line, slope, curvature = (np.append(values, values[0]) for values in (line, slope, curvature))
    progress = np.append(0.0, np.cumsum(np.abs(np.diff(line))))
    even = np.linspace(0.0, progress[-1], points + 1)
    direction = np.unwrap(np.angle(slope))
    columns = [np.interp(even, progress, column) for column in (curvature, line.real, line.imag, direction)]
    p = RacecarParams(columns[0], columns[1], columns[2], columns[3], float(progress[-1]))
    if np.abs(curvature).max() * p.half_width >= 0.9:
        raise InvalidInput(
            f"the track's bends must be wider than its half width of {p.half_width:g} m, but one has a radius of "
            f"{1.0 / np.abs(curvature).max():.2f} m; raise smoothing or move the corners apart"
        )
    return p


def curvature_at(progress: float, p: RacecarParams) -> float:
    """Curvature of the centre line, 1/m, linear between its points."""
    last = p.curvature.shape[0] - 1.0
    at = min(max(progress % p.lap / p.lap * last, 0.0), last - 1e-3)
    i = int(at)
    part = at - math.floor(at)
    return float((1.0 - part) * p.curvature[i] + part * p.curvature[i + 1])


def _rates(
    progress: float, offset: float, heading: float, speed: float, steering: float, p: RacecarParams
) -> tuple[float, float, float]:
    slip = math.atan(p.rear_length * math.tan(steering) / (p.front_length + p.rear_length))
    kappa = curvature_at(progress, p)
    # beyond the centre of a bend the coordinates fold; off the track it is enough that they stay finite
    forward = speed * math.cos(heading + slip) / max(1.0 - kappa * offset, 0.2)
    return forward, speed * math.sin(heading + slip), speed * math.sin(slip) / p.rear_length - kappa * forward


def step(x: tuple[float, ...], u: tuple[float, ...], p: RacecarParams) -> tuple[float, ...]:
    """The state after one control period."""
    progress, offset, heading, speed, steering = x
    new_speed = min(max(speed + p.dt * u[0], 0.0), p.max_speed)
    new_steering = min(max(steering + p.dt * u[1], -p.max_steering), p.max_steering)
    half = 0.5 * p.dt
    a, b, c = _rates(progress, offset, heading, speed, steering, p)
    a, b, c = _rates(
        progress + half * a,
        offset + half * b,
        heading + half * c,
        0.5 * (speed + new_speed),
        0.5 * (steering + new_steering),
        p,
    )
    return progress + p.dt * a, offset + p.dt * b, heading + p.dt * c, new_speed, new_steering


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: RacecarParams) -> RacecarCost:
    """Minus the progress of a control period, and what is over the track's border and the tyres' grip."""
    progress, offset, heading, speed, steering = x
    forward, _, _ = _rates(progress, offset, heading, speed, steering, p)
    sideways = speed**2 * math.tan(steering) / (p.front_length + p.rear_length)
    return RacecarCost(
        -p.progress_weight * p.dt * forward if abs(offset) < p.half_width else 0.0,
        p.border_weight * max(abs(offset) + 0.5 * p.car_width - p.half_width, 0.0) ** 2,
        p.grip_weight * max(abs(sideways) - p.grip, 0.0),
        p.effort_weight * (0.1 * u[0] ** 2 + u[1] ** 2),
    )


def solved(x: tuple[float, ...], p: RacecarParams) -> bool:
    """A lap done, on the track."""
    return x[0] >= p.lap and abs(x[1]) < p.half_width


def position(x: tuple[float, ...], p: RacecarParams) -> tuple[float, float, float]:
    """Where the car is in the plane: x, y (m), direction (rad)."""
    at = x[0] % p.lap / p.lap * (p.curvature.shape[0] - 1)
    columns = (p.centre_x, p.centre_y, p.direction)
    index = np.arange(p.curvature.shape[0])
    cx, cy, direction = (float(np.interp(at, index, column)) for column in columns)
    return cx - x[1] * math.sin(direction), cy + x[1] * math.cos(direction), direction + x[2]


def reset(rng: np.random.Generator) -> np.ndarray:
    """At rest on the starting line, somewhere across the track."""
    return np.array([0.0, rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.1), 0.0, 0.0])


def draw(canvas: Canvas, x: tuple[float, ...], p: RacecarParams) -> None:
    """The track from above with its starting line, and the car."""
    x_axis, y_axis = np.cos(p.direction[::3]), np.sin(p.direction[::3])
    centre_x, centre_y = p.centre_x[::3], p.centre_y[::3]

    def edge(side: float) -> list[Point]:
        return list(zip((centre_x - side * y_axis).tolist(), (centre_y + side * x_axis).tolist(), strict=True))

    around = p.half_width + 0.4
    left, right = float(centre_x.min()) - around, float(centre_x.max()) + around
    bottom, top = float(centre_y.min()) - around, float(centre_y.max()) + around
    canvas.view(left, right, bottom, top)
    turn = math.copysign(1.0, p.direction[-1] - p.direction[0])  # 1: counter-clockwise, the inside is on the left
    for side, colour in ((-0.04, GREY), (0.0, PALE)):
        canvas.polygon(edge(-turn * (p.half_width - side)), colour)
    canvas.polygon(edge(turn * p.half_width), GREY)
    canvas.polygon(edge(turn * (p.half_width + 0.04)), PAPER)
    canvas.line([edge(p.half_width)[0], edge(-p.half_width)[0]], 0.12, RED)
    px, py, direction = position(x, p)
    length = 1.6 * (p.front_length + p.rear_length)
    c, s = math.cos(direction), math.sin(direction)
    for along, angle in ((p.front_length, direction + x[4]), (-p.rear_length, direction)):
        for across in (-0.5 * p.car_width, 0.5 * p.car_width):
            canvas.box((px + along * c - across * s, py + along * s + across * c), 0.16, 0.08, angle, INK)
    canvas.box((px, py), length, 0.8 * p.car_width, direction, BLUE)
    canvas.box((px + 0.1 * c, py + 0.1 * s), 0.12, 0.6 * p.car_width, direction, ORANGE)
    middle = (0.5 * (left + right), bottom + 0.24 * (top - bottom))
    canvas.text(middle, f"{x[3]:.1f} m/s   lap {x[0] / p.lap:.2f}", 16, INK, "mm")


def racecar() -> AnalyticTask:
    """Drive laps on a closed track."""
    params = track(CORNERS)
    return AnalyticTask(
        name="racecar",
        dt=params.dt,
        control_low=np.array([-6.0, -3.2]),
        control_high=np.array([6.0, 3.2]),
        params=params,
        cost=cost,
        episode_steps=400,
        preset={"planner": "icem", "budget": 128, "horizon": 25, "beta": 2.0, "width": 0.25},
        state_names=("progress", "offset", "heading", "speed", "steering"),
        control_names=("acceleration", "steering_rate"),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
    )
