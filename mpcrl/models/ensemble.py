"""A trained ensemble as the model: thousands of trajectories through its networks in one compiled kernel."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpcrl.core import lanes
from mpcrl.core.bundle import from_json, read_bundle, to_json, write_bundle
from mpcrl.core.candidates import Candidates
from mpcrl.core.checks import finite_vector, positive_integer
from mpcrl.core.compile import load_module
from mpcrl.core.configuration import configuration, rebuilt
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.core.hooks import address_of
from mpcrl.core.random import LANES
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import ensemble
from mpcrl.kernels.ensemble import HOOK, Hooks, Numbers, Rules
from mpcrl.kernels.network import FORWARD, TARGET, folded, layer_table, layers_source, packed
from mpcrl.models import scalar
from mpcrl.models.analytic import check_by_calling
from mpcrl.models.network import Network
from mpcrl.models.risk import RISKS, Mean, Risk
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task

_HEAD = {"format": "mpcrl-ensemble", "version": 1}
_SETTINGS = ("propagation", "particles", "noise", "penalty", "limit", "limit_cost", "precision", "seed")
NOISE = {"fresh": ensemble.FRESH, "fixed": ensemble.FIXED, "none": ensemble.NONE}
_MOST_PARTICLES = 2**16 - 1
"""Noise has 16 bits to tell them apart."""
_FLOP_PER_SECOND = 2e10
"""Of one thread, about: only to tell whether a second one pays."""
_TOGETHER_LANES = 32
"""Candidates of a tile that holds all of their particles: of larger ones there would be too few for all threads."""


class Uncertainty(NamedTuple):
    """Standard deviations of predicted states, in their units; see `Ensemble.uncertainty`.

    Attributes
    ----------
    epistemic, aleatoric : ndarray [N, H, nx]
    """

    epistemic: np.ndarray
    aleatoric: np.ndarray


class Ensemble:
    """The model of a task that a `Network` learned.

    Parameters
    ----------
    task : AnalyticTask or MujocoTask
        Gives cost (of plans, where that is another one), terminal cost and end, where the network has not learned cost
        and end. A learned cost counts with its mean; an episode ends after a step whose learned logit is above 0.
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
        if not isinstance(task, AnalyticTask | MujocoTask):
            raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, whose cost nobody can read")
        if noise not in NOISE:
            raise InvalidInput(f"noise must be one of {', '.join(NOISE)}, got {noise!r}")
        if precision not in ("float32", "bf16"):
            raise InvalidInput(f"precision must be float32 or bf16, got {precision!r}")
        if not (np.isfinite(penalty) and penalty >= 0):
            raise InvalidInput(f"penalty must be a finite number of at least 0, got {penalty!r}")
        if limit is not None and not limit > 0:
            raise InvalidInput(f"limit must be above 0, or None for no limit, got {limit!r}")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
            raise InvalidInput(f"seed must be an integer in [0, 2^64), got {seed!r}")
        if np.isnan(limit_cost):
            raise InvalidInput("limit_cost must be a number or inf, got nan")
        self.task, self.dt, self.dtype = task, task.dt, np.dtype(np.float32)
        self.nx = network.features.nx
        self.propagation, self.noise, self.seed = propagation, noise, int(seed)
        self.particles = 1 if propagation == "mean" else positive_integer("particles", particles)
        if self.particles > _MOST_PARTICLES:
            raise InvalidInput(f"particles must be at most {_MOST_PARTICLES}, got {particles}")
        self.risk = risk or Mean()
        self.penalty, self.limit, self.limit_cost = float(penalty), limit, float(limit_cost)
        self.precision = _available(precision)
        self._check(network)
        paired = self.precision == "bf16"
        cost = _in_lanes(task, network) if isinstance(task, AnalyticTask) else _of_records(task, network)
        layers: Any = load_module(layers_source(network.activation, paired), "layers")
        self._coerce = cost.coerce
        self._record_type: Any = getattr(cost.module, "Record", None)
        self._hooks = cost.hooks(address_of(layers.forward, *FORWARD))
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

    def of(self, task: Task) -> Ensemble:
        """The same model under the costs of another task with the same states."""
        return Ensemble(task, self.network, risk=self.risk, **self._settings())

    def save(self, folder: Path) -> None:
        """Write the network, and how it is planned with, to a folder in place of an older one.

        Raises
        ------
        InvalidInput
            The folder is something else, or cannot be written.
        """
        write_bundle(Path(folder), self.files(), _HEAD)

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
        if np.isinf(about["limit_cost"]):
            about["limit_cost"] = None
        return {"ensemble.json": to_json(about), **self.network.files()}

    @classmethod
    def load(cls, task: Task, folder: Path) -> Ensemble:
        """What `save` wrote, for the task that it learned.

        Without a terminal cost where what was saved had none, as that of an agent that is to do without.

        Raises
        ------
        DamagedExport
            The files are not what was written.
        InvalidInput
            The task is another.
        """
        return cls.of_files(task, read_bundle(Path(folder), _HEAD))

    @classmethod
    def of_files(cls, task: Task, files: Mapping[str, bytes]) -> Ensemble:
        """What `files` wrote; see `load`."""
        about = from_json(files.get("ensemble.json", b""), "ensemble.json")
        keys = [*_SETTINGS, "risk", "terminal"]
        if about.keys() != set(keys):
            raise DamagedExport(f"ensemble.json must have {', '.join(keys)}, got {', '.join(about)}")
        if not about.pop("terminal"):
            task = dataclasses.replace(task, terminal=None)
        if about["limit_cost"] is None:
            about["limit_cost"] = np.inf
        network = Network.of_files(files)
        if network.features != features_of(task):
            raise InvalidInput(f"the model of {', '.join(network.features.names)} is not one of task {task.name!r}")
        try:
            return cls(task, network, risk=rebuilt(about.pop("risk"), RISKS, "risk"), **about)
        except (InvalidInput, TypeError) as error:
            raise DamagedExport(f"ensemble.json: {error}") from error

    def _settings(self) -> dict[str, Any]:
        """All arguments beside task, network and risk."""
        return {name: getattr(self, name) for name in _SETTINGS}

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

    def uncertainty(self, state: np.ndarray, controls: np.ndarray, t: int = 0, params: Any = None) -> Uncertainty:
        """What is not known of the states after each of controls [N, H, nu], apart from what is random about them.

        By particles that keep their members ("ts-infinity", whatever the propagation is), n of each of the E elites.
        With m and s the mean and standard deviation that a particle's member predicts of a state, per number of it:

            epistemic^2 = Var_e[ mean_p m ]      aleatoric^2 = mean_e[ Var_p[m] + mean_p[s^2] ]

        over the particles p of member e. They add up to the variance of all particles.
        """
        teams = len(self.network.elites)
        size = -(-self.particles // teams)
        run = self._traced(state, controls, t, params, Plan("ts-infinity", teams * size, teams * size, True))
        means, stds = (a.reshape(size, teams, *a.shape[1:]) for a in (run.means, run.stds))
        within = means.var(axis=0) + (stds**2).mean(axis=0)
        return Uncertainty(means.mean(axis=0).std(axis=0), np.sqrt(within.mean(axis=0)))

    def terms(self, state: np.ndarray, control: np.ndarray, t: int, params: Any) -> dict[str, float]:
        """Terms of the stage cost; see `Model.terms`. What is learned or predicted is the mean of the elites."""
        state = finite_vector("state", state, self.nx)
        control = finite_vector("control", control, self.task.nu)
        mean = self.network.predict(state, control).mean[list(self.network.elites)].mean(axis=0)
        if self.network.learned_cost:
            return {"cost": float(mean[self.nx])}
        if isinstance(self.task, AnalyticTask):
            value = self.task.cost(tuple(map(float, state)), tuple(map(float, control)), t, params)
            if hasattr(value, "_asdict"):
                return {name: float(term) for name, term in value._asdict().items()}
            return {"cost": float(value)}
        assert isinstance(self.task, MujocoTask)
        cost = self.task.planning_cost or self.task.cost
        before, after = (self._record(x) for x in (state, self.network.next_states(state, mean)))
        return {"cost": float(cost(before, control, after, t, params))}

    def example_state(self) -> np.ndarray:
        """A state at which an episode may start."""
        if isinstance(self.task, AnalyticTask):
            return finite_vector("reset's state", self.task.reset(np.random.default_rng(0)), self.nx)
        assert isinstance(self.task, MujocoTask)
        env = self.task.make_env()
        try:
            env.reset(seed=0)
            return self.network.features.read(self.task.mj_data(env))
        finally:
            env.close()

    def _record(self, state: np.ndarray) -> Any:
        fields = self.network.features.fields
        return self._record_type(*(state[f.start : f.stop].reshape(f.shape) for f in fields))

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

    @property
    def _measures(self) -> bool:
        """Whether plans depend on disagreement."""
        return self.penalty > 0 or self.limit is not None

    def _plan(self) -> Plan:
        teams = len(self.network.elites)
        if self.propagation == "mean":
            return Plan("mean", teams, teams, self._measures)
        whole = self.propagation == "moments" or self._measures
        return Plan(self.propagation, self.particles, self.particles if whole else 1, self._measures)

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
        network, numbers = self._known
        start, controls = self._start(state, candidates)
        horizon, teams = controls.shape[1], len(network.elites)
        together = {"moments": ensemble.MOMENTS, "mean": ensemble.MEAN}.get(str(plan.propagation), ensemble.APART)
        draws = np.arange(plan.particles) // (teams if plan.measured else 1)
        nx = self.nx
        rules = Rules(
            lanes=LANES if plan.together == 1 else max(_TOGETHER_LANES, TARGET.width),
            size=plan.together,
            noise=ensemble.NONE if plan.propagation == "mean" else NOISE[self.noise],
            together=together,
            paired=self.precision == "bf16",
            outputs=network.nout,
            cost=nx if network.learned_cost else -1,
            end=network.nout - 1 if network.learned_end else -1,
            teams=teams if self._measures and plan.measured else 0,
            price=np.float32(self.penalty),
            limit=np.float32(np.inf if self.limit is None else self.limit),
            excess=np.float32(self.limit_cost),
            seed=np.uint64(self.seed),
        )
        # what the kernel does not reach must not look cheap
        out = np.full((plan.particles, candidates.count), np.inf)
        values = self._coerce(params)
        work = 2.0 * numbers.weights.shape[1] * candidates.count * plan.particles * horizon / _FLOP_PER_SECOND
        with threads.for_work(work).kernels():
            ensemble.roll(
                rules,
                numbers,
                self._hooks,
                controls,
                candidates.count,
                start,
                int(t),
                values,
                self._members(plan, horizon, t),
                draws,
                out,
                *(trace or _NO_TRACE),
            )
        return out


class Plan(NamedTuple):
    """How particles go: how many, how many of them in one tile, and whether members are compared."""

    propagation: str | int
    particles: int
    together: int
    measured: bool


class Trace(NamedTuple):
    """States [P, N, H+1, nx], and what was predicted of the next ones: means and standard deviations [P, N, H, nx]."""

    states: np.ndarray
    means: np.ndarray
    stds: np.ndarray


_NO_TRACE = Trace(*(np.empty((0, 0, 0, 0)) for _ in range(3)))
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


# ---- source ------------------------------------------------------------------------------------------------------
class _Cost(NamedTuple):
    """A task's functions as hooks of the kernel.

    Attributes
    ----------
    module : module
        Defines `stage`, `after` and `last`; see `kernels.ensemble.Hooks`.
    coerce : callable
        From params to the vector that the hooks read them from.
    """

    module: Any
    coerce: Callable[[Any], np.ndarray]

    def hooks(self, forward: int) -> Hooks:
        """Their addresses; this compiles or loads them."""
        return Hooks(forward, *(address_of(getattr(self.module, name), *HOOK) for name in ("stage", "after", "last")))


def _hook(name: str, nx: int, nu: int, begin: str, body: str) -> str:
    """Source of a hook: arrays of the pointers that it is given, then the statements."""
    return f"""
@kernel
def {name}(x_at, old_at, controls_at, total_at, alive_at, scratch_at, p_at, lanes, offset, t):
    x, old = carray(x_at, ({nx}, lanes)), carray(old_at, ({nx}, lanes))
    controls, total, alive = carray(controls_at, ({nu}, {LANES})), carray(total_at, lanes), carray(alive_at, lanes)
    scratch = carray(scratch_at, (3, {max(nx, nu)}))
{textwrap.indent(begin, "    ")}
{textwrap.indent(body, "    ")}
    return 1

"""


def _unpacked(fields: Sequence[lanes.Field], prefix: str, kinds: Sequence[str]) -> str:
    """Statements that read the fields of params from the vector of all their numbers; `kinds` convert a number."""
    lines, at = [], 0
    for field, kind in zip(fields, kinds, strict=True):
        size = 1 if field.shape is None else int(np.prod(field.shape))
        array = f"carray(p_at, {at + size})[{at}:].reshape({field.shape})"
        lines.append(f"{prefix}{field.name} = " + (kind.format(f"p_at[{at}]") if field.shape is None else array))
        at += size
    return "\n".join(lines)


def _vector(values: Sequence[Any]) -> np.ndarray:
    """All numbers of params; at least one, for there is no pointer to none."""
    return np.concatenate([np.zeros(0), *(np.ravel(value) for value in values), np.zeros(1)]).astype(np.float64)


def _in_lanes(task: AnalyticTask, network: Network) -> _Cost:
    """The task's functions with one candidate per lane."""
    terms = check_by_calling(task)
    fields = lanes.fields_of(task.params)
    program = lanes.LaneProgram(np.dtype(np.float32), fields)
    x = "(" + "".join(f"x[{i}, l], " for i in range(task.nx)) + ")"
    u = "(" + "".join(f"controls[{j}, offset + l], " for j in range(task.nu)) + ")"
    stage = after = last = ""
    # values go to the stack first, which LLVM knows that nothing else lies on
    paid = """for l in range(lanes):
    value[l] = lane_float({})
for l in range(lanes):
    total[l] += lane_select(alive[l] > lane_float(0), value[l], lane_float(0))"""
    if not network.learned_cost:
        cost = program.call(program.add(task.cost, ("float", "float", "index", "params")), x, u, "np.int32(t)")
        stage = paid.format(f"sum_of_terms({cost})" if terms else cost)
    if task.terminated and not network.learned_end:
        ended = program.call(program.add(task.terminated, ("float", "params")), x)
        after = f"""for l in range(lanes):
    value[l] = lane_select({ended}, lane_float(0), lane_float(1))
for l in range(lanes):
    alive[l] *= value[l]"""
    if task.terminal:
        last = paid.format(program.call(program.add(task.terminal, ("float", "params")), x))
    summed = f"""
@inlined
def sum_of_terms(c):
    return {" + ".join(f"c[{i}]" for i in range(terms)) or "c"}

"""
    begin = (
        _unpacked(fields, "lane_p_", ["lane_float({})"] * len(fields)) + f"\nvalue = carray(stack({LANES}), ({LANES},))"
    )
    hooks = "".join(
        _hook(name, task.nx, task.nu, begin if body else "", body)
        for name, body in (("stage", stage), ("after", after), ("last", last))
    )
    text = f"""{program.text()}
from numba import carray
from mpcrl.core.intrinsics import stack_float32 as stack

{summed if terms else ""}{hooks}"""
    dtype = np.dtype(np.float64)
    return _Cost(load_module(text, "ensemble_cost"), lambda params: _vector(lanes.coerce(params, fields, dtype)))


def _of_records(task: MujocoTask, network: Network) -> _Cost:
    """The task's functions in float64 for one candidate after the other, on records that are views of its states."""
    params, features = scalar.ScalarParams(task.params), network.features
    nx, nu = features.nx, features.nu
    functions: dict[str, Callable[..., Any]] = {}
    if not network.learned_cost:
        functions["cost"] = task.planning_cost or task.cost
    if task.terminated and not network.learned_end:
        functions["terminated"] = task.terminated
    if task.terminal:
        functions["terminal"] = task.terminal

    def view(row: int) -> str:
        parts = [f"scratch[{row}, {f.start}:{f.stop}].reshape({f.shape})" for f in features.fields]
        return f"Record({', '.join(parts)})"

    numbers = ["int({})" if integer else "{}" for integer in params.integers]
    begin = f"""{_unpacked(params.fields, "p_", numbers)}
p = Params({", ".join(f"p_{name}" for name in params.names)})
before, after, u = {view(0)}, {view(1)}, scratch[2, :{nu}]"""
    copied = f"""for l in range(lanes):
    if alive[l] > 0:
        for i in range({nx}):
            scratch[0, i], scratch[1, i] = old[i, l], x[i, l]
        for i in range({nu}):
            scratch[2, i] = controls[i, offset + l]"""
    after = [copied]
    if "cost" in functions:
        after.append("        total[l] += cost(before, u, after, t, p)")
    if "terminated" in functions:
        after.append("        if terminated(after, p):\n            alive[l] = 0")
    last = [copied, "        total[l] += terminal(after, p)"] if "terminal" in functions else []
    hooks = "".join(
        _hook(name, nx, nu, begin if body else "", "\n".join(body))
        for name, body in (("stage", []), ("after", after if len(after) > 1 else []), ("last", last))
    )
    text = f"""# {scalar.fingerprint(*functions.values())}
from collections import namedtuple
import numpy as np
from numba import carray
from mpcrl.core.compile import kernel

Record = namedtuple("Record", {[f.name for f in features.fields]})
Params = namedtuple("Params", {list(params.names)})

{hooks}"""
    module = load_module(text, "ensemble_cost")
    for name, function in functions.items():
        setattr(module, name, scalar.compiled(function))
    return _Cost(module, lambda values: _vector(params.coerce(values)))
