"""A task's functions as hooks of learned models' rollouts: compiled once, called by address for tiles of particles."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mpcrl.core import lanes
from mpcrl.core.compile import load_module
from mpcrl.core.hooks import address_of
from mpcrl.core.random import LANES
from mpcrl.kernels.ensemble import HOOK, Hooks
from mpcrl.models import scalar
from mpcrl.models.analytic import check_by_calling
from mpcrl.tasks.features import Features
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask


class TaskHooks(NamedTuple):
    """A task's functions as hooks of the kernel.

    Attributes
    ----------
    module : module
        Defines `stage`, `after` and `last`; see `kernels.ensemble.Hooks`.
    coerce : callable
        From params to the vector that the hooks read them from.
    """

    module: Any
    coerce: Callable[[Any], np.ndarray]

    def hooks(self, forward: int) -> Hooks:
        """Their addresses; this compiles or loads them."""
        return Hooks(forward, *(address_of(getattr(self.module, name), *HOOK) for name in ("stage", "after", "last")))


def hooks_of(
    task: AnalyticTask | MujocoTask, features: Features, *, learned_cost: bool = False, learned_end: bool = False
) -> TaskHooks:
    """The hooks of a task, but for what a model has learned of it."""
    if isinstance(task, AnalyticTask):
        return _in_lanes(task, learned_cost, learned_end)
    return _of_records(task, features, learned_cost, learned_end)


def _hook(name: str, nx: int, nu: int, begin: str, body: str) -> str:
    """Source of a hook: arrays of the pointers that it is given, then the statements."""
    return f"""
@kernel
def {name}(x_at, old_at, controls_at, total_at, alive_at, scratch_at, p_at, lanes, offset, t):
    x, old = carray(x_at, ({nx}, lanes)), carray(old_at, ({nx}, lanes))
    controls, total, alive = carray(controls_at, ({nu}, {LANES})), carray(total_at, lanes), carray(alive_at, lanes)
    scratch = carray(scratch_at, (3, {max(nx, nu)}))
{textwrap.indent(begin, "    ")}
{textwrap.indent(body, "    ")}
    return 1

"""


def _unpacked(fields: Sequence[lanes.Field], prefix: str, kinds: Sequence[str]) -> str:
    """Statements that read the fields of params from the vector of all their numbers; `kinds` convert a number."""
    lines, at = [], 0
    for field, kind in zip(fields, kinds, strict=True):
        size = 1 if field.shape is None else int(np.prod(field.shape))
        array = f"carray(p_at, {at + size})[{at}:].reshape({field.shape})"
        lines.append(f"{prefix}{field.name} = " + (kind.format(f"p_at[{at}]") if field.shape is None else array))
        at += size
    return "\n".join(lines)


def _vector(values: Sequence[Any]) -> np.ndarray:
    """All numbers of params; at least one, for there is no pointer to none."""
    return np.concatenate([np.zeros(0), *(np.ravel(value) for value in values), np.zeros(1)]).astype(np.float64)


def _in_lanes(task: AnalyticTask, learned_cost: bool, learned_end: bool) -> TaskHooks:
    """The task's functions with one candidate per lane."""
    terms = check_by_calling(task)
    fields = lanes.fields_of(task.params)
    program = lanes.LaneProgram(np.dtype(np.float32), fields)
    x = "(" + "".join(f"x[{i}, l], " for i in range(task.nx)) + ")"
    u = "(" + "".join(f"controls[{j}, offset + l], " for j in range(task.nu)) + ")"
    stage = after = last = ""
    # values go to the stack first, which LLVM knows that nothing else lies on
    paid = """for l in range(lanes):
    value[l] = lane_float({})
for l in range(lanes):
    total[l] += lane_select(alive[l] > lane_float(0), value[l], lane_float(0))"""
    if not learned_cost:
        cost = program.call(program.add(task.cost, ("float", "float", "index", "params")), x, u, "np.int32(t)")
        stage = paid.format(f"sum_of_terms({cost})" if terms else cost)
    if task.terminated and not learned_end:
        ended = program.call(program.add(task.terminated, ("float", "params")), x)
        after = f"""for l in range(lanes):
    value[l] = lane_select({ended}, lane_float(0), lane_float(1))
for l in range(lanes):
    alive[l] *= value[l]"""
    if task.terminal:
        last = paid.format(program.call(program.add(task.terminal, ("float", "params")), x))
    summed = f"""
@inlined
def sum_of_terms(c):
    return {" + ".join(f"c[{i}]" for i in range(terms)) or "c"}

"""
    begin = (
        _unpacked(fields, "lane_p_", ["lane_float({})"] * len(fields)) + f"\nvalue = carray(stack({LANES}), ({LANES},))"
    )
    hooks = "".join(
        _hook(name, task.nx, task.nu, begin if body else "", body)
        for name, body in (("stage", stage), ("after", after), ("last", last))
    )
    text = f"""{program.text()}
from numba import carray
from mpcrl.core.intrinsics import stack_float32 as stack

{summed if terms else ""}{hooks}"""
    dtype = np.dtype(np.float64)
    return TaskHooks(load_module(text, "ensemble_cost"), lambda params: _vector(lanes.coerce(params, fields, dtype)))


def _of_records(task: MujocoTask, features: Features, learned_cost: bool, learned_end: bool) -> TaskHooks:
    """The task's functions in float64 for one candidate after the other, on records that are views of its states."""
    params = scalar.ScalarParams(task.params)
    nx, nu = features.nx, features.nu
    functions: dict[str, Callable[..., Any]] = {}
    if not learned_cost:
        functions["cost"] = task.planning_cost or task.cost
    if task.terminated and not learned_end:
        functions["terminated"] = task.terminated
    if task.terminal:
        functions["terminal"] = task.terminal

    def view(row: int) -> str:
        parts = [f"scratch[{row}, {f.start}:{f.stop}].reshape({f.shape})" for f in features.fields]
        return f"Record({', '.join(parts)})"

    numbers = ["int({})" if integer else "{}" for integer in params.integers]
    begin = f"""{_unpacked(params.fields, "p_", numbers)}
p = Params({", ".join(f"p_{name}" for name in params.names)})
before, after, u = {view(0)}, {view(1)}, scratch[2, :{nu}]"""
    copied = f"""for l in range(lanes):
    if alive[l] > 0:
        for i in range({nx}):
            scratch[0, i], scratch[1, i] = old[i, l], x[i, l]
        for i in range({nu}):
            scratch[2, i] = controls[i, offset + l]"""
    after = [copied]
    if "cost" in functions:
        after.append("        total[l] += cost(before, u, after, t, p)")
    if "terminated" in functions:
        after.append("        if terminated(after, p):\n            alive[l] = 0")
    last = [copied, "        total[l] += terminal(after, p)"] if "terminal" in functions else []
    hooks = "".join(
        _hook(name, nx, nu, begin if body else "", "\n".join(body))
        for name, body in (("stage", []), ("after", after if len(after) > 1 else []), ("last", last))
    )
    text = f"""# {scalar.fingerprint(*functions.values())}
from collections import namedtuple
import numpy as np
from numba import carray
from mpcrl.core.compile import kernel

Record = namedtuple("Record", {[f.name for f in features.fields]})
Params = namedtuple("Params", {list(params.names)})

{hooks}"""
    module = load_module(text, "ensemble_cost")
    for name, function in functions.items():
        setattr(module, name, scalar.compiled(function))
    return TaskHooks(module, lambda values: _vector(params.coerce(values)))
