"""Planners by name: `mpcrl.planners.icem(budget=100, horizon=30)`."""

from __future__ import annotations

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

__all__ = [
    "PRESETS",
    "SamplingPlanner",
    "cem",
    "dial",
    "icem",
    "kmppi",
    "log_mppi",
    "mppi",
    "planet",
    "predictive_sampling",
    "preset",
    "random_shooting",
    "smppi",
]
