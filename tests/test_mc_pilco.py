"""MC-PILCO: particles beside a slow twin, the gradient of their cost, positions as integrals, trials, files, and the
command; that it learns the cart-pole is in `benchmarks/pilco.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcrl.agents.mc_pilco import MCPILCO, MCPILCOConfig
from mpcrl.cli import main
from mpcrl.core.errors import InvalidInput
from mpcrl.experiments.configure import agent_for
from mpcrl.experiments.training import train
from mpcrl.experiments.worlds import world_of
from mpcrl.kernels.cascade import Cascade
from mpcrl.learning.function_particles import FunctionParticles
from mpcrl.learning.gaussian_process import fit
from mpcrl.learning.particle_search import (
    Noise,
    Particles,
    ParticleSearchConfig,
    cascade_of,
    search,
    whole_tiles,
)
from mpcrl.learning.policies import WeightedRBFPolicy, controls, policy_files, policy_of_files
from mpcrl.learning.policy_search import policy_inputs
from mpcrl.models.speed_integration import Integrals, integrated, moved, outputs_of, predicted, sight
from mpcrl.tasks.features import Features, features_of, speeds_of
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.registry import ANALYTIC_TASKS, make_task
from tests.test_pilco import FEATURES, GOAL, HIGH, LOW, QUADRATIC, facts, model_for

INTEGRALS: Integrals = ((0, 2),)  # of FEATURES, the place and its speed
DT, SIGHT = 0.1, np.array([0.01, 0.02, 0.03, 0.04])
KNOWN = predicted(FEATURES, INTEGRALS)
PROCESS = outputs_of(model_for(FEATURES), KNOWN)
SMALL = ParticleSearchConfig(particles=16, evaluations=4)


def cascade(goal: Goal = GOAL, **changes: Any) -> Cascade:
    made = cascade_of(PROCESS, FEATURES, goal, LOW, HIGH, integrals=INTEGRALS, dt=DT, sight=SIGHT)
    return made._replace(**changes)


def policy(basis: int = 7) -> WeightedRBFPolicy:
    rng = np.random.default_rng(1)
    z = policy_inputs(FEATURES, rng.normal(size=(20, 4)))
    return WeightedRBFPolicy.random(z, 2, rng, count=basis, lengthscale=np.full(z.shape[1], 1.2), size=0.7)


def particles(count: int = 16, horizon: int = 5, threads: int = 1, goal: Goal = GOAL) -> Particles:
    rng, made = np.random.default_rng(2), cascade(goal)
    starts = 0.3 * rng.normal(size=(4, count))
    return Particles(made, starts, Noise.drawn(made, horizon, count, rng), threads)


def dropped(horizon: int, basis: int, count: int) -> np.ndarray:
    return (np.random.default_rng(3).random((horizon, basis, count)) > 0.25).astype(np.uint8)


# Particles.


@pytest.mark.parametrize("goal", [GOAL, QUADRATIC])
def test_particles_go_where_a_slow_twin_goes(goal: Goal) -> None:
    """By the formulas of the module, one particle after the other, with `GaussianProcess.predict`."""
    cloud, net, keep = particles(goal=goal), policy().network(), dropped(5, 7, 16)
    cost, _ = cloud.cost_and_gradient(policy(), keep, 1.25)
    total = 0.0
    for m in range(16):
        x = cloud.starts[:, m]
        for t in range(5):
            o = x + SIGHT * cloud.noise.sights[t, :, m]
            kept = net._replace(weights=net.weights * 1.25 * keep[t, :, m])
            u = controls(kept, policy_inputs(FEATURES, o), LOW, HIGH)
            said = PROCESS.predict(FEATURES.inputs(x, u))
            following = x.copy()
            following[KNOWN] = said.mean + np.sqrt(said.variance) * cloud.noise.normals[t, :, m]
            following[[1, 2]] += x[[1, 2]]  # changes; the last number is predicted itself
            following[0] = x[0] + DT * (x[2] + following[2]) / 2
            x = following
            total += float(goal.costs(x, FEATURES.names, FEATURES.angles))
    assert cost == pytest.approx(total / 16, rel=1e-10)
    states, plain = cloud.rolled(policy())
    assert plain != pytest.approx(cost) and np.isfinite(states).all()


@pytest.mark.parametrize("goal", [GOAL, QUADRATIC])
def test_the_gradient_of_the_mean_cost(goal: Goal) -> None:
    cloud, start, keep = particles(goal=goal), policy(), dropped(5, 7, 16)
    _, gradient = cloud.cost_and_gradient(start, keep, 4 / 3)
    worst = 0.0
    for i in range(len(gradient)):
        ends = []
        for h in (1e-5, -1e-5):
            moved = start.parameters
            moved[i] += h
            ends.append(cloud.cost_and_gradient(start.with_parameters(moved), keep, 4 / 3)[0])
        worst = max(worst, abs((ends[0] - ends[1]) / 2e-5 - gradient[i]))
    assert worst < 1e-7 * np.abs(gradient).max()


def test_a_gradient_fades_with_the_steps_between_a_control_and_its_cost() -> None:
    """With a factor f it is sum_k f^k g_k; g_0 is that of single steps, from the states that all of them come to."""
    cloud, start = particles(horizon=3), policy()

    def faded(fade: float) -> np.ndarray:
        return cloud.cost_and_gradient(start, fade=fade)[1]

    none, exact, (states, _) = faded(0.0), faded(1.0), cloud.rolled(start)
    single = np.zeros_like(exact)
    for t in range(3):
        noise = Noise(cloud.noise.normals[t : t + 1], cloud.noise.sights[t : t + 1])
        single += Particles(cloud.cascade, states[t], noise).cost_and_gradient(start)[1]
    np.testing.assert_allclose(none, single, rtol=1e-9, atol=1e-12)
    half, whole = faded(0.5) - none, exact - none
    second = 2 * (whole - 2 * half)
    np.testing.assert_allclose(faded(0.25) - none, (whole - second) / 4 + second / 16, rtol=1e-9, atol=1e-12)


def test_threads_and_whole_tiles_change_nothing() -> None:
    start, count = policy(), whole_tiles(40)
    cost, gradient = particles(count).cost_and_gradient(start)
    again, also = particles(count, threads=2).cost_and_gradient(start)
    assert again == cost
    np.testing.assert_array_equal(also, gradient)


def test_what_leaves_all_bounds_costs_infinitely() -> None:
    made = cascade()
    wild = made._replace(model=made.model._replace(slope=1e200 * np.ones_like(made.model.slope)))
    cloud = particles()
    beyond = Particles(wild, cloud.starts, cloud.noise)
    cost, gradient = beyond.cost_and_gradient(policy())
    assert cost == np.inf and not gradient.any()
    assert beyond.rolled(policy())[1] == np.inf  # not NaN, which is below every bar


def test_a_search_goes_down_and_begins_anew_the_same() -> None:
    starts = 0.1 * np.random.default_rng(0).normal(size=(30, 4))
    settings = ParticleSearchConfig(particles=32, evaluations=60, rate=0.05)
    told: list[float] = []

    def found(threads: int) -> Any:
        return search(
            cascade(), policy(), starts=starts, horizon=5, config=settings, rng=np.random.default_rng(5),
            threads=threads, on_evaluation=lambda progress: told.append(progress.cost),
        )  # fmt: skip

    first = found(1)
    assert first.cost < told[0] - 0.1
    np.testing.assert_array_equal(found(2).policy.parameters, first.policy.parameters)
    same = policy_of_files(policy_files(first.policy))
    np.testing.assert_array_equal(same.parameters, first.policy.parameters)
    for wrong in ({"particles": 0}, {"dropout": 1.0}, {"rate": 0.0}, {"fade": 1.1}, {"fade": np.nan}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            ParticleSearchConfig(**wrong)


@pytest.mark.parametrize("size", [1e200, np.inf])
def test_a_step_that_tells_nothing_is_left_out_and_others_fade(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout stays for half of the steps and falls along a line; the end is never worse than the start."""
    asked: list[tuple[float, float]] = []
    exact = Particles.cost_and_gradient

    def once_beyond(self: Particles, policy: Any, keep: Any = None, factor: float = 1.0, *, fade: float = 1.0) -> Any:
        asked.append((factor, fade))
        cost, gradient = exact(self, policy, keep, factor, fade=fade)
        return cost, gradient * size if len(asked) == 5 else gradient

    monkeypatch.setattr(Particles, "cost_and_gradient", once_beyond)
    starts = 0.1 * np.random.default_rng(0).normal(size=(30, 4))
    settings = ParticleSearchConfig(particles=32, evaluations=40, rate=0.05, fade=0.8)
    told: list[float] = []
    found = search(
        cascade(), policy(), starts=starts, horizon=5, config=settings, rng=np.random.default_rng(5),
        on_evaluation=lambda progress: told.append(progress.cost),
    )  # fmt: skip
    assert np.isfinite(found.policy.parameters).all() and found.cost < told[0] - 0.1
    left = [min(1.0, 2 - step / 20) for step in range(40)]
    np.testing.assert_allclose([factor for factor, _ in asked], [1 / (1 - 0.25 * share) for share in left])
    assert {fade for _, fade in asked} == {0.8}


def test_other_kernels_are_refused() -> None:
    other = dataclasses.replace(PROCESS, kernel="matern52")
    with pytest.raises(InvalidInput, match="kernel 'se', got 'matern52'"):
        cascade_of(other, FEATURES, GOAL, LOW, HIGH, integrals=INTEGRALS, dt=DT, sight=SIGHT)


# Positions as integrals.


def test_processes_of_integrals_are_those_of_their_speeds() -> None:
    features = dataclasses.replace(FEATURES, unseen=(), absolute=())
    process = outputs_of(model_for(features), KNOWN)
    whole = integrated(process, features, INTEGRALS, DT)
    rng = np.random.default_rng(0)
    states, taken = rng.normal(size=(10, 4)), rng.normal(size=(10, 2))
    inputs = features.inputs(states, taken)
    one, all_ = process.predict(inputs), whole.predict(inputs)
    np.testing.assert_allclose(all_.mean[:, KNOWN], one.mean, atol=1e-12)
    np.testing.assert_allclose(all_.mean[:, 0], DT * states[:, 2] + DT / 2 * one.mean[:, 1], atol=1e-12)
    np.testing.assert_allclose(all_.variance[:, 0], (DT / 2) ** 2 * one.variance[:, 1], atol=1e-15)
    itself = integrated(process, dataclasses.replace(features, absolute=(2,)), INTEGRALS, DT).predict(inputs)
    np.testing.assert_allclose(itself.mean[:, 0], DT / 2 * (states[:, 2] + one.mean[:, 1]), atol=1e-12)
    reached = moved(features, INTEGRALS, DT, states, one.mean)
    np.testing.assert_allclose(reached, features.next_states(states, all_.mean), atol=1e-12)
    again = outputs_of(whole, KNOWN)
    np.testing.assert_array_equal(again.targets, process.targets)


def test_what_is_seen_of_integrals_is_as_noisy_as_it_is() -> None:
    """A ball under random pushes, that acts half by half: the sum of its speeds is its way."""
    task = make_task("cartpole-pilco")
    features, rng = features_of(task), np.random.default_rng(0)
    integrals = speeds_of(task, features)
    assert integrals == ((0, 2), (1, 3))
    states = rng.normal(size=(400, 4))
    following = states.copy()
    following[:, 2:] += 0.1 * rng.normal(size=(400, 2))
    following[:, :2] += 0.1 * (states + following)[:, 2:] / 2
    noise = np.array([0.03, 0.01, 0.02, 0.005])
    before, after = (part + noise * rng.normal(size=part.shape) for part in (states, following))
    inputs, targets = features.inputs(before, np.zeros((400, 1))), features.targets(before, after)[:, 2:]
    process = dataclasses.replace(
        fit(inputs[:40], targets[:40], threads=1), inputs=inputs, targets=targets, noise=np.sqrt(2) * noise[2:]
    )
    np.testing.assert_allclose(sight(process, features, integrals, 0.1, before, after), noise, rtol=0.15)


def test_particles_keep_their_functions() -> None:
    """Where nothing is known changes add up, step for step; drawn anew they would as the root of the steps."""
    features = Features(names=("place", "speed"), nu=1)
    process = outputs_of(model_for(features), [1])
    unknown = dataclasses.replace(
        process, inputs=process.inputs + 1e4, lengthscale=np.full((1, 3), 1e2), slope=np.zeros((1, 3))
    )
    cloud = FunctionParticles(unknown, features, ((0, 1),), dt=DT, sight=np.zeros(2), count=400, seed=0)
    rest = np.zeros((400, 2, 1))
    seen = cloud.seen(np.zeros((400, 2, 2)), 16, lambda t, seen: rest, np.random.default_rng(0))
    assert seen.shape == (400, 2, 17, 2)
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])
    spread = seen[:, 0, :, 1].std(axis=0)
    assert spread[1] == pytest.approx(0.3, rel=0.15) and spread[16] == pytest.approx(16 * spread[1], rel=0.05)
    places, speeds = seen[..., 0], seen[..., 1]
    np.testing.assert_allclose(np.diff(places), DT * (speeds[..., 1:] + speeds[..., :-1]) / 2, atol=1e-12)


def test_what_is_seen_is_what_is_acted_on() -> None:
    cloud = FunctionParticles(PROCESS, FEATURES, INTEGRALS, dt=DT, sight=SIGHT, count=50, seed=0)
    shown: list[np.ndarray] = []

    def act(t: int, seen: np.ndarray) -> np.ndarray:
        assert t == len(shown)
        shown.append(seen)
        return np.zeros((50, 1, 2))

    first = np.random.default_rng(1).normal(size=(50, 1, 4))
    told = cloud.seen(first, 3, act, np.random.default_rng(0))
    np.testing.assert_array_equal(np.stack(shown, axis=2), told[:, :, :3])
    np.testing.assert_array_equal(told[:, :, 0], first)


def test_speeds_are_those_of_tasks() -> None:
    for name in ANALYTIC_TASKS:
        task = ANALYTIC_TASKS[name]()
        features = features_of(task)
        for number, speed in speeds_of(task, features):
            x = np.zeros(features.nx)
            x[speed] = 1.0
            moved = np.array(task.step(tuple(x), tuple(np.zeros(task.nu)), task.params)) - x
            assert moved[number] == pytest.approx(task.dt * 1.0, rel=0.5), name
    pendulum = make_task("InvertedPendulum-v5")
    features = features_of(pendulum)
    named = [(features.names[a], features.names[b]) for a, b in speeds_of(pendulum, features)]
    assert named == [("qpos[0]", "qvel[0]"), ("qpos[1]", "qvel[1]")]
    with pytest.raises(InvalidInput, match="'speed', but the state has qpos"):  # not ignored where joints say it
        speeds_of(dataclasses.replace(pendulum, speeds={"qpos[0]": "speed"}), features)
    wrong = dataclasses.replace(make_task("cartpole-pilco"), speeds={"angle": "rat"})
    with pytest.raises(InvalidInput, match="'rat', but the state has position"):
        MCPILCO(wrong)
    for chain in ({"position": "velocity", "velocity": "rate"}, {"velocity": "velocity"}):
        with pytest.raises(InvalidInput, match="'velocity' cannot be the speed of"):
            MCPILCO(dataclasses.replace(wrong, speeds=chain))


# Trials, files, the command.


def agent_of(**settings: Any) -> MCPILCO:
    config = MCPILCOConfig(search=SMALL, basis=5, horizon=8, trial_steps=12, **settings)
    return MCPILCO(make_task("cartpole-pilco"), config=config, threads=1)


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, calibrated = train("mc-pilco", agent_of(), steps=36, folder=tmp_path / "whole")
    train("mc-pilco", agent_of(), steps=24, folder=tmp_path / "parts")
    parts, _ = train("mc-pilco", agent_of(), steps=36, folder=tmp_path / "parts")
    assert facts(parts) == facts(whole)
    assert calibrated is not None and len(whole.curve) == 3
    with pytest.raises(InvalidInput, match="other settings"):
        train("mc-pilco", agent_of(integrate=False), steps=36, folder=tmp_path / "parts")
    other = agent_of()
    slow = dataclasses.replace(other.task, speeds={"position": "velocity"})
    with pytest.raises(InvalidInput, match="other settings"):
        MCPILCO(slow, config=other.config).load(next((tmp_path / "parts").rglob("agent")).parent)


def test_trials_are_told_beside_what_was_predicted() -> None:
    agent = agent_of()
    world = world_of(agent.task)
    first, second = agent.trial(world), agent.trial(world)
    assert first.forecast is None and second.forecast is not None
    assert second.forecast.means.shape == (9, 4) and (second.forecast.deviations > 0).all()
    acting, state = agent.controller, np.array([0.1, 0.2, 0.0, 0.0])
    np.testing.assert_array_equal(acting.act(state), agent.act(state))
    agent.trial(world)
    assert (acting.act(state) != agent.act(state)).all()  # of a controller the policy stays as it is
    drawn = agent.predictor()(state, np.zeros((3, 4, 1)))
    assert drawn.shape[1:] == (3, 5, 4) and (drawn[:, :, 0] == state).all()


def test_the_command_trains_it_and_planners_use_its_processes(tmp_path: Path) -> None:
    flags = ["--setting", "basis=5", "--setting", "trial_steps=12", "--setting", "evaluations=3"]
    flags += ["--setting", "particles=16", "--horizon", "8", "--steps", "24", "--seed", "1"]
    assert main(["train", "mc-pilco", "cartpole-pilco", *flags, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "trial_01.png").exists()
    folder = str(tmp_path / "out" / "model")
    command = ["run", "cartpole-pilco", "--model", folder, "--steps", "2"]
    assert main(command) == 0
    assert main([*command, "--planner", "icem", "--budget", "16", "--horizon", "4"]) == 0
    with pytest.raises(InvalidInput, match="leave --planner out"):
        agent_for("mc-pilco", make_task("cartpole-pilco"), planner="cem")
