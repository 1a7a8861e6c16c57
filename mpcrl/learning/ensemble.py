"""Fitting an ensemble of networks to what was seen (Chua, Calandra, McAllister, Levine 2018, "Deep reinforcement
learning in a handful of trials using probabilistic dynamics models": PETS), and what Janner, Fu, Zhang, Levine 2019,
"When to trust your model" (MBPO), added: a holdout, each member's best snapshot, elites.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from mpcrl.core.bundle import from_json, from_safetensors, read_bundle, to_json, to_safetensors, write_bundle
from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.configuration import configuration, short
from mpcrl.core.errors import DamagedExport, InvalidInput, missing
from mpcrl.core.threads import ThreadBudget
from mpcrl.learning.draws import Stream, uniforms
from mpcrl.learning.replay import Replay, Transitions, checked_seed
from mpcrl.models.network import ACTIVATIONS, Network
from mpcrl.tasks.features import Features

if TYPE_CHECKING:
    from mpcrl.learning.batched import Batched

IMPROVEMENT = 0.01
"""Share by which the error on the holdout must fall to count as better."""

LEAST_LOGVAR, MOST_LOGVAR = -10.0, 0.5
"""Bounds that the log variances start with."""

CERTAIN = -80.0
"""Log variance of what has none: constants, and the logit of the end. Its exponential is still a float32."""

_HEAD = {"format": "mpcrl-learner", "version": 1}
_ROUNDING = 1e-7  # of float32, about
_EVALUATED = 1024  # rows at once


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """An ensemble and how it learns.

    Attributes
    ----------
    members : int
    hidden : tuple of int
        Widths of the hidden layers.
    activation : {"silu", "relu", "tanh", "gelu"}
    probabilistic : bool
        Whether members predict a Gaussian, or its mean alone.
    learned_cost, learned_end : bool
        Whether they predict the cost and the end of the episode too.
    learning_rate : float
    batch : int
        Rows per step and member, at most.
    epochs : int
        Per fit, at most; see `patience`.
    weight_decay : float
        Of half the squared norm of the last layer's weights; the first three layers have a quarter, half and three
        quarters of it, those between as the third. This and the default are PETS' for HalfCheetah.
    bootstrap : bool
        Whether each member sees its own draw of the transitions, or all of them once per epoch.
    holdout : float
        Share of the transitions kept from training. Where there is any, each member ends as it was when its error on
        them was least.
    patience : int
        Epochs after which training ends if no member gets better on the holdout; 0 trains all epochs.
    elites : int or None
        Members to predict with: those of the least error on the holdout, the first ones before there is any. None takes
        all.
    """

    members: int = 5
    hidden: tuple[int, ...] = (200, 200, 200)
    activation: str = "silu"
    probabilistic: bool = True
    learned_cost: bool = False
    learned_end: bool = False
    learning_rate: float = 1e-3
    batch: int = 32
    epochs: int = 5
    weight_decay: float = 1e-4
    bootstrap: bool = True
    holdout: float = 0.0
    patience: int = 0
    elites: int | None = None

    def __post_init__(self) -> None:
        for name in ("members", "batch", "epochs"):
            positive_integer(name, getattr(self, name))
        if not isinstance(self.hidden, tuple) or not self.hidden:
            raise InvalidInput(f"hidden must be a tuple of one width or more, got {self.hidden!r}")
        for width in self.hidden:
            positive_integer("a width of hidden", width)
        if self.activation not in ACTIVATIONS:
            raise InvalidInput(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        for name in ("probabilistic", "learned_cost", "learned_end", "bootstrap"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"{name} must be True or False, got {getattr(self, name)!r}")
        positive_number("learning_rate", self.learning_rate)
        if self.weight_decay != 0:
            positive_number("weight_decay", self.weight_decay)
        if isinstance(self.holdout, bool) or not isinstance(self.holdout, int | float) or not 0 <= self.holdout < 1:
            raise InvalidInput(f"holdout must be a share of at least 0 and below 1, got {self.holdout!r}")
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 0:
            raise InvalidInput(f"patience must be an integer of at least 0, got {self.patience!r}")
        if self.elites is not None and positive_integer("elites", self.elites) > self.members:
            raise InvalidInput(f"elites must be at most the {self.members} members, got {self.elites}")
        if not self.holdout and (self.patience or self.elites is not None):
            raise InvalidInput("patience and elites need a holdout to tell members apart by; set holdout=0.2")

    @property
    def decays(self) -> tuple[float, ...]:
        """Weight decay per layer."""
        depth = len(self.hidden)
        return (*(min(i + 1, 3) / 4 * self.weight_decay for i in range(depth)), self.weight_decay)

    def widths(self, features: Features) -> tuple[int, ...]:
        """Numbers of inputs, of hidden features per layer, and of outputs, with their log variances."""
        nout = features.nx + self.learned_cost + self.learned_end
        return (features.size, *self.hidden, nout * (1 + self.probabilistic))


class EpochProgress(NamedTuple):
    """How a fit goes on.

    Attributes
    ----------
    epoch, epochs : int
        Counted from 1, and how many there may be.
    train_loss : ndarray [E]
        Mean over the steps of the epoch.
    holdout_loss, holdout_error : ndarray [E]
        Loss and mean squared error (of scaled outputs) after the epoch; nan without a holdout.
    seconds : float
        Since the fit began.
    """

    epoch: int
    epochs: int
    train_loss: np.ndarray
    holdout_loss: np.ndarray
    holdout_error: np.ndarray
    seconds: float

    def __str__(self) -> str:
        loss = float(np.mean(self.train_loss))
        return f"training: epoch {self.epoch}/{self.epochs}, loss {loss:.3f}, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True, eq=False)
class FitReport:
    """What a fit did.

    Attributes
    ----------
    train_loss, holdout_loss, holdout_error : ndarray [epochs, E]
        As in `EpochProgress`.
    rows, held_rows : int
        Transitions that were trained with, and held out.
    steps : int
        Of Adam.
    elites : tuple of int
        Members to predict with.
    stopped : bool
        Whether patience ended it.
    seconds : float
    """

    train_loss: np.ndarray
    holdout_loss: np.ndarray
    holdout_error: np.ndarray
    rows: int
    held_rows: int
    steps: int
    elites: tuple[int, ...]
    stopped: bool
    seconds: float


class Learner:
    """An ensemble that is fitted again and again as more is seen; every fit starts from where the last one ended.

    Inputs and targets are scaled anew in every fit, by mean and standard deviation of what is trained with. New scales
    of targets leave predictions as they were: the last layer, being linear, takes up the difference. New scales of
    inputs do not: were the first layer to take them up, what hardly moved in the first trials would keep huge weights
    ever after. Numbers that never change are predicted as exactly constant, and seen as they are.

    The same seed gives the same bits: all draws follow from the seed and counts that files keep, and torch has one
    thread.

    Parameters
    ----------
    features : Features
        What is seen and predicted.
    config : EnsembleConfig
    seed : int
        Of the first parameters and of the order of transitions.
    """

    def __init__(self, features: Features, config: EnsembleConfig | None = None, *, seed: int = 0) -> None:
        self.features, self.config, self.seed = features, config or EnsembleConfig(), checked_seed(seed)
        self.fits, self.epochs = 0, 0
        """Fits and epochs so far."""
        self._elites = tuple(range(self.config.elites or self.config.members))
        self._scales = _Scales.none(features.size, self._nout)
        self._arrays = self._initial()
        self._moments: dict[str, np.ndarray] = {}

    @property
    def _nout(self) -> int:
        return self.features.nx + self.config.learned_cost + self.config.learned_end

    def _initial(self) -> dict[str, np.ndarray]:
        """Weights of a normal distribution of deviation 1 / (2 sqrt(in)), cut at two deviations; biases of 0."""
        from scipy.special import ndtr, ndtri

        config = self.config
        arrays = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(config.widths(self.features))):
            shape = (config.members, fan_in, fan_out)
            normal = ndtri(ndtr(-2.0) + _block(self.seed, Stream.INITIAL, i, shape) * (ndtr(2.0) - ndtr(-2.0)))
            arrays[f"weights.{i}"] = (normal / (2 * math.sqrt(fan_in))).astype(np.float32)
            arrays[f"biases.{i}"] = np.zeros((config.members, fan_out), np.float32)
        arrays["least_logvar"] = np.full(self._nout, LEAST_LOGVAR, np.float32)
        arrays["most_logvar"] = np.full(self._nout, MOST_LOGVAR, np.float32)
        return arrays

    # ---- fitting ---------------------------------------------------------------------------------------------
    def fit(self, replay: Replay, on_epoch: Callable[[EpochProgress], None] | None = None) -> FitReport:
        """Train on all that is there and not held out.

        Parameters
        ----------
        replay : Replay
        on_epoch : callable, optional
            Called after every epoch. What it raises ends the fit, and the learner is as it was before.

        Raises
        ------
        MissingDependency
            Torch is not installed; all else works without it.
        InvalidInput
            The buffer is empty, of other sizes, or of weight 0; training diverged.
        """
        try:
            import torch
        except ImportError as absent:
            raise missing("torch", "learning") from absent

        began, config = time.perf_counter(), self.config
        seen, kept = self._split(replay)
        inputs, targets = self._inputs(seen), self._targets(seen)
        scales = _Scales.of(inputs, targets, self._magnitudes(seen), config.learned_end)
        networks = self._networks(scales)
        data = _tensors(scales, inputs, targets, config)
        test = _tensors(scales, self._inputs(kept), self._targets(kept), config) if len(kept.costs) else None
        weights = torch.tensor((seen.weights / seen.weights.mean()).astype(np.float32))
        counts = seen.counts if config.bootstrap else np.ones_like(seen.counts)

        curves: list[EpochProgress] = []
        with ThreadBudget(1).limit():
            best = _Best(networks, test) if test else None
        stopped, steps = False, 0
        while len(curves) < config.epochs and not stopped:
            with ThreadBudget(1).limit():
                order = torch.tensor(self._order(counts, self.epochs + len(curves)))
                losses = torch.zeros(config.members)
                for index in order:
                    flat = index.reshape(-1)
                    losses += networks.step(
                        data[0].index_select(0, flat).reshape(*index.shape, -1),
                        data[1].index_select(0, flat).reshape(*index.shape, -1),
                        weights.index_select(0, flat).reshape(index.shape),
                    )
                nothing = np.full(config.members, np.nan)
                loss, error = best.update(networks) if best else (nothing, nothing)
            steps += len(order)
            train = (losses / len(order)).numpy()
            curves.append(
                EpochProgress(len(curves) + 1, config.epochs, train, loss, error, time.perf_counter() - began)
            )
            stopped = best is not None and 0 < config.patience <= best.waited
            if on_epoch:
                on_epoch(curves[-1])
        arrays, moments = best.arrays if best else networks.arrays(), networks.moments()
        if not all(np.isfinite(array).all() for array in [*arrays.values(), *moments.values()]):
            raise InvalidInput(
                "training diverged: a parameter is not finite, and the learner is as it was before; lower the learning "
                "rate"
            )
        self._arrays, self._moments, self._scales = arrays, moments, scales
        self.fits, self.epochs = self.fits + 1, self.epochs + len(curves)
        if best and config.elites:
            self._elites = tuple(sorted(int(e) for e in np.argsort(best.error, kind="stable")[: config.elites]))
        return FitReport(
            train_loss=np.stack([curve.train_loss for curve in curves]),
            holdout_loss=np.stack([curve.holdout_loss for curve in curves]),
            holdout_error=np.stack([curve.holdout_error for curve in curves]),
            rows=len(seen.costs),
            held_rows=len(kept.costs),
            steps=steps,
            elites=self._elites,
            stopped=stopped and len(curves) < config.epochs,
            seconds=time.perf_counter() - began,
        )

    def network(self) -> Network:
        """What was learned so far."""
        config, arrays, scales = self.config, dict(self._arrays), self._scales._asdict()
        depth = len(config.hidden)
        constant = scales["target_scale"] == 0
        scales["target_scale"] = np.where(constant, np.float32(1), scales["target_scale"])
        for name in (f"weights.{depth}", f"biases.{depth}"):
            arrays[name] = np.where(np.tile(constant, 1 + config.probabilistic), np.float32(0), arrays[name])
        certain = constant | (np.arange(self._nout) == (self.features.nx + config.learned_cost))  # the last is a logit
        for name in ("least_logvar", "most_logvar"):
            arrays[name] = np.where(certain, np.float32(CERTAIN), arrays[name])
        return Network(
            features=self.features,
            weights=tuple(arrays[f"weights.{i}"] for i in range(depth + 1)),
            biases=tuple(arrays[f"biases.{i}"] for i in range(depth + 1)),
            activation=config.activation,
            probabilistic=config.probabilistic,
            **scales,
            least_logvar=arrays["least_logvar"],
            most_logvar=arrays["most_logvar"],
            learned_cost=config.learned_cost,
            learned_end=config.learned_end,
            elites=self._elites,
        )

    def _split(self, replay: Replay) -> tuple[Transitions, Transitions]:
        """What is trained with, and what is held out."""
        sizes = ("nx", self.features.nx), ("nu", self.features.nu), ("members", self.config.members)
        for name, expected in sizes:
            if getattr(replay, name) != expected:
                raise InvalidInput(f"the replay buffer must have {name}={expected}, got {getattr(replay, name)}")
        if not len(replay):
            raise InvalidInput("there is nothing to learn from: the replay buffer is empty; add transitions first")
        rows, held = replay.transitions(), replay.held_out(self.config.holdout)
        seen = rows.take(~held)
        if not seen.weights.any():
            raise InvalidInput("there is nothing to learn from: all weights in the replay buffer are 0")
        return seen, rows.take(held)

    def _inputs(self, rows: Transitions) -> np.ndarray:
        return self.features.inputs(rows.states, rows.controls)

    def _targets(self, rows: Transitions) -> np.ndarray:
        """What the outputs should be [n, nout], before scaling."""
        predicted = rows.next_states - rows.states
        absolute = list(self.features.absolute)
        predicted[:, absolute] = rows.next_states[:, absolute]
        parts = [predicted]
        if self.config.learned_cost:
            parts.append(rows.costs[:, None])
        if self.config.learned_end:
            parts.append(rows.terminated[:, None].astype(np.float64))
        return np.concatenate(parts, axis=1)

    def _magnitudes(self, rows: Transitions) -> np.ndarray:
        """Of what the targets are differences of [nout]: that much rounding is in them."""
        sizes = [np.sqrt(np.mean(rows.next_states**2, axis=0))]
        if self.config.learned_cost:
            sizes.append(np.sqrt(np.mean(rows.costs[:, None] ** 2, axis=0)))
        if self.config.learned_end:
            sizes.append(np.zeros(1))
        return np.concatenate(sizes)

    def _networks(self, scales: _Scales) -> Batched:
        """The networks as they are, in units of new scales of targets."""
        from mpcrl.learning.batched import Batched

        config, nx = self.config, self._nout - self.config.learned_end
        arrays = self._arrays if not self.fits else self._scales.carried(self._arrays, scales, config.probabilistic)
        networks = Batched(
            arrays,
            activation=config.activation,
            probabilistic=config.probabilistic,
            gaussian=[int(i) for i in np.flatnonzero(scales.target_scale[:nx])],
            logits={nx: float(scales.target_mean[nx])} if config.learned_end else {},
            learning_rate=config.learning_rate,
            weight_decay=config.decays,
        )
        networks.restore(self._moments)
        return networks

    def _order(self, counts: np.ndarray, epoch: int) -> np.ndarray:
        """Rows [steps, E, b] of an epoch: each member's own draw, shuffled.

        Draws differ in length: each is cut, or begun again, to as many rows as there are, rounded up to whole steps.
        """
        n, members = counts.shape
        steps = -(-n // self.config.batch)
        batch = -(-n // steps)
        order = np.empty((steps, members, batch), np.int64)
        for e in range(members):
            draw = np.repeat(np.arange(n), counts[:, e])
            if not draw.size:
                draw = np.arange(n)
            number = epoch * members + e
            rounds = -(-steps * batch // draw.size)
            keys = _block(self.seed, Stream.ORDER, number, (rounds, draw.size))
            shuffled = draw[np.argsort(keys, axis=1, kind="stable")].reshape(-1)
            order[:, e] = shuffled[: steps * batch].reshape(steps, batch)
        return order

    # ---- files -----------------------------------------------------------------------------------------------
    def save(self, folder: Path) -> None:
        """Write all that the next fit and `network` need to a folder, in place of an older one.

        Raises
        ------
        InvalidInput
            The folder is something else, or cannot be written.
        """
        head = {
            "features": configuration(self.features),
            "config": configuration(dataclasses.asdict(self.config)),
            "seed": self.seed,
            "fits": self.fits,
            "epochs": self.epochs,
            "elites": list(self._elites),
        }
        parts = {"parameters": self._arrays, "adam": self._moments, "scales": self._scales._asdict()}
        files = {f"{name}.safetensors": to_safetensors(arrays) for name, arrays in parts.items()}
        write_bundle(Path(folder), {"learner.json": to_json(head), **files}, _HEAD)

    @classmethod
    def load(cls, folder: Path, features: Features) -> Self:
        """What `save` wrote: it learns on as if it had never been away.

        Raises
        ------
        DamagedExport
            The files are not what was written.
        InvalidInput
            It learned of something else than `features`.
        """
        files = read_bundle(Path(folder), _HEAD)
        try:
            head = from_json(files["learner.json"], "learner.json")
            if head["features"] != configuration(features):
                raise InvalidInput(f"{str(folder)!r} learned of other features; got {short(features.names)}")
            config = EnsembleConfig(**{**head["config"], "hidden": tuple(head["config"]["hidden"])})
            learner = cls(features, config, seed=head["seed"])
            parameters, adam, scales = (
                from_safetensors(files[f"{name}.safetensors"], name) for name in ("parameters", "adam", "scales")
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedExport(f"{str(folder)!r} holds no learner: {error}") from error
        learner._arrays = _alike("parameters", parameters, learner._arrays)
        learner._scales = _Scales(**_alike("scales", scales, learner._scales._asdict()))
        steps = {f"step.{name}": np.zeros((), np.float32) for name in parameters}
        both = {f"{kind}.{name}": array for name, array in parameters.items() for kind in ("exp_avg", "exp_avg_sq")}
        learner._moments = _alike("adam", adam, {name: (steps | both).get(name) for name in adam}) if adam else {}
        learner.fits, learner.epochs = head["fits"], head["epochs"]
        learner._elites = tuple(head["elites"])
        learner.network()
        return learner


class _Best:
    """Each member as it was when its error on the holdout was least."""

    def __init__(self, networks: Batched, test: tuple[Any, Any]) -> None:
        self._test = test
        self.arrays = networks.arrays()
        _, self.error = _evaluated(networks, test)
        self.waited = 0

    def update(self, networks: Batched) -> tuple[np.ndarray, np.ndarray]:
        """Take note of an epoch; losses and errors [E] after it."""
        loss, error = _evaluated(networks, self._test)
        better = error < (1 - IMPROVEMENT) * self.error
        self.waited = 0 if better.any() else self.waited + 1
        now = networks.arrays()
        for name, array in self.arrays.items():
            if name.endswith("logvar"):  # common to all members
                array[...] = now[name]
            else:
                array[better] = now[name][better]
        self.error = np.where(better, error, self.error)
        return loss, error


def _tensors(scales: _Scales, inputs: np.ndarray, targets: np.ndarray, config: EnsembleConfig) -> tuple[Any, Any]:
    import torch

    return torch.tensor(scales.inputs(inputs)), torch.tensor(scales.targets(targets, config.learned_end))


def _block(seed: int, stream: Stream, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers of a shape, the `number`-th block of a stream."""
    size = math.prod(shape)
    return uniforms(seed, stream, number << 40, -(-size // 4), 4).reshape(-1)[:size].reshape(shape)


def _evaluated(networks: Batched, test: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and error [E] of rows that every member sees."""
    import torch

    inputs, targets = test
    members = networks.parameters["weights.0"].shape[0]
    sums = np.zeros((2, members))
    with torch.no_grad():
        for x, y in zip(inputs.split(_EVALUATED), targets.split(_EVALUATED), strict=True):
            found = networks.errors(networks.outputs(x.expand(members, -1, -1)), y)
            sums += torch.stack(found).sum(-1).double().numpy()
    return sums[0] / len(inputs), sums[1] / len(inputs)


class _Scales(NamedTuple):
    """Of inputs and targets, in float32, as the networks have them; of a constant target the scale is 0."""

    input_mean: np.ndarray
    input_scale: np.ndarray
    target_mean: np.ndarray
    target_scale: np.ndarray

    @classmethod
    def none(cls, nin: int, nout: int) -> _Scales:
        """Before anything was seen."""
        zeros, ones = np.zeros, np.ones
        return cls(zeros(nin, np.float32), ones(nin, np.float32), zeros(nout, np.float32), ones(nout, np.float32))

    @classmethod
    def of(cls, inputs: np.ndarray, targets: np.ndarray, magnitudes: np.ndarray, learned_end: bool) -> _Scales:
        """Mean and standard deviation; what does not move beyond rounding is constant."""
        mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
        scale[scale <= _ROUNDING * np.abs(inputs).max(axis=0)] = 1
        target_mean, target_scale = targets.mean(axis=0), targets.std(axis=0)
        constant = target_scale <= _ROUNDING * magnitudes
        target_mean[constant] = targets[0, constant]
        target_scale[constant] = 0
        if learned_end:  # a logit: it starts as the share of ends says, and has no scale
            ends = targets[:, -1].sum()
            target_mean[-1], target_scale[-1] = np.log((ends + 0.5) / (len(targets) - ends + 0.5)), 1
        return cls(*(array.astype(np.float32) for array in (mean, scale, target_mean, target_scale)))

    def inputs(self, inputs: np.ndarray) -> np.ndarray:
        """Scaled, in float32."""
        return ((inputs - self.input_mean) / self.input_scale).astype(np.float32)

    def targets(self, targets: np.ndarray, learned_end: bool) -> np.ndarray:
        """Scaled, in float32; 0 where they are constant. Whether an episode ended stays 0 or 1."""
        scale = np.where(self.target_scale > 0, self.target_scale, np.inf)
        scaled = ((targets - self.target_mean) / scale).astype(np.float32)
        if learned_end:
            scaled[:, -1] = targets[:, -1]
        return scaled

    def carried(self, arrays: dict[str, np.ndarray], new: _Scales, probabilistic: bool) -> dict[str, np.ndarray]:
        """Parameters whose means in units of `new` are the same predictions; deviations too, within their bounds.

        The bounds themselves stay what they are in these units, that is, relative to how much the targets spread.
        """
        both = (self.target_scale > 0) & (new.target_scale > 0)
        scale = np.where(both, new.target_scale, 1)
        ratio = np.where(both, self.target_scale, 1) / scale
        shift = np.where(both, self.target_mean - new.target_mean, 0) / scale
        factor, offset = ratio, shift
        if probabilistic:
            factor = np.concatenate([ratio, np.ones_like(ratio)])
            offset = np.concatenate([shift, 2 * np.log(ratio)])
        last = max(int(name.split(".")[1]) for name in arrays if name.startswith("weights"))
        weights, biases = arrays[f"weights.{last}"] * factor, arrays[f"biases.{last}"] * factor + offset
        return {**arrays, f"weights.{last}": weights, f"biases.{last}": biases}


def _alike(name: str, found: dict[str, np.ndarray], expected: dict[str, Any]) -> dict[str, np.ndarray]:
    """`found`, if it has the names, shapes and types that are expected, and finite numbers."""
    if found.keys() != expected.keys():
        raise DamagedExport(f"{name} must be {short(sorted(expected))}, got {short(sorted(found))}")
    for key, array in found.items():
        like = expected[key]
        if like is None or array.shape != like.shape or array.dtype != like.dtype or not np.isfinite(array).all():
            raise DamagedExport(f"{name}: {short(key)} is not what was written")
    return found
