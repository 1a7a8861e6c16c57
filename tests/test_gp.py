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
from mpcrl.core.threads import ThreadBudget
from mpcrl.experiments.configure import predictor_for
from mpcrl.learning.gaussian_process import fit
from mpcrl.models.analytic import Analytic
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.gp import GP
from mpcrl.models.gp_functions import Draws, Predictor, draw
from mpcrl.models.risk import CVaR, Worst
from mpcrl.planners import icem
from mpcrl.tasks.features import features_of
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
