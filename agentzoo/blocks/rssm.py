"""The recurrent state-space model: a deterministic core and a stochastic latent.

    prior        h_t = core(h_{t-1}, s_{t-1}, a_{t-1});   s_t ~ p(s_t | h_t)
    posterior    h_t = the same;                          s_t ~ q(s_t | h_t, embed_t)

    a_{t-1} --+                  embed_t
              v                     v
    h_{t-1} -> core -> h_t ------> posterior -> s_t ---> feat_t = [s_t, h_t]
              ^          +-------> prior
    s_{t-1} --+

The posterior filters (it sees the past and the present only) and shares h_t with the prior.

Source: Hafner et al. 2019 (arXiv:1811.04551), section 3; danijar/dreamer models.py:RSSM.
"""

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .cores import Core
from .latents import Latent
from .layers import MLP


class State(NamedTuple):
    """A latent state, or a batch or sequence of them.

    Attributes:
        deter: (..., D) deterministic part.
        stoch: (..., S*K) sample of the stochastic part, flat.
        stats: (..., stats_size) what the sample was drawn from; see `Latent`.
    """

    deter: Tensor
    stoch: Tensor
    stats: Tensor

    def detach(self) -> "State":
        """The same values as constants."""
        return State(*(x.detach() for x in self))

    def flatten(self) -> "State":
        """(B, T, ...) -> (B*T, ...)."""
        return State(*(x.flatten(0, 1) for x in self))


class Dynamics(Protocol):
    """Latent dynamics that agents learn and imagine with; `RSSM` is one."""

    feat_size: int

    def initial(self, *shape: int) -> State:
        """The state before the first observation, for a batch of `shape`."""
        ...

    def obs_step(
        self, prev: State, prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor
    ) -> State:
        """One filtering step."""
        ...

    def img_step(self, prev: State, action: Tensor, noise: Tensor) -> State:
        """One step without an observation."""
        ...

    def prior(self, state: State) -> Tensor:
        """Stats of the prior at states whose `deter` is known."""
        ...

    def observe(
        self, prev: State, prev_actions: Tensor, embeds: Tensor, is_first: Tensor, noise: Tensor
    ) -> State:
        """Filter a sequence."""
        ...

    def feat(self, state: State) -> Tensor:
        """The features that the heads read."""
        ...


class RSSM(nn.Module):
    """Recurrent state-space model, composed of a core, a latent and two stats networks.

    Args:
        core: the deterministic path.
        latent: the stochastic part.
        prior: network (..., D) -> (..., stats_size).
        posterior: network of D late and E early inputs -> (..., stats_size).
        initial: `zeros`, or `learned`: tanh of a parameter and the prior's mode at it.
        features: what the heads read, both parts or the sample alone.
    """

    def __init__(
        self,
        core: Core,
        latent: Latent,
        prior: nn.Module,
        posterior: MLP,
        *,
        initial: Literal["zeros", "learned"] = "zeros",
        features: Literal["stoch+deter", "stoch"] = "stoch+deter",
    ) -> None:
        super().__init__()
        self.core = core
        self.latent = latent
        self.prior_net = prior
        self.post_net = posterior
        self.features = features
        self.feat_size = latent.size + (core.size if features == "stoch+deter" else 0)
        self.initial_deter = nn.Parameter(torch.zeros(core.size)) if initial == "learned" else None

    def initial(self, *shape: int) -> State:
        """The state before the first observation, for a batch of `shape`."""
        if self.initial_deter is None:
            zeros = next(self.post_net.parameters()).new_zeros
            sizes = self.core.size, self.latent.size, self.latent.stats_size
            return State(*(zeros(*shape, size) for size in sizes))
        deter = torch.tanh(self.initial_deter).expand(*shape, -1)
        stats = self.prior_net(deter)
        return State(deter, self.latent.mode(stats), stats)

    def obs_step(
        self, prev: State, prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor
    ) -> State:
        """One filtering step; where is_first, history and previous action are forgotten.

        Args:
            prev: state at t-1, batch shape (B,).
            prev_action: (B, A) action that led to this observation, in model units.
            embed: (B, E) encoded observation.
            is_first: (B,) bool.
            noise: (B, *noise_shape) for the sample.

        Returns:
            The posterior state at t.
        """
        action_proj = self.core.project(mask_reset(prev_action, is_first))
        embed_proj = self.post_net.project(embed)
        return self._filter(prev, action_proj, embed_proj, is_first, self.initial(1), noise)

    def observe(
        self, prev: State, prev_actions: Tensor, embeds: Tensor, is_first: Tensor, noise: Tensor
    ) -> State:
        """Filter a sequence; equal to `obs_step` repeated, with the projections outside the loop.

        Args:
            prev: state before the sequence, batch shape (B,).
            prev_actions: (B, T, A).
            embeds: (B, T, E).
            is_first: (B, T) bool.
            noise: (B, T, *noise_shape).

        Returns:
            Posterior states, batch shape (B, T).
        """
        action_projs = self.core.project(mask_reset(prev_actions, is_first)).unbind(1)
        embed_projs = self.post_net.project(embeds).unbind(1)
        steps = zip(action_projs, embed_projs, is_first.unbind(1), noise.unbind(1), strict=True)
        first, states = self.initial(1), [prev]
        for action_proj, embed_proj, reset, eps in steps:
            states.append(self._filter(states[-1], action_proj, embed_proj, reset, first, eps))
        return State(*(torch.stack(parts, 1) for parts in zip(*states[1:], strict=True)))

    def img_step(self, prev: State, action: Tensor, noise: Tensor) -> State:
        """One step of the prior.

        Args:
            prev: state at t, batch shape (N,).
            action: (N, A) in model units.
            noise: (N, *noise_shape).

        Returns:
            The prior state at t+1.
        """
        deter = self.core(prev.deter, prev.stoch, self.core.project(action))
        stats = self.prior_net(deter)
        return State(deter, self.latent.sample(stats, noise), stats)

    def prior(self, state: State) -> Tensor:
        """Stats of the prior at the given states: (..., stats_size)."""
        return self.prior_net(state.deter)

    def feat(self, state: State) -> Tensor:
        """[stoch, deter], or stoch alone: (..., F)."""
        if self.features == "stoch":
            return state.stoch
        return torch.cat([state.stoch, state.deter], -1)

    def _filter(
        self,
        prev: State,
        action_proj: Tensor,
        embed_proj: Tensor,
        is_first: Tensor,
        first: State,
        noise: Tensor,
    ) -> State:
        reset = is_first.unsqueeze(-1)
        deter = torch.where(reset, first.deter, prev.deter)
        stoch = torch.where(reset, first.stoch, prev.stoch)
        deter = self.core(deter, stoch, action_proj)
        stats = self.post_net(deter, embed_proj)
        return State(deter, self.latent.sample(stats, noise), stats)


def mask_reset(action: Tensor, is_first: Tensor) -> Tensor:
    """Zero the previous action where an episode begins: (..., A) and (...) -> (..., A)."""
    return action.masked_fill(is_first.unsqueeze(-1), 0)
