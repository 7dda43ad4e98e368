"""Standardised vectors in real runs: what is measured, what is saved, what old runs keep."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from agentzoo import Dreamer, DreamerV2, PlaNet
from agentzoo.agent import Agent
from agentzoo.train.callbacks import Callback
from agentzoo.train.loop import Training

PENDULUM = "gym:Pendulum-v1"
AGENTS = [Dreamer, DreamerV2, PlaNet]


class Observations(Callback):
    """The observations so far, at the first update and at the end."""

    def __init__(self) -> None:
        self.at_first_update: torch.Tensor | None = None
        self.at_end = torch.empty(0)

    def on_update(self, training: Training, metrics: object) -> None:
        if self.at_first_update is None:
            self.at_first_update = stored(training)

    def on_end(self, training: Training) -> None:
        self.at_end = stored(training)


def stored(training: Training) -> torch.Tensor:
    """Every observation in replay, in float64."""
    (stream,), (key,) = training.replay.streams, training.learner.policy.spec.obs
    parts = [chunk.all_records[key] for chunk in stream.chunks]
    return torch.cat([torch.from_numpy(part.copy()) for part in parts])[: stream.length].double()


def learn(kind: type[Agent], run: Path, form: str) -> tuple[Agent, Observations]:
    agent = kind(PENDULUM, preset="debug", device="cpu", seed=1, standardize=form)
    seen = Observations()
    agent.learn(800, run=run, callbacks=[seen], progress=False)
    return agent, seen


def weights(agent: Agent) -> dict[str, torch.Tensor]:
    assert isinstance(agent.algorithm, torch.nn.Module)
    return agent.algorithm.state_dict()


@pytest.mark.parametrize("kind", AGENTS)
def test_the_statistics_are_of_the_prefill(kind: type[Agent], tmp_path: Path) -> None:
    agent, seen = learn(kind, tmp_path / "run", "prefill")
    assert seen.at_first_update is not None
    assert len(seen.at_end) > len(seen.at_first_update)
    assert_statistics(agent, seen.at_first_update)


def test_running_statistics_are_of_every_observation(tmp_path: Path) -> None:
    agent, seen = learn(Dreamer, tmp_path / "run", "running")
    assert_statistics(agent, seen.at_end)


def assert_statistics(agent: Agent, seen: torch.Tensor) -> None:
    saved = weights(agent)
    assert saved["encoder.standardizer.count"] == len(seen)
    assert_close(saved["encoder.standardizer.mean"].double(), seen.mean(0), rtol=1e-4, atol=1e-5)
    deviation = 1 / saved["encoder.standardizer.scale"].double()
    assert_close(deviation, seen.std(0, unbiased=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", AGENTS)
def test_without_it_the_weights_are_those_of_earlier_versions(kind: type[Agent]) -> None:
    plain = kind(PENDULUM, preset="debug", device="cpu", seed=1, standardize="none")
    scaled = kind(PENDULUM, preset="debug", device="cpu", seed=1)
    assert not any("standardizer" in name for name in weights(plain))
    more = {name for name in weights(scaled) if "standardizer" in name}
    assert set(weights(scaled)) == set(weights(plain)) | more
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(scaled)[name]), name


@pytest.mark.parametrize("form", ["prefill", "running"])
def test_another_task_goes_on_from_the_statistics(form: str, tmp_path: Path) -> None:
    learn(Dreamer, tmp_path / "first", form)
    agent = Dreamer.load(tmp_path / "first", device="cpu")
    mean, count = (weights(agent)[f"encoder.standardizer.{n}"].clone() for n in ("mean", "count"))
    slower = "gym:Pendulum-v1?max_episode_steps=100"
    agent.learn(300, slower, run=tmp_path / "second", progress=False)
    now = weights(agent)
    if form == "prefill":
        assert torch.equal(now["encoder.standardizer.mean"], mean)
        assert torch.equal(now["encoder.standardizer.count"], count)
    else:
        assert now["encoder.standardizer.count"] == count + 303  # three episodes and their starts
