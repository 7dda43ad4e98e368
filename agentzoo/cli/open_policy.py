"""A policy from a folder, the Hugging Face Hub, or a server; no torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentzoo.runtime.errors import AgentZooError, BundleError, ConfigError

if TYPE_CHECKING:
    from agentzoo.runtime.evaluation.rollout import SessionMaker
    from agentzoo.runtime.policy.onnx_session import Provider
    from agentzoo.runtime.server import ModelSettings

URL = re.compile(r"(ws|wss|http|https)://")


def folder_of(source: str) -> Path | None:
    """The folder of a bundle that is here or published, fetched if need be; None for a URL.

    Raises:
        AgentZooError: if it is published and cannot be fetched (see `agentzoo.hub.pull`).
    """
    if URL.match(source):
        return None
    from agentzoo.hub import locate

    return locate(source, serving=True)


def open_policy(
    source: str, *, provider: "Provider" = "auto", plan: str | None = None
) -> "SessionMaker":
    """A policy from a bundle's folder, a published one such as `me/walker@main`, or a URL.

    Args:
        source: which of them.
        provider: what ONNX Runtime runs on, here.
        plan: a planner's settings as on the command line, or "off"; None leaves them.

    Raises:
        BundleError: if it is none of them, or a folder that does not pass its checks.
        ConfigError: if `plan` does not fit the policy, or a server is to plan otherwise.
        ServingError: if the server does not answer.
    """
    if (folder := folder_of(source)) is None:
        from agentzoo.runtime import RemotePolicy

        if plan is not None:
            raise ConfigError(f"{source} plans as it was told to; say plan where it is served")
        return RemotePolicy(source)
    from agentzoo.runtime import load_policy
    from agentzoo.runtime.policy.planners import parse_plan

    changes = None if plan is None else parse_plan(plan)
    return load_policy(folder, provider=provider, plan=changes)


def locate(model: "ModelSettings") -> Path:
    """A served model's folder on this machine, fetched if it is published.

    Raises:
        BundleError: if it is neither a folder nor published.
    """
    source = f"{model.source}@{model.revision}" if model.revision else model.source
    folder = folder_of(source)
    if folder is None or not folder.is_dir():
        raise BundleError(
            f'"{model.source}" is neither a folder nor a published bundle (owner/name); make one '
            "with agentzoo export"
        )
    return folder


def named(sources: Sequence[str]) -> dict[str, str]:
    """Sources by name: `NAME=SOURCE`, or the source itself.

    Raises:
        AgentZooError: if two have one name.
    """
    found: dict[str, str] = {}
    for given in sources:
        name, mark, source = given.partition("=")
        is_path = "/" in name or Path(given).is_dir()  # a = may stand in a folder's name
        named_so = mark and not is_path and not URL.match(given)
        key = name if named_so else given
        if key in found:
            raise AgentZooError(f'two policies are called "{key}"; name one: NAME=SOURCE')
        found[key] = source if named_so else given
    return found
