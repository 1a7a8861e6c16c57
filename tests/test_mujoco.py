"""The MuJoCo model predicts what mj_step does."""

from __future__ import annotations

import functools
import statistics
import sys
import time
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
import pytest
from mujoco import batch

from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import InvalidInput, LaneError, MissingDependency
from mpcrl.core.threads import ThreadBudget
from mpcrl.models import mujoco as model_module
from mpcrl.models import physics, scalar
from mpcrl.models.mujoco import MuJoCo
from mpcrl.models.risk import CVaR, Worst
from mpcrl.tasks.gym_mujoco import half_cheetah
from mpcrl.tasks.mujoco_task import MujocoTask, mujoco_task
from mpcrl.tasks.registry import make_task

ONE, TWO = ThreadBudget(1), ThreadBudget(2)
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its log file into the working directory."""
    monkeypatch.chdir(tmp_path)


@functools.cache
def task_of(make: Callable[[], MujocoTask]) -> MujocoTask:
    return make()


@functools.cache
def model_of(make: Callable[[], MujocoTask]) -> MuJoCo:
    return MuJoCo(task_of(make))


@pytest.fixture
def env_of() -> Iterator[Callable[[MujocoTask], Any]]:
    envs = []

    def made(task: MujocoTask) -> Any:
        envs.append(task.make_env())
        return envs[-1]

    yield made
    for env in envs:
        env.close()


def random_controls(task: MujocoTask, rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(task.control_low, task.control_high, (*shape, task.nu))


def test_params_change_without_compiling_again() -> None:
    task, model = task_of(half_cheetah), model_of(half_cheetah)
    candidates = Candidates.from_rows(np.full((1, 3, 6), 0.5))
    zero = task.params._replace(forward_reward_weight=0, ctrl_cost_weight=2)
    assert model.costs(model.example_state(), candidates, 0, zero, TWO) == pytest.approx(2 * 3 * 6 * 0.25)
    assert len(model._module.evaluate.signatures) <= 1


# The model against a loop over mj_step, on a rig with what is easily lost: a moved mocap body that pulls, an
# activation, contacts, and sensors of every stage.

RIG = """
<mujoco>
  <option timestep="0.005" integrator="{integrator}"/>
  <worldbody>
    <geom type="plane" size="5 5 .1"/>
    <body name="hand" mocap="true" pos="1 0 1"/>
    <body name="ball" pos="0 0 .3"><freejoint/><geom size=".1" mass="1"/></body>
    <body name="arm" pos="0 1 1">
      <joint name="hinge" axis="0 1 0" damping=".1"/>
      <geom type="capsule" fromto="0 0 0 .4 0 0" size=".04" mass="{mass}"/>
      <site name="tip" pos=".4 0 0"/>
    </body>
  </worldbody>
  <equality><connect body1="ball" body2="hand" anchor="0 0 0" solref=".2 1"/></equality>
  <actuator>
    <motor name="direct" joint="hinge" ctrlrange="-1 1"/>
    <general name="slow" joint="hinge" dyntype="filter" dynprm=".1" gainprm="2" ctrlrange="-1 2"/>
  </actuator>
  <sensor>
    <framepos objtype="site" objname="tip"/>
    <framelinvel objtype="site" objname="tip"/>
    <accelerometer site="tip"/>
    <subtreelinvel body="ball"/>
  </sensor>
</mujoco>
"""
FIELDS = ("qpos", "qvel", "act", "sensordata")
DERIVED = ("qpos", "act", "mocap_pos", "sensordata", "xpos", "subtree_linvel", "cvel", "qacc", "actuator_force")


class RigParams(NamedTuple):
    """Weights of the rig's cost, where it ends, and a schedule."""

    force: float = 0.1
    last: float = 0.0
    floor: float = -1e9
    weights: np.ndarray = np.ones(100)


class IndexParams(NamedTuple):
    """A parameter that indexes."""

    place: int
    weight: float = 1


def rig_cost(before: Any, u: Any, after: Any, t: int, p: RigParams) -> float:
    """Uses all that it is given."""
    moved = after.qpos[2] - before.qpos[2]
    tip = after.sensordata[2] + 0.1 * after.sensordata[5] + 0.01 * after.sensordata[8]
    return p.weights[t] * (moved + tip + after.act[0] ** 2 + p.force * (u[0] ** 2 + u[1] ** 2))


def rig_terminal(after: Any, p: RigParams) -> float:
    """Height of the ball."""
    return p.last * after.qpos[2]


def rig_terminated(after: Any, p: RigParams) -> bool:
    """Whether the ball is too low."""
    return after.qpos[2] < p.floor


@functools.cache
def rig(integrator: str = "Euler", mass: float = 1.0) -> Any:
    return mujoco.MjModel.from_xml_string(RIG.format(integrator=integrator, mass=mass))


def rig_model(**options: Any) -> MuJoCo:
    functions = {"cost": rig_cost, "terminal": rig_terminal, "terminated": rig_terminated}
    return MuJoCo(options.pop("source", rig()), **(functions | {"params": RigParams(), "fields": FIELDS} | options))


def rig_start(model: Any = None, steps: int = 30) -> np.ndarray:
    """A state in mid-flight: every part of it matters."""
    model = model or rig()
    data = mujoco.MjData(model)
    data.mocap_pos[0] = [0.5, -0.5, 0.6]
    data.ctrl[:] = [0.5, 1.5]
    data.xfrc_applied[2, 0] = 0.3
    mujoco.mj_step(model, data, steps)
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)
    return state


def rig_controls(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform([-1, -1], [1, 2], (*shape, 2))


def looped(model: Any, state: np.ndarray, controls: np.ndarray, skip: int, fields: tuple[str, ...], current: bool):
    """The slow, obvious twin: records [H+1] per field of one control sequence, the start first."""
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, state, STATE)
    mujoco.mj_forward(model, data)
    records = [[getattr(data, name).copy() for name in fields]]
    mujoco.mj_setState(model, data, state, STATE)
    for u in controls:
        data.ctrl[:] = u
        for _ in range(skip):
            mujoco.mj_step(model, data)
        if current:
            mujoco.mj_step1(model, data)
        records.append([getattr(data, name).copy() for name in fields])
    return records


def looped_cost(
    model: Any, state: np.ndarray, controls: np.ndarray, *, skip: int = 1, params: RigParams, t: int = 0
) -> float:
    record = namedtuple("record", FIELDS)  # type: ignore[misc]
    records = [record(*values) for values in looped(model, state, controls, skip, FIELDS, True)]
    total = 0.0
    for h, u in enumerate(controls):
        total += rig_cost(records[h], u, records[h + 1], t + h, params)
        if rig_terminated(records[h + 1], params):
            return total
    return total + rig_terminal(records[-1], params)


@pytest.mark.parametrize("integrator", ["Euler", "implicitfast", "RK4"])
@pytest.mark.parametrize("current", [True, False])
@pytest.mark.parametrize("skip", [1, 3])
def test_records_are_those_of_a_loop(integrator: str, current: bool, skip: int) -> None:
    """Every way to simulate, bit for bit, against the model with nothing switched off."""
    model = rig(integrator)
    start, controls = rig_start(model), rig_controls(5, 12)
    ways = [
        (DERIVED, physics.physics_for),
        (FIELDS, physics.BatchPhysics),
        (FIELDS, physics.RolloutPhysics),
        (DERIVED, physics.SteppedPhysics),
    ]
    for fields, way in ways:
        twin = [looped(model, start, sequence, skip, fields, current) for sequence in controls]
        recording = physics.Recording.of([model], skip, fields, current)
        for threads in (1, 2):
            run = way(recording).simulate(start, controls, threads)
            assert run.healthy.tolist() == [12] * 5
            for i, name in enumerate(fields):
                at = run.first[i] + run.stride * np.arange(12)
                assert np.array_equal(run.before[i][0], twin[0][0][i]), name
                for sample in range(5):
                    expected = [record[i] for record in twin[sample][1:]]
                    assert np.array_equal(run.after[i][sample, at], expected), (way, name, threads)


@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
@pytest.mark.parametrize("current", [True, False])
def test_body_forces_are_those_of_a_loop(integrator: str, current: bool) -> None:
    """mj_step leaves them out, and what brings the derived fields beside them up to date loses their contacts."""
    model = rig(integrator)
    start, controls = rig_start(model), rig_controls(3, 40)
    recording = physics.Recording.of([model], 2, ("cfrc_ext", "xpos"), current)
    run = physics.physics_for(recording).simulate(start, controls, 2)
    for sample, sequence in enumerate(controls):
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, start, STATE)
        for h, u in enumerate(sequence):
            data.ctrl[:] = u
            mujoco.mj_step(model, data, 2)
            mujoco.mj_rnePostConstraint(model, data)
            assert np.array_equal(run.after[0][sample, h], data.cfrc_ext)
            if current:
                mujoco.mj_kinematics(model, data)
            assert np.array_equal(run.after[1][sample, h], data.xpos)
        assert np.abs(data.cfrc_ext[2]).max() > 1.0, "the ball never touched the floor"


def test_integers_index_and_numbers_do_not_become_integers() -> None:
    def cost(before: Any, u: Any, after: Any, t: int, p: IndexParams) -> float:
        return p.weight * after.qpos[p.place]

    start, candidates = rig_start(), Candidates.from_rows(rig_controls(2, 1))
    model = MuJoCo(rig(), cost=cost, params=IndexParams(place=2))
    heights = model.rollout(start, candidates.rows(), 0, None)[:, 1, 3]
    for weight in (1, 0.5):
        costs = model.costs(start, candidates, 0, IndexParams(2, weight), ONE)
        assert np.allclose(costs, weight * heights, rtol=1e-15)


def test_without_batch_the_older_ways_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    start, candidates = rig_start(), Candidates.from_rows(rig_controls(9, 8))
    expected = rig_model().costs(start, candidates, 0, RigParams(), TWO)
    monkeypatch.setattr(physics, "batch", None)
    model = rig_model()
    assert isinstance(model._physics, physics.RolloutPhysics)
    assert np.array_equal(model.costs(start, candidates, 0, RigParams(), TWO), expected)
    model._physics = physics.SteppedPhysics(model._recording)
    assert np.array_equal(model.costs(start, candidates, 0, RigParams(), TWO), expected)
    by_any_field = physics.physics_for(physics.Recording.of([rig()], 1, DERIVED, True))
    assert isinstance(by_any_field, physics.SteppedPhysics)


@pytest.mark.parametrize("skip", [1, 4])
def test_costs_are_those_of_a_loop(skip: int) -> None:
    """Frame skip, activation, mocap, applied forces, the step's number, arrays in params, terminal cost."""
    start, controls = rig_start(), rig_controls(6, 9)
    params = RigParams(last=2.0, weights=np.linspace(0.5, 2.0, 100))
    costs = rig_model(frame_skip=skip).costs(start, Candidates.from_rows(controls), 7, params, TWO)
    expected = [looped_cost(rig(), start, u, skip=skip, params=params, t=7) for u in controls]
    assert np.allclose(costs, expected, rtol=1e-12)


def test_float32_candidates_are_taken() -> None:
    controls = rig_controls(3, 4).astype(np.float32)
    model, start = rig_model(), rig_start()
    single, double = (
        model.costs(start, Candidates.from_rows(controls, dtype), 0, RigParams(), ONE)
        for dtype in (np.float32, np.float64)
    )
    assert np.array_equal(single, double)


def test_every_part_of_the_state_matters() -> None:
    """Otherwise the tests above would not notice that one is lost."""
    start, candidates, model = rig_start(), Candidates.from_rows(rig_controls(1, 10)), rig_model()
    data = mujoco.MjData(rig())

    def cost(**changes: float) -> float:
        mujoco.mj_setState(rig(), data, start, STATE)
        for name, change in changes.items():
            getattr(data, name)[...] += change
        state = np.empty_like(start)
        mujoco.mj_getState(rig(), data, state, STATE)
        return model.costs(state, candidates, 0, RigParams(), ONE)[0]

    for name in ("qpos", "qvel", "act", "mocap_pos", "xfrc_applied"):
        assert abs(cost(**{name: 0.1}) - cost()) > 1e-6, name
    assert cost(qacc_warmstart=1.0) == pytest.approx(cost(), abs=1e-6)


def test_more_samples_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    start, candidates, model = rig_start(), Candidates.from_rows(rig_controls(23, 5)), rig_model()
    costs = model.costs(start, candidates, 0, RigParams(), TWO)
    monkeypatch.setattr(model_module, "_RECORD_BYTES", 10_000)
    assert np.array_equal(model.costs(start, candidates, 0, RigParams(), TWO), costs)


# Failures cost +inf.


def with_nan(controls: np.ndarray, *where: tuple[int, int]) -> np.ndarray:
    for sample, step in where:
        controls[sample, step, sample % 2] = np.nan
    return controls


@pytest.mark.parametrize("way", [physics.BatchPhysics, physics.RolloutPhysics, physics.SteppedPhysics])
@pytest.mark.parametrize("skip", [1, 3])
def test_nan_controls_fail_alone(way: Callable[..., physics.Physics], skip: int) -> None:
    model, start = rig_model(frame_skip=skip), rig_start()
    model._physics = way(model._recording)
    clean = model.costs(start, Candidates.from_rows(rig_controls(6, 7)), 0, RigParams(), TWO)
    broken = Candidates.from_rows(with_nan(rig_controls(6, 7), (1, 0), (2, 3), (4, 6)))
    for _ in range(3):  # warnings of one call must not hide those of the next
        costs = model.costs(start, broken, 0, RigParams(), TWO)
        assert np.isposinf(costs).tolist() == [False, True, True, False, True, False]
        assert np.array_equal(costs[[0, 3, 5]], clean[[0, 3, 5]])


@pytest.mark.parametrize("way", [physics.BatchPhysics, physics.RolloutPhysics, physics.SteppedPhysics])
@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("steps", [0, 30])
def test_bad_states_fail(way: Callable[..., physics.Physics], horizon: int, steps: int) -> None:
    """Also in the very first step after a reset, when the time after MuJoCo's own reset looks right."""
    start, model = rig_start(steps=steps), rig_model()
    model._physics = way(model._recording)
    candidates = Candidates.from_rows(rig_controls(2, horizon))
    assert np.isfinite(model.costs(start, candidates, 0, RigParams(), ONE)).all()
    data = mujoco.MjData(rig())
    for field, value in (("qvel", 1e11), ("qvel", np.nan), ("qpos", 1e11), ("qpos", np.nan), ("act", np.inf)):
        mujoco.mj_setState(rig(), data, start, STATE)
        getattr(data, field)[-1] = value
        bad = np.empty_like(start)
        mujoco.mj_getState(rig(), data, bad, STATE)
        for _ in range(2):
            costs = model.costs(bad, candidates, 0, RigParams(), ONE)
            assert np.isposinf(costs).all(), (field, value, costs)
            states = model.rollout(bad, candidates.rows(), 0, RigParams())
            assert np.isnan(states[:, -1]).all()


@pytest.mark.parametrize("way", [physics.BatchPhysics, physics.RolloutPhysics, physics.SteppedPhysics])
def test_an_explosion_fails(way: Callable[..., physics.Physics]) -> None:
    """At 1e8 m/s MuJoCo resets the cheetah, and all that it reports is finite."""
    task, model = task_of(half_cheetah), MuJoCo(task_of(half_cheetah))
    model._physics = way(model._recording)
    state = model.example_state()
    state[1 + 9] = 1e8  # qvel after time and qpos
    candidates = Candidates.from_rows(np.zeros((3, 2, 6)))
    assert np.isposinf(model.costs(state, candidates, 0, task.params, TWO)).all()


def test_a_predicted_state_after_a_failure_is_nan() -> None:
    start, model = rig_start(), rig_model()
    controls = with_nan(rig_controls(2, 6), (1, 3))
    states = model.rollout(start, controls, 0, RigParams())
    assert np.isfinite(states[0]).all()
    assert np.isfinite(states[1, :4]).all() and np.isnan(states[1, 4:]).all()
    assert np.array_equal(states[1, :4], model.rollout(start, controls[1:, :3], 0, RigParams())[0])


def test_failures_are_silent(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And what listened to MuJoCo's warnings before listens again."""
    heard: list[str] = []
    mujoco.set_mju_user_warning(heard.append)
    try:
        model, start = rig_model(), rig_start()
        broken = with_nan(rig_controls(2, 3), (0, 1), (1, 1))
        model.costs(start, Candidates.from_rows(broken), 0, RigParams(), TWO)
        model.rollout(start, broken, 0, RigParams())
        assert heard == []
        data = mujoco.MjData(rig())
        data.qpos[0] = np.nan
        mujoco.mj_step(rig(), data)
        assert len(heard) == 1
    finally:
        mujoco.set_mju_user_warning(None)
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_nothing_is_paid_after_the_end() -> None:
    """Neither stage costs nor the terminal cost, nor does a failure after it count."""
    start, model = rig_start(), rig_model()
    controls = rig_controls(3, 20)
    controls[1:, 15] = np.nan
    heights = model.rollout(start, controls[:1, :15], 0, RigParams())[0][:, 3]  # time, then qpos
    assert (np.diff(heights) < 0).all()
    params = RigParams(floor=(heights[5] + heights[6]) / 2, last=100.0)
    costs = model.costs(start, Candidates.from_rows(controls), 0, params, TWO)
    assert costs[0] == pytest.approx(looped_cost(rig(), start, controls[0], params=params))
    stopped = params._replace(floor=-1e9, last=0.0)
    first_six = model.costs(start, Candidates.from_rows(controls[:, :6]), 0, stopped, TWO)
    assert np.array_equal(costs, first_six)
    assert np.isposinf(model.costs(start, Candidates.from_rows(controls), 0, stopped, TWO)[1:]).all()


def test_a_cost_that_is_not_finite_fails() -> None:
    start, candidates, model = rig_start(), Candidates.from_rows(rig_controls(3, 4)), rig_model()
    for weight in (np.nan, np.inf, -np.inf):
        assert np.isposinf(model.costs(start, candidates, 0, RigParams(force=weight), TWO)).all()


def test_an_error_of_the_engine_fails_its_samples() -> None:
    """Too little memory for a contact: there MuJoCo raises, at once or when the ball arrives."""
    spec = mujoco.MjSpec.from_string(RIG.format(integrator="Euler", mass=1.0))
    spec.memory = 5000
    model = rig_model(source=spec.compile())
    start, candidates = model.example_state(), Candidates.from_rows(rig_controls(3, 4))
    for height, bad in ((0.3, False), (0.103, True), (0.05, True)):
        start[3] = height  # of the ball, after time and two more of qpos
        start[1 + 8 + 2] = -0.5  # its speed
        for way in (physics.BatchPhysics, physics.SteppedPhysics):
            model._physics = way(model._recording)
            costs = model.costs(start, candidates, 0, RigParams(), TWO)
            assert np.isposinf(costs).tolist() == [bad] * 3
        assert np.isnan(model.rollout(start, candidates.rows(), 0, RigParams())[:, -1]).all() == bad
    assert model.terms(start, np.zeros(2), 0, RigParams()) == {"cost": np.inf}


# Scenarios.


def test_scenarios_are_folded_by_the_risk() -> None:
    masses = (0.5, 1.0, 3.0)
    models = [rig("Euler", mass) for mass in masses]
    start, candidates = rig_start(), Candidates.from_rows(rig_controls(8, 10))
    each = np.array([rig_model(source=model).costs(start, candidates, 0, RigParams(), ONE) for model in models])
    assert np.ptp(each, axis=0).min() > 1e-6
    mean = rig_model(scenarios=models).costs(start, candidates, 0, RigParams(), TWO)
    assert np.array_equal(mean, each.mean(axis=0))
    for risk in (Worst(), CVaR(0.5)):
        folded = rig_model(scenarios=models, risk=risk)
        assert np.array_equal(folded.costs(start, candidates, 0, RigParams(), TWO), risk(each))
        fewer = Candidates.from_rows(candidates.rows()[:3])  # part of the rows that there is room for
        assert np.array_equal(folded.costs(start, fewer, 0, RigParams(), TWO), risk(each[:, :3]))
        folded._physics = physics.RolloutPhysics(folded._recording)
        assert np.array_equal(folded.costs(start, candidates, 0, RigParams(), TWO), risk(each))
        folded._physics = physics.SteppedPhysics(folded._recording)
        assert np.array_equal(folded.costs(start, candidates, 0, RigParams(), TWO), risk(each))


def test_scenarios_must_be_alike() -> None:
    with pytest.raises(InvalidInput, match="same numbers of joints"):
        rig_model(scenarios=[rig(), mujoco.MjModel.from_xml_string("<mujoco/>")])
    for scenarios in ([], ["rig.xml"]):
        with pytest.raises(InvalidInput, match="one or more MjModel"):
            rig_model(scenarios=scenarios)


# Boundaries.


def test_a_model_from_a_file(tmp_path: Path) -> None:
    xml, mjb = tmp_path / "rig.xml", tmp_path / "rig.mjb"
    xml.write_text(RIG.format(integrator="Euler", mass=1.0))
    mujoco.mj_saveModel(rig(), str(mjb))
    start, candidates = rig_start(), Candidates.from_rows(rig_controls(2, 3))
    expected = rig_model().costs(start, candidates, 0, RigParams(), ONE)
    for path in (xml, str(xml), mjb):
        model = rig_model(source=path)
        assert np.array_equal(model.costs(start, candidates, 0, RigParams(), ONE), expected)
    assert model.nu == 2 and model.dt == 0.005 and model.dtype == np.float64
    low, high = model.control_bounds
    assert low.tolist() == [-1, -1] and high.tolist() == [1, 2]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot load a MuJoCo model from '.*nowhere\.xml'"):
        rig_model(source=tmp_path / "nowhere.xml")
    (tmp_path / "broken.xml").write_text("<mujoco><worldbody></mujoco>")
    with pytest.raises(InvalidInput, match=r"broken\.xml"):
        rig_model(source=tmp_path / "broken.xml")


def test_unbounded_actuators_are_named() -> None:
    xml = RIG.format(integrator="Euler", mass=1.0).replace('ctrlrange="-1 2"', "")
    with pytest.raises(InvalidInput, match=r"actuators \['slow'\] have no control range"):
        _ = rig_model(source=mujoco.MjModel.from_xml_string(xml)).control_bounds


def cost_with_numpy(before: Any, u: Any, after: Any, t: int, p: Any) -> float:
    """Wrong inside of NumPy."""
    return float(np.linalg.det(after.qpos))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ("qpos", "qvell", "act", "sensordata")}, "did you mean qvel"),
        ({"fields": ("qpos", "ncon")}, "arrays of numbers"),
        ({"fields": ("qpos", "plugin_state")}, "arrays of numbers"),
        ({"fields": ("qpos", "qfrc_inverse")}, "mj_step does not compute 'qfrc_inverse'"),
        ({"params": IndexParams(0.5)}, "params.place is annotated int, got 0.5"),  # type: ignore[arg-type]
        ({"frame_skip": 0}, "frame_skip must be an integer of at least 1"),
        ({"params": {"force": 1.0}}, "params must be a NamedTuple"),
        ({"fields": ("qvel",)}, r"test_mujoco\.py:\d+: cost raised AttributeError.*recorded fields are qvel"),
        ({"params": RigParams(weights=np.zeros(0))}, "params.weights must be .* not empty"),
        ({"cost": lambda before, u, after, t, p: after.qpos[99]}, r"test_mujoco\.py:\d+.* raised IndexError"),
        ({"cost": lambda before, u, after, t, p: None}, r"test_mujoco\.py:\d+.*: cost must return a number, got None"),
        ({"cost": lambda before, u: 0.0}, r"test_mujoco\.py:\d+ \(<lambda>\): cost raised TypeError: .* 2 positional"),
        ({"cost": cost_with_numpy}, rf"test_mujoco\.py:{cost_with_numpy.__code__.co_firstlineno + 2}: cost raised"),
        ({"fields": "qpos"}, r"sequence of names, got the string 'qpos'; write \('qpos',\)"),
        ({"cost": print}, "a plain Python function is needed"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        rig_model(**options)


def test_a_model_needs_a_cost() -> None:
    with pytest.raises(InvalidInput, match="give cost="):
        MuJoCo(rig())


def test_bad_calls() -> None:
    model, start, candidates = rig_model(), rig_start(), Candidates.from_rows(rig_controls(2, 3))
    with pytest.raises(InvalidInput, match=r"mjSTATE_INTEGRATION with \d+ numbers, got the shape \(3,\)"):
        model.costs(np.zeros(3), candidates, 0, RigParams(), ONE)
    with pytest.raises(InvalidInput, match=r"\[samples, horizon, 2\], got \(2, 3, 5\)"):
        model.costs(start, Candidates.from_rows(np.zeros((2, 3, 5))), 0, RigParams(), ONE)
    with pytest.raises(InvalidInput, match="must keep its shape"):
        model.costs(start, candidates, 0, RigParams(weights=np.ones(3)), ONE)


def uncompilable_cost(before: Any, u: Any, after: Any, t: int, p: Any) -> float:
    """Fine as Python."""
    return after.qpos.tolist()[0]


def test_a_function_that_cannot_be_compiled_is_named() -> None:
    model = MuJoCo(rig(), cost=uncompilable_cost)
    with pytest.raises(LaneError, match=r"test_mujoco\.py:\d+: Numba cannot compile this"):
        model.costs(rig_start(), Candidates.from_rows(rig_controls(2, 3)), 0, model._params, ONE)


def recursive(after: Any) -> float:
    return recursive(after) if after.qpos[0] > 1e9 else 0.0


def test_recursion_is_refused() -> None:
    with pytest.raises(LaneError, match=r"test_mujoco\.py:\d+ \(recursive\): a recursive function"):
        MuJoCo(rig(), cost=lambda before, u, after, t, p: recursive(after))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, extra, env_id in (("gymnasium", "gym", "Hopper-v5"), ("shimmy", "dm-control", "dm_control/x-v0")):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            with pytest.raises(MissingDependency, match=rf"{package} is not installed.*mpcrl\[{extra}\]"):
                mujoco_task(env_id, fields=("qpos",), cost=rig_cost, params=RigParams(), preset={})


def test_a_string_is_no_list_of_fields() -> None:
    with pytest.raises(InvalidInput, match="got the string 'qpos'"):
        mujoco_task("Hopper-v5", fields="qpos", cost=rig_cost, params=RigParams(), preset={})  # type: ignore[arg-type]


def test_an_environment_without_mujoco_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not simulate with MuJoCo"):
        mujoco_task("CartPole-v1", fields=("qpos",), cost=rig_cost, params=RigParams(), preset={})


# Fingerprints: a cached kernel is as old as what it calls.


def module_with(source: str) -> types.ModuleType:
    module = types.ModuleType("users")
    exec(source, module.__dict__)
    return module


def test_fingerprints_see_every_edit() -> None:
    source = """
import numpy as np
import helpers
GAIN, TABLE = 2.0, np.arange(3.0)
def inner(x): return x + 1
def outer(x): return GAIN * inner(x) + TABLE[0] + helpers.far(x)
def made(y):
    def cost(x): return x * y
    return cost
"""
    helpers = "def far(x): return x\n"

    def fingerprint(source: str, helpers: str = helpers) -> str:
        sys.modules["helpers"] = module_with(helpers)
        try:
            return scalar.fingerprint(module_with(source).outer, None)
        finally:
            del sys.modules["helpers"]

    edits = [("x + 1", "x + 2"), ("GAIN, TABLE = 2.0", "GAIN, TABLE = 2.5"), ("arange(3.0)", "arange(4.0)")]
    edits += [("GAIN * inner", "GAIN - inner"), ("TABLE[0]", "TABLE[1]")]
    prints = [fingerprint(source), *(fingerprint(source.replace(*edit)) for edit in edits)]
    prints.append(fingerprint(source, "def far(x): return -x\n"))
    assert len(set(prints)) == len(prints)
    assert fingerprint(source) == prints[0]
    sys.modules["helpers"] = module_with(helpers)
    made = module_with(source).made
    del sys.modules["helpers"]
    assert scalar.fingerprint(made(1.0)) != scalar.fingerprint(made(2.0))
    assert scalar.fingerprint(made(1.0), None) != scalar.fingerprint(None, made(1.0))


# Speed.


def seconds(function: Callable[[], Any], repeats: int = 9) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@pytest.mark.acceptance
def test_a_plan_costs_what_its_physics_costs(env_of) -> None:
    """At most 5 % above the raw batch of the same controls; two threads at least 1.8 times as fast as one."""
    task, model = task_of(half_cheetah), model_of(half_cheetah)
    env = env_of(task)
    env.reset(seed=0)
    state, controls = task.state(env), random_controls(task, np.random.default_rng(0), 100, 30)
    candidates, held = Candidates.from_rows(controls), np.repeat(controls, task.frame_skip, axis=1)
    planned = {}
    for threads in (ONE, TWO):
        simulations = batch.Batch(task.mj_model(env), 100, threads.count)

        def raw(simulations: Any = simulations) -> None:
            simulations.state[:] = state
            simulations.rollout(held.shape[1], held, record=("qpos",))

        def plan(threads: ThreadBudget = threads) -> None:
            model.costs(state, candidates, 0, task.params, threads)

        planned[threads.count] = seconds(plan)
        assert planned[threads.count] <= 1.05 * seconds(raw)
    assert planned[1] / planned[2] >= 1.8


@pytest.mark.parametrize(
    ("name", "steps"), [("HalfCheetah-v5", 3), ("Hopper-v5", 4), ("dm_control/cartpole-swingup-v0", 1)]
)
def test_coarse_plans_take_half_the_steps_or_no_runge_kutta_and_stay_near(name, steps):
    task = make_task(name)
    assert isinstance(task, MujocoTask)
    fine, coarse = MuJoCo(task), MuJoCo(task, coarse=True)
    model = coarse._recording.models[0]
    assert coarse._recording.frame_skip == steps and model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
    assert coarse.dt == pytest.approx(fine.dt) == pytest.approx(task.dt)
    assert steps * model.opt.timestep == pytest.approx(task.dt)
    start = fine.example_state()
    controls = 0.2 * np.random.default_rng(0).uniform(-1, 1, (3, 5, task.nu))
    ends = [m.rollout(start, controls, 0, task.params)[:, -1, 1 : 1 + model.nq] for m in (fine, coarse)]
    moved = np.abs(ends[0] - start[1 : 1 + model.nq]).max()
    assert 0 < np.abs(ends[1] - ends[0]).max() < 0.3 * moved
    assert fine._recording.models[0].opt.timestep == pytest.approx(task.dt / task.frame_skip)  # a copy was changed
