"""Training's commands: what can be set, going on with a run, and what is missing."""

import json
from pathlib import Path

import pytest

from agentzoo import Dreamer, PlaNet
from agentzoo.cli import main as cli
from agentzoo.cli.help_config import page
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.train.callbacks import Callback
from agentzoo.train.checkpoint import Counters, newest
from agentzoo.train.loop import Training
from agentzoo.train.run_folder import read_total, write_total

TASK = "gym:Pendulum-v1"
SMALL = {"prefill": 200, "final_episodes": 0, "eval_every": 0, "report_every": 0}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


class StopAt(Callback):
    """Stops a run as a person would, without its total."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Training) -> None:
        training.stop = training.counters.env_step >= self.step


def steps_of(run: Path) -> int:
    found = newest(run / "checkpoints")
    assert found is not None
    return Counters.read(found / "training").env_step


def test_help_config_lists_fields_presets_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "learn", "planet", "--help-config")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "horizon int 12 at least 1 H, planned steps" in lines
    assert "dynamics str rssm rssm, stochastic, deterministic" in lines
    assert "dmc_vision the defaults" in lines
    assert "dmc:cartpole-swingup repeat=8" in lines
    assert max(map(len, out.splitlines())) <= 100


def test_help_config_shows_a_presets_values() -> None:
    assert "units             int            64 " in page(Dreamer, "cpu")
    with pytest.raises(ConfigError, match=r"Dreamer has no preset 'cpuu'; did you mean \"cpu\""):
        page(Dreamer, "cpuu")


def test_learning_without_an_environment_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "learn", "dreamer")
    assert code == 2
    assert "name one: agentzoo learn dreamer dmc:walker-walk" in err


def test_resume_goes_on_to_the_runs_own_total_and_further(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    agent = PlaNet(TASK, preset="debug", device="cpu", seed=1, **SMALL)
    agent.learn(800, run=run, callbacks=StopAt(300), progress=False)
    assert (steps_of(run), read_total(run)) == (301, 800)
    code, out, err = said(capsys, "resume", str(run), "--device", "cpu")
    assert code == 0, err
    assert "resumed from step 301" in err
    assert f"on:   agentzoo resume {run} --steps TOTAL" in out
    assert steps_of(run) == 800
    assert "is finished: 800 of 800" in said(capsys, "resume", str(run), "--device", "cpu")[1]
    assert said(capsys, "resume", str(run), "--device", "cpu", "--steps", "1000")[0] == 0
    assert (steps_of(run), read_total(run)) == (1_000, 1_000)
    assert json.loads((run / "config.json").read_text())["config"]["prefill"] == 200


def test_what_is_no_run_cannot_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "resume", str(tmp_path))
    assert code == 2
    assert f"{tmp_path} holds no run; give a folder that agentzoo learn wrote" in err


def test_a_runs_total_is_read_or_refused(tmp_path: Path) -> None:
    assert read_total(tmp_path) is None
    write_total(tmp_path, 500)
    assert read_total(tmp_path) == 500
    (tmp_path / "goal.json").write_text("[]")
    with pytest.raises(RunError, match=r"goal\.json does not say the run's"):
        read_total(tmp_path)
