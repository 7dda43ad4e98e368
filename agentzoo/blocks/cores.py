"""Deterministic cores: what carries memory through the recurrent state-space model."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Activation, Recurrent, SplitLinear


class Core(Protocol):
    """The deterministic path of an RSSM: an nn.Module.

    Attributes:
        size: D, length of the deterministic state.
    """

    size: int

    def project(self, action: Tensor) -> Tensor:
        """What the step needs of the actions, computed for all of them before the loop."""
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
        self, stoch: int, action: int, hidden: int, deter: int, *, act: Activation = F.elu
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
