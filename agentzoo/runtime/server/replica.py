"""Sequences where several replicas answer as one server.

Their state is in the replica that they began with. Its first reply names it, in the header
`x-session-id`; a client sends that header with every further request of the sequence.
"""

import secrets

from ..client.msgpack_arrays import malformed
from ..errors import ServingError

SESSION = "x-session-id"
MARK = "-"  # between the replica's name, which has none, and the rest
LONGEST = 128  # letters


def replica_of(session: str) -> str:
    """The name of the replica that gave a session id; "" if it is none."""
    return session.partition(MARK)[0] if MARK in session else ""


def session_id(replica: str, given: str | None, *, starts: bool) -> str:
    """The session id of a sequence's request: the one that came, or a new one.

    Args:
        replica: the name of the one that answers.
        given: the header, if there is one.
        starts: whether the request begins the sequence.

    Raises:
        ServingError: "malformed", or "session_lost" if another replica kept the sequence.
    """
    if given is not None and len(given) > LONGEST:
        raise malformed(f"{SESSION} has more than {LONGEST} letters; send what a reply gave")
    if given is not None and replica_of(given) == replica:
        return given
    if starts:
        return f"{replica}{MARK}{secrets.token_hex(8)}"
    if given is None:
        raise malformed(
            f"several replicas answer here; send the header {SESSION} that the reply to the "
            "sequence's first request gave"
        )
    raise ServingError(
        "the replica that kept this sequence is gone, and the sequence with it: begin another "
        '("sequence_start")',
        "session_lost",
    )
