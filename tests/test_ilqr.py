"""iLQR: derivatives and kernels against obvious twins, LQR against Riccati, bounds against a solver, swing-ups."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from mpcrl.control.controller import Controller
from mpcrl.control.plan import Status
from mpcrl.core.errors import InvalidInput
from mpcrl.core.local import Policy
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import ilqr as kernels
from mpcrl.models import local
from mpcrl.models.analytic import Analytic
from mpcrl.planners.ilqr import ILQR, ilqr
from mpcrl.planners.planner import Problem
from mpcrl.planners.presets import cem, icem
from mpcrl.planners.space import ControlSpace
from mpcrl.planners.warm_start import WarmStart
from mpcrl.tasks.lqr import lqr_matrices
from mpcrl.tasks.registry import ANALYTIC_TASKS
from mpcrl.tasks.task import AnalyticTask
from tests.toy import Quadratic

SERIAL = ThreadBudget(1)


# A small task with all that may occur: cross terms, a reference by time, an end, a wall, two controls.


class ToyParams(NamedTuple):
    reference: np.ndarray
    dt: float = 0.1
    wall: float = 1e3
    limit: float = 1e3


def toy_step(x, u, p):
    position, speed = x
    return position + p.dt * speed + 0.05 * u[1], speed + p.dt * (u[0] - 0.5 * math.sin(position))


def toy_cost(x, u, t, p):
    if x[0] > p.wall:
        return math.inf
    return (x[0] - p.reference[t]) ** 2 + 0.1 * x[1] ** 2 + 0.3 * x[0] * u[1] + 0.2 * u[0] ** 2 + u[1] ** 2


def toy_terminal(x, p):
    return 3.0 * x[0] ** 2 + 0.5 * x[0] * x[1] + math.cos(x[1])


def toy_terminated(x, p):
    return x[0] > p.limit


TOY = AnalyticTask(
    name="toy",
    dt=0.1,
    control_low=np.array([-2.0, -1.0]),
    control_high=np.array([2.0, 3.0]),
    params=ToyParams(np.sin(np.arange(20.0))),
    cost=toy_cost,
    terminal=toy_terminal,
    terminated=toy_terminated,
    episode_steps=8,
    state_names=("position", "speed"),
    control_names=("push", "shift"),
    step=toy_step,
    reset=lambda rng: np.array([0.5, -0.2]),
)
START = np.array([0.5, -0.2])


def solver_of(task: AnalyticTask, planner: Any, rate: Any = None) -> Any:
    return planner.bind(ControlSpace.of(task.control_low, task.control_high, task.dt, rate, np.float32))


def problem_of(task: AnalyticTask, state: np.ndarray, t: int = 0, params: Any = None, **options: Any) -> Problem:
    params = task.params if params is None else params
    return Problem(Analytic(task), state, t, params, options.get("threads", SERIAL), options.get("seed", 0), 0)


def plan(solver: Any, problem: Problem, state: Any = None, applied: Any = None, elapsed: float = 0.0) -> Any:
    """One whole plan: the state after it, and its infos."""
    state = solver.start(
        solver.init() if state is None else state, elapsed, solver.space.middle if applied is None else applied
    )
    infos = []
    for _ in range(solver.iterations(state)):
        state, info = solver.iterate(state, problem)
        infos.append(info)
        if solver.settled(state):
            break
    return state, infos


def cost_of(task: AnalyticTask, state: np.ndarray, controls: np.ndarray, params: Any = None, t: int = 0) -> float:
    """What plain Python says a plan costs."""
    params = task.params if params is None else params
    x, total = tuple(map(float, state)), 0.0
    for k, u in enumerate(controls.tolist()):
        stage = task.cost(x, tuple(u), t + k, params)
        total += sum(stage) if isinstance(stage, tuple) else stage
        x = task.step(x, tuple(u), params)
        if task.terminated is not None and task.terminated(x, params):
            return total
    return total + (task.terminal(x, params) if task.terminal is not None else 0.0)


# Derivatives and rollouts.


def expanded(task: AnalyticTask, states: np.ndarray, controls: np.ndarray, t: int = 0, threads: Any = SERIAL) -> Any:
    return Analytic(task).local.expand(states, controls, t, task.params, threads)


def test_derivatives_of_the_toy_by_hand():
    rng = np.random.default_rng(0)
    states, controls = rng.normal(size=(11, 2)), rng.normal(size=(10, 2))
    got = expanded(TOY, states, controls, t=4)
    (x, v), (a, b), dt = states[:-1].T, controls.T, TOY.params.dt
    zero, one = np.zeros(10), np.ones(10)
    jacobian = [[one, dt * one, zero, 0.05 * one], [-0.5 * dt * np.cos(x), one, dt * one, zero]]
    assert np.allclose(got.jacobian, np.transpose(jacobian, (2, 0, 1)), atol=1e-10)
    gradient = [2 * (x - TOY.params.reference[4:14]) + 0.3 * b, 0.2 * v, 0.4 * a, 2 * b + 0.3 * x]
    assert np.allclose(got.gradient, np.transpose(gradient), atol=1e-9)
    hessian = np.diag([2.0, 0.2, 0.4, 2.0])
    hessian[0, 3] = hessian[3, 0] = 0.3
    assert np.allclose(got.hessian, hessian, atol=1e-8)
    x, v = states[-1]
    assert np.allclose(got.last_gradient, [6 * x + 0.5 * v, 0.5 * x - np.sin(v)], atol=1e-9)
    assert np.allclose(got.last_hessian, [[6, 0.5], [0.5, -np.cos(v)]], atol=1e-6)


def test_derivatives_of_the_pendulum_by_hand():
    task = ANALYTIC_TASKS["pendulum-swingup"]()
    rng = np.random.default_rng(1)
    states, controls = rng.uniform(-3, 3, (13, 2)), rng.uniform(-2, 2, (12, 1))
    got, p = expanded(task, states, controls), task.params
    (angle, rate), torque = states[:-1].T, controls[:, 0]
    pull, push = p.dt * 1.5 * p.gravity / p.length * np.cos(angle), p.dt * 3 / (p.mass * p.length**2)
    row = np.stack([pull, np.ones(12), np.full(12, push)], 1)
    assert np.allclose(got.jacobian, np.stack([p.dt * row + [1, 0, 0], row], 1), atol=1e-9)
    assert np.allclose(got.gradient, np.stack([2 * angle, 0.2 * rate, 0.002 * torque], 1), atol=1e-9)
    assert np.allclose(got.hessian, np.diag([2, 0.2, 0.002]), atol=1e-7)
    assert not got.last_gradient.any() and not got.last_hessian.any()  # it has no terminal cost


def test_derivatives_of_the_cartpole_by_extrapolated_differences_and_by_hand():
    task = ANALYTIC_TASKS["cartpole-swingup"]()
    rng = np.random.default_rng(2)
    states, controls = rng.uniform(-1.5, 1.5, (7, 4)), rng.uniform(-10, 10, (6, 1))
    got, p = expanded(task, states, controls), task.params

    def column(x: np.ndarray, u: np.ndarray, i: int, h: float) -> np.ndarray:
        ends = [np.concatenate([x, u]) for _ in range(2)]
        ends[0][i] += h
        ends[1][i] -= h
        ahead, behind = (np.array(task.step(tuple(z[:4].tolist()), tuple(z[4:].tolist()), p)) for z in ends)
        return (ahead - behind) / (2 * h)

    for t, (x, u) in enumerate(zip(states, controls, strict=False)):
        for i in range(5):  # Richardson: the error falls from h^2 to h^4
            twin = (4 * column(x, u, i, 1e-3) - column(x, u, i, 2e-3)) / 3
            assert np.allclose(got.jacobian[t, :, i], twin, atol=2e-9)
    position, angle, velocity, rate = states[:-1].T
    root = np.sqrt(position**2 + 0.09)
    gradient = [0.2 * position / root, np.sin(angle), 0.04 * velocity, 0.02 * rate, 0.001 * controls[:, 0]]
    assert np.allclose(got.gradient, np.transpose(gradient), atol=1e-9)
    diagonal = [0.2 * 0.09 / root**3, np.cos(angle), *(np.full(6, w) for w in (0.04, 0.02, 0.001))]
    assert np.allclose(got.hessian, np.transpose(diagonal)[:, :, None] * np.eye(5), atol=1e-5)


@pytest.mark.parametrize("rate", [None, [3.0, 8.0]])
def test_rollouts_under_feedback_against_plain_python(rate):
    rng = np.random.default_rng(3)
    task, horizon, sizes = TOY, 9, np.array([1.0, 0.5, 0.25, 0.0, 0.7, 0.3, 0.1, 0.9, 0.2, 0.4])
    params = task.params._replace(limit=0.9)
    policy = Policy(
        *(0.3 * rng.normal(size=s) for s in ((horizon + 1, 2), (horizon, 2), (horizon, 2), (horizon, 2, 2)))
    )
    space = ControlSpace.of(task.control_low, task.control_high, task.dt, rate)
    applied = np.array([0.1, -0.2])
    bounds = np.stack([space.low, space.high, space.rate * space.dt, applied])
    states, controls, costs = Analytic(task).local.follow(policy, sizes, bounds, START, 2, params)
    assert states.shape == (10, horizon + 1, 2) and controls.shape == (10, horizon, 2) and costs.shape == (10,)
    for n, size in enumerate(sizes):
        x, previous = START, applied
        for t in range(horizon):
            wanted = policy.controls[t] + size * policy.feedforward[t] + policy.gains[t] @ (x - policy.states[t])
            previous = space.admit(wanted, previous, space.dt)
            assert np.allclose(states[n, t], x, atol=1e-12) and np.allclose(controls[n, t], previous, atol=1e-12)
            x = np.array(task.step(tuple(x.tolist()), tuple(previous.tolist()), params))
        assert costs[n] == pytest.approx(cost_of(task, START, controls[n], params, t=2), rel=1e-12)
    assert np.isinf(Analytic(task).local.follow(policy, sizes, bounds, START, 15, params)[2]).all()  # beyond the table


# Kernels.


def best_by_enumeration(H: np.ndarray, g: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The minimum over a box: the best of all choices of what lies at which bound."""
    best, least = low, np.inf
    for sides in itertools.product((0, 1, 2), repeat=g.size):
        side = np.array(sides)
        x, free = np.where(side == 1, low, high), side == 0
        x[free] = np.linalg.solve(H[np.ix_(free, free)], -g[free] - H[np.ix_(free, ~free)] @ x[~free])
        value = 0.5 * x @ H @ x + g @ x
        if (x >= low - 1e-12).all() and (x <= high + 1e-12).all() and value < least:
            best, least = x, value
    return best


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_box_qp_finds_the_minimum(n, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    H, g = A @ A.T + 0.1 * np.eye(n), 2 * rng.normal(size=n)
    low, high = -rng.uniform(0, 1, n), rng.uniform(0, 1, n)
    x, free, factor = np.zeros(n), np.ones(n, np.bool_), np.zeros((n, n))
    assert kernels.box_qp(H, g, low, high, x, free, factor)
    assert np.allclose(x, best_by_enumeration(H, g, low, high), atol=1e-8)
    assert ((x > low) & (x < high) | ~free).all()
    L = np.tril(factor)[np.ix_(free, free)]
    assert np.allclose(L @ L.T, H[np.ix_(free, free)])


def test_box_qp_refuses_what_is_not_definite_or_not_finite():
    for H, g in ((-np.eye(2), np.ones(2)), (np.full((2, 2), np.nan), np.ones(2)), (np.eye(2), np.array([np.nan, 0]))):
        assert not kernels.box_qp(H, g, -np.ones(2), np.ones(2), np.zeros(2), np.ones(2, np.bool_), np.zeros((2, 2)))


def test_hessians_lose_their_negative_eigenvalues_and_nothing_else():
    rng = np.random.default_rng(4)
    A, unit = rng.normal(size=(12, 4, 4)), np.array([1.0, 2.0, 0.5, 3.0])
    hessian = A + A.transpose(0, 2, 1)
    hessian[0] = A[0] @ A[0].T
    hessian[1] = 0.0
    values, vectors = np.linalg.eigh(hessian * unit[:, None] * unit)
    twin = (vectors * np.maximum(values, 0)[:, None]) @ vectors.transpose(0, 2, 1) / (unit[:, None] * unit)
    got = hessian.copy()
    kernels.make_convex(got, unit)
    assert np.allclose(got, twin, atol=1e-7)
    assert np.array_equal(got[:2], hessian[:2])


def test_backward_pass_against_its_formulas():
    rng = np.random.default_rng(5)
    H, nx, nu, damping = 6, 3, 2, 0.3
    n, unit = nx + nu, np.array([0.5, 2.0])
    J, g = rng.normal(size=(H, nx, n)), rng.normal(size=(H, n))
    A, B = rng.normal(size=(H, n, n)), rng.normal(size=(nx, nx))
    hessian, v, V = A @ A.transpose(0, 2, 1), rng.normal(size=nx), B @ B.T
    feedforward, gains = np.empty((H, nu)), np.empty((H, nu, nx))
    wide = np.full((H, nu), 1e6)
    assert kernels.backward(J, g, hessian, v, V, -wide, wide, unit, damping, feedforward, gains)
    largest = 0.0
    for t in reversed(range(H)):
        q, Q = g[t] + J[t].T @ v, hessian[t] + J[t].T @ V @ J[t]
        largest = max(largest, float(np.diag(Q)[nx:] @ unit**2) / nu)
        damped = Q[nx:, nx:] + np.diag(damping * largest / unit**2)
        k, K = -np.linalg.solve(damped, q[nx:]), -np.linalg.solve(damped, Q[nx:, :nx])
        assert np.allclose(feedforward[t], k, rtol=1e-6) and np.allclose(gains[t], K, rtol=1e-6)
        policy = np.concatenate([np.eye(nx), K])  # the value of the policy: z = policy x + (0, k)
        shift = np.concatenate([np.zeros(nx), k])
        v, V = policy.T @ (q + Q @ shift), policy.T @ Q @ policy


# Whole plans.


@pytest.mark.parametrize("start", [[0.8, -0.3], [-1.0, 0.2], [0.2, 0.1]])
def test_one_iteration_solves_lqr(start):
    task, x = ANALYTIC_TASKS["lqr"](), np.array(start)
    m = lqr_matrices(task.params)
    solver = solver_of(task, ilqr(horizon=40))
    state, infos = plan(solver, problem_of(task, x))
    assert len(infos) == 2 and solver.settled(state)  # the second finds nothing left to do
    assert infos[0].best_cost == pytest.approx(x @ m.P @ x, rel=1e-9)
    for control in solver.controls(state):
        assert np.abs(control).max() < 2 and np.allclose(control, -m.K @ x, atol=1e-7)
        x = m.A @ x + m.B @ control


def test_scaling_the_cost_changes_nothing():
    task = ANALYTIC_TASKS["lqr"]()
    scaled = task.params._replace(**{f: 1e3 * getattr(task.params, f) for f in task.params._fields if f != "dt"})
    solver = solver_of(task, ilqr(horizon=20, regularisation=0.1, iterations=3, budget=30))
    a, b = (plan(solver, problem_of(task, np.array([0.7, 0.1]), params=p))[0] for p in (task.params, scaled))
    assert np.allclose(a.controls, b.controls, atol=1e-7)


def test_active_bounds_against_bounded_least_squares():
    task, x, horizon = ANALYTIC_TASKS["lqr"](), np.array([4.0, 2.0]), 30
    limit = float(task.control_high[0])
    m = lqr_matrices(task.params)
    # All states are affine in all controls; the cost is the squared length of the weighted states and controls.
    states, offsets, rows, constants = np.zeros((2, horizon)), x, [], []
    for t in range(horizon):
        rows += [np.sqrt(m.Q) @ states, np.sqrt(m.R) @ np.eye(horizon)[t : t + 1]]
        constants += [np.sqrt(m.Q) @ offsets, np.zeros(1)]
        states, offsets = m.A @ states + m.B @ np.eye(horizon)[t : t + 1], m.A @ offsets
    root = np.linalg.cholesky(m.P).T
    A, b = np.concatenate([*rows, root @ states]), np.concatenate([*constants, root @ offsets])
    best = lsq_linear(A, -b, (-limit, limit), method="bvls", tol=1e-14)
    at_bound = np.abs(best.x) > limit - 1e-9
    assert 3 < at_bound.sum() < horizon - 3
    solver = solver_of(task, ilqr(horizon=horizon, iterations=20, budget=300))
    state, _ = plan(solver, problem_of(task, x))
    controls = solver.controls(state)[:, 0]
    assert solver.settled(state)
    assert np.allclose(controls, best.x, atol=1e-6) and np.array_equal(np.abs(controls) == limit, at_bound)
    assert state.cost == pytest.approx(2 * best.cost, rel=1e-10)


@pytest.mark.parametrize("name", ["pendulum-swingup", "cartpole-swingup"])
def test_plans_never_get_worse_and_cost_what_they_say(name):
    task = ANALYTIC_TASKS[name]()
    solver = solver_of(task, ilqr(horizon=30, iterations=12, budget=140))
    rng = np.random.default_rng(6)
    for _ in range(3):
        x = task.reset(rng)
        warm = rng.uniform(task.control_low, task.control_high, (30, task.nu))
        state, infos = plan(solver, problem_of(task, x), solver.seeded(solver.init(), warm))
        costs = [cost_of(task, x, warm), *(info.best_cost for info in infos)]
        assert (np.diff(costs) <= 1e-9 * costs[0]).all() and costs[-1] < 0.95 * costs[0]
        assert cost_of(task, x, solver.controls(state)) == pytest.approx(state.cost, rel=1e-9)
        assert sum(info.samples for info in infos) <= solver.planner.budget


@pytest.mark.parametrize(("name", "by"), [("pendulum-swingup", 5.0), ("cartpole-swingup", 4.0)])
def test_swings_up_and_stays_up(name, by):
    task = ANALYTIC_TASKS[name]()
    controller = Controller(task, ilqr(horizon=30), threads=1)
    x, up = task.reset(np.random.default_rng(7)), []
    for _ in range(int(10 / task.dt)):
        u = controller.act(x)
        x = np.array(task.step(tuple(x.tolist()), tuple(u.tolist()), task.params))
        up.append(task.solved is not None and task.solved(tuple(x.tolist()), task.params))
    assert all(up[int(by / task.dt) :])
    assert controller.stats().fallbacks == 0


def test_feedback_follows_a_disturbance_between_plans():
    """From a state beside the predicted one, a plan starts no worse than the last plan held on to blindly."""
    task = ANALYTIC_TASKS["cartpole-swingup"]()
    solver = solver_of(task, ilqr(horizon=30))
    state, _ = plan(solver, problem_of(task, np.array([0.0, 0.3, 0.0, 0.0])))
    beside = state.states[1] + [0.02, -0.05, 0.1, -0.2]
    later = solver.start(state, 1.0, state.controls[0])
    assert solver.samples(later) == 2 + solver.planner.step_sizes
    blind = cost_of(task, beside, np.concatenate([state.controls[1:], state.controls[-1:]]))
    after, info = solver.iterate(later, problem_of(task, beside, t=1), samples=2)  # no line search
    assert info.samples == 2 and after.cost < blind


def test_same_bits_at_any_thread_count(monkeypatch):
    monkeypatch.setattr(local, "_SECONDS_PER_PROBE", 1.0)  # threads always pay: the point is that they change nothing
    task = ANALYTIC_TASKS["cartpole-swingup"]()
    controls = []
    for threads in (1, 2, 2):
        controller = Controller(task, ilqr(horizon=20), threads=threads)
        x = np.array([0.1, 3.0, 0.0, 0.0])
        taken = []
        for _ in range(10):
            taken.append(controller.act(x))
            x = np.array(task.step(tuple(x.tolist()), tuple(taken[-1].tolist()), task.params))
        controls.append(np.array(taken).tobytes())
    assert controls[0] == controls[1] == controls[2]


def test_rates_hold_exactly_and_plans_still_improve():
    task = ANALYTIC_TASKS["pendulum-swingup"]()
    solver = solver_of(task, ilqr(horizon=30), rate=[6.0])
    applied, x = np.array([-1.5]), np.array([1.0, 0.0])
    state, infos = plan(solver, problem_of(task, x), applied=applied)
    controls = solver.controls(state)
    assert (np.abs(np.diff(controls, axis=0, prepend=applied[None])) <= 0.3 * (1 + 1e-12)).all()
    assert np.abs(controls).max() <= 2 and infos[-1].best_cost < infos[0].best_cost
    previous = applied
    for control in controls:
        assert np.array_equal(solver.space.admit(control, previous, task.dt), control)
        previous = control


def test_with_two_controls_bounds_and_time_the_toy_reaches_a_minimum():
    solver = solver_of(TOY, ilqr(horizon=10, iterations=40, budget=500))
    state, infos = plan(solver, problem_of(TOY, START, t=3))
    best, rng = infos[-1].best_cost, np.random.default_rng(8)
    assert solver.settled(state)
    for width in (1e-4, 1e-2, 0.3):
        for _ in range(50):
            beside = np.clip(state.controls + width * rng.normal(size=(10, 2)), TOY.control_low, TOY.control_high)
            assert cost_of(TOY, START, beside, t=3) > best


# What goes wrong.


def test_a_start_that_fails_falls_back_to_the_middle():
    params = TOY.params._replace(wall=0.6)
    solver = solver_of(TOY, ilqr(horizon=8))
    into_the_wall = solver.seeded(solver.init(), np.tile(TOY.control_high, (8, 1)))
    state, infos = plan(solver, problem_of(TOY, np.array([0.0, 0.0]), params=params), into_the_wall)
    assert infos[0].failed > 0 and np.isfinite(state.cost)
    assert state.cost <= cost_of(TOY, np.zeros(2), np.tile(solver.space.middle, (8, 1)), params)
    assert sum(info.samples for info in infos) <= solver.planner.budget


def test_beside_a_wall_the_plan_is_kept():
    params = TOY.params._replace(wall=0.5)
    x = np.array([0.5 - 1e-6, 0.0])  # derivatives would have to be taken within the wall
    solver = solver_of(TOY, ilqr(horizon=8))
    away = np.tile([-2.0, -1.0], (8, 1))
    state, infos = plan(solver, problem_of(TOY, x, params=params), solver.seeded(solver.init(), away))
    assert np.array_equal(solver.controls(state), away) and solver.settled(state) and np.isfinite(infos[-1].best_cost)


def test_when_all_fails_the_controller_falls_back():
    controller = Controller(TOY, ilqr(horizon=8), threads=1)
    planned = controller.plan(START)
    assert planned.status is Status.PLANNED
    controller.plan(START, elapsed=0.1, params=TOY.params._replace(wall=-9.0))
    plan_now = controller.plan(START, elapsed=0.1, params=TOY.params._replace(wall=-9.0))
    assert plan_now.status is Status.SHIFTED and np.array_equal(plan_now.control, planned.controls[2])
    assert plan_now.failed == plan_now.samples > 0
    assert controller.plan(START, elapsed=0.1).status is Status.PLANNED


def test_nothing_compiles_after_warmup():
    task = ANALYTIC_TASKS["pendulum-swingup"]()
    controller = Controller(task, ilqr(horizon=20, regularisation=0), threads=1)
    controller.warmup()
    module = controller.model.local._kernels  # type: ignore[attr-defined]
    dispatchers = (module.probe, module.follow, kernels.backward, kernels.make_convex)
    before = [list(d.signatures) for d in dispatchers]
    for state in (np.array([3.0, 0.1]), np.array([3, 0]), np.array([3.0, 9, 0.1])[::2]):
        controller.act(state, task.params._replace(gravity=9))
    assert [list(d.signatures) for d in dispatchers] == before


def test_models_without_derivatives_are_refused_with_advice():
    solver = ilqr(horizon=5).bind(ControlSpace.of(np.array([-1.0]), np.array([1.0]), 0.1))
    problem = Problem(Quadratic(np.zeros(1)), np.zeros(1), 0, None, SERIAL, 0, 0)
    with pytest.raises(InvalidInput, match=r"Quadratic has none; use .* a sampling planner"):
        solver.iterate(solver.init(), problem)
    model = Analytic(TOY, scenarios=[TOY.params, TOY.params])
    with pytest.raises(InvalidInput, match="scenarios"):
        Controller(TOY, ilqr(horizon=5), model=model, threads=1).act(START)


def test_bad_configurations_are_refused():
    assert ilqr(budget=128, horizon=30).budget <= 128 and ilqr().step_sizes == 11
    for options in ({"budget": 11}, {"iterations": 0}, {"horizon": 0}, {"regularisation": -1.0}, {"tolerance": 0.0}):
        with pytest.raises(InvalidInput, match=next(iter(options))):
            ilqr(**options)
    with pytest.raises(InvalidInput, match="same horizon"):
        WarmStart(first=ilqr(horizon=5), then=icem(horizon=6))


# iLQR as a warm start.


@pytest.mark.parametrize("preset", [icem, cem])
def test_samples_around_the_gradient_plan_never_make_it_worse(preset):
    task = ANALYTIC_TASKS["pendulum-swingup"]()
    planner = WarmStart(first=ilqr(horizon=30, iterations=4, budget=50), then=preset(horizon=30, budget=64))
    assert planner.name == f"ilqr+{preset.__name__}" and planner.budget == planner.first.budget + planner.then.budget
    solver = solver_of(task, planner)
    x, state = np.array([math.pi, 0.3]), solver.init()
    for step in range(12):
        state, infos = plan(solver, problem_of(task, x), state, elapsed=min(step, 1.0))
        controls = solver.controls(state)
        assert sum(info.samples for info in infos) <= planner.budget
        assert min(info.best_cost for info in infos) <= state.first.cost
        if preset is icem:  # executes its best sample, not the mean
            assert cost_of(task, x, controls) <= state.first.cost * (1 + 1e-5)
        state = solver.end(state)
        assert np.array_equal(solver.controls(state), controls)
        x = np.array(task.step(tuple(x.tolist()), tuple(controls[0].tolist()), task.params))


def test_a_warm_started_controller_swings_up_and_repeats_itself():
    task = ANALYTIC_TASKS["pendulum-swingup"]()
    planner = WarmStart(first=ilqr(horizon=30, iterations=4, budget=50), then=icem(horizon=30, budget=64))
    controller, taken = Controller(task, planner, threads=1, seed=3), []
    for steps in (120, 20):
        controller.reset(3)
        x = np.array([math.pi, 0.05])
        for _ in range(steps):
            taken.append(controller.act(x))
            x = np.array(task.step(tuple(x.tolist()), tuple(taken[-1].tolist()), task.params))
        if steps == 120:
            assert task.solved is not None and task.solved(tuple(x.tolist()), task.params)
    assert np.array_equal(taken[:20], taken[120:])


def test_configuration_is_frozen_and_named():
    assert ILQR(horizon=5, iterations=2, step_sizes=3).name == "ilqr"
    with pytest.raises(AttributeError):
        ilqr().horizon = 3  # type: ignore[misc]
