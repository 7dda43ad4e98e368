"""Every example runs at debug size and does what its first line says."""

import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from agentzoo.runtime import evaluate, load_policy
from tests.unit_runtime.server.live import serving

pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "examples"


def example(name: str) -> Callable[..., float | None]:
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that learn_cartpole.py leaves."""
    pytest.importorskip("dm_control")
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        example("learn_cartpole")(steps=1_000, preset="debug", folder="cartpole", episodes=1)
    return folder / "cartpole"


def test_learn_cartpole_leaves_a_bundle_and_a_run(bundle: Path) -> None:
    assert {"policy.onnx", "manifest.json", "config.json"} <= {p.name for p in bundle.iterdir()}
    (run,) = (bundle.parent / "runs").iterdir()
    assert (run / "metrics.jsonl").stat().st_size > 0


def test_act_with_onnx_scores_an_episode_without_torch(bundle: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = None\n"
        f"main = runpy.run_path({str(FOLDER / 'act_with_onnx.py')!r})['main']\n"
        f"main({str(bundle)!r})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=FOLDER.parent, capture_output=True, text=True, check=True
    ).stdout
    said, score = done.rsplit(":", 1)
    assert said.startswith("Dreamer on dmc:cartpole-swingup?")
    assert 0 <= float(score) <= 1_000


def test_best_of_100_acts_by_dreams(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 <= (example("best_of_100")(str(bundle), steps=5) or 0) <= 20
    assert "by planning over dreams" in capsys.readouterr().out


def test_load_pretrained_runs_what_came_along(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentzoo.hub.download.ZOO_FOLDERS", (bundle.parent,))
    assert 0 < (example("load_pretrained")("zoo:cartpole", episodes=1) or 0) <= 1_000


def test_load_pretrained_takes_ten_lines_and_what_ships() -> None:
    _, text, code = (FOLDER / "load_pretrained.py").read_text().split('"""')
    assert "without PyTorch" in text
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    recipes = tomllib.loads((FOLDER.parent / "zoo" / "recipes.toml").read_text())
    (shipped,) = (name for name, recipe in recipes.items() if recipe.get("ships"))
    assert f'"zoo:{shipped}"' in code


def test_act_over_the_network_scores_what_the_bundle_scores(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(bundle) as live:
        over_network = example("act_over_the_network")(live.ws, episodes=1)
    here = evaluate(load_policy(bundle, provider="cpu"), episodes=1)
    assert over_network == pytest.approx(here.mean, abs=1e-3)
    assert "mean" in capsys.readouterr().out


def test_own_environment_learns_in_a_users_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example("own_environment")(steps=800, preset="debug", run=str(tmp_path / "run"))
    assert "mean" in capsys.readouterr().out
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) > 0


def test_export_sb3_scores_without_torch_s_library(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    folder = tmp_path / "ppo"
    assert 5 < (example("export_sb3")(steps=64, folder=str(folder), episodes=1) or 0) <= 500
    assert load_policy(folder).spec.agent == "PPO"


def test_every_example_is_run_here() -> None:
    # act_with_openpi.py runs in that client's environment:
    # tests/unit_runtime/server/test_harness_clients.py
    # own_agent.py is a case of tests/agents/test_contract.py
    source = Path(__file__).read_text()
    assert [p.stem for p in FOLDER.glob("*.py") if p.stem not in source] == []


def test_walk_in_a_field_finds_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vizdoom")
    assert 5 < example("walk_in_a_field")(seed=0) < 100
    printed = capsys.readouterr().out
    assert "'map': (64, 64, 1)" in printed
    assert 0 < int(printed.rpartition("trees fill ")[2].rstrip("%\n")) <= 100
