"""One run of a sweep in a process of its own: `python -m agentzoo.sweep.child`, by the sweep.

Its standard input is a pipe that the sweep holds open: once that is gone, the kernel kills this
process and what it started. A run that was killed goes on from its last checkpoint.
"""

import json
import sys
import threading
from pathlib import Path

from agentzoo.runtime.envs.worker import die_with_the_learner
from agentzoo.runtime.errors import AgentZooError

from ..agents.registry import named


def main() -> None:
    """Learn what the first argument says, in JSON."""
    die_with_the_learner()
    if sys.platform != "linux":
        threading.Thread(target=_watch, daemon=True).start()
    told = json.loads(sys.argv[1])
    try:
        kind = named(told["agent"]).load()
        agent = kind(told["env"], preset=told["preset"], seed=told["seed"], **told["settings"])
        agent.learn(told["steps"], run=Path(told["run"]))
    except AgentZooError as error:
        print(f"agentzoo: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _watch() -> None:
    """End with the sweep where the kernel does not see to it."""
    import os

    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
