"""The published results: every table says what the kept scores and logs say."""

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

RESULTS = Path(__file__).parents[2] / "docs" / "results"
BUILD: dict[str, Any] = runpy.run_path(str(RESULTS / "build.py"))
FOLDERS: list[Path] = BUILD["folders"]()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_page_holds_the_table_of_each_task(folder: Path) -> None:
    page = RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert "\n".join(BUILD["table"](folder)) in page
    assert f"(results/{'/'.join(folder.parts[-2:])}/curve.png)" in page
    assert (folder / "curve.png").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: "/".join(path.parts[-2:]))
def test_seeds_and_random_played_the_same_episodes(folder: Path) -> None:
    random = BUILD["read"](folder / "random.json")
    assert random.agent == "random"
    for path in BUILD["seeds"](folder):
        score = BUILD["read"](path / "results.json")
        assert (score.env, score.seeds) == (random.env, random.seeds)
        assert len(score.seeds) == BUILD["EPISODES"]


def test_there_are_results() -> None:
    assert len(FOLDERS) >= 2
