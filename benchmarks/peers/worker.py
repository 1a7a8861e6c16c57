"""What all workers share: the conversation with the driver, and the frame for planners of the plain systems.

A worker is a process in its own environment that answers JSON lines, one request and one answer per line:

    {"command": "setup", ...}                 what to plan, on how many threads   -> versions, BLAS kernel
    {"command": "costs", "controls": path}    the cost of given controls          -> costs
    {"command": "time", "repeats": n}         seconds of each of n planning steps -> seconds
    {"command": "quality"}                    one episode                         -> solved, cost
    {"command": "quit"}
"""

from __future__ import annotations

import abc
import importlib.metadata
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import systems
from threadpoolctl import threadpool_info


def serve(worker: object) -> None:
    """Answer requests by the worker's methods of the same name until the driver hangs up."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not reach the driver as an answer
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        if command == "quit":
            break
        try:
            answer = getattr(worker, command)(**request)
        except Exception as error:  # noqa: BLE001 - the driver reports whatever it was
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def describe(*packages: str) -> dict[str, Any]:
    """Versions of the packages, and the BLAS kernels that this process loaded."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    kernels = {f"{info['internal_api']} {info.get('architecture', '')}".strip() for info in threadpool_info()}
    return {"versions": versions, "blas": sorted(kernel for kernel in kernels if not kernel.startswith("openmp"))}


def clock(step: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None) -> list[float]:
    """Seconds of each call of `step`, those of `before` not counted.

    One more call comes first and goes uncounted as well: it wakes the threads and fills the caches.
    """
    seconds = []
    for _ in range(repeats + 1):
        before()
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


class SystemWorker(abc.ABC):
    """A planner of one of the plain systems; each worker says how it builds, plans, forgets and adds up costs."""

    def setup(self, bench: dict[str, Any], threads: int) -> dict[str, Any]:
        self.system = systems.system(bench["system"])
        about = self.build(bench["samples"], bench["horizon"], threads)
        for _ in range(3):
            self.plan(self.system.start)
        return about

    def costs(self, controls: str) -> dict[str, Any]:
        return {"costs": [float(cost) for cost in self.total(np.load(controls))]}

    def time(self, repeats: int) -> dict[str, Any]:
        return {"seconds": clock(lambda: self.plan(self.system.start), repeats)}

    def quality(self) -> dict[str, Any]:
        self.forget()
        return self.system.episode(self.plan)

    @abc.abstractmethod
    def build(self, samples: int, horizon: int, threads: int) -> dict[str, Any]:
        """Make the planner; return `describe(...)`."""

    @abc.abstractmethod
    def plan(self, state: tuple[float, ...]) -> np.ndarray:
        """One planning step, warm-started by the one before: the control [nu] for now."""

    @abc.abstractmethod
    def forget(self) -> None:
        """Start from zero controls again."""

    @abc.abstractmethod
    def total(self, controls: np.ndarray) -> np.ndarray:
        """Cost [N] of float32 controls [N, H, nu] from the system's start, the state's cost counted after each step."""
