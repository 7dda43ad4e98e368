"""Decisions a second of PlaNet's planner: the exported policy, and torch eager.

    python benchmarks/planner.py [--rounds 5] [--threads 2] [--only "the paper"]

An untrained PlaNet is exported to a temporary folder; the same weights decide in torch, by the same
cross-entropy loop. Both take turns in one process, a decision a turn. The floor is what a
decision's matrix products would take at the rate of one large product, measured in the same turns.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from models import ACTION_SIZE, WALKER_STATE, box, seconds, setting
from torch.utils.flop_counter import FlopCounterMode

from agentzoo.agents.planet import PlaNet, PlaNetAlgorithm, PlaNetConfig
from agentzoo.config import configure
from agentzoo.export import export
from agentzoo.runtime import Policy, load_policy
from agentzoo.runtime.spec import CEMSpec, PolicySpec
from agentzoo.torch_step import TorchStep
from agentzoo.train.allocator import keep_freed_memory
from agentzoo.train.collector import noise_for_step

COLUMNS = (
    *("", "candidates", "horizon", "iterations", "GFLOP", "torch, s", "runtime, s"),
    *("decisions/s", "torch / runtime", "floor / runtime"),
)
PRESETS = {"the paper's settings": "dmc_state", "`cpu`": "cpu"}
GROWTH = {  # by how much a preset's planner is changed
    "": {},
    ", half the candidates": {"candidates": 0.5},
    ", twice the candidates": {"candidates": 2},
    ", half the horizon": {"horizon": 0.5},
    ", twice the horizon": {"horizon": 2},
}
SQUARE = 2048  # sides of the matrices whose product gives the floor's rate
Decide = Callable[[], object]


def untrained(preset: str) -> PlaNetAlgorithm:
    """A PlaNet of that preset with the weights of seed 0."""
    keep_freed_memory()
    config = configure(PlaNetConfig, PlaNet.presets[preset], name="PlaNet")
    torch.manual_seed(0)
    return PlaNetAlgorithm(WALKER_STATE, box(ACTION_SIZE), config)


def exported(algorithm: PlaNetAlgorithm, folder: Path) -> None:
    """The bundle of an untrained agent."""
    spec = PolicySpec(
        agent="PlaNet",
        env="",
        obs=WALKER_STATE,
        action=algorithm.action,
        carry=algorithm.carry_spec,
        noise=noise_for_step(algorithm.noise_spec),
        plan=algorithm.plan_spec,
    )
    export(algorithm, spec, folder, golden_steps=2)


def product() -> Decide:
    """One large product, after one that warms up."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    out = a @ b
    return lambda: torch.mm(a, b, out=out)


def changed(plan: CEMSpec, factors: dict[str, float]) -> dict[str, int]:
    """The settings that differ."""
    return {name: round(asdict(plan)[name] * by) for name, by in factors.items()}


def row(name: str, plan: CEMSpec, decide: dict[str, Decide], rounds: int) -> str:
    """One line of the table."""
    with FlopCounterMode(display=False) as counter:
        decide["torch"]()
    calls = {**decide, "product": product()}
    times: dict[str, list[float]] = {one: [] for one in calls}
    for turn in range(rounds + 1):
        for one, call in calls.items():
            time = seconds(call)
            if turn:  # the first round warms up
                times[one].append(time)
    flops, (eager, runtime, square) = counter.get_total_flops(), map(median, times.values())
    ratio = median(a / b for a, b in zip(times["torch"], times["runtime"], strict=True))
    floor = flops * square / (2 * SQUARE**3)
    cells = [name, plan.candidates, plan.horizon, plan.iterations, f"{flops / 1e9:.1f}"]
    cells += [f"{eager:.3f}", f"{runtime:.3f}", f"{1 / runtime:.2f}"]
    return f"| {' | '.join(map(str, [*cells, f'{ratio:.2f}', f'{floor / runtime:.2f}']))} |"


def table(preset: str, name: str, rounds: int, threads: int) -> Iterator[str]:
    """The lines of one preset, as it is and with its planner changed."""
    algorithm, obs = untrained(preset).eval(), {"state": np.ones(24, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        exported(algorithm, Path(folder))
        usual = algorithm.plan_spec
        for suffix, factors in GROWTH.items():
            changes = changed(usual, factors)
            policy = load_policy(folder, provider="cpu", threads=threads, plan=changes)
            assert isinstance(policy.spec.plan, CEMSpec)
            algorithm.plan_spec = policy.spec.plan
            eager = Policy(TorchStep(algorithm), policy.spec)
            decide: dict[str, Decide] = {
                "torch": lambda eager=eager: eager.act(obs),
                "runtime": lambda policy=policy: policy.act(obs),
            }
            yield row(name + suffix, policy.spec.plan, decide, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description="How many decisions a second a planner makes.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="presets whose name starts so")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(setting(given.threads, "torch", "onnxruntime", "numpy"), "\n")
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for name, preset in PRESETS.items():
        if name.startswith(given.only):
            for line in table(preset, name, given.rounds, given.threads):
                print(line, flush=True)


if __name__ == "__main__":
    main()
