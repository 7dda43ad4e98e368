"""Sessions: each client's carry and noise, for as long as it comes back."""

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from ..errors import ServingError
from ..policy.policy import PolicyState
from .models import Version

LOST = 'it ended, was idle for too long, or the server was restarted: begin an episode ("is_first")'


@dataclass(eq=False)
class Session:
    """One client's place in a policy, of the version it began with.

    Attributes:
        version: what answers it until it ends.
        state: carry and noise address, of one batch element.
        is_first: whether its next observation begins an episode.
        is_busy: whether a step is being computed.
        is_open: False once ended or expired.
        has_diverged: whether its policy gave NaN; only a new episode mends it.
        used: when it last stepped, on the clock of `time.monotonic`.
    """

    version: Version
    state: PolicyState
    is_first: bool = True
    is_busy: bool = False
    is_open: bool = True
    has_diverged: bool = False
    used: float = field(default_factory=time.monotonic)


class Sessions:
    """All sessions of a server, by whatever key their protocol has for them.

    Attributes:
        limit: how many there may be.
        ttl_s: how long one may be idle.
    """

    def __init__(self, limit: int, ttl_s: float) -> None:
        """Begin without sessions."""
        self.limit, self.ttl_s = limit, ttl_s
        self._open: dict[Hashable, Session] = {}

    def __len__(self) -> int:
        """Number of open sessions."""
        return len(self._open)

    def begin(self, key: Hashable, version: Version, seed: int | None) -> Session:
        """A session at the start of its first episode; one of the same key ends.

        Raises:
            ServingError: if there are as many as there may be ("sessions_full").
        """
        self.end(key)
        if len(self._open) >= self.limit:
            raise ServingError(
                f"{self.limit} sessions are open, which is this server's limit; come back later",
                "sessions_full",
            )
        session = Session(version, version.policy.session(seed).start(1))
        version.sessions += 1
        self._open[key] = session
        return session

    def has(self, key: Hashable) -> bool:
        """Whether a session of this key is open."""
        return key in self._open

    def find(self, key: Hashable) -> Session:
        """The open session of a key.

        Raises:
            ServingError: if there is none ("session_lost").
        """
        if key not in self._open:
            raise ServingError(f"there is no such session; {LOST}", "session_lost")
        return self._open[key]

    def end(self, key: Hashable) -> None:
        """Free a session, if there is one."""
        session = self._open.pop(key, None)
        if session is not None:
            session.is_open = False
            session.version.leave()

    def expire(self) -> int:
        """Free the sessions that were idle for too long, and say how many they were."""
        oldest = time.monotonic() - self.ttl_s
        idle = [key for key, one in self._open.items() if one.used < oldest and not one.is_busy]
        for key in idle:
            self.end(key)
        return len(idle)
