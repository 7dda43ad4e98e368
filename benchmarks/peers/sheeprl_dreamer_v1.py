"""Updates of sheeprl's `dreamer_v1`, on request, from vectors or images.

Started by benchmarks/dreamer_update.py, and by dreamer_pixels_update.py, whose sizes have the first
convolution's `depth`. Runs in an environment of its own (answers.py). Configuration, networks,
optimisers and the update are sheeprl's own, put together as its `main` does.
"""

import gymnasium as gym
import hydra
import numpy as np
import torch
from answers import BATCHES, answer
from sheeprl.algos.dreamer_v1.dreamer_v1 import build_agent, train
from sheeprl.utils.utils import dotdict
from sheeprl_settings import VERSIONS, configuration, single_cpu


def settings(sizes: dict[str, int], threads: int) -> dotdict:
    """Its experiment `dreamer_v1` on images or vectors, with our preset's sizes."""
    world, pixels = "algo.world_model", "depth" in sizes
    return configuration(
        "exp=dreamer_v1",
        "env=dummy",
        "metric.log_level=0",
        f"num_threads={threads}",
        f"algo.cnn_keys.encoder={'[rgb]' if pixels else '[]'}",
        f"algo.mlp_keys.encoder={'[]' if pixels else '[state]'}",
        f"{world}.encoder.cnn_channels_multiplier={sizes.get('depth', 32)}",
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
    )


def space(sizes: dict[str, int]) -> gym.spaces.Dict:
    """The observation space."""
    if "depth" in sizes:
        return gym.spaces.Dict({"rgb": gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)})
    return gym.spaces.Dict({"state": gym.spaces.Box(-np.inf, np.inf, (sizes["obs"],))})


def optimizer(settings: dotdict, module: torch.nn.Module) -> torch.optim.Optimizer:
    """One of its three optimisers, as its `main` makes them."""
    return hydra.utils.instantiate(settings, params=module.parameters(), _convert_="all")


def batch(sizes: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random transitions, time first, as its replay gives them."""
    draw = torch.Generator().manual_seed(seed)
    lead = sizes["batch_length"], sizes["batch_size"]
    if "depth" in sizes:
        image = torch.randint(256, (*lead, 3, 64, 64), dtype=torch.uint8, generator=draw)
        seen = {"rgb": image.float()}  # its replay gives float32
    else:
        seen = {"state": torch.randn(*lead, sizes["obs"], generator=draw)}
    return {
        **seen,
        "actions": 2 * torch.rand(*lead, sizes["action"], generator=draw) - 1,
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
        modules = build_agent(self.fabric, (sizes["action"],), True, self.cfg, space(sizes))[:3]
        self.modules = dict(zip(("model", "actor", "value"), modules, strict=True))
        algo = self.cfg.algo
        chosen = algo.world_model.optimizer, algo.actor.optimizer, algo.critic.optimizer
        pairs = zip(chosen, modules, strict=True)
        self.optimizers = self.fabric.setup_optimizers(*(optimizer(s, m) for s, m in pairs))
        self.batches = [batch(sizes, seed) for seed in range(BATCHES)]
        self.done = 0

    def __call__(self) -> None:
        """One gradient step of model, actor and critic."""
        data = self.batches[self.done % BATCHES]
        self.done += 1
        train(self.fabric, *self.modules.values(), *self.optimizers, data, None, self.cfg)


if __name__ == "__main__":
    answer(Updates)
