"""The named planners: each a choice of parametrisation, noise, refit and schedule, after its source."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput, unknown_name
from mpcrl.planners.noise import Coloured, LogNormal, Uniform, White
from mpcrl.planners.parametrisation import Derivative, Kernel, PerStep, Spline
from mpcrl.planners.refit import Best, Elites, Softmax
from mpcrl.planners.sampling import SamplingPlanner
from mpcrl.planners.schedule import Schedule


def random_shooting(*, budget: int = 500, horizon: int = 30, knots: int | None = None) -> SamplingPlanner:
    """Uniform sequences, the cheapest is taken (Nagabandi et al.: Neural network dynamics for model-based deep RL with
    model-free fine-tuning, ICRA 2018).

    With `knots` each control is held for horizon / knots steps, which small budgets need.
    """
    return SamplingPlanner(
        name="random_shooting",
        horizon=horizon,
        parametrisation=PerStep() if knots is None else Spline(knots=min(knots, horizon), order=0),
        noise=Uniform(),
        refit=Best(),
        schedule=Schedule(budget=budget, restart=True),
        width=1.0,
        execute="best",
    )


def predictive_sampling(
    *, budget: int = 10, horizon: int = 30, width: float = 0.1, knots: int = 6, order: int = 3
) -> SamplingPlanner:
    """Splines around the last plan, which is itself a candidate; the cheapest is taken (Howell et al.: Predictive
    sampling: real-time behaviour synthesis with MuJoCo, 2022)."""
    return SamplingPlanner(
        name="predictive_sampling",
        horizon=horizon,
        parametrisation=Spline(knots=min(knots, positive_integer("horizon", horizon)), order=order),
        noise=White(),
        refit=Best(),
        schedule=Schedule(budget=budget, mean_candidate="first"),
        width=width,
        execute="best",
    )


def cem(
    *,
    budget: int = 2000,
    horizon: int = 25,
    iterations: int | None = None,
    elites: int = 40,
    momentum: float = 0.1,
    width: float = 0.5,
) -> SamplingPlanner:
    """CEM as PETS runs it: truncated normals, variance capped at the bounds, momentum on the variance, early stop; the
    mean is executed (Chua et al.: Deep RL in a handful of trials using probabilistic dynamics models, NeurIPS 2018).

    `width` .5 of the half range is PETS' initial variance (high - low)^2 / 16. PETS' 5 iterations if not given, fewer
    where they would have less than 40 samples each.
    """
    iterations = iterations or _affordable(5, budget)
    return SamplingPlanner(
        name="cem",
        horizon=horizon,
        parametrisation=PerStep(),
        noise=White(truncate=2.0),
        refit=Elites(
            count=min(elites, max(2, budget // (2 * iterations))),
            momentum=momentum,
            smooth_variance=True,
            cap_at_bounds=True,
            stop_width=0.001**0.5,
        ),
        schedule=Schedule(budget=budget, iterations=iterations, least=4, pad_with_middle=True),
        width=width,
    )


def icem(
    *,
    budget: int = 100,
    horizon: int = 30,
    iterations: int = 3,
    elites: int = 10,
    momentum: float = 0.1,
    width: float = 0.5,
    beta: float = 2.0,
    decay: float = 1.25,
    reuse: float = 0.3,
    mean_candidate: str = "last",
    execute: str = "best",
    knots: int | None = None,
) -> SamplingPlanner:
    """Improved CEM: coloured noise, fewer samples per iteration, elites kept and shifted, the mean as a candidate in
    the last iteration, the best executed (Pinneri et al.: Sample-efficient cross-entropy method for real-time planning,
    CoRL 2020; beta .25 for HalfCheetah, 2 for Humanoid, 2.5 to 3.5 for manipulation).

    With `knots` the decisions are those of a cubic spline instead of one per step: for long horizons and small budgets.
    """
    elites = min(elites, max(2, budget // (2 * iterations)))
    return SamplingPlanner(
        name="icem",
        horizon=horizon,
        parametrisation=PerStep() if knots is None else Spline(knots=min(knots, horizon)),
        noise=Coloured(beta=beta),
        refit=Elites(count=elites, momentum=momentum),
        schedule=Schedule(
            budget=budget,
            iterations=iterations,
            decay=decay,
            least=min(2 * elites, max(4, budget // (2 * iterations))),
            reuse=reuse,
            mean_candidate=mean_candidate,
        ),
        width=width,
        execute=execute,
    )


def mppi(
    *,
    budget: int = 1000,
    horizon: int = 30,
    width: float = 1.0,
    temperature: float = 1.0,
    kind: str = "fixed",
    action_cost: bool = True,
    iterations: int = 1,
) -> SamplingPlanner:
    """Model-predictive path integral control (Williams et al.: Information theoretic MPC for model-based reinforcement
    learning, ICRA 2017, algorithm 2)."""
    return SamplingPlanner(
        name="mppi",
        horizon=horizon,
        parametrisation=PerStep(),
        noise=White(),
        refit=Softmax(temperature=temperature, kind=kind, action_cost=action_cost),
        schedule=Schedule(budget=budget, iterations=iterations),
        width=width,
    )


def log_mppi(
    *,
    budget: int = 1000,
    horizon: int = 30,
    width: float = 1.0,
    log_sigma: float = 0.5,
    temperature: float = 1.0,
    kind: str = "fixed",
    action_cost: bool = True,
) -> SamplingPlanner:
    """MPPI with normal times log-normal noise (Mohamed, Yin, Liu, RA-L 2022)."""
    return SamplingPlanner(
        name="log_mppi",
        horizon=horizon,
        parametrisation=PerStep(),
        noise=LogNormal(log_sigma=log_sigma),
        refit=Softmax(temperature=temperature, kind=kind, action_cost=action_cost),
        schedule=Schedule(budget=budget),
        width=width,
    )


def smppi(
    *,
    budget: int = 1000,
    horizon: int = 30,
    width: float = 1.0,
    change_weight: float = 0.03,
    temperature: float = 1.0,
    kind: str = "fixed",
    action_cost: bool = True,
) -> SamplingPlanner:
    """Smooth MPPI: samples the plan's derivative and charges changes of control (Kim et al., RA-L 2022)."""
    return SamplingPlanner(
        name="smppi",
        horizon=horizon,
        parametrisation=Derivative(change_weight=change_weight),
        noise=White(),
        refit=Softmax(temperature=temperature, kind=kind, action_cost=action_cost),
        schedule=Schedule(budget=budget),
        width=width,
    )


def kmppi(
    *,
    budget: int = 1000,
    horizon: int = 30,
    width: float = 0.5,
    points: int | None = None,
    kernel_width: float = 2.0,
    temperature: float = 1.0,
    kind: str = "fixed",
) -> SamplingPlanner:
    """MPPI over support points that a radial kernel interpolates (KMPPI of pytorch_mppi; half as many as steps)."""
    return SamplingPlanner(
        name="kmppi",
        horizon=horizon,
        parametrisation=Kernel(points=points or max(2, horizon // 2), width=kernel_width),
        noise=White(),
        refit=Softmax(temperature=temperature, kind=kind),
        schedule=Schedule(budget=budget),
        width=width,
    )


def dial(
    *,
    budget: int = 512,
    horizon: int = 20,
    width: float = 1.0,
    nodes: int = 5,
    iterations: int = 2,
    first_iterations: int = 10,
    temperature: float = 0.06,
    horizon_annealing: float = 0.9,
    annealing: float = 0.5,
) -> SamplingPlanner:
    """Diffusion-inspired annealing: MPPI whose noise shrinks over iterations and towards the present, costs
    standardised (Xue et al.: Full-order sampling-based MPC for torque-level locomotion control via diffusion-style
    annealing, 2024).

    The first node is sampled as well: here a plan's first control is applied after planning, not before it.
    """
    nodes = min(nodes, positive_integer("horizon", horizon))
    return SamplingPlanner(
        name="dial",
        horizon=horizon,
        parametrisation=Spline(knots=nodes, order=3 if nodes > 3 else 0),
        noise=White(),
        refit=Softmax(temperature=temperature, kind="normalised"),
        schedule=Schedule(
            budget=budget,
            iterations=iterations,
            first_iterations=first_iterations,
            mean_candidate="first",
            annealing=annealing,
            horizon_annealing=horizon_annealing,
        ),
        width=width,
    )


def planet(
    *, budget: int = 10_000, horizon: int = 12, iterations: int | None = None, elites: int = 100, width: float = 1.0
) -> SamplingPlanner:
    """CEM as PlaNet runs it: from scratch at every step, no momentum, samples clipped, the mean executed (Hafner et
    al.: Learning latent dynamics for planning from pixels, ICML 2019, algorithm 2: 1000 samples, 100 elites, 10
    iterations).

    As many elites as a tenth of the samples; fewer iterations where they would have less than 40 samples each.
    """
    iterations = iterations or _affordable(10, budget)
    return SamplingPlanner(
        name="planet",
        horizon=horizon,
        parametrisation=PerStep(),
        noise=White(),
        refit=Elites(count=min(elites, max(2, budget // (10 * iterations))), momentum=0.0),
        schedule=Schedule(budget=budget, iterations=iterations, least=4, restart=True),
        width=width,
    )


def _affordable(iterations: int, budget: int) -> int:
    """So many iterations, or as many as get 40 samples each."""
    return max(1, min(iterations, budget // 40))


PRESETS: dict[str, Callable[..., SamplingPlanner]] = {
    preset.__name__: preset
    for preset in (random_shooting, predictive_sampling, cem, icem, mppi, log_mppi, smppi, kmppi, dial, planet)
}
"""All sampling planners by name; this list drives the command line and the contract tests."""


def preset(name: str, **options: Any) -> SamplingPlanner:
    """The planner of a name; options as in its function."""
    if name not in PRESETS:
        raise unknown_name("planner", name, PRESETS)
    known = inspect.signature(PRESETS[name]).parameters
    for option in options:
        if option not in known:
            raise InvalidInput(f"planner {name!r} has no option {option!r}; it has {', '.join(known)}")
    return PRESETS[name](**options)
