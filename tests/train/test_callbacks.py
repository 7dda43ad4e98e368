"""Callbacks of a run: which events they are told of, with what, in which order."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from agentzoo.agent import Agent
from agentzoo.train.callbacks import Callback
from agentzoo.train.events import Run
from agentzoo.train.logger import read_metrics
from tests.agents.contract import PENDULUM
from tests.agents.toys import TOYS

FIELDS = {
    "prefill": 10**6,
    "repeat": 1,
    "log_every": 40,
    "eval_every": 0,
    "checkpoint_every": 80,
    "checkpoint_grace": 0,  # episodes are cut at the decision after a checkpoint is due
}


def toy(**fields: object) -> Agent:
    return TOYS["TruncatedActor"](
        PENDULUM, preset="debug", device="cpu", seed=3, **(FIELDS | fields)
    )


class Record(Callback):
    """Records each event with the step of the run; of a log line, also what the file held by then.

    Args:
        name: stands before each event.
        events: shared with other callbacks, to see their order.
    """

    def __init__(self, name: str = "", events: list[tuple[str, int]] | None = None) -> None:
        self.name, self.events = name, [] if events is None else events
        self.lines: list[dict[str, float]] = []
        self.written: list[int] = []

    def _record(self, event: str, training: Run) -> None:
        self.events.append((self.name + event, training.counters.env_step))

    def on_start(self, training: Run) -> None:
        self._record("start", training)

    def on_log(self, training: Run, line: Mapping[str, float]) -> None:
        self._record("log", training)
        self.lines.append(dict(line))
        self.written.append(len(read_metrics(training.folder)))

    def on_checkpoint(self, training: Run, path: Path) -> None:
        self._record("checkpoint", training)

    def on_end(self, training: Run) -> None:
        self._record("end", training)


class Fail(Callback):
    def on_log(self, training: Run, line: Mapping[str, float]) -> None:
        raise LookupError(f"no room for step {line['env_step']}")


def test_a_log_line_is_told_once_it_is_written(tmp_path: Path):
    record = Record()
    toy().learn(120, run=tmp_path, callbacks=[record], progress=False)
    file = read_metrics(tmp_path)
    assert record.written == [1, 2, 3]
    assert record.lines == [
        {name: value for name, value in line.items() if name != "time/wall_s"} for line in file
    ]
    assert [line["replay/rows"] for line in record.lines] == [41, 81, 122]  # as of then


def test_a_log_line_comes_after_the_steps_and_before_the_checkpoint_and_the_end(tmp_path: Path):
    record = Record()
    toy().learn(100, run=tmp_path, callbacks=[record], progress=False)
    assert record.events == [
        ("start", 0),
        ("checkpoint", 0),
        ("log", 40),
        ("log", 80),
        ("checkpoint", 81),
        ("log", 100),
        ("checkpoint", 100),
        ("end", 100),
    ]


def test_callbacks_are_told_in_the_order_given(tmp_path: Path):
    events: list[tuple[str, int]] = []
    both = [Record("a ", events), Record("b ", events)]
    toy().learn(80, run=tmp_path, callbacks=both, progress=False)
    logs = [name for name, _ in events if name.endswith("log")]
    assert logs == ["a log", "b log", "a log", "b log"]


def test_a_function_in_place_of_a_callback_is_told_the_same_lines(tmp_path: Path):
    record = Record()
    lines: list[dict[str, float]] = []
    toy().learn(80, run=tmp_path, callbacks=[record, lines.append], progress=False)
    assert lines == record.lines
    assert [line["env_step"] for line in lines] == [40, 80]


def test_an_exception_in_a_callback_ends_the_run_without_a_checkpoint(tmp_path: Path):
    record, after = Record(), Record()
    with pytest.raises(LookupError, match="no room for step 40"):
        toy().learn(120, run=tmp_path, callbacks=[record, Fail(), after], progress=False)
    assert record.events == [("start", 0), ("checkpoint", 0), ("log", 40)]
    assert after.events == [("start", 0), ("checkpoint", 0)]  # not told, as it stands behind
    assert [line["env_step"] for line in read_metrics(tmp_path)] == [40]
    again = Record()
    toy().learn(80, run=tmp_path, callbacks=[again], progress=False)  # from the newest checkpoint
    assert again.events == [("start", 0), ("log", 40), ("log", 80), ("checkpoint", 80), ("end", 80)]
    assert [line["env_step"] for line in read_metrics(tmp_path)] == [40, 80]
