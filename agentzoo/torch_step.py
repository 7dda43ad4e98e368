"""An algorithm's acting and imagining steps in numpy, for the runtime's `Policy` and planners."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.policy.planners import ImaginedStep, PlanModel
from agentzoo.runtime.spec import Array, Arrays

from .algorithm import Algorithm, Continuing, PlanningAlgorithm, Proposing, Valuing


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


class TorchModel:
    """A planning algorithm as what a planner asks, in numpy, on the CPU.

    Args:
        algorithm: what observes, imagines, and has the heads of its planner.
    """

    def __init__(self, algorithm: PlanningAlgorithm) -> None:
        self.algorithm, self.heads = algorithm, algorithm.plan_spec.heads

    def model(self) -> PlanModel:
        """One callable for each graph."""
        return PlanModel(
            self.observe,
            self.imagine,
            self.value if "value" in self.heads else None,
            self.policy if "policy" in self.heads else None,
        )

    @torch.no_grad()
    def observe(self, carry: Arrays, obs: Arrays, noise: Arrays) -> Arrays:
        """The filtering half of a step; see `agentzoo.runtime.policy.planners.Observe`."""
        return arrays(self.algorithm.observe(tensors(carry), tensors(obs), tensors(noise)))

    @torch.no_grad()
    def imagine(self, carry: Arrays, action: Array, noise: Arrays) -> ImaginedStep:
        """One imagined step; see `agentzoo.runtime.policy.planners.Imagine`."""
        state, reward = self.algorithm.imagine(tensors(carry), tensor(action), tensors(noise))
        cont = None
        if "continue" in self.heads:
            cont = cast("Continuing", self.algorithm).cont(state).numpy(force=True)
        return ImaginedStep(arrays(state), reward.numpy(force=True), cont)

    @torch.no_grad()
    def value(self, carry: Arrays, noise: Arrays) -> Array:
        """The value of imagined states; see `agentzoo.runtime.policy.planners.Value`."""
        found = cast("Valuing", self.algorithm).value(tensors(carry), tensors(noise))
        return found.numpy(force=True)

    @torch.no_grad()
    def policy(self, carry: Arrays, noise: Arrays, deterministic: Array) -> Array:
        """The policy's actions at imagined states; see `agentzoo.runtime.policy.planners.Act`."""
        mode = tensor(deterministic)
        found = cast("Proposing", self.algorithm).policy(tensors(carry), tensors(noise), mode)
        return found.numpy(force=True)


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
