"""What all tests share: where kernels are cached, how many threads there are, what draws, how hypothesis searches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Set here and not in a fixture, so that it holds before the first import of mpcrl and in every child process.
# The cache is this checkout's own: a run compiles only what has changed, and leaves the user's cache alone.
os.environ.setdefault("MPCRL_CACHE_DIR", str(ROOT / "build" / "kernel-cache"))
# Tests compare one thread with two; this makes two on any machine.
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

RENDERER = os.environ.get("MUJOCO_GL", "")
"""What the tests began with."""

# Kernels compile at their first example, so time limits per example mean nothing.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def restored_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command settles MUJOCO_GL for its process; here each test has a process's worth of it, whatever a fixture of
    wider scope has settled before."""
    monkeypatch.setenv("MUJOCO_GL", RENDERER)
