"""Runs of a folder and their curves, read while they learn; nothing of torch is needed."""

import json
import math
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ...bundle.agent_config import read_entries
from ...errors import BundleError

METRICS = "metrics.jsonl"
DEPTH = 3  # folders below the given one
MOST_RUNS = 64
MOST_POINTS = 500  # of a curve; longer ones are thinned out
MOST_BYTES = 64 << 20  # of one file that are read


@dataclass
class RunCurves:
    """One run's folder, and what has been read of it so far.

    Attributes:
        folder: where it is.
        name: its path below the folder of runs.
        curves: metric -> its points (environment step, value).
    """

    folder: Path
    name: str
    agent: str = ""
    env: str = ""
    seed: str = ""
    curves: dict[str, list[tuple[float, float]]] = field(
        default_factory=dict[str, list[tuple[float, float]]]
    )
    steps: float = 0.0
    newest: float = 0.0
    _read: int = 0

    def refresh(self) -> None:
        """Read what was written since; a run that was resumed is read again from its start."""
        path = self.folder / METRICS
        found = path.stat()
        if found.st_size < self._read:
            self.curves, self._read = {}, 0
        self.newest = found.st_mtime
        if found.st_size == self._read or self._read >= MOST_BYTES:
            return
        if not self.agent:
            self._describe()
        with path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read(MOST_BYTES).rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.splitlines():
            self._take(line)

    def _describe(self) -> None:
        try:
            entries = read_entries(self.folder)
        except BundleError:
            return  # being written, or too large
        self.agent, self.env, self.seed = (
            str(entries.get(name, ""))[:200] for name in ("agent", "env", "seed")
        )

    def _take(self, line: bytes) -> None:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return  # torn by a crash; the next sitting cut it
        if not isinstance(value, dict):
            return
        entries = cast("dict[str, object]", value)
        step = _number(entries.get("env_step"))
        if step is None:
            return
        self.steps = step
        for name, one in entries.items():
            number = _number(one)
            if name != "env_step" and number is not None:
                self.curves.setdefault(name, []).append((step, number))

    def facts(self) -> dict[str, object]:
        """The runs that the page lists."""
        return {
            "name": self.name,
            "agent": self.agent,
            "env": self.env,
            "seed": self.seed,
            "steps": self.steps,
            "age_s": max(time.time() - self.newest, 0.0),
            "metrics": sorted(self.curves),
        }

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """A curve's points, thinned out to a number that a page can draw; the newest stays."""
        points = self.curves.get(metric, [])
        if len(points) <= MOST_POINTS:
            return points
        step = math.ceil(len(points) / MOST_POINTS)
        return [*points[:-1:step], points[-1]]


def _number(value: object) -> float | None:
    """A finite float; None of anything else."""
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def _changed(path: Path) -> float | None:
    """Time of a file's last writing; None where there is no plain file any more."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) else None


class Runs:
    """The runs below one folder, newest first."""

    def __init__(self, folder: Path) -> None:
        """Begin with nothing read."""
        self.folder = folder.resolve()
        self._runs: dict[str, RunCurves] = {}

    def refresh(self) -> list[RunCurves]:
        """The runs there are, each read up to its end."""
        found = {path: when for path in self._found() if (when := _changed(path)) is not None}
        newest = sorted(found, key=lambda one: found[one], reverse=True)
        names = {
            path.parent.relative_to(self.folder).as_posix(): path.parent
            for path in newest[:MOST_RUNS]
        }
        known = {
            name: self._runs.get(name) or RunCurves(folder, name if name != "." else folder.name)
            for name, folder in names.items()
        }
        self._runs = known
        for name, run in list(known.items()):
            try:
                run.refresh()
            except OSError:  # another user's, or removed meanwhile
                del known[name]
        return list(known.values())

    def find(self, name: str) -> RunCurves | None:
        """A run by the name that it was listed under."""
        return next((run for run in self._runs.values() if run.name == name), None)

    def _found(self) -> Iterator[Path]:
        for depth in range(DEPTH + 1):
            yield from self.folder.glob("/".join(["*"] * depth + [METRICS]))
