"""Paired update benchmarks: an agent here and a peer in its own process take turns; one table.

The peer runs with the interpreter of an environment that has it installed (README.md has the
lines). The floor is what an update's matrix products alone would take at the rate of one large
product, measured in the same turns.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Protocol

import torch
from models import Clock, seconds
from torch.utils.flop_counter import FlopCounterMode

from agentzoo.algorithm import Batch, Metrics, NoiseSource, WriteBack
from agentzoo.blocks.optim import Adam

OURS, PEER, PRODUCT = "agentzoo", "sheeprl", "product"
CLOCKS: dict[str, Clock] = {"wall": perf_counter, "cpu": process_time}
PEERS = Path(__file__).parent / "peers"
HEAD = """\
| | parameters: model, actor, value | GFLOP | s: median (min) | over the floor | over ours |
|---|---|---:|---:|---:|---:|"""
BATCHES = 4  # prepared ones, taken in turn
SQUARE = 2048  # sides of the matrices whose product gives the floor's rate
PRODUCTS = 8  # of them in a turn


@dataclass(frozen=True)
class About:
    """A side's account of its update.

    Attributes:
        parameters: their numbers, by group: model, actor, value.
        flops: floating point operations in the products of one update, convolutions included.
        versions: of what it runs on, by package.
        convolution: how many of the operations are convolutions'.
    """

    parameters: dict[str, int]
    flops: int
    versions: dict[str, str]
    convolution: int = 0


class Side(Protocol):
    """A side, which makes updates when it is its turn."""

    about: About

    def run(self, count: int) -> list[float]:
        """Times of that many updates in seconds."""
        ...


class Learner(Protocol):
    """An algorithm with one Adam for each of model, actor and value."""

    def update(self, batch: Batch, noise: NoiseSource) -> tuple[Metrics, WriteBack]:
        """One gradient step."""
        ...

    def optimizers(self) -> Mapping[str, Adam]:
        """The optimisers by name."""
        ...


class Ours:
    """One of our algorithms, and one call that trains it on the next prepared batch.

    Args:
        algorithm: what learns.
        batches: as replay gives them, taken in turn.
        clock: what times are read from.
    """

    def __init__(
        self, algorithm: Learner, batches: Sequence[Batch], clock: Clock = perf_counter
    ) -> None:
        self.algorithm, self.batches, self.clock, self.done = algorithm, batches, clock, 0
        with FlopCounterMode(display=False) as counter:
            self()
        groups = algorithm.optimizers()
        counts = {name: sum(p.numel() for p in adam.params) for name, adam in groups.items()}
        self.about = About(counts, counter.get_total_flops(), {})

    def __call__(self) -> None:
        """One gradient step of model, actor and value."""
        data = self.batches[self.done % len(self.batches)]
        self.done += 1
        self.algorithm.update(data, NoiseSource(self.done))

    def run(self, count: int) -> list[float]:
        """Times of that many updates in seconds."""
        return [seconds(self, self.clock) for _ in range(count)]


class Peer:
    """The peer's process, which answers line by line.

    Args:
        script: its file in benchmarks/peers.
        python: the interpreter of the environment in which it is installed.
        sizes: what to set it to.
        threads: of its torch.
        clock: `wall` or `cpu`.
        environment: variables that only its process has.

    Attributes:
        ready: seconds from the process's start until two updates are done, compilation included.
    """

    def __init__(
        self,
        script: str,
        python: str,
        sizes: dict[str, int],
        threads: int,
        *,
        clock: str = "wall",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command, start = [python, str(PEERS / script), "--sizes", json.dumps(sizes)], perf_counter()
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads), "--clock", clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.about = About(**json.loads(self._line()))
        self.run(1)  # the first one was counted operation by operation
        self.ready = perf_counter() - start

    def run(self, count: int) -> list[float]:
        """Times of that many updates in seconds."""
        return self._reply(f"run {count}")

    def spent(self) -> tuple[float, float]:
        """Its processor time so far in seconds, and its peak resident memory in MB."""
        processor, peak = self._reply("spent")
        return processor, peak

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _reply(self, question: str) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the peer ended with exit status {self.process.wait()}; its message stands above, "
                "and benchmarks/README.md tells how to install it"
            )
        return line


def products(count: int, clock: Clock = perf_counter) -> list[float]:
    """Times of that many large products in seconds, after one that warms up."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    out = a @ b
    return [seconds(lambda: torch.mm(a, b, out=out), clock) for _ in range(count)]


Runs = dict[str, Callable[[], list[float]]]
Times = dict[str, list[list[float]]]  # side -> rounds of times in seconds


def measure(
    sides: Mapping[str, Side], rounds: int, updates: int, clock: Clock = perf_counter
) -> Times:
    """The sides' and the product's times, a turn of each in every round."""
    runs: Runs = {name: lambda side=side: side.run(updates) for name, side in sides.items()}
    runs[PRODUCT] = lambda: products(PRODUCTS, clock)
    times: Times = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            block = run()
            if turn:  # the first round warms up
                times[name].append(block)
    return times


def ratio(times: list[list[float]], others: list[list[float]]) -> float:
    """Ratio of the times to the others', round by round."""
    return median(median(a) / median(b) for a, b in zip(times, others, strict=True))


def rate(times: Times) -> float:
    """FLOP/s of the large products."""
    return 2 * SQUARE**3 / median(time for block in times[PRODUCT] for time in block)


def rows(sides: Mapping[str, Side], times: Times, label: str = "") -> list[str]:
    """One line of the table for each side; the label goes behind its name."""
    return [_row(name, label, side.about, times) for name, side in sides.items()]


def _row(name: str, label: str, about: About, times: Times) -> str:
    every = [time for block in times[name] for time in block]
    cells = [
        " ".join([name, *about.versions.values(), *([label] if label else [])]),
        ", ".join(f"{count:,}" for count in about.parameters.values()),
        f"{about.flops / 1e9:.0f}",
        f"{median(every):.2f} ({min(every):.2f})",
        f"{median(every) * rate(times) / about.flops:.2f}",
        f"{ratio(times[name], times[OURS]):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def footnote(times: Times, *, peer: bool) -> str:
    """The line below the table: what the floor is taken from, and whether the peer ran."""
    below = (
        f"Products of {SQUARE} x {SQUARE} run at {rate(times) / 1e9:.0f} GFLOP/s in the same turns."
    )
    return below if peer else f"{below} The peer was not run: give --peer-python (see README.md)."


def arguments(description: str, rounds: int, updates: int) -> argparse.ArgumentParser:
    """The command line of an update benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peer-python", help="interpreter of the environment that has sheeprl")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--updates", type=int, default=updates, help="in a turn")
    parser.add_argument("--threads", type=int, default=2)
    return parser
