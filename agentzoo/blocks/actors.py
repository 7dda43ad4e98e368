"""Actors for score-function gradients: samples are constants, log-probabilities are learned."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributions import HALF_LOG_2PI, gumbel, onehot_argmax, top2_margin, unimix_log_probs
from .layers import MLP, RMSNorm


class ScoreActor(Protocol):
    """A policy on features whose samples have a log-probability: an nn.Module.

    Attributes:
        net: from features to the units that the output layers read.
        noise_shape: noise that one sample takes.
        noise_kind: distribution of that noise.
    """

    net: MLP
    noise_shape: tuple[int, ...]
    noise_kind: Literal["normal", "uniform"]

    def __call__(self, feat: Tensor) -> Tensor:
        """Stats of the action distribution: (..., F) -> (..., stats)."""
        ...

    def after_first(self, first: Tensor) -> Tensor:
        """The stats from the network's first product: (..., units) -> (..., stats)."""
        ...

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The mode where `deterministic` (B,), else a sample: (B, A)."""
        ...

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """A sample in model units: (..., A)."""
        ...

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability or log-density of an action in nats: (..., A) -> (...)."""
        ...

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy in nats: (...)."""
        ...

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """By how much the chosen alternative beat the second (`top2_margin`): (B,); inf if none."""
        ...

    def scale_output(self, factor: float) -> None:
        """Multiply the output layer's weights, for initialisation."""
        ...


class BoundedNormalActor(nn.Module):
    """A Normal distribution with mean tanh(m) and deviation (max - min) sigmoid(s + 2) + min.

    Samples are not squashed: the environment's bounds clip them, and so does what reads them.

    Args:
        inputs: F, size of the features.
        action: A, length of the action.
        units: width of the hidden layers.
        layers: number of hidden layers.
        min_std: smallest standard deviation.
        max_std: largest standard deviation.

    Source: danijar/dreamerv3 embodied/jax/heads.py:bounded_normal.
    """

    noise_kind: Literal["normal", "uniform"] = "normal"

    def __init__(
        self,
        inputs: int,
        action: int,
        units: int,
        layers: int,
        *,
        min_std: float = 0.1,
        max_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.noise_shape = (action,)
        self.min_std, self.max_std = min_std, max_std
        self.net = MLP(inputs, units, layers, act=F.silu, norm=RMSNorm)
        self.mean, self.std = nn.Linear(units, action), nn.Linear(units, action)

    def forward(self, feat: Tensor) -> Tensor:
        """Means, then deviations: (..., F) -> (..., 2A)."""
        return self.after_first(self.net.first(feat))

    def after_first(self, first: Tensor) -> Tensor:
        """Means, then deviations, from the network's first product: (..., units) -> (..., 2A)."""
        units = self.net.after_first(first)
        std = torch.sigmoid(self.std(units).float() + 2)
        std = self.min_std + (self.max_std - self.min_std) * std
        return torch.cat([torch.tanh(self.mean(units).float()), std], -1)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Mean plus deviation times standard normal noise (..., A)."""
        mean, std = stats.chunk(2, -1)
        return mean + std * noise

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The mean where `deterministic` (B,), else a sample: (B, A)."""
        return self.sample(stats, torch.where(deterministic[:, None], 0.0, noise))

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-density before clipping in nats, summed over the dimensions."""
        mean, std = stats.chunk(2, -1)
        return (-0.5 * ((action - mean) / std).square() - torch.log(std) - HALF_LOG_2PI).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy before clipping in nats, summed over the dimensions."""
        return (torch.log(stats.chunk(2, -1)[1]) + (0.5 + HALF_LOG_2PI)).sum(-1)

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """Nothing is chosen among alternatives: inf (B,)."""
        return torch.full_like(stats[:, 0], math.inf)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply the weights of mean and deviation."""
        self.mean.weight.mul_(factor)
        self.std.weight.mul_(factor)


class UnimixActor(nn.Module):
    """Independent categoricals, one a group, each mixed with a uniform distribution.

    Args:
        inputs: F, size of the features.
        nvec: number of classes of each group; one group for a Discrete action.
        units: width of the hidden layers.
        layers: number of hidden layers.
        unimix: the uniform distribution's share.

    Source: Hafner et al. 2025 (arXiv:2301.04104v2). The released code's categorical head ignores
    its own `unimix` (danijar/dreamerv3#219); the paper is followed. Several groups are ours.
    """

    noise_kind: Literal["normal", "uniform"] = "uniform"

    def __init__(
        self, inputs: int, nvec: Sequence[int], units: int, layers: int, *, unimix: float = 0.01
    ) -> None:
        super().__init__()
        self.nvec, self.unimix = list(nvec), unimix
        self.noise_shape = (sum(nvec),)
        self.net = MLP(inputs, units, layers, act=F.silu, norm=RMSNorm)
        self.logits = nn.Linear(units, sum(nvec))

    def forward(self, feat: Tensor) -> Tensor:
        """Log-probabilities, unimix included: (..., F) -> (..., A)."""
        return self.after_first(self.net.first(feat))

    def after_first(self, first: Tensor) -> Tensor:
        """Log-probabilities from the network's first product: (..., units) -> (..., A)."""
        groups = self.logits(self.net.after_first(first)).split(self.nvec, -1)
        return torch.cat([unimix_log_probs(group, self.unimix) for group in groups], -1)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """One-hots by Gumbel-max on uniform noise (..., A), as constants."""
        scores = (stats.detach() + gumbel(noise)).split(self.nvec, -1)
        return torch.cat([onehot_argmax(group) for group in scores], -1)

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The likeliest classes where `deterministic` (B,), else a sample: (B, A)."""
        scores = self._scores(stats, noise, deterministic)
        return torch.cat([onehot_argmax(group) for group in scores], -1)

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability of joined one-hots in nats, summed over the groups."""
        return (stats * action).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy in nats, summed over the groups."""
        return -(stats.exp() * stats).sum(-1)

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """Smallest margin of any group (B,)."""
        scores = self._scores(stats, noise, deterministic)
        return torch.stack([top2_margin(group) for group in scores]).amin(0)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply the weights of the logits."""
        self.logits.weight.mul_(factor)

    def _scores(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> tuple[Tensor, ...]:
        perturbed = stats + torch.where(deterministic[:, None], 0.0, gumbel(noise))
        return perturbed.split(self.nvec, -1)
