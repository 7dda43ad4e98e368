"""An agent of your own, complete: a one-step model of vectors, and a planner that acts in it.

    python examples/own_agent.py          learns Pendulum, exports, and acts without PyTorch

docs/own_agent.md goes through it part by part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agentzoo.agent import Agent
from agentzoo.algorithm import Batch, Carry, Metrics, Noise, NoiseSource, Obs, WriteBack
from agentzoo.blocks.actions import to_env
from agentzoo.blocks.layers import MLP
from agentzoo.blocks.optim import Adam
from agentzoo.config import AgentConfig
from agentzoo.planning import plan_step
from agentzoo.replay.samplers import EpisodeSampler
from agentzoo.runtime import evaluate, load_policy
from agentzoo.runtime.errors import SpaceError
from agentzoo.runtime.spec import ActionSpec, CEMSpec, NoiseSpec, ObsSpec, TensorSpec
from agentzoo.train.schedule import ByDecision, Schedule


@dataclass(frozen=True, kw_only=True)
class OneStepConfig(AgentConfig):
    """Settings of the agent below."""

    total_steps: int = 10_000
    batch_size: int = 64  # B
    batch_length: int = 2  # T: a loss needs two transitions
    units: int = 64
    lr: float = 1e-3
    horizon: int = 15  # H, planned steps
    candidates: int = 128  # J, action sequences in an iteration
    elites: int = 16
    iterations: int = 4
    expl_amount: float = 0.3  # deviation added to actions while collecting

    def schedule(self, repeat: int) -> Schedule:
        """An update for each decision."""
        return ByDecision(self.prefill, self.pretrain, self.updates, repeat)


class OneStepAlgorithm(nn.Module):
    """Predicts by how much an action changes the observation, and what it earns."""

    columns: Mapping[str, object] = {}  # nothing in replay beyond the standard columns
    sampler = EpisodeSampler()

    def __init__(
        self, obs: Mapping[str, ObsSpec], action: ActionSpec, config: OneStepConfig
    ) -> None:
        super().__init__()
        for key, spec in obs.items():
            if spec.kind == "image":
                raise SpaceError(f'"{key}" is an image, and OneStep reads numbers')
        self.keys, self.action, self.config = list(obs), action, config
        self.size = sum(spec.shape[0] for spec in obs.values())
        self.model = MLP(self.size + action.size, config.units, 2, self.size + 1, act=F.silu)
        self.optimizer = Adam(dict(self.named_parameters()), lr=config.lr)
        self.plan_spec = CEMSpec(
            horizon=config.horizon,
            candidates=config.candidates,
            elites=config.elites,
            iterations=config.iterations,
        )
        self.carry_spec = {
            "state": TensorSpec(shape=(self.size,)),
            "prev_action": TensorSpec(shape=(action.size,)),
        }
        self.noise_spec = {
            "plan": NoiseSpec(shape=(action.size,), role="plan"),
            "explore": NoiseSpec(shape=(action.size,), role="explore"),
        }

    def initial(self, batch: int) -> Carry:
        """Carry before the first observation: zeros."""
        like = next(self.parameters())  # on the device of the weights
        return {k: like.new_zeros(batch, *spec.shape) for k, spec in self.carry_spec.items()}

    def observe(self, carry: Carry, obs: Obs, noise: Noise) -> Carry:
        """The state is the observation; an agent with a memory would filter it here."""
        return {**carry, "state": torch.cat([obs[key].float() for key in self.keys], -1)}

    def imagine(self, carry: Carry, action: Tensor, noise: Noise) -> tuple[Carry, Tensor]:
        """One step in the model: the next state and the reward."""
        change = self.model(torch.cat([carry["state"], action], -1))
        return {"state": carry["state"] + change[:, :-1]}, change[:, -1]

    def step(
        self, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
    ) -> tuple[Carry, Tensor]:
        """Observe, then plan."""
        return plan_step(self, carry, obs, noise, deterministic)

    def explore(
        self, carry: Carry, noise: Noise, env_step: int, total_steps: int
    ) -> tuple[Carry, Tensor]:
        """Collect with noisy actions."""
        action = carry["prev_action"] + self.config.expl_amount * noise["explore"]
        carry = {**carry, "prev_action": action.clamp(-1, 1)}
        return carry, to_env(carry["prev_action"], self.action)

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step on transitions inside an episode."""
        state = torch.cat([batch[key].float() for key in self.keys], -1)  # (B, 2, size)
        inside = 1 - batch["is_first"][:, 1].float()
        carry, reward = self.imagine({"state": state[:, 0]}, batch["prev_action"][:, 1], {})
        losses = {
            "state": (carry["state"] - state[:, 1]).square().mean(-1),
            "reward": 0.1 * (reward - batch["reward"][:, 1]).square(),
        }
        means = {f"loss/{name}": (loss * inside).mean() for name, loss in losses.items()}
        total = torch.stack(list(means.values())).sum()
        self.optimizer.step(torch.autograd.grad(total, self.optimizer.params))
        return {name: mean.detach() for name, mean in means.items()}, {}

    def optimizers(self) -> Mapping[str, Adam]:
        """For checkpoints."""
        return {"optimizer": self.optimizer}


class OneStep(Agent):
    """Registered by an entry point, it learns, loads and exports like the others."""

    config_class = OneStepConfig
    algorithm_class = OneStepAlgorithm
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "small": {},
        "debug": {"prefill": 400, "units": 8, "horizon": 3, "candidates": 16, "elites": 4,
                  "iterations": 2, "eval_every": 0},
    }  # fmt: skip


def main(steps: int = 10_000, folder: str = "one-step-pendulum", episodes: int = 10) -> float:
    agent = OneStep("gym:Pendulum-v1", seed=0).learn(steps)
    policy = load_policy(agent.export(folder))
    score = evaluate(policy, agent.env, episodes=episodes)
    print(f"mean {score.mean:.1f}, 95 % interval {score.interval}")
    return score.mean


if __name__ == "__main__":
    main()
