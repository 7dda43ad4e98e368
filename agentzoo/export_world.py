"""The world model beside the exported policy: two graphs and a recorded dream, checked in torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.bundle.golden_trace import by_role
from agentzoo.runtime.bundle.load import judge_dream, read_trace_of
from agentzoo.runtime.bundle.manifest import MANIFEST, OPSET, read_manifest, write_manifest
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.files import at_home
from agentzoo.runtime.policy.noise import draw
from agentzoo.runtime.policy.onnx_session import GraphSpec, graph_specs
from agentzoo.runtime.spec import Array, Arrays, PolicySpec
from agentzoo.runtime.world.graphs import open_world_graphs
from agentzoo.runtime.world.signature import (
    DECODE,
    IMAGINE,
    TRACE,
    WorldSpec,
    latent_tensors,
    world_graph_specs,
)
from agentzoo.runtime.world.trace import PREFIXES

from .algorithm import Algorithm, DreamChoosing, Spreading, WorldModel
from .export import (
    FlatStep,
    arrays,
    onnx_graph,
    provenance,
    resting,
    tensor,
    tensors,
)
from .torch_world import imagined, world_spec

STEPS = 20  # of the recorded dream, at most; decoded pictures are most of it


def export_world(algorithm: Algorithm, spec: PolicySpec, folder: str | Path) -> Path:
    """Add the world model to a bundle that `export` has just written.

    Nothing is written before ONNX Runtime agrees with torch to 1e-4 over the whole recorded dream,
    its steps alone and together. The dream's states are those that the policy's trace reached.

    Args:
        algorithm: an `agentzoo.algorithm.WorldModel`. It may have a method
            `dream_margin(carry, action, noise, deterministic) -> (N,)`: how far the closest
            discrete choice of an imagined step is from falling otherwise.
        spec: the policy's.
        folder: the bundle's.

    Raises:
        BundleError: if it is no `WorldModel`, a graph cannot be run, or its outputs differ from
            torch's.
        MissingExtraError: without onnxruntime.
    """
    require_world_model(algorithm)
    folder = at_home(folder)
    manifest = read_manifest(folder)
    golden = read_trace_of(folder, manifest)
    with resting(algorithm) as still:
        world = world_spec(still)
        specs = world_graph_specs(spec, world)
        contents = {
            IMAGINE: onnx_graph(_Imagine(still, specs[IMAGINE]), specs[IMAGINE]),
            DECODE: onnx_graph(_Decode(still, specs[DECODE]), specs[DECODE]),
        }
        trace = _dream(still, spec, world, golden)
    graphs = open_world_graphs(contents, spec, world, opset=OPSET, provider="cpu")
    try:
        judge_dream(graphs, spec, trace)
    except BundleError as error:
        raise BundleError(f"the exported world model disagrees with torch: {error}") from error
    (folder / MANIFEST).unlink()  # until all files stand, the folder is no bundle
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    np.savez_compressed(folder / TRACE, allow_pickle=False, **trace)
    write_manifest(folder, spec, provenance(spec.env), world)
    return folder


def require_world_model(algorithm: Algorithm) -> WorldModel:
    """The algorithm, if its world model can be called from outside.

    Raises:
        BundleError: naming the methods that it needs.
    """
    if not isinstance(algorithm, WorldModel):
        raise BundleError(
            f"{type(algorithm).__name__} cannot be called as a world model: it needs the methods "
            "dream, decode and judge of agentzoo.algorithm.WorldModel; export without it instead"
        )
    return algorithm


class _Imagine(FlatStep):
    method = "dream"

    def run(self, values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        mode = values.get("deterministic", {}).get("", torch.zeros(1, dtype=torch.bool))
        carry, judged = imagined(
            self.algorithm, values["carry"], values["action"][""], values["noise"], mode
        )
        action = {"policy": carry["prev_action"]} if "prev_action" in carry else {}
        return {"carry": carry, "judgement": judged, "action": action}


class _Decode(FlatStep):
    method = "decode"

    def run(self, values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        model = cast("WorldModel", self.algorithm)
        carry = values["carry"]
        return {"obs": model.decode(carry), "judgement": model.judge(carry)}


def _dream(algorithm: Algorithm, spec: PolicySpec, world: WorldSpec, golden: Arrays) -> Arrays:
    """One imagined step and one decoding from every state of the policy's trace, by torch."""
    step = max(1, len(golden["margin"]) // STEPS)
    taken = slice(0, step * STEPS, step)  # all over the trace
    acting = next(iter(graph_specs(spec).values()))
    reached = by_role(acting.outputs, golden, taken)["carry"]
    address = golden["address"][taken]
    batch = len(address)
    carry = {name: reached[name] for name in latent_tensors(spec)}
    action = _random_actions(spec, batch)
    noise = draw(spec.noise, address)
    mode = np.arange(batch) % 2 == 1
    values = {"carry": carry, "noise": noise, "action": {"": action}, "deterministic": {"": mode}}
    specs = world_graph_specs(spec, world)
    imagined_to = arrays(
        cast("WorldModel", algorithm).dream(tensors(carry), tensor(action), tensors(noise))
    )
    trace = {
        **_recorded(_Imagine(algorithm, specs[IMAGINE]), specs[IMAGINE], values, PREFIXES[IMAGINE]),
        **_recorded(_Decode(algorithm, specs[DECODE]), specs[DECODE], values, PREFIXES[DECODE]),
    }
    for file, state in ((IMAGINE, imagined_to), (DECODE, carry)):
        for name, spread in _spreads(algorithm, world, state).items():
            trace[f"{PREFIXES[file]}_{name}_spread"] = spread
    return {**trace, "margin": _margin(algorithm, carry, action, noise, mode)}


def _recorded(
    module: FlatStep, graph: GraphSpec, values: Mapping[str, Arrays], prefix: str
) -> Arrays:
    inputs = {name: values[port.role][port.key] for name, port in graph.inputs.items()}
    found = module([tensor(array) for array in inputs.values()])
    outputs = arrays(dict(zip(graph.outputs, found, strict=True)))
    return {f"{prefix}_{name}": array for name, array in {**inputs, **outputs}.items()}


def _random_actions(spec: PolicySpec, batch: int) -> Array:
    """(B, A) in model units, all over the action space."""
    rng = np.random.default_rng(spec.seed)
    if spec.action.kind == "box":
        return rng.uniform(-1.0, 1.0, (batch, spec.action.size)).astype(np.float32)
    groups = [np.eye(n, dtype=np.float32)[rng.integers(0, n, batch)] for n in spec.action.nvec]
    return np.concatenate(groups, axis=1)


def _spreads(algorithm: Algorithm, world: WorldSpec, carry: Arrays) -> Arrays:
    """Judgement -> (B,) float32 of at least 1."""
    known: Arrays = {}
    if isinstance(algorithm, Spreading):
        known = arrays(algorithm.judge_spread(tensors(carry)))
    ones = np.ones(len(next(iter(carry.values()))), np.float32)
    return {name: np.maximum(ones, known.get(name, ones)) for name in world.judges}


def _margin(
    algorithm: Algorithm, carry: Arrays, action: Array, noise: Arrays, mode: Array
) -> Array:
    """(B,) float32; inf for an algorithm that makes no discrete choices."""
    if not isinstance(algorithm, DreamChoosing):
        return np.full(len(mode), np.inf, np.float32)
    found = algorithm.dream_margin(tensors(carry), tensor(action), tensors(noise), tensor(mode))
    return found.numpy(force=True).astype(np.float32)
