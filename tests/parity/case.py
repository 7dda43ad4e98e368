"""A parity case: what an agent's authors' own code computed; README.md tells the keys."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

import agentzoo
from agentzoo.agent import Agent
from agentzoo.agents.tdmpc2 import TDMPC2
from agentzoo.config import configure
from agentzoo.runtime.policy.spaces import action_spec, observation_specs

FOLDER = Path(__file__).parent / "cases"
AGENTS: dict[str, type[Agent]] = {
    "dreamer": agentzoo.Dreamer,
    "planet": agentzoo.PlaNet,
    "dreamer_v2": agentzoo.DreamerV2,
    "dreamer_v3": agentzoo.DreamerV3,
    "tdmpc2": TDMPC2,
}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One `.npz` file, by prefix of its keys."""

    name: str
    arrays: Arrays

    @classmethod
    def read(cls, name: str) -> "Case":
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
            return cls(name, dict(stored))

    def part(self, prefix: str) -> Arrays:
        """The arrays under a prefix, without it."""
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The arrays under a prefix as tensors of their own: nothing of a case changes."""
        return {k: torch.from_numpy(np.array(v)) for k, v in self.part(prefix).items()}

    @property
    def agent(self) -> type[Agent]:
        return AGENTS[str(self.arrays["agent"])]

    @property
    def updates(self) -> int:
        return int(self.arrays["updates"])

    @property
    def flushes_denormals(self) -> bool:
        """The reference of DreamerV3 ran with denormal numbers flushed to zero."""
        return self.agent is agentzoo.DreamerV3

    def build(self, overrides: Mapping[str, object]) -> Any:
        """The algorithm at the case's settings, with the case's weights."""
        settings = {name: value.item() for name, value in self.part("setting/").items()}
        config = configure(self.agent.config_class, settings, overrides)
        shown = {key: space(size) for key, size in self.part("space/").items()}
        action = action_spec(shown.pop("action"))
        algorithm = self.agent.algorithm_class(
            observation_specs(spaces.Dict(shown)), action, config
        )
        state = algorithm.state_dict()
        algorithm.load_state_dict({**state, **self._weights(algorithm)}, strict=True)
        return algorithm

    def _weights(self, algorithm: nn.Module) -> dict[str, Tensor]:
        stored = self.tensors("weight/")
        if stored:
            return stored
        shapes = {name: tuple(p.shape) for name, p in algorithm.named_parameters()}
        return generated(shapes, int(self.arrays["seed"]))


class Script:
    """A noise source that gives the stored draws in their order, and no others."""

    def __init__(self, case: Case) -> None:
        # "0_uniform", "1_normal", ...
        self.left = sorted(case.part("noise/").items())

    def normal(self, *shape: int) -> Tensor:
        return self._next("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        return self._next("uniform", shape)

    def _next(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        name, values = self.left.pop(0)
        assert name.endswith(kind), (name, kind)
        assert values.shape == shape, (name, values.shape, shape)
        return torch.from_numpy(values)


def space(size: np.ndarray) -> spaces.Space[Any]:
    """`n`: a Discrete space; `[h, w, c]`: an image; `[n]`: a vector."""
    if size.ndim == 0:
        return spaces.Discrete(int(size))
    if len(size) == 3:
        return spaces.Box(0, 255, tuple(size), np.uint8)
    return spaces.Box(-1, 1, tuple(size), np.float32)


def generated(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights of a case too large to store: one stream of numbers, parameters in sorted order."""
    rng, weights = np.random.default_rng(seed), {}
    for name in sorted(shapes):
        values = 2 * rng.random(shapes[name]) - 1
        if values.ndim > 1:
            values *= 1.7 / np.sqrt(values[0].size)
        else:
            values = 0.2 * values if name.endswith("bias") else 1 + 0.3 * values
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def denormals_are_flushed() -> bool:
    """Whether this thread counts numbers below 1.2e-38 as zero."""
    return bool(torch.tensor([1e-20]) * torch.tensor([1e-20]) == 0)


@contextmanager
def flushed_denormals(wanted: bool) -> Iterator[bool]:
    """Flush denormals to zero inside, if wanted; gives whether they are. Taken back at the end."""
    before = denormals_are_flushed()
    if wanted:
        torch.set_flush_denormal(True)
    try:
        yield denormals_are_flushed()
    finally:
        torch.set_flush_denormal(before)
