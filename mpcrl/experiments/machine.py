"""What results depend on beside the code: the machine, and the versions of what is installed."""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba
import threadpoolctl

from mpcrl import __version__
from mpcrl.core.compile import cache_folder
from mpcrl.core.threads import available_threads

CORE_PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "joblib", "threadpoolctl", "safetensors", "platformdirs")

EXTRAS = {
    "mujoco": ("mujoco",),
    "gym": ("gymnasium", "imageio", "packaging"),
    "dm-control": ("dm_control", "shimmy"),
    "robotics": ("gymnasium-robotics",),
    "learning": ("torch", "gpytorch"),
    "data": ("minari", "h5py"),
    "cli": ("tyro", "rich"),
    "plots": ("matplotlib",),
    "view": ("mjviser",),
    "video": ("imageio-ffmpeg", "pillow"),
    "estimation": ("filterpy",),
    "parquet": ("pyarrow",),
    "tracking": ("tensorboard",),
    "dask": ("dask", "distributed"),
    "ray": ("ray",),
}
"""Packages of each extra of this distribution: `pip install 'mpcrl[extra]'`."""

# A layer that is there may still miss its library, so that nothing but importing it tells.
_THREADING_LAYERS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}


def installed(package: str) -> str | None:
    """Version of an installed package; None if it is not there. Nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of mpcrl, Python and every package of its that is installed, as they are at the first call.

    What is installed later is of no concern to a process that has loaded these.
    """
    return dict(_versions())


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Read once: it takes a twentieth of a second, twice in every run of a sweep."""
    names = (*CORE_PACKAGES, *(package for group in EXTRAS.values() for package in group))
    found = ((name, installed(name)) for name in names)
    return (
        ("mpcrl", __version__),
        ("python", platform.python_version()),
        *((name, number) for name, number in found if number),
    )


def missing_packages() -> dict[str, list[str]]:
    """Packages that are not installed, by the extra that brings them."""
    absent = {extra: [name for name in names if installed(name) is None] for extra, names in EXTRAS.items()}
    return {extra: names for extra, names in absent.items() if names}


@cache
def processor() -> str:
    """The CPU's name as its maker gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@cache
def vector_bits() -> int:
    """Width of the CPU's vector registers, as the compiler sees it; 0 where it cannot tell."""
    from llvmlite.binding import get_host_cpu_features

    features = get_host_cpu_features()
    widths = (("avx512f", 512), ("avx2", 256), ("avx", 256), ("sse2", 128), ("neon", 128))
    return next((bits for name, bits in widths if features.get(name)), 0)


def usable_cores() -> int:
    """Logical cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(threads: int | None = None) -> dict[str, Any]:
    """The machine, as it is stored with every result.

    Parameters
    ----------
    threads : int, optional
        That the work used; all that there are if not given.
    """
    from llvmlite.binding import get_host_cpu_name

    return {
        "cpu": processor(),
        "architecture": platform.machine(),
        "microarchitecture": get_host_cpu_name(),
        "vector_bits": vector_bits(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": available_threads() if threads is None else threads,
        "system": f"{platform.system()} {platform.release()}",
    }


def threading_layers() -> tuple[str, ...]:
    """Numba's threading layers that work here, best first."""

    def works(module: str) -> bool:
        try:
            importlib.import_module(f"numba.np.ufunc.{module}")
        except ImportError:
            return False
        return True

    return tuple(name for name, module in _THREADING_LAYERS.items() if works(module))


def blas() -> tuple[str, ...]:
    """The linear-algebra libraries that are loaded, with their threads."""
    found = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    return tuple(f"{lib['internal_api']} {lib['version'] or ''} ({lib['num_threads']} threads)" for lib in found)


@dataclass(frozen=True, kw_only=True)
class KernelCache:
    """Where compiled kernels lie.

    Attributes
    ----------
    folder : Path
    files, megabytes : int, float
        What is in it now.
    writable : bool
        Whether it exists, or can be made, and can be written.
    """

    folder: Path
    files: int
    megabytes: float
    writable: bool


def kernel_cache() -> KernelCache:
    """The state of the kernel cache."""
    folder = cache_folder()
    sizes = [entry.stat().st_size for entry in folder.rglob("*.nb?")] if folder.is_dir() else []
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return KernelCache(folder=folder, files=len(sizes), megabytes=sum(sizes) / 1e6, writable=writable)


def numba_threads() -> int:
    """Threads that Numba was started with; `NUMBA_NUM_THREADS` sets it."""
    return int(numba.config.NUMBA_NUM_THREADS)
