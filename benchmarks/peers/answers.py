"""What the peers' scripts share: updates of sheeprl's, on request.

Runs in an environment of its own, where sheeprl is installed, and imports nothing of ours. The
first line on stdout is a JSON object about the peer; each line `run N` on stdin is then answered
with a JSON list of the N updates' times in seconds.
"""

import argparse
import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Protocol

import hydra
import torch
from lightning.fabric import Fabric
from sheeprl.utils.utils import dotdict
from torch.distributions import Distribution
from torch.utils.flop_counter import FlopCounterMode

BATCHES = 4  # prepared ones, taken in turn
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Updates(Protocol):
    """Networks and optimisers, and one call that trains them on the next batch.

    Attributes:
        modules: the networks that learn, by group: model, actor, value.
    """

    modules: Mapping[str, torch.nn.Module]

    def __call__(self) -> None:
        """One gradient step of model, actor and critic."""
        ...


def configuration(*overrides: str) -> dotdict:
    """Its settings: an experiment, and what is set otherwise."""
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        composed = hydra.compose("config", overrides=list(overrides))
    return dotdict(composed)


def single_cpu(cfg: dotdict, threads: int) -> Fabric:
    """Torch set up as its command line does, for one CPU in float32."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    Distribution.set_default_validate_args(cfg.distribution.validate_args)
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def about(update: Updates) -> dict[str, object]:
    """Versions, parameters by group, and the operations of one update."""
    with FlopCounterMode(display=False) as counter:
        update()
    groups = update.modules.items()
    return {
        "versions": {"sheeprl": version("sheeprl"), "torch": f"(torch {torch.__version__})"},
        "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in groups},
        "flops": counter.get_total_flops(),
    }


def seconds(update: Updates, clock: Callable[[], float]) -> float:
    """Time of one update."""
    start = clock()
    update()
    return clock() - start


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
        count = int(line.removeprefix("run "))
        with contextlib.redirect_stdout(sys.stderr):
            times = [seconds(update, CLOCKS[given.clock]) for _ in range(count)]
        print(json.dumps(times), flush=True)
