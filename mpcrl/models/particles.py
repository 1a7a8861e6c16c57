"""What learned models have in common: particles of candidates through what was learned, under the task's own costs.

One kernel (`kernels.ensemble`) does all rollouts; what was learned is a hook of it, and so are the task's functions.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from mpcrl.core.bundle import from_json, read_bundle, to_json, write_bundle
from mpcrl.core.candidates import Candidates
from mpcrl.core.checks import finite_vector, positive_integer
from mpcrl.core.configuration import configuration, rebuilt
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.core.random import LANES
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import ensemble
from mpcrl.kernels.ensemble import Numbers, Rules
from mpcrl.kernels.network import TARGET
from mpcrl.models.risk import RISKS, Mean, Risk
from mpcrl.models.task_hooks import hooks_of
from mpcrl.tasks.features import Features
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task

NOISE = {"fresh": ensemble.FRESH, "fixed": ensemble.FIXED, "none": ensemble.NONE}
_MOST_PARTICLES = 2**16 - 1
"""Noise has 16 bits to tell them apart."""
_FLOP_PER_SECOND = 2e10
"""Of one thread, about: only to tell whether a second one pays."""
_TOGETHER_LANES = 32
"""Candidates of a tile that holds all of their particles: of larger ones there would be too few for all threads."""


class Plan(NamedTuple):
    """How particles go: how many, and how many of them in one tile; whether those of equal number, one of each member,
    have equal noise; and whether plans pay where members disagree."""

    propagation: str | int
    particles: int
    together: int
    paired: bool
    measured: bool


class Trace(NamedTuple):
    """States [P, N, H+1, nx], and what was predicted of the next ones: means and standard deviations [P, N, H, nx]."""

    states: np.ndarray
    means: np.ndarray
    stds: np.ndarray


_NO_TRACE = Trace(*(np.empty((0, 0, 0, 0)) for _ in range(3)))


class Job(NamedTuple):
    """What the kernel is given of a plan.

    Attributes
    ----------
    numbers : Numbers
    rules : Rules
    members : ndarray [P, H] int64
    draws : ndarray [P] int64
    work : float
        Multiply-adds of one step of a particle, about.
    """

    numbers: Numbers
    rules: Rules
    members: np.ndarray
    draws: np.ndarray
    work: float


class Particles(abc.ABC):
    """A learned model of a task.

    A subclass calls `_begin`, sets `_forward` (the address of what was learned, as a hook), and says by `_job` how a
    plan goes.
    """

    _HEAD: ClassVar[Mapping[str, Any]]
    """Of its folder; see `read_bundle`."""
    FILE: ClassVar[str]
    """Name of the JSON file with its settings."""
    _SETTINGS: ClassVar[tuple[str, ...]]
    """Arguments beside task, what was learned, and risk."""
    _ALSO: ClassVar[tuple[str, ...]] = ()
    """What else its file says."""

    risk: Risk
    task: AnalyticTask | MujocoTask
    propagation: str | int

    def _begin(
        self,
        task: Task,
        features: Features,
        *,
        propagation: str | int,
        particles: int,
        noise: str,
        risk: Risk | None,
        seed: int,
    ) -> None:
        """Take what all have in common."""
        if not isinstance(task, AnalyticTask | MujocoTask):
            raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, whose cost nobody can read")
        if noise not in NOISE:
            raise InvalidInput(f"noise must be one of {', '.join(NOISE)}, got {noise!r}")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
            raise InvalidInput(f"seed must be an integer in [0, 2^64), got {seed!r}")
        self.task, self.dt, self.dtype = task, task.dt, np.dtype(np.float32)
        self.nx = features.nx
        self.propagation = int(propagation) if isinstance(propagation, np.integer) else propagation
        self.noise, self.seed = noise, int(seed)
        self.particles = 1 if propagation == "mean" else positive_integer("particles", particles)
        if self.particles > _MOST_PARTICLES:
            raise InvalidInput(f"particles must be at most {_MOST_PARTICLES}, got {particles}")
        self.risk = risk or Mean()

    def _connect(
        self, features: Features, forward: int, *, learned_cost: bool = False, learned_end: bool = False
    ) -> None:
        """Compile or load the task's functions, beside the hook `forward` of what was learned."""
        cost = hooks_of(self.task, features, learned_cost=learned_cost, learned_end=learned_end)
        self._coerce = cost.coerce
        self._record_type: Any = getattr(cost.module, "Record", None)
        self._hooks = cost.hooks(forward)

    @property
    @abc.abstractmethod
    def features(self) -> Features:
        """What states consist of."""

    @abc.abstractmethod
    def _plan(self) -> Plan:
        """How its particles go."""

    @abc.abstractmethod
    def _job(self, plan: Plan, horizon: int, t: int) -> Job:
        """What the kernel is given of it."""

    @abc.abstractmethod
    def _expected(self, state: np.ndarray, control: np.ndarray) -> np.ndarray:
        """The outputs [nout] that are expected after a state [nx] and a control [nu]."""

    @abc.abstractmethod
    def of(self, task: Task) -> Self:
        """The same model under the costs of another task with the same states."""

    @abc.abstractmethod
    def _learned_files(self) -> dict[str, bytes]:
        """Files of what was learned."""

    @property
    def _learned_cost(self) -> bool:
        """Whether the cost is an output, the one after the states."""
        return False

    # ---- files
    def _settings(self) -> dict[str, Any]:
        """All arguments beside task, what was learned, and risk."""
        return {name: getattr(self, name) for name in self._SETTINGS}

    def save(self, folder: Path) -> None:
        """Write what was learned, and how it is planned with, to a folder in place of an older one.

        Raises
        ------
        InvalidInput
            The folder is something else, or cannot be written.
        """
        write_bundle(Path(folder), self.files(), self._HEAD)

    def files(self) -> dict[str, bytes]:
        """What `of_files` makes the model of."""
        if type(self.risk) not in RISKS.values():
            raise InvalidInput(
                f"a risk of one's own, {type(self.risk).__name__}, cannot be written; the files can name "
                f"{', '.join(RISKS)}"
            )
        about = {
            **self._settings(),
            "risk": configuration(self.risk),
            "terminal": self.task.terminal is not None,
        }
        return {self.FILE: to_json(self._written(about)), **self._learned_files()}

    def _written(self, about: dict[str, Any]) -> dict[str, Any]:
        """Settings as JSON can hold them."""
        return about

    @classmethod
    def load(cls, task: Task, folder: Path) -> Self:
        """What `save` wrote, for the task that it learned.

        Without a terminal cost where what was saved had none, as that of an agent that is to do without.

        Raises
        ------
        DamagedExport
            The files are not what was written.
        InvalidInput
            The task is another.
        """
        return cls.of_files(task, read_bundle(Path(folder), cls._HEAD))

    @classmethod
    def of_files(cls, task: Task, files: Mapping[str, bytes]) -> Self:
        """What `files` wrote; see `load`."""
        about = from_json(files.get(cls.FILE, b""), cls.FILE)
        keys = [*cls._SETTINGS, *cls._ALSO, "risk", "terminal"]
        if about.keys() != set(keys):
            raise DamagedExport(f"{cls.FILE} must have {', '.join(keys)}, got {', '.join(about)}")
        if not about.pop("terminal"):
            task = dataclasses.replace(task, terminal=None)
        return cls._rebuilt(task, files, about)

    @classmethod
    @abc.abstractmethod
    def _rebuilt(cls, task: Task, files: Mapping[str, bytes], about: dict[str, Any]) -> Self:
        """The model of a task, files, and settings with a risk as JSON has them."""

    @classmethod
    def _made(cls, task: Task, learned: Any, about: dict[str, Any]) -> Self:
        """The model of what was learned and settings with a risk, both as they were read."""
        make: Any = cls
        try:
            return make(task, learned, risk=rebuilt(about.pop("risk"), RISKS, "risk"), **about)
        except (InvalidInput, TypeError) as error:
            raise DamagedExport(f"{cls.FILE}: {error}") from error

    # ---- what planners ask
    def costs(
        self, state: np.ndarray, candidates: Candidates, t: int, params: Any, threads: ThreadBudget
    ) -> np.ndarray:
        """Cost of each candidate [N]; see `Model.costs`."""
        return self.risk(self._run(state, candidates, t, params, threads, self._plan())[: self.particles])

    def sampled(self, state: np.ndarray, controls: np.ndarray, t: int = 0, params: Any = None) -> np.ndarray:
        """Predicted states [P, N, H+1, nx] of all particles under controls [N, H, nu]; the first is `state`."""
        return self._traced(state, controls, t, params, self._plan()).states[: self.particles]

    def rollout(self, state: np.ndarray, controls: np.ndarray, t: int, params: Any) -> np.ndarray:
        """Mean over the particles of the predicted states [N, H+1, nx] of controls [N, H, nu]."""
        return self.sampled(state, controls, t, params).mean(axis=0)

    def terms(self, state: np.ndarray, control: np.ndarray, t: int, params: Any) -> dict[str, float]:
        """Terms of the stage cost; see `Model.terms`. What is learned or predicted is what is expected of it."""
        state = finite_vector("state", state, self.nx)
        control = finite_vector("control", control, self.task.nu)
        mean = self._expected(state, control)
        if self._learned_cost:
            return {"cost": float(mean[self.nx])}
        if isinstance(self.task, AnalyticTask):
            value = self.task.cost(tuple(map(float, state)), tuple(map(float, control)), t, params)
            if hasattr(value, "_asdict"):
                return {name: float(term) for name, term in value._asdict().items()}
            return {"cost": float(value)}
        assert isinstance(self.task, MujocoTask)
        cost = self.task.planning_cost or self.task.cost
        before, after = (self._record(x) for x in (state, self.features.next_states(state, mean)))
        return {"cost": float(cost(before, control, after, t, params))}

    def example_state(self) -> np.ndarray:
        """A state at which an episode may start."""
        if isinstance(self.task, AnalyticTask):
            return finite_vector("reset's state", self.task.reset(np.random.default_rng(0)), self.nx)
        assert isinstance(self.task, MujocoTask)
        env = self.task.make_env()
        try:
            env.reset(seed=0)
            return self.features.read(self.task.mj_data(env))
        finally:
            env.close()

    def _record(self, state: np.ndarray) -> Any:
        fields = self.features.fields
        return self._record_type(*(state[f.start : f.stop].reshape(f.shape) for f in fields))

    def _traced(self, state: np.ndarray, controls: np.ndarray, t: int, params: Any, plan: Plan) -> Trace:
        candidates = Candidates.from_rows(controls, np.float32)
        shape = (plan.particles, candidates.count, candidates.horizon)
        trace = Trace(np.empty((*shape[:2], shape[2] + 1, self.nx)), *(np.empty((*shape, self.nx)) for _ in range(2)))
        params = self.task.params if params is None else params
        self._run(state, candidates, t, params, ThreadBudget.of(None), plan, trace)
        return trace

    def _start(self, state: np.ndarray, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """The state [nx], and the controls [B, H, nu, LANES]."""
        start = finite_vector("state", state, self.nx).astype(np.float32)
        controls = np.require(candidates.blocks(), np.float32, ("C", "A", "W", "E"))
        if controls.shape[2] != self.task.nu or controls.shape[1] < 1:
            raise InvalidInput(
                f"controls must have the shape [samples, horizon, {self.task.nu}], got "
                f"{(candidates.count, *controls.shape[1:3])}"
            )
        return start, controls

    def _rules(self, plan: Plan, **own: Any) -> Rules:
        """Rules of a plan; `own` are those of a kind of model."""
        together = {"moments": ensemble.MOMENTS, "mean": ensemble.MEAN}.get(str(plan.propagation), ensemble.APART)
        return Rules(
            lanes=LANES if plan.together == 1 else max(_TOGETHER_LANES, TARGET.width),
            size=plan.together,
            noise=ensemble.NONE if plan.propagation == "mean" else NOISE[self.noise],
            together=together,
            seed=np.uint64(self.seed),
            **own,
        )

    def _run(
        self,
        state: np.ndarray,
        candidates: Candidates,
        t: int,
        params: Any,
        threads: ThreadBudget,
        plan: Plan,
        trace: Trace | None = None,
    ) -> np.ndarray:
        """Costs [P, N] of all particles."""
        start, controls = self._start(state, candidates)
        horizon = controls.shape[1]
        job = self._job(plan, horizon, int(t))
        # what the kernel does not reach must not look cheap
        out = np.full((plan.particles, candidates.count), np.inf)
        values = self._coerce(params)
        work = 2.0 * job.work * candidates.count * plan.particles * horizon / _FLOP_PER_SECOND
        with threads.for_work(work).kernels():
            ensemble.roll(
                job.rules,
                job.numbers,
                self._hooks,
                controls,
                candidates.count,
                start,
                int(t),
                values,
                job.members,
                job.draws,
                out,
                *(trace or _NO_TRACE),
            )
        return out
