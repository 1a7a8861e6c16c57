"""Each peer in a virtual environment of its own, so that their requirements never meet ours or one another's."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

# torch is named wherever it is needed: a CPU build of that version is enough, and what a peer's own requirement may
# bring instead is several GB of CUDA. Point pip at an index with CPU builds (PIP_EXTRA_INDEX_URL) where it has none.
_TORCH = "torch==2.13.0"
_COMMON = ("numpy==2.4.6", "threadpoolctl==3.8.0")

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "pytorch_mppi": (_TORCH, "pytorch-mppi==0.9.1", "arm-pytorch-utilities==0.5.0", *_COMMON),
    "jax": ("jax==0.10.2", "jaxlib==0.10.2", *_COMMON),
    "torchrl": (_TORCH, "torchrl==0.14.1", "tensordict==0.14.3", *_COMMON),
    "mujoco": ("mujoco==3.17.0", "gymnasium[mujoco]==1.4.0", *_COMMON),
    "mbrl": (
        _TORCH, "hydra-core==1.3.8", "omegaconf==2.3.0", "gym==0.26.2", "gymnasium==1.4.0", "tqdm==4.70.1",
        "termcolor==3.3.0", "matplotlib==3.11.2", *_COMMON,
    ),
    "judo": ("judo-rai==0.1.0", "mujoco==3.6.0", _TORCH, *_COMMON),
}  # fmt: skip
UNBOUND: dict[str, tuple[str, ...]] = {"mbrl": ("mbrl==0.2.0",)}
"""Installed without their own requirements, which name versions that are not to be had any more."""


def interpreter(name: str, folder: Path) -> Path:
    """The Python of the environment called `name` in `folder`, built first if it is not there as it should be."""
    home, wanted = (
        folder / name,
        {"python": platform.python_version(), "requirements": [*REQUIREMENTS[name], *UNBOUND.get(name, ())]},
    )
    stamp = home / "built.json"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    print(f"building the environment of {name} in {home}: {', '.join(REQUIREMENTS[name])}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
    if name in UNBOUND:
        subprocess.run([*pip, "--no-deps", *UNBOUND[name]], check=True)
    stamp.write_text(json.dumps(wanted))
    return python
