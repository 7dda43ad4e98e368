"""Crafter behind Gymnasium's interface: one seed is one world, and achievements are counted."""

import hashlib
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentzoo.runtime.envs import Adapter, Outcome, make_env, resolve, scores_of
from agentzoo.runtime.envs.crafter import Crafter, crafter_score
from agentzoo.runtime.errors import EnvironmentStringError, EpisodeError, MissingExtraError
from agentzoo.runtime.evaluation.rollout import evaluate_random

pytest.importorskip("crafter")
ROOT = Path(__file__).parents[3]
NIGHT = 150  # steps after which it is dark and what is observed is noisy


def play(env: gym.Env, seed: int, steps: int, *, is_filmed: bool = False) -> str:
    """A digest of pictures and rewards under fixed actions, up to an episode's end."""
    rng, seen = np.random.default_rng(0), hashlib.sha256()
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        seen.update(observation["image"].tobytes())
        if is_filmed:
            env.render()
        observation, reward, terminated, truncated, _ = env.step(rng.integers(17))
        seen.update(np.float64(reward).tobytes())
        if terminated or truncated:
            break
    return seen.hexdigest()


@pytest.fixture(scope="module")
def env() -> gym.Env:
    return make_env("crafter:reward")


def test_strings() -> None:
    name = "crafter:reward?max_episode_steps=10000&repeat=1&size=64"
    assert resolve("crafter:reward", {"protocol": "dreamerv3", "render": "fast"}) == name


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("crafter:rewards", 'not a task of Crafter; did you mean "reward" or "noreward"'),
        ("crafter:CrafterReward-v1", "not a task of Crafter"),
        ("crafter:reward?size=8", "size=8, expected a whole number of at least 9"),
        ("crafter:reward?sizes=8", 'did you mean "size"'),
        ("crafer:reward", 'did you mean "crafter"'),
    ],
)
def test_bad_strings(name: str, match: str) -> None:
    with pytest.raises(EnvironmentStringError, match=match):
        resolve(name)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(MissingExtraError, match=r'"crafter".*agentzoo-rl\[crafter\]'):
        make_env("crafter:reward")


@pytest.mark.slow
def test_a_seed_is_one_world_whatever_came_before_and_whoever_watches(env: gym.Env) -> None:
    first = play(env, 3, NIGHT + 40)
    assert play(env, 4, 20) != play(env, 3, 20)
    assert play(env, 3, NIGHT + 40) == first
    assert play(make_env("crafter:reward"), 3, NIGHT + 40, is_filmed=True) == first


@pytest.mark.slow
def test_a_seed_is_one_world_in_every_process(env: gym.Env) -> None:
    code = (
        f"import runpy\nplay = runpy.run_path({__file__!r})['play']\n"
        "from agentzoo.runtime.envs import make_env\n"
        "print(play(make_env('crafter:reward'), 3, 600))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert found == {play(env, 3, 600) + "\n"}


def test_spaces_and_transitions(env: gym.Env) -> None:
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["image"].shape == (64, 64, 3)
    assert env.action_space == gym.spaces.Discrete(17)
    assert len(info["achievements"]) == 22
    assert set(info["achievements"].values()) == {0}
    assert env.render().shape == (256, 256, 3)
    assert make_env("crafter:reward?size=96").observation_space["image"].shape == (96, 96, 3)


@pytest.mark.slow
def test_gymnasium_finds_nothing_wrong(env: gym.Env) -> None:
    check_env(env, skip_render_check=True)
    first = env.step(0)[4] if env.reset(seed=0) else {}
    assert first["player_pos"] is not env.step(2)[4]["player_pos"]


def test_achievements_are_rewarded_once_and_counted(env: gym.Env) -> None:
    env.reset(seed=0)
    player, world = env.unwrapped.game._player, env.unwrapped.game._world
    world[np.add(player.pos, (0, 1))] = "water"
    player.facing = (0, 1)
    _, reward, *_, info = env.step(5)  # drink
    assert (reward, info["achievements"]["collect_drink"]) == (1.0, 1)
    _, reward, *_, info = env.step(5)
    assert (reward, info["achievements"]["collect_drink"]) == (0.0, 2)


def test_the_task_without_reward_still_tells_it() -> None:
    env = make_env("crafter:noreward")
    env.reset(seed=0)
    player, world = env.unwrapped.game._player, env.unwrapped.game._world
    world[np.add(player.pos, (0, 1))] = "water"
    player.facing = (0, 1)
    _, reward, *_, info = env.step(5)
    assert (reward, info["reward"]) == (0.0, 1.0)


def test_death_is_a_termination(env: gym.Env) -> None:
    env.reset(seed=0)
    env.unwrapped.game._player.health = 0
    _, reward, terminated, truncated, info = env.step(0)
    assert (terminated, truncated, info["discount"]) == (True, False, 0.0)
    assert reward == pytest.approx(-0.9)  # nine points of health
    with pytest.raises(EpisodeError, match="outside an episode; call reset first"):
        env.step(0)


def test_a_time_limit_is_a_truncation() -> None:
    adapter = Adapter.open("crafter:reward?max_episode_steps=5")
    adapter.reset([0], [0])
    transitions = [adapter.step([0], [0]) for _ in range(5)]
    assert [bool(one["is_last"][0]) for one in transitions] == [False] * 4 + [True]
    assert not any(one["is_terminal"][0] for one in transitions)


def test_the_limit_is_ten_thousand_steps() -> None:
    assert Crafter().max_episode_steps == 10_000
    assert make_env("crafter:reward").unwrapped.max_episode_steps == 10_000
    env = Crafter(max_episode_steps=2)
    env.reset(seed=0)
    assert env.step(0)[3] is False
    assert env.step(0)[3] is True


# -- scores --------------------------------------------------------------------------------------


def test_the_score_is_a_geometric_mean_in_per_cent() -> None:
    assert crafter_score([0.0] * 22) == 0.0
    assert crafter_score([100.0] * 22) == pytest.approx(100.0)
    assert crafter_score([3.0, 0.0]) == pytest.approx(1.0)  # sqrt(4 * 1) - 1


def test_success_is_the_share_of_episodes() -> None:
    episodes = [
        Outcome(total=0.0, length=1, info={"achievements": {"eat_cow": cows, "wake_up": 0}})
        for cows in (0, 2, 1, 0)
    ]
    assert scores_of("crafter:reward", episodes) == {
        "crafter_score": pytest.approx(51**0.5 - 1),
        "success/eat_cow": 50.0,
        "success/wake_up": 0.0,
    }


def test_evaluation_scores_all_achievements() -> None:
    result = evaluate_random("crafter:reward?max_episode_steps=20", episodes=2)
    rates = [value for name, value in result.scores.items() if name.startswith("success/")]
    assert len(rates) == 22
    assert set(rates) <= {0.0, 50.0, 100.0}
    assert result.scores["crafter_score"] == pytest.approx(crafter_score(rates))
    assert result.protocol == {
        "max_episode_steps": 20, "repeat": 1, "size": 64, "deterministic": False,
    }  # fmt: skip
