"""JSON read in parts, so that a large body does not hold up everything else.

Python's reader is one call in C, during which no other thread runs, the event loop's included: a
body of 4 MB took a third of a second. Here only numbers are left to it, a few thousand at a time;
all else is read by the reader in Python that the standard library has beside it.
"""

import json
import re
from collections.abc import Callable
from json import decoder, scanner
from typing import Any, cast

import numpy as np

from ..spec import Array

PART = 1 << 14  # letters that are read at once
ENTRIES = 1 << 13  # of a list that become an array at once
NUMBERS = re.compile(rf"[-+.0-9eE,\s]{{1,{PART}}},")  # up to the last comma
SPACE = re.compile(r"\s*")

Scan = Callable[[str, int], tuple[object, int]]


def loads(text: str) -> object:
    """The value of a JSON text, as `json.loads` has it.

    Raises:
        ValueError: if it is not JSON.
        RecursionError: if it is nested too deeply.
    """
    return _Decoder().decode(text)


class _Decoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__()
        # what `json` uses by itself where its C extension is missing
        self.parse_object: Any = cast(Any, decoder).JSONObject
        self.parse_array = _array
        self.scan_once: Scan = cast(Any, scanner).py_make_scanner(self)


def _array(at: tuple[str, int], scan_once: Scan) -> tuple[list[object], int]:
    """A list and where it ends, from behind its bracket."""
    text, end = at
    values: list[object] = []
    while run := NUMBERS.match(text, end):
        part = run.group()[:-1]
        if not part.strip():
            raise json.JSONDecodeError("Expecting value", text, end)
        values += json.loads(f"[{part}]")
        end = run.end()
    if values and text.startswith("]", cast("re.Match[str]", SPACE.match(text, end)).end()):
        raise json.JSONDecodeError("Expecting value", text, end)
    rest, end = cast(
        "tuple[list[object], int]", cast(Any, decoder).JSONArray((text, end), scan_once)
    )
    return values + rest, end


def as_array(data: object) -> Array:
    """A value of JSON as an array, as `np.asarray` has it.

    Raises:
        ValueError: if its lists are not of one length, or its numbers too large.
    """
    if not isinstance(data, list) or len(cast("list[object]", data)) <= ENTRIES:
        return np.asarray(data)
    entries = cast("list[object]", data)
    starts = range(0, len(entries), ENTRIES)
    return np.concatenate([np.asarray(entries[i : i + ENTRIES]) for i in starts])
