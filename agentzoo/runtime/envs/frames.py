"""Frames made smaller."""

from functools import lru_cache

import numpy as np

from ..spec import Array


@lru_cache
def _overlaps(source: int, target: int) -> Array:
    """Share of each source pixel in each target pixel, (target, source), in whole numbers.

    Rows add up to `source`, columns to `target`.
    """
    edges = np.arange(target + 1) * source
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(source)[None] * target
    return np.clip(np.minimum(ends, pixels + target) - np.maximum(starts, pixels), 0, None)


def shrunk(image: Array, size: int) -> Array:
    """A picture (h, w, c) uint8 as (size, size, c) uint8: means over areas, the same everywhere.

    All sums are whole numbers, which floats add without error in any order: those of pictures up to
    256 x 256 are below 2**24, enough for float32; larger ones take float64.
    """
    height, width, channels = image.shape
    exact = np.float32 if height * width * 255 < 2**24 else np.float64
    down = _overlaps(height, size).astype(exact)
    across = _overlaps(width, size).astype(exact)
    rows = down @ image.reshape(height, width * channels).astype(exact)
    sums = across @ rows.reshape(size, width, channels)
    means = np.floor(sums.astype(np.float64) / (height * width) + 0.5)
    return means.astype(np.uint8)
