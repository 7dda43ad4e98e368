"""Sources of Gymnasium's five-tuples: this process, others, or a vector environment."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, SupportsFloat, cast

import gymnasium as gym
import numpy as np

from ..errors import EpisodeError
from ..policy.spaces import Observation
from ..spec import Array
from .success import SPELLINGS
from .suite import Env
from .time_limit import shared_limit, time_limit

Spaces = tuple[gym.Space[Any], gym.Space[Any]]  # of observations, of actions


NOTHING: Mapping[str, Any] = MappingProxyType({})
SIDE = "side"  # in info: what `annotate` sees, and neither policy nor replay
LOST = "world_lost"  # in info: why the world is gone and its episode with it, a sentence
ACHIEVEMENTS = "achievements"  # in info: how often each was reached in this episode, by name
KEPT = (SIDE, LOST, ACHIEVEMENTS, *SPELLINGS)  # of an info, where transitions are made


class StepResult(NamedTuple):
    """One environment's step result: Gymnasium's five-tuple, or a first observation.

    The info holds at least what `KEPT` names, where the environment gave it. With `world_lost` in
    it after a step, the world is gone: the observation is the one before, and the episode ended
    with the transition that led to that. With it after a reset, the world was gone and has been
    started again.
    """

    observation: Observation
    reward: object = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = NOTHING

    @property
    def lost(self) -> str:
        """Reason why the world was lost, or ""."""
        return str(self.info.get(LOST, ""))


def begun(observation: Observation, info: Mapping[str, Any]) -> StepResult:
    """The result of a reset."""
    return StepResult(observation, info=info)


FiveTuple = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


def step_env(env: Env, action: object) -> FiveTuple:
    """An environment's step as Gymnasium's five-tuple, its flags as plain bools.

    Raises:
        EpisodeError: if it gives another number of values, or flags that are neither true nor
            false, as environments written for old gym do.
    """
    try:
        given = cast("object", env.step(action))
    except ValueError as error:  # a wrapper of Gymnasium's took it apart
        if "values to unpack (expected 5" not in str(error):
            raise
        raise _no_five(env, "another number of values") from error
    values = _values(given)
    if len(values) != 5:
        raise _no_five(env, _count(given))
    observation, reward, terminated, truncated, info = values
    flags = _flag(env, "terminated", terminated), _flag(env, "truncated", truncated)
    return observation, reward, *flags, info


def reset_env(
    env: Env, seed: int | None, options: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """An environment's first observation and its info, from Gymnasium's `reset(seed=, options=)`.

    Raises:
        EpisodeError: if its reset takes no seed, or gives no pair of observation and info.
    """
    try:
        given = cast(
            "object", env.reset(seed=seed, options=options) if options else env.reset(seed=seed)
        )
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise EpisodeError(
            f"the reset of {_kind(env)} takes no seed ({error}), expected Gymnasium's "
            "reset(self, *, seed=None, options=None); add both"
        ) from error
    pair = _values(given)
    if len(pair) != 2 or not isinstance(pair[1], Mapping):
        raise EpisodeError(
            f"the reset of {_kind(env)} gave {_count(given)}, expected Gymnasium's pair "
            "(observation, info); return the observation and a dict, such as observation, {}"
        )
    return pair[0], cast("dict[str, Any]", pair[1])


def _no_five(env: Env, given: str) -> EpisodeError:
    return EpisodeError(
        f"the step of {_kind(env)} gave {given}, expected Gymnasium's five (observation, reward, "
        "terminated, truncated, info); old gym's four end with done and info: give terminated "
        "where the task ended and truncated where a time limit did, or wrap the environment in "
        "shimmy.GymV21CompatibilityV0"
    )


def _flag(env: Env, name: str, value: object) -> bool:
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1):
        return bool(array.item())
    raise EpisodeError(
        f"the step of {_kind(env)} gave a {type(value).__name__} as {name}, expected True or "
        "False; its five values are observation, reward, terminated, truncated, info"
    )


def _kind(env: Env) -> str:
    return f"the environment {type(env.unwrapped).__name__}"


def _values(given: object) -> Sequence[Any]:
    return cast("Sequence[Any]", given) if isinstance(given, tuple | list) else ()


def _count(given: object) -> str:
    values = _values(given)
    return f"{len(values)} values" if values else f"one {type(given).__name__}"


class Source(Protocol):
    """Several environments by index; a request is sent, then its result is fetched.

    Attributes:
        sync_reset: whether an episode's first observation is handed out between two steps, so that
            all environments step together; else it comes while the others step.
    """

    sync_reset: bool

    def __len__(self) -> int:
        """Number of environments."""
        ...

    @property
    def spaces(self) -> Sequence[Spaces]:
        """Observation and action space of each environment, or one pair for all."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The environments' spaces and spec; `side` is the space of `info["side"]`."""
        ...

    @property
    def time_limit(self) -> int | None:
        """Environment steps, repeat included, that no episode exceeds; None if not known."""
        ...

    @property
    def processes(self) -> Sequence[int]:
        """Ids of the processes that hold the environments, by index; none where this one does."""
        ...

    def send(self, actions: Mapping[int, Array], seeds: Mapping[int, int]) -> None:
        """Step some environments and reset others, each by its index."""
        ...

    def receive(self) -> dict[int, StepResult]:
        """The results of the last request, by index."""
        ...

    def render(self, index: int) -> object:
        """The picture of one environment."""
        ...

    def close(self) -> None:
        """Free the environments."""
        ...


class InProcess:
    """Environments in this process, one after another; they step when they are fetched."""

    sync_reset = False

    def __init__(self, envs: Sequence[Env]) -> None:
        """Take environments, which `close` will close."""
        self._envs = tuple(envs)
        self._actions: Mapping[int, Array] = {}
        self._seeds: Mapping[int, int] = {}

    def __len__(self) -> int:
        return len(self._envs)

    @property
    def spaces(self) -> Sequence[Spaces]:
        """Observation and action space of each environment."""
        return [(env.observation_space, env.action_space) for env in self._envs]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The first environment's spaces and spec."""
        return self._envs[0].metadata

    @property
    def time_limit(self) -> int | None:
        """Time limit of the environment that has the longest."""
        return shared_limit([time_limit(env) for env in self._envs])

    @property
    def processes(self) -> Sequence[int]:
        """No processes: this one holds the environments."""
        return ()

    def send(self, actions: Mapping[int, Array], seeds: Mapping[int, int]) -> None:
        """Remember what to do."""
        self._actions, self._seeds = actions, seeds

    def receive(self) -> dict[int, StepResult]:
        """Do it."""
        stepped = {i: StepResult(*step_env(self._envs[i], a)) for i, a in self._actions.items()}
        return stepped | {i: begun(*reset_env(self._envs[i], s)) for i, s in self._seeds.items()}

    def render(self, index: int) -> object:
        """The picture of one environment."""
        return self._envs[index].render()

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
