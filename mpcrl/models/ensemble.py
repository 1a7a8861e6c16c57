"""A trained ensemble as the model: thousands of trajectories through its networks in one compiled kernel."""

from __future__ import annotations

import itertools
import operator
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core import lanes
from mpcrl.core.bundle import from_json, read_bundle, to_json, write_bundle
from mpcrl.core.candidates import Candidates
from mpcrl.core.checks import finite_vector, positive_integer
from mpcrl.core.compile import load_module
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.core.random import LANES
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels.network import TARGET, folded, packed, panels
from mpcrl.models import scalar
from mpcrl.models.analytic import check_by_calling
from mpcrl.models.network import Network
from mpcrl.models.risk import Mean, Risk
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task

_DIMS = ("particles", "samples", "steps")
_HEAD = {"format": "mpcrl-ensemble", "version": 1}
_WRITTEN = ("propagation", "particles", "noise", "seed")
_FLOP_PER_SECOND = 2e10
"""Of one thread, about: only to tell whether a second one pays."""


class Ensemble:
    """The model of a task that a `Network` learned.

    Parameters
    ----------
    task : AnalyticTask or MujocoTask
        Gives cost (of plans, where that is another one), terminal cost and end, where the network has not learned them.
    network : Network
    propagation : {"ts-infinity", "ts1"} or int
        How a particle gets from state to state: by the same member all the time (particle p by elite p modulo their
        number), by another one drawn anew at every step, or, for a number, all by that member. What is drawn is shared
        by all candidates, so that they are compared under equal luck.
    particles : int
        P, trajectories of each candidate.
    noise : {"fresh", "fixed", "none"}
        Of the networks' Gaussians: another one for every candidate, particle and step, keyed by the seed and the time
        step; the same for all candidates and times (PEGASUS; Ng and Jordan 2000); or their means alone.
    risk : Risk
        Folds the costs of the particles of a candidate; their mean if not given.
    seed : int
        64 bits.
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
        seed: int = 0,
    ) -> None:
        if not isinstance(task, AnalyticTask | MujocoTask):
            raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, whose cost nobody can read")
        if noise not in ("fresh", "fixed", "none"):
            raise InvalidInput(f"noise must be fresh, fixed or none, got {noise!r}")
        if network.features.nu != task.nu:
            raise InvalidInput(f"task {task.name!r} has {task.nu} controls, the network sees {network.features.nu}")
        self.task, self.dt, self.dtype = task, task.dt, np.dtype(np.float32)
        self.nx = network.features.nx
        self.propagation, self.noise, self.seed = propagation, noise, int(seed)
        self.particles = positive_integer("particles", particles)
        self.risk = risk or Mean()
        self._fields = lanes.fields_of(task.params)
        self._program = _analytic(task, network) if isinstance(task, AnalyticTask) else _scalar(task, network)
        self._module = load_module(_source(network, self._program), "ensemble")
        for name, function in self._program.functions.items():
            setattr(self._module, name, scalar.compiled(function))
        self._shape = _shape(network)
        self.use(network)

    def use(self, network: Network) -> None:
        """Predict with this network from now on: newly trained, of the same shape and features. Nothing is compiled."""
        if _shape(network) != self._shape:
            raise InvalidInput("a network of another shape, or other features, needs a new Ensemble")
        self.network = network
        self._numbers = _numbers(network)
        self._members_at(1, 0)

    @property
    def features(self) -> Features:
        """What states consist of."""
        return self.network.features

    def of(self, task: Task) -> Ensemble:
        """The same model under the costs of another task with the same states."""
        return Ensemble(
            task,
            self.network,
            propagation=self.propagation,
            particles=self.particles,
            noise=self.noise,
            risk=self.risk,
            seed=self.seed,
        )

    def save(self, folder: Path) -> None:
        """Write the network, and how it is planned with, to a folder in place of an older one.

        Raises
        ------
        InvalidInput
            The folder is something else, or cannot be written.
        """
        about = {name: getattr(self, name) for name in _WRITTEN}
        write_bundle(Path(folder), {"ensemble.json": to_json(about), **self.network.files()}, _HEAD)

    @classmethod
    def load(cls, task: Task, folder: Path) -> Ensemble:
        """What `save` wrote, for the task that it learned; the risk is the mean.

        Raises
        ------
        DamagedExport
            The files are not what was written.
        InvalidInput
            The task is another.
        """
        files = read_bundle(Path(folder), _HEAD)
        about = from_json(files.get("ensemble.json", b""), "ensemble.json")
        if about.keys() != set(_WRITTEN):
            raise DamagedExport(f"ensemble.json must have {', '.join(_WRITTEN)}, got {', '.join(about)}")
        network = Network.of_files(files)
        if network.features != features_of(task):
            raise InvalidInput(f"the model in {str(folder)!r} was learned of another task than {task.name!r}")
        return cls(task, network, **about)

    def costs(
        self, state: np.ndarray, candidates: Candidates, t: int, params: Any, threads: ThreadBudget
    ) -> np.ndarray:
        """Cost of each candidate [N]; see `Model.costs`."""
        start = finite_vector("state", state, self.nx)
        controls = np.ascontiguousarray(candidates.blocks(), np.float32)
        out = np.full((self.particles, controls.shape[0] * LANES), np.inf)
        self._run(start, controls, candidates.count, t, params, threads, out, np.empty((0, 0, 0, 0)))
        return self.risk(out[:, : candidates.count])

    def sampled(self, state: np.ndarray, controls: np.ndarray, t: int = 0, params: Any = None) -> np.ndarray:
        """Predicted states [P, N, H+1, nx] of all particles under controls [N, H, nu]; the first is `state`."""
        start = finite_vector("state", state, self.nx)
        candidates = Candidates.from_rows(controls, np.float32)
        count, blocks = candidates.count, candidates.controls
        states = np.empty((self.particles, count, candidates.horizon + 1, self.nx))
        out = np.full((self.particles, blocks.shape[0] * LANES), np.inf)
        params = self.task.params if params is None else params
        self._run(start, blocks, count, t, params, ThreadBudget.of(None), out, states)
        return states

    def rollout(self, state: np.ndarray, controls: np.ndarray, t: int, params: Any) -> np.ndarray:
        """Mean over the particles of the predicted states [N, H+1, nx] of controls [N, H, nu]."""
        return self.sampled(state, controls, t, params).mean(axis=0)

    def terms(self, state: np.ndarray, control: np.ndarray, t: int, params: Any) -> dict[str, float]:
        """Terms of the stage cost; see `Model.terms`. What is learned is the mean of the members."""
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
        before, after = (self._record(x) for x in (state, self.network.next_states(state, mean)))
        return {"cost": float(self._program.functions["cost"](before, control, after, t, params))}

    def example_state(self) -> np.ndarray:
        """A state at which an episode may start."""
        if isinstance(self.task, AnalyticTask):
            return finite_vector("reset's state", self.task.reset(np.random.default_rng(0)), self.nx)
        env = self.task.make_env()
        try:
            env.reset(seed=0)
            return self.network.features.read(self.task.mj_data(env))
        finally:
            env.close()

    def _record(self, state: np.ndarray) -> Any:
        fields = self.network.features.fields
        return self._module.Record(*(state[f.start : f.stop].reshape(f.shape) for f in fields))

    def _members_at(self, horizon: int, t: int) -> np.ndarray:
        """Which member moves each particle at each step [P, H]."""
        elites = np.array(self.network.elites)
        if self.propagation == "ts-infinity":
            return np.tile(elites[np.arange(self.particles) % elites.size, None], (1, horizon))
        if self.propagation == "ts1":
            drawn = np.random.Generator(np.random.Philox(key=self.seed, counter=t))
            return elites[drawn.integers(elites.size, size=(self.particles, horizon))]
        try:
            member = operator.index(self.propagation)
        except TypeError:
            member = -1
        if isinstance(self.propagation, bool) or not 0 <= member < self.network.members:
            raise InvalidInput(
                "propagation must be ts-infinity, ts1 or the number of a member, "
                f"0 to {self.network.members - 1}, got {self.propagation!r}"
            )
        return np.full((self.particles, horizon), member)

    def _run(
        self,
        start: np.ndarray,
        controls: np.ndarray,
        count: int,
        t: int,
        params: Any,
        threads: ThreadBudget,
        out: np.ndarray,
        states: np.ndarray,
    ) -> None:
        horizon = controls.shape[1]
        kind = {"none": 0, "fresh": 1, "fixed": 2}[self.noise]
        members = self._members_at(horizon, t)
        values = self._program.coerce(params)
        work = 2.0 * self._numbers[0].shape[1] * count * self.particles * horizon
        with threads.for_work(work / _FLOP_PER_SECOND).kernels():
            self._module.costs(
                controls, count, start, t, members, kind, np.uint64(self.seed), *self._numbers, out, states, *values
            )


# ---- numbers -----------------------------------------------------------------------------------------------------
def _shape(network: Network) -> tuple[Any, ...]:
    widths = tuple(w.shape for w in network.weights)
    flags = (network.activation, network.probabilistic, network.learned_cost, network.learned_end)
    return (network.features, widths, *flags)


def _numbers(network: Network) -> tuple[np.ndarray, ...]:
    """What the kernel reads of a network: weights [E, size], biases [E, size], and vectors.

    Scales are folded into the first and the last layer. Of the inputs' means they are not: their difference to large
    inputs would be lost in rounding.
    """
    weights, biases = folded(network.activation, network.weights, network.biases)
    weights[0] = weights[0] / np.float64(network.input_scale)[:, None]
    scale = np.float64(network.target_scale)
    factors, shift = scale, np.float64(network.target_mean)
    least = most = np.zeros(0)
    if network.probabilistic:  # std = sqrt(least + 1 / (most + exp(-s) / scale^2))
        factors = np.concatenate([factors, -np.ones(network.nout)])
        shift = np.concatenate([shift, -2 * np.log(scale)])
        least = scale**2 * np.exp(np.float64(network.least_logvar))
        most = np.exp(-np.float64(network.most_logvar)) / scale**2
    weights[-1], biases[-1] = weights[-1] * factors, biases[-1] * factors + shift
    layers = [packed(w, b, paired=False) for w, b in zip(weights, biases, strict=True)]
    vectors = (network.input_mean, least, most)
    return (
        np.concatenate([w for w, _ in layers], axis=1),
        np.concatenate([b for _, b in layers], axis=1),
        *(np.ascontiguousarray(v, np.float32) for v in vectors),
    )


# ---- source ------------------------------------------------------------------------------------------------------
class _Program:
    """What a task's functions become in the kernel's text.

    Attributes
    ----------
    text : str
        Definitions.
    arguments : str
        Of the kernel, for the params.
    functions : dict
        Scalar functions that the module gets as globals.
    stage, terminal : str
        Statements.
    """

    def __init__(self, text: str, arguments: str, begin: str, before: str, after: str, last: str, coerce: Any) -> None:
        self.text, self.arguments, self.begin = text, arguments, begin
        self.before, self.after, self.last = before, after, last
        self.coerce = coerce
        self.functions: dict[str, Any] = {}


def _analytic(task: AnalyticTask, network: Network) -> _Program:
    """The task's functions in lanes: one loop over the samples of a tile has them inlined."""
    terms = check_by_calling(task)
    fields = lanes.fields_of(task.params)
    program = lanes.LaneProgram(np.dtype(np.float32), fields)
    x = "(" + "".join(f"x[{i}, l], " for i in range(task.nx)) + ")"
    u = "(" + "".join(f"controls[block, h, {j}, l], " for j in range(task.nu)) + ")"
    before = after = last = ""
    if not network.learned_cost:
        stage = program.call(program.add(task.cost, ("float", "float", "index", "params")), "x_l", "u_l", "t")
        if terms:
            stage = f"sum_of_terms({stage})"
        before = f"""
        t = np.int32(t0 + h)
        for l in range({LANES}):
            x_l = {x}
            u_l = {u}
            total[l] += lane_select(alive[l] > zero, lane_float({stage}), zero)"""
    if task.terminated and not network.learned_end:
        ended = program.call(program.add(task.terminated, ("float", "params")), "x_l")
        after = f"""
        for l in range({LANES}):
            x_l = {x}
            alive[l] = lane_select({ended}, zero, alive[l])"""
    if task.terminal:
        value = program.call(program.add(task.terminal, ("float", "params")), "x_l")
        last = f"""
    for l in range({LANES}):
        x_l = {x}
        total[l] += lane_select(alive[l] > zero, lane_float({value}), zero)"""
    summed = f"""
@inlined
def sum_of_terms(c):
    return {" + ".join(f"c[{i}]" for i in range(terms)) or "c"}
"""
    return _Program(
        program.text() + summed,
        program.arguments,
        "",
        before,
        after,
        last,
        lambda params: lanes.coerce(params, fields, np.dtype(np.float32)),
    )


def _scalar(task: MujocoTask, network: Network) -> _Program:
    """The task's functions in float64, called for one sample after the other, on records that are views of states."""
    raise InvalidInput("not yet")


def _source(network: Network, program: _Program) -> str:
    features, nout = network.features, network.nout
    nx, nu, nin = features.nx, features.nu, features.size
    rows, width = TARGET.rows, TARGET.width
    sizes = [nin, *(w.shape[2] for w in network.weights)]
    at, b_at, heights = [0], [0], [nin]
    for count, out in itertools.pairwise(sizes):
        at.append(at[-1] + count * panels(out) * rows)
        b_at.append(b_at[-1] + panels(out) * rows)
        heights.append(panels(out) * rows)
    most = max(heights)
    hidden = len(network.weights) - 1
    names = ["v", *("ab"[i % 2] for i in range(hidden)), "y"]
    layers = "".join(
        f"    {'hidden' if i < hidden else 'head'}(w, {at[i]}, c, {b_at[i]}, {names[i]}, {heights[i]}, {names[i + 1]}, "
        f"{sizes[i]}, {panels(sizes[i + 1])}, groups)\n"
        for i in range(hidden + 1)
    )
    groups = LANES // width
    layer = f"""
@kernel
def {{name}}(w, w0, c, c0, h, h_rows, out, count, panels, groups):
    for panel in range(panels):
        for g in range(groups):
            {{block}}(
                w, w0 + panel * count * {rows}, c, c0 + panel * {rows}, h, g * h_rows * {width},
                out, (g * panels + panel) * {rows * width}, count,
            )
"""
    plain, angles, absolute = (list(i) for i in (features.plain, features.angles, features.absolute))
    sin_at, cos_at, u_at = len(plain), len(plain) + len(angles), len(plain) + 2 * len(angles)
    spread = ""
    draw = ""
    if network.probabilistic:
        spread = f"""
                if kind > 0:
                    for g in range(groups):
                        s = (g * {heights[-1]} + {nout} + i) * {width}
                        for j in range({width}):
                            var = least[i] + one / (most[i] + lane_exp(y[s + j]))
                            fresh[g * {width} + j] += lane_sqrt(var) * normals[i, g * {width} + j]"""
        draw = f"""
        if kind > 0:
            fixed = kind == 2
            normal_lanes(
                normals, 0 if fixed else block * {LANES}, seed, 0 if fixed else t0, particle * 65536 + h, {_STREAM}
            )
            if fixed:
                for i in range({nx}):
                    normals[i] = normals[i, 0]"""
    learned = ""
    if network.learned_cost:
        learned += f"""
        for g in range(groups):
            for j in range({width}):
                l = g * {width} + j
                total[l] += lane_select(alive[l] > zero, y[(g * {heights[-1]} + {nx}) * {width} + j], zero)"""
    ended = ""
    if network.learned_end:
        ended += f"""
        for g in range(groups):
            for j in range({width}):
                l = g * {width} + j
                end = y[(g * {heights[-1]} + {nout - 1}) * {width} + j]
                alive[l] = lane_select(end > zero, zero, alive[l])"""
    return f"""{program.text}
from numba import prange
from mpcrl.core.random import normal_lanes
from mpcrl.kernels.network import {network.activation}_block, none_block

one, zero = np.float32(1), np.float32(0)
plain, angles = {tuple(plain) or (0,)}, {tuple(angles) or (0,)}
changes = {tuple(float(i not in absolute) for i in range(nx))}

{layer.format(name="hidden", block=f"{network.activation}_block")}
{layer.format(name="head", block="none_block")}

@kernel
def forward(w, c, v, a, b, y, groups):
{layers}

@kernel
def roll(block, particle, controls, count, x0, t0, members, kind, seed, weights, biases, center, least, most, out,
         states{program.arguments}):
    groups = min({groups}, (count - block * {LANES} + {width - 1}) // {width})
    lanes_used = min({LANES}, count - block * {LANES})
    x = np.zeros(({nx}, {LANES}), np.float32)
    v = np.empty({groups * nin * width}, np.float32)
    a, b = np.empty({groups * most * width}, np.float32), np.empty({groups * most * width}, np.float32)
    y = np.empty({groups * heights[-1] * width}, np.float32)
    normals = np.empty(({-(-nx // 4) * 4}, {LANES}), np.float32)
    fresh, total = np.empty({LANES}, np.float32), np.zeros({LANES}, np.float32)
    alive = np.ones({LANES}, np.float32)
    for i in range({nx}):
        x[i] = np.float32(x0[i])
    for h in range(controls.shape[1]):
        if states.shape[0] > 0:
            for l in range(lanes_used):
                for i in range({nx}):
                    states[particle, block * {LANES} + l, h, i] = x[i, l]{program.before}
        for g in range(groups):
            first, at = g * {width}, g * {nin * width}
            for k in range({len(plain)}):
                for j in range({width}):
                    v[at + k * {width} + j] = x[plain[k], first + j] - center[k]
            for k in range({len(angles)}):
                for j in range({width}):
                    angle = x[angles[k], first + j]
                    v[at + ({sin_at} + k) * {width} + j] = lane_sin(angle) - center[{sin_at} + k]
                    v[at + ({cos_at} + k) * {width} + j] = lane_cos(angle) - center[{cos_at} + k]
            for k in range({nu}):
                for j in range({width}):
                    v[at + ({u_at} + k) * {width} + j] = controls[block, h, k, first + j] - center[{u_at} + k]
        member = members[particle, h]
        forward(weights[member], biases[member], v, a, b, y, groups){draw}{learned}
        for i in range({nx}):
            for g in range(groups):
                m = (g * {heights[-1]} + i) * {width}
                for j in range({width}):
                    fresh[g * {width} + j] = np.float32(changes[i]) * x[i, g * {width} + j] + y[m + j]{spread}
            for l in range(groups * {width}):
                x[i, l] = lane_select(alive[l] > zero, fresh[l], x[i, l]){program.after}{ended}
    {program.last}
    if states.shape[0] > 0:
        for l in range(lanes_used):
            for i in range({nx}):
                states[particle, block * {LANES} + l, controls.shape[1], i] = x[i, l]
    for l in range(lanes_used):
        whole = total[l]
        for i in range({nx}):
            whole += x[i, l] - x[i, l]
        out[particle, block * {LANES} + l] = whole if np.isfinite(whole) else np.inf


@kernel(parallel=True)
def costs(controls, count, x0, t0, members, kind, seed, weights, biases, center, least, most, out,
          states{program.arguments}):
    blocks = controls.shape[0]
    for item in prange(blocks * members.shape[0]):
        roll(np.int64(item % blocks), np.int64(item // blocks), controls, count, x0, t0, members, kind, seed, weights,
             biases, center, least, most, out, states{program.arguments})
"""


_STREAM = 2
