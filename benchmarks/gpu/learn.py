"""Learns tasks from pixels within a time limit, and puts the scores beside the published points.

    python benchmarks/gpu/learn.py --runs RUNS [--tasks walker-walk ball_in_cup-catch] [--hours 3]
    python benchmarks/gpu/learn.py --runs RUNS --device cpu --debug --frames 1500 --hours 0.05

Each task has a run of its own in RUNS/TASK, which goes on where it stood when the script is started
again; it leaves the curve and the videos of what the model dreams. The hours are of this sitting,
shared by the tasks. A point is the mean of all evaluations in the 100,000 steps before it, as the
published ones are, which are of one environment.
"""

import argparse
import time
from pathlib import Path

from cases import CASES, arguments, setting

from agentzoo.device import find_device
from agentzoo.train.callbacks import Callback
from agentzoo.train.logger import read_metrics
from agentzoo.train.loop import Training

# Source: danijar/dreamer scores/dreamer.json, mean and deviation over five seeds; its author says
# they come of earlier settings of the same code (danijar/dreamer#55). A step is the end of its bin
# (plotting.py:binning): 105,000 stands for the ten tests in (5,000, 105,000]
STEPS: tuple[int, ...] = (105_000, 505_000, 1_005_000, 2_005_000, 3_205_000, 4_905_000)
PUBLISHED = {
    "walker-walk": ((137, 58), (886, 28), (956, 12), (969, 4), (957, 13), (956, 33)),
    "ball_in_cup-catch": ((73, 91), (962, 5), (967, 6), (943, 29), (970, 5), (961, 7)),
}
BIN = 100_000  # environment steps before a point


class TimeLimit(Callback):
    """Stops the run, with a checkpoint, when its time is up.

    Args:
        seconds: from the start of this sitting.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def on_step(self, training: Training) -> None:
        """Look at the clock."""
        training.stop = training.stop or time.monotonic() >= self.end


def learn(task: str, given: argparse.Namespace, seconds: float) -> Path:
    """One sitting of a task's run; its folder."""
    run = Path(given.runs) / task
    fields: dict[str, object] = {"envs": given.envs, "precision": given.precision}
    env = f"dmc:{task}"
    agent = CASES["dreamer"].build(env, given.device, debug=given.debug, **fields)
    limit = TimeLimit(seconds)
    agent.learn(given.frames, run=run, callbacks=[limit], progress=not given.debug)
    return run


def points(run: Path) -> dict[int, list[float]]:
    """Evaluation returns in the bins that end at the published steps, and at the newest one."""
    scores = [
        (int(line["env_step"]), line["eval/mean_reward"])
        for line in read_metrics(run)
        if "eval/mean_reward" in line
    ]
    last = [max(step for step, _ in scores)] if scores else []
    ends = [end for end in (*STEPS, *last) if last and end <= last[0]]  # of whole bins
    return {end: [score for step, score in scores if end - BIN < step <= end] for end in ends}


def row(task: str, step: int, scores: list[float]) -> str:
    """One line of the table."""
    theirs = dict(zip(STEPS, PUBLISHED.get(task, ()), strict=False)).get(step)
    published = "" if theirs is None else f"{theirs[0]} ± {theirs[1]}"
    mean = sum(scores) / len(scores)
    return f"| {task} | {step:,} | {mean:.0f} | {len(scores)} | {published} |"


def main() -> None:
    parser = arguments("Learn tasks from pixels within a time limit.")
    parser.add_argument("--runs", required=True, help="folder of the runs, kept")
    parser.add_argument("--tasks", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--frames", type=float, default=5e6, help="total of each run")
    parser.add_argument("--hours", type=float, default=3.0, help="of this sitting, for all tasks")
    parser.add_argument("--envs", type=int, default=1)
    parser.add_argument("--precision", default="bf16")
    given = parser.parse_args()
    print(setting(find_device(given.device)), flush=True)
    runs = {task: learn(task, given, 3600 * given.hours / len(given.tasks)) for task in given.tasks}
    print("\n| task | environment steps | evaluations' mean | evaluations | published |")
    print("|---|---:|---:|---:|---:|")
    for task, run in runs.items():
        print(*[row(task, step, scores) for step, scores in points(run).items()], sep="\n")


if __name__ == "__main__":
    main()
