"""`agentzoo serve` and `watch`: what their options become, and how their log is written."""

import logging
from pathlib import Path
from typing import Any

import pytest

from agentzoo.cli import main as cli
from agentzoo.runtime import server
from agentzoo.runtime.server import ModelSettings, ServerSettings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[ModelSettings], ServerSettings]]:
    """Models and settings of the servers that would have been started."""
    found: list[tuple[list[ModelSettings], ServerSettings]] = []
    monkeypatch.setattr(
        server, "serve", lambda models, settings, **_: found.append((models, settings))
    )
    return found


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert not end.value.code


def test_who_may_ask_is_named_by_options(served: list[Any]) -> None:
    hosts = ("robot.local", "gateway.example")
    origins = ("http://robot.local:3000", "null")
    named = [f"--allow-host={one}" for one in hosts] + [f"--allow-origin={one}" for one in origins]
    run("serve", "w=me/walker@v1", *named, "--max-connections=7")
    run("serve", "me/walker")
    ((models, settings), (_, bare)) = served
    assert models == [ModelSettings(name="w", source="me/walker", revision="v1")]
    assert (settings.allow_hosts, settings.allow_origins) == (hosts, origins)
    assert settings.connection_limit == 7
    assert (bare.allow_hosts, bare.allow_origins) == ((), ())


@pytest.mark.parametrize("verb", ["serve", "watch"])
def test_the_log_has_no_control_characters(
    verb: str, served: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda *, handlers, **_: lines.extend(handlers))
    model = ModelSettings(name="a", source=str(tmp_path))
    monkeypatch.setattr("agentzoo.cli.watch.model_to_watch", lambda *_: (model, None))
    run(verb, str(tmp_path))
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s\x1b[2J\nready", ("a",), None)
    assert [line.format(record) for line in lines] == [r"a\x1b[2J\nready"]
    assert len(served) == 1
