"""Atari scores: what random play, people and published agents reach, and scales made of them.

Sources, by column of `atari_200m.csv` (games with sticky actions at 200 million frames) and
`atari_100k.csv` (without, at 400 thousand): see `BENCHMARKS`. `random` and `gamer` are those of
danijar/dreamerv3 baselines.yaml, after Mnih et al. 2015 (doi:10.1038/nature14236); `record` is that
of danijar/dreamerv2 scores/baselines.json, after Toromanoff et al. 2019 (arXiv:1908.04683).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import fmean, median

_DOPAMINE = "Dopamine's baselines in danijar/dreamerv2 scores/baselines.json"
_V3 = "danijar/dreamerv3 scores"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A protocol that agents have published scores of.

    Attributes:
        file: their scores, a row a game.
        frames: environment steps learned for.
        sources: agent -> where its column comes from.
    """

    file: str
    frames: int
    sources: Mapping[str, str]


BENCHMARKS = {
    "atari200m": Benchmark(
        file="atari_200m.csv",
        frames=200_000_000,
        sources={
            "DQN": _DOPAMINE,
            "C51": _DOPAMINE,
            "Rainbow": _DOPAMINE,
            "IQN": _DOPAMINE,
            "DreamerV2": "Hafner et al. 2021, arXiv:2010.02193, table K.1",
            "DreamerV3 2023": "danijar/dreamerv3 at 8fa35f8, last 10 million frames",
            "PPO": f"{_V3}/atari57-ppo_fixhp, last 2.4 million frames",
            "MuZero": f"{_V3}/atari57-muzero, last 4 million frames",
            "DreamerV3": f"{_V3}/atari57-dreamerv3, last 2.4 million frames",
        },
    ),
    "atari100k": Benchmark(
        file="atari_100k.csv",
        frames=400_000,
        sources={
            **dict.fromkeys(
                ("PPO", "SimPLe", "SPR", "TWM", "IRIS", "DreamerV3"),
                "Hafner et al. 2023, arXiv:2301.04104v2",
            ),
            "DreamerV3 2023": "danijar/dreamerv3 at 8fa35f8, last 10 thousand frames",
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The scores by which a game's are measured.

    Attributes:
        random: mean return of uniformly random actions.
        gamer: of a professional games tester.
        record: the best a human is known to have reached; None where nobody wrote it down.
    """

    random: float
    gamer: float
    record: float | None

    def human_normalized(self, score: float) -> float:
        """0 at random, 1 at the gamer's."""
        return (score - self.random) / (self.gamer - self.random)

    def record_normalized(self, score: float) -> float | None:
        """0 at random, 1 at the record; None where there is none."""
        if self.record is None:
            return None
        return (score - self.random) / (self.record - self.random)

    def scores(self, score: float) -> dict[str, float]:
        """Both scores, by name; one that does not exist is left out."""
        record = self.record_normalized(score)
        found = {"human_normalized": self.human_normalized(score)}
        return found if record is None else found | {"record_normalized": record}


@cache
def references() -> Mapping[str, Reference]:
    """The 57 games that have a gamer's score, by short name."""
    rows = _rows(BENCHMARKS["atari200m"].file)
    return {
        game: Reference(random=row["random"], gamer=row["gamer"], record=row.get("record"))
        for game, row in rows.items()
    }


@cache
def published(benchmark: str) -> Mapping[str, Mapping[str, float]]:
    """Agent -> game -> mean return; games that an agent did not play are left out."""
    rows, agents = _rows(BENCHMARKS[benchmark].file), BENCHMARKS[benchmark].sources
    return {
        agent: {game: row[agent] for game, row in rows.items() if agent in row} for agent in agents
    }


def _rows(file: str) -> dict[str, dict[str, float]]:
    """Game -> column -> number, without the empty cells."""
    with (resources.files(__name__.rpartition(".")[0]) / file).open(encoding="utf-8") as lines:
        return {
            row.pop("game"): {column: float(cell) for column, cell in row.items() if cell}
            for row in csv.DictReader(lines)
        }


AGGREGATES = (
    "human-normalized median",
    "human-normalized mean",
    "record mean",
    "clipped record mean",
)


def aggregate(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """One number for many games, in the four ways that are in use.

    Args:
        scores: game -> mean return of each seed. Games without reference are left out, of the
            record means those without record.

    Returns:
        Each of `AGGREGATES`; the clip is at 1, before seeds are averaged. Empty without a game.

    Source: Hafner et al. 2021 (arXiv:2010.02193), section 3.
    """
    known = [
        (references()[game], values) for game, values in scores.items() if game in references()
    ]
    if not known:
        return {}
    gamer = [fmean(map(reference.human_normalized, values)) for reference, values in known]
    found = {AGGREGATES[0]: median(gamer), AGGREGATES[1]: fmean(gamer)}
    seeds = [list(map(reference.record_normalized, values)) for reference, values in known]
    records = [[one for one in each if one is not None] for each in seeds if None not in each]
    if records:
        found[AGGREGATES[2]] = fmean(map(fmean, records))
        found[AGGREGATES[3]] = fmean(fmean(min(one, 1.0) for one in each) for each in records)
    return found
