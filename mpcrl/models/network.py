"""The numbers of a trained ensemble of networks, and what they compute, in plain NumPy.

Member e sees inputs v [nin] and gives, per output, a mean and where it is probabilistic a standard deviation:

    h = (v - input_mean) / input_scale;   h = act(h W_e,i + b_e,i) for each hidden layer;   (m, s) = h W_e + b_e
    mean = target_mean + target_scale m
    var  = target_scale^2 (exp(least) + 1 / (exp(-most) + exp(-s)))

The last line is the log variance s within learned soft bounds (Chua, Calandra, McAllister, Levine 2018, appendix A.1):
two softplus in a row, written without logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from mpcrl.core.bundle import from_json, from_safetensors, to_json, to_safetensors
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.tasks.features import Features, RecordedField

ACTIVATIONS = ("silu", "relu", "tanh", "gelu")


_PLAIN = ("activation", "probabilistic", "learned_cost", "learned_end")
"""Fields that JSON holds as they are."""


class Prediction(NamedTuple):
    """Of one member or several.

    Attributes
    ----------
    mean, std : ndarray [..., nout]
        Of the outputs; std is 0 where the member is deterministic.
    """

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """An ensemble of E networks of one shape, trained.

    Attributes
    ----------
    features : Features
        What the networks see. Outputs are, in this order: one per number of a state, its change or (where `absolute`)
        its next value; the cost where it is learned; the logit of the episode's end where that is learned.
    weights : tuple of ndarray [E, in, out] float32
        Per layer. The last one has `nout` columns of means and, where probabilistic, as many of log variances.
    biases : tuple of ndarray [E, out] float32
    activation : {"silu", "relu", "tanh", "gelu"}
        After every layer but the last; gelu by its tanh approximation.
    probabilistic : bool
    input_mean, input_scale : ndarray [nin] float32
    target_mean, target_scale : ndarray [nout] float32
    least_logvar, most_logvar : ndarray [nout] float32
        Learned bounds, in units of target_scale^2; not used where deterministic.
    learned_cost, learned_end : bool
        Whether the cost and the episode's end are outputs; else they are the task's own functions.
    elites : tuple of int
        Members to predict with.
    """

    features: Features
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: str
    probabilistic: bool
    input_mean: np.ndarray
    input_scale: np.ndarray
    target_mean: np.ndarray
    target_scale: np.ndarray
    least_logvar: np.ndarray
    most_logvar: np.ndarray
    learned_cost: bool = False
    learned_end: bool = False
    elites: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InvalidInput(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if len(self.weights) < 2 or len(self.weights) != len(self.biases):
            raise InvalidInput("a network needs at least one hidden layer, and one bias per weight matrix")
        widths = [self.features.size, *(w.shape[2] for w in self.weights[:-1])]
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = w.shape[2] if i < len(self.weights) - 1 else self.nout * (1 + self.probabilistic)
            if w.shape != (self.members, widths[i], out) or b.shape != (self.members, out):
                raise InvalidInput(
                    f"layer {i} must have weights of shape {(self.members, widths[i], out)} and biases of shape "
                    f"{(self.members, out)}, got {w.shape} and {b.shape}"
                )
        sizes = {"input_mean": self.features.size, "input_scale": self.features.size}
        sizes |= dict.fromkeys(("target_mean", "target_scale", "least_logvar", "most_logvar"), self.nout)
        for name, size in sizes.items():
            if getattr(self, name).shape != (size,):
                raise InvalidInput(f"{name} must have the shape ({size},), got {getattr(self, name).shape}")
        if not self.elites:
            object.__setattr__(self, "elites", tuple(range(self.members)))
        if not set(self.elites) <= set(range(self.members)):
            raise InvalidInput(f"elites must be members 0 to {self.members - 1}, got {self.elites}")

    @property
    def members(self) -> int:
        """E."""
        return int(self.weights[0].shape[0])

    @property
    def nout(self) -> int:
        """Number of outputs."""
        return self.features.nx + self.learned_cost + self.learned_end

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for files."""
        layers = {f"weights.{i}": w for i, w in enumerate(self.weights)}
        layers |= {f"biases.{i}": b for i, b in enumerate(self.biases)}
        names = ("input_mean", "input_scale", "target_mean", "target_scale", "least_logvar", "most_logvar")
        return layers | {name: getattr(self, name) for name in names}

    def files(self) -> dict[str, bytes]:
        """JSON and safetensors that `of_files` makes the network of."""
        about = {
            "features": configuration(self.features),
            "layers": len(self.weights),
            **{name: getattr(self, name) for name in _PLAIN},
            "elites": list(self.elites),
        }
        return {"network.json": to_json(about), "network.safetensors": to_safetensors(self.arrays())}

    @classmethod
    def of_files(cls, files: Mapping[str, bytes]) -> Self:
        """The network that `files` wrote.

        Raises
        ------
        DamagedExport
        """
        try:
            about = from_json(files["network.json"], "network.json")
            arrays = from_safetensors(files["network.safetensors"], "network.safetensors")
            values: dict[str, Any] = {name: about[name] for name in _PLAIN}
            for name in ("weights", "biases"):
                values[name] = tuple(arrays.pop(f"{name}.{i}") for i in range(about["layers"]))
            values |= {"features": _features(about["features"]), "elites": tuple(about["elites"]), **arrays}
            return cls(**values)
        except (KeyError, TypeError, AttributeError, InvalidInput) as error:
            if isinstance(error, DamagedExport):
                raise
            raise DamagedExport(f"a network's files do not fit together: {error!r}") from error

    def predict(self, states: np.ndarray, controls: np.ndarray) -> Prediction:
        """Means and standard deviations [E, ..., nout] of the outputs, by all members, in float64.

        Parameters
        ----------
        states : ndarray [..., nx]
        controls : ndarray [..., nu]
        """
        v = self.features.inputs(np.asarray(states, np.float64), np.asarray(controls, np.float64))
        shape = v.shape[:-1]
        h = ((v.reshape(-1, v.shape[-1]) - self.input_mean) / self.input_scale)[None]
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = activated(self.activation, h @ w.astype(np.float64) + b[:, None])
        out = h @ self.weights[-1].astype(np.float64) + self.biases[-1][:, None]
        mean = self.target_mean + self.target_scale * out[..., : self.nout]
        std = np.zeros_like(mean)
        if self.probabilistic:
            with np.errstate(over="ignore"):  # exp(-s) is inf where the variance is the least
                s = out[..., self.nout :]
                var = np.exp(self.least_logvar) + 1 / (np.exp(-self.most_logvar) + np.exp(-s))
            std = self.target_scale * np.sqrt(var)
        return Prediction(mean.reshape(self.members, *shape, -1), std.reshape(self.members, *shape, -1))


def _features(written: Mapping[str, Any]) -> Features:
    """What `configuration` wrote."""
    values = {key: value for key, value in written.items() if key != "type"}
    fields = tuple(RecordedField(name, tuple(shape), start, stop) for name, shape, start, stop in values.pop("fields"))
    nu = values.pop("nu")
    return Features(nu=nu, fields=fields, **{key: tuple(value) for key, value in values.items()})


def activated(activation: str, x: np.ndarray) -> np.ndarray:
    """An activation by its name."""
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "tanh":
        return np.tanh(x)
    if activation == "gelu":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    with np.errstate(over="ignore"):  # exp(-x) is inf where the result is 0
        return x / (1 + np.exp(-x))
