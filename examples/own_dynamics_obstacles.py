"""Your own dynamics and cost: a hovercraft finds its way between islands to a goal that moves.

`step` and `cost` are plain Python on tuples of floats; what they read of `p` may change at run time.
Run python examples/own_dynamics_obstacles.py [STEPS]; it writes own_dynamics_obstacles.png.
"""

import math
import sys
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import mpcrl

DT = 0.05  # s
ISLANDS = np.array([(2, 0.8, 0.7), (3, 2.9, 0.8), (4.4, 0.3, 0.9), (5, 3.8, 0.7), (1, 3.1, 0.6), (6.2, 1.8, 0.6)])
GOALS = (7.5, 3.0), (0.3, 1.8)


class Params(NamedTuple):
    islands: np.ndarray  # [6, 3] x, y, radius, m
    goal_x: float
    goal_y: float


def step(x, u, p):
    px, py, vx, vy, heading = x  # it slides: velocity and heading are two things
    vx += DT * (u[0] * math.cos(heading) - 0.4 * vx)
    vy += DT * (u[0] * math.sin(heading) - 0.4 * vy)
    return px + DT * vx, py + DT * vy, vx, vy, heading + DT * u[1]


def cost(x, u, t, p):
    total = math.hypot(x[0] - p.goal_x, x[1] - p.goal_y) + 0.01 * (u[0] ** 2 + u[1] ** 2)
    for i in range(6):
        gap = math.hypot(x[0] - p.islands[i, 0], x[1] - p.islands[i, 1]) - p.islands[i, 2]
        total += 50.0 * max(0.2 - gap, 0.0)
    return total


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
task = mpcrl.AnalyticTask(
    name="hovercraft", dt=DT, params=Params(ISLANDS, *GOALS[0]), step=step, cost=cost, episode_steps=steps,
    state_names=("x", "y", "vx", "vy", "heading"), reset=lambda rng: np.zeros(5),
    control_names=("thrust", "turn"), control_low=[-1.0, -3.0], control_high=[2.0, 3.0],
)  # fmt: skip
controller = mpcrl.Controller(task, mpcrl.planners.mppi(budget=1024, horizon=60, temperature=0.1, kind="normalised"))
state, path = (0.2, 0.2, 0.0, 0.0, 0.8), []
for t in range(steps):
    params = Params(ISLANDS, *GOALS[t >= steps // 2])  # half-way the goal moves; nothing is compiled
    state = step(state, controller.act(state, params), params)
    path.append(state[:2])
print(f"{math.dist(state[:2], GOALS[1]):.2f} m from the last goal")
for x, y, radius in ISLANDS:
    plt.gca().add_patch(plt.Circle((x, y), radius, color="0.85"))
for goal, part, colour in ((GOALS[0], path[: steps // 2], "C0"), (GOALS[1], path[steps // 2 :], "C1")):
    plt.plot(*np.transpose(part), colour, *goal, f"{colour}*", markersize=16)
plt.gca().set(title="To the blue star, then to the orange one", xlabel="x, m", ylabel="y, m", aspect="equal")
plt.savefig("own_dynamics_obstacles.png", dpi=120)
