"""Any environment in Gymnasium's registry: `gym:CartPole-v1`, `gym:ale_py:ALE/Pong-v5`."""

from importlib import import_module
from typing import cast

import gymnasium

from ..errors import EnvironmentStringError, SpaceError, nearest
from ..policy.spaces import Kind
from .observe import Observe, is_nested
from .repeat import Repeat
from .suite import REPEAT, Env, Key, Settings, Suite

CLASSIC_CONTROL = {
    "Acrobot": ("cos 1", "sin 1", "cos 2", "sin 2", "velocity 1", "velocity 2"),
    "CartPole": ("position", "velocity", "angle", "angular velocity"),
    "MountainCar": ("position", "velocity"),
    "MountainCarContinuous": ("position", "velocity"),
    "Pendulum": ("cos", "sin", "angular velocity"),
}


def canonical(task: str) -> str:
    """The id as it was given, if Gymnasium knows it; `module:Id-v0` is looked up when it is made.

    Raises:
        EnvironmentStringError: if the id is unknown.
    """
    if ":" in task:
        return task
    try:
        gymnasium.spec(task)
    except gymnasium.error.Error as error:
        raise EnvironmentStringError(
            f'"gym:{task}" is not in Gymnasium\'s registry ({error}); '
            f"{nearest(task, gymnasium.registry, 'ids')}"
        ) from error
    return task


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    """Make it through `gymnasium.make`, after importing the module of a `module:Id-v0`.

    Raises:
        EnvironmentStringError: if the module does not exist, or does not register the id.
    """
    if ":" in task:
        task = _imported(task)
    limit = settings.get("max_episode_steps")
    env = gymnasium.make(
        task,
        render_mode=render_mode,
        max_episode_steps=None if limit is None else int(limit),
        disable_env_checker=True,  # the adapter checks what matters, at each step
    )
    repeat = int(settings["repeat"])
    return observed(Repeat(env, repeat) if repeat > 1 else env, settings)


def observed(env: Env, settings: Settings) -> Env:
    """The environment with the keys, the size and the kind that settings say, if they say any.

    Nested observations are laid flat in any case.

    Raises:
        EnvironmentStringError: if the environment has no such observations.
    """
    said = {name: settings[name] for name in ("keys", "size", "kind") if name in settings}
    if not said and not is_nested(env.observation_space):
        return env
    keys, size, kind = said.get("keys"), said.get("size"), said.get("kind")
    try:
        return Observe(
            env,
            keys=None if keys is None else str(keys).split("+"),
            size=None if size is None else int(size),
            kind=cast("Kind | None", kind),
        )
    except SpaceError as error:
        asked = ", ".join(f"{name}={value}" for name, value in said.items())
        raise EnvironmentStringError(f"with {asked or 'this environment'}: {error}") from error


def dimensions(task: str) -> dict[str, tuple[str, ...]]:
    """Names of what is observed in classic control, as Gymnasium's pages list it."""
    known = CLASSIC_CONTROL.get(task.partition("-v")[0])
    return {"observation": known} if known else {}


def _imported(task: str) -> str:
    module, _, name = task.rpartition(":")
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        raise EnvironmentStringError(
            f'"gym:{task}" needs the module "{module}", which cannot be imported ({error}); '
            "install it, or leave the prefix out"
        ) from error
    return canonical(name)


OBSERVED = (  # what is done to observations; nothing where they are left out
    Key(name="keys", default=None),  # key+key
    Key(name="size", kind=int, default=None, least=8, most=1024),
    Key(name="kind", default=None, allowed=("image", "vector")),
)
SUITE = Suite(
    name="gym",
    keys=(
        Key(name="repeat", kind=int, default=1, least=1, most=REPEAT),
        Key(name="max_episode_steps", kind=int, default=None, least=1),  # Gymnasium's own if open
        *OBSERVED,
    ),
    canonical=canonical,
    make=make,
    dimensions=dimensions,
)
