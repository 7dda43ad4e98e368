"""A training process whose disk is full for a while.

python -m tests.train.disk_full_worker HOW FOLDER STEPS FULL_FROM FULL_TO

HOW is "limit" (no file may grow: RLIMIT_FSIZE), "disk" (a file takes all room in FOLDER) or
"never". Prints the checkpoints that were there when the disk had room again.
"""

import errno
import os
import resource
import sys
from pathlib import Path

import torch

from agentzoo.train.callbacks import Callback
from agentzoo.train.checkpoint import whole
from agentzoo.train.loop import Training
from tests.agents.contract import CASES


class Fill(Callback):
    def __init__(self, how: str, folder: Path, start: int, end: int) -> None:
        self.how, self.filler, self.start, self.end = how, folder / "filler", start, end
        self.full = False

    def on_step(self, training: Training) -> None:
        step = training.counters.env_step
        if not self.full and self.start <= step < self.end:
            self.full = True
            self.fill()
        elif self.full and step >= self.end:
            self.full = False
            print(*[path.name for path in whole(training.folder / "checkpoints")], flush=True)
            self.free()

    def fill(self) -> None:
        if self.how == "limit":
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self.before[1]))
        elif self.how == "disk":
            with self.filler.open("wb", buffering=0) as file:
                for size in (2**16, 1):
                    self.write_all(file.fileno(), bytes(size))

    def write_all(self, file: int, block: bytes) -> None:
        try:
            while os.write(file, block):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def free(self) -> None:
        if self.how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        self.filler.unlink(missing_ok=True)


if __name__ == "__main__":
    how, folder, steps, start, end = sys.argv[1:]
    torch.set_num_threads(1)
    fill = Fill(how, Path(folder), int(start), int(end))
    agent = CASES["LatentStore"].make()
    agent.learn(int(steps), run=Path(folder) / "run", callbacks=[fill], progress=False)
