"""Atari frames collected a second, against the emulator by itself.

    python benchmarks/atari_frames.py [--game pong] [--protocol dreamerv2] [--decisions 1000]
        [--rounds 3]

Random actions, four frames a decision, a new game where one ends; ours is reset with a seed each
time, as collection does. The contenders take turns in one process, so many decisions in each of
their environments; the table holds medians over the rounds. `AtariVectorEnv` is ALE's own, in
C++ and with as many threads as there are cores; it is reset without a seed. Where other work runs
beside this, read the columns of processor time.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from agentzoo.runtime.envs import Adapter, episode_seed

REPEAT = 4
Collect = Callable[[int], int]  # decisions in each environment -> frames collected


def bare(game: str, *, draws: bool) -> Collect:
    """The emulator, and the last two screens of each decision or none."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale: Any = ale_py.ALEInterface()
    ale.loadROM(ale_py.roms.get_rom_path(game))
    actions, screen = ale.getMinimalActionSet(), np.empty(ale.getScreenDims(), np.uint8)
    rng = np.random.default_rng(0)

    def collect(decisions: int) -> int:
        for choice in rng.integers(len(actions), size=decisions):
            for frame in range(REPEAT):
                ale.act(actions[choice])
                if draws and frame >= REPEAT - 2:
                    ale.getScreenGrayscale(screen)
            if ale.game_over():
                ale.reset_game()
        return decisions * REPEAT

    return collect


def ours(game: str, protocol: str, count: int) -> Collect:
    """So many environments behind one adapter, stepped one after the other."""
    adapter = Adapter.open(f"atari:{game}?protocol={protocol}", count)
    everyone, rng, episodes = range(count), np.random.default_rng(0), [0] * count
    adapter.reset(everyone, [episode_seed(0, i, 0) for i in everyone])

    def collect(decisions: int) -> int:
        for actions in rng.integers(adapter.action.nvec[0], size=(decisions, count)):
            ended = np.flatnonzero(adapter.step(everyone, actions)["is_last"]).tolist()
            for i in ended:
                episodes[i] += 1
            if ended:
                adapter.reset(ended, [episode_seed(0, i, episodes[i]) for i in ended])
        return decisions * count * REPEAT

    return collect


def ales_own(game: str, count: int) -> Collect:
    """ALE's vector environment with the same preprocessing."""
    from ale_py.vector_env import AtariVectorEnv

    env = AtariVectorEnv(
        game,
        count,
        repeat_action_probability=0.25,
        **{"img_height": 64, "img_width": 64, "stack_num": 1, "frameskip": REPEAT},
        **{"reward_clipping": False, "use_fire_reset": False},
    )
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def collect(decisions: int) -> int:
        for actions in rng.integers(env.single_action_space.n, size=(decisions, count)):
            env.step(actions)
        return decisions * count * REPEAT

    return collect


def measure(
    contenders: dict[str, Collect], rounds: int, decisions: int
) -> dict[str, list[tuple[float, float]]]:
    """Name -> (frames a second, frames a second of processor time), one pair a round."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for collect in contenders.values():
        collect(10)  # warms up
    for _ in range(rounds):
        for name, collect in contenders.items():
            start, busy = time.perf_counter(), time.process_time()
            frames = collect(decisions)
            times = time.perf_counter() - start, time.process_time() - busy
            rates[name].append((frames / times[0], frames / times[1]))
    return rates


def cells(rounds: list[float], first: list[float]) -> str:
    """Median rate, and its share of the first contender's, round by round."""
    share = median(mine / theirs for mine, theirs in zip(rounds, first, strict=True))
    return f"{median(rounds):,.0f} | {share:.2f}"


def table(rates: dict[str, list[tuple[float, float]]]) -> str:
    """One row a contender; the first is the measure of the others."""
    first = list(zip(*next(iter(rates.values())), strict=True))
    lines = [
        "| | frames a second | of bare ALE | frames a second of processor time | of bare ALE |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, pairs in rates.items():
        columns = zip(zip(*pairs, strict=True), first, strict=True)
        row = " | ".join(cells(list(mine), list(theirs)) for mine, theirs in columns)
        lines.append(f"| {name} | {row} |")
    return "\n".join(lines)


def resets(game: str, protocol: str, rounds: int) -> str:
    """The cost of starting a game."""
    adapter = Adapter.open(f"atari:{game}?protocol={protocol}")
    times: list[float] = []
    for seed in range(10 * rounds):
        start = time.process_time()
        adapter.reset([0], [seed])
        times.append(1e3 * (time.process_time() - start))
    return f"A seeded reset takes {median(times):.0f} ms of processor time, no-ops included."


def main() -> None:
    parser = argparse.ArgumentParser(description="How many Atari frames a second are collected.")
    parser.add_argument("--game", default="pong")
    parser.add_argument("--protocol", default="dreamerv2")
    parser.add_argument("--decisions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    contenders = {
        "bare ALE, no picture": bare(given.game, draws=False),
        "bare ALE, two gray screens a decision": bare(given.game, draws=True),
        **{
            f"atari:{given.game}?protocol={given.protocol}, {count} at once": ours(
                given.game, given.protocol, count
            )
            for count in (1, 4, 16)
        },
        "AtariVectorEnv, 16 at once": ales_own(given.game, 16),
    }
    print(table(measure(contenders, given.rounds, given.decisions)))
    print(resets(given.game, given.protocol, given.rounds))


if __name__ == "__main__":
    main()
