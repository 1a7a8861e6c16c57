"""Damaged and hostile exports: `python benchmarks/load_fuzz.py [--cases 10000]`. Does loading ever execute something?

Each case changes the folder of an exported controller and loads it. "As is" means that the manifest is left alone, as a
disk, a copy or an editor would; "resealed" that it is made to fit, as somebody would who wants it to be believed.

    typed      an error of mpcrl: what is meant to happen
    loaded     a controller: a change without consequence, or to another value that is allowed
    untyped    any other error
    executed   cases in which something ran: an audit hook saw code executed or compiled, a module imported, a pickle
               name a function, a process or a library started, or a file opened for writing

Code that may run is that of mpcrl itself, the kernels' text that it generates, what Numba and named tuples generate for
functions, and the user's source that the call names, which lies outside of the folder and is not changed.
"""

from __future__ import annotations

import argparse
import ast
import collections
import csv
import datetime
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

import mpcrl
from mpcrl.control.export import _KINDS
from mpcrl.core.bundle import MANIFEST, _canonical, digest
from mpcrl.core.configuration import annotations_of
from mpcrl.experiments.machine import processor

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "load_fuzz.csv"
ALWAYS = (
    *("pickle.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.", "marshal.", "ctypes."),
    *("socket.", "shutil.", "os.remove", "os.rename", "os.mkdir", "os.symlink", "os.putenv", "code.__new__"),
)
GENERATORS = (*(str(Path(str(module.__file__)).parent) for module in (numba, collections)), str(ast.__file__))
"""Libraries that execute text of their own making."""

SOURCE = """
from typing import NamedTuple

import numpy as np

import mpcrl
from fuzz_helper import damped


class Params(NamedTuple):
    goal: float = 1.0
    weights: np.ndarray = np.array([1.0, 0.1])


def step(x, u, p):
    return x[0] + 0.02 * x[1], damped(x[1]) + 0.02 * u[0]


def cost(x, u, t, p):
    return p.weights[0] * (x[0] - p.goal) ** 2 + p.weights[1] * x[1] ** 2


def task():
    return mpcrl.AnalyticTask(
        name="fuzzed", dt=0.02, control_low=[-2.0], control_high=[2.0], params=Params(), episode_steps=50,
        state_names=("position", "speed"), control_names=("force",), step=step, cost=cost,
        reset=lambda rng: np.zeros(2),
    )


def harm():
    raise SystemExit("executed")
"""

Files = dict[str, bytes]


class Poison:
    """Pickles to something that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


class Watch:
    """An audit hook that lists what runs while it is on."""

    def __init__(self, allowed: set[str]) -> None:
        self.on, self.seen, self.allowed = False, [], allowed  # type: ignore[var-annotated]
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in ("exec", "compile"):
            name = arguments[0].co_filename if event == "exec" else os.fsdecode(arguments[1] or "<none>")
            caller = sys._getframe(1).f_code.co_filename
            if name not in self.allowed and not name.startswith("<mpcrl_") and not caller.startswith(GENERATORS):
                self.seen.append(f"{event} {name} by {caller}")
        elif event == "import":
            self.seen.append(f"{event} {arguments[0]}")
        elif event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.seen.append(f"write {path}")
        elif event.startswith(ALWAYS):
            self.seen.append(f"{event} {arguments}")


# ---- changes ---------------------------------------------------------------------------------------------------------
WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 2**31, 2**63, -(2**63), 1e-320, 1e308, -1e308, 0.5, "", "x", "None", [], {}),
    *([[]], [1, 2, 3], {"type": "Schedule"}, {"type": "Popen", "args": "true"}, {"__reduce__": ["os.system", "true"]}),
    *("__import__('os').system('true')", "os.system", "../x.py:task", "my_robot.py:harm", "harm", "x" * 10_000),
    *("HalfCheetah-v6", "\ud800", "float128", {"type": "Spline", "knots": 10**7, "order": 3}, [None], [1e400]),
)  # fmt: skip
TEXTS = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 100_000, '{"a":1,"a":2}', "0x10", "'x'", "1_000")
NAMES = (
    *("../x", "/etc/passwd", "source/../../x", "..\\x", "C:\\x", "C:x", "", ".", "..", "source/", "/", "a//b", "a/./b"),
    *("~/x", "con\0trol", "x" * 300, "/".join("a" * 20), "-rf", "$(touch x)", "controller.json/x", "\u202egnp.exe"),
)


def flipped(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        if changed:
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def grown(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.randbytes(dice.choice((1, 8, 5000))) + data[at:]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def rewritten(data: bytes, dice: random.Random) -> bytes:
    """JSON with another value, or text that is none, an entry less or more, somewhere."""
    value = json.loads(data)
    path = dice.choice(places(value)[1:])
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    what = dice.randrange(10)
    if what == 0:
        del holder[path[-1]]
    elif what == 1 and isinstance(holder, dict):
        holder[dice.choice(("extra", "__class__", "type", *NAMES))] = dice.choice(WRONG)
    elif what == 2:
        holder[path[-1]] = "@"
        return json.dumps(value).replace('"@"', dice.choice(TEXTS), 1).encode()
    elif what == 3 and type(holder[path[-1]]) in (int, float):
        holder[path[-1]] *= dice.choice((-1, 0, 1e-9, 0.5, 2, 10, 1e3, 1e6, 1e300))
        if holder[path[-1]] == int(holder[path[-1]]):
            holder[path[-1]] = int(holder[path[-1]])
    else:
        holder[path[-1]] = dice.choice(WRONG)
    return json.dumps(value).encode()


def sealed(files: Files, dice: random.Random | None = None) -> Files:
    """The files with a manifest that fits them."""
    manifest = json.loads(ORIGINAL_MANIFEST)
    manifest["files"] = {n: {"bytes": len(d), "sha256": digest(d)} for n, d in files.items() if n != MANIFEST}
    return {**files, MANIFEST: signed(manifest)}


def signed(manifest: dict[str, Any]) -> bytes:
    manifest.pop("sha256", None)
    return json.dumps({**manifest, "sha256": digest(_canonical(manifest))}).encode()


ORIGINAL_MANIFEST = json.dumps({"format": "mpcrl controller", "version": 1, "mpcrl": mpcrl.__version__})


def pick(files: Files, dice: random.Random, but: str = "") -> str:
    return dice.choice([name for name in files if name != but])


class Changes:
    """All kinds of change; each gives the files and what is done to the folder after they are written."""

    def __init__(self, mark: Path, outside: Path) -> None:
        self.mark, self.outside = mark, outside

    def pickled(self, dice: random.Random) -> bytes:
        return pickle.dumps(Poison(self.mark), protocol=dice.randrange(6))

    def bytes_as_is(self, files: Files, dice: random.Random) -> Files:
        name = pick(files, dice)
        return {**files, name: dice.choice((flipped, cut, grown))(files[name], dice)}

    def swapped_as_is(self, files: Files, dice: random.Random) -> Files:
        one, two = dice.sample(list(files), 2)
        return {**files, one: files[two], two: files[one]}

    def missing_as_is(self, files: Files, dice: random.Random) -> Files:
        gone = pick(files, dice)
        return {name: data for name, data in files.items() if name != gone}

    def pickle_as_is(self, files: Files, dice: random.Random) -> Files:
        return {**files, pick(files, dice): self.pickled(dice)}

    def linked_as_is(self, files: Files, dice: random.Random) -> Files:
        return files  # `disturb` puts the link in place

    def bytes_resealed(self, files: Files, dice: random.Random) -> Files:
        name = pick(files, dice, MANIFEST)
        return sealed({**files, name: dice.choice((flipped, cut, grown))(files[name], dice)})

    def swapped_resealed(self, files: Files, dice: random.Random) -> Files:
        one, two = dice.sample([name for name in files if name != MANIFEST], 2)
        return sealed({**files, one: files[two], two: files[one]})

    def missing_resealed(self, files: Files, dice: random.Random) -> Files:
        gone = pick(files, dice, MANIFEST)
        return sealed({name: data for name, data in files.items() if name != gone})

    def pickle_resealed(self, files: Files, dice: random.Random) -> Files:
        return sealed({**files, pick(files, dice, MANIFEST): self.pickled(dice)})

    def json_resealed(self, files: Files, dice: random.Random) -> Files:
        return sealed({**files, "controller.json": rewritten(files["controller.json"], dice)})

    def arrays_resealed(self, files: Files, dice: random.Random) -> Files:
        name = "params.safetensors"
        header = int.from_bytes(files[name][:8], "little")
        text = files[name][8 : 8 + header]
        if dice.random() < 0.5:
            text = rewritten(text, dice)
        length = dice.choice((len(text), len(text), 0, 2**40, 2**64 - 1, len(text) + 1))
        return sealed({**files, name: length.to_bytes(8, "little") + text + files[name][8 + header :]})

    def manifest_resealed(self, files: Files, dice: random.Random) -> Files:
        try:
            manifest = json.loads(rewritten(files[MANIFEST], dice))
            return {**files, MANIFEST: signed(manifest)}
        except (ValueError, RecursionError):
            return {**files, MANIFEST: rewritten(files[MANIFEST], dice)}

    def name_resealed(self, files: Files, dice: random.Random) -> Files:
        manifest = json.loads(files[MANIFEST])
        entries = manifest["files"]
        old, new = dice.choice(list(entries)), dice.choice((*NAMES, str(self.outside / "secret"), "../secret"))
        entries[dice.choice(("", "source/", "kernels/")) + new] = (
            entries.pop(old) if dice.random() < 0.5 else entries[old]
        )
        return {**files, MANIFEST: signed(manifest)}

    def source_resealed(self, files: Files, dice: random.Random) -> Files:
        """The folder's own copy of the user's source does harm, or another function of it is named."""
        sources = [name for name in files if name.startswith("source/")]
        if not sources or dice.random() < 0.3:
            evil = f"import os\nos.system('touch {self.mark}')\n".encode()
            written = json.loads(files["controller.json"])
            written["task"]["source"] = {"file": "evil.py", "name": "task"}
            return sealed({**files, "source/evil.py": evil, "controller.json": json.dumps(written).encode()})
        name = dice.choice(sources)
        harm = f"\nimport os\nos.system('touch {self.mark}')\n".encode()
        return sealed({**files, name: files[name] + harm})


def disturb(folder: Path, kind: str, outside: Path, dice: random.Random) -> None:
    """Links, folders and pipes in the place of files; the linked files have the right contents."""
    if kind != "linked_as_is":
        return
    victim = dice.choice([path for path in folder.rglob("*") if path.is_file() or path.parent == folder])
    copy = outside / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    shutil.move(victim, copy / victim.name)
    what = dice.randrange(4)
    if what == 0:
        victim.mkdir()
    elif what == 1:
        os.mkfifo(victim)
    elif what == 2:
        victim.symlink_to("/dev/zero")
    else:
        victim.symlink_to(copy / victim.name)


# ---- cases -----------------------------------------------------------------------------------------------------------
def exports(work: Path) -> list[tuple[Files, str | None]]:
    """Exported controllers to start from, and the source that their load names."""
    own = work / "user"
    own.mkdir()
    (own / "my_robot.py").write_text(SOURCE)
    (own / "fuzz_helper.py").write_text("def damped(v):\n    return 0.99 * v\n")
    source = f"{own / 'my_robot.py'}:task"
    task, planners = mpcrl.make_task, mpcrl.planners
    made = []
    for problem, planner, where, more in (
        (task("pendulum-swingup"), planners.icem(budget=32, horizon=12), None, {"rate_limit": 5.0}),
        (task("lqr"), planners.ilqr(horizon=8), None, {}),
        (task("cartpole-swingup"), planners.kmppi(budget=16, horizon=10), None, {"controls_per_plan": 2}),
        (task(source), planners.mppi(budget=16, horizon=10), source, {"safe_control": [0.5]}),
        (task(source), planners.dial(budget=16, horizon=10), source, {}),
    ):
        controller = mpcrl.Controller(problem, planner, threads=1, **more)
        files = (own / "fuzz_helper.py",) if where else ()
        folder = mpcrl.export(controller, work / "export", source=where, files=files)
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        found["kernels/propose.propose_block-0.py311.nbi"] = b"as good as any: never read unless trusted"
        made.append((sealed(found), where))
        mpcrl.load(folder, source=where)
    return made


def fuzz(cases: int, seed: int, work: Path) -> list[dict[str, Any]]:
    """Rows of the table, one per kind of change."""
    outside, folder, mark = work / "outside", work / "case", work / "mark"
    outside.mkdir()
    (work / "secret").write_text("not of the export")
    (outside / "secret").write_text("not of the export")
    made = exports(work)
    changes = Changes(mark, outside)
    kinds: dict[str, Callable[[Files, random.Random], Files]] = {
        name: getattr(changes, name) for name in dir(changes) if name.endswith(("_as_is", "_resealed"))
    }
    for configuration in _KINDS.values():
        annotations_of(configuration)  # evaluates the text of the classes' own annotations
    watch = Watch({str(work / "user" / "my_robot.py"), str(work / "user" / "fuzz_helper.py")})
    rows = {kind: collections.Counter() for kind in kinds}  # type: ignore[var-annotated]
    errors: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    slowest = dict.fromkeys(kinds, 0.0)
    for case in range(-200, cases):  # the first ones find what is imported on first use, and do not count
        dice = random.Random(f"{seed} {case}")
        kind = list(kinds)[case % len(kinds)]
        files, source = dice.choice(made)
        changed = kinds[kind](files, dice)
        shutil.rmtree(folder, ignore_errors=True)
        for name, data in changed.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        disturb(folder, kind, outside, dice)
        named = source if dice.random() < 0.9 else None
        watch.seen.clear()
        begin = time.perf_counter()
        watch.on = True
        try:
            mpcrl.load(folder, source=named)
            outcome = "loaded"
        except mpcrl.MpcrlError as error:
            outcome, name = "typed", type(error).__name__
        except Exception as error:  # noqa: BLE001 - that there is none is what is counted
            outcome, name = "untyped", type(error).__name__
            print(f"case {case}, {kind}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            watch.on = False
        seconds = time.perf_counter() - begin
        ran = bool(watch.seen) or mark.exists()
        mark.unlink(missing_ok=True)
        if case < 0:
            continue
        if ran:
            print(f"case {case}, {kind}: {watch.seen[:3] or 'left a mark'}", file=sys.stderr)
        rows[kind].update({"cases": 1, outcome: 1, "executed": int(ran)})
        if outcome != "loaded":
            errors[kind][name] += 1
        slowest[kind] = max(slowest[kind], seconds)
    return [
        {
            "change": kind.replace("_", " ", 1).replace("_", " "),
            **{name: rows[kind][name] for name in ("cases", "typed", "loaded", "untyped", "executed")},
            "errors": " ".join(f"{name}={count}" for name, count in errors[kind].most_common()),
            "slowest_ms": round(1e3 * slowest[kind], 1),
        }
        for kind in kinds
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as work:
        rows = fuzz(arguments.cases, arguments.seed, Path(work).resolve())
    total = {name: sum(row[name] for row in rows) for name in ("cases", "typed", "loaded", "untyped", "executed")}
    rows.append({"change": "all", **total, "errors": "", "slowest_ms": max(row["slowest_ms"] for row in rows)})
    more = {"seed": arguments.seed, "mpcrl": mpcrl.__version__, "machine": processor(), "date": datetime.date.today()}
    for row in rows:
        print("  ".join(f"{row[name]!s:>{width}}" for name, width in zip(row, (18, 6, 6, 6, 7, 8, 45, 9), strict=True)))
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *more], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **more} for row in rows)
    return 1 if total["untyped"] or total["executed"] else 0


if __name__ == "__main__":
    sys.exit(main())
