"""Set-up shared by all tests: where kernels are cached, how many threads there are, how hypothesis searches."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Set here and not in a fixture, so that it holds before the first import of mpcrl and in every child process.
# The cache is this checkout's own: a run compiles only what has changed, and leaves the user's cache alone.
os.environ.setdefault("MPCRL_CACHE_DIR", str(ROOT / "build" / "kernel-cache"))
# Tests compare one thread with two; this makes two on any machine.
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

# Kernels compile at their first example, so time limits per example mean nothing.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
