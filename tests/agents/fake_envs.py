"""Small environments for agent tests."""

import gymnasium as gym
import numpy as np


class Steer(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Steer a point to where a mark is: observations by kind, actions by kind, 40 steps.

    Args:
        image: show point and mark as bars of a 64x64 image that grow from its left edge, besides
            the vector.
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
                frame[:, : round((x + 2) * 16), channel] = 255
            obs["image"] = frame
        return obs


class Catch(gym.Env[np.ndarray, int]):
    """Catch balls, one after another, for 40 steps: 64x64 grey images alone, three actions.

    A ball falls a row each step from the top of one of four columns; the paddle moves left, stays
    or moves right. The ball counts 1 if the paddle is where it lands, else -1. Where it falls is
    independent of everything before, so who does not look catches one in four on average.

    Args:
        rows: of the grid, 4 or 8; fewer are more balls.
    """

    COLUMNS, STEPS = 4, 40

    def __init__(self, *, rows: int = 8) -> None:
        self.rows = rows
        self.observation_space = gym.spaces.Box(0, 255, (64, 64, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        super().reset(seed=seed)
        self.t, (self.ball, self.paddle) = 0, self.np_random.integers(self.COLUMNS, size=2)
        return self._observe(), {}

    def step(self, action: int):
        self.paddle = int(np.clip(self.paddle + action - 1, 0, self.COLUMNS - 1))
        self.t += 1
        row, reward = self.t % self.rows, 0.0
        if row == self.rows - 1:
            reward = 1.0 if self.paddle == self.ball else -1.0
        elif row == 0:
            self.ball = self.np_random.integers(self.COLUMNS)
        return self._observe(), reward, self.t == self.STEPS - 1, False, {}

    def _observe(self) -> np.ndarray:
        cells = np.zeros((self.rows, self.COLUMNS), np.uint8)
        cells[self.t % self.rows, self.ball] = 255
        cells[-1, self.paddle] = 128 if cells[-1, self.paddle] == 0 else 255
        return cells.repeat(64 // self.rows, 0).repeat(64 // self.COLUMNS, 1)[..., None]
