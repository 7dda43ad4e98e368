"""A lab's commands: plot, sweep, and `data`, Minari data sets."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from agentzoo.runtime.printable import printable

from .learn import KNOWN, agent_class, settings_of
from .options import Seed
from .plot import named_paths, scales_of

data = typer.Typer(name="data", help="Minari data sets: replay out and in.", no_args_is_help=True)


def plot(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Runs, results.json files, or folders that hold some; NAME=PATH names an agent."
        ),
    ],
    out: Annotated[Path, typer.Option(help="PNG to draw.")] = Path("plot.png"),
    metric: Annotated[
        str, typer.Option(help="evaluation, collection, or a metric's name; chosen where left out.")
    ] = "",
    scale: Annotated[
        list[str] | None,
        typer.Option(help="TASK=LOW,HIGH: returns that count as 0 and 1; may be given many times."),
    ] = None,
    title: Annotated[str, typer.Option(help="Above the picture.")] = "",
) -> None:
    """Draw runs with bands over their seeds, and put scores beside each other.

    Several agents have colours of their own, several tasks a panel each. Where two agents have
    scores there are the IQM, performance profiles and probabilities of improvement, too.
    """
    from ..train.board import board_table, read_board
    from ..train.board_plot import board_plot

    board = read_board(named_paths(sources), scales_of(scale or []))
    typer.echo(board_table(board))
    typer.echo(f"\nplot: {board_plot(board, out, metric=metric, title=title)}")


def sweep(
    file: Annotated[Path, typer.Argument(help="TOML: agent, tasks, seeds, a grid or a search.")],
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time, in the file's place.")
    ] = None,
    runner: Annotated[
        Literal["processes", "ray"] | None, typer.Option(help="In the file's place.")
    ] = None,
) -> None:
    """Run many settings and seeds by one file; a sweep that was killed goes on where it was.

    Finished runs are kept, others go on from their checkpoints. At the end there are one table and
    one picture in the sweep's folder.
    """
    from ..sweep.drive import conclusion, read_plan
    from ..sweep.drive import sweep as drive

    plan = read_plan(file)
    plan = replace(plan, parallel=parallel or plan.parallel, runner=runner or plan.runner)
    try:
        over = drive(plan, typer.echo)
    except KeyboardInterrupt:
        typer.echo("stopped; to go on: the same command", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"\n{conclusion(plan.folder)}")
    failed = [end for end in over if end.error]
    if failed:
        typer.echo(f"{len(failed)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)


@data.command("export")
def export_data(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    dataset: Annotated[
        str, typer.Argument(help="New data set: an id such as walker/mine-v0, or ./folder.")
    ],
) -> None:
    """Write a run's finished episodes as a Minari data set."""
    from .. import load
    from ..train.datasets import export_dataset

    made = export_dataset(load(run, device="cpu"), dataset)
    typer.echo(f"data set: {made.id}, {made.folder}")
    typer.echo(f"          {made.episodes:,} episodes, {made.transitions:,} transitions")
    typer.echo(f"next:     agentzoo learn AGENT {spelled(made.env) or 'ENV'} --offline {dataset}")


@data.command("import")
def import_data(
    dataset: Annotated[str, typer.Argument(help="Data set, by id or folder (./mine).")],
    run: Annotated[Path, typer.Argument(help="New run's folder.")],
    agent: Annotated[str, typer.Option(help=f"Which agent: {KNOWN}.")],
    env: Annotated[
        str | None, typer.Option(help="Environment; the one that the data set names, else.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings, such as cpu.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value; may be given many times.")
    ] = None,
    seed: Seed = None,
) -> None:
    """Begin a run whose replay holds a data set's episodes; learn goes on from it."""
    from ..train.datasets import import_dataset

    kind = agent_class(agent)
    overrides = settings_of(kind, settings or [])
    learner = kind(env, preset=preset, device="auto", seed=seed, **overrides)
    import_dataset(learner, dataset, run)
    typer.echo(f"run:  {run}")
    typer.echo(f"next: agentzoo learn {agent} '{learner.env}' --from {run}")


@data.command("show")
def show_data(
    dataset: Annotated[str, typer.Argument(help="Data set, by id or folder (./mine).")],
) -> None:
    """Say what a data set holds, and how agents read it."""
    from agentzoo.runtime.policy.spaces import describe_spaces

    from ..replay.datasets import open_dataset

    found = open_dataset(dataset)
    typer.echo(printable(f"{found.id}, {found.folder}"))
    typer.echo(f"{found.episodes:,} episodes, {found.transitions:,} transitions")
    typer.echo(f"environment: {printable(spelled(found.env)) or 'not named'}")
    typer.echo(printable(f"reads {describe_spaces(*found.specs)}"))


def spelled(env: str | None) -> str:
    """An environment string as shells take it; "" where a data set names none."""
    from agentzoo.runtime.envs import EnvName

    return EnvName.read(env).shell if env else ""
