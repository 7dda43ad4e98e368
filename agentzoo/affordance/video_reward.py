"""Rewards from how well what was seen of late matches the goal, by a scorer of videos.

    released: 0.01 sigmoid(slope (logit - centre)) where it is the episode's best so far
    direct:   max(P - 1 / N, 0), P the goal's share in a softmax over N sentences
    delta:    P now less P before

Source: qiwang067/LS-Imagine, clip wrapper (released); Fan et al. 2022 (MineDojo, arXiv:2206.08853)
for the other two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import Array

from .source import Scorer, encoded, require_goal, scored

FORMS = ("released", "direct", "delta")
SCALE = 0.01  # of the released form


def squashed(logit: float, slope: float = 1.2, centre: float = 21.8) -> float:
    """sigmoid(slope (logit - centre)): a logit as a score in (0, 1)."""
    return float(1 / (1 + np.exp(-np.clip(slope * (logit - centre), -500, 500))))


def share(logits: Array) -> float:
    """P: the first sentence's share in a softmax over all, (P,)."""
    weights = np.exp(logits - logits.max())
    return float(weights[0] / weights.sum())


def direct_reward(logits: Array) -> float:
    """max(P - 1 / N, 0) of N sentences' logits, the goal's first."""
    return max(share(logits) - 1 / len(logits), 0.0)


@dataclass
class VideoReward:
    """The reward of one episode, step by step.

    Args:
        scorer: of videos.
        goal: as a sentence.
        form: `released`, `direct` or `delta`.
        negatives: other sentences; needed but for `released`.

    Raises:
        ConfigError: for an unknown form, no goal, or no other sentences where they are needed.
    """

    scorer: Scorer
    goal: str
    form: str = "released"
    negatives: Sequence[str] = ()
    best: float = 0.0
    before: float | None = None  # P of the step before
    seen: list[Array] = field(default_factory=list)  # features of the newest frames

    def __post_init__(self) -> None:
        """Check the arguments."""
        self.goal = require_goal(self.goal)
        if self.form not in FORMS:
            raise ConfigError(f"form={self.form!r} is not known; it is one of {', '.join(FORMS)}")
        if self.form != "released" and not self.negatives:
            raise ConfigError(
                f"form={self.form!r} compares the goal with other sentences, and negatives is "
                'empty; give some, as ("Explore", "Stand still")'
            )

    def look(self, frame: Array) -> float:
        """Take in a step's frame (h, w, 3) uint8, and what it is paid."""
        feature = encoded(self.scorer, frame[None])[0]
        self.seen = [*self.seen, feature][-self.scorer.frames :]
        # before an episode's start there is nothing: zeros, as released
        missing = self.scorer.frames - len(self.seen)
        video = np.stack([*[np.zeros_like(feature)] * missing, *self.seen])
        texts = [self.goal, *(self.negatives if self.form != "released" else ())]
        logits = scored(self.scorer, video[None], texts)[0]
        if self.form == "released":
            return self._gated(squashed(logits[0], self.scorer.slope, self.scorer.centre))
        if self.form == "direct":
            return direct_reward(logits)
        now = share(logits)
        gained = 0.0 if self.before is None else now - self.before
        self.before = now
        return gained

    def _gated(self, score: float) -> float:
        if score <= self.best:
            return 0.0
        self.best = score
        return SCALE * score
