"""Three protocols on one port give the actions of the policy in this process."""

import json

import numpy as np
import pytest

from agentzoo.runtime import load_policy
from agentzoo.runtime.client.msgpack_arrays import pack
from agentzoo.runtime.spec import PolicySpec
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Openpi, Rest, Vla, outputs, tensor

VECTORS = np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def live(bundles):
    with serving(bundles("vector")[0], bundles("discrete")[0]) as live:
        yield live


@pytest.fixture(scope="module")
def folder(bundles):
    return bundles("vector")[0]


def alone(folder, seed=None, observations=VECTORS):
    """The actions of this process's policy over one episode."""
    policy = load_policy(folder, provider="cpu", seed=seed)
    return np.array([policy.act(obs) for obs in observations])


def test_openpi_speaks_first_and_acts_as_the_policy_here(live, folder):
    with Openpi(live.ws) as client:
        found = [client.act(obs) for obs in VECTORS]
        assert client.metadata["reset_key"] == "is_first"
        assert client.metadata["model_id"] == "a"
        assert PolicySpec.from_json(client.metadata["spec"]).agent == "Toy"
    assert np.array_equal(found, alone(folder))
    assert found[0].dtype == np.float32


def test_vla_eval_acts_as_the_policy_here_episode_after_episode(live, folder):
    with Vla(live.ws) as client:
        assert client.hello["type"] == "hello"
        assert client.hello["payload"]["model_server"] == "a"
        for episode in range(2):
            client.tell("episode_start", {"task": "x"})
            found = [client.act(obs) for obs in VECTORS]
            client.tell("episode_end", {"success": True})
            assert np.array_equal(found, alone(folder, seed=3 + episode))


def test_a_stateless_client_carries_the_state_and_any_replica_answers(live, folder):
    policy = load_policy(folder, provider="cpu")
    expected, state = policy.predict(VECTORS[:2], None, None, None)
    again, _ = policy.predict(VECTORS[2:4], state, [False, True], None)
    with Rest(live.http) as client:
        status, body = client.infer({"observation": VECTORS[:2]})
        assert status == 200
        first = outputs(body)
    assert np.array_equal(first["action"], expected)
    carried = {n.replace("out", "in"): a for n, a in first.items() if n.startswith("state")}
    inputs = {"observation": VECTORS[2:4], "is_first": np.array([False, True]), **carried}
    with serving(folder) as other, Rest(other.http) as client:
        status, body = client.infer({**inputs, "noise_address": first["noise_address"]})
    assert np.array_equal(outputs(body)["action"], again)


def test_openpi_carries_a_state_too(live, folder):
    policy = load_policy(folder, provider="cpu")
    expected, state = policy.predict(VECTORS[:2])
    again, _ = policy.predict(VECTORS[2:4], state)
    with Openpi(live.ws) as client:
        first = client.ask(VECTORS[:2], carried=None, deterministic=False)
    with Openpi(live.ws) as client:
        second = client.ask(VECTORS[2:4], carried=first["carried"], deterministic=False)
    assert np.array_equal(first["actions"], expected)
    assert np.array_equal(second["actions"], again)


def test_a_reset_forgets_the_past_and_noise_goes_on(live, folder):
    policy = load_policy(folder, provider="cpu")
    with Openpi(live.ws) as client:
        for t, obs in enumerate(VECTORS):
            if t == 5:
                policy.reset()
            assert np.array_equal(client.act(obs, is_first=t == 5), policy.act(obs))


def test_seed_and_step_place_the_noise(live, folder):
    policy = load_policy(folder, provider="cpu", seed=77)
    for obs in VECTORS[:4]:
        policy.act(obs)
    policy.reset()
    with Openpi(live.ws) as client:
        client.act(VECTORS[0])
        found = client.act(VECTORS[4], is_first=True, seed=77, step=4)
    assert np.array_equal(found, policy.act(VECTORS[4]))


def test_deterministic_concerns_one_step(live, folder):
    policy = load_policy(folder, provider="cpu")
    modes = [True, False, None]
    expected = [policy.act(VECTORS[i], deterministic=mode) for i, mode in enumerate(modes)]
    with Openpi(live.ws) as client:
        keys = [{} if mode is None else {"deterministic": mode} for mode in modes]
        found = [client.act(VECTORS[i], **key) for i, key in enumerate(keys)]
    assert np.array_equal(found, expected)


def test_named_sessions_of_one_connection_are_apart(live, folder):
    with Openpi(live.ws) as client:
        for t in range(6):
            for seed in (1, 2):
                keys = {"is_first": True, "seed": seed} if t == 0 else {}
                found = client.act(VECTORS[t], session_id=f"s{seed}", **keys)
                assert np.array_equal(found, alone(folder, seed, VECTORS[: t + 1])[-1])


def test_is_last_frees_the_session(live):
    with Openpi(live.ws) as client:
        client.act(VECTORS[0], is_last=True)
        assert client.ask(VECTORS[1]).startswith("session_lost: ")
        client.act(VECTORS[1], is_first=True)


@pytest.mark.parametrize("path", ["/openpi/b", "/models/b"])
def test_a_path_chooses_the_model(live, bundles, path):
    policy = load_policy(bundles("discrete")[0], provider="cpu")
    with Openpi(live.ws + path) as client:
        assert client.metadata["model_id"] == "b"
        action = client.act(VECTORS[0])
    assert (action.shape, action.dtype) == ((), np.int64)
    assert action == policy.act(VECTORS[0])


def test_a_discrete_action_goes_over_rest_and_vla_eval(live, bundles):
    policy = load_policy(bundles("discrete")[0], provider="cpu")
    expected = policy.act(VECTORS[0])
    with Rest(live.http) as client:
        _, body = client.infer({"observation": VECTORS[:1]}, model="b", seed=3)
    assert outputs(body)["action"].tolist() == [expected]
    assert body["outputs"][0]["datatype"] == "INT64"


def test_a_dictionary_of_images_and_vectors(bundles):
    folder, _ = bundles("box")
    rng = np.random.default_rng(0)
    image, vector = rng.integers(0, 256, (6, 5, 3), np.uint8), rng.random((2, 2))
    expected = load_policy(folder, provider="cpu").act({"image": image, "Zoom/v": vector})
    with serving(folder) as live, Openpi(live.ws) as openpi, Vla(live.ws) as vla:
        found = openpi.ask(image=image, **{"Zoom/v": vector}, prompt="walk")
        assert np.array_equal(found["actions"][0], expected)
        vla.tell("episode_start", {})
        payload = {"images": {"front": image}, "Zoom/v": vector, "task_description": "walk"}
        reply = vla.ask("observation", payload)
        assert np.array_equal(reply["payload"]["actions"], expected)


def test_sessions_share_batches_and_not_their_states(live, folder):
    """Interleaved and all at once, each session does what it would do alone."""
    clients = [Openpi(live.ws) for _ in range(8)]
    expected = [alone(folder, seed) for seed in range(8)]
    for t, obs in enumerate(VECTORS):
        for seed, client in enumerate(clients):
            keys = {"seed": seed, "is_first": True} if t == 0 else {}
            client.send(pack({"observation": obs, **keys}, "openpi"))
        for seed, client in enumerate(clients):
            action = client.receive()["actions"][0]
            np.testing.assert_allclose(action, expected[seed][t], atol=1e-5)
    for client in clients:
        client.close()


def test_metadata_and_index_over_rest(live):
    with Rest(live.http) as client:
        _, server = client.get("/v2")
        assert server["name"] == "agentzoo"
        assert {"binary_tensor_data", "sequence", "sequence(string_id)"} <= {*server["extensions"]}
        status, model = client.get("/v2/models/a/versions/1")
        assert status == 200
        inputs = {one["name"]: (one["datatype"], one["shape"]) for one in model["inputs"]}
        assert inputs["observation"] == ("FP32", [-1, 3])
        assert inputs["state_in_01_deter"] == ("FP32", [-1, 8])
        assert [one["name"] for one in model["outputs"]][:2] == ["action", "noise_address"]
        assert (model["versions"], model["platform"]) == (["1"], "onnxruntime_onnx")
        assert client.get("/v2/models/a/ready") == (200, {"ready": True})
        assert client.get("/v2/models/a/versions/7/ready")[0] == 503
        _, index, _ = client.call("POST", "/v2/repository/index", {})
        assert {one["name"]: one["state"] for one in index} == {"a": "READY", "b": "READY"}


def binary(inputs, **parameters):
    """A body with raw tensors, and the length of its header."""
    raw = b"".join(array.tobytes() for array in inputs.values())
    tensors = [
        {**tensor(name, array), "parameters": {"binary_data_size": array.nbytes}}
        for name, array in inputs.items()
    ]
    for one in tensors:
        del one["data"]
    header = json.dumps({"id": "x", "inputs": tensors, "parameters": parameters}).encode()
    return header + raw, {"Inference-Header-Content-Length": str(len(header))}


def test_tensors_in_binary_both_ways(live, folder):
    body, headers = binary({"observation": VECTORS[:1]}, sequence_id=9, sequence_start=True,
                           binary_data_output=True)  # fmt: skip
    with Rest(live.http) as client:
        status, content, found = client.call("POST", "/v2/models/a/infer", body, headers)
    assert status == 200
    size = int(found["Inference-Header-Content-Length"])
    header = json.loads(content[:size])
    assert (header["id"], header["model_version"]) == ("x", "1")
    assert header["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert np.array_equal(np.frombuffer(content[size:], "<f4"), alone(folder)[0])


def test_only_the_outputs_that_were_asked_for(live):
    body = {"inputs": [tensor("observation", VECTORS[:2])], "outputs": [{"name": "action"}]}
    with Rest(live.http) as client:
        _, found, _ = client.call("POST", "/v2/models/a/infer", body)
        assert [one["name"] for one in found["outputs"]] == ["action"]
        body["outputs"] = [{"name": "actoin"}]
        status, found, _ = client.call("POST", "/v2/models/a/infer", body)
    assert (status, found["reason"]) == (400, "malformed")


def test_nested_data_are_read_as_flat_ones(live):
    flat = tensor("observation", VECTORS[:2])
    nested = {**flat, "data": VECTORS[:2].tolist()}
    with Rest(live.http) as client:
        replies = [
            client.call("POST", "/v2/models/a/infer", {"inputs": [one]}) for one in (flat, nested)
        ]
    assert replies[0][1]["outputs"] == replies[1][1]["outputs"]
