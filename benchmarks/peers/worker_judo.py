"""judo: its own controller on its own cylinder_push, with the settings that it ships for this task."""

from __future__ import annotations

from typing import Any

import judo
import mujoco
import numpy as np
from worker import clock, describe, serve

# cylinder_push has no meshes; without this folder judo downloads those of its other tasks when any task is made.
(judo.MODEL_PATH / "meshes").mkdir(exist_ok=True)

from judo.controller import make_controller  # noqa: E402
from judo.tasks.cylinder_push import XML_PATH  # noqa: E402


class Worker:
    def setup(self, bench: dict[str, Any], threads: int) -> dict[str, Any]:
        # judo starts one thread per rollout; the processors that the driver left to this process bound what runs.
        np.random.seed(0)  # noqa: NPY002 - judo draws from the global generator
        self.start = np.array(bench["start"])
        self.controller = make_controller("cylinder_push", bench["optimizer"])
        self.task = self.controller.task
        found = (self.controller.optimizer_cfg.num_rollouts, int(self.controller.num_timesteps))
        if found != (bench["samples"], bench["horizon"]):
            raise ValueError(f"judo plans {found[0]} rollouts of {found[1]} steps, not those of the benchmark: {bench}")
        self.place()
        for _ in range(3):
            self.controller.update_action()
        return {"model": XML_PATH, **describe("judo-rai", "mujoco", "numpy")}

    def time(self, repeats: int) -> dict[str, Any]:
        """Every plan starts anew, so that both sides simulate the same spread of controls."""
        return {"seconds": clock(self.controller.update_action, repeats, self.place)}

    def quality(self, steps: int) -> dict[str, Any]:
        """An episode in which every physics step has a plan of its own."""
        self.place()
        total, solved_at = 0.0, None
        for t in range(steps):
            self.observe()
            self.controller.update_action()
            self.task.data.ctrl[:] = self.controller.compute(self.task.data)
            mujoco.mj_step(self.task.model, self.task.data)
            state = np.concatenate([self.task.data.qpos, self.task.data.qvel])[None, None]
            total -= float(self.task.reward(state, np.empty((1, 1, 0)), np.empty((1, 1, 2)))[0])
            if not self.task.success(self.task.model, self.task.data):
                solved_at = None
            elif solved_at is None:
                solved_at = t + 1
        return {"solved": solved_at is not None, "at": solved_at, "cost": total}

    def place(self) -> None:
        """The start of the episode, nothing planned yet: pusher x, y and cart x, y (m), at rest."""
        self.controller.reset()
        mujoco.mj_resetData(self.task.model, self.task.data)
        self.task.data.qpos[:] = self.start
        mujoco.mj_forward(self.task.model, self.task.data)
        self.observe()

    def observe(self) -> None:
        self.controller.current_state = np.concatenate([self.task.data.qpos, self.task.data.qvel])


if __name__ == "__main__":
    serve(Worker())
