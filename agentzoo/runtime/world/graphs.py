"""The exported world model in ONNX Runtime."""

from collections.abc import Mapping

from ..bundle.onnx_check import check_onnx
from ..policy.onnx_session import Graph, OnnxObserve, Provider, onnx_model
from ..policy.onnx_step import OnnxStep
from ..policy.planners import PlanModel
from ..spec import Array, Arrays, PolicySpec
from .signature import DECODE, IMAGINE, WorldSpec, latent_tensors, world_graph_specs


class OnnxWorld:
    """A world model in ONNX Runtime; see `world.Model`.

    Attributes:
        world: what it judges, and whether it acts.
        planned: what a planner asks, for agents that plan.
    """

    def __init__(self, spec: PolicySpec, world: WorldSpec, graphs: Mapping[str, Graph]) -> None:
        """Wrap open graphs, the policy's and the world's."""
        self.world, self._latent = world, tuple(latent_tensors(spec))
        self._imagine, self._decode = graphs[IMAGINE], graphs[DECODE]
        self._step = OnnxStep(graphs["policy.onnx"]) if spec.plan is None else None
        self._filter = None if spec.plan is None else OnnxObserve(graphs["observe.onnx"])
        self.planned: PlanModel | None = None if spec.plan is None else onnx_model(graphs)

    def observe(self, carry: Arrays, obs: Arrays, noise: Arrays, deterministic: Array, /) -> Arrays:
        """One acting step without its action, or a planner's filtering half."""
        if self._step is not None:
            return self._step(carry, obs, noise, deterministic)[0]
        assert self._filter is not None, "a policy acts or plans"
        return self._filter(carry, obs, noise)

    def imagine(
        self, carry: Arrays, action: Array, noise: Arrays, deterministic: Array, /
    ) -> tuple[Arrays, Arrays]:
        """One imagined step, the policy's action after it, and the judgements."""
        found = self._imagine.run(
            {
                "carry": carry,
                "action": {"": action},
                "noise": noise,
                "deterministic": {"": deterministic},
            }
        )
        state = {name: found["carry", name] for name in self._latent}
        if self.world.acts:
            state["prev_action"] = found["action", "policy"]
        return state, {name: found["judgement", name] for name in self.world.judges}

    def decode(self, carry: Arrays, /) -> tuple[Arrays, Arrays]:
        """Observations and judgements of a state."""
        found = self._decode.run({"carry": carry})
        obs = {key: array for (role, key), array in found.items() if role == "obs"}
        return obs, {name: found["judgement", name] for name in self.world.judges}


def open_world_graphs(
    contents: Mapping[str, bytes],
    spec: PolicySpec,
    world: WorldSpec,
    *,
    opset: int,
    provider: Provider = "auto",
    threads: int = 1,
) -> dict[str, Graph]:
    """Look inside a world model's ONNX files, then open them.

    Raises:
        BundleError: if a graph reaches outside of itself or is not the spec's.
        MissingExtraError: without onnxruntime.
        ProviderError: if CUDA was asked for and is not there.
    """
    specs = world_graph_specs(spec, world)
    for name in specs:
        check_onnx(contents[name], name, opset)
    return {
        name: Graph(name, contents[name], graph, provider=provider, threads=threads)
        for name, graph in specs.items()
    }
