"""A task of one's own from an MJCF file: a cost, and how to reset. No Gymnasium is needed.

    def cost(before, u, after, t, p):
        return (after.qpos[0] - 1.0) ** 2

    task = mpcrl.xml_task("arm.xml", cost=cost)
    result = mpcrl.run_task(task)

On the command line it is `mpcrl run file.py:name`, where `name` is a task or a function that returns one.
"""

from __future__ import annotations

import copy
import functools
import os
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core.checks import positive_integer
from mpcrl.tasks.mujoco_task import BODY_FORCES, MujocoTask, NoParams, control_bounds, field_names, load_model


def xml_task(
    path: str | os.PathLike[str],
    *,
    cost: Callable[..., float],
    fields: tuple[str, ...] = ("qpos", "qvel"),
    params: Any = None,
    reset: Callable[[Any, Any, np.random.Generator], None] | None = None,
    terminated: Callable[..., bool] | None = None,
    terminal: Callable[..., float] | None = None,
    planning_cost: Callable[..., float] | None = None,
    frame_skip: int = 1,
    current: bool = True,
    episode_steps: int = 500,
    name: str | None = None,
    preset: Mapping[str, Any] | None = None,
) -> MujocoTask:
    """A task whose world is a simulation of this model; its reward is minus the cost.

    Parameters
    ----------
    path : str or path
        An MJCF (XML) file whose actuators all have a control range; those are the bounds.
    cost, fields, terminated, terminal, planning_cost, frame_skip, current
        As in `MujocoTask`.
    params : NamedTuple, or callable
        A function is `MujocoTask.read_params`.
    reset : callable, optional
        `reset(model, data, rng)` begins an episode: it edits qpos and qvel of `data`, or the model, in place. If
        not given, at the model's own initial state.
    episode_steps : int
    name : str, optional
        The file's, without its ending, if not given.
    preset : mapping, optional
        As in `Task`.

    Raises
    ------
    InvalidInput
        For a file that cannot be loaded, and actuators without a control range.
    """
    path = Path(path).absolute()
    fields = field_names(fields)
    positive_integer("frame_skip", frame_skip)
    pristine = load_model(path)
    low, high = control_bounds(pristine)
    functions = {"cost": cost, "terminated": terminated, "reset": reset}
    make_env = functools.partial(XmlEnv, path, functions, params, fields, frame_skip, current, episode_steps)
    env = make_env()
    env.reset(seed=0)
    return MujocoTask(
        name=path.stem if name is None else name,
        make_env=make_env,
        dt=frame_skip * pristine.opt.timestep,
        frame_skip=frame_skip,
        control_low=low,
        control_high=high,
        episode_steps=episode_steps,
        fields=fields,
        cost=cost,
        planning_cost=planning_cost,
        terminated=terminated,
        terminal=terminal,
        current=current,
        params=env.params,
        read_params=params if callable(params) else None,
        preset=preset or {},
    )


class XmlEnv:
    """The world of an `xml_task`, with the methods of a gymnasium.Env; observations are qpos and qvel.

    A diverged simulation ends the episode with a reward of -inf.
    """

    def __init__(
        self,
        path: Path,
        functions: Mapping[str, Any],
        params: Any,
        fields: tuple[str, ...],
        frame_skip: int,
        current: bool,
        episode_steps: int,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.render_kwargs: dict[str, Any] = {"width": 480, "height": 480, "camera_id": -1}
        self._pristine, self._functions, self._given = load_model(path), functions, params
        self._fields, self._record = fields, namedtuple("record", fields)
        self._body_forces = not BODY_FORCES.isdisjoint(fields)
        self._frame_skip, self._current, self._episode_steps = frame_skip, current, episode_steps
        self._rng, self._steps = np.random.default_rng(), 0
        self._renderer: Any = None
        self.model, self.data, self.params = self._pristine, _data(self._pristine), NoParams()

    @property
    def unwrapped(self) -> XmlEnv:
        """Itself."""
        return self

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode on a fresh copy of the model."""
        import mujoco

        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.close()
        self.model = copy.copy(self._pristine)
        self.data, self._steps = _data(self.model), 0
        if self._functions["reset"] is not None:
            self._functions["reset"](self.model, self.data, self._rng)
        mujoco.mj_forward(self.model, self.data)
        if self._body_forces:
            mujoco.mj_rnePostConstraint(self.model, self.data)
        given = self._given(self.model, self) if callable(self._given) else self._given
        self.params = NoParams() if given is None else given
        return self._get_obs(), {}

    def step(self, u: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold a control [nu] for one control step."""
        import mujoco

        before = self._recorded()
        self.data.ctrl[:] = u
        mujoco.mj_step(self.model, self.data, self._frame_skip)
        if self._body_forces:  # before mj_step1 finds the contacts anew, to which no force belongs yet
            mujoco.mj_rnePostConstraint(self.model, self.data)
        if self._current:
            mujoco.mj_step1(self.model, self.data)
        after = self._recorded()
        truncated = self._steps + 1 >= self._episode_steps
        if self.data.warning.number.any():
            return self._get_obs(), -np.inf, True, truncated, {}
        ends = self._functions["terminated"]
        reward = -float(self._functions["cost"](before, u, after, self._steps, self.params))
        self._steps += 1
        return self._get_obs(), reward, bool(ends and ends(after, self.params)), truncated, {}

    def render(self) -> np.ndarray:
        """The scene, uint8 [height, width, 3]."""
        import mujoco

        settings = self.render_kwargs
        if self._renderer is None:
            buffer = self.model.vis.global_
            buffer.offwidth = max(buffer.offwidth, settings["width"])
            buffer.offheight = max(buffer.offheight, settings["height"])
            self._renderer = mujoco.Renderer(self.model, settings["height"], settings["width"])
        self._renderer.update_scene(self.data, camera=settings["camera_id"])
        return self._renderer.render()

    def close(self) -> None:
        """Free what drawing took."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _recorded(self) -> Any:
        return self._record(*(getattr(self.data, name).copy() for name in self._fields))

    def _get_obs(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


def _data(model: Any) -> Any:
    import mujoco

    return mujoco.MjData(model)
