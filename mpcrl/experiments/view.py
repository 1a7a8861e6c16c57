"""What `mpcrl view` shows: a MuJoCo task under its controller in the browser, by mjviser, and sliders for both."""

from __future__ import annotations

import contextlib
import copy
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from mpcrl.control.controller import Controller
from mpcrl.control.plan import Plan
from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput, missing
from mpcrl.experiments.configure import planner_arguments, planner_for, predictor_for
from mpcrl.experiments.worlds import MujocoWorld
from mpcrl.planners.planner import Planner
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import Task

_FRAME_S, _PATHS_S = 1 / 30, 1 / 8  # between two pictures, and two of the paths, whose rollouts take time from planning
_MOST_PATHS = 20
_PLAN, _CHEAP, _DEAR = (255, 90, 0), (0, 110, 255), (190, 205, 225)  # colours


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A planner by name, as `planner_for` takes it; what is not given is as in the task's preset."""

    planner: str | None = None
    budget: int | None = None
    horizon: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def made(self, task: Task) -> Planner:
        """The planner."""
        return planner_for(task, self.planner, budget=self.budget, horizon=self.horizon, options=self.options)

    def width(self, task: Task) -> float | None:
        """Of the planner's noise; None where it has none."""
        _, arguments = planner_arguments(task, self.planner, options=self.options)
        return arguments.get("width")


class View:
    """A task, its controller and a page that shows both; a context manager.

    Parameters
    ----------
    task : MujocoTask
    settings : Settings
    seed : int
        Of the controller and the first episode; each later one counts it up.
    threads : int, optional
        To plan with.
    host : str
    port : int
        0 for a free one.

    Attributes
    ----------
    controller : Controller
        A new one after each change of the planner.
    address : str
        Of the page.
    paused : bool

    Raises
    ------
    InvalidInput
        The task is not one of MuJoCo, or the port is taken.
    MissingDependency
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        *,
        seed: int = 0,
        threads: int | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
    ) -> None:
        try:
            import mjviser
            import viser
        except ImportError as error:
            raise missing(error.name or "mjviser", "view") from error
        if not isinstance(task, MujocoTask):
            raise InvalidInput(f"mpcrl view shows MuJoCo tasks; for {task.name!r} use: mpcrl run {task.name} --video")
        port = _free(host, port)  # before all that takes long
        self.task, self.paused, self._settings = task, False, settings
        self._seed, self._episode, self._threads = seed, 0, threads
        self._model = predictor_for(task).model
        self._world = MujocoWorld(task)
        self._changes: dict[str, Callable[[], None]] = {}  # wanted on the page, by what they are of; made between steps
        self._plan: Plan | None = None
        self._sum, self._steps, self._drawn, self._drawn_paths, self._pace = 0.0, 0, 0.0, 0.0, 1.0
        self.controller = self._controller(settings)
        self._tuned: dict[str, float] = {}  # params that the page has changed
        self._state: np.ndarray
        self._reset()
        self.controller.warmup(self._state)
        self._server = viser.ViserServer(host, port, f"mpcrl: {task.name}", verbose=False)
        self.address = f"http://{host}:{self._server.get_port()}"
        scene_model = copy.copy(self._world.mj_model)  # the scene sets colours and sizes in it
        self._scene = mjviser.ViserMujocoScene(self._server, scene_model, num_envs=1)
        self._make_gui()
        self.draw()

    @property
    def params(self) -> Any:
        """Of the task, in this episode, with what was changed on the page."""
        return self._world.params._replace(**self._tuned) if self._tuned else self._world.params

    # ---- the loop ------------------------------------------------------------------------------------------------
    def run(self, steps: int | None = None) -> None:
        """Control in real time, or as fast as plans are; until Ctrl-C, or so many control steps are done."""
        left = None if steps is None else positive_integer("steps", steps)
        begun = due = time.perf_counter()
        with contextlib.suppress(KeyboardInterrupt):
            while left is None or left > 0:
                if self.paused:
                    self._apply()
                    time.sleep(_FRAME_S)
                    due = time.perf_counter()
                else:
                    self.step()
                    left = None if left is None else left - 1
                    due += self.task.dt
                    now = time.perf_counter()
                    time.sleep(max(0.0, due - now))
                    due = max(due, now)  # time that was lost is not caught up with
                    took, begun = time.perf_counter() - begun, time.perf_counter()
                    self._pace += 0.1 * (self.task.dt / took - self._pace)
                if time.perf_counter() - self._drawn >= _FRAME_S:
                    self.draw()

    def step(self) -> None:
        """One control step, after what was changed on the page."""
        self._apply()
        self._seen = self._state
        self._plan = self.controller.plan(self._state, params=self.params)
        outcome = self._world.step(self._plan.control)
        self._state = outcome.state
        self._sum, self._steps = self._sum + outcome.reward, self._steps + 1
        if outcome.ended:
            self._reset()

    def draw(self) -> None:
        """Show the world as it is, and now and then the paths of the last plan."""
        self._drawn, paths = time.perf_counter(), None
        if self._drawn - self._drawn_paths >= _PATHS_S and self._plan is not None:
            paths, self._drawn_paths = self.paths(self._plan), time.perf_counter()
        with self._server.atomic():
            self._scene.update_from_mjdata(self.task.mj_data(self._world.env))
            self._status.content = self._told()
            if paths is not None:
                self._draw_paths(paths)

    def paths(self, plan: Plan) -> np.ndarray:
        """Where the chosen body goes under the plan, and under its cheapest samples after it: [paths, H + 1, 3], m."""
        import mujoco

        samples = self.controller.cheapest(round(self._shown.value))
        controls = [plan.controls, *samples]
        model, kind = self._world.mj_model, mujoco.mjtState.mjSTATE_INTEGRATION
        data, body = mujoco.MjData(model), self._bodies.index(self._body.value)
        found = np.full((len(controls), self.controller.horizon + 1, 3), np.nan)
        for sequence, path in zip(controls, found, strict=True):
            (states,) = self._model.rollout(self._seen, sequence[None], 0, self.params)
            for place, state in zip(path, states, strict=False):
                if not np.isfinite(state).all():
                    break
                mujoco.mj_setState(model, data, state, kind)
                mujoco.mj_kinematics(model, data)
                place[:] = data.xpos[body]
        return found

    def close(self) -> None:
        """Take the page away, and close the world."""
        self._server.stop()
        self._world.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- what the page may change ----------------------------------------------------------------------------------
    def change(self, **settings: Any) -> None:
        """Plan with another budget, horizon or width from the next step on; what a slider does."""
        wanted = self._settings
        if "width" in settings:
            wanted = replace(wanted, options={**wanted.options, "width": settings.pop("width")})
        wanted = replace(wanted, **settings)
        try:
            self.controller = self._controller(wanted)
        except InvalidInput as error:
            self._trouble = str(error)
            return
        self._settings, self._trouble, self._plan = wanted, "", None

    def tune(self, name: str, value: float) -> None:
        """Plan with another value of one of the task's parameters from now on; what a slider does."""
        self._tuned[name] = value

    def _controller(self, settings: Settings) -> Controller:
        return Controller(
            self.task, settings.made(self.task), model=self._model, seed=self._seed, threads=self._threads
        )

    def _reset(self) -> None:
        self._state = self._world.reset(self._seed + self._episode)
        if self._world.edited:
            self._model.use(self._world.nominal_model)
        self.controller.reset()
        self._episode, self._steps, self._sum, self._plan = self._episode + 1, 0, 0.0, None

    def _apply(self) -> None:
        while self._changes:
            _, change = self._changes.popitem()
            change()

    def _want(self, name: str, change: Callable[[], None]) -> None:
        """Called by the page's threads; a later wish replaces an earlier one."""
        self._changes[name] = change

    def _make_gui(self) -> None:
        gui, self._trouble = self._server.gui, ""
        planner, width = self.controller.planner, self._settings.width(self.task)
        self._status = gui.add_markdown("")
        pause, reset = gui.add_button("Pause"), gui.add_button("Reset")

        @pause.on_click
        def _(event: Any) -> None:
            self.paused = not self.paused
            pause.label = "Go on" if self.paused else "Pause"

        reset.on_click(lambda event: self._want("reset", self._reset))
        with gui.add_folder(planner.name):
            self._slider("budget", min(4, planner.budget), 4 * planner.budget, 1, planner.budget)
            self._slider("horizon", min(2, planner.horizon), 4 * planner.horizon, 1, planner.horizon)
            if width is not None:
                self._slider("width", 0.0, max(2.0, 2 * width), 0.01, width)
        model = self._world.mj_model
        self._bodies = [model.body(body).name or f"body {body}" for body in range(model.nbody)]
        with gui.add_folder("Paths"):
            self._shown = gui.add_slider("samples", 0, _MOST_PATHS, 1, 4)
            self._body = gui.add_dropdown("of", self._bodies, initial_value=self._bodies[self._telling_body()])
        numbers = {name: value for name, value in self.params._asdict().items() if isinstance(value, float)}
        if numbers:
            with gui.add_folder("Task", expand_by_default=False):
                for name, value in numbers.items():
                    self._param(name, float(value))
        self._scene.create_visualization_gui()

    def _slider(self, name: str, least: float, most: float, step: float, value: float) -> None:
        slider = self._server.gui.add_slider(name, least, most, step, value)
        slider.on_update(lambda event: self._want(name, lambda: self.change(**{name: slider.value})))

    def _param(self, name: str, value: float) -> None:
        least, most = (min(0.0, 3 * value), max(0.0, 3 * value)) if value else (-1.0, 1.0)
        slider = self._server.gui.add_slider(name, least, most, (most - least) / 300, value)

        slider.on_update(lambda event: self._want(f"params.{name}", lambda: self.tune(name, float(slider.value))))

    def _telling_body(self) -> int:
        """The root body where it moves in more than one way, or else the one at the end of the longest chain."""
        model, depth = self._world.mj_model, [0]
        for body in range(1, model.nbody):
            depth.append(depth[model.body_parentid[body]] + (model.body_dofnum[body] > 0))
        roots = [body for body in range(model.nbody) if depth[body] == 1 and model.body_dofnum[body] > 1]
        return roots[0] if roots else int(np.argmax(depth))

    def _told(self) -> str:
        plan, planner = self._plan, self.controller.planner
        lines = [f"{planner.name}, {planner.budget} x {planner.horizon}; episode {self._episode}, step {self._steps}"]
        if plan is not None:
            lines.append(f"return {self._sum:,.1f}; {self._pace:.2f} x real time")
            lines.append(f"plan {plan.milliseconds:.1f} ms, {plan.status.value}, {plan.failed} failed")
        return "  \n".join([*lines, *([f"**{self._trouble}**"] if self._trouble else [])])

    def _draw_paths(self, paths: np.ndarray) -> None:
        shades = np.linspace(_CHEAP, _DEAR, max(1, len(paths) - 1))
        colours = np.repeat(np.concatenate([[_PLAN], shades])[: len(paths), None], paths.shape[1] - 1, axis=1)
        parts = np.stack([paths[:, :-1], paths[:, 1:]], axis=2)  # [paths, H, 2, 3]
        whole = np.isfinite(parts).all(axis=(2, 3))
        points, colours = parts[whole], np.repeat(colours[whole][:, None], 2, axis=1).astype(np.uint8)
        # mjviser moves what is fixed where its camera follows the robot
        self._server.scene.add_line_segments("/fixed_bodies/paths", points=points.astype(np.float32), colors=colours)


def _free(host: str, port: int) -> int:
    """The port if it is free, or any that is for 0; viser would silently take the next one."""
    try:
        with socket.create_server((host, port)) as server:
            return server.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"cannot serve at {host}:{port}: {error}; give --port 0 for a free one") from error
