"""JSON is read in parts to what it is read to in one."""

import json

import numpy as np
import pytest

from agentzoo.runtime.server import json_in_parts

LONG = ",".join(map(str, range(30_000)))
TEXTS = [
    *("[]", "[ ]", "[1]", "[1, 2]", "[1,2,\n3]", "[1,2,[]]", "[1,2,[3,4],5]", "[NaN,1]", "3"),
    *("[true,1,2]", "[1,true]", '["a",1,2,"b"]', '["1,2,3]",4]', '{"a":[1,2],"b":{"c":[]}}'),
    *(f"[{LONG}]", f"[{LONG},null]", f"[[{LONG}],[{LONG}]]", f'{{"data":[{LONG}],"x":"[1,2"}}'),
    *("[1e400,2]", f"[{'1' * 20_000}.5,2]"),
]
NONE = [
    *("[1,]", "[,1]", "[ ,]", "[1,,2]", "[1 2]", "[", "[-]", "[1,2,x]", "[01,2]", "[1e,2]", ""),
    *("[.5,1]", "[1,2],", "[1,2,]x", "[1,2, ]", "[1,2", f"[{LONG},]", f"[{LONG}", f"[{LONG},x]"),
    *("[+1,2]", f"[{'1' * 20_000},2]"),
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_the_value_is_that_of_the_standard_library(text):
    assert repr(json_in_parts.loads(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", NONE, ids=range(len(NONE)))
def test_what_is_none_is_refused(text):
    for loads in (json.loads, json_in_parts.loads):
        with pytest.raises(ValueError):  # noqa: PT011
            loads(text)


def test_lists_in_lists_have_an_end():
    with pytest.raises(RecursionError):
        json_in_parts.loads("[" * 100_000)


def test_no_part_is_large(monkeypatch):
    """A part is read in one go, while all else waits."""
    read = []
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(text) or real(text))
    json_in_parts.loads(f"[{LONG}]")
    assert len(read) > 5
    assert max(map(len, read)) <= json_in_parts.PART + 2


DATA = [3, [], [1, 2], [1.5] * 20_000, [[1, 2]] * 20_000, [True] * 9_000 + [2], ["a"] * 9_000]


@pytest.mark.parametrize("data", DATA, ids=range(len(DATA)))
def test_an_array_of_parts_is_the_array(data):
    found, expected = json_in_parts.as_array(data), np.asarray(data)
    assert (found.dtype.kind, found.shape) == (expected.dtype.kind, expected.shape)
    assert (found == expected).all()


@pytest.mark.parametrize("data", [[[1]] * 9_000 + [[1, 2]], [1] * 9_000 + [[1]]], ids=range(2))
def test_parts_that_do_not_fit_are_no_array(data):
    with pytest.raises(ValueError, match=r"inhomogeneous|dimension"):
        json_in_parts.as_array(data)
