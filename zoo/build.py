"""Train, score, film and package the zoo's agents; what is finished is left alone.

python zoo/build.py [NAME ...] [--again]
"""

import argparse
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import agentzoo
from agentzoo.publishing import package
from agentzoo.quickstart import require_whole
from hub.card import write_card
from hub.naming import parse
from hub.package import CARD, read_package
from runtime import verify
from runtime.errors import ConfigError, nearest

ROOT = Path(__file__).parent
SHIPPED = ROOT.parent / "hub" / "zoo"  # what is in here is in the wheel
RUNS = ROOT.parent / "runs" / "zoo"
EPISODES = 20
SHIPPED_LIMIT, LIMIT = 2_000_000, 20_000_000  # bytes of one that ships, and of all together


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An entry of recipes.toml.

    Attributes:
        agent: class name.
        env: environment string.
        preset: named settings.
        steps: environment steps, repeat included.
        seed: of the run.
        ships: whether it goes into the wheel.
        set: fields beside the preset's.
    """

    agent: str
    env: str
    preset: str
    steps: int
    seed: int
    ships: bool = False
    set: Mapping[str, object] = field(default_factory=dict[str, object])


def recipes() -> dict[str, Recipe]:
    """Name -> recipe, as in recipes.toml."""
    entries = tomllib.loads((ROOT / "recipes.toml").read_text(encoding="utf-8"))
    return {name: Recipe(**entry) for name, entry in entries.items()}


def home(name: str, recipe: Recipe) -> Path:
    """Where an agent's bundle belongs."""
    return (SHIPPED if recipe.ships else ROOT) / name


def build(
    name: str,
    recipe: Recipe,
    out: Path,
    run: Path,
    *,
    episodes: int = EPISODES,
    without: Collection[str] = (),
) -> None:
    """Train in the run's folder, going on if it was stopped, and leave a whole bundle.

    Raises:
        RunError: if the run was stopped before its end.
    """
    kind = getattr(agentzoo, recipe.agent)
    agent = kind(
        recipe.env, preset=recipe.preset, device="cpu", seed=recipe.seed, **dict(recipe.set)
    )
    agent.learn(recipe.steps, run=run)
    require_whole(run, recipe.steps)
    found = package(agentzoo.load(run, device="cpu"), out, episodes=episodes, without=without)
    write_card(read_package(out, without), parse(f"zoo:{name}"), "mit")
    print(verify(out))
    low, high = found.interval
    print(
        f"{name}: mean {found.mean:.1f}, 95 % interval {low:.1f} to {high:.1f}, {size(out):,} bytes"
    )


def size(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Build what was named, or all that is missing, then look at the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="entries of recipes.toml; none is all")
    parser.add_argument("--again", action="store_true", help="package those that stand, too")
    asked = parser.parse_args()
    known = recipes()
    for name in asked.names or known:
        if name not in known:
            raise ConfigError(f'recipes.toml has no "{name}"; {nearest(name, known)}')
        out = home(name, known[name])
        if asked.again or not (out / CARD).is_file():
            build(name, known[name], out, RUNS / name)
    check_sizes()


def check_sizes() -> None:
    """Refuse a zoo that has grown too large.

    Raises:
        ConfigError: naming the folder and its size.
    """
    for name, recipe in recipes().items():
        if recipe.ships and size(home(name, recipe)) > SHIPPED_LIMIT:
            raise ConfigError(
                f"{home(name, recipe)} has {size(home(name, recipe)):,} bytes, and what ships may "
                f"have {SHIPPED_LIMIT:,}; make its networks or its film smaller"
            )
    if (found := size(ROOT) + size(SHIPPED)) > LIMIT:
        raise ConfigError(f"the zoo has {found:,} bytes, expected at most {LIMIT:,}")


if __name__ == "__main__":
    main()
