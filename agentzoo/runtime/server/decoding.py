"""Decoding of clients' websocket messages, no further than the policy asks for.

Arrays cost what they weigh. An image may unpack to a thousand times its bytes, so only those are
decoded that the policy reads, at the size it reads, and beside the event loop.
"""

import asyncio
from collections.abc import Mapping

from ..client.msgpack_arrays import SMALL, decoded, image_of, is_image, parse
from ..spec import ObsSpec


async def message(content: bytes, items: int) -> object:
    """A message, with arrays and images as they came.

    Raises:
        ServingError: "malformed", if it is not msgpack, or holds more than `items` values.
    """
    if len(content) <= SMALL:
        return parse(content, items)
    return await asyncio.to_thread(parse, content, items)


async def observations(
    specs: Mapping[str, ObsSpec], given: Mapping[str, object]
) -> dict[str, object]:
    """The parts of an observation that the policy reads, decoded; others as they came.

    Raises:
        ServingError: "malformed", if one cannot be decoded, or an image has another shape.
    """
    found = dict(given)
    for key in specs.keys() & given.keys():
        value = given[key]
        if is_image(value):
            found[key] = await asyncio.to_thread(image_of, value, specs[key].source)
        else:
            found[key] = decoded(value)
    return found
