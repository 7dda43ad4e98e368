"""Where Gymnasium's five-tuples come from: in this process, in others, or a vector environment."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym

from ..policy.spaces import Observation
from ..spec import Array
from .suite import Env

Spaces = tuple[gym.Space[Any], gym.Space[Any]]  # of observations, of actions


class Outcome(NamedTuple):
    """What one environment gave: Gymnasium's five-tuple without info, or a first observation."""

    observation: Observation
    reward: object = 0.0
    terminated: bool = False
    truncated: bool = False


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

    def send(self, actions: Mapping[int, Array], seeds: Mapping[int, int]) -> None:
        """Remember what to do."""
        self._actions, self._seeds = actions, seeds

    def receive(self) -> dict[int, Outcome]:
        """Do it."""
        stepped = {i: Outcome(*self._envs[i].step(a)[:4]) for i, a in self._actions.items()}
        begun = {i: Outcome(self._envs[i].reset(seed=s)[0]) for i, s in self._seeds.items()}
        return stepped | begun

    def render(self, index: int) -> object:
        """The picture of one environment."""
        return self._envs[index].render()

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
