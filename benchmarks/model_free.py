"""Learn a task by a model-free agent's own library, for those rows of docs/results.md.

python benchmarks/model_free.py sac 'dmc:walker-walk,obs=state,repeat=4' --steps 30000 --seed 0

The library trains with its own defaults (Stable-Baselines3's A2C and SAC, sb3-contrib's QR-DQN and
TQC); steps are environment steps, action repeat included, as in our rows, and exploration's first
episodes count. QR-DQN needs a task with a single choice of action, SAC and TQC need numbers.
The exported bundle plays the 20 episodes that our agents' bundles play. What it leaves lies where
docs/results/build.py looks: ALGORITHM/TASK@sb3/seedK, and the random policy's score beside it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium as gym
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import A2C, SAC
from stable_baselines3.common.callbacks import BaseCallback

import agentzoo
from agentzoo.publish import FIRST_SEED
from agentzoo.runtime import evaluate, evaluate_random, load_policy
from agentzoo.runtime.envs import resolve, settings_of
from agentzoo.runtime.evaluation.results import write_results
from agentzoo.train.logger import Logger

ROOT = Path(__file__).parents[1] / "docs" / "results"
EPISODES = 20
ALGORITHMS = {"a2c": A2C, "qrdqn": QRDQN, "sac": SAC, "tqc": TQC}


class LogEpisodes(BaseCallback):
    """A line of metrics.jsonl for each training episode, exploring, as our own runs have."""

    def __init__(self, logger: Logger, repeat: int) -> None:
        super().__init__()
        self.lines, self.repeat, self.episodes = logger, repeat, 0
        self.total = 0.0

    def _on_step(self) -> bool:
        self.total += float(self.locals["rewards"][0])
        if self.locals["dones"][0]:
            self.episodes += 1
            line = {"time/episodes": self.episodes, "rollout/ep_rew_mean": self.total}
            self.lines.write(self.num_timesteps * self.repeat, line)
            self.total = 0.0
        return True

    def _on_training_end(self) -> None:
        # how far it came: its last bin counts only if it is whole
        self.lines.write(self.num_timesteps * self.repeat, {"time/episodes": self.episodes})


def learn(name: str, env: str, steps: int, seed: int) -> Path:
    """Learn, export, score; the folder of the seed."""
    env = resolve(env)
    repeat = int(settings_of(env)["repeat"])
    task = env.partition(":")[2].partition("?")[0]
    folder = ROOT / name / f"{task}@sb3"
    place = folder / f"seed{seed}"
    made: gym.Env = agentzoo.make_env(env)
    kind = "MultiInputPolicy" if isinstance(made.observation_space, spaces.Dict) else "MlpPolicy"
    model = ALGORITHMS[name](kind, made, seed=seed, device="cpu")
    with TemporaryDirectory() as scratch:
        with Logger(scratch) as logger:
            model.learn(steps // repeat, callback=LogEpisodes(logger, repeat))
        place.mkdir(parents=True, exist_ok=True)
        (place / "metrics.jsonl").write_bytes((Path(scratch) / "metrics.jsonl").read_bytes())
        agentzoo.from_sb3(model, env=env).export(Path(scratch) / "bundle")
        policy = load_policy(Path(scratch) / "bundle")
        score = evaluate(policy, episodes=EPISODES, seed=FIRST_SEED)
    write_results(score, place / "results.json")
    said = f"OMP_NUM_THREADS=1 python benchmarks/model_free.py {name} '{env}'"
    command = f"{said} --steps {steps} --seed {seed}\n"
    (place / "command.txt").write_text(command, encoding="utf-8")
    if not (folder / "random.json").is_file():
        random = evaluate_random(env, episodes=EPISODES, seed=FIRST_SEED)
        write_results(random, folder / "random.json")
    print(f"{name} {task} seed {seed}: {score.mean:.1f} {score.interval}", flush=True)
    return place


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=sorted(ALGORITHMS))
    parser.add_argument("env")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    learn(given.algorithm, given.env, given.steps, given.seed)


if __name__ == "__main__":
    main()
