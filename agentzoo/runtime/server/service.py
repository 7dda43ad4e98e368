"""The service behind every protocol: sessions that step, batches that predict."""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ServingError
from ..policy.policy import SEEDS, Policy, PolicyState
from ..policy.spaces import encode
from ..spec import Array, Arrays
from .batcher import Answer, Batch, StepRequest
from .connections import Connections
from .message_limits import SLACK, message_limit
from .metrics import Metrics
from .models import Locate, Model, Version
from .sessions import LOST, Session, Sessions
from .settings import ModelSettings, ServerSettings

log = logging.getLogger(__name__)

Reply = asyncio.Future[Answer]
GOING_AWAY = 1001  # RFC 6455, section 7.4.1
POLL_S = 0.02
HOPELESS = 3  # deadlines that a single step may outlive
JOIN_S = 1.0  # for steps that nobody waits for any more


class OpenChannel(Protocol):
    """An open websocket as the service needs it; `websocket.Channel` is one."""

    is_answering: bool
    waiting_since: float

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye."""
        ...

    def forget_ended(self) -> None:
        """Let go of sessions that have ended."""
        ...

    def expire(self) -> None:
        """Close it for its idleness."""
        ...


class Service:
    """Models, sessions and limits of one server; everything runs in one event loop.

    Attributes:
        settings: the limits.
        models: by name; the first is the one paths without a name mean.
        sessions: all open sessions.
        metrics: what is counted.
        channels: all open websockets.
        requests: how many are under way over REST.
        connections: all TCP connections, once it listens.
        replica: its name among several that answer as one; "" where it is alone.
        is_draining: whether the server is about to end and takes nobody new.
        is_ending: whether it takes no further steps either.
    """

    def __init__(
        self, settings: ServerSettings, models: Sequence[ModelSettings], locate: Locate
    ) -> None:
        """Keep the settings; `load` loads the policies."""
        self.settings, self.metrics = settings, Metrics()
        self._locate = locate
        self.models = {one.name: Model(one, locate, self._settle) for one in models}
        self.sessions = Sessions(settings.max_sessions, settings.session_ttl_s)
        self.channels: set[OpenChannel] = set()
        self.requests = 0
        self.connections: Connections | None = None
        self.replica = ""
        self.is_draining = self.is_ending = False
        self._loading = asyncio.Lock()
        self._stuck: set[Model] = set()

    @property
    def is_ready(self) -> bool:
        """Whether every model answers and new clients are welcome."""
        return not self.is_draining and all(self.answers(one) for one in self.models.values())

    @property
    def is_live(self) -> bool:
        """Whether no policy is beyond hope: dead, or in one step for several deadlines."""
        limit = HOPELESS * self.settings.deadline_s
        versions = [version for model in self.models.values() for version in model.versions]
        return all(version.batcher.delay_s <= limit for version in versions)

    def answers(self, model: Model) -> bool:
        """Whether a model is loaded, and in no step that has outlived every request's deadline."""
        current = model.current
        return current is not None and current.batcher.delay_s <= self.settings.deadline_s

    async def load(self, models: Sequence[ModelSettings] = ()) -> None:
        """Open every model, or some again; sessions stay with what they began with.

        All are opened before the first is taken, so that one that cannot be opened changes
        nothing, whatever its place.

        Args:
            models: those to open again with these settings, and new ones; none means all.

        Raises:
            AgentZooError: if one cannot be opened; everything goes on as it was.
        """
        async with self._loading:
            opened: list[tuple[Model, ModelSettings, Version]] = []
            for settings in models or [one.settings for one in self.models.values()]:
                model = self.models.get(settings.name)
                model = model or Model(settings, self._locate, self._settle)
                opened.append((model, settings, await model.open(settings)))
            for model, settings, version in opened:
                self.models[settings.name] = model
                model.adopt(settings, version)

    async def drain(self) -> None:
        """Take nobody new, let sessions go on for a while, answer what is under way, and leave."""
        self.is_draining = True
        await _until(lambda: not len(self.sessions), self.settings.drain_s)
        self.is_ending = True
        limit = time.monotonic() + self.settings.deadline_s
        idle = [one for one in self.channels if not one.is_answering]
        await asyncio.gather(*(one.close(GOING_AWAY, "the server ends") for one in idle))
        await _until(lambda: not self.channels and not self.requests, limit - time.monotonic())

    def current(self, name: str = "") -> Version:
        """The version that new clients of a model get; "" is the first model.

        Raises:
            ServingError: "unknown", "not_ready" or "draining".
        """
        if self.is_draining:
            raise ServingError("the server is about to end; go to another one", "draining")
        model = self.models.get(name or next(iter(self.models)))
        if model is None:
            raise ServingError(f'there is no model "{name[:80]}" here', "unknown")
        if model.current is None:
            raise ServingError(f"{model.settings.name} is being loaded; come back", "not_ready")
        return model.current

    def begin(self, key: Hashable, model: str = "", seed: int | None = None) -> Session:
        """A session of a model's current version; one of the same key ends.

        Raises:
            ServingError: if the seed is none, or there is no room, model or time.
        """
        version = self.current(model)
        if seed is not None:
            check_seed(seed)
        return self.sessions.begin(key, version, seed)

    async def act(
        self,
        session: Session,
        obs: Mapping[str, ArrayLike],
        *,
        is_first: bool = False,
        deterministic: bool | None = None,
        seed: int | None = None,
        step: int = 0,
        timeout_s: float | None = None,
    ) -> Array:
        """One step of a session; only an answer in time changes its state.

        Args:
            session: an open one, with no step under way.
            obs: one observation by key, without a batch axis.
            is_first: whether it begins an episode; a new session's first does in any case.
            deterministic: whether the action is the distribution's mode; None is the protocol.
            seed: draws noise from this seed's `step` on; None goes on as before.
            step: of the noise, with a seed.
            timeout_s: of this request, if shorter than the server's.

        Raises:
            ServingError: if the session cannot step now; its state is as it was.
            ObservationError: if the observation is not what the policy reads.
        """
        self._check(session, is_first)
        policy = session.version.policy
        request = StepRequest(
            obs=encode(policy.spec.obs, obs, batched=False),
            is_first=session.is_first or is_first,
            state=session.state if seed is None else _start(policy, seed, step),
            deterministic=policy.deterministic if deterministic is None else deterministic,
            deadline=self._deadline(timeout_s),
        )
        session.is_busy = True
        try:
            action, state = await self._computed(session.version, request)
        except ServingError as error:
            session.has_diverged |= error.reason == "diverged"
            raise
        finally:
            session.is_busy, session.used = False, time.monotonic()
        session.state, session.is_first, session.has_diverged = state, False, False
        return action

    async def predict(
        self,
        version: Version,
        obs: Mapping[str, ArrayLike],
        *,
        state: PolicyState | None = None,
        is_first: Array | None = None,
        deterministic: Array | bool | None = None,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Array, PolicyState]:
        """One step of a batch whose state the client keeps, so that any replica can answer.

        Args:
            version: what answers.
            obs: observations by key, with a batch axis.
            state: what the step before gave; None starts anew.
            is_first: (B,) bool; None is all where `state` is None, else none.
            deterministic: (B,) bool, or one for all; None is the protocol.
            seed: of a start; None is the policy's.
            timeout_s: of this request, if shorter than the server's.

        Raises:
            ServingError: if there are too many batch elements, or the parts differ in their number.
            ObservationError: if an observation is not what the policy reads.
        """
        if self.is_ending:
            raise ServingError("the server ends now; go to another one", "draining")
        policy = version.policy
        encoded = encode(policy.spec.obs, obs, batched=True)
        count = len(next(iter(encoded.values())))
        if count > self.settings.max_rows:
            raise ServingError(
                f"{count} batch elements at once, {self.settings.max_rows} allowed; send fewer",
                "too_large",
            )
        first = np.full(count, state is None) if is_first is None else is_first
        if state is None:
            state = policy.session(None if seed is None else check_seed(seed)).start(count)
        mode = policy.deterministic if deterministic is None else deterministic
        modes = np.broadcast_to(np.asarray(mode), count) if np.ndim(mode) == 0 else np.asarray(mode)
        if not len(state) == len(first) == len(modes) == count:
            raise ServingError(
                f"{count} observations came with {len(state)} states, {len(first)} is_first and "
                f"{len(modes)} deterministic; send as many of each",
                "malformed",
            )
        deadline = self._deadline(timeout_s)
        requests = [
            StepRequest(
                obs=_element(encoded, i),
                is_first=bool(first[i]),
                state=state.element(i),
                deterministic=bool(modes[i]),
                deadline=deadline,
            )
            for i in range(count)
        ]
        with version.kept():
            answers = await asyncio.gather(
                *(self._computed(version, one, is_one_of_many=count > 1) for one in requests)
            )
        return np.stack([one.action for one in answers]), PolicyState.joined(
            [a.state for a in answers]
        )

    def message_limit(self, version: Version, protocol: str) -> int:
        """Bytes of a message: one batch element's (vla-eval), or those of `max_rows` with carry."""
        batch = 0 if protocol == "vla-eval" else self.settings.max_rows
        return message_limit(version.policy.spec, protocol, batch)

    def check_step(self, version: Version, protocol: str, size: int) -> None:
        """Refuse a session's step, one batch element, in a message that could hold several.

        Raises:
            ServingError: "too_large".
        """
        if size > SLACK and size > (limit := message_limit(version.policy.spec, protocol)):
            raise ServingError(
                f"the message is larger than {limit} bytes, which a session's step may have; send "
                "the one observation that the policy reads, and nothing else",
                "too_large",
            )

    def expire(self) -> None:
        """Free what was idle for too long; called every now and then."""
        self._look_after_batchers()
        self.metrics.expired.inc(self.sessions.expire())
        if self.connections is not None:
            self.connections.sweep()
        oldest = time.monotonic() - self.settings.session_ttl_s - self.settings.idle_timeout_s
        for channel in self.channels:
            channel.forget_ended()
            if channel.waiting_since < oldest:
                channel.expire()
        for model in self.models.values():
            model.forget_ended()

    def _look_after_batchers(self) -> None:
        """Say once in the log that a model stopped answering, and that it answers again."""
        for model in self.models.values():
            if model.current is None or self.answers(model) == (model not in self._stuck):
                continue
            if model in self._stuck:
                self._stuck.discard(model)
                log.info("%s answers again", model.settings.name)
            else:
                self._stuck.add(model)
                log.error("%s is in one step for %.1f s and does not answer", model.settings.name,
                          model.current.batcher.delay_s)  # fmt: skip

    def observe(self) -> None:
        """Bring the gauges up to date; called before they are read."""
        self._look_after_batchers()  # so that the log never says less than the gauges
        self.metrics.ready.set(float(self.is_ready))
        self.metrics.connections.set(len(self.connections) if self.connections else 0)
        self.metrics.sessions.clear()
        self.metrics.models.clear()
        for model in self.models.values():
            for one in model.versions:
                self.metrics.sessions.labels(one.model, one.label).set(one.sessions)
                self.metrics.models.labels(
                    one.model, one.label, one.policy.digest, one.revision, one.provider
                ).set(1)

    async def close(self) -> bool:
        """Compute nothing further, and say whether every step has come to its end."""
        for model in self.models.values():
            model.close()
        batchers = [one.batcher for model in self.models.values() for one in model.versions]
        await _until(lambda: not any(one.is_running for one in batchers), JOIN_S)
        return not any(one.is_running for one in batchers)

    def _check(self, session: Session, is_first: bool) -> None:
        if self.is_ending:
            raise ServingError("the server ends now; go to another one", "draining")
        if not session.is_open:
            raise ServingError(f"the session is over; {LOST}", "session_lost")
        if session.is_busy:
            raise ServingError(
                "the session's step before is still being computed; wait for it", "session_busy"
            )
        if session.has_diverged and not is_first:
            raise ServingError(
                'the session\'s policy gave NaN; begin an episode ("is_first")', "diverged"
            )

    def _deadline(self, timeout_s: float | None) -> float:
        allowed = self.settings.deadline_s
        return time.monotonic() + (allowed if timeout_s is None else min(timeout_s, allowed))

    async def _computed(
        self, version: Version, request: StepRequest, *, is_one_of_many: bool = False
    ) -> Answer:
        """A request's answer; several of one batch are asked for together.

        Raises:
            ServingError: if it is refused, fails, or its deadline passes.
        """
        if version.batcher.may_compute_alone:
            request.queued = time.monotonic()
            version.coming += 1
            try:
                if version.sessions + version.steps > 1 or is_one_of_many:
                    await asyncio.sleep(0)  # whoever asked at the same moment has been read by then
                batch = version.batcher.compute_alone(request) if version.coming == 1 else None
            finally:
                version.coming -= 1
            if batch is not None:
                asyncio.get_running_loop().call_soon(self.metrics.batch, version, batch)
                return _in_time(batch)
        return await _from_thread(version, request)

    def _settle(self, version: Version, batch: Batch) -> None:
        for request, outcome in zip(batch.requests, batch.outcomes, strict=True):
            reply = cast("Reply", request.reply)
            if reply.done():
                continue  # whoever asked has given up; the answer changes nothing
            if isinstance(outcome, ServingError):
                reply.set_exception(outcome)
            else:
                reply.set_result(outcome)
        # counted once the answers are on their way
        asyncio.get_running_loop().call_soon(self.metrics.batch, version, batch)


async def _until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for something to become true, but not for ever."""
    limit = time.monotonic() + limit_s
    while not condition() and time.monotonic() < limit:
        await asyncio.sleep(POLL_S)


def _start(policy: Policy, seed: int, step: int) -> PolicyState:
    address = (check_seed(seed), 0, check_seed(step))
    return PolicyState(policy.initial(1), np.array([address], np.int64))


def check_seed(seed: int) -> int:
    """The seed, or a step of its noise, if it is one.

    Raises:
        ServingError: "malformed", if it is negative or too large.
    """
    if not 0 <= seed < SEEDS:
        raise ServingError("seed and step are whole numbers from 0 to 2**63 - 1", "malformed")
    return seed


def _in_time(batch: Batch) -> Answer:
    """The answer to a request that was computed alone.

    Raises:
        ServingError: if it is refused, or its deadline has passed meanwhile.
    """
    (request,), (outcome,) = batch.requests, batch.outcomes
    if isinstance(outcome, ServingError):
        raise outcome
    if time.monotonic() >= request.deadline:
        raise _too_late()
    return outcome


async def _from_thread(version: Version, request: StepRequest) -> Answer:
    """A request's answer from the batcher's thread.

    Raises:
        ServingError: if it is refused, fails, or its deadline passes.
    """
    loop = asyncio.get_running_loop()
    reply: Reply = loop.create_future()
    request.reply = reply
    # not asyncio.timeout, which would make a context to enter and leave for each step
    timer = loop.call_later(request.deadline - time.monotonic(), _give_up, reply)
    try:
        version.batcher.submit(request)
        answer = await reply
        if request.is_lone:
            way = time.monotonic() - request.queued - request.seconds
            version.batcher.lone_steps.went(way)
        return answer
    finally:
        timer.cancel()


def _give_up(reply: Reply) -> None:
    if not reply.done():
        reply.set_exception(_too_late())


def _too_late() -> ServingError:
    return ServingError(
        "the deadline passed before the step was computed; the state is as it was", "deadline"
    )


def _element(arrays: Arrays, i: int) -> Arrays:
    return {name: array[i : i + 1] for name, array in arrays.items()}
