"""Weights & Biases: scalars against env_step, settings, pictures, films."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from .sink import PROJECT, Film, RunFacts, Sink

STEP = "env_step"


class Wandb(Sink):
    """A run of Weights & Biases; a resumed run goes on in it.

    Project, entity, mode and address are those of W&B's own environment variables (WANDB_PROJECT,
    WANDB_ENTITY, WANDB_MODE=offline, WANDB_BASE_URL).

    Args:
        project: instead of WANDB_PROJECT, or of "agentzoo".
        **options: of `wandb.init`, such as `group="sweep"` or `tags=["walker"]`.
    """

    name = "wandb"

    def __init__(self, project: str | None = None, **options: Any) -> None:
        self._project, self._options = project, options

    def open(self, run: RunFacts) -> str:
        """Begin a run, or go on with the one of an earlier sitting."""
        self._wandb: Any = import_module("wandb")
        project = self._project or os.environ.get("WANDB_PROJECT") or PROJECT
        self._run = self._wandb.init(
            project=project,
            name=run.title,
            id=run.tracker_run or None,
            resume="allow" if run.tracker_run else None,
            dir=str(run.folder),
            config=run.hyperparameters,
            allow_val_change=True,
            **self._options,
        )
        # W&B's own step only rises, and a resumed run goes back to its checkpoint's
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        return str(self._run.id)

    def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Log a line."""
        self._run.log({**metrics, STEP: env_step})

    def picture(self, env_step: int, name: str, path: Path) -> None:
        """Log a picture."""
        self._run.log({name: self._wandb.Image(str(path)), STEP: env_step})

    def film(self, env_step: int, name: str, film: Film) -> None:
        """Log an MP4, where one could be written."""
        if film.path is not None:
            video = self._wandb.Video(str(film.path), format="mp4")
            self._run.log({name: video, STEP: env_step})

    def close(self) -> None:
        """Send what waits."""
        self._run.finish()
