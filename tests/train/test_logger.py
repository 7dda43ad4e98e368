"""metrics.jsonl and the progress line."""

import io
import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

from agentzoo.runtime.errors import RunError
from agentzoo.train.logger import Logger, read_metrics
from agentzoo.train.progress import ProgressBar, duration


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write(folder: Path, *steps: int) -> None:
    with Logger(folder) as logger:
        for step in steps:
            logger.write(step, {"loss/dyn": step / 10})


def test_a_line_holds_the_step_the_time_and_the_metrics(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.write(4, {"loss/dyn": 0.5})
        (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()  # flushed at once
    record = json.loads(line)
    assert list(record) == ["env_step", "time/wall_s", "loss/dyn"]
    assert (record["env_step"], record["loss/dyn"]) == (4, 0.5)
    assert isinstance(record["env_step"], int)


def test_non_finite_numbers_are_valid_json_and_come_back(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    (record,) = read_metrics(tmp_path)
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)


def test_resuming_cuts_the_later_lines(tmp_path: Path) -> None:
    write(tmp_path, 10, 20, 30)
    before = read_metrics(tmp_path)[1]["time/wall_s"]
    with Logger(tmp_path, resume_step=20) as logger:
        logger.write(25, {"loss/dyn": 9.0})
    records = read_metrics(tmp_path)
    assert [r["env_step"] for r in records] == [10, 20, 25]
    assert records[-1]["time/wall_s"] >= before
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".cut"] == []


def test_resuming_a_folder_without_metrics_starts_them(tmp_path: Path) -> None:
    with Logger(tmp_path / "new", resume_step=20) as logger:
        logger.write(21, {})
    assert [r["env_step"] for r in read_metrics(tmp_path / "new")] == [21]


def test_a_torn_last_line_is_left_out_and_cut_on_resuming(tmp_path: Path) -> None:
    write(tmp_path, 10)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"env_step": 20, "lo')
    assert [r["env_step"] for r in read_metrics(path)] == [10]
    Logger(tmp_path, resume_step=20).close()
    assert path.read_text() == whole


@pytest.mark.parametrize("line", ["not json", "[1]", '{"env_step": [1]}', '{"a": "b"}'])
def test_a_foreign_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_step": 1}\n' + line + "\n")
    with pytest.raises(RunError, match=r"line 2: .* is not a JSON object of numbers"):
        read_metrics(path)


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no metrics at .*give a run's folder"):
        read_metrics(tmp_path)


def test_speeds_and_time_left_come_from_the_newest_phase() -> None:
    clock = Clock()
    bar = ProgressBar(10_000, enabled=False, clock=clock)
    assert bar.status() == ""
    bar.update(0, phase="prefill")
    clock.now += 1
    bar.update(1_000, phase="prefill")
    assert bar.status() == "prefill, 1,000 steps/s"
    bar.update(1_000, updates=500, phase="learning")
    clock.now += 10
    bar.update(2_000, updates=600, last_return=12.34)
    assert bar.status() == "learning, 100 steps/s, 10.0 updates/s, return 12.3, 80 s left"


def test_a_burst_of_updates_moves_the_status_without_steps() -> None:
    clock = Clock()
    bar = ProgressBar(100, enabled=False, clock=clock)
    bar.update(10, updates=0, phase="learning")
    clock.now += 2
    bar.update(10, updates=4)
    assert bar.status() == "learning, 0 steps/s, 2.0 updates/s"


def test_without_a_terminal_it_prints_a_line_now_and_then() -> None:
    clock, stream = Clock(), io.StringIO()
    with ProgressBar(1_000, stream=stream, clock=clock) as bar:
        for step in range(0, 1_001, 2):
            clock.now += 0.2
            bar.update(step, phase="learning")
        bar.note("a remark")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 100 // 30 + 2  # 100 s at one line each half minute, the note, the end
    assert lines[0].startswith("298 of 1,000 steps (30 %), learning, 10 steps/s")
    assert lines[-2] == "a remark"


def test_in_a_terminal_it_redraws_one_line() -> None:
    stream = Terminal()
    with ProgressBar(1_000, start=500, stream=stream) as bar:
        bar.update(1_000, last_return=3.0, phase="learning")
    text = stream.getvalue()
    assert "500/1.00k" in text
    assert "100%" in text
    assert "return 3.0" in text
    assert text.count("\n") == 1


def test_disabled_it_says_nothing() -> None:
    stream = io.StringIO()
    with ProgressBar(10, enabled=False, stream=stream) as bar:
        bar.update(10)
        bar.note("a remark")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (40.4, "40 s"), (100, "2 min"), (5_399, "1 h 30 min"), (12_000, "3 h 20 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
