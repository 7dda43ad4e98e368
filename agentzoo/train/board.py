"""Runs and results beside each other: by task and agent, over seeds; one table and one picture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentzoo.runtime.bundle.agent_config import CONFIG, Settings, read_settings
from agentzoo.runtime.bundle.manifest import RESULTS
from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.envs.atari_scores import references
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.runtime.evaluation.results import read_results
from agentzoo.runtime.evaluation.rollout import Evaluation
from agentzoo.runtime.evaluation.statistics import (
    Estimate,
    Profile,
    iqm,
    iqm_interval,
    performance_profile,
    probability_of_improvement,
    scored_in,
)
from agentzoo.runtime.printable import printable

from .logger import METRICS_FILE, Record, read_metrics
from .scores import training_crafter_score

EVALUATION, COLLECTION = "eval/mean_reward", "rollout/ep_rew_mean"
INSIDE = {"checkpoints", "best", "replay"}  # folders of a run that hold no run of their own
SCALES = {"dmc:": (0.0, 1000.0)}  # suites whose returns have ends that are known


@dataclass(frozen=True)
class RunScore:
    """One run, or one result.

    Attributes:
        agent: its name in tables.
        env: resolved environment string, or "".
        lines: of its metrics.jsonl, if there is one.
        score: mean return of its policy: of results.json, else of its last evaluation; or None.
        episodes: that the score is over.
        success: share of these that reached their goal, or None.
        settings: preset and overrides, by which runs of one agent are told apart.
        is_offline: whether its lines count updates.
    """

    agent: str
    env: str
    lines: Sequence[Record] = ()
    score: float | None = None
    episodes: int = 0
    success: float | None = None
    settings: str = ""
    is_offline: bool = False

    @property
    def task(self) -> str:
        """The environment without what only concerns how an agent sees it and decides."""
        return scored_in(self.env) or "an environment of its own"


class Summary(NamedTuple):
    """Aggregates of normalised scores over several tasks.

    Attributes:
        iqm: agent -> interquartile mean over runs and tasks.
        profiles: agent -> its performance profile.
        better: (agent, other) -> probability of improvement.
    """

    iqm: Mapping[str, Estimate]
    profiles: Mapping[str, Profile]
    better: Mapping[tuple[str, str], Estimate]


@dataclass(frozen=True)
class Board:
    """Entries by task and agent.

    Attributes:
        entries: task -> agent -> its runs.
        scales: task -> the returns that count as 0 and 1.
    """

    entries: Mapping[str, Mapping[str, Sequence[RunScore]]]
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order in which they came."""
        return list(self.entries)

    @property
    def agents(self) -> list[str]:
        """Likewise."""
        return list(dict.fromkeys(agent for column in self.entries.values() for agent in column))

    def scores(self, task: str, agent: str) -> list[float]:
        """The scores of an agent's runs of one task."""
        runs = self.entries[task].get(agent, ())
        return [run.score for run in runs if run.score is not None]

    def scale(self, task: str) -> tuple[float, float] | None:
        """The returns of a task that count as 0 and 1, where they are known."""
        if task in self.scales:
            return self.scales[task]
        if len(self.entries) == 1:
            return 0.0, 1.0  # nothing is pooled, so returns stay what they are
        for start, ends in SCALES.items():
            if task.startswith(start):
                return ends
        named = EnvName.read(task)
        found = references().get(named.task)
        if named.suite == "atari" and found is not None:
            return found.random, found.gamer
        return None

    def normalised(self, agent: str) -> dict[str, list[float]] | None:
        """Task -> scores on the task's scale; None unless the agent has one on every task."""
        found: dict[str, list[float]] = {}
        for task in self.tasks:
            ends, scores = self.scale(task), self.scores(task, agent)
            if ends is None or not scores:
                return None
            found[task] = [(one - ends[0]) / (ends[1] - ends[0]) for one in scores]
        return found

    def summary(self) -> Summary | None:
        """Over all tasks, of the agents that have scores on each; None without two of those."""
        pairs = {agent: self.normalised(agent) for agent in self.agents}
        known = {agent: found for agent, found in pairs.items() if found is not None}
        if len(known) < 2:
            return None
        pooled = {agent: np.concatenate(list(one.values())) for agent, one in known.items()}
        every = np.concatenate(list(pooled.values()))
        thresholds = np.linspace(min(0.0, every.min()), max(1.0, every.max()), 61)
        return Summary(
            {a: Estimate(iqm(pooled[a]), *iqm_interval(known[a])) for a in known},
            {a: performance_profile(known[a], thresholds) for a in known},
            {
                (a, b): probability_of_improvement(known[a], known[b])
                for a, b in combinations(known, 2)
            },
        )


def read_board(
    paths: Sequence[tuple[str, Path]],
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> Board:
    """Read runs and results.

    Args:
        paths: (name, path) pairs: runs' folders, results.json files, or folders that hold some at
            any depth; the agent there is called by the name, if it is not "".
        scales: task -> the returns that count as 0 and 1, for tasks whose scale is not known.

    Raises:
        ConfigError: if a path holds neither, or a scale is of no task here.
        BundleError: if a results.json or config.json is not what it has to be.
        RunError: if a metrics.jsonl is not.
    """
    found: list[RunScore] = []
    for name, path in paths:
        entries = [_entry(place) for place in _places(path)]
        found += [replace(one, agent=name, settings="") if name else one for one in entries]
    by_task: dict[str, dict[str, list[RunScore]]] = {}
    for one in _told_apart(found):
        by_task.setdefault(one.task, {}).setdefault(one.agent, []).append(one)
    unknown = sorted(set(scales or {}) - set(by_task))
    if unknown:
        raise ConfigError(
            f"a scale was given for {unknown[0]}, expected one of {', '.join(by_task)}"
        )
    return Board(by_task, scales or {})


def _places(path: Path) -> list[Path]:
    """The folders of runs and results at or below a path, or a results.json itself."""
    if path.is_file():
        return [path]
    files = [*path.rglob(METRICS_FILE), *path.rglob(RESULTS)]
    folders = {one.parent for one in files}
    kept = [one for one in folders if not INSIDE & set(one.relative_to(path).parts)]
    if not kept:
        raise ConfigError(
            f"{path} holds no run and no {RESULTS}; name runs' folders, results.json files, or "
            "folders that hold some"
        )
    return sorted(kept)


def _entry(place: Path) -> RunScore:
    folder = place.parent if place.is_file() else place
    has_results = place.is_file() or (folder / RESULTS).is_file()
    results = read_results(place) if has_results else None
    lines = read_metrics(folder) if place.is_dir() and (folder / METRICS_FILE).is_file() else []
    settings = read_settings(folder) if lines and (folder / CONFIG).is_file() else None
    if settings is None and results is None:
        raise RunError(
            f"{folder} has a {METRICS_FILE}, and neither config.json nor {RESULTS} that say whose; "
            "name a run's folder"
        )
    agent = settings.agent if settings is not None else results.agent if results else ""
    env = settings.env if settings is not None else results.env if results else ""
    return replace(
        _scored(results, lines),
        agent=agent,
        env=env,
        settings=_spelled(settings),
        is_offline=settings is not None and settings.offline is not None,
    )


def _scored(results: Evaluation | None, lines: Sequence[Record]) -> RunScore:
    """The score there is: of results.json, else of the run's last evaluation."""
    if results is not None:
        count, rate = len(results.returns), results.success_rate
        return RunScore("", "", lines, results.mean, count, rate)
    last = next((line for line in reversed(lines) if EVALUATION in line), None)
    if last is None:
        return RunScore("", "", lines)
    episodes = round(last.get("eval/episodes", 0))
    return RunScore("", "", lines, last[EVALUATION], episodes, last.get("eval/success_rate"))


def _spelled(settings: Settings | None) -> str:
    if settings is None or settings.training is None:
        return ""
    training = settings.training
    return " ".join([training.preset, *training.overrides])


def _told_apart(entries: Sequence[RunScore]) -> Iterable[RunScore]:
    """Names with settings, where one agent has several."""
    kinds: dict[str, set[str]] = {}
    for one in entries:
        kinds.setdefault(one.agent, set()).add(one.settings)
    for one in entries:
        several = len(kinds[one.agent]) > 1 and one.settings
        yield replace(one, agent=f"{one.agent} {one.settings}") if several else one


# -- the table -----------------------------------------------------------------------------------


def board_table(board: Board) -> str:
    """Scores by task and agent as Markdown, and what they come to over the tasks."""
    agents = board.agents
    rows = [
        [task, *(_cell(board.entries[task].get(agent, ())) for agent in agents)]
        for task in board.tasks
    ]
    head = ["mean return (lowest to highest run)", *agents]
    parts = [_markdown(head, rows), *_extra(board, agents)]
    summary = board.summary()
    if summary is not None:
        parts += _summed(board, summary)
    elif len(agents) > 1 and len(board.tasks) > 1:
        without = [task for task in board.tasks if board.scale(task) is None]
        if without:
            parts.append(
                f"No numbers over all tasks: the returns of {', '.join(without)} have no scale "
                "that is known here; give one: --scale TASK=LOW,HIGH"
            )
    return "\n\n".join(parts)


def _cell(runs: Sequence[RunScore]) -> str:
    scores = [run.score for run in runs if run.score is not None]
    if not scores:
        return f"{len(runs)} runs, no score yet" if runs else ""
    mean = _number(float(np.mean(scores)))
    if len(scores) == 1:
        return mean
    return f"{mean} ({_number(min(scores))} to {_number(max(scores))}), {len(scores)} runs"


def _extra(board: Board, agents: Sequence[str]) -> list[str]:
    """Success rates and Crafter's score from training, where there are any."""
    tables: list[str] = []
    for name, value in (("success rate", _success), ("Crafter's score in training", _crafter)):
        rows: list[list[str]] = []
        for task in board.tasks:
            found = [[value(run) for run in board.entries[task].get(a, ())] for a in agents]
            known = [[one for one in runs if one is not None] for runs in found]
            if any(known):
                cells = [f"{np.mean(one):.2f}" if one else "" for one in known]
                rows.append([task, *cells])
        if rows:
            tables.append(_markdown([name, *agents], rows))
    return tables


def _success(run: RunScore) -> float | None:
    return run.success


def _crafter(run: RunScore) -> float | None:
    if not run.env.startswith("crafter:"):
        return None
    try:
        return training_crafter_score(run.lines)
    except RunError:
        return None


def _summed(board: Board, summary: Summary) -> list[str]:
    raw = len(board.tasks) == 1 and not board.scales
    rows = [[agent, _digits(one.value, raw), _ends(one, raw)] for agent, one in summary.iqm.items()]
    over = "returns" if raw else f"normalised over {len(board.tasks)} tasks"
    tables = [_markdown([f"IQM, {over}", "value", "95 % interval"], rows)]
    rows = [
        [f"{a} above {b}", f"{one.value:.2f}", _ends(one, False)]
        for (a, b), one in summary.better.items()
    ]
    return [*tables, _markdown(["probability of improvement", "value", "95 % interval"], rows)]


def _ends(one: Estimate, raw: bool) -> str:
    return f"{_digits(one.low, raw)} to {_digits(one.high, raw)}"


def _digits(value: float, raw: bool) -> str:
    return _number(value) if raw else f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(printable, line))} |" for line in lines)
