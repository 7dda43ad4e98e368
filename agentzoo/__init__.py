"""World-model agents: learn in one line, export, run anywhere without PyTorch.

Names resolve on first use (PEP 562): `import agentzoo` loads nothing heavy, and a name whose
package is missing raises one sentence with the pip line that mends it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .agents.registry import OWN

if TYPE_CHECKING:
    from . import hub, runtime
    from .agent import Agent, load
    from .agents.dreamer import Dreamer
    from .agents.dreamer_v2 import DreamerV2
    from .agents.dreamer_v3 import DreamerV3
    from .agents.ls_imagine import LSImagine
    from .agents.planet import PlaNet
    from .agents.tdmpc2 import TDMPC2
    from .foreign import ForeignPolicy, bundle
    from .runtime import DreamEnv, evaluate, make_env
    from .stable_baselines import from_sb3

__version__ = "0.1.0"

__all__ = [
    "TDMPC2",
    "Agent",
    "DreamEnv",
    "Dreamer",
    "DreamerV2",
    "DreamerV3",
    "ForeignPolicy",
    "LSImagine",
    "PlaNet",
    "__version__",
    "bundle",
    "evaluate",
    "from_sb3",
    "hub",
    "load",
    "make_env",
    "runtime",
]

# extra -> the modules it brings, by import name
EXTRAS = {
    "onnx": ("onnxruntime",),
    "train": ("torch", "safetensors", "onnx", "onnxscript", "tensorboard", "matplotlib"),
    "video": ("imageio_ffmpeg",),
    "serve": ("aiohttp", "websockets", "msgpack", "prometheus_client", "uvloop"),
    "dmc": ("dm_control", "mujoco"),
    "atari": ("ale_py",),
    "crafter": ("crafter",),
    "gym": ("pygame",),
    "vizdoom": ("vizdoom",),
    "clip": ("transformers",),
    "sweep": ("optuna",),
    "data": ("minari",),
    "ray": ("ray",),
    "minigrid": ("minigrid",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}

# public name -> the module that has it; `__all__` and the imports above, which type checkers read,
# name the same (tested)
HOMES = {
    **{name: entry.target.partition(":")[0] for name, entry in OWN.items()},
    "Agent": ".agent",
    "DreamEnv": ".runtime",
    "load": ".agent",
    "ForeignPolicy": ".foreign",
    "bundle": ".foreign",
    "from_sb3": ".stable_baselines",
    "evaluate": ".runtime",
    "make_env": ".runtime",
}
_PACKAGES = ("hub", "runtime")


def __getattr__(name: str) -> object:
    """Import what `name` needs, now that it is asked for."""
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    from .runtime.errors import MissingExtraError, nearest

    if name not in HOMES:
        raise AttributeError(f'agentzoo has no "{name}"; {nearest(name, __all__, "public names")}')
    try:
        value: object = getattr(import_module(HOMES[name], __name__), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extras = [extra for extra, modules in EXTRAS.items() if package in modules]
        if not extras:
            raise
        raise MissingExtraError(package, extras[0]) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, resolved or not."""
    return sorted(__all__)
