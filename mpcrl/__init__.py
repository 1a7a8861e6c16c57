"""Model-predictive control and model-based reinforcement learning on CPU cores.

    import mpcrl

    task = mpcrl.make_task("pendulum-swingup")
    controller = mpcrl.Controller(task, mpcrl.planners.icem(budget=128, horizon=30))
    control = controller.act([3.14, 0.0])

Everything loads on first use: `import mpcrl` itself loads no torch, no MuJoCo and no SciPy.
"""

from __future__ import annotations

import importlib as _importlib
import typing as _typing

__version__ = "0.1.0"

_HOMES = {
    "Analytic": "mpcrl.models.analytic",
    "AnalyticTask": "mpcrl.tasks.task",
    "Answer": "mpcrl.control.realtime",
    "Controller": "mpcrl.control.controller",
    "Ensemble": "mpcrl.models.ensemble",
    "EnsembleConfig": "mpcrl.learning.ensemble",
    "Fault": "mpcrl.control.realtime",
    "Goal": "mpcrl.tasks.goal",
    "DamagedExport": "mpcrl.core.errors",
    "GP": "mpcrl.models.gp",
    "GPMPC": "mpcrl.agents.gp_mpc",
    "GPMPCConfig": "mpcrl.agents.gp_mpc",
    "GaussianProcess": "mpcrl.models.gaussian_process",
    "GaussianProcessConfig": "mpcrl.learning.gaussian_process",
    "BeliefPlanner": "mpcrl.planners.belief",
    "Limit": "mpcrl.tasks.limit",
    "MCPILCO": "mpcrl.agents.mc_pilco",
    "MCPILCOConfig": "mpcrl.agents.mc_pilco",
    "MpcrlError": "mpcrl.core.errors",
    "MuJoCo": "mpcrl.models.mujoco",
    "MujocoTask": "mpcrl.tasks.mujoco_task",
    "PETS": "mpcrl.agents.pets",
    "PETSConfig": "mpcrl.agents.pets",
    "PILCO": "mpcrl.agents.pilco",
    "PILCOConfig": "mpcrl.agents.pilco",
    "Plan": "mpcrl.control.plan",
    "RealtimeController": "mpcrl.control.realtime",
    "Replay": "mpcrl.learning.replay",
    "Stats": "mpcrl.control.plan",
    "Status": "mpcrl.control.plan",
    "Task": "mpcrl.tasks.task",
    "SavitzkyGolay": "mpcrl.control.filters",
    "TaskEnv": "mpcrl.tasks.environment",
    "Telemetry": "mpcrl.control.telemetry",
    "barrier": "mpcrl.tasks.constraints",
    "WrongSource": "mpcrl.core.errors",
    "export": "mpcrl.control.export",
    "load": "mpcrl.control.export",
    "load_policy": "mpcrl.agents.policy_agent",
    "make_task": "mpcrl.tasks.registry",
    "mujoco_task": "mpcrl.tasks.mujoco_task",
    "penalty": "mpcrl.tasks.constraints",
    "read_telemetry": "mpcrl.control.telemetry",
    "run_task": "mpcrl.experiments.run",
    "sigmoid": "mpcrl.core.vecmath",
    "smooth_abs": "mpcrl.core.vecmath",
    "train": "mpcrl.experiments.training",
    "wait_until": "mpcrl.control.pacing",
    "wrap_to_pi": "mpcrl.core.vecmath",
    "xml_task": "mpcrl.tasks.xml_task",
}
_ROOMS = ("agents", "control", "core", "experiments", "learning", "models", "planners", "tasks")

__all__ = [
    "GP",
    "GPMPC",
    "MCPILCO",
    "PETS",
    "PILCO",
    "Analytic",
    "AnalyticTask",
    "Answer",
    "BeliefPlanner",
    "Controller",
    "DamagedExport",
    "Ensemble",
    "EnsembleConfig",
    "Fault",
    "GPMPCConfig",
    "GaussianProcess",
    "GaussianProcessConfig",
    "Goal",
    "Limit",
    "MCPILCOConfig",
    "MpcrlError",
    "MuJoCo",
    "MujocoTask",
    "PETSConfig",
    "PILCOConfig",
    "Plan",
    "RealtimeController",
    "Replay",
    "SavitzkyGolay",
    "Stats",
    "Status",
    "Task",
    "TaskEnv",
    "Telemetry",
    "WrongSource",
    "agents",
    "barrier",
    "control",
    "core",
    "experiments",
    "export",
    "learning",
    "load",
    "load_policy",
    "make_task",
    "models",
    "mujoco_task",
    "penalty",
    "planners",
    "read_telemetry",
    "run_task",
    "sigmoid",
    "smooth_abs",
    "tasks",
    "train",
    "wait_until",
    "wrap_to_pi",
    "xml_task",
]

if _typing.TYPE_CHECKING:
    from mpcrl import agents, control, core, experiments, learning, models, planners, tasks
    from mpcrl.agents.gp_mpc import GPMPC, GPMPCConfig
    from mpcrl.agents.mc_pilco import MCPILCO, MCPILCOConfig
    from mpcrl.agents.pets import PETS, PETSConfig
    from mpcrl.agents.pilco import PILCO, PILCOConfig
    from mpcrl.agents.policy_agent import load_policy
    from mpcrl.control.controller import Controller
    from mpcrl.control.export import export, load
    from mpcrl.control.filters import SavitzkyGolay
    from mpcrl.control.pacing import wait_until
    from mpcrl.control.plan import Plan, Stats, Status
    from mpcrl.control.realtime import Answer, Fault, RealtimeController
    from mpcrl.control.telemetry import Telemetry, read_telemetry
    from mpcrl.core.errors import DamagedExport, MpcrlError, WrongSource
    from mpcrl.core.vecmath import sigmoid, smooth_abs, wrap_to_pi
    from mpcrl.experiments.run import run_task
    from mpcrl.experiments.training import train
    from mpcrl.learning.ensemble import EnsembleConfig
    from mpcrl.learning.gaussian_process import GaussianProcessConfig
    from mpcrl.learning.replay import Replay
    from mpcrl.models.analytic import Analytic
    from mpcrl.models.ensemble import Ensemble
    from mpcrl.models.gaussian_process import GaussianProcess
    from mpcrl.models.gp import GP
    from mpcrl.models.mujoco import MuJoCo
    from mpcrl.planners.belief import BeliefPlanner
    from mpcrl.tasks.constraints import barrier, penalty
    from mpcrl.tasks.environment import TaskEnv
    from mpcrl.tasks.goal import Goal
    from mpcrl.tasks.limit import Limit
    from mpcrl.tasks.mujoco_task import MujocoTask, mujoco_task
    from mpcrl.tasks.registry import make_task
    from mpcrl.tasks.task import AnalyticTask, Task
    from mpcrl.tasks.xml_task import xml_task


def __getattr__(name: str) -> _typing.Any:
    if name in _HOMES:
        value = getattr(_importlib.import_module(_HOMES[name]), name)
    elif name in _ROOMS:
        value = _importlib.import_module(f"mpcrl.{name}")
    else:
        raise AttributeError(f"module 'mpcrl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
