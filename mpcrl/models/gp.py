"""Gaussian processes as the model: particles through what they are sure of, or through functions drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from mpcrl.core.checks import positive_integer
from mpcrl.core.configuration import configuration, short
from mpcrl.core.errors import InvalidInput
from mpcrl.kernels import gaussian_process as kernels
from mpcrl.kernels.ensemble import Numbers
from mpcrl.models.analytic import check_by_calling
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.gp_functions import Draws, draw, packed
from mpcrl.models.gp_local import LocalGP
from mpcrl.models.local import LocalModel
from mpcrl.models.particles import Job, Particles, Plan
from mpcrl.models.risk import Risk
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.task import AnalyticTask, Task

PROPAGATIONS = ("pathwise", "fresh", "mean")


class GP(Particles):
    """The model of a task that a `GaussianProcess` learned.

    Its inputs are what `features_of(task)` sees of states and controls, its outputs the changes of states over a
    control step, one per number of a state (or the next value, where features say `absolute`).

    Parameters
    ----------
    task : AnalyticTask or MujocoTask
        Gives cost (of plans, where that is another one), terminal cost and end.
    process : GaussianProcess
    propagation : {"pathwise", "fresh", "mean"}
        How particles get from state to state. "pathwise": each through a function of its own, drawn from the process
        and the same at all steps and for all candidates, so that what is not known stays what it is along a trajectory.
        "fresh": each step by the mean and another normal number times the deviation, as MC-PILCO has it (Amadio et al.
        2022): errors of the model become white noise. "mean": one particle, at the means.
    particles : int
        P, trajectories of each candidate; with "mean" there is one.
    noise : {"fresh", "fixed", "none"}
        Of the observations, and of "fresh" steps too: as of `Ensemble`.
    risk : Risk
        Folds the costs of the particles of a candidate; their mean if not given.
    waves : int
        Of each drawn function; see `draw`.
    precision : {"float64", "float32"}
        In which processes are evaluated; states, costs and sums of them are float32. float32 takes half the time, and
        is precise enough where signal / noise is below about 100; see `Predictor`.
    seed : int
        64 bits.

    Raises
    ------
    InvalidInput

    Notes
    -----
    Same arguments, same costs, at any number of threads.
    """

    _HEAD: ClassVar = {"format": "mpcrl-gp", "version": 1}
    FILE = "gp.json"
    _SETTINGS = ("propagation", "particles", "noise", "waves", "precision", "seed")
    _ALSO = ("features",)

    def __init__(
        self,
        task: Task,
        process: GaussianProcess,
        *,
        propagation: str = "pathwise",
        particles: int = 20,
        noise: str = "fresh",
        risk: Risk | None = None,
        waves: int = 256,
        precision: str = "float64",
        seed: int = 0,
    ) -> None:
        if propagation not in PROPAGATIONS:
            raise InvalidInput(f"propagation must be one of {', '.join(PROPAGATIONS)}, got {propagation!r}")
        if precision not in ("float32", "float64"):
            raise InvalidInput(f"precision must be float32 or float64, got {precision!r}")
        self._features = features_of(task)
        self._begin(
            task, self._features, propagation=propagation, particles=particles, noise=noise, risk=risk, seed=seed
        )
        self.waves, self.precision = positive_integer("waves", waves), precision
        width, nx = self._features.size, self._features.nx
        if (process.inputs.shape[1], process.outputs) != (width, nx):
            raise InvalidInput(
                f"task {task.name!r} needs processes of {width} inputs and {nx} outputs, got "
                f"{process.inputs.shape[1]} and {process.outputs}; make them by features_of(task)"
            )
        self._connect(self._features, kernels.forward(process.kernel, width, precision))
        self._known = process, self._read(process)
        self._local: LocalGP | None = None

    def use(self, process: GaussianProcess) -> None:
        """Predict with these processes from now on, of the same kernel, inputs and outputs. Nothing is compiled."""
        mine = self.process
        if (process.kernel, process.lengthscale.shape) != (mine.kernel, mine.lengthscale.shape):
            raise InvalidInput("processes of another kernel, or of other inputs and outputs, need a new GP")
        self._known = process, self._read(process)  # at once: another thread may be planning

    @property
    def process(self) -> GaussianProcess:
        """What it predicts with; see `use`."""
        return self._known[0]

    @property
    def local(self) -> LocalGP:
        """Derivatives and rollouts under feedback of the processes' means, for gradient planners."""
        if not isinstance(self.task, AnalyticTask):
            raise InvalidInput(
                f"a gradient planner needs the derivatives of the cost, which task {self.task.name!r} has as a "
                f"{type(self.task).__name__} none of; use an AnalyticTask, or a sampling planner (icem, mppi, ...)"
            )
        process, local = self.process, self._local  # read once: another thread may put others in their place
        if local is None or local.process is not process:
            costs = LocalModel(self.task, check_by_calling(self.task)) if local is None else local.costs
            self._local = local = LocalGP(self.task, self._features, process, costs)
        return local

    @property
    def features(self) -> Features:
        """What states consist of."""
        return self._features

    def of(self, task: Task) -> Self:
        """The same model under the costs of another task with the same states."""
        return type(self)(task, self.process, risk=self.risk, **self._settings())

    @classmethod
    def _rebuilt(cls, task: Task, files: Mapping[str, bytes], about: dict[str, Any]) -> Self:
        process = GaussianProcess.of_files(files)
        features = about.pop("features")
        if features != configuration(features_of(task)):
            raise InvalidInput(f"the model of {short(features)} is not one of task {task.name!r}")
        return cls._made(task, process, about)

    def _learned_files(self) -> dict[str, bytes]:
        return self.process.files()

    def _plan(self) -> Plan:
        return Plan(self.propagation, self.particles, 1, paired=False, measured=False)

    def _job(self, plan: Plan, horizon: int, t: int) -> Job:
        process, numbers = self._known
        rules = self._rules(
            plan, paired=False, outputs=self.nx, cost=-1, end=-1, teams=0, price=np.float32(0),
            limit=np.float32(np.inf), excess=np.float32(np.inf),
        )  # fmt: skip
        particles = np.arange(plan.particles)
        members = np.tile((particles % len(numbers.weights))[:, None], (1, horizon))
        count = len(process.centers)
        terms = count * (20 if plan.propagation != "fresh" else 20 + count / 2) + 20 * self.waves
        return Job(numbers, rules, members, particles, terms * self.nx)

    def _expected(self, state: np.ndarray, control: np.ndarray) -> np.ndarray:
        return self.process.predict(self._features.inputs(state, control)).mean

    def _read(self, process: GaussianProcess) -> Numbers:
        """Processes, or functions drawn from them, as the kernels read them."""
        drawn: Draws | None = None
        if self.propagation == "pathwise":
            drawn = draw(process, self.particles, waves=self.waves, seed=self.seed)
        center = process.inputs.mean(axis=0).astype(np.float32)
        spread = self.propagation == "fresh"
        numbers, table = packed(process, center.astype(np.float64), self.precision, drawn, spread)
        nx, features = self.nx, self._features
        changes = np.ones(nx, np.float32)
        changes[list(features.absolute)] = 0
        return Numbers(
            weights=numbers.view(np.float32),  # bits of the numbers
            biases=np.zeros((len(numbers), 1), np.float32),
            table=table,
            plain=np.array(features.plain, np.int64),
            angles=np.array(features.angles, np.int64),
            center=center,
            changes=changes,
            least=np.zeros(nx, np.float32),
            most=np.zeros(nx, np.float32),
            scale=np.ones(nx, np.float32),
        )

    def _written(self, about: dict[str, Any]) -> dict[str, Any]:
        return about | {"features": configuration(self._features)}
