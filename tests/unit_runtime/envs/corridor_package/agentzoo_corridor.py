"""The suite `corridor:`, written against agentzoo's public names alone: walk right to the end."""

from typing import Any

import gymnasium as gym
import numpy as np

from agentzoo.runtime.envs import Env, Key, Repeat, Settings, Suite, shrunk
from agentzoo.runtime.errors import EnvironmentStringError, nearest

LENGTHS = {"short": 4, "long": 12}
PIXELS = 16  # of a tile


class Corridor(gym.Env[dict[str, np.ndarray], np.int64]):
    """A row of tiles; the picture shows where one stands."""

    render_mode = "rgb_array"

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size
        self.max_episode_steps = 4 * length
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": image})
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.time = 0, 0
        return self._seen(), {}

    def step(self, action: np.int64) -> Any:
        self.time += 1
        self.place = int(np.clip(self.place + (1 if action else -1), 0, self.length - 1))
        done = self.place == self.length - 1
        truncated = self.time >= self.max_episode_steps
        return self._seen(), float(done), done, truncated, {"is_success": done}

    def render(self) -> np.ndarray:
        frame = np.zeros((PIXELS, PIXELS * self.length, 3), np.uint8)
        frame[:, PIXELS * self.place : PIXELS * (self.place + 1), 1] = 255
        return frame

    def _seen(self) -> dict[str, np.ndarray]:
        return {"image": shrunk(self.render(), self.size)}


def canonical(task: str) -> str:
    if task in LENGTHS:
        return task
    known = nearest(task, LENGTHS, "tasks")
    raise EnvironmentStringError(f'"corridor:{task}" is not a task of the corridor; {known}')


def make(task: str, settings: Settings, render_mode: str | None) -> Env:
    env = Corridor(LENGTHS[task], int(settings["size"]))
    return Repeat(env, int(settings["repeat"]))


SUITE = Suite(
    name="corridor",
    keys=(
        Key(name="repeat", kind=int, default=1, least=1),
        Key(name="size", kind=int, default=64, least=8),
    ),
    canonical=canonical,
    make=make,
    package="corridor_engine",
)
