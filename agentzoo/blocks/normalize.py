"""Running scales of what an agent optimises."""

import torch
from torch import Tensor, nn

from ..ranks import ranks


def percentile(x: Tensor, share: float) -> Tensor:
    """The value below which a share of all entries lies, linear between neighbours; a scalar.

    Unlike torch.quantile it takes any number of entries and never waits for the device.
    """
    ordered = x.flatten().sort().values
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


class PercentileScale(nn.Module):
    """Moving averages of two percentiles; their distance is the scale of the returns.

    Starts at zero without bias correction, so a scale grows slowly to that of the task. Its state
    are buffers.

    Args:
        low: share of the entries below the lower percentile.
        high: share of the entries below the upper one.
        decay: of the averages.
        limit: smallest scale, so that small returns are not blown up.

    Source: Hafner et al. 2025 (arXiv:2301.04104v2), actor learning; danijar/dreamerv3
    embodied/jax/utils.py:Normalize.
    """

    lower: Tensor
    upper: Tensor

    def __init__(
        self, low: float = 0.05, high: float = 0.95, decay: float = 0.99, limit: float = 1.0
    ) -> None:
        super().__init__()
        self.low, self.high, self.decay, self.limit = low, high, decay, limit
        self.register_buffer("lower", torch.zeros(()))
        self.register_buffer("upper", torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move the averages towards the percentiles of all entries of x, of every learner's."""
        x = ranks().gather(x)
        self.lower.lerp_(percentile(x, self.low), 1 - self.decay)
        self.upper.lerp_(percentile(x, self.high), 1 - self.decay)

    def forward(self) -> Tensor:
        """The scale to divide by, at least `limit`: a scalar."""
        return torch.clamp(self.upper - self.lower, min=self.limit)
