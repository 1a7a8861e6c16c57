"""Statistics of runs: against slow twins, against SciPy, and by how often intervals contain the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from mpcrl.core.errors import InvalidInput
from mpcrl.experiments.statistics import (
    interquartile_mean,
    mean,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)


def bimodal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Runs that solve the task or do not, as those of a swing-up."""
    return np.where(rng.random(shape) < 0.7, 1.0, 0.0) + 0.1 * rng.normal(size=shape)


DRAWN: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "bimodal": bimodal,
}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 23])
def test_interquartile_mean_is_scipys_trimmed_mean(size: int) -> None:
    scores = np.random.default_rng(size).normal(size=(6, size))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=1), rtol=1e-13)


def test_interquartile_mean_leaves_the_outer_quarters_out() -> None:
    assert interquartile_mean(np.array([1e9, 1.0, 2.0, -1e9])) == 1.5
    assert mean(np.array([1.0, 2.0, 6.0])) == 3.0


def test_probability_of_improvement_is_mann_whitneys_statistic() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 6, 9).astype(float), rng.integers(0, 6, 7).astype(float)  # with ties
    expected = stats.mannwhitneyu(one, other).statistic / (one.size * other.size)
    assert probability_of_improvement([one], [other]).value == pytest.approx(expected, rel=1e-13)
    both = probability_of_improvement([one, one], [other, one])
    assert both.value == pytest.approx((expected + 0.5) / 2)
    swapped = probability_of_improvement([other], [one]).value
    assert swapped == pytest.approx(1 - expected)


def test_profile_counts_the_runs_above() -> None:
    strata = [np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0])]
    profile = performance_profile(strata, np.array([-1.0, 0.0, 0.5, 1.0, 3.0]))
    np.testing.assert_allclose(profile.value, [1, (2 / 3 + 1) / 2, (2 / 3 + 1) / 2, (1 / 3 + 0) / 2, 0])
    assert (np.diff(profile.value) <= 0).all()
    assert (profile.low <= profile.value).all()
    assert (profile.high >= profile.value).all()


def slow_interval(strata: list[np.ndarray], statistic: Callable[[np.ndarray], float], draws: int) -> tuple:
    """The same interval, one draw after the other, with Python's own arithmetic."""
    rng = np.random.default_rng(1)
    values = []
    for _ in range(draws):
        sample: list[float] = []
        for scores in strata:
            sample += [float(scores[int(rng.integers(len(scores)))]) for _ in scores]
        values.append(statistic(np.array(sample)))
    runs = sum(map(len, strata))
    freedom = runs - len(strata)
    tail = stats.norm.cdf(-((runs / freedom) ** 0.5) * stats.t.ppf(0.975, freedom))
    values.sort()
    return values[round(tail * draws)], values[round((1 - tail) * draws) - 1]


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_interval_is_that_of_a_slow_twin(statistic) -> None:
    rng = np.random.default_rng(3)
    strata = [rng.normal(i, 1 + i, 12) for i in range(3)]
    found = stratified_interval(strata, statistic, draws=20_000)
    low, high = slow_interval(strata, statistic, 4000)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.06 * width)
    assert found.high == pytest.approx(high, abs=0.06 * width)
    assert found.low < found.value < found.high
    assert found.value == statistic(np.concatenate(strata))


def test_interval_of_a_mean_is_as_wide_as_students() -> None:
    scores = np.random.default_rng(5).normal(size=15)
    found = stratified_interval([scores], mean, draws=50_000)
    student = stats.t.interval(0.95, 14, scores.mean(), stats.sem(scores))
    assert found.high - found.low == pytest.approx(student[1] - student[0], rel=0.05)


def test_runs_are_drawn_within_their_task() -> None:
    apart = [np.full(5, 0.0), np.full(5, 100.0)]
    assert [float(x) for x in stratified_interval(apart, mean)] == [50.0, 50.0, 50.0]


def test_the_same_scores_give_the_same_interval() -> None:
    scores = [np.random.default_rng(0).normal(size=6)]
    assert stratified_interval(scores, mean) == stratified_interval(scores, mean)


def test_one_run_tells_no_interval() -> None:
    found = stratified_interval([np.array([2.0])], mean)
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("bad", [[], [np.array([])], [np.array([1.0, np.nan])]])
def test_bad_scores(bad) -> None:
    with pytest.raises(InvalidInput, match="finite"):
        stratified_interval(bad, mean)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(
    ("statistic", "tasks", "runs"),
    [(mean, 1, 10), (mean, 1, 20), (mean, 5, 5), (interquartile_mean, 1, 20), (interquartile_mean, 5, 5)],
)
def test_intervals_contain_the_truth_in_95_of_100_studies(name: str, statistic, tasks: int, runs: int) -> None:
    rng, studies = np.random.default_rng(11), 700
    truth = statistic(DRAWN[name](rng, (400_000,)))
    hits = 0
    for _ in range(studies):
        found = stratified_interval(list(DRAWN[name](rng, (tasks, runs))), statistic, draws=600)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / studies <= 0.97


def test_intervals_of_probability_of_improvement_contain_the_truth() -> None:
    rng, studies, hits = np.random.default_rng(2), 700, 0
    truth = stats.norm.cdf(0.5 / np.sqrt(2))
    for _ in range(studies):
        found = probability_of_improvement([rng.normal(0.5, 1, 15)], [rng.normal(0, 1, 15)], draws=600)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / studies <= 0.97


def test_each_task_counts_alike_also_with_fewer_runs() -> None:
    rng = np.random.default_rng(4)
    easy, hard = rng.normal(1.0, 0.1, 6), rng.normal(0.0, 0.1, 4)
    full = np.concatenate([np.repeat(easy, 2), np.repeat(hard, 3)])  # 12 of each
    for statistic in (mean, interquartile_mean):
        found = stratified_interval([easy, hard], statistic)
        assert found.value == pytest.approx(statistic(full), rel=1e-12)
        assert found.low < found.value < found.high
    assert stratified_interval([easy, hard], mean).value == pytest.approx((easy.mean() + hard.mean()) / 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 20, 41])
def test_equal_weights_are_no_weights(size: int) -> None:
    scores = np.random.default_rng(size).normal(size=(5, size))
    for statistic in (mean, interquartile_mean):
        np.testing.assert_allclose(statistic(scores, np.full(size, 0.3)), statistic(scores), rtol=1e-12)
