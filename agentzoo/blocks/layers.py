"""Dense layers: the multilayer perceptron, linear maps in halves and in blocks, normalisations."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import fast
from .fast.norm_silu import norm_silu

TRUNCATED_STD = 1 / 1.1368  # deviation of a standard normal truncated at +-2

Activation = Callable[[Tensor], Tensor]
Normalization = Callable[[int], nn.Module]  # makes one of the last axis, of a given width


def elu_(x: Tensor) -> Tensor:
    """ELU in place of its input, for a layer's product that nothing else reads: (...) -> (...).

    Its gradient needs the result alone, so a layer keeps one wide tensor for the backward pass
    where the product and its activation would be two.
    """
    return F.elu(x, inplace=True)


class SplitLinear(nn.Module):
    """A linear map of two joined inputs, whose halves can be applied at different times.

    Equal to `Linear(late + early)` on the concatenation. What does not depend on a recurrence goes
    through `project` once, for all steps, before the loop; the loop multiplies the rest only.

    Args:
        late: size of the input that changes inside the loop.
        early: size of the input known before it.
        outputs: size of the result.
    """

    def __init__(self, late: int, early: int, outputs: int) -> None:
        super().__init__()
        self.late = nn.Linear(late, outputs, bias=False)
        self.early = nn.Linear(early, outputs)

    def project(self, early: Tensor) -> Tensor:
        """The early half with the bias: (..., early) -> (..., outputs)."""
        return self.early(early)

    def forward(self, late: Tensor, projected: Tensor) -> Tensor:
        """The sum of both halves: (..., late) and (..., outputs) -> (..., outputs)."""
        return self.late(late) + projected


class Recurrent(nn.Linear):
    """The linear map from a recurrent state to its gates; initialised orthogonally."""


@torch.no_grad()
def truncated_normal_(weight: Tensor, fan: int) -> None:
    """Fill with a normal truncated at two deviations, of variance 1 / fan after truncation."""
    std = 1 / (TRUNCATED_STD * math.sqrt(fan))
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def split_blocks(x: Tensor, blocks: int) -> Tensor:
    """Columns dealt out to blocks, a view: (N, G*n) -> (G, N, n)."""
    return x.unflatten(1, (blocks, -1)).transpose(0, 1)


def merge_blocks(x: Tensor) -> Tensor:
    """The inverse of `split_blocks`: (G, N, n) -> (N, G*n)."""
    return x.transpose(0, 1).flatten(1)


class BlockLinear(nn.Module):
    """A linear map with a block-diagonal weight: G slices of the input make one of the output each.

    Args:
        inputs: size of the input, a multiple of `blocks`.
        outputs: size of the result, a multiple of `blocks`.
        blocks: G, number of slices.

    Source: Hafner et al. 2025 (Nature 640), DreamerV3's recurrent model; danijar/dreamerv3
    embodied/jax/nets.py:BlockLinear.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        assert inputs % blocks == outputs % blocks == 0, (inputs, outputs, blocks)
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the weight as `trunc_normal_init` does; the fan-in is that of the whole matrix."""
        truncated_normal_(self.weight, self.weight[..., 0].numel())

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return merge_blocks(self.by_block(x))

    def by_block(self, x: Tensor) -> Tensor:
        """The result as the blocks put it out: (N, inputs) -> (G, N, outputs / G)."""
        bias = self.bias.view(self.blocks, 1, -1)
        return torch.baddbmm(bias, split_blocks(x, self.blocks), self.weight)


class SharedBlockLinear(nn.Module):
    """A block-diagonal linear map whose blocks also read one input that all of them share.

    Equal to `BlockLinear` on slices with a copy of the shared input appended to each, without the
    copies. The shared input is in two halves, as in `SplitLinear`. One weight, because gradients
    are clipped tensor by tensor.

    Args:
        inputs: size of the sliced input.
        late: size of the shared input that changes inside the loop.
        early: size of the shared input known before it.
        outputs: size of the result.
        blocks: G, number of slices.
    """

    def __init__(self, inputs: int, late: int, early: int, outputs: int, blocks: int) -> None:
        super().__init__()
        assert inputs % blocks == outputs % blocks == 0, (inputs, outputs, blocks)
        self.blocks = blocks
        self.sizes = [inputs // blocks, late, early]
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the weight as `trunc_normal_init` does; the fan-in is that of the whole matrix."""
        truncated_normal_(self.weight, self.blocks * len(self.weight))

    def project(self, early: Tensor) -> Tensor:
        """The early half with the bias: (..., early) -> (..., outputs)."""
        return F.linear(early, self.weight[-self.sizes[2] :].t(), self.bias)

    def forward(self, x: Tensor, late: Tensor, projected: Tensor) -> Tensor:
        """(N, inputs), (N, late) and (N, outputs) -> (N, outputs)."""
        own, shared, _ = self.weight.split(self.sizes)
        common = torch.addmm(projected, late, shared)
        return merge_blocks(
            torch.baddbmm(*(split_blocks(y, self.blocks) for y in (common, x, own)))
        )


class RMSNorm(nn.Module):
    """Division by the root mean square of the last axis, with a learned gain, in float32.

    Args:
        size: length of the last axis.
        eps: added to the mean square.

    Source: Zhang & Sennrich 2019 (arXiv:1910.07467); eps of danijar/dreamerv3 configs.yaml.
    """

    def __init__(self, size: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, *, silu: bool = False) -> Tensor:
        """(..., size) -> (..., size), float32, through SiLU where asked for.

        Through SiLU a bfloat16 product on a CPU stays bfloat16 between the layers: the next product
        rounds its input anyway.
        """
        if silu and fast.enabled() and x.dtype is torch.bfloat16 and x.device.type == "cpu":
            return norm_silu(x, self.weight, self.eps)
        x = x.float()
        if silu and torch.is_grad_enabled() and fast.enabled():
            return norm_silu(x, self.weight, self.eps)
        normed = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.silu(normed) if silu else normed


class LayerNorm(nn.LayerNorm):
    """Mean 0 and variance 1 over the last axis, then a learned gain and offset, in float32.

    Args:
        size: length of the last axis.
        eps: added to the variance; PyTorch's own default is a hundredth of Keras'.

    Source: Ba et al. 2016 (arXiv:1607.06450); eps of Keras' LayerNormalization.
    """

    def __init__(self, size: int, eps: float = 1e-3) -> None:
        super().__init__(size, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        """(..., size) -> (..., size), float32."""
        return super().forward(input.float())


class OverChannels(nn.Module):
    """A layer of the last axis, applied to the channels of images: (N, c, h, w) -> (N, c, h, w).

    Args:
        layer: what is applied.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Views of channels-last memory there and back."""
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def channel_norms(widths: Sequence[int], norm: Normalization | None) -> nn.ModuleList:
    """One normalisation over the channels for each width; without `norm` they change nothing."""
    return nn.ModuleList(OverChannels(norm(width)) if norm else nn.Identity() for width in widths)


class MLP(nn.Module):
    """Dense layers of equal width with an activation after each, then an optional linear output.

    Args:
        inputs: size of the input.
        units: width of every hidden layer.
        layers: number of hidden layers, at least one.
        outputs: size of the linear output; None ends with the last activation.
        early: size of a second input that is joined to the first and goes through `project`.
        act: activation.
        norm: makes a normalisation of a given width, applied before each activation.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        outputs: int | None = None,
        *,
        early: int = 0,
        act: Activation = elu_,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        assert layers >= 1, layers
        self.size = units if outputs is None else outputs
        self.act = act
        self.first = SplitLinear(inputs, early, units) if early else nn.Linear(inputs, units)
        self.hidden = nn.ModuleList(nn.Linear(units, units) for _ in range(layers - 1))
        self.norms = nn.ModuleList(norm(units) if norm else nn.Identity() for _ in range(layers))
        self.out = None if outputs is None else nn.Linear(units, outputs)

    def project(self, early: Tensor) -> Tensor:
        """The first layer's product with the early input: (..., early) -> (..., units)."""
        assert isinstance(self.first, SplitLinear), "this MLP has no early input"
        return self.first.project(early)

    def forward(self, x: Tensor, *projected: Tensor) -> Tensor:
        """(..., inputs) -> (..., size); takes the projected early input where there is one."""
        return self._rest(self._activated(self.norms[0], self.first(x, *projected)))

    def after_first(self, x: Tensor) -> Tensor:
        """The layers after the first product: (..., units) -> (..., size)."""
        # a slice of a product that other networks share is not to be overwritten
        own = F.elu(self.norms[0](x)) if self.act is elu_ else self._activated(self.norms[0], x)
        return self._rest(own)

    def _rest(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.hidden, self.norms[1:], strict=True):
            x = self._activated(norm, layer(x))
        return x if self.out is None else self.out(x)

    def _activated(self, norm: nn.Module, x: Tensor) -> Tensor:
        if self.act is F.silu and isinstance(norm, RMSNorm):
            return norm(x, silu=True)
        return self.act(norm(x))


def fused_first_layer(x: Tensor, mlps: Sequence[MLP]) -> list[Tensor]:
    """The first layers' products of several MLPs that read the same input, as one product.

    Args:
        x: (..., inputs).
        mlps: networks without an early input.

    Returns:
        For each its (..., units), which its `after_first` goes on from.
    """
    layers = [mlp.first for mlp in mlps if isinstance(mlp.first, nn.Linear)]
    assert len(layers) == len(mlps), "an MLP with an early input has no single first product"
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return list(F.linear(x, weight, bias).split([layer.out_features for layer in layers], -1))
