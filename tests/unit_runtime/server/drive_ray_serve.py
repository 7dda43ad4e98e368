"""Two nodes, two replicas and their clients, one replica killed; run by `test_ray_serve.py`.

    python drive_ray_serve.py SERVE FIRST SWAPPED FEWER CHANGED BUNDLE OTHER

The four in the middle are configurations, of which each takes the place of the one before.

It runs in a network namespace of its own, in the interpreter that has Ray, and prints what it saw.
"""

import fcntl
import http.client
import json
import logging
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml
from ray.cluster_utils import Cluster
from ray.util import list_named_actors

from agentzoo.runtime import RemotePolicy, load_policy
from agentzoo.runtime.errors import ServingError
from agentzoo.runtime.server.replica import MARK, SESSION, replica_of
from tests.unit_runtime.server.wires import outputs, tensor

URL = "127.0.0.1:8000"  # as in the configuration
API = "http://127.0.0.1:8265"  # of Serve
OBSERVATIONS = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)
POLICIES = 8
BATCH = 4
MAX_SESSIONS = 6  # as in the last configuration
LOCAL_FLAGS, SET_FLAGS = 0x41, 0x8914  # IFF_UP | IFF_RUNNING, SIOCSIFFLAGS


def bring_loopback_up() -> None:
    """Do what `ip link set lo up` does; a new namespace has it down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, SET_FLAGS, struct.pack("16sh", b"lo", LOCAL_FLAGS))


class Request:
    """A request for an action, of which half has been sent: a replica waits for the rest."""

    def __init__(self, inputs: np.ndarray, parameters: Any, session: str = "") -> None:
        content = {"inputs": [tensor("observation", inputs)], "parameters": parameters}
        body = json.dumps(content).encode()
        self.left = body[len(body) // 2 :]
        self.connection = http.client.HTTPConnection(URL, timeout=240)
        self.connection.putrequest("POST", "/v2/models/a/infer")
        self.connection.putheader("Content-Length", str(len(body)))
        if session:
            self.connection.putheader(SESSION, session)
        self.connection.endheaders(body[: len(body) // 2])

    def answer(self) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers, once the rest has been sent."""
        self.connection.send(self.left)
        response = self.connection.getresponse()
        raw = response.read()
        is_ours = (response.getheader("Content-Type") or "").startswith("application/json")
        said = json.loads(raw) if is_ours else {"reason": response.status, "error": raw.decode()}
        self.connection.close()
        return response.status, said, {key.lower(): one for key, one in response.getheaders()}


class Sequence:
    """One sequence over REST and its local twin; a connection for each request."""

    def __init__(self, bundle: Path, seed: int) -> None:
        self.bundle, self.seed, self.session, self.step = bundle, seed, "", 0
        self.here = load_policy(bundle, provider="cpu", seed=seed)
        self.request: Request | None = None

    def ask(self, **parameters: Any) -> None:
        """Send half of a request."""
        obs = OBSERVATIONS[self.step % len(OBSERVATIONS)]
        self.request = Request(obs[None], {"sequence_id": 1, **parameters}, self.session)

    def hear(self) -> str:
        """`right`, `wrong`, or the reason and sentence of a refusal."""
        assert self.request is not None
        status, said, found = self.request.answer()
        if status != 200:
            return f"{said['reason']}: {said['error']}"
        self.session = found[SESSION]
        self.step += 1
        here = self.here.act(OBSERVATIONS[(self.step - 1) % len(OBSERVATIONS)])
        return said_as(outputs(said)["action"][0], here)

    def act(self, **parameters: Any) -> str:
        self.ask(**parameters)
        return self.hear()

    def begin(self) -> str:
        self.step, self.here = 0, load_policy(self.bundle, provider="cpu", seed=self.seed)
        return self.act(sequence_start=True, seed=self.seed)


class Episode:
    """One websocket and its local twin."""

    def __init__(self, bundle: Path, seed: int) -> None:
        self.there, self.step = RemotePolicy(f"ws://{URL}/openpi", seed=seed), 0
        self.here = load_policy(bundle, provider="cpu", seed=seed)

    def act(self) -> str:
        obs = OBSERVATIONS[self.step % len(OBSERVATIONS)]
        try:
            found = self.there.act(obs)
        except ServingError as error:
            return f"{error.reason}: {error}"
        self.step += 1
        return said_as(found, self.here.act(obs))

    def begin(self) -> str:
        self.there.reset()
        self.here.reset()
        return self.act()


def said_as(found: np.ndarray, expected: np.ndarray) -> str:
    return "right" if np.array_equal(found, expected) else "wrong"


class Load(threading.Thread):
    """A client that carries its state itself, over and over, until it is told to stop."""

    def __init__(self, bundle: Path, *, is_rest: bool, later: Path | None = None) -> None:
        super().__init__(daemon=True)
        self.is_over, self.seen = threading.Event(), Counter[str]()
        self.ask = self.over_rest if is_rest else self.over_websocket
        self.here = load_policy(bundle, provider="cpu")
        self.later = load_policy(later, provider="cpu") if later is not None else None
        self.remote = None if is_rest else RemotePolicy(f"ws://{URL}/openpi")
        self.state: Any = None
        self.own: Any = None

    def run(self) -> None:
        while not self.is_over.is_set():
            try:
                self.seen[self.ask()] += 1
            except Exception as error:
                self.seen[f"{type(error).__name__}: {error}"[:300]] += 1

    def over_websocket(self) -> str:
        assert self.remote is not None
        obs = OBSERVATIONS[sum(self.seen.values()) % len(OBSERVATIONS)]
        action, self.state = self.remote.predict(obs, self.state, deterministic=None)
        expected, self.own = self.here.predict(obs, self.own, deterministic=None)
        return said_as(action, expected)

    def over_rest(self) -> str:
        return self.said(*Request(OBSERVATIONS[:BATCH], {}).answer()[:2])

    def said(self, status: int, body: Any) -> str:
        """`right`, `later` if it is the other bundle's action, or what else it is."""
        if status != 200:
            return f"{status}: {body['error']}"
        found = outputs(body)["action"]
        expected, _ = self.here.predict(OBSERVATIONS[:BATCH], None, None, None)
        if self.later is None or np.array_equal(found, expected):
            return said_as(found, expected)
        expected, _ = self.later.predict(OBSERVATIONS[:BATCH], None, None, None)
        return said_as(found, expected).replace("right", "later")

    def end(self) -> Counter[str]:
        self.is_over.set()
        self.join(60)
        if self.remote is not None:
            self.remote.close()  # an open websocket keeps its replica busy, see `spread`
        return self.seen


def replicas() -> list[str]:
    """Names of the replicas' actors."""
    named: Any = list_named_actors(all_namespaces=True)
    return sorted(one["name"] for one in named if one["name"].startswith("SERVE_REPLICA"))


def wait_for(condition: Any, limit_s: float = 240) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.2)


def play(bundle: Path) -> dict[str, Any]:
    """Answers to clients before a replica is killed, then, and once another has joined."""
    facts: dict[str, Any] = {}
    sequences, episodes = spread(bundle)
    steps = [one.act() for _ in range(5) for one in [*sequences, *episodes]]
    facts["before"] = Counter(steps)
    load = [Load(bundle, is_rest=k == 0) for k in range(3)]
    for one in load:
        one.start()
    wait_for(lambda: all(sum(one.seen.values()) > 5 for one in load))

    before, lost = replicas(), replica_of(sequences[0].session)
    stateless = [Request(OBSERVATIONS[:BATCH], {}) for _ in range(POLICIES)]
    for one in sequences:
        one.ask()
    time.sleep(1)  # until the replicas have them; if one has not yet, it is asked later
    ray.kill(ray.get_actor(next(one for one in before if lost in one), namespace="serve"))
    facts["under_way"] = Counter(load[0].said(*one.answer()[:2]) for one in stateless)
    facts["sequences"] = [[replica_of(one.session) == lost, one.hear()] for one in sequences]
    facts["episodes"] = [one.act() for one in episodes]
    after = [[replica_of(one.session) == lost, one.act()] for one in sequences]
    facts["sequences"] += after
    survivors = [one for one in sequences if replica_of(one.session) != lost]
    wait_for(lambda: len(replicas()) == len(before) and replicas() != before)
    facts["joining"] = Counter(one.act() for _ in range(5) for one in survivors)

    def of_the_new_one() -> bool:
        other = Sequence(bundle, 99)
        assert other.begin() == "right"
        return all(replica_of(other.session) not in name for name in before)

    wait_for(of_the_new_one)
    facts["joined"] = Counter(one.act() for _ in range(5) for one in survivors)
    facts["load"] = sum((one.end() for one in load), Counter[str]())
    begun = [one for one in sequences if one not in survivors]
    facts["begun"] = Counter(one.begin() for one in begun)
    ended = [one for one, said in zip(episodes, facts["episodes"], strict=True) if said != "right"]
    facts["begun"].update(one.begin() for one in ended)
    for one in episodes:
        one.there.close()
    return facts


def swap(bundle: Path, deploy: Callable[[], None]) -> dict[str, Any]:
    """Answers while another bundle takes the place of this one inside the replicas."""
    sequences, episodes = spread(bundle)
    answers, is_over = Counter[str](), threading.Event()

    def act() -> None:
        # all the while, or the proxy ends websockets that do not answer its pings
        while not is_over.is_set():
            answers.update(one.act() for one in [*sequences, *episodes])

    acting = threading.Thread(target=act, daemon=True)
    acting.start()
    deploy()

    names = sorted({replica_of(one.session) for one in sequences})
    wait_for(lambda: versions(names) == {"2"})
    is_over.set()
    acting.join(60)
    answers.update(one.act() for one in [*sequences, *episodes])
    for one in episodes:
        one.there.close()
    return {"swapped": answers}


def fresh(number: int, session: str) -> tuple[str, str]:
    """Replica and version of a sequence that begins now; it ends at once."""
    parameters = {"sequence_id": 2 + number, "sequence_start": True, "sequence_end": True}
    try:
        status, said, found = Request(OBSERVATIONS[:1], parameters, session).answer()
    except TimeoutError:  # where a replica takes long to start
        return "", ""
    if status != 200:
        return "", ""  # Serve's own answer until there is an application
    return replica_of(found[SESSION]), said["model_version"]


def versions(names: list[str]) -> set[str]:
    """The versions that sequences begin with at these replicas; "" where one is not reached.

    Each is named by a session id: else only the less busy one might be asked, again and again. Of
    several requests each proxy gets some.
    """
    asked = [(name, number) for name in names for number in range(POLICIES)]
    answers = [(name, *fresh(number, f"{name}{MARK}version")) for name, number in asked]
    return {version if found == name else "" for name, found, version in answers}


def are_two_reached() -> bool:
    """Whether there are two replicas and both answer through the proxies that were asked."""
    names = [one.rpartition("#")[2] for one in replicas()]
    return len(names) == 2 and "" not in versions(names)


def told_to_end(episodes: list[Episode], deploy: Callable[[], None]) -> dict[str, Any]:
    """Answers to open websockets while their replica is told to end, until it has."""
    before, answers, ends = replicas(), Counter[str](), list[float]()
    began, is_open = time.monotonic(), dict.fromkeys(episodes, True)
    deploying = threading.Thread(target=deploy)  # meanwhile they have to act, see `swap`
    deploying.start()

    def is_over() -> bool:
        for one in [one for one in episodes if is_open[one]]:
            answers[said := one.act()] += 1
            is_open[one] = said == "right"
            if not is_open[one]:
                ends.append(time.monotonic() - began)
        return not set(before) <= set(replicas())

    wait_for(is_over)
    deploying.join()
    is_over()  # those that ended since
    return {"answers": answers, "ends": ends, "went_on": sum(is_open.values())}


def drain(bundle: Path, deploy: Callable[[], None]) -> dict[str, Any]:
    """Answers while one of two replicas is told to end."""
    sequences, episodes = spread(bundle)
    facts = {"fewer": told_to_end(episodes, deploy)}
    facts["fewer"]["sequences"] = Counter(one.act() for one in sequences)
    for one in episodes:
        one.there.close()
    return facts


def redeploy(bundle: Path, later: Path, deploy: Callable[[], None]) -> dict[str, Any]:
    """Answers while the one replica gives way to another with other arguments; then its limits."""
    sequences = [Sequence(bundle, seed) for seed in range(2)]
    episodes = [Episode(bundle, seed) for seed in range(2)]
    assert {one.begin() for one in [*sequences, *episodes]} == {"right"}
    load = Load(bundle, is_rest=True, later=later)
    load.start()
    facts: dict[str, Any] = {"redeploy": told_to_end(episodes, deploy)}
    facts["redeploy"]["sequences"] = Counter(one.act() for one in sequences)
    begun = [Sequence(later, 1), Episode(later, 1)]
    facts["redeploy"]["begun"] = Counter(one.begin() for one in begun)
    wait_for(lambda: load.seen["later"])
    facts["redeploy"]["load"] = load.end()
    facts["settings"] = deployment()["deployment_config"]
    # two sessions are open
    more = [Episode(later, seed) for seed in range(MAX_SESSIONS - 1)]
    facts["sessions"] = [one.act() for one in more]
    return facts


def spread(bundle: Path) -> tuple[list[Sequence], list[Episode]]:
    """Sequences and websockets that have begun, of both replicas.

    A new one goes to the less busy replica, and an open websocket is what keeps one busy: so they
    are opened by turns.
    """
    # an actor is there before it answers, and the proxy hears of it later still
    wait_for(are_two_reached)
    sequences, episodes = list[Sequence](), list[Episode]()
    for seed in range(POLICIES):
        episodes.append(Episode(bundle, seed))
        sequences.append(Sequence(bundle, seed))
        assert (sequences[-1].begin(), episodes[-1].act()) == ("right", "right")

    def are_on_both() -> bool:
        if len({replica_of(one.session) for one in sequences}) == 2:
            return True
        sequences.append(Sequence(bundle, len(sequences)))
        assert sequences[-1].begin() == "right"
        assert {one.act() for one in episodes} == {"right"}  # all the while, see `swap`
        return False

    wait_for(are_on_both)
    return sequences, episodes


def add_node(cluster: Cluster, **settings: Any) -> Any:
    """A node for one replica, which takes more than half of it.

    Its agent has to be up within 15 s, which no setting of Ray's changes: on a busy machine the
    first one may take longer.
    """
    for _ in range(4):
        try:
            return cluster.add_node(num_cpus=1, include_log_monitor=False, **settings)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    raise AssertionError("no node starts in time on this machine")


def rest_api(head: Any) -> "subprocess.Popen[bytes]":
    """Start Serve's REST API, which is one module of Ray's dashboard; it answers when this ends."""
    command = [
        *(sys.executable, str(Path(ray.__file__).parent / "dashboard" / "dashboard.py")),
        *("--host=127.0.0.1", f"--port={API.rpartition(':')[2]}", "--modules-to-load=ServeHead"),
        *(f"--gcs-address={head.gcs_address}", f"--cluster-id-hex={head.cluster_id.hex()}"),
        *(f"--node-ip-address={head.node_ip_address}", f"--temp-dir={head.get_temp_dir_path()}"),
        f"--log-dir={head.get_logs_dir_path()}",
        f"--session-dir={head.get_session_dir_path()}",
    ]
    started = subprocess.Popen(command, stdout=sys.stderr)

    def answers() -> bool:
        assert started.poll() is None
        try:
            return deployment() is not None
        except OSError:
            return False

    wait_for(answers)
    return started


def put(config: str) -> None:
    """Deploy what a file says, as `serve deploy` does."""
    content = json.dumps(yaml.safe_load(Path(config).read_text(encoding="utf-8"))).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{API}/api/serve/applications/", content, kind, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()


def deployment() -> Any:
    """The deployment, as Serve shows it."""
    with urllib.request.urlopen(f"{API}/api/serve/applications/", timeout=60) as response:
        return json.load(response)["applications"]["agentzoo"]["deployments"]["agentzoo"]


def main(
    serve: str, first: str, swapped: str, fewer: str, changed: str, bundle: str, other: str
) -> None:
    bring_loopback_up()
    cluster, started = Cluster(), list[subprocess.Popen[bytes]]()
    try:
        head = add_node(cluster, include_dashboard=False, no_monitor=True)
        add_node(cluster)

        def call(*words: str) -> None:
            subprocess.run([serve, *words], check=True, stdout=sys.stderr, timeout=400)

        call("run", "--non-blocking", "--address", cluster.address, first)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        nodes = sum(one["Alive"] for one in ray.nodes())
        facts = {"nodes": nodes, **play(Path(bundle))}
        started.append(rest_api(head))
        facts |= swap(Path(bundle), partial(put, swapped))
        facts |= drain(Path(other), partial(put, fewer))
        deploy = partial(call, "deploy", "--address", API, changed)
        facts |= redeploy(Path(other), Path(bundle), deploy)
        print(json.dumps(facts), flush=True)
    finally:
        ray.shutdown()
        for one in started:
            one.terminate()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
