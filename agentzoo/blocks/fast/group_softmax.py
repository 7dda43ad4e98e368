"""A softmax over small groups of neighbours, laid out so that many groups are computed at once.

Plain form: `torch.softmax` over a short last axis, which goes through the groups one by one.
"""

import torch
from torch import Tensor

from . import enabled


def group_softmax(x: Tensor, group: int) -> Tensor:
    """A softmax within each `group` neighbouring entries of the last axis: (..., L) -> (..., L)."""
    if not enabled() or x.device.type != "cpu" or torch.compiler.is_exporting():
        return torch.softmax(x.unflatten(-1, (-1, group)), -1).flatten(-2)
    # (..., L) -> (group, N), so that the sums are taken over the first axis
    columns = x.reshape(-1, group).t().contiguous()
    return torch.softmax(columns, 0).t().reshape(x.shape)
