"""Scalar networks on many states, differentiated while they are evaluated.

Plain form: the MLP on detached weights or features, differentiated by autograd.

A network with one output has one gradient per input state, its slope, and whatever is made of the
output later only scales that state's slope by one number. So the backward sweep through the layers
can be taken at once, a few states at a time while they are in the cache, and one sweep serves two
losses: one that differentiates in the input, one in the weights. Dreamer's actor and value losses
are such a pair (Hafner et al. 2020, arXiv:1912.01603, equations 7 and 8).

With states x, layers h_l = elu(W_l h_{l-1} + b_l) and output w h_L + b:

    d_L = w elu'(h_L),  d_l = (W_{l+1}^T d_{l+1}) elu'(h_l),  slope = W_1^T d_1
    an upstream gradient g gives  x: g slope,  W_l: sum over states of g d_l h_{l-1}^T
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..layers import MLP, elu_
from . import enabled

STATES = 1024  # of a piece on a CPU: what its layers put out stays in the cache


class _Piece(NamedTuple):
    """A sweep forth and back over states x (M, F): output (M,), slope (M, F), hidden and deltas."""

    x: Tensor
    out: Tensor
    slope: Tensor
    hidden: list[Tensor]
    deltas: list[Tensor]


def input_grad(net: MLP, steps: Sequence[Tensor]) -> Tensor:
    """The network's scalar output, differentiable in the input; the weights count as constants.

    Args:
        net: a network of ELU layers with one output.
        steps: T tensors (N, F), as `imagine` makes them.

    Returns:
        (N, T), float32.
    """
    if not enabled():
        return torch.stack([_frozen(net, x) for x in steps], 1)
    with torch.no_grad():
        swept = [_sweep(net, states)[1:3] for states in _pieces(steps)]
        out, slope = (torch.cat(parts) for parts in zip(*swept, strict=True))
    return _Input.apply(_columns(out, steps), slope, *steps)


def value_and_input_grad(net: MLP, steps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The scalar output twice: differentiable in the input alone, and in the weights alone.

    Args:
        net: a network of ELU layers with one output.
        steps: T tensors (N, F), as `imagine` makes them.

    Returns:
        Both (N, T), float32 and equal.
    """
    if not enabled():
        learned = torch.stack([net(x.detach()).squeeze(-1).float() for x in steps], 1)
        return input_grad(net, steps), learned
    with torch.no_grad():
        swept = [_sweep(net, states) for states in _pieces(steps)]
        out = _columns(torch.cat([piece.out for piece in swept]), steps)
        slope = torch.cat([piece.slope for piece in swept])
    return _Input.apply(out, slope, *steps), _Weights.apply(out, swept, *_parameters(net))


def _frozen(net: MLP, x: Tensor) -> Tensor:
    """The output (N,) of the network with its weights as constants."""
    weights = {name: param.detach() for name, param in net.named_parameters()}
    return functional_call(net, weights, (x,)).squeeze(-1).float()


def _pieces(steps: Sequence[Tensor]) -> list[Tensor]:
    """All states, step after step, in pieces (M, F); in one piece on a GPU."""
    if steps[0].device.type != "cpu":
        return [torch.cat(list(steps))]
    return [states for step in steps for states in step.split(STATES)]


def _columns(out: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """Step after step to side by side: (T*N,) -> (N, T)."""
    return out.view(len(steps), -1).t().contiguous()


def _layers(net: MLP) -> list[nn.Linear]:
    layers = [layer for layer in (net.first, *net.hidden) if isinstance(layer, nn.Linear)]
    plain = all(isinstance(norm, nn.Identity) for norm in net.norms)
    assert plain and net.act is elu_ and net.size == 1, f"not a scalar network of ELU layers: {net}"  # noqa: PT018
    assert len(layers) == len(net.norms), f"a network with an early input has no one slope: {net}"
    return layers


def _parameters(net: MLP) -> list[Tensor]:
    assert net.out is not None, net
    return [param for layer in (*_layers(net), net.out) for param in (layer.weight, layer.bias)]


def _sweep(net: MLP, x: Tensor) -> _Piece:
    assert net.out is not None, net
    layers, hidden = _layers(net), [x]
    for layer in layers:
        hidden.append(elu_(F.linear(hidden[-1], layer.weight, layer.bias)))
    out = F.linear(hidden[-1], net.out.weight, net.out.bias).squeeze(-1)
    deltas = [net.out.weight * _elu_slope(hidden[-1])]
    for layer, h in zip(reversed(layers[1:]), reversed(hidden[1:-1]), strict=True):
        deltas.append((deltas[-1] @ layer.weight).mul_(_elu_slope(h)))
    slope = deltas[-1] @ layers[0].weight
    if x.device.type == "cpu":  # as the first product read it, for that weight's gradient
        x = x.to(hidden[1].dtype)
    return _Piece(x, out.float(), slope.float(), hidden[1:], deltas[::-1])


def _elu_slope(h: Tensor) -> Tensor:
    """Derivative of ELU by its result: 1 above zero, else the result plus 1."""
    return h.clamp(max=0).add_(1)


def _weight_grads(piece: _Piece, up: Tensor) -> Iterator[Tensor]:
    """Gradients of weight and bias, layer by layer, from upstream ones (M, 1)."""
    for x, delta in zip((piece.x, *piece.hidden), (*piece.deltas, None), strict=True):
        grad = (up if delta is None else delta * up).to(x.dtype)
        yield grad.t() @ x
        yield grad.sum(0)


class _Input(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, slope: Tensor, *steps: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        up = grads[0].t().unsqueeze(-1)
        return None, None, *(up * slope.view(*up.shape[:2], -1)).unbind(0)


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, swept: list[_Piece], *params: Tensor) -> Tensor:
        ctx.swept, ctx.shapes = swept, [param.shape for param in params]
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = [grads[0].new_zeros(shape) for shape in ctx.shapes]
        ups = grads[0].t().reshape(-1, 1).split([len(piece.x) for piece in ctx.swept])
        for piece, up in zip(ctx.swept, ups, strict=True):
            for into, grad in zip(total, _weight_grads(piece, up), strict=True):
                into += grad
        return None, None, *total
