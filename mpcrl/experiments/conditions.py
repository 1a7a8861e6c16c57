"""How the world of a run differs from what its planner takes it for: dead time, noise, another plant, no waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpcrl.core.errors import InvalidInput, unknown_name

MODES = {
    "lockstep": "the world waits until the plan is ready",
    "realtime": "the world does not wait: a control arrives when its plan is ready",
}
"""What `--mode` may be."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the controller has to cope with, and is not told of.

    Attributes
    ----------
    mode : str
        One of `MODES`. In "realtime", a plan that was begun at control step k and took T seconds serves from step
        k + ceil(T / dt) on, with its own controls for those times; until then the plan before it goes on. The next plan
        begins at the step at which the last one is ready. Results then depend on the machine's speed.
    delay : float
        Dead time in s, a multiple of the control period: the controller sees the state of so long ago.
    noise : float
        Standard deviation of normal noise on what the controller sees: on the state of an analytic task; on positions
        and velocities of a MuJoCo task, in its joints' own units.
    plant_scale : mapping of str to float
        The plant's quantities over those of the planning model, such as {"mass": 1.3}; see `worlds.SCALABLE` for
        MuJoCo tasks. Numbers of an analytic task's `params` go by their names: its dynamics change, its costs do not.

    Raises
    ------
    InvalidInput
    """

    mode: str = "lockstep"
    delay: float = 0.0
    noise: float = 0.0
    plant_scale: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)
        for name in ("delay", "noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
                raise InvalidInput(f"{name} must be a finite number of at least 0, got {value!r}")
            object.__setattr__(self, name, float(value))
        scales = {}
        for name, scale in sorted(self.plant_scale.items()):
            if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < np.inf:
                raise InvalidInput(f"plant scale {name} must be a finite number of at least 0, got {scale!r}")
            if scale != 1:
                scales[name] = float(scale)
        object.__setattr__(self, "plant_scale", scales)

    def delay_steps(self, dt: float) -> int:
        """The delay in control periods of `dt` seconds."""
        steps = round(self.delay / dt)
        if abs(steps * dt - self.delay) > 1e-6 * dt:
            below = int(self.delay / dt)
            raise InvalidInput(
                f"a delay must be a multiple of the control period of {dt:g} s; got {self.delay:g} s, "
                f"between {below * dt:g} and {(below + 1) * dt:g}"
            )
        return steps


def parse_scales(texts: Sequence[str]) -> dict[str, float]:
    """`name=factor` texts as a mapping."""
    scales: dict[str, float] = {}
    for text in texts:
        name, _, factor = text.partition("=")
        try:
            scales[name] = float(factor)
        except ValueError as error:
            raise InvalidInput(f"a plant scale is written name=factor, such as mass=1.3; got {text!r}") from error
    return scales
