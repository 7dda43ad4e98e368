"""trackio: scalars, settings, pictures and films, on this machine or in a Space of the Hub."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from .sink import PROJECT, Film, RunFacts, Sink


class Trackio(Sink):
    """A run of trackio; a resumed run goes on in it. `trackio show` shows it.

    Where it is kept is trackio's own matter (TRACKIO_DIR, TRACKIO_SPACE_ID).

    Args:
        project: its project.
        **options: of `trackio.init`, such as `space_id="me/runs"`.
    """

    name = "trackio"

    def __init__(self, project: str = PROJECT, **options: Any) -> None:
        self._project, self._options = project, options

    def open(self, run: RunFacts) -> str:
        """Begin a run, or go on with the one of an earlier sitting."""
        self._trackio: Any = import_module("trackio")
        # a run is found again by its name, so the name has the folder's, which is one run's
        name = run.tracker_run or f"{run.title}, {run.folder.name}"
        options = {"embed": False, **self._options}
        self._run = self._trackio.init(
            project=self._project,
            name=name,
            config=run.hyperparameters,
            resume="allow" if run.tracker_run else "never",
            **options,
        )
        return name

    def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Log a line."""
        self._run.log(dict(metrics), step=env_step)

    def picture(self, env_step: int, name: str, path: Path) -> None:
        """Log a picture."""
        self._run.log({name: self._trackio.Image(str(path))}, step=env_step)

    def film(self, env_step: int, name: str, film: Film) -> None:
        """Log an MP4, where one could be written."""
        if film.path is not None:
            video = self._trackio.Video(str(film.path), format="mp4")
            self._run.log({name: video}, step=env_step)

    def close(self) -> None:
        """Store what waits."""
        self._run.finish()
