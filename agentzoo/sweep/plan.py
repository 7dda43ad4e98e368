"""A sweep's file: agent, tasks, seeds, settings; a grid of them, or a search."""

import itertools
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from agentzoo.runtime.envs import resolve
from agentzoo.runtime.errors import ConfigError, nearest
from agentzoo.runtime.files import at_home

from ..agents.registry import named as registered
from ..config import setting

RUNNERS = ("processes", "ray")
DIRECTIONS = ("maximize", "minimize")
KEYS = (
    *("agent", "task", "tasks", "seeds", "steps", "preset", "folder", "parallel", "runner"),
    *("set", "grid", "search", "title"),
)
# what other tools call them
MEANT = {"env": "task", "envs": "tasks", "environment": "task", "out": "folder", "seed": "seeds"}
SEARCH_KEYS = ("trials", "space", "seed", "metric", "direction")


@dataclass(frozen=True)
class SearchRange:
    """Numbers a search draws from."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class SearchPlan:
    """A search by Optuna.

    Attributes:
        trials: settings that are tried.
        space: field -> a range, or a list of choices.
        seed: of the sampler.
        metric: of the runs' lines, whose last value is looked at; the mean over tasks and seeds.
        direction: maximize or minimize.
    """

    trials: int
    space: Mapping[str, SearchRange | Sequence[Any]]
    seed: int = 0
    metric: str = "eval/mean_reward"
    direction: str = "maximize"


@dataclass(frozen=True)
class RunPlan:
    """One run of a sweep.

    Attributes:
        agent: as the command line names it.
        env: environment string.
        seed: of the run.
        steps: environment steps.
        preset: or None.
        settings: field -> value.
        label: what tables call runs of these settings.
    """

    agent: str
    env: str
    seed: int
    steps: int
    preset: str | None
    settings: Mapping[str, Any]
    label: str

    @property
    def name(self) -> str:
        """The run's folder: readable, and another for every other plan."""
        told = {"env": self.env, "preset": self.preset, "settings": dict(self.settings)}
        digest = sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
        task = re.sub(r"[^a-z0-9]+", "-", self.env.partition(",")[0].partition("?")[0].lower())
        return f"{self.agent}-{task.strip('-')}-{digest}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        agent: as the command line names it.
        tasks: environment strings.
        seeds: of the runs.
        steps: environment steps of each.
        preset: of all, or None.
        settings: field -> value, of all.
        grid: field -> values; every combination is run.
        search: in the grid's place, or None.
        folder: where runs, table and picture go.
        parallel: runs at a time.
        runner: processes or ray.
        title: above the picture.
    """

    agent: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    folder: Path
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    search: SearchPlan | None = None
    parallel: int = 1
    runner: str = "processes"
    title: str = ""

    def runs(self) -> list[RunPlan]:
        """Every run of the grid, seeds last, so that each setting is seen early."""
        points = [dict(zip(self.grid, values, strict=True))
                  for values in itertools.product(*self.grid.values())]  # fmt: skip
        return [
            run for seed in self.seeds for point in points for run in self.of(point, seeds=(seed,))
        ]

    def of(self, point: Mapping[str, Any], *, seeds: Sequence[int] | None = None) -> list[RunPlan]:
        """The runs of one setting: every task and seed."""
        label = " ".join([self.agent, *(f"{name}={setting(one)}" for name, one in point.items())])
        settings = {**self.settings, **point}
        return [
            RunPlan(self.agent, env, seed, self.steps, self.preset, settings, label)
            for env in self.tasks
            for seed in (self.seeds if seeds is None else seeds)
        ]

    @property
    def digest(self) -> str:
        """Digest of what may not change when a sweep goes on; trials, or seeds and steps, may."""
        search = None
        if self.search is not None:
            search = [str(replace(self.search, trials=0)), self.seeds, self.steps]
        told = [self.agent, self.tasks, self.preset, dict(self.settings), search]
        grid = {name: list(values) for name, values in self.grid.items()}
        return sha256(json.dumps([*told, grid], sort_keys=True).encode()).hexdigest()


def read_plan(path: Path) -> Plan:
    """Read a sweep's TOML file; every name and value is checked before anything runs.

    Raises:
        ConfigError: naming what is wrong, where, and what was expected.
        EnvironmentStringError: for an unknown task.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; agentzoo sweep reads a TOML file")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    for key in given:
        if key not in KEYS:
            meant = f'did you mean "{MEANT[key]}"?' if key in MEANT else nearest(key, KEYS, "keys")
            raise ConfigError(f'{path} has "{key}"; {meant}')
    agent = _text(path, given, "agent")
    entry = registered(agent)
    tasks = _tasks(path, given)
    grid, search = _table(path, given, "grid"), _search(path, given)
    if grid and search is not None:
        raise ConfigError(f"{path} has a grid and a search; leave one of them out")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: grid.{name} is {values!r}, expected a list of values")
    preset, settings = given.get("preset"), _table(path, given, "set")
    folder = given.get("folder", f"sweeps/{path.stem}")
    plan = Plan(
        agent=entry.command,
        tasks=tasks,
        seeds=_seeds(path, given),
        steps=_whole(path, given, "steps"),
        folder=at_home(folder),
        preset=preset,
        settings=settings,
        grid=grid,
        search=search,
        parallel=_whole(path, given, "parallel", 1),
        runner=_one_of(path, given, "runner", RUNNERS),
        title=str(given.get("title", "")),
    )
    _check_settings(path, plan)
    names = [run.name for run in plan.runs()]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{path} names a run twice: a task, or a value of the grid; leave one out"
        )
    return plan


def _check_settings(path: Path, plan: Plan) -> None:
    """Refuse unknown presets, fields and values now, not in the middle of the night."""
    kind = registered(plan.agent).load()
    points: list[Mapping[str, Any]] = [dict(zip(plan.grid, values, strict=True))
              for values in itertools.product(*plan.grid.values())]  # fmt: skip
    if plan.search is not None:
        seen = {name: _examples(one) for name, one in plan.search.space.items()}
        longest = max(map(len, seen.values()))
        points += [{n: one[k % len(one)] for n, one in seen.items()} for k in range(longest)]
    for point in points:
        try:
            kind(preset=plan.preset, seed=0, **{**plan.settings, **point})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def _examples(one: SearchRange | Sequence[Any]) -> Sequence[Any]:
    """Every choice; of a range its ends, and a number between them that is not whole."""
    if not isinstance(one, SearchRange):
        return one
    if one.whole:
        return [int(one.low), int(one.high)]
    between = one.low + (one.step or (one.high - one.low) / math.pi)
    return [one.low, min(between, one.high), one.high]


def _text(path: Path, given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f'{path}: {key} is {value!r}, expected a text such as {key} = "dreamer"')
    return value


def _whole(
    path: Path, given: Mapping[str, Any], key: str, default: int | None = None, *, least: int = 1
) -> int:
    value = given.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < least:
        raise ConfigError(
            f"{path}: {key} is {value!r}, expected a whole number of at least {least}"
        )
    return value


def _tasks(path: Path, given: Mapping[str, Any]) -> tuple[str, ...]:
    found = given.get("tasks", [given["task"]] if "task" in given else None)
    if not isinstance(found, list) or not found or not all(isinstance(t, str) for t in found):
        raise ConfigError(
            f'{path}: tasks is {found!r}, expected tasks = ["dmc:walker-walk", ...] or task = "..."'
        )
    for one in found:
        resolve(one)  # says what is wrong with it
    return tuple(found)


def _seeds(path: Path, given: Mapping[str, Any]) -> tuple[int, ...]:
    found = given.get("seeds", 1)
    if isinstance(found, int) and not isinstance(found, bool) and found >= 1:
        return tuple(range(found))
    listed: list[Any] = found if isinstance(found, list) else []
    whole = bool(listed) and all(type(k) is int and k >= 0 for k in listed)
    if not whole or len(set(listed)) != len(listed):
        raise ConfigError(
            f"{path}: seeds is {found!r}, expected a number of seeds or a list of different ones"
        )
    return tuple(listed)


def _table(path: Path, given: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = given.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key} is {value!r}, expected a table [{key}]")
    return value


def _one_of(path: Path, given: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    value = given.get(key, known[0])
    if value not in known:
        raise ConfigError(f"{path}: {key} is {value!r}, expected {' or '.join(known)}")
    return value


def _search(path: Path, given: Mapping[str, Any]) -> SearchPlan | None:
    if "search" not in given:
        return None
    table = _table(path, given, "search")
    for key in table:
        if key not in SEARCH_KEYS:
            raise ConfigError(f'{path}: search has "{key}"; {nearest(key, SEARCH_KEYS, "keys")}')
    space = {name: _range(path, name, one) for name, one in _table(path, table, "space").items()}
    if not space:
        raise ConfigError(f"{path}: search has no [search.space] with fields to draw")
    return SearchPlan(
        trials=_whole(path, table, "trials"),
        space=space,
        seed=_whole(path, table, "seed", 0, least=0),
        metric=str(table.get("metric", SearchPlan.metric)),
        direction=_one_of(path, table, "direction", DIRECTIONS),
    )


def _range(path: Path, name: str, given: object) -> SearchRange | Sequence[Any]:
    """A list of choices, or a table with low and high."""
    if isinstance(given, list) and given:
        return given
    wrong = ConfigError(
        f"{path}: search.space.{name} is {given!r}, expected a list of choices or a table with "
        "numbers low below high, and perhaps step above 0 (whole between whole numbers), or "
        "log = true with low above 0"
    )
    known = {"low", "high", "log", "step"}
    if not isinstance(given, dict) or not set(given) <= known or not {"low", "high"} <= set(given):
        raise wrong
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    if any(type(one) not in (int, float) for one in numbers) or not isinstance(log, bool):
        raise wrong
    whole = type(low) is int and type(high) is int
    steps = step is None or (step > 0 and (type(step) is int or not whole) and not log)
    if not low < high or not steps or (log and low <= 0):
        raise wrong
    return SearchRange(low, high, log, step, whole)
