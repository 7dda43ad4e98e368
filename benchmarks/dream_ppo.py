"""Stable-Baselines3's PPO, learning inside a world model, scored in the real environment.

PPO sees the model's states and never the environment; its score there stands beside random's and
that of the agent whose dream it is. Written as one line of JSON.

python benchmarks/dream_ppo.py zoo:dreamerv3-dmc-cartpole-swingup --steps 100000
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import agentzoo
from agentzoo.runtime import evaluate, evaluate_random, load_policy, make_env
from agentzoo.runtime.evaluation.rollout import bootstrap
from agentzoo.runtime.world import DreamEnv, World, WorldObservation, has_world, load_world

STARTS = 64  # real first observations that dreams begin at
DREAMS = 8  # at once


def dreams(world: World, horizon: int) -> Callable[[], gym.Env[Any, Any]]:
    env = make_env(world.spec.env)
    seen = [env.reset(seed=1000 + seed)[0] for seed in range(STARTS)]
    env.close()
    starts = {key: np.stack([one[key] for one in seen]) for key in seen[0]}
    return lambda: DreamEnv(world, starts, horizon=horizon)


def real_returns(model: PPO, world: World, episodes: int) -> list[float]:
    env = WorldObservation(make_env(world.spec.env), world)
    returns = []
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("agent")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(given.agent)
        if not (bundle.is_dir() and has_world(bundle)):
            bundle = agentzoo.load(given.agent).export(Path(folder) / "bundle", world=True)
        world, policy = load_world(bundle), load_policy(bundle)
    env = DummyVecEnv([dreams(world, given.horizon)] * DREAMS)
    model = PPO("MlpPolicy", env, n_steps=256, batch_size=256, seed=given.seed, device="cpu")
    started = time.monotonic()
    model.learn(given.steps)
    seconds = time.monotonic() - started
    scores = real_returns(model, world, given.episodes)
    random = evaluate_random(world.spec.env, episodes=given.episodes)
    theirs = evaluate(policy, episodes=given.episodes)
    line = {
        "agent": given.agent,
        "env": world.spec.env,
        "dreamed_steps": given.steps,
        "seconds": round(seconds, 1),
        "ppo": [float(np.mean(scores)), *bootstrap(scores)],
        "random": [random.mean, *random.interval],
        "policy": [theirs.mean, *theirs.interval],
        "episodes": given.episodes,
    }
    print(json.dumps({k: np.round(v, 1).tolist() if isinstance(v, list) else v
                      for k, v in line.items()}))  # fmt: skip


if __name__ == "__main__":
    main()
