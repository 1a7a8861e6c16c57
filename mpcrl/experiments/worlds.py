"""What a controller acts on in an experiment: the true dynamics of a task, scored by the task's environment."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from mpcrl.core.errors import InvalidInput
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task


class Outcome(NamedTuple):
    """What a control led to.

    Attributes
    ----------
    state : ndarray [nx]
        As the task's model takes it.
    reward : float
    ended : str
        Why the episode is over; "" while it is not.
    """

    state: np.ndarray
    reward: float
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

    def signals(self, states: np.ndarray) -> tuple[Signals, ...]:
        """What is worth plotting of states [T, nx]."""
        ...

    def close(self) -> None: ...


def world_of(task: Task) -> World:
    """The true dynamics of a task."""
    if isinstance(task, AnalyticTask):
        return AnalyticWorld(task)
    if isinstance(task, MujocoTask):
        return MujocoWorld(task)
    raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, which there is no environment for")


class AnalyticWorld:
    """A task's own functions in float64; the reward is minus the stage cost, as in its Gymnasium environment."""

    def __init__(self, task: AnalyticTask) -> None:
        self.task, self.params = task, task.params
        self._state: tuple[float, ...] = ()
        self._steps = 0

    @property
    def control_names(self) -> tuple[str, ...]:
        return self.task.control_names

    def reset(self, seed: int) -> np.ndarray:
        start = np.asarray(self.task.reset(np.random.default_rng(seed)), np.float64)
        self._state, self._steps = tuple(start.tolist()), 0
        return start

    def step(self, control: np.ndarray) -> Outcome:
        task, u = self.task, tuple(control.tolist())
        cost = task.cost(self._state, u, self._steps, task.params)
        reward = -float(sum(cost)) if isinstance(cost, tuple) else -float(cost)
        self._state = tuple(map(float, task.step(self._state, u, task.params)))
        self._steps += 1
        over = task.terminated is not None and task.terminated(self._state, task.params)
        ended = "terminated" if over else "time limit" if self._steps >= task.episode_steps else ""
        return Outcome(np.array(self._state), reward, ended)

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

    def __init__(self, task: MujocoTask) -> None:
        self.task, self.params = task, task.params
        self.edited = False
        """Whether the last reset left another MjModel than the one before; some environments edit theirs."""
        self._env = task.make_env()
        self._bytes = b""

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

        self._env.reset(seed=seed)
        self.params = self.task.params_of(self._env)
        buffer = np.empty(mujoco.mj_sizeModel(self.mj_model), np.uint8)
        mujoco.mj_saveModel(self.mj_model, None, buffer)
        self.edited, self._bytes = buffer.tobytes() != self._bytes, buffer.tobytes()
        return self.task.state(self._env)

    def step(self, control: np.ndarray) -> Outcome:
        _, reward, terminated, truncated, _ = self._env.step(control)
        ended = "terminated" if terminated else "time limit" if truncated else ""
        return Outcome(self.task.state(self._env), float(reward), ended)

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
        for title, kind, column in (
            ("position", kinds.mjSTATE_QPOS, model.jnt_qposadr[joints]),
            ("velocity", kinds.mjSTATE_QVEL, model.jnt_dofadr[joints]),
        ):
            part = np.empty((len(states), mujoco.mj_stateSize(model, kind)))
            for state, row in zip(states, part, strict=True):
                mujoco.mj_extractState(model, state, kinds.mjSTATE_INTEGRATION, row, kind)
            found.append(Signals(title, names, part[:, column]))
        return tuple(found)

    def close(self) -> None:
        self._env.close()

    def _actuator(self, index: int) -> str:
        import mujoco

        model = self.mj_model
        own = model.actuator(index).name
        joint = int(model.actuator_trnid[index, 0])
        if own or int(model.actuator_trntype[index]) != int(mujoco.mjtTrn.mjTRN_JOINT):
            return own or f"control {index}"
        return model.joint(joint).name or f"control {index}"
