"""MiniGrid's tasks by string: what is seen, what is scored, which names are known."""

import numpy as np
import pytest

from agentzoo.runtime import make_env
from agentzoo.runtime.envs import Outcome, resolve, scores_of, time_limit
from agentzoo.runtime.errors import EnvironmentStringError
from agentzoo.runtime.policy.spaces import observation_specs

pytest.importorskip("minigrid")


@pytest.mark.parametrize(
    ("obs", "key", "kind", "size"),
    [
        ("view", "image", "image", (64, 64, 3)),
        ("full", "image", "image", (64, 64, 3)),
        ("codes", "tiles", "onehot", (7 * 7 * (11 + 6 + 4),)),
    ],
)
def test_what_is_seen(obs: str, key: str, kind: str, size: tuple[int, ...]) -> None:
    env = make_env(f"minigrid:DoorKey-5x5,obs={obs}")
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert env.observation_space.contains(first)
    np.testing.assert_array_equal(first[key], again[key])
    spec = observation_specs(env.observation_space)[key]
    assert (spec.kind, spec.shape) == (kind, size)
    turned, *_ = env.step(0)
    assert (turned["direction"] - first["direction"]) % 4 == 3  # to the left


def test_the_goal_is_success_and_the_limit_is_none() -> None:
    env = make_env("minigrid:Empty-5x5,max_episode_steps=9,obs=codes")
    assert time_limit(env) == 9
    env.reset(seed=0)
    for action in (2, 2, 1, 2):
        assert not env.step(action)[2]
    _, reward, terminated, truncated, info = env.step(2)
    assert float(reward) > 0
    assert (terminated, truncated, info["is_success"]) == (True, False, True)
    env.reset(seed=0)
    ends = [env.step(0)[2:] for _ in range(9)]
    assert ends[-1][:2] == (False, True)
    assert not ends[-1][2]["is_success"]
    outcomes = [Outcome(total=0.5, length=5, info=info), Outcome(total=0, length=9, info={})]
    assert scores_of("minigrid:Empty-5x5", outcomes) == {"success": 50.0}


def test_names_are_short_and_ids_are_understood() -> None:
    resolved = "minigrid:DoorKey-5x5?obs=view&repeat=1&size=64"
    assert resolve("minigrid:DoorKey-5x5") == resolved
    assert resolve("minigrid:MiniGrid-DoorKey-5x5-v0") == resolved
    assert resolve("minigrid:DoorKey-5x5,obs=codes") == "minigrid:DoorKey-5x5?obs=codes&repeat=1"
    with pytest.raises(EnvironmentStringError, match=r'did you mean "DoorKey-5x5"'):
        resolve("minigrid:DorKey-5x5")
    with pytest.raises(EnvironmentStringError, match=r'did you mean "minigrid:DoorKey-5x5"\?'):
        resolve("DoorKey-5x5")
