"""openpi's protocol: the server speaks first, then one observation, one action, and so on.

Its clients know no episodes: `reset` sends nothing. So an observation may carry `is_first`, and
some more keys of ours; without any, a connection is one session that never ends.

Source: openpi-client 0.1.2, websocket_client_policy.py and msgpack_numpy.py.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

import numpy as np

from ..client.msgpack_arrays import decoded, is_array, malformed, pack
from ..errors import ServingError
from ..policy.policy import PolicyState
from ..spec import Array
from . import decoding
from .client_state import check_policy, read_state
from .error_codes import refusal_of
from .message_limits import item_limit
from .models import Version
from .reserved_keys import IGNORED, OPENPI
from .service import Service
from .sessions import Session
from .transport import Call
from .websocket import Channel

PROTOCOL = "openpi"
CONTROLS = frozenset(OPENPI) - {"carried"}
SESSION_ID = 128  # letters of one


async def serve(service: Service, call: Call) -> None:
    """Serve one connection until it closes.

    Raises:
        ServingError: if there is nothing to connect to; before the handshake.
    """
    version = service.current(call.named.get("model", ""))
    connection = _Connection(service, version)
    channel = connection.channel
    try:
        await channel.open(call)
        await channel.send(pack(metadata(version), PROTOCOL))
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


def metadata(version: Version) -> dict[str, object]:
    """The first message to a client: enough to check its spaces, and the whole spec for ours."""
    spec = version.policy.spec
    return {
        "protocol": PROTOCOL,
        "recurrent": True,
        "reset_key": "is_first",
        "model_id": version.model,
        "version": version.label,
        "revision": version.revision,
        "sha256": version.policy.digest,
        "observation_space": {key: asdict(one) for key, one in spec.obs.items()},
        "action_space": asdict(spec.action),
        "spec": spec.to_json(),
    }


class _Connection:
    """One client's sessions; usually a single one, called ""."""

    def __init__(self, service: Service, version: Version) -> None:
        self.service, self.version = service, version
        self.channel = Channel(service, PROTOCOL, version, service.message_limit(version, PROTOCOL))
        self.has_begun = False
        self.items = item_limit(version.policy.spec, service.settings.max_rows)

    async def answer(self) -> bool:
        """Answer one message; False once the connection is over."""
        version, metrics, seq = self.version, self.service.metrics, None
        try:
            content = await self.channel.receive()
            if content is None:
                return False
            message = _message(await decoding.message(content, self.items))
            seq = _whole(message, "seq")
            if "carried" not in message:
                self.service.check_step(version, PROTOCOL, len(content))
            reply = await self._reply(message)
        except Exception as error:
            refusal = refusal_of(error)
            metrics.request(PROTOCOL, version, "refused", refusal.reason)
            await self.channel.send(_refusal(refusal, seq))
            return not await self.channel.refuse(refusal)
        metrics.request(PROTOCOL, version)
        self.channel.steps += 1
        numbered = reply if seq is None else {**reply, "seq": seq}
        await self.channel.send(pack(numbered, PROTOCOL))
        return True

    async def _reply(self, message: dict[str, object]) -> dict[str, object]:
        timeout_s = _number(message, "timeout_s")
        mode, seed = message.pop("deterministic", None), _whole(message, "seed")
        if "carried" in message:
            return await self._predict(message, mode, seed, timeout_s)
        name, step = _session_id(message), _whole(message, "step") or 0
        is_first = _flag(message, "is_first")
        is_last = _flag(message, "is_last")
        if mode is not None and not isinstance(mode, bool):
            raise malformed("deterministic is neither true nor false")
        session = self._session(key := (self, name), is_first)
        if seed is not None and not (is_first or session.is_first):
            raise malformed('a seed begins an episode: send "is_first" with it')
        action = await self.service.act(
            session,
            cast("dict[str, Array]", await self._observations(session.version, message)),
            is_first=is_first,
            deterministic=mode,
            seed=seed,
            step=step,
            timeout_s=timeout_s,
        )
        if is_last:
            self.service.sessions.end(key)
            self.channel.keys.discard(key)
        return {"actions": action[None], **_whose(session.version)}

    async def _observations(self, version: Version, message: dict[str, object]) -> object:
        return await decoding.observations(version.policy.spec.obs, message)

    def _session(self, key: tuple[object, str], is_first: bool) -> Session:
        """The session a message belongs to."""
        # the connection's own session begins by itself, once; a named one has to say so
        is_new = not key[1] and not self.has_begun
        if is_new or (is_first and not self.service.sessions.has(key)):
            session = self.service.begin(key, self.version.model)
            self.channel.keys.add(key)
            self.has_begun |= not key[1]
            return session
        return self.service.sessions.find(key)

    async def _predict(
        self,
        message: dict[str, object],
        mode: object,
        seed: int | None,
        timeout_s: float | None,
    ) -> dict[str, object]:
        version = self.service.current(self.version.model)
        given, first = message.pop("carried"), message.pop("is_first", None)
        with version.kept():
            actions, state = await self.service.predict(
                version,
                cast("dict[str, Array]", await self._observations(version, message)),
                state=None if given is None else _carried(version, given),
                is_first=_flags("is_first", first),
                deterministic=_flags("deterministic", mode),
                seed=seed,
                timeout_s=timeout_s,
            )
        digest = version.policy.digest
        carried = {"carry": state.carry, "address": state.address, "policy": digest}
        return {"actions": actions, "carried": carried, **_whose(version)}


def _whose(version: Version) -> dict[str, object]:
    """Label and digest of the policy that a reply is of."""
    return {"policy_version": version.label, "sha256": version.policy.digest}


def _refusal(error: ServingError, seq: int | None) -> bytes | str:
    """A text, as openpi's clients expect, or a map for one that numbers its requests."""
    if seq is None:
        return f"{error.reason}: {error}"
    return pack({"error": str(error), "reason": error.reason, "seq": seq}, PROTOCOL)


def _message(value: object) -> dict[str, object]:
    if not isinstance(value, dict) or not all(
        isinstance(key, str) for key in cast("Mapping[object, object]", value)
    ):
        raise malformed("a message is a map from names to values; send the observation's keys")
    return {
        name: decoded(one) if name in CONTROLS else one
        for name, one in cast("dict[str, object]", value).items()
        if name not in IGNORED
    }


def _flag(message: dict[str, object], name: str) -> bool:
    value = message.pop(name, False)
    if is_array(value) and value.dtype == np.bool_ and value.size == 1:
        return bool(value.item())
    if not isinstance(value, bool):
        raise malformed(f"{name} is neither true nor false")
    return value


def _flags(name: str, value: object) -> Array | None:
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise malformed(f"{name} is not one truth value for each batch element") from error
    if array.dtype != np.bool_ or array.ndim > 1:
        raise malformed(f"{name} is not one truth value for each batch element")
    return array


def _whole(message: dict[str, object], name: str) -> int | None:
    value = message.pop(name, None)
    if value is not None and type(value) is not int:
        raise malformed(f"{name} is not a whole number")
    return value


def _number(message: dict[str, object], name: str) -> float | None:
    value = message.pop(name, None)
    if value is None:
        return None
    if type(value) not in (int, float) or not cast(float, value) > 0:
        raise malformed(f"{name} is not a positive number")
    return float(cast(float, value))


def _session_id(message: dict[str, object]) -> str:
    value = message.pop("session_id", "")
    if not isinstance(value, str) or len(value) > SESSION_ID:
        raise malformed(f"session_id is not a text of at most {SESSION_ID} letters")
    return value


def _carried(version: Version, given: object) -> PolicyState:
    entries = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    if entries.keys() != {"carry", "address", "policy"} or not isinstance(entries["carry"], dict):
        raise malformed("the state is not what the reply before gave; send it back as it was")
    check_policy(entries["policy"], version.policy.digest)
    carry = cast("dict[str, object]", entries["carry"])
    parts = {name: decoded(one) for name, one in carry.items()}
    return read_state(version.policy.spec, parts, decoded(entries["address"]))
