"""Environments: `suite:task` strings, and the adapter that turns their steps into rows."""

from .adapter import Adapter, Rows, episode_seed
from .processes import ProcessVectorEnv
from .registry import Env, Key, Settings, Suite, make_env, merge, resolve, settings_of, suites
from .repeat import Repeat
from .vector import VectorEnv

__all__ = [
    "Adapter",
    "Env",
    "Key",
    "ProcessVectorEnv",
    "Repeat",
    "Rows",
    "Settings",
    "Suite",
    "VectorEnv",
    "episode_seed",
    "make_env",
    "merge",
    "resolve",
    "settings_of",
    "suites",
]
