"""Transitions from Gymnasium's five-tuples: exact patterns, seeds, errors."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agentzoo.runtime.envs import Adapter, Repeat, episode_seed
from agentzoo.runtime.errors import (
    ConfigError,
    EpisodeError,
    ObservationError,
    SpaceError,
    WorkerError,
)
from agentzoo.runtime.evaluation.rollout import evaluate_random


class Countdown(gym.Env[np.ndarray, int]):
    """Counts its steps and ends after `length` of them; the observation is (seed, step)."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 3, *, terminates: bool = True, reward: Any = None) -> None:
        self.length, self.terminates, self.reward = length, terminates, reward
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.seed, self.count = seed, 0
        return np.array([seed, 0.0]), {}

    def step(self, action: int) -> tuple:
        assert self.action_space.contains(action)
        self.count += 1
        over = self.count == self.length
        reward = 10.0 * self.count + action if self.reward is None else self.reward
        return np.array([self.seed, self.count]), reward, over and self.terminates, over, {}

    def close(self) -> None:
        self.closed = True


def episode(adapter: Adapter, steps: int, index: int = 0) -> dict[str, list]:
    found = [adapter.reset([index], [7])]
    found += [adapter.step([index], [t % 2]) for t in range(steps)]
    return {key: [one[key][0].tolist() for one in found] for key in found[0]}


@pytest.mark.parametrize("terminates", [True, False])
def test_flags_and_rewards_of_one_episode(terminates: bool) -> None:
    transitions = episode(Adapter([Countdown(3, terminates=terminates)]), 3)
    assert transitions == {
        "observation": [[7, 0], [7, 1], [7, 2], [7, 3]],
        "is_first": [True, False, False, False],
        "is_last": [False, False, False, True],
        "is_terminal": [False, False, False, terminates],
        "reward": [0, 10, 21, 30],
    }


def test_an_episode_of_one_step() -> None:
    transitions = episode(Adapter([Countdown(1)]), 1)
    assert transitions["is_first"] == [True, False]
    assert transitions["is_last"] == transitions["is_terminal"] == [False, True]
    assert transitions["reward"] == [0, 10]


def test_dtypes_and_leading_axis() -> None:
    adapter = Adapter([Countdown(), Countdown(), Countdown()])
    transitions = adapter.reset([2, 0], [5, 6])
    assert {key: (array.shape, array.dtype.name) for key, array in transitions.items()} == {
        "observation": ((2, 2), "float32"),
        "is_first": ((2,), "bool"),
        "is_last": ((2,), "bool"),
        "is_terminal": ((2,), "bool"),
        "reward": ((2,), "float32"),
    }
    assert transitions["observation"][:, 0].tolist() == [5, 6]
    assert len(adapter) == 3


def test_environments_end_and_restart_on_their_own() -> None:
    adapter = Adapter([Countdown(2), Countdown(3)])
    adapter.reset([0, 1], [1, 2])
    adapter.step([0, 1], [0, 0])
    assert adapter.step([0, 1], [0, 0])["is_last"].tolist() == [True, False]
    assert adapter.reset([0], [9])["observation"].tolist() == [[9, 0]]
    transitions = adapter.step([1, 0], [1, 0])
    assert transitions["observation"].tolist() == [[2, 3], [9, 1]]
    assert transitions["is_last"].tolist() == [True, False]


def test_transitions_do_not_alias_what_the_environment_reuses() -> None:
    class Reusing(Countdown):
        buffer = np.zeros(2, np.float32)

        def step(self, action: int) -> tuple:
            self.buffer[:] = self.count
            return self.buffer, *super().step(action)[1:]

    adapter = Adapter([Reusing()])
    adapter.reset([0], [0])
    first = adapter.step([0], [0])
    adapter.step([0], [0])
    assert first["observation"].tolist() == [[0, 0]]


@pytest.mark.parametrize("steps", [0, 3])
def test_a_step_outside_an_episode_is_our_own_mistake(steps: int) -> None:
    adapter = Adapter([Countdown(3)])
    if steps:
        episode(adapter, steps)
    with pytest.raises(AssertionError, match="environment 0 has no open episode"):
        adapter.step([0], [0])


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e39, -1e39, None, np.zeros(2), "much"])
def test_a_reward_must_be_one_finite_number(reward: object) -> None:
    if reward is None:

        class Bad(Countdown):
            def step(self, action: int) -> tuple:
                observation, _, *rest = super().step(action)
                return observation, None, *rest

        envs = [Countdown(), Bad()]
    else:
        envs = [Countdown(), Countdown(reward=reward)]
    adapter = Adapter(envs)
    adapter.reset([0, 1], [0, 1])
    with pytest.raises(EpisodeError, match="reward of environment 1 at step 1 of its episode is"):
        adapter.step([0, 1], [0, 0])


def test_a_reward_may_be_an_array_of_one() -> None:
    assert episode(Adapter([Countdown(1, reward=np.ones(1))]), 1)["reward"] == [0, 1]


def test_a_bad_observation_names_environment_and_step() -> None:
    class Bad(Countdown):
        def step(self, action: int) -> tuple:
            observation, *rest = super().step(action)
            return np.where(self.count == 2, np.nan, observation), *rest

    adapter = Adapter([Countdown(), Bad()])
    adapter.reset([1], [0])
    adapter.step([1], [0])
    with pytest.raises(ObservationError, match=r"environment 1 at step 2 of its episode: .* NaN"):
        adapter.step([1], [0])


def test_an_action_must_be_finite() -> None:
    class Continuous(Countdown):
        action_space = spaces.Box(-1, 1, (2,), np.float32)

    adapter = Adapter([Continuous(), Continuous()])
    adapter.reset([0, 1], [0, 1])
    with pytest.raises(EpisodeError, match=r"action for environment 1 at step 0 .*diverged"):
        adapter.step([0, 1], [[0, 0], [0, np.nan]])


def test_repeat_sums_rewards_and_stops_at_the_end() -> None:
    transitions = episode(Adapter([Repeat(Countdown(5), 2)]), 3)
    assert transitions["observation"] == [[7, 0], [7, 2], [7, 4], [7, 5]]
    assert transitions["reward"] == [0, 30, 72, 50]
    assert transitions["is_last"] == [False, False, False, True]


def test_open_makes_environments_from_strings_objects_and_functions() -> None:
    named = Adapter.open("gym:CartPole-v1", 2, defaults={"repeat": 3, "render": "fast"})
    assert (named.name, named.repeat, len(named)) == ("gym:CartPole-v1?repeat=3", 3, 2)
    own = Adapter.open(Countdown())
    assert (own.name, own.repeat, len(own)) == ("", 1, 1)
    assert len(Adapter.open(Countdown, 4)) == 4
    named.close()


@pytest.mark.parametrize(
    ("env", "count", "match"),
    [
        (Countdown, 0, "0 environments were asked for"),
        (Countdown(), 2, "one environment object cannot be 2 environments; pass a function"),
        (lambda: 3, 1, "the function made a int as environment, expected a gymnasium.Env"),
    ],
)
def test_open_refuses(env: Any, count: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Adapter.open(env, count)


def test_environments_must_share_their_spaces() -> None:
    class Wider(Countdown):
        action_space = spaces.Discrete(3)

    with pytest.raises(ConfigError, match="environment 1 has other spaces than environment 0"):
        Adapter([Countdown(), Wider()])
    with pytest.raises(ConfigError, match="no environments"):
        Adapter([])


def test_unreadable_spaces_are_found_at_the_start() -> None:
    class Odd(Countdown):
        observation_space = spaces.Text(3)

    with pytest.raises(SpaceError, match="Text"):
        Adapter([Odd()])


def test_close_closes_all() -> None:
    envs = [Countdown(), Countdown()]
    Adapter(envs).close()
    assert [env.closed for env in envs] == [True, True]


def test_render_gives_the_picture_or_says_what_is_missing() -> None:
    class Drawing(Countdown):
        def render(self) -> np.ndarray | None:
            return np.full((4, 4, 3), 9, np.uint8) if self.terminates else None

    adapter = Adapter([Drawing(), Drawing(terminates=False)])
    assert adapter.render(0).sum() == 9 * 48
    with pytest.raises(EpisodeError, match=r'environment 1 drew NoneType.*render_mode="rgb_array"'):
        adapter.render(1)


def test_episode_seeds_are_31_bits_and_differ() -> None:
    seeds = {episode_seed(run, env, ep) for run in range(5) for env in range(5) for ep in range(40)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(0, 1, 2) == episode_seed(0, 1, 2)


def test_the_same_seed_gives_the_same_transitions() -> None:
    def rollout() -> np.ndarray:
        adapter = Adapter.open("gym:CartPole-v1", 2)
        adapter.reset([0, 1], [3, 4])
        found = [adapter.step([0, 1], [t % 2, 0])["observation"] for t in range(5)]
        adapter.close()
        return np.stack(found)

    np.testing.assert_array_equal(rollout(), rollout())


class Ported(Countdown):
    """Written for old gym, and only half carried over."""

    def __init__(self, step: Any = None, reset: Any = None) -> None:
        super().__init__(20)
        self.given_step, self.given_reset = step, reset

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        whole = super().reset(seed=seed)
        return whole if self.given_reset is None else self.given_reset

    def step(self, action: int) -> Any:
        whole = super().step(action)
        return whole if self.given_step is None else self.given_step


class Unseeded(Countdown):
    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset(seed=0)


OBS = np.zeros(2)
BAD_STEPS = [
    pytest.param((OBS, 1.0, False, {"lives": 3}), r"Ported gave 4 values, expected.*five", id="4"),
    pytest.param((OBS, 1.0, False, {}), r"gave 4 values, .*truncated where a time limit", id="{}"),
    pytest.param(OBS, r"gave one ndarray, expected Gymnasium's five", id="observation"),
    pytest.param((OBS, 1.0, False, {"a": 1}, {}), r"gave a dict as truncated", id="dict"),
    pytest.param((OBS, 1.0, None, False, {}), r"gave a NoneType as terminated", id="none"),
    pytest.param((OBS, 1.0, 0.5, False, {}), r"gave a float as terminated", id="half"),
]


class TestOldGym:
    @pytest.mark.parametrize(("given", "said"), BAD_STEPS)
    def test_a_step_of_other_than_five_values_is_refused(self, given: Any, said: str) -> None:
        adapter = Adapter([Ported(given)])
        adapter.reset([0], [1])
        with pytest.raises(EpisodeError, match=said):
            adapter.step([0], [0])
        with pytest.raises(EpisodeError, match=said):
            evaluate_random(Ported(given), episodes=1)
        repeated = Repeat(Ported(given), 2)
        repeated.reset(seed=1)
        with pytest.raises(EpisodeError, match=said):
            repeated.step(0)

    def test_a_wrapper_that_takes_the_step_apart_first(self) -> None:
        adapter = Adapter([gym.wrappers.TimeLimit(Ported(BAD_STEPS[0].values[0]), 9)])
        adapter.reset([0], [1])
        with pytest.raises(EpisodeError, match=r"Ported gave another number of values, expected"):
            adapter.step([0], [0])

    def test_flags_of_numpy_and_of_numbers_are_taken(self) -> None:
        adapter = Adapter([Ported((OBS, 1.0, np.bool_(False), np.array([1]), {}))])
        adapter.reset([0], [1])
        found = adapter.step([0], [0])
        assert (found["is_last"].tolist(), found["is_terminal"].tolist()) == ([True], [False])

    def test_a_reset_without_a_seed_or_an_info(self) -> None:
        with pytest.raises(EpisodeError, match=r"Unseeded takes no seed .*options=None\)"):
            Adapter([Unseeded()]).reset([0], [1])
        with pytest.raises(EpisodeError, match=r"gave one ndarray, .*pair \(observation, info\)"):
            Adapter([Ported(reset=OBS)]).reset([0], [1])
        with pytest.raises(EpisodeError, match=r"gave one int, .*pair"):
            evaluate_random(Ported(reset=0), episodes=1)

    def test_in_a_process(self) -> None:
        adapter = Adapter.open(partial(Ported, BAD_STEPS[0].values[0]), parallel=True)
        adapter.reset([0], [1])
        with pytest.raises(WorkerError, match=r"EpisodeError: the step of .* gave 4 values"):
            adapter.step([0], [0])
        with pytest.raises(WorkerError, match=r"EpisodeError: the reset of .* takes no seed"):
            Adapter.open(Unseeded, parallel=True).reset([0], [1])

    @pytest.mark.parametrize("reward", ["1", None, [1.0, 2.0], float("inf")])
    def test_a_reward_that_is_no_number_is_named_in_evaluation(self, reward: Any) -> None:
        step = (OBS, reward, False, False, {})
        with pytest.raises(EpisodeError, match=r"gave the reward .* at decision 1 .*one finite"):
            evaluate_random(Ported(step), episodes=1)
