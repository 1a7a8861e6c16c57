"""Hyper-parameters of Gaussian processes: those of the most evidence, each output for itself.

On standardised data, with the mean function H w whose weights w have the prior N(0, 10^2), and K of `GaussianProcess`:

    evidence  L = -1/2 r' beta - 1/2 log|K + noise^2 I| - n/2 log 2 pi - |w|^2 / 200,   r = y - H w,  beta = K^-1 r
    gradient  dL/dt = 1/2 tr( (beta beta' - K^-1) dK/dt )                               t a logarithm (GPML, 5.9)

w is the best one for each t, which leaves the gradient as it is. What is maximised is L minus walls, as PILCO has
them (Deisenroth, McHutchon, Hall, Rasmussen 2013, `hypCurb.m`), which are flat up to shortly before where they stand:

    max(0, log(signal / noise) / log snr)^30  +  sum_d (log(lengthscale_d / std_d) / log 100)^30

and, for the polynomial (b^2 + sum_d t_d^2 v_d v'_d)^2 of inputs over their root mean square, the first of these with
b^2 + sum_d t_d^2, which is the standard deviation of what it adds, in the place of the signal.

One L-BFGS-B per output and start, outputs in parallel; the distances and products of n^2 elements are kernels, the
factors LAPACK's. All outputs of n = 300 together take less than half of a second on two cores; gpytorch's gradient, for
the same optimiser, takes several times as long, and needs torch (`benchmarks/gp.py`).

Inducing inputs are observed ones, or, for "variational" ones, moved together with the hyper-parameters of all outputs
by one L-BFGS-B more, along the sum of the outputs' bounds minus the same walls; see `mpcrl.learning.variational`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import joblib
import numpy as np
import scipy.linalg
import scipy.optimize
from scipy.linalg import blas, lapack

from mpcrl.core.checks import numbers, positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.core.lapack import factorise, invert
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import covariance
from mpcrl.learning.replay import checked_seed
from mpcrl.models.gaussian_process import KERNELS, SPARSE, GaussianProcess

MEANS = ("zero", "constant", "linear")

_POWER = 30
_WEIGHTS = 10.0
"""Standard deviation of the prior of the mean function's weights, of standardised data."""
_BOUNDS = {"lengthscale": (1e-3, 1e3), "signal": (1e-3, 1e3), "noise": (1e-6, 1e2), "tilt": (1e-4, 1e2)}
_EXPLAINED = 1e-9
"""Share of the variance below which an input is held for known."""
_SINGULAR = 1e25
"""In the place of the loss where the covariance is singular in float64: line searches step back from it."""


@dataclass(frozen=True, kw_only=True)
class GaussianProcessConfig:
    """What the functions are taken for, and how their hyper-parameters are sought.

    Attributes
    ----------
    kernel : {"se", "matern52", "se+polynomial"}
    mean : {"zero", "constant", "linear"}
        The mean functions.
    starts : int
        Where optimisation starts from: length scales and signals of the data's standard deviations and a tenth of it as
        noise; then random ones. The best end counts.
    iterations : int
        Of L-BFGS-B, from each start; as many once more for "variational" inducing inputs.
    snr : float
        Signal over noise beyond which there is a wall, so that covariances stay well conditioned.
    rows : int
        Observations that hyper-parameters are found with: of more, so many drawn at random.
    inducing : int, optional
        Inputs to sum the data up by, beyond as many observations: of the observed ones those that leave the least
        variance, chosen one after the other (Burt, Rasmussen, van der Wilk 2020). Without it, processes are exact,
        which takes the cube of the number of observations.
    sparse : {"fitc", "dtc", "variational"}
        How they sum up; see `GaussianProcess`. "variational" goes on from there: it moves them and the
        hyper-parameters so that they sum up all observations best, which takes longer, and gpytorch.
    """

    kernel: str = "se"
    mean: str = "zero"
    starts: int = 1
    iterations: int = 150
    snr: float = 1000.0
    rows: int = 1000
    inducing: int | None = None
    sparse: str = "fitc"

    def __post_init__(self) -> None:
        for name, known in (("kernel", KERNELS), ("mean", MEANS), ("sparse", SPARSE)):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("starts", "iterations", "rows", *(["inducing"] if self.inducing is not None else [])):
            positive_integer(name, getattr(self, name))
        if positive_number("snr", self.snr) <= 20:
            raise InvalidInput(f"snr must be above 20, for optimisation starts at 10; got {self.snr!r}")


class OutputReport(NamedTuple):
    """What a fit did for one output.

    Attributes
    ----------
    output : int
    evidence : float
        L above in the data's own units: the log density of the observations, with that of the mean's weights.
    ends : tuple of float
        What was maximised, at the end of each start, in the data's own units.
    iterations : tuple of int
        Of each start.
    bound : float, optional
        Of all observations by "variational" inducing inputs, in the data's own units.
    """

    output: int
    evidence: float
    ends: tuple[float, ...]
    iterations: tuple[int, ...]
    bound: float | None = None


class Evidence:
    """The evidence of one output's hyper-parameters on standardised data, with its gradient.

    Parameters
    ----------
    config : GaussianProcessConfig
    inputs : ndarray [n, D]
    target : ndarray [n]
    basis : ndarray [n, D], optional
        Inputs as the polynomial sees them, whose origin has a meaning; as the others if not given.

    Notes
    -----
    Logarithms stand in the order: length scales [D], signal, noise; then tilt [D] and bias of the polynomial.
    """

    def __init__(
        self, config: GaussianProcessConfig, inputs: np.ndarray, target: np.ndarray, basis: np.ndarray | None = None
    ) -> None:
        count, width = inputs.shape
        self.config, self.inputs, self.target = config, inputs, target
        self._means = _means(config, inputs)
        self._kind = covariance.MATERN if config.kernel == "matern52" else covariance.SE
        self._polynomial = config.kernel == "se+polynomial"
        self._gram, self._smooth = np.empty((count, count)), np.empty((count, count))
        self._slopes = np.empty((count, count) if self._kind == covariance.MATERN else (0, 0))
        self._roots = np.empty((count, count) if self._polynomial else (0, 0))
        self._ones = np.ones((count, 1))
        self._basis = np.concatenate([self._ones, inputs if basis is None else basis], axis=1)

    @property
    def size(self) -> int:
        """Number of hyper-parameters."""
        width = self.inputs.shape[1]
        return width + 2 + (width + 1 if self._polynomial else 0)

    def value(self, logs: np.ndarray) -> tuple[float, np.ndarray, np.ndarray] | None:
        """L, its gradient [size] and the weights of the mean function; None where K is singular."""
        inputs, (count, width) = self.inputs, self.inputs.shape
        lengthscale, signal, noise = np.exp(logs[:width]), math.exp(logs[width]), math.exp(logs[width + 1])
        points = np.ascontiguousarray((inputs / lengthscale).T)
        gram, smooth = self._gram, self._smooth
        covariance.smooth(self._kind, points, signal**2, smooth, self._slopes)
        gram[:] = smooth
        if self._polynomial:
            stretch = np.exp(np.append(logs[-1], logs[width + 2 : -1]))
            covariance.add_square(np.ascontiguousarray((self._basis * stretch).T), gram, self._roots)
        gram.flat[:: count + 1] += noise**2
        if not factorise(gram):
            return None
        logdet = 2 * np.log(np.diagonal(gram)).sum()
        weights, residual = np.zeros(self._means.shape[1]), self.target
        if weights.size:
            solved = lapack.dpotrs(gram.T, self._means, lower=0)[0]
            normal = self._means.T @ solved + np.eye(weights.size) / _WEIGHTS**2
            weights = scipy.linalg.solve(normal, solved.T @ self.target, assume_a="pos")
            residual = self.target - self._means @ weights
        beta = lapack.dpotrs(gram.T, residual, lower=0)[0].ravel()
        fit = -0.5 * residual @ beta - 0.5 * logdet - 0.5 * count * math.log(2 * math.pi)
        fit -= 0.5 * weights @ weights / _WEIGHTS**2
        invert(gram)
        trace = beta @ beta - np.trace(gram)
        gradient = np.empty(self.size)
        first = smooth
        if self._kind == covariance.MATERN:
            covariance.weigh(beta, gram, smooth)
            gradient[width] = _symmetric(smooth, self._ones).sum()
            first = self._slopes
        covariance.weigh(beta, gram, first)
        columns = np.concatenate([self._ones, points.T], axis=1)
        products = _symmetric(first, columns)
        if self._kind == covariance.SE:
            gradient[width] = products[:, 0].sum()
        gradient[:width] = products[:, 0] @ columns[:, 1:] ** 2 - (columns[:, 1:] * products[:, 1:]).sum(axis=0)
        gradient[width + 1] = noise**2 * trace
        if self._polynomial:
            covariance.weigh(beta, gram, self._roots)
            products = (self._basis * _symmetric(self._roots, self._basis)).sum(axis=0)
            slopes = 2 * stretch**2 * products
            gradient[width + 2 :] = np.append(slopes[1:], slopes[0])
        return float(fit), gradient, weights

    def loss(self, logs: np.ndarray) -> tuple[float, np.ndarray]:
        """The walls minus L, and its gradient."""
        found = self.value(logs)
        if found is None:
            return _SINGULAR, np.zeros(self.size)
        value, gradient = _walls(self.config, logs, self.inputs.shape[1])
        return value - found[0], gradient - found[1]


def _means(config: GaussianProcessConfig, inputs: np.ndarray) -> np.ndarray:
    """H [n, number of weights]."""
    count, width = inputs.shape
    columns = {"zero": 0, "constant": 1, "linear": 1 + width}[config.mean]
    return np.concatenate([np.ones((count, 1)), inputs], axis=1)[:, :columns]


def _walls(config: GaussianProcessConfig, logs: np.ndarray, width: int) -> tuple[float, np.ndarray]:
    """What is subtracted from the evidence, and its gradient."""
    value, gradient = 0.0, np.zeros(logs.size)
    polynomial = config.kernel == "se+polynomial"
    most = math.log(config.snr)
    slopes = np.zeros((1 + polynomial, logs.size))  # of the logarithms of what noise is compared with
    slopes[0, width] = 1.0
    sizes = [float(logs[width])]
    if polynomial:
        squares = np.exp(2 * logs[width + 2 :])
        sizes.append(math.log(squares.sum()))
        slopes[1, width + 2 :] = 2 * squares / squares.sum()
    for size, slope in zip(sizes, slopes, strict=True):
        ratio = max(0.0, (size - float(logs[width + 1])) / most)
        value += ratio**_POWER
        push = _POWER * ratio ** (_POWER - 1) / most
        gradient += push * slope
        gradient[width + 1] -= push
    scaled = logs[:width] / math.log(100)
    value += float((scaled**_POWER).sum())
    gradient[:width] += _POWER * scaled ** (_POWER - 1) / math.log(100)
    return value, gradient


def _symmetric(lower: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Products of a symmetric matrix, of which the lower triangle is given, with columns [n, m]."""
    return blas.dsymm(1.0, lower.T, columns, lower=0)


def fit(
    inputs: np.ndarray,
    targets: np.ndarray,
    config: GaussianProcessConfig | None = None,
    *,
    start: GaussianProcess | None = None,
    seed: int = 0,
    threads: int | None = None,
    told: Callable[[OutputReport], object] | None = None,
) -> GaussianProcess:
    """Gaussian processes of the most evidence.

    Parameters
    ----------
    inputs : ndarray [n, D]
    targets : ndarray [n, E]
    config : GaussianProcessConfig, optional
    start : GaussianProcess, optional
        Whose hyper-parameters are where optimisation starts first, say those of fewer data.
    seed : int
        Of the random starts.
    threads : int, optional
        Outputs at once; all that there are if not given.
    told : callable, optional
        Is given an `OutputReport` for each output, in their order.

    Raises
    ------
    InvalidInput
        Data of other shapes, or not finite; the message names the row.
    MissingDependency
        "variational" inducing inputs without gpytorch.
    """
    config = config or GaussianProcessConfig()
    inputs, targets = _finite("inputs", inputs), _finite("targets", targets)
    if len(inputs) != len(targets) or not inputs.size or not targets.size:
        raise InvalidInput(
            f"inputs and targets must have as many rows, at least 1, got the shapes {inputs.shape} and {targets.shape}"
        )
    if start is not None and (start.kernel, start.lengthscale.shape) != (
        config.kernel,
        (targets.shape[1], inputs.shape[1]),
    ):
        raise InvalidInput(f"start must be a process of the kernel {config.kernel!r} over as many inputs and outputs")
    seed = checked_seed(seed)
    sums_up = config.inducing is not None and config.inducing < len(inputs)
    moved = sums_up and config.sparse == "variational"
    if moved:
        import mpcrl.learning.variational  # noqa: F401  what is not installed is told before the work
    few: Any = slice(None)
    if len(inputs) > config.rows:
        rng = np.random.Generator(np.random.Philox(key=[seed, targets.shape[1]]))
        few = np.sort(rng.choice(len(inputs), config.rows, replace=False))
    units = _Units.of(inputs[few], targets[few], config.mean)
    budget = ThreadBudget.of(threads)
    with ThreadBudget(1).limit():  # of BLAS: outputs take the others
        work = (
            joblib.delayed(_output)(config, units, inputs[few], targets[few], e, start, seed)
            for e in range(targets.shape[1])
        )
        found = joblib.Parallel(min(budget.count, targets.shape[1]), prefer="threads")(work)
    process = GaussianProcess(
        kernel=config.kernel,
        inputs=inputs,
        targets=targets,
        sparse=config.sparse,
        **_joined([part for part, _ in found]),
    )
    reports = [report for _, report in found]
    if sums_up:
        assert config.inducing is not None
        process = dataclasses.replace(process, inducing=inputs[spread_out(process, config.inducing)])
        if moved:
            process, reached = _moved(config, units, process, budget, seed)
            reports = [report._replace(bound=bound) for report, bound in zip(reports, reached, strict=True)]
    for report in reports:
        if told:
            told(report)
    return process


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all outputs."""
    return {name: np.array([part[name] for part in parts]) for name in parts[0]}


def _moved(
    config: GaussianProcessConfig, units: _Units, process: GaussianProcess, budget: ThreadBudget, seed: int
) -> tuple[GaussianProcess, list[float]]:
    """The process with the inducing inputs and hyper-parameters of the highest bounds, and these."""
    from mpcrl.learning.variational import Bound

    assert process.inducing is not None
    standard, outputs = (process.inputs - units.center) / units.scale, range(process.outputs)
    places = (process.inducing - units.center) / units.scale
    means = _means(config, standard)
    stretch, shift = units.scale / units.reach, units.center / units.reach
    bounds = [
        Bound(config.kernel, standard, (y - level) / size, means, _WEIGHTS, stretch, shift)
        for y, level, size in zip(process.targets.T, units.level, units.size, strict=True)
    ]
    first = np.concatenate(
        [*(_starts(config, units, e, process, seed)[0] for e in outputs), places.ravel()]  # where it is now
    )
    split = first.size - places.size
    limits = np.concatenate(
        [np.tile(_bounds(config, units.scale.size), (len(outputs), 1)), np.tile([-np.inf, np.inf], (places.size, 1))]
    )

    def of(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return flat[:split].reshape(len(outputs), -1), flat[split:].reshape(places.shape)

    with ThreadBudget(1).limit(), ThreadPoolExecutor(min(budget.count, len(outputs))) as pool:

        def values(flat: np.ndarray) -> list[Any]:
            logs, inducing = of(flat)
            return list(pool.map(lambda e: bounds[e].value(logs[e], inducing), outputs))

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            found = values(flat)
            if any(part is None for part in found):
                return _SINGULAR, np.zeros(flat.size)
            walls = [_walls(config, logs, units.scale.size) for logs in of(flat)[0]]
            gradient = np.concatenate(
                [
                    *(wall - part.logs for (_, wall), part in zip(walls, found, strict=True)),
                    -sum(part.inducing for part in found).ravel(),
                ]
            )
            return sum(wall - part.value for (wall, _), part in zip(walls, found, strict=True)), gradient

        best = _descended(loss, first, limits, config.iterations).x
        found = values(best)
    logs, places = of(best)
    parts = [_in_data_units(config, units, e, logs[e], found[e].weights) for e in outputs]
    reached = [part.value - process.count * math.log(size) for part, size in zip(found, units.size, strict=True)]
    return dataclasses.replace(process, inducing=places * units.scale + units.center, **_joined(parts)), reached


def spread_out(process: GaussianProcess, count: int) -> np.ndarray:
    """Indices of observed inputs, each the one of which those before it leave the most variance, over all outputs.

    Fewer than `count` where they leave none.
    """
    outputs, inputs = process.outputs, process.inputs
    left = np.array([process.prior_variance(e, inputs) for e in range(outputs)])
    prior, explained = left.copy(), np.zeros((outputs, count, len(inputs)))
    chosen: list[int] = []
    for step in range(count):
        share = (left / prior).sum(axis=0)
        best = int(share.argmax())
        if share[best] < _EXPLAINED * outputs:
            break
        chosen.append(best)
        for e in range(outputs):
            if left[e, best] > _EXPLAINED * prior[e, best]:
                column = process.covariance(e, inputs[best : best + 1], inputs)[0]
                column -= explained[e, :step, best] @ explained[e, :step]
                explained[e, step] = column / math.sqrt(left[e, best])
                left[e] = np.maximum(left[e] - explained[e, step] ** 2, 0)
    return np.array(chosen)


def _finite(name: str, data: Any) -> np.ndarray:
    data = numbers(name, data, "a matrix of numbers")
    if data.ndim != 2:
        raise InvalidInput(f"{name} must be a matrix [observations, numbers], got the shape {data.shape}")
    bad = np.flatnonzero(~np.isfinite(data).all(axis=1))
    if bad.size:
        row = int(bad[0])
        raise InvalidInput(
            f"{name} must be finite, but {bad.size} of {len(data)} rows are not; the first is row {row}: "
            f"{data[row].tolist()}"
        )
    return data


class _Units(NamedTuple):
    """In which the data have the mean 0 and the standard deviation 1."""

    center: np.ndarray
    scale: np.ndarray
    reach: np.ndarray
    level: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, inputs: np.ndarray, targets: np.ndarray, mean: str) -> _Units:
        """A zero mean function leaves targets where they are; `reach` is the root mean square of the inputs."""
        level = np.zeros(targets.shape[1]) if mean == "zero" else targets.mean(axis=0)
        size = np.sqrt(((targets - level) ** 2).mean(axis=0))
        scale = _spread(inputs.std(axis=0), inputs)
        reach = _spread(np.sqrt((inputs**2).mean(axis=0)), inputs)
        return cls(inputs.mean(axis=0), scale, reach, level, _spread(size, targets))


def _spread(size: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Standard deviations; 1, or what the size of the numbers is, where they do not differ but by rounding."""
    largest = np.abs(data).max(axis=0)
    constant = size <= 1e-12 * largest
    return np.where(constant, np.where(largest > 0, largest, 1.0), size)


def _output(
    config: GaussianProcessConfig,
    units: _Units,
    inputs: np.ndarray,
    targets: np.ndarray,
    output: int,
    start: GaussianProcess | None,
    seed: int,
) -> tuple[dict[str, Any], OutputReport]:
    """Hyper-parameters of one output in the data's units, and how they were found."""
    size = units.size[output]
    target = (targets[:, output] - units.level[output]) / size
    evidence = Evidence(config, (inputs - units.center) / units.scale, target, inputs / units.reach)
    ends = [_ascended(evidence, logs) for logs in _starts(config, units, output, start, seed)]
    if min(end.fun for end in ends) >= _SINGULAR:  # of fewer data, or others: not a start for these
        ends.append(_ascended(evidence, _starts(config, units, output, None, seed)[0]))
    best = min(ends, key=lambda end: end.fun)
    found = evidence.value(best.x)
    assert found is not None
    shift = -len(inputs) * math.log(size)
    return _in_data_units(config, units, output, best.x, found[2]), OutputReport(
        output, found[0] + shift, tuple(shift - float(e.fun) for e in ends), tuple(int(e.nit) for e in ends)
    )


def _in_data_units(
    config: GaussianProcessConfig, units: _Units, output: int, logs: np.ndarray, means: np.ndarray
) -> dict[str, Any]:
    """What a process has for one output, of logarithms and the mean function's weights on standardised data."""
    scale, level, size, width = units.scale, units.level[output], units.size[output], units.scale.size
    weights = np.zeros(1 + width)
    weights[: means.size] = means
    values, polynomial = np.exp(logs), config.kernel == "se+polynomial"
    tilt, bias = (values[width + 2 : -1], values[-1]) if polynomial else (np.zeros(width), 0.0)
    slope = size * weights[1:] / scale
    return {
        "lengthscale": values[:width] * scale,
        "signal": values[width] * size,
        "noise": values[width + 1] * size,
        "slope": slope,
        "intercept": level + size * weights[0] - slope @ units.center,
        "tilt": tilt * math.sqrt(size) / units.reach,
        "bias": bias * math.sqrt(size),
    }


def _bounds(config: GaussianProcessConfig, width: int) -> np.ndarray:
    """Of the logarithms [size, 2]."""
    names = ["lengthscale"] * width + ["signal", "noise"]
    names += ["tilt"] * (width + 1) if config.kernel == "se+polynomial" else []
    return np.log([_BOUNDS[name] for name in names])


def _starts(
    config: GaussianProcessConfig, units: _Units, output: int, start: GaussianProcess | None, seed: int
) -> list[np.ndarray]:
    """Logarithms to start from."""
    width = units.scale.size
    bounds = _bounds(config, width)
    first = np.zeros(len(bounds))
    first[width + 1] = math.log(0.1)
    first[width + 2 :] = math.log(0.1)
    found = [first]
    if start is not None:
        size = units.size[output]
        values = [start.lengthscale[output] / units.scale, [start.signal[output] / size, start.noise[output] / size]]
        if config.kernel == "se+polynomial":
            values += [start.tilt[output] * units.reach / math.sqrt(size), [start.bias[output] / math.sqrt(size)]]
        low = np.exp(bounds[:, 0])
        found = [np.log(np.maximum(np.concatenate(values), low))]
    rng = np.random.Generator(np.random.Philox(key=[seed, output]))
    while len(found) < config.starts:
        drawn = first.copy()
        drawn[:width] = rng.uniform(math.log(0.3), math.log(10.0), width)
        drawn[width] = rng.uniform(math.log(0.5), math.log(5.0))
        drawn[width + 1] = drawn[width] - rng.uniform(math.log(3.0), math.log(100.0))
        drawn[width + 2 :] = rng.uniform(math.log(0.03), math.log(1.0), first.size - width - 2)
        found.append(drawn)
    return [np.clip(logs, bounds[:, 0], bounds[:, 1]) for logs in found]


def _ascended(evidence: Evidence, logs: np.ndarray) -> Any:
    """L-BFGS-B from these logarithms; what it returns is never worse than what it was given."""
    bounds = _bounds(evidence.config, evidence.inputs.shape[1])
    return _descended(evidence.loss, logs, bounds, evidence.config.iterations)


def _descended(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]], first: np.ndarray, bounds: np.ndarray, iterations: int
) -> Any:
    return scipy.optimize.minimize(
        loss,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(*bounds.T),
        options={"maxiter": iterations, "ftol": 1e-7, "gtol": 1e-3},
    )
