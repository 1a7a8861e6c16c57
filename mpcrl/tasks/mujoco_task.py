"""Tasks whose dynamics are a MuJoCo model.

An entry is an environment, the recorded fields and the reward rewritten as a cost: time step, bounds, frame skip and
episode length are read off the environment. `gym_mujoco.py`, `dm_control/` and `robotics.py` hold those of Gymnasium,
the DeepMind Control Suite and Gymnasium-Robotics; `xml_task.py` makes one of any XML.
"""

from __future__ import annotations

import functools
import importlib
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mpcrl.core.errors import InvalidInput, missing
from mpcrl.tasks.task import Task

BODY_FORCES = {"cacc", "cfrc_int", "cfrc_ext"}
"""Fields that mj_step leaves out unless a sensor asks for them, and mj_rnePostConstraint computes."""


class NoParams(NamedTuple):
    """The parameters of a cost that has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MujocoTask(Task):
    """A problem whose dynamics MuJoCo simulates; made by `mujoco_task` or `xml_task`.

    The functions are plain scalar Python that Numba compiles in float64.

        cost(before, u, after, t, p) -> float      terminal(after, p) -> float      terminated(after, p) -> bool

    `before` and `after` are NamedTuples of the recorded fields, as arrays shaped as in MjData, at the beginning and the
    end of control step `t`; `u` is the control [nu], `p` the parameters. After `terminated` nothing more is paid.

    `cost` is minus the environment's reward, which episodes are scored by. Where that is sparse or flat, plans minimise
    a `planning_cost` instead; `terminal` belongs to plans alone.

    Attributes
    ----------
    make_env : callable
        `make_env(render_mode=None)`: a new environment of this task, with the methods of a gymnasium.Env.
    frame_skip : int
        Physics steps per control step.
    fields : tuple of str
        What is recorded of MjData, arrays of float64: qpos, qvel, xpos, sensordata, ...
    current : bool
        Whether derived fields (all but the state) in `after` belong to the state in `after`, as in dm_control. If not,
        they are one physics step older, as mj_step leaves them, and as Gymnasium's rewards see them.
    planning_cost : callable, optional
        With the arguments of `cost`, which plans minimise if not given.
    planning_fields : tuple of str, optional
        What is recorded in plans, where `cost` alone reads a field that is dear; `fields` if not given.
    read_params : callable, optional
        `read_params(model, env) -> NamedTuple`: parameters from a freshly reset environment and its MjModel: ids by
        name, sizes, masses, a goal. Each episode reads its own; `params` are then those of the first reset, and only
        shown.
    apply : callable, optional
        `apply(model, data, u)` where a control is something else than `data.ctrl`: a displaced mocap body, say. It runs
        before the physics steps of each control, in Python; derived fields are there to read.
    """

    make_env: Callable[..., Any]
    frame_skip: int
    fields: tuple[str, ...]
    current: bool
    planning_cost: Callable[..., float] | None = None
    planning_fields: tuple[str, ...] | None = None
    read_params: Callable[[Any, Any], Any] | None = None
    apply: Callable[[Any, Any, np.ndarray], None] | None = None

    @property
    def read_fields(self) -> tuple[str, ...]:
        """Of MjData, all that any of the functions reads."""
        return tuple(dict.fromkeys(self.fields + (self.planning_fields or ())))

    def mj_model(self, env: Any) -> Any:
        """The MjModel that `env` simulates, live; environments may edit it in `reset`."""
        return simulation(env)[0]

    def mj_data(self, env: Any) -> Any:
        """The MjData that `env` simulates in, live."""
        return simulation(env)[1]

    def state(self, env: Any) -> np.ndarray:
        """All that the next step of `env` depends on: mjSTATE_INTEGRATION [nstate], float64."""
        import mujoco

        model, data = simulation(env)
        state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return state

    def observation(self, env: Any, state: np.ndarray) -> np.ndarray:
        """What `env` would show of a state, by its own function: one vector, parts of a dictionary in their order.

        As a function of the state alone: derived fields belong to it, also where the environment shows older ones.
        `env` is left in that state; use one that no episode runs in.
        """
        import mujoco

        model, data = simulation(env)
        mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        inner = env.unwrapped
        if hasattr(inner, "_get_obs"):
            mujoco.mj_rnePostConstraint(model, data)
            return flat(inner._get_obs())
        return flat(inner.task.get_observation(inner.physics))  # dm_control, through shimmy

    def params_of(self, env: Any) -> Any:
        """The parameters of the episode that `env` was reset to."""
        return self.params if self.read_params is None else self.read_params(self.mj_model(env), env)


def mujoco_task(
    env_id: str,
    *,
    fields: tuple[str, ...],
    cost: Callable[..., float],
    params: Any,
    terminated: Callable[..., bool] | None = None,
    terminal: Callable[..., float] | None = None,
    planning_cost: Callable[..., float] | None = None,
    planning_fields: tuple[str, ...] | None = None,
    apply: Callable[..., None] | None = None,
    current: bool = False,
    episode_steps: int | None = None,
    preset: Mapping[str, Any],
    unseen: tuple[str, ...] = (),
) -> MujocoTask:
    """A task of an environment at Gymnasium; what is not given is read off the environment.

    Parameters
    ----------
    env_id : str
        Such as `HalfCheetah-v5`, `dm_control/cheetah-run-v0`, or `module:name-v0` for a module that registers it.
    fields, cost, terminated, terminal, planning_cost, planning_fields, apply, current, preset, unseen
        As in `MujocoTask`.
    params : NamedTuple, or callable
        A function is `MujocoTask.read_params`.
    episode_steps : int, optional
        Where the environment's registration does not tell.
    """
    fields = field_names(fields)
    env = _make_env(env_id)
    try:
        model, _ = simulation(env)
        steps = episode_steps or env.spec.max_episode_steps
        if steps is None:
            raise InvalidInput(f"environment {env_id!r} is registered without a time limit; give episode_steps")
        env.reset(seed=0)
        return MujocoTask(
            name=env_id.rpartition(":")[2],
            make_env=functools.partial(_make_env, env_id),
            dt=float(env.unwrapped.dt),
            frame_skip=round(env.unwrapped.dt / model.opt.timestep),
            control_low=env.action_space.low,
            control_high=env.action_space.high,
            episode_steps=steps,
            fields=fields,
            cost=cost,
            planning_cost=planning_cost,
            planning_fields=planning_fields,
            terminated=terminated,
            terminal=terminal,
            current=current,
            apply=apply,
            params=params(model, env) if callable(params) else params,
            read_params=params if callable(params) else None,
            preset=preset,
            unseen=unseen,
        )
    finally:
        env.close()


def simulation(env: Any) -> tuple[Any, Any]:
    """The live MjModel and MjData of an environment."""
    import mujoco

    inner = env.unwrapped
    if isinstance(getattr(inner, "model", None), mujoco.MjModel):
        return inner.model, inner.data
    physics = getattr(inner, "physics", None)  # dm_control, through shimmy
    if physics is not None:
        return physics.model.ptr, physics.data.ptr
    raise InvalidInput(f"{env} does not simulate with MuJoCo: it has neither an MjModel nor dm_control's physics")


def model_bytes(model: Any) -> bytes:
    """All numbers of an MjModel, to tell two apart by."""
    import mujoco

    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def load_model(path: str | os.PathLike[str]) -> Any:
    """An MjModel of an MJCF (XML) or MJB file."""
    mujoco, path = _import("mujoco", "mujoco"), os.fspath(path)
    try:
        return (mujoco.MjModel.from_binary_path if path.endswith(".mjb") else mujoco.MjModel.from_xml_path)(path)
    except (ValueError, mujoco.FatalError) as error:
        raise InvalidInput(f"cannot load a MuJoCo model from {path!r}: {error}") from error


def control_bounds(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds [nu] of the controls of an MjModel: its actuators' ctrlrange."""
    free = np.flatnonzero(~model.actuator_ctrllimited.astype(bool))
    if free.size or not model.nu:
        names = [model.actuator(int(i)).name or int(i) for i in free]
        which = f"actuators {names} have no control range" if model.nu else "the model has no actuator"
        raise InvalidInput(f"{which}; controls need actuators with a ctrlrange in the model")
    return model.actuator_ctrlrange[:, 0].copy(), model.actuator_ctrlrange[:, 1].copy()


def field_names(fields: Sequence[str]) -> tuple[str, ...]:
    """Fields as a tuple; a lone string, which would be taken for a sequence of letters, is refused."""
    if isinstance(fields, str):
        raise InvalidInput(f"fields must be a sequence of names, got the string {fields!r}; write ({fields!r},)")
    return tuple(fields)


def flat(observation: Any) -> np.ndarray:
    """An observation as one vector."""
    parts = observation.values() if isinstance(observation, Mapping) else [observation]
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float64)


def _make_env(env_id: str, render_mode: str | None = None) -> Any:
    mujoco = _import("mujoco", "mujoco")
    gymnasium = _import("gymnasium", "gym")
    if env_id.startswith("dm_control/"):
        _import("dm_control", "dm-control")
        gymnasium.register_envs(_import("shimmy", "dm-control"))
    if env_id.startswith("gymnasium_robotics:"):
        _mend(_import("gymnasium_robotics.utils.mujoco_utils", "robotics"))
    # MuJoCo 3.17 warns about an attribute of Gymnasium's own models, on the screen and in a file of the working folder
    loud = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return gymnasium.make(env_id, render_mode=render_mode)
    finally:
        mujoco.set_mju_user_warning(loud)


def _mend(utils: Any) -> None:
    """Gymnasium-Robotics 1.4.2 looks for NumPy integers among MuJoCo's enums, to which only Python's are equal now."""
    mujoco = utils.mujoco
    if np.int32(mujoco.mjtJoint.mjJNT_SLIDE) not in (mujoco.mjtJoint.mjJNT_SLIDE,):
        joints = types.SimpleNamespace(**{name: int(kind) for name, kind in mujoco.mjtJoint.__members__.items()})
        utils.mujoco = types.SimpleNamespace(**{**vars(mujoco), "mjtJoint": joints})


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing(name.partition(".")[0], extra) from error
