"""A trained ensemble as the model: thousands of trajectories through its networks in one compiled kernel."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from mpcrl.core.checks import positive_number
from mpcrl.core.compile import load_module
from mpcrl.core.errors import InvalidInput
from mpcrl.core.hooks import address_of
from mpcrl.kernels.ensemble import Numbers
from mpcrl.kernels.network import FORWARD, TARGET, folded, layer_table, layers_source, packed
from mpcrl.models.network import Network
from mpcrl.models.particles import Job, Particles, Plan
from mpcrl.models.risk import Risk
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task


class Uncertainty(NamedTuple):
    """Standard deviations of predicted states, in their units; see `Ensemble.uncertainty`.

    Attributes
    ----------
    epistemic, aleatoric : ndarray [N, H, nx]
    """

    epistemic: np.ndarray
    aleatoric: np.ndarray


class Ensemble(Particles):
    """The model of a task that a `Network` learned.

    Parameters
    ----------
    task : AnalyticTask or MujocoTask
        Gives cost (of plans, where that is another one), terminal cost and end, where the network has not learned cost
        and end. A learned cost counts with its mean; an episode ends after a step whose learned logit is above 0. With
        the propagation "mean" both are means over all members too.
    network : Network
    propagation : {"ts-infinity", "ts1", "moments", "mean"} or int
        How particles get from state to state (Chua et al. 2018, section 5). "ts-infinity": particle p by the member
        elites[p % E] for the whole horizon. "ts1": by another member, drawn anew for every particle and step, and
        shared by all candidates, so that they are compared under equal luck. "moments": as the first, but after each
        step all particles of a candidate are drawn anew from the Gaussian with their mean and variance. "mean": one
        particle, at the mean of all members' means. A number: all by this member.
    particles : int
        P, trajectories of each candidate; with "mean" there is one.
    noise : {"fresh", "fixed", "none"}
        Of the networks' Gaussians: another one for every candidate, particle and step, keyed by the seed and the time
        step; the same for all candidates and times (PEGASUS; Ng and Jordan 2000); or their means alone.
    risk : Risk
        Folds the costs of the particles of a candidate; their mean if not given.
    penalty : float
        Added to the stage cost per unit of disagreement, at least 0.
    limit : float, optional
        Disagreement beyond which a candidate ends.
    limit_cost : float
        What such a candidate pays for that step and each that remains, in the place of their costs. +inf, the default,
        rules it out, whatever the others cost. A finite one has to be above the stage costs that can occur, or planners
        would seek what the model does not know; with it the candidates that stay within the limit longer are cheaper,
        which leads a planner where all leave it.
    precision : {"float32", "bf16"}
        Of weights and activations within the networks; sums, states, noise and costs are float32. bfloat16, with errors
        of a percent of a step, takes half the time on a CPU with AVX512-BF16. On any other CPU the ensemble plans in
        float32 instead, more exactly but slower, with a warning; `precision` says what is used.
    seed : int
        64 bits.

    Raises
    ------
    InvalidInput

    Notes
    -----
    Disagreement of a candidate at one step, with m_p,i the predicted mean of the next state i by particle p, A_e the
    particles of member e that still go on, and s_i the network's `target_scale`, the typical size of a change:

        d = sqrt( 1/nx sum_i Var_e[ mean_{p in A_e} m_p,i ] / s_i^2 )

    Members without such particles do not count. So that members which are equal agree exactly, particles p and p' with
    p // E = p' // E, one of each member, then have the same noise. It needs the propagation "ts-infinity", "moments" or
    "mean", and a number of particles that the number of elites divides.

    Same arguments, same costs, at any number of threads.
    """

    _HEAD: ClassVar = {"format": "mpcrl-ensemble", "version": 1}
    FILE = "ensemble.json"
    _SETTINGS = ("propagation", "particles", "noise", "penalty", "limit", "limit_cost", "precision", "seed")

    def __init__(
        self,
        task: Task,
        network: Network,
        *,
        propagation: str | int = "ts-infinity",
        particles: int = 20,
        noise: str = "fresh",
        risk: Risk | None = None,
        penalty: float = 0.0,
        limit: float | None = None,
        limit_cost: float = np.inf,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        if precision not in ("float32", "bf16"):
            raise InvalidInput(f"precision must be float32 or bf16, got {precision!r}")
        real = int | float | np.number
        if not isinstance(penalty, real) or not 0 <= penalty < np.inf:
            raise InvalidInput(f"penalty must be a finite number of at least 0, got {penalty!r}")
        if not isinstance(limit_cost, real) or not limit_cost > -np.inf:
            raise InvalidInput(f"limit_cost must be a number or inf, got {limit_cost!r}")
        self._begin(
            task, network.features, propagation=propagation, particles=particles, noise=noise, risk=risk, seed=seed
        )
        self.penalty, self.limit_cost = float(penalty), float(limit_cost)
        self.limit = None if limit is None else positive_number("limit", limit)
        self.precision = _available(precision)
        self._check(network)
        paired = self.precision == "bf16"
        layers: Any = load_module(layers_source(network.activation, paired), "layers")
        forward = address_of(layers.forward, *FORWARD)
        self._connect(network.features, forward, learned_cost=network.learned_cost, learned_end=network.learned_end)
        self._known = network, _numbers(network, paired)

    def use(self, network: Network) -> None:
        """Predict with this network from now on: newly trained, of the same shape and features. Nothing is compiled."""
        if _shape(network) != _shape(self.network):
            raise InvalidInput("a network of another shape, or with other features, needs a new Ensemble")
        self._check(network)
        self._known = network, _numbers(network, self.precision == "bf16")  # at once: another thread may be planning

    @property
    def network(self) -> Network:
        """What it predicts with; see `use`."""
        return self._known[0]

    @property
    def features(self) -> Features:
        """What states consist of."""
        return self.network.features

    def of(self, task: Task) -> Self:
        """The same model under the costs of another task with the same states."""
        return type(self)(task, self.network, risk=self.risk, **self._settings())

    def _written(self, about: dict[str, Any]) -> dict[str, Any]:
        return about | {"limit_cost": None if np.isinf(self.limit_cost) else self.limit_cost}

    @classmethod
    def _rebuilt(cls, task: Task, files: Mapping[str, bytes], about: dict[str, Any]) -> Self:
        if about["limit_cost"] is None:
            about["limit_cost"] = np.inf
        network = Network.of_files(files)
        if network.features != features_of(task):
            raise InvalidInput(f"the model of {', '.join(network.features.names)} is not one of task {task.name!r}")
        return cls._made(task, network, about)

    def uncertainty(self, state: np.ndarray, controls: np.ndarray, t: int = 0, params: Any = None) -> Uncertainty:
        """What is not known of the states after each of controls [N, H, nu], apart from what is random about them.

        By particles that keep their members ("ts-infinity", whatever the propagation is), n of each of the E elites.
        With m and s the mean and standard deviation that a particle's member predicts of a state, per number of it:

            epistemic^2 = Var_e[ mean_p m ]      aleatoric^2 = mean_e[ Var_p[m] + mean_p[s^2] ]

        over the particles p of member e. They add up to the variance of all particles.
        """
        teams = len(self.network.elites)
        size = -(-self.particles // teams)
        run = self._traced(
            state, controls, t, params, Plan("ts-infinity", teams * size, 1, paired=True, measured=False)
        )
        means, stds = (a.reshape(size, teams, *a.shape[1:]) for a in (run.means, run.stds))
        within = means.var(axis=0) + (stds**2).mean(axis=0)
        return Uncertainty(means.mean(axis=0).std(axis=0), np.sqrt(within.mean(axis=0)))

    def _check(self, network: Network) -> None:
        """Refuse a network that does not fit the task or the propagation."""
        if network.features.nu != self.task.nu:
            raise InvalidInput(
                f"task {self.task.name!r} has {self.task.nu} controls, the network sees {network.features.nu}"
            )
        if isinstance(self.task, AnalyticTask) and network.features.names != self.task.state_names:
            raise InvalidInput(
                f"task {self.task.name!r} has the states {self.task.state_names}, the network {network.features.names}"
            )
        if isinstance(self.task, MujocoTask) and not network.features.fields:
            raise InvalidInput(
                f"task {self.task.name!r} needs a network of records; make its features by features_of(task)"
            )
        if self.propagation not in ("ts-infinity", "ts1", "moments", "mean"):
            whole = isinstance(self.propagation, int | np.integer) and not isinstance(self.propagation, bool)
            if not (whole and 0 <= int(self.propagation) < network.members):
                raise InvalidInput(
                    "propagation must be ts-infinity, ts1, moments, mean or the number of a member, "
                    f"0 to {network.members - 1}, got {self.propagation!r}"
                )
        teams = len(network.elites)
        if self._measures:
            if self.propagation not in ("ts-infinity", "moments", "mean"):
                raise InvalidInput(
                    "penalty and limit need members that keep their particles: propagation must be ts-infinity, "
                    f"moments or mean, got {self.propagation!r}"
                )
            if self.propagation != "mean" and self.particles % teams:
                raise InvalidInput(
                    f"penalty and limit need as many particles of each of the {teams} members, got {self.particles} "
                    f"particles; take a multiple of {teams}"
                )
            if self.propagation == "moments" and self.particles == teams > 1:
                raise InvalidInput(
                    f"moments need two particles of each of the {teams} members or more where there is a penalty or a "
                    f"limit, for one of each has the same noise; take {2 * teams}"
                )

    @property
    def _measures(self) -> bool:
        """Whether plans depend on disagreement."""
        return self.penalty > 0 or self.limit is not None

    def _plan(self) -> Plan:
        teams = len(self.network.elites)
        if self.propagation == "mean":
            return Plan("mean", teams, teams, self._measures, self._measures)
        whole = self.propagation == "moments" or self._measures
        return Plan(self.propagation, self.particles, self.particles if whole else 1, self._measures, self._measures)

    def _members(self, plan: Plan, horizon: int, t: int) -> np.ndarray:
        """Which member moves each particle at each step [P, H]."""
        elites = np.array(self.network.elites, np.int64)
        if plan.propagation == "ts1":
            drawn = np.random.Generator(np.random.Philox(key=[self.seed, _MEMBERS], counter=[0, t, 0, 0]))
            return elites[drawn.integers(elites.size, size=(plan.particles, horizon))]
        kept = elites[np.arange(plan.particles) % elites.size]
        if isinstance(plan.propagation, int | np.integer):
            kept[:] = plan.propagation
        return np.tile(kept[:, None], (1, horizon))

    def _job(self, plan: Plan, horizon: int, t: int) -> Job:
        network, numbers = self._known
        teams = len(network.elites)
        rules = self._rules(
            plan,
            paired=self.precision == "bf16",
            outputs=network.nout,
            cost=self.nx if network.learned_cost else -1,
            end=network.nout - 1 if network.learned_end else -1,
            teams=teams if plan.measured else 0,
            price=np.float32(self.penalty),
            limit=np.float32(np.inf if self.limit is None else self.limit),
            excess=np.float32(self.limit_cost),
        )
        draws = np.arange(plan.particles) // (teams if plan.paired else 1)
        return Job(numbers, rules, self._members(plan, horizon, t), draws, numbers.weights.shape[1])

    def _expected(self, state: np.ndarray, control: np.ndarray) -> np.ndarray:
        mean: np.ndarray = self.network.predict(state, control).mean[list(self.network.elites)].mean(axis=0)
        return mean

    def _learned_files(self) -> dict[str, bytes]:
        return self.network.files()

    @property
    def _learned_cost(self) -> bool:
        return self.network.learned_cost


_MEMBERS = 4
"""Key of the draws of members, beside the seed."""


@functools.cache
def _available(precision: str) -> str:
    """The precision asked for, or float32 where this CPU has no instructions for it."""
    if precision == "bf16" and not TARGET.paired:
        warnings.warn(
            "this CPU does not multiply bfloat16 numbers (AVX512-BF16): the ensemble plans in float32, more exactly "
            'but slower; precision="float32" says so without this warning',
            RuntimeWarning,
            stacklevel=3,
        )
        return "float32"
    return precision


# ---- numbers -----------------------------------------------------------------------------------------------------
def _shape(network: Network) -> tuple[Any, ...]:
    """What a kernel and its numbers have in common with those of another network."""
    widths = tuple(w.shape for w in network.weights)
    flags = (network.activation, network.probabilistic, network.learned_cost, network.learned_end)
    return (network.features, widths, *flags)


def _numbers(network: Network, paired: bool) -> Numbers:
    """A network as the kernels read it.

    Scales are folded into the first and the last layer. The inputs' means are not: of large inputs the difference to
    them would be lost in rounding.
    """
    weights, biases = folded(network.activation, network.weights, network.biases)
    weights[0] = weights[0] / np.asarray(network.input_scale, np.float64)[:, None]
    scale = np.asarray(network.target_scale, np.float64)
    factors, shift = scale, np.asarray(network.target_mean, np.float64)
    least = most = np.zeros(0)
    if network.probabilistic:
        factors = np.concatenate([factors, -np.ones(network.nout)])
        shift = np.concatenate([shift, -2 * np.log(scale)])
        least = scale**2 * np.exp(np.asarray(network.least_logvar, np.float64))
        most = np.exp(-np.asarray(network.most_logvar, np.float64)) / scale**2
    weights[-1], biases[-1] = weights[-1] * factors, biases[-1] * factors + shift
    layers = [packed(w, b, paired) for w, b in zip(weights, biases, strict=True)]
    features = network.features
    changes = np.ones(features.nx)
    changes[list(features.absolute)] = 0

    def real(vector: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(vector, np.float32)

    return Numbers(
        weights=np.concatenate([w for w, _ in layers], axis=1),
        biases=np.concatenate([b for _, b in layers], axis=1),
        table=layer_table([features.size, *(w.shape[2] for w in network.weights)], paired),
        plain=np.array(features.plain, np.int64),
        angles=np.array(features.angles, np.int64),
        center=real(network.input_mean),
        changes=real(changes),
        least=real(least),
        most=real(most),
        scale=real(network.target_scale[: features.nx]),
    )
