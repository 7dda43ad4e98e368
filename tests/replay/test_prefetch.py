"""Batches read ahead are the batches that would have been read in turn."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from agentzoo.algorithm import Batch
from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.replay.prefetch import Batches
from agentzoo.replay.samplers import OnlineSampler, SequenceIndex
from agentzoo.runtime.errors import ReplayError
from agentzoo.runtime.policy.noise import derive_seed
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec
from agentzoo.train.callbacks import Callback
from agentzoo.train.loop import Training
from tests.agents.contract import CASES

OBS = {"image": ObsSpec(kind="image", shape=(4, 4, 3), source=(4, 4, 3))}
ACTION = ActionSpec(kind="box", size=1, shape=(1,), dtype="float32", low=(-1.0,), high=(1.0,))
LATENT = {"deter": ColumnSpec(shape=(2,), dtype="float16", mutable=True)}
B, T, SEED, STEPS = 3, 5, 7, 60


def filled(folder: Path) -> ReplayBuffer:
    """Two streams, part of each sealed; fresh windows for the first few batches."""
    replay = ReplayBuffer(folder, OBS, ACTION, LATENT, envs=2, capacity=800, chunk_size=8)
    rng = np.random.default_rng(0)
    for n in range(STEPS):
        for env in range(2):
            replay.add(env, {
                "image": rng.integers(0, 256, (4, 4, 3), np.uint8),
                "action": rng.normal(size=1).astype(np.float32), "reward": np.float32(n),
                "is_first": n % 7 == 0, "is_last": n % 7 == 6, "is_terminal": False,
                "deter": np.full(2, n, np.float16),
            })  # fmt: skip
    return replay


def batches(replay: ReplayBuffer) -> Batches:
    return Batches(replay, OnlineSampler(), B, T, SEED, torch.device("cpu"))


def in_turn(replay: ReplayBuffer, update: int) -> tuple[Batch, list[SequenceIndex]]:
    rng = np.random.default_rng(derive_seed(SEED, "replay", update))
    return replay.sample(OnlineSampler(), B, T, rng)


def assert_equal(
    found: tuple[Batch, list[SequenceIndex]], expected: tuple[Batch, list[SequenceIndex]]
) -> None:
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    for name, column in expected[0].items():
        assert torch.equal(found[0][name], column), name


def test_ahead_and_in_turn_are_the_same_with_latents_written_in_between(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "one"), filled(tmp_path / "other")
    with batches(one) as ahead:
        for update in range(20):
            found, expected = ahead.take(update, more=update < 19), in_turn(other, update)
            assert_equal(found, expected)
            # windows overlap after the fresh ones: the next batch has to see these
            latents = {"deter": np.full((B, T, 2), 100 + update, np.float16)}
            one.write_back(found[1], latents)
            other.write_back(expected[1], latents)
    assert one.handed_out == other.handed_out


def test_a_dropped_batch_was_never_drawn(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "one"), filled(tmp_path / "other")
    with batches(one) as ahead:
        assert_equal(ahead.take(0, more=True), in_turn(other, 0))
        assert one.handed_out != other.handed_out
        ahead.drop()
        assert one.handed_out == other.handed_out
        assert_equal(ahead.take(1), in_turn(other, 1))
        ahead.drop()  # nothing to drop
        assert one.handed_out == other.handed_out


def test_a_damaged_file_is_an_error_where_its_batch_is_used(tmp_path: Path) -> None:
    replay = filled(tmp_path)
    with batches(replay) as ahead:
        for path in tmp_path.glob("env*/*.rows"):
            path.write_bytes(b"")
        with pytest.raises(ReplayError, match=r"ends before transition \d+: the file is damaged"):
            ahead.take(0)


def test_the_thread_ends_with_its_batches(tmp_path: Path) -> None:
    with batches(filled(tmp_path)) as ahead:
        ahead.take(0, more=True)
        assert [t.name for t in threading.enumerate() if t.name.startswith("replay")]
    assert not [t.name for t in threading.enumerate() if t.name.startswith("replay")]


class StopInside(Callback):
    """Stops the run in the middle of a burst."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_start(self, training: Training) -> None:
        self.training = training

    def on_update(self, training: Training, metrics: object) -> None:
        training.stop = training.counters.updates == self.update


def test_a_run_stopped_inside_a_burst_keeps_no_batch_that_was_begun(tmp_path: Path) -> None:
    stop = StopInside(3)  # of 2 at first, and 2 a burst
    agent = CASES["TruncatedActor"].make()
    agent.learn(1_200, run=tmp_path, callbacks=[stop], progress=False)
    counters = stop.training.counters
    after_prefill = counters.episodes - counters.prefill_episodes
    assert counters.updates == 3 < stop.training.schedule.due(counters.env_step, after_prefill)
    assert counters.interrupted
    assert not [t.name for t in threading.enumerate() if t.name.startswith("replay")]
