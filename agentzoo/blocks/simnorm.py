"""Simplicial normalisation: a latent as groups of probabilities."""

from torch import Tensor, nn

from .fast.group_softmax import group_softmax


class SimNorm(nn.Module):
    """A softmax within each group of neighbouring entries; every group then adds up to 1.

    Args:
        group: V, entries in a group; divides the last axis.

    Source: Lavoie et al. 2022 (arXiv:2204.00616); Hansen et al. 2024 (arXiv:2310.16828), section
    3.1.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """(..., L) -> (..., L)."""
        return group_softmax(x, self.group)

    def extra_repr(self) -> str:
        """The group's size."""
        return f"group={self.group}"
