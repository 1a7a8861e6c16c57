"""JAX on the CPU: one planning step of MPPI as a single jitted function, as its users write it.

The noise is JAX's own threefry; the step is that of Williams et al., Information Theoretic MPC (2017), algorithm 2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import systems_jax
from worker import SystemWorker, describe, serve


class Worker(SystemWorker):
    def build(self, samples: int, horizon: int, threads: int) -> dict[str, Any]:
        # XLA takes its threads from the processors that the driver left to this process; there is no other setting.
        system = self.system
        step, cost = systems_jax.functions(system.name, system.params)
        low, high, sigma = (jnp.array(values, jnp.float32) for values in (system.low, system.high, system.sigma))
        start = jnp.array(system.start, jnp.float32)
        temperature = system.temperature

        def rollout(x: jax.Array, controls: jax.Array) -> jax.Array:
            def advance(x: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
                x = step(x, u)
                return x, cost(x, u)

            return jnp.sum(jax.lax.scan(advance, x, controls)[1])

        rollouts = jax.vmap(rollout, in_axes=(None, 0))

        @jax.jit
        def improve(mean: jax.Array, key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            key, noise_key = jax.random.split(key)
            mean = jnp.roll(mean, -1, axis=0).at[-1].set(0.0)
            noise = sigma * jax.random.normal(noise_key, (samples, horizon, low.size))
            controls = jnp.clip(mean + noise, low, high)
            noise = controls - mean
            costs = rollouts(x, controls) + temperature * jnp.sum(mean / sigma**2 * noise, axis=(1, 2))
            weights = jax.nn.softmax(-costs / temperature)
            return mean + jnp.einsum("n,nhu->hu", weights, noise), key

        self.improve = improve
        self.rollouts = jax.jit(lambda controls: rollouts(start, controls))
        self.mean, self.key = jnp.zeros((horizon, low.size)), jax.random.key(0)
        return describe("jax", "jaxlib")

    def plan(self, state: tuple[float, ...]) -> np.ndarray:
        self.mean, self.key = self.improve(self.mean, self.key, np.array(state, np.float32))
        return np.asarray(self.mean)[0]

    def forget(self) -> None:
        self.mean = jnp.zeros_like(self.mean)

    def total(self, controls: np.ndarray) -> np.ndarray:
        return np.asarray(self.rollouts(controls))


if __name__ == "__main__":
    serve(Worker())
