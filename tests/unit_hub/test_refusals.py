"""Hostile publications, and what is done about them: nothing is opened, or run."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model_from_string
from onnx.external_data_helper import set_external_data

from agentzoo.hub import load_policy, pull, push
from agentzoo.hub.package import LIMITS
from agentzoo.runtime.errors import BundleError, EnvironmentStringError
from tests.unit_hub.standin import StandIn
from tests.unit_runtime.bundles import WEIGHTS, graph, linear_spec, rename_env, replace

REPO = "stranger/dreamer-gym-CartPole-v1"
FETCHES = (pull, load_policy)


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (open, (self.path, "w"))


def publish(hub: StandIn, folder: Path, **more: bytes) -> None:
    """Past `push`, which would refuse it."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    hub.put(REPO, files | more)


def test_the_untouched_bundle_passes(hub: StandIn, folder: Path) -> None:
    publish(hub, folder)
    assert load_policy(REPO).spec.agent == "Dreamer"


def test_pickles_and_code_beside_a_bundle_stay_away(
    hub: StandIn, folder: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    evil = pickle.dumps(Evil(str(trap)))
    publish(hub, folder, **{"pytorch_model.bin": evil, "modeling.py": b"open('x', 'w')"})
    names = {path.name for path in pull(REPO).iterdir()}
    assert not names & {"pytorch_model.bin", "modeling.py", ".gitattributes"}
    assert hub.asked("GET", "/resolve/.*(bin|py)$") == 0
    assert not trap.exists()


def test_a_pickle_in_the_place_of_weights(hub: StandIn, folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    replace(folder, "model.safetensors", pickle.dumps(Evil(str(trap))))
    publish(hub, folder)
    with pytest.raises(BundleError, match="is not in the safetensors format"):
        pull(REPO)
    assert not trap.exists()


def test_a_pickle_in_the_golden_trace(hub: StandIn, folder: Path, tmp_path: Path) -> None:
    from agentzoo.runtime import verify

    trap = tmp_path / "trap"
    golden = dict(np.load(folder / "golden.npz"))
    golden["action"] = np.array([Evil(str(trap))] * len(golden["action"]), object)
    np.savez(tmp_path / "evil.npz", **golden)
    replace(folder, "golden.npz", (tmp_path / "evil.npz").read_bytes())
    publish(hub, folder)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        verify(pull(REPO))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "the entry of"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "do not lie end to end"),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}, "the entry of"),
        ({"w": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, "the entry of"),
        ({"w": {"dtype": "PY", "shape": [8], "data_offsets": [0, 8]}}, "the entry of"),
        ({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 8]}}, "expected int"),
        ({"w": {"dtype": "PY", "shape": [8], "data_offsets": [8, 0]}}, "the entry of"),
        ({"w": {"dtype": "PY", "shape": [0], "data_offsets": [8, 8]}}, "the entry of"),
        (
            {
                "v": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]},
                "w": {"dtype": "PY", "shape": [1], "data_offsets": [9, 8]},
            },
            "the entry of",
        ),
        ({"\ud800": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}, "no JSON object"),
        (
            {
                "w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
                "__metadata__": {"format": 1},
            },
            "its metadata are no texts",
        ),
        ({"w": [1]}, "expected an object"),
        ([], "its header is no JSON object"),
    ],
)
def test_weights_whose_header_lies(hub: StandIn, folder: Path, header: object, match: str) -> None:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    replace(folder, "model.safetensors", content)
    publish(hub, folder)
    with pytest.raises(BundleError, match=match):
        pull(REPO)


@pytest.mark.parametrize("length", [0, 1 << 40, (1 << 64) - 1])
def test_weights_whose_header_has_no_end(hub: StandIn, folder: Path, length: int) -> None:
    replace(folder, "model.safetensors", length.to_bytes(8, "little") + bytes(100))
    publish(hub, folder)
    with pytest.raises(BundleError, match="its header would have"):
        pull(REPO)


def test_unknown_operator_domains(
    hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(folder, "policy.onnx", graph(linear_spec(0), WEIGHTS, domain="com.evil"))
    publish(hub, folder)
    no_session(monkeypatch)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match=r'operators of the domain "com\.evil"'):
            fetch(REPO)


def test_external_data(hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model_from_string(graph(linear_spec(0), WEIGHTS))
    (tensor,) = (one for one in model.graph.initializer if one.name == "weights")
    set_external_data(tensor, location="../../../../etc/passwd")
    replace(folder, "policy.onnx", model.SerializeToString())
    publish(hub, folder)
    no_session(monkeypatch)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match="keeps tensors in other files"):
            fetch(REPO)


def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has to be refused before anything opens it."""
    import onnxruntime

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a session opened the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)


def test_a_graph_of_functions(hub: StandIn, folder: Path) -> None:
    model = load_model_from_string(graph(linear_spec(0), WEIGHTS))
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], [], opset))
    replace(folder, "policy.onnx", model.SerializeToString())
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match="defines functions"):
            fetch(REPO)


def test_what_is_no_graph_at_all(hub: StandIn, folder: Path) -> None:
    replace(folder, "policy.onnx", b"")
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match=r"policy\.onnx is empty"):
            fetch(REPO)


@pytest.mark.parametrize("path", ["../../../evil", "/etc/passwd", "training/evil", "evil.so"])
def test_a_manifest_that_names_paths_outside(hub: StandIn, folder: Path, path: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path] = manifest["files"]["policy.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match="which no bundle has"):
            fetch(REPO)


def test_paths_in_the_repo_that_leave_the_folder(
    hub: StandIn, folder: Path, tmp_path: Path
) -> None:
    publish(hub, folder, **{"../../../trap": b"x", "..\\trap": b"x", "policy.onnx/../trap": b"x"})
    names = {path.name for path in pull(REPO).iterdir()}
    assert "trap" not in names
    assert list(tmp_path.rglob("*trap*")) == []


@pytest.mark.parametrize(
    ("env", "match"),
    [
        ("gym:os.path:CartPole-v1?repeat=1", "comes from a download and names the task"),
        ("gym:../../evil", "comes from a download and names the task"),
        ("evil:task", 'names the suite "evil", which is not registered'),
        ("gym:CartPole-v1?entry_point=os:system", 'sets "entry_point", which the suite gym does'),
        ("gym:CartPole-v1?repeat=many", "sets repeat=many, expected a whole number"),
        ("gym:CartPole-v1?repeat=1&repeat=2", "expected each key once"),
        ("CartPole-v1", "is not an environment string|names the task"),
    ],
)
def test_environment_strings_beyond_registered_suites(
    hub: StandIn, folder: Path, env: str, match: str
) -> None:
    rename_env(folder, env)
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(EnvironmentStringError, match=match):
            fetch(REPO)


def test_config_of_one_agent_and_manifest_of_another(hub: StandIn, folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["env"] = "gym:os:Evil-v0"
    replace(folder, "config.json", json.dumps(settings).encode())
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match=r"config\.json is of Dreamer in 'gym:os:Evil-v0'"):
            fetch(REPO)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b'{"format": "1"}', b"\xff\xfe"])
@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
def test_json_that_is_none(hub: StandIn, folder: Path, name: str, content: bytes) -> None:
    if name == "config.json":
        replace(folder, name, content)
    else:
        (folder / name).write_bytes(content)
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match=rf"{re.escape(name)}.*(JSON|object|format)"):
            fetch(REPO)


def test_a_file_larger_than_any_of_its_name_is_not_fetched(
    hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, folder)
    monkeypatch.setitem(LIMITS, "policy.onnx", 100)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match=r"policy\.onnx has .* bytes, expected at most 100"):
            fetch(REPO)
    assert hub.asked("GET", "/resolve/") == 0


def test_a_file_that_is_not_what_the_manifest_says(hub: StandIn, folder: Path) -> None:
    (folder / "policy.onnx").write_bytes(graph(linear_spec(0), -WEIGHTS))
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(
            BundleError, match=r"policy\.onnx is not the file that was exported: its sha256 differs"
        ):
            fetch(REPO)


def test_a_missing_graph(hub: StandIn, folder: Path) -> None:
    (folder / "policy.onnx").unlink()
    publish(hub, folder)
    for fetch in FETCHES:
        with pytest.raises(BundleError, match=r"lacks policy\.onnx"):
            fetch(REPO)


def test_push_refuses_the_same(hub: StandIn, folder: Path) -> None:
    replace(folder, "policy.onnx", graph(linear_spec(0), WEIGHTS, domain="com.evil"))
    with pytest.raises(BundleError, match=r'domain "com\.evil"'):
        push(folder, "me/walker")
    assert hub.requests == []


def test_tensors_of_the_card_are_those_of_the_protocol() -> None:
    assert LIMITS["manifest.json"] == 4 << 20
    assert LIMITS["policy.onnx"] == 2 << 30
    assert TensorProto.EXTERNAL == 1  # what agentzoo/runtime/bundle/onnx_check.py refuses
