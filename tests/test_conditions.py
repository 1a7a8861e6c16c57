"""Worlds that are not what the planner takes them for: dead time, noise, another plant, real time."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from mpcrl.control.controller import Controller
from mpcrl.core.errors import InvalidInput
from mpcrl.experiments.conditions import Conditions, parse_scales
from mpcrl.experiments.configure import planner_for
from mpcrl.experiments.run import run_task
from mpcrl.experiments.worlds import MujocoWorld, noisy_state, world_of
from mpcrl.models.analytic import Analytic
from mpcrl.planners import PLANNERS
from mpcrl.tasks.registry import make_task


@pytest.fixture(scope="module")
def pendulum():
    return make_task("pendulum-swingup")


def run(task: Any, steps: int = 12, **arguments: Any) -> Any:
    conditions = {key: arguments.pop(key) for key in ("mode", "delay", "noise", "plant_scale") if key in arguments}
    planner = planner_for(task, budget=32, horizon=12)
    return run_task(task, planner, steps=steps, threads=1, seed=4, conditions=Conditions(**conditions), **arguments)


def seen_states(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The states that the planner's model is asked about from now on, one per plan."""
    seen: list[np.ndarray] = []
    plain = Analytic.costs

    def noting(self: Any, state: np.ndarray, *arguments: Any) -> np.ndarray:
        if not seen or not np.array_equal(seen[-1], state):
            seen.append(np.array(state))
        return plain(self, state, *arguments)

    monkeypatch.setattr(Analytic, "costs", noting)
    return seen


def test_a_delay_shows_the_states_of_so_many_periods_ago(pendulum, monkeypatch) -> None:
    task = pendulum
    seen = seen_states(monkeypatch)
    planner = PLANNERS["mppi"](budget=32, horizon=12)
    result = run_task(task, planner, steps=8, threads=1, conditions=Conditions(delay=3 * task.dt))
    true = result.records[0].states
    expected = [true[0], *true[1:5]]  # of 8 plans the first four see the start
    np.testing.assert_array_equal(np.array(seen), np.array(expected))


def test_noise_is_on_what_is_seen_only_and_is_seeded(pendulum, monkeypatch) -> None:
    seen = seen_states(monkeypatch)
    one = run(pendulum, noise=0.1, steps=60)
    error = np.array(seen)[1:] - one.records[0].states[:-1]  # the first is of the warm-up
    assert 0.08 < error.std() < 0.12
    assert abs(error.mean()) < 0.04
    np.testing.assert_array_equal(run(pendulum, noise=0.1, steps=60).records[0].controls, one.records[0].controls)
    assert run(pendulum, steps=60).control_hash != one.control_hash
    replay = world_of(pendulum)
    replay.reset(4)
    for control, state in zip(one.records[0].controls, one.records[0].states[1:], strict=True):
        np.testing.assert_array_equal(replay.step(control).state, state)


def test_a_delay_between_two_periods_is_refused(pendulum) -> None:
    with pytest.raises(InvalidInput, match=r"multiple of the control period of 0.05 s; got 0.07 s, between 0.05 and"):
        run(pendulum, delay=0.07)
    assert Conditions(delay=0.3).delay_steps(0.1) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "realtme"}, "did you mean 'realtime'"),
        ({"delay": -1.0}, "delay must be a finite number of at least 0"),
        ({"noise": math.nan}, "noise must be a finite number"),
        ({"plant_scale": {"mass": -1.0}}, "plant scale mass must be"),
    ],
)
def test_bad_conditions(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Conditions(**arguments)


def test_scales_are_written_name_and_factor() -> None:
    assert parse_scales(["mass=1.3", "gravity=.5"]) == {"mass": 1.3, "gravity": 0.5}
    with pytest.raises(InvalidInput, match=r"name=factor, such as mass=1.3; got 'mass'"):
        parse_scales(["mass"])


def test_the_plant_of_an_analytic_task_is_scaled_and_the_model_is_not(pendulum) -> None:
    names = pendulum.params._fields
    scale = {next(name for name in names if "mass" in name or "gravity" in name): 1.5}
    usual, changed = world_of(pendulum), world_of(pendulum, scale)
    np.testing.assert_array_equal(usual.reset(0), changed.reset(0))
    control = pendulum.control_high
    one, other = usual.step(control), changed.step(control)
    assert one.reward == other.reward  # of the same state and control
    assert not np.array_equal(one.state, other.state)
    result = run(pendulum, plant_scale=scale)
    assert result.conditions.plant_scale == scale
    with pytest.raises(InvalidInput, match="no quantity 'masss' to scale; it has "):
        run(pendulum, plant_scale={"masss": 2.0})


def test_scaling_by_one_changes_nothing(pendulum) -> None:
    assert run(pendulum, plant_scale={"gravity": 1}).control_hash == run(pendulum).control_hash


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "dm_control/cheetah-run-v0"])
def test_the_plant_of_a_mujoco_task_is_scaled_and_the_model_is_not(name: str) -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    if "dm_control" in name:
        pytest.importorskip("dm_control")
    task: Any = make_task(name)
    usual, changed = MujocoWorld(task), MujocoWorld(task, {"mass": 1.5, "gravity": 0.5})
    for _ in range(2):  # scaled once, not once more at each reset
        start, other = usual.reset(3), changed.reset(3)
        np.testing.assert_array_equal(start[: usual.mj_model.nq + 1], other[: usual.mj_model.nq + 1])
        np.testing.assert_allclose(changed.mj_model.body_mass, 1.5 * usual.mj_model.body_mass)
        np.testing.assert_allclose(changed.mj_model.body_subtreemass, 1.5 * usual.mj_model.body_subtreemass)
        np.testing.assert_allclose(changed.mj_model.opt.gravity, 0.5 * usual.mj_model.opt.gravity)
        np.testing.assert_array_equal(changed.nominal_model.body_mass, usual.mj_model.body_mass)
    states = [world.step(np.zeros(task.nu)).state for world in (usual, changed)]
    assert np.abs(states[0] - states[1]).max() > 1e-6
    usual.close()
    changed.close()


def test_noise_on_a_mujoco_state_keeps_quaternions_and_the_rest() -> None:
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    data = mujoco.MjData(model)
    data.time = 2.0
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    noisy = noisy_state(model, state, 0.2, np.random.default_rng(0))
    assert noisy[0] == 2.0
    assert np.linalg.norm(noisy[4:8]) == pytest.approx(1.0)
    assert (noisy[1:14] != state[1:14]).all()
    np.testing.assert_array_equal(noisy[14:], state[14:])


class Slow(Analytic):
    """A model that takes a given time longer for each plan of one iteration."""

    seconds = 0.0

    def costs(self, *arguments: Any) -> np.ndarray:
        time.sleep(self.seconds)
        return super().costs(*arguments)


@pytest.mark.parametrize(("periods", "controls_per_plan"), [(0.0, 1), (1.3, 1), (2.4, 1), (0.0, 3)])
def test_real_time_applies_each_plan_when_it_is_ready(pendulum, periods: float, controls_per_plan: int) -> None:
    task = pendulum
    model = Slow(task)
    planner = PLANNERS["mppi"](budget=32, horizon=12)
    conditions = Conditions(mode="realtime")
    plans: list[np.ndarray] = []

    class Noting(Controller):
        def plan(self, *arguments: Any, **named: Any) -> Any:
            plan = super().plan(*arguments, **named)
            plans.append(plan.controls)
            return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpcrl.experiments.run.Controller", Noting)
        model.seconds = periods * task.dt
        result = run_task(
            task,
            planner,
            model=model,
            steps=14,
            threads=1,
            conditions=conditions,
            controls_per_plan=controls_per_plan,
        )
    plans = plans[3:]  # the warm-up's
    record = result.records[0]
    applied = record.controls
    if controls_per_plan > 1:  # a call that does not plan takes no time: a plan in every third period
        assert np.isfinite(record.plan_ms).tolist() == [step % 3 == 0 for step in range(14)]
        return
    begun = np.flatnonzero(np.isfinite(record.plan_ms))
    ready = [k + math.ceil(1e-3 * record.plan_ms[k] / task.dt) for k in begun]
    assert begun[1:].tolist() == ready[:-1]  # the next plan begins when the last one is ready
    assert len(plans) == len(begun)
    assert np.diff(begun).min() >= math.ceil(periods)
    for step in range(14):
        done = [i for i, at in enumerate(ready) if at <= step]
        expected = plans[done[-1]][step - begun[done[-1]]] if done else np.zeros(task.nu)
        np.testing.assert_allclose(applied[step], expected, atol=1e-6)
    assert result.fallbacks == ready[0]  # nothing is planned before the first plan


def test_real_time_with_plans_longer_than_the_horizon_falls_back(pendulum) -> None:
    model = Slow(pendulum)
    model.seconds = 3.2 * pendulum.dt
    result = run_task(
        pendulum,
        PLANNERS["mppi"](budget=16, horizon=4),
        model=model,
        steps=9,
        threads=1,
        conditions=Conditions(mode="realtime"),
    )
    # a plan for steps 0 to 3 is ready at step 4: it is over, and the middle of the bounds is applied
    np.testing.assert_array_equal(result.records[0].controls, np.zeros((9, pendulum.nu)))
    assert result.fallbacks == 9


def test_plan_times_are_of_steps_that_planned(pendulum) -> None:
    result = run(pendulum, controls_per_plan=4)
    times = result.records[0].plan_ms
    assert np.isfinite(times).tolist() == [step % 4 == 0 for step in range(12)]
    assert result.plan_ms["p50"] == pytest.approx(np.median(times[::4]))
    assert result.controls_per_plan == 4
    assert result.fallbacks == 0


@pytest.mark.parametrize("name", ["dm_control/cartpole-swingup_sparse-v0", "HalfCheetah-v5"])
def test_planning_cost_is_the_models_of_what_came_about(name: str) -> None:
    for package in ("gymnasium", "mujoco", *(("dm_control",) if "dm_control" in name else ())):
        pytest.importorskip(package)
    from mpcrl.models.mujoco import MuJoCo

    task: Any = make_task(name)
    assert task.planning_cost is not None
    model, world = MuJoCo(task), MujocoWorld(task)
    state, rng = world.reset(0), np.random.default_rng(0)
    model.use(world.nominal_model)
    for t in range(8):
        control = rng.uniform(task.control_low, task.control_high)
        outcome = world.step(control)
        terms = model.terms(state, control, t, world.params)
        assert outcome.planning_cost == pytest.approx(terms["planning cost"], rel=1e-9, abs=1e-12)
        assert outcome.reward == pytest.approx(-terms["cost"], rel=1e-9, abs=1e-12)
        state = outcome.state
    world.close()


def test_planning_cost_without_one_of_its_own_is_minus_the_reward(pendulum) -> None:
    result = run(pendulum)
    (record,) = result.records
    np.testing.assert_array_equal(record.planning_costs, -record.rewards)
    assert result.planning_costs == (-result.returns[0],)
    assert result.ended == ("steps done",)
