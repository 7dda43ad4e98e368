"""Agents learn: far above random on a small task, within a step budget."""

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from agentzoo import Dreamer, DreamerV2, DreamerV3, PlaNet
from agentzoo.runtime.evaluation.rollout import evaluate_random
from tests.agents.fake_envs import Catch, Steer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A seed is one run on one thread; on several, sums may be rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("actions", ["box", "discrete"])
def test_dreamer_steers(tmp_path: Path, actions: str):
    env = Steer(actions=actions)
    agent = Dreamer(env, preset="cpu", device="cpu", seed=0, total_steps=3_000, prefill=800,
                    cont=False, standardize="none", state_std=0.1, batch_length=16,
                    imagine_starts=128, updates=40)  # fmt: skip
    agent.learn(run=tmp_path, progress=False)
    ours = agent.evaluate(env, episodes=20, seed=100)
    random = evaluate_random(env, episodes=20, seed=100)
    # a perfect policy loses only the way to the mark: about 38 of 40
    assert ours.interval[0] > random.interval[1] + 5
    assert ours.mean > 25


def test_dreamer_v2_catches_what_it_sees(tmp_path: Path):
    env = Catch()
    agent = DreamerV2(env, preset="cpu", device="cpu", seed=0, total_steps=2_400, prefill=800,
                      depth=4, batch_size=8, batch_length=16, imagine_starts=128,
                      updates=40)  # fmt: skip
    agent.learn(run=tmp_path, progress=False)
    ours = agent.evaluate(env, episodes=20, seed=100)
    random = evaluate_random(env, episodes=20, seed=100)
    # chance catches one ball in four and scores -2.5, a perfect policy 5
    assert ours.interval[0] > random.interval[1] + 1
    assert ours.mean > 1


def test_dreamer_v3_catches_what_it_sees(tmp_path: Path):
    env = Catch(rows=4)
    agent = DreamerV3(env, preset="cpu_pixels", device="cpu", seed=0, total_steps=1_600,
                      depth=2, batch_length=9, train_ratio=40, imag_last=8, horizon=6,
                      lr=3e-3, warmup=20, entropy=0.1)  # fmt: skip
    agent.learn(run=tmp_path, progress=False)
    ours = agent.evaluate(env, episodes=20, seed=100)
    random = evaluate_random(env, episodes=20, seed=100)
    # of ten balls who does not look catches one in four and scores -5, a perfect policy 10
    assert ours.interval[0] > random.interval[1] + 5
    assert ours.interval[0] > 0
    assert ours.mean > 5


def test_planet_steers_by_what_it_sees(tmp_path: Path):
    env = gym.wrappers.FilterObservation(Steer(image=True), ["image"])
    agent = PlaNet(env, preset="cpu_pixels", device="cpu", seed=0, total_steps=1_200, prefill=400,
                   updates=20, depth=4, batch_length=8, horizon=6, candidates=60, elites=8,
                   iterations=3)  # fmt: skip
    agent.learn(run=tmp_path, progress=False)
    ours = agent.evaluate(env, episodes=10, seed=100)
    random = evaluate_random(env, episodes=10, seed=100)
    assert ours.interval[0] > random.interval[1] + 5
    # a mark is 0.5 away from the middle on average: who does not see it scores 20 at the very most,
    # and a perfect policy about 38
    assert ours.interval[0] > 20
    assert ours.mean > 24
