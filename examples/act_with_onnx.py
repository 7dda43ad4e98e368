"""Run an exported policy without PyTorch.

python examples/act_with_onnx.py cartpole
"""

import sys

from agentzoo.runtime import load_policy, make_env


def main(folder: str = "cartpole", steps: int = 1_000) -> float:
    policy = load_policy(folder)
    env = make_env(policy.spec.env)
    obs, _ = env.reset(seed=0)
    total, ended = 0.0, False
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
        total, ended = total + float(reward), terminated or truncated
        if ended:
            break
    env.close()
    print(f"{policy.spec.agent} on {policy.spec.env}: {total:.1f}")
    return total


if __name__ == "__main__":
    main(*sys.argv[1:2])
