"""`diffdrive-costmap`: a differential-drive robot finds its way through a flat to a pose.

State: x, y (m), heading (rad, not wrapped). Controls: forward speed (m/s, backwards slower than forwards) and turning
rate (rad/s), reached at once. A unicycle, stepped along the chord of its arc (midpoint heading):

    x' = x + v dt cos(heading + w dt / 2),    y' = y + v dt sin(heading + w dt / 2),    heading' = heading + w dt

The costmap is built as Nav2's inflation layer builds it (nav2_costmap_2d): 1 where the robot's middle must not be,
then exp(-scale (distance - radius)) down to 0. Beside it stands a map of the way left to the goal: shortest paths over
the cells, longer where they cost, so that a short horizon does not get caught behind a wall. Rows of both count along
y, columns along x, and the cell is looked up by its integer indices, clamped at the rim. A collision costs and does
not end the episode: after an end nothing more is paid, so that a crash would look cheap to a planner.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core.errors import InvalidInput
from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.tasks.canvas import BLUE, GREEN, ORANGE, Canvas
from mpcrl.tasks.task import AnalyticTask

WALLS = np.array(
    [
        [-5.0, -5.0, 5.0, -4.8], [-5.0, 4.8, 5.0, 5.0], [-5.0, -5.0, -4.8, 5.0], [4.8, -5.0, 5.0, 5.0],
        [-1.6, -5.0, -1.45, -2.2], [-1.6, -0.9, -1.45, 5.0], [-1.6, 0.6, 1.6, 0.75], [3.0, 0.6, 5.0, 0.75],
        [1.4, -5.0, 1.55, -3.4], [1.4, -1.9, 1.55, 0.75],
        [-4.2, 1.6, -2.9, 2.6], [-3.4, -1.6, -2.7, -0.9], [0.2, 2.3, 1.5, 3.2], [3.0, 2.4, 3.6, 3.0],
        [3.0, -2.2, 3.9, -1.4], [-0.5, -2.0, 0.3, -1.3], [-4.8, -4.8, -3.9, -4.3],
    ]
)  # fmt: skip
"""[17, 4] rectangles left, bottom, right, top, m."""

GOALS = ((4.0, -3.8, 0.0), (-3.4, 3.8, math.pi / 2), (3.9, 3.9, math.pi / 2), (-0.4, 4.0, math.pi))
"""Poses x, y (m), heading (rad) in other parts of the flat than the start, 7 to 20 m of way from it."""


class DiffdriveParams(NamedTuple):
    """SI units. `with_goal` sets the goal and the map that leads to it."""

    costmap: np.ndarray
    """[rows, columns] in [0, 1]; 1 is a collision."""
    way_left: np.ndarray
    """[rows, columns] length of the way to the goal, m."""
    origin_x: float
    """Lower left corner of the maps, m."""
    origin_y: float
    resolution: float
    """Size of a cell, m."""
    goal_x: float
    goal_y: float
    goal_heading: float
    dt: float = 0.05
    way_weight: float = 1.0
    heading_weight: float = 0.3
    collision_weight: float = 50.0
    closeness_weight: float = 1.0
    reverse_weight: float = 2.0
    effort_weight: float = 0.01


class DiffdriveCost(NamedTuple):
    """Terms of the stage cost."""

    way: float
    heading: float
    obstacles: float
    reverse: float
    effort: float


def step(x: tuple[float, ...], u: tuple[float, ...], p: DiffdriveParams) -> tuple[float, ...]:
    """The state after one control period."""
    px, py, heading = x
    middle = heading + 0.5 * p.dt * u[1]
    return px + p.dt * u[0] * math.cos(middle), py + p.dt * u[0] * math.sin(middle), heading + p.dt * u[1]


def costmap_at(px: float, py: float, p: DiffdriveParams) -> float:
    """The costmap's value at a point (m)."""
    row = int(min(max((py - p.origin_y) / p.resolution, 0.0), p.costmap.shape[0] - 1.0))
    column = int(min(max((px - p.origin_x) / p.resolution, 0.0), p.costmap.shape[1] - 1.0))
    return float(p.costmap[row, column])


def way_left_at(px: float, py: float, p: DiffdriveParams) -> float:
    """Length of the way to the goal (m), by the map where it is further than half a metre, else as the crow flies."""
    row = int(min(max((py - p.origin_y) / p.resolution, 0.0), p.way_left.shape[0] - 1.0))
    column = int(min(max((px - p.origin_x) / p.resolution, 0.0), p.way_left.shape[1] - 1.0))
    straight = math.hypot(px - p.goal_x, py - p.goal_y)
    return straight if straight < 0.5 else max(float(p.way_left[row, column]), 0.5)


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: DiffdriveParams) -> DiffdriveCost:
    """The way left, the wrong heading near the goal, closeness to obstacles, driving backwards, and effort."""
    px, py, heading = x
    way = way_left_at(px, py, p)
    danger = costmap_at(px, py, p)
    return DiffdriveCost(
        p.way_weight * way,
        p.heading_weight * max(1.0 - 2.0 * way, 0.0) * (1.0 - math.cos(heading - p.goal_heading)),
        p.closeness_weight * danger**2 + (p.collision_weight if danger > 0.99 else 0.0),
        p.reverse_weight * max(-u[0], 0.0),
        p.effort_weight * (u[0] ** 2 + 0.1 * u[1] ** 2),
    )


def terminal(x: tuple[float, ...], p: DiffdriveParams) -> float:
    """The state's part of the stage cost, tenfold."""
    state = cost(x, (0.0, 0.0), 0, p)
    return 10.0 * (state[0] + state[1] + state[2])


def solved(x: tuple[float, ...], p: DiffdriveParams) -> bool:
    """Within 15 cm and 0.25 rad of the goal (the defaults of Nav2's goal checker are 25 cm and 0.25 rad)."""
    near = math.hypot(x[0] - p.goal_x, x[1] - p.goal_y) < 0.15
    return near and abs(wrap_to_pi(x[2] - p.goal_heading)) < 0.25


def reset(rng: np.random.Generator) -> np.ndarray:
    """In the lower left room, looking anywhere."""
    return np.array([-3.2, -3.3, 0.0]) + rng.uniform((-0.3, -0.3, -math.pi), (0.3, 0.3, math.pi))


def inflated_costmap(
    walls: np.ndarray, size: float = 10.0, resolution: float = 0.05, radius: float = 0.22, scale: float = 6.0
) -> np.ndarray:
    """The costmap [cells, cells] of rectangles, the origin of the world in its middle.

    Parameters
    ----------
    walls : ndarray [K, 4]
        Left, bottom, right, top, m.
    size, resolution : float
        Of the whole map and of a cell, m.
    radius, scale : float
        Of the robot (m), and how fast the cost decays beyond it (1/m).
    """
    centres = (np.arange(round(size / resolution)) + 0.5) * resolution - 0.5 * size
    gap_x = np.maximum(walls[:, 0, None] - centres, centres - walls[:, 2, None]).clip(0.0)
    gap_y = np.maximum(walls[:, 1, None] - centres, centres - walls[:, 3, None]).clip(0.0)
    distance = np.sqrt((gap_x[:, None, :] ** 2 + gap_y[:, :, None] ** 2).min(0))
    return np.exp(-scale * (distance - radius).clip(0.0))


def with_goal(p: DiffdriveParams, x: float, y: float, heading: float) -> DiffdriveParams:
    """The same flat with another goal: x, y (m), heading (rad).

    Raises
    ------
    InvalidInput
        The goal lies outside of the map or where the robot would collide.
    """
    rows, columns = p.costmap.shape
    row, column = math.floor((y - p.origin_y) / p.resolution), math.floor((x - p.origin_x) / p.resolution)
    if not (0 <= row < rows and 0 <= column < columns and p.costmap[row, column] <= 0.99):
        raise InvalidInput(f"the goal must lie in the free part of the costmap; got x = {x:g} m, y = {y:g} m")
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    cell = np.arange(rows * columns).reshape(rows, columns)
    slow = 1.0 + 2.0 * p.costmap + np.where(p.costmap > 0.99, 50.0, 0.0)
    starts, ends, lengths = [], [], []
    for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: rows - dr, max(0, -dc) : columns - max(0, dc)]
        there = np.s_[dr:, max(0, dc) : columns + min(0, dc)]
        starts.append(cell[here].ravel())
        ends.append(cell[there].ravel())
        lengths.append((p.resolution * math.hypot(dr, dc) * 0.5 * (slow[here] + slow[there])).ravel())
    edges = (np.concatenate(lengths), (np.concatenate(starts), np.concatenate(ends)))
    graph = coo_array(edges, shape=(cell.size, cell.size)).tocsr()
    way_left = dijkstra(graph, directed=False, indices=cell[row, column]).reshape(rows, columns)
    return p._replace(way_left=way_left, goal_x=x, goal_y=y, goal_heading=heading)


_COLOURS = np.linspace((250, 250, 248), (240, 196, 150), 256).astype(np.uint8)
_COLOURS[253:] = (70, 78, 88)


def draw(canvas: Canvas, x: tuple[float, ...], p: DiffdriveParams) -> None:
    """The costmap, the goal, and the robot."""
    rows, columns = p.costmap.shape
    right, top = p.origin_x + columns * p.resolution, p.origin_y + rows * p.resolution
    canvas.view(p.origin_x, right, p.origin_y, top)
    pixels = _COLOURS[(255.0 * p.costmap[::-1]).astype(np.uint8)]
    canvas.picture(pixels, p.origin_x, right, p.origin_y, top)
    goal = (p.goal_x, p.goal_y)
    canvas.circle(goal, 0.15, GREEN)
    canvas.arrow(goal, (0.6 * math.cos(p.goal_heading), 0.6 * math.sin(p.goal_heading)), 0.08, GREEN)
    canvas.circle((x[0], x[1]), 0.22, BLUE)
    c, s = math.cos(x[2]), math.sin(x[2])
    canvas.line([(x[0], x[1]), (x[0] + 0.2 * c, x[1] + 0.2 * s)], 0.08, ORANGE)


def diffdrive_costmap() -> AnalyticTask:
    """Drive a robot through a flat to a pose, by a costmap."""
    costmap = inflated_costmap(WALLS)
    flat = DiffdriveParams(costmap, np.zeros_like(costmap), -5.0, -5.0, 0.05, 0.0, 0.0, 0.0)
    params = with_goal(flat, *GOALS[0])
    return AnalyticTask(
        name="diffdrive-costmap",
        dt=params.dt,
        control_low=np.array([-0.35, -1.9]),
        control_high=np.array([0.5, 1.9]),
        params=params,
        cost=cost,
        terminal=terminal,
        episode_steps=500,
        preset={"planner": "icem", "budget": 128, "horizon": 40, "beta": 2.0, "width": 0.25},
        state_names=("x", "y", "heading"),
        angles=("heading",),
        unseen=("x", "y"),
        control_names=("speed", "turning_rate"),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
    )
