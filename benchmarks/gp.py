"""Gaussian processes beside gpytorch and what the machine can do, in one run.

    python benchmarks/gp.py            predictions and a fit: benchmarks/results/gp_speed.csv
    python benchmarks/gp.py fits       30 data sets, each from ten starts: benchmarks/results/gp_fits.csv
    python benchmarks/gp.py sparse     2000 transitions summed up: benchmarks/results/gp_sparse.csv

300 observations, 6 inputs, 4 outputs; predictions at 1000 inputs. All sides have the same hyper-parameters and are
first checked to predict the same; they take their turn in every round, for two predictions of which the second counts
(the first wakes the threads and costs up to a sixth more), and times are medians. gpytorch's caches are
full before it is timed. The peak is that of multiply-adds in registers alone, in the same rounds; of it a prediction
reaches what it needs: those of the distances, those of a power of two (its polynomial, bound, scale and sum), and those
of the variance.

Fits: even data sets are drawn from processes of random length scales and noise, odd ones are a cart-pole's changes from
random states. A default fit is good if what it maximised is within 0.1 nat of the best of ten starts, for each output.

Sparse: the cart-pole of the PILCO papers as it is seen, with its sensors' noise, under random forces: 50 episodes to
learn from, 25 others to be judged by. Errors are root mean squares in standard deviations of each target, and densities
natural logarithms per number in the same units, so that normal numbers of the targets' own mean and deviation have 1
and -1.42.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from bench_peers import REPOSITORY, machine, use_cores
from ensemble import multiply_adds
from numba import prange

from mpcrl.core.compile import FASTMATH
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels.network import TARGET
from mpcrl.learning.gaussian_process import GaussianProcessConfig, OutputReport, fit
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.gp_functions import Predictor, draw
from mpcrl.tasks.features import features_of
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import AnalyticTask

COUNT, WIDTH, OUTPUTS, QUERIES, WAVES = 300, 6, 4, 1000, 256
COLUMNS = (
    "what", "side", "precision", "threads", "ms", "against_gpytorch", "of_peak", "bar", "met", "machine", "versions",
    "date",
)  # fmt: skip
SPARSE_COLUMNS = (
    "what", "observations", "inducing", "threads", "seconds", "error", "log_density", "machine", "versions", "date",
)  # fmt: skip
FITS = ("data_set", "outputs", "seconds", "worst_gap", "good", "machine", "date")


# ---- data ------------------------------------------------------------------------------------------------------------
def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [n, D] and targets [n, E]."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        return cartpole(rng)
    inputs, targets = rng.uniform(-2, 2, (COUNT, WIDTH)), np.empty((COUNT, OUTPUTS))
    for e in range(OUTPUTS):
        points = inputs / np.exp(rng.uniform(np.log(0.7), np.log(8), WIDTH))
        signal, noise = np.exp(rng.uniform(-1, 1)), np.exp(rng.uniform(np.log(0.01), np.log(0.3)))
        covariance = np.exp(-((points[:, None] - points) ** 2).sum(axis=-1) / 2) + noise**2 * np.eye(COUNT)
        targets[:, e] = signal * np.linalg.cholesky(covariance) @ rng.normal(size=COUNT)
    return inputs, targets


def cartpole(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Changes over 0.1 s, with noise of 0.01."""
    states = rng.normal(size=(COUNT, 4)) * [1, 2, 3, 4] + [0, 0, np.pi, 0]
    force = rng.uniform(-10, 10, COUNT)

    def rates(x: np.ndarray) -> np.ndarray:
        speed, angle, turn = x[:, 1], x[:, 2], x[:, 3]
        sine, cosine, push = np.sin(angle), np.cos(angle), 4 * (force - 0.1 * speed)
        below = 4 - 1.5 * cosine**2
        forward = (0.5 * turn**2 * sine + 1.5 * 9.82 * sine * cosine + push) / below
        around = (-0.75 * turn**2 * sine * cosine - 6 * 9.82 * sine - 1.5 * push * cosine) / (0.5 * below)
        return np.stack([speed, forward, turn, around], axis=1)

    after = states
    for _ in range(10):
        after = after + 0.01 * rates(after)
    seen = [states[:, 0], states[:, 1], states[:, 3], np.sin(states[:, 2]), np.cos(states[:, 2]), force]
    return np.stack(seen, axis=1), after - states + 0.01 * rng.normal(size=states.shape)


# ---- the peak --------------------------------------------------------------------------------------------------------
@numba.njit(parallel=True, fastmath=FASTMATH)
def products(turns: int, threads: int) -> float:
    total = np.zeros(threads)
    for thread in prange(threads):
        total[thread] = multiply_adds(turns)
    return total.sum()


# ---- gpytorch --------------------------------------------------------------------------------------------------------
def in_gpytorch(process: GaussianProcess, precision: str, queries: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same processes as one batch of its exact ones."""
    import gpytorch
    import torch

    real = {"float64": torch.float64, "float32": torch.float32}[precision]

    class Batch(gpytorch.models.ExactGP):
        def __init__(self, x: Any, y: Any, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            shape = torch.Size([OUTPUTS])
            self.mean_module = gpytorch.means.ZeroMean(batch_shape=shape)
            inner = gpytorch.kernels.RBFKernel(ard_num_dims=WIDTH, batch_shape=shape)
            self.covar_module = gpytorch.kernels.ScaleKernel(inner, batch_shape=shape)

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    x = torch.tensor(process.inputs, dtype=real).expand(OUTPUTS, -1, -1)
    least = gpytorch.constraints.GreaterThan(1e-12)
    likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=least, batch_shape=torch.Size([OUTPUTS]))
    model = Batch(x, torch.tensor(process.targets.T.copy(), dtype=real), likelihood).to(real)
    model.covar_module.base_kernel.lengthscale = torch.tensor(process.lengthscale[:, None], dtype=real)
    model.covar_module.outputscale = torch.tensor(process.signal**2, dtype=real)
    likelihood.noise = torch.tensor(process.noise[:, None] ** 2, dtype=real)
    model.eval()
    asked = torch.tensor(queries, dtype=real).expand(OUTPUTS, -1, -1)

    def mean() -> Any:
        with torch.no_grad(), gpytorch.settings.skip_posterior_variances(), gpytorch.settings.max_cholesky_size(4000):
            return model(asked).mean.numpy().T

    def both(fast: bool) -> Any:
        settings = gpytorch.settings
        with torch.no_grad(), settings.fast_pred_var(fast), settings.max_cholesky_size(4000):
            found = model(asked)
            return found.mean.numpy().T, found.variance.numpy().T

    return {"mean": mean, "mean and variance": partial(both, False), "fast_pred_var": partial(both, True)}


def fit_in_gpytorch(inputs: np.ndarray, targets: np.ndarray) -> list[float]:
    """Evidence that its gradient leads the same optimiser to, from the same start; one output after the other."""
    import gpytorch
    import scipy.optimize
    import torch

    scale, found = inputs.std(axis=0), []
    for y in targets.T:
        size = np.sqrt((y**2).mean())
        x, target = torch.tensor((inputs - inputs.mean(axis=0)) / scale), torch.tensor(y / size)
        inner = gpytorch.kernels.RBFKernel(ard_num_dims=WIDTH).double()
        outer, least = gpytorch.kernels.ScaleKernel(inner), gpytorch.constraints.GreaterThan(1e-12)
        likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=least).double()
        inner.lengthscale, outer.outputscale, likelihood.noise = 1.0, 1.0, 0.01
        parameters = [*outer.double().parameters(), *likelihood.parameters()]

        def loss(flat: np.ndarray, *parts: Any) -> tuple[float, np.ndarray]:
            outer, likelihood, parameters, x, target = parts
            with torch.no_grad():
                torch.nn.utils.vector_to_parameters(torch.tensor(flat), parameters)
            prior = gpytorch.distributions.MultivariateNormal(torch.zeros(len(x), dtype=x.dtype), outer(x))
            with gpytorch.settings.max_cholesky_size(4000), gpytorch.settings.fast_computations(False, False, False):
                value = -likelihood(prior).log_prob(target)
                gradients = torch.autograd.grad(value, parameters)
            return value.item(), torch.cat([g.ravel() for g in gradients]).numpy()

        start = torch.nn.utils.parameters_to_vector(parameters).detach().numpy()
        done = scipy.optimize.minimize(
            loss, start, (outer, likelihood, parameters, x, target), jac=True, method="L-BFGS-B",
            options={"maxiter": 150, "ftol": 1e-7, "gtol": 1e-3},
        )  # fmt: skip
        found.append(-done.fun - len(y) * np.log(size))
    return found


# ---- the run ---------------------------------------------------------------------------------------------------------
def timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def speed(rounds: int) -> list[dict[str, Any]]:
    import gpytorch
    import torch

    torch.set_num_threads(2)
    inputs, targets = data(0)
    process = fit(inputs, targets)
    queries = np.random.default_rng(1).uniform(-2, 2, (QUERIES, WIDTH))
    wanted = process.predict(queries)
    draws = draw(process, 20, waves=WAVES)
    each = np.random.default_rng(2).uniform(-2, 2, (20, QUERIES // 20, WIDTH))
    seconds: dict[tuple[str, str, str, int], list[float]] = {}
    runs: dict[tuple[str, str, str, int], Callable[[], float]] = {}
    turns, per_turn = 2_000_000 // TARGET.lanes, TARGET.lanes * TARGET.rows * TARGET.vectors

    def peak(threads: int, halved: int) -> float:
        with ThreadBudget(threads).kernels():
            return timed(lambda: products(turns, threads)) / (turns * per_turn * threads) * halved

    for precision, real in (("float64", np.float64), ("float32", np.float32)):
        whole, drawn = (
            Predictor(process, precision=precision, variance=True),
            Predictor(process, draws=draws, precision=precision),
        )
        np.testing.assert_allclose(whole.mean(queries), wanted.mean, atol=1e-9 if real is np.float64 else 1e-2)
        for threads in (1, 2):
            peak(threads, 1)
            runs["multiply-add", "peak", precision, threads] = partial(
                peak, threads, 2 if precision == "float64" else 1
            )
            runs["mean", "mpcrl", precision, threads] = partial(timed, partial(whole.mean, queries, threads))
            runs["mean and variance", "mpcrl", precision, threads] = partial(
                timed, partial(whole.predict, queries, threads)
            )
            runs["draws", "mpcrl", precision, threads] = partial(timed, partial(drawn.mean, each, threads))
        peer = in_gpytorch(process, precision, queries)
        if real is np.float64:
            np.testing.assert_allclose(peer["mean"](), wanted.mean, atol=1e-6)
            np.testing.assert_allclose(peer["mean and variance"]()[1], wanted.variance, atol=1e-4)
        runs |= {(what, "gpytorch", precision, 2): partial(timed, run) for what, run in peer.items()}
    reports: list[OutputReport] = []
    fit(inputs, targets, told=reports.append)
    for ours, theirs in zip(reports, fit_in_gpytorch(inputs, targets), strict=True):
        print(f"evidence: {ours.evidence:.2f}, by gpytorch's gradient {theirs:.2f}")
    for threads in (1, 2):
        runs["fit", "mpcrl", "float64", threads] = partial(timed, partial(fit, inputs, targets, threads=threads))
    runs["fit", "gpytorch", "float64", 2] = partial(timed, partial(fit_in_gpytorch, inputs, targets))
    for run in runs.values():
        run()
    host = machine()
    for lap in range(rounds):
        for key, run in runs.items():
            if key[0] != "fit" or lap < 3:
                time.sleep(0.01)  # threads that the last side left spinning fall asleep
                if key[0] != "fit":
                    run()  # wakes its own
                seconds.setdefault(key, []).append(run())
    medians = {key: statistics.median(laps) for key, laps in seconds.items()}
    versions = f"numba {numba.__version__}, gpytorch {gpytorch.__version__}, torch {torch.__version__}"
    return [row_of(key, medians) | {"machine": host, "versions": versions} for key in medians]


def operations(what: str, precision: str) -> float:
    """Multiply-adds, or what takes their place in this kernel, of all that is predicted."""
    each = WIDTH + 13 if precision == "float64" else 2 * WIDTH + 9  # float32 takes distances by differences
    return OUTPUTS * QUERIES * COUNT * (each + (COUNT / 2 if what == "mean and variance" else 0))


def row_of(key: tuple[str, str, str, int], medians: dict[Any, float]) -> dict[str, Any]:
    what, side, precision, threads = key
    took, unit = medians[key], 1e9 if side == "peak" else 1e3
    row: dict[str, Any] = {
        "what": what + (" (ns each)" if side == "peak" else ""), "side": side, "precision": precision,
        "threads": threads, "ms": f"{unit * took:.3f}", "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    if side != "mpcrl":
        return row
    bars: list[tuple[str, bool]] = []
    if what.startswith("mean"):
        row["of_peak"] = (
            f"{operations(what, precision) * medians['multiply-add', 'peak', precision, threads] / took:.2f}"
        )
    peer = medians.get((what, "gpytorch", precision, 2))
    if peer and threads == 2:
        row["against_gpytorch"] = f"{peer / took:.1f}"
        if precision == "float64" and what == "mean":
            bars += [("ms <= 2", took <= 2e-3), ("against_gpytorch >= 15", peer / took >= 15)]
        elif precision == "float64" and what == "mean and variance":
            bars += [("against_gpytorch >= 4", peer / took >= 4)]
        elif what == "fit":
            bars += [("ms <= 1000", took <= 1)]
    row["bar"] = "; ".join(bar for bar, _ in bars)
    row["met"] = "; ".join("yes" if met else "no" for _, met in bars)
    return row


def fits() -> list[dict[str, Any]]:
    rows = []
    for seed in range(30):
        reports: list[OutputReport] = []
        inputs, targets = data(seed)
        seconds = timed(partial(fit, inputs, targets))
        fit(inputs, targets, told=reports.append)
        ours = [max(report.ends) for report in reports]
        fit(inputs, targets, GaussianProcessConfig(starts=10), told=reports.append)
        gap = max(max(ten.ends) - one for ten, one in zip(reports[OUTPUTS:], ours, strict=True))
        rows.append(
            {
                "data_set": seed,
                "outputs": OUTPUTS,
                "seconds": f"{seconds:.2f}",
                "worst_gap": f"{gap:.3f}",
                "good": "yes" if gap <= 0.1 else "no",
                "machine": machine(),
                "date": datetime.date.today().isoformat(),
            }
        )
        print("  ".join(f"{name} {rows[-1][name]}" for name in FITS[:5]), flush=True)
    print(f"{sum(row['good'] == 'yes' for row in rows)} of {len(rows)} good")
    return rows


def transitions(episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the PILCO papers' cart-pole under random forces, seen with noise."""
    task = make_task("cartpole-pilco")
    assert isinstance(task, AnalyticTask)
    features, rng, inputs, targets = features_of(task), np.random.default_rng(seed), [], []
    for _ in range(episodes):
        state = tuple(task.reset(rng))
        seen = task.seen(state, rng)
        for _ in range(task.episode_steps):
            force = rng.uniform(task.control_low, task.control_high)
            state = task.step(state, tuple(force), task.params)
            following = task.seen(state, rng)
            inputs.append(features.inputs(seen[None], force[None])[0])
            targets.append(following - seen)
            seen = following
    return np.array(inputs), np.array(targets)


def sparse(threads: int) -> list[dict[str, Any]]:
    import gpytorch
    import torch

    inputs, targets = transitions(50, 0)
    queries, wanted = transitions(25, 1)
    some = np.sort(np.random.default_rng(2).choice(len(inputs), 1000, replace=False))
    scale = targets.std(axis=0)
    versions = f"gpytorch {gpytorch.__version__}, torch {torch.__version__}"
    fit(inputs[:50], targets[:50], GaussianProcessConfig(inducing=9, sparse="variational"))  # compiled and imported
    cases = [("exact", some, None), ("exact", np.arange(len(inputs)), None)]
    cases += [(kind, np.arange(len(inputs)), m) for m in (100, 200) for kind in ("dtc", "fitc", "variational")]
    rows = []
    for what, chosen, inducing in cases:
        config = GaussianProcessConfig(inducing=inducing, **({"sparse": what} if inducing else {}))
        begin = time.perf_counter()
        process = fit(inputs[chosen], targets[chosen], config, threads=threads)
        _ = process.beta, process.root
        seconds = time.perf_counter() - begin
        mean, variance = process.predict(queries)
        away, spread = (wanted - mean) / scale, (variance + process.noise**2) / scale**2
        density = -0.5 * (away**2 / spread + np.log(2 * np.pi * spread))
        rows.append(
            {
                "what": what,
                "observations": len(chosen),
                "inducing": inducing or "",
                "threads": threads,
                "seconds": f"{seconds:.1f}",
                "error": f"{np.sqrt((away**2).mean()):.4f}",
                "log_density": f"{density.mean():.4f}",
                "machine": machine(),
                "versions": versions,
                "date": datetime.date.today().isoformat(),
            }
        )
        print("  ".join(f"{name} {rows[-1][name]}" for name in SPARSE_COLUMNS[:7]), flush=True)
    return rows


def missed_in(study: str, rows: list[dict[str, Any]]) -> list[str]:
    """Bars that are not met, of `speed` and `fits`."""
    if study == "fits":
        good = sum(row["good"] == "yes" for row in rows)
        slow = [f"data set {row['data_set']}: {row['seconds']} s" for row in rows if float(row["seconds"]) > 1]
        return slow + ([f"{good} of {len(rows)} within 0.1 nat"] if good < 0.9 * len(rows) else [])
    asked = [row for row in rows if row.get("bar")]
    pairs = [
        (row["what"], bar) for row in asked for bar in zip(row["bar"].split("; "), row["met"].split("; "), strict=True)
    ]
    return [f"{what}: {bar}" for what, (bar, met) in pairs if met == "no"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", choices=("speed", "fits", "sparse"), default="speed")
    parser.add_argument("--rounds", type=int, default=15, help="of speed")
    parser.add_argument("--threads", type=int, default=2, help="of sparse")
    options = parser.parse_args()
    use_cores(2)
    if options.study == "fits":
        rows, columns = fits(), FITS
    elif options.study == "sparse":
        rows, columns = sparse(options.threads), SPARSE_COLUMNS
    else:
        rows, columns = speed(options.rounds), COLUMNS
        for row in rows:
            print("  ".join(f"{name} {row[name]}" for name in COLUMNS[:-3] if row.get(name)))
    path = REPOSITORY / "benchmarks" / "results" / f"gp_{options.study}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {path}")
    if missed := missed_in(options.study, rows):
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
