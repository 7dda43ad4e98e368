"""Heads on features: scalars as distributions, with a mean and a likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .compiled import compiled_form, enabled
from .distributions import normal_nll
from .fast import mlp_input_grad
from .layers import MLP, Activation, Normalization, RMSNorm, elu_, fused_first_layer
from .twohot import BINS, symexp_bins, twohot_loss, twohot_mean


class Prediction(Protocol):
    """A distribution of a scalar that a head predicts, for states (...)."""

    @property
    def mean(self) -> Tensor:
        """The expectation, in task units: (...)."""
        ...

    def log_prob(self, target: Tensor) -> Tensor:
        """Log-likelihood of a target in nats: (...) -> (...)."""
        ...

    def loss(self, target: Tensor) -> Tensor:
        """The negative log-likelihood in nats, constants included: (...) -> (...)."""
        ...


@dataclass(frozen=True)
class NormalPrediction:
    """A Normal distribution of unit deviation.

    Attributes:
        mean: (...), which is also the mode.
    """

    mean: Tensor

    def log_prob(self, target: Tensor) -> Tensor:
        """Log-density in nats: (...) -> (...)."""
        return -self.loss(target)

    def loss(self, target: Tensor) -> Tensor:
        """Negative log-likelihood in nats, constant included: (...) -> (...)."""
        return normal_nll(target, self.mean)


@dataclass(frozen=True)
class BernoulliPrediction:
    """The probability of an event; targets may be soft.

    Attributes:
        logit: (...).
    """

    logit: Tensor

    @property
    def mean(self) -> Tensor:
        """The probability: (...)."""
        return torch.sigmoid(self.logit)

    def log_prob(self, target: Tensor) -> Tensor:
        """Log-likelihood in nats of a target in [0, 1]: (...) -> (...)."""
        return -self.loss(target)

    def loss(self, target: Tensor) -> Tensor:
        """Negative log-likelihood in nats of a target in [0, 1]: (...) -> (...)."""
        return F.binary_cross_entropy_with_logits(self.logit, target, reduction="none")


@dataclass(frozen=True)
class TwoHotPrediction:
    """A distribution over exponentially spaced bins.

    Attributes:
        logits: (..., M).
        bins: (M,) in task units.

    Source: Hafner et al. 2025 (arXiv:2301.04104v2), symexp twohot loss.
    """

    logits: Tensor
    bins: Tensor

    @property
    def mean(self) -> Tensor:
        """The expectation in task units: (...)."""
        return twohot_mean(self.logits, self.bins)

    def log_prob(self, target: Tensor) -> Tensor:
        """Minus the cross-entropy in nats: (...) -> (...)."""
        return -self.loss(target)

    def loss(self, target: Tensor, *others: tuple[float, Tensor]) -> Tensor:
        """Cross-entropy in nats to a target's two-hot code: (...) -> (...).

        `others` are further targets whose cross-entropies are added with the given weights.
        """
        return twohot_loss(self.logits, target, self.bins, *others)


class Head(Protocol):
    """A network on features whose output is the stats of a distribution: an nn.Module.

    Attributes:
        net: the network; its first product can be shared with other heads on the same features.
    """

    net: MLP

    def __call__(self, feat: Tensor) -> Tensor:
        """The stats: (..., F) -> (..., stats)."""
        ...

    def after_first(self, first: Tensor) -> Tensor:
        """The head's output from its network's first product (..., units)."""
        ...


class PredictingHead(Head, Protocol):
    """A head of a scalar."""

    def prediction(self, stats: Tensor) -> Prediction:
        """The distribution that the output parametrises."""
        ...


def fused_outputs(feat: Tensor, *heads: Head) -> list[Tensor]:
    """The outputs of several heads for the same features, their first products taken as one."""
    firsts = fused_first_layer(feat, [head.net for head in heads])
    return [head.after_first(first) for head, first in zip(heads, firsts, strict=True)]


def fused_means(feat: Tensor, *heads: PredictingHead) -> list[Tensor]:
    """The expectations of several heads for the same features: (..., F) -> (...) each.

    Compiled where that is asked for and no gradient is (`compiled.py`).
    """
    return (compiled_form(_means) if enabled() else _means)(feat, *heads)


def _means(feat: Tensor, *heads: PredictingHead) -> list[Tensor]:
    outputs = zip(heads, fused_outputs(feat, *heads), strict=True)
    return [head.prediction(output).mean for head, output in outputs]


class NormalHead(nn.Module):
    """A scalar under a Normal distribution of unit deviation.

    Args:
        inputs: F, size of the features.
        units: width of the hidden layers.
        layers: number of hidden layers.
        act: activation.
        norm: makes a normalisation of a given width, applied before each activation.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        *,
        act: Activation = elu_,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.net = MLP(inputs, units, layers, 1, act=act, norm=norm)

    def forward(self, feat: Tensor) -> Tensor:
        """The mean, which is also the mode: (..., F) -> (...)."""
        return self.net(feat).squeeze(-1).float()

    def input_grad(self, feats: Sequence[Tensor]) -> Tensor:
        """The mean, differentiable in the features alone: T steps (N, F) -> (N, T)."""
        return mlp_input_grad.input_grad(self.net, feats)

    def value_and_input_grad(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The mean twice, (N, T): differentiable in the features alone, in the weights alone."""
        return mlp_input_grad.value_and_input_grad(self.net, feats)

    def after_first(self, first: Tensor) -> Tensor:
        """The mean from the network's first product: (..., units) -> (...)."""
        return self.net.after_first(first).squeeze(-1).float()

    def prediction(self, stats: Tensor) -> NormalPrediction:
        """The distribution that the output parametrises."""
        return NormalPrediction(stats)


class BernoulliHead(nn.Module):
    """The probability of an event, as a logit; targets may be soft.

    Args:
        inputs: F, size of the features.
        units: width of the hidden layers.
        layers: number of hidden layers.
        act: activation.
        norm: makes a normalisation of a given width, applied before each activation.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        *,
        act: Activation = elu_,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.net = MLP(inputs, units, layers, 1, act=act, norm=norm)

    def forward(self, feat: Tensor) -> Tensor:
        """The logit: (..., F) -> (...)."""
        return self.net(feat).squeeze(-1).float()

    def after_first(self, first: Tensor) -> Tensor:
        """The logit from the network's first product: (..., units) -> (...)."""
        return self.net.after_first(first).squeeze(-1).float()

    def input_grad(self, feats: Sequence[Tensor]) -> Tensor:
        """The logit, differentiable in the features alone: T steps (N, F) -> (N, T)."""
        return mlp_input_grad.input_grad(self.net, feats)

    def prediction(self, stats: Tensor) -> BernoulliPrediction:
        """The distribution that the output parametrises."""
        return BernoulliPrediction(stats)


class TwoHotHead(nn.Module):
    """A scalar in task units as a distribution over 255 bins.

    Args:
        inputs: F, size of the features.
        units: width of the hidden layers.
        layers: number of hidden layers.

    Source: Hafner et al. 2025 (arXiv:2301.04104v2), symexp twohot loss.
    """

    bins: Tensor

    def __init__(self, inputs: int, units: int, layers: int) -> None:
        super().__init__()
        self.net = MLP(inputs, units, layers, BINS, act=F.silu, norm=RMSNorm)
        self.register_buffer("bins", symexp_bins(), persistent=False)

    def forward(self, feat: Tensor) -> Tensor:
        """The logits: (..., F) -> (..., M)."""
        return self.net(feat).float()

    def after_first(self, first: Tensor) -> Tensor:
        """The logits from the network's first product: (..., units) -> (..., M)."""
        return self.net.after_first(first).float()

    def prediction(self, stats: Tensor) -> TwoHotPrediction:
        """The distribution that the output parametrises."""
        return TwoHotPrediction(stats, self.bins)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply the output layer's weights, for initialisation; 0 predicts exactly 0."""
        assert self.net.out is not None
        self.net.out.weight.mul_(factor)
