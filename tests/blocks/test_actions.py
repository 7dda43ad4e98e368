"""Actions leave the graph in the environment's form, as the runtime gives them."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.testing import assert_allclose

from agentzoo.blocks.actions import to_env
from agentzoo.runtime.policy.spaces import action_spec, env_action

BOXES = [
    spaces.Box(-1, 1, (3,)),
    spaces.Box(-2, 2, (1,)),
    spaces.Box(np.array([0.0, -3.0], np.float32), np.array([1.0, 5.0], np.float32)),
    spaces.Box(-1e10, 1e10, (2,), np.float64),
    spaces.Box(np.array([-np.inf, -0.5], np.float32), np.array([np.inf, 0.5], np.float32)),
    spaces.Box(np.array([0.0, -2.0], np.float32), np.array([np.inf, 2.0], np.float32)),
    spaces.Box(0, 1, (2, 2), np.float64),
    spaces.Box(-1, 1, ()),
]
INDICES = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=5),
    spaces.MultiDiscrete([3, 2, 4]),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", BOXES + INDICES, ids=str)
def test_agrees_with_its_numpy_twin(space: gym.Space) -> None:
    spec = action_spec(space)
    units = torch.empty(64, spec.size).uniform_(-1.2, 1.2, generator=torch.manual_seed(0))
    ours, twin = to_env(units, spec), env_action(spec, units.numpy())
    assert ours.shape == twin.shape == (64, *space.shape)
    assert_allclose(ours.numpy(), twin, rtol=1e-6, atol=1e-6)
    assert all(space.contains(np.asarray(one)) for one in twin)


@pytest.mark.parametrize("space", BOXES, ids=str)
def test_a_box_is_float32(space: spaces.Box) -> None:
    spec = action_spec(space)
    assert to_env(torch.zeros(1, spec.size), spec).dtype is torch.float32


@pytest.mark.parametrize("space", INDICES, ids=str)
def test_indices_are_int64(space: gym.Space) -> None:
    spec = action_spec(space)
    assert to_env(torch.zeros(1, spec.size), spec).dtype is torch.int64


def test_known_values() -> None:
    box = action_spec(spaces.Box(np.array([0.0, -3.0]), np.array([1.0, 5.0]), dtype=np.float64))
    assert to_env(torch.tensor([[-1.0, 1.0], [0.0, 0.0], [9.0, -9.0]]), box).tolist() == [
        [0, 5],
        [0.5, 1],
        [1, -3],
    ]
    groups = action_spec(spaces.MultiDiscrete([2, 3], start=[1, -1]))
    assert to_env(torch.tensor([[0.0, 1, 1, 0, 0]]), groups).tolist() == [[2, -1]]
