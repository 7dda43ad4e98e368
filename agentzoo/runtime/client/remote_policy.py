"""A policy behind a network, with the interface of one that is here.

Speaks openpi's protocol with our server's additional keys; see docs/serving.md.
"""

import os
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError, MissingExtraError, ObservationError, ServingError
from ..policy.policy import SEEDS, State
from ..policy.spaces import Observation, encode, is_batched
from ..spec import Array, Arrays, PolicySpec
from ..strict_json import read_object

try:
    from websockets.exceptions import WebSocketException

    from .msgpack_arrays import pack, unpack
    from .websocket import Connection
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "websockets", "serve") from error

SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
KEY_VARIABLE = "AGENTZOO_API_KEY"
TIMEOUT_S = 30.0


class RemotePolicy:
    """One session with a served policy; it acts, predicts and is evaluated like a local one.

    With the same seed and observations it gives the actions of the local policy. The connection is
    opened at the first action. A session is not for several threads at once; sessions are.

    Attributes:
        url: where the server is.
        spec: what the policy reads, keeps, draws and gives.
        seed: what the session's noise is keyed by.
        deterministic: whether actions are the distribution's mode where the caller says nothing.
        digest: sha256 of the graph that the server runs.
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
        self._key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        self._connection: Connection | None = None
        self._is_first, self._is_lost, self._step = True, False, 0
        self._begin(self._open(), seed, deterministic)

    def _begin(
        self, metadata: Mapping[str, object], seed: int | None, deterministic: bool | None
    ) -> None:
        if "spec" not in metadata:
            self.close()
            raise ServingError(
                f"{self.url} speaks openpi's protocol but does not describe its policy; expected "
                "a server started with agentzoo serve, ask this one with openpi's own client"
            )
        self._metadata = metadata
        self.spec = PolicySpec.from_json(metadata["spec"])
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
        other._connection = None
        other._is_first, other._is_lost, other._step = True, False, 0
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
        self._send_observation(obs, deterministic)
        return self._receive_action()

    @staticmethod
    def act_batch(
        sessions: "Sequence[RemotePolicy]",
        observations: Sequence[Observation],
        *,
        deterministic: bool | None = None,
    ) -> list[Array]:
        """`act` for several sessions: all ask before the first answer is awaited."""
        for one, obs in zip(sessions, observations, strict=True):
            one._send_observation(obs, deterministic)
        return [one._receive_action() for one in sessions]

    def predict(
        self,
        observation: Observation,
        state: object = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool | None = False,
    ) -> tuple[Array, State]:
        """Actions for a batch, or for one observation, as Stable-Baselines' recurrent `predict`.

        The state is carried here, so any replica can answer; see `agentzoo.runtime.Policy.predict`.

        Raises:
            ObservationError: if the observation is not what the policy reads, or the state none.
            ServingError: if the server does not answer.
        """
        batched = is_batched(self.spec.obs, observation)
        encode(self.spec.obs, observation, batched=batched)
        rows = {
            key: np.asarray(value) if batched else np.asarray(value)[None]
            for key, value in _by_key(self.spec, observation).items()
        }
        if state is not None and not isinstance(state, State):
            raise ObservationError(
                f"the state is a {type(state).__name__}; pass what predict gave before, or None"
            )
        message: dict[str, object] = {**rows, "carried": None, "seed": self.seed}
        if state is not None:
            message |= {"carried": {"carry": state.carry, "address": state.address}}
        if episode_start is not None:
            message["is_first"] = np.array(episode_start, bool).reshape(-1)
        if deterministic is not None:
            message["deterministic"] = bool(deterministic)
        reply = self._ask(message)
        actions, carried = cast(Array, reply["actions"]), read_object(reply["carried"], "carried")
        carry = cast(Arrays, read_object(carried["carry"], "carry"))
        return (actions if batched else actions[0]), State(carry, cast(Array, carried["address"]))

    def close(self) -> None:
        """Leave the server; an episode under way is over, `reset` begins another."""
        connection, self._connection = self._connection, None
        self._is_lost = not self._is_first
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        """Leave the server."""
        if "_step" in self.__dict__:  # it got as far as to connect
            self.close()

    def _send_observation(self, obs: Observation, deterministic: bool | None) -> None:
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
        self._send(message)

    def _receive_action(self) -> Array:
        reply = self._receive()
        self._is_first, self._step = False, self._step + 1
        return cast(Array, reply["actions"])[0]

    def _ask(self, message: Mapping[str, object]) -> Mapping[str, object]:
        self._send(message)
        return self._receive()

    def _send(self, message: Mapping[str, object]) -> None:
        if self._connection is None:
            self._open()
        assert self._connection is not None
        try:
            self._connection.send(pack(message, "openpi"))
        except (WebSocketException, OSError) as error:
            raise self._lost(error) from error

    def _receive(self) -> Mapping[str, object]:
        assert self._connection is not None
        try:
            reply = self._connection.receive(self.timeout_s)
        except (WebSocketException, OSError) as error:
            raise self._lost(error) from error
        if isinstance(reply, str):
            reason, _, sentence = reply.partition(": ")
            raise ServingError(f"{self.url} says: {sentence or reason}", reason)
        return read_object(unpack(reply), "reply")

    def _open(self) -> Mapping[str, object]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            self._connection = Connection(self.url, headers=headers, timeout_s=self.timeout_s)
        except (WebSocketException, OSError) as error:
            raise ServingError(
                f"{self.url} cannot be reached ({error}); look at its address, its key and "
                "whether the server is ready"
            ) from error
        return self._receive()

    def _lost(self, error: Exception) -> ServingError:
        self.close()
        return ServingError(
            f"the connection to {self.url} was lost ({error}), and with it the session: "
            "reset and begin an episode",
            "session_lost",
        )


def _websocket_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES or not rest:
        raise ConfigError(f'"{url}" is not the address of a server; write ws://host:port')
    return f"{SCHEMES[scheme]}://{rest}"


def _by_key(spec: PolicySpec, observation: Observation) -> Mapping[str, ArrayLike]:
    if isinstance(observation, Mapping):
        return observation
    return {next(iter(spec.obs)): observation}
