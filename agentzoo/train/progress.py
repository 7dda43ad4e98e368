"""The progress bar of a run."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Self, TextIO

from tqdm import tqdm

from agentzoo.runtime.notebook import Display, escaped, in_notebook

LINE_EVERY_S = 30.0  # seconds between two lines where there is no terminal to redraw
REDRAW_S = 0.5  # between two states of a notebook's bar
RATE_WINDOW_S = 60.0  # seconds over which speeds are measured


class ProgressBar:
    """One line that says where a run stands: steps, speeds, the last return, the time left.

    In a terminal and in a notebook it redraws itself; elsewhere (a log file, CI) it prints a line
    every half minute.

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
        in_page = self._enabled and stream is None and self._bar is None and in_notebook()
        self._page = Display(self._html()) if in_page else None

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
        if self._page is not None:
            print(text, flush=True)  # a notebook shows standard error as a fault
        elif self._bar is None:
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
        elif self._page is not None:
            self._page.update(self._html())
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
        elif self._page is not None:
            if self._clock() - self._printed >= REDRAW_S:
                self._printed = self._clock()
                self._page.update(self._html())
        elif self._clock() - self._printed >= LINE_EVERY_S:
            self._print()

    def _print(self) -> None:
        self._printed = self._clock()
        print(self._line(), file=self._stream, flush=True)

    def _line(self) -> str:
        done = 100 * self.env_step / max(self.total, 1)
        line = f"{self.env_step:,} of {self.total:,} steps ({done:.0f} %)"
        return ", ".join(filter(None, [line, self.status()]))

    def _html(self) -> str:
        bar = f'<progress value="{self.env_step}" max="{max(self.total, 1)}"></progress>'
        return f"<div>{bar} {escaped(self._line())}</div>"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "6 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
