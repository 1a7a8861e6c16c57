"""All sampling planners on one task: who swings the pendulum up soonest, with the same number of trajectories?

    python examples/planners_side_by_side.py [STEPS]

Writes planners_side_by_side.png.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

import mpcrl

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
task = mpcrl.make_task("pendulum-swingup")

costs, plan_ms = {}, {}
for name, preset in mpcrl.planners.PRESETS.items():
    result = mpcrl.run_task(task, preset(budget=128, horizon=30), steps=steps, seed=0)
    costs[name] = -result.records[0].rewards  # the reward is minus the cost
    plan_ms[name] = result.plan_ms["p50"]

print(f"{'planner':20}{'total cost':>12}{'plan, ms':>10}")
order = sorted(costs, key=lambda name: costs[name].sum())
for name in order:
    print(f"{name:20}{costs[name].sum():12.1f}{plan_ms[name]:10.2f}")

figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
time = np.arange(1, steps + 1) * task.dt
for rank, name in enumerate(order):
    style = "-" if rank < 5 else "--"
    axes.plot(time, costs[name], style, color=f"C{rank % 5}", label=f"{name} ({costs[name].sum():.0f})")
axes.set(title="Cost of each step, 128 trajectories a plan", xlabel="time, s", ylabel="cost")
axes.legend(title="planner (total)", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
axes.grid(alpha=0.3)
figure.savefig("planners_side_by_side.png", dpi=120)
print("saved planners_side_by_side.png")
