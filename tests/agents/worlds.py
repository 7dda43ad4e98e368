"""Small environments for agent tests."""

import gymnasium as gym
import numpy as np


class Steer(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Steer a point to where a mark is: observations by kind, actions by kind, 40 steps.

    Args:
        image: show point and mark as columns of a 64x64 image, besides the vector.
        actions: "box" (a velocity), "discrete" (left, stay, right) or "multidiscrete" (two thirds).
    """

    def __init__(self, *, image: bool = False, actions: str = "box") -> None:
        vector = gym.spaces.Box(-2, 2, (2,), np.float64)
        spaces = {"state": vector}
        if image:
            spaces["image"] = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = {
            "box": gym.spaces.Box(-0.5, 0.5, (1,), np.float32),
            "discrete": gym.spaces.Discrete(3, start=-1),
            "multidiscrete": gym.spaces.MultiDiscrete([3, 2]),
        }[actions]
        self.actions = actions

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        super().reset(seed=seed)
        self.t, (self.point, self.mark) = 0, self.np_random.uniform(-1, 1, 2)
        return self._observe(), {}

    def step(self, action: np.ndarray):
        velocity = {
            "box": lambda: float(action[0]),
            "discrete": lambda: 0.2 * float(action),
            "multidiscrete": lambda: 0.2 * float(action[0] - 1) * float(action[1]),
        }[self.actions]()
        # walls far from the marks: at a wall actions stop to matter, and their gradient is zero
        self.point = float(np.clip(self.point + velocity, -2, 2))
        self.t += 1
        reward = 1 - abs(self.point - self.mark)
        return self._observe(), reward, False, self.t >= 40, {}

    def _observe(self) -> dict[str, np.ndarray]:
        obs = {"state": np.array([self.point, self.mark])}
        if "image" in self.observation_space.spaces:
            frame = np.zeros((64, 64, 3), np.uint8)
            for channel, x in enumerate((self.point, self.mark)):
                left = round((x + 2) * 14)
                frame[:, left : left + 8, channel] = 255
            obs["image"] = frame
        return obs
