"""Stochastic latents: how a network's output becomes a distribution, a sample and a divergence."""

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .kl import gaussian_kl


class Latent(Protocol):
    """The stochastic part of an RSSM's state.

    `stats` are what the prior's or posterior's network puts out, before any constraint.

    Attributes:
        size: length of the flat sample, S for Gaussian and S*K for categorical latents.
        stats_size: length of the stats.
        noise_shape: shape of the noise that one sample takes.
        noise_kind: distribution of that noise.
    """

    size: int
    stats_size: int
    noise_shape: tuple[int, ...]
    noise_kind: Literal["normal", "uniform"]

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """A differentiable sample (..., size) from stats (..., stats_size) and its noise."""
        ...

    def mode(self, stats: Tensor) -> Tensor:
        """The most likely value (..., size)."""
        ...

    def kl(self, post: Tensor, prior: Tensor) -> Tensor:
        """KL(post || prior) in nats per state: stats (..., stats_size) -> (...)."""
        ...

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy in nats: (..., stats_size) -> (...)."""
        ...


class GaussianLatent:
    """A diagonal Gaussian whose stats are the means, then the unconstrained deviations.

    Args:
        size: S, number of dimensions.
        min_std: added to softplus of the second half.

    Source: danijar/dreamer models.py:RSSM; 0.1 as in Hafner et al. 2019 (arXiv:1811.04551).
    """

    noise_kind: Literal["normal", "uniform"] = "normal"

    def __init__(self, size: int, min_std: float = 0.1) -> None:
        self.size = size
        self.stats_size = 2 * size
        self.noise_shape = (size,)
        self.min_std = min_std

    def parameters(self, stats: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (..., S) each."""
        mean, std = stats.chunk(2, -1)
        return mean, F.softplus(std) + self.min_std

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Mean plus standard deviation times standard normal noise (..., S)."""
        mean, std = self.parameters(stats)
        return torch.addcmul(mean, std, noise)

    def mode(self, stats: Tensor) -> Tensor:
        """The mean (..., S)."""
        return stats.chunk(2, -1)[0]

    def kl(self, post: Tensor, prior: Tensor) -> Tensor:
        """KL(post || prior) in nats, summed over the S dimensions."""
        return gaussian_kl(*self.parameters(post), *self.parameters(prior))

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy in nats, summed over the S dimensions."""
        _, std = self.parameters(stats)
        return (torch.log(std) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
