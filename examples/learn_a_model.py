"""Learn a pendulum's dynamics from a few trials, and swing it up through what was learned: PETS."""

import dataclasses
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt

import mpcrl


def main(steps: int = 600) -> None:
    task = dataclasses.replace(mpcrl.make_task("pendulum-swingup"), episode_steps=100)
    ensemble = mpcrl.EnsembleConfig(members=3, hidden=(64, 64), epochs=50)
    agent = mpcrl.PETS(
        task,
        planner=mpcrl.planners.icem(budget=64, horizon=20),
        config=mpcrl.PETSConfig(ensemble=ensemble, particles=6),
    )
    with TemporaryDirectory() as folder:  # keep it, and the same call goes on where it was interrupted
        result, calibration = mpcrl.train("pets", agent, steps=steps, folder=Path(folder))
    for trial, point in enumerate(result.curve):
        print(f"trial {trial}: {point.steps} steps, return {point.return_:.1f}")
    print(f"evaluation {result.final_return:.1f}; the model expected {result.model_gap:+.1f} more")

    figure, (curve, error) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    curve.plot([point.steps for point in result.curve], [point.return_ for point in result.curve], marker="o")
    curve.set(title="pendulum-swingup, learned by PETS", xlabel="control steps", ylabel="return of a trial")
    if calibration is not None:
        error.plot(range(1, calibration.horizon + 1), calibration.scaled_rmse, label=calibration.names)
        error.set(title="error of the model", xlabel="steps ahead", ylabel="share of the states' spread")
        error.legend()
    figure.savefig("learn_a_model.png", dpi=120)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
