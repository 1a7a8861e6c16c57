"""A task from an XML file: its world, its prediction, and the way to it from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

from mpcrl import MuJoCo, make_task, run_task, xml_task  # noqa: E402
from mpcrl.core.candidates import Candidates  # noqa: E402
from mpcrl.core.errors import InvalidInput, MissingDependency  # noqa: E402
from mpcrl.core.threads import ThreadBudget  # noqa: E402
from mpcrl.experiments.configure import planner_for  # noqa: E402
from mpcrl.experiments.worlds import world_of  # noqa: E402
from mpcrl.tasks.mujoco_task import MujocoTask  # noqa: E402

SLED = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="sled">
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom size=".1" mass="1"/>
      <site name="nose" pos=".1 0 0"/>
    </body>
  </worldbody>
  <actuator><motor name="push" joint="x" gear="10" ctrlrange="-1 2"/></actuator>
</mujoco>
"""


class Params(NamedTuple):
    """Where the nose should be, m; which site it is."""

    nose: int
    mass: float
    wanted: float = 1.0


def cost(before: Any, u: Any, after: Any, t: int, p: Params) -> float:
    return p.mass * (after.site_xpos[p.nose, 0] - p.wanted) ** 2 + 0.01 * u[0] ** 2


def reset(model: Any, data: Any, rng: np.random.Generator) -> None:
    model.body("sled").mass[:] = rng.uniform(0.5, 2.0)
    data.joint("x").qpos[:] = rng.uniform(-1.0, 0.0)


def params(model: Any, env: Any) -> Params:
    return Params(nose=model.site("nose").id, mass=float(model.body("sled").mass[0]))


def terminated(after: Any, p: Params) -> bool:
    return after.qpos[0] > 2.0


@pytest.fixture
def sled(tmp_path: Path) -> Path:
    path = tmp_path / "sled.xml"
    path.write_text(SLED)
    return path


def sled_task(path: Path, **options: Any) -> MujocoTask:
    given: dict[str, Any] = {"cost": cost, "fields": ("qpos", "site_xpos"), "params": params, "reset": reset}
    return xml_task(path, **{**given, "terminated": terminated, "frame_skip": 2, "episode_steps": 60, **options})


def test_its_properties_are_the_files(sled) -> None:
    task = sled_task(sled)
    assert (task.name, task.dt, task.frame_skip, task.nu) == ("sled", 0.02, 2, 1)
    assert (task.control_low.tolist(), task.control_high.tolist()) == ([-1.0], [2.0])


@pytest.mark.parametrize("current", [True, False])
def test_the_world_is_what_the_model_predicts(sled, current) -> None:
    """Under the mass and the parameters of each episode."""
    task = sled_task(sled, current=current, terminated=None)
    world, model = world_of(task), MuJoCo(task)
    starts = []
    for seed in (3, 4):
        state = world.reset(seed)
        starts.append(state)
        assert world.edited  # type: ignore[attr-defined]
        model.use(world.mj_model)  # type: ignore[attr-defined]
        controls = np.random.default_rng(seed).uniform(-1.0, 2.0, (1, 20, 1))
        predicted = model.costs(state, Candidates.from_rows(controls), 0, world.params, ThreadBudget(1))
        outcomes = [world.step(u) for u in controls[0]]
        assert -sum(outcome.reward for outcome in outcomes) == pytest.approx(predicted[0], abs=1e-9)
        assert np.array_equal(model.rollout(state, controls, 0, world.params)[0, -1], outcomes[-1].state)
    assert not np.array_equal(starts[0], starts[1])
    again = world.reset(3)
    assert np.array_equal(again, starts[0])


STAMP = """
<mujoco>
  <worldbody>
    <geom type="plane" size="5 5 .1"/>
    <body name="stamp" pos="0 0 .095">
      <joint name="z" type="slide" axis="0 0 1"/>
      <geom size=".1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor name="push" joint="z" gear="30" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


def pressing_cost(before: Any, u: Any, after: Any, t: int, p: Any) -> float:
    return -abs(after.cfrc_ext[1, 5]) - abs(before.cfrc_ext[1, 5]) * (t == 0) - after.xpos[1, 2]


@pytest.mark.parametrize("current", [True, False])
def test_body_forces_are_paid_in_the_world_as_in_the_plan(tmp_path, current) -> None:
    """mj_step leaves them out, and mj_forward at the start."""
    path = tmp_path / "stamp.xml"
    path.write_text(STAMP)
    task = xml_task(path, cost=pressing_cost, fields=["cfrc_ext", "xpos"], frame_skip=5, current=current)  # type: ignore[arg-type]
    world, model = world_of(task), MuJoCo(task)
    state, controls = world.reset(0), np.linspace(0.5, -1.0, 20)[None, :, None]
    predicted = model.costs(state, Candidates.from_rows(controls), 0, task.params, ThreadBudget(1))
    paid = -sum(world.step(u).reward for u in controls[0])
    assert paid < -50.0, "the stamp never pressed"
    assert paid == pytest.approx(predicted[0], abs=1e-9)


def test_an_episode_ends(sled) -> None:
    world = world_of(sled_task(sled))
    for control, ended in ((2.0, "terminated"), (-1.0, "time limit")):
        world.reset(0)
        outcomes = [world.step(np.array([control]))]
        while not outcomes[-1].ended:
            outcomes.append(world.step(np.array([control])))
        assert outcomes[-1].ended == ended
        assert (len(outcomes) == 60) == (ended == "time limit")


def test_a_run_reaches_the_goal(sled) -> None:
    task = sled_task(sled)
    result = run_task(task, planner_for(task, budget=60, horizon=20), threads=1)
    assert result.episode_steps == (60,)
    rewards = result.records[0].rewards
    assert rewards[0] < -1.0 and rewards[-1] > -0.02


def test_a_diverged_world_ends(sled) -> None:
    env = sled_task(sled).make_env()
    env.reset(seed=0)
    env.data.qvel[:] = 1e12
    _, reward, ended, _, _ = env.step(np.zeros(1))
    assert reward == -np.inf and ended
    world: Any = world_of(sled_task(sled))
    world.reset(0)
    world._env.data.qvel[:] = 1e12
    outcome = world.step(np.zeros(1))
    assert (outcome.reward, outcome.ended) == (-np.inf, "diverged")


def test_a_string_is_no_list_of_fields(sled) -> None:
    with pytest.raises(InvalidInput, match=r"got the string 'qpos'; write \('qpos',\)"):
        sled_task(sled, fields="qpos")


def test_bad_files(tmp_path, sled) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.xml"):
        xml_task(tmp_path / "nowhere.xml", cost=cost)
    sled.write_text(SLED.replace('ctrlrange="-1 2"', ""))
    with pytest.raises(InvalidInput, match=r"actuators \['push'\] have no control range"):
        sled_task(sled)
    sled.write_text("<mujoco/>")
    with pytest.raises(InvalidInput, match="the model has no actuator"):
        sled_task(sled)


# Tasks in files.

FILE = """
from pathlib import Path
import mpcrl

def cost(before, u, after, t, p):
    return (after.qpos[0] - 1.0) ** 2

def sled():
    return mpcrl.xml_task(Path(__file__).with_name("sled.xml"), cost=cost, episode_steps=5)

made = sled()
number = 3

def broken():
    return 1 / 0
"""


def test_a_task_in_a_file(sled) -> None:
    path = sled.with_name("mine.py")
    path.write_text(FILE)
    for name in ("sled", "made"):
        task = make_task(f"{path}:{name}")
        assert isinstance(task, MujocoTask) and task.name == "sled"
    for name, message in (
        ("slad", r"mine.py:slad must be a task .* does not exist; did you mean sled\?"),
        ("number", "mine.py:number must be a task or a function that returns one; it is 3"),
        ("broken", "mine.py:broken raised ZeroDivisionError"),
    ):
        with pytest.raises(InvalidInput, match=message):
            make_task(f"{path}:{name}")
    with pytest.raises(InvalidInput, match=r"there is no file '.*nowhere\.py'"):
        make_task(f"{path.with_name('nowhere.py')}:sled")
    with pytest.raises(InvalidInput, match="which task of it"):
        make_task(str(path))
    path.write_text("import no_such_module")
    with pytest.raises(InvalidInput, match="ModuleNotFoundError: No module named 'no_such_module'"):
        make_task(f"{path}:sled")


def test_a_task_in_a_file_imports_its_neighbour(sled) -> None:
    path, before = sled.with_name("mine.py"), list(sys.path)
    sled.with_name("neighbour_of_mine.py").write_text(FILE)
    late = "def late():\n    import neighbour_of_mine\n    return neighbour_of_mine.made"
    path.write_text(f"from neighbour_of_mine import sled\n{late}")
    try:
        assert [make_task(f"{path}:{name}").name for name in ("sled", "late")] == ["sled", "sled"]
    finally:
        sys.modules.pop("neighbour_of_mine", None)
    assert sys.path == before


def test_what_a_task_file_may_raise(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from mpcrl.core.errors import missing\nraise missing('shimmy', 'dm-control')")
    with pytest.raises(MissingDependency, match="shimmy is not installed"):
        make_task(f"{path}:task")
    path.write_text("import sys\nsys.exit(3)")
    with pytest.raises(InvalidInput, match=r"mine\.py:task ended Python \(SystemExit: 3\); .*__main__"):
        make_task(f"{path}:task")


def test_the_command_runs_a_task_in_a_file(sled, tmp_path, capsys) -> None:
    pytest.importorskip("tyro")
    from mpcrl.cli import main

    path = sled.with_name("mine.py")
    path.write_text(FILE)
    arguments = ["run", f"{path}:sled", "--budget", "20", "--horizon", "8", "--json", str(tmp_path / "result.json")]
    assert main(arguments) == 0
    assert '"task": "sled"' in (tmp_path / "result.json").read_text()
    assert main(["run", f"{path}:nothing"]) == 2
    assert "does not exist" in capsys.readouterr().err
