"""Settings of all tests before any of them imports a library, and the fixtures that they share.

`huggingface_hub` reads its settings when it is imported, torch its number of threads when it first
computes, whichever test comes first. Fixtures import what they need, since some tests run where
torch is not installed.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit_hub.standin import StandIn
    from tests.unit_runtime.toys import Toy

os.environ["HF_HUB_DISABLE_XET"] = "1"  # the stand-in for the Hub speaks LFS
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # its bars are threads' business
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same sums on every machine


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[StandIn]":
    """A stand-in for the Hub with nothing in it; cache and token are the test's own."""
    from huggingface_hub import constants

    from tests.unit_hub.standin import TOKEN, serving

    assert constants.HF_HUB_DISABLE_XET, "huggingface_hub was imported before tests/conftest.py"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(tmp_path / "hub") as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to publish, without torch; nothing writes to it."""
    from tests.unit_runtime.bundles import linear

    return linear(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may publish or spoil."""
    return shutil.copytree(made, tmp_path / "bundle")


@pytest.fixture
def another(tmp_path: Path) -> Callable[[int], Path]:
    """Bundles like it, of other seeds."""
    from tests.unit_runtime.bundles import linear

    return lambda seed: linear(tmp_path / f"seed{seed}", seed=seed)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], tuple[Path, Toy]]":
    """Kind -> (a bundle that nothing writes to, the toy it came from), exported on first use."""
    from agentzoo.export import export
    from tests.unit_runtime.toys import KINDS, Toy, toy_spec

    exported: dict[str, tuple[Path, Toy]] = {}

    def bundle(kind: str) -> tuple[Path, Toy]:
        if kind not in exported:
            toy = KINDS[kind]()
            exported[kind] = export(toy, toy_spec(toy), tmp_path_factory.mktemp(kind)), toy
        return exported[kind]

    return bundle
