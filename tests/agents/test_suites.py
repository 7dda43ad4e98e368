"""Agents in the suites that have protocols: what a preset asks for is what is learned in."""

import sys
from pathlib import Path

import pytest

from agentzoo import Dreamer, DreamerV2, DreamerV3, PlaNet
from agentzoo.agent import Agent
from agentzoo.runtime.envs import protocol_of, settings_of
from agentzoo.runtime.errors import EnvironmentStringError, MissingExtraError, RunError

pytest.importorskip("ale_py")
TINY = {"units": 16, "deter": 16, "classes": 4, "depth": 2, "stoch": 4}  # of the later Dreamers


@pytest.mark.parametrize(
    ("agent", "protocol", "shape", "actions"),
    [
        (lambda env: Dreamer(env, units=8, deter=8, depth=2), "dreamer", (64, 64, 3), 6),
        (lambda env: DreamerV2(env, **TINY), "dreamerv2-paper", (64, 64, 1), 18),
        (lambda env: DreamerV2(env, preset="atari_code", **TINY), "dreamerv2", (64, 64, 1), 6),
        (lambda env: DreamerV3(env, **TINY), "dreamerv3", (96, 96, 1), 18),
        (lambda env: DreamerV3(env, preset="atari100k", **TINY), "atari100k", (64, 64, 3), 6),
        (
            lambda env: DreamerV3(env, preset="debug", protocol="dreamerv2-paper"),
            "dreamerv2-paper",
            (64, 64, 1),
            18,
        ),
    ],
)
def test_a_preset_decides_on_the_protocol(
    agent: type[Agent], protocol: str, shape: tuple[int, ...], actions: int
) -> None:
    made = agent("atari:pong")
    assert made.spec.obs["image"].shape == shape
    assert made.spec.action.nvec == (actions,)
    settings = settings_of(made.env)
    assert made.spec.env == made.env
    assert protocol_of(made.env.replace(f"repeat={settings['repeat']}", "repeat=4")) == protocol


@pytest.mark.parametrize(
    ("env", "package", "size", "envs", "train_ratio", "shapes"),
    [
        ("dmc:walker-walk", "dm_control", "200m", 16, 256, {"image": (64, 64, 3)}),
        ("dmc:walker-walk?obs=state", "dm_control", "1m", 16, 1024, {"state": (24,)}),
        ("crafter:reward", "crafter", "200m", 1, 512, {"image": (64, 64, 3)}),
    ],
)
def test_dreamer_v3_learns_in_the_worlds_of_its_paper(
    env: str,
    package: str,
    size: str,
    envs: int,
    train_ratio: float,
    shapes: dict[str, tuple[int, ...]],
) -> None:
    pytest.importorskip(package)
    agent = DreamerV3(env, **TINY)
    config, settings = agent.config, settings_of(agent.env)
    assert (config.size, config.envs, config.train_ratio) == (size, envs, train_ratio)
    assert (config.repeat, settings["repeat"]) == (1, 1)
    assert {key: spec.shape for key, spec in agent.spec.obs.items()} == shapes
    assert agent.spec.action.kind == ("box" if package == "dm_control" else "discrete")
    assert agent.spec.action.size == (6 if package == "dm_control" else 17)


def test_the_presets_of_atari_repeat_four_frames_and_learn_terminations() -> None:
    agent = Dreamer("atari:pong", units=8, deter=8, depth=2)
    config = agent.config
    assert (config.repeat, config.cont, config.clip_rewards) == (4, True, "tanh")
    assert (config.horizon, config.kl_scale) == (10, 0.1)
    assert settings_of(agent.env)["repeat"] == 4


def test_the_string_wins_over_the_preset() -> None:
    agent = DreamerV3("atari:pong?size=64&sticky=0", **TINY)
    assert agent.spec.obs["image"].shape == (64, 64, 1)
    assert settings_of(agent.env)["sticky"] == 0
    assert settings_of(agent.env)["actions"] == "full"


@pytest.mark.parametrize(
    ("env", "match"),
    [
        ("atari:pongg", 'is not a game of the Arcade Learning Environment; did you mean "pong"'),
        ("atari:ALE/Pong-v5", 'names a game by an id, expected its short name: write "atari:pong"'),
    ],
)
@pytest.mark.parametrize("agent", [DreamerV2, PlaNet])
def test_a_game_that_is_none_is_refused_at_once(agent: type[Agent], env: str, match: str) -> None:
    with pytest.raises(EnvironmentStringError, match=match):
        agent(env, preset="debug")


@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_an_agent_names_the_package_that_its_game_needs(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'"{package}".*agentzoo-rl\[atari\]'):
        DreamerV2("atari:pong", preset="debug")


def test_a_loaded_agent_keeps_its_protocol_in_another_game(tmp_path: Path) -> None:
    quick = {"envs": 1, "eval_every": 0, "final_episodes": 0, "report_every": 0}
    DreamerV3("atari:pong", **TINY, **quick).save(tmp_path / "a")
    agent = DreamerV3.load(tmp_path / "a")
    agent.learn(1, "atari:breakout?max_episode_steps=40", run=tmp_path / "run", progress=False)
    assert protocol_of(agent.env.replace("&max_episode_steps=40", "")) == "dreamerv3"
    assert agent.env.startswith("atari:breakout?")
    known = agent.env
    with pytest.raises(
        RunError, match=r"other spaces than this agent was made for: .*shape \(96, 96, 1\)"
    ):
        agent.learn(1, "atari:breakout?size=64", run=tmp_path / "other")
    assert agent.env == known
    assert not (tmp_path / "other").exists()


def test_evaluation_while_learning_is_of_whole_games() -> None:
    agent = Dreamer("atari:breakout", units=8, deter=8, depth=2)
    assert settings_of(agent.env)["life_loss"] == "end"
    with agent.open_environment() as env:
        assert env.unwrapped.preprocessing.terminal_on_life_loss is False


@pytest.mark.slow
@pytest.mark.parametrize("env", ["atari:boxing", "crafter:reward"])
def test_an_agent_learns_acts_and_is_scored(env: str, tmp_path: Path) -> None:
    agent = DreamerV3(f"{env}?max_episode_steps=200", preset="debug", device="cpu", seed=0)
    agent.learn(600, run=tmp_path / "run", progress=False)
    result = agent.evaluate(episodes=1)
    expected = {"atari:boxing": "human_normalized", "crafter:reward": "crafter_score"}[env]
    assert expected in result.scores
    assert result.protocol["max_episode_steps"] == 200
