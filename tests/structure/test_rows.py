"""One word, one meaning: a row is a table's or a picture's; what replay stores is a transition.

What acts together is a batch element, what waits at the server a request: see docs/glossary.md.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORD = re.compile(r"(?<![A-Za-z])rows?(?![a-z])|Rows?(?![a-z])|(?<![A-Z])ROWS?(?![A-Z])")
PHRASES = (  # names that stand in files, settings and metrics, and the idiom
    "replay_rows", "max_rows", "replay/rows", "batch_rows",
    '"rows"', '"chunk_rows"', "open.rows", "*.rows", "08d}.rows",
    "in a row", "in_a_row",
)  # fmt: skip
TABLES = {  # files that make tables, pictures or maps
    "agentzoo/affordance/maps.py",
    "agentzoo/affordance/sliding.py",
    "agentzoo/affordance/zoom.py",
    "agentzoo/cli/atari_table.py",
    "agentzoo/cli/help_config.py",
    "agentzoo/cli/quickstart.py",
    "agentzoo/hub/card.py",
    "agentzoo/runtime/envs/atari_scores.py",
    "agentzoo/runtime/envs/frames.py",
    "agentzoo/runtime/envs/minedojo.py",
    "agentzoo/runtime/envs/vizdoom.py",
    "agentzoo/runtime/envs/vizdoom_fields.py",
    "agentzoo/runtime/evaluation/rollout.py",
    "agentzoo/runtime/evaluation/statistics.py",
    "agentzoo/runtime/evaluation/video.py",
    "agentzoo/runtime/server/page/app.js",
    "agentzoo/sweep/search.py",
    "agentzoo/train/board.py",
    "agentzoo/train/board_plot.py",
    "agentzoo/train/plots.py",
    "agentzoo/train/sinks/tensorboard.py",
    "docs/changelog.md",  # says how things were called
    "docs/results.md",
    "docs/trials.md",
    "docs/security.md",
}
SENTENCES = {  # file -> its phrases about rows of that kind
    "agentzoo/agents/tdmpc2.py": ("rows = (torch.arange(h", "image.gather(1, rows["),
    "docs/glossary.md": ("| row | one of a table, a matrix or a picture",),
    "docs/ls_imagine.md": ("the picture's last row",),
    "docs/training.md": ("rows truth, model, error",),
}


def pages() -> list[Path]:
    """Code and prose of the package, the documentation, the examples and the zoo."""
    kinds = ("*.py", "*.md", "*.js", "*.html")
    inside = [ROOT / "agentzoo", ROOT / "examples"]
    found = [path for folder in inside for kind in kinds for path in sorted(folder.rglob(kind))]
    cards = sorted(ROOT.glob("zoo/*/README.md"))
    return [*found, *cards, *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def rows(text: str, allowed: tuple[str, ...] = ()) -> list[tuple[int, str]]:
    """Number and content of each line with the word, allowed phrases aside."""
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        rest = line
        for phrase in (*PHRASES, *allowed):
            rest = rest.replace(phrase, "")
        if WORD.search(rest):
            lines.append((number, line.strip()))
    return lines


def test_a_row_is_a_tables_or_a_pictures() -> None:
    paths = {path.relative_to(ROOT).as_posix(): path for path in pages()}
    assert len(paths) > 250
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    found = {name: rows(text, SENTENCES.get(name, ())) for name, text in texts.items()}
    assert {name: lines for name, lines in found.items() if lines and name not in TABLES} == {}
    needless = {name for name in TABLES if not found[name]}
    needless |= {name for name, them in SENTENCES.items() for one in them if one not in texts[name]}
    assert needless == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rows = 2", 1), ("def load_rows():", 1), ("class DeviceRows:", 1), ("CHUNK_ROWS", 1),
        ("a row of replay", 1), ("Row i belongs to", 1), ("first_row", 1), ("chunk.rows", 1),
        ('state["rows"] of open.rows', 0), ("replay_rows=1_000", 0), ("three times in a row", 0),
        ("it grows, arrows throw, growing brows", 0), ("ROWSE, Rowan", 0),
    ],
)  # fmt: skip
def test_the_word_is_found_in_names_and_prose(text: str, expected: int) -> None:
    assert len(rows(text)) == expected
