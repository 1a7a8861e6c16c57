"""Every MuJoCo task of the registry costs what its environment rewards, ends where it ends, and is predicted so."""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from mpcrl.control.controller import Controller
from mpcrl.core.candidates import Candidates
from mpcrl.core.threads import ThreadBudget
from mpcrl.experiments import report
from mpcrl.experiments.conditions import Conditions
from mpcrl.experiments.config import run_config
from mpcrl.experiments.configure import planner_for
from mpcrl.experiments.run import run_task
from mpcrl.experiments.store import Store
from mpcrl.experiments.sweep import execute
from mpcrl.experiments.tables import grouped
from mpcrl.experiments.worlds import MujocoWorld
from mpcrl.models import physics
from mpcrl.models.mujoco import MuJoCo
from mpcrl.tasks.dm_control import humanoid, suite
from mpcrl.tasks.features import features_of
from mpcrl.tasks.mujoco_task import MujocoTask, flat, simulation
from mpcrl.tasks.registry import ANALYTIC_TASKS, TASKS

NAMES = [name for name in TASKS if name not in ANALYTIC_TASKS]
ONE, TWO = ThreadBudget(1), ThreadBudget(2)
STATE = mujoco.mjtState.mjSTATE_INTEGRATION

# Compiled in the quick suite; `make acceptance` compiles all. They cover both seeds of derived fields, both ways to
# simulate, models edited in reset, planning costs, and controls that a function applies.
QUICK = (
    *("InvertedPendulum-v5", "HalfCheetah-v5", "Ant-v5", "FetchPickAndPlaceDense-v4"),
    *("dm_control/cartpole-swingup-v0", "dm_control/finger-turn_hard-v0"),
)
each_task = pytest.mark.parametrize("name", NAMES)
quick_tasks = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.acceptance) for name in NAMES]
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its log file into the working directory."""
    monkeypatch.chdir(tmp_path)


@functools.cache
def task_of(name: str) -> MujocoTask:
    if name.startswith("Fetch"):
        pytest.importorskip("gymnasium_robotics")
    task = TASKS[name]()
    assert isinstance(task, MujocoTask)
    return task


@functools.cache
def env_of(name: str) -> Any:
    return task_of(name).make_env()


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    for name in NAMES:
        if not name.startswith("Fetch"):
            env_of(name).close()


@functools.cache
def model_of(name: str) -> MuJoCo:
    """Of the cost proper, which says nothing of the last state."""
    return MuJoCo(task_of(name), cost=task_of(name).cost, terminal=lambda after, p: 0.0)


def recorder(task: MujocoTask, env: Any) -> Callable[[], Any]:
    record = namedtuple("record", task.read_fields)  # type: ignore[misc]
    return lambda: record(*(getattr(simulation(env)[1], name).copy() for name in task.read_fields))


def random_controls(task: MujocoTask, rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(task.control_low, task.control_high, (*shape, task.nu))


# Somewhere else: from random controls alone many a reward would hardly ever move.


def push(model: Any, data: Any, rng: np.random.Generator) -> None:
    data.qpos[:] += rng.normal(0.0, 0.3, model.nq)
    data.qvel[:] = rng.normal(0.0, 3.0, model.nv)


def still(model: Any, data: Any, rng: np.random.Generator) -> None:
    data.qpos[:] = rng.normal(0.0, 0.03, model.nq)
    data.qvel[:] = 0.0


def spin(model: Any, data: Any, rng: np.random.Generator) -> None:
    data.joint("hinge").qvel[:] = rng.uniform(-30.0, -10.0)


def reach(model: Any, data: Any, rng: np.random.Generator) -> None:
    """The joints that bring the finger of two equally long links to the target."""
    (x, y, _), link = model.geom("target").pos, model.body("hand").pos[0]
    wrist = math.acos(min(1.0, (x * x + y * y) / (2 * link * link) - 1.0))
    data.joint("wrist").qpos[:], data.joint("shoulder").qpos[:] = wrist, math.atan2(y, x) - wrist / 2
    data.qvel[:] = 0.0


def arrive(part: str, root: int) -> Callable[..., None]:
    """Shift the first `root` coordinates so that a geom comes near the target."""

    def shift(model: Any, data: Any, rng: np.random.Generator) -> None:
        away = data.geom("target").xpos - data.geom(part).xpos + rng.normal(0.0, 0.03, 3)
        data.qpos[:root] += away[:root]
        data.qvel[:] *= 0.5

    return shift


def bring(model: Any, data: Any, rng: np.random.Generator) -> None:
    for joint, axis in (("ball_x", 0), ("ball_z", 2)):
        data.joint(joint).qpos[:] = model.body("target_ball").pos[axis] + rng.normal(0.0, 0.01)
        data.joint(joint).qvel[:] = 0.0


MOVES = {
    "acrobot": still,
    "cartpole-swingup": still,
    "dm_control/pendulum": still,
    "finger-spin": spin,
    "dm_control/reacher": reach,
    "fish-upright": lambda model, data, rng: None,  # each reset turns it anew, and it explodes when pushed
    "fish-swim": arrive("mouth", 3),
    "swimmer-": arrive("nose", 2),
    "manipulator": bring,
}


def move(name: str, env: Any, rng: np.random.Generator) -> None:
    model, data = simulation(env)
    if name.startswith("Fetch"):
        data.joint("object0:joint").qpos[:3] = env.unwrapped.goal + rng.normal(0.0, 0.02, 3)
        data.joint("object0:joint").qvel[:] = 0.0
    else:
        next((how for part, how in MOVES.items() if part in name), push)(model, data, rng)
    mujoco.mj_forward(model, data)


# The cost is minus the reward.


@each_task
def test_cost_and_termination_are_the_environments(name) -> None:
    task, env = task_of(name), env_of(name)
    recorded = recorder(task, env)
    rewards, ends, planned = [], [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        params = task.params_of(env)
        for t in range(300):
            if t % 50 == 49:
                move(name, env, rng)
            before, u = recorded(), random_controls(task, rng)
            _, reward, terminated, truncated, _ = env.step(u)
            after = recorded()
            assert task.cost(before, u, after, t, params) == pytest.approx(-reward, abs=1e-9)
            assert bool(task.terminated and task.terminated(after, params)) == bool(terminated)
            rewards.append(reward)
            ends.append(terminated)
            if task.planning_cost is not None:
                planned.append(task.planning_cost(before, u, after, t, params))
            if terminated or truncated:
                env.reset(seed=1000 * seed + t)
                params = task.params_of(env)
    assert np.ptp(rewards) > 0.1, "the reward never changed"
    assert any(ends) == (task.terminated is not None)
    if planned:
        assert np.isfinite(planned).all() and len(np.unique(planned)) > 1000, "a planning cost must not be flat"


@each_task
def test_timing_and_bounds_are_the_environments(name) -> None:
    task, env = task_of(name), env_of(name)
    env.reset(seed=0)
    model, data = simulation(env)
    start = data.time
    env.step(np.zeros(task.nu))
    assert task.name == name
    assert data.time - start == pytest.approx(task.dt, rel=1e-9)
    assert task.dt == pytest.approx(task.frame_skip * model.opt.timestep)
    assert np.array_equal(env.action_space.low, task.control_low.astype(env.action_space.dtype))
    assert np.array_equal(env.action_space.high, task.control_high.astype(env.action_space.dtype))
    if task.apply is None:
        assert np.allclose(model.actuator_ctrlrange, np.stack([task.control_low, task.control_high], axis=1))
    limit = env.unwrapped._env._step_limit if name.startswith("dm_control/") else env.spec.max_episode_steps
    assert round(limit) == task.episode_steps


@each_task
def test_presets_are_planners(name) -> None:
    planner = planner_for(task_of(name))
    assert planner.horizon * task_of(name).dt < 2.5
    assert planner.budget <= 500


@each_task
def test_params_are_those_of_the_environment(name) -> None:
    """Read from the model of any episode; only a goal differs from one to the next."""
    task, env = task_of(name), env_of(name)
    goals = set()
    for seed in range(3):
        env.reset(seed=seed)
        params = task.params_of(env)._asdict()
        goals.add(str(params.pop("goal", None)))
        assert all(np.array_equal(value, getattr(task.params, key)) for key, value in params.items())
    assert len(goals) == (3 if name.startswith("Fetch") else 1)


# Whose observations show derived fields one physics step old, or accelerations of the step before.
OLDER = ("Reacher", "Pusher", "Ant", "Humanoid", "InvertedDouble", "Fetch", "finger", "hopper-", "manip", "quadruped")


@each_task
def test_observations_are_the_environments(name) -> None:
    task, env, rng = task_of(name), env_of(name), np.random.default_rng(0)
    shown, _ = env.reset(seed=0)
    found = task.observation(env, task.state(env))
    if not name.startswith("HumanoidStandup"):  # which lies on the floor, and shows no contact at first
        assert np.allclose(found, flat(shown), rtol=0, atol=1e-9)
    for _ in range(5):
        shown, *_ = env.step(random_controls(task, rng))
    found = task.observation(env, task.state(env))
    assert found.shape == flat(shown).shape and np.isfinite(found).all()
    if not any(part in name for part in OLDER):
        assert np.allclose(found, flat(shown), rtol=0, atol=1e-9)


def test_indicators_are_the_suites() -> None:
    from dm_control.utils.rewards import tolerance

    x = np.linspace(-3.0, 3.0, 601)
    ours: list[tuple[str, Callable[..., float]]] = [
        ("gaussian", suite.gaussian),
        ("linear", suite.linear),
        ("quadratic", suite.quadratic),
        ("long_tail", suite.long_tail),
    ]
    for sigmoid, function in ours:
        for low, high, margin, value in ((0.0, 0.0, 1.0, 0.1), (-1.0, 0.5, 0.7, 0.5), (0.3, math.inf, 2.0, 0.05)):
            theirs = tolerance(x, (low, high), margin, sigmoid, value)
            found = [function(suite.outside(each, low, high), margin, value) for each in x]
            assert np.allclose(found, theirs, rtol=0, atol=1e-15)
            assert np.allclose([suite.inside(each, low, high) for each in x], tolerance(x, (low, high)))
    assert [suite.below(each, 0.5) for each in (0.2, 0.5, 1.0)] == [0.3, 0.0, 0.0]


# Predictions.


@each_task
def test_dynamics_do_not_depend_on_what_is_unseen(name):
    """Where a runner has come to changes no number that a learned model sees."""
    task = task_of(name)
    features, model, data = features_of(task), task.mj_model(env_of(name)), task.mj_data(env_of(name))
    assert bool(features.unseen) == bool(task.unseen)
    if not task.unseen:
        return
    field = next(field for field in features.fields if field.name == "qpos")
    away = [i - field.start for i in features.unseen if field.start <= i < field.stop]
    controls = random_controls(task, np.random.default_rng(0), 5)
    paths = []
    for distance in (0.0, 7.0):
        env_of(name).reset(seed=1)
        data.qpos[away] += distance
        data.qacc_warmstart[:] = 0
        mujoco.mj_forward(model, data)
        path = [features.read(data)]
        for u in controls:
            data.ctrl[:] = u
            mujoco.mj_step(model, data, 2)
            mujoco.mj_rnePostConstraint(model, data)
            path.append(features.read(data))
        paths.append(np.array(path))
    moved = (np.abs(paths[0] - paths[1]) > 1e-6).any(axis=0)
    assert set(np.flatnonzero(moved)) <= set(features.unseen)
    assert moved[field.start :][away].all()


def test_humanoids_plans_never_gain_by_falling_sooner() -> None:
    """A step that stands is paid for however it leans; one that falls is not, and after it nothing is."""
    name, rng = "Humanoid-v5", np.random.default_rng(0)
    task, env = task_of(name), env_of(name)
    assert task.planning_cost is not None
    recorded = recorder(task, env)
    for seed in range(5):
        env.reset(seed=seed)
        terminated, planned = False, []
        while not terminated:
            before, u = recorded(), random_controls(task, rng)
            terminated = env.step(u)[2]
            planned.append(task.planning_cost(before, u, recorded(), 0, task.params_of(env)))
        assert max(planned[:-1]) < 0.0 < planned[-1]


def test_humanoids_that_walk_plan_to_stand_first_and_then_to_walk() -> None:
    walk = humanoid.HumanoidParams(torso=0, head=1, left_foot=2, right_foot=3, velocity=0, speed=1.0)

    def planned(p: humanoid.HumanoidParams, height: float, speed: float) -> float:
        """Upright with the mass over the feet, at this height of the head and this speed."""
        xpos = np.zeros((4, 3))
        xpos[1, 2] = height
        fields = {"xpos": xpos, "xmat": np.eye(3).reshape(1, 9).repeat(4, 0), "subtree_com": np.zeros((4, 3))}
        after = SimpleNamespace(**fields, sensordata=np.array([speed, 0.0, 0.0]))
        return humanoid.planning_cost(after, np.zeros(21), after, 0, p)

    assert [planned(walk, 1.6, speed) for speed in (0.0, 0.5, 1.0)] == pytest.approx([-1.0, -1.5, -2.0])
    assert planned(walk, 1.6, 2.0) > planned(walk, 1.6, 1.0)  # faster than asked for has to be caught
    stand = walk._replace(speed=0.0)
    for speed in (0.0, 0.5):
        assert planned(walk, 0.3, speed) == pytest.approx(planned(stand, 0.3, speed), abs=1e-8)
    assert planned(walk, 0.3, 0.5) > planned(walk, 0.3, 0.0) > planned(walk, 1.0, 0.0) > planned(walk, 1.6, 0.0)


@quick_tasks
def test_prediction_is_the_environment(name) -> None:
    """The same state and controls: costs to rounding, states bit for bit."""
    task, model, env, rng = task_of(name), model_of(name), env_of(name), np.random.default_rng(3)
    env.reset(seed=3)
    params = task.params_of(env)
    model.use(task.mj_model(env))
    env.step(random_controls(task, rng))
    mj_model, data = simulation(env)
    start, controls = task.state(env), random_controls(task, rng, 4, 12)
    expected, states = [], []
    for sequence in controls:
        mujoco.mj_setState(mj_model, data, start, STATE)
        mujoco.mj_forward(mj_model, data)
        mujoco.mj_setState(mj_model, data, start, STATE)
        total, row, running = 0.0, [start], True
        for u in sequence:
            _, reward, terminated, *_ = env.unwrapped.step(u)
            total -= reward * running
            running = running and not terminated
            row.append(task.state(env))
        expected.append(total)
        states.append(row)
    costs = model.costs(start, Candidates.from_rows(controls), 0, params, TWO)
    assert np.allclose(costs, expected, rtol=0, atol=1e-9)
    assert np.array_equal(model.rollout(start, controls, 0, params), states)
    assert np.array_equal(model.costs(start, Candidates.from_rows(controls), 0, params, ONE), costs)
    alone = [model.costs(start, Candidates.from_rows(u[None]), 0, params, TWO)[0] for u in controls]
    assert np.array_equal(alone, costs)


@pytest.mark.acceptance
@each_task
def test_cost_is_the_reward_where_a_planner_goes(name) -> None:
    """Which is where costs are low, and never where random controls lead."""
    task = task_of(name)
    model, planner = MuJoCo(task), planner_for(task, "icem", budget=24, horizon=8, options={"iterations": 2})
    world = MujocoWorld(task)
    try:
        for seed in range(2):
            controller, state = Controller(task, planner, model=model, seed=seed, threads=1), world.reset(seed)
            model.use(world.mj_model)
            recorded = recorder(task, world._env)
            for t in range(40):
                before, plan = recorded(), controller.plan(state, params=world.params)
                state, reward, _, ended = world.step(plan.control)
                after = recorded()
                assert task.cost(before, plan.control, after, t, world.params) == pytest.approx(-reward, abs=1e-9)
                over = bool(task.terminated and task.terminated(after, world.params))
                assert over == (ended == "terminated")
                assert plan.failed < plan.samples
                if ended:
                    break
    finally:
        world.close()


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "InvertedDoublePendulum-v5"])
def test_a_short_plan_balances(name) -> None:
    """Since the regulator's value at its end says what a fall later on would cost."""
    task = task_of(name)
    assert task.preset["horizon"] * task.dt < 0.4
    result = run_task(task, seed=5, steps=60, threads=1)
    assert result.ended == ("steps done",)
    angles = result.records[0].states[-1, 2 : 1 + task.params.weights.size // 2]
    assert np.abs(angles).max() < 0.05, "the poles lean"


# A world that diverges.


@pytest.mark.parametrize("name", ["dm_control/fish-upright-v0", "dm_control/cartpole-swingup-v0", "HalfCheetah-v5"])
def test_a_diverged_world_ends(name) -> None:
    """Whether its environment raises or goes on from MuJoCo's initial pose; the next episode is a good one."""
    world = MujocoWorld(task_of(name))
    try:
        start = world.reset(0)
        simulation(world._env)[1].qvel[:] = 1e12
        state, reward, _, ended = world.step(np.zeros(world.task.nu))
        assert (reward, ended) == (0.0, "diverged") and state.shape == start.shape and np.isnan(state).all()
        assert np.array_equal(world.reset(0), start)
        state, _, _, ended = world.step(np.zeros(world.task.nu))
        assert not ended and np.isfinite(state).all()
    finally:
        world.close()


def test_an_error_that_is_no_divergence_is_raised(monkeypatch) -> None:
    world = MujocoWorld(task_of("dm_control/cartpole-swingup-v0"))
    try:
        world.reset(0)
        with pytest.raises(RuntimeError, match="of another kind"), monkeypatch.context() as patched:
            patched.setattr(world._env.unwrapped, "step", lambda action: exec("raise RuntimeError('of another kind')"))
            world.step(np.zeros(1))
    finally:
        world.close()


def test_a_sweep_counts_a_diverged_run(tmp_path) -> None:
    """Its plant is a million million times as strong as the planner thinks."""
    name = "dm_control/cartpole-swingup-v0"
    conditions = Conditions(plant_scale={"gear": 1e12})
    config = run_config(task_of(name), "icem", budget=12, horizon=4, steps=9, conditions=conditions)
    record = execute(config, 0, 1)
    assert record.get("error") is None, record["traceback"]
    assert record["ended"] == "diverged" and record["steps"] < 9 and math.isfinite(record["return"])
    store = Store(tmp_path, record["versions"])
    store.save(record)
    caveats = report._caveats(tmp_path, grouped(store.records()[0]), [], [])
    assert any(f"In 1 run the world diverged ({name}: icem); the return stops there" in line for line in caveats)


def test_terms() -> None:
    """The cost proper, and the planning cost beside it where there is one."""
    name = "dm_control/finger-turn_hard-v0"
    task, env, u = task_of(name), env_of(name), np.full(2, 0.3)
    model = MuJoCo(task)
    env.reset(seed=5)
    model.use(task.mj_model(env))
    state = task.state(env)
    terms = model.terms(state, u, 0, task.params)
    planned = model.costs(state, Candidates.from_rows(u[None, None]), 0, task.params, ONE)
    assert terms == {"cost": -env.step(u)[1], "planning cost": pytest.approx(planned[0], abs=1e-12)}
    assert terms["cost"] != terms["planning cost"]
    assert model_of(name).terms(state, u, 0, task.params) == {"cost": terms["cost"]}
    assert model.terms(np.full_like(state, np.nan), u, 0, task.params) == {"cost": np.inf, "planning cost": np.inf}


def test_edits_of_the_environments_model_reach_the_plan() -> None:
    """An episode of point_mass-hard has force directions of its own, and its environment puts them into the model."""
    name = "dm_control/point_mass-hard-v0"
    task = task_of(name)
    model, world = MuJoCo(task, cost=task.cost), MujocoWorld(task)
    controls = random_controls(task, np.random.default_rng(0), 1, 30)
    found = []
    for seed in (1, 2):
        state = world.reset(seed)
        assert world.edited
        model.use(world.mj_model)
        rows = model.rollout(state, controls, 0, world.params)[0]
        for u, predicted in zip(controls[0], rows[1:], strict=True):
            assert np.array_equal(world.step(u).state, predicted)
        found.append(rows[-1] - rows[0])
    world.close()
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_goal_reaches_the_plan() -> None:
    """Fetch keeps it in the environment, beside the model; each episode has another."""
    name = "FetchPickAndPlaceDense-v4"
    task, model, env = task_of(name), model_of(name), env_of(name)
    costs = []
    for seed in (1, 2):
        env.reset(seed=seed)
        params, start = task.params_of(env), task.state(env)
        u = np.array([0.5, -0.5, 0.5, 1.0])
        costs.append(model.costs(start, Candidates.from_rows(u[None, None]), 0, params, ONE)[0])
        assert costs[-1] == pytest.approx(-env.step(u)[1], abs=1e-9)
    assert abs(costs[0] - costs[1]) > 1e-3


def test_an_applied_control_needs_the_stepping_physics() -> None:
    model = model_of("FetchPickAndPlaceDense-v4")
    assert isinstance(model._physics, physics.SteppedPhysics)
    assert model.nu == 4 and model._recording.models[0].nu == 2
    low, high = model.control_bounds
    assert low.tolist() == [-1.0] * 4 and high.tolist() == [1.0] * 4
