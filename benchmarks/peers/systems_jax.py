"""The systems in JAX for one sample at a time, `step(x [nx], u [nu]) -> [nx]` and `cost(x, u)`; vmap does the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Step = Callable[[jax.Array, jax.Array], jax.Array]


def functions(name: str, p: Any) -> tuple[Step, Step]:
    """`step` and `cost` of the system called `name` with parameters `p`."""
    return {"pendulum": pendulum, "quadrotor": quadrotor}[name](p)


def pendulum(p: Any) -> tuple[Step, Step]:
    def step(x: jax.Array, u: jax.Array) -> jax.Array:
        angle, speed = x
        acceleration = 1.5 * p.gravity / p.length * jnp.sin(angle) + 3.0 / (p.mass * p.length**2) * u[0]
        speed = jnp.clip(speed + acceleration * p.dt, -p.max_speed, p.max_speed)
        return jnp.stack([angle + speed * p.dt, speed])

    def cost(x: jax.Array, u: jax.Array) -> jax.Array:
        angle, speed = x
        angle = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        return angle**2 + 0.1 * speed**2 + 0.001 * u[0] ** 2

    return step, cost


def quadrotor(p: Any) -> tuple[Step, Step]:
    goal, obstacles = jnp.asarray(p.goal), jnp.asarray(p.obstacles)

    def step(x: jax.Array, u: jax.Array) -> jax.Array:
        px, py, pz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = x
        thrust, ax, ay, az = u[0] + p.gravity, u[1], u[2], u[3]
        bx, by, bz = 2.0 * (qx * qz + qw * qy), 2.0 * (qy * qz - qw * qx), 1.0 - 2.0 * (qx * qx + qy * qy)
        h = 0.5 * p.dt
        rw = qw - h * (qx * wx + qy * wy + qz * wz)
        rx = qx + h * (qw * wx + qy * wz - qz * wy)
        ry = qy + h * (qw * wy + qz * wx - qx * wz)
        rz = qz + h * (qw * wz + qx * wy - qy * wx)
        scale = jax.lax.rsqrt(rw * rw + rx * rx + ry * ry + rz * rz)
        return jnp.stack(
            [
                px + p.dt * vx,
                py + p.dt * vy,
                pz + p.dt * vz,
                vx + p.dt * (thrust * bx - p.drag * vx),
                vy + p.dt * (thrust * by - p.drag * vy),
                vz + p.dt * (thrust * bz - p.drag * vz - p.gravity),
                rw * scale,
                rx * scale,
                ry * scale,
                rz * scale,
                wx + p.dt * (ax + p.gyration * wy * wz),
                wy + p.dt * (ay - p.gyration * wx * wz),
                wz + p.dt * az,
            ]
        )

    def cost(x: jax.Array, u: jax.Array) -> jax.Array:
        depth = obstacles[:, 2] - jnp.sqrt((x[0] - obstacles[:, 0]) ** 2 + (x[1] - obstacles[:, 1]) ** 2)
        return (
            2.0 * jnp.sum((x[0:3] - goal) ** 2)
            + 0.5 * jnp.sum(x[3:6] ** 2)
            + 2.0 * jnp.sum(x[7:10] ** 2)
            + 0.05 * jnp.sum(x[10:13] ** 2)
            + jnp.sum(jnp.where(depth > 0, 20.0 + 100.0 * depth, 0.0))
            + 0.002 * u[0] ** 2
            + 0.0005 * jnp.sum(u[1:4] ** 2)
        )

    return step, cost
