"""Environments: `suite:task` strings, and the adapter that turns their steps into transitions."""

from .adapter import Adapter, Transitions, episode_seed, require_environment_like
from .backend import FiveTuple, reset_env, step_env
from .frames import shrunk
from .names import EnvName
from .observe import Observe
from .repeat import Repeat
from .subprocess_env import ProcessVectorEnv
from .suite import (
    Env,
    Key,
    Outcome,
    Settings,
    Suite,
    check_downloaded,
    dimensions_of,
    for_evaluation,
    make_env,
    merge,
    package_of,
    protocol_of,
    resolve,
    scores_of,
    settings_of,
    suites,
)
from .time_limit import time_limit
from .vector import VectorEnv

__all__ = [
    "Adapter",
    "Env",
    "EnvName",
    "FiveTuple",
    "Key",
    "Observe",
    "Outcome",
    "ProcessVectorEnv",
    "Repeat",
    "Settings",
    "Suite",
    "Transitions",
    "VectorEnv",
    "check_downloaded",
    "dimensions_of",
    "episode_seed",
    "for_evaluation",
    "make_env",
    "merge",
    "package_of",
    "protocol_of",
    "require_environment_like",
    "reset_env",
    "resolve",
    "scores_of",
    "settings_of",
    "shrunk",
    "step_env",
    "suites",
    "time_limit",
]
