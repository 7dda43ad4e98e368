"""A saved agent: config.json and model.safetensors, one reader and one writer."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from torch import nn

from agentzoo.runtime.bundle.agent_config import CONFIG, FORMAT, read_entries
from agentzoo.runtime.bundle.agent_config import read_settings as check_settings
from agentzoo.runtime.bundle.spec_check import check_spaces
from agentzoo.runtime.errors import BundleError
from agentzoo.runtime.files import require_no_link, stands
from agentzoo.runtime.spec import ActionSpec, ObsSpec

from .replay.chunks import write_durably
from .train.checkpoint import read_tensors, write_tensors

WEIGHTS = "model.safetensors"
PACKAGES = ("numpy", "torch", "gymnasium")  # whose versions are kept


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write config.json: `settings`, the format and the packages' versions."""
    require_no_link(folder / CONFIG)
    packages = {name: version(name) for name in PACKAGES}
    content = {"format": FORMAT, **settings, "packages": packages}
    write_durably(folder / CONFIG, json.dumps(content, indent=1).encode())


def write_weights(folder: Path, network: nn.Module) -> None:
    """Write model.safetensors."""
    require_no_link(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, network.state_dict())


def read_weights(folder: Path, network: nn.Module, agent: str) -> None:
    """Read model.safetensors into a network, strictly.

    Raises:
        BundleError: if it is missing, damaged, or another network's.
    """
    path = folder / WEIGHTS
    if not stands(path):
        raise BundleError(f"{folder} has no {WEIGHTS}; save the agent there again")
    found = read_tensors(path)
    wanted = network.state_dict()
    others = [n for n, one in found.items() if n in wanted and one.dtype != wanted[n].dtype]
    if others:  # load_state_dict would convert them
        raise BundleError(
            f"{path} holds {others[0]} as {found[others[0]].dtype}, this {agent} has "
            f"{wanted[others[0]].dtype}; save the agent there again"
        )
    try:
        network.load_state_dict(found, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"the weights in {path} are not those of this {agent}: {error}"
        ) from error


def read_settings(folder: Path) -> dict[str, Any]:
    """config.json of a saved agent.

    Raises:
        BundleError: if it is missing, is no agent's, or has a newer format.
    """
    path = folder / CONFIG
    if not stands(path):
        raise BundleError(f"{folder} holds no saved agent (no config.json); give save()'s folder")
    settings: dict[str, Any] = read_entries(folder)
    found = settings.get("format")
    if type(found) is not int or found < 1:
        raise BundleError(f"{path} is not a saved agent's config.json: its format is {found!r:.40}")
    if found > FORMAT:
        raise BundleError(
            f"{path} has format {found}, this version reads up to {FORMAT}; update agentzoo"
        )
    if settings.get("library") is not None:
        raise BundleError(
            f"{folder} holds a policy that agentzoo did not train, so there is no agent to load; "
            f'act with it by agentzoo.runtime.load_policy("{folder}")'
        )
    if "training" not in settings:
        raise BundleError(
            f"{path} does not say how its agent was trained; it was written before agentzoo's "
            "first release: learn again, or save it with this version"
        )
    policy = check_settings(folder).policy
    check_spaces(policy.obs, policy.action)
    return settings


def read_spaces(settings: Mapping[str, Any]) -> tuple[dict[str, ObsSpec], ActionSpec]:
    """The specs of a saved agent's environment, from its config.json."""
    policy = settings["policy"]
    obs = {key: ObsSpec(**tuples(spec)) for key, spec in policy["obs"].items()}
    return obs, ActionSpec(**tuples(policy["action"]))


def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples they were."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


def same(a: object, b: object) -> bool:
    """Equal, where JSON turned tuples into lists."""
    return np.array_equal(np.asarray(a, object), np.asarray(b, object))
