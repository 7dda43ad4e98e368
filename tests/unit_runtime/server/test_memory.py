"""A few hundred of the million requests that `make soak` asks one server."""

import json

import pytest

from soak import memory


def soaked(requests, folder):
    """The summary of a short soak, and its log."""
    with (folder / "log.jsonl").open("w") as log:
        found = memory.run(requests, folder, log)
    return found, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_memory_stays_as_it_is(tmp_path):
    found, lines = soaked(1_000, tmp_path)
    assert found["asked"] >= 1_000
    assert found["counted"] == found["asked"]  # every request is in the server's own count
    assert found["grown_mb"] <= memory.GROWTH_MB
    assert [line["asked"] for line in lines] == sorted({line["asked"] for line in lines})
    assert len(lines) > 50


def test_growth_is_the_last_quarter_above_the_first():
    assert memory.growth([1.0, 1.0, 9.0, 2.0, 3.0, 4.0, 4.0, 4.0]) == 3.0
    assert memory.growth([5.0] * 40) == 0.0


def test_a_server_that_grows_is_lost(tmp_path, monkeypatch):
    held = iter(range(10_000))
    monkeypatch.setattr(memory.ServerProcess, "memory_mb", lambda self: 100.0 + next(held))
    with pytest.raises(AssertionError, match="the server's memory grew"):
        soaked(500, tmp_path)
