"""A folder that is not exactly what was exported is refused, each time with its own sentence."""

import hashlib
import json
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import agentzoo.export as exporting
import agentzoo.runtime.policy.onnx_session as graphs
from agentzoo.export import export
from agentzoo.runtime import inspect, load_policy, verify
from agentzoo.runtime.bundle.onnx_check import check_onnx
from agentzoo.runtime.errors import BundleError, ConfigError, MissingExtraError, ProviderError
from agentzoo.runtime.spec import PolicySpec
from tests.unit_runtime.toys import Toy, random_inputs, seeded, toy_spec


@pytest.fixture
def folder(bundles, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(bundles("box")[0], tmp_path / "bundle")


def edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def replace(folder, name, content):
    """Put another file in and make the manifest true of it."""
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))


def test_spec_survives_json(bundles):
    for kind in ("box", "discrete", "planning"):
        spec = toy_spec(bundles(kind)[1])
        assert PolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p.update(agnet="x"), r'unknown field "agnet"; did you mean "agent"'),
        (lambda p: p.pop("carry"), 'lacks the field "carry"'),
        (lambda p: p.update(seed=True), '"policy.seed" is True, expected int'),
        (lambda p: p.update(seed="3"), "\"policy.seed\" is '3', expected int"),
        (lambda p: p.update(obs=[]), '"policy.obs" is .*, expected an object'),
        (lambda p: p["action"].update(kind="plane"), "expected one of box, discrete"),
        (lambda p: p["action"].update(low=3), '"policy.action.low" is 3, expected a list'),
        (lambda p: p["action"].update(low=[float("nan")]), "expected a finite number"),
    ],
)
def test_spec_from_json_is_strict(bundles, change, match):
    value = json.loads(json.dumps(toy_spec(bundles("box")[1]).to_json()))
    change(value)
    with pytest.raises(BundleError, match=match):
        PolicySpec.from_json(value)


def test_manifest_holds_no_local_paths(bundles):
    folder, _ = bundles("box")
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"site-packages" not in content, path
        assert str(folder.parent).encode() not in content, path


def test_graph_is_one_plain_file_with_a_symbolic_batch(bundles):
    folder, toy = bundles("box")
    model = onnx.load(folder / "policy.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    for port in (*model.graph.input, *model.graph.output):
        assert port.type.tensor_type.shape.dim[0].dim_param, port.name
    assert [port.name for port in model.graph.input] == [
        "state_in_00_stoch",
        "state_in_01_deter",
        "state_in_02_prev_action",
        f"obs_00_{next(iter(toy.obs)).lower().replace('/', '_')}",
        "obs_01_image",
        "is_first",
        "noise_00_latent",
        "noise_01_action",
        "deterministic",
    ]
    assert not list(model.metadata_props)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_planning_bundle_has_two_graphs(bundles):
    folder, _ = bundles("planning")
    names = {path.name for path in folder.iterdir()}
    assert names == {"observe.onnx", "score.onnx", "golden.npz", "manifest.json"}


def test_tampered_graph(folder):
    path = folder / "policy.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"policy\.onnx is not the file that was exported"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        load_policy(folder)


@pytest.mark.parametrize("address", ["ws://127.0.0.1:8000", "wss://there/openpi/walker"])
def test_an_address_is_not_a_folder(address):
    with pytest.raises(ConfigError, match=r"server's address, .*RemotePolicy\(address\)"):
        load_policy(address)


def test_foreign_folder(tmp_path):
    with pytest.raises(BundleError, match=r"has no manifest\.json, so it is not a whole bundle"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(format=2), r"format 2, this version reads up to 1; run: pip install"),
        (lambda m: m.update(format="1"), "is not a bundle's manifest"),
        (lambda m: m.update(extra=1), 'unknown field "extra"'),
        (lambda m: m["files"].pop("policy.onnx"), r"does not list policy\.onnx"),
        (lambda m: m["files"].update({"../x": m["files"]["policy.onnx"]}), "which no bundle has"),
        (lambda m: m["policy"]["carry"].pop("prev_action"), "names the graphs'"),
        (
            lambda m: m["policy"]["carry"]["prev_action"].update(shape=[9]),
            r"prev_action of float32 and shape \(9,\), expected model units",
        ),
        (lambda m: m["policy"]["noise"]["latent"].update(shape=[1 << 30]), "which no policy has"),
        (lambda m: m["policy"]["carry"]["deter"].update(shape=[1] * 70), "which no policy has"),
        (lambda m: m["policy"]["carry"]["deter"].update(shape=[-1]), "which no policy has"),
        # their product would be computed for minutes
        (lambda m: m["policy"]["carry"]["deter"].update(shape=[10**19] * 100_000), "no policy has"),
        (lambda m: m["policy"]["carry"]["deter"].update(dtype="O"), 'dtype "O"'),
        (
            lambda m: m["policy"].update(probes={"p": {"shape": [1], "dtype": "tensor(float16)"}}),
            r'dtype "tensor\(float16\)"',
        ),
        (lambda m: m["graphs"]["policy.onnx"]["inputs"].pop("is_first"), "names the graphs'"),
    ],
)
def test_manifest_is_read_strictly(folder, change, match):
    edit(folder, change)
    with pytest.raises(BundleError, match=match):
        load_policy(folder)


def test_a_planner_s_carry_holds_the_previous_action(bundles, tmp_path):
    folder = tmp_path / "planning"
    shutil.copytree(bundles("planning")[0], folder)
    edit(folder, lambda m: m["policy"]["carry"].pop("prev_action"))
    with pytest.raises(BundleError, match="lacks prev_action in model units, which planners"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p["carry"].pop("plan"), "the carry holds plan as None, expected"),
        (lambda p: p["carry"]["plan"].update(shape=[7, 5]), "the carry holds plan as"),
        (lambda p: p["plan"].update(elites=10_000), "cannot plan: .*10000 elites of 128"),
        (lambda p: p["plan"].update(horizon=0), "cannot plan: .*horizon is 0"),
        (lambda p: p["plan"].update(iterations=0, proposals=0), "cannot plan: .*no iterations"),
        (lambda p: p["noise"].pop("perturb"), "cannot plan: .*of the role perturb"),
    ],
)
def test_a_planner_that_cannot_plan_is_no_bundle(tmp_path, change, match):
    zoo = Path(__file__).parents[3] / "zoo/tdmpc2-dmc-cheetah-run"
    folder = shutil.copytree(zoo, tmp_path / "planner")
    edit(folder, lambda manifest: change(manifest["policy"]))
    with pytest.raises(BundleError, match=match):
        load_policy(folder)


def test_reordered_noise_is_not_silently_other_noise(folder):
    def swap(manifest):
        noise = manifest["policy"]["noise"]
        manifest["policy"]["noise"] = dict(reversed(noise.items()))

    edit(folder, swap)
    with pytest.raises(BundleError, match="names the graphs"):
        load_policy(folder)


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff\xfe\x00", b"1"])
def test_manifest_that_is_not_json(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"not JSON|expected an object"):
        load_policy(folder)


def test_huge_manifest(folder):
    (folder / "manifest.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(BundleError, match="larger than"):
        load_policy(folder)


def test_weights_are_checked_where_they_are_and_not_needed(bundles, tmp_path):
    folder = shutil.copytree(bundles("box")[0], tmp_path / "bundle")
    replace(folder, "model.safetensors", b"weights")
    load_policy(folder)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(BundleError, match=r"model\.safetensors is not the file"):
        load_policy(folder)
    (folder / "model.safetensors").unlink()
    load_policy(folder)


def test_graph_of_another_policy(folder, bundles):
    replace(folder, "policy.onnx", (bundles("discrete")[0] / "policy.onnx").read_bytes())
    with pytest.raises(BundleError, match="the manifest differ in their inputs"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("no shape", r"deterministic of shape \[\]"),
        ("no text", "a name that is no text"),
    ],
)
def test_a_graph_with_odd_inputs(folder, change, match):
    model = onnx.load(folder / "policy.onnx")
    (chosen,) = (one for one in model.graph.input if one.name == "deterministic")
    if change == "no shape":
        chosen.type.tensor_type.ClearField("shape")
    content = model.SerializeToString()
    if change == "no text":
        content = content.replace(chosen.name.encode(), b"\xff" * len(chosen.name))
    replace(folder, "policy.onnx", content)
    with pytest.raises(BundleError, match=match):
        load_policy(folder)


def test_a_trace_whose_arrays_are_named_otherwise(folder):
    whole = folder / "golden.npz"
    packed = BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w") as new:
        for one in old.namelist():
            new.writestr(one.removesuffix(".npy") if one == "margin.npy" else one, old.read(one))
    replace(folder, "golden.npz", packed.getvalue())
    with pytest.raises(BundleError, match=r"golden\.npz lacks or adds margin, margin\.npy"):
        verify(folder)


def test_garbage_graph(folder):
    replace(folder, "policy.onnx", b"not a graph")
    with pytest.raises(BundleError, match=r"policy\.onnx"):
        load_policy(folder)


def test_verify_names_the_worst_step(folder):
    golden = dict(np.load(folder / "golden.npz"))
    golden["action"][41] += 0.5
    golden["action"][17] += 0.1
    rewrite(folder, golden)
    with pytest.raises(BundleError, match=r"2 of 100 recorded steps differ .* step 41"):
        verify(folder)


def test_verify_excuses_close_choices_and_counts_them(folder):
    golden = dict(np.load(folder / "golden.npz"))
    golden["action"][41] += 0.5
    golden["margin"][41] = 1e-6
    rewrite(folder, golden)
    found = verify(folder)
    assert found.excused == 1
    assert found.worst < 1e-5


def test_verify_takes_nan_for_a_difference(folder):
    golden = dict(np.load(folder / "golden.npz"))
    golden["state_out_01_deter"][3] = np.nan
    rewrite(folder, golden)
    with pytest.raises(BundleError, match="step 3, by nan"):
        verify(folder)


def test_golden_trace_is_read_without_pickle_and_with_exact_shapes(folder):
    golden = dict(np.load(folder / "golden.npz"))
    rewrite(folder, {**golden, "margin": golden["margin"].astype(object)})
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        verify(folder)
    rewrite(folder, {**golden, "action": golden["action"][:50]})
    with pytest.raises(BundleError, match=r"holds action of shape \(50, 2\)"):
        verify(folder)
    rewrite(folder, {name: golden[name] for name in golden if name != "margin"})
    with pytest.raises(BundleError, match="lacks or adds margin"):
        verify(folder)


def rewrite(folder, golden):
    np.savez(folder / "golden.npz", **golden)
    replace(folder, "golden.npz", (folder / "golden.npz").read_bytes())


def test_golden_trace_resets_and_alternates(bundles):
    golden = np.load(bundles("box")[0] / "golden.npz")
    assert np.flatnonzero(golden["is_first"]).tolist() == [0, 17, 34, 51, 68, 85]
    assert golden["deterministic"].tolist() == [False, True] * 50
    assert np.isinf(golden["margin"][::2]).all()
    assert np.isfinite(golden["margin"][1::2]).all()
    assert golden["address"][:, 2].tolist() == list(range(100))


def test_export_refuses_a_graph_that_disagrees(bundles, tmp_path, monkeypatch):
    folder, toy = bundles("box")
    spec, step, steps = toy_spec(toy), toy.step, []

    def spoiled(*given):  # what is recorded: the graph is the one that was exported before
        carry, action = step(*given)
        steps.append(action)
        return carry, action + (len(steps) == 5)

    monkeypatch.setattr(toy, "step", spoiled, raising=False)
    monkeypatch.setattr(exporting, "onnx_graph", lambda *_: (folder / "policy.onnx").read_bytes())
    with pytest.raises(BundleError, match="disagrees with torch: 1 of 5"):
        export(toy, spec, tmp_path / "bundle", golden_steps=5)
    assert not (tmp_path / "bundle").exists()


def test_export_takes_observations_and_checks_them(tmp_path):
    toy = seeded(Toy)
    with pytest.raises(ConfigError, match="golden_steps is 0"):
        export(toy, toy_spec(toy), tmp_path, golden_steps=0)
    with pytest.raises(ConfigError, match=r'need "Zoom/v" of shape \(2, 4\)'):
        export(toy, toy_spec(toy), tmp_path, golden_steps=2, observations={})


def test_inspect_names_the_parts(bundles):
    text = inspect(bundles("box")[0])
    for part in ("Toy", "reads image", "keeps deter", "draws action", "not evaluated yet"):
        assert part in text


def test_cuda_is_refused_where_it_is_not(folder):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ProviderError, match="cuda was asked for, but this onnxruntime has only"):
        load_policy(folder, provider="cuda")
    with pytest.raises(ProviderError, match="expected auto, cpu, cuda"):
        load_policy(folder, provider="gpu")


def test_cuda_that_falls_back_is_refused(folder, monkeypatch):
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    session = onnxruntime.InferenceSession

    def fallen_back(content, options, providers):
        assert providers[0] == ("CUDAExecutionProvider", {"use_tf32": 0})
        return session(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fallen_back)
    with pytest.raises(ProviderError, match="could not start it"):
        load_policy(folder, provider="cuda")
    assert load_policy(folder, provider="auto").step.graph.provider == "cpu"


def test_both_onnxruntimes_or_none_are_named(folder, monkeypatch):
    monkeypatch.setattr(graphs, "version", lambda name: "1.31")
    with pytest.raises(ProviderError, match="are both installed"):
        load_policy(folder)
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"agentzoo-rl\[onnx\]"):
        load_policy(folder)


def test_threads_do_not_change_the_step(bundles):
    folder, toy = bundles("box")
    inputs = random_inputs(toy_spec(toy), 3, 0)
    mode = np.ones(3, bool)
    (_, one), (_, two) = (load_policy(folder, threads=n).step(*inputs, mode) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


# -- inside the ONNX file ------------------------------------------------------------------------


def model(nodes, initializers=(), **changes):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["b"])],
        [value("y", TensorProto.FLOAT, ["b"])],
        list(initializers),
    )
    return helper.make_model(graph, **changes)


def external():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], bytes(4), raw=True)
    onnx.external_data_helper.set_external_data(tensor, location="/etc/passwd")
    tensor.ClearField("raw_data")
    return tensor


def branch(nodes):
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b"])
    return helper.make_graph(nodes, "branch", [], [value])


RELU = helper.make_node("Relu", ["x"], ["y"])
FOREIGN = helper.make_node("Evil", ["x"], ["z"], domain="com.example")
PLAIN = helper.make_node("Relu", ["x"], ["z"])


def test_check_passes_plain_graphs():
    weights = helper.make_tensor("w", TensorProto.FLOAT, [100_000], np.ones(100_000))
    inner = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch([PLAIN]), else_branch=branch([])
    )
    check_onnx(model([RELU, inner], [weights]).SerializeToString(), "policy.onnx")


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (model([FOREIGN]), 'domain "com.example"'),
        (model([RELU], opset_imports=[helper.make_opsetid("com.microsoft", 1)]), "com.microsoft"),
        (
            model(
                [
                    helper.make_node(
                        "If",
                        ["c"],
                        ["y"],
                        then_branch=branch([PLAIN]),
                        else_branch=branch([FOREIGN]),
                    )
                ]
            ),
            'domain "com.example"',
        ),
        (model([RELU], [external()]), "tensors in other files"),
        (
            model([helper.make_node("Constant", [], ["y"], value=external())]),
            "tensors in other files",
        ),
        (model([RELU], doc_string="/home/me/x.py"), "doc string or metadata"),
        (model([helper.make_node("Relu", ["x"], ["y"], doc_string="x.py:3")]), "doc string"),
        (
            model(
                [RELU],
                functions=[
                    helper.make_function("f", "F", ["a"], ["b"], [], [helper.make_opsetid("", 20)])
                ],
            ),
            "functions of its own",
        ),
    ],
)
def test_check_refuses(made, match):
    with pytest.raises(BundleError, match=f"policy.onnx .*{match}"):
        check_onnx(made.SerializeToString(), "policy.onnx")


def test_check_refuses_metadata_of_a_node():
    made = model([RELU])
    made.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File x.py")
    with pytest.raises(BundleError, match="metadata"):
        check_onnx(made.SerializeToString(), "policy.onnx")


def test_check_sees_through_a_graph_split_in_two():
    # protobuf merges repeated occurrences of a message field, so the second one counts too
    evil = onnx.ModelProto(graph=onnx.GraphProto(node=[FOREIGN])).SerializeToString()
    content = model([RELU]).SerializeToString() + evil
    assert len(onnx.load_from_string(content).graph.node) == 2
    with pytest.raises(BundleError, match=r"com\.example"):
        check_onnx(content, "policy.onnx")


def test_check_refuses_every_truncation_or_reads_it():
    content = model([RELU]).SerializeToString()
    refused = 0
    for size in range(len(content)):
        try:
            check_onnx(content[:size], "policy.onnx")
        except BundleError:
            refused += 1
    assert refused > len(content) // 2


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\x0b", "wire type 3"),
        (b"\xff" * 11, "longer than 64 bits"),
        (b"\xba\x80\x80\x80\x10\x00", "field number that is too large"),
        (b"\x38\x01", "number in place of a message"),
        (b"\x3a\x7f", "middle of a field"),
        (b"\x3a", "middle of a number"),
    ],
)
def test_check_refuses_what_is_not_protobuf(content, match):
    with pytest.raises(BundleError, match=match):
        check_onnx(content, "policy.onnx")


def test_check_refuses_endless_nesting():
    content = b""
    for _ in range(60):  # graph -> node -> attribute -> graph
        for tag in (0x32, 0x2A, 0x0A):
            content = bytes([tag]) + varint(len(content)) + content
    content = b"\x3a" + varint(len(content)) + content
    with pytest.raises(BundleError, match="deeper than"):
        check_onnx(content, "policy.onnx")


def varint(value):
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
