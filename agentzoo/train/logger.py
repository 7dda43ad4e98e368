"""The logs of a run: metrics.jsonl, TensorBoard, and one line in the terminal."""

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self, TextIO

from tqdm import tqdm

from agentzoo.runtime.errors import MissingExtraError, RunError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

METRICS_FILE = "metrics.jsonl"
LINE_EVERY_S = 30.0  # seconds between two lines where there is no terminal to redraw
RATE_WINDOW_S = 60.0  # seconds over which speeds are measured

Record = dict[str, float]


class Logger:
    """Writes scalars to `metrics.jsonl` and as TensorBoard events, in one folder.

    A line is one JSON object with `env_step` (environment steps including repeat), `time/wall_s`
    (seconds of this run, earlier sittings included) and the metrics. Numbers that are not finite
    stand as the strings "nan", "inf" and "-inf", so that every line is valid JSON.

    A disk that is full ends no run: lines wait in memory until there is room, events are given up,
    and both are said on standard error.

    Args:
        folder: the run's folder; made if it is not there.
        resume_step: go on from this environment step: later lines are cut, later events hidden.

    Raises:
        MissingExtraError: if tensorboard is not installed.
        RunError: if an existing file is not a metrics file.
    """

    def __init__(self, folder: str | Path, *, resume_step: int | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / METRICS_FILE
        kept = [] if resume_step is None else _cut(self.path, resume_step)
        self._events: SummaryWriter | None = _summary_writer(self.folder, resume_step)
        self._pending = b""  # lines for which the disk has no room
        # the clock goes on where the last kept line left it
        self._started = time.monotonic() - (kept[-1]["time/wall_s"] if kept else 0.0)
        self._file = self.path.open("ab", buffering=0)

    def write(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Append one line, and add each metric to TensorBoard."""
        numbers = {name: float(value) for name, value in metrics.items()}
        line = {"env_step": int(env_step), "time/wall_s": time.monotonic() - self._started}
        self._append(_encode({**line, **numbers}) + "\n")
        try:
            if self._events is not None:
                for name, value in numbers.items():
                    self._events.add_scalar(name, value, env_step)
        except OSError as error:
            self._events = None  # its thread has ended
            _say(f"no more TensorBoard events in this sitting: {error}")

    def _append(self, line: str) -> None:
        waited, self._pending = bool(self._pending), self._pending + line.encode()
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            if not waited:
                _say(f"{self.path} waits for room on the disk: {error}")

    def close(self) -> None:
        """Flush and close both; the folder stays readable."""
        self._append("")
        self._file.close()
        try:
            if self._events is not None:
                self._events.close()
        except OSError as error:
            _say(f"the last TensorBoard events are lost: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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
    path = Path(path)
    path = path / METRICS_FILE if path.is_dir() else path
    if not path.is_file():
        raise RunError(f"there are no metrics at {path}; give a run's folder or its {METRICS_FILE}")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [_decode(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


class ProgressBar:
    """One line that says where a run stands: steps, speeds, the last return, the time left.

    In a terminal it redraws itself; elsewhere (a log file, CI) it prints a line every half minute.

    Args:
        total: environment steps at which the run ends.
        start: environment steps already done, for a resumed run.
        enabled: False prints nothing but warnings.
        stream: where to; standard error by default.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.env_step, self.updates = total, start, 0
        self.last_return, self.phase = math.nan, ""
        self._stream: TextIO | None = stream or sys.stderr  # a program without a console has none
        self._clock = clock
        self._enabled = enabled and self._stream is not None
        self._redraws = self._enabled and self._stream is not None and self._stream.isatty()
        self._printed = clock()
        self._marks: deque[tuple[float, int, int]] = deque()
        self._bar = self._drawn(start) if self._redraws else None

    def update(
        self,
        env_step: int,
        *,
        updates: int | None = None,
        last_return: float | None = None,
        phase: str | None = None,
    ) -> None:
        """Move to `env_step`; what is left out stays as it was. Cheap: call it on every update.

        Args:
            env_step: environment steps so far.
            updates: gradient steps so far.
            last_return: of the last finished episode.
            phase: what is being done ("prefill", "learning"); no time left is said in "prefill".
        """
        self.env_step = env_step
        self.updates = self.updates if updates is None else updates
        self.last_return = self.last_return if last_return is None else last_return
        if phase is not None and phase != self.phase:
            self._marks.clear()  # prefill is faster than learning and says nothing about it
            self.phase = phase
        self._mark()
        if self._enabled:
            self._show()

    def note(self, text: str) -> None:
        """Print a line of its own without tearing the bar."""
        if not self._enabled:
            return
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def warn(self, text: str) -> None:
        """Print a line of its own about what may not go unsaid, even where the bar is disabled."""
        if self._enabled:
            self.note(text)
        elif self._stream is not None:
            print(text, file=self._stream, flush=True)

    def status(self) -> str:
        """Speeds, last return and time left, those that are known."""
        seconds, steps, updates = self._elapsed()
        parts = [self.phase] if self.phase else []
        if seconds > 0:
            parts += [f"{steps / seconds:,.0f} steps/s"]
            parts += [f"{updates / seconds:.1f} updates/s"] if updates else []
        if not math.isnan(self.last_return):
            parts += [f"return {self.last_return:,.1f}"]
        if steps and seconds > 0 and self.phase != "prefill":
            parts += [f"{duration((self.total - self.env_step) * seconds / steps)} left"]
        return ", ".join(parts)

    def close(self) -> None:
        """Say the last state and end the line."""
        if self._bar is not None:
            self._bar.close()
        elif self._enabled:
            self._print()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _drawn(self, start: int) -> "tqdm[NoReturn]":
        form = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} steps{postfix}"
        return tqdm(
            total=self.total,
            initial=start,
            file=self._stream,
            bar_format=form,
            dynamic_ncols=True,
            unit_scale=True,
            miniters=0,  # redraw on time alone: an update moves the speeds, not the steps
            mininterval=0.2,
        )

    def _mark(self) -> None:
        now = self._clock()
        self._marks.append((now, self.env_step, self.updates))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_WINDOW_S:
            self._marks.popleft()

    def _elapsed(self) -> tuple[float, int, int]:
        if not self._marks:
            return 0.0, 0, 0
        (before, steps, updates), (now, *_) = self._marks[0], self._marks[-1]
        return now - before, self.env_step - steps, self.updates - updates

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self.status(), refresh=False)
            self._bar.update(self.env_step - self._bar.n)
        elif self._clock() - self._printed >= LINE_EVERY_S:
            self._print()

    def _print(self) -> None:
        self._printed = self._clock()
        done = 100 * self.env_step / max(self.total, 1)
        line = f"{self.env_step:,} of {self.total:,} steps ({done:.0f} %)"
        print(", ".join(filter(None, [line, self.status()])), file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "6 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _encode(record: Mapping[str, float]) -> str:
    whole = {k: v if math.isfinite(v) else str(float(v)) for k, v in record.items()}
    return json.dumps(whole, allow_nan=False)


def _decode(line: str, place: str) -> Record:
    try:
        record = json.loads(line)
        return {k: v if isinstance(v, int) else float(v) for k, v in record.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{place}: {line[:60]!r} is not a JSON object of numbers") from error


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


def _summary_writer(folder: Path, resume_step: int | None) -> "SummaryWriter":
    # torch.utils.tensorboard raises a bare ImportError where the package is missing
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    purge = None if resume_step is None else resume_step + 1
    return SummaryWriter(str(folder), purge_step=purge)
