"""Gymnasium's MuJoCo tasks; each cost is minus the environment's own reward, to rounding.

Their rewards read derived fields as mj_step leaves them, one physics step behind the state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mpcrl.tasks.dm_control.suite import COARSE
from mpcrl.tasks.mujoco_task import MujocoTask, mujoco_task
from mpcrl.tasks.riccati import linearise, riccati
from mpcrl.tasks.scalars import distance, squared


# ---- pendulums ---------------------------------------------------------------------------------------------------
# Upright is unstable, and their rewards are flat until it is too late. Plans pay squares instead, and at their end what
# the linear regulator for these squares would go on to pay: a few steps ahead are enough then.
class InvertedPendulumParams(NamedTuple):
    """The pole's angle from upright at which an episode of InvertedPendulum-v5 ends, rad, and what plans pay: squares
    of the state (qpos, qvel) and of the control by these weights, `value` for the last state, less `standing`."""

    weights: np.ndarray
    value: np.ndarray
    control_weight: float
    max_angle: float = 0.2
    standing: float = 10.0


def inverted_pendulum_cost(before: Any, u: Any, after: Any, t: int, p: InvertedPendulumParams) -> float:
    """-1 for each control step after which the pole stands."""
    return 0.0 if inverted_pendulum_terminated(after, p) else -1.0


def inverted_pendulum_planning_cost(before: Any, u: Any, after: Any, t: int, p: InvertedPendulumParams) -> float:
    """Squares of the state and of the control, against a bonus while the pole stands: the later a fall, the better."""
    return balancing_cost(u, after, p) - (0.0 if inverted_pendulum_terminated(after, p) else p.standing)


def inverted_pendulum_terminated(after: Any, p: InvertedPendulumParams) -> bool:
    """Whether the pole has fallen."""
    finite = math.isfinite(after.qpos[0] + after.qpos[1] + after.qvel[0] + after.qvel[1])
    return not finite or abs(after.qpos[1]) > p.max_angle


def balancing_cost(u: Any, after: Any, p: InvertedPendulumParams | DoublePendulumParams) -> float:
    """Weighted squares of what is away from rest, upright in the rail's middle, and of the control."""
    total, n = p.control_weight * squared(u), after.qpos.shape[0]
    for i in range(n):
        total += p.weights[i] * after.qpos[i] ** 2 + p.weights[n + i] * after.qvel[i] ** 2
    return total


def balancing_value(after: Any, p: InvertedPendulumParams | DoublePendulumParams) -> float:
    """What the linear regulator would pay from there on: x^T P x, for P of the Riccati equation."""
    total, n = 0.0, after.qpos.shape[0]
    for i in range(2 * n):
        for j in range(2 * n):
            xi = after.qpos[i] if i < n else after.qvel[i - n]
            xj = after.qpos[j] if j < n else after.qvel[j - n]
            total += p.value[i, j] * xi * xj
    return total


def regulator(model: Any, env: Any, weights: np.ndarray, control_weight: float) -> np.ndarray:
    """P [2 nq, 2 nq] of the Riccati equation around rest at the model's zero, for one control and these squares."""
    import mujoco

    data = mujoco.MjData(model)

    def step(x: tuple[float, ...], u: tuple[float, ...], p: Any) -> tuple[float, ...]:
        data.qpos[:], data.qvel[:], data.ctrl[:] = x[: model.nq], x[model.nq :], u
        data.qacc_warmstart[:] = 0.0
        mujoco.mj_step(model, data, env.unwrapped.frame_skip)
        return (*data.qpos, *data.qvel)

    A, B = linearise(step, np.zeros(2 * model.nq), np.zeros(1), None)
    return riccati(A, B, np.diag(weights), np.array([[control_weight]]))


def inverted_pendulum() -> MujocoTask:
    """Keep a pole on a cart upright by a force on the cart in [-3, 3]."""

    def params(model: Any, env: Any) -> InvertedPendulumParams:
        weights, control_weight = np.array([1.0, 20.0, 0.1, 0.1]), 0.1
        return InvertedPendulumParams(weights, regulator(model, env, weights, control_weight), control_weight)

    return mujoco_task(
        "InvertedPendulum-v5",
        fields=("qpos", "qvel"),
        cost=inverted_pendulum_cost,
        planning_cost=inverted_pendulum_planning_cost,
        terminal=balancing_value,
        terminated=inverted_pendulum_terminated,
        params=params,
        preset={
            "planner": "icem",
            "budget": 60,
            "horizon": 8,
            "iterations": 3,
            "beta": 0.0,
            "width": 0.1,
            "execute": "mean",
        },
    )


class DoublePendulumParams(NamedTuple):
    """The tip's site, its height in m at which an episode of InvertedDoublePendulum-v5 ends, weights of the reward, and
    what plans pay as in `InvertedPendulumParams`."""

    tip: int
    weights: np.ndarray
    value: np.ndarray
    control_weight: float
    min_height: float = 1.0
    healthy_reward: float = 10.0
    rail_weight: float = 0.01
    upper_height: float = 2.0
    lower_rate_weight: float = 1e-3
    upper_rate_weight: float = 5e-3
    standing: float = 100.0


def double_pendulum_cost(before: Any, u: Any, after: Any, t: int, p: DoublePendulumParams) -> float:
    """Distance of the tip from above the rail's middle, and the poles' rates, against a bonus while the tip is up."""
    tip, rates = after.site_xpos[p.tip], after.qvel
    away = p.rail_weight * tip[0] ** 2 + (tip[2] - p.upper_height) ** 2
    fast = p.lower_rate_weight * rates[1] ** 2 + p.upper_rate_weight * rates[2] ** 2
    return away + fast - (0.0 if double_pendulum_terminated(after, p) else p.healthy_reward)


def double_pendulum_planning_cost(before: Any, u: Any, after: Any, t: int, p: DoublePendulumParams) -> float:
    """Squares of the state and of the control, against a bonus while the tip is up: the later a fall, the better."""
    return balancing_cost(u, after, p) - (0.0 if double_pendulum_terminated(after, p) else p.standing)


def double_pendulum_terminated(after: Any, p: DoublePendulumParams) -> bool:
    """Whether the tip is too low."""
    return after.site_xpos[p.tip, 2] <= p.min_height


def inverted_double_pendulum() -> MujocoTask:
    """Keep two poles on a cart upright by a force on the cart in [-1, 1]."""

    def params(model: Any, env: Any) -> DoublePendulumParams:
        weights, control_weight = np.array([1.0, 20.0, 20.0, 0.1, 0.1, 0.1]), 1.0
        value = regulator(model, env, weights, control_weight)
        return DoublePendulumParams(model.site("tip").id, weights, value, control_weight)

    return mujoco_task(
        "InvertedDoublePendulum-v5",
        fields=("site_xpos", "qpos", "qvel"),
        cost=double_pendulum_cost,
        planning_cost=double_pendulum_planning_cost,
        terminal=balancing_value,
        terminated=double_pendulum_terminated,
        params=params,
        preset={
            "planner": "icem",
            "budget": 100,
            "horizon": 2,
            "iterations": 5,
            "beta": 0.0,
            "width": 0.3,
            "execute": "mean",
        },
    )


# ---- arms --------------------------------------------------------------------------------------------------------
class ReacherParams(NamedTuple):
    """Bodies, and weights of Reacher-v5's reward."""

    fingertip: int
    target: int
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 1.0


def reacher_cost(before: Any, u: Any, after: Any, t: int, p: ReacherParams) -> float:
    """Distance in m from fingertip to target, and squared controls. The target's place is part of qpos."""
    away = distance(after.xpos[p.fingertip], after.xpos[p.target])
    return p.reward_dist_weight * away + p.reward_control_weight * squared(u)


def reacher() -> MujocoTask:
    """Bring a two-link arm's tip to a random target. Controls are two torques in [-1, 1]."""
    return mujoco_task(
        "Reacher-v5",
        fields=("xpos",),
        cost=reacher_cost,
        params=lambda model, env: ReacherParams(model.body("fingertip").id, model.body("target").id),
        preset={
            **COARSE,
            "controls_per_plan": 1,
            "budget": 150,
            "horizon": 20,
            "iterations": 5,
            "knots": 5,
            "beta": 0.0,
            "width": 0.2,
            "execute": "mean",
        },
    )


class PusherParams(NamedTuple):
    """Bodies, weights of Pusher-v5's reward, and those of the planning cost."""

    tip: int
    object: int
    goal: int
    reward_near_weight: float = 0.5
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 0.1
    behind: float = 0.02
    behind_weight: float = 2.0
    goal_weight: float = 30.0


def pusher_cost(before: Any, u: Any, after: Any, t: int, p: PusherParams) -> float:
    """Distances in m of the object from the goal and of the tip from the object, and squared controls."""
    near = distance(after.xpos[p.object], after.xpos[p.tip])
    away = distance(after.xpos[p.object], after.xpos[p.goal])
    return p.reward_near_weight * near + p.reward_dist_weight * away + p.reward_control_weight * squared(u)


def pusher_planning_cost(before: Any, u: Any, after: Any, t: int, p: PusherParams) -> float:
    """The object's distance from the goal, squared controls, and the tip's distance from where pushing moves the object
    to the goal: `behind` it, seen from there, and on its height.

    The reward alone draws the tip to the object's near side, from where every push leads away from the goal. `behind`
    is less than the radius: contacts of so light an object are soft, and push the harder the deeper they are.
    """
    tip, thing, goal = after.xpos[p.tip], after.xpos[p.object], after.xpos[p.goal]
    dx, dy = thing[0] - goal[0], thing[1] - goal[1]
    length = math.sqrt(dx * dx + dy * dy) + 1e-6
    x, y = thing[0] + p.behind * dx / length, thing[1] + p.behind * dy / length
    missed = math.sqrt((tip[0] - x) ** 2 + (tip[1] - y) ** 2 + (tip[2] - thing[2]) ** 2)
    return p.goal_weight * length + p.behind_weight * missed + p.reward_control_weight * squared(u)


def pusher() -> MujocoTask:
    """Push a cylinder to a goal with a seven-joint arm. Controls are seven torques in [-2, 2]."""
    return mujoco_task(
        "Pusher-v5",
        fields=("xpos",),
        cost=pusher_cost,
        planning_cost=pusher_planning_cost,
        params=lambda model, env: PusherParams(*(model.body(name).id for name in ("tips_arm", "object", "goal"))),
        preset={
            **COARSE,
            "controls_per_plan": 1,
            "budget": 200,
            "horizon": 24,
            "iterations": 5,
            "knots": 4,
            "beta": 0.0,
            "width": 0.1,
            "execute": "mean",
        },
    )


# ---- runners in the plane ----------------------------------------------------------------------------------------
class SwimmerParams(NamedTuple):
    """Weights of Swimmer-v5's reward, the control period in s, and what plans pay for the square of the heading."""

    forward_reward_weight: float
    ctrl_cost_weight: float
    dt: float
    heading_weight: float = 0.2


def forward_cost(before: Any, u: Any, after: Any, t: int, p: SwimmerParams | HalfCheetahParams) -> float:
    """Forward speed of the root, paid for by squared controls."""
    speed = (after.qpos[0] - before.qpos[0]) / p.dt
    return p.ctrl_cost_weight * squared(u) - p.forward_reward_weight * speed


class HalfCheetahParams(NamedTuple):
    """Weights of HalfCheetah-v5's reward, the control period in s, and what plans pay for the square of a lean beyond
    `free_lean`, rad."""

    forward_reward_weight: float
    ctrl_cost_weight: float
    dt: float
    lean_weight: float = 1.0
    free_lean: float = 0.5


def half_cheetah_planning_cost(before: Any, u: Any, after: Any, t: int, p: HalfCheetahParams) -> float:
    """The cost, and a lean: getting up from a fall takes longer than a horizon that leaves time to plan."""
    return forward_cost(before, u, after, t, p) + p.lean_weight * max(abs(after.qpos[2]) - p.free_lean, 0.0) ** 2


def half_cheetah() -> MujocoTask:
    """Run forward. Controls are six joint torques in [-1, 1]. In real time two slow cores manage a budget of 100."""
    return mujoco_task(
        "HalfCheetah-v5",
        fields=("qpos",),
        unseen=("qpos[0]",),
        cost=forward_cost,
        planning_cost=half_cheetah_planning_cost,
        params=lambda model, env: HalfCheetahParams(1.0, 0.1, env.unwrapped.dt),
        preset={
            "planner": "icem",
            "budget": 300,
            "horizon": 18,
            "iterations": 4,
            "knots": 9,
            "beta": 0.0,
            "elites": 5,
        },
    )


def swimmer_planning_cost(before: Any, u: Any, after: Any, t: int, p: SwimmerParams) -> float:
    """The cost, but for the speed of the centre of mass: the root's is had by bending alone, to and fro; and the
    heading, the mean of the three links': turning back takes longer than a horizon."""
    speed = (after.subtree_com[0, 0] - before.subtree_com[0, 0]) / p.dt
    heading = after.qpos[2] + (2.0 * after.qpos[3] + after.qpos[4]) / 3.0
    paid = p.ctrl_cost_weight * squared(u) + p.heading_weight * heading**2
    return paid - p.forward_reward_weight * speed


def swimmer() -> MujocoTask:
    """Swim forward with three links in a viscous fluid. Controls are two torques in [-1, 1]."""
    return mujoco_task(
        "Swimmer-v5",
        fields=("qpos",),
        unseen=("qpos[0]", "qpos[1]", "subtree_com[*, 0]", "subtree_com[*, 1]"),
        cost=forward_cost,
        planning_cost=swimmer_planning_cost,
        planning_fields=("qpos", "subtree_com"),
        params=lambda model, env: SwimmerParams(1.0, 1e-4, env.unwrapped.dt),
        preset={
            **COARSE,
            "controls_per_plan": 3,
            "budget": 100,
            "horizon": 60,
            "iterations": 3,
            "knots": 12,
            "beta": 0.0,
        },
    )


class LeggedParams(NamedTuple):
    """Hopper-v5 and Walker2d-v5: weights, what a healthy state is, and weights of the planning cost.

    The torso's height z in m, its angle in rad, and the limit of all positions and velocities after those; `room` is
    the height in m over the least healthy one below which plans pay, `cruise` the speed in m/s beyond which they gain
    nothing.
    """

    dt: float
    min_z: float
    max_z: float
    max_angle: float
    max_state: float
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-3
    healthy_reward: float = 1.0
    lean_weight: float = 0.5
    room: float = 0.3
    sink_weight: float = 20.0
    fall: float = 100.0
    cruise: float = math.inf


def legged_terminated(after: Any, p: LeggedParams | HopperParams) -> bool:
    """Whether the robot has fallen."""
    z, angle = after.qpos[1], after.qpos[2]
    healthy = p.min_z < z < p.max_z and -p.max_angle < angle < p.max_angle
    for i in range(2, after.qpos.shape[0]):
        healthy = healthy and -p.max_state < after.qpos[i] < p.max_state
    for i in range(after.qvel.shape[0]):
        healthy = healthy and -p.max_state < after.qvel[i] < p.max_state
    return not healthy


def legged_speed(before: Any, after: Any, p: LeggedParams | HopperParams) -> float:
    """Of the root, forward, m/s."""
    return (after.qpos[0] - before.qpos[0]) / p.dt


def legged_cost(before: Any, u: Any, after: Any, t: int, p: LeggedParams | HopperParams) -> float:
    """Forward speed of the root and a bonus while the robot is healthy, paid for by squared controls."""
    speed = legged_speed(before, after, p)
    bonus = 0.0 if legged_terminated(after, p) else p.healthy_reward
    return p.ctrl_cost_weight * squared(u) - p.forward_reward_weight * speed - bonus


def legged_planning_cost(before: Any, u: Any, after: Any, t: int, p: LeggedParams | HopperParams) -> float:
    """The cost without what is faster than `cruise`; leaning and sinking, which come before a fall; and the fall
    itself, whose price lies mostly beyond the horizon."""
    lean = p.lean_weight * (after.qpos[2] / p.max_angle) ** 2
    sink = p.sink_weight * max(0.0, p.min_z + p.room - after.qpos[1]) ** 2
    hurry = p.forward_reward_weight * max(0.0, legged_speed(before, after, p) - p.cruise)
    fallen = p.fall if legged_terminated(after, p) else 0.0
    return legged_cost(before, u, after, t, p) + hurry + lean + sink + fallen


class HopperParams(NamedTuple):
    """As `LeggedParams`, the foot's geom, and what else plans pay: `balance_weight` for each m by which the capture
    point misses the foot, `hurry_weight` for the square of what is faster than `cruise`; up to there they gain
    `eagerness` times the reward; and `drop_weight` for the square of what it drops faster than `soft_drop`, in m/s."""

    foot: int
    dt: float
    min_z: float = 0.7
    max_z: float = math.inf
    max_angle: float = 0.2
    max_state: float = 100.0
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-3
    healthy_reward: float = 1.0
    lean_weight: float = 0.5
    room: float = 0.5
    sink_weight: float = 20.0
    fall: float = 100.0
    cruise: float = 2.2
    balance_weight: float = 3.0
    lead_time: float = 0.1
    hurry_weight: float = 2.0
    eagerness: float = 2.0
    soft_drop: float = 1.0
    drop_weight: float = 2.0


def hopper_planning_cost(before: Any, u: Any, after: Any, t: int, p: HopperParams) -> float:
    """As of all that walk in the plane, but with more for speed up to `cruise` and a price of what is beyond; and the
    distance of the capture point, where the mass will be in `lead_time`, from the foot: half of the time that a foot
    stays on the ground, so that it lands as far ahead of the mass as it will leave behind it (Raibert, Legged robots
    that balance, 1986). A drop costs before the ground is near: from a jump too high the leg gives way."""
    x = after.subtree_com[0, 0]
    speed = (x - before.subtree_com[0, 0]) / p.dt
    away = p.balance_weight * min(abs(x + p.lead_time * speed - after.geom_xpos[p.foot, 0]), 1.0)
    hurry = p.hurry_weight * max(0.0, speed - p.cruise) ** 2
    gain = (p.eagerness - 1.0) * p.forward_reward_weight * min(speed, p.cruise)
    drop = p.drop_weight * max(0.0, -after.qvel[1] - p.soft_drop) ** 2
    return legged_planning_cost(before, u, after, t, p) + away + hurry + drop - gain


def hopper() -> MujocoTask:
    """Hop forward on one leg without falling. Controls are three joint torques in [-1, 1]."""
    return mujoco_task(
        "Hopper-v5",
        fields=("qpos", "qvel"),
        unseen=("qpos[0]", "subtree_com[*, 0]", "geom_xpos[*, 0]"),
        cost=legged_cost,
        planning_cost=hopper_planning_cost,
        planning_fields=("qpos", "qvel", "subtree_com", "geom_xpos"),
        terminated=legged_terminated,
        params=lambda model, env: HopperParams(foot=model.geom("foot_geom").id, dt=env.unwrapped.dt),
        preset={**COARSE, "budget": 120, "horizon": 80, "iterations": 4, "knots": 12, "beta": 0.0},
    )


def walker2d() -> MujocoTask:
    """Walk forward on two legs without falling. Controls are six joint torques in [-1, 1]."""
    return mujoco_task(
        "Walker2d-v5",
        fields=("qpos", "qvel"),
        unseen=("qpos[0]",),
        cost=legged_cost,
        planning_cost=legged_planning_cost,
        terminated=legged_terminated,
        params=lambda model, env: LeggedParams(
            dt=env.unwrapped.dt, min_z=0.8, max_z=2.0, max_angle=1.0, max_state=math.inf
        ),
        preset={**COARSE, "budget": 120, "horizon": 50, "iterations": 4, "beta": 2.0},
    )


# ---- runners in space --------------------------------------------------------------------------------------------
class AntParams(NamedTuple):
    """The torso, the control period in s, healthy heights in m, weights of Ant-v5's reward, and those
    of the planning cost."""

    torso: int
    dt: float
    min_z: float = 0.2
    max_z: float = 1.0
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.5
    contact_cost_weight: float = 5e-4
    max_contact_force: float = 1.0
    healthy_reward: float = 1.0
    lean_weight: float = 1.0
    height_weight: float = 40.0
    fall: float = 100.0


def ant_terminated(after: Any, p: AntParams) -> bool:
    """Whether the ant has fallen or flies."""
    finite = math.isfinite(squared(after.qpos) + squared(after.qvel))
    return not (finite and p.min_z <= after.qpos[2] <= p.max_z)


def ant_cost(before: Any, u: Any, after: Any, t: int, p: AntParams) -> float:
    """Forward speed of the torso and a bonus while healthy, paid for by squared controls and contact forces."""
    speed = (after.xpos[p.torso, 0] - before.xpos[p.torso, 0]) / p.dt
    contact = 0.0
    for body in range(after.cfrc_ext.shape[0]):
        for i in range(6):
            contact += min(max(after.cfrc_ext[body, i], -p.max_contact_force), p.max_contact_force) ** 2
    bonus = 0.0 if ant_terminated(after, p) else p.healthy_reward
    paid = p.ctrl_cost_weight * squared(u) + p.contact_cost_weight * contact
    return paid - p.forward_reward_weight * speed - bonus


def ant_planning_cost(before: Any, u: Any, after: Any, t: int, p: AntParams) -> float:
    """The cost without contact forces, which are dear to compute and cheap to pay for; a torso that leans over or
    nears the limits of healthy heights, which comes before a fall; and the fall itself, whose price lies mostly
    beyond the horizon."""
    speed = (after.xpos[p.torso, 0] - before.xpos[p.torso, 0]) / p.dt
    lean = p.lean_weight * (1.0 - after.xmat[p.torso, 8])
    room = 0.5 * (p.max_z - p.min_z)
    strayed = max(0.0, abs(after.qpos[2] - 0.5 * (p.min_z + p.max_z)) / room - 0.75)
    fallen = p.fall if ant_terminated(after, p) else 0.0
    paid = p.ctrl_cost_weight * squared(u) + lean + p.height_weight * strayed**2 + fallen
    return paid - p.forward_reward_weight * speed


def ant() -> MujocoTask:
    """Run forward on four legs. Controls are eight joint torques in [-1, 1]."""
    return mujoco_task(
        "Ant-v5",
        fields=("qpos", "qvel", "xpos", "cfrc_ext"),
        unseen=("qpos[0]", "qpos[1]", "xpos[*, 0]", "xpos[*, 1]"),
        cost=ant_cost,
        planning_cost=ant_planning_cost,
        planning_fields=("qpos", "qvel", "xpos", "xmat"),
        terminated=ant_terminated,
        params=lambda model, env: AntParams(torso=model.body("torso").id, dt=env.unwrapped.dt),
        preset={**COARSE, "controls_per_plan": 1, "budget": 120, "horizon": 20, "iterations": 4, "beta": 2.0},
    )


class HumanoidParams(NamedTuple):
    """Mass of each body in kg, torso and feet, control period in s, healthy heights in m, and weights of Humanoid-v5's
    reward and of the planning cost; `cruise` is the speed in m/s beyond which plans gain nothing."""

    mass: np.ndarray
    torso: int
    left_foot: int
    right_foot: int
    dt: float
    min_z: float = 1.0
    max_z: float = 2.0
    forward_reward_weight: float = 1.25
    ctrl_cost_weight: float = 0.1
    contact_cost_weight: float = 5e-7
    max_contact_cost: float = 10.0
    healthy_reward: float = 5.0
    lean_weight: float = 5.0
    stand_z: float = 1.35
    sink_weight: float = 10.0
    balance_weight: float = 10.0
    turn_weight: float = 2.0
    lead_time: float = 0.3
    cruise: float = 0.3
    standing: float = 20.0


def centre_of_mass(record: Any, mass: Any) -> float:
    """Its x, m: of the centres of the bodies as recorded, and so as old as they are."""
    moment, total = 0.0, 0.0
    for body in range(mass.shape[0]):
        moment += mass[body] * record.xipos[body, 0]
        total += mass[body]
    return moment / total


def squared_forces(after: Any) -> float:
    """Sum of squares of the contact forces and torques on all bodies."""
    total = 0.0
    for body in range(after.cfrc_ext.shape[0]):
        total += squared(after.cfrc_ext[body])
    return total


def humanoid_terminated(after: Any, p: HumanoidParams) -> bool:
    """Whether the robot has fallen."""
    return not p.min_z < after.qpos[2] < p.max_z


def humanoid_cost(before: Any, u: Any, after: Any, t: int, p: HumanoidParams) -> float:
    """Forward speed of the centre of mass and a bonus while healthy, paid for by squared controls and contacts."""
    contact = min(p.contact_cost_weight * squared_forces(after), p.max_contact_cost)
    bonus = 0.0 if humanoid_terminated(after, p) else p.healthy_reward
    speed = (centre_of_mass(after, p.mass) - centre_of_mass(before, p.mass)) / p.dt
    return p.ctrl_cost_weight * squared(u) - p.forward_reward_weight * speed + contact - bonus


def humanoid_planning_cost(before: Any, u: Any, after: Any, t: int, p: HumanoidParams) -> float:
    """The cost without what is faster than `cruise`, and without contact forces, which are dear to compute and cheap to
    pay for; leaning, sinking, turning away from ahead, and the distance of the capture point (where the mass will be in
    `lead_time`, by what it moves otherwise than at `cruise`) from the middle of the feet, which come before a fall;
    against a bonus while the robot stands, so that where no plan avoids a fall, a later one is better."""
    vx = (after.subtree_com[0, 0] - before.subtree_com[0, 0]) / p.dt
    vy = (after.subtree_com[0, 1] - before.subtree_com[0, 1]) / p.dt
    x = after.subtree_com[0, 0] + p.lead_time * (vx - min(max(vx, 0.0), p.cruise))
    y = after.subtree_com[0, 1] + p.lead_time * vy
    x -= 0.5 * (after.xpos[p.left_foot, 0] + after.xpos[p.right_foot, 0])
    y -= 0.5 * (after.xpos[p.left_foot, 1] + after.xpos[p.right_foot, 1])
    lean = p.lean_weight * (1.0 - after.xmat[p.torso, 8])
    turn = p.turn_weight * (1.0 - after.xmat[p.torso, 0])
    sink = p.sink_weight * max(0.0, p.stand_z - after.qpos[2])
    balance = p.balance_weight * min(math.sqrt(x * x + y * y), 1.0)
    standing = 0.0 if humanoid_terminated(after, p) else p.standing
    walking = p.ctrl_cost_weight * squared(u) - p.forward_reward_weight * min(vx, p.cruise)
    return walking + lean + turn + sink + balance - standing


def humanoid() -> MujocoTask:
    """Walk forward on two legs without falling. Controls are 17 joint torques in [-0.4, 0.4]."""
    return mujoco_task(
        "Humanoid-v5",
        fields=("qpos", "xipos", "xmat", "cfrc_ext"),
        unseen=("qpos[0]", "qpos[1]", "xpos[*, 0]", "xpos[*, 1]", "subtree_com[*, 0]", "subtree_com[*, 1]"),
        cost=humanoid_cost,
        planning_cost=humanoid_planning_cost,
        planning_fields=("qpos", "xpos", "xmat", "subtree_com"),
        terminated=humanoid_terminated,
        params=lambda model, env: HumanoidParams(
            mass=model.body_mass.copy(),
            torso=model.body("torso").id,
            left_foot=model.body("left_foot").id,
            right_foot=model.body("right_foot").id,
            dt=env.unwrapped.dt,
        ),
        preset={
            **COARSE,
            "controls_per_plan": 2,
            "budget": 120,
            "horizon": 32,
            "iterations": 4,
            "beta": 2.0,
            "width": 0.3,
        },
    )


class StandupParams(NamedTuple):
    """The physics' time step in s, and weights of HumanoidStandup-v5's reward."""

    timestep: float
    ctrl_cost_weight: float = 0.1
    impact_cost_weight: float = 0.5e-6
    max_impact_cost: float = 10.0


def standup_cost(before: Any, u: Any, after: Any, t: int, p: StandupParams) -> float:
    """Height of the torso, paid for by squared controls and contact forces."""
    impact = min(p.impact_cost_weight * squared_forces(after), p.max_impact_cost)
    return p.ctrl_cost_weight * squared(u) + impact - after.qpos[2] / p.timestep - 1.0


def standup_planning_cost(before: Any, u: Any, after: Any, t: int, p: StandupParams) -> float:
    """The cost without contact forces, which are dear to compute and cheap to pay for."""
    return p.ctrl_cost_weight * squared(u) - after.qpos[2] / p.timestep


def humanoid_standup() -> MujocoTask:
    """Get up from lying on the back. Controls are 17 joint torques in [-0.4, 0.4]."""
    return mujoco_task(
        "HumanoidStandup-v5",
        fields=("qpos", "cfrc_ext"),
        unseen=("qpos[0]", "qpos[1]"),
        cost=standup_cost,
        planning_cost=standup_planning_cost,
        planning_fields=("qpos",),
        params=lambda model, env: StandupParams(timestep=model.opt.timestep),
        preset={**COARSE, "controls_per_plan": 3, "budget": 80, "horizon": 20, "iterations": 4, "beta": 2.0},
    )
