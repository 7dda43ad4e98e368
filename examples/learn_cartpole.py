"""Learn to swing a pole up, in minutes on two cores.

python examples/learn_cartpole.py
"""

from agentzoo import Dreamer


def main(
    steps: int = 50_000, preset: str = "cpu", folder: str = "cartpole", episodes: int = 10
) -> None:
    agent = Dreamer("dmc:cartpole-swingup,obs=state", preset=preset, seed=0)
    agent.learn(steps)
    score = agent.evaluate(episodes=episodes)
    print(f"mean {score.mean:.1f}, 95 % interval {score.interval}")
    print("a bundle for act_with_onnx.py:", agent.export(folder))


if __name__ == "__main__":
    main()
