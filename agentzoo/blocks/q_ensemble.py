"""An ensemble of Q networks whose members are computed together."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fast.mish import mish

LAYER_NORM_EPS = 1e-5  # torch's own default


class EnsembleLinear(nn.Module):
    """One linear map for each member: (Q, N, inputs) -> (Q, N, outputs) as one batched product.

    Args:
        members: Q.
        inputs: size of the input.
        outputs: size of the result.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(Q, N, inputs) -> (Q, N, outputs)."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class EnsembleLayerNorm(nn.Module):
    """Mean 0 and variance 1 over the last axis, with a gain and an offset for each member.

    Args:
        members: Q.
        size: length of the last axis.
    """

    def __init__(self, members: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, size))
        self.bias = nn.Parameter(torch.zeros(members, size))

    def forward(self, x: Tensor) -> Tensor:
        """(Q, N, size) -> (Q, N, size)."""
        if torch.compiler.is_exporting():  # as few nodes for many members as for one
            normed = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
            return normed * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)
        # a kernel for each member has its gain and offset in it, and their gradients
        members = zip(x.unbind(), self.weight.unbind(), self.bias.unbind(), strict=True)
        shape = x.shape[-1:]
        return torch.stack([F.layer_norm(m, shape, w, b, LAYER_NORM_EPS) for m, w, b in members])


class QEnsemble(nn.Module):
    """Q networks of two hidden layers, layer-normalised, with Mish and an output for each bin.

    The output layers start at zero, so a fresh ensemble says 0 of everything. Dropout stands before
    the first normalisation and needs its draws given, so that an update is a function of its noise.

    Args:
        inputs: size of the latent state and the action joined.
        units: width of the hidden layers.
        bins: outputs of each member.
        members: Q.
        dropout: share of the first layer's products that are dropped while learning.

    Source: Hansen et al. 2024 (arXiv:2310.16828), section 3.1; nicklashansen/tdmpc2
    common/layers.py:Ensemble and NormedLinear.
    """

    def __init__(self, inputs: int, units: int, bins: int, members: int, dropout: float) -> None:
        super().__init__()
        self.members, self.units, self.dropout = members, units, dropout
        self.first = EnsembleLinear(members, inputs, units)
        self.first_norm = EnsembleLayerNorm(members, units)
        self.second = EnsembleLinear(members, units, units)
        self.second_norm = EnsembleLayerNorm(members, units)
        self.out = EnsembleLinear(members, units, bins)
        nn.init.zeros_(self.out.weight)

    def mask_shape(self, lead: Sequence[int]) -> tuple[int, ...]:
        """Shape of the uniform draws that dropout takes for inputs (*lead, inputs)."""
        return (self.members, *lead, self.units)

    def forward(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """Logits of every member.

        Args:
            x: (..., inputs).
            draws: uniform draws of `mask_shape`, for dropout; None drops nothing.

        Returns:
            (Q, ..., bins).
        """
        lead = x.shape[:-1]
        flat = x.flatten(0, -2) if len(lead) > 1 else x
        # (N, inputs) -> (Q, N, inputs), without a copy
        hidden = self.first(flat.expand(self.members, *flat.shape))
        if draws is not None:
            kept = (draws.view(hidden.shape) >= self.dropout).float()
            hidden = hidden * kept.div_(1 - self.dropout)
        hidden = mish(self.first_norm(hidden))
        hidden = mish(self.second_norm(self.second(hidden)))
        logits = self.out(hidden)
        return logits.unflatten(1, lead) if len(lead) > 1 else logits


def pick_two(values: Tensor, draws: Tensor) -> Tensor:
    """The values of two members drawn at random: those with the two largest draws.

    Args:
        values: (Q, ...).
        draws: (Q,) uniform, or (..., Q) where every entry has its own pair.

    Returns:
        (..., 2).

    Source: Chen et al. 2021 (arXiv:2101.05982); nicklashansen/tdmpc2 common/world_model.py:Q.
    """
    pair = draws.topk(2, -1).indices
    return values.movedim(0, -1).gather(-1, pair.expand(*values.shape[1:], 2))
