"""A sweep as Ray Tune's trials, in the environment that has Ray.

AGENTZOO_RAY_PYTHON names the interpreter; `.ci/ray_tune VENV PYTHON` makes one.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentzoo.sweep.plan import read_plan
from agentzoo.sweep.processes import LOG, is_finished
from agentzoo.train.checkpoint import newest
from tests.interpreters import interpreter_of

ROOT = Path(__file__).parents[2]
SWEEP = """
agent = "planet"
task = "gym:Pendulum-v1,max_episode_steps=20"
preset = "debug"
steps = 60
seeds = 2
parallel = 2
runner = "ray"
folder = "{folder}"
[set]
final_episodes = 1
report_every = 0
"""
DRIVER = """
import json, sys; from dataclasses import replace; from pathlib import Path
from agentzoo.sweep.drive import sweep; from agentzoo.sweep.plan import read_plan
plan, told = read_plan(Path(sys.argv[1])), []
(first,) = sweep(replace(plan, runner="processes", seeds=(0,)))
log = first.folder / "sweep.log"
before = log.stat().st_mtime_ns
over = sweep(plan, told.append)
kept = log.stat().st_mtime_ns == before
print(json.dumps([told, [[str(end.folder), end.error] for end in over], kept]))
"""


@pytest.fixture(scope="module")
def interpreter() -> str:
    return interpreter_of("AGENTZOO_RAY_PYTHON", ".ci/ray_tune")


def test_runs_are_trials_and_finished_ones_are_kept(interpreter: str, tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    file.write_text(SWEEP.format(folder=tmp_path / "sweep"))

    done = subprocess.run(
        [interpreter, "-c", DRIVER, str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "HOME": str(tmp_path)},  # where Ray leaves a token
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told, over, kept = json.loads(done.stdout.splitlines()[-1])
    assert kept  # the run that had finished was not started again
    assert [error for _, error in over] == ["", ""]
    assert all(is_finished(Path(folder), 60) for folder, _ in over)
    assert told[1].startswith("2 of 2: planet, gym:Pendulum-v1,max_episode_steps=20, seed 1: -")
    assert (tmp_path / "sweep" / "table.md").is_file()
    assert (tmp_path / "sweep" / "curves.png").is_file()
    # Tune has what the other run was evaluated at
    results = [json.loads(line) for path in (tmp_path / "sweep" / "ray").rglob("result.json")
               for line in path.read_text().splitlines()]  # fmt: skip
    assert any("eval/mean_reward" in one for one in results)


SWEEPS = """
import sys; from pathlib import Path
from agentzoo.sweep.drive import sweep; from agentzoo.sweep.plan import read_plan
(end,) = sweep(read_plan(Path(sys.argv[1])))
sys.exit(end.error or 0)
"""


def test_a_killed_sweep_goes_on_by_the_same_command(interpreter: str, tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    text = SWEEP.format(folder=tmp_path / "sweep").replace("steps = 60", "steps = 1000")
    text = text.replace("seeds = 2", "seeds = 1")
    file.write_text(f"{text}checkpoint_every = 40\nprefill = 60\n")
    (run,) = read_plan(file).runs()
    place = tmp_path / "sweep" / "runs" / run.name
    command = [interpreter, "-c", SWEEPS, str(file)]
    env = {**os.environ, "HOME": str(tmp_path)}

    driver = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
    try:
        limit = time.monotonic() + 400
        while not ((found := newest(place / "checkpoints")) and found.name >= "000003"):
            assert driver.poll() is None, "it ended by itself"
            assert time.monotonic() < limit, "no checkpoint came"
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    # Ray's processes are left to notice; the learner would go on until they have
    learner = int((place / "lock").read_text().split()[1])
    os.kill(learner, signal.SIGKILL)
    assert not is_finished(place, 1000)

    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert is_finished(place, 1000)
    log = (place / LOG).read_text()
    assert "resumed from step" in log
    assert (tmp_path / "sweep" / "table.md").is_file()
