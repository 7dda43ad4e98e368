"""A map by sliding zoom: how much the goal is to be seen when the camera seems to go there.

81 windows of 15 % a side, nine positions a side; towards each of them 16 crops from the whole image
to the window are a video of an approach, 1,296 frames in all. The videos' logits are painted into
their last three crops, averaged where these overlap, blurred and squashed:

    map = sigmoid(slope (blur(sum of logits / (0.1 + how many)) - centre))

Source: qiwang067/LS-Imagine, affordance_map; the 0.1 is the released code's.
"""

from functools import lru_cache

import numpy as np

from agentzoo.runtime.spec import Array

from .maps import resized
from .source import MapSource, Scorer, encoded, require_goal, require_image, scored

SHARE, SIDE, CROPS = 0.15, 9, 16  # of a window; windows a side; crops of a video
PAINTED = (13, 14, 15)  # crops that a logit is painted into: k^2 > 150
EXTRA = 0.1  # beside the number of paintings, which pulls the edges down


@lru_cache
def windows(height: int, width: int) -> Array:
    """The windows slid over an image, row by row: (81, 4), left, top, right, bottom."""
    wide, tall = int(SHARE * width), int(SHARE * height)
    across, down = (width - wide) // (SIDE - 1), (height - tall) // (SIDE - 1)
    found = [
        (
            across * i,
            down * j,
            width if i == SIDE - 1 else across * i + wide,
            height if j == SIDE - 1 else down * j + tall,
        )
        for j in range(SIDE)
        for i in range(SIDE)
    ]
    return np.array(found)


@lru_cache
def zoom_crops(height: int, width: int) -> Array:
    """The crops of every window's video: (81, 16, 4), from the whole image to the window."""
    whole, share = np.array([0, 0, width, height]), np.arange(CROPS)[None, :, None]
    # whole numbers all along, so that nothing is lost where they are cut
    steps = whole * (CROPS - 1 - share) + windows(height, width)[:, None] * share
    return steps // (CROPS - 1)


def merged(logits: Array, height: int, width: int) -> Array:
    """Logits (81,) painted into the image and averaged where they overlap: (h, w)."""
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for logit, crops in zip(logits, zoom_crops(height, width)[:, PAINTED], strict=True):
        for left, top, right, bottom in crops:
            total[top:bottom, left:right] += logit
            count[top:bottom, left:right] += 1
    return total / (EXTRA + count)


def coverage(height: int, width: int) -> Array:
    """Number of crops painted over each pixel: (h, w)."""
    count = np.zeros((height, width), int)
    for left, top, right, bottom in zoom_crops(height, width)[:, PAINTED].reshape(-1, 4):
        count[top:bottom, left:right] += 1
    return count


def blurred(map_: Array, tall: int, wide: int) -> Array:
    """A Gaussian blur with a kernel of odd sides, mirrored at the edges: (h, w).

    The deviation is 0.3 ((k - 1) / 2 - 1) + 0.8 of a side k, as OpenCV chooses it.
    """
    return _blurred_rows(_blurred_rows(map_, tall).T, wide).T


def _blurred_rows(map_: Array, side: int) -> Array:
    reach = side // 2
    deviation = 0.3 * ((side - 1) / 2 - 1) + 0.8
    weights = np.exp(-np.square(np.arange(-reach, reach + 1)) / (2 * deviation**2))
    weights /= weights.sum()
    padded = np.pad(map_, ((reach, reach), (0, 0)), mode="reflect")
    return sum(w * padded[k : k + len(map_)] for k, w in enumerate(weights))  # pyright: ignore


def odd(size: int) -> int:
    """The largest odd number that is no larger."""
    return size - 1 + size % 2


def map_of_logits(logits: Array, height: int, width: int, *, slope: float, centre: float) -> Array:
    """The map from the windows' logits (81,): (h, w) in [0, 1]."""
    tall, wide = odd(int(SHARE * height)), odd(int(SHARE * width))
    level = slope * (blurred(merged(logits, height, width), tall, wide) - centre)
    return 1 / (1 + np.exp(-np.clip(level, -500, 500)))


class SlidingZoom(MapSource):
    """A map by sliding zoom over a scorer; slow, since every distinct crop is encoded once.

    Args:
        scorer: of videos.
        batch: images encoded at a time.
    """

    def __init__(self, scorer: Scorer, batch: int = 64) -> None:
        self.scorer, self.batch = scorer, batch

    def __call__(self, image: Array, goal: str) -> Array:
        """(h, w, 3) uint8 and a sentence -> (h, w) in [0, 1]."""
        goal, (height, width) = require_goal(goal), require_image(image).shape[:2]
        crops = zoom_crops(height, width)
        # the first crop of every video is the whole image, and neighbours share more
        boxes, where = np.unique(crops.reshape(-1, 4), axis=0, return_inverse=True)
        parts = [
            encoded(self.scorer, _views(image, boxes[first : first + self.batch]), self.batch)
            for first in range(0, len(boxes), self.batch)
        ]
        features = np.concatenate(parts)
        videos = features[where.reshape(crops.shape[:2])]  # (81, 16, F)
        logits = scored(self.scorer, videos, [goal])[:, 0]
        about = self.scorer
        return map_of_logits(logits, height, width, slope=about.slope, centre=about.centre)


def _views(image: Array, boxes: Array) -> Array:
    """The crops of an image in its own size: (N, h, w, 3) uint8."""
    height, width = image.shape[:2]
    found = [
        resized(image[top:bottom, left:right], height, width) for left, top, right, bottom in boxes
    ]
    return np.clip(np.floor(np.stack(found) + 0.5), 0, 255).astype(np.uint8)
