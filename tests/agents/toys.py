"""Seven toy recipes, each with one odd demand on the seams; the contract test runs them all.

BestOfMany          its greedy action is the best of 100 samples
TruncatedActor      its action is a truncated normal, inverted from uniform noise
LatentStore         stores latents with its transitions and writes newer ones back
Planner             has no actor: two exported graphs and the cross-entropy planner
LateRewards         columns that arrive decisions later, and a learned first state
PathIntegral        plans by MPPI: value, end of the episode, proposals, a plan kept in the carry
Probed              has intermediate outputs compared
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.agent import Agent
from agentzoo.algorithm import (
    Batch,
    Carry,
    DelayedValue,
    Metrics,
    Noise,
    NoiseSource,
    Obs,
    Transitions,
    WriteBack,
)
from agentzoo.blocks import truncated_normal
from agentzoo.blocks.actions import to_env
from agentzoo.blocks.optim import Adam
from agentzoo.config import AgentConfig
from agentzoo.planning import plan_step
from agentzoo.replay.samplers import EpisodeSampler, StreamSampler
from agentzoo.runtime.spec import (
    ActionSpec,
    CEMSpec,
    ColumnSpec,
    MPPISpec,
    NoiseSpec,
    ObsSpec,
    TensorSpec,
)

UNITS = 8


@dataclass(frozen=True, kw_only=True)
class ToyConfig(AgentConfig):
    """Sizes at which a whole run takes a second or two."""

    repeat: int = 1
    prefill: int = 400
    pretrain: int = 2
    update_every: int = 100
    updates: int = 2
    batch_size: int = 4
    batch_length: int = 8
    replay_rows: int = 4096
    eval_every: int | None = 0
    final_episodes: int = 0
    checkpoint_every: int = 400


class Toy(nn.Module):
    """A GRU that predicts rewards and copies actions; the recipes below override the odd part."""

    sampler = EpisodeSampler()
    columns: ClassVar[Mapping[str, ColumnSpec]] = {}
    noise_spec: Mapping[str, NoiseSpec]

    def __init__(self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: AgentConfig) -> None:
        super().__init__()
        self.keys, self.action = list(obs), action
        size = sum(spec.shape[0] for spec in obs.values())
        self.core = nn.GRUCell(size + action.size, UNITS)
        self.actor = nn.Linear(UNITS, 2 * action.size)
        self.reward = nn.Linear(UNITS, 1)
        self.optimizer = Adam(dict(self.named_parameters()), lr=1e-2)
        self.noise_spec = {
            "action": NoiseSpec(shape=(action.size,), role="action"),
            "explore": NoiseSpec(shape=(action.size,), role="explore"),
        }
        self.carry_spec = {
            "deter": TensorSpec(shape=(UNITS,)),
            "prev_action": TensorSpec(shape=(action.size,)),
        }

    def initial(self, batch: int) -> Carry:
        return {name: torch.zeros(batch, *spec.shape) for name, spec in self.carry_spec.items()}

    def observe(self, carry: Carry, obs: Obs, noise: Noise) -> Carry:
        first = obs["is_first"][:, None]
        start = self.initial(1)
        carry = {name: torch.where(first, start[name], carry[name]) for name in carry}
        vector = torch.cat([obs[key] for key in self.keys], -1)
        deter = self.core(torch.cat([vector, carry["prev_action"]], -1), carry["deter"])
        return {"deter": deter, "prev_action": carry["prev_action"]}

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        carry = self.observe(carry, obs, noise)
        action = self.units(self.act(carry["deter"], noise, deterministic))
        return {**carry, "prev_action": action}, to_env(action, self.action)

    def act(self, deter: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        mean, std = self.actor(deter).chunk(2, -1)
        sample = mean + F.softplus(std) * noise["action"]
        return torch.tanh(torch.where(deterministic[:, None], mean, sample))

    def units(self, action: Tensor) -> Tensor:
        if self.action.kind == "box":
            return action
        return F.one_hot(action.argmax(-1), self.action.size).float()

    def explore(
        self, carry: Carry, noise: Noise, env_step: int, total_steps: int
    ) -> tuple[Carry, Tensor]:
        action = self.units((carry["prev_action"] + 0.3 * noise["explore"]).clamp(-1, 1))
        return {**carry, "prev_action": action}, to_env(action, self.action)

    def unroll(self, batch: Batch, deter: Tensor) -> Tensor:
        states = []
        for t in range(batch["reward"].shape[1]):
            vector = torch.cat([batch[key][:, t] for key in self.keys], -1)
            first = batch["is_first"][:, t, None]
            deter = torch.where(first, self.initial(1)["deter"], deter)
            deter = self.core(torch.cat([vector, batch["prev_action"][:, t]], -1), deter)
            states.append(deter)
        return torch.stack(states, 1)

    def learn_from(
        self, states: Tensor, batch: Batch, target: Tensor, noise: NoiseSource
    ) -> Metrics:
        jitter = states + 0.01 * noise.normal(*states.shape)
        mean, std = self.actor(jitter).chunk(2, -1)
        loss = (self.reward(jitter)[..., 0] - target).square().mean()
        loss = loss + (torch.tanh(mean) - batch["action"]).square().mean() + std.square().mean()
        self.optimizer.step(torch.autograd.grad(loss, list(self.parameters())))
        return {"loss/toy": loss.detach()}

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        start = self.initial(1)["deter"].expand(len(batch["reward"]), -1)
        return self.learn_from(self.unroll(batch, start), batch, batch["reward"], noise), {}

    def optimizers(self) -> Mapping[str, Adam]:
        return {"optimizer": self.optimizer}


class BestOfManyAlgorithm(Toy):
    """Odd demand: deterministic is the likeliest of 100 samples, a discrete choice per element."""

    def __init__(self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: AgentConfig) -> None:
        super().__init__(obs, action, config)
        self.noise_spec["action"] = NoiseSpec(shape=(100, action.size), role="action")

    def scores(self, deter: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        mean, std = self.actor(deter)[:, None].chunk(2, -1)
        u = mean + F.softplus(std) * noise["action"]
        squash = 2 * (np.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), (-0.5 * noise["action"].square() - squash).sum(-1)

    def act(self, deter: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        samples, scores = self.scores(deter, noise)
        best = scores.argmax(1)[:, None, None].expand(-1, 1, samples.shape[-1])
        best = samples.gather(1, best)[:, 0]
        return torch.where(deterministic[:, None], best, samples[:, 0])

    def margin(self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor) -> Tensor:
        _, scores = self.scores(self.observe(carry, obs, noise)["deter"], noise)
        top = scores.topk(2, 1).values
        return torch.where(deterministic, top[:, 0] - top[:, 1], torch.inf)


class TruncatedActorAlgorithm(Toy):
    """Odd demand: a truncated normal, inverted from uniform noise; its mode is the location."""

    def __init__(self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: AgentConfig) -> None:
        super().__init__(obs, action, config)
        self.noise_spec["action"] = NoiseSpec(shape=(action.size,), kind="uniform", role="action")

    def act(self, deter: Tensor, noise: Noise, deterministic: Tensor) -> Tensor:
        mean, std = self.actor(deter).chunk(2, -1)
        loc = torch.tanh(mean)
        sample = truncated_normal.sample(loc, F.softplus(std) + 0.1, noise["action"])
        return torch.where(deterministic[:, None], loc, sample)


class LatentStoreAlgorithm(Toy):
    """Odd demand: transitions carry their decision's latent; updates write newer ones back."""

    sampler = StreamSampler()
    columns: ClassVar = {"deter": ColumnSpec(shape=(UNITS,), mutable=True)}

    def annotate(
        self, transitions: Transitions, envs: Sequence[int], carry: Carry, state: object
    ) -> tuple[Transitions, Sequence[DelayedValue], object]:
        return {**transitions, "deter": carry["deter"].numpy()}, [], None

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        context = batch["deter"][:, 0]
        rest = {name: column[:, 1:] for name, column in batch.items()}
        states = self.unroll(rest, context)
        metrics = self.learn_from(states, rest, rest["reward"], noise)
        return metrics, {"deter": torch.cat([context[:, None], states.detach()], 1)}


class PlannerAlgorithm(Toy):
    """Odd demand: no actor; a filtering graph, a scoring graph, and the planner between them."""

    plan_spec = CEMSpec(horizon=3, candidates=12, elites=4, iterations=2)

    def __init__(self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: AgentConfig) -> None:
        super().__init__(obs, action, config)
        self.model = nn.GRUCell(action.size, UNITS)
        self.optimizer = Adam(dict(self.named_parameters()), lr=1e-2)
        self.noise_spec = {
            "plan": NoiseSpec(shape=(action.size,), role="plan"),
            "score": NoiseSpec(shape=(UNITS,), role="score"),
            "explore": NoiseSpec(shape=(action.size,), role="explore"),
        }

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        return plan_step(self, carry, obs, noise, deterministic)

    def imagine(self, carry: Carry, action: Tensor, noise: Noise) -> tuple[Carry, Tensor]:
        deter = self.model(action, carry["deter"]) + 0.01 * noise["score"]
        return {"deter": deter}, self.reward(deter)[..., 0]

    def beyond(self, states: Tensor, batch: Batch) -> Tensor | float:
        return 0.0

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        states = self.unroll(batch, self.initial(len(batch["reward"]))["deter"])
        ahead = self.model(batch["action"].flatten(0, 1), states.flatten(0, 1))
        loss = (self.reward(states)[..., 0] - batch["reward"]).square().mean()
        loss = loss + (ahead - states.flatten(0, 1)).square().mean()
        loss = loss + self.actor(states).square().mean() + 0 * noise.normal(1).sum()
        loss = loss + self.beyond(states, batch)
        self.optimizer.step(torch.autograd.grad(loss, list(self.parameters())))
        return {"loss/toy": loss.detach()}, {}


class PathIntegralAlgorithm(PlannerAlgorithm):
    """Odd demand: MPPI with a value, an end of the episode, proposals and a warm start."""

    plan_spec = MPPISpec(
        heads=("continue", "value", "policy"),
        horizon=3,
        candidates=12,
        elites=4,
        iterations=2,
        proposals=3,
        discount=0.9,
    )

    def __init__(self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: AgentConfig) -> None:
        super().__init__(obs, action, config)
        self.worth = nn.Linear(UNITS, 2)
        self.optimizer = Adam(dict(self.named_parameters()), lr=1e-2)
        self.noise_spec = {
            **self.noise_spec,
            "proposed": NoiseSpec(shape=(action.size,), role="policy"),
            "pick": NoiseSpec(shape=(2,), kind="uniform", role="shared"),
            "jitter": NoiseSpec(shape=(), role="value"),
            "elite": NoiseSpec(shape=(), kind="uniform", role="elite"),
            "perturb": NoiseSpec(shape=(action.size,), role="perturb"),
        }
        self.carry_spec = {**self.carry_spec, **self.plan_spec.memory(action.size)}

    def observe(self, carry: Carry, obs: Obs, noise: Noise) -> Carry:
        seen = {name: carry[name] for name in ("deter", "prev_action")}
        first = obs["is_first"][:, None]
        start = {name: torch.zeros_like(tensor) for name, tensor in seen.items()}
        seen = {name: torch.where(first, start[name], seen[name]) for name in seen}
        vector = torch.cat([obs[key] for key in self.keys], -1)
        deter = self.core(torch.cat([vector, seen["prev_action"]], -1), seen["deter"])
        return {**carry, "deter": deter, "prev_action": seen["prev_action"]}

    def cont(self, carry: Carry) -> Tensor:
        return torch.sigmoid(carry["deter"][:, 0])

    def value(self, carry: Carry, noise: Noise) -> Tensor:
        return (self.worth(carry["deter"]) * noise["pick"]).sum(-1) + 0.01 * noise["jitter"]

    def policy(self, carry: Carry, noise: Noise, deterministic: Tensor) -> Tensor:
        mean, std = self.actor(carry["deter"]).chunk(2, -1)
        sample = mean + F.softplus(std) * noise["proposed"]
        return torch.tanh(torch.where(deterministic[:, None], mean, sample))

    def beyond(self, states: Tensor, batch: Batch) -> Tensor:
        return (self.worth(states).mean(-1) - batch["reward"]).square().mean()


class ProbedAlgorithm(Toy):
    """Odd demand: has its logits compared, not only the action they lead to."""

    def __init__(self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: AgentConfig) -> None:
        super().__init__(obs, action, config)
        self.probes = {"stats": TensorSpec(shape=(2 * action.size,))}

    def probe(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> Mapping[str, Tensor]:
        return {"stats": self.actor(self.observe(carry, obs, noise)["deter"])}


class LateRewardsAlgorithm(Toy):
    """Odd demands: `summed` is known two decisions later, and the first state is learned."""

    columns: ClassVar = {"summed": ColumnSpec(mutable=True)}

    def __init__(self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: AgentConfig) -> None:
        super().__init__(obs, action, config)
        self.first = nn.Parameter(torch.full((UNITS,), 0.5))
        self.optimizer = Adam(dict(self.named_parameters()), lr=1e-2)

    def initial(self, batch: int) -> Carry:
        return {**super().initial(batch), "deter": self.first.expand(batch, -1)}

    def annotate(
        self, transitions: Transitions, envs: Sequence[int], carry: Carry, state: object
    ) -> tuple[Transitions, Sequence[DelayedValue], object]:
        recent: dict[int, list[float]] = state if isinstance(state, dict) else {}
        late = []
        for env, reward, first in zip(
            envs, transitions["reward"], transitions["is_first"], strict=True
        ):
            window = [] if first else recent.get(env, [])
            recent[env] = [*window, float(reward)][-3:]
            if len(recent[env]) == 3:
                late.append(DelayedValue(env, 2, {"summed": np.float32(sum(recent[env]))}))
        unknown = np.full(len(envs), np.nan, np.float32)
        return {**transitions, "summed": unknown}, late, recent

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        known = torch.isfinite(batch["summed"])
        target = torch.where(known, batch["summed"], batch["reward"])
        start = self.initial(len(target))["deter"]
        metrics = self.learn_from(self.unroll(batch, start), batch, target, noise)
        return {**metrics, "toy/known": known.float().mean()}, {}


def agent(name: str, algorithm: type[Toy]) -> type[Agent]:
    """An Agent class around a toy recipe."""
    return type(
        name,
        (Agent,),
        {
            "config_class": ToyConfig,
            "algorithm_class": algorithm,
            "presets": {"debug": {}},
            "default_preset": classmethod(lambda cls, suite, obs: "debug"),
        },
    )


TOYS = {
    "BestOfMany": agent("BestOfMany", BestOfManyAlgorithm),
    "TruncatedActor": agent("TruncatedActor", TruncatedActorAlgorithm),
    "LatentStore": agent("LatentStore", LatentStoreAlgorithm),
    "Planner": agent("Planner", PlannerAlgorithm),
    "LateRewards": agent("LateRewards", LateRewardsAlgorithm),
    "PathIntegral": agent("PathIntegral", PathIntegralAlgorithm),
    "Probed": agent("Probed", ProbedAlgorithm),
}
globals().update(TOYS)  # other processes find a class by its name in this module
