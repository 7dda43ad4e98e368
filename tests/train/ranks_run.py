"""A short run by several processes, one of which may end for no reason.

Run as `python ranks_run.py FOLDER SETTING...` with torchrun's variables set; with DIE_AFTER=n rank
1 is gone at its update n.
"""

import os
import sys
from typing import Any

from agentzoo import Dreamer
from agentzoo.config import parse_setting

ENV, SEED, STEPS = "gym:CartPole-v1", 3, 900
SETTINGS = (
    *("envs=2", "cont=True", "standardize=running", "prefill=200", "update_every=50"),
    *("checkpoint_every=150", "eval_every=500", "report_every=0"),
)


def main(folder: str, *settings: str) -> None:
    pairs = (parse_setting(Dreamer.config_class, one) for one in (*SETTINGS, *settings))
    overrides: dict[str, Any] = dict(pairs)
    agent = Dreamer(ENV, preset="debug", device="cpu", seed=SEED, **overrides)
    left, update = int(os.environ.get("DIE_AFTER", "0")), agent.algorithm.update
    if left and os.environ["RANK"] == "1":

        def dying(*args: Any) -> Any:
            nonlocal left
            left -= 1
            return update(*args) if left else os._exit(9)

        agent.algorithm.update = dying
    agent.learn(STEPS, run=folder, log="none", progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
