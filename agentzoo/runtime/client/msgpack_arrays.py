"""Arrays in msgpack, as openpi and vla-eval write them, read without trusting the sender.

Both put an array as a map with a marker, the raw bytes, a dtype and a shape; openpi's keys are
msgpack `bin`, vla-eval's `str`. A dtype is looked up in a list and never parsed: numpy reads some
of them as pointers.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeGuard, cast

import numpy as np

from ..errors import MissingExtraError, ServingError
from ..spec import Array

try:
    import msgpack  # pyright: ignore[reportMissingTypeStubs]
    from PIL import Image, UnidentifiedImageError
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "msgpack", "serve") from error

Flavour = Literal["openpi", "vla-eval"]

KINDS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
DTYPES = {  # every spelling that is accepted -> what it means
    **{np.dtype(kind).name: np.dtype(kind) for kind in KINDS},
    **{np.dtype(order + kind).str: np.dtype(order + kind) for kind in KINDS for order in "<>"},
}
NATIVE = {dtype: dtype.newbyteorder("=") for dtype in DTYPES.values()}
DIMENSIONS = 8  # of an array; no observation has more
IMAGE_FORMATS = ("PNG", "JPEG")
IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
IMAGE_ERRORS = (  # what damaged files bring about
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)
NUMBERS = 1 << 40  # in an array; more cannot be sent
SMALL = 1 << 15  # bytes of a message that are read at once, whatever is in them
WIDTHS = {  # msgpack's first byte -> bytes of the size, further bytes, entries for each of size
    **{0xC4 + i: (1 << i, 0, 0) for i in range(3)},  # bytes
    **{0xC7 + i: (1 << i, 1, 0) for i in range(3)},  # extensions, with their type
    0xCA: (0, 4, 0),
    0xCB: (0, 8, 0),
    **{0xCC + i: (0, 1 << i, 0) for i in range(4)},
    **{0xD0 + i: (0, 1 << i, 0) for i in range(4)},
    **{0xD4 + i: (0, (1 << i) + 1, 0) for i in range(5)},
    **{0xD9 + i: (1 << i, 0, 0) for i in range(3)},  # texts
    0xDC: (2, 0, 1),
    0xDD: (4, 0, 1),
    0xDE: (2, 0, 2),
    0xDF: (4, 0, 2),
}


def is_array(value: object) -> TypeGuard[Array]:
    """Whether a value is a numpy array."""
    return isinstance(value, np.ndarray)


def pack(value: object, flavour: Flavour) -> bytes:
    """A message; arrays as the client's codec expects them."""
    default = _openpi_array if flavour == "openpi" else _vla_array
    return cast(Any, msgpack).packb(value, default=default, use_bin_type=True)


def unpack(content: bytes) -> object:
    """A message of either flavour; arrays own their memory, in native byte order.

    Images are left as they came.

    Raises:
        ServingError: "malformed", if it is not msgpack, or an array in it is not what it says.
    """
    hook = cast("Callable[[Mapping[object, object]], object]", _decoded)
    return _unpacked(content, object_hook=hook)


def parse(content: bytes, items: int) -> object:
    """A message from somebody who is not trusted; arrays and images are left as they came.

    A byte may stand for a list, which takes sixty: so no more than `items` values are made.

    Raises:
        ServingError: "malformed", if it is not msgpack, or holds more than that.
    """
    if len(content) > SMALL:
        _check_items(content, items)
    return _unpacked(content, max_array_len=items, max_map_len=items)


def _unpacked(content: bytes, **options: object) -> object:
    try:
        return cast(Any, msgpack).unpackb(content, raw=False, **options)
    except ServingError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise malformed(f"the message is not msgpack that this server reads ({error})") from error


def _check_items(content: bytes, items: int) -> None:
    """Walk over a message without making anything of it.

    Source: msgpack spec.md, "Formats".
    """
    at, left, end = 0, 1, len(content)
    while left > 0 and at < end:
        first = content[at]
        at, left, items = at + 1, left - 1, items - 1
        if 0x80 <= first <= 0x9F:  # a small map or list
            left += (first & 15) * (2 if first < 0x90 else 1)
        elif 0xA0 <= first <= 0xBF:  # a short text
            at += first & 31
        elif first in WIDTHS:
            width, fixed, entries = WIDTHS[first]
            size = int.from_bytes(content[at : at + width], "big")
            at += width + fixed + (0 if entries else size)
            left += entries * size
        if left > items:
            raise malformed("the message holds too many lists and numbers; send arrays")


def malformed(message: str) -> ServingError:
    """A refusal of what was sent."""
    return ServingError(message[:500], "malformed")


def _openpi_array(value: object) -> object:
    if is_array(value):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    raise TypeError(f"a {type(value).__name__} has no place in a message")


def _vla_array(value: object) -> object:
    if is_array(value):
        return {
            "__ndarray__": True,
            "data": value.tobytes(),
            "dtype": value.dtype.str,
            "shape": list(value.shape),
        }
    raise TypeError(f"a {type(value).__name__} has no place in a message")


def _decoded(entries: Mapping[object, object]) -> object:
    get = entries.get
    if b"__ndarray__" in entries:
        return array_of(get(b"data"), get(b"dtype"), get(b"shape"))
    if "__ndarray__" in entries:
        return array_of(get("data"), get("dtype"), get("shape"))
    if b"__npgeneric__" in entries:
        return _number(get(b"data"), get(b"dtype"))
    return entries


def decoded(value: object, depth: int = DIMENSIONS) -> object:
    """A value that `parse` gave, with its arrays, also those in lists.

    Raises:
        ServingError: "malformed", if an array is not what it says.
    """
    if isinstance(value, dict):
        return _decoded(cast("Mapping[object, object]", value))
    if not isinstance(value, list):
        return value
    if depth == 0:
        raise malformed(f"a value is a list of lists, {DIMENSIONS} deep; send an array")
    return [decoded(one, depth - 1) for one in cast("list[object]", value)]


def is_image(value: object) -> bool:
    """Whether a value that `parse` gave is an image, still encoded."""
    return isinstance(value, dict) and "__image__" in value


def image_of(value: object, shape: tuple[int, ...]) -> Array:
    """An image that `parse` gave, if it is of the shape that is read.

    Args:
        value: what `is_image`.
        shape: (height, width, channels); nothing else is decoded.

    Raises:
        ServingError: "malformed", if it is of another shape or not an image.
    """
    entries = cast("Mapping[object, object]", value)
    given = _shape(entries.get("shape"))
    if given != shape:
        raise malformed(f"an image has the shape {given}, expected {shape}; send it so")
    return _image(entries.get("data"), entries.get("format"), given, entries.get("dtype"))


def array_of(data: object, dtype: object, shape: object) -> Array:
    """An array from its parts, each of which may be anything.

    Args:
        data: bytes in C order.
        dtype: numpy's name or string for bool, integers and floats of up to 8 bytes.
        shape: a list of whole numbers.

    Raises:
        ServingError: "malformed", if they do not fit each other.
    """
    if not isinstance(data, bytes):
        raise malformed("an array's data are not bytes")
    kind, sizes = _dtype(dtype), _shape(shape)
    if math.prod(sizes) * kind.itemsize != len(data):
        raise malformed(f"an array of shape {sizes} and type {kind} came with {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(sizes).astype(NATIVE[kind])


def _dtype(given: object) -> "np.dtype[Any]":
    if not isinstance(given, str) or given not in DTYPES:
        raise malformed(f"an array has the type {str(given)[:40]!r}; send bool, integers or floats")
    return DTYPES[given]


def _shape(given: object) -> tuple[int, ...]:
    sizes = cast("list[object]", given) if isinstance(given, list | tuple) else [None]
    if not is_shape(sizes):
        shown = str(cast(object, given))[:40]
        raise malformed(f"an array has the shape {shown}; send a list of whole numbers")
    return tuple(cast("list[int]", sizes))


def is_shape(sizes: Sequence[object]) -> bool:
    """Whether sizes are those of an array that could be; zeros hide no overflow."""
    if len(sizes) > DIMENSIONS or not all([type(n) is int and n >= 0 for n in sizes]):
        return False
    return math.prod(max(n, 1) for n in cast("Sequence[int]", sizes)) <= NUMBERS


def _number(data: object, dtype: object) -> Array:
    if type(data) not in (bool, int, float):
        raise malformed("a numpy number came without a number")
    try:
        return np.asarray(data, _dtype(dtype).newbyteorder("="))
    except OverflowError as error:
        raise malformed(f"a numpy number does not fit its type ({error})") from error


def _image(data: object, encoding: object, sizes: tuple[int, ...], dtype: object) -> Array:
    if encoding == "raw":
        return array_of(data, dtype, list(sizes))
    if encoding not in ("png", "jpeg") or not isinstance(data, bytes):
        raise malformed(f"an image is encoded as {str(encoding)[:40]!r}; send png, jpeg or raw")
    if len(sizes) != 3 or sizes[2] not in IMAGE_MODES:
        raise malformed(f"an image has the shape {sizes}; send (height, width, channels)")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            # looked at before a pixel is decoded: the file's own size may be a bomb
            if (*image.size, image.mode) != (sizes[1], sizes[0], IMAGE_MODES[sizes[2]]):
                raise malformed(f"an image of shape {sizes} came as {image.size} {image.mode}")
            return np.array(image).reshape(sizes)
    except ServingError:
        raise
    except IMAGE_ERRORS as error:
        raise malformed(f"an image cannot be decoded ({error})") from error
