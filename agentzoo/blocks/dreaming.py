"""Dreaming: what every recipe does when its world model is called from outside."""

from collections.abc import Callable

from torch import Tensor

from ..algorithm import Carry
from .acting import state_of
from .heads import BernoulliPrediction
from .rssm import RSSM


def dream_step(rssm: RSSM, carry: Carry, action: Tensor, noise: Tensor) -> Carry:
    """One step of the prior: the carry, without an action, that an action (N, A) leads to."""
    state = rssm.img_step(state_of(rssm, carry), action, noise)
    return {"deter": state.deter, "stoch": state.stoch}


def decoded(
    rssm: RSSM, decoder: Callable[[Tensor], dict[str, Tensor]], carry: Carry
) -> dict[str, Tensor]:
    """Observations by key from a carry of N batch elements: (N, h, w, c) in [0, 1], and (N, n)."""
    feat = rssm.feat(state_of(rssm, carry)).unsqueeze(1)  # decoders read sequences (B, T, F)
    return {key: one.squeeze(1) for key, one in decoder(feat).items()}


def continuation(prediction: BernoulliPrediction, discount: float) -> Tensor:
    """The probability that an episode goes on, of a head whose label holds the discount, too."""
    return (prediction.mean / discount).clamp(max=1.0)
