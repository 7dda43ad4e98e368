"""Runs as processes of this machine, so many at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..train import checkpoint
from ..train.checkpoint import Counters
from .plan import RunPlan

LOG = "sweep.log"  # in a run's folder: what its process said
POLL_S = 0.2


@dataclass(frozen=True)
class Ended:
    """A run that is over, in this sitting or in one before.

    Attributes:
        plan: which.
        folder: its folder.
        error: why it failed, in one line; "" if it did not.
    """

    plan: RunPlan
    folder: Path
    error: str = ""


def is_finished(folder: Path, steps: int) -> bool:
    """Whether the run in a folder has taken its steps, by its newest whole checkpoint."""
    newest = checkpoint.newest(folder / "checkpoints")
    return newest is not None and Counters.read(newest / "training").env_step >= steps


class Child:
    """A run in a process that the kernel ends with this one."""

    def __init__(self, plan: RunPlan, folder: Path, *, threads: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.plan, self.folder = plan, folder
        told = {
            "agent": plan.agent, "env": plan.env, "preset": plan.preset, "seed": plan.seed,
            "steps": plan.steps, "settings": dict(plan.settings), "run": str(folder.resolve()),
        }  # fmt: skip
        self._log = (folder / LOG).open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agentzoo.sweep.child", json.dumps(told)],
            stdin=subprocess.PIPE,  # its lifeline
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # a group of its own, which the lifeline ends as a whole
            env={"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": search_path()},
        )

    def ended(self) -> Ended | None:
        """The run as it ended, or None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        self._log.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        return Ended(self.plan, self.folder, "" if code == 0 else self._why(code))

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> Ended:
        """Until it has ended."""
        self.process.wait()
        found = self.ended()
        assert found is not None
        return found

    def _why(self, code: int) -> str:
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return f"exit code {code}: {last.strip()[:300]}"


def run_here(plans: Iterator[RunPlan], folder: Path, parallel: int) -> Iterator[Ended]:
    """Run what is not finished yet, `parallel` at a time; finished runs are given as they are.

    A plan is taken when there is room for its run, so a search may look at what has ended. Whoever
    stops listening stops the runs, with a checkpoint each.

    Args:
        plans: what to run.
        folder: where each run has its own, by its name.
        parallel: runs at a time.
    """
    children: list[Child] = []
    waiting = True
    try:
        while waiting or children:
            while waiting and len(children) < parallel:
                plan = next(plans, None)
                if plan is None:
                    waiting = False
                elif is_finished(place := folder / plan.name, plan.steps):
                    yield Ended(plan, place)
                else:
                    children.append(Child(plan, place))
            over = [(child, end) for child in children if (end := child.ended()) is not None]
            for child, end in over:
                children.remove(child)
                yield end
            if not over and children:
                time.sleep(POLL_S)
    finally:
        for child in children:
            child.stop()
        for child in children:
            child.wait()


def search_path() -> str:
    """Search path of this process's packages: a child runs elsewhere, and finds the same."""
    return os.pathsep.join(one for one in [os.getcwd(), *sys.path] if one)
