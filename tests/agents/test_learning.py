"""Agents learn: far above random on a small task, within a step budget."""

from pathlib import Path

import pytest

from agentzoo import Dreamer, DreamerV2
from runtime.evaluation import evaluate_random
from tests.agents.worlds import Catch, Steer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("actions", ["box", "discrete"])
def test_dreamer_steers(tmp_path: Path, actions: str):
    env = Steer(actions=actions)
    agent = Dreamer(env, preset="cpu", device="cpu", seed=0, total_steps=3_000, prefill=800,
                    cont=False, state_std=0.1, batch_length=16, imagine_starts=128,
                    updates=40)  # fmt: skip
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
