"""First contact: swing a pendulum up with a motor too weak to lift it.

    python examples/pendulum.py [STEPS]

Each step plans 1.5 s ahead from the present state and applies the first control of the plan. Writes pendulum.png.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

import mpcrl

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200

task = mpcrl.make_task("pendulum-swingup")
planner = mpcrl.planners.icem(budget=128, horizon=30)
controller = mpcrl.Controller(task, planner, seed=0)
print(f"ready after {controller.warmup():.1f} s (compiled kernels are kept: the next time it takes a moment)")

state = task.reset(np.random.default_rng(0))  # angle from upright (rad) and its rate (rad/s): hanging
states, controls = [state], []
for _ in range(steps):
    control = controller.act(state)  # always finite and within the motor's 2 N m
    state = np.array(task.step(tuple(state), tuple(control), task.params))
    states.append(state)
    controls.append(control)

stats = controller.stats()
angle, rate = state
upright = "upright" if task.solved(state, task.params) else "not upright yet"
print(f"after {steps * task.dt:.1f} s the pendulum is {upright}, turning at {rate:+.2f} rad/s")
print(f"a plan took {stats.p50_ms:.2f} ms, of the {1e3 * task.dt:.0f} ms that there are")

time = np.arange(steps + 1) * task.dt
figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(8, 5), layout="constrained")
top.plot(time, np.degrees(np.array(states)[:, 0]))
top.set(title="Pendulum swing-up by iCEM", ylabel="angle from upright, °")
top.set_yticks(range(0, 541, 180))
bottom.stairs(np.array(controls)[:, 0], time, baseline=None, color="tab:orange")
bottom.axhline(task.control_low[0], color="grey", linestyle="--", linewidth=1)
bottom.axhline(task.control_high[0], color="grey", linestyle="--", linewidth=1)
bottom.set(xlabel="time, s", ylabel="torque, N m")
for panel in (top, bottom):
    panel.grid(alpha=0.3)
figure.savefig("pendulum.png", dpi=120)
print("saved pendulum.png")
