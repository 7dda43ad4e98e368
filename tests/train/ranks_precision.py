"""Runs by two processes whose processors differ: one multiplies bfloat16 by itself.

Run as `python ranks_precision.py FOLDER` with torchrun's variables set; says what each became.
"""

import json
import os
import sys
from pathlib import Path

import torch

import agentzoo.precision
from agentzoo import Dreamer
from agentzoo.precision import Measured
from agentzoo.runtime.errors import RunError


def learn(run: Path, steps: int, precision: str, *, able: int) -> list[str]:
    """The precision of a process's agent and of its policy; rank `able` has bfloat16."""
    here = os.environ["RANK"] == str(able)
    torch.cpu.get_capabilities = lambda: {"avx512_bf16": here}
    agent = Dreamer(
        "gym:Pendulum-v1",
        preset="debug",
        device="cpu",
        seed=3,
        envs=2,
        prefill=100,
        update_every=50,
        eval_every=0,
        final_episodes=0,
        report_every=0,
        precision=precision,
    )
    agent.learn(steps, run=run, log="none", progress=False)
    return [agent.config.precision, agent.spec.precision]


def main(folder: Path) -> None:
    agentzoo.precision.MEASURED = (Measured("Dreamer", images=False, times=2.0),)
    first, rank = "bf16" if os.environ["RANK"] == "0" else "fp32", os.environ["RANK"]
    found: dict[str, object] = {
        "first": learn(folder / "bf16", 600, "auto", able=0),
        "other": learn(folder / "fp32", 600, "auto", able=1),
        "resumed": learn(folder / "bf16", 1000, "auto", able=1),
    }
    try:
        learn(folder / "none", 600, first, able=0)
    except RunError as error:
        found["differing"] = str(error)
    print("FOUND", rank, json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
