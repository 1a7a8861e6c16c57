"""Many MuJoCo simulations from one state: the seam between `models.MuJoCo` and the engine.

Three ways to run them give the same bits. `BatchPhysics` uses `mujoco.batch` (MuJoCo 3.17 and later), `RolloutPhysics`
its predecessor `mujoco.rollout`, which records the state and sensors only. `SteppedPhysics` is a loop over mj_step; it
can do everything, at up to 1.5 times the time.

MuJoCo answers a NaN or an explosion with a warning, a reset to the model's initial pose and finite numbers. What gives
it away is time, which stops or jumps back: see `_healthy_controls`. One physics step beyond the horizon is simulated,
so that a bad last state is found as well.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mpcrl.core.errors import InvalidInput, missing
from mpcrl.tasks.mujoco_task import BODY_FORCES

try:
    import mujoco as mujoco  # handed on: `models.mujoco` takes it from here
    import mujoco.rollout
except ImportError as error:
    raise missing("mujoco", "mujoco") from error
try:
    from mujoco import batch
except ImportError:
    batch = None

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_FULL, _USER = mujoco.mjtState.mjSTATE_FULLPHYSICS, mujoco.mjtState.mjSTATE_USER
_INPUTS = {"ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat", "userdata"}
_IN_STATE = {"qpos", "qvel", "act", "qacc_warmstart", "plugin_state", *_INPUTS}
_ROLLOUT_RECORDS = {"qpos", "qvel", "act", "sensordata"}

Apply = Callable[[Any, Any, np.ndarray], None]
"""`apply(model, data, u)`: how a control reaches the simulation where it is not `data.ctrl`."""


class Trajectories(NamedTuple):
    """Recorded fields of R = scenarios x N simulations, scenario by scenario; they last until the next call.

    Attributes
    ----------
    before : tuple of ndarray [P, ...]
        Each field at the start.
    after : tuple of ndarray [R, S, ...]
        Each field after physics steps.
    first : tuple of int
        Where in S each field's record after the first control is; that after the next one is `stride` further on.
    stride : int
    healthy : ndarray [R] int64
        Control steps until the simulation failed; H if it did not.
    """

    before: tuple[np.ndarray, ...]
    after: tuple[np.ndarray, ...]
    first: tuple[int, ...]
    stride: int
    healthy: np.ndarray


@dataclass(frozen=True)
class Recording:
    """What to simulate and to record.

    Attributes
    ----------
    models : tuple of MjModel
        One per scenario, as `planning_model` makes them.
    frame_skip : int
        Physics steps per control.
    fields : tuple of str
    shifts : tuple of int
        Per field, how many physics steps after its state it is recorded: 1 for derived fields that must be current,
        since mj_step computes what belongs to a state at the beginning of the next step.
    size : int
        Numbers in one record of all fields.
    apply : callable or None
        See `Apply`; None writes `data.ctrl`.
    """

    models: tuple[Any, ...]
    frame_skip: int
    fields: tuple[str, ...]
    shifts: tuple[int, ...]
    size: int
    apply: Apply | None = None

    @classmethod
    def of(
        cls, models: Sequence[Any], frame_skip: int, fields: Sequence[str], current: bool, apply: Apply | None = None
    ) -> Recording:
        """Copies of the models, and the fields checked against them."""
        planning = tuple(planning_model(model, fields) for model in models)
        with quiet():
            shifts = tuple(int(_stage(planning[0], name) == "velocity" and current) for name in fields)
        data = mujoco.MjData(planning[0])
        size = sum(getattr(data, name).size for name in fields)
        return cls(planning, frame_skip, tuple(fields), shifts, size, apply)

    @property
    def body_forces(self) -> bool:
        """Whether mj_rnePostConstraint has to run for what is recorded."""
        return not BODY_FORCES.isdisjoint(self.fields)


class Physics(Protocol):
    """One way to run simulations."""

    def simulate(self, state: np.ndarray, controls: np.ndarray, threads: int) -> Trajectories:
        """Simulate controls [N, H, nu] from a state [nstate] under every scenario."""
        ...


def physics_for(recording: Recording) -> Physics:
    """The fastest way that can do it on the installed MuJoCo."""
    # Runge-Kutta leaves derived fields of an intermediate stage behind, sensors apart: the next step's are no help.
    runge_kutta = any(model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4 for model in recording.models)
    shifts = dict(zip(recording.fields, recording.shifts, strict=True))
    shifted = any(shift for name, shift in shifts.items() if name != "sensordata")
    if recording.apply is not None or recording.body_forces or (runge_kutta and shifted):
        return SteppedPhysics(recording)
    if batch is not None:
        return BatchPhysics(recording)
    return RolloutPhysics(recording) if _ROLLOUT_RECORDS.issuperset(recording.fields) else SteppedPhysics(recording)


def planning_model(model: Any, fields: Sequence[str]) -> Any:
    """A copy that leaves out work which no trajectory depends on: the same bits, 4 to 10 % sooner."""
    model = copy.copy(model)
    if "sensordata" not in fields:
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR.value
    if "energy" not in fields:
        model.opt.enableflags &= ~mujoco.mjtEnableBit.mjENBL_ENERGY.value
    if model.ntree <= 1:  # the only island that there can be is the whole
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND.value
    return model


def state_size(model: Any) -> int:
    """Numbers in a state: mjSTATE_INTEGRATION."""
    return int(mujoco.mj_stateSize(model, STATE))


class _Simulations:
    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._data = [mujoco.MjData(model) for model in recording.models]
        self._buffers: dict[str, np.ndarray] = {}
        self._started: tuple[bytes, tuple[np.ndarray, ...]] = b"", ()

    def _buffer(self, name: str, *shape: int) -> np.ndarray:
        """Memory that later calls use again: fresh pages cost more than writing to them."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size)
        return self._buffers[name][:size].reshape(shape)

    def _start(self, state: np.ndarray) -> tuple[np.ndarray, ...]:
        """The fields at the start [P, ...] under each scenario; all iterations of a plan start from the same state."""
        key = state.tobytes()
        if key == self._started[0]:
            return self._started[1]
        with quiet():
            for model, data in zip(self._recording.models, self._data, strict=True):
                mujoco.mj_setState(model, data, state, STATE)
                mujoco.mj_forward(model, data)
                if self._recording.body_forces:
                    mujoco.mj_rnePostConstraint(model, data)
        before = tuple(np.stack([getattr(data, name) for data in self._data]) for name in self._recording.fields)
        self._started = key, before
        return before

    def _held(self, controls: np.ndarray) -> np.ndarray:
        """Controls [P, N, S, nu] of each physics step; the last one is held for the step beyond the horizon."""
        count, horizon, nu = controls.shape
        skip = self._recording.frame_skip
        held = self._buffer("controls", len(self._recording.models), count, horizon * skip + 1, nu)
        held[:, :, :-1].reshape(-1, count, horizon, skip, nu)[...] = controls[:, :, None]
        held[:, :, -1] = controls[:, -1]
        return held

    def _trajectories(
        self, before: tuple[np.ndarray, ...], after: dict[Any, np.ndarray], times: np.ndarray, start: float
    ) -> Trajectories:
        recording = self._recording
        model, skip = recording.models[0], recording.frame_skip
        for name, shift in zip(recording.fields, recording.shifts, strict=True):
            if name == "sensordata" and shift:
                late = _acceleration_columns(model)  # these follow from the control before, not from the next one
                after[name][:, 1:, late] = after[name][:, :-1, late]
        steps = np.repeat([m.opt.timestep for m in recording.models], times.shape[0] // len(recording.models))
        return Trajectories(
            before,
            tuple(after[name] for name in recording.fields),
            tuple(skip - 1 + shift for shift in recording.shifts),
            skip,
            _healthy_controls(times, start, steps, skip),
        )


class BatchPhysics(_Simulations):
    """`mujoco.batch`: one native call for all, any field."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        self._batch: Any = None
        self._shape = (0, 0)

    def _prepare(self, count: int, threads: int) -> np.ndarray | None:
        """Make room for `count` simulations per scenario; which rows of the batch to use, None for all."""
        models = self._recording.models
        room, of_threads = self._shape
        if count > room or threads != of_threads:
            room = max(room, count)
            self._batch = batch.Batch(models[0], len(models) * room, threads)
            if len(models) > 1:
                self._batch.set_models([model for model in models for _ in range(room)])
            self._shape = room, threads
        return None if count == room else (np.arange(len(models))[:, None] * room + np.arange(count)).ravel()

    def simulate(self, state: np.ndarray, controls: np.ndarray, threads: int) -> Trajectories:
        count, horizon, nu = controls.shape
        recording, ids = self._recording, self._prepare(count, threads)
        rows, steps = len(recording.models) * count, horizon * recording.frame_skip + 1
        before = self._start(state)
        time = mujoco.mjtState.mjSTATE_TIME
        out: dict[Any, np.ndarray] = {time: self._buffer("time", rows, steps, 1)}
        for name, first in zip(recording.fields, before, strict=True):
            out[name] = self._buffer(name, rows, steps, *first.shape[1:])
        self._batch.state[:] = state
        # A counter that is already up hides the next warning, since the reset after a warning starts it anew.
        self._batch.warning[:] = 0
        with quiet():
            try:
                held = self._held(controls).reshape(rows, steps, nu)
                self._batch.rollout(steps, held, record=tuple(out), ids=ids, out=out)
            except batch.SimulationError as failure:
                failed = failure.ids if ids is None else np.searchsorted(ids, failure.ids)
                out[time][failed] = np.nan
        times = out.pop(time)[..., 0]
        return self._trajectories(before, out, times, self._data[0].time)


class RolloutPhysics(_Simulations):
    """`mujoco.rollout`: one native call, but state and sensors only; an error of the engine ends the process."""

    def simulate(self, state: np.ndarray, controls: np.ndarray, threads: int) -> Trajectories:
        count, horizon, nu = controls.shape
        recording = self._recording
        model, rows, steps = recording.models[0], len(recording.models) * count, horizon * recording.frame_skip + 1
        before = self._start(state)
        start, inputs = np.empty(mujoco.mj_stateSize(model, _FULL)), np.empty(mujoco.mj_stateSize(model, _USER))
        mujoco.mj_getState(model, self._data[0], start, _FULL)
        mujoco.mj_getState(model, self._data[0], inputs, _USER)
        # Inputs that are not listed would fall back to the model's: mocap poses, applied forces, switched equalities.
        held = self._buffer("inputs", rows, steps, inputs.size)
        held[...] = inputs
        held[..., :nu] = self._held(controls).reshape(rows, steps, nu)
        workers = [copy.copy(self._data[0]) for _ in range(threads)]
        with quiet(), mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0) as pool:
            states, sensordata = pool.rollout(
                [m for m in recording.models for _ in range(count)],
                workers,
                np.tile(start, (rows, 1)),
                held,
                control_spec=_USER.value,
                initial_warmstart=np.tile(self._data[0].qacc_warmstart, (rows, 1)),
            )
        after, offset = {"sensordata": sensordata}, 1
        for name, width in (("qpos", model.nq), ("qvel", model.nv), ("act", model.na)):
            after[name] = np.ascontiguousarray(states[..., offset : offset + width])
            offset += width
        return self._trajectories(before, after, states[..., 0], start[0])


class SteppedPhysics(_Simulations):
    """A loop over mj_step: any field, any MuJoCo."""

    def simulate(self, state: np.ndarray, controls: np.ndarray, threads: int) -> Trajectories:
        count, horizon, _ = controls.shape
        recording = self._recording
        before = self._start(state)
        after = tuple(
            self._buffer(name, len(recording.models) * count, horizon, *first.shape[1:])
            for name, first in zip(recording.fields, before, strict=True)
        )
        healthy = np.full(len(recording.models) * count, horizon)

        def work(worker: int) -> None:
            for scenario, model in enumerate(recording.models):
                data = mujoco.MjData(model)
                for sample in range(worker, count, threads):
                    row = scenario * count + sample
                    for step in stepped(recording, model, data, state, controls[sample], recorded=True):
                        if isinstance(step, Failure):
                            healthy[row] = step.control
                            break
                        for name, records in zip(recording.fields, after, strict=True):
                            records[row, step] = getattr(data, name)

        with quiet(), ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        return Trajectories(before, after, (0,) * len(after), 1, healthy)


class Failure(NamedTuple):
    """A simulation failed in or just before this control step."""

    control: int


def stepped(
    recording: Recording, model: Any, data: Any, state: np.ndarray, controls: np.ndarray, recorded: bool
) -> Iterator[int | Failure]:
    """Apply controls [H, nu] from a state to `data`; yields h after control h, and a Failure where there is one.

    With `recorded`, the recording's fields are then there to read in `data`; else only the state is.
    """
    mujoco.mj_resetData(model, data)
    mujoco.mj_setState(model, data, state, STATE)
    if recording.apply is not None:  # it may read derived fields; the solver must start where it would have
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, STATE)
    start, steps, horizon = data.time, 0, len(controls)
    for h in range(horizon + 1):
        if recording.apply is None:
            data.ctrl[:] = controls[min(h, horizon - 1)]
        else:
            recording.apply(model, data, controls[min(h, horizon - 1)])
        more = recording.frame_skip if h < horizon else 1
        try:
            mujoco.mj_step(model, data, more)
        except mujoco.FatalError:
            yield Failure(h)
            return
        steps += more
        if data.warning.number.any():
            reset = abs(data.time - start - steps * model.opt.timestep) > model.opt.timestep / 2
            yield Failure(max(h - reset, 0))  # a reset says that the state was bad before this control
            return
        if h < horizon:
            # In this order: mj_step1 finds the contacts anew, and to those no force belongs yet.
            if recorded and recording.body_forces:
                mujoco.mj_rnePostConstraint(model, data)
            if recorded and any(recording.shifts):
                mujoco.mj_step1(model, data)
            yield h


def _healthy_controls(times: np.ndarray, start: float, timesteps: np.ndarray, frame_skip: int) -> np.ndarray:
    """Control steps [R] before a simulation failed, from the time [R, S] after each physics step.

    A failed simulation stops, after a reset or without one; so the last physics step at the right time is not trusted.
    """
    expected = start + timesteps[:, None] * np.arange(1, times.shape[1] + 1)
    right = (np.abs(times - expected) < timesteps[:, None] / 2).sum(axis=1)
    return np.maximum(right - 1, 0) // frame_skip


def _stage(model: Any, name: str) -> str:
    """Whether mj_step computes a field before it knows the control ("velocity"), or after; "state" for the rest."""
    data = mujoco.MjData(model)
    field = getattr(data, name, None)
    if not isinstance(field, np.ndarray) or field.dtype != np.float64 or field.size == 0:
        near = difflib.get_close_matches(name, [n for n in dir(data) if isinstance(getattr(data, n), np.ndarray)])
        hint = f"; did you mean {' or '.join(near)}?" if near else ", such as qpos, xpos or sensordata"
        raise InvalidInput(f"fields must be arrays of numbers in MjData that this model has, got {name!r}{hint}")
    if name in _IN_STATE:
        return "state"
    stages = (
        ("velocity", mujoco.mj_step1),
        ("acceleration", mujoco.mj_step),
        ("acceleration", mujoco.mj_rnePostConstraint),
    )
    for stage, step in stages:
        field[...] = np.nan
        step(model, data)
        if not np.isnan(field).all():
            return stage
    raise InvalidInput(
        f"fields: mj_step does not compute {name!r} in this model; add a sensor for it and record sensordata"
    )


def _acceleration_columns(model: Any) -> np.ndarray:
    """Which of sensordata depend on accelerations, and so on the control."""
    late = model.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC
    return np.flatnonzero(np.repeat(late, model.sensor_dim))


_loud: Any = None
_planning = 0
_lock = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning about a failed sample reaches the screen, or a log file in the working directory: it is counted."""
    global _loud, _planning
    with _lock:
        _planning += 1
        if _planning == 1:
            _loud = mujoco.get_mju_user_warning()
            mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        with _lock:
            _planning -= 1
            if _planning == 0:
                mujoco.set_mju_user_warning(_loud)
