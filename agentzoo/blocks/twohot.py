"""Scalars as distributions over exponentially spaced bins: robust to rewards of any size."""

import torch
from torch import Tensor

from .distributions import symexp
from .fast.two_hot_loss import cross_entropy

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
    """Position of a number between its two neighbouring bins.

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
    return cross_entropy(logits, torch.stack(indices, -1), torch.stack(masses, -1), total)


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
