"""The place where a lone request is computed: the event loop that took it, or the batcher's thread.

The way to a thread and back takes a tenth of a millisecond, and the step there begins with cold
caches. A step that is not longer than that is computed sooner in the event loop, and keeps it for
hardly longer than the two changes of thread do. A longer one would hold up everybody else.
"""

import threading
from collections import deque

RECENT = 15  # times of each kind; their median counts
WAYS = 2  # a step may take as long: the half of it that is lost in a thread belongs to the way
LONG_S = 0.02  # a tenth of what a health check may wait
FEWEST, MOST = 16, 1024  # short steps in a row that are asked for


class LoneSteps:
    """Times of one policy: of its steps with one request, and of the way to the thread and back.

    Attributes:
        is_on: whether such steps may be computed outside the thread at all.
        is_quicker: whether the next one should be.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        """Begin without times: the first steps are the thread's."""
        self.is_on, self.is_quicker = is_on, False
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._ways: deque[float] = deque(maxlen=RECENT)
        self._in_a_row, self._asked_for = 0, FEWEST
        self._lock = threading.Lock()

    def took(self, seconds: float) -> None:
        """Count a step of one request, wherever it was computed."""
        with self._lock:
            self._steps.append(seconds)
            if seconds <= LONG_S:
                self._in_a_row += 1
            else:
                if self.is_quicker:  # everybody waited for it: ask for more the next time
                    self._asked_for = min(2 * self._asked_for, MOST)
                self._in_a_row = 0
            self._judge()

    def went(self, seconds: float) -> None:
        """Count a way: from asking until whoever asked goes on, without the step itself."""
        with self._lock:
            self._ways.append(seconds)
            self._judge()

    def _judge(self) -> None:
        self.is_quicker = (
            self.is_on
            and self._in_a_row >= self._asked_for
            and len(self._ways) == RECENT
            and _middle(self._steps) < min(WAYS * _middle(self._ways), LONG_S)
        )


def _middle(times: deque[float]) -> float:
    return sorted(times)[len(times) // 2]
