"""A bundle's policy as a model of NVIDIA Triton Inference Server: its graph and its config.pbtxt.

Triton's sequence batcher keeps the carry between the steps of a sequence ("implicit state"), so a
client sends observations alone. Noise stays an input: the client fills it, by the same addresses as
everywhere else (`runtime.client.triton.TritonSession`). With latents="mode" there is no noise:
every latent and every action is its distribution's mode.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agentzoo.runtime.bundle.load import read_checked
from agentzoo.runtime.bundle.manifest import read_manifest
from agentzoo.runtime.client.triton import SIGNATURE, TritonSignature
from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.errors import BundleError, ConfigError, MissingExtraError
from agentzoo.runtime.files import at_home
from agentzoo.runtime.policy.onnx_session import GraphSpec, Port
from agentzoo.runtime.spec import PolicySpec
from agentzoo.runtime.strict_json import write_fields

from .config import one_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Latents = Literal["sample", "mode"]
GRAPH = "policy.onnx"
TYPES = {"bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32",
         "int64": "TYPE_INT64", "float32": "TYPE_FP32", "float64": "TYPE_FP64"}  # fmt: skip
MIDDLE = {"normal": 0.0, "uniform": 0.5}  # of noise: what makes a sample the mode


class Word(str):
    """A name of a protobuf enumeration, which stands without quotes."""

    __slots__ = ()


def export_triton(
    bundle: str | Path,
    repository: str | Path,
    *,
    latents: Latents = "sample",
    name: str | None = None,
    max_batch: int = 64,
    max_sequences: int = 1024,
    idle_s: float = 600.0,
    delay_s: float = 0.0005,
) -> Path:
    """Write a bundle's policy into a Triton model repository.

    Args:
        bundle: what `export` wrote; one graph, so an agent that acts by a network.
        repository: the folder that Triton is started with; made if it is not there.
        latents: "sample" with noise as inputs, as the policy was scored; "mode" without.
        name: the model's; None makes one of agent and task.
        max_batch: largest batch.
        max_sequences: sequences that may be open at a time.
        idle_s: seconds without a request after which a sequence ends; Triton's own default is one.
        delay_s: seconds that a request may wait for others to join it.

    Returns:
        The model's folder: config.pbtxt, 1/model.onnx and `sequence.json` for clients.

    Raises:
        BundleError: if the bundle is damaged, or its policy plans.
        ConfigError: if there is a model of that name already, or a number makes no sense.
        MissingExtraError: without onnx.
    """
    one_of("latents", latents, ("sample", "mode"))
    for what, number in (("max_batch", max_batch), ("max_sequences", max_sequences)):
        if number < 1:
            raise ConfigError(f"{what}={number} has to be at least 1")
    bundle = at_home(bundle)
    manifest = read_manifest(bundle)
    spec = manifest.policy
    require_one_graph(spec)
    name = model_name(spec, latents) if name is None else name
    folder = at_home(repository) / name
    if folder.exists():
        raise ConfigError(f"{folder} is there already; remove it, or give another name")
    graph = manifest.graphs[GRAPH]
    content = triton_graph(read_checked(bundle, GRAPH, manifest.files[GRAPH]), spec, graph, latents)
    config = triton_config(
        graph,
        name,
        latents=latents,
        max_batch=max_batch,
        max_sequences=max_sequences,
        idle_s=idle_s,
        delay_s=delay_s,
    )
    signature = write_fields(TritonSignature(latents=latents, policy=spec))
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(content)
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=1) + "\n", encoding="utf-8")
    (folder / "config.pbtxt").write_text(protobuf_text(config), encoding="utf-8")
    return folder


def require_one_graph(spec: PolicySpec) -> None:
    """Refuse a policy that plans: Triton runs one graph a step, a search loops over several.

    Raises:
        BundleError: saying what serves it instead.
    """
    if spec.plan is not None:
        raise BundleError(
            f"this {spec.agent} plans every action, a search over several graphs that the runtime "
            "drives; Triton runs one graph a step and cannot carry the planner: use agentzoo "
            "serve, or an agent with an actor"
        )


def model_name(spec: PolicySpec, latents: Latents) -> str:
    """Agent and task in the letters that Triton's names have."""
    task = EnvName.read(spec.env).head if spec.env else "policy"
    words = [spec.agent, task, *(["mode"] if latents == "mode" else [])]
    return re.sub(r"[^a-z0-9]+", "_", "_".join(words).lower()).strip("_")


def triton_config(
    graph: GraphSpec,
    name: str,
    *,
    latents: Latents = "sample",
    max_batch: int = 64,
    max_sequences: int = 1024,
    idle_s: float = 600.0,
    delay_s: float = 0.0005,
) -> dict[str, Any]:
    """The content of config.pbtxt, a ModelConfig; see `export_triton`.

    The sequence's start is the policy's `is_first`. A state's first content is zeros: without
    `initial_state` Triton gives uninitialised memory.
    """
    inputs = {n: p for n, p in graph.inputs.items() if p.role == "obs" or latents == "sample"}
    asked = [n for n, p in inputs.items() if p.role in ("obs", "noise", "deterministic")]
    states = zip(_of("carry", graph.inputs), _of("carry", graph.outputs), strict=True)
    return {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": max_batch,
        "input": [_tensor(n, graph.inputs[n]) for n in asked],
        "output": [_tensor(n, p) for n, p in graph.outputs.items() if p.role == "action"],
        "sequence_batching": {
            "max_sequence_idle_microseconds": round(1e6 * idle_s),
            "oldest": {
                "max_candidate_sequences": max_sequences,
                "max_queue_delay_microseconds": round(1e6 * delay_s),
            },
            "control_input": [
                {
                    "name": "is_first",
                    "control": [
                        {
                            "kind": Word("CONTROL_SEQUENCE_START"),
                            "bool_false_true": [False, True],
                        }
                    ],
                }
            ],
            "state": [
                {
                    "input_name": before,
                    "output_name": after,
                    "data_type": Word(TYPES[graph.inputs[before].dtype]),
                    "dims": _dims(graph.inputs[before]),
                    "initial_state": [
                        {
                            "name": f"zeros_{before}",
                            "data_type": Word(TYPES[graph.inputs[before].dtype]),
                            "dims": _dims(graph.inputs[before]),
                            "zero_data": True,
                        }
                    ],
                }
                for before, after in states
            ],
        },
    }


def _of(role: str, ports: Mapping[str, Port]) -> list[str]:
    return [name for name, port in ports.items() if port.role == role]


def _dims(port: Port) -> list[int]:
    """Triton's tensors have an axis beside the batch's."""
    return list(port.shape or (1,))


def _tensor(name: str, port: Port) -> dict[str, Any]:
    return {"name": name, "data_type": Word(TYPES[port.dtype]), "dims": _dims(port)}


def protobuf_text(message: Mapping[str, Any], indent: str = "") -> str:
    """A message in protobuf's text format; a list is a repeated field."""
    lines: list[str] = []
    for key, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{key} {{\n{protobuf_text(one, indent + '  ')}{indent}}}\n")
            else:
                bare = isinstance(one, Word)
                lines.append(f"{indent}{key}: {one if bare else json.dumps(one)}\n")
    return "".join(lines)


# -- the graph -----------------------------------------------------------------------------------


def triton_graph(content: bytes, spec: PolicySpec, graph: GraphSpec, latents: Latents) -> bytes:
    """The policy's graph with tensors as Triton has them.

    Numbers (B,) become (B, 1), so `is_first` is what Triton's control tensors are. Where latents
    are modes, noise is constant, and so is `deterministic`. Probes are left out.

    Raises:
        BundleError: if a node holds a graph of its own.
        MissingExtraError: without onnx.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "train") from error
    model = onnx.load_from_string(content)
    if any(one.HasField("g") or one.graphs for node in model.graph.node for one in node.attribute):
        raise BundleError("the policy's graph has branches or loops, which are not rewritten")
    before: list[NodeProto] = []
    after: list[NodeProto] = []
    for name, port in graph.inputs.items():
        constant = _constant(spec, port) if latents == "mode" else None
        if constant is not None:
            before += _filled(model, name, port, constant)
        elif not port.shape:
            before += _flattened(model, name)
    for name, port in graph.outputs.items():
        if port.role == "probe":
            _drop(model.graph.output, name)
        elif not port.shape:
            after += _unflattened(model, name)
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _constant(spec: PolicySpec, port: Port) -> float | bool | None:
    """The number that stands for an input where every choice is the mode."""
    if port.role == "deterministic":
        return True
    return MIDDLE[spec.noise[port.key].kind] if port.role == "noise" else None


def _filled(model: "ModelProto", name: str, port: Port, value: float | bool) -> "list[NodeProto]":
    """Nodes that make an input of one number, as many of it as there are flags."""
    from onnx import helper, numpy_helper

    _drop(model.graph.input, name)
    shape = numpy_helper.from_array(np.array(port.shape, np.int64), f"{name}__shape")
    model.graph.initializer.append(shape)
    filling = numpy_helper.from_array(np.array([value], port.dtype))
    return [
        helper.make_node("Shape", ["is_first"], [f"{name}__batch"], start=0, end=1),
        helper.make_node("Concat", [f"{name}__batch", shape.name], [f"{name}__size"], axis=0),
        helper.make_node("ConstantOfShape", [f"{name}__size"], [name], value=filling),
    ]


def _flattened(model: "ModelProto", name: str) -> "list[NodeProto]":
    """A node that makes the (B,) which the graph reads of an input (B, 1)."""
    from onnx import helper, numpy_helper

    _add_axis(model.graph.input, name)
    inner = f"{name}__flat"
    for node in model.graph.node:
        node.input[:] = [inner if one == name else one for one in node.input]
    shape = numpy_helper.from_array(np.array([-1], np.int64), f"{name}__to")
    model.graph.initializer.append(shape)
    return [helper.make_node("Reshape", [name, shape.name], [inner])]


def _unflattened(model: "ModelProto", name: str) -> "list[NodeProto]":
    """A node that makes an output (B, 1) of the graph's (B,)."""
    from onnx import helper, numpy_helper

    _add_axis(model.graph.output, name)
    inner = f"{name}__flat"
    for node in model.graph.node:
        node.input[:] = [inner if one == name else one for one in node.input]
        node.output[:] = [inner if one == name else one for one in node.output]
    shape = numpy_helper.from_array(np.array([-1, 1], np.int64), f"{name}__to")
    model.graph.initializer.append(shape)
    return [helper.make_node("Reshape", [inner, shape.name], [name])]


def _add_axis(values: Any, name: str) -> None:
    (value,) = (one for one in values if one.name == name)
    value.type.tensor_type.shape.dim.add().dim_value = 1


def _drop(values: Any, name: str) -> None:
    kept: Sequence[Any] = [one for one in values if one.name != name]
    del values[:]
    values.extend(kept)
