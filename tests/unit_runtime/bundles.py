"""A whole bundle in milliseconds and without torch: a linear policy for CartPole."""

import hashlib
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from agentzoo.runtime import evaluate, load_policy, make_env
from agentzoo.runtime.bundle.golden_trace import golden_ports
from agentzoo.runtime.bundle.manifest import OPSET, write_manifest
from agentzoo.runtime.policy.noise import draw, with_plan_axes
from agentzoo.runtime.policy.onnx_session import graph_specs
from agentzoo.runtime.policy.spaces import action_spec, observation_specs
from agentzoo.runtime.spec import Arrays, NoiseSpec, PolicySpec, TensorSpec

ENV = "gym:CartPole-v1?repeat=1"
STEPS = 12
DTYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
WEIGHTS = np.array([[0, 0], [-0.5, 0.5], [-8, 8], [-2, 2]], np.float32)  # falls left: push left
REPLAY = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(2_000)  # not a film, but not text either
CURVE = b"\x89PNG\r\n\x1a\n" + bytes(500)


def linear(
    folder: Path, *, seed: int = 0, episodes: int = 10, padding: int = 0, scale: float = 1
) -> Path:
    """Write a bundle with everything that `push` wants.

    Args:
        folder: a new one.
        seed: another one is another policy.
        episodes: evaluated, really.
        padding: further bytes in the weights.
        scale: of the weights; with a negative one it acts the other way.
    """
    folder.mkdir(parents=True)
    spec = linear_spec(seed)
    drawn = np.random.default_rng(seed).normal(0, 0.1, WEIGHTS.shape).astype("f4")
    weights = scale * (WEIGHTS + drawn)
    (folder / "policy.onnx").write_bytes(graph(spec, weights))
    np.savez(folder / "golden.npz", **trace(spec, weights))
    (folder / "config.json").write_text(json.dumps(config(spec), indent=1))
    write_safetensors(folder / "model.safetensors", weights, padding)
    write_manifest(folder, spec, {"date": "2026-11-22", "agentzoo": "0.1.0"})
    score(folder, episodes)
    (folder / "replay.mp4").write_bytes(REPLAY)
    (folder / "learning_curve.png").write_bytes(CURVE)
    return folder


def score(folder: Path, episodes: int = 10) -> None:
    """Evaluate, and write results.json."""
    results = evaluate(load_policy(folder), episodes=episodes, seed=1_000)
    (folder / "results.json").write_text(json.dumps(results.to_json(), indent=1))


def linear_spec(seed: int) -> PolicySpec:
    env = make_env("gym:CartPole-v1")
    action = action_spec(env.action_space)
    return PolicySpec(
        agent="Dreamer",
        env=ENV,
        obs=observation_specs(env.observation_space),
        action=action,
        carry={"prev_action": TensorSpec(shape=(action.size,))},
        noise={"action": NoiseSpec(shape=(action.size,), role="action")},
        deterministic=False,
        seed=seed,
    )


def config(spec: PolicySpec) -> dict[str, object]:
    policy = spec.to_json()
    return {
        "format": 1,
        "agent": spec.agent,
        "env": spec.env,
        "seed": spec.seed,
        "config": {},
        "policy": {"obs": policy["obs"], "action": policy["action"]},
        "packages": {},
        "training": {
            "preset": "cpu",
            "overrides": ["batch_size=32"],
            "env_steps": 50_000,
            "paper": "Hafner et al. 2020, arXiv:1912.01603",
            "differs": {"batch_size": ["50", "32"]},
        },
    }


def graph(spec: PolicySpec, weights: np.ndarray, domain: str = "") -> bytes:
    """An ONNX file: argmax of a linear map, with noise where not deterministic."""
    ports = graph_specs(spec)["policy.onnx"]
    nodes = [
        helper.make_node("MatMul", ["obs_00_observation", "weights"], ["logits"]),
        helper.make_node("Unsqueeze", ["deterministic", "last"], ["mode"]),
        helper.make_node("Where", ["mode", "nought", "noise_00_action"], ["added"]),
        helper.make_node("Add", ["logits", "added"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["action"], axis=1, keepdims=0),
        helper.make_node("OneHot", ["action", "two", "values"], ["state_out_00_prev_action"]),
    ]
    if domain:
        nodes.append(helper.make_node("Evil", ["logits"], ["unused"], domain=domain))
    constants = {
        "weights": weights,
        "last": np.array([1]),
        "nought": np.float32(0),
        "two": np.array(2),
        "values": np.array([0, 1], np.float32),
    }
    made = helper.make_graph(
        nodes,
        "linear",
        [_value(name, port) for name, port in ports.inputs.items()],
        [_value(name, port) for name, port in ports.outputs.items()],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=imports, ir_version=10)
    return model.SerializeToString()


def _value(name, port):
    return helper.make_tensor_value_info(name, DTYPES[port.dtype], ["batch", *port.shape])


def trace(spec: PolicySpec, weights: np.ndarray) -> Arrays:
    """A golden trace, by numpy."""
    rng = np.random.default_rng(1)
    address = np.array([[spec.seed, 0, t] for t in range(STEPS)], np.int64)
    noise = draw(with_plan_axes(spec.noise, spec.plan), address)["action"]
    mode = np.arange(STEPS) % 2 == 1
    obs = rng.standard_normal((STEPS, 4), np.float32)
    scores = obs @ weights + np.where(mode[:, None], 0, noise)
    action = scores.argmax(1)
    arrays = {
        "state_in_00_prev_action": np.zeros((STEPS, 2), np.float32),
        "obs_00_observation": obs,
        "is_first": np.arange(STEPS) == 0,
        "noise_00_action": noise,
        "deterministic": mode,
        "state_out_00_prev_action": np.eye(2, dtype=np.float32)[action],
        "action": action,
        "address": address,
        "margin": np.abs(scores[:, 0] - scores[:, 1]).astype(np.float32),
    }
    return {name: arrays[name] for name in golden_ports(spec)}


def write_safetensors(path: Path, weights: np.ndarray, padding: int = 0) -> None:
    header = {
        "weights": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
        "padding": {"dtype": "U8", "shape": [padding], "data_offsets": [32, 32 + padding]},
    }
    text = json.dumps(header).encode()
    rng = np.random.default_rng(2)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + weights.tobytes())
        for start in range(0, padding, 1 << 20):
            file.write(rng.bytes(min(1 << 20, padding - start)))


def replace(folder: Path, name: str, content: bytes) -> None:
    """Put another file in and make the manifest true of it, as an attacker would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"sha256": digest, "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rename_env(folder: Path, env: str) -> None:
    """Write another environment string wherever it stands."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["policy"]["env"] = env
    (folder / "manifest.json").write_text(json.dumps(manifest))
    settings = json.loads((folder / "config.json").read_text())
    settings["env"] = env
    replace(folder, "config.json", json.dumps(settings).encode())
