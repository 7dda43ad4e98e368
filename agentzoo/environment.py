"""The environment of a run: a string, an environment object, or a function that makes one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from agentzoo.runtime import envs
from agentzoo.runtime.envs import require_environment_like
from agentzoo.runtime.errors import RunError
from agentzoo.runtime.policy.spaces import action_spec, observation_specs
from agentzoo.runtime.spec import ActionSpec, ObsSpec

from .config import AgentConfig, EnvFacts

EnvLike = str | gym.Env[Any, Any] | envs.VectorEnv | Callable[[], gym.Env[Any, Any]]
OBJECTS = (gym.Env, gym.vector.VectorEnv)  # there is one, it is in use, and it is the user's


def open_environment(
    source: str | Callable[[], gym.Env[Any, Any]],
) -> gym.Env[Any, Any]:
    """An environment from a string, or from a function that makes one."""
    return envs.make_env(source) if isinstance(source, str) else source()


def spaces_of(env: EnvLike) -> tuple[dict[str, ObsSpec], ActionSpec]:
    """The specs of an environment; one that is opened for it is closed again."""
    if isinstance(env, gym.vector.VectorEnv):
        return observation_specs(env.single_observation_space), action_spec(env.single_action_space)
    probe = env if isinstance(env, gym.Env) else open_environment(env)
    require_environment_like(probe, made=True)
    specs = observation_specs(probe.observation_space), action_spec(probe.action_space)
    if probe is not env:
        probe.close()
    return specs


def facts_of(env: EnvLike, overrides: Mapping[str, object]) -> EnvFacts:
    """The facts of an environment; one that is opened for it is closed again."""
    if isinstance(env, gym.vector.VectorEnv):
        return EnvFacts("", *spaces_of(env))
    probe = env if isinstance(env, gym.Env) else open_environment(env)
    require_environment_like(probe, made=True)
    obs, action = observation_specs(probe.observation_space), action_spec(probe.action_space)
    limit = envs.time_limit(probe)
    if probe is not env:
        probe.close()
    if not isinstance(env, str):
        return EnvFacts("", obs, action, limit)
    limit = envs.settings_of(env).get("max_episode_steps", limit)
    # a string that says its own gives the same whatever is offered
    said = {envs.settings_of(envs.resolve(env, {"repeat": one})).get("repeat") for one in (1, 2)}
    repeat = said.pop() if len(said) == 1 else overrides.get("repeat")
    return EnvFacts(
        task=envs.EnvName.read(envs.resolve(env, {})).head,
        obs=obs,
        action=action,
        time_limit=limit if isinstance(limit, int) and limit > 0 else None,
        repeat=repeat if isinstance(repeat, int) else None,
    )


@contextmanager
def collecting(env: EnvLike, config: AgentConfig) -> Iterator[envs.Adapter]:
    """The environments to collect in; closed in the end, but for the user's own objects."""
    parallel = config.parallel and (config.envs > 1 or config.overlap)
    adapter = envs.Adapter.open(env, config.envs, parallel=parallel, timeout=config.worker_timeout)
    try:
        yield adapter
    finally:
        if not isinstance(env, OBJECTS):
            adapter.close()


def require_environment(env: object) -> None:
    """Refuse to learn without an environment.

    Raises:
        RunError: saying how to give one.
    """
    if env is None:
        raise RunError(
            'there is no environment to learn in; give one: Dreamer("dmc:walker-walk") '
            'or agent.learn("dmc:walker-walk")'
        )
