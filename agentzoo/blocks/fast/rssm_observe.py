"""DreamerV3's filtering loop with a gradient by hand.

Plain form: `RSSM.observe`, whose gradient is autograd's.

What a step keeps for its gradient is one number for each of its results: how it moves with what
made it. So the sweep back through time multiplies, and what is slow about small steps happens
before and after it, for all of them at once: the derivatives of norms, gates and softmax, and each
weight's gradient, one product over all T * N states where autograd takes T.

With the gates r, c, u of the core's last product, R = sigmoid(r), C = tanh(R c), U = sigmoid(u - 1)
and h' = h + U (C - h), an upstream gradient g of h' gives

    h: g (1 - U)    u: g (C - h) U (1 - U)    c: g U (1 - C^2) R    r: g U (1 - C^2) c R (1 - R)
"""

from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..cores import BlockGRUCore
from ..distributions import gumbel, softmax
from ..latents import CategoricalLatent
from ..layers import RMSNorm, SplitLinear, split_blocks
from ..rssm import RSSM, State, mask_reset
from . import enabled


def observe(
    rssm: RSSM, prev: State, prev_actions: Tensor, embeds: Tensor, is_first: Tensor, noise: Tensor
) -> State:
    """`RSSM.observe`, faster where many short steps are differentiated.

    Equal to it but for rounding. Under autocast on a CPU the projections before the loop are
    bfloat16 products, and the loop is float32: its products are too small to gain by less, and
    there are half as many operations. Under CUDA's autocast it is `RSSM.observe` itself.

    Args:
        rssm: with a `BlockGRUCore`, a `CategoricalLatent`, zeros at the start of an episode, and a
            posterior of one hidden layer.
        prev: state before the sequence, batch shape (B,).
        prev_actions: (B, T, A).
        embeds: (B, T, E).
        is_first: (B, T) bool.
        noise: (B, T, S, K) uniform.

    Returns:
        Posterior states, batch shape (B, T).
    """
    device = embeds.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not enabled() or (autocast and device != "cpu"):
        return rssm.observe(prev, prev_actions, embeds, is_first, noise)
    action_projs = rssm.core.project(mask_reset(prev_actions, is_first))
    sequence = action_projs, rssm.post_net.project(embeds), is_first.unsqueeze(-1), gumbel(noise)
    action_projs, embed_projs, *rest = [tensor.transpose(0, 1) for tensor in sequence]
    if autocast:
        action_projs, embed_projs = action_projs.float(), embed_projs.float()
    by_step = action_projs, embed_projs, *rest
    weights, eps, unimix = _weights(rssm)
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        parts = _Filter.apply(eps, unimix, prev.deter, prev.stoch, *by_step, *weights)
    return State(*(part.transpose(0, 1) for part in cast("tuple[Tensor, ...]", parts)))


class _Weights(NamedTuple):
    """The weights of the loop; products are x @ weight."""

    deter: Tensor  # (D, hidden), like those of the next three a layer of the core's inputs
    deter_bias: Tensor
    stoch: Tensor  # (S*K, hidden)
    stoch_bias: Tensor
    gains: Tensor  # (2, hidden) of both layers' norms
    shared: Tensor  # (2 * hidden, D), from both layers to every block
    own: Tensor  # (G, D/G, D/G), from each block's slice of the state to itself
    unit_gain: Tensor  # (D,)
    gates: Tensor  # (G, D/G, 3 * D/G)
    gates_bias: Tensor  # (G, 1, 3 * D/G)
    post: Tensor  # (D, units)
    post_gain: Tensor  # (units,)
    logits: Tensor  # (units, S*K)
    logits_bias: Tensor


def _weights(rssm: RSSM) -> tuple[_Weights, float, float]:
    """The loop's weights, its norms' epsilon and the latent's unimix."""
    core, latent, post = rssm.core, rssm.latent, rssm.post_net
    assert isinstance(core, BlockGRUCore)
    assert isinstance(latent, CategoricalLatent)
    assert isinstance(post.first, SplitLinear)
    assert post.out is not None
    assert not post.hidden, "the posterior has one hidden layer"
    assert rssm.initial_deter is None, "episodes begin with zeros"
    deter, stoch = (cast(nn.Linear, net.first) for net in (core.from_deter, core.from_stoch))
    norms = [cast(RMSNorm, net.norms[0]) for net in (core.from_deter, core.from_stoch, post)]
    own, shared, _ = core.inputs.weight.split(core.inputs.sizes)
    weights = _Weights(
        deter.weight.t(), deter.bias, stoch.weight.t(), stoch.bias,
        torch.stack([norms[0].weight, norms[1].weight]),
        shared, own.unflatten(1, (core.blocks, -1)).transpose(0, 1), core.norm.weight,
        core.gates.weight, core.gates.bias.view(core.blocks, 1, -1),
        post.first.late.weight.t(), norms[2].weight, post.out.weight.t(), post.out.bias,
    )  # fmt: skip
    return weights, core.norm.eps, latent.unimix


class _Normed:
    """silu(gain * x / rms(x)) step by step forth, then its gradient step by step back.

    With v = x / rms(x), slope = silu'(gain v) and an upstream gradient g:
    gain: sum of g slope v over the vectors;  x: (g slope gain - v mean(g slope gain v)) / rms(x)

    Attributes:
        x: (T, N, *gain.shape); the loop writes a step's input there.
        up: of the same shape; the loop writes a step's upstream gradient there.
        grad: of the same shape: the input's gradient.
    """

    def __init__(self, lead: tuple[int, int], gain: Tensor, eps: float) -> None:
        self.gain, self.eps = gain, eps
        self.x, self.out = (gain.new_empty(*lead, *gain.shape) for _ in range(2))
        self.scale = gain.new_empty(*lead, *gain.shape[:-1], 1)
        self.steps = list(zip(self.x, self.scale, self.out, strict=True))

    def forth(self, t: int) -> Tensor:
        """The result of step t (N, *gain.shape); v stays in the place of x."""
        x, scale, out = self.steps[t]
        torch.mul(x, x, out=out)
        torch.mean(out, -1, keepdim=True, out=scale).add_(self.eps).rsqrt_()
        return F.silu(torch.mul(x.mul_(scale), self.gain, out=out), inplace=True)

    def turn(self) -> None:
        """Take the derivatives of all steps."""
        z = self.x * self.gain
        s = torch.sigmoid(z)
        self.slope = s * torch.addcmul(s.new_ones(()), z, 1 - s)
        self.up, self.grad = torch.empty_like(self.x), torch.empty_like(self.x)
        down = self.slope * self.gain
        across, size = self.x * self.scale, self.gain.shape[-1]
        parts = self.up, down * self.x / size, down * self.scale, across, self.grad
        self.steps_back = list(zip(*parts, strict=True))

    def back(self, t: int) -> Tensor:
        """The gradient of step t's input, from `up`: (N, *gain.shape)."""
        up, along, down, across, grad = self.steps_back[t]
        mean = (up * along).sum(-1, keepdim=True)
        return torch.mul(up, down, out=grad).addcmul_(across, mean, value=-1)

    def gain_grad(self) -> Tensor:
        """The gain's gradient."""
        return (self.up * self.slope).mul_(self.x).sum((0, 1))


def _blocks(x: Tensor, count: int) -> Tensor:
    """Every step's columns dealt out to blocks, a view: (T, N, G*n) -> (T, G, N, n)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    """(T, N, ...) -> (T*N, ...)."""
    return x.flatten(0, 1)


class _Tape:
    """The tensors that a forward sweep keeps for the backward sweep."""

    def __init__(self, eps: float, unimix: float, lead: tuple[int, int], w: _Weights) -> None:
        (T, N), new = lead, w.deter.new_empty
        self.unimix, self.blocks = unimix, len(w.gates)
        self.deter_in, self.stoch_in = new(T, N, len(w.deter)), new(T, N, len(w.stoch))
        self.inputs = _Normed(lead, w.gains, eps)
        self.unit = _Normed(lead, w.unit_gain, eps)
        self.posterior = _Normed(lead, w.post_gain, eps)
        n = w.gates.shape[1]
        self.gates = new(T, self.blocks, N, 3 * n)
        self.reset, self.candidate, self.update = (new(T, self.blocks, N, n) for _ in range(3))
        self.probs: list[Tensor] = []


class _Filter(torch.autograd.Function):
    """The loop over T steps of N sequences.

    deter (N, D), stoch (N, S*K), action_projs (T, N, D), embed_projs (T, N, units),
    is_first (T, N, 1) and Gumbel noise (T, N, S, K) to the three parts of T states.
    """

    @staticmethod
    def forward(ctx: Any, eps: float, unimix: float, deter: Tensor, stoch: Tensor, *rest: Tensor):
        action_projs, embed_projs, is_first, noise, *weights = rest
        w = _Weights(*weights)
        tape = _Tape(eps, unimix, (len(action_projs), len(deter)), w)
        sweep = _Forth(tape, w)
        for t, step in enumerate(zip(action_projs, embed_projs, is_first, noise, strict=True)):
            deter, stoch = sweep(t, deter, stoch, *step)
        ctx.tape = tape
        ctx.save_for_backward(is_first, sweep.deter, *w)
        return sweep.deter, sweep.stoch, sweep.stats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        is_first, deter, *weights = ctx.saved_tensors
        w = _Weights(*weights)
        sweep = _Back(ctx.tape, w, is_first, grads)
        for t in reversed(range(len(is_first))):
            sweep(t)
        before = sweep.deter, sweep.stoch
        early = ctx.tape.unit.grad, ctx.tape.posterior.grad
        return None, None, *before, *early, None, None, *sweep.weight_grads(deter)


class _Forth:
    """One step forth; the states are not on the tape, which would keep them and itself alive."""

    def __init__(self, tape: _Tape, w: _Weights) -> None:
        self.tape, self.w, G = tape, w, len(w.gates)
        T, N, _ = tape.deter_in.shape
        self.deter = torch.empty_like(tape.deter_in)
        self.stoch, self.stats = torch.zeros_like(tape.stoch_in), torch.empty_like(tape.stoch_in)
        self.zero = w.deter.new_zeros(())
        hidden = w.gains.shape[-1]
        unit = tape.unit
        self.views = list(zip(
            tape.deter_in, tape.stoch_in, *tape.inputs.x.unbind(2),
            tape.inputs.out.view(T, N, 2 * hidden), unit.x, _blocks(unit.x, G),
            _blocks(tape.deter_in, G), _blocks(unit.out, G), strict=True,
        ))  # fmt: skip
        parts = *tape.gates.chunk(3, -1), tape.reset, tape.candidate, tape.update
        self.gates = list(zip(tape.gates, *parts, strict=True))
        self.results = list(zip(self.deter, _blocks(self.deter, G), tape.posterior.x,
                                self.stats, self.stoch, strict=True))  # fmt: skip

    def __call__(
        self,
        t: int,
        deter: Tensor,
        stoch: Tensor,
        action_proj: Tensor,
        embed_proj: Tensor,
        is_first: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The state after step t."""
        w, tape = self.w, self.tape
        deter_in, stoch_in, from_deter, from_stoch, inputs, x, xs, own, units = self.views[t]
        torch.where(is_first, self.zero, deter, out=deter_in)
        torch.where(is_first, self.zero, stoch, out=stoch_in)
        torch.addmm(w.deter_bias, deter_in, w.deter, out=from_deter)
        torch.addmm(w.stoch_bias, stoch_in, w.stoch, out=from_stoch)
        tape.inputs.forth(t)
        torch.addmm(action_proj, inputs, w.shared, out=x)
        xs.baddbmm_(own, w.own)
        tape.unit.forth(t)
        new, blocks, hidden, stats, sample = self.results[t]
        self._gated(t, units, own, blocks)
        torch.addmm(embed_proj, new, w.post, out=hidden)
        torch.addmm(w.logits_bias, tape.posterior.forth(t), w.logits, out=stats)
        self._sampled(stats, noise, sample)
        return new, sample

    def _gated(self, t: int, units: Tensor, deter: Tensor, out: Tensor) -> None:
        gates, r, c, u, reset, candidate, update = self.gates[t]
        torch.baddbmm(self.w.gates_bias, units, self.w.gates, out=gates)
        torch.sigmoid(r, out=reset)
        torch.mul(reset, c, out=candidate).tanh_()
        torch.sub(u, 1, out=update).sigmoid_()
        torch.lerp(deter, candidate, update, out=out)

    def _sampled(self, stats: Tensor, noise: Tensor, out: Tensor) -> None:
        unimix, classes = self.tape.unimix, noise.shape[-1]
        probs = softmax(stats.view(noise.shape))
        self.tape.probs.append(probs)
        scores = (probs * (1 - unimix)).add_(unimix / classes).log_().add_(noise)
        out.view(noise.shape).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)


class _Back:
    """One step back; afterwards `deter` and `stoch` hold the gradients of the state before it."""

    def __init__(
        self, tape: _Tape, w: _Weights, is_first: Tensor, grads: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        self.tape, self.w, G = tape, w, tape.blocks
        up_deter, up_stoch, up_stats = grads
        self.deter, self.stoch = torch.zeros_like(up_deter[0]), torch.zeros_like(up_stoch[0])
        probs = torch.stack(tape.probs)
        self.dstats = torch.empty_like(up_stats)
        slope = (1 - tape.unimix) * probs
        by_class = probs.shape
        self.latents = list(zip(
            up_stoch, up_stats.view(by_class), probs, slope, self.dstats,
            self.dstats.view(by_class), strict=True,
        ))  # fmt: skip
        for normed in (tape.inputs, tape.unit, tape.posterior):
            normed.turn()
        keep, moved = self._gate_slopes()
        self.dgates = torch.empty_like(moved)
        unit, T = tape.unit, len(is_first)
        self.dinputs = tape.inputs.up.view(T, -1, w.shared.shape[0])
        self.steps = list(zip(
            is_first, up_deter, keep, moved, self.dgates, self.dgates.flatten(3),
            _blocks(unit.up, G), _blocks(unit.grad, G), self.dinputs,
            *tape.inputs.grad.unbind(2), strict=True,
        ))  # fmt: skip
        self.zero = w.deter.new_zeros(())
        self.back = _Weights(*(weight.mT if weight.dim() > 1 else weight for weight in w))

    def _gate_slopes(self) -> tuple[Tensor, Tensor]:
        """The factors of a new state's gradient: (T, N, D) and (T, G, N, 3, D/G)."""
        tape = self.tape
        R, C, U = tape.reset, tape.candidate, tape.update
        c = tape.gates.chunk(3, -1)[1]
        towards = U * (1 - C * C)
        dc = towards * R
        dr = dc * c * (1 - R)
        du = (C - _blocks(tape.deter_in, tape.blocks)) * U * (1 - U)
        keep = (1 - U).transpose(1, 2).flatten(2)
        return keep, torch.stack([dr, dc, du], 3)

    def __call__(self, t: int) -> None:
        """From the gradients of what follows to those of what came before."""
        tape, w = self.tape, self.back
        first, up, keep, moved, dgates, dflat, dunits, dx, dinputs, ddeter, dstoch = self.steps[t]
        torch.mm(self._dstats(t), w.logits, out=tape.posterior.up[t])
        new = torch.addmm(up, tape.posterior.back(t), w.post).add_(self.deter)
        blocks = new.unflatten(-1, (tape.blocks, -1)).transpose(0, 1)
        torch.mul(blocks.unsqueeze(2), moved, out=dgates)
        torch.bmm(dflat, w.gates, out=dunits)
        torch.mm(tape.unit.back(t), w.shared, out=dinputs)
        tape.inputs.back(t)
        old = new.mul_(keep).addmm_(ddeter, w.deter)
        blocks.baddbmm_(dx, w.own)
        self.deter = torch.where(first, self.zero, old)
        self.stoch = torch.where(first, self.zero, torch.mm(dstoch, w.stoch))

    def _dstats(self, t: int) -> Tensor:
        up, up_stats, probs, slope, flat, out = self.latents[t]
        grad = (up + self.stoch).view(probs.shape)
        mean = (grad * probs).sum(-1, keepdim=True)
        torch.addcmul(up_stats, grad.sub_(mean), slope, out=out)
        return flat

    def weight_grads(self, deter: Tensor) -> _Weights:
        """Every weight's gradient, over all steps at once."""
        tape, G = self.tape, self.tape.blocks
        dstats, dpost, dunit = (
            _flat(x) for x in (self.dstats, tape.posterior.grad, tape.unit.grad)
        )
        ddeter, dstoch = _flat(tape.inputs.grad).unbind(1)
        dgates = self.dgates.transpose(0, 1).reshape(G, len(dunit), -1)
        before = _flat(tape.deter_in)
        return _Weights(
            deter=before.t() @ ddeter,
            deter_bias=ddeter.sum(0),
            stoch=_flat(tape.stoch_in).t() @ dstoch,
            stoch_bias=dstoch.sum(0),
            gains=tape.inputs.gain_grad(),
            shared=_flat(tape.inputs.out).flatten(1).t() @ dunit,
            own=split_blocks(before, G).mT @ split_blocks(dunit, G),
            unit_gain=tape.unit.gain_grad(),
            gates=split_blocks(_flat(tape.unit.out), G).mT @ dgates,
            gates_bias=dgates.sum(1, keepdim=True),
            post=_flat(deter).t() @ dpost,
            post_gain=tape.posterior.gain_grad(),
            logits=_flat(tape.posterior.out).t() @ dstats,
            logits_bias=dstats.sum(0),
        )
