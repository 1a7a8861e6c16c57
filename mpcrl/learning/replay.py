"""What was seen, for learning: a ring of transitions that remembers which member of an ensemble sees which of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from mpcrl.core.bundle import from_json, from_safetensors, read_bundle, to_json, to_safetensors, write_bundle
from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.learning.draws import Stream, uniforms

_HEAD = {"format": "mpcrl-replay", "version": 1}
_POISSON = np.cumsum(np.exp(-1) / np.cumprod([1, *range(1, 16)]))
"""Distribution function of a Poisson number of mean 1."""


class Transitions(NamedTuple):
    """n steps in the order in which they were added.

    Attributes
    ----------
    states : ndarray [n, nx]
    controls : ndarray [n, nu]
    next_states : ndarray [n, nx]
    costs : ndarray [n]
    terminated, truncated : ndarray [n] bool
        Whether the episode ended with the step: by itself, so that nothing follows, or because nobody went on.
    episodes : ndarray [n] int64
        Number of the episode that the step is of, counted from 0 since the buffer was made.
    weights : ndarray [n]
        How much the step counts in losses.
    counts : ndarray [n, members] uint8
        How often each member sees the step.
    """

    states: np.ndarray
    controls: np.ndarray
    next_states: np.ndarray
    costs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episodes: np.ndarray
    weights: np.ndarray
    counts: np.ndarray

    def take(self, rows: Any) -> Transitions:
        """Those of some rows: a slice, indices or a mask."""
        return Transitions(*(column[rows] for column in self))


class Replay:
    """A ring of transitions; when it is full, each new one takes the place of the oldest.

    Each member of an ensemble sees each transition as often as a Poisson number of mean 1 says, drawn when the
    transition is added and never again (Oza and Russell 2001, "Online bagging and boosting": for many transitions this
    is the bootstrap's draw with replacement). A draw anew in every epoch would show every member everything in the end,
    and their disagreement, which is all that tells of too little data, would go. All draws follow from the seed and the
    number of the transition, so that a run that was interrupted goes on as if it were not.

    Parameters
    ----------
    nx, nu : int
        Length of a state and of a control.
    capacity : int
        Transitions that are kept.
    members : int
        Of the ensemble that learns from it.
    seed : int
        Of the bootstrap and of what is held out.
    """

    def __init__(self, nx: int, nu: int, *, capacity: int, members: int, seed: int = 0) -> None:
        self.nx, self.nu = positive_integer("nx", nx), positive_integer("nu", nu)
        self.capacity, self.members = positive_integer("capacity", capacity), positive_integer("members", members)
        self.seed = checked_seed(seed)
        self.added = 0
        """Transitions that were ever added."""
        self.episode = 0
        """Number of the episode that the next transition is of."""
        self._ring = Transitions(
            states=np.empty((capacity, nx)),
            controls=np.empty((capacity, nu)),
            next_states=np.empty((capacity, nx)),
            costs=np.empty(capacity),
            terminated=np.empty(capacity, bool),
            truncated=np.empty(capacity, bool),
            episodes=np.empty(capacity, np.int64),
            weights=np.empty(capacity),
            counts=np.empty((capacity, members), np.uint8),
        )

    def __len__(self) -> int:
        """Transitions that are there."""
        return min(self.added, self.capacity)

    # ---- in --------------------------------------------------------------------------------------------------
    def add(
        self,
        state: Any,
        control: Any,
        next_state: Any,
        cost: float,
        *,
        terminated: bool = False,
        truncated: bool = False,
        weight: float = 1.0,
    ) -> None:
        """Add one step; where it is `terminated` or `truncated`, the next one begins another episode.

        Raises
        ------
        InvalidInput
            A number that is not finite, with its row and column; a wrong shape; a weight below 0.
        """
        self._append(
            f"transition {self.added}",
            self.episode,
            _matrix("state", [state], 1, self.nx),
            _matrix("control", [control], 1, self.nu),
            _matrix("next_state", [next_state], 1, self.nx),
            _matrix("cost", [[cost]], 1, 1)[:, 0],
            np.array([terminated]),
            np.array([truncated]),
            _matrix("weight", [[weight]], 1, 1)[:, 0],
        )

    def add_episode(
        self, states: Any, controls: Any, costs: Any, *, terminated: bool = False, weights: Any = None
    ) -> None:
        """Add the T steps of an episode of its own, whole.

        Parameters
        ----------
        states : array_like [T+1, nx]
            With the one after the last step.
        controls : array_like [T, nu]
        costs : array_like [T]
        terminated : bool
            Whether the last step ended it; else nobody went on.
        weights : array_like [T], optional

        Raises
        ------
        InvalidInput
            As `add`.
        """
        steps = len(costs)
        if not steps:
            raise InvalidInput("an episode must have at least one step, got none")
        path = _matrix("states", states, steps + 1, self.nx)
        last = np.arange(steps) == steps - 1
        self._append(
            "the episode",
            self.episode + (len(self) > 0 and not self._last_ended()),
            path[:-1],
            _matrix("controls", controls, steps, self.nu),
            path[1:],
            _matrix("costs", np.reshape(costs, (-1, 1)), steps, 1)[:, 0],
            last & terminated,
            last & (not terminated),
            np.ones(steps) if weights is None else _matrix("weights", np.reshape(weights, (-1, 1)), steps, 1)[:, 0],
        )

    def _last_ended(self) -> bool:
        last = (self.added - 1) % self.capacity
        return bool(self._ring.terminated[last] or self._ring.truncated[last])

    def _append(
        self,
        what: str,
        number: int,
        states: np.ndarray,
        controls: np.ndarray,
        next_states: np.ndarray,
        costs: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        """Check all rows, then add them, the first of them to the episode `number`: all or none."""
        named = {"state": states, "control": controls, "next_state": next_states, "cost": costs, "weight": weights}
        for name, values in named.items():
            if not np.isfinite(values).all():
                row, *column = np.argwhere(~np.isfinite(values))[0]
                place = f"{name}{[int(c) for c in column]}" if column else name
                raise InvalidInput(
                    f"{what}, row {row}: {place} must be finite, got {values[(row, *column)]}; nothing was added: drop "
                    "the row, or find where it comes from"
                )
        if (weights < 0).any():
            row = int(np.argmax(weights < 0))
            raise InvalidInput(f"{what}, row {row}: the weight must be at least 0, got {weights[row]}")
        n = len(states)
        ends = terminated | truncated
        rows = Transitions(
            states=states,
            controls=controls,
            next_states=next_states,
            costs=costs,
            terminated=terminated,
            truncated=truncated,
            episodes=number + np.cumsum(ends) - ends,
            weights=weights,
            counts=np.searchsorted(_POISSON, uniforms(self.seed, Stream.BOOTSTRAP, self.added, n, self.members)).astype(
                np.uint8
            ),
        )
        kept = slice(max(0, n - self.capacity), n)
        places = np.arange(self.added + kept.start, self.added + n) % self.capacity
        for column, values in zip(self._ring, rows, strict=True):
            column[places] = values[kept]
        self.added += n
        self.episode = number + int(ends.sum())

    # ---- out -------------------------------------------------------------------------------------------------
    def transitions(self) -> Transitions:
        """All that are there, oldest first; a copy."""
        return self._ring.take((self.added - len(self) + np.arange(len(self))) % self.capacity)

    def episodes(self) -> Iterator[Transitions]:
        """All episodes that are there, oldest first; of the first one, what is left of it."""
        rows = self.transitions()
        cuts = np.flatnonzero(np.diff(rows.episodes)) + 1
        for first, last in zip([0, *cuts], [*cuts, len(self)], strict=True):
            if last > first:
                yield rows.take(slice(first, last))

    def held_out(self, share: float, *, whole_episodes: bool = False) -> np.ndarray:
        """Which transitions [n] are kept from training, as a mask in the order of `transitions`.

        Whether one is depends on the seed and its own number alone: what is held out stays so while more is added, and
        of two shares the smaller one's are among the larger one's. But at least one is held out and one is not, if
        there are two.

        Parameters
        ----------
        share : float
            Of all; 0 holds out none.
        whole_episodes : bool
            Hold out all steps of an episode or none of them.
        """
        if not 0 <= share < 1:
            raise InvalidInput(f"the share to hold out must be at least 0 and below 1, got {share!r}")
        n = len(self)
        if not share or n < 2:
            return np.zeros(n, bool)
        if whole_episodes:
            episodes = self.transitions().episodes
            first = int(episodes[0])
            drawn = uniforms(self.seed, Stream.HELD_EPISODE, first, int(episodes[-1]) + 1 - first, 1)
            chances = drawn[episodes - first, 0]
        else:
            chances = uniforms(self.seed, Stream.HELD_TRANSITION, self.added - n, n, 1)[:, 0]
        if chances.min() == chances.max():
            return np.zeros(n, bool)
        return (chances < share) & (chances < chances.max()) | (chances == chances.min())

    # ---- files -----------------------------------------------------------------------------------------------
    def save(self, folder: Path) -> None:
        """Write all that is there to a folder, in place of an older one, as safetensors and JSON.

        A state that the next step starts from is written once. A folder has at most 256 MB.

        Raises
        ------
        InvalidInput
            The folder is something else, cannot be written, or would be larger.
        """
        rows = self.transitions()
        arrays = rows._asdict()
        goes_on = np.zeros(len(self), bool)
        ends, starts = arrays["next_states"].view(np.int64), arrays["states"].view(np.int64)
        goes_on[:-1] = (ends[:-1] == starts[1:]).all(axis=1)
        arrays["next_states"] = arrays["next_states"][~goes_on]
        sizes = ("nx", "nu", "capacity", "members", "seed", "added", "episode")
        head = {name: getattr(self, name) for name in sizes}
        write_bundle(
            Path(folder),
            {"replay.json": to_json(head), "transitions.safetensors": to_safetensors({**arrays, "goes_on": goes_on})},
            _HEAD,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, to the last bit.

        Raises
        ------
        DamagedExport
            And no other error, whatever lies in the folder.
        """
        files = read_bundle(Path(folder), _HEAD)
        try:
            head = from_json(files["replay.json"], "replay.json")
            arrays = from_safetensors(files["transitions.safetensors"], "transitions.safetensors")
            added, episode = (_count(name, head.pop(name)) for name in ("added", "episode"))
            replay = cls(**head)
            n = min(added, replay.capacity)
            goes_on = arrays.pop("goes_on")
            following = np.zeros((n, replay.nx))
            following[:-1] = arrays["states"][1:]
            following[~goes_on] = arrays["next_states"]
            rows = Transitions(**{**arrays, "next_states": following})
            for name, column, values in zip(Transitions._fields, replay._ring, rows, strict=True):
                if values.shape != (n, *column.shape[1:]) or values.dtype != column.dtype:
                    raise DamagedExport(f"{name} must be {column.dtype} of the shape {(n, *column.shape[1:])}")
                if not np.isfinite(values).all():
                    raise DamagedExport(f"{name} must be finite")
                column[(added - n + np.arange(n)) % replay.capacity] = values
        except DamagedExport:
            raise
        except (KeyError, IndexError, TypeError, ValueError, MemoryError) as error:
            raise DamagedExport(f"{str(folder)!r} holds no replay buffer: {error}") from error
        replay.added, replay.episode = added, episode
        return replay


def checked_seed(seed: Any) -> int:
    """A seed as an integer of at least 0, below 2^64."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise InvalidInput(f"the seed must be an integer of at least 0 and below 2^64, got {seed!r}")
    return int(seed)


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise DamagedExport(f"{name} must be an integer of at least 0, got {value!r}")
    return value


def _matrix(name: str, value: Any, rows: int, columns: int) -> np.ndarray:
    """`value` as float64 [rows, columns], which may not be finite yet."""
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} must be numbers, got {value!r}") from error
    if matrix.shape != (rows, columns):
        expected, got = ((columns,), matrix.shape[1:]) if rows == 1 else ((rows, columns), matrix.shape)
        raise InvalidInput(f"{name} must have the shape {expected}, got {got}")
    return matrix
