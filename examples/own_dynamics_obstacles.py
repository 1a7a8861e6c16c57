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
ISLANDS = np.array([[2, 1, 0.7], [3, 2.9, 0.8], [4.4, 0.6, 0.9], [5, 3.6, 0.7], [1, 3, 0.6], [6.2, 1.9, 0.6]])


class Params(NamedTuple):
    islands: np.ndarray  # [6, 3] x, y, radius, m
    goal_x: float
    goal_y: float


def step(x, u, p):
    px, py, vx, vy, heading = x
    vx += DT * (u[0] * math.cos(heading) - 0.4 * vx)  # it slides: speed and heading are two things
    vy += DT * (u[0] * math.sin(heading) - 0.4 * vy)
    return px + DT * vx, py + DT * vy, vx, vy, heading + DT * u[1]


def cost(x, u, t, p):
    total = math.hypot(x[0] - p.goal_x, x[1] - p.goal_y) + 0.01 * (u[0] ** 2 + u[1] ** 2)
    for i in range(6):
        gap = math.hypot(x[0] - p.islands[i, 0], x[1] - p.islands[i, 1]) - p.islands[i, 2]
        total += 50.0 * max(0.25 - gap, 0.0)
    return total


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
params = Params(ISLANDS, goal_x=7.5, goal_y=3.0)
task = mpcrl.AnalyticTask(
    name="hovercraft", dt=DT, params=params, step=step, cost=cost, episode_steps=steps,
    state_names=("x", "y", "vx", "vy", "heading"), reset=lambda rng: np.array([0.2, 0.2, 0.0, 0.0, 0.8]),
    control_names=("thrust", "turn"), control_low=[-1.0, -3.0], control_high=[2.0, 3.0],
)  # fmt: skip
planner = mpcrl.planners.mppi(budget=1024, horizon=50, temperature=0.1, kind="normalised")
controller = mpcrl.Controller(task, planner)
controller.warmup()

state, path = task.reset(np.random.default_rng(0)), []
for t in range(steps):
    if t == steps // 2:
        params = params._replace(goal_x=0.3, goal_y=1.8)  # the goal moves; nothing is compiled
    state = np.array(step(tuple(state), tuple(controller.act(state, params)), params))
    path.append(state)

path = np.array(path)
print(f"from the last goal: {math.hypot(state[0] - params.goal_x, state[1] - params.goal_y):.2f} m")
for x, y, radius in ISLANDS:
    plt.gca().add_patch(plt.Circle((x, y), radius, color="0.85"))
for part, goal, colour in ((path[: steps // 2], (7.5, 3.0), "C0"), (path[steps // 2 :], (0.3, 1.8), "C1")):
    plt.plot(part[:, 0], part[:, 1], color=colour)
    plt.plot(*goal, "*", color=colour, markersize=16)
plt.gca().set(title="To the blue star, then to the orange one", xlabel="x, m", ylabel="y, m", aspect="equal")
plt.savefig("own_dynamics_obstacles.png", dpi=120)
