"""Terms of a stage cost that keep a trajectory out of where it must not be.

A constraint is a number g(x, u) that must not be above 0. As terms of a cost that returns a NamedTuple, `stats()`
reports each by its name.
"""

from __future__ import annotations

import math


def penalty(violation: float, weight: float) -> float:
    """weight g^2 where g > 0, else 0: nothing is paid inside, and a little outside."""
    return weight * max(violation, 0.0) ** 2


def barrier(violation: float, weight: float, margin: float) -> float:
    """-weight log(-g) inside, and a parabola from `margin` before the border on, with the same value and slope there.

    The relaxed logarithmic barrier (Feller and Ebenbauer, IEEE TAC 62(3), 2017, eq. 9): finite everywhere, steep where
    it counts. Negative for g < -1; scale g so that this does not matter.
    """
    room = -violation
    beyond = 0.5 * ((room - 2.0 * margin) / margin) ** 2 - 0.5 - math.log(margin)
    return weight * (-math.log(max(room, margin)) if room > margin else beyond)
