"""W&B, MLflow and trackio, their real clients without a net: what two sittings of a run leave.

AGENTZOO_TRACKERS_PYTHON names the interpreter that has them; `.ci/trackers VENV` makes one.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interpreters import interpreter_of

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("drive_tracker.py")
TITLE = "Dreamer, dmc:walker-walk, seed 3"
SETTINGS = {
    "agent": "Dreamer",
    "env": "dmc:walker-walk?repeat=2",
    "seed": 3,
    "lr": 1e-3,
    "units": "(3, 4)",
}


@pytest.fixture(scope="module")
def interpreter() -> str:
    return interpreter_of("AGENTZOO_TRACKERS_PYTHON", ".ci/trackers")


def kept(interpreter: str, tracker: str, folder: Path) -> dict[str, Any]:
    """Log that a tracker kept of a run that was killed after step 30 and went on from step 20."""
    (folder / "run").mkdir()
    places = {
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"file:{folder / 'mlflow'}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    done = subprocess.run(
        [interpreter, str(DRIVER), tracker, str(folder / "run")],
        env={**os.environ, **places},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the log goes to" not in done.stderr  # no sink was given up
    lines = done.stdout.splitlines()  # trackio adds its own
    return json.loads(next(line for line in lines if line.startswith("{")))


def test_wandb_goes_on_in_the_same_run(interpreter: str, tmp_path: Path) -> None:
    found = kept(interpreter, "wandb", tmp_path)
    assert len(found["runs"]) == 2  # two sittings, which `wandb sync` joins
    assert len(set(found["runs"])) == 1
    assert found["titles"] == [TITLE, TITLE]
    assert found["config"] == [SETTINGS, SETTINGS]
    assert found["lines"] == [[10, 1.0], [20, 2.0], [30, 3.0], [25, 2.5]]
    assert found["media"] == [".mp4", ".mp4", ".png", ".png"]


def test_mlflow_goes_on_in_the_same_run(interpreter: str, tmp_path: Path) -> None:
    found = kept(interpreter, "mlflow", tmp_path)
    assert found["runs"] == 1
    assert (found["title"], found["status"]) == (TITLE, "FINISHED")
    assert found["params"] == {name: str(one) for name, one in SETTINGS.items()}
    assert found["lines"] == [[10, 1.0], [20, 2.0], [25, 2.5], [30, 3.0]]
    assert found["files"] == ["pictures/learning_curve.png", "films/dream_image.mp4"]


def test_trackio_goes_on_in_the_same_run(interpreter: str, tmp_path: Path) -> None:
    found = kept(interpreter, "trackio", tmp_path)
    assert found["runs"] == [f"{TITLE}, run"]
    assert SETTINGS.items() <= found["config"].items()
    assert found["lines"] == [[10, 1.0], [20, 2.0], [30, 3.0], [25, 2.5]]
    assert found["media"] == ["trackio.image"] * 2 + ["trackio.video"] * 2
