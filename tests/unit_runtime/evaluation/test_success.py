"""Success rates: whose word counts, over episodes, in files and tables."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agentzoo.runtime import comparison_table
from agentzoo.runtime.envs import Adapter, Repeat
from agentzoo.runtime.envs.success import SPELLINGS, Success, successes
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.evaluation.rollout import Evaluation, evaluate_random, wilson
from agentzoo.train.collector import Episode
from agentzoo.train.loop import reached


class Goals(gym.Env):
    """Three steps an episode, whose infos are given; episode k plays the k-th list."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, *infos):
        self.infos, self.episode = infos, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        info = self.infos[self.episode % len(self.infos)][self.t]
        self.t += 1
        return np.zeros(1, np.float32), 1.0, False, self.t == 3, info


def told(*infos):
    success = Success()
    for info in infos:
        success.take(info)
    return success.reached


def test_is_success_counts_at_the_end_of_an_episode():
    assert told({"is_success": True}, {"is_success": False}) is False
    assert told({"is_success": 0.0}, {"is_success": np.array([1.0])}) is True
    assert told({"is_success": True}, {}) is True  # the last word there is


@pytest.mark.parametrize("name", ["success", "solved", "goal_achieved"])
def test_the_others_count_once_reached(name):
    assert told({name: False}, {name: 1.0}, {name: 0.0}) is True
    assert told({name: False}, {}) is False
    assert name in SPELLINGS


def test_repeated_actions_lose_no_success_on_the_way():
    once = Goals([{"success": 0.0}, {"solved": True}, {"success": 0.0}])
    assert evaluate_random(Repeat(once, 3), episodes=1).successes == (True,)
    left = Goals([{}, {"is_success": True}, {"is_success": False}])  # its last word counts
    assert evaluate_random(Repeat(left, 3), episodes=1).successes == (False,)


def test_what_is_no_flag_is_no_word():
    assert told({}, {"success": "yes"}, {"is_success": [1, 0]}, {"solved": None}) is None
    assert successes([Success(), Success()]) == ()


def test_an_evaluation_has_a_rate_an_interval_and_a_file():
    goals = [[{}, {}, {"is_success": k < 3}] for k in range(4)]
    found = evaluate_random(Goals(*goals), episodes=4)
    assert found.successes == (True, True, True, False)
    assert found.success_rate == 0.75
    assert found.success_interval == wilson(3, 4)
    written = json.loads(json.dumps(found.to_json()))
    assert written["success_rate"] == 0.75
    assert Evaluation.from_json(dict(written)) == found
    written["successes"] = [True]
    with pytest.raises(BundleError, match="lists 1 successes of 4 episodes"):
        Evaluation.from_json(written)
    row = comparison_table({"a": found}).splitlines()[2]
    assert row.endswith("| 0.75 (0.30 to 0.95) |")


def test_without_a_word_nothing_is_said():
    found = evaluate_random(Goals([{}] * 3), episodes=2)
    assert found.success_rate is None
    assert found.success_interval is None
    assert "successes" not in found.to_json()
    assert "success" not in comparison_table({"a": found})


def test_wilsons_interval_is_the_published_one():
    # Agresti and Coull 1998, section 1: 0 of 10 and 1 of 10 (with z = 1.96)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-4)
    assert wilson(1, 10) == pytest.approx((0.0179, 0.4042), abs=5e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-4)


@pytest.mark.parametrize("parallel", [False, True], ids=["here", "processes"])
def test_training_episodes_are_followed_too(parallel):
    infos = ([{"success": True}, {}, {}], [{"achievements": {"eat": 2, "sleep": 0}}] * 3)
    adapter = Adapter.open(lambda: Goals(*infos), 1, parallel=parallel)
    try:
        adapter.reset([0], [0])
        for _ in range(3):
            adapter.step([0], [0])
        assert adapter.success(0) is True
        adapter.reset([0], [1])
        assert adapter.success(0) is None
        adapter.step([0], [0])
        assert adapter.unlocked(0) == {"eat": True, "sleep": False}
    finally:
        adapter.close()


def test_lines_hold_shares_and_per_cents():
    episodes = [
        Episode(0, 1.0, 4, 3, True, {"eat": True, "sleep": False}),
        Episode(0, 1.0, 4, 3, None, {"eat": True, "sleep": True}),
    ]
    assert reached(episodes) == {
        "rollout/success_rate": 0.5,
        "rollout/success/eat": 100.0,
        "rollout/success/sleep": 50.0,
    }
    assert reached([Episode(0, 1.0, 4, 3)]) == {}
