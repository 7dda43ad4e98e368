"""The zoo: what its recipes promise, what stands there, and that a recipe makes a whole bundle."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import agentzoo
from agentzoo import hub
from agentzoo.agents.registry import OWN
from agentzoo.hub import RepoNotFoundError, download, load_policy, search
from agentzoo.hub.errors import AddressError
from agentzoo.hub.naming import parse, repo_name
from agentzoo.hub.package import read_package
from agentzoo.runtime import verify
from agentzoo.runtime.errors import BundleError, ConfigError
from agentzoo.runtime.evaluation.results import read_results

ROOT = Path(__file__).parents[2]
ZOO: dict[str, Any] = runpy.run_path(str(ROOT / "zoo" / "build.py"))
NAME = "dreamer-gym-CartPole-v1"
RECIPES = ZOO["recipes"]()
STANDING = [
    pytest.param(name, id=name)
    for name, recipe in RECIPES.items()
    if ZOO["home"](name, recipe).is_dir()
]


def test_every_agent_class_has_a_recipe() -> None:
    assert {recipe.agent for recipe in RECIPES.values()} == set(OWN)


def test_one_ships_and_names_are_the_usual_ones() -> None:
    assert sum(recipe.ships for recipe in RECIPES.values()) == 1
    for name, recipe in RECIPES.items():
        assert name == repo_name(recipe.agent, recipe.env)


def test_there_is_no_folder_without_a_recipe() -> None:
    places = [*(ROOT / "zoo").glob("*/"), *(ROOT / "agentzoo" / "hub" / "zoo").glob("*/")]
    found = {path.name for path in places if path.name != "__pycache__"}
    assert found <= set(RECIPES)


def test_the_zoo_stays_small() -> None:
    ZOO["check_sizes"]()
    assert ZOO["size"](ROOT / "zoo") > 0


def test_the_page_shows_what_stands() -> None:
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert page == ZOO["page"]()
    for name, _, _ in ZOO["standing"]():
        assert f"![{name}](zoo/{name}.png)" in page
        assert (ROOT / "docs" / "zoo" / f"{name}.png").read_bytes()[1:4] == b"PNG"
    assert {p.stem for p in (ROOT / "docs" / "zoo").iterdir()} == {n for n, *_ in ZOO["standing"]()}


@pytest.mark.parametrize("name", STANDING)
def test_what_stands_is_whole_and_agrees_with_its_recording(name: str) -> None:
    recipe = RECIPES[name]
    package = read_package(ZOO["home"](name, recipe))
    assert package.settings.seed == recipe.seed
    assert package.settings.training is not None
    assert package.settings.training.env_steps >= recipe.steps
    assert len(package.results.returns) == ZOO["EPISODES"]
    assert verify(package.folder).steps == 100


@pytest.fixture
def zoo(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one agent, in the place of what came with the package."""
    shutil.copytree(made, tmp_path / "zoo" / NAME)
    monkeypatch.setattr(download, "ZOO_FOLDERS", (tmp_path / "zoo",))
    monkeypatch.setattr("agentzoo.hub.catalogue.ZOO_FOLDERS", (tmp_path / "zoo",))
    return tmp_path / "zoo"


@pytest.mark.slow
def test_a_recipe_makes_a_bundle_that_loads_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe of seconds, film and all."""
    recipe = ZOO["Recipe"](
        agent="Dreamer",
        env="gym:CartPole-v1",
        preset="debug",
        steps=400,
        seed=1,
        set={"horizon": 4},
    )
    out, run = tmp_path / "zoo" / NAME, tmp_path / "run"
    ZOO["build"](NAME, recipe, out, run, episodes=10)
    assert (out / "replay.mp4").read_bytes()[4:8] == b"ftyp"
    assert {"replay.mp4", "learning_curve.png"} < {*read_package(out).files}
    monkeypatch.setattr(download, "ZOO_FOLDERS", (tmp_path / "zoo",))
    agent, policy = agentzoo.load(f"zoo:{NAME}", device="cpu"), load_policy(f"zoo:{NAME}")
    assert type(agent).__name__ == policy.spec.agent == "Dreamer"
    assert agent.config.horizon == 4
    assert f'load_policy("zoo:{NAME}")' in (out / "README.md").read_text()
    assert read_results(hub.pull(f"zoo:{NAME}")).seeds == tuple(range(1_000_000, 1_000_010))


def test_what_came_along_acts_without_a_network(zoo: Path) -> None:
    policy = load_policy(f"zoo:{NAME}", seed=4)
    assert policy.seed == 4
    assert hub.pull(f"zoo:{NAME}") == zoo / NAME
    assert verify(hub.pull(f"zoo:{NAME}")).steps == 12


def test_a_damaged_one_is_not_opened(zoo: Path) -> None:
    path = zoo / NAME / "policy.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"policy\.onnx is not the file that was exported"):
        load_policy(f"zoo:{NAME}")


def test_the_package_is_searched(zoo: Path) -> None:
    (found,) = search(hub="zoo:")
    assert (found.address, found.score) == (f"zoo:{NAME}", "500.00 +/- 0.00")
    assert search("walker", hub="zoo:") == []


def test_what_did_not_come_along_is_named(zoo: Path) -> None:
    with pytest.raises(RepoNotFoundError, match=f"there are: {NAME}"):
        hub.pull("zoo:dreamer-dmc-walker-walk")
    with pytest.raises(RepoNotFoundError):
        hub.pull(f"zoo:{NAME}@v1")
    with pytest.raises(AddressError):
        parse("zoo:../run")


def test_check_plays_the_scored_episodes_again(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = next(iter(RECIPES.values()))
    standing = lambda: [(NAME, recipe, zoo / NAME)]  # noqa: E731
    monkeypatch.setitem(ZOO["check"].__globals__, "standing", standing)
    assert ZOO["check"](["another"]) == 0
    assert capsys.readouterr().out == ""
    assert ZOO["check"]([]) == 0
    assert f"{NAME}\npublished: mean 500.00" in capsys.readouterr().out
    path = zoo / NAME / "results.json"
    scored = read_results(zoo / NAME)
    other = dataclasses.replace(scored, returns=tuple(r - 100 for r in scored.returns))
    path.write_text(json.dumps(other.to_json()))
    assert ZOO["check"]([NAME]) == 1
    assert "does not contain zero" in capsys.readouterr().out


def test_what_ships_may_not_be_large(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ZOO["check_sizes"].__globals__, "SHIPPED", zoo)
    monkeypatch.setitem(ZOO["check_sizes"].__globals__, "ROOT", zoo.parent / "none")
    shipping = {NAME: dataclasses.replace(next(iter(RECIPES.values())), ships=True)}
    monkeypatch.setitem(ZOO["check_sizes"].__globals__, "recipes", lambda: shipping)
    ZOO["check_sizes"]()
    (zoo / NAME / "replay.mp4").write_bytes(bytes(2_000_000))
    with pytest.raises(ConfigError, match=r"what ships may have 2,000,000; make its networks or"):
        ZOO["check_sizes"]()
    shipping.clear()
    (zoo / NAME / "replay.mp4").write_bytes(bytes(60_000_001))
    with pytest.raises(ConfigError, match=r"the zoo has 60,\d+,\d+ bytes, expected at most 60,000"):
        ZOO["check_sizes"]()
