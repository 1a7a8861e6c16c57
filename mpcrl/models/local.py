"""An analytic task around one trajectory, in float64: derivatives by differences, and rollouts under feedback.

First derivatives are central differences over steps of 2^-17 = 7.6e-6, second ones over 2^-10 = 9.8e-4, both times the
scale of the coordinate: half the range of a control, the largest absolute value of a state on the trajectory (at least
1), rounded to powers of two. For functions and derivatives of order 1 that leaves errors of 1e-10 in jacobians and
gradients and of 1e-6 in Hessians, on quadratic functions 1e-9. At a kink, differences lie between the slopes of its
sides; `terminated` has no part in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpcrl.core import lanes
from mpcrl.core.compile import load_module
from mpcrl.core.local import Expansion, Policy
from mpcrl.core.threads import ThreadBudget
from mpcrl.tasks.task import AnalyticTask

WIDTH = 8
"""Lanes of one loop: control steps in derivatives, step sizes in rollouts."""

FIRST, SECOND = 2.0**-17, 2.0**-10
"""Differences for first and second derivatives."""

_SECONDS_PER_PROBE = 5e-8


class LocalModel:
    """Derivatives and rollouts under feedback of one analytic task.

    Parameters
    ----------
    task : AnalyticTask
    terms : int
        Terms of the stage cost; 0 where it is a number.
    """

    def __init__(self, task: AnalyticTask, terms: int) -> None:
        self._nx, self._n = task.nx, task.nx + task.nu
        self._half_range = (task.control_high - task.control_low) / 2
        self._fields = lanes.fields_of(task.params)
        self._has_terminal = task.terminal is not None
        self._kernels = load_module(_source(task, self._fields, terms), "local")
        self._arrays = any(f.shape is not None for f in self._fields)
        self._seen: tuple[Any, tuple[Any, ...]] = (None, ())
        self._singles, self._last_singles = _singles(self._n), _singles(self._nx)
        self._stencil, self._pairs = _stencil(self._n)
        self._last_stencil, self._last_pairs = _stencil(self._nx)

    def expand(
        self,
        states: np.ndarray,
        controls: np.ndarray,
        t: int,
        params: Any,
        threads: ThreadBudget,
        *,
        jacobian: np.ndarray | None = None,
    ) -> Expansion:
        """Derivatives along a trajectory.

        Takes 2 n evaluations of `step` and 2 n + 1 + n (n + 1) of `cost` per control step, n = nx + nu.

        Parameters
        ----------
        states : ndarray [H + 1, nx]
        controls : ndarray [H, nu]
        t : int
            Control steps since the reset at the first state.
        params : NamedTuple
        threads : ThreadBudget
        jacobian : ndarray [H, nx, n], optional
            Of other dynamics than the task's, which are not evaluated then.

        Returns
        -------
        Expansion
            Not finite where a function is not.
        """
        nx, n, horizon = self._nx, self._n, len(controls)
        values = self._coerced(params)
        scale = _power_of_two(np.concatenate([np.maximum(np.abs(states).max(0), 1.0), self._half_range]))
        first, second = FIRST * scale, SECOND * scale
        offsets = np.concatenate([self._singles * first, self._stencil * second])
        base = self._columns(states, controls)
        following = np.empty((2 * n if jacobian is None else 0, nx, base.shape[1]))
        costs = np.empty((len(offsets), base.shape[1]))
        with threads.for_work(_SECONDS_PER_PROBE * costs.size).kernels():
            self._kernels.probe(base, offsets, t, following, costs, *values)
        ends = np.zeros(len(self._last_singles) + len(self._last_stencil))
        if self._has_terminal:
            offsets = np.concatenate([self._last_singles * first[:nx], self._last_stencil * second[:nx]])
            self._kernels.last(states[-1] + offsets, ends, *values)
        costs = costs[:, :horizon]
        with np.errstate(invalid="ignore"):  # infinite costs, which is for the caller to see
            if jacobian is None:
                jacobian = _slopes(following[:, :, :horizon], first).transpose(2, 1, 0)
            return Expansion(
                jacobian=np.ascontiguousarray(jacobian),
                gradient=np.ascontiguousarray(_slopes(costs[: 2 * n], first).T),
                hessian=np.ascontiguousarray(_curvature(costs[2 * n :], second, self._pairs).transpose(2, 0, 1)),
                last_gradient=_slopes(ends[: 2 * nx], first[:nx]),
                last_hessian=_curvature(ends[2 * nx :], second[:nx], self._last_pairs),
            )

    def follow(
        self, policy: Policy, sizes: np.ndarray, bounds: np.ndarray, state: np.ndarray, t: int, params: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Roll a policy out, one trajectory per step size.

        Parameters
        ----------
        policy : Policy
        sizes : ndarray [A]
        bounds : ndarray [4, nu]
            Rows: low and high of the controls, their largest change per step (inf: none), the last applied control.
        state : ndarray [nx]
            Where all trajectories start.
        t : int
        params : NamedTuple

        Returns
        -------
        states [A, H + 1, nx], controls [A, H, nu], costs [A]
            Controls are within bounds; the cost of a trajectory that is not finite is +inf.
        """
        nx, count, (horizon, nu) = self._nx, len(sizes), policy.controls.shape
        blocks = -(-count // WIDTH)
        padded = np.zeros(blocks * WIDTH)
        padded[:count] = sizes
        states = np.empty((blocks, horizon + 1, nx, WIDTH))
        controls, costs = np.empty((blocks, horizon, nu, WIDTH)), np.empty(blocks * WIDTH)
        values = self._coerced(params)
        self._kernels.follow(*policy, padded, bounds, state, t, states, controls, costs, *values)
        return _rows(states)[:count], _rows(controls)[:count], costs[:count]

    def stage_costs(self, states: np.ndarray, controls: np.ndarray, t: int, params: Any) -> np.ndarray:
        """Costs [H] of each control step along a trajectory [H + 1, nx], [H, nu]."""
        base, values = self._columns(states, controls), self._coerced(params)
        costs = np.empty((1, base.shape[1]))
        with ThreadBudget(1).kernels():
            self._kernels.probe(base, np.zeros((1, self._n)), t, np.empty((0, self._nx, 0)), costs, *values)
        return costs[0, : len(controls)]

    def last_costs(self, states: np.ndarray, params: Any) -> np.ndarray:
        """Terminal costs [N] of states [N, nx]; 0 without one."""
        ends = np.zeros(len(states))
        if self._has_terminal:
            self._kernels.last(np.ascontiguousarray(states), ends, *self._coerced(params))
        return ends

    def _columns(self, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """States and controls of each step as columns [n, at least H], the last one again where lanes are left."""
        horizon = len(controls)
        base = np.empty((self._n, -(-horizon // WIDTH) * WIDTH))
        base[: self._nx, :horizon], base[self._nx :, :horizon] = states[:-1].T, controls.T
        base[:, horizon:] = base[:, horizon - 1 : horizon]
        return base

    def _coerced(self, params: Any) -> tuple[Any, ...]:
        """The values of params for the kernels; those of the last call where nothing can have changed since."""
        seen, values = self._seen  # read once: other threads may plan with this model and other params
        if self._arrays or params is not seen:
            values = lanes.coerce(params, self._fields, np.dtype(np.float64))
            self._seen = params, values
        return values


def _rows(blocks: np.ndarray) -> np.ndarray:
    """Lanes [B, T, m, WIDTH] as trajectories [B * WIDTH, T, m]."""
    return blocks.transpose(0, 3, 1, 2).reshape(-1, *blocks.shape[1:3])


def _power_of_two(x: np.ndarray) -> np.ndarray:
    """The largest powers of two that are not above `x`: differences then divide without rounding."""
    return 2.0 ** np.floor(np.log2(x))


def _singles(n: int) -> np.ndarray:
    """One coordinate forwards, then one backwards [2 n, n]."""
    return np.concatenate([np.eye(n), -np.eye(n)])


def _stencil(n: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The middle, single coordinates, pairs both forwards, pairs both backwards [1 + 2 n + n (n - 1), n]; the pairs."""
    pairs = np.triu_indices(n, 1)
    both = np.eye(n)[pairs[0]] + np.eye(n)[pairs[1]]
    return np.concatenate([np.zeros((1, n)), _singles(n), both, -both]), pairs


def _slopes(values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """First derivatives [n, ...] from values [2 n, ...] at `_singles`."""
    n = step.size
    return (values[:n] - values[n:]) / (2.0 * step).reshape(-1, *[1] * (values.ndim - 1))


def _curvature(values: np.ndarray, step: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Second derivatives [n, n, ...] from values at `_stencil` (Abramowitz and Stegun, 25.3.23 and 25.3.27)."""
    n, (i, j) = step.size, pairs
    middle, single = values[0], values[1 : 1 + n] + values[1 + n : 1 + 2 * n] - 2.0 * values[0]
    both = values[1 + 2 * n : 1 + 2 * n + i.size] + values[1 + 2 * n + i.size :] - 2.0 * middle
    shape = (-1, *[1] * (values.ndim - 1))
    hessian = np.empty((n, n, *values.shape[1:]))
    hessian[np.arange(n), np.arange(n)] = single / (step**2).reshape(shape)
    hessian[i, j] = hessian[j, i] = (both - single[i] - single[j]) / (2.0 * step[i] * step[j]).reshape(shape)
    return hessian


def _source(task: AnalyticTask, fields: tuple[lanes.Field, ...], terms: int) -> str:
    """Source of the kernels `probe`, `last` and `follow`, with lanes on the stack as in the rollouts of `Analytic`."""
    program = lanes.LaneProgram(np.dtype(np.float64), fields)
    step = program.add(task.step, ("float", "float", "params"))
    cost = program.add(task.cost, ("float", "float", "index", "params"))
    terminal = task.terminal and program.add(task.terminal, ("float", "params"))
    terminated = task.terminated and program.add(task.terminated, ("float", "params"))
    nx, nu, p = task.nx, task.nu, program.arguments

    def each(text: str, count: int, separator: str = "; ") -> str:
        return separator.join(text.format(i=i) for i in range(count))

    state, control = f"({each('s{i}[l], ', nx, '')})", f"({each('v{i}[l], ', nu, '')})"
    stage = program.call(cost, "x", "u", "np.int32(t0 + t)")
    if terms:
        stage = f"sum_of_terms({stage})"
    arrays = [*(f"s{i}" for i in range(nx)), *(f"v{i}" for i in range(nu))]
    going = "alive[l] > 0.0"

    def while_going(value: str, otherwise: str) -> str:
        return f"lane_select({going}, {value}, {otherwise})" if terminated else value

    def allocated(names: list[str]) -> str:
        return "; ".join(f"{a} = carray(stack({WIDTH}), ({WIDTH},))" for a in names)

    feedback = "\n".join(
        f"""
            base = controls[t, {j}]; feed = feedforward[t, {j}]; {each(f"g{{i}} = gains[t, {j}, {{i}}]", nx)}
            low = bounds[0, {j}]; high = bounds[1, {j}]; change = bounds[2, {j}]
            for l in range({WIDTH}):
                wanted = base + sizes[block * {WIDTH} + l] * feed + {each("g{i} * (s{i}[l] - n{i})", nx, " + ")}
                limited = min(max(wanted, v{j}[l] - change), v{j}[l] + change)
                v{j}[l] = min(max(limited, low), high)"""
        for j in range(nu)
    )
    stop = f"; alive[l] = lane_select({program.call(terminated, state)}, 0.0, alive[l])" if terminated else ""
    whole = "total[l] + " + while_going(program.call(terminal, state), "0.0") if terminal else "total[l]"
    finite = each("(s{i}[l] - s{i}[l])", nx, " + ")
    point = f"({each('points[k, {i}], ', nx, '')})"
    last = (
        f"""
@kernel
def last(points, out{p}):
    for k in range(points.shape[0]):
        out[k] = {program.call(terminal, point)}
"""
        if terminal
        else ""
    )
    return f"""{program.text()}
from numba import carray, prange
from mpcrl.core.intrinsics import stack_float64 as stack


@inlined
def sum_of_terms(c):
    return {" + ".join(f"c[{i}]" for i in range(terms)) or "c"}


@kernel(parallel=True)
def probe(base, offsets, t0, following, costs{p}):
    for row in prange(offsets.shape[0]):
        {allocated([*arrays, "value", *(f"y{i}" for i in range(nx))])}
        {each("d{i} = offsets[row, {i}]", nx + nu)}
        for block in range(base.shape[1] // {WIDTH}):
            first = block * {WIDTH}
            for l in range({WIDTH}):
                {each("s{i}[l] = base[{i}, first + l] + d{i}", nx)}
                {"; ".join(f"v{j}[l] = base[{nx + j}, first + l] + d{nx + j}" for j in range(nu))}
            for l in range({WIDTH}):
                t = first + l
                x = {state}
                u = {control}
                value[l] = {stage}
            for l in range({WIDTH}):
                costs[row, first + l] = value[l]
            if row < following.shape[0]:
                for l in range({WIDTH}):
                    y = {program.call(step, state, control)}
                    {each("y{i}[l] = y[{i}]", nx)}
                for l in range({WIDTH}):
                    {each("following[row, {i}, first + l] = y{i}[l]", nx)}

{last}
@kernel
def follow(nominal, controls, feedforward, gains, sizes, bounds, x0, t0, states, taken, costs{p}):
    for block in range(states.shape[0]):
        {allocated([*arrays, "total", "alive"])}
        for l in range({WIDTH}):
            {each("s{i}[l] = x0[{i}]", nx)}; {each("v{i}[l] = bounds[3, {i}]", nu)}
            total[l] = 0.0; alive[l] = 1.0
        for t in range(controls.shape[0]):
            {each("n{i} = nominal[t, {i}]", nx)}
{feedback}
            for l in range({WIDTH}):
                {each("states[block, t, {i}, l] = s{i}[l]", nx)}
                {each("taken[block, t, {i}, l] = v{i}[l]", nu)}
            for l in range({WIDTH}):
                x = {state}
                u = {control}
                total[l] += {while_going(stage, "0.0")}
                y = {program.call(step, "x", "u")}
                {each("s{i}[l] = " + while_going("y[{i}]", "s{i}[l]"), nx)}{stop}
        for l in range({WIDTH}):
            {each("states[block, controls.shape[0], {i}, l] = s{i}[l]", nx)}
            whole = {whole}
            costs[block * {WIDTH} + l] = whole if np.isfinite(whole + {finite}) else np.inf
"""
