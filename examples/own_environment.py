"""Learn in an environment of your own.

python examples/own_environment.py
"""

from typing import Any

import gymnasium as gym
import numpy as np

from agentzoo import Dreamer

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Follow(gym.Env[np.ndarray, np.ndarray]):
    """A point on a line follows a target that stands still for one episode."""

    observation_space = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new target and a new place."""
        super().reset(seed=seed)
        self.steps = 0
        self.point, self.target = self.np_random.uniform(-1, 1, 2)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Step:
        """Move; the reward is the nearness of the target."""
        self.steps += 1
        self.point = float(np.clip(self.point + 0.2 * action[0], -2, 2))
        reward = 1.0 - abs(self.point - self.target)
        return self.observe(), reward, False, self.steps == 100, {}

    def observe(self) -> np.ndarray:
        """Observation: positions of the point and its target."""
        return np.array([self.point, self.target], np.float32)


def main(steps: int = 20_000, preset: str = "cpu", run: str | None = None) -> None:
    agent = Dreamer(Follow(), preset=preset, seed=0)
    agent.learn(steps, run=run)
    score = agent.evaluate(episodes=5)
    print(f"mean {score.mean:.1f}, 95 % interval {score.interval}")


if __name__ == "__main__":
    main()
