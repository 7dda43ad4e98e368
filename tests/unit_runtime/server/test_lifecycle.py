"""A server starts, proves its policies, lets in who may come in, swaps them, and ends in order."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from agentzoo.export import export
from agentzoo.runtime import RemotePolicy, load_policy
from agentzoo.runtime.client.msgpack_arrays import pack
from agentzoo.runtime.errors import (
    AgentZooError,
    BundleError,
    ConfigError,
    MissingExtraError,
    ObservationError,
    ServingError,
)
from agentzoo.runtime.policy.policy import Policy
from agentzoo.runtime.server import (
    ModelSettings,
    Server,
    ServerSettings,
    model_settings,
    read_models,
)
from agentzoo.runtime.server.reserved_keys import TAKEN
from soak.handmade_bundle import write_bundle
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Openpi, Rest, Vla, Wire, outputs
from tests.unit_runtime.toys import BOX, VECTOR, Toy, toy_spec

ROOT = Path(__file__).parents[3]
VECTORS = np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A bundle of the same spaces and other weights."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        toy = Toy(VECTOR, BOX)
    return export(toy, toy_spec(toy), tmp_path_factory.mktemp("other"))


@pytest.fixture
def folder(bundles, tmp_path):
    return shutil.copytree(bundles("vector")[0], tmp_path / "walker")


def replaced(folder, source):
    shutil.rmtree(folder)
    shutil.copytree(source, folder)


def expected(folder, observations=VECTORS, seed=None):
    policy = load_policy(folder, provider="cpu", seed=seed)
    return np.array([policy.act(obs) for obs in observations])


# -- the door ------------------------------------------------------------------------------------


def test_it_listens_on_loopback_unless_told_otherwise():
    assert ServerSettings().host == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 can be reached by others and no key"):
        ServerSettings(host="0.0.0.0")
    assert ServerSettings(host="0.0.0.0", api_key="k").api_key == "k"
    assert ServerSettings(host="0.0.0.0", insecure=True).insecure


KEYS = [{"Authorization": "Bearer right"}, {"Authorization": "Api-Key right"}]
WRONG = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"},
         {"Authorization": "Basic right"}, {"Authorization": "Bearer "}]  # fmt: skip


def test_a_key_opens_every_door_and_health_needs_none(folder):
    with serving(folder, api_key="right") as live, Rest(live.http) as rest:
        for headers in WRONG:
            for path in ("/v2", "/v2/models/a", "/metrics", "/nothing"):
                status, body, _ = rest.call("GET", path, headers=headers)
                assert (status, body["reason"]) == (401, "unauthorized")
            for path in ("/", "/vla"):
                with pytest.raises(InvalidStatus, match="401"):
                    Wire(live.ws + path, **headers)
        for headers in KEYS:
            assert rest.call("GET", "/v2/models/a", headers=headers)[0] == 200
            with Openpi(live.ws, **headers) as client:
                assert np.array_equal(client.act(VECTORS[0]), expected(folder)[0])
        for path in ("/health", "/healthz", "/v2/health/live", "/v2/health/ready"):
            assert rest.get(path)[0] == 200
        policy = RemotePolicy(live.ws, api_key="right")
        assert np.array_equal(policy.act(VECTORS[0]), expected(folder)[0])
        policy.close()
        with pytest.raises(ServingError, match="its key"):
            RemotePolicy(live.ws, api_key="wrong")


def test_keys_are_compared_without_telling_how_far_they_agree(folder, monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    with serving(folder, api_key="right") as live, Rest(live.http) as rest:
        guesses = ("r", "righ", "right", "right and more", "r\xe9")
        found = [
            rest.call("GET", "/v2", headers={"Authorization": f"Bearer {guess}"})[0]
            for guess in guesses
        ]
    assert found == [401, 401, 200, 401, 401]
    assert compared == [(32, 32)] * len(guesses)


def test_a_web_page_is_not_let_in(folder):
    with serving(folder) as live, Rest(live.http) as rest:
        headers = {"Origin": "https://example.org"}
        status, body, _ = rest.call("POST", "/v2/models/a/infer", {"inputs": []}, headers)
        assert (status, body["reason"]) == (403, "forbidden")
        with pytest.raises(InvalidStatus, match="403"):
            Wire(live.ws, **headers)


def test_a_port_that_is_taken_is_a_sentence(folder):
    async def start(port: int) -> None:
        models = [ModelSettings(name="a", source=str(folder))]
        await Server(models, ServerSettings(port=port)).start()

    with serving(folder) as live, pytest.raises(ConfigError, match="cannot listen on"):
        asyncio.run(start(live.server.port))


# -- loading -------------------------------------------------------------------------------------


def test_it_is_alive_before_it_is_ready(folder):
    gate, waiting = threading.Event(), threading.Event()

    def slowly(model: ModelSettings) -> Path:
        waiting.set()
        assert gate.wait(30)
        return Path(model.source)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made: list[Server] = []

    async def start() -> None:
        models = [ModelSettings(name="a", source=str(folder), provider="cpu")]
        made.append(Server(models, ServerSettings(port=0, drain_s=0), locate=slowly))
        await made[0].start()

    started = asyncio.run_coroutine_threadsafe(start(), loop)
    assert waiting.wait(30)
    with Rest(f"http://127.0.0.1:{made[0].port}") as rest:
        assert rest.get("/v2/health/live")[0] == 200
        for path in ("/v2/health/ready", "/healthz", "/health"):
            assert rest.get(path)[0] == 503
        status, body, headers = rest.call("POST", "/v2/models/a/infer", {"inputs": []})
        assert (status, body["reason"], headers["Retry-After"]) == (503, "not_ready", "1")
        gate.set()
        started.result(60)
        assert rest.get("/v2/health/ready")[0] == 200
    asyncio.run_coroutine_threadsafe(made[0].stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_batches_of_every_size_ran_before_it_is_ready(folder, monkeypatch, largest, sizes):
    ran, advance = [], Policy.advance

    def recorded(self, obs, is_first, state, deterministic):
        ran.append(len(is_first))
        return advance(self, obs, is_first, state, deterministic)

    monkeypatch.setattr(Policy, "advance", recorded)
    model = ModelSettings(name="a", source=str(folder), provider="cpu", max_batch=largest)
    with serving(models=[model]) as live, Rest(live.http) as rest:
        assert rest.get("/v2/health/ready")[0] == 200
        assert ran == sizes


@pytest.mark.parametrize("key", [*sorted(TAKEN), "state_in_00_x", "state_out_"])
def test_an_observation_called_like_a_key_of_a_protocol_is_refused(tmp_path, key):
    made = write_bundle(tmp_path / "bundle", key=key)
    with (
        pytest.raises(ConfigError, match=f'a reads the observation "{key}", a name that the'),
        serving(made),
    ):
        pass


@pytest.mark.parametrize("key", ["Seed", "steps", "observation", "images", "payload"])
def test_observations_of_other_names_are_served(tmp_path, key):
    made = write_bundle(tmp_path / "bundle", key=key)
    obs = np.arange(4) / 4
    action = load_policy(made, provider="cpu").act(obs)
    with serving(made) as live, Openpi(live.ws) as openpi, Vla(live.ws) as vla:
        assert np.array_equal(openpi.ask(**{key: obs})["actions"][0], action)
        vla.tell("episode_start", {})
        reply = vla.ask("observation", {key: obs})
        assert np.array_equal(reply["payload"]["actions"], action)
        remote = RemotePolicy(live.ws)
        assert np.array_equal(remote.act(obs), action)
        remote.close()


def spoiled(folder):
    content = bytearray((folder / "policy.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "policy.onnx").write_bytes(content)


def unlike_its_recording(folder, other):
    """Another policy's graph that is true to its manifest, beside the first one's recording."""
    golden = (folder / "golden.npz").read_bytes()
    replaced(folder, other)
    import hashlib
    import json

    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"sha256": hashlib.sha256(golden).hexdigest(), "bytes": len(golden)}
    manifest["files"]["golden.npz"] = entry
    (folder / "golden.npz").write_bytes(golden)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_tampered_bundle_is_never_served(folder):
    spoiled(folder)
    with pytest.raises(BundleError, match="is not the file that was exported"), serving(folder):
        pass


def test_a_policy_that_differs_from_its_recording_is_never_served(folder, other):
    unlike_its_recording(folder, other)
    with pytest.raises(BundleError, match="recorded steps differ on cpu"), serving(folder):
        pass


def test_a_hub_source_is_located_with_its_pinned_revision(folder):
    asked = []

    def pull(model: ModelSettings) -> Path:
        asked.append((model.source, model.revision))
        return folder

    models = [model_settings("me/walker@0123abcd", provider="cpu")]
    with serving(models=models, locate=pull) as live, Rest(live.http) as rest:
        _, body = rest.get("/v2/models/walker")
    assert asked == [("me/walker", "0123abcd")]
    assert body["parameters"]["revision"] == "0123abcd"


# -- swapping ------------------------------------------------------------------------------------


def test_a_session_stays_with_the_version_it_began_with(folder, other, bundles):
    old, new = expected(bundles("vector")[0]), expected(other)
    assert not np.allclose(old, new)
    with serving(folder, model_control=True) as live, Rest(live.http) as rest:
        running, sequence = Openpi(live.ws), Rest(live.http)
        first = running.ask(VECTORS[0])
        assert first["policy_version"] == "1"
        sequence.act(VECTORS[0], 1, sequence_start=True)
        replaced(folder, other)
        status, body, _ = rest.call("POST", "/v2/repository/models/a/load", {})
        assert (status, body) == (200, {"name": "a", "version": "2"})
        with Openpi(live.ws) as later:
            assert later.metadata["version"] == "2"
            found = [later.act(obs) for obs in VECTORS]
            assert np.array_equal(found, new)
        assert np.array_equal([running.act(obs) for obs in VECTORS[1:]], old[1:])
        assert np.array_equal([sequence.act(obs, 1) for obs in VECTORS[1:]], old[1:])
        _, body = rest.infer({"observation": VECTORS[:1]}, sequence_id=2, sequence_start=True)
        assert body["model_version"] == "2"
        versions = [one for one in live.metrics() if one.startswith("agentzoo_model_info")]
        assert len(versions) == 2
        batcher = live.service.models["a"].versions[0].batcher
        running.close()
        sequence.act(VECTORS[0], 1, sequence_end=True)
        batcher.join(30)
        assert not batcher.is_running
        while any('version="1"' in name for name in live.metrics() if "model_info" in name):
            live.loop.call_soon_threadsafe(live.service.expire)
            time.sleep(0.01)
        sequence.connection.close()


def test_a_reload_that_fails_changes_nothing(folder, caplog):
    with serving(folder, model_control=True) as live, Openpi(live.ws) as client:
        old = expected(folder)
        client.act(VECTORS[0])
        spoiled(folder)
        with Rest(live.http) as rest:
            status, body, _ = rest.call("POST", "/v2/repository/models/a/load", {})
            assert status == 500
            assert str(folder) not in body["error"]
            assert "is not the file that was exported" in caplog.text
            assert "Traceback" not in caplog.text
            assert rest.get("/v2/health/ready")[0] == 200
        assert np.array_equal(client.act(VECTORS[1]), old[1])
        with Openpi(live.ws) as later:
            assert later.metadata["version"] == "1"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_reload_with_one_model_that_cannot_load_swaps_none(folder, other, tmp_path, place):
    moved = shutil.copytree(folder, tmp_path / "moved")
    broken = shutil.copytree(folder, tmp_path / "broken")
    spoiled(broken)
    sources = {"a": folder, "b": moved}
    models = [ModelSettings(name=n, source=str(f), provider="cpu") for n, f in sources.items()]
    with serving(models=models, model_control=True) as live, Rest(live.http) as rest:
        for one in sources.values():
            replaced(one, other)
        again = list(models)
        again.insert(place, ModelSettings(name="new", source=str(broken), provider="cpu"))
        with pytest.raises(BundleError, match="is not the file that was exported"):
            live.call(live.service.load(again))
        assert rest.get("/v2/health/ready")[0] == 200
        assert live.metrics()["agentzoo_ready"] == 1
        _, index, _ = rest.call("POST", "/v2/repository/index", {})
        assert [(one["name"], one["version"]) for one in index] == [("a", "1"), ("b", "1")]
        status, body, _ = rest.call("POST", "/v2/repository/models/new/load", {})
        assert (status, body["reason"]) == (404, "unknown")
        replaced(broken, other)
        live.call(live.service.load(again))
        _, index, _ = rest.call("POST", "/v2/repository/index", {})
        assert {one["name"]: one["version"] for one in index} == {"a": "2", "b": "2", "new": "1"}
        for name in ("a", "b", "new"):
            with Openpi(f"{live.ws}/openpi/{name}") as client:
                assert np.array_equal(client.act(VECTORS[0]), expected(other)[0])


def test_a_hangup_onto_a_damaged_file_is_a_line_in_the_log(folder, tmp_path):
    config = tmp_path / "models.toml"
    table = f'[[model]]\nname = "walker"\nsource = "{folder}"\n'
    config.write_text(table)
    with Process("--config", str(config), "--port", "0", "--drain", "0") as one:
        broken = shutil.copytree(folder, tmp_path / "broken")
        spoiled(broken)
        config.write_text(f'{table}[[model]]\nname = "second"\nsource = "{broken}"\n')
        one.process.send_signal(signal.SIGHUP)
        assert one.process.stderr is not None
        for line in one.process.stderr:
            if line.startswith("the reload failed"):
                break
        assert "changed nothing: " in line
        with Rest(f"http://127.0.0.1:{one.port}") as rest:
            for path in ("/healthz", "/v2/health/ready", "/v2/models/walker/ready"):
                assert rest.get(path)[0] == 200
            assert rest.get("/v2/models/second")[0] == 404


def test_an_episode_of_vla_eval_begins_with_the_newest(folder, other, bundles):
    with serving(folder) as live, Vla(live.ws) as client:
        client.tell("episode_start", {"seed": 3})
        assert np.array_equal(client.act(VECTORS[0]), expected(bundles("vector")[0])[0])
        replaced(folder, other)
        live.call(live.service.load())
        assert np.array_equal(client.act(VECTORS[1]), expected(bundles("vector")[0])[1])
        client.tell("episode_end", {})
        client.tell("episode_start", {"seed": 3})
        assert np.array_equal(client.act(VECTORS[0]), expected(other)[0])


def test_a_state_is_refused_by_what_replaced_its_policy(folder, other, bundles):
    digests = [load_policy(one, provider="cpu").digest for one in (folder, other)]
    with serving(folder) as live, Openpi(live.ws) as openpi, Rest(live.http) as rest:
        said = openpi.ask(VECTORS[:2], carried=None)
        assert (said["policy_version"], said["sha256"]) == ("1", digests[0])
        _, body = rest.infer({"observation": VECTORS[:2]})
        given = outputs(body)
        assert [one.tobytes().hex() for one in given["state_out_policy"]] == [digests[0]] * 2
        state = {n.replace("_out_", "_in_"): a for n, a in given.items() if n != "action"}
        mixed = {**state, "state_in_policy": state["state_in_policy"].copy()}
        mixed["state_in_policy"][1] ^= 1
        assert rest.infer({"observation": VECTORS[:2], **mixed})[0] == 400
        live.call(live.service.load())  # the same again
        assert rest.infer({"observation": VECTORS[:2], **state})[0] == 200
        assert not isinstance(openpi.ask(VECTORS[:2], carried=said["carried"]), str)
        replaced(folder, other)
        live.call(live.service.load())
        assert openpi.ask(VECTORS[:2], carried=said["carried"]).startswith("other_version: ")
        status, body = rest.infer({"observation": VECTORS[:2], **state})
        assert (status, body["reason"]) == (409, "other_version")
        assert digests[1][:12] in body["error"]
        said = openpi.ask(VECTORS[:2], carried=None)
        assert (said["policy_version"], said["sha256"]) == ("3", digests[1])


def test_a_state_is_refused_by_another_model(folder, other):
    with serving(folder, other) as live:
        one, another = RemotePolicy(f"{live.ws}/openpi/a"), RemotePolicy(f"{live.ws}/openpi/b")
        _, state = one.predict(VECTORS[:2])
        one.predict(VECTORS[2:4], state)
        with pytest.raises(ServingError, match="begin an episode") as caught:
            another.predict(VECTORS[2:4], state)
        assert caught.value.reason == "other_version"
        with pytest.raises(
            ObservationError, match="the state is a PolicyState; pass what this policy's"
        ):
            another.predict(VECTORS[:1], load_policy(other, provider="cpu").predict(VECTORS[:1])[1])
        one.close()
        another.close()


@pytest.mark.parametrize("way", ["predict", "act", "session"])
def test_a_remote_policy_never_becomes_another_one(folder, other, way):
    with serving(folder) as live:
        policy = RemotePolicy(live.ws)
        old = expected(folder)
        if way == "act":
            assert np.array_equal(policy.act(VECTORS[0]), old[0])
        replaced(folder, other)
        live.call(live.service.load())
        if way == "act":  # its session stays with what it began with
            assert np.array_equal(policy.act(VECTORS[1]), old[1])
            policy.close()
            policy.reset()
        call = {
            "predict": lambda: policy.predict(VECTORS[:1]),
            "act": lambda: policy.act(VECTORS[0]),
            "session": lambda: policy.session(4).act(VECTORS[0]),
        }[way]
        with pytest.raises(ServingError, match="serves another policy by now") as caught:
            call()
        assert caught.value.reason == "other_version"
        policy.close()


# -- ending --------------------------------------------------------------------------------------


def test_at_the_end_steps_under_way_are_answered_and_nobody_new_comes_in(folder):
    context = serving(folder)
    live = context.__enter__()
    policy = live.service.models["a"].current.policy
    step, go, entered = policy.step, threading.Event(), threading.Event()

    def held(*arguments):
        entered.set()
        assert go.wait(30)
        return step(*arguments)

    policy.step = held
    busy, idle = Openpi(live.ws), Openpi(live.ws)
    busy.send(pack({"observation": VECTORS[0]}, "openpi"))
    assert entered.wait(30)
    ending = threading.Thread(target=context.__exit__, args=(None, None, None))
    ending.start()
    assert idle.closed() == 1001
    with Rest(live.http) as rest:
        assert rest.get("/v2/health/live")[0] == 200
        assert rest.get("/v2/health/ready")[0] == 503
        status, body = rest.infer({"observation": VECTORS[:1]})
        assert (status, body["reason"]) == (503, "draining")
        with pytest.raises(InvalidStatus, match="503"):
            Openpi(live.ws)
    go.set()
    assert np.array_equal(busy.receive()["actions"][0], expected(folder)[0])
    assert busy.closed() == 1001
    ending.join(30)
    assert not ending.is_alive()
    busy.close()
    idle.close()


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 1}])
def test_at_the_end_steps_over_rest_are_answered(folder, parameters):
    context = serving(folder)
    live = context.__enter__()
    policy = live.service.models["a"].current.policy
    step, go, entered = policy.step, threading.Event(), threading.Event()
    with Rest(live.http) as rest:
        if parameters:
            rest.act(VECTORS[0], 1, sequence_start=True)

        def held(*arguments):
            entered.set()
            assert go.wait(30)
            return step(*arguments)

        policy.step = held
        found: list[int] = []
        asking = threading.Thread(
            target=lambda: found.append(rest.infer({"observation": VECTORS[:1]}, **parameters)[0])
        )
        asking.start()
        assert entered.wait(30)
        ending = threading.Thread(target=context.__exit__, args=(None, None, None))
        ending.start()
        while not live.service.is_ending:
            time.sleep(0.01)
        time.sleep(2 * 1.0)  # longer than the HTTP server waits by itself
        go.set()
        asking.join(30)
        ending.join(30)
    assert found == [200]


def test_sessions_may_go_on_for_a_while(folder):
    context = serving(folder)
    live = context.__enter__()
    live.service.settings.__dict__["drain_s"] = 60.0
    client = Openpi(live.ws)
    client.act(VECTORS[0])
    ending = threading.Thread(target=context.__exit__, args=(None, None, None))
    ending.start()
    while not live.service.is_draining:
        time.sleep(0.01)
    assert np.array_equal(client.act(VECTORS[1], is_last=True), expected(folder)[1])
    assert client.closed() == 1001  # nobody was left, so it did not wait any longer
    ending.join(30)
    client.close()


SERVE = (
    "import sys; sys.modules['torch'] = None\n"
    "from agentzoo.cli.main import main\n"
    "main(['serve', *sys.argv[1:]])"
)


class Process:
    """`agentzoo serve` in a process without torch."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", SERVE, *arguments, "--provider", "cpu"]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said: list[str] = []
        self.port = 0
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("ready on "):
                self.port = int(line.rsplit(":", 1)[1])
                break

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=30)


def test_it_serves_without_torch_and_ends_with_zero_when_told_to(folder):
    with Process(f"walker={folder}", "--port", "0", "--drain", "0") as one:
        assert one.port, one.said
        with Openpi(f"ws://127.0.0.1:{one.port}/openpi/walker") as client:
            assert np.array_equal(client.act(VECTORS[0]), expected(folder)[0])
            one.process.send_signal(signal.SIGTERM)
            assert client.closed() == 1001
        assert one.process.wait(30) == 0


def test_a_step_without_an_end_is_seen_by_health_and_left_at_the_end(tmp_path):
    slow = write_bundle(tmp_path / "slow", slow=True)
    with Process(str(slow), "--port", "0", "--drain", "0", "--deadline", "0.2") as one:
        address = f"http://127.0.0.1:{one.port}"
        with Rest(address) as rest, Rest(address) as health:
            status, body = rest.infer({"observation": np.full((1, 4), 1e9, np.float32)}, "slow")
            assert (status, body["reason"]) == (504, "deadline")
            paths = ["/v2/health/ready", "/healthz", "/v2/models/slow/ready", "/v2/health/live"]
            for path in paths:
                while health.get(path)[0] == 200:
                    time.sleep(0.01)
            assert b"agentzoo_ready 0.0" in health.get("/metrics")[1]
        one.process.send_signal(signal.SIGTERM)
        _, said = one.process.communicate(timeout=30)
        assert one.process.returncode == 1
        assert "slow is in one step for" in said
        assert "a step did not come to its end" in said


def test_a_model_answers_again_once_its_step_has_ended(folder, caplog):
    caplog.set_level("INFO", "agentzoo.runtime.server.service")
    with serving(folder, deadline_s=0.05) as live, Rest(live.http) as rest:
        policy = live.service.models["a"].current.policy
        step, go = policy.step, threading.Event()

        def held(*arguments):
            assert go.wait(30)
            return step(*arguments)

        policy.step = held
        assert rest.infer({"observation": VECTORS[:1]})[0] == 504
        for path in ("/v2/health/ready", "/v2/health/live"):
            while rest.get(path)[0] == 200:
                time.sleep(0.01)
        while "does not answer" not in caplog.text:
            time.sleep(0.01)
        go.set()
        for path in ("/v2/health/ready", "/v2/health/live"):
            while rest.get(path)[0] == 503:
                time.sleep(0.01)
        while "a answers again" not in caplog.text:
            time.sleep(0.01)


def test_a_thread_of_a_model_that_died_is_seen_by_health(folder, caplog):
    with serving(folder) as live, Rest(live.http) as rest:
        batcher = live.service.models["a"].current.batcher
        batcher.limits.__dict__["max_wait_s"] = float("inf")
        assert rest.infer({"observation": VECTORS[:2]})[0] == 200
        status, body = rest.infer({"observation": VECTORS[:1]})
        assert (status, body["reason"]) == (500, "failed")
        assert rest.get("/v2/health/ready")[0] == 503
        assert rest.get("/v2/health/live")[0] == 503
        assert rest.infer({"observation": VECTORS[:1]})[0] == 500
    assert "has died" in caplog.text


LOADING = (
    "import sys, time\n"
    "from agentzoo.runtime.server import ModelSettings, ServerSettings, serve\n"
    "def locate(model):\n"
    "    print('loading', file=sys.stderr, flush=True)\n"
    "    time.sleep(600)\n"
    "serve([ModelSettings(name='a', source='x')], ServerSettings(port=0), locate=locate)\n"
)


def test_it_can_be_told_to_end_while_it_loads():
    command = [sys.executable, "-c", LOADING]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "loading\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    process.stderr.close()


FIRST = (
    "import os, signal, sys\n"
    "real = os.getpid()\n"
    "os.getpid = lambda: 1\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the kernel does for process 1\n"
    "class Told:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name == 'agentzoo.runtime.server': os.kill(real, signal.SIGTERM)\n"
    "sys.meta_path.insert(0, Told())\n"
    "from agentzoo.cli.main import main\n"
    "main(['serve', 'nowhere', '--port', '0'])\n"
)


def test_it_can_be_told_to_end_before_it_loads_as_the_first_process_of_a_container():
    command = [sys.executable, "-c", FIRST]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_signal_ends_it_at_once(folder):
    with Process(str(folder), "--port", "0", "--drain", "60") as one:
        client = Openpi(f"ws://127.0.0.1:{one.port}")
        client.act(VECTORS[0])
        one.process.send_signal(signal.SIGTERM)
        with Rest(f"http://127.0.0.1:{one.port}") as rest:
            while rest.get("/v2/health/ready")[0] == 200:
                time.sleep(0.01)
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(30) == 1
        client.close()


def test_a_restart_loses_the_session_and_says_so(folder):
    with Process(str(folder), "--port", "0", "--drain", "0") as one:
        policy = RemotePolicy(f"ws://127.0.0.1:{one.port}", seed=5)
        actions = [policy.act(obs) for obs in VECTORS[:2]]
        one.process.kill()
        one.process.wait(30)
        with Process(str(folder), "--port", str(one.port), "--drain", "0"):
            with pytest.raises(ServingError, match=r"was lost.*reset and begin") as caught:
                policy.act(VECTORS[2])
            assert caught.value.reason == "session_lost"
            with pytest.raises(ServingError, match="reset and begin"):
                policy.act(VECTORS[2])  # and again: there is nothing to go on from
            policy.reset()
            again = policy.act(VECTORS[2])
            local = load_policy(folder, provider="cpu", seed=5)
            assert np.array_equal(actions, [local.act(obs) for obs in VECTORS[:2]])
            local.reset()
            assert np.array_equal(again, local.act(VECTORS[2]))  # its noise goes on, too
            policy.close()


def test_a_hangup_reads_models_toml_again(folder, other, tmp_path):
    config = tmp_path / "models.toml"
    config.write_text(f'[[model]]\nname = "walker"\nsource = "{folder}"\n')
    with Process("--config", str(config), "--port", "0", "--drain", "0") as one:
        address = f"ws://127.0.0.1:{one.port}"
        with Rest(f"http://127.0.0.1:{one.port}") as rest:
            config.write_text(
                f'[[model]]\nname = "walker"\nsource = "{other}"\nmax_batch = 2\n'
                f'[[model]]\nname = "second"\nsource = "{folder}"\n'
            )
            one.process.send_signal(signal.SIGHUP)
            while rest.get("/v2/models/second")[0] != 200:
                time.sleep(0.01)
        with Openpi(address) as client:
            assert client.metadata["version"] == "2"
            assert np.array_equal(client.act(VECTORS[0]), expected(other)[0])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nowhere"], "neither a folder nor a published bundle"),
        ([], "name the policies to serve, or a --config"),
        (["a", "--config", "b"], "one of the two"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["x", "--host", "0.0.0.0"], "no key is asked of them"),
        (["me/walker"], "HF_HUB_OFFLINE"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments, match, tmp_path):
    command = [sys.executable, "-c", SERVE, *arguments, "--port", "0"]
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert match in done.stderr
    assert "Traceback" not in done.stderr


# -- models.toml ---------------------------------------------------------------------------------


def test_models_toml_is_read_with_its_types(tmp_path):
    path = tmp_path / "models.toml"
    path.write_text(
        '[[model]]\nname = "w"\nsource = "me/w"\nrevision = "0123"\nthreads = 2\nmax_wait_ms = 1\n'
    )
    wanted = ModelSettings(name="w", source="me/w", revision="0123", threads=2, max_wait_ms=1.0)
    assert read_models(path) == [wanted]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"no \[\[model\]\]"),
        ("x", "cannot be read"),
        ("port = 1\n[[model]]\nname='a'\nsource='b'", "holds port"),
        ("model = 3", r"expected only \[\[model\]\]"),
        ("model = [3]", "holds a model that is 3"),
        ("[[model]]\nsource='b'", 'without "name"'),
        ("[[model]]\nname='a'", 'without "source"'),
        ("[[model]]\nname='a'\nsource='b'\nthread=2", 'did you mean "threads"'),
        ("[[model]]\nname='a'\nsource='b'\nthreads='2'", "threads is '2', expected int"),
        ("[[model]]\nname='a'\nsource='b'\nthreads=true", "threads is True, expected int"),
        ("[[model]]\nname='a'\nsource='b'\nthreads=0", "threads is 0, expected at least 1"),
        ("[[model]]\nname='a'\nsource='b'\nprovider='gpu'", "provider is 'gpu', expected one of"),
        ("[[model]]\nname='a/b'\nsource='b'", 'a model is called "a/b"'),
        ("[[model]]\nname='a'\nsource='b'\n" * 2, 'two models are called "a"'),
    ],
)
def test_models_toml_is_read_strictly(tmp_path, text, match):
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_models(path)


def test_a_source_is_named_after_its_last_part(tmp_path):
    (tmp_path / "walker@v2").mkdir()
    named = [
        model_settings(source)
        for source in ("me/walker@main", "me/walker", "w=me/walker@0123", str(tmp_path))
    ]
    assert [(one.name, one.source, one.revision) for one in named[:3]] == [
        ("walker", "me/walker", "main"),
        ("walker", "me/walker", ""),
        ("w", "me/walker", "0123"),
    ]
    assert named[3].source == str(tmp_path)


@pytest.mark.parametrize("name", ["aiohttp", "msgpack", "prometheus_client"])
def test_a_missing_package_names_the_extra(name):
    code = (
        f"import sys; sys.modules['{name}'] = None\n"
        "from agentzoo.runtime.errors import MissingExtraError\n"
        "try: import agentzoo.runtime.server\n"
        "except MissingExtraError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith('run: pip install "agentzoo-rl[serve]"\n')


def test_limits_that_let_nobody_in_are_refused():
    for settings in ({"max_sessions": 0}, {"session_ttl_s": 0.0}, {"deadline_s": float("nan")}):
        with pytest.raises(ConfigError, match="expected at least"):
            ServerSettings(**settings)
    with pytest.raises(ConfigError, match="deadline_s is inf, expected at most"):
        ServerSettings(deadline_s=float("inf"))
    for wait in (float("inf"), 1e13):
        with pytest.raises(ConfigError, match=r"max_wait_ms is .*, expected at most"):
            ModelSettings(name="a", source="b", max_wait_ms=wait)
    assert issubclass(MissingExtraError, AgentZooError)
