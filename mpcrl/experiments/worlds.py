"""What a controller acts on in an experiment: the true dynamics of a task, scored by the task's environment."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from mpcrl.core.errors import InvalidInput
from mpcrl.tasks.features import Features
from mpcrl.tasks.mujoco_task import MujocoTask, model_bytes
from mpcrl.tasks.task import AnalyticTask, Task


class Outcome(NamedTuple):
    """What a control led to.

    Attributes
    ----------
    state : ndarray [nx]
        As the model takes it; NaN where MuJoCo's simulation diverged.
    reward : float
    planning_cost : float
        What plans are to keep low: minus the reward, but where the task has a planning cost of its own; NaN where that
        is no number.
    ended : str
        Why the episode is over; "" while it is not.
    """

    state: np.ndarray
    reward: float
    planning_cost: float
    ended: str


class Signals(NamedTuple):
    """Quantities that belong into one plot.

    Attributes
    ----------
    title : str
    names : tuple of str
    values : ndarray [T, names]
    """

    title: str
    names: tuple[str, ...]
    values: np.ndarray


_LINES = 8
"""More lines than this in one plot cannot be told apart."""

_JOINTS = 5
"""Joints of a robot that are shown: the first ones, which are nearest to its root."""


SCALABLE: dict[str, tuple[str, ...]] = {
    "mass": ("body_mass", "body_inertia"),
    "gravity": ("opt.gravity",),
    "friction": ("geom_friction", "pair_friction"),
    "damping": ("dof_damping",),
    "friction_loss": ("dof_frictionloss",),
    "armature": ("dof_armature",),
    "stiffness": ("jnt_stiffness",),
    "gear": ("actuator_gear",),
}
"""What `--plant-scale` may name for a MuJoCo task, and the arrays of MjModel that it multiplies."""


class World(Protocol):
    """One episode after the other of one task.

    Attributes
    ----------
    params : NamedTuple
        Of the task, in this episode.
    """

    params: Any

    @property
    def control_names(self) -> tuple[str, ...]: ...

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode; its first state [nx]."""
        ...

    def step(self, control: np.ndarray) -> Outcome:
        """Apply a control [nu] for one control period."""
        ...

    def perturbed(self, state: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
        """A state [nx] with normal noise on what a sensor would measure of it."""
        ...

    def signals(self, states: np.ndarray) -> tuple[Signals, ...]:
        """What is worth plotting of states [T, nx]."""
        ...

    def close(self) -> None: ...


def world_of(task: Task, plant_scale: Mapping[str, float] | None = None, features: Features | None = None) -> World:
    """The true dynamics of a task; with `plant_scale`, dynamics that differ from it, see `Conditions`.

    With `features`, its states are what a learned model takes: records of a MuJoCo task.
    """
    check_scale(task, plant_scale or {})
    if isinstance(task, AnalyticTask):
        return AnalyticWorld(task, plant_scale)
    if isinstance(task, MujocoTask):
        return MujocoWorld(task, plant_scale, features)
    raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, which there is no environment for")


def check_scale(task: Task, plant_scale: Mapping[str, float]) -> None:
    """Refuse a plant scale that the task has no quantity for."""
    known: tuple[str, ...] = tuple(SCALABLE)
    if isinstance(task, AnalyticTask):
        values = task.params._asdict()
        known = tuple(name for name, value in values.items() if np.asarray(value).dtype.kind == "f")
    for name in plant_scale:
        if name not in known:
            raise InvalidInput(
                f"task {task.name!r} has no quantity {name!r} to scale; it has {', '.join(known) or 'none'}"
            )


class AnalyticWorld:
    """A task's own functions in float64; the reward is minus the stage cost, as in its Gymnasium environment."""

    def __init__(self, task: AnalyticTask, plant_scale: Mapping[str, float] | None = None) -> None:
        self.task, self.params = task, task.params
        own = task.params
        self._plant = own._replace(**{name: scale * getattr(own, name) for name, scale in (plant_scale or {}).items()})
        self._state: tuple[float, ...] = ()
        self._steps = 0

    @property
    def control_names(self) -> tuple[str, ...]:
        return self.task.control_names

    def reset(self, seed: int) -> np.ndarray:
        self._rng = np.random.default_rng(seed)
        self._state, self._steps = tuple(np.asarray(self.task.reset(self._rng), np.float64).tolist()), 0
        return self.task.seen(self._state, self._rng)

    def step(self, control: np.ndarray) -> Outcome:
        task, u = self.task, tuple(control.tolist())
        try:
            cost = task.cost(self._state, u, self._steps, task.params)
            reward = -float(sum(cost)) if isinstance(cost, tuple) else -float(cost)
            self._state = tuple(map(float, task.step(self._state, u, self._plant)))
        except (ArithmeticError, ValueError):  # in plain Python, 1 / 0.0, sin(inf) and the like
            reward = np.nan
        self._steps += 1
        if not np.isfinite([reward, *self._state]).all():
            return Outcome(np.full(len(self._state), np.nan), 0.0, 0.0, "diverged")
        over = task.terminated is not None and task.terminated(self._state, task.params)
        ended = "terminated" if over else "time limit" if self._steps >= task.episode_steps else ""
        return Outcome(self.task.seen(self._state, self._rng), reward, -reward, ended)

    def perturbed(self, state: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
        return state + deviation * rng.standard_normal(state.size)

    def signals(self, states: np.ndarray) -> tuple[Signals, ...]:
        """All states, or the first ones in two halves where they are many."""
        names = self.task.state_names[: 2 * _LINES]
        half = len(names) if len(names) <= _LINES else len(names) // 2
        parts = (slice(0, half), slice(half, len(names)))
        return tuple(Signals("state", names[part], states[:, part]) for part in parts if names[part])

    def close(self) -> None:
        """Nothing is open."""


class MujocoWorld:
    """A task's environment at Gymnasium."""

    def __init__(
        self, task: MujocoTask, plant_scale: Mapping[str, float] | None = None, features: Features | None = None
    ) -> None:
        self.task, self.params, self._features = task, task.params, features
        self.edited = False
        """Whether the last reset left another MjModel than the one before; some environments edit theirs."""
        self.nominal_model: Any = None
        """The MjModel of this episode as a planner may know it; `plant_scale` makes the one that moves differ."""
        self._scale = plant_scale or {}
        self._env = task.make_env()
        self._bytes = b""
        self._record, self._steps = namedtuple("record", task.read_fields), 0

    @property
    def env(self) -> Any:
        """The environment."""
        return self._env

    @property
    def mj_model(self) -> Any:
        """The MjModel of this episode."""
        return self.task.mj_model(self._env)

    @property
    def control_names(self) -> tuple[str, ...]:
        """Of the actuators, or of what they pull at."""
        if self.task.apply is not None:
            return tuple(f"control {i}" for i in range(self.task.nu))
        return tuple(self._actuator(i) for i in range(self.task.nu))

    def reset(self, seed: int) -> np.ndarray:
        import mujoco

        if self._scale and self._bytes:  # the environment's own edits would come on top of a scaled model
            self._env.close()
            self._env = self.task.make_env()
        self._env.reset(seed=seed)
        self._steps = 0
        self.task.mj_data(self._env).warning.number[:] = 0  # what a reset tries out may leave some
        self.params = self.task.params_of(self._env)
        before, self._bytes = self._bytes, model_bytes(self.mj_model)
        self.edited = self._bytes != before
        self.nominal_model = self.mj_model
        if self._scale:
            self.nominal_model = copy.copy(self.mj_model)
            _scale_model(self.mj_model, self._scale)
            mujoco.mj_forward(self.mj_model, self.task.mj_data(self._env))  # dm_control steps from derived quantities
        return self._state()

    def step(self, control: np.ndarray) -> Outcome:
        before = self._recorded()
        try:
            _, reward, terminated, truncated, _ = self._env.step(control)
        except RuntimeError:  # dm_control's PhysicsError
            if not self._diverged():
                raise
            reward, terminated, truncated = 0.0, False, False
        state = self._state()
        if self._diverged():
            # MuJoCo goes on from the model's initial pose: unless an environment noticed, it rewards a leap.
            return Outcome(np.full_like(state, np.nan), float(reward) if terminated else 0.0, 0.0, "diverged")
        cost = -float(reward) if before is None else self._planning_cost(before, control)
        ended = "terminated" if terminated else "time limit" if truncated else ""
        self._steps += 1
        return Outcome(state, float(reward), cost, ended)

    def perturbed(self, state: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
        if self._features is not None:
            return state + deviation * rng.standard_normal(state.size)
        return noisy_state(self.mj_model, state, deviation, rng)

    def signals(self, states: np.ndarray) -> tuple[Signals, ...]:
        """Positions and velocities of the first joints with one degree of freedom: those that are one number each."""
        import mujoco

        model, kinds = self.mj_model, mujoco.mjtState
        single = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
        joints = [joint for joint in range(model.njnt) if int(model.jnt_type[joint]) in single][:_JOINTS]
        if not joints:
            return ()
        names = tuple(model.joint(joint).name or f"joint {joint}" for joint in joints)
        found = []
        for title, field, kind, column in (
            ("position", "qpos", kinds.mjSTATE_QPOS, model.jnt_qposadr[joints]),
            ("velocity", "qvel", kinds.mjSTATE_QVEL, model.jnt_dofadr[joints]),
        ):
            if self._features is not None:
                part = self._features.part(states, field)
            else:
                part = np.empty((len(states), mujoco.mj_stateSize(model, kind)))
                for state, row in zip(states, part, strict=True):
                    mujoco.mj_extractState(model, state, kinds.mjSTATE_INTEGRATION, row, kind)
            found.append(Signals(title, names, part[:, column]))
        return tuple(found)

    def close(self) -> None:
        self._env.close()

    def _state(self) -> np.ndarray:
        """What the model takes of the environment as it is."""
        if self._features is not None:
            return self._features.read(self.task.mj_data(self._env))
        return self.task.state(self._env)

    def _recorded(self) -> Any:
        """The fields that the planning cost reads, as they are now; None where the reward says all."""
        if self.task.planning_cost is None:
            return None
        data = self.task.mj_data(self._env)
        return self._record(*(getattr(data, name).copy() for name in self.task.read_fields))

    def _planning_cost(self, before: Any, control: np.ndarray) -> float:
        assert self.task.planning_cost is not None
        try:
            with np.errstate(all="ignore"):
                cost = float(self.task.planning_cost(before, control, self._recorded(), self._steps, self.params))
        except (ArithmeticError, ValueError):  # in plain Python, 1 / 0.0 and the like
            return np.nan
        return cost if np.isfinite(cost) else np.nan

    def _diverged(self) -> bool:
        """Whether MuJoCo has warned in this episode, which is what fails a plan's sample too."""
        return bool(np.any(self.task.mj_data(self._env).warning.number))

    def _actuator(self, index: int) -> str:
        import mujoco

        model = self.mj_model
        own = model.actuator(index).name
        joint = int(model.actuator_trnid[index, 0])
        if own or int(model.actuator_trntype[index]) != int(mujoco.mjtTrn.mjTRN_JOINT):
            return own or f"control {index}"
        return model.joint(joint).name or f"control {index}"


def noisy_state(model: Any, state: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """A MuJoCo state with noise on qpos, along the joints so that quaternions keep their length, and on qvel."""
    import mujoco

    kinds, noise = mujoco.mjtState, deviation * rng.standard_normal((2, model.nv))
    whole, state = int(kinds.mjSTATE_INTEGRATION), state.copy()

    def part(kind: int) -> np.ndarray:
        """A view of one part, which lies behind those of the smaller bits."""
        start = mujoco.mj_stateSize(model, whole & (kind - 1))
        return state[start : start + mujoco.mj_stateSize(model, kind)]

    mujoco.mj_integratePos(model, part(int(kinds.mjSTATE_QPOS)), noise[0], 1.0)
    part(int(kinds.mjSTATE_QVEL))[:] += noise[1]
    return state


def _scale_model(model: Any, scale: Mapping[str, float]) -> None:
    """Multiply arrays of an MjModel in place, and set what follows from them."""
    import mujoco

    for quantity, factor in scale.items():
        for name in SCALABLE[quantity]:
            owner, _, field = name.rpartition(".")
            array = getattr(getattr(model, owner) if owner else model, field)
            array *= factor
    mujoco.mj_setConst(model, mujoco.MjData(model))
