"""Size limits of a client's message, by the policy's observations and by its largest batch.

Bytes are limited before a message is read, values before anything is made of them: a byte may stand
for a list, which takes sixty, and whatever reads JSON holds up the event loop for as long as it
takes, in whichever thread.
"""

import math

from ..spec import PolicySpec

GiB = 1 << 30
BYTES = {False: 9, True: 4}  # of a number in a message: in a list, and of an image
JSON_BYTES = {False: 26, True: 6}
SLACK = 64 << 10  # bytes of a message for all else; every message may have as many
ITEMS = 1024  # values for all else


def message_limit(spec: PolicySpec, protocol: str, batch: int = 0) -> int:
    """Bytes of a message or body, by its batch of observations, and slack.

    An image may be sent as float32, to be told what it should be.

    Args:
        spec: the policy's.
        protocol: "openpi", "vla-eval", or "v2" in JSON.
        batch: its largest size, each element with the carry that the client keeps; 0 is a
            session's step, one element without.
    """
    kinds = JSON_BYTES if protocol == "v2" else BYTES
    obs = sum(math.prod(one.source) * kinds[one.kind == "image"] for one in spec.obs.values())
    carry = sum(math.prod(one.shape) * kinds[False] for one in spec.carry.values())
    return min((batch * (obs + carry) if batch else obs) + SLACK, GiB)


def item_limit(spec: PolicySpec, batch: int) -> int:
    """Values that msgpack may hold beside its arrays: all numbers of vectors, as lists."""
    return 2 * batch * _numbers(spec, images=False) + ITEMS


def json_limits(spec: PolicySpec, batch: int) -> tuple[int, int]:
    """Lists and objects, and values in them, that JSON may hold: an array is a list of lists."""
    shapes = [one.source for one in spec.obs.values()]
    shapes += [one.shape for one in spec.carry.values()]
    lists = sum(math.prod(shape[:i]) for shape in shapes for i in range(len(shape)))
    return batch * lists + ITEMS, batch * _numbers(spec, images=True) + ITEMS


def _numbers(spec: PolicySpec, *, images: bool) -> int:
    """Numbers of one batch element: its observations and its carry."""
    obs = [one.source for one in spec.obs.values() if images or one.kind != "image"]
    return sum(map(math.prod, obs)) + sum(math.prod(one.shape) for one in spec.carry.values())
