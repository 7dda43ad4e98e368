"""Callbacks: hooks into a run, and the ready ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from agentzoo.runtime.errors import MissingExtraError
from agentzoo.runtime.evaluation.rollout import evaluate
from agentzoo.runtime.policy.noise import derive_seed

from ..algorithm import Batch, Metrics, NoiseSource
from ..replay.buffer import EpisodeSampler
from . import plots
from .collector import Episode

if TYPE_CHECKING:
    from .loop import Training


class Callback:
    """What a run tells; override what you want to hear. Set `training.stop = True` to end it."""

    def on_start(self, training: "Training") -> None:
        """A sitting begins; nothing has been collected in it yet."""

    def on_step(self, training: "Training") -> None:
        """Every environment made one decision, which is stored."""

    def on_episode(self, training: "Training", episode: Episode) -> None:
        """A collection episode ended."""

    def on_update(self, training: "Training", metrics: Metrics) -> None:
        """A gradient step was taken; metrics are scalars still on the device."""

    def on_evaluation(self, training: "Training", mean_reward: float) -> None:
        """Evaluation episodes were run with the paper's evaluation protocol."""

    def on_checkpoint(self, training: "Training", path: Path) -> None:
        """A checkpoint stands whole on the disk."""

    def on_end(self, training: "Training") -> None:
        """The budget is spent or the run was stopped; the last checkpoint stands."""


class Evaluate(Callback):
    """Runs evaluation episodes every so many environment steps, and at the end.

    They run in an environment of their own, from the agent's string or function. A user's
    environment object is one, and inside an episode of its own: with it there are none.

    Args:
        every: environment steps between evaluations.
        episodes: episodes in each.
    """

    def __init__(self, every: int, episodes: int) -> None:
        self.every, self.episodes = every, episodes
        self._due = 0

    def on_start(self, training: "Training") -> None:
        """Open an environment for evaluation; the next multiple of `every` is due."""
        self._env = training.agent.open_environment()
        self._due = (training.counters.env_step // self.every + 1) * self.every

    def on_end(self, training: "Training") -> None:
        """Close the environment."""
        self._env.close()

    def on_step(self, training: "Training") -> None:
        """Evaluate when due; the weights are those before this step's updates."""
        if training.counters.env_step >= self._due:
            self._due = (training.counters.env_step // self.every + 1) * self.every
            self.run(training)

    def run(self, training: "Training") -> None:
        """Evaluate now and log the mean return."""
        counters = training.counters
        seed = derive_seed(training.agent.seed, "evaluate", counters.evaluations) % 2**31
        counters.evaluations += 1
        result = evaluate(training.agent.policy, self._env, episodes=self.episodes, seed=seed)
        training.logger.write(
            counters.env_step,
            {"eval/mean_reward": result.mean, "eval/std_reward": result.std},
        )
        for callback in training.callbacks:
            callback.on_evaluation(training, result.mean)


@runtime_checkable
class Dreaming(Protocol):
    """Algorithms whose model can be looked at: some rows seen, the rest imagined."""

    def open_loop(self, batch: Batch, noise: NoiseSource, context: int = 5) -> dict[str, Tensor]:
        """(B, T, h, w, c) in [0, 1] for images, (B, T, n) for vectors, by observation key."""
        ...


class Report(Callback):
    """Keeps a learning curve and the model's open-loop predictions in the run's folder.

    `learning_curve.png`; for each image observation `dream_KEY.mp4` (truth, model, error: 5 frames
    seen, 45 dreamed), for each vector `dream_KEY.png`.

    Args:
        every: environment steps between refreshes; they are made at the end as well.
        sequences: episodes shown side by side.
        length: rows shown, the seen ones included.
    """

    def __init__(self, every: int = 100_000, *, sequences: int = 6, length: int = 50) -> None:
        self.every, self.sequences, self.length = every, sequences, length
        self._due = 0

    def on_start(self, training: "Training") -> None:
        """The next multiple of `every` is due."""
        self._due = (training.counters.env_step // self.every + 1) * self.every

    def on_checkpoint(self, training: "Training", path: Path) -> None:
        """Refresh when due, at a checkpoint, where no environment is inside an episode."""
        if training.counters.env_step >= self._due:
            self._due = (training.counters.env_step // self.every + 1) * self.every
            self.draw(training)

    def on_end(self, training: "Training") -> None:
        """Refresh once more."""
        self.draw(training)

    def draw(self, training: "Training") -> None:
        """Write the pictures; says so where the video encoder or room on the disk is missing."""
        try:
            if training.counters.episodes:
                plots.learning_curve(training.folder, training.folder / "learning_curve.png")
            if isinstance(training.agent.algorithm, Dreaming) and training.replay.episodes:
                self._dream(training, training.agent.algorithm)
        except MissingExtraError as error:
            training.bar.note(f"no video of the model's dreams: {error}")
        except OSError as error:
            training.bar.warn(f"no pictures of this step: {error}")

    def _dream(self, training: "Training", algorithm: Dreaming) -> None:
        agent, seed = training.agent, derive_seed(training.agent.seed, "dream")
        batch, _ = training.replay.sample(
            EpisodeSampler(), self.sequences, self.length, np.random.default_rng(seed)
        )
        batch = {name: column.to(agent.device) for name, column in batch.items()}
        model = algorithm.open_loop(batch, NoiseSource(seed, agent.device))
        for key, dreamed in model.items():
            truth, dream = batch[key].numpy(force=True), dreamed.float().numpy(force=True)
            if agent.spec.obs[key].kind == "image":
                frames = truth.astype(np.float32) / 255
                plots.open_loop_video(frames, dream, training.folder / f"dream_{key}.mp4")
            else:
                plots.open_loop_plot(truth, dream, training.folder / f"dream_{key}.png")


class StopOnReturn(Callback):
    """Ends the run once an evaluation's mean return reaches a threshold.

    Args:
        threshold: mean return, undiscounted.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def on_evaluation(self, training: "Training", mean_reward: float) -> None:
        """Stop when the threshold is reached."""
        if mean_reward >= self.threshold:
            training.stop = True
