"""A run by two processes that draw a seed, of an agent with a map network.

Run as `python ranks_maps.py FOLDER` with torchrun's variables set; FOLDER/network is the network's.
"""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from agentzoo import LSImagine


class Pictures(gym.Env[dict[str, np.ndarray], int]):
    """Black pictures; episodes of 20 decisions."""

    observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)})
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        super().reset(seed=seed, options=options)
        self.left = 20
        return {"image": np.zeros((64, 64, 3), np.uint8)}, {}

    def step(self, action: int):
        self.left -= 1
        return {"image": np.zeros((64, 64, 3), np.uint8)}, 0.0, False, self.left == 0, {}


def main(folder: Path) -> None:
    agent = LSImagine(
        Pictures,
        preset="debug",
        device="cpu",
        map_network=str(folder / "network"),
        goal="Cut a tree",
        long_branch=False,
        envs=2,
        prefill=80,
        eval_every=0,
        final_episodes=0,
        report_every=0,
    )
    agent.learn(80, run=folder / "run", log="none", progress=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
