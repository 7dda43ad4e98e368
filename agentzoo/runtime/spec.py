"""Specs of what a policy reads, keeps, draws and gives, shared by training and serving.

These dataclasses stand in a bundle's manifest.json as plain JSON and are all that the runtime knows
of an agent. Shapes never include the batch axis.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from .strict_json import read_fields, write_fields

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

    `mutable` columns may be written after their transition was stored (latents, late rewards).
    """

    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    mutable: bool = False


NoiseRole = Literal[
    "latent", "action", "dequantise", "plan", "score", "value", "shared", "policy", "elite",
    "perturb", "explore",
]  # fmt: skip
PLANNED = ("plan", "score", "value", "shared", "policy", "elite", "perturb")  # a planner's own
MEMORY = "plan"  # the carry's entry in which a planner keeps its plan (H, A)


@dataclass(frozen=True, kw_only=True)
class NoiseSpec:
    """One noise tensor a step consumes: its shape per batch element, its kind and what it is for.

    Roles: `latent`, `action` and `dequantise` go into the step graph. The following are a
    planner's; their shape here is without the leading axes that the planner's settings say
    (`PlanSpec.axes`): `plan` candidates, `score` imagined steps, `value` the value at the horizon,
    `shared` the value too, but one draw for all candidates, `policy` the policy's actions, `elite`
    the choice of an elite, `perturb` noise on the chosen action. `explore` exists in training only
    and is never exported.
    """

    shape: tuple[int, ...]
    kind: Literal["normal", "uniform"] = "normal"
    role: NoiseRole = "latent"


@dataclass(frozen=True, kw_only=True)
class CEMSpec:
    """The cross-entropy planner's settings (Hafner et al. 2019, arXiv:1811.04551, appendix A)."""

    horizon: int = 12
    candidates: int = 1000
    elites: int = 100
    iterations: int = 10

    @property
    def discount(self) -> float:
        """Rewards are added up as they are."""
        return 1.0

    @property
    def heads(self) -> tuple[str, ...]:
        """No heads: only imagined steps are asked for."""
        return ()

    @property
    def idle(self) -> "CEMSpec":
        """Settings that draw and search nothing."""
        return replace(self, iterations=0)

    def axes(self, role: str) -> tuple[int, ...]:
        """The leading axes of a noise tensor of this role, within a batch element."""
        lead = (self.iterations, self.candidates, self.horizon)
        return lead if role in ("plan", "score") else ()

    def memory(self, size: int) -> dict[str, TensorSpec]:
        """The planner's part of the carry: nothing."""
        return {}

    def needs(self, size: int) -> dict[str, tuple[int, ...]]:
        """Shape of the one noise tensor that there has to be of a role."""
        return {"plan": (size,)}


@dataclass(frozen=True, kw_only=True)
class MPPISpec:
    """Settings of model predictive path integral control, as TD-MPC2 plans.

    Attributes:
        driver: tells it from the cross-entropy planner in a manifest.
        heads: what the agent's model has beyond imagined rewards: `continue`, whether the episode
            goes on; `value`, of the last state; `policy`, for proposals.
        horizon: H, imagined steps.
        candidates: J, action sequences in an iteration.
        elites: K, sequences that the next iteration's mean and spread come from.
        iterations: I; 0 leaves the search out, and the policy acts by itself.
        proposals: P, candidates that are the policy's.
        discount: of a step.
        temperature: of the elites' weights exp(temperature * return).
        min_std: smallest spread of an action.
        max_std: largest one, and the first.

    Source: Hansen et al. 2024 (arXiv:2310.16828), section 3.2; nicklashansen/tdmpc2 config.yaml.
    """

    driver: Literal["mppi"] = "mppi"
    heads: tuple[Literal["continue", "value", "policy"], ...] = ()
    horizon: int = 3
    candidates: int = 512
    elites: int = 64
    iterations: int = 6
    proposals: int = 0
    discount: float = 0.99
    temperature: float = 0.5
    min_std: float = 0.05
    max_std: float = 2.0

    @property
    def idle(self) -> "MPPISpec":
        """Settings that draw and search nothing."""
        return replace(self, iterations=0, proposals=0)

    def axes(self, role: str) -> tuple[int, ...]:
        """The leading axes of a noise tensor of this role, within a batch element."""
        rounds, candidates, horizon = self.iterations, self.candidates, self.horizon
        lead = {
            "plan": (rounds, candidates, horizon),
            # without a search the policy may still imagine, but does not
            "score": (rounds, candidates, horizon),
            "value": (rounds, candidates),
            "shared": (rounds,),
            "policy": (self.proposals, horizon),
            "elite": (self.elites,),
        }
        return lead.get(role, ())

    def memory(self, size: int) -> dict[str, TensorSpec]:
        """The planner's part of the carry: the plan that the next one starts from."""
        return {MEMORY: TensorSpec(shape=(self.horizon, size))}

    def needs(self, size: int) -> dict[str, tuple[int, ...]]:
        """Shape of the one noise tensor that there has to be of a role."""
        own: dict[str, tuple[int, ...]] = {"plan": (size,), "elite": (), "perturb": (size,)}
        return {**own, "policy": (size,)} if "policy" in self.heads else own


PlanSpec = CEMSpec | MPPISpec


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
    """Specification of a policy: what it reads, keeps between steps, draws and gives.

    Attributes:
        agent: class name of the agent ("Dreamer").
        env: resolved environment string, or "" when the agent learned on a user's own object.
        obs: observations by key; a bare Box has the key "observation".
        action: the environment's action.
        carry: recurrent tensors by name, perhaps none; a `prev_action` is in model units, and
            planners and world models have one.
        noise: noise tensors by name, `explore` ones left out.
        deterministic: the paper's evaluation protocol; used where the caller says nothing.
        plan: the planner's settings for planning agents, else None.
        precision: numeric precision the weights were trained in.
        seed: keys the noise where the caller says nothing.
        probes: outputs of the step's graph beside its outcome, for comparison alone.
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
    # younger than format 1: left out of a manifest where there are none
    probes: Mapping[str, TensorSpec] = field(
        default_factory=dict[str, TensorSpec], metadata={"optional": True}
    )

    def to_json(self) -> dict[str, object]:
        """A plain JSON object; `PolicySpec.from_json` reads it back."""
        return write_fields(self)

    @classmethod
    def from_json(cls, value: object) -> "PolicySpec":
        """Read what `to_json` gave, strictly: every field, no other one, each of its own type.

        Raises:
            BundleError: naming the field, what stands there and what was expected.
        """
        return read_fields(cls, value, "policy")
