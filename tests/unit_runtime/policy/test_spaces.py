"""Spaces as they are read, and values on their way in and out."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import agentzoo
from agentzoo.runtime.errors import ConfigError, ObservationError, SpaceError
from agentzoo.runtime.policy.spaces import (
    action_spec,
    describe_spaces,
    encode,
    env_action,
    model_action,
    observation_specs,
    space_differences,
)
from agentzoo.runtime.spec import ActionSpec, ObsSpec


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def vector(*shape: int, dtype: type = np.float32) -> spaces.Box:
    return spaces.Box(0, 9, shape, dtype)


@pytest.mark.parametrize(
    ("space", "kind", "shape", "source"),
    [
        (image(64, 48, 3), "image", (64, 48, 3), (64, 48, 3)),
        (image(8, 8, 1), "image", (8, 8, 1), (8, 8, 1)),
        (image(8, 8, 4), "image", (8, 8, 4), (8, 8, 4)),
        (image(8, 6), "image", (8, 6, 1), (8, 6)),
        (image(128), "vector", (128,), (128,)),  # Atari's memory
        (spaces.flatten_space(image(8, 8, 12)), "vector", (768,), (768,)),
        (spaces.Box(0, 1, (10, 10, 4), np.bool_), "vector", (400,), (10, 10, 4)),  # MinAtar
        (vector(), "vector", (1,), ()),
        (vector(3, 4), "vector", (12,), (3, 4)),
        (vector(2, dtype=np.float64), "vector", (2,), (2,)),
        (vector(2, dtype=np.int16), "vector", (2,), (2,)),
    ],
)
def test_box_observations(space: spaces.Box, kind: str, shape: tuple, source: tuple) -> None:
    spec = observation_specs(space)["observation"]
    assert (spec.kind, spec.shape, spec.source) == (kind, shape, source)


def test_discrete_observations_are_joined_onehots() -> None:
    space = spaces.Dict(
        a=spaces.Discrete(4, start=2), b=spaces.MultiDiscrete([2, 3]), c=spaces.MultiBinary(2)
    )
    specs = observation_specs(space)
    assert specs["a"] == ObsSpec(kind="onehot", shape=(4,), source=(), nvec=(4,), start=(2,))
    assert specs["b"] == ObsSpec(kind="onehot", shape=(5,), source=(2,), nvec=(2, 3), start=(0, 0))
    found = encode(specs, {"a": [5, 2], "b": [[1, 2], [0, 0]], "c": [[0, 1], [1, 1]]}, batched=True)
    assert found["a"].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    assert found["b"].tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert found["c"].tolist() == [[1, 0, 0, 1], [0, 1, 0, 1]]
    assert all(array.dtype == np.float32 for array in found.values())


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (spaces.Tuple([vector(2)]), 'observation "observation" is a Tuple space; agents read Box'),
        (spaces.Text(5), "is a Text space.*FlattenObservation"),
        (spaces.Dict(a=spaces.Dict(b=vector(2))), 'observation "a" is a Dict space'),
        (spaces.Dict(), "empty Dict"),
        (spaces.Dict({"reward": vector(2)}), 'key "reward" is taken'),
        (image(3, 64, 64), "channels first"),
        (image(4, 84, 84), "channels first"),
        (image(9, 84, 84), r"shape \(9, 84, 84\), which looks like .* channels first; .*Flatten"),
        (image(64, 64, 2), r"has 1, 3 or 4 channels, not 2: .* stack .* key of its own"),
        (image(64, 64, 12), r"not 12: .*FlattenObservation\(env\)"),
        (image(4, 4, 2), r"shape \(4, 4, 2\), which .*; numbers are read as such once"),
        (spaces.Dict(a=image(64, 64, 9)), r'"a" .*not 9: .*flattened, with .*TransformObservation'),
        (image(4, 64, 64, 3), r"more axes than an image's .*; if it is a stack of images, give"),
        (spaces.Box(0, 10, (7, 7, 3), np.uint8), r"bounds 0 and 10, which may be .* codes of a"),
        (spaces.Box(0, 1, (64, 64), np.uint8), r"bounds 0 and 1, .*read as one-hots"),
        (spaces.Box(0, 1, (64, 64, 3)), r"float32 and shape \(64, 64, 3\), .* uint8 .*flattened"),
        (spaces.Box(0, 1, (3, 64, 64)), r"looks like pictures; images are uint8 \(height"),
        (spaces.Box(0, 255, (4, 64, 64, 3), np.int32), r"int32 .* looks like pictures"),
        (vector(0), "no numbers"),
    ],
)
def test_unreadable_observations(space: gym.Space, match: str) -> None:
    with pytest.raises(SpaceError, match=match):
        observation_specs(space)


def test_encode_keeps_images_and_flattens_vectors() -> None:
    specs = observation_specs(spaces.Dict(pic=image(4, 6), vec=vector(2, 2)))
    pic = np.arange(24, dtype=np.uint8).reshape(4, 6)
    found = encode(specs, {"vec": np.eye(2), "pic": pic}, batched=False)
    assert list(found) == ["pic", "vec"]
    assert found["pic"].shape == (1, 4, 6, 1)
    assert found["pic"].dtype == np.uint8
    assert (found["pic"][0, :, :, 0] == pic).all()
    assert found["vec"].tolist() == [[1, 0, 0, 1]]
    assert found["vec"].dtype == np.float32
    batch = encode(
        specs, {"vec": np.ones((3, 2, 2), int), "pic": np.stack([pic] * 3)}, batched=True
    )
    assert {key: array.shape for key, array in batch.items()} == {
        "pic": (3, 4, 6, 1),
        "vec": (3, 4),
    }


def test_encode_takes_a_bare_array_for_one_key() -> None:
    specs = observation_specs(spaces.Dict(state=vector(2)))
    assert encode(specs, [1.0, 2.0], batched=False)["state"].tolist() == [[1.0, 2.0]]


ONE = observation_specs(vector(3))
PIC = observation_specs(spaces.Dict(image=image(4, 4, 3)))
TWO = observation_specs(spaces.Dict(a=vector(1), b=vector(2)))
ODD = observation_specs(spaces.Discrete(3, start=5))


@pytest.mark.parametrize(
    ("specs", "observation", "batched", "match"),
    [
        (TWO, {"a": [1.0]}, False, "keys a, expected a, b; add b and leave out none"),
        (TWO, {"a": [1.0], "b": [1.0, 2], "c": 0}, False, "add none and leave out c"),
        (TWO, np.zeros(3), False, "single ndarray, expected a dict with the keys a, b"),
        (TWO, {"a": [[1.0]], "b": np.ones((2, 2))}, True, '"a" has 1, "b" has 2;'),
        (ONE, np.zeros(4), False, r'"observation" has shape \(4,\), expected \(3,\)'),
        (ONE, np.zeros(3), True, r"expected \(batch, 3\); add a batch axis"),
        (ONE, np.zeros((2, 3)), False, r"has shape \(2, 3\), expected \(3,\); take one element"),
        (ONE, np.zeros((0, 3)), True, "empty batch"),
        (ONE, [0.0, np.nan, 0.0], False, '"observation" holds NaN or infinity'),
        (ONE, [0.0, np.inf, 0.0], False, "NaN or infinity"),
        (ONE, [0.0, 1e300, 0.0], False, "beyond float32"),
        (ONE, ["a", "b", "c"], False, "dtype <U1, expected real numbers"),
        (ONE, [1j, 0, 0], False, "dtype complex128"),
        (ONE, [[1.0, 2.0], [1.0]], False, "cannot be made an array"),
        (
            PIC,
            np.zeros((4, 4, 3), np.float32),
            False,
            r"float32, expected uint8 in 0\.\.255; if it",
        ),
        (PIC, np.zeros((4, 4, 3), np.int64), False, "dtype int64, expected uint8"),
        (PIC, np.zeros((3, 4, 4), np.uint8), False, r"images are \(height, width, channels\)"),
        (ODD, 8, False, r"is 8, expected whole numbers from \[5\] to \[7\]"),
        (ODD, 4, False, "expected whole numbers from"),
        (ODD, 5.0, False, "dtype float64, expected whole numbers; pass the index"),
        (ODD, 5, True, r"has shape \(\), expected \(batch,\)"),
    ],
)
def test_encode_refuses(specs: dict, observation: object, batched: bool, match: str) -> None:
    with pytest.raises(ObservationError, match=match):
        encode(specs, observation, batched=batched)


def box(low: list, high: list, dtype: type = np.float32) -> spaces.Box:
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


MIXED = action_spec(box([-1, 0, -1e10, -np.inf], [3, 10, 1e10, 5]))


def test_box_action_spec() -> None:
    low, high = (-1, 0, -1e10, -1e38), (3, 10, 1e10, 5)
    expected = ActionSpec(kind="box", size=4, shape=(4,), dtype="float32", low=low, high=high)
    assert expected == MIXED


def test_box_actions_rescale_where_bounded_and_clip_everywhere() -> None:
    units = np.array([[-1, -1, -7, -9], [0, 0.5, 8, 9], [5, -5, 2e10, 0]])
    expected = [[-1, 0, -7, -9], [1, 7.5, 8, 5], [3, 0, 1e10, 0]]
    actions = env_action(MIXED, units)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, np.float32(expected))
    inside = [[-1, -1, -7, -9], [0, 0.5, 8, 5], [1, -1, 1e10, 0]]
    np.testing.assert_array_equal(model_action(MIXED, actions), np.float32(inside))


def test_float64_boxes_of_any_shape_stay_in_bounds(rng: np.random.Generator) -> None:
    space = spaces.Box(-0.1, 0.7, (2, 3), np.float64)
    spec = action_spec(space)
    actions = env_action(spec, rng.uniform(-1.5, 1.5, (50, 4, 6)))
    assert actions.shape == (50, 4, 2, 3)
    assert all(space.contains(action) for action in actions.reshape(-1, 2, 3))
    assert model_action(spec, actions).shape == (50, 4, 6)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.Discrete(1),
        spaces.MultiDiscrete([2, 1, 4], start=[0, 5, 1]),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 1]])),
        spaces.MultiBinary(3),
        spaces.MultiBinary((2, 2)),
        spaces.Box(-2, 3, (2,), np.float32),
    ],
)
def test_actions_go_there_and_back(space: gym.Space) -> None:
    spec = action_spec(space)
    space.seed(0)
    actions = np.stack([space.sample() for _ in range(40)])
    units = model_action(spec, actions)
    assert units.shape == (40, spec.size)
    assert units.dtype == np.float32
    back = env_action(spec, units)
    assert back.dtype == space.dtype
    assert all(space.contains(action) for action in back)
    np.testing.assert_allclose(back, actions, atol=1e-6)
    np.testing.assert_array_equal(env_action(spec, units[0]), back[0])


def test_discrete_actions_take_the_largest_entry_of_each_group() -> None:
    spec = action_spec(spaces.MultiDiscrete([2, 3], start=[1, 5]))
    assert env_action(spec, [0.2, 0.1, -3, -1, -2]).tolist() == [1, 6]
    assert action_spec(spaces.Discrete(4, start=2)).nvec == (4,)
    assert env_action(action_spec(spaces.Discrete(4, start=2)), [0, 0, 0, 1]) == 5


def unequal(low: float, high: float) -> spaces.Box:
    space = spaces.Box(-1, 1, (2,), np.float32)
    space.low[1], space.high[1] = low, high  # Gymnasium refuses some of these itself
    return space


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (unequal(1, 1), "dimension 1 of the action space reaches from 1.0 to 1.0; its low bound"),
        (unequal(2, 1), "from 2.0 to 1.0"),
        (unequal(np.nan, 1), "from nan to 1.0"),
        (unequal(0, np.nan), "from 0.0 to nan"),
        (spaces.Box(0, 9, (2,), np.int64), "Box of int64; agents fill a Box with fractions"),
        (spaces.Box(0, 1, (0,), np.float32), "no numbers to choose"),
        (spaces.Dict(a=spaces.Discrete(2)), "action space is a Dict"),
        (spaces.Text(4), "action space is a Text"),
    ],
)
def test_unfillable_actions(space: gym.Space, match: str) -> None:
    with pytest.raises(SpaceError, match=match):
        action_spec(space)


@pytest.mark.parametrize(
    ("space", "action", "match"),
    [
        (spaces.Box(-1, 1, (2,)), [0.0], r"shape \(1,\), expected \(2,\)"),
        (spaces.Box(-1, 1, (2,)), [0.0, np.nan], "NaN or infinity"),
        (spaces.Discrete(3, start=1), 0, r"is \[0\], expected whole numbers from \[1\] to \[3\]"),
        (spaces.Discrete(3), 1.5, "whole numbers"),
    ],
)
def test_model_action_refuses(space: gym.Space, action: object, match: str) -> None:
    with pytest.raises(SpaceError, match=match):
        model_action(action_spec(space), action)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_what_is_read_as_what_is_said_in_words() -> None:
    obs = observation_specs(
        spaces.Dict(pic=image(64, 64, 3), state=vector(2, 3), code=spaces.MultiDiscrete([2, 3]))
    )
    assert describe_spaces(obs, action_spec(spaces.Discrete(4))) == (
        '"pic" as an image (64, 64, 3), "state" as a vector of 6, flattened from (2, 3), "code" as '
        "one-hots of 2, 3 classes; actions are discrete of 4 classes"
    )
    said = describe_spaces(observation_specs(vector(3)), action_spec(spaces.Box(-1, 1, (2,))))
    assert said == '"observation" as a vector of 3; actions are a box of 2'


def test_spaces_that_differ_are_told_apart_by_key_and_field() -> None:
    box, wide = spaces.Box(-1, 1, (1,)), spaces.Box(-10, 10, (1,))
    was = observation_specs(spaces.Dict(a=vector(3), b=vector(2))), action_spec(box)
    now = observation_specs(spaces.Dict(a=vector(4), c=vector(2))), action_spec(wide)
    assert space_differences(was, now) == [
        'the observation "a" had shape (3,), has (4,)',
        'the observation "a" had source (3,), has (4,)',
        'the observation "b" is missing',
        'the observation "c" is new',
        "the action had low (-1.0,), has (-10.0,)",
        "the action had high (1.0,), has (10.0,)",
    ]
    assert space_differences(was, was) == []


@pytest.mark.parametrize(
    ("spaces_", "advice"),
    [
        (image(84, 84, 3), r"ResizeObservation\(env, \(64, 64\)\)"),
        (spaces.Dict(cam=image(84, 84, 3), state=vector(2)), r"TransformObservation.*obs\["),
    ],
    ids=["bare", "dict"],
)
@pytest.mark.parametrize("agent", ["Dreamer", "DreamerV3"])
def test_the_advice_to_resize_works_where_it_is_given(
    agent: str, spaces_: gym.Space, advice: str
) -> None:
    pytest.importorskip("torch")

    class Shown(gym.Env):
        observation_space, action_space = spaces_, spaces.Discrete(2)

    with pytest.raises(ConfigError, match=advice) as refused:
        getattr(agentzoo, agent)(Shown(), preset="debug", device="cpu")
    assert ("ResizeObservation" in str(refused.value)) == isinstance(spaces_, spaces.Box)
