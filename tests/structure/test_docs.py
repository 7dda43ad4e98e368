"""Pages point at files that are there, and their Python parses."""

import ast
import itertools
import re
import runpy
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from agentzoo.runtime.spec import PLANNED, NoiseRole

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if not path.is_symlink()),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_snippets_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(snippets) == text.count("```python"), "a snippet is not closed"
    assert [error for error in map(_syntax_error, snippets) if error] == []


def _syntax_error(snippet: str) -> str:
    try:
        ast.parse(snippet)
    except SyntaxError as error:
        return f"{error}: {error.text}"
    return ""


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [page.name for page in PAGES if page.parent == ROOT / "docs"]
    assert [name for name in pages if f"({name})" not in index] == ["index.md"]


def defined(code: str) -> set[str]:
    """Functions, classes, methods as `Class.method`, and constants of a module."""
    names: set[str] = set()
    for node in ast.parse(code).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.ClassDef():
                methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
                names |= {node.name, *(f"{node.name}.{method.name}" for method in methods)}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found = itertools.chain.from_iterable(map(ast.walk, targets))
                names |= {each.id for each in found if isinstance(each, ast.Name)}
            case _:
                pass
    return names


DEFINED = {
    path.relative_to(ROOT / "agentzoo").as_posix(): defined(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "agentzoo").rglob("*.py"))
}


def missing_names(text: str) -> list[str]:
    """References `folder/file.py:name`, and the names listed behind them, that lead nowhere.

    A name behind a reference may be of another file.
    """
    everywhere = set[str]().union(*DEFINED.values())
    missing: list[str] = []
    reference = r"`(?:agentzoo/)?([\w/]+/\w+\.py):([\w.]+)`((?:, `[\w.]+`)*)"
    for file, name, more in re.findall(reference, text):
        missing += [] if name in DEFINED.get(file, set()) else [f"{file}:{name}"]
        missing += [one for one in re.findall(r"`([\w.]+)`", more) if one not in everywhere]
    return missing


@pytest.mark.parametrize("page", PAGES[4:], ids=lambda page: page.name)
def test_references_to_code_lead_to_names(page: Path) -> None:
    assert missing_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`blocks/kl.py:balanced`", ["blocks/kl.py:balanced"]),
        ("`blocks/replay.py:EpisodeSampler`", ["blocks/replay.py:EpisodeSampler"]),
        ("`agentzoo/blocks/rssm.py:RSSM`, `Nothing`", ["Nothing"]),
        ("`blocks/latents.py:CategoricalLatent.sample`", []),
        ("`agents/ls_imagine.py:GOALS`, `DreamerV2Algorithm.behavior_losses`", []),
    ],
)
def test_missing_names_are_found(text: str, expected: list[str]) -> None:
    assert missing_names(text) == expected


def test_the_changelog_stands_in_two_folders_and_has_no_relative_links() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("https://")] == []


def test_every_page_is_in_the_site() -> None:
    nav = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").glob("**/*.md")]
    made = {Path("results/seeds.md")}  # a table that results.md shows
    assert [str(page) for page in pages if f'"{page}"' not in nav and page not in made] == []


def test_a_release_leads_relative_links_to_the_repository() -> None:
    release = runpy.run_path(str(ROOT / ".ci" / "release.py"))
    text = "[a](docs/a.md) ![b](docs/b.png) [c](https://x.org) [d](#d)"
    assert release["with_absolute_links"](text, "https://host/me/agentzoo") == (
        "[a](https://host/me/agentzoo/blob/main/docs/a.md) "
        "![b](https://host/me/agentzoo/raw/main/docs/b.png) [c](https://x.org) [d](#d)"
    )
    assert 'Homepage = "https://host"' in release["with_urls"]("[project.scripts]", "https://host")
    with pytest.raises(SystemExit, match="expected the repository's address"):
        release["main"]("")


def table(page: str, head: str) -> list[list[str]]:
    """Cells of a page's table by its heading."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    start = lines.index(head) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_page_on_own_agents_has_every_role_of_noise() -> None:
    listed = [row[0].strip("`") for row in table("own_agent.md", "| role | for | drawn by |")]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(get_args(NoiseRole))
    assert set(listed[4:]) == set(PLANNED)


def test_the_page_on_own_agents_has_every_column_of_a_batch() -> None:
    pytest.importorskip("torch")
    from agentzoo.replay.chunks import STANDARD

    rows = table("own_agent.md", "| key | shape | dtype | |")
    listed = {row[0].strip("`"): row[2] for row in rows if row[0].startswith("`")}
    stored = {name: np.dtype(dtype).name for name, dtype in STANDARD.items()}
    assert listed == {**stored, "prev_action": "float32"}


def test_the_page_on_own_agents_names_blocks_and_samplers_that_are_there() -> None:
    rows = table("own_agent.md", "| block | for | file |")
    assert len(rows) > 15
    for names, _, file in rows:
        code = (ROOT / "agentzoo" / "blocks" / file.strip("`")).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(class|def) {name}\b", code, re.M), f"{file} has no {name}"
    samplers = (ROOT / "agentzoo" / "replay" / "samplers.py").read_text(encoding="utf-8")
    made = re.findall(r"^class (\w+Sampler)\b", samplers, re.M)
    listed = [row[0] for row in table("own_agent.md", "| sampler | draws | used by |")]
    assert {re.findall(r"\w+", one)[0] for one in listed} == set(made)
