"""How far to trust a learned model: whether what happened lies where the model said, and how soon it is wrong."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput
from mpcrl.core.files import written
from mpcrl.learning.replay import Transitions

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Of the central intervals of which coverage is measured."""

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Predicted states [P, N, H+1, nx] of P particles from a state [nx] under controls [N, H, nu]."""

Cost = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Stage costs [...] of states [..., nx] and controls [..., nu]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """What a model said of W stretches of H steps, and what happened.

    Attributes
    ----------
    names : tuple of str
        Of the numbers of a state.
    coverage : ndarray [H, len(LEVELS), nx]
        Share of the stretches whose state after 1 to H steps lay within the central interval of the particles; nan
        where a number never changes during an episode.
    rmse : ndarray [H, nx]
        Root mean square of the particles' mean minus what happened.
    spread : ndarray [nx]
        Standard deviation of the states, to compare errors with; 0 where a number never changes during an episode.
    predicted_return, realised_return : ndarray [W]
        Minus the costs of H steps, by the model (mean over particles) and as they were; empty where no cost was given.
    """

    names: tuple[str, ...]
    coverage: np.ndarray
    rmse: np.ndarray
    spread: np.ndarray
    predicted_return: np.ndarray
    realised_return: np.ndarray

    @property
    def horizon(self) -> int:
        """H."""
        return len(self.rmse)

    @property
    def overall(self) -> np.ndarray:
        """Coverage [H, len(LEVELS)], the mean over all numbers that change."""
        changing = self.spread > 0
        return self.coverage[:, :, changing].mean(axis=2)

    @property
    def scaled_rmse(self) -> np.ndarray:
        """Error [H, nx] in units of `spread`; nan where a number never changes."""
        return self.rmse / np.where(self.spread > 0, self.spread, np.nan)

    @property
    def return_gap(self) -> float:
        """Mean of predicted minus realised return; nan where no cost was given."""
        gaps = self.predicted_return - self.realised_return
        return float(gaps.mean()) if gaps.size else float("nan")

    def to_csv(self, path: Path) -> None:
        """Write a row per number of steps and number of the state; those of "all" are means over the latter.

        Raises
        ------
        InvalidInput
            The file cannot be written.
        """
        names = ["steps", "name", "rmse", "rmse_in_std", *(f"coverage_{100 * level:g}" for level in LEVELS)]
        scaled, overall = self.scaled_rmse, self.overall
        with written(Path(path)) as scratch, scratch.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(names)
            for h in range(self.horizon):
                for i, name in enumerate(self.names):
                    rows.writerow(_numbers(h + 1, name, self.rmse[h, i], scaled[h, i], *self.coverage[h, :, i]))
                whole = scaled[h][self.spread > 0]
                rows.writerow(_numbers(h + 1, "all", np.nan, np.sqrt(np.mean(whole**2)), *overall[h]))


def calibration(
    predictor: Predictor,
    episodes: Iterable[Transitions],
    names: Iterable[str],
    *,
    horizon: int = 20,
    windows: int = 100,
    cost: Cost | None = None,
) -> Calibration:
    """Compare a model with episodes that it was not trained with.

    Parameters
    ----------
    predictor : callable
        `sampled` of a learned model, or any other.
    episodes : iterable of Transitions
        As `Replay.episodes` gives them.
    names : iterable of str [nx]
    horizon : int
        H, steps.
    windows : int
        Stretches to compare at most, evenly spaced over all that there are.
    cost : callable, optional
        Of a step, for the gap between predicted and realised return.

    Raises
    ------
    InvalidInput
        No episode has as many steps.
    """
    positive_integer("horizon", horizon)
    positive_integer("windows", windows)
    kept = [episode for episode in episodes if len(episode.costs) >= horizon]
    starts = [(e, first) for e, episode in enumerate(kept) for first in range(len(episode.costs) - horizon + 1)]
    if not starts:
        raise InvalidInput(f"no episode has {horizon} steps; ask for a shorter horizon, or hold out longer episodes")
    chosen = [starts[i] for i in np.unique(np.linspace(0, len(starts) - 1, windows).round().astype(int))]
    changing = np.any([(episode.states != episode.next_states).any(axis=0) for episode in kept], axis=0)
    if not changing.any():
        raise InvalidInput("nothing changes in any of the episodes, so there is nothing to predict")
    spread = np.where(changing, np.concatenate([episode.states for episode in kept]).std(axis=0), 0)
    sides = np.array([side for level in LEVELS for side in ((1 - level) / 2, (1 + level) / 2)])

    inside = np.zeros((horizon, len(LEVELS), spread.size))
    squares = np.zeros((horizon, spread.size))
    predicted, realised = [], []
    for e, first in chosen:
        rows = kept[e].take(slice(first, first + horizon))
        particles = np.asarray(predictor(rows.states[0], rows.controls[None]), np.float64)[:, 0]
        low, high = np.quantile(particles[:, 1:], sides, axis=0).reshape(len(LEVELS), 2, horizon, -1).swapaxes(0, 1)
        inside += ((low <= rows.next_states) & (rows.next_states <= high)).swapaxes(0, 1)
        squares += (particles[:, 1:].mean(axis=0) - rows.next_states) ** 2
        if cost:
            controls = np.broadcast_to(rows.controls, (len(particles), *rows.controls.shape))
            predicted.append(-cost(particles[:, :-1], controls).sum(axis=-1).mean())
            realised.append(-rows.costs.sum())
    return Calibration(
        names=tuple(names),
        coverage=np.where(spread > 0, inside / len(chosen), np.nan),
        rmse=np.sqrt(squares / len(chosen)),
        spread=spread,
        predicted_return=np.array(predicted),
        realised_return=np.array(realised),
    )


def _numbers(*row: object) -> list[object]:
    """Nan as an empty field."""
    return ["" if isinstance(value, float) and np.isnan(value) else value for value in row]
