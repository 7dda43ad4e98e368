"""A world model in torch behind `runtime.world.World`: numpy in, numpy out."""

from collections.abc import Callable, Sequence
from typing import cast

import torch

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.policy.planners import PlanModel
from agentzoo.runtime.spec import Array, Arrays, PolicySpec
from agentzoo.runtime.world.signature import JUDGEMENTS, WorldSpec
from agentzoo.runtime.world.world import Start, World

from .algorithm import Algorithm, Carry, DreamActing, Noise, PlanningAlgorithm, WorldModel
from .torch_step import TorchModel, arrays, tensor, tensors


class TorchWorld:
    """An algorithm's world model; see `runtime.world.world.Model`.

    Attributes:
        world: what it judges, and whether it acts.
        planned: what a planner asks, for agents that plan.
    """

    def __init__(self, algorithm: Algorithm, device: torch.device | str = "cpu") -> None:
        """Wrap an algorithm whose parameters are on `device`.

        Raises:
            ConfigError: if its world model cannot be called.
        """
        if not isinstance(algorithm, WorldModel):
            raise ConfigError(
                f"{type(algorithm).__name__} lacks dream, decode or judge, so its world model "
                "cannot be called; see agentzoo.algorithm.WorldModel"
            )
        self.algorithm, self.device = algorithm, torch.device(device)
        self.model = cast("WorldModel", algorithm)
        self.world = world_spec(algorithm)
        plans = isinstance(algorithm, PlanningAlgorithm)
        self.planned: PlanModel | None = TorchModel(algorithm).model() if plans else None

    def observe(self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /) -> Arrays:
        """One acting step without its action, or a planner's filtering half."""
        on, modes = self.device, tensor(deterministic, self.device)
        given = tensors(carry, on), tensors(obs, on), tensors(noise, on)
        with torch.no_grad():
            if self.world.acts:
                return arrays(self.algorithm.step(*given, modes)[0])
            return arrays(cast("PlanningAlgorithm", self.algorithm).observe(*given))

    def imagine(
        self, carry: Arrays, action: Array, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Arrays]:
        """One imagined step, the policy's action after it, and the judgements."""
        on = self.device
        with torch.no_grad():
            carried, judged = imagined(
                self.algorithm,
                tensors(carry, on),
                tensor(action, on),
                tensors(noise, on),
                tensor(deterministic, on),
            )
        return arrays(carried), arrays(judged)

    def decode(self, carry: Arrays, /) -> tuple[Arrays, Arrays]:
        """Observations and judgements of a state."""
        given = tensors(carry, self.device)
        with torch.no_grad():
            return arrays(self.model.decode(given)), arrays(self.model.judge(given))


def imagined(
    algorithm: Algorithm,
    carry: Carry,
    action: torch.Tensor,
    noise: Noise,
    deterministic: torch.Tensor,
) -> tuple[Carry, dict[str, torch.Tensor]]:
    """The function of `world_imagine.onnx`: the next carry and its judgements by name."""
    model = cast("WorldModel", algorithm)
    state = model.dream(carry, action, noise)
    judged = model.judge(state)
    if isinstance(algorithm, DreamActing):
        state = {**state, "prev_action": algorithm.propose(state, noise, deterministic)}
    return state, judged


def world_spec(algorithm: Algorithm) -> WorldSpec:
    """The judgements of an algorithm's world model, and whether it acts; found by one call."""
    with torch.no_grad():
        judged = cast("WorldModel", algorithm).judge(algorithm.initial(1))
    return WorldSpec(
        judges=tuple(name for name in JUDGEMENTS if name in judged),
        acts=isinstance(algorithm, DreamActing),
    )


def torch_world(
    algorithm: Algorithm,
    spec: PolicySpec,
    device: torch.device | str,
    starts: Callable[[], Sequence[Start]] | None = None,
) -> World:
    """The world model of an agent; `starts` are those of its dreams."""
    return World(TorchWorld(algorithm, device), spec, starts=starts)
