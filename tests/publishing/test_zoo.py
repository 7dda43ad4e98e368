"""The zoo: what its recipes promise, what stands there, and that a recipe makes a whole bundle."""

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import hub
from agentzoo.agent import AGENTS
from agentzoo.cli import AGENTS as SPELLINGS
from hub import RepoNotFoundError, download, load_policy, search
from hub.errors import AddressError
from hub.naming import parse, repo_name
from hub.package import read_package, read_results
from runtime import verify

ROOT = Path(__file__).parents[2]
ZOO: dict[str, Any] = runpy.run_path(str(ROOT / "zoo" / "build.py"))
RECIPES = ZOO["recipes"]()
STANDING = [
    pytest.param(name, id=name)
    for name, recipe in RECIPES.items()
    if ZOO["home"](name, recipe).is_dir()
]


def test_every_agent_class_has_a_recipe() -> None:
    assert {recipe.agent for recipe in RECIPES.values()} == set(AGENTS) == set(SPELLINGS.values())


def test_one_ships_and_names_are_the_usual_ones() -> None:
    assert sum(recipe.ships for recipe in RECIPES.values()) == 1
    for name, recipe in RECIPES.items():
        assert name == repo_name(recipe.agent, recipe.env)


def test_there_is_no_folder_without_a_recipe() -> None:
    places = [*(ROOT / "zoo").glob("*/"), *(ROOT / "hub" / "zoo").glob("*/")]
    found = {path.name for path in places if path.name != "__pycache__"}
    assert found <= set(RECIPES)


def test_the_zoo_stays_small() -> None:
    ZOO["check_sizes"]()
    assert ZOO["size"](ROOT / "zoo") > 0


@pytest.mark.parametrize("name", STANDING)
def test_what_stands_is_whole_and_replays(name: str) -> None:
    recipe = RECIPES[name]
    package = read_package(ZOO["home"](name, recipe))
    assert package.settings.seed == recipe.seed
    assert package.settings.training is not None
    assert package.settings.training.env_steps >= recipe.steps
    assert len(package.results.returns) == ZOO["EPISODES"]
    assert verify(package.folder).steps == 100


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of seconds, packaged into a zoo of its own; CartPole draws with pygame alone."""
    root = tmp_path_factory.mktemp("zoo")
    recipe = ZOO["Recipe"](
        agent="Dreamer",
        env="gym:CartPole-v1",
        preset="debug",
        steps=400,
        seed=1,
        set={"horizon": 4},
    )
    name, without = "dreamer-gym-CartPole-v1", ["replay.mp4"]
    ZOO["build"](name, recipe, root / name, root / "run", episodes=1, without=without)
    return root


def test_a_recipe_makes_a_bundle_that_loads_by_its_name(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ZOO_FOLDERS", (built,))
    address = "zoo:dreamer-gym-CartPole-v1"
    assert load_policy(address).spec.agent == "Dreamer"
    assert (
        'load_policy("zoo:dreamer-gym-CartPole-v1")'
        in (hub.pull(address) / "README.md").read_text()
    )
    assert read_results(hub.pull(address)).seeds == (1_000_000,)


def test_the_package_is_searched(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.catalogue.ZOO_FOLDERS", (built,))
    (found,) = search(hub="zoo:")
    assert found.address == "zoo:dreamer-gym-CartPole-v1"
    assert search("walker", hub="zoo:") == []


def test_what_did_not_come_along_is_named(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ZOO_FOLDERS", (built,))
    with pytest.raises(RepoNotFoundError, match="there are: dreamer-gym-CartPole-v1"):
        hub.pull("zoo:dreamer-dmc-walker-walk")
    with pytest.raises(RepoNotFoundError):
        hub.pull("zoo:dreamer-gym-CartPole-v1@v1")
    with pytest.raises(AddressError):
        parse("zoo:../run")
