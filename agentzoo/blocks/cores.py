"""Deterministic cores: what carries memory through the recurrent state-space model."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fast.quick_tanh import quick_tanh
from .layers import (
    MLP,
    Activation,
    BlockLinear,
    LayerNorm,
    Normalization,
    Recurrent,
    RMSNorm,
    SharedBlockLinear,
    SplitLinear,
    elu_,
    merge_blocks,
    split_blocks,
)

UPDATE_BIAS = -1.0  # added to the update gate, so that a fresh unit remembers


class Core(Protocol):
    """The deterministic path of an RSSM: an nn.Module.

    Attributes:
        size: D, length of the deterministic state.
    """

    size: int

    def project(self, action: Tensor) -> Tensor:
        """The step's share of the actions, computed for all of them before the loop."""
        ...

    def __call__(self, deter: Tensor, stoch: Tensor, projected: Tensor) -> Tensor:
        """The next deterministic state (N, D) from (N, D), (N, S*K) and the projected action."""
        ...


class GRUCore(nn.Module):
    """A dense layer over [stoch, action], then a gated recurrent unit.

    The unit's reset gate is applied after the recurrent product and both products have a bias:
    Keras' `GRUCell(reset_after=True)`, the equations of `torch.nn.GRUCell`.

    Args:
        stoch: length of the flat stochastic state.
        action: A, length of the action in model units.
        hidden: width of the dense layer.
        deter: D, length of the deterministic state.
        act: activation of the dense layer.

    Source: Hafner et al. 2019 (arXiv:1811.04551), figure 2c; danijar/dreamer models.py:RSSM.
    """

    def __init__(
        self, stoch: int, action: int, hidden: int, deter: int, *, act: Activation = elu_
    ) -> None:
        super().__init__()
        self.size = deter
        self.act = act
        self.inputs = SplitLinear(stoch, action, hidden)
        self.kernel = nn.Linear(hidden, 3 * deter)
        self.recurrent = Recurrent(deter, 3 * deter)

    def project(self, action: Tensor) -> Tensor:
        """The dense layer's product with the actions: (..., A) -> (..., hidden)."""
        return self.inputs.project(action)

    def forward(self, deter: Tensor, stoch: Tensor, projected: Tensor) -> Tensor:
        """The next deterministic state (N, D)."""
        x = self.act(self.inputs(stoch, projected))
        sizes = [2 * self.size, self.size]
        # float32 under autocast too: what is rounded here is remembered
        gates, candidate = self.kernel(x).float().split(sizes, -1)
        gates_h, candidate_h = self.recurrent(deter).float().split(sizes, -1)
        reset, keep = torch.sigmoid(gates + gates_h).chunk(2, -1)
        candidate = torch.tanh(torch.addcmul(candidate, reset, candidate_h))
        return torch.lerp(candidate, deter, keep)


class ResetBeforeGRUCore(nn.Module):
    """A dense layer over [stoch, action], then a GRU that resets its state before the product.

        r, u = sigmoid(W [x, h] + b)      b starts at 1
        c    = tanh(V [x, r * h] + d)
        h'   = u * h + (1 - u) * c

    `GRUCore` multiplies by r after the product, so the two share no weights.

    Args:
        stoch: length of the flat stochastic state.
        action: A, length of the action in model units.
        hidden: width of the dense layer.
        deter: D, length of the deterministic state.
        act: activation of the dense layer.

    Source: Cho et al. 2014 (arXiv:1406.1078), equations 5 to 8; TensorFlow 1's GRUBlockCell and its
    initial bias, as google-research/planet models/rssm.py uses them.
    """

    def __init__(
        self, stoch: int, action: int, hidden: int, deter: int, *, act: Activation = F.relu
    ) -> None:
        super().__init__()
        self.size = deter
        self.act = act
        self.inputs = SplitLinear(stoch, action, hidden)
        self.gates = nn.Linear(hidden + deter, 2 * deter, bias=False)
        self.gate_bias = nn.Parameter(torch.ones(2 * deter))  # not a layer's: kept by initialisers
        self.candidate = nn.Linear(hidden + deter, deter)

    def project(self, action: Tensor) -> Tensor:
        """The dense layer's product with the actions: (..., A) -> (..., hidden)."""
        return self.inputs.project(action)

    def forward(self, deter: Tensor, stoch: Tensor, projected: Tensor) -> Tensor:
        """The next deterministic state (N, D)."""
        x = self.act(self.inputs(stoch, projected))
        # float32 under autocast too: what is rounded here is remembered
        gates = self.gates(torch.cat([x, deter], -1)).float() + self.gate_bias
        reset, keep = torch.sigmoid(gates).chunk(2, -1)
        candidate = torch.tanh(self.candidate(torch.cat([x, reset * deter], -1)).float())
        return torch.lerp(candidate, deter, keep)


class LayerNormGRUCore(nn.Module):
    """A dense layer over [stoch, action], then a GRU whose three gates are normalised as one.

        r, c, u = split(LayerNorm(W [x, h] + b))
        h'      = sigmoid(u - 1) * tanh(sigmoid(r) * c) + (1 - sigmoid(u - 1)) * h

    Args:
        stoch: length of the flat stochastic state.
        action: A, length of the action in model units.
        hidden: width of the dense layer.
        deter: D, length of the deterministic state.
        act: activation of the dense layer.
        norm: makes a normalisation of a given width, applied before that activation.

    Source: Hafner et al. 2021 (arXiv:2010.02193); danijar/dreamerv2 common/nets.py:GRUCell.
    """

    def __init__(
        self,
        stoch: int,
        action: int,
        hidden: int,
        deter: int,
        *,
        act: Activation = elu_,
        norm: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.size = deter
        self.act = act
        self.inputs = SplitLinear(stoch, action, hidden)
        self.norm = norm(hidden) if norm else nn.Identity()
        self.gates = nn.Linear(hidden + deter, 3 * deter)
        self.gate_norm = LayerNorm(3 * deter)

    def project(self, action: Tensor) -> Tensor:
        """The dense layer's product with the actions: (..., A) -> (..., hidden)."""
        return self.inputs.project(action)

    def forward(self, deter: Tensor, stoch: Tensor, projected: Tensor) -> Tensor:
        """The next deterministic state (N, D)."""
        x = self.act(self.norm(self.inputs(stoch, projected)))
        # float32 under autocast too: what is rounded here is remembered
        gates = self.gate_norm(self.gates(torch.cat([x, deter], -1)))
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(deter, candidate, torch.sigmoid(update + UPDATE_BIAS))


class StochasticCore(nn.Module):
    """No memory beside the stochastic state: `deter` is the prior's stats, made of [stoch, action].

    An RSSM of this core with the identity for its prior network, whose features are the sample
    alone, is the purely stochastic state-space model.

    Args:
        stoch: length of the flat stochastic state.
        action: A, length of the action in model units.
        hidden: width of the dense layer.
        stats: length of the latent's stats.
        act: activation of the dense layer.

    Source: google-research/planet models/ssm.py.
    """

    def __init__(
        self, stoch: int, action: int, hidden: int, stats: int, *, act: Activation = F.relu
    ) -> None:
        super().__init__()
        self.size = stats
        self.net = MLP(stoch, hidden, 1, stats, early=action, act=act)

    def project(self, action: Tensor) -> Tensor:
        """The dense layer's product with the actions: (..., A) -> (..., hidden)."""
        return self.net.project(action)

    def forward(self, deter: Tensor, stoch: Tensor, projected: Tensor) -> Tensor:
        """The next prior's stats (N, stats); the former ones are not read."""
        return self.net(stoch, projected).float()


class BlockGRUCore(nn.Module):
    """A gated recurrent unit with block-diagonal weights, for deterministic states of many units.

    Each of the G blocks reads its own slice of the state, and what the whole state, the stochastic
    state and the action say through a dense layer each.

    Args:
        stoch: length of the flat stochastic state.
        action: A, length of the action in model units.
        hidden: width of the three dense layers.
        deter: D, length of the deterministic state, a multiple of `blocks`.
        blocks: G.

    Source: Hafner et al. 2025 (arXiv:2301.04104v2), DreamerV3; danijar/dreamerv3 rssm.py:_core.
    """

    def __init__(self, stoch: int, action: int, hidden: int, deter: int, blocks: int = 8) -> None:
        super().__init__()
        self.size, self.blocks = deter, blocks
        self.from_deter = MLP(deter, hidden, 1, act=F.silu, norm=RMSNorm)
        self.from_stoch = MLP(stoch, hidden, 1, act=F.silu, norm=RMSNorm)
        self.from_action = MLP(action, hidden, 1, act=F.silu, norm=RMSNorm)
        self.inputs = SharedBlockLinear(deter, 2 * hidden, hidden, deter, blocks)
        self.norm = RMSNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def project(self, action: Tensor) -> Tensor:
        """The action's share of the units' inputs: (..., A) -> (..., D)."""
        # dividing by max(1, |a|), as the reference does, is clipping
        return self.inputs.project(self.from_action(action.clamp(-1, 1)))

    def forward(self, deter: Tensor, stoch: Tensor, projected: Tensor) -> Tensor:
        """The next deterministic state (N, D)."""
        shared = torch.cat([self.from_deter(deter), self.from_stoch(stoch)], -1)
        x = self.norm(self.inputs(deter, shared, projected), silu=True)
        # three times (G, N, D / G); float32 under autocast too, as it is remembered
        reset, candidate, update = self.gates.by_block(x).float().chunk(3, -1)
        candidate = quick_tanh(torch.sigmoid(reset) * candidate)
        return merge_blocks(
            torch.lerp(split_blocks(deter, self.blocks), candidate, torch.sigmoid(update - 1))
        )
