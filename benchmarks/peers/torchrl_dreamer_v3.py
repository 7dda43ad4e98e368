"""Updates of TorchRL's DreamerV3 learner, on request: started by benchmarks/dreamer_v3_update.py.

Runs in an environment of its own (answers.py). The learner is that of its example, which its wheel
holds (`sota-implementations/dreamer_v3`), put together as its own benchmark of learner updates
does; the wheel lacks the example's settings, so those of its DMC Walker preset are written out
here, with the benchmark's batch. Vectors only: its image networks are another architecture.
`compile` 0 is eager, which its "auto" takes on a CPU; 1 compiles the recurrence as a scan of eight
steps a piece (its benchmark's `compiled_scan`).
"""

import sys
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torchrl
from answers import BATCHES, answer
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torchrl.envs import GymWrapper
from torchrl.trainers.algorithms import DreamerV3OptimizationStepper

sys.path.insert(0, str(Path(torchrl.__file__).parents[1] / "sota-implementations/dreamer_v3"))

import train

CPU = torch.device("cpu")
CATEGORICALS = 32
VERSIONS = {"torchrl": version("torchrl"), "torch": f"(torch {torch.__version__})"}


class Still(gym.Env):
    """An environment that shows zeros; only its spaces are looked at."""

    def __init__(self, state: int, action: int) -> None:
        seen = gym.spaces.Box(-np.inf, np.inf, (state,), np.float32)
        self.observation_space = gym.spaces.Dict({"observation": seen})
        self.action_space = gym.spaces.Box(-1, 1, (action,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Zeros."""
        return {key: np.zeros(one.shape, one.dtype) for key, one in self.spaces()}, {}

    def step(self, action):
        """Zeros again."""
        return self.reset()[0], 0.0, False, False, {}

    def spaces(self):
        """The spaces of observations, by key."""
        return self.observation_space.spaces.items()


def still(seed=None, env_index=0, num_envs=1, **sizes: int) -> GymWrapper:
    """The factory of a custom environment, as its example calls one."""
    return GymWrapper(Still(**sizes))


def settings(sizes: dict[str, int], *, compiled: bool) -> DictConfig:
    """Its settings for DMC Walker (size1m), with our sizes."""
    spaces = {name: sizes[name] for name in ("state", "action")}
    return OmegaConf.create({
        "env": {
            "backend": "custom", "factory": "torchrl_dreamer_v3:still", "factory_kwargs": spaces,
            "name": "still", "seed": 0, "use_seed": False, "max_episode_steps": 1000,
            "vector_key": "observation", "pixels_key": None,
        },
        "collector": {"num_envs": 1},
        "replay_buffer": {"batch_size": sizes["batch_size"], "seq_len": sizes["batch_length"]},
        "networks": {
            "rnn_hidden_dim": sizes["deter"], "hidden_dim": sizes["units"],
            "num_categoricals": CATEGORICALS, "num_classes": sizes["classes"], "unimix": 0.01,
            "recurrent_model": "block_gru", "num_blocks": 8, "dynamics_layers": 1,
            "prior_layers": 2, "posterior_layers": 1, "norm_eps": 1e-4,
            "num_reward_bins": 255, "num_value_bins": 255,
            "encoder_layers": 3, "decoder_layers": 3, "reward_layers": 1, "actor_layers": 3,
            "value_layers": 3, "policy_min_std": 0.1, "policy_max_std": 1.0,
            "decoder_event_dims": None,
        },
        "optimization": {
            "lr": 4e-5, "optimizer_eps": 1e-20, "adaptive_grad_clip": 0.3, "warmup_steps": 1000,
            "imagination_horizon": sizes["horizon"], "continuation_horizon": 333,
            "use_reinforce": True, "return_normalization_rate": 0.01,
            "return_normalization_min_scale": 1.0, "slow_critic_regularization": 1.0,
            "slow_critic_tau": 0.02, "free_bits": 1.0, "dynamic_loss_weight": 1.0,
            "representation_loss_weight": 0.1, "replay_value_loss_weight": 0.3, "gamma": 1.0,
            "lmbda": 0.95, "mixed_precision": False, "separate_policy_rng": True,
            "compile": "off", "compile_rssm": "scan" if compiled else None,
            "rssm_scan_unroll": 8, "compile_train_step": False, "cudagraph_train_step": False,
            "compile_train_step_mode": "default",
        },
    })  # fmt: skip


def batch(sizes: dict[str, int], seed: int) -> TensorDict:
    """Random transitions as its replay gives them: what is seen belongs to "next"."""
    draw = torch.Generator().manual_seed(seed)
    lead = sizes["batch_size"], sizes["batch_length"]
    never = torch.zeros(*lead, 1, dtype=torch.bool)
    later = {
        "observation": torch.randn(*lead, sizes["state"], generator=draw),
        "reward": torch.rand(*lead, 1, generator=draw),
        **dict.fromkeys(("done", "terminated", "truncated"), never),
    }
    columns = {
        "state": torch.zeros(*lead, CATEGORICALS * sizes["classes"]),
        "belief": torch.zeros(*lead, sizes["deter"]),
        "action": 2 * torch.rand(*lead, sizes["action"], generator=draw) - 1,
        "is_init": never,
        "next": later,
    }
    return TensorDict(columns, lead)


class Updates:
    """Its learner, and one call that trains it on the next batch."""

    versions = VERSIONS

    def __init__(self, sizes: dict[str, int], threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("high")  # as its benchmark; a CPU computes float32 still
        torch.manual_seed(0)
        self.sizes, self.done = sizes, 0
        self.compile = bool(sizes["compile"])
        self.learner, self.update = self.made(compiled=False)
        actor, value = self.learner.actor_loss.actor_model, self.learner.value_loss.value_model
        self.modules = {"model": self.learner.world_model, "actor": actor, "value": value}
        self.batches = [batch(sizes, seed) for seed in range(BATCHES)]

    def made(self, *, compiled: bool) -> tuple[train._Learner, DreamerV3OptimizationStepper]:
        """Its learner, and what trains it."""
        cfg = settings(self.sizes, compiled=compiled)
        learner = train._build_learner(cfg, CPU, self.sizes["state"], self.sizes["action"])
        return learner, train._make_learner_update(cfg, CPU, learner)

    def __call__(self) -> None:
        """One gradient step of model, actor and critic, and the slow critic's."""
        # the first update is counted operation by operation, which a compiled one cannot be
        if self.compile and self.done == 1:
            self.learner, self.update = self.made(compiled=True)
        data = self.batches[self.done % BATCHES].clone()
        self.done += 1
        self.update.step(None, data)


if __name__ == "__main__":
    answer(Updates)
