"""The sheeprl scripts' common settings, and torch set up as sheeprl does.

Runs in an environment of its own, where sheeprl is installed, and imports nothing of ours.
"""

from importlib.metadata import version

import hydra
import torch
from lightning.fabric import Fabric
from sheeprl.utils.utils import dotdict
from torch.distributions import Distribution

VERSIONS = {"sheeprl": version("sheeprl"), "torch": f"(torch {torch.__version__})"}


def configuration(*overrides: str) -> dotdict:
    """Its settings: an experiment, and what is set otherwise."""
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        composed = hydra.compose("config", overrides=list(overrides))
    return dotdict(composed)


def single_cpu(cfg: dotdict, threads: int) -> Fabric:
    """Torch set up as its command line does, for one CPU in float32."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    Distribution.set_default_validate_args(cfg.distribution.validate_args)
    return Fabric(accelerator="cpu", devices=1, precision="32-true")
