"""Environments: `suite:task` strings, and the adapter that turns their steps into rows."""

from .adapter import Adapter, Rows, episode_seed
from .registry import (
    Env,
    Key,
    Settings,
    Suite,
    check_downloaded,
    make_env,
    merge,
    resolve,
    settings_of,
    suites,
)
from .repeat import Repeat

__all__ = [
    "Adapter",
    "Env",
    "Key",
    "Repeat",
    "Rows",
    "Settings",
    "Suite",
    "check_downloaded",
    "episode_seed",
    "make_env",
    "merge",
    "resolve",
    "settings_of",
    "suites",
]
