"""Our planning speed beside the peers': the same dynamics, costs, samples, horizons, bounds and threads, in one run.

    python benchmarks/bench_peers.py                         everything; builds the peers' environments first
    python benchmarks/bench_peers.py --bench quadrotor       some: part of a name is enough
    python benchmarks/bench_peers.py --environments DIR      where those environments are, or shall be

Every side is a process of its own, warmed up and kept alive; rounds alternate ours, peer, ours, peer, so that whatever
else the machine does falls on both. Times are of one whole planning step, the drawing of its noise included. The sides
are first checked to give the same costs for the same controls, and at the end each of them solves the task. Rows go to
a CSV file; times are medians in ms, `ratio` is the peer's time over ours.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
PEERS = REPOSITORY / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))

import environments  # noqa: E402
import systems  # noqa: E402

THREADS = 2
COLUMNS = (
    "bench", "peer", "ours_ms", "peer_ms", "ratio", "bar", "met", "threads", "ours_quality", "peer_quality",
    "machine", "blas", "versions", "date",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What is to be reached: the ratio at least, or ours in ms at most."""

    ratio: float = 0.0
    ms: float = float("inf")

    def __str__(self) -> str:
        if self.ratio >= 1:
            return f"ratio >= {self.ratio:g}"
        return f"ours <= {1 / self.ratio:.3g} x peer" if self.ratio else f"ours <= {self.ms:g} ms"

    def met(self, ours: float, peer: float) -> bool:
        return ours <= self.ms and (not self.ratio or peer / ours >= self.ratio)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another implementation: its name in the table, its environment, its worker, and what to reach against it."""

    name: str
    environment: str
    worker: tuple[str, ...]
    bar: Bar


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One planning problem; `problem` goes to every worker's setup, `quality` to its episode."""

    name: str
    problem: dict[str, Any]
    peers: tuple[Peer, ...] = ()
    bar: Bar | None = None
    quality: dict[str, Any] = field(default_factory=dict)


def pytorch_mppi(ratio: float) -> tuple[Peer, ...]:
    """As its README uses it, and with its `compile`."""
    script, bar = "worker_pytorch_mppi.py", Bar(ratio=ratio)
    return (
        Peer(name="pytorch_mppi", environment="pytorch_mppi", worker=(script,), bar=bar),
        Peer(name="pytorch_mppi, compiled", environment="pytorch_mppi", worker=(script, "--compile"), bar=bar),
    )


def jax(ratio: float) -> Peer:
    return Peer(name="JAX CPU", environment="jax", worker=("worker_jax.py",), bar=Bar(ratio=ratio))


TORCHRL = Peer(name="torchrl MPPIPlanner", environment="torchrl", worker=("worker_torchrl.py",), bar=Bar(ratio=20))
PHYSICS = tuple(
    Peer(name=f"mujoco.{way} alone", environment="mujoco", worker=("worker_mujoco.py", way), bar=Bar(ratio=1 / 1.05))
    for way in ("batch", "rollout")
)
JUDO = Peer(name="judo", environment="judo", worker=("worker_judo.py",), bar=Bar(ratio=1.3))
TWO_THREADS = Bar(ratio=1.8)

BENCHES = (
    Bench(
        name="mppi-pendulum-1000x30",
        problem={"system": "pendulum", "samples": 1000, "horizon": 30},
        peers=(*pytorch_mppi(20), jax(4)),
    ),
    Bench(
        name="mppi-pendulum-10000x30",
        problem={"system": "pendulum", "samples": 10_000, "horizon": 30},
        peers=(*pytorch_mppi(20), jax(10)),
    ),
    Bench(
        name="mppi-quadrotor-4096x50",
        problem={"system": "quadrotor", "samples": 4096, "horizon": 50},
        peers=(*pytorch_mppi(50), jax(40)),
    ),
    Bench(
        name="mppi-diffdrive-2000x56",
        problem={"system": "diffdrive", "samples": 2000, "horizon": 56},
        bar=Bar(ms=1.0),
    ),
    Bench(
        name="mppi-diffdrive-2048x100",
        problem={"system": "diffdrive", "samples": 2048, "horizon": 100},
        peers=(TORCHRL,),
    ),
    Bench(
        name="icem-halfcheetah-100x30",
        problem={"environment": "HalfCheetah-v5", "samples": 100, "horizon": 30, "beta": 0.25},
        peers=PHYSICS,
        bar=Bar(ms=50.0),
        quality={"steps": 200, "least": 700.0},
    ),
    Bench(
        name="ps-cylinder-push-32x50",
        problem={
            "start": [1.0, 0.0, -1.4, 1.4], "optimizer": "ps", "samples": 32, "horizon": 50,
            "knots": 4, "width": 0.0125, "steps": 250,
        },
        peers=(JUDO,),
        quality={"steps": 250},
    ),
)  # fmt: skip


class Worker:
    """A process that answers requests; see `peers/worker.py`."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=worker_environment()
        )

    def __call__(self, command: str, **request: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"command": command, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the worker ended in {command!r} with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"{self.name}: {command!r} failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process; it gets no further chance to answer."""
        self.process.kill()
        self.process.communicate()


def worker_environment() -> dict[str, str]:
    """Ours without what would bend a measurement: BLAS uses the kernel of this CPU, every side its own threads, and
    imports find their bytecode, as they do of an installed package.

    The path holds nothing but this repository, which the peers never import.
    """
    dropped = (
        "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS", "XLA_FLAGS", "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
    )  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"PYTHONPATH": str(REPOSITORY)}


def use_cores(count: int) -> None:
    """Keep this process and its children to `count` processors of different cores, where the system can tell."""
    if not hasattr(os, "sched_setaffinity"):
        return
    chosen: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        chosen.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    if len(chosen) < count:
        raise SystemExit(f"these benchmarks need {count} cores; this process may use {len(chosen)}")
    os.sched_setaffinity(0, list(chosen.values())[:count])


def machine() -> str:
    """CPU, cores, and what else keeps them busy."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


@contextmanager
def sides(bench: Bench, folder: Path) -> Iterator[tuple[dict[str, Worker], dict[str, dict[str, Any]]]]:
    """Workers by name, "ours" on all threads, "one thread" ours on one, and the peers; with what their setup said."""
    workers: dict[str, Worker] = {}
    about: dict[str, dict[str, Any]] = {}
    problem = dict(bench.problem)
    with ExitStack() as stack:

        def start(name: str, python: Path | str, worker: tuple[str, ...], threads: int) -> None:
            script, *arguments = worker
            workers[name] = Worker(name, [str(python), str(PEERS / script), *arguments])
            stack.callback(workers[name].close)
            about[name] = workers[name]("setup", bench=problem, threads=threads)

        for peer in bench.peers:
            python = environments.interpreter(peer.environment, folder)
            start(peer.name, python, peer.worker, THREADS)
            if "model" in about[peer.name]:
                problem["model"] = about[peer.name]["model"]
        for name, threads in (("ours", THREADS), ("one thread", 1)):
            start(name, sys.executable, ("worker_mpcrl.py",), threads)
        yield workers, about


def check_costs(bench: Bench, workers: dict[str, Worker]) -> None:
    """All sides give the costs of the plain functions on the same controls, to 1e-4 of the largest.

    Of 64 sequences three may differ: a float32 position at the rim of a cell may read its neighbour.
    """
    system = systems.system(bench.problem["system"])
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((64, bench.problem["horizon"], len(system.low))) * system.sigma
    controls = np.clip(noise, system.low, system.high).astype(np.float32)
    truth = system.cost_of(controls)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "controls.npy"
        np.save(path, controls)
        for name, worker in workers.items():
            costs = np.array(worker("costs", controls=str(path))["costs"])
            error = np.sort(np.abs(costs - truth) / np.abs(truth).max())[-4]
            if not error <= 1e-4:
                raise SystemExit(f"{bench.name}: costs of {name} are off by {error:.1e} on the same controls")


def interleaved(workers: dict[str, Worker], rounds: int) -> dict[str, float]:
    """Median ms of a planning step of each side, over rounds in which all sides take their turn."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    counts = dict.fromkeys(workers, 1)
    order = sorted(workers, key=lambda name: name != "ours")
    followers = {peer.name for peer in PHYSICS}  # they simulate what ours just tried
    for turn in range(rounds + 1):
        asked: dict[str, Any] = {}
        for name in order:
            time.sleep(0.02)  # threads that the last side left spinning fall asleep
            answer = workers[name]("time", repeats=counts[name], **(asked if name in followers else {}))
            if name == "ours" and "controls" in answer:
                asked = {"controls": answer["controls"]}
            if turn:
                seconds[name] += answer["seconds"]
            elif not asked:  # the first round only shows how many steps make 50 ms
                counts[name] = int(np.clip(0.05 / statistics.median(answer["seconds"]), 1, 20))
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def measure(bench: Bench, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of one benchmark."""
    with sides(bench, folder) as (workers, about):
        if "system" in bench.problem:
            check_costs(bench, workers)
        host = machine()
        ms = interleaved(workers, rounds)
        shown = {
            name: quality_of(workers[name]("quality", **bench.quality))
            for name in workers
            if name != "one thread" and name not in {peer.name for peer in PHYSICS}
        }

    def row(peer: str, side: str | None, bar: Bar, threads: str) -> dict[str, Any]:
        other = float("nan") if side is None else ms[side]
        described = [about["ours"]] + ([about[side]] if side not in (None, "one thread") else [])
        return {
            "bench": bench.name,
            "peer": peer,
            "ours_ms": ms["ours"],
            "peer_ms": other,
            "ratio": other / ms["ours"],
            "bar": str(bar),
            "met": bar.met(ms["ours"], other),
            "threads": threads,
            "ours_quality": shown["ours"],
            "peer_quality": shown.get(side or "", ""),
            "machine": host,
            "blas": " | ".join(", ".join(entry["blas"]) or "none" for entry in described),
            "versions": " | ".join(versions_of(entry) for entry in described),
        }

    rows = [row(peer.name, peer.name, peer.bar, str(THREADS)) for peer in bench.peers]
    if bench.bar:
        rows.append(row("", None, bench.bar, str(THREADS)))
    rows.append(row("mpcrl on 1 thread", "one thread", TWO_THREADS, f"{THREADS} and 1"))
    return rows


def start_up(rounds: int) -> list[dict[str, Any]]:
    """Rows of the import and of the first plan of a fresh process, kernels in the cache."""
    command = [sys.executable, str(PEERS / "first_plan.py"), str(THREADS)]
    answers = []
    for _ in range(rounds + 1):  # the first one fills the cache
        done = subprocess.run(command, env=worker_environment(), check=True, stdout=subprocess.PIPE)
        answers.append(json.loads(done.stdout))
    answers = answers[1:]
    heavy = sorted({name for answer in answers for name in answer["heavy"]} & {"torch", "mujoco"})
    rows = []
    for name, key, limit in (("import", "import", 500.0), ("first-plan", "plan", 300.0)):
        ours, bar = 1e3 * statistics.median(answer[key] for answer in answers), Bar(ms=limit)
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "bench": name, "ours_ms": ours, "peer_ms": float("nan"), "ratio": float("nan"), "bar": str(bar),
                "met": bar.met(ours, float("nan")) and not heavy, "threads": str(THREADS),
                "ours_quality": f"loads {', '.join(heavy)}" if heavy else "no torch, no mujoco",
                "machine": machine(), "versions": f"python {platform.python_version()}",
            }
        )  # fmt: skip
    return rows


def quality_of(answer: dict[str, Any]) -> str:
    """One episode in words."""
    outcome = f"solved at step {answer['at']}" if answer["solved"] else "NOT SOLVED"
    return f"{outcome}, cost {answer['cost']:.1f}"


def versions_of(about: dict[str, Any]) -> str:
    """Versions of one side in words."""
    own = {"mpcrl": about["version"]} if "version" in about else {}
    return ", ".join(f"{name} {version}" for name, version in (own | about["versions"]).items())


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a reader."""
    header = ("bench", "against", "ours ms", "peer ms", "ratio", "bar", "met", "ours", "peer")
    lines = [header] + [
        (
            row["bench"],
            row["peer"],
            number(row["ours_ms"]),
            number(row["peer_ms"]),
            number(row["ratio"]),
            row["bar"],
            "yes" if row["met"] else "NO",
            row["ours_quality"],
            row["peer_quality"],
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def number(value: float) -> str:
    """Three or four figures; empty for NaN."""
    return "" if np.isnan(value) else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def save(rows: list[dict[str, Any]], path: Path) -> None:
    """Put the rows into the CSV file in place of older ones of the same benchmarks."""
    measured = {row["bench"] for row in rows}
    old = []
    if path.exists():
        with path.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row["bench"] not in measured]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(old)
        for row in rows:
            figures = {name: number(row[name]) for name in ("ours_ms", "peer_ms", "ratio")}
            writer.writerow(row | figures | {"met": "yes" if row["met"] else "no"})
    temporary.replace(path)


def main() -> None:
    names = [*(bench.name for bench in BENCHES), "start-up"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", nargs="+", metavar="NAME", help=f"parts of names; of {', '.join(names)}")
    parser.add_argument("--repeats", type=int, default=30, help="rounds of ours, peer, ours, peer (default: 30)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "planning_speed.csv")
    parser.add_argument("--environments", type=Path, default=REPOSITORY / "build" / "peers")
    options = parser.parse_args()
    parts = options.bench or [""]
    chosen = [name for name in names if any(part == name or (part in name and part not in names) for part in parts)]
    if not chosen:
        parser.error(f"no benchmark is called {' or '.join(options.bench)}; there are {', '.join(names)}")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    use_cores(THREADS)
    if os.getloadavg()[0] > 0.5:
        print(f"warning: something else keeps this machine busy (load {os.getloadavg()[0]:.1f}); times will be off")
    for peer in {peer.environment for bench in BENCHES if bench.name in chosen for peer in bench.peers}:
        environments.interpreter(peer, options.environments.resolve())
    rows = []
    for bench in BENCHES:
        if bench.name in chosen:
            print(f"{bench.name} ...", flush=True)
            rows += measure(bench, options.repeats, options.environments.resolve())
    if "start-up" in chosen:
        print("start-up ...", flush=True)
        rows += start_up(min(options.repeats, 7))
    for row in rows:
        row["date"] = datetime.date.today().isoformat()
    save(rows, options.out)
    print(f"\n{table(rows)}\n\nwritten to {options.out}")


if __name__ == "__main__":
    main()
