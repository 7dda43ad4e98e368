"""Long-term transitions: kurtosis, the test of whether one jumps, and the zoom it jumps to.

    K_r      = excess kurtosis of the map            K_a = max(M) - mean(M)
    P_jump   = sigmoid(K_r) K_a                      large where the goal is small and clear
    released: attempt where P_jump > mean + std of all that were seen
    absolute: attempt where max(M) is high and mean(M) is low, on a coarse map
    window   = about the goal's region, of its area over G at its centroid, times the margin

Source: qiwang067/LS-Imagine, concentration wrapper. The absolute rule and the margin are ours.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agentzoo.runtime.spec import Array

RULES = ("released", "absolute")


# -- whether -------------------------------------------------------------------------------------


def excess_kurtosis(map_: Array) -> float:
    """Fourth standardised moment minus 3, biased as scipy's; 0 for a constant map."""
    around = map_ - map_.mean()
    variance = np.square(around).mean()
    if map_.min() == map_.max() or not variance:  # 0 / 0, but for rounding
        return 0.0
    return float((np.square(np.square(around)).mean() / np.square(variance)) - 3)


def jump_score(map_: Array) -> float:
    """P_jump in [0, 1); 0 for a constant map."""
    above = float(map_.max() - map_.mean())
    kurtosis = min(max(excess_kurtosis(map_), -700.0), 700.0)
    return above / (1 + math.exp(-kurtosis))


@dataclass
class RunningStatistics:
    """Mean and population deviation of a stream of numbers (Welford)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations

    def add(self, number: float) -> None:
        """Take in a number; NaN and infinity are left out."""
        if not math.isfinite(number):
            return
        self.count += 1
        off = number - self.mean
        self.mean += off / self.count
        self.squares += off * (number - self.mean)

    @property
    def std(self) -> float:
        """Population standard deviation; 0 for fewer than two numbers."""
        return math.sqrt(max(self.squares, 0.0) / self.count) if self.count > 1 else 0.0

    @property
    def threshold(self) -> float:
        """Mean plus deviation."""
        return self.mean + self.std


def is_unusual(map_: Array, seen: RunningStatistics) -> bool:
    """The released test; takes the map's P_jump in first, a constant map's is left out."""
    score = jump_score(map_)
    if map_.min() == map_.max():
        return False
    seen.add(score)
    return score > seen.threshold


def is_small_target(map_: Array, highest: float = 0.25, mean: float = 0.025) -> bool:
    """The absolute test: something is clearly there, and it fills little of the view."""
    return bool(map_.max() > highest and map_.mean() < mean)


# -- where ---------------------------------------------------------------------------------------


class Region(NamedTuple):
    """A connected part of a map.

    Attributes:
        area: cells.
        y, x: its centroid.
        heat: mean of the map in it.
    """

    area: int
    y: float
    x: float
    heat: float


class Window(NamedTuple):
    """A rectangle of a map, or of the frame that it is of."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, times: int) -> "Window":
        """The same of a map whose cells are divided `times` times a side."""
        return Window(*(times * n for n in self))

    def crop(self, picture: Array) -> Array:
        """Its part of a picture (h, w, ...), a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def regions(map_: Array, *, opened: bool = True) -> list[Region]:
    """The map's hot parts, which (max + min) / 2 + std bounds from below.

    Args:
        map_: (h, w).
        opened: whether what a rectangle of h / 16 by w / 16 does not fit into is left out.
    """
    hot = map_ > (map_.max() + map_.min()) / 2 + map_.std()
    if opened:
        hot = opening(hot, max(map_.shape[0] // 16, 1), max(map_.shape[1] // 16, 1))
    labels, count = components(hot)
    found: list[Region] = []
    for k in range(1, count + 1):
        y, x = np.nonzero(labels == k)
        found.append(Region(len(y), float(y.mean()), float(x.mean()), float(map_[y, x].mean())))
    return found


def opening(hot: Array, height: int, width: int) -> Array:
    """Morphological opening of (h, w) bool: what a rectangle fits into, hanging over or not."""
    margin = ((height - 1, height - 1), (width - 1, width - 1))
    fits = _sums(np.pad(hot, margin, constant_values=True), height, width) == height * width
    # each place is one corner; what any of the rectangles covers is kept
    covered = _sums(np.pad(fits, margin, constant_values=False), height, width) > 0
    return covered[height - 1 : height - 1 + len(hot), width - 1 : width - 1 + hot.shape[1]]


def components(hot: Array) -> tuple[Array, int]:
    """Connected parts of (h, w) bool, diagonals included: labels from 1, and how many."""
    parents: list[int] = []

    def root(k: int) -> int:
        while parents[k] != k:
            parents[k] = parents[parents[k]]
            k = parents[k]
        return k

    runs: list[tuple[int, int, int, int]] = []  # row, first, end, number
    above: list[tuple[int, int, int, int]] = []
    edges = np.diff(np.pad(hot, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    for row in np.flatnonzero(hot.any(1)):
        starts, ends = np.flatnonzero(edges[row] == 1), np.flatnonzero(edges[row] == -1)
        above = [run for run in above if run[0] == row - 1]
        now: list[tuple[int, int, int, int]] = []
        for first, end in zip(starts.tolist(), ends.tolist(), strict=True):
            parents.append(len(parents))
            for _, left, right, number in above:
                if left <= end and right >= first:
                    parents[root(number)] = root(len(parents) - 1)
            now.append((int(row), first, end, len(parents) - 1))
        runs += now
        above = now
    numbers: dict[int, int] = {}
    labels = np.zeros(hot.shape, int)
    for row, first, end, number in runs:
        labels[row, first:end] = numbers.setdefault(root(number), len(numbers) + 1)
    return labels, len(numbers)


def is_central(region: Region, prior: Array) -> bool:
    """Whether its centroid is at least as central as the average pixel."""
    return bool(_at_centroid(region, prior) >= prior.mean())


def zoom_window(
    map_: Array, region: Region, prior: Array, *, margin: float = 1.0, centered: bool = False
) -> Window:
    """The window to zoom to, in the map's proportions.

    Args:
        map_: (h, w).
        region: the one to zoom to.
        prior: (h, w), G.
        margin: times the region's own area; 1 is the released code's.
        centered: about the region's centroid, or (as released) where it holds most of the map.
    """
    rows, columns = map_.shape
    ratio = min(max(region.area / map_.size / _at_centroid(region, prior), 0.01), 1.0)
    side = math.sqrt(min(ratio * margin, 1.0))
    height, width = max(int(side * rows), 1), max(int(side * columns), 1)
    if centered:
        top, left = round(region.y + 0.5 - height / 2), round(region.x + 0.5 - width / 2)
        return Window(
            min(max(top, 0), rows - height), min(max(left, 0), columns - width), height, width
        )
    sums = _sums(map_, height, width)
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return Window(top, left, height, width)


def _at_centroid(region: Region, prior: Array) -> float:
    return float(
        prior[min(round(region.y), len(prior) - 1), min(round(region.x), prior.shape[1] - 1)]
    )


def _sums(array: Array, height: int, width: int) -> Array:
    """Sums over all rectangles of a size: (h, w) -> (h - height + 1, w - width + 1)."""
    kind = np.int64 if array.dtype == bool else np.float64
    total = np.zeros((array.shape[0] + 1, array.shape[1] + 1), kind)
    total[1:, 1:] = array.cumsum(0, dtype=kind).cumsum(1)
    bottom = total[height:, width:] + total[:-height, :-width]
    return bottom - total[height:, :-width] - total[:-height, width:]
