"""Dense layers: the multilayer perceptron, linear maps in halves and in blocks, initialisations."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PIECE = 2**17  # numbers on a CPU that several passes are made over at once

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


def split_blocks(x: Tensor, blocks: int) -> Tensor:
    """Columns dealt out to blocks, a view: (N, G*n) -> (G, N, n)."""
    return x.unflatten(1, (blocks, -1)).transpose(0, 1)


def merge_blocks(x: Tensor) -> Tensor:
    """The inverse of `sliced`: (G, N, n) -> (N, G*n)."""
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

        With it the gradient keeps the input alone; the two by themselves keep several tensors.
        """
        x = x.float()
        if not silu or not torch.is_grad_enabled():
            normed = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
            return F.silu(normed, inplace=True) if silu else normed
        return _NormedSiLU.apply(x, self.weight, self.eps)


class _NormedSiLU(torch.autograd.Function):
    """silu(weight * x / rms(x)), forth and back a piece of rows at a time.

    With u = x / rms(x), z = weight u and d = g silu'(z) for an upstream gradient g:
    weight: sum of d u over the rows;  x: (weight d - u mean(weight d u)) / rms(x)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, out = (
            x.reshape(-1, len(weight)),
            torch.empty_like(x, memory_format=torch.contiguous_format),
        )
        scale = rows.new_empty(len(rows), 1)
        for part, s, z in _pieces(rows, scale, out.view(rows.shape)):
            norm = torch.linalg.vector_norm(part, dim=-1, keepdim=True)
            torch.rsqrt(norm.square_().div_(len(weight)).add_(eps), out=s)
            F.silu(torch.mul(part, s, out=z).mul_(weight), inplace=True)
        ctx.save_for_backward(rows, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, scale = ctx.saved_tensors
        up = grads[0].reshape(rows.shape)
        grad, weight_grad = torch.empty_like(rows), torch.zeros_like(weight)
        for part, s, g, into in _pieces(rows, scale, up, grad):
            u = part * s
            delta = torch.ops.aten.silu_backward(g, torch.mul(u, weight, out=into))
            share = delta * u
            weight_grad += share.sum(0)
            mean = torch.mv(share, weight).unsqueeze(-1).div_(-len(weight))
            torch.addcmul(delta.mul_(weight), u, mean, out=into).mul_(s)
        return grad.view(grads[0].shape), weight_grad, None


def _pieces(rows: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of several tensors, so large that the passes over them meet in the cache."""
    count = max(PIECE // rows.shape[1], 1)
    if rows.device.type != "cpu" or len(rows) <= count:
        return iter([(rows, *others)])
    return zip(*(tensor.split(count) for tensor in (rows, *others)), strict=True)


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
        """What follows the first layer's product: (..., units) -> (..., size)."""
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
        For each its (..., units), which its `rest` goes on from.
    """
    layers = [mlp.first for mlp in mlps if isinstance(mlp.first, nn.Linear)]
    assert len(layers) == len(mlps), "an MLP with an early input has no single first product"
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return list(F.linear(x, weight, bias).split([layer.out_features for layer in layers], -1))


@torch.no_grad()
def keras_init(module: nn.Module) -> None:
    """Initialise as Keras does: glorot uniform weights, orthogonal recurrent ones, zero biases.

    For `nn.Module.apply`. PyTorch's own defaults are narrower for dense layers and not zero for
    biases.

    Source: Keras' Dense, Conv2D, Conv2DTranspose and GRUCell, as danijar/dreamer uses them.
    """
    if isinstance(module, Recurrent):
        nn.init.orthogonal_(module.weight)
    elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, SplitLinear):
        # children come first in `apply`; the fan is the joined one's
        outputs, late = module.late.weight.shape
        bound = math.sqrt(6 / (late + module.early.in_features + outputs))
        module.late.weight.uniform_(-bound, bound)
        module.early.weight.uniform_(-bound, bound)
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
        module.bias.zero_()


TRUNCATED_STD = 1 / 1.1368  # deviation of a standard normal truncated at +-2


@torch.no_grad()
def trunc_normal_init(module: nn.Module) -> None:
    """Initialise as DreamerV3 does: truncated normal weights of variance 1 / fan-in, zero biases.

    For `nn.Module.apply`.

    Source: danijar/dreamerv3 embodied/jax/nets.py:Initializer.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        truncated_normal_(module.weight, module.weight[0].numel())
    elif isinstance(module, BlockLinear | SharedBlockLinear):
        module.reset_parameters()
    elif isinstance(module, SplitLinear):
        # children come first in `apply`; the fan is the joined one's
        fan = module.late.in_features + module.early.in_features
        truncated_normal_(module.late.weight, fan)
        truncated_normal_(module.early.weight, fan)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        module.bias.zero_()


@torch.no_grad()
def truncated_normal_(weight: Tensor, fan: int) -> None:
    """Fill with a normal truncated at two deviations, of variance 1 / fan after truncation."""
    std = 1 / (TRUNCATED_STD * math.sqrt(fan))
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def joined_name(name: str) -> str:
    """The name of the whole weight that a parameter is, or is a half of (`SplitLinear`)."""
    return re.sub(r"\.(late|early)\.weight$", ".weight", name)
