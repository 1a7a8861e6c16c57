"""Steps of training an ensemble, beside what the machine can do: `python benchmarks/learning.py`.

5 probabilistic members of 4 x 200 SiLU features, 18 states and 6 controls, on one thread: forward, backward and Adam on
batches of 32 to 256 rows per member. All sizes and the peak, which is that of multiply-adds in registers alone, take
their turn in every round; times are medians. Counted are the multiplications of matrices, three per layer but the
first, which has no gradient to pass on.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import statistics
import time
from pathlib import Path

import numba
import numpy as np
import torch
from bench_peers import REPOSITORY, machine, use_cores
from ensemble import peak

from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels.network import TARGET
from mpcrl.learning.batched import Batched
from mpcrl.learning.ensemble import EnsembleConfig, Learner
from mpcrl.tasks.features import Features

NX, NU, BATCHES, TURNS = 18, 6, (32, 64, 128, 256), 2_000_000
CONFIG = EnsembleConfig(hidden=(200,) * 4)
FEATURES = Features(names=tuple(f"x{i}" for i in range(NX)), nu=NU)
SIZES = (NX + NU, *CONFIG.hidden, 2 * NX)
COLUMNS = (
    "batch",
    "milliseconds",
    "steps_per_s",
    "rows_per_s",
    "gflop_per_s",
    "of_peak",
    "machine",
    "versions",
    "date",
)


def flop(batch: int) -> int:
    """Of one step."""
    layers = [i * o for i, o in itertools.pairwise(SIZES)]
    return 2 * CONFIG.members * batch * (3 * sum(layers) - layers[0])


def networks() -> Batched:
    """As a learner begins with them."""
    arrays = Learner(FEATURES, CONFIG).network().arrays()
    return Batched(
        {name: a for name, a in arrays.items() if not name.startswith(("input", "target"))},
        activation=CONFIG.activation, probabilistic=True, gaussian=range(NX), logits={},
        learning_rate=CONFIG.learning_rate, weight_decay=CONFIG.decays,
    )  # fmt: skip


def measure(rounds: int) -> list[dict[str, object]]:
    found: dict[int, list[float]] = {batch: [] for batch in (0, *BATCHES)}  # 0 is the peak
    trained = {batch: networks() for batch in BATCHES}
    shapes = {batch: [(CONFIG.members, batch, width) for width in (NX + NU, NX)] for batch in BATCHES}
    data = {batch: [torch.randn(*s) for s in both] + [torch.ones(both[0][:2])] for batch, both in shapes.items()}
    with ThreadBudget(1).limit():
        for turn in range(rounds + 1):
            begin = time.perf_counter()
            peak(TURNS, 1)
            laps = {0: time.perf_counter() - begin}
            for batch in BATCHES:
                count = 512 // batch
                begin = time.perf_counter()
                for _ in range(count):
                    trained[batch].step(*data[batch])
                laps[batch] = (time.perf_counter() - begin) / count
            for key, lap in laps.items() if turn else ():  # the first round compiles and warms up
                found[key].append(lap)
    most = 2 * TARGET.lanes * TARGET.rows * TARGET.vectors * TURNS / statistics.median(found[0])
    versions = f"torch {torch.__version__}, numba {numba.__version__}, numpy {np.__version__}"
    rows: list[dict[str, object]] = []
    for batch in BATCHES:
        seconds = statistics.median(found[batch])
        rate = flop(batch) / seconds
        rows.append({
            "batch": batch, "milliseconds": f"{1e3 * seconds:.2f}", "steps_per_s": f"{1 / seconds:.0f}",
            "rows_per_s": f"{batch / seconds:.0f}", "gflop_per_s": f"{rate / 1e9:.1f}", "of_peak": f"{rate / most:.2f}",
            "machine": machine(), "versions": versions, "date": datetime.date.today().isoformat(),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "learning.csv")
    options = parser.parse_args()
    use_cores(1)
    rows = measure(options.rounds)
    for row in rows:
        print("  ".join(f"{name} {row[name]}" for name in COLUMNS[:-3]))
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
