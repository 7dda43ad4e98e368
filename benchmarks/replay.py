"""The cost of replay to a learner from pixels: private memory, and the time of sampling.

    python benchmarks/replay.py [--rows 50000] [--batches 100] [--updates 1] [--device cuda]

Fills a replay with transitions of 64x64x3 images (12.3 GB on the disk for a million), then draws
batches of 50 windows of 50 transitions; after each, a Dreamer of the preset `debug_pixels` learns
from a corner of it, as large as that preset's batches. Memory is what the kernel counts as this
process's own (RssAnon); what it keeps of files in its page cache goes when it is needed. Last,
updates at the paper's sizes (preset `dmc_vision`) are timed for comparison, each batch read ahead
as in a run.
"""

import argparse
import tempfile
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from models import ACTION_SIZE, PIXELS, box, seconds, setting, untrained

from agentzoo.algorithm import Batch, NoiseSource
from agentzoo.device import find_device
from agentzoo.replay.buffer import ReplayBuffer
from agentzoo.replay.prefetch import Batches
from agentzoo.replay.samplers import EpisodeSampler
from agentzoo.runtime.policy.noise import derive_seed
from agentzoo.train.cuda_graph import updater

B, T = 50, 50
EPISODE = 501  # transitions: 1,000 environment steps at a repeat of 2, and the first observation
FRAMES = 256  # random images that transitions are made of


def private_bytes() -> int:
    """Memory of this process that is not in files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def fill(replay: ReplayBuffer, transitions: int) -> None:
    """Whole episodes of random images."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, 64, 64, 3), np.uint8)
    actions = rng.uniform(-1, 1, (FRAMES, ACTION_SIZE)).astype(np.float32)
    for n in range(transitions):
        step = n % EPISODE
        replay.add(0, {
            "image": frames[(n * 7) % FRAMES],
            "action": actions[n % FRAMES],
            "reward": np.float32(step),
            "is_first": np.bool_(step == 0),
            "is_last": np.bool_(step == EPISODE - 1),
            "is_terminal": np.bool_(False),
        })  # fmt: skip


def draw(replay: ReplayBuffer, number: int) -> Batch:
    """The batch of one update."""
    rng = np.random.default_rng(derive_seed("benchmark", number))
    batch, _ = replay.sample(EpisodeSampler(), B, T, rng)
    return batch


def learn(replay: ReplayBuffer, batches: int) -> tuple[list[float], int]:
    """Seconds of each sampling, and the most private memory that was seen."""
    algorithm = untrained("debug_pixels", PIXELS, box(ACTION_SIZE))
    small = algorithm.config.batch_size, algorithm.config.batch_length
    times, most = [], 0
    for number in range(batches):
        drawn: list[Batch] = []
        times.append(seconds(lambda n=number, to=drawn: to.append(draw(replay, n))))
        corner = {name: column[: small[0], : small[1]] for name, column in drawn[0].items()}
        algorithm.update(corner, NoiseSource(number))
        most = max(most, private_bytes())
    return times, most


def update_seconds(
    replay: ReplayBuffer, updates: int, device: torch.device
) -> tuple[list[float], list[float]]:
    """Seconds of each update at the paper's sizes, and those that it waited for its batch.

    Each batch but the first, which is not counted, is read while the update before it is made.
    """
    algorithm = untrained("dmc_vision", PIXELS, box(ACTION_SIZE)).to(device)
    update, times, waits = updater(algorithm, device, "auto"), [], []
    with Batches(replay, EpisodeSampler(), B, T, 0, device) as batches:
        for number in count():
            start, warm = perf_counter(), update.warm
            batch, _ = batches.take(number, more=True)
            taken = perf_counter()
            update(batch, number)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if warm and number:
                waits.append(taken - start)
                times.append(perf_counter() - taken)
            if len(times) >= updates:
                break
        batches.drop()
    return times, waits


def main() -> None:
    parser = argparse.ArgumentParser(description="What replay costs a learner from pixels.")
    parser.add_argument("--rows", dest="transitions", type=int, default=50_000)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--updates", type=int, default=1, help="at the paper's sizes")
    parser.add_argument("--device", default="cpu", help="of those updates")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; emptied afterwards")
    given = parser.parse_args()
    print(setting(torch.get_num_threads(), "torch", "numpy"))
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        replay = ReplayBuffer(
            Path(folder) / "replay", PIXELS, box(ACTION_SIZE), capacity=max(given.transitions, 1024)
        )
        print(f"replay: {replay.require_space(given.transitions)}")
        before = private_bytes()
        filling = seconds(lambda: fill(replay, given.transitions))
        times, most = learn(replay, given.batches)
        device = find_device(given.device)
        timed = update_seconds(replay, given.updates, device) if given.updates else ([], [])
    updates, waits = timed
    print("| | |\n|---|---:|")
    print(f"| transitions stored | {len(replay):,} |")
    print(f"| transitions stored a second | {len(replay) / filling:,.0f} |")
    print(f"| private memory before the first transition, MB | {before / 1e6:,.0f} |")
    print(f"| most private memory in {given.batches:,} batches, MB | {most / 1e6:,.0f} |")
    typical, worst = 1e3 * median(times), 1e3 * max(times)
    print(f"| sampling {B} x {T} images, ms: median (worst) | {typical:.1f} ({worst:.0f}) |")
    if updates:
        share = 100 * median(times) / median(updates)
        print(f"| an update at the paper's sizes, s | {median(updates):.1f} |")
        print(f"| sampling is so much of an update, % | {share:.2f} |")
        print(f"| an update waits for its batch, read ahead, ms | {1e3 * median(waits):.2f} |")


if __name__ == "__main__":
    main()
