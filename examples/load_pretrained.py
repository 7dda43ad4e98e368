"""Run a policy that came with the package, without PyTorch.

python examples/load_pretrained.py
"""

import sys

from agentzoo.hub import load_policy
from agentzoo.runtime import evaluate


def main(where: str = "zoo:dreamer-dmc-cartpole-swingup", episodes: int = 3) -> float:
    policy = load_policy(where)  # or "me/dreamer-dmc-walker-walk@main", from the Hugging Face Hub
    score = evaluate(policy, episodes=episodes, progress=True)
    print(f"{policy.spec.agent} on {policy.spec.env}: {score.mean:.1f}")
    return score.mean


if __name__ == "__main__":
    main(*sys.argv[1:2])
