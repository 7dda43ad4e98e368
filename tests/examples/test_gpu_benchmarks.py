"""The GPU's benchmarks run to their end on a CPU, at debug sizes."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dm_control")

ROOT = Path(__file__).parents[2]
ON_A_CPU = ("--device", "cpu", "--debug")


def table(script: str, *arguments: str) -> list[list[str]]:
    """The cells of the lines below a script's table head."""
    path = ROOT / "benchmarks" / "gpu" / f"{script}.py"
    command = [sys.executable, str(path), *ON_A_CPU, *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line[:1] == "|"]
    return rows[2:]


@pytest.mark.slow
def test_updates_times_every_agent_in_each_precision_a_cpu_has() -> None:
    rows = table("updates", "--updates", "1", "--rounds", "1")
    agents = ["dreamer", "dreamer_v2", "planet", "dreamer_v3_12m", "dreamer_v3_200m"]
    assert [row[:3] for row in rows] == [
        [agent, precision, "kernel by kernel"] for agent in agents for precision in ("fp32", "bf16")
    ]
    assert all(float(row[3].split()[0]) > 0 and float(row[4]) == 1 for row in rows)


@pytest.mark.slow
def test_loop_says_how_long_a_run_takes(tmp_path: Path) -> None:
    few = ("--prefill", "1100", "--minutes", "0.02", "--frames", "1e5")
    rows = table("loop", "--envs", "2", "--precision", "fp32", "--folder", str(tmp_path), *few)
    (row,) = rows
    assert row[:4] == ["dreamer", "2", "fp32", "auto"]
    rate, hours = float(row[4].replace(",", "")), float(row[7])
    assert rate > 0
    assert hours == pytest.approx(1e5 / rate / 3600, abs=0.06)  # both are rounded
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_learn_leaves_runs_that_go_on_and_scores_beside_the_published_ones(tmp_path: Path) -> None:
    given = (
        "--runs",
        str(tmp_path),
        "--tasks",
        "walker-walk",
        "--envs",
        "1",
        "--precision",
        "fp32",
    )
    first = table("learn", *given, "--frames", "1500")
    assert [row[:2] for row in first] == [["walker-walk", "1,500"]]  # the final policy's
    assert (tmp_path / "walker-walk" / "learning_curve.png").exists()
    again = table("learn", *given, "--frames", "2100")
    assert [row[:2] for row in again] == [["walker-walk", "2,100"]]
    assert int(again[0][3]) == 4  # at 1,000 and 2,000, and at each end


def test_a_point_is_the_mean_of_the_evaluations_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' bins are labelled by their ends, and hold no score from beyond."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "gpu"))
    learn = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "learn.py"))
    lines = [
        f'{{"env_step": {step}, "eval/mean_reward": {step / 1000}}}\n'
        for step in range(5_000, 130_000, 10_000)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    points = learn["points"](tmp_path)
    assert list(points) == [105_000, 125_000]
    assert points[105_000] == [15, 25, 35, 45, 55, 65, 75, 85, 95, 105]
    assert points[125_000] == [35, 45, 55, 65, 75, 85, 95, 105, 115, 125]
    assert learn["row"]("walker-walk", 105_000, points[105_000]).count("137 ± 58") == 1
