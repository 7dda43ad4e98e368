"""The device that an agent's networks are on."""

import os
from typing import cast

import torch

from agentzoo.runtime.errors import ProviderError


def find_device(name: object) -> torch.device:
    """The torch device of a name.

    Raises:
        ProviderError: if it names a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun's: a GPU for each process
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    known = 'use "auto", "cpu", "cuda", "cuda:N" or "mps"'
    try:
        device = torch.device(cast("str", name))
    except (RuntimeError, TypeError) as error:
        raise ProviderError(f"device={name!r} is no device; {known}") from error
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ProviderError(
            f'device={name!r} was asked for, but torch sees no Apple GPU; use device="cpu", or '
            "torch for macOS on a Mac that has one"
        )
    if device.type not in ("cpu", "cuda", "mps"):
        raise ProviderError(f"device={name!r} is none that agents learn on; {known}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            f'device={name!r} was asked for, but torch sees no CUDA device; use device="cpu", or '
            "install a CUDA build of torch on a machine with a GPU"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ProviderError(
            f"device={name!r} was asked for, but torch sees {count}; {known}; torchrun needs a GPU "
            "for each of a machine's processes, or device=cpu"
        )
    return device
