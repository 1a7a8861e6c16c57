"""Kernel compilation with a cache that is never stale.

Numba's own disk cache watches one source file: it misses edits in callees, and every closure. Here an entry is keyed by
*content*: a library kernel by the source of all rooms that kernels may call, a generated module by its own text beside
that, and both by the versions and the target CPU. A damaged entry is deleted and built again; a folder that cannot be
written, or that somebody else could write, leaves kernels uncached with one warning.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import linecache
import os
import pathlib
import re
import stat
import sys
import threading
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import llvmlite
import numba
import numpy as np
import platformdirs
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name, get_process_triple
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.runtime import rtsys

FASTMATH = {"contract", "nsz", "afn"}
"""Flags of every kernel. Not `arcp`: it makes 1 / sqrt(x) NaN at 0 and -inf at the least numbers. Not `nnan` and
`ninf`: they delete the checks for failed samples. Not `reassoc`: it folds the two parts of pi in range reductions, and
makes sums depend on the vector width."""

_ONLY_PRANGE = {"prange": True} | dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)
"""Parallel where a kernel says so: otherwise each small array expression would wake all threads."""

_loading = threading.Lock()
_used: set[str] = set()
"""Names of kernels in the cache, without their endings, that this process has asked for."""

_PACKAGE = pathlib.Path(__file__).parent.parent


class CacheWarning(UserWarning):
    """Kernels are compiled again in every process, and why."""


def cache_folder() -> pathlib.Path:
    """Where compiled kernels lie: `MPCRL_CACHE_DIR`, or the user's cache folder."""
    chosen = os.environ.get("MPCRL_CACHE_DIR")
    return pathlib.Path(chosen) if chosen else pathlib.Path(platformdirs.user_cache_dir("mpcrl", appauthor=False))


@functools.cache
def _checked_folder(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder, made if need be; None (and one warning) where pickles in it could not be trusted or written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            reason = "it belongs to another user"
        elif os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            reason = "others may write to it"
        elif not os.access(folder, os.W_OK | os.X_OK):
            reason = "it is not writable"
        else:
            return folder
    except OSError as error:
        reason = str(error)
    warnings.warn(
        f"kernels are compiled anew in each process: cannot cache in {folder} ({reason}); "
        "set MPCRL_CACHE_DIR to a private, writable folder",
        CacheWarning,
        stacklevel=2,
    )
    return None


@functools.cache
def library_digest() -> str:
    """Hash of all source that a kernel may call, and of the versions that compile it."""
    digest = hashlib.sha256()
    for room in ("core", "kernels"):
        for path in sorted((_PACKAGE / room).glob("*.py")):
            digest.update(path.read_bytes())
    digest.update("\0".join((sys.version, numba.__version__, llvmlite.__version__, np.__version__)).encode())
    return digest.hexdigest()


def kernel_target() -> str:
    """What compiled kernels are good for: this source, these versions, this kind of CPU."""
    host = (library_digest(), get_process_triple(), get_host_cpu_name(), get_host_cpu_features().flatten())
    return hashlib.sha256("\0".join(host).encode()).hexdigest()


def used_kernels() -> dict[str, bytes]:
    """Files of the cache by name, of all kernels that this process has compiled or loaded."""
    files = [path for base in sorted(_used) for path in sorted(cache_folder().glob(f"{glob.escape(base)}*.nb[ic]"))]
    return {path.name: path.read_bytes() for path in files}


def adopt_kernels(files: Mapping[str, bytes]) -> int:
    """Put kernels that `used_kernels` gave elsewhere into the cache; the number of those that it did not have.

    They are executed when they are next called, and so is whatever else their files may hold: they are pickles.
    """
    folder = _checked_folder(cache_folder())
    indices = [name for name in files if re.fullmatch(r"[\w.-]+\.nbi", name)] if folder else []
    adopted = 0
    for index in indices:
        assert folder is not None
        if (folder / index).exists():
            continue  # an index with the machine code of another one would be worse than none
        base = re.escape(index.removesuffix(".nbi"))
        names = [name for name in files if re.fullmatch(rf"{base}\.\d+\.nbc", name)]
        for name in (*names, index):  # what is complete but for its index does not count
            scratch = folder / f"{name}.tmp.{os.getpid()}"
            scratch.write_bytes(files[name])
            os.replace(scratch, folder / name)
        adopted += 1
    return adopted


class _ContentLocator(_CacheLocator):
    """Numba's question where a function is cached, answered by content instead of by file and time."""

    def __init__(self, function: Callable[..., Any], folder: pathlib.Path) -> None:
        self._folder = folder
        self._py_file = function.__code__.co_filename
        self._digest = function.__globals__.get("__mpcrl_digest__") or library_digest()

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _ContentLocator | None:
        folder = _checked_folder(cache_folder())
        return None if folder is None else cls(py_func, folder)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._digest

    def get_disambiguator(self) -> str:
        return self._digest[:20]


class _ContentImpl(CompileResultCacheImpl):
    _locator_classes = [_ContentLocator]  # noqa: RUF012 - as in the base class


class _ContentCache(FunctionCache):
    _impl_class = _ContentImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        _used.add(self._impl.filename_base)
        try:
            # Not the base class's: that one first loads all that Numba can compile, SciPy's linear algebra included,
            # half a second that machine code ready to run has no need of. A compilation does so by itself.
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 - unpickling damaged bytes can raise anything: delete the entry and compile again
            for path in pathlib.Path(self.cache_path).glob(f"{self._impl.filename_base}*.nb?"):
                path.unlink(missing_ok=True)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            warnings.warn(f"a kernel could not be cached: {error}", CacheWarning, stacklevel=2)


def kernel(function: Callable[..., Any] | None = None, *, parallel: bool = False) -> Any:
    """Compile a function on its first call, under the flags and in the cache of this module.

    Parameters
    ----------
    function : callable
        Reads arrays and numbers, writes arrays. What it calls is inlined or linked.
    parallel : bool
        Whether `prange` in it uses all of the caller's threads.
    """
    if function is None:
        return functools.partial(kernel, parallel=parallel)
    dispatcher = numba.njit(
        parallel=_ONLY_PRANGE if parallel else False, nogil=True, error_model="numpy", fastmath=FASTMATH
    )(function)
    if not numba.config.DISABLE_JIT and _checked_folder(cache_folder()) is not None:
        dispatcher._cache = _ContentCache(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into each kernel that calls it.

    By LLVM (`forceinline`) rather than by Numba (`inline="always"`), which would type it again at every call: the code
    is as fast and compiles in two thirds of the time.
    """
    return numba.njit(forceinline=True, error_model="numpy", fastmath=FASTMATH)(function)


def load_module(text: str, purpose: str) -> types.ModuleType:
    """The module of a generated source text; its kernels are cached by the text's hash.

    Parameters
    ----------
    text : str
        Source that imports all it needs and decorates its kernels with `kernel`.
    purpose : str
        An identifier for file names and tracebacks.
    """
    digest = hashlib.sha256(f"{library_digest()}\0{text}".encode()).hexdigest()
    name = f"mpcrl_{purpose}_{digest[:20]}"
    with _loading:  # another thread must not see a module half made
        return _loaded(name, text, digest)


def _loaded(name: str, text: str, digest: str) -> types.ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__dict__["__mpcrl_digest__"] = digest
    filename = f"<{name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    sys.modules[name] = module  # Numba's cached code finds its globals by the module's name
    try:
        exec(compile(text, filename, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
