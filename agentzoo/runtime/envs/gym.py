"""Any environment in Gymnasium's registry: `gym:CartPole-v1`, `gym:ale_py:ALE/Pong-v5`."""

from importlib import import_module

import gymnasium

from ..errors import EnvironmentStringError, nearest
from .repeat import Repeat
from .suite import REPEAT, Env, Key, Settings, Suite


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
    return Repeat(env, repeat) if repeat > 1 else env


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


SUITE = Suite(
    name="gym",
    keys=(
        Key(name="repeat", kind=int, default=1, least=1, most=REPEAT),
        Key(name="max_episode_steps", kind=int, default=None, least=1),  # Gymnasium's own if open
    ),
    canonical=canonical,
    make=make,
)
