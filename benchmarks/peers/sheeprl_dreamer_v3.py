"""Updates of sheeprl's `dreamer_v3_5`, on request: started by benchmarks/dreamer_v3_update.py.

Runs in an environment of its own (answers.py). `dreamer_v3_5` is its DreamerV3 as published in
Nature; its `dreamer_v3` is the earlier algorithm of another architecture. Configuration, networks,
optimiser, the update and the slow critic's are sheeprl's own, put together as its `main` does.
"""

import gymnasium as gym
import hydra
import numpy as np
import torch
from answers import BATCHES, answer
from sheeprl.algos.dreamer_v3_5.agent import build_agent
from sheeprl.algos.dreamer_v3_5.dreamer_v3_5 import train, update_target_critic
from sheeprl.algos.dreamer_v3_5.utils import Moments
from sheeprl.utils.utils import dotdict
from sheeprl_settings import VERSIONS, configuration, single_cpu


def settings(sizes: dict[str, int], threads: int) -> dotdict:
    """Its experiment with our sizes, on images or on a vector."""
    keys = ("[rgb]", "[]") if sizes["image"] else ("[]", "[state]")
    recurrent = "algo.world_model.recurrent_model"
    return configuration(
        "exp=dreamer_v3_5",
        "env=dummy",
        "metric.log_level=0",
        f"num_threads={threads}",
        f"algo.cnn_keys.encoder={keys[0]}",
        f"algo.mlp_keys.encoder={keys[1]}",
        f"algo.per_rank_batch_size={sizes['batch_size']}",
        f"algo.per_rank_sequence_length={sizes['batch_length']}",
        f"algo.horizon={sizes['horizon']}",
        f"algo.dense_units={sizes['units']}",
        f"algo.cnn_channels_multiplier={sizes['depth']}",
        f"algo.world_model.discrete_size={sizes['classes']}",
        f"{recurrent}.recurrent_state_size={sizes['deter']}",
        f"{recurrent}.hidden_size={sizes['hidden']}",
    )


def space(sizes: dict[str, int]) -> gym.spaces.Dict:
    """Images, channels first, or a vector."""
    if side := sizes["image"]:
        return gym.spaces.Dict({"rgb": gym.spaces.Box(0, 255, (3, side, side), np.uint8)})
    vector = gym.spaces.Box(-np.inf, np.inf, (sizes["state"],), np.float32)
    return gym.spaces.Dict({"state": vector})


def batch(cfg: dotdict, sizes: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random transitions, time first, as its replay gives them: context, then those trained on."""
    draw = torch.Generator().manual_seed(seed)
    lead, side = (1 + sizes["batch_length"], sizes["batch_size"]), sizes["image"]
    never = torch.zeros(*lead, 1)
    columns = {
        "actions": 2 * torch.rand(*lead, sizes["action"], generator=draw) - 1,
        "rewards": torch.rand(*lead, 1, generator=draw),
        **dict.fromkeys(("is_first", "terminated", "truncated"), never),
        "deter": torch.zeros(*lead, sizes["deter"], dtype=torch.float16),
        "stoch": torch.zeros(*lead, cfg.algo.world_model.stochastic_size, dtype=torch.uint8),
    }
    if side:
        columns["rgb"] = torch.randint(
            256, (*lead, 3, side, side), dtype=torch.uint8, generator=draw
        )
    else:
        columns["state"] = torch.randn(*lead, sizes["state"], generator=draw)
    return columns


class Updates:
    """Its networks and optimiser, and one call that trains them on the next batch."""

    versions = VERSIONS

    def __init__(self, sizes: dict[str, int], threads: int) -> None:
        self.cfg = settings(sizes, threads)
        self.fabric = single_cpu(self.cfg, threads)
        self.actions, algo = (sizes["action"],), self.cfg.algo
        agent = build_agent(self.fabric, self.actions, True, self.cfg, space(sizes))
        self.modules = dict(zip(("model", "actor", "value"), agent, strict=False))
        self.target = agent[3]
        params = [p for module in self.modules.values() for p in module.parameters()]
        optimizer = hydra.utils.instantiate(algo.optimizer, params=params, _convert_="all")
        self.optimizer = self.fabric.setup_optimizers(optimizer)
        scale = algo.actor.moments
        self.moments = Moments(scale.decay, scale.max, scale.percentile.low, scale.percentile.high)
        self.batches = [batch(self.cfg, sizes, seed) for seed in range(BATCHES)]
        self.done = 0
        self.compile = bool(sizes["compile"])

    def __call__(self) -> None:
        """One gradient step of model, actor and critic, and the slow critic's."""
        data = self.batches[self.done % BATCHES]
        # the first update is counted operation by operation, which a compiled one hides
        self.cfg.algo.compile.enabled = self.compile and self.done > 0
        self.done += 1
        train(
            self.fabric, self.cfg, *self.modules.values(), self.target, self.optimizer,
            self.moments, data, None, self.actions,
        )  # fmt: skip
        value = self.modules["value"]
        update_target_critic(value, self.target, self.cfg.algo.critic.tau)


if __name__ == "__main__":
    answer(Updates)
