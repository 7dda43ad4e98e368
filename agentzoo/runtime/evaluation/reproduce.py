"""Reproduction of a published score: the same protocol, episode by episode."""

from dataclasses import dataclass
from typing import cast

import numpy as np

from ..bundle.manifest import RESULTS
from ..errors import BundleError
from .results import require_own
from .rollout import Evaluation, SessionMaker, bootstrap, evaluate

TOLERANCE = 1e-6  # between the returns of one episode on one machine


@dataclass(frozen=True)
class Reproduction:
    """A published evaluation beside the same episodes played here.

    Attributes:
        published: what the bundle says.
        found: what came out here, over the same seeds.
    """

    published: Evaluation
    found: Evaluation

    @property
    def worst(self) -> float:
        """The largest difference between the two returns of one episode."""
        return float(np.abs(self._differences()).max())

    @property
    def is_equal(self) -> bool:
        """Whether every episode gave the return that was published, to 1e-6."""
        return self.worst <= TOLERANCE

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean difference, found minus published, by episode."""
        return bootstrap(cast("list[float]", self._differences().tolist()))

    @property
    def agrees(self) -> bool:
        """Whether the returns are equal, or zero lies in the interval of their difference."""
        low, high = self.interval
        return self.is_equal or low <= 0.0 <= high

    def __str__(self) -> str:
        """The finding, in two lines."""
        lines = (
            f"published: mean {self.published.mean:.2f} over {len(self.published.returns)} "
            f"episodes; here: mean {self.found.mean:.2f} over the same seeds"
        )
        if self.is_equal:
            return f"{lines}\nequal: no episode's return differs by more than {TOLERANCE:.0e}"
        low, high = self.interval
        verdict = "contains zero: the scores agree" if self.agrees else "does not contain zero"
        return (
            f"{lines}\nnot equal: an episode's return differs by {self.worst:.3g}; the 95 % "
            f"interval of the mean difference, {low:.2f} to {high:.2f}, {verdict}"
        )

    def _differences(self) -> np.ndarray:
        return np.subtract(self.found.returns, self.published.returns)


def reproduce(
    policy: SessionMaker, published: Evaluation, *, progress: bool = False
) -> Reproduction:
    """Play a published evaluation's episodes again: its environment, seeds and kind of actions.

    Args:
        policy: the published policy.
        published: its results.json.
        progress: print a line for each episode.

    Raises:
        BundleError: if the evaluation is not of this policy, its plan or its environment, the
            environment was an object of the author's own, or the seeds are no range.
    """
    _require_same(policy, published)
    found = evaluate(
        policy,
        episodes=len(published.seeds),
        seed=published.seed,
        deterministic=published.deterministic,
        progress=progress,
    )
    return Reproduction(published, found)


def _require_same(policy: SessionMaker, published: Evaluation) -> None:
    if not published.env:
        raise BundleError(
            "the published score is from an environment object of the author's own; there is "
            "nothing to run again"
        )
    require_own(published, policy.spec, policy.session().digest, RESULTS)
    expected = range(published.seed, published.seed + len(published.seeds))
    if published.seeds != tuple(expected):
        raise BundleError(
            f"the published seeds {published.seeds[:5]}... are no range, which evaluate plays; "
            "evaluate the policy anew"
        )
