"""The recorded dream that exported world models have to reproduce, step by step.

Every step is imagined from a state that the policy's own trace reached, and comes with a decoding
of that state: what went into the graphs and what torch made of it.
"""

from collections.abc import Mapping

import numpy as np

from ..bundle.golden_trace import TraceComparison, difference, read_recording
from ..policy.onnx_session import Graph, Port
from ..spec import Array, Arrays, PolicySpec
from .signature import DECODE, IMAGINE, TRACE, WorldSpec, world_graph_specs

PREFIXES = {IMAGINE: "imagine", DECODE: "decode"}


def trace_ports(spec: PolicySpec, world: WorldSpec) -> dict[str, Port]:
    """The arrays of a trace, each (T, *shape): both graphs' tensors, and the margin.

    The margin is the smallest of an imagined step's discrete choices, inf where it has none. A
    judgement's spread is by how much it changes if what it is computed from changes by 1, at least
    1: the mean of DreamerV3's bins, which reach from -5e8 to 5e8, may hang on rare ones.
    """
    specs = world_graph_specs(spec, world)
    return {
        **{
            f"{PREFIXES[file]}_{name}": port
            for file, graph in specs.items()
            for name, port in {**graph.inputs, **graph.outputs}.items()
        },
        **{
            f"{prefix}_{name}_spread": Port(role="judgement", key=name, shape=(), dtype="float32")
            for prefix in PREFIXES.values()
            for name in world.judges
        },
        "margin": Port(role="noise", key="margin", shape=(), dtype="float32"),
    }


def read_trace(content: bytes, spec: PolicySpec, world: WorldSpec) -> Arrays:
    """A trace from `world_golden.npz`, checked against what the manifest says.

    Raises:
        BundleError: if it is no such file, too large, or an array is missing or ill-shaped.
    """
    return read_recording(content, trace_ports(spec, world), TRACE)


def check_dream(graphs: Mapping[str, Graph], trace: Arrays, batch: int = 1) -> TraceComparison:
    """Run the recorded steps through both graphs, `batch` of them at a time.

    A decoding makes no choice, so it has no excuse: where it differs, the step's margin is inf.
    """
    steps = len(trace["margin"])
    chunks = [slice(at, at + batch) for at in range(0, steps, batch)]
    error = {
        file: np.concatenate([_error(graphs[file], trace, PREFIXES[file], one) for one in chunks])
        for file in (IMAGINE, DECODE)
    }
    is_worse = error[DECODE] > error[IMAGINE]
    margin = np.where(is_worse, np.inf, trace["margin"])
    return TraceComparison(np.maximum(error[IMAGINE], error[DECODE]), margin)


def _error(graph: Graph, trace: Arrays, prefix: str, steps: slice) -> Array:
    values: dict[str, Arrays] = {}
    for name, port in graph.spec.inputs.items():
        values.setdefault(port.role, {})[port.key] = trace[f"{prefix}_{name}"][steps]
    found = graph.run(values)
    errors: list[Array] = []
    for name, port in graph.spec.outputs.items():
        error = difference(found[port.role, port.key], trace[f"{prefix}_{name}"][steps])
        if port.role == "judgement":
            scale = np.maximum(1.0, np.abs(trace[f"{prefix}_{name}"][steps]))
            error = error * scale / np.maximum(scale, trace[f"{prefix}_{name}_spread"][steps])
        errors.append(error)
    return np.max(errors, axis=0)
