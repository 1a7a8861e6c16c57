"""Refit a distribution over decisions to the costs of its samples: the elites of CEM, the softmax of MPPI."""

from __future__ import annotations

import numpy as np
from numba import prange

from mpcrl.core import vecmath
from mpcrl.core.compile import inlined, kernel
from mpcrl.core.random import LANES

FIXED, NORMALISED, EFFECTIVE_SAMPLES = 0, 1, 2
"""How a temperature is meant: as it is, in standard deviations of the costs, or as a share of effective samples."""

_exp = vecmath.lane_functions(np.float32)["exp"]
_BISECTIONS = 40
_NEGLIGIBLE = np.float32(2.0**-40)  # against the greatest weight of 1: 2^16 such weights are lost in rounding the sums


@inlined
def _least(lanes):
    """Minimum of an array. Like `_total` in place of NumPy's, which makes Numba load SciPy before a cached kernel."""
    least = lanes[0]
    for value in lanes:
        least = min(least, value)
    return least


@inlined
def _total(lanes):
    """Sum of an array in float64, in order."""
    total = 0.0
    for value in lanes:
        total += value
    return total


@kernel
def screen(costs, out):
    """Costs [N] with +inf for those that are not finite; which is the cheapest, and how many failed.

    Parameters
    ----------
    costs : ndarray [N]
    out : ndarray [N] float64
        Out: the screened costs.

    Returns
    -------
    cheapest, failed : int
    """
    cheapest, failed = 0, 0
    for n in range(costs.size):
        cost = costs[n]
        if np.isfinite(cost):
            out[n] = cost
            if cost < out[cheapest]:
                cheapest = n
        else:
            out[n] = np.inf
            failed += 1
    return cheapest, failed


@kernel
def _cheapest(costs, kept_costs, order, values):
    """Which of costs [N] and kept costs [E], counted from N on, are the cheapest, in their order; see `refit_elites`.

    Fills `order` [count] and `values` [count], as far as there are finite costs: returns how many. Of equal costs the
    first ones are taken.
    """
    found = 0
    for n in range(costs.size + kept_costs.size):
        cost = costs[n] if n < costs.size else kept_costs[n - costs.size]
        if not np.isfinite(cost):
            continue
        if found < order.size:
            found += 1
        elif cost >= values[found - 1]:
            continue
        place = found - 1
        while place > 0 and values[place - 1] > cost:
            order[place], values[place] = order[place - 1], values[place - 1]
            place -= 1
        order[place], values[place] = n, cost
    return found


@kernel
def refit_elites(
    costs, decisions, kept, kept_costs, momentum, smooth_variance, least_std, mean, std, elites, elite_costs
):
    """Cross-entropy update: mean and standard deviation of the cheapest samples, with momentum.

    mean <- a mean + (1 - a) mean_elites, and the same for the standard deviation (iCEM: Pinneri et al.: Sample-
    efficient cross-entropy method for real-time planning, CoRL 2020, alg. 1) or the variance (PETS: Chua et al., 2018).

    Parameters
    ----------
    costs : ndarray [N] float64
        Those that are not finite do not count; at least one is.
    decisions : ndarray [B, K, nu, LANES]
    kept : ndarray [E, K, nu] float64
        Elites of before, which count where `kept_costs` [E] is finite.
    momentum : float
        a.
    smooth_variance : bool
    least_std : ndarray [nu] float64
        Below it no standard deviation falls.
    mean, std : ndarray [K, nu] float64
        In: the old ones; out: the new ones.
    elites : ndarray [count, K, nu] float64
        Out: the cheapest, in their order; what is beyond those found stays as it was, so in the next.
    elite_costs : ndarray [count] float64
        Out: their costs.

    Returns
    -------
    found : int
        How many elites there are.
    """
    order = np.empty(elite_costs.size, np.int64)
    found, samples = _cheapest(costs, kept_costs, order, elite_costs), costs.size
    for e in range(found):
        if order[e] < samples:
            elites[e] = decisions[order[e] // LANES, :, :, order[e] % LANES]
        else:
            elites[e] = kept[order[e] - samples]
    for k in range(mean.shape[0]):
        for j in range(mean.shape[1]):
            centre = _total(elites[:found, k, j]) / found
            squares = 0.0
            for e in range(found):
                squares += (elites[e, k, j] - centre) ** 2
            variance = squares / found
            if smooth_variance:
                width = np.sqrt((1 - momentum) * variance + momentum * std[k, j] ** 2)
            else:
                width = (1 - momentum) * np.sqrt(variance) + momentum * std[k, j]
            mean[k, j] = (1 - momentum) * centre + momentum * mean[k, j]
            std[k, j] = least_std[j] if width < least_std[j] else width  # NaN stays
    return found


@kernel
def _moments(costs):
    """Minimum, mean and standard deviation of the finite costs, and how many they are."""
    least, total, count = np.inf, 0.0, 0
    for cost in costs:
        if np.isfinite(cost):
            least = min(least, cost)
            total += cost
            count += 1
    if count == 0:
        return least, 0.0, 0.0, 0
    mean, squares = total / count, 0.0
    for cost in costs:
        if np.isfinite(cost):
            squares += (cost - mean) ** 2
    return least, mean, np.sqrt(squares / count), count


@kernel
def effective_samples(costs, least, temperature):
    """(sum w)^2 / sum w^2 of the softmax weights w = exp(-(cost - least) / temperature)."""
    total, squares = 0.0, 0.0
    for cost in costs:
        weight = np.float64(_exp(np.float32(-(cost - least) / temperature)))
        total += weight
        squares += weight * weight
    return total * total / squares


@kernel
def resolve_temperature(costs, kind, temperature):
    """The temperature in units of cost.

    Costs that are all equal leave any positive temperature right: 1 is returned.
    """
    if kind == FIXED:
        return temperature
    least, _, deviation, count = _moments(costs)
    if count == 0 or deviation <= 1e-12 * (1.0 + abs(least)):
        return 1.0
    if kind == NORMALISED:
        return temperature * deviation
    low, high = np.log(1e-6 * deviation), np.log(1e6 * deviation)  # the effective sample size grows with temperature
    target = max(1.0, temperature * count)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if effective_samples(costs, least, np.exp(middle)) < target:
            low = middle
        else:
            high = middle
    return np.exp(0.5 * (low + high))


@kernel
def _charge_actions(decisions, mean, action_weight, temperature, values):
    """Add temperature * sum action_weight * mean * (theta - mean) to the values [LANES] of one block of decisions."""
    action = np.zeros(LANES, np.float32)
    for k in range(decisions.shape[0]):
        for j in range(decisions.shape[1]):
            middle = np.float32(mean[k, j])
            factor = np.float32(action_weight[k, j] * mean[k, j])
            if factor != np.float32(0):
                for l in range(LANES):
                    action[l] += factor * (np.float32(decisions[k, j, l]) - middle)
    for l in range(LANES):
        values[l] += temperature * action[l]


@kernel
def _lowest(values):
    """The least of values [B, LANES]."""
    lowest = np.full(LANES, np.inf)
    for block in range(values.shape[0]):
        for l in range(LANES):
            lowest[l] = min(lowest[l], values[block, l])
    return _least(lowest)


@kernel
def _block_weights(values, least, temperature, weights):
    """Weights exp(-(value - least) / temperature) [LANES] of one block of values [LANES]."""
    for l in range(LANES):
        weights[l] = (least - values[l]) / temperature
    for l in range(LANES):
        weights[l] = _exp(weights[l])


@kernel
def _weight_sums(weights, used):
    """Sum of weights [B, LANES] and of their squares; `used` [B]: which blocks count in a weighted mean."""
    sums, squares = np.zeros(LANES), np.zeros(LANES)
    for block in range(weights.shape[0]):
        heaviest = np.float32(0)
        for l in range(LANES):
            weight = np.float64(weights[block, l])
            sums[l] += weight
            squares[l] += weight * weight
        for l in range(LANES):
            heaviest = max(heaviest, weights[block, l])
        used[block] = heaviest > _NEGLIGIBLE
    return _total(sums), _total(squares)


@kernel
def _weighted_sum(decisions, k, j, weights, used):
    """Sum of decisions [B, K, nu, LANES] of one step and control under weights [B, LANES]."""
    lane_sums = np.zeros(LANES, np.float32)
    for block in range(decisions.shape[0]):
        if used[block]:
            for l in range(LANES):
                lane_sums[l] += weights[block, l] * np.float32(decisions[block, k, j, l])
    return _total(lane_sums)


@kernel(parallel=True)
def softmax_mean(costs, decisions, mean, action_weight, kind, temperature, refitted):
    """Path-integral update: the mean of the samples under softmax weights of their costs.

    w_n ~ exp(-(J_n + temperature * sum action_weight * mean * (theta_n - mean) - min) / temperature)
    (Williams et al.: Information theoretic MPC for model-based reinforcement learning, ICRA 2017, eq. 26 and alg. 2).

    Parameters
    ----------
    costs : ndarray [N] float64
        +inf for a failed sample, whose weight is exactly 0; none is NaN.
    decisions : ndarray [B, K, nu, LANES]
    mean : ndarray [K, nu] float64
    action_weight : ndarray [K, nu] float64
        1 / sigma^2 for MPPI's action cost; 0 without it.
    kind, temperature
        See `resolve_temperature`.
    refitted : ndarray [K, nu] float64
        Out: the new mean; untouched where no sample is finite.

    Returns
    -------
    temperature, effective_sample_size : float
        In units of cost; between 1 and N (0 where no sample, or not even the temperature, is finite).
    """
    blocks, steps, nu = decisions.shape[0], decisions.shape[1], decisions.shape[2]
    resolved = resolve_temperature(costs, kind, temperature)
    if not np.isfinite(resolved):  # costs of 1e300 make it so
        return resolved, 0.0
    values = np.full((blocks, LANES), np.inf)
    flat = values.reshape(-1)
    for n in range(costs.size):
        flat[n] = costs[n]
    charged = False
    for k in range(steps):
        for j in range(nu):
            charged = charged or action_weight[k, j] * mean[k, j] != 0
    if charged:
        for block in prange(blocks):
            _charge_actions(decisions[block], mean, action_weight, resolved, values[block])
    least = _lowest(values)
    if not np.isfinite(least):
        return resolved, 0.0
    weights, used = np.empty((blocks, LANES), np.float32), np.empty(blocks, np.bool_)
    for block in prange(blocks):
        _block_weights(values[block], least, resolved, weights[block])
    total, squares = _weight_sums(weights, used)  # in order: the same bits at any thread count
    if total == 0:
        return resolved, 0.0
    for row in prange(steps * nu):
        k, j = row // nu, row % nu
        refitted[k, j] = _weighted_sum(decisions, k, j, weights, used) / total
    return resolved, total * total / squares


@kernel(parallel=True)
def change_cost(controls, applied, weight, out):
    """Add `weight * sum_t |u_t - u_{t-1}|^2` to the cost of each sample; u_{-1} is the control applied last.

    The smoothness cost of SMPPI (Kim et al., 2022). `controls` [B, H, nu, LANES], `applied` [nu], `out` [N].
    """
    for block in prange(controls.shape[0]):
        total = np.zeros(LANES, np.float32)
        for j in range(controls.shape[2]):
            for l in range(LANES):
                change = np.float32(controls[block, 0, j, l]) - np.float32(applied[j])
                total[l] += change * change
            for t in range(1, controls.shape[1]):
                for l in range(LANES):
                    change = np.float32(controls[block, t, j, l]) - np.float32(controls[block, t - 1, j, l])
                    total[l] += change * change
        first = block * LANES
        for l in range(min(LANES, out.size - first)):
            out[first + l] += weight * total[l]
