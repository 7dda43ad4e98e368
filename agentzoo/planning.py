"""The acting step of planning agents: filter in torch, then the runtime's planner."""

from typing import cast

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.policy.planners import Draws, Search, decide, remembered
from agentzoo.runtime.spec import MEMORY, PLANNED, Arrays

from .algorithm import Carry, Continuing, Noise, Obs, PlanningAlgorithm, Proposing, Valuing
from .blocks.actions import to_env


def plan_step(
    algorithm: PlanningAlgorithm, carry: Carry, obs: Obs, noise: Noise, deterministic: Tensor
) -> tuple[Carry, Tensor]:
    """Observe, plan in the model, and leave the chosen action and the plan in the carry.

    The loop is the one that serves, the runtime's `decide`, with torch's rollouts.

    Args:
        algorithm: what observes, imagines and, if it can, values and proposes.
        carry: as `step` takes it.
        obs: likewise.
        noise: likewise, with the planner's leading axes.
        deterministic: (B,) bool.

    Returns:
        The new carry and the environment's own action.
    """
    spec, specs = algorithm.plan_spec, algorithm.noise_spec
    carry = {**carry, **algorithm.observe(carry, obs, noise)}
    device = carry["prev_action"].device
    planning = {
        name: tensor.numpy(force=True)
        for name, tensor in noise.items()
        if name in specs and specs[name].role in PLANNED
    }
    memory = carry[MEMORY].numpy(force=True) if MEMORY in carry else None
    rollouts = TorchRollouts(algorithm, carry)
    action, memory = decide(
        Search(rollouts.score, rollouts.propose if "policy" in spec.heads else None),
        spec,
        algorithm.action,
        Draws(specs, planning),
        deterministic.numpy(force=True),
        remembered(memory, obs["is_first"].numpy(force=True)),
    )
    kept = {} if memory is None else {MEMORY: torch.from_numpy(memory).to(device)}
    chosen = torch.from_numpy(action).to(device)
    return {**carry, **kept, "prev_action": chosen}, to_env(chosen, algorithm.action)


class TorchRollouts:
    """The runtime's `Rollouts` on the algorithm's own device.

    Args:
        algorithm: what imagines.
        carry: name -> (B, *shape), as the filtering step left it.
    """

    def __init__(self, algorithm: PlanningAlgorithm, carry: Carry) -> None:
        self.algorithm, self.discount = algorithm, algorithm.plan_spec.discount
        self.carry = {k: x for k, x in carry.items() if k not in ("prev_action", MEMORY)}
        self.device = carry["prev_action"].device

    @torch.no_grad()
    def score(self, actions: np.ndarray, imagined: Arrays, valued: Arrays) -> np.ndarray:
        """Returns (B, J) of action sequences (B, J, H, A)."""
        return self.returns(
            torch.from_numpy(actions).to(self.device),
            self._tensors(imagined),
            self._tensors(valued),
        ).numpy(force=True)

    def returns(self, actions: Tensor, imagined: Noise, valued: Noise) -> Tensor:
        """Returns (B, J) of action sequences (B, J, H, A), as tensors."""
        B, J, H, _ = actions.shape
        algorithm, carry = self.algorithm, self._repeated(J)
        returns, weight = actions.new_zeros(B * J), actions.new_ones(1)
        for t in range(H):
            step = {name: x[:, :, t].flatten(0, 1) for name, x in imagined.items()}
            carry, reward = algorithm.imagine(carry, actions[:, :, t].flatten(0, 1), step)
            returns = returns + weight * reward
            weight = weight * self.discount
            if "continue" in algorithm.plan_spec.heads:
                weight = weight * cast("Continuing", algorithm).cont(carry)
        if "value" in algorithm.plan_spec.heads:
            flat = {name: x.flatten(0, 1) for name, x in valued.items()}
            returns = returns + weight * cast("Valuing", algorithm).value(carry, flat)
        return returns.unflatten(0, (B, J))

    @torch.no_grad()
    def propose(self, noise: Arrays, deterministic: np.ndarray) -> np.ndarray:
        """Action sequences (B, P, H, A) that the policy takes in the model."""
        algorithm, draws = self.algorithm, self._tensors(noise)
        policy = cast("Proposing", algorithm).policy
        B, P, H = next(iter(draws.values())).shape[:3]
        carry = self._repeated(P)
        mode = torch.from_numpy(deterministic).to(self.device).repeat_interleave(P, 0)
        actions: list[Tensor] = []
        for t in range(H):
            step = {name: x[:, :, t].flatten(0, 1) for name, x in draws.items()}
            actions.append(policy(carry, step, mode))
            if t + 1 < H:
                carry, _ = algorithm.imagine(carry, actions[t], step)
        return torch.stack(actions, 1).unflatten(0, (B, P)).numpy(force=True)

    def _repeated(self, candidates: int) -> Carry:
        # (B, ...) -> (B*J, ...): a batch element's candidates stand together, as in `actions`
        return {name: x.repeat_interleave(candidates, 0) for name, x in self.carry.items()}

    def _tensors(self, arrays: Arrays) -> dict[str, Tensor]:
        # broadcast views are copied: torch takes no strides of zero that it may write to
        return {
            name: torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
            for name, x in arrays.items()
        }
