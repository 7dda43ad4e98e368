"""The Open Inference Protocol, version 2, over REST, with Triton's binary and sequence extensions.

A request of a sequence is a session's step; one without carries its state itself, as `state_in_*`
and `noise_address`, and gets the next one back as `state_out_*` and `noise_address`. Among them,
`state_out_policy` is the sha256 of the policy whose state it is, as bytes.

Source: kserve/open-inference-protocol specification/protocol/inference_rest.md; Triton Inference
Server, docs/protocol/extension_binary_data.md and extension_sequence.md.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..client.msgpack_arrays import SMALL, is_shape, malformed
from ..errors import ServingError
from ..policy.onnx_session import Port, graph_specs
from ..policy.policy import PolicyState
from ..spec import Array, Arrays, PolicySpec
from . import json_in_parts
from .client_state import check_policy, read_state
from .models import Model, Version
from .reserved_keys import ADDRESS, STATES, WHOSE
from .service import Service

PROTOCOL = "v2"
EXTENSIONS = ("binary_tensor_data", "sequence", "sequence(string_id)", "model_repository")
HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES = {
    "BOOL": "bool",
    **{f"UINT{8 * n}": f"uint{8 * n}" for n in (1, 2, 4, 8)},
    **{f"INT{8 * n}": f"int{8 * n}" for n in (1, 2, 4, 8)},
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
DATATYPE_OF = {dtype: datatype for datatype, dtype in DATATYPES.items()}
DIGEST = 32  # bytes of a sha256
ID = 128  # letters of a request's or a sequence's id
MICROSECONDS = 1e6
NAMES = 4096  # in a request; a hundred inputs have six each
LONGEST = 1 << 62  # microseconds; a float holds no number of 400 digits

Json = dict[str, object]


# -- metadata ------------------------------------------------------------------------------------


def server_metadata(name: str, version: str) -> Json:
    """GET /v2."""
    return {"name": name, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(model: Model, version: Version) -> Json:
    """GET /v2/models/NAME; `parameters` is ours."""
    spec = version.policy.spec
    inputs, outputs = _ports(spec)
    return {
        "name": version.model,
        "versions": [one.label for one in model.versions],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor_metadata(*one) for one in inputs.items()],
        "outputs": [_tensor_metadata(*one) for one in outputs.items()],
        "parameters": {
            "sha256": version.policy.digest,
            "revision": version.revision,
            "spec": spec.to_json(),
        },
    }


def _tensor_metadata(name: str, tensor: tuple[tuple[int, ...], str]) -> Json:
    shape, dtype = tensor
    return {"name": name, "datatype": DATATYPE_OF[dtype], "shape": [-1, *shape]}


Tensors = dict[str, tuple[tuple[int, ...], str]]  # name -> shape without batch axis, dtype


def _ports(spec: PolicySpec) -> tuple[Tensors, Tensors]:
    graph = next(iter(graph_specs(spec).values()))
    obs: Tensors = {}
    for key, one in spec.obs.items():
        obs[key] = (one.source, "int64" if one.kind == "onehot" else one.dtype)
    flags: Tensors = {"is_first": ((), "bool"), "deterministic": ((), "bool")}
    address: Tensors = {ADDRESS: ((3,), "int64")}
    action: Tensors = {"action": (spec.action.shape, spec.action.dtype)}
    states = [
        {WHOSE[side]: ((DIGEST,), "uint8")} | _carry(ports)
        for side, ports in (("inputs", graph.inputs), ("outputs", graph.outputs))
    ]
    return obs | flags | address | states[0], action | address | states[1]


def _carry(ports: Mapping[str, Port]) -> Tensors:
    return {name: (one.shape, one.dtype) for name, one in ports.items() if one.role == "carry"}


# -- requests ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Request:
    """An inference request, read.

    Attributes:
        id: echoed in the response.
        parameters: of the request.
        inputs: by name.
        outputs: name -> whether it is wanted in binary; None if the request names none.
        is_binary: whether outputs are binary where the request does not say.
        size: bytes of the body.
    """

    id: str
    parameters: Json
    inputs: Arrays
    outputs: Mapping[str, bool] | None
    is_binary: bool
    size: int


def read_request(body: bytes, header_length: str | None, limits: tuple[int, int]) -> Request:
    """An inference request from its body.

    Args:
        body: JSON, or JSON followed by raw tensors.
        header_length: bytes of JSON, where raw tensors follow.
        limits: lists and objects that the JSON may hold, and values in them.

    Raises:
        ServingError: "malformed".
    """
    size = _size(header_length, len(body))
    head = body[:size]
    _check_counts(head, *limits)
    value = _json(head)
    known = {"id", "parameters", "inputs", "outputs"}
    if value.keys() - known:
        raise malformed(f"the request has the field {min(value.keys() - known)[:40]!r}")
    parameters = _object(value.get("parameters", {}), "parameters")
    is_binary = _truth(parameters, "binary_data_output")
    return Request(
        id=_id(value.get("id", ""), "the id"),
        parameters=parameters,
        inputs=_inputs(value.get("inputs"), body[size:]),
        outputs=_outputs(value["outputs"], is_binary) if "outputs" in value else None,
        is_binary=is_binary,
        size=len(body),
    )


def _check_counts(head: bytes, lists: int, values: int) -> None:
    """Look at JSON before it is read, which nothing else can do meanwhile."""
    if head.count(b"[") + head.count(b"{") > lists:
        raise malformed("the request holds too many lists; send each input's data as one")
    if head.count(b",") > values + lists:
        raise malformed("the request holds too many values; send what the policy reads")
    if head.count(b":") > NAMES:
        raise malformed("the request holds too many names; send what the policy reads")


def _size(header_length: str | None, total: int) -> int:
    if header_length is None:
        return total
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
        raise malformed(f"{HEADER_LENGTH} is {header_length[:40]!r}, expected a number of bytes")
    if (size := int(header_length)) > total:
        raise malformed(f"{HEADER_LENGTH} is {size}, but the body has {total} bytes")
    return size


def _json(content: bytes) -> Json:
    loads = json.loads if len(content) <= SMALL else json_in_parts.loads
    try:
        return _object(loads(content.decode()), "the request")
    except (ValueError, RecursionError) as error:
        raise malformed(f"the request is not JSON ({str(error)[:80]})") from error


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise malformed(f"{what} is no object")
    return cast(Json, value)


def _objects(value: object, what: str) -> Iterable[Json]:
    if not isinstance(value, list):
        raise malformed(f"{what} is no list")
    return [_object(one, f"an entry of {what}") for one in cast("list[object]", value)]


def _id(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > ID:
        raise malformed(f"{what} is not a text of at most {ID} letters")
    return value


def _truth(parameters: Json, name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise malformed(f"the parameter {name} is neither true nor false")
    return value


def _outputs(value: object, is_binary: bool) -> dict[str, bool]:
    wanted: dict[str, bool] = {}
    for one in _objects(value, "outputs"):
        parameters = _object(one.get("parameters", {}), "parameters")
        _check_parameters(parameters)
        name = _id(one.get("name"), "an output's name")
        wanted[name] = _truth(parameters, "binary_data", default=is_binary)
    return wanted


def _inputs(value: object, raw: bytes) -> Arrays:
    arrays: Arrays = {}
    at = 0
    for one in _objects(value, "inputs"):
        name = _id(one.get("name"), "an input's name")
        if name in arrays:
            raise malformed(f"the input {name[:40]!r} is there twice")
        shape, dtype = _shape(name, one.get("shape")), _dtype(name, one.get("datatype"))
        parameters = _object(one.get("parameters", {}), "parameters")
        _check_parameters(parameters)
        size = parameters.get("binary_data_size")
        if size is None:
            arrays[name] = _from_json(name, one.get("data"), shape, dtype)
        else:
            expected = math.prod(shape) * dtype.itemsize
            if size != expected or "data" in one or at + expected > len(raw):
                raise malformed(
                    f"the input {name} has {expected} bytes by its shape, {size} by its "
                    f"binary_data_size, and {len(raw) - at} are left of the body"
                )
            arrays[name] = _from_bytes(raw[at : at + expected], shape, dtype)
            at += expected
    if at != len(raw):
        raise malformed(f"{len(raw) - at} bytes are left behind the last input")
    return arrays


def _check_parameters(parameters: Json) -> None:
    """Refuse what would change the answer and is not there."""
    for name in ("classification", "shared_memory_region"):
        if name in parameters:
            raise malformed(f"the parameter {name} is not there; leave it out")


def _shape(name: str, value: object) -> tuple[int, ...]:
    sizes = cast("list[object]", value) if isinstance(value, list) else [None]
    if not is_shape(sizes):
        raise malformed(f"the input {name} has no shape that is a list of whole numbers")
    return tuple(cast("list[int]", sizes))


def _dtype(name: str, datatype: object) -> "np.dtype[Any]":
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise malformed(
            f"the input {name} has the datatype {str(datatype)[:40]!r}, expected one of "
            f"{', '.join(DATATYPES)}"
        )
    return np.dtype(DATATYPES[datatype])


def _from_bytes(raw: bytes, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Array:
    return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape).astype(dtype)


def _from_json(name: str, data: object, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Array:
    try:
        found = json_in_parts.as_array(data)
    except (ValueError, OverflowError) as error:
        raise malformed(f"the input {name} has data that are no array") from error
    if found.size == 0:
        found = found.astype(dtype) if found.dtype.kind in "fiub" else found
    accepted = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if found.dtype.kind not in accepted or found.size != math.prod(shape):
        raise malformed(f"the input {name} has data that are not {dtype} of shape {shape}")
    with np.errstate(over="ignore"):
        cast_to = found.astype(dtype)
    if dtype.kind in "iu" and (cast_to != found).any():
        raise malformed(f"the input {name} has numbers that do not fit {dtype}")
    return cast_to.reshape(shape)


# -- answers -------------------------------------------------------------------------------------


async def infer(
    service: Service, model: str, version: str, request: Request, caller: bytes
) -> tuple[bytes, int | None, Version]:
    """Answer an inference request.

    Args:
        service: what computes.
        model: its name.
        version: its version; "" for the current, or the one a sequence began with.
        request: the request.
        caller: whose sequences are meant.

    Returns:
        The body, the length of its JSON where raw tensors follow, and the version that answered.

    Raises:
        ServingError: if it is refused.
        ObservationError: if an observation is not what the policy reads.
    """
    sequence = _sequence(request.parameters)
    timeout_s = _timeout(request.parameters)
    if sequence is None:
        found, outputs = await _stateless(service, model, version, request, timeout_s)
    else:
        key = (model, sequence, caller)
        found, outputs = await _step(service, key, version, request, timeout_s)
    body, length = _respond(found, request, outputs)
    return body, length, found


async def _stateless(
    service: Service, model: str, version: str, request: Request, timeout_s: float | None
) -> tuple[Version, Arrays]:
    found = service.current(model)
    _check_version(found, version)
    spec = found.policy.spec
    obs, flags = _split(spec, request.inputs)
    actions, state = await service.predict(
        found,
        obs,
        state=_state(found, request.inputs),
        is_first=flags.get("is_first"),
        deterministic=flags.get("deterministic"),
        seed=_seed(request.parameters),
        timeout_s=timeout_s,
    )
    names = _carry_names(spec, "outputs")
    carried = {name: state.carry[key] for name, key in names.items()}
    whose = np.frombuffer(bytes.fromhex(found.policy.digest), np.uint8)
    carried[WHOSE["outputs"]] = np.tile(whose, (len(state), 1))
    return found, {"action": actions, ADDRESS: state.address, **carried}


async def _step(
    service: Service,
    key: tuple[str, str | int, bytes],
    version: str,
    request: Request,
    timeout_s: float | None,
) -> tuple[Version, Arrays]:
    start, end = (_truth(request.parameters, f"sequence_{one}") for one in ("start", "end"))
    found = service.current(key[0]) if start else service.sessions.find(key).version
    _check_version(found, version)
    service.check_step(found, PROTOCOL, request.size)
    obs, flags = _split(found.policy.spec, request.inputs)
    if any(name.startswith(STATES) or name == ADDRESS for name in request.inputs):
        raise malformed("a sequence's state is the server's; leave state_in_* and its address out")
    obs = _single(obs)
    is_first, mode = bool(_one(flags, "is_first")), _one(flags, "deterministic")
    _check_outputs(request, ("action",))
    if start:
        service.begin(key, key[0], _seed(request.parameters))
    session = service.sessions.find(key)
    try:
        action = await service.act(
            session, obs, is_first=is_first, deterministic=mode, timeout_s=timeout_s
        )
    except Exception:
        if start:
            service.sessions.end(key)
        raise
    if end:
        service.sessions.end(key)
    return session.version, {"action": action[None]}


def _check_version(found: Version, asked: str) -> None:
    if asked and asked != found.label:
        raise ServingError(
            f"{found.model} is served in version {found.label}, not {asked[:20]}; leave the "
            "version out, or start a new sequence",
            "unknown",
        )


def _split(spec: PolicySpec, inputs: Arrays) -> tuple[Arrays, Arrays]:
    """Observations, and the two flags, of a request's inputs."""
    flags = {name: inputs[name] for name in ("is_first", "deterministic") if name in inputs}
    for name, array in flags.items():
        if array.dtype != np.bool_ or array.ndim != 1:
            raise malformed(f"the input {name} is not BOOL of shape (batch,)")
    carried = (ADDRESS, WHOSE["inputs"], *_carry_names(spec, "inputs"))
    obs = {name: a for name, a in inputs.items() if name not in flags and name not in carried}
    return obs, flags


def _single(obs: Arrays) -> Arrays:
    if any(array.shape[:1] != (1,) for array in obs.values()):
        raise malformed("a sequence's request has exactly one batch element: shapes begin with 1")
    return {name: array[0] for name, array in obs.items()}


def _one(flags: Arrays, name: str) -> bool | None:
    if name not in flags:
        return None
    if flags[name].shape != (1,):
        raise malformed(f"the input {name} has shape {flags[name].shape}, expected (1,)")
    return bool(flags[name][0])


def _state(version: Version, inputs: Arrays) -> PolicyState | None:
    spec = version.policy.spec
    names = _carry_names(spec, "inputs")
    if not {ADDRESS, WHOSE["inputs"], *names} & inputs.keys():
        return None
    check_policy(_digest(inputs.get(WHOSE["inputs"])), version.policy.digest)
    carry = {key: inputs.get(name) for name, key in names.items()}
    return read_state(spec, carry, inputs.get(ADDRESS))


def _digest(named: Array | None) -> str:
    """The sha256 that all batch elements name; "" if they name none, or several."""
    if named is None or named.dtype != np.uint8 or named.ndim != 2 or named.shape[1] != DIGEST:
        return ""
    return named[0].tobytes().hex() if len(named) and (named == named[0]).all() else ""


def _carry_names(spec: PolicySpec, side: str) -> dict[str, str]:
    """Tensor name -> carry name."""
    graph = next(iter(graph_specs(spec).values()))
    ports = graph.inputs if side == "inputs" else graph.outputs
    return {name: one.key for name, one in ports.items() if one.role == "carry"}


def _sequence(parameters: Json) -> str | int | None:
    value = parameters.get("sequence_id", 0)
    if type(value) is int and 0 <= value < 1 << 64:
        return value or None
    return _id(value, "the sequence_id, if not a uint64,") or None


def is_of_sequence(request: Request) -> bool:
    """Whether a request is a session's step.

    Raises:
        ServingError: "malformed".
    """
    return _sequence(request.parameters) is not None


def starts(request: Request) -> bool:
    """Whether a request begins its sequence.

    Raises:
        ServingError: "malformed".
    """
    return _truth(request.parameters, "sequence_start")


def _seed(parameters: Json) -> int | None:
    value = parameters.get("seed")
    if value is not None and type(value) is not int:
        raise malformed("the parameter seed is not a whole number")
    return value


def _timeout(parameters: Json) -> float | None:
    value = parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or value <= 0:
        raise malformed("the parameter timeout is not a number of microseconds")
    return min(value, LONGEST) / MICROSECONDS


def _check_outputs(request: Request, known: Collection[str]) -> None:
    """Refuse what is not given; before the step, whose state would go on unseen."""
    if missing := (request.outputs or {}).keys() - set(known):
        raise malformed(f"there is no output {min(missing)[:40]!r}; have {', '.join(known)}")


def _respond(version: Version, request: Request, outputs: Arrays) -> tuple[bytes, int | None]:
    wanted = request.outputs or dict.fromkeys(outputs, request.is_binary)
    _check_outputs(request, outputs)
    raw: list[bytes] = []
    described: list[Json] = []
    for name, is_binary in wanted.items():
        array = outputs[name]
        tensor: Json = {
            "name": name,
            "datatype": DATATYPE_OF[str(array.dtype)],
            "shape": list(array.shape),
        }
        if is_binary:
            raw.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            tensor["data"] = array.ravel().tolist()
        described.append(tensor)
    header: Json = {"model_name": version.model, "model_version": version.label}
    if request.id:
        header["id"] = request.id
    text = json.dumps({**header, "outputs": described}, allow_nan=False).encode()
    return b"".join([text, *raw]), len(text) if raw else None
