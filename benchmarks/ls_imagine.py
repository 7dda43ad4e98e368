"""One LS-Imagine update beside DreamerV3's on the same observations, and what `annotate` takes.

The sides take turns in one process; times are of the processor. Transitions that zoom have a
small target in the middle of the frame, which is the dearest case: a map, a jump test, a crop of
the frame.

python benchmarks/ls_imagine.py
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from time import process_time

import numpy as np
import torch
from models import seconds, setting

from agentzoo import LSImagine
from agentzoo.affordance.dataset import Frames, train
from agentzoo.affordance.map_network import MapModel
from agentzoo.agents.dreamer_v3 import DreamerV3Algorithm, DreamerV3Config
from agentzoo.agents.ls_imagine import LSImagineAlgorithm, LSImagineConfig
from agentzoo.algorithm import Batch, NoiseSource, Transitions
from agentzoo.config import configure
from agentzoo.runtime.envs.frames import shrunk
from agentzoo.runtime.spec import ActionSpec, ObsSpec
from agentzoo.train.allocator import keep_freed_memory

SIDE, HEIGHT, WIDTH, ACTIONS = 64, 160, 256, 12
ZOOMED, CLOSED = 0.2, 0.8  # share of transitions, and of those
ACTION = ActionSpec(
    kind="discrete", size=ACTIONS, shape=(), dtype="int64", nvec=(ACTIONS,), start=(0,)
)


def picture(channels: int) -> ObsSpec:
    shape = (SIDE, SIDE, channels)
    return ObsSpec(kind="image", shape=shape, source=shape)


OBS = {"image": picture(3), "map": picture(1)}
Learner = LSImagineAlgorithm | DreamerV3Algorithm


def settings(**more: object) -> LSImagineConfig:
    return configure(LSImagineConfig, LSImagine.presets["cpu"], more)


def sides() -> dict[str, Learner]:
    """DreamerV3 and both forms of LS-Imagine, of the same sizes."""
    known = {field.name for field in fields(DreamerV3Config)}
    shared = {k: v for k, v in LSImagine.presets["cpu"].items() if k in known}
    plain = configure(DreamerV3Config, shared)
    return {
        "DreamerV3, image": DreamerV3Algorithm({"image": OBS["image"]}, ACTION, plain),
        "DreamerV3, image and map": DreamerV3Algorithm(OBS, ACTION, plain),
        "LS-Imagine without jumps": LSImagineAlgorithm(OBS, ACTION, settings(long_branch=False)),
        "LS-Imagine": LSImagineAlgorithm(OBS, ACTION, settings()),
    }


def batch(algorithm: Learner) -> Batch:
    """Windows of random transitions, a fifth of them zoomed."""
    c, generator = algorithm.config, torch.Generator().manual_seed(0)
    lead = c.batch_size, c.batch_length

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*lead, *shape, generator=generator)

    def pixels(channels: int) -> torch.Tensor:
        return (256 * uniform(SIDE, SIDE, channels)).to(torch.uint8)

    zoomed = uniform() < ZOOMED
    return {
        **{k: torch.zeros(lead, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")},
        "image": pixels(3),
        "map": pixels(1),
        "prev_action": torch.nn.functional.one_hot((ACTIONS * uniform()).long(), ACTIONS).float(),
        "reward": uniform(),
        "deter": (2 * uniform(c.sizes.deter) - 1).half(),
        "stoch": (c.sizes.classes * uniform(c.stoch)).to(torch.uint8),
        "intrinsic": 0.01 * uniform(),
        "zoomed_intrinsic": 0.01 * uniform(),
        "zoomed": zoomed,
        "jump": zoomed & (uniform() < 0.8),
        "zoomed_image": pixels(3),
        "zoomed_map": pixels(1),
        "known": zoomed & (uniform() < CLOSED),
        "interval": (1 + 40 * uniform()).floor(),
        "accumulated": uniform(),
    }


def turns(
    calls: dict[str, Callable[[], object]], rounds: int, count: int
) -> dict[str, list[float]]:
    """Median seconds of each call in every round, the first round left out."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            times = [seconds(call, process_time) for _ in range(count)]
            if turn:
                found[name].append(statistics.median(times))
    return found


def updates(rounds: int) -> None:
    """Print the table of updates."""
    learners = sides()
    batches, noise = {name: batch(one) for name, one in learners.items()}, NoiseSource(0)
    calls: dict[str, Callable[[], object]] = {
        name: lambda one=one, name=name: one.update(batches[name], noise)
        for name, one in learners.items()
    }
    times = turns(calls, rounds, 2)
    base = times["DreamerV3, image and map"]
    print("| an update | parameters | s: median (min) | over DreamerV3's |\n|---|---:|---:|---:|")
    for name, each in times.items():
        count = sum(p.numel() for p in learners[name].parameters() if p.requires_grad)
        ratio = statistics.median(a / b for a, b in zip(each, base, strict=True))
        middle = statistics.median(each)
        print(f"| {name} | {count:,} | {middle:.3f} ({min(each):.3f}) | {ratio:.2f} |")


def decisions(rounds: int) -> None:
    """Print the table of annotate."""
    with_network = settings(map_network="untrained", goal="Cut a tree")
    kinds = {
        "oracle": LSImagineAlgorithm(OBS, ACTION, settings()),
        "network": LSImagineAlgorithm({"image": OBS["image"]}, ACTION, with_network),
    }
    network = kinds["network"]
    # an untrained one: it sees a target where it is bright
    assert network.maps is not None
    maps = kinds["network"].maps
    assert maps is not None
    maps.load_state_dict(bright_squares().for_goal("Cut a tree"))
    calls = {
        f"{kind}, {name}": partial(one.annotate, decision(kind, small), [0], one.initial(1), None)
        for kind, one in kinds.items()
        for name, small in (("zoomed", True), ("not zoomed", False))
    }
    marked = {name: call()[0]["zoomed"].any() for name, call in calls.items()}
    print("\n| annotate | zoomed | ms: median (min) |\n|---|---|---:|")
    for name, each in turns(calls, rounds, 20).items():
        middle = 1e3 * statistics.median(each)
        zoomed = "yes" if marked[name] else "no"
        print(f"| {name} | {zoomed} | {middle:.1f} ({1e3 * min(each):.1f}) |")


def bright_squares() -> MapModel:
    """A map network that has learned to find bright squares in noise, so that transitions zoom."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (60, SIDE, SIDE, 3)).astype(np.uint8)
    maps = np.zeros((60, SIDE, SIDE), np.uint8)
    for image, map_ in zip(images, maps, strict=True):
        side = int(rng.integers(3, 30))
        top, left = rng.integers(0, SIDE - side, 2)
        where = slice(top, top + side), slice(left, left + side)
        image[where], map_[where] = 255, 255
    return train([Frames(images, maps, "squares", "Cut a tree")], steps=150)


def decision(kind: str, small: bool) -> Transitions:
    """A transition of one environment."""
    rng = np.random.default_rng(0)
    mask = np.zeros((1, HEIGHT, WIDTH, 1), np.uint8)
    if small:
        mask[0, 76:88, 122:134] = 255
    frame = rng.integers(0, 120, (1, HEIGHT, WIDTH, 3)).astype(np.uint8)
    frame[mask[..., 0] > 0] = 255
    seen = {
        "image": shrunk(frame[0], SIDE)[None],
        "frame": frame,
        "reward": np.zeros(1, np.float32),
        **{k: np.zeros(1, bool) for k in ("is_last", "is_terminal")},
        "is_first": np.ones(1, bool),
    }
    if kind == "oracle":
        seen |= {"map": np.zeros((1, SIDE, SIDE, 1), np.uint8), "mask": mask}
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    print(setting(given.threads, "torch"), "\n")
    updates(given.rounds)
    decisions(given.rounds)


if __name__ == "__main__":
    main()
