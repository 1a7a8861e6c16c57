"""Fitting ensembles: against slow twins, against systems that are known, and to the last bit where it goes on."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest

from mpcrl.core.errors import DamagedExport, InvalidInput, MissingDependency
from mpcrl.learning.ensemble import EnsembleConfig, Learner
from mpcrl.learning.replay import Replay
from mpcrl.models.network import activated
from mpcrl.tasks.features import Features

torch = pytest.importorskip("torch")

from mpcrl.learning.batched import BOUND_WEIGHT, Batched, bounded  # noqa: E402  torch may not be there

PLAIN = Features(names=("a", "b"), nu=1)
SMALL = EnsembleConfig(members=3, hidden=(16, 16), batch=16, epochs=2)


def features(nx, **options):
    return Features(names=tuple(f"x{i}" for i in range(nx)), nu=1, **options)


def seen(nx=2, episodes=4, steps=25, members=3, seed=0, step=None, capacity=5000):
    """Random walks, or what `step(x, u, rng)` makes of random controls."""
    rng = np.random.default_rng(seed)
    replay = Replay(nx, 1, capacity=capacity, members=members, seed=seed)
    for _ in range(episodes):
        path, controls = [rng.normal(size=nx)], rng.uniform(-1, 1, (steps, 1))
        for u in controls:
            path.append(step(path[-1], u, rng) if step else path[-1] + rng.normal(size=nx))
        costs = np.square(path).sum(axis=1)[:-1]
        replay.add_episode(path, controls, costs, terminated=path[-1][0] > 0)
    return replay


def same(a, b):
    """Whether two networks are of the same bits."""
    left, right = a.arrays(), b.arrays()
    return left.keys() == right.keys() and all(left[k].tobytes() == right[k].tobytes() for k in left)


# ---- the batched networks ----------------------------------------------------------------------------------------
def batched(members=3, nin=4, nout=3, hidden=(8, 7), seed=0, *, gaussian=(0, 1, 2), logits=None, **options):
    rng = np.random.default_rng(seed)
    options = {"activation": "silu", "probabilistic": True, "learning_rate": 1e-2, **options}
    sizes = [nin, *hidden, nout * (1 + options["probabilistic"])]
    arrays = {}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        arrays[f"weights.{i}"] = rng.normal(size=(members, a, b)).astype(np.float32)
        arrays[f"biases.{i}"] = rng.normal(size=(members, b)).astype(np.float32)
    arrays["least_logvar"] = rng.uniform(-3, -2, nout).astype(np.float32)
    arrays["most_logvar"] = rng.uniform(-1, 1, nout).astype(np.float32)
    decay = [0.01 * (i + 1) for i in range(len(sizes) - 1)]
    return arrays, Batched(arrays, gaussian=gaussian, logits=logits or {}, weight_decay=decay, **options)


def batch(members=3, rows=6, nin=4, nout=3, seed=1):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(members, rows, nout))
    y[..., -1] = y[..., -1] > 0  # also good as whether an episode ended
    return rng.normal(size=(members, rows, nin)), y, rng.uniform(0.2, 2, (members, rows))


def tensors(parts):
    return [torch.tensor(part, dtype=torch.float32) for part in parts]


def naive_loss(arrays, x, y, weights, activation, probabilistic, gaussian, logits):
    """Row by row, member by member, output by output, in float64."""
    depth = sum(name.startswith("weights") for name in arrays)
    total, members = 0.0, []
    for e in range(len(x)):
        losses = []
        for row in range(x.shape[1]):
            h = x[e, row]
            for i in range(depth):
                h = h @ arrays[f"weights.{i}"][e].astype(float) + arrays[f"biases.{i}"][e]
                h = activated(activation, h) if i < depth - 1 else h
            parts, nout = [], y.shape[2]
            for k in gaussian:
                if not probabilistic:
                    parts.append((h[k] - y[e, row, k]) ** 2)
                    continue
                least, most = float(arrays["least_logvar"][k]), float(arrays["most_logvar"][k])
                s = most - math.log1p(math.exp(most - h[nout + k]))
                s = least + math.log1p(math.exp(s - least))
                parts.append((h[k] - y[e, row, k]) ** 2 / math.exp(s) + s)
            for k, offset in logits.items():
                p = 1 / (1 + math.exp(-h[k] - offset))
                parts.append(-math.log(p if y[e, row, k] else 1 - p))
            losses.append(weights[e, row] * sum(parts) / len(parts))
        members.append(sum(losses) / len(losses))
        total += members[-1]
    if probabilistic:
        total += BOUND_WEIGHT * np.mean([arrays["most_logvar"][k] - arrays["least_logvar"][k] for k in gaussian])
    return total, members


CASES = [
    ("silu", True, (0, 1, 2), {}),
    ("tanh", True, (0, 2), {}),  # one output is constant
    ("gelu", True, (0, 1), {2: -0.7}),
    ("relu", False, (0, 1), {2: 0.4}),
    ("silu", False, (1,), {}),
]


@pytest.mark.parametrize(("activation", "probabilistic", "gaussian", "logits"), CASES)
def test_loss_is_that_of_the_slow_twin(activation, probabilistic, gaussian, logits):
    options = {"activation": activation, "probabilistic": probabilistic, "gaussian": gaussian, "logits": logits}
    arrays, networks = batched(**options)
    parts = batch()
    total, losses = networks.loss(*tensors(parts))
    expected, members = naive_loss(arrays, *parts, **options)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert losses.tolist() == pytest.approx(members, rel=1e-5)


@pytest.mark.parametrize(("activation", "probabilistic", "gaussian", "logits"), CASES)
def test_gradient_is_that_of_differences(activation, probabilistic, gaussian, logits):
    """Along a random direction in all parameters, by central differences of the slow twin."""
    options = {"activation": activation, "probabilistic": probabilistic, "gaussian": gaussian, "logits": logits}
    arrays, networks = batched(**options)
    parts = batch()
    networks.loss(*tensors(parts))[0].backward()
    rng = np.random.default_rng(3)
    for name, parameter in networks.parameters.items():
        if not probabilistic and name.endswith("logvar"):
            assert parameter.grad is None
            continue
        direction = rng.normal(size=arrays[name].shape)
        ends = []
        for sign in (1, -1):
            moved = {**arrays, name: arrays[name] + sign * 1e-5 * direction}
            ends.append(naive_loss(moved, *parts, **options)[0])
        slope = float((parameter.grad.double().numpy() * direction).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-3, abs=2e-4), name


def test_a_step_is_adams_with_half_the_squared_norm_added():
    """Kingma and Ba's algorithm 1 in float64, from the gradients of the networks themselves."""
    arrays, networks = batched()
    _, twin = batched()
    parameters = {name: array.astype(float) for name, array in arrays.items()}
    first, second = ({name: np.zeros(a.shape) for name, a in arrays.items()} for _ in range(2))
    for t in range(1, 5):
        parts = tensors(batch(seed=t))
        for name, tensor in twin.parameters.items():
            tensor.data, tensor.grad = torch.tensor(parameters[name], dtype=torch.float32), None
        twin.loss(*parts)[0].backward()
        for name, tensor in twin.parameters.items():
            layer = name.startswith("weights") and int(name[-1]) + 1
            g = tensor.grad.double().numpy() + 0.01 * layer * parameters[name]
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            m, v = first[name] / (1 - 0.9**t), second[name] / (1 - 0.999**t)
            parameters[name] -= 1e-2 * m / (np.sqrt(v) + 1e-8)
        networks.step(*parts)
    for name, array in networks.arrays().items():
        assert array == pytest.approx(parameters[name], abs=2e-5), name


def test_members_learn_as_if_alone():
    """All but the bounds of the log variance, which they have in common; so those stay where they are here."""
    arrays, together = batched(probabilistic=False)
    for e in range(3):
        alone = Batched(
            {name: array if name.endswith("logvar") else array[e : e + 1] for name, array in arrays.items()},
            activation="silu",
            probabilistic=False,
            gaussian=(0, 1, 2),
            logits={},
            learning_rate=1e-2,
            weight_decay=[0.01, 0.02, 0.03],
        )
        if e == 0:
            for t in range(10):
                together.step(*tensors(batch(seed=t)))
        for t in range(10):
            alone.step(*(part[e : e + 1] for part in tensors(batch(seed=t))))
        for name, array in alone.arrays().items():
            if not name.endswith("logvar"):
                assert array[0] == pytest.approx(together.arrays()[name][e], abs=1e-5), (name, e)


def test_log_variances_stay_within_their_bounds():
    least, most = torch.tensor([-4.0, -1.0]), torch.tensor([0.5, 3.0])
    s = torch.linspace(-200, 200, 4001)[:, None].expand(-1, 2).clone().requires_grad_()
    inside = bounded(s, least, most)
    log_sum = torch.logaddexp(most, least)  # the upper bound of the two softplus together
    assert (inside >= least).all() and (inside <= log_sum + 1e-6).all()
    assert (inside.diff(dim=0) >= 0).all()
    inside.sum().backward()
    assert torch.isfinite(s.grad).all()
    middle = bounded(torch.tensor([5.0]), torch.tensor([-20.0]), torch.tensor([30.0]))
    assert middle.item() == pytest.approx(5.0, abs=1e-5)


# ---- the learner -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "gelu"])
@pytest.mark.parametrize("probabilistic", [True, False])
def test_the_network_computes_what_torch_does(activation, probabilistic):
    what = features(3, angles=(1,), absolute=(2,))
    config = dataclasses.replace(SMALL, activation=activation, probabilistic=probabilistic, learned_cost=True)
    learner, replay = Learner(what, config, seed=4), seen(3)
    learner.fit(replay)
    network, rows = learner.network(), replay.transitions()
    x = torch.tensor(what.inputs(rows.states, rows.controls))
    h = ((x - torch.tensor(network.input_mean)) / torch.tensor(network.input_scale)).expand(3, -1, -1)
    act = {"silu": "silu", "relu": "relu", "tanh": "tanh", "gelu": "gelu"}[activation]
    options = {"approximate": "tanh"} if act == "gelu" else {}
    for i, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
        h = torch.tensor(b, dtype=torch.float64)[:, None] + h.double() @ torch.tensor(w, dtype=torch.float64)
        if i < 2:
            h = getattr(torch.nn.functional, act)(h, **options)
    mean, scale = (torch.tensor(a, dtype=torch.float64) for a in (network.target_mean, network.target_scale))
    predicted = network.predict(rows.states, rows.controls)
    assert predicted.mean == pytest.approx((mean + scale * h[..., :4]).numpy(), rel=1e-5, abs=1e-7)
    if probabilistic:
        bounds = (torch.tensor(a, dtype=torch.float64) for a in (network.least_logvar, network.most_logvar))
        std = scale * torch.exp(bounded(h[..., 4:], *bounds) / 2)
        assert predicted.std == pytest.approx(std.numpy(), rel=1e-5)
    else:
        assert not predicted.std.any()


def test_first_weights_are_a_cut_normal():
    arrays = Learner(features(30), EnsembleConfig(hidden=(400, 400)), seed=2).network().arrays()
    w = arrays["weights.1"]
    expected = 1 / (2 * math.sqrt(400))
    assert np.abs(w).max() <= 2 * expected * (1 + 1e-6) and not arrays["biases.1"].any()
    assert w.std() == pytest.approx(0.8796 * expected, rel=0.01)  # of a normal cut at two deviations
    assert np.abs(np.corrcoef(w.reshape(5, -1)) - np.eye(5)).max() < 0.02
    assert w.mean() == pytest.approx(0, abs=0.01 * expected)


def test_the_same_seed_gives_the_same_bits_whatever_threads_torch_has():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(threads)  # nobody's generator is used, and none moved
            state = torch.get_rng_state()
            learner = Learner(PLAIN, SMALL, seed=9)
            learner.fit(seen())
            assert torch.get_num_threads() == threads and (torch.get_rng_state() == state).all()
            found.append(learner.network())
    finally:
        torch.set_num_threads(before)
    assert same(*found)
    other = Learner(PLAIN, SMALL, seed=10)
    other.fit(seen())
    assert not same(found[0], other.network())


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_two_epochs_saved_and_two_more_are_four(tmp_path, holdout):
    """The holdout's snapshots are the one thing that a fit starts anew; so they are compared with two fits."""
    config = dataclasses.replace(SMALL, holdout=holdout, learned_end=True, learned_cost=True)
    replay = seen()
    parts, whole = Learner(PLAIN, config, seed=1), Learner(PLAIN, dataclasses.replace(config, epochs=4), seed=1)
    parts.fit(replay)
    parts.save(tmp_path / "learner")
    loaded = Learner.load(tmp_path / "learner", PLAIN)
    assert loaded.config == config and same(loaded.network(), parts.network())
    loaded.fit(replay)
    parts.fit(replay)
    assert same(loaded.network(), parts.network()) and loaded.network().elites == parts.network().elites
    assert loaded.epochs == 4 and loaded.fits == 2
    if not holdout:
        whole.fit(replay)
        assert same(loaded.network(), whole.network())
    replay.add_episode(np.zeros((4, 2)), np.zeros((3, 1)), np.ones(3))
    loaded.fit(replay)
    parts.fit(replay)
    assert same(loaded.network(), parts.network())


def test_numbers_of_numpy_are_saved_as_any(tmp_path):
    given: dict = {"members": np.int64(3), "hidden": (np.int64(4),), "learning_rate": np.float32(0.5)}
    config = EnsembleConfig(**given)
    Learner(PLAIN, config).save(tmp_path / "learner")
    assert Learner.load(tmp_path / "learner", PLAIN).config == config


def test_a_learner_of_something_else_is_refused(tmp_path):
    learner = Learner(PLAIN, SMALL)
    learner.fit(seen())
    learner.save(tmp_path / "learner")
    with pytest.raises(InvalidInput, match="learned of other features"):
        Learner.load(tmp_path / "learner", dataclasses.replace(PLAIN, angles=(0,)))
    (tmp_path / "learner" / "adam.safetensors").write_bytes(b"x")
    with pytest.raises(DamagedExport):
        Learner.load(tmp_path / "learner", PLAIN)


def test_new_scales_leave_predictions_as_they_were():
    """One row a hundred times as large changes those of targets; a learning rate of nearly 0 changes nothing else."""
    config = dataclasses.replace(SMALL, learning_rate=1e-12)
    learner, replay = Learner(features(2, unseen=(0, 1)), config, seed=3), seen()
    learner.fit(replay)
    x, u = np.random.default_rng(1).normal(size=(10, 2)), np.zeros((10, 1))
    before, scale = learner.network().predict(x, u), learner.network().target_scale
    replay.add([0, 0], [0], [100, -300], 0.0)
    learner.fit(replay)
    after = learner.network().predict(x, u)
    assert (learner.network().target_scale > 5 * scale).all()
    assert after.mean == pytest.approx(before.mean, rel=0.02, abs=0.02)
    assert after.std == pytest.approx(before.std, rel=0.5)  # not exactly: bounds stay relative to the scale


def test_a_linear_system_is_recovered_with_its_noise():
    A, B, noise = np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([0.1, 0.5]), np.array([0.05, 0.2])
    replay = seen(episodes=60, steps=50, members=5, step=lambda x, u, rng: A @ x + B * u + noise * rng.normal(size=2))
    learner = Learner(PLAIN, EnsembleConfig(hidden=(32, 32), epochs=15, batch=32), seed=0)
    learner.fit(replay)
    network = learner.network()
    rng = np.random.default_rng(5)
    x, u = rng.uniform(-0.5, 0.5, (200, 2)), rng.uniform(-1, 1, (200, 1))
    predicted = network.predict(x, u)
    following = network.features.next_states(x, predicted.mean.mean(axis=0))
    assert np.sqrt(np.mean((following - x @ A.T - u * B) ** 2, axis=0)) == pytest.approx(np.zeros(2), abs=0.03)
    assert np.sqrt((predicted.std**2).mean(axis=(0, 1))) == pytest.approx(noise, rel=0.1)


def test_what_never_changes_is_exactly_constant():
    """A target's position, here at 1/3; a clock, which goes on by 1/16; a constant that is predicted itself."""

    def step(x, u, rng):
        return np.array([0.9 * x[0] + u[0], x[1], x[2] + 0.0625, x[3]])

    replay = Replay(4, 1, capacity=1000, members=3, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        path, controls = [np.array([rng.normal(), 1 / 3, 0.0, 0.75])], rng.uniform(-1, 1, (40, 1))
        for u in controls:
            path.append(step(path[-1], u, rng))
        replay.add_episode(path, controls, np.zeros(40))
    learner = Learner(features(4, absolute=(3,)), dataclasses.replace(SMALL, learned_cost=True), seed=1)
    report = learner.fit(replay)
    network = learner.network()
    x = rng.normal(size=(7, 4)) * 10
    predicted = network.predict(x, rng.normal(size=(7, 1)))
    assert (predicted.mean[..., 1] == 0).all() and (predicted.mean[..., 2] == 0.0625).all()
    assert (predicted.mean[..., 3] == 0.75).all() and (predicted.mean[..., 4] == 0).all()
    assert predicted.std[..., 1:].max() < 1e-17 and (predicted.std[..., 0] > 1e-4).all()
    # The loss is of what changes alone, and the others' bounds stay where they were.
    alone = Learner(features(4, absolute=(3,)), dataclasses.replace(SMALL, epochs=1), seed=1)
    assert np.isfinite(report.train_loss).all() and (learner._arrays["least_logvar"][1:] == -10).all()
    assert alone.fit(replay).train_loss.max() < 1.5


def test_what_began_to_move_is_learned_from_then_on():
    replay = Replay(2, 1, capacity=5000, members=3, seed=0)
    rng = np.random.default_rng(0)
    u = rng.uniform(-1, 1, (300, 1))
    replay.add_episode(np.zeros((301, 2)), u, np.zeros(300))
    learner = Learner(PLAIN, dataclasses.replace(SMALL, epochs=20), seed=0)
    learner.fit(replay)
    assert not learner.network().predict(np.zeros((1, 2)), np.ones((1, 1))).mean.any()
    for value in u[:, 0]:
        replay.add([0, 0], [value], [value, 0], 0.0)
    learner.fit(replay)
    predicted = learner.network().predict(np.zeros((1, 2)), np.array([[0.8]]))
    assert not predicted.mean[..., 1].any() and predicted.mean[..., 0] == pytest.approx(0.4, abs=0.15)


def test_what_is_held_out_is_never_trained_with():
    """Held-out transitions of any other values, even absurd ones, leave the same bits where nobody looks at them."""
    config = dataclasses.replace(SMALL, holdout=0.3, epochs=3)
    found = []
    for absurd in (False, True):
        replay = seen()
        if absurd:
            held = np.flatnonzero(replay.held_out(0.3))
            replay._ring.next_states[held] = 1e6
            replay._ring.controls[held] = -1e6
        learner = Learner(PLAIN, config, seed=0)
        report = learner.fit(replay)
        assert report.rows + report.held_rows == len(replay) and report.held_rows == replay.held_out(0.3).sum()
        found.append((report, learner))
    assert (found[0][0].train_loss == found[1][0].train_loss).all()
    assert (found[0][0].holdout_error < found[1][0].holdout_error).all()
    scales = [learner.network().target_scale for _, learner in found]
    assert (scales[0] == scales[1]).all()


def test_each_member_ends_as_its_best_and_the_best_are_elites():
    config = dataclasses.replace(SMALL, holdout=0.3, epochs=30, elites=2, patience=3, learning_rate=2e-2)
    learner, replay = Learner(PLAIN, config, seed=0), seen(episodes=3, steps=20)
    progress: list = []
    report = learner.fit(replay, on_epoch=progress.append)
    assert report.stopped and len(progress) == len(report.train_loss) < 30
    network = learner.network()
    rows = replay.transitions().take(replay.held_out(0.3))
    scaled = (rows.next_states - rows.states - network.target_mean) / network.target_scale
    means = network.predict(rows.states, rows.controls).mean
    errors = ((((means - network.target_mean) / network.target_scale) - scaled) ** 2).mean(axis=(1, 2))
    untrained = 1.05 * scaled.var()  # the snapshot may be the one before the first epoch
    for e in range(3):
        best = report.holdout_error[:, e].min()
        assert errors[e] <= best / (1 - 0.01) * (1 + 1e-5) or errors[e] < untrained
    assert network.elites == report.elites == tuple(sorted(np.argsort(errors)[:2]))


def test_the_end_is_learned_as_a_probability():
    replay = Replay(1, 1, capacity=5000, members=3, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        x = rng.uniform(-1, 1)
        replay.add([x], [0], [0.9 * x], 0.0, terminated=bool(rng.uniform() < (0.8 if x > 0 else 0.02)))
    what = features(1)
    learner = Learner(what, EnsembleConfig(members=3, hidden=(32, 32), epochs=20, learned_end=True), seed=0)
    learner.fit(replay)
    predicted = learner.network().predict(np.array([[0.6], [-0.6]]), np.zeros((2, 1)))
    chance = 1 / (1 + np.exp(-predicted.mean[..., -1].mean(axis=0)))
    assert chance[0] == pytest.approx(0.8, abs=0.07) and chance[1] < 0.06
    assert predicted.std[..., -1].max() < 1e-9


def test_an_end_that_never_came_is_unlikely_from_the_start():
    replay = Replay(1, 1, capacity=500, members=3, seed=0)
    replay.add_episode(np.random.default_rng(0).normal(size=(201, 1)), np.zeros((200, 1)), np.zeros(200))
    learner = Learner(features(1), dataclasses.replace(SMALL, learned_end=True, epochs=1), seed=0)
    learner.fit(replay)
    logits = learner.network().predict(np.linspace(-2, 2, 9)[:, None], np.zeros((9, 1))).mean[..., -1]
    assert (logits < -3).all()


def test_weights_of_zero_are_as_good_as_nothing():
    """Wrong rows of no weight among right ones: what is learned is right."""
    replay = Replay(1, 1, capacity=5000, members=3, seed=0)
    rng = np.random.default_rng(0)
    for i in range(1000):
        u = rng.uniform(-1, 1)
        replay.add([0], [u], [u if i % 2 else -u], 0.0, weight=float(i % 2))
    learner = Learner(features(1), EnsembleConfig(members=3, hidden=(32, 32), epochs=10), seed=0)
    learner.fit(replay)
    predicted = learner.network().predict(np.zeros((1, 1)), np.array([[0.7]]))
    assert predicted.mean[..., 0] == pytest.approx(0.7, abs=0.1)


def test_every_member_sees_its_own_draw_and_no_other():
    replay = seen(episodes=4, steps=25)
    counts, n = replay.transitions().counts.astype(int), len(replay)
    learner = Learner(PLAIN, dataclasses.replace(SMALL, batch=16), seed=0)
    orders = [learner._order(counts, epoch) for epoch in range(200)]
    for e in range(3):
        shown = np.bincount(np.concatenate([order[:, e].ravel() for order in orders]), minlength=n)
        assert (shown[counts[:, e] == 0] == 0).all()
        size = orders[0][:, e].size
        expected = 200 * size * counts[:, e] / counts[:, e].sum()
        assert np.abs(shown - expected).max() < 6 * math.sqrt(expected.max())
    assert all(order.shape == (7, 3, 15) for order in orders)
    assert not (orders[0] == orders[1]).all() and (orders[5] == learner._order(counts, 5)).all()


def test_a_fit_that_is_interrupted_or_diverges_changes_nothing():
    learner, replay = Learner(PLAIN, SMALL, seed=0), seen()
    learner.fit(replay)
    before = learner.network()

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.fit(replay, on_epoch=stop)
    assert same(learner.network(), before) and learner.fits == 1
    wild = Learner(PLAIN, dataclasses.replace(SMALL, learning_rate=1e30, probabilistic=False), seed=0)
    first = wild.network()
    with pytest.raises(InvalidInput, match="training diverged"):
        wild.fit(replay)
    assert same(wild.network(), first) and wild.fits == 0


def test_there_must_be_something_to_learn_from():
    learner = Learner(PLAIN, SMALL)
    with pytest.raises(InvalidInput, match="replay buffer is empty"):
        learner.fit(Replay(2, 1, capacity=5, members=3))
    with pytest.raises(InvalidInput, match="members=3, got 4"):
        learner.fit(Replay(2, 1, capacity=5, members=4))
    replay = Replay(2, 1, capacity=5, members=3)
    replay.add([0, 0], [0], [1, 1], 0.0, weight=0.0)
    with pytest.raises(InvalidInput, match="all weights"):
        learner.fit(replay)
    one = Replay(2, 1, capacity=5, members=3)
    one.add([0, 0], [0], [1, 2], 0.0)
    assert np.isfinite(learner.fit(one).train_loss).all()
    assert learner.network().predict(np.full((1, 2), 5), np.ones((1, 1))).mean[0, 0].tolist() == [1, 2]


def test_without_torch_a_learner_is_loaded_and_does_not_learn(tmp_path, monkeypatch):
    learner = Learner(PLAIN, SMALL, seed=0)
    learner.fit(seen())
    learner.save(tmp_path / "learner")
    monkeypatch.setitem(sys.modules, "torch", None)
    loaded = Learner.load(tmp_path / "learner", PLAIN)
    assert same(loaded.network(), learner.network())
    with pytest.raises(MissingDependency, match=r"torch is not installed; .*mpcrl\[learning\]"):
        loaded.fit(seen())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("members", 0, "members must be an integer of at least 1"),
        ("hidden", (), "hidden must be a tuple"),
        ("hidden", (5, 0), "a width of hidden must be"),
        ("activation", "sigmoid", "activation must be one of silu"),
        ("learning_rate", "00143", "learning_rate must be a finite number above 0, got '00143'"),
        ("weight_decay", -1.0, "weight_decay must be"),
        ("weight_decay", None, "weight_decay must be"),
        ("holdout", 1.0, "holdout must be a share"),
        ("patience", 5, "need a holdout"),
        ("elites", 9, "elites must be at most the 5 members"),
        ("probabilistic", 1, "probabilistic must be True or False"),
    ],
)
def test_a_bad_configuration_is_refused(field, value, message):
    with pytest.raises(InvalidInput, match=message):
        EnsembleConfig(**{field: value})


def test_weight_decay_is_pets_at_any_depth():
    assert EnsembleConfig(hidden=(200,) * 4).decays == pytest.approx((2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4))
    assert EnsembleConfig(hidden=(10,), weight_decay=0.0).decays == (0, 0)
