"""Models of Stable-Baselines3 and sb3-contrib as bundles: they act as their own `predict` does."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import agentzoo
from agentzoo.cli import main as cli
from agentzoo.hub import load_policy as pull_policy
from agentzoo.runtime import Policy, RemotePolicy, evaluate, load_policy
from agentzoo.runtime.envs import resolve
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.stable_baselines import from_sb3
from tests.unit_runtime.server.live import serving

contrib = pytest.importorskip("sb3_contrib")


class Shown(gym.Env[Any, Any]):
    """Shows random observations of any space and takes actions of any; ends after 20 steps."""

    def __init__(self, shown: gym.Space[Any], taken: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = shown, taken

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = 20
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.left -= 1
        return self.observation_space.sample(), 1.0, False, self.left == 0, {}


STATE = spaces.Box(-3, 3, (5,), np.float32)
MOVE = spaces.Box(np.array([-1, -2], np.float32), np.array([3, 2], np.float32))
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
ON = {"n_steps": 16, "device": "cpu", "seed": 3}
OFF = {"learning_starts": 10, "buffer_size": 100, "batch_size": 8, "device": "cpu", "seed": 3}

CASES: dict[str, Callable[[], Any]] = {
    "ppo-box": lambda: sb3.PPO("MlpPolicy", Shown(STATE, MOVE), batch_size=16, n_epochs=1, **ON),
    "a2c-discrete": lambda: sb3.A2C("MlpPolicy", Shown(STATE, spaces.Discrete(3)), **ON),
    "a2c-multidiscrete": lambda: sb3.A2C(
        "MlpPolicy", Shown(spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([2, 4])), **ON
    ),
    "a2c-multibinary": lambda: sb3.A2C(
        "MlpPolicy", Shown(spaces.MultiBinary(3), spaces.MultiBinary(2)), **ON
    ),
    "a2c-dict": lambda: sb3.A2C(
        "MultiInputPolicy",
        Shown(spaces.Dict({"eye": IMAGE, "goal": spaces.Discrete(4), "at": STATE}), MOVE),
        **ON,
    ),
    "dqn-discrete": lambda: sb3.DQN(
        "MlpPolicy",
        Shown(spaces.Discrete(6), spaces.Discrete(3)),
        policy_kwargs={"net_arch": [16]},
        **OFF,
    ),
    "dqn-image": lambda: sb3.DQN(
        "CnnPolicy", Shown(IMAGE, spaces.Discrete(3)), policy_kwargs={"net_arch": [16]}, **OFF
    ),
    "sac-box": lambda: sb3.SAC(
        "MlpPolicy", Shown(STATE, MOVE), policy_kwargs={"net_arch": [16]}, **OFF
    ),
    "td3-box": lambda: sb3.TD3(
        "MlpPolicy", Shown(STATE, MOVE), policy_kwargs={"net_arch": [16]}, **OFF
    ),
    "qrdqn-discrete": lambda: contrib.QRDQN(
        "MlpPolicy", Shown(STATE, spaces.Discrete(3)), policy_kwargs={"net_arch": [16]}, **OFF
    ),
    "tqc-box": lambda: contrib.TQC(
        "MlpPolicy", Shown(STATE, MOVE), policy_kwargs={"net_arch": [16]}, **OFF
    ),
    "recurrentppo-box": lambda: contrib.RecurrentPPO(
        "MlpLstmPolicy",
        Shown(STATE, MOVE),
        batch_size=16,
        n_epochs=1,
        policy_kwargs={"lstm_hidden_size": 8, "n_lstm_layers": 2, "net_arch": [16]},
        **ON,
    ),
}


EXPORTED = ("a2c-dict", "a2c-multibinary", "dqn-image", "sac-box", "td3-box", "recurrentppo-box")


def acts_as(policy: Policy, model: Any) -> None:
    """Both act alike over two episodes of observations drawn at random."""
    space = model.get_env().envs[0].observation_space
    space.seed(0)
    state, memory = None, None
    for t in range(12):
        obs, first = space.sample(), np.array([t in (0, 7)])
        expected, memory = model.predict(obs, memory, first, deterministic=True)
        named = isinstance(obs, dict)
        batch = {key: one[None] for key, one in obs.items()} if named else np.asarray(obs)[None]
        found, state = policy.predict(batch, state, first, deterministic=True)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_model_acts_as_its_own_predict(case: str) -> None:
    model = CASES[case]().learn(32)
    acts_as(from_sb3(model), model)


@pytest.mark.parametrize("case", EXPORTED)
def test_an_exported_model_acts_as_its_own_predict(case: str, tmp_path: Path) -> None:
    model = CASES[case]().learn(32)
    folder = from_sb3(model).export(tmp_path / "bundle", golden_steps=10)
    acts_as(load_policy(folder), model)


@pytest.mark.parametrize("case", ["ppo-box", "sac-box", "a2c-discrete", "a2c-multibinary"])
def test_sampled_actions_have_the_model_s_distribution(case: str) -> None:
    model = CASES[case]().learn(32)
    policy, n = from_sb3(model), 4_000
    space = model.get_env().envs[0].observation_space
    space.seed(0)
    obs = np.repeat(space.sample()[None], n, 0)
    theirs, _ = model.predict(obs, deterministic=False)
    ours, _ = policy.predict(obs, deterministic=False)
    theirs, ours = theirs.reshape(n, -1), ours.reshape(n, -1)
    error = 4 * np.sqrt((theirs.var(0) + ours.var(0)) / n) + 1e-9
    assert (np.abs(theirs.mean(0) - ours.mean(0)) < error).all()
    np.testing.assert_allclose(theirs.std(0), ours.std(0), rtol=0.1)


def test_sampled_dqn_takes_any_action_as_often_as_its_exploration_rate_says() -> None:
    model = CASES["dqn-discrete"]().learn(32)
    model.exploration_rate = 0.3
    policy, n = from_sb3(model), 6_000
    obs = np.full(n, 2)
    best = int(model.predict(np.array(2), deterministic=True)[0])
    found, _ = policy.predict(obs, deterministic=False)
    assert abs((found != best).mean() - 0.3 * 2 / 3) < 0.03


def test_vecnormalize_is_part_of_the_graph(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Shown(STATE, MOVE)]), clip_obs=1.5)
    model = sb3.PPO("MlpPolicy", env, batch_size=16, n_epochs=1, **ON).learn(64)
    exported = load_policy(from_sb3(model).export(tmp_path / "bundle", golden_steps=20))
    raw = np.random.default_rng(0).uniform(-6, 6, (50, 5)).astype(np.float32)
    expected, _ = model.predict(env.normalize_obs(raw), deterministic=True)
    found, _ = exported.predict(raw, deterministic=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    plain, _ = model.predict(raw, deterministic=True)
    assert np.abs(plain - expected).max() > 1e-3  # the statistics matter

    model.save(tmp_path / "model.zip")  # without its environment, and so without statistics
    again = from_sb3(sb3.PPO.load(tmp_path / "model.zip", device="cpu"), normalize=env)
    np.testing.assert_allclose(
        again.predict(raw, deterministic=True)[0], expected, rtol=1e-4, atol=1e-5
    )


@pytest.fixture(scope="module")
def cartpole() -> agentzoo.ForeignPolicy:
    return agentzoo.from_sb3(
        sb3.PPO("MlpPolicy", "CartPole-v1", batch_size=16, n_epochs=1, **ON).learn(32)
    )


def test_a_model_knows_the_environment_it_was_made_with(cartpole: agentzoo.ForeignPolicy) -> None:
    assert cartpole.spec.env == resolve("gym:CartPole-v1")
    wrapped = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda r: r)
    assert from_sb3(sb3.A2C("MlpPolicy", wrapped, **ON)).spec.env == ""
    assert from_sb3(CASES["ppo-box"]()).spec.env == ""
    with pytest.raises(ConfigError, match="the model's spaces are not those of"):
        from_sb3(CASES["ppo-box"](), env="gym:CartPole-v1")


def test_it_is_scored_served_published_and_compared_like_any_other(
    cartpole: agentzoo.ForeignPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = f"file:{tmp_path / 'hub'}"
    address = cartpole.push_to_hub(
        hub, folder=tmp_path / "ppo", episodes=10, without=["replay.mp4"]
    )
    assert "ppo-gym-CartPole-v1@" in address
    settings = json.loads((tmp_path / "ppo" / "config.json").read_text())
    assert settings["library"] == {"name": "stable-baselines3", "version": sb3.__version__}
    assert settings["config"]["gamma"] == 0.99
    assert settings["training"]["env_steps"] == 32

    card = (tmp_path / "ppo" / "README.md").read_text()
    assert f"PPO, trained by stable-baselines3 {sb3.__version__} and exported by agentzoo" in card
    assert "- stable-baselines3\n" in card
    assert "after 32 environment steps" in card
    for word in ("world-model", "agentzoo.load", "agentzoo learn", "differs from the paper"):
        assert word not in card

    policy = pull_policy(address)
    scored = evaluate(policy, episodes=2, seed=5)
    assert scored.returns == cartpole.evaluate(episodes=2, seed=5).returns
    with serving(tmp_path / "ppo") as live, closing(RemotePolicy(live.ws)) as remote:
        assert evaluate(remote, episodes=2, seed=5).returns == scored.returns

    folder = str(tmp_path / "ppo")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", f"ours={folder}", f"theirs={folder}", "--episodes", "2"])
    table = capsys.readouterr().out
    assert "ours" in table
    assert "theirs" in table
    with pytest.raises(BundleError, match="a policy that agentzoo did not train"):
        agentzoo.load(tmp_path / "ppo")


def test_what_is_not_exported_is_said() -> None:
    sde = sb3.A2C("MlpPolicy", Shown(STATE, MOVE), use_sde=True, **ON)
    with pytest.raises(ConfigError, match="use_sde=True"):
        from_sb3(sde)
    with pytest.raises(ConfigError, match="was given a Shown, expected a model of Stable-Base"):
        from_sb3(Shown(STATE, MOVE))  # pyright: ignore[reportArgumentType]


def test_a_policy_is_a_copy_that_further_learning_does_not_change() -> None:
    model = CASES["a2c-discrete"]()
    policy = from_sb3(model)
    before = {name: one.clone() for name, one in policy.module.state_dict().items()}
    model.learn(64)
    assert all((one == before[name]).all() for name, one in policy.module.state_dict().items())
