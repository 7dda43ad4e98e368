"""Replay: an append-only stream of transitions for each environment, in immutable chunk files.

A transition is one decision of one environment, laid out as a fixed-size record, so that a window
is one contiguous read through the page cache; nothing of a sealed chunk stays in memory, and no
file stays open. Sealed chunks are never written again: a checkpoint hard-links them. Columns that
change after their transition was stored live apart, in memory, and are saved whole.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agentzoo.runtime.errors import ReplayError
from agentzoo.runtime.spec import ActionSpec, ColumnSpec, ObsSpec

from .chunks import (
    CHUNK_SIZE,
    DAMAGED,
    Chunk,
    Stream,
    check_file,
    link,
    read_column,
    transition_dtype,
    write_durably,
)
from .columns import Batch, Transitions
from .samplers import Sampler, Segment, SequenceIndex
from .saved_state import SavedState, read_state

UNSEALED_BYTES = 2**30  # of full chunks that may wait in memory for room on the disk


class ReplayBuffer:
    """Transitions of all environments, sampled as windows (B, T).

    Args:
        folder: where chunk files go; emptied when the buffer is new.
        obs: observations by key.
        action: the environment's action; stored in model units.
        columns: extra columns of the algorithm.
        envs: number of streams.
        capacity: transitions over all streams; the oldest chunks are dropped beyond it.
        chunk_size: transitions in a chunk file.

    Raises:
        ReplayError: if the capacity is below one chunk per environment.
    """

    def __init__(
        self,
        folder: Path,
        obs: Mapping[str, ObsSpec],
        action: ActionSpec,
        columns: Mapping[str, ColumnSpec] | None = None,
        *,
        envs: int = 1,
        capacity: int = 1_000_000,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        self.folder = Path(folder)
        self.columns = dict(columns or {})
        self.dtype = transition_dtype(obs, action, self.columns)
        self.mutable = {n: c for n, c in self.columns.items() if c.mutable}
        self.chunk_size = chunk_size
        self.capacity = capacity // envs  # transitions per stream
        if self.capacity < chunk_size:
            raise ReplayError(
                f"replay_rows={capacity} for {envs} environment(s) is below one chunk of "
                f"{chunk_size} transitions each; give at least {chunk_size * envs}"
            )
        self.streams = [Stream() for _ in range(envs)]
        self.overlong = 0  # episodes that were longer than what a stream holds
        shutil.rmtree(self.folder, ignore_errors=True)
        for env in range(envs):
            self._folder(env).mkdir(parents=True)

    def __len__(self) -> int:
        """Transitions held, over all streams."""
        return sum(stream.length for stream in self.streams)

    @property
    def episodes(self) -> int:
        """Finished episodes held whole, over all streams."""
        return sum(len(stream.finished) for stream in self.streams)

    @property
    def unsealed(self) -> int:
        """Bytes of full chunks that wait in memory, because the disk had no room for them."""
        full = [chunk for stream in self.streams for chunk in self._full(stream)]
        return sum(chunk.records.nbytes for chunk in full if chunk.path is None)

    def episode(self, k: int) -> Segment:
        """The k-th finished episode, streams one after another."""
        for env, stream in enumerate(self.streams):
            if k < len(stream.finished):
                return Segment(env, *stream.finished[k])
            k -= len(stream.finished)
        raise IndexError(f"episode {k} beyond the last of {self.episodes}")

    def take_fresh(self, length: int) -> Segment | None:
        """The oldest `length` transitions of a stream that this has not given before, or None."""
        # transitions may have been dropped before they were asked for
        starts = [(max(s.fresh, s.first), env) for env, s in enumerate(self.streams)]
        whole = [(k, env) for k, env in starts if self.streams[env].count - k >= length]
        if not whole:
            return None
        start, env = min(whole)
        self.streams[env].fresh = start + length
        return Segment(env, start, length)

    def require_space(
        self, more: int, kept: int = 0, *, checkpoints: int = 0, beside: int = 0
    ) -> str:
        """Check before a run that what it will hold fits on the disk and into memory.

        Args:
            more: transitions to come.
            kept: how many checkpoints may hold on to after they were dropped here.
            checkpoints: how many may stand at once, each with the columns that change in place.
            beside: bytes that the run's other files will take, less those that they took already.

        Returns:
            What will be held, in transitions and bytes, and what could not be checked.

        Raises:
            ReplayError: saying how many bytes are needed and free.
        """
        held, capacity = len(self), self.capacity * len(self.streams)
        count, size = min(held + more, capacity), self.dtype.itemsize
        dropped = min(held + more - count, kept)
        # bytes of a transition's columns in memory
        mutable = sum(np.dtype(c.dtype).itemsize * prod(c.shape) for c in self.mutable.values())
        need = (max(count - held, 0) + dropped) * size
        in_checkpoints = checkpoints * count * mutable + beside
        free = shutil.disk_usage(self.folder).free
        if need + in_checkpoints > free:
            more_said = f" and {in_checkpoints / 1e9:.1f} GB for checkpoints" if checkpoints else ""
            raise ReplayError(
                f"replay needs {need / 1e9:.1f} GB in {self.folder} for {count:,} transitions "
                f"of {size:,} bytes{more_said}, but {free / 1e9:.1f} GB are free; "
                "set replay_rows lower, or put the run on a larger disk"
            )
        memory = _memory()
        if memory is not None and count * mutable > memory:
            raise ReplayError(
                f"replay keeps {', '.join(self.mutable)} in memory: {count * mutable / 1e9:.1f} GB "
                f"for {count:,} transitions of {mutable:,} bytes, but this machine has "
                f"{memory / 1e9:.1f} GB; set replay_rows lower, or a smaller model"
            )
        held_said = f"up to {count:,} transitions of {size:,} bytes, {_size(count * size)}"
        if memory is None and mutable:
            beside_it = _size(count * mutable)
            held_said += f", and {beside_it} in memory, which this system says nothing of"
        return held_said

    def add(self, env: int, transition: Mapping[str, np.ndarray]) -> None:
        """Append one transition to a stream; its columns are exactly the schema's."""
        stream = self.streams[env]
        position = (stream.count - stream.first) % self.chunk_size
        if position == 0:
            stream.chunks.append(self._open_chunk())
        chunk = stream.chunks[-1]
        for name in self.dtype.names or ():
            chunk.records[name][position] = transition[name]
        for name in self.mutable:
            chunk.mutable[name][position] = transition[name]
        if transition["is_first"]:
            stream.open_start = stream.count
        stream.count += 1
        if transition["is_last"]:
            self._finish(stream)
        if position == self.chunk_size - 1:
            self._seal(env)
            self._evict(stream)

    def write_late(self, env: int, back: int, values: Mapping[str, np.ndarray | float]) -> None:
        """Write mutable columns of the transition `back` before the newest, if it is still held."""
        stream = self.streams[env]
        number = stream.count - 1 - back
        if number >= stream.first:
            chunk, position = self._locate(stream, number)
            for name, value in values.items():
                chunk.mutable[name][position] = value

    def end(self, env: int) -> None:
        """Make the newest transition of a stream the last of its episode: what came next is lost.

        Its action led nowhere that is known, so it is zeroed like that of any last one. A chunk
        file is replaced, never written into: a checkpoint may hold it too.
        """
        stream = self.streams[env]
        chunk, position = self._locate(stream, stream.count - 1)
        records = chunk.all_records
        assert not records["is_last"][position], f"environment {env} has no open episode"
        records["is_last"][position], records["action"][position] = True, 0
        if chunk.path is not None:
            chunk.path.unlink()
            chunk.path, chunk.records = None, records
            self._seal(env)
        self._finish(stream)

    def sample(
        self, sampler: Sampler, batch: int, length: int, rng: np.random.Generator
    ) -> tuple[Batch, list[SequenceIndex]]:
        """Draw a batch of windows.

        Args:
            sampler: the agent's rule.
            batch: B, number of windows.
            length: T, transitions in each.
            rng: where the draws come from.

        Returns:
            Columns (B, T, ...) as tensors, `prev_action` included, and the windows they came from.

        Raises:
            ReplayError: if no window can be drawn yet.
        """
        drawn = self.draw(sampler, batch, length, rng)
        return self.read(drawn) | self.read_mutable(drawn), drawn

    def draw(
        self, sampler: Sampler, batch: int, length: int, rng: np.random.Generator
    ) -> list[SequenceIndex]:
        """The windows of a batch, not read yet; arguments and errors are those of `sample`.

        What the online queue hands out is gone from it; `rewind` puts it back.
        """
        if not sampler.ready(self, length):
            raise ReplayError(
                f"no window of {length} transitions can be drawn from {len(self)} transitions in "
                f"{self.episodes} finished episodes; collect more before updating"
            )
        return [sampler.draw(self, length, rng) for _ in range(batch)]

    def read(self, drawn: Sequence[SequenceIndex], *, pin: bool = False) -> Batch:
        """The columns (B, T, ...) that never change, of drawn windows; `prev_action` included.

        Safe in another thread as long as no transition is added or dropped.

        Args:
            drawn: windows of one length.
            pin: into page-locked memory, from which a GPU copies by itself.
        """
        length = sum(segment.length for segment in drawn[0])
        lead = len(drawn), length
        tensors = {name: self._empty(name, lead, pin=pin) for name in self.dtype.names or ()}
        out = {name: tensor.numpy() for name, tensor in tensors.items()}
        before = np.zeros((lead[0], 1, *out["action"].shape[2:]), np.float32)
        scratch = np.empty(length, self.dtype)
        for b, window in enumerate(drawn):
            before[b, 0] = self._action_before(window[0], scratch)
            self._read(window, {name: column[b] for name, column in out.items()}, scratch)
        # THE shift: what replay stores as chosen after o_t becomes what led to o_{t+1}
        shifted = np.concatenate([before, out["action"][:, :-1]], axis=1)
        tensors["prev_action"] = self._empty("action", lead, pin=pin)
        np.copyto(tensors["prev_action"].numpy(), np.where(out["is_first"][..., None], 0, shifted))
        return tensors

    def read_mutable(self, drawn: Sequence[SequenceIndex], *, pin: bool = False) -> Batch:
        """The columns (B, T, ...) that change in place, of drawn windows, as they are now."""
        length = sum(segment.length for segment in drawn[0])
        tensors = {name: self._empty(name, (len(drawn), length), pin=pin) for name in self.mutable}
        for b, window in enumerate(drawn):
            t = 0
            for env, start, span in window:
                for chunk, inside, at in self._pieces(env, start, span):
                    for name, tensor in tensors.items():
                        tensor.numpy()[b, t + at.start : t + at.stop] = chunk.mutable[name][inside]
                t += span
        return tensors

    @property
    def handed_out(self) -> list[int]:
        """Ends of what the online queue has handed out of each stream; `rewind` goes back there."""
        return [stream.fresh for stream in self.streams]

    def rewind(self, handed_out: Sequence[int]) -> None:
        """Take back what the online queue has handed out since."""
        for stream, fresh in zip(self.streams, handed_out, strict=True):
            stream.fresh = fresh

    def write_back(
        self, windows: Sequence[SequenceIndex], columns: Mapping[str, np.ndarray]
    ) -> None:
        """Store new values (B, T, ...) of mutable columns for the last T steps of drawn windows."""
        steps = next(iter(columns.values())).shape[1]
        for b, window in enumerate(windows):
            t = steps - sum(segment.length for segment in window)  # negative before the first value
            for env, start, length in window:
                skipped = min(max(-t, 0), length)
                new = {n: c[b, t + skipped : t + length] for n, c in columns.items()}
                if skipped < length:
                    self._write(env, start + skipped, new)
                t += length

    # -- chunks ---------------------------------------------------------------------------------

    def _folder(self, env: int) -> Path:
        return self.folder / f"env{env:02d}"

    def _open_chunk(self) -> Chunk:
        return Chunk(np.zeros(self.chunk_size, self.dtype), self._mutable_columns())

    def _mutable_columns(self) -> dict[str, np.ndarray]:
        return {n: np.zeros((self.chunk_size, *c.shape), c.dtype) for n, c in self.mutable.items()}

    def _full(self, stream: Stream) -> list[Chunk]:
        return list(stream.chunks)[: stream.length // self.chunk_size]

    def _name(self, stream: Stream, index: int) -> str:
        return f"{stream.first // self.chunk_size + index:08d}.rows"

    def _seal(self, env: int) -> None:
        """Write full chunks to their files; those for which there is no room stay in memory.

        Raises:
            ReplayError: if more of them wait than memory should hold.
        """
        stream = self.streams[env]
        for index, chunk in enumerate(self._full(stream)):
            if chunk.path is not None:
                continue
            path = self._folder(env) / self._name(stream, index)
            try:
                chunk.checksum = write_durably(path, chunk.records.tobytes())
            except OSError as error:
                with suppress(OSError):  # what there is of it only takes room
                    path.unlink()
                if self.unsealed > UNSEALED_BYTES:
                    raise ReplayError(
                        f"{self.folder} cannot be written ({error.strerror}), and the "
                        f"{_size(self.unsealed)} that wait for it in memory are as much as may; "
                        "make room on the disk and go on from the last checkpoint"
                    ) from error
                return
            chunk.path, chunk.records = path, np.empty(0, self.dtype)

    def _evict(self, stream: Stream) -> None:
        while stream.length > self.capacity:
            chunk = stream.chunks.popleft()
            if chunk.path is not None:
                chunk.path.unlink()
            stream.first += self.chunk_size
        while stream.finished and stream.finished[0][0] < stream.first:
            stream.finished.popleft()

    def _finish(self, stream: Stream) -> None:
        """Count the open episode as finished, unless its beginning was dropped already."""
        if stream.open_start >= stream.first:
            stream.finished.append((stream.open_start, stream.count - stream.open_start))
        else:
            self.overlong += 1

    def _locate(self, stream: Stream, number: int) -> tuple[Chunk, int]:
        assert number >= stream.first, (number, stream.first)
        index, position = divmod(number - stream.first, self.chunk_size)
        return stream.chunks[index], position

    def _empty(self, name: str, lead: tuple[int, int], *, pin: bool) -> Tensor:
        if name in self.mutable:
            spec = self.mutable[name]
            shape, kind = spec.shape, np.dtype(spec.dtype)
        else:
            shape, kind = self.dtype[name].shape, self.dtype[name].base
        dtype = torch.from_numpy(np.empty(0, kind)).dtype
        return torch.empty((*lead, *shape), dtype=dtype, pin_memory=pin)

    def _pieces(self, env: int, start: int, length: int) -> "list[tuple[Chunk, slice, slice]]":
        """The chunks that a segment lies in: (chunk, positions in it, positions in the segment)."""
        stream, pieces, done = self.streams[env], [], 0
        while done < length:
            chunk, position = self._locate(stream, start + done)
            n = min(length - done, self.chunk_size - position)
            pieces.append((chunk, slice(position, position + n), slice(done, done + n)))
            done += n
        return pieces

    def _read(
        self, window: SequenceIndex, out: Mapping[str, np.ndarray], scratch: np.ndarray
    ) -> None:
        t = 0
        for env, start, length in window:
            for chunk, inside, at in self._pieces(env, start, length):
                to = slice(t + at.start, t + at.stop)
                records = chunk.read(inside.start, scratch[: inside.stop - inside.start])
                for name, column in out.items():
                    column[to] = records[name]
            t += length

    def _write(self, env: int, start: int, columns: Mapping[str, np.ndarray]) -> None:
        gone = max(0, self.streams[env].first - start)  # dropped since they were drawn
        length = len(next(iter(columns.values())))
        for chunk, inside, at in self._pieces(env, start + gone, length - gone):
            for name, column in columns.items():
                chunk.mutable[name][inside] = column[gone:][at]

    def _action_before(self, segment: Segment, scratch: np.ndarray) -> np.ndarray | float:
        stream = self.streams[segment.env]
        if segment.start == stream.first:
            return 0.0
        chunk, position = self._locate(stream, segment.start - 1)
        return chunk.read(position, scratch[:1])["action"][0]

    # -- checkpoints ----------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write everything held to a folder: sealed chunks as hard links, the rest as files."""
        checksums: dict[str, int] = {}  # of files beside replay.json, by name
        for env, stream in enumerate(self.streams):
            to = folder / f"env{env:02d}"
            to.mkdir(parents=True)

            def write(name: str, content: bytes | Iterable[np.ndarray], to: Path = to) -> None:
                checksums[f"{to.name}/{name}"] = write_durably(to / name, content)

            for index, chunk in enumerate(self._full(stream)):
                if chunk.path is None:
                    write(self._name(stream, index), chunk.records.tobytes())
                    continue
                link(chunk.path, to / chunk.path.name)
                if chunk.checksum is not None:
                    checksums[f"{to.name}/{chunk.path.name}"] = chunk.checksum
            rest = stream.length % self.chunk_size
            write("open.rows", stream.chunks[-1].records[:rest].tobytes() if rest else b"")
            episodes = np.array(stream.finished, np.int64).reshape(-1, 2)
            write("episodes.i64", episodes.tobytes())
            for name in self.mutable:
                write(f"{name}.column", (chunk.mutable[name] for chunk in stream.chunks))
        state = {
            "rows": np.lib.format.dtype_to_descr(self.dtype),
            "mutable": {n: [c.dtype, list(c.shape)] for n, c in self.mutable.items()},
            "chunk_rows": self.chunk_size,
            "streams": [[s.first, s.count, s.open_start, s.fresh] for s in self.streams],
            "checksums": checksums,
        }
        write_durably(folder / "replay.json", json.dumps(state, indent=1).encode())

    def restore(self, folder: Path) -> None:
        """Become what `save` wrote, with chunk files linked into this buffer's own folder.

        Raises:
            BundleError: if something else than a plain file is in a file's place.
            ReplayError: if what was saved has another layout or number of environments, or a file
                is damaged.
        """
        state = read_state(folder)
        layout = json.loads(json.dumps(np.lib.format.dtype_to_descr(self.dtype)))
        mutable = {n: [c.dtype, list(c.shape)] for n, c in self.mutable.items()}
        ours = layout, mutable, len(self.streams)
        if (state.layout, state.mutable, len(state.streams)) != ours:
            raise ReplayError(
                f"the replay in {folder} holds {len(state.streams)} stream(s) of "
                f"{state.layout} and {state.mutable}, this run has {len(self.streams)} of {layout} "
                f"and {mutable}; resume with the settings the run was started with"
            )
        if state.chunk_size > self.capacity:
            raise ReplayError(f"{folder} has chunks of {state.chunk_size:,} transitions: {DAMAGED}")
        self.chunk_size = state.chunk_size
        self.streams = [self._restored(env, folder, state) for env in range(len(self.streams))]

    def _restored(self, env: int, root: Path, state: SavedState) -> Stream:
        first, count, opened, fresh = state.streams[env]
        folder = root / f"env{env:02d}"
        stream = Stream(first=first, count=count, open_start=opened, fresh=fresh)
        whole, rest = divmod(stream.length, self.chunk_size)
        found = sorted(path.name for path in folder.glob("*.rows"))
        names = [self._name(stream, index) for index in range(min(whole, len(found)))]
        if found != [*names, "open.rows"]:
            raise ReplayError(f"{folder} lacks or adds chunks: {DAMAGED}")
        for name in names:
            checksum = state.checksum(env, name)
            check_file(folder / name, self.chunk_size * self.dtype.itemsize, checksum)
            mine, nothing = self._folder(env) / name, np.empty(0, self.dtype)
            link(folder / name, mine)
            stream.chunks.append(Chunk(nothing, self._mutable_columns(), mine, checksum))
        tail = np.empty(rest, self.dtype)
        read_column(folder / "open.rows", [tail], state.checksum(env, "open.rows"))
        if rest:
            stream.chunks.append(self._open_chunk())
            stream.chunks[-1].records[:rest] = tail
        stream.finished.extend(state.episodes(folder, env))
        for name in self.mutable:
            columns, file = [c.mutable[name] for c in stream.chunks], f"{name}.column"
            read_column(folder / file, columns, state.checksum(env, file))
        return stream


def _memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not say, as on Windows."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def record(transitions: Transitions, index: int) -> dict[str, np.ndarray]:
    """One environment's transition out of the columns of a decision."""
    return {name: column[index] for name, column in transitions.items()}
