"""Error codes: HTTP status and close code of each reason for which a server does not answer."""

import logging
from typing import NamedTuple

from ..errors import AgentZooError, NotFiniteError, ObservationError, ServingError

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """Form of one reason on the wire.

    Attributes:
        status: of an HTTP response.
        close: code a websocket is closed with; None leaves it open for the next message.
        retry: whether the same request may succeed later.
    """

    status: int
    close: int | None = None
    retry: bool = False


REFUSALS = {
    "malformed": Refusal(400),
    "nonfinite": Refusal(400),
    "unauthorized": Refusal(401, 1008),
    "forbidden": Refusal(403, 1008),
    "unknown": Refusal(404),
    "session_lost": Refusal(409),
    "session_busy": Refusal(409),
    "other_version": Refusal(409),
    "too_large": Refusal(413, 1009),
    "sessions_full": Refusal(429, 1013, retry=True),
    "failed": Refusal(500, 1011),
    "diverged": Refusal(500),
    "overloaded": Refusal(503, 1013, retry=True),
    "draining": Refusal(503, 1001, retry=True),
    "not_ready": Refusal(503, 1013, retry=True),
    "deadline": Refusal(504),
}
RETRY_AFTER_S = 1


def refusal_of(error: Exception) -> ServingError:
    """The words about an error: our own sentences; of anything else no word."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, NotFiniteError):
        return ServingError(str(error)[:500], "nonfinite")
    if isinstance(error, ObservationError):
        return ServingError(str(error)[:500], "malformed")
    if isinstance(error, AgentZooError):
        log.error("a request failed: %s", error)
    else:
        log.error("a request failed", exc_info=error)
    return ServingError("something failed inside the server; its log says what", "failed")
