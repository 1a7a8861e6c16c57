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
    <body pos="0 0 1">
      <joint name="shoulder"/> <geom fromto="0 0 0 0 0 -.4"/>
      <body pos="0 0 -.4">
        <joint name="elbow"/> <geom fromto="0 0 0 0 0 -.4"/> <site name="tip" pos="0 0 -.4"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder" gear="20" ctrllimited="true" ctrlrange="-1 1"/>
    <motor joint="elbow" gear="10" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Params(NamedTuple):
    dt: float  # s


def eight(time):
    return 0.3 * math.sin(2 * time) + 0.25, 0.8 + 0.15 * math.sin(4 * time)


def cost(before, u, after, t, p):
    time = (t + 1) * p.dt
    dx = after.site_xpos[0, 0] - (0.3 * math.sin(2 * time) + 0.25)
    dz = after.site_xpos[0, 2] - (0.8 + 0.15 * math.sin(4 * time))
    return 100 * (dx**2 + dz**2) + 0.001 * (after.qvel[0] ** 2 + after.qvel[1] ** 2) + 0.01 * (u[0] ** 2 + u[1] ** 2)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 320
