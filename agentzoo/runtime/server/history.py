"""Requests and latencies of the last minutes, second by second, for the page."""

import time
from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from ..spec import Array

KEPT_S = 300
NOW_S = 5
POINT_S = 5  # seconds of one point of a curve
# upper bounds in seconds, 12 % apart: what is read off a bucket is too high by that at most
BOUNDS = tuple(1e-5 * 1.12**k for k in range(125))
SHARES = {"median": 0.5, "p99": 0.99}
RING = KEPT_S + 1  # the second under way is not read


class History:
    """Number of answered requests of one model, and the time they took.

    Attributes:
        total: since the beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty."""
        self.total = 0
        self._clock, self._newest = clock, int(clock())
        self._counts = np.zeros((RING, len(BOUNDS) + 1), np.int64)

    def add(self, seconds: float) -> None:
        """Count a request and its time."""
        self.total += 1
        self._counts[self._now() % RING, bisect_left(BOUNDS, seconds)] += 1

    def summary(self) -> dict[str, object]:
        """Summary of the last minutes together, and as points of a curve."""
        now = self._now()
        # oldest first; the second under way is the newest and left out
        ordered = np.roll(self._counts, -(now % RING) - 1, axis=0)[:-1]
        points = ordered.reshape(-1, POINT_S, ordered.shape[1]).sum(1)
        history = [
            {"at": at, **_facts(counts, POINT_S)}
            for at, counts in zip(range(-KEPT_S, 0, POINT_S), points, strict=True)
        ]
        return {
            "now": _facts(ordered[-NOW_S:].sum(0), NOW_S),
            "minutes": _facts(ordered.sum(0), KEPT_S),
            "history": history,
        }

    def _now(self) -> int:
        """The second under way, after forgetting those that have gone round."""
        now = int(self._clock())
        for past in range(self._newest + 1, min(now, self._newest + RING) + 1):
            self._counts[past % RING] = 0
        self._newest = now
        return now


def _facts(counts: Array, span_s: float) -> dict[str, float | None]:
    total = int(counts.sum())
    if not total:
        return {"rate": 0.0, "median": None, "p99": None}
    passed = np.cumsum(counts)
    bounds = (*BOUNDS, BOUNDS[-1])
    at = {name: bounds[int(np.argmax(passed >= share * total))] for name, share in SHARES.items()}
    return {"rate": total / span_s, **at}
