"""Observations given a form that agents read: keys, sizes, kinds, nested spaces."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agentzoo.runtime import make_env
from agentzoo.runtime.envs import Observe, shrunk
from agentzoo.runtime.errors import EnvironmentStringError, NotFiniteError, SpaceError
from agentzoo.runtime.policy.spaces import observation_specs


class Showing(gym.Env[Any, np.int64]):
    """Shows one observation for ever."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: gym.Space[Any], value: Any = None) -> None:
        self.observation_space = space
        space.seed(0)
        self.value = space.sample() if value is None else value

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.value, {}

    def step(self, action: np.int64) -> Any:
        return self.value, 0.0, False, False, {}


def pixels(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def seen(env: Observe) -> Any:
    """The first observation, which is in the space that the wrapper says, and readable."""
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert observation_specs(env.observation_space)
    return observation


def test_nested_spaces_become_flat_keys_in_their_order() -> None:
    space = spaces.Dict(
        arm=spaces.Dict(pos=spaces.Box(-1, 1, (2,)), camera=pixels(4, 4, 3)),
        pair=spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (1,)))),
    )
    env = Showing(space)
    observation = seen(Observe(env))
    assert set(observation) == {"arm.pos", "arm.camera", "pair.0", "pair.1"}
    assert observation["arm.camera"] is not None
    np.testing.assert_array_equal(observation["arm.pos"], env.value["arm"]["pos"])
    assert observation["pair.0"] == env.value["pair"][0]


def test_keys_are_chosen_and_ordered_and_others_may_be_unreadable() -> None:
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1, (2,)), text=spaces.Text(9))
    env = Observe(Showing(space), keys=["b", "a"])
    assert list(seen(env)) == ["b", "a"]
    with pytest.raises(SpaceError, match=r'no observation "c"; observations: a, b, text'):
        Observe(Showing(space), keys=["c"])


@pytest.mark.parametrize("shape", [(96, 96, 3), (30, 50), (480, 640, 3)])
def test_pictures_get_one_size_by_means_over_areas(shape: tuple[int, ...]) -> None:
    env = Showing(pixels(*shape))
    found = seen(Observe(env, size=64))
    whole = env.value if len(shape) == 3 else env.value[..., None]
    assert found.shape == (64, 64, whole.shape[-1])
    np.testing.assert_array_equal(found, shrunk(whole, 64))
    assert abs(float(found.mean()) - float(whole.mean())) < 1


def test_a_larger_picture_than_float32_can_add_is_exact() -> None:
    image = np.full((512, 512, 1), 255, np.uint8)
    image[::2] = 254
    np.testing.assert_array_equal(shrunk(image, 1), [[[255]]])  # 254.5, rounded up
    assert shrunk(np.arange(4, dtype=np.uint8).reshape(2, 2, 1), 4)[:, :, 0].tolist() == [
        [0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3],
    ]  # fmt: skip


def test_floats_are_scaled_from_their_bounds() -> None:
    space = spaces.Box(-1, 1, (2, 16, 16), np.float32)
    value = np.zeros((2, 16, 16), np.float32)
    value[1] = 1
    found = seen(Observe(Showing(space, value), kind="image"))  # two channels, and they are first
    assert list(found) == ["observation.0", "observation.1"]
    assert found["observation.0"].shape == (16, 16, 1)
    assert (found["observation.0"] == 128).all()
    assert (found["observation.1"] == 255).all()
    for bad in (np.nan, np.inf):
        value[0, 3, 4] = bad
        with pytest.raises(NotFiniteError, match=r'the picture "observation" holds NaN'):
            Observe(Showing(space, value), kind="image").reset()
    endless = Showing(spaces.Box(-np.inf, np.inf, (16, 16), np.float32))
    with pytest.raises(SpaceError, match="to be an image and has bounds -inf and inf"):
        Observe(endless, kind="image")


@pytest.mark.parametrize(
    ("shape", "keys", "channels"),
    [
        ((16, 16, 6), 2, 3),
        ((16, 16, 5), 5, 1),
        ((4, 16, 16), 1, 4),
        ((5, 16, 16, 3), 5, 3),
        ((3, 2, 16, 16), 6, 1),
    ],
)
def test_other_channels_and_stacks_are_several_keys(
    shape: tuple[int, ...], keys: int, channels: int
) -> None:
    env = Showing(spaces.Dict(rgb=pixels(*shape)))
    found = seen(Observe(env, kind={"rgb": "image"}))
    assert [one.shape for one in found.values()] == [(16, 16, channels)] * keys
    if len(shape) == 4 and shape[-1] == 3:
        np.testing.assert_array_equal(found["rgb.3"], env.value["rgb"][3])


def test_a_kind_of_vector_lays_numbers_flat() -> None:
    env = Showing(spaces.Dict(grid=spaces.Box(0, 9, (7, 7, 3), np.uint8)))
    found = seen(Observe(env, kind={"grid": "vector"}))
    np.testing.assert_array_equal(found["grid"], env.value["grid"].ravel())
    with pytest.raises(SpaceError, match=r'no observation "gird"; did you mean "grid"'):
        Observe(env, kind={"gird": "vector"})
    with pytest.raises(SpaceError, match=r"shape \(2, 2, 2, 2, 2\), expected of an image two axes"):
        Observe(Showing(pixels(2, 2, 2, 2, 2)), kind="image")


class Cameras(Showing):
    """A registered environment's observations."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(spaces.Dict(eye=pixels(48, 32, 3), arm=spaces.Dict(q=spaces.Discrete(2))))


def test_gym_strings_say_keys_size_and_kind() -> None:
    gym.register("Cameras-v0", entry_point=Cameras)
    try:
        assert set(make_env("gym:Cameras-v0").reset()[0]) == {"arm.q", "eye"}
        env = make_env("gym:Cameras-v0,keys=eye+arm.q,size=16")
        observation, _ = env.reset()
        assert {key: np.shape(one) for key, one in observation.items()} == {
            "eye": (16, 16, 3), "arm.q": (),
        }  # fmt: skip
        with pytest.raises(EnvironmentStringError, match=r'keys=eyes: .*did you mean "eye"'):
            make_env("gym:Cameras-v0,keys=eyes")
        with pytest.raises(EnvironmentStringError, match=r"expected one of image, vector"):
            make_env("gym:Cameras-v0,kind=picture")
    finally:
        del gym.registry["Cameras-v0"]
