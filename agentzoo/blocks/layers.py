"""Dense layers: the multilayer perceptron, a linear map in two halves, Keras' initialisation."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


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


class MLP(nn.Module):
    """Dense layers of equal width with an activation after each, then an optional linear output.

    Args:
        inputs: size of the input.
        units: width of every hidden layer.
        layers: number of hidden layers, at least one.
        outputs: size of the linear output; None ends with the last activation.
        early: size of a second input that is joined to the first and goes through `project`.
        act: activation.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        outputs: int | None = None,
        *,
        early: int = 0,
        act: Activation = F.elu,
    ) -> None:
        super().__init__()
        assert layers >= 1, layers
        self.size = units if outputs is None else outputs
        self.act = act
        self.first = SplitLinear(inputs, early, units) if early else nn.Linear(inputs, units)
        self.hidden = nn.ModuleList(nn.Linear(units, units) for _ in range(layers - 1))
        self.out = None if outputs is None else nn.Linear(units, outputs)

    def project(self, early: Tensor) -> Tensor:
        """The first layer's product with the early input: (..., early) -> (..., units)."""
        assert isinstance(self.first, SplitLinear), "this MLP has no early input"
        return self.first.project(early)

    def forward(self, x: Tensor, *projected: Tensor) -> Tensor:
        """(..., inputs) -> (..., size); takes the projected early input where there is one."""
        x = self.act(self.first(x, *projected))
        for layer in self.hidden:
            x = self.act(layer(x))
        return x if self.out is None else self.out(x)


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
