"""Samplers: which transitions a batch is made of; an agent's rule, one a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class Segment(NamedTuple):
    """`length` consecutive transitions of the stream of `env`, from number `start` on."""

    env: int
    start: int
    length: int


# lengths add up to the batch length; a new segment begins at an is_first
SequenceIndex = list[Segment]


class StreamView(Protocol):
    """One environment's transitions, as samplers see them."""

    first: int
    count: int

    @property
    def length(self) -> int:
        """Number of transitions held."""
        ...


class Sampled(Protocol):
    """A replay buffer, as samplers see it."""

    @property
    def streams(self) -> Sequence[StreamView]:
        """One for each environment."""
        ...

    @property
    def episodes(self) -> int:
        """Finished episodes held whole, over all streams."""
        ...

    def episode(self, k: int) -> Segment:
        """The k-th finished episode, streams one after another."""
        ...

    def take_fresh(self, length: int) -> Segment | None:
        """The oldest `length` transitions of a stream that this has not given before, or None."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Rule by which an agent draws the sequences of a batch."""

    def ready(self, replay: Sampled, length: int) -> bool:
        """Whether a window of `length` transitions can be drawn."""
        ...

    def draw(self, replay: Sampled, length: int, rng: np.random.Generator) -> SequenceIndex:
        """One window whose segments add up to `length` transitions."""
        ...


@dataclass(frozen=True)
class EpisodeSampler:
    """Uniform finished episode, uniform start in it, last transition included.

    An episode shorter than the window is joined with the beginnings of further ones, each from its
    start, an is_first (the references drop short episodes, and so never learn from them).

    Args:
        prioritize_ends: draw starts up to a window's length further and move those that do not fit
            to the last that does, so that half and more of a short episode's windows end with it.

    Source: google-research/planet tools/numpy_episodes.py includes the last frame, which we follow;
    danijar/dreamer tools.py:load_episodes never samples it, and so no terminal reward or label.
    Ends danijar/dreamerv2 common/replay.py:_sample_sequence.
    """

    prioritize_ends: bool = False

    def ready(self, replay: Sampled, length: int) -> bool:
        """One finished episode suffices, since short ones are joined."""
        return replay.episodes > 0

    def draw(self, replay: Sampled, length: int, rng: np.random.Generator) -> SequenceIndex:
        """Draw an episode and a start in it, joining further episodes where it is too short."""
        env, start, held = replay.episode(int(rng.integers(replay.episodes)))
        if held >= length:
            last = held - length
            beyond = length if self.prioritize_ends else 0
            offset = min(int(rng.integers(last + 1 + beyond)), last)
            return [Segment(env, start + offset, length)]
        window = [Segment(env, start, held)]
        missing = length - held
        while missing:
            env, start, held = replay.episode(int(rng.integers(replay.episodes)))
            window.append(Segment(env, start, min(held, missing)))
            missing -= window[-1].length
        return window


@dataclass(frozen=True)
class StreamSampler:
    """Uniform start in one stream, across episodes and into the unfinished one.

    The first transition is the context: recipes that store latents start from its stored ones.
    """

    def ready(self, replay: Sampled, length: int) -> bool:
        """Whether some stream holds a whole window."""
        return any(stream.length >= length for stream in replay.streams)

    def draw(self, replay: Sampled, length: int, rng: np.random.Generator) -> SequenceIndex:
        """Draw a start uniformly over all streams."""
        starts = np.array([max(0, stream.length - length + 1) for stream in replay.streams])
        k = int(rng.integers(starts.sum()))
        env = int(np.searchsorted(np.cumsum(starts), k, side="right"))
        offset = k - int(starts[:env].sum())
        return [Segment(env, replay.streams[env].first + offset, length)]


@dataclass(frozen=True)
class OnlineSampler:
    """Transitions that were never handed out first, then as `StreamSampler`.

    Every stream is cut into windows that do not overlap; each is handed out once, the oldest first,
    as soon as it is whole. So everything is trained on soon after it was collected, whatever the
    size of the replay. How far a stream was handed out is part of the replay and saved with it.

    Source: Hafner et al. 2025 (arXiv:2301.04104v2), online queue; danijar/dreamerv3
    embodied/core/replay.py.
    """

    rest: StreamSampler = StreamSampler()

    def ready(self, replay: Sampled, length: int) -> bool:
        """Whether some stream holds a whole window."""
        return self.rest.ready(replay, length)

    def draw(self, replay: Sampled, length: int, rng: np.random.Generator) -> SequenceIndex:
        """The oldest window that was never handed out; where there is none, a uniform one."""
        fresh = replay.take_fresh(length)
        return self.rest.draw(replay, length, rng) if fresh is None else [fresh]
