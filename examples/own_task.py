"""A task of one's own: an XML, a cost and a reset, which then runs like any other.

    python examples/own_task.py [STEPS]
    mpcrl run examples/own_task.py:reach --video --out out/reach

The arm's tip is to go to a place that each episode draws anew. Ids are read from the model by name.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import mpcrl


class Params(NamedTuple):
    tip: int  # what is annotated int can index
    goal: int


def cost(before, u, after, t, p):
    tip, goal = after.site_xpos[p.tip], after.xpos[p.goal]
    away = (tip[0] - goal[0]) ** 2 + (tip[2] - goal[2]) ** 2
    return 20.0 * away + 0.01 * (after.qvel[0] ** 2 + after.qvel[1] ** 2) + 0.001 * (u[0] ** 2 + u[1] ** 2)


def reset(model, data, rng):
    data.qpos[:] = rng.uniform(-1.0, 1.0, 2)
    angle, radius = rng.uniform(-2.0, 2.0), rng.uniform(0.4, 0.7)
    data.mocap_pos[0] = radius * np.sin(angle), 0.0, 1.0 - radius * np.cos(angle)


def reach():
    return mpcrl.xml_task(
        Path(__file__).with_name("arm.xml"),
        cost=cost,
        reset=reset,
        params=lambda model, env: Params(tip=model.site("tip").id, goal=model.body("goal").id),
        fields=("site_xpos", "xpos", "qvel"),
        frame_skip=4,
        episode_steps=150,
        preset={"planner": "icem", "budget": 60, "horizon": 20},
    )


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    result = mpcrl.run_task(reach(), episodes=4, steps=steps)
    print(f"the last control step costs {-np.mean([e.rewards[-1] for e in result.records]):.4f} (mean of 4 episodes)")
    for episode in result.records:
        plt.semilogy(0.02 * np.arange(len(episode.rewards)), -episode.rewards)
    plt.gca().set(title="Reaching a random place", xlabel="time, s", ylabel="cost of a control step")
    plt.savefig("own_task.png", dpi=120)
