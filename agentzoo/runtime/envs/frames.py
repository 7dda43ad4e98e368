"""Frames made smaller."""

from functools import lru_cache

import numpy as np

from ..spec import Array


@lru_cache
def _overlaps(source: int, target: int) -> Array:
    """How much of each source pixel each target pixel covers, (target, source), in whole numbers.

    Rows add up to `source`, columns to `target`.
    """
    edges = np.arange(target + 1) * source
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(source)[None] * target
    return np.clip(np.minimum(ends, pixels + target) - np.maximum(starts, pixels), 0, None)


def shrunk(image: Array, size: int) -> Array:
    """A picture (h, w, c) uint8 as (size, size, c) uint8: means over areas, the same everywhere.

    All sums are whole numbers below 2**24, which float32 adds without error in any order.
    """
    height, width, channels = image.shape
    assert height * width * 255 < 2**24, (height, width)
    down = _overlaps(height, size).astype(np.float32)
    across = _overlaps(width, size).astype(np.float32)
    rows = down @ image.reshape(height, width * channels).astype(np.float32)
    sums = across @ rows.reshape(size, width, channels)
    means = np.floor(sums.astype(np.float64) / (height * width) + 0.5)
    return means.astype(np.uint8)
