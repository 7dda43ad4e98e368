"""Arguments of `agentzoo plot`."""

import math
from collections.abc import Sequence
from pathlib import Path

from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.files import at_home


def named_paths(sources: Sequence[str]) -> list[tuple[str, Path]]:
    """`NAME=PATH` as both; a path alone has the name "".

    Raises:
        ConfigError: if there is nothing at a path.
    """
    found: list[tuple[str, Path]] = []
    for given in sources:
        name, mark, path = given.partition("=")
        alone = not mark or "/" in name or Path(given).exists()
        place = at_home(given if alone else path)
        if not place.exists():
            raise ConfigError(f"there is nothing at {place}; name runs or results that are there")
        found.append(("" if alone else name, place))
    return found


def scales_of(scales: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`TASK=LOW,HIGH` by task.

    Raises:
        ConfigError: if it is not written so, or LOW is not below HIGH.
    """
    found: dict[str, tuple[float, float]] = {}
    for given in scales:
        task, mark, ends = given.rpartition("=")
        try:
            low, high = (float(end) for end in ends.split(","))
        except ValueError:
            low, high = math.nan, math.nan
        if not mark or not -math.inf < low < high < math.inf:
            raise ConfigError(
                f'--scale "{given}" is no TASK=LOW,HIGH; write gym:CartPole-v1=0,500, with the '
                "returns that count as 0 and 1"
            )
        found[task] = (low, high)
    return found
