"""Dynamics and cost as the user's own functions, compiled so that each SIMD lane runs one trajectory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mpcrl.core import lanes
from mpcrl.core.candidates import Candidates, Recipe
from mpcrl.core.checks import finite_vector
from mpcrl.core.compile import load_module
from mpcrl.core.errors import InvalidInput
from mpcrl.core.random import LANES
from mpcrl.core.threads import ThreadBudget
from mpcrl.models.local import LocalModel
from mpcrl.models.risk import Mean, Risk
from mpcrl.tasks.task import AnalyticTask

_NO_RECIPE = Recipe(
    mean=np.zeros((0, 0)),
    scale=np.zeros((0, 0)),
    fixed=np.zeros((0, 0, 0)),
    colour=np.zeros((0, 0), np.float32),
    basis=np.zeros((0, 0)),
    offset=np.zeros((0, 0)),
    table=np.zeros(0, np.float32),
    theta_bounds=np.zeros((2, 0, 0)),
    bounds=np.zeros((4, 0)),
    log_sigma=0.0,
    seed=np.uint64(0),
    plan=0,
    iteration=0,
)


class Analytic:
    """The model of an `AnalyticTask`: its own `step`, `cost`, `terminal` and `terminated`.

    Parameters
    ----------
    task : AnalyticTask
    dtype : float32 or float64
        Of states, controls and costs in the lanes. float64 has half the lanes of float32.
    scenarios : sequence of params, or function of params that gives one, optional
        Domain randomisation: each candidate is rolled out under every one of them.
    risk : Risk
        Folds the costs of a candidate over the scenarios; their mean if not given.

    Raises
    ------
    LaneError
        Where a function cannot run in lanes: names its file and line.
    InvalidInput
        Where a function raises, or returns a wrong number of values, when it is called as plain Python.
    """

    def __init__(
        self,
        task: AnalyticTask,
        *,
        dtype: np.typing.DTypeLike = np.float32,
        scenarios: Sequence[Any] | Callable[[Any], Sequence[Any]] | None = None,
        risk: Risk | None = None,
    ) -> None:
        self.task, self.nx, self.dt, self.dtype = task, task.nx, task.dt, np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise InvalidInput(f"dtype must be float32 or float64, got {self.dtype}")
        self._fields = lanes.fields_of(task.params)
        self._arrays = [i for i, f in enumerate(self._fields) if f.shape is not None]
        self._seen: tuple[Any, tuple[Any, ...]] = (None, ())
        self._scenarios, self._risk = scenarios, risk or Mean()
        self.as_task = scenarios is None and risk is None
        """Whether task and dtype say all about it."""
        self._pace = 0.0  # seconds of one thread per block and control step
        self._terms = check_by_calling(task)
        self._kernels = load_module(_source(task, self.dtype, self._fields, self._terms), "rollout")

    def costs(
        self, state: np.ndarray, candidates: Candidates, t: int, params: Any, threads: ThreadBudget
    ) -> np.ndarray:
        """Cost of each candidate [N]; see `Model.costs`."""
        sets = [self._coerced(scenario) for scenario in self._sets_of(params)]
        if not self._pace:
            self._calibrate(state, candidates, t, sets[0])
        work = candidates.controls.shape[0] * candidates.horizon
        with threads.for_work(work * self._pace).kernels():
            folded = [self._costs(state, candidates, t, values) for values in sets]
        return folded[0] if len(folded) == 1 else self._risk(np.array(folded))

    def _coerced(self, params: Any) -> tuple[Any, ...]:
        """The values of params for the kernels; of a NamedTuple seen last time only arrays can have changed."""
        seen, known = self._seen  # read once: other threads may plan with this model and other params
        if params is not seen:
            known = lanes.coerce(params, self._fields, self.dtype)
            self._seen = params, known
        elif self._arrays:
            values = list(known)
            for i in self._arrays:
                values[i] = lanes.coerce_field(self._fields[i], params[i], self.dtype)
            return tuple(values)
        return known

    def _costs(self, state: np.ndarray, candidates: Candidates, t: int, values: tuple[Any, ...]) -> np.ndarray:
        """Costs under one set of coerced params; candidates not yet drawn are drawn by the same kernel."""
        out = np.full(candidates.controls.shape[0] * LANES, np.inf)  # what a kernel does not reach must not look cheap
        recipe = candidates.recipe
        self._kernels.costs(
            recipe is not None,
            candidates.controls,
            candidates.decisions,
            *(recipe or _NO_RECIPE),
            state,
            t,
            out,
            *values,
        )
        candidates.mark_drawn()
        return out[: candidates.count]

    def _calibrate(self, state: np.ndarray, candidates: Candidates, t: int, values: tuple[Any, ...]) -> None:
        """Compile or load the kernel, then measure on one thread what a block costs per control step."""
        recipe = candidates.recipe
        with ThreadBudget(1).kernels():
            self._costs(state, candidates, t, values)
            candidates.recipe = recipe
            begin = time.perf_counter()
            self._costs(state, candidates, t, values)
            candidates.recipe = recipe
        work = candidates.controls.shape[0] * candidates.horizon
        self._pace = (time.perf_counter() - begin) / work

    def rollout(self, state: np.ndarray, controls: np.ndarray, t: int, params: Any) -> np.ndarray:
        """Predicted states [N, H+1, nx] of controls [N, H, nu], under the first scenario."""
        candidates = Candidates.from_rows(controls, self.dtype)
        states = np.empty((candidates.controls.shape[0] * LANES, candidates.horizon + 1, self.task.nx))
        state = finite_vector("state", state, self.task.nx)
        values = lanes.coerce(self._sets_of(params)[0], self._fields, self.dtype)
        with ThreadBudget.of(1 if len(states) == LANES else None).kernels():  # a block is one thread's work
            self._kernels.rollout(candidates.controls, state, t, states, *values)
        return states[: candidates.count]

    def terms(self, state: np.ndarray, control: np.ndarray, t: int, params: Any) -> dict[str, float]:
        """Terms of the stage cost; see `Model.terms`."""
        value = self.task.cost(tuple(map(float, state)), tuple(map(float, control)), t, params)
        if hasattr(value, "_asdict"):
            return {name: float(term) for name, term in value._asdict().items()}
        return {"cost": float(value)}

    @cached_property
    def local(self) -> LocalModel:
        """Derivatives and rollouts under feedback, in float64, for gradient planners."""
        if self._scenarios is not None:
            raise InvalidInput(
                "a gradient planner plans for one set of params, but this model has scenarios; "
                "build it without them, or use a sampling planner"
            )
        return LocalModel(self.task, self._terms)

    def example_state(self) -> np.ndarray:
        """A state of the task's reset."""
        return finite_vector("reset's state", self.task.reset(np.random.default_rng(0)), self.nx)

    def _sets_of(self, params: Any) -> Sequence[Any]:
        if self._scenarios is None:
            return (params,)
        sets = self._scenarios(params) if callable(self._scenarios) else self._scenarios
        if not len(sets):
            raise InvalidInput("scenarios must hold at least one set of params, got none")
        return sets


def check_by_calling(task: AnalyticTask) -> int:
    """Call the user's functions once as plain Python; the number of terms that the cost has (0: one number)."""

    def called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise InvalidInput(
                f"task {task.name!r}: {name} raised {type(error).__name__} for the state {x}: {error}"
            ) from error

    state = finite_vector(f"task {task.name!r}: reset's state", task.reset(np.random.default_rng(0)), task.nx)
    x = tuple(map(float, state))
    u = tuple(map(float, (task.control_low + task.control_high) / 2))
    y = called("step", task.step, x, u, task.params)
    if not (isinstance(y, tuple) and len(y) == task.nx):
        raise InvalidInput(f"task {task.name!r}: step must return a tuple of {task.nx} states, got {y!r}")
    c = called("cost", task.cost, x, u, 0, task.params)
    values = c if isinstance(c, tuple) else (c,)
    if task.terminal is not None:
        values += (called("terminal", task.terminal, x, task.params),)
    if not all(isinstance(v, int | float | np.number) for v in values):
        raise InvalidInput(f"task {task.name!r}: cost and terminal must return numbers, got {values!r}")
    if task.terminated is not None:
        called("terminated", task.terminated, x, task.params)
    return len(c) if isinstance(c, tuple) else 0


def _source(task: AnalyticTask, dtype: np.dtype, fields: tuple[lanes.Field, ...], terms: int) -> str:
    """Source of the kernels `costs` and `rollout` for one task.

    The innermost loop runs over the lanes of a block and has the user's functions inlined, so that LLVM puts one
    trajectory into each SIMD lane. The state lives on the stack, one array per state variable. A trajectory that has
    ended stays where it ended and costs nothing more, whatever its functions say beyond.
    """
    program = lanes.LaneProgram(dtype, fields)
    step = program.add(task.step, ("float", "float", "params"))
    cost = program.add(task.cost, ("float", "float", "index", "params"))
    terminal = task.terminal and program.add(task.terminal, ("float", "params"))
    terminated = task.terminated and program.add(task.terminated, ("float", "params"))
    nx, nu, p = task.nx, task.nu, program.arguments
    state = "(" + "".join(f"s{i}[l], " for i in range(nx)) + ")"
    control = "(" + "".join(f"controls[block, t, {j}, l], " for j in range(nu)) + ")"
    going = "alive[l] > lane_float(0)"

    def while_going(value: str, otherwise: str) -> str:
        return f"lane_select({going}, lane_float({value}), {otherwise})" if terminated else f"lane_float({value})"

    stored = "; ".join(f"s{i}[l] = " + while_going(f"y[{i}]", f"s{i}[l]") for i in range(nx))
    stage = program.call(cost, "x", "u", "np.int32(t0 + t)")
    if terms:
        stage = f"sum_of_terms({stage})"
    drawn = ", ".join(Recipe._fields)
    stop = f"; alive[l] = lane_select({program.call(terminated, state)}, lane_float(0), alive[l])" if terminated else ""
    last = "total[l] + " + while_going(program.call(terminal, state), "lane_float(0)") if terminal else "total[l]"
    finite = " + ".join(f"(s{i}[l] - s{i}[l])" for i in range(nx))
    arrays = [*(f"s{i}" for i in range(nx)), "total", "alive"]
    allocated = "; ".join(f"{a} = carray(stack({LANES}), ({LANES},))" for a in arrays)
    started = "; ".join(f"s{i}[l] = lane_float(x0[{i}])" for i in range(nx))
    return f"""{program.text()}
from numba import carray, prange
from mpcrl.core.intrinsics import allow_gathers, stack_{dtype.name} as stack
from mpcrl.kernels.propose import propose_block


@inlined
def sum_of_terms(c):
    return {" + ".join(f"c[{i}]" for i in range(terms)) or "c"}


@kernel(parallel=True)
def costs(draw, controls, decisions, {drawn}, x0, t0, out{p}):
    for block in prange(controls.shape[0]):
        allow_gathers()
        if draw:
            propose_block(np.int64(block), controls, decisions, {drawn})
        {allocated}
        for l in range({LANES}):
            {started}; total[l] = lane_float(0); alive[l] = lane_float(1)
        for t in range(controls.shape[1]):
            for l in range({LANES}):
                x = {state}
                u = {control}
                total[l] += {while_going(stage, "lane_float(0)")}
                y = {program.call(step, "x", "u")}
                {stored}{stop}
        for l in range({LANES}):
            whole = {last}
            out[block * {LANES} + l] = whole if np.isfinite(whole + ({finite})) else np.inf


@kernel(parallel=True)
def rollout(controls, x0, t0, states{p}):
    for block in prange(controls.shape[0]):
        for l in range({LANES}):
            n = block * {LANES} + l
            x = ({"".join(f"lane_float(x0[{i}]), " for i in range(nx))})
            {"; ".join(f"states[n, 0, {i}] = x[{i}]" for i in range(nx))}
            for t in range(controls.shape[1]):
                y = {program.call(step, "x", control)}
                x = ({"".join(f"lane_float(y[{i}]), " for i in range(nx))})
                {"; ".join(f"states[n, t + 1, {i}] = x[{i}]" for i in range(nx))}
"""
