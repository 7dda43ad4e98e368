"""vla-eval's protocol: hello, episode_start, observation for action, episode_end.

Its clients read one message after hello and after each observation, and none after the others: an
answer to those would be taken for that to the next observation. An episode that cannot start says
so when its first observation comes.

Episode k of a connection draws its noise from the policy's seed plus k, as `evaluate` does, unless
episode_start says a seed.

Source: vla-eval 0.8.0, vla_eval/protocol/messages.py and vla_eval/model_servers/serve.py.
"""

import time
from collections.abc import Mapping
from typing import cast

from ..client.msgpack_arrays import malformed, pack
from ..errors import ServingError
from ..policy.policy import SEEDS
from ..spec import Array, PolicySpec
from . import decoding
from .error_codes import REFUSALS, refusal_of
from .message_limits import item_limit
from .service import Service
from .transport import Call
from .websocket import Channel

PROTOCOL = "vla-eval"
VERSION = 1
SILENT = frozenset({"episode_start", "episode_end", "error"})  # clients read no reply to these


async def serve(service: Service, call: Call) -> None:
    """Serve one connection until it closes.

    Raises:
        ServingError: if there is nothing to connect to; before the handshake.
    """
    connection = _Connection(service, call.named.get("model", ""))
    channel = connection.channel
    try:
        await channel.open(call)
        while await connection.answer():
            pass
    except ConnectionError:
        pass  # gone in the middle of an answer
    except Exception as error:
        if not channel.is_open:
            raise  # nothing was shaken hands on; an answer in HTTP is right
        await channel.refuse(refusal_of(error))
    finally:
        channel.end(call)


class _Connection:
    """One client, which has at most one episode at a time."""

    def __init__(self, service: Service, model: str) -> None:
        self.service = service
        self.version = service.current(model)
        self.model = self.version.model
        self.channel = Channel(
            service, PROTOCOL, self.version, service.message_limit(self.version, PROTOCOL)
        )
        self.channel.keys.add(self)
        self.episodes, self.last_seq = 0, -1
        self.refused: ServingError | None = None  # why there is no episode

    async def answer(self) -> bool:
        """Take one message; False once the connection is over."""
        seq, kind = 0, ""
        try:
            content = await self.channel.receive()
            if content is None:
                return False
            limit = item_limit(self.version.policy.spec, 1)
            message = _message(await decoding.message(content, limit))
            kind, seq = _head(message)
            reply = await self._reply(kind, seq, _payload(message))
        except Exception as error:
            return await self._refuse(error, seq, kind)
        if kind == "observation":
            self.service.metrics.request(PROTOCOL, self.version)
            self.channel.steps += 1
        if reply is not None:
            await self._send(*reply, seq)
        return True

    async def _refuse(self, error: Exception, seq: int, kind: str) -> bool:
        refusal = refusal_of(error)
        self.service.metrics.request(PROTOCOL, self.version, "refused", refusal.reason)
        if kind == "episode_start":
            self.refused = refusal
        if kind not in SILENT:
            said = f"{kind or 'message'}_failed: {refusal.reason}: {refusal}"
            await self._send("error", {"error": said}, seq)
        if REFUSALS[refusal.reason].close == 1001:  # any other error leaves the connection open
            return not await self.channel.refuse(refusal)
        return True

    async def _reply(
        self, kind: str, seq: int, payload: dict[str, object]
    ) -> tuple[str, dict[str, object]] | None:
        match kind:
            case "hello":
                return "hello", self._hello(payload)
            case "episode_start":
                return self._start(payload)
            case "observation":
                return "action", await self._act(seq, payload)
            case "episode_end":
                self.service.sessions.end(self)
                self.refused = None
                return None
            case "error":
                return None  # the client's own; there is nothing to answer
            case _:
                raise malformed(f"there is no message of the type {kind[:40]!r}")

    def _hello(self, payload: Mapping[str, object]) -> dict[str, object]:
        if payload.get("protocol_version") != VERSION:
            raise malformed(f"this server speaks vla-eval's protocol {VERSION}; use such a client")
        return {
            "harness_version": f"agentzoo ({PROTOCOL})",
            "protocol_version": VERSION,
            "model_server": self.model,
            "capabilities": {},
            "version": self.version.label,
            "sha256": self.version.policy.digest,
        }

    def _start(self, payload: Mapping[str, object]) -> None:
        self.service.sessions.end(self)  # whether or not another one begins
        given = payload.get("seed")
        seed = given if type(given) is int else self.version.policy.seed + self.episodes
        session = self.service.begin(self, self.model, seed % SEEDS)
        self.version, self.refused = session.version, None
        self.episodes += 1

    async def _act(self, seq: int, payload: Mapping[str, object]) -> dict[str, object]:
        if seq <= self.last_seq:
            raise malformed(f"seq {seq} was answered already; count it up")
        self.last_seq = seq
        if self.refused is not None:
            raise ServingError(f"the episode did not start: {self.refused}", self.refused.reason)
        session = self.service.sessions.find(self)
        spec = session.version.policy.spec
        obs = await decoding.observations(spec.obs, observation(spec, payload))
        action = await self.service.act(session, cast("dict[str, Array]", obs))
        return {"actions": action.astype("float32"), "policy_version": session.version.label}

    async def _send(self, kind: str, payload: dict[str, object], seq: int) -> None:
        message = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
        await self.channel.send(pack(message, PROTOCOL))


def observation(spec: PolicySpec, payload: Mapping[str, object]) -> dict[str, object]:
    """The part of a harness' observation that the policy reads; the rest is not looked at.

    A key stands in the payload itself, or in its `images` by the camera's name; a policy with one
    image takes the only camera, whatever it is called.
    """
    images = payload.get("images")
    cameras = cast("dict[str, object]", images) if isinstance(images, dict) else {}
    given = {**cameras, **payload}
    lone = [key for key, one in spec.obs.items() if one.kind == "image" and key not in given]
    if len(lone) == 1 and len(cameras) == 1:
        given[lone[0]] = next(iter(cameras.values()))
    return {key: given[key] for key in spec.obs if key in given}


def _message(value: object) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise malformed("a message is a map with type, payload and seq")
    return cast("Mapping[object, object]", value)


def _head(message: Mapping[object, object]) -> tuple[str, int]:
    """Type and number; a number that is none is 0 where there is nothing to answer."""
    kind, seq = message.get("type"), message.get("seq", 0)
    if not isinstance(kind, str):
        raise malformed("a message has a type that is a text and a payload that is a map")
    if type(seq) is not int or seq < 0:
        if kind in SILENT:
            return kind, 0
        raise malformed("a message's seq is a whole number")
    return kind, seq


def _payload(message: Mapping[object, object]) -> dict[str, object]:
    payload = message.get("payload")
    if not isinstance(payload, dict):
        raise malformed("a message has a type that is a text and a payload that is a map")
    return cast("dict[str, object]", payload)
