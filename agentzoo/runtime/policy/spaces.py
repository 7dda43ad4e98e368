"""Between Gymnasium and a policy: what spaces mean, and values on their way in and out.

Raw observations become step inputs in `encode` and nowhere else; actions move between the
environment's own form and model units in `env_action` and `model_action`. All of it is numpy.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from ..errors import NotFiniteError, ObservationError, SpaceError
from ..spec import UNBOUNDED, ActionSpec, Array, Arrays, ObsSpec

BARE = "observation"  # the key of an observation space that is not a Dict
RESERVED = frozenset(
    {"is_first", "is_last", "is_terminal", "reward", "action", "prev_action"}
)  # the timeline's own columns
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA or four stacked grey frames
PICTURE = 16  # two axes this long or longer are taken for a picture's
OBSERVE = "gymnasium.wrappers.TransformObservation"
FLOAT32 = np.dtype(np.float32)
LARGEST = 1e38  # stands for an infinite bound: JSON has no infinity, float32 holds this

Observation = ArrayLike | Mapping[str, ArrayLike]
Kind = Literal["image", "vector"]


# -- what a space is read as ---------------------------------------------------------------------


def observation_specs(space: gym.Space[object]) -> dict[str, ObsSpec]:
    """Specs by which each part of an observation space is read.

    A uint8 Box (h, w, c) with 1, 3 or 4 channels or (h, w) and bounds 0 and 255 is an image; a
    Box of one axis, and one of several that does not look like a picture, a flat float32 vector;
    Discrete, MultiDiscrete and MultiBinary are joined one-hots.

    Args:
        space: a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict of those.

    Returns:
        Specs in the order of the space's keys; a space other than a Dict has the key "observation".

    Raises:
        SpaceError: if the space is of another kind, empty, may be an image or numbers, or uses a
            key that transitions need themselves.
    """
    if not isinstance(space, spaces.Dict):
        return {BARE: _obs_spec(BARE, space)}
    specs = {_key(key): _obs_spec(key, space[key]) for key in space}
    if not specs:
        raise SpaceError("the observation space is an empty Dict; an agent needs at least one key")
    return specs


def _key(key: object) -> str:
    if not isinstance(key, str) or not key:
        raise SpaceError(f"the observation key {key!r} is not a name; use a non-empty string")
    if key in RESERVED:
        raise SpaceError(
            f'the observation key "{key}" is taken by stored transitions; rename it with '
            "gymnasium.wrappers.TransformObservation"
        )
    return key


def _obs_spec(key: str, space: gym.Space[object]) -> ObsSpec:
    match space:
        case spaces.Box():
            return _box_obs_spec(key, space)
        case spaces.Discrete():
            return _onehot((), (int(space.n),), (int(space.start),))
        case spaces.MultiDiscrete():
            return _onehot(space.shape, _ints(space.nvec), _ints(space.start))
        case spaces.MultiBinary():
            size = int(np.prod(space.shape))
            return _onehot(space.shape, (2,) * size, (0,) * size)
        case _:
            raise SpaceError(
                f'the observation "{key}" is a {type(space).__name__} space; agents read Box, '
                "Discrete, MultiDiscrete, MultiBinary and one flat Dict of those: convert it with "
                "gymnasium.wrappers.FlattenObservation or TransformObservation"
            )


def _ints(numbers: Array) -> tuple[int, ...]:
    return tuple(int(n) for n in np.ravel(numbers))


def _onehot(source: tuple[int, ...], nvec: tuple[int, ...], start: tuple[int, ...]) -> ObsSpec:
    return ObsSpec(kind="onehot", shape=(sum(nvec),), source=source, nvec=nvec, start=start)


def _box_obs_spec(key: str, space: spaces.Box) -> ObsSpec:
    shape, size = space.shape, int(np.prod(space.shape))
    if size == 0:
        raise SpaceError(
            f'the observation "{key}" has shape {shape} and so no numbers; leave it out'
        )
    if space.dtype == np.uint8 and len(shape) > 1:
        _require_image(key, space)
        return ObsSpec(kind="image", shape=shape if len(shape) == 3 else (*shape, 1), source=shape)
    if len(shape) > 2 and sum(side >= PICTURE for side in shape) >= 2:
        raise SpaceError(
            f'the observation "{key}" is a Box of {space.dtype} and shape {shape}, which looks '
            "like pictures; images are uint8 (height, width, channels) from 0 to 255: convert it "
            f"with {OBSERVE}, such as (255 * image).round().astype(numpy.uint8); {_as_numbers(key)}"
        )
    return ObsSpec(kind="vector", shape=(size,), source=shape)


def is_image(space: spaces.Box) -> bool:
    """Whether a Box is read as an image as it stands."""
    if space.dtype != np.uint8 or len(space.shape) < 2:
        return False
    try:
        _require_image(BARE, space)
    except SpaceError:
        return False
    return True


def _require_image(key: str, space: spaces.Box) -> None:
    """Refuse a uint8 Box of several axes that is not plainly an image.

    Raises:
        SpaceError: saying how to have it read as an image, and how as numbers.
    """
    shape = space.shape
    given = f'the observation "{key}" is a Box of uint8 and shape {shape}'
    if len(shape) > 3:
        raise SpaceError(
            f"{given}, more axes than an image's (height, width, channels); if it is a stack of "
            f"images, give each a key of its own in a Dict with {OBSERVE} (the agents join them "
            f"on channels); {_as_numbers(key)}"
        )
    if len(shape) == 3 and shape[2] not in CHANNELS:
        if shape[0] in CHANNELS or (shape[0] < PICTURE <= min(shape[1:])):
            raise SpaceError(
                f"{given}, which looks like an image with its channels first; images are (height, "
                f"width, channels) with 1, 3 or 4 channels: move the axis with {OBSERVE}; "
                f"{_as_numbers(key)}"
            )
        raise SpaceError(
            f"{given}; an image has 1, 3 or 4 channels, not {shape[2]}: if it is a stack of "
            f"images, give each a key of its own in a Dict with {OBSERVE} (the agents join them on "
            f"channels); {_as_numbers(key)}"
        )
    low, high = int(space.low.min()), int(space.high.max())
    if (low, high) != (0, 255):
        raise SpaceError(
            f"{given} with bounds {low} and {high}, which may be a dim picture or the codes of a "
            f"grid; if it is a picture, give its space the bounds 0 and 255; {_as_numbers(key)}, "
            "and codes better as a MultiDiscrete, which is read as one-hots"
        )


def _as_numbers(key: str) -> str:
    flat = "gymnasium.wrappers.FlattenObservation(env)" if key == BARE else OBSERVE
    return f"numbers are read as such once they are flattened, with {flat}"


def resize_advice(obs: Mapping[str, ObsSpec], key: str, side: int) -> str:
    """Advice on resizing an image observation, with a wrapper that takes these spaces."""
    resized = f"gymnasium.wrappers.ResizeObservation(env, ({side}, {side}))"
    if list(obs) != [BARE]:  # ResizeObservation takes no Dict
        resized = f'{OBSERVE}, whose function resizes obs["{key}"] and whose space says so'
    return (
        f"write size={side} in the environment string or wrap the environment in {resized}; a "
        f"small grid of codes is no picture: {_as_numbers(key)}"
    )


def describe_spaces(obs: Mapping[str, ObsSpec], action: ActionSpec) -> str:
    """The reading of spaces, for people: one clause an observation, and one for the action."""
    clauses = [f'"{key}" as {describe_obs(spec)}' for key, spec in obs.items()]
    return f"{', '.join(clauses)}; actions are {_describe_action(action)}"


def describe_obs(spec: ObsSpec) -> str:
    """Spec by which one observation is read."""
    if spec.kind == "image":
        return f"an image {spec.shape}"
    if spec.kind == "vector":
        flat = f", flattened from {spec.source}" if len(spec.source) > 1 else ""
        return f"a vector of {spec.shape[0]}{flat}"
    return f"one-hots of {_classes(spec.nvec)}"


def _describe_action(spec: ActionSpec) -> str:
    if spec.kind == "box":
        return f"a box of {spec.size}"
    return f"{spec.kind} of {_classes(spec.nvec)}"


def _classes(nvec: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, nvec[:8]))}{', ...' if len(nvec) > 8 else ''} classes"


def space_differences(
    was: tuple[Mapping[str, ObsSpec], ActionSpec], now: tuple[Mapping[str, ObsSpec], ActionSpec]
) -> list[str]:
    """Clauses that say how spaces differ, by key and by field; none where they do not."""
    (obs, action), (new_obs, new_action) = was, now
    found: list[str] = []
    for key in {**obs, **new_obs}:
        old, new = obs.get(key), new_obs.get(key)
        if old is None or new is None:
            found.append(f'the observation "{key}" {"is new" if old is None else "is missing"}')
        elif old != new:
            found += _differing(f'the observation "{key}"', asdict(old), asdict(new))
    return found + _differing("the action", asdict(action), asdict(new_action))


def _differing(noun: str, was: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return [
        f"{noun} had {name} {_brief(was[name])}, has {_brief(now[name])}"
        for name in was
        if was[name] != now[name]
    ]


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def action_spec(space: gym.Space[object]) -> ActionSpec:
    """An action space and its size in model units.

    Args:
        space: a floating point Box of any shape, Discrete, MultiDiscrete or MultiBinary (read as a
            MultiDiscrete of twos).

    Raises:
        SpaceError: if the space is of another kind, empty, or a Box with no room between bounds.
    """
    match space:
        case spaces.Box():
            return _box_action_spec(space)
        case spaces.Discrete():
            n, start = int(space.n), int(space.start)
            return ActionSpec(
                kind="discrete", size=n, shape=(), dtype=str(space.dtype), nvec=(n,), start=(start,)
            )
        case spaces.MultiDiscrete():
            return _multidiscrete(space, _ints(space.nvec), _ints(space.start))
        case spaces.MultiBinary():
            size = int(np.prod(space.shape))
            return _multidiscrete(space, (2,) * size, (0,) * size)
        case _:
            raise SpaceError(
                f"the action space is a {type(space).__name__}; agents fill Box, Discrete, "
                "MultiDiscrete and MultiBinary: flatten it with gymnasium.wrappers.TransformAction"
            )


def _multidiscrete(
    space: spaces.MultiDiscrete | spaces.MultiBinary, nvec: tuple[int, ...], start: tuple[int, ...]
) -> ActionSpec:
    return ActionSpec(
        kind="multidiscrete",
        size=sum(nvec),
        shape=space.shape,
        dtype=str(space.dtype),
        nvec=nvec,
        start=start,
    )


def _box_action_spec(space: spaces.Box) -> ActionSpec:
    low, high = np.ravel(space.low).astype(float), np.ravel(space.high).astype(float)
    if not np.issubdtype(space.dtype, np.floating):
        raise SpaceError(
            f"the action space is a Box of {space.dtype}; agents fill a Box with fractions: use a "
            "float Box, or MultiDiscrete for whole numbers"
        )
    if low.size == 0:
        raise SpaceError(f"the action space has shape {space.shape} and so no numbers to choose")
    bad = np.flatnonzero(~(low < high))  # written so that NaN counts too
    if bad.size:
        i = int(bad[0])
        raise SpaceError(
            f"dimension {i} of the action space reaches from {low[i]} to {high[i]}; its low bound "
            "must be below its high bound: drop the dimension or widen it"
        )
    clip = np.clip([low, high], -LARGEST, LARGEST)
    return ActionSpec(
        kind="box",
        size=low.size,
        shape=space.shape,
        dtype=str(space.dtype),
        low=tuple(clip[0].tolist()),
        high=tuple(clip[1].tolist()),
    )


# -- observations --------------------------------------------------------------------------------


def encode(specs: Mapping[str, ObsSpec], observation: Observation, *, batched: bool) -> Arrays:
    """Raw observations as the tensors a step takes; they always have a batch axis.

    Args:
        specs: what to expect, by key.
        observation: an array (if there is one key) or a mapping from key to array, each of the
            spec's `source` shape, with a batch axis in front if `batched`. Vectors may be of any
            real dtype, images are uint8, one-hots are given as indices.
        batched: whether the arrays carry a batch axis; without it, B is 1 in the result.

    Returns:
        key -> (B, *spec.shape) of the spec's dtype, in the order of `specs`.

    Raises:
        ObservationError: if a key is missing or unknown, or a value has another shape or dtype, is
            not finite, is out of range, or is an empty batch.
    """
    values = _by_key(specs, observation)
    encoded = {key: _encode(key, spec, values[key], batched) for key, spec in specs.items()}
    if not batched:
        return encoded
    sizes = {len(array) for array in encoded.values()}
    if len(sizes) != 1:
        lengths = ", ".join(f'"{key}" has {len(array)}' for key, array in encoded.items())
        raise ObservationError(f"the observations differ in batch size: {lengths}; give as many")
    return encoded


def is_batched(specs: Mapping[str, ObsSpec], observation: Observation) -> bool:
    """Whether an observation has a batch axis in front, by the number of axes of its first part."""
    _refuse_reset(observation)
    key, spec = next(iter(specs.items()))
    value = observation.get(key, 0) if isinstance(observation, Mapping) else observation
    return _array(key, value).ndim == len(spec.source) + 1


def _refuse_reset(observation: object) -> None:
    pair = cast("tuple[object, ...]", observation) if isinstance(observation, tuple) else ()
    if len(pair) == 2 and isinstance(pair[1], Mapping):
        raise ObservationError(
            "the observation is a tuple (observation, info), as an environment's reset gives it; "
            "pass its first part: obs, info = env.reset()"
        )


def _by_key(specs: Mapping[str, ObsSpec], observation: Observation) -> Mapping[str, ArrayLike]:
    _refuse_reset(observation)
    if not isinstance(observation, Mapping):
        if len(specs) == 1:
            return {next(iter(specs)): observation}
        raise ObservationError(
            f"the observation is a single {type(observation).__name__}, expected a dict with the "
            f"keys {', '.join(specs)}; pass one value for each"
        )
    if observation.keys() != specs.keys():
        missing = [key for key in specs if key not in observation]
        extra = [str(key) for key in observation if key not in specs]
        raise ObservationError(
            f"the observation has the keys {', '.join(map(str, observation)) or 'none'}, expected "
            f"{', '.join(specs)}; add {', '.join(missing) or 'none'} and leave out "
            f"{', '.join(extra) or 'none'}"
        )
    return observation


def _encode(key: str, spec: ObsSpec, value: ArrayLike, batched: bool) -> Array:
    array = _array(key, value)
    shape = array.shape[1:] if batched else array.shape
    if shape != spec.source or (batched and array.ndim == 0):
        raise _wrong_shape(key, spec, array, batched)
    if array.size == 0:
        raise ObservationError(
            f'the observation "{key}" is an empty batch; give at least one observation'
        )
    if spec.kind == "image":
        return _image(key, spec, array)
    if spec.kind == "vector":
        return _vector(key, spec, array)
    return _indices(key, spec, array)


def _array(key: str, value: ArrayLike) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:  # elements of unequal shape
        raise ObservationError(
            f'the observation "{key}" cannot be made an array ({error}); pass a numpy array'
        ) from error


def _wrong_shape(key: str, spec: ObsSpec, array: Array, batched: bool) -> ObservationError:
    shape = ", ".join(map(str, spec.source))
    expected = (f"(batch, {shape})" if shape else "(batch,)") if batched else str(spec.source)
    if array.shape == spec.source:
        mend = "add a batch axis in front: observation[None]"
    elif array.shape[1:] == spec.source:
        mend = "take one element of the batch"
    elif spec.kind == "image" and sorted(array.shape[-len(spec.source) :]) == sorted(spec.source):
        mend = "move the axes: images are (height, width, channels)"
    else:
        mend = "make it the shape the policy was trained on"
    return ObservationError(
        f'the observation "{key}" has shape {array.shape}, expected {expected}; {mend}'
    )


def _wrong_dtype(key: str, array: Array, expected: str, mend: str) -> ObservationError:
    return ObservationError(
        f'the observation "{key}" has dtype {array.dtype}, expected {expected}; {mend}'
    )


def _image(key: str, spec: ObsSpec, array: Array) -> Array:
    if array.dtype != np.uint8:
        mend = "pass the raw frame"
        if array.dtype.kind == "f":
            mend = "if it is scaled to [0, 1], use (255 * image).round().astype(numpy.uint8)"
        raise _wrong_dtype(key, array, "uint8 in 0..255", mend)
    return array.reshape(-1, *spec.shape)


def _vector(key: str, spec: ObsSpec, array: Array) -> Array:
    if array.dtype.kind not in "fiub":
        raise _wrong_dtype(key, array, "real numbers", "pass a numpy array of floats")
    if array.dtype != FLOAT32:
        with np.errstate(over="ignore"):  # a float64 beyond float32 is reported below
            array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise NotFiniteError(
            f'the observation "{key}" holds NaN or infinity (or a number beyond float32), expected '
            "finite numbers; look at what the environment or sensor gave"
        )
    return array.reshape(-1, *spec.shape)


@lru_cache
def _groups(nvec: tuple[int, ...], start: tuple[int, ...]) -> tuple[Array, Array, Array]:
    counts = np.array(nvec, np.int64)
    return counts, np.array(start, np.int64), np.cumsum(counts) - counts


def _indices(key: str, spec: ObsSpec, array: Array) -> Array:
    if array.dtype.kind not in "iub":
        raise _wrong_dtype(key, array, "whole numbers", "pass the index, not its one-hot")
    counts, start, offset = _groups(spec.nvec, spec.start)
    # (B, *source) -> (B, groups)
    index = array.reshape(-1, len(spec.nvec)).astype(np.int64) - start
    if ((index < 0) | (index >= counts)).any():
        highest = start + counts - 1
        raise ObservationError(
            f'the observation "{key}" is {array.tolist()}, expected whole numbers from '
            f"{start.tolist()} to {highest.tolist()}; look at what the environment gave"
        )
    return _ones_at(index + offset, spec.shape[0])


def _ones_at(columns: Array, size: int) -> Array:
    onehot = np.zeros((len(columns), size), np.float32)
    np.put_along_axis(onehot, columns, 1.0, axis=1)
    return onehot


# -- actions -------------------------------------------------------------------------------------


@lru_cache
def _bounds(spec: ActionSpec) -> tuple[Array, Array, Array]:
    low, high = np.array(spec.low), np.array(spec.high)
    return low, high, (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)


def env_action(spec: ActionSpec, action: ArrayLike) -> Array:
    """An action in model units as the environment takes it.

    Box: low + (a + 1) / 2 * (high - low), clipped to the bounds; dimensions with a bound of 1e6 or
    more are clipped only. Discrete and MultiDiscrete: the largest entry of each group, plus start.

    Args:
        spec: the environment's action.
        action: (..., A) in model units; any number of leading axes.

    Returns:
        (..., *spec.shape) of spec.dtype.
    """
    array = np.asarray(action)
    lead = array.shape[:-1]
    assert array.shape[-1:] == (spec.size,), (array.shape, spec.size)
    if spec.kind == "box":
        low, high, bounded = _bounds(spec)
        with np.errstate(over="ignore", invalid="ignore"):  # in dimensions that are passed through
            scaled = np.where(bounded, low + (array + 1.0) / 2.0 * (high - low), array)
        return np.clip(scaled, low, high).astype(spec.dtype).reshape((*lead, *spec.shape))
    _, start, offset = _groups(spec.nvec, spec.start)
    groups = np.split(array, offset[1:], axis=-1)
    chosen = np.stack([group.argmax(-1) for group in groups], axis=-1) + start
    return chosen.astype(spec.dtype).reshape((*lead, *spec.shape))


def model_action(spec: ActionSpec, action: ArrayLike) -> Array:
    """An environment's action in model units; the inverse of `env_action`.

    Args:
        spec: the environment's action.
        action: (..., *spec.shape), in the environment's bounds; any number of leading axes.

    Returns:
        (..., A) float32.

    Raises:
        SpaceError: if the action has another shape, is not finite, or is an index out of range.
    """
    array = np.asarray(action)
    lead = array.ndim - len(spec.shape)
    if lead < 0 or array.shape[lead:] != spec.shape:
        raise SpaceError(
            f"the action has shape {array.shape}, expected {spec.shape} or that with leading axes; "
            "pass it as the environment's action space has it"
        )
    flat = array.reshape(*array.shape[:lead], -1)
    return _box_units(spec, flat) if spec.kind == "box" else _onehot_units(spec, flat)


def _box_units(spec: ActionSpec, flat: Array) -> Array:
    if not np.isfinite(flat).all():
        raise SpaceError(
            "the action holds NaN or infinity, expected finite numbers; look at its source"
        )
    low, high, bounded = _bounds(spec)
    clipped = np.clip(flat, low, high)
    with np.errstate(over="ignore"):
        units = np.where(bounded, 2.0 * (clipped - low) / (high - low) - 1.0, clipped)
    return units.astype(np.float32)


def _onehot_units(spec: ActionSpec, flat: Array) -> Array:
    counts, start, offset = _groups(spec.nvec, spec.start)
    index = flat.astype(np.int64) - start
    if (index + start != flat).any() or ((index < 0) | (index >= counts)).any():
        raise SpaceError(
            f"the action is {flat.tolist()}, expected whole numbers from {start.tolist()} to "
            f"{(start + counts - 1).tolist()}; pass indices as the action space has them"
        )
    return _ones_at((index + offset).reshape(-1, counts.size), spec.size).reshape(
        *flat.shape[:-1], spec.size
    )


def raw_observation(spec: ObsSpec, array: Array) -> Array:
    """An environment's own form of what a step takes, (N, *shape) -> (N, *source).

    Of one-hots it is the largest entry of each group, so probabilities do, too.
    """
    lead = len(array)
    if spec.kind != "onehot":
        return array.reshape(lead, *spec.source)
    groups = np.split(array, np.cumsum(spec.nvec)[:-1], axis=-1)
    chosen = np.stack([group.argmax(-1) for group in groups], axis=-1)
    return (chosen + np.array(spec.start, np.int64)).reshape(lead, *spec.source)


# -- back to Gymnasium ---------------------------------------------------------------------------


def observation_space(specs: Mapping[str, ObsSpec]) -> gym.Space[Any]:
    """The space whose `observation_specs` these are; vectors without their bounds."""
    if list(specs) == [BARE]:
        return _obs_space(specs[BARE])
    return spaces.Dict({key: _obs_space(spec) for key, spec in specs.items()})


def _obs_space(spec: ObsSpec) -> gym.Space[Any]:
    if spec.kind == "image":
        return spaces.Box(0, 255, spec.source, np.uint8)
    if spec.kind == "vector":
        return spaces.Box(-np.inf, np.inf, spec.source, np.float32)
    nvec, start = np.array(spec.nvec, np.int64), np.array(spec.start, np.int64)
    if not spec.source:
        return spaces.Discrete(int(nvec[0]), start=int(start[0]))
    return spaces.MultiDiscrete(nvec.reshape(spec.source), start=start.reshape(spec.source))


def action_space(spec: ActionSpec) -> gym.Space[Any]:
    """The space whose `action_spec` this is."""
    if spec.kind == "box":
        low, high, _ = _bounds(spec)
        dtype = np.dtype(spec.dtype).type
        shaped = [bound.reshape(spec.shape).astype(dtype) for bound in (low, high)]
        return spaces.Box(shaped[0], shaped[1], spec.shape, dtype)
    nvec, start = np.array(spec.nvec, np.int64), np.array(spec.start, np.int64)
    if spec.kind == "discrete":
        return spaces.Discrete(int(nvec[0]), start=int(start[0]))
    return spaces.MultiDiscrete(nvec.reshape(spec.shape), start=start.reshape(spec.shape))
