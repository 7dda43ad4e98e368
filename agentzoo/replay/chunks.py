"""Chunk files: transitions as fixed-size records, sealed and immutable once a chunk is full."""

import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agentzoo.runtime.errors import ReplayError, SpaceError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

CHUNK_ROWS = 1024
STANDARD = {
    "action": np.float32,
    "reward": np.float32,
    "is_first": np.bool_,
    "is_last": np.bool_,
    "is_terminal": np.bool_,
}


def row_dtype(
    obs: Mapping[str, ObsSpec], action: ActionSpec, columns: Mapping[str, ColumnSpec]
) -> np.dtype:
    """The record of one stored row: observations, the standard columns, immutable extra ones.

    Raises:
        SpaceError: if an observation or extra column has a standard column's name.
    """
    taken = [name for name in (*obs, *columns) if name in STANDARD or name == "prev_action"]
    if taken:
        raise SpaceError(
            f"the observation is named {taken[0]!r}, which replay uses for itself "
            f"({', '.join([*STANDARD, 'prev_action'])}); rename it in your environment"
        )
    fields = [(name, spec.dtype, spec.shape) for name, spec in obs.items()]
    fields += [
        (name, dtype, (action.size,) if name == "action" else ())
        for name, dtype in STANDARD.items()
    ]
    fields += [(n, c.dtype, c.shape) for n, c in columns.items() if not c.mutable]
    return np.dtype(fields)


@dataclass
class Chunk:
    """Up to CHUNK_ROWS consecutive rows: in memory, or in the file `path` once it is sealed."""

    records: np.ndarray  # empty once sealed
    mutable: dict[str, np.ndarray]
    path: Path | None = None

    @property
    def rows(self) -> np.ndarray:
        """All records, those of a sealed chunk read from its file."""
        if self.path is None:
            return self.records
        return np.fromfile(self.path, self.records.dtype)

    def read(self, start: int, into: np.ndarray) -> np.ndarray:
        """As many records from row `start` on as `into` has; a sealed chunk's are put there.

        Raises:
            ReplayError: if the file is shorter than a chunk.
        """
        if self.path is None:
            return self.records[start : start + len(into)]
        with self.path.open("rb", buffering=0) as file:
            file.seek(start * into.itemsize)
            if file.readinto(into.view(np.uint8).data) != into.nbytes:
                raise ReplayError(
                    f"{self.path} ends before row {start + len(into)}: the file is damaged; go on "
                    "from a checkpoint"
                )
        return into


@dataclass
class Stream:
    """One environment's rows: absolute row numbers `first` .. `count - 1` are held."""

    first: int = 0
    count: int = 0
    chunks: deque[Chunk] = field(default_factory=deque)
    finished: deque[tuple[int, int]] = field(default_factory=deque)  # (start, rows) of episodes
    open_start: int = 0  # first row of the unfinished episode
    fresh: int = 0  # first row that the online queue has not handed out

    @property
    def rows(self) -> int:
        """How many rows are held."""
        return self.count - self.first


def read_column(path: Path, parts: Sequence[np.ndarray]) -> None:
    """Read a file of one array after another into arrays that are there, of its whole size.

    Raises:
        ReplayError: if the file is of another size.
    """
    size = path.stat().st_size
    if size != sum(part.nbytes for part in parts):
        raise ReplayError(
            f"{path} holds {size:,} bytes, expected {sum(part.nbytes for part in parts):,}: the "
            "file is damaged; go on from another checkpoint"
        )
    with path.open("rb", buffering=0) as file:
        for part in parts:
            flat = part.reshape(-1).view(np.uint8)
            assert file.readinto(flat.data) == part.nbytes, path


def write_durably(path: Path, content: bytes | Iterable[bytes | np.ndarray]) -> None:
    """Write a file, part by part, so that it is on the disk when this returns."""
    with path.open("wb") as file:
        for part in [content] if isinstance(content, bytes) else content:
            file.write(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
        file.flush()
        os.fsync(file.fileno())


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        write_durably(target, source.read_bytes())
