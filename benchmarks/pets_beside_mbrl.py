"""PETS on `cartpole-pets`, ours and mbrl-lib's in one table: same steps, seeds, starts, random trial and trajectories.

    python benchmarks/pets_beside_mbrl.py --out DIR       trains the peer's seeds that DIR has not got yet, one by one
    python benchmarks/pets_beside_mbrl.py --out DIR --merge     takes those that DIR has
    python benchmarks/pets_beside_mbrl.py --environments DIR    where the peers' environments are, or shall be

Ours is the study `cartpole` of benchmarks/pets.py, which is to be run first; the peer's side is
benchmarks/peers/pets_mbrl.py. Both on one thread. Returns are means of the evaluation after the last trial; times are
those of the 10 trials with their trainings, and can be compared where both sides had the machine to themselves.
Writes benchmarks/results/pets_cartpole_peers.csv.
"""

from __future__ import annotations

import argparse
import csv
import math
import pathlib
import statistics
import subprocess
from typing import Any

from bench_peers import PEERS, REPOSITORY, environments
from pets import RESULTS, STUDIES

from mpcrl.agents.agent import episode_key
from mpcrl.experiments.machine import machine
from mpcrl.experiments.training import EVALUATION
from mpcrl.tasks.registry import make_task

STUDY = STUDIES["cartpole"]
COLUMNS = ("side", "seed", "steps", "last_trial", "return", "wall_s", "cpu_s", "plan_ms", "learning_s", "cpu")
NUMBERS = COLUMNS[3:-1]


def train(seed: int, path: pathlib.Path, environments_folder: pathlib.Path) -> None:
    """The peer's rows of one seed, in its own environment."""
    task = make_task(STUDY.task)
    trials, evaluation = range(STUDY.steps // task.episode_steps), range(EVALUATION, EVALUATION + STUDY.episodes)
    settings = {
        "seed": [seed], "budget": [task.preset["budget"]], "horizon": [task.preset["horizon"]],
        "particles": [STUDY.settings["particles"]], "trials": [episode_key(seed, number) for number in trials],
        "evaluation": [episode_key(seed, number) for number in evaluation],
    }  # fmt: skip
    command = [environments.interpreter("mbrl", environments_folder), PEERS / "pets_mbrl.py", "--out", path]
    for name, values in settings.items():
        command += [f"--{name}", *map(str, values)]
    subprocess.run(command, check=True)


def read(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def finished(rows: list[dict[str, str]]) -> bool:
    return bool(rows) and rows[-1]["kind"] == "evaluation"


def summary(side: str, rows: list[dict[str, str]], cpu: str) -> dict[str, Any]:
    """A training in one line: its trials, then its evaluation, are `rows`."""
    *trials, evaluation = rows
    return {
        "side": side, "seed": evaluation["seed"], "steps": int(evaluation["steps"]), "cpu": cpu,
        "last_trial": float(trials[-1]["return"]), "return": float(evaluation["return"]),
        "wall_s": float(evaluation["wall_s"]), "cpu_s": float(evaluation.get("cpu_s") or "nan"),
        "plan_ms": statistics.median(float(row["plan_ms"]) for row in trials[1:]),
        "learning_s": sum(float(row["learning_s"]) for row in trials),
    }  # fmt: skip


def table(ours: list[dict[str, str]], folder: pathlib.Path, seeds: range) -> list[dict[str, Any]]:
    """Both sides' lines of the seeds that both have, then their means."""
    rows: dict[str, list[dict[str, Any]]] = {"mpcrl": [], "mbrl-lib": []}
    computer = machine()
    here = f"{computer['cpu']} ({computer['microarchitecture']})"
    for seed in seeds:
        mine = [row for row in ours if row["seed"] == str(seed) and row["algo"] == STUDY.algo]
        theirs = read(folder / f"{seed}.csv")
        if not finished(mine) or not finished(theirs):
            print(f"seed {seed} is left out: {'the peer' if finished(mine) else 'ours'} has not finished it")
            continue
        first = [float(side[0]["return"]) for side in (mine, theirs)]
        if not math.isclose(*first, rel_tol=1e-9):
            raise SystemExit(
                f"seed {seed}: the random trials return {first[0]} and {first[1]}, expected the same; one side was "
                "made with other episodes, and is to be run again"
            )
        rows["mpcrl"].append(summary("mpcrl", mine, mine[-1]["cpu"]))
        rows["mbrl-lib"].append(summary("mbrl-lib", theirs, here))
    lines = []
    for group in rows.values():
        means = {name: statistics.mean(row[name] for row in group) for name in NUMBERS} if group else {}
        lines += [*group, *([group[0] | {"seed": "mean"} | means] if group else [])]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="of the peer; goes on from what is there")
    parser.add_argument("--ours", type=pathlib.Path, default=RESULTS / "pets_cartpole.csv", help="from pets.py")
    parser.add_argument("--merge", action="store_true", help="train nothing")
    parser.add_argument("--environments", type=pathlib.Path, default=REPOSITORY / "build" / "peers")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(STUDY.seeds):
        path = (arguments.out / f"{seed}.csv").resolve()
        if not arguments.merge and not finished(read(path)):
            train(seed, path, arguments.environments.resolve())
    lines = table(read(arguments.ours), arguments.out, range(STUDY.seeds))
    if not lines:
        raise SystemExit(f"no seed is finished in both {arguments.ours} and {arguments.out}")
    with (RESULTS / "pets_cartpole_peers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**line, **{n: "" for n in NUMBERS if math.isnan(line[n])}} for line in lines)
    for line in lines:
        figures = "  ".join(f"{name} {line[name]:.1f}" for name in NUMBERS if not math.isnan(line[name]))
        print(f"{line['side']:8}  seed {line['seed']:>4}  {figures}")


if __name__ == "__main__":
    main()
