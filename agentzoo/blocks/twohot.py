"""Scalars as distributions over exponentially spaced bins: robust to rewards of any size."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributions import symexp
from .layers import MLP, RMSNorm

BINS = 255
REACH = 20.0  # symlog of the largest bin


def symexp_bins(count: int = BINS, reach: float = REACH) -> Tensor:
    """Bins equally spaced in symlog, in task units: (count,), antisymmetric, the middle exactly 0.

    Source: danijar/dreamerv3 embodied/jax/heads.py:symexp_twohot.
    """
    assert count % 2 == 1, count
    below = symexp(torch.linspace(-reach, 0, count // 2 + 1))
    return torch.cat([below, -below[:-1].flip(0)])


def twohot_weights(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Where a number lies between its two neighbouring bins.

    Args:
        target: (...); beyond the outer bins it counts as on them.
        bins: (M,) ascending.

    Returns:
        Index of the lower bin (...) int64 and weight of the upper one (...) in [0, 1], linear in
        the numbers themselves.
    """
    low = (torch.searchsorted(bins, target.contiguous(), right=True) - 1).clamp(0, len(bins) - 2)
    below, above = bins[low], bins[low + 1]
    return low, ((target - below) / (above - below)).clamp(0, 1)


def twohot_loss(
    logits: Tensor, target: Tensor, bins: Tensor, *others: tuple[float, Tensor]
) -> Tensor:
    """Cross-entropy in nats to the two-hot code of a number, or of several at once.

    By one log-softmax and two gathers a number: the dense target of M numbers is never made, and
    the gradient is one softmax however many numbers there are.

    Args:
        logits: (..., M).
        target: (...) in task units.
        bins: (M,).
        others: further targets, whose cross-entropies are added with the given weights.

    Returns:
        (...).

    Source: Bellemare et al. 2017 (arXiv:1707.06887); Hafner et al. 2025 (arXiv:2301.04104v2).
    """
    indices: list[Tensor] = []
    masses: list[Tensor] = []
    for weight, number in ((1.0, target), *others):
        low, upper = twohot_weights(number, bins)
        indices += [low, low + 1]
        masses += [weight * (1 - upper), weight * upper]
    total = 1.0 + sum(weight for weight, _ in others)
    return _CrossEntropy.apply(logits, torch.stack(indices, -1), torch.stack(masses, -1), total)


class _CrossEntropy(torch.autograd.Function):
    """Minus the sum of mass * log-softmax at a few indices, whose gradient is made in place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, mass: Tensor, total: float) -> Tensor:
        logs = torch.log_softmax(logits, -1)
        ctx.save_for_backward(logs, index, mass)
        ctx.total = total
        return -(logs.gather(-1, index) * mass).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        logs, index, mass = ctx.saved_tensors
        up = grads[0].unsqueeze(-1)
        grad = logs.exp().mul_(ctx.total * up)
        return grad.scatter_add_(-1, index, -up * mass), None, None, None


def twohot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """Expectation of the bins, (..., M) -> (...); exactly 0 where all logits are equal.

    Bins of opposite sign are paired before anything is added up, as 5e8 - 5e8 leaves nothing of
    the small ones in float32.

    Source: danijar/dreamerv3 embodied/jax/outs.py:TwoHot.
    """
    probs, half = torch.softmax(logits, -1), len(bins) // 2
    # (..., M) -> (..., M // 2), what a bin has more than its mirror image
    surplus = probs[..., half + 1 :] - probs[..., :half].flip(-1)
    return (surplus * bins[half + 1 :]).sum(-1)


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

    def mean(self, logits: Tensor) -> Tensor:
        """The expectation in task units: (..., M) -> (...)."""
        return twohot_mean(logits, self.bins)

    def loss(self, logits: Tensor, target: Tensor, *others: tuple[float, Tensor]) -> Tensor:
        """Cross-entropy in nats, to further weighted targets too: (..., M) and (...) -> (...)."""
        return twohot_loss(logits, target, self.bins, *others)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply the output layer's weights, for initialisation; 0 predicts exactly 0."""
        assert self.net.out is not None
        self.net.out.weight.mul_(factor)
