"""Scores of a whole run, from the lines of its metrics.jsonl."""

from collections.abc import Sequence

from agentzoo.runtime.envs.crafter import crafter_score
from agentzoo.runtime.errors import RunError

from .logger import Record

ACHIEVEMENT = "rollout/success/"
CRAFTER_STEPS = 1_000_000  # of training, whose episodes the paper's table scores


def training_success(
    lines: Sequence[Record], steps: int = CRAFTER_STEPS
) -> tuple[dict[str, float], int]:
    """Per cent of a run's training episodes that reached each achievement, and their number.

    A line holds the share among the episodes that ended since the line before.

    Args:
        lines: of metrics.jsonl, oldest first.
        steps: environment steps within which episodes count.
    """
    sums: dict[str, float] = {}
    before = counted = 0.0
    for line in lines:
        if "rollout/ep_rew_mean" not in line or line["env_step"] > steps:
            continue
        episodes, before = line["time/episodes"] - before, line["time/episodes"]
        counted += episodes
        for name, share in line.items():
            if name.startswith(ACHIEVEMENT):
                short = name.removeprefix(ACHIEVEMENT)
                sums[short] = sums.get(short, 0.0) + episodes * share
    return {name: total / counted for name, total in sums.items()}, round(counted)


def training_crafter_score(lines: Sequence[Record], steps: int = CRAFTER_STEPS) -> float:
    """Crafter's score as it is published: from the episodes of training, exploration included.

    The geometric mean of the 22 achievements' success rates in per cent, each plus one, less one.

    Args:
        lines: of a run's metrics.jsonl.
        steps: environment steps within which episodes count; the paper's tables have a million.

    Raises:
        RunError: if the run has no achievements.

    Source: Hafner 2021 (arXiv:2109.06780), section 3.
    """
    rates, _ = training_success(lines, steps)
    if not rates:
        raise RunError(
            "the run's lines hold no achievements (rollout/success/...): it is not of Crafter, or "
            "no episode has ended, or an earlier version logged it"
        )
    return crafter_score(list(rates.values()))
