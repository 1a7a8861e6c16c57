"""The control problem, stated once.

minimise over u_0 .. u_{H-1}    sum_t cost(x_t, u_t, t) + terminal(x_H)
subject to                      x_{t+1} = step(x_t, u_t),   control_low <= u_t <= control_high
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput
from mpcrl.tasks.goal import Goal


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What every control problem has.

    Attributes
    ----------
    name : str
        As `mpcrl list` shows it.
    dt : float
        Control period, s.
    control_low, control_high : ndarray [nu]
        Bounds; they may be asymmetric.
    params : NamedTuple
        Numbers and arrays that `cost` (and `step`) read; their values may change at run time.
    cost, terminal, terminated : callable
        Stage cost, optional cost of the last state, optional end of the episode. Signatures: see the subclasses.
    episode_steps : int
        Control steps in an episode.
    preset : mapping
        What `mpcrl run` uses without flags: `planner`, `budget`, `horizon`, options of that planner, and
        `controls_per_plan` and `model` where they are not 1 and the true one.
    angles, unseen : tuple of str
        Of the state's numbers by name, for learned models: those that are angles, and those that the dynamics do not
        depend on; see `Features`. "*" stands for any part of a name: "xpos[*, 0]".
    speeds : mapping of str to str
        Of the state's numbers by name: which other number is the rate of change of one, as {"angle": "rate"}. MuJoCo's
        joints that slide or turn need none.
    goal : Goal, optional
        What methods for few data minimise: those that carry a normal belief need a cost of known expectation.
    """

    name: str
    dt: float
    control_low: np.ndarray
    control_high: np.ndarray
    params: Any
    cost: Callable[..., Any]
    terminal: Callable[..., float] | None = None
    terminated: Callable[..., bool] | None = None
    episode_steps: int
    preset: Mapping[str, Any] = field(default_factory=dict)
    angles: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    speeds: Mapping[str, str] = field(default_factory=dict)
    goal: Goal | None = None

    def __post_init__(self) -> None:
        low, high = (np.array(bound, np.float64, ndmin=1) for bound in (self.control_low, self.control_high))
        if low.ndim != 1 or low.shape != high.shape or not np.isfinite([low, high]).all() or not (low < high).all():
            raise InvalidInput(
                f"task {self.name!r}: control bounds must be two finite vectors with low < high; "
                f"got low {low.tolist()}, high {high.tolist()}"
            )
        if not (np.isfinite(self.dt) and self.dt > 0):
            raise InvalidInput(f"task {self.name!r}: dt must be a positive number of seconds, got {self.dt!r}")
        if self.episode_steps < 1:
            raise InvalidInput(f"task {self.name!r}: episode_steps must be at least 1, got {self.episode_steps!r}")
        for name, bound in (("control_low", low), ("control_high", high)):
            bound.setflags(write=False)
            object.__setattr__(self, name, bound)

    @property
    def nu(self) -> int:
        """Number of controls."""
        return self.control_low.size


@dataclass(frozen=True, kw_only=True, eq=False)
class AnalyticTask(Task):
    """A problem whose dynamics are the user's own function.

    The functions are plain Python on tuples of floats; `mpcrl.models.Analytic` compiles them into SIMD lanes.

        step(x, u, p) -> x          cost(x, u, t, p) -> float, or a NamedTuple of floats whose sum is the cost
        terminal(x, p) -> float     terminated(x, p) -> bool      solved(x, p) -> bool

    `t` is the number of control steps since the reset: a number, or an index into arrays of `p`.

    Attributes
    ----------
    state_names, control_names : tuple of str
        One per state and control, with units in the docstring of the task's module.
    reset : callable
        `reset(rng) -> ndarray [nx]`, the start of an episode.
    solved : callable, optional
        Whether the state is what the task asks for (say: upright).
    draw : callable, optional
        `draw(canvas, x, p)`: paints the state.
    sensor_noise : tuple of float
        Standard deviation, per number of the state, of normal noise on what is seen of it; none if empty. Costs,
        `terminated` and `solved` are those of the true state.
    """

    state_names: tuple[str, ...]
    control_names: tuple[str, ...]
    step: Callable[..., tuple[float, ...]]
    reset: Callable[[np.random.Generator], np.ndarray]
    solved: Callable[..., bool] | None = None
    draw: Callable[..., None] | None = None
    sensor_noise: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sensor_noise and not (
            len(self.sensor_noise) == self.nx and all(0 <= noise < np.inf for noise in self.sensor_noise)
        ):
            raise InvalidInput(
                f"task {self.name!r}: sensor_noise must be {self.nx} finite numbers of at least 0, or empty; "
                f"got {self.sensor_noise!r}"
            )

    def seen(self, x: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
        """What is seen [nx] of a state: itself, and noise."""
        state = np.array(x, np.float64)
        return state + self.sensor_noise * rng.standard_normal(self.nx) if self.sensor_noise else state

    @property
    def nx(self) -> int:
        """Number of states."""
        return len(self.state_names)
