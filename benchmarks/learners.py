"""Updates a second of one process, and of two that halve the same batch, on this machine's cores.

    python benchmarks/learners.py [--agents Dreamer DreamerV3] [--rounds 5] [--updates 4]

Each process has one thread and takes its share of one prepared batch; two average their gradients
by gloo. One and two take turns, so that what else runs here slows both alike. Read the ratio.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the builders of random batches are the tests'

import agentzoo  # noqa: E402
from agentzoo.config import configure  # noqa: E402
from agentzoo.ranks import joined  # noqa: E402
from agentzoo.train.cuda_graph import EagerUpdate  # noqa: E402
from tests.agents.builders import STATE, box, random_batch  # noqa: E402

CPU = torch.device("cpu")


def work(name: str, updates: int) -> None:
    """Make `updates` at each line of standard input, and say how long they took."""
    torch.set_num_threads(1)
    kind = getattr(agentzoo, name)
    torch.manual_seed(0)
    config = configure(kind.config_class, kind.presets["cpu"], name=name)
    algorithm = kind.algorithm_class(STATE, box(), config)
    with joined(CPU) as ranks:
        batch = {n: ranks.share(x) for n, x in random_batch(algorithm).items()}
        update = EagerUpdate(algorithm, CPU)
        update(batch, 0)
        print("ready", flush=True)
        for seed, _ in enumerate(sys.stdin):
            ranks.exchange(None)
            begun = time.perf_counter()
            for k in range(updates):
                update(batch, 1000 * seed + k)
            ranks.exchange(None)
            print(time.perf_counter() - begun, flush=True)


class Side:
    """The processes of one side, which stand ready for their turns."""

    def __init__(self, name: str, count: int, updates: int) -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = str(held.getsockname()[1])
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
        command = [sys.executable, __file__, "--work", name, "--updates", str(updates)]
        self.processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **meeting, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        self._said()

    def _said(self) -> list[str]:
        found: list[str] = []
        for process in self.processes:
            assert process.stdout is not None
            found.append(process.stdout.readline().strip())
        return found

    def turn(self) -> float:
        """Seconds that a turn's updates took the slowest process."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return max(map(float, self._said()))

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", nargs="*", default=["Dreamer", "DreamerV3"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=4, help="in a turn")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.updates)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print("| agent, preset cpu | 1 process: updates/s | 2 processes | ratio, median of turns |")
    print("|---|---:|---:|---:|")
    for name in given.agents:
        sides = [Side(name, count, given.updates) for count in (1, 2)]
        turns = [[side.turn() for side in sides] for _ in range(given.rounds)]
        one, two = (given.updates / median(turn[i] for turn in turns) for i in (0, 1))
        ratio = median(turn[0] / turn[1] for turn in turns)
        print(f"| {name} | {one:.2f} | {two:.2f} | {ratio:.2f} |", flush=True)
        for side in sides:
            side.close()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
