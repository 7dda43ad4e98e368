"""Gymnasium's five-tuples become transitions of agentzoo/algorithm.py's timeline, here alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import ArrayLike

from ..errors import ConfigError, EpisodeError, ObservationError
from ..policy.noise import derive_seed
from ..policy.spaces import action_spec, encode, observation_specs, space_differences
from ..spec import ActionSpec, Array, Arrays, ObsSpec
from .backend import ACHIEVEMENTS, SIDE, InProcess, Source, StepResult
from .subprocess_env import TIMEOUT_S, ProcessVectorEnv
from .success import Success
from .suite import Env, make_here, require_package, resolve, settings_of, suite_of
from .vector import Vector, VectorEnv

Transitions = Arrays  # column -> (B, ...)


def episode_seed(run_seed: int, env_index: int, episode: int) -> int:
    """The seed of one episode of one environment in a run: 31 bits, the same on every machine."""
    return derive_seed("episode", run_seed, env_index, episode) >> 32


class Adapter:
    """Several environments behind one interface, each stepped and reset by its index.

    `reset` and `step` return transitions: every observation key as `spaces.encode` gives it,
    `is_first`, `is_last`, `is_terminal` (bool) and `reward` (float32), each with the leading axis
    B = len(indices). Nothing resets by itself: after a transition with `is_last` comes `reset`.
    `send` and `receive` do both at once, and let environments in processes work while the caller
    does.

    An environment whose world is lost (`info["world_lost"]`, or its process died) gives no
    transition for that step: its episode ended with the one before. `lost` then says why.

    Attributes:
        obs: observation specs by key.
        side: specs of what transitions have besides, for `annotate` alone; the environments declare
            them as a Dict space `metadata["side"]` and give them as `info["side"]`.
        lost: index -> reason, of worlds lost in the last `receive`; those that were stepped have
            no transition, those that were reset have begun after all.
        action: the environments' action.
        repeat: environment steps in one decision.
        name: the resolved environment string, or "" for environments of the user's own making.
        time_limit: environment steps, repeat included, that no episode exceeds; None if not known.
        sync_reset: whether resets come between two steps (vector environments that step all their
            environments together); else they come along with the others' steps.
    """

    def __init__(self, envs: Sequence[Env] | Source, *, name: str = "", repeat: int = 1) -> None:
        """Take environments that share their spaces.

        Raises:
            ConfigError: if there is none, or if their spaces differ.
            SpaceError: if agents cannot read or fill their spaces.
        """
        if not envs:
            raise ConfigError("an adapter was given no environments; give at least one")
        self._source = InProcess(envs) if isinstance(envs, Sequence) else envs
        self.obs, self.action = self._shared_specs()
        self.side = _side_specs(self._source.metadata.get(SIDE), self.obs)
        self.lost: dict[int, str] = {}
        self.name, self.repeat, self.sync_reset = name, repeat, self._source.sync_reset
        self.time_limit = self._source.time_limit
        self._steps = [-1] * len(envs)  # decisions taken in the open episode; -1 is none open
        self._resets: Sequence[int] = ()
        self._success = [Success() for _ in range(len(envs))]
        self._unlocked: list[dict[str, bool]] = [{} for _ in range(len(envs))]

    @classmethod
    def open(
        cls,
        env: str | Env | VectorEnv | Callable[[], Env],
        count: int | None = None,
        *,
        defaults: Mapping[str, object] | None = None,
        parallel: bool = False,
        timeout: float = TIMEOUT_S,
    ) -> "Adapter":
        """Make the environments from a string, one object, or a function that makes one.

        Args:
            env: `suite:task?key=value`, a Gymnasium environment or vector environment, or a
                function without arguments.
            count: how many; None is one, or all of a vector environment. One object can only be
                one, a vector environment only what it is.
            defaults: settings that the string leaves open (see `resolve`).
            parallel: a process for each environment; no matter for objects.
            timeout: seconds without an answer after which such a process counts as hung.

        Raises:
            EnvironmentStringError: if the string names something unknown.
            ConfigError: if `count` environments cannot come from what was given.
            SpaceError: if agents cannot read or fill the spaces.
            WorkerError: if a process cannot make its environment.
        """
        require_environment_like(env)
        if count is not None and count < 1:
            raise ConfigError(f"{count} environments were asked for; ask for at least one")
        if isinstance(env, gym.vector.VectorEnv):
            return cls(Vector(_of_size(cast("VectorEnv", env), count)))
        count, name, repeat = count or 1, "", 1
        if isinstance(env, str):
            name = resolve(env, defaults or {})
            repeat = int(settings_of(name).get("repeat", 1))
            if suite_of(name).is_isolated:
                require_package(suite_of(name))
                parallel = True
            env = partial(make_here, name)
        if isinstance(env, gym.Env):
            return cls(_objects(cast("Env", env), count), name=name, repeat=repeat)
        make = cast("Callable[[], Env]", env)
        source = (
            # what a string names can be made anew; a function may count on being called once
            ProcessVectorEnv(make, count, timeout=timeout, restarts=bool(name))
            if parallel
            else InProcess(_objects(make, count))
        )
        try:
            return cls(source, name=name, repeat=repeat)
        except BaseException:  # nobody else could close what was made here
            source.close()
            raise

    def __len__(self) -> int:
        return len(self._source)

    @property
    def processes(self) -> Sequence[int]:
        """Ids of the processes that hold the environments, by index; none where this one does.

        A worker that is replaced has another id from then on.
        """
        return self._source.processes

    def success(self, index: int) -> bool | None:
        """Whether the newest episode of an environment reached its goal so far; None: no word."""
        return self._success[index].reached

    def unlocked(self, index: int) -> Mapping[str, bool]:
        """Achievements of the newest episode of an environment; empty: no word."""
        return self._unlocked[index]

    def reset(self, indices: Sequence[int], seeds: Sequence[int]) -> Transitions:
        """Start a new episode in each of the environments; an open one is left behind.

        Returns:
            First transitions: `is_first` set, reward 0.

        Raises:
            ObservationError: if an observation is not what the space says.
            WorkerError: if a process that holds an environment raised, died or hangs.
        """
        self.send((), (), indices, seeds)
        return self._received(indices)

    def step(self, indices: Sequence[int], actions: ArrayLike) -> Transitions:
        """Take one decision in each of the environments.

        Args:
            indices: environments with an open episode.
            actions: (B, *action.shape) in the environments' own units.

        Raises:
            EpisodeError: if an action or a reward is not finite, or a world is lost.
            ObservationError: if an observation is not what the space says.
            WorkerError: if a process that holds an environment raised, died or hangs.
        """
        self.send(indices, actions)
        return self._received(indices)

    def send(
        self,
        indices: Sequence[int],
        actions: ArrayLike,
        resets: Sequence[int] = (),
        seeds: Sequence[int] = (),
    ) -> None:
        """Take one decision in some environments and reset others; `receive` gives the transitions.

        Raises:
            EpisodeError: if an action is not finite.
        """
        assert len(resets) == len(seeds), (resets, seeds)
        for index in indices:
            assert self._steps[index] >= 0, f"environment {index} has no open episode; reset it"
        typed = self._typed(indices, actions) if len(indices) else ()
        self._resets = resets
        self._source.send(
            dict(zip(indices, typed, strict=True)),
            {index: int(seed) for index, seed in zip(resets, seeds, strict=True)},
        )

    def receive(self) -> tuple[list[int], Transitions]:
        """Environments and the transitions of all that was sent, in the order of the environments.

        Raises:
            EpisodeError: if a reward is not finite.
            ObservationError: if an observation is not what the space says.
            WorkerError: if a process that holds an environment raised, died or hangs.
        """
        found = self._transitions()
        indices = sorted(found)
        return indices, _stacked([found[index] for index in indices]) if found else {}

    def _received(self, indices: Sequence[int]) -> Transitions:
        found = self._transitions()
        for index in indices:
            if index not in found:
                raise EpisodeError(f"environment {index} was lost: {self.lost[index]}")
        return _stacked([found[index] for index in indices])

    def _transitions(self) -> dict[int, Transitions]:
        outcomes = self._source.receive()
        self.lost = {i: one.lost for i, one in outcomes.items() if one.lost}
        gone = [i for i in self.lost if i not in self._resets]
        for index in gone:
            self._steps[index] = -1
        return {i: self._transition(i, one) for i, one in outcomes.items() if i not in gone}

    def _typed(self, indices: Sequence[int], actions: ArrayLike) -> Array:
        given: Array = np.asarray(actions)
        assert given.shape == (len(indices), *self.action.shape), (given.shape, self.action.shape)
        finite = np.isfinite(given.reshape(len(indices), -1)).all(1)
        if not finite.all():
            raise EpisodeError(
                f"the action for {self._where(indices[int(finite.argmin())])} is not finite: "
                f"{given[finite.argmin()].tolist()}; the policy that chose it has diverged"
            )
        return given.astype(self.action.dtype)

    def render(self, index: int) -> Array:
        """The picture of one environment now, (h, w, 3) uint8.

        Raises:
            EpisodeError: if the environment does not draw.
        """
        frame = self._source.render(index)
        if not isinstance(frame, np.ndarray):
            raise EpisodeError(
                f"environment {index} drew {type(frame).__name__}, expected an array (h, w, 3); "
                'make it with render_mode="rgb_array"'
            )
        return cast("Array", frame)

    def close(self) -> None:
        """Close every environment of our own making."""
        self._source.close()

    def _transition(self, index: int, outcome: StepResult) -> Transitions:
        is_first = index in self._resets
        self._steps[index] = 0 if is_first else self._steps[index] + 1
        self._follow(index, outcome.info, is_first)
        try:
            found = encode(self.obs, outcome.observation, batched=False)
            if self.side:
                found |= encode(self.side, outcome.info.get(SIDE, {}), batched=False)
        except ObservationError as error:
            raise ObservationError(f"{self._where(index)}: {error}") from error
        is_last = bool(outcome.terminated or outcome.truncated)
        found["is_first"] = np.array([is_first])
        found["is_last"] = np.array([is_last])
        found["is_terminal"] = np.array([bool(outcome.terminated)])
        found["reward"] = self._finite(index, outcome.reward)
        if is_last:
            self._steps[index] = -1
        return found

    def _follow(self, index: int, info: Mapping[str, object], is_first: bool) -> None:
        """Keep what an info says of success and achievements."""
        if is_first:
            self._success[index], self._unlocked[index] = Success(), {}
        else:
            self._success[index].take(info)
        counts = info.get(ACHIEVEMENTS)
        if isinstance(counts, Mapping):
            found = cast("Mapping[str, int]", counts)
            self._unlocked[index] = {name: bool(count) for name, count in found.items()}

    def _finite(self, index: int, reward: object) -> Array:
        value: Array = np.asarray(reward)
        if value.size == 1 and value.dtype.kind in "fiub":
            with np.errstate(over="ignore"):  # beyond float32 it is infinite, and said so below
                value = value.reshape(1).astype(np.float32)
            if np.isfinite(value[0]):
                return value
        raise EpisodeError(
            f"the reward of {self._where(index)} is {reward!r}, expected one finite number that "
            "float32 holds; look at what the environment computes there"
        )

    def _where(self, index: int) -> str:
        return f"environment {index} at step {self._steps[index]} of its episode"

    def _shared_specs(self) -> tuple[dict[str, ObsSpec], ActionSpec]:
        (first, *others) = [
            (observation_specs(obs), action_spec(action)) for obs, action in self._source.spaces
        ]
        for index, specs in enumerate(others, 1):
            if specs != first:
                raise ConfigError(
                    f"environment {index} has other spaces than environment 0: "
                    f"{'; '.join(space_differences(first, specs))}; environments that learn "
                    "together must share them"
                )
        return first


def _side_specs(space: gym.Space[object] | None, obs: Mapping[str, ObsSpec]) -> dict[str, ObsSpec]:
    specs = observation_specs(space) if space is not None else {}
    if doubled := sorted(specs.keys() & obs.keys()):
        raise ConfigError(
            f'the environment gives "{doubled[0]}" as an observation and as a side observation; '
            "rename one of them"
        )
    return specs


def _of_size(venv: VectorEnv, count: int | None) -> VectorEnv:
    if count not in (None, venv.num_envs):
        raise ConfigError(
            f"the vector environment holds {venv.num_envs} environments, but {count} were asked "
            f"for; leave envs out, or say envs={venv.num_envs}"
        )
    return venv


def _objects(env: Env | Callable[[], Env], count: int) -> list[Env]:
    if isinstance(env, gym.Env):
        if count == 1:
            return [env]
        raise ConfigError(
            f"one environment object cannot be {count} environments; pass a function that makes "
            "one, such as lambda: MyEnv()"
        )
    made: list[object] = [env() for _ in range(count)]
    for each in made:
        require_environment_like(each, made=True)
    return cast("list[Env]", made)


def require_environment_like(env: object, *, made: bool = False) -> None:
    """Refuse what is no environment, by the name of what it is.

    Args:
        env: what was given as environment.
        made: whether a function made it, which has to be a single environment then.

    Raises:
        ConfigError: saying what to pass instead.
    """
    if isinstance(env, gym.Env):
        return
    if not made and (isinstance(env, str | gym.vector.VectorEnv) or callable(env)):
        return
    kind = type(env)
    given = f"the function made a {kind.__name__}" if made else f"a {kind.__name__} was given"
    expected = (
        "a gymnasium.Env, a function that makes one, or a string such as dmc:walker-walk; a vector "
        "environment is passed itself"
    )
    if isinstance(env, EnvSpec):
        instead = f'pass the string "gym:{env.id}", or lambda: gymnasium.make(spec)'
    elif hasattr(env, "num_envs") and hasattr(env, "step_async"):
        instead = "of Stable-Baselines' pass the function that makes one environment, and envs=N"
    elif any(base.__module__.split(".")[0] == "gym" for base in kind.__mro__):
        instead = "wrap old gym's in shimmy.GymV21CompatibilityV0(env=env)"
    elif isinstance(env, list | tuple):
        instead = "pass one function that makes an environment, and envs=N"
    else:
        instead = "pass one of these"
    raise ConfigError(f"{given} as environment, expected {expected}; {instead}")


def _stacked(parts: Sequence[Transitions]) -> Transitions:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
