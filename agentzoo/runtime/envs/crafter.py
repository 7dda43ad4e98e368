"""Crafter, a survival game that asks for many skills: `crafter:reward`, `crafter:noreward`.

Source: Hafner 2021 (arXiv:2109.06780), danijar/crafter 1.8.3.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import EnvironmentStringError, EpisodeError, MissingExtraError, nearest
from ..spec import Array, Arrays
from .repeat import Repeat
from .suite import REPEAT, Env, Key, Outcome, Settings, Suite

TASKS = ("noreward", "reward")
FPS = 5  # of a film; the game itself has no clock
RENDER_SIZE = 256  # pixels a side of `render()`


# -- the suite's strings -------------------------------------------------------------------------


def canonical(task: str) -> str:
    """`reward` or `noreward`.

    Raises:
        EnvironmentStringError: if it is neither.
    """
    if task in TASKS:
        return task
    raise EnvironmentStringError(
        f'"crafter:{task}" is not a task of Crafter; {nearest(task, TASKS, "tasks")}'
    )


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    """Make it; `render_mode` is not looked at, since the game always draws."""
    env = Crafter(
        is_rewarded=task == "reward",
        max_episode_steps=int(settings["max_episode_steps"]),
        size=int(settings["size"]),
    )
    repeat = int(settings["repeat"])
    return Repeat(env, repeat) if repeat > 1 else env


def scores(task: str, episodes: Sequence[Outcome]) -> dict[str, float]:
    """Per cent of the episodes that unlocked each achievement, and their geometric mean.

    The paper's rates are those of the training episodes within a million steps.

    Returns:
        `success/NAME` for all 22 achievements, in per cent, and `crafter_score`, in per cent.

    Source: Hafner 2021 (arXiv:2109.06780), section 3: exp(mean(ln(1 + s))) - 1.
    """
    unlocked = [
        {name: count > 0 for name, count in episode.info["achievements"].items()}
        for episode in episodes
    ]
    rates = {
        f"success/{name}": 100.0 * float(np.mean([each[name] for each in unlocked]))
        for name in sorted(unlocked[0])
    }
    return {"crafter_score": crafter_score(list(rates.values())), **rates}


def crafter_score(rates: Sequence[float]) -> float:
    """Geometric mean of success rates in per cent, each plus one, less one."""
    return math.expm1(math.fsum(math.log1p(rate) for rate in rates) / len(rates))


SUITE = Suite(
    name="crafter",
    keys=(
        Key(name="max_episode_steps", kind=int, default=10_000, least=1),
        Key(name="repeat", kind=int, default=1, least=1, most=REPEAT),
        Key(name="size", kind=int, default=64, least=9, most=2048),  # a pixel a field
    ),
    canonical=canonical,
    make=make,
    scores=scores,
)


# -- the environment -----------------------------------------------------------------------------


class Crafter(gym.Env[dict[str, Any], np.int64]):
    """The game behind Gymnasium's interface.

    Observations are a dict of `image` (size, size, 3) uint8. The reward is 1 for each step that
    unlocks achievements, and a tenth of the change in health. Death is a termination, the time
    limit a truncation. `info["achievements"]` counts what was done so often in this episode,
    `info["reward"]` is the reward even where the task pays none.

    The package draws a step's random numbers in the order of a set, which changes with every
    process, and draws some for each picture at night, shown or not. Here creatures are taken in the
    order they came, and `render` leaves the game's numbers alone: a seed is one game. It still is
    another game at another `size`, since what is observed at night is noise, so many numbers a
    picture.

    Attributes:
        game: the package's environment.
        max_episode_steps: after which an episode is truncated.
    """

    render_mode = "rgb_array"

    def __init__(
        self, *, is_rewarded: bool = True, max_episode_steps: int = 10_000, size: int = 64
    ) -> None:
        """Load the game.

        Args:
            is_rewarded: whether rewards are given.
            max_episode_steps: after which an episode is truncated.
            size: pixels a side of the observed image.

        Raises:
            MissingExtraError: if crafter is not installed.
        """
        self.game: Any = _game(size, is_rewarded)
        self.max_episode_steps, self._steps, self._open = max_episode_steps, 0, False
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": image})
        self.action_space = gym.spaces.Discrete(len(self.game.action_names))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start a world; the same seed gives the same one, in every object of this size."""
        super().reset(seed=seed)
        # The package takes a seed at the start only, and counts episodes from there.
        self.game._seed, self.game._episode = int(self.np_random.integers(2**31 - 1)), 0
        self._steps, self._open = 0, True
        image = self.game.reset()
        return {"image": image}, {"achievements": dict(self.game._player.achievements)}

    def step(self, action: np.int64) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises:
            EpisodeError: if no episode is open.
        """
        if not self._open:
            raise EpisodeError("a step was taken outside an episode; call reset first")
        image, reward, _, info = self.game.step(action)
        self._steps += 1
        terminated = info["discount"] == 0
        truncated = not terminated and self._steps >= self.max_episode_steps
        self._open = not (terminated or truncated)
        info["player_pos"] = info["player_pos"].copy()  # the package moves its own
        return {"image": image}, float(reward), terminated, truncated, info

    def render(self) -> Array:
        """The scene now, (256, 256, 3) uint8, whatever is observed."""
        random = self.game._world.random
        state = random.get_state()
        frame: Array = self.game.render((RENDER_SIZE, RENDER_SIZE))
        random.set_state(state)
        return frame

    def close(self) -> None:
        """The object is of no use afterwards."""
        self._open = False


def _game(size: int, is_rewarded: bool) -> Any:
    """The package's environment, whose creatures come and go in an order of their own."""
    try:
        package: Any = import_module("crafter")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "crafter", "crafter") from error

    class Ordered(package.Env):
        def _balance_chunk(self, chunk: Any, objs: Any) -> None:
            place: dict[Any, int] = {each: i for i, each in enumerate(self._world.objects)}
            package.Env._balance_chunk(self, chunk, sorted(objs, key=place.__getitem__))

    # No limit of its own, which would look like a death to who reads `done`.
    return Ordered(size=(size, size), reward=is_rewarded, length=None, seed=0)
