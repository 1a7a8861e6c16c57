"""Gaussian processes: the evidence and its gradient, fits of any data, and kernels beside their slow twins."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcrl.core.bundle import to_json
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.learning.gaussian_process import MEANS, Evidence, GaussianProcessConfig, OutputReport, fit, spread_out
from mpcrl.models.gaussian_process import KERNELS, SPARSE, GaussianProcess
from mpcrl.models.gp import GP
from mpcrl.models.gp_functions import Draws, Predictor, draw
from mpcrl.tasks.features import features_of
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import AnalyticTask


def process(kernel: str = "se", n: int = 30, width: int = 3, outputs: int = 2, **more: Any) -> GaussianProcess:
    """Processes of some numbers, conditioned on data far from the origin."""
    rng = np.random.default_rng(n)
    inputs = rng.normal(size=(n, width)) * 2 + 3
    polynomial = float(kernel == "se+polynomial")
    return GaussianProcess(
        kernel=kernel,
        inputs=inputs,
        targets=np.sin(inputs @ rng.normal(size=(width, outputs))) + 0.05 * rng.normal(size=(n, outputs)),
        lengthscale=rng.uniform(1, 3, (outputs, width)),
        signal=rng.uniform(0.5, 2, outputs),
        noise=rng.uniform(0.05, 0.1, outputs),
        slope=rng.normal(size=(outputs, width)),
        intercept=rng.normal(size=outputs),
        tilt=polynomial * rng.uniform(0.05, 0.3, (outputs, width)),
        bias=polynomial * rng.uniform(0.1, 0.3, outputs),
        **more,
    )


def queries(count: int = 70, width: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, width)) * 3 + 3


# ---- the evidence ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kernel", "mean"), list(itertools.product(KERNELS, MEANS)))
def test_the_evidence_and_its_gradient(kernel: str, mean: str) -> None:
    """Against the density of the data under dense matrices, and against differences of fourth order."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(25, 3))
    target = np.sin(inputs[:, 0]) + inputs[:, 1] + 0.1 * rng.normal(size=25)
    evidence = Evidence(GaussianProcessConfig(kernel=kernel, mean=mean), inputs, target)
    logs = 0.3 * rng.normal(size=evidence.size) - 1.5 * (np.arange(evidence.size) == 4)
    found = evidence.value(logs)
    assert found is not None
    value, gradient, weights = found[0], found[1].copy(), found[2]

    def at(shift: np.ndarray) -> float:
        moved = evidence.value(logs + shift)
        assert moved is not None
        return moved[0]

    steps = 1e-5 * np.eye(evidence.size)
    differences = [(8 * (at(s) - at(-s)) - (at(2 * s) - at(-2 * s))) / 12e-5 for s in steps]
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-8 * np.abs(gradient).max())

    values = np.exp(logs)
    polynomial = kernel == "se+polynomial"
    twin = GaussianProcess(
        kernel=kernel, inputs=inputs, targets=target[:, None], lengthscale=values[None, :3], signal=values[3:4],
        noise=values[4:5], slope=np.zeros((1, 3)), intercept=np.zeros(1),
        tilt=values[None, 5:8] if polynomial else np.zeros((1, 3)), bias=values[8:] if polynomial else np.zeros(1),
    )  # fmt: skip
    covariance = twin.covariance(0, inputs, inputs) + values[4] ** 2 * np.eye(25)
    away = target - np.column_stack([np.ones(25), inputs])[:, : weights.size] @ weights
    density = away @ np.linalg.solve(covariance, away) + np.linalg.slogdet(2 * math.pi * covariance)[1]
    assert value == pytest.approx(-0.5 * density - 0.005 * weights @ weights, rel=1e-10)


def test_a_fit_finds_what_the_data_were_drawn_from() -> None:
    """An input that does not matter, the noise, and the mean function, in the data's own units."""
    rng = np.random.default_rng(3)
    inputs = rng.uniform(-3, 3, (200, 2)) * [1.0, 100.0] + [5.0, 1000.0]
    targets = 1e-3 * (np.sin(2 * inputs[:, :1]) + 0.1 * rng.normal(size=(200, 1)))
    reports: list[OutputReport] = []
    found = fit(inputs, targets, told=reports.append)
    assert found.noise[0] == pytest.approx(1e-4, rel=0.2)
    assert found.lengthscale[0, 0] < 3 and found.lengthscale[0, 1] > 2000
    apart = found.predict(np.array([[5.5, 900.0]])).mean[0, 0]
    assert apart == pytest.approx(1e-3 * math.sin(11.0), abs=2e-4)
    (report,) = reports
    whole = found.covariance(0, inputs, inputs) + found.noise[0] ** 2 * np.eye(200)
    density = targets[:, 0] @ np.linalg.solve(whole, targets[:, 0]) + np.linalg.slogdet(2 * math.pi * whole)[1]
    assert report.evidence == pytest.approx(-0.5 * density, rel=1e-9)
    line = fit(inputs, targets + inputs @ [[0.1], [0.02]] + 7.0, GaussianProcessConfig(mean="linear"))
    np.testing.assert_allclose(line.slope[0], [0.1, 0.02], atol=1e-3)


def test_more_starts_never_end_lower_and_a_start_is_kept() -> None:
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(40, 2))
    targets = np.sin(3 * inputs) + 0.1 * rng.normal(size=(40, 2))
    reports: list[OutputReport] = []
    first = fit(inputs, targets, GaussianProcessConfig(starts=1), told=reports.append)
    more = fit(inputs, targets, GaussianProcessConfig(starts=4), told=reports.append)
    assert [r.output for r in reports] == [0, 1, 0, 1] and len(reports[2].ends) == 4
    for one, four in zip(reports[:2], reports[2:], strict=True):
        assert max(four.ends) >= one.ends[0] == four.ends[0]
    again = fit(inputs, targets, GaussianProcessConfig(iterations=1), start=more)
    np.testing.assert_allclose(again.lengthscale, more.lengthscale, rtol=0.2)
    alone = fit(inputs, targets, GaussianProcessConfig(starts=1), threads=1)
    np.testing.assert_array_equal(first.lengthscale, alone.lengthscale)


def strange(case: int, most: int) -> tuple[np.ndarray, np.ndarray, GaussianProcessConfig]:
    """Data that have made others' Cholesky factors fail: one of many kinds by its number."""
    rng = np.random.default_rng(case)
    n, width, outputs = int(np.exp(rng.uniform(0, np.log(most + 0.5)))), int(rng.integers(1, 6)), 2
    inputs = rng.normal(size=(n, width)) * 10.0 ** rng.uniform(-4, 4, width) + 10.0 ** rng.uniform(-4, 4)
    if case % 3 == 0:
        inputs = inputs[rng.integers(0, max(1, n // 4), n)]
    if case % 5 == 0:
        inputs[:, 0] = inputs[0, 0]
    size, noise = 10.0 ** rng.uniform(-4, 4), 10.0 ** rng.choice([-5, -2, 0])
    smooth = np.sin((inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-9)).sum(axis=1, keepdims=True)
    targets = size * (smooth + noise * rng.normal(size=(n, outputs)))
    if case % 4 == 0:
        targets[:, 1] = rng.choice([0.0, 1.0, -3e4])
    settings: dict[str, Any] = {"kernel": KERNELS[case % 7 % 3], "mean": MEANS[case % 11 % 3], "iterations": 25}
    if case % 6 == 1:
        settings |= {"inducing": max(1, n // 3), "sparse": ("dtc", "fitc")[case % 2]}
    return inputs, targets, GaussianProcessConfig(**settings)


def check_strange(case: int, most: int) -> None:
    inputs, targets, config = strange(case, most)
    found = fit(inputs, targets, config, threads=1)
    seen = np.concatenate([inputs[:5], inputs[:5] + 3 * (inputs.std(axis=0) + 1e-3)])
    mean, variance = found.predict(seen)
    assert np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()
    n = len(inputs)
    if n > 1:
        part = fields_of(found) | {"inputs": inputs[: n - n // 2], "targets": targets[: n - n // 2]}
        grown = GaussianProcess(**part).append(inputs[n - n // 2 :], targets[n - n // 2 :])
        other = grown.predict(seen)
        np.testing.assert_allclose(
            other.mean, mean, rtol=1e-9, atol=1e-9 * (np.abs(targets).max() + found.signal.max())
        )
        prior = np.array([found.prior_variance(e, seen) for e in range(found.outputs)]).T  # what is taken away from
        away = np.abs(other.variance - variance) / prior
        np.testing.assert_array_less(away, 1e-9)


def steepest(count: int, snr: float) -> float:
    """The most that signal over noise may be at a fit's end.

    No evidence, nor bound of it, of `count` observations gains more than `count` nat per unit of -log noise; from here
    on a wall takes as much, 30 / log snr (log ratio / log snr)^29.
    """
    return snr ** ((count * math.log(snr) / 30) ** (1 / 29))


@pytest.mark.parametrize("kernel", ["se", "se+polynomial"])
def test_hyper_parameters_lean_against_walls(kernel: str) -> None:
    """Signals beyond `snr` noises and length scales beyond 100 deviations (or a hundredth) cost, and little before."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, 2))
    evidence = Evidence(GaussianProcessConfig(kernel=kernel, snr=50.0), inputs, inputs[:, 0])
    for scales, signal, noise in (((1.0, 2.0), 1.0, 0.1), ((160.0, 0.005), 3.0, 0.04), ((1.0, 1.0), 1e-3, 0.2)):
        logs = np.log([*scales, signal, noise, *([2.0, 1.5, 0.5] if kernel == "se+polynomial" else [])])
        sizes = [signal, *([2.0**2 + 1.5**2 + 0.5**2] if kernel == "se+polynomial" else [])]
        wall = sum(max(0.0, math.log(size / noise) / math.log(50)) ** 30 for size in sizes)
        wall += sum((math.log(scale) / math.log(100)) ** 30 for scale in scales)
        value = evidence.value(logs)
        assert value is not None
        loss, gradient = evidence.loss(logs)
        gradient = gradient.copy()
        assert loss + value[0] == pytest.approx(wall, rel=1e-9, abs=1e-9)
        steps = 1e-5 * np.eye(logs.size)
        ends = [[evidence.loss(logs + k * s)[0] for k in (1, -1, 2, -2)] for s in steps]
        differences = [(8 * (a - b) - (c - d)) / 12e-5 for a, b, c, d in ends]
        np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-7 * np.abs(gradient).max())
    certain = fit(inputs, np.sin(inputs), GaussianProcessConfig(kernel=kernel, snr=50.0))
    assert (certain.signal / certain.noise).max() < steepest(12, 50.0) < 54


def fields_of(found: GaussianProcess) -> dict[str, Any]:
    return {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}


def test_strange_data_are_fitted() -> None:
    for case in range(36):
        check_strange(case, 60)


def test_ill_conditioned_observations_are_added_as_refitted() -> None:
    """Of the thousand strange data, the ones whose factors differ the most."""
    check_strange(873, 1000)


@pytest.mark.acceptance
@pytest.mark.parametrize("block", range(20))
def test_a_thousand_strange_data_are_fitted(block: int) -> None:
    for case in range(50 * block, 50 * block + 50):
        check_strange(case, 1000)


def test_bad_data_and_settings_are_refused() -> None:
    inputs, targets = np.zeros((5, 2)), np.zeros((5, 1))
    inputs[3, 1] = np.nan
    with pytest.raises(InvalidInput, match=r"1 of 5 rows are not; the first is row 3: \[0.0, nan\]"):
        fit(inputs, targets)
    with pytest.raises(InvalidInput, match="as many rows"):
        fit(np.zeros((4, 2)), targets)
    with pytest.raises(InvalidInput, match="must be a matrix"):
        fit(np.zeros(5), targets)
    with pytest.raises(InvalidInput, match="start must be"):
        fit(np.zeros((5, 2)), targets, start=process())
    settings: list[tuple[dict[str, Any], str]] = [
        ({"kernel": "rbf"}, "kernel must be one of"),
        ({"mean": "cubic"}, "mean must be one of"),
        ({"starts": 0}, "starts must be"),
        ({"snr": 3.0}, "snr must be above"),
        ({"inducing": 0}, "inducing must be"),
        ({"sparse": "vfe"}, "sparse must be one of fitc, dtc, variational"),
    ]
    for wrong, message in settings:
        with pytest.raises(InvalidInput, match=message):
            GaussianProcessConfig(**wrong)


# ---- inducing inputs -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sparse", SPARSE)
def test_all_inputs_as_inducing_ones_predict_exactly(kernel: str, sparse: str) -> None:
    exact = process(kernel)
    summed = dataclasses.replace(exact, inducing=exact.inputs, sparse=sparse)
    wanted, found = exact.predict(queries()), summed.predict(queries())
    np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-5)
    np.testing.assert_allclose(found.variance, wanted.variance, atol=1e-5)


@pytest.mark.parametrize("sparse", ["fitc", "dtc"])
def test_inducing_inputs_against_the_dense_formulas(sparse: str) -> None:
    """Quinonero-Candela and Rasmussen 2005, equations 20 and 24, with matrices of all observations."""
    whole = process(n=40)
    found = dataclasses.replace(whole, inducing=whole.inputs[::4] + 0.1, sparse=sparse)
    for e in range(2):
        within = found.covariance(e, found.centers, found.centers)
        within += 1e-10 * np.diag(np.diag(within))

        def through(a: np.ndarray, b: np.ndarray, e: int = e, within: np.ndarray = within) -> np.ndarray:
            ends = (found.covariance(e, a, found.centers), found.covariance(e, found.centers, b))
            return ends[0] @ np.linalg.solve(within, ends[1])

        seen = through(whole.inputs, whole.inputs) + whole.noise[e] ** 2 * np.eye(40)
        if sparse == "fitc":
            seen += np.diag(
                np.diag(whole.covariance(e, whole.inputs, whole.inputs) - through(whole.inputs, whole.inputs))
            )
        cross = through(queries(), whole.inputs)
        away = (whole.targets - whole.prior_mean(whole.inputs))[:, e]
        mean = whole.prior_mean(queries())[:, e] + cross @ np.linalg.solve(seen, away)
        variance = whole.signal[e] ** 2 - np.einsum("ij,ji->i", cross, np.linalg.solve(seen, cross.T))
        np.testing.assert_allclose(found.predict(queries()).mean[:, e], mean, atol=1e-7)
        np.testing.assert_allclose(found.predict(queries()).variance[:, e], variance, atol=1e-7)


def test_what_cannot_be_told_apart_is_refused() -> None:
    sure = process(n=5)
    sure = dataclasses.replace(sure, noise=np.full_like(sure.noise, 1e-12))
    with pytest.raises(InvalidInput, match="singular"):
        sure.append(sure.inputs[:1], sure.targets[:1])


def test_many_observations_are_summed_up() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-3, 3, (1500, 2))
    targets = np.sin(inputs[:, :1]) * np.cos(inputs[:, 1:]) + 0.1 * rng.normal(size=(1500, 1))
    found = fit(inputs, targets, GaussianProcessConfig(inducing=60, rows=200))
    assert found.inducing is not None and len(found.inducing) == 60
    away = found.predict(inputs[:300]).mean - np.sin(inputs[:300, :1]) * np.cos(inputs[:300, 1:])
    assert np.sqrt((away**2).mean()) < 0.03
    few = GaussianProcessConfig(rows=200)
    reports: list[Any] = []
    assert fit(inputs, targets, few, told=reports.append).count == 1500
    fit(inputs, targets, GaussianProcessConfig(rows=100), told=reports.append)
    assert 1.5 < reports[0].evidence / reports[1].evidence < 4  # of 200 observations, and of 100
    chosen = spread_out(process(n=50), 50)
    assert len(set(chosen.tolist())) == len(chosen)
    single = process(n=30)
    data: dict[str, Any] = {k: np.repeat(getattr(single, k), 2, 0) for k in ("inputs", "targets")}
    twice = dataclasses.replace(single, **data)
    assert len(spread_out(twice, 60)) <= 30


# ---- variational inducing inputs -------------------------------------------------------------------------------------
def transitions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and changes of the PILCO papers' cart-pole along episodes of random forces, seen with noise."""
    task = make_task("cartpole-pilco")
    assert isinstance(task, AnalyticTask)
    rng, inputs, targets = np.random.default_rng(seed), [], []
    state = tuple(task.reset(rng))
    for t in range(count):
        if t % task.episode_steps == 0:
            state = tuple(task.reset(rng))
        force, seen = rng.uniform(task.control_low, task.control_high), task.seen(state, rng)
        state = task.step(state, tuple(force), task.params)
        inputs.append(features_of(task).inputs(seen[None], force[None])[0])
        targets.append(task.seen(state, rng) - seen)
    return np.array(inputs), np.array(targets)


@pytest.mark.parametrize(("kernel", "mean"), [("se", "zero"), ("matern52", "linear"), ("se+polynomial", "constant")])
def test_the_bound_and_its_gradient(kernel: str, mean: str) -> None:
    """Against differences of fourth order; below the evidence, and at it where all inputs are inducing ones."""
    from mpcrl.learning.variational import Bound

    rng = np.random.default_rng(0)
    inputs, places = rng.normal(size=(25, 3)), rng.normal(size=(6, 3))
    target = np.sin(inputs[:, 0]) + inputs[:, 1] + 0.1 * rng.normal(size=25)
    stretch, shift = np.array([1.0, 2.0, 0.5]), np.array([0.1, 0.2, 0.3])
    exact = Evidence(GaussianProcessConfig(kernel=kernel, mean=mean), inputs, target, inputs * stretch + shift)
    columns = np.column_stack([np.ones(25), inputs])[:, : {"zero": 0, "constant": 1, "linear": 4}[mean]]
    bound = Bound(kernel, inputs, target, columns, 10.0, stretch, shift)
    logs = 0.3 * rng.normal(size=exact.size) - 1.5 * (np.arange(exact.size) == 4)
    found, whole = bound.value(logs, places), bound.value(logs, inputs)
    evidence = exact.value(logs)
    assert found is not None and whole is not None and evidence is not None
    assert found.value < evidence[0]
    assert whole.value == pytest.approx(evidence[0], rel=1e-6)
    np.testing.assert_allclose(whole.weights, evidence[2], atol=1e-6)

    def at(shift: np.ndarray) -> float:
        moved = bound.value(logs + shift[: logs.size], places + shift[logs.size :].reshape(places.shape))
        assert moved is not None
        return moved.value

    steps = 1e-5 * np.eye(logs.size + places.size)
    differences = [(8 * (at(s) - at(-s)) - (at(2 * s) - at(-2 * s))) / 12e-5 for s in steps]
    gradient = np.concatenate([found.logs, found.inducing.ravel()])
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-8 * np.abs(gradient).max())


def test_the_bound_is_gpytorchs_and_predictions_are_those_of_its_variational_posterior() -> None:
    """Its sparse regression has the same bound; its q(f(Z)) of the best mean and covariance predicts the same."""
    gpytorch, torch = pytest.importorskip("gpytorch"), pytest.importorskip("torch")
    from mpcrl.learning.variational import Bound

    whole = process(n=60)
    flat = dataclasses.replace(whole, slope=np.zeros((2, 3)), intercept=np.zeros(2))
    ours = dataclasses.replace(flat, inducing=whole.inputs[::5] + 0.1, sparse="variational")
    models: Any = gpytorch.models
    x, z, asked = (torch.tensor(a) for a in (ours.inputs, ours.centers, queries()))
    tight = gpytorch.constraints.GreaterThan(1e-12)
    for e in range(ours.outputs):
        y, noise = torch.tensor(ours.targets[:, e]), ours.noise[e]
        base = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=3)).double()
        base.base_kernel.lengthscale, base.outputscale = torch.tensor(ours.lengthscale[e]), float(ours.signal[e] ** 2)
        likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=tight).double()
        likelihood.noise = float(noise**2)

        class Regression(models.ExactGP):
            def __init__(self, base: Any, likelihood: Any, y: Any) -> None:
                super().__init__(x, y, likelihood)
                self.mean_module = gpytorch.means.ZeroMean()
                self.covar_module = gpytorch.kernels.InducingPointKernel(base, z.clone(), likelihood)

            def forward(self, x: Any) -> Any:
                return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

        regression = Regression(base, likelihood, y).train()
        theirs = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, regression)(regression(x), y).item() * 60
        bound = Bound("se", ours.inputs, ours.targets[:, e], np.ones((60, 0)), 10.0, np.ones(3), np.zeros(3))
        found = bound.value(np.log([*ours.lengthscale[e], ours.signal[e], noise]), ours.centers)
        assert found is not None
        assert found.value == pytest.approx(theirs, rel=1e-6)

        class Variational(models.ApproximateGP):
            def __init__(self, base: Any) -> None:
                best = gpytorch.variational.CholeskyVariationalDistribution(len(z))
                super().__init__(gpytorch.variational.UnwhitenedVariationalStrategy(self, z.clone(), best, False, 0.0))
                self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), base

            def forward(self, x: Any) -> Any:
                return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

        model = Variational(base).double()
        within, cross = ours.covariance(e, ours.centers, ours.centers), ours.covariance(e, ours.centers, ours.inputs)
        known = within + cross @ cross.T / noise**2
        spread = within @ np.linalg.solve(known, within)
        mean = within @ np.linalg.solve(known, cross @ ours.targets[:, e]) / noise**2
        held = model.variational_strategy._variational_distribution
        held.variational_mean.data = torch.tensor(mean)
        held.chol_variational_covar.data = torch.linalg.cholesky(torch.tensor((spread + spread.T) / 2))
        model.variational_strategy.variational_params_initialized.fill_(1)
        with torch.no_grad():
            predicted = model.eval()(asked)
        np.testing.assert_allclose(ours.predict(queries()).mean[:, e], predicted.mean, atol=1e-6)
        np.testing.assert_allclose(ours.predict(queries()).variance[:, e], predicted.variance, atol=1e-6)


def test_moved_inducing_inputs_predict_other_episodes_better_than_observed_ones() -> None:
    """The same number of each, of more than a thousand transitions; the same bits from any number of threads."""
    inputs, targets = transitions(1200, 0)
    asked, wanted = transitions(400, 1)
    settings: dict[str, Any] = {"inducing": 25, "rows": 250, "iterations": 30}
    densities, reports = {}, list[OutputReport]()
    for sparse in ("dtc", "variational"):
        found = fit(inputs, targets, GaussianProcessConfig(sparse=sparse, **settings), threads=1, told=reports.append)
        mean, variance = found.predict(asked)
        spread = variance + found.noise**2
        densities[sparse] = -0.5 * ((wanted - mean) ** 2 / spread + np.log(2 * math.pi * spread)).mean(axis=0)
    assert densities["variational"].mean() > densities["dtc"].mean() + 0.1
    assert [r.output for r in reports] == [0, 1, 2, 3] * 2
    assert reports[0].bound is None
    for report in reports[4:]:
        e = report.output
        dense = found.covariance(e, inputs, found.centers)
        within = found.covariance(e, found.centers, found.centers)
        through = dense @ np.linalg.solve(within + 1e-10 * np.diag(np.diag(within)), dense.T)
        lost = 1200 * found.signal[e] ** 2 - np.trace(through)
        through += found.noise[e] ** 2 * np.eye(1200)
        density = targets[:, e] @ np.linalg.solve(through, targets[:, e]) + np.linalg.slogdet(2 * math.pi * through)[1]
        assert report.bound == pytest.approx(-0.5 * density - 0.5 * lost / found.noise[e] ** 2, rel=1e-5)
    short = GaussianProcessConfig(sparse="variational", **settings | {"iterations": 3})
    one, two = fit(inputs, targets, short, seed=3, threads=1), fit(inputs, targets, short, seed=3)
    np.testing.assert_array_equal(one.inducing, two.inducing)
    np.testing.assert_array_equal(one.lengthscale, two.lengthscale)
    other = fit(inputs, targets, short, seed=4, threads=1)
    assert not np.array_equal(one.lengthscale, other.lengthscale)  # of other rows of the observations


@pytest.mark.parametrize("kernel", ["matern52", "se+polynomial"])
def test_moved_inducing_inputs_of_every_kernel_and_mean(kernel: str) -> None:
    """In the data's own units; more of them than there are observations are an exact process."""
    rng = np.random.default_rng(2)
    inputs = rng.uniform(-3, 3, (150, 2)) * [1.0, 100.0] + [5.0, 1000.0]
    truth = 1e-3 * np.sin(inputs[:, :1]) + 1e-5 * inputs[:, 1:]
    targets = truth + 1e-4 * rng.normal(size=(150, 1))
    config = GaussianProcessConfig(kernel=kernel, mean="linear", inducing=12, sparse="variational", iterations=40)
    found = fit(inputs, targets, config, threads=1)
    assert np.sqrt(((found.predict(inputs).mean - truth) ** 2).mean()) < 5e-5
    assert not np.isin(found.centers, inputs).any()
    assert fit(inputs, targets, dataclasses.replace(config, inducing=150), threads=1).inducing is None


def test_moved_inducing_inputs_lean_against_walls() -> None:
    """Of data without noise, which alone would make the signal tens of thousands of noises."""
    inputs = np.random.default_rng(0).normal(size=(40, 2))
    config = GaussianProcessConfig(snr=50.0, sparse="variational", inducing=20, iterations=60)
    certain = fit(inputs, np.sin(inputs), config, threads=1)
    assert certain.inducing is not None
    assert (certain.signal / certain.noise).max() < steepest(40, 50.0) < 63


def test_what_was_learned_by_gpytorch_plans_without_it(tmp_path: Path) -> None:
    """And learning without it says what to install, before any work."""
    task = make_task("cartpole-pilco")
    inputs, targets = transitions(60, 0)
    config = GaussianProcessConfig(inducing=15, sparse="variational", iterations=3)
    GP(task, fit(inputs, targets, config, threads=1), particles=2).save(tmp_path)
    code = f"""
import sys
sys.modules["gpytorch"] = None
import numpy as np
import mpcrl
from mpcrl.core.errors import MissingDependency
from mpcrl.learning.gaussian_process import GaussianProcessConfig, fit
task = mpcrl.make_task("cartpole-pilco")
planner = mpcrl.planners.icem(budget=16, horizon=5)
controller = mpcrl.Controller(task, planner, model=mpcrl.GP.load(task, {str(tmp_path)!r}), threads=1)
assert np.isfinite(controller.act(np.zeros(4))).all()
assert "torch" not in sys.modules
try:
    fit(np.ones((9, 2)), np.ones((9, 1)), GaussianProcessConfig(inducing=3, sparse="variational"))
except MissingDependency as error:
    assert "gpytorch is not installed; install it with: pip install 'mpcrl[learning]'" in str(error), error
else:
    raise AssertionError"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- kernels ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("precision", "error"), [("float64", 1e-10), ("float32", 2e-4)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_predicts_as_its_slow_twin(kernel: str, precision: str, error: float) -> None:
    """For numbers of points that fill panels and that do not, and any number of queries."""
    for n, count in ((30, 70), (1, 1), (7, 65)):
        settings: list[dict[str, Any]] = [{}, {"inducing": queries(n)}]
        for more in settings:
            slow = process(kernel, n, **more)
            fast = Predictor(slow, precision=precision, variance=True)
            wanted, found = slow.predict(queries(count)), fast.predict(queries(count))
            np.testing.assert_allclose(found.mean, wanted.mean, atol=error)
            np.testing.assert_allclose(found.variance, wanted.variance, atol=error)
            np.testing.assert_allclose(fast.mean(queries(count)[:, None], threads=1)[:, 0], found.mean, atol=error)
    assert slow.prior_mean(queries()).shape == (70, 2)


def test_float32_variances_stay_variances_where_there_is_little_noise() -> None:
    slow = dataclasses.replace(process(n=200), noise=np.full(2, 2e-3), signal=np.ones(2))
    wanted = slow.predict(queries(500)).variance
    found = Predictor(slow, precision="float32", variance=True).predict(queries(500)).variance
    assert (found >= 0).all()
    np.testing.assert_allclose(found, wanted, atol=5e-5)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("kernel", ["se", "matern52"])
def test_far_from_all_data_stands_the_prior_and_nothing_where_there_is_no_number(kernel: str, precision: str) -> None:
    slow = process(kernel, 9)
    fast = Predictor(slow, precision=precision, variance=True)
    far = slow.inputs.mean(axis=0) + np.array([[60.0], [2000.0]]) * slow.lengthscale.max()
    found = fast.predict(far)
    np.testing.assert_allclose(found.mean, slow.prior_mean(far), rtol=1e-6)
    np.testing.assert_allclose(found.variance, np.broadcast_to(slow.signal**2, (2, 2)), rtol=1e-6)
    lost = fast.predict(np.array([[0.0, np.nan, 0.0], [0.0, 0.0, 0.0]]))
    assert np.isnan(lost.mean[0]).all()
    assert np.isnan(lost.variance[0]).all()
    assert np.isfinite(lost.mean[1]).all()


def test_data_that_float64_cannot_tell_apart_are_refused() -> None:
    slow = process("se", 9)
    away = dataclasses.replace(slow, inputs=slow.inputs + 1e6 * (np.arange(9) % 2)[:, None])
    with pytest.raises(InvalidInput, match=r"may lie 100000 length scales from their mean, these lie \d"):
        Predictor(away)


def twin(slow: GaussianProcess, draws: Draws, inputs: np.ndarray) -> np.ndarray:
    """Functions [P, N, E] at inputs [N, D], as `Draws` says."""
    found = np.empty((len(draws.phase), len(inputs), slow.outputs))
    smooth = dataclasses.replace(slow, kernel="se") if slow.kernel == "se+polynomial" else slow
    for p, e in itertools.product(range(len(draws.phase)), range(slow.outputs)):
        z = np.column_stack([np.full(len(inputs), slow.bias[e]), inputs * slow.tilt[e]])
        found[p, :, e] = slow.prior_mean(inputs)[:, e] + np.einsum("ni,ij,nj->n", z, draws.form[p, e], z)
        found[p, :, e] += smooth.covariance(e, inputs, slow.centers) @ draws.coefficient[p, e]
        found[p, :, e] += np.cos(inputs @ draws.frequency[p, e].T + draws.phase[p, e]) @ draws.amplitude[p, e]
    return found


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("inducing", [None, 12])
def test_drawn_functions_are_distributed_as_the_process(kernel: str, inducing: int | None) -> None:
    """Mean and variance over functions, within five standard errors; the kernel as its twin; at data near them."""
    slow = process(kernel, 15, inducing=None if inducing is None else queries(inducing))
    draws = draw(slow, 600, waves=32, seed=4)
    values = Predictor(slow, draws=draws).mean(queries(40)[None])
    few = Draws(**{f.name: getattr(draws, f.name)[:3] for f in dataclasses.fields(draws)})
    np.testing.assert_allclose(values[:3], twin(slow, few, queries(40)), atol=1e-8)
    wanted = slow.predict(queries(40))
    deviation = np.sqrt(wanted.variance)
    assert (np.abs(values.mean(axis=0) - wanted.mean) < 5 * deviation / math.sqrt(600)).all()
    np.testing.assert_allclose(values.var(axis=0) / wanted.variance, 1, atol=5 * math.sqrt(3 / 600))
    if inducing is None:
        there = Predictor(slow, draws=draws, precision="float32").mean(np.tile(slow.inputs, (600, 1, 1)))
        assert (np.abs(there - slow.targets) < 6 * slow.noise).all()
    same, other = draw(slow, 600, waves=32, seed=4), draw(slow, 600, waves=32, seed=5)
    np.testing.assert_array_equal(same.coefficient, draws.coefficient)
    assert not np.array_equal(other.coefficient, draws.coefficient)


def test_bad_queries_are_refused() -> None:
    slow = process()
    with pytest.raises(InvalidInput, match=r"must have the shape \[..., 3\]"):
        Predictor(slow).mean(np.zeros((4, 2)))
    with pytest.raises(InvalidInput, match=r"\[5 or 1, N, 3\]"):
        Predictor(slow, draws=draw(slow, 5)).mean(np.zeros((4, 2, 3)))
    with pytest.raises(InvalidInput, match="variance=True"):
        Predictor(slow).predict(queries())
    with pytest.raises(InvalidInput, match="precision"):
        Predictor(slow, precision="float16")


# ---- files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "more", [{}, {"inducing": queries(5), "sparse": "dtc"}, {"inducing": queries(5), "sparse": "variational"}]
)
def test_files_are_the_process(more: dict[str, Any]) -> None:
    whole = process(**more)
    again = GaussianProcess.of_files(whole.files())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(again.predict(queries()).variance, whole.predict(queries()).variance)
    for name, value in fields_of(whole).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_damaged_files_are_refused() -> None:
    files = process().files()
    for wrong in (
        {},
        {"gaussian_process.json": files["gaussian_process.json"]},
        files | {"gaussian_process.json": to_json({"kernel": "rbf", "sparse": "fitc"})},
        files | {"gaussian_process.json": to_json({"kernel": "se", "sparse": "fitc", "more": 1})},
        files | {"gaussian_process.safetensors": files["gaussian_process.safetensors"][:-8]},
    ):
        with pytest.raises(DamagedExport):
            GaussianProcess.of_files(wrong)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("inducing", [False, True])
def test_slopes_are_those_of_the_means(kernel: str, inducing: bool) -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(25, 3))
    process = GaussianProcess(
        kernel=kernel,
        inputs=inputs,
        targets=rng.normal(size=(25, 2)),
        lengthscale=np.exp(0.3 * rng.normal(size=(2, 3))),
        signal=np.array([1.0, 0.7]),
        noise=np.array([0.1, 0.2]),
        slope=rng.normal(size=(2, 3)),
        intercept=rng.normal(size=2),
        tilt=0.3 * rng.normal(size=(2, 3)),
        bias=np.array([0.2, 0.5]),
        inducing=inputs[:9] if inducing else None,
    )
    at, h = rng.normal(size=(4, 2, 3)), 1e-5
    at[0, 0] = inputs[0]  # where a distance is 0
    steps = h * np.eye(3)
    differences = [(process.predict(at + d).mean - process.predict(at - d).mean) / (2 * h) for d in steps]
    np.testing.assert_allclose(process.slopes(at), np.stack(differences, axis=-1), rtol=1e-6, atol=1e-7)
