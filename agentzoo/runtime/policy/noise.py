"""Noise with an address: the same (seed, environment, step) always gives the same numbers.

A counter-based generator (Philox 4x64, Salmon et al. 2011) is keyed by the session's seed and its
environment, and started at a counter made of the step and the tensor's position. Nothing is
consumed, so whoever else draws, in whatever order, changes nothing.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from ..spec import PLANNED, Array, Arrays, NoiseSpec, PlanSpec

MASK = (1 << 64) - 1


def generator(seed: int, env: int, step: int, tensor: int = 0) -> np.random.Generator:
    """The generator at an address; `tensor` separates the noise tensors of one step."""
    key = np.array([seed & MASK, env & MASK], np.uint64)
    # the low word counts the blocks drawn here; the higher ones are ours
    counter = np.array([0, step & MASK, tensor, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def with_plan_axes(
    specs: Mapping[str, NoiseSpec], plan: PlanSpec | None = None
) -> dict[str, NoiseSpec]:
    """The tensors one acting step draws, with their whole shapes.

    Args:
        specs: noise tensors by name; `explore` ones are left out.
        plan: gives a planner's tensors their leading axes, such as (iterations, candidates,
            horizon).
    """
    return {
        name: replace(spec, shape=(*plan.axes(spec.role), *spec.shape))
        if plan and spec.role in PLANNED
        else spec
        for name, spec in specs.items()
        if spec.role != "explore"
    }


def draw(specs: Mapping[str, NoiseSpec], address: Array | Sequence[Sequence[int]]) -> Arrays:
    """Noise for a batch.

    Args:
        specs: noise tensors by name; a tensor's position is its place in this mapping.
        address: (B, 3) integers, each element's (seed, environment, step).

    Returns:
        name -> (B, *shape) float32.
    """
    addresses = cast("list[tuple[int, int, int]]", np.asarray(address).tolist())
    noise: Arrays = {}
    for tensor, (name, spec) in enumerate(specs.items()):
        noise[name] = np.empty((len(addresses), *spec.shape), np.float32)
        for i, one in enumerate(addresses):
            _fill(_scratch.at(*one, tensor), spec, noise[name][i, ...])
    return noise


def _fill(rng: np.random.Generator, spec: NoiseSpec, out: Array) -> None:
    if spec.kind == "normal":
        rng.standard_normal(dtype=np.float32, out=out)
    else:
        rng.random(dtype=np.float32, out=out)


class _Scratch(threading.local):
    """One generator a thread, moved from address to address: eight times as fast as a new one."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.rng = np.random.Generator(self.bits)
        self.place: dict[str, tuple[int, ...]] = {}
        self.state: Any = {
            "bit_generator": "Philox",
            "state": self.place,
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,  # used up: the next number opens a fresh block
            "has_uint32": 0,
            "uinteger": 0,
        }

    def at(self, seed: int, env: int, step: int, tensor: int) -> np.random.Generator:
        """The same numbers as `generator` at that address."""
        # of plain numbers: those of an array are unpacked one by one, which takes twice as long
        self.place["counter"] = (0, step & MASK, tensor, 0)
        self.place["key"] = (seed & MASK, env & MASK)
        self.bits.state = self.state
        return self.rng


_scratch = _Scratch()


def derive_seed(*words: int | str) -> int:
    """A 63-bit seed that depends on all of the words, stable across machines and versions."""
    numbers = [
        int.from_bytes(w.encode(), "little") if isinstance(w, str) else int(w) & MASK for w in words
    ]
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
