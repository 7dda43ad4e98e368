"""Target networks: copies that follow at a distance."""
# pyright: reportPrivateImportUsage=false

import copy
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def slow_copy(net: Net) -> Net:
    """A copy whose parameters never ask for gradients; `follow` moves it."""
    return copy.deepcopy(net).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, net: nn.Module, rate: float) -> None:
    """Move the slow copy by `rate` of its distance to the network, in place; a rate of 1 copies.

    Source: Lillicrap et al. 2016 (arXiv:1509.02971), section 3.
    """
    torch._foreach_lerp_(list(slow.parameters()), [p.detach() for p in net.parameters()], rate)
