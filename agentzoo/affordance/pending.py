"""Long-term transitions that wait for their end: how long the jump took, and what it earned.

A zoomed view at step t stands for a view that the agent may come to. The pair is closed at the
first later step n whose own view scores higher, or when it is too old:

    interval     D = n - t
    accumulated  G' = sum_k g^k r_{t+1+k} / sum_k g^k over the D - 1 steps between, 0 without any

What is earned on arriving is predicted by the reward head. `interval_sum` turns G' into the sum.

Source: qiwang067/LS-Imagine; that G' is an average is the released code's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Closed(NamedTuple):
    """A pair whose end is known.

    Attributes:
        begun: step where it began.
        interval: steps until its end, at least 1.
        is_reached: whether a view scored higher; else it was closed for its age.
    """

    begun: int
    interval: int
    is_reached: bool


@dataclass
class PendingPairs:
    """The open pairs of one episode.

    Args:
        max_age: steps after which a pair is closed whatever was seen.
    """

    max_age: int
    pairs: list[tuple[float, int]] = field(default_factory=list)  # score of the zoomed view, step

    def __len__(self) -> int:
        """Number of open ones."""
        return len(self.pairs)

    def add(self, score: float, step: int) -> None:
        """Open a pair at a step."""
        self.pairs.append((score, step))

    def close(self, score: float, step: int) -> list[Closed]:
        """Close what a step's own score exceeds, and what is too old; never the step's own pair."""
        closed = [
            Closed(begun, step - begun, zoomed < score)
            for zoomed, begun in self.pairs
            if begun < step and (zoomed < score or step - begun >= self.max_age)
        ]
        done = {each.begun for each in closed}
        self.pairs = [pair for pair in self.pairs if pair[1] not in done]
        return closed


def average_reward(rewards: Sequence[float], discount: float) -> float:
    """G': the discounted average of rewards; 0 without any."""
    weights = [discount**k for k in range(len(rewards))]
    total = sum(weights)
    return sum(w * r for w, r in zip(weights, rewards, strict=True)) / total if total else 0.0


def interval_sum(interval: float, discount: float) -> float:
    """1 + g + g^2 + ... over the D - 1 steps between: (1 - g^(D-1)) / (1 - g), 0 for D = 1."""
    return (1 - discount ** (interval - 1)) / (1 - discount)
