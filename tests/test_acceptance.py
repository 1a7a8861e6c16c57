"""The slow checks of control quality: `make acceptance`, or one by `make acceptance ARGS='-k swing'`."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.acceptance
@pytest.mark.parametrize("study", ["swing-up", "half-cheetah", "icem-cem", "dm-control"])
def test_control_quality_meets_its_bars(study):
    """Runs that were made before are not made again; see benchmarks/quality.py."""
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "quality.py", study], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "study",
    [
        "fuzz",
        "faults",
        "process",
        "jitter",
        "stalls",
        "delay",
        "threads",
        "idle",
        "memory",
        "smoothness",
        "nav2",
    ],
)
def test_real_time_meets_its_bars(study):
    """Wants a machine that does nothing else; see benchmarks/realtime.py."""
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "realtime.py", study], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "command",
    [
        *("gp.py speed", "gp.py fits", "gp_moments.py"),
        *("pilco.py pilco", "pilco.py mc-pilco", "gp_mpc.py pendulum", "gp_mpc.py pendulum-noisy"),
    ],
)
def test_gaussian_processes_meet_their_bars(command, tmp_path):
    """The speeds want a machine that does nothing else."""
    script, *study = command.split()
    out = ["--out", str(tmp_path)] if script in ("pilco.py", "gp_mpc.py") else []
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / script, *study, *out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.acceptance
@pytest.mark.parametrize("study", ["cartpole", "balance", "pendulum"])
def test_learning_meets_its_bars(study):
    """Trainings that were done, or begun, before go on from there; see benchmarks/pets.py."""
    command = [sys.executable, ROOT / "benchmarks" / "pets.py", study, "--out", ROOT / "out" / "pets"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
