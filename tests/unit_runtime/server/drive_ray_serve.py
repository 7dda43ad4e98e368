"""Two nodes, two replicas and their clients, one replica killed; run by `test_ray_serve.py`.

    python drive_ray_serve.py SERVE FIRST SWAPPED FEWER BUNDLE OTHER

The three in the middle are configurations, of which each takes the place of the one before.

It runs in a network namespace of its own, in the interpreter that has Ray, and prints what it saw.
"""

import fcntl
import json
import logging
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util import list_named_actors

from agentzoo.runtime import RemotePolicy, load_policy
from agentzoo.runtime.errors import ServingError
from agentzoo.runtime.server.replica import SESSION, replica_of
from tests.unit_runtime.server.wires import Openpi, Rest, outputs, tensor

URL = "127.0.0.1:8000"  # as in the configuration
OBSERVATIONS = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)
POLICIES = 8
LOCAL_FLAGS, SET_FLAGS = 0x41, 0x8914  # IFF_UP | IFF_RUNNING, SIOCSIFFLAGS


def bring_loopback_up() -> None:
    """Do what `ip link set lo up` does; a new namespace has it down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, SET_FLAGS, struct.pack("16sh", b"lo", LOCAL_FLAGS))


class Sequence:
    """One sequence over REST and its local twin; a connection for each request."""

    def __init__(self, bundle: Path, seed: int) -> None:
        self.bundle, self.seed, self.session, self.step = bundle, seed, "", 0
        self.here = load_policy(bundle, provider="cpu", seed=seed)

    def act(self, **parameters: Any) -> str:
        """`right`, `wrong`, or the reason and sentence of a refusal."""
        obs = OBSERVATIONS[self.step % len(OBSERVATIONS)]
        body = {"inputs": [tensor("observation", obs[None])],
                "parameters": {"sequence_id": 1, **parameters}}  # fmt: skip
        headers = {SESSION: self.session} if self.session else {}
        with Rest(f"http://{URL}") as client:
            status, said, found = client.call("POST", "/v2/models/a/infer", body, headers)
        if status != 200:
            return f"{said['reason']}: {said['error']}"
        self.session = {key.lower(): one for key, one in found.items()}[SESSION]
        self.step += 1
        return said_as(outputs(said)["action"][0], self.here.act(obs))

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

    def __init__(self, bundle: Path, *, is_rest: bool) -> None:
        super().__init__(daemon=True)
        self.is_over, self.seen = threading.Event(), Counter[str]()
        self.ask = self.over_rest if is_rest else self.over_websocket
        self.here = load_policy(bundle, provider="cpu")
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
        with Rest(f"http://{URL}") as client:
            status, body = client.infer({"observation": OBSERVATIONS[:2]})
        if status != 200:
            return f"{status}: again"  # its state is the client's: it may ask again
        expected, _ = self.here.predict(OBSERVATIONS[:2], None, None, None)
        return said_as(outputs(body)["action"], expected)


def replicas() -> list[str]:
    """Names of the replicas' actors."""
    named: Any = list_named_actors(all_namespaces=True)
    return sorted(one["name"] for one in named if one["name"].startswith("SERVE_REPLICA"))


def wait_for(condition: Any, limit_s: float = 90) -> None:
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
    ray.kill(ray.get_actor(next(one for one in before if lost in one), namespace="serve"))
    facts["episodes"] = [one.act() for one in episodes]
    facts["sequences"] = [[replica_of(one.session) == lost, one.act()] for one in sequences]
    survivors = [one for one in sequences if replica_of(one.session) != lost]
    wait_for(lambda: len(replicas()) == len(before) and replicas() != before)
    facts["joining"] = Counter(one.act() for _ in range(5) for one in survivors)

    def of_the_new_one() -> bool:
        other = Sequence(bundle, 99)
        assert other.begin() == "right"
        return all(replica_of(other.session) not in name for name in before)

    wait_for(of_the_new_one)
    facts["joined"] = Counter(one.act() for _ in range(5) for one in survivors)
    for one in load:
        one.is_over.set()
    for one in load:
        one.join(60)
    facts["load"] = sum((one.seen for one in load), Counter[str]())
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
    deploy()
    answers = Counter[str]()

    def is_everywhere() -> bool:
        # all the while, or the proxy ends websockets that do not answer its pings
        answers.update(one.act() for one in [*sequences, *episodes])
        with ExitStack() as stack:  # open at once, so that they are spread
            new = [stack.enter_context(Openpi(f"ws://{URL}/openpi")) for _ in range(POLICIES)]
            return {one.metadata["version"] for one in new} == {"2"}

    wait_for(is_everywhere)
    answers.update(one.act() for one in [*sequences, *episodes])
    return {"swapped": answers}


def fresh(number: int) -> str:
    """The replica of a sequence that begins now; it ends at once."""
    body = {"inputs": [tensor("observation", OBSERVATIONS[:1])],
            "parameters": {"sequence_id": 2 + number, "sequence_start": True,
                           "sequence_end": True}}  # fmt: skip
    with Rest(f"http://{URL}") as client:
        status, _, found = client.call("POST", "/v2/models/a/infer", body)
    if status != 200:
        return ""  # Serve's own answer until there is an application
    return replica_of({key.lower(): one for key, one in found.items()}[SESSION])


def drain(bundle: Path, deploy: Callable[[], None]) -> dict[str, Any]:
    """Answers while one of two replicas is told to end."""
    sequences, episodes = spread(bundle)
    deploy()
    wait_for(lambda: any(one.act() != "right" for one in sequences))
    facts: dict[str, Any] = {"draining": Counter(one.act() for one in episodes)}
    wait_for(lambda: len(replicas()) == 1)
    facts["fewer"] = Counter(one.act() for one in episodes)
    return facts


def spread(bundle: Path) -> tuple[list[Sequence], list[Episode]]:
    """Sequences and websockets that have begun, of both replicas.

    A new one goes to the less busy replica, and an open websocket is what keeps one busy: so they
    are opened by turns.
    """
    # an actor is there before it answers, and the proxy hears of it later still
    wait_for(lambda: len({fresh(number) for number in range(8)} - {""}) == 2)
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
        return False

    wait_for(are_on_both)
    return sequences, episodes


def main(serve: str, first: str, swapped: str, fewer: str, bundle: str, other: str) -> None:
    bring_loopback_up()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)  # a replica takes more than half of a node

        def deploy(config: str) -> None:
            command = [serve, "run", "--non-blocking", "--address", cluster.address, config]
            subprocess.run(command, check=True, stdout=sys.stderr, timeout=200)

        deploy(first)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        nodes = sum(one["Alive"] for one in ray.nodes())
        facts = {"nodes": nodes, **play(Path(bundle))}
        facts |= swap(Path(bundle), partial(deploy, swapped))
        facts |= drain(Path(other), partial(deploy, fewer))
        print(json.dumps(facts), flush=True)
        ray.shutdown()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
