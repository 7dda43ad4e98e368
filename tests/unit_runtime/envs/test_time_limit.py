"""Length limits of episodes, as environments say them in their different ways."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from agentzoo.runtime.envs import Adapter
from tests.unit_runtime.envs.fake_envs import Countdown


def limit(env: Any, count: int | None = None, **settings: Any) -> int | None:
    adapter = Adapter.open(env, count, **settings)
    try:
        return adapter.time_limit
    finally:
        adapter.close()


@pytest.mark.parametrize(
    ("env", "steps"),
    [
        ("dmc:cartpole-swingup?obs=state", 1_000),
        ("dmc:cartpole-swingup?obs=state&repeat=8", 1_000),
        ("dmc:manipulator-bring_ball?obs=state", 1_000),
        ("atari:pong", 108_000),
        ("atari:pong?max_episode_steps=4000&repeat=4", 4_000),
        ("crafter:reward", 10_000),
        ("crafter:reward?max_episode_steps=70", 70),
        ("vizdoom:basic", 300),
        ("gym:CartPole-v1", 500),
        ("gym:Pendulum-v1?repeat=2", 200),
        ("gym:CartPole-v1?max_episode_steps=50", 50),
    ],
)
def test_suites_name_the_limit_in_environment_steps(env: str, steps: int) -> None:
    assert limit(env) == steps


def unlimited() -> gym.Env[Any, Any]:
    return Countdown(20)


def limited(steps: int = 7) -> gym.Env[Any, Any]:
    return TimeLimit(Countdown(20), steps)


class Counts(Countdown):
    """Counts by itself, and says how far."""

    max_episode_steps = 9


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (unlimited, None),
        (limited, 7),
        (partial(Counts, 9), 9),
        # the longest of what is said: an episode that is cut too early is worse than a late one
        (lambda: TimeLimit(Counts(9), 30), 30),
    ],
)
def test_an_environment_of_ones_own(make: Callable[[], gym.Env[Any, Any]], steps: int | None):
    assert limit(make()) == steps


def test_several_have_the_longest_unless_one_is_unknown() -> None:
    steps = iter([7, 12, 7, None])

    def make() -> gym.Env[Any, Any]:
        one = next(steps)
        return unlimited() if one is None else limited(one)

    assert limit(make, 2) == 12
    assert limit(make, 2) is None


@pytest.mark.parametrize(("env", "steps"), [("gym:CartPole-v1", 500), (unlimited, None)])
def test_processes_tell_theirs(env: Any, steps: int | None) -> None:
    assert limit(env, 2, parallel=True) == steps


def test_a_vector_environment_has_that_of_its_registered_ones() -> None:
    venv = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    assert limit(venv) == 500
    own = SyncVectorEnv([unlimited, unlimited], autoreset_mode=AutoresetMode.DISABLED)
    assert limit(own) is None
