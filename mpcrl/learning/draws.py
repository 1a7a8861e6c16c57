"""Random numbers by name: which seed, what for, which one. What was drawn before does not matter."""

from __future__ import annotations

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What numbers are drawn for; of one seed, no two share any."""

    BOOTSTRAP = 0
    HELD_TRANSITION = 1
    HELD_EPISODE = 2
    INITIAL = 3
    ORDER = 4


def uniforms(seed: int, stream: Stream, first: int, rows: int, columns: int) -> np.ndarray:
    """Uniform numbers [rows, columns] in (0, 1): row i is the same for the same `first + i`, whatever else is drawn.

    Philox4x64-10, of which a counter makes four words.
    """
    blocks = -(-columns // 4)
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=first * blocks)
    words = generator.random_raw(rows * blocks * 4).reshape(rows, blocks * 4)[:, :columns]
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
