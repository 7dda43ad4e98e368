"""`agentzoo table`: Atari scores over games, on the scales that papers use, beside the papers'."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from agentzoo.runtime.bundle.manifest import RESULTS
from agentzoo.runtime.envs import EnvName, protocol_of, resolve, settings_of
from agentzoo.runtime.envs.atari_scores import (
    AGGREGATES,
    BENCHMARKS,
    aggregate,
    published,
    references,
)
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.evaluation.results import read_results
from agentzoo.runtime.printable import printable

SUITE = "atari:"


@dataclass(frozen=True)
class GameScore:
    """The parts of one results.json that a table needs.

    Attributes:
        agent: class name.
        env: resolved environment string.
        returns: of each episode.
        deterministic: whether actions were the distribution's mode.
    """

    agent: str
    env: str
    returns: tuple[float, ...]
    deterministic: bool

    @property
    def game(self) -> str:
        """Short name."""
        return EnvName.read(self.env).task

    @property
    def mean(self) -> float:
        """Mean return."""
        return fmean(self.returns)

    @property
    def protocol(self) -> dict[str, object]:
        """Protocol, as in `Evaluation.protocol`."""
        return {**settings_of(self.env), "deterministic": self.deterministic}

    @property
    def benchmark(self) -> str:
        """The published scores beside which its own stands."""
        return "atari100k" if protocol_of(self.env) == "atari100k" else "atari200m"


def table(paths: Sequence[Path]) -> str:
    """Two Markdown tables, by game and over the games, with what stands behind them.

    Several results of one agent and game are its seeds.

    Args:
        paths: results.json files, or folders that hold some, at any depth.

    Raises:
        ConfigError: if there is no result, or results cannot be compared.
        BundleError: if a file is not what `agentzoo evaluate --record` writes.
    """
    found = {path: read(path) for path in files(paths)}
    comparable(found)
    scores = list(found.values())
    ours, name = by_agent(scores), scores[0].benchmark
    columns = {**ours, **_as_seeds(published(name), scores)}
    notes = [
        *(f"{agent}: {_protocol(scores, agent)}" for agent in ours),
        f"Published, at {BENCHMARKS[name].frames:,} frames, not all with the same action sets and "
        f"colours. {_sources(BENCHMARKS[name].sources)}",
        "A number in parentheses: an agent's games, where it did not play all of these. Games "
        "without a gamer's score are not among them.",
    ]
    return "\n\n".join((_games(columns), _overall(columns), *notes))


def files(paths: Iterable[Path]) -> list[Path]:
    """The results.json files that are named, or lie in the folders that are.

    Raises:
        ConfigError: if a path holds none.
    """
    found: list[Path] = []
    for path in paths:
        here = [path] if path.is_file() else sorted(path.rglob(RESULTS))
        if not here:
            raise ConfigError(
                f"{path} holds no {RESULTS}; name such files or folders with some, as "
                "agentzoo evaluate --record writes them"
            )
        found += here
    return found


def read(path: Path) -> GameScore:
    """One results.json.

    Raises:
        BundleError: if it is not what `agentzoo evaluate --record` writes.
        ConfigError: if it is not of an Atari game.
        EnvironmentStringError: if its environment is unknown.
    """
    try:
        score = read_results(path)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    if not score.env.startswith(SUITE):
        raise ConfigError(
            f'{path} is of "{score.env}", expected a game of {SUITE}; leave it out, since human '
            "scores are known of those only"
        )
    env = resolve(score.env, trusted=False)
    agent = printable(score.agent).replace("|", "\\|")  # it may be a stranger's
    return GameScore(agent, env, score.returns, score.deterministic)


def comparable(found: Mapping[Path, GameScore]) -> None:
    """Refuse one agent's results under different protocols, and different benchmarks.

    Raises:
        ConfigError: naming two files and what differs.
    """
    first: dict[str, Path] = {}
    for path, score in found.items():
        before = first.setdefault(score.agent, path)
        theirs = found[before].protocol
        if differing := [key for key, value in score.protocol.items() if theirs[key] != value]:
            said = "; ".join(f"{key}={theirs[key]} and {score.protocol[key]}" for key in differing)
            raise ConfigError(
                f"{before} and {path} are of {score.agent} under different protocols ({said}); "
                "a table compares like with like: give results of one"
            )
    by_benchmark = {score.benchmark: path for path, score in found.items()}
    if len(by_benchmark) > 1:
        raise ConfigError(
            f"{' and '.join(map(str, by_benchmark.values()))} belong to different benchmarks "
            f"({', '.join(by_benchmark)}); make a table of each"
        )


def by_agent(scores: Iterable[GameScore]) -> dict[str, dict[str, list[float]]]:
    """Agent -> game -> mean return of each seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        found.setdefault(f"{score.agent} (ours)", {}).setdefault(score.game, []).append(score.mean)
    return found


def _as_seeds(
    agents: Mapping[str, Mapping[str, float]], scores: Sequence[GameScore]
) -> dict[str, dict[str, list[float]]]:
    played = {score.game for score in scores}
    return {
        agent: {game: [value] for game, value in column.items() if game in played}
        for agent, column in agents.items()
    }


def _sources(sources: Mapping[str, str]) -> str:
    """Each source once, after the agents it is of."""
    agents: dict[str, list[str]] = {}
    for agent, source in sources.items():
        agents.setdefault(source, []).append(agent)
    return " ".join(f"{', '.join(names)}: {source}." for source, names in agents.items())


def _protocol(scores: Iterable[GameScore], column: str) -> str:
    one = next(score for score in scores if column.startswith(f"{score.agent} "))
    name = protocol_of(one.env)
    settings = ", ".join(f"{key}={value}" for key, value in one.protocol.items())
    return f"protocol {name} ({settings})" if name else settings


def _games(columns: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A row a game: what random play and the gamer reach, then every agent's mean return."""
    games = sorted({game for column in columns.values() for game in column})
    rows = [
        [game, *_references(game), *(_mean(column.get(game)) for column in columns.values())]
        for game in games
    ]
    return _markdown(["game", "random", "gamer", *columns], rows)


def _references(game: str) -> tuple[str, str]:
    reference = references().get(game)
    return ("", "") if reference is None else (_number(reference.random), _number(reference.gamer))


def _overall(columns: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A row an aggregate."""
    known = {agent: set(column) & set(references()) for agent, column in columns.items()}
    games = set[str]().union(*known.values())
    found = {agent: aggregate(column) for agent, column in columns.items()}

    def cell(agent: str, row: str) -> str:
        partial = "" if known[agent] == games else f" ({len(known[agent])})"
        return f"{found[agent][row]:.2f}{partial}" if row in found[agent] else ""

    rows = [[row, *(cell(agent, row) for agent in columns)] for row in AGGREGATES]
    return _markdown([f"over {len(games)} games", *columns], rows)


def _mean(seeds: Sequence[float] | None) -> str:
    return "" if seeds is None else _number(fmean(seeds))


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
