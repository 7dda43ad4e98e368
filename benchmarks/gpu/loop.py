"""Frames a second of the whole loop: collecting, replay, copies and updates, and what a run takes.

    python benchmarks/gpu/loop.py [--agents dreamer] [--envs 16] [--precision bf16] [--minutes 5]
    python benchmarks/gpu/loop.py --device cpu --debug --envs 2 --minutes 0.2

Learns as `agent.learn` does, by the paper's schedule, and reads the clock from the first updates
after the ones that warm up. Frames are environment steps, action repeat included. The last column
is what a run of that many frames takes at this rate; the aim for `dreamer` on an H100 is 3 hours,
where the paper's took 16.
"""

import argparse
import tempfile

from cases import CASES, Case, arguments, clock, setting

from agentzoo.device import find_device
from agentzoo.train.callbacks import Callback
from agentzoo.train.cuda_graph import WARM_UPS
from agentzoo.train.loop import Training

HEAD = """\
| agent | environments | precision | capture | frames/s | updates/s | timed | {frames:,} frames, h |
|---|---:|---|---|---:|---:|---:|---:|"""


class Meter(Callback):
    """Reads the clock at the first step after the warm-up, and stops the run when time is up.

    Args:
        seconds: to measure for.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start: tuple[float, int, int] | None = None
        self.end: tuple[float, int, int] | None = None

    def on_step(self, training: Training) -> None:
        """Begin, or end."""
        if training.counters.updates <= WARM_UPS + 1:
            return
        now = clock(training.learner.device), training.counters.env_step, training.counters.updates
        self.start = self.start or now
        if now[0] - self.start[0] >= self.seconds:
            training.stop = True
        self.end = now

    def rates(self) -> tuple[float, float, int]:
        """Frames and updates a second, and how many frames they were taken from."""
        if self.start is None or self.end is None or self.start == self.end:
            raise SystemExit("no update was made in time; give more --minutes or less --prefill")
        seconds, frames, updates = (b - a for a, b in zip(self.start, self.end, strict=True))
        return frames / seconds, updates / seconds, int(frames)


def measure(
    case: Case, given: argparse.Namespace, fields: dict[str, object]
) -> tuple[float, float, int]:
    """One run's rates."""
    meter = Meter(60 * given.minutes)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        agent = case.build(given.env, given.device, debug=given.debug, **fields)
        run = f"{folder}/run"
        agent.learn(given.frames, run=run, callbacks=[meter], progress=not given.debug)
    return meter.rates()


def main() -> None:
    parser = arguments("Frames a second of the whole loop.")
    parser.add_argument("--agents", nargs="+", choices=CASES, default=["dreamer"])
    parser.add_argument("--env", default="dmc:walker-walk")
    parser.add_argument("--envs", type=int, nargs="+", default=[16])
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--capture", nargs="+", default=["auto"], help="auto, on, off")
    parser.add_argument("--prefill", type=int, default=2_000, help="frames of random actions")
    parser.add_argument("--frames", type=float, default=5e6, help="of the run in the last column")
    parser.add_argument("--minutes", type=float, default=5.0, help="to measure for")
    parser.add_argument("--folder", help="where replay lies while it is measured")
    given = parser.parse_args()
    print(setting(find_device(given.device)), HEAD.format(frames=int(given.frames)), sep="\n\n")
    for name in given.agents:
        for envs in given.envs:
            for capture in given.capture:
                fields = {"envs": envs, "precision": given.precision, "capture": capture}
                fields |= {
                    "prefill": given.prefill,
                    "eval_every": 0,
                    "final_episodes": 0,
                    "checkpoint_every": 0,
                }
                frames, updates, timed = measure(CASES[name], given, fields)
                hours = given.frames / frames / 3600
                print(
                    f"| {name} | {envs} | {given.precision} | {capture} | {frames:,.0f} | "
                    f"{updates:.1f} | {timed:,} | {hours:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
