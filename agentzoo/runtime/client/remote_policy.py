"""A policy behind a network, with the interface of one that is here.

Speaks openpi's protocol with our server's additional keys; see docs/serving.md.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from ..errors import AgentZooError, ConfigError, MissingExtraError, ObservationError, ServingError
from ..policy.policy import SEEDS, PolicyState
from ..policy.spaces import Observation, encode, is_batched
from ..spec import Array, PolicySpec, TensorSpec
from ..strict_json import read_object

try:
    from websockets.exceptions import ConnectionClosed, WebSocketException

    from .msgpack_arrays import is_array, pack, unpack
    from .websocket import Connection
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "websockets", "serve") from error

SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
KEY_VARIABLE = "AGENTZOO_API_KEY"
TIMEOUT_S = 30.0
NO_GOODBYE = "it ended without a goodbye: the server, or its replica behind a proxy, is gone"
Reply = Mapping[str, object]


@dataclass(frozen=True)
class RemoteState(PolicyState):
    """The state that `RemotePolicy.predict` gives and takes; it is of one policy.

    Attributes:
        policy: sha256 of the policy whose state it is.
    """

    policy: str = ""


class RemotePolicy:
    """One session with a served policy; it acts, predicts and is evaluated like a local one.

    With the same seed and observations it gives the actions of the local policy. The connection is
    opened at the first action. A session is not for several threads at once; sessions are.

    Requests are numbered and answers name their request. Where an exchange is broken off, by a
    timeout, an interrupt or an answer that is none, its connection is given up: an answer is never
    taken for that to another observation. It stays with the policy that it found when it was made:
    once another one is served there, every call says so.

    Attributes:
        url: where the server is.
        spec: what the policy reads, keeps, draws and gives.
        seed: what the session's noise is keyed by.
        deterministic: whether actions are the distribution's mode where the caller says nothing.
        digest: sha256 of the policy that the server runs.
        timeout_s: how long to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        seed: int | None = None,
        deterministic: bool | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Connect, and learn what is served there.

        Args:
            url: `ws://host:port`, or that with `/openpi/NAME` for one of several models; wss, http
                and https mean the same server.
            seed: keys the noise; None is the policy's.
            deterministic: None is the paper's evaluation protocol.
            api_key: what the server asks for; None is the environment's AGENTZOO_API_KEY.
            timeout_s: how long to wait for an answer.

        Raises:
            ConfigError: if the URL or the seed is none.
            ServingError: if the server cannot be reached, or is none of ours.
        """
        self.url, self.timeout_s = _websocket_url(url), timeout_s
        key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        self._key = key.strip()  # files end with a newline
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError("the key holds letters that a header cannot; look where it is from")
        self._start()
        metadata = self._open()
        try:
            self._begin(metadata, seed, deterministic)
        except AgentZooError:
            self._give_up()
            raise

    def _start(self) -> None:
        self._connection: Connection | None = None
        self._is_first, self._is_lost, self._step = True, False, 0
        self._asked = self._answered = 0  # requests; unequal while one is under way

    def _begin(
        self, metadata: Mapping[str, object], seed: int | None, deterministic: bool | None
    ) -> None:
        if "spec" not in metadata:
            raise ServingError(
                f"{self.url} speaks openpi's protocol but does not describe its policy; expected "
                "a server started with agentzoo serve, ask this one with openpi's own client"
            )
        self._metadata = metadata
        try:
            self.spec = PolicySpec.from_json(metadata["spec"])
        except AgentZooError as error:
            raise ServingError(
                f"{self.url} describes a policy that cannot be read here ({error}); look whether "
                "both sides have one version of agentzoo"
            ) from error
        self.digest = str(metadata.get("sha256", ""))
        self.seed = self.spec.seed if seed is None else seed
        self.deterministic = self.spec.deterministic if deterministic is None else deterministic
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"the seed is {self.seed}, expected 0 <= seed < 2**63; pass another")

    def __repr__(self) -> str:
        """Say which agent, where it is, and whose noise it draws."""
        return f"RemotePolicy({self.url!r}, {self.spec.agent}, seed={self.seed})"

    def reset(self) -> None:
        """Start a new episode: the next `act` forgets the past; the noise goes on."""
        self._is_first, self._is_lost = True, False

    def session(self, seed: int | None = None) -> "RemotePolicy":
        """The same policy with its own carry and noise, on a connection of its own."""
        other = object.__new__(RemotePolicy)
        other.url, other.timeout_s, other._key = self.url, self.timeout_s, self._key
        other._start()
        seed = self.seed if seed is None else seed
        other._begin(self._metadata, seed, self.deterministic)
        return other

    def act(self, obs: Observation, *, deterministic: bool | None = None) -> Array:
        """The action for one observation of one environment; remembers the episode so far.

        Args:
            obs: one observation as the environment gives it, without a batch axis.
            deterministic: whether the action is the distribution's mode; None is the protocol.

        Raises:
            ObservationError: if the observation is not what the policy reads.
            ServingError: if the server does not answer; the session is as it was, or lost, which
                the reason says.
        """
        self._ask(self._observation(obs, deterministic))
        return self._action()

    @staticmethod
    def act_batch(
        sessions: "Sequence[RemotePolicy]",
        observations: Sequence[Observation],
        *,
        deterministic: bool | None = None,
    ) -> list[Array]:
        """`act` for several sessions: all ask before the first answer is awaited.

        Raises:
            ObservationError: if an observation is not what its policy reads; nothing was sent.
            ServingError: if one is not answered; all of them have to begin another episode.
        """
        pairs = zip(sessions, observations, strict=True)
        messages = [one._observation(obs, deterministic) for one, obs in pairs]
        try:
            for one, message in zip(sessions, messages, strict=True):
                one._ask(message)
            return [one._action() for one in sessions]
        except BaseException:
            for one in sessions:  # some have stepped and some have not, which nobody could mend
                one._give_up()
            raise

    def predict(
        self,
        observation: Observation,
        state: object = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool | None = False,
    ) -> tuple[Array, RemoteState]:
        """Actions for a batch, or for one observation, as Stable-Baselines' recurrent `predict`.

        The state is carried here, so any replica can answer; see `agentzoo.runtime.Policy.predict`.

        Raises:
            ObservationError: if the observation is not what the policy reads, or the state none.
            ServingError: if the server does not answer.
        """
        batched = is_batched(self.spec.obs, observation)
        encode(self.spec.obs, observation, batched=batched)
        obs = {
            key: np.asarray(value) if batched else np.asarray(value)[None]
            for key, value in _by_key(self.spec, observation).items()
        }
        if state is not None and not isinstance(state, RemoteState):
            raise ObservationError(
                f"the state is a {type(state).__name__}; pass what this policy's predict gave "
                "before, or None"
            )
        message: dict[str, object] = {**obs, "carried": None, "seed": self.seed}
        if state is not None:
            carried = {"carry": state.carry, "address": state.address, "policy": state.policy}
            message |= {"carried": carried}
        if episode_start is not None:
            message["is_first"] = np.array(episode_start, bool).reshape(-1)
        if deterministic is not None:
            message["deterministic"] = bool(deterministic)
        had_connection = self._connection is not None
        try:
            self._ask(message)
            reply = self._answer()
        except ServingError as error:
            if error.reason != "session_lost" or not had_connection:
                raise
            self._ask(message)  # the server closed an idle connection; this needs no session
            reply = self._answer()
        state = self._state(reply.get("carried"), len(next(iter(obs.values()))))
        actions = self._actions(reply, len(state))
        self._answered = self._asked
        return (actions if batched else actions[0]), state

    def close(self) -> None:
        """Leave the server; an episode under way is over, `reset` begins another."""
        if self._asked != self._answered:
            self._give_up()
        connection, self._connection = self._connection, None
        self._is_lost = not self._is_first
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        """Leave the server."""
        if "_step" in self.__dict__:  # it got as far as to connect
            self.close()

    def _observation(self, obs: Observation, deterministic: bool | None) -> dict[str, object]:
        """A message that asks for an action; nothing is sent yet."""
        if self._asked != self._answered:
            self._give_up()
        if self._is_lost:
            raise ServingError(
                f"the episode at {self.url} is over, its connection was closed; reset and begin "
                "another",
                "session_lost",
            )
        encode(self.spec.obs, obs, batched=False)  # the same sentences as a local policy's
        mode = self.deterministic if deterministic is None else bool(deterministic)
        message: dict[str, object] = {
            **{key: np.asarray(value) for key, value in _by_key(self.spec, obs).items()},
            "deterministic": mode,
            "is_first": self._is_first,
        }
        if self._is_first:  # a server that has forgotten us draws the same noise by this
            message |= {"seed": self.seed, "step": self._step}
        return message

    def _action(self) -> Array:
        action = self._actions(self._answer(), 1)[0]
        self._is_first, self._step = False, self._step + 1
        self._answered = self._asked
        return action

    def _ask(self, message: Mapping[str, object]) -> None:
        """Send a request; the connection is good for another only once this one is answered."""
        if self._asked != self._answered:
            self._give_up()
        if self._connection is None:
            self._check_policy(self._open())
        assert self._connection is not None
        self._asked += 1
        try:
            self._connection.send(pack({**message, "seq": self._asked}, "openpi"))
        except (WebSocketException, OSError) as error:
            raise self._lost(error) from error

    def _answer(self) -> Reply:
        """The answer to the last request, still to be looked at.

        Raises:
            ServingError: if it is a refusal, or none comes.
        """
        reply = self._receive()
        if isinstance(reply, str):
            self._give_up()  # it names no request
            raise self._refused(reply)
        if reply.get("seq") != self._asked:
            raise self._broken(f"an answer to request {reply.get('seq')!r:.20}")
        if "reason" in reply:
            self._answered = self._asked
            raise self._refused(f"{reply['reason']}: {reply.get('error', '')}")
        self._check_policy(reply)
        return reply

    def _check_policy(self, said: Reply) -> None:
        if (digest := said.get("sha256")) == self.digest:
            return
        if not isinstance(digest, str):
            raise self._broken("an answer that names no policy")
        self._give_up()
        raise ServingError(
            f"{self.url} serves another policy by now ({digest[:12]!r}, not "
            f"{self.digest[:12]!r}); make another RemotePolicy, and begin an episode",
            "other_version",
        )

    def _receive(self) -> Reply | str:
        assert self._connection is not None
        try:
            content = self._connection.receive(self.timeout_s)
        except (WebSocketException, OSError) as error:
            raise self._lost(error) from error
        if isinstance(content, str):
            return content
        try:
            return read_object(unpack(content), "reply")
        except AgentZooError as error:
            raise self._broken("a message that cannot be read") from error

    def _actions(self, reply: Reply, batch: int) -> Array:
        """(batch, *shape), if they are what the policy gives."""
        action = self.spec.action
        wanted = TensorSpec(shape=action.shape, dtype=action.dtype)
        return self._tensor("actions", reply.get("actions"), batch, wanted)

    def _state(self, carried: object, batch: int) -> RemoteState:
        """A state that may be sent back."""
        entries = _entries(carried)
        parts = _entries(entries.get("carry"))
        address = TensorSpec(shape=(3,), dtype="int64")
        return RemoteState(
            {
                name: self._tensor(f"state {name}", parts.get(name), batch, one)
                for name, one in self.spec.carry.items()
            },
            self._tensor("state's address", entries.get("address"), batch, address),
            self.digest,
        )

    def _tensor(self, name: str, value: object, batch: int, spec: TensorSpec) -> Array:
        shape = (batch, *spec.shape)
        if not is_array(value):
            raise self._broken(f"no {name}")
        if value.shape != shape or value.dtype != spec.dtype:
            given = f"{value.dtype} of shape {value.shape}"
            raise self._broken(f"{name} of {given}, expected {spec.dtype} of shape {shape}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise self._broken(f"NaN or infinity in its {name}")
        return value

    def _refused(self, text: str) -> ServingError:
        reason, _, sentence = text.partition(": ")
        return ServingError(f"{self.url} says: {sentence or reason}", reason)

    def _broken(self, what: str) -> ServingError:
        self._give_up()
        return ServingError(
            f"{self.url} sent {what}; its connection was given up: look at what serves there, and "
            "reset to begin an episode"
        )

    def _give_up(self) -> None:
        """Leave without a word: something is under way that nobody waits for any more."""
        connection, self._connection = self._connection, None
        self._asked = self._answered = 0
        self._is_lost = not self._is_first
        if connection is not None:
            connection.abort()

    def _open(self) -> Reply:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._asked = self._answered + 1  # it speaks first
        try:
            self._connection = Connection(self.url, headers=headers, timeout_s=self.timeout_s)
        except ValueError as error:  # a port beyond 65,535, a name that is none
            self._asked = self._answered
            raise ConfigError(
                f"{self.url} is no address of a server ({error}); give one such as "
                "ws://127.0.0.1:8000"
            ) from error
        except (WebSocketException, OSError) as error:
            raise ServingError(
                f"{self.url} cannot be reached ({error}); look at its address, its key and "
                "whether the server is ready"
            ) from error
        metadata = self._receive()
        if isinstance(metadata, str):
            self._give_up()
            raise self._refused(metadata)
        self._answered = self._asked
        return metadata

    def _lost(self, error: Exception) -> ServingError:
        self._give_up()
        why = NO_GOODBYE if _is_without_goodbye(error) else str(error)
        return ServingError(
            f"the connection to {self.url} was lost ({why}), and with it the session: "
            "reset and begin an episode",
            "session_lost",
        )


def _is_without_goodbye(error: Exception) -> bool:
    """Whether a connection ended as it does when a process is killed."""
    if isinstance(error, ConnectionClosed):
        return error.rcvd is None and error.sent is None
    return isinstance(error, ConnectionError)


def _websocket_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES or not rest:
        raise ConfigError(f'"{url}" is not the address of a server; write ws://host:port')
    return f"{SCHEMES[scheme]}://{rest}"


def _entries(value: object) -> Reply:
    return cast(Reply, value) if isinstance(value, dict) else {}


def _by_key(spec: PolicySpec, observation: Observation) -> Mapping[str, ArrayLike]:
    if isinstance(observation, Mapping):
        return observation
    return {next(iter(spec.obs)): observation}
