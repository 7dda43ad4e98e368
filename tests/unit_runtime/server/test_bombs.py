"""Messages that are cheap to send and dear to read cost a server little; `make soak` sends more."""

import json

import pytest

from soak import bombs


@pytest.mark.slow
def test_no_bomb_costs_much(tmp_path):
    with (tmp_path / "log.jsonl").open("w") as log:
        found = bombs.run(tmp_path, log, minutes=5, memory=64, wait=10, policies=["numbers"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert found["lost"] == []
    assert found["bombs"] == len(lines) - 1 > 50
    assert sum(line["bomb"] == "sound" for line in lines[:-1]) == 3


@pytest.mark.parametrize(("memory", "wait"), [(-1e9, 10), (1e9, -1)], ids=["memory", "wait"])
def test_a_cost_above_the_limit_is_lost(tmp_path, monkeypatch, memory, wait):
    monkeypatch.setattr(bombs, "bombs", lambda spec, limits: bombs.sound(spec))
    with (tmp_path / "log.jsonl").open("w") as log:
        found = bombs.run(tmp_path, log, 5, memory, wait, ["numbers"])
    assert found["lost"] == [f"numbers, {one}: sound" for one in ("openpi", "vla-eval", "v2")]
