"""Small algorithms whose steps have all that an exported step may have; they learn nothing."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agentzoo.algorithm import Carry, Noise, Obs
from agentzoo.blocks.actions import to_env
from agentzoo.planning import plan_step
from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.policy.spaces import action_spec, observation_specs
from agentzoo.runtime.spec import Arrays, CEMSpec, NoiseSpec, PlanSpec, PolicySpec, TensorSpec
from agentzoo.torch_step import TorchStep

CANDIDATES = 16
DETER, STOCH, IMAGE = 8, 4, (6, 5, 3)

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 3.0], np.float32))
DISCRETE = spaces.Discrete(3, start=2)
PICTURE = spaces.Dict(
    {"Zoom/v": spaces.Box(-1, 1, (2, 2)), "image": spaces.Box(0, 255, IMAGE, np.uint8)}
)
VECTOR = spaces.Box(-np.inf, np.inf, (3,))


class Toy(nn.Module):
    """A GRU with a Gaussian latent and a learned first state."""

    plan_spec: PlanSpec | None = None

    def __init__(self, observation: spaces.Space = PICTURE, action: spaces.Space = BOX) -> None:
        super().__init__()
        self.obs, self.action = observation_specs(observation), action_spec(action)
        size = sum(int(np.prod(spec.shape)) for spec in self.obs.values())
        self.embed = nn.Linear(size, 8)
        self.core = nn.GRUCell(8 + STOCH + self.action.size, DETER)
        self.stats = nn.Linear(DETER, 2 * STOCH)
        self.actor = nn.Linear(DETER + STOCH, 2 * self.action.size)
        self.first = nn.Parameter(torch.randn(DETER))
        self.carry_spec = {
            "stoch": TensorSpec(shape=(STOCH,)),
            "deter": TensorSpec(shape=(DETER,)),
            "prev_action": TensorSpec(shape=(self.action.size,)),
        }
        self.noise_spec = {
            "latent": NoiseSpec(shape=(STOCH,)),
            "action": NoiseSpec(shape=(CANDIDATES, self.action.size), role="action"),
            "explore": NoiseSpec(shape=(self.action.size,), role="explore"),
        }

    def observe(self, carry: Carry, obs: Obs, noise: Noise) -> Carry:
        first = obs["is_first"][:, None]
        deter = torch.where(first, self.first.tanh(), carry["deter"])
        stoch = torch.where(first, 0.0, carry["stoch"])
        prev_action = torch.where(first, 0.0, carry["prev_action"])
        flat = [obs[key].float().flatten(1) / self._scale(key) for key in self.obs]
        embed = torch.tanh(self.embed(torch.cat(flat, -1)))
        deter = self.core(torch.cat([embed, stoch, prev_action], -1), deter)
        mean, std = self.stats(deter).chunk(2, -1)
        stoch = mean + F.softplus(std) * noise["latent"]
        # another order than the spec's: names, not places, have to count
        return {"deter": deter, "prev_action": prev_action, "stoch": stoch}

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        carry = self.observe(carry, obs, noise)
        chosen, _ = self._choose(carry, noise, deterministic)
        return {**carry, "prev_action": chosen}, to_env(chosen, self.action)

    def margin(self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor) -> Tensor:
        return self._choose(self.observe(carry, obs, noise), noise, deterministic)[1]

    def _scale(self, key: str) -> float:
        return 255.0 if self.obs[key].kind == "image" else 1.0

    def _choose(self, carry: Carry, noise: Noise, deterministic: Tensor) -> tuple[Tensor, Tensor]:
        feat = torch.cat([carry["deter"], carry["stoch"]], -1)
        mean, std = self.actor(feat).chunk(2, -1)
        mode = deterministic[:, None]
        if self.action.kind == "discrete":
            gumbel = noise["action"][:, 0]
            logit = torch.where(mode, mean, mean + gumbel)
            top = logit.topk(2, -1).values
            return F.one_hot(logit.argmax(-1), self.action.size).float(), top[:, 0] - top[:, 1]
        raw = mean[:, None] + (F.softplus(std)[:, None] + 0.1) * noise["action"]
        # log-prob of tanh(raw) from raw itself: ties are rare and float32 agrees on them
        squash = 2 * (np.log(2) - raw - F.softplus(-2 * raw))
        logp = (-0.5 * noise["action"] ** 2 - squash).sum(-1)
        index = torch.where(deterministic, logp.argmax(-1), 0)
        best = raw.tanh().gather(1, index[:, None, None].expand(-1, 1, raw.shape[-1]))[:, 0]
        top = logp.topk(2, -1).values
        return best, torch.where(deterministic, top[:, 0] - top[:, 1], torch.inf)


class PlanningToy(Toy):
    """Observes as the other one and scores plans by an imagined rollout."""

    def __init__(self, plan: PlanSpec | None = None) -> None:
        super().__init__(VECTOR, BOX)
        self.plan_spec = plan or CEMSpec(horizon=3, candidates=20, elites=4, iterations=3)
        self.reward = nn.Linear(DETER + STOCH, 1)
        self.noise_spec = {
            "plan": NoiseSpec(shape=(self.action.size,), role="plan"),
            "latent": NoiseSpec(shape=(STOCH,)),
            "rollout": NoiseSpec(shape=(STOCH,), role="score"),
        }

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        return plan_step(self, carry, obs, noise, deterministic)

    def margin(self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor) -> Tensor:
        return torch.full(deterministic.shape, torch.inf)  # no choice beside the planner's

    def imagine(self, carry: Carry, action: Tensor, noise: Noise) -> tuple[Carry, Tensor]:
        embed = torch.zeros(action.shape[0], 8)
        deter = self.core(torch.cat([embed, carry["stoch"], action], -1), carry["deter"])
        mean, std = self.stats(deter).chunk(2, -1)
        stoch = mean + F.softplus(std) * noise["rollout"]
        reward = self.reward(torch.cat([deter, stoch], -1)).squeeze(-1)
        return {"deter": deter, "stoch": stoch}, reward


def toy_spec(toy: Toy, **changes: object) -> PolicySpec:
    """The spec an agent would make of the algorithm."""
    fields: dict[str, object] = {
        "agent": "Toy",
        "env": "",
        "obs": toy.obs,
        "action": toy.action,
        "carry": toy.carry_spec,
        "noise": {name: one for name, one in toy.noise_spec.items() if one.role != "explore"},
        "plan": toy.plan_spec,
        "seed": 3,
    }
    return PolicySpec(**(fields | changes))


def seeded(make: type[Toy], *args: object) -> Toy:
    """A toy with the same weights in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args)


KINDS: dict[str, Callable[[], Toy]] = {
    "box": lambda: seeded(Toy),
    "vector": lambda: seeded(Toy, VECTOR, BOX),
    "discrete": lambda: seeded(Toy, VECTOR, DISCRETE),
    "planning": lambda: seeded(PlanningToy),
}


def torch_policy(toy: Toy, **changes: object) -> Policy:
    """A toy as a policy."""
    return Policy(TorchStep(toy), toy_spec(toy, **changes))


def random_inputs(spec: PolicySpec, batch: int, t: int) -> tuple[Arrays, Arrays, Arrays]:
    """Carry, observations with is_first, and noise of one step."""
    rng = np.random.default_rng([batch, t])
    carry = {
        name: rng.standard_normal((batch, *one.shape), np.float32)
        for name, one in spec.carry.items()
    }
    obs: Arrays = {}
    for key, one in spec.obs.items():
        shape = (batch, *one.shape)
        image = one.kind == "image"
        obs[key] = rng.integers(0, 256, shape, np.uint8) if image else rng.random(shape, np.float32)
    obs["is_first"] = rng.random(batch) < 0.2
    address = np.array([(7, element, t) for element in range(batch)])
    return carry, obs, draw(with_plan_axes(spec.noise, spec.plan), address)
