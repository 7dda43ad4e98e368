"""Dreamed frames a second for a person and the policy together, and the share of a core they take.

Exports an untrained DreamerV3 that sees 64x64 images, lets the page's worker dream at 30 steps a
second (two frames each), and counts what arrives and the worker's processor time.

python benchmarks/dream_frames.py --size 12m --seconds 20
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from agentzoo import DreamerV3
from agentzoo.runtime.server.page.frames import read_frame
from agentzoo.runtime.server.page.job import Job
from agentzoo.runtime.server.page.shows import HEAD, started

STEPS_A_SECOND = 30.0  # of two frames


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has taken; Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def dream(folder: Path, seconds: float) -> dict[str, float]:
    process = await started()
    assert process.stdin
    assert process.stdout
    job = Job(view="play", folder=str(folder), fps=STEPS_A_SECOND)
    process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
    frames, begun, spent = 0, 0.0, 0.0
    while True:
        length, kind = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
        content = await process.stdout.readexactly(length)
        if kind != b"F":
            fact = json.loads(content)
            if fact["kind"] == "end":
                raise SystemExit(f"the dream ended: {fact['why']}")
            continue
        header, pictures = read_frame(content)
        if header["step"] == 30:  # warm
            begun, spent = time.monotonic(), processor_s(process.pid)
        elif begun:
            frames += len(pictures)
            if time.monotonic() - begun >= seconds:
                break
    took, used = time.monotonic() - begun, processor_s(process.pid) - spent
    process.stdin.close()
    await process.wait()
    return {
        "frames_per_s": frames / took,
        "core_share": used / took,
        "processor_ms_per_frame": 1e3 * used / frames,
        "core_share_at_60": 60 * used / frames,  # of a machine that others keep busy, too
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="12m")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        agent = DreamerV3("dmc:cartpole-swingup?obs=pixels", size=given.size, envs=1, seed=0)
        with torch.no_grad():  # a dream that does not end
            agent.algorithm.cont.net.out.bias.fill_(10.0)
        bundle = agent.export(Path(folder) / "bundle", golden_steps=10, world=True)
        found = asyncio.run(dream(bundle, given.seconds))
    load = os.getloadavg()[0]
    print(json.dumps({"size": given.size, **{k: round(v, 3) for k, v in found.items()},
                      "load": load}))  # fmt: skip


if __name__ == "__main__":
    main()
