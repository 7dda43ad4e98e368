"""Maps and pictures: checks, coarser and finer ones."""

from collections.abc import Sequence

import numpy as np

from agentzoo.runtime.errors import NotFiniteError, ObservationError
from agentzoo.runtime.spec import Array

COARSE = 8  # pixels a side of a cell of a coarse map


def check_map(array: Array, shape: Sequence[int]) -> Array:
    """A map as (h, w) float64.

    Args:
        array: (h, w) or (h, w, 1), numbers in [0, 1].
        shape: (h, w) that the map has to have.

    Raises:
        NotFiniteError: if it holds NaN or infinity.
        ObservationError: if it has another shape, or numbers outside [0, 1].
    """
    given = np.asarray(array, np.float64)
    values = given[..., 0] if given.ndim == 3 and given.shape[-1] == 1 else given
    if values.shape != tuple(shape):
        raise ObservationError(
            f"the affordance map has shape {given.shape}, expected {tuple(shape)}, the frame's "
            "height and width; resize it where it is made"
        )
    if not np.isfinite(values).all():
        raise NotFiniteError(
            "the affordance map holds NaN or infinity, expected numbers in [0, 1]; look where it "
            "is made"
        )
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ObservationError(
            f"the affordance map reaches from {low:.4g} to {high:.4g}, expected numbers in [0, 1]; "
            "divide a map of bytes by 255"
        )
    return values


def coarse(map_: Array, cell: int = COARSE) -> Array:
    """Means over square cells: (h, w) -> (h / cell, w / cell), what does not fill a cell left out.

    Of a mask these are the shares of the cells that show the target.
    """
    rows, columns = (max(size // cell, 1) for size in map_.shape)
    kept = map_[: rows * cell, : columns * cell]
    tall, wide = kept.shape[0] // rows, kept.shape[1] // columns
    return kept.reshape(rows, tall, columns, wide).mean((1, 3))


def resized(picture: Array, height: int, width: int) -> Array:
    """Bilinear resize, pixels' centres where they were: (h, w, c) or (h, w) to float64."""
    rows = _interpolated(picture.astype(np.float64), height)
    return _interpolated(rows.swapaxes(0, 1), width).swapaxes(0, 1)


def _interpolated(lines: Array, target: int) -> Array:
    """Lines (n, ...) at as many places as asked for: (target, ...)."""
    source = len(lines)
    at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape(-1, *[1] * (lines.ndim - 1))
    return lines[low] * (1 - share) + lines[np.minimum(low + 1, source - 1)] * share
