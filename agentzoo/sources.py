"""Where a policy comes from: a folder, the Hugging Face Hub, or a server; no torch."""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from runtime.errors import AgentZooError, BundleError

if TYPE_CHECKING:
    from runtime.evaluation import Sessions
    from runtime.graphs import Provider
    from runtime.server import ModelSettings

URL = re.compile(r"(ws|wss|http|https)://")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def open_policy(source: str, *, provider: "Provider" = "auto") -> "Sessions":
    """A policy from a bundle's folder, a Hub id such as `me/walker@main`, or a server's URL.

    Raises:
        BundleError: if it is none of them, or a folder that does not pass its checks.
        ServingError: if the server does not answer.
    """
    if URL.match(source):
        from runtime import RemotePolicy

        return RemotePolicy(source)
    if is_hub_id(source):
        return _hub("load_policy")(source, provider=provider)
    from runtime import load_policy

    return load_policy(source, provider=provider)


def locate(model: "ModelSettings") -> Path:
    """A served model's folder on this machine, fetched from the Hub if it is an id.

    Raises:
        BundleError: if it is neither a folder nor an id.
    """
    if is_hub_id(model.source):
        return Path(_hub("pull")(model.source, revision=model.revision or "main"))
    if not Path(model.source).is_dir():
        raise BundleError(
            f'"{model.source}" is neither a folder nor a Hub id (owner/name); make a bundle with '
            "agentzoo export"
        )
    return Path(model.source)


def named(sources: Sequence[str]) -> dict[str, str]:
    """Sources by name: `NAME=SOURCE`, or the source itself.

    Raises:
        AgentZooError: if two have one name.
    """
    found: dict[str, str] = {}
    for given in sources:
        name, mark, source = given.partition("=")
        named_so = mark and not URL.match(given)
        key = name if named_so else given
        if key in found:
            raise AgentZooError(f'two policies are called "{key}"; name one: NAME=SOURCE')
        found[key] = source if named_so else given
    return found


def is_hub_id(source: str) -> bool:
    """Whether a source names a repository of the Hub and not a folder that is here."""
    return HUB_ID.fullmatch(source) is not None and not Path(source).exists()


def _hub(name: str) -> Any:
    found = getattr(import_module("hub"), name, None)
    if found is None:
        raise AgentZooError(f"this version of hub has no {name}; name a bundle's folder instead")
    return cast("Any", found)
