"""MiniGrid: worlds of tiles with keys, doors and goals, as `minigrid:DoorKey-5x5`.

Source: Chevalier-Boisvert et al. 2023 (arXiv:2306.13831); the package minigrid, MIT licence.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import EnvironmentStringError, MissingExtraError, nearest
from ..spec import Array
from .frames import shrunk
from .repeat import Repeat
from .suite import REPEAT, Env, Key, Outcome, Settings, Suite

PREFIX = "MiniGrid-"  # BabyAI- are tasks of language, which agents do not read
UNMET = "MiniGrid-WFC-"  # need packages that minigrid does not ask for
CODES = (11, 6, 4)  # objects, colours, states of a tile


@lru_cache
def tasks() -> Mapping[str, str]:
    """Tasks by their short names -> ids of Gymnasium's registry, each id's newest version.

    Raises:
        MissingExtraError: without the package.
    """
    try:
        import minigrid  # type: ignore[import-untyped] # registers its ids
    except ModuleNotFoundError as error:
        raise MissingExtraError("minigrid", "minigrid") from error
    assert minigrid
    ids = sorted(name for name in gym.registry if name.startswith(PREFIX))
    found = [name for name in ids if not name.startswith(UNMET)]
    return {name.removeprefix(PREFIX).rpartition("-v")[0]: name for name in found}


def canonical(task: str) -> str:
    """The short name of a task: `DoorKey-5x5`; ids are understood.

    Raises:
        EnvironmentStringError: if there is no such task.
        MissingExtraError: without the package.
    """
    known = tasks()
    short = task.removeprefix(PREFIX)
    head, _, version = short.rpartition("-v")
    short = head if version.isdigit() else short
    if short in known:
        return short
    raise EnvironmentStringError(
        f'"minigrid:{task}" is not a task of MiniGrid; {nearest(short, known, "tasks")}'
    )


class Grid(gym.Wrapper[Any, Any, Any, Any]):
    """A world of MiniGrid's with observations that agents read; the mission's text is left out.

    `direction` is where the agent looks, one of four. `image` (size, size, 3) shows its view or the
    whole world; with codes `tiles` has for each tile it sees the object, the colour and the state.
    """

    def __init__(self, env: Env, obs: str, size: int) -> None:
        super().__init__(env)
        self._obs, self._size = obs, size
        world: Any = env.unwrapped
        self.max_episode_steps = int(world.max_steps)
        view: tuple[int, ...] = cast("Any", env.observation_space)["image"].shape
        shown: dict[str, gym.Space[Any]] = {"image": spaces.Box(0, 255, (size, size, 3), np.uint8)}
        if obs == "codes":
            shown = {"tiles": spaces.MultiDiscrete(np.broadcast_to(np.array(CODES), view).copy())}
        self.observation_space = spaces.Dict({**shown, "direction": spaces.Discrete(4)})

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(**kwargs)
        return self._shown(observation), {**info, "is_success": False}

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """One action; `is_success` is whether the world paid for it, which it does at its goal."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        done = {**info, "is_success": bool(terminated and float(reward) > 0)}
        return self._shown(observation), reward, terminated, truncated, done

    def _shown(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        direction = np.int64(observation["direction"])
        if self._obs == "codes":
            return {"tiles": observation["image"].astype(np.int64), "direction": direction}
        world: Any = self.env.unwrapped
        frame: Array = world.get_frame(
            highlight=self._obs == "full", tile_size=world.tile_size, agent_pov=self._obs == "view"
        )
        return {"image": shrunk(np.ascontiguousarray(frame), self._size), "direction": direction}


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    """Make it; `render_mode` is not looked at, since it always can draw."""
    limit = settings.get("max_episode_steps")
    env = gym.make(
        tasks()[task],
        render_mode="rgb_array",
        disable_env_checker=True,
        **({} if limit is None else {"max_steps": int(limit)}),
    )
    grid = Grid(env, str(settings["obs"]), int(settings.get("size", 64)))
    repeat = int(settings["repeat"])
    return Repeat(grid, repeat) if repeat > 1 else grid


def scores(task: str, episodes: Sequence[Outcome]) -> dict[str, float]:
    """Per cent of episodes that reached the goal."""
    reached = [bool(one.info.get("is_success", False)) for one in episodes]
    return {"success": 100 * sum(reached) / len(reached)} if reached else {}


SUITE = Suite(
    name="minigrid",
    keys=(
        Key(name="obs", default="view", allowed=("view", "full", "codes")),
        Key(name="repeat", kind=int, default=1, least=1, most=REPEAT),
        Key(name="max_episode_steps", kind=int, default=None, least=1),  # the task's own if open
        Key(
            name="size",
            kind=int,
            default=64,
            least=8,
            most=512,
            applies=lambda settings: settings["obs"] != "codes",
        ),
    ),
    canonical=canonical,
    make=make,
    scores=scores,
    package="minigrid",
)
