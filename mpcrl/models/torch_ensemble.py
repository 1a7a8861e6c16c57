"""A trained ensemble as the model, with its networks in torch: for machines with a graphics card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import InvalidInput, missing
from mpcrl.core.random import LANES
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import ensemble
from mpcrl.kernels.hooked import call_all, draw_all
from mpcrl.models.ensemble import Ensemble
from mpcrl.models.network import Network
from mpcrl.models.particles import NOISE, Plan, Trace
from mpcrl.tasks.task import Task

try:
    import torch
except ImportError as error:
    raise missing("torch", "learning") from error

_ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


class TorchEnsemble(Ensemble):
    """An `Ensemble` whose networks run on a device of torch; costs of the task are evaluated on the CPU.

    It takes the same arguments, does the same with them, and draws the same noise: its costs are those of `Ensemble` up
    to rounding. It is for graphics cards: on a CPU `Ensemble` does the same in one compiled kernel.

    Parameters
    ----------
    task, network
        As of `Ensemble`.
    device : str
        Of torch: "cuda", "cuda:1", "cpu".
    **settings
        As of `Ensemble`, but for `precision`, which is float32.

    Raises
    ------
    MissingDependency
        Torch is not installed.
    InvalidInput
        Also for a device that is not there.
    """

    def __init__(self, task: Task, network: Network, *, device: str = "cuda", **settings: Any) -> None:
        try:
            self._device = torch.device(device)
            torch.zeros(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            there = "cuda" if torch.cuda.is_available() else "cpu"
            reason = str(error).splitlines()[0]
            raise InvalidInput(f"torch has no device {device!r}: {reason}; device={there!r} works here") from error
        if settings.get("precision", "float32") != "float32":
            raise InvalidInput(f"on a device of torch the precision is float32, got {settings['precision']!r}")
        self.device = device
        super().__init__(task, network, **settings)
        self._nets = _Networks(network, self._device)

    def use(self, network: Network) -> None:
        """Predict with this network from now on; see `Ensemble.use`."""
        super().use(network)
        self._nets = _Networks(network, self._device)

    def of(self, task: Task) -> TorchEnsemble:
        """The same model under the costs of another task with the same states."""
        return TorchEnsemble(task, self.network, device=self.device, risk=self.risk, **self._settings())

    @classmethod
    def load(cls, task: Task, folder: Path, *, device: str = "cuda") -> TorchEnsemble:
        """What `Ensemble.save` wrote; see `Ensemble.load`. It predicts in float32, whatever it was saved with."""
        model = Ensemble.load(task, folder)
        settings = {**model._settings(), "precision": "float32"}
        return cls(model.task, model.network, device=device, risk=model.risk, **settings)

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
        with threads.limit(), torch.no_grad():
            run = _Run(self, start, controls, candidates.count, int(t), params, plan, trace)
            for h in range(candidates.horizon):
                run.step(h)
            return run.costs()


class _Networks:
    """The numbers of an ensemble on a device."""

    def __init__(self, network: Network, device: torch.device) -> None:
        def there(array: Any) -> torch.Tensor:
            return torch.tensor(np.asarray(array), device=device)

        features = network.features
        self.layers = [(there(w), there(b)) for w, b in zip(network.weights, network.biases, strict=True)]
        self.activation = _ACTIVATIONS[network.activation]
        self.input_mean, self.input_scale = there(network.input_mean), there(network.input_scale)
        self.target_mean, self.target_scale = there(network.target_mean), there(network.target_scale)
        self.least, self.most = there(np.exp(network.least_logvar)), there(np.exp(-network.most_logvar))
        self.plain, self.angles = there(np.array(features.plain, int)), there(np.array(features.angles, int))
        changes = np.ones(features.nx, np.float32)
        changes[list(features.absolute)] = 0
        self.changes = there(changes)
        self.nout, self.probabilistic = network.nout, network.probabilistic

    def of_particles(self, members: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The layers of each particle's member, by particle."""
        index = torch.tensor(members, device=self.input_mean.device)
        return [(w[index], b[index][:, None]) for w, b in self.layers]

    def predict(
        self, layers: list[tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor, controls: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and deviations [P, N, nout] of the outputs at states x [P, N, nx] under controls [N, nu]."""
        turned = x[..., self.angles]
        parts = (x[..., self.plain], turned.sin(), turned.cos(), controls.expand(len(x), -1, -1))
        h = (torch.cat(parts, dim=-1) - self.input_mean) / self.input_scale
        for w, b in layers[:-1]:
            h = self.activation(torch.baddbmm(b, h, w))
        w, b = layers[-1]
        out = torch.baddbmm(b, h, w)
        mean = self.target_mean + self.target_scale * out[..., : self.nout]
        if not self.probabilistic:
            return mean, torch.zeros_like(mean)
        return mean, self.target_scale * torch.sqrt(self.least + 1 / (self.most + torch.exp(-out[..., self.nout :])))


class _Run:
    """Particles on their way: states on the device, what the task says of them on the CPU; see `kernels.ensemble`."""

    def __init__(
        self,
        model: TorchEnsemble,
        start: np.ndarray,
        controls: np.ndarray,
        count: int,
        t: int,
        params: Any,
        plan: Plan,
        trace: Trace | None,
    ) -> None:
        self._model, self._nets, self._plan, self._trace = model, model._nets, plan, trace
        self._count, self._t, self._params = count, t, model._coerce(params)
        self._controls = np.ascontiguousarray(controls.swapaxes(0, 1))  # [H, B, nu, LANES]
        self._horizon, self._blocks, _, _ = self._controls.shape
        samples = self._blocks * LANES
        self._seen = self._there(np.ascontiguousarray(self._controls.swapaxes(2, 3))).reshape(
            self._horizon, samples, -1
        )
        self._members = model._members(plan, self._horizon, t)
        self._kept = (self._members == self._members[:, :1]).all()
        self._layers = self._nets.of_particles(self._members[:, 0])
        teams = len(model.network.elites)
        self._draws = np.arange(plan.particles) // (teams if plan.paired else 1)
        self._teams = teams if plan.measured else 0
        self._noise = ensemble.NONE if plan.propagation == "mean" else NOISE[model.noise]

        self._x = self._there(start).expand(plan.particles, samples, -1)
        self._alive = torch.ones((plan.particles, samples), device=self._x.device)
        self._paid = torch.zeros_like(self._alive)
        self._host_x = self._old = self._here()
        self._total = np.zeros((plan.particles, self._blocks, LANES), np.float32)
        self._whole = np.ones((plan.particles, self._blocks), np.int64)
        self._record("states", 0, self._x)

    def step(self, h: int) -> None:
        """One control step of all particles."""
        model, network, x = self._model, self._model.network, self._x
        before = self._total.copy(), self._paid.clone()
        self._call(model._hooks.stage, h)
        if h and not self._kept:
            self._layers = self._nets.of_particles(self._members[:, h])
        outputs, deviations = self._nets.predict(self._layers, x, self._seen[h])
        mean = self._nets.changes * x + outputs[..., : model.nx]
        std = deviations[..., : model.nx]
        if self._plan.propagation == "mean":  # also of costs and ends
            outputs = outputs.mean(0, keepdim=True).expand_as(outputs)
        if network.learned_cost:
            self._paid += torch.where(self._alive > 0, outputs[..., model.nx], 0)
        self._record("means", h, mean)
        self._record("stds", h, std)
        if self._teams:
            self._judge(mean, h, *before)
        noisy = self._noise != ensemble.NONE and network.probabilistic
        if self._plan.propagation == "moments":
            following = self._gathered(mean, std, h, noisy)
        elif self._plan.propagation == "mean":
            alive = self._alive[..., None]
            following = ((alive * mean).sum(0) / alive.sum(0).clamp(min=1)).expand_as(mean)
        else:
            following = mean + std * self._normals(h, ensemble.NOISE_STREAM) if noisy else mean
        self._x = torch.where(self._alive[..., None] > 0, following, x)
        self._old, self._host_x = self._host_x, self._here()
        self._call(model._hooks.after, h)
        if network.learned_end:
            self._alive = torch.where(outputs[..., network.nout - 1] > 0, 0, self._alive)
        self._record("states", h + 1, self._x)

    def costs(self) -> np.ndarray:
        """Costs [P, N] after all steps."""
        self._call(self._model._hooks.last, self._horizon)
        whole = np.repeat(self._whole, LANES, axis=1) == 1
        costs = self._total.reshape(self._paid.shape) + self._paid.cpu().numpy()
        fine = whole & np.isfinite(costs) & torch.isfinite(self._x).all(-1).cpu().numpy()
        return np.where(fine, costs, np.inf)[:, : self._count].astype(np.float64)

    def _call(self, hook: int, h: int) -> None:
        """What the task says of the states at step h."""
        alive = self._alive.cpu().numpy().reshape(self._total.shape).copy()
        controls = self._controls[min(h, self._horizon - 1)]
        args = (self._total, alive, self._whole, self._params, np.int64(self._t + h))
        call_all(np.int64(hook), self._host_x, self._old, controls, *args)
        self._alive = self._there(alive).reshape(self._alive.shape)

    def _judge(self, mean: torch.Tensor, h: int, total: np.ndarray, paid: torch.Tensor) -> None:
        """Make candidates pay for disagreement, and end where it is too large; `total` and `paid` until this step."""
        model, teams = self._model, self._teams
        alive = self._alive.reshape(-1, teams, *self._alive.shape[1:], 1)
        counts = alive.sum(0)
        middles = torch.where(alive > 0, mean.reshape(-1, teams, *mean.shape[1:]), 0).sum(0) / counts.clamp(min=1)
        weights = counts.clamp(max=1)
        there = weights.sum(0).clamp(min=1)
        middle = (weights * middles).sum(0) / there
        variance = (weights * (middles - middle) ** 2).sum(0) / there
        spread = (variance / self._nets.target_scale[: model.nx] ** 2).mean(-1).sqrt()
        alone = self._alive > 0
        beyond = alone & (spread > (np.inf if model.limit is None else model.limit))
        self._paid += torch.where(alone & ~beyond, model.penalty * spread, 0)
        if beyond.any():
            self._paid = torch.where(beyond, paid + model.limit_cost * (self._horizon - h), self._paid)
            self._total = np.where(beyond.cpu().numpy().reshape(total.shape), total, self._total)
            self._alive = torch.where(beyond, 0, self._alive)

    def _gathered(self, mean: torch.Tensor, std: torch.Tensor, h: int, noisy: bool) -> torch.Tensor:
        """Particles drawn anew from the Gaussian of those that still go on; see `ensemble.gather_moments`."""
        alive = self._alive[..., None]
        count = alive.sum(0).clamp(min=1)
        normals = self._normals(h, ensemble.MOMENTS_STREAM)
        middle, shift = (torch.where(alive > 0, a, 0).sum(0) / count for a in (mean, normals))
        away, normals = mean - middle, normals - shift
        variance = torch.where(alive > 0, away**2 + (std**2 if noisy else 0), 0).sum(0)
        width = torch.where(alive > 0, normals**2, 0).sum(0)
        return middle + torch.where(width > 0, torch.sqrt(variance / width.clamp(min=1e-30)), 0) * normals

    def _normals(self, h: int, stream: int) -> torch.Tensor:
        """[P, B LANES, nx]"""
        nx, model = self._model.nx, self._model
        drawn = np.zeros((len(self._draws), self._blocks, -(-nx // 4) * 4, LANES), np.float32)
        args = (np.uint64(model.seed), np.int64(self._t), self._draws, np.int64(h), np.int64(stream))
        draw_all(drawn, np.int64(self._noise), *args)
        return self._there(drawn)[:, :, :nx].swapaxes(2, 3).reshape(self._x.shape)

    def _here(self) -> np.ndarray:
        """The states as hooks take them, [P, B, nx, LANES]."""
        particles, _, nx = self._x.shape
        return np.ascontiguousarray(self._x.reshape(particles, self._blocks, LANES, nx).swapaxes(2, 3).cpu().numpy())

    def _there(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._nets.input_mean.device)

    def _record(self, name: str, h: int, values: torch.Tensor) -> None:
        if self._trace is not None:
            getattr(self._trace, name)[:, :, h] = values[:, : self._count].cpu().numpy()
