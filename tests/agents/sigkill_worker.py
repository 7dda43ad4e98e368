"""A training process that kills itself with SIGKILL at a given environment step.

python -m tests.agents.sigkill_worker CASE RUN STEPS KILL_AT [field=value ...]
"""

import os
import signal
import sys

import torch

from agentzoo.config import parse_setting
from agentzoo.train.callbacks import Callback
from agentzoo.train.loop import Training
from tests.agents.contract import CASES


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Training) -> None:
        if training.counters.env_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    name, run, steps, kill_at, *settings = sys.argv[1:]
    torch.set_num_threads(1)
    case = CASES[name]
    fields = dict(parse_setting(case.agent.config_class, setting) for setting in settings)
    case.make(**fields).learn(int(steps), run=run, callbacks=[KillAt(int(kill_at))], progress=False)
