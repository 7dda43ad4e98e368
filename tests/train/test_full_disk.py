"""A disk that is full for a while costs no run, no checkpoint and no transition."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agentzoo.runtime.errors import ReplayError, RunError
from agentzoo.train.logger import read_metrics
from tests.agents.contract import CASES, Keep, assert_same_run
from tests.train.test_loop import counters, toy

STEPS = 2_000
# two checkpoints fall due in it, at 800 and 1,200, and a chunk of 1,024 transitions is full
FULL = (700, 1_300)
FILLED = [sys.executable, "-m", "tests.train.disk_full_worker"]
DISK = 2**21  # bytes; one that is full has to be small


def on_a_small_disk(folder: Path, command: list[str]) -> list[str]:
    """The command in a mount namespace of its own, where a tmpfs lies on the folder."""
    options = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    mount = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && "$@"'
    # what it left is copied out: the namespace ends with the command
    script = f'{mount}; status=$?; rm -rf "$0".left; cp -r "$0" "$0".left; exit $status'
    return ["unshare", *options, "sh", "-c", script, str(folder), *command]


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    folder.mkdir()
    return subprocess.run(on_a_small_disk(folder, ["true"]), capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Keep:
    torch.set_num_threads(1)
    keep = Keep()
    folder = tmp_path_factory.mktemp("untouched")
    for steps in (STEPS, STEPS + 1):  # the second is what follows the filled run, to look at it
        CASES["LatentStore"].make().learn(steps, run=folder, callbacks=[keep], progress=False)
    return keep


@pytest.mark.slow
@pytest.mark.parametrize("how", ["limit", "disk"])
def test_the_run_and_its_last_checkpoint_are_kept(how: str, tmp_path: Path, untouched: Keep):
    folder = tmp_path / how
    command = [*FILLED, how, str(folder), str(STEPS), *map(str, FULL)]
    if how == "disk":
        if not can_mount(folder):
            pytest.skip("no tmpfs can be mounted here; the other way of filling it ran")
        command, folder = on_a_small_disk(folder, command), folder.with_suffix(".left")
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "000001 000002\n"
    for number, due in ((3, 1_200), (4, 1_600)):
        said = (
            rf"checkpoint {number} cannot be written: .*; the run goes on, and {folder.parent}/.*/"
            rf"000002 of step 4\d\d stands; make room before the next .* at step {due:,}"
        )
        assert re.search(said, found.stderr), found.stderr
    assert "metrics.jsonl waits for room on the disk" in found.stderr
    assert "MB wait in memory; make room on the disk" in found.stderr
    resumed = Keep()  # a whole replay, whole metrics, the same weights as if nothing had happened
    agent = CASES["LatentStore"].make()
    agent.learn(STEPS + 1, run=folder / "run", callbacks=[resumed], progress=False)
    lines = [line["env_step"] for line in read_metrics(folder / "run")]
    assert [step // 1_000 for step in lines[:2]] == [1, 2], "none is torn, none is lost"
    assert_same_run(untouched, resumed)


def test_a_run_without_any_checkpoint_does_not_begin(tmp_path: Path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"checkpoint 1 cannot be written: .* make room, or let"):
        toy().learn(400, run=tmp_path, progress=False)


def test_a_run_asks_before_it_begins_for_room_for_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000))
    said = r"replay needs 0\.0 GB .* and 0\.0 GB for checkpoints, but 0\.0 GB are free"
    with pytest.raises(ReplayError, match=said):  # the replay alone would fit
        toy().learn(60, run=tmp_path, progress=False)


def test_a_last_checkpoint_that_cannot_be_written_says_where_to_go_on(tmp_path: Path):
    command = [*FILLED, "limit", str(tmp_path), "700", "500", "1000"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1
    run = tmp_path / "run"
    said = (
        f"RunError: checkpoint 3 cannot be written: .* {run}/checkpoints/000002 of step 4.. stands"
    )
    assert re.search(said, found.stderr), found.stderr
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000001", "000002"]
    CASES["LatentStore"].make().learn(700, run=run, progress=False)
    assert counters(run).env_step >= 700
