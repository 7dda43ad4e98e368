"""Updates of every agent on prepared batches in float64, by one process or by several together.

Run as `python ranks_updates.py FOLDER` with torchrun's variables set, each process takes its share
of every batch, and rank 0 leaves what came of it in the folder. `updates` is the same for one.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from agentzoo import TDMPC2, Dreamer, DreamerV2, DreamerV3, LSImagine, PlaNet
from agentzoo.agent import Agent
from agentzoo.algorithm import Batch
from agentzoo.ranks import joined, ranks
from agentzoo.train.cuda_graph import EagerUpdate
from tests.agents import builders

UPDATES = 5
CPU = torch.device("cpu")


class Case(NamedTuple):
    """An agent in its preset `debug`, with what makes the ranks tell each other more."""

    agent: type[Agent]
    overrides: Mapping[str, object] = {}
    obs: Any = builders.STATE
    action: Any = builders.box()


CASES = {
    "PlaNet": Case(PlaNet, {"overshooting": 3}),
    "Dreamer": Case(Dreamer, {"cont": True, "free_nats": 1.5, "imagine_starts": 12}),
    "DreamerV2": Case(DreamerV2, {"free_nats": 0.5, "imagine_starts": 16, "slow_every": 2}),
    "DreamerV3": Case(DreamerV3),
    "LSImagine": Case(LSImagine, {"long_cap": 6}, builders.MAPPED, builders.discrete(5)),
    "TDMPC2": Case(TDMPC2, {"episodic": True, "dropout": 0.1}),
}


def build(case: Case) -> Any:
    overrides = {**case.agent.presets["debug"], **case.overrides, "capture": "off"}
    algorithm = builders.build(case.agent, case.obs, case.action, **overrides).double()
    if case.agent is TDMPC2:
        algorithm.q.out.weight.data.mul_(30)  # returns that spread by more than the smallest scale
    if case.agent is LSImagine:
        algorithm.jump.net.out.bias.data.add_(3)  # more jumps than are looked at
    return algorithm


def prepared(algorithm: Any, case: Case, seed: int) -> Batch:
    """A batch whose sequences differ more and more, so that no half is like the whole."""
    batch = builders.random_batch(algorithm, case.obs, seed)
    batch["is_first"][0, 3] = True  # so that halves hold different numbers of open loops
    if "zoomed" in batch:
        batch["interval"] = 1 + (5 * batch["interval"]).floor()
        batch["zoomed"][0] = True  # more than the cap, and more of them on the first rank
    scale = torch.linspace(0.2, 3, len(batch["reward"]))
    for name, column in batch.items():
        if column.is_floating_point() and name not in ("prev_action", "interval", "deter"):
            column = column * scale.view(-1, *[1] * (column.ndim - 1))
        batch[name] = column.double() if column.is_floating_point() else column
    return batch


def updates(case: Case) -> dict[str, Tensor]:
    """Weights, statistics, moments and the mean of every metric after the updates."""
    algorithm = build(case)
    batches = [prepared(algorithm, case, seed) for seed in range(UPDATES)]
    torch.set_default_dtype(torch.float64)  # of the draws, too
    update, found = EagerUpdate(algorithm, CPU), dict[str, Tensor]()
    try:
        for number, batch in enumerate(batches):
            mine = {name: ranks().share(column) for name, column in batch.items()}
            metrics, back = update(mine, number)
            found |= {f"{number}/{name}": ranks().mean(x) for name, x in metrics.items()}
        found |= {f"back/{name}": ranks().gather(x).double() for name, x in back.items()}
    finally:
        torch.set_default_dtype(torch.float32)
    found |= {f"weight/{name}": x for name, x in algorithm.state_dict().items()}
    for name, optimizer in algorithm.optimizers().items():
        found |= {f"{name}/{key}": x for key, x in optimizer.state_dict().items()}
    return {name: x.clone(memory_format=torch.contiguous_format) for name, x in found.items()}


def in_float64() -> None:
    """Let what the recipes compute in float32 for its range stay float64."""
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def main(folder: Path) -> None:
    in_float64()
    with joined(CPU):
        for name, case in CASES.items():
            found = updates(case)
            if ranks().first:
                save_file(found, folder / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
