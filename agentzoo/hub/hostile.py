"""Names that a hostile or broken Hub gives, refused before the client makes paths of them.

huggingface_hub joins a file's ETag, and the commit that a response names, to folders of its cache
as they come: an ETag of `../../../../x` writes, locks and later removes a file outside.
"""

from typing import Protocol, cast

from huggingface_hub import get_session

from .errors import HubError
from .naming import COMMIT


class Response(Protocol):
    """The parts of an answer that are read, httpx's or httpx2's."""

    headers: dict[str, str]


def guard_names() -> None:
    """Let the client's session refuse answers whose names are paths; once is enough."""
    session = get_session()
    hooks = session.event_hooks
    if refuse_paths not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [refuse_paths, *hooks["response"]]}


def refuse_paths(response: object) -> None:
    """Look at the names in an answer's headers.

    Raises:
        HubError: if one would lead out of the cache.
    """
    headers = cast("Response", response).headers
    commit = headers.get("x-repo-commit")
    if commit is not None and not COMMIT.fullmatch(commit):
        raise _hostile("commit", commit)
    for header in ("x-linked-etag", "etag"):
        tag = headers.get(header, "")
        name = tag.removeprefix("W/").strip('"')
        if commit is not None and ({*name} & {*"/\\\0"} or name in (".", "..")):
            raise _hostile(header, tag)


def _hostile(what: str, said: str) -> HubError:
    return HubError(
        f"the Hub's answer names the {what} {said!r:.80}, which would lead out of the cache; it "
        "was not followed: do not use this Hub (HF_ENDPOINT)"
    )
