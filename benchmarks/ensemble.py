"""Rollouts through a neural ensemble, beside what the machine can do, torch, and mbrl-lib, in one run.

    python benchmarks/ensemble.py                         everything; builds the peer's environment first
    python benchmarks/ensemble.py --peer no               without it
    python benchmarks/ensemble.py --environments DIR      where the peers' environments are, or shall be

400 candidates x 20 particles x 30 steps, 18 states and 6 controls, 5 probabilistic members of 4 x 200 SiLU features,
each particle with its member and noise of its own: 63 GFLOP. All sides take their turn in every round, so that whatever
else the machine does falls on all; times are medians. The peak is that of multiply-adds in registers alone, in the same
rounds. All sides have the same weights, and are first checked to give the same costs but for their noise.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from bench_peers import REPOSITORY, Worker, machine, use_cores
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from mpcrl.core.candidates import Candidates
from mpcrl.core.compile import FASTMATH
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels.network import TARGET
from mpcrl.models.ensemble import Ensemble
from mpcrl.models.network import Network
from mpcrl.tasks.features import features_of
from mpcrl.tasks.task import AnalyticTask

NX, NU, WIDTH, DEPTH, MEMBERS, CANDIDATES, PARTICLES, STEPS = 18, 6, 200, 4, 5, 400, 20, 30
SIZES = (NX + NU, *[WIDTH] * DEPTH, 2 * NX)
FLOP = 2 * sum(i * o for i, o in itertools.pairwise(SIZES)) * CANDIDATES * PARTICLES * STEPS
BARS = {"mbrl-lib": {"float32": 4.0, "bf16": 7.5}, "peak": 0.8, "threads": 1.8}
COLUMNS = (
    "side", "precision", "threads", "seconds", "gflop_per_s", "of_peak", "against_mbrl", "against_one_thread", "bar",
    "met", "machine", "versions", "date",
)  # fmt: skip


# ---- the machine's peak ----------------------------------------------------------------------------------------------
@intrinsic
def multiply_adds(typing: Any, turns: Any) -> Any:
    """As many chains of multiply-adds as a block has sums, each `turns` long, in registers; the sum of their ends."""
    lanes, chains = TARGET.lanes, TARGET.rows * TARGET.vectors
    vector = ir.VectorType(ir.FloatType(), lanes)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(vector, [vector] * 3)
        function = b.module.declare_intrinsic(f"llvm.fmuladd.v{lanes}f32", (), kind)
        x, y = (ir.Constant(vector, [value] * lanes) for value in (0.999, 0.001))
        before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        count, totals = b.phi(ir.IntType(64)), [b.phi(vector) for _ in range(chains)]
        new, following = [b.call(function, [t, x, y]) for t in totals], b.add(count, ir.Constant(count.type, 1))
        count.add_incoming(ir.Constant(count.type, 0), before)
        count.add_incoming(following, loop)
        for i, (total, then) in enumerate(zip(totals, new, strict=True)):
            total.add_incoming(ir.Constant(vector, [float(i)] * lanes), before)
            total.add_incoming(then, loop)
        b.cbranch(b.icmp_signed("<", following, arguments[0]), loop, after)
        b.position_at_end(after)
        whole = new[0]
        for value in new[1:]:
            whole = b.fadd(whole, value)
        return b.extract_element(whole, ir.Constant(ir.IntType(32), 0))

    return types.float32(types.int64), generate


@numba.njit(parallel=True, fastmath=FASTMATH)
def peak(turns: int, threads: int) -> float:
    total = np.zeros(threads)
    for thread in prange(threads):
        total[thread] = multiply_adds(turns)
    return total.sum()


# ---- the sides -------------------------------------------------------------------------------------------------------
def square(x: Any, u: Any, t: int, p: Any) -> float:
    """The state after a control is what the peer pays for; this one is paid before, and so once less at the end."""
    return x[0] ** 2


def problem() -> tuple[AnalyticTask, Network, np.ndarray, np.ndarray]:
    """A task of which only the cost counts, an ensemble, a start and controls [N, H, nu]."""
    from mpcrl.tasks.mujoco_task import NoParams

    task = AnalyticTask(
        name="ensemble", dt=0.05, control_low=np.full(NU, -1.0), control_high=np.ones(NU), params=NoParams(),
        cost=square, terminal=lambda x, p: x[0] ** 2, episode_steps=1000, step=lambda x, u, p: x,
        state_names=tuple(f"x{i}" for i in range(NX)), control_names=tuple(f"u{i}" for i in range(NU)),
        reset=lambda rng: np.zeros(NX),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(MEMBERS, i, o)) * 1.3 / i**0.5 for i, o in itertools.pairwise(SIZES)]
    biases = [rng.normal(size=(MEMBERS, o)) * 0.1 for o in SIZES[1:]]
    weights[-1] *= 0.02  # steps of about a hundredth
    biases[-1][:, NX:] -= 9.0
    real = np.float32
    network = Network(
        features=features_of(task),
        weights=tuple(w.astype(real) for w in weights),
        biases=tuple(b.astype(real) for b in biases),
        activation="silu",
        probabilistic=True,
        input_mean=np.zeros(NX + NU, real),
        input_scale=np.ones(NX + NU, real),
        target_mean=np.zeros(NX, real),
        target_scale=np.ones(NX, real),
        least_logvar=np.full(NX, -10, real),
        most_logvar=np.full(NX, 0.5, real),
    )
    start, controls = rng.normal(size=NX).astype(real), rng.normal(size=(CANDIDATES, STEPS, NU)).astype(real)
    return task, network, start, controls


def in_torch(network: Network, start: np.ndarray, controls: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """The same in torch, all members at once."""
    import torch

    torch.set_num_threads(threads)
    weights, biases = ([torch.from_numpy(a) for a in arrays] for arrays in (network.weights, network.biases))
    repeats, least, most = PARTICLES // MEMBERS, network.least_logvar[0], network.most_logvar[0]
    plans = torch.from_numpy(controls).repeat_interleave(repeats, 0)

    @torch.inference_mode()
    def costs() -> np.ndarray:
        x = torch.from_numpy(start).expand(MEMBERS, len(plans), NX)
        total = torch.zeros(MEMBERS, len(plans))
        for h in range(STEPS):
            total += x[..., 0] ** 2
            y = torch.cat([x, plans[:, h].expand(MEMBERS, -1, -1)], -1)
            for w, b in zip(weights[:-1], biases[:-1], strict=True):
                y = torch.nn.functional.silu(torch.baddbmm(b[:, None], y, w), inplace=True)
            y = torch.baddbmm(biases[-1][:, None], y, weights[-1])
            var = np.exp(least) + 1 / (np.exp(-most) + torch.exp(-y[..., NX:]))
            x = x + y[..., :NX] + var.sqrt() * torch.randn_like(x)
        total += x[..., 0] ** 2
        return total.view(MEMBERS, CANDIDATES, repeats).mean((0, 2)).numpy()

    return costs


def ours(model: Ensemble, start: np.ndarray, controls: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    candidates, budget = Candidates.from_rows(controls, np.float32), ThreadBudget(threads)
    return lambda: model.costs(start, candidates, 0, model.task.params, budget)


def timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def peer(folder: Path, environments_folder: Path, network: Network, start: np.ndarray, controls: np.ndarray) -> Worker:
    """mbrl-lib in its own environment, with our weights."""
    import environments

    arrays = {f"w{i}": w for i, w in enumerate(network.weights)} | {f"b{i}": b for i, b in enumerate(network.biases)}
    path = folder / "arrays.npz"
    np.savez(path, start=start, controls=controls, least=network.least_logvar, most=network.most_logvar, **arrays)
    python = environments.interpreter("mbrl", environments_folder)
    worker = Worker("mbrl-lib", [str(python), str(REPOSITORY / "benchmarks" / "peers" / "worker_mbrl.py")])
    sizes = {"nx": NX, "nu": NU, "members": MEMBERS, "width": WIDTH, "depth": DEPTH, "particles": PARTICLES}
    worker("setup", bench={**sizes, "arrays": str(path)}, threads=2)
    return worker


def check(name: str, costs: np.ndarray, reference: np.ndarray, first: float) -> None:
    """Costs differ by their noise alone; the peer's lack that of the start."""
    for of in (np.mean, np.std):
        if not np.isclose(of(costs + first), of(reference), rtol=0.03):
            raise SystemExit(f"costs of {name} are others: {of(costs + first):.4g}, expected {of(reference):.4g}")


# ---- the run ---------------------------------------------------------------------------------------------------------
def measure(rounds: int, with_peer: bool, environments_folder: Path) -> list[dict[str, Any]]:
    task, network, start, controls = problem()
    seconds: dict[tuple[str, str, int], list[float]] = {}
    runs: dict[tuple[str, str, int], Callable[[], float]] = {}
    model = Ensemble(task, network, particles=PARTICLES)
    reference = ours(model, start, controls, 2)()
    turns = 40_000_000 // TARGET.lanes
    flop_of_peak = 2 * turns * TARGET.lanes * TARGET.rows * TARGET.vectors

    def of_peak(threads: int) -> float:
        with ThreadBudget(threads).kernels():
            return timed(lambda: peak(turns, threads)) / (flop_of_peak * threads) * FLOP

    for threads in (1, 2):
        of_peak(threads)
        runs["peak", "float32", threads] = partial(of_peak, threads)
        runs["mpcrl", "float32", threads] = partial(timed, ours(model, start, controls, threads))
    if TARGET.paired:
        short = Ensemble(task, network, particles=PARTICLES, precision="bf16")
        for threads in (1, 2):
            runs["mpcrl", "bf16", threads] = partial(timed, ours(short, start, controls, threads))
    with tempfile.TemporaryDirectory() as folder:
        if with_peer:
            worker = peer(Path(folder), environments_folder, network, start, controls)
            check("mbrl-lib", np.array(worker("costs")["costs"]), reference, float(start[0]) ** 2)
            runs["mbrl-lib", "float32", 2] = lambda: float(worker("time", repeats=1)["seconds"][0])
            torch = in_torch(network, start, controls, 2)
            check("torch", torch(), reference, 0.0)
            runs["torch", "float32", 2] = lambda: timed(torch)
        host = machine()
        for _ in range(rounds):
            for key, run in runs.items():
                time.sleep(0.02)  # threads that the last side left spinning fall asleep
                seconds.setdefault(key, []).append(run())
        if with_peer:
            worker.close()
    return rows_of({key: statistics.median(laps) for key, laps in seconds.items()}, host)


def rows_of(medians: dict[tuple[str, str, int], float], host: str) -> list[dict[str, Any]]:
    rows = []
    for (side, precision, threads), time_of in medians.items():
        row: dict[str, Any] = {
            "side": side, "precision": precision, "threads": threads, "seconds": f"{time_of:.4f}",
            "gflop_per_s": f"{FLOP / time_of / 1e9:.1f}", "machine": host, "date": datetime.date.today().isoformat(),
            "versions": f"numba {numba.__version__}, numpy {np.__version__}, {TARGET.rows}x{TARGET.vectors} blocks of "
            f"{TARGET.lanes} lanes",
        }  # fmt: skip
        if side == "mpcrl":
            bars = []
            if precision == "float32":
                share = medians["peak", "float32", threads] / time_of
                row["of_peak"] = f"{share:.3f}"
                bars.append((f"of_peak >= {BARS['peak']}", share >= BARS["peak"]))
            if threads == 2:
                ratio = medians["mpcrl", precision, 1] / time_of
                row["against_one_thread"] = f"{ratio:.2f}"
                bars.append((f"against_one_thread >= {BARS['threads']}", ratio >= BARS["threads"]))
                if ("mbrl-lib", "float32", 2) in medians:
                    ratio = medians["mbrl-lib", "float32", 2] / time_of
                    row["against_mbrl"] = f"{ratio:.2f}"
                    bar = BARS["mbrl-lib"][precision]
                    bars.append((f"against_mbrl >= {bar}", ratio >= bar))
            row["bar"], row["met"] = (
                "; ".join(bar for bar, _ in bars),
                "; ".join("yes" if met else "no" for _, met in bars),
            )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", choices=("yes", "no"), default="yes")
    parser.add_argument("--environments", type=Path, default=REPOSITORY / "build" / "peers")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "ensemble.csv")
    options = parser.parse_args()
    use_cores(2)
    if os.getloadavg()[0] > 0.5:
        print(f"something else keeps this machine busy (load {os.getloadavg()[0]:.1f}); times will be off")
    rows = measure(options.rounds, options.peer == "yes", options.environments.resolve())
    for row in rows:
        shown = {name: row[name] for name in COLUMNS[:-3] if row.get(name)}
        print("  ".join(f"{name} {value}" for name, value in shown.items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
