"""Faults that `verify` has to find, and what it says of a recording that is none."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from agentzoo.runtime import load_policy, verify
from agentzoo.runtime.bundle.load import load_verified
from agentzoo.runtime.bundle.onnx_check import check_onnx
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.policy.onnx_session import Graph, graph_specs
from tests.unit_runtime.bundles import WEIGHTS, graph, linear, linear_spec, replace

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear(tmp_path_factory.mktemp("made") / "bundle", episodes=1)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; 12 steps, no margin below 0.01."""
    target = tmp_path / "bundle"
    target.mkdir()
    for path in made.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def respell(folder: Path, change: Callable[[Arrays], object]) -> None:
    """Change the recording, and make the manifest true of it."""
    golden: Arrays = dict(np.load(folder / "golden.npz"))
    change(golden)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **golden)
    replace(folder, "golden.npz", file.getvalue())


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def other_actions(golden: Arrays, steps: int) -> None:
    golden["action"][:steps] = 1 - golden["action"][:steps]


# -- excuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 1e-6])
def test_a_recording_of_ties_does_not_excuse_every_step(folder: Path, margin: float) -> None:
    respell(folder, lambda golden: other_actions(golden, 12))
    respell(folder, lambda golden: golden["margin"].fill(margin))
    with pytest.raises(BundleError, match=r"12 of 12 recorded steps differ .* at most a tenth may"):
        verify(folder)
    with pytest.raises(BundleError, match="at most a tenth may"):
        load_verified(folder)


def test_another_policy_is_not_excused_by_close_choices(folder: Path) -> None:
    replace(folder, "policy.onnx", graph(linear_spec(0), -WEIGHTS))
    respell(folder, lambda golden: golden["margin"].fill(1e-5))
    with pytest.raises(BundleError, match="recorded steps differ on cpu in discrete choices"):
        verify(folder)


def test_a_tenth_is_excused_and_more_is_not(folder: Path) -> None:
    respell(folder, lambda golden: golden["margin"].fill(0))
    respell(folder, lambda golden: other_actions(golden, 1))
    assert verify(folder).excused == 1
    respell(folder, lambda golden: other_actions(golden, 2))
    assert verify(folder).excused == 1  # the first is right again
    respell(folder, lambda golden: other_actions(golden, 1))
    with pytest.raises(BundleError, match=r"2 of 12 recorded steps differ .* at most a tenth may"):
        verify(folder)


@pytest.mark.parametrize("margin", [np.nan, -1e-9, -1.0, -np.inf])
def test_a_margin_that_is_none_is_refused(folder: Path, margin: float) -> None:
    respell(folder, lambda golden: golden["margin"].__setitem__(3, margin))
    with pytest.raises(BundleError, match=r"holds the margin (nan|-\S+), expected numbers of at"):
        verify(folder)


def test_nan_is_no_discrete_choice(folder: Path) -> None:
    respell(folder, lambda golden: golden["margin"].__setitem__(3, 0))
    respell(folder, lambda golden: golden["state_out_00_prev_action"].__setitem__(3, np.nan))
    with pytest.raises(BundleError, match=r"1 of 12 recorded steps differ .* step 3, by nan"):
        verify(folder)


# -- batches -------------------------------------------------------------------------------------


def mixing() -> bytes:
    """The linear policy, but each element acts by the largest logits of the batch."""
    model = onnx.load_model_from_string(graph(linear_spec(0), weights()))
    node = next(one for one in model.graph.node if one.op_type == "MatMul")
    node.output[0] = "own"
    first = [helper.make_node("ReduceMax", ["own", "elements"], ["largest"], keepdims=1),
             helper.make_node("Sub", ["own", "own"], ["none"]),
             helper.make_node("Add", ["largest", "none"], ["logits"])]  # fmt: skip
    nodes = [model.graph.node[0], *first, *model.graph.node[1:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "elements"))
    return model.SerializeToString()


def weights() -> NDArray[np.float32]:
    return WEIGHTS + np.random.default_rng(0).normal(0, 0.1, WEIGHTS.shape).astype("f4")


def test_a_graph_that_mixes_its_batch_does_not_pass(folder: Path) -> None:
    replace(folder, "policy.onnx", mixing())
    policy = load_policy(folder)
    with pytest.raises(BundleError, match="recorded steps differ on cpu, 7 steps together"):
        verify(folder)
    with pytest.raises(BundleError, match="7 steps together"):
        load_verified(folder)
    alone = policy.predict(np.ones((1, 4), "f4"), deterministic=True)[0]
    assert alone.shape == (1,)  # what each element alone does is right


def test_a_graph_of_one_element_is_named(folder: Path) -> None:
    """Its axis is open, and it gives one element whatever it is given."""
    model = onnx.load_model_from_string(graph(linear_spec(0), weights()))
    node = next(one for one in model.graph.node if one.op_type == "ArgMax")
    node.output[0] = "all"
    last = helper.make_node("Slice", ["all", "from", "to"], ["action"])
    at = [one.op_type for one in model.graph.node].index("ArgMax")
    nodes = [*model.graph.node[: at + 1], last, *model.graph.node[at + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, value in (("from", [0]), ("to", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    replace(folder, "policy.onnx", model.SerializeToString())
    with pytest.raises(
        BundleError, match=r"gave .* of shape \(1.*\) for a batch of 7, expected \(7"
    ):
        verify(folder)


# -- what opens a graph --------------------------------------------------------------------------


def test_onnxruntimes_own_format_is_not_opened(folder: Path, tmp_path: Path) -> None:
    """No look inside reads it; onnxruntime tells it by four bytes and would run it."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(tmp_path / "policy.ort")
    content = (folder / "policy.onnx").read_bytes()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    ort = (tmp_path / "policy.ort").read_bytes()
    onnxruntime.InferenceSession(ort, providers=["CPUExecutionProvider"])  # it would
    with pytest.raises(BundleError, match=r"onnxruntime cannot open policy\.onnx"):
        Graph("policy.onnx", ort, graph_specs(linear_spec(0))["policy.onnx"], provider="cpu")
    with pytest.raises(BundleError, match="in ONNX Runtime's own format"):
        check_onnx(ort, "policy.onnx")
    harmless = b"\x12\x06" + b"__ORTM" + content  # a producer's name: sound protobuf
    assert onnx.load_model_from_string(harmless).producer_name == "__ORTM"
    with pytest.raises(BundleError, match="in ONNX Runtime's own format"):
        check_onnx(harmless, "policy.onnx")


def test_what_a_graph_cannot_run_on_is_one_sentence(folder: Path) -> None:
    """The shapes are right; the class that the observation names is not there."""
    model = onnx.load_model_from_string(graph(linear_spec(0), weights()))
    picks = [helper.make_node("ReduceSum", ["obs_00_observation", "last"], ["sum"], keepdims=0),
             helper.make_node("Cast", ["sum"], ["which"], to=onnx.TensorProto.INT64),
             helper.make_node("Gather", ["values", "which"], ["unused"])]  # fmt: skip
    model.graph.node.extend(picks)
    model.graph.node.append(helper.make_node("ReduceSum", ["unused"], ["total"], keepdims=0))
    model.graph.node.append(helper.make_node("Mul", ["total", "nought"], ["zero"]))
    node = next(one for one in model.graph.node if one.op_type == "Add")
    model.graph.node.remove(node)
    model.graph.node.extend(
        [helper.make_node("Add", ["logits", "added"], ["plain"]),
         helper.make_node("Add", ["plain", "zero"], ["scores"])]
    )  # fmt: skip
    order = {"ArgMax": 1, "OneHot": 2}
    nodes = sorted(model.graph.node, key=lambda one: order.get(one.op_type, 0))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    replace(folder, "policy.onnx", model.SerializeToString())
    policy = load_policy(folder)
    policy.act(np.zeros(4, np.float32))
    with pytest.raises(BundleError, match=r"onnxruntime cannot run policy\.onnx: .*Gather"):
        policy.act(np.full(4, 100, np.float32))


# -- what the manifest may say -------------------------------------------------------------------


def onehot(policy: dict[str, Any]) -> None:
    policy["obs"]["observation"] = {
        "kind": "onehot", "shape": [4], "source": [], "nvec": [], "start": []
    }  # fmt: skip


def box(policy: dict[str, Any]) -> None:
    policy["action"] |= {"kind": "box", "dtype": "float32", "shape": [2], "nvec": [], "start": []}
    policy["action"] |= {"low": [-1.0], "high": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p["obs"]["observation"].update(source=[-1]), r"holds the shape \(-1,\)"),
        (lambda p: p["obs"]["observation"].update(source=[2**40, 2**40]), "holds the shape"),
        (lambda p: p["obs"]["observation"].update(source=[5]), r"has shape \(4,\), expected \(5,"),
        (lambda p: p["obs"]["observation"].update(source=[0]), "expected at least one number"),
        (lambda p: p["obs"]["observation"].update(nvec=[4]), "a vector with nvec or start"),
        (lambda p: p["obs"]["observation"].update(kind="image"), r"expected \(h, w, c\)"),
        (lambda p: p.update(obs={}), "reads no observation"),
        (onehot, "has 0 nvec and 0 start, expected 1 of each"),
        (box, r"low, high and size say \(1, 2, 2\) numbers, expected 2 of each"),
        (lambda p: p["action"].update(low=[0.0]), "discrete with low or high"),
        (lambda p: p["action"].update(nvec=[3]), "size is 2, expected 3, the sum of its nvec"),
        (lambda p: p["action"].update(start=[]), "has 1 nvec and 0 start"),
        (lambda p: p["action"].update(start=[2**63]), "indices that its dtype holds"),
        (lambda p: p["action"].update(dtype="uint8", start=[-1]),
         r"start is \(-1,\), expected indices that uint8 holds"),
        (lambda p: p["action"].update(dtype="int8", start=[-129]), "indices that int8 holds"),
        (lambda p: p["action"].update(dtype="int8", start=[127]), "indices that its dtype holds"),
        (lambda p: p["action"].update(dtype="float32"), "expected whole numbers"),
        (lambda p: p["action"].update(shape=[1]), r"discrete of the shape \(1,\), expected \(\)"),
        (lambda p: p["action"].update(low=[10**400]), "a number beyond a float"),
        (lambda p: p["carry"].update({f"x{n}": {"shape": [1], "dtype": "float32"}
                                      for n in range(100)}), "101 tensors of the kind carry"),
        (lambda p: p.update(agent="\ud800"), "is not JSON .*surrogates not allowed"),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], match: str
) -> None:
    edit(folder, lambda manifest: change(manifest["policy"]))
    with pytest.raises(BundleError, match=match):
        verify(folder)


@pytest.mark.parametrize("opset", [999, 19, 0])
def test_the_operator_set_is_the_graphs(folder: Path, opset: int) -> None:
    edit(folder, lambda manifest: manifest.update(opset=opset))
    with pytest.raises(
        BundleError, match=f"imports the operator set 20, the manifest says {opset}"
    ):
        verify(folder)


# -- golden.npz ----------------------------------------------------------------------------------


def plain(header: bytes, numbers: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + numbers


def archive(folder: Path, margin: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The recording, with other content in the place of its margins."""
    file = io.BytesIO()
    with zipfile.ZipFile(folder / "golden.npz") as before, zipfile.ZipFile(file, "w") as after:
        for name in before.namelist():
            content = margin if name == "margin.npy" else before.read(name)
            after.writestr(name, content, compression)
    return file.getvalue()


FLOATS = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"


NO_ARRAY = r"cannot be read: margin is not a plain array"
LENGTH = r"holds more or less of margin than it says"
LIES = {
    "empty": (b"", NO_ARRAY),
    "no array": (b"no array", NO_ARRAY),
    "64 Gi numbers": (plain(FLOATS % b"68719476736,"), r"records 68,719,476,736 steps, expected 1"),
    "too few numbers": (plain(FLOATS % b"12,"), LENGTH),
    "too many numbers": (plain(FLOATS % b"12,", bytes(100)), LENGTH),
    "no steps": (plain(FLOATS % b"0,"), r"records 0 steps, expected 1 to 100,000"),
    "one number": (plain(FLOATS % b"", bytes(4)), r"records 0 steps"),
    "900 digits": (plain(FLOATS % (b"9" * 900 + b",")), r"records 999,999,.* steps, expected 1"),
    "deep header": (plain(b"(" * 900), NO_ARRAY),
    "objects": (
        plain(b"{'descr': '|O', 'fortran_order': False, 'shape': (12,), }\n", bytes(96)),
        NO_ARRAY,
    ),
    "records": (
        plain(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (12,), }\n", bytes(48)),
        NO_ARRAY,
    ),
    "doubles": (
        plain(b"{'descr': '<f8', 'fortran_order': False, 'shape': (12,), }\n", bytes(96)),
        r"holds margin of shape \(12,\) and type <f8, expected \(12,\) and <f4 \(float32\)",
    ),
    "integers": (  # of the same size, which are no zeros read as floats
        plain(b"{'descr': '<i4', 'fortran_order': False, 'shape': (12,), }\n", bytes(48)),
        r"holds margin of shape \(12,\) and type <i4",
    ),
}


@pytest.mark.parametrize(("margin", "match"), LIES.values(), ids=LIES)
def test_a_recording_that_lies_is_one_sentence(folder: Path, margin: bytes, match: str) -> None:
    replace(folder, "golden.npz", archive(folder, margin))
    with pytest.raises(BundleError, match=rf"golden\.npz {match}.*; export"):
        verify(folder)


def test_a_recording_that_would_unpack_to_more_than_any_is_not_unpacked(folder: Path) -> None:
    content = bytearray(archive(folder, plain(FLOATS % b"12,", bytes(48))))
    name = content.rindex(b"margin.npy")  # in the directory at the end, 46 bytes behind its entry
    content[name - 22 : name - 18] = struct.pack("<I", 3 << 30)  # the size that it unpacks to
    replace(folder, "golden.npz", bytes(content))
    with pytest.raises(BundleError, match=r"golden\.npz unpacks to 3,221,\d+,\d+ bytes, expected"):
        verify(folder)


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"]
)
def test_a_recording_packed_otherwise_is_not_unpacked(folder: Path, compression: int) -> None:
    with np.load(folder / "golden.npz") as golden:
        margin = plain(FLOATS % b"12,", golden["margin"].tobytes())
    replace(folder, "golden.npz", archive(folder, margin, compression))
    with pytest.raises(BundleError, match=r"golden\.npz is packed otherwise"):
        verify(folder)


def test_every_byte_of_a_recording_may_be_damaged(folder: Path) -> None:
    np.savez_compressed(folder / "golden.npz", **np.load(folder / "golden.npz"))
    content = (folder / "golden.npz").read_bytes()
    refused = 0
    for at in range(0, len(content), 11):
        spoiled = bytearray(content)
        spoiled[at] ^= 0xFF
        replace(folder, "golden.npz", bytes(spoiled))
        try:
            verify(folder)
        except BundleError:
            refused += 1
    assert refused > len(content) // 22
