"""The golden trace: recorded acting steps that an exported graph has to reproduce.

Every step stands on its own, with the carry that torch had before it. The check is therefore
teacher-forced: categorical latents flip where two logits tie, and closed loops diverge from there.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from math import prod
from typing import NamedTuple

import numpy as np

from ..errors import BundleError
from ..policy.noise import draw, with_plan_axes
from ..policy.onnx_session import Graph, Port, Ports, graph_specs, onnx_model
from ..policy.planners import PlanModel, first_returns
from ..spec import Array, Arrays, PlanSpec, PolicySpec

SCORED = 10  # steps whose proposals are scored: a whole planner's decision costs 1,000 rollouts
BYTES = 2 << 30  # of the unpacked trace
STEPS = 100_000
BATCHES = (1, 7)  # steps in one call: each alone, then together, since a graph may mix them
EXCUSABLE = 0.1  # largest share of a trace's steps that may differ with an excuse
HEADER = re.compile(  # of an array as numpy writes it; what else may stand there is not parsed
    rb"\x93NUMPY\x01\x00(?s:..)"
    rb"\{'descr': '([<>|][a-zA-Z]\d+)', 'fortran_order': (True|False), "
    rb"'shape': \(([\d, ]*)\), \} *\n"
)
HEADER_BYTES = 1 << 10
DAMAGED = (  # what zipfile and zlib raise for an archive that lies about itself
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # encrypted, or (NotImplementedError) of a zip version that is not read
)


class TraceComparison(NamedTuple):
    """Comparison of an exported graph with the recording.

    Attributes:
        error: (T,) largest difference in each step, relative where numbers exceed 1.
        margin: (T,) how far each step's closest discrete choice was from falling otherwise,
            relative to the scores it separates; inf where nothing was chosen.
    """

    error: Array
    margin: Array

    def excused(self, tolerance: float) -> Array:
        """(T,) bool: steps that differ in a discrete choice too close to call."""
        differs = np.isfinite(self.error) & ~(self.error <= tolerance)
        return differs & (self.margin < tolerance)

    def failed(self, tolerance: float) -> Array:
        """(T,) bool: steps that differ without an excuse; NaN is a difference."""
        return ~(self.error <= tolerance) & ~self.excused(tolerance)


def golden_ports(spec: PolicySpec) -> Ports:
    """The arrays of a trace, each (T, *shape): the acting graph's inputs and outputs, and two more.

    `address` is each step's noise address. `margin` is the smallest top-2 margin of its discrete
    choices, inf where nothing is chosen: the difference of the two best scores over max(1, the
    larger magnitude of the two), so that it has the unit of `difference`. A planning agent's trace
    also holds `returns` of the first proposals of the first 10 steps, each a whole rollout of
    imagined steps.
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
        BundleError: if it is no such file, too large, an array is missing or ill-shaped, or a
            margin is none.
    """
    return read_recording(content, golden_ports(spec), "golden.npz")


def read_recording(content: bytes, ports: Mapping[str, Port], file: str) -> Arrays:
    """Recorded steps, T of every port; `margin` is one of them.

    Args:
        content: an npz file as numpy writes it.
        ports: what it has to hold.
        file: its name, for messages.

    Raises:
        BundleError: as `read_golden`.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            _check_members(archive.infolist(), ports, file)
            arrays = _arrays(archive, ports, file)
    except BundleError:
        raise
    except DAMAGED as error:
        raise BundleError(f"{file} cannot be read ({error}); export the policy again") from error
    margin = arrays["margin"]
    if not (margin >= 0).all():  # written so that NaN counts too
        raise BundleError(
            f"{file} holds the margin {margin[~(margin >= 0)][0]}, expected numbers of at "
            "least 0, and inf where a step makes no discrete choice; export the policy again"
        )
    return arrays


def _check_members(
    members: Sequence[zipfile.ZipInfo], ports: Mapping[str, Port], file: str
) -> None:
    found, expected = sorted(one.filename for one in members), sorted(f"{n}.npy" for n in ports)
    if found != expected:
        differing = ", ".join(sorted({*found} ^ {*expected})) or "some arrays twice"
        raise BundleError(f"{file} lacks or adds {differing:.200}; export the policy again")
    packed = {one.compress_type for one in members}
    if not packed <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise BundleError(
            f"{file} is packed otherwise than numpy packs arrays; export the policy again"
        )
    unpacked = sum(one.file_size for one in members)
    if unpacked > BYTES:
        raise BundleError(f"{file} unpacks to {unpacked:,} bytes, expected at most {BYTES:,}")


class _Header(NamedTuple):
    """The header of a member of the archive, and where its numbers begin."""

    dtype: str
    is_fortran: bool
    shape: tuple[int, ...]
    start: int


def _header(archive: zipfile.ZipFile, name: str, file: str) -> _Header:
    with archive.open(f"{name}.npy") as member:
        found = HEADER.match(member.read(HEADER_BYTES))
    if found is None:
        raise BundleError(
            f"{file} cannot be read: {name} is not a plain array; export the policy again"
        )
    dtype, order, shape = (text.decode() for text in found.groups())
    sizes = tuple(int(size) for size in shape.replace(" ", "").split(",") if size)
    return _Header(dtype, order == "True", sizes, found.end())


def _arrays(archive: zipfile.ZipFile, ports: Mapping[str, Port], file: str) -> Arrays:
    steps = (*_header(archive, "margin", file).shape, 0)[0]
    if not 0 < steps <= STEPS:
        raise BundleError(
            f"{file} records {steps:,} steps, expected 1 to {STEPS:,}; export the policy again"
        )
    counts = {"returns": min(steps, SCORED)}
    return {
        name: _array(archive, name, port, counts.get(name, steps), file)
        for name, port in ports.items()
    }


def _array(archive: zipfile.ZipFile, name: str, port: Port, steps: int, file: str) -> Array:
    """An array of the trace; nothing is unpacked before its header is what it has to be."""
    header, expected = _header(archive, name, file), (steps, *port.shape)
    dtype = np.dtype(port.dtype).newbyteorder("<")
    if (header.shape, header.dtype) != (expected, dtype.str):
        raise BundleError(
            f"{file} holds {name} of shape {header.shape} and type {header.dtype}, expected "
            f"{expected} and {dtype.str} ({port.dtype}); export the policy again"
        )
    size = prod(expected) * dtype.itemsize
    if archive.getinfo(f"{name}.npy").file_size != header.start + size:
        raise BundleError(
            f"{file} holds more or less of {name} than it says; export the policy again"
        )
    numbers = archive.read(f"{name}.npy")[header.start :]
    return np.frombuffer(numbers, dtype).reshape(expected, order="F" if header.is_fortran else "C")


def check_trace(
    graphs: Mapping[str, Graph], spec: PolicySpec, golden: Arrays, batch: int = 1
) -> TraceComparison:
    """Run the recorded steps through the graphs, `batch` of them at a time.

    Args:
        graphs: the policy's open graphs by file name.
        spec: the policy's spec.
        golden: a trace (see `golden_ports`).
        batch: steps in one call.

    Returns:
        Each step's largest difference from the recording, and its margin.

    Raises:
        BundleError: if a graph cannot run the steps.
    """
    graph = next(iter(graphs.values()))
    steps = len(golden["margin"])
    chunks = [slice(at, at + batch) for at in range(0, steps, batch)]
    error = np.concatenate([_step_error(graph, golden, chunk) for chunk in chunks])
    if spec.plan is not None:
        model = onnx_model(graphs)
        chunks = [slice(at, min(at + batch, SCORED)) for at in range(0, min(steps, SCORED), batch)]
        for chunk in chunks:
            returns = score_first(model, spec, golden, chunk)
            error[chunk] = np.maximum(error[chunk], difference(returns, golden["returns"][chunk]))
    return TraceComparison(error, golden["margin"])


def _step_error(graph: Graph, golden: Arrays, steps: slice) -> Array:
    outputs = graph.run(by_role(graph.spec.inputs, golden, steps))
    return np.max(
        [
            difference(outputs[port.role, port.key], golden[name][steps])
            for name, port in graph.spec.outputs.items()
        ],
        axis=0,
    )


def score_first(model: PlanModel, spec: PolicySpec, golden: Arrays, steps: slice) -> Array:
    """Returns (B, J) of what a planner scores first in steps of the trace.

    The planner's noise is drawn again by its address; recorded it would be most of the file.
    """
    ports = graph_specs(spec)["observe.onnx"].outputs
    carry = by_role(ports, golden, steps)["carry"]
    return first_returns(model, spec, carry, trace_noise(spec, golden["address"][steps]))


def trace_noise(spec: PolicySpec, address: Array) -> Arrays:
    """The noise of a trace's steps at (B, 3) addresses: of a plan, its first iteration only."""
    plan = spec.plan and replace(spec.plan, iterations=1)
    return draw(with_plan_axes(spec.noise, plan), address)


def by_role(ports: Mapping[str, Port], arrays: Arrays, steps: slice) -> dict[str, Arrays]:
    """Arrays that are named as in a graph, by role and key."""
    values: dict[str, Arrays] = {"carry": {}, "noise": {}}  # which a policy may do without
    for name, port in ports.items():
        values.setdefault(port.role, {})[port.key] = arrays[name][steps]
    return values


def difference(found: Array, expected: Array) -> Array:
    """(B,) largest |found - expected| / max(1, |expected|) of each; 1 where an index differs."""
    found, expected = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    if expected.dtype.kind in "iub":
        return (found != expected).max(1, initial=0).astype(np.float64)
    scale = np.maximum(1.0, np.abs(expected))
    return (np.abs(found.astype(np.float64) - expected) / scale).max(1, initial=0.0)
