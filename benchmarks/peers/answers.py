"""Updates on request, in a process and an environment of their own; the scripts here share it.

Imports nothing of ours, and of the peers nothing. The first line on stdout is a JSON object about
the side. Each line `run N` on stdin is then answered with a JSON list of the N updates' times in
seconds, and each line `spent` with the process's own time in seconds and its peak memory in MB.
"""

import argparse
import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

BATCHES = 4  # prepared ones, taken in turn
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Updates(Protocol):
    """Networks and optimisers, and one call that trains them on the next batch.

    Attributes:
        modules: the networks that learn, by group: model, actor, value.
        versions: of what it runs on, by package.
    """

    modules: Mapping[str, torch.nn.Module]
    versions: Mapping[str, str]

    def __call__(self) -> None:
        """One gradient step of model, actor and critic."""
        ...


class Operations(TorchDispatchMode):
    """Counts floating point operations; FlopCounterMode also follows modules, and fails.

    Attributes:
        products: in matrix products.
        convolution: in convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.convolution = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if count := flop_registry.get(func._overloadpacket):
            counted = count(*args, **kwargs, out_val=out)
            if "convolution" in str(func):
                self.convolution += counted
            else:
                self.products += counted
        return out


def about(update: Updates) -> dict[str, object]:
    """Versions, parameters by group, and the operations of one update."""
    with Operations() as counter:
        update()
    groups = update.modules.items()
    return {
        "versions": dict(update.versions),
        "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in groups},
        "flops": counter.products + counter.convolution,
        "convolution": counter.convolution,
    }


def seconds(update: Updates, clock: Callable[[], float]) -> float:
    """Time of one update."""
    start = clock()
    update()
    return clock() - start


def spent() -> list[float]:
    """Processor time in seconds, and the largest resident memory in MB, as Linux tells it."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return [time.process_time(), int(peak.split()[1]) / 1e3]


def answer(updates: Callable[[dict[str, int], int], Updates]) -> None:
    """Make the updates from the command line's sizes and threads; answer until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=json.loads, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        update = updates(given.sizes, given.threads)
        introduction = about(update)
    print(json.dumps(introduction), flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            reply = spent() if line == "spent\n" else times(update, line, CLOCKS[given.clock])
        print(json.dumps(reply), flush=True)


def times(update: Updates, line: str, clock: Callable[[], float]) -> list[float]:
    """Times of as many updates as the line `run N` asks for."""
    return [seconds(update, clock) for _ in range(int(line.removeprefix("run ")))]
