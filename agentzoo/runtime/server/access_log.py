"""One line of JSON for each request or websocket: who, what, how it ended; never what was in it."""

import json
import logging
from datetime import UTC, datetime

from .transport import Call

access = logging.getLogger("agentzoo.access")


def record(call: Call, **facts: str | float | None) -> None:
    """Write a line; the path is the route's pattern, so that a name in it is not repeated."""
    if not access.isEnabledFor(logging.INFO):
        return
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": call.id,
        "peer": call.peer,
        "method": call.method,
        "route": call.route,
        **{name: round(v, 6) if isinstance(v, float) else v for name, v in facts.items()},
    }
    access.info("%s", json.dumps(line))


def record_connection(peer: str, reason: str, seconds: float) -> None:
    """Write a line about a connection that was closed without a request under way."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "peer": peer, "closed": reason, "seconds": round(seconds, 6)}
    access.info("%s", json.dumps(line))
