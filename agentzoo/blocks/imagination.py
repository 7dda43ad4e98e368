"""Imagination: roll the prior forward with a policy."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .compiled import compiled_form, enabled
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
        The trajectories, differentiable in whatever made them. Without a gradient a step is
        compiled where that is asked for (`compiled.py`).
    """
    step, state = _step, start
    if enabled():
        # laid out and without a history as every later state, so that one form fits all steps
        step, state = compiled_form(_step), State(*(x.detach().contiguous() for x in start))
    feats, actions = [dynamics.feat(state)], []
    for eps, xi in zip(latent_noise.unbind(1), action_noise.unbind(1), strict=True):
        action, state, feat = step(dynamics, policy, state, feats[-1], eps, xi)
        actions.append(action)
        feats.append(feat)
    return Imagined(feats, actions)


def _step(
    dynamics: Dynamics,
    policy: Callable[[Tensor, Tensor], Tensor],
    state: State,
    feat: Tensor,
    eps: Tensor,
    xi: Tensor,
) -> tuple[Tensor, State, Tensor]:
    """The action in a state, the state after it and that state's features."""
    action = policy(feat, xi)
    state = dynamics.img_step(state, action, eps)
    return action, state, dynamics.feat(state)
