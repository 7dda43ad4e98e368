"""Time limit of an environment's episodes, where it says so."""

from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym

from .suite import Env

# of an environment that counts by itself, as those of our suites; of Gymnasium's TimeLimit
ATTRIBUTES = ("max_episode_steps", "_max_episode_steps")


def time_limit(env: Env) -> int | None:
    """Environment steps, action repeat included, that no episode exceeds.

    The largest of what Gymnasium's spec, its TimeLimit and an attribute `max_episode_steps` say;
    None where they say nothing.
    """
    said = [env.get_wrapper_attr(name) for name in ATTRIBUTES if env.has_wrapper_attr(name)]
    limits = [limit for limit in said if isinstance(limit, int) and limit > 0]
    registered = spec_limit(env)
    return max(limits if registered is None else [*limits, registered], default=None)


def spec_limit(env: Env | gym.vector.VectorEnv[Any, Any, Any]) -> int | None:
    """The limit that an environment, or each one of a vector environment, was registered with."""
    spec = cast("Any", env.spec)
    return None if spec is None else spec.max_episode_steps


def shared_limit(limits: Sequence[int | None]) -> int | None:
    """The longest of several; None if one of them is not known."""
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None
