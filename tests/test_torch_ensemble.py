"""The ensemble on a device of torch: the same costs as the compiled one, whatever it is asked."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.models.ensemble import Ensemble
from mpcrl.models.network import Network
from mpcrl.tasks.features import features_of
from mpcrl.tasks.registry import make_task

torch = pytest.importorskip("torch")

from mpcrl.models.torch_ensemble import TorchEnsemble  # noqa: E402  torch may not be there

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
N, H = 70, 6
LIMIT = 2.2
"""Of disagreement; some candidates get beyond it."""


def networked(task, seed=0, **options):
    """A network of random numbers, whose states stay where costs are of the same size."""
    options = {"activation": "silu", "probabilistic": True, **options}
    what = features_of(task)
    nout = what.nx + options.get("learned_cost", 0) + options.get("learned_end", 0)
    rng = np.random.default_rng(seed)
    sizes = [what.size, 24, 24, nout * (1 + options["probabilistic"])]

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return Network(
        features=what,
        weights=tuple(normal(4, a, b) / np.float32(np.sqrt(a)) for a, b in itertools.pairwise(sizes)),
        biases=tuple(0.3 * normal(4, b) for b in sizes[1:]),
        input_mean=0.1 * normal(what.size),
        input_scale=np.exp(0.2 * normal(what.size)),
        target_mean=0.02 * normal(nout),
        target_scale=0.05 * np.exp(0.3 * normal(nout)),
        least_logvar=np.full(nout, -6, np.float32),
        most_logvar=np.full(nout, -1, np.float32),
        elites=(0, 1, 3),
        **options,
    )


CASES: dict[str, dict] = {
    "fresh": {},
    "fixed noise": {"noise": "fixed"},
    "no noise": {"noise": "none"},
    "ts1": {"propagation": "ts1"},
    "one member": {"propagation": 2},
    "mean": {"propagation": "mean"},
    "moments": {"propagation": "moments"},
    "penalty": {"penalty": 2.0},
    "moments, penalty": {"propagation": "moments", "penalty": 0.7},
    "limit": {"limit": LIMIT, "limit_cost": 50.0},
    "forbidden": {"limit": LIMIT},
}


def both(task, network, **settings):
    settings = {"particles": 6, "seed": 11, **settings}
    return Ensemble(task, network, **settings), [TorchEnsemble(task, network, device=d, **settings) for d in DEVICES]


def compare(task, network, **settings):
    kernel, others = both(task, network, **settings)
    rng = np.random.default_rng(3)
    controls = rng.uniform(task.control_low, task.control_high, (N, H, task.nu))
    arguments = kernel.example_state(), Candidates.from_rows(controls, np.float32), 4, task.params, ThreadBudget(1)
    expected = kernel.costs(*arguments)
    for other in others:
        found = other.costs(*arguments)
        assert (np.isfinite(found) == np.isfinite(expected)).all()
        fine = np.isfinite(expected)
        assert found[fine] == pytest.approx(expected[fine], rel=2e-4, abs=2e-4)
        if np.ptp(expected[fine]) > 0:
            assert spearmanr(found[fine], expected[fine]).statistic > 0.999
        paths, twins = (model.sampled(arguments[0], controls[:5], 4) for model in (kernel, other))
        assert paths.shape == twins.shape and twins == pytest.approx(paths, rel=1e-4, abs=1e-4)
    return expected


@pytest.mark.parametrize("case", CASES)
def test_it_costs_what_the_compiled_one_says(case):
    task = make_task("cartpole-swingup")
    expected = compare(task, networked(task), **CASES[case])
    if case in ("limit", "forbidden"):
        beyond = (expected > 50).mean()
        assert 0.1 < beyond < 0.9, beyond


@pytest.mark.parametrize("options", [{"probabilistic": False}, {"activation": "tanh"}, {"activation": "gelu"}])
def test_every_kind_of_network_does(options):
    task = make_task("cartpole-swingup")
    compare(task, networked(task, **options))


@pytest.mark.parametrize("options", [{"learned_cost": True}, {"learned_end": True, "learned_cost": True}])
def test_cost_and_end_may_be_learned(options):
    task = make_task("cartpole-swingup")
    for settings in ({}, {"propagation": "mean"}, {"limit": LIMIT, "limit_cost": 50.0}):
        compare(task, networked(task, **options), **settings)


def test_an_end_of_the_task_counts():
    task = dataclasses.replace(make_task("cartpole-swingup"), terminated=beyond)
    expected = compare(task, networked(task))
    assert np.ptp(expected) > 0


def beyond(x, p):
    return abs(x[0]) > 0.15


def test_a_task_of_records_does():
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium")
    task = make_task("InvertedPendulum-v5")
    compare(task, networked(task), penalty=0.5)


def test_uncertainty_and_a_new_network_are_the_same():
    task = make_task("cartpole-swingup")
    kernel, others = both(task, networked(task))
    controls = np.random.default_rng(0).uniform(-1, 1, (4, H, 1))
    start = kernel.example_state()
    for seed in (0, 5):
        expected = kernel.uncertainty(start, controls)
        for other in others:
            for a, b in zip(expected, other.uncertainty(start, controls), strict=True):
                assert b == pytest.approx(a, rel=1e-3, abs=1e-6)
        for model in (kernel, *others):
            model.use(networked(task, seed=seed + 5))


def test_it_is_saved_and_rebuilt_as_any(tmp_path):
    task = make_task("cartpole-swingup")
    kernel, (other, *_) = both(task, networked(task), noise="fixed")
    other.save(tmp_path / "model")
    again = TorchEnsemble.load(task, tmp_path / "model", device="cpu")
    controls = np.zeros((3, H, 1))
    assert again.sampled(np.zeros(4), controls) == pytest.approx(kernel.sampled(np.zeros(4), controls), abs=1e-4)
    assert isinstance(other.of(task), TorchEnsemble) and other.of(task).noise == "fixed"


def test_what_is_not_there_is_refused():
    task = make_task("cartpole-swingup")
    with pytest.raises(InvalidInput, match="torch has no device 'cuda:77'"):
        TorchEnsemble(task, networked(task), device="cuda:77")
    with pytest.raises(InvalidInput, match="precision is float32, got 'bf16'"):
        TorchEnsemble(task, networked(task), device="cpu", precision="bf16")
