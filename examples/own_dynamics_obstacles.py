"""Your own dynamics and cost: a hovercraft finds its way between islands, and turns back when its goal moves.

    python examples/own_dynamics_obstacles.py [STEPS]

`step` and `cost` are plain Python on tuples of floats. They are compiled so that each SIMD lane runs one trajectory.
What they read of `p` may change at run time without compiling again. Writes own_dynamics_obstacles.png.
"""

import math
import sys
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import mpcrl

DT = 0.05  # s
ISLANDS = np.array([[2, 1, 0.7], [3, 2.9, 0.8], [4.4, 0.6, 0.9], [5, 3.2, 0.6], [1, 3, 0.6], [6.4, 1.9, 0.5]])


class Params(NamedTuple):
    islands: np.ndarray  # [6, 3] x, y, radius, m
    goal_x: float
    goal_y: float


def step(x, u, p):
    px, py, vx, vy, heading = x
    thrust, turn = u
    vx += DT * (thrust * math.cos(heading) - 0.4 * vx)  # it slides: speed and heading are two things
    vy += DT * (thrust * math.sin(heading) - 0.4 * vy)
    return px + DT * vx, py + DT * vy, vx, vy, heading + DT * turn


def cost(x, u, t, p):
    total = math.hypot(x[0] - p.goal_x, x[1] - p.goal_y) + 0.01 * (u[0] ** 2 + u[1] ** 2)
    for i in range(6):
        gap = math.hypot(x[0] - p.islands[i, 0], x[1] - p.islands[i, 1]) - p.islands[i, 2]
        total += 50.0 * max(0.25 - gap, 0.0)
    return total


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
params = Params(ISLANDS, goal_x=7.5, goal_y=3.5)
task = mpcrl.AnalyticTask(
    name="hovercraft", dt=DT, control_low=[-1.0, -3.0], control_high=[2.0, 3.0], params=params, step=step, cost=cost,
    state_names=("x", "y", "vx", "vy", "heading"), control_names=("thrust", "turn"), episode_steps=steps,
    reset=lambda rng: np.array([0.2, 0.2, 0.0, 0.0, 0.8]),
)  # fmt: skip
controller = mpcrl.Controller(task, mpcrl.planners.mppi(budget=1024, horizon=50, temperature=0.1, kind="normalised"))
controller.warmup()

state, path = task.reset(np.random.default_rng(0)), []
for t in range(steps):
    if t == steps // 2:
        params = params._replace(goal_x=0.3, goal_y=3.9)  # the goal moves; nothing is compiled
    state = np.array(step(tuple(state), tuple(controller.act(state, params)), params))
    path.append(state)

path = np.array(path)
gaps = np.hypot(*(path[:, None, :2] - ISLANDS[:, :2]).transpose(2, 0, 1)) - ISLANDS[:, 2]
print(f"nearest to an island: {gaps.min():.2f} m; to the last goal: {math.hypot(state[0] - 0.3, state[1] - 3.9):.2f} m")
figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
for x, y, radius in ISLANDS:
    axes.add_patch(plt.Circle((x, y), radius, color="0.8"))
for part, goal, colour in ((path[: steps // 2], (7.5, 3.5), "C0"), (path[steps // 2 :], (0.3, 3.9), "C1")):
    axes.plot(part[:, 0], part[:, 1], color=colour)
    axes.plot(*goal, "*", color=colour, markersize=16)
axes.set(title="A goal that moves", xlabel="x, m", ylabel="y, m", aspect="equal")
figure.savefig("own_dynamics_obstacles.png", dpi=120)
