"""Waiting for a moment, and being there on time."""

from __future__ import annotations

import math
import time

from mpcrl.core.errors import InvalidInput

_NAP_S = 2e-5
"""Asked for; with what the system adds, less than a tenth of a millisecond."""


def wait_until(moment: float, *, awake: float = 0.002) -> None:
    """Wait until a moment; return at once where it has passed.

    A thread that sleeps until a moment wakes up late: by up to a millisecond on an idle machine, where its core has to
    wake up first, and by several where other processes compute. This one sleeps until `awake` before the moment and
    takes short naps from there on, in which the other threads of the process go on.

    Parameters
    ----------
    moment : float
        On the clock of `time.monotonic`, s, which is also that of a `RealtimeController` unless it was given another.
    awake : float
        How long before, s; at least 0. What others may delay the caller by without making it late.

    Raises
    ------
    InvalidInput
        A number is not finite, or `awake` is negative.
    """
    if not (math.isfinite(moment) and math.isfinite(awake) and awake >= 0):
        raise InvalidInput(f"moment and awake must be finite seconds, and awake at least 0; got {moment!r}, {awake!r}")
    left = moment - time.monotonic()
    if left > awake:
        time.sleep(left - awake)
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, _NAP_S))
