"""The world model outside of training: imagine, decode, and dream environments."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .env import DreamEnv, WorldObservation, begun
    from .load import has_world, load_world
    from .world import Dream, Start, World

__all__ = [
    "Dream",
    "DreamEnv",
    "Start",
    "World",
    "WorldObservation",
    "begun",
    "has_world",
    "load_world",
]

HOMES = {
    "Dream": "world",
    "DreamEnv": "env",
    "Start": "world",
    "World": "world",
    "WorldObservation": "env",
    "begun": "env",
    "has_world": "load",
    "load_world": "load",
}


def __getattr__(name: str) -> object:
    """Resolve an exported name on first use: a bundle's manifest needs the tensors' names only."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
