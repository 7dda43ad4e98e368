"""Updates of our DreamerV3, on request: started by benchmarks/dreamer_v3_update.py.

In a process of its own like the peers (answers.py), so that its peak memory is its own too.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from answers import BATCHES, answer
from torch import nn

from agentzoo.agents.dreamer_v3 import DreamerV3Algorithm, DreamerV3Config
from agentzoo.algorithm import Batch
from agentzoo.config import configure
from agentzoo.runtime.spec import ActionSpec, ObsSpec
from agentzoo.train.allocator import keep_freed_memory
from agentzoo.train.cuda_graph import EagerUpdate

SET = ("batch_size", "horizon", "units", "hidden", "deter", "classes", "depth")


def spaces(sizes: dict[str, int]) -> tuple[dict[str, ObsSpec], ActionSpec]:
    """A vector, or images where `image` is not 0; actions in [-1, 1]."""
    side, size = sizes["image"], sizes["action"]
    low, high = (-1.0,) * size, (1.0,) * size
    action = ActionSpec(kind="box", size=size, shape=(size,), dtype="float32", low=low, high=high)
    shape = (side, side, 3) if side else (sizes["state"],)
    kind = "image" if side else "vector"
    return {kind: ObsSpec(kind=kind, shape=shape, source=shape)}, action


def batch(algorithm: DreamerV3Algorithm, obs: dict[str, ObsSpec], seed: int) -> Batch:
    """Random transitions as replay gives them: context, then those that are trained on."""
    draw = torch.Generator().manual_seed(seed)
    lead = algorithm.config.batch_size, algorithm.config.batch_length
    never = torch.zeros(lead, dtype=torch.bool)
    columns = {
        "prev_action": 2 * torch.rand(*lead, algorithm.action.size, generator=draw) - 1,
        "reward": torch.rand(*lead, generator=draw),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), never),
    }
    for key, spec in obs.items():
        shape = *lead, *spec.shape
        image = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
        columns[key] = image if spec.kind == "image" else torch.randn(shape, generator=draw)
    for name, column in algorithm.columns.items():
        columns[name] = torch.zeros(*lead, *column.shape, dtype=getattr(torch, str(column.dtype)))
    return columns


class Updates:
    """Our algorithm, and one call that trains it on the next batch."""

    versions: Mapping[str, str] = MappingProxyType({})

    def __init__(self, sizes: dict[str, int], threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        torch.manual_seed(0)
        obs, action = spaces(sizes)
        settings: dict[str, Any] = {name: sizes[name] for name in SET}
        settings["batch_length"] = sizes["batch_length"] + 1
        config = configure(DreamerV3Config, settings, name="DreamerV3")
        self.algorithm = net = DreamerV3Algorithm(obs, action, config)
        model = nn.ModuleList([net.encoder, net.rssm, net.decoder, net.reward, net.cont])
        self.modules = {"model": model, "actor": net.actor, "value": net.value}
        self.batches = [batch(net, obs, seed) for seed in range(BATCHES)]
        self.eager = self.update = EagerUpdate(net, torch.device("cpu"))
        if sizes["compile"]:
            self.update = EagerUpdate(net, torch.device("cpu"), compiled=True)
            self.update(self.batches[0], 0)
        self.done = 0

    def __call__(self) -> None:
        """One gradient step of model, actor and value; the first is eager, to count operations."""
        update = self.update if self.done else self.eager
        data = self.batches[self.done % BATCHES]
        self.done += 1
        update(data, self.done)


if __name__ == "__main__":
    answer(Updates)
