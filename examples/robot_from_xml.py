"""A robot from its XML: a two-link arm draws a figure of eight, planned through MuJoCo's physics.

    python examples/robot_from_xml.py [STEPS]

The cost is plain Python over recorded fields of MjData, before and after a control. Writes robot_from_xml.png.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import mujoco
import numpy as np

import mpcrl

ARM = str(Path(__file__).with_name("arm.xml"))


class Params(NamedTuple):
    dt: float  # s
    effort: float


def eight(time):
    return 0.3 * math.sin(1.5 * time), 0.55 + 0.15 * math.sin(3.0 * time)  # x and z, m


def cost(before, u, after, t, p):
    x, z = eight((t + 1) * p.dt)
    miss = (after.site_xpos[0, 0] - x) ** 2 + (after.site_xpos[0, 2] - z) ** 2
    return 100.0 * miss + p.effort * (u[0] ** 2 + u[1] ** 2)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
params = Params(dt=0.02, effort=0.002)
model = mpcrl.MuJoCo(ARM, cost=cost, fields=("site_xpos",), params=params, frame_skip=4)
low, high = model.control_bounds
task = mpcrl.Task(
    name="arm", dt=model.dt, control_low=low, control_high=high, params=params, cost=cost, episode_steps=steps
)
controller = mpcrl.Controller(task, mpcrl.planners.icem(budget=100, horizon=15, width=0.3), model=model)
robot = mujoco.MjModel.from_xml_path(ARM)  # the world: a simulation of its own
data, state, drawn = mujoco.MjData(robot), np.empty(model.nx), []
for _ in range(steps):
    mujoco.mj_getState(robot, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    data.ctrl[:] = controller.act(state)
    mujoco.mj_step(robot, data, nstep=4)
    drawn.append(data.site("tip").xpos[[0, 2]])

wanted = [eight((t + 1) * model.dt) for t in range(steps)]
errors = np.linalg.norm(np.subtract(drawn, wanted), axis=1)
print(f"the tip is {1e3 * np.median(errors):.1f} mm from where it should be (median)")
plt.plot(*np.transpose(wanted), color="0.8", linewidth=6)
plt.plot(*np.transpose(drawn))
plt.gca().set(title="What a two-link arm draws, and should", xlabel="x, m", ylabel="z, m", aspect="equal")
plt.savefig("robot_from_xml.png", dpi=120)
