"""A robot from its XML: a two-link arm draws a figure of eight, planned through MuJoCo's physics.

    python examples/robot_from_xml.py [STEPS]

The cost reads recorded fields of MjData before and after each control. Writes robot_from_xml.png.
"""

import math
import sys
from typing import NamedTuple

import matplotlib.pyplot as plt
import mujoco
import numpy as np

import mpcrl

ARM = """
<mujoco>
  <option timestep="0.005"/>
  <default><geom type="capsule" size=".03" contype="0" conaffinity="0"/><joint axis="0 1 0" damping=".1"/></default>
  <worldbody>
    <body pos="0 0 1"> <joint name="shoulder"/> <geom fromto="0 0 0 0 0 -.4"/>
      <body pos="0 0 -.4"> <joint name="elbow"/> <geom fromto="0 0 0 0 0 -.4"/> <site name="tip" pos="0 0 -.4"/> </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder" gear="20" ctrlrange="-1 1"/> <motor joint="elbow" gear="10" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Params(NamedTuple):
    dt: float  # s, control period
    effort: float


def eight(time):
    return 0.3 * math.sin(1.5 * time), 0.55 + 0.15 * math.sin(3 * time)  # x and z, m


def cost(before, u, after, t, p):
    x, z = eight((t + 1) * p.dt)
    miss = (after.site_xpos[0, 0] - x) ** 2 + (after.site_xpos[0, 2] - z) ** 2
    return 100 * miss + p.effort * (u[0] ** 2 + u[1] ** 2)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
robot = mujoco.MjModel.from_xml_string(ARM)
params = Params(dt=4 * robot.opt.timestep, effort=0.01)
model = mpcrl.MuJoCo(robot, cost=cost, fields=("site_xpos",), params=params, frame_skip=4)
low, high = model.control_bounds
task = mpcrl.Task(
    name="arm", dt=model.dt, control_low=low, control_high=high, params=params, cost=cost, episode_steps=steps
)
controller = mpcrl.Controller(task, mpcrl.planners.icem(budget=60, horizon=15), model=model)
controller.warmup()

data, state, path = mujoco.MjData(robot), np.empty(model.nx), []
for _ in range(steps):
    mujoco.mj_getState(robot, data, state, STATE)
    data.ctrl[:] = controller.act(state)
    mujoco.mj_step(robot, data, nstep=4)
    path.append(data.site("tip").xpos[[0, 2]])

wanted = np.array([eight((t + 1) * model.dt) for t in range(steps)])
errors = np.linalg.norm(np.array(path) - wanted, axis=1)
print(f"median distance of the tip from the figure: {1e3 * np.median(errors):.1f} mm")
plt.plot(*wanted.T, color="0.75", linewidth=5, label="wanted")
plt.plot(*np.array(path).T, label="tip of the arm")
plt.gca().set(title="A two-link arm draws", xlabel="x, m", ylabel="z, m", aspect="equal")
plt.legend(loc="lower center", ncols=2)
plt.savefig("robot_from_xml.png", dpi=120)
