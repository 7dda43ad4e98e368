"""A policy behind a network acts, predicts and is evaluated like one that is here."""

import signal
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agentzoo.export import export
from agentzoo.runtime import RemotePolicy, evaluate, load_policy
from agentzoo.runtime.client.msgpack_arrays import pack, unpack
from agentzoo.runtime.errors import (
    ConfigError,
    NotFiniteError,
    ObservationError,
    ServingError,
)
from tests.unit_runtime.client.test_websocket import peer
from tests.unit_runtime.server.live import serving
from tests.unit_runtime.server.wires import Openpi
from tests.unit_runtime.toys import Toy, seeded, toy_spec

VECTORS = np.random.default_rng(1).standard_normal((12, 4)).astype(np.float32)
CARTPOLE = "gym:CartPole-v1?max_episode_steps=30&repeat=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with gym.make("CartPole-v1") as env:
        toy = seeded(Toy, env.observation_space, env.action_space)
    spec = toy_spec(toy, env=CARTPOLE, deterministic=False)
    return export(toy, spec, tmp_path_factory.mktemp("cartpole"))


@pytest.fixture(scope="module")
def live(folder):
    with serving(folder) as live:
        yield live


@pytest.fixture
def remote(live):
    policy = RemotePolicy(live.ws)
    yield policy
    policy.close()


@pytest.fixture
def local(folder):
    return load_policy(folder, provider="cpu")


def test_it_says_what_it_is(remote, local, live):
    assert remote.spec == local.spec
    assert (remote.digest, remote.seed) == (local.digest, local.seed)
    assert repr(remote) == f"RemotePolicy('{live.ws}', Toy, seed=3)"


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_an_address_may_be_written_either_way(live, scheme):
    policy = RemotePolicy(f"{scheme}://127.0.0.1:{live.server.port}/openpi/a")
    assert policy.url == f"{live.ws}/openpi/a"
    policy.close()


def test_it_acts_like_the_policy_here(remote, local):
    for t, obs in enumerate(VECTORS):
        if t == 6:
            remote.reset()
            local.reset()
        mode = t % 3 == 0 or None
        found, expected = remote.act(obs, deterministic=mode), local.act(obs, deterministic=mode)
        assert found == expected
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


def test_sessions_are_apart_and_seeded(remote, local):
    for seed in (1, None, 9):
        one, other = remote.session(seed), local.session(seed)
        assert [one.act(obs) for obs in VECTORS] == [other.act(obs) for obs in VECTORS]
        one.close()


def test_predict_is_stable_baselines(remote, local):
    state = expected_state = None
    for t in range(3):
        start = None if t == 0 else [False, True]
        batch = VECTORS[2 * t : 2 * t + 2]
        found, state = remote.predict(batch, state, start)
        expected, expected_state = local.predict(batch, expected_state, start)
        assert np.array_equal(found, expected)
        assert np.array_equal(state.address, expected_state.address)
        assert all(np.array_equal(state.carry[n], expected_state.carry[n]) for n in state.carry)
    one, _ = remote.predict(VECTORS[0], deterministic=True)
    assert one.shape == ()


@pytest.mark.parametrize("envs", [1, 3])
def test_evaluate_takes_it(remote, local, live, envs):
    found = evaluate(remote, episodes=6, envs=envs)
    expected = evaluate(local, episodes=6)
    assert found.returns == expected.returns
    assert (found.env, found.policy_sha256) == (expected.env, expected.policy_sha256)
    assert found.deterministic is False
    while len(live.service.sessions):  # every episode's connection was closed
        time.sleep(0.01)


def test_evaluate_takes_it_in_a_vector_environment(remote, local):
    makes = [lambda: gym.make("CartPole-v1", max_episode_steps=30)] * 3
    envs = SyncVectorEnv(makes, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert evaluate(remote, envs, episodes=5).returns == evaluate(local, episodes=5).returns


def test_stable_baselines_evaluates_it(remote, local):
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    scores = []
    for policy in (remote, local):
        pair = vec_env.DummyVecEnv([lambda: gym.make("CartPole-v1", max_episode_steps=30)] * 2)
        pair.seed(0)
        scores.append(
            evaluation.evaluate_policy(
                policy, pair, n_eval_episodes=4, return_episode_rewards=True, warn=False
            )
        )
        pair.close()
    assert scores[0] == scores[1]


def test_wrong_observations_are_the_sentences_of_a_local_policy(remote, local):
    for bad in (VECTORS[:2], np.full(4, np.nan), {"x": 1}):
        with pytest.raises(ObservationError) as expected:
            local.act(bad)
        with pytest.raises(ObservationError) as found:
            remote.act(bad)
        assert str(found.value) == str(expected.value)
    with pytest.raises(ObservationError, match="the state is a tuple"):
        remote.predict(VECTORS[0], (1,))
    with pytest.raises(ServingError, match="2 observations came with 3 states") as caught:
        remote.predict(VECTORS[:2], remote.predict(VECTORS[:3])[1])
    assert caught.value.reason == "malformed"


def test_nobody_there_is_a_sentence():
    with pytest.raises(ServingError, match="cannot be reached"):
        RemotePolicy("ws://127.0.0.1:9", timeout_s=2)  # the discard port
    with pytest.raises(ConfigError, match="not the address of a server"):
        RemotePolicy("127.0.0.1:8000")
    with pytest.raises(ConfigError, match="not the address of a server"):
        RemotePolicy("ftp://x")
    for wrong in ("ws://127.0.0.1:99999", "ws://127.0.0.1:abc", "ws://[::1", "ws://a..b:80"):
        with pytest.raises(ConfigError, match="no address of a server"):
            RemotePolicy(wrong)


def test_a_seed_is_checked_here(live):
    with pytest.raises(ConfigError, match="seed is -1"):
        RemotePolicy(live.ws, seed=-1)


def test_an_unknown_model_is_a_sentence(live):
    with pytest.raises(ServingError, match="404"):
        RemotePolicy(f"{live.ws}/openpi/none")


def test_a_closed_policy_begins_again_only_when_told(remote):
    remote.act(VECTORS[0])
    remote.close()
    with pytest.raises(ServingError, match="reset and begin another"):
        remote.act(VECTORS[1])
    remote.reset()
    assert remote.act(VECTORS[1]).shape == ()


# -- in step -------------------------------------------------------------------------------------


def test_an_observation_that_is_refused_leaves_all_that_act_together_as_they_were(remote, local):
    sessions = [remote.session(seed) for seed in (1, 2, 3)]
    expected = [local.session(seed) for seed in (1, 2, 3)]
    bad = np.full(4, np.nan, np.float32)
    for t in range(0, 12, 3):
        with pytest.raises(NotFiniteError, match="holds NaN"):
            RemotePolicy.act_batch(sessions, [VECTORS[t], VECTORS[t], bad])
        found = RemotePolicy.act_batch(sessions, list(VECTORS[t : t + 3]))
        alone = [one.act(obs) for one, obs in zip(expected, VECTORS[t : t + 3], strict=True)]
        assert found == alone
    for one in sessions:
        one.close()


@contextmanager
def interrupted(live):
    """SIGINT for the main thread once a step is under way, which is then held until the end."""
    policy = live.service.models["a"].current.policy
    step, go, entered = policy.step, threading.Event(), threading.Event()

    def held(*arguments):
        entered.set()
        assert go.wait(30)
        return step(*arguments)

    def interrupt() -> None:
        assert entered.wait(30)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # a shell that starts the tests in the background lets them ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    policy.step = held
    thread.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join(30)
        policy.step = step
        go.set()


@pytest.mark.parametrize("others", [0, 1])
def test_an_interrupt_while_waiting_loses_the_episode_and_never_the_order(
    remote, local, live, others
):
    group = [remote, *(remote.session(9) for _ in range(others))]

    def act(obs):
        return RemotePolicy.act_batch(group, [obs] * len(group))[0]

    assert act(VECTORS[0]) == local.act(VECTORS[0])
    with interrupted(live), pytest.raises(KeyboardInterrupt):
        act(VECTORS[1])
    with pytest.raises(ServingError, match="reset and begin another") as caught:
        act(VECTORS[2])
    assert caught.value.reason == "session_lost"
    local.reset()
    for one in group:
        one.reset()
    assert [act(obs) for obs in VECTORS[3:]] == [local.act(obs) for obs in VECTORS[3:]]
    for one in group[1:]:
        one.close()


def test_who_acts_together_with_one_that_is_refused_has_to_begin_again(remote, live):
    """The sequence has stepped, but nobody was given its action."""
    with Openpi(live.ws) as client:
        metadata = client.metadata

    def answers(socket):
        socket.send(pack(metadata, "openpi"))
        for message in socket:
            refusal = {"reason": "overloaded", "error": "too many", "seq": unpack(message)["seq"]}
            socket.send(pack(refusal, "openpi"))

    with peer(answers) as url:
        group = [remote, RemotePolicy(url)]
        remote.act(VECTORS[0])
        with pytest.raises(ServingError, match="says: too many"):
            RemotePolicy.act_batch(group, VECTORS[:2])
        with pytest.raises(ServingError, match="reset and begin another"):
            remote.act(VECTORS[2])
    remote.reset()
    assert remote.act(VECTORS[0]).shape == ()


def test_an_interrupted_predict_is_asked_again_on_another_connection(remote, local, live):
    with interrupted(live), pytest.raises(KeyboardInterrupt):
        remote.predict(VECTORS[:2])
    found, _ = remote.predict(VECTORS[2:4])
    assert np.array_equal(found, local.predict(VECTORS[2:4])[0])


GOOD = np.array([1])
ANSWERS = [
    ({"actions": np.array([1.0], np.float32)}, "actions of float32 of shape"),
    ({"actions": np.array([[1]])}, r"actions of int64 of shape \(1, 1\), expected int64 of"),
    ({"actions": np.array([1, 1])}, r"of shape \(2,\)"),
    ({"actions": np.zeros(0, np.int64)}, r"of shape \(0,\)"),
    ({"actions": np.array([1], np.int32)}, "actions of int32"),
    ({"actions": "left"}, "no actions"),
    ({"actions": None}, "no actions"),
    ({}, "no actions"),
    ({"actions": GOOD, "seq": 1}, "an answer to request 1;"),
    ({"actions": GOOD, "seq": None}, "an answer to request None"),
    ({"actions": GOOD, "sha256": None}, "an answer that names no policy"),
    ("deadline: too late", "says: too late"),
    ([1, 2], "a message that cannot be read"),
    (b"\xc1", "a message that cannot be read"),
]


@pytest.mark.parametrize(("answer", "match"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_that_is_none_never_leaves_act(live, answer, match):
    with Openpi(live.ws) as client:
        metadata = client.metadata

    def answers(socket):
        socket.send(pack(metadata, "openpi"))
        for message in socket:
            numbered = answer
            if isinstance(answer, dict):
                sha256 = metadata["sha256"]
                numbered = {"seq": unpack(message)["seq"], "sha256": sha256, **answer}
            is_raw = isinstance(answer, str | bytes)
            socket.send(answer if is_raw else pack(numbered, "openpi"))

    with peer(answers) as url:
        policy = RemotePolicy(url)
        for _ in range(2):
            with pytest.raises(ServingError, match=match):
                policy.act(VECTORS[0])


def test_a_state_that_is_none_never_leaves_predict(live, remote):
    with Openpi(live.ws) as client:
        metadata, good = client.metadata, client.ask(VECTORS[:1], carried=None)
    carried = good["carried"]
    carry = carried["carry"]

    def with_deter(value):
        return {**good, "carried": {**carried, "carry": {**carry, "deter": value}}}

    wrong = [
        ({**good, "carried": None}, "no state "),
        ({**good, "carried": {**carried, "carry": {}}}, "no state "),
        ({**good, "carried": {"carry": carry}}, "no state's address"),
        ({**good, "actions": np.array([1, 2])}, "actions of int64"),
        (with_deter(carry["stoch"]), "state deter of float32"),
        (with_deter(np.full_like(carry["deter"], np.inf)), "NaN or infinity in its state deter"),
    ]
    for reply, match in wrong:

        def answers(socket, reply=reply):
            socket.send(pack(metadata, "openpi"))
            for message in socket:
                socket.send(pack({**reply, "seq": unpack(message)["seq"]}, "openpi"))

        with peer(answers) as url, pytest.raises(ServingError, match=match):
            RemotePolicy(url).predict(VECTORS[:1])


def test_nan_never_leaves_act(bundles):
    folder, _ = bundles("vector")
    with serving(folder) as live, Openpi(live.ws) as client:
        metadata = client.metadata

    def answers(socket):
        socket.send(pack(metadata, "openpi"))
        for message in socket:
            action = np.array([[0.0, np.nan]], np.float32)
            reply = {"actions": action, "sha256": metadata["sha256"]}
            socket.send(pack({**reply, "seq": unpack(message)["seq"]}, "openpi"))

    with peer(answers) as url, pytest.raises(ServingError, match="NaN or infinity in its actions"):
        RemotePolicy(url).act(VECTORS[0, :3])


# -- a hostile server ----------------------------------------------------------------------------


class Between:
    """A relay to a server, which once told to gives other bytes in the place of the next answer."""

    def __init__(self, port: int) -> None:
        self.port, self.bytes = port, b""
        self.is_flood = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                for work in (self._ask, self._answer):
                    thread = threading.Thread(target=work, args=(client, server), daemon=True)
                    self.threads.append(thread)
                    thread.start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), client, server:
            while content := client.recv(1 << 16):
                if self.bytes:
                    attack, self.bytes = self.bytes, b""
                    client.sendall(attack)
                    until = time.monotonic() + 5
                    while self.is_flood:
                        client.sendall(attack[-3:])
                        if time.monotonic() > until:
                            return
                else:
                    server.sendall(content)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while content := server.recv(1 << 16):
                client.sendall(content)

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def between(live):
    relay = Between(live.server.port)
    yield relay
    relay.close()


PING = b"\x89\x01x"
ATTACKS = {
    "masked": b"\x82\x81\1\2\3\4x",
    "reserved bits": b"\xf2\x01x",
    "a text that is none": b"\x81\x01\xff",
    "an unknown kind": b"\x83\x01x",
    "a rest of nothing": b"\x80\x01x",
    "a large ping": b"\x89\x7e\x01\x00" + bytes(256),
    "a broken ping": b"\x09\x01x",
    "a length of 63 bits": b"\x82\x7f\x7f" + b"\xff" * 7,
    "more than a GiB": b"\x82\x7f" + struct.pack(">Q", (1 << 30) + 1),
    "a goodbye without a reason": b"\x88\x00",
    "a goodbye with half a code": b"\x88\x01\x03",
    "a goodbye with a code of none": b"\x88\x02\x00\x01",
    "an answer in pieces of nothing": b"\x02\x00\x00\x00\x80\x00",
    "nothing": b"\x82\x00",
    "no websocket": b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
    "lists in lists": b"\x82\x7e\xff\xff" + b"\x91" * 0xFFFF,
    "an answer before the question": b"\x82\x01\xc0" + b"\x82\x01\xc0",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_after_whatever_a_server_sends_the_next_episode_is_right(between, local, attack):
    policy = RemotePolicy(between.url, seed=5, timeout_s=2.0)
    alone = local.session(5)
    assert policy.act(VECTORS[0]) == alone.act(VECTORS[0])
    between.bytes = attack
    with pytest.raises(ServingError, match=r"^ws://127\.0\.0\.1:\d+ (sent|says|serves)|^the conn"):
        policy.act(VECTORS[1])
    with pytest.raises(ServingError, match="reset and begin another"):
        policy.act(VECTORS[1])
    policy.reset()
    alone.reset()
    assert [policy.act(obs) for obs in VECTORS[2:6]] == [alone.act(obs) for obs in VECTORS[2:6]]
    policy.close()


@pytest.mark.parametrize(
    "attack",
    [PING, b"\x82\x7f" + struct.pack(">Q", 1 << 29) + bytes(9), b"\x02\x01x" + b"\x00\x01x"],
    ids=["pings", "one long answer", "an answer in pieces"],
)
def test_an_answer_that_never_ends_is_none(between, attack):
    policy = RemotePolicy(between.url, timeout_s=0.3)
    between.bytes, between.is_flood = attack, True
    with pytest.raises(ServingError, match=r"no whole answer came in time|timed out"):
        policy.act(VECTORS[0])
    policy.close()


def test_a_handshake_that_never_ends_is_none():
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        client, _ = listener.accept()
        with suppress(OSError), client:
            client.recv(1 << 16)
            client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
            until = time.monotonic() + 5
            while time.monotonic() < until:
                client.sendall(b"a")

    thread = threading.Thread(target=drip)
    thread.start()
    port = listener.getsockname()[1]
    with pytest.raises(ServingError, match=r"cannot be reached \(.*(in time|valid HTTP response)"):
        RemotePolicy(f"ws://127.0.0.1:{port}", timeout_s=0.3)
    listener.close()
    thread.join(30)


METADATA = [
    ({"spec": None}, "cannot be read here .*None, expected an object"),
    ({"spec": {}}, "cannot be read here .*lacks the field"),
    ({"spec": {"obs": {"x": {"shape": [-1]}}}}, "cannot be read here"),
    ({}, "does not describe its policy"),
    ([], "a message that cannot be read"),
    (b"\xc1", "a message that cannot be read"),
    ("no", "says: no"),
]


@pytest.mark.parametrize(("metadata", "match"), METADATA, ids=range(len(METADATA)))
def test_a_server_that_describes_no_policy_is_a_sentence(metadata, match):
    def answers(peer):
        is_raw = isinstance(metadata, str | bytes)
        peer.send(metadata if is_raw else pack(metadata, "openpi"))
        list(peer)

    with peer(answers) as url, pytest.raises(ServingError, match=match) as caught:
        RemotePolicy(url)
    assert str(caught.value).startswith(url)


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_ends_without_a_goodbye_is_said_to_be_one(live, is_reset):
    """As where a proxy stands before a replica that is killed."""
    with Openpi(live.ws) as client:
        metadata = client.metadata

    def vanish(one):
        one.send(pack(metadata, "openpi"))
        one.recv()
        if is_reset:
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.socket.close()

    with peer(vanish) as url:
        policy = RemotePolicy(url)
        with pytest.raises(
            ServingError, match=r"ended without a goodbye: .*replica.*begin"
        ) as caught:
            policy.act(np.zeros(4, np.float32))
        assert caught.value.reason == "session_lost"
