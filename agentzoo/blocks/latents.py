"""Stochastic latents: how a network's output becomes a distribution, a sample and a divergence."""

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributions import gumbel, onehot_argmax, top2_margin, unimix_log_probs
from .fast import class_by_class
from .kl import categorical_kl, gaussian_kl


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


class MeanLatent(GaussianLatent):
    """A Gaussian whose mean stands for its sample: a deterministic state with the same divergence.

    Args:
        size: S, number of dimensions.
        min_std: added to softplus of the second half.

    Source: google-research/planet models/rssm.py (`mean_only`).
    """

    def __init__(self, size: int, min_std: float = 0.1) -> None:
        super().__init__(size, min_std)
        self.noise_shape = (0,)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The mean (..., S); the noise (..., 0) is none."""
        return self.mode(stats)


class CategoricalLatent:
    """Groups of classes, joined as one-hots, with straight-through gradients; stats are the logits.

    Args:
        groups: S, number of categoricals.
        classes: K, classes of each.
        unimix: share of the uniform distribution in samples, divergences and entropies.

    Source: Hafner et al. 2021 (arXiv:2010.02193); unimix Hafner et al. 2025 (arXiv:2301.04104v2).
    """

    noise_kind: Literal["normal", "uniform"] = "uniform"

    def __init__(self, groups: int, classes: int, unimix: float = 0.0) -> None:
        self.size = self.stats_size = groups * classes
        self.noise_shape = (groups, classes)
        self.unimix = unimix

    def log_probs(self, stats: Tensor) -> Tensor:
        """Log-probabilities in nats, unimix included: (..., S*K) -> (..., S, K)."""
        return unimix_log_probs(stats.unflatten(-1, self.noise_shape), self.unimix)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """One-hots by Gumbel-max on uniform noise (..., S, K), with the probabilities' gradient."""
        few = self.noise_shape[-1] < class_by_class.FEW
        if few and torch.compiler.is_dynamo_compiling() and not stats.requires_grad:
            return class_by_class.sample(stats.float(), noise, self.unimix)
        logs = self.log_probs(stats)
        hot = onehot_argmax(logs.detach() + gumbel(noise))
        if logs.requires_grad:
            probs = logs.exp()
            hot = hot + (probs - probs.detach())
        return hot.flatten(-2)

    def mode(self, stats: Tensor) -> Tensor:
        """The likeliest class of each group as a one-hot (..., S*K)."""
        return onehot_argmax(stats.unflatten(-1, self.noise_shape)).flatten(-2)

    def margin(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Margin of the closest choice of a class (`top2_margin`): (B, S*K) -> (B,)."""
        return top2_margin(self.log_probs(stats) + gumbel(noise)).amin(-1)

    def kl(self, post: Tensor, prior: Tensor) -> Tensor:
        """KL(post || prior) in nats, summed over the groups."""
        return categorical_kl(self.log_probs(post), self.log_probs(prior))

    def entropy(self, stats: Tensor) -> Tensor:
        """Entropy in nats, summed over the groups."""
        logs = self.log_probs(stats)
        return -(logs.exp() * logs).sum((-2, -1))

    def index(self, stoch: Tensor) -> Tensor:
        """One-hots as the indices of their classes: (..., S*K) -> (..., S) uint8."""
        return stoch.unflatten(-1, self.noise_shape).argmax(-1).to(torch.uint8)

    def onehot(self, index: Tensor) -> Tensor:
        """The inverse of `index`: (..., S) -> (..., S*K) float32."""
        classes = torch.arange(self.noise_shape[1], device=index.device)
        return (index.unsqueeze(-1) == classes).float().flatten(-2)
