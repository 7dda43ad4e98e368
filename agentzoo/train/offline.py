"""Learning from a data set alone: the updates of a run without its collection.

The step of an offline run is an update: that is what `env_step` counts in its lines and what its
checkpoints and evaluations are due by. It plays no episode but those of evaluation.
"""

import signal
from collections.abc import Sequence
from pathlib import Path

from agentzoo.runtime.envs import Adapter
from agentzoo.runtime.policy.spaces import describe_spaces

from ..algorithm import Measuring
from ..replay.datasets import Dataset, fill
from .checkpoint import Counters
from .events import Callback, Learner
from .logger import Logger
from .loop import Training, open_replay, require_space, run_facts
from .progress import ProgressBar
from .sinks.sink import Sink


class OfflineTraining(Training):
    """One sitting of an offline run."""

    def _advance(self, total: int) -> None:
        """One update, and all that it makes due."""
        counters = self.counters
        self._update(more=counters.env_step + 1 < total)
        counters.env_step += 1
        self._show()
        self._tell("on_step")
        if counters.env_step >= self._due_log:
            self._log()
        if self._interval and self._due_checkpoint <= counters.env_step < total:
            self._checkpoint()

    def _updates_ahead(self) -> int:
        return self.bar.total - self.counters.updates

    def _say_grace(self) -> None:
        """Say nothing, as no episode is cut."""

    def take_in(self, dataset: Dataset) -> None:
        """Store the data set's episodes, and let the algorithm measure them."""
        algorithm = self.learner.algorithm
        for episode in fill(self.replay, dataset):
            if isinstance(algorithm, Measuring):
                algorithm.measure(episode, learning=False)
        if len(self.replay) < dataset.transitions:
            whole = dataset.transitions + dataset.episodes
            self.bar.warn(
                f"replay_rows={self.learner.config.replay_rows:,} holds {len(self.replay):,} "
                f"transitions of the data set's {whole:,}: its first ones are left out"
            )


def train_offline(
    learner: Learner,
    folder: Path,
    adapter: Adapter,
    counters: Counters,
    newest: Path | None,
    total: int,
    callbacks: Sequence[Callback],
    sinks: Sequence[Sink],
    progress: bool,
    *,
    dataset: Dataset,
) -> signal.Signals | None:
    """One sitting: learn until `total` updates of the run; 0 only takes the data set in.

    Args:
        learner: what learns; its weights are those of `newest` where there is one.
        folder: the run's.
        adapter: the environments, which are not stepped.
        counters: where the run stands.
        newest: the checkpoint to go on from.
        total: updates of the whole run.
        callbacks: told about every event.
        sinks: where the log goes beside metrics.jsonl.
        progress: show a progress bar.
        dataset: what is learned from.

    Returns:
        The signal that stopped it before, if one did.
    """
    spec, replay = learner.policy.spec, open_replay(learner, folder)
    resume = None if newest is None else counters.env_step
    bar = ProgressBar(total, start=counters.env_step, enabled=progress)
    facts = run_facts(learner, folder)
    with Logger(folder, sinks=sinks, facts=facts, resume_step=resume) as logger, bar:
        training = OfflineTraining(
            learner, folder, adapter, replay, counters, logger, bar, callbacks
        )
        if newest is not None:
            training.restore(newest)
            bar.note(f"resumed from update {counters.env_step:,} of {folder}")
        else:
            require_space(training, dataset.transitions + dataset.episodes)
            if learner.parent is not None and learner.loaded is not None:
                training.inherit(learner.loaded, learner.parent)
            training.take_in(dataset)
        bar.note(f"reads {describe_spaces(spec.obs, spec.action)}")
        bar.note(
            f"learns from {replay.episodes:,} episodes of {dataset.id}, {len(replay):,} "
            "transitions; a step is an update"
        )
        training.run(total)
        if counters.interrupted:
            bar.note(
                f"stopped at update {counters.env_step:,}; to go on: "
                f'agent.learn({total}, offline="{dataset.name}", run="{folder}")'
            )
    return training.signalled
