"""Episodes are numbered, seeded and summed the same way however many run at once."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agentzoo.runtime.errors import ConfigError, EnvironmentStringError, EpisodeError, SpaceError
from agentzoo.runtime.evaluation.rollout import bootstrap, evaluate, evaluate_random, random_policy
from agentzoo.runtime.evaluation.video import record
from tests.unit_runtime.toys import Toy, seeded, torch_policy

SPACE = spaces.Box(-2, 2, (1,))


class Diary(gym.Env):
    """Episode lengths come from the seed; rewards are actions; everything is written down."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = SPACE
    render_mode = "rgb_array"

    def __init__(self):
        self.seeds, self.actions, self.bad = [], [], False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.left = 3 + seed % 3
        return self.observation(), {}

    def observation(self):
        return self.np_random.standard_normal(3)

    def step(self, action):
        self.actions.append(np.array(action))
        self.left -= 1
        reward = np.nan if self.bad else float(action[0])
        return self.observation(), reward, self.left == 0, False, {}

    def render(self):
        return np.full((5, 7, 3), 40 * self.left, np.uint8)


@pytest.fixture
def policy():
    return torch_policy(seeded(Toy, Diary.observation_space, SPACE), deterministic=False)


@pytest.fixture
def cartpole():
    env = gym.make("CartPole-v1")
    spec = {"env": "gym:CartPole-v1?repeat=1"}
    return torch_policy(seeded(Toy, env.observation_space, env.action_space), **spec)


def test_episode_i_has_environment_and_noise_seed_base_plus_i(policy):
    env = Diary()
    result = evaluate(policy, env, episodes=4, seed=10)
    assert env.seeds == [10, 11, 12, 13]
    assert result.seeds == (10, 11, 12, 13)
    assert result.seed == 10
    assert result.lengths == (4, 5, 3, 4)
    session, fresh = policy.session(seed=11), Diary()
    obs, _ = fresh.reset(seed=11)
    total = 0.0
    for _ in range(5):
        obs, reward, *_ = fresh.step(session.act(obs))
        total += reward
    assert result.returns[1] == pytest.approx(total)


@pytest.mark.parametrize("seed", [-1, 2**32 - 3, 5_000_000_000])
def test_seeds_that_environments_do_not_take_are_refused(policy, seed: int):
    expected = rf"seed={seed} for 4 episodes; expected 0 <= seed <= 2\*\*32 - 4"
    with pytest.raises(ConfigError, match=expected):
        evaluate(policy, Diary(), episodes=4, seed=seed)


def test_number_of_environments_changes_nothing(cartpole):
    one = evaluate(cartpole, episodes=5, seed=3, deterministic=False)
    three = evaluate(cartpole, episodes=5, seed=3, deterministic=False, envs=3)
    assert one == three
    assert one.env == "gym:CartPole-v1?repeat=1"


def test_protocol_is_the_policys_unless_said_otherwise(policy):
    assert evaluate(policy, Diary(), episodes=1).deterministic is False
    assert evaluate(policy, Diary(), episodes=1, deterministic=True).deterministic is True
    assert policy.session(0).deterministic is False


def test_evaluation_leaves_the_policys_own_episode_alone(policy):
    first, second = policy.session(1), policy.session(1)
    obs = np.zeros(3)
    first.act(obs)
    second.act(obs)
    evaluate(first, Diary(), episodes=1)
    assert np.array_equal(first.act(obs), second.act(obs))


def test_numbers_and_json(policy):
    result = evaluate(policy, Diary(), episodes=5)
    assert result.mean == pytest.approx(np.mean(result.returns))
    assert result.std == pytest.approx(np.std(result.returns))
    low, high = result.interval
    assert low < result.mean < high
    written = json.loads(json.dumps(result.to_json()))
    assert written["returns"] == list(result.returns)
    assert written["interval"] == [low, high]
    assert written["policy_sha256"] == ""
    assert written["format"] == 1


def test_bootstrap_interval_matches_the_normal_one():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)
    assert bootstrap([3.0]) == (3.0, 3.0)
    assert bootstrap(values) == (low, high)


def test_missing_keys_come_from_the_policy_and_contradictions_are_refused(cartpole):
    assert evaluate(cartpole, "gym:CartPole-v1", episodes=1).env == "gym:CartPole-v1?repeat=1"
    with pytest.raises(EnvironmentStringError, match="contradicts"):
        evaluate(cartpole, "gym:CartPole-v1?repeat=2", episodes=1)
    result = evaluate(cartpole, "gym:CartPole-v1?repeat=2", episodes=1, override=True)
    assert result.repeat == 2


def test_downloaded_environment_strings_are_plain(cartpole):
    policy = torch_policy(cartpole.step.algorithm, env="gym:os:Evil-v0")
    with pytest.raises(EnvironmentStringError, match="comes from a download"):
        evaluate(policy, episodes=1)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"episodes": 0}, ConfigError, "episodes=0"),
        ({"envs": 0}, ConfigError, "envs=0"),
        ({"max_steps": 0}, ConfigError, "max_steps=0"),
        ({"max_steps": 1}, EpisodeError, r"seed 0 has no end after 1 decisions; .*TimeLimit"),
        ({"envs": 2}, ConfigError, "one environment object cannot run 2"),
        ({"env": None}, ConfigError, "learned on an environment object"),
        (
            {"env": gym.make("MountainCarContinuous-v0")},
            SpaceError,
            r"other spaces than the policy was trained for: the observation",
        ),
    ],
)
def test_refusals(policy, arguments, error, match):
    with pytest.raises(error, match=match):
        evaluate(policy, **({"env": Diary(), "episodes": 3} | arguments))


def test_reward_that_is_not_finite(policy):
    env = Diary()
    env.bad = True
    with pytest.raises(EpisodeError, match="reward nan at decision 1 of the episode with seed 0"):
        evaluate(policy, env, episodes=1)


def test_progress_prints_a_line_for_each_episode(policy, capsys):
    evaluate(policy, Diary(), episodes=2, seed=4, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["seed 4", "seed 5"]


def test_random_baseline_is_uniform_seeded_and_in_bounds():
    env = Diary()
    first = evaluate_random(env, episodes=60, seed=5)
    again = evaluate_random(Diary(), episodes=60, seed=5)
    assert first == again
    assert first.agent == "random"
    actions = np.concatenate(env.actions)
    counts, _ = np.histogram(actions, 4, (-2, 2))
    assert (np.abs(counts / len(actions) - 0.25) < 0.1).all()


def test_random_baseline_is_uniform_over_classes():
    env = gym.make("CartPole-v1")
    policy = random_policy(env)
    actions, _ = policy.predict(np.zeros((400, 4)))
    assert abs(actions.mean() - 0.5) < 0.1
    result = evaluate_random("gym:CartPole-v1", episodes=2, envs=2)
    assert result.env.startswith("gym:CartPole-v1?")


def test_film_of_the_first_episode(policy, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "films" / "replay.mp4"
    evaluate(policy, Diary(), episodes=2, seed=0, video=path)
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert frames == 3  # seed 0 lives for 3 decisions; the second episode is not filmed


def test_what_cannot_be_drawn_here_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(
        EpisodeError, match=r"cannot be drawn: pygame is not .*; or leave video out"
    ):
        evaluate_random("gym:CartPole-v1", episodes=1, video=tmp_path / "replay.mp4")


def test_film_pads_odd_sizes_and_keeps_the_frames(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = [np.full((33, 17, 3), value, np.uint8) for value in (30, 120, 210)]
    path = record(frames, tmp_path / "film.mp4", fps=10)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    for fact in (b"Video: h264", b"yuv420p", b"18x34", b"10 fps"):
        assert fact in done.stderr
    read = np.frombuffer(done.stdout, np.uint8).reshape(3, 34, 18, 3)
    np.testing.assert_allclose(read.mean((1, 2, 3)), [30, 120, 210], atol=6)


def test_film_refuses_what_is_no_frame(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ConfigError, match="no frames"):
        record([], tmp_path / "film.mp4")
    with pytest.raises(ConfigError, match="dtype float64"):
        record([frame / 255], tmp_path / "film.mp4")
    with pytest.raises(ConfigError, match=r"shape \(6, 4, 3\)"):
        record([frame, np.zeros((6, 4, 3), np.uint8)], tmp_path / "film.mp4")
    with pytest.raises(ConfigError, match="fps is 0"):
        record([frame], tmp_path / "film.mp4", fps=0)
