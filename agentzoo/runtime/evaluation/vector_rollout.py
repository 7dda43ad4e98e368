"""Episodes in a vector environment, each with a seed of its own, whatever resets it by itself.

Sub-environment i plays episodes i, i + K, i + 2 K, ...: the split is fixed before anything is
played, so short episodes are not preferred. After an episode's end its sub-environment is reset
with the next one's seed, in all of Gymnasium's autoreset modes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from gymnasium import Space
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from ..envs.vector import SEED_REFUSALS
from ..errors import ConfigError
from ..policy.spaces import Observation
from ..spec import Array

Vector = VectorEnv[Any, Any, Any]


class PlayedEpisode(Protocol):
    """One episode: its seed, and its sums."""

    seed: int
    is_over: bool

    def begin(self, obs: Observation) -> None:
        """Start with this observation."""
        ...

    def take(
        self, obs: Observation, reward: object, is_over: bool, info: Mapping[str, Any]
    ) -> None:
        """Take what one decision gave."""
        ...


E = TypeVar("E", bound=PlayedEpisode)


def play_vector(
    env: Vector,
    episodes: "Sequence[E]",
    act: Callable[[Sequence[E]], list[Array]],
    tell: Callable[[E], None],
) -> None:
    """Play all episodes.

    Args:
        env: with K sub-environments, in any autoreset mode; it is not closed.
        episodes: to play.
        act: gives the action of each of several episodes that run.
        tell: called for each episode that ends.

    Raises:
        ConfigError: if it cannot give each of its environments a seed.
    """
    waiting: list[list[E]] = [list(episodes[i :: env.num_envs]) for i in range(env.num_envs)]
    running = [queue.pop(0) if queue else None for queue in waiting]
    seeds = [one.seed if one else 0 for one in running]
    obs, _ = _first_reset(env, seeds)
    for i, one in enumerate(running):
        if one:
            one.begin(_element(obs, i))
    idle = cast(
        Any, env
    ).single_action_space.sample()  # for sub-environments that have nothing left to play
    while any(running):
        chosen = iter(act([one for one in running if one]))
        obs, rewards, over, infos = _step(env, [next(chosen) if one else idle for one in running])
        for i, one in enumerate(running):
            if one:
                one.take(_element(obs, i), rewards[i], bool(over[i]), _info(infos, i))
                if one.is_over:
                    tell(one)
        _next_round(env, over, running, waiting)


def _next_round(
    env: Vector, over: Array, running: list[E | None], waiting: Sequence[list[E]]
) -> None:
    if not over.any():
        return
    ended = [i for i, is_over in enumerate(over) if is_over]
    for i in ended:
        running[i] = waiting[i].pop(0) if waiting[i] else None
    seeds = [one.seed if one else 0 for one in running]
    obs, _ = _reset(env, seeds, {"reset_mask": over})
    for i in ended:
        if (one := running[i]) is not None:
            one.begin(_element(obs, i))


def _first_reset(env: Vector, seeds: list[int]) -> tuple[object, object]:
    try:
        return _reset(env, seeds)
    except SEED_REFUSALS as error:
        env.reset(seed=seeds[0])  # raises where the seeds are not what it refused
        raise ConfigError(
            f"{type(env.unwrapped).__name__} takes one seed for all its environments ({error}), so "
            "its episodes cannot have seeds of their own, as evaluation gives them; pass a string, "
            'one environment, or gym.make_vec(..., vectorization_mode="sync")'
        ) from error


def _reset(
    env: Vector, seeds: list[int], options: dict[str, object] | None = None
) -> tuple[object, object]:
    return cast(Any, env).reset(seed=seeds, options=options)  # its type knows a single seed only


def _step(
    env: Vector, actions: Sequence[object]
) -> tuple[Observation, Array, Array, Mapping[str, Any]]:
    space = cast("Space[Any]", env.single_action_space)  # pyright: ignore[reportUnknownMemberType]
    batch = concatenate(space, actions, create_empty_array(space, env.num_envs))
    obs, rewards, terminated, truncated, infos = env.step(batch)
    over = np.logical_or(terminated, truncated)
    return cast(Observation, obs), np.asarray(rewards), over, infos


def _element(obs: object, i: int) -> Observation:
    if isinstance(obs, Mapping):
        return {key: array[i] for key, array in cast("Mapping[str, Array]", obs).items()}
    return cast(Array, obs)[i]


def _info(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """One sub-environment's part: what Gymnasium's masks (`_name`) say it gave."""
    infos = infos.get("final_info", infos) if _gave(infos, "final_info", i) else infos
    return {name: _at(infos[name], i) for name in infos if _gave(infos, name, i)}


def _gave(infos: Mapping[str, Any], name: str, i: int) -> bool:
    return not name.startswith("_") and f"_{name}" in infos and bool(infos[f"_{name}"][i])


def _at(value: Any, i: int) -> Any:
    """A sub-environment's entry; a dict of arrays has its own masks."""
    if isinstance(value, Mapping):
        return _info(cast("Mapping[str, Any]", value), i)
    return value[i]
