"""Kills learning at random moments with SIGKILL, and looks for what was lost.

    python soak/kills.py [--kills 200] [--seed 0] [--longest 2] [--minutes 90] [--log FILE]

A run is learned once without a kill, and once by processes that are killed after a random time,
until it is done: both have to end in the same checkpoint, byte for byte (weights, optimisers, every
transition, every counter). After each kill the newest checkpoint has to be at least as new as any
that was announced, the next process has to go on from it, and no process of an environment may be
left. One kill in four waits, after its random time, for a checkpoint to be written, and falls
into that.

Times are processor seconds of the learner, so that a busy machine kills at the same moments.

One JSON object a line goes to the log; the last one sums up. The exit status is 1 if anything was
lost. Bounded by --minutes: what was not done by then is said.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count, cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from agentzoo import Dreamer, DreamerV3
from agentzoo.runtime.envs import ProcessVectorEnv
from agentzoo.train.callbacks import Callback
from agentzoo.train.checkpoint import Counters, newest
from agentzoo.train.loop import Training

STEPS, CHECKPOINT_EVERY = 1_600, 100
CASES: dict[str, tuple[type, str, dict[str, object]]] = {
    "DreamerV3, two environments in processes": (DreamerV3, "gym:CartPole-v1", {"envs": 2}),
    "Dreamer, one environment": (Dreamer, "gym:Pendulum-v1", {}),
}
FORK = get_context("fork")  # torch is imported once; nothing of it has run before a fork
EARLY = 0.1  # share of kills that do not wait until learning has begun
AIMED = 0.25  # share of kills that wait for a checkpoint to be written
WRITING_S = 0.05  # in which such a kill falls
GONE_S = 10.0  # in which the processes of a killed learner's environments have to be gone


@dataclass
class Tally:
    """The summary in the log's last line."""

    kills: int = 0
    during_checkpoint: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list)


class Announce(Callback):
    """Tells the killer where the run stands."""

    def __init__(self, killer: Connection) -> None:
        self.killer = killer

    def on_start(self, training: Training) -> None:
        source = training.adapter._source
        pool = source._workers if isinstance(source, ProcessVectorEnv) else []
        self.killer.send(
            ("start", training.counters.env_step, [worker.process.pid for worker in pool])
        )

    def on_checkpoint(self, training: Training, path: Path) -> None:
        self.killer.send(("checkpoint", path.name, []))


def learn(case: str, seed: int, run: Path, killer: Connection) -> None:
    """Learn until the end, or until killed."""
    torch.set_num_threads(1)
    agent, env, fields = CASES[case]
    every = CHECKPOINT_EVERY // int(str(fields.get("envs", 1)))
    fields = {**fields, "checkpoint_every": every, "eval_every": 0, "final_episodes": 0}
    learner = agent(env, preset="debug", device="cpu", seed=seed, **fields)
    learner.learn(STEPS, run=run, callbacks=[Announce(killer)], progress=False)


@dataclass(frozen=True)
class Kill:
    """Moment of a kill."""

    after_s: float  # after it told where it goes on from, or after its start
    early: bool  # the latter
    aim_s: float | None  # then, after a checkpoint began to be written; None is at once

    @classmethod
    def with_plan_axes(cls, rng: np.random.Generator, longest: float) -> "Kill":
        """A random one."""
        aim = float(rng.uniform(0, WRITING_S)) if rng.random() < AIMED else None
        return cls(float(rng.uniform(0, longest)), rng.random() < EARLY, aim)


@dataclass
class Life:
    """One process's learning, and what it said before its end."""

    case: str
    seed: int
    run: Path
    resumed: int = -1  # environment step; -1 if it never began
    announced: str = ""  # newest checkpoint that it said was whole
    workers: list[int] = field(default_factory=list)

    def live(self, kill: Kill | None = None) -> bool:
        """Learn until killed; whether the run came to its end."""
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=learn, args=(self.case, self.seed, self.run, theirs))
        process.start()
        theirs.close()
        try:
            if kill is not None:
                self._wait(kill, process, ours)
            else:
                process.join()
        finally:
            process.kill()
            process.join()
        self._listen(ours)
        ours.close()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise SystemExit(f"{self.case}: learning failed with {process.exitcode}; see above")
        return process.exitcode == 0

    def _wait(self, kill: Kill, process: BaseProcess, connection: Connection) -> None:
        """Until the moment of a kill, or the run's end."""
        while not kill.early and self.resumed < 0 and process.exitcode is None:
            process.join(0.01)
            self._listen(connection)
        until = cpu_seconds(process) + kill.after_s
        while process.exitcode is None and cpu_seconds(process) < until:
            process.join(0.005)
        while kill.aim_s is not None and process.exitcode is None:
            if any((self.run / "checkpoints").glob("partial-*")):
                process.join(kill.aim_s)
                return
            process.join(0.001)

    def _listen(self, connection: Connection) -> None:
        """Note what the process has said."""
        with suppress(EOFError):
            while connection.poll():
                kind, value, workers = connection.recv()
                if kind == "start":
                    self.resumed, self.workers = value, workers
                else:
                    self.announced = value


def cpu_seconds(process: BaseProcess) -> float:
    """The processor time that a process has used so far."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def digest(run: Path) -> str:
    """Digest of every byte of the newest checkpoint."""
    folder, total = newest(run / "checkpoints"), hashlib.sha256()
    assert folder is not None, run
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left(processes: list[int]) -> list[int]:
    """Processes that still run after a while."""
    deadline = time.monotonic() + GONE_S
    while (alive := [one for one in processes if is_alive(one)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def examine(life: Life, before: int, known: str, log: dict[str, object]) -> list[str]:
    """The losses of a kill that should not have been.

    Args:
        life: the one that was killed.
        before: environment step of the newest checkpoint when it began.
        known: name of that checkpoint.
        log: the line about this kill, which is filled in.
    """
    checkpoints = life.run / "checkpoints"
    found = newest(checkpoints)
    name = found.name if found else ""
    orphans = left(life.workers)
    log.update(
        resumed=life.resumed,
        announced=life.announced,
        newest=name,
        during_checkpoint=any(checkpoints.glob("partial-*")),
        orphans=len(orphans),
    )
    lost = []
    if name < max(known, life.announced):
        lost.append(f"checkpoint {max(known, life.announced)} was whole and is gone")
    if life.resumed not in (-1, before):
        lost.append(f"it went on from step {life.resumed}, not {before}")
    if orphans:
        lost.append(f"processes {orphans} are left")
    return lost


def standing(run: Path) -> tuple[int, str]:
    """Environment step and name of the newest checkpoint; 0 and "" if there is none."""
    found = newest(run / "checkpoints")
    return (Counters.read(found / "training").env_step, found.name) if found else (0, "")


def write(file: TextIO, line: dict[str, object]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()
    print(json.dumps(line), flush=True)


def kill_until_done(
    case: str, seed: int, folder: Path, rng: np.random.Generator, given: argparse.Namespace,
    tally: Tally, deadline: float, file: TextIO,
) -> None:  # fmt: skip
    """One run, killed again and again, against the same run left alone."""
    alone, killed = folder / f"{seed}-alone", folder / f"{seed}-killed"
    Life(case, seed, alone).live()
    while True:
        before, known = standing(killed)
        kill = Kill.drawn(rng, given.longest)
        spent = tally.kills >= given.kills or time.monotonic() > deadline
        life = Life(case, seed, killed)
        if life.live(None if spent else kill):
            break
        tally.kills += 1
        line: dict[str, object] = {"kill": tally.kills, "case": case, "seed": seed, **asdict(kill)}
        lost = examine(life, before, known, line)
        tally.during_checkpoint += bool(line["during_checkpoint"])
        tally.lost += lost
        write(file, {**line, "lost": lost})
    tally.runs += 1
    same = digest(alone) == digest(killed)
    tally.lost += [] if same else [f"{case}, seed {seed}: the last checkpoint differs"]
    write(file, {"run": tally.runs, "case": case, "seed": seed, "same_bytes": same})


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill learning at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=2.0, help="seconds a process may learn")
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="after which no more are killed"
    )
    parser.add_argument("--log", type=Path, default=Path("soak-kills.jsonl"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its time"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started, tally = time.monotonic(), Tally()
    deadline, rng = started + 60 * given.minutes, np.random.default_rng(given.seed)
    with given.log.open("w") as file, tempfile.TemporaryDirectory() as folder:
        for seed, case in zip(count(given.seed), cycle(CASES), strict=False):
            if tally.kills >= given.kills or time.monotonic() > deadline:
                break
            kill_until_done(case, seed, Path(folder), rng, given, tally, deadline, file)
        minutes = round((time.monotonic() - started) / 60, 1)
        write(file, {**vars(tally), "asked": given.kills, "minutes": minutes})
    return 1 if tally.lost or tally.kills < given.kills else 0


if __name__ == "__main__":
    sys.exit(main())
