"""Train, score, film and package the zoo's agents; what is finished is left alone.

python zoo/build.py [NAME ...] [--again | --page | --check]

Afterwards docs/zoo.md is written again, with a still of each agent's film. --check plays the scored
episodes of what stands again, and fails if a score does not come out.
"""

import argparse
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import agentzoo
from agentzoo.cli.quickstart import require_whole
from agentzoo.hub.card import write_card
from agentzoo.hub.naming import parse
from agentzoo.hub.package import CARD, VIDEO, read_package
from agentzoo.publish import package
from agentzoo.runtime import load_policy, verify
from agentzoo.runtime.envs import EnvName
from agentzoo.runtime.errors import ConfigError, nearest
from agentzoo.runtime.evaluation.reproduce import reproduce

ROOT = Path(__file__).parent
SHIPPED = ROOT.parent / "agentzoo" / "hub" / "zoo"  # what is in here is in the wheel
RUNS = ROOT.parent / "runs" / "zoo"
EPISODES = 20
PAGE = ROOT.parent / "docs" / "zoo.md"
STILLS = PAGE.with_suffix("")
SHIPPED_LIMIT, LIMIT = 2_000_000, 60_000_000  # bytes of one that ships, and of all together
STILL_S = 3.0  # seconds into the film


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
    """Folder of an agent's bundle."""
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


HEAD = """# The zoo

Made by `make zoo`. Each agent is a folder with its weights, ONNX graphs, card, learning curve,
film, and its score over {episodes} fresh episodes by ONNX Runtime, with the 95 % bootstrap
interval. {shipped} comes with the package. The others lie in `zoo/` of a checkout,
and their `zoo:` names are known where it was installed with `pip install -e`.
`zoo/recipes.toml` says how each was trained: `make zoo ARGS=NAME` does it again,
`agentzoo evaluate zoo:NAME --check` plays the scored episodes again. There are {count}.

| | name | agent | task | sees | steps | preset | score | interval |
|---|---|---|---|---|---:|---|---:|---|
"""


def standing() -> list[tuple[str, Recipe, Path]]:
    """The agents that are there, with their recipes and folders."""
    each = [(name, recipe, home(name, recipe)) for name, recipe in recipes().items()]
    return sorted(one for one in each if (one[2] / CARD).is_file())


def page() -> str:
    """docs/zoo.md: what stands in the zoo, as a table with pictures."""
    found = standing()
    rows = [line(*one) for one in found]
    shipped = ", ".join(f"`zoo:{name}`" for name, recipe, _ in found if recipe.ships)
    head = HEAD.format(episodes=EPISODES, shipped=shipped, count=len(found))
    return head + "\n".join(rows) + "\n"


def line(name: str, recipe: Recipe, folder: Path) -> str:
    """One row of the page."""
    results = read_package(folder).results
    env = EnvName.read(recipe.env)
    # only dm_control's and Gymnasium's tasks are learned from state, some by a key of theirs
    images = env.suite != "gym" and "obs=state" not in env.pairs
    fields = "".join(f", `{key}={value}`" for key, value in recipe.set.items())
    low, high = results.interval
    cells = [f"![{name}](zoo/{name}.png)", f"`zoo:{name}`", recipe.agent, f"`{env.head}`"]
    cells += ["images" if images else "state", f"{recipe.steps:,}", f"`{recipe.preset}`{fields}"]
    cells += [f"{results.mean:.1f}", f"{low:.1f} to {high:.1f}"]
    return f"| {' | '.join(cells)} |"


def draw_still(name: str, folder: Path) -> None:
    """A picture from the agent's film, at most 96 pixels wide."""
    import numpy as np
    from imageio_ffmpeg import read_frames
    from matplotlib.image import imsave

    frames = read_frames(str(folder / VIDEO))
    about = next(frames)
    width, height = about["size"]
    at = int(min(STILL_S, about["duration"] / 2) * about["fps"])
    frame = next(islice(frames, at, None))
    frames.close()
    thin = -(-width // 96)
    picture = np.frombuffer(frame, np.uint8).reshape(height, width, 3)[::thin, ::thin]
    STILLS.mkdir(exist_ok=True)
    imsave(STILLS / f"{name}.png", np.ascontiguousarray(picture))


def write_page() -> None:
    """Write docs/zoo.md, and the stills that it lacks."""
    for name, _, folder in standing():
        if not (STILLS / f"{name}.png").is_file():
            draw_still(name, folder)
    PAGE.write_text(page(), encoding="utf-8")


def main() -> None:
    """Build what was named, or all that is missing, then look at the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="entries of recipes.toml; none is all")
    parser.add_argument("--again", action="store_true", help="package those that stand, too")
    parser.add_argument("--check", action="store_true", help="only play the scored episodes again")
    parser.add_argument("--page", action="store_true", help="only write docs/zoo.md again")
    asked = parser.parse_args()
    known = recipes()
    for name in asked.names:
        if name not in known:
            raise ConfigError(f'recipes.toml has no "{name}"; {nearest(name, known)}')
    if asked.check:
        raise SystemExit(check(asked.names))
    for name in [] if asked.page else asked.names or known:
        out = home(name, known[name])
        if asked.again or not (out / CARD).is_file():
            build(name, known[name], out, RUNS / name)
            draw_still(name, out)
    check_sizes()
    write_page()


def check(names: Collection[str]) -> int:
    """Play the scored episodes of these agents, or of all, again; 1 if a score does not agree."""
    code = 0
    for name, _, folder in standing():
        if names and name not in names:
            continue
        again = reproduce(load_policy(folder), read_package(folder).results)
        print(f"{name}\n{again}", flush=True)
        code = code if again.agrees else 1
    return code


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
