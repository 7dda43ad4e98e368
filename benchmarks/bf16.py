"""Updates in bfloat16 beside float32 on a CPU: their time, and their losses over 200 updates.

    OMP_NUM_THREADS=1 python benchmarks/bf16.py [--cases dreamer_v3-1m-images ...] [--rounds 3]
    OMP_NUM_THREADS=1 python benchmarks/bf16.py --losses [--cases ...] [--updates 200]

Time is processor time of one thread, so that it holds on a machine that others use: an update of
each precision in every round, on the same prepared random batches. `precision="auto"` goes by this
table (agentzoo/precision.py).

--losses learns from transitions that random actions made on cartpole-swingup, seeds 0, 1 and 2 in
both precisions; a seed draws the weights, the windows and the noise. A line has the mean of the
last 50 updates for each seed, float32's spread (largest less smallest) and the distance of the two
means.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import mean, median
from time import process_time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gpu.cases import ACTION_SIZE, Pictures, random_batch
from models import STATE_SIZE, seconds, setting

from agentzoo import TDMPC2, Dreamer, DreamerV2, DreamerV3
from agentzoo.agent import Agent
from agentzoo.algorithm import Batch, NoiseSource
from agentzoo.environment import open_environment

PRECISIONS = ("fp32", "bf16")
SEEDS = (0, 1, 2)
DECISIONS = 2_000  # random ones that --losses learns from
LAST = 50  # updates whose mean counts
SMALL = {"batch_size": 8, "batch_length": 17}  # batches of --losses
# settings there: of DreamerV3 200 updates as published only warm up, TD-MPC2's batch is small
HERE: Mapping[type[Agent], Mapping[str, Any]] = {
    DreamerV3: {**SMALL, "lr": 1e-3, "warmup": 20},
    TDMPC2: {},
}
TIMES = """\
| case | float32, s: median (min) | bfloat16, s | times: median (least, most) |
|---|---:|---:|---:|"""
LOSSES = """\
| case | loss | float32, seeds 0, 1, 2 | bfloat16 | spread of float32 | means differ by |
|---|---|---|---|---:|---:|"""


class Numbers(gym.Env[np.ndarray, np.ndarray]):
    """A world with walker-walk's spaces of numbers, for its spaces alone."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (ACTION_SIZE,), np.float32)


class GreyPictures(gym.Env[np.ndarray, int]):
    """A world with Atari's spaces, for its spaces alone."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 1), np.uint8)
    action_space = gym.spaces.Discrete(18)


@dataclass(frozen=True)
class Case:
    """An agent at the sizes of a preset.

    Attributes:
        agent: its class.
        world: makes an environment of the spaces.
        preset: its name.
        fields: settings beyond the preset's.
    """

    agent: type[Agent]
    world: type[gym.Env[Any, Any]]
    preset: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def build(self, env: Any, precision: str, seed: int = 0, **fields: Any) -> Agent:
        """The agent in one precision, with the weights of a seed."""
        given = {**self.fields, **fields, "precision": precision}
        return self.agent(env, preset=self.preset, device="cpu", seed=seed, **given)


PAPER = {"batch_size": 16, "batch_length": 65}  # of DreamerV3: a transition of context before 64
CASES = {
    "dreamer_v3-1m-state": Case(DreamerV3, Numbers, "state", PAPER),
    "dreamer_v3-1m-images": Case(DreamerV3, Pictures, "pixels", {**PAPER, "size": "1m"}),
    "dreamer_v3-12m-images": Case(DreamerV3, Pictures, "pixels", PAPER),
    "dreamer_v3-cpu": Case(DreamerV3, Numbers, "cpu"),
    "dreamer_v3-cpu_pixels": Case(DreamerV3, Pictures, "cpu_pixels"),
    "dreamer_v3-debug_pixels": Case(DreamerV3, Pictures, "debug_pixels"),
    "dreamer-dmc_state": Case(Dreamer, Numbers, "dmc_state"),
    "dreamer-dmc_vision": Case(Dreamer, Pictures, "dmc_vision"),
    "dreamer-cpu": Case(Dreamer, Numbers, "cpu"),
    "dreamer-cpu_pixels": Case(Dreamer, Pictures, "cpu_pixels"),
    "dreamer_v2-atari_code": Case(DreamerV2, GreyPictures, "atari_code"),
    "dreamer_v2-cpu": Case(DreamerV2, Numbers, "cpu"),
    "dreamer_v2-cpu_pixels": Case(DreamerV2, Pictures, "cpu_pixels"),
    "tdmpc2-cpu": Case(TDMPC2, Numbers, "cpu"),
    "tdmpc2-cpu_1m": Case(TDMPC2, Numbers, "cpu_1m"),
}


class Updates:
    """An agent's updates on two random batches in turn."""

    def __init__(self, case: Case, precision: str) -> None:
        self.agent = case.build(case.world(), precision)
        self.batches = [self._batch(seed) for seed in range(2)]
        self.done = 0

    def __call__(self) -> None:
        """One update."""
        data = self.batches[self.done % len(self.batches)]
        self.done += 1
        self.agent.algorithm.update(data, NoiseSource(self.done))

    def _batch(self, seed: int) -> Batch:
        transitions, draw = random_batch(self.agent, seed), torch.Generator().manual_seed(seed)
        for key, spec in self.agent.spec.obs.items():
            if spec.kind == "vector":
                transitions[key] = torch.randn(transitions[key].shape, generator=draw)
        if (nvec := self.agent.spec.action.nvec) and len(nvec) == 1:
            chosen = torch.randint(nvec[0], transitions["reward"].shape, generator=draw)
            transitions["prev_action"] = torch.nn.functional.one_hot(chosen, nvec[0]).float()
        return transitions


def timed(name: str, rounds: int) -> str:
    """One line of the table of times."""
    sides = {precision: Updates(CASES[name], precision) for precision in PRECISIONS}
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for turn in range(rounds + 1):
        for precision, update in sides.items():
            took = seconds(update, process_time)
            if turn:  # the first round warms up
                times[precision].append(took)
    ratios = [a / b for a, b in zip(times["fp32"], times["bf16"], strict=True)]
    cells = [f"{median(times[one]):.3f} ({min(times[one]):.3f})" for one in PRECISIONS]
    times_faster = f"{median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
    return f"| {' | '.join([name, *cells, times_faster])} |"


@cache
def played(source: str, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Transitions (DECISIONS, ...) that random actions made, as replay holds them.

    Args:
        source: the environment.
        keys: of its observations.
    """
    env = open_environment(source)
    env.action_space.seed(0)
    columns: dict[str, list[Any]] = {
        name: [] for name in (*keys, "prev_action", "reward", "is_first")
    }
    obs, _ = env.reset(seed=0)
    action, reward, first = np.zeros(env.action_space.shape or (), np.float32), 0.0, True
    for _ in range(DECISIONS):
        seen = [obs[key] for key in keys] if isinstance(obs, dict) else [obs]
        for column, value in zip(columns.values(), (*seen, action, reward, first), strict=True):
            column.append(value)
        action = env.action_space.sample()
        obs, reward, terminated, truncated, _ = env.step(action)
        first = bool(terminated or truncated)
        if first:
            (obs, _), action, reward = env.reset(), np.zeros_like(action), 0.0
    env.close()
    return {name: np.asarray(column) for name, column in columns.items()}


def windows(
    agent: Agent, transitions: Mapping[str, np.ndarray], draw: np.random.Generator
) -> Batch:
    """A batch of random windows of the transitions."""
    size, length = agent.config.batch_size, agent.config.batch_length
    at = draw.integers(0, DECISIONS - length, (size, 1)) + np.arange(length)
    batch = {name: torch.from_numpy(column[at]) for name, column in transitions.items()}
    batch["reward"] = batch["reward"].float()
    batch["is_last"] = batch["is_terminal"] = torch.zeros(size, length, dtype=torch.bool)
    for name, column in agent.algorithm.columns.items():
        shape = size, length, *column.shape
        batch[name] = torch.zeros(shape, dtype=getattr(torch, str(column.dtype)))
    return batch


def learned(case: Case, precision: str, seed: int, updates: int) -> dict[str, float]:
    """Means of the losses in the last updates, by name."""
    kind = "obs=state" if case.world is Numbers else "render=fast"
    fields = HERE.get(case.agent, SMALL)
    agent = case.build(f"dmc:cartpole-swingup?repeat=4&{kind}", precision, seed, **fields)
    transitions = played(agent.env, tuple(agent.spec.obs))
    draw, last = np.random.default_rng(seed), []
    for k in range(updates):
        metrics, _ = agent.algorithm.update(
            windows(agent, transitions, draw), NoiseSource(1_000_000 * seed + k)
        )
        if k >= updates - LAST:
            last.append({n: v.item() for n, v in metrics.items() if n.startswith("loss/")})
    return {name: mean(one[name] for one in last) for name in last[0]}


def losses(name: str, updates: int) -> list[str]:
    """The lines of one case."""
    found = {
        precision: [learned(CASES[name], precision, seed, updates) for seed in SEEDS]
        for precision in PRECISIONS
    }
    return [compared(name, loss, found) for loss in found["fp32"][0]]


def compared(name: str, loss: str, found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """One line: a loss in both precisions."""
    full, half = ([one[loss] for one in found[precision]] for precision in PRECISIONS)
    texts = [", ".join(f"{value:.4g}" for value in values) for values in (full, half)]
    spread, apart = max(full) - min(full), abs(mean(full) - mean(half))
    cells = [name, loss.removeprefix("loss/"), *texts, f"{spread:.3g}", f"{apart:.3g}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Updates in bfloat16 beside float32 on a CPU.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--losses", action="store_true", help="losses instead of times")
    parser.add_argument("--updates", type=int, default=200, help="of --losses")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(setting(1, "torch"), "\n")
    print(LOSSES if given.losses else TIMES, flush=True)
    for name in given.cases:
        lines = losses(name, given.updates) if given.losses else [timed(name, given.rounds)]
        print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
