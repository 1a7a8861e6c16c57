"""The analytic tasks: one contract for all of them, and for each the law of physics or geometry that it must obey."""

from __future__ import annotations

import dataclasses
import importlib
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from mpcrl.control.controller import Controller
from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import InvalidInput, MpcrlError, UnknownName
from mpcrl.core.threads import ThreadBudget
from mpcrl.models.analytic import Analytic
from mpcrl.planners.presets import PRESETS, preset
from mpcrl.tasks import (
    acrobot,
    cart_double_pendulum,
    cartpole,
    cartpole_pets,
    diffdrive,
    lqr,
    mountain_car,
    pendulum,
    quadrotor,
    racecar,
    reacher,
    two_link,
)
from mpcrl.tasks.canvas import BLUE, PAPER, RED, Canvas
from mpcrl.tasks.registry import ANALYTIC_TASKS, TASKS, make_task
from mpcrl.tasks.riccati import linearise
from mpcrl.tasks.task import AnalyticTask

ROOT = Path(__file__).resolve().parent.parent

State = tuple[float, ...]


@pytest.fixture(params=ANALYTIC_TASKS)
def task(request: pytest.FixtureRequest) -> AnalyticTask:
    return ANALYTIC_TASKS[request.param]()


def start_of(task: AnalyticTask, seed: int = 0) -> State:
    return tuple(map(float, task.reset(np.random.default_rng(seed))))


def random_controls(task: AnalyticTask, steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(task.control_low, task.control_high, (steps, task.nu))


def total(cost: Any) -> float:
    return float(sum(cost)) if isinstance(cost, tuple) else float(cost)


# The contract of every task.


def test_names_and_sizes_fit_together(task: AnalyticTask) -> None:
    assert make_task(task.name).name == task.name
    assert TASKS[task.name] is ANALYTIC_TASKS[task.name]
    assert len(task.control_names) == task.nu
    assert len(set(task.state_names)) == task.nx
    assert getattr(task.params, "dt", task.dt) == task.dt
    assert task.draw is not None
    assert task.solved is not None


def test_functions_are_plain_python_on_floats(task: AnalyticTask) -> None:
    assert task.solved is not None
    for seed in range(5):
        x = start_of(task, seed)
        for t, control in enumerate(random_controls(task, 40, seed)):
            u = tuple(control.tolist())
            stage = task.cost(x, u, t, task.params)
            assert isinstance(stage, tuple)
            assert all(math.isfinite(term) for term in stage)
            x = task.step(x, u, task.params)
            assert type(x) is tuple
            assert len(x) == task.nx
            assert all(isinstance(value, float) and math.isfinite(value) for value in x)
            assert isinstance(task.solved(x, task.params), bool)
            if task.terminal is not None:
                assert math.isfinite(task.terminal(x, task.params))


def test_the_cost_has_named_terms(task: AnalyticTask) -> None:
    x = start_of(task)
    stage = task.cost(x, tuple((task.control_low + task.control_high) / 2), 0, task.params)
    assert len(set(stage._fields)) == len(stage) >= 1


def test_reset_depends_on_the_generator_only(task: AnalyticTask) -> None:
    first, again, other = (task.reset(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.dtype == np.float64
    assert first.shape == (task.nx,)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert task.solved is not None
    kept = task.name == "cartpole-balance"  # what it asks for is there, and must not be lost
    assert task.solved(tuple(first), task.params) == kept


def test_lanes_agree_with_plain_python(task: AnalyticTask) -> None:
    steps, samples = 10, 8
    controls = np.stack([random_controls(task, steps, seed) for seed in range(samples)])
    start = start_of(task)
    model = Analytic(task)
    costs = model.costs(np.array(start), Candidates.from_rows(controls, model.dtype), 0, task.params, ThreadBudget(1))
    for cost, rows in zip(costs, controls, strict=True):
        x, expected = start, 0.0
        for t, control in enumerate(rows):
            u = tuple(control.tolist())
            expected += total(task.cost(x, u, t, task.params))
            x = task.step(x, u, task.params)
        expected += task.terminal(x, task.params) if task.terminal else 0.0
        # float32, where a cell of a map at its very rim may be its neighbour
        assert cost == pytest.approx(expected, rel=5e-3, abs=5e-3)


def test_the_preset_is_a_planner(task: AnalyticTask) -> None:
    options = dict(task.preset)
    assert options["budget"] <= 128
    assert preset(options.pop("planner"), **options).horizon == options["horizon"]


@pytest.mark.acceptance
def test_the_preset_solves_the_task(task: AnalyticTask) -> None:
    """Within ten seconds where something swings up, and still at the end of the episode."""
    assert task.solved is not None
    options = dict(task.preset)
    planner = PRESETS[options.pop("planner")](**options)
    model = Analytic(task)
    for seed in range(3):
        controller = Controller(task, planner, model=model, seed=seed, threads=1)
        x, times = start_of(task, seed), []
        for t in range(task.episode_steps):
            x = task.step(x, tuple(controller.act(np.array(x)).tolist()), task.params)
            if task.solved(x, task.params):
                times.append(t)
            if task.terminated is not None and task.terminated(x, task.params):
                break
        assert times, f"seed {seed}: not solved"
        assert times[0] * task.dt < (20.0 if task.name in ("diffdrive-costmap", "racecar") else 10.0)
        if task.terminated is None:
            last = min(50, task.episode_steps // 4)
            assert sum(time >= task.episode_steps - last for time in times) >= last // 2, f"seed {seed}: not held"


def test_an_unknown_task_names_its_neighbours() -> None:
    with pytest.raises(UnknownName, match="pendulum-swingup"):
        make_task("pendulum-swing-up")


def test_every_builder_of_the_registry_exists() -> None:
    for name, builder in TASKS.items():
        cells = dict(zip(builder.__code__.co_freevars, builder.__closure__ or (), strict=True))
        if cells:  # one that imports its module when called
            module = pytest.importorskip(cells["module"].cell_contents, exc_type=ImportError)
            assert callable(getattr(module, cells["builder"].cell_contents)), name


# Physics: energy.


def swing(step: Callable[..., State], x: State, p: Any, seconds: float) -> np.ndarray:
    """States [steps + 1, nx] without control."""
    states = [x]
    for _ in range(round(seconds / p.dt)):
        states.append(step(states[-1], (0.0, 0.0), p))
    return np.array(states)


def free_arm(p: reacher.ReacherParams) -> reacher.ReacherParams:
    return p._replace(damping=0.0)


def test_the_cartpole_of_pets_is_mujocos() -> None:
    mujoco = pytest.importorskip("mujoco")
    capsule = 'type="capsule" contype="0" conaffinity="0"'
    model = mujoco.MjModel.from_xml_string(f"""<mujoco><option integrator="RK4" timestep="0.02"/>
      <default><joint damping="1"/></default>
      <worldbody><body><joint name="rail" axis="1 0 0" type="slide"/><geom {capsule} size=".1 .1" euler="0 90 0"/>
        <body><joint axis="0 1 0"/><geom {capsule} fromto="0 0 0 0 0 -.6" size=".049"/></body></body></worldbody>
      <actuator><motor joint="rail" gear="100"/></actuator></mujoco>""")
    data = mujoco.MjData(model)
    task = cartpole_pets.cartpole_pets()
    x = start_of(task)
    data.qpos[:], data.qvel[:] = x[:2], x[2:]
    for u in np.random.default_rng(0).uniform(-1, 1, 30):
        data.ctrl[:] = u
        mujoco.mj_step(model, data, 2)
        x = task.step(x, (float(u),), task.params)
    np.testing.assert_allclose(x, np.concatenate([data.qpos, data.qvel]), atol=1e-6)


def test_a_cart_stops_at_the_end_of_its_rail() -> None:
    task = cartpole_pets.cartpole_pets()
    x: State = (2.4, 0.0, 3.0, 0.0)
    for _ in range(10):
        x = task.step(x, (3.0,), task.params)
    assert x[0] == task.params.rail
    assert x[2] == 0.0


@pytest.mark.parametrize(
    ("module", "params", "start", "bound"),
    [
        (cartpole, cartpole.CartpoleParams(), (0.0, 1.0, 0.3, -2.0), 2e-4),
        (acrobot, acrobot.acrobot_swingup().params, (2.5, 0.7, 0.5, -3.0), 1e-4),
        (cart_double_pendulum, cart_double_pendulum.cart_double_pendulum().params, (0, 1.0, -0.5, 0, 3.0, -2.0), 2e-2),
        (two_link, free_arm(reacher.ReacherParams()), (0.3, 1.0, 6.0, -4.0), 2e-2),
    ],
    ids=["cartpole", "acrobot", "cart-double-pendulum", "reacher"],
)
def test_energy_is_kept_without_control_and_friction(module: Any, params: Any, start: State, bound: float) -> None:
    """Over ten seconds of whirling, as a part of the energy there is."""
    step = reacher.step if module is two_link else module.step
    states = swing(step, start, params, 10.0)
    energies = np.array([module.energy(tuple(x), params) for x in states])
    rate = np.abs(np.diff(states[:, states.shape[1] // 2 :], axis=0)).max()
    assert rate > 0.1, "nothing moves"
    assert np.ptp(energies) < bound * np.abs(energies[0])


Of = Callable[[np.ndarray, np.ndarray], float]


def lagrangian(kinetic: Of, potential: Callable[[np.ndarray], float], force: np.ndarray, q: Any, v: Any) -> np.ndarray:
    """Accelerations by Lagrange's equation of the second kind, its derivatives by central differences."""
    e, h = np.eye(len(q)), 1e-5

    def momentum(q: np.ndarray) -> np.ndarray:
        return np.array([kinetic(q, v + a) - kinetic(q, v - a) for a in e]) / 2  # exact: it is quadratic in v

    def slope(q: np.ndarray, a: np.ndarray) -> float:
        return kinetic(q + a, v) - kinetic(q - a, v) - potential(q + a) + potential(q - a)

    inertia = [[kinetic(q, a + b) - kinetic(q, a) - kinetic(q, b) for b in e] for a in e]
    moved = (momentum(q + h * v) - momentum(q - h * v)) / (2 * h)
    return np.linalg.solve(inertia, force - moved + np.array([slope(q, h * a) for a in e]) / (2 * h))


def rods(p: Any, cart: float, masses: Sequence[float], lengths: Sequence[float]) -> tuple[Of, Any]:
    """Kinetic and potential energy of uniform rods, each on the tip of the one before, the first one on a cart."""

    def kinetic(q: np.ndarray, v: np.ndarray) -> float:
        tip, total = np.array([v[0], 0.0]), 0.5 * cart * v[0] ** 2
        for angle, rate, m, l in zip(q[1:], v[1:], masses, lengths, strict=True):
            turn = l * rate * np.array([math.cos(angle), -math.sin(angle)])
            total += 0.5 * m * ((tip + 0.5 * turn) ** 2).sum() + 0.5 * m * l**2 / 12 * rate**2
            tip = tip + turn
        return float(total)

    def potential(q: np.ndarray) -> float:
        heights = np.cumsum([0.0, *(l * math.cos(angle) for angle, l in zip(q[1:], lengths, strict=True))])
        return p.gravity * sum(m * (a + b) / 2 for m, a, b in zip(masses, heights[:-1], heights[1:], strict=True))

    return kinetic, potential


def test_the_tasks_of_the_pilco_software_are_its_equations_of_motion() -> None:
    single, double = make_task("pendulum-pilco"), make_task("cart-double-pendulum-pilco")
    assert isinstance(single, AnalyticTask) and isinstance(double, AnalyticTask)
    assert single.sensor_noise == (0.01, 0.1) and double.sensor_noise == (0.01,) * 6
    p = single.params
    kinetic, potential = rods(p, 0.0, [p.mass], [p.length])

    def pendulum_rates(_: float, x: np.ndarray, u: float) -> np.ndarray:
        def turning(q: np.ndarray, v: np.ndarray) -> float:
            return kinetic(np.append(0.0, q), np.append(0.0, v))

        force = np.array([u - p.friction * x[1]])
        return np.append(x[1], lagrangian(turning, lambda q: potential(np.append(0.0, q)), force, x[:1], x[1:]))

    d = double.params
    of_both = rods(d, d.cart_mass, [d.mass_1, d.mass_2], [d.length_1, d.length_2])

    def double_rates(_: float, x: np.ndarray, u: float) -> np.ndarray:
        return np.append(x[3:], lagrangian(*of_both, np.array([u - d.friction * x[3], 0.0, 0.0]), x[:3], x[3:]))

    rng = np.random.default_rng(0)
    for task, rates, speeds, bound in (
        (single, pendulum_rates, [8.0], 1e-4),
        (double, double_rates, [2.0, 6, 6], 1e-3),
    ):
        half = len(speeds)
        for _ in range(5):
            x = np.append(rng.uniform(-math.pi, math.pi, half), rng.uniform(-1, 1, half) * speeds)
            u = float(rng.uniform(task.control_low[0], task.control_high[0]))
            exact = scipy.integrate.solve_ivp(rates, (0, task.dt), x, args=(u,), rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(task.step(tuple(x), (u,), task.params), exact.y[:, -1], rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("name", "start", "bound"),
    [("pendulum-pilco", (2.0, 7.0), 1e-4), ("cart-double-pendulum-pilco", (0.0, 1.0, -0.5, 0.3, 3.0, -2.0), 1e-2)],
)
def test_only_friction_takes_energy_from_the_tasks_of_the_pilco_software(name: str, start: State, bound: float) -> None:
    """Over ten seconds, as a part of what there is between hanging and upright."""
    task = ANALYTIC_TASKS[name]()
    energy = cart_double_pendulum.energy if task.nx == 6 else pendulum.energy
    free = task.params._replace(friction=0.0)
    energies = np.array([energy(tuple(x), free) for x in swing(task.step, start, free, 10.0)])
    whole_range = 2 * energy((0.0,) * task.nx, free)
    assert np.ptp(energies) < bound * whole_range
    braked = np.array([energy(tuple(x), free) for x in swing(task.step, start, task.params, 10.0)])
    assert (np.diff(braked) < bound * whole_range).all()
    assert braked[-1] < braked[0] - 0.05 * whole_range


def test_energy_of_the_pendulum_does_not_drift() -> None:
    """Semi-implicit Euler swings around the energy by dt times the rate, and stays there."""
    p = pendulum.PendulumParams()
    energies = np.array([pendulum.energy(tuple(x), p) for x in swing(pendulum.step, (2.0, 0.0), p, 500.0)])
    half = len(energies) // 2
    whole_range = p.mass * p.gravity * p.length
    assert np.ptp(energies) < 0.2 * whole_range
    assert abs(energies[:half].mean() - energies[half:].mean()) < 1e-3 * whole_range


@pytest.mark.parametrize(
    ("module", "params", "start", "control", "rates"),
    [
        (pendulum, pendulum.PendulumParams(), (2.0, 0.5), (1.5,), (1,)),
        (cartpole, cartpole.CartpoleParams(), (0.0, 1.0, 0.3, -2.0), (7.0,), (2,)),
        (two_link, acrobot.acrobot_swingup().params, (2.5, 0.7, 0.5, -3.0), (4.0,), (3,)),
        (
            cart_double_pendulum,
            cart_double_pendulum.cart_double_pendulum().params,
            (0.0, 1.0, -0.5, 0.0, 3.0, -2.0),
            (9.0,),
            (3,),
        ),
        (two_link, free_arm(reacher.ReacherParams()), (0.3, 1.0, 2.0, -1.0), (1.5, -0.7), (2, 3)),
    ],
    ids=["pendulum", "cartpole", "acrobot", "cart-double-pendulum", "reacher"],
)
def test_control_does_work(module: Any, params: Any, start: State, control: State, rates: tuple[int, ...]) -> None:
    """The energy gained is the integral of force times velocity: inputs enter where, and as large as, they should."""
    arms: tuple[Any, Any] = acrobot.step, reacher.step
    step = arms[len(control) - 1] if module is two_link else module.step
    params = params._replace(dt=1e-3)
    states = [start]
    for _ in range(500):
        states.append(step(states[-1], control, params))
    speeds = np.array(states)[:, list(rates)]
    work = 1e-3 * (0.5 * (speeds[1:] + speeds[:-1]) @ np.array(control)).sum()
    gained = module.energy(states[-1], params) - module.energy(states[0], params)
    assert abs(work) > 0.1
    assert gained == pytest.approx(work, rel=5e-3 if module is pendulum else 1e-4)


# Physics: the same numbers as Gymnasium's environments.


def test_pendulum_is_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    p = pendulum.PendulumParams()
    x: State = (3.0, 0.4)
    env.state = np.array(x)
    for torque in random_controls(pendulum.pendulum_swingup(), 100)[:, 0].tolist():
        _, reward, *_ = env.step(np.array([torque]))
        assert -reward == pytest.approx(total(pendulum.cost(x, (torque,), 0, p)), rel=1e-12)
        x = pendulum.step(x, (torque,), p)
        np.testing.assert_allclose(env.state, x, rtol=1e-12)


def test_mountain_car_is_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("MountainCarContinuous-v0").unwrapped
    env.reset(seed=0)
    p = mountain_car.MountainCarParams()
    x: State = (-1.1, -0.06)
    touched = 0
    for t in range(200):
        push = -1.0 if x[1] < 0 else 1.0
        env.state = np.array(x)
        _, _, done, *_ = env.step(np.array([push]))
        x = mountain_car.step(x, (push,), p)
        touched += x[0] == p.left_wall
        np.testing.assert_allclose(env.state, np.array(x, np.float32), atol=1e-6)
        assert done == mountain_car.solved(x, p), t
    assert touched, "the wall was not met"


def test_acrobot_is_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("Acrobot-v1").unwrapped
    p = acrobot.acrobot_swingup().params
    for q1, q2, w1, w2, torque in np.random.default_rng(0).uniform(-4.0, 4.0, (50, 5)).tolist():
        expected = env._dsdt((q1, q2, w1, w2, torque))[2:4]
        assert two_link.acceleration(q1, q2, w1, w2, 0.0, torque, p) == pytest.approx(expected, rel=1e-9)


def test_cartpole_is_gymnasiums() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("CartPole-v1").unwrapped
    p = cartpole.CartpoleParams()
    for position, angle, velocity, rate in np.random.default_rng(0).uniform(-0.2, 0.2, (50, 4)).tolist():
        env.reset(seed=0)
        env.state = (position, velocity, angle, rate)
        env.step(1)
        _, new_velocity, _, new_rate = env.state
        expected = (new_velocity - velocity) / env.tau, (new_rate - rate) / env.tau
        assert cartpole.acceleration(angle, rate, env.force_mag, p) == pytest.approx(expected, rel=1e-9)


# Linear feedback.


def test_lqr_is_what_its_matrices_say() -> None:
    task = lqr.lqr()
    A, B, Q, R, P, K = lqr.lqr_matrices(task.params)
    np.testing.assert_allclose(P, scipy.linalg.solve_discrete_are(A, B, Q, R), rtol=1e-9)
    for seed in range(5):
        x = np.array(start_of(task, seed))
        u = random_controls(task, 1, seed)[0]
        np.testing.assert_allclose(task.step(tuple(x), tuple(u), task.params), A @ x + B @ u, rtol=1e-12)
        assert total(task.cost(tuple(x), tuple(u), 3, task.params)) == pytest.approx(x @ Q @ x + u @ R @ u)
        assert task.terminal is not None
        assert task.terminal(tuple(x), task.params) == pytest.approx(x @ P @ x)
    for corner in ([1.0, 0.5], [1.0, -0.5]):
        assert np.abs(K @ corner) < task.control_high, "the optimum is not within the bounds"


def test_the_cost_to_go_of_lqr_is_its_terminal_cost() -> None:
    task = lqr.lqr()
    K, P = lqr.lqr_matrices(task.params)[-1:], lqr.lqr_matrices(task.params).P
    x = np.array(start_of(task, 1))
    expected, spent = x @ P @ x, 0.0
    for t in range(30):
        u = -K[0] @ x
        spent += total(task.cost(tuple(x), tuple(u), t, task.params))
        x = np.array(task.step(tuple(x), tuple(u), task.params))
    assert task.terminal is not None
    assert spent + task.terminal(tuple(x), task.params) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("builder", "top"),
    [
        (acrobot.acrobot_swingup, [math.pi, 0.0, 0.0, 0.0]),
        (cart_double_pendulum.cart_double_pendulum, [0.0] * 6),
        (cart_double_pendulum.cart_double_pendulum_pilco, [0.0] * 6),
    ],
    ids=["acrobot", "cart-double-pendulum", "cart-double-pendulum-pilco"],
)
def test_the_terminal_cost_is_that_of_a_feedback_that_balances(builder: Any, top: list[float]) -> None:
    task = builder()
    A, B = linearise(task.step, np.array(top), np.zeros(1), task.params)
    P = task.params.value
    assert np.abs(np.linalg.eigvals(A)).max() > 1.05, "the top is not unstable"
    assert np.linalg.eigvalsh(P).min() > 0
    R = task.params.torque_weight if builder is acrobot.acrobot_swingup else 1e-4
    K = np.linalg.solve(R * np.eye(1) + B.T @ P @ B, B.T @ P @ A)
    assert np.abs(np.linalg.eigvals(A - B @ K)).max() < 1.0
    x = tuple(np.array(top) + 0.005)
    for _ in range(300):
        u = np.clip(-K @ (np.array(x) - top), task.control_low, task.control_high)
        x = task.step(x, tuple(u.tolist()), task.params)
    assert task.solved(x, task.params)
    assert task.terminal(x, task.params) < 0.1
    assert task.terminal(start_of(task), task.params) < task.params.terminal_cap


# The quadrotor.


def test_the_quaternion_stays_normalised_under_any_torque() -> None:
    task = quadrotor.quadrotor_obstacles()
    x = start_of(task)
    for control in random_controls(task, 500):
        x = task.step(x, tuple((10.0 * control).tolist()), task.params)
        assert np.linalg.norm(x[6:10]) == pytest.approx(1.0, abs=1e-12)


def test_a_quadrotor_hovers_falls_and_turns_as_it_should() -> None:
    task = quadrotor.quadrotor_obstacles()
    p = task.params._replace(drag=0.0)
    level = (0.0, 0.0, 1.0, *[0.0] * 3, 1.0, *[0.0] * 6)
    hover = level
    for _ in range(50):
        hover = task.step(hover, (p.mass * p.gravity, 0.0, 0.0, 0.0), p)
    np.testing.assert_allclose(hover, level, atol=1e-9)

    falling = level
    for _ in range(25):
        falling = task.step(falling, (0.0,) * 4, p)
    assert falling[5] == pytest.approx(-p.gravity * 25 * p.dt)

    yawing = (*level[:12], 1.3)
    for _ in range(30):
        yawing = task.step(yawing, (p.mass * p.gravity, 0.0, 0.0, 0.0), p)
    assert 2 * math.atan2(yawing[9], yawing[6]) == pytest.approx(1.3 * 30 * p.dt)

    pitched = (*level[:6], math.cos(0.2), 0.0, math.sin(0.2), 0.0, *[0.0] * 3)  # nose down: thrust points forward
    pushed = task.step(pitched, (p.mass * p.gravity, 0.0, 0.0, 0.0), p)
    assert pushed[3] == pytest.approx(p.dt * p.gravity * math.sin(0.4))
    assert pushed[5] == pytest.approx(p.dt * p.gravity * (math.cos(0.4) - 1.0))


def test_torque_free_rotation_keeps_angular_momentum() -> None:
    task = quadrotor.quadrotor_obstacles()
    p = task.params._replace(dt=1e-4, inertia_y=0.014)
    x: State = (*[0.0] * 6, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0, -1.5)
    inertia = np.array([p.inertia_x, p.inertia_y, p.inertia_z])

    def momentum(x: State) -> np.ndarray:
        w, v = x[6], np.array(x[7:10])
        body = inertia * x[10:]
        return body + 2 * w * np.cross(v, body) + 2 * np.cross(v, np.cross(v, body))

    before = momentum(x)
    for _ in range(5000):
        x = task.step(x, (0.0,) * 4, p)
    assert np.abs(np.array(x[10:]) - [2.0, 1.0, -1.5]).max() > 0.3
    np.testing.assert_allclose(momentum(x), before, atol=1e-3 * float(np.linalg.norm(before)))


@given(st.tuples(st.floats(-3.5, 3.5), st.floats(-1.8, 1.8), st.floats(0.6, 2.4)))
def test_obstacles_cost_inside_and_in_their_margin_only(point: tuple[float, float, float]) -> None:
    p = quadrotor.quadrotor_obstacles().params
    gaps = np.linalg.norm(p.obstacles[:, :3] - point, axis=1) - p.obstacles[:, 3] - p.body_radius
    cost = quadrotor.obstacle_cost(*point, p)
    if gaps.min() < 0:
        assert cost >= 1.0
    elif gaps.min() > p.margin:
        assert cost == pytest.approx(0.0, abs=1e-12)
    else:
        assert cost >= 0.0


def test_moving_an_obstacle_moves_its_cost() -> None:
    p = quadrotor.quadrotor_obstacles().params
    goal = p.goal_x, p.goal_y, p.goal_z
    assert quadrotor.obstacle_cost(*goal, p) == 0.0
    moved = p.obstacles.copy()
    moved[3] = [*goal, 0.2]
    assert quadrotor.obstacle_cost(*goal, p._replace(obstacles=moved)) > 1.0


# The robot in the flat.

FLAT = diffdrive.diffdrive_costmap().params


@given(st.floats(-7.0, 7.0), st.floats(-7.0, 7.0))
def test_the_costmap_is_looked_up_as_numpy_does(x: float, y: float) -> None:
    p = FLAT
    rows, columns = p.costmap.shape
    row = np.clip(np.floor((y - p.origin_y) / p.resolution), 0, rows - 1).astype(int)
    column = np.clip(np.floor((x - p.origin_x) / p.resolution), 0, columns - 1).astype(int)
    assert diffdrive.costmap_at(x, y, p) == p.costmap[row, column]
    straight = math.hypot(x - p.goal_x, y - p.goal_y)
    way = diffdrive.way_left_at(x, y, p)
    assert way == (straight if straight < 0.5 else max(p.way_left[row, column], 0.5))


def test_the_costmap_is_lethal_within_the_robots_radius() -> None:
    occupied = diffdrive.inflated_costmap(diffdrive.WALLS, radius=0.0, scale=1e3) == 1.0
    assert 0.05 < occupied.mean() < 0.3
    distance = 0.05 * scipy.ndimage.distance_transform_edt(~occupied)
    cell = 0.05 * math.sqrt(2)
    assert (FLAT.costmap[distance < 0.22 - cell] == 1.0).all()
    assert (FLAT.costmap[distance > 0.22 + cell] < 1.0).all()
    expected = np.exp(-6.0 * (distance - 0.22).clip(0.0))
    assert np.abs(FLAT.costmap - expected).max() < 1.0 - math.exp(-6.0 * cell)


@pytest.mark.parametrize("goal", diffdrive.GOALS)
def test_a_way_leads_downhill_to_every_goal(goal: tuple[float, float, float]) -> None:
    p = diffdrive.with_goal(FLAT, *goal)
    assert diffdrive.solved(goal, p)
    x, y = -3.225, -3.325  # the middle of a cell
    left = diffdrive.way_left_at(x, y, p)
    assert math.hypot(goal[0] - x, goal[1] - y) < left < 30.0
    for _ in range(600):
        around = [(x + 0.05 * i, y + 0.05 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        x, y = min(around, key=lambda point: diffdrive.way_left_at(point[0], point[1], p))
        assert diffdrive.costmap_at(x, y, p) < 1.0, "the way leads through a wall"
    assert math.hypot(goal[0] - x, goal[1] - y) < 0.06


def test_the_way_left_is_the_distance_where_nothing_is_in_between() -> None:
    free = diffdrive.DiffdriveParams(np.zeros((40, 40)), np.zeros((40, 40)), 0.0, 0.0, 0.1, 0.0, 0.0, 0.0)
    p = diffdrive.with_goal(free, 1.05, 2.05, 0.0)
    assert p.way_left[20, 30] == pytest.approx(2.0)
    assert p.way_left[35, 10] == pytest.approx(1.5)
    assert p.way_left[30, 20] == pytest.approx(math.sqrt(2))


def test_cost_falls_towards_the_goal_and_rises_in_walls() -> None:
    def cost(x: float, y: float, heading: float = 0.0) -> float:
        return total(diffdrive.cost((x, y, heading), (0.0, 0.0), 0, FLAT))

    gx, gy, heading = diffdrive.GOALS[0]
    assert cost(gx, gy, heading) == pytest.approx(0.0, abs=0.05)
    assert cost(gx, gy, heading) < cost(gx, gy, heading + 1.0) < cost(gx - 0.6, gy, heading) < cost(gx - 2.0, gy)
    assert cost(-1.52, 2.0) > FLAT.collision_weight


@pytest.mark.parametrize("goal", [(9.0, 0.0), (-1.52, 2.0)], ids=["outside", "in a wall"])
def test_a_goal_out_of_reach_is_refused(goal: tuple[float, float]) -> None:
    with pytest.raises(InvalidInput, match="free part of the costmap"):
        diffdrive.with_goal(FLAT, *goal, 0.0)


def test_the_unicycle_drives_circles() -> None:
    p = FLAT
    x: State = (0.0, 0.0, 0.0)
    for _ in range(40):
        x = diffdrive.step(x, (0.5, math.pi / 2), p)  # half a turn in two seconds, radius 1 / pi
    np.testing.assert_allclose(x, (0.0, 2.0 / math.pi, math.pi), atol=2e-3)


def test_the_reachers_target_may_move() -> None:
    p = reacher.ReacherParams()
    x = (0.4, 0.9, 0.0, 0.0)
    there = p._replace(target_x=reacher.tip(x, p)[0], target_y=reacher.tip(x, p)[1])
    assert reacher.solved(x, there)
    assert not reacher.solved(x, p)
    assert total(reacher.cost(x, (0.0, 0.0), 0, there)) == pytest.approx(0.0, abs=1e-12)


# The track.


def test_the_track_closes_and_turns_once() -> None:
    p = racecar.racecar().params
    line = np.stack([p.centre_x, p.centre_y], 1)
    np.testing.assert_allclose(line[0], line[-1])
    assert p.direction[-1] - p.direction[0] == pytest.approx(2 * math.pi, abs=1e-9)
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    assert lengths.sum() == pytest.approx(p.lap, rel=1e-3)
    assert np.ptp(lengths) < 1e-3
    turned = np.cumsum(0.5 * (p.curvature[1:] + p.curvature[:-1])) * p.lap / (len(line) - 1)
    np.testing.assert_allclose(p.direction[1:] - p.direction[0], turned, atol=0.01)
    assert np.abs(p.curvature).max() * p.half_width < 0.8, "the inner border folds"


def test_a_clockwise_track_turns_the_other_way() -> None:
    p = racecar.track(racecar.CORNERS[::-1])
    assert p.direction[-1] - p.direction[0] == pytest.approx(-2 * math.pi, abs=1e-9)


@pytest.mark.parametrize(
    ("corners", "message"),
    [([(0.0, 0.0), (9.0, 0.0)], "at least three"), ([(0.0, 0.0), (9.0, 0.0), (9.0, 1.0)], "raise smoothing")],
)
def test_a_track_that_cannot_be_driven_is_refused(corners: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        racecar.track(corners)


def test_curvature_is_looked_up_between_points_and_over_laps() -> None:
    p = racecar.racecar().params
    even = np.linspace(0.0, p.lap, len(p.curvature))
    for progress in np.random.default_rng(0).uniform(-p.lap, 3 * p.lap, 200):
        expected = np.interp(progress % p.lap, even, p.curvature)
        assert racecar.curvature_at(progress, p) == pytest.approx(expected, abs=2e-4)


def test_the_car_on_the_track_is_the_bicycle_in_the_plane() -> None:
    task = racecar.racecar()
    p = task.params
    x: State = (1.0, 0.1, 0.05, 3.0, 0.0)
    px, py, heading = racecar.position(x, p)
    speed, steering = x[3], x[4]
    fine = 100
    for t in range(60):
        follow = 0.33 * racecar.curvature_at(x[0] + 0.2, p) - 0.3 * x[1] - 0.5 * x[2]
        u = (math.sin(0.2 * t), 5.0 * (follow - x[4]))
        x = task.step(x, u, p)
        for _ in range(fine):
            h = p.dt / fine
            speed = min(max(speed + h * u[0], 0.0), p.max_speed)
            steering = min(max(steering + h * u[1], -p.max_steering), p.max_steering)
            slip = math.atan(p.rear_length * math.tan(steering) / (p.front_length + p.rear_length))
            px += h * speed * math.cos(heading + slip)
            py += h * speed * math.sin(heading + slip)
            heading += h * speed * math.sin(slip) / p.rear_length
        assert abs(x[1]) < p.half_width, "the comparison left the track"
    assert x[0] > 7.0
    found = racecar.position(x, p)
    assert math.hypot(found[0] - px, found[1] - py) < 0.05
    assert abs(math.remainder(found[2] - heading, 2 * math.pi)) < 0.03


def test_progress_is_paid_per_metre_on_the_track_only() -> None:
    task = racecar.racecar()
    p = task.params
    straight = float(np.abs(p.curvature).argmin()) * p.lap / 400
    on = racecar.cost((straight, 0.0, 0.0, 4.0, 0.0), (0.0, 0.0), 0, p)
    assert on.progress == pytest.approx(-4.0 * p.dt, rel=1e-2)
    assert on.border == on.grip == 0.0
    off = racecar.cost((straight, 0.8, 0.0, 4.0, 0.0), (0.0, 0.0), 0, p)
    assert off.progress == 0.0
    assert off.border > 0.0
    assert racecar.cost((straight, 0.0, 0.0, 5.0, 0.3), (0.0, 0.0), 0, p).grip > 0.0


# Gymnasium.


def env_of(task: AnalyticTask, render_mode: str | None = None) -> Any:
    pytest.importorskip("gymnasium")
    return importlib.import_module("mpcrl.tasks.environment").TaskEnv(task, render_mode)


def test_gymnasium_accepts_the_environment(task: AnalyticTask) -> None:
    env = env_of(task)
    from gymnasium.utils.env_checker import check_env

    check_env(env, skip_render_check=True)


def test_an_episode_is_the_task(task: AnalyticTask) -> None:
    env = env_of(dataclasses.replace(task, episode_steps=20, sensor_noise=()))
    observation, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert np.array_equal(observation, again)
    assert observation.dtype == np.float64
    np.testing.assert_array_equal(env.action_space.low, task.control_low)
    np.testing.assert_array_equal(env.action_space.high, task.control_high)
    x = tuple(observation.tolist())
    for t, control in enumerate(random_controls(task, 20)):
        u = tuple(control.tolist())
        observation, reward, _, truncated, info = env.step(control)
        stage = task.cost(x, u, t, task.params)
        x = task.step(x, u, task.params)
        assert reward == pytest.approx(-total(stage))
        assert info["cost_terms"] == pytest.approx(stage._asdict())
        assert info["cost"] == -reward
        assert info["solved"] == task.solved(x, task.params)  # type: ignore[misc]
        assert tuple(observation) == x
        assert truncated == (t == 19)


def test_reaching_the_goal_of_the_mountain_car_ends_the_episode() -> None:
    env = env_of(mountain_car.mountain_car())
    env.reset(seed=0)
    env._state = (0.449, 0.05)
    _, _, terminated, truncated, info = env.step(np.array([1.0]))
    assert terminated
    assert info["solved"]
    assert not truncated


def test_actions_beyond_the_bounds_are_clipped() -> None:
    env = env_of(pendulum.pendulum_swingup())
    results = []
    for torque in (2.0, 50.0):
        env.reset(seed=0)
        results.append(env.step(np.array([torque]))[:2])
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize(
    "action", [np.array([np.nan]), np.array([np.inf]), np.zeros(2), np.zeros((1, 1)), 1.0], ids=str
)
def test_bad_actions_are_refused(action: Any) -> None:
    env = env_of(pendulum.pendulum_swingup())
    env.reset(seed=0)
    with pytest.raises(InvalidInput, match="1 finite numbers"):
        env.step(action)


def test_misuse_of_the_environment_is_named() -> None:
    task = pendulum.pendulum_swingup()
    env = env_of(task, "rgb_array")
    for call in (lambda: env.step(np.zeros(1)), env.render):
        with pytest.raises(InvalidInput, match="reset first"):
            call()
    with pytest.raises(InvalidInput, match="no options"):
        env.reset(options={"low": 0})
    with pytest.raises(InvalidInput, match="render_mode"):
        env_of(task, "ansi")
    with pytest.raises(InvalidInput, match="no `draw`"):
        env_of(dataclasses.replace(task, draw=None), "rgb_array")


def test_every_task_has_a_picture_that_shows_its_state(task: AnalyticTask) -> None:
    pytest.importorskip("PIL")
    env = env_of(task, "rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape == (400, 640, 3)
    assert 0.005 < (frame != PAPER).any(2).mean() < 0.99
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 20, "edges are not smooth"
    for control in random_controls(task, 15):
        env.step(control)
    assert (env.render() != frame).any()
    env.close()


def test_a_window_needs_a_screen() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    with pytest.raises(MpcrlError, match="rgb_array"):
        env_of(pendulum.pendulum_swingup(), "human")
    assert not pyplot.get_fignums()


def test_a_window_shows_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    pauses: list[float] = []
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "pretended")
    monkeypatch.setattr(pyplot, "pause", pauses.append)
    env = env_of(pendulum.pendulum_swingup(), "human")
    env.reset(seed=0)
    env.step(np.zeros(1))
    assert pauses == [0.05, 0.05]
    env.close()
    assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("absent", "code", "extra"),
    [
        ("gymnasium", "import mpcrl; mpcrl.TaskEnv", "gym"),
        ("PIL", "from mpcrl.tasks.canvas import Canvas; Canvas()", "video"),
        ("matplotlib", "from mpcrl import TaskEnv, make_task; TaskEnv(make_task('lqr'), 'human')", "plots"),
    ],
)
def test_what_is_not_installed_is_named(absent: str, code: str, extra: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules[{absent!r}] = None\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "MissingDependency" in done.stderr
    assert f"pip install 'mpcrl[{extra}]'" in done.stderr


# The canvas.


def test_world_coordinates_point_up_and_fit_the_picture() -> None:
    pytest.importorskip("PIL")
    canvas = Canvas(200, 100)
    canvas.view(-1.0, 1.0, -1.0, 1.0)  # a square in the middle of a wide picture: 50 pixels per metre
    canvas.circle((1.0, 1.0), 0.1, RED)
    canvas.box((-0.5, -0.5), 0.4, 0.2, 0.0, BLUE)
    image = canvas.image()
    assert image.shape == (100, 200, 3)
    assert tuple(image[2, 148]) == RED
    assert tuple(image[75, 75]) == BLUE
    assert [tuple(image[75, column]) == BLUE for column in (60, 67, 83, 90)] == [False, True, True, False]
    assert [tuple(image[row, 75]) == BLUE for row in (65, 72, 78, 85)] == [False, True, True, False]
    assert tuple(image[50, 100]) == PAPER


def test_panels_lines_arrows_and_pictures_land_where_they_should() -> None:
    pytest.importorskip("PIL")
    canvas = Canvas(200, 100)
    canvas.view(0.0, 1.0, 0.0, 1.0, (0.5, 0.0, 1.0, 1.0))
    canvas.line([(0.1, 0.5), (0.9, 0.5)], 0.1, BLUE)
    canvas.arrow((0.5, 0.6), (0.0, 0.4), 0.02, RED)
    image = canvas.image()
    assert (image[:, :100] == PAPER).all()
    assert tuple(image[50, 150]) == BLUE
    assert tuple(image[3, 150]) == RED
    canvas.picture(np.array([[RED, BLUE], [BLUE, RED]], np.uint8), 0.0, 1.0, 0.0, 1.0)
    image = canvas.image()
    assert tuple(image[10, 110]) == tuple(image[90, 190]) == RED
    assert tuple(image[10, 190]) == tuple(image[90, 110]) == BLUE


@pytest.mark.parametrize("size", [(0, 10), (10, -1)])
def test_a_picture_has_a_size(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="positive width and height"):
        Canvas(*size)
