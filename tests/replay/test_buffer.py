"""Exact counts, contiguity, the action shift, joined episodes, eviction, write-back, restore."""

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors

from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.replay.samplers import EpisodeSampler, Segment, StreamSampler
from agentzoo.runtime.errors import BundleError, ReplayError, SpaceError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec
from agentzoo.train.checkpoint import read_tensors, write_tensors

OBS = {"state": ObsSpec(kind="vector", shape=(2,), source=(2,))}
ACTION = ActionSpec(kind="box", size=1, shape=(1,), dtype="float32", low=(-1.0,), high=(1.0,))
LATENT = {"latent": ColumnSpec(shape=(3,), mutable=True)}


def buffer(folder: Path, **options: object) -> ReplayBuffer:
    return ReplayBuffer(
        folder, OBS, ACTION, LATENT, **{"chunk_size": 8, "capacity": 800, **options}
    )


def add_episode(replay: ReplayBuffer, length: int, *, env: int = 0, closed: bool = True) -> None:
    """Transitions n of the stream, t of the episode: the state (n, t) and the action n + 0.5."""
    for t in range(length):
        n = replay.streams[env].count
        last = closed and t == length - 1
        replay.add(env, {
            "state": np.array([n, t], np.float32),
            "action": np.array([0.0 if last else n + 0.5], np.float32),
            "reward": np.float32(n),
            "is_first": t == 0,
            "is_last": last,
            "is_terminal": False,
            "latent": np.full(3, n, np.float32),
        })  # fmt: skip


def draw(replay: ReplayBuffer, length: int, windows=None, batch: int = 64, seed: int = 0):
    rule = windows or EpisodeSampler()
    batch, drawn = replay.sample(rule, batch, length, np.random.default_rng(seed))
    return {name: column.numpy() for name, column in batch.items()}, drawn


def test_windows_are_contiguous_and_the_last_step_is_sampled(tmp_path):
    replay = buffer(tmp_path)
    for length in (20, 13, 30):
        add_episode(replay, length)
    batch, _ = draw(replay, 10, batch=400)
    n, t = batch["state"][..., 0], batch["state"][..., 1]
    assert (np.diff(n, axis=1) == 1).all()
    assert (np.diff(t, axis=1) == 1).all()
    assert (batch["reward"] == n).all()
    assert set(n[:, -1]) == {*range(9, 20), *range(29, 33), *range(42, 63)}
    assert batch["is_last"][:, -1].any()


def test_prev_action_is_the_one_that_led_there(tmp_path):
    replay = buffer(tmp_path)
    for length in (20, 13):
        add_episode(replay, length)
    batch, _ = draw(replay, 10, batch=200)
    n = batch["state"][..., 0]
    expected = np.where(batch["is_first"], 0.0, n - 0.5)
    np.testing.assert_array_equal(batch["prev_action"][..., 0], expected)
    assert (batch["prev_action"][:, 0] != 0).any(), "the transition before a window is read"


def test_episodes_are_uniform_whatever_their_length(tmp_path):
    replay = buffer(tmp_path)
    for length in (10, 100):
        add_episode(replay, length)
    batch, _ = draw(replay, 10, batch=4000)
    share = (batch["state"][:, 0, 0] < 10).mean()
    assert abs(share - 0.5) < 0.04


def test_short_episodes_are_joined_at_an_is_first(tmp_path):
    replay = buffer(tmp_path)
    for length in (4, 5, 1):
        add_episode(replay, length)
    batch, drawn = draw(replay, 12)
    n, first = batch["state"][..., 0], batch["is_first"]
    assert all(sum(s.length for s in window) == 12 for window in drawn)
    assert ((np.diff(n, axis=1) == 1) | first[:, 1:]).all()
    assert (first.sum(1) >= 3).all()
    assert (batch["prev_action"][first] == 0).all()


def test_unfinished_episodes_are_left_to_the_stream_rule(tmp_path):
    replay = buffer(tmp_path)
    add_episode(replay, 6)
    add_episode(replay, 20, closed=False)
    by_episode, _ = draw(replay, 6)
    assert (by_episode["state"][..., 0] < 6).all()
    by_stream, _ = draw(replay, 6, StreamSampler(), batch=400)
    assert set(by_stream["state"][:, 0, 0]) == set(range(21))
    assert (np.diff(by_stream["state"][..., 0], axis=1) == 1).all()


def test_oldest_chunks_are_dropped_with_the_episodes_that_began_in_them(tmp_path):
    replay = buffer(tmp_path, capacity=16)
    for _ in range(4):
        add_episode(replay, 10)
    stream = replay.streams[0]
    assert (stream.first, stream.count) == (24, 40)
    assert list(stream.finished) == [(30, 10)]
    assert sorted(p.name for p in tmp_path.rglob("*.rows")) == ["00000003.rows", "00000004.rows"]
    batch, _ = draw(replay, 5)
    assert batch["state"][..., 0].min() >= 30


@pytest.mark.parametrize("closed", [True, False], ids=["ended", "cut"])
def test_an_episode_that_replay_cannot_hold_is_not_given(tmp_path, closed: bool):
    replay = buffer(tmp_path / "replay", capacity=16)
    add_episode(replay, 5)
    add_episode(replay, 43, closed=closed)
    if not closed:
        replay.end(0)
    assert (replay.episodes, replay.overlong) == (0, 1)
    add_episode(replay, 6)
    assert list(replay.streams[0].finished) == [(48, 6)]
    batch, _ = draw(replay, 4)
    assert batch["state"][..., 0].min() >= 48
    # windows across episodes take what is left of it
    across, _ = draw(replay, 4, StreamSampler(), batch=400)
    assert across["state"][..., 0].min() == replay.streams[0].first
    replay.save(tmp_path / "saved")
    again = buffer(tmp_path / "again", capacity=16)
    again.restore(tmp_path / "saved")
    assert list(again.streams[0].finished) == [(48, 6)]


def test_an_episode_without_its_beginning_in_an_earlier_checkpoint_is_left_out(tmp_path):
    replay = buffer(tmp_path / "replay", capacity=16)
    add_episode(replay, 43)
    replay.streams[0].finished.append((0, 43))  # as earlier versions kept it
    replay.save(tmp_path / "saved")
    again = buffer(tmp_path / "again", capacity=16)
    again.restore(tmp_path / "saved")
    assert list(again.streams[0].finished) == []
    assert (again.streams[0].first, again.streams[0].count) == (24, 43)


def test_latents_are_written_back_to_their_own_transitions(tmp_path):
    replay = buffer(tmp_path)
    add_episode(replay, 30)
    _, drawn = draw(replay, 5, batch=3)
    new = np.arange(3 * 5 * 3, dtype=np.float32).reshape(3, 5, 3) + 1000
    replay.write_back(drawn, {"latent": new})
    written = {s.start + t: new[b, t] for b, (s,) in enumerate(drawn) for t in range(5)}
    every, _ = draw(replay, 30, batch=1)
    for n in range(30):
        np.testing.assert_array_equal(every["latent"][0, n], written.get(n, np.full(3, n)))


def test_late_values_reach_the_transition_they_are_for(tmp_path):
    replay = buffer(tmp_path)
    add_episode(replay, 10)
    replay.write_late(0, 2, {"latent": np.array([7, 8, 9], np.float32)})
    every, _ = draw(replay, 10, batch=1)
    assert every["latent"][0, 7].tolist() == [7, 8, 9]
    assert every["latent"][0, 8].tolist() == [8, 8, 8]


def test_streams_of_several_environments_are_apart(tmp_path):
    replay = buffer(tmp_path, envs=2)
    add_episode(replay, 10, env=0)
    add_episode(replay, 12, env=1)
    assert (len(replay), replay.episodes) == (22, 2)
    _, drawn = draw(replay, 10, batch=50)
    assert {segment.env for (segment,) in drawn} == {0, 1}


def test_saved_and_restored_gives_the_same_batches(tmp_path):
    replay = buffer(tmp_path / "a", capacity=16, envs=1)
    for length in (10, 10, 3, 9):
        add_episode(replay, length)
    add_episode(replay, 4, closed=False)
    replay.write_late(0, 1, {"latent": np.full(3, -1, np.float32)})
    replay.save(tmp_path / "saved")
    other = buffer(tmp_path / "b", capacity=16)
    other.restore(tmp_path / "saved")
    for windows in (EpisodeSampler(), StreamSampler()):
        ours, theirs = draw(replay, 7, windows)[0], draw(other, 7, windows)[0]
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    for copy in (replay, other):
        add_episode(copy, 9)
    np.testing.assert_array_equal(draw(replay, 9)[0]["state"], draw(other, 9)[0]["state"])


def test_a_saved_copy_keeps_what_the_run_dropped_later(tmp_path):
    replay = buffer(tmp_path / "a", capacity=16)
    add_episode(replay, 16)
    replay.save(tmp_path / "saved")
    for _ in range(4):
        add_episode(replay, 16)
    other = buffer(tmp_path / "b", capacity=16)
    other.restore(tmp_path / "saved")
    assert draw(other, 16, batch=1)[0]["state"][0, :, 0].tolist() == list(range(16))


def test_empty_replay_says_so(tmp_path):
    with pytest.raises(ReplayError, match="0 transitions in 0 finished episodes; collect more"):
        draw(buffer(tmp_path), 5)


def test_capacity_below_a_chunk_is_refused(tmp_path):
    with pytest.raises(ReplayError, match=r"replay_rows=10 for 2 environment\(s\) is below"):
        buffer(tmp_path, capacity=10, envs=2)


def test_more_transitions_than_the_disk_holds_is_refused(tmp_path):
    with pytest.raises(ReplayError, match=r"GB are free; set replay_rows lower"):
        buffer(tmp_path, capacity=10**15).require_space(10**15)


def test_what_will_be_held_is_said_and_what_is_held_already_takes_no_more_room(tmp_path):
    replay = buffer(tmp_path, capacity=800)
    size = replay.dtype.itemsize
    said = f"up to 800 transitions of {size} bytes, {800 * size / 1e6:.1f} MB"
    assert replay.require_space(10**6) == said
    add_episode(replay, 800)
    free = shutil.disk_usage(tmp_path).free
    assert replay.require_space(10**15).startswith("up to 800 transitions")
    with pytest.raises(ReplayError, match=r"GB are free; set replay_rows lower"):
        replay.require_space(10**15, kept=2 * free // size)


def test_sealed_chunks_keep_neither_files_open_nor_transitions_in_memory(tmp_path):
    replay = buffer(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        add_episode(replay, 30)
    draw(replay, 10)
    assert len(os.listdir("/proc/self/fd")) == before
    assert sum(len(chunk.records) for chunk in replay.streams[0].chunks) == 0
    assert len(list(tmp_path.rglob("*.rows"))) == 75


def test_a_file_that_lost_its_end_is_said_to_be_damaged(tmp_path):
    replay = buffer(tmp_path)
    add_episode(replay, 8)
    (path,) = tmp_path.rglob("*.rows")
    os.truncate(path, 5 * replay.dtype.itemsize)
    assert draw(replay, 5, Beginning())[0]["state"][0, :, 0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ReplayError, match=r"00000000.rows ends before transition 8: .* damaged"):
        draw(replay, 8)


class Beginning(EpisodeSampler):
    def draw(self, replay, length, rng):
        return [Segment(0, 0, length)]


class TestNoRoom:
    """The disk is full, or away, while transitions arrive."""

    def test_transitions_wait_in_memory_and_are_written_once_there_is_room(self, tmp_path):
        replay, calm = buffer(tmp_path / "a"), buffer(tmp_path / "b")
        folder = tmp_path / "a" / "env00"
        for each in (replay, calm):
            add_episode(each, 10)
        folder.rename(tmp_path / "away")
        for each in (replay, calm):
            add_episode(each, 30)
        assert replay.unsealed == 4 * 8 * replay.dtype.itemsize
        assert calm.unsealed == 0
        (tmp_path / "away").rename(folder)
        np.testing.assert_array_equal(draw(replay, 7)[0]["state"], draw(calm, 7)[0]["state"])
        for each in (replay, calm):
            add_episode(each, 10)
        assert replay.unsealed == 0
        files = [sorted((tmp_path / name / "env00").iterdir()) for name in "ab"]
        assert [path.name for path in files[0]] == [path.name for path in files[1]]
        assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]

    def test_they_are_saved_and_restored_all_the_same(self, tmp_path):
        replay = buffer(tmp_path / "a")
        shutil.rmtree(tmp_path / "a" / "env00")
        add_episode(replay, 10)
        add_episode(replay, 30)
        replay.save(tmp_path / "saved")
        other = buffer(tmp_path / "b")
        other.restore(tmp_path / "saved")
        assert other.unsealed == 0
        assert (other.streams[0].count, other.episodes) == (40, 2)
        records = np.concatenate([chunk.all_records for chunk in other.streams[0].chunks])
        assert records["state"][:, 0].tolist() == list(range(40))

    def test_the_oldest_are_dropped_even_where_they_never_reached_the_disk(self, tmp_path):
        replay = buffer(tmp_path, capacity=16)
        shutil.rmtree(tmp_path / "env00")
        for _ in range(4):
            add_episode(replay, 10)
        assert replay.streams[0].first == 24
        assert draw(replay, 5)[0]["state"][..., 0].min() >= 30

    def test_there_is_an_end_to_waiting(self, tmp_path, monkeypatch):
        monkeypatch.setattr("agentzoo.replay.buffer.UNSEALED_BYTES", 2_000)
        replay = buffer(tmp_path)
        shutil.rmtree(tmp_path / "env00")
        with pytest.raises(ReplayError, match=r"cannot be written .* make room on the disk and go"):
            add_episode(replay, 200)


def test_other_settings_are_refused_at_restore(tmp_path):
    buffer(tmp_path / "a").save(tmp_path / "saved")
    with pytest.raises(ReplayError, match=r"holds 1 stream\(s\).*this run has 2"):
        buffer(tmp_path / "b", envs=2).restore(tmp_path / "saved")


def test_an_observation_with_a_column_of_replays_own_is_refused(tmp_path):
    with pytest.raises(SpaceError, match="'reward', which replay uses for itself"):
        ReplayBuffer(tmp_path, {"reward": OBS["state"]}, ACTION)


def test_ends_are_drawn_as_often_as_a_window_is_long(tmp_path):
    replay = buffer(tmp_path)
    add_episode(replay, 60)
    ends, plain = (
        draw(replay, 50, EpisodeSampler(prioritize_ends=x), batch=6000)[0]["state"][:, 0, 0]
        for x in (True, False)
    )
    # 11 starts fit; 50 further ones are moved to the last of them
    counts, uniform = (np.bincount(x.astype(int), minlength=11) for x in (ends, plain))
    assert len(counts) == len(uniform) == 11
    np.testing.assert_allclose(counts / 6000, [1 / 61] * 10 + [51 / 61], atol=0.015)
    np.testing.assert_allclose(uniform / 6000, [1 / 11] * 11, atol=0.015)


def test_short_episodes_are_joined_where_ends_are_prioritised_too(tmp_path):
    replay = buffer(tmp_path)
    for length in (4, 5):
        add_episode(replay, length)
    batch, drawn = draw(replay, 12, EpisodeSampler(prioritize_ends=True))
    assert all(sum(s.length for s in window) == 12 for window in drawn)
    assert batch["is_first"][:, 0].all()


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python and numpy held at once beyond what they held before."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_columns_are_written_chunk_by_chunk_as_they_always_were(tmp_path):
    wide = {"latent": ColumnSpec(shape=(64,), dtype="float16", mutable=True)}
    replay = ReplayBuffer(tmp_path / "live", OBS, ACTION, wide, capacity=80_000)
    for t in range(40 * 1024):
        replay.add(0, {
            "state": np.zeros(2, np.float32), "action": np.zeros(1, np.float32),
            "reward": np.float32(0), "is_first": t == 0, "is_last": False, "is_terminal": False,
            "latent": np.full(64, t % 1024, np.float16),
        })  # fmt: skip
    chunk = 1024 * 64 * 2  # a whole copy is 40 of them
    assert peak_bytes(lambda: replay.save(tmp_path / "saved")) < chunk
    written = (tmp_path / "saved" / "env00" / "latent.column").read_bytes()
    before = b"".join(chunk.mutable["latent"].tobytes() for chunk in replay.streams[0].chunks)
    assert written == before  # what earlier versions wrote at once, this one reads, and back
    other = ReplayBuffer(tmp_path / "other", OBS, ACTION, wide, capacity=80_000)
    held = 40 * chunk  # in the end, of columns that were written in one piece or not
    assert peak_bytes(lambda: other.restore(tmp_path / "saved")) < held + 20 * chunk
    for mine, theirs in zip(other.streams[0].chunks, replay.streams[0].chunks, strict=True):
        assert (mine.mutable["latent"] == theirs.mutable["latent"]).all()
    torn = tmp_path / "saved" / "env00" / "latent.column"
    torn.write_bytes(written[:-2])
    with pytest.raises(ReplayError, match=r"latent.column holds .* bytes, expected .*damaged"):
        ReplayBuffer(tmp_path / "third", OBS, ACTION, wide).restore(tmp_path / "saved")


def test_chunks_that_were_dropped_added_or_changed_are_noticed(tmp_path):
    """Sealed chunks are linked, not read, so their checksums are those of when they were sealed."""
    replay = buffer(tmp_path / "live")
    add_episode(replay, 30)
    replay.save(tmp_path / "saved")
    (first, *others) = sorted((tmp_path / "saved" / "env00").glob("0*.rows"))
    content = first.read_bytes()
    copy = tmp_path / "saved" / "env00" / "99999999.rows"

    def refused(match):
        with pytest.raises((ReplayError, BundleError), match=match):
            buffer(tmp_path / "again").restore(tmp_path / "saved")

    assert others
    first.unlink()
    refused("lacks or adds chunks")
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused("not what was written")
    first.write_bytes(content[:-1])
    refused("holds .* bytes, expected")
    first.write_bytes(content)
    copy.write_bytes(content)
    refused("lacks or adds chunks")
    copy.unlink()
    first.unlink()
    first.symlink_to(others[0])
    refused("is a link")


def test_tensors_are_written_one_by_one_as_safetensors(tmp_path):
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.tensor(3),
        "flag": torch.tensor([True]), "half": torch.ones(3, dtype=torch.bfloat16),
        "view": torch.arange(12.0).reshape(3, 4).T, "none": torch.empty(0, 2),
    }  # fmt: skip
    write_tensors(tmp_path / "small", tensors)
    assert (tmp_path / "small").read_bytes() == save_tensors(
        {name: tensor.contiguous() for name, tensor in tensors.items()}
    )
    found = read_tensors(tmp_path / "small")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    many = {f"w{i}": torch.zeros(2**18) for i in range(16)}
    assert peak_bytes(lambda: write_tensors(tmp_path / "large", many)) < 2**18


def test_room_for_checkpoints_is_counted(tmp_path):
    replay = buffer(tmp_path, capacity=800)
    free = shutil.disk_usage(tmp_path).free
    replay.require_space(10**6, checkpoints=3)
    said = r"GB for checkpoints, but .* GB are free; set replay_rows lower"
    with pytest.raises(ReplayError, match=said):
        replay.require_space(10**6, checkpoints=free)  # of columns that change in place
    with pytest.raises(ReplayError, match=said):
        replay.require_space(10**6, checkpoints=3, beside=2 * free)
