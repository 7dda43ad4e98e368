"""Work beside a run, in a thread of its own, which can cost the run nothing."""

import queue
import threading
from collections.abc import Callable

WAITING = 1_000  # pieces of work that may wait

Work = Callable[[], object]


class Background:
    """One thread that does pieces of work in order, while the run goes on.

    The first error ends it, and so does work that lags too far behind; either is said once, in a
    sentence, and everything after is dropped. The thread keeps no process alive.

    Args:
        name: of the thread.
        say: told what ended it.
        waiting: pieces of work that may wait.
    """

    def __init__(self, name: str, say: Callable[[str], object], *, waiting: int = WAITING) -> None:
        self.name, self.ended = name, False
        self._say, self._work = say, queue.Queue[Work | None](waiting)
        self._thread = threading.Thread(target=self._run, name=f"agentzoo {name}", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Have it done after all before it."""
        if self.ended:
            return
        try:
            self._work.put_nowait(work)
        except queue.Full:
            self._end(f"it is {self._work.maxsize:,} pieces of work behind")

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be done."""
        return not self.ended and self._work.unfinished_tasks > 0

    def close(self, patience_s: float) -> None:
        """Wait until all is done, but no longer than `patience_s` seconds."""
        try:
            self._work.put_nowait(None)
            self._thread.join(patience_s)
        except queue.Full:
            pass  # it lags too far behind to be waited for
        if self._thread.is_alive():
            self._end(f"it had not ended after {patience_s:g} s more")

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if not self.ended:
                try:
                    work()
                except Exception as error:  # whatever it is, the run is worth more
                    self._end(f"{type(error).__name__}: {error}")
            self._work.task_done()

    def _end(self, why: str) -> None:
        if not self.ended:
            self.ended = True
            self._say(why)
