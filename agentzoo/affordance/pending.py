"""Long-term transitions that wait for their end: how long the jump took, and what it earned.

A zoomed view at row t stands for a view that the agent may come to. The pair is closed at the first
later row n whose own view scores higher, or when it is too old:

    interval     D = n - t
    accumulated  G' = sum_k g^k r_{t+1+k} / sum_k g^k over the D - 1 rows between, 0 without any

What is earned on arriving is predicted by the reward head. `interval_sum` turns G' into the sum.

Source: qiwang067/LS-Imagine; that G' is an average is the released code's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Closed(NamedTuple):
    """A pair whose end is known.

    Attributes:
        row: where it began.
        interval: rows until its end, at least 1.
        is_reached: whether a view scored higher; else it was closed for its age.
    """

    row: int
    interval: int
    is_reached: bool


@dataclass
class PendingPairs:
    """The open pairs of one episode.

    Args:
        max_age: rows after which a pair is closed whatever was seen.
    """

    max_age: int
    pairs: list[tuple[float, int]] = field(default_factory=list)  # score of the zoomed view, row

    def __len__(self) -> int:
        """Number of open ones."""
        return len(self.pairs)

    def add(self, score: float, row: int) -> None:
        """Open a pair at a row."""
        self.pairs.append((score, row))

    def close(self, score: float, row: int) -> list[Closed]:
        """Close what a row's own score exceeds, and what is too old; never the row's own pair."""
        closed = [
            Closed(begun, row - begun, zoomed < score)
            for zoomed, begun in self.pairs
            if begun < row and (zoomed < score or row - begun >= self.max_age)
        ]
        done = {each.row for each in closed}
        self.pairs = [pair for pair in self.pairs if pair[1] not in done]
        return closed


def average_reward(rewards: Sequence[float], discount: float) -> float:
    """G': the discounted average of rewards; 0 without any."""
    weights = [discount**k for k in range(len(rewards))]
    total = sum(weights)
    return sum(w * r for w, r in zip(weights, rewards, strict=True)) / total if total else 0.0


def interval_sum(interval: float, discount: float) -> float:
    """1 + g + g^2 + ... over the D - 1 rows between: (1 - g^(D-1)) / (1 - g), 0 for D = 1."""
    return (1 - discount ** (interval - 1)) / (1 - discount)
