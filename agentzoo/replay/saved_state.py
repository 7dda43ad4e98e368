"""replay.json: what the files of a saved replay hold, read without trusting it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np

from agentzoo.runtime.bundle.manifest import read_json
from agentzoo.runtime.errors import BundleError, ReplayError
from agentzoo.runtime.strict_json import read_object

from .chunks import DAMAGED, read_column

STATE = "replay.json"
LARGEST = 1 << 53  # of any count
LARGEST_CHUNK = 1 << 30


@dataclass(frozen=True)
class SavedState:
    """The content of replay.json.

    Attributes:
        layout: numpy's description of a transition's type, as JSON has it.
        mutable: dtype and shape of the columns that change in place, likewise.
        chunk_size: transitions in a chunk file.
        streams: of each environment (first transition held, how many so far, first one of the open
            episode, first one that the online queue has not handed out).
        checksums: CRC-32 of the files, by their names from replay.json on; empty in a replay that
            an earlier version saved.
    """

    layout: object
    mutable: object
    chunk_size: int
    streams: Sequence[tuple[int, int, int, int]]
    checksums: Mapping[str, int]

    def checksum(self, env: int, name: str) -> int | None:
        """CRC-32 of a file of an environment; None where none was kept.

        Raises:
            ReplayError: if others were kept, and not this one.
        """
        found = self.checksums.get(f"env{env:02d}/{name}")
        if found is None and self.checksums:
            raise ReplayError(f"{STATE} does not know env{env:02d}/{name}: {DAMAGED}")
        return found

    def episodes(self, folder: Path, env: int) -> list[tuple[int, int]]:
        """The finished episodes of an environment, (first transition, length) each.

        Args:
            folder: of its files.
            env: its number.

        Raises:
            BundleError: if something else than a plain file is there.
            ReplayError: if the file is damaged.
        """
        path, (first, count, _, _) = folder / "episodes.i64", self.streams[env]
        size = path.stat().st_size if path.is_file() else 0
        found = np.empty((size // 16, 2), np.int64)
        read_column(path, [found], self.checksum(env, path.name))
        pairs = [(int(start), int(length)) for start, length in found]
        # earlier versions kept an episode whose beginning had been dropped
        pairs = [(start, length) for start, length in pairs if start < 0 or start >= first]
        edges = [(first, 0), *pairs, (count, 0)]
        if any(length < 1 for _, length in pairs) or any(
            start + length > after for (start, length), (after, _) in pairwise(edges)
        ):
            raise ReplayError(f"{path} holds episodes outside of what is stored: {DAMAGED}")
        return pairs


def read_state(folder: Path) -> SavedState:
    """The content of a saved replay's replay.json.

    Raises:
        ReplayError: if it is missing or damaged.
    """
    path = folder / STATE
    try:
        value = read_object(read_json(path), STATE)
    except BundleError as error:
        raise ReplayError(f"{path} cannot be read ({error}): {DAMAGED}") from error
    chunk_size, streams = value.get("chunk_rows"), value.get("streams")
    if not _is_count(chunk_size, 1, LARGEST_CHUNK) or not isinstance(streams, list):
        raise ReplayError(f"{path} does not say what its files hold: {DAMAGED}")
    checksums = value.get("checksums", {})
    if not isinstance(checksums, dict) or not all(
        _is_count(one, 0, 1 << 32) for one in cast("dict[str, object]", checksums).values()
    ):
        raise ReplayError(f"{path} holds checksums that are none: {DAMAGED}")
    numbers = [_stream(one, cast("int", chunk_size)) for one in cast("list[object]", streams)]
    if None in numbers:
        raise ReplayError(f"{path} holds counts that cannot be: {DAMAGED}")
    return SavedState(
        value.get("rows"),
        value.get("mutable"),
        cast("int", chunk_size),
        cast("list[tuple[int, int, int, int]]", numbers),
        cast("dict[str, int]", checksums),
    )


def _stream(value: object, chunk_size: int) -> tuple[int, int, int, int] | None:
    if not isinstance(value, list):
        return None
    numbers = cast("list[int]", value)
    if len(numbers) == 3:
        numbers = [*numbers, 0]  # before there was an online queue
    if len(numbers) != 4 or not all(_is_count(one, 0, LARGEST) for one in numbers):
        return None
    first, count, opened, fresh = numbers
    if first % chunk_size or not first <= count or max(opened, fresh) > count:
        return None
    return first, count, opened, fresh


def _is_count(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
