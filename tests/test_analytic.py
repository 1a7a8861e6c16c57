"""The analytic model: costs and states of plain Python, failures that cost +inf, and nothing compiled in between."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba.core import event

from mpcrl.core import threads as thread_room
from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import InvalidInput, LaneError
from mpcrl.core.threads import ThreadBudget
from mpcrl.models.analytic import Analytic
from mpcrl.models.risk import CVaR, Mean, Worst
from mpcrl.planners.presets import icem
from mpcrl.planners.space import ControlSpace
from mpcrl.tasks.task import AnalyticTask

HORIZON = 12
CODES = {"inf": 3.0, "-inf": 4.0, "nan": 5.0, "beyond the map": 6.0}
"""Values of the second control that make the cost of a step what they are named for."""


class Params(NamedTuple):
    """A cart that follows a course over uneven ground."""

    course: Any
    """[20] m, where to be at each control step"""
    ground: Any
    """[6, 4]"""
    dt: Any = 0.1
    drag: Any = 0.3
    end: Any = 2.0


class Terms(NamedTuple):
    """Terms of the stage cost."""

    course: float
    ground: float
    effort: float


def trap(code: float) -> float:
    """Costs that are no costs."""
    if 2.5 < code < 3.5:
        return math.inf
    if 3.5 <= code < 4.5:
        return -math.inf
    return math.nan if 4.5 <= code < 5.5 else 0.0


def step(x, u, p):
    position, speed = x
    speed = speed + p.dt * (2 * u[0] - p.drag * speed + 0.2 * math.sin(3 * position))
    return position + p.dt * speed, speed


def cost(x, u, t, p):
    position, speed = x
    row = int(min(max(position + 3, 0.0), 5.0)) + int(max(u[1] - 5, 0.0)) * 100
    return Terms((position - p.course[t]) ** 2, p.ground[row, t % 4] * speed, 0.1 * u[0] ** 2 + trap(u[1]))


def terminal(x, p):
    return 3 * x[0] ** 2 + 0.5 * abs(x[1])


def terminated(x, p):
    return x[0] > p.end


RNG = np.random.default_rng(8)
P = Params(course=RNG.uniform(-1, 1, 20), ground=RNG.uniform(0, 1, (6, 4)))
TASK = AnalyticTask(
    name="cart",
    dt=0.1,
    control_low=np.array([-1.0, -1.0]),
    control_high=np.array([1.0, 1.0]),
    params=P,
    cost=cost,
    terminal=terminal,
    terminated=terminated,
    episode_steps=20,
    state_names=("position", "speed"),
    control_names=("push", "code"),
    step=step,
    reset=lambda rng: np.array([1.0, 1.2]),
)
START = np.array([1.0, 1.2])
ALL = ThreadBudget.of(None)


def twin(controls: np.ndarray, t: int = 0, p: Params = P, start: np.ndarray = START) -> tuple[float, np.ndarray]:
    """Cost of one sequence [H, nu] as the task's own functions have it, and all its states [H + 1, nx]."""
    x: tuple[float, ...] = tuple(start.tolist())
    total, states, going = 0.0, [x], True
    for k, control in enumerate(controls):
        u = tuple(map(float, control))
        if going:
            try:
                total += sum(cost(x, u, t + k, p))
            except IndexError:
                total = math.nan
        x = step(x, u, p)
        states.append(x)
        if going and terminated(x, p):
            going = False
    if going:
        total += terminal(x, p)
    return total if math.isfinite(total) else math.inf, np.array(states)


def random_controls(count: int, horizon: int = HORIZON, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, horizon, 2)).astype(np.float32).astype(np.float64)


def costs(model: Analytic, controls: np.ndarray, t: int = 0, p: Any = P, threads: ThreadBudget = ALL) -> np.ndarray:
    return model.costs(START, Candidates.from_rows(controls, model.dtype), t, p, threads)


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def model(request: pytest.FixtureRequest) -> Analytic:
    return Analytic(TASK, dtype=request.param)


@pytest.fixture(scope="module")
def single() -> Analytic:
    return Analytic(TASK)


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads even for little work."""
    monkeypatch.setattr(thread_room, "PARALLEL_PAYS", 0.0)


def tolerance(model: Analytic) -> float:
    return 1e-5 if model.dtype == np.float32 else 1e-12


# ---- the twin --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("count", "horizon", "t"), [(1, HORIZON, 0), (63, 1, 3), (64, 2, 0), (65, HORIZON, 4)])
def test_costs_are_those_of_plain_python(model: Analytic, count: int, horizon: int, t: int) -> None:
    controls = random_controls(count, horizon)
    got = costs(model, controls, t)
    assert got.shape == (count,)
    assert got.dtype == np.float64
    assert np.allclose(got, [twin(row, t)[0] for row in controls], rtol=tolerance(model), atol=tolerance(model))


def test_some_of_these_samples_end_early_and_some_do_not() -> None:
    ends = np.array([terminated(twin(row)[1][-1], P) for row in random_controls(65)])
    assert 5 < ends.sum() < 60


def test_states_are_those_of_plain_python(model: Analytic) -> None:
    controls = random_controls(70)
    got = model.rollout(START, controls, 0, P)
    assert got.shape == (70, HORIZON + 1, 2)
    assert np.allclose(got, [twin(row)[1] for row in controls], rtol=tolerance(model), atol=tolerance(model))
    assert np.array_equal(got[:, 0], np.tile(START.astype(model.dtype), (70, 1)))


def test_what_comes_after_the_end_neither_costs_nor_fails(model: Analytic) -> None:
    # At full push a trajectory ends soon, and then runs into every trap and off the map.
    controls = random_controls(64)
    controls[:, :, 0] = 1.0
    states = np.array([twin(row)[1] for row in controls])
    last = int((states[:, :, 0] > P.end).argmax(axis=1).max())
    assert 0 < last < HORIZON - len(CODES)
    harmless = costs(model, controls)
    controls[:, last : last + len(CODES), 1] = list(CODES.values())
    assert np.array_equal(costs(model, controls), harmless)
    assert np.isfinite(harmless).all()


# ---- failures --------------------------------------------------------------------------------------------------------
def test_exactly_the_poisoned_samples_cost_infinity(model: Analytic) -> None:
    controls = random_controls(130)
    controls[:, :, 0] = np.minimum(controls[:, :, 0], 0.0)  # none ends early
    clean = costs(model, controls)
    assert np.isfinite(clean).all()
    poisoned = controls.copy()
    for sample, (step_index, code) in {
        0: (0, "inf"),
        63: (5, "-inf"),
        64: (11, "nan"),
        129: (3, "beyond the map"),
    }.items():
        poisoned[sample, step_index, 1] = CODES[code]
    poisoned[70, 2, 1], poisoned[70, 4, 1] = CODES["inf"], CODES["-inf"]
    got = costs(model, poisoned)
    assert np.flatnonzero(np.isinf(got)).tolist() == [0, 63, 64, 70, 129]
    assert (got[np.isinf(got)] > 0).all()
    others = np.isfinite(got)
    assert np.array_equal(got[others], clean[others])


def test_a_course_that_ends_before_the_horizon_fails_every_sample_that_gets_there(model: Analytic) -> None:
    controls = random_controls(65)
    got = costs(model, controls, t=11)
    assert np.array_equal(np.isinf(got), [math.isinf(twin(row, t=11)[0]) for row in controls])
    assert 0 < np.isinf(got).sum() < 65


def test_states_that_are_not_finite_fail(model: Analytic) -> None:
    for value in (np.nan, np.inf, -np.inf):
        controls = random_controls(66)
        controls[:, :, 0] = np.minimum(controls[:, :, 0], 0.0)
        controls[[1, 65], HORIZON - 1, 0] = value
        assert np.flatnonzero(np.isinf(costs(model, controls))).tolist() == [1, 65]


# ---- params, without compiling ---------------------------------------------------------------------------------------
@pytest.fixture
def compiled() -> Iterator[list[Any]]:
    """What Numba compiles, or loads from its cache, during a test."""
    with event.install_recorder("numba:compile") as recorder:
        yield recorder.buffer


def test_after_the_first_call_nothing_compiles(single: Analytic, compiled: list[Any]) -> None:
    controls = random_controls(65)
    costs(single, controls)
    single.rollout(START, controls, 0, P)
    compiled.clear()
    signatures = len(single._kernels.costs.signatures), len(single._kernels.rollout.signatures)

    read_only = P.ground.astype(np.float32)
    read_only.setflags(write=False)
    strided = np.zeros((6, 8))
    strided[:, ::2] = P.ground
    variants = [
        P._replace(drag=1, end=5),
        P._replace(drag=np.float32(0.5), dt=np.float64(0.05)),
        P._replace(course=P.course[::-1]),
        P._replace(course=P.course.tolist()),
        P._replace(ground=read_only),
        P._replace(ground=strided[:, ::2]),
        P._replace(ground=np.asfortranarray(P.ground)),
        P._replace(ground=np.ones((6, 4), bool)),
    ]
    for params in variants:
        expected = [twin(row, 2, params._replace(course=np.asarray(params.course)))[0] for row in controls]
        assert np.allclose(costs(single, controls, 2, params), expected, rtol=1e-5, atol=1e-5)
        single.rollout(START, controls, 2, params)
    for count in (1, 64, 129):
        costs(single, random_controls(count, 3))
    assert compiled == []
    assert (len(single._kernels.costs.signatures), len(single._kernels.rollout.signatures)) == signatures == (1, 1)


def test_an_array_changed_in_place_is_seen(single: Analytic) -> None:
    params = P._replace(course=P.course.copy())
    controls = random_controls(3)
    before = costs(single, controls, 0, params)
    params.course[:] += 1.0
    assert np.allclose(costs(single, controls, 0, params), [twin(row, 0, params)[0] for row in controls], rtol=1e-5)
    assert not np.array_equal(costs(single, controls, 0, params), before)


class Fewer(NamedTuple):
    """Params of some other task."""

    course: np.ndarray
    dt: float = 0.1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (Fewer(P.course), "must have the fields"),
        (tuple(P), "must have the fields"),
        (None, "must have the fields"),
        (P._replace(course=P.course[:-1]), r"params.course must keep its shape \(20,\), got the shape \(19,\)"),
        (P._replace(ground=P.ground.T), r"params.ground must keep its shape \(6, 4\)"),
        (P._replace(drag=P.course), r"params.drag must stay a number, got the shape \(20,\)"),
        (P._replace(course=1.0), r"params.course must keep its shape \(20,\)"),
        (P._replace(drag=None), "params.drag must stay numeric, got None"),
        (P._replace(drag="0.3"), "params.drag must stay numeric"),
    ],
)
def test_params_of_another_shape_are_refused(single: Analytic, params: Any, message: str) -> None:
    with pytest.raises(LaneError, match=message):
        costs(single, random_controls(2), 0, params)


# ---- scenarios -------------------------------------------------------------------------------------------------------
SCENARIOS = [P._replace(drag=d, ground=g * P.ground) for d, g in ((0.0, 1.0), (0.5, 2.0), (1.0, 0.5))]


@pytest.mark.parametrize("risk", [None, Mean(), Worst(), CVaR(0.5)])
def test_a_risk_folds_the_costs_under_each_scenario(single: Analytic, risk: Any) -> None:
    controls = random_controls(65)
    each = np.array([costs(single, controls, 1, params) for params in SCENARIOS])
    got = costs(Analytic(TASK, scenarios=SCENARIOS, risk=risk), controls, 1)
    assert np.array_equal(got, (risk or Mean())(each))


def test_scenarios_may_follow_the_params_of_the_moment(single: Analytic) -> None:
    controls = random_controls(65)

    def around(params: Params) -> Sequence[Params]:
        return [params, params._replace(drag=2 * params.drag)]

    now = P._replace(drag=0.8)
    got = costs(Analytic(TASK, scenarios=around, risk=Worst()), controls, 0, now)
    assert np.array_equal(got, np.maximum(*(costs(single, controls, 0, params) for params in around(now))))


def test_a_failure_under_one_scenario_fails_the_mean_but_not_the_other_samples() -> None:
    short = P._replace(end=100.0), P._replace(end=0.5)  # under the second all end before the trap
    controls = random_controls(65)
    controls[7, 5, 1] = CODES["nan"]
    got = costs(Analytic(TASK, scenarios=short), controls)
    assert np.flatnonzero(np.isinf(got)).tolist() == [7]


def test_no_scenario_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one set of params"):
        costs(Analytic(TASK, scenarios=[]), random_controls(2))


# ---- drawing inside the kernel ---------------------------------------------------------------------------------------
def candidates(count: int) -> Candidates:
    space = ControlSpace.of(TASK.control_low, TASK.control_high, TASK.dt, None, np.float32)
    sampler = icem(budget=100, horizon=HORIZON).bind(space)
    return sampler.propose(sampler.init(), seed=11, plan=2, samples=count)


@pytest.mark.parametrize("count", [1, 64, 200])
def test_candidates_drawn_in_the_kernel_cost_what_they_cost_drawn_before(single: Analytic, count: int) -> None:
    drawn_inside, drawn_before = candidates(count), candidates(count)
    rows = drawn_before.rows()
    inside = single.costs(START, drawn_inside, 0, P, ALL)
    assert np.array_equal(inside, single.costs(START, drawn_before, 0, P, ALL))
    assert np.array_equal(drawn_inside.rows(), rows)
    assert np.allclose(inside, [twin(row)[0] for row in rows.astype(np.float64)], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("many_threads")
def test_the_same_bits_at_any_number_of_threads(model: Analytic) -> None:
    controls = random_controls(500)
    one = costs(model, controls, threads=ThreadBudget(1))
    assert np.array_equal(costs(model, controls, threads=ThreadBudget(ALL.count)), one)
    if model.dtype == np.float32:
        first, second = candidates(500), candidates(500)
        one = model.costs(START, first, 0, P, ThreadBudget(1))
        assert np.array_equal(model.costs(START, second, 0, P, ThreadBudget(ALL.count)), one)
        assert np.array_equal(first.rows(), second.rows())


def test_a_sample_costs_the_same_whatever_else_is_in_the_batch(model: Analytic) -> None:
    controls = random_controls(150)
    whole = costs(model, controls)
    for part in (slice(0, 1), slice(149, 150), slice(60, 70), slice(0, 64)):
        assert np.array_equal(costs(model, controls[part]), whole[part])


def test_terms_are_the_cost_of_one_step(single: Analytic) -> None:
    terms = single.terms(START, np.array([0.5, 0.0]), 3, P)
    assert terms == cost(tuple(START), (0.5, 0.0), 3, P)._asdict()
    number = dataclasses.replace(TASK, cost=lambda x, u, t, p: x[0] ** 2)
    assert Analytic(number).terms(START, np.zeros(2), 0, P) == {"cost": 1.0}


# ---- tasks that are refused ------------------------------------------------------------------------------------------
def raises(x, u, p):
    return x[0] / 0, x[1]


def three_states(x, u, p):
    return x[0], x[1], 0.0


def no_tuple(x, u, p):
    return [x[0], x[1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": raises}, r"task 'cart': step raised ZeroDivisionError for the state \(1.0, 1.2\): "),
        ({"step": three_states}, "step must return a tuple of 2 states"),
        ({"step": no_tuple}, "step must return a tuple of 2 states"),
        ({"cost": lambda x, u, t, p: "cheap"}, "must return numbers"),
        ({"cost": lambda x, u, p: 0.0}, "cost raised TypeError"),
        ({"terminal": lambda x, p: None}, "must return numbers"),
        ({"terminated": lambda x, p: x[7] > 0}, "terminated raised IndexError"),
        ({"reset": lambda rng: np.zeros(3)}, "reset's state must be a vector of 2 numbers"),
        ({"reset": lambda rng: np.array([np.nan, 0.0])}, "reset's state must be finite"),
        ({"params": {"dt": 0.1}}, "params must be a NamedTuple"),
        ({"params": P._replace(drag="much")}, "params.drag must be a number"),
    ],
)
def test_a_task_that_cannot_work_is_refused_when_the_model_is_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Analytic(dataclasses.replace(TASK, **changes))


@pytest.mark.parametrize("dtype", [np.float16, np.int32, complex])
def test_other_types_are_refused(dtype: Any) -> None:
    with pytest.raises(InvalidInput, match="float32 or float64"):
        Analytic(TASK, dtype=dtype)


def test_the_kernel_of_one_task_serves_all_its_models(compiled: list[Any], single: Analytic) -> None:
    costs(single, random_controls(1))
    compiled.clear()
    build: Callable[[], Analytic] = lambda: Analytic(dataclasses.replace(TASK, params=P._replace(drag=0.9)))  # noqa: E731
    costs(build(), random_controls(1))
    assert compiled == []
