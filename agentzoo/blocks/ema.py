"""Target networks: copies that follow at a distance."""
# pyright: reportPrivateImportUsage=false

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def target_copy(net: Net) -> Net:
    """A copy whose parameters never ask for gradients; `ema_update` moves it."""
    return copy.deepcopy(net).requires_grad_(False)


@torch.no_grad()
def ema_update(slow: nn.Module, net: nn.Module, rate: float) -> None:
    """Move the slow copy by `rate` of its distance to the network, in place; a rate of 1 copies.

    Source: Lillicrap et al. 2016 (arXiv:1509.02971), section 3.
    """
    torch._foreach_lerp_(list(slow.parameters()), [p.detach() for p in net.parameters()], rate)


@torch.no_grad()
def hard_update(due: Tensor, slow: nn.Module, net: nn.Module) -> None:
    """Give the slow copy the network's parameters where `due`, in place.

    Args:
        due: a bool scalar, on the device, which is not waited for.
        slow: the copy.
        net: the network.

    Source: Mnih et al. 2015 (Nature 518), target network; Hafner et al. 2021 (arXiv:2010.02193).
    """
    for mine, theirs in zip(slow.parameters(), net.parameters(), strict=True):
        mine.copy_(torch.where(due, theirs, mine))
