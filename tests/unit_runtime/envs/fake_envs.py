"""Environments that worker processes import: a countdown, and ones that break."""

import ctypes
import os
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Countdown(gym.Env[np.ndarray, int]):
    """Ends after `length` steps; the observation is (seed, step), unseeded resets count on."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 3, *, terminates: bool = True) -> None:
        self.length, self.terminates = length, terminates
        self.seed = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.seed, self.count = self.seed + 1 if seed is None else seed, 0
        return self.observe(), {}

    def step(self, action: int) -> tuple:
        assert self.action_space.contains(action)
        self.count += 1
        over = self.count == self.length
        reward = 10.0 * self.count + action
        return self.observe(), reward, over and self.terminates, over and not self.terminates, {}

    def observe(self) -> Any:
        return np.array([self.seed, self.count], np.float64)


class Named(Countdown):
    """The same with a Dict observation, which vector environments batch by key."""

    observation_space = spaces.Dict({"count": Countdown.observation_space})

    def observe(self) -> Any:
        return {"count": super().observe()}


class Breaking(Countdown):
    """With an odd seed its second step raises, exits, is killed, hangs, or hangs with the GIL."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def step(self, action: int) -> tuple:
        if self.seed % 2 and self.count == 1:
            {
                "raise": lambda: [][1],
                "exit": lambda: os._exit(3),
                "kill": lambda: os.kill(os.getpid(), 9),
                "stop": lambda: os.kill(os.getpid(), 19),
                "hang": lambda: ctypes.PyDLL(None).sleep(1000),
            }[self.how]()
        return super().step(action)


class Unmakeable(Countdown):
    """Cannot be made."""

    def __init__(self) -> None:
        super().__init__()
        raise OSError("no display")


class Telling(Countdown):
    """Observes the process it is in: its id, and how many threads it may use."""

    def observe(self) -> Any:
        return np.array([os.getpid(), float(os.environ.get("OMP_NUM_THREADS", 0))])


class Mortal(Countdown):
    """Episodes of 25 steps; the process that finds a file in its twentieth is killed."""

    def __init__(self, file: str | None) -> None:
        super().__init__(25)
        self.file, self.resets = file, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        self.resets += 1
        if self.file is not None and self.resets == 20:
            with suppress(FileNotFoundError):  # another process was first
                os.remove(self.file)
                os.kill(os.getpid(), 9)
        return super().reset(seed=seed, options=options)


class Marking(Countdown):
    """Adds a letter to a file for each reset and step; the file has its process's number."""

    def __init__(self, folder: str) -> None:
        super().__init__(25)
        self.folder = folder

    def observe(self) -> Any:
        with open(os.path.join(self.folder, str(os.getpid())), "a") as file:
            file.write("x")
        return super().observe()


class Watched(Countdown):
    """Gives its count twice as a side observation; its world is lost where `file` says a count."""

    def __init__(self, file: str | None = None, length: int = 25) -> None:
        super().__init__(length)
        self.file = file
        twice = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.metadata = {"side": spaces.Dict({"twice": twice})}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "side": self.look()}

    def step(self, action: int) -> tuple:
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"side": self.look()}
        if self.is_lost():
            info = {"world_lost": "the lights went out"}
            return observation - 1, 0.0, False, True, info
        return observation, reward, terminated, truncated, info

    def is_lost(self) -> bool:
        """Whether this world takes the file; another environment's process may be faster."""
        if self.file is None:
            return False
        try:
            with open(self.file) as file:
                if int(file.read()) != self.count:
                    return False
            os.remove(self.file)
        except FileNotFoundError:
            return False
        return True

    def look(self) -> dict[str, np.ndarray]:
        return {"twice": np.array([2 * self.count], np.float32)}


def field_with_a_mistake() -> gym.Env:
    """A field whose actors hold two statements on one line, which ends the engine's reader."""
    from agentzoo.runtime.envs import vizdoom_fields as fields
    from agentzoo.runtime.envs.vizdoom import Field

    right = fields.decorate
    fields.decorate = lambda task: right(task).replace("A -1\n    Stop", "A -1 Stop A -1")
    return Field("harvest-tree")


class Doomed(Countdown):
    """No reset comes to an end."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        os._exit(4)
