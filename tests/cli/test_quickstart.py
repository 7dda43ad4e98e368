"""Words and verdicts of the quickstart; `.ci/run` runs the road itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentzoo.cli import quickstart
from agentzoo.cli.quickstart import Paths, Score
from agentzoo.runtime.errors import RunError

GOOD = Score(600.0, 560.0, 640.0)
RANDOM = Score(110.0, 90.0, 130.0)


def test_it_says_what_it_will_do_and_how_long_it_takes() -> None:
    text = quickstart.announcement(quickstart.STEPS, 3, smoke=False)
    assert f"{quickstart.TASK} for {quickstart.STEPS:,} environment steps with seed 3" in text
    assert f"about {quickstart.MINUTES} min on two cores" in text
    assert "shortened" not in text


def test_the_shortened_run_calls_itself_that() -> None:
    text = quickstart.announcement(quickstart.SMOKE_STEPS, 0, smoke=True)
    assert "This is the shortened run" in text
    assert "min on two cores" not in text


def test_a_good_score_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert quickstart.judge(GOOD, RANDOM, smoke=False)
    out = capsys.readouterr().out
    assert "passed  lower end above the upper end of random's: 560.0 > 130.0" in out
    assert "passed  lower end above half the paper's score: 560.0 > 416.8" in out


@pytest.mark.parametrize(
    ("learned", "failed"),
    [
        (Score(500.0, 400.0, 600.0), ["half the paper's score"]),
        (Score(150.0, 120.0, 180.0), ["upper end of random's", "half the paper's score"]),
    ],
)
def test_a_poor_score_is_said_to_be_one(
    capsys: pytest.CaptureFixture[str], learned: Score, failed: list[str]
) -> None:
    assert not quickstart.judge(learned, RANDOM, smoke=False)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert len(said) == len(failed)
    assert all(claim in line for claim, line in zip(failed, said, strict=True))


def test_a_shortened_run_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert quickstart.judge(RANDOM, RANDOM, smoke=True)
    assert "not judged" in capsys.readouterr().out


def test_the_table_shows_both_policies_and_the_paper() -> None:
    lines = quickstart.table(GOOD, RANDOM).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["640.0", "130.0", "833.7"]


def test_directions_name_only_what_is_there(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.bundle.mkdir()
    text = quickstart.directions(paths)
    assert str(paths.bundle) in text
    assert str(paths.video) not in text
    assert f"agentzoo evaluate {paths.bundle}" in text


def test_the_scoring_process_cannot_import_torch() -> None:
    assert quickstart.SCORE.startswith(quickstart.KEEP_TORCH_OUT)
    code = quickstart.KEEP_TORCH_OUT + "import torch"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("ModuleNotFoundError: torch is kept out of this process\n")


@pytest.mark.slow
def test_the_whole_road_in_its_shortened_form(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("dm_control")
    assert quickstart.run(tmp_path, smoke=True) == 0
    paths = Paths(tmp_path)
    scores = json.loads(paths.scores.read_text())
    assert scores["random"]["low"] <= scores["random"]["mean"] <= scores["random"]["high"]
    assert (paths.bundle / "policy.onnx").is_file()
    assert paths.curve.read_bytes().startswith(b"\x89PNG")
    assert "not judged" in capfd.readouterr().out


def checkpointed(run: Path, env_step: int) -> Path:
    """A run's folder whose newest checkpoint stands at `env_step`."""
    from agentzoo.train.checkpoint import Counters, save

    def write(folder: Path) -> None:
        (folder / "training").mkdir()
        Counters(env_step=env_step, checkpoints=1).write(folder / "training")

    save(run / "checkpoints", 1, write)
    return run


def test_a_stopped_run_is_not_scored(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run = checkpointed(tmp_path, 999)
    with pytest.raises(RunError, match=r"stopped at step 999 of 1,000.*the same command"):
        quickstart.require_whole(run, 1_000)
    quickstart.require_whole(run, 999)


@pytest.mark.parametrize(("stopped", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_stopped_run_ends_with_its_signals_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stopped: BaseException,
    code: int,
) -> None:
    def learn(*_: object) -> None:
        raise stopped

    for name, function in (
        ("learn", learn),
        ("require_packages", lambda: None),
        ("steps_of", lambda _: 7),
    ):
        monkeypatch.setattr(quickstart, name, function)
    assert quickstart.run(tmp_path, smoke=True) == code
    assert "stopped" in capsys.readouterr().out
