"""Laws that every sampling planner keeps, and naive twins of the updates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import InvalidInput, UnknownName
from mpcrl.core.random import LANES
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels import refit as kernels
from mpcrl.planners import presets
from mpcrl.planners.noise import Coloured, LogNormal, Uniform, White
from mpcrl.planners.parametrisation import Kernel, PerStep, Spline
from mpcrl.planners.planner import Problem
from mpcrl.planners.refit import Elites, Softmax
from mpcrl.planners.schedule import Schedule
from tests.toy import Quadratic, space

BUDGET, HORIZON = 96, 12
NAMES = sorted(presets.PRESETS)
TARGET = np.array([0.3, 0.9])


def bound(name, within=None, **options):
    return presets.preset(name, budget=BUDGET, horizon=HORIZON, **options).bind(within or space())


def plan(solver, model, state=None, seed=0, number=0, applied=None, elapsed=0.0):
    """One whole plan; the state after it and the infos of its iterations."""
    state = solver.init() if state is None else state
    state = solver.start(state, elapsed, solver.space.middle if applied is None else applied)
    problem = Problem(model, np.zeros(1), 0, None, ThreadBudget(1), seed, number)
    infos = []
    for _ in range(solver.iterations(state)):
        state, info = solver.iterate(state, problem)
        infos.append(info)
        if solver.settled(state):
            break
    return solver.end(state), infos


@pytest.mark.parametrize("name", NAMES)
class TestEveryPlanner:
    def test_candidates_stay_within_bounds(self, name):
        for dtype in (np.float32, np.float64):
            solver = bound(name, space(dtype=dtype))
            model = Quadratic(TARGET)
            plan(solver, model)
            for rows in model.calls:
                assert rows.dtype == dtype
                assert (rows >= solver.space.low).all() and (rows <= solver.space.high).all()

    def test_never_simulates_more_than_its_budget(self, name):
        solver, model = bound(name), Quadratic(TARGET)
        state, _ = plan(solver, model)
        model.calls.clear()
        _, infos = plan(solver, model, state, elapsed=1.0)
        simulated = sum(map(len, model.calls))
        assert simulated == sum(info.samples for info in infos)
        assert BUDGET // 2 <= simulated <= BUDGET

    def test_plans_move_towards_what_is_cheap(self, name):
        far = np.array([0.95, 1.9])
        solver, model = bound(name), Quadratic(far)
        state, distances = None, []
        for number in range(30):
            state, _ = plan(solver, model, state, number=number)
            distances.append(((solver.controls(state) - far) ** 2).sum())
        rest = HORIZON * ((solver.space.middle - far) ** 2).sum()
        assert np.mean(distances[10:]) < 0.75 * rest  # one plan of a planner that starts anew each time may be unlucky

    def test_same_seed_same_bits_other_seed_other_bits(self, name):
        controls = [
            bound(name).controls(plan(bound(name), Quadratic(TARGET), seed=seed)[0]).tobytes() for seed in (3, 3, 4)
        ]
        assert controls[0] == controls[1] != controls[2]

    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
    def test_poisoned_samples_have_no_weight(self, name, poison):
        """The poisoned candidates may cost anything: what the planner concludes does not change by a bit."""
        clean, dirty = Quadratic(TARGET, {0: np.inf, 7: np.inf}), Quadratic(TARGET, {0: poison, 7: poison})
        solver = bound(name)
        expected, _ = plan(solver, clean)
        got, infos = plan(bound(name), dirty)
        assert solver.controls(got).tobytes() == solver.controls(expected).tobytes()
        assert all(info.failed == 2 for info in infos)

    def test_all_samples_failed_leaves_the_plan_alone(self, name):
        solver = bound(name)
        state, infos = plan(solver, Quadratic(TARGET, dict.fromkeys(range(BUDGET), np.nan)))
        assert all(info.failed == info.samples and info.best_cost == np.inf for info in infos)
        assert np.array_equal(solver.controls(state), solver.controls(solver.init()))

    def test_rates_hold_exactly_for_every_candidate_and_the_plan(self, name):
        limited = space(rate=[2.0, 5.0])
        solver, model = bound(name, limited), Quadratic(TARGET)
        applied = np.array([-0.9, 1.9])
        state, _ = plan(solver, model, applied=applied)
        for rows in [*model.calls, solver.controls(state)[None]]:
            whole = np.concatenate([np.broadcast_to(applied, (len(rows), 1, 2)), rows], axis=1)
            assert (np.abs(np.diff(whole, axis=1)) <= limited.rate * limited.dt * (1 + 1e-12)).all()
            assert (rows >= limited.low).all() and (rows <= limited.high).all()

    def test_adding_a_constant_to_all_costs_changes_nothing(self, name):
        class Raised(Quadratic):
            def costs(self, *arguments):
                return super().costs(*arguments) + 4096.0

        a, _ = plan(bound(name), Quadratic(TARGET))
        b, _ = plan(bound(name), Raised(TARGET))
        solver = bound(name)
        assert np.allclose(solver.controls(a), solver.controls(b), atol=2e-4)

    def test_no_noise_returns_the_warm_start(self, name):
        wanted = np.tile([0.25, 0.5], (HORIZON, 1))
        if name == "random_shooting":  # always draws from the whole range, so that a warm start changes nothing
            solver = bound(name)
            cold, _ = plan(solver, Quadratic(TARGET))
            warm, _ = plan(solver, Quadratic(TARGET), solver.seeded(solver.init(), wanted))
            np.testing.assert_array_equal(solver.controls(warm), solver.controls(cold))
            return
        solver = bound(name, width=0.0)
        if name == "planet":
            wanted[:] = solver.space.middle  # starts each plan there
        state, _ = plan(solver, Quadratic(TARGET), solver.seeded(solver.init(), wanted))
        ripple = 0.02 if isinstance(solver.planner.parametrisation, Kernel) else 1e-6  # kernels hold no constants
        assert np.allclose(solver.controls(state), wanted, atol=ripple)

    def test_shift_by_elapsed_time(self, name):
        """Half a step, one step and many: a curve that is linear in time stays one, moved."""
        solver = bound(name, space(low=[-10.0], high=[10.0]))
        ramp = 0.1 * np.arange(HORIZON)[:, None]
        state = solver.seeded(solver.init(), ramp)
        if solver.planner.schedule.restart:  # such a planner forgets the curve instead
            anew = solver.start(state, 1.0, np.zeros(1))
            assert not np.array_equal(state.mean, anew.mean) and np.array_equal(anew.mean, solver.init().mean)
            return
        for elapsed in (0.0, 1.0, 2.0, 3.0):
            moved = solver.controls(solver.start(state, elapsed, np.zeros(1)))
            inside = HORIZON - 1 - int(np.ceil(elapsed)) - 3
            held = isinstance(solver.planner.parametrisation, Spline | Kernel)
            assert np.allclose(moved[:inside], ramp[:inside] + 0.1 * elapsed, atol=0.12 if held else 1e-9)
        assert np.isfinite(solver.controls(solver.start(state, 1e6, np.zeros(1)))).all()

    def test_preset_refuses_what_it_cannot_do(self, name):
        with pytest.raises(InvalidInput, match="budget"):
            presets.preset(name, budget=0, horizon=HORIZON)
        with pytest.raises(InvalidInput, match="horizon"):
            presets.preset(name, budget=BUDGET, horizon=0)
        with pytest.raises(InvalidInput, match="no option 'colour'"):
            presets.preset(name, colour=3)


def test_unknown_planner_names_the_nearest():
    with pytest.raises(UnknownName, match="icem"):
        presets.preset("icemm")


def test_icem_update_equals_a_naive_reference():
    """Pinneri et al. 2020, written down step by step on the same samples, over two plans."""
    solver = presets.icem(budget=100, horizon=9, elites=10).bind(space())
    model = Quadratic(TARGET)
    state = solver.init()
    mean = np.tile(solver.space.middle, (9, 1))
    carried = np.zeros((0, 9, 2))
    for number in range(2):
        if number:
            mean = np.concatenate([mean[1:], mean[-1:]])
        std = np.tile(0.5 * solver.space.half_range, (9, 1))
        state = solver.start(state, float(number), solver.space.middle)
        problem = Problem(model, np.zeros(1), 0, None, ThreadBudget(1), 5, number)
        elites, elite_costs = np.zeros((0, 9, 2)), np.zeros(0)
        for iteration, count in enumerate((40, 32, 25)):
            state, _ = solver.iterate(state, problem)
            samples = model.calls[-1]
            again = len(carried) if iteration == 0 else 0
            assert len(samples) == count + again
            if again:
                assert np.array_equal(samples[:again, :-1], carried[:, 1:])
            if iteration == 2:
                assert np.allclose(samples[0], np.clip(mean, solver.space.low, solver.space.high), atol=1e-15)
            pool = np.concatenate([samples, elites])
            costs = np.concatenate([((samples - TARGET) ** 2).sum(axis=(1, 2)), elite_costs])
            order = np.argsort(costs, kind="stable")[:10]
            mean = 0.9 * pool[order].mean(axis=0) + 0.1 * mean
            std = 0.9 * pool[order].std(axis=0) + 0.1 * std
            elites, elite_costs = pool[order][:3], costs[order][:3]
            assert np.abs(state.mean - mean).max() < 1e-12
            assert np.abs(state.std - std).max() < 1e-12
        assert np.array_equal(solver.controls(state), elites[0])
        state, carried = solver.end(state), elites
    assert sum(map(len, model.calls)) == 97 + 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elites_are_refitted_as_by_their_slow_twin(dtype: type) -> None:
    """Ties, failed samples, kept elites without a cost, fewer samples than elites: as NumPy's stable sort has it."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        (steps, nu), kept_count = rng.integers(1, 5, 2), int(rng.integers(0, 6))
        samples = int(rng.choice([1, 2, 5, 8, 16, 17, 33, 100]))
        count, momentum, of_variance = int(rng.integers(1, 14)), float(rng.choice([0, 0.1, 0.7])), bool(rng.integers(2))
        decisions: np.ndarray = rng.normal(size=(-(-samples // LANES), steps, nu, LANES)).astype(dtype)
        costs = rng.integers(0, rng.choice([2, 5, 1000]), samples).astype(float)
        costs[rng.random(samples) < rng.choice([0, 0.3, 0.95])] = np.inf
        costs[rng.integers(samples)] = 1.0  # one at least is finite
        kept, kept_costs = rng.normal(size=(kept_count, steps, nu)), rng.integers(0, 5, kept_count).astype(float)
        kept_costs[rng.random(kept_count) < 0.4] = np.nan
        least, mean, std = rng.choice([0.0, 0.5], nu), rng.normal(size=(steps, nu)), rng.uniform(0.1, 1, (steps, nu))
        pool = np.concatenate([decisions.transpose(0, 3, 1, 2).reshape(-1, steps, nu)[:samples], kept])
        pool_costs = np.concatenate([costs, kept_costs])
        order = [n for n in np.argsort(pool_costs, kind="stable") if np.isfinite(pool_costs[n])][:count]
        variance, old = pool[order].var(axis=0), momentum * (std**2 if of_variance else std)
        wanted = (1 - momentum) * (variance if of_variance else np.sqrt(variance)) + old
        new_mean, new_std = mean.copy(), std.copy()
        elites, elite_costs = np.full((count, steps, nu), np.nan), np.full(count, np.nan)
        found = kernels.refit_elites(
            costs, decisions, kept, kept_costs, momentum, of_variance, least, new_mean, new_std, elites, elite_costs
        )
        assert found == len(order)
        assert np.array_equal(elites[:found], pool[order])
        assert np.array_equal(elite_costs[:found], pool_costs[order])
        middle = (1 - momentum) * pool[order].mean(axis=0, dtype=np.float64) + momentum * mean
        np.testing.assert_allclose(new_mean, middle, rtol=0, atol=1e-13)
        np.testing.assert_allclose(new_std, np.maximum(np.sqrt(wanted) if of_variance else wanted, least), atol=1e-13)


def test_kept_elites_lie_in_memory_as_new_ones_do():
    """Whatever time has passed: else kernels would be compiled again, in the middle of real time."""
    solver, model = presets.icem(budget=100, horizon=9, elites=10).bind(space()), Quadratic(TARGET)
    state = solver.init()
    for number, elapsed in enumerate((0.0, 1.0, 0.5, 2.0)):
        state = solver.start(state, elapsed, solver.space.middle)
        assert state.elites.flags.c_contiguous and state.mean.flags.c_contiguous
        state, _ = solver.iterate(state, Problem(model, np.zeros(1), 0, None, ThreadBudget(1), 5, number))
        assert len(state.elites) == 3
        state = solver.end(state)


def test_icem_spends_a_budget_of_100_as_published():
    solver = presets.icem(budget=100, horizon=30).bind(space())
    state, infos = plan(solver, Quadratic(TARGET))
    assert [i.samples for i in infos] == [40, 32, 25]
    _, infos = plan(solver, Quadratic(TARGET), state, elapsed=1.0)
    assert [i.samples for i in infos] == [43, 32, 25]


@pytest.mark.parametrize("kind", ["fixed", "normalised", "effective_samples"])
@pytest.mark.parametrize("action_cost", [False, True])
def test_softmax_equals_a_naive_reference(kind, action_cost):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(150, 7, 2))
    costs = rng.gamma(2.0, 3.0, 150)
    costs[[3, 90]] = np.inf
    mean, std = rng.normal(size=(7, 2)), np.full((7, 2), 0.7)
    temperature = 0.4
    finite = costs[np.isfinite(costs)]
    poisoned = rows.copy()
    poisoned[[3, 90]] = 1e30  # would be felt at any weight but exactly zero
    candidates, refitted = Candidates.from_rows(poisoned), np.empty((7, 2))
    action_weight = 1 / std**2 if action_cost else np.zeros((7, 2))
    code = {"fixed": kernels.FIXED, "normalised": kernels.NORMALISED, "effective_samples": kernels.EFFECTIVE_SAMPLES}
    used, effective = kernels.softmax_mean(
        costs, candidates.controls, mean, action_weight, code[kind], temperature, refitted
    )
    if kind == "fixed":
        assert used == temperature
    elif kind == "normalised":
        assert used == pytest.approx(temperature * finite.std())
    total = costs + used * ((rows - mean) * mean * action_weight).sum(axis=(1, 2))
    naive = np.exp(-(total - total.min()) / used)
    naive /= naive.sum()
    assert np.allclose(refitted, np.einsum("n,nkj->kj", naive, rows), atol=2e-6)
    assert effective == pytest.approx(1 / (naive**2).sum(), rel=1e-4)
    if kind == "effective_samples" and not action_cost:
        assert effective == pytest.approx(temperature * finite.size, rel=1e-3)


@given(st.permutations(range(70)), st.floats(0.05, 5.0))
@settings(max_examples=15, deadline=None)
def test_permuting_samples_leaves_the_update_alone(order, temperature):
    rng = np.random.default_rng(1)
    rows, costs = rng.normal(size=(70, 5, 1)), rng.normal(size=70)
    results = []
    for index in (np.arange(70), np.array(order)):
        candidates, refitted = Candidates.from_rows(rows[index]), np.empty((5, 1))
        kernels.softmax_mean(
            costs[index], candidates.controls, np.zeros((5, 1)), np.zeros((5, 1)), 0, temperature, refitted
        )
        results.append(refitted)
    assert np.allclose(results[0], results[1], atol=1e-6)


@given(st.integers(8, 400), st.integers(1, 6), st.floats(1.0, 2.0), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_schedules_never_exceed_their_budget(budget, iterations, decay, again):
    if budget < iterations + again:
        return
    counts = Schedule(budget=budget, iterations=iterations, decay=decay).counts(again)
    assert len(counts) == iterations and min(counts) >= 1
    assert sum(counts) + again <= budget
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) + again > budget - 1 - iterations  # nothing to speak of is left over


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_coloured_noise_has_the_spectrum_and_unit_variance(beta):
    steps = 256
    colour = Coloured(beta=beta).colour(steps)
    white = np.random.default_rng(0).normal(size=(steps, 4000))
    noise = colour @ white if colour.size else white
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    power = (np.abs(np.fft.rfft(noise, axis=0)) ** 2).mean(axis=1)[1 : steps // 2]
    slope = np.polyfit(np.log(np.arange(1, steps // 2)), np.log(power), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.1)


def drawn(noise, width=0.2, samples=40_000):
    """Standardised first decisions of many candidates, far from all bounds."""
    planner = presets.mppi(budget=samples, horizon=4, width=width)
    solver = type(planner)(**{**vars(planner), "noise": noise}).bind(space([-100.0], [100.0], dtype=np.float32))
    return solver.propose(solver.init(), 0, 0).rows()[:, :, 0].astype(float) / (100 * width)


def test_plans_of_any_number_of_samples_share_their_memory():
    for planner in (presets.mppi(budget=1000, horizon=4), presets.kmppi(budget=1000, horizon=8)):
        solver = planner.bind(space(dtype=np.float32))
        whole = solver.propose(solver.init(), 0, 0)
        for count in (1, 64, 65, 999):
            part = solver.propose(solver.init(), 0, 0, count)
            assert len(part.rows()) == count and part.controls.flags.c_contiguous
            assert np.shares_memory(part.controls, whole.controls)
            assert np.shares_memory(part.decisions, whole.decisions)


def test_noise_distributions():
    white = drawn(White(), 0.01)
    assert white.std() == pytest.approx(1, abs=0.01) and abs(white.mean()) < 0.01
    truncated = drawn(White(truncate=2.0), 0.01)
    assert np.abs(truncated).max() <= 2.0001 and truncated.std() == pytest.approx(0.8796, abs=0.01)
    uniform = drawn(Uniform(), 0.01)
    assert np.abs(uniform).max() <= 1.0001 and uniform.std() == pytest.approx(3**-0.5, abs=0.01)
    heavy = drawn(LogNormal(log_sigma=0.5), 0.01)
    assert (heavy**4).mean() / (heavy**2).mean() ** 2 == pytest.approx(3 * np.exp(4 * 0.25), rel=0.25)
    coloured = drawn(Coloured(beta=2.0), 0.01)
    assert coloured.std() == pytest.approx(1, abs=0.02)
    assert np.corrcoef(coloured[:, 0], coloured[:, 1])[0, 1] > 0.15


@pytest.mark.parametrize(
    "curve",
    [PerStep(), Spline(knots=6, order=0), Spline(knots=6, order=1), Spline(knots=6), Kernel(points=6, width=3.0)],
)
def test_parametrisations_pass_through_their_decisions_and_hold_constants(curve):
    times = curve.times(20)
    weights = curve.weights(times, 20)
    assert np.allclose(weights, np.eye(times.size), atol=1e-5)
    if not isinstance(curve, Kernel):
        assert np.allclose(curve.weights(np.linspace(0, 19, 77), 20).sum(axis=1), 1)
    assert np.isfinite(curve.weights(np.array([0.0, 1e-12, 19.0]), 20)).all()


def test_configuration_errors_say_what_is_expected():
    for make, message in (
        (lambda: Spline(knots=3, order=2), "order"),
        (lambda: Spline(knots=3, order=3), "more than 3 knots"),
        (lambda: Coloured(beta=-1.0), "beta"),
        (lambda: White(truncate=0.0), "truncate"),
        (lambda: Elites(count=0), "elites"),
        (lambda: Elites(count=5, momentum=1.0), "momentum"),
        (lambda: Softmax(kind="soft"), "temperature kind"),
        (lambda: Softmax(temperature=np.nan), "temperature"),
        (lambda: Schedule(budget=5, iterations=3, least=4), "budget of 5"),
        (lambda: presets.mppi(budget=10, horizon=5, width=np.nan), "width"),
        (lambda: space(low=[1.0], high=[0.0]), "below"),
        (lambda: space(rate=0.0), "rate"),
        (lambda: Spline(knots=30).times(10), "at most 10"),
    ):
        with pytest.raises(InvalidInput, match=message):
            make()
