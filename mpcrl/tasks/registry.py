"""The tasks that mpcrl brings along, by name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from mpcrl.core.errors import InvalidInput, MpcrlError, unknown_name
from mpcrl.tasks.task import AnalyticTask, Task

_T_co = TypeVar("_T_co", bound=Task, covariant=True)


class Builders(Mapping[str, Callable[[], _T_co]]):
    """Functions that build tasks, by name; the module of one is imported when it is asked for.

    Parameters
    ----------
    homes : dict
        By name of the task "module:function", the module one of this package.
    """

    def __init__(self, homes: dict[str, str]) -> None:
        self._homes = homes

    def __getitem__(self, name: str) -> Callable[[], _T_co]:
        module, _, function = self._homes[name].partition(":")
        builder: Callable[[], _T_co] = getattr(importlib.import_module(f"mpcrl.tasks.{module}"), function)
        return builder

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


_ANALYTIC = {
    "lqr": "lqr:lqr",
    "pendulum-swingup": "pendulum:pendulum_swingup",
    "pendulum-pilco": "pendulum_pilco:pendulum_pilco",
    "cartpole-swingup": "cartpole:cartpole_swingup",
    "cartpole-balance": "cartpole:cartpole_balance",
    "cartpole-pets": "cartpole_pets:cartpole_pets",
    "cartpole-pilco": "cartpole_pilco:cartpole_pilco",
    "acrobot-swingup": "acrobot:acrobot_swingup",
    "cart-double-pendulum": "cart_double_pendulum:cart_double_pendulum",
    "cart-double-pendulum-pilco": "cart_double_pendulum:cart_double_pendulum_pilco",
    "mountain-car": "mountain_car:mountain_car",
    "reacher-2link": "reacher:reacher_2link",
    "quadrotor-obstacles": "quadrotor:quadrotor_obstacles",
    "diffdrive-costmap": "diffdrive:diffdrive_costmap",
    "racecar": "racecar:racecar",
}

_ALL = {
    **_ANALYTIC,
    "InvertedPendulum-v5": "gym_mujoco:inverted_pendulum",
    "InvertedDoublePendulum-v5": "gym_mujoco:inverted_double_pendulum",
    "Reacher-v5": "gym_mujoco:reacher",
    "Pusher-v5": "gym_mujoco:pusher",
    "Swimmer-v5": "gym_mujoco:swimmer",
    "HalfCheetah-v5": "gym_mujoco:half_cheetah",
    "Hopper-v5": "gym_mujoco:hopper",
    "Walker2d-v5": "gym_mujoco:walker2d",
    "Ant-v5": "gym_mujoco:ant",
    "Humanoid-v5": "gym_mujoco:humanoid",
    "HumanoidStandup-v5": "gym_mujoco:humanoid_standup",
    "FetchPickAndPlace-v4": "robotics:fetch_pick_and_place",
    "FetchPickAndPlaceDense-v4": "robotics:fetch_pick_and_place_dense",
    "dm_control/acrobot-swingup-v0": "dm_control.acrobot:swingup",
    "dm_control/acrobot-swingup_sparse-v0": "dm_control.acrobot:swingup_sparse",
    "dm_control/ball_in_cup-catch-v0": "dm_control.ball_in_cup:catch",
    "dm_control/cartpole-balance-v0": "dm_control.cartpole:balance",
    "dm_control/cartpole-balance_sparse-v0": "dm_control.cartpole:balance_sparse",
    "dm_control/cartpole-swingup-v0": "dm_control.cartpole:swingup",
    "dm_control/cartpole-swingup_sparse-v0": "dm_control.cartpole:swingup_sparse",
    "dm_control/cartpole-two_poles-v0": "dm_control.cartpole:two_poles",
    "dm_control/cheetah-run-v0": "dm_control.cheetah:run",
    "dm_control/finger-spin-v0": "dm_control.finger:spin",
    "dm_control/finger-turn_easy-v0": "dm_control.finger:turn_easy",
    "dm_control/finger-turn_hard-v0": "dm_control.finger:turn_hard",
    "dm_control/fish-upright-v0": "dm_control.fish:upright",
    "dm_control/fish-swim-v0": "dm_control.fish:swim",
    "dm_control/hopper-stand-v0": "dm_control.hopper:stand",
    "dm_control/hopper-hop-v0": "dm_control.hopper:hop",
    "dm_control/humanoid-stand-v0": "dm_control.humanoid:stand",
    "dm_control/humanoid-walk-v0": "dm_control.humanoid:walk",
    "dm_control/humanoid-run-v0": "dm_control.humanoid:run",
    "dm_control/manipulator-bring_ball-v0": "dm_control.manipulator:bring_ball",
    "dm_control/pendulum-swingup-v0": "dm_control.pendulum:swingup",
    "dm_control/point_mass-easy-v0": "dm_control.point_mass:easy",
    "dm_control/point_mass-hard-v0": "dm_control.point_mass:hard",
    "dm_control/quadruped-walk-v0": "dm_control.quadruped:walk",
    "dm_control/quadruped-run-v0": "dm_control.quadruped:run",
    "dm_control/reacher-easy-v0": "dm_control.reacher:easy",
    "dm_control/reacher-hard-v0": "dm_control.reacher:hard",
    "dm_control/swimmer-swimmer6-v0": "dm_control.swimmer:swimmer6",
    "dm_control/swimmer-swimmer15-v0": "dm_control.swimmer:swimmer15",
    "dm_control/walker-stand-v0": "dm_control.walker:stand",
    "dm_control/walker-walk-v0": "dm_control.walker:walk",
    "dm_control/walker-run-v0": "dm_control.walker:run",
}

ANALYTIC_TASKS: Mapping[str, Callable[[], AnalyticTask]] = Builders(_ANALYTIC)
TASKS: Mapping[str, Callable[[], Task]] = Builders(_ALL)


def make_task(name: str) -> Task:
    """Build the task of this name.

    Parameters
    ----------
    name : str
        A key of `TASKS`, or `file.py:name` for a task, or a function that returns one, in a file of one's own.

    Raises
    ------
    UnknownName
        There is none; the message offers the nearest names.
    MissingDependency
        The task, or what the file needs of mpcrl, needs a package that is not installed.
    InvalidInput
        The file does not exist or cannot be run, or what is named in it is no task.
    """
    if is_file(name):
        path, _, attribute = name.rpartition(":")
        return _task_in_file(Path(path), attribute)
    if name.endswith(".py"):
        raise InvalidInput(f"{name!r} is a file; which task of it? Write {name}:NAME")
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]()


def is_file(name: str) -> bool:
    """Whether a task's name is `file.py:name`, that of one's own."""
    path, colon, _ = name.rpartition(":")
    return bool(colon) and path.endswith(".py")


def task_of_source(path: Path, attribute: str, source: bytes) -> Task:
    """As `make_task("path:attribute")`, of a source that has been read already: exactly these bytes are executed.

    Raises
    ------
    InvalidInput
        As in `make_task`.
    """
    return _task_in_file(path, attribute, source)


class _SourceOnly(importlib.machinery.SourceFileLoader):
    """Executes the source that it is given, never byte code of some earlier one that lies beside it."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


def _task_in_file(path: Path, attribute: str, source: bytes | None = None) -> Task:
    if not path.is_file():
        raise InvalidInput(f"there is no file {str(path)!r} to take the task {attribute!r} from")
    module_name = f"mpcrl_tasks_of_{path.stem}"
    loader = None if source is None else _SourceOnly(module_name, str(path), source)
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
            found = getattr(module, attribute, None)
            task = found if isinstance(found, Task) or not callable(found) else found()
    except MpcrlError:
        raise
    except SystemExit as error:
        raise InvalidInput(
            f"{path}:{attribute} ended Python (SystemExit: {error}); what the file does as a script belongs under "
            "`if __name__ == '__main__':`"
        ) from error
    except Exception as error:
        raise InvalidInput(f"{path}:{attribute} raised {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        near = difflib.get_close_matches(attribute, [key for key in vars(module) if key[0] != "_"])
        hint = f"; did you mean {' or '.join(near)}?" if near and attribute not in near else ""
        got = f"is {task!r}" if hasattr(module, attribute) else "does not exist"
        raise InvalidInput(f"{path}:{attribute} must be a task or a function that returns one; it {got}{hint}")
    return task


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules beside a task's file can be imported as if the file were run as a script."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:  # what the file did to it aside
            sys.path.remove(entry)
