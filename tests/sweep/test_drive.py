"""Sweeps: what a file may say, which runs it means, and what a killed one goes on from."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agentzoo.runtime.errors import (
    AgentZooError,
    ConfigError,
    EnvironmentStringError,
    RunError,
)
from agentzoo.sweep.drive import sweep
from agentzoo.sweep.plan import RunPlan, SearchRange, read_plan
from agentzoo.sweep.processes import LOG, Ended, is_finished, run_here
from agentzoo.sweep.search import OptunaSearch, last_value
from agentzoo.train.checkpoint import Counters, newest

ROOT = Path(__file__).parents[2]
PENDULUM = "gym:Pendulum-v1,max_episode_steps=20"
FILE = f'agent = "planet"\ntask = "{PENDULUM}"\npreset = "debug"\nsteps = 60\n'
SEARCH = f"{FILE}[search]\ntrials = 3\n"
SMALL = "[set]\nfinal_episodes = 1\nreport_every = 0\n"


def plan(folder: Path, text: str = FILE):
    path = folder / "night.toml"
    path.write_text(f'folder = "{folder / "sweep"}"\n{text}')
    return read_plan(path)


def test_runs_are_tasks_by_settings_by_seeds(tmp_path: Path) -> None:
    text = FILE.replace("task =", "tasks =").replace(
        f'"{PENDULUM}"', f'["{PENDULUM}", "gym:Acrobot-v1"]'
    )
    found = plan(
        tmp_path, text + "seeds = [3, 5]\n[grid]\nbatch_size = [4, 8]\nmodel_lr = [1e-3]\n"
    )
    runs = found.runs()
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * 2
    assert [run.seed for run in runs] == [3] * 4 + [5] * 4  # every setting is seen early
    assert runs[0].settings == {"batch_size": 4, "model_lr": 1e-3}
    assert runs[0].label == "planet batch_size=4 model_lr=0.001"
    assert runs[0].name.startswith("planet-gym-pendulum-v1-")


def test_a_name_is_the_settings_and_not_their_order_or_the_steps(tmp_path: Path) -> None:
    one = plan(tmp_path, FILE + "[set]\nbatch_size = 4\nenvs = 1\n").runs()[0]
    other = plan(tmp_path, FILE.replace("60", "90") + "[set]\nenvs = 1\nbatch_size = 4\n").runs()[0]
    assert one.name == other.name
    assert plan(tmp_path, FILE + "[set]\nbatch_size = 5\nenvs = 1\n").runs()[0].name != one.name


def test_a_search_draws_from_ranges_and_choices(tmp_path: Path) -> None:
    space = "[search.space]\nmodel_lr = {low = 1e-4, high = 1e-2, log = true}\n"
    space += "batch_size = {low = 2, high = 8}\n"
    found = plan(tmp_path, f"{FILE}[search]\ntrials = 4\n{space}precision = ['fp32']\n").search
    assert found is not None
    assert found.space == {
        "model_lr": SearchRange(1e-4, 1e-2, log=True),
        "batch_size": SearchRange(2, 8, whole=True),
        "precision": ["fp32"],
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (FILE + "sedes = 3\n", 'has "sedes"; did you mean "seeds"'),
        (FILE.replace("task", "env"), 'has "env"; did you mean "task"'),
        (FILE.replace("60", "0"), "steps is 0, expected a whole number of at least 1"),
        (FILE.replace('agent = "planet"', 'agent = "planett"'), "no agent called"),
        (FILE.replace("task", "tesk"), 'has "tesk"'),
        (FILE + "seeds = [1, 1]\n", "a list of different ones"),
        (FILE + "seeds = 0\n", "a number of seeds"),
        (FILE + '[grid]\nbatch_sise = [1]\n', 'did you mean "batch_size"'),
        (FILE + "[grid]\nbatch_size = 4\n", "expected a list of values"),
        (FILE + "[grid]\nbatch_size = [0]\n", "batch_size=0 has to be at least 1"),
        (FILE + '[set]\nprecision = "fp8"\n', "precision='fp8' is not known"),
        (SEARCH, "no .search.space."),
        (f"{SEARCH}[search.space]\nmodel_lr = {{low = 2, high = 1}}\n", "low below high"),
        (f"{SEARCH}[search.space]\nmodel_lr = [1e-3]\n[grid]\nenvs = [1]\n", "leave one"),
        (f"{SEARCH}[search.space]\nbatch_size = [4, 0, 8]\n", "batch_size=0 has to be"),
        (f"{SEARCH}[search.space]\nbatch_size = {{low = 4.0, high = 8.0}}\n", "expected int"),
        (f"{SEARCH}[search.space]\nmodel_lr = {{low = 0.0, high = 1.0, log = true}}\n", "above 0"),
        (f"{SEARCH}[search.space]\nmodel_lr = {{low = 0.1, high = 'x'}}\n", "numbers low below"),
        (f"{SEARCH}[search.space]\nbatch_size = {{low = 2, high = 8, step = 0.5}}\n", "whole"),
        (f"{SEARCH}seed = 'x'\n[search.space]\nenvs = [1]\n", "seed is 'x', expected"),
        (FILE + "[grid]\nmodel_lr = [1e-3, 0.001]\n", "names a run twice"),
        (FILE + 'runner = "slurm"\n', "expected processes or ray"),
        ("agent = ", "is no TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_before_anything_runs(
    tmp_path: Path, text: str, match: str
) -> None:
    with pytest.raises(AgentZooError, match=match):
        plan(tmp_path, text)
    assert not (tmp_path / "sweep").exists()


def test_an_unknown_task_too(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentStringError, match="gm"):
        plan(tmp_path, FILE.replace("gym:", "gm:"))
    with pytest.raises(ConfigError, match="there is no file"):
        read_plan(tmp_path / "none.toml")


def test_optuna_is_asked_and_told_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = "[search.space]\nmodel_lr = {low = 1e-4, high = 1e-2}\nprecision = ['fp32', 'bf16']\n"
    found = plan(tmp_path, f"{FILE}seeds = 2\n[search]\ntrials = 3\n{space}")
    folder = tmp_path / "sweep"
    folder.mkdir()

    def over(run, value: float | None) -> Ended:
        place = folder / run.name
        place.mkdir(exist_ok=True)
        if value is not None:
            line = {"env_step": 60, "eval/mean_reward": value}
            (place / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return Ended(run, place, "" if value is not None else "exit code 1")

    search = OptunaSearch(found, folder)
    first, second = next(search), next(search)
    assert (first.seed, second.seed) == (0, 1)
    assert first.settings == second.settings
    assert 1e-4 <= first.settings["model_lr"] <= 1e-2
    search.ended(over(first, 1.0))
    search.ended(over(second, 2.0))
    third = next(search)  # of the second trial, which stays open: the sweep is killed here

    again = OptunaSearch(found, folder)
    runs = list(again)
    assert [run.settings for run in runs[:2]] == [third.settings] * 2  # what was half done
    assert len(runs) == 4  # and the third trial
    assert len({json.dumps(run.settings) for run in [first, *runs]}) == 3
    for run in runs[:2]:
        again.ended(over(run, 7.0))
    again.ended(over(runs[2], None))  # one run of the third failed, so the trial has no value
    again.ended(over(runs[3], 9.0))
    rows = again.table().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 7", "| 1.5"]
    assert list(OptunaSearch(found, folder)) == []  # three trials were made


def ended(run: RunPlan, folder: Path, value: float) -> Ended:
    """The end of a run that was never made, with one evaluation in its lines."""
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    line = {"env_step": 60, "eval/mean_reward": value}
    (place / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return Ended(run, place)


def test_a_setting_that_is_drawn_twice_at_a_time_is_one_run(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = "[search.space]\nprecision = ['fp32', 'bf16']\n"
    found = plan(tmp_path, f"{FILE}[search]\ntrials = 6\n{space}")
    (tmp_path / "sweep").mkdir()
    search = OptunaSearch(found, tmp_path / "sweep")
    runs = list(search)  # none has ended before the last is asked for
    assert sorted(run.settings["precision"] for run in runs) == ["bf16", "fp32"]
    for run in runs:
        search.ended(ended(run, tmp_path, 1.0))
    assert len(search.table().splitlines()) == 2 + 6  # each trial has its value
    assert {run.name for run in search.complete()} == {run.name for run in runs}


def test_a_search_that_goes_on_knows_the_runs_of_before(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = "[search.space]\nmodel_lr = [1e-3, 1e-4]\n"
    text = f"{FILE}[search]\ntrials = 1\n{space}{SMALL}"
    assert len(sweep(plan(tmp_path, text), lambda _: None)) == 1
    folder = tmp_path / "sweep"
    (folder / "curves.png").unlink()
    (folder / "table.md").unlink()
    assert sweep(plan(tmp_path, text)) == []
    assert (folder / "curves.png").stat().st_size > 0
    assert len((folder / "table.md").read_text().splitlines()) == 3
    for other in (text.replace("steps = 60", "steps = 90"), "seeds = 2\n" + text):
        with pytest.raises(RunError, match="with its seeds and steps"):
            sweep(plan(tmp_path, other))


def test_a_metric_that_no_line_has_is_said(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    told: list[str] = []
    text = (
        f"{FILE}[search]\ntrials = 1\nmetric = 'eval/reward'\n[search.space]\nenvs = [1]\n{SMALL}"
    )
    sweep(plan(tmp_path, text), told.append)
    assert told[0].endswith("seed 0: no eval/reward")


def test_the_last_finite_value_counts(tmp_path: Path) -> None:
    assert last_value(tmp_path, "eval/mean_reward") is None
    lines = [{"env_step": 1, "loss": 2.0}, {"env_step": 2, "loss": 3.0}, {"env_step": 3}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert last_value(tmp_path, "loss") == 3.0
    (tmp_path / "metrics.jsonl").write_text(text + '{"env_step": 4, "loss": "nan"}\n')
    assert last_value(tmp_path, "loss") is None


def test_a_sweep_runs_keeps_what_is_finished_and_grows(tmp_path: Path) -> None:
    told: list[str] = []
    found = plan(tmp_path, f"{FILE}seeds = 1\n{SMALL}")
    (end,) = sweep(found, told.append)
    assert (end.error, is_finished(end.folder, 60)) == ("", True)
    assert told[0].startswith(f"1 of 1: planet, {PENDULUM}, seed 0: -")
    assert "| gym:Pendulum-v1,max_episode_steps=20 |" in (found.folder / "table.md").read_text()
    assert (found.folder / "curves.png").stat().st_size > 0
    before = (end.folder / LOG).stat().st_mtime_ns
    (again,) = sweep(found, told.append)
    assert (again.folder / LOG).stat().st_mtime_ns == before  # it was not started again
    with pytest.raises(RunError, match="holds another sweep"):
        sweep(plan(tmp_path, f"{FILE}[set]\nfinal_episodes = 2\n"))


def test_a_run_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    (good,) = plan(tmp_path, f"{FILE}{SMALL}").runs()
    bad = replace(good, settings={"batch_size": 0}, label="bad")
    found = {end.plan.label: end.error for end in run_here(iter([bad, good]), tmp_path, 2)}
    assert found["planet"] == ""
    assert "exit code 2: agentzoo: batch_size=0 has to be at least 1" in found["bad"]


DRIVER = """
import sys; from pathlib import Path
from agentzoo.sweep.drive import sweep; from agentzoo.sweep.plan import read_plan
sweep(read_plan(Path(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children end a moment later")
def test_a_sweep_whose_driver_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    text = f"{FILE.replace('60', '400')}{SMALL}checkpoint_every = 40\nprefill = 60\n"
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir(), whole.mkdir()
    plan(killed, text)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(killed / "night.toml")], cwd=ROOT)
    (run,) = plan(whole, text).runs()
    place = killed / "sweep" / "runs" / run.name
    until(lambda: (found := newest(place / "checkpoints")) and found.name >= "000003")
    (child,) = children(driver.pid)
    driver.kill()
    driver.wait()
    until(lambda: not Path(f"/proc/{child}").exists() or state(child) == "Z")
    assert not is_finished(place, 400)

    (end,) = sweep(plan(killed, text))
    assert end.error == ""
    assert "resumed from step" in (place / LOG).read_text()
    (other,) = sweep(plan(whole, text))
    ends = [newest(one.folder / "checkpoints") for one in (end, other)]
    one, two = [(found / "model.safetensors").read_bytes() for found in ends]
    assert one == two
    counts = [Counters.read(found / "training").updates for found in ends]
    assert counts[0] == counts[1] > 0


def until(true, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
