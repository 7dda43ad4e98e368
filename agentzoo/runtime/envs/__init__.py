"""Environments: `suite:task` strings, and the adapter that turns their steps into rows."""

from .adapter import Adapter, Transitions, episode_seed
from .repeat import Repeat
from .subprocess_env import ProcessVectorEnv
from .suite import (
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
from .vector import VectorEnv

__all__ = [
    "Adapter",
    "Env",
    "Key",
    "Outcome",
    "ProcessVectorEnv",
    "Repeat",
    "Settings",
    "Suite",
    "Transitions",
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
