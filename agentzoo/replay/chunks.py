"""Chunk files: transitions as fixed-size records, sealed and immutable once a chunk is full."""

import os
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agentzoo.runtime.errors import ReplayError, SpaceError
from agentzoo.runtime.files import stands
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

CHUNK_SIZE = 1024  # transitions in a chunk file
BLOCK = 1 << 20  # bytes read at a time
DAMAGED = "the file is damaged; go on from another checkpoint"
STANDARD = {
    "action": np.float32,
    "reward": np.float32,
    "is_first": np.bool_,
    "is_last": np.bool_,
    "is_terminal": np.bool_,
}


def transition_dtype(
    obs: Mapping[str, ObsSpec], action: ActionSpec, columns: Mapping[str, ColumnSpec]
) -> np.dtype:
    """The record of one transition: observations, the standard columns, immutable extra ones.

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
    """Up to CHUNK_SIZE consecutive transitions: in memory, or in the file `path` once sealed."""

    records: np.ndarray  # empty once sealed
    mutable: dict[str, np.ndarray]
    path: Path | None = None
    checksum: int | None = None  # CRC-32 of the file; None of one by an earlier version

    @property
    def all_records(self) -> np.ndarray:
        """All records, those of a sealed chunk read from its file."""
        if self.path is None:
            return self.records
        return np.fromfile(self.path, self.records.dtype)

    def read(self, start: int, into: np.ndarray) -> np.ndarray:
        """As many records from number `start` on as `into` has; a sealed chunk's are put there.

        Raises:
            ReplayError: if the file is shorter than a chunk.
        """
        if self.path is None:
            return self.records[start : start + len(into)]
        with self.path.open("rb", buffering=0) as file:
            file.seek(start * into.itemsize)
            if file.readinto(into.view(np.uint8).data) != into.nbytes:
                end = start + len(into)
                raise ReplayError(f"{self.path} ends before transition {end}: {DAMAGED}")
        return into


@dataclass
class Stream:
    """One environment's transitions, numbered from its first; `first` .. `count - 1` are held."""

    first: int = 0
    count: int = 0
    chunks: deque[Chunk] = field(default_factory=deque)
    finished: deque[tuple[int, int]] = field(default_factory=deque)  # (start, length) of episodes
    open_start: int = 0  # first transition of the unfinished episode
    fresh: int = 0  # first one that the online queue has not handed out

    @property
    def length(self) -> int:
        """Number of transitions held."""
        return self.count - self.first


def read_column(path: Path, parts: Sequence[np.ndarray], checksum: int | None = None) -> None:
    """Read a file of one array after another into arrays that are there, of its whole size.

    Args:
        path: the file.
        parts: the arrays.
        checksum: CRC-32 that the file has to have; None takes any.

    Raises:
        BundleError: if no plain file is there.
        ReplayError: if the file is of another size or content.
    """
    size = sum(part.nbytes for part in parts)
    if not stands(path) or path.stat().st_size != size:
        found = f"{path.stat().st_size:,} bytes" if path.exists() else "nothing"
        raise ReplayError(f"{path} holds {found}, expected {size:,} bytes: {DAMAGED}")
    found = 0
    with path.open("rb", buffering=0) as file:
        for part in parts:
            flat = part.reshape(-1).view(np.uint8)
            if file.readinto(flat.data) != part.nbytes:
                raise ReplayError(f"{path} became shorter while it was read: {DAMAGED}")
            found = zlib.crc32(flat.data, found)
    if checksum is not None and found != checksum:
        raise ReplayError(f"{path} is not what was written: {DAMAGED}")


def check_file(path: Path, size: int, checksum: int | None = None) -> None:
    """Refuse a file of another size or content than it was written with.

    Args:
        path: the file.
        size: its bytes.
        checksum: its CRC-32; None takes any.

    Raises:
        BundleError: if no plain file is there.
        ReplayError: saying which file it is.
    """
    if not stands(path) or path.stat().st_size != size:
        found = f"{path.stat().st_size:,} bytes" if path.exists() else "nothing"
        raise ReplayError(f"{path} holds {found}, expected {size:,} bytes: {DAMAGED}")
    if checksum is not None and checksum_of(path) != checksum:
        raise ReplayError(f"{path} is not what was written: {DAMAGED}")


def checksum_of(path: Path) -> int:
    """CRC-32 of a file's content."""
    found = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return found


def write_durably(path: Path, content: bytes | Iterable[bytes | np.ndarray]) -> int:
    """Write a file, part by part, so that it is on the disk when this returns; its CRC-32."""
    found = 0
    with path.open("wb") as file:
        for part in [content] if isinstance(content, bytes) else content:
            flat = part if isinstance(part, bytes) else np.ascontiguousarray(part).data
            file.write(flat)
            found = zlib.crc32(flat, found)
        file.flush()
        os.fsync(file.fileno())
    return found


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        write_durably(target, source.read_bytes())
