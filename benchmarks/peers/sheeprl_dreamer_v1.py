"""Updates of sheeprl's `dreamer_v1`, on request: started by benchmarks/dreamer_update.py.

Runs in an environment of its own, where sheeprl is installed, and imports nothing of ours. Its
first line on stdout is a JSON object about itself; each line `run N` on stdin is then answered with
a JSON list of the N updates' times in seconds. Configuration, networks, optimisers and the update
are sheeprl's own, put together as its `main` does.
"""

import argparse
import contextlib
import json
import sys
import time
import warnings
from importlib.metadata import version

import gymnasium as gym
import hydra
import numpy as np
import torch
from lightning.fabric import Fabric
from sheeprl.algos.dreamer_v1.dreamer_v1 import build_agent, train
from sheeprl.utils.utils import dotdict
from torch.distributions import Distribution
from torch.utils.flop_counter import FlopCounterMode

BATCHES = 4  # prepared ones, taken in turn


def configuration(sizes: dict[str, int], threads: int) -> dotdict:
    """Its experiment `dreamer_v1` on vectors, with our preset's sizes."""
    world = "algo.world_model"
    overrides = [
        "exp=dreamer_v1",
        "env=dummy",
        "metric.log_level=0",
        f"num_threads={threads}",
        "algo.cnn_keys.encoder=[]",
        "algo.cnn_keys.decoder=[]",
        "algo.mlp_keys.encoder=[state]",
        f"algo.per_rank_batch_size={sizes['batch_size']}",
        f"algo.per_rank_sequence_length={sizes['batch_length']}",
        f"algo.horizon={sizes['horizon']}",
        f"algo.dense_units={sizes['units']}",
        f"{world}.encoder.mlp_layers={sizes['state_layers']}",
        f"{world}.observation_model.mlp_layers={sizes['state_layers']}",
        f"{world}.reward_model.mlp_layers={sizes['reward_layers']}",
        f"algo.critic.mlp_layers={sizes['value_layers']}",
        f"algo.actor.mlp_layers={sizes['actor_layers']}",
        f"{world}.stochastic_size={sizes['stoch']}",
        f"{world}.recurrent_model.recurrent_state_size={sizes['deter']}",
        f"{world}.transition_model.hidden_size={sizes['hidden']}",
        f"{world}.representation_model.hidden_size={sizes['hidden']}",
    ]
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        composed = hydra.compose("config", overrides=overrides)
    return dotdict(composed)


def optimizer(settings: dotdict, module: torch.nn.Module) -> torch.optim.Optimizer:
    """One of its three optimisers, as its `main` makes them."""
    return hydra.utils.instantiate(settings, params=module.parameters(), _convert_="all")


def batch(sizes: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random rows, time first, as its replay gives them."""
    draw = torch.Generator().manual_seed(seed)
    lead = sizes["batch_length"], sizes["batch_size"]
    return {
        "state": torch.randn(*lead, sizes["obs"], generator=draw),
        "actions": 2 * torch.rand(*lead, sizes["action"], generator=draw) - 1,
        "rewards": torch.rand(*lead, 1, generator=draw),
        "terminated": torch.zeros(*lead, 1),
        "truncated": torch.zeros(*lead, 1),
        "is_first": torch.zeros(*lead, 1),
    }


class Updates:
    """Its networks and optimisers, and one call that trains them on the next batch."""

    def __init__(self, sizes: dict[str, int], threads: int) -> None:
        self.cfg = configuration(sizes, threads)
        torch.set_num_threads(threads)
        # as its command line does
        torch.set_float32_matmul_precision(self.cfg.float32_matmul_precision)
        Distribution.set_default_validate_args(self.cfg.distribution.validate_args)
        self.fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
        space = gym.spaces.Dict({"state": gym.spaces.Box(-np.inf, np.inf, (sizes["obs"],))})
        modules = build_agent(self.fabric, (sizes["action"],), True, self.cfg, space)[:3]
        self.modules = dict(zip(("model", "actor", "value"), modules, strict=True))
        algo = self.cfg.algo
        settings = algo.world_model.optimizer, algo.actor.optimizer, algo.critic.optimizer
        pairs = zip(settings, modules, strict=True)
        self.optimizers = self.fabric.setup_optimizers(*(optimizer(s, m) for s, m in pairs))
        self.batches = [batch(sizes, seed) for seed in range(BATCHES)]
        self.done = 0

    def __call__(self) -> None:
        """One gradient step of model, actor and critic."""
        data = self.batches[self.done % BATCHES]
        self.done += 1
        train(self.fabric, *self.modules.values(), *self.optimizers, data, None, self.cfg)

    def about(self) -> dict[str, object]:
        """Versions, parameters by group, and the operations of one update."""
        with FlopCounterMode(display=False) as counter:
            self()
        groups = self.modules.items()
        return {
            "versions": {"sheeprl": version("sheeprl"), "torch": f"(torch {torch.__version__})"},
            "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in groups},
            "flops": counter.get_total_flops(),
        }


def seconds(update: Updates) -> float:
    """Time of one update."""
    start = time.perf_counter()
    update()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=json.loads, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        update = Updates(given.sizes, given.threads)
        about = update.about()
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        count = int(line.removeprefix("run "))
        with contextlib.redirect_stdout(sys.stderr):
            times = [seconds(update) for _ in range(count)]
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
