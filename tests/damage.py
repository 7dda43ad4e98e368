"""Ways to damage a file, by chance: its bytes, what stands in its place, values of its JSON."""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Damage = Callable[[Path, random.Random], None]


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) or 1)])


def garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def nested(path: Path, rng: random.Random) -> None:
    path.write_text("[" * 100_000)


def places(value: object) -> Iterator[tuple[Any, Any]]:
    """Every value in parsed JSON, as its container and its key."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def swapping(values: Sequence[object]) -> Damage:
    """Another value in the place of one in a JSON file; or one that is missing."""

    def swap(path: Path, rng: random.Random) -> None:
        value = json.loads(path.read_text())
        container, key = rng.choice(list(places(value)))
        if rng.random() < 0.2:
            del container[key]
        else:
            container[key] = rng.choice(values)
        path.write_text(json.dumps(value))

    return swap
