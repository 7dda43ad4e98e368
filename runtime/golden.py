"""The golden trace: recorded acting steps that an exported graph has to reproduce.

Every row is one step on its own, with the carry that torch had before it. The replay is therefore
teacher-forced: categorical latents flip where two logits tie, and closed loops diverge from there.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import NamedTuple

import numpy as np

from .errors import BundleError
from .graphs import Graph, OnnxImagine, Port, Ports, graph_specs
from .noise import draw, drawn
from .planner import Imagine, Rollouts, first_proposals
from .spec import Array, Arrays, PlanSpec, PolicySpec

SCORED = 10  # rows whose proposals are scored: a whole planner's decision costs 1,000 rollouts
BYTES = 2 << 30  # of the unpacked trace
ROWS = 100_000


class Replay(NamedTuple):
    """How an exported graph compares with the recording.

    Attributes:
        error: (T,) largest difference in each row, relative where numbers exceed 1.
        margin: (T,) how far each row's closest discrete choice was from falling otherwise.
    """

    error: Array
    margin: Array

    def excused(self, tolerance: float) -> Array:
        """(T,) bool: rows that differ in a discrete choice too close to call."""
        return ~(self.error <= tolerance) & (self.margin < tolerance)

    def failed(self, tolerance: float) -> Array:
        """(T,) bool: rows that differ without an excuse; NaN is a difference."""
        return ~(self.error <= tolerance) & ~self.excused(tolerance)


def golden_ports(spec: PolicySpec) -> Ports:
    """What a trace holds, each (T, *shape): inputs and outputs of the acting graph, and two more.

    `address` is each row's noise address, `margin` the smallest top-2 margin of its discrete
    choices, inf where it has none. A planning agent's trace also holds `returns` of the first
    proposals of the first 10 rows, each a whole rollout of imagined steps.
    """
    graph = next(iter(graph_specs(spec).values()))
    return {
        **graph.inputs,
        **graph.outputs,
        "address": Port(role="noise", key="address", shape=(3,), dtype="int64"),
        "margin": Port(role="noise", key="margin", shape=(), dtype="float32"),
        **({"returns": _returns_port(spec.plan)} if spec.plan else {}),
    }


def _returns_port(plan: PlanSpec) -> Port:
    return Port(role="returns", key="", shape=(plan.candidates,), dtype="float32")


def read_golden(content: bytes, spec: PolicySpec) -> Arrays:
    """A trace from `golden.npz`, checked against the policy's spec.

    Raises:
        BundleError: if it is no such file, too large, or an array is missing or ill-shaped.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > BYTES:
            raise BundleError(
                f"golden.npz unpacks to {unpacked:,} bytes, expected at most {BYTES:,}"
            )
        with np.load(BytesIO(content), allow_pickle=False) as file:
            arrays: Arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise BundleError(
            f"golden.npz cannot be read ({error}); export the policy again"
        ) from error
    _check(arrays, golden_ports(spec))
    return arrays


def _check(arrays: Arrays, ports: Mapping[str, Port]) -> None:
    if arrays.keys() != ports.keys():
        differing = ", ".join(sorted(arrays.keys() ^ ports.keys()))
        raise BundleError(f"golden.npz lacks or adds {differing}; export the policy again")
    rows = len(arrays["margin"].reshape(-1))
    for name, port in ports.items():
        count = min(rows, SCORED) if name == "returns" else rows
        found = (arrays[name].shape, str(arrays[name].dtype))
        if found != ((count, *port.shape), port.dtype) or not 0 < rows <= ROWS:
            raise BundleError(
                f"golden.npz holds {name} of shape {found[0]} and type {found[1]}, expected "
                f"{(count, *port.shape)} and {port.dtype}; export the policy again"
            )


def replay(graphs: Mapping[str, Graph], spec: PolicySpec, golden: Arrays, batch: int = 1) -> Replay:
    """Run the recorded rows through the graphs, `batch` rows at a time.

    Args:
        graphs: the policy's open graphs by file name.
        spec: the policy's spec.
        golden: a trace (see `golden_ports`).
        batch: rows in one call.

    Returns:
        Each row's largest difference from the recording, and its margin.
    """
    graph = next(iter(graphs.values()))
    rows = len(golden["margin"])
    chunks = [slice(at, at + batch) for at in range(0, rows, batch)]
    error = np.concatenate([_step_error(graph, golden, chunk) for chunk in chunks])
    if spec.plan is not None:
        imagine = OnnxImagine(graphs["score.onnx"])
        chunks = [slice(at, min(at + batch, SCORED)) for at in range(0, min(rows, SCORED), batch)]
        for chunk in chunks:
            returns = score_first(imagine, spec, golden, chunk)
            error[chunk] = np.maximum(error[chunk], difference(returns, golden["returns"][chunk]))
    return Replay(error, golden["margin"])


def _step_error(graph: Graph, golden: Arrays, rows: slice) -> Array:
    outputs = graph.run(by_role(graph.spec.inputs, golden, rows))
    return np.max(
        [
            difference(outputs[port.role, port.key], golden[name][rows])
            for name, port in graph.spec.outputs.items()
        ],
        axis=0,
    )


def score_first(imagine: Imagine, spec: PolicySpec, golden: Arrays, rows: slice) -> Array:
    """Returns (B, J) of what a planner scores first in rows of the trace.

    The proposals' noise is drawn again by its address; recorded it would be most of the file.
    """
    ports = graph_specs(spec)["observe.onnx"].outputs
    carry = by_role(ports, golden, rows)["carry"]
    actions, rollouts = first_proposals(spec, trace_noise(spec, golden["address"][rows]))
    return Rollouts(imagine)(carry, actions, rollouts)


def trace_noise(spec: PolicySpec, address: Array) -> Arrays:
    """What the steps of a trace draw at (B, 3) addresses: of a plan, its first iteration only."""
    plan = spec.plan and replace(spec.plan, iterations=1)
    return draw(drawn(spec.noise, plan), address)


def by_role(ports: Mapping[str, Port], arrays: Arrays, rows: slice) -> dict[str, Arrays]:
    """Rows of arrays that are named as in a graph, by role and key."""
    values: dict[str, Arrays] = {port.role: {} for port in ports.values()}
    for name, port in ports.items():
        values[port.role][port.key] = arrays[name][rows]
    return values


def difference(found: Array, expected: Array) -> Array:
    """(B,) each row's largest |found - expected| / max(1, |expected|); 1 where an index differs."""
    found, expected = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    if expected.dtype.kind in "iub":
        return (found != expected).max(1, initial=0).astype(np.float64)
    scale = np.maximum(1.0, np.abs(expected))
    return (np.abs(found.astype(np.float64) - expected) / scale).max(1, initial=0.0)
