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

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """(Q, N, inputs) -> (Q, N, outputs), or of the chosen members alone."""
        weight, bias = (_of(chosen, part) for part in (self.weight, self.bias))
        return torch.baddbmm(bias.unsqueeze(1), x, weight)


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

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """(Q, N, size) -> (Q, N, size), or of the chosen members alone."""
        weight, bias = (_of(chosen, part) for part in (self.weight, self.bias))
        if torch.compiler.is_exporting():  # as few nodes for many members as for one
            normed = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
            return normed * weight.unsqueeze(1) + bias.unsqueeze(1)
        # a kernel for each member has its gain and offset in it, and their gradients
        members = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
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

    def forward(
        self, x: Tensor, draws: Tensor | None = None, chosen: Tensor | None = None
    ) -> Tensor:
        """Logits of every member, or of some.

        Args:
            x: (..., inputs).
            draws: uniform draws of `mask_shape`, for dropout; None drops nothing.
            chosen: (K,) numbers of the members that are asked; None is all Q.

        Returns:
            (Q, ..., bins), or (K, ..., bins) in the order of `chosen`.
        """
        lead = x.shape[:-1]
        flat = x.flatten(0, -2) if len(lead) > 1 else x
        # (N, inputs) -> (Q, N, inputs), without a copy
        members = self.members if chosen is None else len(chosen)
        hidden = self.first(flat.expand(members, *flat.shape), chosen)
        if draws is not None:
            kept = (_of(chosen, draws).view(hidden.shape) >= self.dropout).float()
            hidden = hidden * kept.div_(1 - self.dropout)
        hidden = mish(self.first_norm(hidden, chosen))
        hidden = mish(self.second_norm(self.second(hidden, chosen), chosen))
        logits = self.out(hidden, chosen)
        return logits.unflatten(1, lead) if len(lead) > 1 else logits


def _of(chosen: Tensor | None, parts: Tensor) -> Tensor:
    """The chosen members' parts; those of all without a copy."""
    return parts if chosen is None else parts[chosen]


def pair_of(draws: Tensor) -> Tensor | None:
    """Numbers of two members drawn at random, (2,) from (Q,) draws; None where there are only two.

    The same ones as `pick_two` takes.
    """
    return None if len(draws) == 2 else draws.topk(2).indices


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
