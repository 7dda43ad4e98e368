"""Arguments and options that several commands share."""

from typing import Annotated, Literal

import typer


def steps(text: str) -> int:
    """A number of environment steps as people write it: 50000, 50_000, 5e4.

    Raises:
        typer.BadParameter: if it is not a whole number of at least 1.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number < 1 or not number.is_integer():
        raise typer.BadParameter(f"{text!r} is not a whole number of steps; write 50000 or 5e4")
    return int(number)


Bundle = Annotated[
    str, typer.Argument(help="Folder of an exported policy, or a published one: me/name@revision.")
]
Source = Annotated[
    str,
    typer.Argument(
        help="Folder of an exported policy, a published one (me/name@revision), or ws://host:port."
    ),
]
Published = Annotated[
    str, typer.Argument(help="me/name, file:DIR/name or zoo:name, perhaps with @revision.")
]
Seed = Annotated[int | None, typer.Option(help="Seed; another one is another run.")]
MaxSteps = Annotated[
    int | None,
    typer.Option(
        parser=steps, help="Decisions of an episode, or 100,000; a longer one is an error."
    ),
]
Provider = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="What ONNX Runtime runs on.")
]
Plan = Annotated[
    str | None,
    typer.Option(
        help="A planner's settings, as candidates=200,elites=20; off: its policy network alone."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Log = Annotated[
    str,
    typer.Option(
        help="Where the log goes, too: tensorboard, wandb, mlflow, trackio, several with commas, "
        "or none."
    ),
]
Offline = Annotated[
    str | None, typer.Option(help="Minari data set, id or folder, to learn from alone.")
]
