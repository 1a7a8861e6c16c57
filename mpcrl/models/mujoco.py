"""MuJoCo as the model: the true physics of a simulated task."""

from __future__ import annotations

import copy
import os
import re
import traceback
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

from mpcrl.core.candidates import Candidates
from mpcrl.core.checks import positive_integer
from mpcrl.core.compile import load_module
from mpcrl.core.errors import InvalidInput, LaneError
from mpcrl.core.threads import ThreadBudget
from mpcrl.models import physics, scalar
from mpcrl.models.physics import mujoco
from mpcrl.models.risk import Mean, Risk
from mpcrl.tasks.mujoco_task import MujocoTask, NoParams, control_bounds, field_names, load_model

_RECORD_BYTES = 2**26
"""Memory for recorded fields; more samples than fit are simulated one part after the other."""


_SERIAL = ThreadBudget(1)
"""For drawing candidates and judging records, a hundredth of the physics' time: a thread that took part in a parallel
kernel spins for milliseconds in wait of the next one, on a core that the physics' own threads need."""


class MuJoCo:
    """The model of a `MujocoTask`, or of any MjModel with a cost.

    A state is mjSTATE_INTEGRATION, as `MujocoTask.state` gives it: activations, mocap poses, applied forces and the
    solver's warm start included, so that predictions equal what mj_step does from there, bit for bit.

    Parameters
    ----------
    source : MujocoTask, MjModel, or path of an MJCF (XML) or MJB file
        Where it is a task, the other arguments replace what the task says.
    cost : callable
        `cost(before, u, after, t, p) -> float`; see `MujocoTask`, also for the next three. Of a task, its
        `planning_cost` where it has one.
    terminal, terminated : callable, optional
        A candidate that terminated pays no terminal cost.
    fields : sequence of str
        Arrays of MjData that the functions read; qpos and qvel if not given.
    current : bool
        Whether derived fields belong to the state after the control (the default), or are one physics step older.
    params : NamedTuple of numbers and arrays, optional
        A field annotated `int` stays an integer, so that it can index; all others become float64.
    frame_skip : int
        Physics steps per control; 1 if not given.
    coarse : bool
        Whether to plan with coarser physics than the model's, 2 to 4 times cheaper: an implicit Euler integrator in the
        place of Runge-Kutta's, or half the physics steps per control, at time steps that make up for it.
    scenarios : sequence of MjModel, optional
        Domain randomisation: each candidate is simulated under every one of them.
    risk : Risk
        Folds the costs of a candidate over the scenarios; their mean if not given.

    Attributes
    ----------
    nx, nu : int
        Lengths of a state and of a control.
    dt : float
        Seconds per control step.
    dtype : numpy dtype
        float64.

    Raises
    ------
    InvalidInput
        For a model that cannot be loaded, a field that MjData does not have or mj_step does not compute, and a cost
        that raises.
    LaneError
        For a function that Numba cannot compile, in the first call: names its file and line.

    Notes
    -----
    `before` of the first control holds derived fields of the start state itself, also without `current`.
    """

    def __init__(
        self,
        source: MujocoTask | mujoco.MjModel | str | os.PathLike[str],
        *,
        cost: Callable[..., float] | None = None,
        terminal: Callable[..., float] | None = None,
        terminated: Callable[..., bool] | None = None,
        fields: Sequence[str] | None = None,
        current: bool | None = None,
        params: Any = None,
        frame_skip: int | None = None,
        coarse: bool = False,
        scenarios: Sequence[mujoco.MjModel] | None = None,
        risk: Risk | None = None,
    ) -> None:
        task = source if isinstance(source, MujocoTask) else None
        self._cost = _chosen(cost, task and (task.planning_cost or task.cost), None)
        if self._cost is None:
            raise InvalidInput("an MjModel has no cost; give cost=function(before, u, after, t, p)")
        self._terminal = _chosen(terminal, task and task.terminal, None)
        self._terminated = _chosen(terminated, task and task.terminated, None)
        self._reported = task if task and self._cost is task.planning_cost else None
        recorded = (self._reported and self._reported.planning_fields) or (task and task.fields)
        self._names = field_names(_chosen(fields, recorded, ("qpos", "qvel")))
        self._current = bool(_chosen(current, task and task.current, True))
        self._frame_skip = positive_integer("frame_skip", _chosen(frame_skip, task and task.frame_skip, 1))
        self.task, self.coarse = task, coarse
        self._physics_steps = self._frame_skip
        self._params = _chosen(params, task and task.params, NoParams())
        self._scalars = scalar.ScalarParams(self._params)
        self._apply = task.apply if task else None
        self._bounds = (task.control_low, task.control_high) if task and task.apply else None
        self._risk = risk or Mean()
        model, self._example = _load(source)
        self.use([model] if scenarios is None else scenarios)
        given = (cost, terminal, terminated, fields, current, params, frame_skip, scenarios, risk)
        self.as_task = task is not None and all(argument is None for argument in given)
        """Whether task and `coarse` say all about it."""
        self.dtype = np.dtype(np.float64)
        self._module = load_module(self._source(), "mujoco_cost")
        for name in ("cost", "terminal", "terminated"):
            function = getattr(self, f"_{name}")
            if function is not None:
                setattr(self._module, name, scalar.compiled(function))
        self._check_by_calling()

    def use(self, models: mujoco.MjModel | Sequence[mujoco.MjModel]) -> None:
        """Plan with these models from now on: one, or one per scenario. They are copied.

        For environments that edit their model in `reset`: `model.use(task.mj_model(env))` after each.
        """
        models = [models] if isinstance(models, mujoco.MjModel) else list(models)
        if not models or not all(isinstance(model, mujoco.MjModel) for model in models):
            raise InvalidInput(f"scenarios must be one or more MjModel, got {models!r}")
        sizes = {(m.nq, m.nv, m.na, m.nu, m.nmocap, m.nbody, m.nsensordata, physics.state_size(m)) for m in models}
        if len(sizes) > 1:
            raise InvalidInput("all scenarios must have the same numbers of joints, actuators, bodies and sensors")
        self.as_task = False
        self.dt = self._frame_skip * models[0].opt.timestep
        if self.coarse:
            runge_kutta = models[0].opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
            self._physics_steps = self._frame_skip if runge_kutta else -(-self._frame_skip // 2)
            models = [self._coarser(model) for model in models]
        self._recording = physics.Recording.of(models, self._physics_steps, self._names, self._current, self._apply)
        self._physics = physics.physics_for(self._recording)
        model = self._recording.models[0]
        self.nx, self.nu = physics.state_size(model), model.nu
        if self._bounds is not None:
            self.nu = self._bounds[0].size

    def _coarser(self, model: mujoco.MjModel) -> mujoco.MjModel:
        model = copy.copy(model)
        model.opt.timestep = self.dt / self._physics_steps
        if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
            model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        return model

    @property
    def control_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds [nu] of the controls: the actuators' ctrlrange, or those of a task that applies its
        controls itself."""
        if self._bounds is not None:
            return self._bounds[0].copy(), self._bounds[1].copy()
        return control_bounds(self._recording.models[0])

    def costs(
        self, state: np.ndarray, candidates: Candidates, t: int, params: Any, threads: ThreadBudget
    ) -> np.ndarray:
        """Cost of each candidate [N]; see `Model.costs`."""
        with _SERIAL.kernels():
            rows = candidates.rows()
        state, controls = self._checked(state, rows)
        values = self._scalars.coerce(params)
        count, scenarios = controls.shape[0], len(self._recording.models)
        costs = np.full((scenarios, count), np.inf)  # what the kernel does not reach must not look cheap
        if not np.isfinite(state).all():
            return costs[0]
        numbers = scenarios * self._recording.size * (controls.shape[1] * self._physics_steps + 1)
        part = max(1, _RECORD_BYTES // (8 * numbers))
        for low in range(0, count, part):
            chunk = controls[low : low + part]
            out = np.full(scenarios * len(chunk), np.inf)
            with _SERIAL.kernels():
                try:
                    run = self._physics.simulate(state, chunk, threads.count)
                    records = [array for field in zip(run.before, run.after, run.first, strict=True) for array in field]
                    self._module.evaluate(chunk, run.healthy, int(t), out, run.stride, *records, *values)
                except mujoco.FatalError:  # the engine cannot even compute the start: all samples fail
                    break
                except NumbaError as error:
                    raise self._uncompilable(error) from error
            costs[:, low : low + part] = out.reshape(scenarios, -1)
        return costs[0] if scenarios == 1 else self._risk(costs)

    def rollout(self, state: np.ndarray, controls: np.ndarray, t: int, params: Any) -> np.ndarray:
        """Predicted states [N, H+1, nx] of controls [N, H, nu] under the first scenario; NaN after a failure."""
        state, controls = self._checked(state, np.asarray(controls))
        states = np.full((controls.shape[0], controls.shape[1] + 1, self.nx), np.nan)
        states[:, 0] = state
        model = self._recording.models[0]
        data = mujoco.MjData(model)
        with physics.quiet():
            for sample, row in zip(controls, states, strict=True):
                for h in physics.stepped(self._recording, model, data, state, sample, recorded=False):
                    if isinstance(h, physics.Failure):
                        row[h.control + 1 :] = np.nan
                    else:
                        mujoco.mj_getState(model, data, row[h + 1], physics.STATE)
        return states

    def terms(self, state: np.ndarray, control: np.ndarray, t: int, params: Any) -> dict[str, float]:
        """The cost of one control step under the first scenario as "cost"; see `Model.terms`.

        Where a task's planning cost differs from its cost, that is added as "planning cost".
        """
        state, controls = self._checked(state, np.asarray(control, np.float64)[None, None])
        costs = {"cost": (self._cost, self._names)}
        if self._reported is not None:
            costs = {"cost": (self._reported.cost, self._reported.fields), "planning cost": costs["cost"]}
        return {term: self._stage_cost(*cost, state, controls, t, params) for term, cost in costs.items()}

    def _stage_cost(
        self,
        cost: Callable[..., float],
        names: tuple[str, ...],
        state: np.ndarray,
        controls: np.ndarray,
        t: int,
        params: Any,
    ) -> float:
        """A cost that reads these fields, of one control step under the first scenario, in plain Python."""
        model, record = self._recording.models[0], namedtuple("Record", names)
        recording = physics.Recording.of([model], self._physics_steps, names, self._current, self._apply)
        try:
            run = physics.SteppedPhysics(recording).simulate(state, controls, 1)
        except mujoco.FatalError:
            return np.inf
        if not run.healthy[0]:
            return np.inf
        before, after = record(*(records[0] for records in run.before)), record(*(r[0, 0] for r in run.after))
        return float(cost(before, controls[0, 0], after, t, params))

    def example_state(self) -> np.ndarray:
        """The state [nx] after the environment's first reset, or the model's own initial state."""
        return self._example.copy()

    def _checked(self, state: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = np.ascontiguousarray(state, np.float64)
        if state.shape != (self.nx,):
            raise InvalidInput(
                f"state must be MuJoCo's mjSTATE_INTEGRATION with {self.nx} numbers, got the shape {state.shape}; "
                "take it from task.state(env) or mj_getState"
            )
        if controls.ndim != 3 or controls.shape[1] < 1 or controls.shape[2] != self.nu:
            raise InvalidInput(f"controls must have the shape [samples, horizon, {self.nu}], got {controls.shape}")
        return state, np.ascontiguousarray(controls, np.float64)

    def _source(self) -> str:
        """Source of the kernel that folds recorded fields into costs; the user's functions are its globals."""
        fields = range(len(self._names))
        records = "".join(f", before{i}, after{i}, first{i}" for i in fields)
        params = "".join(f", p_{name}" for name in self._scalars.names)
        ended = "terminated(after, p)" if self._terminated else "False"
        last = "terminal(after, p)" if self._terminal else "0.0"
        return f"""# {scalar.fingerprint(self._cost, self._terminal, self._terminated)}
from collections import namedtuple
import numpy as np
from mpcrl.core.compile import kernel

Record = namedtuple("Record", {list(self._names)})
Params = namedtuple("Params", {list(self._scalars.names)})


@kernel
def evaluate(controls, healthy, t, out, stride{records}{params}):
    count, horizon, nu = controls.shape
    for row in range(out.shape[0]):
        p = Params({params[2:]})
        scenario, sample = row // count, row % count
        before = Record({", ".join(f"before{i}[scenario]" for i in fields)})
        after = before
        total, ended = 0.0, False
        for h in range(horizon):
            if h >= healthy[row]:
                total = np.inf
                break
            u = controls[sample, h]
            for i in range(nu):
                if not np.isfinite(u[i]):
                    total = np.inf
            after = Record({", ".join(f"after{i}[row, first{i} + h * stride]" for i in fields)})
            total += cost(before, u, after, t + h, p)
            if {ended}:
                ended = True
                break
            before = after
        if not ended:
            total += {last}
        out[row] = total if np.isfinite(total) else np.inf
"""

    def _check_by_calling(self) -> None:
        """Call the user's functions once as plain Python: inside the kernel their exceptions would be lost."""
        model, data = self._recording.models[0], mujoco.MjData(self._recording.models[0])
        mujoco.mj_forward(model, data)
        record = self._module.Record(*(getattr(data, name).copy() for name in self._names))
        params = type(self._params)(*self._scalars.coerce(self._params))
        calls: list[tuple[str, Any, tuple[Any, ...]]] = [
            ("cost", self._cost, (record, np.zeros(self.nu), record, 0, params))
        ]
        calls += [("terminal", self._terminal, (record, params)), ("terminated", self._terminated, (record, params))]
        for name, function, arguments in calls:
            if function is None:
                continue
            try:
                value = function(*arguments)
            except Exception as error:
                raise InvalidInput(
                    f"{_raised_at(function, error)}: {name} raised {type(error).__name__}: {error}; "
                    f"recorded fields are {', '.join(self._names)}"
                ) from error
            if not isinstance(value, bool | int | float | np.number | np.bool_):
                raise InvalidInput(f"{scalar.where(function)}: {name} must return a number, got {value!r}")

    def _uncompilable(self, error: NumbaError) -> LaneError:
        """Numba's error with the last place in the users' files that it names."""
        text = str(error)
        places = [f"{file}:{line}" for file, line in re.findall(r'File "([^"<]+)", line (\d+)', text)]
        reason = next((line.strip() for line in text.splitlines() if line.strip() and "pipeline" not in line), "")
        return LaneError(f"{places[-1] if places else scalar.where(self._cost)}: Numba cannot compile this: {reason}")


def _chosen(given: Any, of_task: Any, default: Any) -> Any:
    return given if given is not None else of_task if of_task is not None else default


def _raised_at(function: Callable[..., Any], error: Exception) -> str:
    """The last line of the function's own file that an exception came through, or the function: bad arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == scalar.code_of(function).co_filename]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else scalar.where(function)


def _load(source: Any) -> tuple[mujoco.MjModel, np.ndarray]:
    """A copy of the model, and a state at which an episode may start."""
    if isinstance(source, MujocoTask):
        env = source.make_env()
        try:
            env.reset(seed=0)
            return copy.copy(source.mj_model(env)), source.state(env)
        finally:
            env.close()
    model = source if isinstance(source, mujoco.MjModel) else load_model(source)
    state = np.empty(physics.state_size(model))
    mujoco.mj_getState(model, mujoco.MjData(model), state, physics.STATE)
    return model, state
