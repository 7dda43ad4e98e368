"""Initialisations of the papers, for `nn.Module.apply`."""

import math
import re

import torch
from torch import nn

from .layers import BlockLinear, Recurrent, SharedBlockLinear, SplitLinear, truncated_normal_


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


def joined_name(name: str) -> str:
    """The name of the whole weight that a parameter is, or is a half of (`SplitLinear`)."""
    return re.sub(r"\.(late|early)\.weight$", ".weight", name)
