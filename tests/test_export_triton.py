"""Triton: a model repository that its own config reader takes, and steps equal to `load_policy`'s.

AGENTZOO_TRITON_PYTHON names an interpreter with tritonclient; `.ci/triton_client VENV PYTHON` makes
one. No Triton server is run: its sequence batcher is imitated over ONNX Runtime.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from agentzoo import DreamerV3, PlaNet, hub
from agentzoo.agent import Agent
from agentzoo.cli.learn import export
from agentzoo.export_triton import export_triton, protobuf_text, triton_config
from agentzoo.runtime.bundle.load import load_policy
from agentzoo.runtime.bundle.manifest import read_manifest
from agentzoo.runtime.client.triton import TritonSession
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.spec import Arrays
from tests.interpreters import interpreter_of

CARTPOLE, PENDULUM = "gym:CartPole-v1", "gym:Pendulum-v1"
READER = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
config = text_format.Parse(sys.stdin.read(), ModelConfig())
shown = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}
print(json_format.MessageToJson(config, **shown))
"""


class Request(NamedTuple):
    sequence: int
    inputs: Arrays
    start: bool = False
    end: bool = False


class SequenceBatcher:
    """Triton's, as far as a model sees it: control tensors, states by sequence, batches of many."""

    def __init__(self, model: Path, config: Mapping[str, Any]) -> None:
        self.config, self.states = config["sequence_batching"], dict[int, Arrays]()
        self.outputs = [one["name"] for one in config["output"]]
        self.inputs = {one["name"]: tuple(one["dims"]) for one in config["input"]}
        self.session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))

    def step(self, requests: Sequence[Request]) -> list[Arrays]:
        (control,) = self.config["control_input"]
        no, yes = control["control"][0]["bool_false_true"]
        feeds = {control["name"]: np.array([[yes if r.start else no] for r in requests])}
        for name, dims in self.inputs.items():
            feeds[name] = np.concatenate([r.inputs[name] for r in requests])
            assert feeds[name].shape == (len(requests), *dims), name
        for request in requests:
            if request.start:
                self.states[request.sequence] = {
                    one["input_name"]: np.zeros(one["dims"], np.float32)
                    for one in self.config["state"]
                }
        for one in self.config["state"]:
            held = [self.states[r.sequence][one["input_name"]] for r in requests]
            feeds[one["input_name"]] = np.stack(held)
        after = {one["output_name"]: one["input_name"] for one in self.config["state"]}
        names = [*self.outputs, *after]
        found = dict(zip(names, self.session.run(names, feeds), strict=True))
        for i, request in enumerate(requests):
            for name, state in after.items():
                self.states[request.sequence][state] = found[name][i]
            if request.end:
                del self.states[request.sequence]
        return [{n: found[n][i : i + 1] for n in self.outputs} for i in range(len(requests))]


def bundle_of(kind: type[Agent], env: str, folder: Path, **fields: object) -> Path:
    return kind(env, preset="debug", device="cpu", seed=0, **fields).export(folder, golden_steps=5)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bundles")
    return {
        "discrete": bundle_of(DreamerV3, CARTPOLE, root / "discrete"),
        "zoo": hub.locate("zoo:dreamer-dmc-cartpole-swingup"),
    }


def config_of(bundle: Path, **options: Any) -> dict[str, Any]:
    return triton_config(read_manifest(bundle).graphs["policy.onnx"], "model", **options)


@pytest.mark.parametrize("name", ["discrete", "zoo"])
def test_mixed_batches_of_sequences_step_as_load_policy_does(
    name: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    """Three sequences that start, end and start again at different steps, in one batch."""
    rng = np.random.default_rng(0)
    bundle = bundles[name]
    model = export_triton(bundle, tmp_path, name="model")
    batcher = SequenceBatcher(model, config_of(bundle))
    ours = [load_policy(bundle, provider="cpu", seed=seed) for seed in range(3)]
    theirs = [TritonSession(model, seed=seed) for seed in range(3)]
    (key,) = ours[0].spec.obs
    shape = ours[0].spec.obs[key].shape
    begin, ends = [0, 2, 5], {(0, 6), (1, 9), (2, 11)}
    for t in range(16):
        playing = [i for i in range(3) if t >= begin[i]]
        obs = {i: rng.standard_normal(shape, np.float32) for i in playing}
        requests = [
            Request(10 + i, theirs[i].inputs(obs[i]), theirs[i].is_first, (i, t) in ends)
            for i in playing
        ]
        for i, found in zip(playing, batcher.step(requests), strict=True):
            action = theirs[i].action(found["action"])
            expected = ours[i].act(obs[i])
            assert action.shape == expected.shape
            assert action.dtype == expected.dtype
            np.testing.assert_allclose(action, expected, atol=1e-5)
            if (i, t) in ends:
                ours[i].reset()
                theirs[i].reset()
    assert batcher.states.keys() == {10, 11, 12}


def test_the_mode_variant_has_no_noise_and_takes_the_likeliest_latents(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    """The step with noise in the middle, which is a categorical's mode and a normal's mean."""
    rng, bundle = np.random.default_rng(0), bundles["discrete"]
    model = export_triton(bundle, tmp_path, latents="mode")
    assert model.name == "dreamerv3_gym_cartpole_v1_mode"
    session, policy = TritonSession(model), load_policy(bundle, provider="cpu")
    batcher = SequenceBatcher(model, config_of(bundle, latents="mode"))
    carry = policy.initial(1)
    noise = {n: np.full((1, *one.shape), 0.5, np.float32) for n, one in policy.spec.noise.items()}
    for t in range(5):
        obs = rng.standard_normal(4, np.float32)
        inputs = session.inputs(obs)
        assert list(inputs) == ["obs_00_observation"]
        (found,) = batcher.step([Request(1, inputs, t == 0)])
        seen = {"observation": obs[None], "is_first": np.array([t == 0])}
        carry, action = policy.step(carry, seen, noise, np.array([True]))
        assert session.action(found["action"]) == action[0]
        (state,) = batcher.states.values()
        for place, key in enumerate(policy.spec.carry):
            np.testing.assert_allclose(
                state[f"state_in_{place:02d}_{key}"], carry[key][0], atol=1e-5
            )


@pytest.fixture(scope="module")
def interpreter() -> str:
    return interpreter_of("AGENTZOO_TRITON_PYTHON", ".ci/triton_client")


@pytest.mark.parametrize("latents", ["sample", "mode"])
def test_tritons_own_protobuf_reads_the_config(
    latents: str, interpreter: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    model = export_triton(bundles["discrete"], tmp_path, latents=latents, idle_s=90, max_batch=32)
    text = (model / "config.pbtxt").read_text("utf-8")
    done = subprocess.run(
        [interpreter, "-c", READER], input=text, capture_output=True, text=True, check=True
    )
    read = json.loads(done.stdout)
    assert (read["backend"], read["max_batch_size"]) == ("onnxruntime", 32)
    asked = {one["name"]: (one["data_type"], one["dims"]) for one in read["input"]}
    observed = {"obs_00_observation": ("TYPE_FP32", ["4"])}
    drawn = {
        "noise_00_latent": ("TYPE_FP32", ["4", "4"]),
        "noise_01_action": ("TYPE_FP32", ["2"]),
        "deterministic": ("TYPE_BOOL", ["1"]),
    }
    assert asked == (observed | drawn if latents == "sample" else observed)
    (action,) = read["output"]
    assert (action["name"], action["data_type"], action["dims"]) == ("action", "TYPE_INT64", ["1"])
    batching = read["sequence_batching"]
    assert batching["max_sequence_idle_microseconds"] == "90000000"
    assert batching["oldest"]["max_candidate_sequences"] == 1024
    (control,) = batching["control_input"]
    (flag,) = control["control"]
    assert (control["name"], flag["kind"]) == ("is_first", "CONTROL_SEQUENCE_START")
    assert flag["bool_false_true"] == [False, True]
    pairs = [(one["input_name"], one["output_name"]) for one in batching["state"]]
    assert pairs == [
        (f"state_in_{place}", f"state_out_{place}")
        for place in ("00_deter", "01_stoch", "02_prev_action")
    ]
    assert all(one["initial_state"][0]["zero_data"] for one in batching["state"])


def test_text_format_quotes_strings_alone() -> None:
    text = protobuf_text(config_of(hub.locate("zoo:dreamer-dmc-cartpole-swingup")))
    assert text.startswith('name: "model"\nbackend: "onnxruntime"\nmax_batch_size: 64\ninput {\n')
    assert "kind: CONTROL_SEQUENCE_START\n" in text
    assert "bool_false_true: false\n" in text


def test_a_planner_is_refused_with_a_sentence_before_anything_is_written(tmp_path: Path) -> None:
    saved = PlaNet(PENDULUM, preset="debug", device="cpu").save(tmp_path / "saved")
    with pytest.raises(BundleError, match=r"cannot carry the planner: use agentzoo serve"):
        export(saved, tmp_path / "bundle", triton=tmp_path / "models")
    with pytest.raises(ConfigError, match=r"is of a Triton model; add --triton DIR"):
        export(saved, tmp_path / "bundle", latents="mode")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_is_there_is_not_overwritten(bundles: dict[str, Path], tmp_path: Path) -> None:
    export_triton(bundles["zoo"], tmp_path)
    with pytest.raises(ConfigError, match=r"swingup is there already; remove it"):
        export_triton(bundles["zoo"], tmp_path)
    with pytest.raises(ConfigError, match=r"max_batch=0 has to be at least 1"):
        export_triton(bundles["zoo"], tmp_path, name="other", max_batch=0)
    with pytest.raises(BundleError, match=r"sequence.json cannot be read"):
        TritonSession(tmp_path)
