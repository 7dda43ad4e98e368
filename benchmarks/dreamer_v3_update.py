"""Time of one DreamerV3 update: ours, sheeprl's `dreamer_v3_5` and TorchRL's learner, same sizes.

    python benchmarks/dreamer_v3_update.py --peer-python PEER/bin/python [--compiled]
        [--torchrl-python TORCHRL/bin/python]
        [--worlds state images images-12m] [--rounds 6] [--updates 2] [--threads 2]

An update is one gradient step of model, actor and value on 16 prepared windows of 64 random steps,
imagining 15 steps from each, in float32. Every side has a process of its own, so that peak
memory is its own; they take turns (paired_timing.py). --compiled adds our compiled imagination,
sheeprl's compiled losses, which take minutes to compile, and TorchRL's compiled recurrence. TorchRL
learns from state only here: its image networks are another architecture. Without the peers'
interpreters, ours is measured alone.

The floor is what the side's own products and convolutions would take at the rates of one large
product and one large convolution, measured in the same turns.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from models import ACTION_SIZE, STATE_SIZE, seconds, setting
from paired_timing import (
    OURS,
    PEER,
    About,
    Peer,
    Side,
    Times,
    arguments,
    footnote,
    measure,
    rate,
    ratio,
)

from agentzoo.agents.dreamer_v3 import DreamerV3Config
from agentzoo.config import configure

ROOT = Path(__file__).parents[1]
HEAD = """\
| | parameters: model, actor, value | GFLOP: products, convolutions | s: median (min) | CPU s | \
over the floor | over ours | peak MB | ready, s |
|---|---|---:|---:|---:|---:|---:|---:|---:|"""
WORLDS = {"state": ("1m", 0), "images": ("1m", 64), "images-12m": ("12m", 64)}  # size, pixels
LENGTH, WINDOWS, HORIZON = 64, 16, 15
CONVOLUTION, TORCHRL = "convolution", "torchrl"
IMAGES, CHANNELS, KERNEL, SIDE = 16, 64, 5, 32  # of the large convolution


def sizes(world: str) -> dict[str, int]:
    """The settings of every side."""
    size, image = WORLDS[world]
    numbers = configure(DreamerV3Config, {"size": size}, name="DreamerV3").sizes._asdict()
    numbers |= {"batch_size": WINDOWS, "batch_length": LENGTH, "horizon": HORIZON}
    return {**numbers, "image": image, "state": STATE_SIZE, "action": ACTION_SIZE, "compile": 0}


class Convolution:
    """The large convolution, which takes its turn like a side."""

    about = About({}, 2 * IMAGES * SIDE**2 * CHANNELS**2 * KERNEL**2, {})

    def __init__(self) -> None:
        layout, (k, c) = torch.channels_last, (KERNEL, CHANNELS)
        self.images = torch.randn(IMAGES, c, SIDE, SIDE).to(memory_format=layout)
        self.weight = torch.randn(c, c, k, k).to(memory_format=layout)

    def run(self, count: int) -> list[float]:
        """Times of that many in seconds."""
        return [seconds(self.convolve) for _ in range(count)]

    def convolve(self) -> None:
        """One of them."""
        F.conv2d(self.images, self.weight, padding=KERNEL // 2)

    def rate(self, times: Times) -> float:
        """FLOP/s."""
        return self.about.flops / median(time for block in times[CONVOLUTION] for time in block)


def started(world: str, given: argparse.Namespace) -> dict[str, Peer]:
    """The sides, each in its process and ready."""
    set_to, ours, threads = sizes(world), {"PYTHONPATH": str(ROOT)}, given.threads
    sides = {
        OURS: Peer("agentzoo_dreamer_v3.py", sys.executable, set_to, threads, environment=ours)
    }
    if given.compiled:
        sides[f"{OURS}, compiled"] = Peer(
            "agentzoo_dreamer_v3.py",
            sys.executable,
            {**set_to, "compile": 1},
            threads,
            environment=ours,
        )
    torchrl = None if set_to["image"] else given.torchrl_python
    for name, script, python in (
        (PEER, "sheeprl_dreamer_v3.py", given.peer_python),
        (TORCHRL, "torchrl_dreamer_v3.py", torchrl),
    ):
        if python:
            sides[name] = Peer(script, python, set_to, threads)
        if python and given.compiled:
            sides[f"{name}, compiled"] = Peer(script, python, {**set_to, "compile": 1}, threads)
    return sides


def row(
    name: str, world: str, side: Peer, times: Times, convolution: Convolution, cpu: float
) -> str:
    """One line of the table."""
    every, about = [time for block in times[name] for time in block], side.about
    products = about.flops - about.convolution
    floor = products / rate(times) + about.convolution / convolution.rate(times)
    cells = [
        " ".join([name, *about.versions.values(), world]),
        ", ".join(f"{count:,}" for count in about.parameters.values()),
        f"{products / 1e9:.0f}, {about.convolution / 1e9:.0f}",
        f"{median(every):.2f} ({min(every):.2f})",
        f"{cpu:.2f}",
        f"{median(every) / floor:.2f}",
        f"{ratio(times[name], times[OURS]):.2f}",
        f"{side.spent()[1]:,.0f}",
        f"{side.ready:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def compare(world: str, given: argparse.Namespace) -> tuple[Times, Convolution]:
    """Print the lines of one world."""
    sides = started(world, given)
    convolution, before = Convolution(), {name: side.spent()[0] for name, side in sides.items()}
    every: dict[str, Side] = {**sides, CONVOLUTION: convolution}
    times, updates = measure(every, given.rounds, given.updates), given.updates
    for name, side in sides.items():
        cpu = (side.spent()[0] - before[name]) / ((given.rounds + 1) * updates)
        print(row(name, world, side, times, convolution, cpu), flush=True)
        side.close()
    return times, convolution


def main() -> None:
    parser = arguments("How long one DreamerV3 update takes.", 6, 2)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--compiled", action="store_true", help="each side compiled, too")
    parser.add_argument("--torchrl-python", help="the interpreter where torchrl is installed")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(setting(given.threads, "torch"), "\n")
    print(HEAD)
    for world in given.worlds:
        times, convolution = compare(world, given)
    rated = f"Convolutions of {CHANNELS} channels, kernel {KERNEL}, run at "
    rated += f"{convolution.rate(times) / 1e9:.0f} GFLOP/s."
    print("", footnote(times, peer=bool(given.peer_python)), rated, sep="\n")


if __name__ == "__main__":
    main()
