"""Actors: policies on features, as distributions of actions in model units."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import truncated_normal
from .distributions import (
    HALF_LOG_2PI,
    gumbel,
    onehot_argmax,
    straight_through,
    tanh_log_det,
    tanh_normal_log_prob,
    top2_margin,
    unimix_log_probs,
)
from .layers import MLP, Activation, Normalization, RMSNorm, elu_

ENTROPY_SAMPLES = 100  # of a tanh-normal whose mode takes none
NEWTON_STEPS = 4  # 1e-5 of the action where they are slowest, which is rounding
INSIDE = 1e-6  # an action is taken this far inside its bounds before its tanh is undone


class Actor(Protocol):
    """A policy on features: an nn.Module from features to the stats of an action distribution.

    Attributes:
        net: from features to the stats, or to the units that the output layers read.
        noise_shape: noise per state that `act`, `mode` and `margin` take; `sample` takes its
            first sample where it has two axes, all of it where it has one.
        noise_kind: distribution of that noise.
        entropy_shape: noise per state that `entropy` is given; a closed form does not read it.
    """

    net: MLP
    noise_shape: tuple[int, ...]
    noise_kind: Literal["normal", "uniform"]
    entropy_shape: tuple[int, ...]

    def __call__(self, feat: Tensor) -> Tensor:
        """Stats of the action distribution: (..., F) -> (..., stats)."""
        ...

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """A sample in model units: (..., A)."""
        ...

    def mode(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The likeliest action in model units, or the likeliest of several samples: (B, A)."""
        ...

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The mode where `deterministic` (B,), else a sample: (B, A)."""
        ...

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability or log-density of an action in nats: (..., A) -> (...)."""
        ...

    def entropy(self, stats: Tensor, noise: Tensor | None = None) -> Tensor:
        """Entropy in nats, from noise (..., *entropy_shape) where it has no closed form: (...)."""
        ...

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """Margin of the chosen alternative over the second (`top2_margin`): (B,); inf if none."""
        ...


class TanhNormalActor(nn.Module):
    """A Normal distribution squashed by tanh, with a bounded mean.

    mean = scale * tanh(m / scale), std = softplus(s + softplus^-1(init_std)) + min_std, where m is
    the first and s the second half of the network's output. The mode has no closed form. Without
    samples it is the density's maximum, found dimension by dimension (`tanh_normal_mode`); with
    them the likeliest of so many samples, chosen state by state.

    Args:
        inputs: F, size of the features.
        action: A, length of the action.
        units: width of the hidden layers.
        layers: number of hidden layers.
        init_std: standard deviation before tanh where the network puts out zero.
        mean_scale: largest absolute mean before tanh.
        min_std: smallest standard deviation before tanh.
        samples: candidates for the mode; 0 is the exact one.
        act: activation.

    Source: danijar/dreamer models.py:ActionDecoder and tools.py:SampleDist. Two changes: that code
    takes the likeliest index of the batch's first element for all, and computes log-densities
    through a clipped atanh.
    """

    noise_kind: Literal["normal", "uniform"] = "normal"

    def __init__(
        self,
        inputs: int,
        action: int,
        units: int,
        layers: int,
        *,
        init_std: float = 5.0,
        mean_scale: float = 5.0,
        min_std: float = 1e-4,
        samples: int = 100,
        act: Activation = elu_,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.noise_shape = (max(samples, 1), action)
        self.entropy_shape = (samples or ENTROPY_SAMPLES, action)
        # softplus of it is init_std; from 30 on the two are the same to a float's precision
        self.raw_init_std = init_std if init_std > 30 else math.log(math.expm1(init_std))
        self.mean_scale = mean_scale
        self.min_std = min_std
        self.net = MLP(inputs, units, layers, 2 * action, act=act)

    def forward(self, feat: Tensor) -> Tensor:
        """The network's output: (..., F) -> (..., 2A)."""
        return self.net(feat).float()

    def parameters_of(self, stats: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before tanh: (..., 2A) -> (..., A) each."""
        mean, std = stats.chunk(2, -1)
        mean = self.mean_scale * torch.tanh(mean / self.mean_scale)
        return mean, F.softplus(std + self.raw_init_std) + self.min_std

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """A reparameterised sample from standard normal noise (..., A): (..., A) in (-1, 1)."""
        mean, std = self.parameters_of(stats)
        return torch.tanh(mean + std * noise)

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The mode where `deterministic` (B,), else the first sample: (B, A)."""
        if not self.samples:
            mean, std = self.parameters_of(stats)
            mode = tanh_normal_mode(mean, std)
            return torch.tanh(torch.where(deterministic[:, None], mode, mean + std * noise[:, 0]))
        u, log_prob = self._candidates(stats, noise)
        best = torch.where(deterministic, log_prob.argmax(-1), 0)
        index = best[:, None, None].expand(-1, 1, u.shape[-1])
        return torch.tanh(u.gather(1, index)).squeeze(1)

    def mode(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The density's maximum, or the likeliest of `samples` samples: (B, A)."""
        return self.act(stats, noise, torch.ones_like(stats[:, 0], dtype=torch.bool))

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-density in nats, summed over the dimensions: (..., A) -> (...).

        Through atanh, so actions near the bounds lose digits; `sample_entropy` does not.
        """
        mean, std = self.parameters_of(stats)
        u = torch.atanh(action.clamp(INSIDE - 1, 1 - INSIDE))
        normal = -0.5 * ((u - mean) / std).square() - torch.log(std) - HALF_LOG_2PI
        return (normal - tanh_log_det(u)).sum(-1)

    def entropy(self, stats: Tensor, noise: Tensor | None = None) -> Tensor:
        """Monte-Carlo estimate from noise (B, n, A) of any n: (B,) nats."""
        assert noise is not None, "a tanh-normal's entropy has no closed form; it takes noise"
        return -self._candidates(stats, noise)[1].mean(-1)

    def sample_entropy(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Minus the log-density of the sample made by noise (..., A): (...) nats."""
        mean, std = self.parameters_of(stats)
        return -tanh_normal_log_prob(mean + std * noise, noise, std)

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """Margin of the mode; inf for a sample: (B,).

        Among samples it is the log-density of the best over the second. The exact mode chooses
        between two maxima where 2 std^2 > 1, by the side of the mean: its smallest distance to 0.
        """
        if not self.samples:
            mean, std = self.parameters_of(stats)
            sides = torch.where(2 * std.square() > 1, mean.abs(), torch.inf).amin(-1)
            return torch.where(deterministic, sides, torch.inf)
        _, log_prob = self._candidates(stats, noise)
        return torch.where(deterministic, top2_margin(log_prob), torch.inf)

    def _candidates(self, stats: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (x.unsqueeze(1) for x in self.parameters_of(stats))
        u = mean + std * noise
        return u, tanh_normal_log_prob(u, noise, std)


def tanh_normal_mode(mean: Tensor, std: Tensor) -> Tensor:
    """Mode of tanh(u) under u ~ Normal(mean, std), before tanh: (...).

    A maximum of the density of tanh(u) solves u = m + s tanh(u) with m = mean and s = 2 std^2; the
    highest one has the mean's sign (plus for 0). Newton's steps find it. Where s is far from 1 it
    lies close to m + s, which is beyond it. Round s = 1 and m = 0 the derivative nears 0 and steps
    from there gain a third each; tanh(u) = u - u^3 / 3 makes it u = sqrt(3 (s - 1)) for m = 0 and
    the cube root of 3 m for s = 1, whose sum is close to it and seldom short of it.
    """
    side = torch.where(mean < 0, -1.0, 1.0)
    mean, twice = mean.abs(), 2 * std.square()
    above, below = F.relu(twice - 1), 1 - twice
    near = torch.sqrt(3 * above) + (3 * mean).pow(1 / 3) + 0.5 * (above + mean)
    u = torch.minimum(mean + twice, near).detach()  # a root has no slope at 0; the steps have it
    for _ in range(NEWTON_STEPS):
        t = torch.tanh(u)
        pull = twice * t
        slope = (below + pull * t).clamp(min=1e-6)  # rounding may make it negative
        u = u - (u - mean - pull) / slope
    return side * u


class TruncatedNormalActor(nn.Module):
    """A Normal distribution truncated to [-1, 1], which the action needs no squashing for.

    Its location is tanh(m) and also its mode; its scale is 2 sigmoid(s / 2) + min_std. Samples are
    differentiable, density and entropy have closed forms.

    Args:
        inputs: F, size of the features.
        action: A, length of the action.
        units: width of the hidden layers.
        layers: number of hidden layers.
        min_std: smallest scale before truncation.
        act: activation.
        norm: makes a normalisation of a given width, applied before each activation.

    Source: Hafner et al. 2021 (arXiv:2010.02193), continuous control; danijar/dreamerv2
    common/nets.py:DistLayer (`trunc_normal`) and common/dists.py:TruncNormalDist.
    """

    noise_kind: Literal["normal", "uniform"] = "uniform"
    margin_to_bounds = 1e-6  # samples stay this far inside

    def __init__(
        self,
        inputs: int,
        action: int,
        units: int,
        layers: int,
        *,
        min_std: float = 0.1,
        act: Activation = elu_,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.noise_shape, self.entropy_shape = (action,), ()
        self.min_std = min_std
        self.net = MLP(inputs, units, layers, act=act, norm=norm)
        self.mean, self.std = nn.Linear(units, action), nn.Linear(units, action)

    def forward(self, feat: Tensor) -> Tensor:
        """Locations, then scales: (..., F) -> (..., 2A)."""
        return self.after_first(self.net.first(feat))

    def after_first(self, first: Tensor) -> Tensor:
        """Locations, then scales, from the network's first product: (..., units) -> (..., 2A)."""
        units = self.net.after_first(first)
        std = 2 * torch.sigmoid(self.std(units).float() / 2) + self.min_std
        return torch.cat([torch.tanh(self.mean(units).float()), std], -1)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """A reparameterised sample from uniform noise (..., A), clipped straight-through."""
        limit = 1 - self.margin_to_bounds
        loc, scale = stats.chunk(2, -1)
        action = truncated_normal.sample(loc, scale, noise)
        return action + (action.clamp(-limit, limit) - action).detach()

    def mode(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The location: (B, A)."""
        return stats.chunk(2, -1)[0]

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The mode where `deterministic` (B,), else a sample: (B, A)."""
        sample = self.sample(stats, noise)
        return torch.where(deterministic[:, None], self.mode(stats, noise), sample)

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-density in nats, summed over the dimensions: (..., A) -> (...)."""
        return truncated_normal.log_prob(action, *stats.chunk(2, -1)).sum(-1)

    def entropy(self, stats: Tensor, noise: Tensor | None = None) -> Tensor:
        """Entropy in nats, summed over the dimensions; the noise is not used: (...)."""
        return truncated_normal.entropy(*stats.chunk(2, -1)).sum(-1)

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """Margin of a choice among alternatives, of which there is none here: inf (B,)."""
        return torch.full_like(stats[:, 0], math.inf)


class OneHotActor(nn.Module):
    """Independent categoricals, one a group, as joined one-hots with straight-through gradients.

    Args:
        inputs: F, size of the features.
        nvec: number of classes of each group; one group for a Discrete action.
        units: width of the hidden layers.
        layers: number of hidden layers.
        act: activation.
        norm: makes a normalisation of a given width, applied before each activation.

    Source: danijar/dreamer models.py:ActionDecoder (`onehot`); several groups are ours.
    """

    noise_kind: Literal["normal", "uniform"] = "uniform"

    def __init__(
        self,
        inputs: int,
        nvec: Sequence[int],
        units: int,
        layers: int,
        *,
        act: Activation = elu_,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.nvec = list(nvec)
        self.noise_shape = self.entropy_shape = (sum(nvec),)
        self.net = MLP(inputs, units, layers, sum(nvec), act=act, norm=norm)

    def forward(self, feat: Tensor) -> Tensor:
        """The logits: (..., F) -> (..., A)."""
        return self.net(feat).float()

    def after_first(self, first: Tensor) -> Tensor:
        """The logits from the network's first product: (..., units) -> (..., A)."""
        return self.net.after_first(first).float()

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """One-hots by Gumbel-max on uniform noise (..., A), with softmax's gradient: (..., A)."""
        groups = zip(self._groups(stats), self._groups(stats + gumbel(noise)), strict=True)
        hot = [straight_through(onehot_argmax(s.detach()), logits) for logits, s in groups]
        return torch.cat(hot, -1)

    def mode(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The likeliest classes: (B, A)."""
        return torch.cat([onehot_argmax(group) for group in self._groups(stats)], -1)

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The likeliest classes where `deterministic` (B,), else a sample: (B, A)."""
        scores = self._scores(stats, noise, deterministic)
        return torch.cat([onehot_argmax(group) for group in self._groups(scores)], -1)

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability of joined one-hots in nats, summed over the groups: (..., A) -> (...)."""
        return (self._log_probs(stats) * action).sum(-1)

    def entropy(self, stats: Tensor, noise: Tensor | None = None) -> Tensor:
        """Exact entropy, summed over the groups; the noise is not used: (...) nats."""
        logs = self._log_probs(stats)
        return -(logs.exp() * logs).sum(-1)

    def sample_entropy(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The exact entropy; the noise is not used: (...) nats."""
        return self.entropy(stats, noise)

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """Smallest margin of any group, of logits or, for a sample, perturbed logits: (B,)."""
        scores = self._scores(stats, noise, deterministic)
        return torch.stack([top2_margin(group) for group in self._groups(scores)]).amin(0)

    def _scores(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        return stats + torch.where(deterministic[:, None], 0.0, gumbel(noise))

    def _log_probs(self, stats: Tensor) -> Tensor:
        return torch.cat([torch.log_softmax(group, -1) for group in self._groups(stats)], -1)

    def _groups(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.nvec, -1)


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
        self.noise_shape, self.entropy_shape = (action,), ()
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

    def mode(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The mean: (B, A)."""
        return stats.chunk(2, -1)[0]

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The mean where `deterministic` (B,), else a sample: (B, A)."""
        return self.sample(stats, torch.where(deterministic[:, None], 0.0, noise))

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-density before clipping in nats, summed over the dimensions."""
        mean, std = stats.chunk(2, -1)
        return (-0.5 * ((action - mean) / std).square() - torch.log(std) - HALF_LOG_2PI).sum(-1)

    def entropy(self, stats: Tensor, noise: Tensor | None = None) -> Tensor:
        """Entropy before clipping in nats, summed over the dimensions; takes no noise."""
        return (torch.log(stats.chunk(2, -1)[1]) + (0.5 + HALF_LOG_2PI)).sum(-1)

    def margin(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """Margin of a choice among alternatives, of which there is none here: inf (B,)."""
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
        self.noise_shape, self.entropy_shape = (sum(nvec),), ()
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

    def mode(self, stats: Tensor, noise: Tensor) -> Tensor:
        """The likeliest classes: (B, A)."""
        return torch.cat([onehot_argmax(group) for group in stats.split(self.nvec, -1)], -1)

    def act(self, stats: Tensor, noise: Tensor, deterministic: Tensor) -> Tensor:
        """The likeliest classes where `deterministic` (B,), else a sample: (B, A)."""
        scores = self._scores(stats, noise, deterministic)
        return torch.cat([onehot_argmax(group) for group in scores], -1)

    def log_prob(self, stats: Tensor, action: Tensor) -> Tensor:
        """Log-probability of joined one-hots in nats, summed over the groups."""
        return (stats * action).sum(-1)

    def entropy(self, stats: Tensor, noise: Tensor | None = None) -> Tensor:
        """Entropy in nats, summed over the groups; takes no noise."""
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
