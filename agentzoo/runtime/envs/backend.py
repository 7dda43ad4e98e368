"""Where Gymnasium's five-tuples come from: in this process, in others, or a vector environment."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import gymnasium as gym

from ..policy.spaces import Observation
from ..spec import Array
from .suite import Env
from .time_limit import shared_limit, time_limit

Spaces = tuple[gym.Space[Any], gym.Space[Any]]  # of observations, of actions


NOTHING: Mapping[str, Any] = MappingProxyType({})
SIDE = "side"  # in info: what `annotate` sees, and neither policy nor replay
LOST = "world_lost"  # in info: why the world is gone and its episode with it, a sentence
KEPT = (SIDE, LOST)  # of an info, where rows are made


class Outcome(NamedTuple):
    """What one environment gave: Gymnasium's five-tuple, or a first observation.

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
        """Why the world was lost, or ""."""
        return str(self.info.get(LOST, ""))


def begun(observation: Observation, info: Mapping[str, Any]) -> Outcome:
    """What a reset gave."""
    return Outcome(observation, info=info)


class Source(Protocol):
    """Several environments by index; a request is sent, then what came of it is fetched.

    Attributes:
        sync_reset: whether an episode's first observation is handed out between two steps, so that
            all environments step together; else it comes while the others step.
    """

    sync_reset: bool

    def __len__(self) -> int:
        """How many environments there are."""
        ...

    @property
    def spaces(self) -> Sequence[Spaces]:
        """Observation and action space of each environment, or one pair for all."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the environments say of themselves; `side` is the space of `info["side"]`."""
        ...

    @property
    def time_limit(self) -> int | None:
        """Environment steps, repeat included, that no episode exceeds; None if not known."""
        ...

    def send(self, actions: Mapping[int, Array], seeds: Mapping[int, int]) -> None:
        """Step some environments and reset others, each by its index."""
        ...

    def receive(self) -> dict[int, Outcome]:
        """What came of the last request, by index."""
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
        """What the first environment says of itself."""
        return self._envs[0].metadata

    @property
    def time_limit(self) -> int | None:
        """Of the environment that has the longest."""
        return shared_limit([time_limit(env) for env in self._envs])

    def send(self, actions: Mapping[int, Array], seeds: Mapping[int, int]) -> None:
        """Remember what to do."""
        self._actions, self._seeds = actions, seeds

    def receive(self) -> dict[int, Outcome]:
        """Do it."""
        stepped = {i: Outcome(*self._envs[i].step(a)) for i, a in self._actions.items()}
        return stepped | {i: begun(*self._envs[i].reset(seed=s)) for i, s in self._seeds.items()}

    def render(self, index: int) -> object:
        """The picture of one environment."""
        return self._envs[index].render()

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
