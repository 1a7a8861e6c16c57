"""Videos of episodes, and what draws them without a screen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput, missing
from mpcrl.core.files import atomic
from mpcrl.experiments.episode import Episode
from mpcrl.tasks.canvas import Canvas
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.registry import ANALYTIC_TASKS
from mpcrl.tasks.task import AnalyticTask, Task

_FRAME_RATE = 30.0
"""Frames per second at most, about; a video runs in real time."""

_SIZE = 640, 480
"""Width and height of MuJoCo's pictures: the most that every model has room for."""

_SHADOW_SIZE = 1024
"""Without a graphics card, shadows at MuJoCo's own 4096 would take half of the time."""

# Broken graphics drivers abort the process or raise at its exit: a child process tries them out.
_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
assert picture.std() > 0, "the picture is empty"
print("drawn")
"""


@cache
def renderer_works(backend: str) -> bool:
    """Whether MuJoCo can draw without a window by this backend: glfw, egl or osmesa; takes a second or two."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL], env=environment, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "drawn" in trial.stdout


def working_renderer() -> str | None:
    """The backend that MuJoCo draws with: MUJOCO_GL where it is set and works, else the first that does."""
    chosen = os.environ.get("MUJOCO_GL")
    backends = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
    screen = ("glfw",) if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else ()
    candidates = (chosen,) if chosen else screen + backends
    return next((backend for backend in candidates if renderer_works(backend)), None)


def settle_rendering(task: str, drawing: bool) -> str:
    """Set MUJOCO_GL for this process, which has to be done before MuJoCo is loaded.

    Parameters
    ----------
    task : str
        Its name; an analytic task is not MuJoCo's to draw.
    drawing : bool
        Whether anything will be drawn. If not, no graphics driver is loaded, so that none can do harm.

    Returns
    -------
    str
        Why nothing can be drawn; "" if it can, or if nothing will be.
    """
    drawing = drawing and task not in ANALYTIC_TASKS
    backend = working_renderer() if drawing else None
    why = _no_renderer() if drawing and backend is None else ""
    os.environ["MUJOCO_GL"] = backend or "disable"
    return why


def _no_renderer() -> str:
    chosen = os.environ.get("MUJOCO_GL")
    reason = f"MUJOCO_GL={chosen} does not work here" if chosen else "neither EGL nor OSMesa works here"
    return f"MuJoCo cannot draw: {reason}; on Debian or Ubuntu, apt install libosmesa6 and leave MUJOCO_GL unset"


def save_video(task: Task, episode: Episode, path: Path) -> None:
    """Write an episode as an H.264 video (mp4) that runs in real time.

    Raises
    ------
    InvalidInput
        Nothing can be drawn here, or the file not be written; the message says why.
    MissingDependency
        A package is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise missing("imageio-ffmpeg", "video") from error

    every = _every(task)
    pictures = _pictures(task, episode, every)
    first = next(pictures)
    height, width = (size - size % 2 for size in first.shape[:2])  # H.264 halves the colours' resolution
    rate = 1 / (every * task.dt)
    with atomic(path) as scratch:
        # crf 20: sharp; veryfast: a third of the time for a tenth more bytes
        settings = ["-crf", "20", "-preset", "veryfast", "-movflags", "+faststart"]
        writer = imageio_ffmpeg.write_frames(
            str(scratch), (width, height), fps=rate, quality=None, macro_block_size=2, output_params=settings
        )
        try:
            writer.send(None)
            for picture in (first, *pictures):
                writer.send(np.ascontiguousarray(picture[:height, :width]))
        except OSError as error:
            raise InvalidInput(f"ffmpeg could not write {path}: {error}") from error
        finally:
            writer.close()


def picture_count(task: Task, episode: Episode) -> int:
    """Pictures in the video of an episode."""
    return len(range(0, len(episode.states), _every(task)))


def _every(task: Task) -> int:
    """Control steps from one picture to the next."""
    return max(1, round(1 / (_FRAME_RATE * task.dt)))


def _pictures(task: Task, episode: Episode, every: int) -> Iterator[np.ndarray]:
    """Pictures uint8 [height, width, 3] of the first and each `every`-th later state."""
    if isinstance(task, AnalyticTask):
        if task.draw is None:
            raise InvalidInput(f"task {task.name!r} has no function `draw`")
        for state in episode.states[::every]:
            canvas = Canvas()
            task.draw(canvas, tuple(state.tolist()), task.params)
            yield canvas.image()
    elif isinstance(task, MujocoTask):
        yield from _replayed(task, episode, every)
    else:
        raise InvalidInput(f"no way is known to draw a {type(task).__name__}")


def _replayed(task: MujocoTask, episode: Episode, every: int) -> Iterator[np.ndarray]:
    """Drawn while the same controls from the same seed go through the environment once more."""
    if working_renderer() is None:
        raise InvalidInput(_no_renderer())
    env = task.make_env(render_mode="rgb_array")
    try:
        env.reset(seed=episode.seed)
        _aim(env, task.mj_model(env))
        yield env.render()
        shown = episode.controls[:-1] if episode.ended == "diverged" else episode.controls
        for step, control in enumerate(shown, 1):
            env.step(control)
            if step % every == 0:
                yield env.render()
    finally:
        env.close()


def _aim(env: Any, model: Any) -> None:
    """Look through the model's first camera, which as a rule follows the robot; Gymnasium's default stays behind."""
    inner, camera = env.unwrapped, 0 if model.ncam else -1
    model.vis.quality.shadowsize = min(model.vis.quality.shadowsize, _SHADOW_SIZE)
    renderer = getattr(inner, "mujoco_renderer", None)
    if renderer is not None:
        renderer.width, renderer.height, renderer.camera_id = *_SIZE, camera
    settings = getattr(inner, "render_kwargs", None)  # dm_control, through shimmy
    if isinstance(settings, dict):
        settings.update(width=_SIZE[0], height=_SIZE[1], camera_id=camera)
