"""Environments: `suite:task` strings, and the adapter that turns their steps into rows."""

from .adapter import Adapter, Rows, episode_seed
from .processes import ProcessVectorEnv
from .registry import (
    Env,
    Key,
    Outcome,
    Settings,
    Suite,
    check_downloaded,
    for_evaluation,
    make_env,
    merge,
    protocol_of,
    resolve,
    scores_of,
    settings_of,
    suites,
)
from .repeat import Repeat
from .vector import VectorEnv

__all__ = [
    "Adapter",
    "Env",
    "Key",
    "Outcome",
    "ProcessVectorEnv",
    "Repeat",
    "Rows",
    "Settings",
    "Suite",
    "VectorEnv",
    "check_downloaded",
    "episode_seed",
    "for_evaluation",
    "make_env",
    "merge",
    "protocol_of",
    "resolve",
    "scores_of",
    "settings_of",
    "suites",
]
