"""Moment matching of Gaussian processes beside plain torch: `python benchmarks/gp_moments.py`.

One thread; n observations, six inputs, four outputs. torch, float64, is what one writes who takes the papers' formulas
as they stand: batched over pairs of outputs, with K factorised once. Value is mean, covariance and input-output
covariance of one belief: a narrow one, with 5% of the data's variance, as those of a policy search are, for which
powers of two take half the work; and a wide one, with half of it. Gradient is that of the expected cost of a policy
search over 40 steps: ours by hand, with 50 basis functions and 305 parameters; torch's by autodiff, through 40 steps of
the same size whose control is a linear policy's and whose cost is a quadratic one, that is: less work than ours. Writes
benchmarks/results/gp_moments.csv.

Asked is at least 20 times torch for the value of a narrow belief, and 200 ms for the value and gradient of 40 steps, at
300 observations.
"""

from __future__ import annotations

import csv
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mpcrl.core.threads import ThreadBudget
from mpcrl.experiments.machine import machine
from mpcrl.experiments.worlds import world_of
from mpcrl.kernels import moments as mo
from mpcrl.learning.policies import RBFPolicy
from mpcrl.learning.policy_search import chain_of, cost_and_gradient, policy_inputs, processes_of
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.tasks.features import features_of
from mpcrl.tasks.registry import ANALYTIC_TASKS

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
STEPS = 40


def cartpole(count: int) -> tuple[GaussianProcess, Any, np.ndarray]:
    """Processes of random episodes of the PILCO papers' cart-pole, with length scales of twice the data's spread."""
    task = ANALYTIC_TASKS["cartpole-pilco"]()
    features, world, rng = features_of(task), world_of(task), np.random.default_rng(0)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while len(rows) < count:
        state = world.reset(len(rows))
        for _ in range(25):
            control = rng.uniform(task.control_low, task.control_high)
            after = world.step(control).state
            rows.append((state, control, after))
            state = after
    states, controls, following = (np.array(part)[:count] for part in zip(*rows, strict=True))
    inputs, targets = features.inputs(states, controls), following - states
    width, outputs = inputs.shape[1], targets.shape[1]
    model = GaussianProcess(
        inputs=inputs,
        targets=targets,
        lengthscale=np.tile(2 * inputs.std(axis=0), (outputs, 1)),
        signal=2 * targets.std(axis=0),
        noise=np.full(outputs, 0.02),
        slope=np.zeros((outputs, width)),
        intercept=np.zeros(outputs),
        tilt=np.zeros((outputs, width)),
        bias=np.zeros(outputs),
    )
    return model, task, states


class Plain:
    """The papers' formulas in torch."""

    def __init__(self, model: GaussianProcess) -> None:
        self.inputs, self.beta = torch.tensor(model.inputs), torch.tensor(model.beta)
        self.squares = torch.tensor(model.lengthscale**2)
        self.variance = torch.tensor(model.signal**2)
        self.inverse = torch.cholesky_inverse(torch.tensor(model.cholesky))

    def moments(self, m: torch.Tensor, S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean [E], covariance [E, E], S^-1 cov [D, E]."""
        E, D = self.squares.shape
        one, zeta = torch.eye(D, dtype=m.dtype), self.inputs - m
        A = torch.diag_embed(self.squares)
        P = torch.linalg.inv(S + A)
        form = torch.einsum("nd,kde,ne->kn", zeta, P, zeta)
        size = self.variance / torch.sqrt(torch.linalg.det(S @ torch.linalg.inv(A) + one))
        weighted = self.beta * size[:, None] * torch.exp(-0.5 * form)
        mean = weighted.sum(dim=1)
        V = torch.einsum("kde,kn,ne->dk", P, weighted, zeta)
        inverse = 1 / self.squares
        R = S @ torch.diag_embed(inverse[:, None] + inverse[None]) + one
        T = torch.linalg.solve(R, S.expand(E, E, D, D))
        z = zeta[None] * inverse[:, None]
        k = torch.log(self.variance)[:, None] - 0.5 * (zeta**2 @ inverse.T).T
        za = z[:, None].expand(E, E, *z.shape[1:])
        zb = z[None].expand(E, E, *z.shape[1:])
        left, right = za @ T, zb @ T
        both = (left * za).sum(-1)[..., :, None] + (right * zb).sum(-1)[..., None, :] + 2 * left @ zb.transpose(-1, -2)
        Q = torch.exp(k[:, None, :, None] + k[None, :, None, :] + 0.5 * both)
        Q = Q / torch.sqrt(torch.linalg.det(R))[..., None, None]
        C = torch.einsum("an,abnm,bm->ab", self.beta, Q, self.beta) - mean[:, None] * mean[None]
        own = torch.diagonal(Q, dim1=0, dim2=1).permute(2, 0, 1)
        return mean, C + torch.diag(self.variance - (self.inverse * own).sum(dim=(1, 2))), V


def search_step(plain: Plain, m: torch.Tensor, S: torch.Tensor, steps: int) -> float:
    """Value and gradient of a policy search of torch's: a linear control of the first five inputs moves all of them."""
    gain = torch.zeros(5, dtype=m.dtype, requires_grad=True)
    total = torch.zeros((), dtype=m.dtype)
    for _ in range(steps):
        lift = torch.cat([torch.eye(5, dtype=m.dtype), gain[None]])
        w, W = lift @ m, lift @ S @ lift.T + 1e-6 * torch.eye(6, dtype=m.dtype)
        M, C, V = plain.moments(w, W)
        cross = S @ lift.T @ V
        pad = torch.cat([torch.eye(4, dtype=m.dtype), torch.zeros(1, 4, dtype=m.dtype)])
        m = m + pad @ M
        S = S + pad @ C @ pad.T + cross @ pad.T + pad @ cross.T
        total = total + m @ m + torch.trace(S)
    total.backward()
    return float(total.detach())


def in_turns(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median ms of a call of each; they take their turn in every round, for a tenth of a second or one call."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for lap in range(rounds + (rounds > 1)):  # where there are several, the first does not count
        for name, work in works.items():
            calls, begin, took = 0, time.perf_counter(), 0.0
            while not calls or took < 0.1:
                work()
                calls, took = calls + 1, time.perf_counter() - begin
            if lap or rounds == 1:
                times[name].append(took / calls)
    return {name: round(1e3 * statistics.median(laps), 2) for name, laps in times.items()}


def row_of(count: int) -> dict[str, Any]:
    """All times with `count` observations, and how far torch's numbers are from ours."""
    model, task, states = cartpole(count)
    features, plain, gp = features_of(task), Plain(model), processes_of(model)
    m, S = model.inputs.mean(axis=0), 0.05 * np.diag(model.inputs.var(axis=0))
    wide = 10 * S
    (E, D), tape = gp.slope.shape, mo.tape_of(*gp.slope.shape)
    M, C, V = np.empty(E), np.empty((E, E)), np.empty((D, E))
    policy = RBFPolicy.random(
        policy_inputs(features, states), 1, np.random.default_rng(1), count=50, lengthscale=np.ones(5)
    )
    assert policy.parameters.size == 305
    chain = chain_of(model, features, task.goal, task.control_low, task.control_high)
    start = np.zeros(4), 0.01 * np.eye(4)
    tm, tS = torch.tensor(m), torch.tensor(S)
    with torch.no_grad():
        theirs = [part.numpy() for part in plain.moments(tm, tS)]

        def usual() -> None:
            with torch.no_grad():
                plain.moments(tm, tS)

        found = in_turns(
            {
                "value_ms": lambda: mo.process_moments(gp, m, S, M, C, V, tape, False),
                "torch_value_ms": usual,
                "wide_ms": lambda: mo.process_moments(gp, m, wide, M, C, V, tape, False),
                "with_derivatives_ms": lambda: mo.process_moments(gp, m, S, M, C, V, tape, True),
                "gradient_40_ms": lambda: cost_and_gradient(chain, policy, *start, STEPS),
            },
            rounds=9,
        )
    search_step(plain, tm[:5], tS[:5, :5], 1)  # for torch to begin with
    found |= in_turns({"torch_gradient_40_ms": lambda: search_step(plain, tm[:5], tS[:5, :5], STEPS)}, rounds=1)
    mo.process_moments(gp, m, S, M, C, V, tape, False)
    worst = max(float(np.abs(a - b).max()) for a, b in zip((M, C, V), theirs, strict=True))
    assert worst < 1e-6, worst  # theirs subtracts large numbers
    return {"n": count, **found}


def main() -> None:
    torch.set_num_threads(1)
    with ThreadBudget(1).limit():
        rows = [row_of(count) for count in (150, 300)]
    computer = machine(1)
    path = RESULTS / "gp_moments.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "cpu"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "cpu": f"{computer['cpu']} ({computer['microarchitecture']})"} for row in rows)
    missed = []
    for row in rows:
        ratio, gradient = row["torch_value_ms"] / row["value_ms"], row["torch_gradient_40_ms"] / row["gradient_40_ms"]
        print(f"n = {row['n']}: {row}")
        wide = row["torch_value_ms"] / row["wide_ms"]  # torch's does not depend on the belief
        print(
            f"  a value {ratio:.1f} times as fast as torch, of a wide belief {wide:.1f} times; 40 steps with their "
            f"gradient {gradient:.1f} times"
        )
        missed += [f"{ratio:.1f} times torch"] * (ratio < 20 and row["n"] == 300)
        missed += [f"{row['gradient_40_ms']:.0f} ms"] * (row["gradient_40_ms"] > 200 and row["n"] == 300)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
