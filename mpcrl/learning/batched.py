"""The networks of an ensemble as tensors, all in one: what they compute, their loss, and a step that lowers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mpcrl.core.errors import missing

try:
    import torch
except ImportError as error:
    raise missing("torch", "learning") from error

BOUND_WEIGHT = 0.01
"""Of the distance between the bounds of the log variance, in the loss."""

_ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


class Batched:
    """E networks of one shape and Adam's state (Kingma and Ba 2015), on one device, in float32.

    The loss of a member is the mean over rows and outputs of

        (mean - y)^2 exp(-s) + s        a Gaussian's -2 log likelihood but for a constant; s is the log variance
        (mean - y)^2                    where the networks are deterministic
        log(1 + exp(l)) - y l           of a logit l: cross entropy with whether the episode ended

    and all members' are summed, with BOUND_WEIGHT (most - least), averaged over outputs: the bounds of s are common to
    all members. (Chua et al. 2018 sum that over outputs, which for hundreds of them outweighs the likelihood.) Half the
    squared norm of each layer's weights is added by its own factor, within Adam.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        `weights.i` [E, in, out], `biases.i` [E, out], `least_logvar` and `most_logvar` [nout]; copied.
    activation : str
    probabilistic : bool
    gaussian : sequence of int
        Outputs that are learned by the first two lines.
    logits : mapping of int to float
        Outputs that are learned by the third, and what is added to each.
    learning_rate : float
    weight_decay : sequence of float
        One per layer.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        activation: str,
        probabilistic: bool,
        gaussian: Sequence[int],
        logits: Mapping[int, float],
        learning_rate: float,
        weight_decay: Sequence[float],
    ) -> None:
        self.parameters = {
            name: torch.tensor(array, dtype=torch.float32, requires_grad=True) for name, array in arrays.items()
        }
        self._layers = [
            (self.parameters[f"weights.{i}"], self.parameters[f"biases.{i}"]) for i in range(len(weight_decay))
        ]
        self._activation, self._probabilistic = _ACTIVATIONS[activation], probabilistic
        self._nout = len(arrays["least_logvar"])
        self._gaussian = torch.tensor(gaussian, dtype=torch.int64)
        self._logits = torch.tensor(list(logits), dtype=torch.int64)
        self._offsets = torch.tensor(list(logits.values()), dtype=torch.float32)
        self._all_gaussian = list(gaussian) == list(range(self._nout))
        groups = [{"params": [w], "weight_decay": d} for (w, _), d in zip(self._layers, weight_decay, strict=True)]
        rest = [p for name, p in self.parameters.items() if not name.startswith("weights")]
        self._adam = torch.optim.Adam([*groups, {"params": rest}], lr=learning_rate, fused=True)

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """The last layer's [E, b, nout or 2 nout] of scaled inputs [E, b, nin]."""
        h = inputs
        for w, b in self._layers[:-1]:
            h = self._activation(torch.baddbmm(b[:, None], h, w))
        w, b = self._layers[-1]
        return torch.baddbmm(b[:, None], h, w)

    def errors(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and squared error [E, b] of rows, each the mean over outputs; of a logit, that of the probability.

        Parameters
        ----------
        outputs : Tensor [E, b, nout or 2 nout]
        targets : Tensor [E, b, nout]
        """
        count = max(1, len(self._gaussian) + len(self._logits))
        means, least, most = outputs[..., : self._nout], self.parameters["least_logvar"], self.parameters["most_logvar"]
        spread = outputs[..., self._nout :]
        m, y = means, targets
        if not self._all_gaussian:
            m, y = m.index_select(-1, self._gaussian), y.index_select(-1, self._gaussian)
            least, most = least[self._gaussian], most[self._gaussian]
            spread = spread.index_select(-1, self._gaussian) if self._probabilistic else spread
        squared = (m - y) ** 2
        loss = squared
        if self._probabilistic:
            s = bounded(spread, least, most)
            loss = squared * torch.exp(-s) + s
        losses, wrong = loss.sum(-1), squared.detach().sum(-1)
        if len(self._logits):
            logit, ended = means.index_select(-1, self._logits) + self._offsets, targets.index_select(-1, self._logits)
            ended = ended.expand_as(logit)
            cross = torch.nn.functional.binary_cross_entropy_with_logits(logit, ended, reduction="none")
            losses = losses + cross.sum(-1)
            wrong = wrong + ((torch.sigmoid(logit.detach()) - ended) ** 2).sum(-1)
        return losses / count, wrong / count

    def loss(
        self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a step lowers, without the weight decay, and the losses [E] of the members in it.

        Parameters
        ----------
        inputs : Tensor [E, b, nin]
        targets : Tensor [E, b, nout]
        weights : Tensor [E, b]
        """
        losses = (self.errors(self.outputs(inputs), targets)[0] * weights).mean(-1)
        total = losses.sum()
        if self._probabilistic and len(self._gaussian):
            apart = self.parameters["most_logvar"] - self.parameters["least_logvar"]
            total = total + BOUND_WEIGHT * apart[self._gaussian].mean()
        return total, losses.detach()

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """One step of Adam; the losses [E] before it."""
        if not len(self._gaussian) + len(self._logits):
            return torch.zeros(len(inputs))  # all outputs are constant
        self._adam.zero_grad(set_to_none=True)
        total, losses = self.loss(inputs, targets, weights)
        total.backward()
        self._adam.step()
        return losses

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters by name, as they were given; copies."""
        return {name: p.detach().numpy().copy() for name, p in self.parameters.items()}

    def moments(self) -> dict[str, np.ndarray]:
        """Adam's state by name; none before the first step."""
        found = {}
        for name, parameter in self.parameters.items():
            for key, value in self._adam.state.get(parameter, {}).items():
                found[f"{key}.{name}"] = value.numpy().copy()
        return found

    def restore(self, moments: Mapping[str, np.ndarray]) -> None:
        """Put back what `moments` gave."""
        for key, value in moments.items():
            kind, name = key.split(".", 1)
            self._adam.state[self.parameters[name]][kind] = torch.tensor(value)


def bounded(s: torch.Tensor, least: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Log variances within soft bounds: softplus from above, then from below (Chua et al. 2018, appendix A.1)."""
    softplus = torch.nn.functional.softplus
    s = most - softplus(most - s)
    return least + softplus(s - least)
