"""config.json of an agent: its class, environment and spaces, and how it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import BundleError
from ..spec import ActionSpec, ObsSpec
from ..strict_json import read_fields, read_object
from .manifest import read_json

CONFIG, FORMAT = "config.json", 1


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """Record of an agent's training.

    Attributes:
        preset: name of the settings it started from.
        overrides: what was set beside them, each as field=value.
        env_steps: environment steps it learned for, action repeat included.
        paper: the paper the agent is from; "" for an agent of somebody's own.
        differs: field -> (value in the paper's preset, value here).
    """

    preset: str
    overrides: tuple[str, ...]
    env_steps: int
    paper: str
    differs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class ParentRecord:
    """The policy whose weights a run began with.

    Attributes:
        sha256: of its model.safetensors.
        env: its resolved environment string, or "".
        env_steps: environment steps that it had learned for, its own parents' included.
        has_optimizer: whether the optimisers' state came along.
        has_replay: whether its transitions came along.
        parts: that alone learned on; () is all of them.
    """

    sha256: str
    env: str
    env_steps: int
    has_optimizer: bool
    has_replay: bool
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OfflineRecord:
    """The data set that a run learned from in its environment's place.

    Attributes:
        dataset: its id.
        env: the environment that it names, or "".
        episodes: in it.
        transitions: in it.
        updates: gradient steps on it.
    """

    dataset: str
    env: str
    episodes: int
    transitions: int
    updates: int


@dataclass(frozen=True, kw_only=True)
class Library:
    """The library that trained a policy in agentzoo's place.

    Attributes:
        name: of its distribution ("stable-baselines3"); "" for its author's own code.
        version: the one that was installed.
    """

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """The agent's inputs and outputs, as in the manifest."""

    obs: Mapping[str, ObsSpec]
    action: ActionSpec


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parts of config.json that publishing reads; the configuration itself is the agent's.

    Attributes:
        agent: class name.
        env: resolved environment string, or "".
        seed: of the run.
        policy: what the agent reads and gives.
        training: how it was trained; None in a folder saved by an earlier version.
        took: which policy of its run it is, newest or best; "" where the folder does not say.
        parent: the policy that its run continued from, if it did.
        library: what trained it, if that was not agentzoo.
        offline: the data set that its run learned from, if it was one.
    """

    agent: str
    env: str
    seed: int
    policy: Spaces
    training: TrainingRecord | None
    took: Literal["", "newest", "best"]
    parent: ParentRecord | None
    library: Library | None = None
    offline: OfflineRecord | None = None


def read_entries(folder: Path) -> dict[str, object]:
    """The entries of config.json, as they stand; a run's folder and a checkpoint have one, too.

    Raises:
        BundleError: if it is missing, or no JSON object.
    """
    return read_object(read_json(folder / CONFIG), str(folder / CONFIG))


def read_settings(folder: Path) -> Settings:
    """Read config.json, strictly where it is read.

    Raises:
        BundleError: if it is missing, no JSON, of a newer format, or a field is not what it has to
            be.
    """
    value = read_entries(folder)
    found = value.get("format")
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise BundleError(
            f"{folder / CONFIG} has format {found}, this version reads up to {FORMAT}; "
            "run: pip install --upgrade agentzoo-rl"
        )
    read_object(value.get("config"), "config.json.config")
    names = ("agent", "env", "seed", "policy")
    given: dict[str, object] = {name: value[name] for name in names if name in value}
    parent = value.get("parent")
    if parent is not None:  # an earlier version let all parts learn
        parent = read_object(parent, f"{CONFIG}.parent")
        parent.setdefault("parts", [])
    later = {
        "training": value.get("training"),
        "took": value.get("took", ""),
        "parent": parent,
        "library": value.get("library"),
        "offline": value.get("offline"),
    }
    return read_fields(Settings, {**given, **later}, CONFIG)
