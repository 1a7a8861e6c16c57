"""Replay buffers from and to Minari, the Farama foundation's format of data sets for reinforcement learning.

Minari speaks of observations, actions and rewards: here they are states, controls and the negative of costs. So a
buffer of a MuJoCo task, whose states are records, is written as such; and a data set whose observations are not all of
the state teaches less than a task's own episodes do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput, missing
from mpcrl.learning.replay import Replay


def from_minari(dataset: Any, *, members: int, capacity: int | None = None, seed: int = 0) -> Replay:
    """A replay buffer of all episodes of a data set.

    Parameters
    ----------
    dataset : str or minari.MinariDataset
        Or its id, among those on this machine.
    members, capacity, seed
        Of the `Replay`; the capacity is all steps that there are if not given.

    Raises
    ------
    MissingDependency
        Minari is not installed.
    InvalidInput
        Observations or actions are no arrays of numbers; a number is not finite.
    """
    minari = _minari()
    if isinstance(dataset, str):
        try:
            dataset = minari.load_dataset(dataset)
        except FileNotFoundError as error:
            raise InvalidInput(
                f"there is no data set {dataset!r} on this machine; `minari download {dataset}` fetches published ones"
            ) from error
    steps, replay = int(dataset.total_steps), None
    for episode in dataset.iterate_episodes():
        length = len(episode.rewards)
        states = _rows("observations", episode.observations, length + 1)
        controls = _rows("actions", episode.actions, length)
        if replay is None:
            sizes = states.shape[1], controls.shape[1]
            replay = Replay(*sizes, capacity=capacity or max(1, steps), members=members, seed=seed)
        if length:
            replay.add_episode(
                states, controls, -np.asarray(episode.rewards, np.float64), terminated=bool(episode.terminations[-1])
            )
    if replay is None:
        raise InvalidInput("the data set has no episodes")
    return replay


def to_minari(replay: Replay, dataset_id: str, **about: Any) -> Any:
    """Write all that is there as a data set in HDF5, which Minari puts in its folder (MINARI_DATASETS_PATH).

    Parameters
    ----------
    replay : Replay
    dataset_id : str
        "name-v0", or "namespace/name-v0".
    **about
        What `minari.create_dataset_from_buffers` takes beside: `env`, `author`, `description` and so on.

    Returns
    -------
    minari.MinariDataset

    Raises
    ------
    MissingDependency
        Minari or h5py is not installed.
    InvalidInput
        There is nothing to write, an episode is torn, or there is a data set of this id already.
    """
    minari = _minari()
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    episodes = []
    for number, rows in enumerate(replay.episodes()):
        if (rows.next_states[:-1] != rows.states[1:]).any():
            raise InvalidInput(
                f"episode {rows.episodes[0]} is torn: a step does not start where the one before it ended; end an "
                "episode with truncated=True where another one begins"
            )
        states = np.concatenate([rows.states, rows.next_states[-1:]])
        ends = {"terminations": rows.terminated, "truncations": rows.truncated}
        episodes.append(
            EpisodeBuffer(id=number, observations=states, actions=rows.controls, rewards=-rows.costs, **ends)
        )
    if not episodes:
        raise InvalidInput("the replay buffer is empty, and a data set is not; add transitions first")
    spaces = {
        "observation_space": Box(-np.inf, np.inf, (replay.nx,), np.float64),
        "action_space": Box(-np.inf, np.inf, (replay.nu,), np.float64),
    }
    try:
        return minari.create_dataset_from_buffers(dataset_id, episodes, **{"data_format": "hdf5", **spaces, **about})
    except ImportError as error:
        raise missing("h5py", "data") from error
    except ValueError as error:
        raise InvalidInput(f"cannot write the data set {dataset_id!r}: {error}") from error


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise missing("minari", "data") from error
    return minari


def _rows(name: str, values: Any, count: int) -> np.ndarray:
    """Numbers of one episode as float64 [count, size]."""
    if isinstance(values, dict | tuple) or np.asarray(values).dtype.kind not in "fiub":
        raise InvalidInput(f"{name} must be arrays of numbers, got {type(values).__name__}; flatten them first")
    array = np.asarray(values, np.float64)
    return array.reshape(len(array), -1)[:count]
