"""How far to trust what was learned: against a model that knows the truth, and on systems with and without noise."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mpcrl.core.errors import InvalidInput
from mpcrl.learning.calibration import LEVELS, calibration
from mpcrl.learning.ensemble import EnsembleConfig, Learner
from mpcrl.learning.replay import Replay
from mpcrl.tasks.cartpole import cartpole_swingup
from mpcrl.tasks.features import Features, features_of

LINEAR = Features(names=("a", "b", "still"), nu=1)
A = np.array([[0.98, 0.1, 0.0], [-0.1, 0.95, 0.0], [0.0, 0.0, 1.0]])
B, NOISE = np.array([0.0, 0.1, 0.0]), np.array([0.02, 0.05, 0.0])


def linear(x, u, rng, noise=NOISE):
    return x @ A.T + B * u + noise * rng.normal(size=x.shape)


def episodes(step, nx, count, steps, seed, high=1.0, reset=lambda rng: np.append(rng.normal(size=2), 1 / 3), hold=1):
    """Under random controls, each held for some steps."""
    rng = np.random.default_rng(seed)
    replay = Replay(nx, 1, capacity=count * steps, members=5, seed=seed)
    for _ in range(count):
        path, controls = [reset(rng)], np.repeat(rng.uniform(-high, high, (-(-steps // hold), 1)), hold, axis=0)[:steps]
        for u in controls:
            path.append(step(path[-1], u, rng))
        replay.add_episode(path, controls, np.square(path[:-1]).sum(axis=1))
    return replay


def truth(noise, particles=200, seed=0):
    """A model that knows the linear system, and believes in this much noise."""

    def predict(state, controls):
        rng = np.random.default_rng((seed, int(1e6 * abs(state[0]))))
        paths = np.empty((particles, controls.shape[0], controls.shape[1] + 1, 3))
        paths[:, :, 0] = state
        for h in range(controls.shape[1]):
            paths[:, :, h + 1] = linear(paths[:, :, h], controls[:, h], rng, noise)
        return paths

    return predict


def cost(states, controls):
    return np.square(states).sum(axis=-1)


@pytest.fixture(scope="module")
def held_out():
    return episodes(linear, 3, 8, 60, seed=5)


def test_who_knows_the_truth_is_calibrated(held_out):
    found = calibration(truth(NOISE), held_out.episodes(), LINEAR.names, horizon=10, windows=60, cost=cost)
    assert np.isnan(found.coverage[..., 2]).all() and np.isnan(found.scaled_rmse[:, 2]).all()
    assert np.abs(found.overall - LEVELS).max() < 0.15  # stretches overlap: fewer than 60 are independent
    assert found.rmse[0, :2] == pytest.approx(NOISE[:2], rel=0.35)
    assert (np.diff(found.rmse[:, :2], axis=0)[:3] > 0).all()
    spread = found.realised_return.std() / np.sqrt(60)
    assert abs(found.return_gap) < 4 * spread
    assert found.predicted_return == pytest.approx(found.realised_return, abs=5 * found.realised_return.std())


@pytest.mark.parametrize(("factor", "low", "high"), [(0.25, 0.1, 0.5), (4.0, 0.97, 1.0)])
def test_too_little_and_too_much_noise_show(held_out, factor, low, high):
    found = calibration(truth(factor * NOISE, 50), held_out.episodes(), LINEAR.names, horizon=5, windows=40)
    assert (low <= found.overall[:, 2]).all() and (found.overall[:, 2] <= high).all()
    assert found.predicted_return.size == 0 and np.isnan(found.return_gap)


def test_stretches_are_all_there_are_or_evenly_spaced(held_out):
    starts = []

    def spy(state, controls):
        starts.append((state, controls))
        return np.zeros((3, 1, controls.shape[1] + 1, 3))

    rows = held_out.transitions()
    calibration(spy, held_out.episodes(), LINEAR.names, horizon=50, windows=10_000)
    assert len(starts) == 8 * 11
    for state, controls in starts:
        (row,) = np.flatnonzero((rows.states == state).all(axis=1))
        assert (controls[0] == rows.controls[row : row + 50]).all() and len(set(rows.episodes[row : row + 50])) == 1
    starts.clear()
    calibration(spy, held_out.episodes(), LINEAR.names, horizon=50, windows=4)
    assert len(starts) == 4
    with pytest.raises(InvalidInput, match="no episode has 61 steps"):
        calibration(spy, held_out.episodes(), LINEAR.names, horizon=61)


def test_the_file_has_a_row_per_step_and_name(held_out, tmp_path):
    found = calibration(truth(NOISE, 20), held_out.episodes(), LINEAR.names, horizon=3, windows=5)
    found.to_csv(tmp_path / "calibration.csv")
    rows = list(csv.DictReader((tmp_path / "calibration.csv").open()))
    assert [(row["steps"], row["name"]) for row in rows] == [
        (str(h), name) for h in (1, 2, 3) for name in (*LINEAR.names, "all")
    ]
    assert float(rows[5]["coverage_90"]) == found.coverage[1, 2, 1]
    assert float(rows[4]["rmse"]) == found.rmse[1, 0] and float(rows[7]["coverage_95"]) == found.overall[1, 3]
    assert rows[2]["coverage_50"] == rows[2]["rmse_in_std"] == ""


def sampled(network, particles=100, seed=0):
    """Trajectories sampled through a network by TS-infinity, in plain NumPy: particle p keeps to elite p modulo E."""
    members = np.resize(network.elites, particles)

    def predict(state, controls):
        rng = np.random.default_rng(seed)
        count, horizon = controls.shape[:2]
        states = np.empty((particles, count, horizon + 1, len(state)))
        states[:, :, 0] = state
        for h in range(horizon):
            x, own = states[:, :, h], np.arange(particles)
            found = network.predict(x, np.broadcast_to(controls[:, h], (particles, *controls[:, h].shape)))
            noise = rng.standard_normal((particles, count, network.nout))
            outputs = found.mean[members, own] + found.std[members, own] * noise
            states[:, :, h + 1] = network.features.next_states(x, outputs)
        return states

    return predict


def cartpole(noise):
    task = cartpole_swingup()

    def step(x, u, rng):
        return np.array(task.step(tuple(x), tuple(u), task.params)) + noise * rng.normal(size=4)

    return task, step


@pytest.mark.parametrize(
    ("system", "noise"),
    [("linear", NOISE), ("cart-pole", np.zeros(4)), ("cart-pole", np.array([0.005, 0.01, 0.03, 0.05]))],
)
def test_intervals_of_a_trained_ensemble_cover_what_they_say(system, noise):
    if system == "linear":
        what, nx = LINEAR, 3
        options: dict = {"step": linear}
    else:
        task, step = cartpole(noise)
        what, nx = dataclasses.replace(features_of(task), angles=(1,)), 4
        options = {"step": step, "high": 10.0, "reset": task.reset, "hold": 4}
    learner = Learner(what, EnsembleConfig(hidden=(64, 64), epochs=30), seed=0)
    learner.fit(episodes(nx=nx, count=20, steps=100, seed=1, **options))
    test = episodes(nx=nx, count=8, steps=100, seed=2, **options)
    found = calibration(sampled(learner.network(), particles=40), test.episodes(), what.names, windows=100)
    one, five, twenty = found.overall[[0, 4, 19], LEVELS.index(0.9)]
    assert 0.8 < five < 0.97 and 0.8 < twenty < 0.97
    # Without noise a member's deviation is its own error, and the mean of five is nearer to the truth than any of them.
    assert 0.8 < one < (0.97 if noise.any() else 1.01)
    assert found.rmse[0][:2] == pytest.approx(noise[:2], rel=0.3) or not noise.any()


def test_pictures_are_drawn(held_out, tmp_path: Path):
    pytest.importorskip("matplotlib")
    from mpcrl.experiments.learning_plots import save_calibration_plot, save_learning_plot

    learner = Learner(LINEAR, EnsembleConfig(hidden=(8,), epochs=2, holdout=0.2), seed=0)
    reports = [learner.fit(held_out) for _ in range(3)]
    found = calibration(sampled(learner.network(), particles=10), held_out.episodes(), LINEAR.names, windows=10)
    save_learning_plot(reports, tmp_path / "losses.png")
    save_calibration_plot(found, tmp_path / "calibration.png")
    for name in ("losses", "calibration"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
