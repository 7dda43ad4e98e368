"""The acting step of planning agents: filter in torch, then the runtime's cross-entropy loop."""

import numpy as np
import torch
from torch import Tensor

from runtime.planner import plan
from runtime.spec import Arrays

from .algorithm import Carry, Noise, Obs, PlanningAlgorithm
from .blocks.actions import to_env


def plan_step(
    algorithm: PlanningAlgorithm, carry: Carry, obs: Obs, noise: Noise
) -> tuple[Carry, Tensor]:
    """Observe, plan over `algorithm.score`, and leave the plan's first action in the carry.

    The loop is the one that serves, `runtime.planner.plan`, with torch's score as its callable.
    """
    carry = algorithm.observe(carry, obs, noise)
    device = carry["prev_action"].device

    def score(state: Arrays, actions: np.ndarray, rollout: Arrays) -> np.ndarray:
        with torch.no_grad():
            return algorithm.score(
                {name: torch.from_numpy(array).to(device) for name, array in state.items()},
                torch.from_numpy(actions).to(device),
                {name: torch.from_numpy(array).to(device) for name, array in rollout.items()},
            ).numpy(force=True)

    arrays = {name: tensor.numpy(force=True) for name, tensor in carry.items()}
    draws = {name: tensor.numpy(force=True) for name, tensor in noise.items()}
    action = plan(score, arrays, algorithm.plan_spec, algorithm.action, draws)
    chosen = torch.from_numpy(action).to(device)
    return {**carry, "prev_action": chosen}, to_env(chosen, algorithm.action)
