"""Vector environments: the same episodes as one environment plays, in every autoreset mode."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from agentzoo.runtime.errors import ConfigError, EpisodeError, SpaceError
from agentzoo.runtime.evaluation.rollout import evaluate
from tests.unit_runtime.toys import Toy, seeded, torch_policy

OBSERVATION, ACTION = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-2, 2, (1,))
PARTS = spaces.Dict({"a": spaces.Box(-9, 9, (2,)), "b": spaces.Discrete(4)})
MODES = list(AutoresetMode)


class Seeded(gym.Env):
    """Episodes of 3 to 5 decisions; everything in them depends on the seed."""

    observation_space, action_space = OBSERVATION, ACTION

    def __init__(self, diary=None, bad=False):
        self.diary, self.bad = diary, bad

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.diary is not None:
            self.diary.append(seed)
        self.left = 3 + (seed or 0) % 3
        return self.observation(), {}

    def observation(self):
        return self.np_random.standard_normal(3)

    def step(self, action):
        self.left -= 1
        reward = np.nan if self.bad else float(action[0]) + self.left
        return self.observation(), reward, self.left == 0, False, {}


class Parts(Seeded):
    """Observations are a dictionary, actions an index."""

    observation_space, action_space = PARTS, spaces.Discrete(3)

    def observation(self):
        return {"a": self.np_random.standard_normal(2), "b": int(self.np_random.integers(4))}

    def step(self, action):
        return super().step([action])


def policy(env=Seeded):
    toy = seeded(Toy, env.observation_space, env.action_space)
    return torch_policy(toy, deterministic=False)


def vector(mode, count=3, env=Seeded, **options):
    return SyncVectorEnv([lambda: env(**options)] * count, autoreset_mode=mode)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("env", [Seeded, Parts])
def test_episodes_are_those_of_one_environment(mode, env):
    alone = evaluate(policy(env), env(), episodes=8, seed=10)
    found = evaluate(policy(env), vector(mode, env=env), episodes=8, seed=10)
    assert found.returns == pytest.approx(alone.returns, abs=1e-5)
    assert (found.lengths, found.seeds) == (alone.lengths, alone.seeds)


def test_processes_give_the_same():
    envs = AsyncVectorEnv([Seeded] * 2, autoreset_mode=AutoresetMode.DISABLED)
    try:
        found = evaluate(policy(), envs, episodes=5, seed=10)
    finally:
        envs.close()
    assert found.returns == pytest.approx(evaluate(policy(), Seeded(), episodes=5, seed=10).returns)


def test_the_split_is_fixed_before_anything_is_played():
    diaries = [[], [], []]
    makes = [lambda diary=diary: Seeded(diary) for diary in diaries]
    envs = SyncVectorEnv(makes, autoreset_mode=AutoresetMode.DISABLED)
    evaluate(policy(), envs, episodes=8, seed=10)
    played = [[seed for seed in diary if seed] for diary in diaries]  # 0: nothing left to play
    assert played == [[10, 13, 16], [11, 14, 17], [12, 15]]


def test_fewer_episodes_than_environments():
    found = evaluate(policy(), vector(AutoresetMode.NEXT_STEP, count=5), episodes=2, seed=10)
    assert found.seeds == (10, 11)
    assert found.returns == pytest.approx(evaluate(policy(), Seeded(), episodes=2, seed=10).returns)


def test_what_cannot_be_evaluated_is_said(tmp_path):
    envs = vector(AutoresetMode.DISABLED)
    with pytest.raises(ConfigError, match="is not filmed"):
        evaluate(policy(), envs, video=tmp_path / "film.mp4")
    with pytest.raises(SpaceError, match="run it in the environment it was trained in"):
        evaluate(policy(Parts), envs)
    with pytest.raises(EpisodeError, match="gave the reward nan at decision 1"):
        evaluate(policy(), vector(AutoresetMode.DISABLED, bad=True), episodes=1)
