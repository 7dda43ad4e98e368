"""The stand-in for the Hub, and bundles to publish."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.publishing.bundles import linear
from tests.publishing.standin import TOKEN, StandIn, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in with nothing in it; the client's cache and token are the test's own."""
    from huggingface_hub import constants

    assert constants.HF_HUB_DISABLE_XET, "huggingface_hub was imported before tests/conftest.py"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(tmp_path / "hub") as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nothing writes to."""
    return linear(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may publish or spoil."""
    return shutil.copytree(made, tmp_path / "bundle")


@pytest.fixture
def another(tmp_path: Path) -> Callable[[int], Path]:
    """Bundles of other seeds."""
    return lambda seed: linear(tmp_path / f"seed{seed}", seed=seed)
