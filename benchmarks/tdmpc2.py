"""Time of TD-MPC2's update and decision: ours, and the authors' code at the same sizes.

    python benchmarks/tdmpc2.py --theirs CHECKOUT [--compiled] [--sizes 1m 5m] [--no-growth]
        [--rounds 7] [--threads 1] [--clock cpu] [--bundle FOLDER]

CHECKOUT is one of github.com/nicklashansen/tdmpc2 at e9f5932, and the interpreter's environment has
torch and tensordict beside agentzoo. All sides run in one process and take turns, a call a turn;
ratios are medians over turns. Of the authors' sources three words are changed while they are read,
as a CPU has none of them: the device's name, the optimisers' `capturable`, and the model's move to
the device, where it is already. --compiled adds their
`torch.compile`, which takes minutes, without Inductor's pattern matcher: with it PyTorch 2.13 ends
in "Not all inputs to pattern found" on a CPU. Without --theirs, ours is measured alone.

An update is one gradient step of everything on a prepared batch of 256 sequences of 3 steps, from
24 numbers and with 6 actions (walker-walk's). A decision is one of an untrained agent of size 5m,
by planning, with the noise of evaluation: drawn on our side by address.
"""

import argparse
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import torch._dynamo.config
import torch._inductor.config
from models import ACTION_SIZE, STATE_SIZE, WALKER_STATE, Clock, box, seconds, setting

from agentzoo.agents.tdmpc2 import TDMPC2Algorithm, TDMPC2Config
from agentzoo.algorithm import Batch, NoiseSource
from agentzoo.config import configure
from agentzoo.export import export
from agentzoo.runtime import Policy, load_policy
from agentzoo.runtime.spec import MPPISpec, PolicySpec
from agentzoo.torch_step import TorchStep
from agentzoo.train.allocator import keep_freed_memory
from agentzoo.train.collector import noise_for_step

CLOCKS: dict[str, Clock] = {"wall": perf_counter, "cpu": process_time}
COMMIT = "e9f5932"
GROWTH = {  # of a decision at 5m
    "as published": {},
    "half the candidates": {"candidates": 256},
    "twice the candidates": {"candidates": 1024},
    "horizon of 6": {"horizon": 6},
}
THEIR_NAMES = {"candidates": "num_samples", "horizon": "horizon"}
Call = Callable[[], object]


# -- ours ------------------------------------------------------------------------------------------


def ours(size: str) -> TDMPC2Algorithm:
    """An untrained agent with the weights of seed 0."""
    torch.manual_seed(0)
    config = configure(TDMPC2Config, {"size": size}, name="TDMPC2")
    return TDMPC2Algorithm(WALKER_STATE, box(ACTION_SIZE), config)


def our_batch(windows: int, steps: int) -> Batch:
    """Random transitions as replay gives them, no episode ending among them."""
    draw = torch.Generator().manual_seed(0)
    lead, never = (windows, steps + 1), torch.zeros(windows, steps + 1, dtype=torch.bool)
    return {
        "state": torch.randn(*lead, STATE_SIZE, generator=draw),
        "prev_action": 2 * torch.rand(*lead, ACTION_SIZE, generator=draw) - 1,
        "reward": torch.rand(*lead, generator=draw),
        **dict.fromkeys(("is_first", "is_terminal", "is_last"), never),
    }


def exported(algorithm: TDMPC2Algorithm, folder: Path) -> None:
    """The bundle of an untrained agent."""
    spec = PolicySpec(
        agent="TDMPC2",
        env="",
        obs=WALKER_STATE,
        action=algorithm.action,
        carry=algorithm.carry_spec,
        noise=noise_for_step(algorithm.noise_spec),
        plan=algorithm.plan_spec,
    )
    export(algorithm, spec, folder, golden_steps=2)


# -- theirs ----------------------------------------------------------------------------------------


class Theirs:
    """The authors' agent at one of their sizes.

    Args:
        checkout: of their repository.
        size: as ours are called.
        compiled: with their torch.compile.
        changes: of their settings.
    """

    def __init__(
        self, checkout: Path, size: str, *, compiled: bool, changes: Mapping[str, int] | None = None
    ) -> None:
        torch._inductor.config.pattern_matcher = False
        torch._dynamo.config.automatic_dynamic_shapes = False
        folder = checkout / "tdmpc2"
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        _for_cpu(folder / "common" / "scale.py", "common.scale")
        module = _for_cpu(folder / "tdmpc2.py", "tdmpc2")
        torch.manual_seed(0)
        _forget_encoders()
        self.agent: Any = module.TDMPC2(_their_settings(folder, size, compiled, changes or {}))

    def update(self, batch: Batch) -> Call:
        """One gradient step of everything on our batch, time first as theirs are."""
        first = {name: tensor.transpose(0, 1).contiguous() for name, tensor in batch.items()}
        action, obs = first["prev_action"][1:], first["state"]
        reward = first["reward"][1:].unsqueeze(-1)
        ended = torch.zeros_like(reward)
        return lambda: self.agent._update(obs, action, reward, ended)

    def decide(self) -> Call:
        """One decision by planning, as in their evaluation."""
        obs = torch.ones(STATE_SIZE)
        return lambda: self.agent.act(obs, t0=False, eval_mode=True)


def _for_cpu(file: Path, name: str) -> Any:
    """A module of the checkout that was named on the command line, for a CPU."""
    source = file.read_text(encoding="utf-8")
    for theirs, here in (("cuda:0", "cpu"), ("capturable=True", "capturable=False"),
                         (").to(self.device)\n\t\tself.optim", ")\n\t\tself.optim")):  # fmt: skip
        source = source.replace(theirs, here)
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, str(file), "exec"), module.__dict__)
    return module


def _forget_encoders() -> None:
    """Empty the default argument in which their `enc` keeps networks, or all agents share them."""
    from common import layers  # pyright: ignore[reportMissingImports]

    layers.enc.__defaults__[0].clear()


def _their_settings(
    folder: Path, size: str, compiled: bool, changes: Mapping[str, int]
) -> types.SimpleNamespace:
    """Their config.yaml's numbers, and what their parser adds for a single task."""
    from common import MODEL_SIZE  # pyright: ignore[reportMissingImports]

    found: dict[str, Any] = {}
    for line in (folder / "config.yaml").read_text(encoding="utf-8").splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip() not in ("", "???") and not line.startswith((" ", "-")):
            found[name] = _read(value.strip())
    return types.SimpleNamespace(
        **found
        | MODEL_SIZE[int(size.removesuffix("m"))]
        | {"multitask": False, "task_dim": 0, "compile": compiled, "obs": "state"}
        | {"obs_shape": {"state": (STATE_SIZE,)}, "action_dim": ACTION_SIZE, "episode_length": 500}
        | {"bin_size": (found["vmax"] - found["vmin"]) / (found["num_bins"] - 1)}
        | changes
    )


def _read(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text.replace("_", ""))
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


# -- turns -----------------------------------------------------------------------------------------


def turns(calls: Mapping[str, Call], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of every call in every round; two rounds before them warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            spent = seconds(call, clock)
            if turn > 1:
                times[name].append(spent)
    return times


def rows(label: str, times: Mapping[str, list[float]]) -> Iterator[str]:
    """A line of the table for each side; the last column is over the first side, turn by turn."""
    reference = next(iter(times.values()))
    for name, spent in times.items():
        over = median(a / b for a, b in zip(spent, reference, strict=True))
        ms = f"{1e3 * median(spent):.1f} ({1e3 * min(spent):.1f})"
        yield f"| {label} | {name} | {ms} | {over:.2f} |"


def updates(size: str, given: argparse.Namespace) -> dict[str, Call]:
    """The sides of an update."""
    algorithm, count = ours(size), iter(range(1_000_000))
    config = algorithm.config
    batch = our_batch(config.batch_size, config.batch_length - 1)
    calls: dict[str, Call] = {"ours": lambda: algorithm.update(batch, NoiseSource(next(count)))}
    if given.theirs:
        calls["theirs, eager"] = Theirs(given.theirs, size, compiled=False).update(batch)
        if given.compiled:
            calls["theirs, compiled"] = Theirs(given.theirs, size, compiled=True).update(batch)
    return calls


def decisions(
    folder: Path, algorithm: TDMPC2Algorithm, changes: dict[str, int], given: argparse.Namespace
) -> dict[str, Call]:
    """The sides of a decision with some of the planner's settings changed."""
    obs = {"state": np.ones(STATE_SIZE, np.float32)}
    runtime = load_policy(folder, provider="cpu", threads=given.threads, plan=changes)
    assert isinstance(runtime.spec.plan, MPPISpec)
    algorithm.plan_spec = runtime.spec.plan
    eager = Policy(TorchStep(algorithm), runtime.spec)
    calls: dict[str, Call] = {
        "ours, ONNX Runtime": lambda: runtime.act(obs),
        "ours, torch": lambda: eager.act(obs),
    }
    if given.theirs:
        theirs = {THEIR_NAMES[name]: value for name, value in changes.items()}
        calls["theirs, eager"] = Theirs(given.theirs, "5m", compiled=False, changes=theirs).decide()
        if given.compiled and not changes:
            calls["theirs, compiled"] = Theirs(given.theirs, "5m", compiled=True).decide()
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description="TD-MPC2's update and decision.")
    parser.add_argument("--theirs", type=Path, help=f"checkout of nicklashansen/tdmpc2 at {COMMIT}")
    parser.add_argument("--compiled", action="store_true", help="their torch.compile, too")
    parser.add_argument("--sizes", nargs="*", default=["1m", "5m"], choices=["1m", "5m", "19m"])
    parser.add_argument("--growth", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bundle", type=Path, help="of our decision; exported there if empty")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    clock = CLOCKS[given.clock]
    print(setting(given.threads, "torch", "onnxruntime", "numpy"), f"{given.clock} time", "\n")
    print("| | side | ms: median (min) | over ours |\n|---|---|---:|---:|")
    for size in given.sizes:
        found = turns(updates(size, given), given.rounds, clock)
        print("\n".join(rows(f"update, {size}", found)), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        algorithm = ours("5m").eval()
        bundle = given.bundle or Path(scratch)
        if not (bundle / "manifest.json").exists():
            exported(algorithm, bundle)
        for name, changes in list(GROWTH.items())[: None if given.growth else 1]:
            usual = algorithm.plan_spec
            calls = decisions(bundle, algorithm, changes, given)
            print(
                "\n".join(rows(f"decision, {name}", turns(calls, given.rounds, clock))), flush=True
            )
            algorithm.plan_spec = usual


if __name__ == "__main__":
    main()
