"""Ensembles as models: the kernels against plain twins in float64, and the laws of each propagation."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.stats
from llvmlite import ir

from mpcrl.control.controller import Controller
from mpcrl.control.export import export, load
from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import ensemble as kernels
from mpcrl.kernels import network as layers
from mpcrl.models import ensemble as models
from mpcrl.models.ensemble import Ensemble
from mpcrl.models.network import ACTIVATIONS, Network
from mpcrl.models.risk import CVaR, Mean, Worst
from mpcrl.planners import icem
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import AnalyticTask
from tests.assembly import assembly

H = 8


# ---- a task with everything: an angle, a number that is unseen, terms, an array in the params, an end ----------------
class DriftParams(NamedTuple):
    goal: np.ndarray
    weight: float
    wall: float


class DriftCost(NamedTuple):
    place: float
    control: float


def drift_cost(x: Any, u: Any, t: int, p: DriftParams) -> DriftCost:
    place = p.weight * ((x[0] - p.goal[0]) ** 2 + (x[1] - p.goal[1]) ** 2) + 0.1 * math.cos(x[2])
    return DriftCost(place, 0.1 * u[0] ** 2 + 0.01 * t * u[1] ** 2)


def drift_terminal(x: Any, p: DriftParams) -> float:
    return 3.0 * abs(x[3])


def drift_terminated(x: Any, p: DriftParams) -> bool:
    return x[0] > p.wall


def drift_lost(x: Any, p: DriftParams) -> bool:
    return not math.isfinite(x[0]) or abs(x[0]) > p.wall


def drift_step(x: Any, u: Any, p: DriftParams) -> tuple[float, ...]:
    return x


def task_of(**changes: Any) -> AnalyticTask:
    values: dict[str, Any] = {
        "name": "drift",
        "dt": 0.1,
        "control_low": np.full(2, -1.0),
        "control_high": np.full(2, 1.0),
        "params": DriftParams(np.array([0.3, -0.2]), 0.5, 1e9),
        "cost": drift_cost,
        "terminal": drift_terminal,
        "terminated": drift_terminated,
        "episode_steps": 100,
        "state_names": ("a", "b", "angle", "far"),
        "control_names": ("u", "v"),
        "step": drift_step,
        "reset": lambda rng: np.array([0.1, -0.4, 2.0, 0.7]),
        "angles": ("angle",),
        "unseen": ("far",),
    }
    return AnalyticTask(**{**values, **changes})


TASK = task_of()
FEATURES = features_of(TASK)
START = np.array([0.1, -0.4, 2.0, 0.7])
STARTS = np.tile(START, (100, 1))
CONTROLS = np.random.default_rng(1).uniform(-1, 1, (100, H, 2)).astype(np.float32)


def random_network(
    features: Features = FEATURES,
    widths: tuple[int, ...] = (20, 13),
    members: int = 5,
    activation: str = "silu",
    probabilistic: bool = True,
    seed: int = 0,
    change: float = 0.05,
    **more: Any,
) -> Network:
    """Any numbers at which all parts of a network matter."""
    rng = np.random.default_rng(seed)
    nout = features.nx + more.get("learned_cost", False) + more.get("learned_end", False)
    sizes = (features.size, *widths, nout * (1 + probabilistic))

    def real(array: Any) -> np.ndarray:
        return np.asarray(array, np.float32)

    pairs = list(itertools.pairwise(sizes))
    return Network(
        features=features,
        weights=tuple(real(rng.normal(size=(members, i, o)) * 1.3 / i**0.5) for i, o in pairs),
        biases=tuple(real(rng.normal(size=(members, o)) * 0.1) for _, o in pairs),
        activation=activation,
        probabilistic=probabilistic,
        input_mean=real(rng.normal(size=features.size)),
        input_scale=real(rng.uniform(0.5, 2, features.size)),
        target_mean=real(rng.normal(size=nout) * change / 5),
        target_scale=real(rng.uniform(0.5, 2, nout) * change),
        least_logvar=real(rng.uniform(-6, -4, nout)),
        most_logvar=real(rng.uniform(-1, 1, nout)),
        **more,
    )


def constant_network(drifts: np.ndarray, std: float = 0.0, **more: Any) -> Network:
    """Member e moves the state by drifts[e], with this standard deviation where it is not 0, whatever it sees."""
    members, nx = drifts.shape
    network = random_network(members=members, probabilistic=std > 0, **more)
    s = np.full((members, nx), 2 * np.log(std)) if std else np.zeros((members, 0))
    nout = network.nout
    means = np.zeros((members, nout))
    means[:, :nx] = drifts
    if std:
        s = np.pad(s, ((0, 0), (0, nout - nx)), constant_values=-20.0)
    return dataclasses.replace(
        network,
        weights=(*network.weights[:-1], np.zeros_like(network.weights[-1])),
        biases=(*network.biases[:-1], np.concatenate([means, s], axis=1).astype(np.float32)),
        target_mean=np.zeros(nout, np.float32),
        target_scale=np.ones(nout, np.float32),
        least_logvar=np.full(nout, -40, np.float32),
        most_logvar=np.full(nout, 40, np.float32),
    )


def costs_of(model: Ensemble, controls: np.ndarray = CONTROLS, threads: int = 1, **more: Any) -> np.ndarray:
    state, params = more.get("state", START), more.get("params", model.task.params)
    return model.costs(state, Candidates.from_rows(controls), more.get("t", 0), params, ThreadBudget(threads))


def paths_of(network: Network, members: np.ndarray, start: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Twin: states [P, N, H+1, nx] of particles that go by the means of `members` [P, H], in float64."""
    states = [np.broadcast_to(start, (len(members), len(controls), start.size))]
    for h in range(controls.shape[1]):
        means = [network.predict(states[-1][p], controls[:, h]).mean[e] for p, e in enumerate(members[:, h])]
        states.append(network.features.next_states(states[-1], np.array(means)))
    return np.stack(states, axis=2)


def kept(elites: Any, particles: int, steps: int = H) -> np.ndarray:
    return np.tile(np.resize(elites, particles)[:, None], (1, steps))


# ---- the forward pass ------------------------------------------------------------------------------------------------
SHAPES = [
    ((7,), 1), ((20, 13), 5), ((33, 31, 32), 2), ((64, 5, 64, 5), 3), ((16, 17, 18, 19, 20), 10), ((200, 200), 2),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("widths", "members"), SHAPES)
def test_a_forward_pass_is_that_of_the_network(activation: str, widths: tuple[int, ...], members: int) -> None:
    features = dataclasses.replace(FEATURES, absolute=(0, 1, 2, 3))
    for probabilistic in (True, False):
        network = random_network(features, widths, members, activation, probabilistic, change=1.0)
        model = Ensemble(TASK, network, propagation=members - 1, noise="none", particles=1)
        truth = network.predict(STARTS, CONTROLS[:, 0])
        got = model.sampled(START, CONTROLS[:, :1])[0, :, 1]
        away = np.abs(got - truth.mean[-1]).max(axis=0) / np.abs(truth.mean[-1]).max(axis=0)
        assert away.max() < 1e-5
        noise = model.uncertainty(START, CONTROLS[:, :1]).aleatoric[:, 0]
        expected = np.sqrt((truth.std**2).mean(axis=0))
        np.testing.assert_allclose(noise, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_hold_far_out(activation: str) -> None:
    """At huge inputs, where a power of two would overflow, and at none."""
    network = random_network(dataclasses.replace(FEATURES, absolute=(0, 1, 2, 3)), activation=activation, members=1)
    model = Ensemble(TASK, network, noise="none", particles=1)
    for far in (0.0, 1e-6, 1e2, 1e4, 1e8):
        state = START + np.array([far, -far, 0.0, 0.0])
        truth = network.predict(np.tile(state.astype(np.float32), (100, 1)), CONTROLS[:, 0]).mean[0]
        got = model.sampled(state, CONTROLS[:, :1])[0, :, 1]
        assert np.abs(got - truth).max() <= 1e-5 * np.abs(truth).max()


def test_large_input_means_lose_nothing() -> None:
    network = random_network()
    away = np.array([1000.0, 0, 0, 0])
    moved = dataclasses.replace(network, input_mean=network.input_mean + 1000 * np.eye(6, dtype=np.float32)[0])
    near, far = (Ensemble(TASK, n, noise="none", particles=5) for n in (network, moved))
    step = far.sampled(START + away, CONTROLS[:, :1])[..., 1, :] - far.sampled(START + away, CONTROLS[:, :1])[..., 0, :]
    expected = near.sampled(START, CONTROLS[:, :1])[..., 1, :] - near.sampled(START, CONTROLS[:, :1])[..., 0, :]
    assert np.abs(step - expected).max() < 2e-4  # of float32 numbers near 1000


# ---- rollouts and costs ----------------------------------------------------------------------------------------------
def test_rollouts_and_costs_are_those_of_the_twin() -> None:
    network = dataclasses.replace(
        random_network(dataclasses.replace(FEATURES, absolute=(1,))), elites=(3, 0, 4), learned_cost=False
    )
    model = Ensemble(TASK, network, noise="none", particles=7)
    paths = paths_of(network, kept((3, 0, 4), 7), START, CONTROLS)
    got = model.sampled(START, CONTROLS)
    assert np.array_equal(got[:, :, 0], np.broadcast_to(START.astype(np.float32), got[:, :, 0].shape))
    np.testing.assert_allclose(got, paths, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.rollout(START, CONTROLS, 0, TASK.params), paths.mean(axis=0), rtol=0, atol=1e-5)
    truth = twin_costs(paths, CONTROLS, TASK, t0=4)
    costs = costs_of(model, t=4)
    np.testing.assert_allclose(costs, truth.mean(axis=0), rtol=1e-5)
    assert scipy.stats.spearmanr(costs, truth.mean(axis=0)).statistic >= 0.999
    worst = costs_of(Ensemble(TASK, network, noise="none", particles=7, risk=Worst()), t=4)
    np.testing.assert_allclose(worst, truth.max(axis=0), rtol=1e-5)
    other = TASK.params._replace(goal=np.array([-2.0, 1.0]), weight=2.0)
    changed = twin_costs(paths, CONTROLS, dataclasses.replace(TASK, params=other))
    np.testing.assert_allclose(costs_of(model, params=other), changed.mean(axis=0), rtol=1e-5)


def twin_costs(paths: np.ndarray, controls: np.ndarray, task: AnalyticTask, t0: int = 0) -> np.ndarray:
    """Costs [P, N] of paths [P, N, H+1, nx], which may go on beyond an episode's end."""
    costs = np.zeros(paths.shape[:2])
    for p, n in np.ndindex(*costs.shape):
        for h, u in enumerate(controls[n].astype(float)):
            costs[p, n] += sum(task.cost(tuple(paths[p, n, h]), tuple(u), t0 + h, task.params))
            if task.terminated and task.terminated(tuple(paths[p, n, h + 1]), task.params):
                break
        else:
            costs[p, n] += task.terminal(tuple(paths[p, n, -1]), task.params) if task.terminal else 0.0
    return costs


def test_a_linear_system_in_a_network_costs_what_it_does_as_functions() -> None:
    """relu(z) - relu(-z) = z makes a network of any linear map."""
    task = make_task("lqr")
    assert isinstance(task, AnalyticTask)
    features, h = features_of(task), task.dt
    change = np.array([[0.0, 0.0], [h, 0.0], [h**2 / 2, h]])  # of position and velocity, by these and the control
    network = random_network(features, (6,), 3, "relu", probabilistic=False)
    network = dataclasses.replace(
        network,
        weights=(
            np.tile(np.concatenate([np.eye(3), -np.eye(3)], axis=1), (3, 1, 1)).astype(np.float32),
            np.tile(np.concatenate([change, -change]), (3, 1, 1)).astype(np.float32),
        ),
        biases=(np.zeros((3, 6), np.float32), np.zeros((3, 2), np.float32)),
        input_mean=np.zeros(3, np.float32),
        input_scale=np.ones(3, np.float32),
        target_mean=np.zeros(2, np.float32),
        target_scale=np.ones(2, np.float32),
    )
    controls = np.random.default_rng(0).uniform(task.control_low, task.control_high, (130, 25, 1)).astype(np.float32)
    start, truth = np.array([0.8, -0.3]), np.zeros(130)
    for n, sequence in enumerate(controls.astype(float)):
        x = tuple(start)
        for h, u in enumerate(sequence):
            truth[n] += sum(task.cost(x, tuple(u), h, task.params))
            x = task.step(x, tuple(u), task.params)
        truth[n] += task.terminal(x, task.params) if task.terminal else 0.0
    model = Ensemble(task, network, particles=3)
    np.testing.assert_allclose(costs_of(model, controls, state=start, params=task.params), truth, rtol=1e-5)


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Reacher-v5", "InvertedPendulum-v5"])
def test_costs_of_records_are_those_of_the_tasks_functions(name: str) -> None:
    pytest.importorskip("mujoco")
    task = make_task(name)
    assert isinstance(task, MujocoTask)
    network = random_network(features_of(task), members=2, change=0.1)
    model = Ensemble(task, network, noise="none", particles=2)
    start = model.example_state()
    controls = np.random.default_rng(0).uniform(-1, 1, (70, H, task.nu)).astype(np.float32)
    paths = model.sampled(start, controls)
    if task.terminated is None:
        np.testing.assert_allclose(paths, paths_of(network, kept((0, 1), 2), start, controls), rtol=0, atol=1e-5)
    costs = costs_of(model, controls, state=start)
    cost, ended = task.planning_cost or task.cost, 0
    for n in (0, 1, 33, 69):
        expected = 0.0
        for p in range(2):
            for h in range(H):
                before, after = (model._record(paths[p, n, i]) for i in (h, h + 1))
                expected += cost(before, controls[n, h].astype(float), after, h, task.params)
                if task.terminated and task.terminated(after, task.params):
                    ended += 1
                    break
            else:
                expected += task.terminal(after, task.params) if task.terminal else 0.0
        assert costs[n] == pytest.approx(expected / 2, rel=1e-5)
    assert ended or name != "InvertedPendulum-v5"
    assert set(model.terms(start, controls[0, 0], 0, task.params)) == {"cost"}


def test_who_has_ended_stays_and_pays_nothing_more() -> None:
    """Candidates that pass the wall end there, each at its time."""
    drifts = np.array([[0.11, 0.0, 0.0, 0.1]])
    task = task_of(params=DriftParams(np.array([0.3, -0.2]), 0.5, 0.5))
    model = Ensemble(task, constant_network(drifts), particles=1)
    paths = model.sampled(START, CONTROLS)[0]
    assert (paths[:, 4:, 0] == paths[:, 4:5, 0]).all() and paths[0, 4, 0] > 0.5 > paths[0, 3, 0]
    free = START + np.arange(H + 1)[:, None] * drifts
    truth = twin_costs(np.broadcast_to(free, (1, 100, H + 1, 4)), CONTROLS, task)[0]
    np.testing.assert_allclose(costs_of(model), truth, rtol=1e-5)


def test_what_diverges_costs_infinity() -> None:
    grown = np.where(np.arange(100) % 3 == 0, 1e30, 1.0)[:, None, None] * CONTROLS
    network = random_network(activation="relu", change=1e9)
    for task in (TASK, task_of(terminated=drift_lost)):
        costs = costs_of(Ensemble(task, network, particles=5, noise="none"), grown)
        assert np.isinf(costs[::3]).all() and (costs > 0).all()


def test_a_learned_cost_and_a_learned_end() -> None:
    network = random_network(learned_cost=True, learned_end=True, seed=3)
    bias = network.biases[-1].copy()
    bias[:, 5] -= 1.0  # some end, some do not
    network = dataclasses.replace(network, biases=(*network.biases[:-1], bias))
    model = Ensemble(TASK, network, particles=5, noise="none")
    paths, ended = paths_of(network, kept(range(5), 5), START, CONTROLS), 0
    expected = np.zeros((5, 100))
    for p in range(5):
        alive = np.ones(100, bool)
        for h in range(H):
            outputs = network.predict(paths[p, :, h], CONTROLS[:, h]).mean[p]
            expected[p] += np.where(alive, outputs[:, 4], 0.0)
            alive &= ~(outputs[:, 5] > 0)
        expected[p] += np.where(alive, 3.0 * np.abs(paths[p, :, -1, 3]), 0.0)
        ended += (~alive).sum()
    assert 20 < ended < 480
    np.testing.assert_allclose(costs_of(model), expected.mean(axis=0), rtol=1e-5, atol=1e-5)


# ---- propagation -----------------------------------------------------------------------------------------------------
DRIFTS = np.array([[0.1, 0.0, 0.02, 0.0], [-0.1, 0.05, 0.0, 0.0], [0.0, 0.3, 0.1, -0.2]])


def test_ts_infinity_keeps_its_members() -> None:
    """Members that drift each their own way draw straight lines."""
    for elites in ((0, 1, 2), (2, 0)):
        model = Ensemble(TASK, dataclasses.replace(constant_network(DRIFTS), elites=elites), particles=8)
        lines = START + np.arange(H + 1)[:, None] * DRIFTS[np.resize(elites, 8)][:, None, None]
        paths = model.sampled(START, CONTROLS)
        np.testing.assert_allclose(paths, np.broadcast_to(lines, paths.shape), atol=1e-5)
    for member in (0, 2):
        paths = Ensemble(TASK, constant_network(DRIFTS), propagation=member, particles=3).sampled(START, CONTROLS)
        lines = START + np.arange(H + 1)[:, None] * DRIFTS[member]
        np.testing.assert_allclose(paths, np.broadcast_to(lines, paths.shape), atol=1e-5)


def test_ts1_draws_a_member_per_particle_and_step() -> None:
    network = constant_network(DRIFTS)
    controls = np.zeros((3, 60, 2), np.float32)
    model = Ensemble(TASK, network, propagation="ts1", particles=50, seed=5)
    steps = np.diff(model.sampled(START, controls), axis=2)
    drawn = np.abs(steps[..., None, :] - DRIFTS).max(axis=-1).argmin(axis=-1)
    np.testing.assert_allclose(steps, DRIFTS[drawn], atol=2e-5)
    assert (drawn == drawn[:, :1]).all()  # one draw for all candidates
    drawn = drawn[:, 0]
    counts = np.bincount(drawn.ravel())
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    # neither steps nor particles depend on one another
    for one, other in ((drawn[:, :-1], drawn[:, 1:]), (drawn[:-1], drawn[1:])):
        table = np.zeros((3, 3))
        np.add.at(table, (one.ravel(), other.ravel()), 1)
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-3
    later, other = (np.diff(m.sampled(START, controls, t), axis=2) for m, t in ((model, 1), (Ensemble(
        TASK, network, propagation="ts1", particles=50, seed=6), 0)))  # fmt: skip
    assert not np.array_equal(later, steps) and not np.array_equal(other, steps)


def test_moments_are_those_of_the_mixture() -> None:
    model = Ensemble(TASK, constant_network(DRIFTS, std=0.05), propagation="moments", particles=9)
    paths, means, stds = model._traced(START, CONTROLS, 0, None, model._plan())
    np.testing.assert_allclose(means, paths[:, :, :-1] + DRIFTS[np.arange(9) % 3][:, None, None], atol=1e-5)
    np.testing.assert_allclose(stds, 0.05, rtol=1e-5)
    variance = means.var(axis=0) + (stds**2).mean(axis=0)
    np.testing.assert_allclose(paths[:, :, 1:].mean(axis=0), means.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(paths[:, :, 1:].var(axis=0), variance, rtol=1e-4)
    assert len(np.unique(paths[0, :, 1, 0])) > 90  # candidates do not share their draws
    fixed = Ensemble(TASK, constant_network(DRIFTS, std=0.05), propagation="moments", particles=9, noise="fixed")
    assert len(np.unique(fixed.sampled(START, CONTROLS)[0, :, 1, 0])) == 1


def test_mean_goes_by_the_mean_of_all_members() -> None:
    network = dataclasses.replace(random_network(), elites=(1, 2, 4))
    model = Ensemble(TASK, network, propagation="mean")
    x = np.broadcast_to(START, (100, 4))
    expected = [x]
    for h in range(H):
        x = network.features.next_states(x, network.predict(x, CONTROLS[:, h]).mean[[1, 2, 4]].mean(axis=0))
        expected.append(x)
    path = model.sampled(START, CONTROLS)
    assert path.shape == (1, 100, H + 1, 4)
    np.testing.assert_allclose(path[0], np.stack(expected, axis=1), atol=1e-5)
    np.testing.assert_allclose(costs_of(model), twin_costs(path.astype(float), CONTROLS, TASK)[0], rtol=1e-5)


def test_mean_pays_and_ends_by_the_mean_of_all_members() -> None:
    network = random_network(learned_cost=True, learned_end=True, seed=3)
    bias = network.biases[-1].copy()
    bias[:, 5] -= 0.4  # some end, some do not
    network = dataclasses.replace(network, biases=(*network.biases[:-1], bias))
    model, x = Ensemble(TASK, network, propagation="mean"), STARTS
    expected, alive = np.zeros(100), np.ones(100, bool)
    for h in range(H):
        outputs = network.predict(x, CONTROLS[:, h]).mean.mean(axis=0)
        expected += np.where(alive, outputs[:, 4], 0.0)
        x = np.where(alive[:, None], network.features.next_states(x, outputs), x)
        alive &= ~(outputs[:, 5] > 0)
    expected += np.where(alive, 3.0 * np.abs(x[:, 3]), 0.0)
    assert 5 < alive.sum() < 95
    np.testing.assert_allclose(costs_of(model), expected, rtol=1e-5, atol=1e-5)


# ---- noise -----------------------------------------------------------------------------------------------------------
def test_noise_is_standard_normal_and_independent() -> None:
    network = constant_network(np.zeros((2, 4)), std=0.1)
    controls = np.zeros((150, 20, 2), np.float32)
    model = Ensemble(TASK, network, particles=6, seed=1)
    z = np.diff(model.sampled(START, controls), axis=2) / 0.1
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    for axis in range(4):  # particles, candidates, steps, numbers of the state
        one, other = z.take(range(z.shape[axis] - 1), axis), z.take(range(1, z.shape[axis]), axis)
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / one.size**0.5
    later = np.diff(model.sampled(START, controls, 1), axis=2) / 0.1
    seeded = np.diff(Ensemble(TASK, network, particles=6, seed=2).sampled(START, controls), axis=2) / 0.1
    for other in (later, seeded):
        assert abs(np.corrcoef(z.ravel(), other.ravel())[0, 1]) < 4 / z.size**0.5


def test_fixed_noise_is_the_same_for_all_candidates_and_times() -> None:
    network = constant_network(np.zeros((2, 4)), std=0.1)
    model = Ensemble(TASK, network, particles=6, noise="fixed")
    paths = model.sampled(START, CONTROLS)
    assert (paths == paths[:, :1]).all() and np.array_equal(paths, model.sampled(START, CONTROLS, 7))
    assert len(np.unique(paths[:, 0, 1:, 0])) == 6 * H
    quiet = Ensemble(TASK, network, particles=6, noise="none").sampled(START, CONTROLS)
    assert (quiet == quiet[..., :1, :]).all()


@pytest.mark.parametrize("propagation", ["ts-infinity", "ts1", "moments", "mean", 1])
def test_same_arguments_same_bits_on_any_threads(propagation: str | int) -> None:
    models = [Ensemble(TASK, random_network(), propagation=propagation, particles=10, seed=2**63 + 1) for _ in range(2)]
    controls = np.random.default_rng(0).uniform(-1, 1, (333, 5, 2))
    results = [costs_of(model, controls, threads) for model in models for threads in (1, 2)]
    assert all(np.array_equal(results[0], other) for other in results[1:])
    single = [costs_of(models[0], controls[n : n + 1])[0] for n in (0, 1)]
    assert single[0] == results[0][0]
    if propagation in ("ts-infinity", "mean"):
        assert np.isfinite(results[0]).all()


# ---- disagreement ----------------------------------------------------------------------------------------------------
def test_a_penalty_is_nothing_where_members_are_equal() -> None:
    one = random_network(members=1)
    equal = dataclasses.replace(
        one,
        weights=tuple(np.repeat(w, 4, axis=0) for w in one.weights),
        biases=tuple(np.repeat(b, 4, axis=0) for b in one.biases),
        elites=(),
    )
    for propagation in ("ts-infinity", "moments", "mean"):
        free, dear = (
            Ensemble(TASK, equal, propagation=propagation, particles=8, penalty=penalty, limit=1e6, noise="fresh")
            for penalty in (0.0, 1e3)
        )
        np.testing.assert_allclose(costs_of(dear), costs_of(free), rtol=1e-4)


def test_a_penalty_is_the_disagreement_of_the_members() -> None:
    network = random_network(seed=4)
    free, dear = (Ensemble(TASK, network, particles=10, penalty=penalty, noise="none") for penalty in (0.0, 2.0))
    paths = paths_of(network, kept(range(5), 5), START, CONTROLS)
    d = np.sqrt((paths[:, :, 1:].var(axis=0) / np.asarray(network.target_scale, float) ** 2).mean(axis=-1))
    assert d.min() > 0.05
    np.testing.assert_allclose(costs_of(dear) - costs_of(free), 2.0 * d.sum(axis=1), rtol=1e-3)


def test_beyond_the_limit_a_candidate_ends_and_never_pays() -> None:
    network = random_network(seed=4)
    paths = paths_of(network, kept(range(5), 5), START, CONTROLS)
    d = np.sqrt((paths[:, :, 1:].var(axis=0) / np.asarray(network.target_scale, float) ** 2).mean(axis=-1))
    limit = float(np.median(d.max(axis=1)))
    out = d.max(axis=1) > limit
    task = task_of(cost=lambda x, u, t, p: -1.0, terminal=None)  # going on pays
    cases: tuple[dict[str, Any], ...] = ({}, {"limit": limit}, {"limit": limit, "limit_cost": 0.5})
    free, ruled, priced = (Ensemble(task, network, particles=5, noise="none", **more) for more in cases)
    assert np.isinf(costs_of(ruled)[out]).all()
    np.testing.assert_array_equal(costs_of(ruled)[~out], costs_of(free)[~out])
    first = (d > limit).argmax(axis=1)[out]
    np.testing.assert_allclose(costs_of(priced)[out], -first + 0.5 * (H - first), rtol=1e-6)
    assert costs_of(priced)[out].min() > costs_of(priced)[~out].max()
    paid = random_network(seed=4, learned_cost=True)
    first = [
        costs_of(Ensemble(task, paid, particles=5, noise="none", limit=1e-6, limit_cost=0.5, risk=risk))
        for risk in (Mean(), Worst())
    ]
    np.testing.assert_array_equal(first, 0.5 * H)  # nobody gets anywhere, nor pays what was learned


def test_uncertainty_is_what_each_half_says() -> None:
    network = dataclasses.replace(random_network(), elites=(0, 1, 3))
    model = Ensemble(TASK, network, particles=7, propagation="ts1")
    truth = network.predict(STARTS, CONTROLS[:, 0])
    epistemic, aleatoric = model.uncertainty(START, CONTROLS)
    assert epistemic.shape == aleatoric.shape == (100, H, 4)
    elites = [0, 1, 3]
    np.testing.assert_allclose(epistemic[:, 0], truth.mean[elites].std(axis=0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(aleatoric[:, 0], np.sqrt((truth.std[elites] ** 2).mean(axis=0)), rtol=1e-5)
    drifting = Ensemble(TASK, constant_network(DRIFTS, std=0.1), particles=600)
    epistemic, aleatoric = drifting.uncertainty(START, CONTROLS[:5])
    steps = np.arange(1, H + 1)[:, None]
    np.testing.assert_allclose(aleatoric, np.broadcast_to(0.1 * steps**0.5, aleatoric.shape), rtol=0.15)
    np.testing.assert_allclose(epistemic[..., 0], np.broadcast_to(steps[:, 0] * DRIFTS[:, 0].std(), (5, H)), rtol=0.1)


def test_uncertainty_knows_no_limit() -> None:
    network = random_network()
    free, limited = (Ensemble(TASK, network, particles=5, limit=limit) for limit in (None, 1e-3))
    for one, other in zip(free.uncertainty(START, CONTROLS), limited.uncertainty(START, CONTROLS), strict=True):
        assert np.array_equal(one, other)


# ---- new numbers -----------------------------------------------------------------------------------------------------
def test_new_numbers_and_new_widths_compile_nothing() -> None:
    model = Ensemble(TASK, random_network(), particles=5, noise="none")
    before = costs_of(model)
    compiled = len(kernels.roll.signatures)
    model.use(random_network(seed=9))
    fresh = Ensemble(TASK, random_network(seed=9), particles=5, noise="none")
    assert np.array_equal(costs_of(model), costs_of(fresh)) and not np.array_equal(costs_of(model), before)
    costs_of(Ensemble(TASK, random_network(widths=(9, 9, 9), members=2), particles=5))
    costs_of(model, CONTROLS[:, :1])
    assert len(kernels.roll.signatures) == compiled
    with pytest.raises(InvalidInput, match="another shape"):
        model.use(random_network(widths=(9, 9)))


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    network = dataclasses.replace(random_network(), elites=(1, 3))
    settings: dict = {"particles": 6, "propagation": "ts-infinity", "seed": 3, "penalty": 0.5, "limit": 50.0}
    for task in (TASK, dataclasses.replace(TASK, terminal=None)):
        model = Ensemble(task, network, risk=CVaR(0.4), **settings)
        model.save(tmp_path / "model")
        again = Ensemble.load(TASK, tmp_path / "model")
        assert again.risk == CVaR(0.4) and again.task.terminal is task.terminal
        assert np.array_equal(costs_of(again), costs_of(model))
    for more in ({"propagation": np.int64(1), "particles": np.int64(2)}, {"limit": np.float32(50), "particles": 2}):
        Ensemble(TASK, network, **more).save(tmp_path / "model")
        again = Ensemble.load(TASK, tmp_path / "model")
        assert (again.propagation, again.limit) == (more.get("propagation", "ts-infinity"), more.get("limit"))
    (tmp_path / "model" / "network.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedExport):
        Ensemble.load(TASK, tmp_path / "model")


def test_a_controller_with_an_ensemble_is_exported(tmp_path: Path) -> None:
    """And plans the same where there is no torch."""
    task = make_task("lqr")
    model = Ensemble(task, random_network(features_of(task)), particles=5, limit=100.0)
    controller = Controller(task, icem(budget=32, horizon=5), model=model, seed=1)
    export(controller, tmp_path / "robot")
    again = load(tmp_path / "robot")
    assert isinstance(again.model, Ensemble) and again.model.limit == 100.0
    assert np.array_equal(again.act(np.array([0.5, 0.0])), controller.act(np.array([0.5, 0.0])))
    mine = Ensemble(task, random_network(features_of(task)), particles=5, risk=lambda costs: costs[0])
    with pytest.raises(InvalidInput, match="risk of one's own"):
        export(Controller(task, icem(budget=32, horizon=5), model=mine), tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"propagation": "ts2"}, "propagation must be"),
        ({"propagation": 5}, "0 to 4"),
        ({"propagation": True}, "propagation must be"),
        ({"particles": 0}, "particles"),
        ({"particles": 2**16}, "at most 65535"),
        ({"noise": "some"}, "noise must be"),
        ({"precision": "float16"}, "precision must be"),
        ({"penalty": -1.0}, "penalty"),
        ({"penalty": np.nan}, "penalty"),
        ({"penalty": "1"}, "penalty"),
        ({"limit": 0.0}, "limit"),
        ({"limit": np.inf}, "limit"),
        ({"limit": "1"}, "limit"),
        ({"limit_cost": -np.inf}, "limit_cost"),
        ({"seed": -1}, "seed"),
        ({"penalty": 1.0, "particles": 7}, "multiple of 5"),
        ({"penalty": 1.0, "propagation": "ts1"}, "keep their particles"),
        ({"penalty": 1.0, "propagation": "moments", "particles": 5}, "two particles of each of the 5 members"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Ensemble(TASK, random_network(), **arguments)


def test_bad_states_controls_and_networks_are_refused() -> None:
    model = Ensemble(TASK, random_network(), particles=5)
    for state, message in ((START[:3], "shape"), (np.array([0, 0, np.nan, 0.0]), "finite")):
        with pytest.raises(InvalidInput, match=message):
            costs_of(model, state=state)
    with pytest.raises(InvalidInput, match="controls must have the shape"):
        model.sampled(START, CONTROLS[..., :1])
    with pytest.raises(InvalidInput, match="has the states"):
        Ensemble(make_task("lqr"), dataclasses.replace(random_network(features_of(make_task("lqr"))), features=Features(
            names=("x", "y"), nu=1)))  # fmt: skip
    with pytest.raises(InvalidInput, match="controls, the network sees"):
        Ensemble(make_task("lqr"), random_network())


# ---- bfloat16 --------------------------------------------------------------------------------------------------------
def rounded_twin(numbers: np.ndarray) -> np.ndarray:
    """float32 numbers to the nearest of 8 significant bits, ties to even, by arithmetic on doubles."""
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)  # np.round is to even


def test_pairs_hold_rounded_numbers() -> None:
    rng = np.random.default_rng(0)
    numbers = (rng.normal(size=(6, 5)) * 10.0 ** rng.integers(-20, 20, (6, 5))).astype(np.float32)
    numbers[0, :3] = [1 + 1 / 256, 1 + 3 / 256, -(1 + 1 / 256)]  # halfway: to even
    words = layers.bf16_pairs(numbers).view(np.uint32)
    low = (words << np.uint32(16)).view(np.float32)
    high = (words & np.uint32(0xFFFF0000)).view(np.float32)
    assert np.array_equal(low, rounded_twin(numbers[0::2])) and np.array_equal(high, rounded_twin(numbers[1::2]))
    words = np.empty((3, layers.TARGET.width), np.float32)
    numbers = rng.normal(size=(6, layers.TARGET.width)).astype(np.float32)
    kernels.pair(numbers.ravel(), words.ravel())
    assert np.array_equal(words.view(np.int32), layers.bf16_pairs(numbers))


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_bfloat16_is_off_by_a_percent(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CPU has no instructions for it, the same kernel does what they do in float32."""
    monkeypatch.setattr(models, "_available", lambda precision: precision)
    features = dataclasses.replace(FEATURES, absolute=(0, 1, 2, 3))
    for widths in ((21,), (64, 33, 64)):
        network = random_network(features, widths, 2, activation, change=1.0)
        model = Ensemble(TASK, network, propagation=1, noise="none", particles=1, precision="bf16")
        truth = network.predict(STARTS, CONTROLS[:, 0]).mean[1]
        got = model.sampled(START, CONTROLS[:, :1])[0, :, 1]
        assert 1e-4 < np.linalg.norm(got - truth) / np.linalg.norm(truth) < 2e-2
    network = random_network(widths=(64, 64), activation=activation)
    exact, rough = (
        costs_of(Ensemble(TASK, network, particles=5, noise="none", precision=p)) for p in ("float32", "bf16")
    )
    assert scipy.stats.spearmanr(exact, rough).statistic >= 0.99


@pytest.mark.skipif(layers.TARGET.paired, reason="this CPU has bfloat16")
def test_without_bfloat16_it_plans_in_float32_and_says_so() -> None:
    models._available.cache_clear()
    with pytest.warns(RuntimeWarning, match="AVX512-BF16"):
        model = Ensemble(TASK, random_network(), particles=5, precision="bf16")
    assert model.precision == "float32"
    assert np.array_equal(costs_of(model), costs_of(Ensemble(TASK, random_network(), particles=5)))


@pytest.mark.parametrize(
    ("cpu", "features", "instructions"),
    [
        ("sapphirerapids", "+avx512f,+avx512bf16", ("vdpbf16ps", "vcvtneps2bf16")),
        ("znver4", "+avx512f,+avx512bf16,+avx2,+fma", ("vdpbf16ps", "vcvtneps2bf16")),
        ("skylake-avx512", "+avx512f,+avx2,+fma", ("vfmadd", "zmm")),
        ("znver1", "+avx2,+fma,-avx512f", ("vfmadd", "ymm")),
        ("x86-64", "+sse2", ("mulps", "xmm")),
    ],
)
def test_the_kernel_for_a_cpu_has_its_instructions(cpu: str, features: str, instructions: tuple[str, ...]) -> None:
    """Compiled for the CPU at hand, not run on it; what it lacks is emulated, or left out, and never emitted."""
    target = layers.target_of(features)
    texts = []
    for paired in {False, target.paired}:
        kind = layers.Block(target, "silu", paired, paired)
        word = ir.IntType(32) if paired else ir.FloatType()
        kinds = [word.as_pointer(), word.as_pointer(), ir.FloatType().as_pointer(), word.as_pointer(), ir.IntType(64)]
        texts.append(assembly(cpu, kinds, kind.emit))
    together = "\n".join(texts)
    assert all(name in together for name in instructions)
    assert ("bf16" in together) == target.paired
