"""Success rate of random play in the fields of ViZDoom, and decisions until then.

Twenty fields that nobody learns on, 300 decisions of four tics. Each success rate comes with its
95 % interval (Wilson 1927). Run: python benchmarks/vizdoom_random.py --episodes 100
"""

import argparse
import math

from agentzoo.runtime.envs.vizdoom_fields import FAR, TASKS
from agentzoo.runtime.evaluation.rollout import evaluate_random


def interval(successes: int, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a rate, in per cent."""
    rate, share = successes / episodes, z * z / episodes
    middle = (rate + share / 2) / (1 + share)
    half = z * math.sqrt(rate * (1 - rate) / episodes + share / (4 * episodes)) / (1 + share)
    return max(100 * (middle - half), 0.0), min(100 * (middle + half), 100.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100)
    episodes = parser.parse_args().episodes
    print("| task | far | success | 95 % | steps to success |\n|---|---|---|---|---|")
    for task in TASKS:
        for far in FAR:
            found = evaluate_random(f"vizdoom:{task}?far={far}", episodes=episodes).scores
            low, high = interval(round(found["success"] * episodes / 100), episodes)
            rate, steps = found["success"], found["steps_to_success"]
            print(
                f"| {task} | {far} | {rate:.0f} % | {low:.0f} to {high:.0f} | {steps:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
