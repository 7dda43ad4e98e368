"""One word, one meaning: replay is the buffer; a recorded trace is checked, a CUDA graph launched.

Only what was drawn from the buffer is "replayed": see docs/glossary.md.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OF_THE_BUFFER = "experience|episodes|transitions|windows|states?|values?|rewards"
WORD = re.compile(
    rf"\breplay(?:s|ing)\b|\breplayed\b(?! (?:{OF_THE_BUFFER})\b)"
    r"|\breplay (?:it|them|each|every|the (?:trace|steps|recording))\b",
    re.I,
)


def cards() -> list[Path]:
    """Model cards of the zoo, and the template that they are made from."""
    hub = ROOT / "agentzoo" / "hub"
    zoo = [*ROOT.glob("zoo/*/README.md"), *hub.glob("zoo/*/README.md")]
    return [*sorted(zoo), hub / "templates" / "card.md"]


def pages() -> list[Path]:
    """Code and prose of the package, the documentation, the examples and the cards."""
    kinds = ("*.py", "*.js", "*.html")
    inside = [ROOT / name for name in ("agentzoo", "examples", "zoo")]
    code = [path for folder in inside for kind in kinds for path in sorted(folder.rglob(kind))]
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Dockerfile")]
    return [*code, *sorted((ROOT / "docs").glob("*.md")), *top, *cards()]


def other_replays(text: str) -> list[str]:
    """Lines in which the word is about something else than the buffer."""
    return [line.strip() for line in text.splitlines() if WORD.search(line)]


def test_replay_is_the_buffer_in_code_pages_and_cards() -> None:
    assert len(cards()) > 10
    found = {p.relative_to(ROOT).as_posix(): other_replays(p.read_text("utf-8")) for p in pages()}
    assert len(found) > 250
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the steps that `verify` replays", 1), ("and the recorded steps replayed:", 1),
        ("by replaying its trace", 1), ("verify can replay the trace", 1), ("Replays a graph", 1),
        ("critic on replayed transitions", 0), ("the transitions that replay holds", 0),
        ("replay_rows=1000, replay.mp4", 0), ("OnlineReplays", 0),
    ],
)  # fmt: skip
def test_other_uses_of_the_word_are_found(text: str, expected: int) -> None:
    assert len(other_replays(text)) == expected
