"""What was seen, kept: a ring whose bootstrap, holdout and files depend on nothing but its seed and what was added."""

from __future__ import annotations

import math
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcrl.core.errors import DamagedExport, InvalidInput, MissingDependency
from mpcrl.learning.draws import Stream, uniforms
from mpcrl.learning.replay import Replay

NX, NU = 3, 2


def buffer(capacity=50, members=4, seed=7):
    return Replay(NX, NU, capacity=capacity, members=members, seed=seed)


def episode(steps, start=0.0):
    """States that are told apart by their numbers, with controls and costs."""
    states = start + np.arange((steps + 1) * NX).reshape(-1, NX)
    return states, np.full((steps, NU), start), start + np.arange(steps)


def equal(a, b):
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def one_by_one(replay, states, controls, costs, terminated=False):
    for t in range(len(costs)):
        last = t == len(costs) - 1
        replay.add(
            states[t], controls[t], states[t + 1], costs[t], terminated=last and terminated, truncated=last > terminated
        )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=6), st.integers(1, 60), st.booleans())
def test_the_ring_is_a_list_cut_at_its_start(lengths, capacity, terminated):
    replay, twin = buffer(capacity), buffer(capacity)
    rows = []
    for number, steps in enumerate(lengths):
        states, controls, costs = episode(steps, 100.0 * number)
        replay.add_episode(states, controls, costs, terminated=terminated)
        one_by_one(twin, states, controls, costs, terminated)
        rows += [(states[t], states[t + 1], costs[t], number, t == steps - 1) for t in range(steps)]
    kept = rows[-capacity:]
    found = replay.transitions()
    assert len(replay) == len(kept) == len(found.costs)
    assert (found.states == [row[0] for row in kept]).all()
    assert (found.next_states == [row[1] for row in kept]).all()
    assert found.costs.tolist() == [row[2] for row in kept]
    assert found.episodes.tolist() == [row[3] for row in kept]
    ends, others = (found.terminated, found.truncated) if terminated else (found.truncated, found.terminated)
    assert ends.tolist() == [row[4] for row in kept] and not others.any()
    assert equal(found, twin.transitions())
    parts = list(replay.episodes())
    assert equal(found, [np.concatenate(columns) for columns in zip(*parts, strict=True)])
    for part in parts:
        assert (part.next_states[:-1] == part.states[1:]).all() and len(set(part.episodes)) == 1


def test_an_episode_that_nobody_ended_ends_where_a_whole_one_begins():
    replay = buffer()
    replay.add([0, 0, 0], [0, 0], [1, 1, 1], 0.0)
    replay.add_episode(*episode(2))
    assert replay.transitions().episodes.tolist() == [0, 1, 1]


def test_an_episode_that_is_refused_ends_none():
    replay = buffer()
    states, controls, costs = episode(2)
    replay.add(states[0], controls[0], states[1], costs[0])
    states[2] = np.nan
    with pytest.raises(InvalidInput, match="nothing was added"):
        replay.add_episode(states, controls, costs)
    replay.add(states[1], controls[1], states[0], costs[1])
    assert replay.transitions().episodes.tolist() == [0, 0]


def test_the_bootstrap_stays_when_more_is_added():
    replay = buffer(capacity=300)
    replay.add_episode(*episode(100))
    before = replay.transitions().counts
    replay.add_episode(*episode(150))
    assert (replay.transitions().counts[:100] == before).all()
    replay.add_episode(*episode(100))  # 50 of the first are gone
    assert (replay.transitions().counts[:50] == before[50:]).all()


def test_counts_are_poisson_and_independent():
    replay = buffer(capacity=20_000, members=5)
    replay.add_episode(*episode(20_000))
    counts = replay.transitions().counts
    for k in range(5):
        share = math.exp(-1) / math.factorial(k)
        assert abs((counts == k).mean() - share) < 4 * math.sqrt(share / counts.size)
    correlation = np.corrcoef(counts.T)
    assert np.abs(correlation - np.eye(5)).max() < 4 / math.sqrt(20_000)
    assert np.abs(np.corrcoef(counts[1:, 0], counts[:-1, 0])[0, 1]) < 4 / math.sqrt(20_000)
    other = buffer(capacity=20_000, members=5, seed=8)
    other.add_episode(*episode(20_000))
    assert (other.transitions().counts != counts).mean() > 0.5


def test_draws_do_not_depend_on_what_else_is_drawn():
    whole = uniforms(5, Stream.ORDER, 0, 40, 6)
    assert ((whole > 0) & (whole < 1)).all() and np.unique(whole).size == whole.size
    assert (uniforms(5, Stream.ORDER, 13, 9, 6) == whole[13:22]).all()
    assert (uniforms(5, Stream.INITIAL, 0, 40, 6) != whole).all()


@pytest.mark.parametrize("whole_episodes", [False, True])
def test_what_is_held_out_stays_so(whole_episodes):
    replay = buffer(capacity=10_000)
    for number in range(40):
        replay.add_episode(*episode(50, number))
    before = replay.held_out(0.2, whole_episodes=whole_episodes)
    more = replay.held_out(0.4, whole_episodes=whole_episodes)
    assert (before <= more).all()
    for number in range(160):
        replay.add_episode(*episode(50, number))
    after = replay.held_out(0.2, whole_episodes=whole_episodes)
    assert (after[:2000] == before).all()
    # 4 standard deviations of as many draws
    assert abs(after.mean() - 0.2) < 4 * math.sqrt(0.16 / (200 if whole_episodes else 10_000))
    assert not replay.held_out(0.0).any()
    if whole_episodes:
        assert all(len(set(row)) == 1 for row in after.reshape(-1, 50))


def test_few_transitions_leave_something_on_either_side():
    for seed in range(20):
        replay = buffer(seed=seed)
        replay.add_episode(*episode(2))
        for share in (0.01, 0.99):
            assert replay.held_out(share).sum() == 1
    assert not replay.held_out(0.5, whole_episodes=True).any()  # the one episode is needed to learn from


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"states": (4, 2, np.nan)}, r"the episode, row 4: state\[2\] must be finite, got nan"),
        ({"states": (9, 0, np.inf)}, r"the episode, row 8: next_state\[0\] must be finite, got inf"),
        ({"controls": (3, 1, -np.inf)}, r"the episode, row 3: control\[1\] must be finite, got -inf"),
        ({"costs": (5, np.nan)}, "the episode, row 5: cost must be finite, got nan"),
        ({"weights": (2, np.nan)}, "the episode, row 2: weight must be finite, got nan"),
        ({"weights": (2, -1.0)}, "the episode, row 2: the weight must be at least 0, got -1.0"),
    ],
)
def test_what_is_not_finite_is_refused_by_row_and_column(broken, message):
    replay = buffer()
    states, controls, costs = episode(9)
    parts = {"states": states.astype(float), "controls": controls, "costs": costs, "weights": np.ones(9)}
    for name, (*place, value) in broken.items():
        parts[name][tuple(place)] = value
    with pytest.raises(InvalidInput, match=message):
        replay.add_episode(parts["states"], parts["controls"], parts["costs"], weights=parts["weights"])
    assert len(replay) == replay.added == replay.episode == 0


def test_one_step_is_refused_by_its_number():
    replay = buffer()
    replay.add_episode(*episode(4))
    with pytest.raises(InvalidInput, match=r"transition 4, row 0: next_state\[1\] must be finite, got nan"):
        replay.add([0, 0, 0], [0, 0], [0, np.nan, 0], 0.0)
    for state, control, message in (
        ([0, 0], [0, 0], r"state must have the shape \(3,\), got \(2,\)"),
        ([0, 0, 0], [0], r"control must have the shape \(2,\), got \(1,\)"),
        (["a", 0, 0], [0, 0], "state must be numbers"),
    ):
        with pytest.raises(InvalidInput, match=message):
            replay.add(state, control, [0, 0, 0], 0.0)
    with pytest.raises(InvalidInput, match=r"states must have the shape \(5, 3\), got \(4, 3\)"):
        replay.add_episode(np.zeros((4, 3)), np.zeros((4, 2)), np.zeros(4))
    with pytest.raises(InvalidInput, match="at least one step"):
        replay.add_episode(np.zeros((1, 3)), np.zeros((0, 2)), np.zeros(0))
    assert replay.added == 4


@pytest.mark.parametrize("name", ["nx", "nu", "capacity", "members"])
def test_sizes_must_be_positive(name):
    with pytest.raises(InvalidInput, match=f"{name} must be an integer of at least 1, got 0"):
        Replay(**{"nx": 2, "nu": 1, "capacity": 5, "members": 1, name: 0})
    with pytest.raises(InvalidInput, match="the seed must be"):
        buffer(seed=-1)


@pytest.mark.parametrize("capacity", [8, 100])
def test_a_saved_buffer_goes_on_as_if_never_saved(tmp_path, capacity):
    replay = buffer(capacity)
    assert equal(saved(buffer(capacity), tmp_path).transitions(), buffer(capacity).transitions())
    rng = np.random.default_rng(0)
    replay.add_episode(rng.normal(size=(12, NX)), rng.normal(size=(11, NU)), rng.normal(size=11), terminated=True)
    one_by_one(replay, *episode(5))
    replay.add([1, 2, 3], [0, 0], [0.0, 0.0, 0.0], 0.1)
    replay.add(-np.zeros(3), [0, 0], [1, 2, 3], 0.1, weight=0.25)  # not ended, and does not begin where one ended
    twin = saved(replay, tmp_path)
    assert equal(replay.transitions(), twin.transitions())
    for each in (replay, twin):
        each.add([1, 2, 3], [0, 0], [4, 5, 6], 0.2, truncated=True)
        each.add_episode(*episode(3))
    assert equal(replay.transitions(), twin.transitions())
    assert (replay.held_out(0.3) == twin.held_out(0.3)).all()


def saved(replay, folder):
    replay.save(folder / "replay")
    return Replay.load(folder / "replay")


def test_a_damaged_file_is_refused(tmp_path):
    replay = buffer()
    replay.add_episode(*episode(5))
    replay.save(tmp_path / "replay")
    path = tmp_path / "replay" / "transitions.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedExport, match="SHA-256"):
        Replay.load(tmp_path / "replay")
    with pytest.raises(DamagedExport, match="no folder"):
        Replay.load(tmp_path / "nothing")


def test_an_interrupt_while_it_is_written_leaves_one_of_the_two(tmp_path, monkeypatch):
    """After either rename: the older buffer, or the new one."""
    older, newer = buffer(), buffer()
    newer.add_episode(*episode(5))
    replace = os.replace
    for last, left_there in ((1, 0), (2, 5)):
        older.save(tmp_path / "replay")
        renames = iter(range(1, 10))

        def once(*paths, renames=renames, last=last):
            replace(*paths)
            if next(renames) == last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", once)
            with pytest.raises(KeyboardInterrupt):
                newer.save(tmp_path / "replay")
        assert len(Replay.load(tmp_path / "replay")) == left_there
        assert [path.name for path in tmp_path.iterdir()] == ["replay"]


# ---- Minari ------------------------------------------------------------------------------------------------------
@pytest.fixture
def datasets(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


@pytest.mark.usefixtures("datasets")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_gives_back_what_it_got():
    from mpcrl.learning.minari import from_minari, to_minari

    replay = buffer()
    rng = np.random.default_rng(0)
    for steps, terminated in ((7, True), (4, False), (1, True)):
        states, controls = rng.normal(size=(steps + 1, NX)), rng.normal(size=(steps, NU))
        replay.add_episode(states, controls, rng.normal(size=steps), terminated=terminated)
    found = to_minari(replay, "toy/walks-v0", description="Of a test.")
    assert found.total_episodes == 3 and found.total_steps == 12
    assert (found[1].rewards == -replay.transitions().costs[7:11]).all()
    for source in (found, "toy/walks-v0"):
        again = from_minari(source, members=4, seed=7)
        assert equal(again.transitions(), replay.transitions()) and again.capacity == 12
    assert len(from_minari(found, members=1, capacity=5)) == 5
    with pytest.raises(InvalidInput, match="cannot write the data set"):
        to_minari(replay, "toy/walks-v0")
    with pytest.raises(InvalidInput, match="no data set 'toy/nothing-v0'"):
        from_minari("toy/nothing-v0", members=4)


@pytest.mark.usefixtures("datasets")
def test_minari_is_not_given_what_it_cannot_hold():
    from mpcrl.learning.minari import to_minari

    replay = buffer()
    with pytest.raises(InvalidInput, match="empty"):
        to_minari(replay, "toy/walks-v0")
    for _ in range(2):
        replay.add([0, 0, 0], [0, 0], [1, 1, 1], 0.0)
    with pytest.raises(InvalidInput, match="episode 0 is torn"):
        to_minari(replay, "toy/walks-v0")


def test_without_minari_the_extra_is_named(monkeypatch):
    from mpcrl.learning.minari import from_minari

    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(MissingDependency, match=r"minari is not installed; .*mpcrl\[data\]"):
        from_minari("toy/walks-v0", members=1)
