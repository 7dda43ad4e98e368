"""The online queue: every transition once, as soon as enough are there, after a resume as well."""

import re
from pathlib import Path

import numpy as np
import pytest

from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.replay.samplers import OnlineSampler, Segment
from agentzoo.runtime.errors import ReplayError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

OBS = {"state": ObsSpec(kind="vector", shape=(1,), source=(1,))}
ACTION = ActionSpec(kind="box", size=1, shape=(1,), dtype="float32", low=(-1.0,), high=(1.0,))
LATENT = {"deter": ColumnSpec(shape=(2,), dtype="float16", mutable=True)}


def buffer(folder: Path, envs: int = 1, capacity: int = 800) -> ReplayBuffer:
    return ReplayBuffer(folder, OBS, ACTION, LATENT, envs=envs, capacity=capacity, chunk_size=8)


def add(replay: ReplayBuffer, count: int, env: int = 0) -> None:
    for _ in range(count):
        n = replay.streams[env].count
        replay.add(env, {
            "state": np.array([n], np.float32), "action": np.zeros(1, np.float32),
            "reward": np.float32(n), "is_first": n % 7 == 0, "is_last": n % 7 == 6,
            "is_terminal": False, "deter": np.full(2, n, np.float16),
        })  # fmt: skip


def draw(replay: ReplayBuffer, batch: int, length: int = 5, seed: int = 0) -> list[Segment]:
    _, drawn = replay.sample(OnlineSampler(), batch, length, np.random.default_rng(seed))
    return [segment for (segment,) in drawn]


def test_fresh_transitions_are_handed_out_once_and_do_not_overlap(tmp_path):
    replay = buffer(tmp_path)
    add(replay, 17)
    assert draw(replay, 3) == [Segment(0, 0, 5), Segment(0, 5, 5), Segment(0, 10, 5)]
    again = draw(replay, 200)
    assert {segment.start for segment in again} == set(range(13)), "uniform, the newest one too"
    add(replay, 3)
    assert draw(replay, 2)[0] == Segment(0, 15, 5)
    assert replay.streams[0].fresh == 20


def test_the_oldest_of_several_streams_comes_first(tmp_path):
    replay = buffer(tmp_path, envs=3)
    add(replay, 10, env=0)
    add(replay, 4, env=1)
    add(replay, 7, env=2)
    drawn = draw(replay, 3)
    assert drawn == [Segment(0, 0, 5), Segment(2, 0, 5), Segment(0, 5, 5)]
    add(replay, 1, env=1)
    assert draw(replay, 1) == [Segment(1, 0, 5)]


def test_transitions_dropped_before_their_turn_are_skipped(tmp_path):
    replay = buffer(tmp_path, capacity=16)
    add(replay, 40)
    assert replay.streams[0].first == 24
    assert draw(replay, 1) == [Segment(0, 24, 5)]


def test_a_resumed_queue_goes_on_where_it_was(tmp_path):
    replay = buffer(tmp_path / "a")
    add(replay, 23)
    draw(replay, 2)
    replay.save(tmp_path / "saved")
    other = buffer(tmp_path / "b")
    other.restore(tmp_path / "saved")
    for copy in (replay, other):
        add(copy, 9)
    assert draw(replay, 8, seed=3) == draw(other, 8, seed=3)
    assert replay.streams[0].fresh == other.streams[0].fresh == 30


def test_too_few_transitions_are_refused(tmp_path):
    replay = buffer(tmp_path)
    add(replay, 4)
    with pytest.raises(ReplayError, match="no window of 5 transitions"):
        draw(replay, 1)


def test_latents_are_written_back_to_all_but_the_context(tmp_path):
    replay = buffer(tmp_path)
    add(replay, 20)
    new = np.stack([np.full((4, 2), 100 + b, np.float16) for b in range(2)])
    replay.write_back([[Segment(0, 3, 5)], [Segment(0, 12, 2), Segment(0, 0, 3)]], {"deter": new})
    batch, _ = replay.sample(OnlineSampler(), 1, 20, np.random.default_rng(0))
    found = batch["deter"][0, :, 0].tolist()
    expected = list(range(20))
    expected[4:8] = [100] * 4
    expected[13] = 101
    expected[0:3] = [101] * 3
    assert found == expected


def test_more_latents_than_memory_holds_are_refused(tmp_path):
    column = {"deter": ColumnSpec(shape=(10**8,), mutable=True)}
    replay = ReplayBuffer(tmp_path, OBS, ACTION, column, capacity=10**5)
    with pytest.raises(ReplayError, match=r"keeps deter in memory: .* set replay_rows lower, or"):
        replay.require_space(10**5)


def test_a_system_that_does_not_say_its_memory_is_no_error(tmp_path, monkeypatch):
    monkeypatch.delattr("os.sysconf")  # as on Windows
    said = r"up to 9 transitions of .*, and 3\.6 GB in memory, which this system says nothing of"
    column = {"deter": ColumnSpec(shape=(10**8,), mutable=True)}
    found = ReplayBuffer(tmp_path, OBS, ACTION, column, capacity=10**5).require_space(9)
    assert re.fullmatch(said, found), found
