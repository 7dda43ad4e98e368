"""A run's replay as a Minari data set, and a data set as a run to learn on from."""

from pathlib import Path
from tempfile import TemporaryDirectory

from agentzoo.runtime.errors import RunError
from agentzoo.runtime.files import at_home

from ..agent import Agent
from ..replay.buffer import ReplayBuffer
from ..replay.datasets import Dataset, write_dataset
from . import checkpoint


def export_dataset(agent: Agent, name: str | Path) -> Dataset:
    """Write the finished episodes of an agent's run as a Minari data set.

    Those of its newest checkpoint, exploration included; columns that the algorithm made while it
    acted go with them, latents do not.

    Args:
        agent: one that has learned, or was loaded from a run's folder.
        name: id or folder of the data set; see `replay.datasets.open_dataset`.

    Returns:
        The data set.

    Raises:
        DatasetError: if there is something of that name, or no episode has ended.
        RunError: if the agent is of no run.
    """
    folder = agent.run_dir
    newest = None if folder is None else checkpoint.newest(folder / "checkpoints")
    if folder is None or newest is None:
        raise RunError(
            "this agent was not loaded from a run's folder, so there are no episodes to write; "
            "load the run"
        )
    with TemporaryDirectory(dir=folder, prefix=".export-") as scratch:  # chunks are linked there
        replay = ReplayBuffer(
            Path(scratch),
            agent.spec.obs,
            agent.spec.action,
            agent.algorithm.columns,
            envs=agent.config.envs,
            capacity=agent.config.replay_rows,
        )
        replay.restore(newest / "training" / "replay")
        who = f"{type(agent).__name__}, by agentzoo"
        obs, action = agent.spec.obs, agent.spec.action
        # a stored latent belongs to weights, and is made anew by those that read it
        latents = agent.algorithm.carry_spec
        made = [column for column in replay.columns if column not in latents]
        return write_dataset(name, replay, obs, action, env=agent.env, algorithm=who, columns=made)


def import_dataset(agent: Agent, name: str | Path, run: str | Path) -> None:
    """Make a new run whose replay holds a data set's episodes, before any update.

    `agentzoo.load(run).learn(n)` then collects and learns on with these episodes.

    Args:
        agent: of the data set's spaces; it has not learned.
        name: id or folder of the data set.
        run: the new run's folder.

    Raises:
        DatasetError: if the data set is missing, damaged, or of other spaces.
        RunError: if the folder holds a run.
    """
    folder = at_home(run)
    if checkpoint.newest(folder / "checkpoints") is not None:
        raise RunError(f"{folder} holds a run already; name another folder")
    agent.take_in(name, folder)
