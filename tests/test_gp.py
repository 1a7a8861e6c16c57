"""Gaussian processes as models: rollouts against plain twins, the laws of each propagation, files, planners."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcrl.control.controller import Controller
from mpcrl.control.export import export, load
from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.core.local import Policy
from mpcrl.core.threads import ThreadBudget
from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.experiments.configure import predictor_for
from mpcrl.learning.gaussian_process import fit
from mpcrl.models.analytic import Analytic
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.gp import GP
from mpcrl.models.gp_functions import Draws, Predictor, draw
from mpcrl.models.risk import CVaR, Worst
from mpcrl.planners import icem, ilqr
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import AnalyticTask


def pendulum() -> AnalyticTask:
    task = make_task("pendulum-swingup")
    assert isinstance(task, AnalyticTask)
    return task


TASK = pendulum()
FEATURES = features_of(TASK)
H, N = 12, 70
START = np.array([2.5, 0.3])
RNG = np.random.default_rng(1)
CONTROLS = RNG.uniform(TASK.control_low, TASK.control_high, (N, H, TASK.nu)).astype(np.float32)


def learned(count: int = 80, seed: int = 0, noise: float = 0.01) -> GaussianProcess:
    """Processes of the pendulum's changes from random states."""
    rng = np.random.default_rng(seed)
    states = rng.uniform([-3, -6], [3, 6], (count, 2))
    controls = rng.uniform(TASK.control_low, TASK.control_high, (count, 1))
    after = np.array([TASK.step(tuple(x), tuple(u), TASK.params) for x, u in zip(states, controls, strict=True)])
    return fit(FEATURES.inputs(states, controls), after - states + noise * rng.normal(size=states.shape), threads=1)


PROCESS = learned()


def costs(model: Any, t: int = 0, threads: int = 1) -> np.ndarray:
    found: np.ndarray = model.costs(
        START, Candidates.from_rows(CONTROLS, np.float32), t, TASK.params, ThreadBudget(threads)
    )
    return found


def test_it_predicts_the_pendulum() -> None:
    true = Analytic(TASK).rollout(START, CONTROLS, 0, TASK.params)
    found = GP(TASK, PROCESS, propagation="mean").rollout(START, CONTROLS, 0, TASK.params)
    assert np.abs(found - true).max() < 0.15
    assert np.corrcoef(costs(GP(TASK, PROCESS)), costs(Analytic(TASK)))[0, 1] > 0.95


@pytest.mark.parametrize(("precision", "error"), [("float64", 1e-4), ("float32", 1e-2)])
def test_means_are_those_of_the_process(precision: str, error: float) -> None:
    found = GP(TASK, PROCESS, propagation="mean", precision=precision).sampled(START, CONTROLS)
    assert found.shape == (1, N, H + 1, 2)
    x = np.tile(START, (N, 1))
    for h in range(H):
        x = x + PROCESS.predict(FEATURES.inputs(x, CONTROLS[:, h])).mean
        np.testing.assert_allclose(found[0, :, h + 1], x, atol=error)


def test_fresh_steps_have_the_means_and_variances_of_the_process() -> None:
    model = GP(TASK, PROCESS, propagation="fresh", particles=40)
    run = model._traced(START, CONTROLS, 0, None, model._plan())
    for p, h in ((0, 0), (3, 5), (39, 11)):
        x = run.states[p, :, h]
        wanted = PROCESS.predict(FEATURES.inputs(x, CONTROLS[:, h]))
        np.testing.assert_allclose(run.means[p, :, h] - x, wanted.mean, atol=1e-5)
        np.testing.assert_allclose(run.stds[p, :, h], np.sqrt(wanted.variance + PROCESS.noise**2), rtol=1e-3)
    scaled = (run.states[:, :, 1:] - run.means) / run.stds
    assert abs(scaled.mean()) < 0.02 and abs(scaled.std() - 1) < 0.02


def test_a_path_goes_through_one_function() -> None:
    """Each particle by its own function, at all steps and for all candidates, with the observations' noise or none."""
    model = GP(TASK, PROCESS, particles=5, noise="none", waves=64, seed=3)
    draws = draw(PROCESS, 5, waves=64, seed=3)
    found = model.sampled(START, CONTROLS)
    for p in range(5):
        own = Draws(**{f.name: getattr(draws, f.name)[p : p + 1] for f in dataclasses.fields(draws)})
        function = Predictor(PROCESS, draws=own)
        for h in range(H):
            x = found[p, :, h]
            step = function.mean(FEATURES.inputs(x, CONTROLS[:, h]))
            np.testing.assert_allclose(found[p, :, h + 1] - x, step, atol=2e-5)
    noisy = GP(TASK, PROCESS, particles=5, waves=64, seed=3)
    stds = noisy._traced(START, CONTROLS, 0, None, noisy._plan()).stds
    np.testing.assert_allclose(stds, np.broadcast_to(PROCESS.noise, stds.shape), rtol=1e-4)


def test_functions_spread_as_the_process_does_not_know() -> None:
    """After one step, particles have the mean and variance of the process."""
    few = learned(12)
    found = GP(TASK, few, particles=2000, noise="none", waves=64).sampled(START, CONTROLS[:5, :1])[:, :, 1]
    wanted = few.predict(FEATURES.inputs(np.tile(START, (5, 1)), CONTROLS[:5, 0]))
    deviation = np.sqrt(wanted.variance)
    assert (np.abs(found.mean(axis=0) - START - wanted.mean) < 5 * deviation / math.sqrt(2000) + 1e-5).all()
    np.testing.assert_allclose(found.std(axis=0), deviation, rtol=0.1)


@pytest.mark.parametrize("propagation", ["pathwise", "fresh", "mean"])
def test_same_arguments_same_bits_on_any_threads(propagation: str) -> None:
    one, two = (GP(TASK, PROCESS, propagation=propagation, particles=6, seed=2**63 + 1) for _ in range(2))
    np.testing.assert_array_equal(costs(one, threads=1), costs(two, threads=2))
    if propagation != "mean":
        assert not np.array_equal(costs(one, t=0), costs(one, t=1))


def test_risk_use_and_other_costs() -> None:
    model = GP(TASK, PROCESS, particles=8)
    worst = GP(TASK, PROCESS, particles=8, risk=Worst())
    assert (costs(worst) > costs(model)).all()
    free = model.of(dataclasses.replace(TASK, cost=lambda x, u, t, p: 1.0, terminal=None))
    np.testing.assert_allclose(costs(free), H)
    before = costs(model)
    model.use(learned(20))
    after = costs(model)
    assert not np.array_equal(before, after)
    model.use(PROCESS)
    np.testing.assert_array_equal(costs(model), before)
    with pytest.raises(InvalidInput, match="another kernel"):
        model.use(dataclasses.replace(PROCESS, kernel="matern52"))
    state, control = np.array([0.3, 0.1]), np.array([0.5])
    assert model.terms(state, control, 0, TASK.params) == Analytic(TASK).terms(state, control, 0, TASK.params)


# Gradient planners.


def falling(x: Any, p: Any) -> bool:
    return x[0] > 2.6


def last_cost(x: Any, p: Any) -> float:
    return 3.0 * (1.0 - math.cos(x[0])) + x[1] ** 2


ENDING = dataclasses.replace(TASK, terminated=falling, terminal=last_cost)
BOUNDS = np.array([[-2.0], [2.0], [0.5], [0.1]])


def nominal(horizon: int = H) -> tuple[np.ndarray, np.ndarray]:
    controls = CONTROLS[0, :horizon].astype(np.float64)
    return GP(TASK, PROCESS, propagation="mean").rollout(START, controls[None], 0, TASK.params)[0], controls


def test_derivatives_of_next_states_go_through_features() -> None:
    features = Features(names=("place", "angle", "speed", "rate"), nu=2, angles=(1,), unseen=(0,), absolute=(3,))
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(features.size, features.nx))

    def following(z: np.ndarray) -> np.ndarray:
        x, u = z[..., :4], z[..., 4:]
        return features.next_states(x, np.tanh(features.inputs(x, u) @ weights))

    z, h = rng.normal(size=(5, 6)), 1e-6
    outputs = np.tanh(features.inputs(z[:, :4], z[:, 4:]) @ weights)
    found = features.slopes(z[:, :4], (1 - outputs[..., None] ** 2) * weights.T)
    differences = np.stack([following(z + h * d) - following(z - h * d) for d in np.eye(6)], axis=-1) / (2 * h)
    np.testing.assert_allclose(found, differences, atol=1e-8)


def test_an_expansion_has_the_slopes_of_the_means_and_the_costs_of_the_task() -> None:
    states, controls = nominal()
    found = GP(ENDING, PROCESS).local.expand(states, controls, 3, TASK.params, ThreadBudget(1))
    true = Analytic(ENDING).local.expand(states, controls, 3, TASK.params, ThreadBudget(1))
    for name in ("gradient", "hessian", "last_gradient", "last_hessian"):
        np.testing.assert_array_equal(getattr(found, name), getattr(true, name))

    def following(z: np.ndarray) -> np.ndarray:
        return z[..., :2] + PROCESS.predict(FEATURES.inputs(z[..., :2], z[..., 2:])).mean

    def differences(h: float) -> np.ndarray:
        return np.stack([following(z + h * d) - following(z - h * d) for d in np.eye(3)], axis=-1) / (2 * h)

    z = np.concatenate([states[:-1], controls], axis=1)
    fourth = (4 * differences(1e-3) - differences(2e-3)) / 3  # of steps that rounding, 1e-12 of a mean, is small beside
    np.testing.assert_allclose(found.jacobian, fourth, atol=1e-7)
    assert np.abs(found.jacobian - true.jacobian).max() > 1e-4  # the pendulum itself is another


@pytest.mark.parametrize("task", [TASK, ENDING])
def test_rollouts_under_feedback_against_a_plain_twin(task: AnalyticTask) -> None:
    states, controls = nominal()
    rng = np.random.default_rng(2)
    policy = Policy(states, controls, rng.normal(size=(H, 1)), rng.normal(size=(H, 1, 2)))
    sizes, t, ended = np.array([1.0, 0.5, 0.0]), 4, []
    found = GP(task, PROCESS).local.follow(policy, sizes, BOUNDS, START, t, task.params)
    for a, size in enumerate(sizes):
        x, u, total, going = START, BOUNDS[3], 0.0, True
        for k in range(H):
            wanted = controls[k] + size * policy.feedforward[k] + policy.gains[k] @ (x - states[k])
            u = np.clip(np.clip(wanted, u - 0.5, u + 0.5), -2.0, 2.0)
            np.testing.assert_allclose(found[0][a, k], x, atol=1e-9)
            np.testing.assert_allclose(found[1][a, k], u, atol=1e-9)
            if going:
                total += float(sum(task.cost(tuple(x), tuple(u), t + k, task.params)))
                x = x + PROCESS.predict(FEATURES.inputs(x, u)).mean
                going = task.terminated is None or not task.terminated(tuple(x), task.params)
        total += float(task.terminal(tuple(x), task.params)) if going and task.terminal else 0.0
        assert found[2][a] == pytest.approx(total, rel=1e-9)
        ended.append(not going)
    assert any(ended) == (task is ENDING)


def test_ilqr_swings_the_pendulum_up_through_what_was_learned() -> None:
    model = GP(TASK, learned(150, noise=0.003))
    controller = Controller(TASK, ilqr(horizon=30, budget=42, iterations=5), model=model, threads=1)
    state = np.array([math.pi, 0.0])
    first = controller.plan(state)
    means, plan = GP(TASK, model.process, propagation="mean"), Candidates.from_rows(first.controls[None], np.float32)
    said = means.costs(state, plan, 0, TASK.params, ThreadBudget(1))
    assert first.cost == pytest.approx(said[0], rel=1e-3)  # what it says is what the means cost
    controller.reset()
    angles = []
    for _ in range(90):
        state = np.array(TASK.step(tuple(state), tuple(controller.act(state)), TASK.params))
        angles.append(abs(wrap_to_pi(state[0])))
    assert max(angles[-20:]) < 0.2
    before, other = model.local, learned(20)
    model.use(other)
    assert model.local.process is other and model.local.costs is before.costs


def test_ilqr_needs_a_cost_that_has_derivatives() -> None:
    pytest.importorskip("mujoco")
    task = make_task("InvertedPendulum-v5")
    features = features_of(task)
    process = fit(np.zeros((3, features.size)), np.zeros((3, features.nx)))
    with pytest.raises(InvalidInput, match="derivatives of the cost, which task 'InvertedPendulum-v5' has as a Mujoco"):
        _ = GP(task, process).local


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = GP(TASK, PROCESS, particles=6, risk=CVaR(0.3), waves=40, seed=5)
    model.save(tmp_path / "model")
    again = GP.load(TASK, tmp_path / "model")
    np.testing.assert_array_equal(costs(again), costs(model))
    predictor = predictor_for(TASK, str(tmp_path / "model"))
    assert predictor.name == "gp" and isinstance(predictor.model, GP) and predictor.model.risk == CVaR(0.3)
    with pytest.raises(InvalidInput, match="is not one of task"):
        GP.load(make_task("cartpole-swingup"), tmp_path / "model")
    (tmp_path / "model" / "gp.json").write_text("{}")
    with pytest.raises(DamagedExport):
        GP.load(TASK, tmp_path / "model")


def test_a_controller_with_it_is_exported_and_runs_without_torch(tmp_path: Path) -> None:
    model = GP(TASK, PROCESS, particles=4)
    controller = Controller(TASK, icem(budget=60, horizon=10), model=model, threads=1)
    export(controller, tmp_path / "out")
    np.testing.assert_array_equal(load(tmp_path / "out").act(START), controller.act(START))
    code = f"""import sys
from mpcrl.control.export import load
import numpy as np
print(load({str(tmp_path / "out")!r}).act(np.array([2.5, 0.3])))
assert not {{"torch", "gpytorch", "mujoco"}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_bad_arguments_are_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"propagation": "ts1"}, "propagation must be one of"),
        ({"precision": "bf16"}, "precision must be"),
        ({"particles": 0}, "particles must be"),
        ({"noise": "some"}, "noise must be one of"),
        ({"waves": 0}, "waves must be"),
        ({"seed": -1}, "seed must be"),
    ]
    for arguments, message in wrong:
        with pytest.raises(InvalidInput, match=message):
            GP(TASK, PROCESS, **arguments)
    with pytest.raises(InvalidInput, match="needs processes of 4 inputs and 2 outputs, got"):
        GP(TASK, fit(np.zeros((3, 2)), np.zeros((3, 2))))
