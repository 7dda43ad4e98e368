"""Minari data sets: replay written out as one, and the episodes of one read as replay's columns.

A Minari data set is a folder: `data/metadata.json` (spaces, id, versions) and `data/main_data.hdf5`
(observations T + 1, actions and rewards T of each episode). Both are read as data: a data set that
does not name its spaces is refused, since the package would make the environment it names, which is
code of its author's. Columns that an algorithm made while it acted are among an episode's infos,
T + 1 of each, under their names with a prefix; metadata.json lists them.
"""

import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentzoo.runtime.envs import resolve, settings_of
from agentzoo.runtime.errors import AgentZooError, DatasetError, MissingExtraError
from agentzoo.runtime.files import at_home
from agentzoo.runtime.policy.spaces import (
    action_space,
    action_spec,
    encode,
    env_action,
    model_action,
    observation_space,
    observation_specs,
    raw_observation,
    space_differences,
)
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

from .buffer import ReplayBuffer

METADATA, DATA = "metadata.json", "data"
ENV = "agentzoo_env"  # in the metadata: the resolved environment string that episodes are of
COLUMNS = "agentzoo_columns"  # in the metadata: the algorithm's columns that episodes carry
PREFIX = "agentzoo_"  # of a column's name among an episode's infos
ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
UNREADABLE = (  # what h5py, PIL, JSON and the package raise at files that are none of theirs
    ValueError, KeyError, TypeError, OSError, RuntimeError, AssertionError, AttributeError,
    IndexError, NotImplementedError, ImportError,
)  # fmt: skip

EpisodeColumns = dict[str, np.ndarray]  # replay columns (n, ...) of one whole episode


@dataclass(frozen=True)
class Dataset:
    """An opened Minari data set.

    Attributes:
        name: as it was given.
        folder: where its metadata and episodes lie.
        metadata: as they stand there.
        content: the package's own object.
    """

    name: str
    folder: Path
    metadata: Mapping[str, Any]
    content: Any

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int(self.content.total_episodes)

    @property
    def transitions(self) -> int:
        """Number of decisions, over all episodes."""
        return int(self.content.total_steps)

    @property
    def id(self) -> str:
        """The package's name for it."""
        return str(self.content.id)

    @property
    def env(self) -> str:
        """The environment string it names, or "": ours, or one of Gymnasium's registry."""
        ours = self.metadata.get(ENV)
        if isinstance(ours, str) and ours:
            return resolve(ours, trusted=False)
        spec = self.content.env_spec
        return "" if spec is None or ":" in spec.id else f"gym:{spec.id}"

    @cached_property
    def specs(self) -> tuple[dict[str, ObsSpec], ActionSpec]:
        """Specs by which agents read its observations, and its action.

        Raises:
            DatasetError: if agents cannot read or fill its spaces.
        """
        try:
            obs = observation_specs(self.content.observation_space)
            return obs, action_spec(self.content.action_space)
        except AgentZooError as error:
            raise DatasetError(f"the data set {self.name} is none for agents: {error}") from error

    def require_spaces(self, obs: Mapping[str, ObsSpec], action: ActionSpec) -> None:
        """Refuse an agent that reads or gives something else.

        Raises:
            DatasetError: listing what differs.
        """
        differing = space_differences((obs, action), self.specs)
        if differing:
            raise DatasetError(
                f"the data set {self.name} has other spaces than the agent: "
                f"{'; '.join(differing)}; take one of the agent's environment"
            )

    @property
    def columns(self) -> frozenset[str]:
        """The algorithm's columns that its episodes carry."""
        found = self.metadata.get(COLUMNS, [])
        return frozenset(one for one in found if isinstance(one, str))

    def read(self, columns: Mapping[str, ColumnSpec] | None = None) -> Iterator[EpisodeColumns]:
        """Each episode as replay stores it: T + 1 transitions, actions in model units.

        Args:
            columns: of an algorithm, to be read beside the standard ones.

        Raises:
            DatasetError: naming an episode that is none, or cannot be read.
        """
        obs, action = self.specs
        for k in range(self.episodes):
            where = f"episode {k} of the data set {self.name}"
            try:
                episode = self.content[k]
            except UNREADABLE as error:
                raise DatasetError(
                    f"{where} cannot be read ({_brief(error)}): the file is damaged; fetch or "
                    "write it again"
                ) from error
            standard = _standard(where, episode, obs, action)
            made = _made(where, episode, columns or {}, len(standard["reward"]))
            yield standard | made


def open_dataset(name: str | Path) -> Dataset:
    """Open a data set by the package's id, or by its folder.

    Args:
        name: an id such as `walker/dreamer-v0`, found where Minari keeps its own (the variable
            MINARI_DATASETS_PATH, or ~/.minari/datasets); or a folder: a Path, or a text that begins
            with a dot, a slash or ~.

    Raises:
        DatasetError: if there is none, or it is damaged, foreign or empty.
        MissingExtraError: if minari is not installed.
    """
    minari = _minari()
    folder = _folder(name)
    folder = folder / DATA if (folder / DATA).is_dir() else folder
    metadata = _metadata(str(name), folder)
    try:
        content = minari.MinariDataset(folder)
        found = Dataset(str(name), folder, metadata, content)
        empty = found.episodes == 0 or found.transitions == 0
    except UNREADABLE as error:
        raise DatasetError(
            f"{name} is no data set that the installed Minari reads ({_brief(error)}); fetch or "
            "write it again"
        ) from error
    if empty:
        raise DatasetError(f"the data set {name} holds no episode; take one that does")
    return found


def write_dataset(
    name: str | Path,
    replay: ReplayBuffer,
    obs: Mapping[str, ObsSpec],
    action: ActionSpec,
    *,
    env: str = "",
    algorithm: str = "",
    columns: Collection[str] = (),
) -> Dataset:
    """Write every finished episode of a replay as a Minari data set, images without loss.

    Observations and actions are the environment's own again.

    Args:
        name: id or folder of the new data set, as `open_dataset` takes them.
        replay: what is written.
        obs: the agent's.
        action: the environment's.
        env: resolved environment string.
        algorithm: who collected.
        columns: those of the algorithm that are written too.

    Raises:
        DatasetError: if there is something already, the id is none, or no episode has ended.
        MissingExtraError: if minari is not installed.
    """
    minari = _minari()
    folder, given = _folder(name), str(name)
    if folder.exists():
        raise DatasetError(f"{folder} is there already; name another data set, or remove it")
    if not replay.episodes:
        raise DatasetError("no episode of this run has ended yet; let it go on for longer")
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / DATA).mkdir(parents=True)
    try:
        storage = import_module("minari.dataset.minari_storage").MinariStorage.new(
            partial / DATA,
            observation_space=observation_space(obs),
            action_space=action_space(action),
            env_spec=_registered(env),
            jpeg_encoding=False,
        )
        storage.update_metadata(
            {
                "dataset_id": _id(given, folder),
                "minari_version": minari.__version__,
                "algorithm_name": algorithm,
                ENV: env,
                COLUMNS: sorted(columns),
                "description": "Episodes of collection, exploration included; written by agentzoo.",
            }
        )
        storage.update_episodes(_buffers(replay, obs, action, columns))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)
    return open_dataset(name)


def fill(replay: ReplayBuffer, dataset: Dataset) -> Iterator[EpisodeColumns]:
    """Store a data set's episodes, one stream after the other in turn, and give them as columns.

    Columns that change later and that it does not carry (DreamerV3's latents) begin at zero.

    Raises:
        DatasetError: if the algorithm stores columns that the data set has not, or an episode is
            bad.
    """
    carried = {name: c for name, c in replay.columns.items() if name in dataset.columns}
    missing = [n for n in replay.columns if n not in carried and n not in replay.mutable]
    if missing:
        raise DatasetError(
            f"this agent stores {', '.join(missing)} with each transition, made while it acts, "
            f"which the data set {dataset.name} has not; take one that agentzoo data export wrote "
            "of a run of this agent with these settings, or another agent"
        )
    later = {name: c for name, c in replay.mutable.items() if name not in carried}
    zeros = {name: np.zeros(c.shape, c.dtype) for name, c in later.items()}
    for k, episode in enumerate(dataset.read(carried)):
        for t in range(len(episode["reward"])):
            transition = {name: column[t] for name, column in episode.items()}
            replay.add(k % len(replay.streams), transition | zeros)
        yield episode


def _minari() -> Any:
    try:
        import_module("h5py")
        return import_module("minari")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "minari", "data") from error


def _folder(name: str | Path) -> Path:
    """Folder of a data set of this name; it may not exist."""
    if isinstance(name, Path) or str(name).startswith((".", "/", "~")):
        return at_home(name).absolute()  # the package loses its way from a relative one
    if not ID.fullmatch(str(name)):
        raise DatasetError(
            f'"{name}" is no id of a data set; write (namespace/)name-v0, or a folder as ./{name}'
        )
    root = import_module("minari.storage.datasets_root_dir").get_dataset_path()
    return Path(root) / str(name)


def _id(given: str, folder: Path) -> str:
    """The id that is written down: the one given, or one after the folder's name."""
    if ID.fullmatch(given):
        return given
    plain = re.sub(r"[^-\w]", "-", folder.name) or "dataset"
    return plain if ID.fullmatch(plain) else f"{plain}-v0"


def _metadata(name: str, folder: Path) -> dict[str, Any]:
    """metadata.json, with what has to be known before the package opens anything."""
    path = folder / METADATA
    if not path.is_file():
        raise DatasetError(
            f"{name} is no Minari data set: there is no {path}; agentzoo data export writes one, "
            "and minari download ID fetches one of Farama's"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON ({error}); fetch or write it again") from error
    spaces = ("observation_space", "action_space")
    if not isinstance(found, dict) or any(not isinstance(found.get(one), str) for one in spaces):
        raise DatasetError(
            f"{path} does not name the spaces, so the environment it is of would have to be made "
            "to learn them, which is code of somebody's; take a data set that does"
        )
    return found


def _standard(
    where: str, episode: Any, obs: Mapping[str, ObsSpec], action: ActionSpec
) -> EpisodeColumns:
    """One episode's standard columns on the timeline of `agentzoo.algorithm`."""
    rewards = np.asarray(episode.rewards, np.float32)
    steps = len(rewards)
    ends = np.asarray(episode.terminations, bool), np.asarray(episode.truncations, bool)
    lengths = {len(one) for one in ends}
    if rewards.ndim != 1 or not steps or lengths != {steps} or not np.isfinite(rewards).all():
        raise DatasetError(
            f"{where} has rewards of shape {rewards.shape} and ends of {lengths}, expected as many "
            "finite rewards as ends, at least one; leave it out"
        )
    if any(one[:-1].any() for one in ends):
        raise DatasetError(f"{where} ends before its last step; split it there")
    try:
        seen = encode(obs, episode.observations, batched=True)
        actions = model_action(action, np.asarray(episode.actions))
    except AgentZooError as error:
        raise DatasetError(f"{where}: {error}") from error
    counts = {name: len(column) for name, column in seen.items()}
    if set(counts.values()) != {steps + 1} or len(actions) != steps:
        raise DatasetError(
            f"{where} has {steps} rewards, {len(actions)} actions and observations {counts}; "
            "expected as many actions, and one observation more"
        )
    is_last = np.arange(steps + 1) == steps
    return {
        **seen,
        "action": np.concatenate([actions, np.zeros_like(actions[:1])]),
        "reward": np.concatenate([np.zeros(1, np.float32), rewards]),
        "is_first": np.arange(steps + 1) == 0,
        "is_last": is_last,
        "is_terminal": is_last & bool(ends[0][-1]),
    }


def _made(
    where: str, episode: Any, columns: Mapping[str, ColumnSpec], length: int
) -> EpisodeColumns:
    """An episode's columns of an algorithm."""
    infos, found = episode.infos or {}, EpisodeColumns()
    for name, column in columns.items():
        value = np.asarray(infos.get(PREFIX + name))
        shape = (length, *column.shape)
        if value.shape != shape or value.dtype != np.dtype(column.dtype):
            raise DatasetError(
                f"{where} has {name} as {value.dtype} of shape {value.shape}, expected "
                f"{column.dtype} of shape {shape}; write it with the agent's own settings"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DatasetError(f"{where} has {name} that is not finite; leave it out")
        found[name] = value
    return found


def _buffers(
    replay: ReplayBuffer,
    obs: Mapping[str, ObsSpec],
    action: ActionSpec,
    columns: Collection[str],
) -> Iterable[Any]:
    """The package's episodes of a replay, one at a time."""
    buffer = import_module("minari.data_collector").EpisodeBuffer
    for k in range(replay.episodes):
        segment = replay.episode(k)
        if segment.length < 2:
            continue  # a reset without a step, as an interrupted run may leave
        read = replay.read([[segment]]) | replay.read_mutable([[segment]])
        stored = {name: tensor.numpy()[0] for name, tensor in read.items()}
        seen = {key: raw_observation(spec, stored[key]) for key, spec in obs.items()}
        bare = not isinstance(observation_space(obs), gym.spaces.Dict)
        terminal = stored["is_terminal"][1:]
        yield buffer(
            observations=next(iter(seen.values())) if bare else seen,
            actions=env_action(action, stored["action"][:-1]),
            rewards=stored["reward"][1:].tolist(),
            terminations=terminal.tolist(),
            truncations=(stored["is_last"][1:] & ~terminal).tolist(),
            infos={PREFIX + name: stored[name] for name in columns} or None,
        )


def _registered(env: str) -> Any:
    """Gymnasium's spec of an environment of its registry, so that others can make it; or None."""
    task = env.partition("?")[0].removeprefix("gym:")
    if not env.startswith("gym:") or ":" in task:
        return None
    settings = dict(settings_of(env))
    limit = settings.pop("max_episode_steps", None)
    if settings.pop("repeat", 1) != 1 or settings:
        return None  # what it makes would decide, or be seen, otherwise
    try:
        found = gym.spec(task)
    except gym.error.Error:
        return None
    return found if limit is None else replace(found, max_episode_steps=int(limit))


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error) or 'no reason given'}"[:160]
