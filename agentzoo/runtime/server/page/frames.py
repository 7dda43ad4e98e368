"""Frames of an episode or a dream for the page: one binary message for each step.

A message is the length of a JSON header (four bytes, little-endian), the header, and the pictures'
bytes one after the other, as the header lists them.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from ...spec import Array, ObsSpec

LARGEST_SIDE = 160  # pixels of a picture; larger ones are made smaller
MOST_NUMBERS = 8  # of a vector that are drawn as lines


def frame(
    view: str,
    step: int,
    pictures: Mapping[str, Array],
    *,
    vectors: Mapping[str, Sequence[float]] | None = None,
    **facts: object,
) -> bytes:
    """One message.

    Args:
        view: "watch" or "play".
        step: decisions since the episode began.
        pictures: slot -> (h, w, 1 or 3) uint8.
        vectors: slot -> the first numbers of an observation without images.
        **facts: what else the page shows, as JSON has it; numbers that are not finite become null.
    """
    shapes = [
        {"slot": slot, "h": one.shape[0], "w": one.shape[1], "c": one.shape[2]}
        for slot, one in pictures.items()
    ]
    header = {"view": view, "step": step, "pictures": shapes, "vectors": vectors or {}, **facts}
    text = json.dumps(_finite(header), allow_nan=False, separators=(",", ":")).encode()
    parts = [np.ascontiguousarray(one).tobytes() for one in pictures.values()]
    return b"".join([struct.pack("<I", len(text)), text, *parts])


def read_frame(content: bytes) -> tuple[dict[str, object], dict[str, Array]]:
    """A message's header, and its pictures by slot; what the page does, for tests and clients."""
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    offset, pictures = 4 + length, dict[str, Array]()
    for one in header["pictures"]:
        shape = (one["h"], one["w"], one["c"])
        size = math.prod(shape)
        pictures[one["slot"]] = np.frombuffer(content, np.uint8, size, offset).reshape(shape)
        offset += size
    return header, pictures


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, object]", value)
        return {key: _finite(one) for key, one in entries.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in cast("Sequence[object]", value)]
    return value


def picture_of(specs: Mapping[str, ObsSpec], obs: Mapping[str, Array]) -> Array | None:
    """The first image of an observation, as the page draws it; None where there is none."""
    for key, spec in specs.items():
        if spec.kind == "image":
            return shown(np.asarray(obs[key]).reshape(spec.shape))
    return None


def numbers_of(specs: Mapping[str, ObsSpec], obs: Mapping[str, Array]) -> list[float]:
    """The first numbers of an observation's vectors."""
    vectors = [np.ravel(obs[key]) for key, spec in specs.items() if spec.kind == "vector"]
    joined = np.concatenate(vectors) if vectors else np.zeros(0)
    return [round(float(x), 5) for x in joined[:MOST_NUMBERS]]


def shown(image: Array) -> Array:
    """A picture as the page draws it: (h, w, 1 or 3), of stacked grey frames the newest, small.

    Larger ones are averaged over squares, which keeps thin things visible.
    """
    height, width, channels = image.shape
    if channels not in (1, 3):
        image = image[..., -1:] if channels == 4 else image[..., :1]
    factor = math.ceil(max(height, width) / LARGEST_SIDE)
    if factor == 1:
        return image
    height, width = height // factor, width // factor
    cut = image[: height * factor, : width * factor].astype(np.float32)
    squares = cut.reshape(height, factor, width, factor, -1)
    return squares.mean((1, 3)).astype(np.uint8)
