"""`agentzoo watch`: one policy and its page, from a bundle, a run or a published agent."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from agentzoo.runtime.bundle.agent_config import CONFIG
from agentzoo.runtime.bundle.manifest import MANIFEST
from agentzoo.runtime.errors import RunError

if TYPE_CHECKING:
    from agentzoo.runtime.server import ModelSettings


def model_to_watch(source: str, scratch: Path) -> "tuple[ModelSettings, Path | None]":
    """The policies to serve, and the folder of runs to show beside them.

    A run, or a saved agent, is exported with its world model first, which needs PyTorch.

    Args:
        source: a bundle's folder, a run's, or a published agent.
        scratch: where a run is exported to.

    Raises:
        RunError: if the folder holds none of them.
        AgentZooError: if the agent cannot be had or exported.
    """
    from agentzoo.runtime.server import model_settings

    folder = Path(source)
    if not folder.is_dir():
        return model_settings(source), None
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name) or "policy"
    if (folder / MANIFEST).is_file():
        return model_settings(f"{name}={folder}"), None
    is_run = (folder / "checkpoints").is_dir()
    if not is_run and not (folder / CONFIG).is_file():
        raise RunError(
            f"{folder} is neither a bundle nor a run nor a saved agent; give a folder that "
            "agentzoo export or agentzoo learn wrote"
        )
    from .. import load

    load(folder).export(scratch / name, world=True)
    return model_settings(f"{name}={scratch / name}"), folder.resolve().parent if is_run else None
