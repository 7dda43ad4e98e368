"""MLflow: metrics, parameters, pictures and films as artifacts; `mlflow-skinny` suffices."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .sink import PROJECT, Film, RunFacts, Sink

BATCH = 100  # parameters that its store takes at once
LONGEST = 500  # characters of a parameter that every store takes


class MLflow(Sink):
    """A run of MLflow; a resumed run goes on in it.

    Where it is kept is MLflow's own matter (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).

    Args:
        experiment: instead of MLFLOW_EXPERIMENT_NAME, or of "agentzoo".
        uri: instead of MLFLOW_TRACKING_URI.
    """

    name = "mlflow"

    def __init__(self, experiment: str | None = None, *, uri: str | None = None) -> None:
        self._experiment, self._uri = experiment, uri

    def open(self, run: RunFacts) -> str:
        """Begin a run, or go on with the one of an earlier sitting."""
        self._entities: Any = import_module("mlflow.entities")
        self._client: Any = import_module("mlflow").MlflowClient(self._uri)
        if run.tracker_run:
            self._run = run.tracker_run
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._run = self._begin(run)
        return self._run

    def _begin(self, run: RunFacts) -> str:
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        made: str = self._client.create_run(experiment, run_name=run.title).info.run_id
        params = [
            self._entities.Param(key, str(one)[:LONGEST])
            for key, one in run.hyperparameters.items()
        ]
        for some in batches(params):
            self._client.log_batch(made, params=some)
        return made

    def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Log a line."""
        now = round(1000 * time.time())
        line = [
            self._entities.Metric(name, value, now, env_step) for name, value in metrics.items()
        ]
        for some in batches(line):
            self._client.log_batch(self._run, metrics=some)

    def picture(self, env_step: int, name: str, path: Path) -> None:
        """Keep the newest as an artifact."""
        self._client.log_artifact(self._run, str(path), "pictures")

    def film(self, env_step: int, name: str, film: Film) -> None:
        """Keep the newest MP4 as an artifact, where one could be written."""
        if film.path is not None:
            self._client.log_artifact(self._run, str(film.path), "films")

    def close(self) -> None:
        """Say that the run has ended, until it goes on."""
        self._client.set_terminated(self._run)


def batches(several: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Pieces that one call takes."""
    for start in range(0, len(several), BATCH):
        yield several[start : start + BATCH]
