"""Noisy measurements of half of the state: an unscented Kalman filter estimates the rest.

A cart-pole whose position and angle are measured with noise, and whose speeds are not. `estimator=` is called inside
`submit` with the measurement, the mean control that acted since the last one, and the seconds that passed.
Run python examples/partial_observation.py [STEPS]; it writes partial_observation.png (pip install 'mpcrl[estimation]').
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from filterpy.kalman import MerweScaledSigmaPoints, UnscentedKalmanFilter

import mpcrl

NOISE = np.array([0.01, 0.02])  # m, rad
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 250
task, rng = mpcrl.make_task("cartpole-swingup"), np.random.default_rng(0)


def predict(x, dt, control):
    return np.array(task.step(tuple(x), tuple(control), task.params._replace(dt=dt)))


ukf = UnscentedKalmanFilter(4, 2, task.dt, lambda x: x[:2], predict, MerweScaledSigmaPoints(4, 0.1, 2.0, -1.0))
ukf.x = np.array([0.0, np.pi, 0.0, 0.0])  # hanging; what else is not known
ukf.P, ukf.R = np.diag([0.1, 0.1, 0.1, 0.1]) ** 2, np.diag(NOISE**2)
ukf.Q = np.diag([1e-3, 1e-3, 0.02, 0.05]) ** 2


def estimate(measurement, control, elapsed):
    if elapsed:
        ukf.predict(elapsed, control=control)
    ukf.update(measurement)
    return ukf.x


controller = mpcrl.Controller(task, mpcrl.planners.icem(budget=256, horizon=30))
realtime = controller.realtime(lockstep=True, deadline=0.5 * task.dt, estimator=estimate)  # simulated time: no thread
state, log = task.reset(rng), []
for k in range(steps):
    realtime.submit(state[:2] + NOISE * rng.normal(size=2), stamp=k * task.dt)
    answer = realtime.control(now=k * task.dt)
    log.append((*state[2:], *ukf.x[2:]))
    state = np.array(task.step(tuple(state), tuple(answer.control), task.params))
log = np.array(log)
error = np.sqrt(np.mean((log[:, :2] - log[:, 2:]) ** 2, axis=0))
print(f"{'upright' if task.solved(state, task.params) else 'not upright yet'} after {steps * task.dt:.1f} s")
print(f"error of the speeds, which are not measured: {error[0]:.2f} m/s, {error[1]:.2f} rad/s (RMS)")

_, panels = plt.subplots(2, sharex=True, layout="constrained")
for panel, i, label in zip(panels, (0, 1), ("cart, m/s", "pole, rad/s"), strict=True):
    panel.plot(task.dt * np.arange(steps), log[:, i], label="true")
    panel.plot(task.dt * np.arange(steps), log[:, 2 + i], "--", label="estimated")
    panel.set(ylabel=label)
panels[0].set(title="Speeds that are not measured")
panels[0].legend()
panels[1].set(xlabel="time, s")
plt.savefig("partial_observation.png", dpi=120)
