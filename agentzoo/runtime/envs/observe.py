"""Observations as agents read them: chosen keys, pictures of one size, nested spaces laid flat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import NotFiniteError, SpaceError, nearest
from ..policy.spaces import BARE, CHANNELS, PICTURE, Kind, is_image
from ..spec import Array
from .frames import shrunk
from .suite import Env

Space = gym.Space[Any]
Path = tuple[str | int, ...]  # of a leaf in nested Dicts and Tuples


@dataclass(frozen=True)
class _Part:
    """One observation that agents see: its space, and how it comes from the environment's leaf."""

    path: Path
    space: Space
    read: Callable[[Any], Any]


class Observe(gym.ObservationWrapper[Any, Any, Any]):
    """Gives an environment's observations a form that agents read.

    A nested Dict or Tuple becomes one flat Dict, whose keys are joined by dots: `arm.camera`,
    `pair.0`. Pictures become uint8 (height, width, channels). One of other channel counts than 1, 3
    or 4, or a stack of several, becomes several keys, `camera.0`, `camera.1`, which agents join on
    channels again.

    Args:
        env: the environment.
        keys: those to keep, in this order, in their flat spelling; None is all.
        size: side of every picture in pixels, made by means over areas; None leaves them.
        kind: what a Box is, by key or for all of them: "image" also where it holds floats (scaled
            from its bounds), has other channels, its channels first, or more axes, a stack;
            "vector" flattens it. Where nothing is said, images are what agents take for one.

    Raises:
        SpaceError: for an unknown key, or what is said to be an image and can be none.
        NotFiniteError: while it is used, for a picture that holds NaN or infinity.

    Example:
        env = Observe(gym.make("FrankaKitchen-v1"), keys=["observation"])
    """

    def __init__(
        self,
        env: Env,
        *,
        keys: Sequence[str] | None = None,
        size: int | None = None,
        kind: Kind | Mapping[str, Kind] | None = None,
    ) -> None:
        super().__init__(env)
        leaves = {_name(path): (path, leaf) for path, leaf in _leaves(env.observation_space)}
        for key in [*(keys or ()), *(kind if isinstance(kind, Mapping) else ())]:
            if key not in leaves:
                raise SpaceError(
                    f'there is no observation "{key}"; {nearest(key, leaves, "observations")}'
                )
        self._parts: dict[str, _Part] = {}
        for key in keys or leaves:
            path, leaf = leaves[key]
            said = kind.get(key) if isinstance(kind, Mapping) else kind
            self._parts |= _parts_of(key, path, leaf, size, said)
        self._is_bare = list(self._parts) == [BARE]
        made = {key: part.space for key, part in self._parts.items()}
        self.observation_space = made[BARE] if self._is_bare else spaces.Dict(made)

    def observation(self, observation: Any) -> Any:
        """The environment's observation in that form."""
        found = {key: part.read(_at(observation, part)) for key, part in self._parts.items()}
        return found[BARE] if self._is_bare else found


def is_nested(space: Space) -> bool:
    """Whether an observation space is a Tuple, or a Dict with another one inside."""
    paths = [path for path, _ in _leaves(space)]
    return any(len(path) > 1 or any(isinstance(key, int) for key in path) for path in paths)


def _leaves(space: Space, path: Path = ()) -> list[tuple[Path, Space]]:
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [(path, space)]
    inside: Any = cast("Any", space).spaces
    pairs: Any = inside.items() if isinstance(space, spaces.Dict) else enumerate(inside)
    return [leaf for key, one in pairs for leaf in _leaves(one, (*path, key))]


def _name(path: Path) -> str:
    return ".".join(map(str, path)) or BARE


def _at(observation: Any, part: _Part) -> Any:
    for key in part.path:
        observation = observation[key]
    return observation


def _parts_of(
    key: str, path: Path, space: Space, size: int | None, kind: Kind | None
) -> dict[str, _Part]:
    box = _box(space)
    if box is not None and (kind == "image" or (kind is None and is_image(box))):
        return _image_parts(key, path, box, size)
    if box is not None and kind == "vector":
        flat = spaces.Box(box.low.ravel(), box.high.ravel(), dtype=cast("Any", box.dtype))
        return {key: _Part(path, flat, np.ravel)}
    return {key: _Part(path, space, _same)}


def _box(space: Space) -> spaces.Box | None:
    return cast("spaces.Box", space) if isinstance(space, spaces.Box) else None


def _same(value: Any) -> Any:
    return value


def _image_parts(key: str, path: Path, space: spaces.Box, size: int | None) -> dict[str, _Part]:
    shape, layout = space.shape, _layout(key, space)
    low, high = float(space.low.min()), float(space.high.max())
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise SpaceError(
            f'the observation "{key}" is to be an image and has bounds {low:g} and {high:g}; give '
            "its space the bounds of its pixels, such as 0 and 1"
        )
    frames, height, width, channels = _arranged(np.zeros(shape, np.uint8), layout).shape
    each = channels if channels in CHANNELS else 3 if channels % 3 == 0 else 1
    count = frames * (channels // each)
    read = partial(_picture, key=key, layout=layout, bounds=(low, high), size=size)
    sides = (height, width) if size is None else (size, size)
    made = spaces.Box(0, 255, (*sides, each), np.uint8)
    if count == 1:
        return {key: _Part(path, made, partial(_group, read=read, index=0, each=each))}
    return {
        f"{key}.{i}": _Part(path, made, partial(_group, read=read, index=i, each=each))
        for i in range(count)
    }


Layout = Literal["hw", "hwc", "chw", "nhwc", "nchw"]


def _layout(key: str, space: spaces.Box) -> Layout:
    """Order of the axes: channels are the one that is too short to be a picture's side."""
    shape = space.shape
    if len(shape) == 2:
        return "hw"
    if len(shape) in (3, 4):
        sides = shape[-3:]
        first = sides[0] < min(sides[1:]) and (sides[0] < PICTURE or sides[2] >= PICTURE)
        if len(shape) == 3:
            return "chw" if first else "hwc"
        return "nchw" if first else "nhwc"
    raise SpaceError(
        f'the observation "{key}" has shape {shape}, expected of an image two axes, three with '
        "channels, or four of a stack; leave it out, or change it in a wrapper of your own"
    )


def _arranged(value: Array, layout: Layout) -> Array:
    """(n, h, w, c) whatever the axes are."""
    if layout == "hw":
        return value[None, :, :, None]
    whole = value if len(layout) == 4 else value[None]
    return np.moveaxis(whole, 1, -1) if "chw" in layout else whole


def _picture(
    value: Any, *, key: str, layout: Layout, bounds: tuple[float, float], size: int | None
) -> Array:
    """(h, w, n * c) uint8."""
    array = np.asarray(value)
    low, high = bounds
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NotFiniteError(
            f'the picture "{key}" holds NaN or infinity; look at what the environment shows there'
        )
    if array.dtype != np.uint8 or bounds != (0, 255):
        scaled = (np.clip(array.astype(np.float64), low, high) - low) * (255 / (high - low))
        array = np.floor(scaled + 0.5).astype(np.uint8)
    frames = _arranged(array, layout)
    joined = np.concatenate(list(frames), axis=-1)
    if size is None or joined.shape[:2] == (size, size):
        return joined
    return shrunk(np.ascontiguousarray(joined), size)


def _group(value: Any, *, read: Callable[[Any], Array], index: int, each: int) -> Array:
    return np.ascontiguousarray(read(value)[..., index * each : (index + 1) * each])
