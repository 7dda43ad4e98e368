"""A recurrent policy written down by hand: a bundle in milliseconds, without torch.

deter' = tanh(W_d deter + W_o obs + W_a prev_action + 0.1 latent), from zeros where is_first; the
action is tanh(W deter' + 0.1 noise) in [-1, 1], or the largest of such logits.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from agentzoo.runtime.bundle.golden_trace import golden_ports
from agentzoo.runtime.bundle.manifest import GOLDEN, OPSET, write_manifest
from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.policy.onnx_session import Graph, graph_specs
from agentzoo.runtime.spec import (
    ActionSpec,
    Array,
    NoiseSpec,
    ObsSpec,
    PolicySpec,
    TensorSpec,
)

STEPS = 20  # of the golden trace
SIDE = 256  # of the matrices of a slow graph
TYPES = {
    "float32": TensorProto.FLOAT,
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


def write_bundle(
    folder: Path,
    *,
    observations: int = 4,
    actions: int = 2,
    discrete: bool = False,
    deter: int = 32,
    env: str = "",
    key: str = "observation",
    seed: int = 0,
    slow: bool = False,
    image: tuple[int, int, int] | None = None,
) -> Path:
    """Write a bundle of random weights.

    Args:
        folder: to write to; is made.
        observations: numbers in an observation.
        actions: numbers in an action, or choices of a discrete one.
        discrete: whether the action is an index.
        deter: size of the recurrent state.
        env: environment string.
        key: what the observation is called.
        seed: of the weights.
        slow: whether a step takes about a millisecond for each unit of the largest observation.
        image: height, width and channels, if the observation is one.
    """
    spec = _spec(observations, actions, discrete, deter, env, key)
    if image is not None:
        obs = ObsSpec(kind="image", shape=image, source=image)
        spec = replace(spec, obs={key: obs})
    model = _model(spec, np.random.default_rng(seed))
    if slow:
        _slow_down(model)
    content = model.SerializeToString()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.onnx").write_bytes(content)
    np.savez(folder / GOLDEN, **_golden(spec, content))
    write_manifest(folder, spec, {"made": "by hand"})
    return folder


def _spec(
    observations: int, actions: int, discrete: bool, deter: int, env: str, key: str
) -> PolicySpec:
    action = ActionSpec(
        kind="box",
        size=actions,
        shape=(actions,),
        dtype="float32",
        low=(-1.0,) * actions,
        high=(1.0,) * actions,
    )
    if discrete:
        action = ActionSpec(
            kind="discrete", size=actions, shape=(), dtype="int64", nvec=(actions,), start=(0,)
        )
    return PolicySpec(
        agent="Handmade",
        env=env,
        obs={key: ObsSpec(kind="vector", shape=(observations,), source=(observations,))},
        action=action,
        carry={"deter": TensorSpec(shape=(deter,)), "prev_action": TensorSpec(shape=(actions,))},
        noise={
            "latent": NoiseSpec(shape=(deter,)),
            "action": NoiseSpec(shape=(actions,), role="action"),
        },
        deterministic=False,
        seed=3,
    )


def _model(spec: PolicySpec, rng: np.random.Generator) -> ModelProto:
    graph = graph_specs(spec)["policy.onnx"]
    deter, size = spec.carry["deter"].shape[0], spec.action.size
    obs = next(iter(spec.obs.values()))
    scale = 255 * math.sqrt(math.prod(obs.shape)) if obs.kind == "image" else 1
    weights = {
        "w_deter": rng.standard_normal((deter, deter)) / np.sqrt(deter),
        "w_obs": rng.standard_normal((math.prod(obs.shape), deter)) / scale,
        "w_prev": rng.standard_normal((size, deter)),
        "w_action": rng.standard_normal((deter, size)),
        "tenth": np.array(0.1),
        "zero": np.array(0.0),
    }
    constants = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    constants.append(numpy_helper.from_array(np.array([1]), "axis"))
    constants += [numpy_helper.from_array(np.array(size), "size")] * spec.action.nvec.__len__()
    constants += [numpy_helper.from_array(np.array([0, 1], np.float32), "off_on")]
    sides = [
        [
            helper.make_tensor_value_info(name, TYPES[port.dtype], ["batch", *port.shape])
            for name, port in ports.items()
        ]
        for ports in (graph.inputs, graph.outputs)
    ]
    made = helper.make_graph(_nodes(spec), "handmade", sides[0], sides[1], constants)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, producer_name=""
    )


def _nodes(spec: PolicySpec) -> list[NodeProto]:
    node = helper.make_node
    (obs,) = [name for name in graph_specs(spec)["policy.onnx"].inputs if name.startswith("obs_")]
    last = [node("Tanh", ["chosen"], ["state_out_01_prev_action"])]
    last += [node("Identity", ["state_out_01_prev_action"], ["action"])]
    if spec.action.kind == "discrete":
        last = [
            node("ArgMax", ["chosen"], ["action"], axis=1, keepdims=0),
            node("OneHot", ["action", "size", "off_on"], ["state_out_01_prev_action"]),
        ]
    return [
        node("Unsqueeze", ["is_first", "axis"], ["first"]),
        node("Where", ["first", "zero", "state_in_00_deter"], ["deter"]),
        node("Where", ["first", "zero", "state_in_01_prev_action"], ["prev"]),
        node("MatMul", ["deter", "w_deter"], ["by_deter"]),
        node("Cast", [obs], ["cast"], to=TensorProto.FLOAT),
        node("Flatten", ["cast"], ["flat"]),
        node("MatMul", ["flat", "w_obs"], ["by_obs"]),
        node("MatMul", ["prev", "w_prev"], ["by_prev"]),
        node("Mul", ["noise_00_latent", "tenth"], ["latent"]),
        node("Sum", ["by_deter", "by_obs", "by_prev", "latent"], ["raw"]),
        node("Tanh", ["raw"], ["state_out_00_deter"]),
        node("MatMul", ["state_out_00_deter", "w_action"], ["mode"]),
        node("Mul", ["noise_01_action", "tenth"], ["spread"]),
        node("Add", ["mode", "spread"], ["sampled"]),
        node("Unsqueeze", ["deterministic", "axis"], ["by_mode"]),
        node("Where", ["by_mode", "mode", "sampled"], ["chosen"]),
        *last,
    ]


def _slow_down(model: ModelProto) -> None:
    """Let the graph multiply matrices in a loop, which adds nothing."""
    node, graph = helper.make_node, model.graph
    (obs,) = [one.name for one in graph.input if one.name.startswith("obs_")]
    body = helper.make_graph(
        [node("Identity", ["more"], ["more_out"]), node("MatMul", ["x", "x"], ["x_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, SIDE]),
        ],
        [
            helper.make_tensor_value_info("more_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, [SIDE, SIDE]),
        ],
    )
    graph.initializer.append(numpy_helper.from_array(np.zeros((SIDE, SIDE), np.float32), "matrix"))
    action = next(one for one in graph.node if "chosen" in one.output)
    action.output[0] = "quick"
    at = list(graph.node).index(action) + 1
    for one in reversed([
        node("ReduceMax", [obs], ["largest"], keepdims=0),
        node("Cast", ["largest"], ["times"], to=TensorProto.INT64),
        node("Loop", ["times", "", "matrix"], ["product"], body=body),
        node("ReduceSum", ["product"], ["nothing"], keepdims=0),
        node("Add", ["quick", "nothing"], ["chosen"]),
    ]):  # fmt: skip
        graph.node.insert(at, one)


def _golden(spec: PolicySpec, content: bytes) -> dict[str, Array]:
    graph = Graph("policy.onnx", content, graph_specs(spec)["policy.onnx"], provider="cpu")
    rng = np.random.default_rng(1)
    address = np.array([(spec.seed, 0, t) for t in range(STEPS)], np.int64)
    values = {
        "carry": {
            name: rng.standard_normal((STEPS, *one.shape), np.float32)
            for name, one in spec.carry.items()
        },
        "obs": {
            key: rng.integers(0, 256, (STEPS, *one.shape), np.uint8)
            if one.kind == "image"
            else rng.standard_normal((STEPS, *one.shape)).astype(np.float32)
            for key, one in spec.obs.items()
        },
        "noise": draw(with_plan_axes(spec.noise), address),
        "is_first": {"": np.arange(STEPS) % 7 == 0},
        "deterministic": {"": np.arange(STEPS) % 2 == 0},
    }
    outputs = graph.run(values)
    flat = {
        (role, key): array for role, entries in values.items() for key, array in entries.items()
    }
    trace = {"address": address, "margin": np.full(STEPS, np.inf, np.float32)}
    for name, port in golden_ports(spec).items():
        if name not in trace:
            is_output = name in graph.spec.outputs
            trace[name] = (outputs if is_output else flat)[port.role, port.key]
    return trace
