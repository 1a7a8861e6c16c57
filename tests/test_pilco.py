"""PILCO: the gradient of its policy search, policies, goals, trials, files, and the command; that it learns the
cart-pole is in `benchmarks/pilco.py`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcrl.agents.agent import Trial
from mpcrl.agents.pilco import PILCO, PILCOConfig, _normal
from mpcrl.agents.policy_agent import load_policy
from mpcrl.cli import main
from mpcrl.core.bundle import write_bundle
from mpcrl.core.errors import DamagedExport, InvalidInput, NoGoal
from mpcrl.experiments.conditions import Conditions
from mpcrl.experiments.configure import MODEL_FOLDER, agent_for
from mpcrl.experiments.run import run_task
from mpcrl.experiments.training import RESULT, TrainResult, train
from mpcrl.experiments.worlds import world_of
from mpcrl.kernels.belief import Chain, expected_cost
from mpcrl.learning.policies import LinearPolicy, Policy, RBFPolicy, controls, policy_files, policy_of_files
from mpcrl.learning.policy_search import (
    Found,
    belief_predictor,
    chain_of,
    cost_and_gradient,
    forecast,
    policy_inputs,
    search,
)
from mpcrl.models.gaussian_process import HEAD, GaussianProcess
from mpcrl.tasks.cartpole_pilco import acceleration
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.registry import ANALYTIC_TASKS, make_task
from tests.test_moments import Moments, network_twin, twin

SMALL = PILCOConfig(basis=5, restarts=1, horizon=8, trial_steps=12, evaluations=6)
FLAGS = ["--setting", "basis=5", "--setting", "trial_steps=12", "--setting", "evaluations=6", "--horizon", "8"]

# Numbers, angles, one that the dynamics do not depend on, and one that is predicted itself.
FEATURES = Features(names=("place", "angle", "speed", "rate"), nu=2, angles=(1,), unseen=(0,), absolute=(3,))
GOAL = Goal(terms=({"place": 1.0, "sin angle": 0.6}, {"cos angle": 0.6}), target=(0.1, 0.6), width=0.8)
QUADRATIC = dataclasses.replace(GOAL, saturating=False)
LOW, HIGH = np.array([-1.0, -3.0]), np.array([2.0, 3.0])


def model_for(features: Features, n: int = 30, seed: int = 0) -> GaussianProcess:
    rng = np.random.default_rng(seed)
    inputs, E = rng.normal(size=(n, features.size)), features.nx
    return GaussianProcess(
        inputs=inputs,
        targets=0.2 * np.sin(inputs @ rng.normal(size=(features.size, E))),
        lengthscale=1.5 * np.exp(0.3 * rng.normal(size=(E, features.size))),
        signal=np.full(E, 0.3),
        noise=np.full(E, 0.03),
        slope=0.05 * rng.normal(size=(E, features.size)),
        intercept=0.05 * rng.normal(size=E),
        tilt=np.zeros((E, features.size)),
        bias=np.zeros(E),
    )


def policy_for(kind: str, z: np.ndarray, nu: int, basis: int = 6, size: float = 0.7) -> LinearPolicy | RBFPolicy:
    rng = np.random.default_rng(2)
    if kind == "linear":
        return LinearPolicy.random(z, nu, rng, size=size)
    return RBFPolicy.random(z, nu, rng, count=basis, lengthscale=np.full(z.shape[1], 1.2), size=size)


def setting(kind: str = "rbf", goal: Goal = GOAL) -> tuple[Chain, Policy, np.ndarray, np.ndarray]:
    chain = chain_of(model_for(FEATURES), FEATURES, goal, LOW, HIGH)
    z = policy_inputs(FEATURES, np.random.default_rng(1).normal(size=(20, 4)))
    return chain, policy_for(kind, z, 2), np.array([0.1, 0.5, -0.2, 0.3]), 0.02 * np.eye(4) + 0.01


def check_gradient(chain: Chain, policy: Policy, mean: np.ndarray, cov: np.ndarray, horizon: int, every: int) -> float:
    """Largest error of dJ/dtheta, over its largest element, beside central differences of every few parameters."""
    start = policy.parameters
    _, gradient = cost_and_gradient(chain, policy, mean, cov, horizon)
    worst = 0.0
    for i in range(0, len(start), every):
        ends = []
        for h in (1e-5, -1e-5):
            moved = start.copy()
            moved[i] += h
            ends.append(forecast(chain, policy.with_parameters(moved), mean, cov, horizon).total)
        worst = max(worst, abs((ends[0] - ends[1]) / 2e-5 - gradient[i]))
    return worst / float(np.abs(gradient).max())


# The gradient of a search.


@pytest.mark.parametrize("kind", ["rbf", "linear"])
@pytest.mark.parametrize("goal", [GOAL, QUADRATIC])
def test_the_gradient_of_the_expected_cost(kind: str, goal: Goal) -> None:
    chain, policy, mean, cov = setting(kind, goal)
    assert check_gradient(chain, policy, mean, cov, 5, 3) < 1e-6


@pytest.mark.acceptance
def test_the_gradient_of_forty_steps_and_305_parameters() -> None:
    """In the papers' size: five numbers in, 50 basis functions, one control."""
    task = make_task("cartpole-pilco")
    features = features_of(task)
    world, rng = world_of(task), np.random.default_rng(0)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for seed in range(3):
        state = world.reset(seed)
        for _ in range(25):
            control = rng.uniform(task.control_low, task.control_high)
            after = world.step(control).state
            rows.append((state, control, after))
            state = after
    states, taken, following = map(np.array, zip(*rows, strict=True))
    model = dataclasses.replace(
        model_for(features, n=75),
        inputs=features.inputs(states, taken),
        targets=following - states,
        lengthscale=np.tile(2 * features.inputs(states, taken).std(axis=0), (4, 1)),
        slope=np.zeros((4, 6)),
        intercept=np.zeros(4),
    )
    assert task.goal is not None
    chain = chain_of(model, features, task.goal, task.control_low, task.control_high)
    policy = policy_for("rbf", policy_inputs(features, states), 1, basis=50)
    assert policy.parameters.size == 305
    assert check_gradient(chain, policy, np.zeros(4), 0.01 * np.eye(4), 40, 1) < 1e-6


def test_the_gradient_of_the_cost_of_a_belief() -> None:
    chain, _, mean, cov = setting()
    dm, dS, rest = np.empty(4), np.empty((4, 4)), (np.empty(4), np.empty((4, 4)))
    expected_cost(chain.cost, chain.waves, mean, cov, dm, dS)
    for i in range(4):
        h = 1e-5 * np.eye(4)[i]
        ends = [expected_cost(chain.cost, chain.waves, mean + s * h, cov, *rest)[0] for s in (1, -1)]
        assert dm[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-7, abs=1e-8)


def test_a_search_goes_down_and_does_not_depend_on_threads() -> None:
    chain, policy, mean, cov = setting()
    before = forecast(chain, policy, mean, cov, 6).total
    told: list[Any] = []
    starts = [policy, setting("linear")[1]]
    found = search(chain, starts, mean=mean, cov=cov, horizon=6, evaluations=15, on_evaluation=told.append)
    assert found.cost < before
    assert found.cost == pytest.approx(forecast(chain, found.policy, mean, cov, 6).total, rel=1e-12)
    assert min(progress.cost for progress in told) == found.cost
    again = search(chain, starts, mean=mean, cov=cov, horizon=6, evaluations=15, threads=2)
    np.testing.assert_array_equal(again.policy.parameters, found.policy.parameters)


# Beliefs.


def test_a_certain_belief_moves_as_the_mean_does() -> None:
    chain, policy, mean, _ = setting()
    chain = chain._replace(noise=np.zeros(4))
    model = model_for(FEATURES)
    said = forecast(chain, policy, mean, np.zeros((4, 4)), 1)
    u = controls(policy.network(), policy_inputs(FEATURES, mean), LOW, HIGH)
    change = model.predict(FEATURES.inputs(mean, u))
    kept = np.array([1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(said.means[1], kept * mean + change.mean, atol=1e-12)
    np.testing.assert_allclose(said.covs[1], np.diag(change.variance), atol=1e-10)


def test_beliefs_hold_samples_of_the_first_step() -> None:
    """One step from a belief: mean and covariance of the next state beside those of samples, exact but for normality
    of the control."""
    chain, _, mean, cov = setting()
    z = policy_inputs(FEATURES, np.random.default_rng(1).normal(size=(20, 4)))
    policy = LinearPolicy(gain=np.zeros((2, z.shape[1])), offset=np.array([0.3, -0.2]))  # a control that is certain
    said = forecast(chain, policy, mean, cov, 1)
    rng = np.random.default_rng(0)
    seen = rng.multivariate_normal(mean, cov + np.diag(chain.noise), 100_000)
    change = model_for(FEATURES).predict(
        FEATURES.inputs(seen, controls(policy.network(), policy_inputs(FEATURES, seen), LOW, HIGH))
    )
    after = chain.kept * seen + change.mean + np.sqrt(change.variance) * rng.standard_normal(seen.shape)
    np.testing.assert_allclose(said.means[1], after.mean(axis=0), atol=5 * after.std(axis=0).max() / 316)
    assert np.linalg.norm(said.covs[1] - np.cov(after.T)) < 0.02 * np.linalg.norm(said.covs[1])
    drawn = belief_predictor(chain, particles=4000)(mean, np.full((1, 3, 2), 0.1))
    assert drawn.shape == (4000, 1, 4, 4)
    assert (drawn[:, 0, 0] == mean).all()


# Policies.


def test_policies_keep_to_the_bounds_and_reach_them() -> None:
    z = np.random.default_rng(0).normal(size=(500, 5))
    for kind in ("rbf", "linear"):
        policy = policy_for(kind, z, 2, size=9.0)
        u = controls(policy.network(), z, LOW, HIGH)
        assert (u >= LOW - 1e-12).all() and (u <= HIGH + 1e-12).all()
        assert u.min(axis=0) == pytest.approx(LOW, abs=0.05) and u.max(axis=0) == pytest.approx(HIGH, abs=0.05)
        again = policy_of_files(policy_files(policy))
        np.testing.assert_array_equal(controls(again.network(), z, LOW, HIGH), controls(policy.network(), z, LOW, HIGH))
        with pytest.raises(InvalidInput, match="parameters"):
            policy.with_parameters(np.zeros(3))


# A slow twin of a step of the belief: policy, squashing, angles and processes, one after the other.


def waves_twin(multiples: np.ndarray, phases: np.ndarray, sizes: np.ndarray, m: np.ndarray, S: np.ndarray) -> Moments:
    """Of size_f cos(multiple_f' x + phase_f): products of cosines are sums of cosines, and cov(x, f) = S E f'."""

    def mean(k: np.ndarray, phase: float) -> float:
        return float(math.exp(-0.5 * k @ S @ k) * math.cos(k @ m + phase))

    F = range(len(sizes))
    M = np.array([sizes[f] * mean(multiples[f], phases[f]) for f in F])
    C = np.empty((len(F), len(F)))
    for f in F:
        for g in F:
            both = mean(multiples[f] + multiples[g], phases[f] + phases[g])
            C[f, g] = 0.5 * sizes[f] * sizes[g] * (both + mean(multiples[f] - multiples[g], phases[f] - phases[g]))
    V = np.array([sizes[f] * mean(multiples[f], phases[f] + 0.5 * math.pi) * multiples[f] for f in F]).T
    return M, C - np.outer(M, M), V


def step_twin(model: GaussianProcess, chain: Chain, policy: Policy, m: np.ndarray, S: np.ndarray) -> Any:
    """Mean and covariance after a step. Gains are S^-1 cov(x, .), and chain as the docstring of the moments says."""
    seen, e, half = S + np.diag(chain.noise), np.eye(4), 0.5 * (HIGH - LOW)
    waves, waves_cov, waves_gain = waves_twin(e[[1, 1]], np.array([-0.5 * math.pi, 0.0]), np.ones(2), m, seen)
    plain = [0, 2, 3]
    z, gain = np.r_[m[plain], waves], np.c_[e[:, plain], waves_gain]
    crossed = seen[plain] @ waves_gain
    z_cov = np.block([[seen[np.ix_(plain, plain)], crossed], [crossed.T, waves_cov]])
    v, v_cov, v_gain = network_twin(policy.network(), z, z_cov)
    f, sizes = np.eye(2), np.array([9.0, 1.0]) / 8  # (9 sin v + sin 3 v) / 8
    multiples = np.array([f[0], 3 * f[0], f[1], 3 * f[1]])
    four, four_cov, four_gain = waves_twin(
        multiples, np.full(4, -0.5 * math.pi), np.outer(half, sizes).ravel(), v, v_cov
    )
    pairs = np.repeat(f, 2, axis=0)
    u, u_cov, u_gain = 0.5 * (LOW + HIGH) + four @ pairs, pairs.T @ four_cov @ pairs, v_gain @ four_gain @ pairs
    all_cov = np.block([[z_cov, z_cov @ u_gain], [u_gain.T @ z_cov, u_cov]])
    used = slice(1, 7)  # the dynamics do not depend on the place
    M, C, V = twin(model, np.r_[z, u][used], all_cov[used, used])
    K, X = np.diag(chain.kept), seen @ gain @ np.c_[np.eye(5), u_gain][:, used] @ V
    return chain.kept * m + M, K @ seen @ K + C + K @ X + X.T @ K


@pytest.mark.parametrize("kind", ["rbf", "linear"])
def test_a_cascade_of_ten_steps_beside_a_twin(kind: str) -> None:
    chain, policy, m, S = setting(kind)
    said = forecast(chain, policy, m, S, 10)
    for t in range(1, 11):
        m, S = step_twin(model_for(FEATURES), chain, policy, m, S)
        np.testing.assert_allclose(said.means[t], m, rtol=0, atol=1e-8 if t == 1 else 1e-6)
        np.testing.assert_allclose(said.covs[t], S, rtol=0, atol=1e-8 if t == 1 else 1e-6)


# Goals and the task.


@pytest.mark.parametrize("goal", [GOAL, QUADRATIC])
def test_goals_are_expected_where_states_are_certain(goal: Goal) -> None:
    matrix, target = GOAL.matrix(FEATURES.names, FEATURES.angles)
    state = np.array([0.3, 1.0, 0.0, 0.0])
    y = np.array([0.3 + 0.6 * math.sin(1.0) - 0.1, 0.6 * math.cos(1.0) - 0.6]) / 0.8
    np.testing.assert_allclose(matrix @ [*state, math.sin(1.0), math.cos(1.0)] - target, y)
    chain = setting(goal=goal)[0]
    mean, _ = expected_cost(chain.cost, chain.waves, state, np.zeros((4, 4)), np.empty(4), np.empty((4, 4)))
    assert mean == pytest.approx(1 - math.exp(-0.5 * y @ y) if goal.saturating else 0.5 * y @ y)
    assert mean == pytest.approx(goal.costs(state, FEATURES.names, FEATURES.angles))


def test_goals_of_tasks_are_low_where_tasks_are_solved() -> None:
    task = make_task("cartpole-pilco")
    features, params = features_of(task), task.params
    assert task.goal is not None
    matrix, target = task.goal.matrix(features.names, features.angles)
    for x in np.random.default_rng(0).normal(size=(20, 4)) + [0, math.pi, 0, 0]:
        y = matrix @ [*x, math.sin(x[1]), math.cos(x[1])] - target
        assert 1 - math.exp(-0.5 * y @ y) == pytest.approx(sum(task.cost(tuple(x), (0.0,), 0, params)))


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("pendulum-swingup", (0.0, 0.0)),
        ("cartpole-swingup", (0.0, 0.0, 0.0, 0.0)),
        ("cartpole-balance", (0.0, 0.0, 0.0, 0.0)),
        ("cartpole-pets", (0.0, math.pi, 0.0, 0.0)),
        ("cart-double-pendulum", (0.0,) * 6),
        ("pendulum-pilco", (0.0, 0.0)),
        ("cart-double-pendulum-pilco", (0.0,) * 6),
        ("mountain-car", (math.pi / 6, 0.0)),
    ],
)
def test_tasks_are_solved_at_their_goals(name: str, state: tuple[float, ...]) -> None:
    task = ANALYTIC_TASKS[name]()
    features = features_of(task)
    assert task.goal is not None and task.solved is not None
    matrix, target = task.goal.matrix(features.names, features.angles)
    angles = [state[i] for i in features.angles]
    np.testing.assert_allclose(matrix @ [*state, *np.sin(angles), *np.cos(angles)], target, atol=1e-12)
    assert task.solved(state, task.params)
    assert PILCO(task).horizon == 40


def test_processes_of_inducing_inputs_and_goals_felt_from_afar_are_learned_with() -> None:
    task = make_task("cartpole-pilco")
    assert task.goal is not None
    task = dataclasses.replace(task, goal=dataclasses.replace(task.goal, saturating=False))
    agent = PILCO(task, config=dataclasses.replace(SMALL, inducing=7), threads=1)
    agent.trial(world_of(task))
    assert agent.model.centers.shape == (7, agent.features.size) and agent.model.count == 12
    told = agent.trial(world_of(task))
    assert np.isfinite(told.loss) and told.forecast is not None
    with pytest.raises(InvalidInput, match="inducing"):
        PILCOConfig(inducing=0)


def test_a_task_without_a_goal_is_refused() -> None:
    task = dataclasses.replace(make_task("cartpole-pilco"), goal=None)
    with pytest.raises(NoGoal, match=r"declares no goal.*Goal\(terms="):
        PILCO(task)
    wrong = Goal(terms=({"hight": 1.0},), target=(0.0,), width=1.0)
    with pytest.raises(InvalidInput, match="speaks of 'hight', but the state has position"):
        PILCO(dataclasses.replace(task, goal=wrong))
    with pytest.raises(InvalidInput, match="width"):
        Goal(terms=({"position": 1.0},), target=(0.0,), width=0.0)
    with pytest.raises(InvalidInput, match="a target for each"):
        Goal(terms=({"position": 1.0},), target=(0.0, 1.0), width=1.0)


def test_the_cartpole_conserves_energy_without_friction() -> None:
    task = ANALYTIC_TASKS["cartpole-pilco"]()
    p = task.params._replace(friction=0.0)

    def energy(x: tuple[float, ...]) -> float:
        speed = x[2] ** 2 + x[2] * p.length * x[3] * math.cos(x[1]) + (p.length * x[3]) ** 2 / 3
        height = -0.5 * p.length * math.cos(x[1])
        return 0.5 * p.cart_mass * x[2] ** 2 + 0.5 * p.pole_mass * speed + p.pole_mass * p.gravity * height

    start: tuple[float, ...] = (0.1, 2.0, -0.3, 1.0)
    x = start
    for _ in range(20):
        x = task.step(x, (0.0,), p)
    assert energy(x) == pytest.approx(energy(start), abs=1e-4)
    assert acceleration(0.0, 0.0, 0.0, 1.0, p)[0] == pytest.approx(1 / (0.5 + 0.125))


def test_sensors_are_noisy_and_costs_are_not() -> None:
    task = ANALYTIC_TASKS["cartpole-pilco"]()
    clean = dataclasses.replace(task, sensor_noise=())
    noisy_world, clean_world = world_of(task), world_of(clean)
    noise, control = [], np.zeros(1)
    for seed in range(50):
        noise.append(noisy_world.reset(seed) - clean_world.reset(seed))
        noisy, true = noisy_world.step(control), clean_world.step(control)
        assert noisy.reward == true.reward
        noise.append(noisy.state - true.state)
    assert np.std(noise) == pytest.approx(0.01, rel=0.15)
    with pytest.raises(InvalidInput, match="sensor_noise must be 4"):
        dataclasses.replace(task, sensor_noise=(0.1,))


# Trials, files, the command.


def agent_of(seed: int = 0, **settings: Any) -> PILCO:
    return PILCO(make_task("cartpole-pilco"), config=dataclasses.replace(SMALL, **settings), seed=seed, threads=1)


def facts(result: TrainResult) -> tuple[object, ...]:
    curve = tuple((point.steps, point.return_, point.loss) for point in result.curve)
    return curve, result.evaluation, result.final_return, result.model_gap, dict(result.coverage)


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, calibrated = train("pilco", agent_of(), steps=36, folder=tmp_path / "whole")
    train("pilco", agent_of(), steps=24, folder=tmp_path / "parts")
    parts, _ = train("pilco", agent_of(), steps=36, folder=tmp_path / "parts")
    assert facts(parts) == facts(whole)
    assert calibrated is not None and len(whole.curve) == 3
    assert [point.steps for point in whole.curve] == [12, 24, 36]
    assert len(whole.evaluation) == 1
    with pytest.raises(InvalidInput, match="other settings"):
        train("pilco", agent_of(basis=4), steps=36, folder=tmp_path / "parts")


def test_trials_are_told_beside_what_was_predicted() -> None:
    agent = agent_of(policy="linear")
    world = world_of(agent.task)
    with pytest.raises(InvalidInput, match="before its first trial"):
        _ = agent.controller
    told: list[object] = []
    first, second = agent.trial(world), agent.trial(world, on_learning=told.append)
    assert first.forecast is None
    assert "policy search 1/1: evaluation 1, expected cost" in str(told[0])
    assert second.forecast is not None
    assert second.forecast.means.shape == (9, 4) and second.forecast.states.shape == (13, 4)
    assert (second.forecast.deviations > 0).all()
    state = np.array([0.1, 0.2, 0.0, 0.0])
    np.testing.assert_array_equal(agent.controller.plan(state).control, agent.act(state))
    plan = agent.controller.plan(np.full(4, np.nan))
    assert plan.control == [0.0] and plan.status.value == "safe"


@pytest.mark.parametrize("certain", [False, True])
def test_the_first_sight_is_that_of_resets(certain: bool) -> None:
    """The noise of what is seen of first states is counted once, be it all that there is of their spread."""
    task = dataclasses.replace(ANALYTIC_TASKS["cartpole-pilco"](), sensor_noise=(0.05,) * 4)
    if certain:
        task = dataclasses.replace(task, reset=lambda rng: np.zeros(4), sensor_noise=())
    agent = PILCO(task, config=SMALL, threads=1)
    world = world_of(task)
    agent.trial(world)
    said, seen = agent.trial(world).forecast, agent._starts
    assert said is not None and seen is not None
    np.testing.assert_allclose(said.means[0], seen.mean(axis=0), atol=1e-12)
    if certain:
        assert (seen == 0).all() and np.isfinite(said.means).all()
    else:
        np.testing.assert_allclose(said.deviations[0], seen.std(axis=0, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("algo", ["pilco", "mc-pilco"])
def test_searches_are_counted_with_those_that_begin_again(algo: str) -> None:
    few = {"basis": "5", "trial_steps": "12", "evaluations": "2", "restarts": "2", "enough": "1e-9"}
    settings = few if algo == "pilco" else {**few, "particles": "8"}
    agent = agent_for(algo, make_task("cartpole-pilco"), horizon=5, settings=settings, threads=1)
    world = world_of(agent.task)

    def told() -> list[str]:
        lines: list[str] = []
        agent.trial(world, on_learning=lambda progress: lines.append(str(progress).partition(":")[0]))
        return list(dict.fromkeys(lines))

    assert told() == [f"policy search {number}/2" for number in (1, 2)]
    assert told() == ["policy search 1/1", *(f"policy search {number}/3" for number in (2, 3))]


def test_a_good_policy_is_made_so_for_first_states_farther_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches from wider beliefs go on from one another, as long as what they find is good; else nothing is kept."""
    world = world_of(make_task("cartpole-pilco"))
    searches: list[tuple[np.ndarray, int, Policy, Found]] = []
    good = 0

    def recorded(chain: Chain, starts: list[Policy], **given: Any) -> Found:
        found = search(chain, starts, **given)
        if len(searches) >= good:
            found = found._replace(cost=np.inf)
        searches.append((given["cov"], given["evaluations"], starts[0], found))
        return found

    monkeypatch.setattr("mpcrl.agents.pilco.search", recorded)
    lines: list[str] = []

    def trained(first: int = 99, **settings: Any) -> tuple[PILCO, Trial]:
        """An agent after a trial, of whose searches only the first ones come to anything."""
        nonlocal good
        good = first
        searches.clear()
        agent = agent_of(**settings)
        return agent, agent.trial(world, on_learning=lambda done: lines.append(str(done).partition(":")[0]))

    agent, told = trained(margin=2.0, enough=1.0)
    covs = np.array([cov for cov, *_ in searches])
    np.testing.assert_allclose(covs, [covs[0], 2 * covs[0], 4 * covs[0]])
    assert [evaluations for _, evaluations, *_ in searches] == [6, 3, 3]
    assert all(later[2] is earlier[3].policy for earlier, later in itertools.pairwise(searches))
    assert list(dict.fromkeys(lines)) == [f"policy search {number}/{number}" for number in (1, 2, 3)]
    np.testing.assert_array_equal(agent.policy.parameters, searches[2][3].policy.parameters)
    assert agent._chain is not None and agent._starts is not None
    said = forecast(agent._chain, agent.policy, *_normal(agent._starts, agent._chain.noise), agent.horizon)
    assert told.loss == said.total

    for margin, enough, first, count in ((2.0, 1.0, 2, 3), (2.0, 1.0, 1, 2), (2.0, 1e-9, 99, 1), (1.0, 1.0, 99, 1)):
        agent, _ = trained(first, margin=margin, enough=enough)
        kept = searches[max(count - 2, 0)][3].policy
        assert len(searches) == count
        np.testing.assert_array_equal(agent.policy.parameters, kept.parameters)
    for wrong in (0.5, np.inf, 1e200, "2"):
        with pytest.raises(InvalidInput, match="margin"):
            PILCOConfig(margin=wrong)  # type: ignore[arg-type]


def test_the_command_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", tmp_path / "result.json"
    command = ["train", "pilco", "cartpole-pilco", *FLAGS, "--out", str(out), "--json", str(file), "--threads", "1"]
    assert main([*command, "--steps", "24"]) == 0
    written = json.loads(file.read_text())
    assert written == json.loads((out / RESULT).read_text())
    assert [point["steps"] for point in written["curve"]] == [12, 24]
    assert written["dt"] == 0.1
    assert (out / "trial_01.png").stat().st_size > 10_000
    assert (out / "curve.png").stat().st_size > 10_000
    assert main([*command, "--steps", "36"]) == 0
    printed = capsys.readouterr()
    assert "going on after 2 trials" in printed.out and "s of interaction" in printed.out
    assert f"run its policy with: mpcrl run cartpole-pilco --model {out}\n" in printed.out
    assert main([*command, "--steps", "36", "--planner", "icem"]) == 2
    assert "leave --planner out" in capsys.readouterr().err


def test_a_policy_that_was_learned_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = agent_of()
    agent.trial(world_of(agent.task))
    agent.save_model(tmp_path / MODEL_FOLDER)
    world, taken = world_of(agent.task), []
    state = world.reset(3)
    for _ in range(10):
        taken.append(agent.act(state))
        state = world.step(taken[-1]).state
    result = run_task(make_task("cartpole-pilco"), model=str(tmp_path), steps=10, seed=3)
    np.testing.assert_array_equal(result.records[0].controls, taken)
    assert (result.planner, result.model, result.samples, result.fallbacks) == ({"name": "policy"}, "none", 0, 0)
    assert run_task(agent.task, agent.controller, steps=10, seed=3).control_hash == result.control_hash
    command = ["run", "cartpole-pilco", "--model", str(tmp_path), "--steps", "2", "--threads", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "learned policy" in capsys.readouterr().out
    assert main([*command, "--planner", "icem", "--budget", "16", "--horizon", "4"]) == 0
    assert "icem, 16 trajectories" in capsys.readouterr().out
    assert main([*command, "--budget", "16"]) == 2
    assert "leave --budget out, or name a --planner" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="leave budget_ms out"):
        run_task(agent.task, model=str(tmp_path), budget_ms=5.0)
    with pytest.raises(InvalidInput, match="mode realtime"):
        run_task(agent.task, model=str(tmp_path), conditions=Conditions(mode="realtime"))


def test_a_policy_is_one_of_its_task(tmp_path: Path) -> None:
    agent = agent_of()
    agent.trial(world_of(agent.task))
    agent.save_model(tmp_path / "policy")
    other = dataclasses.replace(agent.task, goal=None)
    np.testing.assert_array_equal(load_policy(other, tmp_path / "policy").act(np.zeros(4)), agent.act(np.zeros(4)))
    for changes, what in (({"angles": ()}, "angles"), ({"control_high": [11.0]}, "high")):
        with pytest.raises(InvalidInput, match=f"another task than 'cartpole-pilco', with {what}"):
            load_policy(dataclasses.replace(agent.task, **changes), tmp_path / "policy")
    write_bundle(tmp_path / "model", agent.model.files(), HEAD)
    with pytest.raises(DamagedExport, match="no policy in"):
        load_policy(agent.task, tmp_path / "model")


def test_settings_are_read_as_their_types() -> None:
    task = make_task("cartpole-pilco")
    agent = agent_for("pilco", task, settings={"policy": "linear", "trial_steps": "none"}, horizon=12)
    assert isinstance(agent, PILCO)
    assert agent.config.policy == "linear" and agent.trial_steps == 12
    with pytest.raises(InvalidInput, match="policy must be rbf or linear"):
        agent_for("pilco", task, settings={"policy": "deep"})
    with pytest.raises(InvalidInput, match="did you mean 'evaluations'"):
        agent_for("pilco", task, settings={"evaluation": "3"})
