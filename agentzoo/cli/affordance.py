"""`agentzoo affordance collect|label|train`: from frames to a network that makes maps."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from agentzoo.runtime.errors import ConfigError

app = typer.Typer(
    name="affordance", help="Make the network that maps a goal in a frame.", no_args_is_help=True
)

Goal = Annotated[str, typer.Option(help='What is to be reached, as "Cut a tree".')]


@app.command()
def collect(
    env: Annotated[str, typer.Argument(help="Environment with frames, as vizdoom:harvest-tree.")],
    out: Annotated[Path, typer.Argument(help="New folder for the frames.")],
    images: Annotated[int, typer.Option(min=1, help="How many frames to keep.")] = 2_000,
    every: Annotated[int, typer.Option(min=1, help="Decisions from one to the next.")] = 10,
    seed: Annotated[int, typer.Option(help="Of episodes and actions.")] = 0,
    goal: Goal = "",
) -> None:
    """Play at random and keep frames, with the environment's own maps where it has them."""
    from ..affordance import dataset

    found = dataset.collect(env, images=images, every=every, seed=seed, goal=goal)
    found.save(out)
    maps = "with maps" if found.maps is not None else "without maps"
    typer.echo(f"frames: {out}, {len(found.images)} {maps}")
    step = "train" if found.maps is not None and found.goal else "label"
    typer.echo(f"next:   agentzoo affordance {step} {out}")


@app.command()
def label(
    folder: Annotated[Path, typer.Argument(help="Folder of frames.")],
    goal: Goal = "",
    scorer: Annotated[
        Literal["mineclip", "clip"], typer.Option(help="What scores the zooms.")
    ] = "mineclip",
    weights: Annotated[
        Path | None, typer.Option(help="MineCLIP's checkpoint, or the folder of a CLIP.")
    ] = None,
    sha256: Annotated[str, typer.Option(help="Of MineCLIP's checkpoint, to be checked.")] = "",
    words: Annotated[
        Path | None, typer.Option(help="For MineCLIP: a folder with vocab.json and merges.txt.")
    ] = None,
    slope: Annotated[float | None, typer.Option(help="From a logit to a score.")] = None,
    centre: Annotated[float | None, typer.Option(help="The logit that counts one half.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Make maps of the frames by sliding zoom: 1,296 crops of each, scored as 81 videos."""
    from tqdm import tqdm

    from ..affordance import dataset
    from ..affordance.sliding import SlidingZoom
    from ..affordance.source import require_goal

    frames = dataset.Frames.load(folder)
    wanted = require_goal(goal or frames.goal)
    source = SlidingZoom(scorer_of(scorer, weights, sha256, words, slope, centre, device))
    with tqdm(total=len(frames.images), unit="frame") as bar:
        dataset.label(frames, source, wanted, lambda _: bar.update()).save(folder)
    typer.echo(f"labelled: {folder}, {len(frames.images)} frames")
    typer.echo(f"next:     agentzoo affordance train {folder} --out NETWORK")


@app.command()
def train(
    folders: Annotated[list[Path], typer.Argument(help="Folders of labelled frames.")],
    out: Annotated[Path, typer.Option(help="New folder for the network.")] = Path("map_network"),
    test: Annotated[
        Path | None, typer.Option(help="Labelled frames of places that were not learned from.")
    ] = None,
    size: Annotated[str, typer.Option(help="Of its pictures, as 64x64.")] = "64x64",
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.")] = 1_500,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
) -> None:
    """Learn a network of the frames' maps, and say how well it does on others."""
    from tqdm import tqdm

    from ..affordance import dataset

    sets = [dataset.Frames.load(folder) for folder in folders]
    unseen = None if test is None else dataset.Frames.load(test)
    if unseen is not None:  # said before minutes of learning, not after
        unseen.labelled()
        if unseen.goal.strip() not in (goals := {each.goal.strip() for each in sets}):
            raise ConfigError(
                f"the frames in {test} are of the goal {unseen.goal!r}, expected one of "
                f"{', '.join(map(repr, sorted(goals)))}, which is learned"
            )
    with tqdm(total=steps, unit="step") as bar:
        model = dataset.train(
            sets,
            size=size_of(size),
            steps=steps,
            seed=seed,
            told=lambda _, loss: (bar.set_postfix(loss=f"{loss:.4f}", refresh=False), bar.update()),
        )
    found = {} if unseen is None else dataset.measured(model, unseen)
    model.save(out, **found)
    count = sum(each.numel() for each in model.network.parameters())
    typer.echo(f"network: {out}, {count:,} parameters, goals: {', '.join(model.goals)}")
    if found:
        typer.echo(f"unseen:  IoU {found['iou']:.2f}, mass {found['mass']:.2f} of the labels'")
    typer.echo(f"next:    agentzoo learn lsimagine ENV --set map_network={out}")


def size_of(text: str) -> tuple[int, int]:
    """Height and width, as 64x64.

    Raises:
        ConfigError: if it is no such text.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--size {text} is no size; write height and width, as 64x64")
    return int(height), int(width)


def scorer_of(
    kind: str,
    weights: Path | None,
    sha256: str,
    words: Path | None,
    slope: float | None,
    centre: float | None,
    device: str,
):
    """The scorer that a command line names.

    Raises:
        ConfigError: if something that it needs was not given.
    """
    if kind == "clip":
        from ..affordance.clip_folder import ClipFolderScorer

        if weights is None or slope is None or centre is None:
            raise ConfigError(
                "--scorer clip needs --weights FOLDER, --slope and --centre; a CLIP's logits have "
                "no scale of their own: take 2 over the interquartile range of the logits on "
                "random play, and their 65th percentile"
            )
        return ClipFolderScorer(weights, slope=slope, centre=centre, device=device)
    from ..affordance.mineclip import CENTRE, SLOPE, WHERE
    from ..affordance.scorers import read_scorer

    if weights is None:
        raise ConfigError(f"--scorer mineclip needs --weights; {WHERE}")
    return read_scorer(
        weights,
        sha256=sha256,
        words=words or "",
        slope=SLOPE if slope is None else slope,
        centre=CENTRE if centre is None else centre,
        device=device,
    )


@app.command()
def film(
    source: Annotated[str, typer.Argument(help="A run's folder, or a saved LSImagine's.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("film"),
    seed: Annotated[int, typer.Option(help="Of the episode and of imagination.")] = 0,
    rollouts: Annotated[int, typer.Option(min=1, help="Imagined ones to show.")] = 4,
    force: Annotated[
        bool, typer.Option("--force", help="Begin each with a jump, likely or not.")
    ] = False,
) -> None:
    """Film an episode with map, zoom and jump marked, and draw what the agent imagines in it."""
    from .. import LSImagine, load
    from ..affordance import film as films

    agent = load(source, device="cpu")
    if not isinstance(agent, LSImagine):
        raise ConfigError(f"{source} holds a {type(agent).__name__}, and only LSImagine zooms")
    films.algorithm_of(agent)
    out.mkdir(parents=True, exist_ok=True)
    env = agent.open_environment()
    try:
        moments = films.play(agent, env, seed=seed)
    finally:
        env.close()
    zoomed = sum(one.seen.zoomed is not None for one in moments)
    found = films.imagine_rollouts(agent, moments, count=rollouts, seed=seed, force=force)
    typer.echo(f"film:     {films.episode_film(moments, out / 'episode.mp4')}")
    typer.echo(f"episode:  {films.episode_sheet(moments, out / 'episode.png')}")
    typer.echo(f"imagined: {films.draw_rollouts(found, out / 'imagined.png')}")
    typer.echo(
        f"{len(moments)} decisions, {zoomed} zoomed; of {found.jumped.size} imagined moves "
        f"{found.jumped.sum():.0f} were jumps"
    )
