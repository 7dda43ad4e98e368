"""Arrays on the wire: what clients write is read, what an attacker writes is refused."""

import io
import struct
import zlib

import msgpack
import numpy as np
import pytest
from PIL import Image

from agentzoo.runtime.client.msgpack_arrays import array_of, image_of, pack, parse, unpack
from agentzoo.runtime.errors import ServingError

ARRAYS = [
    np.arange(6).astype(dtype).reshape(2, 3)
    for dtype in ("?", "u1", "i2", "<i4", ">i4", "i8", "f2", "<f4", ">f8")
]


@pytest.mark.parametrize("flavour", ["openpi", "vla-eval"])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: a.dtype.str)
def test_arrays_come_back_in_memory_of_their_own(flavour, array):
    (found,) = unpack(pack([array], flavour))
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.flags.writeable
    assert found.flags.aligned


def test_keys_are_bin_for_openpi_and_str_for_vla_eval():
    array = np.zeros(2, np.float32)
    assert msgpack.unpackb(pack(array, "openpi"))[b"__ndarray__"] is True
    assert msgpack.unpackb(pack(array, "vla-eval"))["__ndarray__"] is True


def test_a_number_of_numpy_becomes_an_array_without_axes():
    found = unpack(msgpack.packb({b"__npgeneric__": True, b"data": 3, b"dtype": "<i8"}))
    assert (found.shape, found.dtype, found.item()) == ((), np.int64, 3)


@pytest.mark.parametrize(
    "dtype", ["|O", "O", "object", "V8", "f4,f4", "c8", "U4", "M8[s]", "f16", "", None, 4, ["f4"]]
)
def test_only_listed_types_are_read(dtype):
    with pytest.raises(ServingError, match="an array has the type"):
        array_of(b"\0" * 8, dtype, [1])


@pytest.mark.parametrize(
    ("data", "shape", "match"),
    [
        (b"\0" * 8, [3], r"shape \(3,\) and type float32 came with 8 bytes"),
        (b"", [1 << 62, 4], "list of whole numbers"),
        (b"", [1 << 62, 0], "list of whole numbers"),
        (b"\0" * 8, [-2], "list of whole numbers"),
        (b"\0" * 8, [2.0], "list of whole numbers"),
        (b"\0" * 4, [True], "list of whole numbers"),
        (b"\0" * 8, 2, "list of whole numbers"),
        (b"\0" * 8, [1] * 9 + [2], "list of whole numbers"),
        ("text", [1], "not bytes"),
        (None, [1], "not bytes"),
    ],
)
def test_shape_and_data_have_to_fit(data, shape, match):
    with pytest.raises(ServingError, match=match):
        array_of(data, "<f4", shape)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x91" * 2_000,  # deeper than the unpacker's stack
        b"\xdd\xff\xff\xff\xff",  # a list that claims 4 billion entries
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x01\x01",  # a key that is no text
        msgpack.packb({"a": 1}) + b"\x00",
        msgpack.packb(msgpack.ExtType(4, b"x"))[:-1],
        msgpack.packb(b"\xff").replace(b"\xc4", b"\xd9"),  # text that is not UTF-8
        msgpack.packb({b"__ndarray__": True}),
        msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}),
    ],
)
def test_other_bytes_are_refused_with_a_reason(content):
    with pytest.raises(ServingError) as caught:
        unpack(content)
    assert caught.value.reason == "malformed"


def encoded(image, encoding, shape=None):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, encoding)
    entry = {"__image__": True, "format": encoding, "data": file.getvalue()}
    return msgpack.packb({**entry, "shape": list(shape or image.shape)})


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_images_come_back_exactly(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    found = image_of(parse(encoded(image, "png"), 99), image.shape)
    assert np.array_equal(found, image)


def test_jpeg_images_have_their_shape():
    message = parse(encoded(np.full((8, 8, 3), 100, np.uint8), "jpeg"), 99)
    found = image_of(message, (8, 8, 3))
    assert (found.shape, found.dtype) == ((8, 8, 3), np.uint8)
    assert abs(found.astype(int) - 100).max() < 4


def png_header(width, height):
    """A PNG that says it is large and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    "data", [png_header(60_000, 60_000), png_header(3, 3), b"", b"GIF89a" + b"\0" * 30]
)
def test_an_image_is_looked_at_before_it_is_decoded(data):
    entry = {"__image__": True, "format": "png", "data": data, "shape": [4, 4, 3]}
    with pytest.raises(ServingError, match="image"):
        image_of(entry, (4, 4, 3))


def test_an_image_of_another_size_is_not_looked_at():
    entry = {"__image__": True, "format": "png", "data": b"", "shape": [11_000, 11_000, 3]}
    with pytest.raises(ServingError, match=r"shape \(11000, 11000, 3\), expected \(4, 4, 3\)"):
        image_of(entry, (4, 4, 3))


BOMBS = [
    b"\xdc\xff\xff" + b"\x90" * 65_535,  # lists
    b"\xdc\xff\xff" + b"\x80" * 65_535,  # maps
    b"\xdd\x00\x0f\x00\x00" * 10_000,  # each says that it is long
    b"\xdf\x00\x0f\x00\x00" * 10_000,
    b"\x91" * 40_000,
    b"\xdc\xff\xff" + b"\x00" * 65_535,
    msgpack.packb({"a": [[0.5] * 100] * 100}),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_a_message_makes_no_more_values_than_allowed(bomb):
    assert len(bomb) > 1 << 15
    with pytest.raises(ServingError) as caught:
        parse(bomb, 1_000)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("length", [0xDD, 0xDF])
def test_a_short_message_may_not_say_that_it_is_long(length):
    with pytest.raises(ServingError):
        parse(bytes([length, 0, 0, 127, 255]) * 1_000, 1_000)


def test_large_messages_of_every_format_are_read():
    value = {
        "bytes": [b"x" * n for n in (3, 300, 70_000)],
        "texts": ["x" * n for n in (3, 40, 300, 70_000)],
        "numbers": [
            0,
            -1,
            200,
            -100,
            1 << 15,
            -(1 << 15),
            1 << 31,
            -(1 << 31),
            1 << 63,
            -(1 << 62),
        ],
        "floats": [0.5, True, False, None],
        "lists": [[], [0] * 20, [0] * 70_000, {str(i): i for i in range(20)}],
        "extensions": [msgpack.ExtType(4, b"x" * n) for n in (1, 2, 4, 8, 16, 3, 300, 70_000)],
        "map": {str(i): i for i in range(70_000)},
    }
    content = msgpack.packb(value) + b""
    assert parse(content, 1_000_000) == value
    assert parse(msgpack.packb({"x" * 40_000: 0.5}, use_single_float=True), 9)
