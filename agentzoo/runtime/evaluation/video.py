"""Frames to an mp4 that browsers play."""

from collections.abc import Generator, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..errors import ConfigError, MissingExtraError
from ..files import at_home, require_no_link
from ..spec import Array


class VideoWriter:
    """An mp4 (H.264, yuv420p) that takes one frame at a time; a context manager.

    The size is the first frame's; odd sides get a last row or column twice, since yuv420p halves
    the colour planes.
    """

    def __init__(self, path: str | Path, *, fps: float = 30.0) -> None:
        """Name the file; it is opened at the first frame.

        Raises:
            MissingExtraError: without imageio-ffmpeg, which brings its own encoder.
            ConfigError: if `fps` is not positive, or the file is no mp4.
        """
        if find_spec("imageio_ffmpeg") is None:
            raise MissingExtraError("imageio-ffmpeg", "video")
        if not fps > 0:
            raise ConfigError(f"the film's fps is {fps}, expected a positive number")
        self.path, self.fps = at_home(path), fps
        if self.path.suffix.lower() != ".mp4":
            raise ConfigError(f"the film is to be {path}, expected an mp4; name it FILM.mp4")
        self._shape: tuple[int, ...] = ()
        self._writer: Generator[None, object, None] | None = None

    def __enter__(self) -> Self:
        """The film itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()

    def add(self, frame: Array) -> None:
        """Append one frame, (h, w, 3) uint8.

        Raises:
            BundleError: if the file to write is a link.
            ConfigError: if the frame has another shape than the first, or another dtype.
        """
        expected = self._shape or (*frame.shape[:2], 3)
        if frame.ndim != 3 or frame.shape != expected or frame.dtype != np.uint8:
            raise ConfigError(
                f"a frame has shape {frame.shape} and dtype {frame.dtype}, expected {expected} and "
                "uint8; give frames as env.render() does with render_mode='rgb_array'"
            )
        if self._writer is None:
            self._shape, self._writer = frame.shape, self._open(frame)
        self._writer.send(np.ascontiguousarray(_even(frame)))

    def _open(self, frame: Array) -> Generator[None, object, None]:
        height, width = _even(frame).shape[:2]
        require_no_link(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        writer: Generator[None, object, None] = import_module("imageio_ffmpeg").write_frames(
            str(self.path),
            (width, height),
            fps=self.fps,
            codec="libx264",
            macro_block_size=2,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        return writer


def record(frames: Iterable[Array], path: str | Path, *, fps: float = 30.0) -> Path:
    """Write frames to an mp4.

    Args:
        frames: (h, w, 3) uint8, all of one size, at least one.
        path: the file to write; its folder is made.
        fps: frames in a second.

    Returns:
        The path.

    Raises:
        MissingExtraError: without imageio-ffmpeg.
        ConfigError: if there is no frame, or one differs in shape or dtype.
    """
    count = 0
    with VideoWriter(path, fps=fps) as film:
        for count, frame in enumerate(frames, start=1):  # noqa: B007
            film.add(frame)
    if count == 0:
        raise ConfigError(f"{path} was given no frames; a film needs at least one")
    return at_home(path)


def _even(frame: Array) -> Array:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
