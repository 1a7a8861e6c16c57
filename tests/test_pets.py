"""PETS and its ancestors: trials, files, and the command; that it learns is in test_acceptance."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import itertools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mpcrl.agents.agent import StepDone, episode_key, task_fingerprint
from mpcrl.agents.pets import PETS, PETSConfig, deterministic
from mpcrl.cli import main
from mpcrl.core.errors import InvalidInput, UnknownName
from mpcrl.experiments.configure import AGENTS, MODEL_FOLDER, agent_for, predictor_for
from mpcrl.experiments.run import run_task
from mpcrl.experiments.training import CHECKPOINT, EVALUATION, RESULT, Point, TrainResult, train
from mpcrl.experiments.training_board import TrainingBoard, curve_text
from mpcrl.experiments.worlds import AnalyticWorld, Outcome, world_of
from mpcrl.learning.ensemble import EnsembleConfig
from mpcrl.models.ensemble import Ensemble
from mpcrl.models.risk import CVaR, Worst
from mpcrl.planners.presets import icem
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import AnalyticTask, Task
from mpcrl.tasks.xml_task import xml_task

SMALL = PETSConfig(ensemble=EnsembleConfig(members=2, hidden=(16, 16), epochs=2), particles=4, random_steps=30)
FLAGS = ["--setting", "members=2", "--setting", "hidden=16,16", "--setting", "epochs=2", "--setting", "particles=4"]


def short(name: str = "pendulum-swingup", steps: int = 30) -> Task:
    return dataclasses.replace(make_task(name), episode_steps=steps)


def agent_of(task: Task | None = None, seed: int = 0, config: PETSConfig = SMALL) -> PETS:
    return PETS(task or short(), planner=icem(budget=16, horizon=5), config=config, seed=seed, threads=1)


def trained(folder: Path, steps: int, seed: int = 0) -> TrainResult:
    return train("pets", agent_of(seed=seed), steps=steps, folder=folder)[0]


def facts(result: TrainResult) -> tuple[object, ...]:
    """What must not depend on interruptions: all but clocks."""
    curve = tuple((point.steps, point.return_, point.loss) for point in result.curve)
    return curve, result.evaluation, result.final_return, result.model_gap


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 120)
    trained(tmp_path / "parts", 60)  # an evaluation in between must not teach anything either
    parts = trained(tmp_path / "parts", 120)
    assert facts(parts) == facts(whole)
    assert facts(trained(tmp_path / "other", 120, seed=1)) != facts(whole)
    assert len(whole.curve) == 4


def test_a_trial_that_is_cut_is_done_again(tmp_path: Path) -> None:
    left = 70

    def cut(step: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    whole = trained(tmp_path / "whole", 90)
    with pytest.raises(KeyboardInterrupt):
        train("pets", agent_of(), steps=90, folder=tmp_path / "cut", on_step=cut)
    assert facts(trained(tmp_path / "cut", 90)) == facts(whole)


def test_a_process_that_ends_between_two_checkpoints_loses_none(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 90)
    trained(tmp_path / "run", 60)
    (tmp_path / "run" / CHECKPOINT).rename(tmp_path / "run" / f".{CHECKPOINT}-old")
    assert facts(trained(tmp_path / "run", 90)) == facts(whole)


def test_another_agent_is_not_loaded(tmp_path: Path) -> None:
    trained(tmp_path, 30)
    with pytest.raises(InvalidInput, match="other settings"):
        trained(tmp_path, 60, seed=3)


def test_the_first_trial_is_random_and_long_enough() -> None:
    task = make_task("cartpole-balance")
    agent = agent_of(task, config=dataclasses.replace(SMALL, random_steps=50))
    world = world_of(task, features=agent.features)
    trial = agent.trial(world)
    assert trial.steps == agent.steps >= 50
    assert len(trial.returns) == agent.episodes > 1
    assert np.isnan(trial.plan_ms)
    assert agent.trial(world).plan_ms > 0
    with pytest.raises(InvalidInput, match="before its first trial"):
        _ = agent_of(task).controller


def test_an_evaluation_leaves_the_agent_alone(tmp_path: Path) -> None:
    once = train("pets", agent_of(), steps=60, folder=tmp_path / "once")[0]
    more = train("pets", agent_of(), steps=60, folder=tmp_path / "more", evaluation_episodes=3)[0]
    assert more.evaluation[0] == once.evaluation[0]
    assert len(set(more.evaluation)) == 3
    assert facts(trained(tmp_path / "more", 90)) == facts(trained(tmp_path / "once", 90))


def test_the_gap_closes_as_the_model_gets_better(tmp_path: Path) -> None:
    result = trained(tmp_path, 60)
    assert np.isfinite(result.model_gap)
    better, calibrated = train(
        "pets", agent_of(config=dataclasses.replace(SMALL, ensemble=_thorough())), steps=240, folder=tmp_path / "b"
    )
    assert abs(better.model_gap) < abs(result.model_gap)
    assert calibrated is not None
    assert calibrated.horizon == 20
    assert set(better.coverage) == {1, 5, 20}
    assert (tmp_path / "b" / "calibration.csv").read_text().count("\n") > 20


def _thorough() -> EnsembleConfig:
    return EnsembleConfig(members=2, hidden=(32, 32), epochs=60)


def test_ancestors_are_settings() -> None:
    task = make_task("pendulum-swingup")
    for name in (name for name in AGENTS if name not in ("pilco", "mc-pilco", "gp-mpc")):
        own = {"members": "3", "particles": "6"}
        if name != "pets":
            for key in own:
                with pytest.raises(InvalidInput, match=f"one deterministic network: leave --setting {key} out"):
                    agent_for(name, task, settings={key: own[key]})
        agent = agent_for(name, task, settings={"hidden": "8,8", **(own if name == "pets" else {})})
        assert isinstance(agent, PETS)
        assert agent.config.ensemble.members == (3 if name == "pets" else 1)
        assert agent.config.ensemble.probabilistic == (name == "pets")
        assert agent.planner.name == ("random_shooting" if name == "random-shooting" else "icem")
    assert deterministic(SMALL).particles == 1
    with pytest.raises(UnknownName, match="did you mean 'pets'"):
        agent_for("pet", task)
    with pytest.raises(InvalidInput, match="did you mean 'particles'"):
        agent_for("pets", task, settings={"particle": "3"})
    with pytest.raises(InvalidInput, match="hidden must be"):
        agent_for("pets", task, settings={"hidden": "wide"})
    for text in ("cvar", "cvar:2", "mean:1", "kind"):
        with pytest.raises(InvalidInput, match="risk is written mean, worst"):
            agent_for("pets", task, settings={"risk": text})
    settings = {"risk": "cvar:0.2", "penalty": "0.5", "limit": "9", "noise": "fixed", "hidden": "8,8"}
    risky = agent_for("pets", task, settings=settings)
    assert isinstance(risky, PETS)
    model = risky._ensemble
    assert (model.risk, model.penalty, model.limit, model.noise) == (CVaR(0.2), 0.5, 9.0, "fixed")


def test_a_trained_model_plans(tmp_path: Path) -> None:
    result = trained(tmp_path, 60)
    task = short()
    predictor = predictor_for(task, str(tmp_path))
    assert isinstance(predictor.model, Ensemble)
    assert predictor.model.particles == SMALL.particles
    again = run_task(task, icem(budget=16, horizon=5), model=predictor, seed=episode_key(0, EVALUATION))
    assert again.returns == result.evaluation


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Reacher-v5"])
def test_mujoco_tasks_are_learned_by_records(name: str, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    task = make_task(name)
    agent = agent_of(task, config=dataclasses.replace(SMALL, particles=2))
    world = world_of(task, features=agent.features)
    state = world.reset(0)
    assert state.shape == (agent.features.nx,)
    outcome = world.step(np.zeros(task.nu))
    assert np.isfinite(outcome.state).all()
    world.close()


def test_the_command_trains_runs_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", tmp_path / "result.json"
    command = ["train", "pets", "pendulum-swingup", "--steps", "200", "--out", str(out), "--json", str(file)]
    assert main([*command, *FLAGS, "--budget", "16", "--horizon", "5", "--threads", "1"]) == 0
    written = json.loads(file.read_text())
    assert {"algo", "task", "seed", "curve", "final_return", "model_gap", "versions"} <= set(written)
    assert set(written["curve"][0]) >= {"steps", "return", "wall_s"}
    assert written == json.loads((out / RESULT).read_text())
    assert (out / "curve.png").stat().st_size > 10_000
    assert (out / "calibration.png").stat().st_size > 10_000
    with (out / "curve.csv").open() as curve:
        rows = list(csv.DictReader(curve))
    assert list(rows[0])[:3] == ["steps", "return", "wall_s"]
    assert [float(row["interaction_s"]) for row in rows] == pytest.approx([0.05 * int(row["steps"]) for row in rows])
    capsys.readouterr()
    assert (
        main(["run", "pendulum-swingup", "--model", str(out), "--budget", "16", "--horizon", "5", "--steps", "5"]) == 0
    )
    assert main([*command, *FLAGS, "--budget", "16", "--horizon", "5", "--threads", "1"]) == 0
    assert "going on after" in capsys.readouterr().out
    assert main([*command, "--budget", "16", "--horizon", "5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_agents_of_different_seeds_share_no_episode() -> None:
    keys = [{episode_key(seed, episode) for episode in (*range(50), EVALUATION)} for seed in range(20)]
    assert len(set.union(*keys)) == 20 * 51


def test_what_cannot_work_is_refused_before_the_first_trial() -> None:
    task = make_task("pendulum-swingup")
    with pytest.raises(InvalidInput, match="a particle for each of 5"):
        agent_for("pets", task, settings={"particles": "4"})
    with pytest.raises(InvalidInput, match="propagation must be"):
        agent_for("pets", task, settings={"propagation": "ts-inf"})
    with pytest.raises(InvalidInput, match="a checkpoint holds at most"):
        agent_for("pets", task, settings={"capacity": "100000000"})
    with pytest.raises(InvalidInput, match="a checkpoint holds networks of at most"):
        agent_for("pets", task, settings={"hidden": "3000,3000,3000"})
    single = agent_for("pets", task, settings={"propagation": "2"})
    assert isinstance(single, PETS)
    assert single.config.propagation == 2
    with pytest.raises(InvalidInput, match="there is no folder"):
        predictor_for(task, "nowhere/at/all")


def test_elites_and_not_members_share_the_particles() -> None:
    """Before there is a holdout to choose them by, too."""
    ensemble = EnsembleConfig(members=3, elites=2, holdout=0.2, hidden=(16,), epochs=2)
    config = PETSConfig(ensemble=ensemble, particles=4, penalty=0.1, random_steps=30)
    agent = agent_of(config=config)
    agent.trial(world_of(agent.task))
    assert len(agent.model.network.elites) == 2
    with pytest.raises(InvalidInput, match="take a multiple of 2"):
        agent_of(config=dataclasses.replace(config, particles=3))


@pytest.mark.parametrize(
    ("field", "value"), [("terminal", "false"), ("risk", "mean"), ("risk", max), ("ensemble", None), ("particles", "5")]
)
def test_a_configuration_of_wrong_types_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=f"{field} must be"):
        PETSConfig(propagation="mean", **{field: value})


def test_the_gap_is_of_what_is_predicted_and_not_of_what_plans_pay() -> None:
    """Neither for risk nor for disagreement."""
    task, gaps = short(), []
    wary = dataclasses.replace(SMALL, risk=Worst(), penalty=10.0, limit=1e-3)
    for config in (SMALL, wary):
        agent = agent_of(task, config=dataclasses.replace(config, noise="none"))
        agent.trial(world_of(task))
        zeros = np.zeros(10)
        gaps.append(agent.model_gap(np.ones((11, 2)), zeros[:, None], zeros, zeros, task.params))
    assert gaps[0] == gaps[1]


@pytest.mark.parametrize(
    ("settings", "spreads"),
    [
        ({}, True),
        ({"noise": "none"}, True),
        ({"propagation": 1}, True),
        ({"propagation": 1, "noise": "none"}, False),
        ({"propagation": "mean"}, False),
    ],
)
def test_it_says_whether_its_particles_differ(settings: dict[str, Any], spreads: bool) -> None:
    """And they go on where the task would end an episode: what happened did."""
    task = dataclasses.replace(short(), terminated=at_once)
    agent = agent_of(task, config=dataclasses.replace(SMALL, **settings))
    agent.trial(world_of(task))
    paths = agent.predictor()(np.array([1.0, 0.5]), np.zeros((1, 4, 1)))[:, 0]
    assert agent.spreads == spreads
    assert (np.ptp(paths[:, -1], axis=0).max() > 0) == spreads
    assert (np.diff(paths, axis=1) != 0).all()


def at_once(x: tuple[float, ...], p: object) -> bool:
    return x[0] > -1e9


def test_another_problem_of_the_same_name_is_not_resumed(tmp_path: Path) -> None:
    trained(tmp_path, 30)
    heavier = short()
    assert isinstance(heavier, AnalyticTask)
    heavier = dataclasses.replace(heavier, params=heavier.params._replace(mass=2.0))
    with pytest.raises(InvalidInput, match="other settings"):
        train("pets", agent_of(heavier), steps=60, folder=tmp_path)


def test_a_problem_is_known_again_in_another_process() -> None:
    """By what functions and objects do, not by where they lie in memory."""

    def made(low: float) -> dict[str, Any]:
        space: dict[str, Any] = {"partial": functools.partial}
        exec(
            "class Box:\n    def __init__(self, low):\n        self.low = low\n"
            "    def start(self, rng):\n        return [self.low, 'a' in {'a', 'b'}]\n"
            "def plain(rng, low=0.0):\n    return [low, helpers['zero'](low)]\n"
            f"helpers = {{'zero': lambda x: x}}\nways = partial(plain, low={low}), Box({low}).start, Box({low})",
            space,
        )
        return space

    task = short()
    for ours, same, other in zip(*(made(low)["ways"] for low in (0.5, 0.5, 0.7)), strict=True):
        hashes = [task_fingerprint(dataclasses.replace(task, reset=way)) for way in (ours, same, other)]  # type: ignore[call-arg]
        assert hashes[0] == hashes[1] != hashes[2]


def test_another_robot_of_the_same_name_is_not_resumed(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")

    def sled(mass: float, start: float) -> Task:
        def reset(model: Any, data: Any, rng: np.random.Generator) -> None:
            data.qpos[:] = start

        path = tmp_path / "sled.xml"
        path.write_text(SLED.format(mass))
        return xml_task(path, cost=sled_cost, reset=reset)

    hashes = [task_fingerprint(sled(*numbers)) for numbers in ((1.0, 0.0), (1.0, 0.0), (1.5, 0.0), (1.0, 0.1))]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


SLED = """<mujoco><worldbody><body><joint name="x" type="slide"/><geom size=".1" mass="{}"/></body></worldbody>
<actuator><motor joint="x" ctrlrange="-1 1"/></actuator></mujoco>"""


def sled_cost(before: Any, u: Any, after: Any, t: int, p: Any) -> float:
    return after.qpos[0] ** 2


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    def another(trial: object, point: object) -> None:
        with pytest.raises(InvalidInput, match="another training is at work"):
            trained(tmp_path, 60)
        seen.append(point)

    seen: list[object] = []
    train("pets", agent_of(), steps=30, folder=tmp_path, on_trial=another)
    assert seen
    assert predictor_for(short(), str(tmp_path)).name == "ensemble"


def test_plans_without_the_terminal_cost() -> None:
    task = make_task("cartpole-balance")
    assert agent_of(task)._ensemble.task.terminal is task.terminal
    alone = agent_of(task, config=dataclasses.replace(SMALL, terminal=False))
    assert alone._ensemble.task.terminal is None


def test_a_state_that_overflows_ends_the_episode() -> None:
    task = short()
    assert isinstance(task, AnalyticTask)
    task = dataclasses.replace(task, step=lambda x, u, p: (x[0], x[1] * 1e200 + 1e200))
    world = world_of(task)
    world.reset(0)
    outcomes = [world.step(np.zeros(1)) for _ in range(3)]
    assert outcomes[-1].ended == "diverged"
    assert outcomes[-1].reward == 0.0
    infinite = world_of(dataclasses.replace(task, step=lambda x, u, p: (x[0], math.sin(1e200 * 1e200))))
    infinite.reset(0)
    assert infinite.step(np.zeros(1)).ended == "diverged"


def test_a_curve_of_characters_shows_its_ends() -> None:
    text = curve_text([100, 200, 300], [-5.0, 0.0, 10.0], 400)
    assert "10.0" in text.splitlines()[0]
    assert "-5.0" in text
    assert "400 steps" in text.splitlines()[-1]
    assert curve_text([1], [2.0], 1)  # one point, no span
    lost = curve_text([100, 200, 300], [-5.0, -np.inf, 10.0], 400)  # a trial whose simulation diverged
    assert "10.0" in lost and "-5.0" in lost and "inf" not in lost
    assert curve_text([1], [-np.inf], 1)


def test_a_world_without_a_time_limit_does_not_hold_a_trial_for_ever() -> None:
    class Endless(AnalyticWorld):
        def step(self, control: np.ndarray) -> Outcome:
            outcome = super().step(control)
            return outcome._replace(ended="" if outcome.ended == "time limit" else outcome.ended)

    def stuck(step: StepDone) -> None:
        assert step.step <= 30

    task = short()
    assert isinstance(task, AnalyticTask)
    agent = agent_of(task)
    for steps in (30, 60):
        agent.trial(Endless(task), on_step=stuck)
        assert agent.steps == steps


def test_an_interrupt_at_any_rename_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor leaves the model of an earlier trial beside the checkpoint of a later one."""
    whole = trained(tmp_path / "whole", 60)
    trained(tmp_path / "begun", 30)
    network = (tmp_path / "whole" / MODEL_FOLDER / "network.safetensors").read_bytes()
    replace, interrupted = os.replace, 0
    for last in itertools.count(1):
        folder, left = shutil.copytree(tmp_path / "begun", tmp_path / str(last)), last

        def once(*paths: Path) -> None:
            nonlocal left
            replace(*paths)
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", once)
            try:
                train("pets", agent_of(), steps=60, folder=folder, on_trial=done)
            except KeyboardInterrupt:
                interrupted += 1
            except _Done:
                break
        assert facts(trained(folder, 60)) == facts(whole)
        assert (folder / MODEL_FOLDER / "network.safetensors").read_bytes() == network, last
    assert interrupted >= 6


class _Done(Exception):
    """All files of a trial are written."""


def done(trial: object, point: object) -> None:
    raise _Done


def test_what_is_no_training_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / MODEL_FOLDER / "mine.txt"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(InvalidInput, match="no model that was learned"):
        train("pets", agent_of(), steps=30, folder=tmp_path, on_step=lambda step: pytest.fail("it has begun"))
    used = agent_of()
    used.trial(world_of(used.task))
    with pytest.raises(InvalidInput, match="give a fresh one"):
        train("pets", used, steps=60, folder=tmp_path / "other")
    assert own.read_text() == "mine"


def test_where_nothing_moves_there_is_no_calibration(tmp_path: Path) -> None:
    task = short()
    assert isinstance(task, AnalyticTask)
    still = dataclasses.replace(task, step=lambda x, u, p: (x[0], x[1]))
    result, calibrated = train("pets", agent_of(still), steps=30, folder=tmp_path)
    assert calibrated is None
    assert result.coverage == {}
    assert (tmp_path / RESULT).exists()


def test_nothing_is_said_to_be_kept_where_nothing_is() -> None:
    said = Console(file=io.StringIO(), force_terminal=False)
    for curve in ((), (Point(30, 1.0, 1.0, 1.0, 1.0, 1.0),)):
        with pytest.raises(InvalidInput), TrainingBoard(said, 60, 0.1) as board:
            board.started(curve)
            raise InvalidInput("another training is at work")
    assert isinstance(said.file, io.StringIO)
    assert [line for line in said.file.getvalue().splitlines() if "kept" in line] == [
        "1 trials are kept; the same command goes on after them"
    ]
