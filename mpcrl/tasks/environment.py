"""Analytic tasks as Gymnasium environments, for learners and tools that speak Gymnasium."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput, MpcrlError, missing
from mpcrl.tasks.canvas import Canvas
from mpcrl.tasks.task import AnalyticTask

try:
    import gymnasium
except ImportError as error:
    raise missing("gymnasium", "gym") from error


class TaskEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """An `AnalyticTask` behind Gymnasium's interface.

    The observation is the state, the reward is minus the stage cost of the state before the step and the action. `info`
    holds `cost`, `cost_terms` (the terms by name) and, where the task says what solved means, `solved`.

    Actions beyond the bounds are clipped to them, as Gymnasium's own Pendulum does. An episode is terminated where the
    task's `terminated` says so, and truncated after its `episode_steps`. `TaskEnv(task, ...)` runs `task.params` as
    they are; for others give it `dataclasses.replace(task, params=...)`.

    Parameters
    ----------
    task : AnalyticTask
    render_mode : {None, "rgb_array", "human"}
        "rgb_array": `render` returns an image, uint8 [400, 640, 3] (needs the extra `video`). "human": every step is
        shown in a Matplotlib window (needs the extra `plots` too, and a screen).

    Raises
    ------
    InvalidInput
        Of the constructor: an unknown render mode, or one for a task that has no `draw`. Of `step`: an action of
        another shape than [nu] or with NaN or infinite numbers, or a step before the first reset. Of `reset`: options,
        of which there are none.
    """

    def __init__(self, task: AnalyticTask, render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": ["rgb_array", "human"], "render_fps": max(1, round(1.0 / task.dt))}
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InvalidInput(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}")
        if render_mode is not None and task.draw is None:
            raise InvalidInput(f"task {task.name!r} has no `draw` to render with; leave render_mode at None")
        self.task, self.render_mode = task, render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (task.nx,), np.float64)
        self.action_space = gymnasium.spaces.Box(task.control_low, task.control_high, dtype=np.float64)
        self._state: tuple[float, ...] | None = None
        self._steps = 0
        self._window = _Window(task.name) if render_mode == "human" else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; the observation and an empty `info`."""
        super().reset(seed=seed)
        if options:
            raise InvalidInput(f"reset takes no options, got {options!r}")
        self._state = tuple(float(value) for value in self.task.reset(self.np_random))
        self._steps = 0
        self._show()
        return self.task.seen(self._state, self.np_random), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action [nu] for one control period."""
        task, x = self.task, self._state
        if x is None:
            raise InvalidInput("step needs a state to start from; call reset first")
        control = np.asarray(action, np.float64)
        if control.shape != (task.nu,) or not np.isfinite(control).all():
            raise InvalidInput(f"an action of {task.name!r} must be {task.nu} finite numbers, got {action!r}")
        u = tuple(np.clip(control, task.control_low, task.control_high).tolist())

        cost = task.cost(x, u, self._steps, task.params)
        terms = cost._asdict() if hasattr(cost, "_asdict") else {"cost": cost}
        total = float(sum(terms.values()))
        self._state = state = tuple(float(value) for value in task.step(x, u, task.params))
        self._steps += 1
        info = {"cost": total, "cost_terms": {name: float(term) for name, term in terms.items()}}
        if task.solved is not None:
            info["solved"] = bool(task.solved(state, task.params))
        terminated = task.terminated is not None and bool(task.terminated(state, task.params))
        self._show()
        return self.task.seen(state, self.np_random), -total, terminated, self._steps >= task.episode_steps, info

    def render(self) -> np.ndarray | None:
        """The image [400, 640, 3] uint8 with `render_mode="rgb_array"`, else None."""
        if self.render_mode != "rgb_array":
            return None
        if self._state is None:
            raise InvalidInput("render needs a state to show; call reset first")
        return self._frame(self._state)

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()

    def _frame(self, x: tuple[float, ...]) -> np.ndarray:
        canvas = Canvas()
        assert self.task.draw is not None
        self.task.draw(canvas, x, self.task.params)
        return canvas.image()

    def _show(self) -> None:
        if self._window is not None and self._state is not None:
            self._window.show(self._frame(self._state), 1.0 / self.metadata["render_fps"])


class _Window:
    """One image in a Matplotlib window."""

    def __init__(self, title: str) -> None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise missing("matplotlib", "plots") from error
        self._pyplot = pyplot
        self._figure = pyplot.figure(title, figsize=(6.4, 4.0))
        if self._figure.canvas.required_interactive_framework is None:
            pyplot.close(self._figure)
            raise MpcrlError(
                f"render_mode='human' needs a screen, and Matplotlib found none (its backend is "
                f"{pyplot.get_backend()!r}); use render_mode='rgb_array'"
            )
        self._axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set_axis_off()
        self._image: Any = None

    def show(self, frame: np.ndarray, seconds: float) -> None:
        if self._image is None:
            self._image = self._axes.imshow(frame)
        self._image.set_data(frame)
        self._pyplot.pause(seconds)

    def close(self) -> None:
        self._pyplot.close(self._figure)
