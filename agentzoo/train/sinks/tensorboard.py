"""TensorBoard: scalars, settings as hyper-parameters and text, pictures, films as GIFs."""

import io
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentzoo.runtime.errors import MissingExtraError

from .sink import Film, RunFacts, Sink

if TYPE_CHECKING:
    pass

# scalars that TensorBoard's table of hyper-parameters shows beside them
SCORES = ("eval/mean_reward", "rollout/ep_rew_mean")


class TensorBoard(Sink):
    """TensorBoard events in the run's folder.

    Raises:
        MissingExtraError: on opening, if tensorboard is not installed.
    """

    name = "tensorboard"

    def open(self, run: RunFacts) -> str:
        """Begin an event file; events after the step to resume from are hidden."""
        # torch.utils.tensorboard raises a bare ImportError where the package is missing
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "train") from error
        purge = None if run.resume_step is None else run.resume_step + 1
        self._writer: SummaryWriter = SummaryWriter(str(run.folder), purge_step=purge)
        self._settings(run)
        return ""

    def _settings(self, run: RunFacts) -> None:
        from torch.utils.tensorboard.summary import hparams

        given = run.hyperparameters
        begins, *session = hparams(given, dict.fromkeys(SCORES, 0.0))
        for summary in (begins, *session):
            self._add(summary)
        rows = [f"| {name} | {str(one).replace('|', '&#124;')} |" for name, one in given.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def scalars(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Add each as an event."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, env_step)

    def picture(self, env_step: int, name: str, path: Path) -> None:
        """Add the PNG as it is."""
        from PIL import Image

        with Image.open(path) as image:
            width, height = image.size
        self._image(env_step, name, path.read_bytes(), width, height)

    def film(self, env_step: int, name: str, film: Film) -> None:
        """Add the frames as a GIF, which is what TensorBoard plays."""
        height, width = film.frames.shape[1:3]
        self._image(env_step, name, gif(film), width, height)

    def _image(self, env_step: int, name: str, encoded: bytes, width: int, height: int) -> None:
        Summary = import_module("tensorboard.compat.proto.summary_pb2").Summary
        image = Summary.Image(
            encoded_image_string=encoded, width=width, height=height, colorspace=3
        )
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]), env_step)

    def _add(self, summary: Any, env_step: int | None = None) -> None:
        assert self._writer.file_writer is not None, "the writer is open"
        self._writer.file_writer.add_summary(summary, env_step)

    def close(self) -> None:
        """Write what waits."""
        self._writer.close()


def gif(film: Film) -> bytes:
    """A film as a GIF that plays for ever."""
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in film.frames)
    file = io.BytesIO()
    first.save(
        file,
        "GIF",
        save_all=True,
        append_images=others,
        duration=round(1000 / film.fps),
        loop=0,
    )
    return file.getvalue()
