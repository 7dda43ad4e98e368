"""Imagination: roll the prior forward with a policy."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .rssm import Dynamics, State


class Imagined(NamedTuple):
    """A batch of imagined trajectories: feat[:, t] --action[:, t]--> feat[:, t+1].

    Attributes:
        feats: H+1 steps (N, F), the start states' first.
        actions: H steps (N, A) in model units.
    """

    feats: list[Tensor]
    actions: list[Tensor]

    @property
    def feat(self) -> Tensor:
        """All features in one tensor: (N, H+1, F)."""
        return torch.stack(self.feats, 1)

    @property
    def action(self) -> Tensor:
        """All actions in one tensor: (N, H, A)."""
        return torch.stack(self.actions, 1)


def imagine(
    dynamics: Dynamics,
    policy: Callable[[Tensor, Tensor], Tensor],
    start: State,
    latent_noise: Tensor,
    action_noise: Tensor,
) -> Imagined:
    """Imagine H steps from every start state.

    Args:
        dynamics: the model.
        policy: (feat (N, F), noise (N, ...)) -> action (N, A); stops gradients as it sees fit.
        start: states with batch shape (N,).
        latent_noise: (N, H, *noise_shape) for the states' samples.
        action_noise: (N, H, ...) for the policy.

    Returns:
        The trajectories, differentiable in whatever made them.
    """
    state, feats, actions = start, [dynamics.feat(start)], []
    for eps, xi in zip(latent_noise.unbind(1), action_noise.unbind(1), strict=True):
        actions.append(policy(feats[-1], xi))
        state = dynamics.img_step(state, actions[-1], eps)
        feats.append(dynamics.feat(state))
    return Imagined(feats, actions)
