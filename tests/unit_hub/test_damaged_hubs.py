"""A folder hub that was damaged says so in a sentence, and its other repos go on."""

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from agentzoo.hub import pull, push, search
from agentzoo.hub.folder_hub import FolderHub
from agentzoo.runtime.errors import AgentZooError
from tests.damage import Damage, dangling, flip, garbage, nested, pipe, remove, swapping, truncate
from tests.damage import folder as replaced_by_folder

NAME, OTHER = "walker", "other"


@pytest.fixture
def hub(folder: Path, another: Callable[[int], Path], tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    push(folder, f"file:{root}")
    push(folder, f"file:{root}/{NAME}")
    push(another(1), f"file:{root}/{OTHER}")
    return root


def link(path: Path, rng: random.Random) -> None:
    other = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(other)
    path.symlink_to(other)


def surrogate(path: Path, rng: random.Random) -> None:
    path.write_text('{"commit": "\\ud800"}')


VALUES: list[object] = [
    None, True, -1, 1.5, 1 << 62, 10**400, "", "../x", "f" * 40, [], {}, {"x": 1}, float("nan"),
    float("inf"), "\ud800", "\x1b[31m", "index",
]  # fmt: skip


swap = swapping(VALUES)
KINDS: list[Damage] = [
    flip, truncate, garbage, remove, replaced_by_folder, link, dangling, pipe, nested, surrogate,
    *[swap] * 6,
]  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def pulled(root: Path, name: str) -> dict[str, bytes] | None:
    """The download; None if it is refused."""
    try:
        return content(pull(f"file:{root}/{name}"))
    except AgentZooError:
        return None


@pytest.mark.parametrize("seed", range(2))
def test_damage_is_refused_or_harmless_and_repaired(hub: Path, tmp_path: Path, seed: int) -> None:
    rng, copy = random.Random(seed), tmp_path / "copy"
    right, other = pulled(hub, NAME), pulled(hub, OTHER)
    commit = FolderHub(hub).commit(NAME, "main")
    files = ["hub.json", f"index/{NAME}.json", f"{NAME}/{commit}.json"]
    files += [f"{NAME}/{commit}/{one}" for one in ("results.json", "manifest.json")]
    for name in files:
        for damage in rng.sample(KINDS, 4):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(hub, copy)
            damage(copy / name, random.Random(rng.randrange(1 << 30)))
            told = (name, damage.__name__)
            assert pulled(copy, NAME) in (None, right), told
            if name != "hub.json":
                assert pulled(copy, OTHER) == other, told
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # which names what is damaged
                    found = [one.address for one in search(hub=f"file:{copy}")]
                assert f"file:{copy}/{OTHER}" in found, told
            try:
                FolderHub(copy).repair()
            except AgentZooError:
                assert name == "hub.json", told
                continue
            if name.startswith("index/"):
                assert pulled(copy, NAME) == right, told
            assert pulled(copy, OTHER) == other, told


@pytest.mark.parametrize("damage", [pipe, replaced_by_folder, link, dangling])
def test_repair_sets_aside_what_is_no_file_of_the_index(hub: Path, damage: Damage) -> None:
    damage(hub / "index" / f"{NAME}.json", random.Random(0))
    assert any(NAME in line and "names" in line for line in FolderHub(hub).repair())
    assert pulled(hub, NAME) is not None
    assert FolderHub(hub).damaged() == {}
