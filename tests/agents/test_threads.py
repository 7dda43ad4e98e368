"""Threads that learn beside environments in processes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from agentzoo.callbacks import Callback
from agentzoo.threads import threads_beside
from agentzoo.training import Training
from tests.agents.contract import CARTPOLE
from tests.agents.toys import TOYS


@pytest.fixture(autouse=True)
def several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not chosen: as many threads as cores, 16."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    torch.set_num_threads(16)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "environments", "threads"),
    [(16, 0, 16), (16, 1, 15), (16, 4, 12), (16, 64, 8), (2, 1, 1), (2, 9, 1), (1, 2, 1)],
)
def test_each_environment_has_a_core_and_half_of_them_learn(
    monkeypatch: pytest.MonkeyPatch, cores: int, environments: int, threads: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    with threads_beside(environments) as own:
        assert torch.get_num_threads() == own == threads
    assert torch.get_num_threads() == 16


def test_whoever_has_chosen_keeps_their_number(monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(3)
    with threads_beside(4) as own:
        assert own == 3
    torch.set_num_threads(16)
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    with threads_beside(4) as own:
        assert own == 16


class Count(Callback):
    """Sees how many threads learn."""

    def on_step(self, training: Training) -> None:
        self.threads = torch.get_num_threads()


@pytest.mark.parametrize(
    ("fields", "threads"),
    [({}, 16), ({"envs": 2, "parallel": False}, 14), ({"overlap": True, "parallel": False}, 15)],
)
def test_learning_leaves_cores_and_gives_them_back(
    tmp_path: Path, fields: dict[str, object], threads: int
):
    agent = TOYS["LatentStore"](CARTPOLE, preset="debug", device="cpu", prefill=100, **fields)
    seen = Count()
    agent.learn(20, run=tmp_path, callbacks=[seen], progress=False)
    assert seen.threads == threads
    assert torch.get_num_threads() == 16
