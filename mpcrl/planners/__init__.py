"""Planners by name: `mpcrl.planners.icem(budget=100, horizon=30)`."""

from __future__ import annotations

from collections.abc import Callable

from mpcrl.planners.ilqr import ILQR, ilqr
from mpcrl.planners.planner import Planner
from mpcrl.planners.presets import (
    PRESETS,
    cem,
    dial,
    icem,
    kmppi,
    log_mppi,
    mppi,
    planet,
    predictive_sampling,
    preset,
    random_shooting,
    smppi,
)
from mpcrl.planners.sampling import SamplingPlanner
from mpcrl.planners.warm_start import WarmStart

PLANNERS: dict[str, Callable[..., Planner]] = {**PRESETS, "ilqr": ilqr}
"""All planners by name, as the command line has them; `PRESETS` are those that sample."""

__all__ = [
    "ILQR",
    "PLANNERS",
    "PRESETS",
    "SamplingPlanner",
    "WarmStart",
    "cem",
    "dial",
    "icem",
    "ilqr",
    "kmppi",
    "log_mppi",
    "mppi",
    "planet",
    "predictive_sampling",
    "preset",
    "random_shooting",
    "smppi",
]
