"""Bodies of requests: read within limits and time, and unpacked no further than allowed."""

import asyncio
import zlib

from ..errors import ServingError
from .transport import Call, header

DIGITS = 18  # of a body's length; int() takes long for very many
GZIP, ZLIB, RAW = 31, 15, -15  # zlib's window bits for each container
ZLIB_METHOD = (
    8  # low half of the first byte (RFC 1950); "deflate" without that container is sent, too
)


async def read_body(call: Call, limit: int, limit_s: float) -> bytes:
    """A body, unpacked if it came compressed.

    No transport unpacks: in aiohttp a body that ends too early keeps that waiting for more.

    Args:
        call: whose body it is.
        limit: bytes, compressed and unpacked.
        limit_s: how long it may take to arrive.

    Raises:
        ServingError: "too_large", "deadline" or "malformed".
    """
    if _length(call) > limit:
        raise _too_large(limit)
    parts = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            async for part in call.body():
                parts += part
                if len(parts) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise ServingError("the body did not come in time", "deadline") from error
    except (OSError, ValueError) as error:
        raise ServingError("the body cannot be read", "malformed") from error
    content, encoding = bytes(parts), header(call, "Content-Encoding")
    if not encoding:
        return content
    # a few bytes may be a thousand times as many, which the loop is not held up for
    return await asyncio.to_thread(unpacked, content, encoding, limit)


def _length(call: Call) -> int:
    """The length by its header; 0 where that says nothing, or no number."""
    given = header(call, "Content-Length") or ""
    return int(given) if given.isascii() and given.isdigit() and len(given) <= DIGITS else 0


def unpacked(content: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        content: as it came.
        encoding: the header Content-Encoding; gzip, deflate, or nothing.
        limit: bytes of the result.

    Raises:
        ServingError: "too_large", or "malformed" if it is not what the header says.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return content
        case "gzip":
            bits = GZIP
        case "deflate":
            bits = ZLIB if content[:1] and content[0] & 15 == ZLIB_METHOD else RAW
        case _:
            raise ServingError(
                f'the body\'s encoding is "{encoding[:20]}"; send it as gzip, deflate or plain',
                "malformed",
            )
    unpacking = zlib.decompressobj(bits)
    try:
        result = unpacking.decompress(content, limit + 1)
    except zlib.error as error:
        raise ServingError(f"the body is not {encoding.strip()}", "malformed") from error
    if len(result) > limit:
        raise _too_large(limit)
    if not unpacking.eof or unpacking.unused_data:
        raise ServingError(f"the body is not one whole {encoding.strip()} stream", "malformed")
    return result


def _too_large(limit: int) -> ServingError:
    return ServingError(f"the body is larger than {limit} bytes", "too_large")
