"""A look inside an ONNX file before anything opens it, without the onnx package.

An ONNX file can name other files to read and operators of libraries to load. This walks the
protobuf wire format of the messages that can hold such things and refuses them; all else (weights,
names, shapes) is skipped unread. Every occurrence of a field is looked at, so that a message split
in parts, which protobuf parsers merge, hides nothing.

Source: field numbers from onnx/onnx/onnx.proto; wire format from the encoding page of protobuf.dev.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import BundleError

DOMAINS = ("", "ai.onnx")  # two names of the default operator set
ORT = b"ORTM"  # at byte 4 of a file in ONNX Runtime's own format; it is sniffed out by that
DEPTH = 32  # of messages in messages; a graph of ours has 6
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which ONNX lacks

Value = int | memoryview
Check = Callable[[Value], None]


class Message(NamedTuple):
    """The treatment of a message's fields: numbers of the text, checked and nested ones."""

    nested: dict[int, str]  # number -> name of the message in MESSAGES
    checks: dict[int, Check]  # number -> refuses bad values


def check_onnx(content: bytes | memoryview, file: str, opset: int | None = None) -> None:
    """Refuse a graph that reaches outside of itself or tells where it was made.

    Args:
        content: the ONNX file; a view of a mapped one is read without loading it.
        file: its name, for messages.
        opset: the default operator set's version that it has to import; None takes any.

    Raises:
        BundleError: if it is malformed or in ONNX Runtime's own format, imports another operator
            set, keeps tensors in other files, uses operators beyond the
            default domain, defines functions, trains, or carries doc strings or metadata (exporters
            leave local paths there).
    """
    if not content:
        raise BundleError(f"{file} is empty; export the policy again")
    data = memoryview(content)
    if bytes(data[4:8]) == ORT:  # can be laid out so that it reads as harmless protobuf as well
        raise BundleError(
            f"{file} is in ONNX Runtime's own format, which is not looked into; export the policy "
            "again"
        )
    try:
        _walk(data, "Model", DEPTH)
        if opset is not None:
            _check_opset(data, opset)
    except BundleError as error:
        raise BundleError(f"{file} {error}") from None


def _check_opset(data: memoryview, opset: int) -> None:
    imports = [dict(_fields(_bytes(value))) for number, value in _fields(data) if number == 8]
    found = sorted({str(one.get(2, 0)) for one in imports})
    if found != [str(opset)]:
        raise BundleError(
            f"imports the operator set {', '.join(found) or 'none'}, the manifest says {opset}; "
            "export the policy again"
        )


def _walk(data: memoryview, kind: str, depth: int) -> None:
    if depth == 0:
        raise BundleError(f"nests messages deeper than {DEPTH}, which no exporter does")
    message = MESSAGES[kind]
    for number, value in _fields(data):
        if check := message.checks.get(number):
            check(value)
        if nested := message.nested.get(number):
            _walk(_bytes(value), nested, depth - 1)


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag >> 32:  # parsers that keep 32 bits would read another field than we do
            raise BundleError("holds a field number that is too large, so it is not an ONNX file")
        wire = tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        size, at = _size(data, at, wire)
        if at + size > len(data):
            raise BundleError("ends in the middle of a field; it is damaged: fetch it again")
        yield tag >> 3, data[at : at + size]
        at += size


def _size(data: memoryview, at: int, wire: int) -> tuple[int, int]:
    if wire == BYTES:
        return _varint(data, at)
    if wire in (FIXED64, FIXED32):
        return (8 if wire == FIXED64 else 4), at
    raise BundleError(f"holds the wire type {wire}, so it is not an ONNX file")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # 64 bits take at most 10 bytes
        if at >= len(data):
            raise BundleError("ends in the middle of a number; it is damaged: fetch it again")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise BundleError("holds a number longer than 64 bits, so it is not an ONNX file")


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise BundleError("holds a number in place of a message, so it is not an ONNX file")
    return value


def _check_domain(value: Value) -> None:
    domain = bytes(_bytes(value)).decode("utf-8", "replace")
    if domain not in DOMAINS:
        raise BundleError(
            f'uses operators of the domain "{domain[:80]}", which need code from elsewhere; '
            "only the default ONNX domain is run"
        )


def _refuse(what: str) -> Check:
    def check(value: Value) -> None:
        del value
        raise BundleError(f"{what}; export the policy again")

    return check


def _check_text(value: Value) -> None:
    if len(_bytes(value)):
        raise BundleError(
            "carries a doc string or metadata, where exporters leave local paths; "
            "export the policy again"
        )


def _check_location(value: Value) -> None:
    if value != 0:  # DEFAULT; 1 is EXTERNAL
        _EXTERNAL(value)


_EXTERNAL = _refuse("keeps tensors in other files, and a policy's graph has to be whole")
_FUNCTIONS = _refuse("defines functions of its own, and a policy's graph has to be plain")
_TRAINING = _refuse("carries a training graph, and a policy's graph only acts")

MESSAGES = {
    "Model": Message(
        {7: "Graph", 8: "OperatorSet"},
        {6: _check_text, 14: _check_text, 20: _TRAINING, 25: _FUNCTIONS},
    ),
    "OperatorSet": Message({}, {1: _check_domain}),
    "Graph": Message(
        {1: "Node", 5: "Tensor", 11: "ValueInfo", 12: "ValueInfo", 13: "ValueInfo", 15: "Sparse"},
        {10: _check_text, 16: _check_text},
    ),
    "Node": Message({5: "Attribute"}, {6: _check_text, 7: _check_domain, 9: _check_text}),
    "Attribute": Message(
        {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
        {13: _check_text},
    ),
    "Tensor": Message({}, {12: _check_text, 13: _EXTERNAL, 14: _check_location, 16: _check_text}),
    "Sparse": Message({1: "Tensor", 2: "Tensor"}, {}),
    "ValueInfo": Message({}, {3: _check_text, 4: _check_text}),
}
