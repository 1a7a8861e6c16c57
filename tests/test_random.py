"""Random numbers: the published known answers, a twin in plain NumPy, and the statistics of what comes out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import scipy.stats

from mpcrl.core.random import LANES, normal_lanes, philox_words

# https://github.com/DEShawResearch/random123, tests/kat_vectors, lines "philox4x32 10": counter, key, answer
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000 00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def philox_twin(counter: Iterable[Any], key: tuple[int, int]) -> list[np.ndarray]:
    """Philox4x32-10 as its paper has it, in 64-bit integers."""
    mask = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & mask,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def normals_twin(rows: int, first: int, seed: int, plan: int, iteration: int, stream: int) -> np.ndarray:
    """`normal_lanes` in float64, by Box and Muller's formula."""
    sample, group = np.meshgrid(first + np.arange(LANES), np.arange(rows // 4))
    words = philox_twin((sample, group + stream * 2**28, plan, iteration), (seed % 2**32, seed // 2**32))
    out = np.empty((rows // 4, 4, LANES))
    for half in (0, 2):
        uniform = (words[half] >> np.uint64(1)).astype(np.float32) * np.float32(2.0**-31) + np.float32(2.0**-32)
        radius = np.sqrt(-2 * np.log(uniform.astype(np.float64)))
        # the low 30 bits are a signed angle, the next mirrors it, the last swaps the axes
        second = words[half + 1].astype(np.uint32)
        angle = (second << np.uint32(2)).view(np.int32) * (np.pi / 4 * 2.0**-31)
        mirror, swap = 1 - 2.0 * ((second >> np.uint32(30)) & np.uint32(1)), (second >> np.uint32(31)).astype(bool)
        x, y = mirror * np.cos(angle), np.sin(angle)
        out[:, half], out[:, half + 1] = radius * np.where(swap, y, x), radius * np.where(swap, x, y)
    return out.reshape(rows, LANES)


def drawn(rows: int, first: int = 0, seed: int = 1, plan: int = 0, iteration: int = 0, stream: int = 0) -> np.ndarray:
    out = np.full((rows, LANES), np.nan, np.float32)
    normal_lanes(out, first, np.uint64(seed), plan, iteration, stream)
    return out


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """[256, 64 * 64] normals: rows by samples."""
    return np.concatenate([drawn(256, LANES * block, seed=99, plan=3, iteration=2) for block in range(64)], axis=1)


@pytest.mark.parametrize(("given", "answer"), KNOWN_ANSWERS)
def test_philox_gives_its_known_answers(given: str, answer: str) -> None:
    words = [int(word, 16) for word in given.split()]
    expected = [int(word, 16) for word in answer.split()]
    assert [int(word) for word in philox_words(*map(np.uint32, words))] == expected
    assert [int(word) for word in philox_twin(words[:4], (words[4], words[5]))] == expected


@pytest.mark.parametrize(
    ("first", "seed", "plan", "iteration", "stream"),
    [(0, 0, 0, 0, 0), (64, 1, 2, 3, 1), (2**20, 2**63 + 12345, 2**31, 5, 0), (0, 2**64 - 1, 7, 2**20, 1)],
)
def test_normals_equal_their_twin(first: int, seed: int, plan: int, iteration: int, stream: int) -> None:
    got = drawn(40, first, seed, plan, iteration, stream)
    assert np.abs(got - normals_twin(40, first, seed, plan, iteration, stream)).max() < 1e-5


def test_a_row_of_a_sample_is_the_same_whatever_else_is_drawn() -> None:
    whole = drawn(40)
    assert np.array_equal(drawn(8), whole[:8])
    assert np.array_equal(drawn(40, first=LANES)[:, :1], drawn(40, first=LANES - 3)[:, 3:4])
    assert np.array_equal(drawn(40, first=5)[:, :-5], whole[:, 5:])
    assert np.array_equal(drawn(40), whole)


def test_every_part_of_the_counter_and_the_key_matters() -> None:
    base = {"first": 0, "seed": 1, "plan": 0, "iteration": 0, "stream": 0}
    changes: list[dict[str, int]] = [{}]
    changes += [{"seed": 2}, {"seed": 1 + 2**32}, {"seed": 1 + 2**63}, {"plan": 1}, {"iteration": 1}, {"stream": 1}]
    changes += [{"first": LANES}, {"plan": 1, "iteration": 1}]
    results = [drawn(256, **{**base, **change}).ravel() for change in changes]
    for a, b in itertools.combinations(results, 2):
        assert np.mean(a == b) < 1e-3
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


def test_moments(many: np.ndarray) -> None:
    z = many.ravel().astype(np.float64)
    # the mean of z^k is off by its standard deviation, the root of E z^2k - (E z^k)^2, over the root of the count
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs(np.mean(z**power) - moment) < 4.5 * np.sqrt(variance / z.size), power


def test_tails(many: np.ndarray) -> None:
    z = np.abs(many.ravel())
    for threshold in (1.0, 2.0, 3.0, 4.0, 4.5):
        p = 2 * scipy.stats.norm.sf(threshold)
        assert abs(np.mean(z > threshold) - p) < 4.5 * np.sqrt(p / z.size), threshold
    assert z.max() < 6.67


def test_distribution(many: np.ndarray) -> None:
    assert scipy.stats.kstest(many.ravel()[::4], "norm").pvalue > 1e-4
    for row in (0, 1, 2, 3, 255):  # each of the four words of a counter
        assert scipy.stats.kstest(many[row], "norm").pvalue > 1e-4


@pytest.mark.parametrize("squared", [False, True])
def test_rows_and_samples_are_uncorrelated(many: np.ndarray, squared: bool) -> None:
    values = many.astype(np.float64) ** 2 if squared else many.astype(np.float64)
    for table in (values[:128], values.T[:128]):  # rows against each other, then samples
        off = np.corrcoef(table) - np.eye(len(table))
        assert np.abs(off).max() < 6 / np.sqrt(table.shape[1])
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(values.size)
