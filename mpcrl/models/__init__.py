"""Models predict what control sequences cost: the user's functions, or MuJoCo's physics."""

from __future__ import annotations

from mpcrl.core.errors import InvalidInput
from mpcrl.models.model import Model
from mpcrl.tasks.task import AnalyticTask, Task


def model_of(task: Task) -> Model:
    """The true model of a task: its own dynamics or its own physics."""
    if isinstance(task, AnalyticTask):
        from mpcrl.models.analytic import Analytic

        return Analytic(task)
    from mpcrl.tasks.mujoco_task import MujocoTask

    if isinstance(task, MujocoTask):
        from mpcrl.models.mujoco import MuJoCo

        return MuJoCo(task)
    raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, which has no model of its own; pass model=...")
