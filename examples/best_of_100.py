"""Act by the best of 100 action sequences, each dreamed with the agent's world model.

python examples/best_of_100.py zoo:dreamerv3-dmc-cartpole-swingup
"""

import sys

import numpy as np

import agentzoo
from agentzoo.runtime import make_env


def main(source: str = "zoo:dreamerv3-dmc-cartpole-swingup", steps: int = 250) -> float:
    agent, rng = agentzoo.load(source), np.random.default_rng(0)
    env = make_env(agent.env)
    obs, _ = env.reset(seed=0)
    state, action, total = None, None, 0.0
    for _ in range(steps):
        state = agent.world.encode(obs, state, actions=action)
        sequences = rng.uniform(-1, 1, (100, 12, *env.action_space.shape))
        dream = agent.world.imagine(state, sequences)
        best = (dream.reward.sum(1) + dream.value[:, -1]).argmax()
        action = dream.actions[best, 0]
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        if terminated or truncated:
            break
    env.close()
    print(f"{source}: {total:.1f} by planning over dreams")
    return total


if __name__ == "__main__":
    main(*sys.argv[1:2])
