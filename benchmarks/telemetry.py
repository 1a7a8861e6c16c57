"""What the log of plans costs, with as many numbers as a quadrotor has: `python benchmarks/telemetry.py [RECORDS]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mpcrl.control.plan import Plan, Status
from mpcrl.control.telemetry import Telemetry, read_telemetry


def resident() -> float:
    """Memory of this process, MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main(records: int) -> None:
    state, control = np.ones(13), np.ones(4)
    numbers = {"age": 0.0, "cost": 1.0, "milliseconds": 1.0, "effective_sample_size": 9.0}
    counts = {"iterations": 3, "samples": 100, "failed": 0}
    plan = Plan(control=control, status=Status.PLANNED, controls=np.ones((30, 4)), **numbers, **counts)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for name, path in (("in memory", None), ("in a file", Path(folder) / "ring")):
            telemetry = Telemetry({}, list(map(str, range(13))), list("abcd"), ["near", "effort"], path=path)
            for _ in range(telemetry.capacity):  # the ring is full, and all its pages are there
                telemetry.record(plan, state, True, [0.0, 0.0])
            before, begin, cpu = resident(), time.perf_counter(), time.process_time()
            for _ in range(records):
                telemetry.record(plan, state, True, [0.0, 0.0])
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            print(f"{name}: {1e6 * wall / records:.2f} us a record ({1e6 * cpu / records:.2f} us of CPU), ", end="")
            print(f"{resident() - before:+.2f} MB over {records:,}")
        begin = time.perf_counter()
        read = len(read_telemetry(Path(folder) / "ring"))
        print(f"read {read:,} rows: {1e3 * (time.perf_counter() - begin):.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
