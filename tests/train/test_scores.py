"""Scores of a whole run, from its lines."""

import math

import pytest

from agentzoo.runtime.errors import RunError
from agentzoo.train.scores import training_crafter_score, training_success


def line(step: int, episodes: int, **rates: float) -> dict[str, float]:
    shares = {f"rollout/success/{name}": rate for name, rate in rates.items()}
    return {"env_step": step, "time/episodes": episodes, "rollout/ep_rew_mean": 0.0, **shares}


LINES = [
    line(1000, 1, eat=100.0, sleep=0.0),
    {"env_step": 1500, "eval/mean_reward": 3.0},  # says nothing of training
    line(2000, 4, eat=0.0, sleep=0.0),  # three more episodes
    line(1_000_001, 400, eat=100.0, sleep=100.0),  # beyond the paper's million
]


def test_every_training_episode_counts_the_same() -> None:
    assert training_success(LINES) == ({"eat": 25.0, "sleep": 0.0}, 4)
    assert training_success(LINES, steps=1000) == ({"eat": 100.0, "sleep": 0.0}, 1)


def test_the_score_is_the_papers_geometric_mean() -> None:
    # S = exp(mean(ln(1 + s_i))) - 1 with s_i in per cent
    expected = math.sqrt((1 + 25.0) * (1 + 0.0)) - 1
    assert training_crafter_score(LINES) == pytest.approx(expected)


def test_a_run_without_achievements_says_so() -> None:
    with pytest.raises(RunError, match="hold no achievements"):
        training_crafter_score([line(10, 1)])
