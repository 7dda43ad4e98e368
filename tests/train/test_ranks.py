"""Several learners: equal to one, update by update and run by run; one lost ends the run."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import agentzoo
from agentzoo.affordance.map_network import MapModel, MapNetwork
from agentzoo.ranks import Ranks, RunningMoments
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.train.checkpoint import Counters, newest
from agentzoo.train.logger import read_metrics
from tests.train import ranks_maps, ranks_precision, ranks_run, ranks_updates

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def start(
    count: int, *command: str | Path, env: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Processes of Python with torchrun's variables, which meet on loopback."""
    meeting = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**inherited, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


def test_two_halves_of_a_batch_are_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, statistics, moments and metrics of five updates, with one draw of noise."""
    finish(start(2, Path(ranks_updates.__file__), tmp_path))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    apart: list[str] = []
    for name, case in ranks_updates.CASES.items():
        whole, halves = ranks_updates.updates(case), load_file(tmp_path / f"{name}.safetensors")
        assert whole.keys() == halves.keys()
        assert sum(key.startswith("4/") for key in whole) > 5  # metrics of the last update
        apart += [
            f"{name}: {key}"
            for key, value in whole.items()
            if not torch.allclose(halves[key], value, rtol=1e-9, atol=1e-9)
        ]
    assert apart == []


def content(checkpoint: Path) -> dict[str, bytes]:
    """Every file of a checkpoint but for what names the run."""
    found = {
        str(p.relative_to(checkpoint)): p for p in sorted(checkpoint.rglob("*")) if p.is_file()
    }
    return {name: path.read_bytes() for name, path in found.items() if name != "config.json"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes by the command line, as torchrun starts it."""
    run = tmp_path_factory.mktemp("learned") / "run"
    settings = [part for one in ranks_run.SETTINGS for part in ("--set", one)]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "--", "agentzoo", "learn", "dreamer", ranks_run.ENV, "--preset", "debug"),
        *("--seed", str(ranks_run.SEED), "--steps", str(ranks_run.STEPS), "--device", "cpu"),
        *("--log", "none", "--run", str(run), *settings),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"run:  {run}") == 1  # rank 0 alone says it
    return run


def test_torchrun_learns_one_run_with_one_checkpoint(learned: Path) -> None:
    path = newest(learned / "checkpoints")
    assert path is not None
    first, second = (Counters.read(path / "training" / rank) for rank in ("", "rank-1"))
    assert (first.ranks, first.env_step) == (2, second.env_step)
    assert first.env_step >= ranks_run.STEPS
    assert first.updates == second.updates > 20
    assert first.episodes == second.episodes == sum(one.started[0] for one in (first, second))
    assert (
        content(path)["training/replay/env00/open.rows"]
        != content(path)["training/rank-1/replay/env00/open.rows"]
    )
    # chunk files have checksums of their own, whose process they ever are
    listed = json.loads((path / "checksums.json").read_text("utf-8"))
    assert "training/rank-1/counters.json" in listed
    assert not [name for name in listed if "/replay/env" in name]
    # running statistics of every transition that either process collected
    saved = load_file(path / "model.safetensors")
    collected = sum(first.transitions + second.transitions)
    assert saved["encoder.standardizer.count"] == collected
    assert len(list(learned.rglob("metrics.jsonl"))) == 1
    lines = read_metrics(learned)
    assert sum("eval/mean_reward" in line for line in lines) == 2
    assert max(line.get("replay/rows", 0) for line in lines) == collected


def test_a_lost_process_ends_the_run_which_goes_on_bit_for_bit(
    learned: Path, tmp_path: Path
) -> None:
    processes = start(2, ranks_run.__file__, tmp_path, env={"DIE_AFTER": "20"})
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert processes[1].returncode == 9
    assert processes[0].returncode != 0
    standing = newest(tmp_path / "checkpoints")
    assert standing is not None
    step = Counters.read(standing / "training").env_step
    assert 0 < step < ranks_run.STEPS
    assert "another process of this run is gone or does not answer" in said[0]
    assert f"the checkpoint {standing} of step {step:,} stands. Start all processes" in said[0]

    finish(start(2, ranks_run.__file__, tmp_path))
    both = [newest(run / "checkpoints") for run in (learned, tmp_path)]
    whole, resumed = (content(path) for path in both if path is not None)
    assert whole.keys() == resumed.keys()
    assert not [name for name in whole if whole[name] != resumed[name]]


def test_auto_is_one_word_for_all_processes(tmp_path: Path) -> None:
    """Rank 0 says it by its machine, or a run that is resumed has it."""
    lines = "\n".join(finish(start(2, ranks_precision.__file__, tmp_path))).splitlines()
    found = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("FOUND "))
    assert found.keys() == {"0", "1"}
    for said in map(json.loads, found.values()):
        assert said["first"] == said["resumed"] == ["bf16", "bf16"]
        assert said["other"] == ["fp32", "fp32"]
        assert "rank 1 was given another agent, environment or setting" in said["differing"]
    for word in ("bf16", "fp32"):
        written = json.loads((tmp_path / word / "config.json").read_text("utf-8"))
        assert written["config"]["precision"] == word
    assert not (tmp_path / "none").exists()


def test_processes_that_draw_a_seed_keep_their_map_network(tmp_path: Path) -> None:
    """Each draws its own seed and takes rank 0's: networks are drawn anew, maps are not."""
    torch.manual_seed(0)
    network = MapModel(MapNetwork(1), ("Cut a tree",), (64, 64))
    network.save(tmp_path / "network")
    finish(start(2, ranks_maps.__file__, tmp_path))
    learned = load_file(newest(tmp_path / "run" / "checkpoints") / "model.safetensors")
    given = network.for_goal("Cut a tree")
    assert given
    assert all(torch.equal(learned[f"maps.{name}"], tensor) for name, tensor in given.items())


def test_another_number_of_processes_is_refused(learned: Path) -> None:
    agent = agentzoo.load(learned)
    with pytest.raises(RunError, match=r"is learned by 2 process.* by torchrun --nproc-per-node 2"):
        agent.learn(9_000, run=learned, progress=False)


def test_a_setting_that_cannot_be_dealt_out_is_refused() -> None:
    two = Ranks(rank=1, count=2)
    assert two.part("batch_size", 16) == 8
    with pytest.raises(ConfigError, match=r"envs=1 cannot be dealt out to 2 processes; give a mul"):
        two.part("envs", 1)


def test_running_moments_add_and_subtract() -> None:
    """As over all samples at once, in float64."""
    samples = torch.randn(12, 3, dtype=torch.float64) * 5 + 100

    def of(part: Tensor) -> RunningMoments:
        count = torch.tensor(float(len(part)), dtype=torch.float64)
        return RunningMoments(count, part.mean(0), (part - part.mean(0)).square().sum(0))

    both, later = of(samples[:5]).plus(of(samples[5:])), of(samples).minus(of(samples[:5]))
    for found, expected in zip((*both, *later), (*of(samples), *of(samples[5:])), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    nothing = of(samples).minus(of(samples))
    assert [part.abs().max().item() for part in nothing[::2]] == [0, 0]


def test_one_process_alone_gets_back_what_it_gives() -> None:
    x = torch.randn(4, 2, requires_grad=True)
    alone = Ranks()
    assert alone.mean(x) is x
    assert alone.sum(x) is x
    assert alone.gather(x) is x
    assert alone.exchange({"a": 1}) == [{"a": 1}]
    where, place, own = alone.largest(torch.tensor([1.0, 5, 3]), 2)
    assert (where.tolist(), place.tolist(), own.tolist()) == ([1, 2], [0, 1], [True, True])
