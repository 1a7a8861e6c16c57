"""Laws of risk measures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpcrl.core.errors import InvalidInput
from mpcrl.models.risk import Best, CVaR, Entropic, Mean, Risk, VaR, Worst

RISKS: list[Risk] = [
    *(Mean(), Worst(), Best(), Entropic(0.5), Entropic(-0.5), Entropic(50.0), Entropic(-50.0)),
    *(VaR(0.0), VaR(0.3), VaR(1.0), CVaR(0.0), CVaR(0.3), CVaR(1.0)),
]
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5))
COSTS = hnp.arrays(np.float64, SHAPES, elements=st.floats(-1e3, 1e3))
WITH_FAILURES = hnp.arrays(np.float64, SHAPES, elements=st.floats(-1e3, 1e3) | st.just(math.inf))
ALPHAS = st.floats(0, 1)
THETAS = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
ROUNDING = 1e-8
"""Of costs below 1e3; log and exp of Entropic divide theirs by theta, at least 1e-3."""


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.allclose(left, right, rtol=1e-12, atol=ROUNDING))


@given(costs=WITH_FAILURES, seed=st.integers(0, 99))
def test_scenarios_have_no_order(costs: np.ndarray, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(costs)
    for risk in RISKS:
        assert close(risk(shuffled), risk(costs)), risk


@given(costs=COSTS, shift=st.floats(-1e3, 1e3))
def test_a_constant_adds_itself(costs: np.ndarray, shift: float) -> None:
    for risk in RISKS:
        assert close(risk(costs + shift), risk(costs) + shift), risk


@given(costs=WITH_FAILURES, data=st.data())
def test_higher_costs_are_no_better(costs: np.ndarray, data: st.DataObject) -> None:
    more = data.draw(hnp.arrays(np.float64, costs.shape, elements=st.floats(0, 1e3) | st.just(math.inf)))
    for risk in RISKS:
        assert np.all(risk(costs + more) >= risk(costs) - ROUNDING), risk


@given(costs=WITH_FAILURES)
def test_between_best_and_worst_and_never_nan(costs: np.ndarray) -> None:
    for risk in RISKS:
        folded = risk(costs)
        assert folded.shape == costs.shape[1:]
        assert np.all(folded >= Best()(costs) - ROUNDING), risk
        assert np.all(folded <= Worst()(costs) + ROUNDING), risk


@given(costs=WITH_FAILURES)
def test_one_scenario_is_itself(costs: np.ndarray) -> None:
    for risk in RISKS:
        assert close(risk(costs[:1]), costs[0]), risk


@given(costs=COSTS, alpha=ALPHAS)
def test_mean_is_below_cvar_and_var_is_below_cvar(costs: np.ndarray, alpha: float) -> None:
    tail = CVaR(alpha)(costs)
    assert np.all(Mean()(costs) <= tail + ROUNDING)
    assert np.all(VaR(alpha)(costs) <= tail + ROUNDING)
    assert np.all(tail <= Worst()(costs) + ROUNDING)


@given(costs=WITH_FAILURES)
def test_ends_of_cvar_and_var(costs: np.ndarray) -> None:
    assert close(CVaR(0.0)(costs), Worst()(costs))
    assert close(CVaR(1.0)(costs), Mean()(costs))
    assert close(VaR(0.0)(costs), Worst()(costs))
    assert close(VaR(1.0)(costs), Best()(costs))


@given(costs=COSTS, alpha=ALPHAS, other=ALPHAS)
def test_a_smaller_tail_is_worse(costs: np.ndarray, alpha: float, other: float) -> None:
    small, large = sorted((alpha, other))
    assert np.all(CVaR(small)(costs) >= CVaR(large)(costs) - ROUNDING)
    assert np.all(VaR(small)(costs) >= VaR(large)(costs))


@given(costs=COSTS, alpha=st.floats(0.01, 1))
def test_cvar_is_the_least_of_rockafellar_and_uryasev(costs: np.ndarray, alpha: float) -> None:
    """min over v of v + mean(max(cost - v, 0)) / alpha, reached at one of the costs."""
    excess = np.maximum(costs[None] - costs[:, None], 0.0).mean(axis=1)
    assert close(CVaR(alpha)(costs), (costs + excess / alpha).min(axis=0))


@given(costs=COSTS, alpha=ALPHAS)
def test_var_is_exceeded_at_most_so_often(costs: np.ndarray, alpha: float) -> None:
    exceeded = (costs > VaR(alpha)(costs)).mean(axis=0)
    assert np.all(exceeded <= alpha + 1e-9)


@given(costs=COSTS, theta=THETAS, other=THETAS)
def test_entropic_grows_with_theta_through_the_mean(costs: np.ndarray, theta: float, other: float) -> None:
    low, high = sorted((theta, other))
    assert np.all(Entropic(low)(costs) <= Entropic(high)(costs) + ROUNDING)
    assert np.all((Entropic(theta)(costs) - Mean()(costs)) * theta >= -ROUNDING * abs(theta))


@given(costs=hnp.arrays(np.float64, SHAPES, elements=st.floats(-1, 1)))
def test_entropic_is_its_definition_and_close_to_mean_and_variance(costs: np.ndarray) -> None:
    assert close(Entropic(2.0)(costs), np.log(np.exp(2.0 * costs).mean(axis=0)) / 2.0)
    assert np.allclose(Entropic(1e-3)(costs), costs.mean(axis=0) + 0.5e-3 * costs.var(axis=0), atol=1e-6)


@given(costs=WITH_FAILURES)
def test_who_looks_past_a_failed_scenario(costs: np.ndarray) -> None:
    failed = np.isinf(costs)
    risks: list[Risk] = [Mean(), Worst(), Entropic(0.5), CVaR(0.0), CVaR(0.4)]
    for risk in risks:
        assert np.array_equal(np.isinf(risk(costs)), failed.any(axis=0)), risk
    risks = [Best(), Entropic(-0.5)]
    for risk in risks:
        assert np.array_equal(np.isinf(risk(costs)), failed.all(axis=0)), risk
    assume(costs.shape[0] > 1)
    assert np.array_equal(np.isinf(VaR(0.5)(costs)), failed.sum(axis=0) > costs.shape[0] // 2)


def test_huge_costs_do_not_overflow() -> None:
    costs = np.array([[1e300, -1e300, 0.0], [1e300, 1e5, 1e5]])
    assert np.allclose(Entropic(1.0)(costs), [1e300, 1e5 - math.log(2), 1e5 - math.log(2)])


def test_whole_tails_are_not_lost_to_rounding() -> None:
    costs = np.arange(100.0)[:, None]
    assert VaR(0.29)(costs)[0] == 70.0  # 0.29 * 100 is 28.999999999999996
    assert CVaR(0.29)(costs)[0] == pytest.approx(np.arange(71.0, 100.0).mean(), rel=1e-14)


@pytest.mark.parametrize("make", [VaR, CVaR])
@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_out_of_range(make: type[VaR] | type[CVaR], alpha: float) -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        make(alpha)


@pytest.mark.parametrize("theta", [0.0, math.nan, math.inf])
def test_theta_out_of_range(theta: float) -> None:
    with pytest.raises(InvalidInput, match="finite and not 0"):
        Entropic(theta)
