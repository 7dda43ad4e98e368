"""Arrays in msgpack, as openpi and vla-eval write them, read without trusting the sender.

Both put an array as a map with a marker, the raw bytes, a dtype and a shape; openpi's keys are
msgpack `bin`, vla-eval's `str`. A dtype is looked up in a list and never parsed: numpy reads some
of them as pointers.
"""

import io
import math
from collections.abc import Callable, Mapping
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


def is_array(value: object) -> TypeGuard[Array]:
    """Whether a value is a numpy array."""
    return isinstance(value, np.ndarray)


def pack(value: object, flavour: Flavour) -> bytes:
    """A message; arrays as the client's codec expects them."""
    default = _openpi_array if flavour == "openpi" else _vla_array
    return cast(Any, msgpack).packb(value, default=default, use_bin_type=True)


def unpack(content: bytes) -> object:
    """A message of either flavour; arrays own their memory, in native byte order.

    Raises:
        ServingError: "malformed", if it is not msgpack, or an array in it is not what it says.
    """
    hook = cast("Callable[[Mapping[object, object]], object]", _decoded)
    try:
        return cast(Any, msgpack).unpackb(content, object_hook=hook, raw=False)
    except ServingError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise malformed(f"the message is not msgpack that this server reads ({error})") from error


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
    if "__image__" in entries:
        return _image(get("data"), get("format"), get("shape"), get("dtype"))
    return entries


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
    if len(sizes) > DIMENSIONS or not all([type(n) is int and n >= 0 for n in sizes]):
        shown = str(cast(object, given))[:40]
        raise malformed(f"an array has the shape {shown}; send a list of whole numbers")
    return tuple(cast("list[int]", sizes))


def _number(data: object, dtype: object) -> Array:
    if type(data) not in (bool, int, float):
        raise malformed("a numpy number came without a number")
    try:
        return np.asarray(data, _dtype(dtype).newbyteorder("="))
    except OverflowError as error:
        raise malformed(f"a numpy number does not fit its type ({error})") from error


def _image(data: object, encoding: object, shape: object, dtype: object) -> Array:
    if encoding == "raw":
        return array_of(data, dtype, shape)
    if encoding not in ("png", "jpeg") or not isinstance(data, bytes):
        raise malformed(f"an image is encoded as {str(encoding)[:40]!r}; send png, jpeg or raw")
    sizes = _shape(shape)
    if len(sizes) != 3 or sizes[2] not in IMAGE_MODES:
        raise malformed(f"an image has the shape {sizes}; send (height, width, channels)")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            # looked at before a pixel is decoded: the file's own size may be a bomb
            if (*image.size, image.mode) != (sizes[1], sizes[0], IMAGE_MODES[sizes[2]]):
                raise malformed(f"an image of shape {sizes} came as {image.size} {image.mode}")
            return np.array(image).reshape(sizes)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise malformed(f"an image cannot be decoded ({error})") from error
