"""What a learned model predicts of a task, and what its networks see of that.

The state of a learned model is the state of an analytic task; of a MuJoCo task it is a *record*: qpos, qvel and the
other arrays of MjData that the plans' cost reads, one after the other. So every task's own cost and end apply to what
was predicted as they do to what was simulated, and no reward has to be written twice, or learned.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mpcrl.core.errors import InvalidInput, NoGoal
from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task


class RecordedField(NamedTuple):
    """An array of MjData within a record: `record[start:stop].reshape(shape)`."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Features:
    """What networks see of states and controls, and what they predict.

    Attributes
    ----------
    names : tuple of str
        One per number of a state.
    nu : int
        Number of controls.
    angles : tuple of int
        Numbers that are seen as their sine and cosine.
    unseen : tuple of int
        Numbers that the dynamics do not depend on: how far a runner has come, say.
    absolute : tuple of int
        Numbers predicted themselves; of all others the change over a control step is.
    fields : tuple of RecordedField
        Of a record; none where the state is an analytic task's.
    """

    names: tuple[str, ...]
    nu: int
    angles: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    absolute: tuple[int, ...] = ()
    fields: tuple[RecordedField, ...] = ()

    def __post_init__(self) -> None:
        for name in ("angles", "unseen", "absolute"):
            indices = getattr(self, name)
            if sorted(set(indices)) != sorted(indices) or not set(indices) <= set(range(self.nx)):
                raise InvalidInput(f"{name} must be different indices below {self.nx}, got {indices!r}")
        both = set(self.angles) & set(self.unseen)
        if both:
            raise InvalidInput(f"{[self.names[i] for i in sorted(both)]} cannot be both angles and unseen")

    @property
    def nx(self) -> int:
        """Length of a state."""
        return len(self.names)

    @property
    def plain(self) -> tuple[int, ...]:
        """Numbers that are seen as they are."""
        return tuple(i for i in range(self.nx) if i not in self.angles and i not in self.unseen)

    @property
    def size(self) -> int:
        """Length of an input: plain numbers, sines, cosines, controls."""
        return len(self.plain) + 2 * len(self.angles) + self.nu

    def inputs(self, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """What networks see [..., size] of states [..., nx] and controls [..., nu]."""
        angles = states[..., list(self.angles)]
        parts = (states[..., list(self.plain)], np.sin(angles), np.cos(angles), controls)
        return np.concatenate(parts, axis=-1)

    def next_states(self, states: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """The states [..., nx] after outputs [..., nout] at states [..., nx]."""
        following = states + outputs[..., : self.nx]
        absolute = list(self.absolute)
        following[..., absolute] = outputs[..., absolute]
        return following

    def slopes(self, states: np.ndarray, by_inputs: np.ndarray) -> np.ndarray:
        """Derivatives [..., nx, nx + nu] of the next states by states and controls, from those of outputs by inputs.

        Parameters
        ----------
        states : ndarray [..., nx]
        by_inputs : ndarray [..., nx, size]
        """
        plain, angles = list(self.plain), list(self.angles)
        sines, cosines = (len(plain) + i * len(angles) + np.arange(len(angles)) for i in range(2))
        found = np.zeros((*by_inputs.shape[:-1], self.nx + self.nu))
        found[..., plain] = by_inputs[..., : len(plain)]
        turned = states[..., None, angles]
        found[..., angles] = by_inputs[..., sines] * np.cos(turned) - by_inputs[..., cosines] * np.sin(turned)
        found[..., self.nx :] = by_inputs[..., self.size - self.nu :]
        changes = [i for i in range(self.nx) if i not in self.absolute]
        found[..., changes, changes] += 1.0
        return found

    def targets(self, states: np.ndarray, following: np.ndarray) -> np.ndarray:
        """The outputs [..., nx] that lead from states to others: changes, of angles the shorter way round."""
        changes = following - states
        for i in self.angles:
            changes[..., i] = np.vectorize(wrap_to_pi, otypes=[float])(changes[..., i])
        absolute = list(self.absolute)
        changes[..., absolute] = following[..., absolute]
        return changes

    def part(self, records: np.ndarray, name: str) -> np.ndarray:
        """One field [..., *shape] of records [..., nx]."""
        field = next(field for field in self.fields if field.name == name)
        return records[..., field.start : field.stop].reshape(*records.shape[:-1], *field.shape)

    def read(self, data: Any) -> np.ndarray:
        """The record [nx] of an MjData as it is."""
        return np.concatenate([np.ravel(getattr(data, field.name)) for field in self.fields])


def features_of(task: Task) -> Features:
    """The features of a task: as it declares them; of MuJoCo's joints, those that turn without a limit are angles."""
    if isinstance(task, AnalyticTask):
        return Features(
            names=task.state_names,
            nu=task.nu,
            angles=_indices(task, "angles", task.state_names),
            unseen=_indices(task, "unseen", task.state_names),
        )
    if isinstance(task, MujocoTask):
        env = task.make_env()
        try:
            env.reset(seed=0)
            return _of_mujoco(task, task.mj_model(env), task.mj_data(env))
        finally:
            env.close()
    raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, whose state nobody can read")


def goal_of(task: Task, features: Features) -> Goal:
    """The goal that a task declares, for methods that minimise its expectation.

    Raises
    ------
    NoGoal
        There is none; the message says how to give it one.
    """
    if task.goal is None:
        raise NoGoal(
            f"task {task.name!r} declares no goal, whose expected cost is what this method minimises; give it one: "
            "dataclasses.replace(task, goal=mpcrl.Goal(terms=({'NAME': 1.0},), target=(0.0,), width=0.5)), by the "
            f"names of its state ({', '.join(features.names[:8])}), or 'sin NAME' and 'cos NAME' of an angle"
        )
    task.goal.matrix(features.names, features.angles)
    return task.goal


def speeds_of(task: Task, features: Features) -> tuple[tuple[int, int], ...]:
    """Pairs of a number of the state and the one that is its rate of change, as the task declares them or its joints
    say; none whose rate the dynamics do not see.

    Raises
    ------
    InvalidInput
        Names are none of the state's, or a speed has a speed itself.
    """
    named = [(features.names.index(name), features.names.index(rate)) for name, rate in _rates(task, features).items()]
    pairs = dict(sorted(pair for pair in named if pair[1] in features.plain))
    for number, rate in pairs.items():
        if rate in pairs:
            raise InvalidInput(
                f"task {task.name!r}: {features.names[rate]!r} cannot be the speed of {features.names[number]!r} and "
                f"have the speed {features.names[pairs[rate]]!r}, for speeds are learned and only what they change is "
                f"an integral; leave one of the two out of the task's speeds"
            )
    return tuple(pairs.items())


def _rates(task: Task, features: Features) -> dict[str, str]:
    """Names of numbers and of their rates: of joints that slide or turn, and as the task declares them."""
    wrong = [name for pair in task.speeds.items() for name in pair if name not in features.names]
    if wrong:
        raise InvalidInput(
            f"task {task.name!r}: speeds speak of {wrong[0]!r}, but the state has {', '.join(features.names)}"
        )
    if not isinstance(task, MujocoTask):
        return dict(task.speeds)
    import mujoco

    env = task.make_env()
    try:
        env.reset(seed=0)
        model = task.mj_model(env)
        simple = {int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)}
        joints = [j for j in range(model.njnt) if int(model.jnt_type[j]) in simple]
        return {f"qpos[{model.jnt_qposadr[j]}]": f"qvel[{model.jnt_dofadr[j]}]" for j in joints} | dict(task.speeds)
    finally:
        env.close()


def _of_mujoco(task: MujocoTask, model: Any, data: Any) -> Features:
    import mujoco

    moving = ["qpos", "qvel", *(["act"] if model.na else []), *(["mocap_pos", "mocap_quat"] if model.nmocap else [])]
    read = task.planning_fields or task.fields
    fields: list[RecordedField] = []
    names: list[str] = []
    for name in dict.fromkeys([*moving, *read]):
        shape = np.shape(getattr(data, name))
        fields.append(RecordedField(name, shape, len(names), len(names) + int(np.prod(shape))))
        names += [f"{name}[{', '.join(map(str, index))}]" for index in np.ndindex(shape)]
    turning = int(mujoco.mjtJoint.mjJNT_HINGE)
    free = [j for j in range(model.njnt) if int(model.jnt_type[j]) == turning and not model.jnt_limited[j]]
    unseen = _indices(task, "unseen", names)
    angles = {int(model.jnt_qposadr[j]) for j in free} | set(_indices(task, "angles", names))
    return Features(
        names=tuple(names),
        nu=task.nu,
        angles=tuple(sorted(angles - set(unseen))),
        unseen=unseen,
        fields=tuple(fields),
    )


def _indices(task: Task, what: str, names: Sequence[str]) -> tuple[int, ...]:
    """Where the names that a task declares stand among those of its state; "*" stands for any part of a name."""
    found: set[int] = set()
    for declared in getattr(task, what):
        pattern = re.compile(".*".join(map(re.escape, declared.split("*"))))
        matching = {i for i, name in enumerate(names) if pattern.fullmatch(name)}
        if not matching:
            near = difflib.get_close_matches(declared, names, n=3, cutoff=0.0)
            raise InvalidInput(
                f"task {task.name!r}: {what} {declared!r} is none of its state's {len(names)} names; the nearest are "
                f"{', '.join(near)}"
            )
        found |= matching
    return tuple(sorted(found))
