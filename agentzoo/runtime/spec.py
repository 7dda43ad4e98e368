"""Specs of what a policy reads, keeps, draws and gives, shared by training and serving.

These dataclasses stand in a bundle's manifest.json as plain JSON and are all that the runtime knows
of an agent. Shapes never include the batch axis.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from .strict_json import read_fields

Array = np.ndarray
Arrays = dict[str, np.ndarray]

UNBOUNDED = 1e6  # a Box bound this large or larger counts as none (dm_control's lqr says 1e10)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and dtype of one tensor, without its batch axis."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """One replay column an algorithm adds to the standard ones.

    `mutable` columns may be written after their row was stored (latents, late rewards).
    """

    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    mutable: bool = False


@dataclass(frozen=True, kw_only=True)
class NoiseSpec:
    """One noise tensor a step consumes: its shape per row, its kind and what it is for.

    Roles: `latent`, `action` and `dequantise` go into the step graph; `plan` (proposals) and
    `score` (rollouts) are a planner's, their shape here is without the leading axes (iterations,
    candidates, horizon); `explore` exists in training only and is never exported.
    """

    shape: tuple[int, ...]
    kind: Literal["normal", "uniform"] = "normal"
    role: Literal["latent", "action", "dequantise", "plan", "score", "explore"] = "latent"


@dataclass(frozen=True, kw_only=True)
class PlanSpec:
    """The cross-entropy planner's settings (Hafner et al. 2019, arXiv:1811.04551, appendix A)."""

    horizon: int = 12
    candidates: int = 1000
    elites: int = 100
    iterations: int = 10


@dataclass(frozen=True, kw_only=True)
class ObsSpec:
    """One observation: how the environment gives it and what tensor the step takes.

    Attributes:
        kind: `image` (uint8, h w c), `vector` (float32, flattened) or `onehot` (Discrete and
            MultiDiscrete spaces, joined one-hots).
        shape: of the tensor the step takes.
        source: of what the environment gives; () for a Discrete space.
        nvec: class counts of a `onehot`, one per position of the flattened source.
        start: first index of each position of a `onehot`.
    """

    kind: Literal["image", "vector", "onehot"]
    shape: tuple[int, ...]
    source: tuple[int, ...]
    nvec: tuple[int, ...] = ()
    start: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        """The dtype of the tensor the step takes."""
        return "uint8" if self.kind == "image" else "float32"


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """The environment's action and its size in model units.

    Model units are what agents think in: (A,) floats in [-1, 1] for a Box, joined one-hots for
    Discrete and MultiDiscrete.

    Attributes:
        kind: `box`, `discrete` or `multidiscrete`.
        size: A, the length of an action in model units.
        shape: of the environment's own action; () for Discrete.
        dtype: of the environment's own action.
        low, high: bounds of a box, flattened; infinities become +-1e38 so that JSON holds them.
        nvec: class counts of a discrete or multidiscrete action.
        start: first index of each position of a discrete or multidiscrete action.
    """

    kind: Literal["box", "discrete", "multidiscrete"]
    size: int
    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    nvec: tuple[int, ...] = ()
    start: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """Everything needed to run a policy: what it reads, keeps between steps, draws and gives.

    Attributes:
        agent: class name of the agent ("Dreamer").
        env: resolved environment string, or "" when the agent learned on a user's own object.
        obs: observations by key; a bare Box has the key "observation".
        action: the environment's action.
        carry: recurrent tensors by name; always holds `prev_action` in model units.
        noise: noise tensors by name, `explore` ones left out.
        deterministic: the paper's evaluation protocol; used where the caller says nothing.
        plan: the planner's settings for planning agents, else None.
        precision: numeric precision the weights were trained in.
    """

    agent: str
    env: str
    obs: Mapping[str, ObsSpec]
    action: ActionSpec
    carry: Mapping[str, TensorSpec]
    noise: Mapping[str, NoiseSpec]
    deterministic: bool = True
    plan: PlanSpec | None = None
    precision: str = "fp32"
    seed: int = 0

    def to_json(self) -> dict[str, object]:
        """A plain JSON object; `PolicySpec.from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> "PolicySpec":
        """Read what `to_json` gave, strictly: every field, no other one, each of its own type.

        Raises:
            BundleError: naming the field, what stands there and what was expected.
        """
        return read_fields(cls, value, "policy")
