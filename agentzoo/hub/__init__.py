"""Publishing: bundles out to the Hugging Face Hub and back (huggingface_hub, no torch)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .catalogue import Found, search
    from .download import load_policy, locate, pull, require_own_folder
    from .errors import HubError, OfflineError, RepoNotFoundError
    from .upload import push

if __name__ != "agentzoo.hub":  # a checkout's link "hub" is for people, not for Python
    raise ImportError(f'"{__name__}" is "agentzoo.hub": write from agentzoo import hub')

__all__ = [
    "Found",
    "HubError",
    "OfflineError",
    "RepoNotFoundError",
    "load_policy",
    "locate",
    "pull",
    "push",
    "require_own_folder",
    "search",
]

HOMES = {
    "Found": "catalogue",
    "HubError": "errors",
    "OfflineError": "errors",
    "RepoNotFoundError": "errors",
    "load_policy": "download",
    "locate": "download",
    "pull": "download",
    "push": "upload",
    "require_own_folder": "download",
    "search": "catalogue",
}


def __getattr__(name: str) -> object:
    """Resolve an exported name on first use, so that importing the package costs nothing."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exported names beside the module's own."""
    return sorted({*globals(), *__all__})
