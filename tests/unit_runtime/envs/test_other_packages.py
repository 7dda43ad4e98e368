"""Suites that other packages bring: made from public names, and named by their distribution."""

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agentzoo.cli.doctor import other_suites
from agentzoo.runtime import make_env
from agentzoo.runtime.envs import package_of, resolve, settings_of, suites
from agentzoo.runtime.errors import EnvironmentStringError, MissingPackageError

PACKAGE = Path(__file__).parent / "corridor_package"
NAME = "corridor:short"


@pytest.fixture
def corridor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, found as pip would leave it: its module and what its pyproject.toml says."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "agentzoo_corridor-1.2.dist-info"
    info.mkdir()
    name, version = project["name"], project["version"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (entries,) = project["entry-points"].items()
    lines = [f"[{entries[0]}]", *(f"{key} = {value}" for key, value in entries[1].items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "agentzoo_corridor", raising=False)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, corridor: None) -> None:
    """The package that the suite says it needs, as a module that is there."""
    from importlib.machinery import ModuleSpec

    module = ModuleType("corridor_engine")
    module.__spec__ = ModuleSpec("corridor_engine", None)
    monkeypatch.setitem(sys.modules, "corridor_engine", module)


@pytest.mark.usefixtures("engine")
def test_it_is_made_by_its_string() -> None:
    assert "corridor" in suites()
    assert resolve(NAME) == "corridor:short?repeat=1&size=64"
    assert settings_of("corridor:long,size=32") == {"repeat": 1, "size": 32}
    env = make_env(NAME, repeat=3, size=16)
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (16, 16, 3)
    observation, reward, terminated, _, info = env.step(np.int64(1))
    assert (reward, terminated, info["is_success"]) == (1.0, True, True)
    with pytest.raises(EnvironmentStringError, match=r'"corridor:shor".*did you mean "short"'):
        make_env("corridor:shor")
    with pytest.raises(EnvironmentStringError, match=r'did you mean "corridor:short"\?'):
        make_env("short")


@pytest.mark.usefixtures("corridor")
def test_its_missing_package_is_its_own_distributions_business() -> None:
    said = r'"corridor_engine", which is not installed; agentzoo-corridor brings .* pip install'
    with pytest.raises(MissingPackageError, match=said):
        make_env(NAME)


@pytest.mark.usefixtures("corridor")
def test_doctor_card_and_manifest_name_its_distribution() -> None:
    assert package_of("corridor") == "agentzoo-corridor"
    assert ("corridor:", "agentzoo-corridor 1.2") in list(other_suites())
    pytest.importorskip("torch")
    from agentzoo.export import provenance

    assert provenance("corridor:short?repeat=1&size=64")["agentzoo-corridor"] == "1.2"
    assert "agentzoo-corridor" not in provenance("dmc:walker-walk?repeat=2")
