"""GP-MPC: the gradient of its plans, chance constraints, bounds, what it stores, trials and files; how often it settles
is in `benchmarks/gp_mpc.py`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcrl.agents.gp_mpc import GPMPC, GPMPCConfig
from mpcrl.cli import main
from mpcrl.control.belief import BeliefController
from mpcrl.control.plan import Plan, Status
from mpcrl.core.errors import InvalidInput, NoGoal
from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.experiments.configure import agent_for
from mpcrl.experiments.training import RESULT, TrainResult, train
from mpcrl.experiments.worlds import world_of
from mpcrl.kernels.belief import Chain, controls_cost
from mpcrl.learning.policy_search import chain_of
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.planners.belief import BeliefPlanner, Solution, believed
from mpcrl.tasks.features import Features
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.limit import Limit
from mpcrl.tasks.registry import make_task

# Numbers, an angle, one that the dynamics do not depend on, and one that is predicted itself.
FEATURES = Features(names=("place", "angle", "speed", "rate"), nu=2, angles=(1,), unseen=(0,), absolute=(3,))
GOAL = Goal(terms=({"place": 1.0, "sin angle": 0.6}, {"cos angle": 0.6}), target=(0.1, 0.6), width=0.8)
LOW, HIGH = np.array([-1.0, -3.0]), np.array([2.0, 3.0])
START, COV = np.array([0.1, 0.5, -0.2, 0.3]), 0.02 * np.eye(4) + 0.01
LIMIT = Limit(terms={"rate": 1.0}, bound=0.1, probability=0.9)


def model_for(n: int = 30, seed: int = 0) -> GaussianProcess:
    rng = np.random.default_rng(seed)
    D, E = FEATURES.size, FEATURES.nx
    inputs = rng.normal(size=(n, D))
    return GaussianProcess(
        inputs=inputs,
        targets=0.2 * np.sin(inputs @ rng.normal(size=(D, E))),
        lengthscale=1.5 * np.exp(0.3 * rng.normal(size=(E, D))),
        signal=np.full(E, 0.3),
        noise=np.full(E, 0.03),
        slope=0.05 * rng.normal(size=(E, D)),
        intercept=0.05 * rng.normal(size=E),
        tilt=np.zeros((E, D)),
        bias=np.zeros(E),
    )


def chain_for() -> Chain:
    return chain_of(model_for(), FEATURES, GOAL, LOW, HIGH)


def solved(planner: BeliefPlanner, last: Solution | None = None) -> Solution:
    return planner.solve(chain_for(), planner.aim(FEATURES.names), START, COV, LOW, HIGH, last=last)


@pytest.mark.parametrize("caution", [0.0, -0.5, 0.7])
def test_the_gradient_of_a_plan(caution: float) -> None:
    planner = BeliefPlanner(horizon=5, caution=caution, limits=(LIMIT, Limit(terms={"rate": -1.0}, bound=0.2)))
    aim = planner.aim(FEATURES.names)._replace(multipliers=np.full((5, 2), 0.3))
    chain, point = chain_for(), np.random.default_rng(0).uniform(LOW, HIGH, (5, 2))

    def value(controls: np.ndarray, gradient: bool) -> tuple[float, np.ndarray]:
        means, covs, found = np.zeros((6, 4)), np.zeros((6, 4, 4)), np.zeros((5, 2))
        means[0], covs[0] = START, COV
        total = controls_cost(chain, aim, controls, means, covs, np.zeros(5), np.zeros((5, 2)), gradient, found)
        return total, found

    gradient, numeric = value(point, True)[1], np.zeros((5, 2))
    for i in np.ndindex(5, 2):
        ends = []
        for h in (1e-5, -1e-5):
            moved = point.copy()
            moved[i] += h
            ends.append(value(moved, False)[0])
        numeric[i] = (ends[0] - ends[1]) / 2e-5
    assert np.abs(gradient - numeric).max() < 1e-6 * np.abs(numeric).max()


def test_plans_stay_within_their_bounds_and_beat_what_they_begin_with() -> None:
    found = solved(BeliefPlanner(horizon=6, evaluations=40))
    assert (found.controls >= LOW).all() and (found.controls <= HIGH).all()
    planner, low, high = BeliefPlanner(horizon=6, evaluations=40), LOW / 10, HIGH / 10
    tight = planner.solve(chain_for(), planner.aim(FEATURES.names), START, COV, low, high).controls
    assert (tight >= low).all() and (tight <= high).all()
    assert ((tight == low) | (tight == high)).any()
    for share in (0.0, 0.5, 1.0):
        constant = np.tile(LOW + share * (HIGH - LOW), (6, 1))
        assert found.cost < believed(chain_for(), START, COV, constant).costs.sum()
    again = believed(chain_for(), START, COV, found.controls)
    assert found.cost == pytest.approx(again.costs.sum(), abs=1e-12)


def test_a_plan_begins_with_the_last_one_moved_on() -> None:
    """Two evaluations from there bring it to where sixty come, from a constant control they do not."""
    before = solved(BeliefPlanner(horizon=6, evaluations=40))

    def cost(evaluations: int, last: Solution | None) -> float:
        planner, (mean, cov) = BeliefPlanner(horizon=6, evaluations=evaluations), (before.means[1], before.covs[1])
        return planner.solve(chain_for(), planner.aim(FEATURES.names), mean, cov, LOW, HIGH, last=last).cost

    best, cold, warm = cost(60, None), cost(2, None), cost(2, before)
    assert cold - best > 0.01
    assert warm - best < 0.05 * (cold - best)


def test_what_limits_are_worth_moves_on_with_a_plan_that_kept_them() -> None:
    """Then a single round ends nearly within them; from nothing it ends far beyond."""
    before = solved(BeliefPlanner(horizon=6, evaluations=40, limits=(LIMIT,), rounds=8))
    planner = BeliefPlanner(horizon=6, evaluations=10, limits=(LIMIT,), rounds=1)

    def after(last: Solution | None) -> Solution:
        mean, cov, aim = before.means[1], before.covs[1], planner.aim(FEATURES.names)
        return planner.solve(chain_for(), aim, mean, cov, LOW, HIGH, last=last)

    cold, warm, broken = after(None), after(before), after(before._replace(excess=before.excess + 1.0))
    moved = np.concatenate([before.multipliers[1:], before.multipliers[-1:]])
    for found, began in ((cold, np.zeros((6, 1))), (warm, moved), (broken, np.zeros((6, 1)))):
        pushed = np.maximum(began + planner.stiffness * found.excess, 0.0)  # after the round, by Nocedal and Wright
        np.testing.assert_allclose(found.multipliers, pushed, rtol=0, atol=1e-12)
    assert warm.excess.max() < 0.25 * min(cold.excess.max(), broken.excess.max())


def test_a_plan_of_another_horizon_is_refused() -> None:
    last = solved(BeliefPlanner(horizon=4, evaluations=2))
    with pytest.raises(InvalidInput, match=r"shapes \(\(6, 2\), \(6, 0\)\), got \(4, 2\)"):
        solved(BeliefPlanner(horizon=6, evaluations=2), last=last)


def test_chance_constraints_hold_beside_monte_carlo() -> None:
    free = solved(BeliefPlanner(horizon=6, evaluations=40))
    a = LIMIT.normal(FEATURES.names)

    def held(found: Solution) -> np.ndarray:
        rng = np.random.default_rng(1)
        draws = [rng.multivariate_normal(m, S, 100_000) @ a for m, S in zip(found.means, found.covs, strict=True)]
        return np.array([(draw <= LIMIT.bound).mean() for draw in draws[1:]])

    kept = solved(BeliefPlanner(horizon=6, evaluations=40, limits=(LIMIT,), rounds=8))
    by_hand = kept.means[1:] @ a + 1.2815515655446004 * np.sqrt(np.einsum("i,tij,j->t", a, kept.covs[1:], a))
    np.testing.assert_allclose(kept.excess[:, 0], by_hand - LIMIT.bound, atol=1e-12)
    assert held(free).min() < 0.85  # it would be broken
    assert kept.excess.max() < 1e-3
    assert 0.893 < held(kept).min() < 0.907  # kept, and by no more than it asks
    assert kept.cost > free.cost
    assert (kept.multipliers >= 0).all() and kept.multipliers.max() > 0


def test_chance_constraints_hold_for_particles_of_the_model() -> None:
    """Through functions anew at each step, as beliefs take them; normal beliefs are not quite what particles become."""
    model, noise, count = model_for(), chain_for().noise, 20_000

    def shares(planner: BeliefPlanner) -> np.ndarray:
        controls, rng, kept = solved(planner).controls, np.random.default_rng(1), []
        x = rng.multivariate_normal(START, COV, count)
        for control in controls:
            seen = x + np.sqrt(noise) * rng.normal(size=x.shape)
            said = model.predict(FEATURES.inputs(seen, np.tile(control, (count, 1))))
            x = said.mean + np.sqrt(said.variance) * rng.normal(size=x.shape)
            x[:, [0, 1, 2]] += seen[:, [0, 1, 2]]  # changes; the last number is predicted itself
            kept.append((x @ LIMIT.normal(FEATURES.names) <= LIMIT.bound).mean())
        return np.array(kept)

    p = LIMIT.probability
    sampling = 3 * np.sqrt(p * (1 - p) / count)  # 0.006
    freely = shares(BeliefPlanner(horizon=6, evaluations=40))
    assert freely.min() < p - 0.1
    kept = shares(BeliefPlanner(horizon=6, evaluations=40, limits=(LIMIT,), rounds=8))
    assert kept.min() > p - sampling - 0.008  # the tails that normal beliefs do not have: 0.006 of 200,000 particles


def test_a_plan_that_is_not_finite_gives_way_to_the_last_one() -> None:
    task = make_task("pendulum-swingup")
    agent = GPMPC(task, config=GPMPCConfig(trial_steps=26), seed=0, threads=1)
    agent.trial(world_of(task))
    controller = agent.controller
    assert isinstance(controller, BeliefController)
    first = controller.plan(np.array([3.0, 0.0]))
    second = controller.plan(np.array([np.nan, 0.0]))
    assert first.status is Status.PLANNED and second.status is Status.SHIFTED
    np.testing.assert_array_equal(second.control, first.controls[1])
    controller.reset()
    assert controller.plan(np.array([np.inf, 0.0])).status is Status.SAFE


def test_only_what_surprises_is_stored() -> None:
    task = make_task("pendulum-swingup")
    agent = GPMPC(task, config=GPMPCConfig(trial_steps=26), seed=0, threads=1)
    agent.trial(world_of(task))
    seen, known = agent.model.inputs[3], agent.model.targets[3]
    assert not agent.surprises(seen, agent.model.predict(seen).mean)
    assert agent.surprises(seen, known + 1.0)  # wrong
    far = seen + np.array([7.0, 0.0, 0.0, 0.0])
    assert agent.surprises(far, agent.model.predict(far).mean)  # unsure


def test_a_trial_is_told_beside_plans_to_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    task = dataclasses.replace(make_task("pendulum-swingup"), episode_steps=32)
    planner, plan = BeliefPlanner(horizon=5, evaluations=5), BeliefController.plan
    made: list[tuple[Solution | None, np.ndarray]] = []

    def kept(self: BeliefController, *state: np.ndarray, **rest: Any) -> Plan:
        answer = plan(self, *state, **rest)
        made.append((self.solution, self.chain.noise))
        return answer

    monkeypatch.setattr(BeliefController, "plan", kept)
    agent = GPMPC(task, config=GPMPCConfig(planner=planner, random_steps=20), seed=1, threads=1)
    said = agent.trial(world_of(task)).forecast
    assert said is not None and len(made) == 13  # the first one compiles
    assert np.isnan(said.means[1:21]).all() and len(said.means) == len(said.states) == 33
    for first in (0, 5, 10):
        solution, noise = made[1 + first]
        assert solution is not None
        rows = slice(21 + first, min(26 + first, 33))
        count = rows.stop - rows.start
        np.testing.assert_array_equal(said.means[rows], solution.means[1 : 1 + count])
        variances = np.diagonal(solution.covs, axis1=1, axis2=2)[1 : 1 + count] + noise
        np.testing.assert_allclose(said.deviations[rows] ** 2, variances, rtol=1e-12)


def facts(result: TrainResult) -> tuple[object, ...]:
    curve = tuple((point.steps, point.return_, point.loss) for point in result.curve)
    return curve, result.evaluation, result.final_return, result.model_gap, dict(result.coverage)


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    task = dataclasses.replace(make_task("pendulum-swingup"), episode_steps=25)

    def agent(unsure: float = 0.05) -> GPMPC:
        planner = BeliefPlanner(horizon=5, evaluations=5)
        return GPMPC(task, config=GPMPCConfig(planner=planner, random_steps=20, unsure=unsure), seed=1, threads=1)

    whole, calibrated = train("gp-mpc", agent(), steps=75, folder=tmp_path / "whole")
    train("gp-mpc", agent(), steps=50, folder=tmp_path / "parts")
    parts, _ = train("gp-mpc", agent(), steps=75, folder=tmp_path / "parts")
    assert facts(parts) == facts(whole)
    assert calibrated is not None and [point.steps for point in whole.curve] == [25, 50, 75]
    with pytest.raises(InvalidInput, match="other settings"):
        train("gp-mpc", agent(0.1), steps=75, folder=tmp_path / "parts")


def test_a_pendulum_is_swung_up_and_held_in_its_first_trial() -> None:
    task = make_task("pendulum-swingup")
    agent = GPMPC(task, config=GPMPCConfig(trial_steps=150), seed=0, threads=1)
    trial = agent.trial(world_of(task))
    assert trial.forecast is not None
    angles = np.abs([wrap_to_pi(angle) for angle in trial.forecast.states[100:, 0]])
    assert angles.max() < 0.1
    assert agent.model.count <= 150
    assert np.isnan(trial.forecast.means[1:26]).all() and np.isfinite(trial.forecast.means[26:]).all()


def test_the_command_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["train", "gp-mpc", "pendulum-swingup", "--out", str(out), "--threads", "1", "--horizon", "5"]
    command += ["--setting", "trial_steps=30", "--setting", "evaluations=3", "--setting", "limits=rate<=6@0.9"]
    assert main([*command, "--steps", "30"]) == 0
    assert main([*command, "--steps", "60"]) == 0
    limit = {"type": "Limit", "terms": {"rate": 1.0}, "bound": 6.0, "probability": 0.9}
    assert json.loads((out / RESULT).read_text())["config"]["config"]["planner"]["limits"] == [limit]
    printed = capsys.readouterr().out
    assert "going on after 1 trial" in printed and "plans on a belief, 5 steps ahead" in printed
    for name in ("trial_00.png", "curve.png"):  # the first one has plans as well
        assert (out / name).stat().st_size > 10_000
    run = ["run", "pendulum-swingup", "--model", str(out), "--steps", "3", "--budget", "32", "--horizon", "3"]
    assert main([*run, "--threads", "1"]) == 0
    assert "steps done" in capsys.readouterr().out
    gradient = [*run[:4], "--steps", "3", "--planner", "ilqr", "--budget", "12", "--horizon", "3"]
    assert main([*gradient, "--threads", "1"]) == 0
    assert "ilqr, 12 trajectories" in capsys.readouterr().out


def test_limits_are_read_as_they_are_written() -> None:
    def read(text: str) -> tuple[Limit, ...]:
        agent = agent_for("gp-mpc", make_task("cartpole-pilco"), settings={"limits": text})
        assert isinstance(agent, GPMPC)
        return agent.config.planner.limits

    assert read("rate<=6") == (Limit(terms={"rate": 1.0}, bound=6.0, probability=0.95),)
    two = read(" -position + 0.5*rate >= -1e-1 @ 0.9; 2e0*velocity<=3")
    assert two[0] == Limit(terms={"position": 1.0, "rate": -0.5}, bound=0.1, probability=0.9)
    assert two[1] == Limit(terms={"velocity": 2.0}, bound=3.0)
    for text in ("rate", "rate<=", "<=1", "6>=rate", "rate+rate<=1", "rate velocity<=1", "rate<=1@0.2", "rate<=1;"):
        with pytest.raises(InvalidInput, match=r"a limit (is written such as rate<=6@0.95|speaks of 'rate velocity')"):
            read(text)


def test_settings_and_what_cannot_be() -> None:
    agent = agent_for("gp-mpc", make_task("pendulum-swingup"), settings={"caution": "-0.5", "refit": "9"}, horizon=12)
    assert isinstance(agent, GPMPC)
    assert (agent.config.planner.caution, agent.config.planner.horizon, agent.config.refit) == (-0.5, 12, 9)
    with pytest.raises(InvalidInput, match="leave --planner out"):
        agent_for("gp-mpc", make_task("pendulum-swingup"), planner="icem")
    with pytest.raises(NoGoal, match="declares no goal"):
        agent_for("gp-mpc", make_task("racecar"))
    with pytest.raises(InvalidInput, match="speaks of 'speed'"):
        planner = BeliefPlanner(limits=(Limit(terms={"speed": 1.0}, bound=1.0),))
        GPMPC(make_task("pendulum-swingup"), config=GPMPCConfig(planner=planner))
    with pytest.raises(InvalidInput, match=r"in \[0.5, 1\)"):
        Limit(terms={"rate": 1.0}, bound=1.0, probability=0.3)
