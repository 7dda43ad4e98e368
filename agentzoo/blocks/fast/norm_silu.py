"""RMS normalisation and SiLU in one, whose gradient keeps the input alone.

Plain form: `silu(rms_norm(x, weight, eps))`, which keeps several tensors of the input's size.

In bfloat16 a piece is computed in float32 and rounded once, when it is done; what is kept and
handed on is half as long.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**17  # numbers on a CPU that several passes are made over at once


def norm_silu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """silu(weight * x / rms(x)) over the last axis: (..., size) -> (..., size) of the same type.

    Args:
        x: (..., size), float32, float64 or bfloat16.
        weight: (size,) the gain, float32 or as x.
        eps: added to the mean square.
    """
    return _NormedSiLU.apply(x, weight, eps)


class _NormedSiLU(torch.autograd.Function):
    """silu(weight * x / rms(x)), forth and back a piece of vectors at a time.

    With u = x / rms(x), z = weight u and d = g silu'(z) for an upstream gradient g:
    weight: sum of d u over the vectors;  x: (weight d - u mean(weight d u)) / rms(x)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        vectors, out = (
            x.reshape(-1, len(weight)),
            torch.empty_like(x, memory_format=torch.contiguous_format),
        )
        scale = vectors.new_empty(len(vectors), 1, dtype=_wide(x.dtype))
        for part, s, z in _pieces(vectors, scale, out.view(vectors.shape)):
            full, into = part.to(_wide(x.dtype)), _wide_place(z)
            norm = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
            torch.rsqrt(norm.square_().div_(len(weight)).add_(eps), out=s)
            F.silu(torch.mul(full, s, out=into).mul_(weight), inplace=True)
            if into is not z:
                z.copy_(into)
        ctx.save_for_backward(vectors, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        vectors, weight, scale = ctx.saved_tensors
        up = grads[0].reshape(vectors.shape)
        grad, weight_grad = torch.empty_like(vectors), torch.zeros_like(weight)
        for part, s, g, place in _pieces(vectors, scale, up, grad):
            into = _wide_place(place)
            u = part * s  # of the scale's type
            delta = torch.ops.aten.silu_backward(g.to(u.dtype), torch.mul(u, weight, out=into))
            share = delta * u
            weight_grad += share.sum(0)
            mean = torch.mv(share, weight).unsqueeze(-1).div_(-len(weight))
            torch.addcmul(delta.mul_(weight), u, mean, out=into).mul_(s)
            if into is not place:
                place.copy_(into)
        return grad.view(grads[0].shape), weight_grad, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: float32 for bfloat16, else the same."""
    return torch.float32 if dtype is torch.bfloat16 else dtype


def _wide_place(result: Tensor) -> Tensor:
    """A place to compute a result in: its own, or one beside it."""
    wide = _wide(result.dtype)
    return result if wide is result.dtype else torch.empty_like(result, dtype=wide)


def _pieces(vectors: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of several tensors, so large that the passes over them meet in the cache."""
    count = max(PIECE // vectors.shape[1], 1)
    if vectors.device.type != "cpu" or len(vectors) <= count:
        return iter([(vectors, *others)])
    return zip(*(tensor.split(count) for tensor in (vectors, *others)), strict=True)
