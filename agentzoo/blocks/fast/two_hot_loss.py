"""Cross-entropy to a few classes, whose gradient is made in place.

Plain form: a log-softmax, gathers, and autograd's gradient of the two.
"""

from typing import Any

import torch
from torch import Tensor

from . import enabled


def cross_entropy(logits: Tensor, index: Tensor, mass: Tensor, total: float) -> Tensor:
    """Minus the sum of mass * log-softmax at a few indices.

    Args:
        logits: (..., M).
        index: (..., n) int64 classes.
        mass: (..., n), no gradient flows into it.
        total: the sum of the masses, the same everywhere.

    Returns:
        (...) nats.
    """
    if enabled():
        return _CrossEntropy.apply(logits, index, mass, total)
    return -(torch.log_softmax(logits, -1).gather(-1, index) * mass.detach()).sum(-1)


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
