"""The user's vector environments: exact transitions in all three autoreset modes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from agentzoo.runtime.envs import Adapter
from agentzoo.runtime.errors import ConfigError, EpisodeError, SpaceError
from agentzoo.runtime.evaluation.rollout import evaluate, random_policy
from tests.unit_runtime.envs.fake_envs import Countdown, Named

NEXT_STEP, SAME_STEP, DISABLED = (
    AutoresetMode.NEXT_STEP,
    AutoresetMode.SAME_STEP,
    AutoresetMode.DISABLED,
)
MODES = [NEXT_STEP, SAME_STEP, DISABLED]


def two(mode: AutoresetMode, *, kind: type = SyncVectorEnv, env: type = Countdown) -> VectorEnv:
    """Episodes of two steps that terminate, and of three that are truncated."""
    makers = [partial(env, 2), partial(env, 3, terminates=False)]
    return kind(makers, autoreset_mode=mode)


def play(adapter: Adapter, rounds: int, held: Sequence[int] = ()) -> list[list[list]]:
    """Transitions of each environment as [seed, step, flags, reward], with actions of 1.

    Episode k of environment i is asked to begin with seed 100 i + 10 k. In the rounds of `held`
    no episode begins.
    """
    streams: list[list[list]] = [[] for _ in range(len(adapter))]
    begun, inside = [0] * len(adapter), []

    def keep(envs: Sequence[int], transitions: dict[str, np.ndarray]) -> list[int]:
        for k, env in enumerate(envs):
            flags = "".join(
                letter for letter, name in zip("flt", ("is_first", "is_last", "is_terminal"),
                                               strict=True) if transitions[name][k]
            )  # fmt: skip
            obs = next(iter(transitions.values()))[k]
            streams[env].append([*map(int, obs), flags, float(transitions["reward"][k])])
        return [env for k, env in enumerate(envs) if not transitions["is_last"][k]]

    for t in range(rounds):
        outside = [] if t in held else [i for i in range(len(adapter)) if i not in inside]
        seeds = [100 * i + 10 * begun[i] for i in outside]
        for i in outside:
            begun[i] += 1
        if adapter.sync_reset and outside:
            inside = sorted(inside + keep(outside, adapter.reset(outside, seeds)))
            outside, seeds = [], []
        if inside or outside:
            adapter.send(inside, np.ones(len(inside), int), outside, seeds)
            inside = keep(*adapter.receive())
    return streams


def episode(seed: int, length: int, end: str) -> list[list]:
    middle = [[seed, t, "", 10.0 * t + 1] for t in range(1, length)]
    return [[seed, 0, "f", 0.0], *middle, [seed, length, end, 10.0 * length + 1]]


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("env", [Countdown, Named])
def test_disabled_begins_every_episode_with_its_own_seed(kind: type, env: type) -> None:
    venv = two(DISABLED, kind=kind, env=env)
    first, second = play(Adapter.open(venv), 6)
    assert first == [*episode(0, 2, "lt"), *episode(10, 2, "lt"), *episode(20, 2, "lt")]
    assert second == [*episode(100, 3, "l"), *episode(110, 3, "l")]
    venv.close()


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("env", [Countdown, Named])
def test_same_step_keeps_the_final_observation_and_the_next_first_one(
    kind: type, env: type
) -> None:
    venv = two(SAME_STEP, kind=kind, env=env)
    first, second = play(Adapter.open(venv), 6)
    # it seeds its own episodes (here the last seed plus one), but not after both ended together
    assert first == [*episode(0, 2, "lt"), *episode(1, 2, "lt"), *episode(2, 2, "lt")]
    assert second == [*episode(100, 3, "l"), *episode(101, 3, "l")]
    assert play(Adapter.open(venv), 1)[0] == episode(0, 2, "lt")[:2]
    venv.close()


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("env", [Countdown, Named])
def test_next_step_takes_the_reset_for_a_first_transition_and_drops_no_action(
    kind: type, env: type
) -> None:
    venv = two(NEXT_STEP, kind=kind, env=env)
    first, second = play(Adapter.open(venv), 9)
    assert first == [*episode(0, 2, "lt"), *episode(1, 2, "lt"), *episode(2, 2, "lt")]
    assert second == [*episode(100, 3, "l"), *episode(101, 3, "l"), [102, 0, "f", 0.0]]
    venv.close()


def test_transitions_of_next_step_come_when_ours_do() -> None:
    ours = Adapter([Countdown(2), Countdown(3, terminates=False)])
    theirs = Adapter.open(two(NEXT_STEP))
    for streams in zip(play(ours, 12), play(theirs, 12), strict=True):
        mine, other = ([one[1:] for one in stream] for stream in streams)  # but for the seeds
        assert mine == other


@pytest.mark.parametrize("mode", MODES)
def test_environments_that_are_held_back_leave_no_transition_and_begin_with_a_seed(
    mode: AutoresetMode,
) -> None:
    # the first episodes end in rounds 1 and 2 (at once) or 2 and 3; all begin again in round 5
    first, second = play(Adapter.open(two(mode)), 9, held=range(1, 5))
    assert first[:6] == [*episode(0, 2, "lt"), *episode(10, 2, "lt")]
    assert second[:7] == [*episode(100, 3, "l"), *episode(110, 3, "l")[:3]]


@pytest.mark.parametrize("mode", MODES)
def test_all_that_end_together_begin_with_seeds(mode: AutoresetMode) -> None:
    venv = SyncVectorEnv([partial(Countdown, 2)] * 2, autoreset_mode=mode)
    streams = play(Adapter.open(venv), 6)
    for i, stream in enumerate(streams):
        assert stream[:6] == [*episode(100 * i, 2, "lt"), *episode(100 * i + 10, 2, "lt")]


def test_first_observations_are_copies() -> None:
    venv = SyncVectorEnv(
        [partial(Countdown, 2), partial(Countdown, 3)], copy=False, autoreset_mode=SAME_STEP
    )
    assert play(Adapter.open(venv), 4)[0][3] == [1, 0, "f", 0.0]


def test_the_number_of_environments_is_its_own() -> None:
    assert len(Adapter.open(two(DISABLED))) == len(Adapter.open(two(DISABLED), 2)) == 2
    with pytest.raises(ConfigError, match="holds 2 environments, but 3 were asked for"):
        Adapter.open(two(DISABLED), 3)


def test_one_that_does_not_say_how_it_resets_is_refused() -> None:
    venv = two(DISABLED)
    venv.metadata = {}
    with pytest.raises(ConfigError, match=r"does not say how it resets itself .*autoreset_mode"):
        Adapter.open(venv)
    venv.metadata = {"autoreset_mode": "SameStep"}  # the mode's name will do
    assert Adapter.open(venv).sync_reset


def test_a_final_observation_that_is_not_given_is_an_error() -> None:
    class Forgetful(gym.vector.VectorWrapper):
        def step(self, actions: Any) -> tuple:
            *rest, _ = self.env.step(actions)
            return *rest, {}

    adapter = Adapter.open(Forgetful(two(SAME_STEP)))
    with pytest.raises(EpisodeError, match=r'environment 0 ended .* no infos\["final_obs"\]'):
        play(adapter, 3)


def test_a_function_that_makes_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the function made a SyncVectorEnv .*passed itself"):
        Adapter.open(partial(two, DISABLED))


class OneSeed(VectorEnv):
    """Two counters of steps under one generator; its reset takes a number, and not a list."""

    single_observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    single_action_space = gym.spaces.Discrete(2)
    num_envs = 2

    def __init__(self, mode: AutoresetMode) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 2))
        self.action_space = gym.spaces.MultiDiscrete([2, 2])
        self.steps = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask", np.ones(2, np.bool_))
        self.steps[mask] = 0
        self.drawn = self.np_random.integers(1000, size=2)
        return self.observe(), {}

    def step(self, actions: np.ndarray) -> tuple:
        self.steps += 1
        over = self.steps >= [2, 3]
        return self.observe(), np.ones(2), over, np.zeros(2, np.bool_), {}

    def observe(self) -> np.ndarray:
        return np.stack([self.drawn, self.steps], 1)


MAKERS = [
    pytest.param(lambda: gym.make_vec("CartPole-v1", num_envs=2), id="CartPole"),
    pytest.param(lambda: OneSeed(DISABLED), id="own"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_an_environment_that_takes_one_seed_begins_with_that_of_the_first(make: Any) -> None:
    def first(seeds: list[int]) -> list:
        adapter = Adapter.open(make())
        return adapter.reset([0, 1], seeds)["observation"].tolist()

    assert first([3, 9]) == first([3, 8]) != first([4, 9])
    direct, _ = make().reset(seed=3)
    assert first([3, 9]) == direct.astype(np.float32).tolist()


def test_a_masked_reset_of_one_seed_leaves_the_others_alone() -> None:
    adapter = Adapter.open(OneSeed(DISABLED))
    adapter.reset([0, 1], [3, 9])
    adapter.step([0, 1], [0, 0])
    assert adapter.step([0, 1], [0, 0])["is_last"].tolist() == [True, False]
    adapter.reset([0], [5])
    assert adapter.step([0, 1], [0, 0])["observation"][:, 1].tolist() == [1, 3]


@pytest.mark.parametrize("make", MAKERS)
def test_evaluation_says_that_its_episodes_need_seeds_of_their_own(make: Any) -> None:
    policy = random_policy(Shown(make()))
    with pytest.raises(ConfigError, match=r"takes one seed for all .*vectorization_mode=\"sync\""):
        evaluate(policy, make(), episodes=2)


class Shown(gym.Env):
    """The spaces of one of a vector environment's environments."""

    def __init__(self, venv: VectorEnv) -> None:
        self.observation_space = venv.single_observation_space
        self.action_space = venv.single_action_space


def test_ales_own_vector_environment_learns_once_its_channels_are_last() -> None:
    ale = pytest.importorskip("ale_py")
    gym.register_envs(ale)
    with pytest.raises(SpaceError, match=r"shape \(4, 84, 84\), which looks .* channels first"):
        Adapter.open(gym.make_vec("ALE/Pong-v5", num_envs=2))
    last = gym.vector.VectorObservationWrapper(gym.make_vec("ALE/Pong-v5", num_envs=2))
    last.single_observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    last.observation_space = gym.spaces.Box(0, 255, (2, 84, 84, 4), np.uint8)
    last.observations = lambda frames: np.moveaxis(frames, 1, -1)
    transitions = Adapter.open(last).reset([0, 1], [3, 4])
    assert transitions["observation"].shape == (2, 84, 84, 4)
