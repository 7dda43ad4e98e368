"""Train PPO with Stable-Baselines3, and run it without Stable-Baselines3 or PyTorch.

python examples/export_sb3.py
"""

from stable_baselines3 import PPO

import agentzoo
from agentzoo.runtime import evaluate, load_policy


def main(steps: int = 30_000, folder: str = "ppo-cartpole", episodes: int = 10) -> float:
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(steps)
    agentzoo.from_sb3(model).export(folder)
    score = evaluate(load_policy(folder), episodes=episodes)
    print(f"{folder}: {score.mean:.1f} over {episodes} episodes by ONNX Runtime")
    return score.mean


if __name__ == "__main__":
    main()
