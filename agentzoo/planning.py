"""The acting step of planning agents: filter in torch, then the runtime's cross-entropy loop."""

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.policy.planners import plan
from agentzoo.runtime.spec import Arrays

from .algorithm import Carry, Noise, Obs, PlanningAlgorithm
from .blocks.actions import to_env


def plan_step(
    algorithm: PlanningAlgorithm, carry: Carry, obs: Obs, noise: Noise
) -> tuple[Carry, Tensor]:
    """Observe, plan over the imagined rewards, and leave the plan's first action in the carry.

    The loop is the one that serves, the runtime's `plan`, with torch's rollouts as its `score`.
    """
    roles = {name: spec.role for name, spec in algorithm.noise_spec.items()}
    carry = algorithm.observe(carry, obs, noise)
    device = carry["prev_action"].device

    def score(state: Arrays, actions: np.ndarray, rollout: Arrays) -> np.ndarray:
        sequences = torch.from_numpy(actions).to(device)
        draws = {name: torch.from_numpy(array).to(device) for name, array in rollout.items()}
        return rollout_returns(algorithm, carry, sequences, draws).numpy(force=True)

    draws = {
        "plan" if roles[name] == "plan" else name: tensor.numpy(force=True)
        for name, tensor in noise.items()
        if roles.get(name) in ("plan", "score")
    }
    action = plan(score, {}, algorithm.plan_spec, algorithm.action, draws)
    chosen = torch.from_numpy(action).to(device)
    return {**carry, "prev_action": chosen}, to_env(chosen, algorithm.action)


@torch.no_grad()
def rollout_returns(
    algorithm: PlanningAlgorithm, carry: Carry, actions: Tensor, noise: Noise
) -> Tensor:
    """Returns of action sequences: the runtime's `Rollouts` on the algorithm's own device.

    Args:
        algorithm: what imagines.
        carry: name -> (B, *shape), as the filtering step left it.
        actions: (B, J, H, A) in model units.
        noise: name -> (B, J, H, ...) of the role `score`.

    Returns:
        (B, J) sums of the imagined rewards.
    """
    B, J, H, _ = actions.shape
    # (B, ...) -> (B*J, ...): a row's candidates stand together, as in `actions`
    carry = {k: x.repeat_interleave(J, 0) for k, x in carry.items() if k != "prev_action"}
    returns = actions.new_zeros(B * J)
    for t in range(H):
        step = {name: x[:, :, t].flatten(0, 1) for name, x in noise.items()}
        carry, reward = algorithm.imagine(carry, actions[:, :, t].flatten(0, 1), step)
        returns = returns + reward
    return returns.unflatten(0, (B, J))
