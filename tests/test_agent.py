"""Dreamer as its users hold it: every kind of world, SB3's evaluator, exported and served alike."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import agentzoo
from agentzoo import Dreamer
from agentzoo.agent import Agent
from agentzoo.runtime import evaluate, load_policy, verify
from agentzoo.runtime.errors import BundleError, EpisodeError, ObservationError
from tests.agents.fake_envs import Steer

WORLDS = {
    "box": {},
    "discrete": {"actions": "discrete"},
    "multidiscrete": {"actions": "multidiscrete"},
    "image": {"image": True},
}


@pytest.fixture(scope="module", params=list(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A world, an agent that took a few updates in it, and its bundle."""
    env = Steer(**WORLDS[request.param])
    agent = Dreamer(env, preset="debug", device="cpu", seed=1, prefill=80, pretrain=2)
    folder = tmp_path_factory.mktemp(request.param)
    agent.learn(200, run=folder / "run", progress=False)
    return env, agent, agent.export(folder / "bundle", golden_steps=100)


def test_onnx_agrees_with_torch_over_a_hundred_steps(world):
    _, _, bundle = world  # export compares at batch 1 and 7, deterministic and sampled
    found = verify(bundle, provider="cpu")
    assert found.steps == 100
    assert found.worst < 1e-4
    assert found.excused <= 2


def test_agent_and_exported_policy_give_the_same_actions(world):
    env, agent, bundle = world
    ours, theirs = agent.session(seed=9), load_policy(bundle, provider="cpu").session(seed=9)
    obs, _ = env.reset(seed=4)
    for t in range(20):
        action, other = (
            ours.act(obs, deterministic=t % 2 == 0),
            theirs.act(obs, deterministic=t % 2 == 0),
        )
        np.testing.assert_allclose(action, other, atol=1e-4)
        assert env.action_space.contains(action), action
        obs, *_ = env.step(action)


def test_sb3_evaluates_agent_and_exported_policy(world):
    env, agent, bundle = world
    options = {"image": "image" in agent.spec.obs, "actions": env.actions}
    for policy in (agent, load_policy(bundle, provider="cpu")):
        venv = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Steer(**options), 40)] * 2)
        rewards, lengths = evaluate_policy(
            policy, venv, n_eval_episodes=3, return_episode_rewards=True, warn=False
        )
        assert lengths == [40, 40, 40]
        assert all(-80 < reward < 40 for reward in rewards)


def test_batched_prediction_is_each_element_alone_and_a_reset_touches_one(world):
    env, agent, _ = world
    observations = [env.reset(seed=s)[0] for s in range(3)]
    batch = {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
    _, state = agent.predict(batch)
    together, kept = agent.predict(batch, state, np.zeros(3, bool))
    restarted, other = agent.predict(batch, state, np.array([False, True, False]))
    np.testing.assert_array_equal(together[[0, 2]], restarted[[0, 2]])
    for name in kept.carry:
        np.testing.assert_array_equal(kept.carry[name][[0, 2]], other.carry[name][[0, 2]])
    assert any((kept.carry[n][1] != other.carry[n][1]).any() for n in kept.carry)


def test_evaluate_scores_agent_and_bundle_alike(world):
    env, agent, bundle = world
    ours = agent.evaluate(env, episodes=3, seed=5)
    theirs = evaluate(load_policy(bundle, provider="cpu"), env, episodes=3, seed=5)
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-3, atol=1e-2)
    assert ours.seeds == theirs.seeds == (5, 6, 7)


def test_loaded_by_its_recorded_class(world):
    _, agent, bundle = world
    loaded = agentzoo.load(bundle)
    assert type(loaded) is Dreamer
    assert loaded.spec == agent.spec
    assert repr(loaded) == repr(agent)
    assert "parameters" in repr(agent)


def test_a_run_folder_loads_its_newest_checkpoint(world):
    _, agent, _ = world
    assert agent.run is not None
    loaded = agentzoo.load(agent.run)
    for name, tensor in loaded.algorithm.state_dict().items():
        assert (tensor == agent.algorithm.state_dict()[name]).all()


def test_wrong_observations_are_refused_and_lose_nothing(world):
    env, agent, _ = world
    obs, _ = env.reset(seed=4)
    session, undisturbed = agent.session(seed=2), agent.session(seed=2)
    session.act(obs), undisturbed.act(obs)
    for wrong, said in (
        ({**obs, "state": np.full(2, np.nan)}, "NaN"),
        ({**obs, "state": np.zeros(3)}, r"has shape \(3,\), expected \(2,\)"),
        ({"position": obs["state"]}, "expected"),
    ):
        with pytest.raises(ObservationError, match=said):
            session.act(wrong)
    with pytest.raises(ObservationError, match="empty batch"):
        agent.predict({key: np.stack([value])[:0] for key, value in obs.items()})
    np.testing.assert_array_equal(session.act(obs), undisturbed.act(obs))


@pytest.mark.slow
def test_pixels_of_the_control_suite(tmp_path: Path):
    agent = Dreamer("dmc:cartpole-balance", preset="debug", device="cpu", seed=1, prefill=500,
                    pretrain=1, repeat=20)  # fmt: skip
    assert agent.env == "dmc:cartpole-balance?camera=0&obs=pixels&render=fast&repeat=20&size=64"
    agent.learn(1_000, run=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "dream_image.mp4").stat().st_size > 1_000
    policy = load_policy(agent.export(tmp_path / "bundle"), provider="cpu")
    assert evaluate(policy, episodes=1, seed=3).lengths == (50,)


def test_unknown_and_foreign_bundles(tmp_path: Path):
    agent: Agent = Dreamer(Steer(), preset="debug", device="cpu", seed=1)
    agent.save(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"Dreamer"', '"Dreamar"'))
    with pytest.raises(BundleError, match=r"'Dreamar'.*did you mean \"Dreamer\""):
        agentzoo.load(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"format": 1', '"format": 99'))
    with pytest.raises(BundleError, match=r"has format 99, this version reads up to 1"):
        agentzoo.load(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"training"', '"taming"'))
    with pytest.raises(BundleError, match=r"does not say how its agent was trained"):
        agentzoo.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BundleError, match=r"config.json\" is \[\], expected an object"):
        agentzoo.load(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"deter": 16', '"deter": 24'))
    with pytest.raises(BundleError, match=r"are not those of this Dreamer"):
        agentzoo.load(tmp_path)


def test_an_agent_is_evaluated_over_episodes_of_max_steps_at_most():
    agent = Dreamer("gym:Pendulum-v1", preset="debug", device="cpu", seed=3)
    with pytest.raises(EpisodeError, match="no end after 10 decisions"):
        agent.evaluate(episodes=1, max_steps=10)
    assert agent.evaluate(episodes=1, max_steps=201).lengths == (200,)
