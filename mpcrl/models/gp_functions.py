"""Gaussian processes and functions drawn from them, evaluated at many inputs by a compiled kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import gaussian_process as kernels
from mpcrl.models.gaussian_process import GaussianProcess, Latent

_SECONDS_PER_TERM = 2e-9
"""Of one covariance, about: only to tell whether a second thread pays."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """P functions of each output, of what a process thinks possible.

    With z = (bias, tilt v), what function p of output e is at v:

        m(v) + z' form z + sum_i coefficient_i k(v, center_i) + sum_j amplitude_j cos(frequency_j . v + phase_j)

    Attributes
    ----------
    coefficient : ndarray [P, E, m]
    frequency : ndarray [P, E, F, D]
    amplitude, phase : ndarray [P, E, F]
    form : ndarray [P, E, 1 + D, 1 + D]
        Of the kernel's polynomial part; 0 where it has none. k is its smooth part then.
    """

    coefficient: np.ndarray
    frequency: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray
    form: np.ndarray


def draw(process: GaussianProcess, count: int, *, waves: int = 256, seed: int = 0) -> Draws:
    """Functions drawn from processes.

    The prior's smooth part is a sum of `waves` cosines, whose frequencies every function has of its own: so means and
    covariances over many functions are exact, while a single one is a Gaussian process up to 1 / sqrt(waves). The data
    then update it by covariances themselves (Wilson et al. 2020): at the data it is as sure as the process is.

    Parameters
    ----------
    process : GaussianProcess
    count : int
        P.
    waves : int
        F.
    seed : int
    """
    count, waves = positive_integer("count", count), positive_integer("waves", waves)
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    outputs, (centers, width) = process.outputs, process.centers.shape
    frequency = rng.normal(size=(count, outputs, waves, width)) / process.lengthscale[:, None]
    if process.kernel == "matern52":  # its spectrum is a Student's t of 5 degrees of freedom
        frequency *= np.sqrt(5 / rng.chisquare(5, (count, outputs, waves, 1)))
    amplitude = np.sqrt(rng.chisquare(2, (count, outputs, waves)) / waves) * process.signal[:, None]
    phase = rng.uniform(0, 2 * np.pi, (count, outputs, waves))
    form = np.zeros((count, outputs, width + 1, width + 1))
    if process.kernel == "se+polynomial":
        form[:] = rng.normal(size=form.shape)
    normals = rng.normal(size=(count, outputs, centers))
    prior = Draws(
        coefficient=np.zeros((count, outputs, centers)),
        frequency=frequency,
        amplitude=amplitude,
        phase=phase,
        form=form,
    )
    drawn = Predictor(process, draws=prior).mean(process.centers[None]) - process.prior_mean(process.centers)
    update = [process.update(e, drawn[..., e], normals[:, e]) for e in range(outputs)]
    coefficient = np.stack(update, axis=1)
    return Draws(
        coefficient=coefficient, frequency=frequency, amplitude=amplitude, phase=phase,
        form=form + _summed(process, coefficient),
    )  # fmt: skip


def _summed(process: GaussianProcess, coefficient: np.ndarray) -> np.ndarray:
    """sum_i c_i z_i z_i' [..., E, 1+D, 1+D] of coefficients [..., E, m]: the polynomial part, as a form."""
    if process.kernel != "se+polynomial":
        return np.zeros((*coefficient.shape[:-1], *[process.inputs.shape[1] + 1] * 2))
    z = _polynomials(process)
    return np.einsum("...em,emi,emj->...eij", coefficient, z, z, optimize=True)


def _polynomials(process: GaussianProcess) -> np.ndarray:
    """z [E, m, 1+D] of the centers."""
    bias = np.broadcast_to(process.bias[:, None, None], (process.outputs, len(process.centers), 1))
    return np.concatenate([bias, process.centers * process.tilt[:, None]], axis=-1)


class Predictor:
    """Means and variances of processes, or of functions drawn from them, at many inputs at once.

    Parameters
    ----------
    process : GaussianProcess
    draws : Draws, optional
        Functions to evaluate in the place of the processes' means.
    precision : {"float64", "float32"}
        In which all is computed. float32 takes half the time; the mean then errs by 1e-7 of sum |beta k|, which is
        large where there is little noise, the variance by 1e-6 of signal^2.
    variance : bool
        Whether variances can be asked for; they need as many multiply-adds as the triangle `root` has numbers.
    """

    def __init__(
        self,
        process: GaussianProcess,
        *,
        draws: Draws | None = None,
        precision: str = "float64",
        variance: bool = False,
    ) -> None:
        if precision not in ("float32", "float64"):
            raise InvalidInput(f"precision must be float32 or float64, got {precision!r}")
        self.process, self.precision = process, precision
        self._width = process.inputs.shape[1]
        self._address = kernels.evaluation(process.kernel, self._width, precision)
        self.center = process.inputs.mean(axis=0)
        self.numbers, self.table = packed(process, self.center, precision, draws, variance)
        self._means = self.table.copy()
        self._means[1, 1] = 0  # without variances

    def mean(self, inputs: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Means [..., E] at inputs [..., D]; of P drawn functions [P, N, E] at inputs [P, N, D] or [1, N, D]."""
        return self._run(inputs, self._means, threads).mean

    def predict(self, inputs: np.ndarray, threads: int | None = None) -> Latent:
        """Means and variances of the functions at inputs [..., D]."""
        if not self.table[1, 1]:
            raise InvalidInput("this predictor was made without variances; make it with variance=True")
        return self._run(inputs, self.table, threads)

    def _run(self, inputs: np.ndarray, table: np.ndarray, threads: int | None) -> Latent:
        inputs = np.asarray(inputs, np.float64)
        members = len(self.numbers)
        fits = inputs.ndim > 0 and inputs.shape[-1] == self._width
        if not fits or (members > 1 and not (inputs.ndim == 3 and inputs.shape[0] in (1, members))):
            wanted = f"[{members} or 1, N, {self._width}]" if members > 1 else f"[..., {self._width}]"
            raise InvalidInput(f"inputs must have the shape {wanted}, got {inputs.shape}")
        seen = np.ascontiguousarray(inputs if members > 1 else inputs.reshape(1, -1, self._width))
        shape = (members, seen.shape[1], self.process.outputs)
        means, variances = np.empty(shape), np.empty(shape if table[1, 1] else (0, 0, 0))
        count, waves = int(table[0, 1]), int(table[0, 3])
        terms = count * (1 + int(table[1, 1]) * count / 20) + waves
        with ThreadBudget.of(threads).for_work(_SECONDS_PER_TERM * terms * means.size).kernels():
            kernels.predict(self._address, self.numbers, table, self.center, seen, means, variances)
        if members > 1:
            return Latent(means, variances)
        return Latent(*(a.reshape(*inputs.shape[:-1], -1) if a.size else a for a in (means, variances)))


def packed(
    process: GaussianProcess, center: np.ndarray, precision: str, draws: Draws | None, variance: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers [P, size] and the table [2, 5] that the kernel reads; see `kernels.gaussian_process`."""
    real: Any = np.dtype(precision)
    outputs, (count, width) = process.outputs, process.centers.shape
    polynomial = process.kernel == "se+polynomial"
    coefficient = process.beta[None] if draws is None else draws.coefficient
    form = _summed(process, coefficient) if draws is None else draws.form
    members = len(coefficient)
    pairs = kernels.quadratic(width)
    scale = np.sqrt(5 if process.kernel == "matern52" else np.log2(np.e) / 2) / process.lengthscale
    parts: list[np.ndarray] = []  # [P, E, size]

    def add(numbers: np.ndarray) -> None:
        parts.append(np.broadcast_to(numbers, (members, outputs, numbers.shape[-1])))

    # (bias, tilt v) as a matrix times (1, v - center), so that quadratic forms can be moved to there
    moved = np.zeros((outputs, width + 1, width + 1))
    moved[:, 0, 0] = process.bias
    moved[:, 1:, 0] = process.tilt * center
    moved[:, np.arange(1, width + 1), np.arange(1, width + 1)] = process.tilt
    form = np.einsum("eia,peij,ejb->peab", moved, form, moved, optimize=True)
    form[..., 0, 0] += process.intercept + process.slope @ center
    form[..., 0, 1:] += process.slope
    add(scale)
    add(_triangle(form, pairs))
    points = np.empty((members, outputs, count, 1 + width))
    points[..., 0] = coefficient * process.signal[:, None] ** 2
    points[..., 1:] = away = (process.centers - center) * scale[:, None]
    if kernels.multiplies_out(process.kernel, real):
        farthest = float(np.linalg.norm(away, axis=-1).max(initial=0.0)) * (2 * np.log(2)) ** 0.5
        if not farthest <= kernels.FARTHEST:
            raise InvalidInput(
                f"a process's inputs may lie {kernels.FARTHEST:g} length scales from their mean, these lie "
                f"{farthest:.3g}: float64 cannot tell them apart; leave out outliers, or take longer length scales"
            )
    add(points.reshape(members, outputs, -1))
    if draws is not None:
        waves = np.empty((*draws.phase.shape, 2 + width))
        waves[..., 0], waves[..., 2:] = draws.amplitude, draws.frequency
        waves[..., 1] = np.remainder(draws.phase + draws.frequency @ center, 2 * np.pi)
        add(waves.reshape(members, outputs, -1))
    add(process.noise[:, None] ** 2)
    if variance:
        add(process.signal[:, None] ** 2)
        if polynomial:
            add(_triangle(moved.transpose(0, 2, 1) @ moved, pairs))
            add((_polynomials(process) @ moved).reshape(outputs, -1))
        add(np.array([lower_panels(root) for root in process.root]))
    whole = np.concatenate(parts, axis=-1)
    number = 0 if draws is None else draws.phase.shape[-1]
    table = kernels.table_of(outputs, count, width, number, whole.shape[-1], variance, real)
    numbers = np.zeros((members, kernels.ROWS + whole[0].size), real)
    numbers[:, kernels.ROWS :] = whole.reshape(members, -1)
    return numbers, table


def _triangle(form: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Numbers of quadratic forms [..., 1+D, 1+D] in the order of `quadratic`."""
    return np.stack([form[..., a, b] + (form[..., b, a] if a != b else 0) for a, b in pairs], axis=-1)


def lower_panels(root: np.ndarray) -> np.ndarray:
    """A lower triangle [m, m] as panels of rows, each with its columns up to the diagonal."""
    rows, count = kernels.ROWS, len(root)
    padded = np.zeros((-(-count // rows) * rows, count))
    padded[:count] = root
    panels = [padded[at : at + rows, : min(at + rows, count)].T.ravel() for at in range(0, count, rows)]
    return np.concatenate(panels)
