"""Bare clients of the three protocols, which send whatever a test wants."""

import http.client
import json
from contextlib import ExitStack
from typing import Any

import numpy as np
from websockets.sync.client import connect

from agentzoo.runtime.client.msgpack_arrays import pack, unpack


class Wire:
    """One websocket."""

    def __init__(self, url: str, **headers: str) -> None:
        self.stack = ExitStack()
        opened = connect(
            url, compression=None, max_size=None, additional_headers=headers, close_timeout=0.5
        )
        self.socket = self.stack.enter_context(opened)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.stack.close()

    def send(self, content: bytes | str) -> None:
        self.socket.send(content)

    def receive(self) -> Any:
        """A message; the text of a refusal."""
        found = self.socket.recv(30)
        return found if isinstance(found, str) else unpack(found)

    def closed(self) -> int:
        """The code the server closes it with."""
        while True:
            try:
                self.socket.recv(30)
            except Exception:
                assert self.socket.protocol.close_code is not None
                return self.socket.protocol.close_code


class Openpi(Wire):
    """A client of openpi's protocol."""

    def __init__(self, url: str, **headers: str) -> None:
        super().__init__(url, **headers)
        self.metadata = self.receive()

    def ask(self, observation: Any = None, **keys: Any) -> Any:
        message = {} if observation is None else {"observation": np.asarray(observation)}
        self.send(pack({**message, **keys}, "openpi"))
        return self.receive()

    def act(self, observation: Any, **keys: Any) -> np.ndarray:
        reply = self.ask(observation, **keys)
        assert not isinstance(reply, str), reply
        return reply["actions"][0]


class Vla(Wire):
    """A client of vla-eval's protocol."""

    def __init__(self, url: str, **headers: str) -> None:
        super().__init__(f"{url}/vla", **headers)
        self.seq = 0
        self.hello = self.ask("hello", {"harness_version": "0", "protocol_version": 1})

    def tell(self, kind: str, payload: Any, seq: int | None = None) -> None:
        self.seq = self.seq + 1 if seq is None else seq
        message = {"type": kind, "payload": payload, "seq": self.seq, "timestamp": 0.0}
        self.send(pack(message, "vla-eval"))

    def ask(self, kind: str, payload: Any, seq: int | None = None) -> Any:
        self.tell(kind, payload, seq)
        reply = self.receive()
        assert reply["seq"] == self.seq
        return reply

    def act(self, observation: Any) -> np.ndarray:
        reply = self.ask("observation", {"observation": np.asarray(observation)})
        assert reply["type"] == "action", reply
        return reply["payload"]["actions"]


class Rest:
    """A client of REST, one connection."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, parsed JSON or bytes, headers."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request(method, path, content, headers or {})
        response = self.connection.getresponse()
        raw, found = response.read(), dict(response.getheaders())
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        return response.status, json.loads(raw) if is_json else raw, found

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.call("GET", path, headers=headers)[:2]

    def infer(self, inputs: dict[str, Any], model: str = "a", **parameters: Any) -> Any:
        """Status and body of a request in JSON."""
        return self.infer_headers(inputs, model, **parameters)[:2]

    def infer_headers(self, inputs: dict[str, Any], model: str = "a", **parameters: Any) -> Any:
        tensors = [tensor(name, np.asarray(value)) for name, value in inputs.items()]
        body = {"inputs": tensors, "parameters": parameters}
        return self.call("POST", f"/v2/models/{model}/infer", body)

    def act(self, observation: Any, sequence_id: int | str, **parameters: Any) -> np.ndarray:
        inputs = {"observation": np.asarray([observation], np.float32)}
        status, body = self.infer(inputs, sequence_id=sequence_id, **parameters)
        assert status == 200, body
        return outputs(body)["action"][0]


DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint8": "UINT8",
             "bool": "BOOL"}  # fmt: skip
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def tensor(name: str, array: np.ndarray) -> dict[str, Any]:
    datatype, data = DATATYPES[str(array.dtype)], array.ravel().tolist()
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": data}


def outputs(body: Any) -> dict[str, np.ndarray]:
    return {
        one["name"]: np.array(one["data"], DTYPES[one["datatype"]]).reshape(one["shape"])
        for one in body["outputs"]
    }
