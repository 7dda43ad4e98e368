"""Many sessions, one call of the step: requests that wait together are computed together.

A thread of its own runs the step. It waits for company only while it can expect some: at most
`max_wait_s`, and no longer than until as many requests are there as the batch before had. A request
is computed from the state it came with and gives a new one; whether that state is kept is decided
by whoever asked, so a step that fails or comes too late changes nothing.

A request that nobody is beside may be computed by whoever asks, if its step is shorter than the way
to the thread and back (`lone_steps`); only one of the two computes at a time.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import ServingError
from ..policy.policy import Policy, PolicyState, flags, stack
from ..spec import Array, Arrays
from .lone_steps import LoneSteps

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """Limits of the gathering of requests.

    Attributes:
        max_batch: requests in one call of the step.
        max_wait_s: how long a request may wait for others once the step is free.
        max_queue: requests that may wait; further ones are refused.
        lone_steps: whether `compute_alone` may compute.
    """

    max_batch: int = 64
    max_wait_s: float = 0.002
    max_queue: int = 1024
    lone_steps: bool = False


@dataclass(slots=True, eq=False)
class StepRequest:
    """One session's step, waiting to be computed.

    Attributes:
        obs: key -> (1, *shape), as `spaces.encode` gives them.
        is_first: whether the observation is its episode's first.
        state: of one batch element.
        deterministic: whether the action is the distribution's mode.
        deadline: on the clock of `time.monotonic`; a request that is later is not computed.
        reply: for the receiver's own use.
        queued: when it was submitted, on the same clock.
        is_lone: whether it came alone, and woke the thread.
        seconds: that its step took, if it was computed alone.
    """

    obs: Arrays
    is_first: bool
    state: PolicyState
    deterministic: bool
    deadline: float
    reply: object = None
    queued: float = 0.0
    is_lone: bool = False
    seconds: float = 0.0


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        action: (*action.shape), the environment's own.
        state: of one batch element, to be kept by whoever accepts the answer.
    """

    action: Array
    state: PolicyState


@dataclass(frozen=True)
class Batch:
    """Requests that were computed together, and the outcome of each.

    Attributes:
        requests: in the order they came.
        outcomes: an answer or a refusal for each.
        started: when the step was called, on the clock of `time.monotonic`.
        seconds: how long it took.
    """

    requests: Sequence[StepRequest]
    outcomes: Sequence[Answer | ServingError]
    started: float
    seconds: float


class Batcher:
    """Computes requests of one policy in a thread of its own.

    Attributes:
        policy: whose step is called.
        limits: how requests are gathered.
        lone_steps: the times of lone requests.
    """

    def __init__(
        self, policy: Policy, deliver: Callable[[Batch], None], limits: BatchLimits | None = None
    ) -> None:
        """Start the thread.

        Args:
            policy: whose step is called; its own session is not touched.
            deliver: takes each batch, in the batcher's thread.
            limits: how requests are gathered.
        """
        self.policy, self.limits = policy, limits or BatchLimits()
        self.lone_steps = LoneSteps(is_on=self.limits.lone_steps)
        self._deliver = deliver
        self._waiting: deque[StepRequest] = deque()
        self._lock = threading.Lock()
        self._stepping = threading.Lock()  # held by whoever calls the step; before `_lock`
        self._bell = threading.Lock()  # held; letting go of it wakes the thread, and nothing else
        self._bell.acquire()
        self._wanted = 0  # requests that are worth waking the thread for; 0 while it is awake
        self._usual = 1  # requests the batch before had
        self._is_closed = False
        self._started: float | None = None  # when the step under way was called
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def delay_s(self) -> float:
        """Seconds that the step under way has taken by now; infinite once the thread has died."""
        started = self._started
        if not self._is_closed and not self._thread.is_alive():
            return math.inf
        return 0.0 if started is None else time.monotonic() - started

    @property
    def is_running(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

    @property
    def may_compute_alone(self) -> bool:
        """Whether `compute_alone` would compute, as far as one can know before."""
        return self.lone_steps.is_quicker and self._usual == 1 and not self._waiting

    def compute_alone(self, request: StepRequest) -> Batch | None:
        """Compute a request here and now if none waits, none is computed, and that is quicker.

        Returns:
            The batch of this one request, which is not delivered; None if it was not computed.

        Raises:
            ServingError: as `submit`.
        """
        with self._lock:
            self._check_open()
            if not self.may_compute_alone or not self._stepping.acquire(blocking=False):
                return None
        try:
            return self._compute([request])
        finally:
            self._stepping.release()

    def submit(self, request: StepRequest) -> None:
        """Let a request wait for its turn; it is delivered later, exactly once.

        Raises:
            ServingError: if the queue is full ("overloaded") or closed ("draining"), or its thread
                has died ("failed").
        """
        request.queued = time.monotonic()
        with self._lock:
            self._check_open()
            if len(self._waiting) >= self.limits.max_queue:
                raise ServingError(
                    f"{len(self._waiting)} requests wait already; ask again later", "overloaded"
                )
            self._waiting.append(request)
            is_wanted = 0 < self._wanted <= len(self._waiting)
            if is_wanted:
                request.is_lone = self._wanted == self._usual == 1
                self._wanted = 0
        if is_wanted:
            self._bell.release()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ServingError("this policy is no longer served; start again", "draining")
        if not self._thread.is_alive():
            raise _died()

    def close(self) -> None:
        """Take no more requests; those that wait are still computed, then the thread ends."""
        with self._lock:
            self._is_closed = True
            is_asleep, self._wanted = self._wanted > 0, 0
        if is_asleep:
            self._bell.release()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end; call `close` first."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        requests: list[StepRequest] = []
        try:
            while True:
                self._gather()
                with self._stepping:
                    if not (requests := self._take()):
                        return
                    batch = self._compute(requests)
                self._deliver(batch)
                requests = []
        except Exception:  # a step's own are caught where it is called
            log.exception("the thread that computes steps has died; restart the server")
            with self._lock:
                requests += self._waiting
                self._waiting.clear()
            with suppress(Exception):  # it may be what killed the thread
                self._deliver(Batch(requests, [_died()] * len(requests), time.monotonic(), 0.0))

    def _gather(self) -> None:
        """Wait until some requests should be computed, or it is closed."""
        self._wait_for(1)
        self._wait_for(min(self._usual, self.limits.max_batch), self.limits.max_wait_s)

    def _take(self) -> list[StepRequest]:
        """The next requests; empty once closed and everything is computed."""
        with self._lock:
            count = min(len(self._waiting), self.limits.max_batch)
            self._usual = max(count, 1)
            return [self._waiting.popleft() for _ in range(count)]

    def _wait_for(self, wanted: int, timeout_s: float = -1) -> None:
        """Sleep until so many requests wait, at most for a time."""
        with self._lock:
            if self._is_closed or len(self._waiting) >= wanted:
                return
            self._wanted = wanted
        if not self._bell.acquire(timeout=timeout_s):
            with self._lock:
                is_rung, self._wanted = self._wanted == 0, 0
            if is_rung:  # between the two lines before
                self._bell.acquire()

    def _compute(self, requests: list[StepRequest]) -> Batch:
        self._started = started = time.monotonic()
        live = [request for request in requests if request.deadline > started]
        found = iter(self._outcomes(live) if live else ())
        outcomes = [next(found) if request.deadline > started else _late() for request in requests]
        self._started = None
        seconds = time.monotonic() - started
        if len(requests) == 1:
            requests[0].seconds = seconds
            if live:  # what came too late was no step, and says nothing of how long one is
                self.lone_steps.took(seconds)
        return Batch(requests, outcomes, started, seconds)

    def _outcomes(self, requests: Sequence[StepRequest]) -> list[Answer | ServingError]:
        try:
            return self._step(requests)
        except Exception:  # whatever a step raises, the thread and the other requests go on
            log.exception("a step of %d requests failed", len(requests))
            if len(requests) > 1:  # one request must not fail the others
                return [self._outcomes([request])[0] for request in requests]
            return [ServingError("the policy's step failed; the server's log says why", "failed")]

    def _step(self, requests: Sequence[StepRequest]) -> list[Answer | ServingError]:
        actions, state = self.policy.advance(
            stack([request.obs for request in requests]),
            flags([request.is_first for request in requests]),
            PolicyState.joined([request.state for request in requests]),
            flags([request.deterministic for request in requests]),
        )
        arrays = [array for array in (actions, *state.carry.values()) if array.dtype.kind == "f"]
        if len(requests) == 1 and all(map(_is_finite, arrays)):
            return [Answer(actions[0], state)]  # nobody shares its memory
        finite = np.logical_and.reduce([_finite(array) for array in arrays], initial=True)
        return [
            Answer(*own) if fine else _diverged()
            for own, fine in zip(_apart(actions, state), finite, strict=True)
        ]


def _is_finite(array: Array) -> bool:
    """Whether all numbers are; a product is quicker than to look at each, and seldom overflows."""
    flat = array.reshape(-1)
    return bool(np.isfinite(np.vdot(flat, flat)) or np.isfinite(flat).all())


def _finite(array: Array) -> Array:
    """(B,) bool."""
    return np.asarray(np.isfinite(array).reshape(len(array), -1).all(1))


def _apart(actions: Array, state: PolicyState) -> Iterator[tuple[Array, PolicyState]]:
    """Each batch element in memory of its own: a view would keep the whole batch alive."""
    names = list(state.carry)
    # (B, *shape) -> (B, 1, *shape), so that a batch element keeps its axis
    arrays = [array[:, None] for array in (*state.carry.values(), state.address)]
    for action, *own in zip(actions, *arrays, strict=True):
        *carry, address = [part.copy() for part in own]
        yield np.array(action), PolicyState(dict(zip(names, carry, strict=True)), address)


def _died() -> ServingError:
    return ServingError("the policy's thread has died; the server's log says why", "failed")


def _late() -> ServingError:
    return ServingError(
        "the deadline passed before the step could be computed; the state is as it was", "deadline"
    )


def _diverged() -> ServingError:
    return ServingError(
        "the policy gave NaN or infinity; the session is closed to further steps of this episode",
        "diverged",
    )
