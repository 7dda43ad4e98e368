"""Algorithms of every agent at toy sizes, and random tensors to call them with."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agentzoo import TDMPC2, Dreamer, DreamerV2, DreamerV3, LSImagine, PlaNet
from agentzoo.agent import Agent
from agentzoo.algorithm import Algorithm, Batch, NoiseSource, PlanningAlgorithm
from agentzoo.config import configure
from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.spec import ActionSpec, ObsSpec

# networks so small that a test of one takes a moment; sizes differ, so that no two are mixed up
TINY: Mapping[type[Agent], Mapping[str, object]] = {
    PlaNet: {
        **PlaNet.presets["debug"], "depth": 2, "deter": 8, "stoch": 3, "hidden": 7, "units": 9,
    },
    Dreamer: {
        **Dreamer.presets["debug"], "depth": 2, "deter": 8, "stoch": 3, "hidden": 7, "units": 9,
        "horizon": 4, "mode_samples": 20,
        "actor_entropy": 0.0,  # the paper has none in the actor's objective
    },
    DreamerV2: {
        **DreamerV2.presets["debug"], "depth": 2, "deter": 8, "stoch": 3, "classes": 4,
        "hidden": 7, "units": 9, "horizon": 4, "imagine_starts": None,
    },
    DreamerV3: {**DreamerV3.presets["debug"], "imag_last": None, "horizon": 4},
    LSImagine: LSImagine.presets["debug"],
    TDMPC2: TDMPC2.presets["debug"],
}  # fmt: skip


def image(side: int = 64, channels: int = 3) -> dict[str, ObsSpec]:
    """The observation `image`."""
    shape = (side, side, channels)
    return {"image": ObsSpec(kind="image", shape=shape, source=shape)}


def vectors(**sizes: int) -> dict[str, ObsSpec]:
    """Vector observations by their keys."""
    return {k: ObsSpec(kind="vector", shape=(n,), source=(n,)) for k, n in sizes.items()}


def box(A: int = 2) -> ActionSpec:
    """A continuous action."""
    return ActionSpec(
        kind="box", size=A, shape=(A,), dtype="float32", low=(-1.0,) * A, high=(1.0,) * A
    )


def discrete(*nvec: int) -> ActionSpec:
    """A discrete action, or several at once."""
    shape = () if len(nvec) == 1 else (len(nvec),)
    kind = "discrete" if len(nvec) == 1 else "multidiscrete"
    return ActionSpec(
        kind=kind, size=sum(nvec), shape=shape, dtype="int64", nvec=nvec, start=(0,) * len(nvec)
    )


STATE = vectors(state=5)
DEPTH = {"depth": ObsSpec(kind="image", shape=(64, 64, 1), source=(64, 64, 1))}
BOTH = {**image(), **STATE, **DEPTH}
CHOICE = {"choice": ObsSpec(kind="onehot", shape=(3,), source=(), nvec=(3,), start=(0,))}
MAPPED = {
    **image(48),
    "map": ObsSpec(kind="image", shape=(48, 48, 1), source=(48, 48, 1)),
}


def build(
    kind: type[Agent],
    obs: Mapping[str, ObsSpec] = STATE,
    action: ActionSpec | None = None,
    **overrides: object,
) -> Any:
    """An agent's algorithm at a toy size, with the same weights in every test."""
    torch.manual_seed(0)
    config = configure(kind.config_class, TINY[kind], overrides, name=kind.__name__)
    algorithm: Any = kind.algorithm_class(obs, action or box(), config)
    for weight in algorithm.parameters():
        if weight.ndim > 1 and not weight.any():  # heads that begin with zero hide mistakes
            torch.nn.init.normal_(weight, std=0.05)
    return algorithm


def random_obs(obs: Mapping[str, ObsSpec], *lead: int) -> dict[str, Tensor]:
    """Observations of any kind."""
    found: dict[str, Tensor] = {}
    for key, spec in obs.items():
        if spec.kind == "image":
            found[key] = torch.randint(0, 256, (*lead, *spec.shape), dtype=torch.uint8)
        elif spec.kind == "vector":
            found[key] = torch.randn(*lead, *spec.shape)
        else:
            found[key] = F.one_hot(torch.randint(0, spec.shape[0], lead), spec.shape[0]).float()
    return found


def random_action(action: ActionSpec, *lead: int) -> Tensor:
    """Actions in model units."""
    if action.kind == "box":
        return torch.rand(*lead, action.size) * 2 - 1
    hot = [F.one_hot(torch.randint(0, n, lead), n) for n in action.nvec]
    return torch.cat(hot, -1).float()


def random_batch(algorithm: Any, obs: Mapping[str, ObsSpec] = STATE, seed: int = 1) -> Batch:
    """Sequences as replay gives them, one with a terminal last transition."""
    torch.manual_seed(seed)
    lead = algorithm.config.batch_size, algorithm.config.batch_length
    names = ("is_first", "is_last", "is_terminal")
    flags = {name: torch.zeros(lead, dtype=torch.bool) for name in names}
    flags["is_terminal"][0, -1] = True
    batch = {
        **random_obs(obs, *lead),
        **flags,
        "prev_action": random_action(algorithm.action, *lead),
        "reward": torch.randn(lead),
    }
    for name, column in algorithm.columns.items():
        values = torch.rand(*lead, *column.shape)
        if column.dtype == "uint8" and len(column.shape) > 1:
            values = values * 256  # an image
        elif not column.dtype.startswith("float"):
            values = values * 2  # a flag, or the index of a class
        batch[name] = values.to(getattr(torch, column.dtype))
    return batch


def random_noise(algorithm: Algorithm, B: int, seed: int = 0) -> dict[str, Tensor]:
    """The noise of a decision of B batch elements, exploration included."""
    plan = algorithm.plan_spec if isinstance(algorithm, PlanningAlgorithm) else None
    explore = {k: one for k, one in algorithm.noise_spec.items() if one.role == "explore"}
    specs = with_plan_axes(algorithm.noise_spec, plan) | explore
    addresses = [(seed, element, 0) for element in range(B)]
    return {name: torch.from_numpy(x) for name, x in draw(specs, addresses).items()}


def acting(obs: Mapping[str, ObsSpec], B: int, is_first: bool = False) -> dict[str, Tensor]:
    """Observations of a decision of B batch elements."""
    return random_obs(obs, B) | {"is_first": torch.full((B,), is_first)}


class ShapesOfNoise(NoiseSource):
    """Random tensors without numbers."""

    def __init__(self) -> None:
        self.device = torch.device("meta")

    def normal(self, *shape: int) -> Tensor:
        """Shape alone."""
        return torch.empty(shape, device=self.device)

    uniform = normal
