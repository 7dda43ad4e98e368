"""A run's folder that was damaged is refused with a sentence, or goes on as if it had not been."""

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentzoo
from agentzoo import DreamerV3
from agentzoo.algorithm import module
from agentzoo.runtime.errors import AgentZooError, ReplayError, RunError
from agentzoo.runtime.server.page.runs import Runs
from agentzoo.starts import replayed_starts
from agentzoo.testing import one_thread
from agentzoo.train import checkpoint
from agentzoo.train.callbacks import Callback
from agentzoo.train.events import Run
from agentzoo.train.logger import read_metrics
from agentzoo.train.run_folder import locked, read_total
from tests.damage import (
    Damage,
    dangling,
    flip,
    folder,
    garbage,
    nested,
    pipe,
    remove,
    swapping,
    truncate,
)

STEPS = 60
FIELDS: dict[str, Any] = {
    "preset": "debug", "device": "cpu", "seed": 3, "prefill": 20, "train_ratio": 4.0,
    "batch_size": 2, "batch_length": 8, "checkpoint_every": 30, "log_every": 20, "report_every": 0,
    "replay_rows": 2_048,
}  # fmt: skip


class World(gym.Env[np.ndarray, np.ndarray]):
    """Episodes of ten steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0, False, self.t >= 10, {}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with one_thread():
        DreamerV3(World(), **FIELDS).learn(STEPS, run=folder, progress=False)
    return folder


class RestoredError(Exception):
    """State that a sitting goes on from."""


class Stop(Callback):
    def on_start(self, training: Run) -> None:
        replay = training.folder / "seen"
        training.replay.save(replay)
        learned = {"network": module(training.learner.algorithm).state_dict()}
        for name, one in training.learner.algorithm.optimizers().items():
            learned[name] = one.state_dict()
        found = [
            f"{of}.{name} {tensor.dtype} {tensor.numpy().tobytes().hex()}"
            for of, state in learned.items()
            for name, tensor in state.items()
        ]
        found += [
            f"{p.name} {p.read_bytes().hex()}" for p in sorted(replay.rglob("*")) if p.is_file()
        ]
        counters = {**vars(training.counters)}
        found.append(f"{counters} {training.learner.seed} {training.learner.config}")
        raise RestoredError(hashlib.sha256("\n".join(found).encode()).hexdigest())


def resumed(run: Path) -> str:
    """The digest of what a sitting would go on from.

    Raises:
        AgentZooError: if it cannot go on.
    """
    read_total(run)
    with pytest.raises(RestoredError) as caught, one_thread():
        agentzoo.load(run, device="cpu").learn(
            STEPS + 40, World(), run=run, callbacks=[Stop()], progress=False
        )
    return str(caught.value)


# -- damage --------------------------------------------------------------------------------------


def append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 16, 1_000])))


def link(path: Path, rng: random.Random) -> None:
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


def surrogate(path: Path, rng: random.Random) -> None:
    path.write_text('{"\\ud800": "\\ud800"}')


BYTES: list[Damage] = [flip, truncate, append, garbage, remove, folder, link, dangling, pipe]
WHOLE: list[Damage] = [nested, surrogate]  # of files that hold JSON
VALUES: list[object] = [
    None, True, -1, 0, 1.5, 1 << 62, -(1 << 70), 10**400, "", "x", [], [[]], {}, {"x": 1},
    float("nan"), float("inf"), "\ud800",
]  # fmt: skip


swap = swapping(VALUES)


def files(run: Path) -> list[str]:
    """Files that a resumed run reads: the newest checkpoint, and what stands beside it."""
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    found = [one for one in newest.rglob("*") if one.is_file()]
    found += [run / "config.json", run / "goal.json", run / "metrics.jsonl"]
    return sorted(one.relative_to(run).as_posix() for one in found)


def copied(run: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(run, place)


def attempt(run: Path, place: Path, name: str, damage: Damage, seed: int) -> str | None:
    """State that a damaged copy of a run goes on from; None if it is refused."""
    copy = copied(run, place)
    damage(copy / name, random.Random(seed))
    try:
        return resumed(copy)
    except AgentZooError:
        return None


def test_the_untouched_run_goes_on_twice_alike(run: Path, tmp_path: Path) -> None:
    assert resumed(copied(run, tmp_path / "a")) == resumed(copied(run, tmp_path / "b"))


def attempts(run: Path, place: Path, rounds: int, seed: int) -> None:
    """Damage every file in `rounds` ways that chance chooses."""
    right = resumed(copied(run, place / "right"))
    rng = random.Random(seed)
    refused = 0
    for name in files(run):
        kinds = [*BYTES, *([swap, swap, *WHOLE] if name.endswith(".json") else [])]
        for damage in rng.sample(kinds, rounds):
            found = attempt(run, place / "copy", name, damage, rng.randrange(1 << 30))
            assert found in (None, right), (name, damage.__name__)
            refused += found is None
    assert refused > 5 * rounds


def test_damage_is_refused_or_harmless(run: Path, tmp_path: Path) -> None:
    attempts(run, tmp_path, 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_more_damage_is_refused_or_harmless(run: Path, tmp_path: Path, seed: int) -> None:
    attempts(run, tmp_path, 6, seed)


def without_checksums(run: Path, place: Path) -> Path:
    """The run as an earlier version would have written it."""
    old = copied(run, place)
    newest = checkpoint.newest(old / "checkpoints")
    assert newest is not None
    (newest / checkpoint.CHECKSUMS).unlink()
    state = newest / "training" / "replay" / "replay.json"
    content = json.loads(state.read_text())
    del content["checksums"]
    state.write_text(json.dumps(content))
    return old


@pytest.mark.parametrize("rounds", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_checkpoint_without_checksums_is_refused_or_read(
    run: Path, tmp_path: Path, rounds: int
) -> None:
    """Its numbers may be other ones, but nothing breaks."""
    old = without_checksums(run, tmp_path / "old")
    right = resumed(copied(run, tmp_path / "right"))
    assert resumed(copied(old, tmp_path / "copy")) == right
    rng = random.Random(0)
    for name in files(old):
        kinds = [flip, truncate, swap] if name.endswith(".json") else [flip, truncate, append]
        if name.endswith("config.json"):
            kinds = [flip, truncate]  # a network of any size may be asked for
        for damage in kinds * rounds:
            attempt(old, tmp_path / "copy", name, damage, rng.randrange(1 << 30))


# -- each of them by itself ----------------------------------------------------------------------

NEWEST = "checkpoints/000003/"


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "config.json", "training/optimizer.safetensors",
        "training/counters.json", "training/replay/replay.json",
        "training/replay/env00/open.rows", "training/replay/env00/episodes.i64",
        "training/replay/env00/deter.column",
    ],
)  # fmt: skip
def test_one_bit_of_a_checkpoint_is_noticed(run: Path, tmp_path: Path, name: str) -> None:
    copy = copied(run, tmp_path / "copy")
    path = copy / NEWEST / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(
        AgentZooError, match=rf"{path.name} .*(not what|cannot be read|is not JSON)"
    ):
        resumed(copy)


def test_the_checkpoint_before_a_damaged_one_stands(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "copy")
    (copy / NEWEST / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"remove the folder .*000003 to go on from the") as caught:
        resumed(copy)
    assert "000003" in str(caught.value)
    shutil.rmtree(copy / NEWEST)
    assert resumed(copy) != resumed(copied(run, tmp_path / "right"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("counters.json", {"env_step": "60"}),
        ("counters.json", {"started": 6}),
        ("counters.json", {"rows": [-1]}),
        ("counters.json", {"interrupted": 1}),
        ("counters.json", {"unknown": 1}),
        ("counters.json", {"format": None}),
        ("replay/replay.json", {"chunk_rows": 0}),
        ("replay/replay.json", {"chunk_rows": 1 << 40}),
        ("replay/replay.json", {"streams": [[0, 1 << 60, 0, 0]]}),
        ("replay/replay.json", {"streams": [[0]]}),
        ("replay/replay.json", {"streams": None}),
        ("replay/replay.json", {"mutable": {}}),
        ("replay/replay.json", {"checksums": {"env00/open.rows": "x"}}),
    ],
    ids=range(13),
)
def test_a_counter_that_is_none_is_refused(
    run: Path, tmp_path: Path, name: str, change: Mapping[str, object]
) -> None:
    old = without_checksums(run, tmp_path / "old")
    path = old / NEWEST / "training" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((RunError, ReplayError), match=r"damaged|resume with the settings"):
        resumed(old)


def test_weights_of_another_type_are_not_converted(run: Path, tmp_path: Path) -> None:
    old = without_checksums(run, tmp_path / "old")
    for path in (
        old / NEWEST / "model.safetensors",
        old / NEWEST / "training/optimizer.safetensors",
    ):
        content = path.read_bytes()
        path.write_bytes(content.replace(b'"F32"', b'"I32"', 1))
        with pytest.raises(AgentZooError, match=r"as torch.int32, .* torch.float32"):
            resumed(old)
        path.write_bytes(content)
    resumed(old)


@pytest.mark.parametrize(
    "text",
    ["", "[", "[" * 100_000, "{}", '{"total_steps": 1e999}', '{"total_steps": "60"}',
     '{"total_steps": 0}', '{"total_steps": 1.5}', '{"total_steps": %s}' % ("1" * 400)],
    ids=range(9),
)  # fmt: skip
def test_a_total_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    assert read_total(tmp_path) is None
    (tmp_path / "goal.json").write_text(text)
    with pytest.raises(RunError, match="does not say the run's"):
        read_total(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"x": %s}' % ("1" * 400), '{"x": [1]}', "[1]"],
    ids=range(4),
)
def test_a_log_that_holds_no_numbers_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"env_step": 1}}\n{line}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl, line 2: .* is not a JSON"):
        read_metrics(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(RunError, match="is not text"):
        read_metrics(path)


def test_a_folder_in_the_locks_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(RunError, match="the run's lock is a file; remove it"), locked(tmp_path):
        pass


def test_the_page_reads_on_behind_lines_that_are_none(tmp_path: Path) -> None:
    lines = ['{"env_step": 1, "a": 2}', "[" * 100_000, '{"env_step": %s}' % ("1" * 400),
             '{"env_step": 3, "a": %s, "b": 1}' % ("1" * 400)]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "config.json").write_text("[" * 100_000)
    (found,) = Runs(tmp_path).refresh()
    assert found.curves == {"a": [(1.0, 2.0)], "b": [(3.0, 1.0)]}


def test_dreams_begin_in_no_damaged_replay(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "copy")
    replay = copy / NEWEST / "training" / "replay"
    spec = agentzoo.load(copy, device="cpu").spec
    assert replayed_starts(replay, spec)
    path, chunk = replay / "replay.json", replay / "env00" / "open.rows"
    right, content = json.loads(path.read_text()), chunk.read_bytes()
    chunk.write_bytes(content[:20])
    with pytest.raises(ReplayError, match=r"open.rows ends before transition"):
        replayed_starts(replay, spec)
    for change in ({"rows": 3}, {"rows": [["x", "|O"]]}, {"rows": [["x", "<f4"]]},
                   {"streams": [[1024, 2048, 0, 0]]}):  # fmt: skip
        path.write_text(json.dumps({**right, **change}))
        with pytest.raises(ReplayError, match="damaged"):
            replayed_starts(replay, spec)
