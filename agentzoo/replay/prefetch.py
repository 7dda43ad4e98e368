"""Batches from replay to the device; the next one is on its way while one is learned from.

Ahead is only what changes nothing: windows are drawn in order, by the numbers of their update, and
none is drawn ahead before all that it could hold is stored; columns that change in place are read
when the batch is used. So a run with batches read ahead is, bit for bit, the run without.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch

from agentzoo.runtime.policy.noise import derive_seed

from ..algorithm import Batch
from .buffer import ReplayBuffer, Sampler, SequenceIndex


class _Ahead(NamedTuple):
    """A batch that is being read: for which update, of which windows, and how to undo the draw."""

    update: int
    drawn: list[SequenceIndex]
    handed_out: list[int]
    read: "Future[tuple[Batch, torch.cuda.Event | None]]"


class Batches:
    """The batch of each update, from replay to the device.

    A context manager: a thread reads, and ends with it.

    Args:
        replay: the buffer.
        sampler: the agent's rule.
        batch: B, windows in a batch.
        length: T, transitions in a window.
        seed: of the run; update k draws with (seed, k).
        device: where batches go; to CUDA through page-locked memory, on a stream of their own.
    """

    def __init__(
        self,
        replay: ReplayBuffer,
        sampler: Sampler,
        batch: int,
        length: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.replay, self.sampler, self.batch, self.length = replay, sampler, batch, length
        self.seed, self.device = seed, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        self._ahead: _Ahead | None = None
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def take(self, update: int, *, more: bool = False) -> tuple[Batch, list[SequenceIndex]]:
        """The batch of an update and its windows.

        Args:
            update: its number in the run.
            more: whether the next update follows before replay gets more; its batch is begun.

        Raises:
            ReplayError: if no window can be drawn yet, or a chunk file is damaged.
        """
        ahead = self._ahead or self._begin(update)
        assert ahead.update == update, (ahead.update, update)
        batch, copied = ahead.read.result()
        self._ahead = None
        batch |= self._moved(self.replay.read_mutable(ahead.drawn, pin=self._cuda))
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for column in batch.values():
                column.record_stream(stream)
        if more:
            self._ahead = self._begin(update + 1)
        return batch, ahead.drawn

    def drop(self) -> None:
        """Forget a batch that was begun and is not wanted now, as if it had not been drawn."""
        if self._ahead is not None:
            self._ahead.read.result()
            self.replay.rewind(self._ahead.handed_out)
            self._ahead = None

    def _begin(self, update: int) -> _Ahead:
        """Draw here and now, read in the thread."""
        rng = np.random.default_rng(derive_seed(self.seed, "replay", update))
        before = self.replay.handed_out
        drawn = self.replay.draw(self.sampler, self.batch, self.length, rng)
        return _Ahead(update, drawn, before, self._thread.submit(self._read, drawn))

    def _read(self, drawn: Sequence[SequenceIndex]) -> "tuple[Batch, torch.cuda.Event | None]":
        batch = self.replay.read(drawn, pin=self._cuda)
        if self._stream is None:
            return batch, None
        with torch.cuda.stream(self._stream):
            batch, copied = self._moved(batch), torch.cuda.Event()
            copied.record(self._stream)
        return batch, copied

    def _moved(self, batch: Batch) -> Batch:
        return {n: column.to(self.device, non_blocking=True) for n, column in batch.items()}
