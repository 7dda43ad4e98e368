"""The cases of the GPU benchmarks: agents at the papers' sizes, on random batches of pictures."""

import argparse
import platform
import time
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agentzoo import Dreamer, DreamerV2, DreamerV3, PlaNet
from agentzoo.agent import Agent
from agentzoo.algorithm import Batch

ACTION_SIZE = 6  # walker-walk's


@dataclass(frozen=True)
class Case:
    """An agent at the sizes of a preset.

    Attributes:
        name: in the tables, and on the command line.
        agent: its class.
        preset: for pictures of the DeepMind Control Suite.
        fields: settings beyond the preset's.
    """

    name: str
    agent: type[Agent]
    preset: str = "dmc_vision"
    fields: dict[str, Any] = field(default_factory=dict)

    def build(self, env: Any, device: str, *, debug: bool, **fields: Any) -> Agent:
        """The agent with the weights of seed 0, at debug sizes if asked for."""
        preset, own = ("debug", {}) if debug else (self.preset, self.fields)
        return self.agent(env, preset=preset, device=device, seed=0, **{**own, **fields})


CASES = {
    case.name: case
    for case in (
        Case("dreamer", Dreamer),
        Case("dreamer_v2", DreamerV2),
        Case("planet", PlaNet),
        Case("dreamer_v3_12m", DreamerV3, fields={"size": "12m"}),
        Case("dreamer_v3_200m", DreamerV3, fields={"size": "200m"}),
    )
}


class Pictures(gym.Env[np.ndarray, np.ndarray]):
    """A world with walker-walk's spaces, for its spaces alone."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (ACTION_SIZE,), np.float32)


def random_batch(agent: Agent, seed: int) -> Batch:
    """Transitions as replay gives them, on the agent's device; each window begins an episode."""
    config, rng = agent.config, np.random.default_rng(seed)
    lead = config.batch_size, config.batch_length
    columns = {name: np.zeros(lead, bool) for name in ("is_first", "is_last", "is_terminal")}
    columns["is_first"][:, 0] = True
    columns["reward"] = rng.random(lead, np.float32)
    for key, spec in agent.spec.obs.items():
        columns[key] = rng.integers(0, 256, (*lead, *spec.shape), np.uint8)
    for key in ("action", "prev_action"):
        columns[key] = 2 * rng.random((*lead, agent.spec.action.size), np.float32) - 1
    for key, spec in agent.algorithm.columns.items():
        columns[key] = rng.integers(0, 2, (*lead, *spec.shape)).astype(spec.dtype)
    return {name: torch.from_numpy(column).to(agent.device) for name, column in columns.items()}


def clock(device: torch.device) -> float:
    """Seconds since some moment, when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def setting(device: torch.device) -> str:
    """One line on where the numbers were taken."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def arguments(description: str) -> argparse.ArgumentParser:
    """The options of every one of these scripts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--debug", action="store_true", help="debug sizes, to see that it runs")
    return parser
