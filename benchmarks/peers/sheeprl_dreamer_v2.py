"""Updates of sheeprl's `dreamer_v2`, on request: started by benchmarks/dreamer_v2_update.py.

Runs in an environment of its own (answers.py). Configuration, networks, optimisers and the update
are sheeprl's own, put together as its `main` does; the target critic is copied there, every 100
updates, which is left out.
"""

import gymnasium as gym
import numpy as np
import torch
from answers import BATCHES, answer
from sheeprl.algos.dreamer_v2.dreamer_v2 import build_agent, train
from sheeprl.algos.dreamer_v2.utils import build_optimizer
from sheeprl.utils.utils import dotdict
from sheeprl_settings import VERSIONS, configuration, single_cpu


def settings(sizes: dict[str, int], threads: int) -> dotdict:
    """Its experiment on Ms. Pac-Man, with our preset's sizes and images from nowhere."""
    world = "algo.world_model"
    return configuration(
        "exp=dreamer_v2_ms_pacman",
        "env=dummy",
        "metric.log_level=0",
        f"num_threads={threads}",
        f"algo.per_rank_batch_size={sizes['batch_size']}",
        f"algo.per_rank_sequence_length={sizes['batch_length']}",
        f"algo.horizon={sizes['horizon']}",
        f"algo.dense_units={sizes['units']}",
        f"algo.mlp_layers={sizes['layers']}",
        f"{world}.encoder.cnn_channels_multiplier={sizes['depth']}",
        f"{world}.stochastic_size={sizes['stoch']}",
        f"{world}.discrete_size={sizes['classes']}",
        f"{world}.recurrent_model.recurrent_state_size={sizes['deter']}",
        f"{world}.transition_model.hidden_size={sizes['hidden']}",
        f"{world}.representation_model.hidden_size={sizes['hidden']}",
    )


def batch(sizes: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random transitions, time first, as its replay gives them."""
    draw = torch.Generator().manual_seed(seed)
    lead = sizes["batch_length"], sizes["batch_size"]
    chosen = torch.randint(sizes["action"], lead, generator=draw)
    return {
        "rgb": torch.randint(256, (*lead, 1, 64, 64), generator=draw).float(),
        "actions": torch.nn.functional.one_hot(chosen, sizes["action"]).float(),
        "rewards": torch.rand(*lead, 1, generator=draw),
        "terminated": torch.zeros(*lead, 1),
        "truncated": torch.zeros(*lead, 1),
        "is_first": torch.zeros(*lead, 1),
    }


class Updates:
    """Its networks and optimisers, and one call that trains them on the next batch."""

    versions = VERSIONS

    def __init__(self, sizes: dict[str, int], threads: int) -> None:
        self.cfg = settings(sizes, threads)
        self.fabric = single_cpu(self.cfg, threads)
        self.actions = (sizes["action"],)
        space = gym.spaces.Dict({"rgb": gym.spaces.Box(0, 255, (1, 64, 64), np.uint8)})
        *modules, self.target, _ = build_agent(self.fabric, self.actions, False, self.cfg, space)
        self.modules = dict(zip(("model", "actor", "value"), modules, strict=True))
        algo = self.cfg.algo
        chosen = algo.world_model.optimizer, algo.actor.optimizer, algo.critic.optimizer
        pairs = zip(chosen, modules, strict=True)
        made = [build_optimizer(s, m.parameters()) for s, m in pairs]
        self.optimizers = self.fabric.setup_optimizers(*made)
        self.batches = [batch(sizes, seed) for seed in range(BATCHES)]
        self.done = 0

    def __call__(self) -> None:
        """One gradient step of model, actor and critic."""
        data = self.batches[self.done % BATCHES]
        self.done += 1
        train(
            self.fabric, *self.modules.values(), self.target, *self.optimizers,
            data, None, self.cfg, self.actions,
        )  # fmt: skip


if __name__ == "__main__":
    answer(Updates)
