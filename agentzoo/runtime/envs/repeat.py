"""Action repeat for environments of any suite."""

from typing import Any, SupportsFloat

import gymnasium as gym

from .backend import step_env
from .success import told_once
from .suite import Env


class Repeat(gym.Wrapper[Any, Any, Any, Any]):
    """Take each action several times, add up the rewards, stop where the episode ends."""

    def __init__(self, env: Env, times: int) -> None:
        """Repeat each action `times` times."""
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One decision; observation and info are those of the last step taken.

        A success that counts if it was reached once is not lost where it was on the way.
        """
        observation, reward, terminated, truncated, info = step_env(self.env, action)
        total, reached = float(reward), told_once(info)
        for _ in range(self.times - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = step_env(self.env, action)
            total += float(reward)
            reached |= told_once(info)
        return observation, total, terminated, truncated, {**info, **reached}
