"""An algorithm's acting and imagining steps in numpy, for the runtime's `Policy` and planners."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.spec import Array, Arrays

from .algorithm import Algorithm, PlanningAlgorithm


class TorchStep:
    """An algorithm's `step` in numpy, so that the runtime's `Policy` can wrap it.

    Runs under no_grad and not inference_mode: what it gives may feed replay, and tensors made under
    inference_mode raise in a later update.
    """

    def __init__(self, algorithm: Algorithm, device: torch.device | str = "cpu") -> None:
        """Wrap `algorithm`, whose parameters are on `device`."""
        self.algorithm = algorithm
        self.device = torch.device(device)

    def __call__(
        self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Array]:
        """One acting step; see the runtime's `Step`."""
        mode = tensor(deterministic, self.device)
        with torch.no_grad():
            carried, action = self.algorithm.step(
                tensors(carry, self.device),
                tensors(obs, self.device),
                tensors(noise, self.device),
                mode,
            )
        return arrays(carried), action.numpy(force=True)


class TorchImagine:
    """A planning algorithm's imagined step in numpy, on the CPU."""

    def __init__(self, algorithm: PlanningAlgorithm) -> None:
        """Wrap `algorithm`."""
        self.algorithm = algorithm

    def __call__(self, carry: Arrays, action: Array, noise: Arrays, /) -> tuple[Arrays, Array]:
        """The next carry and the reward (N,); see the runtime's `Imagine`."""
        with torch.no_grad():
            carried, reward = self.algorithm.imagine(tensors(carry), tensor(action), tensors(noise))
        return arrays(carried), reward.numpy(force=True)


def tensor(array: Array, device: torch.device | str = "cpu") -> Tensor:
    """An array as a tensor on the device; arrays that must not be written to are copied."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def tensors(values: Mapping[str, Array], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Arrays by name as tensors on the device."""
    return {name: tensor(array, device) for name, array in values.items()}


def arrays(values: Mapping[str, Tensor]) -> Arrays:
    """Tensors by name as arrays."""
    return {name: value.numpy(force=True) for name, value in values.items()}
