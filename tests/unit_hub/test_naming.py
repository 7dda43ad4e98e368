"""Addresses: what is one, what is none, and what a repo is called."""

from pathlib import Path

import pytest

from agentzoo.hub.errors import AddressError
from agentzoo.hub.naming import looks_published, parse, repo_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "kind", "repo", "revision", "root"),
    [
        ("me/walker", "hub", "me/walker", "main", "."),
        ("me/walker@v1.0", "hub", "me/walker", "v1.0", "."),
        (f"me/walker@{COMMIT}", "hub", "me/walker", COMMIT, "."),
        ("me/walker@refs/pr/1", "hub", "me/walker", "refs/pr/1", "."),
        ("file:/srv/agents/walker", "file", "walker", "main", "/srv/agents"),
        ("file:agents/walker@" + COMMIT, "file", "walker", COMMIT, "agents"),
        ("file:/home/me@work/agents/walker", "file", "walker", "main", "/home/me@work/agents"),
        ("zoo:walker", "zoo", "walker", "main", "."),
    ],
)
def test_addresses_say_where(text: str, kind: str, repo: str, revision: str, root: str) -> None:
    found = parse(text)
    assert (found.kind, found.repo, found.revision, found.root) == (
        kind, repo, revision, Path(root)
    )  # fmt: skip
    assert str(found) == text
    assert found.is_pinned == (revision == COMMIT)


@pytest.mark.parametrize(
    "text",
    [
        "walker",
        "me/../walker",
        "../me/walker",
        "/etc/passwd",
        "me/walker/policy",
        "me/.walker",
        "me/wal--ker",
        "me/walker@",
        "me/walker@../main",
        "me/walker@-f",
        "file:/srv/..",
        "zoo:../walker",
        "https://huggingface.co/me/walker",
        "me/wälker",
        "",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse(text)


def test_a_revision_is_said_once() -> None:
    assert parse("me/walker", "v1").revision == "v1"
    with pytest.raises(AddressError, match="say it once"):
        parse("me/walker@v1", "v2")


def test_paths_are_not_taken_for_addresses() -> None:
    for path in ("walker", "./me/walker", "/tmp/me/walker", "../me/walker", "runs/me/walker"):
        assert not looks_published(path), path
    assert looks_published("me/walker")


@pytest.mark.parametrize(
    ("agent", "env", "name"),
    [
        ("DreamerV3", "dmc:walker-walk?camera=0&obs=pixels", "dreamerv3-dmc-walker-walk"),
        ("Dreamer", "gym:CartPole-v1?repeat=1", "dreamer-gym-CartPole-v1"),
        ("PlaNet", "gym:ALE/Pong-v5", "planet-gym-ALE-Pong-v5"),
        ("Dreamer", "dmc:ball_in_cup-catch", "dreamer-dmc-ball_in_cup-catch"),
    ],
)
def test_repos_are_named_by_agent_suite_and_task(agent: str, env: str, name: str) -> None:
    assert repo_name(agent, env) == name
    assert parse(f"me/{name}").repo == f"me/{name}"


def test_an_environment_object_has_no_name() -> None:
    with pytest.raises(AddressError, match="has no name; give the repo one"):
        repo_name("Dreamer", "")
