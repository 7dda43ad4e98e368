"""The only row maker: Gymnasium's five-tuples become rows of agentzoo/algorithm.py's timeline."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError, EpisodeError, ObservationError
from ..noise import derive
from ..spaces import Observation, action_spec, encode, observation_specs
from ..spec import Array, Arrays
from .registry import Env, make_env, resolve, settings_of

Rows = Arrays  # column -> (B, ...)


def episode_seed(run_seed: int, env_index: int, episode: int) -> int:
    """The seed of one episode of one environment in a run: 31 bits, the same on every machine."""
    return derive("episode", run_seed, env_index, episode) >> 32


class Adapter:
    """Several environments behind one interface, each stepped and reset by its index.

    `reset` and `step` return rows: every observation key as `spaces.encode` gives it, `is_first`,
    `is_last`, `is_terminal` (bool) and `reward` (float32), each with the leading axis
    B = len(indices). Nothing resets by itself: after a row with `is_last` comes `reset`.

    Attributes:
        obs: observation specs by key.
        action: the environments' action.
        repeat: environment steps in one decision.
        name: the resolved environment string, or "" for environments of the user's own making.
    """

    def __init__(self, envs: Sequence[Env], *, name: str = "", repeat: int = 1) -> None:
        """Take environments that share their spaces.

        Raises:
            ConfigError: if there is none, or if their spaces differ.
            SpaceError: if agents cannot read or fill their spaces.
        """
        if not envs:
            raise ConfigError("an adapter was given no environments; give at least one")
        self.obs = observation_specs(envs[0].observation_space)
        self.action = action_spec(envs[0].action_space)
        self.name, self.repeat = name, repeat
        self._envs = tuple(envs)
        self._steps = [-1] * len(envs)  # decisions taken in the open episode; -1 is none open
        self._check_alike()

    @classmethod
    def open(
        cls,
        env: str | Env | Callable[[], Env],
        count: int = 1,
        *,
        defaults: Mapping[str, object] | None = None,
    ) -> "Adapter":
        """Make the environments from a string, one object, or a function that makes one.

        Args:
            env: `suite:task?key=value`, a Gymnasium environment, or a function without arguments.
            count: how many; one object can only be one.
            defaults: settings that the string leaves open (see `resolve`).

        Raises:
            EnvironmentStringError: if the string names something unknown.
            ConfigError: if `count` environments cannot come from what was given.
            SpaceError: if agents cannot read or fill the spaces.
        """
        if count < 1:
            raise ConfigError(f"{count} environments were asked for; ask for at least one")
        if isinstance(env, str):
            name = resolve(env, defaults or {})
            repeat = int(settings_of(name).get("repeat", 1))
            return cls([make_env(name) for _ in range(count)], name=name, repeat=repeat)
        return cls(_objects(env, count))

    def __len__(self) -> int:
        return len(self._envs)

    def reset(self, indices: Sequence[int], seeds: Sequence[int]) -> Rows:
        """Start a new episode in each of the environments; an open one is left behind.

        Returns:
            First rows: `is_first` set, reward 0.

        Raises:
            ObservationError: if an observation is not what the space says.
        """
        assert len(indices) == len(seeds), (indices, seeds)
        return _stacked([self._first(i, int(seed)) for i, seed in zip(indices, seeds, strict=True)])

    def step(self, indices: Sequence[int], actions: ArrayLike) -> Rows:
        """Take one decision in each of the environments.

        Args:
            indices: environments with an open episode.
            actions: (B, *action.shape) in the environments' own units.

        Raises:
            EpisodeError: if an action or a reward is not finite.
            ObservationError: if an observation is not what the space says.
        """
        given = np.asarray(actions)
        assert given.shape == (len(indices), *self.action.shape), (given.shape, self.action.shape)
        finite = np.isfinite(given.reshape(len(indices), -1)).all(1)
        if not finite.all():
            raise EpisodeError(
                f"the action for {self._where(indices[int(finite.argmin())])} is not finite: "
                f"{given[finite.argmin()].tolist()}; the policy that chose it has diverged"
            )
        typed = given.astype(self.action.dtype)
        return _stacked([self._next(i, a) for i, a in zip(indices, typed, strict=True)])

    def render(self, index: int) -> Array:
        """The picture of one environment now, (h, w, 3) uint8.

        Raises:
            EpisodeError: if the environment does not draw.
        """
        frame = self._envs[index].render()
        if not isinstance(frame, np.ndarray):
            raise EpisodeError(
                f"environment {index} drew {type(frame).__name__}, expected an array (h, w, 3); "
                'make it with render_mode="rgb_array"'
            )
        return frame

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _first(self, index: int, seed: int) -> Rows:
        observation, _ = self._envs[index].reset(seed=seed)
        self._steps[index] = 0
        return self._row(index, observation, is_first=True)

    def _next(self, index: int, action: Array) -> Rows:
        assert self._steps[index] >= 0, f"environment {index} has no open episode; reset it first"
        observation, reward, terminated, truncated, _ = self._envs[index].step(action)
        self._steps[index] += 1
        row = self._row(
            index,
            observation,
            is_last=bool(terminated or truncated),
            is_terminal=bool(terminated),
            reward=self._finite(index, reward),
        )
        if row["is_last"][0]:
            self._steps[index] = -1
        return row

    def _row(
        self,
        index: int,
        observation: Observation,
        *,
        is_first: bool = False,
        is_last: bool = False,
        is_terminal: bool = False,
        reward: float = 0.0,
    ) -> Rows:
        try:
            row = encode(self.obs, observation, batched=False)
        except ObservationError as error:
            raise ObservationError(f"{self._where(index)}: {error}") from error
        row["is_first"] = np.array([is_first])
        row["is_last"] = np.array([is_last])
        row["is_terminal"] = np.array([is_terminal])
        row["reward"] = np.array([reward], np.float32)
        return row

    def _finite(self, index: int, reward: object) -> float:
        value = np.asarray(reward)
        if value.size != 1 or value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise EpisodeError(
                f"the reward of {self._where(index)} is {reward!r}, expected one finite number; "
                "look at what the environment computes there"
            )
        return float(value.item())

    def _where(self, index: int) -> str:
        return f"environment {index} at step {self._steps[index]} of its episode"

    def _check_alike(self) -> None:
        for index, env in enumerate(self._envs):
            obs, action = observation_specs(env.observation_space), action_spec(env.action_space)
            if obs != self.obs or action != self.action:
                raise ConfigError(
                    f"environment {index} has other spaces than environment 0: {obs}, {action}; "
                    "environments that learn together must share them"
                )


def _objects(env: Env | Callable[[], Env], count: int) -> list[Env]:
    if isinstance(env, gym.Env):
        if count == 1:
            return [env]
        raise ConfigError(
            f"one environment object cannot be {count} environments; pass a function that makes "
            "one, such as lambda: MyEnv()"
        )
    made: list[object] = [env() if callable(env) else env for _ in range(count)]
    for each in made:
        if not isinstance(each, gym.Env):
            raise ConfigError(
                f"a {type(each).__name__} was given as environment, expected a gymnasium.Env, a "
                "function that makes one, or a string such as dmc:walker-walk"
            )
    return cast("list[Env]", made)


def _stacked(rows: Sequence[Rows]) -> Rows:
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
