"""From the desk to the robot: a controller as a folder, and what the robot's process makes of it.

    python examples/exported_controller.py [STEPS]

Nothing of the folder is executed. The task is this file's own, so loading names the file; one byte more or less in it,
or in the folder, and there is no controller. Writes exported_controller.png.
"""

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import mpcrl


class Params(NamedTuple):
    goal: float = 0.0
    dt: float = 0.05


def step(x, u, p):
    return x[0] + p.dt * x[1], x[1] + p.dt * u[0]


def cost(x, u, t, p):
    return (x[0] - p.goal) ** 2 + 0.1 * x[1] ** 2 + 0.001 * u[0] ** 2


def slider():
    return mpcrl.AnalyticTask(
        name="slider", dt=0.05, control_low=[-3.0], control_high=[3.0], params=Params(), episode_steps=100,
        state_names=("position", "speed"), control_names=("force",), step=step, cost=cost,
        reset=lambda rng: np.array([1.0, 0.0]),
    )  # fmt: skip


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    source = f"{Path(__file__).resolve()}:slider"
    with tempfile.TemporaryDirectory() as folder:
        planner = mpcrl.planners.icem(budget=64, horizon=20)
        mpcrl.export(mpcrl.Controller(mpcrl.make_task(source), planner, rate_limit=20.0), folder, source=source)
        robot = mpcrl.load(folder, source=source)  # on the robot: that its own copy of the file is the same is checked
        (Path(folder) / "controller.json").write_text("{}")
        try:
            mpcrl.load(folder, source=source)
        except mpcrl.DamagedExport as error:
            print(f"refused: {error}")
    states = [robot.task.reset(np.random.default_rng(0))]
    for _ in range(steps):
        states.append(np.array(step(states[-1], robot.act(states[-1]), robot.task.params)))
    plt.plot(robot.task.dt * np.arange(len(states)), states, label=robot.task.state_names)
    plt.gca().set(title="Loaded from a folder", xlabel="time, s")
    plt.legend()
    plt.savefig("exported_controller.png", dpi=120)
