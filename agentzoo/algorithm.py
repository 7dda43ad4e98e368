"""The seam between agents and everything else: types, the Algorithm protocol, and THE timeline.

step t          0      1      2      3          one environment, one episode of 4 observations
obs             o0     o1     o2     o3
is_first        1      0      0      0          carry and prev_action are zeroed before o_t is used
is_last         0      0      0      1          the episode ended here, for whatever reason
is_terminal     0      0      0      0/1        1 only if `terminated`, never for a time limit
reward          0      r1     r2     r3         received on arriving at o_t, summed over repeats
action          a0     a1     a2     (unused)   chosen after seeing o_t      - what replay stores
prev_action     0      a0     a1     a2         led to o_t                   - what models consume

imagination: states[:, t] --actions[:, t]--> states[:, t+1];  states (N, H+1), actions (N, H)
lambda_return(reward, discount, next_value, lam) -> (N, H): every input describes the move t -> t+1

Shape letters, here and in every docstring: `B` batch, `T` sequence, `N = B*T` imagination starts,
`H` horizon, `D` deter, `S` stoch groups, `K` classes, `E` embed, `F = D + S*K` feat, `A` action in
model units, `G` blocks, `J` planner candidates, `h w c` image (lower case: `H` is the horizon).
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from agentzoo.runtime.spec import ActionSpec, ColumnSpec, NoiseSpec, PlanSpec, TensorSpec

from .ranks import Ranks, ranks
from .replay.columns import Batch, Transitions
from .replay.samplers import Sampler

Carry = dict[str, Tensor]  # always holds "prev_action" (B, A) in model units
Obs = dict[str, Tensor]  # raw observations (B, ...) and "is_first" (B,) bool
Noise = Mapping[str, Tensor]  # name -> (B, *shape)
Metrics = dict[str, Tensor]  # scalars, left on the device
WriteBack = dict[str, Tensor]  # mutable replay columns (B, T, ...) of the batch; often empty


class DelayedValue(NamedTuple):
    """A value for a stored transition: the one `back` before the newest of `env`."""

    env: int  # the environment's index, one of this decision's where `back` is 0
    back: int  # 0 is the transition being stored now
    values: Mapping[str, np.ndarray | float | int | bool]


class NoiseSource:
    """Random tensors for one update, on one device, from one seeded generator.

    Update k of a run draws from a generator seeded by (run seed, k), so a resumed run needs no
    saved generator state. Several learners draw the whole batch's numbers, and each takes those of
    its own sequences.
    """

    def __init__(
        self, seed: int, device: torch.device | str = "cpu", *, ranks: Ranks | None = None
    ) -> None:
        """Start the stream of `seed` on `device`; `ranks` are the learners that share a batch."""
        self.device, self.ranks = torch.device(device), ranks or Ranks()
        self.generator = torch.Generator(self.device)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Start the stream of `seed`, as a new source would."""
        self.generator.manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 of `shape`, whose first axis is the batch or made of it."""
        whole = self._whole(shape)
        return self.ranks.share(torch.randn(whole, generator=self.generator, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1) of `shape`, whose first axis is the batch or made of it."""
        whole = self._whole(shape)
        return self.ranks.share(torch.rand(whole, generator=self.generator, device=self.device))

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of all learners' draw."""
        return shape if self.ranks.count == 1 else (self.ranks.count * shape[0], *shape[1:])


def same_for_all(noise: NoiseSource) -> NoiseSource:
    """The same stream of numbers, undivided: every learner draws all of them."""
    if ranks().count == 1:
        return noise
    undivided = copy(noise)
    undivided.ranks = Ranks()
    return undivided


@runtime_checkable
class Algorithm(Protocol):
    """One agent's networks, acting step and gradient step; an nn.Module.

    Built as `Algorithm(obs: Mapping[str, ObsSpec], action: ActionSpec, config)`. Holds no
    environment, replay, counters or files. Optimiser state is kept in registered buffers or in
    `optimizers()` so that a checkpoint finds it.
    """

    noise_spec: Mapping[str, NoiseSpec]  # what step and explore draw, by name
    carry_spec: Mapping[str, TensorSpec]
    columns: Mapping[str, ColumnSpec]  # replay columns beyond the standard ones; often empty
    sampler: Sampler  # which windows of replay a batch is made of

    def initial(self, batch: int) -> Carry:
        """The carry before the first observation; zeros or learned."""
        ...

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Observe and act: pure, resets where is_first, gives the environment's own action.

        `deterministic` is (B,) bool and concerns the action only. The new carry's `prev_action` is
        the action in model units.
        """
        ...

    def explore(
        self, carry: Carry, noise: Noise, env_step: int, total_steps: int
    ) -> tuple[Carry, Tensor]:
        """Training only: perturb the action in the carry; the new carry and the env's action.

        `env_step` of `total_steps` environment steps of the run are over.
        """
        ...

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step of everything that learns."""
        ...

    def optimizers(self) -> "Mapping[str, Stateful]":
        """The holders of optimiser state, by name, for checkpoints."""
        ...


@runtime_checkable
class Annotating(Protocol):
    """Algorithms that add columns to the transitions they collect (latents, late rewards)."""

    def annotate(
        self, transitions: Transitions, envs: Sequence[int], carry: Carry, state: object
    ) -> tuple[Transitions, Sequence[DelayedValue], object]:
        """Derived columns for this decision's transitions, values for earlier ones, own state.

        Transition i is of environment `envs[i]`, and has the side observations too, which neither
        `step` nor replay gets; `carry` is what the step left for the transitions, latents
        included. `state` is None at the start of a run and after a checkpoint, where every
        environment starts an episode; `is_first` says where to reset per-episode state.
        """
        ...


@runtime_checkable
class Measuring(Protocol):
    """Algorithms that keep statistics of the transitions they collect, in buffers."""

    def measure(self, transitions: Transitions, *, learning: bool) -> None:
        """Take in the transitions of one decision; `learning` says that updates have begun."""
        ...


@runtime_checkable
class Pooling(Protocol):
    """Modules that keep statistics of transitions, which several learners bring together."""

    def pool(self) -> None:
        """Take in what every rank has measured since the last call; called after each decision.

        The first call of a sitting finds all ranks with the same numbers.
        """
        ...


@runtime_checkable
class Several(Protocol):
    """Algorithms that say whether several learners may share them.

    Attributes:
        several_learners: whether whatever is no mean over a batch is brought together by `ranks()`.
    """

    several_learners: bool


@runtime_checkable
class Partwise(Protocol):
    """Algorithms that can learn in some of their parts and keep the others as they are."""

    def learn_only(self, parts: Sequence[str]) -> None:
        """Give only these children of the module gradients, all of them where `parts` is empty.

        Optimisers begin afresh. Statistics and slow copies of the other parts stay, too.
        """
        ...


@runtime_checkable
class Choosing(Protocol):
    """Algorithms that make discrete choices in a step: a class, the best of n samples."""

    def margin(self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor) -> Tensor:
        """Margin of the step's closest choice, relative to its scores: (B,).

        Two implementations of one step agree to a tolerance relative to max(1, |number|), so they
        may choose otherwise where (best - second) / max(1, |best|, |second|) is below it; that is
        the unit. inf where the step makes no choice. `blocks.distributions.top2_margin` is it.
        """
        ...


@runtime_checkable
class Probing(Protocol):
    """Algorithms that have more of a step compared than its outcome.

    Values of candidates, logits: numbers that show a wrong graph before an action does. They are
    outputs of the step's graph, stand in the golden trace, and are compared by `verify`.
    """

    probes: Mapping[str, TensorSpec]

    def probe(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> Mapping[str, Tensor]:
        """(B, *shape) of each name in `probes`; pure, as `step` is, and of the same step."""
        ...


@runtime_checkable
class Imagining(Protocol):
    """Algorithms that can show what they expect to see."""

    def open_loop(self, batch: Batch, noise: NoiseSource, context: int = 5) -> dict[str, Tensor]:
        """Observations by key: seen for `context` steps of each sequence, imagined after.

        (B, T, h, w, c) in [0, 1] for images, (B, T, n) for vectors.
        """
        ...


@runtime_checkable
class PlanningAlgorithm(Algorithm, Protocol):
    """Acts by planning: `step` is `observe`, then the planner that `plan_spec` names.

    A planner with heads asks for more: `Continuing`, `Valuing`, `Proposing`.
    """

    action: ActionSpec

    @property
    def plan_spec(self) -> PlanSpec:
        """The planner and its settings; a plain attribute will do."""
        ...

    def observe(self, carry: Carry, obs: Obs, noise: Noise) -> Carry:
        """The filtering half of a step, exported as observe.onnx."""
        ...

    def imagine(self, carry: Carry, action: Tensor, noise: Noise) -> tuple[Carry, Tensor]:
        """One imagined step, exported as score.onnx: the next carry and the reward (N,).

        The batch holds candidates. Reads no `prev_action` and no plan; `noise` holds the tensors of
        the role `score`.
        """
        ...


@runtime_checkable
class Continuing(Protocol):
    """Planning algorithms with the head `continue`."""

    def cont(self, carry: Carry) -> Tensor:
        """(N,) probability that the episode goes on at an imagined state; part of score.onnx."""
        ...


@runtime_checkable
class Valuing(Protocol):
    """Planning algorithms with the head `value`."""

    def value(self, carry: Carry, noise: Noise) -> Tensor:
        """(N,) expected return from an imagined state, exported as value.onnx.

        `noise` holds the tensors of the roles `value` and `shared`.
        """
        ...


@runtime_checkable
class Proposing(Protocol):
    """Planning algorithms with the head `policy`."""

    def policy(self, carry: Carry, noise: Noise, deterministic: Tensor) -> Tensor:
        """(N, A) actions in model units at imagined states, exported as propose.onnx.

        `noise` holds the tensors of the role `policy`; `deterministic` (N,) asks for the mode.
        """
        ...


@runtime_checkable
class WorldModel(Protocol):
    """Algorithms whose world model can be called from outside; all of ours.

    A carry of N batch elements holds the state; `prev_action` is not read. Says more where it is
    `DreamActing`, `DreamChoosing` or `Spreading`, too.
    """

    def dream(self, carry: Carry, action: Tensor, noise: Noise) -> Carry:
        """One step of the prior: the state, without an action, that an action (N, A) leads to."""
        ...

    def decode(self, carry: Carry) -> dict[str, Tensor]:
        """Observations by key from the state: (N, h, w, c) in [0, 1], and (N, n)."""
        ...

    def judge(self, carry: Carry) -> dict[str, Tensor]:
        """Predictions: `reward` on arriving, `continue` and `value`, those the agent has: (N,)."""
        ...


@runtime_checkable
class DreamActing(Protocol):
    """World models whose agent has a policy network; without one it plans."""

    def propose(self, carry: Carry, noise: Noise, deterministic: Tensor) -> Tensor:
        """(N, A) actions in model units that the policy takes in a state."""
        ...


@runtime_checkable
class DreamChoosing(Protocol):
    """World models that make discrete choices in an imagined step."""

    def dream_margin(
        self, carry: Carry, action: Tensor, noise: Noise, deterministic: Tensor
    ) -> Tensor:
        """(N,) by how much an imagined step's closest choice was made, as `Choosing.margin`."""
        ...


@runtime_checkable
class Spreading(Protocol):
    """World models whose judgements change by more than what they are computed from."""

    def judge_spread(self, carry: Carry) -> dict[str, Tensor]:
        """(N,) by a judgement's name: its change where what it is computed from changes by 1."""
        ...


class Stateful(Protocol):
    """An object that saves itself as flat tensors by name and reads them back strictly."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Read tensors back, exactly the same names and shapes."""
        ...


HEADS: Mapping[str, type] = {"continue": Continuing, "value": Valuing, "policy": Proposing}


def missing_parts(network: object) -> list[str]:
    """Missing parts of an algorithm, as "part of Protocol"; empty where it is whole.

    One that has a `plan_spec` has to plan, and to have the heads that its planner names.
    """
    wanted: list[type] = [Algorithm]
    if hasattr(network, "plan_spec"):
        wanted = [PlanningAlgorithm]
        if isinstance(network, PlanningAlgorithm):
            wanted += [HEADS[head] for head in network.plan_spec.heads]
    lacking: list[str] = []
    for protocol in wanted:
        parts = {name for one in protocol.__mro__ for name in _parts(one)}
        found = [name for name in sorted(parts) if not hasattr(network, name)]
        lacking += [f"{name} of {protocol.__name__}" for name in found]
    return lacking


def _parts(protocol: type) -> list[str]:
    if not getattr(protocol, "_is_protocol", False):
        return []
    methods = [n for n, one in vars(protocol).items() if callable(one) or isinstance(one, property)]
    return [n for n in (*methods, *protocol.__annotations__) if not n.startswith("_")]


def module(algorithm: Algorithm) -> nn.Module:
    """The algorithm as the nn.Module it is."""
    assert isinstance(algorithm, nn.Module), type(algorithm)
    return algorithm
