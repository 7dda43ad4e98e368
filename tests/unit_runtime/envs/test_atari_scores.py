"""Scales of Atari scores: closed forms, and the papers' own figures from their own columns."""

import pytest

from agentzoo.runtime.envs.atari import GAMES
from agentzoo.runtime.envs.atari_scores import (
    AGGREGATES,
    BENCHMARKS,
    Reference,
    aggregate,
    published,
    references,
)

# Hafner et al. 2021 (arXiv:2010.02193): gamer median, gamer mean, record mean, clipped record mean
# of 55 games. Means of games go by the rounded scores of a table, so the last digit may differ.
PAPER = {
    "DreamerV2": (2.15, 11.33, 0.44, 0.28),
    "IQN": (1.29, 8.85, 0.21, 0.21),
    "Rainbow": (1.47, 9.12, 0.17, 0.17),
    "C51": (1.09, 7.70, 0.15, 0.15),
    "DQN": (0.65, 2.84, 0.12, 0.12),
}


def seeds(benchmark: str, agent: str) -> dict[str, list[float]]:
    return {game: [score] for game, score in published(benchmark)[agent].items()}


@pytest.mark.parametrize("agent", PAPER)
def test_published_figures_come_out_of_published_scores(agent: str) -> None:
    column = seeds("atari200m", agent)
    assert len(column) == 55
    found = aggregate(column)
    assert tuple(found) == AGGREGATES
    assert tuple(found.values()) == pytest.approx(PAPER[agent], rel=0.02, abs=0.006)


@pytest.mark.parametrize(
    ("benchmark", "agent", "games", "median", "mean"),
    [
        # Hafner et al. 2025, and the scores beside danijar/dreamerv3
        ("atari200m", "DreamerV3", 57, 8.30, 33.81),
        ("atari200m", "PPO", 57, 1.80, None),
        ("atari200m", "MuZero", 57, 6.93, None),
        ("atari200m", "DreamerV3 2023", 54, 3.18, 10.06),
        ("atari100k", "DreamerV3", 26, 0.49, 1.25),
        ("atari100k", "IRIS", 26, 0.29, 1.05),
        ("atari100k", "SimPLe", 26, 0.13, 0.33),
    ],
)
def test_later_papers_figures(
    benchmark: str, agent: str, games: int, median: float, mean: float | None
) -> None:
    column = seeds(benchmark, agent)
    assert len(column) == games
    found = aggregate(column)
    assert found["human-normalized median"] == pytest.approx(median, abs=0.006)
    if mean is not None:
        assert found["human-normalized mean"] == pytest.approx(mean, rel=0.01)


def test_random_is_zero_and_the_gamer_is_one() -> None:
    pong = references()["pong"]
    assert pong == Reference(random=-20.7, gamer=14.6, record=21.0)
    assert pong.scores(-20.7) == {"human_normalized": 0.0, "record_normalized": 0.0}
    assert pong.scores(14.6)["human_normalized"] == 1.0
    assert pong.scores(21.0)["record_normalized"] == 1.0


def test_references_are_of_the_57_games() -> None:
    assert len(references()) == 57
    assert set(references()) <= GAMES
    assert [game for game, each in references().items() if each.record is None] == ["surround"]
    assert references()["surround"].scores(6.5) == {"human_normalized": 1.0}
    assert references()["jamesbond"].gamer == 302.8  # 29 in one list, which is random's


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_column_has_a_source_and_known_games(benchmark: str) -> None:
    assert set(published(benchmark)) == set(BENCHMARKS[benchmark].sources)
    for column in published(benchmark).values():
        assert set(column) <= set(references())


def test_seeds_are_clipped_before_they_are_averaged() -> None:
    # pong: 21 is the record, -20.7 random; one seed twice as far above random as the record
    far, none = -20.7 + 2 * 41.7, -20.7
    found = aggregate({"pong": [far, none]})
    assert found["record mean"] == pytest.approx(1.0)
    assert found["clipped record mean"] == pytest.approx(0.5)
    assert found["human-normalized mean"] == pytest.approx(41.7 / 35.3)


def test_games_without_reference_are_left_out() -> None:
    assert aggregate({"tetris": [5.0]}) == {}
    assert aggregate({"tetris": [5.0], "pong": [14.6]}) == aggregate({"pong": [14.6]})
    without_record = aggregate({"surround": [6.5]})
    assert without_record == {AGGREGATES[0]: 1.0, AGGREGATES[1]: 1.0}
