"""Latent overshooting: priors over many steps, each compared with the posterior it arrives at."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .rssm import Dynamics, State, mask_reset


class Overshot(NamedTuple):
    """Open loops that have gone `distance` steps beyond the first one.

    Attributes:
        prior: states with batch shape (B, T - distance); entry i began before step i and has
            arrived at step i + distance.
        valid: (B, T - distance) bool, whether no episode began on the way.
    """

    prior: State
    valid: Tensor


def overshoot(
    dynamics: Dynamics,
    post: State,
    prev_actions: Tensor,
    is_first: Tensor,
    distance: int,
    draw: Callable[[int, int], Tensor],
) -> Iterator[Overshot]:
    """Roll the prior on from every posterior of a sequence, all of them at once.

    Nothing is padded: a loop that would run beyond the sequence's end is left out, so no divergence
    is taken from an empty state. (The released code masks afterwards and would give NaN.)

    Args:
        dynamics: the model.
        post: posteriors, batch shape (B, T), of a sequence that began with `dynamics.initial`.
        prev_actions: (B, T, A); the action at t led to step t.
        is_first: (B, T) bool.
        distance: D, steps beyond the first, below T.
        draw: noise (B, n, *noise_shape) from B and n.

    Yields:
        D + 1 times, for distances 0 (the ordinary prior) to D.

    Source: Hafner et al. 2019 (arXiv:1811.04551), section 4; the alignment is that of
    google-research/planet tools/test_overshooting.py.
    """
    B, T = is_first.shape
    state, valid = _before(dynamics, post, is_first), torch.ones_like(is_first)
    for d in range(distance + 1):
        action = prev_actions[:, d:] if d else mask_reset(prev_actions, is_first)
        state = State(*(x[:, : T - d] for x in state))
        valid = valid[:, : T - d] & ~is_first[:, d:] if d else valid
        noise = draw(B, T - d)
        flat = dynamics.img_step(state.flatten(), action.flatten(0, 1), noise.flatten(0, 1))
        state = State(*(x.unflatten(0, (B, T - d)) for x in flat))
        yield Overshot(state, valid)


def _before(dynamics: Dynamics, post: State, is_first: Tensor) -> State:
    """The states that the steps of a sequence start from, forgotten where an episode begins."""
    B, T = is_first.shape
    first, reset = dynamics.initial(B, T), is_first.unsqueeze(-1)
    pairs = zip(first, post, strict=True)
    shifted = [(a, torch.cat([a[:, :1], b[:, :-1]], 1)) for a, b in pairs]
    return State(*(torch.where(reset, a, b) for a, b in shifted))
