"""The parts of environment strings: both spellings, and what others stored."""

import pytest

from agentzoo.runtime.envs import EnvName


@pytest.mark.parametrize(
    ("text", "suite", "task", "pairs"),
    [
        ("dmc:walker-walk", "dmc", "walker-walk", ()),
        ("dmc:walker-walk?obs=state&repeat=2", "dmc", "walker-walk", ("obs=state", "repeat=2")),
        ("dmc:walker-walk,obs=state,repeat=2", "dmc", "walker-walk", ("obs=state", "repeat=2")),
        ("gym:ALE/Pong-v5?a=b,c", "gym", "ALE/Pong-v5", ("a=b,c",)),
        ("gym:my.module:Env-v0", "gym", "my.module:Env-v0", ()),
        ("dmc", "dmc", "", ()),
        ("", "", "", ()),
    ],
)
def test_parts(text: str, suite: str, task: str, pairs: tuple[str, ...]) -> None:
    assert EnvName.read(text) == EnvName(suite, task, pairs)


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("dmc:walker-walk?obs=state", "dmc:walker-walk"),
        ("dmc:walker-walk,obs=state", "dmc:walker-walk"),
        ("gym:my.module:Env-v0?repeat=1", "gym:my.module:Env-v0"),
        ("dmc", "dmc"),
        ("", ""),  # an environment object, which has no name
    ],
)
def test_the_head_is_the_name_without_its_keys(text: str, head: str) -> None:
    assert EnvName.read(text).head == head
