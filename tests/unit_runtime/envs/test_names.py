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


@pytest.mark.parametrize(
    ("text", "shell"),
    [
        ("dmc:walker-walk?obs=state&repeat=2", "dmc:walker-walk,obs=state,repeat=2"),
        ("dmc:walker-walk,obs=state", "dmc:walker-walk,obs=state"),
        ("gym:CartPole-v1", "gym:CartPole-v1"),
        ("mine:task?list=1,2&x=3", "mine:task?list=1,2&x=3"),  # a comma would end the value
        ("", ""),
    ],
)
def test_the_shells_spelling_reads_as_the_same(text: str, shell: str) -> None:
    assert EnvName.read(text).shell == shell
    assert EnvName.read(shell) == EnvName.read(text)
