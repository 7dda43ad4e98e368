"""The parts of a run: the learner, the run as callbacks see it, and `Callback`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import torch

from agentzoo.runtime.envs import Adapter
from agentzoo.runtime.policy.policy import Policy

from ..algorithm import Algorithm, Metrics
from ..config import AgentConfig
from ..replay.buffer import ReplayBuffer
from .checkpoint import Counters
from .collector import Episode
from .logger import Logger
from .parent import Parent
from .progress import ProgressBar
from .run_folder import run_title


@dataclass(frozen=True)
class Learner:
    """The learner of a run: an algorithm with its settings, and ways to save and to evaluate it.

    Attributes:
        algorithm: learns, on `device`.
        config: the settings.
        policy: acts by the algorithm's newest weights.
        seed: of the run.
        device: of the algorithm.
        env: the resolved environment string, or "" for an environment of the user's own.
        save: writes config.json and the weights of so many environment steps into a folder.
        open_environment: makes an environment to evaluate in; not for an environment object.
        parent: the policy that the run continues from, or None.
        loaded: the parent's folder, in the sitting that begins the run.
    """

    algorithm: Algorithm
    config: AgentConfig
    policy: Policy
    seed: int
    device: torch.device
    env: str
    save: Callable[[Path, int], object]
    open_environment: Callable[[], gym.Env[Any, Any]]
    parent: Parent | None = None
    loaded: Path | None = None

    @property
    def title(self) -> str:
        """Agent, task and seed."""
        return run_title(self.policy.spec.agent, self.env, self.seed)


class Run(Protocol):
    """One sitting of a run, as callbacks see it; `train.loop.Training` is one.

    Attributes:
        learner: what learns.
        folder: the run's folder.
        adapter: the environments.
        replay: the transitions so far.
        counters: where the run stands.
        logger: metrics.jsonl, and the sinks that show it elsewhere.
        bar: the line in the terminal.
        callbacks: told about every event.
        returns: (env_step, return) of finished collection episodes of this sitting.
        stop: set to end the run after the current update, with a checkpoint.
    """

    learner: Learner
    folder: Path
    adapter: Adapter
    replay: ReplayBuffer
    counters: Counters
    logger: Logger
    bar: ProgressBar
    callbacks: Sequence["Callback"]
    returns: list[tuple[int, float]]
    stop: bool

    def log(self, metrics: Mapping[str, float]) -> None:
        """Write a line of the log at this step, and tell the callbacks."""
        ...

    def keep_best(self, mean_reward: float) -> bool:
        """Keep these weights as `best/` if no evaluation before had so high a mean return."""
        ...


class Callback:
    """The events of a run; override those you want. Set `training.stop = True` to end it.

    Callbacks are told in the order given, behind the ready ones. An exception ends the run at once,
    without a checkpoint; those that stand are whole.
    """

    def on_start(self, training: Run) -> None:
        """A sitting begins; nothing has been collected in it yet."""

    def on_step(self, training: Run) -> None:
        """Every environment made one decision, which is stored."""

    def on_episode(self, training: Run, episode: Episode) -> None:
        """A collection episode ended."""

    def on_update(self, training: Run, metrics: Metrics) -> None:
        """A gradient step was taken; metrics are scalars still on the device."""

    def on_log(self, training: Run, line: Mapping[str, float]) -> None:
        """A line of the log was written: `env_step` and metrics, means since the last one.

        Evaluations write lines of their own.
        """

    def on_evaluation(self, training: Run, mean_reward: float) -> None:
        """Evaluation episodes were run with the paper's evaluation protocol."""

    def on_checkpoint(self, training: Run, path: Path) -> None:
        """A checkpoint stands whole on the disk."""

    def on_total(self, training: Run) -> None:
        """The budget is spent: the policy is final, and the last checkpoint is to come."""

    def on_end(self, training: Run) -> None:
        """The budget is spent or the run was stopped; the last checkpoint stands."""
