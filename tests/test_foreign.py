"""Any torch module as a bundle: with memory and noise, or with nothing but a forward."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

import agentzoo
from agentzoo.runtime import PolicySpec, evaluate, load_policy, verify
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.policy.spaces import action_spec, observation_specs
from agentzoo.runtime.spec import TensorSpec

ENV = gym.make("CartPole-v1")


def spec(**fields: object) -> PolicySpec:
    given = {
        "agent": "Balance",
        "env": "gym:CartPole-v1?repeat=1",
        "obs": observation_specs(ENV.observation_space),
        "action": action_spec(ENV.action_space),
        "carry": {},
        "noise": {},
    }
    return PolicySpec(**{**given, **fields})  # pyright: ignore[reportArgumentType]


class Balance(nn.Module):
    """Push to the side that the pole falls to."""

    def forward(self, obs: Tensor) -> Tensor:
        return (obs[:, 2] + obs[:, 3] > 0).long()


class Counting(nn.Module):
    """Push to the left at an episode's even steps: nothing but its memory matters."""

    def step(
        self, carry: dict[str, Tensor], obs: dict[str, Tensor], noise: object, mode: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        steps = torch.where(obs["is_first"], 0, carry["steps"]) + 1
        return {"steps": steps}, steps % 2


def test_a_module_with_a_forward_is_a_policy_without_memory(tmp_path: Path) -> None:
    folder = agentzoo.bundle(Balance(), spec(), tmp_path / "balance", golden_steps=30)
    assert verify(folder).steps == 30
    policy = load_policy(folder)
    assert dict(policy.spec.carry) == {}
    assert evaluate(policy, episodes=2).mean > 150  # random play: 22
    obs = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    found, state = policy.predict(obs)
    np.testing.assert_array_equal(found, obs[:, 2] + obs[:, 3] > 0)
    np.testing.assert_array_equal(policy.predict(obs, state)[0], found)


def test_a_carry_needs_no_previous_action(tmp_path: Path) -> None:
    carry = {"steps": TensorSpec(shape=(), dtype="int64")}
    folder = agentzoo.bundle(Counting(), spec(carry=carry), tmp_path / "counting")
    policy = load_policy(folder)
    obs = np.zeros(4, np.float32)
    assert [int(policy.act(obs)) for _ in range(3)] == [1, 0, 1]
    policy.reset()
    assert int(policy.act(obs)) == 1


class Branching(nn.Module):
    def forward(self, obs: Tensor) -> Tensor:
        return torch.zeros(len(obs)).long() if obs.sum() > 0 else torch.ones(len(obs)).long()


class Wide(nn.Module):
    def forward(self, obs: Tensor) -> Tensor:
        return obs.argmax(-1, keepdim=True)


def test_what_cannot_be_a_bundle_is_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    with pytest.raises(BundleError, match=r"cannot trace the step of Branching.*without branches"):
        agentzoo.bundle(Branching(), spec(), folder)
    with pytest.raises(BundleError, match=r"gave the action \[2, 1\] .* its spec says \[2\]"):
        agentzoo.bundle(Wide(), spec(), folder)
    with pytest.raises(ConfigError, match=r"given a function, expected a torch\.nn\.Module"):
        agentzoo.bundle(lambda obs: obs, spec(), folder)  # pyright: ignore[reportArgumentType]
    carry = {"steps": TensorSpec(shape=())}
    with pytest.raises(ConfigError, match="Balance has no step"):
        agentzoo.bundle(Balance(), spec(carry=carry), folder)


def test_a_previous_action_is_in_model_units_where_there_is_one(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def step(
            self, carry: dict[str, Tensor], obs: dict[str, Tensor], noise: object, mode: Tensor
        ) -> tuple[dict[str, Tensor], Tensor]:
            return carry, torch.zeros_like(obs["is_first"]).long()

    carry = {"prev_action": TensorSpec(shape=(3,))}
    folder = agentzoo.bundle(Wrong(), spec(carry=carry), tmp_path / "wrong")
    with pytest.raises(BundleError, match=r"prev_action of float32 and shape \(3,\)"):
        load_policy(folder)


def test_actions_of_a_box_are_the_environment_s_own(tmp_path: Path) -> None:
    class Push(nn.Module):
        def forward(self, obs: dict[str, Tensor]) -> Tensor:
            return 7 * obs["at"][:, :1] + obs["goal"][:, 1:]

    shown = spaces.Dict({"at": spaces.Box(-1, 1, (2,)), "goal": spaces.Discrete(2)})
    taken = spaces.Box(-9.0, 9.0, (1,))
    own = spec(env="", obs=observation_specs(shown), action=action_spec(taken))
    policy = load_policy(agentzoo.bundle(Push(), own, tmp_path / "push"))
    found = policy.act({"at": np.array([0.5, 0.0]), "goal": 1})
    np.testing.assert_allclose(found, [4.5])
