"""Mish by one sigmoid, whose slope is found on the way.

Plain form: `torch.nn.functional.mish`, which takes an exponential, a logarithm and a hyperbolic
tangent, and all of them again for the gradient.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import enabled

PIECE = 2**17  # numbers on a CPU that several passes are made over at once


def mish(x: Tensor) -> Tensor:
    """Mish, x tanh(softplus(x)): (...) -> (...).

    With p = sigmoid(x) and n = p (2 - p) it is x n / (2 - n), in which nothing cancels.

    Source: Misra 2019 (arXiv:1908.08681).
    """
    if not enabled():
        return F.mish(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Mish.apply(x)
    p = torch.sigmoid(x)
    n = torch.rsub(p, 2).mul_(p)
    return (n / torch.rsub(n, 2)).mul_(x)


class _Mish(torch.autograd.Function):
    """Mish, a piece at a time; keeps its slope, tanh(softplus(x)) + 4 x p (1 - p)^2 / (2 - n)^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        out, slope = torch.empty_like(x), torch.empty_like(x)
        for part, y, s in _pieces(x, out, slope):
            p = torch.sigmoid(part)
            n = torch.mul(p, torch.rsub(p, 2), out=y)
            d = torch.rsub(n, 2)
            # s = x p (2 (1 - p) / d)^2 + n / d
            torch.sub(1, p, out=s).div_(d).square_().mul_(p.mul_(4)).mul_(part)
            s.add_(n.div_(d))
            y.mul_(part)
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0] * ctx.saved_tensors[0]


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of contiguous tensors, so large that the passes over them meet in the cache."""
    if tensors[0].device.type != "cpu" or tensors[0].numel() <= PIECE:
        return iter([tensors])
    return zip(*(tensor.view(-1).split(PIECE) for tensor in tensors), strict=True)
