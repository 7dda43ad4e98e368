"""Speed of rendering: `render=fast` and `render=default` against dm_control's own call.

    python benchmarks/rendering.py [--task walker-walk] [--size 64] [--rounds 15] [--frames 40]

The contenders take turns in one process, a block of pictures and a block of decisions each (repeat
2: two simulation steps and one picture, as the papers have it); the table holds medians over the
rounds. The pictures of the first two are equal, byte for byte.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from agentzoo.runtime.envs.dmc import DMC, default_camera

Call = Callable[[], object]
REPEAT = 2


def ours(task: str, size: int, *, fast: bool) -> tuple[Call, Call]:
    """A picture and a decision of our environment."""
    camera = default_camera(task)
    env = DMC(task, repeat=REPEAT, fast=fast, camera=camera, size=size, render_size=size)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape or (), np.float32)

    def decide() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return env.render, decide


def dm_controls_own(task: str, size: int) -> tuple[Call, Call]:
    """A picture by `physics.render` and a decision, in dm_control as it comes."""
    from dm_control import suite  # only after ours has chosen an OpenGL

    env = suite.load(*task.split("-", 1), task_kwargs={"random": 0})
    env.reset()
    action, camera = np.zeros(env.action_spec().shape), default_camera(task)

    def draw() -> object:
        return env.physics.render(size, size, camera_id=camera)

    def decide() -> None:
        for _ in range(REPEAT):
            env.step(action)
        draw()

    return draw, decide


def milliseconds(call: Callable[[], object], frames: int) -> float:
    """Mean time of one call."""
    start = time.perf_counter()
    for _ in range(frames):
        call()
    return 1e3 * (time.perf_counter() - start) / frames


def measure(
    contenders: dict[str, tuple[Call, Call]], rounds: int, frames: int
) -> dict[str, list[tuple[float, float]]]:
    """Name -> (milliseconds a picture, a decision), one pair a round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, (draw, decide) in contenders.items():
            pair = milliseconds(draw, frames), milliseconds(decide, frames)
            if turn:  # the first round warms up
                times[name].append(pair)
    return times


def cells(rounds: list[float], first: list[float]) -> str:
    """Median time, rate, and how many times the first contender's rate, round by round."""
    time_ms = median(rounds)
    ratio = median(f / r for f, r in zip(first, rounds, strict=True))
    return f"{time_ms:.2f} | {1e3 / time_ms:.0f} | {ratio:.1f}"


def table(times: dict[str, list[tuple[float, float]]]) -> str:
    """One row a contender; the first is the measure of the others."""
    first = list(zip(*next(iter(times.values())), strict=True))
    lines = [
        "| | ms a picture | per second | times | ms a decision | per second | times |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, pairs in times.items():
        columns = zip(zip(*pairs, strict=True), first, strict=True)
        row = " | ".join(cells(list(mine), list(theirs)) for mine, theirs in columns)
        lines.append(f"| {name} | {row} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast pictures are drawn.")
    parser.add_argument("--task", default="walker-walk")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frames", type=int, default=40)
    given = parser.parse_args()
    default, fast = (ours(given.task, given.size, fast=fast) for fast in (False, True))
    contenders = {
        "dm_control's own": dm_controls_own(given.task, given.size),
        "render=default": default,
        "render=fast": fast,
    }
    print(table(measure(contenders, given.rounds, given.frames)))


if __name__ == "__main__":
    main()
