"""The log of a run: metrics.jsonl, and the sinks that show it elsewhere."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from agentzoo.runtime.errors import MissingExtraError, RunError
from agentzoo.runtime.files import at_home

from .background import Background
from .run_folder import read_run_json
from .sinks.sink import Film, RunFacts, Sink

METRICS_FILE = "metrics.jsonl"
TRACKERS_FILE = "trackers.json"  # sink -> what identifies the run there
PATIENCE_S = 120.0  # that each sink has at the end for what still waits

Record = dict[str, float]


class Logger:
    """Writes scalars to `metrics.jsonl`, and hands them to sinks with pictures and films.

    A line is one JSON object with `env_step` (environment steps including repeat), `time/wall_s`
    (seconds of this run, earlier sittings included) and the metrics. Numbers that are not finite
    stand as the strings "nan", "inf" and "-inf", so that every line is valid JSON.

    Nothing here ends a run. With a full disk lines wait in memory until there is room. A sink that
    fails is left out for the rest of this sitting, one that is slow is not waited for; each is said
    on standard error.

    Args:
        folder: the run's folder; made if it is not there.
        sinks: where the log goes, too.
        facts: what the sinks are told of the run; None is its folder alone.
        resume_step: go on from this environment step: later lines are cut, later events hidden.
        enabled: False writes and shows nothing.
        patience_s: seconds that each sink has on closing.

    Raises:
        RunError: if an existing file is not a metrics file, or a sink cannot be opened.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        sinks: Sequence[Sink] = (),
        facts: RunFacts | None = None,
        resume_step: int | None = None,
        enabled: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / METRICS_FILE if enabled else Path(os.devnull)
        sinks, resume_step = (sinks, resume_step) if enabled else ((), None)
        kept = [] if resume_step is None else _cut(self.path, resume_step)
        self._pending = b""  # lines for which the disk has no room
        # the clock goes on where the last kept line left it
        self._started = time.monotonic() - (kept[-1]["time/wall_s"] if kept else 0.0)
        self._patience_s = patience_s
        told = replace(facts or RunFacts(folder=self.folder), resume_step=resume_step)
        self._sinks = [(sink, _begun(sink)) for sink in _opened(sinks, told)]
        self._file = self.path.open("ab", buffering=0)

    def write(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Append one line, and hand the metrics to the sinks."""
        numbers = {name: float(value) for name, value in metrics.items()}
        line = {"env_step": int(env_step), "time/wall_s": time.monotonic() - self._started}
        self._append(_encode({**line, **numbers}) + "\n")
        for sink, thread in self._sinks:
            thread.put(lambda sink=sink: sink.scalars(env_step, numbers))

    def picture(self, env_step: int, name: str, path: Path) -> None:
        """Hand a PNG to the sinks."""
        for sink, thread in self._sinks:
            thread.put(lambda sink=sink: sink.picture(env_step, name, path))

    def film(self, env_step: int, name: str, film: Film) -> None:
        """Hand a film to the sinks."""
        for sink, thread in self._sinks:
            thread.put(lambda sink=sink: sink.film(env_step, name, film))

    def _append(self, line: str) -> None:
        waited, self._pending = bool(self._pending), self._pending + line.encode()
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            if not waited:
                _say(f"{self.path} waits for room on the disk: {error}")

    def close(self) -> None:
        """Write what waits, and close the sinks; the folder stays readable."""
        self._append("")
        self._file.close()
        for sink, thread in self._sinks:
            thread.put(sink.close)
        for _, thread in self._sinks:
            thread.close(self._patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _opened(sinks: Sequence[Sink], facts: RunFacts) -> list[Sink]:
    """Open the sinks, and remember what identifies the run in each.

    Raises:
        RunError: naming the one that cannot be opened; those before it are closed again.
    """
    known = {} if facts.resume_step is None else _trackers(facts.folder)
    opened: list[Sink] = []
    for sink in sinks:
        try:
            run = sink.open(replace(facts, tracker_run=known.get(sink.name, "")))
        except Exception as error:
            for one in opened:
                one.close()
            if isinstance(error, MissingExtraError):
                raise
            raise RunError(
                f"the run's log cannot go to {sink.name}: {type(error).__name__}: {error}; mend "
                f"that, or leave {sink.name} out of log= (--log)"
            ) from error
        opened.append(sink)
        if run:
            known[sink.name] = run
    if known:
        (facts.folder / TRACKERS_FILE).write_text(json.dumps(known), encoding="utf-8")
    return opened


def _begun(sink: Sink) -> Background:
    def say(why: str) -> None:
        _say(f"the log goes to {sink.name} no more in this sitting: {why}")

    return Background(f"log to {sink.name}", say)


def _trackers(folder: Path) -> dict[str, str]:
    """The run's identity in each tracker, from earlier sittings.

    Raises:
        RunError: if the file holds something else.
    """
    path = folder / TRACKERS_FILE
    if not os.path.lexists(path):
        return {}
    try:
        return {name: str(run) for name, run in read_run_json(path).items()}
    except RunError as error:
        raise RunError(
            f"{path} is not a JSON object of names; remove it, and the trackers begin new runs"
        ) from error


def _say(text: str) -> None:
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        print(text, file=sys.stderr, flush=True)


def read_metrics(path: str | Path) -> list[Record]:
    """The lines of a metrics.jsonl, oldest first, non-finite numbers restored.

    A last line without its newline was torn by a crash and is left out.

    Args:
        path: the file, or the run's folder that holds it.

    Raises:
        RunError: if there is no such file, or a whole line of it is not a JSON object of numbers.
    """
    path = at_home(path)
    path = path / METRICS_FILE if path.is_dir() else path
    if not path.is_file():
        raise RunError(f"there are no metrics at {path}; give a run's folder or its {METRICS_FILE}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not text ({error}), so it holds no metrics") from error
    return [_decode(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _encode(record: Mapping[str, float]) -> str:
    whole = {k: v if math.isfinite(v) else str(float(v)) for k, v in record.items()}
    return json.dumps(whole, allow_nan=False)


def _decode(line: str, place: str) -> Record:
    try:
        record = {k: _number(v) for k, v in json.loads(line).items()}
        return {"env_step": 0, "time/wall_s": 0.0, **record}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RunError(f"{place}: {line[:60]!r} is not a JSON object of numbers") from error


def _number(value: Any) -> float:
    number = float(value)
    return value if isinstance(value, int) else number


def _cut(path: Path, step: int) -> list[Record]:
    """Drop the lines after `step`, all or nothing, and give the kept ones."""
    if not path.exists():
        return []
    kept = [record for record in read_metrics(path) if record["env_step"] <= step]
    beside = path.with_suffix(".cut")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(_encode(record) + "\n" for record in kept)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return kept
