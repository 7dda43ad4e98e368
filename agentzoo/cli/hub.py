"""The hub's commands: push, pull, search, and `hub repair` for a folder that is one."""

from pathlib import Path
from typing import Annotated

import typer

from agentzoo.runtime.files import at_home
from agentzoo.runtime.printable import printable

from .options import Published


def push(
    bundle: Annotated[Path, typer.Argument(help="Folder of an exported and evaluated policy.")],
    repo: Annotated[
        str, typer.Argument(help="me/name; or file:DIR for a folder that is, or becomes, a hub.")
    ],
    private: Annotated[
        bool | None, typer.Option(help="Whether a new repo is private; else as your account says.")
    ] = None,
    license_id: Annotated[
        str, typer.Option("--license", help="Of the weights, as the Hub spells it.")
    ] = "mit",
    without: Annotated[
        list[str] | None,
        typer.Option(help="replay.mp4 or learning_curve.png, where there is none."),
    ] = None,
) -> None:
    """Publish a bundle with its model card, as one commit."""
    from agentzoo import hub
    from agentzoo.runtime.evaluation.results import read_results

    done = hub.push(bundle, repo, private=private, license_id=license_id, without=without or ())
    score = read_results(bundle)
    typer.echo(f"published: {done}")
    typer.echo(f"score:     mean {score.mean:.2f} over {len(score.returns)} episodes")
    typer.echo(f"check it:  agentzoo evaluate {done} --check")


def pull(
    repo: Published,
    out: Annotated[
        Path | None, typer.Argument(help="New folder to copy it to; the cache keeps it anyway.")
    ] = None,
) -> None:
    """Fetch a published bundle, check every file, and say where it is."""
    from agentzoo import hub

    typer.echo(str(hub.pull(repo, folder=out)))


def search(
    query: Annotated[str, typer.Argument(help="Part of a name, an agent or a task.")] = "",
    where: Annotated[
        str | None, typer.Option("--hub", help="file:DIR, or zoo: for what came along.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List published agents: address, mean return, agent and environment."""
    from agentzoo import hub
    from agentzoo.runtime.envs.names import EnvName

    found = hub.search(query, hub=where, limit=limit)
    if not found:
        typer.echo(f'nothing published matches "{query}"', err=True)
        raise typer.Exit(1)
    width = max(len(one.address) for one in found)
    for one in found:
        tags = " ".join(EnvName.read(tag).shell for tag in one.tags)
        line = f"{one.address:{width}}  {one.score or 'no score':20}  {tags}"
        typer.echo(printable(line))  # what its publisher says of it


def repair(
    folder: Annotated[str, typer.Argument(help="A folder that is a hub: DIR or file:DIR.")],
) -> None:
    """Make a folder hub's index true of the commits that are whole, and say what is damaged."""
    from agentzoo.hub.folder_hub import FolderHub

    root = at_home(folder.removeprefix("file:"))
    lines = FolderHub(root).repair()
    typer.echo("\n".join(map(printable, lines)) or f"{root} is whole")  # it may be a stranger's
    raise typer.Exit(1 if any(" is damaged: " in line for line in lines) else 0)
